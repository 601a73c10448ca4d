"""Exits with 1 if a text, its base64, hex or percent-encoded form is in the memory, environment or
arguments of a process. Looked for by root, or by who may trace it.

    python3 find_in_memory.py PID <text
"""
import base64
import re
import sys
import urllib.parse

pid = sys.argv[1]
text = sys.stdin.buffer.read().strip()
forms = {text, text.hex().encode(), text.hex().upper().encode(), urllib.parse.quote(text, safe="").encode()}
for before in range(3):
    whole = base64.b64encode(b"\0" * before + text)
    forms.add(whole[4 if before else 0 : len(whole) - 4])
wrong = []
for name in ("environ", "cmdline"):
    with open(f"/proc/{pid}/{name}", "rb") as file:
        held = file.read()
    wrong += [name for form in forms if form in held]
read = 0
with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb") as memory:
    for line in maps:
        begin, end, rights = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+)", line).groups()
        if "r" not in rights:
            continue
        try:
            memory.seek(int(begin, 16))
            held = memory.read(int(end, 16) - int(begin, 16))
        except (OSError, ValueError, OverflowError):
            continue
        read += len(held)
        wrong += [line.strip() for form in forms if form in held]
assert read > 100_000, f"only {read} bytes of memory could be read"
if wrong:
    sys.exit(f"found in {pid}: {wrong}")
print(f"{read // 1024} KiB of process {pid} have it nowhere")
