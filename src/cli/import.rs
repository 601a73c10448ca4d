//! `agentkeys import`: moves the keys of an environment file into the vault, and leaves references
//! to them.
//!
//! Must never change a file before every key in it is in the vault.
use std::collections::BTreeMap;
use std::path::PathBuf;

use argh::{ArgsInfo, FromArgs};
use serde_json::json;
use zeroize::Zeroizing;

use super::agents::choose;
use super::context::Context;
use super::env_file::{self, Value};
use super::pasted::{self, Pasted, apart, service_of};
use super::report::{CliError, usage};
use super::{Checked, Finish};
use crate::client::wiring::ConfigFile;
use crate::core::identity::{AgentIdentity, ServiceName};
use crate::core::problem::{Code, Problem};

/// How the copy's name ends.
const COPY: &str = ".agentkeys-backup";

#[derive(FromArgs, ArgsInfo)]
#[argh(
    description = "Moves the keys of an environment file into the vault, and writes references in \
                   their place, which run --env-file takes. The rest of the file stays as it is.",
    note = "Variables that hold a key are moved: those that the catalog knows, and those whose \
            names end in KEY, TOKEN, SECRET or PASSWORD. --move names them instead. A copy of the \
            file as it was is kept beside it, readable by you alone: it still holds the keys, so \
            remove it when you have seen that all is well.",
    example = "agentkeys import my-agent .env",
    example = "agentkeys import my-agent .env --print",
    example = "agentkeys import my-agent .env --move STRIPE=stripe --move DB_URL=db"
)]
/// see above
pub struct ImportArgs {
    /// a variable that holds a key, and its service; may be given again
    #[argh(option, arg_name = "NAME=service", long = "move")]
    moves: Vec<String>,
    /// show what would be moved, and change nothing
    #[argh(switch)]
    print: bool,
    /// agent, and the file
    #[argh(positional, arg_name = "[agent] file")]
    words: Vec<String>,
}

/// Which file, for whom.
pub struct Import {
    agent: Option<AgentIdentity>,
    path: PathBuf,
    moves: BTreeMap<String, ServiceName>,
    print: bool,
}

/// Whether a word names a file that is there, and so no agent.
fn looks_like_a_file(word: &str) -> bool {
    word.contains('/') || word.starts_with('.') || std::path::Path::new(word).is_file()
}

impl TryFrom<ImportArgs> for Import {
    type Error = Problem;

    fn try_from(raw: ImportArgs) -> Result<Self, Problem> {
        let (agent, path) = match raw.words.as_slice() {
            [path] => (None, path),
            [path, agent] if looks_like_a_file(path) && !looks_like_a_file(agent) => {
                return Err(usage(
                    "import wants the agent first, then the file",
                    "what was named as the agent is a file",
                    "agentkeys import my-agent .env",
                ));
            }
            [agent, path] => (Some(agent.parse()?), path),
            words => {
                return Err(usage(
                    "import wants an environment file",
                    format!("it was given {} words", words.len()),
                    "agentkeys import my-agent .env",
                ));
            }
        };
        let moves = raw.moves.iter().map(|text| pasted::named("--move", text));
        Ok(Self {
            agent,
            path: path.into(),
            moves: moves.collect::<Result<_, _>>()?,
            print: raw.print,
        })
    }
}

impl Import {
    /// The keys that stand in the file, in its order.
    fn keys(&self, text: &str) -> Result<Vec<Pasted>, Problem> {
        let lines = env_file::parse(text)?;
        let there = |name: &String| lines.iter().any(|(known, _)| known == name);
        if let Some(missing) = self.moves.keys().find(|name| !there(name)) {
            return Err(Problem::new(
                Code::NotFound,
                format!("the file has no variable {missing}"),
                "--move names one",
                "correct --move",
            ));
        }
        let mut keys: Vec<Pasted> = Vec::new();
        for (variable, value) in lines {
            let Value::Literal(value) = value else { continue };
            let service = match self.moves.get(&variable) {
                Some(service) => Some(service.clone()),
                None if self.moves.is_empty() => service_of(&variable),
                None => None,
            };
            let Some(service) = service.filter(|_| !value.is_empty()) else { continue };
            if keys.iter().any(|one| one.variable == variable) {
                return Err(Problem::new(
                    Code::Invalid,
                    format!("{variable} stands in the file twice"),
                    "only the last one counts, and it is not clear which is meant",
                    "take one of them out; nothing was changed",
                ));
            }
            let service = apart(service, &variable, &value, &keys);
            keys.push(Pasted { variable, service, value });
        }
        Ok(keys)
    }
}

/// The file with references in the place of keys.
fn with_references(text: &str, agent: &str, keys: &[Pasted]) -> Zeroizing<String> {
    let mut out = Zeroizing::new(String::with_capacity(text.len()));
    for line in text.split_inclusive('\n') {
        let found = line.split_once('=').and_then(|(before, _)| {
            let name = before.trim().trim_start_matches("export ").trim();
            keys.iter().find(|key| key.variable == name).map(|key| (before, key))
        });
        match found.filter(|_| !line.trim_start().starts_with('#')) {
            Some((before, key)) => {
                let behind = &line[before.len() + 1..];
                let value = env_file::written(behind);
                out.push_str(&format!("{before}=agentkeys://{agent}/{}", key.service));
                // A comment, and how the line ends.
                let rest = &behind[value.len()..];
                let ending = rest.trim_start_matches([' ', '\t']);
                out.push_str(if ending.starts_with('#') { rest } else { ending });
            }
            None => out.push_str(line),
        }
    }
    out
}

impl Checked for Import {
    type Raw = ImportArgs;

    async fn run(self, context: &Context<'_>) -> Result<Finish, CliError> {
        let file = ConfigFile::read(&self.path)?;
        let Some(text) = file.text() else {
            return Err(Problem::new(
                Code::NotFound,
                format!("there is no file {}", self.path.display()),
                "it is not there",
                "name an environment file, such as .env",
            )
            .into());
        };
        let keys = self.keys(text)?;
        if keys.is_empty() {
            context.out.say("no key stands in it; --move NAME=service names one");
            return Ok(Finish::Done);
        }
        if self.print {
            let rows: Vec<Vec<String>> = keys
                .iter()
                .map(|key| vec![key.variable.clone(), key.service.to_string()])
                .collect();
            context.out.table(&["VARIABLE", "SERVICE"], &rows)?;
            return Ok(Finish::Done);
        }
        let agent = choose(context, self.agent).await?;
        let mut name = String::new();
        for key in &keys {
            let stored = pasted::store(context, &agent, key).await?;
            stored.say(context, &key.service);
            name = stored.agent;
        }
        let after = with_references(text, &name, &keys);
        let copy = file.keep_copy(COPY)?;
        file.replace(&after)?;
        if context.out.json {
            let moved: Vec<_> = keys.iter().map(|key| (&key.variable, &key.service)).collect();
            let moved: BTreeMap<_, _> = moved.into_iter().collect();
            context.out.object(&json!({ "agent": name, "moved": moved, "copy": copy }))?;
        } else {
            for key in &keys {
                context
                    .out
                    .say(&format!("moved {} into the vault, as {}", key.variable, key.service));
            }
            context.out.warn(&format!(
                "{} still holds the keys: remove it when all is well",
                copy.display()
            ));
            let path = self.path.display();
            context
                .out
                .say(&format!("use it: agentkeys run {name} --env-file {path} --only -- ..."));
        }
        Ok(Finish::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_values_of_keys_are_replaced() {
        let text =
            "# OPENAI_API_KEY=old\nexport OPENAI_API_KEY=\"sk-a\"  # ours\r\n A = b \nGH_TOKEN=x=y";
        let import =
            Import { agent: None, path: ".env".into(), moves: BTreeMap::new(), print: false };
        let keys = import.keys(text).unwrap();
        let values: Vec<&str> = keys.iter().map(|key| key.value.as_str()).collect();
        assert_eq!(values, ["sk-a", "x=y"]);
        assert_eq!(
            *with_references(text, "bot", &keys),
            "# OPENAI_API_KEY=old\nexport OPENAI_API_KEY=agentkeys://bot/openai  # ours\r\n A = b \n\
             GH_TOKEN=agentkeys://bot/github"
        );
        // What was made of it is read again, and has no key in it.
        assert!(import.keys(&with_references(text, "bot", &keys)).unwrap().is_empty());
        assert!(import.keys("A_KEY=1\nA_KEY=2\n").is_err());
    }
}
