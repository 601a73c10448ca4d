//! A request before it is sent.
use std::fmt::Display;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Request, Uri};
use zeroize::Zeroizing;

use crate::core::presence::Proof;
use crate::core::problem::{Answer, Problem};
use crate::core::wire::{PRESENCE_HEADER, Route};
use crate::web::wiped;

/// Most bytes of an answer.
const MAX_ANSWER: usize = 1024 * 1024;
/// Most bytes of an answer that holds many credentials or events.
const MAX_LARGE_ANSWER: usize = 32 * 1024 * 1024;

/// What is asked.
pub struct Ask {
    pub route: Route,
    bearer: Option<Zeroizing<String>>,
    proof: Option<Proof>,
    query: String,
    body: Zeroizing<Vec<u8>>,
    /// How much longer than other requests it may take.
    pub patience: Duration,
}

impl Ask {
    /// Asks `route`, so far with nothing.
    pub fn new(route: Route) -> Self {
        let (query, body) = (String::new(), Zeroizing::default());
        Self { route, bearer: None, proof: None, query, body, patience: Duration::ZERO }
    }

    /// The same with a bearer token.
    pub fn bearer(mut self, token: &str) -> Self {
        let mut value = Zeroizing::new(String::with_capacity(7 + token.len()));
        value.push_str("Bearer ");
        value.push_str(token);
        self.bearer = Some(value);
        self
    }

    /// The same with a proof of presence.
    pub fn proof(mut self, proof: &Proof) -> Self {
        self.proof = Some(*proof);
        self
    }

    /// The same with a field of the query.
    pub fn field(mut self, name: &str, value: impl Display) -> Self {
        self.query.push(if self.query.is_empty() { '?' } else { '&' });
        self.query.push_str(name);
        self.query.push('=');
        for byte in value.to_string().bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~:@".contains(&byte) {
                self.query.push(char::from(byte));
            } else {
                self.query.push_str(&format!("%{byte:02X}"));
            }
        }
        self
    }

    /// The same with a field if there is a value.
    pub fn optional(self, name: &str, value: Option<impl Display>) -> Self {
        match value {
            Some(value) => self.field(name, value),
            None => self,
        }
    }

    /// The same with a JSON body.
    pub fn body(mut self, json: Zeroizing<Vec<u8>>) -> Self {
        self.body = json;
        self
    }

    /// The same as a long poll of `wait`, rounded up to seconds.
    pub fn wait(self, wait: Duration) -> Self {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        let seconds = seconds.min(crate::core::backend::MAX_WAIT.as_secs());
        Self { patience: Duration::from_secs(seconds), ..self.field("wait", seconds) }
    }

    /// Most bytes that its answer may have.
    pub fn answer_limit(&self) -> usize {
        match self.route {
            Route::AuditQuery | Route::CredentialReadAll => MAX_LARGE_ANSWER,
            _ => MAX_ANSWER,
        }
    }

    /// The HTTP request.
    pub fn into_request(self, host: &str) -> Answer<Request<Full<Bytes>>> {
        let wrong = |_| Problem::internal();
        let target = format!("{}{}", self.route.path(), self.query);
        let target: Uri = target.parse().map_err(|_| {
            Problem::invalid("the request", "its fields are too long for one request")
        })?;
        let mut request = Request::builder()
            .method(self.route.method())
            .uri(target)
            .header(HOST, HeaderValue::from_str(host).map_err(wrong)?);
        if !self.body.is_empty() {
            request = request.header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if let Some(bearer) = self.bearer {
            let bytes = Zeroizing::new(bearer.as_bytes().to_vec());
            let mut value = HeaderValue::from_maybe_shared(wiped(bytes)).map_err(wrong)?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        if let Some(proof) = &self.proof {
            let mut value =
                HeaderValue::try_from(proof.to_string()).map_err(|_| Problem::internal())?;
            // Over HTTP/2 it then stands in no table that outlives the request.
            value.set_sensitive(true);
            request = request.header(PRESENCE_HEADER, value);
        }
        let body = Full::new(wiped(self.body));
        request.body(body).map_err(|_| Problem::internal())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_encoded_so_that_nothing_ends_a_field_early() {
        let ask = Ask::new(Route::IdentityResolve).field("identity", "a&b=c+d/é%@x.org");
        let request = ask.into_request("localhost").unwrap();
        assert_eq!(request.uri(), "/identity/resolve?identity=a%26b%3Dc%2Bd%2F%C3%A9%25@x.org");
    }

    #[test]
    fn a_wait_is_rounded_up_and_bounded() {
        let seconds = |wait| Ask::new(Route::RendezvousPoll).wait(wait).patience.as_secs();
        assert_eq!(seconds(Duration::from_millis(1)), 1);
        assert_eq!(seconds(Duration::from_secs(3)), 3);
        assert_eq!(seconds(Duration::from_secs(300)), 30);
    }

    #[test]
    fn the_token_does_not_show_in_a_debug_print_of_the_request() {
        let ask = Ask::new(Route::SessionShow).bearer("agkm_secret");
        let request = ask.into_request("localhost").unwrap();
        assert_eq!(request.headers()[AUTHORIZATION], "Bearer agkm_secret");
        assert!(!format!("{request:?}").contains("agkm_secret"));
    }
}
