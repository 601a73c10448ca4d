//! The client against the server, over real sockets: every method, every field, both ways; and
//! the client against servers that lie.
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use agentkeys::backend::http::Limits;
use agentkeys::client::http::{Address, HttpBackend, Options, is_unreachable};
use agentkeys::core::audit;
use agentkeys::core::backend::*;
use agentkeys::core::payment::{Layer, PaymentRail};
use agentkeys::core::presence::{Level, NewLevel};
use agentkeys::core::problem::Code;
use agentkeys::core::scope::Scope;
use agentkeys::core::secret::SecretBytes;
use agentkeys::core::sign_in::{Flow, SignInNews};
use agentkeys::core::terms::{Exposure, TermsChange};
use agentkeys::core::token::{OpenToken, RegistrationToken, RenewalSecret, SessionToken};
use agentkeys::core::types::*;

use super::http_support::*;

fn client(address: impl ToString) -> HttpBackend {
    HttpBackend::new(address.to_string().parse().unwrap())
}

#[tokio::test]
async fn every_method_and_every_field_goes_over_tcp_and_back() {
    let server = Server::tcp(Limits::default());
    round_trip(&server, &client(&server.address)).await;
}

#[tokio::test]
async fn every_method_and_every_field_goes_over_a_unix_socket_and_back() {
    let home = tempfile::tempdir().unwrap();
    let path = format!("unix:{}/run/backend.sock", home.path().display());
    let server = Server::at(&path, Limits::default());
    round_trip(&server, &client(&server.address)).await;
    let client = client(&server.address);
    client.create_session(IdentityProof::Peer, ClientInfo::default()).await.ok().unwrap();
    let call = server.calls().pop().unwrap();
    assert!(call.starts_with("create_session peer Some(Unix(UnixPeer { uid: "), "{call}");
    let program = std::env::current_exe().unwrap();
    assert!(call.contains(&format!("program: Some({program:?})")), "{call}");
}

async fn round_trip(server: &Server, to: &HttpBackend) {
    let session = master();
    let agent = "My-Agent".parse().unwrap();
    let mail = "a+b@x.org".parse().unwrap();
    let service = "OpenRouter".parse().unwrap();
    let said = |wanted: String| assert_eq!(server.calls(), [wanted]);

    let proof = IdentityProof::Token(SecretBytes::new(b"mock:\"alice\"\n".to_vec()));
    let info =
        ClientInfo { host: Some("laptop".parse().unwrap()), user: Some("me".parse().unwrap()) };
    let minted = to.create_session(proof, info.clone()).await.ok().unwrap();
    assert_eq!(minted.session.id(), master().id());
    assert_eq!(minted.session_id, master().id());
    assert_eq!((minted.wallet, minted.expires_at), (WalletAddress([7; 20]), Timestamp(9_000)));
    assert!(minted.renewal.is_none());
    said(format!("create_session mock:\"alice\"\n {info:?}"));

    assert!(minted.news.is_none());

    let begun = to.begin_sign_in(Flow::Device).await.ok().unwrap();
    let sent = sign_in_start();
    assert_eq!((&begun.issuer, &begun.client_id), (&sent.issuer, &sent.client_id));
    assert_eq!((&begun.client_secret, &begun.scope), (&sent.client_secret, &sent.scope));
    assert_eq!((&begun.nonce, begun.expires_in), (&sent.nonce, sent.expires_in));
    assert_eq!(begun.ticket.expose(), sent.ticket.expose());
    said("begin_sign_in device".into());
    let token = SecretBytes::new(b"a.b.c".to_vec());
    let proof = IdentityProof::IdToken { token, ticket: begun.ticket };
    let minted = to.create_session(proof, info.clone()).await.ok().unwrap();
    let news = SignInNews { email: Some("a@x.org".into()), owns_now: true };
    assert_eq!(minted.news, Some(news));
    said(format!("create_session a.b.c {} {info:?}", ticket().expose()));

    let minted = to.create_child_session(&session, Some(&agent), scope()).await.ok().unwrap();
    assert_eq!(minted.session.expose(), SessionToken::child(&[2; 32]).expose());
    let renewal = minted.renewal.unwrap();
    assert_eq!(renewal.expose(), RenewalSecret::new(&[3; 32]).expose());
    said(format!("create_child_session {:?} {:?}", Some(&agent), scope()));
    to.create_child_session(&session, None, Scope::everything()).await.ok().unwrap();
    said(format!("create_child_session None {:?}", Scope::everything()));

    let minted = to.renew_session(&renewal).await.ok().unwrap();
    assert_eq!(minted.renewal.unwrap().expose(), RenewalSecret::new(&[9; 32]).expose());
    said(format!("renew_session {}", renewal.expose()));

    to.store_credential(&session, &agent, &service, vec![0, 1, 255]).await.unwrap();
    said(format!("store_credential {agent:?} {service:?} [0, 1, 255]"));
    let plaintext = to.read_credential(&session, &mail, &service).await.ok().unwrap();
    assert_eq!(plaintext.expose(), PLAINTEXT);
    said(format!("read_credential {mail:?} {service:?}"));
    let all = to.read_all(&session, &agent).await.ok().unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].service, service);
    assert_eq!(all[0].credential.expose(), PLAINTEXT);
    said(format!("read_all {agent:?}"));
    let listed = to.list_credentials(&session, &agent).await.unwrap();
    assert_eq!(listed, [credential_summary()]);
    said(format!("list_credentials {agent:?}"));
    let back = to.roll_back_credential(&session, &agent, &service).await.unwrap();
    assert_eq!(back, credential_summary());
    said(format!("roll_back_credential {agent:?} {service:?}"));
    let injected = to.inject_credential(&session, &agent, &service).await.unwrap();
    assert_eq!(injected.expose(), PLAINTEXT);
    said(format!("inject_credential {agent:?} {service:?}"));
    let change = TermsChange {
        expose: Some(Exposure::Broker),
        rules: Some(terms().rules),
        budget: terms().budget,
    };
    let set = to.set_terms(&session, &agent, &service, change.clone()).await.unwrap();
    assert_eq!(set, terms());
    said(format!("set_terms {agent:?} {service:?} {change:?}"));
    let tier = Some(Exposure::Broker);
    assert_eq!(to.default_exposure(&session, tier).await.unwrap(), Exposure::Inject);
    said(format!("default_exposure {tier:?}"));
    to.delete_credential(&session, &agent, &service).await.unwrap();
    said(format!("delete_credential {agent:?} {service:?}"));

    let filter = AuditFilter {
        agent_id: Some(mail.clone()),
        service: Some(service.clone()),
        action: Some(audit::Action::SessionChild),
        outcome: Some(audit::Outcome::Denied),
        since: Some(Timestamp(1_001)),
        until: Some(Timestamp(2_002)),
        from: Some(u64::MAX),
        limit: Some(1_000),
        wait: Some(3),
    };
    assert_eq!(to.query_audit(&session, filter.clone()).await.unwrap(), page());
    said(format!("query_audit {filter:?}"));
    to.query_audit(&session, AuditFilter::default()).await.unwrap();
    said(format!("query_audit {:?}", AuditFilter::default()));

    for (target, words) in [
        (RevokeTarget::Session(master().id()), format!("id {}", master().id())),
        (RevokeTarget::Token(refused()), format!("token {}", refused().expose())),
        (RevokeTarget::Agent(mail.clone()), "agent a+b@x.org".to_owned()),
    ] {
        to.revoke_session(&session, target).await.unwrap();
        said(format!("revoke_session {words}"));
    }
    to.teardown_agent(&session, &agent).await.unwrap();
    said(format!("teardown_agent {agent:?}"));
    assert_eq!(to.set_scope(&session, &agent, scope()).await.unwrap(), agent_summary());
    said(format!("set_scope {agent:?} {:?}", scope()));
    to.reinstate_agent(&session, &agent).await.unwrap();
    said(format!("reinstate_agent {agent:?}"));
    assert_eq!(to.presence(&session).await.unwrap(), presence());
    said("presence".to_owned());
    let level = NewLevel { level: Level::None, public_key: None, salt: None };
    assert_eq!(to.set_presence(&session, &level).await.unwrap(), presence());
    said(format!("set_presence {level:?}"));
    assert_eq!(to.ask_presence_reset(&session).await.unwrap(), presence());
    said("ask_presence_reset".to_owned());
    assert_eq!(to.cancel_presence_reset(&session).await.unwrap(), presence());
    said("cancel_presence_reset".to_owned());
    assert_eq!(to.shielding_key().await.unwrap(), shielding());

    let open = OpenToken::new(&[5; 32]);
    let code = "ABCD-EFGH".parse().unwrap();
    let keys = ChildKeys([6; 64]);
    let registered = to.register_rendezvous(&open, code, keys).await.ok().unwrap();
    assert_eq!(registered.expose(), RegistrationToken::new(&[4; 32]).expose());
    said(format!("register_rendezvous {} ABCD-EFGH {keys}", open.expose()));
    let found = RegistrationToken::new(&[6; 32]);
    let wait = Duration::from_secs(2);
    let payload = to.poll_rendezvous(&found, wait).await.unwrap();
    assert_eq!(payload, Some(vec![0, 255, 1]));
    said(format!("poll_rendezvous {} {wait:?}", found.expose()));
    assert_eq!(to.poll_rendezvous(&registered, Duration::ZERO).await.unwrap(), None);
    said(format!("poll_rendezvous {} {:?}", registered.expose(), Duration::ZERO));
    to.deliver_rendezvous(&session, code, vec![9, 0]).await.unwrap();
    said("deliver_rendezvous ABCD-EFGH [9, 0]".to_owned());

    for given in [None, Some(session)] {
        let by = given.as_ref().map(SessionToken::id);
        let request = OpenRequest { keys, details: details(), session: given };
        let opened = to.open_auth_request(request).await.ok().unwrap();
        assert_eq!(opened.id, RequestId([4; 16]));
        assert_eq!((opened.otp.to_string(), opened.ttl_seconds), ("000001".to_owned(), 300));
        assert_eq!((opened.pair_code, opened.nonce_hash), (code, Hash32([1; 32])));
        assert_eq!(opened.open_token.expose(), open.expose());
        assert_eq!(opened.created_at, Timestamp(1_234));
        said(format!("open_auth_request {keys} {:?} {by:?}", details()));
    }
    let session = master();
    assert_eq!(to.fetch_auth_request(&session, code).await.unwrap(), fetched());
    said("fetch_auth_request ABCD-EFGH".to_owned());
    let (id, seen) = (RequestId([4; 16]), Some(fetched().seen_hash()));
    let grant = Grant {
        agent_id: Some(agent.clone()),
        name: Some("other".parse().unwrap()),
        scope: Some(scope()),
        lasts: Some(agentkeys::core::backend::Lasts::Seconds(60)),
    };
    let approved = to.approve_auth_request(&session, id, seen, grant.clone()).await.unwrap();
    assert_eq!((approved.request_id, approved.agent), (id, agent_summary()));
    said(format!("approve_auth_request {id} {seen:?} {grant:?}"));
    to.deny_auth_request(&session, id).await.unwrap();
    said(format!("deny_auth_request {id}"));
    assert_eq!(to.list_pending(&session).await.unwrap(), [pending()]);
    said("list_pending".to_owned());
    assert_eq!(to.await_auth_decision(&open, id, wait).await.unwrap(), Some(decision()));
    said(format!("await_auth_decision {} {id} {wait:?}", open.expose()));
    let other = RequestId([0; 16]);
    assert_eq!(to.await_auth_decision(&open, other, Duration::ZERO).await.unwrap(), None);
    server.calls();

    assert_eq!(to.who_am_i(&session).await.unwrap(), who());
    said("who_am_i".to_owned());
    let name = "My-Agent".parse().unwrap();
    assert_eq!(to.create_agent(&session, &name).await.unwrap(), agent_summary());
    said(format!("create_agent {name:?}"));
    assert_eq!(to.list_agents(&session).await.unwrap(), [agent_summary()]);
    said("list_agents".to_owned());
    assert_eq!(to.link_identity(&session, &agent, &mail).await.unwrap(), agent_summary());
    said(format!("link_identity {agent:?} {mail:?}"));
    assert_eq!(to.unlink_identity(&session, &mail).await.unwrap(), agent_summary());
    said(format!("unlink_identity {mail:?}"));
    assert_eq!(to.resolve_identity(&session, &mail).await.unwrap(), agent_summary());
    said(format!("resolve_identity {mail:?}"));

    let layer = Layer::ServicePayment;
    assert_eq!(to.check_balance(&session, &agent, layer).await.unwrap(), balance());
    said(format!("check_balance {agent:?} {layer:?}"));
    assert_eq!(to.fund_child(&session, &agent, layer, u64::MAX).await.unwrap(), balance());
    said(format!("fund_child {agent:?} {layer:?} {}", u64::MAX));
    let left = to.debit(&session, &agent, layer, 5, Some(&service), "ref-1").await.unwrap();
    assert_eq!(left, balance());
    said(format!("debit {agent:?} {layer:?} 5 {:?} ref-1", Some(&service)));
    assert_eq!(to.spending_history(&session, &agent, 7).await.unwrap(), [spending()]);
    said(format!("spending_history {agent:?} 7"));

    assert_eq!(to.last_head(), Some(head(2)));
    assert_eq!(to.health().await.unwrap().status, "ok");
    assert_eq!(to.version().await.unwrap().version, env!("CARGO_PKG_VERSION"));
}

#[tokio::test]
async fn a_problem_arrives_as_it_was_sent() {
    let server = Server::tcp(Limits::default());
    let to = client(&server.address);
    let problem = to.list_agents(&refused()).await.unwrap_err();
    assert_eq!(problem, refusal());
    assert!(!is_unreachable(&problem));
}

#[tokio::test]
async fn one_connection_serves_call_after_call_and_many_calls_run_at_once() {
    let limits = Limits { connections: 9, connections_per_address: 9, ..Limits::default() };
    let server = Server::tcp(limits);
    let options = Options { connections: 8, ..Options::default() };
    let address = server.address.to_string().parse().unwrap();
    let to = std::sync::Arc::new(HttpBackend::with_options(address, options));
    for _ in 0..50 {
        to.who_am_i(&master()).await.unwrap();
    }
    let begun = Instant::now();
    let slow: Vec<_> = (0..16)
        .map(|_| {
            let to = std::sync::Arc::clone(&to);
            tokio::spawn(async move {
                let (agent, service) = ("a".parse().unwrap(), SLOWLY.parse().unwrap());
                to.read_credential(&master(), &agent, &service).await.map(|_| ())
            })
        })
        .collect();
    for call in slow {
        call.await.unwrap().unwrap();
    }
    let took = begun.elapsed();
    assert!(took >= SLOW * 2 && took < SLOW * 8, "{took:?}");
}

#[tokio::test]
async fn a_server_that_was_started_again_is_found_again() {
    let first = Server::tcp(Limits::default());
    let address = first.address.clone();
    let to = client(&address);
    to.who_am_i(&master()).await.unwrap();
    let stopped = first.stop().await.unwrap();
    assert!(stopped.drained);
    let listen = address.to_string();
    let _second = Server::at(&listen, Limits::default());
    to.who_am_i(&master()).await.unwrap();
}

#[tokio::test]
async fn connecting_is_tried_again_until_somebody_listens() {
    let reserved = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = reserved.local_addr().unwrap();
    drop(reserved);
    let to = HttpBackend::new(Address::from(address));
    let call = tokio::spawn(async move { to.health().await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let _server = Server::at(&address.to_string(), Limits::default());
    assert_eq!(call.await.unwrap().unwrap().status, "ok");
}

#[tokio::test]
async fn a_missing_socket_is_unreachable_and_says_where_how_often_and_how_long() {
    let home = tempfile::tempdir().unwrap();
    let address = format!("unix:{}/none.sock", home.path().display());
    let problem = client(&address).health().await.unwrap_err();
    assert!(is_unreachable(&problem));
    assert_eq!(problem.code, Code::Unavailable);
    assert_eq!(problem.detail, format!("the backend at {address} cannot be reached"));
    assert!(problem.cause.starts_with("3 tries over 0.9 s") || problem.cause.contains("1.0 s"));
    assert!(problem.cause.ends_with("no such file or directory"), "{}", problem.cause);
}

#[tokio::test]
async fn an_older_head_is_shown_and_of_crossing_answers_the_higher_one_stays() {
    static SEQ: AtomicU64 = AtomicU64::new(5);
    let server = Server::with_head("127.0.0.1:0", Limits::default(), || {
        Some(head(SEQ.load(Ordering::SeqCst)))
    });
    let to = client(&server.address);
    to.who_am_i(&master()).await.unwrap();
    assert_eq!(to.last_head().unwrap().seq, 5);
    // The backend went back: whoever compares heads has to see it.
    SEQ.store(3, Ordering::SeqCst);
    to.who_am_i(&master()).await.unwrap();
    assert_eq!(to.last_head().unwrap().seq, 3);
    // A slow answer of head 4 was overtaken by one of head 6.
    SEQ.store(4, Ordering::SeqCst);
    let (agent, service) = ("a".parse().unwrap(), SLOWLY.parse().unwrap());
    let session = master();
    let slow = to.read_credential(&session, &agent, &service);
    let fast = async {
        tokio::time::sleep(SLOW / 2).await;
        SEQ.store(6, Ordering::SeqCst);
        to.who_am_i(&master()).await.map(|_| ())
    };
    let (slow, fast) = tokio::join!(slow, fast);
    slow.map(|_| ()).and(fast).unwrap();
    assert_eq!(to.last_head().unwrap().seq, 6);
}

/// A server that answers each connection's first request with fixed bytes.
fn liar(answer: impl Into<Vec<u8>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let answer = answer.into();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(&answer);
        }
    });
    address
}

fn http(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\n\r\n{body}")
}

#[tokio::test]
async fn what_is_not_the_wire_s_format_is_a_clean_problem() {
    const OK: &str = "agentkeys-wire: 1\r\ncontent-type: application/json\r\n";
    const BAD: &str = "agentkeys-wire: 1\r\ncontent-type: application/problem+json\r\n";
    let good = r#"{"status":"ok"}"#;
    let escape = r#"{"type":"x","title":"t","status":403,"detail":"\u001b[2J","code":"DENIED","cause":"c","fix":"f"}"#;
    let contradicting = r#"{"type":"x","title":"t","status":403,"detail":"d","code":"DENIED","cause":"c","fix":"f"}"#;
    let head = "agentkeys-head: e30=\r\n";
    let forged = {
        let mut head = head_of(7);
        head.seq = 8;
        let json = serde_json::to_vec(&head).unwrap();
        format!("agentkeys-head: {}\r\n", agentkeys::core::encoding::to_base64(&json))
    };
    for (answer, why) in [
        (http("200 OK", "content-type: application/json\r\n", good), "which wire"),
        (http("200 OK", "agentkeys-wire: 1\r\ncontent-type: text/html\r\n", good), "content type"),
        (http("200 OK", "agentkeys-wire: 1\r\n", good), "content type"),
        (http("200 OK", OK, r#"{"status":"ok","more":1}"#), "its fields"),
        (http("200 OK", OK, "{}"), "its fields"),
        (http("200 OK", OK, "<html>"), "its fields"),
        (http("204 No Content", OK, ""), "status is 204"),
        (http("302 Found", "agentkeys-wire: 1\r\nlocation: http://127.0.0.1/\r\n", ""), "302"),
        (http("403 Forbidden", OK, contradicting), "content type"),
        (http("404 Not Found", BAD, contradicting), "another status"),
        (http("403 Forbidden", BAD, escape), "control characters"),
        (http("403 Forbidden", BAD, "{}"), "no problem document"),
        (http("200 OK", &format!("{OK}{head}"), good), "signed head"),
        (http("200 OK", &format!("{OK}{forged}"), good), "does not verify"),
        (http("200 OK", OK, &" ".repeat(1024 * 1024 + 1)), "larger than"),
        (format!("HTTP/1.1 200 OK\r\n{OK}content-length: 99999999999\r\n\r\n"), "larger than"),
    ] {
        let problem = client(liar(answer.clone())).health().await.unwrap_err();
        assert_eq!(problem.code, Code::Internal, "{answer}: {problem:?}");
        assert!(problem.detail.contains("not its wire format"), "{problem:?}");
        assert!(problem.cause.contains(why), "{why}: {}", problem.cause);
        assert!(!is_unreachable(&problem));
    }
    let answer = http("200 OK", "agentkeys-wire: 2\r\n", good);
    let problem = client(liar(answer)).health().await.unwrap_err();
    assert_eq!(problem.detail, "wrong backend version");
    assert!(problem.cause.contains("wire 2"), "{}", problem.cause);
    for answer in ["", "HTTP/1.1 200 OK\r\nagentkeys-wire: 1\r\ncontent-length: 9\r\n\r\n{"] {
        let problem = client(liar(answer)).health().await.unwrap_err();
        assert_eq!(problem.code, Code::Unavailable);
        assert!(problem.detail.contains("hung up"), "{problem:?}");
        assert!(!is_unreachable(&problem));
    }
}

fn head_of(seq: u64) -> audit::Head {
    head(seq)
}

#[tokio::test]
async fn a_secret_that_does_not_parse_is_not_repeated() {
    let body = r#"{"credential":"SECRET-not-base64"}"#;
    let headers = "agentkeys-wire: 1\r\ncontent-type: application/json\r\n";
    let to = client(liar(http("200 OK", headers, body)));
    let (agent, service) = ("a".parse().unwrap(), "x".parse().unwrap());
    let problem = to.read_credential(&master(), &agent, &service).await.err().unwrap();
    assert!(!format!("{problem:?}").contains("SECRET"), "{problem:?}");
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::from(listener.local_addr().unwrap());
    let options = Options { request: Duration::from_millis(200), ..Options::default() };
    let to = HttpBackend::with_options(address, options);
    let problem = to.reinstate_agent(&master(), &"a".parse().unwrap()).await.unwrap_err();
    assert!(problem.detail.contains("did not answer in time"), "{problem:?}");
    assert!(problem.cause.contains("may have been done"), "{problem:?}");
}
