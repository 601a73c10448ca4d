//! Which agent is meant: the one that is named, the configuration's, or the only one there is.
use super::context::Context;
use super::near::near;
use super::report::{CliError, usage};
use crate::core::backend::AgentSummary;
use crate::core::identity::{AgentIdentity, ServiceName};
use crate::core::problem::{Answer, Code, Problem};

/// What people call an agent: its name, or its wallet address.
pub fn label(agent: &AgentSummary) -> String {
    agent.name.clone().unwrap_or_else(|| agent.wallet.to_string())
}

/// Reads `[agent] service`, or a reference in their place.
///
/// # Errors
/// There are too few or too many words, or one of them is no name.
pub fn agent_and_service(
    command: &str,
    words: &[String],
) -> Result<(Option<AgentIdentity>, ServiceName), Problem> {
    match words {
        [one] if one.starts_with(REFERENCE) => reference(one),
        [service] => Ok((None, service.parse()?)),
        [agent, service] => Ok((Some(agent.parse()?), service.parse()?)),
        _ => Err(usage(
            format!("{command} wants an agent and a service"),
            format!("it was given {}", count(words.len())),
            format!("agentkeys {command} my-agent openrouter"),
        )),
    }
}

/// Reads `[agent]`.
///
/// # Errors
/// There is more than one word, or it is no name.
pub fn maybe_agent(command: &str, words: &[String]) -> Result<Option<AgentIdentity>, Problem> {
    match words {
        [] => Ok(None),
        [agent] => Ok(Some(agent.parse()?)),
        _ => Err(usage(
            format!("{command} wants one agent"),
            format!("it was given {}", count(words.len())),
            format!("agentkeys {command} my-agent"),
        )),
    }
}

/// `1 word`, `2 words`.
pub fn count(words: usize) -> String {
    format!("{words} word{}", if words == 1 { "" } else { "s" })
}

/// What a reference to a credential begins with.
pub const REFERENCE: &str = "agentkeys://";

/// Reads `agentkeys://<service>` or `agentkeys://<agent>/<service>`.
///
/// # Errors
/// It is neither.
pub fn reference(text: &str) -> Result<(Option<AgentIdentity>, ServiceName), Problem> {
    let wrong = || {
        usage(
            "a reference is not valid",
            "wants agentkeys://SERVICE or agentkeys://AGENT/SERVICE",
            "correct it and try again",
        )
    };
    let path = text.strip_prefix(REFERENCE).ok_or_else(wrong)?;
    match path.split_once('/') {
        None => Ok((None, path.parse().map_err(|_| wrong())?)),
        Some((agent, service)) => {
            Ok((Some(agent.parse().map_err(|_| wrong())?), service.parse().map_err(|_| wrong())?))
        }
    }
}

/// The agent that is named, else the configuration's, else the only one there is.
///
/// # Errors
/// None is named, and there is none or more than one.
pub async fn choose(
    context: &Context<'_>,
    named: Option<AgentIdentity>,
) -> Result<AgentIdentity, CliError> {
    if let Some(named) = named {
        return Ok(named);
    }
    if let Some(agent) = context.link().await?.defaults().agent {
        context.verbose(&format!("agent {agent}, by a configuration file"));
        return Ok(agent);
    }
    let open = context.open().await?;
    let mut agents = open.backend.list_agents(open.token).await?;
    match agents.len() {
        1 => Ok(AgentIdentity::Wallet(agents.remove(0).wallet)),
        0 => Err(Problem::new(
            Code::AgentNotFound,
            "there is no agent yet",
            "an agent is made when its first credential is stored",
            [crate::client::beside::hint(), Some("agentkeys store my-agent openrouter".to_owned())]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join("\n"),
        )
        .into()),
        many => {
            let names: Vec<String> = agents.iter().take(8).map(label).collect();
            Err(usage(
                "which agent is meant?",
                format!("there are {many}: {}", names.join(", ")),
                "name one of them; agentkeys list shows them all",
            )
            .into())
        }
    }
}

/// The same answer; where the agent was not found, its problem names the near ones.
pub async fn about<T>(
    context: &Context<'_>,
    agent: &AgentIdentity,
    answer: Answer<T>,
) -> Answer<T> {
    let mut problem = match answer {
        Err(problem) if problem.code == Code::AgentNotFound => problem,
        answer => return answer,
    };
    let Ok(open) = context.open().await else { return Err(problem) };
    let Ok(agents) = open.backend.list_agents(open.token).await else { return Err(problem) };
    let names: Vec<String> = agents
        .iter()
        .flat_map(|agent| {
            agent.name.clone().into_iter().chain(agent.identities.iter().map(|id| id.to_string()))
        })
        .collect();
    let mut close = near(&agent.to_string(), names.iter().map(String::as_str));
    close.dedup();
    let known = format!("{}\n{}\n{}", problem.detail, problem.cause, problem.fix);
    close.retain(|name| !known.contains(&format!("\"{name}\"")));
    if !close.is_empty() {
        let quoted: Vec<String> = close.iter().map(|name| format!("\"{name}\"")).collect();
        problem.fix = format!("did you mean {}?\n{}", quoted.join(" or "), problem.fix);
    }
    Err(problem)
}

/// The same answer; where the agent has no key of that service, its problem names the near ones
/// that it has.
pub async fn about_service<T>(
    context: &Context<'_>,
    agent: &AgentIdentity,
    service: &ServiceName,
    answer: Answer<T>,
) -> Answer<T> {
    let mut problem = match about(context, agent, answer).await {
        Err(problem) if problem.code == Code::NotFound => problem,
        answer => return answer,
    };
    let Ok(open) = context.open().await else { return Err(problem) };
    let Ok(kept) = open.backend.list_credentials(open.token, agent).await else {
        return Err(problem);
    };
    let close = near(service.as_str(), kept.iter().map(|one| one.service.as_str()));
    if !close.is_empty() {
        problem.fix = format!("did you mean {}?\n{}", close.join(" or "), problem.fix);
    }
    Err(problem)
}

/// The agent; one that is named by an alias and does not exist is made. Says whether it was.
///
/// # Errors
/// It does not exist and is named by something that only an agent that exists can have.
pub async fn find_or_make(
    context: &Context<'_>,
    agent: &AgentIdentity,
) -> Result<(AgentSummary, bool), CliError> {
    let open = context.open().await?;
    let missing = match open.backend.resolve_identity(open.token, agent).await {
        Ok(found) => return Ok((found, false)),
        Err(problem) if problem.code == Code::AgentNotFound => problem,
        Err(problem) => return Err(problem.into()),
    };
    let AgentIdentity::Alias(alias) = agent else {
        return Err(about::<()>(context, agent, Err(missing))
            .await
            .map_or_else(CliError::from, |()| CliError::from(Problem::internal())));
    };
    match open.backend.create_agent(open.token, alias).await {
        Ok(made) => Ok((made, true)),
        // Another command may have made it in between; if not, its own problem says why.
        Err(problem) => match open.backend.resolve_identity(open.token, agent).await {
            Ok(found) => Ok((found, false)),
            Err(_) => Err(problem.into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn one_word_is_the_service_and_two_are_agent_and_service() {
        let read = |text| {
            agent_and_service("read", &words(text))
                .map(|(agent, service)| (agent.map(|a| a.to_string()), service.to_string()))
                .ok()
        };
        let pair = |agent: Option<&str>, service: &str| {
            Some((agent.map(str::to_owned), service.to_owned()))
        };
        assert_eq!(read("openrouter"), pair(None, "openrouter"));
        assert_eq!(read("my-agent OpenRouter"), pair(Some("my-agent"), "openrouter"));
        assert_eq!(read("agentkeys://openrouter"), pair(None, "openrouter"));
        assert_eq!(read("agentkeys://my-agent/openrouter"), pair(Some("my-agent"), "openrouter"));
        for bad in ["", "a b c", "my agent openrouter", "agentkeys://", "agentkeys://a/b/c", "a/b"]
        {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
