//! Stage 5, the orchestrator: real supervisors and real processes, driven by the real daemon over
//! MCP. The recipes are small ones of the tests' own, which do what their service's name says.
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use agentkeys::core::problem::{Code, Problem};
use agentkeys::core::provision::Settings;
use agentkeys::core::secret::SecretBytes;
use agentkeys::provisioner::{Done, Ends, Mode, Task, carry_out};
use serde_json::{Value, json};

use crate::daemon_process::{Daemon, pair};
use crate::env::service;
use crate::home::{BINARY, Home};
use crate::oidc_support::node;

/// What every recipe of these tests gives.
const KEY: &str = "sk-made-0123456789abcdef0123456789abcdef0123456789abcdef";
const PASSWORD: &str = "the mailbox's own password";
/// Longest that something may take to be gone.
const GONE: Duration = Duration::from_secs(10);

/// A folder of recipes, and a folder for temporary files that is looked into.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for part in ["recipes/dist/recipes", "recipes/node_modules", "tmp"] {
            fs::create_dir_all(folder.path().join(part)).unwrap();
        }
        let main = include_str!("recipes/main.js");
        let recipes = folder.path().join("recipes/dist");
        fs::write(recipes.join("main.js"), main).unwrap();
        for line in main.lines() {
            let name: String =
                line.trim().chars().take_while(|c| c.is_alphabetic() || *c == '_').collect();
            if !name.is_empty() && line.starts_with("  ") && !line.starts_with("   ") {
                fs::write(recipes.join(format!("recipes/{name}.js")), "").unwrap();
            }
        }
        for name in ["silent", "broken"] {
            fs::write(recipes.join(format!("recipes/{name}.js")), "").unwrap();
        }
        Self { folder }
    }

    fn recipes(&self) -> PathBuf {
        self.folder.path().join("recipes")
    }

    fn tmp(&self) -> PathBuf {
        self.folder.path().join("tmp")
    }

    fn set(&self, command: &mut Command) {
        command
            .env("AGENTKEYS_RECIPES", self.recipes())
            .env("AGENTKEYS_NODE", found(&node()))
            .env("TMPDIR", self.tmp());
    }

    /// The processes that have this place in their command line or environment, but the daemon
    /// that the test has, and the test's own.
    fn processes(&self, but: u32) -> Vec<String> {
        let mark = self.tmp().to_str().unwrap().to_owned();
        let mut left = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok())
            else {
                continue;
            };
            let read = |name: &str| fs::read(entry.path().join(name)).unwrap_or_default();
            let text = [read("cmdline"), read("environ")].concat();
            let text = String::from_utf8_lossy(&text).replace('\0', " ");
            if text.contains(&mark) && pid != but && pid != std::process::id() {
                left.push(text);
            }
        }
        left
    }

    /// Waits until nothing is left of a run: no process, no folder.
    #[track_caller]
    fn is_clean(&self, but: u32) {
        let begun = Instant::now();
        loop {
            let recipes: Vec<String> = self
                .processes(but)
                .into_iter()
                .filter(|text| {
                    !text.contains("agentkeys daemon") && !text.contains("agentkeys serve")
                })
                .collect();
            let files: Vec<_> = fs::read_dir(self.tmp())
                .unwrap()
                .flatten()
                .map(|entry| entry.file_name())
                .filter(|name| name.to_string_lossy().starts_with("agentkeys-recipe"))
                .collect();
            if recipes.is_empty() && files.is_empty() {
                return;
            }
            assert!(begun.elapsed() < GONE, "left: {recipes:?} {files:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The program's whole path.
fn found(node: &Path) -> PathBuf {
    if node.is_absolute() {
        return node.to_path_buf();
    }
    let path = std::env::var_os("PATH").unwrap();
    std::env::split_paths(&path)
        .map(|folder| folder.join(node))
        .find(|path| path.is_file())
        .unwrap()
}

/// Fails if a secret is in a file below a folder, or in a text.
#[track_caller]
fn nowhere(folder: &Path) {
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().flatten() {
            let path = entry.path();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                let text = fs::read(&path).unwrap_or_default();
                for secret in [KEY, PASSWORD] {
                    let inside = text.windows(secret.len()).any(|part| part == secret.as_bytes());
                    assert!(!inside, "a secret is in {}", path.display());
                }
            }
        }
    }
}

/// A home with a paired daemon whose agent may have keys made.
struct Desk {
    place: Place,
    home: Home,
    daemon: Daemon,
}

impl Desk {
    /// For these services; the scope allows none of them yet where `allowed` is false.
    fn new(services: &[&str], allowed: bool) -> Self {
        let (place, home) = (Place::new(), Home::new());
        home.store("bot", "other", "sk-other");
        for name in services {
            let set = ["provisioner", "set", name, "--way", "browser", "-"];
            let email = ["--set", "email=ada@example.org"];
            home.run_with(PASSWORD, &[&set[..], &email].concat()).exits(0);
        }
        if allowed {
            let all = ["other"].iter().chain(services).copied().collect::<Vec<_>>().join(",");
            let made = services.join(",");
            let scope = ["scope", "bot", "--services", &all, "--provision", &made];
            home.run(&scope).exits(0);
        }
        let asks: String = services.iter().map(|name| format!(",+{name}")).collect();
        let asks = if allowed { format!("other{asks}") } else { "other".to_owned() };
        let mut command = home.command(&["daemon", "--agent", "bot", "--services", &asks]);
        place.set(&mut command);
        let mut daemon = Daemon::spawn(&mut command);
        daemon.initialize();
        pair(&home, &mut daemon, "bot");
        Self { place, home, daemon }
    }

    fn provision(&mut self, name: &str) -> Value {
        self.daemon.call("provision", json!({ "service": name }))
    }

    /// The structured content of a call that must have been refused.
    #[track_caller]
    fn fails(&mut self, name: &str) -> Value {
        let result = self.provision(name);
        assert_eq!(result["isError"], true, "{name}: {result}");
        let text = result.to_string();
        assert!(!text.contains(KEY) && !text.contains(PASSWORD), "{name}: {text}");
        assert_eq!(result["structuredContent"]["status"], "refused");
        result["structuredContent"].clone()
    }

    /// What the vault has for the agent.
    fn reads(&self, name: &str) -> String {
        self.home.run(&["read", "bot", name]).exits(0).stdout.trim().to_owned()
    }

    #[track_caller]
    fn leaves_nothing(&self) {
        self.place.is_clean(self.daemon.pid());
        nowhere(self.home.path());
        nowhere(self.place.folder.path());
        let stderr = self.daemon.stderr();
        assert!(!stderr.contains(KEY) && !stderr.contains(PASSWORD), "{stderr}");
    }
}

#[test]
fn spawn_and_receive() {
    let mut desk = Desk::new(&["works"], true);
    let params = json!({
        "name": "provision",
        "arguments": { "service": "works" },
        "_meta": { "progressToken": "p" },
    });
    let answer = desk.daemon.request("tools/call", params);
    let content = &answer["result"]["structuredContent"];
    assert_eq!((&content["status"], &content["made"]), (&json!("ready"), &json!(true)), "{answer}");
    assert!(!answer.to_string().contains(KEY), "{answer}");
    let first = desk.daemon.notified("notifications/progress");
    assert_eq!((&first["progressToken"], &first["total"]), (&json!("p"), &json!(100.0)));
    let mut last = first["progress"].as_f64().unwrap();
    let mut steps = vec![first["message"].clone()];
    while !steps.contains(&json!("read the key")) {
        let next = desk.daemon.notified("notifications/progress");
        let now = next["progress"].as_f64().unwrap();
        assert!(now > last, "{now} after {last}");
        last = now;
        steps.push(next["message"].clone());
    }
    assert_eq!(desk.reads("works"), KEY);
    desk.leaves_nothing();
}

#[test]
fn stores_credential() {
    // By default the scope has no such right: the master is asked, and allows it.
    let mut desk = Desk::new(&["works"], false);
    let result = desk.provision("works");
    let content = &result["structuredContent"];
    assert_eq!(
        (&content["status"], &content["request"]),
        (&json!("waiting_for_approval"), &json!("ScopeChange")),
        "{result}"
    );
    let (code, otp) = (content["pair_code"].as_str().unwrap(), content["otp"].as_str().unwrap());
    let shown = desk.home.run(&["approve", code, "--yes", "--otp", otp]).exits(0);
    assert!(format!("{}{}", shown.stdout, shown.stderr).contains("made for"), "{}", shown.stderr);
    let begun = Instant::now();
    loop {
        let result = desk.provision("works");
        if result["structuredContent"]["status"] == "ready" {
            break;
        }
        assert!(begun.elapsed() < GONE, "{result}");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(desk.reads("works"), KEY);
    let run = ["run", "bot", "--", "printenv", "WORKS_API_KEY"];
    assert_eq!(desk.home.run(&run).exits(0).stdout.trim(), KEY);
    desk.leaves_nothing();
}

#[test]
fn duplicate_provision() {
    let mut desk = Desk::new(&["works"], true);
    // At once: one run for both.
    let call = json!({ "name": "provision", "arguments": { "service": "works" } });
    let two = [(); 2].map(|()| desk.daemon.begin("tools/call", call.clone()));
    for id in two {
        let answer = desk.daemon.answer_to(id);
        assert_eq!(answer["result"]["structuredContent"]["made"], true, "{answer}");
    }
    let third = desk.provision("works");
    assert_eq!(third["structuredContent"]["made"], false, "{third}");
    let usage = desk.home.run(&["usage", "bot", "--json"]).exits(0).json();
    let stored = usage["events"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| event["action"] == "store" && event["service"] == "works");
    assert_eq!(stored.count(), 1, "{usage}");
    desk.leaves_nothing();
}

#[test]
fn subprocess_error() {
    let cases = [
        ("dies", "fill the form", "exit code 3"),
        ("killed", "fill the form", "signal 9"),
        ("garbage", "fill the form", "line 3 of its output is no message"),
        ("flood", "fill the form", "line 3 of its output has over 65,536 bytes"),
        ("chatter", "again", "over 500 lines"),
        ("later", "fill the form", "version 2"),
        ("empty", "fill the form", "its result is empty"),
        ("captcha", "fill the form", "CAPTCHA"),
        ("changed", "fill the form", "no button \"Sign up\", [hidden], [hidden]"),
        ("elsewhere", "fill the form", "none"),
        ("network", "fill the form", "connection refused"),
        ("broken", "start the recipe", "there is a fault in it"),
        ("absent", "start the recipe", "no recipe for absent"),
    ];
    let names: Vec<&str> = cases.iter().map(|(name, ..)| *name).collect();
    let mut desk = Desk::new(&names, true);
    for (name, step, cause) in cases {
        let problem = desk.fails(name);
        assert_eq!(problem["code"], "PROVISION_FAILED", "{name}: {problem}");
        assert_eq!(problem["step"], step, "{name}: {problem}");
        let told = problem["cause"].as_str().unwrap();
        assert!(told.contains(cause), "{name}: {told}");
        assert!(!told.contains("/etc/passwd"), "{name}: {told}");
        assert!(!problem["fix"].as_str().unwrap().is_empty());
        desk.place.is_clean(desk.daemon.pid());
    }
    let list = desk.home.run(&["list", "bot", "--json"]).exits(0).json();
    assert_eq!(list["credentials"].as_array().unwrap().len(), 1, "{list}");
    desk.leaves_nothing();
}

#[test]
fn a_key_that_was_given_is_stored_whatever_the_recipe_does_then() {
    let mut desk = Desk::new(&["then_fails", "then_hangs"], true);
    for name in ["then_fails", "then_hangs"] {
        let result = desk.provision(name);
        assert_eq!(result["structuredContent"]["made"], true, "{result}");
        let text = result["content"][0]["text"].as_str().unwrap();
        assert!(text.contains("Note: the recipe gave the key, and"), "{text}");
        assert_eq!(desk.reads(name), KEY);
    }
    desk.leaves_nothing();
}

#[test]
fn without_node_or_recipes_it_says_what_to_install() {
    let (place, home) = (Place::new(), Home::new());
    let cases = [
        ("AGENTKEYS_NODE", "/nowhere/node", "AGENTKEYS_NODE names /nowhere/node"),
        ("AGENTKEYS_NODE", "/bin/true", "does not say which version"),
        ("AGENTKEYS_RECIPES", "/nowhere", "no folder of recipes at /nowhere"),
        ("AGENTKEYS_RECIPES", "/usr", "the recipes in /usr are not built"),
    ];
    home.run(&["init"]).exits(0);
    for (name, value, says) in cases {
        let mut command = home.command(&["provisioner", "check", "works"]);
        place.set(&mut command);
        let ran = crate::home::Ran::of(command.env(name, value).output().unwrap());
        ran.exits(1).says(says);
    }
    let mut command = home.command(&["provisioner", "check", "works"]);
    place.set(&mut command);
    crate::home::Ran::of(command.output().unwrap()).exits(1).says("was to check only");
    home.run(&["provisioner", "run", "works"]).exits(2).says("not for people");
    place.is_clean(0);
}

#[test]
fn a_call_that_is_cancelled_and_a_daemon_that_is_killed_leave_nothing() {
    let mut desk = Desk::new(&["hangs"], true);
    let call = json!({ "name": "provision", "arguments": { "service": "hangs" } });
    let runs = |desk: &Desk| {
        let begun = Instant::now();
        while !desk.place.processes(0).iter().any(|text| text.contains("SIGTERM")) {
            assert!(begun.elapsed() < GONE, "{:?}", desk.place.processes(0));
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let id = desk.daemon.begin("tools/call", call.clone());
    runs(&desk);
    desk.daemon.notify("notifications/cancelled", json!({ "requestId": id }));
    desk.place.is_clean(desk.daemon.pid());

    desk.daemon.begin("tools/call", call);
    runs(&desk);
    desk.daemon.signal("KILL");
    desk.place.is_clean(desk.daemon.pid());
    nowhere(desk.home.path());
    nowhere(desk.place.folder.path());
}

/// A desk where a key was made while the backend went away, which is back now; the recipes are gone,
/// so that what is stored from here on is what was kept.
fn kept() -> Desk {
    let mut desk = Desk::new(&["works"], true);
    let call = json!({
        "name": "provision",
        "arguments": { "service": "works" },
        "_meta": { "progressToken": 1 },
    });
    let id = desk.daemon.begin("tools/call", call);
    // Once the recipe runs, everything that it needs of the backend has been fetched.
    while desk.daemon.notified("notifications/progress")["message"] != "open the page" {}
    desk.home.run(&["serve", "--stop"]).exits(0);
    // So that it is not just started again.
    let data = desk.home.path().join(".local/share/agentkeys");
    let away = data.with_extension("away");
    fs::rename(&data, &away).unwrap();
    let answer = desk.daemon.answer_to(id);
    let content = &answer["result"]["structuredContent"];
    assert_eq!(content["step"], "store the key", "{answer}");
    assert!(content["detail"].as_str().unwrap().contains("is not stored yet"), "{answer}");
    desk.leaves_nothing();
    let _ = fs::remove_dir_all(&data);
    fs::rename(&away, &data).unwrap();
    fs::remove_dir_all(desk.place.recipes()).unwrap();
    desk
}

/// Whether the one key of this desk is stored, once, and nothing is kept any more.
#[track_caller]
fn is_stored_once(mut desk: Desk) {
    assert_eq!(desk.reads("works"), KEY);
    let result = desk.provision("works");
    assert_eq!(result["structuredContent"]["made"], false, "{result}");
    let list = desk.home.run(&["list", "bot", "--json"]).exits(0).json();
    let credentials = list["credentials"].as_array().unwrap();
    let works = credentials.iter().find(|found| found["service"] == "works").unwrap();
    assert_eq!(works["version"], 1, "{list}");
    desk.leaves_nothing();
    let folder = desk.home.path().join(".agentkeys");
    let mut folders = vec![folder];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            assert!(!entry.file_name().to_string_lossy().ends_with(".sealed"), "{entry:?}");
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            }
        }
    }
}

#[test]
fn a_key_that_cannot_be_stored_is_kept_sealed_and_stored_by_the_next_call() {
    let mut desk = kept();
    let result = desk.provision("works");
    assert_eq!(result["structuredContent"]["status"], "ready", "{result}");
    is_stored_once(desk);
}

#[test]
fn a_kept_key_that_somebody_changed_is_not_stored_and_none_is_made_in_its_place() {
    let mut desk = kept();
    let mut folders = vec![desk.home.path().join(".agentkeys")];
    let mut changed = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(".sealed") {
                let mut whole: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
                let sealed = whole["kept"]["sealed"].as_str().unwrap().to_owned();
                let end = if sealed.starts_with('A') { "B" } else { "A" };
                whole["kept"]["sealed"] = json!(format!("{end}{}", &sealed[1..]));
                fs::write(&path, whole.to_string()).unwrap();
                changed += 1;
            }
        }
    }
    assert_eq!(changed, 1);
    let problem = desk.fails("works");
    assert_eq!(problem["code"], "INTERNAL", "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("is not what this daemon wrote"));
    desk.home.run(&["read", "bot", "works"]).exits(4);
}

#[test]
fn a_key_that_is_kept_is_stored_while_nobody_asks() {
    let desk = kept();
    let begun = Instant::now();
    while desk.home.run(&["read", "bot", "works"]).code != 0 {
        assert!(begun.elapsed() < Duration::from_secs(90), "{}", desk.daemon.stderr());
        std::thread::sleep(Duration::from_millis(500));
    }
    is_stored_once(desk);
}

/// Carries out one run by the real supervisor, with the clock of this test.
async fn carried(
    place: &Place,
    name: &str,
    progress: &(dyn Fn(&str, u8) + Sync),
) -> Result<Done, Problem> {
    let (ends, theirs) = Ends::pairs().unwrap();
    let [control, recipe, stderr] =
        theirs.as_fds().map(|end| Stdio::from(end.try_clone_to_owned().unwrap()));
    let mut command = Command::new(BINARY);
    command.args(["provisioner", "run", name]).stdin(control).stdout(recipe).stderr(stderr);
    place.set(&mut command);
    let mut supervisor = command.spawn().unwrap();
    // It holds its ends until it is dropped.
    drop(command);
    drop(theirs);
    let secret = SecretBytes::new(PASSWORD.into());
    let settings = Settings::default();
    let task = Task {
        service: &service(name),
        mode: Mode::Run,
        settings: &settings,
        secret: Some(&secret),
        screenshot: None,
    };
    let done = carry_out(ends, task, progress).await;
    supervisor.wait().unwrap();
    done
}

#[tokio::test]
async fn subprocess_timeout() {
    let place = Place::new();
    // From the step at which it hangs on, time flies.
    let flies = |step: &str, _| {
        if step == "wait for the mail" {
            tokio::time::pause();
        }
    };
    let problem = carried(&place, "hangs", &flies).await.err().expect("it hangs");
    assert_eq!(problem.code, Code::ProvisionFailed);
    assert_eq!(problem.step.as_deref(), Some("wait for the mail"));
    assert!(problem.cause.contains("120 seconds"), "{problem:?}");
    place.is_clean(0);
}

#[tokio::test]
async fn the_folder_of_a_supervisor_that_was_killed_is_removed_by_the_next_one() {
    let place = Place::new();
    let stale = place.tmp().join("agentkeys-recipe.0123");
    fs::create_dir_all(stale.join("profile")).unwrap();
    let old = std::time::SystemTime::now() - Duration::from_secs(60);
    fs::File::open(&stale).unwrap().set_modified(old).unwrap();
    // One that is held stays, and so does one that is just being made.
    let held = place.tmp().join("agentkeys-recipe.4567");
    fs::create_dir(&held).unwrap();
    let lock = fs::File::open(&held).unwrap();
    lock.set_modified(old).unwrap();
    lock.lock().unwrap();
    let young = place.tmp().join("agentkeys-recipe.89ab");
    fs::create_dir(&young).unwrap();
    let done = carried(&place, "works", &|_, _| {}).await.expect("it works");
    assert_eq!(done.key.expect("a key").expose(), KEY.as_bytes());
    assert!(done.note.is_none());
    assert_eq!((stale.exists(), held.exists(), young.exists()), (false, true, true));
}
