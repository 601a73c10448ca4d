//! What a model gives a tool, checked; a mistake reads so that the model can correct it.
//!
//! Must never repeat what was given: it may be a secret in the wrong place.
use rmcp::model::JsonObject;
use serde_json::Value;

use crate::core::claim::Reason;
use crate::core::gateway::Field;
use crate::core::identity::ServiceName;

/// What is wrong, and what would be right.
#[derive(PartialEq, Eq, Debug)]
pub struct Mistake(pub String);

const SERVICE: &str = "\"service\" must be a string: the name of one service, such as \
    \"openrouter\", of 1 to 63 letters, digits, dots, dashes and underscores, beginning with a \
    letter or digit";
const REASON: &str = "\"reason\" must be a string of at most 200 characters on one line: plain \
    text without control, invisible or direction characters";

/// A call's arguments.
pub struct Args(JsonObject);

impl Args {
    /// A wish: for which service, and why; see [`super::schema::wish`].
    pub fn wish(arguments: JsonObject) -> Result<(ServiceName, Option<Reason>), Mistake> {
        let args = Self::new(arguments, &["service", "reason"])?;
        Ok((args.service()?, args.reason()?))
    }

    /// Takes `arguments` when there is none but those in `allowed`.
    pub fn new(arguments: JsonObject, allowed: &[&str]) -> Result<Self, Mistake> {
        if arguments.keys().all(|name| allowed.contains(&name.as_str())) {
            return Ok(Self(arguments));
        }
        Err(Mistake(match allowed {
            [] => "this tool takes no arguments: call it with {}".to_owned(),
            [one] => format!("the one argument that this tool takes is \"{one}\""),
            more => format!("the arguments that this tool takes are \"{}\"", more.join("\", \"")),
        }))
    }

    /// The service, which must be there.
    pub fn service(&self) -> Result<ServiceName, Mistake> {
        let given = self.0.get("service").and_then(Value::as_str);
        given.and_then(|text| text.parse().ok()).ok_or_else(|| Mistake(SERVICE.to_owned()))
    }

    /// A text, which may be absent or `null`.
    pub fn text(&self, name: &str) -> Result<Option<String>, Mistake> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(Mistake(format!("\"{name}\" must be a string"))),
        }
    }

    /// Header fields, `most` at most; they may be absent or `null`.
    pub fn headers(&self, name: &str, most: usize) -> Result<Vec<Field>, Mistake> {
        let wrong = || {
            Mistake(format!(
                "\"{name}\" must be an object of at most {most} strings, each on one line of ASCII"
            ))
        };
        let fields = match self.0.get(name) {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Object(fields)) if fields.len() <= most => fields,
            Some(_) => return Err(wrong()),
        };
        let plain = |text: &str| text.bytes().all(|c| c == b' ' || c.is_ascii_graphic());
        fields
            .iter()
            .map(|(name, value)| {
                let value = value.as_str().filter(|value| plain(value)).ok_or_else(wrong)?;
                let token = |c: u8| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c);
                let fits = !name.is_empty() && name.bytes().all(token);
                fits.then(|| (name.to_ascii_lowercase(), value.to_owned())).ok_or_else(wrong)
            })
            .collect()
    }

    /// The reason, which may be absent, `null` or empty.
    pub fn reason(&self) -> Result<Option<Reason>, Mistake> {
        match self.0.get("reason") {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::String(text)) => {
                text.parse().map(Some).map_err(|_| Mistake(REASON.to_owned()))
            }
            Some(_) => Err(Mistake(REASON.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn args(given: Value) -> Result<Args, Mistake> {
        let Value::Object(given) = given else { panic!("an object") };
        Args::new(given, &["service", "reason"])
    }

    #[test]
    fn what_fits_is_taken_and_its_case_folded() {
        let given = args(json!({"service": "OpenRouter", "reason": "to test"})).unwrap();
        assert_eq!(given.service().unwrap().as_str(), "openrouter");
        assert_eq!(given.reason().unwrap().unwrap().as_str(), "to test");
        for absent in [json!({}), json!({"reason": null}), json!({"reason": ""})] {
            assert_eq!(args(absent).unwrap().reason(), Ok(None));
        }
    }

    #[test]
    fn what_does_not_fit_is_told_without_repeating_it() {
        let long = "sk-secret".repeat(10);
        for wrong in [json!({}), json!({"service": 5}), json!({"service": ["a"]})] {
            assert_eq!(args(wrong).unwrap().service().unwrap_err().0, SERVICE);
        }
        for wrong in ["", "a b", "../x", "é", "a\n", &long] {
            let Mistake(told) = args(json!({"service": wrong})).unwrap().service().unwrap_err();
            assert_eq!(told, SERVICE);
        }
        for wrong in [json!("a\nb"), json!("\u{202E}x"), json!("x".repeat(201)), json!(1)] {
            assert_eq!(args(json!({"reason": wrong})).unwrap().reason().unwrap_err().0, REASON);
        }
    }

    #[test]
    fn an_unknown_argument_is_refused_by_naming_the_known_ones() {
        let Mistake(told) = args(json!({"service": "a", "sk-secret": 1})).err().unwrap();
        assert_eq!(told, "the arguments that this tool takes are \"service\", \"reason\"");
        let Value::Object(given) = json!({"x": 1}) else { panic!() };
        assert!(Args::new(given, &[]).err().unwrap().0.contains("takes no arguments"));
    }
}
