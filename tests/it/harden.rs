//! Each protection in a process of its own, with a positive control (the same
//! act works without the protection) and the case that must fail.
//!
//! A test here starts its own binary again for just itself, as the user
//! `nobody` where it runs as root, since root may read everything.
use crate::home::copy_program;
use agentkeys::harden::{self, Hidden, Mechanism, Profile, SecretMemoryKind};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

const PART: &str = "AGENTKEYS_TEST_PART";
const NOBODY: u32 = 65534;

/// The part that this process plays, if another test process started it.
fn part() -> Option<String> {
    std::env::var(PART).ok()
}

/// Says loudly that something was not checked; in CI that is a failure.
fn skip(why: &str) {
    assert!(std::env::var_os("CI").is_none(), "not checked: {why}");
    eprintln!("SKIPPED, NOT CHECKED: {why}");
}

/// A folder that `nobody` can reach, with a copy of this binary in it.
struct Room {
    folder: tempfile::TempDir,
}

impl Room {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let copy = folder.path().join("it");
        copy_program(std::env::current_exe().unwrap(), &copy);
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
        Self { folder }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// This binary for `test` alone, playing `part`, started by a shell that
    /// first runs `setup`; as `nobody` if this is root.
    fn command(&self, test: &str, part: &str, setup: &str) -> Command {
        let mut command = self.ordinary_user("/bin/sh");
        command.args(["-c", &format!("{setup}\nexec \"$@\""), "sh"]);
        self.play(command, test, part)
    }

    /// The same, still as root.
    fn command_as_is(&self, test: &str, part: &str) -> Command {
        self.play(Command::new("/usr/bin/env"), test, part)
    }

    fn play(&self, mut command: Command, test: &str, part: &str) -> Command {
        command.arg(self.path().join("it"));
        command.args([&format!("harden::{test}"), "--exact", "--nocapture", "--test-threads=1"]);
        command.env(PART, part).env_remove("CI").current_dir(self.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn ordinary_user(&self, program: &str) -> Command {
        if harden::real_uid() != 0 {
            return Command::new(program);
        }
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", program]);
        command
    }
}

/// What a part said on the lines that begin with `said:`.
fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().filter_map(|l| Some(l.split_once("said:")?.1.trim()));
    lines.collect::<Vec<_>>().join("\n")
}

fn run(mut command: Command) -> Output {
    command.output().unwrap()
}

fn run_well(command: Command) -> String {
    let output = run(command);
    assert!(output.status.success(), "{:?}\n{}", output, String::from_utf8_lossy(&output.stderr));
    said(&output)
}

/// A part that has said where its secrets are, and waits for its input to end.
struct Waiting {
    child: Child,
    words: Vec<String>,
}

impl Waiting {
    fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines
            .find_map(|l| Some(l.unwrap().split_once("said:")?.1.trim().to_owned()))
            .expect("the part says where its secrets are");
        Self { words: line.split(' ').map(str::to_owned).collect(), child }
    }

    fn pid(&self) -> u32 {
        self.words[0].parse().unwrap()
    }

    fn address(&self, index: usize) -> u64 {
        self.words[index].parse().unwrap()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn say_and_wait(words: &str) {
    println!("\nsaid: {} {words}", std::process::id());
    std::io::stdout().flush().unwrap();
    let mut end = Vec::new();
    std::io::stdin().read_to_end(&mut end).unwrap();
}

/// 32 bytes of another process, or the system's answer.
fn read_memory(pid: u32, address: u64) -> std::io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    fs::File::open(format!("/proc/{pid}/mem"))?.read_exact_at(&mut bytes, address)?;
    Ok(bytes)
}

#[test]
fn no_core_file_is_written_by_a_process_that_forbids_it() {
    const NAME: &str = "no_core_file_is_written_by_a_process_that_forbids_it";
    match part().as_deref() {
        Some(part) => {
            let before = harden::report().in_force(Mechanism::NoCoreDumps);
            if part == "hardened" {
                harden::no_core_dumps().unwrap();
            }
            let after = harden::report().in_force(Mechanism::NoCoreDumps);
            println!("\nsaid: {before} {after}");
            std::process::abort();
        }
        None => {
            let room = Room::new();
            let raise = "ulimit -S -c unlimited";
            let plain = run(room.command(NAME, "plain", raise));
            assert_eq!(said(&plain), "false false");
            assert_eq!(plain.status.signal(), Some(6), "{plain:?}");
            let hardened = run(room.command(NAME, "hardened", raise));
            assert_eq!(said(&hardened), "false true");
            assert_eq!(hardened.status.signal(), Some(6), "{hardened:?}");
            assert!(!hardened.status.core_dumped());
            if !plain.status.core_dumped() {
                skip("this system writes no core files at all");
            }
        }
    }
}

#[test]
fn the_memory_of_a_process_that_is_not_dumpable_is_closed_to_its_own_user() {
    const NAME: &str = "the_memory_of_a_process_that_is_not_dumpable_is_closed_to_its_own_user";
    match part().as_deref() {
        Some("reader") => {
            let number = |name| std::env::var(name).unwrap().parse::<u64>().unwrap();
            let pid = u32::try_from(number("READ_PID")).unwrap();
            match read_memory(pid, number("READ_ADDRESS")) {
                Ok(bytes) => println!("\nsaid: read {}", bytes == [0x5a; 32]),
                Err(e) => println!("\nsaid: {:?}", e.kind()),
            }
        }
        Some(part) => {
            let secret = Box::new([0x5a_u8; 32]);
            let before = harden::report().in_force(Mechanism::NotDumpable);
            if part == "hardened" {
                harden::not_dumpable().unwrap();
            }
            let after = harden::report().in_force(Mechanism::NotDumpable);
            say_and_wait(&format!("{} {before} {after}", secret.as_ptr() as usize));
        }
        None => {
            let room = Room::new();
            let read = |victim: &Waiting| {
                let mut reader = room.command(NAME, "reader", "");
                reader.env("READ_PID", victim.pid().to_string());
                reader.env("READ_ADDRESS", victim.address(1).to_string());
                run_well(reader)
            };
            let plain = Waiting::start(room.command(NAME, "plain", ""));
            assert_eq!(plain.words[2..], ["false", "false"]);
            let control = read(&plain);
            let hardened = Waiting::start(room.command(NAME, "hardened", ""));
            assert_eq!(hardened.words[2..], ["false", "true"]);
            assert_eq!(read(&hardened), "PermissionDenied");
            // Yama alone closes every process to its siblings.
            match control.as_str() {
                "read true" => {}
                other => skip(&format!("an ordinary process cannot be read here: {other}")),
            }
        }
    }
}

#[test]
fn not_even_root_reads_a_hidden_value_in_memfd_secret() {
    const NAME: &str = "not_even_root_reads_a_hidden_value_in_memfd_secret";
    match part().as_deref() {
        Some(_) => {
            let open = Box::new([0x5a_u8; 32]);
            let hidden = Hidden::new(|| [0x5a_u8; 32]).unwrap();
            // Exposed for its address.
            let addresses = (open.as_ptr() as usize, hidden.expose().as_ptr() as usize);
            let kind = harden::secret_memory_kind().unwrap();
            let in_force = harden::report().in_force(Mechanism::SecretMemory);
            say_and_wait(&format!("{} {} {in_force} {kind}", addresses.0, addresses.1));
            hidden.with(|bytes| assert_eq!(bytes, &[0x5a; 32]));
        }
        None => {
            let room = Room::new();
            let owner = Waiting::start(room.command_as_is(NAME, "owner"));
            assert_eq!(owner.words[3], "true", "locked, not dumped, not inherited");
            if owner.words[4] != SecretMemoryKind::MemfdSecret.to_string() {
                return skip("this kernel has no memfd_secret");
            }
            match read_memory(owner.pid(), owner.address(1)) {
                Ok(bytes) => assert_eq!(bytes, [0x5a; 32], "the control"),
                Err(e) => skip(&format!("no right to read another process here: {e}")),
            }
            read_memory(owner.pid(), owner.address(2)).expect_err("secret pages are closed");
        }
    }
}

#[test]
fn without_room_for_locked_memory_there_is_no_hidden_value() {
    const NAME: &str = "without_room_for_locked_memory_there_is_no_hidden_value";
    match part().as_deref() {
        Some(_) => match Hidden::new(|| [1_u8; 32]) {
            Ok(_) => println!("\nsaid: hidden"),
            Err(e) => println!("\nsaid: {e}"),
        },
        None => {
            let room = Room::new();
            assert_eq!(run_well(room.command(NAME, "roomy", "")), "hidden");
            let refused = run_well(room.command(NAME, "cramped", "ulimit -l 0"));
            assert!(refused.contains("ulimit -l"), "{refused}");
        }
    }
}

#[test]
fn a_setuid_program_gives_no_privileges_to_a_process_that_gave_them_up() {
    const NAME: &str = "a_setuid_program_gives_no_privileges_to_a_process_that_gave_them_up";
    match part().as_deref() {
        Some(part) => {
            let before = harden::report().in_force(Mechanism::NoNewPrivileges);
            if part == "hardened" {
                harden::no_new_privileges().unwrap();
            }
            let after = harden::report().in_force(Mechanism::NoNewPrivileges);
            let id = Command::new("./id").arg("-u").output().unwrap();
            let id = String::from_utf8(id.stdout).unwrap();
            println!("\nsaid: {before} {after} {}", id.trim());
        }
        None if harden::real_uid() != 0 => skip("only root can make a setuid program"),
        None => {
            let room = Room::new();
            let id = room.path().join("id");
            copy_program("/usr/bin/id", &id);
            fs::set_permissions(&id, fs::Permissions::from_mode(0o4755)).unwrap();
            let hardened = run_well(room.command(NAME, "hardened", ""));
            assert_eq!(hardened, format!("false true {NOBODY}"));
            let plain = run_well(room.command(NAME, "plain", ""));
            match plain.as_str() {
                "false false 0" => {}
                other => skip(&format!("setuid has no effect here: {other}")),
            }
        }
    }
}

#[test]
fn writing_past_the_file_size_limit_is_an_error_and_not_a_death() {
    const NAME: &str = "writing_past_the_file_size_limit_is_an_error_and_not_a_death";
    match part().as_deref() {
        Some(part) => {
            let before = harden::report().in_force(Mechanism::FileSizeSignalIgnored);
            if part == "hardened" {
                harden::ignore_file_size_signal().unwrap();
            }
            let after = harden::report().in_force(Mechanism::FileSizeSignalIgnored);
            println!("\nsaid: {before} {after}");
            let error = fs::write("large", vec![0; 1 << 20]).unwrap_err();
            println!("\nsaid: {:?}", error.kind());
        }
        None => {
            let room = Room::new();
            let plain = run(room.command(NAME, "plain", "ulimit -f 128"));
            assert_eq!(said(&plain), "false false");
            assert_eq!(plain.status.signal(), Some(25), "SIGXFSZ: {plain:?}");
            let hardened = run_well(room.command(NAME, "hardened", "ulimit -f 128"));
            assert_eq!(hardened, "false true\nFileTooLarge");
        }
    }
}

#[test]
fn new_files_are_the_users_alone_under_the_restricted_umask() {
    const NAME: &str = "new_files_are_the_users_alone_under_the_restricted_umask";
    match part().as_deref() {
        Some(_) => {
            let mode = |name| {
                fs::write(name, "").unwrap();
                fs::metadata(name).unwrap().permissions().mode() & 0o777
            };
            let before = harden::report().in_force(Mechanism::RestrictedUmask);
            let plain = mode("plain");
            harden::restrict_umask();
            let after = harden::report().in_force(Mechanism::RestrictedUmask);
            println!("\nsaid: {before} {plain:o} {after} {:o}", mode("restricted"));
        }
        None => {
            let room = Room::new();
            let umask = run_well(room.command(NAME, "", "umask 022"));
            assert_eq!(umask, "false 644 true 600");
        }
    }
}

#[test]
fn the_report_names_what_a_process_lacks() {
    const NAME: &str = "the_report_names_what_a_process_lacks";
    match part().as_deref() {
        Some(_) => {
            let missing = || {
                let report = harden::report();
                report.missing(Profile::Backend).map(|f| f.mechanism).collect::<Vec<_>>()
            };
            assert_eq!(missing().len(), 5, "all but secret memory: {:?}", missing());
            harden::no_core_dumps().unwrap();
            harden::not_dumpable().unwrap();
            harden::no_new_privileges().unwrap();
            harden::ignore_file_size_signal().unwrap();
            assert_eq!(missing(), [Mechanism::RestrictedUmask]);
            harden::restrict_umask();
            assert_eq!(missing(), []);
            println!("\nsaid: done");
        }
        None => {
            let room = Room::new();
            assert_eq!(run_well(room.command(NAME, "", "umask 022")), "done");
        }
    }
}

#[test]
fn a_detached_program_has_a_session_of_its_own_and_no_foreign_descriptor() {
    const NAME: &str = "a_detached_program_has_a_session_of_its_own_and_no_foreign_descriptor";
    // Its own pid, its session, whether it has descriptor 9, and its input.
    const LOOK: &str = "set -- $(cat /proc/self/stat); test -e /proc/$$/fd/9 && nine=yes; \
                        echo said: $(( $6 == $$ )) ${nine:-no} $(readlink /proc/$$/fd/0)";
    match part().as_deref() {
        Some(part) => {
            let mut look = Command::new("/bin/sh");
            look.args(["-c", LOOK]).stdout(Stdio::piped());
            let child = match part {
                "detached" => harden::spawn_detached(look).unwrap(),
                _ => look.stdin(Stdio::inherit()).spawn().unwrap(),
            };
            let output = child.wait_with_output().unwrap();
            println!("\n{}", String::from_utf8(output.stdout).unwrap());
        }
        None => {
            let room = Room::new();
            // A descriptor that is not close-on-exec, as a careless starter leaves it.
            let leak = "exec 9</dev/zero";
            let plain = run_well(room.command(NAME, "plain", leak));
            assert!(plain.starts_with("0 yes pipe:"), "{plain}");
            let detached = run_well(room.command(NAME, "detached", leak));
            assert_eq!(detached, "1 no /dev/null");
        }
    }
}

#[test]
fn a_program_that_cannot_be_started_is_an_error_when_detached() {
    let error = harden::spawn_detached(Command::new("/no/such/program")).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
}
