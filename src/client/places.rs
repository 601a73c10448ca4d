//! Where a user's files are: the places of the XDG Base Directory Specification, and the socket
//! of the private backend.
//!
//! Only names places. Must never read a setting, and never trust a folder because of its name:
//! whoever uses a place checks it with [`super::files`].
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::core::identity::Alias;
use crate::core::problem::{Answer, Code, Problem};
use crate::core::types::{Hash32, to_hex};
use crate::harden;

/// The longest path of a socket, in bytes. The kernel takes 107; the rest is for the name that a
/// backend binds before it renames it into place.
pub const MAX_SOCKET_PATH: usize = 100;

const FOLDER: &str = "agentkeys";
const SOCKET: &str = "backend.sock";
/// What the record of a holder is called; `@` and the agent's name follow where it has one.
const AGENTS: &str = "agents";

/// The places of one user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    data: PathBuf,
    state: PathBuf,
    config: PathBuf,
    runtime: Option<PathBuf>,
    home: Option<PathBuf>,
    temporary: PathBuf,
    uid: u32,
}

impl Places {
    /// The places that this process's environment names.
    ///
    /// # Errors
    /// `INVALID` when `HOME` is needed and is not set, or is not absolute.
    pub fn from_environment() -> Answer<Self> {
        Self::find(|name| std::env::var_os(name), harden::effective_uid())
    }

    /// The places that `variable` names for the user `uid`. A value that is empty is taken as
    /// not set, and so is one of `XDG_*` that is not absolute, as the specification says.
    ///
    /// # Errors
    /// `INVALID` when `HOME` is needed and is not set, or is not absolute.
    pub fn find(variable: impl Fn(&str) -> Option<OsString>, uid: u32) -> Answer<Self> {
        let absolute =
            |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = absolute("HOME");
        let base = |name: &str, below_home: &str| match (absolute(name), &home) {
            (Some(base), _) => Ok(base.join(FOLDER)),
            (None, Some(home)) => Ok(home.join(below_home).join(FOLDER)),
            (None, None) => Err(homeless(name, variable("HOME").as_deref())),
        };
        Ok(Self {
            data: base("XDG_DATA_HOME", ".local/share")?,
            state: base("XDG_STATE_HOME", ".local/state")?,
            config: base("XDG_CONFIG_HOME", ".config")?,
            runtime: absolute("XDG_RUNTIME_DIR"),
            temporary: PathBuf::from("/tmp"),
            home,
            uid,
        })
    }

    /// The private backend's store.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// What this client remembers: sessions, heads, the private backend's log.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The user's own configuration file; it need not exist.
    pub fn config_file(&self) -> PathBuf {
        self.config.join("config.toml")
    }

    /// The one file that stands in for a missing keyring.
    pub fn sessions_file(&self) -> PathBuf {
        self.state.join("sessions.json")
    }

    /// The folder with the highest signed head of each account that was seen.
    pub fn heads(&self) -> PathBuf {
        self.state.join("heads")
    }

    /// What `agentkeys wire` changed in other programs' files.
    pub fn wiring_file(&self) -> PathBuf {
        self.state.join("wiring.json")
    }

    /// What is locked while one of them is changed.
    pub fn wiring_lock(&self) -> PathBuf {
        self.state.join("wiring.lock")
    }

    /// Where recipes put a picture of the page at which they failed.
    pub fn screenshots(&self) -> PathBuf {
        self.state.join("provisioner")
    }

    /// The private backend's log; the one before it ends in `.1`.
    pub fn log_file(&self) -> PathBuf {
        self.state.join("backend.log")
    }

    /// Where the private backend was last started. It is looked at before anything else, so that
    /// a command whose environment lacks `XDG_RUNTIME_DIR` (a timer's, or an MCP client's) finds
    /// the same backend as one whose environment has it.
    pub fn record_file(&self) -> PathBuf {
        self.state.join("backend.json")
    }

    /// What is locked while a private backend is started or ended.
    pub fn start_lock(&self) -> PathBuf {
        self.state.join("backend.lock")
    }

    /// The folder that is the daemon's alone of the agent that this machine calls `name`, below
    /// the home folder; of the one that has no name here when there is none.
    ///
    /// # Errors
    /// `INVALID` when the environment names no home folder.
    pub fn daemon_folder(&self, name: Option<&Alias>) -> Answer<PathBuf> {
        let home = self.home.as_ref().ok_or_else(|| homeless("HOME", None))?;
        let folder = home.join(".agentkeys");
        // Aliases hold no `/`, and none begins with a dot.
        Ok(name.map_or(folder.clone(), |name| folder.join(AGENTS).join(name.folded())))
    }

    /// The names that daemons have, or had, on this machine.
    pub fn daemon_names(&self) -> Vec<Alias> {
        let Ok(folder) = self.daemon_folder(None) else { return Vec::new() };
        let Ok(entries) = std::fs::read_dir(folder.join(AGENTS)) else { return Vec::new() };
        let names = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        names.collect()
    }

    /// The mirror of that agent's session.
    ///
    /// # Errors
    /// Those of [`Places::daemon_folder`].
    pub fn mirror_file(&self, name: Option<&Alias>) -> Answer<PathBuf> {
        Ok(self.daemon_folder(name)?.join("session"))
    }

    /// What the holder of that agent's session has locked for as long as it lives.
    ///
    /// # Errors
    /// Those of [`Places::daemon_folder`].
    pub fn holder_lock(&self, name: Option<&Alias>) -> Answer<PathBuf> {
        Ok(self.daemon_folder(name)?.join("lock"))
    }

    /// What the holder of that agent's session wrote down of itself: its process and where it
    /// listens, which another environment would not find by [`Places::holder_socket`] alone.
    ///
    /// # Errors
    /// Those of [`Places::daemon_folder`].
    pub fn holder_record(&self, name: Option<&Alias>) -> Answer<PathBuf> {
        Ok(self.daemon_folder(name)?.join("holder"))
    }

    /// Where the holder of that agent's session listens unless it is told otherwise: never in
    /// the folder of the backend's socket, which it could then put another in the place of. What
    /// is too long for a socket gives way to a hash.
    pub fn holder_socket(&self, name: Option<&Alias>) -> PathBuf {
        let [socket, _] = self.sockets();
        let run = socket.parent().unwrap_or(&self.temporary);
        let name = name.map_or("agent".to_owned(), |name| format!("agent@{}", name.folded()));
        let path = run.join(AGENTS).join(format!("{name}.sock"));
        if path.as_os_str().len() <= MAX_SOCKET_PATH {
            return path;
        }
        // As long as `backend.sock`, which fits.
        run.join("d").join(format!("{}.sock", &to_hex(&Hash32::of(name.as_bytes()).0)[..5]))
    }

    /// The home folder, if the environment names one.
    pub fn home(&self) -> Option<&Path> {
        self.home.as_deref()
    }

    /// The user that the places are for.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Where a private backend may listen, best first. The second is for when another one, with
    /// other data, listens at the first: someone tries things out with another `HOME`.
    pub fn sockets(&self) -> [PathBuf; 2] {
        let own = Hash32::of(self.data.as_os_str().as_bytes());
        let own = to_hex(&own.0[..8]);
        let base = match self.runtime.as_deref().filter(|runtime| self.is_ours(runtime)) {
            Some(runtime) => runtime.join(FOLDER),
            None => self.state.join("run"),
        };
        let short = self.temporary.join(format!("{FOLDER}-{}", self.uid)).join(&own).join(SOCKET);
        [base.join(SOCKET), base.join(&own).join(SOCKET)]
            .map(|path| if path.as_os_str().len() > MAX_SOCKET_PATH { short.clone() } else { path })
    }

    /// The folders above a socket that only this user may enter, outermost first.
    pub fn socket_folders(&self, socket: &Path) -> Vec<PathBuf> {
        let ours = [self.state.clone(), self.temporary.clone()];
        let ours = ours.iter().chain(&self.runtime);
        let outside: Vec<&PathBuf> = ours.filter(|base| socket.starts_with(base)).collect();
        let Some(outside) = outside.into_iter().max_by_key(|base| base.as_os_str().len()) else {
            return socket.parent().map(Path::to_path_buf).into_iter().collect();
        };
        let mut folders: Vec<PathBuf> = socket
            .ancestors()
            .skip(1)
            .take_while(|folder| folder.as_os_str().len() > outside.as_os_str().len())
            .map(Path::to_path_buf)
            .collect();
        folders.reverse();
        folders
    }

    /// As the specification has it: the runtime folder is the user's, and nobody else's.
    fn is_ours(&self, runtime: &Path) -> bool {
        std::fs::symlink_metadata(runtime).is_ok_and(|found| {
            found.is_dir() && found.uid() == self.uid && found.mode() & 0o077 == 0
        })
    }

    /// The same places with another folder instead of `/tmp`.
    #[doc(hidden)]
    pub fn with_temporary(mut self, temporary: PathBuf) -> Self {
        self.temporary = temporary;
        self
    }
}

fn homeless(name: &str, home: Option<&OsStr>) -> Problem {
    let cause = match home {
        Some(home) if !home.is_empty() => "HOME is not an absolute path",
        _ => "HOME is not set",
    };
    Problem::new(
        Code::Invalid,
        "no place for AgentKeys' files",
        format!("{cause}, and {name} names no absolute path either"),
        "export HOME=/absolute/path/of/your/home",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn places(variables: &[(&str, &str)]) -> Answer<Places> {
        let find = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into())
        };
        Places::find(find, harden::effective_uid())
    }

    #[test]
    fn without_xdg_variables_everything_lies_below_home() {
        let found = places(&[("HOME", "/h")]).unwrap();
        assert_eq!(found.data(), Path::new("/h/.local/share/agentkeys"));
        assert_eq!(found.sessions_file(), Path::new("/h/.local/state/agentkeys/sessions.json"));
        assert_eq!(found.config_file(), Path::new("/h/.config/agentkeys/config.toml"));
        assert_eq!(found.sockets()[0], Path::new("/h/.local/state/agentkeys/run/backend.sock"));
    }

    #[test]
    fn xdg_variables_win_and_home_is_then_not_needed() {
        let all = [("XDG_DATA_HOME", "/d"), ("XDG_STATE_HOME", "/s"), ("XDG_CONFIG_HOME", "/c")];
        let found = places(&all).unwrap();
        assert_eq!(found.data(), Path::new("/d/agentkeys"));
        assert_eq!(found.state(), Path::new("/s/agentkeys"));
        assert_eq!(found.config_file(), Path::new("/c/agentkeys/config.toml"));
    }

    #[test]
    fn relative_and_empty_xdg_values_are_ignored() {
        for value in ["", "relative/x", "./x"] {
            let found = places(&[("HOME", "/h"), ("XDG_DATA_HOME", value)]).unwrap();
            assert_eq!(found.data(), Path::new("/h/.local/share/agentkeys"), "{value:?}");
        }
    }

    #[test]
    fn a_missing_home_is_a_clear_error_that_names_it() {
        let missing = places(&[]).unwrap_err();
        assert_eq!(missing.code, Code::Invalid);
        assert!(missing.cause.starts_with("HOME is not set"), "{}", missing.cause);
        let relative = places(&[("HOME", "h")]).unwrap_err();
        assert!(relative.cause.starts_with("HOME is not an absolute path"), "{}", relative.cause);
    }

    #[test]
    fn the_runtime_folder_is_used_only_when_it_is_ours_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        let found = places(&[("HOME", "/h"), ("XDG_RUNTIME_DIR", path)]).unwrap();
        let mode = |mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(0o700);
        assert_eq!(found.sockets()[0], folder.path().join("agentkeys/backend.sock"));
        mode(0o755);
        assert_eq!(found.sockets()[0], Path::new("/h/.local/state/agentkeys/run/backend.sock"));
        let missing = places(&[("HOME", "/h"), ("XDG_RUNTIME_DIR", "/nowhere")]).unwrap();
        assert_eq!(missing.sockets(), found.sockets());
    }

    #[test]
    fn a_path_too_long_for_a_socket_becomes_a_short_one_that_depends_on_the_data() {
        let long = format!("/{}", "x".repeat(200));
        let one = places(&[("HOME", &long)]).unwrap();
        let other = places(&[("HOME", &format!("{long}y"))]).unwrap();
        let [first, second] = one.sockets();
        assert_eq!(first, second);
        assert!(first.starts_with(format!("/tmp/agentkeys-{}", one.uid())), "{first:?}");
        assert!(first.as_os_str().len() <= MAX_SOCKET_PATH);
        assert_ne!(first, other.sockets()[0]);
    }

    #[test]
    fn a_holder_s_socket_fits_whatever_its_agent_is_called() {
        let found = places(&[("HOME", &format!("/{}", "x".repeat(40)))]).unwrap();
        let name = |letter: &str| letter.repeat(63).parse::<Alias>().unwrap();
        let short = "my-bot".parse::<Alias>().unwrap();
        assert!(found.holder_socket(Some(&short)).ends_with("agent@my-bot.sock"));
        assert!(found.holder_socket(None).ends_with("agent.sock"));
        let [one, two] = ["a", "b"].map(|letter| found.holder_socket(Some(&name(letter))));
        assert_ne!(one, two);
        assert!(one.as_os_str().len() <= MAX_SOCKET_PATH, "{one:?}");
    }

    #[test]
    fn every_folder_of_ours_above_a_socket_is_named_outermost_first() {
        let found = places(&[("HOME", "/h"), ("XDG_RUNTIME_DIR", "/run/user/7")]).unwrap();
        let folders = |socket: &str| found.socket_folders(Path::new(socket));
        assert_eq!(
            folders("/run/user/7/a/b/s"),
            ["/run/user/7/a", "/run/user/7/a/b"].map(PathBuf::from)
        );
        assert_eq!(folders("/tmp/a/b/s"), ["/tmp/a", "/tmp/a/b"].map(PathBuf::from));
        assert_eq!(folders("/elsewhere/a/s"), [PathBuf::from("/elsewhere/a")]);
    }
}
