//! The real daemon, confined, before a real backend over TLS: by name and by address, by a pin and
//! by a root that the environment names; paired, used, and not fooled by another certificate.
use serde_json::json;

use crate::daemon_process::{Daemon, pair_by};
use crate::home::{Home, Ran};
use crate::store_victim::skip;
use crate::tls_support::*;

/// A home whose commands use that backend.
struct Scene {
    home: Home,
    backend: String,
    roots: Option<std::path::PathBuf>,
}

impl Scene {
    fn command(&self, words: &[&str]) -> std::process::Command {
        let mut command = self.home.command(words);
        command.env("AGENTKEYS_BACKEND", &self.backend);
        if let Some(roots) = &self.roots {
            command.env("SSL_CERT_FILE", roots);
        }
        command
    }

    fn run(&self, words: &[&str]) -> Ran {
        Ran::of(self.command(words).output().unwrap())
    }

    fn daemon(&self) -> Daemon {
        let mut daemon = Daemon::spawn(&mut self.command(&["daemon", "--agent", "my-agent"]));
        daemon.initialize();
        daemon
    }
}

/// Pairs a daemon over the way that the address gives, and has it read.
fn uses(scene: &Scene) -> Daemon {
    scene.run(&["init", "--mock-token", "ada"]).exits(0);
    let secret = scene.home.file("secret", "sk-or-v1-test");
    let path = secret.to_str().unwrap();
    scene.run(&["store", "my-agent", "openrouter", "--from-file", path]).exits(0);
    let mut daemon = scene.daemon();
    assert!(daemon.stderr().contains("in force"), "{}", daemon.stderr());
    pair_by(|words| scene.run(words), &mut daemon, "my-agent");
    let read = daemon.call("get_credential", json!({ "service": "openrouter" }));
    assert_eq!(read["structuredContent"]["credential"], "sk-or-v1-test", "{read}");
    daemon
}

#[test]
fn a_confined_daemon_reaches_a_pinned_backend_by_name_and_by_address() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["--listen", "127.0.0.1:0", "--tls-self-signed"];
    let serving = Serving::start(folder.path(), &arguments);
    for host in ["localhost", "127.0.0.1"] {
        let backend = format!("https://{host}:{}#{}", serving.port(), serving.pin());
        uses(&Scene { home: Home::new(), backend, roots: None });
    }
}

#[test]
fn a_confined_daemon_reads_the_roots_that_the_environment_names_and_asks_the_resolver() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    // A name that is in no answer but the resolver's: this machine's own.
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_owned();
    let resolved = std::net::ToSocketAddrs::to_socket_addrs(&(name.as_str(), 0));
    let own = resolved.ok().and_then(|mut found| found.find(|addr| addr.is_ipv4()));
    let names = ["localhost", "127.0.0.1", &name];
    let (chain, key) = authority.issue(&names, VALID).files(folder.path());
    let roots = authority.file(folder.path());
    let (chain, key) = (chain.to_str().unwrap(), key.to_str().unwrap());
    let arguments = ["--listen", "127.0.0.1:0", "--tls-cert", chain, "--tls-key", key];
    let serving = Serving::start(folder.path(), &arguments);
    let mut hosts = vec!["localhost", "127.0.0.1"];
    match own {
        Some(own) if own.ip().is_loopback() => hosts.push(&name),
        _ => skip("a name", "this machine's own is not one of loopback"),
    }
    for host in hosts {
        let backend = format!("https://{host}:{}", serving.port());
        uses(&Scene { home: Home::new(), backend, roots: Some(roots.clone()) });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_gives_its_session_to_no_other_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["--listen", "127.0.0.1:0", "--tls-self-signed"];
    let serving = Serving::start(folder.path(), &arguments);
    let address = serving.url("https://").trim_start_matches("https://").parse().unwrap();
    let backend = format!("https://{address}#{}", serving.pin());
    let scene = Scene { home: Home::new(), backend, roots: None };
    let mut daemon = tokio::task::block_in_place(|| uses(&scene));
    let pin = serving.pin();
    drop(serving);
    let theirs = self_signed(&["127.0.0.1"]);
    let recorder = Recorder::tls_at(address, &theirs, "").await;
    let read = tokio::task::block_in_place(|| {
        daemon.call("get_credential", json!({ "service": "openrouter" }))
    });
    assert_eq!(read["isError"], true, "{read}");
    let said = read.to_string();
    assert!(said.contains(&pin) && said.contains(&theirs.pin().to_string()), "{said}");
    // Nor the secret that a new start renews its session by.
    drop(daemon);
    let read = tokio::task::block_in_place(|| {
        scene.daemon().call("get_credential", json!({ "service": "openrouter" }))
    });
    assert_eq!(read["isError"], true, "{read}");
    assert!(recorder.connections() >= 2 && recorder.heard().is_empty(), "{}", recorder.heard());
    // The real one again, and everything goes on.
    drop(recorder);
    let listen = address.to_string();
    let arguments = ["--listen", listen.as_str(), "--tls-self-signed"];
    let _serving = Serving::start(folder.path(), &arguments);
    let read = tokio::task::block_in_place(|| {
        scene.daemon().call("get_credential", json!({ "service": "openrouter" }))
    });
    assert_eq!(read["structuredContent"]["credential"], "sk-or-v1-test", "{read}");
}
