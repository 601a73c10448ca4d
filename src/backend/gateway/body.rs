//! A program's body on its way to the service.
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::Incoming;

use super::held;
use crate::core::gateway::MAX_BODY;
use crate::core::problem::{Answer, Problem};
use crate::web::Prefixed;

/// As it goes to the service.
pub type RequestBody = UnsyncBoxBody<Bytes, io::Error>;

/// As it comes.
pub enum Coming {
    /// There is none.
    Nothing,
    /// What of it is there already, and the rest.
    Streamed(Vec<u8>, Incoming),
    /// All of it.
    Whole(Bytes),
}

/// What goes to the service besides the head.
pub enum Outgoing {
    /// Nothing does.
    Nothing,
    /// A body that is there, and can be sent again.
    Whole(Bytes),
    /// A body, once.
    Body(RequestBody),
    /// Of a WebSocket, once the service has agreed.
    Frames(Prefixed<Incoming>),
}

impl Coming {
    /// All of it, in one piece.
    pub async fn whole(self, most: usize, too_large: fn() -> Problem) -> Answer<Bytes> {
        match self {
            Self::Nothing => Ok(Bytes::new()),
            Self::Streamed(first, body) => held::whole(first, body, most, too_large).await,
            Self::Whole(whole) if whole.len() > most => Err(too_large()),
            Self::Whole(whole) => Ok(whole),
        }
    }

    /// To be sent as it comes.
    pub fn sent(self, websocket: bool) -> Outgoing {
        match self {
            Self::Nothing => Outgoing::Nothing,
            Self::Streamed(first, body) if websocket => {
                Outgoing::Frames(Prefixed::new(first, body))
            }
            Self::Streamed(first, body) => {
                let body = Limited::new(Prefixed::new(first, body), MAX_BODY);
                Outgoing::Body(body.map_err(io::Error::other).boxed_unsync())
            }
            Self::Whole(whole) => Outgoing::Whole(whole),
        }
    }
}

impl Outgoing {
    /// The same once more, if that can be.
    pub fn again(&self) -> Option<Self> {
        match self {
            Self::Nothing => Some(Self::Nothing),
            Self::Whole(bytes) => Some(Self::Whole(bytes.clone())),
            Self::Body(_) | Self::Frames(_) => None,
        }
    }
}

/// A body that is there.
pub fn whole(body: Bytes) -> RequestBody {
    Full::new(body).map_err(|never| match never {}).boxed_unsync()
}

/// Without a body the service is told of none, not of one whose end is still to come.
pub fn no_body() -> RequestBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// The same body, with its bytes counted.
pub fn counted(body: RequestBody, sent: Arc<AtomicU64>) -> RequestBody {
    body.map_frame(move |frame| {
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        sent.fetch_add(bytes as u64, Ordering::Relaxed);
        frame
    })
    .boxed_unsync()
}
