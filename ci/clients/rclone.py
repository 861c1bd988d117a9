"""rclone, as of Debian."""

import json
import os

from report import ENDPOINT, FILES, LARGE, LARGEST, MIDDLE, bytes_of, fetch, must, run, run_and_compare, size_name, step

BUCKET = "rclone-bucket"
with open("rclone.conf", "w") as config:
    config.write(
        "[k]\ntype = s3\nprovider = Other\nregion = us-east-1\nforce_path_style = true\n"
        f"access_key_id = {os.environ['AWS_ACCESS_KEY_ID']}\nsecret_access_key = {os.environ['AWS_SECRET_ACCESS_KEY']}\nendpoint = {ENDPOINT}\n"
    )
RCLONE = (os.environ["KEEPSTONE_RCLONE"], "--config", "rclone.conf", "--retries", "1", "--low-level-retries", "1")


def path_of(file, folder="put"):
    return f"k:{BUCKET}/{folder}/{os.path.getsize(file)}"


def create():
    run(*RCLONE, "mkdir", f"k:{BUCKET}")
    must(BUCKET in run(*RCLONE, "lsd", "k:"), "not listed")


def put(file):
    # A file as large as the cutoff is already uploaded in parts, and there is no larger cutoff.
    run(*RCLONE, "copyto", "--s3-upload-cutoff", "5G", "--s3-chunk-size", "16M", file, path_of(file))


def get(file, folder="put"):
    run_and_compare(file, *RCLONE, "cat", path_of(file, folder))


def head(file):
    rows = json.loads(run(*RCLONE, "lsjson", "--stat", path_of(file)))
    must(rows["Size"] == os.path.getsize(file), f"size {rows['Size']}")


def ranges(file):
    got = "range.bin"
    with open(got, "wb") as out:
        import subprocess

        subprocess.run((*RCLONE, "cat", "--offset", "1000", "--count", "69001", path_of(file)), stdout=out, check=True, timeout=60)
    must(bytes_of(got) == bytes_of(file)[1000:70001], "wrong bytes")


def multipart(file):
    run(*RCLONE, "copyto", "--s3-upload-cutoff", "8M", "--s3-chunk-size", "16M", file, path_of(file, "multipart"))
    get(file, "multipart")


def listing():
    rows = json.loads(run(*RCLONE, "lsjson", "--recursive", f"k:{BUCKET}/put"))
    must(sorted(row["Size"] for row in rows) == sorted(os.path.getsize(file) for file in FILES), f"{len(rows)} rows of {len(FILES)}")


def copy(file):
    run(*RCLONE, "copyto", path_of(file), f"k:{BUCKET}/copy of ü")
    run_and_compare(file, *RCLONE, "cat", f"k:{BUCKET}/copy of ü")


def presign():
    url = run(*RCLONE, "link", "--expire", "5m", path_of(MIDDLE)).strip()
    must(fetch(url) == bytes_of(MIDDLE), "wrong bytes by URL")


def check():
    os.makedirs("folder/inner", exist_ok=True)
    for name in ("a", "inner/b", "inner/c d"):
        with open(f"folder/{name}", "w") as file:
            file.write(name)
    run(*RCLONE, "sync", "folder", f"k:{BUCKET}/sync")
    run(*RCLONE, "check", "--download", "folder", f"k:{BUCKET}/sync")


def delete():
    run(*RCLONE, "deletefile", path_of(MIDDLE))
    rows = json.loads(run(*RCLONE, "lsjson", f"k:{BUCKET}/put"))
    must(os.path.getsize(MIDDLE) not in [row["Size"] for row in rows], "a deleted key is still listed")
    run(*RCLONE, "purge", f"k:{BUCKET}")
    must(BUCKET not in run(*RCLONE, "lsd", "k:"), "the bucket is still there")


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
step("sync", check)
step("delete", delete)
