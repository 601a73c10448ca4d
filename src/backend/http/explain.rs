//! Says which field of a JSON body is wrong and what is allowed there. It never repeats a
//! value, which may be a secret in the wrong place; that is why serde_json's own messages do
//! not do.
//!
//! Runs only after a body was refused, so it may be slow: it reads the body into a tree and
//! walks it again with errors that carry a path.
use std::fmt;

use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, Expected, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, Visitor,
};
use serde_json::{Map, Value};

use crate::core::problem::Problem;

/// Longest name of an unknown field that is repeated, so that a typo can be seen.
const MAX_SHOWN_NAME: usize = 32;

/// Why a value was refused, and where.
#[derive(Debug)]
pub struct Refusal {
    path: String,
    why: String,
}

impl Refusal {
    fn new(why: impl Into<String>) -> Self {
        Self { path: String::new(), why: why.into() }
    }

    fn under(mut self, name: &str) -> Self {
        self.path = match self.path.as_str() {
            "" => name.to_owned(),
            path if path.starts_with('[') => format!("{name}{path}"),
            path => format!("{name}.{path}"),
        };
        self
    }

    fn into_problem(self, whole: &str) -> Problem {
        let field = if self.path.is_empty() { whole } else { &self.path };
        let why = if self.why.starts_with("wants") || self.why.starts_with("may not") {
            format!("{field} {}", self.why)
        } else {
            self.why
        };
        Problem::invalid(field, why)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for Refusal {}

/// What kind of value stands there, without the value.
fn kind(of: &Unexpected<'_>) -> &'static str {
    match of {
        Unexpected::Bool(_) => "true or false",
        Unexpected::Unsigned(_) | Unexpected::Signed(_) => "a whole number",
        Unexpected::Float(_) => "a number with a fraction",
        Unexpected::Char(_) | Unexpected::Str(_) => "a text",
        Unexpected::Unit | Unexpected::Option => "null",
        Unexpected::Seq => "a list",
        Unexpected::Map => "an object",
        _ => "another kind of value",
    }
}

/// Names that a field may have, for people.
fn listed(names: &[&'static str]) -> String {
    if names.is_empty() { "no field".to_owned() } else { names.join(", ") }
}

/// The name of an unknown field if it looks like one; a secret has digits or capitals, or is
/// longer.
pub fn shown_name(name: &str) -> Option<&str> {
    let plain = name.bytes().all(|c| c.is_ascii_lowercase() || c == b'_');
    (plain && (1..=MAX_SHOWN_NAME).contains(&name.len())).then_some(name)
}

impl de::Error for Refusal {
    fn custom<T: fmt::Display>(why: T) -> Self {
        Self::new(why.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, wanted: &dyn Expected) -> Self {
        Self::new(format!("wants {wanted}, not {}", kind(&found)))
    }

    fn invalid_value(_: Unexpected<'_>, wanted: &dyn Expected) -> Self {
        Self::new(format!("wants {wanted}"))
    }

    fn invalid_length(_: usize, wanted: &dyn Expected) -> Self {
        Self::new(format!("wants {wanted}"))
    }

    fn unknown_variant(_: &str, allowed: &'static [&'static str]) -> Self {
        Self::new(format!("wants one of {}", listed(allowed)))
    }

    fn unknown_field(name: &str, allowed: &'static [&'static str]) -> Self {
        let field = shown_name(name).unwrap_or("a field");
        let why = format!("there is no such field: allowed here is {}", listed(allowed));
        Self::new(why).under(field)
    }

    fn missing_field(name: &'static str) -> Self {
        Self::new("it is missing").under(name)
    }

    fn duplicate_field(name: &'static str) -> Self {
        Self::new("it is given twice").under(name)
    }
}

/// The problem of a body that is no `T`.
pub fn body<T: DeserializeOwned>(bytes: &[u8], error: &serde_json::Error) -> Problem {
    if bytes.is_empty() {
        return Problem::invalid("the body", "the body is empty; a JSON object is wanted");
    }
    let tree = match serde_json::from_slice::<Value>(bytes) {
        Ok(tree) => tree,
        Err(_) if std::str::from_utf8(bytes).is_err() => {
            return Problem::invalid("the body", "the body is not UTF-8");
        }
        Err(error) => {
            let (line, column) = (error.line(), error.column());
            let why = format!(
                "the body is not JSON that is read here (values nest up to 127 deep): \
                 it breaks off at line {line}, column {column}"
            );
            return Problem::invalid("the body", why);
        }
    };
    if !tree.is_object() {
        return Problem::invalid("the body", "the body wants to be a JSON object");
    }
    match value::<T>(&tree, "the body") {
        Err(problem) => problem,
        // The tree keeps one of two fields of the same name; the first reading did not.
        Ok(_) => {
            let why = format!("a field is given twice, at line {}", error.line());
            Problem::invalid("the body", why)
        }
    }
}

/// Reads a `T` out of a tree; `whole` is what the tree as such is called.
pub fn value<T: DeserializeOwned>(tree: &Value, whole: &str) -> Result<T, Problem> {
    T::deserialize(Walker(tree)).map_err(|refusal| refusal.into_problem(whole))
}

/// One place of the tree.
struct Walker<'a>(&'a Value);

impl<'de> Deserializer<'de> for Walker<'_> {
    type Error = Refusal;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(b) => visitor.visit_bool(*b),
            Value::Number(n) => match (n.as_u64(), n.as_i64()) {
                (Some(n), _) => visitor.visit_u64(n),
                (None, Some(n)) => visitor.visit_i64(n),
                (None, None) => visitor.visit_f64(n.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => visitor.visit_str(text),
            Value::Array(items) => visitor.visit_seq(Items { at: 0, items }),
            Value::Object(object) => visitor.visit_map(Members::of(object)),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        match self.0 {
            Value::String(text) => visitor.visit_enum(text.as_str().into_deserializer()),
            _ => Err(Refusal::new(format!("wants one of {}", listed(variants)))),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

struct Items<'a> {
    at: usize,
    items: &'a [Value],
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Refusal;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Refusal> {
        let Some(item) = self.items.get(self.at) else { return Ok(None) };
        let place = format!("[{}]", self.at);
        self.at += 1;
        seed.deserialize(Walker(item)).map(Some).map_err(|refusal| refusal.under(&place))
    }
}

struct Members<'a> {
    rest: serde_json::map::Iter<'a>,
    current: Option<(&'a str, &'a Value)>,
}

impl<'a> Members<'a> {
    fn of(object: &'a Map<String, Value>) -> Self {
        Self { rest: object.iter(), current: None }
    }
}

impl<'de> MapAccess<'de> for Members<'_> {
    type Error = Refusal;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Refusal> {
        self.current = self.rest.next().map(|(name, value)| (name.as_str(), value));
        let Some((name, _)) = self.current else { return Ok(None) };
        seed.deserialize(name.into_deserializer()).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Refusal> {
        let (name, value) = self.current.ok_or_else(|| Refusal::new("a value has no name"))?;
        // The name was accepted by `next_key_seed`, so it is one of ours or a plain map's.
        let place = shown_name(name).unwrap_or("a member");
        seed.deserialize(Walker(value)).map_err(|refusal| refusal.under(place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::wire::{CreateChild, Debit, OpenAuthRequest, StoreCredential};

    fn explained<T: DeserializeOwned>(text: &str) -> Problem {
        match serde_json::from_slice::<T>(text.as_bytes()) {
            Ok(_) => panic!("accepted: {text}"),
            Err(error) => body::<T>(text.as_bytes(), &error),
        }
    }

    #[test]
    fn the_field_is_named_and_what_is_allowed() {
        let p = explained::<StoreCredential>(
            r#"{"agent_id":"a","service":"no/slash","ciphertext":""}"#,
        );
        assert_eq!(p.detail, "service is not valid");
        assert!(p.cause.contains("a-z"), "{}", p.cause);
        let p = explained::<StoreCredential>(r#"{"agent_id":"a","service":"x","cyphertext":""}"#);
        assert_eq!(p.detail, "cyphertext is not valid");
        assert!(p.cause.contains("agent_id, service, ciphertext"), "{}", p.cause);
        let p = explained::<StoreCredential>(r#"{"agent_id":"a","service":"x"}"#);
        assert_eq!(
            (p.detail.as_str(), p.cause.as_str()),
            ("ciphertext is not valid", "it is missing")
        );
        let p = explained::<StoreCredential>(r#"{"agent_id":"a","service":"x","ciphertext":"a?"}"#);
        assert!(p.detail.starts_with("ciphertext") && p.cause.contains("base64"), "{p:?}");
        let p = explained::<CreateChild>(r#"{"scope":{"services":["ok","not ok"]}}"#);
        assert_eq!(p.detail, "scope.services[1] is not valid");
        let p = explained::<CreateChild>(r#"{"scope":{"read_only":1}}"#);
        assert_eq!(p.detail, "scope.read_only is not valid");
        let p = explained::<Debit>(r#"{"agent_id":"a","layer":"gold","amount":1,"reference":"r"}"#);
        assert!(p.cause.contains("system_gas"), "{}", p.cause);
        let p = explained::<Debit>(
            r#"{"agent_id":"a","layer":"system_gas","amount":-1,"reference":""}"#,
        );
        assert!(p.detail.starts_with("amount"), "{p:?}");
        let p = explained::<OpenAuthRequest>(
            r#"{"child_pubkey":[],"request_type":"Pair","request_details":{}}"#,
        );
        assert!(p.detail.starts_with("child_pubkey"), "{p:?}");
    }

    #[test]
    fn what_was_sent_is_never_repeated() {
        const SECRET: &str = "sk-or-v1-SECRET42";
        for text in [
            format!(r#"{{"agent_id":"{SECRET}/","service":"x","ciphertext":""}}"#),
            format!(r#"{{"agent_id":"a","service":"x","ciphertext":"{SECRET}"}}"#),
            format!(r#"{{"agent_id":"a","service":["{SECRET}"],"ciphertext":""}}"#),
            format!(r#"{{"agent_id":"a","service":"x","ciphertext":"","{SECRET}":1}}"#),
            format!(r#"{{"agent_id":"a","agent_id":"{SECRET}"}}"#),
            format!(r#"["{SECRET}"]"#),
            format!(r#""{SECRET}"#),
            format!(r#"{{"{SECRET}":{{"{SECRET}":"{SECRET}"}}}}"#),
        ] {
            let problem = explained::<StoreCredential>(&text);
            let shown = serde_json::to_string(&problem).unwrap();
            assert!(!shown.contains("SECRET") && !shown.contains("sk-or"), "{text}: {shown}");
        }
    }

    #[test]
    fn what_is_no_json_object_is_refused_in_words() {
        let deep = "[".repeat(100_000);
        for (text, words) in [
            ("", "empty"),
            ("[]", "object"),
            ("{", "line 1"),
            (deep.as_str(), "nest"),
            (r#"{"agent_id":"a","agent_id":"b","service":"x","ciphertext":""}"#, "twice"),
        ] {
            let problem = explained::<StoreCredential>(text);
            assert!(problem.cause.contains(words), "{}: {}", words, problem.cause);
        }
        let error = serde_json::from_slice::<StoreCredential>(b"{\"a\xff\":1}").err().unwrap();
        assert!(body::<StoreCredential>(b"{\"a\xff\":1}", &error).cause.contains("UTF-8"));
    }
}
