//! `agentkeys scope` as a person meets it.
use crate::home::Home;

#[test]
fn scope_is_shown_and_set() {
    let home = Home::new();
    home.store("my-agent", "openrouter", "sk-or-v1-x");
    home.store("my-agent", "github", "ghp_x");
    let shown = home.run(&["scope", "my-agent"]).exits(0).stdout;
    assert!(shown.contains("read and store all of the agent's services"), "{shown}");
    assert!(shown.contains("can read   github, openrouter"), "{shown}");

    // A service that nothing is stored for may be in it, and is said.
    home.run(&["scope", "my-agent", "--services", "openrouter,Brave", "--read-only"])
        .exits(0)
        .says("my-agent may read brave, openrouter")
        .says("taken away all services but brave, openrouter, later ones too, to store")
        .says("nothing is stored yet for: brave")
        .says("agentkeys store my-agent brave");
    home.run(&["read", "my-agent", "openrouter"]).exits(0);
    home.run(&["read", "my-agent", "github"]).exits(3).says("outside the scope");
    home.store("my-agent", "brave", "BSA-x");
    home.run(&["read", "my-agent", "brave"]).exits(0);
    let shown = home.run(&["scope"]).exits(0).stdout;
    for line in ["scope      read brave, openrouter", "kept from  github"] {
        assert!(shown.contains(line), "no {line:?} in {shown}");
    }

    // What no option names stays.
    home.run(&["scope", "my-agent", "--read-write"])
        .exits(0)
        .says("my-agent may read and store brave, openrouter")
        .says("added      to store");
    home.run(&["scope", "my-agent", "--read-write"]).exits(0).says("unchanged: my-agent may");
    home.run(&["scope", "my-agent", "--no-services"]).exits(0);
    home.run(&["read", "my-agent", "openrouter"]).exits(3);
    let set = home.run(&["scope", "my-agent", "--all-services", "--json"]).exits(0).json();
    assert_eq!(set["agent"]["scope"], serde_json::json!({ "read_only": false }));
    assert_eq!(set["before"], serde_json::json!({ "services": [], "read_only": false }));
    let shown = home.run(&["scope", "my-agent", "--json"]).exits(0).json();
    assert_eq!(shown["readable"], serde_json::json!(["brave", "github", "openrouter"]));

    let usage = home.run(&["usage", "my-agent", "--json"]).exits(0).json();
    let changes: Vec<_> = usage["events"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| event["action"] == "scope_change")
        .map(|event| event["detail"].as_str().unwrap())
        .collect();
    assert_eq!(changes.len(), 4, "{changes:?}");
    assert!(changes[1].starts_with("read and store brave, openrouter; before: read brave"));
    home.run(&["audit", "verify"]).exits(0);
}

#[test]
fn what_it_does_not_take_is_said_and_never_repeated() {
    let home = Home::new();
    home.store("my-agent", "openrouter", "sk-or-v1-x");
    let secret = "sk-or-v1 secret";
    let wrong = home.run(&["scope", "my-agent", "--services", &format!("github,{secret}")]);
    let wrong = wrong.exits(2).says("word 2 of the list is no service's name");
    assert!(!wrong.stderr.contains(secret), "{}", wrong.stderr);
    let many: Vec<String> = (0..257).map(|n| format!("s{n}")).collect();
    home.run(&["scope", "my-agent", "--services", &many.join(",")]).exits(2).says("at most 256");
    home.run(&["scope", "my-agent", "--services", "a", "--no-services"]).exits(2).says("exclude");
    home.run(&["scope", "my-agent", "--read-only", "--read-write"]).exits(2).says("exclude");
    home.run(&["scope", "my-agnet", "--no-services"]).exits(4).says("did you mean \"my-agent\"");
    let json = home.run(&["scope", "nobody", "--no-services", "--json"]).exits(4).json();
    assert_eq!(json["code"], "AGENT_NOT_FOUND");
    // Nothing of it was done.
    home.run(&["read", "my-agent", "openrouter"]).exits(0);
}

#[test]
fn a_revoked_agent_s_scope_is_set_and_said_to_wait() {
    let home = Home::new();
    home.store("my-agent", "openrouter", "sk-or-v1-x");
    home.run(&["revoke", "my-agent"]).exits(0);
    home.run(&["scope", "my-agent", "--services", "github"])
        .exits(0)
        .says("it was revoked 20")
        .says("agentkeys reinstate my-agent");
    let shown = home.run(&["scope", "my-agent"]).exits(0).stdout;
    assert!(shown.contains("revoked    20"), "{shown}");
}
