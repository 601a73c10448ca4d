//! Lower-case hexadecimal, as key files and `root.json` hold it.
//!
//! Must never leave a half-decoded key anywhere but in the caller's buffer.
use crate::core::secret::SecretBytes;

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Two digits a byte; for values that are not secret.
pub(super) fn encode(bytes: &[u8]) -> String {
    digits(bytes).map(char::from).collect()
}

/// Two digits a byte, and a final newline, wiped when dropped.
pub(super) fn encode_secret_line(bytes: &[u8; 32]) -> SecretBytes {
    let mut line = Vec::with_capacity(65);
    line.extend(digits(bytes));
    line.push(b'\n');
    SecretBytes::new(line)
}

fn digits(bytes: &[u8]) -> impl Iterator<Item = u8> {
    bytes.iter().flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]])
}

/// Decodes exactly `2 * out.len()` digits of either case into `out`; `None` for
/// anything else, with `out` in an undefined state.
pub(super) fn decode_into(text: &[u8], out: &mut [u8]) -> Option<()> {
    if text.len() != 2 * out.len() {
        return None;
    }
    for (pair, byte) in text.chunks_exact(2).zip(out) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(())
}

/// [`decode_into`] for a value that is not secret.
pub(super) fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut out = [0; N];
    decode_into(text.as_bytes(), &mut out)?;
    Some(out)
}

/// Decodes a key of 64 digits, with or without one final line end.
pub(super) fn decode_key(text: &[u8], out: &mut [u8; 32]) -> Option<()> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    decode_into(text.strip_suffix(b"\r").unwrap_or(text), out)
}

fn digit(c: u8) -> Option<u8> {
    match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        b'A'..=b'F' => Some(c - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_comes_back() {
        let all: Vec<u8> = (0..=255).collect();
        let mut back = [0; 256];
        decode_into(encode(&all).as_bytes(), &mut back).unwrap();
        assert_eq!(back.as_slice(), all);
    }

    #[test]
    fn a_key_is_64_digits_and_at_most_one_line_end() {
        let key = "Ab".repeat(32);
        let decoded = |text: &str| {
            let mut out = [0; 32];
            decode_key(text.as_bytes(), &mut out).map(|()| out)
        };
        for end in ["", "\n", "\r\n"] {
            assert_eq!(decoded(&format!("{key}{end}")), Some([0xab; 32]));
        }
        for bad in
            ["", "\n", &key[1..], &format!("{key}0"), &format!("{key}\n\n"), &format!(" {key}")]
        {
            assert_eq!(decoded(bad), None, "{bad:?}");
        }
        assert_eq!(decoded(&format!("{}g", &key[1..])), None);
    }
}
