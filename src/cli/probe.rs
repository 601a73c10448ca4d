//! The program of `doctor --prove`, which is started once outside the closed room and once in it: it
//! tries the ways out, and asks the service by the gateway, as any program does. What it is to try
//! comes on its standard input, and what it found goes to its standard output; then it waits to be
//! looked into.
//!
//! Must never be told a key: it is what the key is looked for in.
use std::io::{self, BufRead as _, Read, Write};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::core::catalog::Sent;
use crate::core::identity::ServiceName;
use crate::core::problem::{Code, Problem};
use crate::harden;

/// The word behind `doctor` by which it is started; no person's, so no help has it.
pub const WORD: &str = "--from-inside";
/// Longest that one thing is waited for.
const WAIT: Duration = Duration::from_secs(30);
/// Most bytes of an answer that are looked at.
const MOST: u64 = 64 * 1024;

/// What is there to be got at, all of it outside the room.
#[derive(Clone, Serialize, Deserialize)]
pub struct Bait {
    /// A file in this user's home.
    pub file: PathBuf,
    /// A folder there.
    pub folder: PathBuf,
    /// Where AgentKeys keeps what is its own.
    pub ours: PathBuf,
    /// A port of TCP on loopback, where somebody listens.
    pub tcp: u16,
    /// The same of UDP.
    pub udp: u16,
    /// A Unix socket, where somebody listens.
    pub unix: PathBuf,
    /// A process of this user's.
    pub process: u32,
    /// The process that the gateway is handed requests by.
    pub relay: u32,
}

/// How the service is asked.
#[derive(Clone, Serialize, Deserialize)]
pub struct Ask {
    /// The variable with the base URL.
    pub base: String,
    /// The variable with what stands in place of the key.
    pub key: String,
    /// Which service.
    pub service: ServiceName,
    /// Which path, unless it is the base URL's.
    pub path: Option<String>,
    /// Where the key goes.
    pub sent: Sent,
}

/// What is to be done.
#[derive(Clone, Serialize, Deserialize)]
pub struct Plan {
    /// To be tried.
    pub bait: Option<Bait>,
    /// To be asked.
    pub ask: Option<Ask>,
}

/// A way out that was tried.
#[derive(Serialize, Deserialize)]
pub struct Tried {
    /// In words.
    pub what: String,
    /// Why it did not work; absent: it did.
    pub refused: Option<String>,
    /// Whether it works on every machine without the room. The others a wary one keeps from all.
    pub always_works: bool,
}

/// What the service answered, or the gateway in its place.
#[derive(Serialize, Deserialize)]
pub struct Answered {
    /// The status.
    pub status: u16,
    /// What the gateway says, if it is the gateway's.
    pub by_gateway: Option<String>,
}

/// What came of it.
#[derive(Serialize, Deserialize)]
pub struct Found {
    /// This process.
    pub pid: u32,
    /// Its folder for temporary files.
    pub temporary: PathBuf,
    /// What stands in place of the key.
    pub stand_in: Option<String>,
    /// Each way.
    pub tried: Vec<Tried>,
    /// The answer, or why there is none.
    pub answered: Option<Result<Answered, String>>,
}

/// Does what standard input says, and waits for its end.
///
/// # Errors
/// It says nothing that is understood.
pub fn run() -> Result<u8, Problem> {
    let failed = |why: String| {
        let fix = "it is started by agentkeys doctor --prove, and by nobody else";
        Problem::new(Code::Invalid, "there is nothing to be tried", why, fix)
    };
    let mut line = String::new();
    let mut input = io::stdin().lock();
    input.read_line(&mut line).map_err(|error| failed(error.to_string()))?;
    let plan: Plan = serde_json::from_str(&line).map_err(|error| failed(error.to_string()))?;
    let found = Found {
        pid: std::process::id(),
        temporary: std::env::temp_dir(),
        stand_in: plan.ask.as_ref().and_then(|ask| std::env::var(&ask.key).ok()),
        answered: plan.ask.as_ref().map(|ask| answer(ask).map_err(|error| error.to_string())),
        tried: plan.bait.as_ref().map(tries).unwrap_or_default(),
    };
    let mut text = serde_json::to_string(&found).map_err(|error| failed(error.to_string()))?;
    text.push('\n');
    let mut output = io::stdout().lock();
    output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
        .map_err(|error| failed(error.to_string()))?;
    let _ = input.read_to_string(&mut line);
    Ok(0)
}

/// Each way out.
fn tries(bait: &Bait) -> Vec<Tried> {
    let process = |pid: u32, what: &str| {
        let mut file = std::fs::File::open(format!("/proc/{pid}/{what}"))?;
        match what {
            // Its beginning is nobody's memory: being let in is the thing.
            "mem" => Ok(()),
            _ => file.read(&mut [0; 1]).map(drop),
        }
    };
    let written = bait.folder.join("written");
    let always = vec![
        ("read a file in your home", std::fs::read(&bait.file).map(drop)),
        ("write outside its folder", std::fs::write(&written, "x")),
        (
            "connect to another TCP port",
            TcpStream::connect((Ipv4Addr::LOCALHOST, bait.tcp)).map(drop),
        ),
        ("send by UDP", datagram(bait.udp)),
        ("connect to a Unix socket", UnixStream::connect(&bait.unix).map(drop)),
    ];
    let mostly = vec![
        ("list what AgentKeys keeps", std::fs::read_dir(&bait.ours).map(drop)),
        ("read another process's environment", process(bait.process, "environ")),
        ("open another process's memory", process(bait.process, "mem")),
        ("trace another process", harden::trace(bait.process)),
        ("open the memory of agentkeys itself", process(bait.relay, "mem")),
    ];
    let _ = std::fs::remove_file(&written);
    let tried = |always_works: bool| {
        move |(what, way): (&str, io::Result<()>)| Tried {
            what: what.to_owned(),
            refused: way.err().map(|error| error.to_string()),
            always_works,
        }
    };
    always.into_iter().map(tried(true)).chain(mostly.into_iter().map(tried(false))).collect()
}

fn datagram(port: u16) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.send_to(b"x", (Ipv4Addr::LOCALHOST, port)).map(drop)
}

/// The request, as a program would send it: its target, and the header that the stand-in is in.
fn request(ask: &Ask, base: &str, stand_in: &str) -> Option<(String, String, String)> {
    let (host, rest) = base.strip_prefix("http://")?.split_once('/')?;
    let prefix = format!("/{}", ask.service);
    let of_base = format!("/{rest}");
    let path = match &ask.path {
        Some(path) => path.clone(),
        None => of_base.strip_prefix(&prefix)?.to_owned(),
    };
    let path = if path.is_empty() { "/".to_owned() } else { path };
    let header = |name: &str, value: String| format!("{name}: {value}\r\n");
    let (path, header) = match &ask.sent {
        Sent::Header { name, value } => (path, header(name, value.replace("{}", stand_in))),
        Sent::Basic { user } => {
            let pair = format!("{}:{stand_in}", user.as_deref().unwrap_or("user"));
            let pair = super::look_for::base64(pair.as_bytes());
            (path, header("Authorization", format!("Basic {pair}")))
        }
        Sent::Query { name } => {
            let mark = if path.contains('?') { '&' } else { '?' };
            (format!("{path}{mark}{name}={stand_in}"), String::new())
        }
        Sent::Path { begin } => (begin.replace("{}", stand_in) + &path, String::new()),
        Sent::Signed(_) => return None,
    };
    Some((host.to_owned(), format!("{prefix}{path}"), header))
}

/// Asks the service by the gateway.
fn answer(ask: &Ask) -> io::Result<Answered> {
    let variable = |name: &str| {
        std::env::var(name).map_err(|_| io::Error::other(format!("{name} is not set")))
    };
    let (base, stand_in) = (variable(&ask.base)?, variable(&ask.key)?);
    let wanted = request(ask, &base, &stand_in);
    let (host, target, header) =
        wanted.ok_or_else(|| io::Error::other("its key does not travel in a request"))?;
    let mut stream = TcpStream::connect(&host)?;
    stream.set_read_timeout(Some(WAIT))?;
    let text = format!(
        "GET {target} HTTP/1.1\r\nHost: {host}\r\n{header}Accept: */*\r\n\
         User-Agent: agentkeys-doctor\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(text.as_bytes())?;
    let mut got = Vec::new();
    let ended = stream.take(MOST).read_to_end(&mut got);
    let read = read(&got);
    match (read, ended) {
        (Some(read), _) => Ok(read),
        (None, Err(error)) => Err(error),
        (None, Ok(_)) => Err(io::Error::other("what came is no answer of HTTP")),
    }
}

/// The status, and the words of the gateway where it answered itself.
fn read(got: &[u8]) -> Option<Answered> {
    let text = String::from_utf8_lossy(got);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    // Its refusals say what to do, which no service's answer does in this way.
    let problem = head.to_ascii_lowercase().contains("application/problem+json");
    let problem = problem.then(|| serde_json::from_str::<Problem>(body).ok()).flatten();
    let by_gateway = problem.map(|problem| format!("{}: {}", problem.detail, problem.cause));
    Some(Answered { status, by_gateway })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stand_in_goes_where_the_key_goes() {
        let of = |sent: Sent, path: Option<&str>| {
            let ask = Ask {
                base: "B".into(),
                key: "K".into(),
                service: "mine".parse().unwrap(),
                path: path.map(str::to_owned),
                sent,
            };
            let (host, target, header) =
                request(&ask, "http://127.0.0.1:9/mine/v1", "stand-in").unwrap();
            assert_eq!(host, "127.0.0.1:9");
            (target, header)
        };
        let bearer = "Authorization: Bearer stand-in\r\n".to_owned();
        assert_eq!(of(Sent::bearer(), None), ("/mine/v1".into(), bearer.clone()));
        assert_eq!(of(Sent::bearer(), Some("/user")), ("/mine/user".into(), bearer));
        let (target, header) = of(Sent::Query { name: "key".into() }, Some("/a?b=c"));
        assert_eq!((target.as_str(), header.as_str()), ("/mine/a?b=c&key=stand-in", ""));
        let (target, _) = of(Sent::Path { begin: "/bot{}".into() }, Some("/getMe"));
        assert_eq!(target, "/mine/botstand-in/getMe");
    }

    #[test]
    fn a_refusal_of_the_gateway_is_no_answer_of_the_service() {
        let answer = read(b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\n\r\n").unwrap();
        assert!(answer.status == 404 && answer.by_gateway.is_none());
        let problem = Problem::new(Code::Denied, "no", "a rule", "none");
        let text = serde_json::to_string(&problem).unwrap();
        let text =
            format!("HTTP/1.1 403 x\r\ncontent-type: application/problem+json\r\n\r\n{text}");
        let answer = read(text.as_bytes()).unwrap();
        assert_eq!(answer.by_gateway.as_deref(), Some("no: a rule"));
        assert!(read(b"").is_none() && read(b"HTTP/1.1 200").is_none());
    }
}
