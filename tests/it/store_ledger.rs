//! What was acknowledged, and whether a store still has all of it.
//!
//! Shared by every test that kills a writer, whatever it wrote through.

use std::collections::BTreeMap;

use agentkeys::backend::store::{Check, KeyRange, MAX_SCAN, Store, Value, Write};

#[path = "store_plain.rs"]
mod store_plain;

pub use store_plain::TASKS;
use store_plain::{last_key, row_key, rows};

/// Gives a task's commit: it asks for the one before, so that a lost one cannot go unnoticed.
pub fn commit(task: u64, number: u64) -> (Vec<Check>, Vec<Write>) {
    let last = match number {
        1 => Check::Absent(last_key(task)),
        _ => Check::Equals(last_key(task), Value::from((number - 1).to_be_bytes().to_vec())),
    };
    let writes = rows(task, number).into_iter();
    let writes = writes.map(|(key, value)| Write::Put(key, Value::from(value))).collect();
    (vec![last, Check::Absent(row_key(task, number))], writes)
}

/// Gives the number of a task's next commit.
pub async fn next_number(store: &dyn Store, task: u64) -> u64 {
    let last = store.get(&last_key(task)).await.expect("the store can be read");
    last.map_or(1, |bytes| 1 + u64::from_be_bytes(bytes[..].try_into().expect("eight bytes")))
}

/// The last number of each task that the writer's output acknowledges.
#[derive(Default, Debug, Clone, PartialEq, Eq)]
pub struct Ledger(BTreeMap<u64, u64>);

impl Ledger {
    /// Takes in a line of a writer's output; a last one that was cut short is not an acknowledgement.
    pub fn take_in(&mut self, line: &str) {
        let mut parts = line.split(' ').map(|part| part.parse::<u64>());
        if let (Some(Ok(task)), Some(Ok(number)), None) = (parts.next(), parts.next(), parts.next())
        {
            let last = self.0.entry(task).or_default();
            *last = number.max(*last);
        }
    }

    /// How many commits were acknowledged.
    pub fn count(&self) -> u64 {
        self.0.values().sum()
    }

    /// Gives the own row of each task's last acknowledged commit.
    pub fn last_rows(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
        self.0.iter().map(|(&task, &number)| rows(task, number).swap_remove(0))
    }

    /// Gives each acknowledged row that the store does not hold, or holds with other bytes, and each
    /// commit that it holds in part.
    pub async fn faults(&self, store: &dyn Store) -> Vec<String> {
        let mut faults = Vec::new();
        for task in 0..TASKS {
            let acknowledged = self.0.get(&task).copied().unwrap_or(0);
            // What came after the last acknowledgement may be there or not, but never in part.
            let stored = next_number(store, task).await - 1;
            if stored < acknowledged {
                faults.push(format!("task {task}: {acknowledged} acknowledged, {stored} stored"));
            }
            for number in 1..=stored.max(acknowledged) {
                for (key, value) in rows(task, number) {
                    let wanted =
                        if key == last_key(task) { stored.to_be_bytes().to_vec() } else { value };
                    if store.get(&key).await.ok().flatten().as_deref() != Some(&wanted[..]) {
                        faults.push(format!("missing {}", String::from_utf8_lossy(&key)));
                    }
                }
            }
            let after = KeyRange {
                start: row_key(task, stored + 1),
                end: KeyRange::prefix(format!("row/{task}/").as_bytes()).end,
                ..KeyRange::all()
            };
            for (key, _) in store.scan(after, MAX_SCAN).await.expect("the store can be read") {
                faults.push(format!("half a commit: {}", String::from_utf8_lossy(&key)));
            }
        }
        faults
    }
}
