//! What the daemon's hardening holds off: each attack first works against a process that is not
//! hardened, and then fails against one that is, in the daemon's order (`examples/victim.rs`).
//!
//! Attacker and victim are the same ordinary user, unless a test says that it is about root.
use crate::home::copy_program;
use crate::store_victim::example;
use agentkeys::harden;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const NOBODY: u32 = 65534;
const EPERM: &str = "errno 1";
const EACCES: &str = "errno 13";

/// Says loudly that something was not checked; in CI that is a failure.
fn skip(why: &str) {
    assert!(std::env::var_os("CI").is_none(), "not checked: {why}");
    eprintln!("SKIPPED, NOT CHECKED: {why}");
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum User {
    Ordinary,
    /// Whoever runs the tests.
    Same,
}

/// A folder that everybody can reach, with the programs in it.
struct Room {
    folder: tempfile::TempDir,
}

impl Room {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        for name in ["victim", "lacking"] {
            copy_program(example(name), folder.path().join(name));
        }
        Self { folder }
    }

    /// A folder with the file `file` in it, both the ordinary user's to change.
    fn folder(&self, name: &str) -> String {
        let path = self.folder.path().join(name);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        fs::write(path.join("file"), "content").unwrap();
        fs::set_permissions(path.join("file"), fs::Permissions::from_mode(0o666)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn command(&self, user: User, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(self.folder.path().join(program));
        command.args(args).current_dir(self.folder.path());
        if user == User::Ordinary && harden::real_uid() == 0 {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    fn victim(&self, args: &[&str]) -> Process {
        Process::start(self.command(User::Ordinary, "victim", args))
    }

    fn victim_as(&self, user: User, args: &[&str]) -> Process {
        Process::start(self.command(user, "victim", args))
    }

    /// A victim on a kernel without some calls.
    fn lacking(&self, user: User, calls: &str, args: &[&str]) -> Process {
        let victim = self.folder.path().join("victim");
        let mut all = vec![calls, victim.to_str().unwrap()];
        all.extend(args);
        Process::start(self.command(user, "lacking", &all))
    }

    fn attack(&self, how: &str, victim: &Process) -> String {
        let args = ["attack", how, victim.word(1), victim.word(2)];
        let output = self.command(User::Ordinary, "victim", &args).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

/// A process that has said its first line, and answers each line with one.
struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    first: String,
}

impl Process {
    fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let input = child.stdin.take().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let first = line(&mut output);
        Self { child, input, output, first }
    }

    fn word(&self, at: usize) -> &str {
        self.first.split(' ').nth(at).unwrap_or_else(|| panic!("{}", self.first))
    }

    fn ask(&mut self, words: &str) -> String {
        writeln!(self.input, "{words}").unwrap();
        line(&mut self.output)
    }

    fn end(&mut self, words: &str) -> ExitStatus {
        writeln!(self.input, "{words}").unwrap();
        self.child.wait().unwrap()
    }

    /// One field of its `/proc/PID/status`, by this test's eyes.
    fn status(&self, field: &str) -> String {
        let text = fs::read_to_string(format!("/proc/{}/status", self.word(1))).unwrap();
        let value = text.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':'));
        value.unwrap_or_else(|| panic!("no {field}")).trim().to_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn line(output: &mut impl BufRead) -> String {
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

fn gone_within(pid: &str, limit: Duration) -> bool {
    let begun = Instant::now();
    let path = PathBuf::from(format!("/proc/{pid}"));
    while path.exists() {
        if begun.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

#[test]
fn no_process_of_the_same_user_gets_at_the_memory_or_descriptors_of_a_hardened_one() {
    let room = Room::new();
    let plain = room.victim(&["plain"]);
    let hardened = room.victim(&["hardened"]);
    for how in ["mem", "vm_readv", "ptrace", "environ", "descriptors", "getfd"] {
        let control = room.attack(how, &plain);
        if control != "ok true" && control != "ok" {
            skip(&format!("{how} works against no process here: {control}"));
        }
        let answer = room.attack(how, &hardened);
        assert!(answer == EPERM || answer == EACCES, "{how}: {answer}");
    }
}

#[test]
fn the_kernel_shows_a_hardened_process_with_nothing_left() {
    let room = Room::new();
    for user in [User::Ordinary, User::Same] {
        let mut victim = room.victim_as(user, &["hardened", "read=/etc"]);
        assert!(victim.first.ends_with("missing none"), "{}", victim.first);
        assert_eq!(victim.status("NoNewPrivs"), "1");
        assert_eq!(victim.status("Seccomp"), "2");
        for set in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
            assert_eq!(victim.status(set), "0000000000000000", "{set}");
        }
        assert_ne!(victim.status("VmLck"), "0 kB");
        assert!(victim.ask("secret").starts_with("ok "));
    }
}

#[test]
fn a_hardened_process_leaves_no_core_whichever_way_it_dies() {
    let room = Room::new();
    for (way, signal) in [("abort", 6), ("segv", 11)] {
        let die = |kind: &str| {
            let victim = room.command(User::Ordinary, "victim", &[kind]);
            let mut shell = Command::new("/bin/sh");
            shell.args(["-c", "ulimit -S -c unlimited; exec \"$0\" \"$1\""]);
            shell.arg(victim.get_program()).arg(kind).current_dir(room.folder.path());
            if harden::real_uid() == 0 {
                shell.uid(NOBODY).gid(NOBODY);
            }
            let status = Process::start(shell).end(&format!("crash {way}"));
            assert_eq!(status.signal(), Some(signal), "{kind}: {status:?}");
            // Set by the kernel for files and for pipes (core_pattern) alike.
            status.core_dumped()
        };
        if !die("plain") {
            skip("this system writes no core files at all");
        }
        assert!(!die("hardened"), "{way}");
    }
    let mut plain = room.victim(&["plain"]);
    assert_eq!(plain.ask("call core_limit"), "ok");
    let mut hardened = room.victim(&["hardened"]);
    assert_eq!(hardened.ask("call core_limit"), EPERM);
}

#[test]
fn calls_that_only_an_intruder_wants_are_refused_by_the_filter_alone() {
    const CALLS: &[&str] = &[
        "kcmp",
        "userfaultfd",
        "keyctl",
        "add_key",
        "process_vm_readv",
        "process_vm_writev",
        "ptrace",
        "io_uring_setup",
        "pidfd_getfd",
        "unshare_user",
        "fork",
        "dumpable",
        "dumpable_disguised",
        "ptracer",
        "vsock",
        "alg",
        "mknod",
        "bpf",
        "perf_event_open",
        "finit_module",
        "kexec_load",
        "open_by_handle_at",
        "mount",
    ];
    let room = Room::new();
    // As root, where there is one, since an ordinary user is refused some of them by privilege; and
    // each in a process of its own, since some change it.
    let ask =
        |kind: &str, call: &str| room.victim_as(User::Same, &[kind]).ask(&format!("call {call}"));
    for call in CALLS {
        assert_eq!(ask("filtered", call), EPERM, "{call}");
        let control = ask("plain", call);
        if control == EPERM {
            skip(&format!("{call} is refused to every process here"));
        }
    }
    assert_eq!(ask("plain", "clone3"), "errno 22", "its arguments are looked at");
    assert_eq!(ask("filtered", "clone3"), "errno 38", "so that the C library falls back");
    #[cfg(target_arch = "x86_64")]
    assert_eq!(ask("filtered", "x32"), EPERM);
    let mut plain = room.victim(&["plain"]);
    assert_eq!(plain.ask("execute /bin/true"), "ok");
    let mut filtered = room.victim(&["filtered"]);
    assert_eq!(filtered.ask("execute /bin/true"), EPERM);
}

#[test]
fn what_the_daemon_lives_on_still_works_when_it_is_hardened() {
    let room = Room::new();
    for user in [User::Ordinary, User::Same] {
        let mut victim = room.victim_as(user, &["hardened", "read=/etc"]);
        assert_eq!(victim.ask("runtime"), "ok");
        let kind = victim.ask("secret");
        assert_eq!(kind, room.victim(&["plain"]).ask("secret"), "new secret pages, as before");
    }
}

/// Whether this kernel has Landlock of at least `abi`.
fn has_landlock(room: &Room, abi: u32) -> bool {
    let report = room.victim(&["plain"]).ask("report Landlock");
    let found = report.rsplit_once("ABI ").and_then(|(_, number)| number.parse::<u32>().ok());
    if found.is_some_and(|found| found >= abi) {
        return true;
    }
    skip(&format!("this needs Landlock ABI {abi}: {report}"));
    false
}

#[test]
fn files_outside_the_confinement_are_neither_read_nor_written_nor_listed() {
    let room = Room::new();
    if !has_landlock(&room, 3) {
        return;
    }
    let (read, write, outside) = (room.folder("read"), room.folder("write"), room.folder("out"));
    let missing = format!("{outside}/not-there");
    let mut plain = room.victim(&["plain"]);
    let mut hardened = room.victim(&[
        "hardened",
        &format!("read={read}"),
        &format!("write={write}"),
        &format!("read={missing}"),
    ]);
    assert!(hardened.first.ends_with("missing none"), "{}", hardened.first);
    assert!(hardened.ask("report Landlock").starts_with("ok InForce: Landlock ABI "));
    let mut both = |words: &str| (plain.ask(words), hardened.ask(words));
    let allowed = ("ok".to_owned(), "ok".to_owned());
    let refused = ("ok".to_owned(), EACCES.to_owned());
    assert_eq!(both(&format!("read {read}/file")), allowed);
    assert_eq!(both(&format!("list {read}")), allowed);
    assert_eq!(both(&format!("write {read}/file")), refused);
    assert_eq!(both(&format!("write {read}/new")), refused);
    assert_eq!(both(&format!("read {write}/file")), allowed);
    assert_eq!(both(&format!("write {write}/file")), allowed);
    assert_eq!(both(&format!("write {write}/new")).1, "ok");
    for folder in [outside.as_str(), "/", "/etc", "/tmp"] {
        assert_eq!(both(&format!("list {folder}")), refused, "{folder}");
    }
    assert_eq!(both(&format!("read {outside}/file")), refused);
    assert_eq!(both(&format!("write {outside}/file")), refused);
    assert_eq!(both("read /etc/passwd"), refused);
}

#[test]
fn only_the_ports_that_were_given_can_be_connected_to_and_none_is_bound() {
    let room = Room::new();
    if !has_landlock(&room, 4) {
        return;
    }
    let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
    let (allowed, other) = (listen(), listen());
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    let mut plain = room.victim(&["plain"]);
    let mut hardened = room.victim(&["hardened", &format!("port={}", port(&allowed))]);
    for victim in [&mut plain, &mut hardened] {
        assert_eq!(victim.ask(&format!("connect {}", port(&allowed))), "ok");
    }
    assert_eq!(plain.ask(&format!("connect {}", port(&other))), "ok");
    assert_eq!(hardened.ask(&format!("connect {}", port(&other))), EACCES);
    assert_eq!(plain.ask("listen"), "ok");
    assert_eq!(hardened.ask("listen"), EACCES);
}

#[test]
fn a_hardened_process_signals_nobody_outside() {
    let room = Room::new();
    if !has_landlock(&room, 6) {
        return;
    }
    let bystander = room.victim(&["plain"]);
    let signal = format!("signal {}", bystander.word(1));
    assert_eq!(room.victim(&["plain"]).ask(&signal), "ok");
    let mut hardened = room.victim(&["hardened"]);
    assert_eq!(hardened.ask(&signal), EPERM);
    let own = format!("signal {}", hardened.word(1));
    assert_eq!(hardened.ask(&own), "ok");
}

#[test]
fn root_without_capabilities_reads_neither_others_files_nor_the_kernels_memory() {
    if harden::real_uid() != 0 {
        return skip("this is about root");
    }
    let room = Room::new();
    let folder = room.folder("others");
    let file = format!("{folder}/file");
    std::os::unix::fs::chown(&file, Some(NOBODY), Some(NOBODY)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let mut plain = room.victim_as(User::Same, &["plain"]);
    // Without Landlock: what holds is that no capability is left.
    let mut hardened = room.lacking(User::Same, "landlock", &["hardened"]);
    assert!(hardened.first.ends_with("missing none"), "{}", hardened.first);
    assert_eq!(plain.ask(&format!("read {file}")), "ok");
    assert_eq!(hardened.ask(&format!("read {file}")), EACCES);
    for device in ["/proc/kcore", "/dev/mem", "/dev/port", "/dev/kmsg"] {
        if !Path::new(device).exists() {
            continue;
        }
        let control = plain.ask(&format!("open {device}"));
        if control != "ok" && device == "/proc/kcore" {
            skip(&format!("not even root opens {device} here: {control}"));
        }
        if device != "/dev/kmsg" {
            let answer = hardened.ask(&format!("open {device}"));
            assert!(answer == EPERM || answer == EACCES, "{device}: {answer}");
        }
    }
}

#[test]
fn without_landlock_and_memfd_secret_the_daemons_steps_succeed_and_say_so() {
    let room = Room::new();
    let mut full = room.victim(&["hardened"]);
    let mut lacking = room.lacking(User::Ordinary, "landlock,memfd_secret", &["hardened"]);
    assert!(lacking.first.ends_with("missing none"), "{}", lacking.first);
    assert_eq!(lacking.ask("report Landlock"), "ok Absent: this kernel has no Landlock");
    assert_eq!(lacking.ask("secret"), "ok locked memory");
    assert_eq!(lacking.ask("report MemfdSecret"), "ok Absent: locked memory");
    assert_eq!(lacking.ask("runtime"), "ok");
    assert_eq!(lacking.ask("list /etc"), "ok");
    if full.ask("report Landlock").starts_with("ok InForce") {
        assert_eq!(full.ask("list /etc"), EACCES, "the control");
    }
}

#[test]
fn without_filters_the_hardening_fails_and_says_which_call() {
    let room = Room::new();
    let refused = room.lacking(User::Ordinary, "seccomp", &["hardened"]);
    assert!(refused.first.starts_with("failed cannot filter system calls"), "{}", refused.first);
}

#[test]
fn another_filter_in_force_is_not_taken_for_ours() {
    let room = Room::new();
    let mut foreign = room.lacking(User::Ordinary, "memfd_secret", &["plain"]);
    let report = foreign.ask("report SystemCallFilter");
    assert_eq!(report, "ok Absent: Seccomp 2, not this program's filter");
}

#[test]
fn freed_memory_holds_nothing_once_it_is_wiped() {
    let room = Room::new();
    let mut plain = room.victim(&["plain"]);
    let found = plain.ask("freed");
    let found: u32 = found.strip_prefix("ok ").unwrap().parse().unwrap();
    assert!(found > 0, "the scan finds what is freed without wiping");
    assert!(plain.ask("report WipedMemory").starts_with("ok Absent"));
    let mut hardened = room.victim(&["hardened"]);
    assert_eq!(hardened.ask("freed"), "ok 0");
    assert!(hardened.ask("report WipedMemory").starts_with("ok InForce"));
}

#[test]
fn what_binds_one_thread_is_refused_beside_another() {
    let room = Room::new();
    assert_eq!(room.victim(&["threads"]).first, "[true, true, true]");
}

#[test]
fn the_helper_does_what_the_hardened_daemon_may_not_and_holds_none_of_its_descriptors() {
    let room = Room::new();
    let mut daemon = room.victim(&["helper"]);
    let look = daemon.ask("?");
    let words: Vec<&str> = look.split(' ').collect();
    assert_ne!(words[0], daemon.word(1), "another process");
    // stdin, stdout, stderr, its end of the pair, and the watch's handle on that.
    assert_eq!(words[1..], ["/dev/null", "/dev/null", "5"]);
    assert_eq!(daemon.ask("x"), "Some(7)", "it starts a program, and learns how that ended");
}

#[test]
fn a_helper_that_died_shows_on_the_stream_and_leaves_no_zombie() {
    let room = Room::new();
    let mut daemon = room.victim(&["helper"]);
    let look = daemon.ask("?");
    let helper = look.split(' ').next().unwrap();
    assert_eq!(daemon.ask("p"), "gone", "a panic ends the helper, and the daemon is told");
    assert!(gone_within(helper, Duration::from_secs(5)), "a zombie is left");
    assert!(daemon.ask("?").starts_with("gone"));
}

#[test]
fn the_helper_ends_with_the_daemon_also_when_it_does_not_listen() {
    let room = Room::new();
    let mut polite = room.victim(&["helper"]);
    let look = polite.ask("?");
    assert_eq!(polite.ask("hang up"), "done");
    assert!(gone_within(look.split(' ').next().unwrap(), Duration::from_secs(1)), "at the end");

    for last in ["?", "s"] {
        let mut killed = room.victim(&["helper"]);
        let look = killed.ask("?");
        let helper = look.split(' ').next().unwrap();
        killed.ask(last);
        killed.child.kill().unwrap();
        killed.child.wait().unwrap();
        assert!(gone_within(helper, Duration::from_secs(5)), "killed after {last}");
    }
}
