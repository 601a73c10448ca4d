//! Where the browser comes back to: a server on 127.0.0.1 that takes one good answer.
//!
//! Other programs of this machine, and pages in the person's browser, can reach the port too:
//! whatever does not carry this sign-in's `state` is refused, and ends nothing. The page that is
//! shown holds nothing of the request.
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use subtle::ConstantTimeEq;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use zeroize::Zeroizing;

use super::issuer::Refused;
use crate::core::problem::{Answer, Code, Problem};

/// Connections at once; later ones wait in the kernel.
const MAX_CONNECTIONS: usize = 16;
/// Longest that one may take.
const ONE: Duration = Duration::from_secs(10);
/// Most bytes of a request's head.
const MAX_HEAD: usize = 16 * 1024;
/// Longest that the browser is waited for after its answer came.
const FINISH: Duration = Duration::from_secs(2);

const PATH: &str = "/callback";

/// The code, or the issuer's refusal.
type Came = Result<Zeroizing<String>, Refused>;

/// What an answer is held against.
struct Expected {
    host: String,
    state: Zeroizing<String>,
    issuer: String,
    /// Whether the issuer says that it names itself in each answer.
    must_name: bool,
}

/// The server, and what came of it.
pub struct Callback {
    listener: TcpListener,
    expected: Arc<Expected>,
    connections: JoinSet<()>,
    sender: mpsc::Sender<Came>,
    receiver: mpsc::Receiver<Came>,
}

impl Callback {
    /// Listens on a free port of 127.0.0.1.
    pub async fn listen(state: &str, issuer: &str, names_itself: Option<&str>) -> Answer<Self> {
        let no_port = |error: std::io::Error| {
            Problem::new(
                Code::Internal,
                "no port to come back to",
                format!("this machine gives no port on 127.0.0.1: {error}"),
                "agentkeys init --device needs none",
            )
        };
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = TcpListener::bind(any).await.map_err(no_port)?;
        let port = listener.local_addr().map_err(no_port)?.port();
        let expected = Arc::new(Expected {
            host: format!("127.0.0.1:{port}"),
            state: Zeroizing::new(state.to_owned()),
            issuer: issuer.to_owned(),
            must_name: names_itself.is_some(),
        });
        let (sender, receiver) = mpsc::channel(1);
        Ok(Self { listener, expected, connections: JoinSet::new(), sender, receiver })
    }

    /// Its address, for the issuer.
    pub fn address(&self) -> String {
        format!("http://{}{PATH}", self.expected.host)
    }

    /// The first good answer. May be dropped and called again.
    pub async fn answer(&mut self) -> Came {
        loop {
            let room = self.connections.len() < MAX_CONNECTIONS;
            tokio::select! {
                Some(came) = self.receiver.recv() => return came,
                Some(_) = self.connections.join_next() => {}
                accepted = self.listener.accept(), if room => match accepted {
                    Ok((stream, _)) => {
                        let (expected, sender) = (self.expected.clone(), self.sender.clone());
                        self.connections.spawn(serve(stream, expected, sender));
                    }
                    // Out of descriptors, or the caller hung up: no reason to give up.
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                },
            }
        }
    }

    /// Lets the browser have its page.
    pub async fn finish(mut self) {
        drop(self.listener);
        let all = async { while self.connections.join_next().await.is_some() {} };
        // A browser that does not take it goes without.
        let _ = tokio::time::timeout(FINISH, all).await;
    }
}

async fn serve(stream: tokio::net::TcpStream, expected: Arc<Expected>, sender: mpsc::Sender<Came>) {
    let service = service_fn(|request: Request<Incoming>| {
        let judged = judge(&request, &expected);
        let response = match judged {
            // A second good answer is as good as the first, and changes nothing.
            Ok(came) => {
                let page = if came.is_ok() { SIGNED_IN } else { REFUSED };
                let _ = sender.try_send(came);
                response(StatusCode::OK, page)
            }
            Err(status) => response(status, NOT_THIS),
        };
        async { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(ONE)
        .max_buf_size(MAX_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // How it ends is nobody's business: a good answer was passed on already.
    let _ = tokio::time::timeout(ONE, connection).await;
}

fn judge<B>(request: &Request<B>, expected: &Expected) -> Result<Came, StatusCode> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = hosts.next().map(HeaderValue::as_bytes);
    // Another name would be a page of elsewhere that was rebound to this address.
    if host != Some(expected.host.as_bytes()) || hosts.next().is_some() {
        return Err(StatusCode::BAD_REQUEST);
    }
    if request.uri().path() != PATH || request.uri().authority().is_some() {
        return Err(StatusCode::NOT_FOUND);
    }
    if *request.method() != Method::GET {
        return Err(StatusCode::METHOD_NOT_ALLOWED);
    }
    let fields = Fields::of(request.uri().query().unwrap_or_default());
    let fields = fields.ok_or(StatusCode::BAD_REQUEST)?;
    let state = fields.state.as_deref().map(String::as_bytes).unwrap_or_default();
    if !bool::from(state.ct_eq(expected.state.as_bytes())) {
        return Err(StatusCode::BAD_REQUEST);
    }
    // RFC 9207: the answer of another issuer, whose code would go to this one.
    let named = match &fields.iss {
        Some(issuer) => **issuer == expected.issuer,
        None => !expected.must_name,
    };
    if !named {
        return Err(StatusCode::BAD_REQUEST);
    }
    match (fields.code, fields.error) {
        (Some(code), None) if !code.is_empty() => Ok(Ok(code)),
        (None, Some(error)) => {
            let said = fields.error_description.map(|said| said.to_string()).unwrap_or_default();
            Ok(Err(Refused::new(error.to_string(), said)))
        }
        _ => Err(StatusCode::BAD_REQUEST),
    }
}

type Text = Option<Zeroizing<String>>;

/// The fields of the query that mean something; others may stand beside them.
#[derive(Default)]
struct Fields {
    state: Text,
    code: Text,
    iss: Text,
    error: Text,
    error_description: Text,
}

impl Fields {
    /// Reads them; `None` if one is given twice or is not text.
    fn of(query: &str) -> Option<Self> {
        let mut found = Self::default();
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let place = match name {
                "state" => &mut found.state,
                "code" => &mut found.code,
                "iss" => &mut found.iss,
                "error" => &mut found.error,
                "error_description" => &mut found.error_description,
                _ => continue,
            };
            if place.replace(decoded(value)?).is_some() {
                return None;
            }
        }
        Some(found)
    }
}

/// A value of `application/x-www-form-urlencoded`.
fn decoded(raw: &str) -> Option<Zeroizing<String>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(raw.len()));
    let mut rest = raw.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || rest.next().and_then(|c| char::from(c).to_digit(16));
                (digit()? << 4 | digit()?) as u8
            }
            other => other,
        });
    }
    std::str::from_utf8(&bytes).ok().map(|text| Zeroizing::new(text.to_owned()))
}

const SIGNED_IN: &str =
    "The answer is there. You can close this window, and go back to the terminal.";
const REFUSED: &str = "The issuer did not sign you in. The terminal says more.";
const NOT_THIS: &str = "This is not an answer to the sign-in that waits here.";

fn response(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>AgentKeys</title>\
         <p>{text}</p></html>\n"
    );
    let mut response = Response::new(Full::new(Bytes::from(page)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(must_name: bool) -> Expected {
        Expected {
            host: "127.0.0.1:7".into(),
            state: Zeroizing::new("s t".to_owned()),
            issuer: "https://issuer.example".into(),
            must_name,
        }
    }

    fn judged(method: &str, target: &str, hosts: &[&str], must_name: bool) -> Result<String, u16> {
        let mut request = Request::builder().method(method).uri(target);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        match judge(&request.body(()).unwrap(), &expected(must_name)) {
            Ok(Ok(code)) => Ok(code.to_string()),
            Ok(Err(refused)) => Ok(format!("refused {}", refused.error)),
            Err(status) => Err(status.as_u16()),
        }
    }

    #[test]
    fn only_this_sign_in_s_answer_at_this_address_is_taken() {
        let of = |target: &str| judged("GET", target, &["127.0.0.1:7"], false);
        assert_eq!(of("/callback?code=a%2Fb&state=s+t"), Ok("a/b".into()));
        assert_eq!(of("/callback?state=s%20t&x=y&code=c&session_state=z"), Ok("c".into()));
        assert_eq!(
            of("/callback?state=s%20t&error=access_denied"),
            Ok("refused access_denied".into())
        );
        for (bad, status) in [
            ("/callback", 400),
            ("/callback?code=c", 400),
            ("/callback?code=c&state=", 400),
            ("/callback?code=c&state=other", 400),
            ("/callback?code=c&state=s%20t&state=s%20t", 400),
            ("/callback?code=c&code=d&state=s%20t", 400),
            ("/callback?code=&state=s%20t", 400),
            ("/callback?code=c&error=e&state=s%20t", 400),
            ("/callback?state=s%20t", 400),
            ("/callback?error=access_denied", 400),
            ("/callback?code=%ff&state=s%20t", 400),
            ("/callback?code=%4&state=s%20t", 400),
            ("/callback/?code=c&state=s%20t", 404),
            ("/?code=c&state=s%20t", 404),
            ("/favicon.ico", 404),
        ] {
            assert_eq!(of(bad), Err(status), "{bad}");
        }
        let good = "/callback?code=c&state=s%20t";
        for method in ["POST", "HEAD", "OPTIONS"] {
            assert_eq!(judged(method, good, &["127.0.0.1:7"], false), Err(405));
        }
        for hosts in [
            &["evil.example:7"][..],
            &["localhost:7"],
            &["127.0.0.1"],
            &[],
            &["127.0.0.1:7", "127.0.0.1:7"],
        ] {
            assert_eq!(judged("GET", good, hosts, false), Err(400), "{hosts:?}");
        }
    }

    #[test]
    fn an_answer_of_another_issuer_is_not_taken() {
        let of = |issuer: &str, must_name| {
            let target = format!("/callback?code=c&state=s%20t{issuer}");
            judged("GET", &target, &["127.0.0.1:7"], must_name)
        };
        assert_eq!(of("&iss=https%3A%2F%2Fissuer.example", true), Ok("c".into()));
        assert_eq!(of("", false), Ok("c".into()));
        assert_eq!(of("", true), Err(400));
        assert_eq!(of("&iss=https%3A%2F%2Fother.example", false), Err(400));
        assert_eq!(of("&iss=https%3A%2F%2Fissuer.example%2F", true), Err(400));
    }
}
