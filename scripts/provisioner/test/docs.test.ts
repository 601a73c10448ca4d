/** The recipe that docs/provisioning.md shows, run as it stands there. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";

import ts from "typescript";

const at = (path: string) => fileURLToPath(new URL(path, import.meta.url));
const MAIN = at("../main.js");
const RECIPE = at("../recipes/example.js");
after(() => rmSync(RECIPE, { force: true }));

test("the shortest recipe works", async () => {
  const page = readFileSync(at("../../../../docs/provisioning.md"), "utf8");
  const recipe = /```ts\n([^]*?)```/.exec(page)?.[1];
  assert.ok(recipe);
  const options = { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2022 };
  writeFileSync(RECIPE, ts.transpileModule(recipe, { compilerOptions: options }).outputText);
  const server = createServer((_, response) => {
    response.setHeader("content-type", "text/html");
    response.end(`<label>Your key <input readonly value="key-of-the-example"></label>`);
  });
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const child = spawn(process.execPath, [MAIN, "example"], { stdio: ["pipe", "pipe", "inherit"] });
  const settings = { url, tag: "agentkeys-1" };
  const start = { v: 1, type: "start", service: "example", mode: "run", settings, seconds: 60 };
  child.stdin.write(JSON.stringify(start) + "\n");
  let stdout = "";
  child.stdout.on("data", (part) => (stdout += part));
  const code = await new Promise((done) => child.on("close", done));
  server.close();
  const messages = stdout.trim().split("\n").map((line) => JSON.parse(line));
  assert.deepEqual(messages.at(-1), { v: 1, type: "result", credential: "key-of-the-example" });
  assert.deepEqual(
    messages.slice(1, -1).map(({ step }) => step),
    ["open the first page", "read the key"],
  );
  assert.equal(code, 0);
});
