//! `agentkeys provisioner list`: how keys are got, by service; never a secret.
use argh::{ArgsInfo, FromArgs};
use serde_json::json;

use super::context::Context;
use super::report::CliError;
use super::{Checked, Finish};
use crate::core::problem::Problem;
use crate::provisioner::services;

#[derive(FromArgs, ArgsInfo)]
#[argh(
    description = "Lists the services that keys are got of, and with what settings; and those that \
                   this machine has a recipe for. Never shows a secret.",
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

impl Checked for List {
    type Raw = ListArgs;

    async fn run(self, context: &Context<'_>) -> Result<Finish, CliError> {
        let open = context.open().await?;
        let providers = open.backend.list_providers(open.token).await?;
        if context.out.json {
            context.out.object(&json!({ "providers": providers, "recipes": services() }))?;
            return Ok(Finish::Done);
        }
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
                vec![provider.service.to_string(), provider.way.to_string(), settings.join(" ")]
            })
            .collect();
        context.out.table(&["SERVICE", "WAY", "SETTINGS"], &rows)?;
        Ok(Finish::Done)
    }
}
