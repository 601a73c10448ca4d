//! What a child claims, made so that it can be read and not be taken for anything else: quoted,
//! its quotation marks escaped, odd letters named, look-alikes of known names pointed out, and
//! folded here, so that no terminal folds it to where another line could begin.
use std::collections::BTreeSet;

use super::report::shown;
use crate::core::backend::AgentSummary;
use crate::core::identity::AgentIdentity;

/// Columns of a terminal.
const WIDTH: usize = 80;
/// Columns before the text of a line.
const INDENT: usize = 13;
/// Longest word that is moved to the next line rather than cut.
const MOST_MOVED: usize = 24;
/// How many odd characters of a claim are named.
const MOST_NAMED: usize = 6;

/// One line: a word, and what it stands for.
pub type Line = (&'static str, String);

/// A text in quotation marks that it cannot leave.
pub fn quoted(text: &str) -> String {
    format!("\"{}\"", shown(&text.replace('\\', "\\\\").replace('"', "\\\"")))
}

/// Says which characters of a text are none that every keyboard has: some look just like others.
fn odd(text: &str) -> Option<String> {
    let odd: BTreeSet<char> = text.chars().filter(|c| !c.is_ascii()).collect();
    let mut named: Vec<String> =
        odd.iter().take(MOST_NAMED).map(|c| format!("U+{:04X}", u32::from(*c))).collect();
    if odd.len() > MOST_NAMED {
        named.push("others".to_owned());
    }
    let named = named.join(", ");
    (!odd.is_empty()).then(|| format!(" (not plain ASCII: {named}; may look like another)"))
}

/// The line of one claim.
pub fn claimed(what: &str, text: Option<&str>) -> Line {
    let text = match text {
        None => format!("no {what}"),
        Some(text) => format!("{what} {}{}", quoted(text), odd(text).unwrap_or_default()),
    };
    ("claimed", text)
}

/// A name as somebody who looks at it briefly takes it: letters that look alike made one.
fn at_a_glance(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in name.chars().map(|c| c.to_ascii_lowercase()) {
        match c {
            '0' => out.push('o'),
            '1' | 'i' => out.push('l'),
            '5' => out.push('s'),
            '2' => out.push('z'),
            '8' => out.push('b'),
            '.' | '-' | '_' => {}
            c => out.push(c),
        }
    }
    out.replace("rn", "m").replace("vv", "w").replace("cl", "d")
}

/// Whether a wished name can be taken for the name of an agent of this account.
pub fn like_another(wished: &str, agents: &[AgentSummary]) -> Option<String> {
    let names = || {
        agents.iter().flat_map(|agent| {
            agent.identities.iter().filter_map(|identity| match identity {
                AgentIdentity::Alias(alias) => Some(alias.shown()),
                _ => None,
            })
        })
    };
    let glance = at_a_glance(wished);
    let like = names().find(|name| at_a_glance(name) == glance)?;
    Some(format!("the name looks like your agent \"{like}\", and is not it"))
}

/// Columns that a character takes at most.
fn columns(c: char) -> usize {
    if c.is_ascii() { 1 } else { 2 }
}

/// The lines as they are written: harmless, and folded so that what goes on in the next line
/// stands where no word of ours stands.
pub fn folded(lines: &[Line]) -> Vec<String> {
    let mut out = Vec::new();
    for (word, text) in lines {
        let (mut word, mut line, mut width) = (*word, String::new(), INDENT);
        for c in shown(text).chars() {
            if width + columns(c) > WIDTH {
                // Between two words, if there is a gap near the end.
                let gap = line.rfind(' ').map_or(line.len(), |gap| gap + 1);
                let tail: usize = line[gap..].chars().map(columns).sum();
                let rest = if tail <= MOST_MOVED { line.split_off(gap) } else { String::new() };
                out.push(format!("  {word:<10} {line}").trim_end().to_owned());
                (word, line) = ("", format!("  {rest}"));
                width = INDENT + line.chars().map(columns).sum::<usize>();
            }
            line.push(c);
            width += columns(c);
        }
        out.push(format!("  {word:<10} {line}").trim_end().to_owned());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::scope::Scope;
    use crate::core::types::{Timestamp, WalletAddress};

    #[test]
    fn a_name_that_looks_like_another_is_pointed_out() {
        let agents = ["prod-bot", "mill"].map(|name| AgentSummary {
            wallet: WalletAddress([3; 20]),
            name: None,
            identities: vec![name.parse().unwrap(), "prod@x.org".parse().unwrap()],
            scope: Scope::everything(),
            revoked: None,
            daemon: None,
            created_at: Timestamp(0),
        });
        for (wished, word) in [
            ("pr0d-bot", "looks like your agent \"prod-bot\""),
            ("prod_bot", "looks like your agent \"prod-bot\""),
            ("rnill", "looks like your agent \"mill\""),
            ("mi11", "looks like your agent \"mill\""),
        ] {
            let said = like_another(wished, &agents);
            assert!(said.as_ref().is_some_and(|said| said.contains(word)), "{wished}: {said:?}");
        }
        for fine in ["prod-bot-2", "staging", "bot"] {
            assert_eq!(like_another(fine, &agents), None, "{fine}");
        }
    }

    #[test]
    fn letters_that_may_look_like_others_are_named() {
        assert_eq!(odd("laptop"), None);
        let said = odd("l\u{430}ptop\u{fc}").unwrap();
        assert!(said.contains("U+00FC, U+0430"), "{said}");
        assert!(
            odd("\u{3b1}\u{3b2}\u{3b3}\u{3b4}\u{3b5}\u{3b6}\u{3b7}").unwrap().contains("others")
        );
    }

    #[test]
    fn no_claim_leaves_its_quotation_marks_or_begins_a_line() {
        assert_eq!(quoted(r#"a" seen "b\"#), r#""a\" seen \"b\\""#);
        // Enough blanks to let a terminal of 80 columns fold it right before a word of ours.
        for fill in 30..80 {
            let claim = format!("{}{}", "x".repeat(fill), "  seen       unix socket, uid 0");
            let said = folded(&[("claimed", format!("reason {}", quoted(&claim)))]);
            for (at, line) in said.iter().enumerate() {
                assert!(line.chars().map(columns).sum::<usize>() <= WIDTH, "{line}");
                let start = if at == 0 { "  claimed    reason" } else { "               " };
                assert!(line.starts_with(start), "{line}");
            }
        }
        let wide = folded(&[("claimed", "\u{65e5}".repeat(64))]);
        assert!(wide.iter().all(|line| line.chars().map(columns).sum::<usize>() <= WIDTH));
    }
}
