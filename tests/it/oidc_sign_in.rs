//! Sign-in by OpenID Connect as a person meets it: the real `agentkeys init` and `serve`, a real
//! provider, and at its login pages somebody who does what a browser does.
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::home::{BINARY, Home, Ran};
use crate::oidc_support::{Provider, has_provider, node, script};

/// A real backend with an issuer.
struct Served {
    child: Child,
    address: String,
    home: tempfile::TempDir,
}

impl Served {
    fn start(provider: &Provider, more: &[&str]) -> Self {
        Self::over(tempfile::tempdir().unwrap(), provider, more)
    }

    fn over(home: tempfile::TempDir, provider: &Provider, more: &[&str]) -> Self {
        let log = std::fs::File::create(home.path().join("log")).unwrap();
        let mut child = Command::new(BINARY)
            .args(["serve", "--listen", "127.0.0.1:0", "--root-key"])
            .arg(format!("file:{}", home.path().join("root.key").display()))
            .arg("--data")
            .arg(home.path().join("data"))
            .args(["--oidc-issuer", &provider.issuer, "--oidc-client-id", &provider.client_id])
            .args(more)
            .env_clear()
            .env("HOME", home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ");
        let address = address.unwrap_or_else(|| panic!("no ready line: {line}")).to_owned();
        Self { child, address, home }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.home.path().join("log")).unwrap()
    }

    /// Ends it, and gives its folder for the next one.
    fn stop(mut self) -> tempfile::TempDir {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::mem::replace(&mut self.home, tempfile::tempdir().unwrap())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A person's machine, whose backend is elsewhere.
struct Desk {
    home: Home,
    address: String,
}

impl Desk {
    fn at(served: &Served) -> Self {
        Self { home: Home::new(), address: served.address.clone() }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.home.command(arguments);
        command.env("AGENTKEYS_BACKEND", &self.address);
        command
    }

    fn pages(&self) -> PathBuf {
        self.home.path().join("pages")
    }

    /// With somebody at the browser who logs in as `who`.
    fn with_browser(&self, who: &str, arguments: &[&str]) -> Command {
        let mut command = self.command(arguments);
        let browser = format!("{} {}", node().display(), script("oidc_browser.mjs").display());
        command.env("BROWSER", browser).env("OIDC_LOGIN", who).env("OIDC_LOG", self.pages());
        command
    }

    fn init(&self, who: &str, more: &[&str]) -> Ran {
        let arguments = [&["init"], more].concat();
        Ran::of(self.with_browser(who, &arguments).output().unwrap())
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(self.command(arguments).output().unwrap())
    }
}

/// A command that goes on while the test looks at what it says.
struct Talking {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
    said: Vec<String>,
}

impl Talking {
    fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self { child, lines, said: Vec::new() }
    }

    /// Waits for a line that begins so, and gives what comes after it.
    fn hears(&mut self, beginning: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(Duration::from_secs(30));
            let line = line.unwrap_or_else(|_| panic!("no {beginning:?} in {:?}", self.said));
            self.said.push(line.clone());
            if let Some(rest) = line.strip_prefix(beginning) {
                return rest.to_owned();
            }
        }
    }

    fn ends(mut self) -> Ran {
        let mut stdout = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
        let code = self.child.wait().unwrap().code().unwrap_or(-1);
        self.said.extend(self.lines.iter());
        Ran { code, stdout, stderr: self.said.join("\n") }
    }
}

/// Goes to a page as somebody at another device's browser would.
fn browse(who: &str, url: &str, more: &[(&str, &str)]) {
    let ran = Command::new(node())
        .arg(script("oidc_browser.mjs"))
        .arg(url)
        .env("OIDC_LOGIN", who)
        .envs(more.iter().copied())
        .output()
        .unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

#[test]
fn init_opens_a_browser_and_the_first_to_sign_in_owns_the_backend() {
    if !has_provider() {
        return;
    }
    let provider = Provider::start();
    let served = Served::start(&provider, &[]);
    assert!(served.log().contains("nobody owns this backend yet"), "{}", served.log());
    let alice = Desk::at(&served);
    let identity = format!("oidc:{}#alice", provider.issuer);
    alice
        .init("alice", &[])
        .exits(0)
        .says("your browser opens")
        .says(&provider.issuer)
        .says(&format!("signed in as {identity}"))
        .says("alice@example.org")
        .says("from now on it is yours")
        .says("next: agentkeys store");
    // The session works; signing in again is the same account, and nothing is owned anew.
    let who = alice.init("alice", &["--json"]).exits(0).json();
    assert_eq!(who["identity"], identity);
    assert_eq!((&who["email"], &who["owns_now"]), (&json!("alice@example.org"), &json!(false)));
    alice.run(&["list"]).exits(0);
    let bob = Desk::at(&served);
    bob.init("bob", &[]).exits(3).says("belongs to somebody");
    // The same person on another machine is the same account.
    let elsewhere = Desk::at(&served).init("alice", &["--json"]).exits(0).json();
    assert_eq!(elsewhere["wallet"], who["wallet"]);
    // The page that the browser ended at is the loopback's, and was answered.
    let pages = std::fs::read_to_string(alice.pages()).unwrap();
    let last = pages.lines().last().unwrap();
    assert!(last.starts_with("200 http://127.0.0.1:") && last.ends_with("/callback"), "{pages}");
    // Started again it says who may sign in, and nothing of a token or a ticket is in its log.
    let log = served.log();
    assert!(!log.contains("agkt_") && !log.contains("eyJ") && !log.contains("alice"), "{log}");
    let home = served.stop();
    let served = Served::over(home, &provider, &[]);
    assert!(served.log().contains("who have an account here"), "{}", served.log());
}

#[test]
fn a_device_signs_in_by_a_code_that_is_typed_elsewhere() {
    if !has_provider() {
        return;
    }
    let provider = Provider::start();
    let served = Served::start(&provider, &["--oidc-allow", "@example.org"]);
    assert!(served.log().contains("whom --oidc-allow names"), "{}", served.log());
    let desk = Desk::at(&served);
    let mut init = Talking::start(desk.command(&["init", "--device", "--json"]));
    let page = init.hears("  page  ");
    let code = init.hears("  code  ");
    let complete = init.hears("  or    ");
    init.hears("never type a code that somebody else gave you");
    assert!(page.starts_with(&provider.issuer) && complete.contains(&code), "{page} {complete}");
    browse("carol", &complete, &[]);
    let who = init.ends().exits(0).json();
    assert_eq!(who["identity"], format!("oidc:{}#carol", provider.issuer));
    assert_eq!(who["email"], "carol@example.org");
    // Not on the list.
    provider.has(json!({"do": "account", "id": "dave",
        "claims": {"email": "dave@elsewhere.example", "email_verified": true}}));
    let mut init = Talking::start(desk.command(&["init", "--device"]));
    browse("dave", &init.hears("  or    "), &[]);
    init.ends().exits(3).says("list does not name your e-mail address");
    // Refused at the issuer.
    let mut init = Talking::start(desk.command(&["init", "--device"]));
    browse("erin", &init.hears("  or    "), &[("OIDC_ABORT", "1")]);
    init.ends().exits(3).says("access_denied");
}

#[test]
fn a_device_waits_out_an_issuer_that_is_away_for_a_while() {
    if !has_provider() {
        return;
    }
    let provider = Provider::start();
    let served = Served::start(&provider, &[]);
    let desk = Desk::at(&served);
    let mut init = Talking::start(desk.command(&["init", "--device", "--json"]));
    let complete = init.hears("  or    ");
    provider.has(json!({"do": "down"}));
    std::thread::sleep(Duration::from_secs(7));
    provider.has(json!({"do": "restore"}));
    browse("frank", &complete, &[]);
    init.ends().exits(0);
    // One that only says slow_down is asked less and less often.
    let mut init = Talking::start(desk.command(&["init", "--device"]));
    init.hears("  code  ");
    provider.has(json!({"do": "answer", "path": "/token", "status": 400,
        "body": {"error": "slow_down"}}));
    let before = provider.count("/token");
    std::thread::sleep(Duration::from_secs(18));
    let asked = provider.count("/token") - before;
    // After 5 s, and then 10 s later; at an even pace it would have been three times.
    assert!((1..=2).contains(&asked), "{asked}");
    provider.has(json!({"do": "answer", "path": "/token", "status": 400,
        "body": {"error": "expired_token", "error_description": "\u{1b}[31mred"}}));
    let ended = init.ends().exits(5);
    assert!(!ended.stderr.contains('\u{1b}'), "{}", ended.stderr);
}

#[test]
fn without_a_browser_the_address_is_printed_and_what_else_comes_to_the_port_ends_nothing() {
    if !has_provider() {
        return;
    }
    let provider = Provider::start();
    let served = Served::start(&provider, &[]);
    let desk = Desk::at(&served);
    let mut init = Talking::start(desk.command(&["init", "--json"]));
    init.hears("open this address in a browser on this machine:");
    let page = init.hears("  ");
    init.hears("no browser here?");
    let redirect = page.split("redirect_uri=").nth(1).unwrap().split('&').next().unwrap();
    let port: u16 =
        redirect.split("%3A").last().unwrap().split("%2F").next().unwrap().parse().unwrap();
    for field in ["code_challenge_method=S256", "state=", "nonce=", "scope=openid%20email"] {
        assert!(page.contains(field), "{page}");
    }
    let state = page.split("state=").nth(1).unwrap().split('&').next().unwrap();
    let ask = |line: &str, host: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        write!(stream, "{line} HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).unwrap();
        heard
    };
    let here = format!("127.0.0.1:{port}");
    for (line, host, status) in [
        ("GET /callback?code=evil&state=guess".to_owned(), here.as_str(), "400"),
        ("GET /callback?code=evil".to_owned(), &here, "400"),
        (format!("GET /callback?code=evil&state={state}"), "evil.example", "400"),
        (format!("GET /callback?code=evil&state={state}&iss=https%3A%2F%2Fevil"), &here, "400"),
        (format!("POST /callback?code=evil&state={state}"), &here, "405"),
        ("GET /".to_owned(), &here, "404"),
        ("GET /callback?error=access_denied&state=guess".to_owned(), &here, "400"),
    ] {
        let heard = ask(&line, host);
        assert!(heard.starts_with(&format!("HTTP/1.1 {status} ")), "{line}: {heard}");
        assert!(!heard.contains("evil"), "{heard}");
    }
    // Callers who say nothing keep nobody else out.
    let idle: Vec<_> = (0..40).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
    let begun = Instant::now();
    browse("alice", &page, &[]);
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
    drop(idle);
    init.ends().exits(0);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "it still listens");
}

#[test]
fn a_client_secret_that_an_issuer_wants_is_handed_to_the_command_line() {
    if !has_provider() {
        return;
    }
    let mut provider = Provider::start();
    provider.client_id.push_str("-with-secret");
    // The control: without it, this issuer gives no token.
    let without = Served::start(&provider, &[]);
    Desk::at(&without).init("alice", &[]).exits(1).says("invalid_client");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    std::fs::write(&file, "told-to-everybody-who-asks\n").unwrap();
    let file = file.to_str().unwrap();
    let served = Served::start(&provider, &["--oidc-client-secret-file", file]);
    let desk = Desk::at(&served);
    desk.init("alice", &[]).exits(0);
    let mut init = Talking::start(desk.command(&["init", "--device", "--json"]));
    browse("alice", &init.hears("  or    "), &[]);
    init.ends().exits(0);
}

#[test]
fn a_sign_in_waits_for_keys_that_the_issuer_changed_in_the_middle_of_it() {
    if !has_provider() {
        return;
    }
    let mut provider = Provider::start();
    let served = Served::start(&provider, &[]);
    let desk = Desk::at(&served);
    desk.init("alice", &[]).exits(0);
    // Somebody is at the issuer's page when its keys change: what they bring is signed with one
    // that the backend cannot know yet.
    let mut init = Talking::start(desk.command(&["init", "--json"]));
    init.hears("open this address");
    let page = init.hears("  ");
    provider.rotate();
    browse("alice", &page, &[]);
    init.ends().exits(0);
    assert_eq!(provider.count("/jwks"), 2);
}

#[test]
fn who_says_no_at_the_issuer_is_told_so_and_no_session_is_made() {
    if !has_provider() {
        return;
    }
    let provider = Provider::start();
    let served = Served::start(&provider, &[]);
    let desk = Desk::at(&served);
    let mut command = desk.with_browser("alice", &["init"]);
    let ran = Ran::of(command.env("OIDC_ABORT", "1").output().unwrap());
    ran.exits(3).says("access_denied");
    desk.run(&["list"]).exits(6);
}

#[test]
fn an_issuer_that_is_not_what_it_says_gets_nobody_s_browser() {
    if !has_provider() {
        return;
    }
    let provider = Provider::start();
    let served = Served::start(&provider, &[]);
    let desk = Desk::at(&served);
    let issuer = provider.issuer.clone();
    let document = |issuer: &str, authorization: &str, token: &str| {
        json!({"issuer": issuer, "authorization_endpoint": authorization, "token_endpoint": token,
            "device_authorization_endpoint": authorization, "jwks_uri": format!("{issuer}/jwks")})
    };
    let good = format!("{issuer}/token");
    for (document, says) in [
        (document("https://other.example", &good, &good), "of another issuer"),
        (document(&issuer, "http://login.example/auth", &good), "this machine only"),
        (document(&issuer, "file:///bin/sh", &good), "is not opened"),
        (document(&issuer, "https://a.example/$(touch x)", &good), "is not opened"),
        (document(&issuer, &good, "http://token.example/"), "this machine only"),
        (json!({"issuer": issuer}), "no token endpoint"),
        (json!("\u{1b}[2J"), "not the JSON"),
    ] {
        provider.answers("/.well-known/openid-configuration", document);
        let ran = desk.init("alice", &[]);
        assert!(!ran.stderr.contains("your browser opens") && !ran.stderr.contains('\u{1b}'));
        assert!(ran.code == 1 || ran.code == 7, "{}", ran.stderr);
        ran.says(says);
    }
    assert!(!desk.pages().exists());
    provider.has(json!({"do": "down"}));
    desk.init("alice", &[]).exits(7).says(&issuer);
    provider.has(json!({"do": "restore"}));
    desk.init("alice", &[]).exits(0);
}

#[test]
fn a_backend_without_an_issuer_says_how_it_gets_one() {
    let home = Home::new();
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(BINARY)
        .args(["serve", "--dev", "--listen", "127.0.0.1:0", "--data"])
        .arg(folder.path().join("data"))
        .env_clear()
        .env("HOME", folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on ").unwrap();
    for more in [&["init"][..], &["init", "--device"]] {
        let mut command = home.command(more);
        let ran = Ran::of(command.env("AGENTKEYS_BACKEND", address).output().unwrap());
        ran.exits(4).says("names no issuer").says("--oidc-issuer").says("--mock-token");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    home.run(&["init", "--device", "--mock-token", "a"]).exits(2).says("--device");
}

#[test]
fn options_of_an_issuer_that_are_not_what_they_may_be_are_refused_by_name() {
    let home = Home::new();
    let with = |more: &[&str]| {
        let base = ["serve", "--listen", "127.0.0.1:0", "--data", "d", "--oidc-client-id", "c"];
        home.run(&[&base[..], more].concat())
    };
    for (more, name) in [
        (&["--oidc-issuer", "http://id.example"][..], "--oidc-issuer"),
        (&["--oidc-issuer", "id.example"], "--oidc-issuer"),
        (&["--oidc-issuer", "https://id.example/?a=b"], "--oidc-issuer"),
        (&["--oidc-issuer", "https://u:p@id.example/"], "--oidc-issuer"),
        (&["--oidc-issuer", "https://id.example", "--oidc-allow", "example.org"], "--oidc-allow"),
        (
            &["--oidc-issuer", "https://id.example", "--oidc-client-secret-file", "/nowhere"],
            "--oidc-client-secret-file",
        ),
    ] {
        with(more).exits(2).says(&format!("{name} is not valid"));
        assert!(!home.path().join("d").exists(), "{more:?} made a data folder");
    }
}

#[test]
fn doctor_says_whether_the_issuer_answers() {
    if !has_provider() {
        return;
    }
    let provider = Provider::start();
    let served = Served::start(&provider, &[]);
    let desk = Desk::at(&served);
    let issuer = |desk: &Desk| {
        let facts = desk.run(&["doctor", "--json"]).json();
        let facts = facts["facts"].as_array().unwrap().clone();
        facts.into_iter().find(|fact| fact["name"] == "issuer").unwrap_or_default()
    };
    let good = issuer(&desk);
    assert_eq!(good["health"], "good", "{good}");
    assert!(good["found"].as_str().unwrap().contains(&provider.issuer));
    provider.has(json!({"do": "down"}));
    let down = issuer(&desk);
    assert_eq!(down["health"], "warning", "{down}");
    // A private backend names none, and there is no line.
    let home = Home::new();
    home.run(&["init"]).exits(0);
    assert!(!home.run(&["doctor", "--json"]).stdout.contains("issuer"));
}
