//! Stage 3, the daemon's process: what the kernel says of the real binary.
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command};

use serde_json::json;

use crate::daemon_process::{Daemon, pair};
use crate::home::{BINARY, Home};
use crate::pair::{asked, is_ok};
use crate::store_victim::example;

/// A home with a private backend and a paired daemon.
fn paired() -> (Home, Daemon) {
    let home = Home::new();
    home.store("my-agent", "openrouter", "sk-or-v1-test");
    let mut daemon = Daemon::start(&home, &[]);
    daemon.initialize();
    pair(&home, &mut daemon, "my-agent");
    (home, daemon)
}

/// A field of the daemon's `/proc/PID/status`.
fn status(daemon: &Daemon, field: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    value.unwrap_or_else(|| panic!("no {field}")).trim().to_owned()
}

/// What `doctor` says of one of the daemon's protections: its health, and what was found.
fn protection(home: &Home, name: &str) -> (String, String) {
    let json = home.run(&["doctor", "--json"]).json();
    let facts = json["facts"].as_array().unwrap();
    let wanted = format!("daemon {name}");
    let fact = facts.iter().find(|fact| fact["name"] == json!(wanted));
    let fact = fact.unwrap_or_else(|| panic!("no {wanted}: {json}"));
    let word = |field: &str| fact[field].as_str().unwrap().to_owned();
    (word("health"), word("found"))
}

/// Starts the real daemon through a program that takes system calls away from it.
fn without(home: &Home, calls: &str) -> Daemon {
    let mut command: Command = home.command(&[calls, BINARY, "daemon", "--stdio"]);
    let mut lacking = Command::new(example("lacking"));
    lacking.args(command.get_args()).env_clear().current_dir(home.path());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            lacking.env(name, value);
        }
    }
    command = lacking;
    let mut daemon = Daemon::spawn(&mut command);
    daemon.initialize();
    daemon
}

#[test]
fn starts_and_connects() {
    let (home, mut daemon) = paired();
    let answer = daemon.call("get_credential", json!({ "service": "openrouter" }));
    assert!(is_ok(&answer), "{answer}");
    assert_eq!(answer["structuredContent"]["credential"], "sk-or-v1-test");
    // It started no backend of its own: it uses the one that there is.
    let agents = home.run(&["list", "--json"]).exits(0).json();
    assert_eq!(agents["agents"].as_array().unwrap().len(), 1);
}

/// A daemon without a client, as at a terminal: its lines on stderr up to the one with the OTP.
fn started_alone(home: &Home) -> (Child, String, BufReader<ChildStderr>) {
    let mut child = home.command(&["daemon"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("OTP") {
        assert!(lines.read_line(&mut said).unwrap() > 0, "{said}");
    }
    (child, said, lines)
}

/// The word behind another one.
fn word_after(text: &str, word: &str) -> String {
    text.split(word).nth(1).unwrap().split_whitespace().next().unwrap().to_owned()
}

#[test]
fn without_a_client_it_asks_at_once_and_stays_once_it_was_approved() {
    let home = Home::new();
    home.store("my-agent", "openrouter", "sk-or-v1-test");
    let (mut child, said, mut lines) = started_alone(&home);
    let (code, otp) = (word_after(&said, "pair code"), word_after(&said, "OTP"));
    home.run(&["approve", &code, "--as", "my-agent", "--yes", "--otp", &otp]).exits(0);
    let mut said = String::new();
    while !said.contains("is paired and has one credential") {
        assert!(lines.read_line(&mut said).unwrap() > 0, "{said}");
    }
    let terminated = Command::new("kill").arg(child.id().to_string()).status().unwrap();
    assert!(terminated.success() && child.wait().unwrap().success());
}

#[test]
fn without_a_client_it_ends_when_the_master_says_no() {
    let home = Home::new();
    home.store("my-agent", "openrouter", "sk-or-v1-test");
    let (mut child, said, mut lines) = started_alone(&home);
    home.run(&["deny", &word_after(&said, "pair code")]).exits(0);
    let mut rest = String::new();
    lines.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3), "{rest}");
    assert!(rest.contains("the master said no"), "{rest}");
}

#[test]
fn memfd_secret_or_fallback() {
    let (home, daemon) = paired();
    assert_eq!(protection(&home, "secret memory").0, "good");
    assert!(protection(&home, "memfd_secret").1.starts_with("memfd_secret"));
    drop(daemon);
    let home = Home::new();
    home.store("my-agent", "openrouter", "sk-or-v1-test");
    let mut daemon = without(&home, "memfd_secret");
    pair(&home, &mut daemon, "my-agent");
    let answer = daemon.call("get_credential", json!({ "service": "openrouter" }));
    assert!(is_ok(&answer), "{answer}");
    let (health, found) = protection(&home, "secret memory");
    assert!(health == "good" && found.contains("lo"), "locked all the same: {found}");
    assert_eq!(protection(&home, "memfd_secret").0, "warning");
}

#[test]
fn mlock_residency() {
    let (_home, daemon) = paired();
    let locked = status(&daemon, "VmLck");
    let kib: u64 = locked.split(' ').next().unwrap().parse().unwrap();
    assert!(kib > 0, "{locked}");
    assert!(kib < 1024, "only what is secret: {locked}");
}

#[test]
fn dumpable_off() {
    let (home, _daemon) = paired();
    assert_eq!(protection(&home, "not dumpable"), ("good".into(), "dumpable 0".into()));
    assert!(protection(&home, "no core dumps").1.contains("limit 0 bytes, at most 0"));
}

#[test]
fn no_new_privs() {
    let (_home, daemon) = paired();
    assert_eq!(status(&daemon, "NoNewPrivs"), "1");
}

#[test]
fn seccomp_installed() {
    let (home, daemon) = paired();
    assert_eq!(status(&daemon, "Seccomp"), "2");
    assert_eq!(protection(&home, "system call filter").0, "good");
}

#[test]
fn caps_dropped() {
    let (_home, daemon) = paired();
    for field in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
        assert_eq!(status(&daemon, field), "0".repeat(16), "{field}");
    }
}

#[test]
fn landlock_enosys_ok() {
    let home = Home::new();
    home.store("my-agent", "openrouter", "sk-or-v1-test");
    let mut daemon = without(&home, "landlock");
    asked(&daemon.call("get_credential", json!({ "service": "openrouter" })));
    pair(&home, &mut daemon, "my-agent");
    assert!(is_ok(&daemon.call("get_credential", json!({ "service": "openrouter" }))));
    let (health, found) = protection(&home, "Landlock");
    assert_eq!(health, "warning", "{found}");
}

#[test]
fn session_file_permissions() {
    let (home, _daemon) = paired();
    let mirror: PathBuf = home.path().join(".agentkeys/session");
    let found = std::fs::symlink_metadata(&mirror).unwrap();
    assert!(found.is_file());
    assert_eq!(found.permissions().mode() & 0o7777, 0o600);
    let own = std::fs::metadata(home.path()).unwrap().uid();
    assert_eq!(found.uid(), own);
    let folder = std::fs::symlink_metadata(mirror.parent().unwrap()).unwrap();
    assert_eq!((folder.mode() & 0o7777, folder.uid()), (0o700, own));
    // It is no session: that is nowhere on disk.
    let text = std::fs::read_to_string(&mirror).unwrap();
    assert!(!text.contains("agkc_"), "{text}");
}
