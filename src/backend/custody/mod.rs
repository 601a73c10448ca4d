//! Custody of the root key: 256 random bits under which everything in the store
//! is encrypted, kept in the keyring, under a passphrase, in a key file or in a
//! service manager's credential.
//!
//! The key is stored first and `root.json` last, and neither is ever replaced:
//! a crash in between leaves a key that belongs to nothing, and two processes
//! that start at once end with one store. Must never make a new key where there
//! is data already, or hold the key outside secret memory longer than it takes
//! to move it.
mod choice;
mod error;
mod files;
mod hex;
mod passphrase;
mod record;
mod wrap;

pub use choice::{CustodyChoice, Surroundings};
pub use error::CustodyError;
pub use passphrase::PassphraseSource;

use crate::core::secret::SecretBytes;
use crate::harden::Hidden;
use crate::keyring::{BusAddress, Item, Keyring, KeyringError};
use files::{Owner, Published};
use passphrase::Purpose;
use record::{Custody, Identity, Record};
use ring::rand::SecureRandom;
use std::path::{Path, PathBuf};

/// The credential that `auto` looks for.
const DEFAULT_CREDENTIAL: &str = "agentkeys-root-key";

/// An open root key and what belongs to it.
pub struct Opened {
    /// The root key.
    pub root: Hidden<[u8; 32]>,
    /// Names this store for good; not secret.
    pub backend_id: [u8; 16],
    /// Whether the store was made by `--dev`.
    pub dev: bool,
    /// Where the key is kept: `keyring`, `passphrase`, `file` or `credential`.
    pub custody: &'static str,
    /// What the operator should be told at every start.
    pub warnings: Vec<String>,
    /// Whether this call made the store.
    pub created: bool,
}

/// Opens the root key of the store in `data`, or makes one if there is no store.
///
/// Cancel safe: what was begun can be begun again. Takes a few seconds at most,
/// unless a person is asked for the passphrase.
///
/// # Errors
/// [`CustodyError`]; nothing that was there has been changed then.
pub async fn open_or_create(
    data: &Path,
    choice: CustodyChoice,
    dev: bool,
    surroundings: &Surroundings,
    random: &(dyn SecureRandom + Sync),
) -> Result<Opened, CustodyError> {
    files::ensure_folder(data, false)?;
    if let Some(record) = Record::read(data)? {
        return open(data, record, &choice, dev, surroundings).await;
    }
    if holds_a_store(data)? {
        return Err(CustodyError::StoreWithoutRecord(data.to_owned()));
    }
    if let Some(opened) = create(data, &choice, dev, surroundings, random).await? {
        return Ok(opened);
    }
    // Another process was first: the store is as it made it.
    match Record::read(data)? {
        Some(record) => open(data, record, &choice, dev, surroundings).await,
        None => Err(CustodyError::StoreWithoutRecord(data.to_owned())),
    }
}

/// Whether `data`, or a folder in it, has the files of a store.
fn holds_a_store(data: &Path) -> Result<bool, CustodyError> {
    let list = |folder: &Path| -> Result<Vec<PathBuf>, CustodyError> {
        let entries = std::fs::read_dir(folder).map_err(files::failed("list", folder))?;
        entries
            .map(|entry| entry.map(|e| e.path()).map_err(files::failed("list", folder)))
            .collect()
    };
    let is_of_a_store = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // sled's database, settings, blobs and snapshots; redb's one file.
        matches!(&*name, "db" | "conf" | "blobs")
            || name.starts_with("snap.")
            || name.ends_with(".redb")
    };
    for path in list(data)? {
        if is_of_a_store(&path) {
            return Ok(true);
        }
        if path.is_dir() && list(&path)?.iter().any(|inner| is_of_a_store(inner)) {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn open(
    data: &Path,
    record: Record,
    choice: &CustodyChoice,
    dev: bool,
    around: &Surroundings,
) -> Result<Opened, CustodyError> {
    agrees(&record.custody, choice)?;
    if record.identity.dev != dev {
        let (path, made_by_dev) = (data.to_owned(), record.identity.dev);
        return Err(CustodyError::Dev { path, made_by_dev });
    }
    let identity = record.identity;
    let mut warnings = Vec::new();
    let (found, place) = match &record.custody {
        Custody::Keyring {} => {
            let item = Item::root_key(&identity.id());
            let found = read_keyring(&connect(around).await?, &item).await?;
            (found, format!("the keyring's item \"{}\"", item.label()))
        }
        Custody::Passphrase { wrapped } => {
            let got = passphrase::get(&around.passphrase, Purpose::Open).await?;
            warnings.extend(got.warning);
            let path = Record::path(data);
            let header = identity.header("passphrase");
            let wrapped = wrapped.clone();
            let opened = blocking(move || wrap::unwrap(&wrapped, &got.secret, &header)).await?;
            let root = opened.map_err(|e| match e {
                wrap::Unwrap::Wrong => CustodyError::WrongPassphrase(path.clone()),
                wrap::Unwrap::Malformed(why) => {
                    CustodyError::Record { path: path.clone(), why: why.to_owned() }
                }
                wrap::Unwrap::Failed(e) => e,
            })?;
            (Some(root), path.display().to_string())
        }
        Custody::File { path, automatic } => {
            warnings.extend(clear_text_warning(data, path, *automatic));
            (files::read_key(path, Owner::OursAlone)?, path.display().to_string())
        }
        Custody::Credential { name } => {
            let path = credential_path(around, name)?;
            (files::read_key(&path, Owner::OursOrRoots)?, path.display().to_string())
        }
    };
    let Some(root) = found else { return Err(CustodyError::Missing(place)) };
    if !record.is_of(&root) {
        return Err(CustodyError::Wrong(place));
    }
    Ok(opened(root, &record, warnings, false))
}

fn opened(root: Hidden<[u8; 32]>, record: &Record, warnings: Vec<String>, created: bool) -> Opened {
    let Identity { backend_id, dev } = record.identity;
    Opened { root, backend_id, dev, custody: record.custody.kind(), warnings, created }
}

/// Whether the caller's choice is what the store was made with.
fn agrees(recorded: &Custody, choice: &CustodyChoice) -> Result<(), CustodyError> {
    let asked = match (choice, recorded) {
        (CustodyChoice::Auto, _)
        | (CustodyChoice::Keyring, Custody::Keyring {})
        | (CustodyChoice::Passphrase, Custody::Passphrase { .. }) => return Ok(()),
        (CustodyChoice::File(asked), Custody::File { path, .. }) if absolute(asked)? == *path => {
            return Ok(());
        }
        (CustodyChoice::Credential(asked), Custody::Credential { name }) if asked == name => {
            return Ok(());
        }
        (CustodyChoice::Keyring, _) => "keyring".to_owned(),
        (CustodyChoice::Passphrase, _) => "passphrase".to_owned(),
        (CustodyChoice::File(path), _) => format!("file:{}", path.display()),
        (CustodyChoice::Credential(name), _) => format!("credential:{name}"),
    };
    Err(CustodyError::Contradiction { recorded: recorded.spelled(), asked })
}

/// Makes a store's key and record; `None` if another process was first.
async fn create(
    data: &Path,
    choice: &CustodyChoice,
    dev: bool,
    around: &Surroundings,
    random: &(dyn SecureRandom + Sync),
) -> Result<Option<Opened>, CustodyError> {
    let mut backend_id = [0; 16];
    random.fill(&mut backend_id).map_err(|_| CustodyError::Random)?;
    let identity = Identity { backend_id, dev };
    let new_key = || Hidden::fill(|key| random.fill(key).map_err(|_| CustodyError::Random));
    let mut warnings = Vec::new();

    let chosen = match choice {
        CustodyChoice::Auto => automatic(&identity, around, &mut warnings).await?,
        CustodyChoice::Keyring => Place::Keyring(connect(around).await?),
        CustodyChoice::Passphrase => Place::Passphrase,
        CustodyChoice::File(path) => Place::File { path: absolute(path)?, automatic: false },
        CustodyChoice::Credential(name) => Place::Credential(name.clone()),
    };
    let (root, custody) = match &chosen {
        Place::Keyring(keyring) => {
            let root = new_key()?;
            write_keyring(keyring, &Item::root_key(&identity.id()), &root).await?;
            (root, Custody::Keyring {})
        }
        Place::Passphrase => {
            let got = passphrase::get(&around.passphrase, Purpose::Create).await?;
            warnings.extend(got.warning);
            let root = new_key()?;
            let header = identity.header("passphrase");
            let wrapped = wrap::wrap(&root, &got.secret, &header, random)?;
            (root, Custody::Passphrase { wrapped })
        }
        Place::File { path, automatic } => {
            warnings.extend(clear_text_warning(data, path, *automatic));
            let root = key_file(path, *automatic, &identity, new_key)?;
            (root, Custody::File { path: path.clone(), automatic: *automatic })
        }
        Place::Credential(name) => {
            let path = credential_path(around, name)?;
            let found = files::read_key(&path, Owner::OursOrRoots)?;
            let root = found.ok_or_else(|| CustodyError::Missing(path.display().to_string()))?;
            (root, Custody::Credential { name: name.clone() })
        }
    };
    let record = Record::new(identity, custody, &root);
    if record.publish(data)? == Published::Made {
        return Ok(Some(opened(root, &record, warnings, true)));
    }
    take_back(&chosen, &identity).await;
    Ok(None)
}

/// Where a new key goes.
enum Place {
    Keyring(Keyring),
    Passphrase,
    File { path: PathBuf, automatic: bool },
    Credential(String),
}

/// The best that there is: a credential that was handed over, an unlocked
/// keyring, or a file away from the data.
async fn automatic(
    identity: &Identity,
    around: &Surroundings,
    warnings: &mut Vec<String>,
) -> Result<Place, CustodyError> {
    if let Some(folder) = &around.credentials_folder
        && std::fs::symlink_metadata(folder.join(DEFAULT_CREDENTIAL)).is_ok()
    {
        return Ok(Place::Credential(DEFAULT_CREDENTIAL.to_owned()));
    }
    let usable = match connect(around).await {
        Ok(keyring) => match keyring.check().await {
            Ok(()) => return Ok(Place::Keyring(keyring)),
            Err(e) => Some(e),
        },
        Err(CustodyError::Keyring { source, .. }) => Some(source),
        Err(_) => None,
    };
    if let Some(why) = usable {
        warnings.push(format!("the keyring was passed over for a key file: {why}"));
    }
    let folder = around.state_folder.as_ref().ok_or(CustodyError::NoPlace)?;
    let path = folder.join("agentkeys/root-keys").join(format!("{}.key", identity.id()));
    Ok(Place::File { path, automatic: true })
}

/// Makes the key file, or takes the one that the operator put there.
fn key_file(
    path: &Path,
    automatic: bool,
    identity: &Identity,
    new_key: impl FnOnce() -> Result<Hidden<[u8; 32]>, CustodyError>,
) -> Result<Hidden<[u8; 32]>, CustodyError> {
    if automatic && let Some(folder) = path.parent() {
        files::ensure_folder(folder, true)?;
    }
    if let Some(theirs) = files::read_key(path, Owner::OursAlone)? {
        return Ok(theirs);
    }
    let root = new_key()?;
    match files::publish_key(path, &root, &identity.id())? {
        Published::Made => Ok(root),
        // Put there since; if it is another process's, its record wins too.
        Published::Existed => files::read_key(path, Owner::OursAlone)?
            .ok_or_else(|| CustodyError::Missing(path.display().to_string())),
    }
}

/// Removes a key that belongs to no store, because another process's record was
/// first. Best effort: such a key opens nothing.
async fn take_back(place: &Place, identity: &Identity) {
    match place {
        Place::Keyring(keyring) => drop(keyring.delete(&Item::root_key(&identity.id())).await),
        Place::File { path, automatic: true } => drop(std::fs::remove_file(path)),
        Place::File { .. } | Place::Passphrase | Place::Credential(_) => {}
    }
}

fn absolute(path: &Path) -> Result<PathBuf, CustodyError> {
    std::path::absolute(path).map_err(files::failed("find", path))
}

fn clear_text_warning(data: &Path, path: &Path, automatic: bool) -> Option<String> {
    let beside = std::path::absolute(data).is_ok_and(|data| path.starts_with(data));
    let path = path.display();
    if beside {
        return Some(format!(
            "the root key lies in the clear beside the data it protects, in {path}: whoever copies \
             that folder has both"
        ));
    }
    automatic.then(|| {
        format!(
            "the root key lies in the clear in {path}, because there was no credential and no \
             unlocked keyring when this store was made: whoever can read this user's files has it"
        )
    })
}

fn credential_path(around: &Surroundings, name: &str) -> Result<PathBuf, CustodyError> {
    if !choice::is_credential_name(name) {
        return Err(CustodyError::Choice(format!("credential:{name}")));
    }
    let folder = around.credentials_folder.as_ref();
    Ok(folder.ok_or_else(|| CustodyError::NoCredentials(name.to_owned()))?.join(name))
}

fn keyring_failed(what: &str) -> impl FnOnce(KeyringError) -> CustodyError {
    move |source| CustodyError::Keyring { what: what.to_owned(), source }
}

async fn connect(around: &Surroundings) -> Result<Keyring, CustodyError> {
    let what = "the root key";
    let bus = BusAddress::find(around.bus_address.as_deref(), around.runtime_folder.as_deref());
    let bus = bus.map_err(keyring_failed(what))?.ok_or(CustodyError::NoKeyring)?;
    let keyring = Keyring::connect_to(&bus).await.map_err(keyring_failed(what))?;
    keyring.ok_or(CustodyError::NoKeyring)
}

async fn read_keyring(
    keyring: &Keyring,
    item: &Item,
) -> Result<Option<Hidden<[u8; 32]>>, CustodyError> {
    let found = keyring.get(item).await.map_err(keyring_failed(item.label()))?;
    let Some(text) = found else { return Ok(None) };
    Hidden::fill(|key| {
        // Exposed to be moved into secret memory.
        hex::decode_key(text.expose(), key)
            .ok_or_else(|| CustodyError::Wrong(format!("the keyring's item \"{}\"", item.label())))
    })
    .map(Some)
}

/// Stores the key and reads it back: a store is made only over a key that can be
/// found again.
async fn write_keyring(
    keyring: &Keyring,
    item: &Item,
    root: &Hidden<[u8; 32]>,
) -> Result<(), CustodyError> {
    // Exposed because the keyring is where it is kept.
    let line: SecretBytes = hex::encode_secret_line(root.expose());
    keyring.put(item, &line).await.map_err(keyring_failed(item.label()))?;
    match read_keyring(keyring, item).await? {
        // Exposed to be compared with what was stored.
        Some(back) if back.expose() == root.expose() => Ok(()),
        _ => Err(CustodyError::Missing(format!("the keyring's item \"{}\"", item.label()))),
    }
}

/// Runs a computation of a tenth of a second or more off the runtime's threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, CustodyError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| CustodyError::Derivation(e.to_string()))
}
