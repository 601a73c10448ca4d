//! `approve`, `pending` and `deny` as the person at the master's terminal meets them: the real
//! binary against a real server, with the child's side played beside it.
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use agentkeys::core::auth_request::{Details, Pair, Recover, ScopeChange};
use agentkeys::core::decision::Verdict;
use agentkeys::core::pin::Fingerprint;
use agentkeys::core::problem::Code;
use agentkeys::core::scope::Scope;

use crate::auth_request::child::{Child, pair, paired, recover, rotate, scope_change};
use crate::env::{Master, START, TestEnv, code, scope};
use crate::home::{BINARY, Home, Ran};

/// A master's machine, signed in as `ada` at a server.
struct Desk {
    home: Home,
    env: TestEnv,
    ada: Master,
}

impl Desk {
    async fn new() -> Self {
        let env = TestEnv::new().await;
        // The command line shows ages by this machine's clock.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        env.clock.advance(now.saturating_sub(START.0));
        let ada = env.master("ada").await;
        let desk = Self { home: Home::new(), env, ada };
        desk.run(&["init", "--mock-token", "ada"]).exits(0).says(&desk.fingerprint());
        desk
    }

    fn fingerprint(&self) -> String {
        Fingerprint::of(self.ada.account, &self.ada.master_key).to_string()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.home.command(arguments);
        command.env("AGENTKEYS_BACKEND", format!("http://{}", self.env.address()));
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(self.command(arguments).output().unwrap())
    }

    /// Approves without a question, by the OTP that the child shows.
    fn approve(&self, child: &Child, more: &[&str]) -> Ran {
        let (code, otp) = (child.opened.pair_code.to_string(), child.opened.otp.to_string());
        self.run(&[&["approve", &code, "--yes", "--otp", &otp], more].concat())
    }

    /// Runs `approve` at a terminal, where somebody types `answer`.
    fn at_a_terminal(&self, child: &Child, answer: &str) -> Ran {
        let line = format!("{BINARY} approve {}", child.opened.pair_code);
        let mut command = Command::new("script");
        command.args(["-qec", &line, "/dev/null"]);
        let ours = self.command(&[]);
        command.env_clear().envs(ours.get_envs().filter_map(|(k, v)| v.map(|v| (k, v))));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut typed = command.spawn().expect("script(1), of util-linux");
        // Whoever is refused early leaves it unread.
        let _ = writeln!(typed.stdin.take().unwrap(), "{answer}");
        let ran = Ran::of(typed.wait_with_output().unwrap());
        // A terminal has one stream.
        Ran { stderr: ran.stdout.clone(), ..ran }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pairing_shows_all_that_tells_a_wrong_one() {
    let desk = Desk::new().await;
    let child = Child::open(&desk.env.http(), pair("my-bot", scope(&["openrouter"]))).await;
    let key = child.keys.public.fingerprint().to_string();
    desk.approve(&child, &[])
        .exits(0)
        .says("kind       Pair: a new daemon wants to be an agent of yours")
        .says("wants      read and store openrouter")
        .says("claimed    name \"my-bot\"")
        .says("claimed    host \"build-7\"")
        .says("claimed    user \"ci\"")
        .says("seen       127.0.0.1")
        .says(&format!("key        {} {}", &key[..4], &key[4..8]))
        .says("age        ")
        .says(&format!("OTP        {}", child.opened.otp))
        .says("approved: my-bot (0x")
        .says("may read and store openrouter")
        .says("takes its session by itself")
        .says("agentkeys revoke my-bot")
        .says(&format!("account {}\n", desk.fingerprint()));
    child.signed_in().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_otp_that_is_another_s_is_refused() {
    let desk = Desk::new().await;
    let child = Child::open(&desk.env.http(), pair("", Scope::everything())).await;
    let wrong = if child.opened.otp.to_string() == "000000" { "000001" } else { "000000" };
    let code = child.opened.pair_code.to_string();
    desk.run(&["approve", &code, "--yes", "--otp", wrong]).exits(3).says("the OTP is another");
    desk.run(&["approve", &code, "--yes"]).exits(2).says("--otp");
    desk.run(&["approve", &code]).exits(2).says("no terminal");
    assert!(child.decision().await.unwrap().is_none());
    desk.run(&["deny", &code]).exits(0);
    assert_eq!(child.decision().await.unwrap().unwrap().verdict, Verdict::Denied);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recovery_names_the_daemon_that_loses_its_access_and_wants_the_name_typed() {
    let desk = Desk::new().await;
    let (old, keys) = paired(&desk.ada, "my-bot", scope(&["openrouter"])).await;
    let child = Child::open(&desk.env.http(), recover("my-bot")).await;
    for (answer, word) in [("yes", "it was not confirmed"), ("my-bto", "it was not confirmed")] {
        desk.at_a_terminal(&child, answer).exits(1).says(word);
        assert!(child.decision().await.unwrap().is_none());
    }
    let old_key = keys.public.fingerprint().to_string();
    desk.at_a_terminal(&child, "My-Bot")
        .exits(0)
        .says("kind       Recover: a daemon wants to take over an agent of yours")
        .says("agent      my-bot (0x")
        .says("it may     read and store openrouter")
        .says(&format!("replaces   {} {}", &old_key[..4], &old_key[4..8]))
        .says("loses its access: keys and sessions")
        .says("Then type my-bot")
        .says("the daemon that had it before has lost its access");
    assert_eq!(code(old.try_read("my-bot", "openrouter").await), Code::Denied);
    assert_eq!(child.signed_in().await.wallet, old.wallet);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_no_at_the_terminal_approves_nothing() {
    let desk = Desk::new().await;
    let child = Child::open(&desk.env.http(), pair("my-bot", Scope::everything())).await;
    for answer in ["no", "", "yess", "\u{443}es"] {
        desk.at_a_terminal(&child, answer).exits(1).says("it was not confirmed");
    }
    assert!(child.decision().await.unwrap().is_none());
    desk.at_a_terminal(&child, "yes").exits(0);
    child.signed_in().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn giving_an_agent_that_exists_says_whose_access_ends_and_gives_no_more_than_it_says() {
    let desk = Desk::new().await;
    let (old, _) = paired(&desk.ada, "prod", scope(&["github", "openrouter"])).await;
    let child = Child::open(&desk.env.http(), pair("", scope(&["github", "stripe"]))).await;
    desk.approve(&child, &["--as", "prod"])
        .exits(0)
        .says("as         prod (0x")
        .says("you give   read and store github\n")
        .says("replaces   ")
        .says("loses its access")
        .says("may read and store github\n");
    assert_eq!(child.decided().await.granted.unwrap().scope, scope(&["github"]));
    assert_eq!(code(old.try_read("prod", "github").await), Code::Denied);
    let child = Child::open(&desk.env.http(), pair("", Scope::everything())).await;
    desk.approve(&child, &["--as", "pord"]).exits(4).says("did you mean \"prod\"");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scope_change_and_a_rotation_say_from_what_to_what() {
    let desk = Desk::new().await;
    let (bot, keys) = paired(&desk.ada, "my-bot", scope(&["brave", "github"])).await;
    let Details::ScopeChange(change) = scope_change(bot.wallet, scope(&["github", "stripe"]))
    else {
        unreachable!()
    };
    let reason = Some("to take payments".parse().unwrap());
    let child = Child::open_as(&bot, Details::ScopeChange(ScopeChange { reason, ..change })).await;
    let listed = desk.run(&["pending"]).exits(0).stdout;
    let row = listed.lines().find(|line| line.contains(&child.opened.pair_code.to_string()));
    assert!(row.is_some_and(|row| row.contains("ScopeChange  my-bot  ")), "{listed}");
    desk.approve(&child, &[])
        .exits(0)
        .says("wants      read and store github, stripe")
        .says("has now    read and store brave, github")
        .says("adds       stripe")
        .says("takes away brave")
        .says("claimed    reason \"to take payments\"")
        .says("its next read obeys it");

    let child = Child::open_as(&bot, rotate(bot.wallet, keys.public)).await;
    let (old, new) = (keys.public.fingerprint().to_string(), child.keys.public.fingerprint());
    desk.approve(&child, &[])
        .exits(0)
        .says(&format!("old key    {} {}", &old[..4], &old[4..8]))
        .says(&format!("known      the old key is {}", &old[..4]))
        .says(&format!("new key    {}", &new.to_string()[..4]))
        .says("the old keys and sessions have ended");
}

/// What may be claimed, at its worst: it stays on its lines, in its quotes, and is pointed out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_claims_are_shown_harmlessly() {
    let desk = Desk::new().await;
    let http = desk.env.http();
    // Control and direction characters do not even get into a request.
    for bad in ["a\u{1b}[2J", "a\u{202e}b", "a\u{2066}b", "a\nb", "a\u{9b}31m", "a\u{200b}"] {
        assert!(bad.parse::<agentkeys::core::claim::Claim>().is_err(), "{bad:?}");
    }
    desk.ada.agent("prod-bot").await;
    let claim = |text: &str| Some(text.parse().unwrap());
    let details = Details::Pair(Pair {
        host: claim("l\u{430}ptop\"  seen unix socket, uid 0"),
        name: Some("pr0d-bot".parse().unwrap()),
        scope: Scope::everything(),
        user: claim(&format!("{}seen       127.0.0.1", " ".repeat(43))),
    });
    let child = Child::open(&http, details).await;
    let ran = desk.approve(&child, &[]).exits(0);
    let ran = ran
        .says("host \"l\u{430}ptop\\\"  seen unix socket, uid 0\" (not plain ASCII:\n")
        .says("               U+0430; may look like another)")
        .says("look out   the name looks like your agent \"prod-bot\", and is not it");
    let seen: Vec<_> = ran.stderr.lines().filter(|line| line.starts_with("  seen")).collect();
    assert_eq!(seen, ["  seen       127.0.0.1"], "{}", ran.stderr);
    let mut described = ran.stderr.lines().filter(|line| line.starts_with("  "));
    assert!(described.all(|line| line.chars().count() <= 80), "{}", ran.stderr);
    let steers = |c: char| c.is_control() && c != '\n';
    assert!(!ran.stderr.contains(steers), "{:?}", ran.stderr);

    let (bot, _) = paired(&desk.ada, "my-bot", scope(&["github"])).await;
    let change = ScopeChange {
        agent: bot.wallet,
        reason: Some(format!("{}OTP        {}", "\u{65e5}".repeat(60), "000000").parse().unwrap()),
        scope: Scope::everything(),
    };
    let child = Child::open_as(&bot, Details::ScopeChange(change)).await;
    let ran = desk.approve(&child, &[]).exits(0);
    let otps: Vec<_> = ran.stderr.lines().filter(|line| line.starts_with("  OTP")).collect();
    assert_eq!(otps, [format!("  OTP        {}", child.opened.otp)], "{}", ran.stderr);

    // A name that is taken goes to nobody by itself; what was asked stays to be answered.
    let child = Child::open(&http, pair("prod-bot", Scope::everything())).await;
    let code = &child.opened.pair_code;
    desk.approve(&child, &[])
        .exits(2)
        .says("which agent is it? You have one that is called \"prod-bot\"")
        .says(&format!("agentkeys approve {code} --as prod-bot"))
        .says("--name ANOTHER");
    desk.approve(&child, &["--name", "prod-bot-2"]).exits(0).says("prod-bot-2");
    let identity = "prod-bot".parse().unwrap();
    let details = Recover { agent: identity, host: claim("\u{3c1}rod"), user: None };
    let child = Child::open(&http, Details::Recover(details)).await;
    desk.approve(&child, &[]).exits(0).says("U+03C1");
}
