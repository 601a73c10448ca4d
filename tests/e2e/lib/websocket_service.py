"""A service of WebSockets over TLS, which writes down what it is asked with.

    python3 websocket_service.py CERTIFICATE KEY LOG

/echo sends back what comes, /reflect the key that it was asked with, /ticks a word every tenth of a
second.
"""
import json
import ssl
import sys
import time

from websockets.sync.server import serve

certificate, key, log = sys.argv[1:4]


def handle(socket):
    request = socket.request
    with open(log, "a") as file:
        file.write(json.dumps({"path": request.path, "headers": list(request.headers.raw_items())}) + "\n")
    if request.path == "/reflect":
        given = request.headers["Authorization"].removeprefix("Bearer ")
        socket.send(given)
        socket.send(("x" * 70_000 + given).encode())
        return
    try:
        if request.path == "/ticks":
            while True:
                socket.send("tick")
                time.sleep(0.1)
        for message in socket:
            socket.send(message)
    except Exception as error:
        with open(log, "a") as file:
            file.write(json.dumps({"ended": str(error)}) + "\n")


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
server = serve(handle, "127.0.0.1", 0, ssl=context, max_size=None)
print("listening", server.socket.getsockname()[1], flush=True)
server.serve_forever()
