"""A program that speaks WebSocket, as the `websockets` package does from its environment.

    python3 websocket_client.py ADDRESS KEY
"""
import sys

from websockets.sync.client import connect

address, key = sys.argv[1:3]
for headers in ({"Authorization": f"Bearer {key}"},) + (({},) if address.startswith("wss:") else ()):
    with connect(address + "/echo", additional_headers=headers, max_size=None) as socket:
        for message in ("hello", "it is s", b"\x00" * 300_000, "ä" * 5000):
            socket.send(message)
            assert socket.recv(timeout=10) == message
        assert socket.ping().wait(10)
    assert socket.protocol.close_rcvd.code == 1000, socket.protocol.close_rcvd
with connect(address + "/reflect", additional_headers=headers, max_size=None) as socket:
    said, more = socket.recv(timeout=10), socket.recv(timeout=10)
    assert said == "*" * len(said) and len(said) > 20, said
    assert more == b"x" * 70_000 + said.encode()
    assert not socket.protocol.extensions, socket.protocol.extensions
print("ok:", address.split(":")[0])
