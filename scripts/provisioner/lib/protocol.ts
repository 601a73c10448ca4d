/**
 * The messages between a recipe and the daemon, version 1: one JSON object a line. The other side
 * is src/provisioner/protocol.rs; docs/provisioning.md describes both.
 */
import { once } from "node:events";

/** Longest line that is read, in bytes: settings and a secret at their largest. */
const MAX_LINE = 256 * 1024;

/** What kind of failure it is. */
export type Reason =
  | "page_changed"
  | "network"
  | "mail_timeout"
  | "mail_login"
  | "mail_unreachable"
  | "code_refused"
  | "browser_missing"
  | "browser_failed"
  | "wrong_settings"
  | "refused"
  | "internal";

/** What a service wants of a person. */
export type Need = "captcha" | "phone" | "terms" | "other";

export type Message =
  | { type: "hello"; service: string }
  | { type: "progress"; step: string; percent: number }
  | { type: "need_input"; step: string; what: Need; message: string }
  | { type: "result"; credential?: string }
  | { type: "error"; step: string; reason: Reason; message: string; screenshot?: string };

/** What is to be done. */
export interface Start {
  service: string;
  mode: "run" | "check";
  settings: Record<string, string>;
  secret?: string;
  screenshot?: string;
  seconds: number;
}

/** Why a run ends without a key, in words that hold no secret. */
export class Failure extends Error {
  constructor(
    readonly reason: Reason,
    message: string,
  ) {
    super(message);
  }
}

/** That the service wants a person. */
export class NeedInput extends Error {
  constructor(
    readonly what: Need,
    message: string,
  ) {
    super(message);
  }
}

/** Writes one message, and waits until it is out. */
export async function send(message: Message): Promise<void> {
  if (!process.stdout.write(JSON.stringify({ v: 1, ...message }) + "\n")) {
    await once(process.stdout, "drain");
  }
}

const FIELDS = ["v", "type", "service", "mode", "settings", "secret", "screenshot", "seconds"];

function isTexts(value: unknown): value is Record<string, string> {
  return (
    typeof value === "object" &&
    value !== null &&
    !Array.isArray(value) &&
    Object.values(value).every((text) => typeof text === "string")
  );
}

/** Checks a start message. */
function parse(line: string): Start {
  let message: Record<string, unknown>;
  try {
    message = JSON.parse(line);
  } catch {
    throw new Failure("internal", "the start message is no JSON");
  }
  const { v, type, service, mode, settings, secret, screenshot, seconds } = message ?? {};
  const unknown = Object.keys(message ?? {}).find((name) => !FIELDS.includes(name));
  const optional = (value: unknown) => value === undefined || typeof value === "string";
  if (
    v !== 1 ||
    type !== "start" ||
    unknown !== undefined ||
    typeof service !== "string" ||
    (mode !== "run" && mode !== "check") ||
    !isTexts(settings) ||
    !optional(secret) ||
    !optional(screenshot) ||
    typeof seconds !== "number"
  ) {
    throw new Failure("internal", "the start message is not of version 1");
  }
  return {
    service,
    mode,
    settings,
    seconds,
    ...(typeof secret === "string" ? { secret } : {}),
    ...(typeof screenshot === "string" ? { screenshot } : {}),
  };
}

/**
 * Reads the start message. `ended` is called when the other side has closed its end, which is how
 * it cancels; without a start message that is all that happens.
 */
export async function start(ended: () => void): Promise<Start> {
  let resolve!: (start: Start) => void;
  let reject!: (error: unknown) => void;
  const promise = new Promise<Start>((yes, no) => {
    resolve = yes;
    reject = no;
  });
  let text = "";
  process.stdin.setEncoding("utf8");
  process.stdin.on("data", (part: string) => {
    if (text.length + part.length > MAX_LINE) {
      return reject(new Failure("internal", "the start message is too long"));
    }
    text += part;
    const end = text.indexOf("\n");
    if (end < 0) return;
    const line = text.slice(0, end);
    text = "";
    try {
      resolve(parse(line));
    } catch (error) {
      reject(error);
    }
  });
  process.stdin.on("end", ended);
  process.stdin.on("error", ended);
  return promise;
}
