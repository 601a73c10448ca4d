//! When a service is asked again: only where it did nothing, and says so or cannot be reached, and
//! nothing of an answer was handed on. Later each time, by chance, and when the service itself says.
use std::time::Duration;

use hyper::header::{HeaderMap, RETRY_AFTER};
use hyper::{Response, StatusCode};

use crate::backend::clock::Entropy;

/// How often it is asked again at most.
const MOST: u32 = 3;
/// The longest first pause; each further one is twice as long.
const FIRST: Duration = Duration::from_millis(500);
/// Longest that a service may have a program wait unasked. What it wants beyond that is the program's
/// to know, and to decide.
const LONGEST: Duration = Duration::from_secs(20);
/// Largest body that is kept to be sent again.
pub const MAX_KEPT: usize = 256 * 1024;

/// Of one request.
#[derive(Default)]
pub struct Retries {
    done: u32,
}

/// Whether an answer says that nothing was done: too many requests, not available, or overloaded (529,
/// which Anthropic has of its own).
fn did_nothing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 503 | 529)
}

/// The seconds that an answer says. A date is not read: clocks differ, and services that ask programs to
/// wait write seconds.
fn said(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}

impl Retries {
    /// How long to wait before the service is asked again; `None` if its answer is handed on.
    pub fn after<B>(&mut self, response: &Response<B>, entropy: &Entropy) -> Option<Duration> {
        if !did_nothing(response.status()) {
            return None;
        }
        let headers = response.headers();
        let said = match (said(headers), headers.contains_key(RETRY_AFTER)) {
            (Some(said), _) => said,
            (None, true) => return None,
            (None, false) => Duration::ZERO,
        };
        if said > LONGEST {
            return None;
        }
        self.pause(said, entropy)
    }

    /// The same for one that cannot be reached: nothing was sent to it.
    pub fn unreachable(&mut self, entropy: &Entropy) -> Option<Duration> {
        self.pause(Duration::ZERO, entropy)
    }

    fn pause(&mut self, at_least: Duration, entropy: &Entropy) -> Option<Duration> {
        if self.done == MOST {
            return None;
        }
        let most = FIRST * 2_u32.pow(self.done);
        self.done += 1;
        // Those that were refused together are not to come again together.
        let chance = f64::from(u32::from_be_bytes(entropy.bytes().ok()?)) / f64::from(u32::MAX);
        Some(at_least + most.mul_f64(chance))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, after: Option<&str>) -> Response<()> {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        if let Some(after) = after {
            response.headers_mut().insert(RETRY_AFTER, after.parse().unwrap());
        }
        response
    }

    #[test]
    fn a_service_is_asked_again_where_it_did_nothing_and_not_before_it_says() {
        let entropy = Entropy::system();
        let after = |status, after| Retries::default().after(&response(status, after), &entropy);
        for status in [429, 503, 529] {
            assert!(after(status, None).is_some_and(|pause| pause <= FIRST), "{status}");
        }
        for status in [200, 400, 401, 404, 409, 500, 502, 504] {
            assert_eq!(after(status, None), None, "{status}");
        }
        let pause = after(429, Some("2")).unwrap();
        assert!((Duration::from_secs(2)..=Duration::from_secs(2) + FIRST).contains(&pause));
        assert_eq!(after(429, Some("21")), None);
        assert_eq!(after(429, Some("Wed, 21 Oct 2026 07:28:00 GMT")), None);
        assert_eq!(after(429, Some("-1")), None);
    }

    #[test]
    fn it_ends_after_three_and_each_pause_may_be_twice_the_one_before() {
        let entropy = Entropy::system();
        let mut retries = Retries::default();
        let pauses: Vec<_> = std::iter::from_fn(|| retries.unreachable(&entropy)).collect();
        assert_eq!(pauses.len(), 3);
        for (at, pause) in pauses.iter().enumerate() {
            assert!(*pause <= FIRST * 2_u32.pow(at as u32));
        }
    }
}
