//! How a problem reads on the terminal, and which exit code it has.
//!
//! Must never print a secret, and never let text from outside steer the terminal.
use std::fmt::Write as _;

use crate::core::holder::Waiting;
use crate::core::problem::{Code, Problem};

/// The exit code of a command that a person has to approve first.
pub const WAITING: u8 = 8;

/// Why a command did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// Something to tell the person.
    #[error(transparent)]
    Problem(#[from] Problem),
    /// The same, with an exit code of its own: what `run` cannot execute.
    #[error("{problem}")]
    Exit {
        /// What to tell.
        problem: Problem,
        /// The exit code.
        code: u8,
    },
    /// A person has to approve first; exits with 8.
    #[error("{problem}")]
    Waiting {
        /// What to tell.
        problem: Problem,
        /// What waits.
        waiting: Box<Waiting>,
    },
    /// Whoever read standard output has gone; there is nobody to tell.
    #[error("standard output was closed")]
    Closed,
}

impl From<crate::core::types::Malformed> for CliError {
    fn from(wrong: crate::core::types::Malformed) -> Self {
        Self::Problem(wrong.into())
    }
}

/// What a command was given that it does not take; exits with 2.
pub fn usage(
    detail: impl Into<String>,
    cause: impl Into<String>,
    fix: impl Into<String>,
) -> Problem {
    let mut problem = Problem::new(Code::Invalid, detail, cause, fix);
    problem.docs = "docs/errors.md#usage".to_owned();
    problem
}

/// The exit code of a problem, as `docs/errors.md` lists them.
pub fn exit_code(code: Code) -> u8 {
    match code {
        Code::Invalid => 2,
        Code::Denied => 3,
        Code::NotFound | Code::AgentNotFound | Code::NoMatch => 4,
        Code::Expired => 5,
        Code::Unauthorized => 6,
        Code::Unavailable => 7,
        Code::AlreadyConsumed
        | Code::AlreadyDelivered
        | Code::TooLarge
        | Code::RateLimited
        | Code::ProvisionFailed
        | Code::Internal => 1,
    }
}

impl CliError {
    /// A request that a person has not answered yet, told with everything that they need.
    pub fn waiting(waiting: Waiting) -> Self {
        let Waiting { kind, pair_code, otp, expires_at, command, because } = &waiting;
        let because = because.as_ref().map(|why| format!("{} ({})\n", why.detail, why.cause));
        let mut problem = Problem::new(
            Code::Unauthorized,
            format!("waiting for approval: pair code {pair_code}, OTP {otp}"),
            format!(
                "{}the daemon asked for it ({}), and nobody has answered yet; the code holds until {}",
                because.unwrap_or_default(),
                kind.as_str(),
                expires_at.for_people()
            ),
            format!(
                "{command}\n\
                 whoever keeps the keys runs it, on their own machine, and compares the OTP\n\
                 then run this command again"
            ),
        );
        problem.title = "waiting for approval".to_owned();
        problem.docs = "docs/errors.md#waiting".to_owned();
        Self::Waiting { problem, waiting: Box::new(waiting) }
    }

    /// What to tell a program: the problem as the wire has it, and what waits as its `waiting`.
    pub fn document(&self) -> Option<serde_json::Value> {
        let mut document = serde_json::to_value(self.problem()?).ok()?;
        if let Self::Waiting { waiting, .. } = self {
            document.as_object_mut()?.insert("waiting".into(), serde_json::to_value(waiting).ok()?);
        }
        Some(document)
    }

    /// The exit code of the process.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Problem(problem) => exit_code(problem.code),
            Self::Exit { code, .. } => *code,
            Self::Waiting { .. } => WAITING,
            Self::Closed => 1,
        }
    }

    /// What to tell, if anybody is there.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Problem(problem) | Self::Exit { problem, .. } | Self::Waiting { problem, .. } => {
                Some(problem)
            }
            Self::Closed => None,
        }
    }
}

/// Whether a character could move, hide, recolour or reorder what a terminal shows.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(u32::from(c),
            0x00AD | 0x061C | 0x180E | 0x200B..=0x200F | 0x2028..=0x202E | 0x2060..=0x206F
            | 0xFEFF | 0xFFF9..=0xFFFB | 0xE0000..=0xE0FFF)
}

/// The text on one line, with what could steer a terminal written as `\u{1b}`.
pub fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if steers(c) {
            let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

/// The same, keeping the lines apart.
fn shown_lines(text: &str) -> Vec<String> {
    text.lines().map(shown).filter(|line| !line.trim().is_empty()).collect()
}

/// A problem as people read it: what, then cause, fix and where to read more.
pub fn render(problem: &Problem, colour: bool) -> String {
    let (red, dim, plain) =
        if colour { ("\x1b[1;31m", "\x1b[2m", "\x1b[0m") } else { ("", "", "") };
    let mut detail = shown(&problem.detail);
    // A refusal says at once that it is one; the other details say so themselves.
    if problem.code == Code::Denied && !detail.starts_with(&problem.title) {
        detail = format!("{}: {detail}", shown(&problem.title));
    }
    let mut out = format!("{red}error:{plain} {detail}\n\n");
    let docs = [match problem.docs.split_once('#') {
        Some((_, part)) => {
            format!("{0}, or: agentkeys explain {1}", shown(&problem.docs), shown(part))
        }
        None => shown(&problem.docs),
    }];
    // Where it stopped, unless the sentence says so itself.
    let step = problem.step.iter().filter(|step| !problem.detail.contains(step.as_str()));
    let step: Vec<String> = step.map(|step| shown(step)).collect();
    let parts: [(&str, &[String]); 4] = [
        ("step", &step),
        ("cause", &shown_lines(&problem.cause)),
        ("fix", &shown_lines(&problem.fix)),
        ("docs", &docs),
    ];
    for (word, lines) in parts {
        for (at, line) in lines.iter().enumerate() {
            let word = if at == 0 { word } else { "" };
            let _ = writeln!(out, "  {dim}{word:<5}{plain}  {line}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied() -> Problem {
        Problem::new(
            Code::Denied,
            "agent \"my-agent\" was revoked",
            "revoked 2026-04-09 14:32:07 UTC by the master session on host \"laptop\"",
            "agentkeys reinstate my-agent\n\
             or pair it again: start its daemon, then agentkeys approve <code>",
        )
    }

    #[test]
    fn a_refusal_reads_as_problem_cause_fix_and_where_to_read_more() {
        let golden = r#"error: access denied: agent "my-agent" was revoked

  cause  revoked 2026-04-09 14:32:07 UTC by the master session on host "laptop"
  fix    agentkeys reinstate my-agent
         or pair it again: start its daemon, then agentkeys approve <code>
  docs   docs/errors.md#denied, or: agentkeys explain denied
"#;
        assert_eq!(render(&denied(), false), golden);
    }

    #[test]
    fn a_refusal_that_names_itself_is_not_named_twice() {
        let mut problem = denied();
        problem.detail = "access denied: agent \"my-agent\" was revoked".to_owned();
        assert_eq!(render(&problem, false), render(&denied(), false));
    }

    #[test]
    fn colour_changes_no_word() {
        let coloured = render(&denied(), true);
        assert!(coloured.starts_with("\x1b[1;31merror:\x1b[0m access denied"));
        let stripped =
            coloured.replace("\x1b[1;31m", "").replace("\x1b[2m", "").replace("\x1b[0m", "");
        assert_eq!(stripped, render(&denied(), false));
    }

    #[test]
    fn text_from_outside_cannot_steer_the_terminal() {
        let problem = Problem::new(
            Code::NotFound,
            "a\x1b[2Jb\r\nc",
            "x\u{202E}y\n\x07z",
            "run this\n\n\nor that\u{200B}",
        );
        let golden = "error: a\\u{1b}[2Jb\\u{d}\\u{a}c\n\n  cause  x\\u{202e}y\n         \
                      \\u{7}z\n  fix    run this\n         or that\\u{200b}\n  docs   \
                      docs/errors.md#not_found, or: agentkeys explain not_found\n";
        assert_eq!(render(&problem, false), golden);
    }

    #[test]
    fn nothing_that_is_printed_steers_whatever_comes_in() {
        fn holds(detail: String, cause: String, fix: String) -> bool {
            let text = render(&Problem::new(Code::Expired, detail, cause, fix), false);
            !text.chars().any(|c| c != '\n' && steers(c))
        }
        quickcheck::quickcheck(holds as fn(String, String, String) -> bool);
    }

    #[test]
    fn every_code_has_the_exit_code_that_the_documentation_lists() {
        let codes: Vec<_> = Code::ALL.iter().map(|code| exit_code(*code)).collect();
        assert_eq!(codes, [6, 3, 4, 4, 4, 1, 1, 5, 1, 2, 1, 1, 7, 1]);
    }
}
