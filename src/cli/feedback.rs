//! `agentkeys feedback`: how to report, and what to put in. Sends nothing.
use argh::{ArgsInfo, FromArgs};
use serde_json::json;

use super::context::Context;
use super::report::CliError;
use super::{Checked, Finish, WIRE_VERSION};
use crate::core::problem::Problem;

#[derive(FromArgs, ArgsInfo)]
#[argh(
    description = "Shows how to report a fault or a wish, and what to put into it. Sends nothing \
                   and collects nothing.",
    example = "agentkeys feedback"
)]
/// see above
pub struct FeedbackArgs {}

/// How to report.
pub struct Feedback;

impl TryFrom<FeedbackArgs> for Feedback {
    type Error = Problem;

    fn try_from(_: FeedbackArgs) -> Result<Self, Problem> {
        Ok(Self)
    }
}

impl Checked for Feedback {
    type Raw = FeedbackArgs;

    async fn run(self, context: &Context<'_>) -> Result<Finish, CliError> {
        let binary = env!("CARGO_PKG_VERSION");
        let issues = concat!(env!("CARGO_PKG_REPOSITORY"), "/issues");
        let platform = format!("{} {}", std::env::consts::OS, std::env::consts::ARCH);
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let kernel = kernel.trim();
        if context.out.json {
            context.out.object(&json!({
                "version": binary,
                "wire": WIRE_VERSION,
                "platform": platform,
                "kernel": kernel,
                "issues": issues,
            }))?;
            return Ok(Finish::Done);
        }
        for line in [
            format!("Report at {issues}, with these lines:"),
            String::new(),
            format!("  version   agentkeys {binary}, wire {WIRE_VERSION}"),
            format!("  platform  {platform}, kernel {}", super::report::shown(kernel)),
            String::new(),
            "Say what you typed, what you expected, and what came instead. The output of"
                .to_owned(),
            "the command with --verbose and of agentkeys doctor helps. Neither shows a key;"
                .to_owned(),
            "read them before you send them all the same.".to_owned(),
            String::new(),
            "A weakness that others could use: do not open an issue, but use \"Report a".to_owned(),
            "vulnerability\" under Security at the same place.".to_owned(),
        ] {
            context.out.line(&line)?;
        }
        Ok(Finish::Done)
    }
}
