/**
 * The machine's own Chromium. It says who it is, hides nothing, and gets round nothing: what wants
 * a person gets one.
 */
import { accessSync, constants } from "node:fs";
import { chmod, mkdir, unlink } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { delimiter, dirname, isAbsolute, join } from "node:path";

import { chromium, errors, type Browser, type Locator, type Page } from "playwright-core";

import type { Context } from "./context.js";
import { Failure, NeedInput } from "./protocol.js";

/** How long a page or a part of it may take, in milliseconds. */
const PATIENCE = 15_000;
/** How long taking a picture may take, and closing the browser, in milliseconds. */
const PICTURE = 8_000;
/** How often it is looked whether a page wants a person, in milliseconds. */
const LOOK = 500;
const NAMES = ["chromium", "chromium-browser", "google-chrome-stable", "google-chrome"];

function runs(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

function find(): string {
  const named = process.env["AGENTKEYS_CHROMIUM"];
  if (named !== undefined) {
    if (isAbsolute(named) && runs(named)) return named;
    throw new Failure("browser_missing", "AGENTKEYS_CHROMIUM names no program");
  }
  for (const name of NAMES) {
    for (const folder of (process.env["PATH"] ?? "").split(delimiter)) {
      if (isAbsolute(folder) && runs(join(folder, name))) return join(folder, name);
    }
  }
  throw new Failure("browser_missing", `there is no ${NAMES.join(", ")} on the PATH`);
}

/** Opens a browser for `work`, takes a picture if that fails, and closes it in every case. */
export async function withPage<T>(
  context: Context,
  work: (page: Page) => Promise<T>,
): Promise<{ value: T } | { error: unknown; screenshot?: string }> {
  const executablePath = find();
  let browser: Browser;
  try {
    browser = await chromium.launch({
      executablePath,
      headless: true,
      // Its sandbox does not start for root.
      chromiumSandbox: process.getuid?.() !== 0,
      timeout: 30_000,
    });
  } catch (error) {
    const why = error instanceof Error ? error.message.split("\n")[0] : "";
    throw new Failure("browser_failed", `it does not start: ${why}`);
  }
  const close = () => void browser.close().catch(() => {});
  context.signal.addEventListener("abort", close);
  try {
    const plain = await browser.newPage();
    const agent = await plain.evaluate(() => navigator.userAgent);
    await plain.close();
    const page = await browser.newPage({
      userAgent: `${agent} AgentKeys-provisioner/0.1 (acts for its user)`,
      locale: "en-US",
    });
    page.setDefaultTimeout(PATIENCE);
    page.setDefaultNavigationTimeout(PATIENCE);
    try {
      return { value: await work(page) };
    } catch (error) {
      const told = describe(error);
      // A page that hangs lets itself not be looked at either.
      const screenshot = await within(PICTURE, picture(page, context.screenshot));
      return { error: told, ...(screenshot ? { screenshot } : {}) };
    }
  } finally {
    context.signal.removeEventListener("abort", close);
    await within(PICTURE, browser.close().catch(() => {}));
  }
}

/** What `work` gives, or nothing once the time is over. */
async function within<T>(milliseconds: number, work: Promise<T>): Promise<T | undefined> {
  const end = new AbortController();
  const late = sleep(milliseconds, undefined, { signal: end.signal }).catch(() => undefined);
  const done = await Promise.race([work, late]);
  end.abort();
  return done;
}

/** A failure of the browser in words that hold nothing of the page. */
function describe(error: unknown): unknown {
  if (error instanceof Failure || error instanceof NeedInput) return error;
  const text = error instanceof Error ? error.message : "";
  const net = /net::(ERR_[A-Z_]+)/.exec(text)?.[1];
  if (net !== undefined) return new Failure("network", net.toLowerCase().replaceAll("_", " "));
  if (/has been closed|crashed/.test(text)) return new Failure("browser_failed", "it ended");
  if (error instanceof errors.TimeoutError) {
    return new Failure("network", "the page did not do its part in time");
  }
  return error;
}

/** Goes to an address. */
export async function open(page: Page, url: string): Promise<void> {
  let response;
  try {
    response = await page.goto(url, { waitUntil: "domcontentloaded" });
  } catch (error) {
    if (error instanceof errors.TimeoutError) {
      throw new Failure("network", `no answer within ${PATIENCE / 1000} seconds`);
    }
    throw error;
  }
  const status = response?.status() ?? 0;
  if (status >= 500) throw new Failure("network", `it answered with status ${status}`);
  if (status >= 400) throw new Failure("page_changed", `it answered with status ${status}`);
}

/** A part of the page that has to be there. */
export async function there(part: Locator, what: string, patience = PATIENCE): Promise<Locator> {
  const first = part.first();
  const until = Date.now() + patience;
  for (;;) {
    try {
      await first.waitFor({ state: "visible", timeout: LOOK });
      return first;
    } catch (error) {
      if (!(error instanceof errors.TimeoutError)) throw error;
    }
    await needsPerson(first.page());
    if (Date.now() > until) throw new Failure("page_changed", `there is no ${what}`);
  }
}

/** Ends the run if the page wants something that only a person is to give. */
export async function needsPerson(page: Page): Promise<void> {
  const riddle = /recaptcha|hcaptcha|turnstile|challenges\.cloudflare/i;
  const asks = page.getByText(/captcha|verify (that )?you are (a )?human|not a robot/i).first();
  if (page.frames().some((frame) => riddle.test(frame.url())) || (await asks.isVisible())) {
    throw new NeedInput("captcha", "");
  }
  if (await page.getByLabel(/phone/i).first().isVisible()) throw new NeedInput("phone", "");
}

/**
 * Takes a picture without what is secret in it: fields, codes, addresses, and whatever looks like a
 * token are covered or blotted out first.
 */
async function picture(page: Page, path: string | undefined): Promise<string | undefined> {
  if (path === undefined || page.isClosed()) return undefined;
  try {
    await page.evaluate(() => {
      const secret =
        /[\w.+-]+@[\w.-]+|[A-Za-z0-9_-]*\d[A-Za-z0-9_-]{11,}|[A-Za-z0-9_-]{11,}\d[A-Za-z0-9_-]*|\b\d{4,8}\b/g;
      const walker = document.createTreeWalker(document, NodeFilter.SHOW_TEXT);
      while (walker.nextNode()) {
        const node = walker.currentNode;
        const text = node.textContent ?? "";
        const hidden = text.replace(secret, "•••");
        if (hidden !== text) node.textContent = hidden;
      }
    });
    await mkdir(dirname(path), { recursive: true, mode: 0o700 });
    await unlink(path).catch(() => {});
    const mask = [page.locator("input, textarea, select, code, pre, output")];
    await page.screenshot({ path, mask, timeout: 5_000, animations: "disabled" });
    await chmod(path, 0o600);
    return path;
  } catch {
    return undefined;
  }
}
