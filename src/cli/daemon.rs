//! `agentkeys daemon` as it is typed. What it does is the daemon's; `role.rs` calls it.
use std::path::PathBuf;

use argh::{ArgsInfo, FromArgs};

use super::context::Context;
use super::report::{CliError, usage};
use super::{Checked, Finish};
use crate::core::identity::{AgentIdentity, Alias};
use crate::core::pin::Fingerprint;
use crate::core::problem::Problem;
use crate::core::scope::Scope;

#[derive(FromArgs, ArgsInfo)]
#[argh(
    description = "Holds an agent's session beside the agent, and serves its credentials over \
                   MCP. An MCP client starts it; the name agentkeysd is the same.",
    note = "Without a session it shows a pair code and an OTP: whoever keeps the keys runs \
            agentkeys approve CODE on their own machine, compares the OTP, and says yes. No key \
            is typed, and nothing dials in.",
    note = "Speaks MCP on stdin and stdout where stdin is a pipe. Started at a terminal, it asks \
            at once, and stays for the programs beside it: read, list and run use its socket. \
            The session's mirror is ~/.agentkeys/session, or agents/NAME/session there with \
            --agent NAME.",
    example = "agentkeys daemon",
    example = "agentkeys daemon --agent my-bot --services openrouter,github",
    example = "agentkeys daemon --recover my-bot",
    example = "agentkeys daemon --rotate"
)]
/// see above
pub struct DaemonArgs {
    /// speak MCP on stdin and stdout, whatever they are
    #[argh(switch)]
    stdio: bool,
    /// the name to ask for; one machine can hold several agents by it
    #[argh(option, arg_name = "name")]
    agent: Option<String>,
    /// what to ask for: services, or all, or none; :ro for read-only
    #[argh(option, arg_name = "services")]
    services: Option<String>,
    /// go on as an agent that exists: a name, or name#FINGERPRINT of its account
    #[argh(option, arg_name = "identity")]
    recover: Option<String>,
    /// take an approval of the account with this fingerprint only
    #[argh(option, arg_name = "fingerprint")]
    account: Option<String>,
    /// where programs beside it reach it
    #[argh(option, arg_name = "path")]
    socket: Option<String>,
    /// ask for new keys in place of the present ones, and end
    #[argh(switch)]
    rotate: bool,
}

/// What the daemon is asked to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Daemon {
    /// Whether MCP was asked for, whatever stdin is.
    pub stdio: bool,
    /// The name to ask for.
    pub agent: Option<Alias>,
    /// The scope to ask for.
    pub scope: Scope,
    /// The agent to go on as.
    pub recover: Option<AgentIdentity>,
    /// The account that it must be.
    pub account: Option<Fingerprint>,
    /// Where its socket is.
    pub socket: Option<PathBuf>,
    /// New keys.
    pub rotate: bool,
}

impl TryFrom<DaemonArgs> for Daemon {
    type Error = Problem;

    fn try_from(raw: DaemonArgs) -> Result<Self, Problem> {
        let (recover, pinned) = match raw.recover.as_deref().map(|text| text.split_once('#')) {
            Some(Some((name, fingerprint))) => {
                (Some(name.to_owned()), Some(fingerprint.to_owned()))
            }
            Some(None) => (raw.recover, None),
            None => (None, None),
        };
        if pinned.is_some() && raw.account.is_some() {
            return Err(usage(
                "the account was named twice",
                "--recover NAME#FINGERPRINT and --account FINGERPRINT say the same",
                "leave one of them out",
            ));
        }
        if recover.is_some() && raw.services.is_some() {
            return Err(usage(
                "--recover asks for no scope",
                "the agent keeps the scope that it has",
                "leave --services out",
            ));
        }
        Ok(Self {
            stdio: raw.stdio,
            agent: raw.agent.map(|name| name.parse()).transpose()?,
            scope: match raw.services.as_deref() {
                Some(text) => super::scopes::short_form("--services", text)?,
                None => Scope::everything(),
            },
            recover: recover.map(|name| name.parse()).transpose()?,
            account: pinned.or(raw.account).map(|text| text.parse()).transpose()?,
            socket: raw.socket.map(PathBuf::from),
            rotate: raw.rotate,
        })
    }
}

impl Checked for Daemon {
    type Raw = DaemonArgs;

    /// Being a daemon is not a command's work: the role takes it before it comes here.
    async fn run(self, _context: &Context<'_>) -> Result<Finish, CliError> {
        Err(Problem::internal().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Daemon, Problem> {
        let words = line.split_whitespace().map(Into::into).collect();
        super::super::Invocation::read(words)?.as_daemon().expect("it is daemon")
    }

    #[test]
    fn without_options_everything_that_the_agent_has_is_asked_for_in_no_name() {
        let daemon = read("daemon").unwrap();
        assert!(!daemon.stdio && !daemon.rotate);
        assert_eq!((daemon.agent, daemon.recover, daemon.account), (None, None, None));
        assert_eq!(daemon.scope, Scope::everything());
    }

    #[test]
    fn what_is_recovered_may_name_its_account_behind_a_hash() {
        let account = "abcd-efgh-jkmn-pqrs-tvwx-yz01-2345-6789";
        let daemon = read(&format!("daemon --recover my-bot#{account} --stdio")).unwrap();
        assert_eq!(daemon.recover, Some("my-bot".parse().unwrap()));
        assert_eq!(daemon.account, Some(account.parse().unwrap()));
        assert!(daemon.stdio);
        assert_eq!(read("daemon --recover my-bot").unwrap().account, None);
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (line, names) in [
            ("daemon --recover a#b --account c", "account"),
            ("daemon --recover a --services b", "--recover"),
            ("daemon --agent ..", "alias"),
            ("daemon --recover a#abcd", "fingerprint"),
            ("daemon --services a,,b", "--services"),
        ] {
            let problem = read(line).unwrap_err();
            assert!(problem.detail.contains(names), "{line}: {}", problem.detail);
        }
    }
}
