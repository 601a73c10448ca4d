//! `agentkeys provisioner check`: whether a key of a service could be got now; makes nothing.
use argh::{ArgsInfo, FromArgs};
use serde_json::json;

use super::context::Context;
use super::provisioner_set::one_service;
use super::report::CliError;
use super::{Checked, Finish};
use crate::client::places::Places;
use crate::core::identity::ServiceName;
use crate::core::problem::Problem;
use crate::core::provision::{Settings, Way};
use crate::provisioner::{Mode, Task, carry_out, start};

#[derive(FromArgs, ArgsInfo)]
#[argh(
    description = "Sees whether a key of a service could be got: goes through its recipe in a \
                   browser as far as that can without making anything.",
    note = "A recipe is run on this machine and without the mailbox's password, which only an \
            agent's daemon is given: the mailbox is not looked at.",
    example = "agentkeys provisioner check openrouter"
)]
/// see above
pub struct CheckArgs {
    /// service
    #[argh(positional, arg_name = "service")]
    words: Vec<String>,
}

/// One of them.
pub struct Check(ServiceName);

impl TryFrom<CheckArgs> for Check {
    type Error = Problem;

    fn try_from(raw: CheckArgs) -> Result<Self, Problem> {
        one_service("provisioner check", &raw.words).map(Self)
    }
}

impl Checked for Check {
    type Raw = CheckArgs;

    async fn run(self, context: &Context<'_>) -> Result<Finish, CliError> {
        let Self(service) = self;
        let open = context.open().await?;
        let providers = open.backend.list_providers(open.token).await?;
        let provider = providers.into_iter().find(|provider| provider.service == service);
        let way = provider.as_ref().map_or(Way::Browser, |provider| provider.way);
        match way {
            Way::Api => open.backend.check_provider(open.token, &service).await?,
            Way::Browser => {
                let settings = provider.map_or_else(Settings::default, |found| found.settings);
                check_recipe(context, &service, &settings).await?;
            }
        }
        if context.out.json {
            context.out.object(&json!({ "service": service, "way": way, "fits": true }))?;
        } else {
            context.out.say(&format!("{service}: a key could be got now"));
        }
        Ok(Finish::Done)
    }
}

async fn check_recipe(
    context: &Context<'_>,
    service: &ServiceName,
    settings: &Settings,
) -> Result<(), Problem> {
    let places = Places::from_environment().ok();
    let screenshot = places.map(|at| at.screenshots().join(format!("{service}-check.png")));
    let task = Task {
        service,
        mode: Mode::Check,
        settings,
        secret: None,
        screenshot: screenshot.as_deref(),
    };
    let out = &context.out;
    let progress = |step: &str, percent: u8| {
        if !out.json {
            out.say(&format!("{percent:>3} %  {step}"));
        }
    };
    carry_out(start(service)?, task, &progress).await.map(drop)
}
