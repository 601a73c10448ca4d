// A person at a real browser (Debian's Chromium, without a window): opens the address, fills in the
// login page, agrees, and stays until the page that ends it. As $BROWSER of `agentkeys init`.
//
//   OIDC_LOGIN=alice PLAYWRIGHT=FOLDER SCREENSHOT=FILE node chromium_browser.mjs URL
import { pathToFileURL } from 'node:url';

const { OIDC_LOGIN = 'alice', PLAYWRIGHT, SCREENSHOT } = process.env;
const entry = `${PLAYWRIGHT}/node_modules/playwright-core/index.mjs`;
const { chromium } = await import(pathToFileURL(entry));

const browser = await chromium.launch({
  executablePath: '/usr/bin/chromium',
  // Root has no sandbox; and nothing but the addresses of the test is to be asked.
  args: [
    '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync',
  ],
});
try {
  const page = await browser.newPage();
  page.setDefaultTimeout(20_000);
  await page.goto(process.argv[2]);
  for (let step = 0; step < 10 && !page.url().includes('/callback'); step += 1) {
    const login = page.locator('input[name=login]');
    if (await login.count()) {
      await login.fill(OIDC_LOGIN);
      await page.locator('input[name=password]').fill('any');
    }
    const before = page.url();
    await page.locator('button[type=submit]').first().click();
    await page.waitForURL((now) => now.href !== before);
  }
  process.stdout.write(`${await page.locator('body').innerText()}\n`);
  if (SCREENSHOT) await page.screenshot({ path: SCREENSHOT });
} finally {
  await browser.close();
}
