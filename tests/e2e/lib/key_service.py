"""Services on this machine that make keys as OpenRouter, OpenAI, GitHub and AWS publish it, in a
process of its own.

Prints its address, and listens until its standard input ends. `--secret S` is what an administrator
of OpenRouter and OpenAI shows; an app's token and AWS's signature are looked at for their form
alone (tests/it/provider_services.rs checks both). Beside the published interfaces: GET /state tells what it has, POST /away and /back make it
answer with 503 or not, and GET /api/v1/key says whether a key is good.
"""
import argparse
import datetime
import json
import sys
import urllib.parse
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

words = argparse.ArgumentParser()
words.add_argument("--secret", required=True)
secret = words.parse_args().secret
lock = threading.Lock()
keys, made, away = {}, 0, False
OPENAI = "/v1/organization/projects/proj_e2e/service_accounts"


def in_an_hour():
    end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=1)
    return end.strftime("%Y-%m-%dT%H:%M:%SZ")


class Service(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def say(self, status, value):
        xml = isinstance(value, str)
        body = value.encode() if xml else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "text/xml" if xml else "application/json")
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
            if (method, path) == ("POST", "/"):
                return self.assume_role(body)
            if (method, path) == ("POST", "/app/installations/42/access_tokens"):
                if shown.count(".") != 2:
                    return self.say(401, {"message": "not an app"})
                made += 1
                keys[f"ghs_{made:036}"] = {"name": "token", "key": f"ghs_{made:036}", "limit": None}
                return self.say(201, {"token": f"ghs_{made:036}", "expires_at": in_an_hour()})
            if (method, path) == ("DELETE", "/installation/token"):
                gone = keys.pop(shown, None)
                return self.say(204 if gone else 401, {})
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
            if (method, path) == ("GET", OPENAI):
                data = [{"id": h, "name": k["name"]} for h, k in keys.items()]
                return self.say(200, {"object": "list", "data": data, "has_more": False})
            if (method, path) == ("POST", OPENAI):
                made += 1
                number, key = f"svc_{made}", f"sk-svcacct-made-{made:04}"
                keys[number] = {"name": json.loads(body)["name"], "key": key, "limit": None}
                return self.say(200, {"id": number, "api_key": {"value": key}})
            if method == "DELETE" and path.startswith(OPENAI + "/"):
                gone = keys.pop(path.removeprefix(OPENAI + "/"), None)
                return self.say(200 if gone else 404, {"deleted": bool(gone)})
            if method == "DELETE" and path.startswith("/api/v1/keys/"):
                gone = keys.pop(path.removeprefix("/api/v1/keys/"), None)
                return self.say(200 if gone else 404, {"deleted": bool(gone)})
        self.say(400, {"error": {"code": 400, "message": "no such thing"}})

    def assume_role(self, body):
        global made
        asked = dict(urllib.parse.parse_qsl(body.decode()))
        signed = self.headers.get("authorization", "").startswith("AWS4-HMAC-SHA256 Credential=AKIA")
        if not signed or asked.get("Action") != "AssumeRole":
            return self.say(403, "<ErrorResponse><Error><Message>no</Message></Error></ErrorResponse>")
        made += 1
        name = asked["RoleSessionName"]
        keys[f"aws{made}"] = {"name": name, "key": f"ASIA{made:016}", "limit": None}
        self.say(200, f"<AssumeRoleResponse><AssumeRoleResult><Credentials>"
                      f"<AccessKeyId>ASIA{made:016}</AccessKeyId>"
                      f"<SecretAccessKey>aws-secret-{made}</SecretAccessKey>"
                      f"<SessionToken>aws-session-{made}</SessionToken>"
                      f"<Expiration>{in_an_hour()}</Expiration>"
                      f"</Credentials></AssumeRoleResult></AssumeRoleResponse>")

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
