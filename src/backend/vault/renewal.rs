//! Renewal: a daemon stays signed in without a person. Each secret is good once; a spent one
//! that comes back means that two hold it, so all of the agent's sessions end (RFC 9700,
//! section 4.14.2).
use super::access::{agent_was_revoked, same_hash};
use super::fence::Fence;
use super::journal::{Draft, Proposal};
use super::rows::{AgentRow, FamilyRow, RenewalRow, SessionKind, SessionRow};
use super::session::{CHILD_MS, half};
use super::{Inner, Loaded, MAX_TRIES, answer, keys, sweep};
use crate::core::audit::{Action, Actor, Outcome, Role};
use crate::core::backend::{Minted, Revocation};
use crate::core::problem::{Answer, Code, Problem};
use crate::core::token::{RenewalSecret, SessionToken};
use crate::core::types::{AccountId, Timestamp};

/// Spent secrets are remembered this long.
const REMEMBER_MS: u64 = 30 * 24 * 60 * 60 * 1000;

fn unknown_secret() -> Problem {
    Problem::new(
        Code::Unauthorized,
        "not signed in",
        "the renewal secret is not known here",
        "pair the agent again: start its daemon, then agentkeys approve <code>",
    )
    .pair_again()
}

fn line_ended(why: Option<&Revocation>) -> Problem {
    let cause = why.map_or_else(
        || "the agent has newer sessions, or lost its right".to_owned(),
        |why| format!("ended {} by {}", why.at.for_people(), why.by),
    );
    Problem::new(
        Code::Denied,
        "access denied: this line of sessions was ended",
        cause,
        "pair the agent again: start its daemon, then agentkeys approve <code>",
    )
    .pair_again()
}

fn came_back() -> Problem {
    Problem::new(
        Code::Denied,
        "access denied: the renewal secret was used before",
        "somebody else may hold a copy of it, so all sessions of the agent were ended",
        "find out who has the daemon's files, then pair the agent again",
    )
    .pair_again()
}

/// What a renewal is built on.
struct Line {
    now: Timestamp,
    family_id: [u8; 16],
    family: Loaded<FamilyRow>,
    agent: Loaded<AgentRow>,
    presence: String,
}

impl Line {
    fn event(&self, outcome: Outcome) -> Draft {
        Draft {
            account: self.family.row.account,
            by: Actor {
                host: self.family.row.host.clone(),
                role: Role::Child,
                user: self.family.row.user.clone(),
                session: Some(self.family.row.session),
            },
            time: self.now,
            action: Action::SessionRenew,
            outcome,
            agent: Some((self.agent.row.wallet, self.agent.row.shown_name())),
            service: None,
            request: None,
            detail: None,
            presence: self.presence.clone(),
            set_backs: None,
        }
    }

    fn unchanged(&self) -> Proposal {
        Proposal {
            checks: vec![self.family.unchanged(), self.agent.unchanged()],
            ..Proposal::default()
        }
    }
}

impl Inner {
    pub async fn renew(&self, renewal: &RenewalSecret) -> Answer<(AccountId, Minted)> {
        let hash = renewal.hash();
        for _ in 0..MAX_TRIES {
            let known = self
                .load::<RenewalRow>(keys::renewal(&half(&hash)))
                .await?
                .filter(|known| same_hash(&known.row.hash, &hash))
                .ok_or_else(unknown_secret)?;
            let family_id = known.row.family;
            let family = self
                .load::<FamilyRow>(keys::family(&family_id))
                .await?
                .ok_or_else(unknown_secret)?;
            let agent = self
                .agent(family.row.account, family.row.wallet)
                .await?
                .ok_or_else(unknown_secret)?;
            let presence = self.account(family.row.account).await?.row.presence.clone();
            let line = Line { now: self.clock.now(), family_id, family, agent, presence };
            if let Some(refusal) = refusal(&line) {
                let mut proposal = line.unchanged();
                proposal.events.push(line.event(Outcome::Denied));
                if self.propose(proposal).await? {
                    return Err(refusal);
                }
                continue;
            }
            let fresh = line.family.row.current == hash;
            let unheard = line.family.row.previous == Some(hash) && !self.was_used(&line).await?;
            if !fresh && !unheard {
                if self.end_all(&line).await? {
                    return Err(came_back());
                }
                continue;
            }
            if let Some(minted) = self.rotate(&line, renewal, fresh).await? {
                return Ok((line.family.row.account, minted));
            }
        }
        Err(answer::busy())
    }

    async fn was_used(&self, line: &Line) -> Answer<bool> {
        let key = keys::session(line.family.row.session);
        let session = self.load::<SessionRow>(key).await?;
        Ok(session.is_none_or(|session| {
            !matches!(session.row.kind, SessionKind::Child { used: false, .. })
        }))
    }

    async fn end_all(&self, line: &Line) -> Answer<bool> {
        let mut row = AgentRow::clone(&line.agent.row);
        row.epoch += 1;
        row.ended = Some(Revocation {
            at: line.now,
            by: "the backend: a renewal secret that was used before came back".to_owned(),
        });
        let mut proposal = line.unchanged();
        proposal.writes.push(self.put(line.agent.key.clone(), &row)?);
        proposal.fences.push(Fence::Agent(row.wallet, row.epoch));
        let mut event = line.event(Outcome::Denied);
        event.detail = Some("a spent renewal secret came back: all sessions ended".to_owned());
        proposal.events.push(event);
        self.propose(proposal).await
    }

    async fn rotate(
        &self,
        line: &Line,
        presented: &RenewalSecret,
        fresh: bool,
    ) -> Answer<Option<Minted>> {
        let token = SessionToken::child(self.entropy.key().map_err(answer::entropy)?.expose());
        let next = RenewalSecret::new(self.entropy.key().map_err(answer::entropy)?.expose());
        let (family, agent) = (&line.family.row, &line.agent.row);
        let mut proposal = line.unchanged();
        if !fresh {
            // The answer to the last renewal was lost: what it minted was never used, and ends.
            let key = keys::session(family.session);
            let Some(unused) = self.load::<SessionRow>(key).await? else { return Ok(None) };
            let mut row = SessionRow::clone(&unused.row);
            row.revoked = Some(Revocation {
                at: line.now,
                by: "the daemon, which asked for it again".to_owned(),
            });
            proposal.checks.push(unused.unchanged());
            proposal.writes.push(self.put(unused.key.clone(), &row)?);
            proposal.fences.push(Fence::Session(family.session));
        }
        let session = SessionRow {
            hash: token.hash(),
            account: family.account,
            kind: SessionKind::Child {
                wallet: agent.wallet,
                epoch: agent.epoch,
                scope: family.scope.clone(),
                family: line.family_id,
                request: None,
                used: false,
            },
            created_at: line.now,
            expires_at: line.now.plus_ms(CHILD_MS),
            last_used: line.now,
            revoked: None,
            host: family.host.clone(),
            user: family.user.clone(),
        };
        self.push_session(&token, &session, &mut proposal)?;
        let mut row = FamilyRow::clone(family);
        row.previous = Some(presented.hash());
        row.current = next.hash();
        row.session = token.id();
        proposal.writes.push(self.put(line.family.key.clone(), &row)?);
        self.push_renewal(&next, line.family_id, &mut proposal)?;
        // A repeated try spends the secret that was lost on its way; its own is noted already.
        let spent = half(&if fresh { presented.hash() } else { family.current });
        proposal.writes.push(self.note_due(
            line.now.plus_ms(REMEMBER_MS),
            sweep::RENEWAL,
            &spent,
        )?);
        proposal.events.push(line.event(Outcome::Allowed));
        let minted = Minted {
            news: None,
            session_id: token.id(),
            session: token,
            wallet: agent.wallet,
            expires_at: session.expires_at,
            renewal: Some(next),
        };
        Ok(self.propose(proposal).await?.then_some(minted))
    }
}

fn refusal(line: &Line) -> Option<Problem> {
    let (family, agent) = (&line.family.row, &line.agent.row);
    if let Some(why) = &agent.revoked {
        Some(agent_was_revoked(agent, why))
    } else if agent.epoch != family.epoch {
        Some(line_ended(agent.ended.as_ref()))
    } else {
        family.revoked.as_ref().map(|why| line_ended(Some(why)))
    }
}
