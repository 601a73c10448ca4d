//! `agentkeys man`: the manual page, from the table that `--help` comes from.
use argh::{ArgsInfo, FlagInfoKind, FromArgs};

use super::args::GLOBAL;
use super::context::Context;
use super::help::{heading, summary, usage_line};
use super::report::CliError;
use super::{COMMANDS, Checked, Command, Finish, info};
use crate::core::problem::Problem;

#[derive(FromArgs, ArgsInfo)]
#[argh(
    description = "Prints the manual page of agentkeys, with every command, for man. It says what \
                   --help says.",
    example = "agentkeys man > ~/.local/share/man/man1/agentkeys.1",
    example = "agentkeys man | man -l -"
)]
/// see above
pub struct ManArgs {}

/// All of it.
pub struct Man;

impl TryFrom<ManArgs> for Man {
    type Error = Problem;

    fn try_from(_: ManArgs) -> Result<Self, Problem> {
        Ok(Self)
    }
}

impl Checked for Man {
    type Raw = ManArgs;

    async fn run(self, context: &Context<'_>) -> Result<Finish, CliError> {
        context.out.raw(page().as_bytes())?;
        Ok(Finish::Done)
    }
}

/// A text as roff has it: nothing in it is a request or an escape.
fn plain(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    match text.starts_with(['.', '\'']) {
        true => format!("\\&{text}"),
        false => text,
    }
}

fn page() -> String {
    let mut out = format!(
        ".TH AGENTKEYS 1 \"\" \"agentkeys {}\" \"User Commands\"\n.SH NAME\n\
         agentkeys \\- scoped, revocable credentials for AI agents\n.SH SYNOPSIS\n.B agentkeys\n\
         .I command\n[arguments] [options]\n.br\n.B agentkeysd\n[options]\n",
        env!("CARGO_PKG_VERSION")
    );
    let mut group = None;
    for command in COMMANDS {
        if group != Some(command.group) {
            group = Some(command.group);
            out.push_str(&format!(".SH {}\n", heading(command.group).to_uppercase()));
        }
        out.push_str(&section(command));
    }
    out.push_str(".SH OPTIONS OF EVERY COMMAND\n");
    for (option, what) in GLOBAL {
        out.push_str(&tagged(option, what));
    }
    out.push_str(
        ".SH EXIT STATUS\n0 where it was done; 2 for a line that is not understood; 3 denied; \
         4 not found; 5 expired; 6 not signed in; 7 the backend is not reached; 8 waits for an \
         approval; 1 for anything else.\n.B agentkeys run\nends as its program does.\n",
    );
    out
}

fn tagged(tag: &str, what: &str) -> String {
    format!(".TP\n.B {}\n{}\n", plain(tag), plain(what))
}

fn section(command: &Command) -> String {
    let about = info(command);
    let mut out = format!(
        ".SS agentkeys {}\n{}.\n.PP\n.nf\n{}\n.fi\n",
        plain(command.shape.name),
        plain(&summary(command)),
        plain(&usage_line(command))
    );
    // The first sentence stands above.
    if let Some((_, rest)) = about.description.split_once(". ") {
        out.push_str(&format!(".PP\n{}\n", plain(rest)));
    }
    for note in about.notes {
        out.push_str(&format!(".PP\n{}\n", plain(note)));
    }
    for flag in about.flags.iter().filter(|flag| flag.long != "--help" && !flag.hidden) {
        let tag = match flag.kind {
            FlagInfoKind::Switch => flag.long.to_owned(),
            FlagInfoKind::Option { arg_name } => format!("{} {arg_name}", flag.long),
        };
        out.push_str(&tagged(&tag, flag.description));
    }
    out.push_str(".PP\nExamples:\n.PP\n.nf\n.RS\n");
    for example in about.examples {
        out.push_str(&format!("{}\n", plain(example)));
    }
    out.push_str(".RE\n.fi\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_and_option_is_on_the_page_and_nothing_is_a_request_by_chance() {
        let page = page();
        for command in COMMANDS {
            let head = format!(".SS agentkeys {}\n", plain(command.shape.name));
            assert!(page.contains(&head), "{head}");
            for flag in info(command).flags.iter().filter(|flag| !flag.hidden) {
                assert!(page.contains(&plain(flag.long)) || flag.long == "--help", "{}", flag.long);
            }
        }
        let known =
            [".TH", ".SH", ".SS", ".PP", ".TP", ".B", ".I", ".br", ".nf", ".fi", ".RS", ".RE"];
        for line in page.lines().filter(|line| line.starts_with(['.', '\''])) {
            let request = line.split(' ').next().unwrap();
            assert!(known.contains(&request), "{line}");
        }
        assert_eq!(plain(".a\\b-c"), "\\&.a\\eb\\-c");
    }
}
