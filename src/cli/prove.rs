//! `agentkeys doctor --prove`: both sides of a closed room. A program of ours is started in it, as
//! `run --broker --sandbox` starts one: from outside its key is looked for in it; it tries to get out,
//! by ways that are first seen to work without the room; and it asks the service by the gateway.
//!
//! Must never give the program a key: where it is read in order to be looked for, that is after the
//! program was started, and on this side alone.
use std::io::{self, BufRead as _, BufReader, PipeReader, PipeWriter, Write as _};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde::Serialize;
use serde_json::json;

use super::Finish;
use super::broker;
use super::context::Context;
use super::look_for::{self, Forms};
use super::probe::{self, Answered, Ask, Bait, Found, Plan, Tried};
use super::report::{CliError, shown};
use super::room::Temporary;
use super::run::Run;
use super::source::Source;
use crate::client::places::Places;
use crate::core::catalog::{Sent, bases_for, variable_for};
use crate::core::gateway::ServicePlace;
use crate::core::identity::{AgentIdentity, ServiceName};
use crate::core::problem::{Answer, Code, Problem};
use crate::core::secret::SecretBytes;

/// What is to be proven.
pub struct Prove {
    /// Whose programs.
    pub agent: AgentIdentity,
    /// By which of its services.
    pub service: Option<ServiceName>,
    /// Which path is asked.
    pub path: Option<String>,
}

/// One thing, and whether it holds.
#[derive(Serialize)]
struct Line {
    name: &'static str,
    holds: bool,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

impl Line {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, holds: true, found: found.into(), fix: None }
    }

    fn not(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, holds: false, found: found.into(), fix: Some(fix.into()) }
    }
}

/// Whether it can be a request's path.
pub fn is_path(text: &str) -> bool {
    text.starts_with('/') && text.bytes().all(|c| c.is_ascii_graphic())
}

impl Prove {
    /// Shows it, line by line.
    ///
    /// # Errors
    /// Those of the backend; that there is no room here, or that the program cannot be started.
    pub async fn run(self, context: &Context<'_>) -> Result<Finish, CliError> {
        let Self { agent, service, path } = self;
        let open = context.open().await?;
        let places = context.link().await?.gateway().gateway_places(open.token, &agent).await?;
        let ServicePlace { service, sent, .. } = chosen(places, service, &agent)?;
        let program = std::env::current_exe().map_err(|error| not_started(&error))?;
        let things = Things::make(&program)?;
        let base = bases_for(&service).into_iter().next().ok_or_else(Problem::internal)?;
        let key = variable_for(&service);
        let asked =
            path.clone().unwrap_or_else(|| if base.1.is_empty() { "/".into() } else { base.1 });
        let ask = Ask { base: base.0, key: key.clone(), service: service.clone(), path, sent };

        let bait = Some(things.bait.clone());
        let plan = Plan { bait: bait.clone(), ask: None };
        let (outside, mut outsider) = outside(&program, &plan)?;
        drop(outsider.stdin.take());
        let _ = outsider.wait();

        let (from_us, to_it) = io::pipe().map_err(|error| not_started(&error))?;
        let (from_it, to_us) = io::pipe().map_err(|error| not_started(&error))?;
        let mut command = Command::new(&program);
        command.args(["doctor", probe::WORD]).stdin(from_us).stdout(to_us);
        let run = Run::in_a_room(agent.clone(), service.clone(), vec![program]);
        let plan = Plan { bait, ask: Some(ask) };
        let looking = async {
            let Some((found, _holds_it)) = converse(plan, to_it, from_it).await else {
                return Ok(None);
            };
            let key = key_of(context, &agent, &service).await?;
            let (pid, temporary) = (found.pid, found.temporary.clone());
            let stand_in = found.stand_in.clone();
            let looked = tokio::task::spawn_blocking(move || look(key, stand_in, pid, temporary));
            let lines = looked.await.map_err(|_| Problem::internal())?;
            Ok::<_, CliError>(Some((found, lines)))
        };
        let (ended, looked) = tokio::join!(broker::run(context, run, command), looking);
        ended?;
        let Some((inside, mut lines)) = looked? else {
            return Err(not_started(&io::ErrorKind::UnexpectedEof.into()).into());
        };
        lines.insert(0, stand_in(&key, inside.stand_in.as_deref()));
        lines.extend(ways(&outside.tried, &inside.tried));
        lines.push(answer(&format!("GET {asked} of {service}"), inside.answered));
        tell(context, &agent, &service, &lines)
    }
}

/// The service by which it is shown.
fn chosen(
    mut places: Vec<ServicePlace>,
    wanted: Option<ServiceName>,
    agent: &AgentIdentity,
) -> Answer<ServicePlace> {
    let askable =
        |place: &ServicePlace| !place.hosts.is_empty() && !matches!(place.sent, Sent::Signed(_));
    let none = |detail: String, cause: &str, fix: String| {
        Err(Problem::new(Code::NotFound, detail, cause, fix))
    };
    match &wanted {
        Some(service) => places.retain(|place| place.service == *service),
        None => places.retain(askable),
    }
    match (places.into_iter().next(), wanted) {
        (Some(place), _) if askable(&place) => Ok(place),
        (Some(place), _) => none(
            format!("{} cannot be asked by the gateway", place.service),
            "nobody knows its host, or its requests are signed",
            "agentkeys doctor --prove AGENT --service ANOTHER".to_owned(),
        ),
        (None, Some(service)) => none(
            format!("{agent} has no key of {service}"),
            "it was not given one",
            format!("agentkeys store {agent} {service}"),
        ),
        (None, None) => none(
            format!("{agent} has no key that the gateway can use"),
            "there is nothing to be shown without one",
            format!("agentkeys store {agent} openai"),
        ),
    }
}

fn not_started(error: &io::Error) -> Problem {
    let fix = "see whether the system is out of file descriptors or processes";
    Problem::new(Code::Internal, "the program that is to show it did not", error.to_string(), fix)
}

/// What there is to be got at, for as long as this lives.
struct Things {
    bait: Bait,
    _folder: Folder,
    _listening: (TcpListener, UdpSocket, UnixListener),
    process: Child,
}

/// The folder in the home, or where there is none, one for temporary files; removed with all in it.
enum Folder {
    Home(PathBuf),
    Temporary(Temporary),
}

impl Folder {
    fn make(places: &Places) -> Answer<Self> {
        let made =
            places.home().map(|home| home.join(format!(".agentkeys-proof-{}", std::process::id())));
        match made {
            Some(path) if std::fs::create_dir(&path).is_ok() => Ok(Self::Home(path)),
            _ => Temporary::make("agentkeys-proof").map(Self::Temporary),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Home(path) => path,
            Self::Temporary(folder) => folder.path(),
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Self::Home(path) = self {
            let _ = std::fs::remove_dir_all(path);
        }
    }
}

impl Things {
    fn make(program: &Path) -> Answer<Self> {
        let places = Places::from_environment()?;
        let folder = Folder::make(&places)?;
        let (file, unix) = (folder.path().join("file"), folder.path().join("socket"));
        let make = || {
            std::fs::write(&file, "nobody's secret\n")?;
            let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            let listening = (tcp, udp, UnixListener::bind(&unix)?);
            // It has nothing to do, and waits.
            let plan = Plan { bait: None, ask: None };
            let (_, process) = outside(program, &plan)
                .map_err(|problem| io::Error::other(problem.cause.clone()))?;
            Ok((listening, process))
        };
        let (listening, process) = make().map_err(|error| not_started(&error))?;
        let port = |address: io::Result<std::net::SocketAddr>| {
            address.map(|address| address.port()).map_err(|error| not_started(&error))
        };
        let bait = Bait {
            tcp: port(listening.0.local_addr())?,
            udp: port(listening.1.local_addr())?,
            folder: folder.path().to_owned(),
            ours: places.state().to_owned(),
            process: process.id(),
            relay: std::process::id(),
            file,
            unix,
        };
        Ok(Self { bait, _folder: folder, _listening: listening, process })
    }
}

impl Drop for Things {
    fn drop(&mut self) {
        // The end of its input is its end.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// The same program without a room; it ends with its input.
fn outside(program: &Path, plan: &Plan) -> Answer<(Found, Child)> {
    let start = || {
        let mut command = Command::new(program);
        command.args(["doctor", probe::WORD]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let input = child.stdin.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        input.write_all(format!("{}\n", serde_json::to_string(plan)?).as_bytes())?;
        let mut line = String::new();
        let output = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        BufReader::new(output).read_line(&mut line)?;
        Ok((serde_json::from_str(&line)?, child))
    };
    start().map_err(|error: io::Error| not_started(&error))
}

/// Tells the program in the room what to do, and what it found; it lives on as long as what it is told
/// by.
async fn converse(
    plan: Plan,
    mut to_it: PipeWriter,
    from_it: PipeReader,
) -> Option<(Found, PipeWriter)> {
    let conversation = tokio::task::spawn_blocking(move || {
        let plan = serde_json::to_string(&plan).ok()?;
        to_it.write_all(format!("{plan}\n").as_bytes()).ok()?;
        let mut line = String::new();
        BufReader::new(from_it).read_line(&mut line).ok()?;
        Some((serde_json::from_str(&line).ok()?, to_it))
    });
    conversation.await.ok().flatten()
}

/// The key, in order to be looked for, or why nobody is given it.
async fn key_of(
    context: &Context<'_>,
    agent: &AgentIdentity,
    service: &ServiceName,
) -> Result<Result<SecretBytes, Problem>, CliError> {
    let source = Source::backend(context, Some(agent.clone())).await?;
    match source.read(context, service).await {
        Ok(key) => Ok(Ok(key)),
        Err(CliError::Problem(problem)) if problem.code == Code::Denied => Ok(Err(problem)),
        Err(other) => Err(other),
    }
}

/// Looks for the key in the program, and in the files that it may write, and in `/etc`.
fn look(
    key: Result<SecretBytes, Problem>,
    stand_in: Option<String>,
    pid: u32,
    temporary: PathBuf,
) -> Vec<Line> {
    let own = "look at where the program gets it from, and have nothing of it in its environment";
    let key = match key {
        Ok(key) => key,
        Err(problem) => {
            let why = "the backend gives it to nobody, you included, so it cannot be here and \
                       cannot be looked for";
            return vec![Line::ok("key", format!("{why}: {}", problem.detail))];
        }
    };
    // The plaintext is what is looked for.
    let Some(forms) = Forms::of(key.expose()) else {
        let found = "it has less than 8 bytes, which are anywhere by chance";
        return vec![Line::not("key", found, "prove it by a service with a longer key")];
    };
    let shown_there = stand_in.as_ref().and_then(|stand_in| Forms::of(stand_in.as_bytes()));
    let seen = shown_there.map(|stand_in| look_for::in_process(&stand_in, pid));
    let looked = match (look_for::in_process(&forms, pid), seen) {
        (Ok(looked), Some(Ok(seen))) if !seen.found.is_empty() => looked,
        (Err(error), _) | (_, Some(Err(error))) => {
            let found = format!("the program could not be looked into: {error}");
            let fix = "run it as the user whose machine it is, or as root";
            return vec![Line::not("key", found, fix)];
        }
        _ => {
            let found = "the stand-in, which is there, was not found, so the looking shows nothing";
            return vec![Line::not("key", found, "agentkeys feedback")];
        }
    };
    let mut lines = vec![if looked.found.is_empty() {
        let much = looked.bytes >> 20;
        let found = format!(
            "not in the program's environment, arguments and {much} MiB of memory, where the \
             stand-in was found by the same looking"
        );
        Line::ok("key", found)
    } else {
        Line::not("key", format!("it is in {}", looked.found.join(" and in ")), own)
    }];
    let here = std::env::current_dir().ok();
    let folders = here.into_iter().chain([temporary, PathBuf::from("/etc")]).collect();
    let looked = look_for::in_folders(&forms, folders);
    let (files, much) = (looked.files, looked.bytes >> 20);
    lines.push(if looked.found.is_empty() {
        let cut = if looked.cut { "; there is more, which was not looked through" } else { "" };
        let found = format!(
            "not in {files} files ({much} MiB) of the folder here, its temporary one and /etc{cut}"
        );
        Line::ok("files", found)
    } else {
        let fix = "take it out there: the program may read that file, whoever holds the key";
        Line::not("files", format!("it is in {}", looked.found.join(" and in ")), fix)
    });
    lines
}

/// What the program has in place of the key: its beginning is enough.
fn stand_in(variable: &str, value: Option<&str>) -> Line {
    match value {
        Some(value) => {
            let begin: String = value.chars().take(7).collect();
            let found =
                format!("{variable} is {begin}..., good for this run and its service alone");
            Line::ok("stand-in", found)
        }
        None => Line::not("stand-in", format!("{variable} is not there"), "agentkeys feedback"),
    }
}

/// Each way, as it went without the room and in it.
fn ways(outside: &[Tried], inside: &[Tried]) -> Vec<Line> {
    let line = |one: &Tried| {
        let before = outside.iter().find(|before| before.what == one.what);
        let what = &one.what;
        match (&one.refused, before.map(|before| &before.refused)) {
            (Some(why), Some(None)) => {
                Line::ok("way out", format!("{what}: refused ({why}); without the room it works"))
            }
            (Some(why), _) if one.always_works => {
                let found =
                    format!("{what}: refused ({why}), but also without the room: nothing is shown");
                Line::not("way out", found, "see what on this machine forbids it to all programs")
            }
            (Some(why), _) => {
                Line::ok("way out", format!("{what}: refused ({why}), also without the room"))
            }
            (None, _) => {
                let fix = "do not trust the room with this; agentkeys feedback";
                Line::not("way out", format!("{what}: it WORKS in the room"), fix)
            }
        }
    };
    let mut lines: Vec<Line> = inside.iter().map(line).collect();
    if lines.is_empty() {
        lines.push(Line::not("way out", "none was tried", "agentkeys feedback"));
    }
    lines
}

fn answer(asked: &str, answered: Option<Result<Answered, String>>) -> Line {
    let fix = "agentkeys usage shows what was asked; --path names another path, --service another \
               service";
    match answered {
        Some(Ok(Answered { status, by_gateway: None })) => {
            Line::ok("answer", format!("{asked}: {status}, by the service"))
        }
        Some(Ok(Answered { status, by_gateway: Some(why) })) => {
            Line::not("answer", format!("{asked}: {status}, by the gateway: {why}"), fix)
        }
        Some(Err(why)) => Line::not("answer", format!("{asked}: none: {why}"), fix),
        None => Line::not("answer", format!("{asked}: it was not asked"), fix),
    }
}

fn tell(
    context: &Context<'_>,
    agent: &AgentIdentity,
    service: &ServiceName,
    lines: &[Line],
) -> Result<Finish, CliError> {
    let proven = lines.iter().all(|line| line.holds);
    if context.out.json {
        let (agent, service) = (agent.to_string(), service.as_str());
        context.out.object(
            &json!({ "proven": proven, "agent": agent, "service": service, "lines": lines }),
        )?;
    } else {
        for line in lines {
            let (word, colour) =
                if line.holds { ("ok", "\x1b[32m") } else { ("NOT", "\x1b[1;31m") };
            let (colour, plain) = if context.out.colour { (colour, "\x1b[0m") } else { ("", "") };
            let text =
                format!("{colour}{word:<6}{plain}  {:<14}  {}", line.name, shown(&line.found));
            context.out.sentence(&text)?;
            if let Some(fix) = &line.fix {
                context.out.sentence(&format!("{:<24}fix: {}", "", shown(fix)))?;
            }
        }
        context.out.say(&if proven {
            format!("proven: {agent}'s programs use the key of {service} and cannot get at it")
        } else {
            "NOT proven: see the lines above".to_owned()
        });
    }
    Ok(if proven { Finish::Done } else { Finish::Unwell })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(refused: Option<&str>) -> Vec<Tried> {
        let (what, refused) = ("get out".to_owned(), refused.map(str::to_owned));
        vec![Tried { what, refused, always_works: false }]
    }

    #[test]
    fn a_way_that_works_in_the_room_is_no_proof_and_none_that_was_tried_neither() {
        let held = |outside, inside| ways(&tried(outside), &tried(inside))[0].holds;
        assert!(held(None, Some("no")) && held(Some("no"), Some("no")));
        assert!(!held(None, None) && !held(Some("no"), None));
        assert!(!ways(&tried(None), &[])[0].holds);
        let mut sure = tried(Some("no"));
        sure[0].always_works = true;
        assert!(!ways(&tried(Some("no")), &sure)[0].holds && ways(&tried(None), &sure)[0].holds);
    }

    #[test]
    fn only_the_services_own_answer_is_one() {
        let of = |by_gateway| answer("GET /", Some(Ok(Answered { status: 403, by_gateway }))).holds;
        assert!(of(None) && !of(Some("a rule".to_owned())));
        assert!(!answer("GET /", None).holds && !answer("GET /", Some(Err("no".into()))).holds);
    }

    #[test]
    fn a_key_that_nobody_is_given_is_not_looked_for_and_that_is_said() {
        let denied = Problem::new(Code::Denied, "access denied", "its tier", "none");
        let lines = look(Err(denied), None, 0, PathBuf::new());
        assert!(lines.len() == 1 && lines[0].holds && lines[0].found.contains("you included"));
    }
}
