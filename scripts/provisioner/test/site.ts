/**
 * A small service to sign up at, made for these tests: a form, a mailed code, a key that is shown
 * once. Its pages are its own; only their roles and labels are such as the recipe looks for.
 *
 *     node dist/test/site.js --lmtp HOST:PORT [--fault NAME]...
 *
 * prints {"url": ...} and serves until its stdin is closed. `GET /state` tells how many accounts and
 * keys there are; `GET /api/v1/key` takes a key as a bearer token.
 */
import { randomBytes, randomInt } from "node:crypto";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { pathToFileURL } from "node:url";

import { createTransport } from "nodemailer";

export const FAULTS = [
  "no-email-field",
  "renamed-button",
  "captcha",
  "phone",
  "terms",
  "no-mail",
  "wrong-mail",
  "refuses-code",
  "hang",
  "drops",
  "no-key",
] as const;
export type Fault = (typeof FAULTS)[number];

const SENDER = "codes@service.test";

interface Account {
  keys: number;
}

export class Site {
  readonly accounts = new Map<string, Account>();
  readonly keys = new Set<string>();
  private readonly codes = new Map<string, string>();
  private readonly sessions = new Map<string, string>();
  private readonly transport;
  readonly server = createServer((request, response) => {
    this.serve(request, response).catch(() => response.destroy());
  });

  constructor(
    lmtp: { host: string; port: number },
    private readonly faults: Set<string> = new Set(),
  ) {
    this.transport = createTransport({ ...lmtp, lmtp: true, ignoreTLS: true } as object);
  }

  async listen(): Promise<string> {
    await new Promise<void>((done) => this.server.listen(0, "127.0.0.1", done));
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  close(): void {
    this.server.close();
    this.server.closeAllConnections();
    this.transport.close();
  }

  private has(fault: Fault): boolean {
    return this.faults.has(fault);
  }

  private async mail(to: string, code: string, more: object = {}): Promise<void> {
    await this.transport.sendMail({
      from: `Service <${SENDER}>`,
      to,
      subject: "Your verification code",
      text: `Hello,\n\nyour code is ${code}. It holds for ten minutes.\n`,
      ...more,
    });
  }

  private async serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? "/", "http://site");
    const route = `${request.method} ${url.pathname}`;
    const session = /sid=(\w+)/.exec(request.headers.cookie ?? "")?.[1] ?? "";
    const account = this.accounts.get(this.sessions.get(session) ?? "");
    if (route === "GET /state") {
      const addresses = [...this.accounts.keys()];
      return json(response, 200, { accounts: addresses.length, keys: this.keys.size, addresses });
    }
    if (route === "GET /api/v1/key") {
      const key = (request.headers.authorization ?? "").replace(/^Bearer /, "");
      const known = this.keys.has(key);
      return json(response, known ? 200 : 401, known ? { data: {} } : { error: {} });
    }
    if (this.has("hang")) return;
    if (this.has("drops")) return void response.destroy();
    switch (route) {
      case "GET /sign-up":
        return page(response, this.form());
      case "POST /sign-up": {
        const address = (await body(request)).get("email") ?? "";
        if (this.has("captcha")) return page(response, "<h1>Verify you are human</h1>");
        if (this.has("phone")) {
          return page(response, `<label>Phone number <input name="phone"></label>`);
        }
        const code = String(randomInt(100_000, 1_000_000));
        this.codes.set(address, code);
        await this.send(address, code);
        return page(response, codeForm(address));
      }
      case "POST /verify": {
        const fields = await body(request);
        const address = fields.get("email") ?? "";
        const right = this.codes.get(address);
        if (this.has("refuses-code") || right === undefined || fields.get("code") !== right) {
          this.codes.delete(address);
          return page(response, `${codeForm(address)}<p role="alert">That is not the code.</p>`);
        }
        this.codes.delete(address);
        if (!this.accounts.has(address)) this.accounts.set(address, { keys: 0 });
        const sid = randomBytes(16).toString("hex");
        this.sessions.set(sid, address);
        response.setHeader("set-cookie", `sid=${sid}; HttpOnly; Path=/`);
        return page(response, "<h1>Welcome</h1>");
      }
      case "GET /settings/keys":
        if (account === undefined) return page(response, "<h1>Sign in first</h1>");
        return page(response, keysPage(account));
      case "POST /settings/keys": {
        if (account === undefined) return json(response, 401, {});
        account.keys += 1;
        const key = `sk-or-v1-${randomBytes(32).toString("hex")}`;
        this.keys.add(key);
        return json(response, 200, this.has("no-key") ? {} : { key });
      }
      default:
        return page(response, "<h1>There is no such page</h1>", 404);
    }
  }

  private async send(address: string, code: string): Promise<void> {
    if (this.has("no-mail")) return;
    if (!this.has("wrong-mail")) return this.mail(address, code);
    // Each is wrong in one way, and has another code.
    const other = address.replace(/\+[^@]*@/, "+somebody-else@");
    await this.mail(address, "111111", { from: "Stranger <codes@elsewhere.test>" });
    await this.mail(address, "222222", { subject: "Your invoice" });
    await this.mail(other, "333333", {});
    await this.mail(address, "444444", { text: "your code is 444444, or it is 555555" });
  }

  private form(): string {
    const field = this.has("no-email-field")
      ? ""
      : `<label>E-mail address <input type="email" name="email" required></label>`;
    const button = this.has("renamed-button") ? "Lift off" : "Continue";
    const terms = this.has("terms")
      ? `<label><input type="checkbox" required> I agree to the terms</label>`
      : "";
    return `<h1>Sign up or in</h1><form method="post">${field}${terms}<button>${button}</button></form>`;
  }
}

function codeForm(address: string): string {
  const value = address.replaceAll("&", "&amp;").replaceAll('"', "&quot;");
  return `<h1>Look into your mailbox</h1><form method="post" action="/verify">
<input type="hidden" name="email" value="${value}">
<label>Verification code <input name="code" inputmode="numeric" autocomplete="one-time-code"></label>
<button>Verify</button></form>`;
}

function keysPage(account: Account): string {
  return `<h1>Your ${account.keys} keys</h1>
<button id="open">Create API key</button>
<dialog aria-label="New key"><label>Name <input id="name"></label><button id="make">Create</button>
<label id="shown" hidden>Your key, shown once <input id="key" readonly></label></dialog>
<script>
const at = (id) => document.getElementById(id);
at("open").onclick = () => document.querySelector("dialog").showModal();
at("make").onclick = async () => {
  const answer = await fetch("/settings/keys", { method: "POST" });
  const { key } = await answer.json();
  at("shown").hidden = false;
  at("key").value = key ?? "";
};
</script>`;
}

function page(response: ServerResponse, content: string, status = 200): void {
  response.writeHead(status, { "content-type": "text/html; charset=utf-8" });
  response.end(`<!doctype html><html lang="en"><title>Service</title><main>${content}</main></html>`);
}

function json(response: ServerResponse, status: number, value: object): void {
  response.writeHead(status, { "content-type": "application/json" });
  response.end(JSON.stringify(value));
}

async function body(request: IncomingMessage): Promise<URLSearchParams> {
  let text = "";
  for await (const part of request) {
    text += part;
    if (text.length > 10_000) throw new Error("too long");
  }
  return new URLSearchParams(text);
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  const words = process.argv.slice(2);
  const values = (name: string) => words.filter((_, at) => words[at - 1] === name);
  const [host = "127.0.0.1", port] = (values("--lmtp")[0] ?? "").split(":");
  const site = new Site({ host, port: Number(port) }, new Set(values("--fault")));
  console.log(JSON.stringify({ url: await site.listen() }));
  process.stdin.resume().on("end", () => site.close());
}
