//! `agentkeys list`: the agents, or an agent's services; never a value.
use std::path::PathBuf;

use argh::{ArgsInfo, FromArgs};
use serde_json::json;

use super::agents::maybe_agent;
use super::context::Context;
use super::expose::in_words;
use super::report::CliError;
use super::source::{self, Source};
use super::{Checked, Finish};
use crate::core::backend::CredentialSummary;
use crate::core::catalog;
use crate::core::identity::AgentIdentity;
use crate::core::problem::Problem;
use crate::core::terms::Exposure;

#[derive(FromArgs, ArgsInfo)]
#[argh(
    description = "Lists the agents, or an agent's services. Never shows a value.",
    note = "Beside a daemon it lists the services of the daemon's agent, inside its session's \
            scope; agentkeys read --help says when a daemon is asked.",
    example = "agentkeys list",
    example = "agentkeys list my-agent",
    example = "agentkeys list --json"
)]
/// see above
pub struct ListArgs {
    /// ask the daemon that listens there
    #[argh(option, arg_name = "path")]
    socket: Option<String>,
    /// agent
    #[argh(positional, arg_name = "[agent]")]
    words: Vec<String>,
}

/// Whose services are listed; without an agent, the agents.
pub struct List {
    socket: Option<PathBuf>,
    agent: Option<AgentIdentity>,
}

impl TryFrom<ListArgs> for List {
    type Error = Problem;

    fn try_from(raw: ListArgs) -> Result<Self, Problem> {
        let agent = maybe_agent("list", &raw.words)?;
        Ok(Self { socket: raw.socket.map(PathBuf::from), agent })
    }
}

impl Checked for List {
    type Raw = ListArgs;

    async fn run(self, context: &Context<'_>) -> Result<Finish, CliError> {
        let Self { socket, agent } = self;
        match (source::daemon(context, socket, agent.as_ref()).await?, agent) {
            (None, None) => agents(context).await?,
            (None, agent) => services(context, Source::backend(context, agent).await?).await?,
            (Some(daemon), agent) => {
                services(context, Source::daemon(daemon, agent).await?).await?;
            }
        }
        Ok(Finish::Done)
    }
}

async fn agents(context: &Context<'_>) -> Result<(), CliError> {
    let open = context.open().await?;
    let agents = open.backend.list_agents(open.token).await?;
    if context.out.json {
        return context.out.object(&json!({ "agents": agents }));
    }
    if agents.is_empty() {
        context.out.say("there is no agent yet; make one: agentkeys store my-agent openrouter");
        return Ok(());
    }
    let rows: Vec<Vec<String>> = agents
        .iter()
        .map(|agent| {
            let state = match &agent.revoked {
                None => "active".to_owned(),
                Some(revoked) => format!("revoked {}", day(&revoked.at.for_people())),
            };
            let name = agent.name.clone().unwrap_or_else(|| "(no name)".to_owned());
            vec![name, agent.wallet.to_string(), state]
        })
        .collect();
    context.out.table_keeping(&["WALLET"], &["AGENT", "WALLET", "STATE"], &rows)
}

async fn services(context: &Context<'_>, source: Source<'_>) -> Result<(), CliError> {
    let (agent, credentials) = source.list(context).await?;
    if context.out.json {
        return context.out.object(&json!({ "agent": agent, "credentials": credentials }));
    }
    if credentials.is_empty() {
        context.out.say(&format!(
            "{agent} has no credential yet; give it one: agentkeys store {agent} openrouter"
        ));
        return Ok(());
    }
    let rows: Vec<Vec<String>> = credentials
        .iter()
        .map(|credential| {
            vec![
                credential.service.to_string(),
                variables_of(credential),
                credential.version.to_string(),
                credential.stored_at.for_people(),
            ]
        })
        .collect();
    context.out.table(&["SERVICE", "VARIABLE", "VERSION", "STORED"], &rows)?;
    for credential in &credentials {
        let (service, terms) = (&credential.service, &credential.terms);
        if terms.exposure() < Exposure::Reveal {
            context.out.say(&format!("{service} is {}", in_words(terms.exposure())));
        }
        if !terms.rules.is_empty() {
            let count = terms.rules.len();
            let rules = if count == 1 { "a rule".to_owned() } else { format!("{count} rules") };
            context.out.say(&format!("{service} has {rules}: agentkeys rule {agent} {service}"));
        }
    }
    for credential in credentials.iter().filter(|credential| credential.made) {
        let until = credential.expires_at.map_or_else(String::new, |end| {
            format!("; it holds until {}, and is renewed when it is read", end.for_people())
        });
        context.out.say(&format!("{} was made for {agent}{until}", credential.service));
    }
    Ok(())
}

/// The names that `run` puts a key under.
fn variables_of(credential: &CredentialSummary) -> String {
    let service = &credential.service;
    let has_parts = catalog::find(service).is_some_and(|entry| !entry.members.is_empty());
    match credential.made && has_parts {
        true => catalog::variables_of(service).join(" "),
        false => catalog::variable_for(service),
    }
}

/// The date of a time as people read it.
fn day(time: &str) -> &str {
    time.split(' ').next().unwrap_or(time)
}
