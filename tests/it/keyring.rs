//! The keyring wrapper against a real GNOME Keyring on a private D-Bus, and
//! against everything that may stand in a keyring's place.
use agentkeys::core::secret::SecretBytes;
use agentkeys::keyring::{BusAddress, Item, Keyring, KeyringError, TIME_LIMIT};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PASSWORD: &str = "the keyring's password";

/// A process that ends with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A session bus of our own, with no program on it that we did not start, and
/// optionally a GNOME Keyring whose files are in a folder of our own.
pub struct Desktop {
    keyring: Option<Running>,
    _bus: Running,
    address: String,
    home: tempfile::TempDir,
}

impl Desktop {
    /// A bus without a keyring; `None`, loudly, if the programs are missing.
    pub fn new() -> Option<Self> {
        for program in ["dbus-daemon", "gnome-keyring-daemon", "dbus-send"] {
            if Command::new(program).arg("--version").output().is_err() {
                assert!(std::env::var_os("CI").is_none(), "{program} is not installed");
                eprintln!("SKIPPED, NOT CHECKED: {program} is not installed");
                return None;
            }
        }
        let home = tempfile::tempdir().unwrap();
        let config = home.path().join("bus.conf");
        let listen = home.path().join("bus");
        let text = format!(
            r#"<busconfig><type>session</type><listen>unix:path={}</listen>
            <policy context="default"><allow send_destination="*" eavesdrop="true"/>
            <allow eavesdrop="true"/><allow own="*"/></policy></busconfig>"#,
            listen.display()
        );
        fs::write(&config, text).unwrap();
        let mut bus = Command::new("dbus-daemon")
            .arg(format!("--config-file={}", config.display()))
            .args(["--nofork", "--nopidfile", "--print-address=1"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut address = String::new();
        BufReader::new(bus.stdout.take().unwrap()).read_line(&mut address).unwrap();
        let address = address.trim().to_owned();
        assert!(address.starts_with("unix:"), "the bus is ready: {address:?}");
        Some(Self { keyring: None, _bus: Running(bus), address, home })
    }

    /// The same with a keyring that has a default collection, unlocked.
    pub fn unlocked() -> Option<Self> {
        let mut desktop = Self::new()?;
        desktop.start_keyring(Some(PASSWORD));
        Some(desktop)
    }

    /// Ends the keyring, if one runs, and starts one over the same files.
    fn start_keyring(&mut self, password: Option<&str>) {
        self.keyring = None;
        let mut command = self.command("gnome-keyring-daemon");
        command.args(["--foreground", "--components=secrets"]);
        command.args(password.map(|_| "--unlock"));
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(password.unwrap_or_default().as_bytes()).unwrap();
        drop(input);
        self.keyring = Some(Running(child));
        // The daemon tells nobody when it is ready; the bus knows.
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.send_bus("NameHasOwner", &["string:org.freedesktop.secrets"]).contains("true") {
            assert!(Instant::now() < deadline, "the keyring did not come up");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The keyring again, as after a log-out and before the next log-in.
    pub fn lock(&mut self) {
        self.start_keyring(None);
    }

    /// The keyring again, as after the next log-in.
    pub fn log_in_again(&mut self) {
        self.start_keyring(Some(PASSWORD));
    }

    /// Stops the keyring where it is: it holds its name and answers nothing.
    pub fn freeze(&self) {
        let pid = self.keyring.as_ref().unwrap().0.id().to_string();
        assert!(Command::new("kill").args(["-STOP", &pid]).status().unwrap().success());
    }

    /// For `DBUS_SESSION_BUS_ADDRESS`.
    pub fn address(&self) -> &str {
        &self.address
    }

    fn bus(&self) -> BusAddress {
        BusAddress::parse(&self.address).unwrap()
    }

    async fn keyring(&self) -> Keyring {
        Keyring::connect_to(&self.bus()).await.unwrap().expect("there is a keyring")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let home = self.home.path();
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        command.env("HOME", home).env("XDG_RUNTIME_DIR", home).env("XDG_DATA_HOME", home);
        command.env("DBUS_SESSION_BUS_ADDRESS", &self.address);
        command
    }

    fn send(&self, args: &[&str]) -> String {
        let mut command = self.command("dbus-send");
        let output = command.args(["--session", "--print-reply"]).args(args).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    fn send_bus(&self, method: &str, args: &[&str]) -> String {
        let method = format!("org.freedesktop.DBus.{method}");
        let mut all = vec!["--dest=org.freedesktop.DBus", "/org/freedesktop/DBus", &method];
        all.extend(args);
        self.send(&all)
    }
}

fn secret(text: &str) -> SecretBytes {
    SecretBytes::new(text.as_bytes().to_vec())
}

fn text(found: Option<SecretBytes>) -> Option<String> {
    found.map(|s| String::from_utf8(s.expose().to_vec()).unwrap())
}

/// The error, and that it came in bounded time.
async fn error_of<T>(
    operation: impl Future<Output = Result<T, KeyringError>>,
) -> Option<KeyringError> {
    let begun = Instant::now();
    let error = operation.await.err();
    assert!(begun.elapsed() < TIME_LIMIT + Duration::from_secs(1), "{:?}", begun.elapsed());
    error
}

#[tokio::test]
async fn a_secret_can_be_stored_read_replaced_and_deleted() {
    let Some(desktop) = Desktop::unlocked() else { return };
    let keyring = desktop.keyring().await;
    let (key, session) = (Item::root_key("0a"), Item::session("0a"));
    assert!(keyring.get(&key).await.unwrap().is_none());
    keyring.put(&key, &secret("first")).await.unwrap();
    keyring.put(&key, &secret("second")).await.unwrap();
    keyring.put(&session, &secret("other")).await.unwrap();
    assert_eq!(text(keyring.get(&key).await.unwrap()).as_deref(), Some("second"));
    assert_eq!(text(keyring.get(&session).await.unwrap()).as_deref(), Some("other"));
    assert!(keyring.get(&Item::root_key("0b")).await.unwrap().is_none());
    assert!(keyring.delete(&key).await.unwrap());
    assert!(!keyring.delete(&key).await.unwrap());
    assert!(keyring.get(&key).await.unwrap().is_none());
    assert_eq!(text(keyring.get(&session).await.unwrap()).as_deref(), Some("other"));
}

#[tokio::test]
async fn a_secret_outlives_the_log_out_and_is_locked_until_the_next_log_in() {
    let Some(mut desktop) = Desktop::unlocked() else { return };
    let item = Item::root_key("0a");
    desktop.keyring().await.put(&item, &secret("kept")).await.unwrap();

    desktop.lock();
    let keyring = desktop.keyring().await;
    let locked = |e: Option<KeyringError>| {
        let e = e.expect("a locked keyring is an error");
        assert!(matches!(e, KeyringError::Locked), "{e:?}");
        assert!(e.to_string().contains("unlock it"), "{e}");
    };
    locked(error_of(keyring.check()).await);
    locked(error_of(keyring.get(&item)).await);
    locked(error_of(keyring.put(&item, &secret("changed"))).await);
    locked(error_of(keyring.delete(&item)).await);

    desktop.log_in_again();
    let kept = desktop.keyring().await.get(&item).await.unwrap();
    assert_eq!(text(kept).as_deref(), Some("kept"));
}

#[tokio::test]
async fn a_keyring_without_a_default_collection_is_not_used() {
    let Some(mut desktop) = Desktop::new() else { return };
    desktop.start_keyring(None);
    let keyring = desktop.keyring().await;
    let error = error_of(keyring.put(&Item::root_key("0a"), &secret("lost"))).await;
    assert!(matches!(error, Some(KeyringError::NoDefaultCollection)), "{error:?}");
}

#[tokio::test]
async fn a_default_collection_that_lies_in_memory_is_not_used() {
    let Some(desktop) = Desktop::unlocked() else { return };
    let path = "/org/freedesktop/secrets";
    desktop.send(&[
        "--dest=org.freedesktop.secrets",
        path,
        "org.freedesktop.Secret.Service.SetAlias",
        "string:default",
        &format!("objpath:{path}/collection/session"),
    ]);
    let keyring = desktop.keyring().await;
    let error = error_of(keyring.put(&Item::root_key("0a"), &secret("lost"))).await;
    assert!(matches!(error, Some(KeyringError::NotPersistent)), "{error:?}");
}

#[tokio::test]
async fn without_a_bus_or_a_service_on_it_there_is_no_keyring_at_once() {
    let begun = Instant::now();
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("no-bus");
    let bus = BusAddress::parse(&format!("unix:path={}", nowhere.display())).unwrap();
    assert!(Keyring::connect_to(&bus).await.unwrap().is_none());

    let left_behind = folder.path().join("bus");
    drop(UnixListener::bind(&left_behind).unwrap());
    let bus = BusAddress::find(None, Some(folder.path())).unwrap().unwrap();
    assert!(Keyring::connect_to(&bus).await.unwrap().is_none());
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());

    let Some(desktop) = Desktop::new() else { return };
    let begun = Instant::now();
    assert!(Keyring::connect_to(&desktop.bus()).await.unwrap().is_none());
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_bus_that_accepts_and_says_nothing_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let _silent = UnixListener::bind(folder.path().join("bus")).unwrap();
    let bus = BusAddress::find(None, Some(folder.path())).unwrap().unwrap();
    let error = error_of(Keyring::connect_to(&bus)).await;
    assert!(matches!(error, Some(KeyringError::TimedOut(_))), "{error:?}");
}

#[tokio::test]
async fn a_keyring_that_stops_answering_is_given_up() {
    let Some(desktop) = Desktop::unlocked() else { return };
    let keyring = desktop.keyring().await;
    desktop.freeze();
    let item = Item::root_key("0a");
    let error = error_of(keyring.get(&item)).await;
    assert!(matches!(error, Some(KeyringError::TimedOut(_))), "{error:?}");
    let error = error_of(Keyring::connect_to(&desktop.bus())).await;
    assert!(matches!(error, Some(KeyringError::TimedOut(_))), "{error:?}");
}
