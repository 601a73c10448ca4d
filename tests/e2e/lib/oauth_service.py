"""A service that wants access tokens of OAuth 2, and where they are got, over TLS.

    python3 oauth_service.py CERTIFICATE KEY LOG CLIENT_ID CLIENT_SECRET REFRESH_TOKEN

POST /token gives tokens by client credentials or the refresh token, which each answer replaces: one that is
sent twice ends all of them. /control?life=SECONDS, ?drop=1, ?mood=WORD, from outside, set what comes next.
"""
import base64
import json
import secrets
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote_plus

certificate, key, log, client_id, client_secret, refresh = sys.argv[1:7]
lock = threading.Lock()
state = {"life": 3600, "mood": "", "refresh": refresh, "spent": set(), "tokens": {}}


def note(what):
    with lock, open(log, "a") as file:
        file.write(json.dumps(what) + "\n")


class Service(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body, headers=()):
        body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def token(self, form):
        note({"grant": form.get("grant_type"), "scope": form.get("scope"), "fields": sorted(form),
              "basic": "authorization" in self.headers})
        time.sleep(0.3)
        if state["mood"] == "elsewhere":
            return self.answer(302, {}, [("location", "https://127.0.0.1:1/token")])
        if state["mood"] == "busy":
            return self.answer(503, {"error": "temporarily_unavailable"}, [("retry-after", "7")])
        if state["mood"] == "huge":
            return self.answer(200, {"access_token": "x" * 1_000_000})
        basic = self.headers.get("authorization", "")
        pair = base64.b64decode(basic.removeprefix("Basic ")).decode().partition(":")
        if (unquote_plus(pair[0]), unquote_plus(pair[2])) != (client_id, client_secret):
            return self.answer(401, {"error": "invalid_client", "error_description": "SHOWN " + client_secret})
        given = {}
        with lock:
            if form.get("grant_type") == "refresh_token":
                if form["refresh_token"] in state["spent"]:
                    state["tokens"].clear()
                    state["refresh"] = None
                if form["refresh_token"] != state["refresh"]:
                    return self.answer(400, {"error": "invalid_grant"})
                state["spent"].add(state["refresh"])
                state["refresh"] = "rt-" + secrets.token_hex(16)
                given["refresh_token"] = state["refresh"]
            token = "at-" + secrets.token_hex(16)
            state["tokens"][token] = time.time() + state["life"]
        self.answer(200, {"access_token": token, "token_type": "Bearer", "expires_in": state["life"], **given})

    def serve(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
        path, _, query = self.path.partition("?")
        form = {name: values[0] for name, values in parse_qs(body if path == "/token" else query).items()}
        if path == "/token":
            return self.token(form)
        if path == "/control":
            if form.pop("drop", None):
                state["tokens"].clear()
            state.update({name: int(value) if name == "life" else value.strip() for name, value in form.items()})
            return self.answer(200, {})
        given = self.headers.get("authorization", "").removeprefix("Bearer ")
        good = state["tokens"].get(given, 0) > time.time()
        note({"method": self.command, "path": self.path, "good": good, "given": given, "body": len(body)})
        if not good:
            return self.answer(401, {"error": "invalid_token"}, [("www-authenticate", "Bearer")])
        if path == "/reflect":
            return self.answer(200, {"token": given, "refresh": state["refresh"], "secret": client_secret})
        self.answer(200, {"path": path})

    do_GET = do_POST = serve


class Server(ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True


server = Server(("127.0.0.1", 0), Service)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
print("listening", server.server_port, flush=True)
server.serve_forever()
