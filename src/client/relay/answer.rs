//! What the relay answers a program: its service's answer, or a refusal in a form that programs show.
use std::io;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Body;
use hyper::header::{ALT_SVC, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{HeaderMap, Response, StatusCode};

use crate::core::gateway::{Field, ResponseHead, field_bytes, field_text, is_hop_by_hop};
use crate::core::problem::{Answer, Code, Problem};

/// The body of an answer.
pub type Answered = UnsyncBoxBody<Bytes, io::Error>;

/// Headers as the wire has them.
pub fn fields(headers: &HeaderMap) -> Vec<Field> {
    let fields = headers.iter();
    fields.map(|(name, value)| (name.as_str().to_owned(), field_text(value.as_bytes()))).collect()
}

/// The service's answer, for the program.
pub fn response<B>(head: &ResponseHead, body: B) -> Answer<Response<Answered>>
where
    B: Body<Data = Bytes, Error = io::Error> + Send + 'static,
{
    let wrong = || {
        let cause = "its head is not one of HTTP";
        Problem::new(Code::Unavailable, "the answer cannot be handed on", cause, "try again")
    };
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(head.status).map_err(|_| wrong())?;
    for (name, value) in &head.headers {
        let name: HeaderName = name.parse().map_err(|_| wrong())?;
        // Another way to the service would lead past us (RFC 7838): to HTTP/3, say.
        if is_hop_by_hop(name.as_str()) || name == ALT_SVC {
            continue;
        }
        let value = field_bytes(value).and_then(|bytes| HeaderValue::from_bytes(&bytes).ok());
        response.headers_mut().append(name, value.ok_or_else(wrong)?);
    }
    Ok(response)
}

/// A refusal, as programs of every service can show it: the words stand also where they look for
/// them, in `error.message`.
pub fn refusal(problem: &Problem) -> Response<Answered> {
    let mut json = serde_json::to_value(problem).unwrap_or_default();
    let words = format!("{}: {}", problem.detail, problem.cause);
    if let Some(members) = json.as_object_mut() {
        let error =
            serde_json::json!({ "message": words, "type": problem.code, "code": problem.code });
        members.insert("error".to_owned(), error);
    }
    let bytes = serde_json::to_vec(&json).unwrap_or_default();
    let body = Full::new(Bytes::from(bytes)).map_err(|never| match never {});
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() =
        StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let kind = HeaderValue::from_static("application/problem+json");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
