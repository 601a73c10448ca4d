//! A hundred thousand children at once: each opens a request and registers at the rendezvous.
//! Run once for all the tests that look at it. Must keep numbers only, not the requests.
use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

use agentkeys::core::backend::OpenRequest;
use agentkeys::core::otp::PairCode;
use agentkeys::core::scope::Scope;
use agentkeys::core::types::{ChildKeys, Hash32, RequestId};

use super::child::pair;
use crate::env::{TestEnv, loopback};

/// How many.
pub const COUNT: usize = 100_000;

/// How many different ones of each there were.
pub struct Run {
    pub nonces: usize,
    pub ids: usize,
    pub codes: usize,
    pub open_tokens: usize,
    pub registrations: usize,
    /// Pair codes that lead to a request in the store.
    pub live_codes: usize,
}

type Had = (Hash32, RequestId, PairCode, Hash32, Hash32);

async fn go() -> Run {
    let env = TestEnv::new().await;
    let vault = env.vault(loopback());
    let mut tasks = tokio::task::JoinSet::new();
    for at in 0..COUNT {
        let vault = Arc::clone(&vault);
        tasks.spawn(async move {
            let mut keys = ChildKeys([1; 64]);
            keys.0[..8].copy_from_slice(&(at as u64).to_be_bytes());
            let details = pair("", Scope::everything());
            let request = OpenRequest { keys, details, session: None };
            let opened = vault.open_auth_request(request).await.expect("opens");
            let token = vault
                .register_rendezvous(&opened.open_token, opened.pair_code, keys)
                .await
                .expect("registers");
            let (open, registration) = (opened.open_token.hash(), token.hash());
            (opened.nonce_hash, opened.id, opened.pair_code, open, registration)
        });
    }
    let had: Vec<Had> = tasks.join_all().await;
    assert_eq!(had.len(), COUNT);
    let live_codes = super::at_rest::count_of(&env, b'p').await;
    Run {
        nonces: had.iter().map(|one| one.0).collect::<HashSet<_>>().len(),
        ids: had.iter().map(|one| one.1).collect::<HashSet<_>>().len(),
        codes: had.iter().map(|one| one.2).collect::<HashSet<_>>().len(),
        open_tokens: had.iter().map(|one| one.3).collect::<HashSet<_>>().len(),
        registrations: had.iter().map(|one| one.4).collect::<HashSet<_>>().len(),
        live_codes,
    }
}

/// What the one run found.
pub fn run() -> &'static Run {
    static RUN: OnceLock<Run> = OnceLock::new();
    RUN.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(go())
    })
}
