"""One that does not read, beside fifty that do.

    python3 slow_reader.py BASE KEY LOG

A stream of 64 MB is asked for, and not read. The service has to stop sending it; meanwhile fifty streams
at once and fifty requests one after another come through. Then it is read, and is whole.
"""
import json
import os
import socket
import subprocess
import sys
import time
from http.client import HTTPConnection
from urllib.parse import urlsplit

base, key, log = sys.argv[1:4]
at = urlsplit(base)
MEGABYTES = 64


def ask(path):
    connection = HTTPConnection(at.hostname, at.port, timeout=30)
    connection.request("GET", at.path + path, headers={"Authorization": f"Bearer {key}"})
    return connection, connection.getresponse()


def stalled():
    with open(log) as file:
        return [entry["stalled"] for entry in map(json.loads, file) if "stalled" in entry]


held, answer = ask(f"/flood/{MEGABYTES}")
assert answer.status == 200, answer.status
until = time.monotonic() + 20
while not stalled():
    assert time.monotonic() < until, "the service was never held up"
    time.sleep(0.1)
there = stalled()[-1]
# Buffers of the kernel's and ours, on two connections of TCP and one of Unix: far below all of it.
assert there < 32 << 20, there

many = os.path.join(os.path.dirname(__file__), "many_streams.py")
began = time.monotonic()
subprocess.run([sys.executable, many, base, key, "50", "20", "50"], check=True)
for _ in range(50):
    connection, plain = ask("/plain")
    assert plain.status == 200 and plain.read()
    connection.close()
took = time.monotonic() - began
assert stalled()[-1] == there, "it went on, though nobody read"

length = 0
while part := answer.read(1 << 20):
    assert part == b"x" * len(part)
    length += len(part)
assert length == MEGABYTES << 20, length
print(f"ok: held up after {there / (1 << 20):.1f} MB; the others took {took:.1f} s; then it came, whole")
