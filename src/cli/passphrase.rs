//! Asks the person for a passphrase: by the program that `AGENTKEYS_ASKPASS` names, so that a
//! desktop can show a window of its own, else on the terminal itself (`/dev/tty`), also where
//! standard input and output lead elsewhere.
//!
//! Must never take one from an argument, an environment variable or a pipe: other programs could
//! have put it there, or read it there.
use std::ffi::OsString;
use std::io::Read;
use std::process::{Command, Stdio};

use async_trait::async_trait;
use zeroize::Zeroizing;

use super::report::usage;
use crate::client::guard::Asker;
use crate::core::passphrase::{self, MAX_BYTES, Unfit};
use crate::core::problem::{Answer, Code, Problem};
use crate::core::secret::SecretBytes;
use crate::core::types::Hash32;
use crate::harden;

/// The variable that names the program to ask by. It gets the question as its one argument, and
/// answers on its standard output.
pub const ASKPASS_VARIABLE: &str = "AGENTKEYS_ASKPASS";

/// Asks on this machine.
pub struct Person;

#[async_trait]
impl Asker for Person {
    async fn passphrase(&self, prompt: &str) -> Answer<Option<SecretBytes>> {
        let prompt = prompt.to_owned();
        // A thread of its own: whoever is asked has all the time there is, and the connection
        // lives on meanwhile.
        let asking = tokio::task::spawn_blocking(move || ask(&prompt));
        asking.await.map_err(|_| not_answered("the question was given up"))?
    }

    fn most_asked(&self) -> u32 {
        // A program that was wrong once is wrong again.
        if askpass().is_some() { 1 } else { 3 }
    }

    fn terminal(&self) -> Option<Hash32> {
        harden::own_terminal_session().map(|terminal| terminal.digest())
    }
}

/// Asks for a passphrase that is chosen now: twice, and not too short.
///
/// # Errors
/// Nobody can be asked, or what they typed cannot be used.
pub async fn choose_new(whose: &str) -> Answer<SecretBytes> {
    let nobody = || {
        usage(
            "there is nobody to ask for a passphrase",
            format!("this process has no terminal, and {ASKPASS_VARIABLE} names no program"),
            "run it in a terminal",
        )
    };
    let unfit = |unfit: Unfit| {
        usage("the passphrase cannot be used", format!("it {unfit}"), "choose one, and try again")
    };
    let first = Person.passphrase(&format!("New passphrase for {whose}: ")).await?;
    let first = first.ok_or_else(nobody)?;
    passphrase::check(&first, true).map_err(unfit)?;
    let second = Person.passphrase("The same again: ").await?.ok_or_else(nobody)?;
    // Exposed to be compared with each other, by the person who typed both.
    if first.expose() != second.expose() {
        return Err(unfit(Unfit::TypedTwice));
    }
    Ok(first)
}

fn not_answered(why: impl Into<String>) -> Problem {
    let fix = "run it again, and answer";
    Problem::new(Code::Denied, "the passphrase was not given", why, fix)
}

fn askpass() -> Option<OsString> {
    std::env::var_os(ASKPASS_VARIABLE).filter(|program| !program.is_empty())
}

fn ask(prompt: &str) -> Answer<Option<SecretBytes>> {
    match askpass() {
        Some(program) => by_program(Command::new(program), prompt).map(Some),
        None => on_the_terminal(prompt),
    }
}

fn on_the_terminal(prompt: &str) -> Answer<Option<SecretBytes>> {
    // Without a terminal of its own this process has nobody to ask.
    if std::fs::File::open("/dev/tty").is_err() {
        return Ok(None);
    }
    let typed = rpassword::prompt_password(prompt);
    let typed = Zeroizing::new(typed.map_err(|error| not_answered(error.to_string()))?);
    Ok(Some(SecretBytes::new(typed.as_bytes().to_vec())))
}

/// The first line that a program answers.
fn by_program(mut program: Command, prompt: &str) -> Answer<SecretBytes> {
    let failed = |why: String| not_answered(format!("{ASKPASS_VARIABLE}: {why}"));
    program.arg(prompt.trim_end()).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut running = program.spawn().map_err(|error| failed(error.to_string()))?;
    // At full size from the start: growing would leave copies behind.
    let mut answer = Zeroizing::new(Vec::with_capacity(MAX_BYTES + 3));
    if let Some(out) = running.stdout.take() {
        let read = out.take(MAX_BYTES as u64 + 3).read_to_end(&mut answer);
        read.map_err(|error| failed(error.to_string()))?;
    }
    let ended = running.wait().map_err(|error| failed(error.to_string()))?;
    if !ended.success() {
        return Err(failed(format!("it ended with {ended}")));
    }
    let end = answer.iter().position(|byte| *byte == b'\n').unwrap_or(answer.len());
    answer.truncate(end);
    if answer.last() == Some(&b'\r') {
        answer.pop();
    }
    Ok(SecretBytes::new(std::mem::take(&mut *answer)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-c", script, "askpass"]);
        shell
    }

    #[test]
    fn a_program_gets_the_question_and_its_first_line_is_the_answer() {
        let answer = by_program(shell("echo \"$1\"; echo more"), "Passphrase: ").unwrap();
        assert_eq!(answer.expose(), b"Passphrase:");
        assert_eq!(by_program(shell("printf 'a b\\r\\n'"), "?").unwrap().expose(), b"a b");
    }

    #[test]
    fn a_program_that_fails_is_missing_or_does_not_stop_is_no_answer() {
        assert_eq!(by_program(shell("echo x; exit 1"), "?").err().unwrap().code, Code::Denied);
        assert!(by_program(Command::new("/nowhere/askpass"), "?").is_err());
        // It is cut off, and dies of it.
        assert!(by_program(shell("exec yes"), "?").is_err());
    }
}
