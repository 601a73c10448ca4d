//! Gets the passphrase: from a file, an inherited descriptor, or a person at a
//! terminal.
//!
//! Must never take it from an argument or an environment variable, which other
//! processes can read, or wait for ever for anybody but a person.
use super::error::CustodyError;
use crate::core::passphrase::{self, MAX_BYTES, Unfit};
use crate::core::secret::SecretBytes;
use crate::harden;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use zeroize::Zeroizing;

/// How long a file or descriptor may take to be read to its end.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// Where the passphrase comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PassphraseSource {
    /// The content of a file, without its last line end.
    File(PathBuf),
    /// What an inherited descriptor gives until its end, without its last line end.
    Descriptor(i32),
    /// A hidden prompt on the terminal.
    Terminal,
}

/// What the passphrase is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Opening what it already protects.
    Open,
    /// Protecting something new: asked for twice, and not too short.
    Create,
}

/// A passphrase, and what the operator should know about its source.
pub(super) struct Passphrase {
    pub(super) secret: SecretBytes,
    pub(super) warning: Option<String>,
}

/// Gets the passphrase. A person has all the time there is; a file or
/// descriptor has [`TIME_LIMIT`].
///
/// # Errors
/// [`CustodyError::NoPassphrase`], [`CustodyError::BadPassphrase`], and
/// [`CustodyError::Unsafe`] for a file that others can change.
pub(super) async fn get(
    source: &PassphraseSource,
    purpose: Purpose,
) -> Result<Passphrase, CustodyError> {
    let from = match source {
        PassphraseSource::File(path) => path.display().to_string(),
        PassphraseSource::Descriptor(number) => format!("descriptor {number}"),
        PassphraseSource::Terminal => "the terminal".to_owned(),
    };
    let limit = match source {
        PassphraseSource::Terminal => None,
        _ => Some(TIME_LIMIT),
    };
    let unread = |source| CustodyError::NoPassphrase { from: from.clone(), source };
    let source = source.clone();
    let got = on_a_thread(limit, move || match source {
        PassphraseSource::File(path) => from_file(&path),
        PassphraseSource::Descriptor(number) => {
            Ok(Ok(plain(read_limited(harden::duplicate_descriptor(number)?)?)))
        }
        PassphraseSource::Terminal => from_terminal(purpose),
    })
    .await
    .map_err(unread)??;
    checked(got, purpose)
}

fn plain(secret: SecretBytes) -> Passphrase {
    Passphrase { secret, warning: None }
}

/// Runs something that blocks on a thread of its own, which a runtime's end
/// does not wait for.
async fn on_a_thread<T: Send + 'static>(
    limit: Option<Duration>,
    blocking: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (tell, told) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("passphrase".into()).spawn(move || {
        // Nobody listens any more after the time limit: nothing is lost with it.
        let _ = tell.send(blocking());
    })?;
    let told = async { told.await.unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into())) };
    match limit {
        None => told.await,
        Some(limit) => tokio::time::timeout(limit, told)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
    }
}

/// Container platforms mount such files as links, readable by all: that is a
/// warning. One that another user could write is refused.
fn from_file(path: &Path) -> io::Result<Result<Passphrase, CustodyError>> {
    let file = File::open(path)?;
    let meta = file.metadata()?;
    let refuse = |why| Ok(Err(CustodyError::Unsafe { path: path.to_owned(), why }));
    if meta.is_dir() {
        return refuse("it is a folder");
    }
    if meta.uid() != 0 && meta.uid() != harden::effective_uid() {
        return refuse("it belongs to another user");
    }
    if meta.is_file() && meta.mode() & 0o022 != 0 {
        return refuse("other users can change it: chmod go-w");
    }
    let warning = (meta.is_file() && meta.mode() & 0o044 != 0)
        .then(|| format!("other users can read the passphrase in {}: chmod 400", path.display()));
    Ok(Ok(Passphrase { secret: read_limited(file)?, warning }))
}

/// Reads to the end; one byte more than allowed is read, so that [`checked`]
/// sees that it is too long.
fn read_limited(file: File) -> io::Result<SecretBytes> {
    // At full size from the start: growing would leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_BYTES + 3));
    file.take(MAX_BYTES as u64 + 3).read_to_end(&mut bytes)?;
    let end = match bytes.as_slice() {
        [.., b'\r', b'\n'] => 2,
        [.., b'\n'] => 1,
        _ => 0,
    };
    let length = bytes.len() - end;
    bytes.truncate(length);
    Ok(SecretBytes::new(std::mem::take(&mut *bytes)))
}

fn from_terminal(purpose: Purpose) -> io::Result<Result<Passphrase, CustodyError>> {
    let ask = |prompt: &str| -> io::Result<SecretBytes> {
        Ok(SecretBytes::new(rpassword::prompt_password(prompt)?.into_bytes()))
    };
    let first = match purpose {
        Purpose::Open => ask("Passphrase of the root key: ")?,
        Purpose::Create => ask("New passphrase for the root key: ")?,
    };
    // Exposed to be compared with each other, by the person who typed both.
    if purpose == Purpose::Create && ask("The same again: ")?.expose() != first.expose() {
        return Ok(Err(CustodyError::BadPassphrase(Unfit::TypedTwice)));
    }
    Ok(Ok(plain(first)))
}

fn checked(got: Passphrase, purpose: Purpose) -> Result<Passphrase, CustodyError> {
    match passphrase::check(&got.secret, purpose == Purpose::Create) {
        Ok(()) => Ok(got),
        Err(unfit) => Err(CustodyError::BadPassphrase(unfit)),
    }
}
