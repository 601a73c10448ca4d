//! `agentkeys run`: an agent's keys as environment variables of a program, which this process
//! then becomes, so that signals, terminal and exit code are its own.
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::process::Command;

use argh::{ArgsInfo, FromArgs};
use zeroize::Zeroizing;

use super::agents::maybe_agent;
use super::broker;
use super::context::Context;
use super::env_file::{self, Value};
use super::report::{CliError, usage};
use super::source::Source;
use super::{Checked, Finish};
use crate::core::catalog::{self, is_variable, variable_for};
use crate::core::identity::{AgentIdentity, ServiceName};
use crate::core::problem::{Code, Problem};
use crate::core::secret::SecretBytes;
use crate::core::terms::Exposure;

#[derive(FromArgs, ArgsInfo)]
#[argh(
    description = "Runs a program with an agent's keys in its environment, under the names that \
                   programs expect, such as OPENROUTER_API_KEY. The program takes this one's \
                   place: signals, terminal and exit code are its own. Our own variables and \
                   tokens are taken out of its environment.",
    note = "--env puts a service under another name instead of its usual one; give it twice for \
            two names. The other services keep theirs, unless --only is there. A line of \
            --env-file is NAME=agentkeys://service, NAME=agentkeys://agent/service, or \
            NAME=value; --env wins over it. An agent without keys runs its program all the same, \
            with a warning.",
    note = "Beside a daemon the keys are those that its agent's session may read; agentkeys read \
            --help says when a daemon is asked.",
    note = "With --broker the program gets no key, but a stand-in that is good for this run, and \
            addresses (OPENAI_BASE_URL, ANTHROPIC_BASE_URL, ...) by which its requests go through \
            the backend, which puts the keys in. With --sandbox besides, it reaches nothing else: the \
            folder that it is started in, the system's programs, and the gateway.",
    note = "--proxy is --broker for programs that read no such address: it also gives a proxy \
            (HTTPS_PROXY, ...), which answers for the hosts of the agent's services by certificates of \
            this run alone (SSL_CERT_FILE, ...). Other hosts are reached through it unseen, or, with \
            --strict or --sandbox, not at all. See docs/gateway.md.",
    note = "Exits as the program does; 126 if it cannot be executed, 127 if it is not there, 8 \
            while the daemon waits for an approval.",
    example = "agentkeys run my-agent -- printenv OPENROUTER_API_KEY",
    example = "agentkeys run my-agent -- npx some-mcp-server",
    example = "agentkeys run my-agent --env LLM_KEY=openrouter --only -- python agent.py",
    example = "agentkeys run --broker my-agent -- python agent.py",
    example = "agentkeys run --proxy my-agent -- git clone https://github.com/me/private",
    example = "agentkeys run --broker --sandbox my-agent -- python3 agent.py",
    example = "agentkeys run --env-file .env.agentkeys -- make test"
)]
/// see above
pub struct RunArgs {
    /// a service under a name of your choice; may be given again
    #[argh(option, arg_name = "NAME=service")]
    env: Vec<String>,
    /// a file of NAME=agentkeys://service lines
    #[argh(option, arg_name = "file")]
    env_file: Option<String>,
    /// ask the daemon that listens there
    #[argh(option, arg_name = "path")]
    socket: Option<String>,
    /// use the keys through the backend: the program gets none
    #[argh(switch)]
    broker: bool,
    /// the same, also by a proxy, for programs that read no address
    #[argh(switch)]
    proxy: bool,
    /// with --proxy: refuse hosts of no service
    #[argh(switch)]
    strict: bool,
    /// with --broker: shut the program into a room with its folder and the gateway
    #[argh(switch)]
    sandbox: bool,
    /// with --sandbox: a file or folder that it may read and execute; may be given again
    #[argh(option, arg_name = "path")]
    allow_read: Vec<String>,
    /// only the services that --env and --env-file name
    #[argh(switch)]
    only: bool,
    /// agent
    #[argh(positional, arg_name = "[agent]")]
    words: Vec<String>,
}

/// Whose keys a program gets, and under which names.
pub struct Run {
    socket: Option<PathBuf>,
    pub agent: Option<AgentIdentity>,
    pub named: Vec<(String, ServiceName)>,
    pub file: Option<String>,
    pub only: bool,
    broker: bool,
    /// Whether there is a proxy, and whether it refuses other hosts.
    pub proxy: Option<bool>,
    /// What may be read in the room; absent: there is no room.
    pub sandbox: Option<Vec<PathBuf>>,
}

impl Run {
    /// By the gateway, with one service, in a room where these may be read.
    pub fn in_a_room(agent: AgentIdentity, service: ServiceName, read: Vec<PathBuf>) -> Self {
        Self {
            socket: None,
            agent: Some(agent),
            named: vec![(variable_for(&service), service)],
            file: None,
            only: true,
            broker: true,
            proxy: None,
            sandbox: Some(read),
        }
    }
}

/// Whether a credential may go under a name.
pub fn settable(name: &str) -> Result<(), Problem> {
    let wrong = |why: &str| usage("a variable's name is not valid", why, "write NAME=service");
    if !is_variable(name) {
        return Err(wrong("NAME wants letters, digits and underscores, no digit first"));
    }
    if is_ours(name.as_bytes()) {
        return Err(wrong("names that begin with AGENTKEYS_ are our own, and are taken out"));
    }
    Ok(())
}

fn named(text: &str) -> Result<(String, ServiceName), Problem> {
    let (name, service) = text.split_once('=').ok_or_else(|| {
        usage("--env is not valid", "there is no = in it", "write --env NAME=service")
    })?;
    settable(name)?;
    Ok((name.to_owned(), service.parse()?))
}

impl TryFrom<RunArgs> for Run {
    type Error = Problem;

    fn try_from(raw: RunArgs) -> Result<Self, Problem> {
        let words = &raw.words;
        if words.len() > 1 {
            return Err(usage(
                "run wants -- before the program",
                "what stands before -- is the agent, what stands behind it the program",
                "agentkeys run my-agent -- printenv OPENROUTER_API_KEY",
            ));
        }
        let agent = maybe_agent("run", words)?;
        let named = raw.env.iter().map(|text| named(text)).collect::<Result<_, _>>()?;
        let socket = raw.socket.map(PathBuf::from);
        let broker = raw.broker || raw.proxy;
        if broker && socket.is_some() {
            return Err(usage(
                "--broker and --proxy do not go with --socket",
                "a daemon does not hand requests on yet: --broker asks the backend itself",
                "agentkeys run --broker my-agent -- python agent.py",
            ));
        }
        if raw.strict && !raw.proxy {
            return Err(usage(
                "--strict goes with --proxy",
                "it has the proxy refuse hosts of no service, and here there is no proxy",
                "agentkeys run --proxy --strict my-agent -- python agent.py",
            ));
        }
        if raw.sandbox && !broker {
            return Err(usage(
                "--sandbox goes with --broker or --proxy",
                "in the room a program reaches the gateway and nothing else",
                "agentkeys run --broker --sandbox my-agent -- python agent.py",
            ));
        }
        if !raw.sandbox && !raw.allow_read.is_empty() {
            return Err(usage(
                "--allow-read goes with --sandbox",
                "without a room a program reads what you can read",
                "agentkeys run --broker --sandbox --allow-read PATH my-agent -- ...",
            ));
        }
        let sandbox = raw.sandbox.then(|| raw.allow_read.into_iter().map(PathBuf::from).collect());
        let (only, proxy) = (raw.only, raw.proxy.then_some(raw.strict));
        Ok(Self { socket, agent, named, file: raw.env_file, only, broker, proxy, sandbox })
    }
}

/// What each variable holds. The values are wiped when this is dropped.
type Variables = BTreeMap<String, SecretBytes>;

fn is_ours(name: &[u8]) -> bool {
    name.starts_with(b"AGENTKEYS_")
}

/// Whether a value holds one of our tokens (`agk[mcorp]_` and 72 hex digits).
fn holds_token(value: &[u8]) -> bool {
    value.windows(5 + 72).any(|window| {
        window.starts_with(b"agk")
            && b"mcorp".contains(&window[3])
            && window[4] == b'_'
            && window[5..].iter().all(u8::is_ascii_hexdigit)
    })
}

/// The names to be taken out of the program's environment.
fn taken_out(environment: impl Iterator<Item = (OsString, OsString)>) -> Vec<OsString> {
    environment
        .map(|(name, value)| (name, Zeroizing::new(value.into_vec())))
        .filter(|(name, value)| is_ours(name.as_bytes()) || holds_token(value))
        .map(|(name, _)| name)
        .collect()
}

/// Services and the names they go under: their usual one, the project's, then the file's, then
/// `--env`'s. Whoever names a service replaces all that was said before.
pub fn names_of(
    layers: &[Vec<(String, ServiceName)>],
    services: &[ServiceName],
    only: bool,
) -> Vec<(String, ServiceName)> {
    let mut names: BTreeMap<&ServiceName, Vec<String>> = BTreeMap::new();
    if !only {
        for service in services {
            names.insert(service, vec![variable_for(service)]);
        }
    }
    for layer in layers {
        let mut fresh: BTreeMap<&ServiceName, Vec<String>> = BTreeMap::new();
        for (name, service) in layer {
            fresh.entry(service).or_default().push(name.clone());
        }
        names.append(&mut fresh);
    }
    let mut out = Vec::new();
    for (service, variables) in names {
        out.extend(variables.into_iter().map(|name| (name, service.clone())));
    }
    out
}

pub fn read_env_file(path: &str) -> Result<Vec<(String, Value)>, Problem> {
    use std::io::Read as _;
    let unreadable = |why: String| {
        let shown = super::report::shown(path);
        let detail = format!("the environment file {shown} could not be read");
        usage(detail, why, "name a text file that you can read")
    };
    let mut text = Zeroizing::new(String::new());
    let file = std::fs::File::open(path).map_err(|error| unreadable(error.to_string()))?;
    file.take(env_file::MAX_FILE + 1)
        .read_to_string(&mut text)
        .map_err(|error| unreadable(error.to_string()))?;
    if text.len() as u64 > env_file::MAX_FILE {
        return Err(unreadable(format!("it has more than {} bytes", env_file::MAX_FILE)));
    }
    env_file::parse(&text)
}

impl Run {
    /// Fetches what the program is to have.
    async fn variables(
        self,
        context: &Context<'_>,
    ) -> Result<(AgentIdentity, Variables), CliError> {
        let Self { socket, agent, named, file, only, broker: _, proxy: _, sandbox: _ } = self;
        let source = Source::open(context, socket, agent).await?;
        let project = source.defaults(context).await?;
        for (name, _) in &project.variables {
            settable(name)?;
        }
        let mut variables = Variables::new();
        let mut from_file = Vec::new();
        let mut others = Vec::new();
        for (name, value) in file.as_deref().map(read_env_file).transpose()?.unwrap_or_default() {
            settable(&name)?;
            match value {
                Value::Literal(text) => {
                    variables.insert(name, SecretBytes::new(text.as_bytes().to_vec()));
                }
                Value::Credential(None, service) => from_file.push((name, service)),
                Value::Credential(Some(other), service) => others.push((name, other, service)),
            }
        }

        let mut held: BTreeMap<ServiceName, SecretBytes> = BTreeMap::new();
        if !only {
            for release in source.read_all(context).await? {
                held.insert(release.service, release.credential);
            }
        }
        let services: Vec<ServiceName> = held.keys().cloned().collect();
        let mut kept_back = false;
        if !only {
            let (agent, all) = source.list(context).await?;
            let kept = all.iter().filter(|one| one.terms.exposure() < Exposure::Inject);
            for service in kept.map(|one| &one.service) {
                kept_back = true;
                context.out.warn(&format!(
                    "{service} is used by the gateway only, so the program does not get it: \
                     agentkeys run --broker {agent} -- ..."
                ));
            }
        }
        let from_project = if only { Vec::new() } else { project.variables };
        let wanted = names_of(&[from_project, from_file, named], &services, only);
        for (name, service) in wanted {
            if !held.contains_key(&service) {
                // The backend says why it is not among them, and puts the attempt on record.
                let key = source.inject(context, None, &service).await?;
                held.insert(service.clone(), key);
            }
            let key = held.get(&service).ok_or_else(Problem::internal)?;
            insert(&mut variables, name, &service, key)?;
        }
        for (name, other, service) in others {
            let key = source.inject(context, Some(&other), &service).await?;
            insert(&mut variables, name, &service, &key)?;
        }
        let agent = source.agent().await?;
        for service in &project.services {
            if !only && !held.contains_key(service) {
                context.out.warn(&format!(
                    "this project uses {service}, which {agent} does not have; \
                     agentkeys store {agent} {service}"
                ));
            }
        }
        if held.is_empty() && variables.is_empty() && !kept_back {
            context.out.warn(&format!(
                "{agent} has no keys; the program runs without any. \
                 Give it one: agentkeys store {agent} openrouter"
            ));
        }
        Ok((agent, variables))
    }
}

/// The parts of a key that is a JSON object, under the names that programs expect of them;
/// `None` for a key that is one.
fn parts(service: &ServiceName, key: &SecretBytes) -> Option<Variables> {
    let members = &catalog::find(service)?.members;
    let parsed: BTreeMap<String, Zeroizing<String>> = match members.is_empty() {
        true => return None,
        // The plaintext is taken apart, and goes into the environment that was asked for.
        false => object(key.expose())?,
    };
    let mut parts = Variables::new();
    for (member, variable) in members {
        let value = parsed.get(member)?;
        parts.insert(variable.clone(), SecretBytes::new(value.as_bytes().to_vec()));
    }
    Some(parts)
}

/// The members of a JSON object that are text; their values are wiped.
fn object(bytes: &[u8]) -> Option<BTreeMap<String, Zeroizing<String>>> {
    let members: BTreeMap<String, serde_json::Value> = serde_json::from_slice(bytes).ok()?;
    let text = |(name, value)| match value {
        serde_json::Value::String(text) if !text.contains('\0') => {
            Some((name, Zeroizing::new(text)))
        }
        _ => None,
    };
    Some(members.into_iter().filter_map(text).collect())
}

/// Puts a key under a name; one of several parts under theirs, unless a name was chosen for it.
fn insert(
    variables: &mut Variables,
    name: String,
    service: &ServiceName,
    key: &SecretBytes,
) -> Result<(), Problem> {
    if name == variable_for(service)
        && let Some(mut parts) = parts(service, key)
    {
        variables.append(&mut parts);
        return Ok(());
    }
    // The plaintext goes into the environment of the program that was asked for.
    let bytes = key.expose();
    if bytes.contains(&0) {
        return Err(Problem::new(
            Code::Invalid,
            format!("the {service} key cannot be an environment variable"),
            "it holds a NUL byte",
            format!("store it encoded, or read it as it is: agentkeys read <agent> {service}"),
        ));
    }
    variables.insert(name, SecretBytes::new(bytes.to_vec()));
    Ok(())
}

impl Checked for Run {
    type Raw = RunArgs;

    async fn run(self, context: &Context<'_>) -> Result<Finish, CliError> {
        let program = match context.tail.as_deref() {
            Some([program, arguments @ ..]) if !program.is_empty() => (program, arguments),
            _ => {
                return Err(usage(
                    "run wants a program",
                    "nothing stands behind --",
                    "agentkeys run my-agent -- printenv OPENROUTER_API_KEY",
                )
                .into());
            }
        };
        let mut command = Command::new(program.0);
        command.args(program.1);
        for name in taken_out(std::env::vars_os()) {
            command.env_remove(name);
        }
        if self.broker {
            return broker::run(context, self, command).await;
        }
        let (agent, variables) = self.variables(context).await?;
        for (name, value) in &variables {
            command.env(name, OsStr::from_bytes(value.expose()));
        }
        let names: Vec<&str> = variables.keys().map(String::as_str).collect();
        context.verbose(&format!("runs as {agent} with {}", names.join(", ")));
        Ok(Finish::Exec(Box::new(command)))
    }
}

/// The problem of a program that could not be started, with the exit code that `env` has for it.
pub fn not_started(program: &OsStr, error: &std::io::Error) -> CliError {
    let (code, kind, fix) = if error.kind() == std::io::ErrorKind::NotFound {
        let fix = "check its spelling and that its folder is in PATH, or name it by its whole path";
        (127, Code::NotFound, fix)
    } else {
        (126, Code::Invalid, "make it executable, or run it by its interpreter")
    };
    let mut problem = Problem::new(
        kind,
        format!("cannot run \"{}\"", program.to_string_lossy()),
        error.to_string(),
        fix,
    );
    problem.docs = "docs/errors.md#run".to_owned();
    CliError::Exit { problem, code }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str) -> ServiceName {
        name.parse().unwrap()
    }

    fn pair(name: &str, of: &str) -> (String, ServiceName) {
        (name.to_owned(), service(of))
    }

    #[test]
    fn our_variables_and_tokens_never_reach_the_program() {
        let token = crate::core::token::SessionToken::master(&[7; 32]);
        let environment = [
            ("PATH", "/bin"),
            ("AGENTKEYS_BACKEND", "unix:/x"),
            ("AGENTKEYS_", ""),
            ("MY_TOKEN", token.expose()),
            ("HEADER", &format!("Bearer {}", token.expose())),
            ("AGK", "agkm_0123"),
        ];
        let environment = environment.map(|(name, value)| (name.into(), value.into()));
        let out = taken_out(environment.into_iter());
        assert_eq!(out, ["AGENTKEYS_BACKEND", "AGENTKEYS_", "MY_TOKEN", "HEADER"]);
    }

    #[test]
    fn a_key_of_several_parts_goes_under_the_names_of_the_parts() {
        let aws = service("aws");
        let put = |name: &str, key: &str| {
            let mut variables = Variables::new();
            let key = SecretBytes::new(key.as_bytes().to_vec());
            insert(&mut variables, name.to_owned(), &aws, &key).unwrap();
            let text = |value: SecretBytes| String::from_utf8_lossy(value.expose()).into_owned();
            variables.into_iter().map(|(name, value)| (name, text(value))).collect::<Vec<_>>()
        };
        let usual = variable_for(&aws);
        let key = r#"{"Version":1,"AccessKeyId":"ASIA","SecretAccessKey":"s","SessionToken":"t"}"#;
        let owned = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let parts = [
            owned("AWS_ACCESS_KEY_ID", "ASIA"),
            owned("AWS_SECRET_ACCESS_KEY", "s"),
            owned("AWS_SESSION_TOKEN", "t"),
        ];
        assert_eq!(put(&usual, key), parts);
        // Whole under a name that was chosen, and where it is no such object.
        assert_eq!(put("MINE", key), [owned("MINE", key)]);
        for other in ["plain", "{}", r#"{"AccessKeyId":"a","SecretAccessKey":"b\u0000"}"#] {
            assert_eq!(put(&usual, other), [owned(&usual, other)]);
        }
    }

    #[test]
    fn a_name_that_is_chosen_replaces_the_usual_one() {
        let services = [service("github"), service("openrouter")];
        let usual = names_of(&[], &services, false);
        assert_eq!(
            usual,
            [pair("GITHUB_TOKEN", "github"), pair("OPENROUTER_API_KEY", "openrouter")]
        );
        let project = vec![pair("KEY", "openrouter")];
        let flags = vec![pair("A", "openrouter"), pair("B", "openrouter")];
        assert_eq!(
            names_of(&[project.clone(), vec![], flags.clone()], &services, false),
            [pair("GITHUB_TOKEN", "github"), pair("A", "openrouter"), pair("B", "openrouter")]
        );
        assert_eq!(
            names_of(&[vec![], vec![], flags], &services, true),
            [pair("A", "openrouter"), pair("B", "openrouter")]
        );
        assert_eq!(
            names_of(&[project], &services, false),
            [pair("GITHUB_TOKEN", "github"), pair("KEY", "openrouter")]
        );
    }

    #[test]
    fn a_name_that_no_shell_can_set_is_refused() {
        for bad in ["openrouter", "1A=openrouter", "A-B=openrouter", "A=", "AGENTKEYS_X=openrouter"]
        {
            assert!(named(bad).is_err(), "{bad}");
        }
        assert_eq!(named("A=OpenRouter").unwrap(), pair("A", "openrouter"));
    }

    #[test]
    fn a_key_with_a_nul_byte_is_refused_by_its_service() {
        let mut variables = Variables::new();
        let key = SecretBytes::new(b"a\0secret".to_vec());
        let problem = insert(&mut variables, "A".into(), &service("pem"), &key).unwrap_err();
        assert!(problem.detail.contains("pem") && !format!("{problem:?}").contains("secret"));
    }

    #[test]
    fn what_cannot_be_started_has_the_exit_code_of_env() {
        let code = |kind| not_started(OsStr::new("x"), &std::io::Error::from(kind)).exit_code();
        assert_eq!(code(std::io::ErrorKind::NotFound), 127);
        assert_eq!(code(std::io::ErrorKind::PermissionDenied), 126);
        assert_eq!(code(std::io::ErrorKind::IsADirectory), 126);
    }
}
