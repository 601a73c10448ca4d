//! Writes to the embedded store until it is killed: the victim of the crash and power-cut tests.
//!
//! `store_writer DIR`: eight tasks commit as fast as they can. After each commit that was
//! acknowledged, a line `TASK NUMBER` goes to stdout; one that the store refused is tried again after
//! a line `refused: REASON`. What each commit holds is a function of these
//! two, so that the test can tell what must be there; see `tests/it/store_ledger.rs`.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agentkeys::backend::store::{CommitError, Options, SledStore, Store};

#[path = "../tests/it/store_ledger.rs"]
#[allow(dead_code)]
mod store_ledger;

#[tokio::main]
async fn main() {
    let dir = std::env::args().nth(1).expect("usage: store_writer DIR");
    let store = SledStore::open(Path::new(&dir), Options::default()).expect("the store opens");
    let store = Arc::new(store);
    let tasks: Vec<_> = (0..store_ledger::TASKS)
        .map(|task| {
            let store = store.clone();
            tokio::spawn(async move {
                for number in store_ledger::next_number(&*store, task).await.. {
                    // One write call a line: a kill cannot leave half of one.
                    let say = |line: String| {
                        std::io::stdout().write_all(line.as_bytes()).expect("somebody listens");
                    };
                    loop {
                        let (checks, writes) = store_ledger::commit(task, number);
                        match store.commit(checks, writes).await {
                            Ok(()) => break say(format!("{task} {number}\n")),
                            // A refused commit has not happened, so the next try must not conflict.
                            Err(CommitError::Store(why)) => say(format!("refused: {why}\n")),
                            Err(conflict) => panic!("commit {task} {number}: {conflict}"),
                        }
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no task fails");
    }
}
