//! `agentkeys doctor`: how things stand, and what to do where they do not stand well.
use argh::{ArgsInfo, FromArgs};
use serde_json::json;

use super::context::Context;
use super::report::{CliError, shown};
use super::session::{Fact, Health, Wanted};
use super::{Checked, Finish};
use crate::core::problem::Problem;

#[derive(FromArgs, ArgsInfo)]
#[argh(
    description = "Looks at the backend, its certificate, the session, the clock, the machine's protections, \
                   where things are kept, the daemons that run here, and the MCP clients' files. Each line that is not well says what to do. Exits with \
                   1 if something is broken.",
    example = "agentkeys doctor",
    example = "agentkeys doctor --json"
)]
/// see above
pub struct DoctorArgs {}

/// Everything.
pub struct Doctor;

impl TryFrom<DoctorArgs> for Doctor {
    type Error = Problem;

    fn try_from(_: DoctorArgs) -> Result<Self, Problem> {
        Ok(Self)
    }
}

impl Checked for Doctor {
    type Raw = DoctorArgs;

    async fn run(self, context: &Context<'_>) -> Result<Finish, CliError> {
        let wanted =
            Wanted { backend: context.global.backend.clone(), verbose: context.global.verbose };
        let facts = context.machine.facts(&wanted).await?;
        let broken = facts.iter().any(|fact| fact.health == Health::Broken);
        if context.out.json {
            context.out.object(&json!({ "well": !broken, "facts": facts }))?;
        } else {
            for fact in &facts {
                show(context, fact)?;
            }
            context.out.say(&sum(&facts));
        }
        Ok(if broken { Finish::Unwell } else { Finish::Done })
    }
}

/// All of it in one line.
fn sum(facts: &[Fact]) -> String {
    let count = |health| facts.iter().filter(|fact| fact.health == health).count();
    match (count(Health::Broken), count(Health::Warning)) {
        (0, 0) => "all is well".to_owned(),
        (0, 1) => "nothing is broken; one thing could be better".to_owned(),
        (0, many) => format!("nothing is broken; {many} things could be better"),
        (1, _) => "one thing is BROKEN: its fix stands below it".to_owned(),
        (many, _) => format!("{many} things are BROKEN: their fixes stand below them"),
    }
}

fn show(context: &Context<'_>, fact: &Fact) -> Result<(), CliError> {
    let (word, colour) = match fact.health {
        Health::Good => ("ok", "\x1b[32m"),
        Health::Warning => ("warn", "\x1b[33m"),
        Health::Broken => ("BROKEN", "\x1b[1;31m"),
    };
    let (colour, plain) = if context.out.colour { (colour, "\x1b[0m") } else { ("", "") };
    let line =
        format!("{colour}{word:<6}{plain}  {:<14}  {}", shown(&fact.name), shown(&fact.found));
    context.out.sentence(&line)?;
    for line in fact.fix.iter().flat_map(|fix| fix.lines()) {
        context.out.sentence(&format!("{:<24}fix: {}", "", shown(line)))?;
    }
    Ok(())
}
