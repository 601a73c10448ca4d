//! Looks for a key in a process and in files, in the forms that it is usually written in.
//!
//! Must never show what it found, but where.
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use memchr::memmem;
use zeroize::Zeroizing;

/// How much is read at once.
const PIECE: usize = 1024 * 1024;
/// Most files, and most bytes of one and of all, that are looked through.
const MOST_FILES: usize = 50_000;
const MOST_OF_ONE: u64 = 16 * 1024 * 1024;
const MOST_BYTES: u64 = 512 * 1024 * 1024;
/// A shorter key is found by chance.
const LEAST: usize = 8;

/// A text in base64.
pub fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// The forms of a key: as it is, in hex, percent-encoded, and in base64 behind any other text.
pub struct Forms(Vec<Zeroizing<Vec<u8>>>);

impl Forms {
    /// Of this key; `None` where it is too short to be told from other bytes.
    pub fn of(key: &[u8]) -> Option<Self> {
        if key.len() < LEAST {
            return None;
        }
        let text = |format: fn(u8) -> String| -> Vec<u8> {
            key.iter().flat_map(|byte| format(*byte).into_bytes()).collect()
        };
        let mut forms = vec![
            key.to_vec(),
            text(|byte| format!("{byte:02x}")),
            text(|byte| format!("{byte:02X}")),
            text(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    char::from(byte).to_string()
                }
                other => format!("%{other:02X}"),
            }),
        ];
        for before in 0..3 {
            let whole = base64(&[&vec![0; before][..], key].concat());
            // The first and last group depend on what stands beside the key.
            let begin = if before == 0 { 0 } else { 4 };
            forms.push(whole.as_bytes()[begin..whole.len() - 4].to_vec());
        }
        Some(Self(forms.into_iter().map(Zeroizing::new).collect()))
    }

    /// Whether one of them is there.
    pub fn is_in(&self, bytes: &[u8]) -> bool {
        self.0.iter().any(|form| memmem::find(bytes, form).is_some())
    }

    fn longest(&self) -> usize {
        self.0.iter().map(|form| form.len()).max().unwrap_or_default()
    }
}

/// Where something was found, and how many bytes were looked through.
pub struct Looked {
    /// In words.
    pub found: Vec<String>,
    /// Of memory, or of files.
    pub bytes: u64,
    /// How many files.
    pub files: usize,
    /// Whether there was more than is looked through.
    pub cut: bool,
}

/// Looks into a process: its environment, its arguments and its memory.
///
/// # Errors
/// It has gone, or may not be looked into.
pub fn in_process(forms: &Forms, pid: u32) -> io::Result<Looked> {
    let mut looked = Looked { found: Vec::new(), bytes: 0, files: 0, cut: false };
    for (name, what) in [("environ", "environment"), ("cmdline", "arguments")] {
        let bytes = Zeroizing::new(std::fs::read(format!("/proc/{pid}/{name}"))?);
        if forms.is_in(&bytes) {
            looked.found.push(format!("the program's {what}"));
        }
    }
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let mut buffer = Zeroizing::new(vec![0; PIECE]);
    let overlap = forms.longest() as u64;
    for line in maps.lines() {
        let Some((begin, end)) = readable(line) else { continue };
        let mut at = begin;
        while at < end {
            let most = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
            // What cannot be read is a mapping of the kernel's.
            let Ok(count @ 1..) = memory.read_at(&mut buffer[..most], at) else { break };
            if forms.is_in(&buffer[..count]) {
                looked.found.push("the program's memory".to_owned());
            }
            looked.bytes += count as u64;
            let next = at + count as u64;
            at = if next < end && count as u64 > overlap { next - overlap } else { next };
        }
    }
    looked.found.dedup();
    Ok(looked)
}

/// A mapping that can be read, by where it begins and ends.
fn readable(line: &str) -> Option<(u64, u64)> {
    let (range, rest) = line.split_once(' ')?;
    let (begin, end) = range.split_once('-')?;
    let pair = (u64::from_str_radix(begin, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
    rest.starts_with('r').then_some(pair)
}

/// Looks through the files of these folders, and of those in them.
pub fn in_folders(forms: &Forms, folders: Vec<PathBuf>) -> Looked {
    let mut looked = Looked { found: Vec::new(), bytes: 0, files: 0, cut: false };
    let mut left = folders;
    while let Some(folder) = left.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            // Links lead to where the room looks again, and their own name is no key.
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                left.push(entry.path());
            } else if kind.is_file() {
                if looked.files == MOST_FILES || looked.bytes > MOST_BYTES {
                    looked.cut = true;
                    return looked;
                }
                in_file(forms, &entry.path(), &mut looked);
            }
        }
    }
    looked
}

fn in_file(forms: &Forms, path: &Path, looked: &mut Looked) {
    let Ok(file) = File::open(path) else { return };
    looked.cut |= file.metadata().is_ok_and(|about| about.len() > MOST_OF_ONE);
    let mut bytes = Zeroizing::new(Vec::new());
    if file.take(MOST_OF_ONE).read_to_end(&mut bytes).is_ok() {
        looked.files += 1;
        looked.bytes += bytes.len() as u64;
        if forms.is_in(&bytes) {
            looked.found.push(path.display().to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_in_every_form_and_nothing_else_is() {
        let key = b"sk-real/0123456789";
        let forms = Forms::of(key).unwrap();
        assert!(forms.is_in(b"x sk-real/0123456789 x"));
        assert!(forms.is_in(b"sk-real%2F0123456789"));
        for before in ["", "u", "us", "use", "user:"] {
            let encoded = base64(format!("{before}sk-real/0123456789:more").as_bytes());
            assert!(forms.is_in(encoded.as_bytes()), "{before}");
        }
        let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(forms.is_in(hex.as_bytes()) && forms.is_in(hex.to_uppercase().as_bytes()));
        assert!(!forms.is_in(b"sk-real/012345678") && !forms.is_in(b""));
        assert!(Forms::of(b"short").is_none());
    }

    #[test]
    fn this_process_has_what_it_has() {
        let there = std::hint::black_box(b"here-is-something-0123".to_vec());
        let looked = in_process(&Forms::of(&there).unwrap(), std::process::id()).unwrap();
        assert!(
            looked.found.contains(&"the program's memory".to_owned()) && looked.bytes > 100_000
        );
    }
}
