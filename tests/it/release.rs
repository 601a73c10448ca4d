//! What a release is made by: one version for all of it, and a workflow that takes nothing but what
//! this tree has.
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::home::Ran;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A copy of what the version stands in, to make mistakes in.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("packaging")).unwrap();
        for file in [
            "Cargo.toml",
            "Cargo.lock",
            "CHANGELOG.md",
            "packaging/version.sh",
            "packaging/install.sh",
        ] {
            std::fs::copy(root().join(file), folder.path().join(file)).unwrap();
        }
        Self(folder)
    }

    fn replace(&self, file: &str, from: &str, to: &str) {
        let path = self.0.path().join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file}: {from}");
        std::fs::write(path, text.replacen(from, to, 1)).unwrap();
    }

    fn version(&self, words: &[&str]) -> Ran {
        let script: PathBuf = self.0.path().join("packaging/version.sh");
        Ran::of(Command::new(script).args(words).output().unwrap())
    }
}

#[test]
fn the_version_stands_in_one_place_and_what_does_not_fit_it_is_named() {
    let version = env!("CARGO_PKG_VERSION");
    let newest = |date: &str| format!("## {version}, {date}\n");
    let tree = Tree::new();
    assert_eq!(tree.version(&[]).exits(0).stdout.trim(), version);
    let heading = std::fs::read_to_string(tree.0.path().join("CHANGELOG.md")).unwrap();
    let heading = heading.lines().find(|line| line.starts_with("## ")).unwrap().to_owned() + "\n";

    // A release: its tag, a date, and the key that it is signed by.
    tree.version(&["v9.9.9"]).exits(1).says("the tag is v9.9.9");
    tree.replace("CHANGELOG.md", &heading, &newest("not yet released"));
    let tag = format!("v{version}");
    tree.version(&[&tag]).exits(1).says("wants its date there");
    tree.replace("CHANGELOG.md", &newest("not yet released"), &newest("2026-12-01"));
    tree.version(&[&tag]).exits(1).says("no release key");
    tree.replace("packaging/install.sh", "release_key=''", "release_key='-----BEGIN'");
    assert_eq!(tree.version(&[&tag]).exits(0).stdout.trim(), version);

    let in_lock = format!("name = \"agentkeys\"\nversion = \"{version}\"");
    tree.replace("Cargo.lock", &in_lock, "name = \"agentkeys\"\nversion = \"9.9.9\"");
    tree.version(&[]).exits(1).says("Cargo.lock has another version");
    let tree = Tree::new();
    tree.replace("CHANGELOG.md", &heading, "## 9.9.9, 2026-12-01\n");
    tree.version(&[]).exits(1).says("the changelog begins with \"9.9.9");
}

#[test]
fn the_workflow_runs_what_is_here_and_takes_actions_by_their_commits() {
    let text = std::fs::read_to_string(root().join(".github/workflows/release.yml")).unwrap();
    let mut scripts = 0;
    for word in text.split(|c: char| c.is_whitespace() || c == '"') {
        if word.starts_with("packaging/") && (word.ends_with(".sh") || word.ends_with(".mjs")) {
            assert!(root().join(word).is_file(), "there is no {word}");
            scripts += 1;
        }
    }
    assert!(scripts >= 7, "{scripts}");
    let actions: Vec<&str> = text
        .lines()
        .filter_map(|line| line.trim().trim_start_matches("- ").strip_prefix("uses: "))
        .collect();
    assert!(actions.len() >= 8);
    for action in actions {
        let commit = action.split(['@', ' ']).nth(1).unwrap();
        let is_commit = commit.len() == 40 && commit.bytes().all(|c| c.is_ascii_hexdigit());
        assert!(is_commit, "{action}: a tag can be moved, a commit cannot");
    }
    // No job has a right that it does not name.
    assert!(text.contains("\npermissions: {}\n"));
    // The key reaches one step, and no command line.
    assert_eq!(text.matches("secrets.").count(), 1);
}
