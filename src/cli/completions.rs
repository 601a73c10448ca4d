//! `agentkeys completions`: a shell's completions, from the table that `--help` comes from.
use argh::{ArgsInfo, FromArgs};

use super::args::GLOBAL;
use super::context::Context;
use super::report::{CliError, usage};
use super::{COMMANDS, Checked, Command, Finish, first_words, help, info};
use crate::core::problem::Problem;

#[derive(FromArgs, ArgsInfo)]
#[argh(
    description = "Prints the completions of a shell: bash, zsh or fish. They know commands and \
                   options, and ask no backend.",
    example = "agentkeys completions bash > /etc/bash_completion.d/agentkeys",
    example = "agentkeys completions zsh > ~/.zfunc/_agentkeys   # with ~/.zfunc in fpath",
    example = "agentkeys completions fish > ~/.config/fish/completions/agentkeys.fish"
)]
/// see above
pub struct CompletionsArgs {
    /// bash, zsh or fish
    #[argh(positional, arg_name = "shell")]
    words: Vec<String>,
}

/// For which shell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Completions {
    /// bash.
    Bash,
    /// zsh.
    Zsh,
    /// fish.
    Fish,
}

impl TryFrom<CompletionsArgs> for Completions {
    type Error = Problem;

    fn try_from(raw: CompletionsArgs) -> Result<Self, Problem> {
        match raw.words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["bash"] => Ok(Self::Bash),
            ["zsh"] => Ok(Self::Zsh),
            ["fish"] => Ok(Self::Fish),
            _ => Err(usage(
                "completions wants the name of a shell",
                "it knows bash, zsh and fish",
                "agentkeys completions bash",
            )),
        }
    }
}

impl Checked for Completions {
    type Raw = CompletionsArgs;

    async fn run(self, context: &Context<'_>) -> Result<Finish, CliError> {
        context.out.raw(self.text().as_bytes())?;
        Ok(Finish::Done)
    }
}

/// The options of every command, without the names of their values.
fn global() -> Vec<&'static str> {
    GLOBAL.iter().map(|(option, _)| option.split(' ').next().unwrap_or(option)).collect()
}

/// The options of one command.
fn options(command: &Command) -> Vec<&'static str> {
    let own = info(command).flags.iter().map(|flag| flag.long).filter(|flag| *flag != "--help");
    own.chain(global()).collect()
}

/// The words that may follow a command: the second words of commands of two, and the shells.
fn words(first: &str) -> Vec<&'static str> {
    if first == "completions" {
        return vec!["bash", "zsh", "fish"];
    }
    COMMANDS
        .iter()
        .filter_map(|command| command.shape.name.strip_prefix(first)?.strip_prefix(' '))
        .collect()
}

impl Completions {
    /// The script.
    pub fn text(self) -> String {
        match self {
            Self::Bash => bash(),
            Self::Zsh => format!(
                "#compdef agentkeys\nautoload -U +X bashcompinit && bashcompinit\n{}",
                bash()
            ),
            Self::Fish => fish(),
        }
    }
}

fn bash() -> String {
    let mut cases = String::new();
    for command in COMMANDS {
        let first = command.shape.name.split(' ').next().unwrap_or_default();
        let mut offered = options(command);
        offered.extend(words(first));
        cases.push_str(&format!("    {first}) offered=\"{}\" ;;\n", offered.join(" ")));
    }
    format!(
        "_agentkeys() {{\n  \
           local word=\"${{COMP_WORDS[COMP_CWORD]}}\" command=\"\" offered=\"\" at\n  \
           COMPREPLY=()\n  \
           for ((at = 1; at < COMP_CWORD; at++)); do\n    \
             case \"${{COMP_WORDS[at]}}\" in\n      \
               --) return ;;\n      \
               -*) ;;\n      \
               *) [ -n \"$command\" ] || command=\"${{COMP_WORDS[at]}}\" ;;\n    \
             esac\n  \
           done\n  \
           case \"$command\" in\n    \
             \"\") offered=\"{}\" ;;\n\
         {cases}  \
           esac\n  \
           COMPREPLY=($(compgen -W \"$offered\" -- \"$word\"))\n\
         }}\n\
         complete -o default -F _agentkeys agentkeys\n",
        [first_words(), global()].concat().join(" ")
    )
}

/// A text in single quotes, as fish reads it.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

fn fish() -> String {
    let mut out = String::from("complete -c agentkeys -f\n");
    for (option, what) in GLOBAL {
        let mut words = option.split(' ');
        let name = words.next().unwrap_or_default().trim_start_matches("--");
        let value = if words.next().is_some() { " -x" } else { "" };
        out.push_str(&format!("complete -c agentkeys -l {name}{value} -d {}\n", quoted(what)));
    }
    for command in COMMANDS {
        let mut names = command.shape.name.split(' ');
        let first = names.next().unwrap_or_default();
        let summary = quoted(&help::summary(command));
        out.push_str(&format!(
            "complete -c agentkeys -n __fish_use_subcommand -a {first} -d {summary}\n"
        ));
        let seen = format!("'__fish_seen_subcommand_from {first}'");
        for word in words(first) {
            out.push_str(&format!("complete -c agentkeys -n {seen} -a {word}\n"));
        }
        for flag in info(command).flags.iter().filter(|flag| flag.long != "--help") {
            let value =
                if matches!(flag.kind, argh::FlagInfoKind::Option { .. }) { " -r" } else { "" };
            let name = flag.long.trim_start_matches("--");
            let what = quoted(flag.description);
            out.push_str(&format!("complete -c agentkeys -n {seen} -l {name}{value} -d {what}\n"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command as Process, Stdio};

    use super::*;

    #[test]
    fn every_command_and_option_is_offered_by_each_shell() {
        for shell in [Completions::Bash, Completions::Zsh, Completions::Fish] {
            let text = shell.text();
            for command in COMMANDS {
                for word in command.shape.name.split(' ') {
                    assert!(text.contains(word), "{shell:?} lacks {word}");
                }
                for option in options(command) {
                    let name = option.trim_start_matches("--");
                    assert!(text.contains(name), "{shell:?} lacks {option}");
                }
            }
        }
    }

    #[test]
    fn bash_itself_completes_with_them() {
        let mut bash = Process::new("bash")
            .args(["--norc", "-s"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("bash is on every machine that builds this");
        let script = format!(
            "{}\nask() {{ COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); _agentkeys; \
             echo \"${{COMPREPLY[*]}}\"; }}\n\
             ask agentkeys rein\nask agentkeys store --from\nask agentkeys audit v\n\
             ask agentkeys --json tear\nask agentkeys run a -- st\n",
            Completions::Bash.text()
        );
        bash.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        let out = bash.wait_with_output().unwrap();
        assert_eq!(
            String::from_utf8(out.stdout).unwrap(),
            "reinstate\n--from-file --from-env\nverify\nteardown\n\n"
        );
    }
}
