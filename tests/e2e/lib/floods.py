"""Floods a server with what a client can send without end, frame by frame and byte by byte, while others ask
it, and says of each whether it got through: the server took all of it, grew by it, or kept others waiting.

    python3 floods.py http2 NAME HOST PORT PID [ASK]...       over TLS
    python3 floods.py slow SECONDS CONNECTIONS NAME=WHERE... [-- ASK...]    bytes that come one by one

http2: PID is the server's; ASK is a command that asks it as others do, again and again meanwhile.
WHERE is [proxy+][tls+]PROTOCOL:HOST:PORT, PROTOCOL is h1, h2, h2-quiet or handshake; unix+h1:PATH is a socket.
With "proxy+" the connection is made through the proxy of the environment. A host of this program's is not
checked: what it has to say is only bytes.
"""
import base64
import os
import select
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST, SETTINGS, GOAWAY, CONTINUATION = 0, 1, 3, 4, 7, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1


def frame(kind, flags, stream, body=b""):
    return len(body).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + body


def text(value):
    data = value if isinstance(value, bytes) else value.encode()
    size = bytes((len(data),)) if len(data) < 127 else b"\x7f" + number(len(data) - 127)
    return size + data


def number(rest):
    out = b""
    while rest >= 128:
        out, rest = out + bytes((rest % 128 + 128,)), rest // 128
    return out + bytes((rest,))


def field(name, value, kind=b"\0"):
    return kind + text(name) + text(value)


def opened(host, port, through=False):
    if not through:
        return socket.create_connection((host, int(port)), timeout=10)
    proxy = urllib.parse.urlsplit(os.environ["HTTPS_PROXY"])
    stream = socket.create_connection((proxy.hostname, proxy.port), timeout=10)
    pair = base64.b64encode(f"{proxy.username}:{proxy.password}".encode()).decode()
    stream.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\nProxy-Authorization: Basic {pair}\r\n\r\n".encode())
    back = b""
    while b"\r\n\r\n" not in back:
        back += stream.recv(1)
    assert b" 200 " in back.split(b"\r\n")[0], back
    return stream


def secured(stream, host, protocols=("h2",)):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(list(protocols))
    stream = context.wrap_socket(stream, server_hostname=host)
    assert stream.selected_alpn_protocol() == protocols[0], stream.selected_alpn_protocol()
    return stream


class Http2:
    """A connection that is read whenever it has something, so that neither side waits for the other."""

    def __init__(self, host, port):
        self.host, self.held, self.ended, self.why = host, b"", False, None
        self.stream = secured(opened(host, port, "HTTPS_PROXY" in os.environ), host)
        self.stream.setblocking(False)
        self.send(PREFACE + frame(SETTINGS, 0, 0) + frame(8, 0, 0, (1 << 30).to_bytes(4, "big")))

    def send(self, data):
        """Whether all of it could be sent."""
        data = memoryview(data)
        until = time.monotonic() + 30
        while data and not self.ended and time.monotonic() < until:
            self.read()
            try:
                data = data[self.stream.send(data) :]
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                select.select([self.stream], [self.stream], [], 1)
            except OSError:
                self.ended = True
        return not self.ended and not data

    def wait(self, seconds):
        until = time.monotonic() + seconds
        while not self.ended and (left := until - time.monotonic()) > 0:
            select.select([self.stream], [], [], left)
            self.read()

    def read(self):
        try:
            while part := self.stream.recv(65536):
                self.held += part
            self.ended = True
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError:
            self.ended = True
        held = self.held
        while len(held) >= 9 and len(held) >= 9 + (size := int.from_bytes(held[:3], "big")):
            if held[3] == GOAWAY and (why := int.from_bytes(held[13:17], "big")):
                self.ended, self.why = True, why
            held = held[9 + size :]
        self.held = held

    def head(self, path):
        return b"\x82\x87" + field(":path", path) + field(":authority", self.host)


def rapid_reset(on):
    """Requests, each taken back at once: what is under way is never more than allowed."""
    for n in range(0, 20_000, 100):
        begun = b"".join(frame(HEADERS, END_STREAM | END_HEADERS, 2 * k + 1, on.head("/reset"))
                         + frame(RST, 0, 2 * k + 1, (8).to_bytes(4, "big")) for k in range(n, n + 100))
        if not on.send(begun):
            return n
    return 20_000


def made_us_reset(on):
    """Requests that are in error, so that the server takes them back itself."""
    for n in range(0, 20_000, 100):
        begun = b"".join(frame(HEADERS, END_STREAM | END_HEADERS, 2 * k + 1, on.head("/wrong"))
                         + frame(8, 0, 2 * k + 1, (0).to_bytes(4, "big")) for k in range(n, n + 100))
        if not on.send(begun):
            return n
    return 20_000


def continued(on):
    """A head that goes on and on, 16 KiB a frame, 128 MiB in all."""
    if not on.send(frame(HEADERS, END_STREAM, 1, on.head("/continued"))):
        return 0
    piece = field("x-long", b"x" * 16_000)
    for n in range(8192):
        if not on.send(frame(CONTINUATION, 0, 1, piece)):
            return n
    return 8192


def continued_empty(on):
    """The same with frames that have nothing in them."""
    on.send(frame(HEADERS, END_STREAM, 1, on.head("/continued")))
    for n in range(0, 200_000, 1000):
        if not on.send(frame(CONTINUATION, 0, 1) * 1000):
            return n
    return 200_000


def packed(on):
    """A header that is remembered, and then named 16,000 times by one byte each: 16 KiB are 64 MiB."""
    for n in range(8):
        first = field("x-large", b"x" * 4000, b"\x40") if n == 0 else b""
        if not on.send(frame(HEADERS, END_STREAM | END_HEADERS, 2 * n + 1, on.head("/packed") + first + b"\xbe" * 12_000)):
            return n
    return 8


FLOODS = {"rapid reset": rapid_reset, "resets that the server makes": made_us_reset, "a head that is continued": continued,
          "a head that is continued by nothing": continued_empty, "a packed head": packed}
# These may be taken, and must only do no harm.
HARMLESS = ("a packed head",)


def peak(pid):
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) // 1024 for line in file if line.startswith("VmHWM"))


class Others:
    """A command that asks as others do, again and again; how long it took at most."""

    def __init__(self, command):
        self.command, self.slowest, self.count, self.over = command, 0.0, 0, threading.Event()
        self.thread = threading.Thread(target=self.ask)
        if command:
            self.thread.start()

    def ask(self):
        while not self.over.is_set():
            began = time.monotonic()
            done = subprocess.run(self.command, capture_output=True, timeout=60)
            took = time.monotonic() - began
            self.slowest = max(self.slowest, took if done.returncode == 0 else 60)
            self.count += 1
            time.sleep(0.05)

    def end(self):
        self.over.set()
        if self.command:
            self.thread.join()


def http2(name, host, port, pid, *command):
    others = Others(command)
    for flood, act in FLOODS.items():
        with open(f"/proc/{pid}/clear_refs", "w") as file:
            file.write("5")
        before, others.slowest = peak(pid), 0.0
        began = time.monotonic()
        on = Http2(host, port)
        sent = act(on)
        # What was sent last may be answered yet.
        on.wait(2)
        time.sleep(0.3)
        grew = peak(pid) - before
        on.stream.close()
        fine = (on.ended or flood in HARMLESS) and grew < 64 and others.slowest < 3
        print(f"{name}, {flood}: {'held' if fine else 'through'} (sent {sent}, error {on.why}, grew {grew} MiB, "
              f"others waited {others.slowest:.2f} s, took {time.monotonic() - began:.1f} s)", flush=True)
    others.end()


def slow(seconds, connections, *places):
    """A byte every half second on so many connections each, for so long."""
    where = places.index("--") if "--" in places else len(places)
    places, others = places[:where], Others(places[where + 1 :])
    seconds, connections = float(seconds), int(connections)
    results = {}

    def one(place):
        through, place = place.startswith("proxy+"), place.removeprefix("proxy+")
        if place.startswith("unix+"):
            stream = socket.socket(socket.AF_UNIX)
            stream.connect(place.split(":", 1)[1])
            return stream, b"GET / HTTP/1.1\r\nX: "
        tls, place = place.startswith("tls+"), place.removeprefix("tls+")
        protocol, host, port = place.split(":")
        stream = opened(host, port, through)
        if protocol == "handshake":
            # A record of a handshake, of which the rest does not come.
            return stream, b"\x16\x03\x01\x3f\xff\x01\x00\x3f\xfb"
        if tls:
            stream = secured(stream, host, ("h2",) if protocol.startswith("h2") else ("http/1.1",))
        if protocol == "h2":
            return stream, PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, END_STREAM | END_HEADERS, 1, b"x" * 16000)[:12]
        if protocol == "h2-quiet":
            return stream, PREFACE + frame(SETTINGS, 0, 0)
        return stream, f"GET /slow HTTP/1.1\r\nHost: {host}\r\nX: ".encode()

    def run(name, place):
        opens = []
        for _ in range(connections):
            stream, first = one(place)
            stream.sendall(first)
            stream.settimeout(0.001)
            opens.append(stream)
        # Making so many takes its time on a busy machine, and is not what is measured.
        began = time.monotonic()
        while opens and time.monotonic() - began < seconds:
            time.sleep(0.5)
            for stream in list(opens):
                try:
                    if place.split(":")[0].split("+")[-1] != "h2-quiet":
                        stream.sendall(b"x")
                    while part := stream.recv(4096):
                        pass
                    opens.remove(stream)
                except (TimeoutError, ssl.SSLWantReadError):
                    continue
                except OSError:
                    opens.remove(stream)
        results[name] = (len(opens), time.monotonic() - began)

    threads = [threading.Thread(target=run, args=place.split("=", 1)) for place in places]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    others.end()
    for name, (left, took) in results.items():
        fine = not left and others.slowest < 3
        print(f"{name}, a byte at a time: {'held' if fine else 'through'} ({left} of {connections} open after {took:.0f} s, "
              f"others waited {others.slowest:.2f} s)", flush=True)


if __name__ == "__main__":
    {"http2": http2, "slow": slow}[sys.argv[1]](*sys.argv[2:])
