//! The master CLI: one file a command. The one table of commands is here; help, completions and
//! dispatch come from it.
//!
//! Must never know a backend but as an [`AccountBackend`](crate::core::backend::AccountBackend),
//! never exit the process, and never put a value anywhere but where it was asked for.
#![forbid(unsafe_code)]

pub mod agents;
pub mod args;
pub mod ask;
mod broker;
pub mod budget;
pub mod claims;
pub mod clock;
pub mod context;
pub mod daemon_facts;
pub mod demo_client;
pub mod env_file;
pub mod examine;
pub mod help;
mod look_for;
pub mod machine;
pub mod near;
pub mod output;
pub mod passphrase;
mod pasted;
pub mod probe;
pub mod progress;
mod prove;
pub mod report;
pub mod request;
mod room;
pub mod scopes;
pub mod secret_input;
pub mod session;
pub mod source;
mod wiring_facts;

pub mod approve;
pub mod audit_accept;
pub mod audit_verify;
pub mod balance;
pub mod completions;
pub mod daemon;
pub mod delete;
pub mod deny;
pub mod doctor;
pub mod explain;
pub mod expose;
pub mod feedback;
pub mod fund;
pub mod import;
pub mod init;
pub mod link;
pub mod list;
pub mod man;
pub mod pending;
pub mod presence;
pub mod provisioner_check;
pub mod provisioner_list;
pub mod provisioner_remove;
pub mod provisioner_set;
mod proxied;
pub mod quickstart;
pub mod read;
pub mod reinstate;
pub mod revoke;
pub mod rule;
pub mod run;
pub mod scope;
pub mod seal;
pub mod serve;
pub mod store;
pub mod teardown;
pub mod unlink;
pub mod usage;
pub mod watch;
pub mod wire;

use std::ffi::OsString;
use std::future::Future;
use std::pin::Pin;

use argh::{ArgsInfo, CommandInfoWithArgs, FromArgs};

use self::args::{Asked, Global, Shape};
use self::context::Context;
use self::report::CliError;
use self::session::Machine;
use crate::core::problem::Problem;

pub use crate::core::wire::WIRE_VERSION;

/// How a command ended.
pub enum Finish {
    /// It did what it was asked to.
    Done,
    /// It did, and what it found is not well.
    Unwell,
    /// This process becomes that program.
    Exec(Box<std::process::Command>),
    /// A program ran and ended with this code.
    Ended(u8),
}

/// A command whose words were checked.
trait Checked: Sized + TryFrom<Self::Raw, Error = Problem> {
    /// The same as argh reads it.
    type Raw: FromArgs + ArgsInfo;

    /// Does it.
    fn run(self, context: &Context<'_>) -> impl Future<Output = Result<Finish, CliError>>;
}

type Running<'a> = Pin<Box<dyn Future<Output = Result<Finish, CliError>> + 'a>>;

fn start<'a, C: Checked + 'a>(
    name: &'static str,
    context: &'a Context<'a>,
    words: Vec<String>,
) -> Running<'a> {
    Box::pin(async move {
        let raw = args::parse::<C::Raw>(name, &words)?;
        // One of them may be a secret.
        drop(words.into_iter().map(zeroize::Zeroizing::new).collect::<Vec<_>>());
        C::try_from(raw)?.run(context).await
    })
}

/// Under which heading of the overview a command stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Group {
    /// To begin with.
    Begin,
    /// What credentials are for.
    Credentials,
    /// Agents, and who may do what.
    Agents,
    /// What was done.
    Record,
    /// The machine and the program.
    Machine,
}

/// One command.
pub struct Command {
    /// What argh and the preparation of arguments know of it.
    pub shape: Shape,
    /// Its heading.
    pub group: Group,
    start: for<'a> fn(&'a Context<'a>, Vec<String>) -> Running<'a>,
}

macro_rules! command {
    ($name:literal, $group:ident, $checked:ty) => {
        command!($name, $group, $checked, false)
    };
    ($name:literal, $group:ident, $checked:ty, $tail:literal) => {
        Command {
            shape: Shape {
                name: $name,
                tail: $tail,
                info: <<$checked as Checked>::Raw as ArgsInfo>::get_args_info,
            },
            group: Group::$group,
            start: |context, words| start::<$checked>($name, context, words),
        }
    };
}

/// Every command, in the order of the overview.
pub const COMMANDS: &[Command] = &[
    command!("quickstart", Begin, quickstart::Quickstart),
    command!("init", Begin, init::Init),
    command!("store", Credentials, store::Store),
    command!("read", Credentials, read::Read),
    command!("run", Credentials, run::Run, true),
    command!("list", Credentials, list::List),
    command!("delete", Credentials, delete::Delete),
    command!("seal", Credentials, seal::Seal),
    command!("import", Credentials, import::Import),
    command!("wire", Credentials, wire::Wire),
    command!("approve", Agents, approve::Approve),
    command!("watch", Agents, watch::Watch),
    command!("pending", Agents, pending::Pending),
    command!("deny", Agents, deny::Deny),
    command!("scope", Agents, scope::SetScope),
    command!("expose", Agents, expose::Expose),
    command!("rule", Agents, rule::SetRules),
    command!("budget", Agents, budget::SetBudget),
    command!("revoke", Agents, revoke::Revoke),
    command!("reinstate", Agents, reinstate::Reinstate),
    command!("teardown", Agents, teardown::Teardown),
    command!("presence", Agents, presence::SetPresence),
    command!("provisioner set", Agents, provisioner_set::Set),
    command!("provisioner check", Agents, provisioner_check::Check),
    command!("provisioner list", Agents, provisioner_list::List),
    command!("provisioner remove", Agents, provisioner_remove::Remove),
    command!("link", Agents, link::Link),
    command!("unlink", Agents, unlink::Unlink),
    command!("usage", Record, usage::Usage),
    command!("audit verify", Record, audit_verify::AuditVerify),
    command!("audit accept", Record, audit_accept::AuditAccept),
    command!("balance", Record, balance::Balance),
    command!("fund", Record, fund::Fund),
    command!("doctor", Machine, doctor::Doctor),
    command!("explain", Machine, explain::Explain),
    command!("serve", Machine, serve::Serve),
    command!("daemon", Machine, daemon::Daemon),
    command!("feedback", Machine, feedback::Feedback),
    command!("completions", Machine, completions::Completions),
    command!("man", Machine, man::Man),
];

/// The command of that name.
pub fn find(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| command.shape.name == name)
}

/// The first words of every command, each once: what may stand as the first argument.
pub fn first_words() -> Vec<&'static str> {
    let mut words: Vec<&'static str> = Vec::new();
    for command in COMMANDS {
        let first = command.shape.name.split(' ').next().unwrap_or_default();
        if !words.contains(&first) {
            words.push(first);
        }
    }
    words.push("help");
    words
}

/// A line of arguments that was understood as far as its command.
pub struct Invocation {
    /// The global options.
    pub global: Global,
    /// What is asked for.
    pub asked: Asked,
}

impl Invocation {
    /// Reads the arguments without the program's name.
    ///
    /// # Errors
    /// What is wrong with them; no value is repeated.
    pub fn read(args: Vec<OsString>) -> Result<Self, Problem> {
        let shapes: Vec<Shape> = COMMANDS.iter().map(|command| command.shape).collect();
        args::prepare(args, &shapes).map(|(global, asked)| Self { global, asked })
    }

    /// What `serve` was asked to do, if this line is to serve.
    pub fn as_serve(&self) -> Option<Result<serve::Serve, Problem>> {
        match &self.asked {
            Asked::Command { name: "serve", words, .. } => Some(
                args::parse::<serve::ServeArgs>("serve", words).and_then(serve::Serve::try_from),
            ),
            _ => None,
        }
    }

    /// What `daemon` was asked to be, if this line is for it.
    pub fn as_daemon(&self) -> Option<Result<daemon::Daemon, Problem>> {
        match &self.asked {
            Asked::Command { name: "daemon", words, .. } => Some(
                args::parse::<daemon::DaemonArgs>("daemon", words)
                    .and_then(daemon::Daemon::try_from),
            ),
            _ => None,
        }
    }
}

/// `--version`, in words or as JSON.
fn version(context: &Context<'_>) -> Result<Finish, CliError> {
    let binary = env!("CARGO_PKG_VERSION");
    if context.out.json {
        context.out.object(&serde_json::json!({ "version": binary, "wire": WIRE_VERSION }))?;
    } else {
        context.out.line(&format!("agentkeys {binary} (wire {WIRE_VERSION})"))?;
    }
    Ok(Finish::Done)
}

/// Runs what a line asks for, and afterwards remembers how far the audit log had come.
///
/// # Errors
/// Whatever kept the command from doing it.
pub async fn run(invocation: Invocation, machine: &dyn Machine) -> Result<Finish, CliError> {
    let Invocation { global, asked } = invocation;
    match asked {
        Asked::Help(name) => {
            let context = Context::new(global, None, machine);
            let text = help::text(name.and_then(find));
            context.out.raw(text.as_bytes())?;
            Ok(Finish::Done)
        }
        Asked::Version => version(&Context::new(global, None, machine)),
        Asked::Nothing => Err(report::usage(
            "no command was given",
            "agentkeys wants to know what to do",
            "agentkeys quickstart   sets everything up and shows how it works\n\
             agentkeys --help       lists every command",
        )
        .into()),
        Asked::Command { name, words, tail } => {
            let command = find(name).expect("prepared from the same table");
            let context = Context::new(global, tail, machine);
            let ended = (command.start)(&context, words).await;
            context.close().await;
            ended
        }
    }
}

/// The name and help of a command, for help and completions.
pub fn info(command: &Command) -> CommandInfoWithArgs {
    (command.shape.info)()
}
