//! What a tenant left open that is declared no more.

use std::sync::Arc;

use meridian_cloudsim::Scenario;
use meridian_gateway::directory::Source;
use meridian_ledger::conformance::{MemoryLedger, claim_new, sample_claim};
use meridian_model::operation::OperationState;

use super::world::{PATIENCE, World, config, spec};

/// How often the driver has looked for the tenant before it is declared: some tenths of a second.
const LOOKS: std::time::Duration = std::time::Duration::from_millis(900);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_placed_for_a_tenant_that_no_rule_speaks_of() {
    let ledger = Arc::new(MemoryLedger::new("store"));
    let world = World::on(ledger.clone(), Scenario::demo(7), "").await;
    let mut claim = sample_claim("ghost", "op1", "left");
    let mut wish = spec();
    wish.network.profile = Some("default".parse().unwrap());
    claim.spec = Arc::new(wish);
    let left = claim_new(&*ledger, claim).await;
    let mut followed = world.core.driver.adopt(left.clone()).await.unwrap();
    let waits = tokio::time::timeout(LOOKS, followed.wait_for(|r| !r.attempts.is_empty() || r.state.is_final()))
        .await
        .is_err();
    assert!(waits, "nothing is sent, and nothing is final");
    let declared = config(&world.sim.info(), world.folder(), "[[tenants]]\nname = \"ghost\"\n");
    let ghost = declared.tenants.into_iter().find(|t| t.name == left.tenant).unwrap();
    world.core.directory.set_files(vec![(ghost, Source::Config)]).unwrap();
    let ended = tokio::time::timeout(PATIENCE, followed.wait_for(|r| r.state.is_final())).await.unwrap().unwrap();
    assert_eq!(ended.state, OperationState::Succeeded, "{:?}", ended.problem);
}
