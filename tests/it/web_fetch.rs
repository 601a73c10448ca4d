//! The client for an issuer's pages against real servers: what it takes, and what it refuses
//! before or after a byte was sent.
use std::time::{Duration, Instant};

use agentkeys::web::handshake::Why;
use agentkeys::web::{FetchError, Fetched, Fetcher};
use serde_json::{Value, json};

use crate::tls_support::*;

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
}

const JSON: &str = "content-type: application/json\r\n";

async fn fetched(answer: &str) -> Result<Fetched, FetchError> {
    let server = Recorder::plain(answer).await;
    Fetcher::new().get_json(&format!("http://{}/page", server.address)).await
}

#[tokio::test]
async fn a_page_over_tls_and_one_on_loopback_are_read() {
    let authority = Authority::new();
    let cached = format!("{JSON}cache-control: max-age=60\r\n");
    let page = answer("200 OK", &cached, r#"{"issuer":"here"}"#);
    let tls = Recorder::tls(&authority.issue(&["localhost"], VALID), &page).await;
    let plain = Recorder::plain(&page).await;
    let fetcher = Fetcher::trusting(authority.trust());
    for url in [
        format!("https://localhost:{}/a?b=c", tls.address.port()),
        format!("http://127.0.0.1:{}/a?b=c", plain.address.port()),
        format!("http://localhost:{}/a?b=c", plain.address.port()),
    ] {
        let fetched = fetcher.get_json(&url).await.unwrap();
        assert!(fetched.is_success());
        assert_eq!(fetched.json::<Value>().unwrap(), json!({ "issuer": "here" }));
        assert_eq!(fetched.max_age, Some(Duration::from_secs(60)));
    }
    let heard = tls.heard();
    assert!(heard.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{heard}");
    assert!(heard.contains(&format!("host: localhost:{}\r\n", tls.address.port())), "{heard}");
}

#[tokio::test]
async fn a_form_is_posted_and_an_error_of_the_issuer_s_is_an_answer() {
    let refused = answer("400 Bad Request", JSON, r#"{"error":"authorization_pending"}"#);
    let server = Recorder::plain(&refused).await;
    let url = format!("http://{}/token", server.address);
    let fields = [("grant_type", "a b"), ("code", "x&y=z")];
    let fetched = Fetcher::new().post_form(&url, &fields).await.unwrap();
    assert_eq!((fetched.status, fetched.is_success()), (400, false));
    assert_eq!(fetched.json::<Value>().unwrap()["error"], "authorization_pending");
    let heard = server.heard();
    assert!(heard.contains("content-type: application/x-www-form-urlencoded\r\n"), "{heard}");
    assert!(heard.ends_with("\r\n\r\ngrant_type=a%20b&code=x%26y%3Dz"), "{heard}");
    // Without JSON it is an answer as well, of which nothing can be read.
    let page = fetched_page("502 Bad Gateway").await;
    assert!(matches!(page.json::<Value>(), Err(FetchError::NotJson(_))));
}

async fn fetched_page(status: &str) -> Fetched {
    fetched(&answer(status, "content-type: text/html\r\n", "<p>")).await.unwrap()
}

#[tokio::test]
async fn what_leaves_this_machine_in_the_clear_is_never_opened() {
    for url in ["http://192.0.2.1/", "http://example.org/", "file:///etc/passwd", "https://a@b/"] {
        let error = Fetcher::new().get_json(url).await.err().unwrap();
        assert!(matches!(error, FetchError::Url(_)), "{url}: {error}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_believed_is_sent_nothing() {
    let (ours, strangers) = (Authority::new(), Authority::new());
    let fetcher = Fetcher::trusting(ours.trust());
    for (issued, expected) in [
        (strangers.issue(&["localhost"], VALID), Why::UnknownIssuer),
        (ours.issue(&["elsewhere.org"], VALID), Why::WrongName),
        (ours.issue(&["localhost"], (2001, 2002)), Why::Expired),
        (ours.issue(&["localhost"], (2095, 2096)), Why::NotYetValid),
    ] {
        let server = Recorder::tls(&issued, "").await;
        let url = format!("https://localhost:{}/token", server.address.port());
        let error = fetcher.post_form(&url, &[("client_secret", "hidden")]).await.err().unwrap();
        let FetchError::NotBelieved { why, .. } = &error else { panic!("{error}") };
        assert_eq!((why, error.may_pass()), (&expected, false));
        assert_eq!((server.connections(), server.heard().as_str()), (1, ""));
    }
}

#[tokio::test]
async fn no_redirect_is_followed() {
    let elsewhere = Recorder::plain(&answer("200 OK", JSON, "{}")).await;
    for status in ["301 Moved", "302 Found", "303 See Other", "307 T", "308 P"] {
        let location = format!("location: http://{}/\r\n", elsewhere.address);
        let error = fetched(&answer(status, &location, "")).await.err().unwrap();
        assert!(matches!(error, FetchError::Redirect { .. }), "{error}");
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn an_answer_that_is_too_large_or_no_json_is_refused() {
    let large = format!("\"{}\"", "a".repeat(300 * 1024));
    let error = fetched(&answer("200 OK", JSON, &large)).await.err().unwrap();
    assert!(matches!(error, FetchError::TooLarge(_)), "{error}");
    // One that does not say how large it is.
    let chunk = format!("4000\r\n{}\r\n", "a".repeat(0x4000));
    let endless = format!("HTTP/1.1 200 OK\r\n{JSON}transfer-encoding: chunked\r\n\r\n");
    let error = fetched(&(endless + &chunk.repeat(20))).await.err().unwrap();
    assert!(matches!(error, FetchError::TooLarge(_)), "{error}");
    let error = fetched(&answer("200 OK", "", "{}")).await.err().unwrap();
    assert!(matches!(error, FetchError::NotJson(_)), "{error}");
    let page = fetched(&answer("200 OK", JSON, "{")).await.unwrap();
    assert!(matches!(page.json::<Value>(), Err(FetchError::NotJson(_))));
    let head = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "a".repeat(1024 * 1024));
    let error = fetched(&head).await.err().unwrap();
    assert!(matches!(error, FetchError::Broken(_)), "{error}");
}

#[tokio::test]
async fn nobody_there_and_nobody_answering_are_told_in_time() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = Fetcher::new().get_json(&format!("http://{gone}/")).await.err().unwrap();
    assert!(matches!(error, FetchError::Unreachable { .. }) && error.may_pass(), "{error}");
    // Connects, and says nothing: neither in the handshake nor after the request.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let fetcher = Fetcher::trusting(Authority::new().trust());
    let begun = Instant::now();
    let (handshake, request) =
        (format!("https://localhost:{port}/"), format!("http://127.0.0.1:{port}/"));
    let (tls, plain) = tokio::join!(fetcher.get_json(&handshake), fetcher.get_json(&request));
    for error in [tls.err().unwrap(), plain.err().unwrap()] {
        assert!(matches!(error, FetchError::Late(_)) && error.may_pass(), "{error}");
    }
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
    drop(silent);
}
