/**
 * Runs one recipe: `node dist/main.js SERVICE`, spoken to on stdin and stdout by the protocol of
 * lib/protocol.ts. Nothing else is ever written to stdout, and no secret to stderr.
 */
import { existsSync } from "node:fs";

import { checkSettings, Context, type Recipe } from "./lib/context.js";
import { Failure, NeedInput, send, start } from "./lib/protocol.js";
import { redact } from "./lib/redact.js";

// Libraries that print do not get in between.
console.log = console.info = console.debug = console.error;

/** How long what is being closed may take when the run is cancelled, in milliseconds. */
const CLOSING = 2_000;

/** What a recipe throws to have a picture told of. */
export interface Pictured {
  error: unknown;
  screenshot?: string;
}

async function main(service: string): Promise<number> {
  const file = new URL(`./recipes/${service}.js`, import.meta.url);
  if (!/^[a-z0-9][a-z0-9._-]{0,62}$/.test(service) || !existsSync(file)) {
    console.error("there is no such recipe");
    return 1;
  }
  const recipe = ((await import(file.href)) as { default: Recipe }).default;
  await send({ type: "hello", service });
  const cancel = new AbortController();
  let started = false;
  const asked = start(() => {
    cancel.abort();
    setTimeout(() => process.exit(1), CLOSING).unref();
    if (!started) process.exit(1);
  });
  let context: Context | undefined;
  let secret: string | undefined;
  try {
    const begin = await asked;
    started = true;
    secret = begin.secret;
    if (begin.service !== service) throw new Failure("internal", "it was started for another");
    context = new Context(begin, cancel.signal);
    checkSettings(recipe, begin);
    if (begin.mode === "check") {
      await recipe.check(context);
      await send({ type: "result" });
    } else {
      const credential = await recipe.run(context);
      await send({ type: "result", credential });
    }
    return 0;
  } catch (thrown) {
    const step = context?.current ?? "begin";
    const { error, screenshot } = pictured(thrown);
    const message = error instanceof Error ? redact(error.message, [secret]) : "";
    if (error instanceof NeedInput) {
      await send({ type: "need_input", step, what: error.what, message });
    } else if (error instanceof Failure) {
      const picture = screenshot ? { screenshot } : {};
      await send({ type: "error", step, reason: error.reason, message, ...picture });
    } else if (!cancel.signal.aborted) {
      const name = error instanceof Error ? error.name : "unknown";
      await send({ type: "error", step, reason: "internal", message: redact(name, [secret]) });
    }
    return 1;
  }
}

function pictured(thrown: unknown): Pictured {
  const is = typeof thrown === "object" && thrown !== null && "error" in thrown;
  return is ? (thrown as Pictured) : { error: thrown };
}

process.exitCode = await main(process.argv[2] ?? "");
// What a library may still hold open does not keep a run that is over.
setTimeout(() => process.exit(), 500).unref();
process.stdin.destroy();
