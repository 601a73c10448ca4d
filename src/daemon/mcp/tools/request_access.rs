//! `request_access`: asks the user to allow one more service.
use async_trait::async_trait;
use rmcp::model::{JsonObject, ToolAnnotations};
use serde_json::json;

use super::super::args::Args;
use super::super::schema::{self, object};
use super::super::text::{self, About};
use super::{Call, Outcome, Tool};
use crate::core::holder::Access;

pub struct RequestAccess;

#[async_trait]
impl Tool for RequestAccess {
    fn name(&self) -> &'static str {
        "request_access"
    }

    fn title(&self) -> &'static str {
        "Request access to a service"
    }

    fn description(&self) -> &'static str {
        "Asks the user to let this agent read the key of one more service. Answers with a pair \
         code and a command for the user, who decides; call get_credential once they have. Asking \
         again while it waits gives the same request. Not needed for what list_credentials shows."
    }

    fn input(&self) -> JsonObject {
        schema::wish()
    }

    fn output(&self) -> JsonObject {
        let mut output = schema::output(
            "allowed",
            json!({"service": {"type": "string", "description": "What was asked for."}}),
        );
        output.insert(
            "description".to_owned(),
            "allowed: nothing to wait for. waiting_for_approval: the user has to answer.".into(),
        );
        output
    }

    fn effects(&self) -> ToolAnnotations {
        ToolAnnotations::with_title(self.title())
            .read_only(false)
            .destructive(false)
            .idempotent(true)
            .open_world(false)
    }

    async fn call(&self, call: Call<'_>) -> Outcome {
        let (service, reason) = match Args::wish(call.arguments) {
            Ok(wish) => wish,
            Err(mistake) => return mistake.into(),
        };
        let about =
            About { tool: self.name(), service: Some(&service), others: None, now: call.now };
        match call.holder.request_access(&service, reason.as_ref()).await {
            Ok(Access::Allowed) => {
                let content = object(json!({"status": "allowed", "service": service}));
                let listed = call.holder.list().await;
                match listed {
                    Ok(listing) if !listing.credentials.iter().any(|c| c.service == service) => {
                        Outcome::Told(text::nothing_stored(&service), content)
                    }
                    _ => Outcome::Done(content),
                }
            }
            // The wish has been made, which is all that this tool does: no error.
            Ok(Access::Waiting(waiting)) => {
                Outcome::Told(text::waiting_text(&waiting, &about), text::waiting_content(&waiting))
            }
            Err(refusal) => Outcome::refused(&refusal, &about),
        }
    }
}
