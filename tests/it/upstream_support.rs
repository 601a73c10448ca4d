//! Services that make keys, on this machine: real HTTP servers that follow what the services
//! publish of their interfaces, strictly, and have moods. What they do not understand they refuse,
//! and note as a fault that the test has to answer for.
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// Which service a server stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    OpenRouter,
    OpenAi,
    GitHub,
    Aws,
}

/// How a server answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Mood {
    Works,
    /// Hangs up without an answer.
    HangsUp,
    /// Does what it is asked, and hangs up all the same.
    DoesAndHangsUp,
    /// Never answers.
    Silent,
    /// Answers with this status, header and body.
    Says(u16, &'static str, &'static str, String),
    /// Takes this long.
    Slow(Duration),
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub query: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

/// A key that a server has made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Key {
    pub id: String,
    pub name: String,
    pub key: String,
}

struct State {
    kind: Kind,
    mood: Mood,
    /// What an account has to show.
    secret: String,
    keys: Vec<Key>,
    made: usize,
    seen: Vec<Seen>,
    faults: Vec<String>,
    /// What time it is there, in seconds since 1970.
    now: u64,
    life: u64,
}

/// A running server.
#[derive(Clone)]
pub struct Local {
    pub url: String,
    state: Arc<Mutex<State>>,
}

type Whole = (u16, &'static str, String);

impl Local {
    /// Starts one in whose interface `secret` is an administrator's.
    pub async fn start(kind: Kind, secret: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let state = State {
            kind,
            mood: Mood::Works,
            secret: secret.to_owned(),
            keys: Vec::new(),
            made: 0,
            seen: Vec::new(),
            faults: Vec::new(),
            now: 0,
            life: 3600,
        };
        let local = Self { url: format!("http://{address}"), state: Arc::new(Mutex::new(state)) };
        let served = local.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let served = served.clone();
                tokio::spawn(async move {
                    let answer = service_fn(|request| served.clone().answer(request));
                    let http = hyper::server::conn::http1::Builder::new();
                    let _ = http.serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        });
        local
    }

    pub fn is(&self, mood: Mood) {
        self.state.lock().unwrap().mood = mood;
    }

    /// Sets its clock, for what runs out.
    pub fn at(&self, seconds: u64) {
        self.state.lock().unwrap().now = seconds;
    }

    /// Changes the administrator's secret.
    pub fn wants(&self, secret: &str) {
        self.state.lock().unwrap().secret = secret.to_owned();
    }

    /// The keys that it has now.
    pub fn keys(&self) -> Vec<Key> {
        self.state.lock().unwrap().keys.clone()
    }

    /// Has a key that somebody else made there.
    pub fn have(&self, name: &str) {
        let mut state = self.state.lock().unwrap();
        let id = format!("other_{}", state.keys.len());
        state.keys.push(Key { id, name: name.to_owned(), key: "not ours".to_owned() });
    }

    /// How many it ever made.
    pub fn made(&self) -> usize {
        self.state.lock().unwrap().made
    }

    /// What it was asked.
    pub fn seen(&self) -> Vec<Seen> {
        self.state.lock().unwrap().seen.clone()
    }

    /// That nobody asked anything that it does not know.
    #[track_caller]
    pub fn was_understood(&self) {
        let faults = self.state.lock().unwrap().faults.clone();
        assert!(faults.is_empty(), "{faults:#?}");
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, String> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes().to_vec();
        let text = |value: &hyper::header::HeaderValue| value.to_str().unwrap_or("").to_owned();
        let seen = Seen {
            method: head.method.to_string(),
            path: head.uri.path().to_owned(),
            query: head.uri.query().unwrap_or("").to_owned(),
            headers: head
                .headers
                .iter()
                .map(|(name, value)| (name.to_string(), text(value)))
                .collect(),
            body,
        };
        let mood = {
            let mut state = self.state.lock().unwrap();
            state.seen.push(seen.clone());
            state.mood.clone()
        };
        match mood {
            Mood::HangsUp => return Err("in no mood".to_owned()),
            Mood::Silent => std::future::pending().await,
            Mood::Slow(time) => tokio::time::sleep(time).await,
            Mood::Says(status, name, value, body) => {
                let response = Response::builder().status(status).header(name, value);
                return response.body(body.into()).map_err(|error| error.to_string());
            }
            Mood::Works | Mood::DoesAndHangsUp => {}
        }
        let (status, kind, body) = self.state.lock().unwrap().work(&seen);
        if mood == Mood::DoesAndHangsUp {
            return Err("in no mood".to_owned());
        }
        let mut response = Response::builder().status(status);
        if status != 204 {
            response = response.header("content-type", kind);
        }
        response.body(body.into()).map_err(|error| error.to_string())
    }
}

const JSON: &str = "application/json; charset=utf-8";

fn whole(status: u16, body: &Value) -> Whole {
    (status, JSON, body.to_string())
}

impl State {
    fn work(&mut self, seen: &Seen) -> Whole {
        if seen.header("user-agent").is_empty() {
            self.faults.push(format!("no user agent: {seen:?}"));
        }
        match self.kind {
            Kind::OpenRouter => self.openrouter(seen),
            Kind::OpenAi => self.openai(seen),
            Kind::GitHub => self.github(seen),
            Kind::Aws => self.aws(seen),
        }
    }

    fn unknown(&mut self, seen: &Seen) -> Whole {
        self.faults.push(format!("{} {}?{} {:?}", seen.method, seen.path, seen.query, seen.json()));
        whole(400, &json!({"error": {"message": "no such thing", "code": 400}}))
    }

    fn admitted(&self, seen: &Seen) -> bool {
        seen.header("authorization") == format!("Bearer {}", self.secret)
    }

    fn make(&mut self, name: &str, prefix: &str) -> Key {
        self.made += 1;
        let number = self.made;
        let key = Key {
            id: format!("id_{number:04}"),
            name: name.to_owned(),
            key: format!("{prefix}made-{number:04}-0123456789abcdef"),
        };
        self.keys.push(key.clone());
        key
    }

    fn end(&mut self, id: &str) -> bool {
        let before = self.keys.len();
        self.keys.retain(|key| key.id != id);
        self.keys.len() < before
    }

    /// `/api/v1/keys`, by OpenRouter's description of it.
    fn openrouter(&mut self, seen: &Seen) -> Whole {
        if !self.admitted(seen) {
            let error = json!({"message": "Missing Authentication header", "code": 401});
            return whole(401, &json!({ "error": error }));
        }
        let row = |key: &Key| {
            json!({"hash": key.id, "name": key.name, "label": "sk-or-v1-...", "disabled": false,
                   "limit": 5, "limit_remaining": 5, "usage": 0, "limit_reset": null,
                   "created_at": "2026-04-09T14:32:07Z", "updated_at": null})
        };
        let under = seen.path.strip_prefix("/api/v1/keys");
        match (seen.method.as_str(), under) {
            ("GET", Some("")) => {
                let offset = seen.query.strip_prefix("offset=").unwrap_or("0");
                let Ok(offset) = offset.parse::<usize>() else { return self.unknown(seen) };
                let page: Vec<Value> = self.keys.iter().skip(offset).take(100).map(row).collect();
                whole(200, &json!({ "data": page }))
            }
            ("POST", Some("")) => {
                let body = seen.json();
                let known = ["name", "limit", "limit_reset"];
                let members = body.as_object().cloned().unwrap_or_default();
                let strange = members.keys().any(|name| !known.contains(&name.as_str()));
                let limit = members.get("limit").is_none_or(Value::is_number);
                let Some(name) = body["name"].as_str() else { return self.unknown(seen) };
                if strange || !limit || seen.header("content-type") != "application/json" {
                    return self.unknown(seen);
                }
                let key = self.make(name, "sk-or-v1-");
                whole(201, &json!({"data": row(&key), "key": key.key}))
            }
            ("DELETE", Some(id)) if id.starts_with('/') => match self.end(&id[1..]) {
                true => whole(200, &json!({"deleted": true})),
                false => whole(404, &json!({"error": {"message": "not found", "code": 404}})),
            },
            _ => self.unknown(seen),
        }
    }

    /// `/v1/organization/projects/{id}/service_accounts`, by OpenAI's description of it.
    fn openai(&mut self, seen: &Seen) -> Whole {
        if !self.admitted(seen) {
            let error = json!({"message": format!("Incorrect API key provided: {}",
                                                  seen.header("authorization")),
                               "type": "invalid_request_error", "code": "invalid_api_key"});
            return whole(401, &json!({ "error": error }));
        }
        let row = |key: &Key| {
            json!({"object": "organization.project.service_account", "id": key.id,
                   "name": key.name, "role": "member", "created_at": 1_711_471_533})
        };
        let at = "/v1/organization/projects/proj_abc/service_accounts";
        match (seen.method.as_str(), seen.path.strip_prefix(at)) {
            ("GET", Some("")) => {
                let mut limit = 20;
                let mut begin = 0;
                for part in seen.query.split('&') {
                    match part.split_once('=') {
                        Some(("limit", text)) => limit = text.parse::<usize>().unwrap_or(0),
                        Some(("after", id)) => {
                            let found = self.keys.iter().position(|key| key.id == id);
                            begin = found.map_or(usize::MAX, |at| at + 1);
                        }
                        _ => return self.unknown(seen),
                    }
                }
                if !(1..=100).contains(&limit) || begin == usize::MAX {
                    return self.unknown(seen);
                }
                let page: Vec<&Key> = self.keys.iter().skip(begin).take(limit).collect();
                let data: Vec<Value> = page.iter().map(|key| row(key)).collect();
                let has_more = begin + page.len() < self.keys.len();
                whole(
                    200,
                    &json!({"object": "list", "data": data, "has_more": has_more,
                                   "first_id": page.first().map(|key| &key.id),
                                   "last_id": page.last().map(|key| &key.id)}),
                )
            }
            ("POST", Some("")) => {
                let body = seen.json();
                let Some(name) = body["name"].as_str() else { return self.unknown(seen) };
                let life = body["expires_in_seconds"].as_u64();
                let key = self.make(name, "sk-svcacct-");
                let mut made = row(&key);
                made["api_key"] = json!({"object": "organization.project.service_account.api_key",
                                         "value": key.key, "name": "Secret Key", "id": "key_abc",
                                         "created_at": 1_711_471_533,
                                         "expires_at": life.map(|life| self.now + life)});
                whole(200, &made)
            }
            ("DELETE", Some(id)) if id.starts_with('/') => match self.end(&id[1..]) {
                true => whole(
                    200,
                    &json!({"object": "organization.project.service_account.deleted",
                                           "id": &id[1..], "deleted": true}),
                ),
                false => whole(404, &json!({"error": {"message": "No such service account"}})),
            },
            _ => self.unknown(seen),
        }
    }

    /// Installation tokens, by GitHub's description of them. The app's own token is looked at by
    /// the test, which has the key.
    fn github(&mut self, seen: &Seen) -> Whole {
        let bearer = seen.header("authorization").strip_prefix("Bearer ").unwrap_or("").to_owned();
        let as_app = bearer.split('.').count() == 3;
        if seen.header("x-github-api-version") != "2022-11-28" {
            return self.unknown(seen);
        }
        let refused = whole(401, &json!({"message": "Bad credentials", "status": "401"}));
        match (seen.method.as_str(), seen.path.as_str()) {
            ("GET", "/app/installations/42") if as_app => {
                whole(200, &json!({"id": 42, "app_id": 7, "permissions": {"contents": "read"}}))
            }
            ("POST", "/app/installations/42/access_tokens") if as_app => {
                let key = self.make("token", "ghs_");
                let end = time::OffsetDateTime::from_unix_timestamp((self.now + self.life) as i64);
                let end = end.unwrap().format(&time::format_description::well_known::Rfc3339);
                whole(
                    201,
                    &json!({"token": key.key, "expires_at": end.unwrap(),
                                   "permissions": {"contents": "read"},
                                   "repository_selection": "selected"}),
                )
            }
            ("DELETE", "/installation/token") if !as_app => {
                let found =
                    self.keys.iter().find(|key| key.key == bearer).map(|key| key.id.clone());
                match found {
                    Some(id) => {
                        self.end(&id);
                        (204, JSON, String::new())
                    }
                    None => refused,
                }
            }
            _ if !as_app => refused,
            _ => self.unknown(seen),
        }
    }

    /// `AssumeRole` and `GetCallerIdentity`, by AWS's description of them. The signature is looked
    /// at by the test, by AWS's own SDK.
    fn aws(&mut self, seen: &Seen) -> Whole {
        let body = String::from_utf8_lossy(&seen.body).into_owned();
        let field = |name: &str| {
            let begin = format!("{name}=");
            body.split('&').find_map(|part| part.strip_prefix(&begin)).map(str::to_owned)
        };
        let form = seen.header("content-type") == "application/x-www-form-urlencoded";
        if !form || seen.path != "/" || field("Version").as_deref() != Some("2011-06-15") {
            return self.unknown(seen);
        }
        let xml = |status: u16, body: String| (status, "text/xml", body);
        let ns = "xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"";
        match field("Action").as_deref() {
            Some("GetCallerIdentity") => xml(
                200,
                format!(
                    "<GetCallerIdentityResponse {ns}><GetCallerIdentityResult><Account>1</Account>\
                     </GetCallerIdentityResult></GetCallerIdentityResponse>"
                ),
            ),
            Some("AssumeRole") => {
                let life = field("DurationSeconds").and_then(|life| life.parse::<u64>().ok());
                let (Some(name), Some(life)) = (field("RoleSessionName"), life) else {
                    return self.unknown(seen);
                };
                let key = self.make(&name, "ASIA");
                let end = time::OffsetDateTime::from_unix_timestamp((self.now + life) as i64);
                let end = end.unwrap().format(&time::format_description::well_known::Rfc3339);
                xml(
                    200,
                    format!(
                        "<?xml version=\"1.0\"?><AssumeRoleResponse {ns}><AssumeRoleResult>\
                         <AssumedRoleUser><Arn>arn:aws:sts::1:assumed-role/r/{name}</Arn>\
                         </AssumedRoleUser><Credentials><AccessKeyId>{}</AccessKeyId>\
                         <SecretAccessKey>secret/&amp;{}</SecretAccessKey>\
                         <SessionToken>token-{}</SessionToken><Expiration>{}</Expiration>\
                         </Credentials></AssumeRoleResult></AssumeRoleResponse>",
                        key.key,
                        key.id,
                        key.id,
                        end.unwrap()
                    ),
                )
            }
            _ => xml(
                403,
                format!(
                    "<ErrorResponse {ns}><Error><Type>Sender</Type><Code>AccessDenied</Code>\
                     <Message>not allowed</Message></Error></ErrorResponse>"
                ),
            ),
        }
    }
}
