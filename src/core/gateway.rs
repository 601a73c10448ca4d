//! A request to a service that goes through the backend, which puts the key in: what it and its
//! answer look like inside the body of one of our own requests. See `docs/gateway.md`.
//!
//! Each body is a head, as JSON behind its length in four bytes, big-endian; and then the bytes of
//! the body that it is the head of, up to the end. So nothing that a program sends can be taken for
//! a header of ours, or the other way round.
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::catalog::Sent;
use super::identity::{AgentIdentity, ServiceName};
use super::otp::{Otp, PairCode};
use super::problem::{Code, Problem};
use super::types::RequestId;

/// Where such requests go.
pub const PATH: &str = "/gateway/forward";
/// What both bodies are.
pub const MEDIA_TYPE: &str = "application/vnd.agentkeys.exchange";
/// Most bytes of a head.
pub const MAX_HEAD: usize = 64 * 1024;
/// Most header fields of a head.
pub const MAX_FIELDS: usize = 100;
/// Most bytes of a program's body.
pub const MAX_BODY: usize = 256 * 1024 * 1024;
/// Most bytes of the body of a request that waits for an approval, since it is kept meanwhile.
pub const MAX_HELD_BODY: usize = 1024 * 1024;

/// A header field: its name in lower case, and its value, whose bytes are the characters U+0000 to
/// U+00FF.
pub type Field = (String, String);

/// What a program asks a service.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestHead {
    /// Whose key is used.
    pub agent_id: AgentIdentity,
    /// Of which service.
    pub service: ServiceName,
    /// Which of the service's hosts, with its port unless that is 443; absent: the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The method.
    pub method: String,
    /// Path and query, as the program wrote them.
    pub target: String,
    /// The header fields, in their order.
    pub headers: Vec<Field>,
    /// Whether a body comes after this head.
    pub body: bool,
    /// Whether it asks for a WebSocket: the bodies are the bytes of both directions then, if the
    /// service agrees (101).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub websocket: bool,
    /// Whether it is not to be sent: a placeholder of `service` stood in a request to `host`, where it
    /// does not belong. The refusal goes on record.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub misplaced: bool,
}

/// Where a service is, and how its key travels: what stands beside a program has to know both.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServicePlace {
    /// Which service.
    pub service: ServiceName,
    /// Its hosts, each with its port unless that is 443; none where nobody knows them.
    pub hosts: Vec<String>,
    /// How the key travels in a request.
    pub sent: Sent,
}

/// What the service answered.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResponseHead {
    /// The status.
    pub status: u16,
    /// The header fields, in their order.
    pub headers: Vec<Field>,
}

/// That a request waits for an approval of its master. Another head follows: the service's, or why
/// there is none.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// The auth request, a `HighValueRelease`.
    pub request_id: RequestId,
    /// By which the master finds it.
    pub pair_code: PairCode,
    /// The digits to be compared.
    pub otp: Otp,
    /// How many seconds it waits at most.
    pub seconds: u64,
}

/// The heads of an answer: one that is held has two, others one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AnswerHead {
    /// The service has answered; its body follows.
    Answered(ResponseHead),
    /// It waits; another head follows.
    Held {
        /// For what.
        held: Held,
    },
    /// It waited, and is not sent, or was not answered. Nothing follows.
    Refused {
        /// Why.
        problem: Problem,
    },
}

/// What became of a request that was sent in one piece.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WholeAnswer {
    /// The service has answered: its head, its body as far as it was wanted, and whether there was more.
    Answered(ResponseHead, Vec<u8>, bool),
    /// It waits for an approval, and was not sent. After that the same one is.
    Held(Held),
}

/// A head that is not one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HeadError {
    /// It is longer than [`MAX_HEAD`].
    #[error("its head has more than {MAX_HEAD} bytes")]
    TooLong,
    /// It is not the JSON that it should be.
    #[error("its head is not the JSON that it should be")]
    Shape,
    /// It ended before its head.
    #[error("it ended before its head")]
    CutOff,
}

impl From<HeadError> for Problem {
    fn from(error: HeadError) -> Self {
        Self::invalid("the exchange", error.to_string())
    }
}

/// That a backend has no gateway.
pub fn none() -> Problem {
    Problem::new(Code::NotFound, "no gateway", "this backend has none", "ask another backend")
}

/// That a placeholder stood where it does not belong.
pub fn misplaced(whose: &ServiceName, to: &str) -> Problem {
    Problem::new(
        Code::Denied,
        format!("access denied: the placeholder of {whose} does not belong in a request to {to}"),
        format!("no key of {whose} goes there"),
        "look at what the program sends, and to whom",
    )
}

/// A head as it goes before its body.
///
/// # Errors
/// It is too long.
pub fn encode<T: Serialize>(head: &T) -> Result<Vec<u8>, HeadError> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, head).map_err(|_| HeadError::Shape)?;
    let length = bytes.len() - 4;
    if length > MAX_HEAD {
        return Err(HeadError::TooLong);
    }
    bytes[..4].copy_from_slice(&(length as u32).to_be_bytes());
    Ok(bytes)
}

/// Reads a head from parts of a body, however they are cut.
#[derive(Default)]
pub struct Decoder(Vec<u8>);

impl Decoder {
    /// Takes the next part. Once the head is whole, gives it with what of its body came along.
    ///
    /// # Errors
    /// It is too long, or not JSON of that shape.
    pub fn feed<T: DeserializeOwned>(
        &mut self,
        part: &[u8],
    ) -> Result<Option<(T, Vec<u8>)>, HeadError> {
        self.0.extend_from_slice(part);
        let Some(length) = self.0.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        if length > MAX_HEAD {
            return Err(HeadError::TooLong);
        }
        if self.0.len() < 4 + length {
            return Ok(None);
        }
        let rest = self.0.split_off(4 + length);
        let head = serde_json::from_slice(&self.0[4..]).map_err(|_| HeadError::Shape)?;
        Ok(Some((head, rest)))
    }
}

/// A header's value as a [`Field`] has it.
pub fn field_text(value: &[u8]) -> String {
    value.iter().map(|byte| char::from(*byte)).collect()
}

/// The bytes of a [`Field`]'s value; `None` for characters that are no byte.
pub fn field_bytes(text: &str) -> Option<Vec<u8>> {
    text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect()
}

/// Whether a field belongs to one connection, and goes no further (RFC 9110, section 7.6.1, and the
/// ones that are as old as it). What `Connection` itself names besides is for the caller to add.
pub fn is_hop_by_hop(name: &str) -> bool {
    const FIELDS: [&str; 9] = [
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    FIELDS.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> RequestHead {
        RequestHead {
            agent_id: "my-agent".parse().unwrap(),
            service: "openai".parse().unwrap(),
            host: None,
            method: "POST".into(),
            target: "/v1/chat/completions".into(),
            headers: vec![("accept".into(), "*/*".into())],
            body: true,
            websocket: false,
            misplaced: false,
        }
    }

    #[test]
    fn a_head_is_read_however_its_bytes_are_cut_and_the_body_comes_after_it() {
        let mut bytes = encode(&head()).unwrap();
        bytes.extend_from_slice(b"body");
        for cut in 0..bytes.len() {
            let mut decoder = Decoder::default();
            let mut found = None;
            for part in [&bytes[..cut], &bytes[cut..]] {
                match decoder.feed::<RequestHead>(part).unwrap() {
                    Some((head, rest)) => found = Some((head, rest)),
                    // What comes after the head is its body already.
                    None if found.is_some() => panic!("a second head"),
                    None => {}
                }
                if found.is_some() {
                    break;
                }
            }
            let (read, rest) = found.unwrap();
            assert_eq!(read, head());
            assert!(b"body".starts_with(&rest[..]), "{cut}");
        }
    }

    #[test]
    fn what_is_too_long_or_no_head_is_refused_before_it_is_kept() {
        let long = RequestHead { target: "x".repeat(MAX_HEAD), ..head() };
        assert_eq!(encode(&long), Err(HeadError::TooLong));
        let feed = |bytes: &[u8]| Decoder::default().feed::<RequestHead>(bytes);
        assert_eq!(feed(&[0xff; 4]), Err(HeadError::TooLong));
        assert_eq!(feed(b"\0\0\0\x02{}"), Err(HeadError::Shape));
        let more = br#"{"status":200,"headers":[],"more":1}"#;
        let mut bytes = (more.len() as u32).to_be_bytes().to_vec();
        bytes.extend_from_slice(more);
        assert!(matches!(Decoder::default().feed::<ResponseHead>(&bytes), Err(HeadError::Shape)));
    }

    #[test]
    fn every_byte_of_a_value_survives() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(field_bytes(&field_text(&all)), Some(all));
        assert_eq!(field_bytes("\u{100}"), None);
    }
}
