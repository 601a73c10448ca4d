//! Which backend, agent and services a command means: the flag, the environment, the project's
//! file and the user's own file, in that order.
//!
//! A project file comes along with a cloned repository, so it is a stranger's word: it may name
//! an agent, services and variables, and must never name a backend or anything of security.
use std::collections::BTreeMap;
use std::env;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use toml::{Table, Value};

use super::files;
use super::http::Address;
use super::places::{MAX_SOCKET_PATH, Places};
use crate::core::identity::{AgentIdentity, ServiceName};
use crate::core::problem::{Answer, Code, Problem};
use crate::core::types::Malformed;
use crate::harden;

/// The variable that names a backend.
pub const BACKEND_VARIABLE: &str = "AGENTKEYS_BACKEND";
/// The name of a project's file.
pub const PROJECT_FILE: &str = ".agentkeys.toml";

/// Largest configuration file, in bytes.
const MAX_FILE: usize = 64 * 1024;
/// Most services and most variables that one file names.
const MAX_NAMES: usize = 256;
/// Most folders that are looked at for a project file.
const MAX_DEPTH: usize = 64;

const FORMS: &str =
    "https://HOST[:PORT][#sha256:...], unix:/absolute/path or http://127.0.0.1:PORT";

/// Reads a backend's address; `origin` is what named it, for the error.
///
/// # Errors
/// `INVALID`, with the forms that are allowed.
pub fn parse_address(text: &str, origin: &str) -> Answer<Address> {
    let wrong = |why: &str| {
        Problem::new(
            Code::Invalid,
            format!("{origin} names no backend that can be used"),
            why,
            format!("set {origin} to {FORMS}, or leave it out for the private backend"),
        )
    };
    let path = match text.parse() {
        Ok(Address::Unix(path)) => path,
        Ok(address) => return Ok(address),
        Err(error) => return Err(wrong(&error.to_string())),
    };
    if path.as_os_str().len() > MAX_SOCKET_PATH {
        return Err(wrong("the path after unix: is longer than 100 bytes"));
    }
    if text.contains('\0') || path.components().any(|part| part == Component::ParentDir) {
        return Err(wrong("the path after unix: holds a .. or a zero byte"));
    }
    // One spelling for one path, since sessions are kept by it.
    Ok(Address::Unix(path.components().collect()))
}

/// What decided which backend is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Chooser {
    /// The command line.
    Flag,
    /// `AGENTKEYS_BACKEND`.
    Environment,
    /// The user's own configuration file.
    UserFile,
    /// Nothing: the private backend.
    Default,
}

impl Chooser {
    /// In words, for a person.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Flag => "--backend",
            Self::Environment => BACKEND_VARIABLE,
            Self::UserFile => "the config file",
            Self::Default => "the default",
        }
    }
}

/// What a file may say of agent, services and variables.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Names {
    /// The agent that is meant where none is named.
    pub agent: Option<AgentIdentity>,
    /// The services that a program needs.
    pub services: Vec<ServiceName>,
    /// Environment variable to service.
    pub variables: BTreeMap<String, ServiceName>,
}

/// A command's settings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// The backend; `None` is the private one.
    pub backend: Option<Address>,
    /// What decided that.
    pub chosen_by: Chooser,
    /// The project's names where it has any, else the user's.
    pub names: Names,
    /// The project file that was read.
    pub project_file: Option<PathBuf>,
    /// The user's file, if there is one.
    pub user_file: Option<PathBuf>,
}

impl Config {
    /// The settings of this process: `flag` is what `--backend` said.
    ///
    /// # Errors
    /// `INVALID` for a value or a file that is not what it may be, naming it.
    pub fn load(places: &Places, flag: Option<&str>) -> Answer<Self> {
        let variable = match env::var_os(BACKEND_VARIABLE) {
            None => None,
            Some(value) => Some(value.into_string().map_err(|_| {
                Problem::invalid(BACKEND_VARIABLE, format!("it is not UTF-8; it wants {FORMS}"))
            })?),
        };
        // Without a current folder there is no project either.
        let current = env::current_dir().ok();
        Self::find(places, flag, variable.as_deref(), current.as_deref())
    }

    /// The settings for a given flag, value of `AGENTKEYS_BACKEND` and current folder.
    ///
    /// # Errors
    /// Those of [`Config::load`].
    pub fn find(
        places: &Places,
        flag: Option<&str>,
        variable: Option<&str>,
        current: Option<&Path>,
    ) -> Answer<Self> {
        // Both files are read whatever else decides, so that a project file that oversteps is
        // refused by every command, and not just by some.
        let project = match current.and_then(|current| find_project_file(current, places)) {
            Some(path) => read_project_file(&path)?.map(|names| (path, names)),
            None => None,
        };
        let user = read_user_file(&places.config_file())?;
        let (project_file, project) = project.unzip();
        let (user_file, user_backend, user) = match user {
            Some((backend, names)) => (Some(places.config_file()), backend, Some(names)),
            None => (None, None, None),
        };
        let (backend, chosen_by) = if let Some(flag) = flag {
            (Some(parse_address(flag, "--backend")?), Chooser::Flag)
        } else if let Some(value) = variable.filter(|value| !value.is_empty()) {
            (Some(parse_address(value, BACKEND_VARIABLE)?), Chooser::Environment)
        } else if let Some(backend) = user_backend {
            (Some(backend), Chooser::UserFile)
        } else {
            (None, Chooser::Default)
        };
        let names = merge(project.unwrap_or_default(), user.unwrap_or_default());
        Ok(Self { backend, chosen_by, names, project_file, user_file })
    }
}

/// The project's names win over the user's, one by one.
fn merge(project: Names, user: Names) -> Names {
    let services = if project.services.is_empty() { user.services } else { project.services };
    let mut variables = user.variables;
    variables.extend(project.variables);
    Names { agent: project.agent.or(user.agent), services, variables }
}

/// The nearest project file of ours, from `current` upwards; the home folder is the last that
/// is looked at. One that belongs to another user, such as in `/tmp`, is a stranger's and is
/// passed over, and so is one that is no plain file.
fn find_project_file(current: &Path, places: &Places) -> Option<PathBuf> {
    for folder in current.ancestors().take(MAX_DEPTH) {
        let path = folder.join(PROJECT_FILE);
        let found = std::fs::symlink_metadata(&path);
        if found.is_ok_and(|f| f.is_file() && (f.uid() == places.uid() || f.uid() == 0)) {
            return Some(path);
        }
        if places.home() == Some(folder) {
            break;
        }
    }
    None
}

fn read_project_file(path: &Path) -> Answer<Option<Names>> {
    let Some(table) = read_table(path)? else { return Ok(None) };
    read_names(path, &table, &[], |key| {
        Problem::new(
            Code::Invalid,
            format!("the project file {} sets {key}", path.display()),
            "a project file comes along with a repository, so it may name agent, services and \
             variables only, never a backend or anything of security",
            format!(
                "take {key} out of it; a backend is named by --backend, {BACKEND_VARIABLE} or \
                 your own config file"
            ),
        )
    })
    .map(Some)
}

fn read_user_file(path: &Path) -> Answer<Option<(Option<Address>, Names)>> {
    let Some(table) = read_table(path)? else { return Ok(None) };
    let backend = match table.get("backend") {
        None => None,
        Some(value) => {
            let origin = format!("backend in {}", path.display());
            Some(parse_address(text(path, "backend", value)?, &origin)?)
        }
    };
    let names = read_names(path, &table, &["backend"], |key| {
        let allowed = "backend, agent, services and variables are the keys of this file";
        malformed(path, &format!("it sets {key}; {allowed}"))
    })?;
    Ok(Some((backend, names)))
}

/// Takes the names out of a table; `stranger` is the problem of a key that is neither one of
/// theirs nor of `others`. By hand, because a message of serde's repeats the value, which may be
/// a secret in the wrong place.
fn read_names(
    path: &Path,
    table: &Table,
    others: &[&str],
    stranger: impl Fn(&str) -> Problem,
) -> Answer<Names> {
    let mut names = Names::default();
    let wrong = |wrong: Malformed| malformed(path, &wrong.to_string());
    for (key, value) in table {
        match (key.as_str(), value) {
            ("agent", value) => {
                names.agent = Some(text(path, "agent", value)?.parse().map_err(wrong)?);
            }
            ("services", Value::Array(services)) => {
                for service in services {
                    let service = text(path, "each of services", service)?;
                    names.services.push(service.parse().map_err(wrong)?);
                }
            }
            ("services", _) => return Err(malformed(path, "services is no list of texts")),
            ("variables", Value::Table(variables)) => {
                for (name, service) in variables {
                    if !is_variable(name) {
                        let rule = "a variable's name wants letters, digits and _ only";
                        return Err(malformed(path, rule));
                    }
                    let service = text(path, "each of variables", service)?;
                    names.variables.insert(name.clone(), service.parse().map_err(wrong)?);
                }
            }
            ("variables", _) => return Err(malformed(path, "variables is no table of texts")),
            (other, _) if others.contains(&other) => {}
            (other, _) => return Err(stranger(&shown_key(other))),
        }
    }
    if names.services.len() > MAX_NAMES || names.variables.len() > MAX_NAMES {
        return Err(malformed(path, "it names more than 256 services or variables"));
    }
    Ok(names)
}

fn text<'a>(path: &Path, key: &str, value: &'a Value) -> Answer<&'a str> {
    value.as_str().ok_or_else(|| malformed(path, &format!("{key} is no text")))
}

/// A stranger chose the key: it is repeated only if it is a plain word.
fn shown_key(key: &str) -> String {
    let plain = key.bytes().all(|b| b == b'_' || b.is_ascii_alphabetic());
    if plain && key.len() <= 40 { format!("{key:?}") } else { "another key".to_owned() }
}

fn is_variable(name: &str) -> bool {
    let rest = name.bytes().all(|b| b == b'_' || b.is_ascii_alphanumeric());
    rest && name.len() <= 128 && name.starts_with(|c: char| c == '_' || c.is_ascii_alphabetic())
}

fn malformed(path: &Path, why: &str) -> Problem {
    Problem::new(
        Code::Invalid,
        format!("{} is not valid", path.display()),
        why,
        "correct it, or remove it",
    )
}

/// Reads a file of settings, which others may read but only we or root may have written; `None`
/// if it is not there.
fn read_table(path: &Path) -> Answer<Option<Table>> {
    // A link of the user's own is followed, so that settings can live with other dotfiles; a
    // project's file was found to be no link, and opens as none.
    let is_project = path.ends_with(PROJECT_FILE);
    let open = || match std::fs::canonicalize(path) {
        Ok(target) if !is_project => harden::open_without_following(&target),
        Err(error) if !is_project => Err(error),
        _ => harden::open_without_following(path),
    };
    let file = match open() {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(files::failed("open", path, &error)),
    };
    let found = file.metadata().map_err(|error| files::failed("look at", path, &error))?;
    let ours = found.uid() == harden::effective_uid() || found.uid() == 0;
    if !found.is_file() || !ours || found.mode() & 0o002 != 0 {
        let why = "it is not a plain file that only you (or root) can write to";
        return Err(malformed(path, why));
    }
    let mut text = String::new();
    match file.take(MAX_FILE as u64 + 1).read_to_string(&mut text) {
        Err(error) if error.kind() == ErrorKind::InvalidData => {
            return Err(malformed(path, "it is not UTF-8"));
        }
        Err(error) => return Err(files::failed("read", path, &error)),
        Ok(length) if length > MAX_FILE => {
            return Err(malformed(path, "it is larger than 65536 bytes"));
        }
        Ok(_) => {}
    }
    text.parse().map(Some).map_err(|error: toml::de::Error| {
        // The message alone: its long form repeats the line, which may be anything.
        let line = error.span().map(|at| text[..at.start.min(text.len())].lines().count().max(1));
        let line = line.map(|line| format!(" in line {line}")).unwrap_or_default();
        malformed(path, &format!("{}{line}", error.message()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Answer<Address> {
        parse_address(text, "--backend")
    }

    #[test]
    fn a_path_has_one_spelling() {
        for (text, shown) in [
            ("unix:/run/a.sock", "unix:/run/a.sock"),
            ("unix:///run//./a.sock", "unix:/run/a.sock"),
            ("http://127.0.0.1:80/", "http://127.0.0.1:80"),
            ("https://Keys.example.org:443/", "https://keys.example.org"),
        ] {
            assert_eq!(parse(text).unwrap().to_string(), shown, "{text}");
        }
    }

    #[test]
    fn what_leaves_this_machine_or_is_no_address_is_refused_and_its_origin_named() {
        let long = format!("unix:/{}", "x".repeat(200));
        for text in [
            "",
            "unix:",
            "unix:run/a",
            "unix:/a/../b",
            "unix:/a\0b",
            &long,
            "http://10.0.0.1:1",
            "http://127.0.0.1.example.org:1",
            "http://0.0.0.0:1",
            "http://[::]:1",
            "http://[::ffff:10.0.0.1]:1",
            "ftp://127.0.0.1:1",
        ] {
            let refused = parse(text).unwrap_err();
            assert_eq!(refused.code, Code::Invalid, "{text}");
            assert!(refused.detail.contains("--backend"), "{text}");
        }
        let pinned = "https://keys.example.org#sha256:12";
        let pinned = parse_address(pinned, BACKEND_VARIABLE).unwrap_err();
        assert!(pinned.cause.contains("fingerprint"), "{}", pinned.cause);
        assert!(pinned.detail.contains(BACKEND_VARIABLE));
    }
}
