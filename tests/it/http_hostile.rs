//! Every kind of malformed request gets its problem document, and the server goes on serving.
use std::time::{Duration, Instant};

use agentkeys::backend::http::Limits;
use agentkeys::core::problem::Code;
use tokio::io::AsyncWriteExt;

use super::http_support::*;

const JSON: &str = "content-type: application/json";

fn bearer() -> String {
    format!("authorization: Bearer {}", master().expose())
}

#[tokio::test]
async fn malformed_json_is_named_and_not_repeated() {
    let server = Server::tcp(Limits::default());
    let bearer = bearer();
    let deep_list = format!(r#"{{"agent_id":{}"#, "[".repeat(100_000));
    let deep_object = r#"{"scope":"#.repeat(20_000);
    for (line, body, field) in [
        (
            "POST /credential/store",
            r#"{"agent_id":"a","service":"x","cyphertext":""}"#,
            "cyphertext",
        ),
        ("POST /credential/store", r#"{"agent_id":7,"service":"x","ciphertext":""}"#, "agent_id"),
        ("POST /credential/store", r#"{"agent_id":"a","service":null,"ciphertext":""}"#, "service"),
        (
            "POST /credential/store",
            r#"{"agent_id":"a","service":"x","ciphertext":"%%"}"#,
            "ciphertext",
        ),
        (
            "POST /credential/store",
            r#"{"agent_id":"a\u0000","service":"x","ciphertext":""}"#,
            "agent_id",
        ),
        (
            "POST /credential/store",
            r#"{"agent_id":"a","service":"\u0000x","ciphertext":""}"#,
            "service",
        ),
        ("POST /credential/store", r#"{"agent_id":"a","service":"x"}"#, "ciphertext"),
        ("POST /credential/store", r#"{"agent_id":"a","agent_id":"b"}"#, "service"),
        ("POST /credential/store", r#"[1,2]"#, "the body"),
        ("POST /credential/store", r#""SECRET42"#, "the body"),
        ("POST /credential/store", r#"{"SECRET42":1}"#, "a field"),
        ("POST /credential/store", r#"{} {}"#, "the body"),
        ("POST /credential/store", &deep_list, "the body"),
        ("POST /session/child", &deep_object, "the body"),
        ("POST /session/child", r#"{"scope":{"services":["a","SECRET 42"]}}"#, "scope.services[1]"),
        ("POST /session/child", r#"{"scope":{"readonly":true}}"#, "scope.readonly"),
        ("POST /session/child", r#"{"scope":"all"}"#, "scope"),
        ("POST /session/revoke", r#"{"target_session":"SECRET42"}"#, "target_session"),
        ("POST /payment/fund", r#"{"agent_id":"a","layer":"system_gas","amount":1e3}"#, "amount"),
        ("DELETE /credential/teardown", r#"{"agent_id":"0x12"}  x"#, "the body"),
        ("POST /auth-request/approve", r#"{"request_id":"12"}"#, "request_id"),
    ] {
        let heard = server.ask(line, &[&bearer, JSON], body.as_bytes()).await;
        heard.must_be(422, Code::Invalid, field);
        assert!(!heard.body.contains("SECRET") && !heard.body.contains("%%"), "{}", heard.body);
        assert!(heard.head.contains("cache-control: no-store"));
        assert!(heard.head.contains("x-content-type-options: nosniff"));
        assert!(heard.head.contains("agentkeys-wire: 1"));
        assert!(heard.head.contains("agentkeys-request-id: "));
    }
    let heard = server.ask("POST /agents", &[&bearer, JSON], b"{\"name\":\"\xff\xfe\"}").await;
    heard.must_be(422, Code::Invalid, "UTF-8");
    assert_eq!(server.calls(), Vec::<String>::new());
    server.must_serve().await;
}

#[tokio::test]
async fn malformed_queries_are_named() {
    let server = Server::tcp(Limits::default());
    let bearer = bearer();
    for (line, words) in [
        ("GET /credential/read?agent_id=a", "service is not valid"),
        (
            "GET /credential/read?agent_id=a&service=x&agent_id=b",
            "agent_id is not valid / it is given twice",
        ),
        ("GET /credential/read?agent_id=a&service=x&extra=1", "extra is not valid"),
        ("GET /credential/read?agent_id=a&service=x&agk%6D_SECRET=1", "a field of the query"),
        ("GET /credential/read?agent_id=a%00&service=x", "agent_id"),
        ("GET /credential/read?agent_id=%ff&service=x", "percent-encoded"),
        ("GET /credential/read?agent_id=%zz&service=x", "percent-encoded"),
        ("GET /audit/query?limit=0", "1 to 1000"),
        ("GET /audit/query?wait=31", "0 to 30"),
        ("GET /agents?x=1", "the query"),
        ("GET /health?x=1", "the query"),
    ] {
        server.ask(line, &[&bearer], b"").await.must_be(422, Code::Invalid, words);
    }
    let post = server.ask("POST /agents?name=x", &[&bearer, JSON], br#"{"name":"x"}"#).await;
    post.must_be(422, Code::Invalid, "takes no query");
    assert_eq!(server.calls(), Vec::<String>::new());
    server.must_serve().await;
}

#[tokio::test]
async fn who_calls_must_be_said_once_and_well() {
    let server = Server::tcp(Limits::default());
    let good = bearer();
    let other = format!("authorization: Bearer {}x", master().expose());
    let basic = "authorization: Basic dTpw".to_owned();
    let kind = format!(
        "authorization: Bearer {}",
        agentkeys::core::token::RenewalSecret::new(&[1; 32]).expose()
    );
    for headers in [
        vec![],
        vec![good.as_str(), good.as_str()],
        vec![other.as_str()],
        vec![basic.as_str()],
        vec![kind.as_str()],
        vec!["authorization: Bearer"],
        vec!["authorization:"],
        vec!["authorization: Bearer \u{e9}"],
    ] {
        let heard = server.ask("GET /agents", &headers, b"").await;
        heard.must_be(401, Code::Unauthorized, "");
        assert!(heard.head.contains("www-authenticate: bearer"));
        assert!(!heard.body.contains("agkm_") && !heard.body.contains("agkr_"), "{}", heard.body);
    }
    assert_eq!(server.ask("GET /agents", &[&good], b"").await.status, 200);
}

#[tokio::test]
async fn unknown_paths_and_wrong_methods_are_told_apart() {
    let server = Server::tcp(Limits::default());
    for line in ["GET /nothing", "GET /agents/", "GET //agents", "GET /Agents", "OPTIONS *"] {
        server.ask(line, &[], b"").await.must_be(404, Code::NotFound, "no such endpoint");
    }
    for (line, allow) in [
        ("PUT /agents", "allow: post, get"),
        ("HEAD /health", "allow: get"),
        ("GET /session/create", "allow: post"),
        ("POST /credential/teardown", "allow: delete"),
        ("BREW /credential/teardown", "allow: delete"),
    ] {
        let heard = server.ask(line, &[], b"").await;
        assert_eq!(heard.status, 405, "{line}");
        assert!(heard.head.contains(allow), "{}", heard.head);
        if !line.starts_with("HEAD") {
            assert_eq!(heard.problem().code, Code::Invalid);
        }
    }
}

#[tokio::test]
async fn only_json_is_taken_and_only_where_a_body_belongs() {
    let server = Server::tcp(Limits::default());
    let bearer = bearer();
    for kind in [
        "content-type: text/plain",
        "content-type: application/x-www-form-urlencoded",
        "content-type: application/json\r\ncontent-type: application/json",
        "accept: application/json",
    ] {
        let heard = server.ask("POST /agents", &[&bearer, kind], br#"{"name":"x"}"#).await;
        heard.must_be(422, Code::Invalid, "Content-Type");
    }
    let packed = [&bearer, JSON, "content-encoding: gzip"];
    let heard = server.ask("POST /agents", &packed, br#"{"name":"x"}"#).await;
    heard.must_be(422, Code::Invalid, "Content-Encoding");
    let heard = server.ask("GET /agents", &[&bearer, JSON], b"{}").await;
    heard.must_be(422, Code::Invalid, "takes no body");
    let with_charset = "content-type: application/json; charset=utf-8";
    let heard = server.ask("POST /agents", &[&bearer, with_charset], br#"{"name":"x"}"#).await;
    assert_eq!(heard.status, 200);
    server.must_serve().await;
}

#[tokio::test]
async fn another_server_s_host_and_a_page_s_origin_are_refused() {
    let server = Server::tcp(Limits::default());
    let port = server.port();
    let own = format!("http://localhost:{port}");
    let get = |target: &str, lines: &[&str]| {
        format!("GET {target} HTTP/1.1\r\n{}\r\nconnection: close\r\n\r\n", lines.join("\r\n"))
    };
    let host = format!("host: 127.0.0.1:{port}");
    for good in [
        get("/health", &[&host]),
        get("/health", &["host: LOCALHOST"]),
        get("/health", &[&format!("host: [::1]:{port}")]),
        get("/health", &[&host, &format!("origin: {own}")]),
        get(&format!("{own}/health"), &[&format!("host: localhost:{port}")]),
    ] {
        assert_eq!(server.raw(&good).await.status, 200, "{good}");
    }
    for bad in [
        get("/health", &["host: evil.example"]),
        get("/health", &[&format!("host: evil.example:{port}")]),
        get("/health", &[&format!("host: localhost:{}", port ^ 1)]),
        get("/health", &["host: "]),
        get("/health", &["accept: */*"]),
        get("/health", &[&host, &host]),
        get("/health", &[&host, "origin: http://evil.example"]),
        get("/health", &[&host, "origin: null"]),
        get("/health", &[&host, "origin: http://localhost:1"]),
        get("http://evil.example/health", &[&host]),
        get(&format!("{own}/health"), &["host: evil.example"]),
        get("/nothing", &["host: evil.example"]),
    ] {
        server.raw(&bad).await.must_be(403, Code::Denied, "refused");
    }
    let old = "GET /health HTTP/1.0\r\n\r\n";
    server.raw(old).await.must_be(403, Code::Denied, "no Host header");
    server.must_serve().await;
}

#[tokio::test]
async fn a_body_of_100_mb_is_refused_readably_while_it_is_being_sent() {
    let server = Server::tcp(Limits::default());
    let head = |extra: &str| {
        format!(
            "POST /credential/store HTTP/1.1\r\nhost: localhost\r\n{}\r\n{JSON}\r\n{extra}\r\n\r\n",
            bearer()
        )
    };
    // This client sends everything before it reads anything.
    let mut stream = server.connect().await;
    stream.write_all(head("content-length: 100000000").as_bytes()).await.unwrap();
    let piece = vec![b'x'; 1_000_000];
    for _ in 0..100 {
        stream.write_all(&piece).await.unwrap();
    }
    hear(&mut stream).await.must_be(413, Code::TooLarge, "262144 bytes");
    // This one asks first, and is told before it has sent anything.
    let asking = head("content-length: 100000000\r\nexpect: 100-continue");
    let heard = server.raw(&asking).await;
    heard.must_be(413, Code::TooLarge, "262144 bytes");
    assert!(!heard.head.contains("100 continue"));
    server.must_serve().await;
}

#[tokio::test]
async fn an_endless_chunked_body_is_answered_and_then_cut_off() {
    let limits = Limits { discard_time: Duration::from_secs(4), ..Limits::default() };
    let server = Server::tcp(limits);
    let mut stream = server.connect().await;
    let head = format!(
        "POST /credential/store HTTP/1.1\r\nhost: localhost\r\n{}\r\n{JSON}\r\n\
         transfer-encoding: chunked\r\n\r\n",
        bearer()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut reading, mut writing) = stream.into_split();
    let begun = Instant::now();
    let flood = tokio::spawn(async move {
        let chunk = [b"10000\r\n".as_slice(), &[b'x'; 0x10000], b"\r\n"].concat();
        while writing.write_all(&chunk).await.is_ok() {}
    });
    // The answer is there long before the flood is cut off.
    let mut first = [0; 12];
    tokio::io::AsyncReadExt::read_exact(&mut reading, &mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 413");
    assert!(begun.elapsed() < Duration::from_millis(3500), "{:?}", begun.elapsed());
    tokio::time::timeout(Duration::from_secs(15), flood).await.expect("still flooding").unwrap();
    server.must_serve().await;
}

#[tokio::test]
async fn framing_tricks_end_the_connection_and_nothing_is_done() {
    let server = Server::tcp(Limits::default());
    let post = |headers: &str, body: &str| {
        let bearer = bearer();
        format!(
            "POST /agents HTTP/1.1\r\nhost: localhost\r\n{bearer}\r\n{JSON}\r\n{headers}\r\n\r\n{body}"
        )
    };
    for bytes in [
        post("content-length: 12\r\ncontent-length: 13", r#"{"name":"x"}"#),
        post("content-length: -1", ""),
        post("transfer-encoding: gzip", ""),
        post("transfer-encoding: chunked", "zz\r\n"),
        "\0\0\0\0\r\n\r\n".to_owned(),
        "GET /health HTTP/9.9\r\n\r\n".to_owned(),
        "GET  /health HTTP/1.1\r\nhost: localhost\r\n\r\n".to_owned(),
        "GET /health HTTP/1.1\r\nhost: localhost\r\nbad header: x\r\n\r\n".to_owned(),
        format!("GET /{} HTTP/1.1\r\nhost: localhost\r\n\r\n", "x".repeat(100_000)),
        format!("GET /health HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "x".repeat(100_000)),
    ] {
        let mut stream = server.connect().await;
        let _ = stream.write_all(bytes.as_bytes()).await;
        let mut answer = Vec::new();
        let reading = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut answer);
        let _ = tokio::time::timeout(Duration::from_secs(5), reading).await.expect("still open");
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    let many: Vec<_> = (0..65).map(|n| format!("x-{n}: 1")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    let heard = server.ask("GET /health", &many, b"").await;
    heard.must_be(431, Code::TooLarge, "64");
    assert_eq!(server.calls(), Vec::<String>::new());
    server.must_serve().await;
}

#[tokio::test]
async fn a_slow_head_and_a_slow_body_are_cut_off() {
    let limits = Limits {
        head_time: Duration::from_millis(300),
        body_time: Duration::from_millis(300),
        ..Limits::default()
    };
    let server = Server::tcp(limits);
    let begun = Instant::now();
    let drip = |first: String| {
        let server = &server;
        async move {
            let mut stream = server.connect().await;
            stream.write_all(first.as_bytes()).await.unwrap();
            let (mut reading, mut writing) = stream.into_split();
            let dripping = tokio::spawn(async move {
                while writing.write_all(b"a").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            });
            let mut answer = Vec::new();
            let read = tokio::io::AsyncReadExt::read_to_end(&mut reading, &mut answer);
            let _ = tokio::time::timeout(Duration::from_secs(20), read).await.expect("still open");
            dripping.abort();
            String::from_utf8(answer).unwrap()
        }
    };
    let body = format!(
        "POST /agents HTTP/1.1\r\nhost: localhost\r\n{}\r\n{JSON}\r\ncontent-length: 1000\r\n\r\n",
        bearer()
    );
    let (silent, version, head, slow_body) = tokio::join!(
        drip(String::new()),
        drip("PRI * HTTP/2.0\r\n".to_owned()),
        drip("GET /health HTTP/1.1\r\nx: ".to_owned()),
        drip(body),
    );
    assert_eq!((silent.as_str(), head.as_str()), ("", ""));
    assert!(version.is_empty() || version.starts_with("HTTP/1.1 400"), "{version}");
    assert!(slow_body.starts_with("HTTP/1.1 408"), "{slow_body}");
    assert!(slow_body.contains("within 0 s"), "{slow_body}");
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    // The second head of a kept connection has no more time than the first.
    let kept = drip("GET /health HTTP/1.1\r\nhost: localhost\r\n\r\nGET /health HTTP".to_owned());
    assert!(kept.await.starts_with("HTTP/1.1 200"));
    server.must_serve().await;
}
