//! From raw arguments to the words that argh takes, and what argh gets wrong put right before.
//!
//! argh 0.1.19 refuses a positional `-`, takes the word `help` for `--help` wherever it stands,
//! knows no `--option=value`, loses the place of `--`, takes only UTF-8, and repeats what it did
//! not understand. So: everything behind the first `--` is kept apart as it is, options come
//! first and positionals behind a `--` of our own, and whatever argh would complain of is found
//! here.
//!
//! Must never repeat a value: it may be a secret in the wrong place.
use std::ffi::OsString;

use argh::{CommandInfoWithArgs, FlagInfo, FlagInfoKind, FromArgs, Optionality};

use super::near::near;
use super::report::usage;
use crate::core::problem::Problem;

/// The options that every command takes.
pub const GLOBAL: [(&str, &str); 5] = [
    ("--json", "results and problems as JSON on standard output"),
    ("--verbose", "say on standard error what is asked of which backend"),
    ("--backend ADDRESS", "https://HOST[#sha256:...], http://127.0.0.1:PORT or unix:/PATH"),
    ("--help", "show this"),
    ("--version", "show the version of the binary and of the wire"),
];

/// What the global options say.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Global {
    /// Results and problems as JSON.
    pub json: bool,
    /// Say what is done.
    pub verbose: bool,
    /// Which backend.
    pub backend: Option<String>,
}

/// What is known of a command before its own words are read.
#[derive(Clone, Copy)]
pub struct Shape {
    /// Its name; two words for a command of a command.
    pub name: &'static str,
    /// Whether what stands behind `--` is a program to run.
    pub tail: bool,
    /// What argh knows of it.
    pub info: fn() -> CommandInfoWithArgs,
}

/// What a line asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Asked {
    /// The overview, or the help of the command with that name.
    Help(Option<&'static str>),
    /// The version.
    Version,
    /// Nothing: there was no command.
    Nothing,
    /// A command.
    Command {
        /// Its name.
        name: &'static str,
        /// The words for argh.
        words: Vec<String>,
        /// What stood behind `--`, for commands that run a program.
        tail: Option<Vec<OsString>>,
    },
}

/// Whether problems are wanted as JSON, which must be known before anything is understood.
pub fn wants_json(args: &[OsString]) -> bool {
    args.iter().take_while(|arg| *arg != "--").any(|arg| arg == "--json")
}

fn not_text() -> Problem {
    usage(
        "an argument is not valid UTF-8",
        "only what stands behind -- may be any bytes",
        "write it in UTF-8, or put it behind --",
    )
}

/// Whether a token is shaped like an option's name and not like a key, so that it may be shown.
fn is_option_name(token: &str) -> bool {
    token.len() <= 26
        && token.strip_prefix("--").is_some_and(|name| {
            !name.is_empty() && name.bytes().all(|c| c.is_ascii_lowercase() || c == b'-')
        })
}

/// Reads a whole line: the arguments without the program's name.
pub fn prepare(args: Vec<OsString>, table: &[Shape]) -> Result<(Global, Asked), Problem> {
    let mut before = Vec::new();
    let mut tail: Option<Vec<OsString>> = None;
    for arg in args {
        match &mut tail {
            Some(tail) => tail.push(arg),
            None if arg == "--" => tail = Some(Vec::new()),
            None => before.push(arg.into_string().map_err(|_| not_text())?),
        }
    }
    let mut global = Global::default();
    let mut rest = before.into_iter().peekable();

    // The global options may stand before the command.
    let mut help = false;
    let mut first = None;
    while let Some(token) = rest.next() {
        if !token.starts_with('-') || token == "-" {
            first = Some(token);
            break;
        }
        match take_global(&token, &mut rest, &mut global)? {
            Taken::Yes => {}
            Taken::Help => help = true,
            Taken::Version => return Ok((global, Asked::Version)),
            Taken::No => return Err(unknown_option(&token, None)),
        }
    }
    let Some(first) = first else {
        return Ok((global, if help { Asked::Help(None) } else { Asked::Nothing }));
    };
    if first == "help" {
        let words: Vec<String> = rest.filter(|word| !word.starts_with('-')).take(2).collect();
        if words.is_empty() {
            return Ok((global, Asked::Help(None)));
        }
        let (shape, _) = find(table, &words[0], words.get(1).map(String::as_str))?;
        return Ok((global, Asked::Help(Some(shape.name))));
    }
    if help {
        let next = rest.peek().cloned();
        let (shape, _) = find(table, &first, next.as_deref())?;
        return Ok((global, Asked::Help(Some(shape.name))));
    }
    let next = rest.peek().cloned();
    let asks_help = || next.as_deref().is_some_and(|word| word == "--help" || word == "-h");
    let (shape, two) = match find(table, &first, next.as_deref()) {
        // `agentkeys audit --help` shows what there is.
        Err(_) if asks_help() => {
            let prefix = format!("{first} ");
            let inner = table.iter().find(|shape| shape.name.starts_with(&prefix));
            match inner {
                Some(shape) => return Ok((global, Asked::Help(Some(shape.name)))),
                None => find(table, &first, None)?,
            }
        }
        found => found?,
    };
    if two {
        rest.next();
    }

    let info = (shape.info)();
    let mut options: Vec<String> = Vec::new();
    let mut positionals: Vec<String> = Vec::new();
    while let Some(token) = rest.next() {
        if !token.starts_with('-') || token == "-" {
            positionals.push(token);
            continue;
        }
        match take_global(&token, &mut rest, &mut global)? {
            Taken::Yes => continue,
            Taken::Help => return Ok((global, Asked::Help(Some(shape.name)))),
            Taken::Version => return Ok((global, Asked::Version)),
            Taken::No => {}
        }
        let (option, inline) = split_value(&token);
        let flag = info
            .flags
            .iter()
            .find(|flag| flag.long == option)
            .ok_or_else(|| unknown_option(&token, Some((shape.name, info.flags))))?;
        if flag.optionality != Optionality::Repeating && options.iter().any(|had| had == option) {
            return Err(usage(
                format!("{option} was given twice"),
                format!("{} takes it once", shape.name),
                format!("leave one of them out; see agentkeys {} --help", shape.name),
            ));
        }
        options.push(option.to_owned());
        match flag.kind {
            FlagInfoKind::Switch if inline.is_some() => return Err(takes_no_value(option)),
            FlagInfoKind::Switch => {}
            FlagInfoKind::Option { .. } => options.push(value_of(option, inline, &mut rest)?),
        }
    }
    let tail = match tail {
        Some(words) if !shape.tail => {
            for word in words {
                positionals.push(word.into_string().map_err(|_| not_text())?);
            }
            None
        }
        tail => tail,
    };
    if info.positionals.is_empty() && !positionals.is_empty() {
        return Err(usage(
            format!("{} takes no argument without a name", shape.name),
            format!("{} too many", positionals.len()),
            format!("see agentkeys {} --help", shape.name),
        ));
    }
    let mut words = options;
    words.push("--".to_owned());
    words.append(&mut positionals);
    Ok((global, Asked::Command { name: shape.name, words, tail }))
}

/// Splits `--option=value`.
fn split_value(token: &str) -> (&str, Option<&str>) {
    match token.split_once('=') {
        Some((option, value)) => (option, Some(value)),
        None => (token, None),
    }
}

type Rest = std::iter::Peekable<std::vec::IntoIter<String>>;

/// The value of an option: behind `=`, or the next word unless that is an option itself.
fn value_of(option: &str, inline: Option<&str>, rest: &mut Rest) -> Result<String, Problem> {
    if let Some(value) = inline {
        return Ok(value.to_owned());
    }
    rest.next_if(|next| !next.starts_with("--")).ok_or_else(|| {
        usage(
            format!("{option} wants a value"),
            "nothing stands behind it, or another option does",
            format!("write {option} VALUE, or {option}=VALUE where the value begins with dashes"),
        )
    })
}

fn takes_no_value(option: &str) -> Problem {
    usage(
        format!("{option} takes no value"),
        "it is a switch: it is there or it is not",
        format!("write {option} without ="),
    )
}

enum Taken {
    Yes,
    No,
    Help,
    Version,
}

fn take_global(token: &str, rest: &mut Rest, global: &mut Global) -> Result<Taken, Problem> {
    let (option, inline) = split_value(token);
    let taken = match option {
        "--json" => Taken::Yes,
        "--verbose" | "-v" => Taken::Yes,
        "--help" | "-h" => Taken::Help,
        "--version" | "-V" => Taken::Version,
        "--backend" => {
            let value = value_of(option, inline, rest)?;
            if global.backend.replace(value).is_some() {
                return Err(usage(
                    "--backend was given twice",
                    "a command talks to one backend",
                    "leave one of them out",
                ));
            }
            return Ok(Taken::Yes);
        }
        _ => return Ok(Taken::No),
    };
    if inline.is_some() {
        return Err(takes_no_value(option));
    }
    match option {
        "--json" => global.json = true,
        "--verbose" | "-v" => global.verbose = true,
        _ => {}
    }
    Ok(taken)
}

fn unknown_option(token: &str, of: Option<(&str, &[FlagInfo<'_>])>) -> Problem {
    let (option, _) = split_value(token);
    let (what, flags) = match of {
        Some((name, flags)) => (name, flags),
        None => ("agentkeys", &[][..]),
    };
    // Anything else may be a key that begins with a dash.
    let detail = if is_option_name(option) {
        format!("{what} has no option {option}")
    } else {
        format!("{what} was given an option that it does not have")
    };
    let known: Vec<&str> = flags
        .iter()
        .map(|flag| flag.long)
        .chain(GLOBAL.iter().map(|(option, _)| option.split(' ').next().unwrap_or(option)))
        .collect();
    let close = near(option, known);
    let fix = match close.first() {
        Some(near) if is_option_name(option) => format!("did you mean {near}?"),
        _ if what == "agentkeys" => "put it behind the command; see agentkeys --help".to_owned(),
        _ => format!("see agentkeys {what} --help"),
    };
    usage(detail, "what begins with a dash is read as an option; behind -- it is not", fix)
}

/// The command that one or two words name, and whether both were used.
fn find(table: &[Shape], first: &str, next: Option<&str>) -> Result<(Shape, bool), Problem> {
    if let Some(next) = next {
        let two = format!("{first} {next}");
        if let Some(shape) = table.iter().find(|shape| shape.name == two) {
            return Ok((*shape, true));
        }
    }
    if let Some(shape) = table.iter().find(|shape| shape.name == first) {
        return Ok((*shape, false));
    }
    let prefix = format!("{first} ");
    let inner: Vec<&str> =
        table.iter().map(|shape| shape.name).filter(|name| name.starts_with(&prefix)).collect();
    if !inner.is_empty() {
        return Err(usage(
            format!("{first} alone does nothing"),
            "it wants one more word",
            inner.iter().map(|name| format!("agentkeys {name}\n")).collect::<String>(),
        ));
    }
    Err(unknown_command(first, table.iter().map(|shape| shape.name)))
}

/// Words that other programs have for what a command does.
const OTHERS_WORDS: [(&str, &str); 14] = [
    ("add", "store"),
    ("set", "store"),
    ("put", "store"),
    ("get", "read"),
    ("show", "read"),
    ("cat", "read"),
    ("exec", "run"),
    ("ls", "list"),
    ("rm", "delete"),
    ("remove", "delete"),
    ("log", "usage"),
    ("history", "usage"),
    ("status", "doctor"),
    ("start", "serve"),
];

/// The problem of a first word that is no command.
pub fn unknown_command(given: &str, names: impl IntoIterator<Item = &'static str>) -> Problem {
    let mut names: Vec<&str> = names.into_iter().collect();
    names.sort_unstable();
    let showable = given.len() <= 24 && given.bytes().all(|c| c.is_ascii_lowercase() || c == b'-');
    let detail = if showable {
        format!("there is no command \"{given}\"")
    } else {
        "the first word is no command".to_owned()
    };
    let mut close = near(given, names.iter().copied());
    // What other programs call it.
    let other = OTHERS_WORDS.iter().find(|(word, _)| *word == given).map(|(_, ours)| *ours);
    if let Some(ours) = other.filter(|ours| names.contains(ours)) {
        close = vec![ours];
    }
    let fix = if close.is_empty() || !showable {
        "see agentkeys --help".to_owned()
    } else {
        let close: Vec<String> = close.iter().map(|name| format!("agentkeys {name}")).collect();
        format!("did you mean {}?", close.join(" or "))
    };
    let mut cause = String::from("the commands are");
    let mut width = cause.len();
    for (at, name) in names.iter().enumerate() {
        let comma = if at + 1 == names.len() { "" } else { "," };
        // Lines that fit beside the indentation of a rendered problem.
        if width + name.len() + 2 > 68 {
            cause.push('\n');
            width = 0;
        } else {
            cause.push(' ');
            width += 1;
        }
        cause.push_str(name);
        cause.push_str(comma);
        width += name.len() + comma.len();
    }
    usage(detail, cause, fix)
}

/// Lets argh read the prepared words. What it could complain of beyond a missing word was found
/// before, so that none of its own texts is shown.
pub fn parse<T: FromArgs>(name: &str, words: &[String]) -> Result<T, Problem> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    T::from_args(&["agentkeys", name], &words).map_err(|early| {
        let missing: Vec<&str> = early
            .output
            .strip_prefix("Required ")
            .map(|list| list.lines().skip(1).map(str::trim).collect())
            .unwrap_or_default();
        let detail = if missing.is_empty() {
            format!("{name} does not understand its arguments")
        } else {
            format!("{name} wants {}", missing.join(" and "))
        };
        usage(
            detail,
            "what it takes and what it was given differ",
            format!("see agentkeys {name} --help"),
        )
    })
}
