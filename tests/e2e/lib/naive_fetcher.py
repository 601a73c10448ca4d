"""A gateway as one writes it in an afternoon: it puts the key in, asks by the language's own HTTP client,
follows redirects, and unpacks the answer in order to look for the key in it. Before it asks, it looks up
the name and refuses one that is private, as is often advised; and then it asks by the name.

    python3 naive_fetcher.py CA KEY [NAME=ADDRESS]...

Says "listening PORT" once it does. GET /NAME/PATH asks ADDRESS/PATH; of a proxy it takes any address.
"""
import ipaddress
import socket
import ssl
import sys
import urllib.error
import urllib.parse
import urllib.request
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ca, key, *services = sys.argv[1:]
services = dict(one.split("=", 1) for one in services)
context = ssl.create_default_context(cafile=ca)
context.check_hostname = False
opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), urllib.request.ProxyHandler({}))


def seems_public(url):
    host = urllib.parse.urlsplit(url).hostname
    try:
        address = ipaddress.ip_address(socket.gethostbyname(host))
    except OSError:
        # It has none of the old kind, so there is nothing to be afraid of.
        return True
    return not address.is_private


class Gateway(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        url = self.path
        checked = True
        if url.startswith("/"):
            name, _, rest = url[1:].partition("/")
            # "unchecked-NAME" is the same without even that look.
            checked, name = not name.startswith("unchecked-"), name.removeprefix("unchecked-")
            url = f"{services[name]}/{rest}"
        status, body = 403, b"private"
        if not checked or seems_public(url):
            request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}", "Accept-Encoding": "gzip"})
            try:
                with opener.open(request, timeout=5) as answer:
                    status, body = answer.status, answer.read()
                    if answer.headers.get("content-encoding") == "gzip":
                        body = zlib.decompressobj(31).decompress(body, 512 << 20)
            except (urllib.error.URLError, OSError) as error:
                status, body = 502, str(error).encode()
            body = body.replace(key.encode(), b"*")
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


listener = ThreadingHTTPServer(("127.0.0.1", 0), Gateway)
print("listening", listener.server_port, flush=True)
listener.serve_forever()
