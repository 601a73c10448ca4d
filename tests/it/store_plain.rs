//! What the victims of the crash tests write, in plain bytes.
//!
//! Must import nothing of the crate: the negative control is built with it.

/// How many tasks write side by side.
pub const TASKS: u64 = 8;

/// Gives the rows of a task's commit: one of its own, one that every commit overwrites, and, now and
/// then, a long one.
pub fn rows(task: u64, number: u64) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut rows = vec![(row_key(task, number), row_value(task, number))];
    rows.push((last_key(task), number.to_be_bytes().to_vec()));
    if number % 50 == 7 {
        rows.push((format!("long/{task}/{number:012}").into_bytes(), long_value(task, number)));
    }
    rows
}

/// The key of a commit's own row.
pub fn row_key(task: u64, number: u64) -> Vec<u8> {
    format!("row/{task}/{number:012}").into_bytes()
}

/// The key of the row that holds a task's last number.
pub fn last_key(task: u64) -> Vec<u8> {
    format!("last/{task}").into_bytes()
}

fn row_value(task: u64, number: u64) -> Vec<u8> {
    let len = 40 + (task * 31 + number * 17) % 900;
    (0..len).map(|n| (n + task + number) as u8).collect()
}

fn long_value(task: u64, number: u64) -> Vec<u8> {
    (0..9_000 + number % 21_000).map(|n| (n + task + number) as u8).collect()
}
