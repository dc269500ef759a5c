//! The vendors' calls over simulated clouds: who used them, and what readers do not use.

use std::collections::BTreeMap;

use meridian_gateway::{
    operation::{Action, Outcome},
    regions::budget::attribution,
};
use serde_json::Value;
use tokio::time::Instant;

use crate::journeys::world::{World, spec};

/// The sweep interval of these tests' gateways, in milliseconds.
const SWEEP_MS: u128 = 300;

/// Reads by tenants; each would be a call to every backend if it were not answered from memory.
const READS: usize = 500;

/// The actions that show instances.
const LOOKS: [&str; 2] = ["DescribeEKSContainerInstances", "DescribeContainerGroups"];
const CREATES: [&str; 2] = ["CreateEKSContainerInstances", "CreateContainerGroup"];
const DELETES: [&str; 2] = ["DeleteEKSContainerInstances", "DeleteContainerGroup"];

/// Calls of these actions by payer and class.
fn payers(world: &World, actions: [&str; 2]) -> BTreeMap<String, BTreeMap<String, u64>> {
    let told = attribution(&world.core.budget);
    let mut payers: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    for lane in told["items"].as_array().unwrap() {
        if !actions.contains(&lane["budget"]["action"].as_str().unwrap()) {
            continue;
        }
        for payer in lane["payers"].as_array().unwrap() {
            let of = payers.entry(payer["payer"].as_str().unwrap().to_owned()).or_default();
            for (class, calls) in payer["calls"].as_object().unwrap() {
                *of.entry(class.clone()).or_default() += calls.as_u64().unwrap();
            }
        }
    }
    payers
}

async fn vendor_calls(world: &World, actions: [&str; 2]) -> u64 {
    let calls = world.control("GET", "/v1/calls", Value::Null).await;
    let of = calls["calls"].as_array().unwrap().iter().filter(|c| actions.contains(&c["action"].as_str().unwrap()));
    of.map(|c| c["count"].as_u64().unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_is_somebodys_and_readers_cost_none() {
    let world = World::start().await;
    for (tenant, name) in [("acme", "web"), ("acme", "api"), ("lab", "web")] {
        let made = world.create(tenant, name, name, &spec()).await;
        assert!(matches!(made, Ok(Outcome::Created { .. })), "{made:?}");
    }
    world.delete("acme", "web").await.unwrap();
    let creates = payers(&world, CREATES);
    assert_eq!((creates["acme"]["create"], creates["lab"]["create"], creates.len()), (2, 1, 2), "{creates:?}");
    assert_eq!(creates["acme"]["create"] + creates["lab"]["create"], vendor_calls(&world, CREATES).await);
    let deletes = payers(&world, DELETES);
    assert_eq!((deletes["acme"]["delete"], deletes.len()), (1, 1), "{deletes:?}");
    // Close watches and sweeps are the gateway's own: several tenants share each call.
    let looks = payers(&world, LOOKS);
    assert!(looks["meridian.gateway"]["read"] > 0, "{looks:?}");
    assert!(looks.get("lab").is_none_or(|lab| lab["create"] + lab["delete"] == 0), "{looks:?}");

    let (before, started) = (vendor_calls(&world, LOOKS).await, Instant::now());
    for n in 0..READS {
        let tenant = if n % 2 == 0 { "acme" } else { "lab" };
        if n % 10 == 0 {
            assert!(!world.list(tenant).await.items.is_empty());
        } else {
            assert!(world.get(tenant, if n % 2 == 0 { "api" } else { "web" }).await.is_some());
        }
    }
    let sweeps = u64::try_from(started.elapsed().as_millis() / SWEEP_MS).unwrap() + 2;
    let backends = world.core.pollers.all().len() as u64;
    let calls = vendor_calls(&world, LOOKS).await - before;
    // Each backend's sweeps, and none for the readers.
    assert!(calls <= sweeps * backends && calls < READS as u64 / 4, "{calls} calls in the time of {sweeps} sweeps");

    let Ok(Outcome::Regions(regions)) = world.ask("acme", Action::ListRegions).await else { panic!("regions") };
    let budgets: Vec<_> = regions.items.iter().flat_map(|r| &r.backends).flat_map(|b| &b.budget).collect();
    let made: u64 = budgets.iter().filter(|b| CREATES.contains(&b.action.as_str())).map(|b| b.calls.create).sum();
    assert_eq!((made, budgets.iter().map(|b| b.throttles).sum::<u64>()), (3, 0));
}
