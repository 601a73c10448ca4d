//! `agentkeys init`: makes the master session.
use argh::{ArgsInfo, FromArgs};
use serde_json::json;
use zeroize::Zeroizing;

use super::ask;
use super::context::{Context, Open};
use super::presence;
use super::report::{CliError, usage};
use super::session::SessionPlace;
use super::{Checked, Finish};
use crate::core::backend::IdentityProof;
use crate::core::pin::Fingerprint;
use crate::core::presence::Level;
use crate::core::problem::Problem;
use crate::core::secret::SecretBytes;

#[derive(FromArgs, ArgsInfo)]
#[argh(
    description = "Signs you in as the master: the private backend of this machine knows you by \
                   your Unix user, and is started if it does not run. Safe to run again.",
    note = "The account's line is its fingerprint: a daemon that is started with --account and it \
            takes an answer from no other account.",
    note = "--mock-token is accepted by a backend that was started with --dev, and by no other.",
    example = "agentkeys init",
    example = "agentkeys init --backend http://127.0.0.1:8080 --mock-token alice"
)]
/// see above
pub struct InitArgs {
    /// a test identity, for a backend under --dev
    #[argh(option, arg_name = "identity")]
    mock_token: Option<String>,
}

/// By what one signs in.
pub struct Init(Option<Zeroizing<String>>);

impl TryFrom<InitArgs> for Init {
    type Error = Problem;

    fn try_from(raw: InitArgs) -> Result<Self, Problem> {
        Ok(Self(raw.mock_token.map(Zeroizing::new)))
    }
}

/// Where a session is kept, in words.
pub fn place(place: &SessionPlace) -> String {
    match place {
        SessionPlace::Keyring => "the keyring".to_owned(),
        SessionPlace::File(path) => path.display().to_string(),
    }
}

/// Offers a passphrase where there is none, to a person who sits at the terminal.
async fn offer_passphrase(
    context: &Context<'_>,
    open: Open<'_>,
    level: &str,
) -> Result<(), CliError> {
    if level != Level::None.as_str() || !ask::is_terminal() {
        return Ok(());
    }
    let out = &context.out;
    out.say("");
    out.say("Any program that runs as you, an agent's too, could now read your keys and approve");
    out.say("requests as you can. With a passphrase, the backend asks for it before that.");
    if !ask::whether("Set a passphrase now?")? {
        out.say("none is set; later: agentkeys presence passphrase");
        return Ok(());
    }
    let address = context.link().await?.address();
    presence::set_passphrase(open, &address).await?;
    out.say("presence level passphrase from now on; agentkeys presence shows and changes it");
    Ok(())
}

impl Checked for Init {
    type Raw = InitArgs;

    async fn run(self, context: &Context<'_>) -> Result<Finish, CliError> {
        let link = context.link().await?;
        let proof = match self.0 {
            Some(token) => IdentityProof::Token(SecretBytes::new(token.as_bytes().to_vec())),
            None if link.address().starts_with("unix:") => IdentityProof::Peer,
            None => {
                return Err(usage(
                    "this backend cannot tell who you are by itself",
                    format!("{} is not reached over a Unix socket", link.address()),
                    "under serve --dev: agentkeys init --mock-token NAME\n\
                     or use the private backend of this machine: leave --backend out",
                )
                .into());
            }
        };
        link.sign_in(proof).await?;
        let open = context.open().await?;
        let me = open.backend.who_am_i(open.token).await?;
        let kept = place(&link.session_place());
        let fingerprint = Fingerprint::of(me.account, &me.master_key);
        if context.out.json {
            context.out.object(&json!({
                "account": me.account,
                "wallet": me.wallet,
                "identity": me.identity,
                "session_id": me.session_id,
                "expires_at": me.expires_at,
                "presence": me.presence,
                "master_key": me.master_key,
                "fingerprint": fingerprint,
                "backend": link.address(),
                "session_place": kept,
            }))?;
        } else {
            let out = &context.out;
            out.say(&format!("signed in as {}", super::report::shown(&me.identity)));
            out.say(&format!("  wallet      {}", me.wallet));
            out.say(&format!("  account     {fingerprint}"));
            out.say(&format!("  backend     {}", super::report::shown(&link.address())));
            out.say(&format!("  session     in {}", super::report::shown(&kept)));
            out.say(&format!("  presence    {}", super::report::shown(&me.presence)));
            offer_passphrase(context, open, &me.presence).await?;
            out.say("next: agentkeys store my-agent openrouter");
        }
        Ok(Finish::Done)
    }
}
