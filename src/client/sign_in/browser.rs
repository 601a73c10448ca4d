//! Opens a page in the person's browser, where there is one. The address is one argument of one
//! program: no shell ever sees it.
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// What decides which browser it is.
#[derive(Clone, Debug, Default)]
pub struct Desktop {
    /// `BROWSER`: programs with their arguments, between colons; the first that starts is taken.
    pub browser: Option<OsString>,
    /// Whether there is a screen (`DISPLAY` or `WAYLAND_DISPLAY`).
    pub screen: bool,
}

impl Desktop {
    /// This process's.
    pub fn from_environment() -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let screen = set("DISPLAY").or_else(|| set("WAYLAND_DISPLAY")).is_some();
        Self { browser: set("BROWSER"), screen }
    }

    /// The command lines to try, in order.
    fn candidates(&self, url: &str) -> Vec<Vec<String>> {
        let Some(browser) = &self.browser else {
            return if self.screen {
                vec![vec!["xdg-open".to_owned(), url.to_owned()]]
            } else {
                Vec::new()
            };
        };
        let text = browser.to_string_lossy();
        let mut lines = Vec::new();
        for entry in text.split(':') {
            let mut words: Vec<String> = entry.split_whitespace().map(str::to_owned).collect();
            if words.is_empty() {
                continue;
            }
            // As xdg-open has it: %s is the address, else it comes last.
            match words.iter().skip(1).position(|word| word == "%s") {
                Some(at) => words[at + 1] = url.to_owned(),
                None => words.push(url.to_owned()),
            }
            lines.push(words);
        }
        lines
    }

    /// Starts the browser; false if there is none.
    pub fn open(&self, url: &str) -> bool {
        // The callers made it of a checked URL. What begins with a dash would be an option.
        let safe = url.starts_with("https://") || url.starts_with("http://");
        if !safe || !url.bytes().all(|c| c.is_ascii_graphic()) {
            return false;
        }
        self.candidates(url).iter().any(|words| start(words))
    }
}

fn start(words: &[String]) -> bool {
    let [program, arguments @ ..] = words else { return false };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"AGENTKEYS_") {
            command.env_remove(name);
        }
    }
    // Ctrl-C ends the command, and not the browser that it started.
    command.process_group(0);
    match command.spawn() {
        Ok(mut child) => {
            // Nobody waits for a browser; once it ends it is to leave nothing behind.
            std::thread::spawn(move || child.wait());
            true
        }
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(browser: Option<&str>, screen: bool) -> Vec<Vec<String>> {
        Desktop { browser: browser.map(Into::into), screen }.candidates("https://a/?b=c&d=$(e)")
    }

    #[test]
    fn the_address_is_one_argument_whatever_stands_in_it() {
        let url = "https://a/?b=c&d=$(e)";
        assert_eq!(lines(Some("/usr/bin/x"), false), [["/usr/bin/x", url]]);
        assert_eq!(lines(Some("x --new %s -y"), false), [["x", "--new", url, "-y"]]);
        assert_eq!(lines(Some("x:y -z:"), true), [vec!["x", url], vec!["y", "-z", url]]);
        assert_eq!(lines(None, true), [["xdg-open", url]]);
        assert!(lines(None, false).is_empty());
    }

    #[test]
    fn what_is_no_address_of_the_web_is_not_opened() {
        let desktop = Desktop { browser: Some("/bin/true".into()), screen: false };
        assert!(desktop.open("https://example.org/"));
        for bad in ["--version", "file:///etc/passwd", "https://a/\n", "https://a/ b", ""] {
            assert!(!desktop.open(bad), "{bad:?}");
        }
        let nowhere = Desktop { browser: Some("/nonexistent/browser".into()), screen: false };
        assert!(!nowhere.open("https://example.org/"));
    }
}
