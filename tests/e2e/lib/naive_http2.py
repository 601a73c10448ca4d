"""A server of HTTP/2 that keeps to the protocol and to no limit but that on requests at once: each request
is begun as it comes, and one that is taken back makes room for the next. What floods.py does, it takes.

    python3 naive_http2.py CERTIFICATE KEY

Says "listening PORT" once it does.
"""
import socket
import ssl
import sys
import threading
import time

context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
context.set_alpn_protocols(["h2"])
MOST = 128


def unpacked(head, known):
    """The fields of a head, as far as floods.py makes them: plain texts, and what is remembered."""
    fields, at = [], 0

    def number(prefix):
        nonlocal at
        value, shift = head[at] & prefix, 0
        at += 1
        if value < prefix:
            return value
        while True:
            part = head[at]
            value, shift, at = value + ((part & 127) << shift), shift + 7, at + 1
            if part < 128:
                return value

    def text():
        nonlocal at
        size = number(127)
        at += size
        return head[at - size : at]

    while at < len(head):
        first = head[at]
        if first & 0x80:
            index = number(127)
            fields.append(bytes(bytearray(known[index - 62])) if index >= 62 else b"")
        else:
            at += 1
            name, value = text(), text()
            fields.append(name + value)
            if first == 0x40:
                known.insert(0, value)
    return fields


def serve(client):
    stream = context.wrap_socket(client, server_side=True)
    file = stream.makefile("rb")
    file.read(24)
    stream.sendall(b"\0\0\0\4\0\0\0\0\0")
    under_way, known, held, kept, whose = set(), [], [], [], 0
    while len(head := file.read(9)) == 9:
        size, kind, flags, number = int.from_bytes(head[:3], "big"), head[3], head[4], int.from_bytes(head[5:], "big")
        body = file.read(size)
        if kind in (1, 9):
            whose = number
            held.append(body)
            if flags & 4:
                kept.append(unpacked(b"".join(held), known))
                held.clear()
                assert len(under_way) < MOST
                under_way.add(whose)
                # What a request costs: a thousand times more than to ask for it.
                time.sleep(0.0001)
        elif kind == 3:
            under_way.discard(number)
            kept.clear()
        elif kind == 8 and number and not any(body):
            # The client is in error, so its request is taken back from here.
            under_way.discard(number)
            kept.clear()
            stream.sendall(b"\0\0\4\3\0" + head[5:] + b"\0\0\0\1")
        elif kind in (4, 6) and not flags & 1:
            stream.sendall((b"\0\0\0\4\1\0\0\0\0") if kind == 4 else b"\0\0\x08\6\1\0\0\0\0" + body)


listener = socket.create_server(("127.0.0.1", 0))
print("listening", listener.getsockname()[1], flush=True)
while True:
    accepted, _ = listener.accept()
    threading.Thread(target=serve, args=(accepted,), daemon=True).start()
