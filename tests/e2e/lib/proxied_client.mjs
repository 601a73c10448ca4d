// The official SDKs and Node's own fetch, by the proxy alone. The folder of the test tools is the one
// argument.
import assert from "node:assert";
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";

const tools = process.argv[2];
const load = (folder, name) =>
  import(pathToFileURL(createRequire(path.join(tools, folder, "x.js")).resolve(name)).href);
const { default: OpenAI } = await load("openai-node", "openai");
const { default: Anthropic } = await load("anthropic-node", "@anthropic-ai/sdk");
const messages = [{ role: "user", content: "hi" }];

assert.equal(Object.keys(process.env).filter((name) => name.endsWith("_BASE_URL")).length, 0);
const client = new OpenAI.OpenAI();
const said = await client.chat.completions.create({ model: "m", messages });
assert.equal(said.choices[0].message.content, "hello");
let words = "";
for await (const chunk of await client.chat.completions.create({ model: "m", messages, stream: true })) {
  words += chunk.choices[0].delta.content ?? "";
}
assert.equal(words, "hello");
const answer = await new Anthropic.Anthropic().messages.create({ model: "m", max_tokens: 8, messages });
assert.equal(answer.content[0].text, "hello");
const fetched = await fetch(`${process.env.OWN}/plain`);
assert.equal((await fetched.json()).path, "/plain");
