//! The audit log: one event an act, each with the hash of the one before, and the signed head
//! by which a reader notices that something was changed, removed, reordered or cut off.
//!
//! Every account has a chain of its own, so that its master can verify all of it without
//! seeing anybody else's.
use ring::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

use super::frame::Frame;
use super::identity::ServiceName;
use super::types::{
    AccountId, BackendId, Hash32, PublicKey, RequestId, SessionId, Signature, Timestamp,
    WalletAddress,
};

/// What was done, or tried.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// A master session was made.
    SessionCreate,
    /// A child session was made by its master.
    SessionChild,
    /// A daemon renewed its session.
    SessionRenew,
    /// One session was ended.
    SessionRevoke,
    /// An agent was made.
    AgentCreate,
    /// A credential was stored.
    Store,
    /// An earlier version of a credential was brought back.
    RollBack,
    /// The terms of a credential were set.
    Terms,
    /// A credential was deleted.
    Delete,
    /// A credential's plaintext was handed out.
    Read,
    /// A request of an agent's waits for its master's approval.
    Ask,
    /// A credential was used by the backend in a request of its agent's.
    Use,
    /// An agent's access was ended.
    Revoke,
    /// An agent's access was given back.
    Reinstate,
    /// An agent and its credentials were deleted.
    Teardown,
    /// An identity was linked to an agent.
    Link,
    /// An identity was unlinked.
    Unlink,
    /// A payload was left at the rendezvous.
    Deliver,
    /// An auth request was approved.
    Approve,
    /// An auth request was denied.
    Deny,
    /// An agent's scope was changed.
    ScopeChange,
    /// An amount was put into the ledger.
    Fund,
    /// An amount was taken from the ledger.
    Debit,
    /// A client showed a signed head that this log does not have in it.
    HeadContradicted,
    /// The master accepted that the log was set back behind such a head.
    HeadAccepted,
    /// A key was got for an agent, or the way to get one was handed to its daemon.
    Provision,
    /// A key that was made for an agent was ended at its service, or could not be.
    EndUpstream,
    /// How keys of a service are got was set up.
    ProviderSet,
    /// It was forgotten.
    ProviderRemove,
    /// The presence level was set, or its reset was asked for or taken back.
    Presence,
}

/// How it ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was done.
    Allowed,
    /// It was refused.
    Denied,
}

/// Who did it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Actor {
    /// The host that the session's client said it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// `master`, `child`, or `backend` for what it did by itself.
    pub role: Role,
    /// The user that the session's client said it runs as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The session it was done with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
}

/// In which part somebody acted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The person, or their session.
    Master,
    /// An agent's session.
    Child,
    /// The backend by itself.
    #[default]
    Backend,
}

/// The record of one act. The order of the fields is the canonical one of their names, so that
/// the plain encoding is the canonical encoding; a test holds it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// Who.
    pub by: Actor,
    /// Position in the account's chain, from 1.
    pub seq: u64,
    /// Hash of the event before; of nothing for the first.
    pub prev: Hash32,
    /// When, by the backend's clock.
    pub time: Timestamp,
    /// Whose credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<WalletAddress>,
    /// What.
    pub action: Action,
    /// Further words for a person: an identity, a scope, a reason for a refusal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The account whose chain this is.
    pub account: AccountId,
    /// How it ended.
    pub outcome: Outcome,
    /// The auth request that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestId>,
    /// For which service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceName>,
    /// The account's presence level at that time.
    pub presence: String,
    /// With [`Action::HeadAccepted`], and no other: what [`Head::set_backs`] is from here on. It
    /// is more than any head has had that was seen, also of what is given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_backs: Option<u64>,
    /// The agent's name at that time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_name: Option<String>,
}

impl Event {
    /// The hash that the next event carries: SHA-256 over the domain, the backend and the
    /// canonical CBOR of this event.
    pub fn hash(&self, backend: BackendId) -> Hash32 {
        let bytes = super::cbor::to_row(self).expect("an event holds nothing that CBOR forbids");
        Self::hash_encoded(backend, &bytes)
    }

    /// The same over an event that is encoded already.
    pub fn hash_encoded(backend: BackendId, encoded: &[u8]) -> Hash32 {
        let framed = Frame::new("AgentKeys-v1-AuditEvent").field(&backend.0).field(encoded);
        Hash32::of(framed.bytes())
    }
}

/// The hash that the first event of a chain carries as the one before.
pub const GENESIS: Hash32 = Hash32([0; 32]);

/// The signed end of an account's audit log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// The backend whose log it is.
    pub backend_id: BackendId,
    /// The account whose chain it is.
    pub account: AccountId,
    /// Sequence number of the last event; 0 for an empty log.
    pub seq: u64,
    /// Hash of the last event.
    pub hash: Hash32,
    /// Counts up whenever the master accepts that the log was set back; 0 if that never was. Of two
    /// heads the one with the higher count is further on, whatever their numbers.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub set_backs: u64,
    /// The account's master public key.
    pub master_key: PublicKey,
    /// Ed25519 by the master key.
    pub signature: Signature,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Head {
    fn digest(&self) -> Hash32 {
        let framed = Frame::new("AgentKeys-v1-AuditHead")
            .field(&self.backend_id.0)
            .field(&self.account.0)
            .field(&self.seq.to_be_bytes())
            .field(&self.hash.0);
        // A log that was never set back is signed without the field.
        let framed = match self.set_backs {
            0 => framed,
            set_backs => framed.field(&set_backs.to_be_bytes()),
        };
        Hash32::of(framed.bytes())
    }

    /// Signs a head with the account's master key.
    pub fn sign(
        backend_id: BackendId,
        account: AccountId,
        seq: u64,
        hash: Hash32,
        master: &Ed25519KeyPair,
    ) -> Self {
        Self::sign_set_back(backend_id, account, seq, hash, 0, master)
    }

    /// The same for a log of which the master accepted that it was set back.
    pub fn sign_set_back(
        backend_id: BackendId,
        account: AccountId,
        seq: u64,
        hash: Hash32,
        set_backs: u64,
        master: &Ed25519KeyPair,
    ) -> Self {
        use ring::signature::KeyPair;
        let mut head = Self {
            backend_id,
            account,
            seq,
            hash,
            set_backs,
            master_key: PublicKey([0; 32]),
            signature: Signature([0; 64]),
        };
        head.master_key.0.copy_from_slice(master.public_key().as_ref());
        let signature = master.sign(&head.digest().0);
        head.signature.0.copy_from_slice(signature.as_ref());
        head
    }

    /// How far on the log is at this head: heads of one log are ordered by it.
    pub fn place(&self) -> (u64, u64) {
        (self.set_backs, self.seq)
    }

    /// Whether the signature is the master key's.
    pub fn is_authentic(&self) -> bool {
        UnparsedPublicKey::new(&ED25519, self.master_key.0)
            .verify(&self.digest().0, &self.signature.0)
            .is_ok()
    }
}

/// One place of the log as it was read: an event, or what stands where one should be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Entry {
    /// The event as it was written.
    Event(Box<Event>),
    /// The row is there and does not open: it was changed, moved or inserted.
    Damaged {
        /// Position whose row is damaged.
        damaged: u64,
    },
}

/// What is wrong with a log, and at which event first.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    /// The row does not open.
    #[error("event {0} was changed: its row does not authenticate")]
    Damaged(u64),
    /// The sequence jumps.
    #[error("event {0} is missing")]
    Missing(u64),
    /// The event does not carry the hash of the one before.
    #[error("event {0} does not follow from the one before: it or the one before was changed")]
    Chain(u64),
    /// The event belongs to another account.
    #[error("event {0} belongs to another account")]
    Foreign(u64),
    /// The log does not end as the head says: its last event is another, or goes on beyond it.
    #[error("event {0} is not covered by the signed head")]
    Head(u64),
    /// The head's signature is wrong.
    #[error("the head at event {0} is not signed by the account's master key")]
    Signature(u64),
    /// The log ends before an event that was seen before.
    #[error("event {0} is missing: the log was cut off after this client last looked")]
    CutOff(u64),
    /// The event that was seen before is another now.
    #[error("event {0} is not the one that this client saw before: the log was forked")]
    Forked(u64),
    /// The count of accepted set-backs does not follow from the log's events.
    #[error("event {0} does not fit the count of set-backs that the master accepted")]
    SetBacks(u64),
}

/// Walks a chain from its first event; feed it every entry in order, then [`Walk::finish`].
pub struct Walk {
    backend: BackendId,
    account: AccountId,
    next: u64,
    last: Hash32,
    set_backs: u64,
    seen: Option<Head>,
}

impl Walk {
    /// A walk over one account's chain. `seen` is the highest head that this client remembers.
    pub fn new(backend: BackendId, account: AccountId, seen: Option<&Head>) -> Self {
        Self { backend, account, next: 1, last: GENESIS, set_backs: 0, seen: seen.cloned() }
    }

    /// Takes the next entry.
    pub fn step(&mut self, entry: &Entry) -> Result<(), Fault> {
        let event = match entry {
            Entry::Damaged { damaged } if *damaged == self.next => {
                return Err(Fault::Damaged(self.next));
            }
            Entry::Damaged { .. } => return Err(Fault::Missing(self.next)),
            Entry::Event(event) => event,
        };
        if event.seq != self.next {
            return Err(Fault::Missing(self.next));
        }
        if event.account != self.account {
            return Err(Fault::Foreign(event.seq));
        }
        if event.prev != self.last {
            return Err(Fault::Chain(event.seq));
        }
        self.last = event.hash(self.backend);
        let forked = |seen: &Head| seen.seq == event.seq && seen.hash != self.last;
        if self.seen.as_ref().is_some_and(forked) {
            return Err(Fault::Forked(event.seq));
        }
        match (event.action, event.set_backs) {
            (Action::HeadAccepted, Some(count)) if count > self.set_backs => self.set_backs = count,
            (Action::HeadAccepted, _) | (_, Some(_)) => return Err(Fault::SetBacks(event.seq)),
            (_, None) => {}
        }
        self.next += 1;
        Ok(())
    }

    /// Compares the end with the signed head and with what was seen before; returns how many
    /// events were verified. The head is held to the master key of the head that was seen; a
    /// client that remembers none compares [`Head::master_key`] with the key it pinned.
    pub fn finish(self, head: &Head) -> Result<u64, Fault> {
        let count = self.next - 1;
        let ours = |head: &Head| head.backend_id == self.backend && head.account == self.account;
        if !head.is_authentic() || !ours(head) {
            return Err(Fault::Signature(head.seq));
        }
        // Whoever can rewrite the log can sign it with a key of their own.
        if self.seen.as_ref().is_some_and(|s| !ours(s) || s.master_key != head.master_key) {
            return Err(Fault::Signature(head.seq));
        }
        if head.seq > count {
            return Err(Fault::Missing(self.next));
        }
        if head.seq < count {
            return Err(Fault::Head(head.seq + 1));
        }
        if head.hash != self.last {
            return Err(Fault::Head(count));
        }
        if head.set_backs != self.set_backs {
            return Err(Fault::SetBacks(count));
        }
        match self.seen {
            Some(seen) if seen.seq > count => Err(Fault::CutOff(self.next)),
            _ => Ok(count),
        }
    }
}
