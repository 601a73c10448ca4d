//! What is over by time is cleared away: nonces at a request's end, rows when nobody can ask for
//! them any more. No rule depends on it: every operation looks at the times itself.
use super::approval::AFTER_MS;
use super::journal::Proposal;
use super::rows::{
    FamilyRow, GuessRow, Progress, ReleaseRow, RenewalRow, RequestRow, SessionKind, SessionRow,
};
use super::session::half;
use super::{Inner, Loaded, Vault, answer, keys};
use crate::backend::store::{KeyRange, Write};
use crate::core::problem::{Answer, Code};
use crate::core::types::{RequestId, SessionId, Timestamp};

/// Kinds of things to look at again.
pub const REQUEST: u8 = b'q';
/// See [`REQUEST`].
pub const SESSION: u8 = b's';
/// See [`REQUEST`].
pub const RENEWAL: u8 = b'r';
/// See [`REQUEST`].
pub const GUESSES: u8 = b'l';
/// See [`REQUEST`].
pub const USED_TOKEN: u8 = b'u';

/// See [`REQUEST`].
pub const RELEASE: u8 = b'z';

/// See [`REQUEST`].
pub const SPENT: u8 = b'x';

/// Ended sessions are remembered this long, so that their holders are told why.
const SESSION_AFTER_MS: u64 = 24 * 60 * 60 * 1000;
/// Notes that one pass looks at.
const PASS: usize = 1000;

impl Vault {
    /// Clears away what is over; returns how many things were looked at.
    pub async fn sweep(&self) -> Answer<usize> {
        let now = self.0.clock.now();
        let mut looked_at = 0;
        loop {
            // What was looked at may have been noted for a time that is over as well.
            let done = self.0.sweep_pass(now).await?;
            looked_at += done;
            if done == 0 {
                return Ok(looked_at);
            }
        }
    }
}

impl Inner {
    /// A note to look at something at a time.
    pub fn note_due(&self, at: Timestamp, kind: u8, id: &[u8; 16]) -> Answer<Write> {
        self.put(keys::due(at, kind, id), &())
    }

    /// Goes once through all notes that are due; returns how many were done.
    async fn sweep_pass(&self, now: Timestamp) -> Answer<usize> {
        let (mut start, end) = keys::all_due(now);
        let mut done = 0;
        loop {
            let range = KeyRange::new(start, Some(end.clone()));
            let due = self.store.scan(range, PASS).await.map_err(answer::store)?;
            let Some((last, _)) = due.last() else { return Ok(done) };
            start = last.clone();
            start.push(0);
            for (note, _) in &due {
                match self.sweep_one(note, now).await {
                    Ok(settled) => done += usize::from(settled),
                    // One damaged row keeps its note, and nobody else's.
                    Err(problem) if problem.code == Code::Internal => {}
                    Err(problem) => return Err(problem),
                }
            }
        }
    }

    async fn sweep_one(&self, note: &[u8], now: Timestamp) -> Answer<bool> {
        let mut proposal = Proposal::default();
        proposal.writes.push(Write::Delete(note.to_vec()));
        if let Some((rest, id)) = note.split_last_chunk::<16>()
            && let Some(kind) = rest.last()
        {
            match *kind {
                REQUEST => self.sweep_request(RequestId(*id), now, &mut proposal).await?,
                SESSION => self.sweep_session(SessionId(*id), now, &mut proposal).await?,
                RENEWAL => self.sweep_renewal(id, &mut proposal).await?,
                GUESSES => self.sweep_guesses(id, now, &mut proposal).await?,
                USED_TOKEN => self.sweep_token(id, now, &mut proposal).await?,
                RELEASE => self.sweep_release(id, now, &mut proposal).await?,
                SPENT => proposal.writes.push(Write::Delete(keys::spent(id))),
                _ => {}
            }
        }
        // A conflict leaves the note for the next pass.
        self.propose(proposal).await
    }

    async fn sweep_request(
        &self,
        id: RequestId,
        now: Timestamp,
        proposal: &mut Proposal,
    ) -> Answer<()> {
        let Some(request) = self.load::<RequestRow>(keys::request(id)).await? else {
            return Ok(());
        };
        proposal.checks.push(request.unchanged());
        let mut row = RequestRow::clone(&request.row);
        let again = match &row.progress {
            Progress::Live => {
                let end = row.bound.map_or(row.live_until, |b| b.until.max(row.live_until));
                if now < end {
                    end
                } else {
                    row.progress = Progress::Ended { by: None, at: end, consumed: false };
                    end.plus_ms(AFTER_MS)
                }
            }
            Progress::Decided { until, .. } if now < *until => *until,
            Progress::Decided { by, until, .. } => {
                let (by, at) = (Some(*by), *until);
                row.progress = Progress::Ended { by, at, consumed: true };
                at.plus_ms(AFTER_MS)
            }
            Progress::Ended { at, .. } if now.since_ms(*at) < AFTER_MS => at.plus_ms(AFTER_MS),
            Progress::Ended { .. } => {
                self.forget_request(&request, proposal);
                return Ok(());
            }
        };
        if matches!(row.progress, Progress::Ended { .. }) {
            row.nonce = None;
            row.relay = None;
            proposal.writes.push(self.put(request.key.clone(), &row)?);
            proposal.writes.extend(pending_rows(&row));
        }
        proposal.writes.push(self.note_due(again, REQUEST, &id.0)?);
        Ok(())
    }

    fn forget_request(&self, request: &Loaded<RequestRow>, proposal: &mut Proposal) {
        let row = &request.row;
        proposal.writes.push(Write::Delete(request.key.clone()));
        proposal.writes.push(Write::Delete(keys::code(row.pair_code)));
        proposal.writes.extend(pending_rows(row));
        if let Some(hash) = &row.registered {
            proposal.writes.push(Write::Delete(keys::registration(&half(hash))));
        }
    }

    async fn sweep_session(
        &self,
        id: SessionId,
        now: Timestamp,
        proposal: &mut Proposal,
    ) -> Answer<()> {
        let Some(session) = self.load::<SessionRow>(keys::session(id)).await? else {
            return Ok(());
        };
        let forget_at = session.row.expires_at.plus_ms(SESSION_AFTER_MS);
        if now < forget_at {
            proposal.writes.push(self.note_due(forget_at, SESSION, &id.0)?);
            return Ok(());
        }
        proposal.checks.push(session.unchanged());
        proposal.writes.push(Write::Delete(session.key.clone()));
        // A family whose agent is gone, or has moved on, is good for nothing.
        if let SessionKind::Child { family, wallet, epoch, .. } = &session.row.kind
            && let Some(line) = self.load::<FamilyRow>(keys::family(family)).await?
        {
            let key = keys::agent(session.row.account, *wallet);
            let agent = self.load::<super::rows::AgentRow>(key).await?;
            if agent.is_none_or(|agent| agent.row.epoch != *epoch) {
                proposal.writes.push(Write::Delete(keys::renewal(&half(&line.row.current))));
                proposal.writes.push(Write::Delete(line.key));
            }
        }
        Ok(())
    }

    async fn sweep_renewal(&self, id: &[u8; 16], proposal: &mut Proposal) -> Answer<()> {
        if let Some(spent) = self.load::<RenewalRow>(keys::renewal(id)).await? {
            proposal.checks.push(spent.unchanged());
            proposal.writes.push(Write::Delete(spent.key));
        }
        Ok(())
    }

    async fn sweep_release(
        &self,
        id: &[u8; 16],
        now: Timestamp,
        proposal: &mut Proposal,
    ) -> Answer<()> {
        // Another approval may have made it last longer since.
        if let Some(row) = self.load::<ReleaseRow>(keys::release(id)).await?
            && now >= row.row.until
        {
            proposal.checks.push(row.unchanged());
            proposal.writes.push(Write::Delete(row.key));
        }
        Ok(())
    }

    async fn sweep_guesses(
        &self,
        id: &[u8; 16],
        now: Timestamp,
        proposal: &mut Proposal,
    ) -> Answer<()> {
        if let Some(row) = self.load::<GuessRow>(keys::guesses(id)).await? {
            let newest = row.row.times.iter().max().copied().unwrap_or_default();
            if now.since_ms(newest) >= 60_000 {
                proposal.checks.push(row.unchanged());
                proposal.writes.push(Write::Delete(row.key));
            }
        }
        Ok(())
    }
}

/// The notes by which accounts were shown the request as pending.
fn pending_rows(row: &RequestRow) -> Vec<Write> {
    let owner = row.agent.map(|(account, _)| account);
    let bound = row.bound.map(|bound| bound.account);
    owner.into_iter().chain(bound).map(|id| Write::Delete(keys::pending(id, row.id))).collect()
}
