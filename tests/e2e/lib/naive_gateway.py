"""A gateway without any of the checks of ours: it puts the key where the stand-in is, and passes all
else on as it comes. What attacks.py tries gets through here.

    python3 naive_gateway.py UPSTREAM_PORT CA KEY

Says "listening PORT" once it does. Any bearer token is taken for the stand-in.
"""
import re
import socket
import ssl
import sys
import threading

port, ca, key = int(sys.argv[1]), sys.argv[2], sys.argv[3].encode()
context = ssl.create_default_context(cafile=ca)


def pump(source, target):
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        pass
    finally:
        try:
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass


def serve(client):
    head = b""
    while b"\r\n\r\n" not in head:
        part = client.recv(65536)
        if not part:
            return
        head += part
    head, rest = head.split(b"\r\n\r\n", 1)
    head = re.sub(rb"(?i)(authorization: bearer )[^\r\n]+", rb"\1" + key, head)
    head = re.sub(rb"^(\S+ \S*?)/my-api", rb"\1", head)
    upstream = context.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname="127.0.0.1")
    upstream.sendall(head + b"\r\n\r\n" + rest)
    threading.Thread(target=pump, args=(client, upstream), daemon=True).start()
    pump(upstream, client)
    client.close()


listener = socket.create_server(("127.0.0.1", 0))
print("listening", listener.getsockname()[1], flush=True)
while True:
    accepted, _ = listener.accept()
    threading.Thread(target=serve, args=(accepted,), daemon=True).start()
