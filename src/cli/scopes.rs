//! Scopes as people write and compare them: the lists of the command line, and what one scope
//! allows beyond another.
use std::cmp::Ordering;
use std::collections::BTreeSet;

use crate::core::identity::ServiceName;
use crate::core::problem::Problem;
use crate::core::scope::{MAX_SERVICES, Scope};

/// Reads `a,b,c`. `field` is the option that it came with.
///
/// # Errors
/// One of them is no service's name, or there are more than a scope holds. No word is repeated:
/// it may be a secret in the wrong place.
pub fn services(field: &str, list: &str) -> Result<BTreeSet<ServiceName>, Problem> {
    let mut names = BTreeSet::new();
    for (at, word) in list.split(',').map(str::trim).enumerate() {
        let name: ServiceName = word.parse().map_err(|_| {
            let which = if word.is_empty() { "is empty" } else { "is no service's name" };
            Problem::invalid(
                field,
                format!(
                    "word {} of the list {which}; it wants names with commas between them, each \
                     of letters, digits, dots, dashes and underscores, such as openrouter,github",
                    at + 1
                ),
            )
        })?;
        names.insert(name);
        if names.len() > MAX_SERVICES {
            let why = format!("a scope names at most {MAX_SERVICES} services");
            return Err(Problem::invalid(field, why));
        }
    }
    Ok(names)
}

/// Reads `a,b`, `all` or `none`, each with `:ro` behind it or without. `+a` in the list is `a`, and
/// that keys of it may be made.
///
/// # Errors
/// It is none of them.
pub fn short_form(field: &str, text: &str) -> Result<Scope, Problem> {
    let (list, read_only) = match text.strip_suffix(":ro") {
        Some(list) => (list, true),
        None => (text, false),
    };
    let (made, named): (Vec<&str>, Vec<&str>) =
        list.split(',').map(str::trim).partition(|word| word.starts_with('+'));
    let made: Vec<&str> = made.iter().map(|word| &word[1..]).collect();
    let provision = match made.as_slice() {
        [] => BTreeSet::new(),
        made => services(field, &made.join(","))?,
    };
    let services = match named.join(",").as_str() {
        "all" => None,
        "none" => Some(provision.clone()),
        "" if !provision.is_empty() => Some(provision.clone()),
        list => Some(&services(field, list)? | &provision),
    };
    Ok(Scope { services, provision, read_only, expose: None })
}

/// What `to` allows that `from` does not, and the other way round, in words.
pub struct Difference {
    /// Empty when nothing is added.
    pub added: Vec<String>,
    /// Empty when nothing is taken away.
    pub taken: Vec<String>,
}

/// Compares two scopes.
pub fn difference(from: &Scope, to: &Scope) -> Difference {
    let (mut added, mut taken) = beyond(from, to);
    let made = |name: &ServiceName| format!("to have keys made for {name}");
    added.extend(to.provision.difference(&from.provision).map(made));
    taken.extend(from.provision.difference(&to.provision).map(made));
    match (from.read_only, to.read_only) {
        (true, false) => added.push("to store".to_owned()),
        (false, true) => taken.push("to store".to_owned()),
        _ => {}
    }
    let (before, after) = (from.exposure(), to.exposure());
    match before.cmp(&after) {
        Ordering::Less => added.push(format!("keys shown as far as {after}")),
        Ordering::Greater => taken.push(format!("keys shown further than {after}")),
        Ordering::Equal => {}
    }
    Difference { added, taken }
}

fn beyond(from: &Scope, to: &Scope) -> (Vec<String>, Vec<String>) {
    let names = |names: &mut dyn Iterator<Item = &ServiceName>| {
        names.map(|name| name.as_str().to_owned()).collect::<Vec<_>>()
    };
    let all_but = |names: &BTreeSet<ServiceName>| {
        let names: Vec<_> = names.iter().map(ServiceName::as_str).collect();
        match names.as_slice() {
            [] => vec!["all services, later ones too".to_owned()],
            names => vec![format!("all services but {}, later ones too", names.join(", "))],
        }
    };
    match (&from.services, &to.services) {
        (None, None) => (Vec::new(), Vec::new()),
        (Some(from), None) => (all_but(from), Vec::new()),
        (None, Some(to)) => (Vec::new(), all_but(to)),
        (Some(from), Some(to)) => {
            (names(&mut to.difference(from)), names(&mut from.difference(to)))
        }
    }
}

/// The words with commas between them, or `nothing`.
pub fn or_nothing(words: &[String]) -> String {
    if words.is_empty() { "nothing".to_owned() } else { words.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(text: &str) -> Scope {
        short_form("--scope", text).unwrap()
    }

    #[test]
    fn a_scope_is_a_list_all_or_none() {
        let text = |text: &str| short_form("--scope", text).map(|scope| scope.to_string()).ok();
        assert_eq!(text("github,openrouter:ro").unwrap(), "read github, openrouter");
        assert_eq!(text("OpenRouter").unwrap(), "read and store openrouter");
        assert_eq!(text("none").unwrap(), "no service");
        assert_eq!(text("a,+b:ro").unwrap(), "read a, b; have keys made for b");
        assert_eq!(text("+b").unwrap(), "read and store b; have keys made for b");
        let all = "read and store all of the agent's services, later ones too";
        assert_eq!(text("all,+b").unwrap(), format!("{all}; have keys made for b"));
        assert_eq!(text("none,+b"), text("+b"));
        assert!(text("all:ro").unwrap().starts_with("read all"));
        for bad in ["", ":ro", "a,,b", "a b", "a:rw"] {
            assert_eq!(text(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_wrong_name_is_counted_and_never_repeated() {
        let cause = |list: &str| services("--services", list).unwrap_err().cause.clone();
        assert!(cause("github,sk-or v1").contains("word 2 of the list is no service's name"));
        assert!(!cause("github,sk-or v1").contains("sk-or"));
        assert!(cause("github,").contains("word 2 of the list is empty"));
        let many = |count: usize| (0..count).map(|n| format!("s{n}")).collect::<Vec<_>>().join(",");
        assert_eq!(services("--services", &many(256)).unwrap().len(), 256);
        assert!(cause(&many(257)).contains("at most 256"));
        assert_eq!(services("--services", "a, A ,a").unwrap().len(), 1);
    }

    #[test]
    fn what_is_added_and_what_is_taken_away_is_said() {
        let said = |from: &str, to: &str| {
            let Difference { added, taken } = difference(&scope(from), &scope(to));
            format!("+ {} - {}", or_nothing(&added), or_nothing(&taken))
        };
        assert_eq!(said("a,b", "b,a"), "+ nothing - nothing");
        assert_eq!(said("a,b", "a,+b"), "+ to have keys made for b - nothing");
        assert_eq!(said("all,+b", "all"), "+ nothing - to have keys made for b");
        assert_eq!(said("a,b", "b,c,d"), "+ c, d - a");
        assert_eq!(said("a:ro", "a"), "+ to store - nothing");
        assert_eq!(said("all", "all:ro"), "+ nothing - to store");
        assert_eq!(said("a:ro", "all"), "+ all services but a, later ones too, to store - nothing");
        assert_eq!(said("none", "all"), "+ all services, later ones too - nothing");
        assert_eq!(said("all", "none"), "+ nothing - all services, later ones too");
        assert_eq!(said("all", "a"), "+ nothing - all services but a, later ones too");
    }
}
