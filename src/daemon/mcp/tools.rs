//! The table of tools: one file a tool, and one line here.
//!
//! Listed names hold letters, digits and `_` only, since several clients refuse dots; a call by
//! the name with the program's before it (`agentkeys.get_credential`) finds the same tool.
mod get_credential;
mod http_request;
mod list_credentials;
mod provision;
mod request_access;

use std::sync::Arc;

use async_trait::async_trait;
use rmcp::model::{self, CallToolResult, ContentBlock, JsonObject, ToolAnnotations};
use serde_json::Value;

use super::args::Mistake;
use super::face::Face;
use super::slip::Slips;
use super::text::{self, About};
use super::wire;
use crate::core::holder::{Refusal, SessionHolder};
use crate::core::types::Timestamp;

/// Every tool, in the order in which it is listed.
pub const TABLE: [&dyn Tool; 5] = [
    &http_request::HttpRequest,
    &get_credential::GetCredential,
    &list_credentials::ListCredentials,
    &request_access::RequestAccess,
    &provision::Provision,
];

/// What a call has to work with. Dropping a tool's future ends its work.
pub struct Call<'a> {
    /// What the client gave; not checked.
    pub arguments: JsonObject,
    /// Who holds the session.
    pub holder: &'a dyn SessionHolder,
    /// For a credential's way out.
    pub slips: &'a Slips,
    /// Where the client is told how far it is.
    pub progress: &'a dyn Progress,
    /// The time.
    pub now: Timestamp,
}

/// Tells a client how far a call is.
#[async_trait]
pub trait Progress: Send + Sync {
    /// It is at `step`, `percent` of the whole.
    async fn at(&self, percent: f64, step: &str);
}

/// What came of a call.
pub enum Outcome {
    /// Structured content.
    Done(JsonObject),
    /// Structured content whose `credential` is a slip.
    Slip(JsonObject),
    /// Done, with a text that says more than the structured content does.
    Told(String, JsonObject),
    /// Why not, as text and as structured content.
    Refused(String, JsonObject),
}

impl From<Mistake> for Outcome {
    fn from(mistake: Mistake) -> Self {
        let (text, content) = text::mistaken(&mistake);
        Self::Refused(text, content)
    }
}

impl Outcome {
    fn refused(refusal: &Refusal, about: &About) -> Self {
        let (text, content) = text::refused(refusal, about);
        Self::Refused(text, content)
    }

    /// As the protocol has it. Beside structured content stands the same as text, for clients that
    /// know only that; a refusal's text is for the model.
    pub fn into_result(self) -> CallToolResult {
        match self {
            Self::Done(content) => CallToolResult::structured(Value::Object(content)),
            Self::Slip(content) => {
                let mut result = CallToolResult::success(Vec::new());
                result.structured_content = Some(Value::Object(content));
                wire::mark(&mut result);
                result
            }
            Self::Told(text, content) => {
                let mut result = CallToolResult::success(vec![ContentBlock::text(text)]);
                result.structured_content = Some(Value::Object(content));
                result
            }
            Self::Refused(text, content) => {
                let mut result = CallToolResult::error(vec![ContentBlock::text(text)]);
                result.structured_content = Some(Value::Object(content));
                result
            }
        }
    }
}

/// One tool.
#[async_trait]
pub trait Tool: Sync {
    /// As it is listed.
    fn name(&self) -> &'static str;
    /// For people.
    fn title(&self) -> &'static str;
    /// For the model.
    fn description(&self) -> &'static str;
    /// Its arguments' schema.
    fn input(&self) -> JsonObject;
    /// Its answers' schema.
    fn output(&self) -> JsonObject;
    /// What it does to the world.
    fn effects(&self) -> ToolAnnotations;
    /// Does it.
    async fn call(&self, call: Call<'_>) -> Outcome;
}

/// The tool that is meant by `name`.
pub fn find(name: &str) -> Option<&'static dyn Tool> {
    let name = name.strip_prefix("agentkeys.").unwrap_or(name);
    TABLE.into_iter().find(|tool| tool.name() == name)
}

/// The names, for an error.
pub fn names() -> String {
    TABLE.map(|tool| tool.name()).join(", ")
}

/// The tools as they are listed while the session looks like `face`.
pub fn list(face: Face) -> Vec<model::Tool> {
    TABLE
        .into_iter()
        .map(|tool| {
            let description = format!("{}{}", face.notice(), tool.description());
            model::Tool::new(tool.name(), description, Arc::new(tool.input()))
                .with_title(tool.title())
                .with_raw_output_schema(Arc::new(tool.output()))
                .with_annotations(tool.effects())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listed_names_are_what_every_client_takes() {
        for tool in list(Face::Ready) {
            let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
            assert!((1..=64).contains(&tool.name.len()) && tool.name.chars().all(fits));
        }
    }

    #[test]
    fn a_tool_is_found_by_its_name_and_by_the_dotted_one() {
        for tool in TABLE {
            assert_eq!(find(tool.name()).unwrap().name(), tool.name());
            let dotted = format!("agentkeys.{}", tool.name());
            assert_eq!(find(&dotted).unwrap().name(), tool.name());
        }
        for wrong in ["", "agentkeys", "agentkeys.", "GET_CREDENTIAL", "x.get_credential"] {
            assert!(find(wrong).is_none(), "{wrong}");
        }
        assert!(find("agentkeys.agentkeys.get_credential").is_none());
    }

    #[test]
    fn schemas_are_closed_objects_and_hints_are_complete() {
        for tool in list(Face::Ready) {
            assert_eq!(tool.input_schema["type"], "object");
            assert_eq!(tool.input_schema["additionalProperties"], false);
            let output = tool.output_schema.unwrap();
            assert_eq!(output["type"], "object");
            assert_eq!(output["required"], serde_json::json!(["status"]));
            let effects = tool.annotations.unwrap();
            assert!(effects.title.is_some() && effects.read_only_hint.is_some());
            assert!(effects.idempotent_hint.is_some() && effects.open_world_hint.is_some());
            // A request does what the service does.
            assert_eq!(effects.destructive_hint, Some(tool.name == "http_request"));
        }
    }

    #[test]
    fn the_list_looks_different_before_pairing_and_after() {
        assert_ne!(list(Face::Unpaired), list(Face::Ready));
        assert_ne!(list(Face::Ended), list(Face::Ready));
        assert_eq!(list(Face::Unknown), list(Face::Ready));
    }
}
