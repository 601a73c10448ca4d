//! Pages of the program's own code that only the start needed.
//!
//! Must never touch a mapping that can be written, or ever could: what was changed in it is nowhere
//! else.
use std::io;

/// Gives up this process's pages of program and libraries code. The kernel maps again what is still
/// needed, from its own memory, when it is; what only the start ran does not count as this process's
/// any more.
///
/// # Errors
/// `/proc/self/maps` cannot be read, or the kernel refuses; nothing is the worse for it.
pub fn forget_code_pages() -> io::Result<()> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    for (start, len) in maps.lines().filter_map(code) {
        let place = std::ptr::with_exposed_provenance_mut::<libc::c_void>(start);
        // SAFETY: a private mapping of a file that can be executed and not written: its pages are
        // the file's, and come back from it with the same bytes.
        if unsafe { libc::madvise(place, len, libc::MADV_DONTNEED) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Start and length of a mapping, if it is code from a file.
fn code(line: &str) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (range, rights) = (words.next()?, words.next()?);
    if rights != "r-xp" || !words.nth(3)?.starts_with('/') {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    let (start, end) = (address(start)?, address(end)?);
    Some((start, end.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_from_a_file_is_given_up() {
        let line = |rights, path| format!("1000-3000 {rights} 00000000 08:01 42 {path}");
        assert_eq!(code(&line("r-xp", "/usr/bin/x")), Some((0x1000, 0x2000)));
        for (rights, path) in [
            ("r--p", "/usr/bin/x"),
            ("rw-p", "/usr/bin/x"),
            ("rwxp", "/usr/bin/x"),
            ("r-xs", "/usr/bin/x"),
            ("r-xp", ""),
            ("r-xp", "[vdso]"),
        ] {
            assert_eq!(code(&line(rights, path)), None, "{rights} {path}");
        }
        assert_eq!(code("nonsense"), None);
    }

    #[test]
    fn a_process_runs_on_with_its_code_given_up() {
        let resident = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
            line.split_whitespace().next().unwrap().parse::<u64>().unwrap()
        };
        let before = resident();
        forget_code_pages().unwrap();
        // Other tests run beside this one, and have some of theirs back already.
        assert!(resident() < before);
    }
}
