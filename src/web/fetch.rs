//! A small client for an OpenID issuer and for the services that make keys: one request a
//! connection, everything bounded, and nothing believed that the certificate does not vouch for.
//!
//! `https://` by the trust that it was given, `http://` to this machine alone, anything else
//! refused before a byte is sent. No redirect is followed: what was sent to one server, a code
//! or a client's secret, goes to no other.
use std::sync::OnceLock;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
pub use hyper::Method;
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT,
};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::timeout;
use zeroize::{Zeroize, Zeroizing};

use super::handshake::{self, Why, words};
use super::{Trust, TrustError, Url, UrlError, dial, wiped};

/// Longest that it takes to be connected, the TLS handshake included.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest that a whole exchange takes.
const WHOLE: Duration = Duration::from_secs(10);
/// Most bytes of an answer.
const MAX_ANSWER: usize = 256 * 1024;
/// Most bytes of an answer's head.
const MAX_HEAD: usize = 64 * 1024;
/// Most header fields of an answer.
const MAX_FIELDS: usize = 100;

/// Why there is no answer. Holds no query, no body and nothing of the answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FetchError {
    /// Not a URL that is opened here. Nothing was sent.
    #[error("the URL was not opened: {0}")]
    Url(#[from] UrlError),
    /// This machine cannot check certificates. Nothing was sent.
    #[error("{0}")]
    Trust(#[from] TrustError),
    /// Nobody was there. Nothing was sent.
    #[error("cannot connect to {origin}: {reason}")]
    Unreachable {
        /// Scheme, host and port.
        origin: String,
        /// What the system said.
        reason: String,
    },
    /// The server was not believed. Nothing was sent.
    #[error("{origin} was not believed: {why}")]
    NotBelieved {
        /// Scheme, host and port.
        origin: String,
        /// Why.
        why: Why,
    },
    /// The time was up.
    #[error("{0} did not answer in time")]
    Late(String),
    /// The connection broke, or what came was no HTTP.
    #[error("{0} hung up, or does not speak HTTP")]
    Broken(String),
    /// It wanted to send the caller elsewhere.
    #[error("{url} answered with a redirect (status {status}), and none is followed")]
    Redirect {
        /// What was asked.
        url: String,
        /// The answer's status.
        status: u16,
    },
    /// The answer is too large.
    #[error("the answer of {0} is larger than {max} bytes", max = MAX_ANSWER)]
    TooLarge(String),
    /// The answer is not JSON, or not the JSON that was wanted.
    #[error("the answer of {0} is not the JSON that it should be")]
    NotJson(String),
    /// The answer is not XML, or not the XML that was wanted.
    #[error("the answer of {0} is not the XML that it should be")]
    NotXml(String),
}

impl FetchError {
    /// Whether the same may work later: nobody answered, or not in time.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Late(_) | Self::Broken(_))
    }

    /// Whether it is sure that the server did not get to see the request.
    pub fn nothing_sent(&self) -> bool {
        use FetchError::{NotBelieved, Trust, Unreachable, Url};
        matches!(self, Url(_) | Trust(_) | Unreachable { .. } | NotBelieved { .. })
    }
}

/// A whole answer. Its bytes are wiped when it is dropped, since they may hold tokens.
pub struct Fetched {
    /// The HTTP status; never a redirect. Only with one below 300 is it sure to be of the form
    /// that was wanted.
    pub status: u16,
    /// How many seconds to wait before another try, if `Retry-After` says so in seconds.
    pub retry_after: Option<u64>,
    /// How long it may be kept, if `Cache-Control` says so; `no-store` and `no-cache` are zero.
    pub max_age: Option<Duration>,
    url: String,
    as_wanted: bool,
    body: Zeroizing<Vec<u8>>,
}

/// In what form an answer is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Form {
    /// JSON.
    #[default]
    Json,
    /// XML.
    Xml,
}

impl Form {
    fn media_types(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Xml => "text/xml, application/xml",
        }
    }

    fn failed(self, url: String) -> FetchError {
        match self {
            Self::Json => FetchError::NotJson(url),
            Self::Xml => FetchError::NotXml(url),
        }
    }

    fn is_of(self, headers: &HeaderMap) -> bool {
        let given = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let given = given.map(|given| given.split(';').next().unwrap_or_default().trim());
        let Some(given) = given.map(str::to_ascii_lowercase) else { return false };
        let (kind, sub) = given.split_once('/').unwrap_or_default();
        match self {
            Self::Json => kind == "application" && (sub == "json" || sub.ends_with("+json")),
            Self::Xml => sub == "xml" && (kind == "text" || kind == "application"),
        }
    }
}

impl Fetched {
    /// Whether the status is one of success.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Reads the body as JSON.
    ///
    /// # Errors
    /// `NotJson`, when its content type or its shape is another.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, FetchError> {
        let read = self.as_wanted.then(|| serde_json::from_slice(&self.body).ok()).flatten();
        read.ok_or_else(|| FetchError::NotJson(self.url.clone()))
    }

    /// The body as text, if it is of the form that was wanted.
    pub fn text(&self) -> Option<&str> {
        self.as_wanted.then(|| std::str::from_utf8(&self.body).ok()).flatten()
    }
}

/// A request.
pub struct Asked<'a> {
    /// Its method.
    pub method: Method,
    /// Where to.
    pub url: &'a str,
    /// More header fields, such as a bearer token.
    pub headers: &'a [(&'static str, &'a str)],
    /// In what form the answer is wanted.
    pub form: Form,
    /// The body's type, if there is a body.
    pub kind: Option<&'static str>,
    /// The body; wiped after it was sent.
    pub body: Zeroizing<Vec<u8>>,
}

/// Fetches pages. Reads the machine's roots when it first needs them.
#[derive(Default)]
pub struct Fetcher {
    trust: OnceLock<Trust>,
}

impl Fetcher {
    /// Trusts whom this machine trusts.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts these and no others.
    pub fn trusting(trust: Trust) -> Self {
        Self { trust: OnceLock::from(trust) }
    }

    /// Asks for a page of JSON.
    ///
    /// # Errors
    /// Any [`FetchError`]. An answer with a status of 400 and more is none.
    pub async fn get_json(&self, url: &str) -> Result<Fetched, FetchError> {
        self.fetch(Method::GET, url, Zeroizing::default()).await
    }

    /// Sends a form and wants JSON. The form's bytes are wiped after it was sent.
    ///
    /// # Errors
    /// Any [`FetchError`]. An answer with a status of 400 and more is none.
    pub async fn post_form(
        &self,
        url: &str,
        fields: &[(&str, &str)],
    ) -> Result<Fetched, FetchError> {
        self.fetch(Method::POST, url, form(fields)).await
    }

    /// Sends any request whose answer is of the form that is wanted, or nothing.
    ///
    /// # Errors
    /// Any [`FetchError`]. An answer with a status of 400 and more is none.
    pub async fn send(&self, asked: Asked<'_>) -> Result<Fetched, FetchError> {
        let url: Url = asked.url.parse()?;
        let whole = timeout(WHOLE, self.exchange(asked, &url)).await;
        whole.unwrap_or_else(|_| Err(FetchError::Late(url.origin())))
    }

    async fn fetch(
        &self,
        method: Method,
        url: &str,
        body: Zeroizing<Vec<u8>>,
    ) -> Result<Fetched, FetchError> {
        let kind = (method == Method::POST).then_some("application/x-www-form-urlencoded");
        self.send(Asked { method, url, headers: &[], form: Form::Json, kind, body }).await
    }

    async fn exchange(&self, asked: Asked<'_>, url: &Url) -> Result<Fetched, FetchError> {
        let late = |_| FetchError::Late(url.origin());
        if url.tls {
            let secured = timeout(CONNECT, self.secured(url)).await.map_err(late)??;
            ask(secured, asked, url).await
        } else {
            let plain = timeout(CONNECT, dialled(url)).await.map_err(late)??;
            ask(plain, asked, url).await
        }
    }

    async fn secured(
        &self,
        url: &Url,
    ) -> Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static, FetchError> {
        let trust = match self.trust.get() {
            Some(trust) => trust,
            None => {
                let machine = Trust::machine()?;
                self.trust.get_or_init(|| machine)
            }
        };
        let stream = dialled(url).await?;
        match handshake::client(trust, &url.host, &[b"http/1.1"], stream).await {
            Ok(secured) => Ok(secured.stream),
            Err(refused) => Err(FetchError::NotBelieved { origin: url.origin(), why: refused.why }),
        }
    }
}

async fn dialled(url: &Url) -> Result<tokio::net::TcpStream, FetchError> {
    dial::tcp(&url.host, url.port, CONNECT)
        .await
        .map_err(|error| FetchError::Unreachable { origin: url.origin(), reason: words(&error) })
}

async fn ask<S>(stream: S, asked: Asked<'_>, url: &Url) -> Result<Fetched, FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = || FetchError::Broken(url.origin());
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_FIELDS)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|_| broken())?;
    // Ends the connection with this call, however the call ends.
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    let Asked { method, url: _, headers, form, kind, body } = asked;
    let mut request = Request::builder()
        .method(method)
        .uri(&url.target)
        .header(HOST, url.authority())
        .header(ACCEPT, form.media_types())
        .header(USER_AGENT, concat!("agentkeys/", env!("CARGO_PKG_VERSION")));
    if let Some(kind) = kind {
        request = request.header(CONTENT_TYPE, kind);
    }
    for (name, value) in headers {
        let mut value = HeaderValue::from_str(value).map_err(|_| UrlError::Form)?;
        value.set_sensitive(true);
        request = request.header(*name, value);
    }
    let request = request.body(Full::new(wiped(body))).map_err(|_| UrlError::Form)?;
    let response = sender.send_request(request).await.map_err(|_| broken())?;
    received(url, form, response).await
}

async fn received(
    url: &Url,
    form: Form,
    response: Response<Incoming>,
) -> Result<Fetched, FetchError> {
    let (head, mut body) = response.into_parts();
    let status = head.status.as_u16();
    if head.status.is_redirection() {
        return Err(FetchError::Redirect { url: url.to_string(), status });
    }
    let as_wanted = form.is_of(&head.headers);
    // An answer without content has no type either.
    if head.status.is_success() && head.status != StatusCode::NO_CONTENT && !as_wanted {
        return Err(form.failed(url.to_string()));
    }
    let too_large = || FetchError::TooLarge(url.to_string());
    if body.size_hint().lower() > MAX_ANSWER as u64 {
        return Err(too_large());
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_ANSWER));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| FetchError::Broken(url.origin()))?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > MAX_ANSWER {
            return Err(too_large());
        }
        bytes.extend_from_slice(&data);
        // Wipes what the network layer read, where nobody else shares it.
        if let Ok(mut read) = data.try_into_mut() {
            read[..].zeroize();
        }
    }
    let max_age = max_age(&head.headers);
    let after = head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let url = url.to_string();
    Ok(Fetched { status, retry_after: after, max_age, url, as_wanted, body: bytes })
}

fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let mut found = None;
    for value in headers.get_all(CACHE_CONTROL) {
        for part in value.to_str().ok()?.split(',') {
            let part = part.trim().to_ascii_lowercase();
            if part == "no-store" || part == "no-cache" {
                return Some(Duration::ZERO);
            }
            let seconds = part.strip_prefix("max-age=").map(|number| number.trim_matches('"'));
            let seconds = seconds.and_then(|number| number.parse::<u32>().ok());
            found = found.or(seconds.map(|seconds| Duration::from_secs(seconds.into())));
        }
    }
    found
}

/// The fields as `application/x-www-form-urlencoded`, in a buffer that never moves.
pub fn form(fields: &[(&str, &str)]) -> Zeroizing<Vec<u8>> {
    let most = fields.iter().map(|(name, value)| 3 * (name.len() + value.len()) + 2).sum();
    let mut form = Zeroizing::new(Vec::with_capacity(most));
    for (name, value) in fields {
        if !form.is_empty() {
            form.push(b'&');
        }
        encode(name, &mut form);
        form.push(b'=');
        encode(value, &mut form);
    }
    form
}

fn encode(text: &str, into: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._*".contains(&byte) {
            into.push(byte);
        } else {
            let (high, low) = (usize::from(byte >> 4), usize::from(byte & 15));
            into.extend([b'%', DIGITS[high], DIGITS[low]]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_encoded_so_that_nothing_ends_a_field_early() {
        let fields = [("grant_type", "a b&c=d+e%"), ("code", "\u{e9}/\"'")];
        let form = form(&fields);
        assert_eq!(*form, b"grant_type=a%20b%26c%3Dd%2Be%25&code=%C3%A9%2F%22%27");
    }

    #[test]
    fn how_long_an_answer_may_be_kept_is_read_from_its_head() {
        let age = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(CACHE_CONTROL, value.parse().unwrap());
            max_age(&headers)
        };
        assert_eq!(age("public, Max-Age=20, must-revalidate"), Some(Duration::from_secs(20)));
        assert_eq!(age("max-age=20, no-store"), Some(Duration::ZERO));
        assert_eq!(age("max-age=-1"), None);
        assert_eq!(age("max-age=99999999999999999999"), None);
        assert_eq!(max_age(&HeaderMap::new()), None);
    }

    #[test]
    fn json_and_xml_are_known_by_their_content_type() {
        let is = |form: Form, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, value.parse().unwrap());
            form.is_of(&headers)
        };
        assert!(is(Form::Json, "application/json; charset=utf-8"));
        assert!(is(Form::Json, "Application/JWK-set+JSON"));
        assert!(is(Form::Xml, "text/xml") && is(Form::Xml, "Application/XML; charset=utf-8"));
        for other in ["text/html", "application/jsonp", "text/json+json", "json", ""] {
            assert!(!is(Form::Json, other) && !is(Form::Xml, other), "{other}");
        }
        assert!(!is(Form::Json, "text/xml") && !is(Form::Xml, "application/json"));
        assert!(!Form::Json.is_of(&HeaderMap::new()));
    }
}
