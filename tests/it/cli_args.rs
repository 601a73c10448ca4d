//! From raw arguments to a command: what argh gets wrong put right, and no value ever repeated.
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use agentkeys::cli::args::{Asked, Global};
use agentkeys::cli::{COMMANDS, Invocation};
use agentkeys::core::problem::{Code, Problem};

fn read(words: &[&str]) -> Result<(Global, Asked), Problem> {
    let line = words.iter().map(Into::into).collect();
    Invocation::read(line).map(|read| (read.global, read.asked))
}

fn words(line: &[&str]) -> Vec<String> {
    match read(line).unwrap_or_else(|problem| panic!("{line:?}: {problem:?}")).1 {
        Asked::Command { words, .. } => words,
        asked => panic!("{line:?} asks for {asked:?}"),
    }
}

fn refused(line: &[&str]) -> Problem {
    let problem = read(line).map(|read| read.1).expect_err("it is refused");
    assert_eq!(problem.code, Code::Invalid, "{line:?}");
    assert!(!problem.fix.is_empty() && !problem.cause.is_empty(), "{line:?}");
    problem
}

#[test]
fn a_dash_and_the_word_help_are_values_like_any_other() {
    assert_eq!(words(&["store", "a", "b", "-"]), ["--", "a", "b", "-"]);
    assert_eq!(words(&["store", "help", "help", "help"]), ["--", "help", "help", "help"]);
    assert_eq!(words(&["read", "a", "help"]), ["--", "a", "help"]);
    assert_eq!(words(&["link", "a", "--alias", "help"]), ["--alias", "help", "--", "a"]);
    assert_eq!(
        words(&["store", "a", "b", "--from-file", "-"]),
        ["--from-file", "-", "--", "a", "b"]
    );
}

#[test]
fn an_option_and_its_value_may_be_one_word_or_two() {
    let two = words(&["store", "--from-env", "X", "a", "b"]);
    assert_eq!(words(&["store", "--from-env=X", "a", "b"]), two);
    assert_eq!(words(&["store", "a", "b", "--from-env=X"]), two);
    assert_eq!(words(&["run", "--env=A=b"]), ["--env", "A=b", "--"]);
    // A value that begins with dashes wants the = form.
    assert_eq!(words(&["store", "--from-file=--x", "a"]), ["--from-file", "--x", "--", "a"]);
    assert!(refused(&["store", "--from-file", "--json"]).detail.contains("--from-file"));
    assert!(refused(&["store", "a", "--from-file"]).detail.contains("--from-file"));
    assert!(refused(&["list", "--json=yes"]).detail.contains("--json"));
    assert!(refused(&["teardown", "a", "--yes=no"]).detail.contains("--yes"));
}

#[test]
fn what_stands_behind_the_first_dashes_is_the_program_as_it_is() {
    let tail =
        [b"sh".to_vec(), b"--".to_vec(), b"--json".to_vec(), b"\xff\xfe".to_vec(), b"".to_vec()];
    let mut line: Vec<OsString> = vec!["run".into(), "a".into(), "--".into()];
    line.extend(tail.iter().cloned().map(OsString::from_vec));
    let read = Invocation::read(line).unwrap();
    assert!(!read.global.json);
    let expected: Vec<OsString> = tail.into_iter().map(OsString::from_vec).collect();
    assert_eq!(
        read.asked,
        Asked::Command { name: "run", words: vec!["--".into(), "a".into()], tail: Some(expected) }
    );
}

#[test]
fn for_other_commands_the_dashes_only_end_the_options() {
    assert_eq!(words(&["store", "a", "b", "--", "--x"]), ["--", "a", "b", "--x"]);
    assert_eq!(words(&["read", "--", "a", "--json"]), ["--", "a", "--json"]);
}

#[test]
fn global_options_stand_anywhere_before_the_dashes() {
    let global = Global { json: true, verbose: true, backend: Some("unix:/x".into()) };
    for line in [
        &["--json", "--verbose", "--backend", "unix:/x", "list"][..],
        &["list", "--backend=unix:/x", "--json", "-v"],
        &["--json", "list", "--verbose", "a", "--backend", "unix:/x"],
    ] {
        assert_eq!(read(line).unwrap().0, global, "{line:?}");
    }
    assert!(refused(&["--backend", "a", "list", "--backend", "b"]).detail.contains("twice"));
}

#[test]
fn help_and_version_are_asked_for_in_every_way_that_people_try() {
    for (line, name) in [
        (&["--help"][..], None),
        (&["-h"], None),
        (&["help"], None),
        (&["help", "store"], Some("store")),
        (&["store", "--help"], Some("store")),
        (&["store", "a", "b", "-h"], Some("store")),
        (&["--help", "store"], Some("store")),
        (&["audit", "--help"], Some("audit verify")),
        (&["audit", "verify", "--help"], Some("audit verify")),
        (&["help", "audit", "verify"], Some("audit verify")),
        (&["run", "--help", "--", "x"], Some("run")),
    ] {
        assert_eq!(read(line).unwrap().1, Asked::Help(name), "{line:?}");
    }
    for line in [&["--version"][..], &["-V"], &["list", "--version"]] {
        assert_eq!(read(line).unwrap().1, Asked::Version, "{line:?}");
    }
    assert_eq!(read(&[]).unwrap().1, Asked::Nothing);
    assert_eq!(read(&["--json"]).unwrap().1, Asked::Nothing);
    // Behind the dashes they belong to the program.
    assert!(matches!(read(&["run", "--", "x", "--help"]).unwrap().1, Asked::Command { .. }));
}

#[test]
fn a_mistyped_command_or_option_names_the_near_one() {
    for (line, near) in [
        (&["stroe"][..], "agentkeys store"),
        (&["reinstat", "a"], "agentkeys reinstate"),
        (&["store", "a", "b", "--from-fil", "x"], "--from-file"),
        (&["usage", "--folow"], "--follow"),
        (&["--verbsoe", "list"], "--verbose"),
        (&["--from-file", "x", "store"], "behind the command"),
    ] {
        assert!(refused(line).fix.contains(near), "{line:?}: {}", refused(line).fix);
    }
    assert!(refused(&["audit"]).fix.contains("agentkeys audit verify"));
    assert!(refused(&["audit", "verfy"]).fix.contains("agentkeys audit verify"));
}

#[test]
fn an_option_that_is_taken_once_is_refused_twice_and_one_that_repeats_is_not() {
    assert!(refused(&["store", "--from-env", "A", "--from-env", "B"]).detail.contains("twice"));
    assert_eq!(
        words(&["run", "--env", "A=b", "--env", "C=d"]),
        ["--env", "A=b", "--env", "C=d", "--"]
    );
    assert!(refused(&["init", "now"]).detail.contains("init"));
}

/// Whatever stands anywhere on a line, no error repeats it when it could be a key.
#[test]
fn no_error_repeats_what_could_be_a_key() {
    fn holds(command: usize, before: Vec<u8>, at: usize, dashes: u8) -> bool {
        let name = COMMANDS[command % COMMANDS.len()].shape.name;
        let key = format!("{}sK9Q-secret_42/x", "-".repeat(usize::from(dashes % 3)));
        let choices = ["--from-env", "--env", "--json", "a", "--scope", "--name", "-", "--", "b"];
        let mut line: Vec<String> = before
            .iter()
            .take(6)
            .map(|b| choices[usize::from(*b) % choices.len()].into())
            .collect();
        line.insert(at % (line.len() + 1), key);
        line.splice(0..0, name.split(' ').map(str::to_owned));
        let said = match Invocation::read(line.into_iter().map(Into::into).collect()) {
            Ok(_) => String::new(),
            Err(problem) => format!("{problem:?}"),
        };
        !said.contains("secret")
    }
    quickcheck::QuickCheck::new()
        .tests(2_000)
        .quickcheck(holds as fn(usize, Vec<u8>, usize, u8) -> bool);
}

/// Any arguments at all are read or refused; values behind `--` and behind `=` come through.
#[test]
fn any_line_is_read_or_refused_and_values_come_through() {
    fn any(line: Vec<Vec<u8>>) -> bool {
        let _ = Invocation::read(line.into_iter().map(OsString::from_vec).collect());
        true
    }
    fn positional(value: String) -> bool {
        words(&["store", "a", "b", "--", &value]).last() == Some(&value)
    }
    fn optional(value: String) -> bool {
        let option = format!("--from-env={value}");
        let plain = words(&["store", "a", &option]);
        plain == ["--from-env", &value, "--", "a"]
    }
    quickcheck::QuickCheck::new().tests(2_000).quickcheck(any as fn(Vec<Vec<u8>>) -> bool);
    quickcheck::quickcheck(positional as fn(String) -> bool);
    quickcheck::quickcheck(optional as fn(String) -> bool);
}

/// Each place that errors point to is there, and none is there for nothing.
#[test]
fn every_error_leads_to_a_section_of_the_documentation() {
    let docs = include_str!("../../docs/errors.md");
    let sections: Vec<&str> = docs.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    for code in Code::ALL {
        assert!(sections.contains(&code.anchor()), "no section for {}", code.anchor());
    }
    let mut folders = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
    let mut found = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            for (at, mark) in text.match_indices("docs/errors.md#") {
                let anchor: String = text[at + mark.len()..]
                    .chars()
                    .take_while(|c| c.is_ascii_lowercase() || *c == '_')
                    .collect();
                if !anchor.is_empty() {
                    found += 1;
                    assert!(sections.contains(&anchor.as_str()), "{anchor} in {}", path.display());
                }
            }
        }
    }
    assert!(found > 5, "the sources were not found");
}
