"""A service as OpenAI and Anthropic shape theirs, over TLS, which writes down what it gets.

    python3 upstream.py CERTIFICATE KEY LOG

Says "listening PORT" once it does. Each request becomes one line of JSON in LOG; /stream sends a
frame every tenth of a second until it is hung up on, and /stream's end is written down as well.
/events/COUNT/MILLISECONDS sends so many numbered frames at that pace; /flood/MEGABYTES sends as fast as
it is read, and writes down how far it came whenever that has not changed for a second.
"""
import base64
import gzip
import json
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

certificate, key, log = sys.argv[1:4]
lock = threading.Lock()
busy = {}


def note(what):
    with lock, open(log, "a") as file:
        file.write(json.dumps({"time": time.time(), **what}) + "\n")


class Service(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def body(self):
        if "chunked" in self.headers.get("transfer-encoding", ""):
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def answer(self, body, kind="application/json", status=200, headers=()):
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def begin_stream(self):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()

    def frame(self, text):
        data = text.encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def end_stream(self):
        self.wfile.write(b"0\r\n\r\n")

    def serve(self):
        body = self.body()
        note({"method": self.command, "path": self.path, "headers": list(self.headers.items()),
              "body": body.decode("latin-1")[:2000]})
        path = self.path.split("?")[0]
        try:
            asked = json.loads(body)
        except ValueError:
            asked = {}
        if path == "/v1/chat/completions" and asked.get("stream"):
            self.begin_stream()
            for word in ("hel", "lo"):
                chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m",
                         "choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]}
                self.frame(f"data: {json.dumps(chunk)}\n\n")
                time.sleep(asked.get("slow", 0))
            if usage := asked.get("usage"):
                self.frame("data: " + json.dumps({"model": asked["model"], "choices": [], "usage": usage}) + "\n\n")
            self.frame("data: [DONE]\n\n")
            self.end_stream()
        elif path == "/v1/chat/completions":
            # What is asked to be stated as its use is stated.
            used = {"usage": asked["usage"]} if "usage" in asked else {}
            self.answer({"id": "c", "object": "chat.completion", "created": 1, "model": asked.get("model", "m"),
                         "choices": [{"index": 0, "finish_reason": "stop",
                                      "message": {"role": "assistant", "content": "hello"}}], **used})
        elif path == "/v1/messages" and asked.get("stream"):
            self.begin_stream()
            given = asked["usage"]
            first = {**given, "output_tokens": 1}
            events = [{"type": "message_start", "message": {"model": asked["model"], "usage": first}},
                      {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "hello"}},
                      {"type": "message_delta", "usage": {"output_tokens": given["output_tokens"]}},
                      {"type": "message_stop"}]
            for event in events:
                self.frame(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n")
            self.end_stream()
        elif path == "/v1/messages":
            self.answer({"id": "m", "type": "message", "role": "assistant", "model": "m",
                         "content": [{"type": "text", "text": "hello"}], "stop_reason": "end_turn",
                         "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1}})
        elif path == "/reflect":
            given = self.headers.get("authorization", "").removeprefix("Bearer ")
            seen = {"plain": given, "base64": base64.b64encode(f"user:{given}".encode()).decode(),
                    "hex": given.encode().hex()}
            self.answer(seen, headers=[("x-seen", given)])
        elif path == "/reflect-in-two":
            given = self.headers.get("authorization", "").removeprefix("Bearer ")
            self.begin_stream()
            self.frame(f"data: {given[:9]}")
            time.sleep(0.2)
            self.frame(f"{given[9:]}\n\n")
            self.end_stream()
        elif path == "/reflect-compressed":
            given = self.headers.get("authorization", "").removeprefix("Bearer ")
            self.answer(gzip.compress(given.encode()), headers=[("content-encoding", "gzip")])
        elif path.startswith("/busy/"):
            # /busy/TIMES/AFTER/NAME: so often it says that it is, and when to come again.
            times, after, name = path.split("/")[2:5]
            with lock:
                done = busy[name] = busy.get(name, 0) + 1
            if done <= int(times):
                self.answer({"error": "busy"}, status=429, headers=[("retry-after", after)] if after != "-" else [])
            else:
                self.answer({"done": done})
        elif path == "/flood":
            self.begin_stream()
            try:
                while True:
                    self.frame("x" * 65536)
            except OSError:
                note({"ended": time.time()})
        elif path == "/million":
            self.answer(b"x" * 1_000_000, kind="text/plain")
        elif path == "/elsewhere":
            self.answer(b"", status=302, headers=[("location", "https://elsewhere.invalid/")])
        elif path == "/stream":
            self.begin_stream()
            began = time.monotonic()
            try:
                while time.monotonic() - began < 30:
                    self.frame("data: tick\n\n")
                    time.sleep(0.1)
            except OSError:
                note({"ended": time.time()})
        elif path.startswith("/events/"):
            count, millis = (int(part) for part in path.split("/")[2:])
            self.begin_stream()
            try:
                for number in range(count):
                    self.frame(f"data: {number}\n\n")
                    time.sleep(millis / 1000)
                self.end_stream()
            except OSError:
                note({"ended": time.time(), "was": path})
        elif path.startswith("/flood/"):
            self.flood(int(path.split("/")[2]))
        else:
            self.answer({"method": self.command, "path": self.path, "bytes": len(body)})

    def flood(self, megabytes):
        self.begin_stream()
        sent, over = [0], threading.Event()

        def watch():
            before = -1
            while not over.wait(1):
                if before == sent[0]:
                    note({"stalled": before})
                before = sent[0]

        threading.Thread(target=watch, daemon=True).start()
        try:
            for _ in range(megabytes * 16):
                self.frame("x" * 65536)
                sent[0] += 65536
            self.end_stream()
        finally:
            over.set()

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = serve


class Server(ThreadingHTTPServer):
    """Takes a thousand connections at the same moment; Python's own queue has five places."""

    request_queue_size = 2048
    daemon_threads = True


server = Server(("127.0.0.1", 0), Service)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
# Each handshake is its own thread's, which no other connection waits for.
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
print("listening", server.server_port, flush=True)
server.serve_forever()
