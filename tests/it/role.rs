//! Which role a name and a first argument give, as a table and through a real link.
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::process::Command;

use agentkeys::role::{Role, UnknownFirst, role_of};

use crate::home::BINARY;

/// `argv[0]`, the first argument, and the role that they name.
type Case<'a> = (Option<&'a OsStr>, Option<&'a OsStr>, Result<Role, UnknownFirst>);

#[test]
fn name_and_first_argument_give_the_role_by_exact_match() {
    let odd = OsStr::from_bytes(b"agent\xffkeys");
    let table: &[Case<'_>] = &[
        (Some("agentkeys".as_ref()), Some("store".as_ref()), Ok(Role::Cli)),
        (Some("/usr/bin/agentkeys".as_ref()), Some("serve".as_ref()), Ok(Role::Backend)),
        (Some("./agentkeys".as_ref()), Some("audit".as_ref()), Ok(Role::Cli)),
        (Some("agentkeys".as_ref()), Some("help".as_ref()), Ok(Role::Cli)),
        (Some("agentkeys".as_ref()), None, Ok(Role::Cli)),
        // Options may come first; the command behind them is read later.
        (Some("agentkeys".as_ref()), Some("--json".as_ref()), Ok(Role::Cli)),
        (Some("agentkeys".as_ref()), Some("--".as_ref()), Ok(Role::Cli)),
        // A copy under any other name is the same program, whatever it is called.
        (Some("agentkeys-1.2".as_ref()), Some("list".as_ref()), Ok(Role::Cli)),
        (Some("agentkeys.exe".as_ref()), Some("list".as_ref()), Ok(Role::Cli)),
        (Some("serve".as_ref()), Some("list".as_ref()), Ok(Role::Cli)),
        (Some("".as_ref()), Some("serve".as_ref()), Ok(Role::Backend)),
        (Some("/".as_ref()), Some("serve".as_ref()), Ok(Role::Backend)),
        (Some(odd), Some("list".as_ref()), Ok(Role::Cli)),
        (None, Some("list".as_ref()), Ok(Role::Cli)),
        (None, None, Ok(Role::Cli)),
        // Exactly, or not at all.
        (Some("agentkeys".as_ref()), Some("Store".as_ref()), Err(UnknownFirst)),
        (Some("agentkeys".as_ref()), Some("stor".as_ref()), Err(UnknownFirst)),
        (Some("agentkeys".as_ref()), Some("audit verify".as_ref()), Err(UnknownFirst)),
        (Some("agentkeys".as_ref()), Some("verify".as_ref()), Err(UnknownFirst)),
        (Some("agentkeys".as_ref()), Some("".as_ref()), Err(UnknownFirst)),
        (Some("agentkeys".as_ref()), Some(odd), Err(UnknownFirst)),
    ];
    for (name, first, role) in table {
        assert_eq!(role_of(*name, *first), *role, "{name:?} {first:?}");
    }
}

fn run(program: &std::path::Path, args: &[OsString]) -> (Option<i32>, String, String) {
    let home = tempfile::tempdir().unwrap();
    let output =
        Command::new(program).args(args).env_clear().env("HOME", home.path()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_link_of_any_name_is_the_same_program() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["agentkeys", "ak", "serve"] {
        let link = folder.path().join(name);
        symlink(BINARY, &link).unwrap();
        let (code, stdout, stderr) = run(&link, &["--version".into()]);
        assert_eq!((code, stderr.as_str()), (Some(0), ""));
        assert_eq!(stdout, format!("agentkeys {} (wire 1)\n", env!("CARGO_PKG_VERSION")));
    }
}

#[test]
fn an_unknown_first_argument_names_the_choices_and_the_near_ones() {
    let (code, stdout, stderr) = run(BINARY.as_ref(), &["stroe".into()]);
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    for part in ["error: there is no command \"stroe\"", "did you mean agentkeys store?", "revoke"]
    {
        assert!(stderr.contains(part), "no {part:?} in {stderr}");
    }
    let (code, stdout, _) = run(BINARY.as_ref(), &["stroe".into(), "--json".into()]);
    let problem: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &problem["code"]), (Some(2), &"INVALID".into()));
}

#[test]
fn an_argument_that_is_not_utf8_is_refused_and_not_repeated() {
    let odd = OsStr::from_bytes(b"sk-secret\xff").to_owned();
    for args in [vec![odd.clone()], vec!["store".into(), "a".into(), "b".into(), odd]] {
        let (code, _, stderr) = run(BINARY.as_ref(), &args);
        assert_eq!(code, Some(2), "{stderr}");
        assert!(!stderr.contains("secret"), "{stderr}");
    }
}

#[test]
fn standard_output_that_is_closed_is_no_crash() {
    let output = Command::new("sh")
        .args(["-c", &format!("({BINARY} --help; echo \"code $?\" >&2) | true")])
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr == "code 1\n" || stderr == "code 0\n", "{stderr}");
}

#[test]
fn the_daemon_s_names_are_the_daemon_whatever_stands_behind_them() {
    for name in ["agentkeysd", "/usr/local/bin/agentkeysd", "agentkeys-daemon"] {
        for first in [None, Some("--recover"), Some("daemon"), Some("store"), Some("")] {
            let role = role_of(Some(name.as_ref()), first.map(OsStr::new));
            assert_eq!(role, Ok(Role::Daemon), "{name} {first:?}");
        }
    }
    assert_eq!(role_of(Some("agentkeys".as_ref()), Some("daemon".as_ref())), Ok(Role::Daemon));
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("agentkeysd");
    symlink(BINARY, &link).unwrap();
    let (code, stdout, _) = run(&link, &["--help".into()]);
    assert_eq!(code, Some(0));
    assert!(stdout.contains("agentkeys daemon --recover my-bot"), "{stdout}");
    let (code, _, stderr) = run(&link, &["--no-such-option".into()]);
    assert_eq!(code, Some(2), "{stderr}");
}
