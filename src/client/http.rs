//! A backend behind HTTP/1.1 or HTTP/2: over TLS, loopback TCP or a Unix socket.
//!
//! Every answer is judged before it is believed: wire version, content type, size, shape, and
//! the signed head's signature. No redirect is followed. A server gets nothing before it has
//! proved who it is: by its certificate over TLS, by the kernel's word, that it is this same
//! user, over a Unix socket.

mod address;
mod answer;
mod ask;
mod belief;
mod connect;
mod exchange;
mod fault;
mod guard;
mod methods;
mod pool;
mod sender;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;

pub use self::address::{Address, AddressError};
use self::answer::Received;
use self::ask::Ask;
use self::connect::Belief;
pub use self::exchange::{ProgramBody, ServiceBody};
pub use self::fault::{Unreachable, is_unreachable};
pub use self::guard::Guard;
use self::pool::Pool;
use self::sender::Sender;
use super::wait::{Onlooker, watched};
use crate::core::audit::Head;
use crate::core::problem::{Answer, Problem};
use crate::core::types::Timestamp;
use crate::core::wire::{self, Route};
use crate::web::{Certificate, Trust};

/// How hard to try.
#[derive(Clone, Debug)]
pub struct Options {
    /// Longest that one try to connect takes; to another machine at least 5 seconds.
    pub connect: Duration,
    /// How often connecting is tried, 1 at least. Nothing was sent before it succeeded.
    pub tries: u32,
    /// The pauses between the tries, all together.
    pub pauses: Duration,
    /// Longest that one request takes, a long poll's wait apart.
    pub request: Duration,
    /// Most connections at once; more calls wait for one.
    pub connections: usize,
    /// What named the address, such as a variable, for the error when nobody is there.
    pub named_by: Option<&'static str>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            tries: 3,
            pauses: Duration::from_millis(900),
            request: Duration::from_secs(60),
            connections: 64,
            named_by: None,
        }
    }
}

/// A backend behind HTTP. Calls may run at once: over HTTP/2 they share a connection, over
/// HTTP/1.1 each has one of its own, and idle ones are used again. Dropping a call's future ends
/// the call, and closes its connection if it was its own.
pub struct HttpBackend {
    address: Address,
    options: Options,
    belief: Belief,
    idle: Pool,
    /// Those that exchanges with services go by.
    exchanges: Arc<Pool<ProgramBody>>,
    permits: Semaphore,
    head: Mutex<Option<Head>>,
    clocks: Mutex<Option<Clocks>>,
    guard: Option<Arc<dyn Guard>>,
    onlooker: Option<Arc<dyn Onlooker>>,
}

/// What the two clocks said at the same moment, but for the way of the answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Clocks {
    /// The backend's, to the second.
    pub theirs: Timestamp,
    /// This machine's.
    pub ours: Timestamp,
}

impl HttpBackend {
    /// The backend at `address`. Connects with the first call, inside its tokio runtime.
    pub fn new(address: Address) -> Self {
        Self::with_options(address, Options::default())
    }

    /// The same, trying as hard as `options` say.
    pub fn with_options(address: Address, options: Options) -> Self {
        Self::trusting(address, options, None)
    }

    /// The same, believing whom `trust` says rather than whom this machine trusts. A pin in the
    /// address goes before both.
    pub fn trusting(address: Address, options: Options, trust: Option<Trust>) -> Self {
        let permits = Semaphore::new(options.connections.clamp(1, Semaphore::MAX_PERMITS));
        Self {
            address,
            options,
            belief: Belief::from(trust),
            idle: Pool::shared(),
            exchanges: Arc::new(Pool::one_each()),
            permits,
            head: Mutex::default(),
            clocks: Mutex::default(),
            guard: None,
            onlooker: None,
        }
    }

    /// The same with a guard before every act that raises what someone may do.
    pub fn guarded(self, guard: Arc<dyn Guard>) -> Self {
        Self { guard: Some(guard), ..self }
    }

    /// The same, telling `onlooker` of every answer that is waited for.
    pub fn watched(self, onlooker: Option<Arc<dyn Onlooker>>) -> Self {
        Self { onlooker, ..self }
    }

    /// Takes a connection that was made to this address, and whose other end was checked, for
    /// the first request. One that turns out to be closed is replaced without a word.
    pub async fn adopt(&self, stream: UnixStream) {
        if let Ok(sender) = Sender::one(stream).await {
            self.idle.keep(sender);
        }
    }

    /// Where the backend is.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The certificate that the server was believed by last, if it speaks TLS.
    pub fn certificate(&self) -> Option<Certificate> {
        self.belief.believed()
    }

    /// What the two clocks said at the last answer.
    pub fn clocks(&self) -> Option<Clocks> {
        *self.clocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the server answers at all.
    ///
    /// # Errors
    /// One that [`is_unreachable`] knows, when nobody does.
    pub async fn health(&self) -> Answer<wire::Health> {
        self.get(Ask::new(Route::Health)).await
    }

    /// The server's version and its wire's.
    pub async fn version(&self) -> Answer<wire::Version> {
        self.get(Ask::new(Route::Version)).await
    }

    /// Sends the request and reads an answer that may not be missing.
    async fn get<T: DeserializeOwned>(&self, ask: Ask) -> Answer<T> {
        let route = ask.route;
        self.poll(ask).await?.ok_or_else(|| fault::not_wire(&self.address, route, "it is empty"))
    }

    /// Sends the request; `None` is a 204, a long poll that ended with nothing.
    async fn poll<T: DeserializeOwned>(&self, ask: Ask) -> Answer<Option<T>> {
        let route = ask.route;
        let deadline = self.options.request + ask.patience;
        let known = self.head_place();
        let exchange = tokio::time::timeout(deadline, self.exchange(ask));
        let received = watched(self.onlooker.as_deref(), exchange)
            .await
            .map_err(|_| fault::no_answer(&self.address, route, deadline))??;
        if let Some(head) = received.head()? {
            self.keep_head(head, known);
        }
        received.into_value()
    }

    /// One request and its whole answer. A connection that was kept and turns out to be closed
    /// before anything was sent is replaced without a word.
    async fn exchange(&self, ask: Ask) -> Answer<Received<'_>> {
        let route = ask.route;
        let limit = ask.answer_limit();
        let closed = || fault::no_answer(&self.address, route, self.options.request);
        let _permit = self.permits.acquire().await.map_err(|_| closed())?;
        let mut request = ask.into_request(&self.address.host())?;
        let mut tries = 0;
        loop {
            let (mut sender, kept) = match self.idle.take().await {
                Some(sender) => (sender, true),
                None => {
                    let made = connect::with_retries(&self.address, &self.options, &self.belief);
                    (made.await?, false)
                }
            };
            match sender.try_send(request).await {
                Ok(response) => {
                    let ours = super::connect::now();
                    let received = answer::receive(&self.address, route, response, limit).await?;
                    self.idle.keep(sender);
                    if let Some(theirs) = received.date() {
                        let mut clocks = self.clocks.lock().unwrap_or_else(PoisonError::into_inner);
                        *clocks = Some(Clocks { theirs, ours });
                    }
                    return Ok(received);
                }
                Err(mut error) => {
                    tries += 1;
                    self.idle.drop_shared();
                    match error.take_message() {
                        Some(unsent) if kept || tries < self.options.tries => request = unsent,
                        Some(_) => return Err(fault::hung_up(&self.address, route, false)),
                        None => return Err(fault::hung_up(&self.address, route, true)),
                    }
                }
            }
        }
    }

    /// Closes the connections that no call has used for `idle`. What was sent and received over
    /// one stays in its buffers until then.
    pub fn hang_up(&self, idle: Duration) {
        self.idle.hang_up(idle);
        self.exchanges.hang_up(idle);
    }

    fn head_place(&self) -> Option<(u64, u64)> {
        let head = self.head.lock().unwrap_or_else(PoisonError::into_inner);
        head.as_ref().map(Head::place)
    }

    /// Remembers a head. Of answers that crossed each other the higher one stays; one that is
    /// older than what was `known` before its request was sent is kept, so that whoever
    /// compares heads sees it.
    fn keep_head(&self, head: Head, known: Option<(u64, u64)>) {
        let mut last = self.head.lock().unwrap_or_else(PoisonError::into_inner);
        let crossed = last.as_ref().is_some_and(|last| {
            last.backend_id == head.backend_id
                && last.account == head.account
                && last.place() > head.place()
                && known.is_none_or(|known| head.place() >= known)
        });
        if !crossed {
            *last = Some(head);
        }
    }

    /// A body's JSON; its size is a guess that keeps secrets from being copied by growing.
    fn json<T: serde::Serialize>(body: &T, size: usize) -> Answer<zeroize::Zeroizing<Vec<u8>>> {
        let mut bytes = zeroize::Zeroizing::new(Vec::with_capacity(size + 1024));
        serde_json::to_writer(&mut *bytes, body).map_err(|_| Problem::internal())?;
        Ok(bytes)
    }
}
