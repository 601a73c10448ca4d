//! Where a secret comes from: a hidden prompt, a file, a variable, standard input, or, with a
//! warning, the command line. What was read is wiped.
use std::io::{IsTerminal, Read};
use std::path::PathBuf;

use zeroize::Zeroizing;

use super::output::Output;
use super::report::usage;
use crate::core::backend::MAX_CREDENTIAL;
use crate::core::problem::{Code, Problem};
use crate::core::secret::SecretBytes;

/// Where it comes from.
pub enum Source {
    /// A hidden prompt on the terminal.
    Prompt,
    /// A file.
    File(PathBuf),
    /// An environment variable.
    Variable(String),
    /// Standard input.
    Stdin,
    /// The command line.
    Argument(Zeroizing<String>),
}

impl Source {
    /// The source that at most one of the options and the last word names.
    ///
    /// # Errors
    /// More than one does.
    pub fn chosen(
        file: Option<String>,
        variable: Option<String>,
        word: Option<Zeroizing<String>>,
    ) -> Result<Self, Problem> {
        match (file, variable, word) {
            (None, None, None) => Ok(Self::Prompt),
            (Some(file), None, None) => Ok(Self::File(file.into())),
            (None, Some(variable), None) => Ok(Self::Variable(variable)),
            (None, None, Some(word)) if *word == "-" => Ok(Self::Stdin),
            (None, None, Some(word)) => Ok(Self::Argument(word)),
            _ => Err(usage(
                "the key was given in more than one way",
                "it comes from one of --from-file, --from-env, - and the prompt",
                "leave all but one of them out",
            )),
        }
    }

    /// Reads the secret. `prompt` is what a person is asked.
    ///
    /// # Errors
    /// There is none, it is too large, or it holds a NUL byte.
    pub fn read(self, prompt: &str, out: &Output) -> Result<SecretBytes, Problem> {
        let bytes = match self {
            Self::Prompt => prompted(prompt)?,
            Self::File(path) => {
                let mut file = std::fs::File::open(&path).map_err(|error| unreadable(&error))?;
                without_newline(bounded(&mut file)?)
            }
            Self::Variable(name) => {
                let value = std::env::var_os(&name).ok_or_else(|| {
                    usage(
                        "the variable named by --from-env is not set",
                        "it takes the name of an environment variable, not the key itself",
                        "set and export it, or leave --from-env out to be asked for the key",
                    )
                })?;
                Zeroizing::new(std::os::unix::ffi::OsStringExt::into_vec(value))
            }
            Self::Stdin => {
                if std::io::stdin().is_terminal() {
                    out.say("reading the key from the terminal, visibly; end it with ctrl-D");
                }
                without_newline(bounded(&mut std::io::stdin().lock())?)
            }
            Self::Argument(text) => {
                out.warn(
                    "the key was on the command line: your shell keeps it in its history, and \
                     other programs could see it; leave it out to be asked for it",
                );
                Zeroizing::new(text.as_bytes().to_vec())
            }
        };
        checked(bytes)
    }
}

fn unreadable(error: &std::io::Error) -> Problem {
    usage(
        "the key could not be read",
        error.to_string(),
        "name a file that you can read, or - for standard input",
    )
}

fn too_large() -> Problem {
    Problem::new(
        Code::TooLarge,
        "the key is too large",
        format!("a credential has at most {MAX_CREDENTIAL} bytes"),
        "store the part that the service asks for",
    )
}

/// Reads at most one byte more than a credential and its newline may have, into room that never
/// grows, so that no copy is left behind.
fn bounded(from: &mut dyn Read) -> Result<Zeroizing<Vec<u8>>, Problem> {
    let most = MAX_CREDENTIAL + 3;
    let mut bytes = Zeroizing::new(vec![0; most]);
    let mut length = 0;
    while length < most {
        match from.read(&mut bytes[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(&error)),
        }
    }
    bytes.truncate(length);
    Ok(bytes)
}

/// Takes one line end off, as editors and `echo` add one.
fn without_newline(mut bytes: Zeroizing<Vec<u8>>) -> Zeroizing<Vec<u8>> {
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    bytes
}

fn checked(mut bytes: Zeroizing<Vec<u8>>) -> Result<SecretBytes, Problem> {
    if bytes.is_empty() {
        return Err(usage(
            "the key is empty",
            "there was nothing to read",
            "paste it at the prompt, or pipe it in: printf %s \"$KEY\" | agentkeys store .. -",
        ));
    }
    if bytes.len() > MAX_CREDENTIAL {
        return Err(too_large());
    }
    if bytes.contains(&0) {
        return Err(usage(
            "the key holds a NUL byte",
            "no environment variable and no header could carry it",
            "encode it first, for example as base64",
        ));
    }
    Ok(SecretBytes::new(std::mem::take(&mut *bytes)))
}

fn prompted(prompt: &str) -> Result<Zeroizing<Vec<u8>>, Problem> {
    let no_terminal = || {
        usage(
            "there is no terminal to ask for the key on",
            "standard input is not a terminal, and no other source was named",
            "pipe it in and write - last, or use --from-file or --from-env",
        )
    };
    // A controlling terminal alone is not enough: a script would hang on it.
    if !std::io::stdin().is_terminal() {
        return Err(no_terminal());
    }
    let text = Zeroizing::new(rpassword::prompt_password(prompt).map_err(|_| no_terminal())?);
    Ok(Zeroizing::new(text.trim().as_bytes().to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_stdin(bytes: &[u8]) -> Result<Vec<u8>, Problem> {
        checked(without_newline(bounded(&mut &bytes[..])?)).map(|key| key.expose().to_vec())
    }

    #[test]
    fn one_line_end_is_taken_off_and_no_more() {
        assert_eq!(from_stdin(b"key\n").unwrap(), b"key");
        assert_eq!(from_stdin(b"key\r\n").unwrap(), b"key");
        assert_eq!(from_stdin(b"key\n\n").unwrap(), b"key\n");
        assert_eq!(from_stdin(b" key ").unwrap(), b" key ");
        assert_eq!(from_stdin(b"-----BEGIN\nx\n-----END\n").unwrap(), b"-----BEGIN\nx\n-----END");
    }

    #[test]
    fn nothing_too_much_and_nul_are_refused() {
        for empty in [&b""[..], b"\n", b"\r\n"] {
            assert_eq!(from_stdin(empty).unwrap_err().code, Code::Invalid);
        }
        assert_eq!(from_stdin(b"a\0b").unwrap_err().code, Code::Invalid);
        let mut large = vec![b'x'; MAX_CREDENTIAL];
        assert_eq!(from_stdin(&large).unwrap().len(), MAX_CREDENTIAL);
        large.push(b'\n');
        assert_eq!(from_stdin(&large).unwrap().len(), MAX_CREDENTIAL);
        large.push(b'x');
        assert_eq!(from_stdin(&large).unwrap_err().code, Code::TooLarge);
        large.resize(4 * MAX_CREDENTIAL, b'\n');
        assert_eq!(from_stdin(&large).unwrap_err().code, Code::TooLarge);
    }

    #[test]
    fn a_key_comes_from_one_place() {
        let some = |text: &str| Some(text.to_owned());
        assert!(Source::chosen(some("f"), some("V"), None).is_err());
        assert!(Source::chosen(some("f"), None, Some(Zeroizing::new("-".into()))).is_err());
        assert!(matches!(
            Source::chosen(None, None, Some(Zeroizing::new("-".into()))),
            Ok(Source::Stdin)
        ));
        assert!(matches!(Source::chosen(None, None, None), Ok(Source::Prompt)));
    }
}
