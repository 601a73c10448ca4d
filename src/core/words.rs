//! Words from elsewhere, such as a service's or a recipe's own: cleaned before a person or a log
//! sees them.

/// Most characters of them that are told.
const MAX_WORDS: usize = 200;
/// From what length on a word that looks like a token is not repeated.
const TOKEN: usize = 20;

/// Somebody else's words, so that they can be told: one line, printable, short, without `secrets` and
/// without what looks like a key or a code of some length.
pub fn cleaned(words: &str, secrets: &[&[u8]]) -> String {
    let mut text = words.to_owned();
    for secret in secrets {
        match std::str::from_utf8(secret) {
            Ok(secret) if !secret.is_empty() => text = text.replace(secret, "[hidden]"),
            _ => {}
        }
    }
    let spaced: String =
        text.chars().map(|c| if c.is_control() || c.is_whitespace() { ' ' } else { c }).collect();
    let shown: Vec<&str> = spaced
        .split(' ')
        .filter(|word| !word.is_empty())
        .map(|word| if looks_secret(word) { "[hidden]" } else { word })
        .collect();
    shown
        .join(" ")
        .chars()
        .filter(|c| c.is_alphanumeric() || c.is_ascii_graphic() || *c == ' ')
        .take(MAX_WORDS)
        .collect()
}

/// Whether a word has a run of letters and digits as keys have them.
fn looks_secret(word: &str) -> bool {
    word.split(|c: char| !(c.is_ascii_alphanumeric() || "_-".contains(c)))
        .any(|run| run.len() >= TOKEN && run.bytes().any(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_told_on_one_line_without_secrets_or_what_looks_like_one() {
        let shown = cleaned("a\n\x1b[31mred\u{202e} pass=hunter2!\tend", &[b"hunter2!"]);
        assert_eq!(shown, "a [31mred pass=[hidden] end");
        let key =
            "key sk-or-v1-0123456789abcdef0123 came, https://a.b/c?token=0123456789abcdef01234";
        assert_eq!(cleaned(key, &[]), "key [hidden] came, [hidden]");
        assert_eq!(cleaned("the button \"Create an account\" is not there", &[]).len(), 43);
        assert_eq!(cleaned(&"long ".repeat(100), &[]).chars().count(), MAX_WORDS);
    }
}
