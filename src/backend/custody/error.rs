//! What can go wrong with the root key, in words for an operator.
//!
//! Must never hold a secret: paths, names and kinds only.
use crate::core::passphrase::Unfit;
use crate::harden::SecretMemoryError;
use crate::keyring::KeyringError;
use std::io;
use std::path::PathBuf;

/// The root key could not be opened or made. Nothing was overwritten.
#[derive(Debug, thiserror::Error)]
pub enum CustodyError {
    /// `--root-key` names no kind of custody.
    #[error(
        "no such root key custody: {0:?}; it is auto, keyring, passphrase, file:PATH or \
         credential:NAME"
    )]
    Choice(String),
    /// A system call on a file or folder failed.
    #[error("cannot {doing} {}", path.display())]
    File {
        /// What was tried, such as `read`.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file or folder is not safe to rely on.
    #[error("will not use {}: {why}", path.display())]
    Unsafe {
        /// Which one.
        path: PathBuf,
        /// What is wrong, and what to do.
        why: &'static str,
    },
    /// The folder holds a store whose `root.json` is gone.
    #[error(
        "{} holds a store but no root.json, which says where its key is: restore root.json from a \
         backup, or name another folder; a new key could open nothing here",
        .0.display()
    )]
    StoreWithoutRecord(PathBuf),
    /// `root.json` is not what this version writes.
    #[error("cannot understand {}: {why}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A folder of `--dev` was opened without it, or the other way round.
    #[error(
        "{} was made {}: start it the same way, or name another folder",
        path.display(),
        if *made_by_dev { "with --dev" } else { "without --dev" }
    )]
    Dev {
        /// The data folder.
        path: PathBuf,
        /// How it was made.
        made_by_dev: bool,
    },
    /// `--root-key` contradicts what the folder was made with.
    #[error(
        "this folder's root key is kept as {recorded}, and --root-key says {asked}: leave \
             --root-key out, or give it the recorded one"
    )]
    Contradiction {
        /// What `root.json` says.
        recorded: String,
        /// What the caller said.
        asked: String,
    },
    /// The key is not where `root.json` says.
    #[error("the root key is not in {0}: bring it back; without it this data cannot be opened")]
    Missing(String),
    /// There is a key, and it is not this store's.
    #[error("the key in {0} is not the one that this data was made with, or root.json was changed")]
    Wrong(String),
    /// The passphrase does not open the wrapped key.
    #[error("wrong passphrase for {}, or the file was changed", .0.display())]
    WrongPassphrase(PathBuf),
    /// There is no passphrase to be had.
    #[error(
        "cannot read the passphrase from {from}; it can come from the file that \
             AGENTKEYS_PASSPHRASE_FILE names, from --passphrase-fd N, or from a terminal"
    )]
    NoPassphrase {
        /// Where it was looked for.
        from: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The passphrase cannot be used.
    #[error("the passphrase {0}")]
    BadPassphrase(Unfit),
    /// The content of a key file or credential is not a key.
    #[error("{} does not hold a root key: 64 hexadecimal digits", .0.display())]
    NotAKey(PathBuf),
    /// There is no keyring here.
    #[error(
        "there is no keyring here: no D-Bus session with a Secret Service (see \
         DBUS_SESSION_BUS_ADDRESS and XDG_RUNTIME_DIR)"
    )]
    NoKeyring,
    /// The keyring failed.
    #[error("cannot use the keyring for {what}")]
    Keyring {
        /// The item.
        what: String,
        /// What the keyring said.
        #[source]
        source: KeyringError,
    },
    /// No service manager handed credentials over.
    #[error(
        "cannot look for the credential {0}: CREDENTIALS_DIRECTORY is not set; start this under \
         systemd with LoadCredential= or LoadCredentialEncrypted="
    )]
    NoCredentials(String),
    /// There is nowhere to put a key file.
    #[error(
        "no place for a root key: there is no credential, no unlocked keyring, and neither \
         XDG_STATE_HOME nor HOME is set; choose one with --root-key"
    )]
    NoPlace,
    /// The derivation of a key from a passphrase failed.
    #[error("cannot derive a key from the passphrase: {0}")]
    Derivation(String),
    /// There are no pages for the key.
    #[error("cannot keep the root key in secret memory")]
    SecretMemory(#[from] SecretMemoryError),
    /// The system's generator failed.
    #[error("the system's random generator failed")]
    Random,
}
