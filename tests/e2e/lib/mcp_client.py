#!/usr/bin/env python3
"""Drives an MCP server over stdio with the official Python SDK, and prints what it answers.

    mcp_client.py [options] -- server command...

Options do their work in the order in which they stand, all in one session:

    --list                        tools/list
    --call NAME JSON              tools/call
    --until-ok NAME JSON SECONDS  tools/call again and again until it is no error
    --until-changed SECONDS       waits for the news that the list of tools has changed
    --sleep SECONDS               does nothing
    --shell COMMAND               runs a command, with the last result in $LAST (JSON)

and, anywhere before `--`:

    --mode MODE                   legacy (initialize; the default), auto, or a version such as
                                  2026-07-28 (server/discover, no initialize)
    --env NAME=VALUE              adds to the server's environment, which is this program's own
    --expect-error                a tool's error does not end this with 1

Each step prints one line of JSON: {"step": ..., ...}; a call, before it, one for each word of
progress. The first line is the opened session, with the version that was agreed and the
milliseconds from start to open. Ends with 0 if every call was answered without an error, with 1 if
a tool answered with one, with 2 for anything else.

It is the SDK that judges: it checks structured content against the tool's output schema.
"""
import asyncio
import json
import os
import sys
import time

import mcp_types as types
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client


def usage(why):
    print(f"mcp_client.py: {why}\n\n{__doc__}", file=sys.stderr)
    sys.exit(2)


ARGUMENTS = {
    "--list": 0, "--call": 2, "--until-ok": 3, "--until-changed": 1, "--sleep": 1, "--shell": 1,
}


def parse(words):
    if "--" not in words or not words[words.index("--") + 1:]:
        usage("no server command after --")
    at = words.index("--")
    own, server = words[:at], words[at + 1:]
    settings = {"mode": "legacy", "env": dict(os.environ), "expect_error": False}
    steps = []
    while own:
        word = own.pop(0)
        if word == "--expect-error":
            settings["expect_error"] = True
        elif word in ("--mode", "--env") and own:
            value = own.pop(0)
            if word == "--mode":
                settings["mode"] = value
            else:
                name, _, text = value.partition("=")
                settings["env"][name] = text
        elif word in ARGUMENTS and len(own) >= ARGUMENTS[word]:
            steps.append((word[2:], [own.pop(0) for _ in range(ARGUMENTS[word])]))
        else:
            usage(f"{word}: unknown, or something is missing after it")
    return settings, steps, server


def say(step, **more):
    print(json.dumps({"step": step, **more}, ensure_ascii=False), flush=True)


def plain(result):
    return result.model_dump(mode="json", by_alias=True, exclude_unset=True)


async def progressed(progress, total, message):
    say("progress", progress=progress, total=total, message=message)


class Session:
    def __init__(self, client):
        self.client = client
        self.failed = False
        self.last = {}

    async def call(self, name, arguments):
        try:
            self.last = plain(await self.client.call_tool(name, arguments, progress_callback=progressed))
        except Exception as error:  # a protocol error, or content that breaks its schema
            self.last = {"protocolError": f"{type(error).__name__}: {error}", "isError": True}
        return not self.last.get("isError", False)

    async def step(self, name, given, changed):
        if name == "list":
            say("list", **plain(await self.client.list_tools()))
        elif name == "call":
            ok = await self.call(given[0], json.loads(given[1]))
            self.failed |= not ok
            say("call", name=given[0], **self.last)
        elif name == "until-ok":
            started, tries = time.monotonic(), 0
            while True:
                tries += 1
                ok = await self.call(given[0], json.loads(given[1]))
                late = time.monotonic() - started > float(given[2])
                if ok or late:
                    break
                await asyncio.sleep(0.1)
            self.failed |= not ok
            say("until-ok", name=given[0], tries=tries, **self.last)
        elif name == "until-changed":
            try:
                await asyncio.wait_for(changed.wait(), float(given[0]))
                changed.clear()
                say("until-changed", told=True)
            except asyncio.TimeoutError:
                self.failed = True
                say("until-changed", told=False)
        elif name == "sleep":
            await asyncio.sleep(float(given[0]))
        elif name == "shell":
            env = {**os.environ, "LAST": json.dumps(self.last)}
            child = await asyncio.create_subprocess_shell(
                given[0], env=env, stdin=asyncio.subprocess.DEVNULL, stdout=sys.stderr)
            code = await child.wait()
            self.failed |= code != 0
            say("shell", exit=code)


async def run(settings, steps, server):
    changed = asyncio.Event()

    async def on_message(message):
        if isinstance(message, types.ToolListChangedNotification):
            changed.set()
        elif isinstance(message, Exception):
            say("not-protocol", error=str(message))

    async def listen(client):
        async with client.listen(tools_list_changed=True) as news:
            async for _ in news:
                changed.set()

    parameters = StdioServerParameters(command=server[0], args=server[1:], env=settings["env"])
    started = time.monotonic()
    async with Client(stdio_client(parameters), mode=settings["mode"], message_handler=on_message,
                      cache=None) as client:
        say("open", version=str(client.protocol_version),
            ms=round((time.monotonic() - started) * 1000, 1),
            server=plain(client.server_info) if client.server_info else None,
            instructions=client.instructions)
        session = Session(client)
        listening = None
        if client.protocol_version >= "2026-07-28":
            listening = asyncio.create_task(listen(client))
        try:
            for name, given in steps:
                await session.step(name, given, changed)
        finally:
            if listening:
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)
    return 1 if session.failed and not settings["expect_error"] else 0


def main():
    settings, steps, server = parse(sys.argv[1:])
    try:
        code = asyncio.run(run(settings, steps, server))
    except Exception as error:
        while isinstance(error, BaseExceptionGroup) and error.exceptions:
            error = error.exceptions[0]
        say("failed", error=f"{type(error).__name__}: {error}")
        code = 2
    sys.exit(code)


if __name__ == "__main__":
    main()
