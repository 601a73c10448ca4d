//! Stage 5, the whole way of one key: the real daemon over MCP, the real recipe in a real browser,
//! a real mailbox, and a service of the project's own to sign up at.
use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::daemon_process::{Daemon, pair};
use crate::home::Home;
use crate::oidc_support::node;
use crate::recipe_support::{Program, are_built, recipes};

/// What the service says of itself.
fn state(url: &str) -> Value {
    let shown = std::process::Command::new("curl").args(["-s", &format!("{url}/state")]).output();
    serde_json::from_slice(&shown.unwrap().stdout).unwrap()
}

#[test]
fn smoke() {
    if !are_built() {
        return;
    }
    let mut dovecot = Program::start("dovecot.js", &[]);
    let server = dovecot.says();
    let mut site = Program::start("site.js", &["--lmtp", server["lmtp"].as_str().unwrap()]);
    let url = site.says()["url"].as_str().unwrap().to_owned();

    let home = Home::new();
    home.store("bot", "other", "sk-other");
    let tmp = home.path().join("tmp");
    fs::create_dir(&tmp).unwrap();
    let imap = format!("imap={}", server["imap"].as_str().unwrap());
    let site_url = format!("url={url}");
    let mut set = vec!["provisioner", "set", "openrouter", "--way", "browser"];
    for setting in
        ["email=ada@service.test", "imap_user=ada", "from=codes@service.test", &imap, &site_url]
    {
        set.extend(["--set", setting]);
    }
    set.push("-");
    let password = server["password"].as_str().unwrap();
    home.run_with(password, &set).exits(0);
    home.run(&["scope", "bot", "--services", "other,openrouter", "--provision", "openrouter"])
        .exits(0);

    let mut command =
        home.command(&["daemon", "--agent", "bot", "--services", "other,+openrouter"]);
    command.env("AGENTKEYS_RECIPES", recipes()).env("TMPDIR", &tmp);
    if node().is_absolute() {
        command.env("AGENTKEYS_NODE", node());
    }
    let mut daemon = Daemon::spawn(&mut command);
    daemon.initialize();
    pair(&home, &mut daemon, "bot");

    let id = daemon.begin(
        "tools/call",
        json!({ "name": "provision", "arguments": { "service": "openrouter" } }),
    );
    // A browser on a busy machine takes longer than other answers.
    let answer = daemon.answer_within(id, Duration::from_secs(150)).expect("an answer");
    let content = &answer["result"]["structuredContent"];
    assert_eq!((&content["status"], &content["made"]), (&json!("ready"), &json!(true)), "{answer}");
    assert!(!answer.to_string().contains("sk-or-v1-"), "{answer}");
    assert_eq!(state(&url)["keys"], 1);

    // The key is the vault's, and works where it was made.
    let ask = format!(
        "curl -s -o /dev/null -w '%{{http_code}}' -H \"authorization: Bearer $OPENROUTER_API_KEY\" \
         {url}/api/v1/key"
    );
    let run = home.run(&["run", "bot", "--", "sh", "-c", &ask]).exits(0);
    assert_eq!(run.stdout.trim(), "200");

    let again = daemon.call("provision", json!({ "service": "openrouter" }));
    assert_eq!(again["structuredContent"]["made"], false, "{again}");
    let state = state(&url);
    assert_eq!((&state["accounts"], &state["keys"]), (&json!(1), &json!(1)));
    let address = state["addresses"][0].as_str().unwrap();
    assert!(
        address.starts_with("ada+agentkeys-") && address.ends_with("@service.test"),
        "{address}"
    );

    let left: Vec<_> = fs::read_dir(&tmp).unwrap().flatten().map(|entry| entry.path()).collect();
    assert!(
        !left.iter().any(|path| path.to_string_lossy().contains("agentkeys-recipe")),
        "{left:?}"
    );
    let browsers = std::process::Command::new("pgrep").args(["-f", tmp.to_str().unwrap()]).output();
    assert_eq!(String::from_utf8_lossy(&browsers.unwrap().stdout), "");
}
