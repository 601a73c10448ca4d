/** The mailbox, against a real IMAP server. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";

import { ImapFlow } from "imapflow";
import { createTransport } from "nodemailer";

import { Mailbox, plus, type Account } from "../lib/email.js";
import { Failure } from "../lib/protocol.js";
import { dovecot, type Server } from "./dovecot.js";

let server: Server;
let transport: ReturnType<typeof createTransport>;

before(async () => {
  server = await dovecot();
  transport = createTransport({ ...server.lmtp, lmtp: true, ignoreTLS: true });
});
after(async () => {
  transport.close();
  await server.close();
});

function account(user: string): Account {
  return { imap: server.imap, user, password: server.password };
}

const expected = (recipient: string) => ({
  recipient,
  from: "codes@service.test",
  subject: /code/i,
  code: /\b(\d{6})\b/,
});

async function mail(to: string, code: string, more: object = {}): Promise<void> {
  const text = `your code is ${code}.`;
  await transport.sendMail({ from: "codes@service.test", to, subject: "Your code", text, ...more });
}

async function opened(user: string): Promise<Mailbox> {
  return Mailbox.open(account(user), new AbortController().signal);
}

async function fails(work: Promise<unknown>, reason: string, says: RegExp): Promise<void> {
  await assert.rejects(work, (error) => {
    assert.ok(error instanceof Failure, String(error));
    assert.equal(error.reason, reason);
    assert.match(error.message, says);
    assert.ok(!error.message.includes(server.password));
    return true;
  });
}

test("the code of the mail to the tagged address is found, as text and as HTML", async () => {
  const to = plus("ben@service.test", "agentkeys-1");
  assert.equal(to, "ben+agentkeys-1@service.test");
  const mailbox = await opened("ben");
  const marks = await mailbox.mark();
  const waiting = mailbox.code(marks, expected(to), 20_000);
  await mail(to, "123456");
  assert.equal(await waiting, "123456");
  const later = await mailbox.mark();
  await mail(to, "", { text: undefined, html: "<p>your code is <b>654321</b></p>" });
  assert.equal(await mailbox.code(later, expected(to), 20_000), "654321");
  await mailbox.close();
});

test("no older code is taken, and none of another sender, subject or recipient", async () => {
  const to = plus("cleo@service.test", "agentkeys-1");
  await mail(to, "111111");
  const mailbox = await opened("cleo");
  const marks = await mailbox.mark();
  await mail(to, "222222", { from: "codes@elsewhere.test" });
  await mail(to, "222223", { from: "codes@service.test.elsewhere.test" });
  await mail(to, "333333", { subject: "Your invoice" });
  await mail("cleo+agentkeys-12@service.test", "444444");
  await mail("cleo@service.test", "444445");
  await mail(to, "555555", { text: "555555 or 666666" });
  await mail(to, "", { text: "no code at all" });
  const counts =
    /^within \d seconds other mail came: 2 with another pattern of codes, 2 with another recipient, 1 with another subject, 2 with another sender$/;
  await fails(mailbox.code(marks, expected(to), 2_000), "mail_timeout", counts);
  await mail(to, "777777");
  assert.equal(await mailbox.code(marks, expected(to), 20_000), "777777");
  await mailbox.close();
});

test("a mail that was taken for junk is found too", async () => {
  const to = plus("dora@service.test", "agentkeys-1");
  const mailbox = await opened("dora");
  const marks = await mailbox.mark();
  assert.deepEqual(
    marks.map(({ folder }) => folder),
    ["INBOX", "Junk"],
  );
  const { hostname, port } = new URL(server.imap);
  const auth = { user: "dora", pass: server.password };
  const client = new ImapFlow({ host: hostname, port: Number(port), secure: false, doSTARTTLS: false, auth, logger: false });
  await client.connect();
  const raw = `From: codes@service.test\r\nTo: ${to}\r\nSubject: Your code\r\n\r\n135790\r\n`;
  await client.append("Junk", raw);
  await client.logout();
  assert.equal(await mailbox.code(marks, expected(to), 20_000), "135790");
  await mailbox.close();
});

test("when no mail comes, that is said after the time that was given", async () => {
  const mailbox = await opened("eve");
  const marks = await mailbox.mark();
  const waiting = mailbox.code(marks, expected("eve+a@service.test"), 1_000);
  await fails(waiting, "mail_timeout", /^within \d seconds no mail came$/);
  await mailbox.close();
});

test("a wrong password, no server, and settings that are none are told apart", async () => {
  const signal = new AbortController().signal;
  const wrong = { ...account("ada"), password: "another" };
  await fails(Mailbox.open(wrong, signal), "mail_login", /^127\.0\.0\.1 refuses/);
  const nobody = { ...account("ada"), imap: "imap://127.0.0.1:1" };
  await fails(Mailbox.open(nobody, signal), "mail_unreachable", /ECONNREFUSED/);
  for (const imap of ["imap://mail.example.org", "https://127.0.0.1", "imaps://", "mail", "imaps://a:b@c"]) {
    await fails(Mailbox.open({ ...account("ada"), imap }, signal), "wrong_settings", /^imap is/);
  }
  for (const [email, tag] of [["ada", "a"], ["a@b@c", "a"], ["a b@c", "a"], ["a@b", "a+b"]] as const) {
    assert.throws(() => plus(email, tag), Failure);
  }
});

/** What fetch-code.js says of the mailbox over TLS; roots are read when Node starts. */
async function overTls(env: Record<string, string>): Promise<{ error?: { reason: string } }> {
  const program = fileURLToPath(new URL("fetch-code.js", import.meta.url));
  const child = spawn(process.execPath, [program], { env: { PATH: process.env["PATH"], ...env } });
  const asked = { ...expected("gus+a@service.test"), imap: server.imaps, user: "gus", seconds: 1 };
  child.stdin.end(JSON.stringify({ ...asked, password: server.password }));
  let said = "";
  child.stdout.on("data", (part) => (said += part));
  await new Promise((done) => child.on("close", done));
  return JSON.parse(said.trim().split("\n").at(-1) ?? "");
}

test("over TLS no certificate is taken that nobody vouches for", async () => {
  assert.equal((await overTls({})).error?.reason, "mail_unreachable");
  const vouched = await overTls({ NODE_EXTRA_CA_CERTS: server.ca });
  assert.equal(vouched.error?.reason, "mail_timeout");
});

test("a wait that is cancelled ends at once", async () => {
  const cancel = new AbortController();
  const mailbox = await Mailbox.open(account("fay"), cancel.signal);
  const marks = await mailbox.mark();
  const waiting = mailbox.code(marks, expected("fay+a@service.test"), 60_000);
  setTimeout(() => cancel.abort(), 100);
  await assert.rejects(waiting);
});
