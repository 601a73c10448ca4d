//! `agentkeys wire`: puts the daemon, or an MCP server under `agentkeys run`, into an MCP client's
//! configuration, and takes it out again.
//!
//! Must never leave a file half written, lose a token that it takes out, or write one down.
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use argh::{ArgsInfo, FromArgs};
use serde_json::json;

use super::agents::about;
use super::context::Context;
use super::near::near;
use super::pasted::{self, Pasted};
use super::report::{CliError, shown, usage};
use super::{Checked, Finish};
use crate::client::files;
use crate::client::places::Places;
use crate::client::wiring::{App, ConfigFile, Moved, Record, Records, Server, undone};
use crate::core::identity::{AgentIdentity, ServiceName};
use crate::core::problem::{Answer, Code, Problem};

/// The name of the daemon's entry.
const OURS: &str = "agentkeys";
/// How long another `wire` is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(FromArgs, ArgsInfo)]
#[argh(
    description = "Puts the daemon into an MCP client's configuration, or an MCP server that is \
                   there already under agentkeys run, with its pasted token moved into the vault. \
                   What else is in the file stays as it is.",
    note = "The client is claude-code, claude-desktop, cursor, vscode or codex. Done again, it \
            changes nothing. --undo takes out what was put in last, byte for byte where nobody \
            has changed the file since; a token comes back out of the vault, which keeps its copy.",
    note = "With --server, variables that hold a key are moved: those that the catalog knows, and \
            those whose names end in KEY, TOKEN, SECRET or PASSWORD. --move names others. The agent \
            is called like the server unless you name one, and is made if need be.",
    example = "agentkeys wire claude-code",
    example = "agentkeys wire cursor my-agent --project",
    example = "agentkeys wire vscode --print",
    example = "agentkeys wire claude-desktop --server github",
    example = "agentkeys wire codex my-agent --server search --move BRAVE=brave",
    example = "agentkeys wire claude-code --undo"
)]
/// see above
pub struct WireArgs {
    /// the project's file in this folder, and not the user's
    #[argh(switch)]
    project: bool,
    /// a server that is in the file, to be run with the vault's keys
    #[argh(option, arg_name = "name")]
    server: Option<String>,
    /// a variable of it that holds a key, and its service; may be given again
    #[argh(option, arg_name = "NAME=service", long = "move")]
    moves: Vec<String>,
    /// show the entry, and change nothing
    #[argh(switch)]
    print: bool,
    /// take out what was put in
    #[argh(switch)]
    undo: bool,
    /// client, and maybe agent
    #[argh(positional, arg_name = "client [agent]")]
    words: Vec<String>,
}

/// What is wired, and where.
pub struct Wire {
    app: App,
    agent: Option<AgentIdentity>,
    project: bool,
    server: Option<String>,
    moves: BTreeMap<String, ServiceName>,
    print: bool,
    undo: bool,
}

/// The client of that name.
fn client(word: &str) -> Answer<App> {
    App::of(word).map_err(|mut problem| {
        if let Some(meant) = near(word, App::ALL.iter().map(|app| app.word())).first() {
            problem.fix = format!("did you mean {meant}?");
        } else {
            problem.fix = "the client stands first, then the agent: agentkeys wire cursor my-agent"
                .to_owned();
        }
        problem
    })
}

impl TryFrom<WireArgs> for Wire {
    type Error = Problem;

    fn try_from(raw: WireArgs) -> Result<Self, Problem> {
        let (app, agent) = match raw.words.as_slice() {
            [app] => (client(app)?, None),
            [app, agent] => (client(app)?, Some(agent.parse()?)),
            words => {
                let known: Vec<&str> = App::ALL.iter().map(|app| app.word()).collect();
                return Err(usage(
                    "wire wants a client",
                    format!("it was given {} words", words.len()),
                    format!("agentkeys wire {}", known.join(" | ")),
                ));
            }
        };
        if raw.server.is_none() && !raw.moves.is_empty() {
            return Err(usage(
                "--move goes with --server",
                "it says which of a server's variables hold a key",
                "agentkeys wire cursor --server search --move BRAVE=brave",
            ));
        }
        if raw.undo && (raw.print || !raw.moves.is_empty()) {
            let fix = "agentkeys wire cursor --undo";
            return Err(usage("--undo stands alone", "it takes out what was put in last", fix));
        }
        let moves = raw.moves.iter().map(|text| pasted::named("--move", text));
        Ok(Self {
            app,
            agent,
            project: raw.project,
            server: raw.server,
            moves: moves.collect::<Result<_, _>>()?,
            print: raw.print,
            undo: raw.undo,
        })
    }
}

/// This program, where it will be found again.
fn ourselves() -> Answer<String> {
    let unknown = |why: String| {
        let fix = "start it from where it is installed";
        Problem::new(Code::Invalid, "cannot say where agentkeys is", why, fix)
    };
    let path = std::env::current_exe().map_err(|error| unknown(error.to_string()))?;
    let text = path.to_str().ok_or_else(|| unknown("its path is no UTF-8".to_owned()))?;
    // What npx fetched is gone when its cache is cleared.
    if text.contains("/_npx/") {
        return Err(Problem::new(
            Code::Invalid,
            "this agentkeys will not be there for long",
            "npx keeps it in a cache, and a configuration names a program for good",
            "npm install --global @agentkeys/daemon, then: agentkeys wire ...",
        ));
    }
    Ok(text.to_owned())
}

impl Wire {
    fn file(&self) -> Answer<PathBuf> {
        if self.project {
            let here = std::env::current_dir().map_err(|error| {
                Problem::new(Code::Invalid, "there is no folder here", error.to_string(), "cd")
            })?;
            return self.app.project_file(&here);
        }
        self.app.file(|name| std::env::var_os(name))
    }

    fn name(&self) -> &str {
        self.server.as_deref().unwrap_or(OURS)
    }

    /// The daemon's entry.
    fn daemon(&self, context: &Context<'_>) -> Answer<Server> {
        let mut args = vec!["daemon".to_owned()];
        if let Some(agent) = &self.agent {
            args.extend(["--agent".to_owned(), agent.to_string()]);
        }
        let named = context.global.backend.clone();
        let backend = named.or_else(|| std::env::var("AGENTKEYS_BACKEND").ok());
        let env = backend.map(|address| ("AGENTKEYS_BACKEND".to_owned(), address));
        Ok(Server { command: ourselves()?, args, env: env.into_iter().collect() })
    }

    /// The entry that is there, under `agentkeys run`; and what is taken out of it.
    fn wrapped(&self, text: &str, agent: &AgentIdentity) -> Answer<(Server, Vec<Pasted>)> {
        let name = self.name();
        let found = self.app.servers(text)?.remove(name).ok_or_else(|| {
            Problem::new(
                Code::NotFound,
                format!("no server \"{name}\" in {}'s configuration", self.app.title()),
                "there is none of that name that is started as a program",
                "look at the file; a server that is reached by a URL has no program to wrap",
            )
        })?;
        let us = ourselves()?;
        let is_wrapped = found.command == us
            || found.args.first().is_some_and(|one| one == "run")
                && found.command.ends_with("/agentkeys");
        if is_wrapped {
            return Ok((found, Vec::new()));
        }
        let mut env = found.env;
        let taken = pasted::take(&mut env, &self.moves)?;
        if taken.is_empty() {
            return Err(Problem::new(
                Code::NotFound,
                format!("the entry of \"{name}\" has no pasted key"),
                "none of its variables holds one that is known as such",
                "name the variable: --move NAME=service",
            ));
        }
        let mut args = vec!["run".to_owned(), agent.to_string(), "--only".to_owned()];
        for one in &taken {
            args.extend(["--env".to_owned(), format!("{}={}", one.variable, one.service)]);
        }
        args.extend(["--".to_owned(), found.command]);
        args.extend(found.args);
        Ok((Server { command: us, args, env }, taken))
    }

    async fn put(self, context: &Context<'_>) -> Result<Finish, CliError> {
        let path = self.file()?;
        let file = ConfigFile::read(&path)?;
        let text = file.text().unwrap_or("");
        let (server, taken, agent) = match &self.server {
            None => (self.daemon(context)?, Vec::new(), None),
            Some(name) => {
                let agent = match &self.agent {
                    Some(agent) => agent.clone(),
                    None => name.parse().map_err(|_| {
                        usage(
                            "the agent has to be named",
                            format!("\"{}\" cannot be an agent's name", shown(name)),
                            "agentkeys wire cursor my-agent --server ...",
                        )
                    })?,
                };
                let (server, taken) = self.wrapped(text, &agent)?;
                (server, taken, Some(agent))
            }
        };
        let name = self.name();
        if self.print {
            let entry = self.app.with("", name, &server)?;
            context.out.say(&format!("for {}", path.display()));
            context.out.raw(entry.as_bytes())?;
            return Ok(Finish::Done);
        }
        let after = self.app.with(text, name, &server)?;
        let changed = file.text() != Some(after.as_str());
        if changed {
            let mut secrets = Vec::new();
            if let Some(agent) = &agent {
                for one in taken {
                    // Written otherwise than it reads, it could not be found again to be undone.
                    if !text.contains(one.value.as_str()) {
                        return Err(written_otherwise(&one.variable).into());
                    }
                    let stored = pasted::store(context, agent, &one).await?;
                    stored.say(context, &one.service);
                    let moved = Moved { agent: stored.agent, service: one.service.clone() };
                    secrets.push((one.value, moved));
                }
            }
            let places = Places::from_environment()?;
            files::make_folder(places.state())?;
            let _lock = files::lock(&places.wiring_lock(), PATIENCE).await?;
            let mut records = Records::read(&places.wiring_file())?;
            let is_new = !self.app.servers(text)?.contains_key(name);
            let added = is_new.then_some(server);
            records.push(Record::of(&path, name, file.text(), &after, added, &secrets));
            // First how to undo it, then the change.
            records.write(&places.wiring_file())?;
            if let Err(problem) = file.replace(&after) {
                // There is nothing to be undone, and what was before it still can be.
                records.take(&path, name);
                records.write(&places.wiring_file())?;
                return Err(problem.into());
            }
            for (_, moved) in &secrets {
                let Moved { agent, service } = moved;
                context.out.say(&format!("moved a key of {service} into the vault, for {agent}"));
            }
        }
        if context.out.json {
            let told = json!({ "client": self.app.word(), "file": path, "server": name,
                               "changed": changed });
            context.out.object(&told)?;
        } else {
            let what = if changed { "is in" } else { "was there already, in" };
            context.out.say(&format!("{name} {what} {}", path.display()));
            context.out.say(&format!("next: {}", self.app.then(self.server.is_some())));
            if self.server.is_none() {
                context
                    .out
                    .say("its first call shows a code; say yes to it: agentkeys approve CODE");
                context.out.say(
                    "its tool http_request uses keys that the model never sees; so that it cannot: \
                     agentkeys expose AGENT SERVICE broker",
                );
                if let Some(agent) = &self.agent {
                    say_whose(context, agent).await;
                }
            }
        }
        Ok(Finish::Done)
    }

    async fn take_out(self, context: &Context<'_>) -> Result<Finish, CliError> {
        let (path, name) = (self.file()?, self.name());
        let places = Places::from_environment()?;
        files::make_folder(places.state())?;
        let _lock = files::lock(&places.wiring_lock(), PATIENCE).await?;
        let mut records = Records::read(&places.wiring_file())?;
        let record = records.take(&path, name).ok_or_else(|| {
            Problem::new(
                Code::NotFound,
                format!("nothing of \"{}\" to be undone", shown(name)),
                format!("agentkeys wire put nothing of that name into {}", path.display()),
                "look at the file; --project is for the file of a project",
            )
        })?;
        let file = ConfigFile::read(&path)?;
        let Some(text) = file.text() else {
            records.write(&places.wiring_file())?;
            return Err(files::trouble(
                format!("{} is not there any more", path.display()),
                "somebody has removed it",
                "there is nothing to be undone",
            )
            .into());
        };
        let mut tokens = BTreeMap::new();
        for moved in record.moved() {
            let token = pasted::fetch(context, moved).await?;
            tokens.insert((moved.agent.clone(), moved.service.clone()), token);
        }
        let reads = |text: &str| self.app.servers(text).is_ok();
        match undone(&record, text, &tokens) {
            Ok(None) => file.remove()?,
            Ok(Some(before)) if reads(&before) => file.replace(&before)?,
            // Others have changed the file there: an entry that is still ours is taken out of it.
            changed => match &record.added {
                Some(ours) if self.app.servers(text)?.get(name) == Some(ours) => {
                    file.replace(&self.app.without(text, name)?)?;
                }
                _ => return Err(changed.err().unwrap_or_else(|| record.not_there()).into()),
            },
        }
        records.write(&places.wiring_file())?;
        for moved in record.moved() {
            let (agent, service) = (&moved.agent, &moved.service);
            context.out.warn(&format!(
                "the key of {service} stands in the file again; the vault keeps its copy for \
                 {agent}, until: agentkeys delete {agent} {service}"
            ));
        }
        if context.out.json {
            let told = json!({ "client": self.app.word(), "file": path, "server": name,
                               "undone": true });
            context.out.object(&told)?;
        } else {
            let what = if record.added.is_some() { "is out of" } else { "is as it was, in" };
            context.out.say(&format!("{name} {what} {}", path.display()));
        }
        Ok(Finish::Done)
    }
}

/// Says what the daemon's name stands for: an agent that there is, or one that an approval makes.
/// Where there is no master here, that is the master's to know.
async fn say_whose(context: &Context<'_>, agent: &AgentIdentity) {
    let Ok(open) = context.open().await else { return };
    let answer = open.backend.resolve_identity(open.token, agent).await;
    match about(context, agent, answer).await {
        Ok(found) if found.revoked.is_some() => {
            context.out.say(&format!("{agent} is revoked now: the approval gives it access again"));
        }
        Ok(_) => context.out.say(&format!("approve asks whether the daemon is {agent}'s: yes")),
        Err(problem) if problem.code == Code::AgentNotFound => {
            let meant = problem.fix.lines().find(|line| line.starts_with("did you mean"));
            let meant = meant.map(|line| format!("; {line}")).unwrap_or_default();
            context.out.say(&format!("there is no agent {agent} yet: that makes it{meant}"));
        }
        Err(_) => {}
    }
}

fn written_otherwise(variable: &str) -> Problem {
    Problem::new(
        Code::Invalid,
        format!("the value of {variable} cannot be moved"),
        "it is written with escapes, so that undoing could not give it back as it stands",
        format!("write it plainly, or store it yourself and take {variable} out"),
    )
}

impl Checked for Wire {
    type Raw = WireArgs;

    async fn run(self, context: &Context<'_>) -> Result<Finish, CliError> {
        if self.undo { self.take_out(context).await } else { self.put(context).await }
    }
}
