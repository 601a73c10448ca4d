//! `http_request`: a request to a service with the agent's key put in by the backend, so that a model
//! without a shell uses a key that it never sees.
use std::collections::BTreeSet;

use async_trait::async_trait;
use rmcp::model::{JsonObject, ToolAnnotations};
use serde_json::{Value, json};

use super::super::args::{Args, Mistake};
use super::super::schema::{self, object};
use super::super::text::About;
use super::{Call, Outcome, Tool};
use crate::core::catalog;
use crate::core::encoding::to_base64;
use crate::core::holder::{HttpAnswer, HttpAsk, MAX_HTTP_BODY};
use crate::core::identity::ServiceName;

/// Most header fields that a model gives.
const MAX_HEADERS: usize = 64;
/// Longest URL.
const MAX_URL: usize = 8 * 1024;

pub struct HttpRequest;

#[async_trait]
impl Tool for HttpRequest {
    fn name(&self) -> &'static str {
        "http_request"
    }

    fn title(&self) -> &'static str {
        "Ask a service"
    }

    fn description(&self) -> &'static str {
        "Sends an HTTPS request to a service that this agent has a key of, and returns the answer. The \
         key is put in on the way, where the service wants it: you never see it, and give none. Use \
         this rather than get_credential. Some requests wait until the user has approved them: then \
         show the user what the answer says, and call again with the very same arguments once it is \
         done. No redirect is followed. Every request is recorded for the user."
    }

    fn input(&self) -> JsonObject {
        schema::input(
            json!({
                "url": {"type": "string", "maxLength": MAX_URL,
                        "description": "https:// and the service's own host, with path and query. Or \
                                        a path alone, where \"service\" is given."},
                "method": {"type": "string", "description": "GET unless it is said.",
                           "pattern": "^[A-Za-z]{1,16}$"},
                "headers": {"type": "object", "additionalProperties": {"type": "string"},
                            "description": "Such as {\"content-type\": \"application/json\"}. None \
                                            with a key."},
                "body": {"type": "string", "description": "As text, 128 KiB at most."},
                "service": schema::service(),
            }),
            &["url"],
        )
    }

    fn output(&self) -> JsonObject {
        schema::output(
            "answered",
            json!({
                "service": {"type": "string", "description": "Whose key was used."},
                "http_status": {"type": "integer", "description": "What the service answered."},
                "headers": {"type": "object", "additionalProperties": {"type": "string"}},
                "body": {"type": "string", "description": "Without the key, if the service showed it."},
                "encoding": {"type": "string", "enum": ["utf-8", "base64"],
                             "description": "base64 where the body is not text."},
                "truncated": {"type": "boolean",
                              "description": "Whether the body is longer than what is returned."},
            }),
        )
    }

    fn effects(&self) -> ToolAnnotations {
        ToolAnnotations::with_title(self.title())
            .read_only(false)
            .destructive(true)
            .idempotent(false)
            .open_world(true)
    }

    async fn call(&self, call: Call<'_>) -> Outcome {
        let ask = match read(call.arguments) {
            Ok(ask) => ask,
            Err(mistake) => return mistake.into(),
        };
        let about =
            About { tool: self.name(), service: Some(&ask.service), others: None, now: call.now };
        match call.holder.http_request(&ask).await {
            Ok(answer) => answered(&ask.service, answer),
            Err(refusal) => Outcome::refused(&refusal, &about),
        }
    }
}

/// Headers that come to one field each, since that is how models write and read them.
fn answered(service: &ServiceName, answer: HttpAnswer) -> Outcome {
    let mut headers = serde_json::Map::new();
    for (name, value) in answer.headers {
        match headers.get_mut(&name) {
            Some(Value::String(text)) => {
                text.push_str(", ");
                text.push_str(&value);
            }
            _ => {
                headers.insert(name, value.into());
            }
        }
    }
    let (body, encoding) = match String::from_utf8(answer.body) {
        Ok(text) => (text, "utf-8"),
        // Cut in the middle of a letter, it is text all the same.
        Err(error) if answer.cut && error.utf8_error().error_len().is_none() => {
            let whole = error.utf8_error().valid_up_to();
            let mut bytes = error.into_bytes();
            bytes.truncate(whole);
            (String::from_utf8(bytes).unwrap_or_default(), "utf-8")
        }
        Err(error) => (to_base64(error.as_bytes()), "base64"),
    };
    Outcome::Done(object(json!({
        "status": "answered",
        "service": service,
        "http_status": answer.status,
        "headers": headers,
        "body": body,
        "encoding": encoding,
        "truncated": answer.cut,
    })))
}

/// What a model wants, if it can be sent.
fn read(arguments: JsonObject) -> Result<HttpAsk, Mistake> {
    let args = Args::new(arguments, &["url", "method", "headers", "body", "service"])?;
    let mistake = |why: &str| Mistake(why.to_owned());
    let url = args.text("url")?.unwrap_or_default();
    if url.is_empty() || url.len() > MAX_URL {
        return Err(mistake("\"url\" must be a string of 1 to 8192 characters"));
    }
    let named = match args.text("service")? {
        Some(_) => Some(args.service()?),
        None => None,
    };
    let (host, target) = match url.strip_prefix("https://") {
        Some(rest) => {
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            let (host, target) = rest.split_at(end);
            if host.is_empty() || host.contains(['@', '\\', ' ']) {
                return Err(mistake("\"url\" must have a host, and no user or password before it"));
            }
            let host = host.to_ascii_lowercase();
            (Some(host.strip_suffix(":443").unwrap_or(&host).to_owned()), target)
        }
        None if url.starts_with('/') && named.is_some() => (None, url.as_str()),
        None => {
            return Err(mistake(
                "\"url\" must begin with https://, or with / where \"service\" is given",
            ));
        }
    };
    // A fragment is nobody's but the client's.
    let target = target.split('#').next().unwrap_or_default();
    let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
    let service = match (named, &host) {
        (Some(service), _) => service,
        (None, Some(host)) => by_host(host)?,
        (None, None) => return Err(mistake("\"service\" must be given with a path")),
    };
    let body = args.text("body")?.unwrap_or_default();
    if body.len() > MAX_HTTP_BODY {
        return Err(mistake("\"body\" must be a string of at most 131072 bytes"));
    }
    let method = args.text("method")?.unwrap_or_else(|| "GET".to_owned()).to_ascii_uppercase();
    let headers = args.headers("headers", MAX_HEADERS)?;
    Ok(HttpAsk { service, host, method, target, headers, body: body.into_bytes() })
}

/// The service of a host that is one service's only.
fn by_host(host: &str) -> Result<ServiceName, Mistake> {
    let of: BTreeSet<&ServiceName> = catalog::all()
        .iter()
        .filter(|service| {
            service.hosts.iter().any(|own| own == host || catalog::is_below(host, own))
        })
        .map(|service| &service.name)
        .collect();
    let names: Vec<&str> = of.iter().map(|name| name.as_str()).collect();
    match names.as_slice() {
        [name] => Ok(name.parse().map_err(|_| Mistake(String::new()))?),
        [] => Err(Mistake(
            "the host of \"url\" is no known service's; say by \"service\" whose key is to be used"
                .to_owned(),
        )),
        several => Err(Mistake(format!(
            "several services have the host of \"url\": say by \"service\" which one: {}",
            several.join(", ")
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(arguments: Value) -> Result<HttpAsk, Mistake> {
        read(object(arguments))
    }

    #[test]
    fn a_service_is_known_by_its_host_or_named() {
        let ask = asked(json!({"url": "https://API.openai.com:443/v1/models?a=b#c"})).unwrap();
        assert_eq!((ask.service.as_str(), ask.method.as_str()), ("openai", "GET"));
        assert_eq!(
            (ask.host.as_deref(), ask.target.as_str()),
            (Some("api.openai.com"), "/v1/models?a=b")
        );
        let ask = asked(json!({"url": "/x", "service": "my-api", "method": "post", "body": "é",
            "headers": {"Content-Type": "text/plain"}}))
        .unwrap();
        assert_eq!((ask.host, ask.target.as_str(), ask.method.as_str()), (None, "/x", "POST"));
        assert_eq!(ask.headers, [("content-type".to_owned(), "text/plain".to_owned())]);
        assert_eq!(ask.body, "é".as_bytes());
        let bare = asked(json!({"url": "https://api.openai.com?q=1"})).unwrap();
        assert_eq!(bare.target, "/?q=1");
    }

    #[test]
    fn what_could_go_elsewhere_than_it_seems_is_refused() {
        for wrong in [
            json!({}),
            json!({"url": 1}),
            json!({"url": "http://api.openai.com/"}),
            json!({"url": "https://"}),
            json!({"url": "https://api.openai.com@evil.example/"}),
            json!({"url": "https://evil.example\\@api.openai.com/"}),
            json!({"url": "https://evil.example/"}),
            json!({"url": "/v1/models"}),
            json!({"url": "//evil.example/v1"}),
            json!({"url": "https://api.openai.com/", "headers": {"a": 1}}),
            json!({"url": "https://api.openai.com/", "headers": {"a\nb": "1"}}),
            json!({"url": "https://api.openai.com/", "headers": [1]}),
            json!({"url": "https://api.openai.com/", "more": 1}),
            json!({"url": "https://api.openai.com/", "body": "x".repeat(MAX_HTTP_BODY + 1)}),
        ] {
            assert!(asked(wrong.clone()).is_err(), "{wrong}");
        }
        // Two services have it.
        let Err(Mistake(told)) =
            asked(json!({"url": "https://generativelanguage.googleapis.com/"}))
        else {
            panic!("it was taken")
        };
        assert!(told.contains("gemini, google"), "{told}");
    }

    #[test]
    fn an_answer_is_text_also_where_it_was_cut_in_a_letter() {
        let of = |body: &[u8], cut| {
            let service = "openai".parse().unwrap();
            let headers = vec![("a".into(), "1".into()), ("a".into(), "2".into())];
            let answer = HttpAnswer { status: 200, headers, body: body.to_vec(), cut };
            let Outcome::Done(content) = answered(&service, answer) else { panic!() };
            assert_eq!(content["headers"]["a"], "1, 2");
            (content["body"].clone(), content["encoding"].clone())
        };
        assert_eq!(of(b"caf\xc3", true), (json!("caf"), json!("utf-8")));
        assert_eq!(of(b"caf\xc3", false), (json!("Y2Fmww=="), json!("base64")));
        assert_eq!(of(b"\xff\xfe", true).1, json!("base64"));
    }
}
