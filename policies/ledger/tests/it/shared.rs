//! Coordination among gateways: one suite for every store.

use std::sync::Arc;

use meridian_ledger::{
    conformance::shared_suite,
    shared::{MemoryShared, Shared},
};

/// A suite that runs nothing proves nothing.
const CASES_MIN: usize = 16;

#[tokio::test(start_paused = true)]
async fn coordination_in_memory_conforms() {
    let run = shared_suite(async || {
        let shared: Arc<dyn Shared> = Arc::new(MemoryShared::new());
        shared
    })
    .await;
    assert!(run >= CASES_MIN, "{run}");
    assert!(!MemoryShared::alone().is_shared());
}
