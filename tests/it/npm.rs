//! The npm packages, as npm itself packs, chooses, installs and starts them: out of a registry on
//! this machine, so that it is npm that picks the platform's package.
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

use crate::home::{Home, Ran, without_symbols};

const OTHERS: [&str; 3] = ["linux-arm64", "darwin-x64", "darwin-arm64"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The packages, packed once for all tests: this build for linux-x64, the others laid out.
fn packed() -> &'static Path {
    static PACKED: OnceLock<PathBuf> = OnceLock::new();
    PACKED.get_or_init(|| {
        let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("npm-packed");
        let _ = std::fs::remove_dir_all(&out);
        let mut pack = Command::new("node");
        pack.arg(root().join("packaging/npm/pack.mjs")).arg("--out").arg(&out);
        pack.arg("--binary").arg(format!("linux-x64={}", without_symbols().display()));
        for other in OTHERS {
            pack.args(["--empty", other]);
        }
        Ran::of(pack.output().expect("node is installed")).exits(0);
        out
    })
}

/// `package.json` of a packed package.
fn about(file: &Path) -> Value {
    let mut tar = Command::new("tar");
    tar.arg("-xzOf").arg(file).arg("package/package.json");
    Ran::of(tar.output().unwrap()).exits(0).json()
}

/// A registry with the packed packages; ends with the test.
struct Registry {
    url: String,
    _runtime: tokio::runtime::Runtime,
}

impl Registry {
    fn start() -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind(("127.0.0.1", 0))).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut pages: BTreeMap<String, Bytes> = BTreeMap::new();
        for entry in std::fs::read_dir(packed()).unwrap() {
            let path = entry.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            let file = path.file_name().unwrap().to_str().unwrap().to_owned();
            let mut about = about(&path);
            let (name, version) = (about["name"].clone(), about["version"].clone());
            let hash = ring::digest::digest(&ring::digest::SHA512, &bytes);
            about["dist"] = json!({
                "tarball": format!("{url}/files/{file}"),
                "integrity": format!("sha512-{}", STANDARD.encode(hash)),
            });
            let name = name.as_str().unwrap().to_owned();
            let version = version.as_str().unwrap().to_owned();
            let page = json!({"name": name, "dist-tags": {"latest": version},
                              "versions": {version: about}});
            pages.insert(format!("/{}", name.replace('/', "%2f")), page.to_string().into());
            pages.insert(format!("/files/{file}"), bytes.into());
        }
        let pages = std::sync::Arc::new(pages);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let pages = pages.clone();
                tokio::spawn(async move {
                    let answer = service_fn(move |request: Request<Incoming>| {
                        let found = pages.get(request.uri().path()).cloned();
                        async move {
                            let status = if found.is_some() { 200 } else { 404 };
                            let body = Full::new(found.unwrap_or_default());
                            Response::builder().status(status).body(body)
                        }
                    });
                    let http = hyper::server::conn::http1::Builder::new();
                    let _ = http.serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        });
        Self { url, _runtime: runtime }
    }

    /// `npm install` in a folder of the home; says what is there then.
    fn install(&self, home: &Home, folder: &str, words: &[&str]) -> Vec<String> {
        let folder = home.path().join(folder);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("package.json"), r#"{"private":true}"#).unwrap();
        let mut npm = tool(home, "npm", &folder);
        npm.args(["install", "--no-audit", "--no-fund", "--registry", &self.url]);
        Ran::of(npm.args(words).output().expect("npm is installed")).exits(0);
        let there = std::fs::read_dir(folder.join("node_modules/@agentkeys"));
        let mut there: Vec<String> = there
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        there.sort();
        there
    }
}

/// A program of Node's in a home of its own.
fn tool(home: &Home, program: &str, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("HOME", home.path()).current_dir(folder);
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("npm_config_update_notifier", "false");
    command.env("npm_config_cache", Path::new(env!("CARGO_TARGET_TMPDIR")).join("npm-cache"));
    command
}

/// `npx` with what is installed in a folder; nothing is fetched.
fn npx(home: &Home, folder: &str, words: &[&str]) -> Command {
    let mut npx = tool(home, "npx", &home.path().join(folder));
    npx.arg("--no-install").args(words);
    npx
}

#[test]
fn install_linux_x64() {
    let (registry, home) = (Registry::start(), Home::new());
    let there = registry.install(&home, "app", &["@agentkeys/daemon", "@agentkeys/cli"]);
    assert_eq!(there, ["cli", "daemon", "linux-x64"]);
    let said = Ran::of(npx(&home, "app", &["agentkeys", "--version"]).output().unwrap()).exits(0);
    assert!(
        said.stdout.starts_with(concat!("agentkeys ", env!("CARGO_PKG_VERSION"))),
        "{}",
        said.stdout
    );
    let daemon = npx(&home, "app", &["agentkeysd", "--help"]).output().unwrap();
    assert!(Ran::of(daemon).exits(0).stdout.contains("Usage: agentkeys daemon"));
    // No script runs, and nothing is downloaded at installation: with scripts off it works too.
    let there = registry.install(&home, "b", &["--ignore-scripts", "@agentkeys/cli"]);
    assert_eq!(there, ["cli", "linux-x64"]);
    let shown = npx(&home, "b", &["agentkeys", "quickstart"]).stdin(Stdio::null()).output();
    let shown = Ran::of(shown.unwrap()).exits(0);
    assert!(format!("{}{}", shown.stdout, shown.stderr).contains("denied"));
    // How it ends, and what it is told, is the program's own.
    Ran::of(npx(&home, "b", &["agentkeys", "read", "nobody", "x"]).output().unwrap()).exits(4);
    let floor =
        about(&packed().join(format!("agentkeys-linux-x64-{}.tgz", env!("CARGO_PKG_VERSION"))));
    assert_eq!((&floor["glibc"], &floor["libc"]), (&json!("2.34"), &json!(["glibc"])));
    home.run(&["serve", "--stop"]).exits(0);
}

#[test]
fn install_other_platforms() {
    let (registry, home) = (Registry::start(), Home::new());
    for other in OTHERS {
        let (system, cpu) = other.split_once('-').unwrap();
        let (system, cpu) = (format!("--os={system}"), format!("--cpu={cpu}"));
        let there = registry.install(&home, other, &[&system, &cpu, "@agentkeys/daemon"]);
        assert_eq!(there, ["daemon", other]);
    }
    // A platform without a build, and optional dependencies that were left out.
    let words = ["--os=win32", "--cpu=x64", "@agentkeys/daemon"];
    assert_eq!(registry.install(&home, "w", &words), ["daemon"]);
    let words = ["--omit=optional", "@agentkeys/daemon"];
    assert_eq!(registry.install(&home, "o", &words), ["daemon"]);
    let ran = Ran::of(npx(&home, "o", &["agentkeysd"]).output().unwrap()).exits(1);
    ran.says("the package @agentkeys/linux-x64 is not installed").says("--include=optional");
    let start = home.path().join("w/node_modules/@agentkeys/daemon/bin/agentkeysd.js");
    for (platform, cpu, says) in [
        ("win32", "x64", "AgentKeys has no build for win32-x64"),
        ("linux", "riscv64", "AgentKeys has no build for linux-riscv64"),
        ("darwin", "arm64", "the package @agentkeys/darwin-arm64 is not installed"),
    ] {
        let there = format!(
            "for (const [name, value] of [['platform', '{platform}'], ['arch', '{cpu}']])
               Object.defineProperty(process, name, {{ value }});"
        );
        let file = home.file("there.js", &there);
        let mut node = tool(&home, "node", home.path());
        let ran = Ran::of(node.arg("-r").arg(file).arg(&start).output().unwrap()).exits(1);
        ran.says(says);
    }
}

/// A program at a terminal of its own, and what it shows.
struct Terminal {
    child: Child,
    shown: std::sync::Arc<Mutex<String>>,
}

impl Terminal {
    fn start(home: &Home, folder: &str, line: &str) -> Self {
        let mut script = tool(home, "script", &home.path().join(folder));
        script.args(["-qefc", line, "/dev/null"]).env("SHELL", "/bin/sh").env("TERM", "dumb");
        let mut child = script
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script is installed");
        let shown = std::sync::Arc::new(Mutex::new(String::new()));
        let (lines, kept) = (BufReader::new(child.stdout.take().unwrap()), shown.clone());
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                kept.lock().unwrap().push_str(&format!("{line}\n"));
            }
        });
        Self { child, shown }
    }

    /// Waits for a word that stands behind another on a line.
    fn word_after(&self, label: &str) -> String {
        let begun = Instant::now();
        loop {
            let shown = self.shown.lock().unwrap().clone();
            let found = shown.lines().find_map(|line| line.trim().strip_prefix(label));
            if let Some(word) = found.and_then(|rest| rest.split_whitespace().next()) {
                return word.to_owned();
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "no {label:?} in: {shown}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn until(&self, text: &str) {
        let begun = Instant::now();
        while !self.shown.lock().unwrap().contains(text) {
            let shown = self.shown.lock().unwrap().clone();
            assert!(begun.elapsed() < Duration::from_secs(60), "no {text:?} in: {shown}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn approve(home: &Home, terminal: &Terminal) -> Ran {
    let (code, otp) = (terminal.word_after("pair code"), terminal.word_after("OTP"));
    home.run(&["approve", &code, "--yes", "--otp", &otp]).exits(0)
}

#[test]
fn npx_starts_daemon() {
    let (registry, home) = (Registry::start(), Home::new());
    home.run(&["init"]).exits(0);
    registry.install(&home, "app", &["@agentkeys/daemon"]);
    let terminal = Terminal::start(&home, "app", "npx --no-install @agentkeys/daemon --agent bot");
    approve(&home, &terminal);
    terminal.until("paired with account");
    let agents = home.run(&["list", "--json"]).exits(0).json();
    assert_eq!(agents["agents"][0]["name"], "bot");
    drop(terminal);
    // Where its input is a pipe it speaks MCP, and ends with its client.
    let mut daemon = npx(&home, "app", &["@agentkeys/daemon", "--agent", "bot"]);
    let mut daemon = crate::daemon_process::Daemon::spawn(&mut daemon);
    let answer = daemon.initialize();
    assert_eq!(answer["serverInfo"]["name"], "agentkeys", "{answer}");
    daemon.hang_up();
    assert_eq!(daemon.wait_exit(), 0);
}

#[test]
fn npx_recover() {
    let (registry, home) = (Registry::start(), Home::new());
    home.store("bot", "openrouter", "sk-or-v1-kept");
    registry.install(&home, "app", &["@agentkeys/daemon"]);
    let line = "npx --no-install @agentkeys/daemon --recover bot";
    let terminal = Terminal::start(&home, "app", line);
    approve(&home, &terminal).says("Recover");
    terminal.until("paired with account");
    // Beside it, a program of the agent gets the key that its predecessor had.
    let read = home.run(&["read", "openrouter"]).exits(0);
    assert_eq!(read.stdout.trim_end(), "sk-or-v1-kept");
}
