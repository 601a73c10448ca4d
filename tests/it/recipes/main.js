// Recipes for the tests of what runs recipes: each does what its service's name says. Real ones
// are in scripts/provisioner; these know the protocol and nothing else.
const { spawn } = require("node:child_process");

const KEY = "sk-made-" + "0123456789abcdef".repeat(3);
const [service] = process.argv.slice(2);
const out = (message) => process.stdout.write(JSON.stringify({ v: 1, ...message }) + "\n");
const step = (name, percent) => out({ type: "progress", step: name, percent });
const forever = () => setInterval(() => {}, 1000);
const key = () => out({ type: "result", credential: KEY });
const fail = (reason, message, more) =>
  out({ type: "error", step: "fill the form", reason, message, ...more });

const recipes = {
  works() {
    step("open the page", 30);
    // Long enough to be seen on a busy machine.
    setTimeout(() => step("read the key", 80), 1000);
    setTimeout(key, 2000);
    setTimeout(() => process.exit(0), 2020);
  },
  dies: () => process.exit(3),
  killed: () => process.kill(process.pid, "SIGKILL"),
  garbage: () => process.stdout.write("this is no message\n"),
  flood: () => process.stdout.write(Buffer.alloc(100 * 1024 * 1024, "x")),
  chatter: () => { for (let line = 0; line < 600; line++) step("again", 1); },
  later: () => process.stdout.write('{"v":2,"type":"progress"}\n'),
  empty: () => out({ type: "result" }),
  captcha: () => out({ type: "need_input", step: "fill the form", what: "captcha", message: "" }),
  changed(start) {
    const message = `no button "Sign up", ${start.secret}, ${KEY}`;
    fail("page_changed", message, { screenshot: start.screenshot });
  },
  elsewhere: () => fail("page_changed", "none", { screenshot: "/etc/passwd" }),
  network: () => fail("network", "connection refused"),
  then_fails() { key(); setTimeout(() => process.exit(1), 50); },
  then_hangs() { key(); forever(); },
  hangs() {
    // Deaf, and in a session of its own, as browsers are.
    const deaf = "process.on('SIGTERM', () => {}); setInterval(() => {}, 1000)";
    spawn(process.execPath, ["-e", deaf, process.env.HOME], { detached: true, stdio: "ignore" });
    process.on("SIGTERM", () => {});
    step("wait for the mail", 40);
    forever();
  },
};

if (service === "silent") return forever();
if (service === "broken") throw new Error("there is a fault in it");
out({ type: "hello", service });
let text = "";
process.stdin.on("data", (part) => {
  text += part;
  const end = text.indexOf("\n");
  if (end < 0) return;
  const start = JSON.parse(text.slice(0, end));
  step("fill the form", 20);
  recipes[service](start);
});
