//! A request once its bytes are here and before anything is done: bearer token, query, body.
//! Needs no socket, so every resource's parsing is tested without one.
use std::borrow::Cow;
use std::str::FromStr;

use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use serde::de::DeserializeOwned;

use super::explain::{self, shown_name};
use crate::core::problem::{Answer, Code, Problem};
use crate::core::token::SessionToken;
use crate::core::types::Malformed;

/// The `Authorization` header.
#[derive(Clone, Copy)]
pub enum Bearer<'a> {
    /// There is none.
    Absent,
    /// One, of the Bearer scheme.
    Token(&'a str),
    /// Two, another scheme, or characters that no token has.
    Malformed,
}

impl<'a> Bearer<'a> {
    /// Reads the header.
    pub fn of(headers: &'a HeaderMap) -> Self {
        let mut all = headers.get_all(AUTHORIZATION).iter();
        let (value, more) = match (all.next(), all.next()) {
            (None, _) => return Self::Absent,
            (Some(value), more) => (value, more),
        };
        let token = value.to_str().ok().and_then(|text| {
            let (scheme, token) = text.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(token)
        });
        match (token, more) {
            (Some(token), None) if !token.is_empty() => Self::Token(token),
            _ => Self::Malformed,
        }
    }
}

/// What a resource parses its action from.
pub struct Call<'a> {
    /// The token, if one came.
    pub bearer: Bearer<'a>,
    /// The query without its question mark; empty if there is none.
    pub query: &'a str,
    /// The body; empty if there is none.
    pub body: &'a [u8],
}

fn unauthorized(cause: &str) -> Problem {
    Problem::new(
        Code::Unauthorized,
        "not signed in",
        cause,
        "sign in (agentkeys init), and send the token as Authorization: Bearer TOKEN",
    )
}

impl<'a> Call<'a> {
    /// The bearer token, read by `parse`; `what` is the kind that is wanted.
    pub fn token<T>(&self, what: &str, parse: impl Fn(&str) -> Result<T, Malformed>) -> Answer<T> {
        match self.bearer {
            Bearer::Absent => Err(unauthorized(&format!("the request has no {what}"))),
            Bearer::Malformed => {
                Err(unauthorized("the Authorization header is not one Bearer token"))
            }
            Bearer::Token(text) => parse(text)
                .map_err(|_| unauthorized(&format!("the bearer token is no {what} of ours"))),
        }
    }

    /// The session token.
    pub fn session(&self) -> Answer<SessionToken> {
        self.token("session token", SessionToken::parse)
    }

    /// The session token where one may be missing.
    pub fn optional_session(&self) -> Answer<Option<SessionToken>> {
        match self.bearer {
            Bearer::Absent => Ok(None),
            _ => self.session().map(Some),
        }
    }

    /// Refuses a query where none is allowed.
    pub fn without_query(&self) -> Answer<()> {
        if self.query.is_empty() {
            Ok(())
        } else {
            Err(Problem::invalid("the query", "this endpoint takes no query"))
        }
    }

    /// The JSON body.
    pub fn json<T: DeserializeOwned>(&self) -> Answer<T> {
        self.without_query()?;
        serde_json::from_slice(self.body).map_err(|error| explain::body::<T>(self.body, &error))
    }

    /// The JSON body where every field may be missing: no body at all is `{}`.
    pub fn json_or_nothing<T: DeserializeOwned>(&self) -> Answer<T> {
        let body = if self.body.is_empty() { b"{}" } else { self.body };
        Call { body, ..*self }.json()
    }

    /// The query, of which the fields may be `allowed`, each once.
    pub fn fields<const N: usize>(&self, allowed: [&'static str; N]) -> Answer<Fields<'a, N>> {
        let mut values = [None; N];
        for pair in self.query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let Some(at) = allowed.iter().position(|known| *known == name) else {
                let field = shown_name(name).unwrap_or("a field of the query");
                let why = match N {
                    0 => "this endpoint takes no query".to_owned(),
                    _ => format!("the query takes {}", allowed.join(", ")),
                };
                return Err(Problem::invalid(field, why));
            };
            if values[at].replace(value).is_some() {
                return Err(Problem::invalid(allowed[at], "it is given twice"));
            }
        }
        Ok(Fields { allowed, values })
    }
}

/// The fields of a query. A plus sign is a plus sign, as RFC 3986 has it: it stands in e-mail
/// addresses and in times, and no value holds a space.
pub struct Fields<'a, const N: usize> {
    allowed: [&'static str; N],
    values: [Option<&'a str>; N],
}

impl<const N: usize> Fields<'_, N> {
    /// The field as text; `None` when it is missing.
    pub fn text(&self, name: &'static str) -> Answer<Option<Cow<'_, str>>> {
        let at = self.allowed.iter().position(|known| *known == name);
        match at.and_then(|at| self.values[at]) {
            None => Ok(None),
            Some(raw) => decode(name, raw).map(Some),
        }
    }

    /// The field as a `T`; `None` when it is missing.
    pub fn optional<T: FromStr<Err = Malformed>>(&self, name: &'static str) -> Answer<Option<T>> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        text.parse()
            .map(Some)
            .map_err(|e: Malformed| Problem::invalid(name, format!("{name} {}", e.why)))
    }

    /// The field as a `T`; it may not be missing.
    pub fn required<T: FromStr<Err = Malformed>>(&self, name: &'static str) -> Answer<T> {
        self.optional(name)?.ok_or_else(|| Problem::invalid(name, "it is missing"))
    }

    /// The field as a whole number in `range`; `None` when it is missing.
    pub fn number(
        &self,
        name: &'static str,
        range: std::ops::RangeInclusive<u64>,
    ) -> Answer<Option<u64>> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let number = Some(&text)
            .filter(|text| text.bytes().all(|c| c.is_ascii_digit()))
            .and_then(|text| text.parse().ok())
            .filter(|number| range.contains(number));
        number.map(Some).ok_or_else(|| {
            let (low, high) = range.into_inner();
            Problem::invalid(name, format!("{name} wants a whole number from {low} to {high}"))
        })
    }

    /// The field as one of the texts that serde knows `T` by; `None` when it is missing.
    pub fn word<T: DeserializeOwned>(&self, name: &'static str) -> Answer<Option<T>> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let tree = serde_json::Value::String(text.into_owned());
        explain::value(&tree, name).map(Some)
    }
}

fn decode<'a>(name: &str, raw: &'a str) -> Answer<Cow<'a, str>> {
    if !raw.contains('%') {
        return Ok(Cow::Borrowed(raw));
    }
    let wrong = || Problem::invalid(name, format!("{name} wants UTF-8, percent-encoded"));
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|c| char::from(c).to_digit(16));
        let (high, low) = (digit().ok_or_else(wrong)?, digit().ok_or_else(wrong)?);
        bytes.push((high << 4 | low) as u8);
    }
    String::from_utf8(bytes).map(Cow::Owned).map_err(|_| wrong())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::core::identity::{AgentIdentity, ServiceName};

    /// A call as it would have come.
    pub fn call<'a>(bearer: &'a str, query: &'a str, body: &'a str) -> Call<'a> {
        let bearer = if bearer.is_empty() { Bearer::Absent } else { Bearer::Token(bearer) };
        Call { bearer, query, body: body.as_bytes() }
    }

    #[test]
    fn a_query_takes_each_allowed_field_once() {
        let token = "";
        let fields = call(token, "agent_id=a%2Bb%40x.org&service=Open", "")
            .fields(["agent_id", "service"])
            .unwrap();
        let agent: AgentIdentity = fields.required("agent_id").unwrap();
        assert_eq!(agent.to_string(), "a+b@x.org");
        let service: ServiceName = fields.required("service").unwrap();
        assert_eq!(service.as_str(), "open");
        for (query, named) in [
            ("agent_id=a&agent_id=b", "agent_id"),
            ("agent=a", "agent"),
            ("SK-secret=1", "a field of the query"),
            ("agent_id=a%0", "agent_id"),
            ("agent_id=a%ff", "agent_id"),
            ("agent_id=a%00", "agent_id"),
            ("agent_id=", "agent_id"),
            ("", "agent_id"),
        ] {
            let refused = call(token, query, "")
                .fields(["agent_id", "service"])
                .and_then(|fields| fields.required::<AgentIdentity>("agent_id"))
                .unwrap_err();
            assert_eq!(refused.detail, format!("{named} is not valid"), "{query}");
            assert_eq!(refused.code, Code::Invalid);
        }
    }

    #[test]
    fn a_number_is_bounded_and_has_digits_only() {
        let number = |query| {
            call("", query, "").fields(["wait"]).and_then(|fields| fields.number("wait", 0..=30))
        };
        assert_eq!(number("wait=30").unwrap(), Some(30));
        assert_eq!(number("").unwrap(), None);
        for bad in
            ["wait=31", "wait=-1", "wait=+1", "wait=1e1", "wait=", "wait=99999999999999999999"]
        {
            assert!(number(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn two_authorization_headers_or_another_scheme_are_not_a_token() {
        let token = SessionToken::master(&[3; 32]);
        let header = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, value.parse().unwrap());
            }
            let call = Call { bearer: Bearer::of(&headers), query: "", body: b"" };
            call.session().map(|session| session.id())
        };
        let bearer = format!("Bearer {}", token.expose());
        assert_eq!(header(&[&bearer]).unwrap(), token.id());
        assert_eq!(header(&[&format!("bearer {}", token.expose())]).unwrap(), token.id());
        for bad in [
            &[bearer.as_str(), bearer.as_str()][..],
            &[&format!("Basic {}", token.expose())],
            &[token.expose()],
            &["Bearer "],
            &["Bearer"],
            &[&format!("Bearer  {}", token.expose())],
            &[&format!("{bearer}, {bearer}")],
            &[],
        ] {
            let problem = header(bad).unwrap_err();
            assert_eq!(problem.code, Code::Unauthorized);
            assert!(!problem.cause.contains("agk"), "{}", problem.cause);
        }
    }
}
