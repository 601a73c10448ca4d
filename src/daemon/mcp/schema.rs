//! JSON Schemas of what tools take and give.
//!
//! One output schema of a tool covers all its answers, refusals too, since some clients (those on
//! the TypeScript SDK) check the structured content of an error against it. `status` tells the
//! answers apart.
use rmcp::model::JsonObject;
use serde_json::{Value, json};

use crate::core::claim::MAX_REASON;

/// Statuses of structured content that every tool can answer with.
pub const WAITING: &str = "waiting_for_approval";
/// See [`WAITING`].
pub const REFUSED: &str = "refused";

/// The object in a `json!({..})` literal.
pub fn object(value: Value) -> JsonObject {
    match value {
        Value::Object(object) => object,
        _ => JsonObject::new(),
    }
}

/// A tool's arguments: these and no others.
pub fn input(properties: Value, required: &[&str]) -> JsonObject {
    object(json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    }))
}

/// The argument that names a service.
pub fn service() -> Value {
    json!({
        "type": "string",
        "description": "Name of the service, in lower case, such as \"openrouter\" or \"github\". \
                        list_credentials gives the names that there are.",
        "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$",
    })
}

/// The arguments of a tool that asks the user for something: a service, and why.
pub fn wish() -> JsonObject {
    input(
        json!({
            "service": service(),
            "reason": {
                "type": "string",
                "description": "Why, in one short sentence; the user reads it when deciding.",
                "maxLength": MAX_REASON,
            },
        }),
        &["service"],
    )
}

/// A tool's answers: its own one, of status `status` with all of `properties`, or one of those
/// that every tool has.
pub fn output(status: &str, properties: Value) -> JsonObject {
    let own = object(properties);
    let needed: Vec<&String> = own.keys().collect();
    let waiting = ["request", "pair_code", "otp", "expires_at", "command"];
    let refused = ["code", "detail", "cause", "fix"];
    let mut all = object(json!({
        "status": {"type": "string", "enum": [status, WAITING, REFUSED]},
        "request": {"type": "string", "description": "What waits for approval, such as Pair."},
        "pair_code": {"type": "string", "description": "What the user types to approve."},
        "otp": {"type": "string",
                "description": "Six digits that the user compares with those that approve shows."},
        "expires_at": {"type": "string", "format": "date-time",
                       "description": "Until when the pair code can be used."},
        "command": {"type": "string",
                    "description": "For the user, on the master's machine; never for the model."},
        "code": {"type": "string", "description": "Stable code of the problem, such as DENIED."},
        "detail": {"type": "string", "description": "What happened."},
        "cause": {"type": "string", "description": "Why."},
        "fix": {"type": "string", "description": "What the user can do."},
        "retry_after": {"type": "integer", "minimum": 0,
                        "description": "Seconds after which it may work."},
        "step": {"type": "string", "description": "Where it failed, if it has steps."},
        "docs": {"type": "string", "description": "Where to read more."},
    }));
    let alternatives = json!([
        {"properties": {"status": {"const": status}}, "required": needed},
        {"properties": {"status": {"const": WAITING}}, "required": waiting},
        {"properties": {"status": {"const": REFUSED}}, "required": refused},
    ]);
    all.extend(own);
    object(json!({
        "type": "object",
        "properties": all,
        "required": ["status"],
        "anyOf": alternatives,
    }))
}
