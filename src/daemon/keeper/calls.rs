//! What a keeper answers to those who ask it: its own MCP client, and whoever comes over the socket.
//!
//! Must never answer from anything but the backend what only the backend can know.
use async_trait::async_trait;

use super::{CHANGE_WAIT, Keeper, Open, Tries, now, refused};
use crate::core::auth_request::{Details, KeyRotate, Kind, ScopeChange};
use crate::core::backend::{AgentSummary, Release};
use crate::core::claim::Reason;
use crate::core::decision::Mistrust;
use crate::core::gateway::{RequestHead, ResponseHead, WholeAnswer};
use crate::core::holder::{
    Access, Held, HttpAnswer, HttpAsk, Listing, MAX_HTTP_ANSWER, Provisioning, Refusal,
    SessionHolder, SessionState, Standing, Waiting,
};
use crate::core::identity::{AgentIdentity, ServiceName};
use crate::core::problem::Problem;
use crate::core::scope::Scope;
use crate::core::secret::SecretBytes;
use crate::daemon::keys::Keys;
use crate::daemon::mirror::Identity;

#[async_trait]
impl SessionHolder for Keeper {
    async fn standing(&self) -> Held<Standing> {
        let state = self.state();
        let session = match (&state.session, &state.request, &state.lost) {
            (Some(session), ..) => SessionState::Paired {
                expires_at: session.expires_at,
                asks: state.own.as_ref().map(|open| open.waiting.clone()),
                refused: state.own_untold.clone(),
            },
            (None, Some(open), _) => SessionState::Waiting(open.waiting.clone()),
            (None, None, Some(lost)) => SessionState::Ended(lost.clone()),
            (None, None, None) => SessionState::Unpaired,
        };
        let me = state.me.as_ref().map(|me| &me.identity);
        Ok(Standing {
            pid: std::process::id(),
            backend: self.reach.address().map(str::to_owned),
            agent: me.map(|me| me.agent),
            account: me.map(Identity::fingerprint),
            pinned_by_first_approval: state.pinned_now,
            session,
            provisioning: self.runs.under_way(),
            generation: *self.generation.borrow(),
            mirror: state.mirrored.clone(),
            protections: self.protections.clone(),
        })
    }

    async fn changed(&self, seen: u64) -> Held<u64> {
        let mut generation = self.generation.subscribe();
        let change = generation.wait_for(|generation| *generation != seen);
        let changed = tokio::time::timeout(CHANGE_WAIT, change).await;
        Ok(changed.ok().and_then(Result::ok).map_or(seen, |generation| *generation))
    }

    async fn read(&self, service: &ServiceName) -> Held<SecretBytes> {
        self.with_session(|backend, token, agent| async move {
            backend.read_credential(&token, &AgentIdentity::Wallet(agent), service).await
        })
        .await
    }

    async fn inject(&self, service: &ServiceName) -> Held<SecretBytes> {
        self.with_session(|backend, token, agent| async move {
            backend.inject_credential(&token, &AgentIdentity::Wallet(agent), service).await
        })
        .await
    }

    async fn read_all(&self) -> Held<Vec<Release>> {
        self.with_session(|backend, token, agent| async move {
            backend.read_all(&token, &AgentIdentity::Wallet(agent)).await
        })
        .await
    }

    async fn list(&self) -> Held<Listing> {
        self.with_session(|backend, token, agent| async move {
            let credentials =
                backend.list_credentials(&token, &AgentIdentity::Wallet(agent)).await?;
            Ok(Listing { agent, credentials })
        })
        .await
    }

    async fn request_access(&self, service: &ServiceName, reason: Option<&Reason>) -> Held<Access> {
        let me = self.own_summary().await?;
        if me.scope.allows(service) {
            return Ok(Access::Allowed);
        }
        let wider = |scope: &Scope| scope.with(service);
        Ok(Access::Waiting(self.ask_for_scope(&me.scope, wider, reason).await?))
    }

    async fn provision(
        &self,
        service: &ServiceName,
        reason: Option<&Reason>,
    ) -> Held<Provisioning> {
        self.provision_once(service, reason).await
    }

    async fn http_request(&self, ask: &HttpAsk) -> Held<HttpAnswer> {
        let sent = self
            .with_session_by(Tries::One, |backend, token, agent| {
                let head = RequestHead {
                    agent_id: AgentIdentity::Wallet(agent),
                    service: ask.service.clone(),
                    host: ask.host.clone(),
                    method: ask.method.clone(),
                    target: ask.target.clone(),
                    headers: ask.headers.clone(),
                    body: !ask.body.is_empty(),
                    websocket: false,
                    misplaced: false,
                };
                let body = ask.body.clone();
                async move { backend.send_request(&token, &head, body, MAX_HTTP_ANSWER).await }
            })
            .await?;
        match sent {
            WholeAnswer::Answered(ResponseHead { status, headers }, body, cut) => {
                Ok(HttpAnswer { status, headers, body, cut })
            }
            WholeAnswer::Held(held) => Err(Refusal::Waiting(Waiting {
                kind: Kind::HighValueRelease,
                pair_code: held.pair_code.to_string(),
                otp: held.otp.to_string(),
                expires_at: now().plus_ms(held.seconds.saturating_mul(1000)),
                command: format!("agentkeys approve {}", held.pair_code),
                because: None,
            })),
        }
    }

    async fn rotate(&self) -> Held<Waiting> {
        let live = self.session().await?;
        let _turn = self.turn.lock().await;
        let waits = match &self.state().own {
            Some(Open { details: Details::KeyRotate(_), waiting, .. }) => Some(waiting.clone()),
            _ => None,
        };
        if let Some(waiting) = waits {
            return Ok(waiting);
        }
        let old = self.present_keys()?.public.fingerprint();
        let details = Details::KeyRotate(KeyRotate { agent: live.agent, old });
        let keys = Keys::fresh().map_err(Problem::from)?;
        self.ask_as_agent(&live, details, keys).await
    }
}

impl Keeper {
    /// What the backend has of this agent.
    pub(super) async fn own_summary(&self) -> Held<AgentSummary> {
        self.with_session(|backend, token, agent| async move {
            let found = backend.resolve_identity(&token, &AgentIdentity::Wallet(agent)).await?;
            if found.wallet != agent {
                return Err(refused(Mistrust::OtherAgent.to_string()));
            }
            Ok(found)
        })
        .await
    }

    /// Asks the master for what `wider` makes of the present scope, and of what was asked for
    /// already and waits: one answer for all.
    pub(super) async fn ask_for_scope(
        &self,
        present: &Scope,
        wider: impl Fn(&Scope) -> Scope + Send,
        reason: Option<&Reason>,
    ) -> Held<Waiting> {
        let live = self.session().await?;
        let _turn = self.turn.lock().await;
        let waits = match &self.state().own {
            Some(Open { details: Details::ScopeChange(asked), waiting, .. }) => {
                Some((asked.scope.clone(), waiting.clone()))
            }
            _ => None,
        };
        let scope = wider(waits.as_ref().map_or(present, |(scope, _)| scope));
        match waits {
            Some((asked, waiting)) if asked == scope => return Ok(waiting),
            _ => {}
        }
        let change = ScopeChange { agent: live.agent, reason: reason.cloned(), scope };
        let keys = self.present_keys()?;
        self.ask_as_agent(&live, Details::ScopeChange(change), keys).await
    }
}
