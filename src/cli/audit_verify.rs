//! `agentkeys audit verify`: walks the whole audit log and compares its end with the signed head
//! and with what this client has seen before.
use argh::{ArgsInfo, FromArgs};
use serde_json::json;

use super::context::{Context, Open};
use super::progress::Progress;
use super::report::CliError;
use super::{Checked, Finish};
use crate::client::wait::{Onlooker, watched};
use crate::core::audit::{Fault, Head, Walk};
use crate::core::backend::{AuditFilter, WhoAmI};
use crate::core::problem::{Code, Problem};

#[derive(FromArgs, ArgsInfo)]
#[argh(
    description = "Checks the audit log of this account: that no event was changed, removed or \
                   reordered, that its end is signed by the master key, and that nothing was cut \
                   off since this client last looked. Exits with 1 if not, and names the first \
                   bad event. Where it was found before that the log was set back, and all is \
                   there again, that is forgotten.",
    example = "agentkeys audit verify",
    example = "agentkeys audit verify --json"
)]
/// see above
pub struct AuditVerifyArgs {}

/// The whole log.
pub struct AuditVerify;

impl TryFrom<AuditVerifyArgs> for AuditVerify {
    type Error = Problem;

    fn try_from(_: AuditVerifyArgs) -> Result<Self, Problem> {
        Ok(Self)
    }
}

/// The problem of a log that does not verify; exits with 1.
fn broken(fault: &Fault) -> Problem {
    let mut problem = Problem::new(
        Code::Internal,
        format!("the audit log does not verify: {fault}"),
        "what the backend keeps is not what was written, or not all of it",
        "keep a copy of the backend's data as it is now, and find out who could write to it\n\
         until then trust no event from the one that is named on",
    );
    problem.title = "audit log does not verify".to_owned();
    problem.docs = "docs/errors.md#audit".to_owned();
    problem
}

/// Whether a head can be the end of this account's log on the backend that was seen before.
fn belongs(head: &Head, me: &WhoAmI, seen: Option<&Head>) -> Result<(), Fault> {
    let keys = head.master_key == me.master_key
        && seen.is_none_or(|seen| seen.master_key == head.master_key);
    if head.account != me.account || !keys {
        return Err(Fault::Signature(head.seq));
    }
    match seen {
        Some(seen) if seen.backend_id != head.backend_id => Err(Fault::Forked(seen.seq)),
        _ => Ok(()),
    }
}

/// Goes through the log from its first event to its end, which a signed head tells.
async fn walk_through(
    context: &Context<'_>,
    open: Open<'_>,
    me: &WhoAmI,
    seen: Option<&Head>,
    progress: Option<&Progress>,
) -> Result<(Walk, Head), Problem> {
    let mut filter = AuditFilter { from: Some(1), limit: Some(1_000), ..AuditFilter::default() };
    let mut walk: Option<Walk> = None;
    let mut checked = 0_u64;
    let head = loop {
        let page = open.backend.query_audit(open.token, filter.clone()).await?;
        belongs(&page.head, me, seen).map_err(|fault| broken(&fault))?;
        let walk = walk.get_or_insert_with(|| Walk::new(page.head.backend_id, me.account, seen));
        for entry in &page.events {
            walk.step(entry).map_err(|fault| broken(&fault))?;
            checked += 1;
        }
        if let Some(progress) = progress {
            progress.now(format!("{checked} of {} events checked", page.head.seq));
        }
        match page.next {
            Some(next) if filter.from.is_none_or(|from| next > from) => {
                context.verbose(&format!("{checked} events checked"));
                filter.from = Some(next);
            }
            Some(_) | None => break page.head,
        }
    };
    Ok((walk.ok_or_else(Problem::internal)?, head))
}

impl Checked for AuditVerify {
    type Raw = AuditVerifyArgs;

    async fn run(self, context: &Context<'_>) -> Result<Finish, CliError> {
        let link = context.link().await?;
        let open = context.open().await?;
        let me = open.backend.who_am_i(open.token).await?;
        let remembered = link.seen_head(me.account);
        let seen = remembered.as_ref().map(|seen| seen.head.clone());
        let progress = Progress::on_terminal("checking the audit log");
        let onlooker = progress.as_ref().map(|progress| progress as &dyn Onlooker);
        let walking = walk_through(context, open, &me, seen.as_ref(), progress.as_ref());
        let (walk, head) = watched(onlooker, walking).await?;
        let count = walk.finish(&head).map_err(|fault| broken(&fault))?;
        if let Some(seen) = remembered.filter(|seen| seen.contradicted.is_some()) {
            link.verified(&seen.head, &head).await?;
            context.out.say("the log has in it again what this client saw before");
        }
        if context.out.json {
            context.out.object(&json!({ "verified": count, "head": head }))?;
        } else {
            context.out.line(&format!(
                "{count} events verified: nothing was changed, removed, reordered or cut off"
            ))?;
            context.out.line(&format!("head {} of event {}", head.hash, head.seq))?;
        }
        Ok(Finish::Done)
    }
}

#[cfg(test)]
mod tests {
    use ring::signature::{Ed25519KeyPair, KeyPair};

    use super::*;
    use crate::core::types::{
        AccountId, BackendId, Hash32, PublicKey, SessionId, Timestamp, WalletAddress,
    };

    fn key(seed: u8) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
    }

    fn head(backend: u8, seed: u8) -> Head {
        let hash = Hash32([9; 32]);
        Head::sign(BackendId([backend; 16]), AccountId([1; 16]), 5, hash, &key(seed))
    }

    fn me(seed: u8) -> WhoAmI {
        WhoAmI {
            session_id: SessionId([0; 16]),
            account: AccountId([1; 16]),
            master_key: PublicKey(key(seed).public_key().as_ref().try_into().unwrap()),
            identity: "unix:0".into(),
            presence: "none".into(),
            set_back: None,
            presence_reset: None,
            wallet: WalletAddress([0; 20]),
            child: false,
            expires_at: Timestamp(0),
        }
    }

    #[test]
    fn a_head_of_another_key_or_backend_is_a_fault() {
        let seen = head(1, 1);
        assert_eq!(belongs(&head(1, 1), &me(1), Some(&seen)), Ok(()));
        assert_eq!(belongs(&head(1, 1), &me(1), None), Ok(()));
        assert_eq!(belongs(&head(1, 2), &me(1), None), Err(Fault::Signature(5)));
        // The backend answers with one key throughout, and another than before.
        assert_eq!(belongs(&head(1, 2), &me(2), Some(&seen)), Err(Fault::Signature(5)));
        assert_eq!(belongs(&head(2, 1), &me(1), Some(&seen)), Err(Fault::Forked(5)));
    }

    #[test]
    fn the_first_bad_event_is_named_and_the_exit_code_is_one() {
        let error = CliError::from(broken(&Fault::Damaged(7)));
        assert_eq!(error.exit_code(), 1);
        assert!(error.to_string().contains("event 7"));
    }
}
