//! The vault: all of the backend's rules, over any store.
//!
//! One file an operation group. Each operation reads what it needs, decides, and proposes its
//! change with checks on everything that it decided by; if any of that has changed meanwhile, it
//! looks and decides again. Nothing here knows HTTP, a database, or where the root key lies.
mod access;
mod account;
mod agent;
mod answer;
mod approval;
mod audit;
mod caller;
mod cells;
mod certificate;
mod credential;
mod errand;
mod fence;
mod group;
mod guess;
mod heads;
mod holding;
mod identity;
mod journal;
mod keys;
mod ledger;
mod minting;
mod opening;
mod presence;
mod provider;
mod provision;
mod rates;
mod rendezvous;
mod renewal;
mod rotation;
mod rows;
mod scope;
mod sequencer;
mod session;
mod sign_in;
mod spending;
mod sum;
mod sweep;
mod terminals;
mod terms;
mod turns;
mod using;
mod verdict;
mod versions;

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use ring::signature::Ed25519KeyPair;
use serde::de::DeserializeOwned;

use crate::backend::clock::{Clock, Entropy};
use crate::backend::judge::TokenJudge;
use crate::backend::mint::Mint;
use crate::backend::peer::Peer;
use crate::backend::store::{Check, KeyRange, Store, Value, Write};
use crate::core::audit::Head;
use crate::core::problem::Answer;
use crate::core::seal;
use crate::core::secret::Key32;
use crate::core::types::{AccountId, BackendId, KeyId, PublicKey};
use crate::harden::Hidden;

pub use self::caller::Caller;
pub use self::cells::CellError;
pub use self::holding::{Act as HeldAct, Waiting};
pub use self::journal::OpenError;
pub use self::rotation::Stored;
pub use self::spending::Charge;
pub use self::using::{InUse, Purpose, Right, Taken};

use self::access::Cache;
use self::cells::Cells;
use self::guess::Guesses;
use self::journal::Journal;
use self::rows::{AccountRow, AgentRow, Meta, SessionRow};

/// How often an operation decides again because something changed under it.
const MAX_TRIES: usize = 512;

/// What a vault is opened with.
pub struct Settings {
    /// The backend's id, as root-key custody recorded it.
    pub backend_id: BackendId,
    /// Whether test identities are accepted.
    pub dev: bool,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Entropy,
    /// Who judges ID tokens; absent where the backend names no issuer.
    pub judge: Option<Arc<dyn TokenJudge>>,
    /// Who makes keys at services.
    pub mint: Arc<dyn Mint>,
}

/// The vault. Clones share it.
#[derive(Clone)]
pub struct Vault(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    cells: Arc<Cells>,
    journal: Journal,
    backend_id: BackendId,
    dev: bool,
    clock: Arc<dyn Clock>,
    entropy: Entropy,
    judge: Option<Arc<dyn TokenJudge>>,
    mint: Arc<dyn Mint>,
    minting: minting::Turns,
    /// Told whenever there may be a new errand.
    errands: tokio::sync::Notify,
    shielding_secret: Hidden<[u8; 32]>,
    shielding_public: PublicKey,
    guesses: Guesses,
    openings: approval::Openings,
    holding: holding::Holding,
    rates: rates::Rates,
    /// Whose turn it is to count a cost.
    settling: tokio::sync::Mutex<()>,
    open_terminals: terminals::OpenTerminals,
    trying_passphrase: presence::TryingPassphrase,
    sessions: Cache<SessionRow>,
    agents: Cache<AgentRow>,
    accounts: Cache<AccountRow>,
    master_keys: RwLock<HashMap<AccountId, Arc<Hidden<Ed25519KeyPair>>>>,
    heads: RwLock<HashMap<AccountId, Arc<Head>>>,
}

impl Vault {
    /// Opens the vault over `store` with the root key, making it if the store is empty.
    ///
    /// # Errors
    /// When the store does not answer, was altered outside of the backend, belongs to another
    /// root key or backend, or was made with another `dev`.
    pub async fn open(
        store: Arc<dyn Store>,
        root: &[u8; 32],
        settings: Settings,
    ) -> Result<Self, VaultError> {
        let Settings { backend_id, dev, clock, entropy, judge, mint } = settings;
        let cells = Arc::new(Cells::new(root, &entropy)?);
        let first = first_rows(&cells, backend_id, dev, &*clock, &entropy)?;
        let journal = Journal::open(store.clone(), cells.clone(), backend_id, first).await?;
        let raw = store.get(&keys::meta()).await.map_err(OpenError::from)?;
        let meta: Meta = cells.open(&keys::meta(), &raw.ok_or(OpenError::Altered)?)?;
        if meta.backend_id != backend_id {
            return Err(VaultError::OtherBackend);
        }
        if meta.dev != dev {
            return Err(VaultError::Dev { made_by_dev: meta.dev });
        }
        let shielding_secret = Hidden::<[u8; 32]>::fill(|place| {
            let bytes = meta.shielding.as_slice().try_into().map_err(|_| CellError::Shape)?;
            *place = bytes;
            Ok::<(), CellError>(())
        })?;
        let shielding_public = seal::public_key(&Key32::new(*shielding_secret.expose()))
            .map_err(|_| CellError::Shape)?;
        Ok(Self(Arc::new(Inner {
            store,
            cells,
            journal,
            backend_id,
            dev,
            clock,
            entropy,
            judge,
            mint,
            minting: minting::Turns::default(),
            errands: tokio::sync::Notify::new(),
            shielding_secret,
            shielding_public,
            guesses: Guesses::default(),
            openings: approval::Openings::default(),
            holding: holding::Holding::default(),
            rates: rates::Rates::default(),
            settling: tokio::sync::Mutex::default(),
            open_terminals: terminals::OpenTerminals::default(),
            trying_passphrase: presence::TryingPassphrase::default(),
            sessions: Cache::default(),
            agents: Cache::default(),
            accounts: Cache::default(),
            master_keys: RwLock::default(),
            heads: RwLock::default(),
        })))
    }

    /// The vault as one peer may use it.
    pub fn for_peer(&self, peer: Peer) -> Caller {
        Caller::new(self.0.clone(), peer)
    }

    /// The backend's id.
    pub fn backend_id(&self) -> BackendId {
        self.0.backend_id
    }
}

/// Why a vault does not open.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The journal does not start.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A row or a key is not usable.
    #[error(transparent)]
    Cell(#[from] CellError),
    /// The store is another backend's.
    #[error("the store belongs to another backend than its root.json says")]
    OtherBackend,
    /// `--dev` where it was not, or the other way round.
    #[error("{}", dev_mismatch(*made_by_dev))]
    Dev {
        /// Whether the store was made by `--dev`.
        made_by_dev: bool,
    },
}

fn dev_mismatch(made_by_dev: bool) -> &'static str {
    if made_by_dev {
        "the data folder was made by serve --dev: it holds test identities, and is served with --dev only"
    } else {
        "the data folder was not made by serve --dev: --dev would let anybody in"
    }
}

fn first_rows(
    cells: &Cells,
    backend_id: BackendId,
    dev: bool,
    clock: &dyn Clock,
    entropy: &Entropy,
) -> Result<Vec<Write>, CellError> {
    let (secret, _) = seal::key_pair(&entropy.key()?);
    let meta =
        Meta { backend_id, dev, created_at: clock.now(), shielding: secret.expose().to_vec() };
    Ok(vec![Write::Put(keys::meta(), cells.seal(&keys::meta(), &meta)?)])
}

/// A row as it was read: what was decided by it is checked against `raw` at the commit.
struct Loaded<T> {
    key: Vec<u8>,
    raw: Value,
    row: Arc<T>,
}

impl<T> Clone for Loaded<T> {
    fn clone(&self) -> Self {
        Self { key: self.key.clone(), raw: self.raw.clone(), row: self.row.clone() }
    }
}

impl<T> Loaded<T> {
    /// That the row is still what it was.
    fn unchanged(&self) -> Check {
        Check::Equals(self.key.clone(), self.raw.clone())
    }
}

impl Inner {
    /// Reads a row; `None` if there is none.
    async fn load<T: DeserializeOwned>(&self, key: Vec<u8>) -> Answer<Option<Loaded<T>>> {
        let Some(raw) = self.store.get(&key).await.map_err(answer::store)? else {
            return Ok(None);
        };
        let row = Arc::new(self.cells.open(&key, &raw).map_err(answer::cell)?);
        Ok(Some(Loaded { key, raw, row }))
    }

    /// The same for rows that are read again and again: opened once for each value they have.
    async fn load_cached<T: DeserializeOwned>(
        &self,
        cache: &Cache<T>,
        key: Vec<u8>,
    ) -> Answer<Option<Loaded<T>>> {
        let Some(raw) = self.store.get(&key).await.map_err(answer::store)? else {
            return Ok(None);
        };
        if let Some(row) = cache.get(&key, &raw) {
            return Ok(Some(Loaded { key, raw, row }));
        }
        let row: Arc<T> = Arc::new(self.cells.open(&key, &raw).map_err(answer::cell)?);
        cache.put(&key, &raw, row.clone());
        Ok(Some(Loaded { key, raw, row }))
    }

    /// All rows below a prefix, at most `limit`.
    async fn load_all<T: DeserializeOwned>(
        &self,
        prefix: &[u8],
        limit: usize,
    ) -> Answer<Vec<Loaded<T>>> {
        let page = self.store.scan(KeyRange::prefix(prefix), limit).await.map_err(answer::store)?;
        page.into_iter()
            .map(|(key, raw)| {
                let row = Arc::new(self.cells.open(&key, &raw).map_err(answer::cell)?);
                Ok(Loaded { key, raw, row })
            })
            .collect()
    }

    /// A write of a sealed row.
    fn put<T: serde::Serialize>(&self, key: Vec<u8>, row: &T) -> Answer<Write> {
        let value = self.cells.seal(&key, row).map_err(answer::cell)?;
        Ok(Write::Put(key, value))
    }

    /// The backend's public key and its id.
    fn shielding_id(&self) -> KeyId {
        KeyId::of(&self.shielding_public)
    }
}
