//! A request that its master is asked about: read whole before that, so that what is approved is
//! what is sent.
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Body;
use hyper::header::{CONTENT_TYPE, HeaderMap};

use crate::backend::vault::HeldAct as Act;
use crate::core::claim::PlainWord;
use crate::core::gateway::MAX_HELD_BODY;
use crate::core::problem::{Answer, Code, Problem};
use crate::core::types::Hash32;
use crate::web::Prefixed;

/// Longest that its body may take to come.
const BODY_TIME: Duration = Duration::from_secs(30);

/// A body that its master is not asked about.
pub fn too_large() -> Problem {
    Problem::new(
        Code::TooLarge,
        "the request is too large to be asked about",
        format!("a rule has it wait for an approval, with a body of {MAX_HELD_BODY} bytes at most"),
        "send less at once",
    )
}

/// The whole body; `first` is what of it is there already. `too_large` if it has more than `most`.
pub async fn whole<B>(
    first: Vec<u8>,
    body: B,
    most: usize,
    too_large: fn() -> Problem,
) -> Answer<Bytes>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let body = Prefixed::<_, ()>::new(first, body);
    let read = tokio::time::timeout(BODY_TIME, Limited::new(body, most).collect()).await;
    let cause = match read {
        Ok(Ok(whole)) => return Ok(whole.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            return Err(too_large());
        }
        Ok(Err(_)) => "its body broke off".to_owned(),
        Err(_) => format!("its body did not come within {} s", BODY_TIME.as_secs()),
    };
    Err(Problem::new(Code::Invalid, "the request is not whole", cause, "send it again"))
}

/// What a request would do, as its master is shown it.
pub fn act(authority: &str, target: &str, headers: &HeaderMap, body: &Bytes) -> Answer<Act> {
    let unreadable = |_| {
        Problem::new(
            Code::Invalid,
            "the request cannot be asked about",
            "a rule has it wait for an approval, and its path and query have more than 200 \
             characters, or its host more than 64: nobody could read that",
            "send a shorter one, or have the rule changed",
        )
    };
    Ok(Act {
        host: authority.parse().map_err(unreadable)?,
        path: target.parse().map_err(unreadable)?,
        body: Hash32::of(body),
        sum: sum(headers, body),
    })
}

/// The sum that a body names at its top, as payment services have it: a whole `amount`, in the
/// smallest unit, and a `currency` of three letters; in JSON or a form. Absent if any of it is
/// missing, said twice or odd.
fn sum(headers: &HeaderMap, body: &Bytes) -> Option<(u64, PlainWord)> {
    let kind = headers.get(CONTENT_TYPE)?.to_str().ok()?.split(';').next()?.trim();
    let (amount, currency) = if kind.eq_ignore_ascii_case("application/json") {
        // A member that stands twice is refused by serde.
        #[derive(serde::Deserialize)]
        struct Paying {
            amount: u64,
            currency: String,
        }
        let paying: Paying = serde_json::from_slice(body).ok()?;
        (paying.amount, paying.currency)
    } else if kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        let once = |name: &str| {
            let mut found = form_urlencoded::parse(body).filter(|(key, _)| key == name);
            let (_, value) = found.next()?;
            found.next().is_none().then(|| value.into_owned())
        };
        let amount = once("amount")?;
        let digits = amount.bytes().all(|c| c.is_ascii_digit());
        (digits.then(|| amount.parse().ok()).flatten()?, once("currency")?)
    } else {
        return None;
    };
    let is_code = currency.len() == 3 && currency.bytes().all(|c| c.is_ascii_alphabetic());
    if !is_code {
        return None;
    }
    Some((amount, currency.to_ascii_uppercase().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: &str, body: &str) -> Option<(u64, String)> {
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, kind.parse().unwrap())]);
        sum(&headers, &Bytes::from(body.to_owned())).map(|(sum, unit)| (sum, unit.to_string()))
    }

    #[test]
    fn a_sum_is_read_where_it_is_said_once_and_plainly() {
        let json = "application/json; charset=utf-8";
        let form = "application/x-www-form-urlencoded";
        let euro = Some((2000, "EUR".to_owned()));
        assert_eq!(of(json, r#"{"amount":2000,"currency":"eur","x":[1]}"#), euro);
        assert_eq!(of(form, "x=1&amount=2000&currency=eur"), euro);
        for (kind, body) in [
            (json, r#"{"amount":2000,"amount":1,"currency":"eur"}"#),
            (json, r#"{"amount":20.5,"currency":"eur"}"#),
            (json, r#"{"amount":2000}"#),
            (json, "amount=2000&currency=eur"),
            (form, "amount=2000&amount=1&currency=eur"),
            (form, "amount=%2B2000&currency=eur"),
            (form, "amount=2000&currency=euro"),
            ("text/plain", "amount=2000&currency=eur"),
        ] {
            assert_eq!(of(kind, body), None, "{body}");
        }
    }

    #[test]
    fn what_nobody_could_read_is_not_asked_about() {
        let none = HeaderMap::new();
        assert!(act("api.example", "/v1/charges?a=b", &none, &Bytes::new()).is_ok());
        let long = format!("/{}", "x".repeat(200));
        assert_eq!(
            act("api.example", &long, &none, &Bytes::new()).unwrap_err().code,
            Code::Invalid
        );
    }
}
