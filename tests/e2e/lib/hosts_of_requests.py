"""An agent that speaks the wire itself, and names as its service's host whatever leads elsewhere.

    python3 hosts_of_requests.py SOCKET SERVICE [HOST]...

Fails if one is not refused; the service's own host, given first, is not.
"""
import http.client
import json
import socket
import sys

place, service, *hosts = sys.argv[1:]


class Backend(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(place)


def ask(path, body, token=None, kind="application/json"):
    headers = {"content-type": kind, "host": "agentkeys", **({"authorization": f"Bearer {token}"} if token else {})}
    backend = Backend("agentkeys")
    backend.request("POST", path, body, headers)
    answer = backend.getresponse()
    return answer.status, answer.read()


master = json.loads(ask("/session/create", "{}")[1])["session"]
agent = json.loads(ask("/session/child", json.dumps({"agent_id": "my-agent", "scope": {"read_only": True}}), master)[1])["session"]
for number, host in enumerate(hosts):
    head = json.dumps({"agent_id": "my-agent", "service": service, "host": host, "method": "GET", "target": "/host",
                       "headers": [], "body": False}).encode()
    status, body = ask("/gateway/forward", len(head).to_bytes(4, "big") + head, agent, "application/vnd.agentkeys.exchange")
    assert (status == 200) == (number == 0), (host, status, body)
    print(f"ok: {status} for {host}")
