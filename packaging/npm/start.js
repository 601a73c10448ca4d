// Starts the AgentKeys binary of this platform, which npm has put beside this package. It is not
// downloaded, and no script ran at installation. Both packages with a command have a copy.
"use strict";
const { spawn } = require("node:child_process");
const path = require("node:path");

const BUILDS = ["linux-x64", "linux-arm64", "darwin-x64", "darwin-arm64"];
const SOURCE = "cargo install --git https://github.com/agentkeys/agentkeys";

function die(what, ...lines) {
  process.stderr.write(`error: ${what}\n${lines.map((line) => `  ${line}\n`).join("")}`);
  process.exit(1);
}

/** Whether version a is older than b. */
function older(a, b) {
  const [x, y] = [a, b].map((version) => version.split(".").map(Number));
  return x[0] !== y[0] ? x[0] < y[0] : (x[1] || 0) < (y[1] || 0);
}

/** The binary, or an end with what to do. `wanted` is the package that was asked for. */
function find(wanted) {
  const platform = `${process.platform}-${process.arch}`;
  if (!BUILDS.includes(platform)) {
    die(`AgentKeys has no build for ${platform}`, `there are builds for ${BUILDS.join(", ")}`,
      process.platform === "win32" ? "on Windows, run it inside WSL" : `from source: ${SOURCE}`);
  }
  const name = `@agentkeys/${platform}`;
  let about;
  try {
    about = require.resolve(`${name}/package.json`);
  } catch {
    die(`the package ${name} is not installed`,
      "npm leaves it out with --omit=optional or --no-optional, or when a lock file was made on",
      "another platform",
      `npm install --include=optional ${wanted}`,
      `or install it by name: npm install ${name}`);
  }
  const { glibc } = require(about);
  if (glibc && process.platform === "linux") {
    process.report.excludeNetwork = true;
    const there = process.report.getReport().header.glibcVersionRuntime;
    if (!there) {
      die(`the build for ${platform} needs glibc, and this system has none`,
        `it runs on Debian, Ubuntu, Fedora and the like; here (Alpine, for one): ${SOURCE}`);
    }
    if (older(there, glibc)) {
      die(`the build for ${platform} needs glibc ${glibc} or newer, and this system has ${there}`,
        "Debian 12, Ubuntu 22.04, RHEL 9 and newer have it", `or from source: ${SOURCE}`);
    }
  }
  return path.join(path.dirname(about), "bin", "agentkeys");
}

/** Starts it by a name, which decides its role. */
module.exports = function start(name) {
  const words = process.argv.slice(2);
  const binary = find(name === "agentkeysd" ? "@agentkeys/daemon" : "@agentkeys/cli");
  // The daemon takes options alone: with a command, it is the command line that is meant.
  const role = words.length > 0 && !words[0].startsWith("-") ? "agentkeys" : name;
  const env = { ...process.env };
  try {
    // The recipes, where they are installed beside this package.
    const recipes = path.dirname(require.resolve("@agentkeys/provisioner/package.json"));
    env.AGENTKEYS_RECIPES = env.AGENTKEYS_RECIPES || recipes;
  } catch {
    // They are not.
  }
  if (typeof process.execve === "function") {
    process.execve(binary, [role, ...words], env);
  }
  const child = spawn(binary, words, { stdio: "inherit", argv0: role, env });
  child.on("error", (error) => die(`cannot start ${binary}`, error.message));
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"]) {
    process.on(signal, () => child.kill(signal));
  }
  child.on("exit", (code, signal) => {
    if (signal === null) process.exit(code);
    process.removeAllListeners(signal);
    process.kill(process.pid, signal);
  });
};
