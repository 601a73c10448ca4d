//! The command line as a person meets it: the real binary in a fresh home, with the private
//! backend that starts by itself.
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::home::{BINARY, Home, Ran};

const KEY: &str = "sk-or-v1-0123456789abcdef";

/// An event of `usage --json`, in short.
fn short(event: &serde_json::Value) -> String {
    let text = |name: &str| event[name].as_str().unwrap_or("-").to_owned();
    format!("{} {} {}", text("action"), text("service"), text("outcome"))
}

#[test]
fn init_creates_session() {
    let home = Home::new();
    home.run(&["init"]).exits(0);
    let session = home.run(&["init", "--json"]).exits(0).json();
    assert_eq!(session["wallet"].as_str().unwrap().len(), 42, "{session}");
    // The session works: it can be listed with, and nothing was asked.
    assert_eq!(home.run(&["list", "--json"]).exits(0).json()["agents"], serde_json::json!([]));
    // Signing in again is the same account.
    let again = home.run(&["init", "--json"]).exits(0).json();
    assert_eq!(again["wallet"], session["wallet"]);
}

#[test]
fn store_and_read() {
    let home = Home::new();
    home.run_with(&format!("{KEY}\n"), &["store", "my-agent", "openrouter", "-"]).exits(0);
    // To a pipe: the value and nothing else, not even a newline.
    assert_eq!(home.run(&["read", "my-agent", "openrouter"]).exits(0).stdout, KEY);
    // With one agent, naming it is optional; case does not matter.
    assert_eq!(home.run(&["read", "openrouter"]).exits(0).stdout, KEY);
    assert_eq!(home.run(&["read", "My-Agent", "OpenRouter"]).exits(0).stdout, KEY);
    // From a file, and over what is there.
    let file = home.file("key", "sk-or-v1-second");
    home.run(&["store", "my-agent", "openrouter", "--from-file", file.to_str().unwrap()]).exits(0);
    assert_eq!(home.run(&["read", "openrouter"]).exits(0).stdout, "sk-or-v1-second");
    home.run(&["store", "my-agent", "openrouter", "--roll-back"]).exits(0);
    assert_eq!(home.run(&["read", "openrouter"]).exits(0).stdout, KEY);
    // The short form works, and warns of the shell's history.
    home.run(&["store", "my-agent", "github", "ghp_x"]).exits(0).says("history");
    assert_eq!(home.run(&["read", "my-agent", "github"]).exits(0).stdout, "ghp_x");
    // Nothing is stored from an empty input.
    home.run(&["store", "my-agent", "brave", "-"]).exits(2);
    home.run(&["read", "my-agent", "brave"]).exits(4);
}

#[test]
fn store_scope_denied() {
    let home = Home::new();
    home.store("agent-a", "openrouter", KEY);
    home.store("agent-b", "github", "ghp_secret");
    let denied = home.run(&["read", "agent-a", "github"]).exits(3);
    assert_eq!(denied.stdout, "");
    assert!(!denied.stderr.contains("ghp_secret"));
    denied.says("access denied").says("was not given \"github\"").says("fix");
    let events = home.run(&["usage", "agent-a", "--json"]).exits(0).json();
    let events: Vec<_> = events["events"].as_array().unwrap().iter().map(short).collect();
    assert_eq!(events, ["store openrouter allowed", "read github denied"]);
}

#[test]
fn run_injects_env() {
    let home = Home::new();
    home.store("my-agent", "openrouter", KEY);
    home.store("my-agent", "github", "ghp_x");
    let ran =
        home.run(&["run", "my-agent", "--", "printenv", "OPENROUTER_API_KEY", "GITHUB_TOKEN"]);
    assert_eq!(ran.exits(0).stdout, format!("{KEY}\nghp_x\n"));
    // The child's exit code is ours; what cannot be run is said as env(1) says it.
    home.run(&["run", "my-agent", "--", "sh", "-c", "exit 41"]).exits(41);
    home.run(&["run", "my-agent", "--", "/nonexistent/program"]).exits(127);
    home.run(&["run", "my-agent", "--", "/etc/passwd"]).exits(126);
    // Another variable for a service; nothing of ours is left in the child's environment.
    let ran = home.run(&["run", "my-agent", "--env", "TOKEN=github", "--", "printenv", "TOKEN"]);
    assert_eq!(ran.exits(0).stdout, "ghp_x\n");
    let mut command = home.command(&["run", "my-agent", "--", "env"]);
    let output = command.env("AGENTKEYS_BACKEND", "").env("AGENTKEYS_X", "y").output().unwrap();
    let environment = String::from_utf8(output.stdout).unwrap();
    assert!(environment.contains(KEY) && !environment.contains("AGENTKEYS_"), "{environment}");
    // It is the program itself, not a child of ours: exec keeps the process.
    let mut command = home.command(&["run", "my-agent", "--", "sh", "-c", "echo $$"]);
    let child = command.spawn().unwrap();
    let id = child.id();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), id.to_string());
}

#[test]
fn revoke_then_read() {
    let home = Home::new();
    home.store("my-agent", "openrouter", KEY);
    home.run(&["revoke", "my-agent"]).exits(0);
    for command in [&["read", "my-agent", "openrouter"][..], &["run", "my-agent", "--", "true"]] {
        let denied = home.run(command).exits(3);
        assert_eq!(denied.stdout, "");
        let year = denied.stderr.split("revoked 20").nth(1).expect("a time");
        assert!(year.contains(" UTC by the master session"), "{}", denied.stderr);
        denied.says("agent \"my-agent\" was revoked").says("agentkeys reinstate my-agent");
    }
    home.run(&["reinstate", "my-agent"]).exits(0);
    assert_eq!(home.run(&["read", "my-agent", "openrouter"]).exits(0).stdout, KEY);
}

#[test]
fn teardown_deletes_all() {
    let home = Home::new();
    home.store("my-agent", "openrouter", KEY);
    home.store("my-agent", "github", "ghp_x");
    home.run(&["teardown", "my-agent"]).exits(0);
    home.run(&["read", "my-agent", "openrouter"]).exits(4);
    home.run(&["run", "my-agent", "--", "true"]).exits(4);
    home.run(&["revoke", "my-agent"]).exits(4);
    // A new agent of that name has nothing of the old one's.
    home.store("my-agent", "brave", "BSA-x");
    home.run(&["read", "my-agent", "openrouter"]).exits(4);
}

#[test]
fn delete_takes_one_key_and_wants_a_yes() {
    let home = Home::new();
    home.store("my-agent", "openrouter", KEY);
    home.store("my-agent", "openruoter", KEY);
    home.run(&["delete", "my-agent", "openruoter"]).exits(2).says("add --yes");
    home.run(&["delete", "my-agent", "openruoter", "--yes"]).exits(0).says("has no openruoter key");
    home.run(&["delete", "my-agent", "openruoter", "--yes"])
        .exits(4)
        .says("did you mean openrouter?")
        .says("agentkeys list my-agent");
    assert_eq!(home.run(&["read", "my-agent", "openrouter"]).exits(0).stdout, KEY);
    let ran = home.run(&["usage", "--service", "openruoter"]).exits(0);
    assert!(ran.stdout.contains("delete"), "{}", ran.stdout);
}

#[test]
fn what_takes_another_s_place_says_so_and_how_to_take_it_back() {
    let home = Home::new();
    home.store("my-agent", "openrouter", KEY);
    let file = home.path().join(".env");
    std::fs::write(&file, "OPENROUTER_API_KEY=sk-or-v1-other\n").unwrap();
    home.run(&["import", "my-agent", file.to_str().unwrap()])
        .exits(0)
        .says("it replaces version 1, which is kept")
        .says("agentkeys store my-agent openrouter --roll-back");
    home.run(&["store", "my-agent", "openrouter", "--roll-back"]).exits(0);
    assert_eq!(home.run(&["read", "my-agent", "openrouter"]).exits(0).stdout, KEY);
    home.run(&["import", file.to_str().unwrap(), "my-agent"]).exits(2).says("the agent first");
}

#[test]
fn usage_shows_audit() {
    let home = Home::new();
    home.store("my-agent", "openrouter", KEY);
    home.store("other", "github", "ghp_x");
    home.run(&["read", "my-agent", "openrouter"]).exits(0);
    home.run(&["run", "my-agent", "--", "true"]).exits(0);
    home.run(&["revoke", "my-agent"]).exits(0);
    home.run(&["read", "my-agent", "openrouter"]).exits(3);
    home.run(&["run", "my-agent", "--", "true"]).exits(3);
    let json = home.run(&["usage", "my-agent", "--json"]).exits(0).json();
    let events: Vec<_> = json["events"].as_array().unwrap().iter().map(short).collect();
    let wanted = [
        "store openrouter allowed",
        "read openrouter allowed",
        "read openrouter allowed",
        "revoke - allowed",
        "read openrouter denied",
        "read - denied",
    ];
    assert_eq!(events, wanted);
    let table = home.run(&["usage", "my-agent"]).exits(0).stdout;
    assert_eq!(table.lines().filter(|line| line.contains("read")).count(), 4, "{table}");
    assert!(!table.contains(KEY));
    let denied = home.run(&["usage", "my-agent", "--denied", "--json"]).exits(0).json();
    assert_eq!(denied["events"].as_array().unwrap().len(), 2);
    home.run(&["audit", "verify"]).exits(0);
}

#[test]
fn link_alias() {
    let home = Home::new();
    home.store("my-agent", "openrouter", KEY);
    home.run(&["link", "my-agent", "--alias", "my-bot"]).exits(0);
    home.run(&["link", "my-agent", "--email", "bot@example.com"]).exits(0);
    assert_eq!(home.run(&["read", "my-bot", "openrouter"]).exits(0).stdout, KEY);
    assert_eq!(home.run(&["read", "bot@example.com", "openrouter"]).exits(0).stdout, KEY);
    // A name means one agent: moving it wants an unlink first.
    home.store("other", "github", "ghp_x");
    home.run(&["link", "other", "--alias", "MY-BOT"]).exits(2).says("unlink");
    home.run(&["unlink", "my-bot"]).exits(0);
    home.run(&["link", "other", "--alias", "my-bot"]).exits(0);
    assert_eq!(home.run(&["read", "my-bot", "github"]).exits(0).stdout, "ghp_x");
}

#[test]
fn help_has_examples() {
    let home = Home::new();
    let overview = home.run(&["--help"]).exits(0).stdout;
    let commands = [
        "quickstart",
        "init",
        "store",
        "read",
        "run",
        "list",
        "approve",
        "pending",
        "deny",
        "scope",
        "revoke",
        "reinstate",
        "teardown",
        "usage",
        "audit",
        "link",
        "unlink",
        "seal",
        "balance",
        "fund",
        "doctor",
        "serve",
        "feedback",
        "completions",
    ];
    for command in commands {
        assert!(overview.contains(&format!("  {command}")), "no {command} in {overview}");
        let help = home.run(&[command, "--help"]).exits(0).stdout;
        assert!(help.contains(&format!("agentkeys {command}")), "no example in: {help}");
        // A command that is to be copied is not wrapped; everything else is.
        let prose = || help.lines().filter(|line| !line.starts_with("  agentkeys "));
        assert!(prose().all(|line| line.chars().count() <= 80), "over 80 columns: {help}");
    }
    let version = home.run(&["--version"]).exits(0).stdout;
    assert!(version.contains(env!("CARGO_PKG_VERSION")) && version.contains("wire"), "{version}");
    // A mistyped command names the near one, and is a usage error.
    home.run(&["stroe"]).exits(2).says("store");
}

#[test]
fn json_output() {
    let home = Home::new();
    home.store("my-agent", "openrouter", KEY);
    let list = home.run(&["list", "--json"]).exits(0).json();
    assert_eq!(list["agents"][0]["name"], "my-agent");
    let read = home.run(&["read", "my-agent", "openrouter", "--json"]).exits(0).json();
    assert_eq!(read["credential"], KEY);
    let services = home.run(&["list", "my-agent", "--json"]).exits(0);
    assert!(!services.stdout.contains(KEY));
    assert_eq!(services.json()["credentials"][0]["service"], "openrouter");
    // A failure is the wire's problem object, on stdout, with the same exit code.
    home.run(&["revoke", "my-agent"]).exits(0);
    let problem = home.run(&["read", "my-agent", "openrouter", "--json"]).exits(3).json();
    assert_eq!((&problem["code"], &problem["status"]), (&"DENIED".into(), &403.into()));
    for member in ["type", "title", "detail", "cause", "fix"] {
        assert!(problem[member].is_string(), "{member} in {problem}");
    }
}

#[test]
fn verbose_output() {
    let home = Home::new();
    home.store("my-agent", "openrouter", KEY);
    let quiet = home.run(&["read", "my-agent", "openrouter"]).exits(0);
    assert_eq!(quiet.stderr, "");
    let verbose = home.run(&["read", "my-agent", "openrouter", "--verbose"]).exits(0);
    assert_eq!(verbose.stdout, KEY);
    assert!(verbose.stderr.contains("unix:"), "which backend: {}", verbose.stderr);
    assert!(!verbose.stderr.contains(KEY) && !verbose.stderr.contains("agkm_"));
}

#[test]
fn error_format_denied() {
    let home = Home::new();
    home.store("my-agent", "openrouter", KEY);
    home.run(&["revoke", "my-agent"]).exits(0);
    let denied = home.run(&["read", "my-agent", "openrouter"]).exits(3);
    let lines: Vec<_> = denied.stderr.lines().collect();
    assert_eq!(lines[0], "error: access denied: agent \"my-agent\" was revoked");
    assert_eq!(lines[1], "");
    assert!(lines[2].starts_with("  cause  revoked 20"), "{}", denied.stderr);
    assert_eq!(lines[3], "  fix    agentkeys reinstate my-agent");
    assert!(lines[4].starts_with("         or pair it again"), "{}", denied.stderr);
    assert!(lines[5].starts_with("  docs   docs/errors.md#denied"), "{}", denied.stderr);
    assert_eq!(lines.len(), 6);
}

#[test]
fn error_format_not_found() {
    let home = Home::new();
    home.store("my-agent", "openrouter", KEY);
    home.store("other", "github", "ghp_x");
    // Near names are named, and the wallet form.
    home.run(&["read", "my-agnet", "openrouter"])
        .exits(4)
        .says("error: agent not found: \"my-agnet\"")
        .says("my-agent")
        .says("0x")
        .says("docs   docs/errors.md#agent_not_found");
    home.run(&["read", "my-agent", "notion"])
        .exits(4)
        .says("error: no credential of \"notion\"")
        .says("fix    agentkeys store my-agent notion")
        .says("docs   docs/errors.md#not_found");
}

#[test]
fn error_format_unreachable() {
    let home = Home::new();
    let mut command = home.command(&["read", "my-agent", "openrouter"]);
    let output = command.env("AGENTKEYS_BACKEND", "http://127.0.0.1:9").output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(7), "{stderr}");
    for part in ["127.0.0.1:9", "AGENTKEYS_BACKEND", "tries", "docs/errors.md#unreachable"] {
        assert!(stderr.contains(part), "no {part} in {stderr}");
    }
    assert!(!home.path().join(".local/share/agentkeys").exists(), "no private backend was started");
}

#[test]
fn two_first_commands_at_once_leave_one_backend() {
    let home = Home::new();
    let commands: Vec<_> = (0..8)
        .map(|at| {
            home.command(&["store", &format!("agent-{at}"), "openrouter", "sk-or-v1-x"])
                .spawn()
                .unwrap()
        })
        .collect();
    for command in commands {
        let output = command.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let agents = home.run(&["list", "--json"]).exits(0).json();
    assert_eq!(agents["agents"].as_array().unwrap().len(), 8, "one backend has them all: {agents}");
    let marker = home.path().to_str().unwrap();
    let serving = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| std::fs::read(entry.ok()?.path().join("cmdline")).ok())
        .filter(|line| {
            let line = String::from_utf8_lossy(line).replace('\0', " ");
            line.contains(" serve ") && line.contains(marker)
        })
        .count();
    assert_eq!(serving, 1);
}

/// The private backend's process, as `doctor` names it.
fn backend_process(home: &Home) -> String {
    let facts = home.run(&["doctor", "--json"]).json();
    let facts = facts["facts"].as_array().unwrap().clone();
    let backend = facts.iter().find(|fact| fact["name"] == "backend").unwrap();
    let found = backend["found"].as_str().unwrap();
    found.split("process ").nth(1).unwrap().split(',').next().unwrap().to_owned()
}

#[test]
fn who_waits_at_a_terminal_sees_what_for_and_a_file_does_not() {
    let home = Home::new();
    home.store("my-agent", "openrouter", "sk-or-v1-slow");
    let pid = backend_process(&home);
    let signal = |name: &str| {
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    };
    for (terminal, locale) in [("xterm", "C.UTF-8"), ("dumb", "C.UTF-8"), ("xterm", "C")] {
        signal("-STOP");
        let line = format!("{BINARY} read my-agent openrouter 2>&1 >/dev/null");
        let mut command = Command::new("script");
        command.args(["-qec", &line, "/dev/null"]).env_clear();
        command.env("HOME", home.path()).env("PATH", "/usr/bin:/bin");
        command.env("TERM", terminal).env("LC_ALL", locale);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let slow = command.spawn().expect("script(1), of util-linux");
        std::thread::sleep(Duration::from_millis(2_500));
        signal("-CONT");
        let said = Ran::of(slow.wait_with_output().unwrap()).exits(0).stdout;
        if terminal == "dumb" {
            assert_eq!(said, "", "{terminal}");
            continue;
        }
        let turning = if locale == "C" { "| waiting for unix:" } else { "⠋ waiting for unix:" };
        assert!(said.contains(turning) && said.contains("  1 s"), "{said:?}");
        // The last thing that happens is that the line is taken back.
        assert!(said.ends_with("\r\x1b[K"), "{said:?}");
    }
    signal("-STOP");
    let slow = home.command(&["read", "my-agent", "openrouter"]).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(1_500));
    signal("-CONT");
    let ran = Ran::of(slow.wait_with_output().unwrap()).exits(0);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("sk-or-v1-slow", ""));
}
