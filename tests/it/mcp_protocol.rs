//! The MCP server on pipes, with a client that writes JSON-RPC by hand, against a holder that
//! answers what it is told to. Every line that the server writes is checked to be a message.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use agentkeys::daemon::mcp::{self, MAX_IN_FLIGHT, MAX_MESSAGE, McpError};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream, Lines};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::mcp_fake::{Fake, Mood};

const SOON: Duration = Duration::from_secs(10);

struct Client {
    input: Option<DuplexStream>,
    output: Lines<BufReader<DuplexStream>>,
    served: JoinHandle<Result<(), McpError>>,
    holder: Arc<Fake>,
}

impl Client {
    /// Connected, with no session opened.
    fn raw(mood: Mood) -> Self {
        let holder = Arc::new(Fake::new(mood));
        let (input, server_input) = tokio::io::duplex(64 * 1024);
        let (server_output, output) = tokio::io::duplex(64 * 1024);
        let server = Arc::clone(&holder);
        let served = tokio::spawn(mcp::serve(server, server_input, server_output));
        let output = BufReader::new(output).lines();
        Self { input: Some(input), output, served, holder }
    }

    /// With a session of a version that has `initialize`.
    async fn open(mood: Mood, version: &str) -> Self {
        let mut client = Self::raw(mood);
        let opened = client.ask(0, "initialize", initialize(version)).await;
        assert_eq!(opened["result"]["protocolVersion"], version, "{opened}");
        client.tell("notifications/initialized", json!({})).await;
        client
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.input.as_mut().unwrap().write_all(bytes).await.unwrap();
    }

    async fn line(&mut self, message: &Value) {
        self.send(format!("{message}\n").as_bytes()).await;
    }

    async fn begin(&mut self, id: impl Into<Value>, method: &str, params: Value) {
        let id = id.into();
        self.line(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})).await;
    }

    async fn tell(&mut self, method: &str, params: Value) {
        self.line(&json!({"jsonrpc": "2.0", "method": method, "params": params})).await;
    }

    /// The next thing that the server says, which must be a message.
    async fn hear(&mut self) -> Value {
        let line = timeout(SOON, self.output.next_line()).await.expect("nothing was said");
        message(&line.unwrap().expect("it has hung up"))
    }

    async fn ask(&mut self, id: u64, method: &str, params: Value) -> Value {
        self.begin(id, method, params).await;
        loop {
            let heard = self.hear().await;
            if heard.get("id").is_some() {
                assert_eq!(heard["id"], id, "{heard}");
                return heard;
            }
        }
    }

    async fn call(&mut self, id: u64, name: &str, arguments: Value) -> Value {
        self.ask(id, "tools/call", json!({"name": name, "arguments": arguments})).await
    }

    /// Nothing more is said for a while.
    async fn silence(&mut self) {
        let heard = timeout(Duration::from_millis(200), self.output.next_line()).await;
        assert!(heard.is_err(), "{heard:?}");
    }

    /// Hangs up, and gives what is said until the server has ended.
    async fn hang_up(mut self) -> Vec<Value> {
        drop(self.input.take());
        let mut heard = Vec::new();
        while let Some(line) = timeout(SOON, self.output.next_line()).await.unwrap().unwrap() {
            heard.push(message(&line));
        }
        timeout(SOON, self.served).await.expect("it goes on").unwrap().unwrap();
        heard
    }
}

/// A line of output: one JSON-RPC 2.0 message of those that a server may send.
fn message(line: &str) -> Value {
    let message: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
    assert_eq!(message["jsonrpc"], "2.0", "{line}");
    let has = |name: &str| message.get(name).is_some();
    match (has("method"), has("result"), has("error")) {
        (true, false, false) => assert!(!has("id"), "the client was asked: {line}"),
        (false, true, false) => assert!(has("id"), "{line}"),
        (false, false, true) => assert!(message["error"]["code"].is_i64(), "{line}"),
        _ => panic!("no message: {line}"),
    }
    message
}

fn initialize(version: &str) -> Value {
    json!({
        "protocolVersion": version,
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    })
}

/// What every request of a version without `initialize` carries.
fn inline(mut params: Value) -> Value {
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    });
    params
}

#[tokio::test]
async fn every_version_with_initialize_opens_lists_and_calls() {
    for version in ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"] {
        let mut client = Client::open(Mood::Works, version).await;
        let tools = client.ask(1, "tools/list", json!({})).await["result"]["tools"].clone();
        let names: Vec<_> = tools.as_array().unwrap().iter().map(|tool| &tool["name"]).collect();
        assert_eq!(
            names,
            ["http_request", "get_credential", "list_credentials", "request_access", "provision"]
        );
        let got = client.call(2, "get_credential", json!({"service": "openrouter"})).await;
        let result = &got["result"];
        assert_eq!(result["structuredContent"]["credential"], "sk-or-v1-test", "{version}");
        assert_eq!(result["isError"], false);
        assert_eq!(result.get("_meta"), None);
        assert_eq!(client.ask(3, "ping", json!({})).await["result"], json!({}));
        client.hang_up().await;
    }
}

#[tokio::test]
async fn an_unknown_version_is_answered_with_the_newest_that_has_initialize() {
    let mut client = Client::raw(Mood::Works);
    let opened = client.ask(0, "initialize", initialize("2031-01-01")).await;
    assert_eq!(opened["result"]["protocolVersion"], "2025-11-25");
}

#[tokio::test]
async fn the_stateless_version_needs_no_initialize() {
    let mut client = Client::raw(Mood::Works);
    let found = client.ask(1, "server/discover", inline(json!({}))).await["result"].clone();
    let versions = found["supportedVersions"].as_array().unwrap();
    assert!(versions.contains(&json!("2026-07-28")), "{found}");
    assert!(found["instructions"].as_str().unwrap().contains("get_credential"));
    let call = json!({"name": "get_credential", "arguments": {"service": "github"}});
    let got = client.ask(2, "tools/call", inline(call)).await;
    let content = &got["result"]["structuredContent"];
    assert_eq!(content["credential"], "ghp_\"quoted\"\n\\ \u{20AC}", "{got}");
    let listed = client.ask(3, "tools/list", inline(json!({}))).await;
    assert_eq!(listed["result"]["ttlMs"], 0, "{listed}");
    client.hang_up().await;
}

#[tokio::test]
async fn initialize_is_answered_before_the_holder_is_asked_anything() {
    let mut client = Client::raw(Mood::Hangs);
    let started = Instant::now();
    client.ask(0, "initialize", initialize("2025-11-25")).await;
    // In this process; what a started one takes is measured with the daemon itself.
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    client.silence().await;
    assert_eq!(client.holder.asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn text_beside_a_credential_says_the_same_and_binary_comes_as_base64() {
    let mut client = Client::open(Mood::Works, "2025-06-18").await;
    for (id, service) in [(1, "github"), (2, "binary"), (3, "openrouter")] {
        let got = client.call(id, "get_credential", json!({"service": service})).await;
        let content = &got["result"]["structuredContent"];
        let text = got["result"]["content"][0]["text"].as_str().unwrap();
        assert_eq!(serde_json::from_str::<Value>(text).unwrap(), *content);
        match service {
            "binary" => {
                assert_eq!(
                    (&content["credential"], &content["encoding"]),
                    (&json!("/wCA"), &json!("base64"))
                );
            }
            _ => assert_eq!(content["encoding"], "utf-8"),
        }
    }
    let got = client.call(4, "get_credential", json!({"service": "github"})).await;
    assert_eq!(got["result"]["structuredContent"]["variables"][0], "GITHUB_TOKEN");
}

#[tokio::test]
async fn a_dotted_name_calls_the_same_tool_and_an_unknown_one_is_named_an_error() {
    let mut client = Client::open(Mood::Works, "2025-11-25").await;
    let arguments = json!({"service": "openrouter"});
    let got = client.call(1, "agentkeys.get_credential", arguments.clone()).await;
    assert_eq!(got["result"]["structuredContent"]["status"], "ok");
    let got = client.call(2, "agentkeys.list_credentials", json!({})).await;
    assert_eq!(got["result"]["structuredContent"]["credentials"].as_array().unwrap().len(), 3);
    let got = client.call(3, "get_secret", arguments).await;
    assert_eq!(got["error"]["code"], -32602, "{got}");
    assert!(got["error"]["message"].as_str().unwrap().contains("get_credential"));
}

#[tokio::test]
async fn arguments_that_do_not_fit_are_an_error_that_the_model_can_read() {
    let mut client = Client::open(Mood::Works, "2025-11-25").await;
    let wrong = [
        ("get_credential", json!({})),
        ("get_credential", json!({"service": 5})),
        ("get_credential", json!({"service": "x".repeat(64)})),
        ("get_credential", json!({"service": "openrouter", "extra": true})),
        ("list_credentials", json!({"service": "openrouter"})),
        ("request_access", json!({"service": "new", "reason": "a\nb"})),
    ];
    let asked = client.holder.asked.load(Ordering::SeqCst);
    for (id, (tool, arguments)) in wrong.into_iter().enumerate() {
        let got = client.call(10 + id as u64, tool, arguments.clone()).await;
        assert_eq!(got["result"]["isError"], true, "{arguments}: {got}");
        assert_eq!(got["result"]["structuredContent"]["code"], "INVALID");
        let text = got["result"]["content"][0]["text"].as_str().unwrap();
        assert!(text.contains("not valid"), "{text}");
    }
    // The session's watch asks how it stands, once; no call has asked.
    assert!(client.holder.asked.load(Ordering::SeqCst) <= asked + 1);
    // Arguments of another JSON type break the protocol, and the client's request is named.
    let got =
        client.ask(30, "tools/call", json!({"name": "get_credential", "arguments": []})).await;
    assert_eq!(got["error"]["code"], -32602, "{got}");
}

#[tokio::test]
async fn while_unpaired_every_tool_says_what_the_user_does() {
    let mut client = Client::open(Mood::Waits, "2025-11-25").await;
    let calls = [
        ("get_credential", json!({"service": "openrouter"})),
        ("list_credentials", json!({})),
        ("request_access", json!({"service": "new"})),
        ("http_request", json!({"url": "/v1/models", "service": "new"})),
    ];
    for (id, (tool, arguments)) in calls.into_iter().enumerate() {
        let got = client.call(id as u64, tool, arguments).await;
        let result = &got["result"];
        assert_eq!(result["isError"], true, "{got}");
        assert_eq!(result["structuredContent"]["status"], "waiting_for_approval");
        assert_eq!(result["structuredContent"]["pair_code"], "ABCD-EFGH");
        assert_eq!(result["structuredContent"]["otp"], "042137");
        let text = result["content"][0]["text"].as_str().unwrap();
        assert!(text.contains("agentkeys approve ABCD-EFGH") && text.contains("042137"));
        assert!(text.contains("Do not run that command yourself"));
    }
}

#[tokio::test]
async fn a_wish_that_was_made_is_no_error() {
    let mut client = Client::open(Mood::Works, "2025-11-25").await;
    let wish = json!({"service": "new", "reason": "to send mail"});
    let got = client.call(1, "request_access", wish).await;
    assert_eq!(got["result"]["isError"], false);
    assert_eq!(got["result"]["structuredContent"]["request"], "ScopeChange");
    let got = client.call(2, "request_access", json!({"service": "github"})).await;
    assert_eq!(
        got["result"]["structuredContent"],
        json!({"status": "allowed", "service": "github"})
    );
}

#[tokio::test]
async fn refusals_tell_revoked_from_out_of_scope_from_missing_from_away() {
    let mut client = Client::open(Mood::Works, "2025-11-25").await;
    let mut id = 0;
    let mut told = async |client: &mut Client, service: &str| {
        id += 1;
        let got = client.call(id, "get_credential", json!({"service": service})).await;
        assert_eq!(got["result"]["isError"], true, "{got}");
        got["result"]["content"][0]["text"].as_str().unwrap().to_owned()
    };
    let text = told(&mut client, "outside").await;
    assert!(text.contains("call request_access"), "{text}");
    let text = told(&mut client, "opnerouter").await;
    assert!(text.contains("can read: openrouter, "), "{text}");
    client.holder.becomes(Mood::Revoked);
    let text = told(&mut client, "openrouter").await;
    for part in ["2026-04-09 14:32:07 UTC", "calling again will not help", "agentkeys reinstate"] {
        assert!(text.contains(part), "{text}");
    }
    client.holder.becomes(Mood::Away);
    let text = told(&mut client, "openrouter").await;
    assert!(text.contains("https://keys.example") && text.contains("no refusal"), "{text}");
}

#[tokio::test]
async fn the_client_is_told_when_the_tools_look_different() {
    let mut client = Client::open(Mood::Waits, "2025-06-18").await;
    let before = client.ask(1, "tools/list", json!({})).await["result"]["tools"].clone();
    assert!(before[0]["description"].as_str().unwrap().starts_with("NOT PAIRED YET"));
    client.silence().await;
    client.holder.becomes(Mood::Works);
    assert_eq!(client.hear().await["method"], "notifications/tools/list_changed");
    let after = client.ask(2, "tools/list", json!({})).await["result"]["tools"].clone();
    assert_ne!(before, after);
    // Another generation that shows nothing new is no news.
    client.holder.becomes(Mood::Works);
    client.silence().await;
    client.holder.becomes(Mood::Revoked);
    assert_eq!(client.hear().await["method"], "notifications/tools/list_changed");
}

#[tokio::test]
async fn without_initialize_only_who_listens_is_told() {
    let mut client = Client::raw(Mood::Waits);
    client.ask(1, "tools/list", inline(json!({}))).await;
    let wanted = json!({"notifications": {"toolsListChanged": true, "promptsListChanged": true}});
    client.begin("news", "subscriptions/listen", inline(wanted)).await;
    let accepted = client.hear().await;
    assert_eq!(accepted["method"], "notifications/subscriptions/acknowledged", "{accepted}");
    assert_eq!(accepted["params"]["notifications"], json!({"toolsListChanged": true}));
    client.holder.becomes(Mood::Works);
    let news = client.hear().await;
    assert_eq!(news["method"], "notifications/tools/list_changed", "{news}");
    assert_eq!(news["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], "news");
    // Once it has stopped listening, it is told no more.
    client.ask(2, "tools/list", inline(json!({}))).await;
    client.tell("notifications/cancelled", json!({"requestId": "news"})).await;
    client.silence().await;
    client.holder.becomes(Mood::Revoked);
    client.silence().await;
}

#[tokio::test]
async fn a_cancelled_call_ends_its_work_and_is_not_answered() {
    let mut client = Client::open(Mood::Hangs, "2025-11-25").await;
    let call = json!({"name": "get_credential", "arguments": {"service": "openrouter"}});
    client.begin(7, "tools/call", call).await;
    let under_way = async |client: &Client, wanted: usize| {
        let there = async {
            while client.holder.under_way.load(Ordering::SeqCst) != wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(SOON, there).await.expect("its work goes on");
    };
    under_way(&client, 1).await;
    client.tell("notifications/cancelled", json!({"requestId": 7, "reason": "enough"})).await;
    under_way(&client, 0).await;
    client.silence().await;
    client.holder.becomes(Mood::Works);
    let got = client.call(8, "get_credential", json!({"service": "openrouter"})).await;
    assert_eq!(got["result"]["isError"], false);
}

#[tokio::test]
async fn fifty_calls_at_once_are_answered_each_with_its_own_and_few_at_a_time() {
    let mut client = Client::open(Mood::Works, "2025-11-25").await;
    let services = ["openrouter", "github", "binary"];
    let mut input = client.input.take().unwrap();
    let asking = tokio::spawn(async move {
        for id in 0..50 {
            let call = json!({"jsonrpc": "2.0", "id": 100 + id, "method": "tools/call", "params":
                {"name": "get_credential", "arguments": {"service": services[id % 3]}}});
            input.write_all(format!("{call}\n").as_bytes()).await.unwrap();
        }
        input
    });
    let mut answers = BTreeMap::new();
    while answers.len() < 50 {
        let heard = client.hear().await;
        let id = heard["id"].as_u64().unwrap() as usize - 100;
        let service = heard["result"]["structuredContent"]["service"].clone();
        assert!(answers.insert(id, service).is_none(), "{id} was answered twice");
    }
    assert!(answers.iter().all(|(id, service)| service == services[id % 3]), "{answers:?}");
    client.input = Some(asking.await.unwrap());
    assert!(client.holder.most_under_way.load(Ordering::SeqCst) <= 32);
    client.hang_up().await;
}

#[tokio::test]
async fn requests_beyond_the_limit_and_with_an_id_in_use_are_refused() {
    let mut client = Client::open(Mood::Hangs, "2025-11-25").await;
    let call = json!({"name": "list_credentials", "arguments": {}});
    for id in 0..MAX_IN_FLIGHT {
        client.begin(id as u64 + 1, "tools/call", call.clone()).await;
    }
    // The rest waits for its turn.
    let most = async {
        while client.holder.most_under_way.load(Ordering::SeqCst) < 32 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, most).await.expect("fewer are worked on");
    client.silence().await;
    assert_eq!(client.holder.most_under_way.load(Ordering::SeqCst), 32);
    client.begin(1, "ping", json!({})).await;
    let heard = client.hear().await;
    assert_eq!((&heard["id"], &heard["error"]["code"]), (&json!(1), &json!(-32600)), "{heard}");
    client.begin("more", "ping", json!({})).await;
    let heard = client.hear().await;
    assert_eq!((&heard["id"], &heard["error"]["code"]), (&json!("more"), &json!(-32603)));
    // What was cancelled makes room.
    client.tell("notifications/cancelled", json!({"requestId": 1})).await;
    assert_eq!(client.ask(5000, "ping", json!({})).await["result"], json!({}));
}

#[tokio::test]
async fn what_is_no_message_is_refused_or_passed_over_and_the_session_goes_on() {
    let mut client = Client::open(Mood::Works, "2025-11-25").await;
    let cases: [(&[u8], Option<i64>); 12] = [
        (b"\x00\xFF\xFEgarbage\n", Some(-32700)),
        (b"{\"jsonrpc\":\"2.0\"\n", Some(-32700)),
        (b"\n\r\n   \n", None),
        (b"42\n", Some(-32600)),
        (b"{}\n", Some(-32600)),
        (b"[]\n", Some(-32600)),
        (b"{\"jsonrpc\":\"1.0\",\"id\":3,\"method\":\"ping\"}\n", Some(-32602)),
        (b"{\"jsonrpc\":\"2.0\",\"id\":null,\"method\":\"ping\"}\n", Some(-32602)),
        (b"{\"jsonrpc\":\"2.0\",\"id\":{},\"method\":\"ping\"}\n", Some(-32602)),
        (b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/unheard-of\"}\n", None),
        (b"{\"jsonrpc\":\"2.0\",\"id\":9,\"result\":{}}\n", None),
        (b"{\"jsonrpc\":\"2.0\",\"id\":4,\"method\":\"unheard/of\"}\n", Some(-32601)),
    ];
    for (id, (bytes, code)) in cases.into_iter().enumerate() {
        client.send(bytes).await;
        let shown = String::from_utf8_lossy(bytes);
        if let Some(code) = code {
            assert_eq!(client.hear().await["error"]["code"], code, "{shown}");
        }
        let alive = client.ask(1000 + id as u64, "ping", json!({})).await;
        assert_eq!(alive["result"], json!({}), "after {shown}");
    }
    let deep = format!("{}{}\n", "[".repeat(10_000), "]".repeat(10_000));
    client.send(deep.as_bytes()).await;
    assert_eq!(client.hear().await["error"]["code"], -32700);
    client.hang_up().await;
}

#[tokio::test]
async fn a_flood_of_garbage_is_answered_only_so_often() {
    let mut client = Client::open(Mood::Works, "2025-11-25").await;
    for _ in 0..1000 {
        client.send(b"garbage\n").await;
    }
    client.begin(1, "ping", json!({})).await;
    let mut complaints = 0;
    while client.hear().await.get("id").is_none() {
        complaints += 1;
    }
    assert_eq!(complaints, 32);
}

#[tokio::test]
async fn a_message_over_the_limit_is_passed_over_and_one_at_it_is_read() {
    let mut client = Client::open(Mood::Works, "2025-11-25").await;
    let padded = |id: u64, size: usize| {
        let bare = json!({"jsonrpc": "2.0", "id": id, "method": "ping", "params": {"pad": ""}});
        let pad = "x".repeat(size - bare.to_string().len());
        let message = json!({"jsonrpc": "2.0", "id": id, "method": "ping", "params": {"pad": pad}});
        assert_eq!(message.to_string().len(), size);
        message
    };
    client.line(&padded(1, MAX_MESSAGE)).await;
    assert_eq!(client.hear().await["id"], 1);
    client.line(&padded(2, MAX_MESSAGE + 1)).await;
    let refused = client.hear().await;
    assert_eq!(refused["error"]["code"], -32600, "{refused}");
    assert_eq!(refused.get("id"), None);
    // Sixteen times the limit without an end of line.
    for _ in 0..16 {
        client.send(&vec![b'x'; MAX_MESSAGE]).await;
    }
    client.send(b"\n").await;
    assert_eq!(client.hear().await["error"]["code"], -32600);
    assert_eq!(client.ask(3, "ping", json!({})).await["result"], json!({}));
}

#[tokio::test]
async fn a_batch_is_taken_apart() {
    let mut client = Client::open(Mood::Works, "2025-03-26").await;
    let batch = json!([
        {"jsonrpc": "2.0", "id": 1, "method": "ping"},
        {"jsonrpc": "2.0", "method": "notifications/unheard-of"},
        {"jsonrpc": "2.0", "id": 2, "method": "ping"},
        {"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": 5},
    ]);
    client.line(&batch).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let heard = client.hear().await;
        assert_eq!(heard.get("error").is_some(), heard["id"] == 3, "{heard}");
        ids.push(heard["id"].as_u64().unwrap());
    }
    ids.sort_unstable();
    assert_eq!(ids, [1, 2, 3]);
    let many = vec![json!({"jsonrpc": "2.0", "id": 1, "method": "ping"}); 65];
    client.line(&Value::Array(many)).await;
    assert_eq!(client.hear().await["error"]["code"], -32600);
}

#[tokio::test]
async fn before_a_session_nothing_ends_the_connection() {
    let mut client = Client::raw(Mood::Works);
    client.tell("notifications/initialized", json!({})).await;
    client.tell("notifications/cancelled", json!({"requestId": 1})).await;
    client.line(&json!({"jsonrpc": "2.0", "id": 1, "result": {}})).await;
    client.send(b"garbage\n").await;
    assert_eq!(client.hear().await["error"]["code"], -32700);
    assert_eq!(client.ask(1, "ping", json!({})).await["result"], json!({}));
    let early = client.ask(2, "tools/list", json!({})).await;
    assert!(early["error"]["code"].is_i64(), "{early}");
    client.tell("notifications/initialized", json!({})).await;
    let opened = client.ask(3, "initialize", initialize("2025-11-25")).await;
    assert_eq!(opened["result"]["protocolVersion"], "2025-11-25");
    assert!(client.ask(4, "tools/list", json!({})).await["result"]["tools"].is_array());
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_server_whatever_is_under_way() {
    // At once, with nothing said.
    assert!(Client::raw(Mood::Works).hang_up().await.is_empty());
    // In the middle of a line.
    let mut client = Client::open(Mood::Works, "2025-11-25").await;
    client.send(b"{\"jsonrpc\":\"2.0\",\"id\":5,\"meth").await;
    client.hang_up().await;
    // In the middle of a call.
    let mut client = Client::open(Mood::Hangs, "2025-11-25").await;
    client.begin(1, "tools/call", json!({"name": "list_credentials"})).await;
    let holder = Arc::clone(&client.holder);
    let started = Instant::now();
    client.hang_up().await;
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    assert_eq!(holder.under_way.load(Ordering::SeqCst), 0);
    // While it listens.
    let mut client = Client::raw(Mood::Works);
    let wanted = json!({"notifications": {"toolsListChanged": true}});
    client.begin(1, "subscriptions/listen", inline(wanted)).await;
    client.hear().await;
    client.hang_up().await;
}

#[tokio::test]
async fn what_was_asked_before_hanging_up_is_still_answered() {
    let mut client = Client::open(Mood::Works, "2025-11-25").await;
    let call = json!({"name": "get_credential", "arguments": {"service": "openrouter"}});
    client.begin(1, "tools/call", call).await;
    let heard = client.hang_up().await;
    let answer = heard.iter().find(|message| message["id"] == 1).expect("an answer");
    assert_eq!(answer["result"]["structuredContent"]["credential"], "sk-or-v1-test");
}

#[tokio::test]
async fn a_client_that_stops_reading_ends_the_server() {
    let mut client = Client::open(Mood::Works, "2025-11-25").await;
    client.begin(1, "ping", json!({})).await;
    let Client { input, output, served, .. } = client;
    drop(output);
    let mut input = input.unwrap();
    // It notices when it next says something.
    let _ = input.write_all(b"{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"ping\"}\n").await;
    timeout(SOON, served).await.expect("it goes on").unwrap().unwrap();
}

/// What is logged while it lives, of this thread alone.
#[derive(Clone, Default)]
struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_log_however_wordy_holds_a_credential() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let mut client = Client::open(Mood::Works, "2025-11-25").await;
    let got = client.call(1, "get_credential", json!({"service": "openrouter"})).await;
    assert_eq!(got["result"]["structuredContent"]["credential"], "sk-or-v1-test");
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    // The library does log results whole: here is this one, with the slip in it.
    assert!(log.contains("structured_content") && log.contains("OPENROUTER_API_KEY"), "{log}");
    assert!(!log.contains("sk-or-v1-test"), "{log}");
}
