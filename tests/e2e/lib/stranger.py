"""Somebody whose session has ended sends the gateway the head of a small request, and never its body.

    python3 stranger.py SOCKET TOKEN AGENT SERVICE

Says the status of the answer, and after how many seconds it came.
"""
import json
import socket
import sys
import time

path, token, agent, service = sys.argv[1:]
head = json.dumps({"agent_id": agent, "service": service, "method": "POST", "target": "/x",
                   "headers": [["content-length", "1000"]], "body": True}).encode()
stream = socket.socket(socket.AF_UNIX)
stream.settimeout(20)
stream.connect(path)
first = len(head).to_bytes(4, "big") + head
stream.sendall(b"POST /gateway/forward HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + token.encode()
               + b"\r\nContent-Type: application/vnd.agentkeys.exchange\r\nTransfer-Encoding: chunked\r\n\r\n"
               + b"%x\r\n%s\r\n" % (len(first), first))
began = time.monotonic()
status = stream.recv(4096).split(b" ")[1].decode()
print(status, int(time.monotonic() - began))
