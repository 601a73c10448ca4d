//! The real daemon when something is wrong around it: it answers all the same, writes nothing but
//! protocol (which [`Daemon`] sees to), and ends when it is to end.
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::daemon_process::{Daemon, pair};
use crate::home::{Home, Ran};
use crate::store_victim::{Mount, skip};

fn openrouter(daemon: &mut Daemon) -> Value {
    daemon.call("get_credential", json!({ "service": "openrouter" }))
}

/// A daemon of that home that finds `backend` in its environment, its session open.
fn at(home: &Home, backend: &str) -> Daemon {
    with(home, "AGENTKEYS_BACKEND", backend)
}

fn with(home: &Home, variable: &str, value: &str) -> Daemon {
    let mut daemon = Daemon::spawn(home.command(&["daemon"]).env(variable, value));
    assert_eq!(daemon.initialize()["serverInfo"]["name"], "agentkeys");
    daemon
}

fn has_its_tools(daemon: &mut Daemon) {
    let tools = daemon.request("tools/list", json!({}));
    assert_eq!(tools["result"]["tools"].as_array().map(Vec::len), Some(5), "{tools}");
}

/// Whether a process is there, and no zombie.
fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat[stat.rfind(')').unwrap()..].starts_with(") Z"))
}

fn gone_within(pid: u32, limit: Duration) -> bool {
    let begun = Instant::now();
    while lives(pid) {
        if begun.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

fn helper_of(daemon: &Daemon) -> u32 {
    let pid = daemon.pid();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    children.split_whitespace().next().expect("it has a helper").parse().unwrap()
}

/// Accepts connections, and never answers.
fn silent() -> (String, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let kept = std::thread::spawn(move || {
        let mut all = Vec::new();
        all.extend(listener.incoming().map_while(Result::ok));
    });
    (address, kept)
}

#[test]
fn a_daemon_opens_the_mcp_session_without_waiting_for_anything() {
    let home = Home::new();
    // Unpaired, and nobody answers.
    let mut daemon = at(&home, &silent().0);
    has_its_tools(&mut daemon);
    let called = daemon.begin("tools/call", json!({ "name": "list_credentials", "arguments": {} }));
    // Another request is answered while that one waits.
    has_its_tools(&mut daemon);
    daemon.notify("notifications/cancelled", json!({ "requestId": called, "reason": "test" }));
    has_its_tools(&mut daemon);
}

#[test]
fn a_daemon_with_wrong_settings_says_so_in_its_answers() {
    for (variable, value, says) in [
        ("AGENTKEYS_BACKEND", "nonsense://x", "AGENTKEYS_BACKEND"),
        ("AGENTKEYS_BACKEND", "", "AGENTKEYS_BACKEND"),
        ("AGENTKEYS_LOG", "=,=,[[[", "no backend"),
    ] {
        let home = Home::new();
        let mut daemon = with(&home, variable, value);
        let answer = openrouter(&mut daemon);
        assert_eq!(answer["isError"], true, "{variable}={value}: {answer}");
        assert!(answer.to_string().contains(says), "{variable}={value}: {answer}");
        has_its_tools(&mut daemon);
    }
    let home = Home::new();
    fs::create_dir_all(home.path().join(".config/agentkeys")).unwrap();
    home.file(".config/agentkeys/config.toml", "[[[ garbage");
    let mut daemon = Daemon::start(&home, &[]);
    daemon.initialize();
    let answer = openrouter(&mut daemon);
    assert!(answer["isError"] == true && answer.to_string().contains("config.toml"), "{answer}");
}

#[test]
fn a_keyring_s_address_that_is_none_is_told_when_the_mirror_is_written() {
    let home = Home::new();
    home.run(&["init"]).exits(0);
    let mut daemon = with(&home, "DBUS_SESSION_BUS_ADDRESS", "garbage");
    has_its_tools(&mut daemon);
    let asked = daemon.call("list_credentials", json!({}));
    assert!(asked["structuredContent"].is_object(), "{asked}");
    has_its_tools(&mut daemon);
}

#[test]
fn a_daemon_without_a_place_for_its_files_does_not_start_and_says_why() {
    let home = Home::new();
    let file = home.file("a-file", "");
    for (value, says) in [
        (None, "HOME is not set"),
        (Some("relative"), "HOME is not an absolute path"),
        (Some("/proc"), "cannot make the folder /proc/.agentkeys"),
        (file.to_str(), "a-file/.agentkeys"),
    ] {
        let mut command = home.command(&["daemon"]);
        command.stdin(Stdio::piped()).env_remove("HOME");
        if let Some(value) = value {
            command.env("HOME", value);
        }
        let ran = Ran::of(command.output().unwrap()).says(says);
        assert!(ran.code != 0 && ran.stdout.is_empty(), "{value:?}: {}", ran.stdout);
    }
}

#[test]
fn a_full_disk_costs_a_daemon_its_mirror_and_no_more() {
    let home = Home::new();
    home.run(&["init"]).exits(0);
    home.store("my-agent", "openrouter", "sk-or-v1-test");
    let own = home.path().join(".agentkeys");
    let disk = match Mount::new(None, "size=64k,mode=0700", own.clone()) {
        Ok(disk) => disk,
        Err(why) => return skip("a daemon on a full disk", &why),
    };
    let mut daemon = Daemon::start(&home, &[]);
    daemon.initialize();
    // One page of what is left after another, until there is none.
    for number in 0.. {
        if fs::write(own.join(format!("filler-{number}")), [0; 4096]).is_err() {
            break;
        }
    }
    pair(&home, &mut daemon, "my-agent");
    let read = openrouter(&mut daemon);
    assert_eq!(read["structuredContent"]["credential"], "sk-or-v1-test", "{read}");
    assert!(daemon.stderr().contains("in memory alone"), "{}", daemon.stderr());
    daemon.hang_up();
    assert_eq!(daemon.wait_exit(), 0, "{}", daemon.stderr());
    drop(disk);
}

#[test]
fn what_is_no_message_is_refused_or_passed_over_and_the_next_one_is_answered() {
    let home = Home::new();
    let mut daemon = at(&home, "http://127.0.0.1:1");
    for garbage in [
        &b"\n\n  \n"[..],
        b"not json\n",
        b"\xff\xfe\x00\x01\n",
        b"{\"jsonrpc\":\"2.0\"}\n",
        b"[]\n",
        b"{\"jsonrpc\":\"2.0\",\"id\":null,\"method\":\"tools/list\"}\n",
        b"{\"jsonrpc\":\"2.0\",\"id\":99,\"method\":\"no/such\",\"params\":[1]}\n",
        b"{\"jsonrpc\":\"2.0\",\"id\":98,\"method\":\"tools/call\",\"params\":{\"name\":7}}\n",
        b"{\"jsonrpc\":\"2.0\",\"id\":97,\"result\":{}}\n",
    ] {
        daemon.send(garbage);
    }
    let mut endless = vec![b'x'; 8 << 20];
    endless.push(b'\n');
    daemon.send(&endless);
    has_its_tools(&mut daemon);
    daemon.hang_up();
    assert_eq!(daemon.wait_exit(), 0, "{}", daemon.stderr());
    assert!(!daemon.stderr().contains("panicked"), "{}", daemon.stderr());
}

#[test]
fn a_backend_that_is_killed_under_a_daemon_is_told_of_in_an_answer() {
    let home = Home::new();
    home.run(&["init"]).exits(0);
    home.store("my-agent", "openrouter", "sk-or-v1-test");
    // Named, so that it is not started anew.
    let socket = home.path().join(".local/state/agentkeys/run/backend.sock");
    let mut daemon = at(&home, &format!("unix:{}", socket.display()));
    pair(&home, &mut daemon, "my-agent");
    home.run(&["serve", "--stop"]).exits(0);
    let begun = Instant::now();
    let answer = openrouter(&mut daemon);
    assert_eq!(answer["isError"], true, "{answer}");
    assert!(answer.to_string().contains("UNAVAILABLE"), "{answer}");
    assert!(!answer.to_string().contains("sk-or-v1-test"));
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(6), "it gave up after {took:?}");
    has_its_tools(&mut daemon);
}

#[test]
fn a_daemon_ends_with_its_client_and_so_does_its_helper() {
    let home = Home::new();
    let mut daemon = Daemon::start(&home, &[]);
    daemon.initialize();
    let helper = helper_of(&daemon);
    daemon.hang_up();
    assert_eq!(daemon.wait_exit(), 0, "{}", daemon.stderr());
    assert!(gone_within(helper, Duration::from_secs(3)));
}

#[test]
fn a_daemon_that_is_told_to_end_ends_within_a_second_with_calls_under_way() {
    for signal in ["TERM", "INT", "HUP"] {
        let home = Home::new();
        let mut daemon = at(&home, &silent().0);
        let helper = helper_of(&daemon);
        for _ in 0..5 {
            daemon.begin("tools/call", json!({ "name": "list_credentials", "arguments": {} }));
        }
        has_its_tools(&mut daemon);
        let begun = Instant::now();
        daemon.signal(signal);
        assert_eq!(daemon.wait_exit(), 0, "{signal}: {}", daemon.stderr());
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(4), "{signal}: after {took:?}");
        assert!(gone_within(helper, Duration::from_secs(3)));
    }
}

#[test]
fn a_daemon_that_is_killed_leaves_its_client_no_open_pipe_and_no_helper() {
    let home = Home::new();
    let mut daemon = at(&home, "http://127.0.0.1:1");
    let helper = helper_of(&daemon);
    daemon.signal("STOP");
    // The helper has neither pipe: it is not what keeps the client from seeing the end.
    for descriptor in ["0", "1"] {
        let path = format!("/proc/{helper}/fd/{descriptor}");
        assert_eq!(fs::read_link(path).unwrap(), Path::new("/dev/null"));
    }
    let begun = Instant::now();
    daemon.signal("KILL");
    // Returns at the end of the stream.
    assert_eq!(daemon.wait_exit(), 128 + 9);
    assert!(begun.elapsed() < Duration::from_secs(4), "after {:?}", begun.elapsed());
    assert!(gone_within(helper, Duration::from_secs(4)), "the helper stays");
}

#[test]
fn a_daemon_whose_client_reads_no_more_ends_without_a_fuss() {
    let home = Home::new();
    let mut child = home.command(&["daemon"]).stdin(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut input = child.stdin.take().unwrap();
    let client = json!({
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": { "name": "test", "version": "1" },
    });
    let opening = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": client });
    use std::io::Write;
    writeln!(input, "{opening}").unwrap();
    let begun = Instant::now();
    // Its stdin is still open.
    let ran = Ran::of(child.wait_with_output().unwrap()).exits(0);
    assert!(begun.elapsed() < Duration::from_secs(5), "after {:?}", begun.elapsed());
    assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
    drop(input);
}

#[test]
fn a_daemon_s_log_has_no_secret_in_it_however_much_it_tells() {
    let home = Home::new();
    home.run(&["init"]).exits(0);
    home.store("my-agent", "openrouter", "sk-or-v1-never-in-a-log");
    let mut command = home.command(&["daemon", "--verbose"]);
    let mut daemon = Daemon::spawn(command.env("AGENTKEYS_LOG", "trace"));
    daemon.initialize();
    pair(&home, &mut daemon, "my-agent");
    daemon.notified("notifications/tools/list_changed");
    let read = openrouter(&mut daemon);
    assert_eq!(read["structuredContent"]["credential"], "sk-or-v1-never-in-a-log");
    assert_eq!(home.run(&["read", "my-agent", "openrouter"]).exits(0).stdout.len(), 23);
    let mirror = fs::read_to_string(home.path().join(".agentkeys/session")).unwrap();
    let mirror: Value = serde_json::from_str(&mirror).unwrap();
    daemon.signal("TERM");
    assert_eq!(daemon.wait_exit(), 0);
    let log = daemon.stderr();
    // It does tell much, also what the protocol's library was given.
    assert!(log.contains("TRACE") && log.contains("CallToolResult"), "{log}");
    for prefix in ["agkc_", "agkr_", "agko_", "agkp_", "agkm_", "never-in-a-log"] {
        assert!(!log.contains(prefix), "{prefix} in {log}");
    }
    let encoded = agentkeys::core::encoding::to_base64(b"sk-or-v1-never-in-a-log");
    assert!(!log.contains(&encoded[..24]), "{log}");
    let secrets = mirror["secrets"].as_str().unwrap();
    assert!(!log.contains(&secrets[..40]), "{log}");
}
