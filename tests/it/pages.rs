//! The commands that the pages show: each is run, by the real binary, in a home that has the agent
//! that the pages speak of. What they do is for other tests; here, none may be misspelled, or have an
//! option that is gone.
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use agentkeys::cli;

use crate::home::{BINARY, Home, Ran};

/// What the pages write for a thing of the reader's own.
const PLACEHOLDERS: &[(&str, &str)] = &[
    ("<command>", "read"),
    ("<agent>", "my-agent"),
    ("<service>", "openrouter"),
    ("SERVICE", "openrouter"),
    ("NAME=service", "KEY=openrouter -- true"),
    ("SHELL", "bash"),
    ("CODE", "ABCD-EFGH"),
    ("serve ...", "serve --listen 127.0.0.1:0 --data data"),
    // Where the pages serve to the world: here, to this machine, in this home.
    ("0.0.0.0:8443", "127.0.0.1:0"),
    ("0.0.0.0:443", "127.0.0.1:0"),
    ("127.0.0.1:8420", "127.0.0.1:0"),
    ("unix:/run/agentkeys/", "unix:$HOME/run/"),
    ("/var/lib/agentkeys", "$HOME/data"),
    ("~/agentkeys-data", "$HOME/data"),
    ("file:/run/secrets/agentkeys-root-key", "file:$HOME/root-key"),
    ("/usr/local/bin/agentkeys", "agentkeys"),
    ("python agent.py", "python3 agent.py"),
    ("-- program", "-- true"),
    ("npm start", "true"),
    ("git clone https://github.com/me/private", "true"),
    ("run bench", "run my-agent"),
    ("read bench", "read my-agent"),
    ("\"who asks\"", "you"),
    ("init --device", "init --device --backend https://127.0.0.1:1"),
    // Nobody answers for these.
    (".example.org", ".invalid"),
    ("https://accounts.google.com", "https://accounts.invalid"),
];

/// The other commands, and what runs them.
const ELSEWHERE: &[(&str, &str)] = &[
    ("cargo run --release -- quickstart", "tests/it/readme.rs"),
    ("scripts/test", ".ci/run"),
    ("cargo install --path .", "scripts/test"),
    ("cargo build --release", "scripts/test"),
    ("cargo bench --bench", "benches/load.rs"),
    ("cargo run --release --example store_bench", "examples/store_bench.rs"),
    ("sh install.sh", "tests/e2e/lib/installed.sh"),
    ("openssl ecparam -genkey", "tests/e2e/lib/installed.sh"),
    ("openssl ec -in", "tests/e2e/lib/installed.sh"),
    ("packaging/dist.sh dist --key", "tests/e2e/lib/installed.sh"),
    ("AGENTKEYS_DIST=dist AGENTKEYS_RELEASE_KEY=", "tests/e2e/lib/installed.sh"),
    ("node packaging/npm/pack.mjs --out", "tests/it/npm.rs"),
    ("npm install ./dist/agentkeys-cli-*.tgz", "tests/it/npm.rs"),
    ("npm install --global @agentkeys/cli", "tests/it/npm.rs"),
    ("npx @agentkeys/daemon", "tests/it/npm.rs"),
    ("npm ci --prefix scripts/provisioner", "scripts/install-test-tools.sh"),
    ("packaging/deb.sh dist", "tests/e2e/packages.sh"),
    ("apt-get install ./", "tests/e2e/packages.sh"),
    ("packaging/oci/build.sh", "tests/e2e/packages.sh"),
    ("podman run --read-only --cap-drop all", "tests/e2e/packages.sh"),
    ("export AGENTKEYS_BACKEND=", "tests/e2e/three-machines.sh"),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The pages; `cli.md` is made of the same definitions as the program, and compared with it.
fn pages() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = ["README.md", "SECURITY.md", "CONTRIBUTING.md"]
        .iter()
        .map(|name| root().join(name))
        .chain([root().join("packaging/README.md")])
        .collect();
    for entry in std::fs::read_dir(root().join("docs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "md") && !path.ends_with("cli.md") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The lines of the page's blocks, those that end in `\` joined, without comments and prompts.
fn blocks(page: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let (mut fenced, mut goes_on) = (false, false);
    for line in page.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
            continue;
        }
        if !fenced && !line.starts_with("    ") {
            continue;
        }
        let line = line.split(" # ").next().unwrap_or_default().trim();
        let line = line.strip_prefix("$ ").unwrap_or(line);
        let text = line.trim_end_matches('\\').trim();
        match out.last_mut() {
            Some(last) if goes_on => *last = format!("{last} {text}"),
            _ => out.push(text.to_owned()),
        }
        goes_on = line.ends_with('\\');
    }
    out
}

/// What stands between single backquotes.
fn inline(page: &str) -> Vec<String> {
    let mut fenced = false;
    let text: Vec<&str> = page
        .lines()
        .filter(|line| {
            fenced ^= line.starts_with("```");
            !fenced && !line.starts_with("    ")
        })
        .collect();
    let text = text.join(" ");
    let words = text.split('`').skip(1).step_by(2);
    words.map(|word| word.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

fn is_ours(line: &str) -> bool {
    line.starts_with("agentkeys ") || line.starts_with("agentkeysd ")
}

/// Whether it is a command at all, and not a setting or an answer.
fn is_command(line: &str) -> bool {
    let first = line.split(' ').next().unwrap_or_default();
    let known = ["cargo", "openssl", "npm", "npx", "node", "podman", "sh", "sudo", "claude"];
    known.contains(&first)
        // In a recipe the same word is the module's.
        || (first == "export" && line.contains('='))
        || first.starts_with("packaging/")
        || first.starts_with("scripts/")
        || first.starts_with("AGENTKEYS_")
        || first == "apt-get"
}

struct Reader {
    home: Home,
}

impl Reader {
    fn new() -> Self {
        let home = Home::new();
        std::fs::create_dir(home.path().join("bin")).unwrap();
        std::os::unix::fs::symlink(BINARY, home.path().join("bin/agentkeys")).unwrap();
        home.store("my-agent", "openrouter", "sk-or-v1-pages");
        home.file("agent.py", "");
        home.file(".env", "OPENROUTER_API_KEY=sk-or-v1-pages\n");
        std::fs::create_dir(home.path().join(".cursor")).unwrap();
        let github =
            r#"{"mcpServers": {"github": {"command": "true", "env": {"GITHUB_TOKEN": "t"}}}}"#;
        home.file(".cursor/mcp.json", github);
        let answers = home.file("answers", "#!/bin/sh\necho correct horse battery\n");
        std::fs::set_permissions(answers, std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .unwrap();
        Self { home }
    }

    /// Runs a line at a terminal, where somebody types what is asked for; what serves or waits is
    /// ended after a while.
    fn run(&self, line: &str) -> Ran {
        let line = format!("timeout --kill-after=1 4 sh -c '{line}'");
        let mut shell = Command::new("script");
        shell.args(["-qefc", &line, "/dev/null"]).env_clear().current_dir(self.home.path());
        shell.env("HOME", self.home.path()).env("TERM", "dumb");
        shell.env("AGENTKEYS_ASKPASS", self.home.path().join("answers"));
        shell.env("PATH", format!("{}:/usr/bin:/bin", self.home.path().join("bin").display()));
        shell.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut typed = shell.spawn().expect("script(1), of util-linux");
        let mut keyboard = typed.stdin.take().unwrap();
        std::thread::spawn(move || {
            let _ = std::io::Write::write_all(&mut keyboard, b"sk-or-v1-typed\ny\nyes\n");
            std::thread::sleep(std::time::Duration::from_secs(3));
        });
        Ran::of(typed.wait_with_output().unwrap())
    }
}

#[test]
fn every_command_that_a_page_shows_is_one() {
    let mut wrong = Vec::new();
    let (mut ran, mut named) = (0, BTreeSet::new());
    std::thread::scope(|scope| {
        let pages: Vec<_> = pages()
            .into_iter()
            .map(|path| {
                scope.spawn(move || {
                    let page = std::fs::read_to_string(&path).unwrap();
                    let mut lines: Vec<String> = blocks(&page)
                        .into_iter()
                        .chain(inline(&page))
                        .filter(|l| is_ours(l))
                        .collect();
                    lines.sort();
                    lines.dedup();
                    let (reader, mut wrong) = (Reader::new(), Vec::new());
                    for line in &lines {
                        // A name alone is spoken of, and not meant to be typed so.
                        let alone = cli::find(line.split_once(' ').unwrap().1).is_some();
                        let mut typed = if alone { format!("{line} --help") } else { line.clone() };
                        for (from, to) in PLACEHOLDERS {
                            typed = typed.replace(from, to);
                        }
                        let ended = reader.run(&typed);
                        // A line that makes no sense, a crash, or a program that is not there.
                        let senseless = ended.stdout.contains("docs/errors.md#usage");
                        if senseless || matches!(ended.code, 101 | 126 | 127) {
                            let page = path.strip_prefix(root()).unwrap().display().to_string();
                            wrong.push(format!("{page}: {line}\n  as {typed}\n{}", ended.stdout));
                        }
                    }
                    (lines.len(), wrong)
                })
            })
            .collect();
        for page in pages {
            let (lines, mistakes) = page.join().unwrap();
            ran += lines;
            wrong.extend(mistakes);
        }
    });
    for path in pages() {
        let page = std::fs::read_to_string(&path).unwrap();
        for line in blocks(&page).into_iter().filter(|line| is_command(line)) {
            let line = line.strip_prefix("sudo ").unwrap_or(&line).to_owned();
            let by = ELSEWHERE.iter().find(|(begin, _)| line.starts_with(begin));
            match by {
                Some((begin, file)) => {
                    assert!(root().join(file).is_file(), "there is no {file}");
                    named.insert(*begin);
                }
                None if line.starts_with("claude ") => {}
                None => wrong.push(format!("{}: nothing runs: {line}", path.display())),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert!(ran > 60, "{ran} commands were found");
    let unused: Vec<_> = ELSEWHERE.iter().filter(|(begin, _)| !named.contains(begin)).collect();
    assert!(unused.is_empty(), "no page has them any more: {unused:?}");
}
