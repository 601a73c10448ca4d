"""Tries attacks on a gateway as a program beside it can, byte by byte, and says of each whether it got
through.

    python3 attacks.py ADDRESS STAND_IN ANOTHER_RUNS_STAND_IN KEY LOG

ADDRESS is the base URL of my-api, LOG what its service writes down. The key is given in order to be
looked for. Prints "NAME: through" or "NAME: held" for each.
"""
import gzip
import json
import socket
import sys
import urllib.parse

address, stand_in, another, key, log = sys.argv[1:6]
at = urllib.parse.urlsplit(address)
own = f"{at.hostname}:{at.port}"
bearer = f"Authorization: Bearer {stand_in}"


def ask(head, body=b"", wait=2.0):
    """Sends a request as it stands, and gives all that comes back."""
    data = "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body
    back = b""
    with socket.create_connection((at.hostname, at.port), timeout=wait) as stream:
        try:
            stream.sendall(data)
            while part := stream.recv(65536):
                back += part
        except OSError:
            pass
    return back


def get(path, *headers, method="GET", body=b"", auth=bearer, end="Connection: close"):
    fixed = [f"{method} {at.path}{path} HTTP/1.1", f"Host: {own}", auth, end]
    return ask(fixed + list(headers), body)


def written(since):
    with open(log) as lines:
        return [json.loads(line) for line in list(lines)[since:]]


def count():
    with open(log) as lines:
        return sum(1 for _ in lines)


def seen(act, mark):
    """Whether the service saw a request whose path or headers hold the mark."""
    before = count()
    act()
    return any(mark in json.dumps(one) for one in written(before))


def shows_key(answer):
    head, _, body = answer.partition(b"\r\n\r\n")
    if b"chunked" in head.lower():
        # Sizes stand on lines of their own.
        body = b"".join(body.split(b"\r\n")[1::2])
    if b"gzip" in head.lower():
        body = gzip.decompress(body)
    return key.encode() in head + body


def never_ending():
    """Whether a header that never ends is read on and on."""
    with socket.create_connection((at.hostname, at.port), timeout=5) as stream:
        try:
            stream.sendall(f"GET {at.path}/plain HTTP/1.1\r\nHost: {own}\r\nX-Long: ".encode())
            for _ in range(64):
                stream.sendall(b"x" * 65536)
            stream.settimeout(1)
            return stream.recv(1) != b""
        except TimeoutError:
            return True
        except OSError:
            return False


inner = "GET /smuggled HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
many = [f"X-{n}: {'x' * 1000}" for n in range(90)]
absolute = [f"GET http://evil.example{at.path}/absolute HTTP/1.1", f"Host: {own}", bearer, "Connection: close"]
two_hosts = [f"GET {at.path}/two-hosts HTTP/1.1", f"Host: {own}", "Host: evil.example", bearer, "Connection: close"]
attacks = {
    "a key that is reflected": lambda: shows_key(get("/reflect")),
    "a key that is reflected over two frames": lambda: shows_key(get("/reflect-in-two")),
    "a key that is reflected compressed": lambda: shows_key(get("/reflect-compressed")),
    "two lengths": lambda: seen(
        lambda: get("/two-lengths", "Content-Length: 0", f"Content-Length: {len(inner)}", method="POST", body=inner),
        "/two-lengths"),
    "a length and chunks": lambda: seen(
        lambda: get("/both", f"Content-Length: {5 + len(inner)}", "Transfer-Encoding: chunked", method="POST",
                    body=b"0\r\n\r\n" + inner, end="Accept: */*"), "/smuggled"),
    "a line break in the path": lambda: seen(lambda: get("/a%0d%0aX-Evil:1"), "/a%0d%0a"),
    "a way up in the path": lambda: seen(lambda: get("/v1/x/../up"), "/v1/x/../up"),
    "an absolute target": lambda: seen(lambda: ask(absolute), "evil.example"),
    "two hosts": lambda: seen(lambda: ask(two_hosts), "two-hosts"),
    "another method by a header": lambda: seen(
        lambda: get("/override", "X-HTTP-Method-Override: DELETE", method="POST"), "DELETE"),
    "too many bytes of headers": lambda: seen(lambda: get("/large", *many), "/large"),
    "a header that never ends": never_ending,
    "another run's stand-in": lambda: seen(
        lambda: get("/another", auth=f"Authorization: Bearer {another}"), "/another"),
    "a stand-in in another place": lambda: seen(lambda: get("/copied", f"X-Copy: {stand_in}"), stand_in),
}
for name, attack in attacks.items():
    print(f"{name}: {'through' if attack() else 'held'}", flush=True)
