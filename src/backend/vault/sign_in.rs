//! Who somebody is by what they prove: the Unix socket's peer, a test identity, or an ID token;
//! and who may come in by an issuer. Tokens are judged behind [`TokenJudge`]; what is
//! decided here is that a ticket is ours, that a token is used once, and who owns the backend.
//!
//! [`TokenJudge`]: crate::backend::judge::TokenJudge
use subtle::ConstantTimeEq;

use super::journal::Proposal;
use super::rows::{OwnerRow, UsedTokenRow};
use super::session::half;
use super::{Inner, Vault, answer, keys, sweep};
use crate::backend::judge::{Admission, Proven};
use crate::backend::peer::Peer;
use crate::backend::store::{Check, KeyRange};
use crate::core::backend::IdentityProof;
use crate::core::problem::{Answer, Code, Problem};
use crate::core::secret::SecretBytes;
use crate::core::sign_in::{Flow, SCOPE, SignInStart, SignInTicket, TICKET_MS, Ticket, no_issuer};
use crate::core::types::{AccountId, Timestamp};

/// Longest test identity, in bytes.
const MAX_TEST_IDENTITY: usize = 256;

/// Who somebody has proven to be.
pub struct Identity {
    /// Such as `unix:1000`.
    pub name: String,
    /// What an issuer said, if it was one.
    pub openid: Option<Proven>,
}

impl Identity {
    /// What the audit log has of it: the e-mail address is a label beside the name.
    pub fn detail(&self) -> String {
        match self.openid.as_ref().and_then(|proven| proven.email.as_ref()) {
            Some(email) => format!("{} ({email})", self.name),
            None => self.name.clone(),
        }
    }
}

fn not_proven(cause: &str, fix: &str) -> Problem {
    Problem::new(Code::Unauthorized, "the identity was not accepted", cause, fix)
}

fn again(cause: &str) -> Problem {
    let fix = "begin again: agentkeys init";
    Problem::new(Code::Unauthorized, "the sign-in was not accepted", cause, fix)
}

/// The name of a test identity.
fn test_identity(token: &SecretBytes) -> Answer<String> {
    let text = std::str::from_utf8(token.expose()).unwrap_or("");
    let well_formed = !text.trim().is_empty()
        && text.len() <= MAX_TEST_IDENTITY
        && !text.chars().any(char::is_control);
    if well_formed {
        return Ok(format!("dev:{text}"));
    }
    Err(not_proven(
        "a test identity wants 1 to 256 bytes of text without control characters",
        "send another auth_token",
    ))
}

impl Vault {
    /// Whether somebody has an account here already.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn is_owned(&self) -> Answer<bool> {
        self.0.is_owned().await
    }
}

impl Inner {
    /// What a client begins a sign-in with. Nothing is kept of it.
    pub fn begin_sign_in(&self, flow: Flow) -> Answer<SignInStart> {
        let offer = self.judge.as_ref().ok_or_else(no_issuer)?.offer();
        let random = self.entropy.bytes().map_err(answer::entropy)?;
        let says = Ticket { flow, until: self.clock.now().plus_ms(TICKET_MS), random };
        let ticket = SignInTicket::new(says, |body| self.cells.mac("sign-in ticket", body));
        Ok(SignInStart {
            issuer: offer.issuer.clone(),
            client_id: offer.client_id.clone(),
            client_secret: offer.client_secret.clone(),
            scope: SCOPE.to_owned(),
            nonce: ticket.nonce(),
            ticket,
            expires_in: TICKET_MS / 1000,
        })
    }

    /// What a proof proves.
    pub async fn identity_of(&self, peer: &Peer, proof: IdentityProof) -> Answer<Identity> {
        let name = match (&proof, peer) {
            (IdentityProof::Peer, Peer::Unix(peer)) => format!("unix:{}", peer.uid),
            (IdentityProof::Peer, Peer::Address(_)) => {
                return Err(not_proven(
                    "over TCP nobody's user id can be seen",
                    "use the backend's Unix socket, or send an auth_token",
                ));
            }
            (IdentityProof::Token(token), _) if self.dev => test_identity(token)?,
            (IdentityProof::Token(_), _) if self.judge.is_some() => {
                return Err(again("an ID token is taken with the ticket of its sign-in only"));
            }
            (IdentityProof::Token(_), _) => {
                return Err(not_proven(
                    "this backend knows no issuer of tokens",
                    "use the backend's Unix socket; test identities need serve --dev",
                ));
            }
            (IdentityProof::IdToken { token, ticket }, _) => {
                let proven = self.judge_token(token, ticket).await?;
                return Ok(Identity { name: proven.identity.clone(), openid: Some(proven) });
            }
        };
        Ok(Identity { name, openid: None })
    }

    async fn judge_token(&self, token: &SecretBytes, ticket: &SignInTicket) -> Answer<Proven> {
        let judge = self.judge.as_ref().ok_or_else(no_issuer)?;
        let now = self.clock.now();
        let ours = self.cells.mac("sign-in ticket", &ticket.covered());
        // Who has no ticket of ours costs one hash, and is told before the issuer is asked.
        if !bool::from(ours.ct_eq(ticket.mac())) {
            return Err(again("its ticket is not one of this backend"));
        }
        if now >= ticket.says().until {
            let minutes = TICKET_MS / 60_000;
            return Err(again(&format!("it was begun more than {minutes} minutes ago")));
        }
        judge.judge(token, ticket, now).await
    }

    /// Adds that the token was used, which is so once; refuses one that was.
    pub async fn spend_token(&self, proven: &Proven, proposal: &mut Proposal) -> Answer<()> {
        let id = half(&proven.used);
        let key = keys::used_token(&id);
        if self.load::<UsedTokenRow>(key.clone()).await?.is_some() {
            return Err(again("its ID token was used already, and is good once"));
        }
        let row = UsedTokenRow { hash: proven.used, until: proven.good_until };
        proposal.checks.push(Check::Absent(key.clone()));
        proposal.writes.push(self.put(key, &row)?);
        proposal.writes.push(self.note_due(proven.good_until, sweep::USED_TOKEN, &id)?);
        Ok(())
    }

    /// Lets a new account in, or refuses it. The first account of a backend is its owner, by
    /// whatever proof; that there can be one such only is checked at the commit.
    pub async fn admit(
        &self,
        identity: &Identity,
        account: AccountId,
        proposal: &mut Proposal,
    ) -> Answer<bool> {
        let admission = identity.openid.as_ref().map(|proven| proven.admission);
        if !self.is_owned().await? {
            let key = keys::owner();
            proposal.checks.push(Check::Absent(key.clone()));
            proposal.writes.push(self.put(key, &OwnerRow { account })?);
            return Ok(admission == Some(Admission::OwnerOnly));
        }
        match admission {
            Some(Admission::OwnerOnly) => Err(Problem::new(
                Code::Denied,
                "access denied: this backend is not open to you",
                "it belongs to somebody already, and its operator lets no others in",
                "ask its operator: serve --oidc-allow lets more people in",
            )),
            Some(Admission::Listed) | None => Ok(false),
        }
    }

    async fn is_owned(&self) -> Answer<bool> {
        if self.load::<OwnerRow>(keys::owner()).await?.is_some() {
            return Ok(true);
        }
        // Stores that are older than this row have accounts all the same.
        let accounts = self.store.scan(KeyRange::prefix(&[keys::ACCOUNT]), 1);
        Ok(!accounts.await.map_err(answer::store)?.is_empty())
    }

    /// Forgets a token that would not be accepted any more.
    pub async fn sweep_token(
        &self,
        id: &[u8; 16],
        now: Timestamp,
        proposal: &mut Proposal,
    ) -> Answer<()> {
        if let Some(used) = self.load::<UsedTokenRow>(keys::used_token(id)).await? {
            if now < used.row.until {
                proposal.writes.push(self.note_due(used.row.until, sweep::USED_TOKEN, id)?);
                return Ok(());
            }
            proposal.checks.push(used.unchanged());
            proposal.writes.push(crate::backend::store::Write::Delete(used.key));
        }
        Ok(())
    }
}
