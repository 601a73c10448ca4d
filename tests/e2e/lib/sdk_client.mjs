// The official SDKs as anybody uses them, and Node's own fetch: key and address from the
// environment, nothing else. The folder of the test tools is the one argument.
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

const client = new OpenAI.OpenAI();
const said = await client.chat.completions.create({ model: "m", messages });
assert.equal(said.choices[0].message.content, "hello");
let words = "";
for await (const chunk of await client.chat.completions.create({ model: "m", messages, stream: true })) {
  words += chunk.choices[0].delta.content ?? "";
}
assert.equal(words, "hello");
const claude = new Anthropic.Anthropic();
const answer = await claude.messages.create({ model: "m", max_tokens: 8, messages });
assert.equal(answer.content[0].text, "hello");
const fetched = await fetch(`${process.env.MY_API_BASE_URL}/plain`, {
  headers: { authorization: `Bearer ${process.env.MY_API_API_KEY}` },
});
assert.equal((await fetched.json()).path, "/plain");
