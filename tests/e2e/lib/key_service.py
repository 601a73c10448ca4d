"""A service on this machine that makes keys as OpenRouter publishes it, in a process of its own.

Prints its address, and listens until its standard input ends. `--secret S` is what an administrator
shows. Beside the published interface: GET /state tells what it has, POST /away and /back make it
answer with 503 or not, and GET /api/v1/key says whether a key is good.
"""
import argparse
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

words = argparse.ArgumentParser()
words.add_argument("--secret", required=True)
secret = words.parse_args().secret
lock = threading.Lock()
keys, made, away = {}, 0, False


class Service(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def say(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do(self, method):
        global made, away
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        path = self.path.split("?")[0]
        shown = self.headers.get("authorization", "").removeprefix("Bearer ")
        with lock:
            if path == "/state":
                return self.say(200, {"keys": len(keys), "made": made, "limits": [k["limit"] for k in keys.values()]})
            if (method, path) in [("POST", "/away"), ("POST", "/back")]:
                away = path == "/away"
                return self.say(200, {})
            if away:
                return self.say(503, {"error": {"code": 503, "message": "back soon"}})
            if path == "/api/v1/key":
                good = any(key["key"] == shown for key in keys.values())
                return self.say(200 if good else 401, {})
            if shown != secret:
                return self.say(401, {"error": {"code": 401, "message": "not an administrator"}})
            if (method, path) == ("GET", "/api/v1/keys"):
                return self.say(200, {"data": [{"hash": h, "name": k["name"]} for h, k in keys.items()]})
            if (method, path) == ("POST", "/api/v1/keys"):
                wish = json.loads(body)
                made += 1
                number, key = f"hash{made}", f"sk-or-v1-made-{made:04}"
                keys[number] = {"name": wish["name"], "key": key, "limit": wish["limit"]}
                return self.say(201, {"data": {"hash": number, "name": wish["name"]}, "key": key})
            if method == "DELETE" and path.startswith("/api/v1/keys/"):
                gone = keys.pop(path.removeprefix("/api/v1/keys/"), None)
                return self.say(200 if gone else 404, {"deleted": bool(gone)})
        self.say(400, {"error": {"code": 400, "message": "no such thing"}})

    def do_GET(self):
        self.do("GET")

    def do_POST(self):
        self.do("POST")

    def do_DELETE(self):
        self.do("DELETE")


server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
sys.stdin.read()
