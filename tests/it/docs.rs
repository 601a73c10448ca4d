//! Documents that say what the program says are made from it: `UPDATE_DOCS=1 cargo test docs::`
//! writes them, and without it they must be current.
use std::fmt::Write as _;
use std::path::Path;

use crate::home::Home;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn held(path: &str, made: &str) {
    let path = root().join(path);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, made).unwrap();
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(there == made, "{} is not current: UPDATE_DOCS=1 cargo test docs::", path.display());
}

#[test]
fn the_page_of_commands_is_what_help_says() {
    let home = Home::new();
    let overview = home.run(&["--help"]).exits(0).stdout;
    let mut page = String::from(
        "# Commands\n\nMade from `agentkeys --help` and `agentkeys <command> --help`.\n\n",
    );
    write!(page, "```text\n{}\n```\n", overview.trim_end()).unwrap();
    // Commands stand in the overview with two spaces before them.
    let commands: Vec<_> = overview
        .lines()
        .take_while(|line| !line.starts_with("Options of"))
        .filter_map(|line| line.strip_prefix("  "))
        .filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase()))
        .filter_map(|line| line.split("  ").next())
        .collect();
    assert!(commands.len() >= 22, "{commands:?} in {overview}");
    for command in commands {
        // Some have two words.
        let words: Vec<&str> = command.split(' ').chain(["--help"]).collect();
        let help = home.run(&words).exits(0).stdout;
        write!(page, "\n## {command}\n\n```text\n{}\n```\n", help.trim_end()).unwrap();
    }
    held("docs/cli.md", &page);
}

#[test]
fn every_link_of_the_documents_leads_somewhere() {
    let mut pages = vec![root().join("README.md"), root().join("CHANGELOG.md")];
    for entry in std::fs::read_dir(root().join("docs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "md") {
            pages.push(path);
        }
    }
    let mut checked = 0;
    for page in pages {
        let text = std::fs::read_to_string(&page).unwrap();
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split(')').next().unwrap();
            if target.starts_with("http") || target.starts_with('#') {
                continue;
            }
            let file = page.parent().unwrap().join(target.split('#').next().unwrap());
            assert!(file.exists(), "{} links to {target}, which is not there", page.display());
            checked += 1;
        }
    }
    assert!(checked >= 8, "only {checked} links were found");
}
