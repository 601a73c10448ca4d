//! `agentkeys provisioner list`: how keys are got, by service; never a secret.
use argh::{ArgsInfo, FromArgs};
use serde_json::json;

use super::context::Context;
use super::report::{CliError, shown};
use super::{Checked, Finish};
use crate::core::catalog::{self, Service};
use crate::core::identity::ServiceName;
use crate::core::problem::Problem;
use crate::provisioner::services;

#[derive(FromArgs, ArgsInfo)]
#[argh(
    description = "Lists the services that keys are got of, and with what settings; those that \
                   make keys by an interface of their own, and those that this machine has a \
                   recipe for. Never shows a secret.",
    note = "KEYS are those that agents have and that were made for them by the service's own \
            interface; ENDING, those that are still to be ended there, with what the service \
            answered last. docs/provisioning.md says what each service wants set.",
    example = "agentkeys provisioner list",
    example = "agentkeys provisioner list --json"
)]
/// see above
pub struct ListArgs {}

/// All of them.
pub struct List;

impl TryFrom<ListArgs> for List {
    type Error = Problem;

    fn try_from(_: ListArgs) -> Result<Self, Problem> {
        Ok(Self)
    }
}

/// The services that make keys by an interface of their own.
fn making() -> impl Iterator<Item = &'static Service> {
    catalog::all().iter().filter(|entry| entry.makes.is_some())
}

impl Checked for List {
    type Raw = ListArgs;

    async fn run(self, context: &Context<'_>) -> Result<Finish, CliError> {
        let open = context.open().await?;
        let providers = open.backend.list_providers(open.token).await?;
        if context.out.json {
            let by_interface: Vec<&ServiceName> = making().map(|entry| &entry.name).collect();
            let listed = json!({
                "providers": providers,
                "interfaces": by_interface,
                "recipes": services(),
            });
            context.out.object(&listed)?;
            return Ok(Finish::Done);
        }
        let interfaces: Vec<&str> = making().map(|entry| entry.name.as_str()).collect();
        context.out.say(&format!("by their own interface: {}", interfaces.join(", ")));
        let recipes: Vec<String> = services().iter().map(ToString::to_string).collect();
        if !recipes.is_empty() {
            context.out.say(&format!("recipes on this machine: {}", recipes.join(", ")));
        }
        if providers.is_empty() {
            context.out.say(
                "nothing is set up yet, so agents get the keys that you store; to change that:\n\
                 agentkeys provisioner set --help",
            );
            return Ok(Finish::Done);
        }
        let rows: Vec<Vec<String>> = providers
            .iter()
            .map(|provider| {
                let settings: Vec<String> = provider
                    .settings
                    .iter()
                    .map(|(name, value)| format!("{name}={value}"))
                    .collect();
                vec![
                    provider.service.to_string(),
                    provider.way.to_string(),
                    provider.keys.to_string(),
                    provider.ending.to_string(),
                    settings.join(" "),
                ]
            })
            .collect();
        context.out.table(&["SERVICE", "WAY", "KEYS", "ENDING", "SETTINGS"], &rows)?;
        for provider in providers {
            if let Some(trouble) = provider.trouble {
                let service = provider.service;
                context.out.warn(&shown(&format!("{service}: a key is not ended yet: {trouble}")));
            }
        }
        Ok(Finish::Done)
    }
}
