//! The closed room of `run --sandbox`: what a program may reach in it, and what of this process's
//! environment it keeps.
//!
//! Must never open the folders in which AgentKeys keeps what is its own.
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::pasted::service_of;
use super::report::{CliError, shown};
use crate::client::files;
use crate::client::places::Places;
use crate::core::problem::{Answer, Code, Problem};
use crate::harden::{ClosedRoom, Room};

/// Where the system keeps its programs, libraries and settings; and what the kernel tells.
const SYSTEM: [&str; 11] = [
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/etc", "/proc", "/sys",
];
/// Devices without which programs do not start. Not other terminals (`/dev/pts`) nor shared memory
/// (`/dev/shm`): both are the whole user's.
const DEVICES: [&str; 6] =
    ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];
/// Variables that lead to a credential, or to somebody who acts for this user.
const AMBIENT: [&str; 17] = [
    "SSH_AUTH_SOCK",
    "SSH_AGENT_PID",
    "SSH_ASKPASS",
    "GIT_ASKPASS",
    "GPG_AGENT_INFO",
    "DBUS_SESSION_BUS_ADDRESS",
    "XDG_RUNTIME_DIR",
    "DISPLAY",
    "WAYLAND_DISPLAY",
    "XAUTHORITY",
    "KUBECONFIG",
    "DOCKER_HOST",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "NETRC",
    "PGPASSFILE",
    "TMUX",
    "TMUX_PANE",
];

/// A room in preparation, with the temporary folder that is the program's own.
pub struct Prepared {
    room: Room,
    temporary: Temporary,
}

/// A folder that is removed, with all in it, when this is dropped.
pub struct Temporary(PathBuf);

impl Temporary {
    /// Makes one, for this user alone.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn make(name: &str) -> Answer<Self> {
        files::make_temporary_folder(name).map(Self)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Looks for what the program may reach.
///
/// # Errors
/// The folder here, or one of `--allow-read`, holds what is AgentKeys' own, or lies in it.
pub fn prepare(places: &Places, allowed: &[PathBuf], port: u16) -> Answer<Prepared> {
    let here = std::env::current_dir().and_then(|here| here.canonicalize()).map_err(|error| {
        Problem::new(Code::Invalid, "there is no folder here", error.to_string(), "cd")
    })?;
    let home = places.home().and_then(|home| home.canonicalize().ok());
    if home.as_deref() == Some(&*here) || here.parent().is_none() {
        return Err(Problem::new(
            Code::Invalid,
            "--sandbox wants a folder of the program's own",
            format!("it may do everything in the folder here, and {} is too much", here.display()),
            "cd into the project's folder",
        ));
    }
    apart_from_ours(places, &here)?;
    let kept: Vec<PathBuf> = ours(places).into_iter().chain(home).collect();
    let mut read = system_without(&kept);
    for path in allowed {
        let whole = path.canonicalize().map_err(|error| {
            let what = format!("--allow-read {} is not there", shown(&path.display().to_string()));
            Problem::new(Code::NotFound, what, error.to_string(), "name a file or folder")
        })?;
        apart_from_ours(places, &whole)?;
        read.push(whole);
    }
    let temporary = Temporary::make("agentkeys-room")?;
    let write = vec![here, temporary.0.clone()];
    let devices = DEVICES.iter().map(PathBuf::from).collect();
    Ok(Prepared { room: Room { read, write, devices, port }, temporary })
}

/// The system's folders but those that hold one of these: a home in `/opt`, say, is no part of it.
fn system_without(kept: &[PathBuf]) -> Vec<PathBuf> {
    let holds_none = |path: &PathBuf| !kept.iter().any(|kept| kept.starts_with(path));
    SYSTEM.iter().map(PathBuf::from).filter(holds_none).collect()
}

/// Where AgentKeys keeps what is its own.
fn ours(places: &Places) -> Vec<PathBuf> {
    let mut ours = vec![places.data().to_owned(), places.state().to_owned()];
    ours.extend(places.config_file().parent().map(Path::to_owned));
    ours.extend(places.sockets());
    // Where daemons keep their sessions.
    ours.extend(places.home().map(|home| home.join(".agentkeys")));
    ours.into_iter().map(|path| path.canonicalize().unwrap_or(path)).collect()
}

/// Refuses a path that holds a folder of ours, or lies in one.
fn apart_from_ours(places: &Places, path: &Path) -> Answer<()> {
    let together = |ours: &PathBuf| path.starts_with(ours) || ours.starts_with(path);
    match ours(places).iter().find(|ours| together(ours)) {
        Some(found) => Err(Problem::new(
            Code::Invalid,
            format!("{} is not opened to the program", path.display()),
            format!("AgentKeys keeps what is its own in {}", found.display()),
            "run it in the project's folder, and name no folder above",
        )),
        None => Ok(()),
    }
}

impl Prepared {
    /// Has the command start its program in the room. Of this process's variables those go that lead
    /// to a credential; what the command was given itself stays. The room's own folder is there as
    /// long as what is returned.
    ///
    /// # Errors
    /// The kernel cannot hold the room. Nothing is started then.
    pub fn around(self, command: &mut Command) -> Result<Temporary, CliError> {
        for name in leading_elsewhere(std::env::vars_os().map(|(name, _)| name)) {
            let given = command.get_envs().any(|(own, value)| own == name && value.is_some());
            if !given {
                command.env_remove(name);
            }
        }
        let own = &self.temporary.0;
        for name in ["HOME", "TMPDIR"] {
            command.env(name, own);
        }
        let room = ClosedRoom::new(&self.room).map_err(|error| {
            let mut why = error.to_string();
            if let Some(source) = std::error::Error::source(&error) {
                why.push_str(&format!(": {source}"));
            }
            let fix = "a newer kernel (Linux 6.12 has it all), or run it without --sandbox";
            Problem::new(Code::Invalid, "there is no closed room here", why, fix)
        })?;
        room.around(command);
        Ok(self.temporary)
    }
}

/// The names that hold a credential, or lead to one.
fn leading_elsewhere(names: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let leads = |name: &OsStr| {
        let listed = AMBIENT.iter().any(|one| name == OsStr::new(one));
        let of_a_cloud =
            name.as_bytes().starts_with(b"AWS_") || name.as_bytes().starts_with(b"AZURE_");
        listed || of_a_cloud || name.to_str().is_some_and(|name| service_of(name).is_some())
    };
    names.filter(|name| leads(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_folder_that_holds_a_home_is_left_out() {
        let read = system_without(&["/opt/agent".into(), "/home/ada/.agentkeys".into()]);
        assert!(!read.contains(&"/opt".into()) && read.contains(&"/usr".into()));
        assert_eq!(read.len(), SYSTEM.len() - 1);
    }

    #[test]
    fn what_leads_to_a_credential_is_taken_out_and_the_rest_is_not() {
        let all =
            ["PATH", "SSH_AUTH_SOCK", "AWS_PROFILE", "MY_TOKEN", "DB_PASSWORD", "LANG", "TERM"];
        let out = leading_elsewhere(all.iter().map(OsString::from));
        assert_eq!(out, ["SSH_AUTH_SOCK", "AWS_PROFILE", "MY_TOKEN", "DB_PASSWORD"]);
    }
}
