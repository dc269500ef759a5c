//! Walks of the machine: named journeys, and random ones that must keep the rules of the module.

use std::sync::Arc;

use meridian_adapters::AdapterError;
use meridian_model::{
    ids::{BackendId, RegionId, ZoneId},
    instance::{InstanceSpec, OnDoubt, Shape},
    operation::{Fence, RECORD_VERSION, Removal},
    quantity::{MemoryMib, MilliCpu, PricePerHour},
    status::EventClass,
};
use meridian_policies::quota::parts::parts;
use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { place_timeout: Duration::from_secs(60), attempts_max: 6 };
const CHARGE: Charge = Charge {
    instances: 1,
    cpu: MilliCpu(2000),
    memory: MemoryMib(4096),
    gpu: 0,
    public_ips: 0,
    disk: MemoryMib(0),
    cost: PricePerHour(0),
};
const BOUND: Duration = Duration::from_secs(400);

fn at(seconds: i64) -> Time {
    Time::from_unix_ms(seconds * 1000)
}

fn candidate(backend: &str, zone: &str) -> RankedCandidate {
    RankedCandidate {
        backend: BackendId::new(backend).unwrap(),
        adapter: "x".parse().unwrap(),
        region: RegionId::new("r").unwrap(),
        zone: ZoneId::new(zone).unwrap(),
        shape: Shape { cpu: MilliCpu(2000), memory: MemoryMib(4096), ..Shape::default() },
        price: None,
        score: 1.0,
        terms: Vec::new(),
    }
}

pub(in crate::journal) fn claimed() -> OperationRecord {
    OperationRecord {
        v: RECORD_VERSION,
        rev: 1,
        tenant: "acme".parse().unwrap(),
        op_id: "op".parse().unwrap(),
        uid: "inst_1".parse().unwrap(),
        name: "web".parse().unwrap(),
        fingerprint: String::new(),
        labels: Default::default(),
        annotations: Default::default(),
        spec: Arc::default(),
        state: OperationState::Claimed,
        epoch: 1,
        fence: Fence::default(),
        seq: 0,
        condemned: Vec::new(),
        due: Some(at(0)),
        created_at: at(0),
        updated_at: at(0),
        decision: None,
        attempts: Vec::new(),
        charge: Charge::default(),
        removal: None,
        problem: None,
        ran_at: None,
        adopted: None,
        last_seen: None,
        restored_at: None,
    }
}

pub(in crate::journal) fn with_plan(candidates: &[(&str, &str)]) -> OperationRecord {
    let candidates = candidates.iter().map(|(b, z)| candidate(b, z)).collect();
    planned(claimed(), Decision { at: at(0), seed: 0, candidates, rejected: Vec::new() }, at(0))
}

fn names(n: u32) -> Names {
    Names { token: format!("t{n}").parse().unwrap(), name: format!("n{n}").parse().unwrap() }
}

pub(in crate::journal) fn armed(record: OperationRecord, now: Time) -> OperationRecord {
    let Next::Arm(candidate) = next(&record) else { panic!("not at an arm: {:?}", next(&record)) };
    let n = next_number(&record);
    arm(record, &candidate, names(n), (CHARGE, LIMITS), now).unwrap()
}

fn error(kind: FaultKind, effect: Effect) -> Result<CloudId, AdapterError> {
    Err(AdapterError::new(kind, effect, "Code", "text"))
}

pub(in crate::journal) fn id() -> CloudId {
    CloudId::new("i-1").unwrap()
}

pub(in crate::journal) fn seen(phase: ObservedPhase) -> Observed {
    Observed { id: Some(id()), phase, ..Observed::default() }
}

fn looked(record: OperationRecord, found: &[Observed], proven: bool, now: Time) -> Option<OperationRecord> {
    looked_up(record, &LookUp { found, proven, effect_bound: BOUND, forgets_ended: true }, now)
}

#[test]
fn sold_out_at_create_and_after_create_moves_on_to_the_next_zone() {
    let r = armed(with_plan(&[("a", "1"), ("a", "2"), ("b", "1")]), at(0));
    let r = sent(r, &error(FaultKind::NoCapacity, Effect::NotApplied), at(1));
    assert_eq!(r.attempts[0].state, AttemptState::Refused);
    let r = sent(armed(r, at(2)), &Ok(id()), at(3));
    assert_eq!(next(&r), Next::Watch { until: at(62) });
    let r = sighted(r, &seen(ObservedPhase::Unplaceable), at(4)).unwrap();
    assert_eq!(next(&r), Next::Remove);
    assert!(matches!(next(&gone(r.clone(), at(5))), Next::Arm(c) if c.backend.as_str() == "b"));
    let r = sent(armed(gone(r, at(5)), at(6)), &Ok(id()), at(7));
    let r = sighted(r, &seen(ObservedPhase::Running), at(8)).unwrap();
    assert_eq!((r.state, next(&r), r.attempts.len()), (OperationState::Succeeded, Next::Done, 3));
    assert_eq!(r.charge, CHARGE);
}

#[test]
fn everything_sold_out_is_no_capacity_with_every_attempt() {
    let mut r = with_plan(&[("a", "1"), ("b", "1")]);
    for n in 0..2 {
        r = sent(armed(r, at(n)), &error(FaultKind::NoCapacity, Effect::NotApplied), at(n));
    }
    let Next::GiveUp(problem) = next(&r) else { panic!() };
    assert_eq!(problem.code, ErrorCode::NoCapacity);
    let r = failed(r, *problem, at(9));
    assert_eq!(r.problem.as_ref().unwrap().attempts.len(), 2);
    assert!(r.is_gone() && r.charge == Charge::default() && next(&r) == Next::Done);
}

#[test]
fn a_doubt_is_settled_by_sight_or_by_proven_absence_and_by_nothing_else() {
    let doubt =
        sent(armed(with_plan(&[("a", "1"), ("b", "1")]), at(0)), &error(FaultKind::Lost, Effect::Unknown), at(1));
    assert_eq!(next(&doubt), Next::Resolve);
    assert!(looked(doubt.clone(), &[], true, at(399)).is_none(), "too early");
    assert!(looked(doubt.clone(), &[], false, at(9999)).is_none(), "an empty answer that proves nothing");
    let absent = looked(doubt.clone(), &[], true, at(401)).unwrap();
    assert!(matches!(next(&absent), Next::Arm(c) if c.backend.as_str() == "b"));
    let late = looked(doubt.clone(), &[seen(ObservedPhase::Starting)], false, at(300)).unwrap();
    assert_eq!(next(&late), Next::Watch { until: at(360) }, "its time to run counts from when it was found");
    let found = looked(doubt, &[seen(ObservedPhase::Running)], false, at(2)).unwrap();
    assert_eq!(found.attempts[0].state, AttemptState::Applied);
    assert_eq!(found.attempts[0].cloud_id, Some(id()));
}

#[test]
fn an_open_attempt_of_a_dead_owner_is_in_doubt() {
    let r = armed(with_plan(&[("a", "1")]), at(0));
    assert_eq!(next(&r), Next::Doubt);
    assert_eq!(next(&doubted(r, at(1))), Next::Resolve);
}

#[test]
fn a_refusal_of_a_resent_token_is_not_believed() {
    let r = sent(armed(with_plan(&[("a", "1")]), at(0)), &error(FaultKind::Lost, Effect::Unknown), at(1));
    let r = sent(rearmed(r, at(2)), &error(FaultKind::NoCapacity, Effect::NotApplied), at(3));
    assert_eq!(r.attempts[0].state, AttemptState::InDoubt);
}

#[test]
fn a_token_is_not_resent_for_ever_after_a_definite_refusal() {
    let doubt = sent(armed(with_plan(&[("a", "1")]), at(0)), &error(FaultKind::Lost, Effect::Unknown), at(1));
    assert!(repetition_may_tell(&doubt.attempts[0]));
    for (kind, effect, again) in [
        (FaultKind::NoCapacity, Effect::NotApplied, false),
        (FaultKind::BadRequest, Effect::NotApplied, false),
        (FaultKind::Throttled, Effect::NotApplied, true),
        (FaultKind::BreakerOpen, Effect::NotApplied, true),
        (FaultKind::Lost, Effect::Unknown, true),
    ] {
        let r = sent(rearmed(doubt.clone(), at(2)), &error(kind, effect), at(3));
        assert_eq!((next(&r), repetition_may_tell(&r.attempts[0])), (Next::Resolve, again), "{kind:?}");
    }
}

#[test]
fn a_refusal_of_a_resent_token_is_believed_once_nothing_earlier_can_take_effect() {
    let doubt =
        sent(armed(with_plan(&[("a", "1"), ("b", "1")]), at(0)), &error(FaultKind::Lost, Effect::Unknown), at(1));
    let refused =
        sent_late(rearmed(doubt.clone(), at(402)), &error(FaultKind::NoCapacity, Effect::NotApplied), at(403));
    assert!(matches!(next(&refused), Next::Arm(c) if c.backend.as_str() == "b"));
    for (kind, effect) in [
        (FaultKind::Throttled, Effect::NotApplied),
        (FaultKind::Lost, Effect::Unknown),
        // Refused before anybody looked whether the token is known.
        (FaultKind::Credentials, Effect::NotApplied),
        (FaultKind::Account, Effect::NotApplied),
        (FaultKind::Gone, Effect::NotApplied),
    ] {
        let r = sent_late(rearmed(doubt.clone(), at(402)), &error(kind, effect), at(403));
        assert_eq!(next(&r), Next::Resolve, "{kind:?}");
    }
    let found = sent_late(rearmed(doubt, at(402)), &Ok(id()), at(403));
    assert_eq!(found.attempts[0].state, AttemptState::Applied);
}

#[test]
fn a_late_answer_does_not_change_what_was_learnt_since() {
    let applied = sent(armed(with_plan(&[("a", "1")]), at(0)), &Ok(id()), at(1));
    let running = sighted(applied, &seen(ObservedPhase::Running), at(2)).unwrap();
    for result in [Ok(id()), error(FaultKind::NoCapacity, Effect::NotApplied), error(FaultKind::Lost, Effect::Unknown)]
    {
        let r = sent(rearmed(running.clone(), at(3)), &result, at(4));
        assert_eq!(r.attempts, running.attempts, "{result:?}");
        assert_eq!(next(&r), Next::Done);
    }
}

#[test]
fn what_a_gateways_own_disk_kept_from_being_sent_says_nothing_of_a_zone_a_few_times() {
    let fault = AttemptFault::from(&AdapterError::new(FaultKind::Temporary, Effect::NotApplied, UNWRITTEN, "full"));
    let mut r = with_plan(&[("a", "1"), ("b", "1")]);
    for n in 1..=UNWRITTEN_MAX {
        r = never_sent(armed(r, at(0)), fault.clone(), at(1));
        assert!(matches!(next(&r), Next::Arm(c) if c.backend.as_str() == "a"), "after {n}");
        assert!(tried(&r).is_empty());
    }
    let sold_out = sent(armed(r.clone(), at(2)), &error(FaultKind::NoCapacity, Effect::NotApplied), at(3));
    assert!(matches!(next(&sold_out), Next::Arm(c) if c.backend.as_str() == "b"));
    // It ends all the same, on a disk that is full again whenever it was not.
    let mut r = never_sent(armed(r, at(2)), fault.clone(), at(3));
    r = never_sent(armed(r, at(2)), fault, at(3));
    let Next::GiveUp(problem) = next(&r) else { panic!("{:?}", next(&r)) };
    assert_eq!(problem.code, ErrorCode::Internal);
    assert!(next_number(&r) < 32, "what a name can hold");
}

#[test]
fn a_bad_request_is_not_tried_elsewhere() {
    let r = sent(
        armed(with_plan(&[("a", "1"), ("b", "1")]), at(0)),
        &error(FaultKind::BadRequest, Effect::NotApplied),
        at(1),
    );
    assert!(matches!(next(&r), Next::GiveUp(p) if p.code == ErrorCode::BackendError));
}

#[test]
fn a_fault_of_the_account_skips_the_other_zones_of_the_backend() {
    let r = sent(
        armed(with_plan(&[("a", "1"), ("a", "2"), ("b", "1")]), at(0)),
        &error(FaultKind::Quota, Effect::NotApplied),
        at(1),
    );
    assert!(matches!(next(&r), Next::Arm(c) if c.backend.as_str() == "b"));
}

#[test]
fn regions_that_do_not_answer_are_not_called_full() {
    let r = sent(armed(with_plan(&[("a", "1")]), at(0)), &error(FaultKind::Unreachable, Effect::NotApplied), at(1));
    assert!(matches!(next(&r), Next::GiveUp(p) if p.code == ErrorCode::RegionUnavailable));
}

#[test]
fn the_time_to_run_ends_an_attempt_only_when_it_has_passed() {
    let r = sent(armed(with_plan(&[("a", "1")]), at(0)), &Ok(id()), at(1));
    assert!(timed_out(r.clone(), None, at(59)).is_none());
    assert_eq!(next(&timed_out(r, None, at(60)).unwrap()), Next::Remove);
}

#[test]
fn a_removal_stops_new_attempts_and_removes_what_the_open_one_made() {
    let remove = |mut r: OperationRecord| {
        r.removal = Some(Removal { requested_at: at(5), completed_at: None, reason: None });
        r
    };
    assert_eq!(next(&remove(claimed())), Next::Cancel);
    assert_eq!(next(&remove(with_plan(&[("a", "1")]))), Next::Cancel);
    let open = remove(sent(armed(with_plan(&[("a", "1"), ("b", "1")]), at(0)), &Ok(id()), at(1)));
    assert_eq!(next(&open), Next::Remove);
    let cancelled = cancelled(gone(removing(open, at(6)), at(7)), at(8));
    assert!(cancelled.is_gone() && cancelled.state == OperationState::Cancelled);
    let running =
        sighted(sent(armed(with_plan(&[("a", "1")]), at(0)), &Ok(id()), at(1)), &seen(ObservedPhase::Running), at(2));
    let gone = gone(removing(remove(running.unwrap()), at(6)), at(7));
    assert!(gone.is_gone() && gone.charge == Charge::default() && next(&gone) == Next::Done);
}

#[test]
fn an_instance_that_ends_by_itself_is_charged_no_longer() {
    let r =
        sighted(sent(armed(with_plan(&[("a", "1")]), at(0)), &Ok(id()), at(1)), &seen(ObservedPhase::Running), at(2))
            .unwrap();
    assert!(ended(r.clone(), &seen(ObservedPhase::Running), at(3)).is_none());
    let over = ended(r, &seen(ObservedPhase::Succeeded), at(4)).unwrap();
    assert_eq!(over.charge, Charge::default());
    assert!(!over.is_gone() && ended(over, &seen(ObservedPhase::Succeeded), at(5)).is_none());
}

fn replacing(candidates: &[(&str, &str)]) -> OperationRecord {
    let mut spec = InstanceSpec::default();
    spec.placement.on_doubt = OnDoubt::Replace;
    OperationRecord { spec: Arc::new(spec), ..with_plan(candidates) }
}

fn in_doubt(record: OperationRecord, now: Time) -> OperationRecord {
    sent(armed(record, now), &error(FaultKind::Lost, Effect::Unknown), now)
}

fn twice(charge: Charge) -> Charge {
    quota::sum(charge, charge)
}

#[test]
fn a_doubt_that_is_not_waited_for_is_condemned_charged_and_cleared() {
    let doubt = in_doubt(replacing(&[("a", "1"), ("b", "1")]), at(0));
    let r = condemned::replaced(doubt.clone(), at(61)).unwrap();
    assert_eq!((r.condemned.len(), r.attempts.len(), r.epoch, r.charge), (1, 0, 2, twice(CHARGE)));
    assert_eq!(next_number(&r), 2, "a number is never given twice");
    let r = sent(armed(r, at(62)), &Ok(id()), at(63));
    assert_eq!((r.attempts[0].n, r.attempts[0].backend.as_str(), r.charge), (2, "b", twice(CHARGE)));
    let r = sighted(r, &seen(ObservedPhase::Running), at(64)).unwrap();
    assert_eq!((r.state, next(&r), r.charge), (OperationState::Succeeded, Next::Clear, twice(CHARGE)));
    // It shows up, is deleted and proven gone.
    let which = Which::of(&r.condemned[0]);
    let other = CloudId::new("i-0").unwrap();
    let r = condemned::learned(r, &Finding::Found(which, other.clone()), at(65)).unwrap();
    assert_eq!((r.condemned[0].state, r.condemned[0].cloud_id.as_ref()), (AttemptState::Removing, Some(&other)));
    let which = Which::of(&r.condemned[0]);
    let r = condemned::learned(r, &Finding::Gone(which.clone()), at(66)).unwrap();
    assert_eq!((next(&r), r.charge, r.due), (Next::Done, CHARGE, None));
    let tried: Vec<_> = r.attempts.iter().map(|a| (a.n, a.state)).collect();
    assert_eq!(tried, [(1, AttemptState::Absent), (2, AttemptState::Running)]);
    assert!(condemned::learned(r, &Finding::Gone(which), at(67)).is_none(), "known already");
}

#[test]
fn a_doubt_is_waited_for_unless_the_spec_and_a_candidate_allow_otherwise() {
    let waits = in_doubt(with_plan(&[("a", "1"), ("b", "1")]), at(0));
    assert!(condemned::replaced(waits, at(999)).is_none(), "wait is the default");
    let last = in_doubt(replacing(&[("a", "1")]), at(0));
    assert!(condemned::replaced(last, at(999)).is_none(), "no candidate is left");
    let mut deleted = in_doubt(replacing(&[("a", "1"), ("b", "1")]), at(0));
    deleted.removal = Some(Removal { requested_at: at(5), completed_at: None, reason: None });
    assert!(condemned::replaced(deleted, at(999)).is_none(), "nothing is opened after a removal");
    let open = armed(replacing(&[("a", "1"), ("b", "1")]), at(0));
    assert!(condemned::replaced(open, at(999)).is_none(), "a request may be on its way");
}

#[test]
fn nothing_ends_while_something_condemned_may_exist() {
    let given_up = condemned::replaced(in_doubt(replacing(&[("a", "1"), ("b", "1")]), at(0)), at(61)).unwrap();
    let gone = |r: OperationRecord, now| {
        let which = Which::of(&r.condemned[0]);
        condemned::learned(r, &Finding::Gone(which), now).unwrap()
    };
    // Every candidate refuses: no failure before the proof.
    let refused = sent(armed(given_up.clone(), at(62)), &error(FaultKind::NoCapacity, Effect::NotApplied), at(63));
    assert_eq!(next(&refused), Next::Clear);
    assert!(matches!(next(&gone(refused, at(64))), Next::GiveUp(_)));
    // A removal: no cancellation before the proof.
    let mut removed = given_up.clone();
    removed.removal = Some(Removal { requested_at: at(62), completed_at: None, reason: None });
    assert_eq!(next(&removed), Next::Clear);
    assert_eq!(next(&gone(removed, at(64))), Next::Cancel);
    // A delete of the running instance: not gone before the proof.
    let mut running =
        sighted(sent(armed(given_up, at(62)), &Ok(id()), at(63)), &seen(ObservedPhase::Running), at(64)).unwrap();
    running.removal = Some(Removal { requested_at: at(65), completed_at: None, reason: None });
    let deleted = super::gone(removing(running, at(66)), at(67));
    assert_eq!((deleted.is_gone(), next(&deleted), deleted.charge), (false, Next::Clear, CHARGE));
    let over = gone(deleted, at(68));
    assert_eq!((over.is_gone(), next(&over), over.charge, over.due), (true, Next::Done, Charge::default(), None));
}

#[test]
fn an_instance_too_many_is_condemned_once_and_charged_if_the_quota_holds_it() {
    let running =
        sighted(sent(armed(with_plan(&[("a", "1")]), at(0)), &Ok(id()), at(1)), &seen(ObservedPhase::Running), at(2))
            .unwrap();
    let region = RegionId::new("elsewhere").unwrap();
    let surplus = Attempt { cloud_id: Some(CloudId::new("i-9").unwrap()), region, ..running.attempts[0].clone() };
    let lies = parts(&running);
    let charged = condemned::stray(running.clone(), &surplus, true, at(3)).unwrap();
    assert_eq!((charged.charge, next(&charged)), (twice(CHARGE), Next::Clear));
    assert!(condemned::stray(charged.clone(), &surplus, true, at(4)).is_none(), "known");
    assert!(condemned::stray(running.clone(), &running.attempts[0], true, at(4)).is_none(), "the adopted one");
    let uncharged = condemned::stray(running, &surplus, false, at(3)).unwrap();
    assert_eq!((uncharged.charge, parts(&uncharged)), (CHARGE, lies), "the charge stays where the adopted one runs");
    for r in [charged, uncharged] {
        let which = Which::of(&r.condemned[0]);
        let r = condemned::learned(r, &Finding::Gone(which), at(5)).unwrap();
        assert_eq!((r.charge, next(&r), r.attempts.len()), (CHARGE, Next::Done, 1));
        assert_eq!(r.attempts[0].state, AttemptState::Running, "the adopted one is what it was");
    }
}

#[test]
fn an_instance_that_was_lost_is_charged_no_longer_and_deleted_without_a_call() {
    let running =
        sighted(sent(armed(with_plan(&[("a", "1")]), at(0)), &Ok(id()), at(1)), &seen(ObservedPhase::Running), at(2))
            .unwrap();
    assert!(lost(running.clone(), &CloudId::new("i-9").unwrap(), "gone", at(3)).is_none(), "another instance");
    let mut gone = lost(running.clone(), &id(), "gone", at(3)).unwrap();
    assert!(is_lost(&gone) && !gone.is_gone() && gone.charge == Charge::default() && next(&gone) == Next::Done);
    gone.removal = Some(Removal { requested_at: at(4), completed_at: None, reason: None });
    assert_eq!(next(&gone), Next::Complete);
    let over = condemned::completed(gone, at(5));
    assert!(over.is_gone() && next(&over) == Next::Done && over.due.is_none());
    let mut removing = running;
    removing.removal = Some(Removal { requested_at: at(4), completed_at: None, reason: None });
    assert!(lost(removing, &id(), "gone", at(5)).is_none(), "its own removal proves it");
}

#[test]
fn what_may_have_run_and_been_forgotten_is_for_a_person() {
    let mut job = InstanceSpec { restart_policy: RestartPolicy::Never, ..InstanceSpec::default() };
    job.placement.on_doubt = OnDoubt::Wait;
    let doubt = in_doubt(OperationRecord { spec: Arc::new(job), ..with_plan(&[("a", "1"), ("b", "1")]) }, at(0));
    assert_eq!(looked(doubt.clone(), &[], true, at(2700)).unwrap().attempts[0].state, AttemptState::Absent);
    let open = looked(doubt, &[], true, at(2701)).unwrap();
    assert!(is_undetermined(&open) && next(&open) == Next::Resolve && open.charge == CHARGE);
    assert!(looked(open.clone(), &[], true, at(9999)).is_none(), "time changes nothing");
    let found = looked(open.clone(), &[seen(ObservedPhase::Running)], false, at(9999)).unwrap();
    assert_eq!(found.attempts[0].state, AttemptState::Applied, "seen after all");
    let absent = decided(open.clone(), 1, &Settlement::Absent, BOUND, at(9999)).unwrap();
    assert!(matches!(next(&absent), Next::Arm(c) if c.backend.as_str() == "b"));
    assert!(decided(absent, 1, &Settlement::Absent, BOUND, at(9999)).is_none());
    let applied = decided(open.clone(), 1, &Settlement::Applied(id()), BOUND, at(9999)).unwrap();
    assert_eq!((applied.attempts[0].state, applied.attempts[0].cloud_id.clone()), (AttemptState::Applied, Some(id())));
    let mut deleted = open;
    deleted.removal = Some(Removal { requested_at: at(9999), completed_at: None, reason: None });
    let absent = looked(deleted, &[], true, at(10_000)).unwrap();
    assert_eq!(next(&absent), Next::Cancel, "a delete asks for nothing but absence");
}

#[test]
fn a_lost_instance_that_is_there_again_is_charged_again() {
    let running =
        sighted(sent(armed(with_plan(&[("a", "1")]), at(0)), &Ok(id()), at(1)), &seen(ObservedPhase::Running), at(2))
            .unwrap();
    let shown = Observed { id: Some(id()), ..seen(ObservedPhase::Running) };
    assert!(returned(running.clone(), &shown, at(3)).is_none(), "it was not lost");
    let gone = lost(running.clone(), &id(), "why", at(3)).unwrap();
    assert_eq!(gone.charge, Charge::default());
    let back = returned(gone.clone(), &shown, at(4)).unwrap();
    assert_eq!((back.charge, next(&back), back.attempts[0].state), (running.charge, Next::Done, AttemptState::Running));
    assert!(!is_lost(&back) && back.adopted == running.adopted && back.due.is_none());
    let other = Observed { id: Some("i-other".parse().unwrap()), ..shown.clone() };
    assert!(returned(gone.clone(), &other, at(4)).is_none());
    let removed =
        OperationRecord { removal: Some(Removal { requested_at: at(3), completed_at: None, reason: None }), ..gone };
    assert!(returned(removed, &shown, at(4)).is_none(), "deleted stays deleted");
}

#[test]
fn a_person_is_not_believed_while_a_request_may_take_effect() {
    let absent = |r: &OperationRecord, now| decided(r.clone(), 1, &Settlement::Absent, BOUND, at(now)).is_some();
    let doubt = in_doubt(with_plan(&[("a", "1"), ("b", "1")]), at(0));
    assert!(!absent(&doubt, 800) && absent(&doubt, 801));
    let resent = rearmed(doubt, at(150));
    assert!(!absent(&resent, 801), "its owner may be sending once more");
    assert!(absent(&resent, 951));
    assert!(decided(resent, 1, &Settlement::Applied(id()), BOUND, at(151)).is_some(), "what exists, exists");
}

#[test]
fn a_person_settles_what_was_given_up_too() {
    let doubt = in_doubt(replacing(&[("a", "1"), ("b", "1")]), at(0));
    let given_up = armed(condemned::replaced(doubt, at(10)).unwrap(), at(11));
    let runs = sent(given_up.clone(), &Ok(id()), at(12));
    let own = decided(runs, 1, &Settlement::Applied(id()), BOUND, at(9999));
    assert!(own.is_none(), "what the operation has is not deleted as what it gave up");
    let second = sent(given_up, &error(FaultKind::Lost, Effect::Unknown), at(12));
    assert_eq!(doubts(&second).map(|a| a.n).collect::<Vec<_>>(), [2, 1]);
    let say = |what: Settlement, now| decided(second.clone(), 1, &what, BOUND, at(now));
    assert!(
        say(Settlement::Absent, 800).is_none()
            && decided(second.clone(), 3, &Settlement::Absent, BOUND, at(9999)).is_none()
    );
    let absent = say(Settlement::Absent, 801).unwrap();
    assert_eq!((absent.condemned.len(), absent.charge.instances, next(&absent)), (0, 1, Next::Resolve));
    let found = say(Settlement::Applied(id()), 20).unwrap();
    assert_eq!((found.condemned[0].state, found.condemned[0].cloud_id.clone()), (AttemptState::Removing, Some(id())));
    assert_eq!(found.charge.instances, 2, "until it is gone");
}

#[test]
fn an_answer_to_what_was_closed_condemns_what_it_names() {
    let answered =
        |r: &OperationRecord, to: &Attempt, result| condemned::answered(r.clone(), (to, &result), sent, true, at(3));
    let doubt = in_doubt(with_plan(&[("a", "1"), ("b", "1")]), at(0));
    let attempt = doubt.attempts[0].clone();
    assert_eq!(answered(&doubt, &attempt, Ok(id())), Some(sent(doubt.clone(), &Ok(id()), at(3))), "nothing was closed");
    let closed = looked(doubt, &[], true, at(2000)).unwrap();
    let replaced = armed(closed.clone(), at(2));
    for record in [&closed, &replaced] {
        let late = answered(record, &attempt, Ok(id())).unwrap();
        assert_eq!(late.attempts, record.attempts, "it is not the other attempt's");
        assert_eq!(late.condemned.iter().map(|a| a.cloud_id.clone()).collect::<Vec<_>>(), [Some(id())]);
        assert_eq!((late.charge.instances, late.condemned[0].state), (2, AttemptState::Removing), "beside its plan");
        assert!(answered(&late, &attempt, Ok(id())).is_none(), "once");
        assert!(answered(record, &attempt, error(FaultKind::NoCapacity, Effect::NotApplied)).is_none());
    }
    let other = decided(
        in_doubt(with_plan(&[("a", "1")]), at(0)),
        1,
        &Settlement::Applied("i-other".parse().unwrap()),
        BOUND,
        at(1),
    );
    let late = answered(&other.unwrap(), &attempt, Ok(id())).unwrap();
    assert_eq!((late.condemned.len(), late.attempts[0].state), (1, AttemptState::Applied), "two of one name");
    let over = failed(closed, Problem::new(ErrorCode::NoCapacity, "over"), at(2));
    assert!(answered(&over, &attempt, Ok(id())).is_none(), "the reconciler's");
}

/// What may happen to an operation, in any order.
#[derive(Debug, Clone)]
enum Event {
    Arm,
    Sent(bool, FaultKind, Effect),
    Crash,
    Look(bool, bool),
    See(ObservedPhase),
    NoStock,
    Time,
    AskRemoval,
    Removing,
    Gone,
    Follow,
    Replace,
    Stray(u8, bool),
    Condemned(bool),
    Lost,
}

fn event() -> impl Strategy<Value = Event> {
    let kind = prop_oneof![
        Just(FaultKind::NoCapacity),
        Just(FaultKind::Lost),
        Just(FaultKind::BadRequest),
        Just(FaultKind::Throttled),
        Just(FaultKind::Unexpected)
    ];
    let effect = prop_oneof![Just(Effect::NotApplied), Just(Effect::Unknown)];
    let phase = prop_oneof![
        Just(ObservedPhase::Placing),
        Just(ObservedPhase::Unplaceable),
        Just(ObservedPhase::Running),
        Just(ObservedPhase::Succeeded),
        Just(ObservedPhase::Terminating)
    ];
    prop_oneof![
        3 => Just(Event::Arm),
        3 => (any::<bool>(), kind, effect).prop_map(|(ok, k, e)| Event::Sent(ok, k, e)),
        1 => Just(Event::Crash),
        2 => (any::<bool>(), any::<bool>()).prop_map(|(f, p)| Event::Look(f, p)),
        2 => phase.prop_map(Event::See),
        1 => Just(Event::NoStock),
        1 => Just(Event::Time),
        1 => Just(Event::AskRemoval),
        1 => Just(Event::Removing),
        1 => Just(Event::Gone),
        3 => Just(Event::Follow),
        2 => Just(Event::Replace),
        1 => (0_u8..3, any::<bool>()).prop_map(|(n, charged)| Event::Stray(n, charged)),
        3 => any::<bool>().prop_map(Event::Condemned),
        1 => Just(Event::Lost),
    ]
}

/// Applies an event where the driver could: its own steps only when `next` calls for them.
fn apply(r: OperationRecord, event: &Event, now: Time) -> OperationRecord {
    let open = r.open_attempt().map(|a| a.state);
    match event {
        Event::Arm => match next(&r) {
            Next::Arm(_) => armed(r, now),
            _ => r,
        },
        Event::Sent(true, ..) if open == Some(AttemptState::Open) => sent(r, &Ok(id()), now),
        Event::Sent(false, kind, effect) if open == Some(AttemptState::Open) => sent(r, &error(*kind, *effect), now),
        Event::Crash if next(&r) == Next::Doubt => doubted(r, now),
        Event::Look(found, proven) => {
            let found = if *found { vec![seen(ObservedPhase::Starting)] } else { Vec::new() };
            looked(r.clone(), &found, *proven, now).unwrap_or(r)
        }
        Event::See(phase) => {
            let after = sighted(r.clone(), &seen(*phase), now).unwrap_or(r);
            ended(after.clone(), &seen(*phase), now).unwrap_or(after)
        }
        Event::NoStock if open == Some(AttemptState::Applied) => {
            let event = ObservedEvent {
                class: EventClass::NoCapacity,
                reason: "r".into(),
                message: "m".into(),
                count: 1,
                first_seen: None,
                last_seen: None,
            };
            out_of_stock(r, &event, now)
        }
        Event::Time => timed_out(r.clone(), None, now).unwrap_or(r),
        Event::AskRemoval if !r.is_gone() && r.removal.is_none() => {
            OperationRecord { removal: Some(Removal { requested_at: now, completed_at: None, reason: None }), ..r }
        }
        Event::Removing if next(&r) == Next::Remove => removing(r, now),
        Event::Gone if next(&r) == Next::Remove => gone(r, now),
        Event::Follow => match next(&r) {
            Next::Cancel => cancelled(r, now),
            Next::GiveUp(problem) => failed(r, *problem, now),
            Next::Complete => condemned::completed(r, now),
            _ => r,
        },
        Event::Replace => condemned::replaced(r.clone(), now).unwrap_or(r),
        Event::Stray(n, charged) => match r.attempts.last() {
            Some(last) => {
                let id = Some(CloudId::new(format!("s-{n}")).unwrap());
                let surplus = Attempt { cloud_id: id, ..last.clone() };
                condemned::stray(r.clone(), &surplus, *charged, now).unwrap_or(r)
            }
            None => r,
        },
        Event::Condemned(found) => match r.condemned.first().map(Which::of) {
            Some(which) if *found && which.cloud_id.is_none() => {
                let id = CloudId::new("i-late").unwrap();
                condemned::learned(r, &Finding::Found(which, id), now).unwrap()
            }
            Some(which) => condemned::learned(r, &Finding::Gone(which), now).unwrap(),
            None => r,
        },
        Event::Lost => lost(r.clone(), &id(), "gone", now).unwrap_or(r),
        _ => r,
    }
}

proptest! {
    #[test]
    fn every_walk_keeps_the_rules(events in prop::collection::vec(event(), 1..60)) {
        let mut r = replacing(&[("a", "1"), ("a", "2"), ("b", "1")]);
        let mut short = Vec::new();
        for (i, event) in events.iter().enumerate() {
            let before = r.clone();
            r = apply(r, event, at(i as i64 * 30));
            let open = r.attempts.iter().filter(|a| !a.state.is_closed()).count();
            prop_assert!(open <= 1, "two open attempts: {:?}", r.attempts);
            let zones: BTreeSet<_> = r.attempts.iter().map(|a| (&a.backend, &a.zone)).collect();
            prop_assert_eq!(zones.len(), r.attempts.len(), "a candidate was tried twice");
            if before.removal.is_some() {
                prop_assert!(r.attempts.iter().map(|a| a.n).max() <= all_attempts(&before).map(|a| a.n).max(),
                    "an attempt was opened after a removal");
            }
            prop_assert!(r.attempts.is_sorted_by_key(|a| a.n), "{:?}", r.attempts);
            prop_assert!(r.epoch >= before.epoch);
            if before.state.is_final() {
                prop_assert_eq!(before.state, r.state, "a final state changed");
                prop_assert_eq!(before.problem.as_ref(), r.problem.as_ref());
                prop_assert_eq!(before.adopted.as_ref(), r.adopted.as_ref());
            }
            if let (Event::Stray(_, false), true) = (event, r.condemned.len() > before.condemned.len()) {
                short.push(Which::of(r.condemned.last().unwrap()));
            }
            short.retain(|which| r.condemned.iter().any(|a| Which::of(a) == *which));
            let live = r.open_attempt().is_some() && !r.last_seen.as_ref().is_some_and(|(_, o)| o.phase.is_ended());
            let may_exist = u64::from(live) + r.condemned.len() as u64 - short.len() as u64;
            prop_assert!(r.charge.instances >= may_exist, "something may exist and is not charged: {event:?} {r:#?}");
            if next(&r) == Next::Done {
                prop_assert!(r.condemned.is_empty());
                prop_assert!(r.charge.instances <= u64::from(live), "charged for nothing: {event:?} {r:#?}");
            }
            if r.is_gone() {
                prop_assert_eq!(r.charge, Charge::default());
                prop_assert_eq!(next(&r), Next::Done);
            }
            // A closed attempt was refused, or proven absent by a look-up or a removal; never by time.
            if before.open_attempt().is_some() && r.open_attempt().is_none() {
                let allowed = matches!(event, Event::Sent(..) | Event::Look(..) | Event::Gone | Event::Lost);
                let condemns = matches!(event, Event::Replace) && r.condemned.len() > before.condemned.len();
                prop_assert!(allowed || condemns, "{event:?} closed an attempt");
            }
        }
    }
}
