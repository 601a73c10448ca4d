//! `docs/openapi.json` describes the wire as it is: every endpoint is in it and no other, and
//! what really goes over the socket fits its schemas.
use std::collections::BTreeSet;

use agentkeys::backend::http::Limits;
use agentkeys::backend::http::meta::OPENAPI;
use agentkeys::core::gateway;
use agentkeys::core::problem::Code;
use agentkeys::core::token::{OpenToken, RegistrationToken, RenewalSecret};
use agentkeys::core::wire::Route;
use serde_json::{Value, json};

use super::http_support::*;

fn document() -> Value {
    serde_json::from_str(OPENAPI).unwrap()
}

#[test]
fn every_endpoint_is_described_and_nothing_else_is() {
    let document = document();
    assert_eq!(document["openapi"], "3.1.0");
    let mut described = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let name = operation["operationId"].as_str().unwrap().to_owned();
            described.insert((method.to_uppercase(), path.clone(), name));
        }
    }
    let mut routes: BTreeSet<_> = Route::ALL
        .iter()
        .map(|route| (route.method().to_owned(), route.path().to_owned(), route.name().to_owned()))
        .collect();
    // The one whose bodies are streams, and no JSON of ours.
    routes.insert(("POST".into(), gateway::PATH.into(), "gateway_forward".into()));
    assert_eq!(described, routes);
}

#[test]
fn every_problem_code_is_described() {
    let document = document();
    let codes = &document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"];
    let ours: Vec<_> = Code::ALL.iter().map(|code| serde_json::to_value(code).unwrap()).collect();
    assert_eq!(codes.as_array().unwrap(), &ours);
}

#[test]
fn every_reference_leads_somewhere() {
    fn walk(value: &Value, document: &Value, seen: &mut usize) {
        match value {
            Value::Object(members) => {
                if let Some(Value::String(to)) = members.get("$ref") {
                    assert!(resolve(document, to).is_object(), "{to}");
                    *seen += 1;
                }
                members.values().for_each(|member| walk(member, document, seen));
            }
            Value::Array(items) => items.iter().for_each(|item| walk(item, document, seen)),
            _ => {}
        }
    }
    let (document, mut seen) = (document(), 0);
    walk(&document, &document, &mut seen);
    assert!(seen > 100);
}

fn resolve<'a>(document: &'a Value, to: &str) -> &'a Value {
    document.pointer(to.strip_prefix('#').unwrap()).unwrap_or(&Value::Null)
}

/// The part of JSON Schema that the document uses. The first thing that does not fit is named.
fn fits(document: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    if let Some(to) = schema["$ref"].as_str() {
        return fits(document, resolve(document, to), value, at);
    }
    for choice in ["anyOf", "oneOf"] {
        if let Some(choices) = schema[choice].as_array() {
            let fitting = choices.iter().filter(|one| fits(document, one, value, at).is_ok());
            return match fitting.count() {
                0 => Err(format!("{at}: fits none of {choice}")),
                n if n > 1 && choice == "oneOf" => Err(format!("{at}: fits {n} of oneOf")),
                _ => Ok(()),
            };
        }
    }
    let right = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_u64() || value.is_i64(),
        _ => false,
    };
    if !right {
        return Err(format!("{at}: {value} is no {}", schema["type"]));
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        return Err(format!("{at}: {value} is none of {allowed:?}"));
    }
    if let (Some(members), Some(known)) = (value.as_object(), schema["properties"].as_object()) {
        for (name, member) in members {
            match known.get(name) {
                Some(schema) => fits(document, schema, member, &format!("{at}.{name}"))?,
                None if schema["additionalProperties"] == false => {
                    return Err(format!("{at}.{name} is not described"));
                }
                None => {}
            }
        }
        for name in schema["required"].as_array().into_iter().flatten() {
            if !members.contains_key(name.as_str().unwrap()) {
                return Err(format!("{at}.{name} is missing"));
            }
        }
    }
    for item in value.as_array().into_iter().flatten() {
        fits(document, &schema["items"], item, &format!("{at}[]"))?;
    }
    Ok(())
}

/// The schema's fields that the value shows, so that a field nobody ever sends is noticed.
fn unseen(document: &Value, schema: &Value, value: &Value) -> Vec<String> {
    let schema = schema["$ref"].as_str().map_or(schema, |to| resolve(document, to));
    let known = schema["properties"].as_object().into_iter().flatten();
    known.filter(|(name, _)| value.get(name).is_none()).map(|(name, _)| name.clone()).collect()
}

#[tokio::test]
async fn what_goes_over_the_socket_fits_the_schemas() {
    let document = document();
    let server = Server::tcp(Limits::default());
    let session = master();
    let open = OpenToken::new(&[5; 32]);
    let found = RegistrationToken::new(&[6; 32]);
    let renewal = RenewalSecret::new(&[3; 32]);
    let (hash, keys, id) = ("01".repeat(32), "06".repeat(64), "04".repeat(16));
    let agent = json!({"agent_id": "a"});
    let of_service = json!({"agent_id": "a", "service": "x"});
    let on_layer = json!({"agent_id": "a", "layer": "system_gas", "amount": 7});
    let details = super::http_support::details().to_json();
    for route in Route::ALL {
        let (token, query, body) = match route {
            Route::Health | Route::Version | Route::OpenApi | Route::ShieldingKey => {
                ("", String::new(), Value::Null)
            }
            Route::SessionShow
            | Route::AgentList
            | Route::AuthRequestPending
            | Route::PresenceShow => (session.expose(), String::new(), Value::Null),
            Route::SessionCreate => (
                "",
                String::new(),
                json!({"auth_token": "a.b.c", "ticket": ticket().expose(),
                       "client": {"host": "h", "user": "u"}}),
            ),
            Route::SignInBegin => ("", String::new(), json!({"flow": "device"})),
            Route::SessionChild => (
                session.expose(),
                String::new(),
                json!({"agent_id": "a", "scope": {"services": ["x"], "read_only": true}}),
            ),
            Route::SessionRenew => (renewal.expose(), String::new(), json!({})),
            Route::SessionRevoke => {
                (session.expose(), String::new(), json!({"target_session": session.expose()}))
            }
            Route::AgentCreate => (session.expose(), String::new(), json!({"name": "a"})),
            Route::AgentReinstate | Route::CredentialTeardown => {
                (session.expose(), String::new(), agent.clone())
            }
            Route::AgentScope => (
                session.expose(),
                String::new(),
                json!({"agent_id": "a", "scope": {"services": ["x"], "read_only": true}}),
            ),
            Route::CredentialList | Route::CredentialReadAll | Route::GatewayPlaces => {
                (session.expose(), "?agent_id=a".to_owned(), Value::Null)
            }
            Route::CredentialStore => {
                let mut body = of_service.clone();
                body["ciphertext"] = "AA==".into();
                (session.expose(), String::new(), body)
            }
            Route::CredentialTerms => {
                let mut body = of_service.clone();
                body["expose"] = "broker".into();
                body["rules"] = serde_json::json!(["allow POST /v1/x"]);
                body["budget"] = serde_json::json!({"day": 5, "ask_at": 80, "rate": 60, "price": {"request": 1}});
                (session.expose(), String::new(), body)
            }
            Route::CredentialDefault => {
                (session.expose(), String::new(), serde_json::json!({"expose": "broker"}))
            }
            Route::CredentialRead | Route::CredentialInject => {
                (session.expose(), "?agent_id=a&service=x".to_owned(), Value::Null)
            }
            Route::CredentialRollBack | Route::CredentialDelete => {
                (session.expose(), String::new(), of_service.clone())
            }
            Route::AuditQuery => (
                session.expose(),
                "?agent_id=a&service=x&action=read&outcome=denied&since=2026-01-01T00:00:00Z\
                 &until=2026-01-02T00:00:00Z&from=1&limit=2&wait=0"
                    .to_owned(),
                Value::Null,
            ),
            Route::AuditCompare | Route::AuditAccept => {
                (session.expose(), String::new(), json!({"head": head(9)}))
            }
            Route::Provision => (session.expose(), String::new(), of_service.clone()),
            Route::ProviderList => (session.expose(), String::new(), Value::Null),
            Route::ProviderSet => (
                session.expose(),
                String::new(),
                json!({"service": "x", "way": "browser", "settings": {"email": "a@x.org"},
                       "secret": "AA=="}),
            ),
            Route::ProviderRemove => {
                (session.expose(), String::new(), json!({"service": "x", "abandon": true}))
            }
            Route::ProviderCheck => (session.expose(), String::new(), json!({"service": "x"})),
            Route::RendezvousRegister => (
                open.expose(),
                String::new(),
                json!({"daemon_pubkey": keys, "pair_code": "ABCD-EFGH"}),
            ),
            Route::RendezvousPoll => (found.expose(), "?wait=0".to_owned(), Value::Null),
            Route::RendezvousDeliver => (
                session.expose(),
                String::new(),
                json!({"pair_code": "abcdefgh", "payload": "AA=="}),
            ),
            Route::AuthRequestOpen => (
                "",
                String::new(),
                json!({"child_pubkey": keys, "request_type": "Pair", "request_details": details}),
            ),
            Route::AuthRequestFetch => {
                (session.expose(), "?pair_code=ABCD-EFGH".to_owned(), Value::Null)
            }
            Route::AuthRequestApprove => (
                session.expose(),
                String::new(),
                json!({"request_id": id, "seen": hash,
                       "grant": {"agent_id": "a", "name": "b", "scope": {},
                                 "lasts": {"seconds": 60}}}),
            ),
            Route::AuthRequestDeny => (session.expose(), String::new(), json!({"request_id": id})),
            Route::AuthRequestAwait => {
                (open.expose(), format!("?request_id={id}&wait=0"), Value::Null)
            }
            Route::PresenceSet => (
                session.expose(),
                String::new(),
                json!({"level": "passphrase", "public_key": hash, "salt": "07".repeat(16)}),
            ),
            Route::PresenceReset | Route::PresenceCancelReset => {
                (session.expose(), String::new(), json!({}))
            }
            Route::IdentityLink => {
                (session.expose(), String::new(), json!({"agent_id": "a", "identity": "b@x.org"}))
            }
            Route::IdentityUnlink => {
                (session.expose(), String::new(), json!({"identity": "b@x.org"}))
            }
            Route::IdentityResolve => {
                (session.expose(), "?identity=b@x.org".to_owned(), Value::Null)
            }
            Route::PaymentBalance => {
                (session.expose(), "?agent_id=a&layer=system_gas".to_owned(), Value::Null)
            }
            Route::PaymentFund => (session.expose(), String::new(), on_layer.clone()),
            Route::PaymentDebit => {
                let mut body = on_layer.clone();
                body["service"] = "x".into();
                body["reference"] = "r".into();
                (session.expose(), String::new(), body)
            }
            Route::PaymentHistory => {
                (session.expose(), "?agent_id=a&limit=1".to_owned(), Value::Null)
            }
        };
        let name = route.name();
        let operation = &document["paths"][route.path()][route.method().to_lowercase()];
        let sent = match &body {
            Value::Null => Vec::new(),
            body => {
                let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
                fits(&document, schema, body, name).unwrap();
                if *route != Route::SessionRevoke {
                    assert_eq!(unseen(&document, schema, body), Vec::<String>::new(), "{name}");
                }
                serde_json::to_vec(body).unwrap()
            }
        };
        let described: BTreeSet<_> = operation["parameters"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|parameter| parameter["in"] == "query")
            .map(|parameter| parameter["name"].as_str().unwrap())
            .collect();
        let used: BTreeSet<_> = query
            .trim_start_matches('?')
            .split('&')
            .filter_map(|pair| pair.split_once('=').map(|(name, _)| name))
            .collect();
        assert_eq!(described, used, "{name}");
        let bearer = format!("authorization: Bearer {token}");
        let mut headers = vec!["content-type: application/json"];
        if !token.is_empty() {
            headers.push(&bearer);
        }
        let line = format!("{} {}{query}", route.method(), route.path());
        let heard = server.ask(&line, &headers, &sent).await;
        assert_eq!(heard.status, 200, "{name}: {heard:?}");
        let answer: Value = serde_json::from_str(&heard.body).unwrap();
        let schema = &operation["responses"]["200"]["content"]["application/json"]["schema"];
        fits(&document, schema, &answer, name).unwrap();
        // A master's session has no renewal secret, and a child's no sign-in.
        let absent = match route {
            Route::SessionCreate => vec!["renewal"],
            Route::Provision => vec!["credential"],
            Route::SessionChild | Route::SessionRenew => vec!["sign_in"],
            _ => Vec::new(),
        };
        assert_eq!(unseen(&document, schema, &answer), absent, "{name}");
    }
    let heard = server.ask("GET /agents", &[], b"").await;
    let problem: Value = serde_json::from_str(&heard.body).unwrap();
    fits(&document, &document["components"]["schemas"]["Problem"], &problem, "problem").unwrap();
}
