//! From lines to messages and back: what stands between the byte streams and the protocol
//! library.
//!
//! What is no message is refused here, by the request's own id where it has one, so that no client
//! waits for an answer that never comes. Credentials leave their slips here and nowhere else.
//!
//! Must never write anything but one JSON-RPC message a line, take on more requests than the
//! limit, or keep a line with a credential once it is written.
use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rmcp::RoleServer;
use rmcp::model::{
    ClientJsonRpcMessage, ClientNotification, ClientRequest, ContentBlock, ErrorData, GetMeta,
    JsonRpcMessage, ProtocolVersion, RequestId, ServerJsonRpcMessage, ServerResult,
};
use rmcp::transport::Transport;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use zeroize::{Zeroize, Zeroizing};

use super::lines::{Line, Lines};
use super::slip::Slips;

/// Longest message that is read, in bytes.
pub const MAX_MESSAGE: usize = 256 * 1024;
/// Most requests that wait for their answers at once; further ones are refused.
pub const MAX_IN_FLIGHT: usize = 128;
/// Most messages in one batch, which 2025-03-26 has and no later version.
const MAX_BATCH: usize = 64;
/// Longest id of a request, in bytes: it is kept until the answer is sent.
const MAX_ID: usize = 256;
/// Answers that wait to be written before whoever has another must wait too.
const OUTBOX: usize = 32;
/// How many lines that are no message are answered; the rest of a flood is passed over.
const MAX_COMPLAINTS: usize = 32;
/// Marks a result whose `credential` is a slip.
const SLIP: &str = "agentkeys/slip";

type Encoded = Zeroizing<Vec<u8>>;

/// Marks a tool's result: its structured content has a slip as `credential`.
pub fn mark(result: &mut rmcp::model::CallToolResult) {
    result.meta.get_or_insert_default().insert(SLIP.to_owned(), Value::Bool(true));
}

/// The transport.
pub struct Wire<R> {
    lines: Lines<R>,
    slips: Arc<Slips>,
    outbox: mpsc::Sender<Encoded>,
    in_flight: Arc<InFlight>,
    /// Read and not yet handed on: a batch brings several.
    pending: VecDeque<ClientJsonRpcMessage>,
    /// Not yet in the outbox.
    refusals: VecDeque<ServerJsonRpcMessage>,
    complaints: usize,
    /// Whether a session has begun.
    opened: AtomicBool,
    gone: watch::Sender<bool>,
}

/// Requests that were handed on and not answered.
#[derive(Default)]
struct InFlight(Mutex<HashSet<RequestId>>);

impl InFlight {
    fn with<T>(&self, act: impl FnOnce(&mut HashSet<RequestId>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<R: AsyncRead + Send + Unpin> Wire<R> {
    /// The transport, the task that writes, and what turns true when the client has gone.
    pub fn new<W>(
        input: R,
        output: W,
        slips: Arc<Slips>,
    ) -> (Self, JoinHandle<()>, watch::Receiver<bool>)
    where
        W: AsyncWrite + Send + Unpin + 'static,
    {
        let (outbox, encoded) = mpsc::channel(OUTBOX);
        let (gone, is_gone) = watch::channel(false);
        let wire = Self {
            lines: Lines::new(input, MAX_MESSAGE),
            slips,
            outbox,
            in_flight: Arc::default(),
            pending: VecDeque::new(),
            refusals: VecDeque::new(),
            complaints: 0,
            opened: AtomicBool::new(false),
            gone,
        };
        (wire, tokio::spawn(write(output, encoded)), is_gone)
    }

    /// Takes one line apart into what is handed on and what is refused.
    fn sort(&mut self, line: &[u8]) {
        let line = line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line).trim_ascii();
        if line.is_empty() {
            return;
        }
        match serde_json::from_slice(line) {
            Err(_) => self.complain(ErrorData::parse_error("this line is no JSON", None)),
            Ok(Value::Array(batch)) if (1..=MAX_BATCH).contains(&batch.len()) => {
                batch.into_iter().for_each(|message| self.admit(message));
            }
            Ok(Value::Array(_)) => self.complain(ErrorData::invalid_request(
                format!("a batch has 1 to {MAX_BATCH} messages"),
                None,
            )),
            Ok(message) => self.admit(message),
        }
    }

    fn admit(&mut self, message: Value) {
        let method = message.get("method").and_then(Value::as_str).map(str::to_owned);
        let id = message.get("id").cloned();
        match serde_json::from_value::<ClientJsonRpcMessage>(message) {
            Ok(JsonRpcMessage::Request(request)) => {
                if let Some(refusal) = self.objection(&request.id, &request.request) {
                    self.refusals.push_back(JsonRpcMessage::error(refusal, Some(request.id)));
                    return;
                }
                if opens(&request.request) {
                    self.opened.store(true, Ordering::Relaxed);
                }
                self.in_flight.with(|ids| ids.insert(request.id.clone()));
                self.pending.push_back(JsonRpcMessage::Request(request));
            }
            Ok(JsonRpcMessage::Notification(notification)) => {
                if let ClientNotification::CancelledNotification(cancelled) =
                    &notification.notification
                    && let Some(id) = &cancelled.params.request_id
                {
                    self.in_flight.with(|ids| ids.remove(id));
                }
                // Before a session has begun, the library would take it for a reason to end.
                if self.opened.load(Ordering::Relaxed) {
                    self.pending.push_back(JsonRpcMessage::Notification(notification));
                }
            }
            // Nothing is ever asked of the client, so there is nothing that it could answer.
            Ok(JsonRpcMessage::Response(_) | JsonRpcMessage::Error(_)) => {}
            // What nobody waits for needs no refusal.
            Err(_) if method.is_some() && id.is_none() => {}
            Err(_) => {
                let error = match &method {
                    Some(_) => ErrorData::invalid_params(
                        "the request's params are not what its method takes",
                        None,
                    ),
                    None => ErrorData::invalid_request("this is no JSON-RPC 2.0 message", None),
                };
                match id.and_then(|id| serde_json::from_value::<RequestId>(id).ok()) {
                    Some(id) if is_short(&id) => {
                        self.refusals.push_back(JsonRpcMessage::error(error, Some(id)));
                    }
                    _ => self.complain(error),
                }
            }
        }
    }

    /// Why a request is not taken on.
    fn objection(&self, id: &RequestId, request: &ClientRequest) -> Option<ErrorData> {
        if !is_short(id) {
            let most = format!("an id has at most {MAX_ID} bytes");
            return Some(ErrorData::invalid_request(most, None));
        }
        if let ClientRequest::CustomRequest(custom) = request
            && is_known(&custom.method)
        {
            return Some(ErrorData::invalid_params(
                "the request's params are not what its method takes",
                None,
            ));
        }
        self.in_flight.with(|ids| {
            if ids.contains(id) {
                Some(ErrorData::invalid_request("a request with this id is not answered yet", None))
            } else if ids.len() >= MAX_IN_FLIGHT {
                Some(ErrorData::internal_error(
                    format!("{MAX_IN_FLIGHT} requests wait already: send this again later"),
                    None,
                ))
            } else {
                None
            }
        })
    }

    /// Answers what has no id of its own.
    fn complain(&mut self, error: ErrorData) {
        if self.complaints < MAX_COMPLAINTS {
            self.complaints += 1;
            self.refusals.push_back(JsonRpcMessage::error(error, None));
        }
    }
}

fn is_short(id: &RequestId) -> bool {
    !matches!(id, RequestId::String(text) if text.len() > MAX_ID)
}

/// Methods that this server answers: one of them with params of another shape is a mistake in the
/// params, and not an unknown method.
fn is_known(method: &str) -> bool {
    matches!(
        method,
        "initialize"
            | "server/discover"
            | "ping"
            | "tools/list"
            | "tools/call"
            | "subscriptions/listen"
    )
}

/// Whether a request begins a session of the versions that have no `initialize`.
fn opens(request: &ClientRequest) -> bool {
    let newest = &ProtocolVersion::V_2026_07_28;
    !matches!(
        request,
        ClientRequest::InitializeRequest(_)
            | ClientRequest::DiscoverRequest(_)
            | ClientRequest::PingRequest(_)
    ) && request.get_meta().missing_required_keys(newest).is_empty()
        && request
            .get_meta()
            .protocol_version()
            .is_some_and(|version| ProtocolVersion::KNOWN_VERSIONS.contains(&version))
}

impl<R: AsyncRead + Send + Unpin> Transport<RoleServer> for Wire<R> {
    type Error = io::Error;

    fn send(
        &mut self,
        message: ServerJsonRpcMessage,
    ) -> impl Future<Output = io::Result<()>> + Send + 'static {
        let answered = match &message {
            JsonRpcMessage::Response(response) => Some(response.id.clone()),
            JsonRpcMessage::Error(error) => error.id.clone(),
            _ => None,
        };
        if let JsonRpcMessage::Response(response) = &message
            && matches!(response.result, ServerResult::InitializeResult(_))
        {
            self.opened.store(true, Ordering::Relaxed);
        }
        let encoded = encode(message, &self.slips);
        let outbox = self.outbox.clone();
        let in_flight = Arc::clone(&self.in_flight);
        async move {
            let sent = match encoded {
                Ok(encoded) => {
                    outbox.send(encoded).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
                }
                Err(error) => Err(error.into()),
            };
            if let Some(id) = &answered {
                in_flight.with(|ids| ids.remove(id));
            }
            sent
        }
    }

    async fn receive(&mut self) -> Option<ClientJsonRpcMessage> {
        loop {
            while !self.refusals.is_empty() {
                let Ok(place) = self.outbox.reserve().await else { break };
                if let Some(refusal) = self.refusals.pop_front()
                    && let Ok(encoded) = encode(refusal, &self.slips)
                {
                    place.send(encoded);
                }
            }
            if let Some(message) = self.pending.pop_front() {
                return Some(message);
            }
            let line = tokio::select! {
                line = self.lines.next() => line,
                // Whoever does not read what we say has gone as well.
                () = self.outbox.closed() => Ok(None),
            };
            match line {
                Ok(Some(Line::Whole(line))) => self.sort(&line),
                Ok(Some(Line::TooLong)) => self.complain(ErrorData::invalid_request(
                    format!("a message has at most {MAX_MESSAGE} bytes; this one was passed over"),
                    None,
                )),
                Ok(None) | Err(_) => {
                    self.gone.send_replace(true);
                    return None;
                }
            }
        }
    }

    async fn close(&mut self) -> io::Result<()> {
        self.gone.send_replace(true);
        // The writer ends when the last sender is gone and what they left is written.
        self.outbox = mpsc::channel(1).0;
        Ok(())
    }
}

/// Writes what comes, and wipes it.
async fn write<W: AsyncWrite + Unpin>(mut output: W, mut encoded: mpsc::Receiver<Encoded>) {
    while let Some(line) = encoded.recv().await {
        if output.write_all(&line).await.is_err() || output.flush().await.is_err() {
            return;
        }
    }
}

/// A message as its line, with the credential in place of its slip.
fn encode(mut message: ServerJsonRpcMessage, slips: &Slips) -> serde_json::Result<Encoded> {
    let JsonRpcMessage::Response(response) = &mut message else { return to_line(&message) };
    let ServerResult::CallToolResult(result) = &mut response.result else {
        return to_line(&message);
    };
    let marked = result.meta.as_mut().is_some_and(|meta| meta.remove(SLIP).is_some());
    if !marked {
        return to_line(&message);
    }
    if result.meta.as_ref().is_some_and(|meta| meta.is_empty()) {
        result.meta = None;
    }
    let slot = result.structured_content.as_mut().and_then(|content| content.get_mut("credential"));
    let opened = slot.and_then(|slot| {
        let credential = slips.open(slot.as_str()?)?;
        *slot = Value::String(credential.as_str().to_owned());
        Some(())
    });
    if opened.is_none() {
        let id = response.id.clone();
        let error = ErrorData::internal_error("the credential could not be handed on", None);
        return to_line(&JsonRpcMessage::error(error, Some(id)));
    }
    let text = exactly(&result.structured_content)?;
    // JSON is UTF-8 always.
    let text = String::from_utf8_lossy(&text).into_owned();
    result.content.insert(0, ContentBlock::text(text));
    let line = to_line(&message);
    wipe(message);
    line
}

/// Wipes the credential out of a message that was encoded.
fn wipe(message: ServerJsonRpcMessage) {
    let JsonRpcMessage::Response(response) = message else { return };
    let ServerResult::CallToolResult(mut result) = response.result else { return };
    if let Some(Value::String(credential)) =
        result.structured_content.as_mut().and_then(|content| content.get_mut("credential"))
    {
        credential.zeroize();
    }
    for block in &mut result.content {
        if let ContentBlock::Text(text) = block {
            text.text.zeroize();
        }
    }
}

fn to_line(message: &ServerJsonRpcMessage) -> serde_json::Result<Encoded> {
    let mut line = exactly(message)?;
    line.push(b'\n');
    Ok(line)
}

/// JSON in a buffer that never grows, since growing would leave a copy behind; with room for one
/// byte more.
fn exactly(value: &impl serde::Serialize) -> serde_json::Result<Encoded> {
    struct Count(usize);

    impl io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let mut count = Count(0);
    serde_json::to_writer(&mut count, value)?;
    let mut line = Zeroizing::new(Vec::with_capacity(count.0 + 1));
    serde_json::to_writer(&mut *line, value)?;
    Ok(line)
}
