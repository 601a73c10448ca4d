//! The files that `run --env-file` takes: lines of `NAME=value`, where a value may be a reference
//! to a credential. Nothing in them is expanded or executed.
use zeroize::Zeroizing;

use super::agents::{REFERENCE, reference};
use super::report::usage;
use crate::core::catalog::is_variable;
use crate::core::identity::{AgentIdentity, ServiceName};
use crate::core::problem::Problem;

/// Largest file, in bytes.
pub const MAX_FILE: u64 = 1024 * 1024;

/// What a variable is to hold.
pub enum Value {
    /// A credential; without an agent, the one that runs.
    Credential(Option<AgentIdentity>, ServiceName),
    /// The text itself. It may be a secret that somebody has left there.
    Literal(Zeroizing<String>),
}

/// Reads the lines. Blank ones and those that begin with `#` say nothing; `export` in front, one
/// pair of quotes around a value, and a comment behind it are taken off.
///
/// # Errors
/// Names the line, never what is on it.
pub fn parse(text: &str) -> Result<Vec<(String, Value)>, Problem> {
    let mut found = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |why: &str| {
            usage(
                format!("line {} of the environment file is not valid", at + 1),
                why.to_owned(),
                "write NAME=agentkeys://service, NAME=agentkeys://agent/service or NAME=value",
            )
        };
        let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
        let (name, value) = line.split_once('=').ok_or_else(|| wrong("there is no ="))?;
        let name = name.trim_end();
        if !is_variable(name) {
            return Err(wrong("a variable's name wants letters, digits and underscores"));
        }
        let value = unquoted(written(value).trim());
        let value = if value.starts_with(REFERENCE) {
            let (agent, service) = reference(value).map_err(|problem| wrong(&problem.cause))?;
            Value::Credential(agent, service)
        } else {
            Value::Literal(Zeroizing::new(value.to_owned()))
        };
        found.push((name.to_owned(), value));
    }
    Ok(found)
}

/// What stands behind the `=`, without a comment behind it: ` #` ends a value, unless it is within
/// quotes.
pub fn written(behind: &str) -> &str {
    let value = behind.trim_start();
    let lead = behind.len() - value.len();
    let from = match value.chars().next() {
        Some(quote @ ('"' | '\'')) => match value[1..].find(quote) {
            Some(end) => lead + 1 + end + 1,
            None => lead,
        },
        _ => lead,
    };
    let comment = behind[from..].match_indices('#').find(|(at, _)| {
        let before = behind[..from + at].chars().next_back();
        before.is_some_and(char::is_whitespace)
    });
    comment.map_or(behind, |(at, _)| &behind[..from + at]).trim_end()
}

fn unquoted(value: &str) -> &str {
    for quote in ['"', '\''] {
        let inner = value.strip_prefix(quote).and_then(|value| value.strip_suffix(quote));
        if let Some(inner) = inner {
            return inner;
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        parse(text)
            .unwrap()
            .into_iter()
            .map(|(name, value)| match value {
                Value::Literal(text) => format!("{name} is {}", *text),
                Value::Credential(None, service) => format!("{name} of {service}"),
                Value::Credential(Some(agent), service) => format!("{name} of {agent}'s {service}"),
            })
            .collect()
    }

    #[test]
    fn references_and_literals_are_told_apart() {
        let text = "# keys\n\nOPENROUTER=agentkeys://openrouter  # mine\n\
                    export GH = \"agentkeys://other/github\"\nA='x y'\nB=\nC=a=b#c\n\
                    D='a # b' # c\nE= # nothing\nF=a b # c # d\n";
        assert_eq!(
            lines(text),
            [
                "OPENROUTER of openrouter",
                "GH of other's github",
                "A is x y",
                "B is ",
                "C is a=b#c",
                "D is a # b",
                "E is ",
                "F is a b"
            ]
        );
    }

    #[test]
    fn a_wrong_line_is_named_by_its_number_and_never_repeated() {
        for bad in ["sk-or-v1-secret", "1A=x", "A-B=x", "A=agentkeys://sk or/v1/secret"] {
            let problem = parse(&format!("A=b\n{bad}\n")).map(|_| ()).unwrap_err();
            assert!(problem.detail.contains("line 2"), "{}", problem.detail);
            let all = format!("{problem:?}");
            assert!(!all.contains("secret"), "{all}");
        }
    }

    #[test]
    fn any_text_is_read_or_refused() {
        fn holds(text: String) -> bool {
            let _ = parse(&text);
            true
        }
        quickcheck::quickcheck(holds as fn(String) -> bool);
    }
}
