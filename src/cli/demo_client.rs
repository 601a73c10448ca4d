//! The smallest MCP client that the quickstart can show the loop with: it starts the daemon as
//! Claude or Cursor would, and calls one tool over its pipes.
//!
//! Must never wait longer than 30 seconds for an answer, nor leave the daemon running.
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::core::identity::Alias;
use crate::core::problem::{Code, Problem};

/// How long one answer may take.
const LIMIT: Duration = Duration::from_secs(30);
/// How long the daemon may take to end.
const END: Duration = Duration::from_secs(2);
/// The protocol revision that it speaks.
const REVISION: &str = "2025-06-18";

/// A daemon, and the MCP session with it.
pub struct DemoClient {
    daemon: Child,
    /// `None` once the daemon was told to end.
    input: Option<ChildStdin>,
    answers: Receiver<String>,
    last: u64,
}

/// What a tool answered.
pub struct Answered {
    /// Its structured content.
    pub content: Value,
    /// What a model reads.
    pub text: String,
    /// Whether it is an error.
    pub is_error: bool,
}

fn failed(what: &str, why: impl ToString) -> Problem {
    let fix = "agentkeys doctor says what is wrong with this machine\n\
               if all is well there: agentkeys feedback";
    Problem::new(Code::Internal, format!("the quickstart's daemon {what}"), why.to_string(), fix)
}

impl DemoClient {
    /// Starts this very program as the daemon of an agent, and opens the session.
    ///
    /// # Errors
    /// `INTERNAL` when it does not start or does not answer.
    pub fn start(backend: Option<&str>, agent: &Alias) -> Result<Self, Problem> {
        let program = std::env::current_exe().map_err(|error| failed("did not start", error))?;
        let mut command = Command::new(program);
        if let Some(backend) = backend {
            command.arg("--backend").arg(backend);
        }
        let mut daemon = command
            .args(["daemon", "--stdio", "--agent", agent.shown()])
            // It would leave a key in the keyring for a session that is gone in a moment.
            .env_remove("DBUS_SESSION_BUS_ADDRESS")
            .env_remove("XDG_RUNTIME_DIR")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| failed("did not start", error))?;
        let input = daemon.stdin.take();
        let output = daemon.stdout.take();
        let (Some(input), Some(output)) = (input, output) else {
            return Err(failed("did not start", "it has no pipes"));
        };
        let (send, answers) = sync_channel(16);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        let mut client = Self { daemon, input: Some(input), answers, last: 0 };
        let client_info =
            json!({ "name": "agentkeys-quickstart", "version": env!("CARGO_PKG_VERSION") });
        client.request(
            "initialize",
            json!({ "protocolVersion": REVISION, "capabilities": {}, "clientInfo": client_info }),
        )?;
        client.send(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }))?;
        Ok(client)
    }

    /// Calls a tool.
    ///
    /// # Errors
    /// `INTERNAL` when the daemon does not answer, or not with a tool's result.
    pub fn call(&mut self, tool: &str, arguments: Value) -> Result<Answered, Problem> {
        let result = self.request("tools/call", json!({ "name": tool, "arguments": arguments }))?;
        Ok(Answered {
            content: result["structuredContent"].clone(),
            text: result["content"][0]["text"].as_str().unwrap_or_default().to_owned(),
            is_error: result["isError"].as_bool().unwrap_or(false),
        })
    }

    fn send(&mut self, message: &Value) -> Result<(), Problem> {
        let mut input = self.input.as_ref().ok_or_else(|| failed("hung up", "it was told to"))?;
        writeln!(input, "{message}").map_err(|error| failed("hung up", error))
    }

    fn request(&mut self, method: &str, params: Value) -> Result<Value, Problem> {
        self.last += 1;
        let id = self.last;
        self.send(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }))?;
        let until = Instant::now() + LIMIT;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let line = self.answers.recv_timeout(left).map_err(|error| match error {
                RecvTimeoutError::Timeout => failed("did not answer", format!("{LIMIT:?} passed")),
                RecvTimeoutError::Disconnected => failed("hung up", "it closed its output"),
            })?;
            let message: Value = serde_json::from_str(&line)
                .map_err(|_| failed("said something else than protocol", "a line is no JSON"))?;
            if message["id"] != json!(id) {
                continue;
            }
            return match message.get("result") {
                Some(result) => Ok(result.clone()),
                None => Err(failed("refused", &message["error"]["message"])),
            };
        }
    }
}

impl Drop for DemoClient {
    fn drop(&mut self) {
        // The end of its input ends it, and it takes its socket along.
        drop(self.input.take());
        let until = Instant::now() + END;
        while Instant::now() < until && matches!(self.daemon.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}
