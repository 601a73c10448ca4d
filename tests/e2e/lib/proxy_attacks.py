"""What somebody would try with the proxy of a run, from inside it: each line says "held" or "through".

    python3 proxy_attacks.py LOG

HTTPS_PROXY and the stand-ins are the run's own; LOG is what the services got.
"""
import base64
import os
import socket
import ssl
import sys
import time
from urllib.parse import urlsplit

log = sys.argv[1]
proxy = urlsplit(os.environ["HTTPS_PROXY"])
token = "Basic " + base64.b64encode(f"{proxy.username}:{proxy.password}".encode()).decode()
stand_in, another = os.environ["OPENAI_API_KEY"], os.environ["ANTHROPIC_API_KEY"]


def got():
    with open(log) as file:
        return file.read()


def open_proxy():
    return socket.create_connection((proxy.hostname, proxy.port), timeout=30)


def answer(stream):
    data = b""
    while b"\r\n\r\n" not in data:
        try:
            part = stream.recv(4096)
        except OSError:
            break
        if not part:
            break
        data += part
    return int(data.split(b" ", 2)[1]) if data.startswith(b"HTTP/") else 0


def connect(to, headers=(("Proxy-Authorization", token),)):
    stream = open_proxy()
    lines = [f"CONNECT {to} HTTP/1.1", f"Host: {to}"] + [f"{name}: {value}" for name, value in headers]
    stream.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
    return stream, answer(stream)


def secured(to, name):
    stream, status = connect(to)
    assert status == 200, (to, status)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(stream, server_hostname=name)


def ask(lines, to="api.openai.com:443", name="api.openai.com"):
    stream = secured(to, name)
    stream.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
    return answer(stream)


def plain(lines):
    stream = open_proxy()
    stream.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
    return answer(stream)


def is_shut(attempt):
    try:
        return attempt() not in (200, 201)
    except (OSError, AssertionError):
        return True


def check(what, attempt, held=is_shut):
    before = got()
    fine = held(attempt) and got() == before
    print(f"{what}: {'held' if fine else 'through'}", flush=True)


GET = "GET /v1/models HTTP/1.1"
HOST = "Host: api.openai.com"
KEY = f"Authorization: Bearer {stand_in}"

check("no token", lambda: connect("api.openai.com:443", ())[1])
wrong = base64.b64encode(b"agentkeys:" + b"0" * 48).decode()
check("another token", lambda: connect("api.openai.com:443", (("Proxy-Authorization", f"Basic {wrong}"),))[1])
check("the token by another scheme", lambda: connect(
    "api.openai.com:443", (("Proxy-Authorization", f"Bearer {proxy.password}"),))[1])
check("the token twice", lambda: connect(
    "api.openai.com:443", (("Proxy-Authorization", token), ("Proxy-Authorization", token)))[1])
check("no token in plain HTTP", lambda: plain(["GET http://other.example/ HTTP/1.1", "Host: other.example"]))
for name in ("api.anthropic.com", "evil.example", "x.api.openai.com"):
    check(f"SNI {name}", lambda name=name: secured("api.openai.com:443", name) and 200)
check("no SNI", lambda: secured("api.openai.com:443", None) and 200)
for host in ("api.anthropic.com", "evil.example", "api.openai.com:8443", "x@api.openai.com", ""):
    check(f"Host {host or 'empty'}", lambda host=host: ask([GET, f"Host: {host}", KEY]))
check("no Host", lambda: ask([GET, KEY]))
check("two Hosts", lambda: ask([GET, HOST, "Host: evil.example", KEY]))
check("a whole address in the line", lambda: ask(["GET https://evil.example/ HTTP/1.1", HOST, KEY]))
check("CONNECT inside", lambda: ask(["CONNECT evil.example:443 HTTP/1.1", HOST, KEY]))
check("another's stand-in", lambda: ask([GET, HOST, f"Authorization: Bearer {another}"]))
check("a stand-in beside its place", lambda: ask([GET, HOST, KEY, f"X-Copy: {stand_in}"]))
check("a stand-in in the query", lambda: ask([f"GET /v1/models?again={stand_in} HTTP/1.1", HOST, KEY]))
check("a page in a browser", lambda: ask([GET, HOST, "Origin: https://evil.example"]))
check("a page in a browser, without its origin", lambda: ask([GET, HOST, "Sec-Fetch-Site: cross-site"]))
check("two lengths", lambda: ask(["POST /v1/models HTTP/1.1", HOST, KEY, "Content-Length: 1", "Content-Length: 2"]))
check("a length and chunks", lambda: ask(
    ["POST /v1/models HTTP/1.1", HOST, KEY, "Content-Length: 4", "Transfer-Encoding: x"]))
check("a path of two slashes", lambda: ask(["GET //evil.example/ HTTP/1.1", HOST, KEY]))
for to in ("http://api.openai.com/v1/models", "http://api.openai.com:8080/", "http://API.OpenAI.com./",
           "https://api.openai.com/v1/models"):
    check(f"{to} by the proxy", lambda to=to: plain(
        [f"GET {to} HTTP/1.1", HOST, KEY, f"Proxy-Authorization: {token}"]))
check("CONNECT to the port of plain HTTP", lambda: connect("api.openai.com:80")[1])
for to in ("user@api.openai.com:443", "api.openai.com", "api.openai.com:0", "api.openai.com:443/x", "api.openai.com:+443",
           "127.1:443", "0x7f000001:443", "[::1%25lo]:443", "api.openai.com:443, evil.example:443"):
    check(f"CONNECT {to}", lambda to=to: connect(to)[1])
for host in ("127.0.0.1", "localhost", "0.0.0.0", "[::ffff:127.0.0.1]", "127.9.9.9"):
    check(f"the proxy itself by {host}", lambda host=host: connect(f"{host}:{proxy.port}")[1])
# However it is written, it is the service's host, and its bytes are not handed on unseen.
for to in ("API.OpenAI.com:443", "api.openai.com.:443", "api.openai.com:0443"):
    check(f"CONNECT {to} is answered for by the run", lambda to=to: secured(to, "evil.example") and 200)
check("a head of 100 KiB", lambda: ask([GET, HOST, KEY, "X-Long: " + "x" * 100_000]))
check("two hundred headers", lambda: ask([GET, HOST, KEY] + [f"X-{n}: 1" for n in range(200)]))


def slow():
    stream = open_proxy()
    began = time.monotonic()
    stream.sendall(b"CONNECT api.openai.com:443 HTTP/1.1\r\n")
    stream.recv(1)
    return 0 if time.monotonic() - began < 20 else 200


check("a head that never ends", slow)
# The looking finds what is there.
assert ask([GET, HOST, KEY]) == 200
assert ask([GET, HOST]) == 200
assert ask([GET, HOST, KEY, "Origin: https://app.example"]) == 200
