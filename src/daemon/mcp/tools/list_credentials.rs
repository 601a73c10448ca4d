//! `list_credentials`: which credentials there are, never a value.
use async_trait::async_trait;
use rmcp::model::{JsonObject, ToolAnnotations};
use serde_json::json;

use super::super::args::Args;
use super::super::schema::{self, object};
use super::super::text::About;
use super::{Call, Outcome, Tool};
use crate::core::catalog;
use crate::core::holder::Listing;
use crate::core::terms::Exposure;

pub struct ListCredentials;

#[async_trait]
impl Tool for ListCredentials {
    fn name(&self) -> &'static str {
        "list_credentials"
    }

    fn title(&self) -> &'static str {
        "List credentials"
    }

    fn description(&self) -> &'static str {
        "Lists the services whose keys this agent may use, with the version and the time of each, \
         and the environment variables that programs expect them in. Never shows a key."
    }

    fn input(&self) -> JsonObject {
        schema::input(json!({}), &[])
    }

    fn output(&self) -> JsonObject {
        schema::output(
            "ok",
            json!({
                "agent": {"type": "string", "description": "Wallet address of this agent."},
                "credentials": {"type": "array", "items": {
                    "type": "object",
                    "properties": {
                        "service": {"type": "string"},
                        "version": {"type": "integer", "minimum": 0,
                                    "description": "Counts up each time it is stored."},
                        "stored_at": {"type": "string", "format": "date-time"},
                        "variables": {"type": "array", "items": {"type": "string"}},
                        "exposure": {"type": "string", "enum": ["broker", "inject"],
                                     "description": "Only where get_credential does not show the \
                                                     key: inject, it is in the environment of \
                                                     `agentkeys run <agent> -- <command>`; broker, \
                                                     only `agentkeys run --broker` uses it."},
                    },
                    "required": ["service", "version", "stored_at", "variables"],
                }},
            }),
        )
    }

    fn effects(&self) -> ToolAnnotations {
        // Not read-only: without a session it opens a request.
        ToolAnnotations::with_title(self.title())
            .read_only(false)
            .destructive(false)
            .idempotent(true)
            .open_world(false)
    }

    async fn call(&self, call: Call<'_>) -> Outcome {
        if let Err(mistake) = Args::new(call.arguments, &[]) {
            return mistake.into();
        }
        match call.holder.list().await {
            Ok(listing) => Outcome::Done(content(&listing)),
            Err(refusal) => {
                let about = About { tool: self.name(), service: None, others: None, now: call.now };
                Outcome::refused(&refusal, &about)
            }
        }
    }
}

fn content(listing: &Listing) -> JsonObject {
    let credentials: Vec<_> = listing
        .credentials
        .iter()
        .map(|known| {
            let mut row = object(json!({
                "service": known.service,
                "version": known.version,
                "stored_at": known.stored_at,
                "variables": catalog::variables_of(&known.service),
            }));
            let tier = known.terms.exposure();
            if tier < Exposure::Reveal {
                row.insert("exposure".to_owned(), json!(tier));
            }
            row
        })
        .collect();
    object(json!({"status": "ok", "agent": listing.agent, "credentials": credentials}))
}
