//! What this client remembers of each account's audit log: the highest signed head that it has
//! seen, so that a log that was cut off, put back or forked is noticed.
//!
//! Must never go back to a lower head, and never take one that the account's master key, as it
//! was first seen, has not signed.
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::files::{self, Keep};
use super::places::Places;
use crate::core::audit::Head;
use crate::core::problem::{Answer, Problem};
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
}

/// How a head compares with what was seen before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It is the first of its account, or further on; it is remembered now.
    Advanced,
    /// It is the one that was seen last.
    Unchanged,
    /// The log ends before what was seen. An answer that was overtaken by another command's
    /// looks the same: whoever asks again gets one that does not.
    Behind(Box<SeenHead>),
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

    /// Compares a head with what was seen, and remembers it if it is further on.
    ///
    /// # Errors
    /// `INTERNAL` for a head that is not signed, or signed by another key than the first one
    /// was, or that has the number of the one that was seen and another hash; and when it
    /// cannot be stored.
    pub async fn remember(&self, head: &Head, address: &str, now: Timestamp) -> Answer<Standing> {
        let path = self.file(head.backend_id, head.account);
        let seen = self.read(&path)?;
        if seen.as_ref().is_some_and(|seen| seen.head == *head) {
            return Ok(Standing::Unchanged);
        }
        if !head.is_authentic() {
            return Err(changed(
                "the audit log's head is not authentic",
                format!("{address} showed one at event {} with a wrong signature", head.seq),
                "do not trust this backend until you know why; agentkeys doctor",
            ));
        }
        if let Some(standing) = compare(seen.as_ref(), head, &path)? {
            return Ok(standing);
        }
        self.make_room(seen.is_none())?;
        let _lock = files::lock(&self.folder.join("lock"), LOCK_LIMIT).await?;
        // Another command may have gone further meanwhile: then that one stays.
        match compare(self.read(&path)?.as_ref(), head, &path)? {
            Some(Standing::Behind(_)) => return Ok(Standing::Unchanged),
            Some(standing) => return Ok(standing),
            None => {}
        }
        let seen = SeenHead { head: head.clone(), seen_at: now, address: address.to_owned() };
        let bytes = serde_json::to_vec(&seen).map_err(|_| damaged(&path))?;
        // Without waiting for the disk: after a power cut the head before stands there, or none.
        files::replace(&path, &bytes, Keep::Cheaply)?;
        Ok(Standing::Advanced)
    }

    /// The problem of a log that ends before what was seen, after it was asked for again.
    pub fn older(&self, head: &Head, seen: &SeenHead) -> Problem {
        let path = self.file(head.backend_id, head.account);
        changed(
            "the audit log is older than what was seen before",
            format!(
                "{} now ends it at event {}; on {} this client saw it go to event {}",
                seen.address,
                head.seq,
                seen.seen_at.for_people(),
                seen.head.seq
            ),
            format!(
                "agentkeys audit verify\nif you put a backup back yourself: rm {}",
                path.display()
            ),
        )
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

/// How `head` stands to what was seen; `None` if it is to be remembered.
fn compare(seen: Option<&SeenHead>, head: &Head, path: &Path) -> Answer<Option<Standing>> {
    let Some(seen) = seen else { return Ok(None) };
    let when = seen.seen_at.for_people();
    if seen.head.master_key != head.master_key {
        return Err(changed(
            "the account's master key is another one than before",
            format!(
                "on {when} this client saw the audit log signed by {}, and now by {}",
                seen.head.master_key, head.master_key
            ),
            format!("do not trust this backend until you know why; then: rm {}", path.display()),
        ));
    }
    if seen.head.seq > head.seq {
        return Ok(Some(Standing::Behind(Box::new(seen.clone()))));
    }
    if seen.head.seq < head.seq {
        return Ok(None);
    }
    if seen.head.hash == head.hash {
        return Ok(Some(Standing::Unchanged));
    }
    Err(changed(
        "the audit log was forked",
        format!(
            "event {} is another one than the one that this client saw on {when}: {} then, {} now",
            head.seq, seen.head.hash, head.hash
        ),
        format!("agentkeys audit verify\nif you put a backup back yourself: rm {}", path.display()),
    ))
}

fn changed(detail: &str, cause: String, fix: impl Into<String>) -> Problem {
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

    async fn remember(heads: &Heads, head: &Head) -> Answer<Standing> {
        heads.remember(head, ADDRESS, Timestamp(1000)).await
    }

    #[tokio::test]
    async fn a_head_that_goes_on_is_remembered_and_an_older_one_is_reported_with_what_was_seen() {
        let home = tempfile::tempdir().unwrap();
        let heads = heads(home.path());
        assert_eq!(remember(&heads, &head(3, 3)).await, Ok(Standing::Advanced));
        assert_eq!(remember(&heads, &head(3, 3)).await, Ok(Standing::Unchanged));
        assert_eq!(remember(&heads, &head(9, 9)).await, Ok(Standing::Advanced));
        let Ok(Standing::Behind(seen)) = remember(&heads, &head(8, 8)).await else { panic!() };
        assert_eq!((seen.head.seq, seen.seen_at), (9, Timestamp(1000)));
        assert_eq!(heads.seen(BACKEND, ACCOUNT).unwrap().unwrap().head, head(9, 9));
        let problem = heads.older(&head(8, 8), &seen);
        assert!(problem.cause.contains("event 8") && problem.cause.contains("event 9"));
        assert!(problem.cause.contains("1970-01-01 00:00:01 UTC"), "{}", problem.cause);
    }

    #[tokio::test]
    async fn the_same_number_with_another_hash_is_a_fork() {
        let home = tempfile::tempdir().unwrap();
        let heads = heads(home.path());
        remember(&heads, &head(3, 3)).await.unwrap();
        let forked = remember(&heads, &head(3, 4)).await.unwrap_err();
        assert!(forked.detail.contains("forked"), "{}", forked.detail);
        assert_eq!(heads.seen(BACKEND, ACCOUNT).unwrap().unwrap().head, head(3, 3));
    }

    #[tokio::test]
    async fn another_master_key_or_a_wrong_signature_is_never_remembered() {
        let home = tempfile::tempdir().unwrap();
        let heads = heads(home.path());
        let mut unsigned = head(1, 1);
        unsigned.seq = 2;
        assert!(remember(&heads, &unsigned).await.unwrap_err().detail.contains("authentic"));
        assert_eq!(heads.seen(BACKEND, ACCOUNT).unwrap(), None);
        remember(&heads, &head(3, 3)).await.unwrap();
        let other = remember(&heads, &signed(8, ACCOUNT, 4, 4)).await.unwrap_err();
        assert!(other.detail.contains("master key"), "{}", other.detail);
        assert_eq!(heads.seen(BACKEND, ACCOUNT).unwrap().unwrap().head, head(3, 3));
    }

    #[tokio::test]
    async fn accounts_do_not_mix_and_are_found_by_address_as_well() {
        let home = tempfile::tempdir().unwrap();
        let heads = heads(home.path());
        let other = AccountId([3; 16]);
        remember(&heads, &head(9, 9)).await.unwrap();
        assert_eq!(remember(&heads, &signed(8, other, 1, 1)).await, Ok(Standing::Advanced));
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
        assert_eq!(remember(&heads, &head(4, 4)).await, Ok(Standing::Advanced));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn of_many_at_once_the_highest_stays() {
        let home = tempfile::tempdir().unwrap();
        let place: std::sync::Arc<Path> = home.path().into();
        let many = (1..=32).map(|n| {
            let place = place.clone();
            tokio::spawn(async move { remember(&heads(&place), &head(n, n as u8)).await.map(drop) })
        });
        for one in many.collect::<Vec<_>>() {
            one.await.unwrap().unwrap();
        }
        let heads = heads(home.path());
        assert_eq!(heads.seen(BACKEND, ACCOUNT).unwrap().unwrap().head.seq, 32);
    }
}
