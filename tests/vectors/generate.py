#!/usr/bin/env python3
"""Writes the vectors beside this file from docs/wire-bytes.md and docs/auth-request.cddl alone.

A second implementation of every byte string that AgentKeys hashes, signs or seals: it must never
call the Rust code, or the vectors would prove nothing. Everything is fixed, so a run over an
unchanged specification changes no file.

    python3 -m venv /tmp/vectors
    /tmp/vectors/bin/pip install cbor2==6.2.1 cryptography==50.0.2 pyhpke==0.6.5 pycddl==0.6.4
    /tmp/vectors/bin/python tests/vectors/generate.py
"""
import datetime
import hashlib
import hmac
import json
import pathlib
import unicodedata

import cbor2
import pycddl
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pyhpke import AEADId, CipherSuite, KDFId, KEMId

HERE = pathlib.Path(__file__).resolve().parent
DOCS = HERE.parent.parent / "docs"


def sha256(data):
    return hashlib.sha256(data).digest()


def drawn(label, length):
    """Fixed bytes that stand in for random ones."""
    return hashlib.shake_256(label.encode()).digest(length)


def number(value, size):
    return value.to_bytes(size, "big")


# Deterministic CBOR, by hand: short enough to be checked by eye against RFC 8949.
def head(major, value):
    if value < 24:
        return bytes([major << 5 | value])
    for code, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if value < 1 << 8 * size:
            return bytes([major << 5 | code]) + number(value, size)
    raise ValueError("over 64 bits")


def cbor(value):
    if value is False or value is True:
        return b"\xf5" if value else b"\xf4"
    if isinstance(value, int):
        return head(0, value)
    if isinstance(value, bytes):
        return head(2, len(value)) + value
    if isinstance(value, str):
        data = value.encode()
        return head(3, len(data)) + data
    if isinstance(value, list):
        return head(4, len(value)) + b"".join(map(cbor, value))
    pairs = sorted((cbor(key), cbor(item)) for key, item in value.items())
    return head(5, len(pairs)) + b"".join(key + item for key, item in pairs)


def canonical(value):
    """The deterministic bytes; two encoders must agree on them."""
    ours = cbor(value)
    assert ours == cbor2.dumps(value, canonical=True), value
    return ours


def frame(domain, *fields):
    return b"".join(number(len(f), 4) + f for f in (domain.encode(), *fields))


def optional(field):
    return (b"\0",) if field is None else (b"\1", field)


def rfc3339(millis):
    when = datetime.datetime.fromtimestamp(millis // 1000, datetime.timezone.utc)
    return when.strftime("%Y-%m-%dT%H:%M:%S") + f".{millis % 1000:03}Z"


def wallet(label):
    return drawn(f"wallet {label}", 20)


def shown(data):
    return "0x" + data.hex()


MASTER = Ed25519PrivateKey.from_private_bytes(drawn("master seed", 32))


def public(key):
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def jsonable(value, key=None):
    """CBOR value -> its JSON form: wallet addresses with 0x, other bytes plain, times as text."""
    if isinstance(value, dict):
        return {k: jsonable(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [jsonable(v) for v in value]
    if isinstance(value, bytes):
        return shown(value) if len(value) == 20 else value.hex()
    if key in ("time", "expires_at", "created_at", "at", "since"):
        return rfc3339(value)
    return value


# ---- auth requests ----
ALL = {"read_only": False}
NONE = {"services": [], "read_only": False}
FULL = {"services": ["anthropic", "github", "open-router.v2_x"], "read_only": True}
LONG = {"services": sorted(f"{n:03}" + "s" * 60 for n in range(256)), "read_only": False}
EMOJI = "\U0001F600 \u00fc \u65e5\u672c\u8a9e"
RELEASE = {
    "agent": wallet("bot"),
    "body": sha256(b'{"model":"x"}'),
    "currency": "USD",
    "host": "openrouter.ai",
    "method": "POST",
    "path": "/api/v1/credits?n=1",
    "service": "openrouter",
}


def release(amount, **more):
    return "HighValueRelease", {**RELEASE, "amount": amount, **more}


CASES = {
    "pair, nothing but the default scope": ("Pair", {"scope": ALL}),
    "pair, no service": ("Pair", {"scope": NONE}),
    "pair, every field": (
        "Pair",
        {"host": "sandbox-7", "name": "My-Bot", "user": "root", "scope": FULL},
    ),
    "pair, read only, all services": ("Pair", {"scope": {"read_only": True}}),
    "pair, unicode claims": (
        "Pair",
        {"host": "B\u00fcro-PC", "user": "\u65e5\u672c\u8a9e", "scope": ALL},
    ),
    "pair, claims of the greatest length": (
        "Pair",
        {"host": "\U0001F600" * 64, "name": "a" * 63, "user": "x" * 64, "scope": ALL},
    ),
    "pair, empty claims": ("Pair", {"host": "", "user": "", "scope": ALL}),
    "pair, the largest scope": ("Pair", {"name": "b", "scope": LONG}),
    "recover, by alias": ("Recover", {"agent": "My-Bot"}),
    "recover, by wallet address": ("Recover", {"agent": shown(wallet("bot"))}),
    "recover, by e-mail": ("Recover", {"agent": "bot+1@example.co.uk", "host": "laptop"}),
    "recover, by ENS name, every field": (
        "Recover",
        {"agent": "my.bot.eth", "host": "\u00c5ngstr\u00f6m", "user": EMOJI},
    ),
    "scope change, no reason": ("ScopeChange", {"agent": wallet("bot"), "scope": FULL}),
    "scope change, to nothing": (
        "ScopeChange",
        {"agent": wallet("bot"), "scope": NONE, "reason": ""},
    ),
    "scope change, unicode reason": (
        "ScopeChange",
        {"agent": wallet("bot"), "scope": ALL, "reason": f"f\u00fcr den Build: {EMOJI}"},
    ),
    "scope change, longest reason": (
        "ScopeChange",
        {"agent": wallet("bot"), "scope": ALL, "reason": "\u65e5" * 200},
    ),
    "release, amount 0": release(0),
    "release, amount 23": release(23),
    "release, amount 24": release(24),
    "release, amount 255": release(255, reason="top up"),
    "release, amount 256": release(256),
    "release, amount 65535": release(65535),
    "release, amount 65536": release(65536, path="/" + "p" * 199),
    "release, amount 2^32 - 1": release(2**32 - 1),
    "release, amount 2^32": release(2**32, reason=EMOJI),
    "release, amount 2^64 - 1": release(2**64 - 1, currency="micro-USD"),
    "key rotate": ("KeyRotate", {"agent": wallet("bot"), "old": drawn("old keys", 32)}),
    "key rotate, extreme bytes": ("KeyRotate", {"agent": b"\xff" * 20, "old": bytes(32)}),
}

SYMBOLS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
RULES = {
    "Pair": "pair",
    "Recover": "recover",
    "ScopeChange": "scope-change",
    "HighValueRelease": "high-value-release",
    "KeyRotate": "key-rotate",
}


def schema_of(kind):
    """The schema with the rule of one kind as its root."""
    return pycddl.Schema(f"root = {RULES[kind]}\n" + (DOCS / "auth-request.cddl").read_text())


def pair_code(tag):
    bits = int.from_bytes(tag[:5], "big")
    text = "".join(SYMBOLS[bits >> shift & 31] for shift in range(35, -1, -5))
    return f"{text[:4]}-{text[4:]}"


def auth_request(index, name, kind, details):
    data = canonical(details)
    schema_of(kind).validate_cbor(data)
    request = drawn(f"request {index}", 16)
    nonce = drawn(f"nonce {index}", 32)
    keys = drawn(f"child ed25519 {index}", 32) + drawn(f"child x25519 {index}", 32)

    def tag(domain):
        return hmac.digest(nonce, frame(domain, request, kind.encode(), data, keys), "sha256")

    otp = f"{int.from_bytes(tag('AgentKeys-v1-OTP')[:8], 'big') % 1_000_000:06}"
    created = 1_775_745_127_000 + 61_037 * index
    agent = details.get("agent") if isinstance(details.get("agent"), bytes) else None
    parent = None if kind in ("Pair", "Recover") else drawn(f"parent {index}", 16)
    backend, account = drawn("backend", 16), drawn("account", 16)
    granted = None
    if index % 4 != 3:
        granted = {
            "agent": agent or wallet("bot"),
            "scope": details.get("scope", ALL),
            "expires_at": created + 4 * 3600 * 1000,
        }
        if parent is None:
            granted["session_hash"] = sha256(f"payload {index}".encode())
    verdict = "denied" if granted is None else "approved"
    digest = sha256(
        frame(
            "AgentKeys-v1-AuthRequest",
            request,
            kind.encode(),
            data,
            keys,
            *optional(parent),
            number(created, 8),
            nonce,
            verdict.encode(),
            backend,
            account,
            *optional(None if granted is None else canonical(granted)),
        )
    )
    saw, named = shown_beside(index, kind, agent)
    seen = frame(
        "AgentKeys-v1-Seen",
        request,
        kind.encode(),
        data,
        keys,
        otp.encode(),
        number(created, 8),
        canonical(saw),
        *optional(None if named is None else canonical(named)),
    )
    return {
        "name": name,
        "kind": kind,
        "details": jsonable(details),
        "cbor": data.hex(),
        "request_id": request.hex(),
        "nonce": nonce.hex(),
        "nonce_hash": sha256(nonce).hex(),
        "child_pubkey": keys.hex(),
        "otp": otp,
        "pair_code": pair_code(tag("AgentKeys-v1-PairCode")),
        "saw": saw,
        "agent": named and jsonable(named),
        "seen_hash": sha256(seen).hex(),
        "decision": {
            "parent_session": parent and parent.hex(),
            "created_at": rfc3339(created),
            "verdict": verdict,
            "backend_id": backend.hex(),
            "account": account.hex(),
            "granted": granted and jsonable(granted),
            "digest": digest.hex(),
            "master_key": public(MASTER).hex(),
            "signature": MASTER.sign(digest).hex(),
        },
    }


def shown_beside(index, kind, agent):
    """What the backend saw of the child, and the agent as the one who decides is shown it."""
    saw = [
        {"address": ""},
        {"address": "192.0.2.7"},
        {"address": "unix socket", "uid": 1000, "program": "/usr/bin/agentkeys"},
        {"address": "2001:db8::1"},
    ][index % 4]
    if kind == "Pair":
        return saw, None
    born = 1_775_000_000_000 + index
    named = {
        "wallet": agent or wallet("bot"),
        "identities": [],
        "scope": [ALL, NONE, FULL][index % 3],
        "created_at": born,
    }
    if index % 2:
        named["name"] = "My-Bot"
        named["identities"] = ["My-Bot", "bot+1@example.co.uk", "my.bot.eth"]
    if index % 5 == 1:
        named["revoked"] = {"at": born + 9, "by": f'the master session on host "{EMOJI}"'}
    if index % 3:
        named["daemon"] = {"fingerprint": drawn(f"daemon {index}", 32), "since": born + 5}
    return saw, named


def refused_by_schema():
    """The schema must refuse something, or its agreement means nothing.

    RFC 8610 anchors a .regexp at both ends, pycddl does not: the texts here match nowhere.
    """
    wrong = [
        ("Pair", {}),
        ("Pair", {"scope": {}}),
        ("Pair", {"scope": ALL, "extra": 1}),
        ("Pair", {"scope": {"services": ["UP"], "read_only": False}}),
        ("Pair", {"scope": {"services": ["a"] * 257, "read_only": False}}),
        ("Pair", {"scope": ALL, "name": "-"}),
        ("Recover", {"host": "x"}),
        ("ScopeChange", {"agent": bytes(19), "scope": ALL}),
        ("HighValueRelease", {**RELEASE, "amount": -1}),
        ("HighValueRelease", {**RELEASE, "amount": 1, "host": "\u0430 \u0440"}),
        ("KeyRotate", {"agent": wallet("bot"), "old": bytes(31)}),
    ]
    for kind, details in wrong:
        try:
            schema_of(kind).validate_cbor(cbor2.dumps(details))
        except pycddl.ValidationError:
            continue
        raise AssertionError(f"the schema lets {kind} {details} pass")


# ---- sealing ----
def clamped(secret):
    """RFC 9180 section 7.1.2: an X25519 private key is clamped when it is written; pyhpke does not."""
    return bytes([secret[0] & 248]) + secret[1:31] + bytes([secret[31] & 127 | 64])


def sealing():
    suite = CipherSuite.new(KEMId.DHKEM_X25519_HKDF_SHA256, KDFId.HKDF_SHA256, AEADId.AES256_GCM)
    cases = []
    plaintexts = [b"", b"sk-or-v1-test", drawn("long plaintext", 1024), bytes(1)]
    for index, plaintext in enumerate(plaintexts):
        random, ephemeral = drawn(f"recipient {index}", 32), drawn(f"ephemeral {index}", 32)
        pair = suite.kem.derive_key_pair(random)
        recipient = pair.public_key.to_public_bytes()
        case = {
            "random": random.hex(),
            "secret": clamped(pair.private_key.to_private_bytes()).hex(),
            "public_key": recipient.hex(),
            "ephemeral_random": ephemeral.hex(),
            "plaintext": plaintext.hex(),
        }
        if index % 2:
            account, agent, service = drawn("account", 16), wallet("bot"), "openrouter"
            case["credential"] = {
                "account": account.hex(),
                "agent": shown(agent),
                "service": service,
            }
            info = b"AgentKeys-v1-Credential"
            bound = frame("credential", account, agent, service.encode())
        else:
            request = drawn(f"request {index}", 16)
            case["payload"] = {"request": request.hex()}
            info, bound = b"AgentKeys-v1-Payload", frame("payload", request)
        encapsulated, sender = suite.create_sender_context(
            pair.public_key, info, eks=suite.kem.derive_key_pair(ephemeral)
        )
        sealed = b"\1" + sha256(recipient)[:8] + encapsulated + sender.seal(plaintext, bound)
        cases.append({**case, "sealed": sealed.hex()})
    return cases


# ---- audit ----
def audit():
    backend, account = drawn("backend", 16), drawn("account", 16)
    base = {"account": account, "presence": "none"}
    master = {"role": "master", "session": drawn("session", 16), "host": "laptop", "user": "ann"}
    events = [
        {"by": {"role": "backend"}, "action": "session_create", "outcome": "allowed"},
        {
            "by": master,
            "action": "store",
            "outcome": "allowed",
            "agent": wallet("bot"),
            "agent_name": "My-Bot",
            "service": "openrouter",
            "detail": EMOJI,
            "request": drawn("request", 16),
        },
        {
            "by": {"role": "child", "session": drawn("child session", 16)},
            "action": "read",
            "outcome": "denied",
            "agent": wallet("bot"),
            "service": "github",
        },
    ]
    prev, out = bytes(32), []
    for seq, event in enumerate(events, 1):
        event = {**base, **event, "seq": seq, "prev": prev, "time": 1_775_745_127_000 + seq}
        data = canonical(event)
        prev = sha256(frame("AgentKeys-v1-AuditEvent", backend, data))
        out.append({"event": jsonable(event), "cbor": data.hex(), "hash": prev.hex()})
    digest = sha256(frame("AgentKeys-v1-AuditHead", backend, account, number(len(out), 8), prev))
    head = {
        "backend_id": backend.hex(),
        "account": account.hex(),
        "seq": len(out),
        "hash": prev.hex(),
        "master_key": public(MASTER).hex(),
        "signature": MASTER.sign(digest).hex(),
    }
    accepts = {**base, "by": master, "action": "head_accepted", "outcome": "allowed"}
    accepts = {**accepts, "seq": len(out) + 1, "prev": prev, "time": 1_775_745_128_000}
    accepts["set_backs"] = 2
    data = canonical(accepts)
    prev = sha256(frame("AgentKeys-v1-AuditEvent", backend, data))
    accepted = {"event": jsonable(accepts), "cbor": data.hex(), "hash": prev.hex()}
    fields = (backend, account, number(accepts["seq"], 8), prev, number(2, 8))
    digest = sha256(frame("AgentKeys-v1-AuditHead", *fields))
    set_back = {
        **head,
        "seq": accepts["seq"],
        "hash": prev.hex(),
        "set_backs": 2,
        "signature": MASTER.sign(digest).hex(),
    }
    log = {"backend_id": backend.hex(), "events": out, "head": head}
    return {**log, "accepted": accepted, "set_back_head": set_back}


# ---- tokens ----
def tokens():
    out = []
    for prefix in ("agkm_", "agkc_", "agko_", "agkp_", "agkr_"):
        random = drawn(f"token {prefix}", 32)
        body = prefix + random.hex()
        token = body + sha256(body.encode())[:4].hex()
        row = {"prefix": prefix, "random": random.hex(), "token": token}
        row["hash"] = sha256(token.encode()).hex()
        out.append(row)
    return out


# ---- fingerprints of accounts ----
def fingerprints():
    out = []
    cases = [(bytes(16), bytes(32)), (b"\xff" * 16, b"\xff" * 32)]
    cases += [(drawn(f"account {n}", 16), drawn(f"master {n}", 32)) for n in range(4)]
    cases.append((drawn("account", 16), public(MASTER)))
    for account, master in cases:
        bits = int.from_bytes(sha256(frame("AgentKeys-v1-Account", account, master))[:20], "big")
        text = "".join(SYMBOLS[bits >> shift & 31].lower() for shift in range(155, -1, -5))
        text = "-".join(text[at : at + 4] for at in range(0, 32, 4))
        out.append({"account": account.hex(), "master_key": master.hex(), "fingerprint": text})
    return out


# ---- characters that a claim may not hold ----
# Other_Default_Ignorable_Code_Point and Variation_Selector of Unicode's PropList.txt.
IGNORABLE = [
    (0x034F, 0x034F), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180D), (0x180F, 0x180F),
    (0x2065, 0x2065), (0x3164, 0x3164), (0xFE00, 0xFE0F), (0xFFA0, 0xFFA0), (0xFFF0, 0xFFF8),
    (0xE0000, 0xE0FFF),
]
EXTRA = [(0x2800, 0x2800), (0x13430, 0x1345F)]


def unshowable():
    bad = {
        c
        for c in range(0x110000)
        if unicodedata.category(chr(c)) in ("Cc", "Cf", "Zl", "Zp", "Cs", "Co")
        or c & 0xFFFE == 0xFFFE
        or 0xFDD0 <= c <= 0xFDEF
        or any(low <= c <= high for low, high in IGNORABLE + EXTRA)
    }
    ranges = []
    for c in sorted(bad):
        if ranges and ranges[-1][1] == c - 1:
            ranges[-1][1] = c
        else:
            ranges.append([c, c])
    return {"unicode": unicodedata.unidata_version, "ranges": ranges}


def write(name, value):
    text = json.dumps(value, indent=1, ensure_ascii=True, sort_keys=False)
    (HERE / name).write_text(text + "\n")


def main():
    refused_by_schema()
    cases = [
        auth_request(index, name, kind, details)
        for index, (name, (kind, details)) in enumerate(CASES.items())
    ]
    seed = drawn("master seed", 32).hex()
    write("auth_request_vectors.json", {"master_seed": seed, "cases": cases})
    write("seal_vectors.json", sealing())
    write("audit_vectors.json", {"master_seed": seed, **audit()})
    write("token_vectors.json", tokens())
    write("fingerprint_vectors.json", fingerprints())
    write("unshowable.json", unshowable())


if __name__ == "__main__":
    main()
