//! `agentkeys presence`: shows and sets by what the master proves to be there in person.
use argh::{ArgsInfo, FromArgs};
use ring::rand::{SecureRandom, SystemRandom};

use super::context::{Context, Open};
use super::passphrase::choose_new;
use super::report::{CliError, usage};
use super::{Checked, Finish};
use crate::core::presence::{Level, NewLevel, PassphraseKey, Presence};
use crate::core::problem::{Answer, Problem};
use crate::core::types::Salt;

#[derive(FromArgs, ArgsInfo)]
#[argh(
    description = "Shows by what you prove that you are there in person, or sets it. At level \
                   passphrase, whatever raises what someone may do wants your passphrase: \
                   approve, read and run, a wider scope, reinstate, link, fund, and lowering the \
                   level. Revoke, deny and a narrower scope never do.",
    note = "The backend checks it, counts wrong ones and slows them. It is asked for on the \
            terminal, or by the program that AGENTKEYS_ASKPASS names. After a read or run over \
            the backend's Unix socket the same terminal's reads and runs are not asked again for \
            five minutes.",
    note = "If the passphrase is lost: --reset, and three days later presence none, within a \
            week. Until then every command says that a reset was asked for, and --cancel-reset, \
            or giving the passphrase anywhere, takes it back.",
    example = "agentkeys presence",
    example = "agentkeys presence passphrase",
    example = "agentkeys presence none",
    example = "agentkeys presence --reset"
)]
/// see above
pub struct PresenceArgs {
    /// the passphrase is lost: begin to be rid of it
    #[argh(switch)]
    reset: bool,
    /// take a reset back
    #[argh(switch)]
    cancel_reset: bool,
    /// passphrase (also to change it) or none
    #[argh(positional, arg_name = "[level]")]
    words: Vec<String>,
}

/// What is to be done.
pub enum SetPresence {
    /// Show it.
    Show,
    /// Set it.
    Set(Level),
    /// Begin a reset.
    Reset,
    /// Take it back.
    CancelReset,
}

impl TryFrom<PresenceArgs> for SetPresence {
    type Error = Problem;

    fn try_from(raw: PresenceArgs) -> Result<Self, Problem> {
        let words: Vec<&str> = raw.words.iter().map(String::as_str).collect();
        match (raw.reset, raw.cancel_reset, &words[..]) {
            (false, false, []) => Ok(Self::Show),
            (false, false, ["none"]) => Ok(Self::Set(Level::None)),
            (false, false, ["passphrase"]) => Ok(Self::Set(Level::Passphrase)),
            (true, false, []) => Ok(Self::Reset),
            (false, true, []) => Ok(Self::CancelReset),
            _ => Err(usage(
                "presence takes one thing at a time",
                "a level (none or passphrase), --reset or --cancel-reset",
                "agentkeys presence passphrase",
            )),
        }
    }
}

/// Asks for a new passphrase and sets it.
///
/// # Errors
/// Nobody can be asked; those of the backend.
pub async fn set_passphrase(open: Open<'_>, address: &str) -> Answer<Presence> {
    let passphrase = choose_new(&format!("approvals and reads at {address}")).await?;
    let mut salt = Salt([0; 16]);
    SystemRandom::new().fill(&mut salt.0).map_err(|_| Problem::internal())?;
    let key = PassphraseKey::stretch(&passphrase, &salt)
        .map_err(|error| Problem::invalid("the passphrase", error.to_string()))?;
    drop(passphrase);
    let (public_key, salt) = (Some(key.public()), Some(salt));
    let new = NewLevel { level: Level::Passphrase, public_key, salt };
    open.backend.set_presence(open.token, &new).await
}

/// How it stands, for a person.
fn lines(presence: &Presence) -> Vec<String> {
    let since = presence.since.map(|at| format!(", since {}", at.for_people()));
    let mut said = vec![format!("presence level {}{}", presence.level, since.unwrap_or_default())];
    match presence.level {
        Level::None => {
            said.push(
                "  any program of your user can read keys and approve agents as you can".into(),
            );
            said.push("  to change that: agentkeys presence passphrase".into());
        }
        Level::Passphrase => {
            let wrong = presence.wrong;
            if wrong > 0 {
                said.push(format!("  wrong passphrases since the last right one: {wrong}"));
            }
            if let Some(until) = presence.slowed_until {
                said.push(format!("  none is looked at until {}", until.for_people()));
            }
            if let Some(until) = presence.open_until {
                let until = until.for_people();
                said.push(format!("  this terminal's reads and runs are not asked until {until}"));
            }
        }
    }
    if let Some(reset) = &presence.reset {
        said.push(format!("  reset asked for {} by {}", reset.asked_at.for_people(), reset.by));
        let (from, until) = (reset.from.for_people(), reset.until.for_people());
        said.push(format!("  from {from} until {until}: agentkeys presence none"));
        said.push("  if it was not you: agentkeys presence --cancel-reset".into());
    }
    said
}

impl Checked for SetPresence {
    type Raw = PresenceArgs;

    async fn run(self, context: &Context<'_>) -> Result<Finish, CliError> {
        let address = context.link().await?.address();
        let open = context.open().await?;
        let (backend, token) = (open.backend, open.token);
        let presence = match self {
            Self::Show => backend.presence(token).await?,
            Self::Set(Level::Passphrase) => set_passphrase(open, &address).await?,
            Self::Set(Level::None) => backend.set_presence(token, &NewLevel::none()).await?,
            Self::Reset => backend.ask_presence_reset(token).await?,
            Self::CancelReset => backend.cancel_presence_reset(token).await?,
        };
        if context.out.json {
            context.out.object(&presence)?;
        } else {
            for line in lines(&presence) {
                context.out.line(&super::report::shown(&line))?;
            }
        }
        Ok(Finish::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_at_a_time() {
        let read = |reset, cancel_reset, words: &[&str]| {
            let words = words.iter().map(|word| (*word).to_owned()).collect();
            SetPresence::try_from(PresenceArgs { reset, cancel_reset, words })
        };
        assert!(matches!(read(false, false, &[]), Ok(SetPresence::Show)));
        assert!(matches!(read(false, false, &["none"]), Ok(SetPresence::Set(Level::None))));
        assert!(matches!(read(true, false, &[]), Ok(SetPresence::Reset)));
        for (reset, cancel, words) in [
            (true, true, &[][..]),
            (true, false, &["none"]),
            (false, false, &["none", "passphrase"]),
            (false, false, &["touch"]),
        ] {
            assert!(read(reset, cancel, words).is_err(), "{words:?}");
        }
    }
}
