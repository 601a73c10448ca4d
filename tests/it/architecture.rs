//! Holds the rules of `docs/ARCHITECTURE.md`: who may import whom, and what only one place does.
//! It reads the sources as text, comments and tests inside them apart.
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A source file: its path below `src/`, and its code without comments.
struct Source {
    path: String,
    text: String,
    code: String,
}

fn sources() -> Vec<Source> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&root, &mut found);
    assert!(found.len() > 50, "the sources were not found");
    found
        .iter()
        .map(|path| {
            let text = fs::read_to_string(path).unwrap();
            let code = text
                .lines()
                .map(|line| line.split("//").next().unwrap_or(""))
                .collect::<Vec<_>>()
                .join("\n");
            let path = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
            Source { path, text, code }
        })
        .collect()
}

/// The module right below the crate that a file belongs to.
fn module(path: &str) -> &str {
    path.split('/').next().unwrap().trim_end_matches(".rs")
}

/// The modules right below the crate that some code names.
fn imports(code: &str) -> BTreeSet<String> {
    let word = |text: &str| {
        text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>()
    };
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(group) => {
                let group = group.split('}').next().unwrap_or("");
                found.extend(group.split(',').map(|name| word(name.trim())));
            }
            None => {
                found.insert(word(rest));
            }
        }
    }
    found.remove("");
    found
}

#[test]
fn every_module_imports_only_what_it_may() {
    let may = |module: &str| -> &[&str] {
        match module {
            "core" => &[],
            "harden" => &["core"],
            "keyring" => &["core", "harden"],
            "web" => &["core"],
            "backend" | "client" => &["core", "harden", "keyring", "web"],
            "provisioner" => &["core", "client", "harden"],
            "cli" => &["core", "client", "harden", "provisioner"],
            "daemon" => &["core", "client", "harden", "keyring", "provisioner"],
            "role" => &[
                "core",
                "backend",
                "client",
                "cli",
                "daemon",
                "harden",
                "keyring",
                "provisioner",
                "web",
            ],
            "main" | "lib" => &["role"],
            other => panic!("src/{other} is not in the table of who may import whom"),
        }
    };
    let mut wrong = Vec::new();
    for source in sources() {
        let own = module(&source.path);
        for import in imports(&source.code) {
            if import != own && !may(own).contains(&import.as_str()) {
                wrong.push(format!("{} imports {import}", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Which files may hold a text in their code.
fn only_in(text: &str, may: impl Fn(&str) -> bool) {
    let wrong: Vec<_> = sources()
        .into_iter()
        .filter(|source| source.code.contains(text) && !may(&source.path))
        .map(|source| source.path)
        .collect();
    assert!(wrong.is_empty(), "`{text}` stands in {wrong:?}");
}

#[test]
fn one_file_knows_serde_cbor() {
    only_in("serde_cbor::", |path| path == "core/cbor.rs");
}

#[test]
fn only_the_stores_know_a_database() {
    only_in("sled::", |path| path.starts_with("backend/store/"));
}

#[test]
fn only_harden_writes_unsafe_and_calls_libc() {
    only_in("unsafe {", |path| path.starts_with("harden/"));
    only_in("unsafe fn", |path| path.starts_with("harden/"));
    only_in("libc::", |path| path.starts_with("harden/"));
}

#[test]
fn only_the_role_ends_the_process() {
    only_in("process::exit", |path| path == "role.rs");
    only_in("process::abort", |path| path == "role.rs");
}

#[test]
fn the_core_has_no_clock_no_randomness_and_no_files() {
    for text in
        ["SystemTime::now", "Instant::now", "SystemRandom", "std::fs", "std::net", "tokio::"]
    {
        only_in(text, |path| !path.starts_with("core/"));
    }
}

#[test]
fn the_vault_knows_neither_http_nor_a_database_nor_custody() {
    for text in ["hyper", "sled::", "custody", "std::fs", "std::net::Tcp"] {
        only_in(text, |path| !path.starts_with("backend/vault/"));
    }
}

#[test]
fn the_server_does_not_know_the_vault() {
    for text in ["vault::", "store::", "custody::"] {
        only_in(text, |path| !path.starts_with("backend/http/"));
    }
}

#[test]
fn every_file_says_what_it_owns_and_stays_readable() {
    for source in sources() {
        assert!(source.text.starts_with("//!"), "{} does not open with //!", source.path);
        let lines = source.text.lines().count();
        assert!(lines <= 600, "{} has {lines} lines: look for the seam", source.path);
    }
}

#[test]
fn nothing_unfinished_is_left() {
    for text in ["todo!(", "unimplemented!(", "dbg!("] {
        only_in(text, |_| false);
    }
}
