//! The connections that exchanges with services go by: one serves the next when its exchange is
//! over, and none does when it is not.
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use agentkeys::client::http::{HttpBackend, ServiceBody};
use agentkeys::core::gateway::{self, MEDIA_TYPE, RequestHead, ResponseHead};
use agentkeys::core::problem::Answer;
use agentkeys::core::token::SessionToken;
use http_body_util::{BodyExt, Empty};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// A backend that answers every exchange with `done`, and counts who connects.
async fn counting() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, count) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counted = count.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(serve(stream));
        }
    });
    (address, count)
}

/// Serves until the client hangs up, or is asked for `/last`. `/endless` has no end.
async fn serve(stream: TcpStream) {
    let mut stream = BufReader::new(stream);
    while let Some(request) = request(&mut stream).await {
        let head = gateway::encode(&ResponseHead { status: 200, headers: Vec::new() }).unwrap();
        let endless = request.contains("/endless");
        let end = if endless { "" } else { "4\r\ndone\r\n0\r\n\r\n" };
        let answer = [
            format!(
                "HTTP/1.1 200 OK\r\nagentkeys-wire: 1\r\ncontent-type: {MEDIA_TYPE}\r\n\
                 transfer-encoding: chunked\r\n\r\n{:x}\r\n",
                head.len()
            )
            .into_bytes(),
            head,
            format!("\r\n{end}").into_bytes(),
        ];
        if stream.write_all(&answer.concat()).await.is_err() || request.contains("/last") {
            return;
        }
    }
}

/// The body of one request, which says its length: a head, and nothing after it.
async fn request(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let (mut line, mut length) = (String::new(), 0);
    while line != "\r\n" {
        line.clear();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    assert!(length > 0, "a request without a length");
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(String::from_utf8_lossy(&body).into_owned())
}

async fn ask(backend: &HttpBackend, target: &str) -> Answer<ServiceBody> {
    let head = RequestHead {
        agent_id: "my-agent".parse().unwrap(),
        host: None,
        service: "openai".parse().unwrap(),
        method: "GET".into(),
        target: target.into(),
        headers: Vec::new(),
        body: false,
        websocket: false,
        misplaced: false,
    };
    let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
    let session = SessionToken::child(&[7; 32]);
    backend.forward(&session, &head, body, |_| Ok(())).await.map(|(_, body)| body)
}

async fn whole(backend: &HttpBackend, target: &str) {
    let body = ask(backend, target).await.unwrap().collect().await.unwrap();
    assert_eq!(body.to_bytes(), "done");
}

#[tokio::test]
async fn a_connection_serves_the_next_exchange_when_its_own_is_over() {
    let (address, count) = counting().await;
    let backend = HttpBackend::new(address.into());
    for _ in 0..3 {
        whole(&backend, "/whole").await;
    }
    assert_eq!(count.load(Ordering::SeqCst), 1);
    // Two at once have two.
    let first = ask(&backend, "/whole").await.unwrap();
    whole(&backend, "/whole").await;
    assert_eq!(first.collect().await.unwrap().to_bytes(), "done");
    assert_eq!(count.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_connection_whose_answer_broke_off_serves_no_other() {
    let (address, count) = counting().await;
    let backend = HttpBackend::new(address.into());
    drop(ask(&backend, "/endless").await.unwrap());
    whole(&backend, "/whole").await;
    assert_eq!(count.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_kept_connection_that_has_ended_is_replaced_without_a_word() {
    let (address, count) = counting().await;
    let backend = HttpBackend::new(address.into());
    whole(&backend, "/last").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    whole(&backend, "/whole").await;
    assert_eq!(count.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn who_leaves_with_the_last_byte_leaves_the_connection_to_the_next() {
    let (address, count) = counting().await;
    let backend = HttpBackend::new(address.into());
    for _ in 0..5 {
        // As an answer is handed on whose length the service said: nobody waits for its end.
        let mut body = ask(&backend, "/whole").await.unwrap();
        let last = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(last, "done");
        drop(body);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(count.load(Ordering::SeqCst), 1);
}
