//! Rules of a credential: which requests the gateway sends with it. A rule names an effect, a
//! method and a path; what denies wins, and what asks a person goes before what allows.
//!
//! A path is held against rules only in its plain form: one that a service may read otherwise than
//! we do (`//`, `..`, `%2e`, `%2f` and the like) is refused and matched by nothing.
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::types::Malformed;

/// Longest rule, in bytes.
pub const MAX_RULE: usize = 256;
/// Most rules of one credential.
pub const MAX_RULES: usize = 32;

/// What a rule does with the requests that it names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Effect {
    /// They are sent, if no other rule denies them.
    Allow,
    /// They wait until the master has approved them.
    Ask,
    /// They are refused.
    Deny,
}

impl Effect {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Allow, Self::Ask, Self::Deny];

    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Ask => "ask",
            Self::Deny => "deny",
        }
    }
}

/// `allow POST /v1/chat/completions`, `deny /v1/files*`: an effect, maybe a method, and a path in
/// which `*` stands for anything within one segment, and at the end for any rest.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Rule {
    effect: Effect,
    /// Absent: every method.
    method: Option<String>,
    path: String,
}

impl Rule {
    /// A rule that was written without its effect.
    ///
    /// # Errors
    /// It is no method and path.
    pub fn new(effect: Effect, text: &str) -> Result<Self, Malformed> {
        let wrong = |why| Malformed::new("rule", why);
        if text.len() > MAX_RULE {
            return Err(wrong("has at most 256 bytes"));
        }
        let words: Vec<&str> = text.split_whitespace().collect();
        let (method, path) = match words.as_slice() {
            [path] => (None, *path),
            ["*", path] => (None, *path),
            [method, path] => (Some(*method), *path),
            _ => return Err(wrong("wants a method and a path, such as POST /v1/charges*")),
        };
        let is_method =
            |text: &str| text.len() <= 16 && text.bytes().all(|c| c.is_ascii_uppercase());
        if !method.is_none_or(is_method) {
            return Err(wrong("wants a method in capital letters, or * for every method"));
        }
        let plain = Path::plain(&path.replace('*', "x")).is_ok();
        if !path.starts_with('/') || path.contains('?') || !plain {
            return Err(wrong(
                "wants a path that begins with /, in its plain form, without a query",
            ));
        }
        Ok(Self { effect, method: method.map(str::to_owned), path: path.to_owned() })
    }

    /// What it does.
    pub const fn effect(&self) -> Effect {
        self.effect
    }

    /// Whether it names that request. What denies or asks is held against more ways to write the
    /// same.
    pub fn names(&self, method: &str, path: &Path) -> bool {
        // A HEAD shows what a GET shows, without the body: whoever names one names the other.
        let as_get = if method == "HEAD" { "GET" } else { method };
        if self.method.as_ref().is_some_and(|own| own != method && own != as_get) {
            return false;
        }
        match self.effect {
            // However the service reads it.
            Effect::Allow => [&path.kept, &path.opened].iter().all(|read| glob(&self.path, read)),
            Effect::Ask | Effect::Deny => {
                let pattern = loose(&self.path);
                [&path.kept, &path.opened].iter().any(|read| glob(&pattern, &loose(read)))
            }
        }
    }
}

impl FromStr for Rule {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let (word, rest) = text.split_once(' ').unwrap_or_default();
        match Effect::ALL.into_iter().find(|effect| effect.as_str() == word) {
            Some(effect) => Self::new(effect, rest),
            None => Err(Malformed::new("rule", "begins with allow, ask or deny")),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (effect, method) = (self.effect.as_str(), self.method.as_deref().unwrap_or("*"));
        write!(f, "{effect} {method} {}", self.path)
    }
}

impl Serialize for Rule {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rule {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Characters that some services make a dot, a slash or a backslash of (Unicode's compatibility
/// forms).
const LOOK_ALIKES: [char; 6] =
    ['\u{ff0e}', '\u{2024}', '\u{ff0f}', '\u{2044}', '\u{2215}', '\u{ff3c}'];

/// A path in its plain form: what every reader takes for the same one. The one thing that services
/// read in two ways and programs need is an encoded slash; both readings are kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Path {
    /// Where `%2F` is a letter like others.
    kept: String,
    /// Where it is a slash.
    opened: String,
}

impl Path {
    /// The path of a target, if it is plain: percent-encoding stands only for what needs it, and
    /// is read once; no segment is empty, `.` or `..`.
    ///
    /// # Errors
    /// Says what about it is not plain.
    pub fn plain(target: &str) -> Result<Self, &'static str> {
        let written = target.split(['?', '#']).next().unwrap_or_default().as_bytes();
        let (mut kept, mut opened) = (Vec::new(), Vec::new());
        let mut at = 0;
        while at < written.len() {
            let mut byte = written[at];
            at += 1;
            if byte == b'%' {
                let hex = written.get(at..at + 2).and_then(|hex| std::str::from_utf8(hex).ok());
                // Its own sign is read as a digit by none but this.
                let hex = hex.filter(|hex| hex.bytes().all(|c| c.is_ascii_hexdigit()));
                byte = hex
                    .and_then(|hex| u8::from_str_radix(hex, 16).ok())
                    .ok_or("a % stands in it that encodes nothing")?;
                at += 2;
                if byte == b'/' {
                    kept.extend_from_slice(b"%2F");
                    opened.push(byte);
                    continue;
                }
                if matches!(byte, b'\\' | b'%' | b'.' | b';' | b'?' | b'#') || byte < 0x20 {
                    return Err("it encodes a character that would change where it leads");
                }
            }
            kept.push(byte);
            opened.push(byte);
        }
        let text = |bytes| String::from_utf8(bytes).map_err(|_| "it is no UTF-8");
        let (kept, opened) = (text(kept)?, text(opened)?);
        if opened.contains(LOOK_ALIKES)
            || opened.contains(['\\', ';'])
            || opened.chars().any(char::is_control)
        {
            return Err("it holds a character that services read in different ways");
        }
        let Some(rest) = opened.strip_prefix('/') else { return Err("it does not begin with /") };
        let inner = rest.strip_suffix('/').unwrap_or(rest);
        if rest == "/" || !inner.is_empty() && inner.split('/').any(str::is_empty) {
            return Err("two slashes stand together in it");
        }
        if inner.split('/').any(|part| !part.is_empty() && part.bytes().all(|c| c == b'.')) {
            return Err("it has a segment of dots");
        }
        Ok(Self { kept, opened })
    }

    /// Whether one of its segments is one of these words, in whatever case.
    pub fn has_segment(&self, words: &[&str]) -> bool {
        self.opened.split('/').any(|part| words.iter().any(|word| part.eq_ignore_ascii_case(word)))
    }
}

/// As a service reads it that cares for neither case nor a slash at the end.
fn loose(path: &str) -> String {
    let path = path.to_lowercase();
    match path.strip_suffix('/') {
        Some("") | None => path,
        Some(path) => path.to_owned(),
    }
}

/// Whether a path is what a pattern says. Each `*` is tried once, in time that grows with the
/// product of the lengths at worst.
fn glob(pattern: &str, path: &str) -> bool {
    let (pattern, path) = (pattern.as_bytes(), path.as_bytes());
    let (mut p, mut s) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while s < path.len() {
        match pattern.get(p) {
            Some(b'*') if p + 1 == pattern.len() => return true,
            Some(b'*') => {
                retry = Some((p, s));
                p += 1;
            }
            Some(byte) if *byte == path[s] => {
                p += 1;
                s += 1;
            }
            _ => match retry {
                // The last star takes one character more, unless that is a slash.
                Some((star, from)) if path[from] != b'/' => {
                    retry = Some((star, from + 1));
                    (p, s) = (star + 1, from + 1);
                }
                _ => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(rule: &str, method: &str, target: &str) -> bool {
        let rule: Rule = rule.parse().unwrap();
        Path::plain(target).is_ok_and(|path| rule.names(method, &path))
    }

    #[test]
    fn a_rule_names_what_it_says_and_no_more() {
        for (rule, method, target, is) in [
            ("allow POST /v1/chat/completions", "POST", "/v1/chat/completions?a=b", true),
            ("allow POST /v1/chat/completions", "GET", "/v1/chat/completions", false),
            ("allow POST /v1/chat/completions", "POST", "/v1/chat/completions/x", false),
            ("allow POST /v1/chat/completions", "POST", "/V1/chat/completions", false),
            ("allow GET /v1/models", "HEAD", "/v1/models", true),
            ("allow HEAD /v1/models", "GET", "/v1/models", false),
            ("allow * /v1/*", "DELETE", "/v1/a/b", true),
            ("allow /v1/*/runs", "GET", "/v1/a/runs", true),
            ("allow /v1/*/runs", "GET", "/v1/a/b/runs", false),
            ("allow /v1/*/runs", "GET", "/v1//runs", false),
            ("allow /v1/*", "GET", "/v1", false),
            ("allow POST /v1/charges*", "POST", "/v1/charges/ch_1/capture", true),
            ("allow /p/*/runs", "GET", "/p/a%2Fb/runs", false),
            ("allow /p/*", "GET", "/p/a%2Fb/runs", true),
            ("allow /", "GET", "/", true),
            ("allow /*", "GET", "/", true),
        ] {
            assert_eq!(named(rule, method, target), is, "{rule} {method} {target}");
        }
    }

    #[test]
    fn no_way_to_write_a_path_gets_around_a_rule_that_denies_it() {
        let rule = "deny /v1/keys*";
        for same in [
            "/v1%2Fkeys",
            "/v1/keys",
            "/v1/keys/",
            "/V1/Keys",
            "/v1/%6beys",
            "/v1/keys/a?x",
            "/v1/keys?x",
        ] {
            assert!(named(rule, "GET", same), "{same}");
        }
        // What services read in different ways is matched by nothing and refused as such.
        for odd in [
            "/v1//keys",
            "//v1/keys",
            "/v1/./keys",
            "/v1/x/../keys",
            "/v1/%2e%2e/keys",
            "/v1/.%2e/keys",
            "/v1/%2fkeys",
            "/v1/x%2f..%2fkeys",
            "/v1%5ckeys",
            "/v1\\keys",
            "/v1/keys;x=1",
            "/v1/%25%36%62eys",
            "/v1/keys%00",
            "/v1/keys%",
            "/v1/keys%zz",
            "/v1/\u{ff0e}\u{ff0e}/keys",
            "/v1%EF%BC%8Fkeys",
        ] {
            assert!(Path::plain(odd).is_err(), "{odd}");
        }
        for plain in ["/", "/v1/", "/a.b/c..d", "/a%20b", "/caf%C3%A9", "/a:b@c", "/~x/-_"] {
            assert!(Path::plain(plain).is_ok(), "{plain}");
        }
    }

    #[test]
    fn a_rule_survives_being_written_and_what_is_none_is_refused() {
        for text in ["allow POST /v1/x", "deny * /v1/*", "allow GET /", "ask POST /v1/charges*"] {
            assert_eq!(text.parse::<Rule>().unwrap().to_string(), text);
        }
        let long = format!("allow /{}", "x".repeat(300));
        for bad in ["", "allow", "allow x", "/x", "deny post /x", "allow GET /a b", "allow /a?b"]
            .into_iter()
            .chain(["allow /a/../b", "allow //a", "allow /%2e", "forbid /x", long.as_str()])
        {
            assert!(bad.parse::<Rule>().is_err(), "{bad}");
        }
    }

    #[test]
    fn many_stars_cost_no_more_than_the_lengths_multiplied() {
        let rule = format!("deny /{}z", "*a".repeat(100));
        assert!(!named(&rule, "GET", &format!("/{}", "a".repeat(8_000))));
    }
}
