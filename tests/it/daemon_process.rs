//! The real daemon as an MCP client has it: started on a [`Home`], spoken to in lines of JSON-RPC.
//! It knows the pipes and the process; what an answer has to say is the tests' to assert.
//!
//! Whatever the daemon writes on stdout that is no message of the protocol fails the test.
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::home::{Home, Ran};

/// How long anything may take that should come at once.
const PATIENCE: Duration = Duration::from_secs(30);

/// A daemon and the pipes to it; it is killed with this value.
pub struct Daemon {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Receiver<Result<Value, String>>,
    stderr: Arc<Mutex<String>>,
    /// Messages that no call waited for.
    notes: VecDeque<Value>,
    last: u64,
}

impl Daemon {
    /// `agentkeys daemon ARGUMENTS` on this home, with pipes on stdin, stdout and stderr.
    pub fn start(home: &Home, arguments: &[&str]) -> Self {
        Self::spawn(&mut home.command(&[&["daemon"], arguments].concat()))
    }

    /// A daemon as the command has it.
    pub fn spawn(command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary is there");
        let stdin = child.stdin.take();
        let (sender, stdout) = channel();
        let mut lines = BufReader::new(child.stdout.take().expect("piped"));
        std::thread::spawn(move || {
            let mut line = Vec::new();
            while lines.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                if sender.send(message(&line)).is_err() {
                    return;
                }
                line.clear();
            }
        });
        let stderr = Arc::new(Mutex::new(String::new()));
        let mut errors = child.stderr.take().expect("piped");
        let kept = stderr.clone();
        std::thread::spawn(move || {
            let mut some = [0; 4096];
            while let Ok(read @ 1..) = errors.read(&mut some) {
                kept.lock().unwrap().push_str(&String::from_utf8_lossy(&some[..read]));
            }
        });
        Self { child, stdin, stdout, stderr, notes: VecDeque::new(), last: 0 }
    }

    /// Opens the MCP session, and gives what the daemon says of itself.
    #[track_caller]
    pub fn initialize(&mut self) -> Value {
        let client = json!({
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": { "name": "test", "version": "1" },
        });
        let answer = self.request("initialize", client);
        self.notify("notifications/initialized", json!({}));
        answer["result"].clone()
    }

    /// Calls a tool, and gives its result: `content`, `structuredContent`, `isError`.
    #[track_caller]
    pub fn call(&mut self, tool: &str, arguments: Value) -> Value {
        let answer = self.request("tools/call", json!({ "name": tool, "arguments": arguments }));
        let result = answer.get("result");
        result.unwrap_or_else(|| panic!("no result: {answer}\n{}", self.stderr())).clone()
    }

    /// Makes a request, and gives the whole answer, be it a result or an error.
    #[track_caller]
    pub fn request(&mut self, method: &str, params: Value) -> Value {
        let id = self.begin(method, params);
        self.answer_to(id)
    }

    /// Makes a request without waiting for its answer, and gives its id.
    #[track_caller]
    pub fn begin(&mut self, method: &str, params: Value) -> u64 {
        self.last += 1;
        let id = self.last;
        self.write(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }));
        id
    }

    /// The answer to a request that was begun.
    #[track_caller]
    pub fn answer_to(&mut self, id: u64) -> Value {
        match self.answer_within(id, PATIENCE) {
            Some(answer) => answer,
            None => panic!("no answer to request {id}; stderr: {}", self.stderr()),
        }
    }

    /// The same; `None` when the daemon ends before. Fails when nothing comes in that time.
    #[track_caller]
    pub fn answer_within(&mut self, id: u64, patience: Duration) -> Option<Value> {
        let is_it = |message: &Value| message["id"] == id && message.get("method").is_none();
        if let Some(at) = self.notes.iter().position(is_it) {
            return self.notes.remove(at);
        }
        let begun = Instant::now();
        loop {
            let message = self.next(patience.saturating_sub(begun.elapsed()))?;
            if is_it(&message) {
                return Some(message);
            }
            self.notes.push_back(message);
        }
    }

    /// Sends a notification.
    #[track_caller]
    pub fn notify(&mut self, method: &str, params: Value) {
        self.write(&json!({ "jsonrpc": "2.0", "method": method, "params": params }));
    }

    /// Waits for a notification of this method, and gives its parameters; those that came before
    /// it was asked for count.
    #[track_caller]
    pub fn notified(&mut self, method: &str) -> Value {
        let begun = Instant::now();
        loop {
            if let Some(at) = self.notes.iter().position(|note| note["method"] == method) {
                return self.notes.remove(at).expect("it was just found")["params"].clone();
            }
            let left = PATIENCE.saturating_sub(begun.elapsed());
            match self.next(left) {
                Some(note) => self.notes.push_back(note),
                None => panic!("no {method}; stderr: {}", self.stderr()),
            }
        }
    }

    /// Sends bytes as they are.
    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        let stdin = self.stdin.as_mut().expect("stdin is still open");
        let sent = stdin.write_all(bytes).and_then(|()| stdin.flush());
        sent.unwrap_or_else(|error| panic!("{error}; stderr: {}", self.stderr()));
    }

    /// Everything that it has written on stderr so far.
    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status().unwrap();
        assert!(sent.success(), "kill -s {name} {pid}");
    }

    /// Closes its stdin: the MCP client is gone.
    pub fn hang_up(&mut self) {
        self.stdin = None;
    }

    /// Waits until it has ended, and gives its exit code (128 and the signal for one that was
    /// killed, as a shell has it).
    #[track_caller]
    pub fn wait_exit(&mut self) -> i32 {
        let begun = Instant::now();
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None if begun.elapsed() > PATIENCE => panic!("it stays; {}", self.stderr()),
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        };
        // What it wrote last is protocol too.
        while self.next(PATIENCE).is_some() {}
        code_of(status)
    }

    /// The next message; `None` at the end of the stream.
    #[track_caller]
    fn next(&mut self, patience: Duration) -> Option<Value> {
        match self.stdout.recv_timeout(patience) {
            Ok(Ok(message)) => Some(message),
            Ok(Err(line)) => panic!("not protocol on stdout: {line}\n{}", self.stderr()),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("nothing comes; {}", self.stderr()),
        }
    }

    #[track_caller]
    fn write(&mut self, message: &Value) {
        self.send(format!("{message}\n").as_bytes());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn code_of(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

/// A line as a message of JSON-RPC; the line itself where it is none.
fn message(line: &[u8]) -> Result<Value, String> {
    let text = || String::from_utf8_lossy(line).into_owned();
    let whole = line.strip_suffix(b"\n").ok_or_else(text)?;
    let message: Value = serde_json::from_slice(whole).map_err(|_| text())?;
    if message["jsonrpc"] == "2.0" { Ok(message) } else { Err(text()) }
}

/// Has the master on this home approve what the daemon asks for, as `agent`, and waits until the
/// daemon has its session. The MCP session is open by then.
#[track_caller]
pub fn pair(home: &Home, daemon: &mut Daemon, agent: &str) {
    pair_by(|words| home.run(words), daemon, agent);
}

/// The same with the master's commands run by `run`.
#[track_caller]
pub fn pair_by(run: impl Fn(&[&str]) -> Ran, daemon: &mut Daemon, agent: &str) {
    let asked = daemon.call("list_credentials", json!({}));
    let waits = &asked["structuredContent"];
    let (Some(code), Some(otp)) = (waits["pair_code"].as_str(), waits["otp"].as_str()) else {
        panic!("it does not ask: {asked}")
    };
    run(&["approve", code, "--as", agent, "--yes", "--otp", otp]).exits(0);
    let begun = Instant::now();
    loop {
        let listed = daemon.call("list_credentials", json!({}));
        if listed["isError"] != true && listed["structuredContent"].get("credentials").is_some() {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "not paired: {listed}\n{}", daemon.stderr());
        std::thread::sleep(Duration::from_millis(20));
    }
}
