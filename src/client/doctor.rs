//! What `agentkeys doctor` finds out, as values; the command puts them into words.
//!
//! Looks and changes nothing: it must never start a backend, make a session or a folder, or read
//! a secret out.
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::config::{Chooser, Config};
use super::connect::Options;
use super::files;
use super::head_watch;
use super::heads::{Heads, SeenHead};
use super::holder::recorded;
pub use super::http::Clocks;
use super::http::{Address, HttpBackend, Options as HttpOptions};
use super::places::Places;
use super::private::Private;
use super::sessions::{SessionPlace, Sessions};
use super::sign_in::issuer::Issuer;
use crate::core::audit::Head;
use crate::core::backend::{AccountBackend, WhoAmI};
use crate::core::holder::{Refusal, SessionHolder, Standing};
use crate::core::identity::Alias;
use crate::core::problem::{Answer, Problem};
use crate::core::sign_in::Flow;
use crate::core::token::SessionToken;
use crate::core::types::Timestamp;
use crate::keyring::{BusAddress, Keyring, KeyringError};
use crate::web::Fetcher;

/// Largest `root.json`, in bytes.
const MAX_ROOT: usize = 16 * 1024;
/// How much of the log's end is looked at, in bytes, and how many lines of it are kept.
const LOG_TAIL: u64 = 64 * 1024;
const MOST_WARNINGS: usize = 10;

/// Everything that was found out.
pub struct Facts {
    /// Where files are.
    pub places: Places,
    /// The settings.
    pub config: Answer<Config>,
    /// The backend.
    pub backend: BackendFacts,
    /// The issuer that the backend names; absent where it names none.
    pub issuer: Option<IssuerFacts>,
    /// The desktop's keyring.
    pub keyring: KeyringState,
    /// This user's session.
    pub session: SessionFacts,
    /// How the private backend keeps its root key; absent where there is no private store.
    pub root_key: Option<RootKey>,
    /// The daemons that left a record on this machine, and have not ended since.
    pub daemons: Answer<Vec<DaemonFacts>>,
    /// The last warnings and errors in the private backend's log, oldest first.
    pub log_warnings: Vec<String>,
}

/// The backend that a command would use.
pub struct BackendFacts {
    /// Its address; absent for a private one that does not run, or a setting that is wrong.
    pub address: Option<String>,
    /// What decided which one.
    pub chosen_by: &'static str,
    /// Whether it is this user's private one.
    pub private: bool,
    /// The private backend's process.
    pub pid: Option<u32>,
    /// Whether it answers.
    pub state: BackendState,
    /// The certificate that it was believed by, if it speaks TLS.
    pub certificate: Option<CertificateFacts>,
    /// What the two clocks said at its answer.
    pub clocks: Option<Clocks>,
}

/// A backend's certificate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CertificateFacts {
    /// The names and addresses that it is for.
    pub whom: String,
    /// Who signed it.
    pub signer: String,
    /// Until when it is valid.
    pub until: Timestamp,
    /// Its fingerprint.
    pub fingerprint: String,
    /// Whether the address pins it.
    pub pinned: bool,
}

/// Whether a backend answers.
pub enum BackendState {
    /// It does.
    Answers {
        /// Its version.
        version: String,
        /// Its wire's version.
        wire: u64,
        /// How long connecting and the answer took.
        took: Duration,
    },
    /// The private backend does not run; the next command that needs it starts it.
    NotStarted,
    /// It does not, and why.
    Fails(crate::core::problem::Problem),
}

/// The issuer by which one signs in at the backend.
pub struct IssuerFacts {
    /// Its name, as the backend gives it.
    pub name: String,
    /// What its discovery document says to this machine: whether it has the flow in a browser, and
    /// the one on any device.
    pub flows: Answer<(bool, bool)>,
}

/// The desktop's keyring, as a session or a root key would find it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KeyringState {
    /// There is none.
    Absent,
    /// It can be used.
    Usable,
    /// It is locked.
    Locked,
    /// It cannot be used, and why.
    Unusable(String),
}

/// This user's master session at the backend.
pub struct SessionFacts {
    /// Where it is, or would be, kept.
    pub place: SessionPlace,
    /// Whether one is stored.
    pub stored: Answer<bool>,
    /// Who it is, as the backend says; absent if none is stored or the backend does not answer.
    pub who: Option<Answer<WhoAmI>>,
    /// The account's audit log; absent if nobody is signed in.
    pub log: Option<Answer<LogFacts>>,
}

/// How an account's audit log ends, and what this user's clients have seen of it.
pub struct LogFacts {
    /// Its end, as the backend says now.
    pub end: Head,
    /// What was seen; absent if this is the first look.
    pub seen: Option<SeenHead>,
    /// Whether the log has in it what was seen.
    pub has: bool,
}

/// A daemon that runs on this machine.
pub struct DaemonFacts {
    /// What this machine calls its agent.
    pub name: Option<Alias>,
    /// Its socket.
    pub socket: PathBuf,
    /// What it says of itself.
    pub standing: Answer<Standing>,
}

/// How the private backend keeps its root key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RootKey {
    /// `keyring`, `passphrase`, `file` or `credential`.
    pub kind: String,
    /// The key file, for `file`.
    pub path: Option<PathBuf>,
    /// Whether that was chosen for want of anything better.
    pub automatic: bool,
}

impl RootKey {
    /// Whether the key lies on the disk as it is, so that whoever reads the disk has it.
    pub fn is_in_the_clear(&self) -> bool {
        self.kind == "file"
    }
}

/// Finds everything out. Takes a few seconds at most.
///
/// # Errors
/// `INVALID` when there is no home to look in; all else is a fact.
pub async fn facts(options: &Options) -> Answer<Facts> {
    let places = Places::from_environment()?;
    let config = Config::load(&places, options.backend.as_deref());
    // One of a kind that is not used is reported by the keyring's own words.
    let (bus, refused) = match BusAddress::from_environment() {
        Ok(bus) => (bus, None),
        Err(error) => (None, Some(KeyringState::Unusable(error.to_string()))),
    };
    let mut facts = facts_of(places, config, bus).await;
    facts.keyring = refused.unwrap_or(facts.keyring);
    Ok(facts)
}

/// The same for given places and settings, with the keyring on `bus`.
pub async fn facts_of(places: Places, config: Answer<Config>, bus: Option<BusAddress>) -> Facts {
    let (backend, http) = backend_facts(&places, config.as_ref().ok()).await;
    let issuer = match &http {
        Some(http) if !backend.private => issuer_facts(http).await,
        _ => None,
    };
    let keyring = keyring_state(bus.as_ref()).await;
    let session = session_facts(&places, Sessions::with_bus(&places, bus), http.as_ref()).await;
    let root_key = root_key(places.data());
    let log_warnings = log_warnings(&places.log_file());
    let daemons = daemons(&places).await;
    Facts { places, config, backend, issuer, keyring, session, root_key, daemons, log_warnings }
}

async fn backend_facts(
    places: &Places,
    config: Option<&Config>,
) -> (BackendFacts, Option<HttpBackend>) {
    let chosen_by = config.map_or(Chooser::Default, |config| config.chosen_by);
    let private = chosen_by == Chooser::Default;
    let mut facts = BackendFacts {
        address: None,
        chosen_by: chosen_by.as_str(),
        private,
        pid: None,
        state: BackendState::NotStarted,
        certificate: None,
        clocks: None,
    };
    let Some(config) = config else { return (facts, None) };
    let address = match &config.backend {
        Some(address) => address.clone(),
        None => match find_private(places).await {
            Ok(Some((address, pid))) => {
                facts.pid = pid;
                address
            }
            Ok(None) => return (facts, None),
            Err(problem) => {
                facts.state = BackendState::Fails(problem);
                return (facts, None);
            }
        },
    };
    facts.address = Some(address.to_string());
    let patience = HttpOptions {
        request: Duration::from_secs(5),
        named_by: Some(facts.chosen_by),
        ..HttpOptions::default()
    };
    let http = HttpBackend::with_options(address, patience);
    let begun = Instant::now();
    match http.version().await {
        Ok(found) => {
            let (version, wire, took) = (found.version, found.wire, begun.elapsed());
            facts.state = BackendState::Answers { version, wire, took };
            facts.certificate = certificate_facts(&http);
            facts.clocks = http.clocks();
            (facts, Some(http))
        }
        Err(problem) => {
            facts.state = BackendState::Fails(problem);
            (facts, None)
        }
    }
}

/// Nothing is made of a sign-in that is only begun. A backend without an issuer says so.
async fn issuer_facts(http: &HttpBackend) -> Option<IssuerFacts> {
    let start = http.begin_sign_in(Flow::Code).await.ok()?;
    let found = Issuer::discover(Fetcher::new(), &start.issuer).await;
    let flows =
        found.map(|issuer| (issuer.authorization.is_some(), issuer.device_authorization.is_some()));
    Some(IssuerFacts { name: start.issuer, flows })
}

fn certificate_facts(http: &HttpBackend) -> Option<CertificateFacts> {
    let pinned = matches!(http.address(), Address::Tls { pin: Some(_), .. });
    http.certificate().map(|found| CertificateFacts {
        whom: found.whom(),
        signer: found.signer().to_owned(),
        until: found.not_after,
        fingerprint: found.pin.to_string(),
        pinned,
    })
}

async fn find_private(places: &Places) -> Answer<Option<(Address, Option<u32>)>> {
    let found = Private::of_this_user(places.clone())?.find().await?;
    Ok(found.map(|found| (Address::Unix(found.socket), found.reached.pid)))
}

async fn session_facts(
    places: &Places,
    sessions: Sessions,
    http: Option<&HttpBackend>,
) -> SessionFacts {
    let Some(http) = http else {
        return SessionFacts { place: sessions.place(), stored: Ok(false), who: None, log: None };
    };
    let mut log = None;
    let (stored, who) = match sessions.get(&http.address().to_string()).await {
        Ok(Some(session)) => {
            let who = http.who_am_i(&session).await;
            if let (Ok(_), Some(end)) = (&who, http.last_head()) {
                log = Some(log_facts(places, http, &session, end).await);
            }
            (Ok(true), Some(who))
        }
        Ok(None) => (Ok(false), None),
        Err(problem) => (Err(problem), None),
    };
    SessionFacts { place: sessions.place(), stored, who, log }
}

async fn log_facts(
    places: &Places,
    http: &HttpBackend,
    session: &SessionToken,
    end: Head,
) -> Answer<LogFacts> {
    let Some(seen) = Heads::new(places).seen(end.backend_id, end.account)? else {
        return Ok(LogFacts { end, seen: None, has: true });
    };
    let (end, has) = head_watch::end_of_log(http, session, &seen).await?;
    Ok(LogFacts { end, seen: Some(seen), has })
}

async fn daemons(places: &Places) -> Answer<Vec<DaemonFacts>> {
    let mut found = Vec::new();
    for one in recorded(places)? {
        let standing = match one.client.is_there().await {
            Ok(false) => continue,
            Ok(true) => one.client.standing().await.map_err(|refusal| match refusal {
                Refusal::Problem(problem) => problem,
                // Nobody has to be asked for it.
                Refusal::Waiting(_) => Problem::internal(),
            }),
            Err(problem) => Err(problem),
        };
        let socket = one.client.socket().to_owned();
        found.push(DaemonFacts { name: one.name, socket, standing });
    }
    Ok(found)
}

async fn keyring_state(bus: Option<&BusAddress>) -> KeyringState {
    let Some(bus) = bus else { return KeyringState::Absent };
    let usable = match Keyring::connect_to(bus).await {
        Ok(None) => return KeyringState::Absent,
        Ok(Some(keyring)) => keyring.check().await,
        Err(error) => Err(error),
    };
    match usable {
        Ok(()) => KeyringState::Usable,
        Err(KeyringError::Locked) => KeyringState::Locked,
        Err(error) => KeyringState::Unusable(error.to_string()),
    }
}

/// How the private backend that keeps its data there keeps its root key, by the store's
/// `root.json`, which holds no secret.
pub fn root_key(data: &Path) -> Option<RootKey> {
    let bytes = files::read(&data.join("root.json"), MAX_ROOT).ok()??;
    let record: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
    let custody = record.get("custody")?;
    let text = |name: &str| custody.get(name).and_then(|value| value.as_str());
    Some(RootKey {
        kind: text("kind")?.to_owned(),
        path: text("path").map(PathBuf::from),
        automatic: custody.get("automatic").and_then(|value| value.as_bool()).unwrap_or(false),
    })
}

/// The last lines of the log that a person should see, plain or JSON.
fn log_warnings(path: &Path) -> Vec<String> {
    let Some(text) = tail(path) else { return Vec::new() };
    // The level stands near the front in both forms.
    let is_warning = |line: &&str| {
        let words = line.split(|c: char| !c.is_ascii_alphabetic()).filter(|word| !word.is_empty());
        words.take(8).any(|word| ["WARN", "ERROR"].contains(&word))
    };
    let shown = |line: &str| line.chars().filter(|c| !c.is_control()).take(400).collect();
    let mut warnings: Vec<String> = text.lines().filter(is_warning).map(shown).collect();
    warnings.split_off(warnings.len().saturating_sub(MOST_WARNINGS))
}

fn tail(path: &Path) -> Option<String> {
    let mut file = crate::harden::open_without_following(path).ok()?;
    let length = files::check_file(path, &file).ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL))).ok()?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::files::Keep;
    use super::*;

    #[test]
    fn a_root_key_on_the_disk_is_told_from_one_that_is_not() {
        let data = tempfile::tempdir().unwrap();
        let path = data.path().join("root.json");
        assert_eq!(root_key(data.path()), None);
        for (custody, in_the_clear) in [
            (r#"{"kind":"keyring"}"#, false),
            (r#"{"kind":"file","path":"/k","automatic":true}"#, true),
        ] {
            let record = format!(r#"{{"version":1,"custody":{custody}}}"#);
            files::replace(&path, record.as_bytes(), Keep::Cheaply).unwrap();
            let found = root_key(data.path()).unwrap();
            assert_eq!(found.is_in_the_clear(), in_the_clear);
            assert_eq!(found.automatic, in_the_clear);
        }
        files::replace(&path, b"not json", Keep::Cheaply).unwrap();
        assert_eq!(root_key(data.path()), None);
    }

    #[test]
    fn the_last_warnings_are_found_in_plain_and_in_json_logs() {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join("backend.log");
        let mut log = String::from("2026-11-21T00:00:00Z  INFO agentkeys: a WARNING is no level\n");
        log.push_str("{\"timestamp\":\"2026-11-21T00:00:00Z\",\"level\":\"WARN\",\"n\":1}\n");
        log.push_str("2026-11-21T00:00:00.1Z ERROR agentkeys: two\n");
        files::replace(&path, log.as_bytes(), Keep::Cheaply).unwrap();
        let found = log_warnings(&path);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("\"n\":1") && found[1].ends_with("two"));
        files::replace(&path, log.repeat(4000).as_bytes(), Keep::Cheaply).unwrap();
        assert_eq!(log_warnings(&path).len(), MOST_WARNINGS);
    }
}
