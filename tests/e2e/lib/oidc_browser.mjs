// Stands for a person at a browser: opens the address, follows redirects with cookies, fills in
// each form of the provider's login pages, and ends where there is nothing more to send.
//
//   OIDC_LOGIN=alice node oidc_browser.mjs URL
//
// OIDC_ABORT=1 follows the page's link to abort instead of logging in. OIDC_LOG names a file that
// gets a line for every page: status and address without its query.
import { appendFileSync } from 'node:fs';

const login = process.env.OIDC_LOGIN ?? 'alice';
const jars = new Map();

function remember(url, response) {
  const jar = jars.get(url.host) ?? new Map();
  jars.set(url.host, jar);
  for (const line of response.headers.getSetCookie()) {
    const [pair] = line.split(';');
    const at = pair.indexOf('=');
    const [name, value] = [pair.slice(0, at), pair.slice(at + 1)];
    // A cookie without a value is one that is taken away.
    if (value === '') jar.delete(name);
    else jar.set(name, value);
  }
}

async function ask(url, body) {
  const cookies = [...(jars.get(url.host) ?? [])].map(([name, value]) => `${name}=${value}`);
  const response = await fetch(url, {
    method: body ? 'POST' : 'GET',
    redirect: 'manual',
    headers: { cookie: cookies.join('; ') },
    body,
  });
  remember(url, response);
  if (process.env.OIDC_LOG) {
    appendFileSync(process.env.OIDC_LOG, `${response.status} ${url.origin}${url.pathname}\n`);
  }
  return response;
}

const attribute = (tag, name) => new RegExp(`\\b${name}="([^"]*)"`).exec(tag)?.[1];
const plain = (text) => text.replaceAll('&amp;', '&');

function filled(form) {
  const body = new URLSearchParams();
  for (const [tag] of form.matchAll(/<(?:input|button)\b[^>]*>/g)) {
    const name = attribute(tag, 'name');
    if (!name || name === 'abort') continue;
    const typed = { login, password: 'any' }[name];
    body.set(name, typed ?? plain(attribute(tag, 'value') ?? ''));
  }
  return body;
}

let url = new URL(process.argv[2]);
let response = await ask(url);
for (let step = 0; step < 30; step += 1) {
  const location = response.headers.get('location');
  if (location) {
    url = new URL(location, url);
    response = await ask(url);
    continue;
  }
  const page = await response.text();
  const abort = /<a href="([^"]*\/abort)"/.exec(page)?.[1];
  if (process.env.OIDC_ABORT && abort) {
    url = new URL(plain(abort), url);
    response = await ask(url);
    continue;
  }
  const form = /<form\b[\s\S]*?<\/form>/.exec(page)?.[0];
  if (!form) break;
  url = new URL(plain(attribute(form, 'action') ?? url.href), url);
  response = await ask(url, filled(form));
}
