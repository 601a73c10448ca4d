//! The backend's role: hardens the process, opens root key, store and vault, and serves until
//! it is told to stop. stdout carries one line for each address that is ready, and one for the
//! fingerprint of a self-signed certificate; all else goes to the log on stderr.
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};

use super::clock::{Clock, Entropy, SystemClock};
use super::custody::{self, CustodyChoice, CustodyError, Surroundings};
use super::gateway::{Gateway, Own};
use super::http::{
    self, BindError, GivenSocket, Limits, ListenAddress, Listener, MakeBackend, Served,
};
use super::judge::TokenJudge;
use super::oidc::{OpenId, OpenIdSettings};
use super::store::{Options, SledStore, Store, StoreError};
use super::tls::{self, CertificateError, CertificateFiles, ServerCertificate};
use super::upstream::Upstreams;
use super::vault::{Settings, Vault, VaultError};
use crate::core::identity::ServiceName;
use crate::core::problem::Problem;
use crate::core::types::BackendId;
use crate::harden::{self, HardenError, Profile};
use crate::web::{CertificatePin, Fetcher, Host, Url};

/// How often what is over by time is cleared away.
const SWEEP_EVERY: Duration = Duration::from_secs(30);

/// How often the certificate's files are looked at again.
const LOOK_AT_FILES: Duration = Duration::from_secs(60);

/// Where the certificate for TLS comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TlsChoice {
    /// From files, which are looked at again while the server runs.
    Files(CertificateFiles),
    /// Made and signed here, once.
    SelfSigned,
}

/// How the log looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What `agentkeys serve` was told.
pub struct ServeOptions {
    /// Where to listen; at least one, here or of those that were given.
    pub listen: Vec<ListenAddress>,
    /// The service manager's sockets.
    pub given: Vec<GivenSocket>,
    /// Where the certificate comes from, if any address speaks TLS.
    pub tls: Option<TlsChoice>,
    /// The data folder.
    pub data: PathBuf,
    /// Whether test identities are accepted.
    pub dev: bool,
    /// Where the root key lies.
    pub root_key: CustodyChoice,
    /// A descriptor to read the passphrase from.
    pub passphrase_fd: Option<i32>,
    /// By whom people sign in, beside the Unix socket.
    pub openid: Option<OpenIdSettings>,
    /// Other addresses that services may be asked at.
    pub provider_urls: Vec<Url>,
    /// Where services are that the gateway is to ask in another place than the catalog's.
    pub services: BTreeMap<ServiceName, Own>,
    /// How the log looks.
    pub log: LogFormat,
}

/// Why the backend does not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A protection that it does not run without.
    #[error(transparent)]
    Harden(#[from] HardenError),
    /// A protection that is asked for and not in force.
    #[error("the kernel does not give this protection: {0}")]
    Unprotected(String),
    /// The runtime does not start.
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
    /// The root key is not to be had.
    #[error(transparent)]
    Custody(#[from] CustodyError),
    /// The store does not open.
    #[error("cannot open the store: {0}")]
    Store(#[from] StoreError),
    /// The vault does not open.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// There is no certificate to show.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The self-signed certificate could not be kept.
    #[error("cannot keep the self-signed certificate: {}", .0.cause)]
    NotKept(Problem),
    /// Test identities would be open to other machines.
    #[error("--dev lets anybody in as anybody, so it listens on loopback alone, and not on {0}")]
    DevBeyondLoopback(ListenAddress),
    /// An address is not to be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The sockets do not work.
    #[error("cannot serve")]
    Serve(#[source] io::Error),
    /// Nobody reads the ready line.
    #[error("cannot say on stdout that the backend is ready")]
    Ready(#[source] io::Error),
}

/// Runs the backend until SIGTERM or SIGINT. Called from a plain `main`: some protections bind
/// the calling thread alone, so they come before the runtime's threads.
///
/// # Errors
/// [`ServeError`]; the log has said the same.
pub fn serve(options: ServeOptions) -> Result<(), ServeError> {
    start_log(options.log);
    let places = options.listen.iter().chain(options.given.iter().map(GivenSocket::address));
    let beyond = places.into_iter().find(|address| address.is_beyond_loopback());
    let allowed = match beyond {
        Some(address) if options.dev => Err(ServeError::DevBeyondLoopback(address.clone())),
        _ => protect(),
    };
    let result = allowed.and_then(|()| {
        tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(ServeError::Runtime)?
            .block_on(run(options))
    });
    if let Err(error) = &result {
        tell_manager(&[NotifyState::Status(&format!("does not run: {}", chain(error)))]);
        tracing::error!(error = %chain(error), "the backend does not run");
    }
    result
}

/// What `systemctl status` shows, and when what comes after it may start. Without a service
/// manager nobody is told.
fn tell_manager(what: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(what) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}

fn start_log(format: LogFormat) {
    use tracing_subscriber::EnvFilter;
    let filter = std::env::var("AGENTKEYS_LOG").unwrap_or_else(|_| "info".to_owned());
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // A second start in one process keeps the first log.
    let _ = match format {
        LogFormat::Text => log.with_ansi(false).try_init(),
        LogFormat::Json => log.json().try_init(),
    };
}

/// An error with its causes, each once.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

fn protect() -> Result<(), ServeError> {
    harden::no_core_dumps()?;
    harden::not_dumpable()?;
    harden::no_new_privileges()?;
    harden::ignore_file_size_signal()?;
    harden::restrict_umask();
    // Every stream of the gateway's takes two. With fewer it serves fewer.
    if let Err(error) = harden::raise_descriptor_limit() {
        tracing::warn!(%error, "the limit of open descriptors stays as it is");
    }
    Ok(())
}

/// Reads the protections back from the kernel; refuses to run without a required one.
fn check_protections() -> Result<(), ServeError> {
    let report = harden::report();
    for (finding, _) in report.of(Profile::Backend) {
        tracing::info!(
            mechanism = %finding.mechanism,
            state = ?finding.state,
            detail = %finding.detail,
            "protection"
        );
    }
    let missing: Vec<_> =
        report.missing(Profile::Backend).map(|finding| finding.mechanism.to_string()).collect();
    if missing.is_empty() { Ok(()) } else { Err(ServeError::Unprotected(missing.join(", "))) }
}

async fn run(options: ServeOptions) -> Result<(), ServeError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Serve)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Serve)?;
    // Before a passphrase is asked for, if it is of files.
    let of_files = match &options.tls {
        Some(TlsChoice::Files(files)) => Some(ServerCertificate::of_files(files)?),
        _ => None,
    };
    let surroundings = Surroundings::from_environment(options.passphrase_fd);
    let random = ring::rand::SystemRandom::new();
    let opened = custody::open_or_create(
        &options.data,
        options.root_key,
        options.dev,
        &surroundings,
        &random,
    )
    .await?;
    check_protections()?;
    for warning in &opened.warnings {
        tracing::warn!("{warning}");
    }
    if opened.dev {
        tracing::warn!("serve --dev: anybody who reaches this backend can sign in as anybody");
    }
    let data = options.data.clone();
    let store = tokio::task::spawn_blocking(move || SledStore::open(&data, Options::default()))
        .await
        .map_err(|e| ServeError::Serve(io::Error::other(e)))??;
    let store = Arc::new(store);
    let openid = options.openid.clone();
    let judge = options.openid.map(|openid| OpenId::new(openid, Fetcher::new()));
    let settings = Settings {
        backend_id: BackendId(opened.backend_id),
        dev: opened.dev,
        clock: Arc::new(SystemClock::default()),
        entropy: Entropy::system(),
        judge: judge.map(|judge| Arc::new(judge) as Arc<dyn TokenJudge>),
        mint: Arc::new(Upstreams::new(Fetcher::new(), options.provider_urls)),
    };
    let shared: Arc<dyn Store> = store.clone();
    let vault = Vault::open(shared, opened.root.expose(), settings).await?;
    drop(opened.root);
    if let Some(openid) = &openid {
        say_who_may_sign_in(openid, &vault).await;
    }

    let certificate = match options.tls {
        Some(TlsChoice::SelfSigned) => {
            let given = options.given.iter().map(GivenSocket::address);
            let places: Vec<_> = options.listen.iter().chain(given).cloned().collect();
            Some(self_signed(&vault, &places).await?)
        }
        _ => of_files,
    };
    let mut listeners = Vec::with_capacity(options.listen.len() + options.given.len());
    for given in options.given {
        listeners.push(Listener::given(given, certificate.as_ref())?);
    }
    for address in &options.listen {
        listeners.push(Listener::bind_with(address, certificate.as_ref())?);
    }
    let self_signed = matches!(options.tls, Some(TlsChoice::SelfSigned));
    let pin = certificate.as_ref().filter(|_| self_signed).map(|shown| shown.pin());
    announce(&listeners, pin).map_err(ServeError::Ready)?;
    tracing::info!(backend = %vault.backend_id(), custody = opened.custody, "ready");
    tell_manager(&[NotifyState::Ready]);
    let mut follower = None;
    if let Some(certificate) = certificate {
        let clock = SystemClock::default();
        tls::shown(&certificate);
        tls::warn_of_dates(&certificate, clock.now());
        if let Some(TlsChoice::Files(files)) = options.tls {
            let hangup = signal(SignalKind::hangup()).map_err(ServeError::Serve)?;
            let now = move || clock.now();
            let follow = tls::follow(certificate, files, LOOK_AT_FILES, hangup, now);
            follower = Some(tokio::spawn(follow));
        }
    }

    let sweeper = tokio::spawn(sweep_forever(vault.clone()));
    let for_errands = vault.clone();
    let errands = tokio::spawn(async move { for_errands.run_errands().await });
    let for_peers = vault.clone();
    let make_backend: MakeBackend =
        Arc::new(move |peer, proof| Arc::new(for_peers.for_peer(peer).proving(proof)));
    let gateway = Gateway::new(vault.clone(), options.services);
    let served = Served { make_backend, gateway: Some(Arc::new(gateway)) };
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("told to stop");
        tell_manager(&[NotifyState::Stopping]);
    };
    let stopped = http::run(listeners, served, Limits::default(), shutdown)
        .await
        .map_err(ServeError::Serve)?;
    sweeper.abort();
    errands.abort();
    if let Some(follower) = follower {
        follower.abort();
    }
    store.close().await;
    tracing::info!(drained = stopped.drained, "stopped");
    // The sockets' places are free only now, when the store is closed.
    drop(stopped);
    Ok(())
}

fn who_may_sign_in(openid: &OpenIdSettings, owned: bool) -> &'static str {
    match (openid.has_list(), owned) {
        (true, _) => "those may sign in whom --oidc-allow names",
        (false, true) => "those may sign in who have an account here, and nobody else",
        (false, false) => {
            "nobody owns this backend yet: the first to sign in by the issuer will own it"
        }
    }
}

async fn say_who_may_sign_in(openid: &OpenIdSettings, vault: &Vault) {
    let issuer = openid.issuer();
    match vault.is_owned().await {
        Ok(owned) if openid.has_list() || owned => {
            tracing::info!(issuer, "{}", who_may_sign_in(openid, owned));
        }
        Ok(owned) => tracing::warn!(issuer, "{}", who_may_sign_in(openid, owned)),
        Err(problem) => {
            tracing::warn!(issuer, problem = %problem, "who owns this backend is unknown")
        }
    }
}

/// The certificate that this backend made when it was first told to.
async fn self_signed(
    vault: &Vault,
    listen: &[ListenAddress],
) -> Result<Arc<ServerCertificate>, ServeError> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    let addresses = listen.iter().filter_map(|address| match address {
        ListenAddress::Tls(addr) if !addr.ip().is_unspecified() => Some(addr.ip().to_string()),
        _ => None,
    });
    for name in tls::hostname().into_iter().chain(addresses) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let make = || Ok(tls::make(&names, SystemClock::default().now())?);
    let (certificate, key) = vault.self_signed::<ServeError>(make).await?;
    Ok(ServerCertificate::self_signed(&certificate, &key)?)
}

impl From<Problem> for ServeError {
    fn from(problem: Problem) -> Self {
        Self::NotKept(problem)
    }
}

/// One line on stdout for each address, once it can be connected to, and one for what clients
/// are to know a self-signed certificate by.
fn announce(listeners: &[Listener], pin: Option<CertificatePin>) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    for listener in listeners {
        writeln!(stdout, "listening on {}", listener.address())?;
    }
    if let Some(pin) = pin {
        writeln!(stdout, "certificate {pin}")?;
        for listener in listeners {
            let ListenAddress::Tls(addr) = listener.address() else { continue };
            let (host, which) = match addr.ip().is_unspecified() {
                true => ("HOST".to_owned(), ", with this machine's address or name for HOST"),
                false => (Host::Ip(addr.ip()).to_string(), ""),
            };
            let port = addr.port();
            tracing::info!("clients take AGENTKEYS_BACKEND=https://{host}:{port}#{pin}{which}");
        }
    }
    stdout.flush()
}

async fn sweep_forever(vault: Vault) {
    let mut tick = tokio::time::interval(SWEEP_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if let Err(problem) = vault.sweep().await {
            tracing::warn!(problem = %problem, "could not clear away what is over");
        }
    }
}
