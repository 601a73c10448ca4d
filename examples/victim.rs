//! Both sides of the tests of the daemon's hardening, each in a process of its own.
//!
//! `victim plain|filtered|hardened [read=PATH] [write=PATH] [port=N]...` protects itself as the
//! daemon does (or not at all, or by the system call filter alone), says
//! `ready PID ADDRESS missing MECHANISMS`, where 32 bytes of 0x5a lie at ADDRESS, and then does what
//! each line on its input asks for, answering each with a line: `ok`, or the error.
//!
//! `victim helper` forks the helper and talks to it. `victim attack HOW PID ADDRESS` is another
//! process that tries to get at those bytes. `victim inject PID PATH` has a process that waits in a
//! system call open a file, as root can.
use std::fs;
use std::io::{self, BufRead, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use agentkeys::harden::{self, Confinement, Hidden, Profile};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["attack", how, pid, address] => {
            let pid = pid.parse().expect("a process id");
            say(answer(attack(how, pid, address.parse().expect("an address"))));
        }
        ["inject", pid, path] => say(answer(inject(pid.parse().expect("a process id"), path))),
        ["helper"] => helper(),
        ["threads"] => threads(),
        [kind @ ("plain" | "filtered" | "hardened"), ref rest @ ..] => victim(kind, rest),
        _ => panic!("usage: see the top of examples/victim.rs"),
    }
}

fn say(line: impl std::fmt::Display) {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).expect("somebody listens");
}

fn answer(result: io::Result<String>) -> String {
    match result {
        Ok(text) if text.is_empty() => "ok".to_owned(),
        Ok(text) => format!("ok {text}"),
        Err(error) => match error.raw_os_error() {
            Some(number) => format!("errno {number}"),
            None => format!("error {error}"),
        },
    }
}

fn errno(returned: libc::c_long) -> io::Result<String> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(String::new()) }
}

/// The daemon's order, without what it does in between.
fn harden(words: &[&str]) -> Result<(), Box<dyn std::error::Error>> {
    let mut allowed = Confinement::default();
    for word in words {
        match word.split_once('=') {
            Some(("read", path)) => allowed.read.push(PathBuf::from(path)),
            Some(("write", path)) => allowed.write.push(PathBuf::from(path)),
            Some(("port", port)) => allowed.connect_ports.push(port.parse()?),
            _ => panic!("not understood: {word}"),
        }
    }
    harden::no_core_dumps()?;
    harden::not_dumpable()?;
    harden::no_new_privileges()?;
    harden::ignore_file_size_signal()?;
    harden::restrict_umask();
    harden::wipe_freed_memory();
    harden::secret_memory_kind()?;
    harden::landlock(&allowed)?;
    harden::drop_capabilities()?;
    harden::seccomp_filter()?;
    Ok(())
}

fn victim(kind: &str, words: &[&str]) {
    // For the scan: a process that is not dumpable may not open its own memory.
    let memory = fs::File::open("/proc/self/mem").expect("its own memory");
    let protected = match kind {
        "hardened" => harden(words),
        "filtered" => harden::seccomp_filter().map_err(Into::into),
        _ => Ok(()),
    };
    if let Err(error) = protected {
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        return say(format!("failed {error}{cause}"));
    }
    let secret = std::hint::black_box(Box::new([0x5a_u8; 32]));
    let report = harden::report();
    let missing: Vec<_> =
        report.missing(Profile::Daemon).map(|f| format!("{}", f.mechanism)).collect();
    for (finding, need) in report.of(Profile::Daemon) {
        eprintln!("{} {:?} {need:?}: {}", finding.mechanism, finding.state, finding.detail);
    }
    let missing = if missing.is_empty() { "none".to_owned() } else { missing.join(", ") };
    say(format!("ready {} {} missing {missing}", std::process::id(), secret.as_ptr().addr()));
    for line in io::stdin().lock().lines() {
        let line = line.expect("the input is text");
        let words: Vec<&str> = line.split(' ').collect();
        say(answer(act(&words, &memory)));
    }
    drop(secret);
}

/// What a victim is asked to do.
fn act(words: &[&str], memory: &fs::File) -> io::Result<String> {
    match *words {
        ["status"] => fs::read_to_string("/proc/thread-self/status").map(|s| s.replace('\n', ";")),
        ["report", mechanism] => {
            let report = harden::report();
            let found =
                report.findings().iter().find(|f| format!("{:?}", f.mechanism) == mechanism);
            let found = found.expect("a mechanism's name");
            Ok(format!("{:?}: {}", found.state, found.detail))
        }
        ["read", path] => fs::read(path).map(|_| String::new()),
        // /dev/mem is not read: the open is what matters.
        ["open", path] => fs::File::open(path).map(|_| String::new()),
        ["list", path] => fs::read_dir(path).map(|_| String::new()),
        ["write", path] => fs::write(path, "x").map(|()| String::new()),
        ["connect", port] => {
            let port = port.parse().expect("a port");
            TcpStream::connect(("127.0.0.1", port)).map(|_| String::new())
        }
        ["listen"] => TcpListener::bind("127.0.0.1:0").map(|_| String::new()),
        ["execute", path] => Command::new(path).status().map(|_| String::new()),
        ["signal", pid] => {
            // SAFETY: signal 0 asks whether one could be sent, and sends none.
            errno(unsafe { libc::kill(pid.parse().expect("a process id"), 0) }.into())
        }
        ["call", name] => call(name),
        ["runtime"] => runtime(),
        ["secret"] => Hidden::new(|| [1_u8; 32]).map_err(io::Error::other).map(|secret| {
            let kind = harden::secret_memory_kind().expect("there is a secret in it");
            secret.with(|bytes| assert_eq!(bytes, &[1; 32]));
            kind.to_string()
        }),
        ["freed"] => freed(memory).map(|found| found.to_string()),
        ["crash", "abort"] => std::process::abort(),
        ["crash", "segv"] => {
            // SAFETY: raises a signal in this process, which ends by it; std's handler for it,
            // which looks for stack overflows, is taken off first.
            unsafe {
                libc::signal(libc::SIGSEGV, libc::SIG_DFL);
                libc::raise(libc::SIGSEGV);
            }
            unreachable!("SIGSEGV is fatal")
        }
        _ => panic!("not understood: {words:?}"),
    }
}

/// One refused call each; where it is allowed, it does no harm.
fn call(name: &str) -> io::Result<String> {
    let us = libc::c_long::from(std::process::id().cast_signed());
    let none = std::ptr::null::<u8>();
    // SAFETY: every call below has null pointers, lengths of 0 or numbers that name nothing; the
    // ones that make a descriptor or a process are undone at once.
    errno(unsafe {
        match name {
            "kcmp" => libc::syscall(libc::SYS_kcmp, us, us, 1, 0, 0),
            // User faults only, which an ordinary user may ask for.
            "userfaultfd" => libc::syscall(libc::SYS_userfaultfd, 1),
            "keyctl" => libc::syscall(libc::SYS_keyctl, 0, -3_i64, 0, 0, 0),
            "process_vm_readv" => {
                libc::syscall(libc::SYS_process_vm_readv, us, none, 0, none, 0, 0)
            }
            "process_vm_writev" => {
                libc::syscall(libc::SYS_process_vm_writev, us, none, 0, none, 0, 0)
            }
            "ptrace" => libc::syscall(libc::SYS_ptrace, libc::PTRACE_TRACEME, 0, 0, 0),
            "io_uring_setup" => {
                let mut parameters = [0_u8; 256];
                libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr())
            }
            "pidfd_getfd" => {
                let own = libc::syscall(libc::SYS_pidfd_open, us, 0);
                libc::syscall(libc::SYS_pidfd_getfd, own, 0, 0)
            }
            "unshare_user" => libc::syscall(libc::SYS_unshare, libc::CLONE_NEWUSER),
            "fork" => match libc::fork() {
                0 => libc::_exit(0),
                child @ 1.. => {
                    libc::waitpid(child, std::ptr::null_mut(), 0);
                    child.into()
                }
                refused => refused.into(),
            },
            "dumpable" => libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0).into(),
            // Bits above the int that the first argument is.
            "dumpable_disguised" => libc::syscall(
                libc::SYS_prctl,
                (1_i64 << 32) | i64::from(libc::PR_SET_DUMPABLE),
                1,
                0,
                0,
                0,
            ),
            "clone3" => libc::syscall(libc::SYS_clone3, none, 0),
            "ptracer" => libc::prctl(libc::PR_SET_PTRACER, 1, 0, 0, 0).into(),
            "vsock" => libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0).into(),
            "alg" => libc::socket(libc::AF_ALG, libc::SOCK_SEQPACKET, 0).into(),
            // getpid by x32's numbering.
            "x32" => libc::syscall(0x4000_0000 | libc::SYS_getpid),
            "core_limit" => {
                let some = libc::rlimit { rlim_cur: 1 << 20, rlim_max: 1 << 20 };
                libc::setrlimit(libc::RLIMIT_CORE, &raw const some).into()
            }
            "mknod" => {
                let path = c"/tmp/agentkeys-victim-node";
                let made = libc::mknod(path.as_ptr(), libc::S_IFIFO | 0o600, 0);
                if made == 0 {
                    libc::unlink(path.as_ptr());
                }
                made.into()
            }
            // These answer that something is wrong with their arguments, if they are looked at.
            "bpf" => libc::syscall(libc::SYS_bpf, 9999, none, 0),
            "perf_event_open" => libc::syscall(libc::SYS_perf_event_open, none, 0, -1, -1, 0),
            "add_key" => libc::syscall(libc::SYS_add_key, none, none, none, 0, 0),
            "finit_module" => libc::syscall(libc::SYS_finit_module, -1, none, 0),
            "kexec_load" => libc::syscall(libc::SYS_kexec_load, 0, 9999, none, 0),
            "open_by_handle_at" => libc::syscall(libc::SYS_open_by_handle_at, -1, none, 0),
            "mount" => libc::syscall(libc::SYS_mount, none, none, none, 0, none),
            other => panic!("not understood: {other}"),
        }
    })
}

/// What the daemon lives on: threads, timers, sockets, names, randomness, files.
fn runtime() -> io::Result<String> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut random = [0; 32];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut random)
            .map_err(|_| io::Error::other("no randomness"))?;
        tokio::time::sleep(Duration::from_millis(1)).await;
        tokio::task::spawn_blocking(|| std::thread::spawn(|| ()).join())
            .await?
            .map_err(|_| io::Error::other("a thread panicked"))?;
        let (mut one, mut two) = UnixStream::pair()?;
        one.write_all(b"x")?;
        two.read_exact(&mut [0])?;
        UdpSocket::bind("127.0.0.1:0")?;
        let _signals = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::net::lookup_host("localhost:1").await.map(|_| ())
    })?;
    Ok(String::new())
}

/// How many freed blocks can still be read in this process's own memory, after a mark was freed
/// in blocks of many sizes, by freeing, by growing and by shrinking.
fn freed(memory: &fs::File) -> io::Result<usize> {
    // Made at run time and never whole, so that the program's text and the scan do not hold it.
    let mark: [u8; 24] = std::array::from_fn(|at| (at as u8).wrapping_mul(37) ^ 0xc3);
    let mut kept = Vec::with_capacity(512);
    for size in [64, 200, 1000, 4096, 20_000, 64 * 1024] {
        for round in 0..20 {
            let mut block: Vec<u8> = Vec::with_capacity(size);
            while block.len() + mark.len() <= size {
                block.extend_from_slice(&mark);
            }
            match round % 3 {
                0 => {}
                1 => block.reserve_exact(size * 2),
                _ => {
                    block.truncate(mark.len() / 2);
                    block.shrink_to_fit();
                }
            }
            drop(std::hint::black_box(block));
            // So that the next block of this size lies elsewhere.
            kept.push(vec![0_u8; size]);
        }
    }
    let found = scan(memory, &mark)?;
    drop(kept);
    Ok(found)
}

/// Counts `mark` in the writable memory of this process, but for the stack, where it lives.
fn scan(memory: &fs::File, mark: &[u8; 24]) -> io::Result<usize> {
    let mut found = 0;
    let mut buffer = vec![0_u8; 1 << 20];
    for line in fs::read_to_string("/proc/self/maps")?.lines() {
        let (range, rest) = line.split_once(' ').expect("a range first");
        if !rest.starts_with("rw") || rest.ends_with("[stack]") {
            continue;
        }
        let (from, to) = range.split_once('-').expect("two addresses");
        let number = |text| u64::from_str_radix(text, 16).expect("a hexadecimal address");
        let (mut at, to) = (number(from), number(to));
        while at < to {
            let len = usize::try_from(to - at).unwrap_or(usize::MAX).min(buffer.len());
            let own = buffer.as_ptr().addr() as u64;
            // Neither the buffer itself, nor secret pages, which nobody reads this way.
            if at + len as u64 > own && at < own + buffer.len() as u64 {
                let behind = own + buffer.len() as u64;
                let before = usize::try_from(own.saturating_sub(at)).unwrap_or(0);
                if before > 0 && memory.read_exact_at(&mut buffer[..before], at).is_ok() {
                    found += count(&buffer[..before], mark);
                }
                at = behind;
                continue;
            }
            if memory.read_exact_at(&mut buffer[..len], at).is_ok() {
                found += count(&buffer[..len], mark);
            }
            at += len as u64;
        }
    }
    Ok(found)
}

fn count(bytes: &[u8], mark: &[u8]) -> usize {
    bytes.windows(mark.len()).filter(|some| *some == mark).count()
}

/// Another process of the same user, at the victim's memory.
fn attack(how: &str, pid: libc::pid_t, address: usize) -> io::Result<String> {
    let mut bytes = [0_u8; 32];
    match how {
        "ptrace" => {
            let none = std::ptr::null_mut::<libc::c_void>();
            // SAFETY: attaches to another process and waits until it stands; no memory of ours is
            // touched. The tracer's end lets it go.
            unsafe {
                if libc::ptrace(libc::PTRACE_ATTACH, pid, none, none) < 0 {
                    return Err(io::Error::last_os_error());
                }
                libc::waitpid(pid, std::ptr::null_mut(), 0);
                for (at, word) in bytes.chunks_mut(8).enumerate() {
                    let from = (address + at * 8) as *mut libc::c_void;
                    let read = libc::ptrace(libc::PTRACE_PEEKDATA, pid, from, none);
                    word.copy_from_slice(&read.to_ne_bytes());
                }
                libc::ptrace(libc::PTRACE_DETACH, pid, none, none);
            }
        }
        "mem" => {
            fs::File::open(format!("/proc/{pid}/mem"))?
                .read_exact_at(&mut bytes, address as u64)?;
        }
        "vm_readv" => {
            let to = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
            let from = libc::iovec { iov_base: address as *mut _, iov_len: bytes.len() };
            // SAFETY: `to` is `bytes`, which outlives the call; `from` lies in another process, and
            // the kernel checks it there.
            errno(unsafe { libc::process_vm_readv(pid, &raw const to, 1, &raw const from, 1, 0) }
                as _)?;
        }
        "environ" => return fs::read(format!("/proc/{pid}/environ")).map(|_| String::new()),
        "descriptors" => return fs::read_dir(format!("/proc/{pid}/fd")).map(|_| String::new()),
        "getfd" => {
            // SAFETY: both calls take numbers; the descriptor that they make ends with this process.
            let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
            // SAFETY: as above.
            return errno(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd, 0, 0) });
        }
        other => panic!("not understood: {other}"),
    }
    Ok(format!("{}", bytes == [0x5a; 32]))
}

/// Has another process open a file to read, from inside: what it may not, it is refused there. It
/// goes on afterwards as if nothing had been.
#[cfg(target_arch = "x86_64")]
fn inject(pid: libc::pid_t, path: &str) -> io::Result<String> {
    use std::mem::MaybeUninit;
    let ask = |request: libc::c_uint, data: *mut libc::c_void| {
        // SAFETY: `data` is null, or a whole user_regs_struct of ours.
        errno(unsafe { libc::ptrace(request, pid, std::ptr::null_mut::<u8>(), data) })
    };
    // SAFETY: waits for that process alone; no status is written.
    let stopped = || unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
    let none = std::ptr::null_mut();
    ask(libc::PTRACE_ATTACH, none)?;
    stopped();
    let mut registers = MaybeUninit::<libc::user_regs_struct>::uninit();
    ask(libc::PTRACE_GETREGS, registers.as_mut_ptr().cast())?;
    // SAFETY: the kernel has filled it.
    let before = unsafe { registers.assume_init() };
    let memory = fs::File::options().read(true).write(true).open(format!("/proc/{pid}/mem"))?;
    let mut instruction = [0; 2];
    memory.read_exact_at(&mut instruction, before.rip - 2)?;
    if instruction != [0x0f, 0x05] {
        return Err(io::Error::other("it does not wait in a system call"));
    }
    // Below what the stack is used for.
    let place = (before.rsp - 4096) & !15;
    memory.write_all_at(format!("{path}\0").as_bytes(), place)?;
    let call = |number: libc::c_long, one: u64, two: u64| -> io::Result<i64> {
        let mut now = before;
        (now.rip, now.orig_rax, now.rax) = (before.rip - 2, u64::MAX, number.cast_unsigned());
        (now.rdi, now.rsi, now.rdx, now.r10) = (one, two, 0, 0);
        ask(libc::PTRACE_SETREGS, (&raw mut now).cast())?;
        ask(libc::PTRACE_SINGLESTEP, none)?;
        stopped();
        ask(libc::PTRACE_GETREGS, (&raw mut now).cast())?;
        Ok(now.rax.cast_signed())
    };
    let opened = call(libc::SYS_openat, i64::from(libc::AT_FDCWD).cast_unsigned(), place);
    if let Ok(descriptor @ 0..) = opened {
        call(libc::SYS_close, descriptor.cast_unsigned(), 0)?;
    }
    let mut before = before;
    ask(libc::PTRACE_SETREGS, (&raw mut before).cast())?;
    ask(libc::PTRACE_DETACH, none)?;
    match opened? {
        0.. => Ok(String::new()),
        failed => Err(io::Error::from_raw_os_error(i32::try_from(-failed).unwrap_or(0))),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn inject(_: libc::pid_t, _: &str) -> io::Result<String> {
    Err(io::Error::other("not written for this processor"))
}

/// Forks the helper, hardens, and has the helper do what it may not do any more.
fn helper() {
    let mut stream = harden::fork_helper(|mut stream| {
        let mut request = [0; 1];
        while stream.read_exact(&mut request).is_ok() {
            let text = match request[0] {
                b'?' => {
                    let link = |fd: &str| {
                        let target = fs::read_link(format!("/proc/self/fd/{fd}"));
                        target.map(|t| t.display().to_string()).unwrap_or_default()
                    };
                    let mut open: Vec<String> = fs::read_dir("/proc/self/fd")
                        .expect("its own descriptors")
                        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                        .collect();
                    open.sort();
                    // The listing's own is among them.
                    let count = open.len() - 1;
                    format!("{} {} {} {count}", std::process::id(), link("0"), link("1"))
                }
                b'x' => {
                    let ran = Command::new("/bin/sh").args(["-c", "exit 7"]).status();
                    format!("{:?}", ran.ok().and_then(|status| status.code()))
                }
                b'p' => panic!("asked for"),
                // Hears nothing any more.
                b's' => {
                    stream.write_all(b"asleep\n").expect("the parent listens");
                    std::thread::sleep(Duration::from_secs(600));
                    continue;
                }
                _ => return 3,
            };
            stream.write_all(format!("{text}\n").as_bytes()).expect("the parent listens");
        }
        0
    })
    .expect("a helper");
    harden(&[]).expect("hardened");
    let mut reader = io::BufReader::new(stream.try_clone().expect("a second handle"));
    say(format!("ready {}", std::process::id()));
    for line in io::stdin().lock().lines() {
        let line = line.expect("the input is text");
        if line == "hang up" {
            stream.shutdown(std::net::Shutdown::Both).expect("an open socket");
            say("done");
            continue;
        }
        let mut back = String::new();
        let told = stream.write_all(line.as_bytes()).and_then(|()| reader.read_line(&mut back));
        match told {
            Ok(0) => say("gone"),
            Ok(_) => say(back.trim_end()),
            Err(error) => say(format!("gone {:?}", error.kind())),
        }
    }
}

/// What must be called alone, called beside another thread.
fn threads() {
    let (stop, wait) = std::sync::mpsc::channel::<()>();
    let other = std::thread::spawn(move || wait.recv());
    let refused = [
        harden::drop_capabilities().is_err(),
        harden::landlock(&Confinement::default()).is_err(),
        harden::fork_helper(|_| 0).is_err(),
    ];
    drop(stop);
    let _ = other.join();
    say(format!("{refused:?}"));
}
