//! The mirror of a daemon's session beside a real GNOME Keyring on a private D-Bus, by the real
//! daemon, confined as it is.
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::daemon_process::{Daemon, pair};
use crate::home::Home;
use crate::keyring::Desktop;
use crate::pair::{is_ok, text};

/// A daemon that finds the keyring of `desktop`, or none.
fn daemon_on(home: &Home, desktop: Option<&Desktop>) -> Daemon {
    let mut command = home.command(&["daemon", "--stdio"]);
    if let Some(desktop) = desktop {
        command.env("DBUS_SESSION_BUS_ADDRESS", desktop.address());
    }
    let mut daemon = Daemon::spawn(&mut command);
    daemon.initialize();
    daemon
}

fn get(daemon: &mut Daemon) -> Value {
    daemon.call("get_credential", json!({ "service": "openrouter" }))
}

fn mirror_of(home: &Home) -> PathBuf {
    home.path().join(".agentkeys/session")
}

fn mirror(home: &Home) -> Value {
    serde_json::from_slice(&std::fs::read(mirror_of(home)).unwrap()).unwrap()
}

/// The bytes of its secrets, sealed or not.
fn secrets(mirror: &Value) -> Vec<u8> {
    let text = mirror["secrets"].as_str().unwrap();
    agentkeys::core::encoding::from_base64("secrets", text).unwrap()
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// A home with a credential, and a daemon that was paired where that keyring is.
fn paired(desktop: Option<&Desktop>) -> (Home, Daemon) {
    let home = Home::new();
    home.store("my-agent", "openrouter", "sk-or-v1-test");
    let mut daemon = daemon_on(&home, desktop);
    pair(&home, &mut daemon, "my-agent");
    assert!(is_ok(&get(&mut daemon)));
    (home, daemon)
}

/// What a call is refused with, which leaves the mirror as it is.
#[track_caller]
fn refused(home: &Home, desktop: Option<&Desktop>, says: &str) {
    let before = std::fs::read(mirror_of(home)).unwrap();
    let answer = get(&mut daemon_on(home, desktop));
    assert!(!is_ok(&answer), "{answer}");
    assert!(text(&answer).contains(says), "no {says:?} in {}", text(&answer));
    assert_eq!(std::fs::read(mirror_of(home)).unwrap(), before);
}

#[test]
fn where_there_is_a_keyring_it_seals_the_mirror() {
    let Some(desktop) = Desktop::unlocked() else { return };
    let (home, daemon) = paired(Some(&desktop));
    let found = mirror(&home);
    assert_eq!(found["open"]["sealed_by"], "keyring", "{found}");
    for part in [&b"agkr_"[..], b"renewal", b"x25519"] {
        assert!(!holds(&secrets(&found), part), "it is in the clear");
    }
    let doctor = home.run(&["doctor", "--json"]).json();
    let facts = doctor["facts"].as_array().unwrap();
    let fact = facts.iter().find(|fact| fact["name"] == "daemon mirror").unwrap();
    assert_eq!(fact["health"], "good", "{fact}");
    assert!(fact["found"].as_str().unwrap().contains("sealed by the keyring"), "{fact}");
    // Started again on that desktop it asks nobody.
    drop(daemon);
    assert!(is_ok(&get(&mut daemon_on(&home, Some(&desktop)))));
}

#[test]
fn a_sealed_mirror_opens_only_where_its_keyring_is_and_as_it_was_sealed() {
    let Some(mut desktop) = Desktop::unlocked() else { return };
    let (home, daemon) = paired(Some(&desktop));
    drop(daemon);
    refused(&home, None, "sealed by the desktop's keyring");
    desktop.lock();
    refused(&home, Some(&desktop), "sealed by the desktop's keyring");
    desktop.log_in_again();
    // Whom it belongs to is bound to what is sealed.
    let sealed = std::fs::read_to_string(mirror_of(&home)).unwrap();
    let agent = mirror(&home)["open"]["identity"]["agent"].as_str().unwrap().to_owned();
    let other = format!("0x{}", "12".repeat(20));
    std::fs::write(mirror_of(&home), sealed.replace(&agent, &other)).unwrap();
    refused(&home, Some(&desktop), "it was changed");
    std::fs::write(mirror_of(&home), sealed).unwrap();
    assert!(is_ok(&get(&mut daemon_on(&home, Some(&desktop)))));
}

#[test]
fn a_mirror_in_the_clear_is_sealed_once_there_is_a_keyring() {
    let Some(desktop) = Desktop::unlocked() else { return };
    let (home, daemon) = paired(None);
    let found = mirror(&home);
    assert_eq!(found["open"]["sealed_by"], "nothing", "{found}");
    assert!(holds(&secrets(&found), b"agkr_"));
    drop(daemon);
    // The renewal at its start replaces it.
    assert!(is_ok(&get(&mut daemon_on(&home, Some(&desktop)))));
    assert_eq!(mirror(&home)["open"]["sealed_by"], "keyring");
}
