"""What an attacker would have a key go to, in a network of the flow's own: a DNS server whose answers
are the attacker's, and at every address of this machine a service over TLS (port 443) and in the clear
(port 80), which write down at which address they were asked, and with what.

    python3 inside.py CERTIFICATE KEY LOG ANSWERS

ANSWERS is a JSON object: for each name a list of answers, which are given one after the other, over and
over; each is a list of addresses. Says "ready" once it listens.
"""
import ipaddress
import json
import socket
import ssl
import sys
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

certificate, key, log, answers = sys.argv[1:5]
answers = json.loads(answers)
lock = threading.Lock()
asked = {}


def note(what):
    with lock, open(log, "a") as file:
        file.write(json.dumps(what) + "\n")


def resolve(query):
    """An answer with no lifetime, to be asked again each time."""
    at, labels = 12, []
    while size := query[at]:
        labels.append(query[at + 1 : at + 1 + size].decode())
        at += 1 + size
    kind = int.from_bytes(query[at + 1 : at + 3], "big")
    name = ".".join(labels).lower()
    given = answers.get(name, [])
    # Looking up a name asks for both kinds: each kind has its own turn.
    turn = asked.get((name, kind), 0)
    asked[name, kind] = turn + 1
    found = [ipaddress.ip_address(one) for one in given[turn % len(given)]] if given else []
    found = [one for one in found if (one.version, kind) in ((4, 1), (6, 28))]
    head = query[:2] + (b"\x81\x80" if given else b"\x81\x83") + b"\0\1" + len(found).to_bytes(2, "big") + b"\0\0\0\0"
    records = [b"\xc0\x0c" + kind.to_bytes(2, "big") + b"\0\1\0\0\0\0" + len(one.packed).to_bytes(2, "big") + one.packed
               for one in found]
    return head + query[12 : at + 5] + b"".join(records)


def dns():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 53))
        while True:
            query, whom = listener.recvfrom(4096)
            listener.sendto(resolve(query), whom)


def bomb():
    """64 KiB that become 64 MiB, over and over: each is complete by itself."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    part = packer.compress(b"\0" * (64 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + part * 16


class Service(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        at, port = self.connection.getsockname()[:2]
        note({"at": at.removeprefix("::ffff:"), "port": port, "path": self.path,
              "authorization": self.headers.get("authorization", "")})
        status, body, headers = 200, b"hello", []
        if self.path.startswith("/to/"):
            status, body = 302, b""
            headers.append(("location", self.path.removeprefix("/to/").replace("/", "://", 1)))
        if self.path == "/bomb":
            body = BOMB
            headers.append(("content-encoding", "gzip"))
        self.send_response(status)
        for name, value in [("content-length", str(len(body))), ("connection", "close"), *headers]:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET


class Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6
    request_queue_size = 1024
    daemon_threads = True

    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def handle_error(self, *_):
        pass


BOMB = bomb()
secure, clear = Server(("::", 443), Service), Server(("::", 80), Service)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
secure.socket = context.wrap_socket(secure.socket, server_side=True, do_handshake_on_connect=False)
for serve in (dns, secure.serve_forever, clear.serve_forever):
    threading.Thread(target=serve, daemon=True).start()
print("ready", flush=True)
threading.Event().wait()
