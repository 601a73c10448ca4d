//! What `doctor` makes of the MCP clients' configuration files: whether AgentKeys is in them and can
//! be started from there, and which keys still lie in them. Shows names, and no value.
use std::path::Path;

use super::pasted;
use super::session::Fact;
use crate::client::wiring::{App, ConfigFile, Server};

/// The lines of every client that has a file.
pub fn facts() -> Vec<Fact> {
    let variable = |name: &str| std::env::var_os(name);
    let files = App::ALL.into_iter().filter_map(|app| Some((app, app.file(variable).ok()?)));
    files.flat_map(|(app, file)| of_file(app, &file)).collect()
}

fn of_file(app: App, file: &Path) -> Vec<Fact> {
    let word = app.word();
    let shown = file.display();
    let unreadable = |why: &str| {
        let found = format!("{shown} cannot be read: {why}");
        vec![Fact::warning(word, found, "correct the file; until then it is not wired")]
    };
    let read = match ConfigFile::read(file) {
        Ok(read) => read,
        Err(problem) => return unreadable(&problem.cause),
    };
    let Some(text) = read.text() else { return Vec::new() };
    let servers = match app.servers(text) {
        Ok(servers) => servers,
        Err(problem) => return unreadable(&problem.cause),
    };
    let mut out = Vec::new();
    let mut wired = false;
    for (name, server) in &servers {
        if is_daemon(server) {
            wired = true;
            out.push(ours(word, name, server, file, &format!("agentkeys wire {word}")));
        } else if program(server) == "agentkeys" {
            out.push(ours(word, name, server, file, "install agentkeys there again"));
        }
        let keys: Vec<&str> = server
            .env
            .iter()
            .filter(|(variable, value)| {
                pasted::stands_there(value) && pasted::service_of(variable).is_some()
            })
            .map(|(variable, _)| variable.as_str())
            .collect();
        if !keys.is_empty() {
            out.push(Fact::warning(
                word,
                format!("{} of the server \"{name}\" lies in {shown}", keys.join(", ")),
                format!("agentkeys wire {word} --server {name}"),
            ));
        }
    }
    if !wired {
        let found = format!("{shown} has no agentkeys in it; agentkeys wire {word} puts it there");
        out.insert(0, Fact::good(word, found));
    }
    out
}

fn program(server: &Server) -> &str {
    Path::new(&server.command).file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// Whether an entry starts the daemon, however it was installed.
fn is_daemon(server: &Server) -> bool {
    match program(server) {
        "agentkeysd" | "agentkeys-daemon" => true,
        "agentkeys" => server.args.first().is_some_and(|first| first == "daemon"),
        _ => server.args.iter().any(|word| word.split('@').nth(1) == Some("agentkeys/daemon")),
    }
}

/// An entry that starts us; one by name alone is looked for by the client, in a PATH of its own.
fn ours(word: &str, name: &str, server: &Server, file: &Path, fix: &str) -> Fact {
    let (command, file) = (&server.command, file.display());
    if Path::new(command).is_absolute() && !Path::new(command).is_file() {
        let found = format!("\"{name}\" in {file} starts {command}, which is not there");
        return Fact::broken(word, found, fix);
    }
    Fact::good(word, format!("\"{name}\" in {file} starts {command}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::session::Health;

    fn looked_at(app: App, text: &str) -> Vec<Fact> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, text).unwrap();
        of_file(app, &file)
    }

    #[test]
    fn an_entry_that_cannot_start_and_a_key_that_lies_there_are_told_by_name() {
        let facts = looked_at(
            App::Cursor,
            r#"{"mcpServers": {
                "agentkeys": {"command": "/nowhere/agentkeys", "args": ["daemon", "--name", "b"]},
                "github": {"command": "npx", "args": ["x"], "env": {"GITHUB_TOKEN": "ghp_value"}},
                "fine": {"command": "npx", "env": {"GITHUB_TOKEN": "${GITHUB_TOKEN}"}}
            }}"#,
        );
        assert_eq!(facts.len(), 2, "{facts:?}");
        assert_eq!(facts[0].health, Health::Broken);
        assert!(facts[0].found.contains("/nowhere/agentkeys, which is not there"));
        assert_eq!(facts[0].fix.as_deref(), Some("agentkeys wire cursor"));
        assert_eq!(facts[1].health, Health::Warning);
        assert!(facts[1].found.contains("GITHUB_TOKEN of the server \"github\""));
        assert_eq!(facts[1].fix.as_deref(), Some("agentkeys wire cursor --server github"));
        assert!(!format!("{facts:?}").contains("ghp_value"));
    }

    #[test]
    fn the_daemon_is_known_however_it_was_installed() {
        for entry in [
            r#"{"command": "/bin/true/../agentkeysd"}"#,
            r#"{"command": "npx", "args": ["-y", "@agentkeys/daemon@1.0.0"]}"#,
            r#"{"command": "agentkeys", "args": ["daemon"]}"#,
        ] {
            let server: serde_json::Value = serde_json::from_str(entry).unwrap();
            let text = serde_json::json!({ "mcpServers": { "keys": server } }).to_string();
            let facts = looked_at(App::ClaudeDesktop, &text);
            assert_eq!(facts.len(), 1, "{facts:?}");
            assert!(facts[0].found.contains("starts"), "{facts:?}");
        }
        let facts = looked_at(App::Codex, "[mcp_servers.other]\ncommand = \"x\"\n");
        assert!(facts[0].found.contains("agentkeys wire codex puts it there"), "{facts:?}");
        let facts = looked_at(App::VsCode, "{");
        assert_eq!(facts[0].health, Health::Warning);
        let missing = of_file(App::Cursor, Path::new("/nowhere/mcp.json"));
        assert_eq!(missing, Vec::new());
    }
}
