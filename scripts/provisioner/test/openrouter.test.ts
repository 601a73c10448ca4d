/** The recipe as it is run: the real program, the real Chromium, a real mailbox, a site of our own. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";

import { dovecot, type Server } from "./dovecot.js";
import { Site, type Fault } from "./site.js";

const MAIN = fileURLToPath(new URL("../main.js", import.meta.url));

let server: Server;
before(async () => void (server = await dovecot()));
after(() => server.close());

interface Ran {
  messages: { type: string; step?: string; reason?: string; what?: string; message?: string; credential?: string; screenshot?: string }[];
  last: Ran["messages"][number];
  code: number | null;
  stderr: string;
  screenshot: string;
}

interface More {
  mode?: "run" | "check";
  settings?: Record<string, string | undefined>;
  seconds?: number;
  env?: Record<string, string>;
  secret?: string;
  cancelAt?: string;
}

/** Runs the recipe to its end, and sees that it leaves nothing in its folder but the picture. */
async function run(url: string, more: More = {}): Promise<Ran> {
  const folder = mkdtempSync(join(tmpdir(), "agentkeys-test."));
  const screenshot = join(folder, "shot", "page.png");
  const env = { PATH: process.env["PATH"], HOME: folder, TMPDIR: folder, ...more.env };
  const child = spawn(process.execPath, [MAIN, "openrouter"], { env, stdio: "pipe" });
  const settings = {
    email: "ada@service.test",
    imap: server.imap,
    imap_user: "ada",
    from: "codes@service.test",
    tag: "agentkeys-1",
    url,
    ...more.settings,
  };
  const secret = more.secret ?? server.password;
  const { mode = "run", seconds = 60 } = more;
  let [stdout, stderr] = ["", ""];
  child.stderr.on("data", (part) => (stderr += part));
  child.stdout.on("data", (part) => {
    const first = stdout === "";
    stdout += part;
    if (first) {
      const start = { v: 1, type: "start", service: "openrouter", mode, settings, secret, screenshot, seconds };
      child.stdin.write(JSON.stringify(start) + "\n");
    }
    if (more.cancelAt !== undefined && stdout.includes(more.cancelAt)) child.stdin.end();
  });
  const code = await new Promise<number | null>((done) => child.on("close", done));
  const messages = stdout.split("\n").slice(0, -1).map((line) => JSON.parse(line));
  assert.ok(!stdout.includes(secret) && !stderr.includes(secret), "the secret was told");
  const left = readdirSync(folder).filter((name) => name !== "shot");
  assert.deepEqual(left.filter((name) => /playwright|chromium|profile/i.test(name)), []);
  const last = messages.at(-1);
  if (last?.screenshot) {
    assert.equal(statSync(last.screenshot).mode & 0o777, 0o600);
    const kept = process.env["KEEP_SCREENSHOTS"];
    if (kept) await import("node:fs").then((fs) => fs.copyFileSync(last.screenshot, join(kept, `${last.reason ?? "x"}-${Date.now()}.png`)));
    assert.ok(readFileSync(last.screenshot).length > 1000);
  }
  rmSync(folder, { recursive: true });
  return { messages, last, code, stderr, screenshot };
}

async function at(faults: Fault[], work: (url: string, site: Site) => Promise<void>): Promise<void> {
  const site = new Site(server.lmtp, new Set(faults));
  const url = await site.listen();
  try {
    await work(url, site);
  } finally {
    site.close();
  }
}

test("a key is made, and a second time in the same account", async () => {
  await at([], async (url, site) => {
    const first = await run(url);
    assert.equal(first.last.type, "result", JSON.stringify(first));
    assert.equal(first.code, 0);
    assert.ok(site.keys.has(first.last.credential ?? ""));
    assert.deepEqual([...site.accounts.keys()], ["ada+agentkeys-1@service.test"]);
    const second = await run(url);
    assert.notEqual(second.last.credential, first.last.credential);
    assert.equal(site.accounts.size, 1);
    const steps = first.messages.filter(({ type }) => type === "progress").map(({ step }) => step);
    assert.equal(steps[0], "open the mailbox");
    assert.equal(steps.at(-1), "read the key");
  });
});

test("a check makes nothing", async () => {
  await at([], async (url, site) => {
    const checked = await run(url, { mode: "check" });
    assert.equal(checked.last.type, "result", JSON.stringify(checked));
    assert.equal(checked.last.credential, undefined);
    assert.deepEqual([site.accounts.size, site.keys.size], [0, 0]);
  });
});

const failures: [Fault, string, string, RegExp][] = [
  ["no-email-field", "page_changed", "fill the form", /^there is no field for the e-mail address$/],
  ["renamed-button", "page_changed", "fill the form", /^there is no button to go on$/],
  ["captcha", "captcha", "wait for the question for the code", /^$/],
  ["phone", "phone", "wait for the question for the code", /^$/],
  ["terms", "terms", "fill the form", /^$/],
  ["no-mail", "mail_timeout", "wait for the mail", /no mail came$/],
  ["wrong-mail", "mail_timeout", "wait for the mail", /other mail came: .*sender/],
  ["refuses-code", "code_refused", "enter the code", /^$/],
  ["drops", "network", "open the sign-up page", /empty response/],
  ["hang", "network", "open the sign-up page", /^no answer within 15 seconds$/],
  ["no-key", "page_changed", "read the key", /^there is no key/],
];
for (const [fault, reason, step, says] of failures) {
  test(`${fault} is told as ${reason}, with its step`, async () => {
    await at([fault], async (url) => {
      const { last, code } = await run(url, { seconds: 36 });
      assert.equal(last.reason ?? last.what, reason, JSON.stringify(last));
      assert.equal(last.step, step);
      assert.match(last.message ?? "", says);
      assert.equal(code, 1);
      if (reason === "page_changed" || reason === "code_refused") assert.ok(last.screenshot);
    });
  });
}

test("what is missing on the machine and in the settings is named", async () => {
  await at([], async (url) => {
    const cases: [More, string, RegExp][] = [
      [{ env: { AGENTKEYS_CHROMIUM: "/nowhere" } }, "browser_missing", /AGENTKEYS_CHROMIUM/],
      [{ env: { AGENTKEYS_CHROMIUM: "/bin/true" } }, "browser_failed", /does not start/],
      [{ settings: { colour: "red" } }, "wrong_settings", /^colour is none/],
      [{ settings: { email: undefined } }, "wrong_settings", /email is missing/],
      [{ settings: { url: "http://example.org" } }, "wrong_settings", /^url is/],
      [{ secret: "another password" }, "mail_login", /refuses/],
    ];
    for (const [more, reason, says] of cases) {
      const { last } = await run(url, more);
      assert.equal(last.reason, reason, JSON.stringify(last));
      assert.match(last.message ?? "", says);
    }
  });
});

test("a run that is cancelled ends with its browser", async () => {
  await at(["no-mail"], async (url) => {
    const begun = Date.now();
    const { code, messages } = await run(url, { cancelAt: "wait for the mail" });
    assert.equal(code, 1);
    assert.ok(Date.now() - begun < 20_000);
    assert.notEqual(messages.at(-1)?.type, "result");
  });
});
