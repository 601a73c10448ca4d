//! `install.sh`, from a folder of a release that is signed by a key of the test's own.
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::home::{Home, Ran, without_symbols};

fn packaging(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(name)
}

fn openssl(words: &[&str]) {
    let ran = Command::new("openssl").args(words).output().expect("openssl is installed");
    assert!(ran.status.success(), "{words:?}: {}", String::from_utf8_lossy(&ran.stderr));
}

/// A release of this build, made once for all tests; `key.pem` and `public.pem` beside it.
fn release() -> &'static Path {
    static RELEASE: OnceLock<PathBuf> = OnceLock::new();
    RELEASE.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("release");
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        let at = |name: &str| folder.join(name).to_str().unwrap().to_owned();
        let (key, public) = (at("key.pem"), at("public.pem"));
        openssl(&["ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", &key]);
        openssl(&["ec", "-in", &key, "-pubout", "-out", &public]);
        let mut dist = Command::new(packaging("dist.sh"));
        dist.arg(folder.join("dist")).arg("--binary").arg(without_symbols()).args(["--key", &key]);
        Ran::of(dist.output().unwrap()).exits(0);
        folder
    })
}

/// A copy of the release, to be changed.
fn copy_to(home: &Home) -> PathBuf {
    let dist = home.path().join("dist");
    let copied = Command::new("cp").arg("-R").arg(release().join("dist")).arg(&dist).status();
    assert!(copied.unwrap().success());
    dist
}

fn install(home: &Home, dist: &Path, words: &[&str]) -> Ran {
    let mut sh = Command::new("sh");
    sh.arg(packaging("install.sh")).args(words).env_clear().current_dir(home.path());
    sh.env("HOME", home.path())
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("SHELL", "/bin/bash");
    sh.env("AGENTKEYS_DIST", dist).env("AGENTKEYS_RELEASE_KEY", release().join("public.pem"));
    Ran::of(sh.output().unwrap())
}

/// Every file of a home with what is in it, but for what programs keep there.
fn files(home: &Home) -> Vec<(PathBuf, Vec<u8>)> {
    fn walk(folder: &Path, found: &mut Vec<(PathBuf, Vec<u8>)>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.is_symlink() {
                walk(&path, found);
            } else {
                found.push((path.clone(), std::fs::read(&path).unwrap_or_default()));
            }
        }
    }
    let mut found = Vec::new();
    walk(home.path(), &mut found);
    found.sort();
    found
}

#[test]
fn installs_binary() {
    let home = Home::new();
    home.file(".bashrc", "# mine\n");
    let said = install(&home, &release().join("dist"), &[]).exits(0);
    assert!(said.stdout.contains("Begin with: agentkeys quickstart"), "{}", said.stdout);
    let bin = home.path().join(".agentkeys/bin");
    let mut version = Command::new(bin.join("agentkeys"));
    assert!(Ran::of(version.arg("--version").output().unwrap()).exits(0).stdout.contains("wire"));
    let mut daemon = Command::new(bin.join("agentkeysd"));
    let help = Ran::of(daemon.arg("--help").output().unwrap()).exits(0);
    assert!(help.stdout.contains("Usage: agentkeys daemon"));
    // A shell that starts now finds it.
    let mut shell = Command::new("bash");
    shell.args(["-ic", "command -v agentkeys"]).env_clear().env("HOME", home.path());
    shell.env("PATH", "/usr/bin:/bin");
    let found = Ran::of(shell.output().unwrap()).exits(0).stdout;
    assert_eq!(found.trim_end(), bin.join("agentkeys").to_str().unwrap());
    // Again, it changes nothing.
    let before = files(&home);
    let said = install(&home, &release().join("dist"), &[]).exits(0);
    assert!(said.stdout.contains("is there already"), "{}", said.stdout);
    assert!(files(&home) == before, "the second time changed something");
    // And out again: what is mine stays, and what the daemon keeps there.
    let session = home.file(".agentkeys/session", "kept");
    install(&home, &release().join("dist"), &["--uninstall"]).exits(0);
    assert!(!bin.exists() && session.exists());
    assert_eq!(std::fs::read_to_string(home.path().join(".bashrc")).unwrap(), "# mine\n");
    std::fs::remove_file(&session).unwrap();
    install(&home, &release().join("dist"), &["--uninstall"]).exits(0);
}

#[test]
fn what_was_changed_on_its_way_is_not_installed() {
    let nothing = |home: &Home| {
        let bin = home.path().join(".agentkeys/bin");
        assert!(!bin.exists(), "it was installed");
        let left = std::fs::read_dir(home.path().join(".agentkeys")).map(Iterator::count);
        assert_eq!(left.unwrap_or(0), 0, "it left something");
    };
    let archive = "agentkeys-linux-x64.tar.gz";
    let change = |path: PathBuf| {
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
        std::fs::write(path, bytes).unwrap();
    };
    for (file, says) in [
        (archive, "the checksum of agentkeys-linux-x64.tar.gz is not right"),
        ("SHA256SUMS", "the signature of SHA256SUMS is not right"),
        ("SHA256SUMS.sig", "the signature of SHA256SUMS is not right"),
    ] {
        let home = Home::new();
        let dist = copy_to(&home);
        change(dist.join(file));
        install(&home, &dist, &[]).exits(1).says(says);
        nothing(&home);
    }
    // A list that fits the changed archive, signed by somebody else's key.
    let home = Home::new();
    let dist = copy_to(&home);
    let key = home.path().join("theirs.pem");
    openssl(&[
        "ecparam",
        "-genkey",
        "-name",
        "prime256v1",
        "-noout",
        "-out",
        key.to_str().unwrap(),
    ]);
    let mut again = Command::new(packaging("dist.sh"));
    again.arg(&dist).arg("--binary").arg(without_symbols()).arg("--key").arg(&key);
    Ran::of(again.output().unwrap()).exits(0);
    install(&home, &dist, &[]).exits(1).says("the signature of SHA256SUMS is not right");
    nothing(&home);
    for gone in ["SHA256SUMS.sig", archive] {
        let home = Home::new();
        let dist = copy_to(&home);
        std::fs::remove_file(dist.join(gone)).unwrap();
        install(&home, &dist, &[]).exits(1).says(&format!("there is no {gone}"));
        nothing(&home);
    }
    // Without a key there is nothing to believe.
    let home = Home::new();
    let mut sh = Command::new("sh");
    sh.arg(packaging("install.sh")).env_clear().env("HOME", home.path());
    sh.env("PATH", "/usr/bin:/bin").env("AGENTKEYS_DIST", release().join("dist"));
    Ran::of(sh.output().unwrap()).exits(1).says("has no release key in it");
    nothing(&home);
}

#[test]
fn one_binary_gives_one_archive() {
    let home = Home::new();
    let mut again = Command::new(packaging("dist.sh"));
    again.arg(home.path().join("again")).arg("--binary").arg(without_symbols());
    Ran::of(again.output().unwrap()).exits(0);
    let sums = |folder: &Path| std::fs::read_to_string(folder.join("SHA256SUMS")).unwrap();
    assert_eq!(sums(&home.path().join("again")), sums(&release().join("dist")));
}

#[test]
fn prereq_warning() {
    let home = Home::new();
    // A PATH with what the installer needs, and neither Node nor a browser.
    let tools = home.path().join("tools");
    std::fs::create_dir(&tools).unwrap();
    for tool in [
        "sh",
        "uname",
        "sed",
        "awk",
        "cut",
        "grep",
        "mkdir",
        "chmod",
        "mktemp",
        "rm",
        "mv",
        "cp",
        "ln",
        "tar",
        "gzip",
        "cat",
        "cmp",
        "diff",
        "head",
        "readlink",
        "dirname",
        "sha256sum",
        "openssl",
        "id",
        "rmdir",
    ] {
        let found = ["/usr/bin", "/bin"].map(|folder| Path::new(folder).join(tool));
        let found = found.into_iter().find(|path| path.exists());
        let found = found.unwrap_or_else(|| panic!("{tool} is not there"));
        std::os::unix::fs::symlink(found, tools.join(tool)).unwrap();
    }
    let run = |path: &Path| {
        let mut sh = Command::new("/bin/sh");
        sh.arg(packaging("install.sh")).env_clear().env("HOME", home.path()).env("PATH", path);
        sh.env("AGENTKEYS_DIST", release().join("dist"));
        Ran::of(sh.env("AGENTKEYS_RELEASE_KEY", release().join("public.pem")).output().unwrap())
    };
    let ran = run(&tools).exits(0);
    assert!(home.path().join(".agentkeys/bin/agentkeys").exists());
    // Another shell than bash, zsh and fish: its login file.
    let profile = std::fs::read_to_string(home.path().join(".profile")).unwrap();
    assert!(profile.contains(".agentkeys/bin"), "{profile}");
    ran.says("Node.js 20 or newer is not there").says("Chromium is not there");
    // Without what it checks the release by, it does not begin.
    std::fs::remove_file(tools.join("openssl")).unwrap();
    run(&tools).exits(1).says("openssl is missing");
}
