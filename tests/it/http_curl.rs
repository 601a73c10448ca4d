//! What a person with curl sees when what they send is too much or wrong: the problem document,
//! over both protocols, and a server that goes on.
use std::process::Command;
use std::time::{Duration, Instant};

use agentkeys::backend::http::Limits;

use super::http_support::*;

/// Whether curl is there. Without it the check is skipped loudly, and fails in CI.
fn has_curl() -> bool {
    let there = Command::new("curl").arg("--version").output().is_ok();
    if !there {
        eprintln!("SKIPPED: there is no curl on this machine");
        assert!(std::env::var_os("CI").is_none(), "CI has no curl");
    }
    there
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_and_mistakes_are_answered_readably() {
    if !has_curl() {
        return;
    }
    let server = Server::tcp(Limits::default());
    let auth = format!("Authorization: Bearer {}", master().expose());
    let home = tempfile::tempdir().unwrap();
    let big = home.path().join("big");
    std::fs::File::create(&big).unwrap().set_len(100_000_000).unwrap();
    let big = format!("@{}", big.display());
    let chunked = ["-X", "POST", "-T", "/dev/zero", "-H", "Transfer-Encoding: chunked"];
    let h2 = "--http2-prior-knowledge";
    for (arguments, code) in [
        (vec!["--data-binary", &big], "TOO_LARGE 413 1.1"),
        (vec!["--data-binary", &big, "-H", "Expect:"], "TOO_LARGE 413 1.1"),
        (vec!["--data-binary", &big, h2], "TOO_LARGE 413 2"),
        (chunked.to_vec(), "TOO_LARGE 413 1.1"),
        ([&chunked[..], &["-H", "Expect:"]].concat(), "TOO_LARGE 413 1.1"),
        (vec!["-X", "POST", "-T", "/dev/zero", h2], "TOO_LARGE 413 2"),
        (vec!["-d", "{\"a\":1}"], "INVALID 422 1.1"),
        (vec!["-d", "{\"a\":1}", h2], "INVALID 422 2"),
        (vec!["-X", "POST"], "INVALID 422 1.1"),
        (vec!["-d", "{}", "-H", "Origin: http://evil.example"], "DENIED 403 1.1"),
    ] {
        let begun = Instant::now();
        let mut curl = Command::new("curl");
        curl.args(["-q", "-sS", "-m", "20", "-w", "\n%{http_code} %{http_version}"])
            .args(["-H", "Content-Type: application/json", "-H", &auth])
            .args(&arguments)
            .arg(format!("http://127.0.0.1:{}/credential/store", server.port()));
        let output = tokio::task::spawn_blocking(move || curl.output().unwrap()).await.unwrap();
        let heard = String::from_utf8(output.stdout).unwrap();
        let problems = String::from_utf8_lossy(&output.stderr);
        let (body, end) = heard.rsplit_once('\n').unwrap();
        let body: serde_json::Value = serde_json::from_str(body)
            .unwrap_or_else(|_| panic!("{arguments:?}: {heard:?} {problems}"));
        assert_eq!(format!("{} {end}", body["code"].as_str().unwrap()), code, "{arguments:?}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{arguments:?}: {:?}", begun.elapsed());
    }
    server.must_serve().await;
}
