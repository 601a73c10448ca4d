//! Files and folders that are this user's alone: made, checked, read, locked and replaced.
//!
//! A file here may hold a session, so it must never be followed through a link, read when others
//! could have written or read it, or replaced in a way that a crash leaves half done.
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use crate::core::problem::{Answer, Code, Problem};
use crate::core::types::to_hex;
use crate::harden;

/// A problem of this machine's files, not of the backend.
pub fn trouble(
    detail: impl Into<String>,
    cause: impl Into<String>,
    fix: impl Into<String>,
) -> Problem {
    let mut problem = Problem::new(Code::Internal, detail, cause, fix);
    problem.title = "a fault on this machine".to_owned();
    problem
}

/// A system call on `path` that failed.
pub fn failed(doing: &str, path: &Path, error: &io::Error) -> Problem {
    let fix = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "free some space and try again",
        ErrorKind::ReadOnlyFilesystem => "make the file system writable, or set XDG_STATE_HOME",
        _ => "correct that and try again; agentkeys doctor shows all of these places",
    };
    trouble(format!("cannot {doing} {}", path.display()), error.to_string(), fix)
}

fn refused(path: &Path, why: impl Into<String>, fix: impl Into<String>) -> Problem {
    trouble(format!("will not use {}", path.display()), why, fix)
}

/// Makes a folder that nobody had before, for this user alone, where temporary files go.
///
/// # Errors
/// Those of [`make_folder`].
pub fn make_temporary_folder(name: &str) -> Answer<PathBuf> {
    let mut random = [0; 16];
    SystemRandom::new().fill(&mut random).map_err(|_| Problem::internal())?;
    let path = std::env::temp_dir().join(format!("{name}-{}", to_hex(&random)));
    make_folder(&path)?;
    Ok(path)
}

/// Makes `path` if it is not there, and those above it, for this user alone, and checks that it
/// is. A folder of ours that others can only read is closed to them.
///
/// # Errors
/// `INTERNAL` for one that another user owns, that others can write to, or that cannot be made.
pub fn make_folder(path: &Path) -> Answer<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| failed("make the folder", path, &error))?;
    let found = std::fs::symlink_metadata(path)
        .map_err(|error| failed("look at the folder", path, &error))?;
    let us = harden::effective_uid();
    if found.uid() != us {
        let what = if found.is_symlink() { "link" } else { "folder" };
        let why = format!("user {} owns this {what}, and we are user {us}", found.uid());
        return Err(refused(
            path,
            why,
            "find out who made it; choose another place, or move it away",
        ));
    }
    // A link of our own was made by us, and is followed once, to a folder of our own.
    let folder = std::fs::metadata(path).map_err(|error| failed("look at", path, &error))?;
    if folder.uid() != us {
        let why = format!("user {} owns what it leads to, and we are user {us}", folder.uid());
        return Err(refused(path, why, format!("remove it: rm {}", path.display())));
    }
    if folder.mode() & 0o022 != 0 {
        let why = format!("others can write to it (mode {:04o})", folder.mode() & 0o7777);
        let fix = format!("look at what is in it, then: chmod 700 {}", path.display());
        return Err(refused(path, why, fix));
    }
    if folder.mode() & 0o077 != 0 {
        let closed = std::fs::set_permissions(path, PermissionsExt::from_mode(0o700));
        closed.map_err(|error| failed("close to others", path, &error))?;
    }
    Ok(())
}

/// Makes `path`, whose parent exists, strictly: no link, ours, mode 0700. For the folders of
/// sockets, which may lie where anybody can make one.
///
/// # Errors
/// `INTERNAL` for one that is not just that.
pub fn make_strict_folder(path: &Path) -> Answer<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(failed("make the folder", path, &error))
        }
        _ => check_strict_folder(path),
    }
}

/// Checks that `path` is a folder and no link, ours, and closed to others.
///
/// # Errors
/// `INTERNAL` for one that is not just that, or is not there.
pub fn check_strict_folder(path: &Path) -> Answer<()> {
    let found = std::fs::symlink_metadata(path)
        .map_err(|error| failed("look at the folder", path, &error))?;
    let us = harden::effective_uid();
    let why = if found.is_symlink() {
        "it is a link, and a socket's folder must not be one".to_owned()
    } else if !found.is_dir() {
        "it is not a folder".to_owned()
    } else if found.uid() != us {
        format!("user {} owns it, and we are user {us}", found.uid())
    } else if found.mode() & 0o077 != 0 {
        format!("it is open to others (mode {:04o})", found.mode() & 0o7777)
    } else {
        return Ok(());
    };
    // Never to be removed or closed: it may be a folder that everybody needs, such as /tmp.
    let fix = "a socket wants a folder that is yours alone, of mode 0700: name a path in one\n\
               or set XDG_RUNTIME_DIR to such a folder";
    Err(refused(path, why, fix))
}

/// Checks that an open file is a plain file of ours, under one name, closed to others.
///
/// # Errors
/// `INTERNAL` for one that is not.
pub fn check_file(path: &Path, file: &File) -> Answer<std::fs::Metadata> {
    let found = file.metadata().map_err(|error| failed("look at", path, &error))?;
    let us = harden::effective_uid();
    let why = if !found.is_file() {
        "it is not a plain file".to_owned()
    } else if found.uid() != us {
        format!("user {} owns it, and we are user {us}", found.uid())
    } else if found.mode() & 0o077 != 0 {
        format!("others can open it (mode {:04o} instead of 0600)", found.mode() & 0o7777)
    } else if found.nlink() > 1 {
        format!("it has {} names (hard links)", found.nlink())
    } else {
        return Ok(found);
    };
    Err(refused(path, why, format!("remove it: rm {}", path.display())))
}

/// Reads a file of ours of at most `limit` bytes; `None` if it is not there. What was read is
/// wiped when it is dropped.
///
/// # Errors
/// `INTERNAL` for a link, another's file, one that others can open, one that is larger.
pub fn read(path: &Path, limit: usize) -> Answer<Option<Zeroizing<Vec<u8>>>> {
    let file = match harden::open_without_following(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) if is_link(path) => {
            let why = format!("it is a link ({error})");
            return Err(refused(path, why, format!("remove it: rm {}", path.display())));
        }
        Err(error) => return Err(failed("open", path, &error)),
    };
    let length = usize::try_from(check_file(path, &file)?.len()).unwrap_or(usize::MAX);
    if length > limit {
        let why = format!("it has {length} bytes, and never more than {limit} were written");
        return Err(refused(path, why, format!("remove it: rm {}", path.display())));
    }
    // Whole from the start, so that no copy is left behind where it grew.
    let mut bytes = Zeroizing::new(Vec::with_capacity(limit.min(length) + 1));
    file.take(limit as u64)
        .read_to_end(&mut bytes)
        .map_err(|error| failed("read", path, &error))?;
    Ok(Some(bytes))
}

fn is_link(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink())
}

/// How much a replaced file must withstand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keep {
    /// A power cut: the file and its folder are synchronized before this returns.
    Durably,
    /// This process's end.
    Cheaply,
}

/// Replaces `path` as a whole, or makes it, with mode 0600. The caller holds a lock that all
/// who replace it take.
///
/// # Errors
/// `INTERNAL` when the system refuses; the old content is then still there.
pub fn replace(path: &Path, bytes: &[u8], keep: Keep) -> Answer<()> {
    let mut next = path.as_os_str().to_owned();
    next.push(".new");
    let next = PathBuf::from(next);
    let write = || -> io::Result<()> {
        let mut file = match create_new(&next) {
            // Left by a command that was killed; the lock says that nobody writes to it.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                std::fs::remove_file(&next)?;
                create_new(&next)?
            }
            file => file?,
        };
        file.write_all(bytes)?;
        if keep == Keep::Durably {
            file.sync_all()?;
        }
        std::fs::rename(&next, path)?;
        match path.parent() {
            Some(folder) if keep == Keep::Durably => File::open(folder)?.sync_all(),
            _ => Ok(()),
        }
    };
    write().map_err(|error| {
        // It may hold a secret; that it cannot be removed is no news after the first failure.
        let _ = std::fs::remove_file(&next);
        failed("write", path, &error)
    })
}

fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Opens a file of ours to append to it, or makes it.
///
/// # Errors
/// `INTERNAL` for a link, another's file, or one that others can open.
pub fn open_to_append(path: &Path) -> Answer<File> {
    open_or_make(path)?;
    // Only we can change what is in the folder, and it was no link just now.
    let file = OpenOptions::new().append(true).read(true).open(path);
    let file = file.map_err(|error| failed("open", path, &error))?;
    check_file(path, &file)?;
    Ok(file)
}

fn open_or_make(path: &Path) -> Answer<File> {
    loop {
        let file = match harden::open_without_following(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => match create_new(path) {
                // Another command was faster.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                file => file,
            },
            file => file,
        };
        let file = file.map_err(|error| failed("open", path, &error))?;
        check_file(path, &file)?;
        return Ok(file);
    }
}

/// A lock on a file of ours, until it is dropped or its process ends.
pub struct Lock {
    _file: File,
}

/// Takes the lock at `path`, whose folder exists, waiting for others for at most `patience`.
///
/// It asks again and again instead of waiting in the kernel: a wait there cannot be given up,
/// and would hold up every other task of this thread, the lock's holder among them.
///
/// # Errors
/// `UNAVAILABLE` when it is still held then; `INTERNAL` as for [`open_to_append`].
pub async fn lock(path: &Path, patience: Duration) -> Answer<Lock> {
    let file = open_or_make(path)?;
    let begun = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Lock { _file: file }),
            Err(TryLockError::WouldBlock) if begun.elapsed() < patience => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_millis(20));
            }
            Err(TryLockError::WouldBlock) => {
                return Err(Problem::new(
                    Code::Unavailable,
                    format!("another agentkeys command holds {}", path.display()),
                    format!("it was waited for, {} seconds long", patience.as_secs()),
                    format!("see which one it is: fuser {}", path.display()),
                ));
            }
            Err(TryLockError::Error(error)) => return Err(failed("lock", path, &error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn mode(path: &Path) -> u32 {
        std::fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }

    #[test]
    fn folders_and_files_are_made_for_this_user_alone() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("a/b");
        make_folder(&folder).unwrap();
        assert_eq!((mode(&folder), mode(&home.path().join("a"))), (0o700, 0o700));
        let file = folder.join("f");
        replace(&file, b"one", Keep::Durably).unwrap();
        assert_eq!(mode(&file), 0o600);
        drop(open_to_append(&folder.join("log")).unwrap());
        assert_eq!(mode(&folder.join("log")), 0o600);
    }

    #[test]
    fn a_folder_that_others_can_read_is_closed_and_one_they_can_write_to_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("a");
        make_folder(&folder).unwrap();
        set_mode(&folder, 0o755);
        make_folder(&folder).unwrap();
        assert_eq!(mode(&folder), 0o700);
        set_mode(&folder, 0o777);
        let refused = make_folder(&folder).unwrap_err();
        assert!(refused.cause.contains("others can write"), "{}", refused.cause);
        assert_eq!(mode(&folder), 0o777);
    }

    #[test]
    fn a_strict_folder_is_no_link_even_of_our_own() {
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("target");
        make_strict_folder(&target).unwrap();
        make_strict_folder(&target).unwrap();
        let link = home.path().join("link");
        symlink(&target, &link).unwrap();
        assert!(make_strict_folder(&link).unwrap_err().cause.contains("link"));
        make_folder(&link).unwrap();
        set_mode(&target, 0o750);
        assert!(make_strict_folder(&target).unwrap_err().cause.contains("0750"));
        let file = home.path().join("file");
        replace(&file, b"", Keep::Cheaply).unwrap();
        assert!(make_strict_folder(&file).is_err());
    }

    #[test]
    fn a_file_is_refused_for_its_mode_its_names_its_kind_and_its_size() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("f");
        assert!(read(&file, 10).unwrap().is_none());
        replace(&file, b"ten bytes.", Keep::Cheaply).unwrap();
        assert_eq!(**read(&file, 10).unwrap().unwrap(), *b"ten bytes.");
        assert!(read(&file, 9).unwrap_err().cause.contains("10 bytes"));
        set_mode(&file, 0o640);
        assert!(read(&file, 10).unwrap_err().cause.contains("0640"));
        set_mode(&file, 0o600);
        let link = home.path().join("link");
        symlink(&file, &link).unwrap();
        assert!(read(&link, 10).unwrap_err().cause.contains("link"));
        assert!(open_to_append(&link).is_err());
        std::fs::hard_link(&file, home.path().join("second")).unwrap();
        assert!(read(&file, 10).unwrap_err().cause.contains("2 names"));
        assert!(read(home.path(), 10).unwrap_err().cause.contains("not a plain file"));
    }

    #[test]
    fn what_a_killed_command_left_behind_is_no_obstacle_and_no_way_out() {
        let home = tempfile::tempdir().unwrap();
        let (file, aside) = (home.path().join("f"), home.path().join("aside"));
        std::fs::write(&aside, "untouched").unwrap();
        symlink(&aside, home.path().join("f.new")).unwrap();
        replace(&file, b"new", Keep::Cheaply).unwrap();
        assert_eq!(std::fs::read(&aside).unwrap(), b"untouched");
        assert_eq!(std::fs::read(&file).unwrap(), b"new");
        assert!(!is_link(&file));
    }

    #[tokio::test]
    async fn a_lock_holds_others_off_until_it_is_dropped() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("lock");
        let held = lock(&path, Duration::ZERO).await.unwrap();
        let second = lock(&path, Duration::from_millis(5)).await;
        assert_eq!(second.err().unwrap().code, Code::Unavailable);
        let waiting = tokio::spawn({
            let path = path.clone();
            async move { lock(&path, Duration::from_secs(10)).await.map(drop) }
        });
        tokio::task::yield_now().await;
        drop(held);
        waiting.await.unwrap().unwrap();
    }
}
