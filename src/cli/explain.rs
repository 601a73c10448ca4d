//! `agentkeys explain`: what an error means, out of the page of errors, which this program holds.
use argh::{ArgsInfo, FromArgs};

use super::context::Context;
use super::near::near;
use super::report::{CliError, usage};
use super::{Checked, Finish};
use crate::core::problem::{Code, Problem};

/// The page, as it was when this program was built.
const PAGE: &str = include_str!("../../docs/errors.md");

#[derive(FromArgs, ArgsInfo)]
#[argh(
    description = "Says more of an error: the part of docs/errors.md that its last line names. \
                   Without a word, the whole page.",
    example = "agentkeys explain denied",
    example = "agentkeys explain"
)]
/// see above
pub struct ExplainArgs {
    /// the error, as its last line names it
    #[argh(positional, arg_name = "[error]")]
    words: Vec<String>,
}

/// What is looked up.
pub struct Explain(Option<&'static str>);

/// The parts of the page: their names and what stands below them.
fn parts() -> impl Iterator<Item = (&'static str, &'static str)> {
    PAGE.split("\n## ").skip(1).filter_map(|part| part.split_once('\n'))
}

impl TryFrom<ExplainArgs> for Explain {
    type Error = Problem;

    fn try_from(raw: ExplainArgs) -> Result<Self, Problem> {
        let [word] = raw.words.as_slice() else {
            return match raw.words.len() {
                0 => Ok(Self(None)),
                _ => Err(usage(
                    "explain wants one error",
                    "its name is what stands behind # in an error's last line",
                    "agentkeys explain denied",
                )),
            };
        };
        let wanted = word.rsplit('#').next().unwrap_or(word).to_ascii_lowercase();
        if let Some((_, text)) = parts().find(|(name, _)| *name == wanted) {
            return Ok(Self(Some(text)));
        }
        let names: Vec<&str> =
            parts().map(|(name, _)| name).filter(|name| !name.contains(' ')).collect();
        let fix = match near(&wanted, names.iter().copied()).first() {
            Some(close) => format!("did you mean {close}?"),
            None => format!("there are: {}", names.join(", ")),
        };
        Err(Problem::new(
            Code::NotFound,
            "there is no such error",
            "explain takes what stands behind # in an error's last line",
            fix,
        ))
    }
}

impl Checked for Explain {
    type Raw = ExplainArgs;

    async fn run(self, context: &Context<'_>) -> Result<Finish, CliError> {
        let text = self.0.map_or(PAGE, str::trim);
        context.out.line(text.trim_end())?;
        Ok(Finish::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(words: &[&str]) -> Result<Option<&'static str>, Problem> {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        Explain::try_from(ExplainArgs { words }).map(|found| found.0)
    }

    #[test]
    fn every_code_is_explained_by_the_name_that_its_error_shows() {
        for code in Code::ALL {
            let problem = Problem::new(code, "", "", "");
            let text = explained(&[&problem.docs]).unwrap().unwrap();
            assert!(text.len() > 80, "{}: {text}", problem.docs);
            assert_eq!(explained(&[code.anchor()]).unwrap(), Some(text));
        }
        assert_eq!(explained(&[]).unwrap(), None);
        assert_eq!(explained(&["denyed"]).unwrap_err().fix, "did you mean denied?");
    }
}
