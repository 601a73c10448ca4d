/**
 * OpenRouter: signs up with an e-mail address, or in where there is an account of that address
 * already, and makes a key on the page of keys.
 *
 * The address has the agent's own tag, so the same agent always comes to the same account.
 */
import type { Page } from "playwright-core";

import { needsPerson, open, there, withPage } from "../lib/browser.js";
import type { Context, Recipe } from "../lib/context.js";
import { Mailbox, plus } from "../lib/email.js";
import { Failure, NeedInput } from "../lib/protocol.js";

const SITE = "https://openrouter.ai";
const SUBJECT = /\b(verification|sign[- ]?in|sign[- ]?up) code\b|\bcode is\b/i;
const CODE = /(?<![\w-])(\d{6})(?![\w-])/;
const KEY = /\bsk-or-v1-[A-Za-z0-9]{32,}\b/;

const recipe: Recipe = {
  service: "openrouter",
  settings: {
    email: { about: "your address; a plus tag is put into it", required: true },
    imap: { about: "your mailbox: imaps://HOST", required: true },
    imap_user: { about: "your name there, if it is not the address" },
    from: { about: "who sends the codes: an address or @domain; else @openrouter.ai" },
    accept_terms: { about: "yes, if you have read and accept OpenRouter's terms" },
    url: { about: "another site than https://openrouter.ai" },
    tag: { about: "set by the daemon", required: true },
  },

  async check(context) {
    await paged(context, async (page) => {
      await context.step("open the sign-up page", 20, () => open(page, `${site(context)}/sign-up`));
      await context.step("look at the form", 60, async () => {
        await emailField(page);
        await goOn(page);
      });
    });
  },

  async run(context) {
    const address = plus(context.setting("email"), context.setting("tag"));
    const { secret } = context;
    if (secret === undefined) {
      throw new Failure("wrong_settings", "the mailbox's password is missing");
    }
    const mailbox = await context.step("open the mailbox", 5, () =>
      Mailbox.open(
        {
          imap: context.setting("imap"),
          user: context.setting("imap_user", context.setting("email")),
          password: secret,
        },
        context.signal,
      ),
    );
    try {
      return await paged(context, async (page) => {
        await context.step("open the sign-up page", 15, () =>
          open(page, `${site(context)}/sign-up`),
        );
        const marks = await context.step("fill the form", 25, async () => {
          await (await emailField(page)).fill(address);
          await acceptTerms(context, page);
          const marks = await mailbox.mark();
          await (await goOn(page)).click();
          return marks;
        });
        const field = await context.step("wait for the question for the code", 35, () =>
          there(page.getByLabel(/code/i), "field for the mailed code"),
        );
        const code = await context.step("wait for the mail", 45, () => {
          const from = context.setting("from", "@openrouter.ai");
          const expected = { recipient: address, from, subject: SUBJECT, code: CODE };
          // Some time is left for what comes after it.
          return mailbox.code(marks, expected, Math.max(5_000, context.left() - 30_000));
        });
        await context.step("enter the code", 65, async () => {
          await field.fill(code);
          const button = page.getByRole("button", { name: /^(verify|continue|confirm)/i });
          await (await there(button, "button that takes the code")).click();
          await Promise.race([
            field.waitFor({ state: "hidden" }),
            page.getByRole("alert").waitFor({ state: "visible" }),
          ]);
          if (await field.isVisible()) throw new Failure("code_refused", "");
          await needsPerson(page);
        });
        await context.step("open the page of keys", 75, () =>
          open(page, `${site(context)}/settings/keys`),
        );
        await context.step("make a key", 85, async () => {
          const create = page.getByRole("button", { name: /^(create|new)( api)? key$/i });
          await (await there(create, "button that makes a key")).click();
          const dialog = page.getByRole("dialog");
          const name = dialog.getByLabel(/name/i);
          await (await there(name, "field for the key's name")).fill(context.setting("tag"));
          const make = dialog.getByRole("button", { name: /^create/i });
          await (await there(make, "button that makes the key")).click();
        });
        return await context.step("read the key", 95, () => readKey(page));
      });
    } finally {
      await mailbox.close();
    }
  },
};

export default recipe;

/** Runs `work` on a page; what it throws is told with a picture of that page. */
async function paged<T>(context: Context, work: (page: Page) => Promise<T>): Promise<T> {
  const done = await withPage(context, work);
  if ("value" in done) return done.value;
  throw done;
}

function site(context: Context): string {
  const given = context.setting("url", SITE);
  const url = URL.canParse(given) ? new URL(given) : undefined;
  const local = ["127.0.0.1", "localhost", "[::1]"].includes(url?.hostname ?? "");
  if (url?.protocol !== "https:" && !(url?.protocol === "http:" && local)) {
    throw new Failure("wrong_settings", "url is https://HOST; without TLS only this machine's");
  }
  return given.replace(/\/+$/, "");
}

function emailField(page: Page) {
  return there(page.getByLabel(/e-?mail/i), "field for the e-mail address");
}

function goOn(page: Page) {
  const button = page.getByRole("button", { name: /^(continue|sign up|create account)$/i });
  return there(button, "button to go on");
}

async function acceptTerms(context: Context, page: Page): Promise<void> {
  const box = page.getByRole("checkbox", { name: /terms|agree/i }).first();
  if (!(await box.isVisible()) || (await box.isChecked())) return;
  if (context.setting("accept_terms", "no") !== "yes") throw new NeedInput("terms", "");
  await box.check();
}

/** The key is shown once, in a field or as text. */
async function readKey(page: Page): Promise<string> {
  const dialog = await there(page.getByRole("dialog"), "dialog with the key");
  const until = Date.now() + 10_000;
  do {
    const fields = await dialog.getByRole("textbox").all();
    const values = await Promise.all(fields.map((field) => field.inputValue()));
    for (const text of [...values, await dialog.innerText()]) {
      const key = KEY.exec(text)?.[0];
      if (key !== undefined) return key;
    }
    await page.waitForTimeout(200);
  } while (Date.now() < until);
  throw new Failure("page_changed", "there is no key where it should be shown");
}
