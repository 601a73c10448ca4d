//! Sessions and heads around a backend's calls, over a real socket.
use std::path::{Path, PathBuf};

use agentkeys::client::config::Config;
use agentkeys::client::connect::{Connection, SessionPlace, connect_to};
use agentkeys::client::doctor::{BackendState, KeyringState, facts_of};
use agentkeys::client::places::Places;
use agentkeys::client::private::Private;
use agentkeys::client::sessions::Sessions;
use agentkeys::core::backend::IdentityProof;
use agentkeys::core::problem::{Answer, Code};
use agentkeys::core::secret::SecretBytes;
use agentkeys::harden;
use agentkeys::keyring::BusAddress;

use crate::client_stand_in::StandIn;
use crate::keyring::Desktop;

/// A home of its own, with a stand-in as its private backend.
pub struct Home {
    folder: tempfile::TempDir,
    pub stand_in: StandIn,
    bus: Option<BusAddress>,
}

impl Home {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let home = Self { folder, stand_in: StandIn::default(), bus: None };
        let state = home.places().state().to_path_buf();
        let socket = home.folder("sockets").join("backend.sock");
        home.stand_in.listen(&socket);
        agentkeys::client::files::make_folder(&state).unwrap();
        let record = format!("{{\"socket\":{socket:?},\"pid\":{}}}", std::process::id());
        agentkeys::client::files::replace(
            &home.places().record_file(),
            record.as_bytes(),
            agentkeys::client::files::Keep::Cheaply,
        )
        .unwrap();
        home
    }

    fn folder(&self, name: &str) -> PathBuf {
        let folder = self.folder.path().join(name);
        agentkeys::client::files::make_strict_folder(&folder).unwrap();
        folder
    }

    fn places(&self) -> Places {
        let home = self.folder.path();
        let variable = |name: &str| (name == "HOME").then(|| home.into());
        Places::find(variable, harden::effective_uid()).unwrap()
    }

    /// The private backend's.
    pub async fn private(&self) -> Connection {
        self.connect(None).await
    }

    /// The one that `AGENTKEYS_BACKEND` names, or the private one's.
    async fn connect(&self, backend: Option<&str>) -> Connection {
        let config = Config::find(&self.places(), None, backend, None).unwrap();
        let program = PathBuf::from("/nowhere/agentkeys");
        let private = Private::with_program(self.places(), program);
        let sessions = Sessions::with_bus(&self.places(), self.bus.clone());
        connect_to(&self.places(), config, Some(private), sessions, true).await.unwrap()
    }

    fn sessions_file(&self) -> String {
        std::fs::read_to_string(self.places().sessions_file()).unwrap_or_default()
    }
}

pub async fn list(connection: &Connection) -> Answer<usize> {
    connection
        .with_session(async |backend, session| backend.list_agents(session).await)
        .await
        .map(|agents| agents.len())
}

#[tokio::test]
async fn a_private_session_is_made_once_and_used_by_later_commands() {
    let home = Home::new();
    for _ in 0..3 {
        let connection = home.private().await;
        assert_eq!(connection.chosen_by(), "the default");
        list(&connection).await.unwrap();
        list(&connection).await.unwrap();
        let file = home.places().sessions_file();
        assert_eq!(connection.session_place(), SessionPlace::File(file));
    }
    let state = home.stand_in.state();
    assert_eq!((state.made, state.count("/agents"), state.count("/session")), (1, 6, 0));
}

#[tokio::test]
async fn a_private_session_that_ended_is_made_anew_without_a_word() {
    let home = Home::new();
    let connection = home.private().await;
    list(&connection).await.unwrap();
    home.stand_in.state().live.clear();
    list(&connection).await.unwrap();
    list(&home.private().await).await.unwrap();
    let state = home.stand_in.state();
    assert_eq!((state.made, state.count("/session/create")), (2, 2));
}

#[tokio::test]
async fn what_is_denied_or_not_ours_is_asked_for_once() {
    let home = Home::new();
    let connection = home.private().await;
    list(&connection).await.unwrap();
    for code in [Code::Denied, Code::Unauthorized, Code::NotFound] {
        home.stand_in.state().refusal = Some(code);
        let before = home.stand_in.state().count("/agents");
        assert_eq!(list(&connection).await.unwrap_err().code, code);
        assert_eq!(home.stand_in.state().count("/agents"), before + 1, "{code:?}");
    }
    assert_eq!(home.stand_in.state().made, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_first_commands_at_once_make_one_session() {
    let home = std::sync::Arc::new(Home::new());
    let many = (0..16).map(|_| {
        let home = home.clone();
        tokio::spawn(async move {
            let connection = home.private().await;
            connection.session().await.unwrap().expose().to_owned()
        })
    });
    let mut sessions = std::collections::HashSet::new();
    for one in many.collect::<Vec<_>>() {
        sessions.insert(one.await.unwrap());
    }
    assert_eq!((sessions.len(), home.stand_in.state().made), (1, 1));
}

#[tokio::test]
async fn another_backend_wants_a_sign_in_and_never_sees_the_session_of_the_first() {
    let home = Home::new();
    let private = home.private().await;
    let secret = private.session().await.unwrap().expose().to_owned();
    let other = StandIn::default();
    let socket = home.folder("other").join("s");
    other.listen(&socket);
    let address = format!("unix:{}", socket.display());
    let connection = home.connect(Some(&address)).await;
    assert_eq!(connection.address(), address);
    assert_eq!(connection.chosen_by(), "AGENTKEYS_BACKEND");
    let missing = list(&connection).await.unwrap_err();
    assert_eq!((missing.code, &*missing.fix), (Code::Unauthorized, "agentkeys init"));
    assert!(missing.cause.contains("AGENTKEYS_BACKEND"), "{}", missing.cause);
    assert_eq!(other.state().seen, []);

    let proof = IdentityProof::Token(SecretBytes::new(b"someone".to_vec()));
    let signed_in = connection.sign_in(proof).await.unwrap();
    assert_eq!(signed_in.place, SessionPlace::File(home.places().sessions_file()));
    let given = signed_in.session.expose().to_owned();
    list(&home.connect(Some(&address)).await).await.unwrap();
    let bearers: Vec<String> =
        other.state().seen.iter().map(|(_, bearer)| bearer.clone()).collect();
    assert_eq!(bearers, ["".to_owned(), given.clone()]);

    // Both made their first session from the same bytes, so make them differ before looking.
    home.stand_in.state().live.clear();
    list(&private).await.unwrap();
    let renewed = private.session().await.unwrap().expose().to_owned();
    assert_ne!(renewed, secret);
    let stored = home.sessions_file();
    assert!(stored.contains(&renewed) && stored.contains(&given));
    assert!(!other.state().seen.iter().any(|(_, bearer)| *bearer == renewed));
    connection.forget_session().await.unwrap();
    let stored = home.sessions_file();
    assert!(stored.contains(&renewed) && !stored.contains(&given));
    assert_eq!(list(&connection).await.unwrap_err().code, Code::Unauthorized);
}

#[tokio::test]
async fn another_backends_session_that_ended_is_reported_and_not_replaced() {
    let home = Home::new();
    let socket = home.folder("other").join("s");
    let other = StandIn::default();
    other.listen(&socket);
    let connection = home.connect(Some(&format!("unix:{}", socket.display()))).await;
    connection.sign_in(IdentityProof::Peer).await.map(drop).unwrap();
    other.state().live.clear();
    assert_eq!(list(&connection).await.unwrap_err().code, Code::Unauthorized);
    assert_eq!(other.state().made, 1);
}

#[tokio::test]
async fn a_sessions_file_that_is_not_ours_alone_stops_the_command() {
    let home = Home::new();
    list(&home.private().await).await.unwrap();
    let file = home.places().sessions_file();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(&file, mode).unwrap();
    let refused = list(&home.private().await).await.unwrap_err();
    assert!(refused.cause.contains("0644"), "{}", refused.cause);
    std::fs::rename(&file, home.folder.path().join("aside")).unwrap();
    std::os::unix::fs::symlink(home.folder.path().join("aside"), &file).unwrap();
    let refused = list(&home.private().await).await.unwrap_err();
    assert!(refused.cause.contains("link"), "{}", refused.cause);
    assert_eq!(home.stand_in.state().made, 1);
}

#[tokio::test]
async fn a_backend_that_is_not_there_is_named_with_what_named_it() {
    let home = Home::new();
    let address = format!("unix:{}", home.folder.path().join("nobody").display());
    let connection = home.connect(Some(&address)).await;
    let missing = connection.sign_in(IdentityProof::Peer).await.map(drop).unwrap_err();
    assert_eq!(missing.code, Code::Unavailable);
    assert!(missing.detail.contains(&address), "{}", missing.detail);
    assert!(missing.cause.contains("set by AGENTKEYS_BACKEND"), "{}", missing.cause);
    assert!(connection.notes()[0].contains(&address));
    assert!(!Path::new(&home.places().sessions_file()).exists());
}

/// A home on a desktop with a real keyring; `None`, loudly, where there is no such program.
fn on_a_desktop() -> Option<(Home, Desktop)> {
    let desktop = Desktop::unlocked()?;
    let mut home = Home::new();
    home.bus = Some(BusAddress::parse(desktop.address()).unwrap());
    Some((home, desktop))
}

#[tokio::test]
async fn where_there_is_a_keyring_the_session_is_there_and_in_no_file() {
    let Some((mut home, _desktop)) = on_a_desktop() else { return };
    // From before there was a keyring.
    let bus = home.bus.take();
    let before = home.private().await.session().await.unwrap().expose().to_owned();
    assert!(home.sessions_file().contains(&before));
    home.bus = bus;
    let connection = home.private().await;
    list(&connection).await.unwrap();
    assert_eq!(home.stand_in.state().made, 1);
    home.stand_in.state().live.clear();
    list(&connection).await.unwrap();
    assert_eq!(connection.session_place(), SessionPlace::Keyring);
    list(&home.private().await).await.unwrap();
    assert_eq!(home.stand_in.state().made, 2);
    assert!(!home.sessions_file().contains("agkm_"), "{}", home.sessions_file());
    connection.forget_session().await.unwrap();
    list(&home.private().await).await.unwrap();
    assert_eq!(home.stand_in.state().made, 3);
    assert!(!home.sessions_file().contains("agkm_"));
}

#[tokio::test]
async fn with_a_locked_keyring_a_private_backend_works_and_another_says_so() {
    let Some((home, mut desktop)) = on_a_desktop() else { return };
    desktop.lock();
    let connection = home.private().await;
    list(&connection).await.unwrap();
    list(&connection).await.unwrap();
    assert_eq!(home.stand_in.state().made, 1);
    let socket = home.folder("other").join("s");
    StandIn::default().listen(&socket);
    let other = home.connect(Some(&format!("unix:{}", socket.display()))).await;
    let locked = other.sign_in(IdentityProof::Peer).await.map(drop).unwrap_err();
    assert!(locked.cause.contains("locked"), "{}", locked.cause);
    assert!(!home.sessions_file().contains("agkm_"));
    let config = Config::find(&home.places(), None, None, None);
    let facts = facts_of(home.places(), config, home.bus.clone()).await;
    assert_eq!(facts.keyring, KeyringState::Locked);
    assert!(facts.session.stored.is_err());
}

#[tokio::test]
async fn doctor_finds_out_what_is_there_and_makes_nothing() {
    let home = Home::new();
    let facts = async || {
        let config = Config::find(&home.places(), None, None, None);
        facts_of(home.places(), config, None).await
    };
    let found = facts().await;
    assert!(
        matches!(&found.backend.state, BackendState::Answers { version, .. } if version == "9")
    );
    assert_eq!(found.backend.pid, Some(std::process::id()));
    assert_eq!((found.backend.chosen_by, found.backend.private), ("the default", true));
    assert_eq!(found.keyring, KeyringState::Absent);
    assert!(matches!(found.session.stored, Ok(false)) && found.session.who.is_none());
    assert_eq!(home.stand_in.state().made, 0);
    list(&home.private().await).await.unwrap();
    let who = facts().await.session.who.unwrap().unwrap();
    assert_eq!(who.identity, "unix:0");
    std::fs::remove_file(home.places().record_file()).unwrap();
    let found = facts().await;
    assert!(matches!(found.backend.state, BackendState::NotStarted));
    assert_eq!(found.backend.address, None);
    assert!(!home.places().record_file().exists());
}
