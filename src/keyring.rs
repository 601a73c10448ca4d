//! The desktop's Secret Service (GNOME Keyring, KWallet, KeePassXC), for the
//! backend's root key and the client's master session.
//!
//! Uses the default collection alone, and only one that outlives the log-out.
//! Must never start a D-Bus, ask for a dialog, wait longer than [`TIME_LIMIT`]
//! for anything, or fall back to another collection: the session one lies in
//! memory, and a key in it is gone at log-out.
#![forbid(unsafe_code)]

use crate::core::secret::SecretBytes;
use crate::harden;
use secret_service::{Collection, EncryptionType, SecretService};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::future::Future;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The longest that one operation here may take.
pub const TIME_LIMIT: Duration = Duration::from_secs(3);

/// Secrets that we store are short; a longer one is not ours.
const MAX_SECRET_BYTES: usize = 64 * 1024;

const LOOKING: &str = "looking for the default collection";
const APPLICATION: &str = "agentkeys";

/// Something about the keyring that the person can do something about.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// The bus address is of a kind that we do not use.
    #[error(
        "DBUS_SESSION_BUS_ADDRESS names a bus by {0:?}; only unix: addresses are used, since \
         others start a program or leave this machine"
    )]
    UnsupportedBus(String),
    /// The default collection is locked.
    #[error(
        "the keyring is locked: unlock it by logging in to the desktop, in the keyring's own \
         program (such as Passwords and Keys), or without a desktop by \
         `gnome-keyring-daemon --unlock`, which reads the keyring's password from standard input"
    )]
    Locked,
    /// There is no default collection.
    #[error(
        "the keyring has no default collection: create one in the keyring's own program, or \
         without a desktop by `gnome-keyring-daemon --unlock`"
    )]
    NoDefaultCollection,
    /// The default collection is the session's, which lies in memory.
    #[error("the keyring's default collection lies in memory only and would be lost at log-out")]
    NotPersistent,
    /// Nothing answered in time, or the answer was a dialog.
    #[error("the keyring did not answer within {limit} seconds: {0}", limit = TIME_LIMIT.as_secs())]
    TimedOut(&'static str),
    /// More than one item has the attributes of one.
    #[error("the keyring holds {count} items for {what}; delete those that are not right")]
    Ambiguous {
        /// The item's label.
        what: String,
        /// How many there are.
        count: usize,
    },
    /// The item is larger than anything that we store.
    #[error("the keyring's item for {0} is larger than {MAX_SECRET_BYTES} bytes: not ours")]
    TooLarge(String),
    /// The bus or the service failed.
    #[error("the keyring failed: {doing}")]
    Service {
        /// What was tried.
        doing: &'static str,
        /// What the service or the bus said.
        #[source]
        source: Box<secret_service::Error>,
    },
}

/// What an item is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A backend's root key.
    RootKey,
    /// A client's master session.
    Session,
    /// What seals the mirror of a daemon's session.
    Mirror,
}

/// The name of one secret in the keyring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    kind: Kind,
    id: String,
    label: String,
}

impl Item {
    /// The root key of the backend with this id.
    pub fn root_key(backend_id: &str) -> Self {
        let label = format!("AgentKeys root key of backend {backend_id}");
        Self { kind: Kind::RootKey, id: backend_id.to_owned(), label }
    }

    /// The master session for the backend that `id` names, such as its address.
    pub fn session(id: &str) -> Self {
        let label = format!("AgentKeys session at {id}");
        Self { kind: Kind::Session, id: id.to_owned(), label }
    }

    /// The key that seals the mirror of a daemon's session, at this path.
    pub fn mirror(path: &str) -> Self {
        let label = format!("AgentKeys key of {path}");
        Self { kind: Kind::Mirror, id: path.to_owned(), label }
    }

    /// What the keyring's own program shows for it.
    pub fn label(&self) -> &str {
        &self.label
    }

    fn attributes(&self) -> HashMap<&str, &str> {
        let kind = match self.kind {
            Kind::RootKey => "root-key",
            Kind::Session => "session",
            Kind::Mirror => "mirror",
        };
        HashMap::from([("application", APPLICATION), ("kind", kind), ("id", &self.id)])
    }
}

/// Where the session bus listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BusAddress(String);

impl BusAddress {
    /// The bus that the environment names; `None` if it names none.
    ///
    /// # Errors
    /// [`KeyringError::UnsupportedBus`].
    pub fn from_environment() -> Result<Option<Self>, KeyringError> {
        Self::find(
            std::env::var_os("DBUS_SESSION_BUS_ADDRESS").as_deref(),
            std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).as_deref(),
        )
    }

    /// The bus for these values of `DBUS_SESSION_BUS_ADDRESS` and
    /// `XDG_RUNTIME_DIR`; `None` if they lead to none.
    ///
    /// A set address wins; else a socket named `bus` in the runtime folder, if it
    /// is this user's own.
    ///
    /// # Errors
    /// [`KeyringError::UnsupportedBus`].
    pub fn find(
        address: Option<&OsStr>,
        runtime: Option<&Path>,
    ) -> Result<Option<Self>, KeyringError> {
        if let Some(address) = address.filter(|a| !a.is_empty()) {
            return Self::parse(&address.to_string_lossy()).map(Some);
        }
        let Some(socket) = runtime.filter(|r| r.is_absolute()).map(|r| r.join("bus")) else {
            return Ok(None);
        };
        use std::os::unix::fs::{FileTypeExt, MetadataExt};
        match std::fs::symlink_metadata(&socket) {
            Ok(m) if m.file_type().is_socket() && m.uid() == harden::effective_uid() => {
                Ok(socket.to_str().map(|path| Self(format!("unix:path={}", escape(path)))))
            }
            _ => Ok(None),
        }
    }

    /// Takes an address in D-Bus's own form.
    ///
    /// # Errors
    /// [`KeyringError::UnsupportedBus`] for every other transport than `unix:`.
    pub fn parse(address: &str) -> Result<Self, KeyringError> {
        for one in address.split(';').filter(|one| !one.is_empty()) {
            if !one.starts_with("unix:") {
                let transport = one.split(':').next().unwrap_or_default();
                return Err(KeyringError::UnsupportedBus(transport.to_owned()));
            }
        }
        Ok(Self(address.to_owned()))
    }

    /// The sockets in the file system that it names; an abstract one has no place there.
    pub fn sockets(&self) -> Vec<PathBuf> {
        let pairs = self.0.split(';').filter_map(|one| one.strip_prefix("unix:"));
        let paths = pairs.flat_map(|pairs| pairs.split(',')).filter_map(|pair| {
            let (key, value) = pair.split_once('=')?;
            matches!(key, "path" | "dir" | "tmpdir").then(|| PathBuf::from(unescape(value)))
        });
        paths.collect()
    }
}

/// Takes [`escape`] back.
fn unescape(text: &str) -> OsString {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let coded = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match coded.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    OsString::from_vec(out)
}

/// Escapes a path for an address (D-Bus specification, "Server Addresses").
fn escape(path: &str) -> String {
    use std::fmt::Write;
    path.bytes().fold(String::new(), |mut out, byte| {
        match byte {
            b'-' | b'_' | b'/' | b'.' | b'\\' | b'*' => out.push(byte.into()),
            _ if byte.is_ascii_alphanumeric() => out.push(byte.into()),
            _ => write!(out, "%{byte:02x}").expect("writing to a String cannot fail"),
        }
        out
    })
}

/// A connection to the Secret Service. Cheap to keep, and it need not be shared.
pub struct Keyring {
    service: SecretService<'static>,
}

impl Keyring {
    /// Connects to the keyring of the bus that the environment names.
    ///
    /// `None`, at once: there is no session bus, nobody listens at its address,
    /// or no program offers a Secret Service on it.
    ///
    /// # Errors
    /// Those of [`Keyring::connect_to`], and [`KeyringError::UnsupportedBus`].
    pub async fn connect() -> Result<Option<Self>, KeyringError> {
        match BusAddress::from_environment()? {
            Some(bus) => Self::connect_to(&bus).await,
            None => Ok(None),
        }
    }

    /// Connects to the keyring of `bus`; `None` as for [`Keyring::connect`].
    ///
    /// # Errors
    /// [`KeyringError::TimedOut`] and [`KeyringError::Service`].
    pub async fn connect_to(bus: &BusAddress) -> Result<Option<Self>, KeyringError> {
        let doing = "connecting to the Secret Service";
        let connect = async {
            let connection = zbus::connection::Builder::address(bus.0.as_str())?
                .method_timeout(TIME_LIMIT)
                .build()
                .await?;
            // Encrypted, so that no secret crosses the bus in the clear.
            Ok(SecretService::connect_with_existing(EncryptionType::Dh, connection).await?)
        };
        match within(doing, connect).await {
            Ok(service) => Ok(Some(Self { service })),
            Err(KeyringError::Service { source, .. }) if means_absent(&source) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Whether [`Keyring::get`] and [`Keyring::put`] could work now.
    ///
    /// # Errors
    /// [`KeyringError::Locked`], [`KeyringError::NoDefaultCollection`] and
    /// [`KeyringError::NotPersistent`] say why not; and those of
    /// [`Keyring::connect_to`].
    pub async fn check(&self) -> Result<(), KeyringError> {
        within(LOOKING, async { self.collection().await.map(drop) }).await
    }

    /// The secret of `item`; `None` if the keyring does not hold it.
    ///
    /// # Errors
    /// Those of [`Keyring::check`], [`KeyringError::Ambiguous`] and
    /// [`KeyringError::TooLarge`].
    pub async fn get(&self, item: &Item) -> Result<Option<SecretBytes>, KeyringError> {
        within("reading an item", async {
            let collection = self.collection().await?;
            let found = collection.search_items(item.attributes()).await?;
            let secret = match found.as_slice() {
                [] => return Ok(None),
                [one] => SecretBytes::new(one.get_secret().await?),
                many => {
                    let what = item.label.clone();
                    return Err(KeyringError::Ambiguous { what, count: many.len() }.into());
                }
            };
            if secret.len() > MAX_SECRET_BYTES {
                return Err(KeyringError::TooLarge(item.label.clone()).into());
            }
            Ok(Some(secret))
        })
        .await
    }

    /// Stores `secret` as `item`, in place of an older one.
    ///
    /// After [`KeyringError::TimedOut`] it may or may not be stored.
    ///
    /// # Errors
    /// Those of [`Keyring::check`].
    pub async fn put(&self, item: &Item, secret: &SecretBytes) -> Result<(), KeyringError> {
        within("storing an item", async {
            let collection = self.collection().await?;
            let replace = true;
            collection
                // Exposed because this is where it is stored; encrypted for the bus in there.
                .create_item(&item.label, item.attributes(), secret.expose(), replace, "text/plain")
                .await?;
            Ok(())
        })
        .await
    }

    /// Deletes `item`; true if there was one.
    ///
    /// # Errors
    /// Those of [`Keyring::check`].
    pub async fn delete(&self, item: &Item) -> Result<bool, KeyringError> {
        within("deleting an item", async {
            let collection = self.collection().await?;
            let found = collection.search_items(item.attributes()).await?;
            for one in &found {
                one.delete().await?;
            }
            Ok(!found.is_empty())
        })
        .await
    }

    /// The default collection, if it is unlocked and outlives the log-out.
    async fn collection(&self) -> Result<Collection<'_>, Failure> {
        use secret_service::Error::NoResult;
        let default = match self.service.get_default_collection().await {
            Err(NoResult) => return Err(KeyringError::NoDefaultCollection.into()),
            found => found?,
        };
        let in_memory = match self.service.get_collection_by_alias("session").await {
            Err(NoResult) => false,
            found => found?.collection_path == default.collection_path,
        };
        // The path that the specification gives to the one in memory, for a
        // service that has no alias for it.
        if in_memory || default.collection_path.as_str().ends_with("/collection/session") {
            return Err(KeyringError::NotPersistent.into());
        }
        if default.is_locked().await? {
            return Err(KeyringError::Locked.into());
        }
        Ok(default)
    }
}

/// An operation's failure before it has a name: our finding, or the service's.
enum Failure {
    Ours(KeyringError),
    Theirs(secret_service::Error),
}

impl From<KeyringError> for Failure {
    fn from(ours: KeyringError) -> Self {
        Self::Ours(ours)
    }
}

impl From<secret_service::Error> for Failure {
    fn from(theirs: secret_service::Error) -> Self {
        Self::Theirs(theirs)
    }
}

impl From<zbus::Error> for Failure {
    fn from(theirs: zbus::Error) -> Self {
        Self::Theirs(theirs.into())
    }
}

/// Runs one operation within the time limit.
async fn within<T>(
    doing: &'static str,
    operation: impl Future<Output = Result<T, Failure>>,
) -> Result<T, KeyringError> {
    use secret_service::Error;
    match tokio::time::timeout(TIME_LIMIT, operation).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(Failure::Ours(error))) => Err(error),
        // A dialog that was dismissed, or an item that was locked meanwhile.
        Ok(Err(Failure::Theirs(Error::Locked | Error::Prompt))) => Err(KeyringError::Locked),
        Ok(Err(Failure::Theirs(source))) if timed_out(&source) => {
            Err(KeyringError::TimedOut(doing))
        }
        Ok(Err(Failure::Theirs(source))) => {
            Err(KeyringError::Service { doing, source: source.into() })
        }
        Err(_) => Err(KeyringError::TimedOut(doing)),
    }
}

fn timed_out(error: &secret_service::Error) -> bool {
    match error {
        secret_service::Error::Zbus(zbus::Error::InputOutput(e)) => {
            e.kind() == std::io::ErrorKind::TimedOut
        }
        _ => false,
    }
}

/// Whether `error` says that there is no bus at the address, or no Secret
/// Service on it.
fn means_absent(error: &secret_service::Error) -> bool {
    use std::io::ErrorKind::{ConnectionRefused, NotFound};
    use zbus::fdo;
    match error {
        secret_service::Error::Unavailable => true,
        secret_service::Error::Zbus(
            zbus::Error::InputOutput(e) | zbus::Error::Connection(e, _),
        ) => matches!(e.kind(), NotFound | ConnectionRefused),
        secret_service::Error::Zbus(zbus::Error::MethodError(name, ..)) => matches!(
            name.as_str(),
            "org.freedesktop.DBus.Error.ServiceUnknown"
                | "org.freedesktop.DBus.Error.NameHasNoOwner"
        ),
        secret_service::Error::Zbus(zbus::Error::FDO(e)) => {
            matches!(**e, fdo::Error::ServiceUnknown(_) | fdo::Error::NameHasNoOwner(_))
        }
        secret_service::Error::ZbusFdo(e) => {
            matches!(e, fdo::Error::ServiceUnknown(_) | fdo::Error::NameHasNoOwner(_))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    ///
    /// # Errors
    /// [`KeyringError::UnsupportedBus`].
    pub fn find(address: Option<&str>, runtime: Option<&Path>) -> Option<String> {
        BusAddress::find(address.map(OsStr::new), runtime).unwrap().map(|bus| bus.0)
    }

    #[test]
    fn without_an_address_and_a_socket_there_is_no_bus() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(find(None, None), None);
        assert_eq!(find(Some(""), None), None);
        assert_eq!(find(None, Some(folder.path())), None);
        std::fs::write(folder.path().join("bus"), "not a socket").unwrap();
        assert_eq!(find(None, Some(folder.path())), None);
    }

    #[test]
    fn the_runtime_folders_socket_is_the_bus_if_no_address_is_set() {
        let folder = tempfile::Builder::new().prefix("with space").tempdir().unwrap();
        let socket = folder.path().join("bus");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let expected = format!("unix:path={}", socket.display()).replace(' ', "%20");
        assert_eq!(find(None, Some(folder.path())), Some(expected));
        let set = find(Some("unix:path=/other"), Some(folder.path()));
        assert_eq!(set.as_deref(), Some("unix:path=/other"));
    }

    #[test]
    fn a_bus_that_would_start_a_program_or_leave_the_machine_is_refused() {
        for address in [
            "autolaunch:",
            "unixexec:path=/bin/sh",
            "tcp:host=example.org,port=1",
            "unix:path=/x;autolaunch:",
        ] {
            let refused = BusAddress::parse(address);
            assert!(matches!(refused, Err(KeyringError::UnsupportedBus(_))), "{address}");
        }
    }
}
