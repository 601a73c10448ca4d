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

#[tokio::test(flavor = "multi_thread")]
async fn another_user_is_hung_up_on_although_the_files_would_let_them_in() {
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::process::CommandExt;
    let home = tempfile::tempdir().unwrap();
    if !has_curl() || std::fs::metadata(home.path()).unwrap().uid() != 0 {
        eprintln!("SKIPPED: only root can become another user");
        return;
    }
    let folder = home.path().join("run");
    let socket = folder.join("backend.sock");
    let server = Server::at(&format!("unix:{}", socket.display()), Limits::default());
    for path in [home.path(), &folder] {
        set_permissions(path, Permissions::from_mode(0o711)).unwrap();
    }
    set_permissions(&socket, Permissions::from_mode(0o666)).unwrap();
    let status = async |uid: u32| {
        let mut curl = Command::new("curl");
        curl.args(["-q", "-s", "-m", "20", "-o", "/dev/null", "-w", "%{http_code}"])
            .arg("--unix-socket")
            .arg(&socket)
            .arg("http://localhost/health")
            .current_dir("/")
            .uid(uid);
        let output = tokio::task::spawn_blocking(move || curl.output().unwrap()).await.unwrap();
        (String::from_utf8(output.stdout).unwrap(), output.status.code().unwrap())
    };
    assert_eq!(status(0).await, ("200".to_owned(), 0));
    // The files would let them in; the server hangs up without an answer. curl calls it 7 when
    // that happens before it has looked at the connection.
    let writable = Command::new("test").arg("-w").arg(&socket).uid(65_534).status().unwrap();
    assert!(writable.success());
    let (answered, end) = status(65_534).await;
    assert!(answered == "000" && [7, 52, 55, 56].contains(&end), "{answered} {end}");
    assert_eq!(status(0).await, ("200".to_owned(), 0));
    assert!(server.stop().await.unwrap().drained);
}
