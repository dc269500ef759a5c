use std::fmt::Write as _;

use meridian_model::{
    capability::{Capability, Feature, SizeRow, Support},
    instance::{CapacityType, Shape, Strategy as Rank},
    quantity::MemoryMib,
};
use proptest::prelude::*;

use super::*;

const NOW: Time = Time::from_unix_ms(1_767_225_600_000);

fn later(seconds: u64) -> Time {
    NOW + std::time::Duration::from_secs(seconds)
}

fn id<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

fn spec(json: &str) -> InstanceSpec {
    let mut spec: InstanceSpec = serde_json::from_str(json).unwrap();
    spec.network.profile.get_or_insert_with(|| id("net"));
    spec
}

fn web(placement: &str) -> InstanceSpec {
    spec(&format!(
        r#"{{"containers": [{{"name": "web", "image": "i", "resources": {{"limits": {{"cpu": "2", "memory": "4Gi"}}}}}}],
             "placement": {placement}}}"#
    ))
}

fn class(cpu: u64) -> ShapeClass {
    let shape = Shape { cpu: MilliCpu(cpu * 1000), memory: MemoryMib(cpu * 2048), ..Shape::default() };
    ShapeClass { shape, capacity: CapacityType::OnDemand }
}

/// Sells 1, 2, 4, 8 vCPU with twice as many GiB, and has every feature that is listed.
fn capability(adapter: &str, features: &[Feature]) -> Arc<Capability> {
    let sizes = [1, 2, 4, 8].map(|n| SizeRow { cpu: MilliCpu(n * 1000), memory: vec![MemoryMib(n * 2048)] });
    Arc::new(Capability {
        adapter: id(adapter),
        features: features.iter().map(|f| (*f, Support::Native)).collect(),
        sizes: sizes.to_vec(),
        gpu_sizes: Vec::new(),
        containers_max: 20,
        volumes_max: 20,
        effect_bound_ms: 60_000,
        denies_silently: false,
        forgets_ended: false,
    })
}

fn zone(name: &str, price: Option<&str>) -> ZoneView {
    let mut zone = ZoneView::new(id(name), BTreeSet::from([id("net")]));
    zone.prices.extend(price.map(|p| (class(2), id(p))));
    zone
}

fn backend(name: &str, adapter: &str, region: &str, priority: u32, zones: Vec<ZoneView>) -> BackendView {
    BackendView {
        id: id(name),
        adapter: id(adapter),
        region: id(region),
        capability: capability(adapter, &[Feature::EmptyDir, Feature::PullSecrets, Feature::Spot]),
        priority,
        breaker: BreakerView::Closed,
        throttled_until: None,
        cordoned: false,
        account_headroom: None,
        image_profiles: BTreeSet::new(),
        secret_profiles: BTreeSet::new(),
        zones,
    }
}

/// Two clouds, three regions, five zones.
fn world() -> Snapshot {
    Snapshot {
        backends: vec![
            backend("a-north", "cloud-a", "north", 10, vec![zone("n1", Some("0.30")), zone("n2", Some("0.25"))]),
            backend("a-south", "cloud-a", "south", 20, vec![zone("s1", Some("0.20"))]),
            backend("b-east", "cloud-b", "east", 30, vec![zone("e1", Some("0.40")), zone("e2", None)]),
        ],
    }
}

fn decide(spec: &InstanceSpec, snapshot: &Snapshot) -> Decision {
    plan(&Demand::new(spec), snapshot, &Rules::default(), 1, NOW)
}

fn order(decision: &Decision) -> Vec<&str> {
    decision.candidates.iter().map(|c| c.zone.as_str()).collect()
}

fn reasons<'d>(decision: &'d Decision, zone: &str) -> Vec<&'d str> {
    let lost = decision.rejected.iter().find(|r| r.zone.as_ref().is_some_and(|z| z.as_str() == zone));
    lost.map(|r| r.reasons.iter().map(|x| x.filter.as_str()).collect()).unwrap_or_default()
}

/// A decision as a person would want it told.
fn told(decision: &Decision) -> String {
    let mut out = String::new();
    for c in &decision.candidates {
        writeln!(out, "{}/{} score {} {} {}", c.backend, c.zone, c.score, c.shape.cpu, c.shape.memory).unwrap();
        for t in &c.terms {
            writeln!(out, "    {} {} x {}: {}", t.name, t.value, t.weight, t.why).unwrap();
        }
    }
    for r in &decision.rejected {
        writeln!(out, "{}/{} rejected", r.backend, r.zone.as_ref().map_or("-", |z| z.as_str())).unwrap();
        for x in &r.reasons {
            let pointer = x.pointer.as_ref().map(|p| format!(" at {p}")).unwrap_or_default();
            let until = x.until.map(|t| format!(" until {t}")).unwrap_or_default();
            writeln!(out, "    {}{pointer}{until}: {}", x.filter, x.detail).unwrap();
        }
    }
    out
}

#[test]
fn strategies_order_differently() {
    let snapshot = world();
    assert_eq!(order(&decide(&web("{}"), &snapshot)), ["n2", "n1", "s1", "e1", "e2"]);
    let cheapest = decide(&web(r#"{"strategy": "cheapest"}"#), &snapshot);
    assert_eq!(order(&cheapest), ["s1", "n2", "n1", "e1", "e2"], "an unknown price comes last");
    let spread = web(r#"{"strategy": "spread"}"#);
    let running = BTreeMap::from([
        (ZoneKey::new(id("a-north"), id("n2")), 3),
        (ZoneKey::new(id("a-south"), id("s1")), 1),
        (ZoneKey::new(id("b-east"), id("e2")), 2),
    ]);
    let demand = Demand { running, ..Demand::new(&spread) };
    let spread = plan(&demand, &snapshot, &Rules::default(), 1, NOW);
    assert_eq!(order(&spread), ["s1", "e1", "e2", "n1", "n2"], "regions first, zones within");
}

#[test]
fn wishes_and_the_fallback_order_dominate() {
    let snapshot = world();
    let regions = web(r#"{"regions": ["east", "south"]}"#);
    assert_eq!(order(&decide(&regions, &snapshot)), ["e1", "e2", "s1"]);
    let zones = web(r#"{"zones": ["e2", "n1"]}"#);
    assert_eq!(order(&decide(&zones, &snapshot)), ["e2", "n1"]);
    let fallback = web(r#"{"strategy": "cheapest", "fallbackOrder": ["b-east", "a-north"]}"#);
    assert_eq!(order(&decide(&fallback, &snapshot)), ["e1", "e2", "n2", "n1", "s1"], "others last, by strategy");
    let rules = Rules { priorities: BTreeMap::from([(id("b-east"), 1)]), ..Rules::default() };
    let by_tenant = plan(&Demand::new(&web("{}")), &snapshot, &rules, 1, NOW);
    assert_eq!(order(&by_tenant)[..2], ["e1", "e2"], "the tenant's priority beats the backend's");
}

#[test]
fn each_filter_by_its_own() {
    type Change = fn(&mut Snapshot);
    let table: [(&str, Change); 12] = [
        ("zone-closed", |s| s.backends[0].zones[0].on_sale = Some(false)),
        ("sold-out", |s| s.backends[0].zones[0].sold_out = BTreeMap::from([(class(2), later(60))])),
        ("ejected", |s| s.backends[0].zones[0].ejected_until = Some(later(30))),
        ("no-network", |s| s.backends[0].zones[0].network_profiles = BTreeSet::from([id("other")])),
        ("no-network", |s| s.backends[0].zones[0].network_profiles.clear()),
        ("breaker-open", |s| s.backends[0].breaker = BreakerView::Open { until: later(5) }),
        ("breaker-open", |s| s.backends[0].breaker = BreakerView::HalfOpen),
        ("throttled", |s| s.backends[0].throttled_until = Some(later(1))),
        ("cordoned", |s| s.backends[0].cordoned = true),
        ("account-quota", |s| s.backends[0].account_headroom = Some(MilliCpu(1999))),
        ("unsupported", |s| s.backends[0].capability = capability("cloud-a", &[Feature::Spot])),
        ("no-size", |s| {
            let mut small = (*capability("cloud-a", &[Feature::EmptyDir, Feature::Spot])).clone();
            small.sizes.truncate(1);
            s.backends[0].capability = Arc::new(small);
        }),
    ];
    let mut with_volume = web("{}");
    with_volume.volumes = serde_json::from_str(r#"[{"name": "v", "emptyDir": {}}]"#).unwrap();
    for (filter, change) in table {
        let mut snapshot = world();
        change(&mut snapshot);
        let decision = decide(&with_volume, &snapshot);
        assert_eq!(reasons(&decision, "n1"), [filter]);
        assert!(order(&decision).contains(&"s1"), "{filter}: the others are not concerned");
    }
    for (filter, wishes) in [
        ("region-not-wished", r#"{"regions": ["south"]}"#),
        ("zone-not-wished", r#"{"zones": ["s1"]}"#),
        ("provider-not-wished", r#"{"providers": ["cloud-b"]}"#),
    ] {
        assert_eq!(reasons(&decide(&web(wishes), &world()), "n1"), [filter]);
    }
}

#[test]
fn filters_of_tenant_and_operation() {
    let snapshot = world();
    let mut wish = web("{}");
    let rules = Rules {
        regions: Allow::all_when_empty([id("south")]),
        providers: Allow::all_when_empty([id("cloud-b")]),
        ..Rules::default()
    };
    let decision = plan(&Demand::new(&wish), &snapshot, &rules, 1, NOW);
    assert_eq!(reasons(&decision, "n1"), ["policy", "policy"], "region and provider");

    let tried = BTreeSet::from([ZoneKey::new(id("a-north"), id("n1"))]);
    let decision = plan(&Demand { tried, ..Demand::new(&wish) }, &snapshot, &Rules::default(), 1, NOW);
    assert_eq!(reasons(&decision, "n1"), ["already-tried"]);
    assert_eq!(order(&decision), ["n2", "s1", "e1", "e2"]);

    wish.image_profile = Some(id("mirror"));
    wish.image_pull_secrets = serde_json::from_str(r#"[{"name": "creds"}]"#).unwrap();
    assert_eq!(reasons(&decide(&wish, &snapshot), "n1"), ["no-profile", "no-profile"]);

    let mut spot = web("{}");
    spot.capacity.kind = CapacityType::Spot;
    spot.capacity.max_price_per_hour = Some(id("0.1"));
    let mut market = world();
    let of_spot = ShapeClass { capacity: CapacityType::Spot, ..class(2) };
    market.backends[0].zones[0].prices.insert(of_spot.clone(), id("0.11"));
    market.backends[0].zones[1].prices.insert(of_spot, id("0.1"));
    let decision = decide(&spot, &market);
    assert_eq!(reasons(&decision, "n1"), ["spot-price"]);
    assert!(order(&decision).contains(&"n2"), "the cap itself is paid");
}

#[test]
fn memory_alone_never_refuses() {
    let mut snapshot = world();
    for (backend, until) in [(0, 600), (1, 60), (2, 120)] {
        for zone in &mut snapshot.backends[backend].zones {
            zone.sold_out.insert(class(2), later(until));
        }
    }
    let decision = decide(&web("{}"), &snapshot);
    assert_eq!(order(&decision)[0], "s1", "whose memory ends first");
    assert_eq!(decision.candidates.len(), 5);
    assert!(decision.candidates.iter().all(|c| c.terms[0].name == "last-resort"));

    snapshot.backends[2].breaker = BreakerView::Open { until: later(5) };
    let decision = decide(&web("{}"), &snapshot);
    assert_eq!(order(&decision), ["s1", "n2", "n1"], "an open breaker stays shut");
    assert_eq!(reasons(&decision, "e1"), ["breaker-open", "sold-out"], "with every reason");

    snapshot.backends[1].zones[0].sold_out.clear();
    let decision = decide(&web("{}"), &snapshot);
    assert_eq!(order(&decision), ["s1"], "no second chance while something is left");
    assert_eq!(reasons(&decision, "n1"), ["sold-out"]);
}

#[test]
fn memory_of_another_size_or_of_the_past_does_not_count() {
    let mut snapshot = world();
    snapshot.backends[0].zones[0].sold_out.insert(class(4), later(60));
    snapshot.backends[0].zones[0].sold_out.insert(class(2), NOW);
    snapshot.backends[0].throttled_until = Some(NOW);
    assert!(order(&decide(&web("{}"), &snapshot)).contains(&"n1"));
}

#[test]
fn attempts_are_limited_and_the_rest_is_told() {
    let two = web(r#"{"maxAttempts": 2}"#);
    let decision = decide(&two, &world());
    assert_eq!(order(&decision), ["n2", "n1"]);
    assert_eq!(reasons(&decision, "s1"), ["attempt-limit"]);
    let tried = BTreeSet::from([ZoneKey::new(id("a-north"), id("n2"))]);
    let decision = plan(&Demand { tried, ..Demand::new(&two) }, &world(), &Rules::default(), 1, NOW);
    assert_eq!(order(&decision), ["n1"], "what was tried counts");
    let rules = Rules { attempts_max: 1, ..Rules::default() };
    assert_eq!(order(&plan(&Demand::new(&two), &world(), &rules, 1, NOW)), ["n2"]);
    let mut sold_out = world();
    for zone in sold_out.backends.iter_mut().flat_map(|b| &mut b.zones) {
        zone.sold_out.insert(class(2), later(60));
    }
    assert_eq!(reasons(&decide(&two, &sold_out), "s1"), ["sold-out", "attempt-limit"], "a waived reason comes back");
    let rules = Rules { attempts_default: 3, ..Rules::default() };
    assert_eq!(plan(&Demand::new(&web("{}")), &world(), &rules, 1, NOW).candidates.len(), 3);
}

#[test]
fn dead_ends_are_told_apart() {
    let plain = web("{}");
    let mut snapshot = world();
    assert_eq!(dead_end(&decide(&plain, &snapshot)), None);
    assert_eq!(dead_end(&decide(&plain, &Snapshot::default())), Some(DeadEnd::Unplaceable));
    assert_eq!(dead_end(&decide(&web(r#"{"regions": ["mars"]}"#), &snapshot)), Some(DeadEnd::Unplaceable));

    for backend in &mut snapshot.backends {
        backend.breaker = BreakerView::Open { until: later(5) };
    }
    assert_eq!(dead_end(&decide(&plain, &snapshot)), Some(DeadEnd::RegionUnavailable));
    snapshot.backends[0].breaker = BreakerView::Closed;
    snapshot.backends[0].cordoned = true;
    assert_eq!(dead_end(&decide(&plain, &snapshot)), Some(DeadEnd::NoCapacity));
    let unknown = decide(&web(r#"{"regions": ["north"], "zones": ["e1"]}"#), &snapshot);
    assert_eq!(dead_end(&unknown), Some(DeadEnd::Unplaceable), "no zone fulfils both wishes");

    let limits = QuotaLimits { cpu: Some(MilliCpu(3000)), ..QuotaLimits::default() };
    let used = quota::charge_of(&class(2).shape, Beside::default());
    let demand = Demand { quota: Some(TenantQuota { used, limits, divided: None }), ..Demand::new(&plain) };
    let decision = plan(&demand, &world(), &Rules::default(), 1, NOW);
    assert_eq!(dead_end(&decision), Some(DeadEnd::QuotaExceeded));
    let shortage = quota_shortage(&demand, &world()).unwrap();
    assert_eq!((&*shortage.dimension, &*shortage.limit, &*shortage.requested), ("cpu", "3", "2"));
}

#[test]
fn a_backend_without_zones_is_rejected_as_a_whole() {
    let mut snapshot = world();
    snapshot.backends[1].zones.clear();
    let decision = decide(&web("{}"), &snapshot);
    let whole: Vec<_> = decision.rejected.iter().filter(|r| r.zone.is_none()).collect();
    assert_eq!((whole.len(), whole[0].backend.as_str()), (1, "a-south"));
}

#[test]
fn ties_follow_the_seed() {
    let zones = (0..8).map(|n| zone(&format!("z{n}"), Some("0.1"))).collect();
    let snapshot = Snapshot { backends: vec![backend("a", "cloud-a", "r", 1, zones)] };
    let firsts: BTreeSet<String> = (0..64)
        .map(|seed| {
            let decision = plan(&Demand::new(&web("{}")), &snapshot, &Rules::default(), seed, NOW);
            decision.candidates[0].zone.to_string()
        })
        .collect();
    assert!(firsts.len() >= 6, "equal zones share the load over seeds: {firsts:?}");
}

#[test]
fn the_charge_of_a_walk_covers_every_candidate() {
    let decision = decide(&web("{}"), &world());
    let charge = charge_of(&decision.candidates, Beside { public_ip: true, ..Beside::default() });
    assert_eq!((charge.instances, charge.cpu, charge.public_ips), (1, MilliCpu(2000), 1));
}

#[test]
fn explanation_of_a_priority_placement() {
    let mut snapshot = world();
    snapshot.backends[0].zones[0].sold_out.insert(class(2), later(120));
    snapshot.backends[2].breaker = BreakerView::Open { until: later(5) };
    insta::assert_snapshot!(told(&decide(&web(r#"{"regions": ["south", "north"]}"#), &snapshot)));
}

#[test]
fn explanation_of_a_last_resort() {
    let mut snapshot = world();
    snapshot.backends.truncate(2);
    for backend in &mut snapshot.backends {
        backend.throttled_until = Some(later(2));
    }
    snapshot.backends[0].zones[1].sold_out.insert(class(2), later(600));
    insta::assert_snapshot!(told(&decide(&web(r#"{"strategy": "cheapest"}"#), &snapshot)));
}

#[test]
fn explanation_of_an_unplaceable_spec() {
    let mut wish = web(r#"{"providers": ["cloud-b"]}"#);
    wish.architecture = meridian_model::instance::Architecture::Arm64;
    wish.resources.limits.cpu = Some(MilliCpu(64_000));
    insta::assert_snapshot!(told(&decide(&wish, &world())));
}

fn zones() -> impl Strategy<Value = Vec<ZoneView>> {
    let one = (0_u64..4, prop_oneof![Just(None), Just(Some(true)), Just(Some(false))], 0_u64..3, any::<bool>());
    proptest::collection::vec(one, 0..4).prop_map(|zones| {
        let make = |(n, (price, on_sale, memory, net)): (usize, (u64, Option<bool>, u64, bool))| {
            let mut view = zone(&format!("z{n}"), None);
            view.on_sale = on_sale;
            if price > 0 {
                view.prices.insert(class(2), PricePerHour(price * 100_000));
            }
            match memory {
                1 => view.sold_out = BTreeMap::from([(class(2), later(60))]),
                2 => view.ejected_until = Some(later(30)),
                _ => {}
            }
            if !net {
                view.network_profiles.clear();
            }
            view
        };
        zones.into_iter().enumerate().map(make).collect()
    })
}

fn backends() -> impl Strategy<Value = Vec<BackendView>> {
    let one = (zones(), 0_u32..3, 0_u8..8, 0_u8..3, 0_u8..2);
    proptest::collection::vec(one, 0..5).prop_map(|list| {
        list.into_iter()
            .enumerate()
            .map(|(n, (zones, priority, trouble, region, adapter))| {
                let (adapter, region) = (format!("cloud-{adapter}"), format!("r{region}"));
                let mut view = backend(&format!("b{n}"), &adapter, &region, priority, zones);
                match trouble {
                    0 => view.breaker = BreakerView::Open { until: later(5) },
                    1 => view.throttled_until = Some(later(1)),
                    2 => view.cordoned = true,
                    _ => {}
                }
                view
            })
            .collect()
    })
}

fn wishes() -> impl Strategy<Value = InstanceSpec> {
    let strategy = prop_oneof![Just(Rank::Priority), Just(Rank::Cheapest), Just(Rank::Spread)];
    (strategy, 0_usize..3, any::<bool>(), proptest::option::of(1_u32..6)).prop_map(
        |(strategy, regions, fallback, attempts)| {
            let mut spec = web("{}");
            spec.placement.strategy = strategy;
            spec.placement.regions = ["r2", "r0"].into_iter().take(regions).map(id).collect();
            spec.placement.fallback_order = ["b1", "b0"].into_iter().filter(|_| fallback).map(id).collect();
            spec.placement.max_attempts = attempts;
            spec
        },
    )
}

proptest! {
    #[test]
    fn the_order_of_the_snapshot_does_not_matter(
        (list, mixed) in backends().prop_flat_map(|b| (Just(b.clone()), Just(b).prop_shuffle())),
        spec in wishes(), seed in any::<u64>(),
    ) {
        let mut mixed = Snapshot { backends: mixed };
        for backend in &mut mixed.backends {
            backend.zones.reverse();
        }
        let straight = decide_with(&spec, &Snapshot { backends: list }, seed);
        prop_assert_eq!(&straight, &decide_with(&spec, &mixed, seed));
        prop_assert_eq!(&straight, &decide_with(&spec, &mixed, seed), "and the same twice");
    }

    #[test]
    fn nobody_is_lost_and_every_loser_has_a_reason(list in backends(), spec in wishes(), seed in any::<u64>()) {
        let snapshot = Snapshot { backends: list };
        let decision = decide_with(&spec, &snapshot, seed);
        let all: BTreeSet<ZoneKey> = snapshot.backends.iter()
            .flat_map(|b| b.zones.iter().map(|z| ZoneKey::new(b.id.clone(), z.zone.clone()))).collect();
        let won = decision.candidates.iter().map(|c| ZoneKey::new(c.backend.clone(), c.zone.clone()));
        let lost = decision.rejected.iter().filter_map(|r| Some(ZoneKey::new(r.backend.clone(), r.zone.clone()?)));
        let told: Vec<ZoneKey> = won.chain(lost).collect();
        prop_assert_eq!(told.len(), all.len());
        prop_assert_eq!(told.into_iter().collect::<BTreeSet<_>>(), all);
        prop_assert!(decision.rejected.iter().all(|r| !r.reasons.is_empty()));
        prop_assert_eq!(dead_end(&decision).is_none(), !decision.candidates.is_empty());
    }

    #[test]
    fn a_score_is_the_sum_of_its_terms_and_orders_the_list(list in backends(), spec in wishes()) {
        let decision = decide_with(&spec, &Snapshot { backends: list }, 3);
        for pair in decision.candidates.windows(2) {
            prop_assert!(pair[0].score >= pair[1].score);
        }
        for c in &decision.candidates {
            let sum: f64 = c.terms.iter().map(|t| t.value * t.weight).sum();
            let weights: f64 = c.terms.iter().map(|t| t.weight).sum();
            prop_assert!((sum - c.score).abs() <= weights * 1e-4, "{} and {}", sum, c.score);
        }
        let text = serde_json::to_string(&decision).unwrap();
        prop_assert_eq!(serde_json::from_str::<Decision>(&text).unwrap(), decision, "reads back as it was written");
    }

    #[test]
    fn a_candidate_is_never_hard_ruled_out(list in backends(), spec in wishes(), seed in any::<u64>()) {
        let snapshot = Snapshot { backends: list };
        let decision = decide_with(&spec, &snapshot, seed);
        for c in &decision.candidates {
            let b = snapshot.backends.iter().find(|b| b.id == c.backend).unwrap();
            let z = b.zones.iter().find(|z| z.zone == c.zone).unwrap();
            prop_assert!(b.breaker == BreakerView::Closed && !b.cordoned && z.on_sale != Some(false));
            prop_assert!(!z.network_profiles.is_empty());
            prop_assert!(spec.placement.regions.is_empty() || spec.placement.regions.contains(&b.region));
            let soft = b.throttled_until.is_some() || z.ejected_until.is_some() || !z.sold_out.is_empty();
            prop_assert_eq!(soft, c.terms[0].name == "last-resort");
        }
    }
}

fn decide_with(spec: &InstanceSpec, snapshot: &Snapshot, seed: u64) -> Decision {
    let demand = Demand {
        running: BTreeMap::from([(ZoneKey::new(id("b0"), id("z0")), 2), (ZoneKey::new(id("b1"), id("z1")), 1)]),
        ..Demand::new(spec)
    };
    plan(&demand, snapshot, &Rules::default(), seed, NOW)
}
