/**
 * Finds the code that a service has mailed, in the user's own mailbox over IMAP.
 *
 * A mail counts if its sender, subject and recipient (with the plus tag) are the expected ones and
 * it came after the mailbox was marked; so no older code, and nobody else's, is ever returned.
 * Nothing in the mailbox is changed: no mail is marked as read, moved or deleted.
 */
import { setTimeout as sleep } from "node:timers/promises";

import { ImapFlow, type FetchMessageObject } from "imapflow";
import PostalMime from "postal-mime";

import { Failure } from "./protocol.js";

/** Between two looks, in milliseconds. */
const PAUSE = 1_500;
/** Longest that connecting and logging in may take, in milliseconds. */
const PATIENCE = 15_000;
/** Most bytes of a mail that are read, and most mails of one look. */
const MAX_MAIL = 256 * 1024;
const MAX_MAILS = 50;

/** How the mailbox is reached. */
export interface Account {
  /** `imaps://host[:port]`, or `imap://host:port` on this machine. */
  imap: string;
  user: string;
  password: string;
}

/** What a mail has to be like. */
export interface Expected {
  /** Its recipient, with the plus tag. */
  recipient: string;
  /** Its sender: an address, or `@domain`. */
  from: string;
  subject: RegExp;
  /** Has one group: the code. It has to match once. */
  code: RegExp;
}

/** Where a mailbox stood: what came later has a higher number. */
type Marks = { folder: string; next: number; validity: bigint }[];

export class Mailbox {
  private constructor(
    private readonly client: ImapFlow,
    private readonly signal: AbortSignal,
  ) {}

  /** Connects and logs in. */
  static async open(account: Account, signal: AbortSignal): Promise<Mailbox> {
    const { host, port, secure } = place(account.imap);
    const client = new ImapFlow({
      host,
      port,
      secure,
      // Without TLS it is this machine's own, and nothing on the way to be kept from.
      ...(secure ? {} : { doSTARTTLS: false }),
      auth: { user: account.user, pass: account.password },
      logger: false,
      disableAutoIdle: true,
      connectionTimeout: PATIENCE,
      greetingTimeout: PATIENCE,
      socketTimeout: 60_000,
    });
    // What breaks between two calls shows in the next one.
    client.on("error", () => {});
    signal.addEventListener("abort", () => client.close());
    try {
      await client.connect();
    } catch (error) {
      client.close();
      const { authenticationFailed, code } = (error ?? {}) as {
        authenticationFailed?: boolean;
        code?: string;
      };
      if (authenticationFailed) {
        throw new Failure("mail_login", `${host} refuses user and password`);
      }
      throw new Failure("mail_unreachable", `${host}:${port} (${code ?? "no IMAP"})`);
    }
    return new Mailbox(client, signal);
  }

  /** Notes where the mailbox stands. Done before the service is asked to send. */
  async mark(): Promise<Marks> {
    return this.talk(async () => {
      const folders = ["INBOX"];
      for (const { path, specialUse } of await this.client.list()) {
        if (specialUse === "\\Junk") folders.push(path);
      }
      const marks: Marks = [];
      for (const folder of folders) {
        const status = await this.client.status(folder, { uidNext: true, uidValidity: true });
        const { uidNext, uidValidity } = status;
        if (uidNext === undefined || uidValidity === undefined) continue;
        marks.push({ folder, next: uidNext, validity: uidValidity });
      }
      return marks;
    });
  }

  /** Waits for the mail, at most `patience` milliseconds, and gives its code. */
  async code(marks: Marks, expected: Expected, patience: number): Promise<string> {
    const begun = Date.now();
    let others = new Map<string, number>();
    do {
      this.signal.throwIfAborted();
      others = new Map();
      const code = await this.talk(() => this.look(marks, expected, others));
      if (code !== undefined) return code;
      await sleep(PAUSE, undefined, { signal: this.signal });
    } while (Date.now() - begun < patience);
    const seconds = Math.round((Date.now() - begun) / 1000);
    const counts = [...others].map(([why, number]) => `${number} with another ${why}`);
    const came = counts.length === 0 ? "no mail came" : `other mail came: ${counts.join(", ")}`;
    throw new Failure("mail_timeout", `within ${seconds} seconds ${came}`);
  }

  /** Logs out. */
  async close(): Promise<void> {
    await Promise.race([this.client.logout().catch(() => {}), sleep(1_000)]);
    this.client.close();
  }

  private async look(
    marks: Marks,
    expected: Expected,
    others: Map<string, number>,
  ): Promise<string | undefined> {
    for (const { folder, next, validity } of marks) {
      const lock = await this.client.getMailboxLock(folder, { readOnly: true });
      try {
        const open = this.client.mailbox;
        if (!open || open.uidValidity !== validity) continue;
        await this.client.noop();
        const found = await this.client.search({ uid: `${next}:*` }, { uid: true });
        // `N:*` always has the last mail in it, even if that is older.
        const uids = (found || []).filter((uid) => uid >= next).sort((a, b) => b - a);
        for (const uid of uids.slice(0, MAX_MAILS)) {
          const mail = await this.client.fetchOne(
            String(uid),
            { envelope: true, headers: HEADERS, source: { maxLength: MAX_MAIL } },
            { uid: true },
          );
          if (!mail) continue;
          const judged = await judge(mail, expected);
          if ("code" in judged) return judged.code;
          others.set(judged.other, (others.get(judged.other) ?? 0) + 1);
        }
      } finally {
        lock.release();
      }
    }
    return undefined;
  }

  private async talk<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      if (error instanceof Failure || this.signal.aborted) throw error;
      throw new Failure("mail_unreachable", "the connection to the mailbox broke off");
    }
  }
}

const HEADERS = ["delivered-to", "x-original-to"];

/** Whether a mail is the expected one: its code, or what is other about it. */
async function judge(
  mail: FetchMessageObject,
  expected: Expected,
): Promise<{ code: string } | { other: string }> {
  const { envelope } = mail;
  const from = (envelope?.from ?? []).map(({ address }) => (address ?? "").toLowerCase());
  const wanted = expected.from.toLowerCase();
  const is = (address: string) =>
    wanted.startsWith("@") ? address.endsWith(wanted) : address === wanted;
  if (from.length !== 1 || !from.every(is)) return { other: "sender" };
  if (!expected.subject.test(envelope?.subject ?? "")) return { other: "subject" };
  const recipients = [...(envelope?.to ?? []), ...(envelope?.cc ?? [])].map(
    ({ address }) => address ?? "",
  );
  for (const line of (mail.headers?.toString("utf8") ?? "").split("\n")) {
    const address = /^(?:delivered-to|x-original-to):\s*<?([^\s<>]+)/i.exec(line)?.[1];
    if (address) recipients.push(address);
  }
  const recipient = expected.recipient.toLowerCase();
  if (!recipients.some((address) => address.toLowerCase() === recipient)) {
    return { other: "recipient" };
  }
  const parsed = await PostalMime.parse(mail.source ?? new Uint8Array());
  const text = parsed.text ?? (parsed.html ?? "").replace(/<[^>]*>/g, " ");
  const pattern = new RegExp(expected.code.source, `${expected.code.flags.replace("g", "")}g`);
  const codes = new Set([...text.matchAll(pattern)].map((match) => match[1]));
  const [code] = codes;
  return codes.size === 1 && code !== undefined ? { code } : { other: "pattern of codes" };
}

function place(imap: string): { host: string; port: number; secure: boolean } {
  let url;
  try {
    url = new URL(imap);
  } catch {
    throw new Failure("wrong_settings", "imap is imaps://HOST, with :PORT where it is not 993");
  }
  const host = url.hostname.replace(/^\[|\]$/g, "");
  const local = ["127.0.0.1", "::1", "localhost"].includes(host);
  const secure = url.protocol === "imaps:";
  if (!host || !(secure || (url.protocol === "imap:" && local)) || url.username || url.password) {
    const rule = "imap is imaps://HOST; without TLS it may only be this machine's";
    throw new Failure("wrong_settings", rule);
  }
  return { host, port: Number(url.port || (secure ? 993 : 143)), secure };
}

/** `user@domain` with a plus tag. */
export function plus(address: string, tag: string): string {
  const parts = /^([^@\s<>"]+)@([^@\s<>"]+)$/.exec(address);
  const [, user, domain] = parts ?? [];
  if (user === undefined || domain === undefined) {
    throw new Failure("wrong_settings", "email is no address");
  }
  if (!/^[A-Za-z0-9-]{1,40}$/.test(tag)) throw new Failure("wrong_settings", "tag is no tag");
  return `${user}+${tag}@${domain}`;
}
