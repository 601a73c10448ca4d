//! `agentkeys doctor`: how things stand, and what to do where they do not stand well.
use argh::{ArgsInfo, FromArgs};
use serde_json::json;

use super::context::Context;
use super::prove::{self, Prove};
use super::report::{CliError, shown, usage};
use super::session::{Fact, Health, Wanted};
use super::{Checked, Finish};
use crate::core::problem::Problem;

#[derive(FromArgs, ArgsInfo)]
#[argh(
    description = "Looks at the backend, its certificate, the session, the clock, the machine's protections, \
                   where things are kept, the daemons that run here, and the MCP clients' files. Each line that is not well says what to do. Exits with \
                   1 if something is broken.",
    note = "--prove shows for one of an agent's keys what run --broker --sandbox promises. A program of \
            ours is started in the closed room of the folder here: its key is looked for in it from \
            outside, it tries to get out by ways that are first seen to work without the room, and it asks \
            the service by the gateway: one GET, which uses the key, and is on record. Where the key's \
            tier lets you, it is read in order to be looked for, which is on record too. Exits with 1 unless all of it \
            holds.",
    example = "agentkeys doctor",
    example = "agentkeys doctor --json",
    example = "agentkeys doctor --prove my-agent",
    example = "agentkeys doctor --prove my-agent --service github --path /user"
)]
/// see above
pub struct DoctorArgs {
    /// show that a program of this agent's cannot get at its keys
    #[argh(option, arg_name = "agent")]
    prove: Option<String>,
    /// with --prove: by which of its services; the first, unless told
    #[argh(option, arg_name = "service")]
    service: Option<String>,
    /// with --prove: which path is asked; that of the base URL, unless told
    #[argh(option, arg_name = "/path")]
    path: Option<String>,
}

/// Everything, or that an agent's programs cannot get at its keys.
pub struct Doctor(Option<Prove>);

impl TryFrom<DoctorArgs> for Doctor {
    type Error = Problem;

    fn try_from(raw: DoctorArgs) -> Result<Self, Problem> {
        let DoctorArgs { prove, service, path } = raw;
        let Some(agent) = prove else {
            if service.is_some() || path.is_some() {
                return Err(usage(
                    "--service and --path go with --prove",
                    "they say how the proof asks",
                    "agentkeys doctor --prove my-agent --service github --path /user",
                ));
            }
            return Ok(Self(None));
        };
        if path.as_ref().is_some_and(|path| !prove::is_path(path)) {
            return Err(usage("--path is not valid", "it begins with a slash", "--path /user"));
        }
        let service = service.map(|name| name.parse()).transpose()?;
        Ok(Self(Some(Prove { agent: agent.parse()?, service, path })))
    }
}

impl Checked for Doctor {
    type Raw = DoctorArgs;

    async fn run(self, context: &Context<'_>) -> Result<Finish, CliError> {
        if let Some(prove) = self.0 {
            return prove.run(context).await;
        }
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
