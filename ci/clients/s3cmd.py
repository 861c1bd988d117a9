"""s3cmd, as of PyPI."""

import os
import sys

from report import BIN, FILES, HOST, LARGE, LARGEST, MIDDLE, bytes_of, compare_files, fetch, must, run, size_name, step

BUCKET = "s3cmd-bucket"
with open("s3cfg", "w") as config:
    config.write(
        "[default]\n"
        f"access_key = {os.environ['AWS_ACCESS_KEY_ID']}\nsecret_key = {os.environ['AWS_SECRET_ACCESS_KEY']}\n"
        f"host_base = {HOST}\nhost_bucket = {HOST}\nuse_https = False\nbucket_location = us-east-1\nmax_retries = 1\n"
    )
S3CMD = (sys.executable, os.path.join(BIN, "s3cmd"), "--config", "s3cfg", "--no-progress", "--quiet")
LOUD = S3CMD[:-1]


def url_of(file, folder="put"):
    return f"s3://{BUCKET}/{folder}/{os.path.getsize(file)}"


def create():
    run(*S3CMD, "mb", f"s3://{BUCKET}")
    must(f"s3://{BUCKET}" in run(*LOUD, "ls"), "not listed")


def put(file):
    run(*S3CMD, "--disable-multipart", "put", file, url_of(file))


def get(file, folder="put"):
    run(*S3CMD, "get", "--force", url_of(file, folder), "download.bin")
    compare_files(file, "download.bin")
    os.remove("download.bin")


def head(file):
    text = run(*LOUD, "info", url_of(file))
    must(f"{os.path.getsize(file)}" in text, f"no size in {text}")


def ranges(file):
    body = bytes_of(file)
    with open("partial.bin", "wb") as partial:
        partial.write(body[:100_000])
    run(*S3CMD, "get", "--continue", url_of(file), "partial.bin")
    compare_files(file, "partial.bin")


def multipart(file):
    run(*S3CMD, "--multipart-chunk-size-mb", "16", "put", file, url_of(file, "multipart"))
    get(file, "multipart")


def listing():
    rows = run(*LOUD, "ls", "--recursive", f"s3://{BUCKET}/put/").splitlines()
    must(len(rows) == len(FILES), f"{len(rows)} rows of {len(FILES)}")
    must("DIR" in run(*LOUD, "ls", f"s3://{BUCKET}"), "no folder")


def copy(file):
    run(*S3CMD, "cp", url_of(file), f"s3://{BUCKET}/copy of it")
    run(*S3CMD, "get", "--force", f"s3://{BUCKET}/copy of it", "copy.bin")
    compare_files(file, "copy.bin")


def presign():
    url = run(*LOUD, "signurl", url_of(MIDDLE), "+300").strip()
    must(fetch(url) == bytes_of(MIDDLE), "wrong bytes by URL")


def delete():
    run(*S3CMD, "del", url_of(MIDDLE))
    must(url_of(MIDDLE) + "\n" not in run(*LOUD, "ls", "--recursive", f"s3://{BUCKET}"), "a deleted key is still listed")
    run(*S3CMD, "del", "--recursive", "--force", f"s3://{BUCKET}")
    run(*S3CMD, "rb", f"s3://{BUCKET}")
    must(f"s3://{BUCKET}" not in run(*LOUD, "ls"), "the bucket is still there")


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
step("delete", delete)
