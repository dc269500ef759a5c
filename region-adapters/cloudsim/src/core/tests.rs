//! The world by itself: time, money, stock, faults; and that nothing leaks whatever is done to it.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::scenario::{NoStock, Scenario};

const T0: i64 = 1_767_225_600_000;

fn scenario() -> Scenario {
    let mut scenario = Scenario::demo(3);
    scenario.timing.placed_ms = 100;
    scenario.timing.running_ms = 200;
    scenario.timing.jitter_ms = 0;
    scenario.timing.restart_backoff_ms = 500;
    scenario
}

fn world() -> World {
    World::new(&scenario())
}

fn eci() -> Scope {
    Scope { vendor: Vendor::AlibabaEci, region: "cn-hangzhou".into(), account: "alibaba-demo".into() }
}

fn eksci() -> Scope {
    Scope { vendor: Vendor::TencentEksci, region: "ap-guangzhou".into(), account: "tencent-demo".into() }
}

fn spec(scope: &Scope, world: &World, zone: usize) -> InstanceSpec {
    let region = world.region(scope.vendor, &scope.region).unwrap();
    InstanceSpec {
        name: "web".into(),
        subnet_ids: vec![region.zones[zone].config().subnet_id.clone()],
        cpu: Some(1.0),
        memory_gib: Some(2.0),
        containers: vec![ContainerSpec { name: "app".into(), image: "nginx:1".into(), ..ContainerSpec::default() }],
        ..InstanceSpec::default()
    }
}

fn with_command(mut spec: InstanceSpec, policy: RestartPolicy, command: &[&str]) -> InstanceSpec {
    spec.restart_policy = policy;
    spec.containers[0].command = command.iter().map(|w| (*w).to_owned()).collect();
    spec
}

fn fault(world: &mut World, json: &str) -> String {
    world.add_fault(serde_json::from_str(json).unwrap(), T0).unwrap()
}

fn state(world: &World, id: &str) -> State {
    world.any_instance(id).unwrap().state
}

#[test]
fn states_follow_time_and_billing_follows_states() {
    for scope in [eci(), eksci()] {
        let mut world = world();
        let id = world.create(&scope, spec(&scope, &world.clone(), 0), T0).unwrap();
        for (at, want) in
            [(0, State::Scheduling), (99, State::Scheduling), (100, State::Pending), (299, State::Pending)]
        {
            world.advance(T0 + at);
            assert_eq!(state(&world, &id), want, "{at}");
        }
        world.advance(T0 + 300);
        assert_eq!(state(&world, &id), State::Running);
        world.advance(T0 + 10_100);
        let instance = world.any_instance(&id).unwrap();
        assert_eq!(instance.billed_secs(T0 + 10_100), 10, "billed from placed on");
        assert_eq!(instance.running_ms, Some(T0 + 300), "the due moment, not the one somebody looked");
        world.delete(&scope, &id, T0 + 10_100).unwrap();
        assert_eq!(world.any_instance(&id).unwrap().billed_secs(T0 + 99_000), 10);
        assert_eq!(world.delete(&scope, &id, T0 + 20_000), Err(ChangeError::NotFound { id }));
    }
}

#[test]
fn work_that_ends_stops_billing() {
    let mut world = world();
    let job = with_command(spec(&eci(), &world, 0), RestartPolicy::Never, &["sh", "-c", "sleep 5; exit 0"]);
    let id = world.create(&eci(), job, T0).unwrap();
    world.advance(T0 + 60_000);
    let instance = world.any_instance(&id).unwrap();
    assert_eq!((instance.state, instance.ended_ms), (State::Succeeded, Some(T0 + 5_300)));
    assert_eq!(instance.billed_secs(T0 + 60_000), 5);
    assert!(instance.exists() && !instance.alive());
    assert_eq!(world.quota(&eci()).unwrap().used_instances, 0, "an ended instance holds no quota");
}

#[test]
fn restart_policies_decide_what_follows_an_exit() {
    let check = |policy, script: &str, want: State, restarts: u32| {
        let mut world = world();
        let job = with_command(spec(&eci(), &world, 0), policy, &["sh", "-c", script]);
        let id = world.create(&eci(), job, T0).unwrap();
        // Lives of one second and back-offs of half a second from 300 on.
        world.advance(T0 + 300 + 1_000 + 500 + 500);
        let instance = world.any_instance(&id).unwrap();
        assert_eq!((instance.state, instance.containers[0].restart_count), (want, restarts), "{policy:?} {script}");
        assert_eq!(instance.containers[0].previous.is_some(), restarts > 0);
    };
    check(RestartPolicy::Never, "sleep 1", State::Succeeded, 0);
    check(RestartPolicy::Never, "sleep 1; exit 4", State::Failed, 0);
    check(RestartPolicy::OnFailure, "sleep 1", State::Succeeded, 0);
    check(RestartPolicy::OnFailure, "sleep 1; exit 4", State::Running, 1);
    check(RestartPolicy::Always, "sleep 1", State::Running, 1);
}

#[test]
fn init_containers_run_first_and_may_fail_the_instance() {
    let mut world = world();
    let mut with_init = spec(&eci(), &world, 0);
    let init = |script: &str| ContainerSpec {
        name: "init".into(),
        image: "busybox".into(),
        command: vec!["sh".into(), "-c".into(), script.into()],
        ..ContainerSpec::default()
    };
    with_init.init_containers = vec![init("sleep 2")];
    with_init.restart_policy = RestartPolicy::Never;
    let mut failing = with_init.clone();
    failing.init_containers = vec![init("exit 1")];
    let good = world.create(&eci(), with_init, T0).unwrap();
    let bad = world.create(&eci(), failing, T0).unwrap();
    world.advance(T0 + 2_299);
    assert_eq!((state(&world, &good), state(&world, &bad)), (State::Pending, State::Failed));
    world.advance(T0 + 2_300);
    assert_eq!(state(&world, &good), State::Running);
}

#[test]
fn images_that_cannot_be_pulled_stay_pending_with_an_event() {
    let mut world = world();
    let mut broken = spec(&eksci(), &world, 0);
    broken.containers[0].image = "nginx:missing".into();
    let id = world.create(&eksci(), broken, T0).unwrap();
    world.advance(T0 + 60_000);
    let instance = world.any_instance(&id).unwrap();
    assert_eq!(instance.state, State::Pending);
    assert!(instance.events.iter().any(|e| e.reason == "Failed" && e.message.contains("nginx:missing")));
}

#[test]
fn eci_tries_its_subnets_in_order_and_falls_over_to_the_next() {
    let mut world = world();
    let region = world.region(Vendor::AlibabaEci, "cn-hangzhou").unwrap();
    let subnets: Vec<String> = region.zones.iter().map(|z| z.config().subnet_id.clone()).collect();
    let mut many = spec(&eci(), &world, 0);
    many.subnet_ids = subnets.clone();
    let zone = |world: &World, id: &str| world.any_instance(id).unwrap().subnet_id.clone();
    let first = world.create(&eci(), many.clone(), T0).unwrap();
    assert_eq!(zone(&world, &first), subnets[0]);
    fault(&mut world, r#"{"kind": "soldOut", "zone": "cn-hangzhou-h"}"#);
    let second = world.create(&eci(), many.clone(), T0).unwrap();
    assert_eq!(zone(&world, &second), subnets[1]);
    world.set_free_ips(&subnets[1], 0, T0).unwrap();
    let third = world.create(&eci(), many.clone(), T0).unwrap();
    assert_eq!(zone(&world, &third), subnets[2]);
    fault(&mut world, r#"{"kind": "soldOut", "vendor": "alibaba-eci"}"#);
    assert!(matches!(world.create(&eci(), many, T0), Err(CreateError::NoStock { .. })));
}

#[test]
fn eci_sold_out_after_create_fails_scheduling_and_is_deleted_after_a_day() {
    let mut world = world();
    fault(&mut world, r#"{"kind": "soldOut", "when": "afterCreate", "times": 1}"#);
    let id = world.create(&eci(), spec(&eci(), &world.clone(), 0), T0).unwrap();
    world.advance(T0 + 1_000);
    let instance = world.any_instance(&id).unwrap();
    assert_eq!(instance.state, State::ScheduleFailed);
    assert_eq!(instance.events[0].reason, "NoStock");
    let truth = TruthEntry::of(instance, T0 + 1_000);
    assert!(truth.exists && !truth.billed && !truth.alive && truth.billed_seconds == 0);
    world.advance(T0 + 25 * 3_600_000);
    assert_eq!(state(&world, &id), State::Deleted);
}

#[test]
fn zone_outage_stops_placing_on_both_clouds() {
    let mut world = world();
    fault(&mut world, r#"{"kind": "zoneOutage", "zone": "ap-guangzhou-3"}"#);
    fault(&mut world, r#"{"kind": "zoneOutage", "zone": "cn-hangzhou-h"}"#);
    let stuck = world.create(&eksci(), spec(&eksci(), &world.clone(), 0), T0).unwrap();
    assert!(matches!(world.create(&eci(), spec(&eci(), &world.clone(), 0), T0), Err(CreateError::NoStock { .. })));
    world.advance(T0 + 5_000);
    assert_eq!(state(&world, &stuck), State::Scheduling);
    assert!(world.any_instance(&stuck).unwrap().events[0].count >= 4, "it keeps trying");
}

#[test]
fn spot_is_priced_warned_and_taken_back() {
    let mut world = world();
    let mut spot = spec(&eci(), &world, 0);
    spot.spot = Some(Spot { price_limit: Some(0.001), duration_hours: 0 });
    assert!(matches!(world.create(&eci(), spot.clone(), T0), Err(CreateError::SpotPriceTooLow { .. })));
    spot.spot = Some(Spot { price_limit: None, duration_hours: 0 });
    fault(&mut world, r#"{"kind": "spotReclaim", "afterMs": 2000}"#);
    let id = world.create(&eci(), spot, T0).unwrap();
    let on_demand = world.create(&eci(), spec(&eci(), &world.clone(), 0), T0).unwrap();
    let price = |id: &str| world.any_instance(id).unwrap().price_hour;
    assert!((price(&id) - price(&on_demand) * 0.3).abs() < 1e-9);
    world.advance(T0 + 300 + 1_500);
    assert_eq!(state(&world, &id), State::Running);
    assert!(world.any_instance(&id).unwrap().events.iter().any(|e| e.reason == "SpotToBeReleased"));
    world.advance(T0 + 300 + 2_000);
    assert_eq!((state(&world, &id), state(&world, &on_demand)), (State::Expired, State::Running));
}

#[test]
fn update_takes_over_the_new_spec_and_resizes() {
    let mut world = world();
    let old = spec(&eci(), &world, 0);
    let id = world.create(&eci(), old.clone(), T0).unwrap();
    assert!(matches!(world.update(&eci(), &id, old.clone(), T0), Err(ChangeError::WrongState { .. })));
    world.advance(T0 + 300);
    assert_eq!(world.update(&eci(), &id, old.clone(), T0 + 300), Err(ChangeError::NothingToChange));
    let mut new = old.clone();
    new.cpu = Some(4.0);
    new.memory_gib = Some(7.0);
    new.containers.push(ContainerSpec { name: "side".into(), image: "x:1".into(), ..ContainerSpec::default() });
    world.update(&eci(), &id, new.clone(), T0 + 300).unwrap();
    assert_eq!(state(&world, &id), State::Updating);
    world.advance(T0 + 700);
    let instance = world.any_instance(&id).unwrap();
    assert_eq!((instance.state, instance.cpu, instance.memory_gib), (State::Running, 4.0, 8.0));
    assert_eq!(instance.containers[0].restart_count, 0, "an unchanged container goes on");
    assert!(instance.containers[1].is_running());
    assert_eq!(world.quota(&eci()).unwrap().used_vcpu, 4.0);
    new.cpu = Some(1_000.0);
    assert!(matches!(world.update(&eci(), &id, new, T0 + 800), Err(ChangeError::Size(_))));
}

#[test]
fn client_tokens_replay_mismatch_and_expire() {
    let mut world = world();
    let key = TokenKey { scope: &eci(), action: "CreateContainerGroup", token: "t" };
    assert_eq!(world.check_token(&key, "p", T0), TokenCheck::New);
    let reply = serde_json::json!({"ContainerGroupId": "eci-1"});
    world.store_token(&key, TokenRecord { params: "p".into(), reply: reply.clone(), at_ms: T0 });
    assert_eq!(world.check_token(&key, "p", T0 + 1), TokenCheck::Replay(reply));
    assert_eq!(world.check_token(&key, "q", T0 + 1), TokenCheck::Mismatch);
    let other = TokenKey { action: "DeleteContainerGroup", ..key };
    assert_eq!(world.check_token(&other, "q", T0 + 1), TokenCheck::New);
    assert_eq!(world.check_token(&key, "q", T0 + 3_600_000), TokenCheck::New);
}

#[test]
fn faults_match_count_and_expire() {
    let mut world = world();
    let guangzhou = eksci();
    let subject = |action| Subject { action: Some(action), ..Subject::of_scope(&guangzhou) };
    fault(&mut world, r#"{"kind": "throttle", "action": "Create*", "times": 2, "forMs": 1000}"#);
    let refused = |world: &mut World, action, at| world.verdict(&subject(action), at).refusal.is_some();
    assert!(!refused(&mut world, "DescribeX", T0));
    assert!(refused(&mut world, "CreateX", T0));
    assert!(!refused(&mut world, "CreateX", T0 + 1_000), "over");
    assert!(world.faults().rules().is_empty());
    fault(&mut world, r#"{"kind": "throttle", "probability": 0.5}"#);
    let hits = (0..1_000).filter(|_| refused(&mut world, "CreateX", T0)).count();
    assert!((400..600).contains(&hits), "{hits}");
}

#[test]
fn a_seed_tells_the_whole_story() {
    let story = |seed| {
        let mut scenario = scenario();
        scenario.seed = seed;
        scenario.timing.jitter_ms = 300;
        let mut world = World::new(&scenario);
        let ids: Vec<_> =
            (0..20).map(|i| world.create(&eci(), spec(&eci(), &world.clone(), 0), T0 + i).unwrap()).collect();
        world.advance(T0 + 450);
        ids.iter().map(|id| (id.clone(), state(&world, id))).collect::<Vec<_>>()
    };
    assert_eq!(story(5), story(5));
    assert_ne!(story(5), story(6));
}

#[derive(Clone, Debug)]
enum Op {
    Create { eci: bool, zone: usize, big: bool, script: usize },
    Delete(usize),
    Restart(usize),
    Update(usize),
    Crash(usize),
    Reclaim(usize),
    Wait(i64),
    SoldOut { at_create: bool },
    ClearFaults,
}

const SCRIPTS: [&[&str]; 4] = [&[], &["sleep", "1"], &["sh", "-c", "sleep 0.2; exit 2"], &["false"]];

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (any::<bool>(), 0usize..2, any::<bool>(), 0usize..SCRIPTS.len())
            .prop_map(|(eci, zone, big, script)| Op::Create { eci, zone, big, script }),
        3 => (0usize..40).prop_map(Op::Delete),
        1 => (0usize..40).prop_map(Op::Restart),
        1 => (0usize..40).prop_map(Op::Update),
        1 => (0usize..40).prop_map(Op::Crash),
        1 => (0usize..40).prop_map(Op::Reclaim),
        4 => (0i64..3_000).prop_map(Op::Wait),
        1 => any::<bool>().prop_map(|at_create| Op::SoldOut { at_create }),
        1 => Just(Op::ClearFaults),
    ]
}

/// Two small clouds: little of everything, so that every limit is met.
fn small() -> Scenario {
    let mut scenario = scenario();
    for region in &mut scenario.regions {
        for zone in &mut region.zones {
            zone.stock_default = Some(4);
            zone.free_ips = 5;
        }
    }
    for account in &mut scenario.accounts {
        account.max_instances = 9;
        account.max_vcpu = 20.0;
    }
    scenario
}

fn apply(world: &mut World, ids: &mut Vec<(Scope, String)>, now: &mut i64, op: &Op) {
    let pick = |ids: &[(Scope, String)], n: usize| ids.get(n % ids.len().max(1)).cloned();
    match op {
        Op::Create { eci: is_eci, zone, big, script } => {
            let scope = if *is_eci { eci() } else { eksci() };
            let policy = if *big { RestartPolicy::OnFailure } else { RestartPolicy::Never };
            let mut spec = with_command(spec(&scope, world, *zone), policy, SCRIPTS[*script]);
            if *big {
                (spec.cpu, spec.memory_gib) = (Some(4.0), Some(8.0));
            }
            if let Ok(id) = world.create(&scope, spec, *now) {
                ids.push((scope, id));
            }
        }
        Op::Delete(n) => {
            if let Some((scope, id)) = pick(ids, *n) {
                let _ = world.delete(&scope, &id, *now);
            }
        }
        Op::Restart(n) => {
            if let Some((scope, id)) = pick(ids, *n) {
                let _ = world.restart(&scope, &id, *now);
            }
        }
        Op::Update(n) => {
            if let Some((scope, id)) = pick(ids, *n) {
                let mut new = world.any_instance(&id).unwrap().spec.clone();
                new.cpu = new.cpu.map(|c| if c > 2.0 { 1.0 } else { 4.0 });
                new.memory_gib = Some(8.0);
                let _ = world.update(&scope, &id, new, *now);
            }
        }
        Op::Crash(n) => {
            if let Some((_, id)) = pick(ids, *n) {
                let _ = world.exit_containers(&id, &ExitOrder { container: None, code: 1, crash: true }, *now);
            }
        }
        Op::Reclaim(n) => {
            if let Some((_, id)) = pick(ids, *n) {
                let _ = world.reclaim(&id, 100, *now);
            }
        }
        Op::Wait(ms) => {
            *now += ms;
            world.advance(*now);
        }
        Op::SoldOut { at_create } => {
            let when = if *at_create { "atCreate" } else { "afterCreate" };
            fault(world, &format!(r#"{{"kind": "soldOut", "when": "{when}", "times": 1}}"#));
        }
        Op::ClearFaults => {
            world.clear_faults();
        }
    }
}

/// Counts from the instances themselves what is held, and compares with every limit and counter.
fn check_conservation(world: &World) {
    for vendor in [Vendor::TencentEksci, Vendor::AlibabaEci] {
        for region in world.regions(vendor) {
            let here = |i: &&Instance| i.scope.vendor == vendor && i.scope.region == region.config.region;
            let all: Vec<_> = world.instances.values().filter(here).collect();
            for zone in &region.zones {
                let name = &zone.config().zone;
                let holders: Vec<_> = all.iter().filter(|i| i.zone == *name).collect();
                let with_ip = holders.iter().filter(|i| i.holds_ip).count();
                assert!(with_ip <= 5);
                assert_eq!(zone.free_ips() as usize, 5 - with_ip);
                let ips: std::collections::BTreeSet<_> =
                    holders.iter().filter(|i| i.holds_ip).map(|i| &i.private_ip).collect();
                assert_eq!(ips.len(), with_ip, "an address is held twice");
                for key in ["1-2", "1-8", "4-8"] {
                    let held = holders.iter().filter(|i| i.holds_stock && i.stock_key == key).count();
                    assert!(held <= 4, "{key} oversold");
                    assert_eq!(zone.free_stock(key), Some(4 - held as u32));
                }
            }
            for instance in all {
                assert_eq!(instance.billed_since_ms.is_some(), instance.state.is_billed());
                assert!(!instance.state.is_terminal() || (!instance.holds_stock && !instance.holds_quota));
                assert_eq!(instance.holds_ip, instance.exists());
            }
        }
    }
    for scope in [eci(), eksci()] {
        let quota = world.quota(&scope).unwrap();
        let holders = || world.instances.values().filter(|i| i.scope == scope && i.holds_quota);
        assert_eq!(quota.used_instances as usize, holders().count());
        assert!(quota.used_instances <= 9);
        let vcpu: f64 = holders().map(|i| i.cpu).sum();
        assert!((quota.used_vcpu - vcpu).abs() < 1e-9 && quota.used_vcpu <= 20.0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_oversold_and_all_comes_back(
        ops in prop::collection::vec(op(), 1..60),
        after_create in any::<bool>(),
    ) {
        let mut scenario = small();
        if after_create {
            scenario.rules.eci_no_stock = NoStock::AfterCreate;
        } else {
            scenario.rules.eksci_no_stock = NoStock::AtCreate;
        }
        let mut world = World::new(&scenario);
        let (mut ids, mut now) = (Vec::new(), T0);
        for op in &ops {
            apply(&mut world, &mut ids, &mut now, op);
            check_conservation(&world);
        }
        for (scope, id) in &ids {
            let _ = world.delete(scope, id, now);
        }
        now += 60_000;
        world.advance(now);
        check_conservation(&world);
        for scope in [eci(), eksci()] {
            prop_assert_eq!(world.list(&scope, now).len(), 0);
            prop_assert_eq!(world.quota(&scope).unwrap().used_instances, 0);
            prop_assert_eq!(world.quota(&scope).unwrap().used_vcpu, 0.0);
            for zone in &world.region(scope.vendor, &scope.region).unwrap().zones {
                prop_assert_eq!(zone.free_ips(), 5);
                prop_assert!(zone.stock_keys().all(|key| zone.free_stock(key) == Some(4)));
            }
        }
    }

    #[test]
    fn records_rebuild_the_same_world(ops in prop::collection::vec(op(), 1..40)) {
        let scenario = small();
        let mut world = World::new(&scenario);
        let mut lines: Vec<String> = Vec::new();
        let (mut ids, mut now) = (Vec::new(), T0);
        for op in &ops {
            apply(&mut world, &mut ids, &mut now, op);
            lines.extend(world.take_records().iter().map(|r| serde_json::to_string(r).unwrap()));
        }
        let mut again = World::new(&scenario);
        for line in &lines {
            again.restore(serde_json::from_str(line).unwrap(), now).unwrap();
        }
        again.rebuild();
        check_conservation(&again);
        prop_assert_eq!(&again.instances, &world.instances);
        let inputs = |w: &World| w.faults().rules().iter().map(|f| f.input.clone()).collect::<Vec<_>>();
        prop_assert_eq!(inputs(&again), inputs(&world));
        // And time goes on as it would have.
        now += 2_000;
        world.advance(now);
        again.advance(now);
        let states = |w: &World| w.instances.values().map(|i| (i.id.clone(), i.state)).collect::<BTreeMap<_, _>>();
        prop_assert_eq!(states(&again), states(&world));
    }
}
