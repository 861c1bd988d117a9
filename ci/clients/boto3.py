"""boto3, as of PyPI, with its defaults."""

import io
import os
import sys

# This file is named after the package that it tries: its own folder is searched last.
sys.path.append(sys.path.pop(0))

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

from report import ENDPOINT, FILES, LARGE, LARGEST, MIDDLE, bytes_of, compare, compare_files, fetch, md5_of, must, size_name, step

BUCKET = "boto3-bucket"
# One try: a server's failure must not hide behind a repetition.
ONCE = Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}, read_timeout=600)
s3 = boto3.client("s3", endpoint_url=ENDPOINT, config=ONCE)


def code_of(call, **arguments):
    try:
        call(**arguments)
    except ClientError as error:
        return error.response["Error"]["Code"]
    return "no error"


def create():
    s3.create_bucket(Bucket=BUCKET)
    s3.head_bucket(Bucket=BUCKET)
    names = [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]
    must(BUCKET in names, f"not among {names}")


def put(file):
    with open(file, "rb") as stream:
        reply = s3.put_object(Bucket=BUCKET, Key=f"put/{os.path.getsize(file)}", Body=stream)
    must(reply["ETag"].strip('"') == md5_of(file), f"ETag {reply['ETag']} is not the MD5")


def get(file):
    compare(file, s3.get_object(Bucket=BUCKET, Key=f"put/{os.path.getsize(file)}")["Body"])


def head(file):
    reply = s3.head_object(Bucket=BUCKET, Key=f"put/{os.path.getsize(file)}")
    must(reply["ContentLength"] == os.path.getsize(file), f"length {reply['ContentLength']}")
    must(code_of(s3.head_object, Bucket=BUCKET, Key="missing") == "404", "a missing key is not 404")


def ranges(file):
    body, key = bytes_of(file), f"put/{os.path.getsize(file)}"
    for text, want in (("bytes=0-9", body[:10]), ("bytes=500000-", body[500000:]), ("bytes=-77", body[-77:]), ("bytes=65530-65550", body[65530:65551])):
        reply = s3.get_object(Bucket=BUCKET, Key=key, Range=text)
        must(reply["ResponseMetadata"]["HTTPStatusCode"] == 206, f"{text}: no 206")
        must(reply["Body"].read() == want, f"{text}: wrong bytes")
    must(code_of(s3.get_object, Bucket=BUCKET, Key=key, Range="bytes=99999999-") == "InvalidRange", "a range past the end is not refused")


def multipart(file):
    size = os.path.getsize(file)
    s3.upload_file(file, BUCKET, f"multipart/{size}", Config=TransferConfig(multipart_threshold=8 << 20, multipart_chunksize=max(8 << 20, size // 64)))
    target = "download.bin"
    s3.download_file(BUCKET, f"multipart/{size}", target)
    compare_files(file, target)
    os.remove(target)


def metadata():
    s3.put_object(Bucket=BUCKET, Key="metadata", Body=b"x", Metadata={"colour": "green", "n": "1"}, ContentType="text/plain", CacheControl="no-store")
    reply = s3.head_object(Bucket=BUCKET, Key="metadata")
    must(reply["Metadata"] == {"colour": "green", "n": "1"}, f"{reply['Metadata']}")
    must(reply["ContentType"] == "text/plain" and reply["CacheControl"] == "no-store", "content headers are lost")


def checksums():
    for algorithm in ("CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"):
        try:
            s3.put_object(Bucket=BUCKET, Key=f"sum/{algorithm}", Body=bytes_of(MIDDLE), ChecksumAlgorithm=algorithm)
        except Exception as error:
            # botocore needs its C extension for these two.
            if "MissingDependency" in type(error).__name__:
                continue
            raise
        reply = s3.get_object(Bucket=BUCKET, Key=f"sum/{algorithm}", ChecksumMode="ENABLED")
        must(reply.get(f"Checksum{algorithm}"), f"{algorithm} is not returned")
        compare(MIDDLE, reply["Body"])


def conditions():
    s3.put_object(Bucket=BUCKET, Key="once", Body=b"1", IfNoneMatch="*")
    got = code_of(s3.put_object, Bucket=BUCKET, Key="once", Body=b"2", IfNoneMatch="*")
    must(got == "PreconditionFailed", f"a second If-None-Match: * gave {got}")
    etag = s3.head_object(Bucket=BUCKET, Key="once")["ETag"]
    s3.put_object(Bucket=BUCKET, Key="once", Body=b"3", IfMatch=etag)
    got = code_of(s3.put_object, Bucket=BUCKET, Key="once", Body=b"4", IfMatch=etag)
    must(got == "PreconditionFailed", f"a stale If-Match gave {got}")
    must(s3.get_object(Bucket=BUCKET, Key="once")["Body"].read() == b"3", "the refused write took place")


def conditional_removal():
    def knows(operation, name):
        return name in s3.meta.service_model.operation_model(operation).input_shape.members

    if knows("CompleteMultipartUpload", "IfNoneMatch"):
        s3.put_object(Bucket=BUCKET, Key="taken", Body=b"1")
        for key, want in (("taken", "PreconditionFailed"), ("not taken", "no error")):
            upload = s3.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
            part = s3.upload_part(Bucket=BUCKET, Key=key, UploadId=upload, PartNumber=1, Body=b"part")["ETag"]
            parts = {"Parts": [{"PartNumber": 1, "ETag": part}]}
            got = code_of(s3.complete_multipart_upload, Bucket=BUCKET, Key=key, UploadId=upload, MultipartUpload=parts, IfNoneMatch="*")
            must(got == want, f"Complete of {key} with If-None-Match: * gave {got}")
            if got != "no error":
                s3.abort_multipart_upload(Bucket=BUCKET, Key=key, UploadId=upload)
        must(s3.get_object(Bucket=BUCKET, Key="taken")["Body"].read() == b"1", "the refused Complete took place")
    if knows("DeleteObject", "IfMatch"):
        old = s3.put_object(Bucket=BUCKET, Key="doomed", Body=b"1")["ETag"]
        new = s3.put_object(Bucket=BUCKET, Key="doomed", Body=b"2")["ETag"]
        got = code_of(s3.delete_object, Bucket=BUCKET, Key="doomed", IfMatch=old)
        must(got == "PreconditionFailed", f"a deletion with a stale If-Match gave {got}")
        s3.delete_object(Bucket=BUCKET, Key="doomed", IfMatch=new)
        must(code_of(s3.head_object, Bucket=BUCKET, Key="doomed") == "404", "a deletion with the right If-Match did nothing")


def listing():
    keys = sorted(f"list/{folder}/{number:03}" for folder in ("a b", "c+d", "ü&<") for number in range(40)) + ["list/a", "list/a/b"]
    for key in keys:
        s3.put_object(Bucket=BUCKET, Key=key, Body=b"")
    for name in ("list_objects", "list_objects_v2"):
        pages = s3.get_paginator(name).paginate(Bucket=BUCKET, Prefix="list/", PaginationConfig={"PageSize": 17})
        got = [row["Key"] for page in pages for row in page.get("Contents", [])]
        must(got == sorted(keys, key=lambda key: key.encode()), f"{name}: {len(got)} keys of {len(keys)}, or out of order")
        folders = s3.get_paginator(name).paginate(Bucket=BUCKET, Prefix="list/", Delimiter="/", PaginationConfig={"PageSize": 2})
        got = sorted(row["Prefix"] for page in folders for row in page.get("CommonPrefixes", []))
        must(got == sorted(["list/a b/", "list/c+d/", "list/ü&</", "list/a/"]), f"{name}: folders {got}")


def copy():
    key = f"put/{os.path.getsize(MIDDLE)}"
    s3.copy_object(Bucket=BUCKET, Key="copy of it", CopySource={"Bucket": BUCKET, "Key": key})
    compare(MIDDLE, s3.get_object(Bucket=BUCKET, Key="copy of it")["Body"])


def copy_in_parts():
    source = {"Bucket": BUCKET, "Key": f"put/{os.path.getsize(LARGE)}"}
    s3.copy(source, BUCKET, "copy in parts", Config=TransferConfig(multipart_threshold=8 << 20, multipart_chunksize=8 << 20))
    compare(LARGE, s3.get_object(Bucket=BUCKET, Key="copy in parts")["Body"])


def presign(version):
    signer = boto3.client("s3", endpoint_url=ENDPOINT, config=Config(signature_version=version, s3={"addressing_style": "path"}))
    body = bytes_of(MIDDLE)
    key = f"put/{len(body)}"
    got = fetch(signer.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": key}, ExpiresIn=300))
    must(got == body, "wrong bytes by URL")


def presign_put():
    signer = boto3.client("s3", endpoint_url=ENDPOINT, config=Config(signature_version="s3v4", s3={"addressing_style": "path"}))
    fetch(signer.generate_presigned_url("put_object", Params={"Bucket": BUCKET, "Key": "by url"}, ExpiresIn=300), data=b"hello", method="PUT")
    must(s3.get_object(Bucket=BUCKET, Key="by url")["Body"].read() == b"hello", "what was put by URL does not come back")


def fileobj():
    s3.upload_fileobj(io.BytesIO(b"streamed"), BUCKET, "fileobj")
    got = io.BytesIO()
    s3.download_fileobj(BUCKET, "fileobj", got)
    must(got.getvalue() == b"streamed", "wrong bytes")


def delete():
    s3.delete_object(Bucket=BUCKET, Key="fileobj")
    s3.delete_object(Bucket=BUCKET, Key="never was")
    must(code_of(s3.get_object, Bucket=BUCKET, Key="fileobj") == "NoSuchKey", "a deleted key is still there")
    must(code_of(s3.delete_bucket, Bucket=BUCKET) == "BucketNotEmpty", "a bucket with keys is deleted")
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        rows = [{"Key": row["Key"]} for row in page.get("Contents", [])]
        if rows:
            reply = s3.delete_objects(Bucket=BUCKET, Delete={"Objects": rows, "Quiet": True})
            must(not reply.get("Errors"), f"{reply.get('Errors')}")
    s3.delete_bucket(Bucket=BUCKET)
    must(code_of(s3.head_bucket, Bucket=BUCKET) == "404", "the bucket is still there")


def versions():
    bucket, key = f"{BUCKET}-versions", "a key"
    s3.create_bucket(Bucket=bucket)
    must("Status" not in s3.get_bucket_versioning(Bucket=bucket), "versioning is set from the start")
    s3.put_object(Bucket=bucket, Key=key, Body=b"null")
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    must(s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled", "versioning is not enabled")
    ids = ["null"] + [s3.put_object(Bucket=bucket, Key=key, Body=body)["VersionId"] for body in (b"one", b"two")]
    for name, body in zip(ids, (b"null", b"one", b"two")):
        must(s3.get_object(Bucket=bucket, Key=key, VersionId=name)["Body"].read() == body, f"version {name} has wrong bytes")
    marker = s3.delete_object(Bucket=bucket, Key=key)
    must(marker["DeleteMarker"] and code_of(s3.get_object, Bucket=bucket, Key=key) == "NoSuchKey", "a delete marker hides nothing")
    shown, markers = [], []
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket, PaginationConfig={"PageSize": 2}):
        shown += [row["VersionId"] for row in page.get("Versions", [])]
        markers += [row["VersionId"] for row in page.get("DeleteMarkers", [])]
    must(shown == ids[::-1] and markers == [marker["VersionId"]], f"listed are {shown} and {markers}")
    s3.copy_object(Bucket=bucket, Key=key, CopySource={"Bucket": bucket, "Key": key, "VersionId": ids[1]})
    must(s3.get_object(Bucket=bucket, Key=key)["Body"].read() == b"one", "a version is not restored")
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Suspended"})
    must(s3.put_object(Bucket=bucket, Key=key, Body=b"new null")["VersionId"] == "null", "a suspended bucket numbers versions")
    page = s3.list_object_versions(Bucket=bucket)
    rows = [{"Key": row["Key"], "VersionId": row["VersionId"]} for row in page["Versions"] + page["DeleteMarkers"]]
    must(len(rows) == 5, f"{len(rows)} versions and markers, not 5")
    reply = s3.delete_objects(Bucket=bucket, Delete={"Objects": rows})
    must(not reply.get("Errors") and len(reply["Deleted"]) == 5, f"{reply}")
    s3.delete_bucket(Bucket=bucket)


def tags():
    key, want = "tagged", [{"Key": "a b", "Value": "ü/+="}, {"Key": "c", "Value": ""}]
    put = s3.put_object(Bucket=BUCKET, Key=key, Body=b"x", Tagging="c=&a+b=%C3%BC%2F%2B%3D")
    must(s3.get_object_tagging(Bucket=BUCKET, Key=key)["TagSet"] == want, f"{s3.get_object_tagging(Bucket=BUCKET, Key=key)}")
    got = s3.get_object(Bucket=BUCKET, Key=key)
    must(got["TagCount"] == 2 and got["ETag"] == put["ETag"], f"{got}")
    s3.put_object_tagging(Bucket=BUCKET, Key=key, Tagging={"TagSet": [{"Key": "d", "Value": "4"}]})
    s3.copy_object(Bucket=BUCKET, Key="tagged copy", CopySource={"Bucket": BUCKET, "Key": key})
    s3.copy_object(Bucket=BUCKET, Key="tagged anew", CopySource={"Bucket": BUCKET, "Key": key}, TaggingDirective="REPLACE", Tagging="e=5")
    names = {name: s3.get_object_tagging(Bucket=BUCKET, Key=name)["TagSet"] for name in (key, "tagged copy", "tagged anew")}
    must([row[0]["Key"] for row in names.values()] == ["d", "d", "e"], f"{names}")
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key="tagged upload", Tagging="f=6")["UploadId"]
    part = s3.upload_part(Bucket=BUCKET, Key="tagged upload", UploadId=upload, PartNumber=1, Body=b"part")["ETag"]
    s3.complete_multipart_upload(Bucket=BUCKET, Key="tagged upload", UploadId=upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part}]})
    must(s3.get_object_tagging(Bucket=BUCKET, Key="tagged upload")["TagSet"] == [{"Key": "f", "Value": "6"}], "an upload lost its tags")
    s3.delete_object_tagging(Bucket=BUCKET, Key=key)
    must(s3.get_object_tagging(Bucket=BUCKET, Key=key)["TagSet"] == [] and "TagCount" not in s3.get_object(Bucket=BUCKET, Key=key), "tags stay")
    many = [{"Key": str(number), "Value": ""} for number in range(11)]
    for wrong, code in ((many, "BadRequest"), ([many[0], many[0]], "InvalidTag"), ([{"Key": "aws:k", "Value": ""}], "InvalidTag"), ([{"Key": "k" * 129, "Value": ""}], "InvalidTag")):
        got = code_of(s3.put_object_tagging, Bucket=BUCKET, Key=key, Tagging={"TagSet": wrong})
        must(got == code, f"{wrong} gave {got}")
    must(code_of(s3.get_object_tagging, Bucket=BUCKET, Key="never was") == "NoSuchKey", "tags of nothing")


def bucket_tags():
    bucket = BUCKET + "-tagged"
    s3.create_bucket(Bucket=bucket)
    must(code_of(s3.get_bucket_tagging, Bucket=bucket) == "NoSuchTagSet", "a bucket has tags that nobody set")
    want = [{"Key": "a b", "Value": "ü/+="}, {"Key": "c", "Value": ""}]
    s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": [{"Key": "gone", "Value": "1"}]})
    s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": want[::-1]})
    must(s3.get_bucket_tagging(Bucket=bucket)["TagSet"] == want, f"{s3.get_bucket_tagging(Bucket=bucket)}")
    many = [{"Key": str(number), "Value": ""} for number in range(51)]
    for wrong, code in ((many, "BadRequest"), ([want[0], want[0]], "InvalidTag"), ([{"Key": "aws:k", "Value": ""}], "InvalidTag")):
        got = code_of(s3.put_bucket_tagging, Bucket=bucket, Tagging={"TagSet": wrong})
        must(got == code, f"{len(wrong)} tags gave {got}")
    s3.delete_bucket_tagging(Bucket=bucket)
    must(code_of(s3.get_bucket_tagging, Bucket=bucket) == "NoSuchTagSet", "tags stay")
    s3.delete_bucket(Bucket=bucket)
    must(code_of(s3.get_bucket_tagging, Bucket=bucket) == "NoSuchBucket", "tags of no bucket")


def lifecycle():
    bucket = BUCKET + "-lifecycle"
    s3.create_bucket(Bucket=bucket)
    get = lambda: s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    must(code_of(s3.get_bucket_lifecycle_configuration, Bucket=bucket) == "NoSuchLifecycleConfiguration", "a lifecycle that nobody set")
    rules = [
        {"ID": "logs", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 30}},
        {
            "ID": "versions",
            "Status": "Disabled",
            "Filter": {"And": {"Prefix": "a", "Tags": [{"Key": "k", "Value": "v"}], "ObjectSizeGreaterThan": 5}},
            "NoncurrentVersionExpiration": {"NoncurrentDays": 3, "NewerNoncurrentVersions": 2},
        },
        {"ID": "uploads", "Status": "Enabled", "Filter": {"Prefix": ""}, "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7}},
        {"ID": "markers", "Status": "Enabled", "Filter": {"Prefix": "m"}, "Expiration": {"ExpiredObjectDeleteMarker": True}},
    ]
    put = lambda rules: s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": rules})
    put(rules)
    must(get() == rules, f"{get()}")
    put(rules[:1])
    must(get() == rules[:1], f"{get()}")
    one = rules[0]
    wrong = (
        ([one, one], "InvalidArgument"),
        ([{**one, "Expiration": {"Days": 0}}], "InvalidArgument"),
        ([{**one, "Transitions": [{"Days": 1, "StorageClass": "GLACIER"}]}], "NotImplemented"),
        ([{"ID": "x", "Status": "Enabled", "Filter": {"Prefix": ""}}], "InvalidRequest"),
    )
    for bad, code in wrong:
        got = code_of(s3.put_bucket_lifecycle_configuration, Bucket=bucket, LifecycleConfiguration={"Rules": bad})
        must(got == code, f"{bad} gave {got}")
    must(get() == rules[:1], "what is refused changed something")
    s3.delete_bucket_lifecycle(Bucket=bucket)
    must(code_of(s3.get_bucket_lifecycle_configuration, Bucket=bucket) == "NoSuchLifecycleConfiguration", "a lifecycle stays")
    s3.delete_bucket(Bucket=bucket)


step("create", create)
for file in FILES:
    if step(f"put {size_name(file)}", put, file):
        step(f"get {size_name(file)}", get, file)
        step(f"head {size_name(file)}", head, file)
step(f"range {size_name(MIDDLE)}", ranges, MIDDLE)
for file in (MIDDLE, LARGEST):
    step(f"multipart {size_name(file)}", multipart, file)
step("metadata", metadata)
step("checksums", checksums)
step("conditions", conditions)
step("conditional removal", conditional_removal)
step("list", listing)
step("copy", copy)
step(f"copy {size_name(LARGE)} in parts", copy_in_parts)
step("presign SigV2", presign, "s3")
step("presign SigV4", presign, "s3v4")
step("presign PUT", presign_put)
step("fileobj", fileobj)
step("versions", versions)
step("tags", tags)
step("bucket tags", bucket_tags)
step("lifecycle", lifecycle)
step("delete", delete)
