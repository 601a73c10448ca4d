//! `root.json`: which backend a data folder belongs to, how it was made, and
//! where its root key is. Not secret, and bound to the key by a check value.
//!
//! Must never be replaced by anything but an operator: it is written once.
use super::error::CustodyError;
use super::files::{self, Owner, Published};
use super::hex;
use super::wrap::Wrapped;
use crate::harden::Hidden;
use ring::hmac;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

const VERSION: u32 = 1;
const MAX_BYTES: usize = 16 * 1024;
const NAME: &str = "root.json";

/// Where the root key of a store is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum Custody {
    /// The keyring's item of this backend's id.
    Keyring {},
    /// Here, wrapped.
    Passphrase {
        /// The wrapping.
        wrapped: Wrapped,
    },
    /// A key file; automatic if nobody asked for one, which is warned about.
    File {
        /// Absolute.
        path: PathBuf,
        /// Chosen for want of anything better.
        automatic: bool,
    },
    /// A credential of the service manager.
    Credential {
        /// Its name.
        name: String,
    },
}

impl Custody {
    /// One word.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Keyring {} => "keyring",
            Self::Passphrase { .. } => "passphrase",
            Self::File { .. } => "file",
            Self::Credential { .. } => "credential",
        }
    }

    /// As `--root-key` spells it.
    pub(super) fn spelled(&self) -> String {
        match self {
            Self::Keyring {} | Self::Passphrase { .. } => self.kind().to_owned(),
            Self::File { path, .. } => format!("file:{}", path.display()),
            Self::Credential { name } => format!("credential:{name}"),
        }
    }
}

/// The content of `root.json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) identity: Identity,
    pub(super) custody: Custody,
    check: [u8; 32],
}

/// What is fixed when a store is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) backend_id: [u8; 16],
    pub(super) dev: bool,
}

/// As it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    version: u32,
    backend_id: String,
    dev: bool,
    custody: Custody,
    check: String,
}

impl Identity {
    /// The bytes that the key is bound to; every field has a fixed length but
    /// the last.
    pub(super) fn header(&self, kind: &str) -> Vec<u8> {
        let version = VERSION.to_be_bytes();
        let dev = [u8::from(self.dev)];
        [b"AgentKeys-v1-RootKey".as_slice(), &version, &self.backend_id, &dev, kind.as_bytes()]
            .concat()
    }

    pub(super) fn id(&self) -> String {
        hex::encode(&self.backend_id)
    }
}

impl Record {
    /// Binds `root` to what is recorded.
    pub(super) fn new(identity: Identity, custody: Custody, root: &Hidden<[u8; 32]>) -> Self {
        let tag = hmac::sign(&check_key(root), &identity.header(custody.kind()));
        let check = tag.as_ref().try_into().expect("HMAC-SHA256 makes 32 bytes");
        Self { identity, custody, check }
    }

    /// Whether `root` is the key that this record was made with, and the record
    /// as it was then; compared in constant time.
    pub(super) fn is_of(&self, root: &Hidden<[u8; 32]>) -> bool {
        let header = self.identity.header(self.custody.kind());
        hmac::verify(&check_key(root), &header, &self.check).is_ok()
    }

    /// Where it is in `data`.
    pub(super) fn path(data: &Path) -> PathBuf {
        data.join(NAME)
    }

    /// Reads the record of `data`; `None` if there is none.
    ///
    /// # Errors
    /// Those of [`files::read`], and [`CustodyError::Record`].
    pub(super) fn read(data: &Path) -> Result<Option<Self>, CustodyError> {
        let path = Self::path(data);
        let Some(content) = files::read(&path, Owner::OursAlone, MAX_BYTES)? else {
            return Ok(None);
        };
        parse(&content).map(Some).map_err(|why| CustodyError::Record { path, why })
    }

    /// Writes the record of `data`, unless there is one.
    ///
    /// # Errors
    /// Those of [`files::publish`], and [`CustodyError::Record`] for a path that
    /// JSON cannot hold.
    pub(super) fn publish(&self, data: &Path) -> Result<Published, CustodyError> {
        let path = Self::path(data);
        let id = self.identity.id();
        let written = Written {
            version: VERSION,
            backend_id: id.clone(),
            dev: self.identity.dev,
            custody: self.custody.clone(),
            check: hex::encode(&self.check),
        };
        let mut content = serde_json::to_vec_pretty(&written)
            .map_err(|e| CustodyError::Record { path: path.clone(), why: e.to_string() })?;
        content.push(b'\n');
        files::publish(&path, &content, &id)
    }
}

/// Exposed to key the check, which says nothing about a 256-bit key.
fn check_key(root: &Hidden<[u8; 32]>) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, root.expose())
}

fn parse(content: &[u8]) -> Result<Record, String> {
    /// The version alone, whatever else a later one holds.
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let Versioned { version } = serde_json::from_slice(content).map_err(|e| e.to_string())?;
    if version != VERSION {
        return Err(format!("it is version {version}, and this program knows {VERSION} only"));
    }
    let written: Written = serde_json::from_slice(content).map_err(|e| e.to_string())?;
    let backend_id = hex::decode(&written.backend_id).ok_or("backend_id is not 32 digits")?;
    let check = hex::decode(&written.check).ok_or("check is not 64 digits")?;
    let identity = Identity { backend_id, dev: written.dev };
    Ok(Record { identity, custody: written.custody, check })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"version":1,"backend_id":"000102030405060708090a0b0c0d0e0f","dev":false,
        "custody":{"kind":"keyring"},
        "check":"0000000000000000000000000000000000000000000000000000000000000000"}"#;

    #[test]
    fn a_record_is_understood_whole_or_not_at_all() {
        assert!(parse(GOOD.as_bytes()).is_ok());
        for (from, to) in [
            (r#""version":1"#, r#""version":2"#),
            (r#""version":1,"#, ""),
            (r#""dev":false"#, r#""dev":"false""#),
            (r#""dev":false"#, r#""dev":false,"more":1"#),
            (r#"{"kind":"keyring"}"#, r#"{"kind":"none"}"#),
            (r#"{"kind":"keyring"}"#, r#"{"kind":"keyring","path":"/x"}"#),
            (r#"{"kind":"keyring"}"#, r#"{"kind":"file","path":"/x"}"#),
            ("0e0f", "0e"),
            ("0e0f", "0e0g"),
        ] {
            assert!(GOOD.contains(from));
            assert!(parse(GOOD.replace(from, to).as_bytes()).is_err(), "{from} -> {to}");
        }
        assert!(parse(b"").is_err());
    }

    #[test]
    fn a_record_is_bound_to_its_key_identity_and_kind() {
        let root = Hidden::new(|| [7; 32]).unwrap();
        let identity = Identity { backend_id: [1; 16], dev: false };
        let record = Record::new(identity, Custody::Keyring {}, &root);
        assert!(record.is_of(&root));
        assert!(!record.is_of(&Hidden::new(|| [8; 32]).unwrap()));
        for changed in [
            Record { identity: Identity { dev: true, ..identity }, ..record.clone() },
            Record { identity: Identity { backend_id: [2; 16], ..identity }, ..record.clone() },
            Record { custody: Custody::Credential { name: "k".into() }, ..record.clone() },
        ] {
            assert!(!changed.is_of(&root));
        }
    }
}
