//! `agentkeys provisioner remove`: forgets how keys of a service are got.
use argh::{ArgsInfo, FromArgs};
use serde_json::json;

use super::context::Context;
use super::provisioner_set::one_service;
use super::report::CliError;
use super::{Checked, Finish};
use crate::core::identity::ServiceName;
use crate::core::problem::Problem;

#[derive(FromArgs, ArgsInfo)]
#[argh(
    description = "Forgets how keys of a service are got, and the account's own secret with it. \
                   Keys that agents have stay theirs.",
    note = "While there are keys that were made by the service's own interface it is refused, \
            since nothing else can end them there: revoke or tear down their agents first. With \
            --abandon they are left at the service, for you to end them there.",
    example = "agentkeys provisioner remove openrouter",
    example = "agentkeys provisioner remove openrouter --abandon"
)]
/// see above
pub struct RemoveArgs {
    /// leave the keys that it made at the service
    #[argh(switch)]
    abandon: bool,
    /// service
    #[argh(positional, arg_name = "service")]
    words: Vec<String>,
}

/// For which service, and whether its keys may be left there.
pub struct Remove {
    service: ServiceName,
    abandon: bool,
}

impl TryFrom<RemoveArgs> for Remove {
    type Error = Problem;

    fn try_from(raw: RemoveArgs) -> Result<Self, Problem> {
        let service = one_service("provisioner remove", &raw.words)?;
        Ok(Self { service, abandon: raw.abandon })
    }
}

impl Checked for Remove {
    type Raw = RemoveArgs;

    async fn run(self, context: &Context<'_>) -> Result<Finish, CliError> {
        let Self { service, abandon } = self;
        let open = context.open().await?;
        open.backend.remove_provider(open.token, &service, abandon).await?;
        if context.out.json {
            context.out.object(&json!({ "removed": service }))?;
        } else {
            context.out.say(&format!("no key of {service} is got any more"));
        }
        Ok(Finish::Done)
    }
}
