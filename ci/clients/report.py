"""What the drivers of all clients share: steps that report, files that are compared, processes that must succeed."""

import hashlib
import os
import subprocess
import sys
import urllib.request

ENDPOINT = os.environ["KEEPSTONE_ENDPOINT"]
HOST = ENDPOINT.split("//", 1)[1]
BIN = os.environ["KEEPSTONE_BIN"]
FILES = sys.argv[1:]
SMALL = [file for file in FILES if os.path.getsize(file) <= 1 << 20]
LARGEST = max(FILES, key=os.path.getsize)
# Large enough to be more than a block, small enough to be handled whole.
MIDDLE = max(SMALL, key=os.path.getsize)
# Large enough for clients to take it apart, small enough to be stored once more.
LARGE = max((file for file in FILES if os.path.getsize(file) <= 64 << 20), key=os.path.getsize)


class Failed(Exception):
    """A check did not hold."""


def step(name, check, *arguments):
    """Run a check and report it; a failure does not stop the next one."""
    try:
        note = check(*arguments)
        print(f"{name}\tok\t{note or ''}", flush=True)
        return True
    except Exception as error:  # any way of failing is a finding
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"{name}\tFAIL\t{reason[:600]}", flush=True)
        return False


def must(condition, reason):
    if not condition:
        raise Failed(reason)


def size_name(file):
    size = os.path.getsize(file)
    for unit, shift in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >= 1 << shift and size % (1 << shift) == 0:
            return f"{size >> shift} {unit}"
    return f"{size} B"


def run(*command, stdin=None):
    """Run a command; returns what it printed."""
    done = subprocess.run(command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=3600)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).decode(errors="replace")
        raise Failed(f"{os.path.basename(command[0])} exited with {done.returncode}: {said[-400:]}")
    return done.stdout.decode(errors="replace")


def run_and_compare(file, *command):
    """Run a command and compare what it prints with `file`, byte for byte, without holding either."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        compare(file, process.stdout)
    except Failed as error:
        process.kill()
        said = process.stderr.read().decode(errors="replace")
        raise Failed(f"{error} {said[-300:]}") from None
    said = process.stderr.read().decode(errors="replace")
    if process.wait() != 0:
        raise Failed(f"{os.path.basename(command[0])} exited with {process.returncode}: {said[-400:]}")


def compare(file, stream):
    """Compare a stream with a file."""
    position = 0
    with open(file, "rb") as expected:
        while True:
            want = expected.read(1 << 20)
            if not want:
                must(not stream.read(1), f"longer than the {position} bytes that were put")
                return
            got = b""
            while len(got) < len(want):
                piece = stream.read(len(want) - len(got))
                if not piece:
                    break
                got += piece
            must(len(got) == len(want), f"ends at byte {position + len(got)} of {os.path.getsize(file)}")
            must(got == want, f"differs somewhere in the MiB from byte {position}")
            position += len(want)


def compare_files(expected, got):
    with open(got, "rb") as stream:
        compare(expected, stream)


def fetch(url, data=None, method="GET"):
    """Use a presigned URL as somebody without credentials."""
    headers = {"Content-Type": "application/octet-stream"} if data is not None else {}
    request = urllib.request.Request(url, data=data, method=method, headers=headers)
    with urllib.request.urlopen(request, timeout=60) as reply:
        return reply.read()


def bytes_of(file):
    with open(file, "rb") as stream:
        return stream.read()


def md5_of(file):
    sum = hashlib.md5()
    with open(file, "rb") as stream:
        while piece := stream.read(1 << 20):
            sum.update(piece)
    return sum.hexdigest()
