//! A hostile program of the master's own Unix user, against the real binary: it may run any
//! command, talk to any socket, make itself a terminal, use what the master has just unlocked
//! elsewhere, and read every file. Each of its ways works at level `none`, so that this is known
//! to be a way at all, and none at level `passphrase`.
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::home::{BINARY, Home, Ran};

const PASSPHRASE: &str = "correct horse battery";
const KEY: &str = "sk-or-v1-presence-0123456789";
const PATIENCE: Duration = Duration::from_secs(60);

/// A terminal window of the master's, with a shell in it; `script` supplies it.
struct Terminal {
    shell: Child,
    keyboard: Option<ChildStdin>,
    screen: Receiver<Vec<u8>>,
    seen: String,
}

impl Terminal {
    fn open(home: &Home) -> Self {
        let mut command = in_home(home, "script", &["-qefc", "sh", "/dev/null"]);
        command.env("PS1", "$ ").env("AK", BINARY);
        let mut shell = command.spawn().expect("script(1), of bsdutils");
        let keyboard = shell.stdin.take();
        let mut out = shell.stdout.take().unwrap();
        let (tell, screen) = channel();
        std::thread::spawn(move || {
            let mut some = [0; 4096];
            while let Ok(count @ 1..) = out.read(&mut some) {
                if tell.send(some[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { shell, keyboard, screen, seen: String::new() }
    }

    fn types(&mut self, line: &str) {
        let keyboard = self.keyboard.as_mut().unwrap();
        writeln!(keyboard, "{line}").and_then(|()| keyboard.flush()).unwrap();
    }

    /// Waits until the screen shows a text, and gives what it showed up to there.
    #[track_caller]
    fn shows(&mut self, text: &str) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.seen.find(text) {
                let rest = self.seen.split_off(at + text.len());
                return std::mem::replace(&mut self.seen, rest);
            }
            let left = until.saturating_duration_since(Instant::now());
            match self.screen.recv_timeout(left) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(_) => panic!("the terminal never showed {text:?}: {:?}", self.seen),
            }
        }
    }

    /// Waits for a question, and answers it as fast as a person does: the terminal echoes what is
    /// typed before the question is quite there.
    #[track_caller]
    fn asks(&mut self, question: &str, answer: &str) {
        self.shows(question);
        std::thread::sleep(Duration::from_millis(300));
        self.types(answer);
    }

    /// Runs a line and gives what it showed and its exit code.
    #[track_caller]
    fn runs(&mut self, line: &str) -> (String, i32) {
        let then = if line.is_empty() { "" } else { "; " };
        self.types(&format!("{line}{then}echo \"ended:$?:\""));
        // The line itself is echoed with its `$?`.
        self.ended()
    }

    #[track_caller]
    fn ended(&mut self) -> (String, i32) {
        loop {
            let shown = self.shows("ended:");
            let code = self.shows(":");
            if let Ok(code) = code.trim_end_matches(':').parse() {
                return (shown, code);
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        drop(self.keyboard.take());
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

/// A program in the home's own environment.
fn in_home(home: &Home, program: &str, arguments: &[&str]) -> Command {
    let ours = home.command(&[] as &[&str]);
    let mut command = Command::new(program);
    command.args(arguments).env_clear().current_dir(home.path());
    command.envs(ours.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn ran(mut command: Command) -> Ran {
    command.stdin(Stdio::null());
    Ran::of(command.output().unwrap())
}

/// A master's machine, with an agent that has a key, and one that was revoked.
struct Desk {
    home: Home,
}

impl Desk {
    fn new() -> Self {
        let home = Home::new();
        home.store("bot", "openrouter", KEY);
        home.store("gone", "github", "ghp_x");
        home.run(&["revoke", "gone"]).exits(0);
        home.run(&["scope", "gone", "--services", "none"]).exits(0);
        Self { home }
    }

    /// Sets the passphrase as a person does, at a terminal.
    fn protect(&self) {
        let mut terminal = Terminal::open(&self.home);
        terminal.types("$AK presence passphrase; echo \"ended:$?:\"");
        terminal.asks("New passphrase", PASSPHRASE);
        terminal.asks("The same again", PASSPHRASE);
        let (shown, code) = terminal.ended();
        assert_eq!(code, 0, "{shown}");
        assert!(shown.contains("presence level passphrase"), "{shown}");
        assert!(!shown.contains(PASSPHRASE), "the terminal echoed it: {shown}");
    }

    fn state(&self, name: &str) -> PathBuf {
        self.home.path().join(".local/state/agentkeys").join(name)
    }

    /// The master session, which every program of the user can read.
    fn session(&self) -> String {
        let file = std::fs::read_to_string(self.state("sessions.json")).unwrap();
        let file: serde_json::Value = serde_json::from_str(&file).unwrap();
        file["sessions"][0]["session"].as_str().unwrap().to_owned()
    }

    fn socket(&self) -> PathBuf {
        self.state("run/backend.sock")
    }

    /// A request over the backend's socket, by curl, with the master's session.
    fn curl(&self, method: &str, target: &str, body: Option<&str>) -> Ran {
        let socket = self.socket();
        let bearer = format!("authorization: Bearer {}", self.session());
        let url = format!("http://localhost{target}");
        let mut words = vec!["-sS", "-X", method, "--fail-with-body", "-H", &bearer];
        words.extend(["--unix-socket", socket.to_str().unwrap(), &url]);
        if let Some(body) = body {
            words.extend(["-H", "content-type: application/json", "-d", body]);
        }
        ran(in_home(&self.home, "curl", &words))
    }
}

/// Connects, and asks for a key: itself, or by a child in a session of its own that it leaves the
/// connection to. The answer's first line is left in a file.
const LEFT_CONNECTION: &str = r#"
import os, socket, sys, time
how, path, token = sys.argv[1:]
connection = socket.socket(socket.AF_UNIX)
connection.connect(path)
if how == "left":
    connection.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
    connection.recv(4096)
    child = os.fork()
    if child:
        time.sleep(0.2)
        os._exit(0)
    os.setsid()
    time.sleep(0.6)
target = "/credential/read?agent_id=bot&service=openrouter"
head = f"GET {target} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\r\n"
connection.sendall(head.encode())
line = connection.recv(4096)
open("got", "wb").write(line + b"\n")
"#;

/// What a hostile program does; whether it got what it wanted.
type Way = fn(&Desk) -> bool;

fn has_key(ran: &Ran) -> bool {
    // curl shows it in base64.
    let encoded = "c2stb3ItdjEtcHJlc2VuY2UtMDEyMzQ1Njc4OQ==";
    ran.stdout.contains(KEY) || ran.stdout.contains(encoded)
}

/// Every way to raise what somebody may do that needs no terminal of the master's.
const WAYS: &[(&str, Way)] = &[
    ("agentkeys read", |desk| has_key(&desk.home.run(&["read", "bot", "openrouter"]))),
    ("agentkeys run", |desk| {
        has_key(&desk.home.run(&["run", "bot", "--", "printenv", "OPENROUTER_API_KEY"]))
    }),
    ("a terminal of its own making (script)", |desk| {
        let line = format!("{BINARY} read bot openrouter");
        // Nobody answers there; a question would wait for ever.
        let words = ["-k", "1", "8", "script", "-qec", &line, "/dev/null"];
        has_key(&ran(in_home(&desk.home, "timeout", &words)))
    }),
    ("a session of its own making (setsid)", |desk| {
        has_key(&ran(in_home(&desk.home, "setsid", &["-w", BINARY, "read", "bot", "openrouter"])))
    }),
    ("an askpass program that guesses", |desk| {
        let program = desk.home.file("guess", "#!/bin/sh\necho 12345678\n");
        let mut mode = std::fs::metadata(&program).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o700);
        std::fs::set_permissions(&program, mode).unwrap();
        let mut command = desk.home.command(&["read", "bot", "openrouter"]);
        command.env("AGENTKEYS_ASKPASS", program);
        has_key(&Ran::of(command.output().unwrap()))
    }),
    ("the socket, with the session from its file", |desk| {
        has_key(&desk.curl("GET", "/credential/read?agent_id=bot&service=openrouter", None))
    }),
    ("all at once over the socket", |desk| {
        has_key(&desk.curl("GET", "/credential/read-all?agent_id=bot", None))
    }),
    ("a new master session by its user id", |desk| {
        let socket = desk.socket();
        let words = ["-sS", "--unix-socket", socket.to_str().unwrap(), "-X", "POST"];
        let made = ran(in_home(
            &desk.home,
            "curl",
            &[&words[..], &["http://localhost/session/create"]].concat(),
        ));
        let token = made.json()["session"].as_str().unwrap().to_owned();
        let bearer = format!("authorization: Bearer {token}");
        let url = "http://localhost/credential/read?agent_id=bot&service=openrouter";
        let read = ["-sS", "--unix-socket", socket.to_str().unwrap(), "-H", &bearer, url];
        has_key(&ran(in_home(&desk.home, "curl", &read)))
    }),
    ("a child session, and a read by it", |desk| {
        let made = desk.curl("POST", "/session/child", Some(r#"{"agent_id":"bot"}"#));
        let Ok(made) = serde_json::from_str::<serde_json::Value>(&made.stdout) else {
            return false;
        };
        let Some(token) = made["session"].as_str() else { return false };
        let socket = desk.socket();
        let bearer = format!("authorization: Bearer {token}");
        let url = "http://localhost/credential/read?agent_id=bot&service=openrouter";
        let read = ["-sS", "--unix-socket", socket.to_str().unwrap(), "-H", &bearer, url];
        has_key(&ran(in_home(&desk.home, "curl", &read)))
    }),
    ("the master's files in another home", |desk| {
        let other = Home::new();
        let from = desk.home.path().join(".local");
        let to = other.path().to_str().unwrap().to_owned();
        assert_eq!(ran(in_home(&desk.home, "cp", &["-r", from.to_str().unwrap(), &to])).code, 0);
        // Else the end of that home would stop the master's backend, and close what is open there.
        std::fs::remove_file(other.path().join(".local/state/agentkeys/backend.json")).unwrap();
        let mut command = other.command(&["read", "bot", "openrouter"]);
        command.env("AGENTKEYS_BACKEND", format!("unix:{}", desk.socket().display()));
        has_key(&Ran::of(command.output().unwrap()))
    }),
    ("widening a scope", |desk| {
        let widened = desk.home.run(&["scope", "gone", "--services", "all"]).code == 0;
        if widened {
            desk.home.run(&["scope", "gone", "--services", "none"]).exits(0);
        }
        widened
    }),
    ("reinstating", |desk| {
        let back = desk.home.run(&["reinstate", "gone"]).code == 0;
        if back {
            desk.home.run(&["revoke", "gone"]).exits(0);
        }
        back
    }),
    ("linking a name to recover by", |desk| {
        let linked = desk.home.run(&["link", "bot", "--email", "thief@example.org"]).code == 0;
        if linked {
            desk.home.run(&["unlink", "thief@example.org"]).exits(0);
        }
        linked
    }),
    ("funding", |desk| desk.home.run(&["fund", "bot", "1"]).code == 0),
    ("approving its own daemon", |desk| {
        let mut thief = in_home(&desk.home, BINARY, &["daemon", "--stdio", "--agent", "thief"]);
        let mut daemon = thief.spawn().unwrap();
        let asked = ask_a_daemon(&mut daemon);
        let (code, otp) = (asked["pair_code"].as_str(), asked["otp"].as_str());
        let (code, otp) = (code.unwrap().to_owned(), otp.unwrap().to_owned());
        let approved = desk.home.run(&["approve", &code, "--yes", "--otp", &otp, "--as", "bot"]);
        let typed = approve_at_a_terminal(desk, &code);
        let _ = daemon.kill();
        let _ = daemon.wait();
        let _ = std::fs::remove_dir_all(desk.home.path().join(".agentkeys"));
        approved.code == 0 || typed
    }),
    ("lowering the level", |desk| {
        desk.home.run(&["presence", "none"]);
        desk.home.run(&["presence", "--json"]).exits(0).json()["level"] == "none"
    }),
];

/// Asks a daemon over MCP for a key; the code that it answers with.
fn ask_a_daemon(daemon: &mut Child) -> serde_json::Value {
    use std::io::{BufRead, BufReader};
    let mut input = daemon.stdin.take().unwrap();
    let mut output = BufReader::new(daemon.stdout.take().unwrap());
    let mut send = |message: serde_json::Value| writeln!(input, "{message}").unwrap();
    let hello = serde_json::json!({"protocolVersion": "2025-06-18", "capabilities": {},
        "clientInfo": {"name": "thief", "version": "1"}});
    send(serde_json::json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}));
    send(serde_json::json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
    let call =
        serde_json::json!({"name": "get_credential", "arguments": {"service": "openrouter"}});
    send(serde_json::json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call}));
    let mut line = String::new();
    loop {
        line.clear();
        assert_ne!(output.read_line(&mut line).unwrap(), 0, "the daemon ended");
        let message: serde_json::Value = serde_json::from_str(&line).unwrap();
        if message["id"] == 2 {
            // The daemon lives as long as its input is open.
            daemon.stdin = Some(input);
            return message["result"]["structuredContent"].clone();
        }
    }
}

/// Answers every question with yes, in a terminal of its own.
fn approve_at_a_terminal(desk: &Desk, code: &str) -> bool {
    let line = format!("{BINARY} approve {code} --as bot");
    let words = ["-k", "1", "15", "script", "-qec", &line, "/dev/null"];
    let mut typing = in_home(&desk.home, "timeout", &words).spawn().unwrap();
    let mut keyboard = typing.stdin.take().unwrap();
    let _ = writeln!(keyboard, "yes\n12345678\n12345678\n12345678");
    drop(keyboard);
    let ended = typing.wait_with_output().unwrap();
    String::from_utf8_lossy(&ended.stdout).contains("approved:")
}

#[test]
fn what_works_at_level_none_does_not_at_level_passphrase() {
    let open = Desk::new();
    for (name, way) in WAYS {
        assert!(way(&open), "{name}: it is no way at all");
    }
    let closed = Desk::new();
    closed.protect();
    for (name, way) in WAYS {
        // Guesses are not to slow the next way: that is another test's.
        assert!(!way(&closed), "{name}");
    }
    // And not after it was all tried: the level is what it was, and nothing was changed.
    let presence = closed.home.run(&["presence", "--json"]).exits(0).json();
    assert_eq!(presence["level"], "passphrase");
    let agents = closed.home.run(&["list", "--json"]).exits(0).json();
    assert_eq!(agents["agents"].as_array().unwrap().len(), 2, "{agents}");
    assert!(agents["agents"][1]["revoked"].is_object(), "{agents}");
}

#[test]
fn what_the_master_unlocked_is_open_to_that_terminal_alone() {
    let desk = Desk::new();
    desk.home.store("other", "github", "ghp_other");
    desk.protect();
    let mut terminal = Terminal::open(&desk.home);
    terminal.types("$AK read bot openrouter; echo \"ended:$?:\"");
    terminal.asks("to read openrouter of bot", PASSPHRASE);
    let (shown, code) = terminal.ended();
    assert!(code == 0 && shown.contains(KEY), "{shown}");
    // The same terminal is not asked again, by whatever it starts there.
    for line in ["$AK read bot openrouter", "$AK run bot -- printenv OPENROUTER_API_KEY"] {
        let (shown, code) = terminal.runs(line);
        assert!(code == 0 && shown.contains(KEY), "{line}: {shown}");
    }
    // Approvals and the level are; and everything outside of it.
    terminal.types("$AK presence none");
    // Ctrl-C: nobody answers.
    terminal.asks("to change the presence level", "\x03");
    // By the signal, or by what it interrupted: whichever came first.
    let given_up = |code: i32| code == 130 || code == 3;
    let (shown, code) = terminal.runs("");
    assert!(given_up(code), "{code}: {shown}");
    // What was opened is this agent's: the program of a `run` gets at no other's.
    terminal.types("$AK read other github");
    terminal.asks("to read github of other", "\x03");
    let (shown, code) = terminal.runs("");
    assert!(given_up(code), "{code}: {shown}");
    // A connection that was made there is worth nothing to whom it is left, once its maker ended.
    desk.home.file("left.py", LEFT_CONNECTION);
    let (socket, token) = (desk.socket(), desk.session());
    for (how, status) in [("kept", "200"), ("left", "403")] {
        let (shown, _) = terminal.runs(&format!(
            "rm -f got; python3 left.py {how} {} {token}; sleep 1; cat got",
            socket.display()
        ));
        assert!(shown.contains(&format!("HTTP/1.1 {status}")), "{how}: {shown}");
    }
    for (name, way) in WAYS {
        assert!(!way(&desk), "{name}, while a terminal is unlocked");
    }
    let (shown, code) = terminal.runs("$AK read bot openrouter");
    assert!(code == 0 && shown.contains(KEY), "it was open all the while: {shown}");
    // A session that is made inside of it is another one.
    let (shown, code) = terminal.runs("setsid -w $AK read bot openrouter </dev/null");
    assert!(code == 3 && !shown.contains(KEY), "{shown}");
    // The log says by what each read was allowed.
    let usage = desk.home.run(&["usage", "bot", "--json"]).exits(0).json();
    let events = usage["events"].as_array().unwrap();
    let reads: Vec<_> = events.iter().filter(|e| e["action"] == "read").collect();
    assert_eq!(reads.len(), 5, "{reads:#?}");
    assert!(reads[0]["detail"].is_null() && reads[0]["presence"] == "passphrase");
    assert!(reads[1]["detail"].as_str().unwrap().contains("in the same terminal"));
}

#[test]
fn guessing_is_slowed_and_a_fresh_home_does_not_forget_it() {
    let desk = Desk::new();
    desk.protect();
    let guess = desk.home.file("guess", "#!/bin/sh\necho \"guess $$\"\n");
    let mut mode = std::fs::metadata(&guess).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o700);
    std::fs::set_permissions(&guess, mode).unwrap();
    let read = |home: &Home| {
        let mut command = home.command(&["read", "bot", "openrouter"]);
        command.env("AGENTKEYS_ASKPASS", &guess);
        command.env("AGENTKEYS_BACKEND", format!("unix:{}", desk.socket().display()));
        Ran::of(command.output().unwrap())
    };
    // A program is asked once a command: it would answer the same again.
    for _ in 0..4 {
        read(&desk.home).exits(3).says("the passphrase is wrong");
    }
    let other = Home::new();
    let mut init = other.command(&["init"]);
    init.env("AGENTKEYS_BACKEND", format!("unix:{}", desk.socket().display()));
    Ran::of(init.output().unwrap()).exits(0);
    read(&other).exits(1).says("too many wrong passphrases");
    // The right one waits too.
    let right = desk.home.file("right", &format!("#!/bin/sh\necho '{PASSPHRASE}'\n"));
    let mut mode = std::fs::metadata(&right).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o700);
    std::fs::set_permissions(&right, mode).unwrap();
    let mut command = desk.home.command(&["read", "bot", "openrouter"]);
    command.env("AGENTKEYS_ASKPASS", &right);
    Ran::of(command.output().unwrap()).exits(1).says("the right one too has to wait");
    // Whoever looks sees it, and revoking does not wait.
    let presence = desk.home.run(&["presence"]).exits(0).stdout;
    assert!(presence.contains("wrong passphrases since the last right one: 5"), "{presence}");
    desk.home.run(&["revoke", "bot"]).exits(0);
}

#[test]
fn an_askpass_program_serves_where_there_is_no_terminal() {
    let desk = Desk::new();
    desk.protect();
    let program = desk
        .home
        .file("askpass", &format!("#!/bin/sh\necho \"$1\" >>asked\necho '{PASSPHRASE}'\n"));
    let mut mode = std::fs::metadata(&program).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o700);
    std::fs::set_permissions(&program, mode).unwrap();
    let with = |arguments: &[&str]| {
        let mut command = desk.home.command(arguments);
        command.env("AGENTKEYS_ASKPASS", &program);
        Ran::of(command.output().unwrap())
    };
    assert_eq!(with(&["read", "bot", "openrouter"]).exits(0).stdout, KEY);
    let ran = with(&["run", "bot", "--", "printenv", "OPENROUTER_API_KEY"]).exits(0);
    assert_eq!(ran.stdout.trim(), KEY);
    // It is our own variable: the program that runs does not see it.
    with(&["run", "bot", "--", "printenv", "AGENTKEYS_ASKPASS"]).exits(1);
    with(&["reinstate", "gone"]).exits(0);
    with(&["presence", "none"]).exits(0);
    let asked = std::fs::read_to_string(desk.home.path().join("asked")).unwrap();
    let asked: Vec<_> = asked.lines().collect();
    assert_eq!(asked.len(), 5, "{asked:?}");
    assert!(asked[0].starts_with("Passphrase at unix:"), "{asked:?}");
    assert!(asked[3].ends_with("to reinstate gone:"), "{asked:?}");
    // And at level none nobody is asked any more.
    assert_eq!(desk.home.run(&["read", "bot", "openrouter"]).exits(0).stdout, KEY);
}

#[test]
fn init_offers_it_at_a_terminal_and_takes_no_for_an_answer() {
    let home = Home::new();
    let mut terminal = Terminal::open(&home);
    terminal.types("$AK init; echo \"ended:$?:\"");
    terminal.asks("Set a passphrase now? [yes/no]", "no");
    let (shown, code) = terminal.ended();
    assert!(code == 0 && shown.contains("agentkeys presence passphrase"), "{shown}");
    terminal.types("$AK init; echo \"ended:$?:\"");
    terminal.asks("Set a passphrase now? [yes/no]", "yes");
    terminal.asks("New passphrase", "short");
    let (shown, code) = terminal.ended();
    assert!(code == 2 && shown.contains("shorter than 8 characters"), "{shown}");
    terminal.types("$AK init; echo \"ended:$?:\"");
    terminal.asks("Set a passphrase now? [yes/no]", "yes");
    terminal.asks("New passphrase", PASSPHRASE);
    terminal.asks("The same again", PASSPHRASE);
    let (shown, code) = terminal.ended();
    assert!(code == 0 && shown.contains("presence level passphrase from now on"), "{shown}");
    // Then it is not offered again, and doctor says which level is in force.
    let (shown, code) = terminal.runs("$AK init");
    assert!(code == 0 && !shown.contains("Set a passphrase now"), "{shown}");
    assert!(shown.contains("presence    passphrase"), "{shown}");
    let doctor = home.run(&["doctor"]);
    assert!(doctor.stdout.contains("level passphrase"), "{}", doctor.stdout);
}
