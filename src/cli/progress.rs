//! Shows on standard error that something takes its time: a line that turns, from the first second
//! on, and is wiped away when it is over. Only on a terminal that can take a line back.
use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::output::{WIDTH, cut};
use super::report::shown;
use crate::client::wait::Onlooker;

/// How long something may take before a word is said.
const SOON: Duration = Duration::from_secs(1);
/// What turns, a tenth of a second each.
const TURNS: [char; 10] = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];
/// The same where the terminal knows ASCII alone.
const PLAIN_TURNS: [char; 4] = ['|', '/', '-', '\\'];

/// Says on the terminal what is waited for.
pub struct Progress {
    what: Mutex<String>,
    plain: bool,
}

impl Progress {
    /// For this process's standard error; `None` where it is no terminal, or a dumb one.
    pub fn on_terminal(what: impl Into<String>) -> Option<Self> {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        if dumb || !io::stderr().is_terminal() {
            return None;
        }
        // The first of these that is set decides, as in locale(7).
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
            .into_iter()
            .filter_map(|name| std::env::var(name).ok())
            .find(|value| !value.is_empty())
            .unwrap_or_default()
            .to_lowercase();
        let plain = !locale.contains("utf-8") && !locale.contains("utf8");
        Some(Self { what: Mutex::new(what.into()), plain })
    }

    /// What is waited for from now on.
    pub fn now(&self, what: impl Into<String>) {
        *self.what.lock().unwrap_or_else(PoisonError::into_inner) = what.into();
    }

    fn line(&self, waited: Duration) -> String {
        let tenths = (waited.as_millis() / 100) as usize;
        let turn = match self.plain {
            true => PLAIN_TURNS[tenths % PLAIN_TURNS.len()],
            false => TURNS[tenths % TURNS.len()],
        };
        let what = shown(&self.what.lock().unwrap_or_else(PoisonError::into_inner));
        let seconds = format!("  {} s", waited.as_secs());
        // One column stays free, so that no terminal begins a new line.
        let what = cut(&what, WIDTH - 3 - seconds.len());
        let what = if self.plain { what.replace('…', "~") } else { what };
        format!("{turn} {what}{seconds}")
    }
}

impl Onlooker for Progress {
    fn waiting(&self, waited: Duration) {
        if waited >= SOON {
            let mut err = io::stderr().lock();
            // If the terminal is gone there is nobody to tell.
            let _ = write!(err, "\r\x1b[K{}", self.line(waited)).and_then(|()| err.flush());
        }
    }

    fn over(&self) {
        let mut err = io::stderr().lock();
        let _ = err.write_all(b"\r\x1b[K").and_then(|()| err.flush());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(what: &str, plain: bool) -> Progress {
        Progress { what: Mutex::new(what.to_owned()), plain }
    }

    #[test]
    fn a_line_turns_says_how_long_and_never_wraps() {
        let line = |plain, tenths: u64| {
            progress("waiting", plain).line(Duration::from_millis(tenths * 100))
        };
        assert_eq!(line(false, 10), "⠋ waiting  1 s");
        assert_eq!(line(false, 21), "⠙ waiting  2 s");
        assert_eq!(line(true, 13), "/ waiting  1 s");
        for plain in [true, false] {
            let long = progress(&"x".repeat(300), plain).line(Duration::from_secs(1_000));
            assert_eq!(long.chars().count(), WIDTH - 1);
            assert_eq!(plain, long.is_ascii());
        }
    }

    #[test]
    fn what_is_waited_for_cannot_steer_the_terminal() {
        let line = progress("\x1b[31mred\r", false).line(Duration::from_secs(1));
        assert!(!line.contains('\x1b') && !line.contains('\r'), "{line:?}");
    }
}
