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
    example = "agentkeys provisioner remove openrouter"
)]
/// see above
pub struct RemoveArgs {
    /// service
    #[argh(positional, arg_name = "service")]
    words: Vec<String>,
}

/// For which service.
pub struct Remove(ServiceName);

impl TryFrom<RemoveArgs> for Remove {
    type Error = Problem;

    fn try_from(raw: RemoveArgs) -> Result<Self, Problem> {
        one_service("provisioner remove", &raw.words).map(Self)
    }
}

impl Checked for Remove {
    type Raw = RemoveArgs;

    async fn run(self, context: &Context<'_>) -> Result<Finish, CliError> {
        let Self(service) = self;
        let open = context.open().await?;
        open.backend.remove_provider(open.token, &service).await?;
        if context.out.json {
            context.out.object(&json!({ "removed": service }))?;
        } else {
            context.out.say(&format!("no key of {service} is got any more"));
        }
        Ok(Finish::Done)
    }
}
