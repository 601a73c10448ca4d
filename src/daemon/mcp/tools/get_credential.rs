//! `get_credential`: one credential's plaintext, for the program that asked.
use async_trait::async_trait;
use rmcp::model::{JsonObject, ToolAnnotations};
use serde_json::json;
use zeroize::Zeroizing;

use super::super::args::Args;
use super::super::schema::{self, object};
use super::super::text::About;
use super::{Call, Outcome, Tool};
use crate::core::catalog;
use crate::core::encoding::to_base64;
use crate::core::holder::Refusal;
use crate::core::identity::ServiceName;
use crate::core::problem::{Code, Problem};
use crate::core::secret::SecretBytes;

pub struct GetCredential;

#[async_trait]
impl Tool for GetCredential {
    fn name(&self) -> &'static str {
        "get_credential"
    }

    fn title(&self) -> &'static str {
        "Get a credential"
    }

    fn description(&self) -> &'static str {
        "Returns one API key or token that the user stored for this agent, with the environment \
         variables that programs expect it in. Use it at once, for its own service only: do not \
         print it, log it, commit it or write it to a file, and fetch it again instead of keeping \
         it. To start a program that needs keys, `agentkeys run <agent> -- <command>` is better: \
         then you never see them. Every read is recorded for the user."
    }

    fn input(&self) -> JsonObject {
        schema::input(json!({"service": schema::service()}), &["service"])
    }

    fn output(&self) -> JsonObject {
        schema::output(
            "ok",
            json!({
                "service": {"type": "string", "description": "As it is stored, in lower case."},
                "credential": {"type": "string", "description": "The key itself. Secret."},
                "encoding": {"type": "string", "enum": ["utf-8", "base64"],
                             "description": "base64 where the key is not text."},
                "variables": {"type": "array", "items": {"type": "string"},
                              "description": "Environment variables that programs read it from; \
                                              the first is the usual one."},
            }),
        )
    }

    fn effects(&self) -> ToolAnnotations {
        // Not read-only: a read is recorded, and one without a session opens a request.
        ToolAnnotations::with_title(self.title())
            .read_only(false)
            .destructive(false)
            .idempotent(true)
            .open_world(false)
    }

    async fn call(&self, call: Call<'_>) -> Outcome {
        let service = match Args::new(call.arguments, &["service"]).and_then(|args| args.service())
        {
            Ok(service) => service,
            Err(mistake) => return mistake.into(),
        };
        let refusal = match call.holder.read(&service).await {
            Ok(credential) => {
                let (text, encoding) = text_of(&credential);
                match call.slips.seal(&text) {
                    Some(slip) => return found(&service, slip, encoding),
                    None => Refusal::Problem(Problem::internal()),
                }
            }
            Err(refusal) => refusal,
        };
        // What there is instead; and whether the session lives at all.
        let others = match &refusal {
            // Of a session that is over, asking again would open a request.
            Refusal::Problem(problem)
                if matches!(problem.code, Code::NotFound | Code::Denied) && !problem.pair_again =>
            {
                call.holder.list().await.ok()
            }
            _ => None,
        };
        let about = About {
            tool: self.name(),
            service: Some(&service),
            others: others.as_ref(),
            now: call.now,
        };
        Outcome::refused(&refusal, &about)
    }
}

fn found(service: &ServiceName, slip: String, encoding: &str) -> Outcome {
    Outcome::Slip(object(json!({
        "status": "ok",
        "service": service,
        "credential": slip,
        "encoding": encoding,
        "variables": catalog::variables_of(service),
    })))
}

/// The credential as text, and how that text is to be read.
fn text_of(credential: &SecretBytes) -> (Zeroizing<String>, &'static str) {
    // Exposed because the client has asked for it; it goes from here into a slip.
    let bytes = credential.expose();
    match str::from_utf8(bytes) {
        Ok(text) => {
            let mut copy = Zeroizing::new(String::with_capacity(text.len()));
            copy.push_str(text);
            (copy, "utf-8")
        }
        Err(_) => (Zeroizing::new(to_base64(bytes)), "base64"),
    }
}
