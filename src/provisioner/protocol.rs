//! The messages between a recipe and whoever wants the key, version 1: one JSON object a line,
//! UTF-8. `docs/provisioning.md` has them for those who write recipes.
//!
//! Must never hold a key but in memory that is wiped, or take more than the limits from a recipe.
use std::fmt;

use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt};
use zeroize::Zeroizing;

use crate::core::identity::ServiceName;
use crate::core::provision::Settings;
use crate::core::secret::SecretBytes;

/// The version of the protocol.
pub const VERSION: u8 = 1;
/// Longest line, in bytes.
pub const MAX_LINE: usize = 64 * 1024;
/// Most lines of one run, and most bytes.
pub const MAX_LINES: usize = 500;
/// See [`MAX_LINES`].
pub const MAX_BYTES: usize = 1024 * 1024;

/// What a recipe says.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Message {
    /// First of all: it is there.
    Hello {
        /// Always 1.
        v: u8,
        /// Of which service it is.
        service: ServiceName,
    },
    /// A step begins.
    Progress {
        /// Always 1.
        v: u8,
        /// Its name, for people.
        step: String,
        /// How far the run is, 0 to 100.
        percent: u8,
    },
    /// The end: it cannot go on without a person.
    NeedInput {
        /// Always 1.
        v: u8,
        /// Where it was.
        step: String,
        /// What the service wants of a person.
        what: Need,
        /// In its own words.
        message: String,
    },
    /// The end: here is the key; none where it was only to be checked.
    Result {
        /// Always 1.
        v: u8,
        /// The key.
        #[serde(default)]
        credential: Option<Key>,
    },
    /// The end: it did not work.
    Error {
        /// Always 1.
        v: u8,
        /// Where it was.
        step: String,
        /// What kind of failure it is.
        reason: Reason,
        /// In its own words.
        message: String,
        /// Where it put a picture of the page.
        #[serde(default)]
        screenshot: Option<String>,
    },
}

impl Message {
    /// The version that it is of.
    fn version(&self) -> u8 {
        match self {
            Self::Hello { v, .. }
            | Self::Progress { v, .. }
            | Self::NeedInput { v, .. }
            | Self::Result { v, .. }
            | Self::Error { v, .. } => *v,
        }
    }
}

/// What a service wants of a person.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Need {
    /// A riddle that only people are to solve.
    Captcha,
    /// A phone number, or what was sent to it.
    Phone,
    /// That its terms are agreed to.
    Terms,
    /// Anything else.
    Other,
}

/// What kind of failure it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Something that the recipe looks for is not on the page.
    PageChanged,
    /// The service cannot be reached.
    Network,
    /// No mail came that matches.
    MailTimeout,
    /// The mailbox refuses its password.
    MailLogin,
    /// The mailbox's server cannot be reached.
    MailUnreachable,
    /// The service does not take the code that it mailed.
    CodeRefused,
    /// There is no browser.
    BrowserMissing,
    /// The browser did not start, or died.
    BrowserFailed,
    /// A setting is missing, or is none.
    WrongSettings,
    /// The service says no.
    Refused,
    /// The recipe has a fault.
    Internal,
}

/// A key on its way out of a message.
pub struct Key(pub SecretBytes);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Key, E> {
                if text.is_empty() || text.chars().any(char::is_control) {
                    return Err(E::custom("a key is one line of text"));
                }
                Ok(Key(SecretBytes::new(text.as_bytes().to_vec())))
            }
        }
        from.deserialize_str(Text).map_err(|_| D::Error::custom("a key is one line of text"))
    }
}

/// What a recipe is told, once.
#[derive(Serialize)]
pub struct Start<'a> {
    /// Always 1.
    pub v: u8,
    /// Always `start`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Of which service.
    pub service: &'a ServiceName,
    /// `run`, or `check`: see whether it would work, and make nothing.
    pub mode: &'static str,
    /// The provider's settings.
    pub settings: &'a Settings,
    /// The provider's secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<&'a str>,
    /// Where a picture of the page is to be put when something fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub screenshot: Option<&'a str>,
    /// How long it has, in seconds.
    pub seconds: u64,
}

/// What is wrong with what a recipe wrote.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Garbage {
    /// It is no message.
    #[error("line {0} of its output is no message")]
    NoMessage(usize),
    /// It is a message of another version.
    #[error("it speaks version {0} of the protocol, and this program version 1")]
    Version(u64),
    /// A line is too long.
    #[error("line {0} of its output has over 65,536 bytes")]
    LongLine(usize),
    /// There is too much of it.
    #[error("it wrote over 500 lines, or over 1 MiB")]
    TooMuch,
}

/// Reads a recipe's messages.
pub struct Messages<R> {
    from: R,
    buffer: Zeroizing<Vec<u8>>,
    filled: usize,
    taken: usize,
    lines: usize,
    bytes: usize,
}

impl<R: AsyncRead + Unpin> Messages<R> {
    /// Of what `from` gives.
    pub fn new(from: R) -> Self {
        let buffer = Zeroizing::new(vec![0; MAX_LINE + 1]);
        Self { from, buffer, filled: 0, taken: 0, lines: 0, bytes: 0 }
    }

    /// The next one; `None` when the recipe has closed its output. A last line without its end is
    /// none: the recipe died while it wrote. Cancel safe.
    ///
    /// # Errors
    /// What it wrote is no message, or more than it may write.
    pub async fn next(&mut self) -> Result<Option<Message>, Garbage> {
        let left = self.filled - self.taken;
        self.buffer.copy_within(self.taken..self.filled, 0);
        // What was read of the line before is not to stay behind the one that comes.
        self.buffer[left..self.filled].fill(0);
        self.filled = left;
        self.taken = 0;
        loop {
            if let Some(end) = self.buffer[..self.filled].iter().position(|byte| *byte == b'\n') {
                self.taken = end + 1;
                self.lines += 1;
                if self.lines > MAX_LINES {
                    return Err(Garbage::TooMuch);
                }
                return read(&self.buffer[..end], self.lines).map(Some);
            }
            if self.filled == self.buffer.len() {
                return Err(Garbage::LongLine(self.lines + 1));
            }
            match self.from.read(&mut self.buffer[self.filled..]).await {
                Ok(0) | Err(_) => return Ok(None),
                Ok(read) => {
                    self.filled += read;
                    self.bytes += read;
                }
            }
            if self.bytes > MAX_BYTES {
                return Err(Garbage::TooMuch);
            }
        }
    }
}

fn read(line: &[u8], number: usize) -> Result<Message, Garbage> {
    /// What every version has.
    #[derive(Deserialize)]
    struct Any {
        v: u64,
    }
    let any: Any = serde_json::from_slice(line).map_err(|_| Garbage::NoMessage(number))?;
    if any.v != u64::from(VERSION) {
        return Err(Garbage::Version(any.v));
    }
    let message: Message = serde_json::from_slice(line).map_err(|_| Garbage::NoMessage(number))?;
    if message.version() == VERSION { Ok(message) } else { Err(Garbage::NoMessage(number)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(text: &[u8]) -> (usize, Option<Garbage>) {
        let mut messages = Messages::new(text);
        let mut number = 0;
        loop {
            match messages.next().await {
                Ok(Some(_)) => number += 1,
                Ok(None) => return (number, None),
                Err(garbage) => return (number, Some(garbage)),
            }
        }
    }

    const STEP: &str = "{\"v\":1,\"type\":\"progress\",\"step\":\"a\",\"percent\":1}\n";

    #[tokio::test]
    async fn messages_come_one_a_line_and_the_key_in_its_own_memory() {
        let text = format!("{STEP}{}\n", r#"{"v":1,"type":"result","credential":"sk-\u0041b"}"#);
        let mut messages = Messages::new(text.as_bytes());
        assert!(matches!(
            messages.next().await,
            Ok(Some(Message::Progress { step, percent: 1, .. })) if step == "a"
        ));
        let Ok(Some(Message::Result { credential: Some(Key(key)), .. })) = messages.next().await
        else {
            panic!("no key")
        };
        assert_eq!(key.expose(), b"sk-Ab");
        assert!(matches!(messages.next().await, Ok(None)));
    }

    #[tokio::test]
    async fn what_is_no_message_is_named_by_its_line_and_never_repeated() {
        for wrong in [
            "hello",
            "",
            "[]",
            "{\"v\":1}",
            "{\"v\":1,\"type\":\"other\"}",
            "{\"v\":1,\"type\":\"result\",\"credential\":\"\"}",
            "{\"v\":1,\"type\":\"result\",\"credential\":\"a\\nb\"}",
            "{\"v\":1,\"type\":\"result\",\"credential\":5}",
            "{\"v\":1,\"type\":\"result\",\"key\":\"a\"}",
            "{\"v\":1,\"type\":\"progress\",\"step\":\"a\",\"percent\":300}",
            "\u{feff}{}",
        ] {
            let text = format!("{STEP}{wrong}\n");
            assert_eq!(all(text.as_bytes()).await, (1, Some(Garbage::NoMessage(2))), "{wrong}");
        }
        assert_eq!(all(b"\xff\xfe\n").await, (0, Some(Garbage::NoMessage(1))));
        let two = "{\"v\":2,\"type\":\"later\"}\n";
        assert_eq!(all(two.as_bytes()).await, (0, Some(Garbage::Version(2))));
        let half = STEP.trim_end();
        assert_eq!(all(half.as_bytes()).await, (0, None));
    }

    #[tokio::test]
    async fn a_line_the_lines_and_all_of_them_have_limits() {
        let long = vec![b'x'; MAX_LINE + 1];
        assert_eq!(all(&long).await, (0, Some(Garbage::LongLine(1))));
        assert_eq!(all(STEP.repeat(MAX_LINES).as_bytes()).await, (MAX_LINES, None));
        let more = STEP.repeat(MAX_LINES + 1);
        assert_eq!(all(more.as_bytes()).await, (MAX_LINES, Some(Garbage::TooMuch)));
        let padded = format!("{}{STEP}", " ".repeat(60_000));
        let (number, garbage) = all(padded.repeat(20).as_bytes()).await;
        assert_eq!((number < 20, garbage), (true, Some(Garbage::TooMuch)));
    }
}
