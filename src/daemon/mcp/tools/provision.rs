//! `provision`: sees to it that the agent has a key of a service, and never shows it.
use std::time::Duration;

use async_trait::async_trait;
use rmcp::model::{JsonObject, ToolAnnotations};
use serde_json::json;

use super::super::args::Args;
use super::super::schema::{self, object};
use super::super::text::{self, About};
use super::{Call, Outcome, Tool};
use crate::core::catalog;
use crate::core::holder::{Provisioning, Ready, SessionHolder};
use crate::core::identity::ServiceName;

/// Between two looks at a holder that does not answer.
const PAUSE: Duration = Duration::from_secs(1);

pub struct Provision;

#[async_trait]
impl Tool for Provision {
    fn name(&self) -> &'static str {
        "provision"
    }

    fn title(&self) -> &'static str {
        "Get a key of a service"
    }

    fn description(&self) -> &'static str {
        "Sees to it that this agent has a key of a service: if there is none yet, one is made at \
         the service, in the way that the user has set up, and stored. Use it when \
         list_credentials shows no key of a service that you need. The first time, the user is \
         asked to allow it. It may take two minutes. The key itself is not shown: use \
         `agentkeys run` or get_credential afterwards. Calling it again makes no second key."
    }

    fn input(&self) -> JsonObject {
        schema::wish()
    }

    fn output(&self) -> JsonObject {
        schema::output(
            "ready",
            json!({
                "service": {"type": "string", "description": "As it is stored, in lower case."},
                "made": {"type": "boolean",
                         "description": "Whether a key was made by this call; else there was one."},
                "variables": {"type": "array", "items": {"type": "string"},
                              "description": "Environment variables that programs read it from; \
                                              the first is the usual one."},
            }),
        )
    }

    fn effects(&self) -> ToolAnnotations {
        ToolAnnotations::with_title(self.title())
            .read_only(false)
            .destructive(false)
            .idempotent(true)
            .open_world(true)
    }

    async fn call(&self, call: Call<'_>) -> Outcome {
        let (service, reason) = match Args::wish(call.arguments) {
            Ok(wish) => wish,
            Err(mistake) => return mistake.into(),
        };
        let about =
            About { tool: self.name(), service: Some(&service), others: None, now: call.now };
        let provisioned = tokio::select! {
            provisioned = call.holder.provision(&service, reason.as_ref()) => provisioned,
            // Never ends.
            never = tell(call.holder, call.progress, &service) => match never {},
        };
        match provisioned {
            Ok(Provisioning::Ready(ready)) => told(&service, &ready),
            // The wish has been made: no error.
            Ok(Provisioning::Waiting(waiting)) => {
                Outcome::Told(text::waiting_text(&waiting, &about), text::waiting_content(&waiting))
            }
            Err(refusal) => Outcome::refused(&refusal, &about),
        }
    }
}

/// Tells the client each step, and how far it is. The protocol wants each number higher than the one
/// before it, so a step that begins where the last one did counts a hundredth of a percent.
async fn tell(
    holder: &dyn SessionHolder,
    progress: &dyn super::Progress,
    service: &ServiceName,
) -> std::convert::Infallible {
    let mut told = String::new();
    let mut next = 0.0_f64;
    loop {
        let Ok(standing) = holder.standing().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let found = standing.provisioning.into_iter().find(|run| run.service == *service);
        if let Some(run) = found.filter(|run| run.step != told) {
            let now = f64::from(run.percent).max(next);
            progress.at(now, &run.step).await;
            next = now + 0.01;
            told = run.step;
        }
        if holder.changed(standing.generation).await.is_err() {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn told(service: &ServiceName, ready: &Ready) -> Outcome {
    let variables = catalog::variables_of(service);
    let variable = variables.first().map_or("", String::as_str);
    let what = if ready.made { "A key of" } else { "There is a key of" };
    let made = if ready.made { " was made and stored for this agent" } else { " already" };
    let mut text = format!(
        "{what} {service}{made}. It is not shown here. Start the program that needs it with \
         `agentkeys run`, which sets {variable}; or call get_credential."
    );
    if let Some(expires_at) = ready.expires_at {
        text.push_str(&format!(
            " It holds until {}, and is renewed when it is read.",
            expires_at.for_people()
        ));
    }
    if let Some(note) = &ready.note {
        text.push_str(&format!(" Note: {note}."));
    }
    let content = object(json!({
        "status": "ready",
        "service": service,
        "made": ready.made,
        "variables": variables,
    }));
    Outcome::Told(text, content)
}
