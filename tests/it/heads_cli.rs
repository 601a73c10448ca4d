//! The real program, whose backend's data folder was put back to an older copy, or which talks to
//! a backend that does not own up to it.
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use agentkeys::client::config::Config;
use agentkeys::client::connect::{Connection, connect_to};
use agentkeys::client::http::HttpBackend;
use agentkeys::client::places::Places;
use agentkeys::client::private::Private;
use agentkeys::client::sessions::Sessions;
use agentkeys::core::backend::AccountBackend;
use agentkeys::core::problem::Code;
use agentkeys::core::scope::Scope;
use agentkeys::core::set_back::is_set_back;
use agentkeys::core::token::SessionToken;
use agentkeys::core::wire::Route;
use agentkeys::harden;

use crate::auth_request::child::{Child, pair};
use crate::env::{Master, Rows, TestEnv, code, copy_of, id, refused, scope, service};
use crate::heads_vault::set_back;
use crate::home::{BINARY, Home, Ran};
use crate::keeper_support::{Liar, env_now};

const KEY: &str = "sk-or-v1-test";

impl Home {
    fn places(&self) -> Places {
        let variable = |name: &str| (name == "HOME").then(|| self.path().into());
        Places::find(variable, harden::effective_uid()).unwrap()
    }

    /// Reaches the private backend, starting it, as a program that compares no heads.
    async fn reach(&self) -> Connection {
        let places = self.places();
        let config = Config::find(&places, None, None, None).unwrap();
        let private = Private::with_program(places.clone(), PathBuf::from(BINARY));
        let sessions = Sessions::with_bus(&places, None);
        connect_to(&places, config, Some(private), sessions, false).await.unwrap()
    }

    fn stop(&self) {
        self.run(&["serve", "--stop"]).exits(0);
    }

    /// What the data folder is, beside it.
    fn copy(&self, name: &str) -> PathBuf {
        let to = self.path().join(name);
        copy(self.places().data(), &to);
        to
    }

    fn put_back(&self, from: &Path) {
        std::fs::remove_dir_all(self.places().data()).unwrap();
        copy(from, self.places().data());
    }

    fn events(&self) -> Vec<(String, String)> {
        let usage = self.run(&["usage", "--json"]).exits(0).json();
        let text = |event: &serde_json::Value, name: &str| event[name].as_str().unwrap().to_owned();
        let events = usage["events"].as_array().unwrap();
        events.iter().map(|event| (text(event, "action"), text(event, "outcome"))).collect()
    }
}

fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(done.success());
}

/// What is refused, with exit code 3 and words that help.
#[track_caller]
fn is_stopped(ran: Ran) {
    let ran =
        ran.exits(3).says("error: access denied: the audit log").says("agentkeys audit accept");
    assert_eq!(ran.stdout, "");
    let _ = ran.says("docs/errors.md#set_back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_folder_that_was_put_back_stops_what_raises_rights_until_the_person_accepts_it() {
    let home = Home::new();
    for agent in ["bot", "other", "third"] {
        home.store(agent, "openrouter", KEY);
    }
    home.run(&["revoke", "third"]).exits(0);
    let bot = {
        let connection = home.reach().await;
        let to = connection.backend();
        let session = connection.session().await.unwrap();
        to.create_child_session(&session, Some(&id("bot")), Scope::everything()).await.unwrap()
    };
    home.stop();
    let yesterday = home.copy("yesterday");
    home.run(&["revoke", "bot"]).exits(0);
    home.run(&["read", "other", "openrouter"]).exits(0);
    home.stop();
    home.put_back(&yesterday);

    // Before anybody has said anything, the agent that was revoked reads again.
    let aside = home.reach().await;
    let by_bot = async |session: &SessionToken| {
        aside.backend().read_credential(session, &id("bot"), &service("openrouter")).await
    };
    assert!(by_bot(&bot.session).await.is_ok());

    // The first command says so, and is not undone by it.
    let listed = home.run(&["list"]).exits(0);
    let listed = listed.says("the audit log is older than what was seen before");
    let listed = listed.says("now ends it at event").says("agentkeys audit accept");
    assert!(listed.stdout.contains("other"));
    let denied = refused(by_bot(&bot.session).await);
    assert!(denied.code == Code::Denied && is_set_back(&denied), "{denied}");

    let backend: Arc<dyn AccountBackend> =
        Arc::new(HttpBackend::new(aside.http().address().clone()));
    let child = Child::open(&backend, pair("new", Scope::everything())).await;
    let (pair_code, otp) = (child.opened.pair_code.to_string(), child.opened.otp.to_string());
    is_stopped(home.run(&["read", "other", "openrouter"]));
    is_stopped(home.run(&["run", "other", "--", "true"]));
    is_stopped(home.run(&["approve", &pair_code, "--yes", "--otp", &otp]));
    is_stopped(home.run(&["reinstate", "third"]));
    is_stopped(home.run(&["link", "other", "--alias", "another-name"]));
    home.run(&["scope", "other", "--services", "github"]).exits(0);
    is_stopped(home.run(&["scope", "other", "--all-services"]));
    home.run(&["deny", &pair_code]).exits(0);
    home.run(&["revoke", "bot"]).exits(0);
    home.store("other", "github", "ghp_x");
    home.run(&["usage"]).exits(0);
    let broken = home.run(&["doctor"]);
    assert!(broken.stdout.contains("BROKEN  audit log"), "{}", broken.stdout);
    home.run(&["audit", "verify"]).exits(1);

    // Nobody says yes for the person.
    home.run(&["audit", "accept"]).exits(2).says("--yes").says("lost: what they revoked");
    is_stopped(home.run(&["read", "third", "openrouter"]));
    let accepted = home.run(&["audit", "accept", "--yes"]).exits(0);
    let _ = accepted.says("seen before: event").says("now the audit log ends at event");
    assert_eq!(home.run(&["read", "other", "github"]).exits(0).stdout, "ghp_x");
    home.run(&["reinstate", "third"]).exits(0);
    home.run(&["audit", "verify"]).exits(0);
    home.run(&["audit", "accept", "--yes"]).exits(4);
    let events = home.events();
    let at = |action: &str, outcome: &str| {
        let found: Vec<_> = (0..events.len())
            .filter(|at| events[*at] == (action.to_owned(), outcome.to_owned()))
            .collect();
        assert_eq!(found.len(), 1, "{action} in {events:?}");
        found[0]
    };
    assert!(at("head_contradicted", "denied") < at("head_accepted", "allowed"));
    assert!(home.run(&["doctor"]).stdout.contains("ok      audit log"));
    assert_eq!(home.run(&["list"]).exits(0).stderr, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_right_data_put_back_is_known_again_once_all_of_it_was_verified() {
    let home = Home::new();
    home.store("bot", "openrouter", KEY);
    home.stop();
    let yesterday = home.copy("yesterday");
    home.run(&["read", "bot", "openrouter"]).exits(0);
    home.stop();
    let today = home.copy("today");
    home.put_back(&yesterday);
    home.run(&["list"]).exits(0).says("older than what was seen");
    home.stop();
    home.put_back(&today);
    is_stopped(home.run(&["read", "bot", "openrouter"]));
    home.run(&["audit", "verify"]).exits(0).says("has in it again");
    assert_eq!(home.run(&["read", "bot", "openrouter"]).exits(0).stdout, KEY);
}

/// A person's program, a liar, and behind him a backend in this process.
struct Between {
    env: TestEnv,
    liar: Liar,
    home: Home,
    ada: Master,
}

impl Between {
    async fn new() -> Self {
        let env = env_now().await;
        let liar = Liar::before(env.address()).await;
        let home = Home::new();
        let ada = env.master("ada").await;
        for agent in ["bot", "third"] {
            ada.agent(agent).await;
            ada.store(agent, "openrouter", KEY.as_bytes()).await;
        }
        let between = Self { env, liar, home, ada };
        between.run(&["init", "--mock-token", "ada"]).await.exits(0);
        between
    }

    async fn run(&self, arguments: &[&str]) -> Ran {
        let mut command = self.home.command(arguments);
        command.env("AGENTKEYS_BACKEND", format!("http://{}", self.liar.address));
        let output = tokio::task::spawn_blocking(move || command.output().unwrap());
        Ran::of(output.await.unwrap())
    }

    async fn set_back(&mut self, to: &Rows) {
        set_back(&mut self.env, to).await;
        self.liar.moves(self.env.address());
        self.ada.backend = self.env.backend();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_does_not_own_up_to_it_is_sent_nothing_that_raises_rights() {
    let mut between = Between::new().await;
    let copy = between.env.rows().await;
    for _ in 0..3 {
        between.run(&["read", "bot", "openrouter"]).await.exits(0);
    }
    for grown in [false, true] {
        between.set_back(&copy).await;
        if grown {
            // Past all that was seen.
            for _ in 0..20 {
                between.ada.read("bot", "openrouter").await;
            }
        }
        // Whatever it is shown, it says that it has it, and has nothing on record.
        let own = serde_json::to_value(between.ada.log().await.1).unwrap();
        between.liar.lies(move |passing| {
            if passing.asks(Route::AuditCompare) {
                passing.edit(|json| json["head"] = own.clone());
            }
        });
        let before = between.ada.events().await.len();
        between.run(&["list"]).await.exits(0).says("the audit log");
        for command in [
            &["read", "bot", "openrouter"][..],
            &["run", "bot", "--", "true"],
            &["reinstate", "third"],
            &["link", "bot", "--alias", "another-name"],
            &["fund", "bot", "5"],
        ] {
            is_stopped(between.run(command).await);
        }
        assert_eq!(between.ada.events().await.len(), before, "something was sent");
        between.run(&["revoke", "bot"]).await.exits(0);
        assert_eq!(between.ada.read("third", "openrouter").await, KEY.as_bytes(), "it goes on");
        // Afterwards it is on record at a backend that did not know.
        between.run(&["audit", "accept", "--yes"]).await.exits(0);
        between.run(&["reinstate", "bot"]).await.exits(0);
        between.run(&["audit", "verify"]).await.exits(0);
        between.liar.is_honest();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_backends_on_two_copies_are_noticed_by_the_program_that_talks_to_both() {
    let between = Between::new().await;
    let rows = between.env.rows().await;
    let mut second = env_now().await;
    set_back(&mut second, &rows).await;
    let session = copy_of(&between.ada.session);
    let there = Master { backend: second.backend(), session, ..between.ada };
    between.run(&["read", "bot", "openrouter"]).await.exits(0);
    there.store("bot", "github", b"ghp").await;
    there.store("bot", "brave", b"BSA").await;
    there.store("bot", "notion", b"ntn").await;
    between.liar.moves(second.address());
    between.run(&["list"]).await.exits(0).says("the audit log was forked");
    is_stopped(between.run(&["read", "bot", "openrouter"]).await);
    // That one is stopped, whoever asks; and so is the first, once it was shown the second's.
    assert_eq!(code(there.try_read("bot", "openrouter").await), Code::Denied);
    let end = there.log().await.1;
    let first = between.env.http();
    assert!(!first.compare_head(None, &end).await.unwrap().agrees);
    between.liar.moves(between.env.address());
    is_stopped(between.run(&["read", "bot", "openrouter"]).await);
    let narrow = scope(&["openrouter"]);
    first.set_scope(&there.session, &id("bot"), narrow).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_commands_at_once_never_find_the_log_set_back() {
    let home = Home::new();
    home.store("bot", "openrouter", KEY);
    for _ in 0..4 {
        let many: Vec<_> = (0..12)
            .map(|at| match at % 3 {
                0 => home.command(&["read", "bot", "openrouter"]).spawn().unwrap(),
                1 => home.command(&["list"]).spawn().unwrap(),
                _ => home.command(&["usage"]).spawn().unwrap(),
            })
            .collect();
        for one in many {
            let ran = Ran::of(one.wait_with_output().unwrap()).exits(0);
            assert_eq!(ran.stderr, "");
        }
    }
    home.run(&["audit", "verify"]).exits(0);
    home.run(&["audit", "accept", "--yes"]).exits(4);
}
