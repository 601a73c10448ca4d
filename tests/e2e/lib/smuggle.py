"""An agent that speaks the wire itself, and tells the service of a body that does not come, so that
the service would take the beginning of the next request, with another agent's key, for it.

    python3 smuggle.py SOCKET LOG
"""
import http.client
import json
import socket
import sys

place, log = sys.argv[1:3]
KIND = "application/vnd.agentkeys.exchange"


class Backend(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(place)


def ask(path, body, token=None, kind="application/json"):
    headers = {"content-type": kind, "host": "agentkeys"}
    if token:
        headers["authorization"] = f"Bearer {token}"
    backend = Backend("agentkeys")
    backend.request("POST", path, body, headers)
    answer = backend.getresponse()
    return answer.status, answer.read()


def signed_in(path, fields, token=None):
    status, body = ask(path, json.dumps(fields), token)
    assert status == 200, body
    return json.loads(body)["session"]


master = signed_in("/session/create", {})
agent = signed_in("/session/child", {"agent_id": "my-agent", "scope": {"read_only": True}}, master)


def forward(target, headers, body):
    head = json.dumps({"agent_id": "my-agent", "service": "my-api", "method": "POST", "target": target,
                       "headers": headers, "body": body}).encode()
    return ask("/gateway/forward", len(head).to_bytes(4, "big") + head, agent, KIND)


for n in range(3):
    status, _ = forward(f"/smuggled-{n}", [["content-length", "60"]], False)
    assert status == 200, status
    status, _ = forward(f"/after-{n}", [], False)
    assert status == 200, status
seen = {}
for line in open(log):
    got = json.loads(line)
    seen[got.get("path")] = got.get("body")
for n in range(3):
    assert seen[f"/smuggled-{n}"] == "", seen
    assert seen[f"/after-{n}"] == "", seen
print("ok: each request is its own")
