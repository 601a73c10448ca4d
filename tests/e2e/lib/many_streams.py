"""Opens many streams at once through the gateway, and counts what comes.

    python3 many_streams.py BASE KEY COUNT FRAMES MILLISECONDS [MARK]

Writes MARK once every stream has had a frame. Fails unless each gets all of its frames, in their order.
"""
import asyncio
import sys
import time
from urllib.parse import urlsplit

base, key = sys.argv[1:3]
count, frames, millis = (int(text) for text in sys.argv[3:6])
mark = sys.argv[6] if len(sys.argv) > 6 else None
at = urlsplit(base)
request = (f"GET {at.path}/events/{frames}/{millis} HTTP/1.1\r\nHost: {at.netloc}\r\n"
           f"Authorization: Bearer {key}\r\nConnection: close\r\n\r\n").encode()
begun = 0
started = time.monotonic()


async def chunks(reader):
    while size := int(await reader.readline(), 16):
        yield await reader.readexactly(size)
        await reader.readline()


async def stream():
    global begun
    reader, writer = await asyncio.open_connection(at.hostname, at.port)
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    assert b" 200 " in head.split(b"\r\n")[0], head + await reader.read(2000)
    body = b""
    async for chunk in chunks(reader):
        begun += not body
        if begun == count and not body and mark:
            open(mark, "w").close()
        body += chunk
    writer.close()
    wanted = "".join(f"data: {number}\n\n" for number in range(frames)).encode()
    assert body == wanted, body


async def main():
    results = await asyncio.gather(*(stream() for _ in range(count)), return_exceptions=True)
    failed = [result for result in results if result is not None]
    assert not failed, (len(failed), failed[:3])
    print(f"ok: {count} streams of {frames} frames, whole, in {time.monotonic() - started:.1f} s")


asyncio.run(main())
