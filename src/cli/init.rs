//! `agentkeys init`: makes the master session.
use argh::{ArgsInfo, FromArgs};
use serde_json::json;
use zeroize::Zeroizing;

use super::ask;
use super::context::{Context, Open};
use super::presence;
use super::report::{CliError, shown, usage};
use super::session::{Link, SessionPlace};
use super::{Checked, Finish};
use crate::core::backend::IdentityProof;
use crate::core::pin::Fingerprint;
use crate::core::presence::Level;
use crate::core::problem::{Answer, Code, Problem};
use crate::core::secret::SecretBytes;
use crate::core::sign_in::{Flow, SignInNews};

#[derive(FromArgs, ArgsInfo)]
#[argh(
    description = "Signs you in as the master: the private backend of this machine knows you by \
                   your Unix user, and is started if it does not run; a backend elsewhere by the \
                   issuer that it names, in your browser. Safe to run again.",
    note = "The account's line is its fingerprint: a daemon that is started with --account and it \
            takes an answer from no other account.",
    note = "--mock-token is accepted by a backend that was started with --dev, and by no other.",
    note = "--device shows a code to type at the issuer on any device, for machines without a \
            browser. Never type a code that somebody else gave you.",
    example = "agentkeys init",
    example = "agentkeys init --backend https://keys.example.org",
    example = "agentkeys init --backend https://keys.example.org --device",
    example = "agentkeys init --backend http://127.0.0.1:8080 --mock-token alice"
)]
/// see above
pub struct InitArgs {
    /// a test identity, for a backend under --dev
    #[argh(option, arg_name = "identity")]
    mock_token: Option<String>,
    /// sign in by a code that is typed on any device
    #[argh(switch)]
    device: bool,
}

/// By what one signs in.
pub enum Init {
    /// By what fits the backend: the Unix user, or the issuer in a browser.
    AsFits,
    /// By the issuer, on any device.
    Device,
    /// By a test identity.
    Mock(Zeroizing<String>),
}

impl TryFrom<InitArgs> for Init {
    type Error = Problem;

    fn try_from(raw: InitArgs) -> Result<Self, Problem> {
        match (raw.mock_token, raw.device) {
            (None, false) => Ok(Self::AsFits),
            (None, true) => Ok(Self::Device),
            (Some(token), false) => Ok(Self::Mock(Zeroizing::new(token))),
            (Some(_), true) => Err(usage(
                "--mock-token and --device do not go together",
                "a test identity asks no issuer",
                "leave one of them out",
            )),
        }
    }
}

/// Where a session is kept, in words.
pub fn place(place: &SessionPlace) -> String {
    match place {
        SessionPlace::Keyring => "the keyring".to_owned(),
        SessionPlace::File(path) => path.display().to_string(),
    }
}

impl Init {
    async fn sign_in(self, link: &dyn Link, context: &Context<'_>) -> Answer<SignInNews> {
        let flow = match self {
            Self::Mock(token) => {
                let token = SecretBytes::new(token.as_bytes().to_vec());
                return link
                    .sign_in(IdentityProof::Token(token))
                    .await
                    .map(|()| SignInNews::default());
            }
            Self::Device if link.address().starts_with("unix:") => {
                return Err(usage(
                    "the backend that is meant asks no issuer",
                    format!(
                        "it is {}, by {}, and knows you by your Unix user",
                        link.address(),
                        link.chosen_by()
                    ),
                    "for one elsewhere: agentkeys init --device --backend https://HOST\n\
                     or export AGENTKEYS_BACKEND=https://HOST first\n\
                     for this one: agentkeys init",
                ));
            }
            Self::AsFits if link.address().starts_with("unix:") => {
                return link.sign_in(IdentityProof::Peer).await.map(|()| SignInNews::default());
            }
            Self::AsFits => Flow::Code,
            Self::Device => Flow::Device,
        };
        // To standard error: with --json, standard output is the result's alone.
        let tell = |line: &str| context.out.say(&shown(line));
        let answer = link.sign_in_by_issuer(flow, &tell).await;
        answer.map_err(|mut problem| {
            if problem.code == Code::NotFound {
                problem.fix.push_str("\nunder serve --dev: agentkeys init --mock-token NAME");
            }
            problem
        })
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
        let news = self.sign_in(link, context).await?;
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
                "email": news.email,
                "owns_now": news.owns_now,
            }))?;
        } else {
            let out = &context.out;
            out.say(&format!("signed in as {}", shown(&me.identity)));
            if let Some(email) = &news.email {
                out.say(&format!(
                    "  e-mail      {} (a label; you are known by the line above)",
                    shown(email)
                ));
            }
            out.say(&format!("  wallet      {}", me.wallet));
            out.say(&format!("  account     {fingerprint}"));
            out.say(&format!("  backend     {}", shown(&link.address())));
            out.say(&format!("  session     in {}", shown(&kept)));
            out.say(&format!("  presence    {}", shown(&me.presence)));
            if news.owns_now {
                out.say("this backend belonged to nobody: from now on it is yours, and lets no others in");
            }
            offer_passphrase(context, open, &me.presence).await?;
            out.say("next: agentkeys store my-agent openrouter");
        }
        Ok(Finish::Done)
    }
}
