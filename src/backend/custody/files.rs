//! Private files: written whole or not at all, read only if they are nobody
//! else's.
//!
//! Must never replace a file that is there, or follow a link to a key.
use super::error::CustodyError;
use super::hex;
use crate::harden::{self, Hidden};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use zeroize::Zeroizing;

/// Whether a file was made, or one of its name was there first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Published {
    /// This call made it; it is on disk.
    Made,
    /// There was one already; it is as it was.
    Existed,
}

/// Who may own a file that is read, and who may read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// This user, and nobody else may read or change it.
    OursAlone,
    /// This user or root (a service manager), and nobody else may change it.
    OursOrRoots,
}

pub(super) fn failed(
    doing: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> CustodyError + use<> {
    let path = path.to_owned();
    move |source| CustodyError::File { doing, path, source }
}

fn refused<T>(path: &Path, why: &'static str) -> Result<T, CustodyError> {
    Err(CustodyError::Unsafe { path: path.to_owned(), why })
}

/// Makes `path` a file of mode 0600 with `content`, unless there is one: after a
/// crash there is the whole file or none. `mark` makes the temporary file's name
/// this caller's own.
///
/// # Errors
/// [`CustodyError::File`].
pub(super) fn publish(path: &Path, content: &[u8], mark: &str) -> Result<Published, CustodyError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{mark}.new"));
    let temporary = path.with_file_name(name);
    let written = write_new(&temporary, content).and_then(|()| {
        // A link instead of a rename: it never replaces what is there.
        match fs::hard_link(&temporary, path) {
            Ok(()) => Ok(Published::Made),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(Published::Existed),
            Err(e) => Err(failed("create", path)(e)),
        }
    });
    // Left behind, it would be one more name of the same content.
    let removed = fs::remove_file(&temporary);
    let published = written?;
    removed.map_err(failed("remove", &temporary))?;
    sync_folder_of(path)?;
    Ok(published)
}

fn write_new(path: &Path, content: &[u8]) -> Result<(), CustodyError> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().map_err(failed("write", path))
}

fn sync_folder_of(path: &Path) -> Result<(), CustodyError> {
    let folder = path.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|f| f.sync_all()).map_err(failed("sync", folder))
}

/// Makes `folder`, and those above it, with mode 0700, if it is not there.
/// Whatever is there must be a folder of this user's that nobody else can
/// change, and if it is `private`, that nobody else can look into.
///
/// # Errors
/// [`CustodyError::File`] and [`CustodyError::Unsafe`].
pub(super) fn ensure_folder(folder: &Path, private: bool) -> Result<(), CustodyError> {
    let new: Vec<_> = folder.ancestors().take_while(|f| !f.exists()).collect();
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(failed("create", folder))?;
    // Or a power cut takes the folder away with the key in it.
    new.into_iter().filter(|f| !f.as_os_str().is_empty()).try_for_each(sync_folder_of)?;
    let meta = fs::metadata(folder).map_err(failed("look at", folder))?;
    if meta.uid() != harden::effective_uid() {
        return refused(folder, "it belongs to another user");
    }
    if meta.permissions().mode() & 0o022 != 0 {
        return refused(folder, "other users can change it: chmod go-w");
    }
    if private && meta.permissions().mode() & 0o077 != 0 {
        return refused(folder, "other users can look into it: chmod 700");
    }
    Ok(())
}

/// Reads a file of `limit` bytes at most; `None` if there is none.
///
/// # Errors
/// [`CustodyError::Unsafe`] if it is not a plain file, not this user's, open to
/// others, or too long; [`CustodyError::File`].
pub(super) fn read(
    path: &Path,
    owner: Owner,
    limit: usize,
) -> Result<Option<Zeroizing<Vec<u8>>>, CustodyError> {
    let file = match harden::open_without_following(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(_) if fs::symlink_metadata(path).is_ok_and(|m| m.is_symlink()) => {
            return refused(path, "it is a symbolic link: name the file itself");
        }
        Err(e) => return Err(failed("open", path)(e)),
    };
    // Asked of what is open, so that nothing can be put in its place in between.
    let meta = file.metadata().map_err(failed("look at", path))?;
    if !meta.is_file() {
        return refused(path, "it is not a plain file");
    }
    let ours = meta.uid() == harden::effective_uid();
    match owner {
        Owner::OursAlone if !ours => return refused(path, "it belongs to another user"),
        Owner::OursAlone if meta.mode() & 0o077 != 0 => {
            return refused(path, "other users can read or change it: chmod 600");
        }
        Owner::OursOrRoots if !ours && meta.uid() != 0 => {
            return refused(path, "it belongs to another user");
        }
        Owner::OursOrRoots if meta.mode() & 0o022 != 0 => {
            return refused(path, "other users can change it: chmod go-w");
        }
        Owner::OursAlone | Owner::OursOrRoots => {}
    }
    // At full size from the start: growing would leave copies behind.
    let mut content = Zeroizing::new(Vec::with_capacity(limit + 1));
    file.take(limit as u64 + 1).read_to_end(&mut content).map_err(failed("read", path))?;
    if content.len() > limit {
        return refused(path, "it is too long");
    }
    Ok(Some(content))
}

/// Reads a root key of 64 hexadecimal digits into secret memory; `None` if there
/// is no such file.
///
/// # Errors
/// Those of [`read`], and [`CustodyError::NotAKey`].
pub(super) fn read_key(
    path: &Path,
    owner: Owner,
) -> Result<Option<Hidden<[u8; 32]>>, CustodyError> {
    let Some(content) = read(path, owner, 66)? else { return Ok(None) };
    Hidden::fill(|key| {
        hex::decode_key(&content, key).ok_or_else(|| CustodyError::NotAKey(path.to_owned()))
    })
    .map(Some)
}

/// Writes a root key as [`read_key`] reads it, unless the file is there.
///
/// # Errors
/// Those of [`publish`].
pub(super) fn publish_key(
    path: &Path,
    key: &Hidden<[u8; 32]>,
    mark: &str,
) -> Result<Published, CustodyError> {
    // Exposed because the operator chose a file, or nothing better was there.
    publish(path, hex::encode_secret_line(key.expose()).expose(), mark)
}
