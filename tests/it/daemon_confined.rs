//! The real daemon from the outside: that it answers whatever is wrong around it, writes nothing
//! but protocol, and what the kernel shows of it.
use serde_json::json;

use crate::daemon_process::{Daemon, pair};
use crate::home::Home;

#[test]
fn a_daemon_pairs_and_hands_its_credential_over() {
    let home = Home::new();
    home.run(&["init"]).exits(0);
    home.store("my-agent", "openrouter", "sk-or-v1-test");
    let mut daemon = Daemon::start(&home, &["--agent", "my-agent"]);
    assert_eq!(daemon.initialize()["serverInfo"]["name"], "agentkeys");
    pair(&home, &mut daemon, "my-agent");
    daemon.notified("notifications/tools/list_changed");
    let read = daemon.call("get_credential", json!({ "service": "openrouter" }));
    assert_eq!(read["structuredContent"]["credential"], "sk-or-v1-test");
    daemon.signal("TERM");
    assert_eq!(daemon.wait_exit(), 0, "{}", daemon.stderr());
}

#[test]
fn a_daemon_ends_with_its_client() {
    let home = Home::new();
    let mut daemon = Daemon::start(&home, &[]);
    daemon.initialize();
    daemon.hang_up();
    assert_eq!(daemon.wait_exit(), 0, "{}", daemon.stderr());
}
