//! The private backend's life: started once, found again, ended, and started anew after every
//! kind of end. The real one's start is tested with the vault; here a stand-in process listens.
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use agentkeys::client::places::Places;
use agentkeys::client::private::{Found, MAX_LOG, Private, StopOutcome};
use agentkeys::core::problem::{Answer, Code};
use agentkeys::harden::{self, ProcessHandle};

/// A home of its own, and a program that stands in for `agentkeys serve`.
struct Home {
    folder: tempfile::TempDir,
    variables: Vec<(&'static str, PathBuf)>,
}

impl Home {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let home = Self { variables: vec![("HOME", folder.path().to_owned())], folder };
        home.program_that("");
        home
    }

    fn with_runtime(runtime: &Path) -> Self {
        let mut home = Self::new();
        home.variables.push(("XDG_RUNTIME_DIR", runtime.to_owned()));
        home
    }

    /// Writes the program: this test binary, as a script starts it with the arguments of
    /// `serve`. They stay visible, as the real one's do.
    fn program_that(&self, first: &str) {
        let binary = std::env::current_exe().unwrap();
        let text = format!(
            "#!/bin/sh\n{first}\nSTAND_IN_LISTEN=\"$3\" STAND_IN_DATA=\"$5\" exec {:?} --exact \
             --nocapture --test-threads=1 client_private::stand_in_process \"$1\" \"$5\"\n",
            binary
        );
        let path = self.program();
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    }

    fn program(&self) -> PathBuf {
        self.folder.path().join("agentkeys")
    }

    fn places(&self) -> Places {
        let variable = |name: &str| {
            let found = self.variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.clone().into_os_string())
        };
        Places::find(variable, harden::effective_uid()).unwrap()
    }

    fn private(&self) -> Private {
        Private::with_program(self.places(), self.program())
    }

    async fn start(&self) -> Found {
        self.private().find_or_start().await.unwrap()
    }

    async fn pid(&self) -> u32 {
        self.start().await.reached.pid.unwrap()
    }

    fn starts(&self) -> usize {
        let log = self.places().data().join("starts");
        std::fs::read_to_string(log).unwrap_or_default().lines().count()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        for pid in
            std::fs::read_to_string(self.places().data().join("starts")).unwrap_or_default().lines()
        {
            // Only one that still serves this home's data: the id may be another's by now.
            let pid: u32 = pid.parse().unwrap();
            let Ok(handle) = ProcessHandle::open(pid) else { continue };
            let data = self.places().data().to_str().unwrap().to_owned();
            if std::fs::read_to_string(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|c| c.contains(&data))
            {
                let _ = handle.kill();
            }
        }
    }
}

/// Not a test by itself: what the stand-in program runs. Like the real one it serves a data
/// folder once, says when it is ready, and ends when it is asked to.
#[test]
fn stand_in_process() {
    let Ok(listen) = std::env::var("STAND_IN_LISTEN") else { return };
    let data = PathBuf::from(std::env::var("STAND_IN_DATA").unwrap());
    std::fs::create_dir_all(&data).unwrap();
    let lock = File::create(data.join("lock")).unwrap();
    if lock.try_lock().is_err() {
        eprintln!("error: the data is in use by another process");
        std::process::exit(1);
    }
    let mut starts = File::options().append(true).create(true).open(data.join("starts")).unwrap();
    writeln!(starts, "{}", std::process::id()).unwrap();
    let socket = PathBuf::from(listen.strip_prefix("unix:").unwrap());
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).unwrap();
    println!("\nlistening on {listen}"); // libtest has begun a line
    for connection in listener.incoming() {
        drop(connection);
    }
}

/// Not a test by itself: one command that needs the private backend, as a process of its own.
#[test]
fn command_process() {
    let Some(home) = std::env::var_os("COMMAND_HOME").map(PathBuf::from) else { return };
    let variable = |name: &str| (name == "HOME").then(|| home.clone().into());
    let places = Places::find(variable, harden::effective_uid()).unwrap();
    let private = Private::with_program(places, home.join("agentkeys"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let found = runtime.block_on(private.find_or_start()).unwrap();
    println!("\nreached {}", found.reached.pid.unwrap());
}

#[tokio::test]
async fn the_first_command_starts_it_and_the_next_ones_find_it() {
    let home = Home::new();
    assert!(home.private().find().await.unwrap().is_none());
    let first = home.start().await;
    assert!(first.started);
    let second = home.start().await;
    assert!(!second.started);
    assert_eq!((first.socket, first.reached.pid), (second.socket, second.reached.pid));
    assert_eq!(home.starts(), 1);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&home.places().log_file()), 0o600);
    assert_eq!(mode(&home.places().record_file()), 0o600);
    assert_eq!(mode(home.places().state()), 0o700);
}

#[tokio::test]
async fn it_gets_nothing_of_its_starters_environment_that_could_be_a_secret() {
    let home = Home::new();
    let pid = home.pid().await;
    // Set by cargo for this test, as a shell's variables would be.
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    let environment = String::from_utf8(environment).unwrap();
    assert!(environment.contains("STAND_IN_LISTEN="), "{environment}");
    assert!(!environment.contains("CARGO_"), "{environment}");
    assert_eq!(std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap(), Path::new("/"));
    assert_eq!(std::fs::read_link(format!("/proc/{pid}/fd/0")).unwrap(), Path::new("/dev/null"));
}

#[test]
fn first_commands_at_once_start_one() {
    let home = Home::new();
    let command = || {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "client_private::command_process"])
            .env("COMMAND_HOME", home.folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let commands: Vec<_> = (0..6).map(|_| command()).collect();
    let reached = commands.into_iter().map(|command| {
        let out = command.wait_with_output().unwrap();
        let out = String::from_utf8(out.stdout).unwrap();
        let line = out.lines().find_map(|line| line.strip_prefix("reached ")).map(str::to_owned);
        line.unwrap_or_else(|| panic!("{out}"))
    });
    let reached: std::collections::HashSet<_> = reached.collect();
    assert_eq!((reached.len(), home.starts()), (1, 1), "{reached:?}");
}

#[tokio::test]
async fn stopping_waits_until_it_is_gone_and_the_next_command_starts_another() {
    let home = Home::new();
    assert_eq!(home.private().stop().await, Ok(StopOutcome::NotRunning));
    let pid = home.pid().await;
    let handle = ProcessHandle::open(pid).unwrap();
    assert_eq!(home.private().stop().await, Ok(StopOutcome::Stopped { pid }));
    assert!(handle.wait(Duration::ZERO).unwrap());
    assert_eq!(home.private().stop().await, Ok(StopOutcome::NotRunning));
    assert!(home.private().find().await.unwrap().is_none());
    assert_ne!(home.pid().await, pid);
}

#[tokio::test]
async fn after_a_kill_the_next_command_starts_another() {
    let home = Home::new();
    let pid = home.pid().await;
    let handle = ProcessHandle::open(pid).unwrap();
    handle.kill().unwrap();
    assert!(handle.wait(Duration::from_secs(10)).unwrap());
    assert_ne!(home.pid().await, pid);
    assert_eq!(home.starts(), 2);
}

#[tokio::test]
async fn one_whose_socket_was_swept_away_is_ended_before_another_is_started() {
    let home = Home::new();
    let first = home.start().await;
    let handle = ProcessHandle::open(first.reached.pid.unwrap()).unwrap();
    std::fs::remove_file(&first.socket).unwrap();
    let second = home.start().await;
    assert!(second.started);
    assert!(handle.wait(Duration::ZERO).unwrap());
    std::fs::remove_file(&second.socket).unwrap();
    let pid = second.reached.pid.unwrap();
    assert_eq!(home.private().stop().await, Ok(StopOutcome::Stopped { pid }));
}

#[tokio::test]
async fn one_whose_record_was_lost_is_found_again() {
    let home = Home::new();
    let first = home.start().await;
    for record in ["", "{}", "{\"socket\":\"relative\",\"pid\":1}"] {
        std::fs::write(home.places().record_file(), record).unwrap();
        assert_eq!(home.start().await.reached.pid, first.reached.pid, "{record}");
    }
    std::fs::remove_file(home.places().record_file()).unwrap();
    assert_eq!(home.start().await.reached.pid, first.reached.pid);
    assert_eq!(home.starts(), 1);
}

#[tokio::test]
async fn it_is_found_without_the_runtime_folder_that_it_was_started_with() {
    let runtime = tempfile::tempdir().unwrap();
    std::fs::set_permissions(&runtime, PermissionsExt::from_mode(0o700)).unwrap();
    let mut home = Home::with_runtime(runtime.path());
    let first = home.start().await;
    assert_eq!(first.socket, runtime.path().join("agentkeys/backend.sock"));
    home.variables.pop();
    assert_eq!(home.start().await.reached.pid, first.reached.pid);
}

#[tokio::test]
async fn two_homes_with_one_runtime_folder_have_a_backend_each() {
    let runtime = tempfile::tempdir().unwrap();
    std::fs::set_permissions(&runtime, PermissionsExt::from_mode(0o700)).unwrap();
    let (one, two) = (Home::with_runtime(runtime.path()), Home::with_runtime(runtime.path()));
    let (first, second) = (one.start().await, two.start().await);
    assert_ne!(first.reached.pid, second.reached.pid);
    assert_ne!(first.socket, second.socket);
    assert_eq!((one.starts(), two.starts()), (1, 1));
    // After a crash the other one may take the first place; it must not be taken for ours.
    std::fs::remove_file(two.places().record_file()).unwrap();
    assert_eq!(two.pid().await, second.reached.pid.unwrap());
    let handle = ProcessHandle::open(first.reached.pid.unwrap()).unwrap();
    handle.kill().unwrap();
    assert!(handle.wait(Duration::from_secs(10)).unwrap());
    two.private().stop().await.unwrap();
    let moved = two.start().await;
    assert_eq!(moved.socket, first.socket);
    assert_ne!(one.pid().await, moved.reached.pid.unwrap());
    assert!(matches!(one.private().stop().await, Ok(StopOutcome::Stopped { .. })));
    assert_eq!(two.pid().await, moved.reached.pid.unwrap());
}

#[tokio::test]
async fn one_that_does_not_start_says_why() {
    let home = Home::new();
    let failed = |answer: Answer<Found>| {
        let problem = answer.unwrap_err();
        assert_eq!(problem.code, Code::Unavailable);
        assert!(problem.detail.contains("did not start"), "{}", problem.detail);
        (problem.cause.clone(), problem.fix.clone())
    };
    home.program_that("echo not this >&2; exit 1");
    failed(home.private().find_or_start().await);
    home.program_that("printf 'error: no root key\\n\\n  fix  unlock it\\033[31m\\n' >&2; exit 1");
    let (cause, fix) = failed(home.private().find_or_start().await);
    assert_eq!(cause, "error: no root key; fix  unlock it[31m");
    assert!(fix.contains("backend.log"), "{fix}");
    home.program_that("exit 0");
    let (cause, _) = failed(home.private().find_or_start().await);
    assert_eq!(cause, "it ended without a word");
    home.program_that("echo \"listening on unix:/elsewhere\"; exit 0");
    let (cause, _) = failed(home.private().find_or_start().await);
    assert!(cause.contains("nobody does"), "{cause}");
    std::fs::remove_file(home.program()).unwrap();
    let (cause, _) = failed(home.private().find_or_start().await);
    assert!(cause.contains("No such file"), "{cause}");
    assert!(home.private().find().await.unwrap().is_none());
}

#[tokio::test]
async fn a_runtime_folder_that_leads_elsewhere_is_refused() {
    let runtime = tempfile::tempdir().unwrap();
    std::fs::set_permissions(&runtime, PermissionsExt::from_mode(0o700)).unwrap();
    let home = Home::with_runtime(runtime.path());
    let elsewhere = tempfile::tempdir().unwrap();
    symlink(elsewhere.path(), runtime.path().join("agentkeys")).unwrap();
    let refused = home.private().find_or_start().await.unwrap_err();
    assert!(refused.cause.contains("link"), "{}", refused.cause);
    std::fs::remove_file(runtime.path().join("agentkeys")).unwrap();
    std::fs::create_dir(runtime.path().join("agentkeys")).unwrap();
    std::fs::set_permissions(runtime.path().join("agentkeys"), PermissionsExt::from_mode(0o777))
        .unwrap();
    let refused = home.private().find_or_start().await.unwrap_err();
    assert!(refused.cause.contains("open to others"), "{}", refused.cause);
    assert_eq!(home.starts(), 0);
}

#[tokio::test]
async fn a_home_whose_path_is_too_long_for_a_socket_works_as_well() {
    let temporary = tempfile::tempdir().unwrap();
    let mut home = Home::new();
    let deep = home.folder.path().join("x".repeat(120));
    std::fs::create_dir(&deep).unwrap();
    home.variables[0].1 = deep;
    let places = || home.places().with_temporary(temporary.path().to_owned());
    let found = Private::with_program(places(), home.program()).find_or_start().await.unwrap();
    assert!(found.socket.starts_with(temporary.path()), "{:?}", found.socket);
    let folder = found.socket.parent().unwrap().parent().unwrap();
    assert_eq!(std::fs::metadata(folder).unwrap().permissions().mode() & 0o7777, 0o700);
    Private::with_program(places(), home.program()).stop().await.unwrap();
    std::fs::set_permissions(folder, PermissionsExt::from_mode(0o770)).unwrap();
    let refused = Private::with_program(places(), home.program()).find_or_start().await;
    assert!(refused.unwrap_err().cause.contains("open to others"));
}

#[tokio::test]
async fn a_log_that_has_grown_is_put_aside_and_the_backend_goes_on_writing() {
    let home = Home::new();
    home.start().await;
    let log = home.places().log_file();
    let line = "x".repeat(1023) + "\n";
    let mut file = File::options().append(true).open(&log).unwrap();
    for _ in 0..=MAX_LOG / 1024 {
        file.write_all(line.as_bytes()).unwrap();
    }
    home.start().await;
    assert_eq!(std::fs::metadata(&log).unwrap().len(), 0);
    let aside = log.with_extension("log.1");
    assert_eq!(std::fs::metadata(&aside).unwrap().len(), MAX_LOG);
    assert_eq!(std::fs::metadata(&aside).unwrap().permissions().mode() & 0o7777, 0o600);
    file.write_all(b"later\n").unwrap();
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "later\n");
}

/// A bound that a lock, a request or a process start on the warm path would break; the figure
/// is printed for the report.
#[tokio::test]
async fn finding_a_running_backend_takes_well_under_a_millisecond() {
    let home = Home::new();
    home.start().await;
    let mut best = Duration::MAX;
    for _ in 0..200 {
        let begun = Instant::now();
        home.start().await;
        best = best.min(begun.elapsed());
    }
    println!("found in {best:?}");
    assert!(best < Duration::from_millis(1), "{best:?}");
}
