//! Tenants that come and go: what one left open that is declared no more, and the first creates of one that came.

use std::sync::Arc;

use meridian_cloudsim::Scenario;
use meridian_gateway::{
    config::Tenant,
    directory::{Files, Source},
};
use meridian_ledger::conformance::{MemoryLedger, claim_new, sample_claim};
use meridian_model::{error::ErrorCode, operation::OperationState};

use super::world::{PATIENCE, World, config, spec};
use crate::replicas::flaky::Flaky;

/// How often the driver has looked for the tenant before it is declared: some tenths of a second.
const LOOKS: std::time::Duration = std::time::Duration::from_millis(900);

/// A folder that declares this tenant alone.
fn files(tenant: Tenant) -> Files {
    Files { tenants: vec![(tenant, Source::Config)], ..Files::default() }
}

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
    let waits =
        tokio::time::timeout(LOOKS, followed.wait_for(|r| !r.attempts.is_empty() || r.state.is_final())).await.is_err();
    assert!(waits, "nothing is sent, and nothing is final");
    let declared = config(&world.sim.info(), world.folder(), "[[tenants]]\nname = \"ghost\"\n");
    let ghost = declared.tenants.into_iter().find(|t| t.name == left.tenant).unwrap();
    world.core.directory.set_files(files(ghost)).unwrap();
    let ended = tokio::time::timeout(PATIENCE, followed.wait_for(|r| r.state.is_final())).await.unwrap().unwrap();
    assert_eq!(ended.state, OperationState::Succeeded, "{:?}", ended.problem);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_creates_nothing_before_its_limits_are_in_force() {
    let flaky = Arc::new(Flaky::new(Arc::new(MemoryLedger::new("store"))));
    let world = World::on(flaky.clone(), Scenario::demo(7), "").await;
    let refused = flaky.refused_limits();
    flaky.refuse_limits(true);
    let section = "[[tenants]]\nname = \"ghost\"\ndefaultNetworkProfile = \"default\"\nquota = { instances = 1 }\n";
    let declared = config(&world.sim.info(), world.folder(), section);
    let ghost = declared.tenants.into_iter().find(|t| t.name.as_str() == "ghost").unwrap();
    let declare = || world.core.directory.set_files(files(ghost.clone())).unwrap();
    declare();
    let late = world.create("ghost", "web-0", "k0", &spec()).await.unwrap_err().problem;
    assert_eq!((late.code, late.retry_after_seconds), (ErrorCode::StoreUnavailable, Some(1)), "{late:?}");
    assert!(refused.borrow().1 > 0, "it was tried");
    // Both are waiting when the limits come, and only one has room in them.
    let (one, other) = (spec(), spec());
    let both = async {
        tokio::join!(world.create("ghost", "web-1", "k1", &one), world.create("ghost", "web-2", "k2", &other))
    };
    let (answers, ()) = tokio::join!(both, async {
        flaky.refuse_limits(false);
        declare();
    });
    let codes = [answers.0, answers.1].map(|answer| answer.err().map(|refusal| refusal.problem.code));
    assert!(codes.contains(&None) && codes.contains(&Some(ErrorCode::QuotaExceeded)), "{codes:?}");
}
