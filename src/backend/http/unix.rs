//! A Unix socket that only this user can reach: its folder, its lock, its place in the file
//! system, and who is at the other end of each connection.
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use super::listener::BindError;
use crate::backend::peer::UnixPeer;
use crate::harden::PeerProcess;

/// The socket's place. Dropping it removes the socket and frees the lock, so it is kept until
/// the store is closed, and the next backend does not begin before this one has ended.
pub struct SocketGuard {
    path: PathBuf,
    device: u64,
    inode: u64,
    _lock: File,
}

impl Drop for SocketGuard {
    fn drop(&mut self) {
        // Only our own: somebody may have put another one in its place.
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|at| (at.dev(), at.ino()) == (self.device, self.inode));
        if ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BindError {
    let path = path.to_owned();
    move |source| BindError::System { what, path, source }
}

/// Makes the folder if it is missing, and refuses one that others could change.
fn folder(path: &Path) -> Result<fs::Metadata, BindError> {
    match fs::symlink_metadata(path) {
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
            made.map_err(failed("make the socket's folder", path))?;
        }
        _ => {}
    }
    let at = fs::symlink_metadata(path).map_err(failed("look at the socket's folder", path))?;
    let why = if at.file_type().is_symlink() {
        "it is a symbolic link"
    } else if !at.is_dir() {
        "it is no folder"
    } else if at.mode() & 0o022 != 0 {
        "other users may write to it (chmod 700 it, or use another)"
    } else {
        return Ok(at);
    };
    Err(BindError::Folder { path: path.to_owned(), why })
}

/// The path of a socket that somebody else has bound, if its folder is one that a socket of ours
/// could be in.
pub fn path_of_given(socket: &UnixListener) -> Result<PathBuf, BindError> {
    let nameless = || BindError::Given("it is a Unix socket without a path");
    let address = socket.local_addr().map_err(|_| nameless())?;
    let path = address.as_pathname().ok_or_else(nameless)?;
    folder(path.parent().unwrap_or(Path::new("/")))?;
    Ok(path.to_owned())
}

/// Binds under a lock, to a name nobody uses, and renames the socket into its place: whoever
/// finds it there can connect to it, and two backends never share one.
pub fn bind(path: &Path) -> Result<(UnixListener, SocketGuard), BindError> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(BindError::Folder { path: path.to_owned(), why: "it names no socket in it" });
    };
    let in_folder = folder(parent)?;
    let mut lock_name = name.to_owned();
    lock_name.push(".lock");
    let lock_path = parent.join(lock_name);
    // Nobody but this user can have put a link there: the folder was just looked at.
    let mut opening = OpenOptions::new();
    opening.create(true).truncate(false).write(true).mode(0o600);
    let lock = opening.open(&lock_path).map_err(failed("open the lock", &lock_path))?;
    let owner = lock.metadata().map_err(failed("look at the lock", &lock_path))?.uid();
    if owner != in_folder.uid() {
        let _ = fs::remove_file(&lock_path);
        return Err(BindError::Folder { path: parent.to_owned(), why: "it is another user's" });
    }
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(BindError::AlreadyRunning(path.to_owned())),
        Err(TryLockError::Error(source)) => {
            return Err(failed("take the lock", &lock_path)(source));
        }
    }
    match fs::symlink_metadata(path) {
        Ok(at) if !at.file_type().is_socket() => {
            return Err(BindError::Occupied(path.to_owned()));
        }
        Ok(_) if UnixStream::connect(path).is_ok() => {
            return Err(BindError::AlreadyRunning(path.to_owned()));
        }
        // Missing, or left behind by one that was killed.
        _ => {}
    }
    let new = parent.join(format!(".{}.sock", std::process::id()));
    let _ = fs::remove_file(&new);
    let listener = UnixListener::bind(&new).map_err(failed("bind the socket", path))?;
    let placed = fs::set_permissions(&new, Permissions::from_mode(0o600))
        .and_then(|()| fs::symlink_metadata(&new))
        .and_then(|at| fs::rename(&new, path).map(|()| at));
    let at = placed.map_err(|source| {
        let _ = fs::remove_file(&new);
        failed("put the socket into its place", path)(source)
    })?;
    let (device, inode) = (at.dev(), at.ino());
    Ok((listener, SocketGuard { path: path.to_owned(), device, inode, _lock: lock }))
}

/// Who connected, as the kernel says.
pub fn peer(stream: &tokio::net::UnixStream) -> io::Result<UnixPeer> {
    let cred = stream.peer_cred()?;
    let program = cred.pid().and_then(|pid| fs::read_link(format!("/proc/{pid}/exe")).ok());
    let pid = cred.pid().and_then(|pid| u32::try_from(pid).ok());
    let process = pid.and_then(|pid| PeerProcess::of(stream.as_fd(), pid));
    Ok(UnixPeer { uid: cred.uid(), pid: cred.pid(), process, program })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn the_folder_is_0700_and_the_socket_0600_and_both_are_gone_or_free_afterwards() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("run/agentkeys/backend.sock");
        let (listener, guard) = bind(&path).unwrap();
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        assert_eq!(mode(&path), 0o600);
        assert!(matches!(bind(&path), Err(BindError::AlreadyRunning(_))));
        drop((listener, guard));
        assert!(!path.exists());
        assert!(bind(&path).is_ok());
    }

    #[test]
    fn a_socket_left_behind_is_replaced_and_a_live_or_foreign_file_is_not() {
        let home = tempfile::tempdir().unwrap();
        fs::set_permissions(home.path(), Permissions::from_mode(0o700)).unwrap();
        let path = home.path().join("backend.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(bind(&path).unwrap());
        let live = UnixListener::bind(&path).unwrap();
        assert!(matches!(bind(&path), Err(BindError::AlreadyRunning(_))));
        drop(live);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "mine").unwrap();
        assert!(matches!(bind(&path), Err(BindError::Occupied(_))));
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }

    #[test]
    fn a_linked_or_writable_folder_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let real = home.path().join("real");
        fs::create_dir(&real).unwrap();
        fs::set_permissions(&real, Permissions::from_mode(0o700)).unwrap();
        let link = home.path().join("link");
        std::os::unix::fs::symlink(&real, &link).unwrap();
        assert!(matches!(bind(&link.join("s")), Err(BindError::Folder { .. })));
        fs::set_permissions(&real, Permissions::from_mode(0o770)).unwrap();
        assert!(matches!(bind(&real.join("s")), Err(BindError::Folder { .. })));
        assert_eq!(fs::read_dir(&real).unwrap().count(), 0);
    }

    #[test]
    fn a_guard_leaves_another_one_s_socket_alone() {
        let home = tempfile::tempdir().unwrap();
        fs::set_permissions(home.path(), Permissions::from_mode(0o700)).unwrap();
        let path = home.path().join("backend.sock");
        let (_listener, guard) = bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(guard);
        assert!(path.exists());
    }
}
