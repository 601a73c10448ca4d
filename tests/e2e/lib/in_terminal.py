"""A command in a terminal, and a person at it.

    python3 in_terminal.py COMMAND [TEXT SAID]...

Waits for each TEXT on the terminal and then types SAID with Enter, Ctrl-C where SAID is that, nothing
where it is empty. Prints what was on the terminal.
"""
import os
import pty
import select
import sys
import time

command, steps = sys.argv[1], sys.argv[2:]
child, terminal = pty.fork()
if child == 0:
    os.execvp("sh", ["sh", "-c", f"exec {command}"])
seen, at, until = b"", 0, time.monotonic() + 20


def read():
    global seen
    ready, _, _ = select.select([terminal], [], [], 0.1)
    if not ready:
        return True
    try:
        part = os.read(terminal, 65536)
    except OSError:
        return False
    seen += part
    return bool(part)


for text, said in zip(steps[::2], steps[1::2], strict=True):
    while (found := seen.find(text.encode(), at)) < 0:
        if not read() and seen.find(text.encode(), at) < 0 or time.monotonic() > until:
            print(seen.decode(errors="replace"))
            sys.exit(f"nothing said {text!r}")
    at = found + len(text)
    if said:
        os.write(terminal, said.encode() if said == "\x03" else said.encode() + b"\r")
while read() and time.monotonic() < until:
    pass
print(seen.decode(errors="replace"))
os.waitpid(child, 0)
