//! What the kernel shows of the real daemon, and what nobody gets out of it: each attack works
//! against an ordinary process first.
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use agentkeys::harden;
use serde_json::json;

use crate::daemon_process::{Daemon, pair};
use crate::home::{BINARY, Home, copy_program};
use crate::store_victim::{example, skip};

/// An ordinary user.
const NOBODY: u32 = 65534;
/// What the example calls a refusal.
const REFUSED: [&str; 2] = ["errno 1", "errno 13"];

fn field(pid: u32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.unwrap_or_else(|| panic!("no {name}")).trim().to_owned()
}

/// A process that is killed with this value.
struct Plain(Child);

impl Plain {
    fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An ordinary user's folder and programs; the same user's as the tests' where that is not root.
struct Ordinary {
    folder: tempfile::TempDir,
}

impl Ordinary {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (from, name) in [(PathBuf::from(BINARY), "agentkeys"), (example("victim"), "victim")] {
            copy_program(from, folder.path().join(name));
        }
        if harden::real_uid() == 0 {
            std::os::unix::fs::chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        Self { folder }
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let own = self.folder.path().join(program);
        let mut command = Command::new(if own.exists() { own } else { program.into() });
        command.args(arguments).env_clear().current_dir(self.folder.path());
        command.env("HOME", self.folder.path()).env("PATH", "/usr/bin:/bin");
        // Nobody listens there.
        command.env("AGENTKEYS_BACKEND", "http://127.0.0.1:1");
        if harden::real_uid() == 0 {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    fn attack(&self, how: &str, pid: u32) -> String {
        // Where every program is mapped to be read.
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        let address = maps.split('-').next().and_then(|at| u64::from_str_radix(at, 16).ok());
        let (pid, address) = (pid.to_string(), address.unwrap_or(0x40_0000).to_string());
        let output = self.command("victim", &["attack", how, &pid, &address]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

#[test]
fn the_kernel_shows_a_daemon_with_no_privilege_and_no_way_to_one() {
    let home = Home::new();
    let mut daemon = Daemon::start(&home, &[]);
    daemon.initialize();
    let pid = daemon.pid();
    let plain = Plain::start(&mut Command::new("cat"));
    for (name, value) in [("NoNewPrivs", "1"), ("Seccomp", "2")] {
        assert_eq!(field(pid, name), value, "{name}");
        assert_ne!(field(plain.0.id(), name), value, "{name} says nothing here");
    }
    for set in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
        assert_eq!(field(pid, set), "0000000000000000", "{set}");
    }
    let locked = field(pid, "VmLck");
    assert!(!locked.starts_with("0 "), "{locked}");
    // Every thread has the filter, not only the first.
    for thread in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        assert!(status.contains("\nSeccomp:\t2\n") && status.contains("\nNoNewPrivs:\t1\n"));
    }
}

#[test]
fn no_program_of_the_same_user_gets_at_a_daemon_s_memory() {
    let user = Ordinary::new();
    let plain = Plain::start(&mut user.command("sleep", &["600"]));
    let mut daemon = Daemon::spawn(&mut user.command("agentkeys", &["daemon"]));
    daemon.initialize();
    let who = if harden::real_uid() == 0 { NOBODY } else { harden::real_uid() };
    assert_eq!(field(daemon.pid(), "Uid").split('\t').next(), Some(&*who.to_string()));
    for how in ["mem", "vm_readv", "ptrace", "environ", "descriptors", "getfd"] {
        let control = user.attack(how, plain.0.id());
        if !control.starts_with("ok") {
            skip(how, &format!("it works against no process here: {control}"));
        }
        let answer = user.attack(how, daemon.pid());
        assert!(REFUSED.contains(&&*answer), "{how}: {answer}");
    }
    // What is not dumpable is root's, for everybody else.
    assert_eq!(fs::metadata(format!("/proc/{}/environ", plain.0.id())).unwrap().uid(), who);
    assert_eq!(fs::metadata(format!("/proc/{}/environ", daemon.pid())).unwrap().uid(), 0);
    // It is none the worse for it.
    assert!(daemon.request("tools/list", json!({}))["result"]["tools"].is_array());
}

#[test]
fn a_daemon_leaves_no_core_whichever_signal_ends_it() {
    let user = Ordinary::new();
    let ended = |program: &str, argument: &str, signal: &str| -> ExitStatus {
        let shell = "ulimit -S -c unlimited; exec \"$0\" \"$@\"";
        // Whoever runs the tests in the background has them ignore some, and all that they start.
        let signals = "--default-signal=SEGV,QUIT,ABRT";
        let words = [signals, "sh", "-c", shell, program, argument];
        let mut process = Plain::start(&mut user.command("env", &words));
        // Until it is the program, and has come as far as to wait.
        let begun = Instant::now();
        loop {
            let asleep = field(process.0.id(), "State").starts_with('S');
            let is = field(process.0.id(), "Name") == *program.rsplit('/').next().unwrap();
            if asleep && is && begun.elapsed() > Duration::from_millis(300) {
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "{program} does not start");
            std::thread::sleep(Duration::from_millis(5));
        }
        let pid = process.0.id().to_string();
        // The first SIGSEGV is taken for a stack overflow that may be, by Rust's own handler, and
        // ends nothing unless the fault is there; a second one finds no handler.
        for _ in 0..2 {
            let _ = Command::new("kill").args(["-s", signal, &pid]).stderr(Stdio::null()).status();
            std::thread::sleep(Duration::from_millis(50));
        }
        let begun = Instant::now();
        loop {
            if let Some(status) = process.0.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "{program} outlives SIG{signal}");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let agentkeys = user.folder.path().join("agentkeys");
    for signal in ["SEGV", "QUIT", "ABRT"] {
        let control = ended("sleep", "600", signal);
        if !control.core_dumped() {
            skip("core dumps", &format!("a plain process leaves none here: {control}"));
        }
        let status = ended(agentkeys.to_str().unwrap(), "daemon", signal);
        assert!(status.signal().is_some() && !status.core_dumped(), "{signal}: {status}");
    }
}

/// Root has both the daemon itself and a plain process open files, by a system call put into it.
#[test]
fn a_daemon_cannot_open_the_master_s_session_or_the_backend_s_data() {
    if harden::real_uid() != 0 || !cfg!(target_arch = "x86_64") {
        return skip("Landlock from inside the daemon", "only root can, on x86-64");
    }
    let home = Home::new();
    home.run(&["init"]).exits(0);
    home.store("my-agent", "openrouter", "sk-or-v1-test");
    let mut daemon = Daemon::start(&home, &["--agent", "my-agent"]);
    daemon.initialize();
    pair(&home, &mut daemon, "my-agent");
    if daemon.stderr().contains("Landlock is not in force") {
        return skip("Landlock", "this kernel has none");
    }
    let plain = Plain::start(&mut Command::new("cat"));
    let victim = example("victim");
    let open = |pid: u32, path: &str| {
        let path = home.path().join(path);
        let mut command = Command::new(&victim);
        command.args(["inject", &pid.to_string(), path.to_str().unwrap()]);
        String::from_utf8(command.output().unwrap().stdout).unwrap().trim().to_owned()
    };
    // Its own.
    for path in [".agentkeys/agents/my-agent/session", "/etc/hosts"] {
        assert_eq!(open(daemon.pid(), path), "ok", "{path}");
    }
    let theirs = [
        ".local/state/agentkeys/sessions.json",
        ".local/state/agentkeys/root-keys",
        ".local/state/agentkeys/backend.log",
        ".local/share/agentkeys",
        "",
        "/proc/1/status",
        "/root",
        "/tmp",
        "/usr/bin/env",
    ];
    for path in theirs {
        let control = open(plain.0.id(), path);
        assert_eq!(control, "ok", "{path}");
        let answer = open(daemon.pid(), path);
        assert!(REFUSED.contains(&&*answer), "{path}: {answer}");
    }
    // It goes on.
    let read = daemon.call("get_credential", json!({ "service": "openrouter" }));
    assert_eq!(read["structuredContent"]["credential"], "sk-or-v1-test");
}
