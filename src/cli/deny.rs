//! `agentkeys deny`: says no to a request.
use argh::{ArgsInfo, FromArgs};
use serde_json::json;

use super::approve::pair_code;
use super::context::Context;
use super::report::CliError;
use super::{Checked, Finish};
use crate::core::otp::PairCode;
use crate::core::problem::Problem;

#[derive(FromArgs, ArgsInfo)]
#[argh(
    description = "Says no to the request of a pair code.",
    example = "agentkeys deny ABCD-EFGH"
)]
/// see above
pub struct DenyArgs {
    /// pair code
    #[argh(positional, arg_name = "pair-code")]
    words: Vec<String>,
}

/// What is said no to.
pub struct Deny(PairCode);

impl TryFrom<DenyArgs> for Deny {
    type Error = Problem;

    fn try_from(raw: DenyArgs) -> Result<Self, Problem> {
        pair_code("deny", &raw.words).map(Self)
    }
}

impl Checked for Deny {
    type Raw = DenyArgs;

    async fn run(self, context: &Context<'_>) -> Result<Finish, CliError> {
        let open = context.open().await?;
        // One that waits for this account already is not fetched, which could fail.
        let waiting = open.backend.list_pending(open.token).await?;
        let request = match waiting.iter().find(|request| request.pair_code == self.0) {
            Some(request) => request.id,
            None => open.backend.fetch_auth_request(open.token, self.0).await?.id,
        };
        open.backend.deny_auth_request(open.token, request).await?;
        if context.out.json {
            context.out.object(&json!({ "denied": request }))?;
        } else {
            context.out.say("denied: whoever asked is told so");
        }
        Ok(Finish::Done)
    }
}
