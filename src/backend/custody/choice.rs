//! Where the operator wants the root key to be, and what this process has been
//! given to find it with.
//!
//! Must never read a secret from an argument or an environment variable; the
//! environment names places only.
use super::error::CustodyError;
use super::passphrase::PassphraseSource;
use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;

/// Where the root key is to be kept; the value of `--root-key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CustodyChoice {
    /// What the folder was made with; for a new one the best that there is.
    Auto,
    /// The desktop's keyring.
    Keyring,
    /// In `root.json`, wrapped under a passphrase.
    Passphrase,
    /// A file of 64 hexadecimal digits.
    File(PathBuf),
    /// A credential that the service manager hands over.
    Credential(String),
}

impl FromStr for CustodyChoice {
    type Err = CustodyError;

    fn from_str(text: &str) -> Result<Self, CustodyError> {
        let unknown = || CustodyError::Choice(text.to_owned());
        match text.split_once(':') {
            None if text == "auto" => Ok(Self::Auto),
            None if text == "keyring" => Ok(Self::Keyring),
            None if text == "passphrase" => Ok(Self::Passphrase),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(PathBuf::from(path))),
            Some(("credential", name)) if is_credential_name(name) => {
                Ok(Self::Credential(name.to_owned()))
            }
            _ => Err(unknown()),
        }
    }
}

/// Whether `name` is one file's name and stays in its folder.
pub(super) fn is_credential_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && name != "."
        && name != ".."
        && !name.contains(|c: char| c == '/' || c.is_control())
}

/// What the process was given: places, never secrets. A parameter, so that a
/// test needs no environment of its own.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// `DBUS_SESSION_BUS_ADDRESS`.
    pub bus_address: Option<OsString>,
    /// `XDG_RUNTIME_DIR`, where a session bus listens as `bus`.
    pub runtime_folder: Option<PathBuf>,
    /// `CREDENTIALS_DIRECTORY`.
    pub credentials_folder: Option<PathBuf>,
    /// `XDG_STATE_HOME`, or `.local/state` in `HOME`.
    pub state_folder: Option<PathBuf>,
    /// Where a passphrase comes from, if one is needed.
    pub passphrase: PassphraseSource,
}

impl Surroundings {
    /// Reads the environment. `passphrase_fd` is the number that
    /// `--passphrase-fd` gave; it wins over `AGENTKEYS_PASSPHRASE_FILE`, and
    /// without both a passphrase is asked for at the terminal.
    pub fn from_environment(passphrase_fd: Option<i32>) -> Self {
        // The XDG specification has relative paths ignored.
        let folder = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
        let passphrase_file = std::env::var_os("AGENTKEYS_PASSPHRASE_FILE");
        Self {
            bus_address: std::env::var_os("DBUS_SESSION_BUS_ADDRESS"),
            runtime_folder: folder("XDG_RUNTIME_DIR"),
            credentials_folder: folder("CREDENTIALS_DIRECTORY"),
            state_folder: folder("XDG_STATE_HOME")
                .or_else(|| Some(folder("HOME")?.join(".local/state"))),
            passphrase: match (passphrase_fd, passphrase_file) {
                (Some(number), _) => PassphraseSource::Descriptor(number),
                (None, Some(path)) if !path.is_empty() => PassphraseSource::File(path.into()),
                _ => PassphraseSource::Terminal,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_one_spelling() {
        let parse = |text: &str| text.parse::<CustodyChoice>().unwrap();
        assert_eq!(parse("auto"), CustodyChoice::Auto);
        assert_eq!(parse("keyring"), CustodyChoice::Keyring);
        assert_eq!(parse("passphrase"), CustodyChoice::Passphrase);
        assert_eq!(parse("file:/a:b"), CustodyChoice::File("/a:b".into()));
        assert_eq!(parse("credential:k"), CustodyChoice::Credential("k".into()));
    }

    #[test]
    fn everything_else_is_refused_with_the_choices() {
        for text in [
            "",
            "Auto",
            "auto:",
            "keyring:x",
            "passphrase:secret",
            "file",
            "file:",
            "credential:",
            "credential:../x",
            "credential:a/b",
            "credential:..",
            "credential:a\nb",
            "none",
        ] {
            let error = text.parse::<CustodyChoice>().unwrap_err().to_string();
            assert!(error.contains("credential:NAME"), "{text:?}: {error}");
        }
    }
}
