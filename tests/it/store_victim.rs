//! A writer in a process of its own, to be stopped and killed, and disks to be cut off or filled.
//!
//! The checking half is in `store_ledger`; what is here knows processes and mounts only, so that a
//! test of the whole server can use it as well.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::store_ledger::Ledger;

/// Gives the path of an example of this package, built as it stands now.
pub fn example(name: &str) -> PathBuf {
    // `cargo test --test it` builds no examples, and an old one would test old code.
    static BUILD: Mutex<()> = Mutex::new(());
    let _one_at_a_time = BUILD.lock().unwrap_or_else(PoisonError::into_inner);
    let status = build(name).arg("--quiet").status().expect("cargo runs");
    assert!(status.success(), "the example {name} does not build");
    let test = std::env::current_exe().expect("this test has a path");
    let profile = test.parent().and_then(Path::parent).expect("it lies in target/PROFILE/deps");
    profile.join("examples").join(name)
}

/// Builds an example as a shell would.
fn build(name: &str) -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--locked", "--example", name]).current_dir(env!("CARGO_MANIFEST_DIR"));
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    // The cargo that runs this test tells it about this package. Build scripts that look at these
    // variables, such as ring's, would run anew, and everything above them would be compiled anew.
    for (variable, _) in std::env::vars_os() {
        let ours = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"];
        let alone = ["CARGO", "CARGO_PRIMARY_PACKAGE", "CARGO_TARGET_TMPDIR", "OUT_DIR"];
        let is =
            |name: &str| ours.iter().any(|begin| name.starts_with(begin)) || alone.contains(&name);
        if variable.to_str().is_some_and(is) {
            cargo.env_remove(variable);
        }
    }
    cargo
}

#[test]
fn an_example_that_a_test_has_built_is_not_built_again_from_outside() {
    let built = example("victim");
    assert!(built.exists());
    let mut cargo = build("victim");
    cargo.env_clear();
    for kept in ["PATH", "HOME", "CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN", "RUSTFLAGS"] {
        cargo.envs(std::env::var_os(kept).map(|value| (kept, value)));
    }
    cargo.envs(std::env::var_os("CARGO_TARGET_DIR").map(|value| ("CARGO_TARGET_DIR", value)));
    let output = cargo.output().expect("cargo runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("Compiling"), "{said}");
}

/// A process whose output lines are acknowledgements.
pub struct Victim {
    child: Child,
    lines: Receiver<String>,
    ledger: Ledger,
}

impl Victim {
    /// Starts the program on a folder, and waits until it has acknowledged something.
    pub fn start(program: &Path, dir: &Path) -> Self {
        let mut child = Command::new(program)
            .arg(dir)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{} does not start: {error}", program.display()));
        let mut output = BufReader::new(child.stdout.take().expect("it is piped"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            while output.read_line(&mut line).is_ok_and(|len| len > 0) {
                // Without its newline a line is not whole, and acknowledges nothing.
                if let Some(whole) = line.strip_suffix('\n')
                    && sender.send(whole.to_owned()).is_err()
                {
                    return;
                }
                line.clear();
            }
        });
        let mut victim = Self { child, lines, ledger: Ledger::default() };
        let first = victim.lines.recv_timeout(Duration::from_secs(20));
        victim.ledger.take_in(&first.expect("the writer acknowledges something"));
        victim
    }

    /// The process's id.
    pub fn id(&self) -> String {
        self.child.id().to_string()
    }

    /// Waits until the process says a line that holds `text`.
    pub fn wait_for(&mut self, text: &str) {
        let patience = Instant::now() + Duration::from_secs(20);
        loop {
            let left = patience.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left);
            let line = line.unwrap_or_else(|error| panic!("no line with {text:?}: {error}"));
            self.ledger.take_in(&line);
            if line.contains(text) {
                return;
            }
        }
    }

    /// Waits until the process acknowledges something that it was asked to do from now on.
    pub fn wait_for_progress(&mut self) {
        while let Ok(line) = self.lines.try_recv() {
            self.ledger.take_in(&line);
        }
        let (before, patience) = (self.ledger.clone(), Instant::now() + Duration::from_secs(20));
        while self.ledger == before {
            let left = patience.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).expect("the writer goes on");
            self.ledger.take_in(&line);
        }
    }

    /// Stops the process where it stands; nothing runs in it from when this returns.
    pub fn stop(&mut self) {
        self.signal("STOP");
        let status = PathBuf::from(format!("/proc/{}/stat", self.child.id()));
        for _ in 0..500 {
            // "PID (NAME) STATE ...": the name holds no ')' here.
            let stat = fs::read_to_string(&status).expect("it is our child, so it has an entry");
            if stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T')) {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        panic!("the writer does not stop");
    }

    /// Kills the process, and gives all that it ever acknowledged.
    pub fn kill(mut self) -> Ledger {
        self.child.kill().expect("it can be killed");
        let status = self.child.wait().expect("it can be waited for");
        assert!(status.code().is_none(), "the writer ended by itself: {status}");
        // The thread that reads ends with the pipe, and this loop with the thread.
        while let Ok(line) = self.lines.recv() {
            self.ledger.take_in(&line);
        }
        std::mem::take(&mut self.ledger)
    }

    fn signal(&self, name: &str) {
        run("kill", &["-s", name, &self.id()]).expect("our own child can be signalled");
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // It is dead already, unless a test is failing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A file system of its own; unmounted when dropped.
pub struct Mount {
    point: PathBuf,
}

impl Mount {
    /// Mounts an image file, or, with no image, memory of `size` bytes.
    pub fn new(image: Option<&Path>, options: &str, point: PathBuf) -> Result<Self, String> {
        fs::create_dir_all(&point).map_err(|error| error.to_string())?;
        let to = point.to_str().expect("a temporary path is plain");
        match image {
            Some(image) => {
                let image = image.to_str().expect("a temporary path is plain");
                run("mount", &["-o", options, image, to])?;
            }
            None => run("mount", &["-t", "tmpfs", "-o", options, "tmpfs", to])?,
        }
        Ok(Self { point })
    }

    /// The folder at which it is mounted.
    pub fn path(&self) -> &Path {
        &self.point
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let point = self.point.to_str().expect("a temporary path is plain");
        for _ in 0..50 {
            if run("umount", &[point]).is_ok() {
                return;
            }
            // A store that has just been dropped may still hold its files for a moment.
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = run("umount", &["-l", point]);
    }
}

/// Makes an image file with an empty ext4 file system.
pub fn image(path: &Path, megabytes: u64, options: &[&str]) -> Result<(), String> {
    let file = OpenOptions::new().create_new(true).write(true).open(path);
    file.and_then(|file| file.set_len(megabytes << 20)).map_err(|error| error.to_string())?;
    let path = path.to_str().expect("a temporary path is plain");
    run("mkfs.ext4", &[options, &["-q", "-F", path]].concat())
}

/// Says loudly that a check was skipped for want of a right of this machine's; fails in CI.
pub fn skip(what: &str, why: &str) {
    assert!(std::env::var_os("CI").is_none(), "CI must be able to check {what}: {why}");
    // Past the capture of the test harness, which hides what a passing test prints.
    let notice = format!("\n!!!! SKIPPED: {what}\n!!!! because: {why}\n");
    if OpenOptions::new()
        .write(true)
        .open("/dev/stderr")
        .and_then(|mut out| std::io::Write::write_all(&mut out, notice.as_bytes()))
        .is_err()
    {
        eprintln!("{notice}");
    }
}

/// Runs a command of the system to its end.
pub fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(args).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// Gives a different, arbitrary number below `end` at each call.
pub fn arbitrary(end: u64) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(()) % end
}
