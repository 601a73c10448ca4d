//! Reading a body within its bounds, and throwing a refused one away.
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use zeroize::Zeroizing;

use super::limits::Limits;
use super::service::{Shared, Stage};
use crate::core::problem::{Answer, Code, Problem};

/// First buffer of a body whose length is not known.
const FIRST: usize = 4 * 1024;

fn too_large(limit: usize) -> Problem {
    Problem::new(
        Code::TooLarge,
        "the body is too large",
        format!("a body may have {limit} bytes"),
        "send less; credentials are limited to 64 KiB",
    )
}

fn too_slow(after: Duration) -> Problem {
    let why = format!("the whole body was not here within {} s", after.as_secs());
    let mut problem = Problem::invalid("the body", why);
    problem.status = 408;
    problem
}

/// The whole body. It may hold secrets, so it is wiped when it is dropped.
pub async fn read(body: &mut Incoming, limits: &Limits) -> Answer<Zeroizing<Vec<u8>>> {
    if body.is_end_stream() {
        return Ok(Zeroizing::default());
    }
    let reading = tokio::time::timeout(limits.body_time, collect(body, limits.body));
    reading.await.map_err(|_| too_slow(limits.body_time))?
}

async fn collect(body: &mut Incoming, limit: usize) -> Answer<Zeroizing<Vec<u8>>> {
    let announced = body.size_hint().exact();
    if announced.is_some_and(|size| size > limit as u64) {
        return Err(too_large(limit));
    }
    let room = announced.and_then(|size| usize::try_from(size).ok()).unwrap_or(FIRST);
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| {
            Problem::invalid("the body", "the body breaks off, or is not framed as HTTP has it")
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > limit {
            return Err(too_large(limit));
        }
        if bytes.capacity() - bytes.len() < data.len() {
            // A plain `Vec` would move and leave an unwiped copy behind.
            let mut larger = Zeroizing::new(Vec::with_capacity((bytes.len() + data.len()) * 2));
            larger.extend_from_slice(&bytes);
            bytes = larger;
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

/// Goes on reading a refused body for a while, beside its answer, and no longer than the server
/// runs. Closing at once would make the kernel throw away what was sent to us and is not read
/// yet, and with it the answer; over HTTP/2, curl takes the reset for a broken stream.
pub fn discard(mut body: Incoming, shared: &Shared) {
    let (most, within) = (shared.limits.discard, shared.limits.discard_time);
    let mut stage = shared.stage.clone();
    let reading = async move {
        let mut seen = 0;
        while let Some(Ok(frame)) = body.frame().await {
            seen += frame.data_ref().map_or(0, |data| data.len());
            if seen > most {
                return;
            }
        }
    };
    tokio::spawn(async move {
        tokio::select! {
            _ = tokio::time::timeout(within, reading) => {}
            _ = stage.wait_for(|stage| *stage != Stage::Running) => {}
        }
    });
}
