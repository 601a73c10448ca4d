//! An answer, judged before it is believed.
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_TYPE, DATE};
use hyper::{HeaderMap, Response, StatusCode};
use serde::de::DeserializeOwned;
use time::format_description::well_known::Rfc2822;
use zeroize::Zeroizing;

use super::{Address, fault};
use crate::core::audit::Head;
use crate::core::encoding::from_base64;
use crate::core::problem::{Answer, Problem};
use crate::core::types::Timestamp;
use crate::core::wire::{HEAD_HEADER, Route, WIRE_HEADER, WIRE_VERSION};

/// Longest header with a signed head.
const MAX_HEAD: usize = 4 * 1024;

/// A whole answer of the right wire version. Its bytes are wiped when it is dropped.
pub struct Received<'a> {
    address: &'a Address,
    route: Route,
    status: StatusCode,
    headers: HeaderMap,
    body: Zeroizing<Vec<u8>>,
}

/// Reads an answer of at most `limit` bytes.
pub async fn receive(
    address: &Address,
    route: Route,
    response: Response<Incoming>,
    limit: usize,
) -> Answer<Received<'_>> {
    let not_wire = |why: &str| fault::not_wire(address, route, why);
    let (parts, mut body) = response.into_parts();
    let version = parts.headers.get(WIRE_HEADER).and_then(|value| value.to_str().ok());
    match version {
        None => return Err(not_wire("it does not say which wire it speaks")),
        Some(version) if version.parse() == Ok(WIRE_VERSION) => {}
        Some(version) => return Err(fault::wrong_version(address, version)),
    }
    let too_large = || not_wire(&format!("it is larger than {limit} bytes"));
    let expected = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if expected > limit {
        return Err(too_large());
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(expected));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| fault::hung_up(address, route, true))?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > limit {
            return Err(too_large());
        }
        append(&mut bytes, data);
    }
    Ok(Received { address, route, status: parts.status, headers: parts.headers, body: bytes })
}

/// Appends without leaving an unwiped copy behind when the buffer has to move.
fn append(bytes: &mut Zeroizing<Vec<u8>>, data: Bytes) {
    if bytes.capacity() - bytes.len() < data.len() {
        let mut larger = Zeroizing::new(Vec::with_capacity((bytes.len() + data.len()) * 2));
        larger.extend_from_slice(bytes);
        *bytes = larger;
    }
    bytes.extend_from_slice(&data);
    // Wipes what the network layer read, where nobody else shares it.
    if let Ok(mut read) = data.try_into_mut() {
        zeroize::Zeroize::zeroize(&mut read[..]);
    }
}

impl Received<'_> {
    fn not_wire(&self, why: &str) -> Problem {
        fault::not_wire(self.address, self.route, why)
    }

    /// What the server's clock says, to the second.
    pub fn date(&self) -> Option<Timestamp> {
        let text = self.headers.get(DATE)?.to_str().ok()?;
        let read = time::OffsetDateTime::parse(text, &Rfc2822).ok()?;
        u64::try_from(read.unix_timestamp()).ok().map(|seconds| Timestamp(seconds * 1000))
    }

    /// The signed head that came along, if one did and its signature holds.
    pub fn head(&self) -> Answer<Option<Head>> {
        let Some(value) = self.headers.get(HEAD_HEADER) else { return Ok(None) };
        let wrong = || self.not_wire("its signed head is not one");
        let text = value.to_str().ok().filter(|text| text.len() <= MAX_HEAD).ok_or_else(wrong)?;
        let json = from_base64("head", text).map_err(|_| wrong())?;
        let head: Head = serde_json::from_slice(&json).map_err(|_| wrong())?;
        if head.is_authentic() {
            Ok(Some(head))
        } else {
            Err(self.not_wire("the signature of its head does not verify"))
        }
    }

    /// The value, `None` for a long poll that ended with nothing, or the problem.
    pub fn into_value<T: DeserializeOwned>(self) -> Answer<Option<T>> {
        match self.status {
            StatusCode::NO_CONTENT if self.route.may_wait() && self.body.is_empty() => Ok(None),
            StatusCode::OK => {
                self.wants_type("application/json")?;
                serde_json::from_slice(&self.body)
                    .map(Some)
                    .map_err(|_| self.not_wire("its fields are not the ones of this wire"))
            }
            status if status.is_client_error() || status.is_server_error() => {
                self.wants_type("application/problem+json")?;
                Err(self.problem())
            }
            status => Err(self.not_wire(&format!("its status is {}", status.as_u16()))),
        }
    }

    fn wants_type(&self, wanted: &str) -> Answer<()> {
        let given = self.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let given = given.map(|given| given.split(';').next().unwrap_or_default().trim());
        if given.is_some_and(|given| given.eq_ignore_ascii_case(wanted)) {
            Ok(())
        } else {
            Err(self.not_wire(&format!("its content type is not {wanted}")))
        }
    }

    /// The server's problem, unless it contradicts itself or could play with a terminal.
    fn problem(&self) -> Problem {
        let Ok(problem) = serde_json::from_slice::<Problem>(&self.body) else {
            return self.not_wire("it is no problem document of this wire");
        };
        let texts = [&problem.docs, &problem.title, &problem.detail, &problem.cause, &problem.fix];
        let clean = |text: &&String| !text.chars().any(|c| c.is_control() && c != '\n');
        if problem.status != self.status.as_u16() {
            self.not_wire("its problem names another status")
        } else if !texts.iter().all(clean) {
            self.not_wire("its problem holds control characters")
        } else {
            problem
        }
    }
}
