//! `agentkeys store`: seals a key to the backend and leaves it there for an agent.
use argh::{ArgsInfo, FromArgs};
use serde::Serialize;
use zeroize::Zeroizing;

use super::agents::{about, agent_and_service, choose, count, find_or_make, label};
use super::context::Context;
use super::near::near;
use super::pasted::replaced;
use super::report::{CliError, usage};
use super::secret_input::Source;
use super::{Checked, Finish};
use crate::client::config::Chooser;
use crate::client::doctor::{RootKey, root_key};
use crate::client::places::Places;
use crate::client::sealing::seal_credential;
use crate::core::backend::AgentSummary;
use crate::core::catalog;
use crate::core::identity::{AgentIdentity, ServiceName};
use crate::core::problem::Problem;
use crate::core::terms::{Exposure, TermsChange};

#[derive(FromArgs, ArgsInfo)]
#[argh(
    description = "Stores an agent's key for a service. The key is asked for without being shown, \
                   and is sealed before it leaves this program. An agent that does not exist is \
                   made; a key that exists is replaced, and its last versions are kept.",
    note = "[agent] may be left out where there is just one. In place of [-] the key itself may \
            stand, but then your shell's history has it.",
    example = "agentkeys store my-agent openrouter",
    example = "pass show openrouter | agentkeys store my-agent openrouter -",
    example = "agentkeys store my-agent github --from-env GITHUB_TOKEN",
    example = "agentkeys store my-agent pem --from-file key.pem",
    example = "agentkeys store my-agent openrouter --expose broker",
    example = "agentkeys store my-agent openrouter --roll-back"
)]
/// see above
pub struct StoreArgs {
    /// read the key from a file
    #[argh(option, arg_name = "file")]
    from_file: Option<String>,
    /// read the key from an environment variable
    #[argh(option, arg_name = "name")]
    from_env: Option<String>,
    /// how far it is shown: broker, inject or reveal
    #[argh(option, arg_name = "tier")]
    expose: Option<String>,
    /// bring the version before the current one back
    #[argh(switch)]
    roll_back: bool,
    /// agent, service and source
    #[argh(positional, arg_name = "[agent] service [-]")]
    words: Vec<String>,
}

/// What is stored where.
pub struct Store {
    agent: Option<AgentIdentity>,
    service: ServiceName,
    expose: Option<Exposure>,
    /// `None` brings the version before the current one back.
    source: Option<Source>,
}

impl TryFrom<StoreArgs> for Store {
    type Error = Problem;

    fn try_from(raw: StoreArgs) -> Result<Self, Problem> {
        let mut words: Vec<Zeroizing<String>> = raw.words.into_iter().map(Zeroizing::new).collect();
        if words.len() > 3 {
            return Err(usage(
                "store wants an agent, a service, and at most the key",
                format!("it was given {}", count(words.len())),
                "agentkeys store my-agent openrouter",
            ));
        }
        // `store openrouter -`: the last word is the source, and the agent was left out.
        let has_source =
            words.len() == 3 || (words.len() == 2 && words.last().is_some_and(|w| **w == "-"));
        let word = if has_source { words.pop() } else { None };
        let names: Vec<String> = words.iter().map(|word| word.to_string()).collect();
        let (agent, service) = agent_and_service("store", &names)?;
        let source = Source::chosen(raw.from_file, raw.from_env, word)?;
        let source = match (raw.roll_back, source) {
            (false, source) => Some(source),
            (true, Source::Prompt) => None,
            (true, _) => {
                return Err(usage(
                    "--roll-back takes no key",
                    "it brings an earlier one back",
                    "leave the key and its source out",
                ));
            }
        };
        let expose = raw.expose.map(|text| text.parse()).transpose()?;
        if source.is_none() && expose.is_some() {
            return Err(usage(
                "--roll-back and --expose exclude each other",
                "--roll-back changes the key alone",
                "agentkeys expose my-agent openrouter broker",
            ));
        }
        Ok(Self { agent, service, expose, source })
    }
}

/// Says, where an agent was just made, that the private backend's disk holds all that it takes to
/// read the keys.
async fn warn_of_root_key(context: &Context<'_>) {
    let private =
        context.link().await.is_ok_and(|link| link.chosen_by() == Chooser::Default.as_str());
    let Ok(places) = Places::from_environment() else { return };
    let key = private.then(|| root_key(places.data())).flatten();
    if let Some(path) = key.filter(RootKey::is_in_the_clear).and_then(|key| key.path) {
        context.out.warn(&format!(
            "there is no keyring here: the key that encrypts the vault lies in {}, for whoever \
             reads that disk; agentkeys doctor says more",
            path.display()
        ));
    }
}

/// A service of the catalog that an unknown one is near to, by a slip of the fingers.
fn like_a_known_one(service: &ServiceName) -> Option<&'static str> {
    if catalog::find(service).is_some() {
        return None;
    }
    near(service.as_str(), catalog::all().iter().map(|entry| entry.name.as_str())).first().copied()
}

#[derive(Serialize)]
struct Stored<'a> {
    agent: String,
    wallet: String,
    agent_created: bool,
    /// The version that it took the place of.
    replaced: Option<u64>,
    service: &'a ServiceName,
    variable: String,
}

/// What was sealed, and for whom.
pub struct Sealed {
    /// The agent.
    pub agent: AgentSummary,
    /// Whether it was made for this.
    pub made: bool,
    /// The sealed bytes.
    pub bytes: Vec<u8>,
}

/// Reads a key, warns when it does not look like one of the service, and seals it for the agent,
/// which is made if need be.
///
/// # Errors
/// There is no usable key, or the backend refuses.
pub async fn read_and_seal(
    context: &Context<'_>,
    agent: Option<AgentIdentity>,
    service: &ServiceName,
    source: Source,
) -> Result<Sealed, CliError> {
    let agent = choose(context, agent).await?;
    let prompt = format!("{service} key for {agent} (not shown): ");
    let key = source.read(&prompt, &context.out)?;
    // The plaintext is looked at for its shape alone.
    if let Some(looks) = catalog::looks_wrong(service, key.expose()) {
        context.out.warn(&format!("a key of {service} {looks}; this one is taken all the same"));
    }
    let open = context.open().await?;
    let me = open.backend.who_am_i(open.token).await?;
    let shielding = open.backend.shielding_key().await?;
    let (agent, made) = find_or_make(context, &agent).await?;
    let bytes = seal_credential(shielding, me.account, agent.wallet, service, &key)?;
    Ok(Sealed { agent, made, bytes })
}

impl Checked for Store {
    type Raw = StoreArgs;

    async fn run(self, context: &Context<'_>) -> Result<Finish, CliError> {
        let Self { agent, service, expose, source } = self;
        let Some(source) = source else {
            return roll_back(context, agent, &service).await;
        };
        let sealed = read_and_seal(context, agent, &service, source).await?;
        let open = context.open().await?;
        let wallet = AgentIdentity::Wallet(sealed.agent.wallet);
        if expose.is_some() {
            // First, so that the key is shown no further for a moment.
            let change = TermsChange { expose, ..TermsChange::default() };
            open.backend.set_terms(open.token, &wallet, &service, change).await?;
        }
        let before = open.backend.list_credentials(open.token, &wallet).await?;
        let before = before.into_iter().find(|one| one.service == service);
        open.backend.store_credential(open.token, &wallet, &service, sealed.bytes).await?;
        let name = label(&sealed.agent);
        if context.out.json {
            context.out.object(&Stored {
                wallet: sealed.agent.wallet.to_string(),
                agent_created: sealed.made,
                replaced: before.as_ref().map(|one| one.version),
                variable: catalog::variable_for(&service),
                agent: name,
                service: &service,
            })?;
        } else {
            if sealed.made {
                context.out.say(&format!("made agent {name} ({})", sealed.agent.wallet));
                warn_of_root_key(context).await;
            }
            context.out.say(&format!("stored {service} for {name}"));
            if let Some(before) = &before {
                context.out.say(&replaced(&name, &service, before));
            } else if let Some(meant) = like_a_known_one(&service) {
                context.out.warn(&format!(
                    "\"{service}\" is no service of the catalog; if you meant {meant}: \
                     agentkeys delete {name} {service}"
                ));
            }
            let variable = catalog::variable_for(&service);
            let broker = if expose == Some(Exposure::Broker) { " --broker" } else { "" };
            context.out.say(&format!(
                "programs find it as {variable}: agentkeys run{broker} {name} -- ..."
            ));
        }
        Ok(Finish::Done)
    }
}

async fn roll_back(
    context: &Context<'_>,
    agent: Option<AgentIdentity>,
    service: &ServiceName,
) -> Result<Finish, CliError> {
    let agent = choose(context, agent).await?;
    let open = context.open().await?;
    let answer = open.backend.roll_back_credential(open.token, &agent, service).await;
    let now = about(context, &agent, answer).await?;
    if context.out.json {
        context.out.object(&now)?;
    } else {
        context.out.say(&format!(
            "{service} of {agent} is again what it was before, as version {}; {} kept behind it",
            now.version, now.kept
        ));
    }
    Ok(Finish::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::problem::Code;

    fn checked(words: &[&str]) -> Result<Store, Problem> {
        Store::try_from(StoreArgs {
            from_file: None,
            from_env: None,
            expose: None,
            roll_back: false,
            words: words.iter().map(|word| (*word).to_owned()).collect(),
        })
    }

    #[test]
    fn a_dash_behind_the_service_alone_is_standard_input() {
        let store = checked(&["openrouter", "-"]).unwrap();
        assert!(store.agent.is_none() && matches!(store.source, Some(Source::Stdin)));
        let store = checked(&["my-agent", "openrouter", "-"]).unwrap();
        assert!(store.agent.is_some() && matches!(store.source, Some(Source::Stdin)));
        let store = checked(&["my-agent", "openrouter"]).unwrap();
        assert!(store.agent.is_some() && matches!(store.source, Some(Source::Prompt)));
    }

    #[test]
    fn no_error_repeats_a_word_since_one_may_be_the_key() {
        for words in [
            &["sk-or-v1/secret"][..],
            &["my-agent", "sk-or-v1/secret"],
            &["sk-or v1 secret", "openrouter", "-"],
            &["a", "b", "sk-or-v1/secret", "d"],
        ] {
            let problem = checked(words).map(|_| ()).unwrap_err();
            assert!(!format!("{problem:?}").contains("secret"), "{problem:?}");
            assert_eq!(problem.code, Code::Invalid);
        }
    }
}
