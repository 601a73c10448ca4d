//! The server over TLS: both versions of HTTP against the real binary, what is refused, its own
//! certificate over restarts, a renewed one while it runs, and handshakes that never end.
use std::net::{SocketAddr, TcpStream as StdStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use agentkeys::backend::http::Limits;
use agentkeys::client::http::{Address, HttpBackend};
use agentkeys::core::problem::{Code, Problem};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::env::TestEnv;
use crate::home::{BINARY, Home};
use crate::http_support::hear;
use crate::tls_support::*;

/// What curl heard: the body, and `STATUS VERSION`.
fn curl(arguments: &[&str]) -> (String, String) {
    let output = Command::new("curl")
        .args(["-q", "-sS", "-m", "20", "-w", "\n%{http_code} %{http_version}"])
        .args(arguments)
        .output()
        .expect("there is a curl");
    let heard = String::from_utf8(output.stdout).unwrap();
    let (body, end) = heard.rsplit_once('\n').unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    (format!("{body}{errors}"), end.to_owned())
}

fn serve(folder: &Path, arguments: &[&str]) -> crate::home::Ran {
    let mut command = Command::new(BINARY);
    command.args(["serve", "--dev", "--data"]).arg(folder.join("data")).args(arguments);
    command.env_clear().env("HOME", folder);
    crate::home::Ran::of(command.output().unwrap())
}

#[test]
fn the_real_binary_speaks_both_versions_over_tls_and_shows_its_names_dates_and_fingerprint() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let issued = authority.issue(&["localhost", "127.0.0.1"], VALID);
    let (chain, key) = issued.files(folder.path());
    let roots = authority.file(folder.path());
    let (chain, key) = (chain.to_str().unwrap(), key.to_str().unwrap());
    let plain = "http://127.0.0.1:0";
    let listen = ["--listen", "127.0.0.1:0", "--listen", plain, "--tls-cert", chain];
    let serving = Serving::start(folder.path(), &[&listen[..], &["--tls-key", key]].concat());
    let url = format!("https://localhost:{}/health", serving.port());
    let roots = roots.to_str().unwrap();
    for (version, end) in [("--http1.1", "200 1.1"), ("--http2", "200 2")] {
        for tls in ["--tlsv1.2", "--tlsv1.3"] {
            let (body, heard) =
                curl(&["--cacert", roots, version, tls, "--tls-max", &tls[6..], &url]);
            assert_eq!((body.as_str(), heard.as_str()), (r#"{"status":"ok"}"#, end), "{tls}");
        }
    }
    // No older version, and no other name.
    let (old, heard) = curl(&["--cacert", roots, "--tls-max", "1.1", &url]);
    assert_eq!(heard, "000 0", "{old}");
    let host = ["--cacert", roots, "-H", "Host: evil.example", &url];
    assert_eq!(curl(&host).1, "403 2");
    let origin = ["--cacert", roots, "-H", "Origin: https://evil.example", &url];
    assert_eq!(curl(&origin).1, "403 2");
    // Loopback may have a plain address beside.
    assert_eq!(curl(&[&format!("{}/health", serving.url("http://"))]).1, "200 1.1");
    serving.logs("peer=\"tls\"");
    let log = serving.log();
    for said in
        ["localhost, 127.0.0.1", "authority of the test", "2096-01-01", &issued.pin().to_string()]
    {
        assert!(log.contains(said), "{said} is not in {log}");
    }
}

#[test]
fn without_tls_no_other_machine_is_listened_to_and_under_dev_none_at_all() {
    let folder = tempfile::tempdir().unwrap();
    for address in ["0.0.0.0:0", "[::]:0", "http://0.0.0.0:0", "192.0.2.1:0"] {
        serve(folder.path(), &["--listen", address]).exits(2).says("--tls-self-signed");
    }
    serve(folder.path(), &["--listen", "https://127.0.0.1:0"]).exits(2).says("--tls-cert");
    let plain = ["--tls-self-signed", "--listen", "http://0.0.0.0:0"];
    serve(folder.path(), &plain).exits(2).says("loopback");
    let dev = ["--tls-self-signed", "--listen", "0.0.0.0:0"];
    serve(folder.path(), &dev).exits(1).says("--dev lets anybody in");
    assert!(!folder.path().join("data").exists());
}

#[test]
fn every_address_of_the_machine_is_listened_on_with_tls() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("root-key");
    private_file(&key, &"5a".repeat(32));
    let mut child = Command::new(BINARY)
        .args(["serve", "--listen", "0.0.0.0:0", "--tls-self-signed", "--data"])
        .arg(folder.path().join("data"))
        .arg("--root-key")
        .arg(format!("file:{}", key.display()))
        .env_clear()
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let stdout = std::io::BufReader::new(child.stdout.take().unwrap());
    let lines: Vec<_> = std::io::BufRead::lines(stdout).take(2).map(Result::unwrap).collect();
    let port = lines[0].strip_prefix("listening on https://0.0.0.0:").expect("its address");
    let heard = curl(&["-k", &format!("https://127.0.0.1:{port}/health")]);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(heard.1, "200 2");
    assert!(lines[1].starts_with("certificate sha256:"), "{lines:?}");
}

#[test]
fn a_request_in_plain_http_is_told_that_the_port_speaks_https() {
    let folder = tempfile::tempdir().unwrap();
    let serving = Serving::start(folder.path(), &["--listen", "127.0.0.1:0", "--tls-self-signed"]);
    let url = format!("http://127.0.0.1:{}/health", serving.port());
    let (body, end) = curl(&[&url]);
    assert_eq!(end, "400 1.1");
    let problem: Problem = serde_json::from_str(&body).unwrap();
    assert_eq!((problem.status, problem.code), (400, Code::Invalid));
    assert!(problem.detail.contains("https"), "{problem:?}");
}

#[test]
fn its_own_certificate_stays_the_same_over_a_restart_and_its_key_is_not_on_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::new();
    let arguments = ["--listen", "127.0.0.1:0", "--tls-self-signed"];
    let serving = Serving::start(folder.path(), &arguments);
    let first = serving.pin();
    let pinned = format!("{}#{first}", serving.url("https://"));
    home.run(&["init", "--mock-token", "ada", "--backend", &pinned]).exits(0);
    serving.logs(&format!("AGENTKEYS_BACKEND={pinned}"));
    serving.signal("KILL");
    drop(serving);
    let serving = Serving::start(folder.path(), &arguments);
    assert_eq!(serving.pin(), first);
    let pinned = format!("{}#{first}", serving.url("https://"));
    home.run(&["init", "--mock-token", "ada", "--backend", &pinned]).exits(0);
    serving.signal("TERM");
    serving.logs("stopped");
    drop(serving);
    // The object identifiers of every private key of its kind, as PKCS#8 has them, and the labels
    // of PEM; none of it stands in any file. That a plain key would be found is the control.
    let key = self_signed(&["localhost"]).key;
    let marks: [&[u8]; 3] = [b"\x2a\x86\x48\xce\x3d\x03\x01\x07", b"PRIVATE KEY", b"MIGHAgEA"];
    assert!(key.windows(8).any(|some| some == marks[0]));
    let mut searched = 0;
    let mut folders = vec![folder.path().join("data")];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = std::fs::read(&path).unwrap();
            searched += bytes.len();
            for mark in marks {
                assert!(!bytes.windows(mark.len()).any(|some| some == mark), "{}", path.display());
            }
        }
    }
    assert!(searched > 1000, "only {searched} bytes were searched");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_is_shown_to_new_connections_and_a_broken_one_never() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let first = authority.issue(&["localhost"], VALID);
    let (chain, key) = first.files(folder.path());
    let arguments = ["--listen", "127.0.0.1:0", "--tls-cert", chain.to_str().unwrap()];
    let arguments = [&arguments[..], &["--tls-key", key.to_str().unwrap()]].concat();
    let serving = Serving::start(folder.path(), &arguments);
    let shows = async |issued: &Issued| {
        let address = format!("https://localhost:{}#{}", serving.port(), issued.pin());
        HttpBackend::new(address.parse().unwrap()).health().await
    };
    shows(&first).await.unwrap();
    let second = authority.issue(&["localhost"], VALID);
    assert_eq!(shows(&second).await.unwrap_err().code, Code::Denied);
    let kept = HttpBackend::new(
        format!("https://localhost:{}#{}", serving.port(), first.pin()).parse().unwrap(),
    );
    kept.health().await.unwrap();
    second.files(folder.path());
    serving.signal("HUP");
    serving.logs(&second.pin().to_string());
    shows(&second).await.unwrap();
    assert_eq!(shows(&first).await.unwrap_err().code, Code::Denied);
    // What was connected before goes on.
    kept.health().await.unwrap();
    // A certificate without its key, then nothing at all.
    private_file(&chain, &authority.issue(&["localhost"], VALID).certificate_pem());
    serving.signal("HUP");
    serving.logs("the key is not the certificate's");
    shows(&second).await.unwrap();
    std::fs::remove_file(&chain).unwrap();
    serving.signal("HUP");
    serving.logs("cannot read");
    shows(&second).await.unwrap();
}

#[test]
fn a_key_that_others_can_read_or_of_another_certificate_does_not_start_a_server() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let (chain, key) = self_signed(&["localhost"]).files(folder.path());
    let (shown, named) = (chain.to_str().unwrap(), key.to_str().unwrap());
    let arguments = ["--listen", "127.0.0.1:0", "--tls-cert", shown, "--tls-key", named];
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o644)).unwrap();
    serve(folder.path(), &arguments).exits(1).says("chmod 600");
    self_signed(&["localhost"]).files(folder.path());
    private_file(&chain, &self_signed(&["localhost"]).certificate_pem());
    serve(folder.path(), &arguments).exits(1).says("the key is not the certificate's");
    assert!(!folder.path().join("data").exists());
}

#[tokio::test]
async fn an_expired_certificate_is_served_and_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let (chain, key) = Authority::new().issue(&["localhost"], (2001, 2002)).files(folder.path());
    let (chain, key) = (chain.to_str().unwrap(), key.to_str().unwrap());
    let arguments = ["--listen", "127.0.0.1:0", "--tls-cert", chain, "--tls-key", key];
    let serving = Serving::start(folder.path(), &arguments);
    serving.logs("expired at 2002-01-01");
}

#[tokio::test]
async fn slow_handshakes_keep_nobody_out_and_end() {
    let env = TestEnv::new().await;
    let issued = self_signed(&["localhost"]);
    let limits = Limits { head_time: Duration::from_millis(800), ..Limits::default() };
    let served = Served::vault(env.whole_vault(), &issued.served(), limits);
    let address = served.address;
    let mut slow = Vec::new();
    for at in 0..60 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        match at % 3 {
            // Says nothing; begins a record; sends half a ClientHello.
            0 => {}
            1 => stream.write_all(&[22]).await.unwrap(),
            _ => stream.write_all(&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]).await.unwrap(),
        }
        slow.push(stream);
    }
    let client = HttpBackend::new(
        format!("https://localhost:{}#{}", address.port(), issued.pin()).parse().unwrap(),
    );
    let begun = Instant::now();
    client.health().await.unwrap();
    assert!(begun.elapsed() < Duration::from_millis(700), "{:?}", begun.elapsed());
    // All are hung up on, though they go on with a byte now and then.
    for (at, mut stream) in slow.into_iter().enumerate() {
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(5), async {
            loop {
                let _ = stream.write_all(&[1]).await;
                let read = stream.read_to_end(&mut rest);
                match tokio::time::timeout(Duration::from_millis(50), read).await {
                    Ok(ended) => return ended,
                    Err(_) => continue,
                }
            }
        });
        assert!(ended.await.is_ok(), "connection {at} stays");
    }
    client.health().await.unwrap();
    assert!(served.stop().await.drained);
}

#[tokio::test]
async fn places_are_held_by_handshakes_and_come_back() {
    let env = TestEnv::new().await;
    let issued = self_signed(&["localhost"]);
    let limits = Limits {
        head_time: Duration::from_millis(500),
        connections_per_address: 3,
        ..Limits::default()
    };
    let served = Served::vault(env.whole_vault(), &issued.served(), limits);
    let address = format!("https://localhost:{}#{}", served.address.port(), issued.pin());
    let address: Address = address.parse().unwrap();
    let silent: Vec<_> = futures(served.address, 3).await;
    // A fourth is hung up on without a word.
    let mut fourth = TcpStream::connect(served.address).await.unwrap();
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_millis(300), fourth.read_to_end(&mut rest));
    assert!(ended.await.is_ok() && rest.is_empty());
    tokio::time::sleep(Duration::from_millis(600)).await;
    HttpBackend::new(address).health().await.unwrap();
    drop(silent);
    assert!(served.stop().await.drained);
}

async fn futures(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(TcpStream::connect(address).await.unwrap());
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    all
}

#[tokio::test]
async fn a_server_that_is_told_to_stop_does_not_wait_for_handshakes() {
    let env = TestEnv::new().await;
    let issued = self_signed(&["localhost"]);
    let served = Served::vault(env.whole_vault(), &issued.served(), Limits::default());
    let silent = futures(served.address, 5).await;
    let begun = Instant::now();
    assert!(served.stop().await.drained);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    drop(silent);
}

#[tokio::test]
async fn garbage_instead_of_a_handshake_ends_the_connection_and_nothing_else() {
    let env = TestEnv::new().await;
    let issued = self_signed(&["localhost"]);
    let served = Served::vault(env.whole_vault(), &issued.served(), Limits::default());
    for garbage in [&[22u8, 3, 1, 0xff, 0xff][..], &[22; 300], &[0; 300], &[0x80, 0x2e, 1]] {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest));
        assert!(ended.await.is_ok(), "{garbage:?}");
    }
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    stream.shutdown().await.unwrap();
    hear(&mut stream).await.must_be(400, Code::Invalid, "https");
    let pinned = format!("https://localhost:{}#{}", served.address.port(), issued.pin());
    HttpBackend::new(pinned.parse().unwrap()).health().await.unwrap();
    drop(StdStream::connect(served.address));
    assert!(served.stop().await.drained);
}
