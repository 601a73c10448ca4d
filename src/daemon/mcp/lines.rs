//! Lines of bounded length out of a byte stream.
//!
//! Must never hold more than the limit, however long a line a stranger sends.
use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// How much is asked of the stream at once.
const CHUNK: usize = 16 * 1024;

/// One line, without its end.
#[derive(PartialEq, Eq, Debug)]
pub enum Line {
    /// All of it.
    Whole(Vec<u8>),
    /// It was longer than the limit, and is gone.
    TooLong,
}

/// Reads lines.
pub struct Lines<R> {
    input: R,
    most: usize,
    /// Read and not yet given away.
    held: Vec<u8>,
    /// How much of `held` was searched for an end of line already.
    searched: usize,
    /// Whether what comes up to the next end of line belongs to a line that was too long.
    skipping: bool,
    ended: bool,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    /// Lines of `input` of at most `most` bytes.
    pub fn new(input: R, most: usize) -> Self {
        Self { input, most, held: Vec::new(), searched: 0, skipping: false, ended: false }
    }

    /// The next line; `None` at the end. The last line need not be ended. Dropping the future
    /// loses nothing.
    ///
    /// # Errors
    /// What the stream gives.
    pub async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            if let Some(line) = self.take() {
                return Ok(Some(line));
            }
            if self.ended {
                return Ok(self.rest());
            }
            let mut chunk = [0; CHUNK];
            let read = self.input.read(&mut chunk).await?;
            self.ended = read == 0;
            self.held.extend_from_slice(&chunk[..read]);
        }
    }

    /// A line out of what is held.
    fn take(&mut self) -> Option<Line> {
        loop {
            let found = self.held[self.searched..].iter().position(|byte| *byte == b'\n');
            let Some(end) = found.map(|offset| self.searched + offset) else {
                self.searched = self.held.len();
                let first_time = !self.skipping;
                if self.skipping || self.held.len() > self.most {
                    self.forget(self.held.len());
                    self.skipping = true;
                    if first_time {
                        return Some(Line::TooLong);
                    }
                }
                return None;
            };
            let was_skipping = std::mem::take(&mut self.skipping);
            if was_skipping {
                self.forget(end + 1);
                continue;
            }
            let line = (end <= self.most).then(|| self.held[..end].to_vec());
            self.forget(end + 1);
            return Some(line.map_or(Line::TooLong, Line::Whole));
        }
    }

    /// What is left when the stream has ended.
    fn rest(&mut self) -> Option<Line> {
        let rest = std::mem::take(&mut self.held);
        self.searched = 0;
        (!rest.is_empty() && !self.skipping).then_some(Line::Whole(rest))
    }

    fn forget(&mut self, bytes: usize) {
        self.held.drain(..bytes);
        self.searched = 0;
        // A long line does not keep its room for ever.
        self.held.shrink_to(2 * CHUNK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(input: &[u8], most: usize) -> Vec<Line> {
        let mut lines = Lines::new(input, most);
        let mut all = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            assert!(lines.held.len() <= most + CHUNK);
            all.push(line);
        }
        all
    }

    fn whole(text: &str) -> Line {
        Line::Whole(text.as_bytes().to_vec())
    }

    #[tokio::test]
    async fn lines_come_as_they_were_sent() {
        assert_eq!(lines(b"", 8).await, []);
        assert_eq!(lines(b"a\n\nb", 8).await, [whole("a"), whole(""), whole("b")]);
    }

    #[tokio::test]
    async fn a_line_at_the_limit_passes_and_one_over_it_does_not() {
        assert_eq!(lines(b"12345678\n9\n", 8).await, [whole("12345678"), whole("9")]);
        assert_eq!(lines(b"123456789\n9\n", 8).await, [Line::TooLong, whole("9")]);
    }

    #[tokio::test]
    async fn a_line_without_end_is_dropped_while_it_comes() {
        let mut flood = vec![b'x'; 40 * CHUNK];
        assert_eq!(lines(&flood, 8).await, [Line::TooLong]);
        flood.extend_from_slice(b"\nafter\n");
        assert_eq!(lines(&flood, 8).await, [Line::TooLong, whole("after")]);
    }

    #[tokio::test]
    async fn a_read_that_is_given_up_loses_nothing() {
        use tokio::io::AsyncWriteExt;
        let (mut client, server) = tokio::io::duplex(64);
        let mut lines = Lines::new(server, 64);
        for piece in ["ab", "cd", "ef\n"] {
            client.write_all(piece.as_bytes()).await.unwrap();
            let given_up =
                tokio::time::timeout(std::time::Duration::from_millis(5), lines.next()).await;
            if piece.ends_with('\n') {
                assert_eq!(given_up.unwrap().unwrap(), Some(whole("abcdef")));
            } else {
                assert!(given_up.is_err());
            }
        }
    }
}
