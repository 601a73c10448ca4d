//! The configuration files of MCP clients: where each of them lies, and how a server stands in it.
//! What else is in a file stays as it is, byte for byte.
//!
//! Must never repeat what a file holds in an error: tokens lie there.
mod file;
mod json;
mod record;
mod toml;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::core::problem::{Answer, Code, Problem};

pub use self::file::ConfigFile;
pub use self::record::{Moved, Record, Records, undone};

/// An MCP client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum App {
    /// Claude Code, the command line.
    ClaudeCode,
    /// Claude Desktop.
    ClaudeDesktop,
    /// Cursor.
    Cursor,
    /// Visual Studio Code.
    VsCode,
    /// Codex, the command line and its extension.
    Codex,
}

/// How a server stands in a client's file.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Server {
    /// The program.
    pub command: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// What is put into its environment.
    pub env: BTreeMap<String, String>,
}

impl App {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::ClaudeCode, Self::ClaudeDesktop, Self::Cursor, Self::VsCode, Self::Codex];

    /// Its word on the command line.
    pub const fn word(self) -> &'static str {
        match self {
            Self::ClaudeCode => "claude-code",
            Self::ClaudeDesktop => "claude-desktop",
            Self::Cursor => "cursor",
            Self::VsCode => "vscode",
            Self::Codex => "codex",
        }
    }

    /// Its name.
    pub const fn title(self) -> &'static str {
        match self {
            Self::ClaudeCode => "Claude Code",
            Self::ClaudeDesktop => "Claude Desktop",
            Self::Cursor => "Cursor",
            Self::VsCode => "VS Code",
            Self::Codex => "Codex",
        }
    }

    /// The one of that word.
    ///
    /// # Errors
    /// There is none.
    pub fn of(word: &str) -> Answer<Self> {
        Self::ALL.into_iter().find(|app| app.word() == word).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|app| app.word()).collect();
            Problem::invalid("client", format!("there are: {}", known.join(", ")))
        })
    }

    /// What the user does so that it takes notice of a server, new or there already.
    pub const fn then(self, was_there: bool) -> &'static str {
        match self {
            Self::Cursor if was_there => {
                "start Cursor again, or switch it off and on in its settings"
            }
            Self::ClaudeCode => "start claude again; /mcp shows it",
            Self::ClaudeDesktop => "quit Claude Desktop and start it again",
            Self::Cursor => "open Cursor's settings, Tools & MCP, and switch it on",
            Self::VsCode => "run \"MCP: List Servers\" in VS Code and start it",
            Self::Codex => "start codex again; /mcp shows it",
        }
    }

    /// The file for all projects of a user.
    ///
    /// # Errors
    /// There is no home folder.
    pub fn file(self, variable: impl Fn(&str) -> Option<OsString>) -> Answer<PathBuf> {
        let absolute =
            |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = || {
            absolute("HOME").ok_or_else(|| {
                let fix = "set HOME, or use --project";
                Problem::new(Code::Invalid, "there is no home folder", "HOME is not set", fix)
            })
        };
        // Where desktop programs keep their configuration.
        let config = || -> Answer<PathBuf> {
            if cfg!(target_os = "macos") {
                return Ok(home()?.join("Library/Application Support"));
            }
            absolute("XDG_CONFIG_HOME").map_or_else(|| Ok(home()?.join(".config")), Ok)
        };
        Ok(match self {
            Self::ClaudeCode => {
                absolute("CLAUDE_CONFIG_DIR").map_or_else(home, Ok)?.join(".claude.json")
            }
            Self::ClaudeDesktop => config()?.join("Claude/claude_desktop_config.json"),
            Self::Cursor => home()?.join(".cursor/mcp.json"),
            Self::VsCode => config()?.join("Code/User/mcp.json"),
            Self::Codex => {
                let own = absolute("CODEX_HOME");
                own.map_or_else(|| home().map(|home| home.join(".codex")), Ok)?.join("config.toml")
            }
        })
    }

    /// The file of the project in a folder.
    ///
    /// # Errors
    /// The client knows none.
    pub fn project_file(self, folder: &Path) -> Answer<PathBuf> {
        match self {
            Self::ClaudeCode => Ok(folder.join(".mcp.json")),
            Self::Cursor => Ok(folder.join(".cursor/mcp.json")),
            Self::VsCode => Ok(folder.join(".vscode/mcp.json")),
            Self::Codex => Ok(folder.join(".codex/config.toml")),
            Self::ClaudeDesktop => Err(Problem::invalid(
                "--project",
                "Claude Desktop has one configuration, for all projects",
            )),
        }
    }

    /// The servers of a file, by name. Those that are not started as a program are left out.
    ///
    /// # Errors
    /// The text is not what the client reads.
    pub fn servers(self, text: &str) -> Answer<BTreeMap<String, Server>> {
        match self {
            Self::Codex => toml::servers(text),
            _ => json::servers(text, self.member()),
        }
    }

    /// The text with a server in it, added or changed; other members of its entry stay.
    ///
    /// # Errors
    /// The text is not what the client reads.
    pub fn with(self, text: &str, name: &str, server: &Server) -> Answer<String> {
        match self {
            Self::Codex => toml::with(text, name, server),
            _ => json::with(text, self.member(), self.says_stdio(), name, server),
        }
    }

    /// The text without a server, whatever else has changed.
    ///
    /// # Errors
    /// The text is not what the client reads.
    pub fn without(self, text: &str, name: &str) -> Answer<String> {
        match self {
            Self::Codex => toml::without(text, name),
            _ => json::without(text, self.member(), name),
        }
    }

    /// The member of a JSON file that holds the servers.
    const fn member(self) -> &'static str {
        match self {
            Self::VsCode => "servers",
            _ => "mcpServers",
        }
    }

    /// Whether an entry says that it is a program.
    const fn says_stdio(self) -> bool {
        matches!(self, Self::VsCode | Self::ClaudeCode)
    }
}

/// A file that is not what its client reads.
fn unreadable(why: impl std::fmt::Display) -> Problem {
    Problem::new(
        Code::Invalid,
        "the configuration file could not be read",
        why.to_string(),
        "correct the file, or move it away; nothing was changed",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(app: App, set: &[(&str, &str)]) -> String {
        let variable = |name: &str| {
            set.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
        };
        app.file(variable).unwrap().display().to_string()
    }

    #[test]
    #[cfg(not(target_os = "macos"))]
    fn each_client_has_its_place_and_its_variable_moves_it() {
        let home = ("HOME", "/h");
        for (app, set, wanted) in [
            (App::ClaudeCode, &[home][..], "/h/.claude.json"),
            (App::ClaudeCode, &[home, ("CLAUDE_CONFIG_DIR", "/c")], "/c/.claude.json"),
            (App::ClaudeDesktop, &[home], "/h/.config/Claude/claude_desktop_config.json"),
            (App::Cursor, &[home], "/h/.cursor/mcp.json"),
            (App::VsCode, &[home, ("XDG_CONFIG_HOME", "/x")], "/x/Code/User/mcp.json"),
            (
                App::VsCode,
                &[home, ("XDG_CONFIG_HOME", "not/absolute")],
                "/h/.config/Code/User/mcp.json",
            ),
            (App::Codex, &[home], "/h/.codex/config.toml"),
            (App::Codex, &[home, ("CODEX_HOME", "/x")], "/x/config.toml"),
        ] {
            assert_eq!(place(app, set), wanted);
        }
        assert!(App::Cursor.file(|_| None).is_err());
        assert!(App::ClaudeDesktop.project_file(Path::new("/p")).is_err());
    }
}
