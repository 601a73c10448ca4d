/**
 * Waits for a code as a recipe does; for tests in other languages. Reads one JSON object on stdin:
 * {imap, user, password, recipient, from, seconds}; says {"ready": true} once the mailbox is marked,
 * and then {"code"} or {"error": {reason, message}}.
 */
import { text } from "node:stream/consumers";

import { Mailbox } from "../lib/email.js";
import { Failure } from "../lib/protocol.js";

const asked = JSON.parse(await text(process.stdin));
const { imap, user, password, recipient, from, seconds } = asked;
const say = (message: object) => console.log(JSON.stringify(message));
try {
  const signal = new AbortController().signal;
  const mailbox = await Mailbox.open({ imap, user, password }, signal);
  try {
    const marks = await mailbox.mark();
    say({ ready: true });
    const expected = { recipient, from, subject: /code/i, code: /\b(\d{6})\b/ };
    say({ code: await mailbox.code(marks, expected, seconds * 1000) });
  } finally {
    await mailbox.close();
  }
} catch (error) {
  if (!(error instanceof Failure)) throw error;
  say({ error: { reason: error.reason, message: error.message } });
}
