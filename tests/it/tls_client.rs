//! A client before a server that is not its backend: it is refused, the error says what was seen,
//! and not one byte of a request was sent. The same server records everything from a client that
//! believes it, so a silent recorder means something.
use std::time::Duration;

use agentkeys::client::http::{HttpBackend, Options};
use agentkeys::core::backend::AccountBackend;
use agentkeys::core::problem::{Code, Problem};
use agentkeys::core::token::SessionToken;
use agentkeys::web::Trust;

use crate::env::TestEnv;
use crate::home::Home;
use crate::tls_support::*;

fn token() -> SessionToken {
    SessionToken::master(&[0x5a; 32])
}

/// A client with the address `https://` and this, with what follows the port.
fn client(host: &str, port: u16, pin: &str, trust: Option<Trust>) -> HttpBackend {
    let address = format!("https://{host}:{port}{pin}").parse().unwrap();
    let options = Options { pauses: Duration::from_millis(20), ..Options::default() };
    HttpBackend::trusting(address, options, trust)
}

/// What a client that would send its session says of a server that it does not believe.
async fn refusal(client: &HttpBackend, recorder: &Recorder) -> Problem {
    let problem = client.who_am_i(&token()).await.unwrap_err();
    assert!(recorder.connections() > 0, "it was never asked: {problem:?}");
    assert_eq!(recorder.heard(), "", "{problem:?}");
    assert_eq!(problem.docs, "docs/errors.md#certificate", "{problem:?}");
    assert!(problem.cause.ends_with("nothing was sent"), "{}", problem.cause);
    problem
}

#[tokio::test]
async fn the_recorder_hears_a_client_that_believes_it() {
    let authority = Authority::new();
    let issued = authority.issue(&["localhost", "127.0.0.1"], VALID);
    let recorder = Recorder::tls(&issued, "HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n").await;
    let port = recorder.address.port();
    let clients = [
        client("localhost", port, "", Some(authority.trust())),
        client("127.0.0.1", port, "", Some(authority.trust())),
        client("localhost", port, &format!("#{}", issued.pin()), None),
    ];
    for (at, client) in clients.iter().enumerate() {
        client.who_am_i(&token()).await.unwrap_err();
        let heard = recorder.heard();
        assert_eq!(heard.matches(token().expose()).count(), at + 1, "{heard}");
    }
}

#[tokio::test]
async fn a_certificate_that_is_not_the_pinned_one_is_refused_and_both_are_named() {
    let authority = Authority::new();
    let own = self_signed(&["localhost"]);
    // Even one that this machine would trust, for the right name.
    let theirs = authority.issue(&["localhost"], VALID);
    let recorder = Recorder::tls(&theirs, "").await;
    let port = recorder.address.port();
    let client = client("localhost", port, &format!("#{}", own.pin()), Some(authority.trust()));
    let problem = refusal(&client, &recorder).await;
    assert_eq!(problem.code, Code::Denied);
    for said in [own.pin().to_string(), theirs.pin().to_string(), "authority of the test".into()] {
        assert!(problem.cause.contains(&said), "{said} is not in {}", problem.cause);
    }
    assert!(problem.cause.contains("2020-01-01") && problem.cause.contains("2096-01-01"));
    let renewed = format!("AGENTKEYS_BACKEND=https://localhost:{port}#{}", theirs.pin());
    assert!(problem.fix.contains(&renewed), "{}", problem.fix);
}

#[tokio::test]
async fn a_certificate_of_a_stranger_is_refused_and_its_fingerprint_named() {
    let (ours, strangers) = (Authority::new(), Authority::new());
    for issued in [strangers.issue(&["localhost"], VALID), self_signed(&["localhost"])] {
        let recorder = Recorder::tls(&issued, "").await;
        let client = client("localhost", recorder.address.port(), "", Some(ours.trust()));
        let problem = refusal(&client, &recorder).await;
        assert_eq!(problem.code, Code::Denied);
        assert!(problem.cause.contains(&issued.pin().to_string()), "{}", problem.cause);
        assert!(problem.fix.contains(&format!("#{}", issued.pin())), "{}", problem.fix);
        assert!(problem.fix.contains("compare its fingerprint"), "{}", problem.fix);
    }
}

#[tokio::test]
async fn an_authority_of_the_same_name_is_another_one() {
    let (ours, theirs) = (Authority::named("the one"), Authority::named("the one"));
    let recorder = Recorder::tls(&theirs.issue(&["localhost"], VALID), "").await;
    let client = client("localhost", recorder.address.port(), "", Some(ours.trust()));
    let problem = refusal(&client, &recorder).await;
    assert_eq!(problem.code, Code::Denied);
    assert!(problem.cause.contains("not signed by the issuer that it names"), "{}", problem.cause);
}

#[tokio::test]
async fn expired_not_yet_valid_and_for_another_name_are_refused_in_their_own_words() {
    let authority = Authority::new();
    for (issued, code, says) in [
        (authority.issue(&["localhost"], (2001, 2002)), "expired", "2002-01-01"),
        (authority.issue(&["localhost"], (2095, 2096)), "not valid yet", "2095-01-01"),
        (authority.issue(&["keys.example.org"], VALID), "another name", "keys.example.org"),
    ] {
        let recorder = Recorder::tls(&issued, "").await;
        let client = client("localhost", recorder.address.port(), "", Some(authority.trust()));
        let problem = refusal(&client, &recorder).await;
        assert_eq!(problem.code, Code::Denied);
        assert!(problem.detail.contains(code), "{}", problem.detail);
        assert!(problem.cause.contains(says), "{}", problem.cause);
    }
}

#[tokio::test]
async fn an_address_is_no_name_of_a_certificate_for_names() {
    let authority = Authority::new();
    let recorder = Recorder::tls(&authority.issue(&["localhost"], VALID), "").await;
    let client = client("127.0.0.1", recorder.address.port(), "", Some(authority.trust()));
    let problem = refusal(&client, &recorder).await;
    assert!(problem.cause.contains("not for 127.0.0.1"), "{}", problem.cause);
}

#[tokio::test]
async fn a_server_that_speaks_plain_http_is_sent_no_request() {
    let recorder = Recorder::plain("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
    // Answers before it was asked, as a proxy's error page does.
    let eager = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let eager_port = eager.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let (mut stream, _) = eager.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
            let mut some = [0; 4096];
            while let Ok(1..) = stream.read(&mut some).await {}
        }
    });
    let pin = format!("#{}", self_signed(&["localhost"]).pin());
    let problem = client("localhost", eager_port, &pin, None).who_am_i(&token()).await.unwrap_err();
    assert_eq!((problem.code, problem.docs.as_str()), (Code::Denied, "docs/errors.md#certificate"));
    assert!(problem.detail.contains("does not speak TLS"), "{problem:?}");
    // One that waits for the end of a request sees a handshake, and never a request.
    let client = client("localhost", recorder.address.port(), &pin, None);
    let asked = tokio::time::timeout(Duration::from_secs(2), client.who_am_i(&token())).await;
    assert!(asked.is_err() || asked.unwrap().is_err());
    assert!(recorder.connections() > 0);
    let heard = recorder.heard();
    assert!(heard.starts_with('\u{16}'), "{heard}");
    for word in ["GET", "HTTP/1", token().expose()] {
        assert!(!heard.contains(word), "{word} in {heard}");
    }
}

#[tokio::test]
async fn a_redirect_is_no_answer_and_nothing_goes_where_it_points() {
    let authority = Authority::new();
    let issued = authority.issue(&["localhost"], VALID);
    let elsewhere = Recorder::tls(&issued, "").await;
    let plain = Recorder::plain("").await;
    for to in [
        format!("https://localhost:{}/session", elsewhere.address.port()),
        format!("http://127.0.0.1:{}/session", plain.address.port()),
    ] {
        for status in ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 P"] {
            let answer = format!(
                "HTTP/1.1 {status}\r\nlocation: {to}\r\nagentkeys-wire: 1\r\ncontent-length: 0\r\n\r\n"
            );
            let recorder = Recorder::tls(&issued, &answer).await;
            let port = recorder.address.port();
            let client = client("localhost", port, "", Some(authority.trust()));
            let problem = client.who_am_i(&token()).await.unwrap_err();
            assert_eq!(problem.code, Code::Internal, "{problem:?}");
            assert!(recorder.heard().contains(token().expose()), "the control");
        }
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!((elsewhere.connections(), plain.connections()), (0, 0));
}

#[tokio::test]
async fn calls_at_once_share_one_connection_and_a_new_one_takes_over_when_it_is_gone() {
    let env = TestEnv::new().await;
    let authority = Authority::new();
    let issued = authority.issue(&["localhost"], VALID);
    let served = Served::vault(env.whole_vault(), &issued.served(), Default::default());
    let client = client("localhost", served.address.port(), "", Some(authority.trust()));
    client.health().await.unwrap();
    let before = sockets_to(served.address.port());
    let calls = (0..50).map(|_| client.health());
    for answered in futures(calls).await {
        answered.unwrap();
    }
    assert_eq!((before, sockets_to(served.address.port())), (1, 1));
    client.hang_up(Duration::ZERO);
    let begun = std::time::Instant::now();
    while sockets_to(served.address.port()) > 0 {
        assert!(begun.elapsed() < Duration::from_secs(10), "it does not hang up");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    client.health().await.unwrap();
    assert!(served.stop().await.drained);
}

async fn futures<F: Future>(all: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut all: Vec<_> = all.map(Box::pin).collect();
    let mut done = Vec::new();
    std::future::poll_fn(|cx| {
        all.retain_mut(|one| match one.as_mut().poll(cx) {
            std::task::Poll::Ready(output) => {
                done.push(output);
                false
            }
            std::task::Poll::Pending => true,
        });
        if all.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done
}

/// How many connections of this machine lead to a loopback port, as the kernel has them.
fn sockets_to(port: u16) -> usize {
    let remote = format!("0100007F:{port:04X}");
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    fields.filter(|fields| fields.get(2) == Some(&&*remote) && fields[3] == "01").count()
}

/// The real CLI, signed in at a real backend whose place a man in the middle then takes.
#[tokio::test(flavor = "multi_thread")]
async fn the_cli_sends_its_session_to_no_other_certificate() {
    let home = Home::new();
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["--listen", "127.0.0.1:0", "--tls-self-signed"];
    let serving = Serving::start(folder.path(), &arguments);
    let pinned = format!("{}#{}", serving.url("https://"), serving.pin());
    home.run(&["init", "--mock-token", "ada", "--backend", &pinned]).exits(0);
    home.run(&["list", "--backend", &pinned]).exits(0);
    let doctor = home.run(&["doctor", "--backend", &pinned]);
    for line in ["certificate", "for localhost, ", "signed by itself", "pinned, and it is the one"]
    {
        assert!(doctor.stdout.contains(line), "{line} is not in {}", doctor.stdout);
    }
    assert!(doctor.stdout.contains("as the backend's"), "{}", doctor.stdout);
    let address = serving.url("https://").trim_start_matches("https://").parse().unwrap();
    let theirs = self_signed(&["127.0.0.1"]);
    let pin = serving.pin();
    drop(serving);
    let recorder = Recorder::tls_at(address, &theirs, "").await;
    let ran = home.run(&["list", "--backend", &pinned]).exits(3);
    let ran = ran.says(&pin).says(&theirs.pin().to_string()).says("nothing was sent");
    let doctor = home.run(&["doctor", "--backend", &pinned]).exits(1);
    assert!(doctor.stdout.contains("BROKEN  backend"), "{}", doctor.stdout);
    assert!(doctor.stdout.contains(&theirs.pin().to_string()), "{}", doctor.stdout);
    assert!(recorder.connections() > 0 && recorder.heard().is_empty(), "{}", ran.stderr);
    // Without the pin it is nobody's, and so for whoever is told to go by plain HTTP.
    let unpinned = format!("https://{address}");
    home.run(&["init", "--mock-token", "ada", "--backend", &unpinned]).exits(3);
    assert_eq!(recorder.heard(), "");
    home.run(&["list", "--backend", "http://192.0.2.1:80"]).exits(2).says("not encrypted");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cli_believes_the_roots_that_it_is_told_and_no_others() {
    let home = Home::new();
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let (chain, key) = authority.issue(&["localhost"], VALID).files(folder.path());
    let roots = authority.file(folder.path());
    let arguments = ["--listen", "127.0.0.1:0", "--tls-cert", chain.to_str().unwrap()];
    let arguments = [&arguments[..], &["--tls-key", key.to_str().unwrap()]].concat();
    let serving = Serving::start(folder.path(), &arguments);
    let backend = format!("https://localhost:{}", serving.port());
    let words = ["init", "--mock-token", "ada", "--backend", &backend];
    let ran = |roots: &std::path::Path| {
        let output = home.command(&words).env("SSL_CERT_FILE", roots).output().unwrap();
        crate::home::Ran::of(output)
    };
    ran(&roots).exits(0);
    let doctor = home.command(&["doctor", "--backend", &backend]);
    let doctor = crate::home::Ran::of({ doctor }.env("SSL_CERT_FILE", &roots).output().unwrap());
    for line in ["signed by CN=authority of the test", "not pinned: ", "until 2096-01-01"] {
        assert!(doctor.stdout.contains(line), "{line} is not in {}", doctor.stdout);
    }
    let other = tempfile::tempdir().unwrap();
    ran(&Authority::new().file(other.path())).exits(3).says("compare its fingerprint");
    let none = folder.path().join("none.pem");
    std::fs::write(&none, "").unwrap();
    let nobody = ran(&none);
    assert_ne!(nobody.code, 0);
    nobody.says("no root certificates");
}
