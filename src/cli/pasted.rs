//! Keys that were pasted into a file: which variables hold one, and their way into the vault and
//! back.
use std::collections::BTreeMap;

use zeroize::Zeroizing;

use super::agents::{find_or_make, label};
use super::context::Context;
use super::report::{CliError, usage};
use crate::client::sealing::seal_credential;
use crate::client::wiring::Moved;
use crate::core::backend::CredentialSummary;
use crate::core::catalog::{self, is_variable};
use crate::core::identity::{AgentIdentity, ServiceName};
use crate::core::problem::{Answer, Code, Problem};
use crate::core::secret::SecretBytes;

/// How a variable's name ends that holds a key.
const ENDINGS: [&str; 5] = ["KEY", "TOKEN", "SECRET", "PASSWORD", "PAT"];
/// What is taken off such a name, to call a service by the rest.
const SUFFIXES: [&str; 8] = [
    "_API_KEY",
    "_API_TOKEN",
    "_ACCESS_TOKEN",
    "_SECRET_KEY",
    "_KEY",
    "_TOKEN",
    "_SECRET",
    "_PASSWORD",
];

/// A key in a file.
pub struct Pasted {
    /// The variable that holds it.
    pub variable: String,
    /// The service that it is a key of.
    pub service: ServiceName,
    /// The key.
    pub value: Zeroizing<String>,
}

/// Reads `NAME=service`.
///
/// # Errors
/// It is not of that form.
pub fn named(option: &str, text: &str) -> Result<(String, ServiceName), Problem> {
    let (name, service) = text.split_once('=').ok_or_else(|| {
        usage(
            format!("{option} is not valid"),
            "there is no = in it",
            format!("write {option} NAME=service"),
        )
    })?;
    Ok((name.to_owned(), service.parse()?))
}

/// The service that a variable is the key of, if its name says that it is one.
pub fn service_of(variable: &str) -> Option<ServiceName> {
    let known = catalog::all().iter().find(|entry| {
        entry.variables.iter().any(|name| name == variable)
            || entry.members.values().any(|name| name == variable)
    });
    if let Some(entry) = known.filter(|entry| entry.members.is_empty()) {
        return Some(entry.name.clone());
    }
    let is_key = |ending: &str| {
        variable.strip_suffix(ending).is_some_and(|stem| stem.is_empty() || stem.ends_with('_'))
    };
    if !is_variable(variable) || !ENDINGS.into_iter().any(is_key) {
        return None;
    }
    let stem = SUFFIXES.iter().find_map(|suffix| variable.strip_suffix(suffix));
    let stem = stem.filter(|stem| !stem.is_empty()).unwrap_or(variable);
    stem.trim_matches('_').to_ascii_lowercase().replace('_', "-").parse().ok()
}

/// Whether a text is a key that stands there, and not a reference to one elsewhere.
pub fn stands_there(value: &str) -> bool {
    !value.is_empty() && !value.starts_with("${") && !value.starts_with("agentkeys://")
}

/// Takes the keys out of an environment: those that are named, else those that are known.
///
/// # Errors
/// A named variable is not there.
pub fn take(
    env: &mut BTreeMap<String, String>,
    named: &BTreeMap<String, ServiceName>,
) -> Answer<Vec<Pasted>> {
    if let Some(missing) = named.keys().find(|name| !env.contains_key(*name)) {
        let there: Vec<&str> = env.keys().map(String::as_str).collect();
        return Err(Problem::new(
            Code::NotFound,
            format!("the entry has no variable {missing}"),
            format!("it has: {}", there.join(", ")),
            "correct --move",
        ));
    }
    let mut taken: Vec<Pasted> = Vec::new();
    let variables: Vec<String> = env.keys().cloned().collect();
    for variable in variables {
        let service = match named.get(&variable) {
            Some(service) => Some(service.clone()),
            None if named.is_empty() => service_of(&variable),
            None => None,
        };
        let Some(service) = service else { continue };
        if !env.get(&variable).is_some_and(|value| stands_there(value)) {
            continue;
        }
        let value = Zeroizing::new(env.remove(&variable).unwrap_or_default());
        let service = apart(service, &variable, &value, &taken);
        taken.push(Pasted { variable, service, value });
    }
    Ok(taken)
}

/// The service, or, where another key goes by its name already, one of the variable's own.
pub fn apart(service: ServiceName, variable: &str, value: &str, taken: &[Pasted]) -> ServiceName {
    let clashes = taken.iter().any(|one| one.service == service && one.value.as_str() != value);
    if !clashes {
        return service;
    }
    variable.to_ascii_lowercase().replace('_', "-").parse().unwrap_or(service)
}

/// What became of a key that was stored.
pub struct Stored {
    /// The agent's name.
    pub agent: String,
    /// Whether the agent was made for it.
    pub made: bool,
    /// The version that it took the place of.
    pub replaced: Option<CredentialSummary>,
}

impl Stored {
    /// Says what a person would not expect: an agent that was made, a key that was replaced.
    pub fn say(&self, context: &Context<'_>, service: &ServiceName) {
        if self.made {
            context.out.say(&format!("made agent {}", self.agent));
        }
        if let Some(before) = &self.replaced {
            context.out.say(&replaced(&self.agent, service, before));
        }
    }
}

/// That a key has taken another's place, and the way back.
pub fn replaced(agent: &str, service: &ServiceName, before: &CredentialSummary) -> String {
    if before.made {
        return format!("it replaces the {service} key that was made for {agent}, which is ended");
    }
    let version = before.version;
    format!(
        "it replaces version {version}, which is kept; to take that back:\n  \
         agentkeys store {agent} {service} --roll-back"
    )
}

/// Stores a key for an agent, which is made if need be.
///
/// # Errors
/// The backend refuses.
pub async fn store(
    context: &Context<'_>,
    agent: &AgentIdentity,
    pasted: &Pasted,
) -> Result<Stored, CliError> {
    let open = context.open().await?;
    let me = open.backend.who_am_i(open.token).await?;
    let shielding = open.backend.shielding_key().await?;
    let (found, made) = find_or_make(context, agent).await?;
    let key = SecretBytes::new(pasted.value.as_bytes().to_vec());
    let sealed = seal_credential(shielding, me.account, found.wallet, &pasted.service, &key)?;
    let wallet = AgentIdentity::Wallet(found.wallet);
    let before = open.backend.list_credentials(open.token, &wallet).await?;
    open.backend.store_credential(open.token, &wallet, &pasted.service, sealed).await?;
    let replaced = before.into_iter().find(|one| one.service == pasted.service);
    Ok(Stored { agent: label(&found), made, replaced })
}

/// A key that was moved, out of the vault.
///
/// # Errors
/// It is not there any more, or the backend refuses.
pub async fn fetch(context: &Context<'_>, moved: &Moved) -> Result<Zeroizing<String>, CliError> {
    let open = context.open().await?;
    let agent: AgentIdentity = moved.agent.parse().map_err(|_| Problem::internal())?;
    let key = open.backend.read_credential(open.token, &agent, &moved.service).await?;
    // It goes back into the file that it came from.
    let text = std::str::from_utf8(key.expose()).map_err(|_| {
        let fix = "read it with agentkeys read, and write it into the file yourself";
        Problem::new(Code::Invalid, "the key cannot stand in the file", "it is no text", fix)
    })?;
    Ok(Zeroizing::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(variable: &str) -> Option<String> {
        service_of(variable).map(|service| service.to_string())
    }

    #[test]
    fn a_variable_s_name_says_whether_it_holds_a_key_and_of_what() {
        for (variable, service) in [
            ("OPENROUTER_API_KEY", Some("openrouter")),
            ("GH_TOKEN", Some("github")),
            ("GITHUB_PERSONAL_ACCESS_TOKEN", Some("github-personal")),
            ("MY_OWN_API_KEY", Some("my-own")),
            ("TOKEN", Some("token")),
            ("DB_PASSWORD", Some("db")),
            ("MONKEY", None),
            ("LOG_LEVEL", None),
            ("KEYBOARD", None),
        ] {
            assert_eq!(known(variable).as_deref(), service, "{variable}");
        }
    }

    #[test]
    fn only_keys_that_stand_there_are_taken_and_two_are_kept_apart() {
        let env = |pairs: &[(&str, &str)]| {
            let owned = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
            pairs.iter().map(owned).collect::<BTreeMap<_, _>>()
        };
        let mut all = env(&[
            ("GITHUB_TOKEN", "ghp_1"),
            ("GH_TOKEN", "ghp_2"),
            ("EMPTY_TOKEN", ""),
            ("ASKED_TOKEN", "${input:token}"),
            ("HERE_KEY", "agentkeys://x"),
            ("PORT", "80"),
        ]);
        let taken = take(&mut all, &BTreeMap::new()).unwrap();
        let services: Vec<_> = taken.iter().map(|one| one.service.to_string()).collect();
        assert_eq!(services, ["github", "github-token"]);
        assert_eq!(all.len(), 4);
        let named = BTreeMap::from([("PORT".to_owned(), "port".parse().unwrap())]);
        assert_eq!(take(&mut all, &named).unwrap()[0].value.as_str(), "80");
        assert!(take(&mut all, &named).is_err());
    }
}
