//! The place that just one daemon of an agent has on this machine: the lock that it holds for
//! life, the record that says where it is, and its socket.
//!
//! Must never put a socket where others could reach it or replace one that somebody listens at,
//! and never touch record or socket without the lock.
use std::ffi::OsString;
use std::fs::Permissions;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::net::UnixListener;

use crate::client::files::{self, Keep, Lock};
use crate::client::holder::{HolderClient, Record};
use crate::client::places::{MAX_SOCKET_PATH, Places};
use crate::core::identity::Alias;
use crate::core::problem::{Answer, Code, Problem};

/// Where the daemons of one agent meet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seat {
    own: Vec<PathBuf>,
    strict: Vec<PathBuf>,
    socket: PathBuf,
    lock: PathBuf,
    record: PathBuf,
}

impl Seat {
    /// The seat of the agent that this machine calls `name`; `socket` is where its user wants it
    /// to listen instead of the usual place. Makes nothing yet.
    ///
    /// # Errors
    /// `INVALID` without a home folder, or for a path that no socket can have.
    pub fn new(places: &Places, name: Option<&Alias>, socket: Option<&Path>) -> Answer<Self> {
        let socket = match socket {
            Some(path) => checked(path)?,
            None => places.holder_socket(name),
        };
        let mut own = vec![places.daemon_folder(name)?];
        own.extend(socket.starts_with(places.state()).then(|| places.state().to_owned()));
        Ok(Self {
            own,
            strict: places.socket_folders(&socket),
            lock: places.holder_lock(name)?,
            record: places.holder_record(name)?,
            socket,
        })
    }

    /// Where the holder listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The folders that a holder writes in: what must stay open to it when it is confined.
    pub fn folders(&self) -> impl Iterator<Item = &Path> {
        self.lock.parent().into_iter().chain(self.socket.parent())
    }

    /// Makes the folders. Asked for again where they are there, it only checks them.
    ///
    /// # Errors
    /// `INTERNAL` for one that is not this user's alone.
    pub fn prepare(&self) -> Answer<()> {
        for folder in &self.own {
            files::make_folder(folder)?;
        }
        for folder in &self.strict {
            files::make_strict_folder(folder)?;
        }
        files::check_strict_folder(self.socket.parent().unwrap_or(Path::new("/")))
    }

    /// Takes the seat if it is free; it is, until what this gives is dropped or the process ends.
    ///
    /// # Errors
    /// `INTERNAL` when the lock's place is not this user's alone.
    pub async fn take(&self) -> Answer<Option<Lock>> {
        for folder in &self.own {
            files::make_folder(folder)?;
        }
        match files::lock(&self.lock, Duration::ZERO).await {
            Ok(lock) => Ok(Some(lock)),
            Err(problem) if problem.code == Code::Unavailable => Ok(None),
            Err(problem) => Err(problem),
        }
    }

    /// The way to whoever has the seat, as far as it has written that down.
    ///
    /// # Errors
    /// `INTERNAL` for a record that others could have written.
    pub fn occupant(&self) -> Answer<Option<HolderClient>> {
        Ok(Record::read(&self.record)?.map(HolderClient::of))
    }

    /// Binds the socket under a name that nobody uses, renames it into its place, where whoever
    /// finds it can connect, and writes the record. `_lock` is the proof that the seat is ours.
    ///
    /// # Errors
    /// `INTERNAL` for a folder that is not this user's alone, `UNAVAILABLE` where somebody else
    /// listens, which is another agent's daemon or another program.
    pub fn bind(&self, _lock: &Lock) -> Answer<(UnixListener, Bound)> {
        self.prepare()?;
        match std::fs::symlink_metadata(&self.socket) {
            Ok(at) if !at.file_type().is_socket() => {
                return Err(self.taken("a file that is no socket is there"));
            }
            // Whoever had the seat before us has ended: this is another one.
            Ok(_) if StdStream::connect(&self.socket).is_ok() => {
                return Err(self.taken("another program listens there"));
            }
            // Missing, or left behind by one that was killed.
            _ => {}
        }
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed) % 1000;
        let new = self.socket.with_file_name(format!(".{}.{count}", std::process::id()));
        let failed = |error| files::failed("listen at", &self.socket, &error);
        // Left by a process of the same number that was killed.
        let _ = std::fs::remove_file(&new);
        let listener = StdListener::bind(&new).map_err(failed)?;
        let placed = std::fs::set_permissions(&new, Permissions::from_mode(0o600))
            .and_then(|()| listener.set_nonblocking(true))
            .and_then(|()| std::fs::symlink_metadata(&new))
            .and_then(|at| std::fs::rename(&new, &self.socket).map(|()| at));
        let at = placed.map_err(|error| {
            let _ = std::fs::remove_file(&new);
            failed(error)
        })?;
        let bound = Bound {
            socket: self.socket.clone(),
            record: self.record.clone(),
            device: at.dev(),
            inode: at.ino(),
        };
        let record = Record { pid: std::process::id(), socket: self.socket.clone() };
        let record = serde_json::to_vec(&record).map_err(|_| {
            let why = "its path is not UTF-8, so that it could not be written down";
            Problem::invalid("the socket's path", why)
        })?;
        files::replace(&self.record, &record, Keep::Cheaply)?;
        Ok((UnixListener::from_std(listener).map_err(failed)?, bound))
    }

    fn taken(&self, why: &str) -> Problem {
        Problem::new(
            Code::Unavailable,
            format!("cannot listen at {}", self.socket.display()),
            why,
            "give this daemon a place of its own: --socket /absolute/path",
        )
    }
}

/// A path that a user names for a socket, made absolute.
fn checked(path: &Path) -> Answer<PathBuf> {
    let wrong = |why: &str| Err(Problem::invalid("--socket", why));
    let Ok(path) = std::path::absolute(path) else { return wrong("it is empty") };
    if path.components().any(|part| part == Component::ParentDir) {
        return wrong("its path holds a ..");
    }
    if path.as_os_str().len() > MAX_SOCKET_PATH {
        return wrong("its path is longer than 100 bytes");
    }
    if path.file_name().map(OsString::from).is_none() || path.to_str().is_none() {
        return wrong("it wants the path of a file, in UTF-8");
    }
    Ok(path)
}

/// A socket in its place. Dropping it removes socket and record; the lock is held until then.
#[derive(Debug)]
pub struct Bound {
    socket: PathBuf,
    record: PathBuf,
    device: u64,
    inode: u64,
}

impl Drop for Bound {
    fn drop(&mut self) {
        // Only our own: somebody may have put another one in its place.
        let ours = std::fs::symlink_metadata(&self.socket)
            .is_ok_and(|at| (at.dev(), at.ino()) == (self.device, self.inode));
        if ours {
            let _ = std::fs::remove_file(&self.socket);
        }
        // If it stays, it names a process that has ended and a socket where nobody listens.
        let _ = std::fs::remove_file(&self.record);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seat(home: &Path, socket: Option<&Path>) -> Seat {
        let find = |name: &str| (name == "HOME").then(|| home.into());
        let places = Places::find(find, crate::harden::effective_uid()).unwrap();
        Seat::new(&places, None, socket).unwrap()
    }

    fn mode(path: &Path) -> u32 {
        std::fs::symlink_metadata(path).unwrap().mode() & 0o777
    }

    #[tokio::test]
    async fn one_has_the_seat_and_what_it_made_is_gone_afterwards() {
        let home = tempfile::tempdir().unwrap();
        let seat = seat(home.path(), None);
        let lock = seat.take().await.unwrap().unwrap();
        assert!(seat.take().await.unwrap().is_none());
        let (listener, bound) = seat.bind(&lock).unwrap();
        assert_eq!((mode(seat.socket()), mode(seat.socket().parent().unwrap())), (0o600, 0o700));
        assert_eq!(seat.occupant().unwrap().unwrap().pid(), Some(std::process::id()));
        assert!(seat.occupant().unwrap().unwrap().is_there().await.unwrap());
        drop((listener, bound));
        assert!(!seat.socket().exists() && seat.occupant().unwrap().is_none());
        drop(lock);
        assert!(seat.take().await.unwrap().is_some());
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_or_foreign_file_is_not() {
        let home = tempfile::tempdir().unwrap();
        let seat = seat(home.path(), None);
        let lock = seat.take().await.unwrap().unwrap();
        seat.prepare().unwrap();
        drop(StdListener::bind(seat.socket()).unwrap());
        drop(seat.bind(&lock).unwrap());
        let live = StdListener::bind(seat.socket()).unwrap();
        assert!(seat.bind(&lock).unwrap_err().cause.contains("another program listens"));
        drop(live);
        std::fs::remove_file(seat.socket()).unwrap();
        std::fs::write(seat.socket(), "mine").unwrap();
        assert!(seat.bind(&lock).unwrap_err().cause.contains("no socket"));
        assert_eq!(std::fs::read(seat.socket()).unwrap(), b"mine");
    }

    #[tokio::test]
    async fn a_place_that_is_not_ours_alone_is_refused() {
        let private = Permissions::from_mode(0o700);
        let home = tempfile::Builder::new().permissions(private).tempdir().unwrap();
        let open = home.path().join("open");
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, Permissions::from_mode(0o755)).unwrap();
        let in_open = seat(home.path(), Some(&open.join("s")));
        let lock = in_open.take().await.unwrap().unwrap();
        let refused = in_open.bind(&lock).unwrap_err();
        assert!(refused.cause.contains("open to others"), "{refused:?}");
        assert!(refused.detail.ends_with("/open"), "{refused:?}");
        drop(lock);
        let real = home.path().join("real");
        let link = home.path().join("link");
        files::make_strict_folder(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let linked = seat(home.path(), Some(&link.join("s")));
        let lock = linked.take().await.unwrap().unwrap();
        let refused = linked.bind(&lock).unwrap_err();
        assert!(refused.cause.contains("link"), "{refused:?}");
        // Right in a folder that everybody writes to.
        let shared = seat(home.path(), Some(Path::new("/tmp/agentkeys-never-there.sock")));
        assert!(shared.bind(&lock).is_err());
        assert!(!shared.socket().exists());
    }

    #[test]
    fn a_path_that_no_socket_can_have_is_refused() {
        for bad in ["", "/", "/a/../b", &format!("/{}", "x".repeat(100))] {
            assert_eq!(checked(Path::new(bad)).unwrap_err().code, Code::Invalid, "{bad}");
        }
        assert!(checked(Path::new("here.sock")).unwrap().is_absolute());
    }
}
