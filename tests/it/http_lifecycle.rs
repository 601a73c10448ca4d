//! The server's life: both protocols, its limits on connections, panics, clients that go away,
//! and stopping.
use std::time::{Duration, Instant};

use agentkeys::backend::http::Limits;
use agentkeys::client::http::HttpBackend;
use agentkeys::core::backend::{AuditFilter, CredentialBackend};
use agentkeys::core::problem::Code;
use agentkeys::core::token::RegistrationToken;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::http_support::*;

async fn h2(server: &Server) -> http2::SendRequest<Full<bytes::Bytes>> {
    let stream = TokioIo::new(server.connect().await);
    let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn request(server: &Server, path: &str, body: Vec<u8>) -> Request<Full<bytes::Bytes>> {
    let method = if body.is_empty() { "GET" } else { "POST" };
    Request::builder()
        .method(method)
        .uri(format!("http://localhost:{}{path}", server.port()))
        .header("authorization", format!("Bearer {}", master().expose()))
        .header("content-type", "application/json")
        .body(Full::new(body.into()))
        .unwrap()
}

#[tokio::test]
async fn http_2_is_served_on_the_same_port_with_the_same_rules() {
    let server = Server::tcp(Limits::default());
    let mut to = h2(&server).await;
    let many: Vec<_> = (0..40)
        .map(|_| {
            let path = format!("/credential/read?agent_id=a&service={SLOWLY}");
            tokio::spawn(to.send_request(request(&server, &path, vec![])))
        })
        .collect();
    let begun = Instant::now();
    for answer in many {
        let answer = answer.await.unwrap().unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["agentkeys-wire"], "1");
        assert!(answer.headers().contains_key("agentkeys-head"));
        answer.into_body().collect().await.unwrap();
    }
    assert!(begun.elapsed() < SLOW * 4, "the streams waited for each other");
    let stored = request(&server, "/agents", br#"{"name":"x"}"#.to_vec());
    assert_eq!(to.send_request(stored).await.unwrap().status(), 200);
    for (path, body, status) in [
        ("/credential/store", vec![b'x'; 20_000_000], 413),
        ("/agents", b"{".to_vec(), 422),
        ("/nothing", vec![], 404),
    ] {
        let answer = to.send_request(request(&server, path, body)).await.unwrap();
        assert_eq!(answer.status(), status, "{path}");
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        answer.into_body().collect().await.unwrap();
    }
    let mut foreign = request(&server, "/health", vec![]);
    *foreign.uri_mut() = "http://evil.example/health".parse().unwrap();
    assert_eq!(to.send_request(foreign).await.unwrap().status(), 403);
    assert!(server.stop().await.unwrap().drained);
}

#[tokio::test]
async fn pipelined_and_kept_connections_are_served_in_order() {
    let server = Server::tcp(Limits::default());
    let one = "GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let last = "GET /version HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let mut stream = server.connect().await;
    stream.write_all(format!("{one}{one}{last}").as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 3);
    assert!(text.ends_with(r#","wire":1}"#), "{text}");
}

#[tokio::test]
async fn a_connection_beyond_the_cap_is_told_so_and_its_place_comes_back() {
    let limits = Limits { connections: 3, connections_per_address: 2, ..Limits::default() };
    let server = Server::tcp(limits);
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = server.connect().await;
        stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        held.push(stream);
    }
    let heard = server.ask("GET /health", &[], b"").await;
    heard.must_be(503, Code::Unavailable, "too many connections");
    assert!(heard.head.contains("retry-after: 1"));
    // Another address still gets in.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut other = socket.connect(([127, 0, 0, 1], server.port()).into()).await.unwrap();
    let get = b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    other.write_all(get).await.unwrap();
    assert_eq!(hear(&mut other).await.status, 200);
    drop(held);
    let begun = Instant::now();
    while server.ask("GET /health", &[], b"").await.status != 200 {
        assert!(begun.elapsed() < Duration::from_secs(5), "the places did not come back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let limits = Limits {
        idle_time: Duration::from_millis(300),
        head_time: Duration::from_millis(100),
        ..Limits::default()
    };
    let server = Server::tcp(limits);
    let mut stream = server.connect().await;
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let begun = Instant::now();
    assert_eq!(hear(&mut stream).await.status, 200);
    assert!(begun.elapsed() >= Duration::from_millis(250), "{:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_panic_in_a_handler_is_an_internal_problem_and_the_connection_goes_on() {
    let server = Server::tcp(Limits::default());
    let bearer = format!("authorization: Bearer {}", master().expose());
    let line = format!("GET /credential/read?agent_id=a&service={PANICS}");
    let heard = server.ask(&line, &[&bearer], b"").await;
    heard.must_be(500, Code::Internal, "a fault of its own");
    assert!(!heard.body.contains("as the test wants it"));
    server.must_serve().await;
}

#[tokio::test]
async fn what_changes_state_is_finished_although_its_client_has_gone() {
    let server = Server::tcp(Limits::default());
    let mut stream = server.connect().await;
    let body = format!(r#"{{"agent_id":"a","service":"{SLOWLY}","ciphertext":"AA=="}}"#);
    let head = format!(
        "POST /credential/store HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        master().expose(),
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    tokio::time::sleep(SLOW / 3).await;
    drop(stream);
    assert_eq!(server.calls(), Vec::<String>::new());
    tokio::time::sleep(SLOW).await;
    assert_eq!(server.calls().len(), 1);
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_given_up_with_a_problem() {
    let limits = Limits { request_time: SLOW / 3, ..Limits::default() };
    let server = Server::tcp(limits);
    let bearer = format!("authorization: Bearer {}", master().expose());
    let line = format!("GET /credential/read?agent_id=a&service={SLOWLY}");
    let heard = server.ask(&line, &[&bearer], b"").await;
    heard.must_be(503, Code::Unavailable, "given up");
    let body = format!(r#"{{"agent_id":"a","service":"{SLOWLY}","ciphertext":"AA=="}}"#);
    let json = "content-type: application/json";
    let heard = server.ask("POST /credential/store", &[&bearer, json], body.as_bytes()).await;
    heard.must_be(503, Code::Unavailable, "may yet be done");
}

#[tokio::test]
async fn stopping_answers_parked_polls_at_once_and_frees_the_socket() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("run/backend.sock");
    let server = Server::at(&format!("unix:{}", path.display()), Limits::default());
    let address = server.address.to_string();
    let parked: Vec<_> = (0..20)
        .map(|_| {
            let to = HttpBackend::new(address.parse().unwrap());
            tokio::spawn(async move {
                let token = RegistrationToken::new(&[7; 32]);
                to.poll_rendezvous(&token, Duration::from_secs(30)).await
            })
        })
        .collect();
    while server.calls.lock().unwrap().len() < 20 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let begun = Instant::now();
    let stopping = server.stop();
    for poll in parked {
        let problem = poll.await.unwrap().unwrap_err();
        assert_eq!(problem.code, Code::Unavailable);
        assert_eq!(
            (problem.detail.as_str(), problem.retry_after),
            ("the backend is stopping", Some(1))
        );
    }
    let stopped = stopping.await.unwrap();
    assert!(stopped.drained);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    // Its place is kept until the store is closed.
    let taken = agentkeys::backend::http::Listener::bind(&address.parse().unwrap());
    assert!(taken.err().unwrap().to_string().contains("already running"));
    drop(stopped);
    assert!(!path.exists());
    drop(Server::at(&address, Limits::default()));
}

#[tokio::test]
async fn stopping_lets_what_is_under_way_finish_and_hangs_up_on_the_rest() {
    let limits = Limits { drain_time: SLOW * 3, ..Limits::default() };
    let server = Server::tcp(limits);
    let to = HttpBackend::new(server.address.to_string().parse().unwrap());
    let under_way = tokio::spawn(async move {
        let (agent, service) = ("a".parse().unwrap(), SLOWLY.parse().unwrap());
        to.read_credential(&master(), &agent, &service).await.map(|_| ())
    });
    let mut stuck = server.connect().await;
    stuck.write_all(b"POST /agents HTTP/1.1\r\nhost: localhost\r\n").await.unwrap();
    stuck.write_all(b"content-type: application/json\r\ncontent-length: 9\r\n\r\n").await.unwrap();
    tokio::time::sleep(SLOW / 3).await;
    let port = server.port();
    let begun = Instant::now();
    let stopping = server.stop();
    under_way.await.unwrap().unwrap();
    assert!(tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err());
    assert!(!stopping.await.unwrap().drained);
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    let mut rest = Vec::new();
    let _ = stuck.read_to_end(&mut rest).await;
    assert!(!rest.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test]
async fn a_client_that_gives_up_closes_its_connection() {
    let limits = Limits { connections: 1, connections_per_address: 1, ..Limits::default() };
    let server = Server::tcp(limits);
    let to = HttpBackend::new(server.address.to_string().parse().unwrap());
    let token = RegistrationToken::new(&[7; 32]);
    let poll = to.poll_rendezvous(&token, Duration::from_secs(30));
    assert!(tokio::time::timeout(Duration::from_millis(100), poll).await.is_err());
    // The only place there is comes back, although the poll would have gone on.
    let begun = Instant::now();
    while to.query_audit(&master(), AuditFilter::default()).await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(5), "the poll still holds its place");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
