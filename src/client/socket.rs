//! Opens a Unix socket of this user's own, the private backend's or a daemon's, and checks who is
//! behind it.
//!
//! Must never hand on a connection to a process that could be anybody's.
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::net::UnixStream;

use super::files;
use crate::core::problem::{Answer, Code, Problem};
use crate::harden;

/// How long a listener whose queue is full is tried again.
const PATIENCE: Duration = Duration::from_secs(5);

/// A connection to a process of this user.
#[derive(Debug)]
pub struct Reached {
    /// The connection, checked.
    pub stream: UnixStream,
    /// The listener's process, where the kernel says which.
    pub pid: Option<u32>,
}

/// Connects to the private backend at `socket`; `None` if nobody listens there.
///
/// # Errors
/// `UNAVAILABLE` when the connection fails for another reason, `INTERNAL` for a socket
/// whose folder is open to others, `DENIED` for one that another user listens at.
pub async fn reach(socket: &Path) -> Answer<Option<Reached>> {
    reach_a("backend", socket).await
}

/// The same for any listener; `what` is its name in errors.
///
/// # Errors
/// Those of [`reach`].
pub async fn reach_a(what: &str, socket: &Path) -> Answer<Option<Reached>> {
    let folder = socket.parent().unwrap_or(Path::new("/"));
    match std::fs::symlink_metadata(folder) {
        Err(error) if is_absent(error.kind()) => return Ok(None),
        _ => files::check_strict_folder(folder)?,
    }
    let begun = Instant::now();
    let stream = loop {
        match UnixStream::connect(socket).await {
            Ok(stream) => break stream,
            Err(error) if is_absent(error.kind()) => return Ok(None),
            // The listener's queue is full: many commands at once.
            Err(error) if error.kind() == ErrorKind::WouldBlock && begun.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            Err(error) => return Err(unreachable(what, socket, &error.to_string())),
        }
    };
    let peer = stream.peer_cred().map_err(|error| unreachable(what, socket, &error.to_string()))?;
    let us = harden::effective_uid();
    if peer.uid() != us {
        return Err(Problem::new(
            Code::Denied,
            format!("the {what} at unix:{} is not one to trust", socket.display()),
            format!("user {} runs it, and we are user {us}", peer.uid()),
            "find out what that program is; set XDG_RUNTIME_DIR to a folder of your own",
        ));
    }
    let pid = peer.pid().and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0);
    Ok(Some(Reached { stream, pid }))
}

fn is_absent(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::ConnectionRefused)
}

fn unreachable(what: &str, socket: &Path, cause: &str) -> Problem {
    Problem::new(
        Code::Unavailable,
        format!("cannot reach the {what} at unix:{}", socket.display()),
        cause,
        "agentkeys doctor",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use tokio::net::UnixListener;

    fn own_folder() -> tempfile::TempDir {
        let mode = PermissionsExt::from_mode(0o700);
        tempfile::Builder::new().permissions(mode).tempdir().unwrap()
    }

    #[tokio::test]
    async fn where_nobody_listens_there_is_no_backend_and_no_error() {
        let folder = own_folder();
        let socket = folder.path().join("s");
        assert!(reach(&folder.path().join("no/such/s")).await.unwrap().is_none());
        assert!(reach(&socket).await.unwrap().is_none());
        drop(UnixListener::bind(&socket).unwrap());
        assert!(socket.exists());
        assert!(reach(&socket).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn the_listener_is_named_by_the_kernel() {
        let folder = own_folder();
        let socket = folder.path().join("s");
        let _listener = UnixListener::bind(&socket).unwrap();
        let reached = reach(&socket).await.unwrap().unwrap();
        assert_eq!(reached.pid, Some(std::process::id()));
    }

    #[tokio::test]
    async fn a_private_socket_in_an_open_or_linked_folder_is_refused() {
        let folder = own_folder();
        let socket = folder.path().join("real/s");
        std::fs::create_dir(folder.path().join("real")).unwrap();
        let _listener = UnixListener::bind(&socket).unwrap();
        let mode = |mode| {
            let real = folder.path().join("real");
            std::fs::set_permissions(real, PermissionsExt::from_mode(mode)).unwrap();
        };
        mode(0o755);
        assert!(reach(&socket).await.unwrap_err().cause.contains("open to others"));
        mode(0o700);
        symlink(folder.path().join("real"), folder.path().join("link")).unwrap();
        let linked = reach(&folder.path().join("link/s")).await;
        assert!(linked.unwrap_err().cause.contains("link"));
        assert!(reach(&socket).await.unwrap().is_some());
    }
}
