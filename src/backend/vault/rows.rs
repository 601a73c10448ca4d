//! What the vault's rows hold.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::turns::Turns;
use crate::backend::mint::EndBy;
use crate::core::audit::GENESIS;
use crate::core::auth_request::Kind;
use crate::core::backend::{AgentSummary, Daemon, Revocation, Seen};
use crate::core::decision::Decision;
use crate::core::identity::{AgentIdentity, ServiceName};
use crate::core::otp::{Otp, PairCode};
use crate::core::presence::{Level, Reset};
use crate::core::provision::{Settings, Way};
use crate::core::scope::Scope;
use crate::core::set_back::SetBack;
use crate::core::terms::{Exposure, Terms};
use crate::core::types::{
    AccountId, BackendId, ChildKeys, Hash32, Nonce, PublicKey, RequestId, Salt, SessionId,
    Timestamp, WalletAddress,
};

/// What the store is.
#[derive(Serialize, Deserialize)]
pub struct Meta {
    pub backend_id: BackendId,
    pub dev: bool,
    pub created_at: Timestamp,
    /// The shielding key's private half; the row's own sealing protects it.
    #[serde(with = "crate::core::encoding::base64_bytes")]
    pub shielding: Vec<u8>,
}

impl Drop for Meta {
    fn drop(&mut self) {
        use zeroize::Zeroize;
        self.shielding.zeroize();
    }
}

/// The self-signed certificate and its key; the row's own sealing protects it.
#[derive(Serialize, Deserialize)]
pub struct SelfSignedRow {
    #[serde(with = "crate::core::encoding::base64_bytes")]
    pub certificate: Vec<u8>,
    #[serde(with = "crate::core::encoding::base64_bytes")]
    pub key: Vec<u8>,
}

impl Drop for SelfSignedRow {
    fn drop(&mut self) {
        use zeroize::Zeroize;
        self.key.zeroize();
    }
}

/// The last batch, and the digest over all rows but events.
#[derive(Clone, Serialize, Deserialize)]
pub struct HeadRow {
    pub batch: u64,
    pub digest: Hash32,
}

/// The end of an account's chain.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainRow {
    pub seq: u64,
    pub hash: Hash32,
    /// What heads count as set-backs from here on.
    #[serde(default)]
    pub set_backs: u64,
}

impl ChainRow {
    /// The end of a log without events.
    pub const EMPTY: Self = Self { seq: 0, hash: GENESIS, set_backs: 0 };
}

/// A master's home.
#[derive(Clone, Serialize, Deserialize)]
pub struct AccountRow {
    pub id: AccountId,
    pub wallet: WalletAddress,
    /// Who signed in first, such as `unix:1000`.
    pub identity: String,
    pub master_public: PublicKey,
    /// The master key's seed, sealed under the account's key.
    #[serde(with = "crate::core::encoding::base64_bytes")]
    pub master_seed: Vec<u8>,
    /// The presence level's word; [`AccountRow::level`] reads it.
    pub presence: String,
    /// Since when it is that.
    #[serde(default)]
    pub presence_since: Option<Timestamp>,
    /// What proofs are checked against, above level `none`.
    #[serde(default)]
    pub passphrase: Option<PassphraseRow>,
    /// That the passphrase was lost.
    #[serde(default)]
    pub reset: Option<Reset>,
    pub agents: u32,
    pub created_at: Timestamp,
    /// That the log was set back; nobody's rights are raised while it is here.
    #[serde(default)]
    pub set_back: Option<SetBack>,
    /// How far credentials are shown of which nobody said otherwise; absent: as far as they can be.
    #[serde(default)]
    pub expose: Option<Exposure>,
    /// The furthest event that the master accepted the loss of.
    #[serde(default)]
    pub given_up: u64,
}

impl AccountRow {
    /// How far credentials are shown by default.
    pub fn exposure(&self) -> Exposure {
        self.expose.unwrap_or(Exposure::Reveal)
    }

    /// The presence level: what there is to check proofs against decides.
    pub fn level(&self) -> Level {
        if self.passphrase.is_some() { Level::Passphrase } else { Level::None }
    }
}

/// What a passphrase's proofs are checked against.
#[derive(Clone, Serialize, Deserialize)]
pub struct PassphraseRow {
    pub public_key: PublicKey,
    pub salt: Salt,
}

/// Wrong passphrases since the last right one.
#[derive(Clone, Serialize, Deserialize)]
pub struct TriesRow {
    pub wrong: u64,
    /// Until when none is looked at.
    pub until: Timestamp,
}

/// An agent.
#[derive(Clone, Serialize, Deserialize)]
pub struct AgentRow {
    pub wallet: WalletAddress,
    pub account: AccountId,
    pub identities: Vec<AgentIdentity>,
    pub scope: Scope,
    /// Counts up whenever all sessions made so far end.
    pub epoch: u64,
    /// Why the sessions of earlier epochs ended, and when.
    pub ended: Option<Revocation>,
    pub revoked: Option<Revocation>,
    /// The daemon's keys, once one was paired.
    pub keys: Option<ChildKeys>,
    /// Since when they are its keys, and the sessions that came of it.
    pub daemon: Option<DaemonRow>,
    /// On what terms it has them, where there are any. They are here, and not with the credential,
    /// because every release checks this row, and every stream that lasts watches it.
    #[serde(default)]
    pub terms: BTreeMap<ServiceName, Terms>,
    /// How many services it has credentials of.
    pub services: u32,
    /// Movements of its ledger that were counted here, before they had a row of their own.
    #[serde(default)]
    pub movements: u64,
    pub created_at: Timestamp,
}

/// When an agent was given to a daemon.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonRow {
    pub since: Timestamp,
    /// The line of sessions that it was given.
    pub family: [u8; 16],
}

impl AgentRow {
    /// The name that people see: the first alias, else any identity, else the address.
    pub fn name(&self) -> String {
        self.shown_name().unwrap_or_else(|| self.wallet.to_string())
    }

    pub fn shown_name(&self) -> Option<String> {
        let alias = self.identities.iter().find(|id| matches!(id, AgentIdentity::Alias(_)));
        alias.or(self.identities.first()).map(ToString::to_string)
    }

    /// On what terms it has a credential.
    pub fn terms_of(&self, service: &ServiceName) -> Terms {
        self.terms.get(service).cloned().unwrap_or_default()
    }

    pub fn summary(&self) -> AgentSummary {
        AgentSummary {
            wallet: self.wallet,
            name: self.shown_name(),
            identities: self.identities.clone(),
            scope: self.scope.clone(),
            revoked: self.revoked.clone(),
            daemon: self.keys.zip(self.daemon).map(|(keys, daemon)| Daemon {
                fingerprint: keys.fingerprint(),
                since: daemon.since,
                last_used: None,
            }),
            created_at: self.created_at,
        }
    }
}

/// The agent that an identity or an index leads to.
#[derive(Serialize, Deserialize)]
pub struct AgentLink {
    pub wallet: WalletAddress,
}

/// The account that an identity proof leads to.
#[derive(Serialize, Deserialize)]
pub struct ProofRow {
    pub account: AccountId,
}

/// That somebody owns the backend.
#[derive(Serialize, Deserialize)]
pub struct OwnerRow {
    /// The first account.
    pub account: AccountId,
}

/// An ID token that was used.
#[derive(Serialize, Deserialize)]
pub struct UsedTokenRow {
    /// Hash of what the issuer signed.
    pub hash: Hash32,
    /// Until when it would be accepted again.
    pub until: Timestamp,
}

/// One version of a credential.
#[derive(Clone, Serialize, Deserialize)]
pub struct CredentialRow {
    pub service: ServiceName,
    pub version: u64,
    /// The oldest version that is kept.
    pub oldest: u64,
    pub stored_at: Timestamp,
    /// The plaintext, sealed under the account's key.
    #[serde(with = "crate::core::encoding::base64_bytes")]
    pub secret: Vec<u8>,
    /// Where it comes from, if it was made for this agent. Such a version is never kept beside a
    /// newer one, so that nobody gets a key back that was ended.
    #[serde(default)]
    pub origin: Option<Origin>,
}

impl CredentialRow {
    /// Until when it holds, where that is known.
    pub fn expires_at(&self) -> Option<Timestamp> {
        self.origin.as_ref()?.expires_at
    }
}

/// Where a key comes from that the backend had made at its service.
#[derive(Clone, Serialize, Deserialize)]
pub struct Origin {
    /// How it is ended there; absent where it can only run out.
    pub end_by: Option<EndBy>,
    /// Until when it holds.
    pub expires_at: Option<Timestamp>,
    /// With what settings it was made, and so is ended.
    pub settings: Settings,
}

/// How keys of a service are got.
#[derive(Clone, Serialize, Deserialize)]
pub struct ProviderRow {
    pub service: ServiceName,
    pub way: Way,
    pub settings: Settings,
    pub set_at: Timestamp,
    /// The account's own secret at the service, sealed under the account's key.
    pub secret: Option<Sealed>,
    /// How many keys were asked for: whoever changes the rest of the row decides again when
    /// another one is.
    #[serde(default)]
    pub asked: u64,
}

/// Something that is to be done at a service, until it is done.
#[derive(Clone, Serialize, Deserialize)]
pub struct ErrandRow {
    pub account: AccountId,
    pub service: ServiceName,
    /// With what settings the key was made.
    pub settings: Settings,
    /// Whose key it was.
    pub agent: (WalletAddress, Option<String>),
    pub what: Errand,
    /// How often it did not work.
    pub tries: u32,
    /// Why it did not work the last time.
    pub trouble: Option<String>,
}

/// What is to be done at a service.
#[derive(Clone, Serialize, Deserialize)]
pub enum Errand {
    /// End the key of this id.
    Id(String),
    /// End this key, which is sealed for the errand.
    Key(Sealed),
    /// End the keys of this name, of which we do not know whether they were made.
    Called(String),
}

/// What a session may act as.
#[derive(Clone, Serialize, Deserialize)]
pub enum SessionKind {
    Master,
    Child {
        wallet: WalletAddress,
        epoch: u64,
        /// Narrower than the agent's own scope; absent: the agent's.
        scope: Option<Scope>,
        family: [u8; 16],
        /// The auth request that minted it, until its first use.
        request: Option<RequestId>,
        used: bool,
    },
}

/// A session; the token's hash alone.
#[derive(Clone, Serialize, Deserialize)]
pub struct SessionRow {
    pub hash: Hash32,
    pub account: AccountId,
    pub kind: SessionKind,
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
    pub last_used: Timestamp,
    pub revoked: Option<Revocation>,
    pub host: Option<String>,
    pub user: Option<String>,
}

/// A line of sessions.
#[derive(Clone, Serialize, Deserialize)]
pub struct FamilyRow {
    pub account: AccountId,
    pub wallet: WalletAddress,
    pub epoch: u64,
    pub scope: Option<Scope>,
    /// Hash of the renewal secret that is good now.
    pub current: Hash32,
    /// Hash of the one before.
    pub previous: Option<Hash32>,
    /// The session that was minted last.
    pub session: SessionId,
    pub revoked: Option<Revocation>,
    pub host: Option<String>,
    pub user: Option<String>,
}

/// The family that a renewal secret belongs to.
#[derive(Serialize, Deserialize)]
pub struct RenewalRow {
    pub hash: Hash32,
    pub family: [u8; 16],
}

/// Which account may answer, and until when.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    pub account: AccountId,
    pub until: Timestamp,
}

/// How far a request has come.
#[derive(Clone, Serialize, Deserialize)]
pub enum Progress {
    /// Nobody has answered.
    Live,
    /// Answered; the child may fetch it until `until`, or the minted session's first use.
    Decided {
        by: AccountId,
        at: Timestamp,
        until: Timestamp,
        decision: Box<Decision>,
        /// The minted session, sealed to the child.
        payload: Option<Sealed>,
    },
    /// Over: the nonce is gone.
    Ended { by: Option<AccountId>, at: Timestamp, consumed: bool },
}

/// Sealed bytes in a row.
#[derive(Clone, Serialize, Deserialize)]
pub struct Sealed(#[serde(with = "crate::core::encoding::base64_bytes")] pub Vec<u8>);

/// An auth request and its rendezvous.
#[derive(Clone, Serialize, Deserialize)]
pub struct RequestRow {
    pub id: RequestId,
    pub kind: Kind,
    /// Canonical bytes.
    #[serde(with = "crate::core::encoding::base64_bytes")]
    pub details: Vec<u8>,
    pub keys: ChildKeys,
    pub nonce: Option<Nonce>,
    pub otp: Otp,
    pub pair_code: PairCode,
    pub open_hash: Hash32,
    pub created_at: Timestamp,
    pub live_until: Timestamp,
    pub saw: Seen,
    pub parent_session: Option<SessionId>,
    /// The account and agent that it names, when the child's session says so at open.
    pub agent: Option<(AccountId, WalletAddress)>,
    pub bound: Option<Bound>,
    /// Who had it before, and who waits for it.
    #[serde(default)]
    pub turns: Turns,
    pub progress: Progress,
    /// Hash of the registration token.
    pub registered: Option<Hash32>,
    /// A payload that a master left.
    pub relay: Option<Sealed>,
    /// Whether the gateway opened it, for requests that it holds.
    #[serde(default)]
    pub held: bool,
}

/// That requests are sent unasked by an approval.
#[derive(Clone, Serialize, Deserialize)]
pub struct ReleaseRow {
    /// Hash of which.
    pub of: Hash32,
    /// By which approval.
    pub request: RequestId,
    /// How many more; absent: any number.
    pub left: Option<u32>,
    pub until: Timestamp,
}

/// The request that a code or a registration token leads to.
#[derive(Serialize, Deserialize)]
pub struct RequestLink {
    pub request: RequestId,
    /// The whole hash, for registration tokens.
    pub hash: Option<Hash32>,
}

/// Times of wrong pair codes.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct GuessRow {
    pub times: Vec<Timestamp>,
}

/// What an agent has on one payment layer.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
pub struct BalanceRow {
    pub available: u64,
    pub spent: u64,
}

/// How many movements an agent's ledger had. Not in the agent's row, which every request checks.
#[derive(Serialize, Deserialize)]
pub struct MovementsRow {
    pub count: u64,
}
