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
            Addresses are ADDRESS:PORT or unix:/PATH; port 0 lets the system choose; systemd \
            stands for the sockets that a service manager holds for this process. --dev \
            accepts any test identity, listens on loopback alone, and takes only a data folder \
            that it made itself.",
    note = "Other machines need TLS: --tls-cert and --tls-key, whose files are looked at again \
            each minute and on SIGHUP; or --tls-self-signed, whose fingerprint is printed: \
            clients take https://HOST:PORT#sha256:... With a certificate, ADDRESS:PORT speaks \
            TLS, and http://127.0.0.1:PORT is plain, for this machine alone.",
    note = "--root-key is auto, keyring, passphrase, file:PATH or credential:NAME (a service \
            manager's). Unless told, what the data folder was made with; for a new one the best \
            that there is. --dev alone may leave --data out.",
    note = "With --oidc-issuer people sign in by that OpenID Connect issuer: those whom \
            --oidc-allow names, or, without it, whoever signs in first, who owns the backend from \
            then on. A client secret, which Google wants, is handed to every client, and is no \
            secret. See docs/sign-in.md.",
    note = "--service says where the gateway finds a service: one that it does not know, or one of \
            the catalog's in another place. An address that is private is asked only so. Behind a \
            comma stands how its key is sent, unless that is as a bearer token: basic=USER, \
            header=NAME, query=NAME, oauth=TOKEN-URL and more, which docs/gateway.md lists.",
    note = "Keys are made at services' own addresses (agentkeys provisioner set --way api). Only \
            the user who runs the backend may have it ask another one; all others, those that \
            --provider-url names.",
    example = "agentkeys serve --listen 127.0.0.1:8080 --data /var/lib/agentkeys",
    example = "agentkeys serve --listen unix:/run/agentkeys/socket --root-key keyring",
    example = "agentkeys serve --listen [::]:443 --tls-cert c.pem --tls-key k.pem --data D",
    example = "agentkeys serve --listen 0.0.0.0:8443 --tls-self-signed --data D",
    example = "agentkeys serve --dev --listen 127.0.0.1:0 --data dev-data",
    example = "agentkeys serve --stop"
)]
/// see above
pub struct ServeArgs {
    /// where to listen: ADDRESS:PORT, unix:/PATH or systemd; may be given again
    #[argh(option, arg_name = "address")]
    listen: Vec<String>,
    /// the certificate for TLS, and those that lead to its root, in PEM
    #[argh(option, arg_name = "file")]
    tls_cert: Option<String>,
    /// the certificate's key, in PEM, readable by this user alone
    #[argh(option, arg_name = "file")]
    tls_key: Option<String>,
    /// TLS by a certificate that the backend makes; clients pin it
    #[argh(switch)]
    tls_self_signed: bool,
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
    /// another address that a service may be asked at; may be given again
    #[argh(option, arg_name = "url")]
    provider_url: Vec<String>,
    /// where a service is that agents use by the gateway; may be given again
    #[argh(option, arg_name = "name=url[,how]")]
    service: Vec<String>,
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

/// A service and its address.
fn named(text: &str) -> Result<(String, String), Problem> {
    let (name, url) = text.split_once('=').ok_or_else(|| {
        usage(
            "--service is not valid",
            "there is no = in it",
            "agentkeys serve --service my-api=https://api.example.org",
        )
    })?;
    Ok((name.to_owned(), url.to_owned()))
}

/// Where a certificate comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Tls {
    /// From these files.
    Files {
        /// The certificate and its chain.
        certificate: PathBuf,
        /// Its key.
        key: PathBuf,
    },
    /// The backend makes it.
    SelfSigned,
}

/// What the backend is asked to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Serve {
    /// Where to listen; the backend knows what to do when there is nothing here.
    pub listen: Vec<String>,
    /// Where the certificate for TLS comes from.
    pub tls: Option<Tls>,
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
    /// Other addresses that services may be asked at.
    pub provider_urls: Vec<String>,
    /// Where services are, by name and URL.
    pub services: Vec<(String, String)>,
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
            || raw.tls_cert.is_some()
            || raw.tls_key.is_some()
            || raw.tls_self_signed
            || raw.data.is_some()
            || raw.dev
            || raw.root_key.is_some()
            || raw.passphrase_fd.is_some()
            || !raw.provider_url.is_empty()
            || !raw.service.is_empty()
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
        let example = "agentkeys serve --listen 0.0.0.0:443 --tls-cert chain.pem --tls-key \
                       key.pem --data FOLDER";
        let tls = match (raw.tls_cert, raw.tls_key, raw.tls_self_signed) {
            (None, None, false) => None,
            (None, None, true) => Some(Tls::SelfSigned),
            (Some(certificate), Some(key), false) => {
                Some(Tls::Files { certificate: certificate.into(), key: key.into() })
            }
            (_, _, true) => {
                let why = "the backend shows one certificate: that of files, or its own";
                return Err(usage("--tls-self-signed stands without --tls-cert", why, example));
            }
            (_, _, false) => {
                let why = "a certificate is of no use without its key, nor a key without it";
                return Err(usage("--tls-cert and --tls-key go together", why, example));
            }
        };
        Ok(Self {
            listen: raw.listen,
            tls,
            data: raw.data.map(PathBuf::from),
            dev: raw.dev,
            root_key: raw.root_key,
            passphrase_fd,
            openid,
            provider_urls: raw.provider_url,
            services: raw.service.iter().map(|text| named(text)).collect::<Result<_, _>>()?,
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
                tls: None,
                data: Some("d".into()),
                dev: true,
                root_key: None,
                passphrase_fd: Some(3),
                openid: None,
                provider_urls: Vec::new(),
                services: Vec::new(),
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
        let tls = |line: &str| read(line).unwrap().tls;
        assert_eq!(tls("serve --tls-self-signed"), Some(Tls::SelfSigned));
        let files = Tls::Files { certificate: "c".into(), key: "k".into() };
        assert_eq!(tls("serve --tls-cert c --tls-key k"), Some(files));
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (line, names) in [
            ("serve --stop --dev", "--stop"),
            ("serve --passphrase-fd -1", "--passphrase-fd"),
            ("serve --passphrase-fd x", "--passphrase-fd"),
            ("serve --log-format xml", "--log-format"),
            ("serve --stop --tls-self-signed", "--stop"),
            ("serve --tls-cert c", "--tls-key"),
            ("serve --tls-key k", "--tls-cert"),
            ("serve --tls-self-signed --tls-cert c --tls-key k", "--tls-self-signed"),
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
