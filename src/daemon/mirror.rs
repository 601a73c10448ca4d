//! The mirror of an agent's session on disk: what a daemon needs to go on after it was started
//! again, which is its keys and the renewal secret, and never the session itself.
//!
//! One file an agent, mode 0600, replaced as a whole. Where the desktop has a keyring, the
//! secrets in it are sealed by a key that lies there; else they stand in the clear, and
//! [`Mirror::protection`] says so. Must never be sealed on one day and in the clear on the next
//! because a keyring happens to be locked.
use std::path::{Path, PathBuf};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::keys::{self, HeldRenewal, Keys};
use crate::client::files::{self, Keep};
use crate::core::audit::Head;
use crate::core::cbor;
use crate::core::encoding;
use crate::core::pin::Fingerprint;
use crate::core::problem::{Answer, Code, Problem};
use crate::core::secret::SecretBytes;
use crate::core::token::RenewalSecret;
use crate::core::types::{AccountId, BackendId, ChildKeys, PublicKey, WalletAddress};
use crate::harden::Hidden;
use crate::keyring::{BusAddress, Item, Keyring};

const VERSION: u32 = 1;
/// Largest mirror, in bytes.
const MAX_FILE: usize = 16 * 1024;
const NONCE: usize = 12;

/// Who a daemon is: what every answer of a backend is held against once it was paired.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The agent.
    pub agent: WalletAddress,
    /// The account that owns it.
    pub account: AccountId,
    /// That account's master key.
    pub master_key: PublicKey,
    /// The backend's own id, under which it keeps that account's audit log.
    pub backend_id: BackendId,
    /// Where the backend is that the session is for, and no other.
    pub backend: String,
}

impl Identity {
    /// Names account and master key for people.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self.account, &self.master_key)
    }

    /// Whether a head is the end of this account's own log at this backend. One under another id
    /// would be compared with nothing that was seen before.
    pub fn owns(&self, head: &Head) -> bool {
        (head.backend_id, head.account, head.master_key)
            == (self.backend_id, self.account, self.master_key)
    }
}

/// What a mirror gives back.
pub struct Restored {
    /// Who the daemon is.
    pub identity: Identity,
    /// Its keys.
    pub keys: Keys,
    /// What its next session is got with.
    pub renewal: HeldRenewal,
}

/// How the secrets of the file are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SealedBy {
    /// By a key in the desktop's keyring.
    Keyring,
    /// By nothing.
    Nothing,
}

/// What may be read, and is bound to what may not.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Open {
    version: u32,
    sealed_by: SealedBy,
    identity: Identity,
    keys: ChildKeys,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    open: Open,
    /// Base64 of canonical CBOR, sealed or not.
    secrets: String,
}

impl Drop for File {
    fn drop(&mut self) {
        self.secrets.zeroize();
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Secrets {
    ed25519: String,
    renewal: String,
    x25519: String,
}

impl Drop for Secrets {
    fn drop(&mut self) {
        self.ed25519.zeroize();
        self.renewal.zeroize();
        self.x25519.zeroize();
    }
}

/// The key that seals, once it is known which one it is.
enum Sealing {
    Keyring(Hidden<[u8; 32]>),
    Nothing,
}

/// The mirror of one agent's session.
pub struct Mirror {
    path: PathBuf,
    bus: Answer<Option<BusAddress>>,
    sealing: Option<Sealing>,
}

impl Mirror {
    /// The mirror at `path`, sealed by the keyring of `bus` where there is one.
    pub fn new(path: PathBuf, bus: Answer<Option<BusAddress>>) -> Self {
        Self { path, bus, sealing: None }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// In words, for `doctor`: where it is and what seals it.
    pub fn protection(&self) -> String {
        let how = match self.sealing {
            Some(Sealing::Keyring(_)) => "sealed by the keyring",
            Some(Sealing::Nothing) => "in the clear, since there is no keyring",
            None => "not opened yet",
        };
        format!("{}, {how}", self.path.display())
    }

    /// What the mirror holds; `None` if there is none.
    ///
    /// # Errors
    /// `INTERNAL` for a file that is not ours alone, or is damaged; `UNAVAILABLE` when what seals
    /// it cannot be reached. The file stays as it is.
    pub async fn load(&mut self) -> Answer<Option<Restored>> {
        let Some(bytes) = files::read(&self.path, MAX_FILE)? else { return Ok(None) };
        let file: File =
            serde_json::from_slice(&bytes).map_err(|_| self.damaged("it does not read"))?;
        if file.open.version != VERSION {
            return Err(self.damaged("another version of agentkeys wrote it"));
        }
        let mut secrets = Zeroizing::new(
            encoding::from_base64("secrets", &file.secrets)
                .map_err(|_| self.damaged("it does not read"))?,
        );
        if file.open.sealed_by == SealedBy::Keyring {
            self.prepare().await?;
            let Some(Sealing::Keyring(key)) = &self.sealing else {
                return Err(self.out_of_reach("there is no keyring here"));
            };
            let opened = unseal(key, &file.open, &mut secrets).map(<[u8]>::to_vec);
            secrets = Zeroizing::new(opened.ok_or_else(|| self.damaged("it was changed"))?);
        }
        let secrets: Secrets =
            cbor::from_canonical(&secrets).map_err(|_| self.damaged("it does not read"))?;
        let bytes = |text: &str| -> Answer<Zeroizing<[u8; 32]>> {
            let bytes = encoding::from_base64("secrets", text).map(Zeroizing::new).ok();
            let bytes = bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes.as_slice()).ok());
            bytes.map(Zeroizing::new).ok_or_else(|| self.damaged("it does not read"))
        };
        let keys =
            Keys::restore(file.open.keys, &*bytes(&secrets.ed25519)?, &*bytes(&secrets.x25519)?)
                .map_err(|_| self.damaged("its keys do not belong together"))?;
        let renewal = RenewalSecret::parse(&secrets.renewal)
            .map_err(|_| self.damaged("it holds no renewal secret"))?;
        let renewal = HeldRenewal::new(&renewal)?;
        Ok(Some(Restored { identity: file.open.identity.clone(), keys, renewal }))
    }

    /// Finds out what seals it, and asks the keyring for the key, or makes one there.
    ///
    /// # Errors
    /// `UNAVAILABLE` when there is a keyring and it does not answer or is locked.
    pub async fn prepare(&mut self) -> Answer<()> {
        if self.sealing.is_some() {
            return Ok(());
        }
        self.sealing = Some(match self.key_of_keyring().await? {
            Some(key) => Sealing::Keyring(key),
            None => Sealing::Nothing,
        });
        Ok(())
    }

    async fn key_of_keyring(&self) -> Answer<Option<Hidden<[u8; 32]>>> {
        let Some(bus) = self.bus.clone()? else { return Ok(None) };
        let why = |error: crate::keyring::KeyringError| self.out_of_reach(&error.to_string());
        let Some(keyring) = Keyring::connect_to(&bus).await.map_err(why)? else { return Ok(None) };
        let item = Item::mirror(&self.path.display().to_string());
        if let Some(key) = keyring.get(&item).await.map_err(why)? {
            let key = <[u8; 32]>::try_from(key.expose());
            let key = Zeroizing::new(key.map_err(|_| self.out_of_reach("its item is no key"))?);
            let hidden = Hidden::fill(|place| {
                place.copy_from_slice(&*key);
                Ok::<_, keys::KeyError>(())
            });
            return Ok(Some(hidden?));
        }
        let key = keys::random()?;
        keyring.put(&item, &SecretBytes::new(key.expose().to_vec())).await.map_err(why)?;
        Ok(Some(key))
    }

    /// Replaces the mirror; it is on disk when this returns.
    ///
    /// # Errors
    /// Those of [`Mirror::prepare`], and `INTERNAL` when the file cannot be written. The old one
    /// is then still there.
    pub async fn save(
        &mut self,
        identity: &Identity,
        keys: &Keys,
        renewal: &RenewalSecret,
    ) -> Answer<()> {
        self.prepare().await?;
        let (ed25519, x25519) = keys.expose();
        let secrets = Secrets {
            ed25519: encoding::to_base64(&*ed25519),
            renewal: renewal.expose().to_owned(),
            x25519: encoding::to_base64(&*x25519),
        };
        let fault = |_| Problem::internal();
        let mut secrets = cbor::to_canonical(&secrets).map(Zeroizing::new).map_err(fault)?;
        let sealed_by = match &self.sealing {
            Some(Sealing::Keyring(_)) => SealedBy::Keyring,
            _ => SealedBy::Nothing,
        };
        let open =
            Open { version: VERSION, sealed_by, identity: identity.clone(), keys: keys.public };
        if let Some(Sealing::Keyring(key)) = &self.sealing {
            seal(key, &open, &mut secrets)?;
        }
        let file = File { open, secrets: encoding::to_base64(&secrets) };
        let bytes =
            serde_json::to_vec(&file).map(Zeroizing::new).map_err(|_| Problem::internal())?;
        files::replace(&self.path, &bytes, Keep::Durably)
    }

    /// Removes the mirror, where going on with it would do harm. That it cannot be removed is
    /// told, and changes nothing else.
    pub fn forget(&self) -> Answer<()> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(files::failed("remove", &self.path, &error))
            }
            _ => Ok(()),
        }
    }

    fn damaged(&self, why: &str) -> Problem {
        Problem::new(
            Code::Internal,
            "the mirror of the agent's session cannot be used",
            format!("{}: {why}", self.path.display()),
            format!("pair the agent again: rm {}, then start its daemon", self.path.display()),
        )
    }

    fn out_of_reach(&self, why: &str) -> Problem {
        Problem::new(
            Code::Unavailable,
            "the key that seals the agent's session cannot be reached",
            format!("{} is sealed by the desktop's keyring: {why}", self.path.display()),
            format!(
                "unlock the keyring, or start the daemon inside the desktop's session\n\
                 or pair the agent again: rm {}",
                self.path.display()
            ),
        )
    }
}

fn cipher(key: &Hidden<[u8; 32]>) -> Answer<LessSafeKey> {
    let key = UnboundKey::new(&AES_256_GCM, key.expose()).map_err(|_| Problem::internal())?;
    Ok(LessSafeKey::new(key))
}

/// The open part, as associated data: sealed secrets belong to it alone.
fn bound(open: &Open) -> Answer<Vec<u8>> {
    cbor::to_canonical(open).map_err(|_| Problem::internal())
}

/// `nonce (12) || ciphertext || tag (16)`, AES-256-GCM.
fn seal(key: &Hidden<[u8; 32]>, open: &Open, secrets: &mut Zeroizing<Vec<u8>>) -> Answer<()> {
    let mut nonce = [0; NONCE];
    SystemRandom::new().fill(&mut nonce).map_err(|_| keys::KeyError::Random)?;
    let tag = cipher(key)?
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(bound(open)?),
            secrets.as_mut_slice(),
        )
        .map_err(|_| Problem::internal())?;
    let mut sealed = Vec::with_capacity(NONCE + secrets.len() + tag.as_ref().len());
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(secrets);
    sealed.extend_from_slice(tag.as_ref());
    *secrets = Zeroizing::new(sealed);
    Ok(())
}

fn unseal<'a>(key: &Hidden<[u8; 32]>, open: &Open, sealed: &'a mut [u8]) -> Option<&'a [u8]> {
    let (nonce, ciphertext) = sealed.split_first_chunk_mut::<NONCE>()?;
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let bound = bound(open).ok()?;
    let plain = cipher(key).ok()?.open_in_place(nonce, Aad::from(bound), ciphertext).ok()?;
    Some(plain)
}

#[cfg(test)]
mod tests {
    use ring::signature::Ed25519KeyPair;

    use super::*;
    use crate::core::types::Hash32;

    #[test]
    fn a_head_is_this_log_s_only_under_its_backend_account_and_key() {
        let key = |seed| Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        let head = |backend, account, seed| {
            let (backend, account) = (BackendId([backend; 16]), AccountId([account; 16]));
            Head::sign(backend, account, 7, Hash32([3; 32]), &key(seed))
        };
        let own = head(1, 2, 5);
        let identity = Identity {
            agent: WalletAddress([7; 20]),
            account: own.account,
            master_key: own.master_key,
            backend_id: own.backend_id,
            backend: "unix:/run/x".to_owned(),
        };
        assert!(identity.owns(&own));
        for other in [head(9, 2, 5), head(1, 9, 5), head(1, 2, 9)] {
            assert!(!identity.owns(&other), "{other:?}");
        }
    }
}
