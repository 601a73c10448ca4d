//! One auth request of this daemon's, from `open` to a decision that passed every check.
//!
//! Must never take anything from an answer that does not verify, and never show a code that it
//! cannot compute again from the nonce.
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::keys::Keys;
use super::mirror::Identity;
use super::reach::{Backend, Reach};
use crate::core::auth_request::{Details, Kind};
use crate::core::backend::{OpenRequest, Opened};
use crate::core::cbor;
use crate::core::decision::{Decision, Expected, Mistrust, Payload, Verdict};
use crate::core::holder::Waiting;
use crate::core::pin::Fingerprint;
use crate::core::problem::{Answer, Code, Problem};
use crate::core::scope::Scope;
use crate::core::token::{RegistrationToken, RenewalSecret, SessionToken};
use crate::core::types::{SessionId, Timestamp, WalletAddress};

/// Longest wait of one long poll.
const POLL: Duration = Duration::from_secs(25);
/// How long a payload is waited for that the decision says is there.
const PAYLOAD: Duration = Duration::from_secs(15);
/// How long it is asked for while the backend is away, which keeps it as long: the keys that it
/// is sealed to are nowhere else.
const KEPT: Duration = Duration::from_secs(10 * 60);
/// How often in a row what is answered may be none of the backend's answers, such as a proxy's.
const FAULTS: u32 = 3;
/// Between two tries while the backend is away.
const AWAY: Duration = Duration::from_secs(3);
/// Least time from one long poll to the next.
const EARLY: Duration = Duration::from_secs(1);
/// How long after a code's end an answer can still come: whoever has fetched it may take 60
/// seconds to confirm, and as long as that again while the backend was away.
const GRACE: Duration = Duration::from_secs(120);

const STRANGERS: &str = "another account answered";
const SAID_NO: &str = "the master said no";

/// Whom an answer must come from.
#[derive(Clone)]
pub struct Pinned {
    /// Who the daemon is already.
    pub identity: Option<Identity>,
    /// The account that it was told to expect.
    pub account: Option<Fingerprint>,
}

/// A request that was opened and registered.
pub struct Request {
    details: Details,
    keys: Keys,
    parent: Option<SessionId>,
    opened: Opened,
    registration: RegistrationToken,
    over: Instant,
    /// What its user is shown.
    pub waiting: Waiting,
}

/// What an approval gave.
pub struct Given {
    /// Who the daemon now is.
    pub identity: Identity,
    /// What it may do.
    pub scope: Scope,
    /// The session, where one was minted.
    pub session: Option<Minted>,
    /// The keys that the session is for.
    pub keys: Keys,
}

/// A session that came with an approval.
pub struct Minted {
    /// Its token.
    pub token: SessionToken,
    /// What the next one is got with.
    pub renewal: RenewalSecret,
    /// When it ends unless it is renewed.
    pub expires_at: Timestamp,
}

/// What a failed check says to a person.
fn mistrusted(why: Mistrust) -> Problem {
    let fix = match why {
        Mistrust::Pin => {
            "somebody else approved, or the backend is another one: compare the fingerprint with \
             the one that agentkeys init shows on the master's machine, then try again"
        }
        _ => {
            "do not trust this backend, or what is between it and here, until you know why; \
             nothing was taken from it, and the next call asks anew"
        }
    };
    Problem::new(Code::Denied, "the backend's answer was refused", why.to_string(), fix)
}

/// What another account's answer says, whichever it was. It is not the master's.
fn strangers(decision: &Decision) -> Problem {
    let told = Fingerprint::of(decision.account, &decision.master_key);
    let (what, did) = match decision.verdict {
        Verdict::Approved => ("the backend's answer was refused", "approved"),
        Verdict::Denied => ("another account denied the request", "denied"),
    };
    let mut problem = mistrusted(Mistrust::Pin);
    problem.detail = what.to_owned();
    problem.cause = format!("{}: account {told} {did} it", problem.cause);
    problem.title = STRANGERS.to_owned();
    problem
}

/// Whether a request failed only because another account answered it: then the next one can be
/// asked at once.
pub fn is_strangers(problem: &Problem) -> bool {
    problem.title == STRANGERS
}

fn said_no() -> Problem {
    let mut problem = Problem::new(
        Code::Denied,
        "access denied: the master said no",
        "the request was denied",
        "ask the master why; the next call asks anew",
    );
    problem.title = SAID_NO.to_owned();
    problem
}

/// Whether the master looked at the request and said no.
pub fn is_no(problem: &Problem) -> bool {
    problem.title == SAID_NO
}

fn no_answer() -> Problem {
    Problem::new(
        Code::Expired,
        "the pair code has run out",
        "nobody approved it in time, or the backend was away",
        "the next call shows a new one",
    )
}

fn incomplete(what: &str) -> Problem {
    let fix = "try again; if it stays, the backend is faulty";
    Problem::new(Code::Internal, "the backend's answer is incomplete", what, fix)
}

impl Request {
    /// Opens a request and registers at the rendezvous.
    ///
    /// # Errors
    /// Those of the backend.
    pub async fn open(
        reach: &Reach,
        details: Details,
        keys: Keys,
        session: Option<&SessionToken>,
        now: Timestamp,
    ) -> Answer<Self> {
        let opened = reach
            .call(|backend| {
                let (keys, details) = (keys.public, details.clone());
                let request = OpenRequest { keys, details, session: session.map(copy) };
                async move { backend.open_auth_request(request).await }
            })
            .await?;
        let registration = reach
            .call(|backend| {
                let (token, code, keys) = (&opened.open_token, opened.pair_code, keys.public);
                async move { backend.register_rendezvous(token, code, keys).await }
            })
            .await?;
        let ttl = Duration::from_secs(opened.ttl_seconds.min(3600));
        let waiting = Waiting {
            kind: details.kind(),
            pair_code: opened.pair_code.to_string(),
            otp: opened.otp.to_string(),
            expires_at: now.plus_ms(opened.ttl_seconds.min(3600) * 1000),
            command: format!("agentkeys approve {}", opened.pair_code),
            because: None,
        };
        let parent = session.map(SessionToken::id);
        let over = Instant::now() + ttl + GRACE;
        Ok(Self { details, keys, parent, opened, registration, over, waiting })
    }

    /// What it asks for.
    pub fn details(&self) -> &Details {
        &self.details
    }

    /// Waits for the answer, checks it, and takes what it gives. Goes on through a backend that
    /// is away now and then.
    ///
    /// # Errors
    /// `EXPIRED` when nobody answers in time; `DENIED` when the answer is no, or is not to be
    /// trusted; those of the backend.
    pub async fn wait(self, reach: &Reach, pinned: &Pinned) -> Answer<Given> {
        let decision = self.decision(reach).await?;
        decision.verify(&self.expected(pinned)).map_err(|why| match why {
            // The last of the checks: all else is as it was asked.
            Mistrust::Pin => strangers(&decision),
            why => mistrusted(why),
        })?;
        let told = Fingerprint::of(decision.account, &decision.master_key);
        if pinned.account.is_some_and(|account| account != told) {
            return Err(strangers(&decision));
        }
        let known = pinned.identity.as_ref();
        if known.is_some_and(|known| known.backend_id != decision.backend_id) {
            return Err(mistrusted(Mistrust::Pin));
        }
        let granted = match (decision.verdict, &decision.granted) {
            (Verdict::Approved, Some(granted)) => granted,
            _ => return Err(said_no()),
        };
        // A recovery by name may give any agent to a fresh daemon; one that knows who it is
        // takes nobody else's place, unless it asks for any, since its own is no more.
        let known = match self.details.kind() {
            Kind::Pair => None,
            _ => pinned.identity.as_ref().map(|identity| identity.agent),
        };
        if known.is_some_and(|known| known != granted.agent) {
            return Err(mistrusted(Mistrust::OtherAgent));
        }
        let identity = Identity {
            agent: granted.agent,
            account: decision.account,
            master_key: decision.master_key,
            backend_id: decision.backend_id,
            backend: reach.address().unwrap_or_default().to_owned(),
        };
        let scope = granted.scope.clone();
        let session = match self.details.kind() {
            Kind::Pair | Kind::Recover | Kind::KeyRotate => {
                Some(self.session(reach, &decision, granted.agent).await?)
            }
            Kind::ScopeChange | Kind::HighValueRelease => None,
        };
        Ok(Given { identity, scope, session, keys: self.keys })
    }

    fn expected(&self, pinned: &Pinned) -> Expected<'_> {
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
            pinned: pinned.identity.as_ref().map(|known| (known.account, known.master_key)),
        }
    }

    async fn decision(&self, reach: &Reach) -> Answer<Decision> {
        let mut faults = 0;
        loop {
            let left = self.over.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(no_answer());
            }
            let look = |backend: Backend| {
                let (token, id) = (&self.opened.open_token, self.opened.id);
                async move { backend.await_auth_decision(token, id, POLL.min(left)).await }
            };
            let begun = Instant::now();
            match reach.once(look).await {
                Ok(Some(decision)) => return Ok(decision),
                Ok(None) => {
                    faults = 0;
                    // One that does not wait is not asked again at once.
                    sleep(EARLY.saturating_sub(begun.elapsed()).min(left)).await;
                }
                Err(problem) if may_pass(&problem, &mut faults) => sleep(AWAY.min(left)).await,
                Err(problem) if problem.code == Code::Expired => return Err(no_answer()),
                Err(problem) => return Err(problem),
            }
        }
    }

    async fn payload(&self, reach: &Reach) -> Answer<Vec<u8>> {
        let (end, mut faults) = (Instant::now() + KEPT, 0);
        loop {
            let look = |backend: Backend| {
                let registration = &self.registration;
                async move { backend.poll_rendezvous(registration, PAYLOAD).await }
            };
            match reach.once(look).await {
                Ok(sealed) => {
                    let none = "the approval mints a session, and none was delivered";
                    return sealed.ok_or_else(|| incomplete(none));
                }
                Err(problem) if may_pass(&problem, &mut faults) && Instant::now() < end => {
                    sleep(AWAY).await;
                }
                Err(problem) => return Err(problem),
            }
        }
    }

    /// Fetches the payload, opens it and holds it against what was signed.
    async fn session(
        &self,
        reach: &Reach,
        decision: &Decision,
        agent: WalletAddress,
    ) -> Answer<Minted> {
        let sealed = self.payload(reach).await?;
        let opened = self.keys.open(self.opened.id, &sealed);
        let plain = opened.map_err(|_| mistrusted(Mistrust::Payload))?;
        decision.verify_payload(plain.expose()).map_err(mistrusted)?;
        let payload: Payload =
            cbor::from_canonical(plain.expose()).map_err(|_| mistrusted(Mistrust::Payload))?;
        if payload.agent != agent {
            return Err(mistrusted(Mistrust::OtherAgent));
        }
        let token = SessionToken::parse(&payload.session);
        let renewal = RenewalSecret::parse(&payload.renewal);
        match (token, renewal) {
            (Ok(token), Ok(renewal)) if token.is_child() => {
                Ok(Minted { token, renewal, expires_at: payload.expires_at })
            }
            _ => Err(mistrusted(Mistrust::Payload)),
        }
    }
}

/// Whether it may be over by itself: the backend is away, or what answers in its place has nothing
/// of it, and that not too often in a row.
fn may_pass(problem: &Problem, faults: &mut u32) -> bool {
    match problem.code {
        Code::Unavailable => true,
        Code::Internal => {
            *faults += 1;
            *faults < FAULTS
        }
        _ => false,
    }
}

/// Tokens have no `Clone`; here a request takes one along.
fn copy(session: &SessionToken) -> SessionToken {
    SessionToken::child(&session.random())
}
