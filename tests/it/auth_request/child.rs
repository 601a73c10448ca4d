//! The child's side of an auth request, played as the daemon plays it: it opens a request, holds
//! what it was told, and takes nothing from a decision that does not pass every check. Must
//! never look at anything that a child does not get.
use std::sync::Arc;
use std::time::Duration;

use agentkeys::backend::clock::Entropy;
use agentkeys::core::auth_request::{
    Details, HighValueRelease, KeyRotate, Pair, Recover, ScopeChange,
};
use agentkeys::core::backend::{
    AccountBackend, Approved, Fetched, Grant, Minted, OpenRequest, Opened,
};
use agentkeys::core::cbor;
use agentkeys::core::decision::{Decision, Expected, Mistrust, Payload};
use agentkeys::core::problem::Answer;
use agentkeys::core::scope::Scope;
use agentkeys::core::seal::{self, Purpose};
use agentkeys::core::secret::Key32;
use agentkeys::core::token::{RegistrationToken, RenewalSecret, SessionToken};
use agentkeys::core::types::{AccountId, ChildKeys, Hash32, PublicKey, SessionId, WalletAddress};
use ring::signature::{Ed25519KeyPair, KeyPair};

use crate::env::{Master, copy_of, id, service};

/// No wait at all.
pub const NOW: Duration = Duration::ZERO;
/// Longer than a test may take.
pub const LONG: Duration = Duration::from_secs(30);

/// A daemon's key pairs.
#[derive(Clone)]
pub struct Keys {
    pub public: ChildKeys,
    x25519: [u8; 32],
}

impl Keys {
    /// Fresh ones.
    pub fn new() -> Self {
        let fresh = || Entropy::system().bytes::<32>().expect("randomness");
        let signing = Ed25519KeyPair::from_seed_unchecked(&fresh()).expect("32 bytes");
        let ed25519 = PublicKey(signing.public_key().as_ref().try_into().expect("32 bytes"));
        let (secret, x25519) = seal::key_pair(&Key32::new(fresh()));
        Self { public: ChildKeys::new(ed25519, x25519), x25519: *secret.expose() }
    }

    /// Opens a payload that is meant for `request`'s child.
    pub fn unseal(&self, purpose: &Purpose, sealed: &[u8]) -> Result<Vec<u8>, seal::SealError> {
        seal::open(&Key32::new(self.x25519), purpose, sealed).map(|plain| plain.expose().to_vec())
    }
}

/// A child with a request that it opened.
pub struct Child {
    pub backend: Arc<dyn AccountBackend>,
    pub keys: Keys,
    pub details: Details,
    pub parent: Option<SessionId>,
    pub opened: Opened,
    pub pinned: Option<(AccountId, PublicKey)>,
}

/// A new agent is wished for.
pub fn pair(name: &str, scope: Scope) -> Details {
    Details::Pair(Pair {
        host: Some("build-7".parse().expect("a good claim")),
        name: (!name.is_empty()).then(|| name.parse().expect("a good alias")),
        scope,
        user: Some("ci".parse().expect("a good claim")),
    })
}

/// An agent is to go on elsewhere.
pub fn recover(agent: &str) -> Details {
    Details::Recover(Recover { agent: id(agent), host: None, user: None })
}

/// Another scope is wished for.
pub fn scope_change(agent: WalletAddress, scope: Scope) -> Details {
    Details::ScopeChange(ScopeChange { agent, reason: None, scope })
}

/// One act of high value.
pub fn release(agent: WalletAddress, name: &str) -> Details {
    Details::HighValueRelease(HighValueRelease {
        agent,
        amount: 129_900,
        body: Hash32::of(b"{}"),
        currency: "EUR".parse().expect("a good word"),
        host: "api.shop.example".parse().expect("a good word"),
        method: "POST".parse().expect("a good word"),
        path: "/orders".parse().expect("a good path"),
        reason: None,
        service: service(name),
    })
}

/// New keys for the same daemon.
pub fn rotate(agent: WalletAddress, old: ChildKeys) -> Details {
    Details::KeyRotate(KeyRotate { agent, old: old.fingerprint() })
}

impl Child {
    /// Opens a request with fresh keys.
    pub async fn open(backend: &Arc<dyn AccountBackend>, details: Details) -> Self {
        Self::try_open(backend, details, None).await.expect("the request is opened")
    }

    /// Opens a request of a child that has a session.
    pub async fn open_as(child: &Master, details: Details) -> Self {
        let session = Some(&child.session);
        Self::try_open(&child.backend, details, session).await.expect("the request is opened")
    }

    /// Tries to open a request with fresh keys.
    pub async fn try_open(
        backend: &Arc<dyn AccountBackend>,
        details: Details,
        session: Option<&SessionToken>,
    ) -> Answer<Self> {
        Self::try_open_with(Keys::new(), backend, details, session).await
    }

    /// The same with keys that it has.
    pub async fn try_open_with(
        keys: Keys,
        backend: &Arc<dyn AccountBackend>,
        details: Details,
        session: Option<&SessionToken>,
    ) -> Answer<Self> {
        let request = OpenRequest {
            keys: keys.public,
            details: details.clone(),
            session: session.map(copy_of),
        };
        let opened = backend.open_auth_request(request).await?;
        let parent = session.map(SessionToken::id);
        Ok(Self { backend: backend.clone(), keys, details, parent, opened, pinned: None })
    }

    /// What it judges a decision by.
    pub fn expected(&self) -> Expected<'_> {
        Expected {
            request_id: self.opened.id,
            details: &self.details,
            keys: self.keys.public,
            parent_session: self.parent,
            created_at: self.opened.created_at,
            nonce_hash: self.opened.nonce_hash,
            otp: self.opened.otp,
            pair_code: self.opened.pair_code,
            asked: match &self.details {
                Details::Pair(pair) => Some(pair.scope.clone()),
                Details::ScopeChange(change) => Some(change.scope.clone()),
                _ => None,
            },
            pinned: self.pinned,
        }
    }

    /// Registers at the rendezvous.
    pub async fn register(&self) -> Answer<RegistrationToken> {
        let opened = &self.opened;
        self.backend
            .register_rendezvous(&opened.open_token, opened.pair_code, self.keys.public)
            .await
    }

    /// Registers and looks once whether there is a payload.
    pub async fn polled(&self) -> Answer<Option<Vec<u8>>> {
        let registration = self.register().await?;
        self.backend.poll_rendezvous(&registration, NOW).await
    }

    /// Looks once whether there is a decision.
    pub async fn decision(&self) -> Answer<Option<Decision>> {
        self.backend.await_auth_decision(&self.opened.open_token, self.opened.id, NOW).await
    }

    /// The decision, which is there and is trusted.
    pub async fn decided(&self) -> Decision {
        let decision = self.decision().await.expect("it is answered").expect("it is there");
        decision.verify(&self.expected()).expect("it is trusted");
        decision
    }

    /// Opens a payload and holds it against what was signed.
    pub fn take(&self, decision: &Decision, sealed: &[u8]) -> Result<Payload, Mistrust> {
        decision.verify(&self.expected())?;
        let purpose = Purpose::payload(self.opened.id);
        let plain = self.keys.unseal(&purpose, sealed).map_err(|_| Mistrust::Payload)?;
        decision.verify_payload(&plain)?;
        cbor::from_canonical(&plain).map_err(|_| Mistrust::Payload)
    }

    /// All that an approval brings, checked, and not used yet.
    pub async fn minted(&self) -> Minted {
        let decision = self.decided().await;
        let sealed = self.polled().await.expect("there is a payload").expect("it is there");
        let payload = self.take(&decision, &sealed).expect("the payload is trusted");
        let session = SessionToken::parse(&payload.session).expect("a session token");
        Minted {
            news: None,
            session_id: session.id(),
            session,
            wallet: payload.agent,
            expires_at: payload.expires_at,
            renewal: Some(RenewalSecret::parse(&payload.renewal).expect("a renewal secret")),
        }
    }

    /// Who it is once it has used what it was given.
    pub async fn signed_in(&self) -> Master {
        Master::of(self.backend.clone(), self.minted().await).await
    }
}

/// Looks at the request as a master does, compares the OTPs, and says yes to just that.
pub async fn try_approve(master: &Master, child: &Child, grant: Grant) -> Answer<Approved> {
    let fetched = fetch(master, child).await?;
    assert_eq!(fetched.otp, child.opened.otp, "both sides show the same digits");
    let seen = Some(fetched.seen_hash());
    master.backend.approve_auth_request(&master.session, fetched.id, seen, grant).await
}

/// The same where it is allowed, giving what was asked for.
pub async fn approve(master: &Master, child: &Child) -> Approved {
    try_approve(master, child, Grant::default()).await.expect("it is approved")
}

/// Says yes by the request's id alone.
pub async fn approve_id(master: &Master, child: &Child) -> Answer<Approved> {
    let grant = Grant::default();
    master.backend.approve_auth_request(&master.session, child.opened.id, None, grant).await
}

/// Looks at the request as a master does.
pub async fn fetch(master: &Master, child: &Child) -> Answer<Fetched> {
    master.backend.fetch_auth_request(&master.session, child.opened.pair_code).await
}

/// A daemon that was paired as `name`, and its keys.
pub async fn paired(master: &Master, name: &str, scope: Scope) -> (Master, Keys) {
    let child = Child::open(&master.backend, pair(name, scope)).await;
    approve(master, &child).await;
    (child.signed_in().await, child.keys)
}
