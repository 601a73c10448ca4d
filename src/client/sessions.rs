//! The master sessions of this user, one a backend: in the desktop's keyring, or where there is
//! none in one file of ours.
//!
//! A session is found by the address of the backend that gave it and by nothing else, so it is
//! never sent to another one. Must never write a session to a file while there is a keyring that
//! takes it, and never talk to a D-Bus where there is none.
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;
use zeroize::Zeroizing;

use super::files::{self, Keep, Lock};
use super::places::Places;
use crate::core::problem::{Answer, Problem};
use crate::core::secret::SecretBytes;
use crate::core::token::SessionToken;
use crate::core::types::Timestamp;
use crate::keyring::{BusAddress, Item, Keyring, KeyringError};

/// Most sessions that the file holds; the one that was stored longest ago makes room.
pub const MAX_SESSIONS: usize = 64;
/// Largest file of sessions, in bytes.
const MAX_FILE: usize = 64 * 1024;
/// How long a command waits while others change the sessions, which may include making one.
const LOCK_LIMIT: Duration = Duration::from_secs(30);

/// Where a session is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SessionPlace {
    /// In the desktop's keyring.
    Keyring,
    /// In this file, mode 0600.
    File(PathBuf),
}

/// The sessions of one user.
pub struct Sessions {
    folder: PathBuf,
    file: PathBuf,
    bus: Option<BusAddress>,
    keyring: OnceCell<Option<Keyring>>,
}

/// The right to change sessions: read, decide and write without another command in between.
pub struct Change {
    _lock: Lock,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileForm<'a> {
    version: u32,
    #[serde(borrow)]
    sessions: Vec<Entry<'a>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry<'a> {
    #[serde(borrow)]
    address: Cow<'a, str>,
    /// Borrowed from what was read, which is wiped, so that no copy is left behind.
    session: &'a str,
    stored_at: Timestamp,
}

impl Sessions {
    /// The sessions of the user whose places these are, with the keyring of the session bus that
    /// the environment names. A bus of a kind that is not used is as good as none.
    pub fn new(places: &Places) -> Self {
        Self::with_bus(places, BusAddress::from_environment().unwrap_or_default())
    }

    /// The same with the keyring on `bus`, or with none.
    pub fn with_bus(places: &Places, bus: Option<BusAddress>) -> Self {
        Self {
            folder: places.state().to_path_buf(),
            file: places.sessions_file(),
            bus,
            keyring: OnceCell::new(),
        }
    }

    /// Where a session that is stored now goes, as far as that is known without asking a keyring.
    pub fn place(&self) -> SessionPlace {
        let keyring = match self.keyring.get() {
            Some(keyring) => keyring.is_some(),
            None => self.bus.is_some(),
        };
        if keyring { SessionPlace::Keyring } else { SessionPlace::File(self.file.clone()) }
    }

    /// The session that the backend at `address` gave; `None` if none is kept.
    ///
    /// # Errors
    /// `INTERNAL` for a keyring that does not answer or is locked, or a file that is not ours
    /// alone or does not read.
    pub async fn get(&self, address: &str) -> Answer<Option<SessionToken>> {
        let found = self.in_keyring(address).await;
        if let Ok(Some(session)) = found {
            return Ok(Some(session));
        }
        // From before there was a keyring.
        match self.in_file(address)? {
            None => found,
            session => Ok(session),
        }
    }

    /// Waits until no other command changes the sessions.
    ///
    /// # Errors
    /// `UNAVAILABLE` when that takes longer than 30 seconds.
    pub async fn change(&self) -> Answer<Change> {
        files::make_folder(&self.folder)?;
        let lock = files::lock(&self.folder.join("sessions.lock"), LOCK_LIMIT).await?;
        Ok(Change { _lock: lock })
    }

    /// Stores the session that the backend at `address` gave, in place of an older one, and says
    /// where.
    ///
    /// # Errors
    /// Those of [`Sessions::get`]; the older one is then still there.
    pub async fn put(
        &self,
        _change: &Change,
        address: &str,
        session: &SessionToken,
        now: Timestamp,
    ) -> Answer<SessionPlace> {
        if let Some(keyring) = self.keyring().await? {
            // Exposed because this is where it is stored.
            let secret = SecretBytes::new(session.expose().as_bytes().to_vec());
            match keyring.put(&Item::session(address), &secret).await {
                Ok(()) => {
                    self.rewrite(address, None)?;
                    return Ok(SessionPlace::Keyring);
                }
                Err(error) if is_no_keyring(&error) => {}
                Err(error) => return Err(keyring_problem(&error)),
            }
        }
        self.rewrite(address, Some((session, now)))?;
        Ok(SessionPlace::File(self.file.clone()))
    }

    /// Forgets the session of the backend at `address`, wherever it is.
    ///
    /// # Errors
    /// Those of [`Sessions::get`].
    pub async fn forget(&self, _change: &Change, address: &str) -> Answer<()> {
        // The file first: it is in our hands, whatever the keyring says.
        self.rewrite(address, None)?;
        let Some(keyring) = self.keyring().await? else { return Ok(()) };
        match keyring.delete(&Item::session(address)).await {
            Err(error) if !is_no_keyring(&error) => Err(keyring_problem(&error)),
            _ => Ok(()),
        }
    }

    async fn keyring(&self) -> Answer<Option<&Keyring>> {
        let Some(bus) = &self.bus else { return Ok(None) };
        let connect = || async {
            match Keyring::connect_to(bus).await {
                Err(error) if !is_no_keyring(&error) => Err(keyring_problem(&error)),
                found => Ok(found.unwrap_or_default()),
            }
        };
        Ok(self.keyring.get_or_try_init(connect).await?.as_ref())
    }

    async fn in_keyring(&self, address: &str) -> Answer<Option<SessionToken>> {
        let Some(keyring) = self.keyring().await? else { return Ok(None) };
        let secret = match keyring.get(&Item::session(address)).await {
            Ok(None) => return Ok(None),
            Err(error) if is_no_keyring(&error) => return Ok(None),
            Err(error) => return Err(keyring_problem(&error)),
            Ok(Some(secret)) => secret,
        };
        // Exposed to become the token again.
        let text = std::str::from_utf8(secret.expose()).ok();
        match text.and_then(|text| SessionToken::parse(text).ok()) {
            Some(session) => Ok(Some(session)),
            None => Err(files::trouble(
                "the keyring's session is damaged",
                format!("what it holds for {address} is no session token"),
                "agentkeys init",
            )),
        }
    }

    fn in_file(&self, address: &str) -> Answer<Option<SessionToken>> {
        let Some(bytes) = files::read(&self.file, MAX_FILE)? else { return Ok(None) };
        let form = parse(&self.file, &bytes)?;
        let Some(entry) = form.sessions.iter().find(|entry| entry.address == address) else {
            return Ok(None);
        };
        SessionToken::parse(entry.session).map(Some).map_err(|_| damaged(&self.file))
    }

    /// Puts one session into the file, or takes it out; the caller holds the lock.
    fn rewrite(&self, address: &str, new: Option<(&SessionToken, Timestamp)>) -> Answer<()> {
        let bytes = files::read(&self.file, MAX_FILE)?;
        let mut sessions = match &bytes {
            Some(bytes) => parse(&self.file, bytes)?.sessions,
            None => Vec::new(),
        };
        let before = sessions.len();
        sessions.retain(|entry| entry.address != address);
        match new {
            None if sessions.len() == before => return Ok(()),
            None => {}
            Some((session, now)) => {
                while sessions.len() >= MAX_SESSIONS {
                    let oldest = sessions.iter().enumerate().min_by_key(|(_, e)| e.stored_at);
                    let Some((oldest, _)) = oldest else { break };
                    sessions.remove(oldest);
                }
                // Exposed because this is where it is stored.
                let (address, session) = (Cow::Borrowed(address), session.expose());
                sessions.push(Entry { address, session, stored_at: now });
            }
        }
        // Room from the start, so that no copy is left behind where it grew.
        let mut written = Zeroizing::new(Vec::with_capacity(MAX_FILE));
        let form = FileForm { version: 1, sessions };
        serde_json::to_writer(&mut *written, &form).map_err(|_| damaged(&self.file))?;
        files::replace(&self.file, &written, Keep::Durably)
    }
}

fn parse<'a>(file: &Path, bytes: &'a [u8]) -> Answer<FileForm<'a>> {
    let form: FileForm = serde_json::from_slice(bytes).map_err(|_| damaged(file))?;
    if form.version == 1 { Ok(form) } else { Err(damaged(file)) }
}

fn damaged(file: &Path) -> Problem {
    files::trouble(
        format!("cannot read the sessions in {}", file.display()),
        "it is damaged, or a newer version wrote it",
        format!("rm {}\nagentkeys init", file.display()),
    )
}

/// Whether the keyring is as good as none: it cannot keep a session at all, and unlocking it
/// would not change that.
fn is_no_keyring(error: &KeyringError) -> bool {
    matches!(
        error,
        KeyringError::UnsupportedBus(_)
            | KeyringError::NoDefaultCollection
            | KeyringError::NotPersistent
    )
}

fn keyring_problem(error: &KeyringError) -> Problem {
    let mut cause = error.to_string();
    let mut below = std::error::Error::source(error);
    while let Some(why) = below {
        cause = format!("{cause}: {why}");
        below = why.source();
    }
    let fix = match error {
        KeyringError::Locked => "unlock the keyring and try again",
        _ => "agentkeys doctor",
    };
    files::trouble("cannot use the desktop's keyring for the session", cause, fix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    // Without a bus: the file. With a keyring they are tested in tests/it.
    fn sessions(home: &Path) -> Sessions {
        let variable = |name: &str| (name == "HOME").then(|| home.into());
        let places = Places::find(variable, crate::harden::effective_uid()).unwrap();
        Sessions::with_bus(&places, None)
    }

    fn token(n: u8) -> SessionToken {
        SessionToken::master(&[n; 32])
    }

    async fn put(sessions: &Sessions, address: &str, n: u8, now: u64) -> SessionPlace {
        let change = sessions.change().await.unwrap();
        sessions.put(&change, address, &token(n), Timestamp(now)).await.unwrap()
    }

    async fn get(sessions: &Sessions, address: &str) -> Option<String> {
        sessions.get(address).await.unwrap().map(|session| session.expose().to_owned())
    }

    #[tokio::test]
    async fn a_session_goes_only_to_the_address_that_gave_it() {
        let home = tempfile::tempdir().unwrap();
        let sessions = sessions(home.path());
        assert_eq!(get(&sessions, "unix:/a").await, None);
        assert_eq!(put(&sessions, "unix:/a", 1, 1).await, sessions.place());
        put(&sessions, "unix:/a\"b\\", 2, 2).await;
        assert_eq!(get(&sessions, "unix:/a").await.as_deref(), Some(token(1).expose()));
        assert_eq!(get(&sessions, "unix:/a\"b\\").await.as_deref(), Some(token(2).expose()));
        for other in ["unix:/A", "unix:/a/", "unix:/", "", "http://127.0.0.1:1"] {
            assert_eq!(get(&sessions, other).await, None, "{other}");
        }
        put(&sessions, "unix:/a", 3, 3).await;
        assert_eq!(get(&sessions, "unix:/a").await.as_deref(), Some(token(3).expose()));
        let change = sessions.change().await.unwrap();
        sessions.forget(&change, "unix:/a").await.unwrap();
        assert_eq!(get(&sessions, "unix:/a").await, None);
        let left = std::fs::read_to_string(&sessions.file).unwrap();
        assert!(!left.contains(token(3).expose()) && left.contains(token(2).expose()));
    }

    #[tokio::test]
    async fn the_one_stored_longest_ago_makes_room_and_the_file_stays_readable() {
        let home = tempfile::tempdir().unwrap();
        let sessions = sessions(home.path());
        let long = "x".repeat(120);
        for n in 0..=MAX_SESSIONS {
            // Later calls are older, but for the last.
            let when = if n == MAX_SESSIONS { 10_000 } else { 1000 - n as u64 };
            put(&sessions, &format!("unix:/{long}{n}"), n as u8, when).await;
        }
        let address = |n: usize| format!("unix:/{long}{n}");
        assert_eq!(get(&sessions, &address(MAX_SESSIONS - 1)).await, None);
        assert!(get(&sessions, &address(MAX_SESSIONS)).await.is_some());
        assert!(get(&sessions, &address(0)).await.is_some());
    }

    #[tokio::test]
    async fn a_damaged_file_is_an_error_and_is_not_overwritten() {
        let home = tempfile::tempdir().unwrap();
        let sessions = sessions(home.path());
        put(&sessions, "unix:/a", 1, 1).await;
        for bad in ["", "{", "{\"version\":2,\"sessions\":[]}", "{\"version\":1,\"sessions\":[{}]}"]
        {
            files::replace(&sessions.file, bad.as_bytes(), Keep::Cheaply).unwrap();
            assert!(sessions.get("unix:/a").await.is_err(), "{bad}");
            let change = sessions.change().await.unwrap();
            let put = sessions.put(&change, "unix:/a", &token(1), Timestamp(1)).await;
            assert!(put.is_err(), "{bad}");
            assert_eq!(std::fs::read_to_string(&sessions.file).unwrap(), bad);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn commands_at_once_do_not_lose_each_others_sessions() {
        let home = tempfile::tempdir().unwrap();
        let home: Arc<Path> = home.path().into();
        let many = (0..24).map(|n| {
            let home = Arc::clone(&home);
            tokio::spawn(async move {
                put(&sessions(&home), &format!("unix:/{n}"), n, u64::from(n)).await;
            })
        });
        for one in many.collect::<Vec<_>>() {
            one.await.unwrap();
        }
        for n in 0..24 {
            let found = get(&sessions(&home), &format!("unix:/{n}")).await;
            assert_eq!(found.as_deref(), Some(token(n).expose()));
        }
    }
}
