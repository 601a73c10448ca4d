//! A backend's outside for the tests of what a client does around its calls: sessions that are
//! made and end, signed heads, refusals. It holds no rule of the vault.
use std::collections::HashSet;
use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use agentkeys::core::audit::{Action, Actor, Entry, Event, GENESIS, Head, Outcome};
use agentkeys::core::backend::{AuditPage, WhoAmI};
use agentkeys::core::encoding::to_base64;
use agentkeys::core::problem::{Code, Problem};
use agentkeys::core::set_back::Compared;
use agentkeys::core::token::SessionToken;
use agentkeys::core::types::{AccountId, BackendId, PublicKey, Timestamp, WalletAddress};
use agentkeys::core::wire::{self, Shown};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use ring::signature::Ed25519KeyPair;
use tokio::net::UnixListener;

pub const ACCOUNT: AccountId = AccountId([2; 16]);
const BACKEND: BackendId = BackendId([1; 16]);

fn key() -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap()
}

/// The log of the stand-in's one account as it is after `seq` events; of each `fork` another.
fn log(seq: u64, fork: u8) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    for seq in 1..=seq {
        events.push(Event {
            by: Actor::default(),
            seq,
            prev: events.last().map_or(GENESIS, |last| last.hash(BACKEND)),
            time: Timestamp(seq),
            agent: None,
            action: Action::Read,
            detail: Some(fork.to_string()),
            account: ACCOUNT,
            outcome: Outcome::Allowed,
            request: None,
            service: None,
            presence: "none".to_owned(),
            set_backs: None,
            agent_name: None,
        });
    }
    events
}

/// A head of the stand-in's one account: of that many events of the log that was forked so.
pub fn head(seq: u64, fork: u8) -> Head {
    let hash = log(seq, fork).last().map_or(GENESIS, |last| last.hash(BACKEND));
    Head::sign(BACKEND, ACCOUNT, seq, hash, &key())
}

/// What the stand-in does, and what it saw.
#[derive(Default)]
pub struct State {
    /// Sessions that hold.
    pub live: HashSet<String>,
    /// How many sessions were made.
    pub made: u8,
    /// The head that comes along with answers.
    pub head: Option<Head>,
    /// The head that an audit query answers with; else `head`.
    pub current: Option<Head>,
    /// Which log an audit query reads events of.
    pub fork: u8,
    /// What a comparison answers, whatever is shown.
    pub compared: Option<Compared>,
    /// Refuses to list agents with this code, whoever asks.
    pub refusal: Option<Code>,
    /// Path and bearer of each request.
    pub seen: Vec<(String, String)>,
}

impl State {
    pub fn count(&self, path: &str) -> usize {
        self.seen.iter().filter(|(seen, _)| seen == path).count()
    }

    fn answer(&mut self, path: &str, query: &str, bearer: String) -> Result<Vec<u8>, Problem> {
        self.seen.push((path.to_owned(), bearer.clone()));
        if path == "/session/create" {
            self.made += 1;
            let session = SessionToken::master(&[self.made; 32]);
            self.live.insert(session.expose().to_owned());
            return Ok(json(&wire::Session {
                sign_in: None,
                session_id: session.id(),
                session: Shown(session),
                wallet: WalletAddress([3; 20]),
                expires_at: Timestamp(1),
                renewal: None,
            }));
        }
        if path == "/version" {
            return Ok(json(&wire::Version { version: "9".to_owned(), wire: wire::WIRE_VERSION }));
        }
        if !self.live.contains(&bearer) {
            return Err(problem(Code::Unauthorized));
        }
        match path {
            "/session" => Ok(json(&WhoAmI {
                session_id: SessionToken::parse(&bearer).unwrap().id(),
                account: ACCOUNT,
                master_key: PublicKey([4; 32]),
                identity: "unix:0".to_owned(),
                presence: "none".to_owned(),
                set_back: None,
                presence_reset: None,
                wallet: WalletAddress([3; 20]),
                child: false,
                expires_at: Timestamp(1),
            })),
            "/agents" => match self.refusal {
                Some(code) => Err(problem(code)),
                None => Ok(b"{\"agents\":[]}".to_vec()),
            },
            "/audit/query" => {
                let head = self.current.clone().or(self.head.clone()).unwrap();
                let from = query.split('&').find_map(|field| field.strip_prefix("from="));
                let from: usize = from.unwrap().parse().unwrap();
                let mut events = log(head.seq, self.fork);
                let events = if from <= events.len() { events.split_off(from - 1) } else { vec![] };
                let events = events.into_iter().take(1).map(|event| Entry::Event(event.into()));
                Ok(json(&AuditPage { events: events.collect(), next: None, head }))
            }
            "/audit/compare" => Ok(json(&self.compared.ok_or_else(|| problem(Code::Unavailable))?)),
            _ => Err(problem(Code::NotFound)),
        }
    }
}

fn json<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap()
}

fn problem(code: Code) -> Problem {
    Problem::new(code, "refused by the stand-in", "the test wants it", "none")
}

/// A stand-in that serves in this process until the runtime ends.
#[derive(Clone, Default)]
pub struct StandIn(Arc<Mutex<State>>);

impl StandIn {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Listens at `socket`, in a folder of its own.
    pub fn listen(&self, socket: &Path) {
        let listener = UnixListener::bind(socket).unwrap();
        let stand_in = self.clone();
        tokio::spawn(async move { stand_in.serve(listener).await });
    }

    pub async fn serve(&self, listener: UnixListener) {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let stand_in = self.clone();
            let service = service_fn(move |request| {
                let stand_in = stand_in.clone();
                async move { Ok::<_, Infallible>(stand_in.answer(request).await) }
            });
            let io = TokioIo::new(stream);
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, service));
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (parts, body) = request.into_parts();
        body.collect().await.unwrap();
        let bearer = parts.headers.get("authorization").map(|value| value.to_str().unwrap());
        let bearer = bearer.unwrap_or_default().trim_start_matches("Bearer ").to_owned();
        let mut state = self.state();
        let query = parts.uri.query().unwrap_or_default();
        let answer = state.answer(parts.uri.path(), query, bearer);
        let mut response = Response::builder().header(wire::WIRE_HEADER, wire::WIRE_VERSION);
        if let Some(head) = &state.head {
            response = response.header(wire::HEAD_HEADER, to_base64(&json(head)));
        }
        let (status, kind, body) = match answer {
            Ok(body) => (200, "application/json", body),
            Err(problem) => (problem.status, "application/problem+json", json(&problem)),
        };
        let response = response.status(status).header("content-type", kind);
        response.body(Full::new(Bytes::from(body))).unwrap()
    }
}
