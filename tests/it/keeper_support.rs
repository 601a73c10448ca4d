//! What the keeper's tests share: a man in the middle before a real backend, who changes what he
//! is told to change; the real daemon, spoken to over its socket; and a real backend that can be
//! killed. Must never decide what is right: tests assert, this only acts.
use std::io::{BufRead, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use agentkeys::client::holder::HolderClient;
use agentkeys::client::http::{Address, HttpBackend};
use agentkeys::core::backend::{AccountBackend, Approved, Fetched, Grant};
use agentkeys::core::decision::Decision;
use agentkeys::core::holder::{Held, Refusal, SessionHolder, SessionState, Waiting};
use agentkeys::core::problem::{Answer, Problem};
use agentkeys::core::types::Timestamp;
use agentkeys::core::wire::Route;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::env::{Master, START, TestEnv, service};
use crate::holder_support::seat;
use crate::home::BINARY;

/// Longest that a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(30);

/// Now, as a daemon's own clock has it.
pub fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp(since.expect("after 1970").as_millis().try_into().expect("before the year 584,556"))
}

/// A backend whose clock stands where the daemon's is.
pub async fn env_now() -> TestEnv {
    let env = TestEnv::new().await;
    env.clock.advance(now().since_ms(START));
    env
}

/// Somebody with an agent's worth of credentials to give.
pub async fn ada(env: &TestEnv) -> Master {
    let ada = env.master("ada").await;
    ada.agent("bot").await;
    ada.store("bot", "openrouter", b"sk-or-v1-test").await;
    ada
}

/// What passes the man in the middle: the question before it is sent on, then its answer.
pub struct Passing {
    /// Which endpoint.
    pub route: Route,
    /// The query of the question.
    pub query: String,
    /// Whether this is the answer.
    pub answered: bool,
    /// Of the answer.
    pub status: u16,
    /// Of the question or of the answer.
    pub headers: HeaderMap,
    /// The same's body.
    pub body: Vec<u8>,
    /// What a lie sets to have the connection closed instead.
    pub cut: bool,
    /// What a lie sets to have it held back.
    pub hold: Duration,
}

impl Passing {
    /// Whether it is the question to that endpoint.
    pub fn asks(&self, route: Route) -> bool {
        self.route == route && !self.answered
    }

    /// Whether it is that endpoint's answer, and one that gives something.
    pub fn answers(&self, route: Route) -> bool {
        self.route == route && self.answered && self.status == 200
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }

    /// Puts another body in its place.
    pub fn put(&mut self, body: impl serde::Serialize) {
        self.body = serde_json::to_vec(&body).expect("it serializes");
    }

    /// Changes fields of the body.
    pub fn edit(&mut self, edit: impl FnOnce(&mut serde_json::Value)) {
        let mut json = self.json();
        edit(&mut json);
        self.put(json);
    }

    /// Changes the decision that it is, and leaves its signature as it was.
    pub fn decision(&mut self, edit: impl FnOnce(&mut Decision)) {
        let mut decision: Decision = serde_json::from_slice(&self.body).expect("a decision");
        edit(&mut decision);
        self.put(decision);
    }
}

type Lie = Box<dyn FnMut(&mut Passing) + Send>;

/// What he says, and which check fails by it.
pub struct Case {
    pub name: &'static str,
    pub lie: Lie,
    pub says: &'static str,
}

/// One case, to be put in a list.
pub fn case(
    name: &'static str,
    says: &'static str,
    lie: impl FnMut(&mut Passing) + Send + 'static,
) -> Case {
    Case { name, lie: Box::new(lie), says }
}

/// A man in the middle.
pub struct Liar {
    /// Where the daemon finds him.
    pub address: SocketAddr,
    shared: Arc<Between>,
    server: JoinHandle<()>,
}

struct Between {
    behind: Mutex<SocketAddr>,
    lie: Mutex<Lie>,
    seen: Mutex<Vec<(Route, bool)>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Liar {
    /// One before `behind`, who says nothing but the truth yet.
    pub async fn before(behind: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Between {
            behind: Mutex::new(behind),
            lie: Mutex::new(Box::new(|_| {})),
            seen: Mutex::default(),
        });
        let between = shared.clone();
        let server = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let between = between.clone();
                tokio::spawn(async move {
                    let pass = service_fn(move |request| pass(between.clone(), request));
                    let server = hyper::server::conn::http1::Builder::new();
                    // A connection that he cuts ends with an error.
                    let _ = server.serve_connection(TokioIo::new(stream), pass).await;
                });
            }
        });
        Self { address, shared, server }
    }

    /// Lets him say this from now on.
    pub fn lies(&self, lie: impl FnMut(&mut Passing) + Send + 'static) {
        *lock(&self.shared.lie) = Box::new(lie);
    }

    /// Lets him say the truth again.
    pub fn is_honest(&self) {
        self.lies(|_| {});
    }

    /// Lets him speak for the backend that is there now.
    pub fn moves(&self, behind: SocketAddr) {
        *lock(&self.shared.behind) = behind;
    }

    /// How often an endpoint has answered through him.
    pub fn answered(&self, route: Route) -> usize {
        lock(&self.shared.seen).iter().filter(|seen| **seen == (route, true)).count()
    }

    /// Waits until an endpoint was asked, answered or not, more often than `times`.
    pub async fn asked(&self, route: Route, times: usize) {
        let count = || lock(&self.shared.seen).iter().filter(|s| **s == (route, false)).count();
        until(&format!("{} is asked", route.path()), async || count() > times).await;
    }

    /// How often an endpoint was asked.
    pub fn asks(&self, route: Route) -> usize {
        lock(&self.shared.seen).iter().filter(|seen| **seen == (route, false)).count()
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[derive(Debug, thiserror::Error)]
#[error("cut")]
struct Cut;

async fn pass(
    between: Arc<Between>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Box<dyn std::error::Error + Send + Sync>> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let route = Route::find(parts.method.as_str(), &path).ok_or(Cut)?;
    let mut passing = Passing {
        route,
        query: parts.uri.query().unwrap_or_default().to_owned(),
        answered: false,
        status: 0,
        headers: parts.headers,
        body: body.collect().await?.to_bytes().to_vec(),
        cut: false,
        hold: Duration::ZERO,
    };
    tell(&between, &mut passing).await?;
    let behind = *lock(&between.behind);
    let stream = TcpStream::connect(behind).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let target = match passing.query.as_str() {
        "" => path,
        query => format!("{path}?{query}"),
    };
    let mut ask = Request::builder().method(Method::clone(&parts.method)).uri(target);
    for (name, value) in &passing.headers {
        if !["host", "content-length", "connection"].contains(&name.as_str()) {
            ask = ask.header(name, value);
        }
    }
    let ask = ask.header("host", behind.to_string());
    let answer = sender.send_request(ask.body(Full::new(Bytes::from(passing.body)))?).await?;
    let (parts, body) = answer.into_parts();
    passing.answered = true;
    passing.status = parts.status.as_u16();
    passing.headers = parts.headers;
    passing.body = body.collect().await?.to_bytes().to_vec();
    connection.abort();
    tell(&between, &mut passing).await?;
    let mut answer = Response::builder().status(StatusCode::from_u16(passing.status)?);
    for (name, value) in &passing.headers {
        if !["content-length", "connection", "transfer-encoding"].contains(&name.as_str()) {
            answer = answer.header(name, value);
        }
    }
    Ok(answer.body(Full::new(Bytes::from(passing.body)))?)
}

async fn tell(between: &Between, passing: &mut Passing) -> Result<(), Cut> {
    lock(&between.seen).push((passing.route, passing.answered));
    (lock(&between.lie))(passing);
    tokio::time::sleep(std::mem::take(&mut passing.hold)).await;
    if passing.cut { Err(Cut) } else { Ok(()) }
}

/// The real daemon, in a home of its own, spoken to over its socket.
pub struct Daemon {
    home: Arc<tempfile::TempDir>,
    arguments: Vec<String>,
    backend: String,
    process: Child,
    /// Open for as long as its MCP client is there.
    _stdin: ChildStdin,
    /// The way to it.
    pub holder: HolderClient,
}

impl Daemon {
    /// One in a fresh home, that was told to use the backend at `address`.
    pub async fn start(address: SocketAddr, arguments: &[&str]) -> Self {
        let home = Arc::new(tempfile::tempdir().expect("a temporary folder"));
        let arguments: Vec<String> = arguments.iter().map(|one| (*one).to_owned()).collect();
        Self::begin(home, arguments, format!("http://{address}")).await
    }

    async fn begin(home: Arc<tempfile::TempDir>, arguments: Vec<String>, backend: String) -> Self {
        let log = std::fs::File::create(home.path().join("stderr")).expect("a log");
        let mut process = Command::new(BINARY)
            .args(["daemon", "--stdio"])
            .args(&arguments)
            .env_clear()
            .env("HOME", home.path())
            .env("AGENTKEYS_BACKEND", &backend)
            .current_dir(home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the daemon starts");
        let stdin = process.stdin.take().expect("it is piped");
        let holder = HolderClient::new(seat(home.path(), None).socket().to_owned());
        until("the daemon listens", async || holder.standing().await.is_ok()).await;
        Self { home, arguments, backend, process, _stdin: stdin, holder }
    }

    /// Kills it, with no chance to tidy up.
    pub fn kill(&mut self) {
        self.process.kill().expect("it is there");
        self.process.wait().expect("it has ended");
    }

    /// Kills it and starts it again in the same home.
    pub async fn restart(mut self) -> Self {
        self.kill();
        self.restart_after_death().await
    }

    /// Starts one that was killed again.
    pub async fn restart_after_death(self) -> Self {
        let (home, arguments) = (self.home.clone(), self.arguments.clone());
        Self::begin(home, arguments, self.backend.clone()).await
    }

    /// The same home's next daemon, with other words on its command line.
    pub async fn restart_with(mut self, arguments: &[&str]) -> Self {
        self.arguments = arguments.iter().map(|one| (*one).to_owned()).collect();
        self.restart().await
    }

    /// Its user's home.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// What it wrote for a person.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.home.path().join("stderr")).unwrap_or_default()
    }

    /// Every file in its home.
    pub fn files(&self) -> Vec<Vec<u8>> {
        fn below(folder: &Path, found: &mut Vec<Vec<u8>>) {
            for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
                match entry.file_type().expect("a kind") {
                    kind if kind.is_dir() => below(&entry.path(), found),
                    kind if kind.is_file() => found.extend(std::fs::read(entry.path())),
                    _ => {}
                }
            }
        }
        let mut found = Vec::new();
        below(self.home.path(), &mut found);
        found
    }

    fn mirror_file(&self) -> PathBuf {
        self.home.path().join(".agentkeys/session")
    }

    /// The bytes of its mirror; `None` when there is none.
    pub fn mirror(&self) -> Option<Vec<u8>> {
        find(self.home.path(), &self.mirror_file())
    }

    /// Reads a credential.
    pub async fn read(&self, name: &str) -> Held<Vec<u8>> {
        Ok(self.holder.read(&service(name)).await?.expose().to_vec())
    }

    /// The request that a read answers with.
    #[track_caller]
    pub fn asks(&self) -> impl Future<Output = Waiting> + '_ {
        let caller = std::panic::Location::caller();
        async move {
            match self.read("openrouter").await {
                Err(Refusal::Waiting(waiting)) => waiting,
                other => panic!("no request but {other:?} at {caller}: {}", self.log()),
            }
        }
    }

    /// The problem that a read answers with.
    #[track_caller]
    pub fn refuses(&self) -> impl Future<Output = Problem> + '_ {
        let caller = std::panic::Location::caller();
        async move {
            match self.read("openrouter").await {
                Err(Refusal::Problem(problem)) => problem,
                other => panic!("no problem but {other:?} at {caller}: {}", self.log()),
            }
        }
    }

    /// Waits until its request was answered, one way or the other.
    pub async fn answered(&self) {
        let over = async || {
            let standing = self.holder.standing().await.expect("it stands");
            !matches!(standing.session, SessionState::Waiting(_))
        };
        until("the request is over", over).await;
    }

    /// Waits until it has a session.
    pub async fn paired(&self) {
        let paired = async || {
            let standing = self.holder.standing().await.expect("it stands");
            matches!(standing.session, SessionState::Paired { .. })
        };
        until("it is paired", paired).await;
    }

    /// Pairs it: as `agent` if one is named, else as a new one.
    pub async fn pair(&self, master: &Master, agent: Option<&str>) -> Approved {
        let waiting = self.asks().await;
        let approved = approve_as(master, &waiting, agent).await.expect("it is approved");
        self.paired().await;
        approved
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The agent's folder may have a name of its own below the usual one.
fn find(home: &Path, usual: &Path) -> Option<Vec<u8>> {
    let below = std::fs::read_dir(home.join(".agentkeys")).ok()?.flatten();
    let named = below.map(|entry| entry.path().join("session"));
    std::iter::once(usual.to_owned()).chain(named).find_map(|path| std::fs::read(path).ok())
}

/// Waits until it holds.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What a master is shown for a code.
pub async fn fetch(master: &Master, waiting: &Waiting) -> Answer<Fetched> {
    let code = waiting.pair_code.parse().expect("a pair code");
    master.backend.fetch_auth_request(&master.session, code).await
}

/// Approves as `agentkeys approve` does, with `--as` if an agent is named.
pub async fn approve_as(
    master: &Master,
    waiting: &Waiting,
    agent: Option<&str>,
) -> Answer<Approved> {
    let agent_id = agent.map(|agent| agent.parse().expect("a good identity"));
    approve_with(master, waiting, Grant { agent_id, ..Grant::default() }).await
}

/// The same, with any grant.
pub async fn approve_with(master: &Master, waiting: &Waiting, grant: Grant) -> Answer<Approved> {
    let fetched = fetch(master, waiting).await?;
    let (id, seen) = (fetched.id, Some(fetched.seen_hash()));
    master.backend.approve_auth_request(&master.session, id, seen, grant).await
}

/// Approves what was asked for.
pub async fn approve(master: &Master, waiting: &Waiting) -> Answer<Approved> {
    approve_as(master, waiting, None).await
}

/// Denies.
pub async fn deny(master: &Master, waiting: &Waiting) -> Answer<()> {
    let fetched = fetch(master, waiting).await?;
    master.backend.deny_auth_request(&master.session, fetched.id).await
}

/// A real backend's process, over a folder that outlives it.
pub struct Backend {
    data: PathBuf,
    process: Child,
    /// Where it listens now.
    pub address: SocketAddr,
}

impl Backend {
    /// Starts one over `data`.
    pub fn start(data: &Path) -> Self {
        let mut process = Command::new(BINARY)
            .args(["serve", "--dev", "--listen", "127.0.0.1:0", "--data"])
            .arg(data)
            .env_clear()
            .env("HOME", data.parent().expect("it is in a folder"))
            .env("AGENTKEYS_LOG", "error")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the backend starts");
        let mut line = String::new();
        let stdout = process.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("the ready line");
        let address = line.trim().strip_prefix("listening on http://").expect("the ready line");
        let address = address.parse().expect("an address");
        Self { data: data.to_owned(), process, address }
    }

    /// Kills it, with no chance to tidy up.
    pub fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Kills it, starts it again over the same data, and lets `liar` speak for it.
    pub fn restart(&mut self, liar: &Liar) {
        self.kill();
        *self = Self::start(&self.data.clone());
        liar.moves(self.address);
    }

    /// A client of it.
    pub fn client(&self) -> Arc<dyn AccountBackend> {
        Arc::new(HttpBackend::new(Address::from(self.address)))
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Writes a line where a test's output goes, for the figures that it has.
pub fn report(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
