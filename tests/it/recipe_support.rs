//! What the tests of the real recipes share: the programs of `scripts/provisioner/test` that stand
//! for a mailbox's server and for a service to sign up at.
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

use crate::oidc_support::node;

/// The folder of the recipes, which `scripts/install-test-tools.sh` has built.
pub fn recipes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/provisioner")
}

/// Whether they are built. Without that the check is skipped loudly, and fails in CI.
pub fn are_built() -> bool {
    let built = recipes().join("dist/.built").exists();
    if !built {
        eprintln!("SKIPPED: the recipes are not built; scripts/install-test-tools.sh builds them");
        assert!(std::env::var_os("CI").is_none(), "CI has no recipes");
    }
    built
}

/// A Node program that says one line of JSON at a time, and ends when its input does.
pub struct Program {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Program {
    /// `dist/test/NAME.js` with these arguments.
    pub fn start(name: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(node());
        command.arg(recipes().join("dist/test").join(name)).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("node is there");
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, stdin, stdout }
    }

    /// Gives it its input, whole.
    pub fn tell(&mut self, input: &Value) {
        let mut stdin = self.stdin.take().expect("it was told nothing yet");
        stdin.write_all(input.to_string().as_bytes()).expect("it reads");
    }

    /// What it says next.
    #[track_caller]
    pub fn says(&mut self) -> Value {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("text");
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("no JSON: {line:?}"))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Its input ends, so it ends by itself and cleans up.
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}
