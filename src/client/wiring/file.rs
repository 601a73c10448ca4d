//! A file of somebody else's program: read, and replaced as a whole. It keeps its rights, and where
//! it is a link, the link stays.
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::client::files::failed;
use crate::core::problem::{Answer, Code, Problem};

/// Largest file, in bytes.
const MAX: u64 = 16 * 1024 * 1024;

/// A file as it was when it was read. What it holds is wiped afterwards.
pub struct ConfigFile {
    /// Where it really is.
    path: PathBuf,
    text: Option<Zeroizing<String>>,
    mode: u32,
}

impl ConfigFile {
    /// Reads one; it need not exist.
    ///
    /// # Errors
    /// It cannot be read, is too large, or is no text.
    pub fn read(path: &Path) -> Answer<Self> {
        let path = match std::fs::canonicalize(path) {
            Ok(real) => real,
            Err(error) if error.kind() == ErrorKind::NotFound && !path.is_symlink() => {
                return Ok(Self { path: path.to_owned(), text: None, mode: 0o600 });
            }
            Err(error) => return Err(failed("read", path, &error)),
        };
        let cannot = |error: std::io::Error| failed("read", &path, &error);
        let refused = |why: &str| {
            let detail = format!("will not change {}", path.display());
            Problem::new(Code::Invalid, detail, why, "look at the file; nothing was changed")
        };
        let file = File::open(&path).map_err(cannot)?;
        let about = file.metadata().map_err(cannot)?;
        if !about.is_file() || about.len() > MAX {
            return Err(refused("it is no file, or larger than 16 MiB"));
        }
        let mut bytes = Zeroizing::new(Vec::new());
        file.take(MAX).read_to_end(&mut bytes).map_err(cannot)?;
        let text = String::from_utf8(std::mem::take(&mut *bytes));
        let text = text.map_err(|_| refused("it is no UTF-8 text"))?;
        let mode = about.permissions().mode() & 0o777;
        Ok(Self { path, text: Some(Zeroizing::new(text)), mode })
    }

    /// What was in it; `None` if it was not there.
    pub fn text(&self) -> Option<&str> {
        self.text.as_ref().map(|text| text.as_str())
    }

    /// Whether it still is as it was read.
    fn unchanged(&self) -> Answer<()> {
        let now = Self::read(&self.path)?;
        if now.text() == self.text() {
            return Ok(());
        }
        Err(Problem::new(
            Code::Unavailable,
            format!("{} was changed at this moment", self.path.display()),
            "its own program has written to it",
            "close that program and try again; nothing was changed",
        ))
    }

    /// Replaces it by a new text.
    ///
    /// # Errors
    /// It was changed meanwhile, or the system refuses; the old text is then still there.
    pub fn replace(&self, text: &str) -> Answer<()> {
        self.unchanged()?;
        if let Some(folder) = self.path.parent() {
            let made = std::fs::create_dir_all(folder);
            made.map_err(|error| failed("make the folder", folder, &error))?;
        }
        self.beside(".agentkeys-new", text).and_then(|next| {
            std::fs::rename(&next, &self.path).map_err(|error| {
                let _ = std::fs::remove_file(&next);
                failed("write", &self.path, &error)
            })
        })
    }

    /// Keeps a copy of it beside it, for this user alone; says where.
    ///
    /// # Errors
    /// One is there already, or it cannot be made.
    pub fn keep_copy(&self, ending: &str) -> Answer<PathBuf> {
        self.beside(ending, self.text().unwrap_or(""))
    }

    /// Writes a new file beside it.
    fn beside(&self, ending: &str, text: &str) -> Answer<PathBuf> {
        let mut next = self.path.as_os_str().to_owned();
        next.push(ending);
        let next = PathBuf::from(next);
        let write = || -> std::io::Result<()> {
            let mut options = OpenOptions::new();
            let mut file = options.write(true).create_new(true).mode(0o600).open(&next)?;
            file.write_all(text.as_bytes())?;
            if ending == ".agentkeys-new" {
                file.set_permissions(std::fs::Permissions::from_mode(self.mode))?;
            }
            file.sync_all()
        };
        write().map_err(|error| failed("write", &next, &error)).map(|()| next)
    }

    /// Removes it.
    ///
    /// # Errors
    /// It was changed meanwhile, or the system refuses.
    pub fn remove(&self) -> Answer<()> {
        self.unchanged()?;
        std::fs::remove_file(&self.path).map_err(|error| failed("remove", &self.path, &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_stays_one_and_rights_stay_what_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        std::fs::write(&real, "a").unwrap();
        std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let file = ConfigFile::read(&link).unwrap();
        file.replace("b").unwrap();
        assert!(link.is_symlink());
        assert_eq!(std::fs::read_to_string(&real).unwrap(), "b");
        assert_eq!(real.metadata().unwrap().permissions().mode() & 0o777, 0o640);
        // It is not what was read any more.
        assert_eq!(file.replace("c").unwrap_err().code, Code::Unavailable);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
        let new = ConfigFile::read(&folder.path().join("a/b.json")).unwrap();
        assert_eq!(new.text(), None);
        new.replace("{}").unwrap();
        let mode = folder.path().join("a/b.json").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::os::unix::fs::symlink("/nowhere/at/all", folder.path().join("broken")).unwrap();
        assert!(ConfigFile::read(&folder.path().join("broken")).is_err());
    }
}
