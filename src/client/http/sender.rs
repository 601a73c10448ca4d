//! What requests are sent by: a connection of HTTP/1.1, for one call at a time, or of HTTP/2,
//! which calls share.
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::client::conn::{TrySendError, http1, http2};
use hyper::header::{HOST, HeaderValue};
use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use hyper::{Request, Response, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};

/// What a server chooses HTTP/2 by.
pub const H2: &[u8] = b"h2";
/// Most bytes that a connection of HTTP/1.1 holds of an answer that is not read as fast as it comes.
const MAX_BUFFER: usize = 64 * 1024;

/// What requests are sent by.
pub enum Sender<B = Full<Bytes>> {
    /// HTTP/1.1.
    One(http1::SendRequest<B>),
    /// HTTP/2, for the server of this authority.
    Two(http2::SendRequest<B>, Authority),
}

impl<B> Sender<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Begins HTTP/1.1 on a connection.
    pub async fn one<S>(stream: S) -> hyper::Result<Self>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut http = http1::Builder::new();
        http.max_buf_size(MAX_BUFFER);
        let (sender, connection) = http.handshake(TokioIo::new(stream)).await?;
        // The task ends with its connection: when the sender is dropped, or the server hangs up.
        // What it ends with reaches whoever waits for an answer.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Self::One(sender))
    }

    /// Begins HTTP/2 on a connection to the server of `authority`.
    pub async fn two<S>(stream: S, authority: Authority) -> hyper::Result<Self>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let executor = TokioExecutor::new();
        let (sender, connection) =
            http2::Builder::new(executor).handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Self::Two(sender, authority))
    }

    /// The same connection for another call at once, if it takes more than one.
    pub fn share(&self) -> Option<Self> {
        match self {
            Self::One(_) => None,
            Self::Two(sender, authority) => Some(Self::Two(sender.clone(), authority.clone())),
        }
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        match self {
            Self::One(sender) => sender.is_closed(),
            Self::Two(sender, _) => sender.is_closed(),
        }
    }

    /// Whether a request can be sent at once: over HTTP/1.1, whether the last one and its answer
    /// are over.
    pub fn is_free(&self) -> bool {
        match self {
            Self::One(sender) => sender.is_ready(),
            Self::Two(sender, _) => sender.is_ready(),
        }
    }

    /// Waits until a request can be sent; false when the connection has ended.
    pub async fn is_ready(&mut self) -> bool {
        match self {
            Self::One(sender) => sender.ready().await.is_ok(),
            Self::Two(sender, _) => sender.ready().await.is_ok(),
        }
    }

    /// Sends a request, which comes back when nothing of it was sent.
    pub async fn try_send(
        &mut self,
        request: Request<B>,
    ) -> Result<Response<Incoming>, TrySendError<Request<B>>> {
        match self {
            Self::One(sender) => sender.try_send_request(for_one(request)).await,
            Self::Two(sender, authority) => {
                sender.try_send_request(for_two(request, authority)).await
            }
        }
    }
}

/// The server is named in `Host`, and the target is a path.
fn for_one<B>(mut request: Request<B>) -> Request<B> {
    if let Some(authority) = request.uri().authority() {
        if let Ok(host) = HeaderValue::from_str(authority.as_str()) {
            request.headers_mut().insert(HOST, host);
        }
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = Uri::from(path.unwrap_or(PathAndQuery::from_static("/")));
    }
    request
}

/// The server is named in the target, and there alone.
fn for_two<B>(mut request: Request<B>, authority: &Authority) -> Request<B> {
    request.headers_mut().remove(HOST);
    let mut parts = request.uri().clone().into_parts();
    parts.scheme = Some(Scheme::HTTPS);
    parts.authority = Some(authority.clone());
    if let Ok(target) = Uri::from_parts(parts) {
        *request.uri_mut() = target;
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_was_not_sent_can_go_by_the_other_version() {
        let request = Request::builder().uri("/health?a=b").header(HOST, "keys.org:8443");
        let request = request.body(Full::<Bytes>::default()).unwrap();
        let two = for_two(for_one(request), &Authority::from_static("keys.org:8443"));
        assert_eq!(two.uri(), "https://keys.org:8443/health?a=b");
        assert!(!two.headers().contains_key(HOST));
        let one = for_one(two);
        assert_eq!(one.uri(), "/health?a=b");
        assert_eq!(one.headers()[HOST], "keys.org:8443");
    }
}
