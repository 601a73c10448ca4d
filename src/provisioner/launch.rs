//! The sockets of one run, and how the supervisor is started with its ends of them.
//!
//! All three are socket pairs and no pipes: the end of a pipe can be opened once more through
//! `/proc/<pid>/fd` by any process of the same user, and that of a socket cannot.
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use tokio::net::UnixStream;

use super::failure;
use crate::core::identity::ServiceName;
use crate::core::problem::Answer;

/// The ends of whoever wants the key.
pub struct Ends {
    /// To the supervisor, which ends the run when this is closed, and says here how it ended.
    pub control: UnixStream,
    /// The recipe's input and output.
    pub recipe: UnixStream,
    /// What the recipe says beside.
    pub stderr: UnixStream,
}

/// The other ends, in the order in which they are passed on: control, recipe, stderr.
pub struct Theirs([OwnedFd; 3]);

impl Ends {
    /// Three socket pairs. Called inside a runtime.
    ///
    /// # Errors
    /// Those of `socketpair`.
    pub fn pairs() -> io::Result<(Self, Theirs)> {
        let pair = || -> io::Result<(UnixStream, OwnedFd)> {
            let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
            ours.set_nonblocking(true)?;
            Ok((UnixStream::from_std(ours)?, theirs.into()))
        };
        let ((control, one), (recipe, two), (stderr, three)) = (pair()?, pair()?, pair()?);
        Ok((Self { control, recipe, stderr }, Theirs([one, two, three])))
    }
}

impl Theirs {
    /// What was passed on; `None` unless it is three.
    pub fn of(descriptors: Vec<OwnedFd>) -> Option<Self> {
        descriptors.try_into().ok().map(Self)
    }

    /// To be passed on.
    pub fn as_fds(&self) -> [BorrowedFd<'_>; 3] {
        self.0.each_ref().map(AsFd::as_fd)
    }
}

/// Starts the supervisor of a recipe from this very process, and gives its ends.
///
/// # Errors
/// `PROVISION_FAILED`: the system refused.
pub fn start(service: &ServiceName) -> Answer<Ends> {
    let started = Ends::pairs().and_then(|(ends, theirs)| launch(service, theirs).map(|()| ends));
    started.map_err(|error| failure::not_started(&error))
}

/// Starts the supervisor of a recipe for `service` with its ends, in a process group of its own,
/// and keeps none of them.
///
/// # Errors
/// Those of `fork` and `execve`.
pub fn launch(service: &ServiceName, theirs: Theirs) -> io::Result<()> {
    let Theirs([control, recipe, stderr]) = theirs;
    let mut child = Command::new("/proc/self/exe")
        .args(["provisioner", "run", service.as_str()])
        .stdin(Stdio::from(control))
        .stdout(Stdio::from(recipe))
        .stderr(Stdio::from(stderr))
        .process_group(0)
        .spawn()?;
    // It ends by itself; somebody has to collect it.
    std::thread::Builder::new().name("reap".to_owned()).spawn(move || child.wait())?;
    Ok(())
}
