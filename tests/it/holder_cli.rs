//! `read`, `list`, `run` and `doctor` beside a daemon: the real binary, over a real socket.
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use agentkeys::client::holder::Record;
use agentkeys::daemon::shared::{Part, Shared};

use crate::holder_support::{AGENT, Fake, making, places, seat, waiting};
use crate::home::{Home, Ran};

const KEY: &str = "sk-or-v1-fake";

/// A daemon of that home.
async fn daemon(home: &Home, name: Option<&str>, fake: &Arc<Fake>) -> Arc<Shared> {
    let count = Arc::new(AtomicUsize::new(0));
    let shared = Shared::start(seat(home.path(), name), making(fake.clone(), count));
    assert_eq!(shared.part().await.unwrap(), Part::Holder { unreachable: None });
    shared
}

fn socket(home: &Home, name: Option<&str>) -> String {
    seat(home.path(), name).socket().to_str().unwrap().to_owned()
}

/// Runs a command with one more variable.
fn with(home: &Home, name: &str, value: &str, arguments: &[&str]) -> Ran {
    let output = home.command(arguments).env(name, value).output().unwrap();
    Ran {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn started_none(home: &Home) {
    assert!(!home.path().join(".local/share/agentkeys").exists(), "a backend was started");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_a_daemon_runs_and_no_backend_is_named_its_keys_are_used() {
    let home = Home::new();
    let _daemon = daemon(&home, None, &Fake::new("one")).await;
    let wallet = AGENT.to_string();
    assert_eq!(home.run(&["read", "openrouter"]).exits(0).stdout, KEY);
    assert_eq!(home.run(&["read", &wallet, "openrouter"]).exits(0).stdout, KEY);
    let json = home.run(&["read", "openrouter", "--json"]).exits(0).json();
    let expected =
        serde_json::json!({ "agent": wallet, "service": "openrouter", "credential": KEY });
    assert_eq!(json, expected);
    let json = home.run(&["read", "binary", "--json"]).exits(0).json();
    assert_eq!(json["credential_base64"], "/wAKIg==");
    home.run(&["read", "github"]).exits(4).says("no credential for \"github\"");

    let list = home.run(&["list", "--json"]).exits(0).json();
    assert_eq!(list["agent"], wallet.as_str());
    assert_eq!(list["credentials"][1]["service"], "openrouter");
    let list = home.run(&["list", &wallet]).exits(0).stdout;
    assert!(list.contains("OPENROUTER_API_KEY") && !list.contains(KEY), "{list}");

    home.run(&["run", "--", "env"]).exits(2).says("NUL");
    started_none(&home);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn run_gives_a_program_what_the_daemon_has_and_nothing_of_ours() {
    let home = Home::new();
    let fake = Fake::new("one");
    fake.credentials.lock().unwrap().remove("binary");
    let _daemon = daemon(&home, None, &fake).await;
    let place = socket(&home, None);
    let ran = with(&home, "AGENTKEYS_SOCKET", &place, &["run", "--", "env"]).exits(0);
    let lines: Vec<_> = ran.stdout.lines().collect();
    assert!(lines.contains(&format!("OPENROUTER_API_KEY={KEY}").as_str()), "{lines:?}");
    assert!(lines.contains(&"WHO_API_KEY=one"), "{lines:?}");
    assert!(!ran.stdout.contains("AGENTKEYS_"), "{lines:?}");
    let only = ["run", "--env", "K=who", "--only", "--", "sh", "-c", "echo $K$WHO_API_KEY"];
    assert_eq!(home.run(&only).exits(0).stdout, "one\n");
    let file = format!("A=agentkeys://who\nB=agentkeys://{AGENT}/openrouter\n");
    let file = home.file("env", &file);
    let file = file.to_str().unwrap();
    let ran = home.run(&["run", "--env-file", file, "--", "sh", "-c", "echo $A $B"]);
    assert_eq!(ran.exits(0).stdout, format!("one {KEY}\n"));
    let other = home.file("other", "A=agentkeys://somebody-else/who\n");
    let ran = home.run(&["run", "--env-file", other.to_str().unwrap(), "--", "env"]).exits(4);
    ran.says("not agent \"somebody-else\"'s");
    started_none(&home);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_serves_its_own_agent_by_its_address_or_this_machine_s_name_for_it() {
    let home = Home::new();
    let _bot = daemon(&home, Some("My-Bot"), &Fake::new("bot")).await;
    // The only one there is, it is meant without a name too.
    assert_eq!(home.run(&["read", "who"]).exits(0).stdout, "bot");
    assert_eq!(home.run(&["read", "my-bot", "who"]).exits(0).stdout, "bot");
    let wrong = home.run(&["read", "your-bot", "who"]).exits(4);
    assert_eq!(wrong.stdout, "");
    wrong.says("not agent \"your-bot\"'s").says("\"My-Bot\"".to_lowercase().as_str());
    let other = "0x0000000000000000000000000000000000000001";
    home.run(&["list", other]).exits(4).says(&AGENT.to_string());

    let second = daemon(&home, Some("second"), &Fake::new("second")).await;
    home.run(&["read", "who"]).exits(2).says("which agent is meant").says("my-bot, second");
    assert_eq!(home.run(&["read", "second", "who"]).exits(0).stdout, "second");
    let _nameless = daemon(&home, None, &Fake::new("nameless")).await;
    assert_eq!(home.run(&["read", "who"]).exits(0).stdout, "nameless");
    assert_eq!(home.run(&["read", "second", "who"]).exits(0).stdout, "second");
    // A socket that is named is that one, and its agent's name is known by it.
    let place = socket(&home, Some("second"));
    let named = ["read", "second", "who", "--socket", &place];
    assert_eq!(home.run(&named).exits(0).stdout, "second");
    home.run(&["read", "my-bot", "who", "--socket", &place]).exits(4);
    second.shutdown().await;
    home.run(&named).exits(7).says("no daemon answers");
    started_none(&home);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_an_approval_is_told_with_everything_that_a_person_needs() {
    let home = Home::new();
    let fake = Fake::new("one");
    *fake.waits.lock().unwrap() = Some(waiting());
    let _daemon = daemon(&home, None, &fake).await;
    for command in [&["read", "who"][..], &["list"], &["run", "--", "env"]] {
        let ran = home.run(command).exits(8);
        assert_eq!(ran.stdout, "");
        ran.says("waiting for approval")
            .says("pair code ABCD-EFGH")
            .says("OTP 123456")
            .says("agentkeys approve ABCD-EFGH")
            .says("on their own machine")
            .says("2027-01-15");
    }
    let json = home.run(&["read", "who", "--json"]).exits(8).json();
    assert_eq!(json["code"], "UNAUTHORIZED");
    assert_eq!(json["type"], "docs/errors.md#waiting");
    assert_eq!(json["waiting"]["pair_code"], "ABCD-EFGH");
    assert_eq!(json["waiting"]["otp"], "123456");
    assert_eq!(json["waiting"]["command"], "agentkeys approve ABCD-EFGH");
    // Whose it will be, nobody knows yet: it is not taken for an agent's that was named.
    home.run(&["read", &AGENT.to_string(), "who"]).exits(4).says("not paired yet");
    // Approved meanwhile, the same command works.
    *fake.waits.lock().unwrap() = None;
    assert_eq!(home.run(&["read", "who"]).exits(0).stdout, "one");
    started_none(&home);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_is_named_or_this_user_s_own_comes_before_a_daemon_that_is_not() {
    let home = Home::new();
    let _daemon = daemon(&home, None, &Fake::new("daemon")).await;
    let place = socket(&home, None);
    let nowhere = "http://127.0.0.1:9";
    home.run(&["read", "a", "who", "--backend", nowhere]).exits(7);
    with(&home, "AGENTKEYS_BACKEND", nowhere, &["read", "a", "who"]).exits(7);
    // The daemon's variable is the more special one, and the option comes before all.
    let mut both = home.command(&["read", "who"]);
    both.env("AGENTKEYS_BACKEND", nowhere).env("AGENTKEYS_SOCKET", &place);
    assert_eq!(both.output().unwrap().stdout, b"daemon");
    let ran = with(&home, "AGENTKEYS_BACKEND", nowhere, &["read", "who", "--socket", &place]);
    assert_eq!(ran.exits(0).stdout, "daemon");
    with(&home, "AGENTKEYS_SOCKET", &place, &["read", "a", "who", "--backend", nowhere]).exits(7);
    let both = ["read", "who", "--socket", &place, "--backend", nowhere];
    home.run(&both).exits(2).says("leave one of them out");
    with(&home, "AGENTKEYS_SOCKET", "/nowhere/s", &["read", "who"]).exits(7);
    started_none(&home);

    // Keys of one's own are where one looks for them.
    home.store("mine", "who", "own");
    assert_eq!(home.run(&["read", "mine", "who"]).exits(0).stdout, "own");
    home.run(&["serve", "--stop"]).exits(0);
    assert_eq!(home.run(&["read", "mine", "who"]).exits(0).stdout, "own");
    assert_eq!(home.run(&["list", "--json"]).exits(0).json()["agents"][0]["name"], "mine");
    assert_eq!(home.run(&["read", "who", "--socket", &place]).exits(0).stdout, "daemon");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_was_killed_is_none() {
    let home = Home::new();
    let place = seat(home.path(), None);
    place.prepare().unwrap();
    // What it left: a socket where nobody listens, and a record.
    drop(std::os::unix::net::UnixListener::bind(place.socket()).unwrap());
    let record = Record { pid: 1, socket: place.socket().to_owned() };
    let path = places(home.path()).holder_record(None).unwrap();
    let record = serde_json::to_vec(&record).unwrap();
    agentkeys::client::files::replace(&path, &record, agentkeys::client::files::Keep::Cheaply)
        .unwrap();
    home.run(&["read", "a", "who"]).exits(4).says("no agent");
    let json = home.run(&["doctor", "--json"]).json();
    let named = |fact: &&serde_json::Value| fact["name"].as_str().unwrap().starts_with("daemon");
    assert_eq!(json["facts"].as_array().unwrap().iter().filter(named).count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_shows_each_daemon_its_mirror_and_its_protections() {
    let home = Home::new();
    let _one = daemon(&home, None, &Fake::new("one")).await;
    let fake = Fake::new("bot");
    *fake.waits.lock().unwrap() = Some(waiting());
    let _bot = daemon(&home, Some("bot"), &fake).await;
    // A required protection that is missing is broken, and so doctor is not well.
    let json = home.run(&["doctor", "--json"]).exits(1).json();
    let fact = |name: &str| {
        let facts = json["facts"].as_array().unwrap();
        let found = facts.iter().find(|fact| fact["name"] == name);
        found.unwrap_or_else(|| panic!("no {name} in {json}")).clone()
    };
    let found = |name: &str| fact(name)["found"].as_str().unwrap().to_owned();
    assert_eq!(fact("daemon")["health"], "good");
    assert!(found("daemon").contains(&AGENT.to_string()));
    assert!(found("daemon").contains("http://127.0.0.1:9"));
    assert!(found("daemon").contains(&socket(&home, None)));
    assert_eq!(fact("daemon session")["health"], "good");
    assert_eq!(fact("daemon mirror")["health"], "warning");
    assert_eq!(fact("daemon seccomp")["health"], "good");
    assert_eq!(fact("daemon landlock")["health"], "warning");
    assert_eq!(fact("daemon no core dumps")["health"], "broken");
    assert_eq!(fact("daemon@bot session")["health"], "warning");
    assert!(found("daemon@bot session").contains("ABCD-EFGH"));
    let text = home.run(&["doctor"]).exits(1).stdout;
    assert!(text.contains("daemon@bot session") && text.contains("approve ABCD-EFGH"), "{text}");
    started_none(&home);
}
