//! `agentkeys serve` as it is typed. What it does is the backend's; `role.rs` calls it.
use std::path::PathBuf;

use argh::{ArgsInfo, FromArgs};
use serde_json::json;

use super::context::Context;
use super::report::{CliError, shown, usage};
use super::{Checked, Finish};
use crate::core::problem::Problem;

#[derive(FromArgs, ArgsInfo)]
#[argh(
    description = "Runs a backend in the foreground. A private one of this machine starts by \
                   itself and needs no serve; --stop ends it.",
    note = "Prints one line when it is ready, such as: listening on http://127.0.0.1:8080. \
            Addresses are HOST:PORT or unix:/PATH; port 0 lets the system choose. --dev accepts \
            any test identity, listens on loopback alone, and takes only a data folder that it \
            made itself.",
    note = "--root-key is auto, keyring, passphrase, file:PATH or credential:NAME (a service \
            manager's). Unless told, what the data folder was made with; for a new one the best \
            that there is. --dev alone may leave --data out.",
    note = "With --oidc-issuer people sign in by that OpenID Connect issuer: those whom \
            --oidc-allow names, or, without it, whoever signs in first, who owns the backend from \
            then on. A client secret, which Google wants, is handed to every client, and is no \
            secret. See docs/sign-in.md.",
    example = "agentkeys serve --listen 127.0.0.1:8080 --data /var/lib/agentkeys",
    example = "agentkeys serve --listen unix:/run/agentkeys/socket --root-key keyring",
    example = "agentkeys serve --dev --listen 127.0.0.1:0 --data dev-data",
    example = "agentkeys serve --listen 127.0.0.1:8080 --data /var/lib/agentkeys \
               --oidc-issuer https://id.example.org --oidc-client-id agentkeys \
               --oidc-allow @example.org",
    example = "agentkeys serve --stop"
)]
/// see above
pub struct ServeArgs {
    /// where to listen: HOST:PORT or unix:/PATH; may be given again
    #[argh(option, arg_name = "address")]
    listen: Vec<String>,
    /// the folder of its data
    #[argh(option, arg_name = "folder")]
    data: Option<String>,
    /// accept test identities, on loopback alone
    #[argh(switch)]
    dev: bool,
    /// who keeps the root key
    #[argh(option, arg_name = "choice")]
    root_key: Option<String>,
    /// the OpenID Connect issuer by which people sign in
    #[argh(option, arg_name = "url")]
    oidc_issuer: Option<String>,
    /// by what name the issuer knows this backend's clients
    #[argh(option, arg_name = "id")]
    oidc_client_id: Option<String>,
    /// a file with the client secret that some issuers want
    #[argh(option, arg_name = "file")]
    oidc_client_secret_file: Option<String>,
    /// who may sign in: an e-mail address or @domain; may be given again
    #[argh(option, arg_name = "entry")]
    oidc_allow: Vec<String>,
    /// read the passphrase from this file descriptor
    #[argh(option, arg_name = "number")]
    passphrase_fd: Option<String>,
    /// text or json
    #[argh(option, arg_name = "format")]
    log_format: Option<String>,
    /// end the private backend of this user
    #[argh(switch)]
    stop: bool,
}

/// How a log is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object a line.
    Json,
}

/// By whom people sign in, in the words of the options.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServeOpenId {
    /// The issuer.
    pub issuer: String,
    /// By what name it knows this backend's clients.
    pub client_id: String,
    /// Where the client secret lies.
    pub client_secret_file: Option<PathBuf>,
    /// Who may sign in.
    pub allow: Vec<String>,
}

/// The options of sign-in, which belong together.
fn openid(raw: &mut ServeArgs) -> Result<Option<ServeOpenId>, Problem> {
    let issuer = raw.oidc_issuer.take();
    let client_id = raw.oidc_client_id.take();
    let secret = raw.oidc_client_secret_file.take();
    let allow = std::mem::take(&mut raw.oidc_allow);
    let Some(issuer) = issuer else {
        if client_id.is_none() && secret.is_none() && allow.is_empty() {
            return Ok(None);
        }
        return Err(usage(
            "--oidc-issuer is missing",
            "--oidc-client-id, --oidc-client-secret-file and --oidc-allow say more about it",
            "agentkeys serve --oidc-issuer URL --oidc-client-id ID",
        ));
    };
    let Some(client_id) = client_id else {
        return Err(usage(
            "--oidc-client-id is missing",
            "the issuer of --oidc-issuer knows this backend's clients by it",
            "agentkeys serve --oidc-issuer URL --oidc-client-id ID",
        ));
    };
    if raw.dev {
        return Err(usage(
            "--dev and --oidc-issuer do not go together",
            "under --dev anybody signs in as anybody, so an issuer would keep nobody out",
            "leave --dev out; on loopback http:// needs no --dev",
        ));
    }
    let client_secret_file = secret.map(PathBuf::from);
    Ok(Some(ServeOpenId { issuer, client_id, client_secret_file, allow }))
}

/// What the backend is asked to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Serve {
    /// Where to listen; the backend knows what to do when there is nothing here.
    pub listen: Vec<String>,
    /// The folder of its data.
    pub data: Option<PathBuf>,
    /// Whether test identities are accepted.
    pub dev: bool,
    /// Who keeps the root key, in the words of the option.
    pub root_key: Option<String>,
    /// Where the passphrase is read from.
    pub passphrase_fd: Option<i32>,
    /// By whom people sign in.
    pub openid: Option<ServeOpenId>,
    /// How it logs.
    pub log_format: LogFormat,
    /// End the private one instead.
    pub stop: bool,
}

impl TryFrom<ServeArgs> for Serve {
    type Error = Problem;

    fn try_from(mut raw: ServeArgs) -> Result<Self, Problem> {
        let openid = openid(&mut raw)?;
        let others = openid.is_some()
            || !raw.listen.is_empty()
            || raw.data.is_some()
            || raw.dev
            || raw.root_key.is_some()
            || raw.passphrase_fd.is_some()
            || raw.log_format.is_some();
        if raw.stop && others {
            return Err(usage(
                "--stop stands alone",
                "it ends the private backend of this user, and serves nothing",
                "agentkeys serve --stop",
            ));
        }
        let passphrase_fd = raw
            .passphrase_fd
            .map(|text| text.parse::<i32>().ok().filter(|fd| *fd >= 0))
            .map(|fd| {
                fd.ok_or_else(|| {
                    Problem::invalid("--passphrase-fd", "wants the number of an open descriptor")
                })
            })
            .transpose()?;
        let log_format = match raw.log_format.as_deref() {
            None | Some("text") => LogFormat::Text,
            Some("json") => LogFormat::Json,
            Some(_) => return Err(Problem::invalid("--log-format", "wants text or json")),
        };
        Ok(Self {
            listen: raw.listen,
            data: raw.data.map(PathBuf::from),
            dev: raw.dev,
            root_key: raw.root_key,
            passphrase_fd,
            openid,
            log_format,
            stop: raw.stop,
        })
    }
}

impl Checked for Serve {
    type Raw = ServeArgs;

    /// Ends the private backend. Serving itself is not a client's work: the role takes it before
    /// it comes here.
    async fn run(self, context: &Context<'_>) -> Result<Finish, CliError> {
        if !self.stop {
            return Err(Problem::internal().into());
        }
        let what = context.machine.stop_private().await?;
        if context.out.json {
            context.out.object(&json!({ "stopped": what }))?;
        } else {
            context.out.say(&shown(&what));
        }
        Ok(Finish::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Serve, Problem> {
        let words = line.split_whitespace().map(Into::into).collect();
        super::super::Invocation::read(words)?.as_serve().expect("it is serve")
    }

    #[test]
    fn what_is_typed_is_what_the_backend_is_asked_for() {
        let serve = read(
            "serve --listen 127.0.0.1:0 --listen=unix:/run/x --data d --dev --passphrase-fd 3 \
             --log-format json",
        );
        assert_eq!(
            serve,
            Ok(Serve {
                listen: vec!["127.0.0.1:0".into(), "unix:/run/x".into()],
                data: Some("d".into()),
                dev: true,
                root_key: None,
                passphrase_fd: Some(3),
                openid: None,
                log_format: LogFormat::Json,
                stop: false,
            })
        );
        let serve = read(
            "serve --oidc-issuer https://id --oidc-client-id c --oidc-client-secret-file f \
             --oidc-allow @a.org --oidc-allow b@c.org",
        );
        let openid = ServeOpenId {
            issuer: "https://id".into(),
            client_id: "c".into(),
            client_secret_file: Some("f".into()),
            allow: vec!["@a.org".into(), "b@c.org".into()],
        };
        assert_eq!(serve.map(|serve| serve.openid), Ok(Some(openid)));
        assert!(read("--verbose serve --stop").is_ok_and(|serve| serve.stop));
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (line, names) in [
            ("serve --stop --dev", "--stop"),
            ("serve --passphrase-fd -1", "--passphrase-fd"),
            ("serve --passphrase-fd x", "--passphrase-fd"),
            ("serve --log-format xml", "--log-format"),
            ("serve --data a --data b", "--data"),
            ("serve --oidc-client-id c", "--oidc-issuer"),
            ("serve --oidc-client-secret-file f", "--oidc-issuer"),
            ("serve --oidc-allow @a.org", "--oidc-issuer"),
            ("serve --oidc-issuer https://id", "--oidc-client-id"),
            ("serve --dev --oidc-issuer https://id --oidc-client-id c", "--dev"),
            ("serve --stop --oidc-issuer https://id --oidc-client-id c", "--stop"),
            ("serve now", "serve"),
        ] {
            let problem = read(line).unwrap_err();
            assert!(problem.detail.contains(names), "{line}: {}", problem.detail);
        }
    }
}
