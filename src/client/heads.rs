//! What this client remembers of each account's audit log: the highest signed head that it has
//! seen, and whether the log was found to contradict it, so that one that was cut off, put back or
//! forked is noticed, and stays noticed.
//!
//! Must never go back to a lower head, never take one that the account's master key, as it was
//! first seen, has not signed, and never forget a contradiction by itself.
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::files::{self, Keep};
use super::places::Places;
use crate::core::audit::Head;
use crate::core::problem::{Answer, Problem};
use crate::core::set_back;
use crate::core::types::{AccountId, BackendId, Timestamp};

/// Largest file of one head, in bytes.
const MAX_FILE: usize = 4096;
/// Most accounts whose heads are remembered, so that a backend cannot fill the disk.
const MAX_HEADS: usize = 1024;
const LOCK_LIMIT: Duration = Duration::from_secs(10);

/// The highest head of one account that was seen.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeenHead {
    /// The head.
    pub head: Head,
    /// When it was first seen, by this machine's clock.
    pub seen_at: Timestamp,
    /// The address of the backend that showed it.
    pub address: String,
    /// That a log was shown which does not have it in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contradicted: Option<Contradiction>,
}

/// A log that does not have in it what was seen before.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contradiction {
    /// How that log ended; absent where nothing was shown of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shown: Option<Head>,
    /// When it was shown, by this machine's clock.
    pub at: Timestamp,
    /// The address of the backend that showed it.
    pub address: String,
    /// Whether that backend was told.
    pub reported: bool,
}

/// How a head compares with what was seen before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It is the first of its account.
    First,
    /// It is the one that was seen last.
    Same,
    /// It is further on; whether by the same log has to be asked.
    Further(Box<SeenHead>),
    /// It says that the master accepted a set-back since; whether one behind what was seen has to
    /// be asked.
    Accepted(Box<SeenHead>),
    /// The log ends before what was seen. An answer that was overtaken by another command's
    /// looks the same: whoever asks again gets one that does not.
    Behind(Box<SeenHead>),
    /// It has the number of what was seen, and is another.
    Forked(Box<SeenHead>),
    /// A contradiction was found before, and nobody has accepted it.
    Contradicted(Box<SeenHead>),
}

/// The remembered heads of one user.
pub struct Heads {
    state: PathBuf,
    folder: PathBuf,
}

impl Heads {
    /// The heads that the user with these places has seen.
    pub fn new(places: &Places) -> Self {
        Self { state: places.state().to_path_buf(), folder: places.heads() }
    }

    /// The highest head of an account of a backend; `None` if none was seen.
    ///
    /// # Errors
    /// `INTERNAL` for a file that is not ours alone, or is damaged.
    pub fn seen(&self, backend: BackendId, account: AccountId) -> Answer<Option<SeenHead>> {
        self.read(&self.file(backend, account))
    }

    /// The highest head of an account that the backend at `address` showed, when its id is not
    /// known. What does not read is passed over.
    pub fn seen_at(&self, address: &str, account: AccountId) -> Option<SeenHead> {
        let suffix = format!("-{account}.json");
        let files = std::fs::read_dir(&self.folder).ok()?.take(MAX_HEADS * 2).flatten();
        let of_account = files.filter(|f| f.file_name().to_string_lossy().ends_with(&suffix));
        let seen = of_account.filter_map(|file| self.read(&file.path()).ok().flatten());
        seen.filter(|seen| seen.address == address).max_by_key(|seen| seen.seen_at)
    }

    /// Compares a head with what was seen, and changes nothing.
    ///
    /// # Errors
    /// `INTERNAL` for a head that is not signed, or signed by another key than the first one was,
    /// and when what was seen does not read.
    pub fn standing(&self, head: &Head, address: &str) -> Answer<Standing> {
        let path = self.file(head.backend_id, head.account);
        let seen = self.read(&path)?;
        let is_known = seen.as_ref().is_some_and(|seen| seen.head == *head);
        if !is_known && !head.is_authentic() {
            return Err(untrusted(
                "the audit log's head is not authentic",
                format!("{address} showed one at event {} with a wrong signature", head.seq),
                "do not trust this backend until you know why; agentkeys doctor",
            ));
        }
        compare(seen, head, &path)
    }

    /// Remembers a head of which it is known that it goes on from what was seen, unless another
    /// command has gone further meanwhile, or found a contradiction.
    ///
    /// # Errors
    /// Those of [`Self::standing`], and `INTERNAL` when it cannot be stored.
    pub async fn remember(&self, head: &Head, address: &str, now: Timestamp) -> Answer<()> {
        let standing = self.standing(head, address)?;
        if matches!(standing, Standing::Same | Standing::Behind(_)) {
            return Ok(());
        }
        self.make_room(standing == Standing::First)?;
        let _lock = self.lock().await?;
        match self.standing(head, address)? {
            Standing::First | Standing::Further(_) | Standing::Accepted(_) => {}
            // Another command may have gone further meanwhile: then that one stays.
            Standing::Same | Standing::Behind(_) => return Ok(()),
            Standing::Forked(seen) => return Err(forked(head, &seen)),
            Standing::Contradicted(seen) => return Err(self.contradicted(&seen)),
        }
        let address = address.to_owned();
        let seen = SeenHead { head: head.clone(), seen_at: now, address, contradicted: None };
        self.write(&seen)
    }

    /// Remembers that a log which ends as `found` says does not have `seen` in it. Does nothing
    /// once the master has accepted that.
    ///
    /// # Errors
    /// `INTERNAL` when it cannot be stored.
    pub async fn mark(&self, seen: &Head, found: Contradiction) -> Answer<()> {
        let _lock = self.lock().await?;
        let Some(mut now) = self.seen(seen.backend_id, seen.account)? else { return Ok(()) };
        if now.head.set_backs == seen.set_backs {
            now.contradicted = Some(found);
            self.write(&now)?;
        }
        Ok(())
    }

    /// Forgets a contradiction: the whole log was verified up to `head`, and has in it what was
    /// seen before.
    ///
    /// # Errors
    /// `INTERNAL` when it cannot be stored.
    pub async fn verified(&self, seen: &Head, head: &Head, now: Timestamp) -> Answer<()> {
        let _lock = self.lock().await?;
        let Some(known) = self.seen(seen.backend_id, seen.account)? else { return Ok(()) };
        if known.head == *seen && known.contradicted.is_some() {
            let (head, address) = (head.clone(), known.address);
            self.write(&SeenHead { head, seen_at: now, address, contradicted: None })?;
        }
        Ok(())
    }

    /// The problem of a log that ends before what was seen, after it was asked for again.
    pub fn older(&self, head: &Head, seen: &SeenHead) -> Problem {
        older(head, seen)
    }

    /// The problem of a contradiction that was found.
    pub fn contradicted(&self, seen: &SeenHead) -> Problem {
        contradiction(seen.contradicted.as_ref().and_then(|found| found.shown.as_ref()), seen)
    }

    async fn lock(&self) -> Answer<files::Lock> {
        files::lock(&self.folder.join("lock"), LOCK_LIMIT).await
    }

    fn write(&self, seen: &SeenHead) -> Answer<()> {
        let path = self.file(seen.head.backend_id, seen.head.account);
        let bytes = serde_json::to_vec(seen).map_err(|_| damaged(&path))?;
        // Without waiting for the disk: after a power cut the head before stands there, or none.
        files::replace(&path, &bytes, Keep::Cheaply)
    }

    fn make_room(&self, is_new: bool) -> Answer<()> {
        if !is_new {
            return Ok(());
        }
        files::make_folder(&self.state)?;
        files::make_folder(&self.folder)?;
        let there = std::fs::read_dir(&self.folder)
            .map_err(|error| files::failed("list", &self.folder, &error))?;
        if there.take(MAX_HEADS).count() < MAX_HEADS {
            return Ok(());
        }
        Err(files::trouble(
            format!("{} is full", self.folder.display()),
            format!("it remembers the audit logs of {MAX_HEADS} accounts"),
            "remove those of backends that are no more",
        ))
    }

    fn file(&self, backend: BackendId, account: AccountId) -> PathBuf {
        self.folder.join(format!("{backend}-{account}.json"))
    }

    fn read(&self, path: &Path) -> Answer<Option<SeenHead>> {
        match files::read(path, MAX_FILE)? {
            None => Ok(None),
            // What a power cut may leave of one that was just replaced.
            Some(bytes) if bytes.is_empty() => Ok(None),
            Some(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|_| damaged(path)),
        }
    }
}

/// How `head` stands to what was seen.
fn compare(seen: Option<SeenHead>, head: &Head, path: &Path) -> Answer<Standing> {
    let Some(seen) = seen.map(Box::new) else { return Ok(Standing::First) };
    if seen.head.master_key != head.master_key {
        return Err(untrusted(
            "the account's master key is another one than before",
            format!(
                "on {} this client saw the audit log signed by {}, and now by {}",
                seen.seen_at.for_people(),
                seen.head.master_key,
                head.master_key
            ),
            format!("do not trust this backend until you know why; then: rm {}", path.display()),
        ));
    }
    let accepted = head.set_backs > seen.head.set_backs;
    Ok(match head.place().cmp(&seen.head.place()) {
        std::cmp::Ordering::Greater if accepted => Standing::Accepted(seen),
        _ if seen.contradicted.is_some() => Standing::Contradicted(seen),
        std::cmp::Ordering::Greater => Standing::Further(seen),
        std::cmp::Ordering::Less => Standing::Behind(seen),
        std::cmp::Ordering::Equal if seen.head.hash == head.hash => Standing::Same,
        std::cmp::Ordering::Equal => Standing::Forked(seen),
    })
}

/// The problem of a log that ends as `shown`, if that is known, and does not have in it what was
/// seen.
pub fn contradiction(shown: Option<&Head>, seen: &SeenHead) -> Problem {
    let Some(shown) = shown else { return missing(seen) };
    if shown.place() < seen.head.place() {
        older(shown, seen)
    } else if shown.seq == seen.head.seq {
        forked(shown, seen)
    } else {
        grown(shown, seen)
    }
}

fn missing(seen: &SeenHead) -> Problem {
    let cause = format!(
        "{} says that its log does not have event {} in it as this client saw it on {}",
        seen.address,
        seen.head.seq,
        seen.seen_at.for_people()
    );
    set_back::stopped("the audit log does not have in it what was seen before", cause)
}

fn older(shown: &Head, seen: &SeenHead) -> Problem {
    let cause = format!(
        "{} now ends it at event {}; on {} this client saw it go to event {}",
        seen.address,
        shown.seq,
        seen.seen_at.for_people(),
        seen.head.seq
    );
    set_back::stopped("the audit log is older than what was seen before", cause)
}

fn forked(shown: &Head, seen: &SeenHead) -> Problem {
    let cause = format!(
        "event {} is another one than the one that this client saw on {}: {} then, {} now",
        shown.seq,
        seen.seen_at.for_people(),
        seen.head.hash,
        shown.hash
    );
    set_back::stopped("the audit log was forked", cause)
}

fn grown(shown: &Head, seen: &SeenHead) -> Problem {
    let cause = format!(
        "{} now ends it at event {}, and its event {} is not the one that this client saw on {}",
        seen.address,
        shown.seq,
        seen.head.seq,
        seen.seen_at.for_people()
    );
    set_back::stopped("the audit log was forked", cause)
}

fn untrusted(detail: &str, cause: String, fix: impl Into<String>) -> Problem {
    let mut problem = files::trouble(detail, cause, fix);
    problem.title = "the audit log cannot be trusted".to_owned();
    problem
}

fn damaged(path: &Path) -> Problem {
    files::trouble(
        format!("cannot read {}", path.display()),
        "it is damaged: what this client has seen of the audit log is lost",
        format!("rm {}\nagentkeys audit verify", path.display()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::types::Hash32;
    use ring::signature::Ed25519KeyPair;

    const ADDRESS: &str = "unix:/s";
    const BACKEND: BackendId = BackendId([1; 16]);
    const ACCOUNT: AccountId = AccountId([2; 16]);

    fn heads(home: &Path) -> Heads {
        let variable = |name: &str| (name == "HOME").then(|| home.into());
        Heads::new(&Places::find(variable, crate::harden::effective_uid()).unwrap())
    }

    fn signed(key: u8, account: AccountId, seq: u64, hash: u8) -> Head {
        let key = Ed25519KeyPair::from_seed_unchecked(&[key; 32]).unwrap();
        Head::sign(BACKEND, account, seq, Hash32([hash; 32]), &key)
    }

    fn head(seq: u64, hash: u8) -> Head {
        signed(7, ACCOUNT, seq, hash)
    }

    async fn remember(heads: &Heads, head: &Head) -> Answer<()> {
        heads.remember(head, ADDRESS, Timestamp(1000)).await
    }

    fn standing(heads: &Heads, head: &Head) -> Standing {
        heads.standing(head, ADDRESS).unwrap()
    }

    fn seen(heads: &Heads) -> SeenHead {
        heads.seen(BACKEND, ACCOUNT).unwrap().unwrap()
    }

    fn accepted(seq: u64, hash: u8) -> Head {
        let key = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        Head::sign_set_back(BACKEND, ACCOUNT, seq, Hash32([hash; 32]), 1, &key)
    }

    fn found(shown: Head) -> Contradiction {
        let address = ADDRESS.to_owned();
        Contradiction { shown: Some(shown), at: Timestamp(2000), address, reported: true }
    }

    #[tokio::test]
    async fn a_head_that_goes_on_is_remembered_and_an_older_one_is_reported_with_what_was_seen() {
        let home = tempfile::tempdir().unwrap();
        let heads = heads(home.path());
        assert_eq!(standing(&heads, &head(3, 3)), Standing::First);
        remember(&heads, &head(3, 3)).await.unwrap();
        assert_eq!(standing(&heads, &head(3, 3)), Standing::Same);
        assert_eq!(standing(&heads, &head(9, 9)), Standing::Further(Box::new(seen(&heads))));
        remember(&heads, &head(9, 9)).await.unwrap();
        remember(&heads, &head(8, 8)).await.unwrap();
        let Standing::Behind(before) = standing(&heads, &head(8, 8)) else { panic!() };
        assert_eq!((before.head.seq, before.seen_at), (9, Timestamp(1000)));
        assert_eq!(seen(&heads).head, head(9, 9));
        let problem = heads.older(&head(8, 8), &before);
        assert!(problem.cause.contains("event 8") && problem.cause.contains("event 9"));
        assert!(problem.cause.contains("1970-01-01 00:00:01 UTC"), "{}", problem.cause);
    }

    #[tokio::test]
    async fn the_same_number_with_another_hash_is_a_fork() {
        let home = tempfile::tempdir().unwrap();
        let heads = heads(home.path());
        remember(&heads, &head(3, 3)).await.unwrap();
        let Standing::Forked(before) = standing(&heads, &head(3, 4)) else { panic!() };
        let forked = contradiction(Some(&head(3, 4)), &before);
        assert!(forked.detail.contains("forked"), "{}", forked.detail);
        assert!(remember(&heads, &head(3, 4)).await.is_err());
        assert_eq!(seen(&heads).head, head(3, 3));
    }

    #[tokio::test]
    async fn a_contradiction_stays_until_the_master_accepts_or_the_whole_log_was_verified() {
        let home = tempfile::tempdir().unwrap();
        let heads = heads(home.path());
        remember(&heads, &head(9, 9)).await.unwrap();
        heads.mark(&head(9, 9), found(head(5, 1))).await.unwrap();
        for next in [head(5, 1), head(9, 9), head(12, 1)] {
            assert!(matches!(standing(&heads, &next), Standing::Contradicted(_)), "{next:?}");
            assert!(remember(&heads, &next).await.is_err());
        }
        assert!(heads.contradicted(&seen(&heads)).cause.contains("event 5"));
        // Verified against another head than the one that was seen: nothing is forgotten.
        heads.verified(&head(8, 8), &head(12, 1), Timestamp(3000)).await.unwrap();
        assert!(seen(&heads).contradicted.is_some());
        heads.verified(&head(9, 9), &head(12, 2), Timestamp(3000)).await.unwrap();
        assert_eq!((seen(&heads).head, seen(&heads).contradicted), (head(12, 2), None));

        heads.mark(&head(12, 2), found(head(5, 1))).await.unwrap();
        assert!(matches!(standing(&heads, &accepted(6, 6)), Standing::Accepted(_)));
        remember(&heads, &accepted(6, 6)).await.unwrap();
        assert_eq!((seen(&heads).head, seen(&heads).contradicted), (accepted(6, 6), None));
        // What came before the acceptance is behind it, whatever its number.
        assert!(matches!(standing(&heads, &head(99, 9)), Standing::Behind(_)));
        // What another command found before that was accepted marks nothing.
        heads.mark(&head(12, 2), found(head(5, 1))).await.unwrap();
        assert_eq!(seen(&heads).contradicted, None);
    }

    #[tokio::test]
    async fn another_master_key_or_a_wrong_signature_is_never_remembered() {
        let home = tempfile::tempdir().unwrap();
        let heads = heads(home.path());
        let mut unsigned = head(1, 1);
        unsigned.seq = 2;
        assert!(remember(&heads, &unsigned).await.unwrap_err().detail.contains("authentic"));
        let mut raised = head(1, 1);
        raised.set_backs = 1;
        assert!(remember(&heads, &raised).await.unwrap_err().detail.contains("authentic"));
        assert_eq!(heads.seen(BACKEND, ACCOUNT).unwrap(), None);
        remember(&heads, &head(3, 3)).await.unwrap();
        let other = remember(&heads, &signed(8, ACCOUNT, 4, 4)).await.unwrap_err();
        assert!(other.detail.contains("master key"), "{}", other.detail);
        assert_eq!(seen(&heads).head, head(3, 3));
    }

    #[tokio::test]
    async fn accounts_do_not_mix_and_are_found_by_address_as_well() {
        let home = tempfile::tempdir().unwrap();
        let heads = heads(home.path());
        let other = AccountId([3; 16]);
        remember(&heads, &head(9, 9)).await.unwrap();
        remember(&heads, &signed(8, other, 1, 1)).await.unwrap();
        assert_eq!(heads.seen_at(ADDRESS, other).unwrap().head.seq, 1);
        assert_eq!(heads.seen_at(ADDRESS, ACCOUNT).unwrap().head.seq, 9);
        assert_eq!(heads.seen_at("unix:/other", ACCOUNT), None);
    }

    #[tokio::test]
    async fn a_damaged_memory_is_an_error_and_an_empty_one_is_none() {
        let home = tempfile::tempdir().unwrap();
        let heads = heads(home.path());
        remember(&heads, &head(3, 3)).await.unwrap();
        let path = heads.file(BACKEND, ACCOUNT);
        files::replace(&path, b"{}", Keep::Cheaply).unwrap();
        assert!(remember(&heads, &head(4, 4)).await.unwrap_err().cause.contains("damaged"));
        files::replace(&path, b"", Keep::Cheaply).unwrap();
        assert_eq!(standing(&heads, &head(4, 4)), Standing::First);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn of_many_at_once_the_highest_stays() {
        let home = tempfile::tempdir().unwrap();
        let place: std::sync::Arc<Path> = home.path().into();
        let many = (1..=32).map(|n| {
            let place = place.clone();
            tokio::spawn(async move { remember(&heads(&place), &head(n, n as u8)).await })
        });
        for one in many.collect::<Vec<_>>() {
            one.await.unwrap().unwrap();
        }
        assert_eq!(seen(&heads(home.path())).head.seq, 32);
    }
}
