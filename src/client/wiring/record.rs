//! What was changed in a client's file, so that it can be undone byte for byte. The part that was
//! taken out is kept without the tokens in it: those are in the vault, and are named.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Server;
use crate::client::files::{self, Keep};
use crate::core::identity::ServiceName;
use crate::core::problem::{Answer, Code, Problem};
use crate::core::types::Hash32;

/// Largest record of all, in bytes.
const MAX_RECORDS: usize = 4 * 1024 * 1024;
/// Most changes that are remembered; the oldest go first.
const MAX_KEPT: usize = 256;

/// A token that was moved into the vault.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Moved {
    /// Whose it is now.
    pub agent: String,
    /// Of which service.
    pub service: ServiceName,
}

/// A piece of what was taken out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Piece {
    Text(String),
    Moved(Moved),
}

/// One change of one file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// The file.
    pub file: PathBuf,
    /// The server's name in it.
    pub name: String,
    /// Whether the file was not there before.
    created: bool,
    /// The entry, if it was not there before: it can be taken out of a file that was changed since.
    pub added: Option<Server>,
    /// Where the change begins, in bytes.
    at: usize,
    removed: Vec<Piece>,
    inserted: String,
    before: Hash32,
    after: Hash32,
}

impl Record {
    /// The change from one text to another; `secrets` are not kept, but named.
    pub fn of(
        file: &Path,
        name: &str,
        before: Option<&str>,
        after: &str,
        added: Option<Server>,
        secrets: &[(Zeroizing<String>, Moved)],
    ) -> Self {
        let old = before.unwrap_or("");
        let begin = common(old.char_indices(), after.char_indices());
        let (old_rest, new_rest) = (&old[begin..], &after[begin..]);
        let end = common_end(old_rest, new_rest);
        let removed = &old_rest[..old_rest.len() - end];
        Self {
            file: file.to_owned(),
            name: name.to_owned(),
            created: before.is_none(),
            added,
            at: begin,
            removed: without(removed, secrets),
            inserted: new_rest[..new_rest.len() - end].to_owned(),
            before: Hash32::of(old.as_bytes()),
            after: Hash32::of(after.as_bytes()),
        }
    }

    /// That somebody else has changed what it changed.
    pub fn not_there(&self) -> Problem {
        Problem::new(
            Code::Invalid,
            format!("{} was changed at that place since", self.file.display()),
            format!("the entry of \"{}\" is not as it was left", self.name),
            "change it by hand; nothing was changed now",
        )
    }

    /// The tokens that are needed to undo it.
    pub fn moved(&self) -> impl Iterator<Item = &Moved> {
        self.removed.iter().filter_map(|piece| match piece {
            Piece::Moved(moved) => Some(moved),
            Piece::Text(_) => None,
        })
    }
}

/// How many bytes two texts begin with in common.
fn common(a: impl Iterator<Item = (usize, char)>, b: impl Iterator<Item = (usize, char)>) -> usize {
    let same = a.zip(b).take_while(|((_, a), (_, b))| a == b);
    same.last().map_or(0, |((at, c), _)| at + c.len_utf8())
}

/// How many bytes they end with in common.
fn common_end(a: &str, b: &str) -> usize {
    let same = a.chars().rev().zip(b.chars().rev()).take_while(|(a, b)| a == b);
    same.map(|(c, _)| c.len_utf8()).sum()
}

fn without(text: &str, secrets: &[(Zeroizing<String>, Moved)]) -> Vec<Piece> {
    let mut pieces = vec![Piece::Text(text.to_owned())];
    for (secret, moved) in secrets.iter().filter(|(secret, _)| !secret.is_empty()) {
        pieces = pieces
            .into_iter()
            .flat_map(|piece| match piece {
                Piece::Text(text) => {
                    let mut parts = Vec::new();
                    for (at, part) in text.split(secret.as_str()).enumerate() {
                        if at > 0 {
                            parts.push(Piece::Moved(moved.clone()));
                        }
                        parts.push(Piece::Text(part.to_owned()));
                    }
                    parts
                }
                moved => vec![moved],
            })
            .collect();
    }
    pieces
}

/// The text before a change, made of the text now; `None`: the file was not there.
///
/// # Errors
/// The changed place is not there any more.
pub fn undone(
    record: &Record,
    now: &str,
    tokens: &BTreeMap<(String, ServiceName), Zeroizing<String>>,
) -> Answer<Option<Zeroizing<String>>> {
    let mut removed = Zeroizing::new(String::new());
    for piece in &record.removed {
        match piece {
            Piece::Text(text) => removed.push_str(text),
            Piece::Moved(Moved { agent, service }) => {
                let token = tokens.get(&(agent.clone(), service.clone()));
                removed.push_str(token.ok_or_else(Problem::internal)?);
            }
        }
    }
    let unchanged = Hash32::of(now.as_bytes()) == record.after;
    let at = match unchanged {
        true => Some(record.at),
        // It was changed elsewhere: the one place that still reads so is the place.
        false => {
            let found = now.match_indices(&record.inserted).map(|(at, _)| at);
            let mut found = found.filter(|_| !record.inserted.is_empty());
            found.next().filter(|_| found.next().is_none())
        }
    };
    let Some(at) =
        at.filter(|at| now.get(*at..).is_some_and(|rest| rest.starts_with(&record.inserted)))
    else {
        return Err(record.not_there());
    };
    if record.created && unchanged {
        return Ok(None);
    }
    let mut before = Zeroizing::new(String::with_capacity(now.len() + removed.len()));
    before.push_str(&now[..at]);
    before.push_str(&removed);
    before.push_str(&now[at + record.inserted.len()..]);
    Ok(Some(before))
}

/// The changes that can be undone, the latest last.
#[derive(Default, Serialize, Deserialize)]
pub struct Records(Vec<Record>);

impl Records {
    /// Those that were written down.
    ///
    /// # Errors
    /// The file is not this user's alone, or not what was written.
    pub fn read(path: &Path) -> Answer<Self> {
        let Some(bytes) = files::read(path, MAX_RECORDS)? else { return Ok(Self::default()) };
        serde_json::from_slice(&bytes).map_err(|_| {
            let why = "it is not what agentkeys wire wrote";
            files::trouble(format!("cannot read {}", path.display()), why, "move it away")
        })
    }

    /// Writes them down.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Answer<()> {
        let bytes = serde_json::to_vec_pretty(self).map_err(|_| Problem::internal())?;
        if let Some(folder) = path.parent() {
            files::make_folder(folder)?;
        }
        files::replace(path, &bytes, Keep::Durably)
    }

    /// Adds one.
    pub fn push(&mut self, record: Record) {
        if self.0.len() >= MAX_KEPT {
            self.0.remove(0);
        }
        self.0.push(record);
    }

    /// Takes out the latest change of a server in a file.
    pub fn take(&mut self, file: &Path, name: &str) -> Option<Record> {
        let at = self.0.iter().rposition(|one| one.file == file && one.name == name)?;
        Some(self.0.remove(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(before: Option<&str>, after: &str, secrets: &[&str]) -> Record {
        let secrets: Vec<_> = secrets
            .iter()
            .map(|secret| {
                let moved = Moved { agent: "a".to_owned(), service: "s".parse().unwrap() };
                (Zeroizing::new((*secret).to_owned()), moved)
            })
            .collect();
        Record::of(Path::new("/f"), "n", before, after, None, &secrets)
    }

    fn tokens(secret: &str) -> BTreeMap<(String, ServiceName), Zeroizing<String>> {
        let key = ("a".to_owned(), "s".parse().unwrap());
        BTreeMap::from([(key, Zeroizing::new(secret.to_owned()))])
    }

    #[test]
    fn any_change_is_undone_byte_for_byte() {
        fn holds(before: String, after: String) -> bool {
            let record = record(Some(&before), &after, &[]);
            let none = BTreeMap::new();
            undone(&record, &after, &none).unwrap().as_deref() == Some(&before)
        }
        quickcheck::quickcheck(holds as fn(String, String) -> bool);
    }

    #[test]
    fn a_token_is_not_kept_and_comes_back_from_the_vault() {
        let (before, after) = ("x \"T\": \"ghp_secret\", y", "x y");
        let record = record(Some(before), after, &["ghp_secret"]);
        assert!(!serde_json::to_string(&record).unwrap().contains("ghp_secret"));
        assert_eq!(record.moved().count(), 1);
        let back = undone(&record, after, &tokens("ghp_secret")).unwrap();
        assert_eq!(back.as_deref().map(String::as_str), Some(before));
    }

    #[test]
    fn what_was_changed_elsewhere_is_left_and_what_was_changed_there_is_refused() {
        let record = record(Some("{ }"), "{ ours }", &[]);
        let none = BTreeMap::new();
        let back = undone(&record, "{ theirs, ours }", &none).unwrap().unwrap();
        assert_eq!(*back, "{ theirs, }");
        assert!(undone(&record, "{ theirs }", &none).is_err());
        assert!(undone(&record, "{ ours ours }", &none).is_err(), "which of them?");
        let made = self::record(None, "new", &[]);
        assert_eq!(undone(&made, "new", &none).unwrap(), None);
    }
}
