//! The Model Context Protocol: what an MCP client sees of a session holder, on two byte streams.
//!
//! - `lines`: from bytes to lines of bounded length.
//! - `wire`: from lines to messages and back; refuses what is no message.
//! - `slip`: carries a credential past the protocol library, which prints and buffers what it is
//!   given.
//! - `server`: answers requests; tells the client when the tools look different.
//! - `face`: how the session's state shows in the list of tools.
//! - `tools`: the table of tools; each is one file below it.
//! - `args`, `schema`, `text`: what a tool takes, what it gives, and how a refusal reads.
//!
//! Must never write a byte that is not protocol, ask the holder for anything before `initialize`
//! is answered, or keep or log a credential.
mod args;
mod face;
mod lines;
mod schema;
mod server;
mod slip;
mod text;
mod tools;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use rmcp::service::{ServerInitializeError, serve_server};
use tokio::io::{AsyncRead, AsyncWrite};

use self::server::Server;
use self::slip::Slips;
use self::wire::Wire;
use crate::core::holder::SessionHolder;

pub use self::wire::{MAX_IN_FLIGHT, MAX_MESSAGE};

/// How long the last answers may take to be written once the client has gone.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Why serving ended other than by the client's leaving.
#[derive(Debug, thiserror::Error)]
pub enum McpError {
    /// No random bytes could be had.
    #[error("no randomness for the MCP connection")]
    Randomness,
    /// The client's first messages were none that a session begins with.
    #[error("the MCP session could not be opened")]
    Opening(#[source] Box<ServerInitializeError>),
    /// A fault of ours.
    #[error("the MCP session broke off")]
    Broken(#[source] tokio::task::JoinError),
}

/// Serves one client until `input` ends; then gives calls that are under way a second to finish.
///
/// Dropping the future ends every call that is under way.
///
/// # Errors
/// [`McpError`]; a client that leaves, at whatever point, is none.
pub async fn serve<R, W>(
    holder: Arc<dyn SessionHolder>,
    input: R,
    output: W,
) -> Result<(), McpError>
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    let slips = Arc::new(Slips::new().ok_or(McpError::Randomness)?);
    let (wire, writer, gone) = Wire::new(input, output, Arc::clone(&slips));
    let server = Server::new(holder, slips, gone);
    let watch = server.watch();
    let ended = async {
        let running = match serve_server(server, wire).await {
            Ok(running) => running,
            Err(ServerInitializeError::ConnectionClosed(_)) => return Ok(()),
            Err(error) => return Err(McpError::Opening(Box::new(error))),
        };
        let peer = running.peer().clone();
        tokio::select! {
            ended = running.waiting() => ended.map(drop).map_err(McpError::Broken),
            () = watch.run(&peer) => Ok(()),
        }
    }
    .await;
    // What was answered is still on its way; a client that no longer reads is not waited for.
    let mut writer = writer;
    if tokio::time::timeout(LAST_WORDS, &mut writer).await.is_err() {
        writer.abort();
    }
    ended
}
