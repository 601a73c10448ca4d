//! What `--help` shows: from the table of commands, and nothing that is not in it.
use argh::{FlagInfoKind, Optionality};

use super::args::GLOBAL;
use super::{COMMANDS, Command, Group, info};

/// The overview, or the help of one command; under 80 columns, ends with a line end.
pub fn text(command: Option<&Command>) -> String {
    command.map_or_else(overview, of)
}

/// The heading of a group.
pub fn heading(group: Group) -> &'static str {
    match group {
        Group::Begin => "To begin with",
        Group::Credentials => "Credentials",
        Group::Agents => "Agents",
        Group::Record => "The record",
        Group::Machine => "This machine",
    }
}

/// The first sentence of a command's description.
pub fn summary(command: &Command) -> String {
    let description = info(command).description;
    description.split(". ").next().unwrap_or(description).trim_end_matches('.').to_owned()
}

fn overview() -> String {
    let mut out = String::from(
        "AgentKeys gives AI agents scoped, revocable credentials.\n\n\
         Usage: agentkeys <command> [arguments] [options]\n",
    );
    let mut group = None;
    for command in COMMANDS {
        if group != Some(command.group) {
            group = Some(command.group);
            out.push_str(&format!("\n{}:\n", heading(command.group)));
        }
        entry(&mut out, command.shape.name, &summary(command));
    }
    out.push_str("\nOptions of every command:\n");
    for (option, what) in GLOBAL {
        entry(&mut out, option, what);
    }
    out.push_str(
        "\nExamples:\n  \
         agentkeys quickstart\n  \
         agentkeys store my-agent openrouter\n  \
         agentkeys run my-agent -- printenv OPENROUTER_API_KEY\n  \
         agentkeys revoke my-agent\n\n\
         agentkeys <command> --help says more. Exit codes and errors: docs/errors.md\n",
    );
    out
}

/// How a command is written, on one line.
pub fn usage_line(command: &Command) -> String {
    let info = info(command);
    let mut usage = format!("agentkeys {}", command.shape.name);
    for positional in info.positionals {
        usage.push_str(&format!(" {}", positional.name));
    }
    for flag in info.flags.iter().filter(|flag| flag.long != "--help" && !flag.hidden) {
        let word = match flag.kind {
            FlagInfoKind::Switch => flag.long.to_owned(),
            FlagInfoKind::Option { arg_name } => format!("{} {arg_name}", flag.long),
        };
        let many = if flag.optionality == Optionality::Repeating { "..." } else { "" };
        usage.push_str(&format!(" [{word}]{many}"));
    }
    if command.shape.tail {
        usage.push_str(" -- command [arguments]");
    }
    usage
}

fn of(command: &Command) -> String {
    let info = info(command);
    let own: Vec<_> =
        info.flags.iter().filter(|flag| flag.long != "--help" && !flag.hidden).collect();
    let mut out = wrap(&format!("Usage: {}", usage_line(command)), "", "         ");
    out.push('\n');
    out.push_str(&wrap(info.description, "", ""));
    for note in info.notes {
        out.push('\n');
        out.push_str(&wrap(note, "", ""));
    }
    if !own.is_empty() {
        out.push_str("\nOptions:\n");
        for flag in &own {
            let word = match flag.kind {
                FlagInfoKind::Switch => flag.long.to_owned(),
                FlagInfoKind::Option { arg_name } => format!("{} {arg_name}", flag.long),
            };
            entry(&mut out, &word, flag.description);
        }
    }
    out.push_str("\nOptions of every command:\n");
    for (option, what) in GLOBAL {
        entry(&mut out, option, what);
    }
    out.push_str("\nExamples:\n");
    for example in info.examples {
        out.push_str(&format!("  {example}\n"));
    }
    out
}

const COLUMN: usize = 24;
const WIDTH: usize = 78;

/// A word and what it means, in two columns.
fn entry(out: &mut String, word: &str, what: &str) {
    let room = " ".repeat(COLUMN);
    let first = format!("  {word}");
    if first.len() + 2 > COLUMN {
        out.push_str(&format!("{first}\n"));
        out.push_str(&wrap(what, &room, &room));
    } else {
        out.push_str(&wrap(what, &format!("{first:<COLUMN$}"), &room));
    }
}

/// Breaks a text into lines of at most [`WIDTH`] columns.
fn wrap(text: &str, first: &str, rest: &str) -> String {
    let mut out = String::new();
    let mut line = first.to_owned();
    let mut empty = true;
    // What stands in brackets belongs together.
    for word in pieces(text) {
        if !empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            out.push_str(line.trim_end());
            out.push('\n');
            line = rest.to_owned();
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(&word);
        empty = false;
    }
    out.push_str(line.trim_end());
    out.push('\n');
    out
}

fn pieces(text: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut open = false;
    for word in text.split_whitespace() {
        if open {
            if let Some(last) = out.last_mut() {
                last.push(' ');
                last.push_str(word);
            }
        } else {
            out.push(word.to_owned());
        }
        // An option and its value, as the usage line has them.
        open = (open || word.starts_with("[--")) && !word.contains(']');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_examples_that_name_it_and_fit_the_screen() {
        for command in COMMANDS {
            let name = command.shape.name;
            let info = info(command);
            assert!(!info.examples.is_empty(), "{name}");
            for example in info.examples {
                assert!(example.contains(&format!("agentkeys {name}")), "{name}: {example}");
            }
            let text = text(Some(command));
            for line in text.lines() {
                assert!(line.chars().count() < 80, "{name}: {line}");
            }
            assert!(text.contains("--json") && text.contains("--verbose"), "{name}");
        }
        for line in text(None).lines() {
            assert!(line.chars().count() < 80, "{line}");
        }
    }

    #[test]
    fn the_overview_names_every_command() {
        let text = text(None);
        for command in COMMANDS {
            assert!(
                text.contains(&format!("\n  {} ", command.shape.name)),
                "{}",
                command.shape.name
            );
        }
    }

    #[test]
    fn the_examples_are_understood_by_the_program() {
        for command in COMMANDS {
            for example in info(command).examples {
                // Only what stands behind the last pipe, up to a comment, is ours.
                let line = example.rsplit(" | ").next().unwrap_or(example);
                let line = line.split("   #").next().unwrap_or(line);
                let line = line.split(" > ").next().unwrap_or(line);
                let words = line.split_whitespace().skip_while(|word| *word != "agentkeys").skip(1);
                let read = super::super::Invocation::read(words.map(Into::into).collect());
                assert!(read.is_ok(), "{example}: {:?}", read.err());
            }
        }
    }
}
