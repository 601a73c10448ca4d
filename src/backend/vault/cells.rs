//! Rows at rest. Every value is AES-256-GCM with its own key in the store as associated data,
//! so a row that was changed, moved or inserted does not open; secret values are sealed under
//! a key of their account besides. All keys come from the root key by HKDF-SHA256 (RFC 5869).
//!
//! A row is `salt (16) || nonce (12) || ciphertext`. The salt is drawn at each start and names
//! the key; the nonce counts up, so no pair of key and nonce is used twice, however many rows
//! are written.
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::{hkdf, hmac};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::keys::Mac;
use crate::backend::clock::{Entropy, NoEntropy};
use crate::backend::store::Value;
use crate::core::cbor;
use crate::core::frame::Frame;
use crate::core::secret::SecretBytes;
use crate::core::types::AccountId;
use crate::harden::{Hidden, SecretMemoryError};

const SALT: usize = 16;
const NONCE: usize = 12;
/// Keys of other starts, and of accounts, that are kept in secret memory at once.
const MAX_KEYS: usize = 256;

/// Why a row cannot be written or read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CellError {
    /// It does not authenticate: changed, moved, inserted, or of another store.
    #[error("a row does not authenticate")]
    Unauthentic,
    /// It authenticates and is not what this version writes.
    #[error("a row has another shape than this version knows")]
    Shape,
    /// No room in secret memory.
    #[error("{0}")]
    Memory(Arc<SecretMemoryError>),
    /// No randomness.
    #[error(transparent)]
    Entropy(#[from] NoEntropy),
}

impl From<SecretMemoryError> for CellError {
    fn from(error: SecretMemoryError) -> Self {
        Self::Memory(Arc::new(error))
    }
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

type HiddenKey = Arc<Hidden<LessSafeKey>>;

/// Seals and opens rows under one root key.
pub struct Cells {
    prk: Hidden<hkdf::Prk>,
    index: Hidden<hmac::Key>,
    digest: Hidden<hmac::Key>,
    salt: [u8; SALT],
    writing: HiddenKey,
    counter: AtomicU64,
    rows: RwLock<HashMap<[u8; SALT], HiddenKey>>,
    accounts: RwLock<HashMap<AccountId, HiddenKey>>,
}

impl Cells {
    /// Derives the keys of this start from the root key.
    pub fn new(root: &[u8; 32], entropy: &Entropy) -> Result<Self, CellError> {
        let prk =
            Hidden::new(|| hkdf::Salt::new(hkdf::HKDF_SHA256, b"AgentKeys-v1-Root").extract(root))?;
        let salt = entropy.bytes()?;
        let mac = |label: &[u8]| -> Result<Hidden<hmac::Key>, CellError> {
            let key = expand(prk.expose(), &[label]);
            Ok(Hidden::new(|| hmac::Key::new(hmac::HMAC_SHA256, &*key))?)
        };
        let (index, digest) = (mac(b"index")?, mac(b"digest")?);
        let writing = aead_key(prk.expose(), &[b"rows", &salt])?;
        Ok(Self {
            prk,
            index,
            digest,
            salt,
            writing,
            counter: AtomicU64::new(0),
            rows: RwLock::default(),
            accounts: RwLock::default(),
        })
    }

    /// A keyed hash of a name, for keys of the store.
    pub fn mac(&self, kind: &str, name: &[u8]) -> Mac {
        let framed = Frame::new(kind).field(name);
        let mut out = [0; 16];
        out.copy_from_slice(&hmac::sign(self.index.expose(), framed.bytes()).as_ref()[..16]);
        out
    }

    /// The keyed hash of one row, for the digest over all rows.
    pub fn row_hash(&self, key: &[u8], value: &[u8]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(self.digest.expose());
        context.update(&(key.len() as u64).to_be_bytes());
        context.update(key);
        context.update(value);
        let mut out = [0; 32];
        out.copy_from_slice(context.sign().as_ref());
        out
    }

    /// Seals a row for its place.
    pub fn seal<T: Serialize>(&self, key: &[u8], row: &T) -> Result<Value, CellError> {
        let plain = Zeroizing::new(cbor::to_row(row).map_err(|_| CellError::Shape)?);
        self.seal_bytes(key, &plain)
    }

    /// Seals bytes for their place.
    pub fn seal_bytes(&self, key: &[u8], plain: &[u8]) -> Result<Value, CellError> {
        let count = self.counter.fetch_add(1, Ordering::Relaxed);
        let mut nonce = [0; NONCE];
        nonce[4..].copy_from_slice(&count.to_be_bytes());
        let mut out = Vec::with_capacity(SALT + NONCE + plain.len() + AES_256_GCM.tag_len());
        out.extend_from_slice(&self.salt);
        out.extend_from_slice(&nonce);
        out.extend_from_slice(plain);
        let tag = self
            .writing
            .expose()
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(key),
                &mut out[SALT + NONCE..],
            )
            .map_err(|_| CellError::Shape)?;
        out.extend_from_slice(tag.as_ref());
        Ok(Value::from(out))
    }

    /// Opens the row at its place.
    pub fn open<T: DeserializeOwned>(&self, key: &[u8], value: &[u8]) -> Result<T, CellError> {
        let plain = self.open_bytes(key, value)?;
        cbor::from_row(&plain).map_err(|_| CellError::Shape)
    }

    /// Opens the bytes at their place.
    pub fn open_bytes(&self, key: &[u8], value: &[u8]) -> Result<Zeroizing<Vec<u8>>, CellError> {
        let (salt, rest) = value.split_first_chunk::<SALT>().ok_or(CellError::Unauthentic)?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE>().ok_or(CellError::Unauthentic)?;
        let opener = self.row_key(salt)?;
        open_with(opener.expose(), *nonce, key, sealed)
    }

    fn row_key(&self, salt: &[u8; SALT]) -> Result<HiddenKey, CellError> {
        if *salt == self.salt {
            return Ok(self.writing.clone());
        }
        if let Some(key) = self.rows.read().unwrap_or_else(|e| e.into_inner()).get(salt) {
            return Ok(key.clone());
        }
        let key = aead_key(self.prk.expose(), &[b"rows", salt])?;
        remember(&self.rows, *salt, key.clone());
        Ok(key)
    }

    fn account_key(&self, account: AccountId) -> Result<HiddenKey, CellError> {
        if let Some(key) = self.accounts.read().unwrap_or_else(|e| e.into_inner()).get(&account) {
            return Ok(key.clone());
        }
        let key = aead_key(self.prk.expose(), &[b"account", &account.0])?;
        remember(&self.accounts, account, key.clone());
        Ok(key)
    }

    /// Seals a secret under its account's key; `place` is bound to it.
    pub fn seal_secret(
        &self,
        account: AccountId,
        place: &[u8],
        secret: &[u8],
        entropy: &Entropy,
    ) -> Result<Vec<u8>, CellError> {
        let nonce: [u8; NONCE] = entropy.bytes()?;
        let mut out = Vec::with_capacity(NONCE + secret.len() + AES_256_GCM.tag_len());
        out.extend_from_slice(&nonce);
        out.extend_from_slice(secret);
        let tag = self
            .account_key(account)?
            .expose()
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(place),
                &mut out[NONCE..],
            )
            .map_err(|_| CellError::Shape)?;
        out.extend_from_slice(tag.as_ref());
        Ok(out)
    }

    /// Opens a secret of the account at its place.
    pub fn open_secret(
        &self,
        account: AccountId,
        place: &[u8],
        sealed: &[u8],
    ) -> Result<SecretBytes, CellError> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE>().ok_or(CellError::Unauthentic)?;
        let key = self.account_key(account)?;
        let mut plain = open_with(key.expose(), *nonce, place, sealed)?;
        Ok(SecretBytes::new(std::mem::take(&mut *plain)))
    }
}

fn expand(prk: &hkdf::Prk, info: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut out = Zeroizing::new([0; 32]);
    prk.expand(info, Length(32))
        .and_then(|okm| okm.fill(&mut *out))
        .expect("32 bytes are within what HKDF gives");
    out
}

fn aead_key(prk: &hkdf::Prk, info: &[&[u8]]) -> Result<HiddenKey, CellError> {
    let key = expand(prk, info);
    let made = Hidden::new(|| {
        LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &*key).expect("the key has 32 bytes"))
    })?;
    Ok(Arc::new(made))
}

fn open_with(
    key: &LessSafeKey,
    nonce: [u8; NONCE],
    place: &[u8],
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, CellError> {
    let mut plain = Zeroizing::new(sealed.to_vec());
    let length = key
        .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(place), &mut plain)
        .map_err(|_| CellError::Unauthentic)?
        .len();
    plain.truncate(length);
    Ok(plain)
}

/// Keeps a derived key, dropping all the others when there are too many: they are derived again.
fn remember<K: std::hash::Hash + Eq>(cache: &RwLock<HashMap<K, HiddenKey>>, id: K, key: HiddenKey) {
    let mut cache = cache.write().unwrap_or_else(|e| e.into_inner());
    if cache.len() >= MAX_KEYS {
        cache.clear();
    }
    cache.insert(id, key);
}
