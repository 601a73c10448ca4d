//! Runs a program as if the kernel lacked some calls, for tests of what is best effort.
//!
//! `lacking landlock,memfd_secret,seccomp PROGRAM [ARG]...` answers `ENOSYS` to the calls named, for
//! the program and all that it starts, and becomes the program. The filter sets no new privileges
//! too, so a test of that mechanism does not use it.
use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::process::Command;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};

const USAGE: &str = "usage: lacking landlock,memfd_secret,seccomp PROGRAM [ARG]...";

fn main() {
    let mut args = std::env::args_os().skip(1);
    let names = args.next().expect(USAGE);
    let program = args.next().expect(USAGE);
    let calls = names.to_str().expect(USAGE).split(',').map(|name| match name {
        "landlock" => libc::SYS_landlock_create_ruleset,
        "memfd_secret" => libc::SYS_memfd_secret,
        "seccomp" => libc::SYS_seccomp,
        other => panic!("{other} is none of the calls that can be taken away. {USAGE}"),
    });
    let filter = SeccompFilter::new(
        calls.map(|call| (call, vec![])).collect::<BTreeMap<_, _>>(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS.cast_unsigned()),
        TargetArch::try_from(std::env::consts::ARCH).expect("an architecture with filters"),
    )
    .expect("two different actions");
    let filter = BpfProgram::try_from(filter).expect("a short filter");
    apply_filter(&filter).expect("this kernel takes filters");
    let error = Command::new(&program).args(args).exec();
    panic!("{} does not start: {error}", program.display());
}
