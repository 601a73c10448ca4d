//! How an auth request is opened: by a child, or by the gateway for a request that it holds.
use super::access::Access;
use super::approval::life_ms;
use super::guess::address_of;
use super::journal::Proposal;
use super::rows::{Progress, RequestLink, RequestRow};
use super::session::bounded;
use super::turns::Turns;
use super::{Inner, MAX_TRIES, answer, keys, sweep};
use crate::backend::peer::Peer;
use crate::backend::store::Check;
use crate::core::auth_request::{Details, Kind};
use crate::core::backend::{OpenRequest, Opened, Seen};
use crate::core::otp::Covered;
use crate::core::problem::{Answer, Code, Problem};
use crate::core::token::OpenToken;
use crate::core::types::{ChildKeys, Hash32, Nonce, RequestId};

/// What is asked for, and by whom.
pub struct Asking<'a> {
    pub peer: &'a Peer,
    pub kind: Kind,
    /// Canonical bytes.
    pub details: &'a [u8],
    pub keys: ChildKeys,
}

impl Inner {
    pub async fn open_request(&self, peer: &Peer, request: &OpenRequest) -> Answer<Opened> {
        let details = request
            .details
            .canonical()
            .map_err(|e| Problem::invalid("request_details", e.to_string()))?;
        let kind = request.details.kind();
        for _ in 0..MAX_TRIES {
            let asker = self.asker(request).await?;
            let asks = Asking { peer, kind, details: &details, keys: request.keys };
            let (row, nonce, open_token) = self.new_request(&asks, asker.as_ref())?;
            let address = address_of(peer);
            if !self.dev {
                self.openings.count_in(address.clone(), row.created_at, row.live_until)?;
            }
            let committed = match self.opening(&row, asker.as_ref()) {
                Ok(proposal) => self.propose(proposal).await,
                Err(problem) => Err(problem),
            };
            if !matches!(committed, Ok(true)) && !self.dev {
                self.openings.count_out(&address, row.live_until);
            }
            // A conflict is a pair code that is live already: draw another nonce.
            if committed? {
                return Ok(Opened {
                    id: row.id,
                    otp: row.otp,
                    pair_code: row.pair_code,
                    ttl_seconds: life_ms(kind) / 1000,
                    nonce_hash: Hash32::of(&nonce.0),
                    open_token,
                    created_at: row.created_at,
                });
            }
        }
        Err(answer::busy())
    }

    /// A request that nobody has opened before, and what is told to whoever opens it.
    pub fn new_request(
        &self,
        asks: &Asking<'_>,
        asker: Option<&Access>,
    ) -> Answer<(RequestRow, Nonce, OpenToken)> {
        let now = self.clock.now();
        let id = RequestId(self.entropy.bytes().map_err(answer::entropy)?);
        let nonce = Nonce(self.entropy.bytes().map_err(answer::entropy)?);
        let open_token = OpenToken::new(self.entropy.key().map_err(answer::entropy)?.expose());
        let Asking { peer, kind, details, keys } = *asks;
        let covered = Covered { request: id, kind, details, keys: &keys };
        let row = RequestRow {
            id,
            kind,
            details: details.to_vec(),
            keys,
            nonce: Some(nonce),
            otp: covered.otp(&nonce),
            pair_code: covered.pair_code(&nonce),
            open_hash: open_token.hash(),
            created_at: now,
            live_until: now.plus_ms(life_ms(kind)),
            saw: seen(peer),
            parent_session: asker.map(|asker| asker.session_id),
            agent: asker.and_then(|asker| {
                asker.agent.as_ref().map(|agent| (asker.account_id(), agent.row.wallet))
            }),
            bound: None,
            turns: Turns::default(),
            progress: Progress::Live,
            registered: None,
            relay: None,
            held: false,
        };
        Ok((row, nonce, open_token))
    }

    pub fn opening(&self, row: &RequestRow, asker: Option<&Access>) -> Answer<Proposal> {
        let mut proposal = asker.map(Access::unchanged).unwrap_or_default();
        let code = keys::code(row.pair_code);
        proposal.checks.push(Check::Absent(code.clone()));
        proposal.checks.push(Check::Absent(keys::request(row.id)));
        proposal.writes.push(self.put(keys::request(row.id), row)?);
        proposal.writes.push(self.put(code, &RequestLink { request: row.id, hash: None })?);
        proposal.writes.push(self.note_due(row.live_until, sweep::REQUEST, &row.id.0)?);
        if let Some((account, _)) = row.agent {
            let key = keys::pending(account, row.id);
            proposal.writes.push(self.put(key, &RequestLink { request: row.id, hash: None })?);
        }
        Ok(proposal)
    }

    /// The agent that asks, for kinds that only an agent's own session may open.
    async fn asker(&self, request: &OpenRequest) -> Answer<Option<Access>> {
        let named = match &request.details {
            Details::Pair(pair) => return bounded(&pair.scope).map(|()| None),
            Details::Recover(_) => return Ok(None),
            Details::ScopeChange(change) => {
                bounded(&change.scope)?;
                change.agent
            }
            Details::HighValueRelease(release) => release.agent,
            Details::KeyRotate(rotate) => rotate.agent,
        };
        let refused = |cause: &str| {
            Problem::new(
                Code::Unauthorized,
                "not the agent that the request names",
                cause,
                "open it with the session of that agent",
            )
        };
        let session = request.session.as_ref().ok_or_else(|| refused("no session was sent"))?;
        let access = self.authenticate(session).await?;
        access.standing()?;
        let Some(agent) = access.agent.as_ref().filter(|agent| agent.row.wallet == named) else {
            return Err(refused("the session is another's"));
        };
        if let Details::KeyRotate(rotate) = &request.details
            && agent.row.keys.map(|keys| keys.fingerprint()) != Some(rotate.old)
        {
            return Err(refused("the keys to be replaced are not the agent's"));
        }
        Ok(Some(access))
    }
}

/// What the backend itself saw of whoever opened a request.
fn seen(peer: &Peer) -> Seen {
    match peer {
        Peer::Address(address) => Seen { address: address.to_string(), uid: None, program: None },
        Peer::Unix(peer) => Seen {
            address: "unix socket".to_owned(),
            uid: Some(peer.uid),
            program: peer.program.as_ref().map(|path| path.display().to_string()),
        },
    }
}
