//! Named losses, and random evidence of which the rules of the module must hold.

use meridian_model::{
    ids::CloudId,
    instance::Shape,
    quantity::{MemoryMib, MilliCpu, PricePerHour},
    status::ObservedPhase,
};
use proptest::prelude::*;

use super::*;
use crate::journal::intent::vouched;

const SHAPE: (MilliCpu, MemoryMib) = (MilliCpu(2000), MemoryMib(4096));
const ONE: Charge = Charge {
    instances: 1,
    cpu: SHAPE.0,
    memory: SHAPE.1,
    gpu: 0,
    public_ips: 0,
    disk: MemoryMib(0),
    cost: PricePerHour(0),
};
const BACKENDS: [&str; 2] = ["gz", "hz"];

fn at(seconds: i64) -> Time {
    Time::from_unix_ms(seconds * 1000)
}

fn deployment() -> Deployment {
    Deployment::new("test", b"secret")
}

fn tenant() -> TenantId {
    "acme".parse().unwrap()
}

fn op(k: u8) -> OperationId {
    deployment().operation_id(&tenant(), "POST instances", &k.to_string()).unwrap()
}

fn name(k: u8, n: u32) -> CloudName {
    deployment().cloud_name(&tenant(), &op(k), n, 1).unwrap()
}

fn id(k: u8, n: u32) -> CloudId {
    CloudId::new(format!("i-{k}-{n}")).unwrap()
}

/// Attempt `n` of operation `k`; odd ones are at the first backend.
fn backend(n: u32) -> BackendId {
    BACKENDS[usize::from(n.is_multiple_of(2))].parse().unwrap()
}

fn intent(k: u8, n: u32) -> Intent {
    Intent {
        tenant: tenant(),
        op_id: op(k),
        uid: format!("inst_{k}").parse().unwrap(),
        name: format!("web-{k}").parse().unwrap(),
        fingerprint: "fp".to_owned(),
        created_at: at(i64::from(k)),
        epoch: 1,
        n,
        backend: backend(n),
        adapter: "x".parse().unwrap(),
        region: "r".parse().unwrap(),
        zone: "z".parse().unwrap(),
        cloud_name: name(k, n),
        token: "t".parse().unwrap(),
        shape: Shape { cpu: SHAPE.0, memory: SHAPE.1, ..Shape::default() },
        charge: ONE,
        project: None,
        armed_at: at(10),
    }
}

fn shown(k: u8, n: u32) -> Observed {
    let marks = [("MERIDIAN_UID", format!("inst_{k}")), ("MERIDIAN_INSTANCE", format!("web-{k}"))];
    Observed {
        id: Some(id(k, n)),
        name: name(k, n).to_string(),
        phase: ObservedPhase::Running,
        shape: Shape { cpu: SHAPE.0, memory: SHAPE.1, ..Shape::default() },
        marks: marks.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        created_at: Some(at(i64::from(k))),
        ..Observed::default()
    }
}

/// A record whose attempts before the last are absent and whose last has the given state.
fn record(k: u8, rev: u64, attempts: u32, last: AttemptState) -> OperationRecord {
    let named = (format!("inst_{k}").parse().unwrap(), format!("web-{k}").parse().unwrap());
    let mut record = blank(&tenant(), &op(k), named, (at(i64::from(k)), at(20)));
    record.rev = rev;
    for n in 1..=attempts {
        let state = if n == attempts { last } else { AttemptState::Absent };
        let cloud_id =
            (!matches!(state, AttemptState::Open | AttemptState::InDoubt | AttemptState::Refused)).then(|| id(k, n));
        record.attempts.push(Attempt { state, cloud_id, ..intended_attempt(&intent(k, n), at(20)) });
        record.state = OperationState::Placing;
    }
    if last == AttemptState::Running && attempts > 0 {
        record.state = OperationState::Succeeded;
    }
    if record.open_attempt().is_some() {
        record.charge = ONE;
    }
    record
}

fn deleted(mut record: OperationRecord) -> OperationRecord {
    record.removal = Some(Removal { requested_at: at(30), completed_at: None, reason: None });
    record
}

fn gone(record: OperationRecord) -> OperationRecord {
    let mut record = deleted(record);
    end(&mut record, at(31));
    record
}

/// Complete sweeps of both backends, or of those named.
fn places(swept: &[&str], shown: &[Observed]) -> BTreeMap<BackendId, Place> {
    let at_backend = |id: &str| {
        let here = |o: &&Observed| {
            let n = deployment().identify(&o.name).map_or(1, |i| i.n);
            backend(n).as_str() == id
        };
        shown.iter().filter(here).cloned().collect()
    };
    let place = |id: &&str| {
        let shown = swept.contains(id).then(|| at_backend(id));
        (id.parse().unwrap(), Place { adapter: "x".parse().unwrap(), region: "r".parse().unwrap(), shown })
    };
    BACKENDS.iter().map(place).collect()
}

fn merged(
    records: Vec<OperationRecord>,
    places: &BTreeMap<BackendId, Place>,
    intents: &[Intent],
) -> Vec<OperationRecord> {
    merged_beside(records, places, intents, &Holders::new())
}

fn merged_beside(
    records: Vec<OperationRecord>,
    places: &BTreeMap<BackendId, Place>,
    intents: &[Intent],
    imports: &Holders,
) -> Vec<OperationRecord> {
    merge(Evidence {
        tenant: &tenant(),
        records,
        places,
        intents,
        imports,
        deployment: &deployment(),
        place_timeout: Duration::from_secs(60),
        seq: 1_000,
        now: at(100),
    })
}

fn states(record: &OperationRecord) -> Vec<(u32, AttemptState)> {
    record.attempts.iter().map(|a| (a.n, a.state)).collect()
}

#[test]
fn an_instance_that_nobody_remembers_becomes_its_operation_again() {
    let all = merged(Vec::new(), &places(&BACKENDS, &[shown(1, 2)]), &[]);
    let [record] = all.as_slice() else { panic!("{all:#?}") };
    assert_eq!((record.op_id.clone(), record.name.as_str(), record.uid.as_str()), (op(1), "web-1", "inst_1"));
    assert_eq!(states(record), [(2, AttemptState::Running)]);
    assert_eq!(record.open_attempt().unwrap().cloud_id, Some(id(1, 2)));
    assert_eq!((record.charge, record.state), (ONE, OperationState::Succeeded));
    assert_eq!(record.adopted.as_ref().and_then(|seen| seen.id.clone()), Some(id(1, 2)));
    assert!(record.annotations.contains_key(REBUILT));
    let starting = Observed { phase: ObservedPhase::Placing, ..shown(1, 2) };
    let all = merged(Vec::new(), &places(&BACKENDS, &[starting]), &[]);
    assert_eq!((states(&all[0]), all[0].state), (vec![(2, AttemptState::Applied)], OperationState::Placing));
    assert!(all[0].due.is_some());
    let mut withdrawn = all[0].clone();
    withdrawn.attempts[0].state = AttemptState::Absent;
    assert!(matches!(machine::next(&withdrawn), Next::GiveUp(_)), "never created again from a spec nobody knows");
    assert!(!machine::knows_wish(&all[0]), "nor is its token sent again");
}

/// Else its charge would lie on the tenant itself, and its project could have as much again.
#[test]
fn what_nobody_remembers_is_charged_to_its_project() {
    let mut seen = shown(1, 1);
    seen.marks.insert("MERIDIAN_PROJECT".to_owned(), "shop".to_owned());
    let sent = Intent { project: "shop".parse().ok(), ..intent(2, 1) };
    let all = merged(Vec::new(), &places(&BACKENDS, &[seen, shown(3, 1)]), &[sent, intent(4, 1)]);
    let projects: Vec<_> = all.iter().map(|r| (r.op_id.clone(), r.project().map(String::from))).collect();
    let shop = Some("shop".to_owned());
    assert_eq!(projects, [(op(1), shop.clone()), (op(2), shop), (op(3), None), (op(4), None)]);
}

#[test]
fn of_two_versions_the_newer_counts_and_a_removal_of_either() {
    let (old, new) = (record(1, 3, 1, AttemptState::Open), record(1, 5, 1, AttemptState::Running));
    for versions in [vec![old.clone(), new.clone()], vec![new.clone(), old.clone()]] {
        let all = merged(versions, &places(&[], &[]), &[]);
        assert_eq!(states(&all[0]), [(1, AttemptState::Running)]);
        assert_eq!(all[0].rev, 5 + REV_LEAP);
        assert!(all[0].removal.is_none());
    }
    let all = merged(vec![deleted(old), new.clone()], &places(&BACKENDS, &[shown(1, 1)]), &[]);
    assert!(all[0].removal.is_some() && machine::next(&all[0]) == Next::Remove, "{all:#?}");
    let all = merged(vec![gone(record(1, 4, 1, AttemptState::Running)), new], &places(&BACKENDS, &[shown(1, 1)]), &[]);
    assert!(all[0].is_gone(), "{all:#?}");
}

#[test]
fn what_a_gateway_vouched_for_holds_beside_what_the_store_has_left() {
    let mut left = record(1, 2, 1, AttemptState::Open);
    left.spec = Arc::new(InstanceSpec { gpu_type: Some("known".to_owned()), ..InstanceSpec::default() });
    left.labels = Labels::from([("app".to_owned(), "web".to_owned())]);
    let left_spec = Arc::clone(&left.spec);
    let ran = OperationRecord { adopted: Some(shown(1, 1)), ..record(1, 6, 1, AttemptState::Running) };
    for versions in [vec![left.clone(), vouched(&deleted(ran.clone()))], vec![vouched(&deleted(ran.clone())), left]] {
        let all = merged(versions, &places(&BACKENDS, &[]), &[intent(1, 1)]);
        assert_eq!((all[0].state, machine::next(&all[0])), (OperationState::Succeeded, Next::Remove), "{all:#?}");
        assert!(all[0].adopted.is_some(), "the answer of the create stays");
        assert_eq!((all[0].spec.gpu_type.as_deref(), all[0].labels.len()), (Some("known"), 1));
    }
    let all = merged(vec![vouched(&deleted(ran))], &places(&BACKENDS, &[]), &[]);
    assert_eq!((all.len(), machine::next(&all[0])), (1, Next::Remove), "nobody else has it: {all:#?}");

    let problem = Problem::new(ErrorCode::QuotaExceeded, "too many");
    let failed = vouched(&machine::failed(record(1, 3, 0, AttemptState::Open), problem, at(40)));
    let whole = OperationRecord { spec: left_spec, ..failed.clone() };
    let all = merged(vec![whole.clone(), failed.clone()], &places(&[], &[]), &[]);
    assert_eq!(all[0].spec, whole.spec, "what is whole is not overwritten by what was vouched for");
    for left in [None, Some(record(1, 1, 0, AttemptState::Open)), Some(record(1, 1001, 0, AttemptState::Open))] {
        let all = merged(left.into_iter().chain([failed.clone()]).collect(), &places(&[], &[]), &[]);
        assert_eq!((all[0].state, machine::next(&all[0])), (OperationState::Failed, Next::Done), "{all:#?}");
        assert_eq!(all[0].problem.as_ref().map(|p| p.code), Some(ErrorCode::QuotaExceeded));
    }
}

#[test]
fn a_create_whose_answer_was_lost_is_found_by_its_name() {
    let all = merged(vec![record(1, 2, 1, AttemptState::Open)], &places(&BACKENDS, &[shown(1, 1)]), &[]);
    assert_eq!(states(&all[0]), [(1, AttemptState::Running)]);
    assert_eq!(all[0].open_attempt().unwrap().cloud_id, Some(id(1, 1)));
    assert_eq!(all[0].state, OperationState::Succeeded);
}

#[test]
fn a_delete_that_was_accepted_does_not_change_the_answer_of_a_create_that_ran() {
    for known in [AttemptState::Open, AttemptState::InDoubt, AttemptState::Applied] {
        let known = deleted(record(1, 4, 1, known));
        let all = merged(vec![known], &places(&BACKENDS, &[shown(1, 1)]), &[]);
        assert_eq!((all[0].state, machine::next(&all[0])), (OperationState::Succeeded, Next::Remove), "{all:#?}");
        assert!(all[0].due.is_some() && all[0].adopted.is_some() && all[0].charge == ONE);
    }
    let unplaceable = deleted(record(1, 4, 1, AttemptState::Unplaceable));
    let all = merged(vec![unplaceable], &places(&BACKENDS, &[shown(1, 1)]), &[]);
    assert_eq!(all[0].state, OperationState::Placing, "it was withdrawn before");
}

#[test]
fn of_two_of_one_name_the_adopted_one_is_looked_at() {
    let other = Observed { id: Some(id(1, 9)), phase: ObservedPhase::Placing, ..shown(1, 1) };
    let known = record(1, 4, 1, AttemptState::Applied);
    let all = merged(vec![known], &places(&BACKENDS, &[other, shown(1, 1)]), &[]);
    assert_eq!((states(&all[0]), all[0].condemned.len()), (vec![(1, AttemptState::Running)], 1));
}

#[test]
fn a_later_attempt_that_is_shown_takes_the_place_of_the_one_before() {
    let before = record(1, 2, 1, AttemptState::InDoubt);
    let all = merged(vec![before.clone()], &places(&BACKENDS, &[shown(1, 2)]), &[]);
    assert_eq!(states(&all[0]), [(1, AttemptState::Absent), (2, AttemptState::Running)]);
    assert_eq!((all[0].charge, all[0].condemned.len()), (ONE, 0));
    // Its own region cannot be seen: it may be there, and is charged until that is known.
    let all = merged(vec![before], &places(&["hz"], &[shown(1, 2)]), &[]);
    assert_eq!(states(&all[0]), [(2, AttemptState::Running)]);
    assert_eq!(all[0].condemned.iter().map(|a| (a.n, a.state)).collect::<Vec<_>>(), [(1, AttemptState::InDoubt)]);
    assert_eq!(all[0].charge.instances, 2);
}

#[test]
fn an_instance_of_a_closed_or_passed_attempt_is_condemned_and_charged() {
    let all =
        merged(vec![record(1, 9, 2, AttemptState::Running)], &places(&BACKENDS, &[shown(1, 1), shown(1, 2)]), &[]);
    assert_eq!(states(&all[0]), [(1, AttemptState::Absent), (2, AttemptState::Running)]);
    assert_eq!(all[0].condemned.iter().map(|a| (a.n, a.state)).collect::<Vec<_>>(), [(1, AttemptState::Removing)]);
    assert_eq!(all[0].charge.instances, 2);
    assert!(all[0].due.is_some());
}

#[test]
fn an_intent_is_an_attempt_in_doubt_with_its_charge() {
    let all = merged(Vec::new(), &places(&["hz"], &[]), &[intent(1, 1)]);
    assert_eq!(states(&all[0]), [(1, AttemptState::InDoubt)]);
    assert_eq!((all[0].charge, all[0].fingerprint.as_str()), (ONE, "fp"));
    // Known to be settled already, it adds nothing.
    let all = merged(vec![record(1, 9, 1, AttemptState::Running)], &places(&[], &[]), &[intent(1, 1)]);
    assert_eq!(states(&all[0]), [(1, AttemptState::Running)]);
}

#[test]
fn a_region_that_cannot_be_swept_keeps_its_charges_and_doubts() {
    let known = vec![record(1, 4, 1, AttemptState::Running), record(2, 4, 1, AttemptState::InDoubt)];
    let all = merged(known, &places(&["hz"], &[]), &[]);
    assert_eq!(
        all.iter().map(|r| (states(r)[0].1, r.charge)).collect::<Vec<_>>(),
        [(AttemptState::Running, ONE), (AttemptState::InDoubt, ONE)]
    );
}

#[test]
fn who_held_a_name_before_is_gone_if_it_is_not_shown() {
    let (first, mut second) = (record(1, 4, 1, AttemptState::Running), record(2, 4, 1, AttemptState::Running));
    second.name = first.name.clone();
    let all = merged(vec![first.clone(), second.clone()], &places(&BACKENDS, &[shown(2, 1)]), &[]);
    assert!(all[0].is_gone() && !all[1].is_gone(), "{all:#?}");
    assert_eq!(all[0].charge, Charge::default());
    let all = merged(vec![first, second], &places(&["hz"], &[]), &[]);
    assert!(!all[0].is_gone() && !all[1].is_gone(), "nobody knows");
}

#[test]
fn an_instance_that_ended_is_charged_no_longer_and_one_of_another_tenant_is_not_ours() {
    let mut ended = shown(1, 1);
    ended.phase = ObservedPhase::Succeeded;
    assert_eq!(merged(Vec::new(), &places(&BACKENDS, &[ended]), &[])[0].charge, Charge::default());
    let mut foreign = shown(1, 1);
    let other: TenantId = "lab".parse().unwrap();
    foreign.name = deployment().cloud_name(&other, &op(1), 1, 1).unwrap().to_string();
    assert!(merged(Vec::new(), &places(&BACKENDS, &[foreign]), &[]).is_empty());
}

fn lost(record: OperationRecord) -> OperationRecord {
    let id = record.open_attempt().and_then(|a| a.cloud_id.clone());
    id.and_then(|id| machine::lost(record.clone(), &id, "not shown", at(40))).unwrap_or(record)
}

/// Operation 5 of a tenant, by which the first attempt of operation `k` was imported; `record` has it if it is taken in.
fn imported(of: &TenantId, k: u8, taken_in: bool) -> OperationRecord {
    let mut import = record(5, 3, u32::from(taken_in), AttemptState::Running);
    import.tenant = of.clone();
    import.annotations = Labels::from([(IMPORTED.to_owned(), format!("{}/{}", backend(1), id(k, 1)))]);
    for attempt in &mut import.attempts {
        (attempt.name, attempt.cloud_id) = (name(k, 1), Some(id(k, 1)));
    }
    import
}

#[test]
fn what_was_imported_is_not_given_back_to_the_operation_in_its_name() {
    let (own, other) = (tenant(), TenantId::new("lab").unwrap());
    let places = places(&BACKENDS, &[shown(1, 1)]);
    let o = lost(record(1, 4, 1, AttemptState::Running));
    assert!(machine::is_lost(&o));
    for (taken_in, vouched_only) in [(true, false), (false, false), (true, true)] {
        let mut import = imported(&own, 1, taken_in);
        if vouched_only {
            import.annotations.clear();
        }
        // Once lost, now imported: neither condemned nor taken back.
        let all = merged(vec![o.clone(), import.clone()], &places, &[]);
        assert!(all.len() == 2 && machine::is_lost(&all[0]) && all[0].condemned.is_empty(), "{all:#?}");
        assert_eq!(all[1].charge.instances, u64::from(taken_in));
        // Once an orphan without a record: it has one owner, whatever a journal says of its create.
        for intents in [&[][..], &[intent(1, 1)]] {
            let all = merged(vec![import.clone()], &places, intents);
            assert_eq!(all.iter().map(|r| &r.op_id).collect::<Vec<_>>(), [&op(5)], "{all:#?}");
        }
    }
    let beside = imports([&imported(&other, 1, true)]);
    assert!(merged_beside(Vec::new(), &places, &[], &beside).is_empty(), "another tenant's");
    let all = merged_beside(vec![o], &places, &[], &beside);
    assert!(machine::is_lost(&all[0]) && all[0].condemned.is_empty(), "{all:#?}");
    // An import that is over holds nothing.
    let over = gone(imported(&other, 1, true));
    assert!(imports([&over]).is_empty());
    assert_eq!(merged(vec![gone(imported(&own, 1, true))], &places, &[]).len(), 2);
}

#[test]
fn a_lost_instance_that_is_there_again_is_taken_back() {
    let known = lost(record(1, 4, 1, AttemptState::Running));
    let all = merged(vec![known.clone()], &places(&BACKENDS, &[shown(1, 1)]), &[]);
    assert_eq!((states(&all[0]), all[0].condemned.len()), (vec![(1, AttemptState::Running)], 0), "{all:#?}");
    assert_eq!((all[0].charge, machine::next(&all[0])), (ONE, Next::Done));
    let all = merged(vec![known.clone()], &places(&BACKENDS, &[]), &[]);
    assert!(machine::is_lost(&all[0]) && all[0].charge == Charge::default());
    let all = merged(vec![deleted(known)], &places(&BACKENDS, &[shown(1, 1)]), &[]);
    assert_eq!(all[0].condemned.len(), 1, "its removal was asked for: {all:#?}");
}

#[test]
fn what_is_charged_without_proof_says_so() {
    let running = || record(1, 4, 1, AttemptState::Running);
    let doubt = record(1, 4, 1, AttemptState::InDoubt);
    for (what, record, swept, seen, is_doubtful) in [
        ("shown and wanted", running(), &BACKENDS[..], true, false),
        ("to be removed", deleted(running()), &BACKENDS, true, true),
        ("not shown", running(), &BACKENDS, false, true),
        ("at a region that could not be swept", running(), &BACKENDS[1..], false, true),
        ("in doubt", doubt, &BACKENDS, false, true),
        ("gone", gone(running()), &BACKENDS, false, false),
        ("not begun", record(1, 4, 0, AttemptState::Absent), &BACKENDS, false, false),
    ] {
        let shown = if seen { vec![shown(1, 1)] } else { Vec::new() };
        let all = merged(vec![record], &places(swept, &shown), &[]);
        assert_eq!(all[0].restored_at, is_doubtful.then_some(at(100)), "{what}: {all:#?}");
        let again = merged(all, &places(&BACKENDS, &[self::shown(1, 1)]), &[]);
        assert_eq!(again[0].restored_at.is_some(), what == "to be removed", "{what}, shown by the next: {again:#?}");
    }
}

fn any_record() -> impl Strategy<Value = OperationRecord> {
    let states = prop::sample::select(vec![
        AttemptState::Open,
        AttemptState::InDoubt,
        AttemptState::Applied,
        AttemptState::Running,
        AttemptState::Unplaceable,
        AttemptState::Removing,
        AttemptState::Refused,
        AttemptState::Absent,
    ]);
    (0..4_u8, 1..20_u64, 0..3_u32, states, 0..5_u8).prop_map(|(k, rev, attempts, last, fate)| {
        let record = record(k, rev, attempts, last);
        match fate {
            0 => deleted(record),
            1 => gone(record),
            2 => lost(record),
            _ => record,
        }
    })
}

proptest! {
    #[test]
    fn the_rules_hold_for_any_evidence(
        records in prop::collection::vec(any_record(), 0..8),
        sights in prop::collection::btree_set((0..4_u8, 1..4_u32), 0..6),
        doubles in prop::collection::btree_set((0..4_u8, 1..4_u32), 0..2),
        intents in prop::collection::btree_set((0..4_u8, 1..4_u32), 0..4),
        swept in prop::sample::subsequence(BACKENDS.to_vec(), 0..=2),
    ) {
        let intents: Vec<_> = intents.into_iter().map(|(k, n)| intent(k, n)).collect();
        let mut sights: Vec<_> = sights.into_iter().map(|(k, n)| shown(k, n)).collect();
        sights.extend(doubles.into_iter().map(|(k, n)| Observed { id: Some(id(k, n + 100)), ..shown(k, n) }));
        let places = places(&swept, &sights);
        let all = merged(records.clone(), &places, &intents);
        let find = |op: &OperationId| all.iter().find(|r| r.op_id == *op);

        for seen in places.values().flat_map(|p| p.shown.iter().flatten()) {
            let identity = deployment().identify(&seen.name).unwrap();
            let record = find(&identity.op_id).expect("what is shown is known");
            let of_it = |a: &&Attempt| a.cloud_id == seen.id;
            let held = record.open_attempt().into_iter().chain(&record.condemned).filter(of_it).count();
            prop_assert_eq!(held, usize::from(!record.is_gone()), "{:#?} in {:#?}", seen, record);
        }
        for record in &all {
            let shown_of = |o: &&Observed| deployment().identify(&o.name).is_some_and(|i| i.op_id == record.op_id);
            let exist = places.values().flat_map(|p| p.shown.iter().flatten()).filter(shown_of).count();
            let exist = u64::try_from(exist).unwrap();
            prop_assert!(record.is_gone() || record.charge.instances >= exist, "{:#?}", record);
            prop_assert!(record.is_gone() || record.charge.cpu.0 >= exist * SHAPE.0.0);
            prop_assert!(!record.is_gone() || record.charge == Charge::default());
            let ns: Vec<_> = record.attempts.iter().map(|a| a.n).collect();
            prop_assert!(ns.is_sorted_by(|a, b| a < b), "{:?}", ns);
            let closed_before = record.attempts.iter().rev().skip(1).all(|a| a.state.is_closed());
            prop_assert!(closed_before, "{:#?}", record);
            prop_assert!(record.due.is_some() || machine::next(record) == Next::Done);
        }
        for version in &records {
            let now = find(&version.op_id).expect("a record is not forgotten");
            prop_assert!(now.rev > version.rev);
            prop_assert!(version.removal.is_none() || now.removal.is_some() || now.is_gone());
            prop_assert!(!version.is_gone() || now.is_gone());
        }
        for intent in &intents {
            let now = find(&intent.op_id).expect("an intent is not forgotten");
            let of_it = |a: &&Attempt| a.name == intent.cloud_name;
            prop_assert!(now.is_gone() || now.attempts.iter().chain(&now.condemned).any(|a| of_it(&a)));
        }
        // A rebuild that was interrupted and is begun again finds what it wrote.
        let again = merged(all.iter().cloned().chain(records).collect(), &places, &intents);
        let shape = |r: &OperationRecord| (r.op_id.clone(), states(r), r.condemned.len(), r.charge, r.is_gone());
        prop_assert_eq!(again.iter().map(shape).collect::<Vec<_>>(), all.iter().map(shape).collect::<Vec<_>>());
    }
}
