//! Stage 3, MCP: the real daemon as a client sees it.
use serde_json::{Value, json};

use crate::daemon_process::{Daemon, pair};
use crate::holder_support::seat;
use crate::home::Home;
use crate::pair::{is_ok, text};

fn paired(services: &[(&str, &str)]) -> (Home, Daemon) {
    let home = Home::new();
    for (service, secret) in services {
        home.store("my-agent", service, secret);
    }
    let mut daemon = Daemon::start(&home, &[]);
    daemon.initialize();
    pair(&home, &mut daemon, "my-agent");
    (home, daemon)
}

fn get(daemon: &mut Daemon, service: &str) -> Value {
    daemon.call("get_credential", json!({ "service": service }))
}

#[test]
fn get_credential_valid() {
    let (home, mut daemon) = paired(&[("openrouter", "sk-or-v1-test")]);
    let answer = get(&mut daemon, "openrouter");
    assert!(is_ok(&answer), "{answer}");
    let content = &answer["structuredContent"];
    assert_eq!(content["credential"], "sk-or-v1-test");
    assert_eq!(content["variables"], json!(["OPENROUTER_API_KEY"]));
    // By the dotted name as well, and on record each time.
    let dotted = daemon.call("agentkeys.get_credential", json!({ "service": "openrouter" }));
    assert_eq!(dotted["structuredContent"], *content);
    let usage = home.run(&["usage", "my-agent", "--json"]).exits(0).json();
    let reads = usage["events"].as_array().unwrap().iter();
    let reads = reads.filter(|event| event["action"] == "read" && event["outcome"] == "allowed");
    assert_eq!(reads.count(), 2, "{usage}");
}

#[test]
fn get_credential_denied() {
    let (home, mut daemon) = paired(&[("openrouter", "sk-or-v1-test")]);
    home.store("other-agent", "github", "ghp_other");
    let answer = get(&mut daemon, "github");
    assert!(!is_ok(&answer), "{answer}");
    assert!(text(&answer).to_lowercase().contains("denied"), "{}", text(&answer));
    assert!(!answer.to_string().contains("ghp_other"));
    home.run(&["revoke", "my-agent"]).exits(0);
    let answer = get(&mut daemon, "openrouter");
    assert!(!is_ok(&answer), "{answer}");
    for part in ["was revoked", "UTC by the master session", "agentkeys reinstate my-agent"] {
        assert!(text(&answer).contains(part), "{part}: {}", text(&answer));
    }
    assert!(!answer.to_string().contains("sk-or-v1-test"));
}

#[test]
fn list_credentials() {
    let (_home, mut daemon) = paired(&[("openrouter", "sk-or-v1-test"), ("github", "ghp_test")]);
    let answer = daemon.call("list_credentials", json!({}));
    assert!(is_ok(&answer), "{answer}");
    let listed = answer["structuredContent"]["credentials"].as_array().unwrap();
    let mut names: Vec<_> = listed.iter().map(|one| one["service"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["github", "openrouter"]);
    for secret in ["sk-or-v1-test", "ghp_test"] {
        assert!(!answer.to_string().contains(secret));
    }
}

#[test]
fn a_key_that_is_not_shown_is_listed_as_such_and_run_beside_the_daemon_keeps_to_it() {
    let (home, mut daemon) = paired(&[("openrouter", "sk-or-v1-test"), ("github", "ghp_test")]);
    home.run(&["expose", "my-agent", "openrouter", "inject"]).exits(0);
    home.run(&["expose", "my-agent", "github", "broker"]).exits(0);
    for (service, way) in [("openrouter", "agentkeys run my-agent"), ("github", "run --broker")] {
        let answer = get(&mut daemon, service);
        assert!(!is_ok(&answer) && text(&answer).contains("has chosen"), "{}", text(&answer));
        assert!(text(&answer).contains(way), "{}", text(&answer));
        assert!(!answer.to_string().contains("_test") && !answer.to_string().contains("-test"));
    }
    let answer = daemon.call("list_credentials", json!({}));
    let listed = answer["structuredContent"]["credentials"].as_array().unwrap();
    let mut tiers: Vec<_> = listed.iter().map(|one| one["exposure"].as_str().unwrap()).collect();
    tiers.sort_unstable();
    assert_eq!(tiers, ["broker", "inject"]);
    // The daemon's socket hands out for a program what it does not for the eye.
    let seat = seat(home.path(), None);
    let run = |name: &str| {
        let socket = seat.socket().to_str().unwrap();
        home.run(&["run", "--socket", socket, "--", "sh", "-c", &format!("echo ${name}")])
    };
    let ran = run("OPENROUTER_API_KEY").exits(0).says("github is used by the gateway only");
    assert_eq!(ran.stdout.trim(), "sk-or-v1-test");
    assert_eq!(run("GITHUB_TOKEN").exits(0).stdout.trim(), "");
    home.run(&["expose", "my-agent", "github", "reveal"]).exits(0);
    assert!(is_ok(&get(&mut daemon, "github")));
}

#[test]
fn tool_discovery() {
    // Unpaired, and with no backend at all.
    let home = Home::new();
    let mut daemon = Daemon::start(&home, &[]);
    let opened = daemon.initialize();
    assert_eq!(opened["capabilities"]["tools"]["listChanged"], true);
    let listed = daemon.request("tools/list", json!({}))["result"].clone();
    let tools = listed["tools"].as_array().unwrap();
    let names: Vec<_> = tools.iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    for wanted in
        ["http_request", "get_credential", "list_credentials", "request_access", "provision"]
    {
        assert!(names.contains(&wanted), "{names:?}");
    }
    for tool in tools {
        let name = tool["name"].as_str().unwrap();
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        assert!((1..=64).contains(&name.len()) && name.chars().all(fits), "{name}");
        assert_eq!(tool["inputSchema"]["type"], "object");
        assert_eq!(tool["outputSchema"]["type"], "object");
        assert!(
            tool["annotations"].is_object() && !tool["description"].as_str().unwrap().is_empty()
        );
    }
    // And every tool says how to set one; none makes a backend where nobody could approve.
    let answer = daemon.call("list_credentials", json!({}));
    assert!(text(&answer).contains("AGENTKEYS_BACKEND"), "{}", text(&answer));
    assert!(!home.path().join(".local/share/agentkeys").exists());
}
