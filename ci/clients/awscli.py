"""awscli, as of PyPI: the plain verbs of `aws s3api`, and `aws s3 cp` with its multipart."""

import json
import os

from report import BIN, ENDPOINT, FILES, LARGE, LARGEST, MIDDLE, bytes_of, compare_files, fetch, md5_of, must, run, run_and_compare, size_name, step

BUCKET = "awscli-bucket"
AWS = (os.path.join(BIN, "aws"), "--endpoint-url", ENDPOINT)

# One try, and parts of at least 16 MiB, so that the largest file stays below 10,000 of them.
with open(os.environ["AWS_CONFIG_FILE"], "w") as config:
    config.write("[default]\nmax_attempts = 1\nregion = us-east-1\ns3 =\n  addressing_style = path\n  multipart_chunksize = 16MB\n")


def api(verb, *arguments):
    text = run(*AWS, "s3api", verb, "--output", "json", *arguments)
    return json.loads(text) if text.strip() else {}


def key_of(file):
    return f"put/{os.path.getsize(file)}"


def create():
    run(*AWS, "s3", "mb", f"s3://{BUCKET}")
    api("head-bucket", "--bucket", BUCKET)
    names = [bucket["Name"] for bucket in api("list-buckets")["Buckets"]]
    must(BUCKET in names, f"not among {names}")
    api("get-bucket-location", "--bucket", BUCKET)


def put(file):
    reply = api("put-object", "--bucket", BUCKET, "--key", key_of(file), "--body", file)
    must(reply["ETag"].strip('"') == md5_of(file), f"ETag {reply['ETag']} is not the MD5")


def get(file):
    run_and_compare(file, *AWS, "s3", "cp", "--quiet", f"s3://{BUCKET}/{key_of(file)}", "-")


def head(file):
    reply = api("head-object", "--bucket", BUCKET, "--key", key_of(file))
    must(reply["ContentLength"] == os.path.getsize(file), f"length {reply['ContentLength']}")


def ranges(file):
    api("get-object", "--bucket", BUCKET, "--key", key_of(file), "--range", "bytes=1000-70000", "range.bin")
    must(bytes_of("range.bin") == bytes_of(file)[1000:70001], "wrong bytes")


def multipart(file):
    url = f"s3://{BUCKET}/multipart/{os.path.getsize(file)}"
    run(*AWS, "s3", "cp", "--quiet", file, url)
    run(*AWS, "s3", "cp", "--quiet", url, "download.bin")
    compare_files(file, "download.bin")
    os.remove("download.bin")


def listing():
    text = run(*AWS, "s3", "ls", "--recursive", f"s3://{BUCKET}/put/")
    must(len(text.splitlines()) == len(FILES), f"{len(text.splitlines())} rows of {len(FILES)}")
    rows = api("list-objects", "--bucket", BUCKET, "--prefix", "put/", "--page-size", "2")["Contents"]
    must(sorted(row["Size"] for row in rows) == sorted(os.path.getsize(file) for file in FILES), "wrong sizes")
    must("PRE put/" in run(*AWS, "s3", "ls", f"s3://{BUCKET}"), "no folder put/")


def copy(file):
    # The larger one is copied in parts.
    run(*AWS, "s3", "cp", "--quiet", f"s3://{BUCKET}/{key_of(file)}", f"s3://{BUCKET}/copy of ü")
    run_and_compare(file, *AWS, "s3", "cp", "--quiet", f"s3://{BUCKET}/copy of ü", "-")


def presign():
    url = run(*AWS, "s3", "presign", f"s3://{BUCKET}/{key_of(MIDDLE)}", "--expires-in", "300").strip()
    must(fetch(url) == bytes_of(MIDDLE), "wrong bytes by URL")


def sync():
    os.makedirs("folder/inner", exist_ok=True)
    for name in ("a", "inner/b", "inner/c d"):
        with open(f"folder/{name}", "w") as file:
            file.write(name)
    run(*AWS, "s3", "sync", "--quiet", "folder", f"s3://{BUCKET}/sync")
    run(*AWS, "s3", "sync", "--quiet", f"s3://{BUCKET}/sync", "back")
    must(bytes_of("back/inner/c d") == b"inner/c d", "wrong bytes")
    again = run(*AWS, "s3", "sync", "folder", f"s3://{BUCKET}/sync")
    must(not again.strip(), f"a second sync copies again: {again}")


def versions():
    bucket, key = f"{BUCKET}-versions", "a key"
    of = ("--bucket", bucket)
    api("create-bucket", *of)
    api("put-bucket-versioning", *of, "--versioning-configuration", "Status=Enabled")
    must(api("get-bucket-versioning", *of)["Status"] == "Enabled", "versioning is not enabled")
    ids = []
    for text in ("one", "two"):
        with open("version", "w") as file:
            file.write(text)
        ids.append(api("put-object", *of, "--key", key, "--body", "version")["VersionId"])
    for version, text in zip(ids, ("one", "two")):
        api("get-object", *of, "--key", key, "--version-id", version, "got")
        must(bytes_of("got") == text.encode(), f"version {version} has wrong bytes")
    marker = api("delete-object", *of, "--key", key)
    page = api("list-object-versions", *of)
    must([row["VersionId"] for row in page["Versions"]] == ids[::-1], f"listed are {page['Versions']}")
    must([row["VersionId"] for row in page["DeleteMarkers"]] == [marker["VersionId"]], "the marker is not listed")
    # Without its marker the object is back.
    api("delete-object", *of, "--key", key, "--version-id", marker["VersionId"])
    must(api("head-object", *of, "--key", key)["VersionId"] == ids[1], "the newest version is not current")
    for version in ids:
        api("delete-object", *of, "--key", key, "--version-id", version)
    api("delete-bucket", *of)


def delete():
    api("delete-object", "--bucket", BUCKET, "--key", key_of(MIDDLE))
    keys = [row["Key"] for row in api("list-objects-v2", "--bucket", BUCKET)["Contents"]]
    must(key_of(MIDDLE) not in keys, "a deleted key is still listed")
    run(*AWS, "s3", "rm", "--quiet", "--recursive", f"s3://{BUCKET}")
    run(*AWS, "s3", "rb", f"s3://{BUCKET}")
    must(BUCKET not in [bucket["Name"] for bucket in api("list-buckets")["Buckets"]], "the bucket is still there")


step("create", create)
for file in FILES:
    if step(f"put {size_name(file)}", put, file):
        step(f"get {size_name(file)}", get, file)
        step(f"head {size_name(file)}", head, file)
step(f"range {size_name(MIDDLE)}", ranges, MIDDLE)
step(f"multipart {size_name(LARGEST)}", multipart, LARGEST)
step("list", listing)
for file in (MIDDLE, LARGE):
    step(f"copy {size_name(file)}", copy, file)
step("presign", presign)
step("sync", sync)
step("versions", versions)
step("delete", delete)
