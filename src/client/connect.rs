//! How a command reaches its backend: the one that is named, or the private one, with the
//! session that goes with it and what was seen of its audit log.
//!
//! Must never send a session to another backend than the one that gave it.
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::config::{Chooser, Config};
use super::guard::{Asker, MasterGuard};
use super::head_watch::{Found, HeadWatch};
use super::heads::{Heads, SeenHead};
use super::http::{Address, HttpBackend, Options as HttpOptions};
use super::places::Places;
use super::private::Private;
pub use super::private::{StopOutcome, stop_private};
pub use super::sessions::SessionPlace;
use super::sessions::Sessions;
use super::sign_in;
use super::wait::Onlooker;
use crate::core::audit::Head;
use crate::core::backend::{AccountBackend, ClientInfo, CredentialBackend, IdentityProof, Minted};
use crate::core::claim::Claim;
use crate::core::problem::{Answer, Code, Problem};
use crate::core::secret::SecretBytes;
use crate::core::sign_in::{Flow, SignInNews, SignInTicket, Tell};
use crate::core::token::SessionToken;
use crate::core::types::{AccountId, SessionId, Timestamp, WalletAddress};

/// How often a sign-in is sent again while the backend waits for the issuer's keys.
const MAX_WAITS: u32 = 3;

/// What a command line says of the backend.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// The value of `--backend`.
    pub backend: Option<String>,
    /// Whether [`Connection::notes`] are wanted.
    pub verbose: bool,
}

/// A backend, and this user's session there.
pub struct Connection {
    backend: HttpBackend,
    address: String,
    config: Config,
    sessions: Sessions,
    watch: Arc<HeadWatch<HttpBackend>>,
    held: Mutex<Option<SessionToken>>,
    notes: Vec<String>,
}

/// A master session that was just made and stored.
pub struct SignedIn {
    /// The session.
    pub session: SessionToken,
    /// Its public name.
    pub session_id: SessionId,
    /// The account's wallet address.
    pub wallet: WalletAddress,
    /// When it ends unless it is used.
    pub expires_at: Timestamp,
    /// Where it was stored.
    pub place: SessionPlace,
    /// What else the backend told of a sign-in by an issuer.
    pub news: Option<SignInNews>,
}

/// Finds the backend that is configured, or finds or starts the private one. One that is
/// configured is not asked anything yet: the first call says whether it is there.
///
/// # Errors
/// `INVALID` for a setting that is not what it may be; `UNAVAILABLE` when the private backend
/// does not start; `INTERNAL` and `DENIED` for places that are not this user's alone.
pub async fn connect(options: &Options) -> Result<Connection, Problem> {
    let places = Places::from_environment()?;
    let config = Config::load(&places, options.backend.as_deref())?;
    let private = match config.backend {
        None => Some(Private::of_this_user(places.clone())?),
        Some(_) => None,
    };
    let sessions = Sessions::new(&places);
    connect_to(&places, config, private, sessions, options.verbose).await
}

/// The same with everything given: `private` is the private backend, needed when `config` names
/// no other.
///
/// # Errors
/// Those of [`connect`].
pub async fn connect_to(
    places: &Places,
    config: Config,
    private: Option<Private>,
    sessions: Sessions,
    verbose: bool,
) -> Result<Connection, Problem> {
    let mut notes = Vec::new();
    let named_by = Some(config.chosen_by.as_str());
    let http = HttpOptions { named_by, ..HttpOptions::default() };
    let backend = match (&config.backend, private) {
        (Some(address), _) => HttpBackend::with_options(address.clone(), http.clone()),
        (None, Some(private)) => {
            let found = private.find_or_start().await?;
            if verbose {
                let pid = found.reached.pid.map_or("of unknown id".to_owned(), |p| p.to_string());
                let how = if found.started { "started" } else { "found" };
                notes.push(format!("{how} the private backend, process {pid}"));
            }
            let backend = HttpBackend::with_options(Address::Unix(found.socket), http.clone());
            backend.adopt(found.reached.stream).await;
            backend
        }
        (None, None) => {
            let fix = "name one with --backend or AGENTKEYS_BACKEND";
            return Err(Problem::new(Code::Invalid, "there is no backend", "none is named", fix));
        }
    };
    let address = backend.address().to_string();
    if verbose {
        notes.push(format!("backend {address}, by {}", config.chosen_by.as_str()));
        notes.extend(config.project_file.iter().map(|file| format!("read {}", file.display())));
        notes.extend(config.user_file.iter().map(|file| format!("read {}", file.display())));
    }
    let aside = HttpBackend::with_options(backend.address().clone(), http);
    let watch = HeadWatch::new(Heads::new(places), address.clone(), aside);
    Ok(Connection {
        backend,
        address,
        config,
        sessions,
        watch: Arc::new(watch),
        held: Mutex::new(None),
        notes,
    })
}

impl Connection {
    /// The same, where the person is asked by `asker` for what the backend demands.
    pub fn asking(self, asker: Arc<dyn Asker>) -> Self {
        let guard = MasterGuard::new(asker, self.address.clone()).watching(self.watch.clone());
        Self { backend: self.backend.guarded(Arc::new(guard)), ..self }
    }

    /// The same, telling `onlooker` of every answer that is waited for.
    pub fn watched(self, onlooker: Option<Arc<dyn Onlooker>>) -> Self {
        Self { backend: self.backend.watched(onlooker), ..self }
    }

    /// The backend.
    pub fn backend(&self) -> &dyn AccountBackend {
        &self.backend
    }

    /// The backend, for what only HTTP has: its health and its version.
    pub fn http(&self) -> &HttpBackend {
        &self.backend
    }

    /// Where it listens: `https://...`, `unix:/...` or `http://127.0.0.1:1234`.
    pub fn address(&self) -> String {
        self.address.clone()
    }

    /// What decided that: `--backend`, `AGENTKEYS_BACKEND`, `the config file`, `the default`.
    pub fn chosen_by(&self) -> &'static str {
        self.config.chosen_by.as_str()
    }

    /// Whether it is this user's private backend.
    pub fn is_private(&self) -> bool {
        self.config.chosen_by == Chooser::Default
    }

    /// The settings of this command: the agent, services and variables that files name.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What connecting did, for `--verbose`; never a secret.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The master session of this backend. A private backend's is made when there is none; that
    /// it has ended is found out by using it, so calls go through [`Connection::with_session`].
    ///
    /// # Errors
    /// `UNAUTHORIZED` when there is none, `INTERNAL` when it cannot be read.
    pub async fn session(&self) -> Answer<SessionToken> {
        if let Some(session) = self.held() {
            return Ok(session);
        }
        match self.sessions.get(&self.address).await {
            Ok(Some(session)) => Ok(self.hold(session)),
            Ok(None) if self.is_private() => self.make_anew(None).await,
            Ok(None) => Err(self.not_signed_in()),
            // A locked keyring need not keep anybody from their own backend: the session then
            // lasts as long as this command. A file that is not ours alone is another matter.
            Err(_) if self.is_private() && self.sessions.place() == SessionPlace::Keyring => {
                Ok(self.hold(self.make().await?.session))
            }
            Err(problem) => Err(problem),
        }
    }

    /// Calls the backend with the session. Where a private backend's session has ended, one is
    /// made anew and the call is made a second time; what was denied is never tried again.
    ///
    /// # Errors
    /// Those of `call` and of [`Connection::session`].
    pub async fn with_session<T>(
        &self,
        call: impl AsyncFn(&dyn AccountBackend, &SessionToken) -> Answer<T>,
    ) -> Answer<T> {
        let session = self.session().await?;
        match call(&self.backend, &session).await {
            Err(problem) if problem.code == Code::Unauthorized && self.is_private() => {
                // The same code says "not the owner": then the session is as good as before.
                match self.backend.who_am_i(&session).await {
                    Err(ended) if ended.code == Code::Unauthorized => {}
                    _ => return Err(problem),
                }
                let session = self.make_anew(Some(&session)).await?;
                call(&self.backend, &session).await
            }
            answer => answer,
        }
    }

    /// Proves an identity, and stores the master session that it gives.
    ///
    /// # Errors
    /// Those of the backend, and `INTERNAL` when the session cannot be stored.
    pub async fn sign_in(&self, proof: IdentityProof) -> Answer<SignedIn> {
        // Before asking, so that no session is made that has no place to go.
        let change = self.sessions.change().await?;
        let made = self.backend.create_session(proof, client_info()).await?;
        let place = self.sessions.put(&change, &self.address, &made.session, now()).await?;
        let Minted { session, session_id, wallet, expires_at, news, renewal: _ } = made;
        Ok(SignedIn { session: self.hold(session), session_id, wallet, expires_at, place, news })
    }

    /// Signs in by the issuer that the backend names, with the person's help, and stores the
    /// session that it gives.
    ///
    /// # Errors
    /// Those of the backend, of [`sign_in::id_token`], and of [`Connection::sign_in`].
    pub async fn sign_in_by_issuer(&self, flow: Flow, tell: Tell<'_>) -> Answer<SignedIn> {
        let start = self.backend.begin_sign_in(flow).await?;
        let token = sign_in::id_token(&start, flow, tell).await?;
        let mut left = MAX_WAITS;
        loop {
            // A copy: a token that was not judged is sent again.
            let proof = IdentityProof::IdToken {
                token: SecretBytes::new(token.expose().to_vec()),
                ticket: SignInTicket::parse(start.ticket.expose())?,
            };
            match self.sign_in(proof).await {
                // The backend waits for the issuer, and has not judged the token yet.
                Err(problem) if problem.code == Code::Unavailable && left > 0 => {
                    let Some(seconds) = problem.retry_after else { return Err(problem) };
                    left -= 1;
                    tokio::time::sleep(Duration::from_secs(seconds.clamp(1, 15))).await;
                }
                answer => return answer,
            }
        }
    }

    /// Forgets the stored session; at the backend it lives on until it ends or is revoked.
    ///
    /// # Errors
    /// `INTERNAL` when what holds it cannot be changed.
    pub async fn forget_session(&self) -> Answer<()> {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let change = self.sessions.change().await?;
        self.sessions.forget(&change, &self.address).await
    }

    /// Where this backend's session is, or would be, kept.
    pub fn session_place(&self) -> SessionPlace {
        self.sessions.place()
    }

    /// Compares the newest head that an answer carried with what was seen of that account, and
    /// remembers it; does nothing if there was none. Says what there is to say, where the master
    /// has accepted that the log was set back.
    ///
    /// # Errors
    /// `DENIED`, saying what was seen and when, for a log that is older or forked; `INTERNAL` for
    /// one that is signed by another key, and when it cannot be stored.
    pub async fn remember_head(&self) -> Answer<Option<String>> {
        let Some(head) = self.backend().last_head() else { return Ok(None) };
        Ok(match self.watch.look(&head).await? {
            Found::GoesOn | Found::Overtaken(_) => None,
            Found::Accepted(seen) => Some(format!(
                "the master has accepted that the audit log was set back: event {}, which this \
                 client saw on {}, is given up",
                seen.head.seq,
                seen.seen_at.for_people()
            )),
        })
    }

    /// The highest head of an account of this backend that was seen.
    pub fn seen_head(&self, account: AccountId) -> Option<SeenHead> {
        let heads = self.watch.heads();
        match self.backend().last_head() {
            Some(last) => heads.seen(last.backend_id, account).ok().flatten(),
            None => heads.seen_at(&self.address, account),
        }
    }

    /// Forgets that the log contradicted what was seen: all of it was verified up to `head`.
    ///
    /// # Errors
    /// `INTERNAL` when it cannot be stored.
    pub async fn verified(&self, seen: &Head, head: &Head) -> Answer<()> {
        self.watch.heads().verified(seen, head, now()).await
    }

    /// Makes a private backend's session by this process's uid and stores it, unless another
    /// command has stored a newer one than `ended` meanwhile.
    async fn make_anew(&self, ended: Option<&SessionToken>) -> Answer<SessionToken> {
        let change = self.sessions.change().await?;
        match self.sessions.get(&self.address).await {
            Ok(Some(stored)) if ended.is_none_or(|ended| ended.hash() != stored.hash()) => {
                return Ok(self.hold(stored));
            }
            _ => {}
        }
        let made = self.make().await?;
        match self.sessions.put(&change, &self.address, &made.session, now()).await {
            // As in `session`: for this command alone.
            Err(problem) if self.sessions.place() != SessionPlace::Keyring => Err(problem),
            _ => Ok(self.hold(made.session)),
        }
    }

    async fn make(&self) -> Answer<Minted> {
        self.backend.create_session(IdentityProof::Peer, client_info()).await
    }

    /// Keeps a session for the rest of this command, and gives it back.
    fn hold(&self, session: SessionToken) -> SessionToken {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        *held = Some(copy(&session));
        self.watch.hold(copy(&session));
        session
    }

    fn held(&self) -> Option<SessionToken> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(copy)
    }

    fn not_signed_in(&self) -> Problem {
        let fix = match self.config.chosen_by {
            Chooser::Flag => format!("agentkeys init --backend {}", self.address),
            _ => "agentkeys init".to_owned(),
        };
        // Beside a daemon nobody is to sign in: its agent has a session of its own.
        let fix = [super::beside::hint(), Some(fix)].into_iter().flatten().collect::<Vec<_>>();
        let fix = fix.join("\n");
        Problem::new(
            Code::Unauthorized,
            format!("not signed in at {}", self.address),
            format!("no session of that backend is stored (it was set by {})", self.chosen_by()),
            fix,
        )
    }
}

/// Tokens have no `Clone`; here one stays behind for the next call of the same command.
fn copy(session: &SessionToken) -> SessionToken {
    SessionToken::parse(session.expose()).expect("a token reads back as itself")
}

/// What this machine says of itself when it signs in.
pub fn client_info() -> ClientInfo {
    let claim = |text: String| text.trim().parse::<Claim>().ok().filter(|c| !c.as_str().is_empty());
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").ok().and_then(claim);
    let user = ["USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok());
    ClientInfo { host, user: user.and_then(claim) }
}

/// This machine's clock.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
