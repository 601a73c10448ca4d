//! `agentkeys provisioner set`: sets up how keys of a service are got for agents that lack one.
//!
//! Must never show the account's own secret, or send it anywhere but sealed to the backend.
use std::collections::BTreeMap;

use argh::{ArgsInfo, FromArgs};

use super::context::Context;
use super::report::{CliError, usage};
use super::secret_input::Source;
use super::{Checked, Finish};
use crate::client::sealing::seal;
use crate::core::catalog;
use crate::core::identity::ServiceName;
use crate::core::problem::Problem;
use crate::core::provision::{NewProvider, Settings, Way};
use crate::core::seal::Purpose;

#[derive(FromArgs, ArgsInfo)]
#[argh(
    description = "Sets up how keys of a service are got for agents that lack one. The account's \
                   own secret there, such as an administrator's key, or the password of the \
                   mailbox that codes are sent to, is asked for without being shown, and no agent \
                   can read it.",
    note = "--way api has the backend ask the service's own interface: each agent gets a key of \
            its own, which is ended there when the agent is revoked. --way browser runs a recipe \
            beside the agent. Unless told, the interface where one is known.",
    note = "An agent asks by its MCP tool provision, and you approve the first time for each \
            service. What can be set is in docs/provisioning.md; what is missing is named.",
    example = "agentkeys provisioner set openrouter --set limit=5",
    example = "agentkeys provisioner set openai --set project=proj_1 --from-file admin-key",
    example = "agentkeys provisioner set openrouter --way browser --set email=me@example.org",
    example = "agentkeys provisioner set openrouter --set limit=10 --keep-secret"
)]
/// see above
pub struct SetArgs {
    /// api or browser
    #[argh(option, arg_name = "way")]
    way: Option<String>,
    /// a setting; may be given again
    #[argh(option, arg_name = "name=value")]
    set: Vec<String>,
    /// read the secret from a file
    #[argh(option, arg_name = "file")]
    from_file: Option<String>,
    /// read the secret from an environment variable
    #[argh(option, arg_name = "name")]
    from_env: Option<String>,
    /// leave the secret as it is, or do without
    #[argh(switch)]
    keep_secret: bool,
    /// service, and - for the secret on standard input
    #[argh(positional, arg_name = "service [-]")]
    words: Vec<String>,
}

/// What is set up for which service.
pub struct Set {
    service: ServiceName,
    way: Way,
    settings: Settings,
    /// `None` leaves the secret as it is.
    source: Option<Source>,
}

/// Reads `name=value` words. No value is repeated in an error.
fn settings(words: Vec<String>) -> Result<Settings, Problem> {
    let mut values = BTreeMap::new();
    for word in words {
        let Some((name, value)) = word.split_once('=') else {
            return Err(usage(
                "--set wants name=value",
                "there is no = in it",
                "agentkeys provisioner set openrouter --set email=you@example.org",
            ));
        };
        if values.insert(name.to_owned(), value.to_owned()).is_some() {
            return Err(usage(
                "a setting was given twice",
                "each --set names another one",
                "leave one of them out",
            ));
        }
    }
    Ok(Settings::new(values)?)
}

/// The one service that a command names.
///
/// # Errors
/// There is none, or more.
pub fn one_service(command: &str, words: &[String]) -> Result<ServiceName, Problem> {
    match words {
        [word] => word.parse().map_err(|_| {
            Problem::invalid("service", "it is no service's name: letters, digits, . _ and -")
        }),
        _ => Err(usage(
            format!("{command} wants one service"),
            format!("it was given {} words", words.len()),
            format!("agentkeys {command} openrouter"),
        )),
    }
}

impl TryFrom<SetArgs> for Set {
    type Error = Problem;

    fn try_from(mut raw: SetArgs) -> Result<Self, Problem> {
        let dash = raw.words.len() > 1 && raw.words.last().is_some_and(|word| word == "-");
        let word = if dash { raw.words.pop().map(Into::into) } else { None };
        let service = one_service("provisioner set", &raw.words)?;
        let makes = catalog::find(&service).and_then(|entry| entry.makes.as_ref());
        let way = match raw.way.as_deref() {
            Some(word) => word.parse()?,
            None if makes.is_some() => Way::Api,
            None => Way::Browser,
        };
        let source = match (raw.keep_secret, Source::chosen(raw.from_file, raw.from_env, word)?) {
            (false, source) => Some(source),
            (true, Source::Prompt) => None,
            (true, _) => {
                return Err(usage(
                    "--keep-secret takes no secret",
                    "it leaves the one that is there",
                    "leave the secret's source out",
                ));
            }
        };
        Ok(Self { service, way, settings: settings(raw.set)?, source })
    }
}

impl Checked for Set {
    type Raw = SetArgs;

    async fn run(self, context: &Context<'_>) -> Result<Finish, CliError> {
        let Self { service, way, settings, source } = self;
        let makes = catalog::find(&service).and_then(|entry| entry.makes.as_ref());
        let prompt = match makes.filter(|_| way == Way::Api) {
            Some(makes) => format!("{} of {} (not shown): ", makes.secret, makes.from),
            None => format!("your own secret for {service} (not shown): "),
        };
        let secret = source.map(|source| source.read(&prompt, &context.out)).transpose()?;
        let open = context.open().await?;
        let sealed = match secret {
            None => None,
            Some(secret) => {
                let me = open.backend.who_am_i(open.token).await?;
                let shielding = open.backend.shielding_key().await?;
                let purpose = Purpose::provider(me.account, &service);
                Some(seal(shielding, &purpose, &secret)?)
            }
        };
        let new = NewProvider { way, settings, sealed };
        let provider = open.backend.set_provider(open.token, &service, &new).await?;
        if context.out.json {
            context.out.object(&provider)?;
        } else {
            context.out.say(&format!("keys of {service} are got by {}", in_words(provider.way)));
            context.out.say(&format!("try it: agentkeys provisioner check {service}"));
        }
        Ok(Finish::Done)
    }
}

/// A way, for people.
pub const fn in_words(way: Way) -> &'static str {
    match way {
        Way::Api => "the service's own interface",
        Way::Browser => "a recipe in a browser, beside the agent",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(words: &[&str], set: &[&str]) -> Result<Set, Problem> {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        Set::try_from(SetArgs {
            way: None,
            set: owned(set),
            from_file: None,
            from_env: None,
            keep_secret: false,
            words: owned(words),
        })
    }

    #[test]
    fn settings_are_names_and_values() {
        let set = checked(&["openrouter"], &["email=a@x.org", "subject=a = b"]).unwrap();
        assert_eq!(set.settings.get("subject"), Some("a = b"));
        assert!(matches!(set.source, Some(Source::Prompt)));
        let set = checked(&["openrouter", "-"], &[]).unwrap();
        assert!(matches!(set.source, Some(Source::Stdin)));
        for wrong in [&["email"][..], &["E=1"], &["=1"], &["a=1", "a=2"]] {
            assert!(checked(&["openrouter"], wrong).is_err(), "{wrong:?}");
        }
        assert!(checked(&[], &[]).is_err() && checked(&["a", "b"], &[]).is_err());
    }
}
