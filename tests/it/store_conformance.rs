//! The embedded store against the suite that every store passes.

use std::sync::Arc;

use agentkeys::backend::store::{Options, SledStore, Store, conformance};

struct Folder {
    dir: tempfile::TempDir,
    open: tokio::sync::Mutex<Option<Arc<SledStore>>>,
}

#[async_trait::async_trait]
impl conformance::Home for Folder {
    async fn open(&self) -> Arc<dyn Store> {
        let store = SledStore::open(self.dir.path(), Options::default()).expect("the store opens");
        let store = Arc::new(store);
        *self.open.lock().await = Some(store.clone());
        store
    }

    async fn close(&self, store: Arc<dyn Store>) {
        drop(store);
        self.open.lock().await.take().expect("it was opened").close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_store_passes_the_conformance_suite() {
    conformance::run(|| Folder {
        dir: tempfile::tempdir().expect("a temporary folder"),
        open: tokio::sync::Mutex::new(None),
    })
    .await;
}
