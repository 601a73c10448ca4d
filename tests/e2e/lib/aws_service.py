"""Stands for AWS, over TLS: takes requests whose Signature Version 4 is right by the real secret, as AWS's
documentation describes it (written apart from ours), and as its own SDK makes it; and writes down what it gets.

    python3 aws_service.py CERTIFICATE KEY LOG ACCESS_KEY_ID SECRET SESSION_TOKEN

A request is S3's if its signature says so: PUT keeps a body, GET gives it, "reflect" gives what was sent of
the key. All others are answered as GetCallerIdentity is.
"""
import datetime
import hashlib
import hmac
import json
import ssl
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, unquote, unquote_plus

try:
    from botocore.auth import S3SigV4Auth, SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials
except ImportError:
    SigV4Auth = None

certificate, key, log, access_key_id, secret, session_token = sys.argv[1:7]
lock = threading.Lock()
kept = {}


def by_its_own_sdk(asked, names, region, service, body):
    """The same signature, by AWS's SDK for Python."""
    headers = {name: asked.headers[name] for name in names}
    request = AWSRequest(asked.command, f"https://{asked.headers['host']}{asked.path}", headers=headers, data=body)
    request.context["timestamp"] = asked.headers["x-amz-date"]
    request.context["payload_signing_enabled"] = True
    signer = (S3SigV4Auth if service == "s3" else SigV4Auth)(Credentials(access_key_id, secret), service, region)
    text = signer.string_to_sign(request, signer.canonical_request(request))
    return signer.signature(text, request)


def mac(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def chunked(stream):
    parts = []
    while size := int(stream.readline().split(b";")[0], 16):
        parts.append(stream.read(size))
        stream.readline()
    while stream.readline().strip():
        pass
    return b"".join(parts)


class Aws(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def wrong(self, body):
        """What is wrong with the signature."""
        given = self.headers.get_all("authorization") or []
        if len(given) != 1 or not given[0].startswith("AWS4-HMAC-SHA256 "):
            return "one signature is wanted"
        fields = dict(part.strip().split("=", 1) for part in given[0].split(" ", 1)[1].split(","))
        got_id, day, region, service, _ = fields["Credential"].split("/")
        names = fields["SignedHeaders"].split(";")
        if got_id != access_key_id:
            return "another access key"
        if self.headers.get_all("x-amz-security-token") != ([session_token] if session_token else None):
            return "another session token"
        date = self.headers["x-amz-date"]
        age = datetime.datetime.now(datetime.UTC) - datetime.datetime.strptime(date + "+0000", "%Y%m%dT%H%M%SZ%z")
        if abs(age.total_seconds()) > 300 or not date.startswith(day):
            return "its time"
        unsigned = [name for name in map(str.lower, self.headers) if name.startswith("x-amz-") and name not in names]
        if unsigned or "host" not in names:
            return f"not signed: {unsigned}"
        payload = self.headers["x-amz-content-sha256"]
        if not payload.startswith(("UNSIGNED", "STREAMING-UNSIGNED")) and payload != hashlib.sha256(body).hexdigest():
            return "the hash of its body"
        path, _, query = self.path.partition("?")
        self.region, self.service = region, service
        path = quote(unquote(path), safe="/~") if service == "s3" else quote(path, safe="/~")
        pairs = sorted(
            "=".join(quote(unquote_plus(part), safe="~") for part in (pair.partition("=")[0], pair.partition("=")[2]))
            for pair in query.split("&") if pair
        )
        lines = "".join(f"{name}:{','.join(' '.join(v.split()) for v in self.headers.get_all(name))}\n" for name in names)
        canonical = "\n".join([self.command, path, "&".join(pairs), lines, ";".join(names), payload])
        text = "\n".join(["AWS4-HMAC-SHA256", date, f"{day}/{region}/{service}/aws4_request",
                          hashlib.sha256(canonical.encode()).hexdigest()])
        key = b"AWS4" + secret.encode()
        for part in (day, region, service, "aws4_request"):
            key = mac(key, part)
        if mac(key, text).hex() != fields["Signature"]:
            return "the signature"
        if SigV4Auth and "+" not in query and by_its_own_sdk(self, names, region, service, body) != fields["Signature"]:
            return "the signature, as AWS's own SDK makes it"
        self.signed_by = given[0]
        return None

    def answer(self, status, body, kind):
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def serve(self):
        if "chunked" in self.headers.get("transfer-encoding", ""):
            body = chunked(self.rfile)
        else:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
        wrong = self.wrong(body)
        with lock, open(log, "a") as file:
            file.write(json.dumps({"method": self.command, "path": self.path, "headers": list(self.headers.items()),
                                   "wrong": wrong}) + "\n")
        if wrong:
            return self.answer(403, f"<Error><Code>SignatureDoesNotMatch</Code><Message>{wrong}</Message></Error>".encode(),
                               "application/xml")
        if self.service != "s3":
            if self.service == "dynamodb":
                return self.answer(200, json.dumps({"TableNames": [body.decode()]}).encode(), "application/x-amz-json-1.0")
            return self.answer(200, b"<GetCallerIdentityResponse><GetCallerIdentityResult><Account>123456789012</Account>"
                               b"<Arn>arn:aws:iam::123456789012:user/agent</Arn><UserId>A</UserId></GetCallerIdentityResult>"
                               b"</GetCallerIdentityResponse>", "text/xml")
        name = self.headers["host"] + self.path.split("?")[0]
        if self.command == "PUT":
            if "aws-chunked" in self.headers.get("content-encoding", ""):
                import io
                body = chunked(io.BytesIO(body))
            kept[name] = body
            return self.answer(200, b"", "application/xml")
        if name.endswith("/reflect"):
            seen = {"token": session_token, "secret": secret, "signed": self.signed_by}
            return self.answer(200, json.dumps(seen).encode(), "application/json")
        if name not in kept:
            return self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>", "application/xml")
        self.answer(200, kept[name], "application/octet-stream")

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = serve


class Server(ThreadingHTTPServer):
    daemon_threads = True


server = Server(("127.0.0.1", 0), Aws)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
print("listening", server.server_port, flush=True)
server.serve_forever()
