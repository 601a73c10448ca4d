//! Questions to a person at the terminal. Never asks a pipe.
use std::io::{BufRead, IsTerminal, Read, Write};

use super::report::{CliError, shown, usage};
use crate::core::problem::Problem;

/// Longest answer that is read, in bytes.
const LONGEST: u64 = 1024;

/// Whether somebody can be asked: input and the stream of questions are both a terminal.
pub fn is_terminal() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// One line of an answer, without what stands around it.
///
/// # Errors
/// It cannot be read.
pub fn line(question: &str) -> Result<String, Problem> {
    let mut err = std::io::stderr().lock();
    let _ = write!(err, "{}: ", shown(question)).and_then(|()| err.flush());
    let mut line = String::new();
    std::io::stdin()
        .lock()
        .take(LONGEST)
        .read_line(&mut line)
        .map_err(|error| usage("there was no answer", error.to_string(), "try again"))?;
    Ok(line.trim().to_owned())
}

/// Saying no is no mistake in the arguments: it exits with 1.
fn not_confirmed(why: &str) -> CliError {
    let problem = usage("it was not confirmed", why, "nothing was changed; run it again");
    CliError::Exit { problem, code: 1 }
}

/// Asks for a yes.
///
/// # Errors
/// The answer is anything else.
pub fn for_yes(question: &str) -> Result<(), CliError> {
    let said = line(&format!("{question} [yes/no]"))?;
    if is_yes(&said) { Ok(()) } else { Err(not_confirmed("the answer was not yes")) }
}

/// Asks whether to do something more: again where the answer is neither yes nor no, and no where
/// there is none.
///
/// # Errors
/// It cannot be read.
pub fn whether(question: &str) -> Result<bool, Problem> {
    loop {
        let said = line(&format!("{question} [yes/no]"))?;
        match said.to_ascii_lowercase().as_str() {
            "yes" | "y" => return Ok(true),
            "no" | "n" | "" => return Ok(false),
            _ => {}
        }
    }
}

fn is_yes(said: &str) -> bool {
    said.eq_ignore_ascii_case("yes") || said.eq_ignore_ascii_case("y")
}

/// Asks for a certain word, whose case does not matter.
///
/// # Errors
/// The answer is another.
pub fn for_word(question: &str, word: &str) -> Result<(), CliError> {
    if line(question)?.eq_ignore_ascii_case(word) {
        Ok(())
    } else {
        Err(not_confirmed("the name that was typed is another"))
    }
}
