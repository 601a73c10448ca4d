//! Root-key custody: every kind round trips, and no failure makes a new key,
//! leaks one into the data folder, or waits for ever.
use super::keyring::Desktop;
use agentkeys::backend::custody::{
    CustodyChoice, CustodyError, Opened, PassphraseSource, Surroundings, open_or_create,
};
use agentkeys::keyring::KeyringError;
use base64::Engine;
use ring::rand::SystemRandom;
use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A machine of our own: a home, and no bus, credential or passphrase in it.
struct Machine {
    home: tempfile::TempDir,
    around: Surroundings,
}

impl Machine {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let around = Surroundings {
            bus_address: None,
            runtime_folder: None,
            credentials_folder: None,
            state_folder: Some(home.path().join("state")),
            passphrase: PassphraseSource::File(home.path().join("passphrase")),
        };
        Self { home, around }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn data(&self) -> PathBuf {
        self.at("data")
    }

    fn write(&self, name: &str, content: &str, mode: u32) -> PathBuf {
        let path = self.at(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn passphrase(&self, text: &str) {
        self.write("passphrase", text, 0o600);
    }

    async fn start(&self, choice: &str) -> Result<Opened, CustodyError> {
        self.start_as(choice, false).await
    }

    async fn start_as(&self, choice: &str, dev: bool) -> Result<Opened, CustodyError> {
        let begun = Instant::now();
        let choice: CustodyChoice = choice.parse().unwrap();
        let random = SystemRandom::new();
        let opened = open_or_create(&self.data(), choice, dev, &self.around, &random).await;
        assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
        opened
    }

    /// Makes a store, and opens it again twice: as recorded, and as chosen.
    async fn round_trip(&self, choice: &str) -> Opened {
        let made = self.start(choice).await.unwrap();
        assert!(made.created && !made.dev);
        for again in ["auto", choice] {
            let opened = self.start(again).await.unwrap();
            assert!(!opened.created);
            assert!(opened.root.expose() == made.root.expose());
            assert_eq!(opened.backend_id, made.backend_id);
            assert_eq!(opened.custody, made.custody);
            assert_eq!(opened.warnings, made.warnings);
        }
        made
    }

    /// The error, which changed nothing in the data folder.
    async fn refused(&self, choice: &str) -> CustodyError {
        let before = contents(&self.data());
        let error = self.start(choice).await.err().expect("this must not open");
        assert_eq!(contents(&self.data()), before);
        error
    }

    /// The only key file in the state folder.
    fn automatic_key(&self) -> PathBuf {
        let mut keys = contents(&self.at("state")).into_iter();
        let (key, _) = keys.next().expect("there is a key file");
        assert!(keys.next().is_none(), "there is one key file");
        key
    }
}

/// Every file below `folder`, sorted, with its bytes.
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            found.push((path.clone(), fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}

/// Whether a file below `folder` holds the key: raw, in hexadecimal or base64.
fn holds_key(folder: &Path, key: &[u8; 32]) -> bool {
    let hex: String = key.iter().map(|b| format!("{b:02x}")).collect();
    let base64 = base64::engine::general_purpose::STANDARD_NO_PAD.encode(key);
    let url = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(key);
    let forms: [&[u8]; 5] = [
        key,
        hex.as_bytes(),
        hex.to_uppercase().leak().as_bytes(),
        base64.as_bytes(),
        url.as_bytes(),
    ];
    contents(folder)
        .iter()
        .any(|(_, bytes)| forms.iter().any(|form| bytes.windows(form.len()).any(|w| w == *form)))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn flip_first_digit(text: &str) -> String {
    format!("{}{}", if text.starts_with('0') { '1' } else { '0' }, &text[1..])
}

#[tokio::test]
async fn a_machine_with_nothing_gets_a_private_key_file_away_from_the_data_and_a_warning() {
    let machine = Machine::new();
    let made = machine.round_trip("auto").await;
    let key = machine.automatic_key();
    assert_eq!(made.custody, "file");
    assert!(made.warnings.iter().any(|w| w.contains("in the clear")), "{:?}", made.warnings);
    assert!(made.warnings.iter().any(|w| w.contains(key.to_str().unwrap())));
    assert!(key.starts_with(machine.at("state/agentkeys/root-keys")));
    assert_eq!(mode(&key), 0o600);
    assert_eq!(mode(key.parent().unwrap()), 0o700);
    assert_eq!(mode(&machine.data()), 0o700);
    assert_eq!(mode(&machine.data().join("root.json")), 0o600);
    // The search finds what is there, and nothing beside the data.
    assert!(holds_key(&machine.at("state"), made.root.expose()));
    assert!(!holds_key(&machine.data(), made.root.expose()));
}

#[tokio::test]
async fn two_stores_have_two_keys_and_two_ids() {
    let (a, b) = (Machine::new(), Machine::new());
    let (a, b) = (a.start("auto").await.unwrap(), b.start("auto").await.unwrap());
    assert!(a.root.expose() != b.root.expose());
    assert_ne!(a.backend_id, b.backend_id);
}

#[tokio::test]
async fn a_key_file_of_the_operators_choice_is_made_or_taken_as_it_is() {
    let machine = Machine::new();
    let path = machine.at("k");
    let choice = format!("file:{}", path.display());
    let made = machine.round_trip(&choice).await;
    assert_eq!(made.warnings, Vec::<String>::new());
    assert_eq!(mode(&path), 0o600);
    assert!(!holds_key(&machine.data(), made.root.expose()));

    let other = Machine::new();
    other.write("theirs", &format!("{}\n", "5A".repeat(32)), 0o400);
    let choice = format!("file:{}", other.at("theirs").display());
    assert!(other.round_trip(&choice).await.root.expose() == &[0x5a; 32]);
}

#[tokio::test]
async fn a_key_file_beside_the_data_is_warned_about_at_every_start() {
    let machine = Machine::new();
    let choice = format!("file:{}", machine.data().join("k").display());
    let made = machine.round_trip(&choice).await;
    assert!(made.warnings[0].contains("beside the data"), "{:?}", made.warnings);
}

#[tokio::test]
async fn a_passphrase_opens_what_it_closed_and_another_does_not() {
    let machine = Machine::new();
    machine.passphrase("correct horse\n");
    let made = machine.round_trip("passphrase").await;
    assert_eq!(made.warnings, Vec::<String>::new());
    assert!(!holds_key(machine.home.path(), made.root.expose()));
    machine.passphrase("correct horse");
    machine.start("auto").await.unwrap();
    machine.passphrase("correct horse ");
    let error = machine.refused("auto").await;
    assert!(matches!(error, CustodyError::WrongPassphrase(_)), "{error}");
    assert!(!error.to_string().contains("correct horse"));
}

#[tokio::test]
async fn a_passphrase_that_is_missing_short_or_open_to_others_makes_no_store() {
    let machine = Machine::new();
    assert!(matches!(machine.refused("passphrase").await, CustodyError::NoPassphrase { .. }));
    let long = "x".repeat(1025);
    for bad in ["", "\n", "seven77", &long] {
        machine.passphrase(bad);
        let error = machine.refused("passphrase").await;
        assert!(matches!(error, CustodyError::BadPassphrase(_)), "{error}");
    }
    machine.write("passphrase", "correct horse", 0o622);
    assert!(matches!(machine.refused("passphrase").await, CustodyError::Unsafe { .. }));
    machine.write("passphrase", "correct horse", 0o444);
    let made = machine.start("passphrase").await.unwrap();
    assert!(made.warnings[0].contains("other users can read"), "{:?}", made.warnings);
}

#[tokio::test]
async fn a_passphrase_comes_through_an_inherited_descriptor() {
    use std::os::fd::AsRawFd;
    let mut machine = Machine::new();
    let file = fs::File::open(machine.write("secret", "correct horse\n", 0o600)).unwrap();
    machine.around.passphrase = PassphraseSource::Descriptor(file.as_raw_fd());
    let made = machine.start("passphrase").await.unwrap();
    machine.around.passphrase = PassphraseSource::File(machine.at("secret"));
    assert!(machine.start("auto").await.unwrap().root.expose() == made.root.expose());
    machine.around.passphrase = PassphraseSource::Descriptor(1_000_000);
    assert!(matches!(machine.refused("auto").await, CustodyError::NoPassphrase { .. }));
}

#[tokio::test]
async fn a_passphrase_that_never_ends_is_given_up() {
    use std::os::fd::AsRawFd;
    let mut machine = Machine::new();
    let (reader, _writer) = std::io::pipe().unwrap();
    machine.around.passphrase = PassphraseSource::Descriptor(reader.as_raw_fd());
    // `start` bounds the time.
    let error = machine.refused("passphrase").await;
    assert!(matches!(error, CustodyError::NoPassphrase { .. }), "{error}");
}

/// This binary again for one test, playing a part in `machine`'s home.
fn part(test: &str, machine: &Machine) -> std::process::Command {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args([&format!("custody::{test}"), "--exact", "--nocapture", "--test-threads=1"]);
    command.env("AGENTKEYS_TEST_HOME", machine.home.path());
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    command
}

/// Plays the part: makes a store under a passphrase that a person types.
fn play_part(home: OsString) {
    let data = PathBuf::from(home).join("data");
    let around = Surroundings {
        bus_address: None,
        runtime_folder: None,
        credentials_folder: None,
        state_folder: None,
        passphrase: PassphraseSource::Terminal,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let random = SystemRandom::new();
    let choice = CustodyChoice::Passphrase;
    let made = open_or_create(&data, choice, false, &around, &random);
    match runtime.block_on(made) {
        Ok(opened) => println!("said: created {}", opened.created),
        Err(e) => println!("said: {e}"),
    }
}

#[test]
fn a_person_types_a_new_passphrase_twice_at_the_terminal_and_it_is_not_shown() {
    const NAME: &str = "a_person_types_a_new_passphrase_twice_at_the_terminal_and_it_is_not_shown";
    if let Some(home) = std::env::var_os("AGENTKEYS_TEST_HOME") {
        return play_part(home);
    }
    for (second, expected) in [("correct horse", "said: created true"), ("other", "the same twice")]
    {
        let machine = Machine::new();
        let inner = part(NAME, &machine);
        let words = std::iter::once(inner.get_program()).chain(inner.get_args());
        let line: Vec<_> = words.map(|w| format!("'{}'", w.to_str().unwrap())).collect();
        let mut script = std::process::Command::new("script");
        script.args(["-qec", &line.join(" "), "/dev/null"]);
        script.env("AGENTKEYS_TEST_HOME", machine.home.path());
        script.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut script = script.spawn().unwrap();
        let mut input = script.stdin.take().unwrap();
        let mut output = script.stdout.take().unwrap();
        let mut shown = String::new();
        for (prompt, answer) in [("New passphrase", "correct horse"), ("The same again", second)] {
            let mut byte = [0];
            while !shown.contains(prompt) {
                assert_ne!(output.read(&mut byte).unwrap(), 0, "no {prompt:?} in {shown:?}");
                shown.push(char::from(byte[0]));
            }
            // The terminal stops echoing just after the prompt, as for a person.
            std::thread::sleep(Duration::from_millis(300));
            input.write_all(format!("{answer}\n").as_bytes()).unwrap();
        }
        output.read_to_string(&mut shown).unwrap();
        script.wait().unwrap();
        assert!(shown.contains(expected), "{shown}");
        assert!(!shown.contains("correct horse") && !shown.contains("other\n"), "{shown}");
        let record = machine.data().join("root.json");
        assert_eq!(record.exists(), second == "correct horse");
    }
}

#[test]
fn without_a_terminal_the_error_names_the_other_sources_at_once() {
    const NAME: &str = "without_a_terminal_the_error_names_the_other_sources_at_once";
    if let Some(home) = std::env::var_os("AGENTKEYS_TEST_HOME") {
        return play_part(home);
    }
    let machine = Machine::new();
    let begun = Instant::now();
    let child = agentkeys::harden::spawn_detached(part(NAME, &machine)).unwrap();
    let output = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    assert!(output.contains("--passphrase-fd N"), "{output}");
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(!machine.data().join("root.json").exists());
}

#[tokio::test]
async fn a_service_managers_credential_is_found_by_itself_and_never_written() {
    let mut machine = Machine::new();
    machine.write("credentials/agentkeys-root-key", &"5a".repeat(32), 0o440);
    machine.around.credentials_folder = Some(machine.at("credentials"));
    let made = machine.round_trip("auto").await;
    assert_eq!(made.custody, "credential");
    assert!(made.root.expose() == &[0x5a; 32]);
    assert_eq!(made.warnings, Vec::<String>::new());
    assert!(!holds_key(&machine.data(), &[0x5a; 32]));
    assert!(machine.start("credential:agentkeys-root-key").await.is_ok());

    machine.around.credentials_folder = None;
    assert!(matches!(machine.refused("auto").await, CustodyError::NoCredentials(_)));
    machine.around.credentials_folder = Some(machine.at("empty"));
    assert!(matches!(machine.refused("auto").await, CustodyError::Missing(_)));
}

#[tokio::test]
async fn a_credential_of_another_name_has_to_be_named_and_be_there() {
    let mut machine = Machine::new();
    machine.write("credentials/k", &"5a".repeat(32), 0o400);
    machine.around.credentials_folder = Some(machine.at("credentials"));
    assert!(matches!(machine.refused("credential:other").await, CustodyError::Missing(_)));
    assert_eq!(machine.round_trip("credential:k").await.custody, "credential");
}

#[tokio::test]
async fn a_keyring_keeps_the_key_over_a_log_out_and_only_there() {
    let Some(mut desktop) = Desktop::unlocked() else { return };
    let mut machine = Machine::new();
    machine.around.bus_address = Some(OsString::from(desktop.address()));
    let made = machine.round_trip("auto").await;
    assert_eq!(made.custody, "keyring");
    assert_eq!(made.warnings, Vec::<String>::new());
    assert!(!holds_key(machine.home.path(), made.root.expose()));

    desktop.lock();
    let error = machine.refused("auto").await;
    let locked = matches!(&error, CustodyError::Keyring { source: KeyringError::Locked, .. });
    assert!(locked, "{error}");
    desktop.log_in_again();
    assert!(machine.start("keyring").await.unwrap().root.expose() == made.root.expose());

    machine.around.bus_address = None;
    assert!(matches!(machine.refused("auto").await, CustodyError::NoKeyring));
}

#[tokio::test]
async fn a_locked_or_silent_keyring_is_passed_over_for_a_new_store_and_named() {
    let Some(mut desktop) = Desktop::unlocked() else { return };
    desktop.lock();
    let mut machine = Machine::new();
    machine.around.bus_address = Some(OsString::from(desktop.address()));
    let made = machine.start("auto").await.unwrap();
    assert_eq!(made.custody, "file");
    assert!(made.warnings.iter().any(|w| w.contains("keyring is locked")), "{:?}", made.warnings);

    desktop.freeze();
    let mut machine = Machine::new();
    machine.around.bus_address = Some(OsString::from(desktop.address()));
    let made = machine.start("auto").await.unwrap();
    assert!(made.warnings.iter().any(|w| w.contains("did not answer")), "{:?}", made.warnings);
    let error = machine.refused("keyring").await;
    assert!(matches!(error, CustodyError::Contradiction { .. }), "{error}");
}

#[tokio::test]
async fn an_asked_for_keyring_that_is_not_there_makes_no_store() {
    let machine = Machine::new();
    assert!(matches!(machine.refused("keyring").await, CustodyError::NoKeyring));
    assert!(!machine.data().join("root.json").exists());
}

#[tokio::test]
async fn a_missing_key_is_never_made_again() {
    let machine = Machine::new();
    machine.start("auto").await.unwrap();
    let key = machine.automatic_key();
    fs::remove_file(&key).unwrap();
    let error = machine.refused("auto").await;
    assert!(matches!(error, CustodyError::Missing(_)));
    assert!(error.to_string().contains(key.to_str().unwrap()), "{error}");
    assert!(!key.exists());
}

#[tokio::test]
async fn a_store_without_its_record_gets_no_new_key() {
    for name in ["db", "conf", "snap.0A", "store/db", "agentkeys.redb"] {
        let machine = Machine::new();
        machine.start("auto").await.unwrap();
        machine.write(&format!("data/{name}"), "rows", 0o600);
        fs::remove_file(machine.data().join("root.json")).unwrap();
        let error = machine.refused("auto").await;
        assert!(matches!(error, CustodyError::StoreWithoutRecord(_)), "{name}: {error}");
    }
}

#[tokio::test]
async fn another_key_in_its_place_is_refused() {
    let machine = Machine::new();
    machine.start("auto").await.unwrap();
    let key = machine.automatic_key();
    let text = fs::read_to_string(&key).unwrap();
    fs::write(&key, flip_first_digit(&text)).unwrap();
    let error = machine.refused("auto").await;
    assert!(matches!(error, CustodyError::Wrong(_)), "{error}");
    assert!(!error.to_string().contains(text.trim()));
    for bad in ["", "00", &text[1..], &format!("{}x", text.trim())] {
        fs::write(&key, bad).unwrap();
        assert!(matches!(machine.refused("auto").await, CustodyError::NotAKey(_)), "{bad:?}");
    }
    fs::write(&key, text.repeat(2)).unwrap();
    assert!(matches!(machine.refused("auto").await, CustodyError::Unsafe { .. }));
}

#[tokio::test]
async fn a_key_file_that_others_may_touch_or_that_is_no_file_is_refused() {
    let machine = Machine::new();
    machine.start("auto").await.unwrap();
    let key = machine.automatic_key();
    for open in [0o604, 0o602, 0o640, 0o620] {
        fs::set_permissions(&key, fs::Permissions::from_mode(open)).unwrap();
        let error = machine.refused("auto").await;
        assert!(matches!(error, CustodyError::Unsafe { .. }), "{open:o}: {error}");
    }
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    machine.start("auto").await.unwrap();

    let elsewhere = machine.at("elsewhere");
    fs::rename(&key, &elsewhere).unwrap();
    symlink(&elsewhere, &key).unwrap();
    let error = machine.refused("auto").await.to_string();
    assert!(error.contains("symbolic link"), "{error}");
    fs::remove_file(&key).unwrap();
    fs::create_dir(&key).unwrap();
    assert!(matches!(machine.refused("auto").await, CustodyError::Unsafe { .. }));
    fs::remove_dir(&key).unwrap();
    let made = std::process::Command::new("mkfifo").args(["-m", "600"]).arg(&key).status();
    assert!(made.unwrap().success());
    assert!(matches!(machine.refused("auto").await, CustodyError::Unsafe { .. }));
}

#[tokio::test]
async fn another_users_key_file_is_refused() {
    let machine = Machine::new();
    machine.start("auto").await.unwrap();
    let key = machine.automatic_key();
    if std::os::unix::fs::chown(&key, Some(65534), None).is_err() {
        assert!(std::env::var_os("CI").is_none(), "only root can give a file away");
        eprintln!("SKIPPED, NOT CHECKED: only root can give a file away");
        return;
    }
    let error = machine.refused("auto").await.to_string();
    assert!(error.contains("another user"), "{error}");
}

#[tokio::test]
async fn a_data_folder_that_others_can_change_is_refused() {
    let machine = Machine::new();
    machine.start("auto").await.unwrap();
    for open in [0o720, 0o702] {
        fs::set_permissions(machine.data(), fs::Permissions::from_mode(open)).unwrap();
        assert!(matches!(machine.refused("auto").await, CustodyError::Unsafe { .. }));
    }
}

#[tokio::test]
async fn what_a_folder_was_made_with_cannot_be_contradicted() {
    let machine = Machine::new();
    machine.passphrase("correct horse");
    machine.start("passphrase").await.unwrap();
    for other in ["keyring", "file:/k", "credential:k"] {
        let error = machine.refused(other).await;
        assert!(matches!(error, CustodyError::Contradiction { .. }), "{error}");
        assert!(error.to_string().contains(other) && error.to_string().contains("passphrase"));
    }
}

#[tokio::test]
async fn dev_and_other_folders_are_not_mixed_up_and_root_json_cannot_be_changed_to_mix_them() {
    for dev in [false, true] {
        for choice in ["auto", "passphrase"] {
            let machine = Machine::new();
            machine.passphrase("correct horse");
            assert_eq!(machine.start_as(choice, dev).await.unwrap().dev, dev);
            let error = machine.start_as(choice, !dev).await.err().unwrap();
            assert!(matches!(error, CustodyError::Dev { .. }), "{error}");

            let record = machine.data().join("root.json");
            let text = fs::read_to_string(&record).unwrap();
            let (from, to) = (format!("\"dev\": {dev}"), format!("\"dev\": {}", !dev));
            assert!(text.contains(&from));
            fs::write(&record, text.replace(&from, &to)).unwrap();
            let error = machine.start_as(choice, !dev).await.err().unwrap();
            let refused =
                matches!(error, CustodyError::Wrong(_) | CustodyError::WrongPassphrase(_));
            assert!(refused, "{error}");
        }
    }
}

#[tokio::test]
async fn a_damaged_record_is_refused_and_kept() {
    let machine = Machine::new();
    machine.start("auto").await.unwrap();
    let record = machine.data().join("root.json");
    let text = fs::read_to_string(&record).unwrap();
    for bad in
        ["", "{}", &text[..text.len() / 2], &text.replace("\"version\": 1", "\"version\": 2")]
    {
        fs::write(&record, bad).unwrap();
        assert!(matches!(machine.refused("auto").await, CustodyError::Record { .. }), "{bad}");
    }
    fs::write(&record, " ".repeat(20_000)).unwrap();
    assert!(matches!(machine.refused("auto").await, CustodyError::Unsafe { .. }));
}

#[tokio::test]
async fn a_crash_between_key_and_record_can_be_tried_again() {
    // What such a crash leaves: a key, here of the operator's file, no record,
    // and at worst a temporary file.
    let machine = Machine::new();
    let choice = format!("file:{}", machine.at("k").display());
    let before = machine.start(&choice).await.unwrap();
    let record = machine.data().join("root.json");
    fs::rename(&record, machine.data().join("root.json.00.new")).unwrap();
    let after = machine.round_trip(&choice).await;
    assert!(after.root.expose() == before.root.expose());
    assert_ne!(after.backend_id, before.backend_id);

    // An automatic key belongs to the backend id that was lost with the record.
    let machine = Machine::new();
    machine.start("auto").await.unwrap();
    fs::remove_file(machine.data().join("root.json")).unwrap();
    machine.round_trip("auto").await;
}

#[tokio::test]
async fn a_record_that_cannot_be_written_makes_no_store() {
    let machine = Machine::new();
    fs::create_dir(machine.data()).unwrap();
    // A folder where the record would be: it can be neither read nor replaced.
    fs::create_dir(machine.data().join("root.json")).unwrap();
    assert!(matches!(machine.refused("auto").await, CustodyError::Unsafe { .. }));
    assert!(machine.data().join("root.json").is_dir());
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_start_at_once_end_with_one_store() {
    for _ in 0..20 {
        let machine = std::sync::Arc::new(Machine::new());
        let starts: Vec<_> = (0..8)
            .map(|_| {
                let machine = machine.clone();
                tokio::spawn(async move { machine.start("auto").await })
            })
            .collect();
        let mut all = Vec::new();
        for start in starts {
            all.push(start.await.unwrap().unwrap());
        }
        assert_eq!(all.iter().filter(|o| o.created).count(), 1);
        assert!(all.iter().all(|o| o.root.expose() == all[0].root.expose()));
        // The losers have taken their keys back.
        machine.automatic_key();
        assert_eq!(contents(&machine.data()).len(), 1);
    }
}

#[tokio::test]
async fn without_any_place_for_a_key_file_the_error_names_the_choices() {
    let mut machine = Machine::new();
    machine.around.state_folder = None;
    assert!(matches!(machine.refused("auto").await, CustodyError::NoPlace));
}
