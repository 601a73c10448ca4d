//! `agentkeys quickstart`: the whole loop before the user's eyes, with a stand-in key under an
//! agent of its own, which is gone again at the end.
//!
//! Must never touch an agent that it has not just made.
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use argh::{ArgsInfo, FromArgs};
use serde::Serialize;
use serde_json::json;

use super::context::{Context, Open};
use super::demo_client::DemoClient;
use super::init::place;
use super::report::{CliError, shown};
use super::{Checked, Finish};
use crate::client::files::failed;
use crate::client::places::Places;
use crate::client::sealing::seal_credential;
use crate::core::backend::{AgentSummary, Grant, RevokeTarget};
use crate::core::catalog::variable_for;
use crate::core::identity::{AgentIdentity, Alias, ServiceName};
use crate::core::problem::{Code, Problem};
use crate::core::secret::SecretBytes;

#[derive(FromArgs, ArgsInfo)]
#[argh(
    description = "Sets everything up on this machine and shows the whole loop: a stand-in key is \
                   stored, used by a program and over MCP, revoked and denied, under an agent of \
                   its own that is gone again at the end. Changes nothing that you have made, \
                   however often it runs.",
    example = "agentkeys quickstart"
)]
/// see above
pub struct QuickstartArgs {}

/// The whole loop.
pub struct Quickstart;

impl TryFrom<QuickstartArgs> for Quickstart {
    type Error = Problem;

    fn try_from(_: QuickstartArgs) -> Result<Self, Problem> {
        Ok(Self)
    }
}

/// Nobody's key: it opens nothing anywhere.
const STAND_IN: &str = "sk-or-v1-stand-in-key-of-the-quickstart";
const SERVICE: &str = "openrouter";
/// The tool that hands it out over MCP.
const TOOL: &str = "get_credential";
/// How long the daemon may take to have its session once that was approved.
const TAKEN_BY: Duration = Duration::from_secs(20);
/// Names that are tried before it gives up.
const MOST_NAMES: u32 = 100;

/// One step as `--json` shows it.
#[derive(Serialize)]
struct Step {
    step: &'static str,
    command: String,
    result: String,
}

/// The steps so far, told as they are made.
struct Told<'a> {
    context: &'a Context<'a>,
    steps: Vec<Step>,
}

impl Told<'_> {
    /// Tells a step that was made: what it is, the line that does the same, and what came of it.
    fn tell(&mut self, step: &'static str, line: &str, result: &str) -> Result<(), CliError> {
        let out = &self.context.out;
        if !out.json {
            let number = self.steps.len() + 1;
            let (bold, dim, plain) =
                if out.colour { ("\x1b[1m", "\x1b[2m", "\x1b[0m") } else { ("", "", "") };
            out.line(&format!("{bold}{number}. {step}{plain}\n   {dim}$ {line}{plain}"))?;
            for line in result.lines().filter(|line| !line.is_empty()) {
                out.line(&format!("   {}", shown(line)))?;
            }
            out.line("")?;
        }
        self.steps.push(Step { step, command: line.to_owned(), result: result.to_owned() });
        Ok(())
    }
}

/// Where the daemon of that name keeps its mirror.
fn daemon_folder(name: &Alias) -> Result<PathBuf, Problem> {
    Places::from_environment()?.daemon_folder(Some(name))
}

/// Makes an agent under the first demonstration name that is free. One that exists may be the
/// user's own, and is left alone.
async fn make_agent(open: Open<'_>) -> Result<(AgentSummary, Alias), CliError> {
    for number in 1..=MOST_NAMES {
        let name = match number {
            1 => "quickstart-demo".to_owned(),
            number => format!("quickstart-demo-{number}"),
        };
        let alias: Alias = name.parse()?;
        // A daemon of that name on this machine is the user's as well.
        if daemon_folder(&alias)?.exists() {
            continue;
        }
        let identity = AgentIdentity::Alias(alias.clone());
        match open.backend.resolve_identity(open.token, &identity).await {
            Ok(_) => continue,
            Err(problem) if problem.code == Code::AgentNotFound => {}
            Err(problem) => return Err(problem.into()),
        }
        match open.backend.create_agent(open.token, &alias).await {
            Ok(agent) => return Ok((agent, alias)),
            // Taken in between, by another quickstart.
            Err(problem) if problem.code == Code::Invalid => {}
            Err(problem) => return Err(problem.into()),
        }
    }
    Err(Problem::new(
        Code::Invalid,
        "no name is free for the demonstration's agent",
        format!("quickstart-demo to quickstart-demo-{MOST_NAMES} are taken"),
        "agentkeys list shows them, agentkeys teardown <agent> removes one",
    )
    .into())
}

/// What a child process of ours gave: its exit code, and what it wrote.
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

/// Runs this very program with `run <options> <agent> -- printenv NAME`, as the line that is shown.
fn run_child(
    context: &Context<'_>,
    options: &[&str],
    agent: &Alias,
    variable: &str,
) -> Result<Ran, CliError> {
    let failed = |error: std::io::Error| {
        Problem::new(
            Code::Internal,
            "a program could not be run",
            error.to_string(),
            "see whether this machine lets programs start others, then try again",
        )
    };
    let program = std::env::current_exe().map_err(failed)?;
    let mut command = Command::new(program);
    if let Some(backend) = &context.global.backend {
        command.arg("--backend").arg(backend);
    }
    let output = command
        .arg("run")
        .args(options)
        .args([agent.shown(), "--", "printenv", variable])
        // A value that is in the environment already would prove nothing.
        .env_remove(variable)
        .stdin(Stdio::null())
        .output()
        .map_err(failed)?;
    Ok(Ran {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).trim_end().to_owned(),
        err: String::from_utf8_lossy(&output.stderr).trim_end().to_owned(),
    })
}

/// The problem of a step that did not show what it should have.
fn went_wrong(step: &str, ran: &Ran) -> CliError {
    let code = ran.code.map_or("a signal".to_owned(), |code| format!("exit code {code}"));
    let first = ran.err.lines().next().unwrap_or("it said nothing");
    Problem::new(
        Code::Internal,
        format!("the quickstart's step \"{step}\" did not do what it should"),
        format!("{code}: {first}"),
        "agentkeys doctor says what is wrong with this machine\n\
         if all is well there: agentkeys feedback",
    )
    .into()
}

/// Pairs a daemon with the demonstration's agent, as an MCP client and its user would: the daemon
/// shows a code, and the master, who is this command, compares the OTP and approves.
async fn pair(
    told: &mut Told<'_>,
    open: Open<'_>,
    agent: &AgentSummary,
    name: &Alias,
) -> Result<DemoClient, CliError> {
    let backend = told.context.global.backend.as_deref();
    let mut client = DemoClient::start(backend, name)?;
    let asked = client.call(TOOL, json!({ "service": SERVICE }))?;
    let word = |field: &str| asked.content[field].as_str().unwrap_or_default().to_owned();
    let (code, otp) = (word("pair_code"), word("otp"));
    let fetched = open.backend.fetch_auth_request(open.token, code.parse()?).await?;
    if fetched.otp.to_string() != otp {
        return Err(not_shown("Paired", "the two OTPs differ"));
    }
    let grant = Grant { agent_id: Some(AgentIdentity::Wallet(agent.wallet)), ..Grant::default() };
    let seen = Some(fetched.seen_hash());
    open.backend.approve_auth_request(open.token, fetched.id, seen, grant).await?;
    told.tell(
        "Paired: the agent's daemon, which an MCP client starts, asks; you approve",
        &format!("agentkeys daemon --agent {name}\n   $ agentkeys approve {code} --as {name}"),
        &format!("pair code {code}\nOTP {otp} on both sides, so it is the one that was asked for"),
    )?;
    let until = Instant::now() + TAKEN_BY;
    loop {
        let used = client.call(TOOL, json!({ "service": SERVICE }))?;
        if !used.is_error && used.content["credential"] == STAND_IN {
            break;
        }
        if Instant::now() > until {
            return Err(not_shown("Used over MCP", used.text.lines().next().unwrap_or_default()));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    told.tell(
        "Used over MCP: a model's tool call gets it",
        &format!("{TOOL} {{\"service\": \"{SERVICE}\"}}"),
        STAND_IN,
    )?;
    Ok(client)
}

/// The problem of a step over MCP that did not show what it should have.
fn not_shown(step: &str, why: &str) -> CliError {
    went_wrong(step, &Ran { code: Some(1), out: String::new(), err: why.to_owned() })
}

/// Stored, used, revoked, denied. The agent is there before and after.
async fn show_loop(
    told: &mut Told<'_>,
    open: Open<'_>,
    agent: &AgentSummary,
    name: &Alias,
) -> Result<(), CliError> {
    let service: ServiceName = SERVICE.parse()?;
    let variable = variable_for(&service);
    let wallet = AgentIdentity::Wallet(agent.wallet);

    let me = open.backend.who_am_i(open.token).await?;
    let shielding = open.backend.shielding_key().await?;
    let key = SecretBytes::new(STAND_IN.as_bytes().to_vec());
    let sealed = seal_credential(shielding, me.account, agent.wallet, &service, &key)?;
    open.backend.store_credential(open.token, &wallet, &service, sealed).await?;
    told.tell(
        "Stored",
        &format!("printf {STAND_IN} |\n       agentkeys store {name} {service} -"),
        &format!("made agent {name}\nsealed a stand-in key, which opens nothing, and stored it"),
    )?;

    let line = format!("agentkeys run --broker {name} -- printenv {variable}");
    let ran = run_child(told.context, &["--broker"], name, &variable)?;
    let is_placeholder = ran.out.starts_with("sk-or-") && ran.out != STAND_IN;
    if ran.code != Some(0) || !is_placeholder {
        return Err(went_wrong("Used without having it", &ran));
    }
    told.tell(
        "Used without having it: the program has a placeholder, good for this run",
        &line,
        &format!("{}\nthe key is put into its requests on their way to the service", ran.out),
    )?;

    let line = format!("agentkeys run {name} -- printenv {variable}");
    let ran = run_child(told.context, &[], name, &variable)?;
    if ran.code != Some(0) || ran.out != STAND_IN {
        return Err(went_wrong("Used", &ran));
    }
    told.tell(
        "Used: a program that needs the key itself finds it, and no file holds it",
        &line,
        &ran.out,
    )?;

    let mut client = pair(told, open, agent, name).await?;

    open.backend.revoke_session(open.token, RevokeTarget::Agent(wallet)).await?;
    told.tell("Revoked", &format!("agentkeys revoke {name}"), "from now on every read is denied")?;

    let ran = run_child(told.context, &[], name, &variable)?;
    if ran.code != Some(3) || !ran.out.is_empty() {
        return Err(went_wrong("Denied", &ran));
    }
    told.tell("Denied: the same line once more", &line, &format!("{}\n(exit code 3)", ran.err))?;

    let denied = client.call(TOOL, json!({ "service": SERVICE }))?;
    let said = denied.text.lines().next().unwrap_or_default();
    if !denied.is_error || !said.contains("denied") {
        return Err(not_shown("Denied over MCP", said));
    }
    told.tell("Denied: and over MCP", &format!("{TOOL} {{\"service\": \"{SERVICE}\"}}"), said)
}

impl Checked for Quickstart {
    type Raw = QuickstartArgs;

    async fn run(self, context: &Context<'_>) -> Result<Finish, CliError> {
        let out = &context.out;
        if !out.json {
            out.line("The whole loop, with a stand-in key, under an agent of its own.\n")?;
        }
        let mut told = Told { context, steps: Vec::new() };
        let link = context.link().await?;
        let open = context.open().await?;
        let me = open.backend.who_am_i(open.token).await?;
        let mine = open.backend.list_agents(open.token).await?.len();
        let kept = place(&link.session_place());
        told.tell(
            "Set up",
            "agentkeys init",
            &format!(
                "backend {}\nsigned in as {}\nthe session is in {kept}",
                link.address(),
                me.identity
            ),
        )?;
        let (agent, name) = make_agent(open).await?;
        let shown = show_loop(&mut told, open, &agent, &name).await;
        // What it made goes, however far it came.
        let wallet = AgentIdentity::Wallet(agent.wallet);
        let cleaned = open.backend.teardown_agent(open.token, &wallet).await;
        let folder = daemon_folder(&name)?;
        if folder.exists() {
            std::fs::remove_dir_all(&folder).map_err(|error| failed("remove", &folder, &error))?;
        }
        shown?;
        cleaned?;
        told.tell(
            "Cleaned up",
            &format!("agentkeys teardown {name}"),
            "the agent and its stand-in key are gone; the record of them stays",
        )?;
        if out.json {
            out.object(&serde_json::json!({ "ok": true, "steps": told.steps }))?;
            return Ok(Finish::Done);
        }
        out.line("It works. With a key of your own:\n")?;
        for (line, what) in [
            ("agentkeys store my-agent openrouter", "asks for the key, hidden"),
            ("agentkeys run --broker my-agent -- PROGRAM", "it uses the key, and never has it"),
            ("agentkeys run my-agent -- PROGRAM", "it finds OPENROUTER_API_KEY"),
            ("agentkeys usage my-agent", "who read what, when"),
            ("agentkeys wire claude-code", "so that a model asks by itself, over MCP"),
            ("agentkeys revoke my-agent", "ends it, at once"),
        ] {
            out.line(&format!("  {line:<44} {what}"))?;
        }
        if mine > 0 {
            let agents = if mine == 1 { "agent is" } else { "agents are" };
            out.line(&format!("\nYour {mine} {agents} as before: agentkeys list"))?;
        }
        out.line(
            "\nagentkeys --help lists every command; agentkeys serve --stop ends the backend.",
        )?;
        Ok(Finish::Done)
    }
}
