// Makes the npm packages: @agentkeys/daemon (agentkeysd) and @agentkeys/cli (agentkeys), and one for
// each platform that there is a binary of. Each has one command, so that npx knows what to start.
//
//   node packaging/npm/pack.mjs --out FOLDER [--binary linux-x64=FILE]... [--empty linux-arm64]...
//
// Their version is that of Cargo.toml. --empty lays a platform's package out without a binary, for
// the release workflow to fill; it is not to be published so. The recipes' package is made if
// scripts/provisioner was built.
import { execFileSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";

const here = path.dirname(fileURLToPath(import.meta.url));
const root = path.resolve(here, "../..");
const PLATFORMS = ["linux-x64", "linux-arm64", "darwin-x64", "darwin-arm64"];

const words = process.argv.slice(2);
const binaries = new Map();
let out;
while (words.length > 0) {
  const [word, value] = words.splice(0, 2);
  const [platform, file] = (value ?? "").split("=");
  if (word === "--out" && value) out = path.resolve(value);
  else if (word === "--binary" && PLATFORMS.includes(platform) && file) binaries.set(platform, file);
  else if (word === "--empty" && PLATFORMS.includes(platform)) binaries.set(platform, null);
  else {
    console.error(`pack.mjs: ${word} ${value ?? ""} is not known; see the top of the file`);
    process.exit(2);
  }
}
if (!out) throw new Error("--out FOLDER is missing");
fs.mkdirSync(out, { recursive: true });

const cargo = fs.readFileSync(path.join(root, "Cargo.toml"), "utf8");
const version = /^version = "(.*)"$/m.exec(cargo)[1];
const common = {
  version,
  license: "MIT OR Apache-2.0",
  homepage: "https://github.com/agentkeys/agentkeys",
  repository: { type: "git", url: "git+https://github.com/agentkeys/agentkeys.git" },
};
const stage = fs.mkdtempSync(path.join(os.tmpdir(), "agentkeys-npm-"));

/** Packs a folder of its own, after `fill` has put its files there. */
function pack(about, fill) {
  const folder = path.join(stage, about.name.replace("/", "-"));
  fs.mkdirSync(folder, { recursive: true });
  fs.copyFileSync(path.join(root, "LICENSE"), path.join(folder, "LICENSE"));
  fill(folder);
  fs.writeFileSync(path.join(folder, "package.json"), `${JSON.stringify(about, null, 2)}\n`);
  const told = execFileSync("npm", ["pack", "--json", "--ignore-scripts", "--pack-destination", out, folder], {
    encoding: "utf8",
    stdio: ["ignore", "pipe", "inherit"],
  });
  console.log(path.join(out, JSON.parse(told)[0].filename));
}

for (const [name, command, description] of [
  ["daemon", "agentkeysd", "Scoped, revocable API keys for AI agents: the daemon beside the agent"],
  ["cli", "agentkeys", "Scoped, revocable API keys for AI agents: the command line"],
]) {
  pack(
    {
      name: `@agentkeys/${name}`,
      description,
      ...common,
      bin: { [command]: `bin/${command}.js` },
      files: ["bin", "start.js"],
      engines: { node: ">=18" },
      optionalDependencies: Object.fromEntries(PLATFORMS.map((one) => [`@agentkeys/${one}`, version])),
    },
    (folder) => {
      fs.copyFileSync(path.join(here, name, "README.md"), path.join(folder, "README.md"));
      fs.copyFileSync(path.join(here, "start.js"), path.join(folder, "start.js"));
      const bin = path.join(folder, "bin", `${command}.js`);
      fs.mkdirSync(path.dirname(bin));
      fs.writeFileSync(bin, `#!/usr/bin/env node\nrequire("../start.js")("${command}");\n`, { mode: 0o755 });
    },
  );
}

for (const [platform, binary] of binaries) {
  const [system, cpu] = platform.split("-");
  const floor = binary
    ? execFileSync(path.join(root, "packaging/glibc-floor.sh"), [binary, platform], { encoding: "utf8" }).trim()
    : "none";
  pack(
    {
      name: `@agentkeys/${platform}`,
      description: `AgentKeys for ${platform}: installed by @agentkeys/daemon`,
      ...common,
      os: [system],
      cpu: [cpu],
      // What bin/agentkeys.js compares with what is there.
      ...(floor === "none" ? {} : { glibc: floor, libc: ["glibc"] }),
      files: ["bin"],
      preferUnplugged: true,
    },
    (folder) => {
      fs.mkdirSync(path.join(folder, "bin"));
      if (binary === null) return;
      fs.copyFileSync(binary, path.join(folder, "bin/agentkeys"));
      fs.chmodSync(path.join(folder, "bin/agentkeys"), 0o755);
    },
  );
}

const recipes = path.join(root, "scripts/provisioner");
if (fs.existsSync(path.join(recipes, "dist/main.js"))) {
  const about = JSON.parse(fs.readFileSync(path.join(recipes, "package.json"), "utf8"));
  const { description, type, engines, dependencies } = about;
  pack(
    { name: "@agentkeys/provisioner", description, ...common, type, engines, dependencies, files: ["dist"] },
    (folder) => {
      const isTest = (file) => !file.includes(`${path.sep}test`) && !file.endsWith(".built");
      fs.cpSync(path.join(recipes, "dist"), path.join(folder, "dist"), { recursive: true, filter: isTest });
    },
  );
}
fs.rmSync(stage, { recursive: true });
