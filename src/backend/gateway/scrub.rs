//! Takes a key out of an answer that shows it again, as it is and in the forms that programs write
//! it in: base64 of either alphabet, hex, percent-encoded, escaped in JSON. Works on a stream: only
//! what may be the beginning of a key is held back, and the rest goes on at once.
//!
//! What it does not find: a key that the service changes in any other way.
use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use memchr::memmem;
use zeroize::Zeroizing;

/// Shorter forms than this are left alone: they stand everywhere.
const SHORTEST: usize = 6;
/// What stands where a key stood.
const MASK: u8 = b'*';

/// What keys look like.
pub struct Scrubber {
    /// Longest first, since one may hold another.
    forms: Vec<Zeroizing<Vec<u8>>>,
    held: Zeroizing<Vec<u8>>,
}

fn percent_encoded(secret: &[u8], lower: bool) -> Vec<u8> {
    let mut out = Vec::new();
    for byte in secret {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            out.push(*byte);
        } else {
            out.push(b'%');
            out.extend_from_slice(&hex_of(*byte, lower));
        }
    }
    out
}

fn hex_of(byte: u8, lower: bool) -> [u8; 2] {
    let digits = if lower { b"0123456789abcdef" } else { b"0123456789ABCDEF" };
    [digits[usize::from(byte >> 4)], digits[usize::from(byte & 15)]]
}

/// The part of base64 that is the same whatever stands before and after the secret, for each place
/// that it can begin at among three bytes.
fn base64_cores(secret: &[u8]) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for before in 0..3 {
        let mut padded = Zeroizing::new(vec![0; before]);
        padded.extend_from_slice(secret);
        // Characters that hold bits of what stands before, and those of what comes after.
        let from = [0, 2, 3][before];
        let to = padded.len() * 8 / 6;
        for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
            let text = Zeroizing::new(engine.encode(&*padded));
            out.push(text.as_bytes()[from.min(to)..to].to_vec());
        }
    }
    out
}

/// How a secret may be written.
fn forms_of(secret: &[u8]) -> BTreeSet<Vec<u8>> {
    let hex = |lower| secret.iter().flat_map(|byte| hex_of(*byte, lower)).collect();
    let mut forms: BTreeSet<Vec<u8>> = BTreeSet::from([
        secret.to_vec(),
        hex(false),
        hex(true),
        percent_encoded(secret, false),
        percent_encoded(secret, true),
    ]);
    if let Ok(text) = std::str::from_utf8(secret) {
        let escaped = serde_json::to_string(text).unwrap_or_default();
        forms.insert(escaped.trim_matches('"').as_bytes().to_vec());
        // As some write it: every slash escaped.
        forms.insert(escaped.trim_matches('"').replace('/', "\\/").into_bytes());
    }
    forms.extend(base64_cores(secret));
    forms
}

impl Scrubber {
    /// For these.
    pub fn of(secrets: &[&[u8]]) -> Self {
        let forms = secrets.iter().flat_map(|secret| forms_of(secret));
        let mut forms: Vec<_> =
            forms.filter(|form| form.len() >= SHORTEST).map(Zeroizing::new).collect();
        forms.sort_by_key(|form| std::cmp::Reverse(form.len()));
        Self { forms, held: Zeroizing::default() }
    }

    /// The next part of the stream: what can go on.
    pub fn feed(&mut self, part: &[u8]) -> Bytes {
        if self.forms.is_empty() {
            return Bytes::copy_from_slice(part);
        }
        let mut text = std::mem::take(&mut self.held);
        text.extend_from_slice(part);
        self.mask(&mut text);
        let keep = self.open_end(&text);
        let goes = text.len() - keep;
        if keep > 0 {
            self.held = Zeroizing::new(text[goes..].to_vec());
        }
        Bytes::copy_from_slice(&text[..goes])
    }

    /// How many bytes are held back.
    pub fn holds(&self) -> usize {
        self.held.len()
    }

    /// The end of the stream.
    pub fn finish(&mut self) -> Bytes {
        Bytes::copy_from_slice(&std::mem::take(&mut self.held))
    }

    /// A whole text, such as a header's value.
    pub fn whole(&self, text: &[u8]) -> Vec<u8> {
        let mut text = text.to_vec();
        self.mask(&mut text);
        text
    }

    fn mask(&self, text: &mut [u8]) {
        // Most of a header's values are shorter than any of them.
        let length = text.len();
        for form in self.forms.iter().filter(|form| form.len() <= length) {
            let found: Vec<usize> = memmem::find_iter(text, form.as_slice()).collect();
            for at in found {
                text[at..at + form.len()].fill(MASK);
            }
        }
    }

    /// How many bytes at the end may be the beginning of a form.
    fn open_end(&self, text: &[u8]) -> usize {
        let most = |form: &[u8]| {
            let longest = (form.len() - 1).min(text.len());
            let end = &text[text.len() - longest..];
            memchr::memchr_iter(form[0], end)
                .find(|at| form.starts_with(&end[*at..]))
                .map_or(0, |at| end.len() - at)
        };
        self.forms.iter().map(|form| most(form)).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};

    const KEY: &[u8] = b"sk-or-v1-/a+b\"c?0123456789abcdef";

    fn through(parts: &[&[u8]]) -> Vec<u8> {
        let mut scrubber = Scrubber::of(&[KEY]);
        let mut out = Vec::new();
        for part in parts {
            out.extend_from_slice(&scrubber.feed(part));
        }
        out.extend_from_slice(&scrubber.finish());
        out
    }

    fn forms() -> Vec<Vec<u8>> {
        let text = std::str::from_utf8(KEY).unwrap();
        let hex: String = KEY.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut out = vec![
            KEY.to_vec(),
            hex.clone().into_bytes(),
            hex.to_uppercase().into_bytes(),
            percent_encoded(KEY, false),
            serde_json::to_vec(text).unwrap(),
        ];
        for before in ["", "a", "ab", "user:", "Bearer "] {
            for after in ["", "x", "xy"] {
                let whole = format!("{before}{text}{after}");
                out.push(STANDARD.encode(&whole).into_bytes());
                out.push(URL_SAFE.encode(&whole).into_bytes());
            }
        }
        out
    }

    /// Whether any run of ten characters of a form is still there.
    fn shows(text: &[u8], form: &[u8]) -> bool {
        form.windows(form.len() - 8).any(|window| memmem::find(text, window).is_some())
    }

    #[test]
    fn no_form_of_the_key_comes_through_however_the_stream_is_cut() {
        for form in forms() {
            let whole = [b"data: {\"echo\": ".as_slice(), &form, b"}\n\n"].concat();
            for cut in 0..=whole.len() {
                let out = through(&[&whole[..cut], &whole[cut..]]);
                assert_eq!(out.len(), whole.len());
                assert!(!shows(&out, &form), "{} at {cut}", String::from_utf8_lossy(&out));
                assert!(out.starts_with(b"data: {\"echo\": ") && out.ends_with(b"}\n\n"));
            }
            // A byte at a time.
            let bytes: Vec<&[u8]> = whole.chunks(1).collect();
            assert!(!shows(&through(&bytes), &form));
        }
    }

    #[test]
    fn what_holds_no_key_goes_on_at_once_and_unchanged() {
        let mut scrubber = Scrubber::of(&[KEY]);
        let frame = b"data: {\"delta\": \"hello, a skip of text\"}\n\n";
        assert_eq!(&scrubber.feed(frame)[..], frame);
        // The beginning of a key waits for what comes next, and is given back when it is none.
        assert_eq!(&scrubber.feed(b"an sk-or-v1")[..], b"an ");
        assert_eq!(&scrubber.feed(b"-other")[..], b"sk-or-v1-other");
        assert_eq!(&scrubber.feed(b"sk-or-v1-/")[..], b"");
        assert_eq!(&scrubber.finish()[..], b"sk-or-v1-/");
    }

    #[test]
    fn two_keys_in_a_row_and_one_behind_a_beginning_are_found() {
        let twice = [KEY, KEY].concat();
        assert_eq!(through(&[&twice]), vec![MASK; twice.len()]);
        let begun = [b"sk-or-".as_slice(), KEY].concat();
        assert_eq!(through(&[&begun[..8], &begun[8..]])[6..], vec![MASK; KEY.len()]);
    }
}
