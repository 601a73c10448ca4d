//! Accepting, serving, and stopping.
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::time::{Duration, Instant};

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::Served;
use super::doorway::{secure, turn_away};
use super::gate::{Gate, Place};
use super::guard::Hosts;
use super::limits::{
    ACCEPT_PAUSE, H2_CONNECTION_WINDOW, H2_RESETS, H2_STREAM_WINDOW, H2_STREAMS, Limits,
    MAX_HEADER_BYTES,
};
use super::listener::{Accepting, Listener, Stream};
use super::pulse::{Pulse, Verdict, Watched};
use super::service::{self, Connection, Shared, Stage};
use super::unix::SocketGuard;
use crate::backend::peer::Peer;

/// Longest that hanging up on what did not drain takes.
const HANG_UP: Duration = Duration::from_secs(1);

/// A server that has stopped. It holds the Unix sockets' places: drop it once the store is
/// closed, so that the next backend does not begin before.
#[must_use = "dropping it frees the sockets' places"]
pub struct Stopped {
    /// Whether everything under way was answered in time.
    pub drained: bool,
    _sockets: Vec<SocketGuard>,
}

/// Serves on `listeners` until `shutdown` ends. Then nothing more is accepted, parked long
/// polls are answered at once (`UNAVAILABLE`), and what is under way may take
/// [`Limits::drain_time`].
///
/// # Errors
/// When a listener cannot be handed to the runtime; nothing was served then.
pub async fn run(
    listeners: Vec<Listener>,
    served: impl Into<Served>,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) -> io::Result<Stopped> {
    let (stage, watched) = watch::channel(Stage::Running);
    let (alive, mut ended) = mpsc::channel::<Infallible>(1);
    let gate =
        Gate::new(limits.connections, limits.connections_per_address, limits.connections_unix);
    let drain_time = limits.drain_time;
    let shared = Arc::new(Shared {
        served: served.into(),
        limits,
        stage: watched,
        requests: AtomicU64::new(0),
        _alive: alive,
    });
    let opened: io::Result<Vec<_>> = listeners.into_iter().map(Listener::open).collect();
    let mut accepting = JoinSet::new();
    for listener in opened? {
        accepting.spawn(accept(listener, Arc::clone(&shared), Arc::clone(&gate)));
    }
    drop(shared);
    shutdown.await;
    stage.send_replace(Stage::Draining);
    let mut sockets = Vec::new();
    while let Some(closed) = accepting.join_next().await {
        sockets.extend(closed.ok().flatten());
    }
    // It only ever closes, with the last connection and the last handler.
    let drained = tokio::time::timeout(drain_time, ended.recv()).await.is_ok();
    if !drained {
        tracing::warn!("hanging up on connections that did not end in time");
        stage.send_replace(Stage::Ended);
        let _ = tokio::time::timeout(HANG_UP, ended.recv()).await;
    }
    Ok(Stopped { drained, _sockets: sockets })
}

fn protocol() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // Our own watch over the connection is cheaper than hyper's timer for every head.
    builder.http1().max_buf_size(MAX_HEADER_BYTES).header_read_timeout(None);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(H2_STREAMS)
        .initial_stream_window_size(H2_STREAM_WINDOW)
        .initial_connection_window_size(H2_CONNECTION_WINDOW)
        .max_pending_accept_reset_streams(H2_RESETS)
        .max_local_error_reset_streams(H2_RESETS)
        .max_header_list_size(MAX_HEADER_BYTES as u32);
    builder
}

/// Accepts until the server drains, and gives back the socket's place.
async fn accept(listener: Accepting, shared: Arc<Shared>, gate: Arc<Gate>) -> Option<SocketGuard> {
    let mut stage = shared.stage.clone();
    let protocol = Arc::new(protocol());
    let turned_away = Arc::new(AtomicUsize::new(0));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stage.wait_for(|stage| *stage != Stage::Running) => break,
        };
        let (stream, peer) = match accepted {
            Ok(Some(accepted)) => accepted,
            Ok(None) => continue,
            Err(error) => {
                tracing::warn!(%error, "cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(place) = gate.enter(&peer) else {
            match stream {
                Stream::Tcp(stream) => turn_away(stream, &turned_away),
                Stream::Unix(stream) => turn_away(stream, &turned_away),
                // Without a handshake there are no words that it would understand.
                Stream::Tls(..) => {}
            }
            continue;
        };
        let shared = Arc::clone(&shared);
        let hosts = Arc::clone(&listener.hosts);
        let protocol = Arc::clone(&protocol);
        match stream {
            Stream::Tcp(stream) => {
                tokio::spawn(serve(stream, peer, hosts, shared, protocol, place));
            }
            Stream::Unix(stream) => {
                tokio::spawn(serve(stream, peer, hosts, shared, protocol, place));
            }
            Stream::Tls(stream, config) => {
                tokio::spawn(async move {
                    let mut stage = shared.stage.clone();
                    let secured = tokio::select! {
                        secured = secure(stream, config, shared.limits.head_time) => secured,
                        _ = stage.wait_for(|stage| *stage != Stage::Running) => None,
                    };
                    if let Some(stream) = secured {
                        serve(stream, peer, hosts, shared, protocol, place).await;
                    }
                });
            }
        }
    }
    listener.close()
}

/// Serves one connection to its end.
async fn serve<S>(
    stream: S,
    peer: Peer,
    hosts: Arc<Hosts>,
    shared: Arc<Shared>,
    protocol: Arc<auto::Builder<TokioExecutor>>,
    _place: Place,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let pulse = Pulse::new(Instant::now());
    let mut stage = shared.stage.clone();
    let of = Arc::new(Connection { shared, peer, hosts, pulse: Arc::clone(&pulse) });
    let service = service_fn({
        let of = Arc::clone(&of);
        move |request| service::handle(Arc::clone(&of), request)
    });
    let io = Watched { stream: TokioIo::new(stream), pulse: Arc::clone(&pulse) };
    let mut connection = pin!(protocol.serve_connection(io, service));
    let mut look = pin!(tokio::time::sleep(of.shared.limits.head_time));
    let mut draining = false;
    loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => {
                if ended.is_err() {
                    tracing::debug!("a connection ended before its time");
                }
                return;
            }
            () = look.as_mut() => match pulse.judge(Instant::now(), &of.shared.limits) {
                Verdict::LookAgain(after) => {
                    look.as_mut().reset(tokio::time::Instant::now() + after);
                }
                Verdict::Close => return,
            },
            changed = stage.wait_for(|stage| match draining {
                true => *stage == Stage::Ended,
                false => *stage != Stage::Running,
            }) => match changed.map(|stage| *stage) {
                Ok(Stage::Draining) => {
                    draining = true;
                    connection.as_mut().graceful_shutdown();
                }
                _ => return,
            },
        }
    }
}
