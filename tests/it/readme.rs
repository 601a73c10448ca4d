//! The README's quick start: every command of it is run as it stands there, in an empty home.
use std::path::Path;
use std::process::Command;

use crate::home::{BINARY, Home, Ran, copy_program};

/// The shell blocks of a section, without comments and blank lines.
fn commands(section: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = std::fs::read_to_string(path).unwrap();
    let begin = text.find(&format!("## {section}\n")).unwrap_or_else(|| panic!("no {section}"));
    let rest = &text[begin + 3..];
    let section = &rest[..rest.find("\n## ").unwrap_or(rest.len())];
    let mut found = Vec::new();
    let mut parts = section.split("```sh\n");
    parts.next();
    for part in parts {
        let block = part.split("```").next().unwrap();
        for line in block.lines() {
            let command = line.split(" # ").next().unwrap().trim();
            if !command.is_empty() && !command.starts_with('#') {
                found.push(command.to_owned());
            }
        }
    }
    found
}

#[test]
fn quickstart_valid() {
    let home = Home::new();
    let bin = home.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    copy_program(BINARY, bin.join("agentkeys"));
    let folder = home.path().join("work");
    std::fs::create_dir(&folder).unwrap();
    let run = |line: &str, input: &str| {
        let mut shell = Command::new("sh");
        let piped = format!("printf %s \"$INPUT\" | {{ {line}\n}}");
        shell.args(["-c", if input.is_empty() { line } else { &piped }]).env_clear();
        shell.env("HOME", home.path()).env("INPUT", input).current_dir(&folder);
        shell.env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", bin.display()));
        Ran::of(shell.stdin(std::process::Stdio::null()).output().unwrap())
    };
    // How the binary is built is the test command's own first step: this is that build.
    let two = commands("Two commands");
    assert_eq!(two, ["cargo run --release -- quickstart", "scripts/test"]);
    run("agentkeys quickstart", "").exits(0);

    let all = commands("The loop");
    let mut ran = Vec::new();
    for line in &all {
        if line.starts_with("cargo install ") || line.contains("provisioner set") {
            // The first would build all of this again; the other wants a key of a real service,
            // and is run by tests/e2e/provision-api.sh.
            continue;
        }
        let ended = match line.as_str() {
            "agentkeys store my-agent openrouter" => {
                // Asked for at a terminal; here it comes by a pipe, as the line's comment says.
                run(&format!("{line} -"), "sk-or-v1-readme").exits(0)
            }
            // Once it is let, and once it is denied.
            line if line.starts_with("agentkeys run ") => run(line, ""),
            line => run(line, "").exits(0),
        };
        ran.push((line.clone(), ended));
    }
    let runs: Vec<&Ran> = ran
        .iter()
        .filter(|(line, _)| line.starts_with("agentkeys run"))
        .map(|(_, ran)| ran)
        .collect();
    // As the comments there say: the program has a placeholder, then it finds the key, and then it
    // is denied with code 3.
    assert_eq!(runs[0].code, 0, "{}", runs[0].stderr);
    assert!(runs[0].stdout.starts_with("sk-or-") && !runs[0].stdout.contains("readme"));
    assert_eq!((runs[1].code, runs[1].stdout.trim_end()), (0, "sk-or-v1-readme"));
    assert_eq!(runs[2].code, 3, "{}", runs[2].stderr);
    assert!(runs[2].stderr.contains("access denied"), "{}", runs[2].stderr);
    assert!(ran.len() >= 6, "{all:?}");
}
