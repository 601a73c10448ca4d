//! What answers the client: its requests, and the news that the tools look different.
//!
//! Must never ask the holder before a session is open, work on for a client that has cancelled or
//! gone, or do more calls at once than the limit.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, ContentBlock, ErrorData, Implementation,
    ListToolsResult, PaginatedRequestParams, ProgressNotificationParam, ProgressToken,
    ServerCapabilities, ServerConfig, SubscriptionFilter,
};
use rmcp::service::{NotificationContext, Peer, RequestContext, SubscriptionContext};
use rmcp::{RoleServer, ServerHandler};
use tokio::sync::{Semaphore, watch};

use super::face::Faces;
use super::slip::Slips;
use super::text::{self, INSTRUCTIONS};
use super::tools::{self, Call, Progress};
use crate::core::holder::SessionHolder;
use crate::core::types::Timestamp;

/// Most calls that are worked on at once; further ones wait for their turn.
const MAX_CALLS: usize = 32;
/// How long calls may go on once the client has gone: whoever pipes requests in and closes still
/// gets its answers.
const LAST_CALLS: Duration = Duration::from_secs(1);

/// One client's server.
pub struct Server {
    holder: Arc<dyn SessionHolder>,
    slips: Arc<Slips>,
    faces: Arc<Faces>,
    calls: Semaphore,
    gone: watch::Receiver<bool>,
    initialized: watch::Sender<bool>,
    /// Whether the client was told whom this agent belongs to.
    introduced: AtomicBool,
}

/// Follows the holder while a client is served.
pub struct Watch {
    holder: Arc<dyn SessionHolder>,
    faces: Arc<Faces>,
    initialized: watch::Receiver<bool>,
}

impl Server {
    /// For one client; `gone` turns true when it has left.
    pub fn new(
        holder: Arc<dyn SessionHolder>,
        slips: Arc<Slips>,
        gone: watch::Receiver<bool>,
    ) -> Self {
        Self {
            holder,
            slips,
            faces: Faces::new(),
            calls: Semaphore::new(MAX_CALLS),
            gone,
            initialized: watch::Sender::new(false),
            introduced: AtomicBool::new(false),
        }
    }

    /// What the first answer says besides, where nothing but the first approval has said which
    /// account this agent belongs to: somebody else may have been faster.
    async fn introduction(&self) -> Option<String> {
        if self.introduced.load(Ordering::Relaxed) {
            return None;
        }
        let standing = self.holder.standing().await.ok()?;
        let account = standing.account?;
        let told = self.introduced.swap(true, Ordering::Relaxed);
        (!told && standing.pinned_by_first_approval).then(|| text::introduction(account))
    }

    /// What runs beside it once a session is open.
    pub fn watch(&self) -> Watch {
        Watch {
            holder: Arc::clone(&self.holder),
            faces: Arc::clone(&self.faces),
            initialized: self.initialized.subscribe(),
        }
    }

    async fn has_gone(&self) {
        // A sender that is dropped has gone as well.
        let _ = self.gone.clone().wait_for(|gone| *gone).await;
    }
}

impl Watch {
    /// Follows the holder, and tells a client of the versions with `initialize` when the list has
    /// changed; those without it listen for that themselves. Never returns.
    pub async fn run(mut self, peer: &Peer<RoleServer>) {
        // Only `initialize` leaves a client's particulars behind.
        let has_initialize = peer.peer_info().is_some();
        if has_initialize && self.initialized.wait_for(|done| *done).await.is_err() {
            return std::future::pending().await;
        }
        let telling = async {
            if has_initialize {
                self.faces.tell(|| async { peer.notify_tool_list_changed().await.is_ok() }).await;
            }
        };
        tokio::join!(self.faces.follow(&*self.holder), telling);
    }
}

/// A client that may have asked to be told how far its call is.
struct Told<'a> {
    peer: &'a Peer<RoleServer>,
    token: Option<ProgressToken>,
}

#[async_trait]
impl Progress for Told<'_> {
    async fn at(&self, percent: f64, step: &str) {
        let Some(token) = &self.token else { return };
        let told = ProgressNotificationParam::new(token.clone(), percent)
            .with_total(100.0)
            .with_message(step);
        // A client that has gone shows elsewhere.
        let _ = self.peer.notify_progress(told).await;
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        let capabilities =
            ServerCapabilities::builder().enable_tools().enable_tool_list_changed().build();
        let name = Implementation::new("agentkeys", env!("CARGO_PKG_VERSION"))
            .with_title("AgentKeys")
            .with_description(env!("CARGO_PKG_DESCRIPTION"));
        ServerConfig::new(capabilities).with_server_info(name).with_instructions(INSTRUCTIONS)
    }

    async fn on_initialized(&self, _context: NotificationContext<RoleServer>) {
        self.initialized.send_replace(true);
    }

    async fn list_tools(
        &self,
        request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        if request.is_some_and(|page| page.cursor.is_some()) {
            return Err(ErrorData::invalid_params("the list has one page: send no cursor", None));
        }
        let face = self.faces.list(&*self.holder).await;
        Ok(ListToolsResult::with_all_items(tools::list(face)))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let Some(tool) = tools::find(&request.name) else {
            let known = format!("unknown tool; there are {}", tools::names());
            return Err(ErrorData::invalid_params(known, None));
        };
        let progress = Told { peer: &context.peer, token: context.meta.get_progress_token() };
        let work = async {
            // Never closed, so a turn always comes.
            let _turn = self.calls.acquire().await;
            let call = Call {
                arguments: request.arguments.unwrap_or_default(),
                holder: &*self.holder,
                slips: &self.slips,
                progress: &progress,
                now: now(),
            };
            let mut result = tool.call(call).await.into_result();
            if result.is_error != Some(true)
                && let Some(introduction) = self.introduction().await
            {
                result.content.push(ContentBlock::text(introduction));
            }
            result
        };
        tokio::select! {
            result = work => Ok(result.into()),
            () = context.ct.cancelled() => Err(ErrorData::internal_error("cancelled", None)),
            () = async {
                self.has_gone().await;
                tokio::time::sleep(LAST_CALLS).await;
            } => Err(ErrorData::internal_error("the client has gone", None)),
        }
    }

    fn accepted_subscription_filter(
        &self,
        requested: &SubscriptionFilter,
    ) -> Option<SubscriptionFilter> {
        let mut accepted = SubscriptionFilter::new();
        accepted.tools_list_changed = requested.tools_list_changed;
        Some(accepted)
    }

    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        let wants = context.accepted().tools_list_changed == Some(true);
        let telling = async {
            if wants {
                let sink = context.sink();
                self.faces.tell(|| async { sink.notify_tool_list_changed().await.is_ok() }).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = telling => {}
            () = context.cancelled() => {}
            () = self.has_gone() => {}
        }
        Ok(())
    }
}
