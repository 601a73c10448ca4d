//! The negative control of the power-cut test: the same commits, on sled as it comes.
//!
//! `store_writer_uncured DIR` is `store_writer` without our store around sled, and so without the
//! disk barrier: it takes `flush` at its word. It must lose acknowledged writes in a power cut; if it
//! does not, the test proves nothing. It links nothing of this crate that could bring the barrier in.

use std::io::Write as _;

#[path = "../tests/it/store_plain.rs"]
mod store_plain;

fn main() {
    let dir = std::env::args().nth(1).expect("usage: store_writer_uncured DIR");
    let db = sled::Config::new()
        .path(dir)
        .segment_size(1024 * 1024)
        .flush_every_ms(None)
        .open()
        .expect("sled opens");
    for number in 1.. {
        for task in 0..store_plain::TASKS {
            let mut batch = sled::Batch::default();
            for (key, value) in store_plain::rows(task, number) {
                batch.insert(key, value);
            }
            db.apply_batch(batch).and_then(|()| db.flush()).expect("sled acknowledges");
            let line = format!("{task} {number}\n");
            std::io::stdout().write_all(line.as_bytes()).expect("somebody listens");
        }
    }
}
