//! Tests of the fleet: nothing disappears by silence, reads see writes, pages are complete.

use meridian_model::{
    instance::InstanceSpec,
    operation::{Attempt, AttemptState, Charge, Fence, RECORD_VERSION, Removal},
    status::{ObservedPhase, Phase},
};
use proptest::prelude::*;

use super::*;
use crate::operation::PageRequest;

fn at(seconds: i64) -> Time {
    Time::from_unix_ms(seconds * 1000)
}

fn tenant() -> TenantId {
    TenantId::new("acme").unwrap()
}

fn backend(name: &str) -> BackendId {
    BackendId::new(name).unwrap()
}

fn record(name: &str, at_backend: &str, rev: u64) -> OperationRecord {
    OperationRecord {
        v: RECORD_VERSION,
        rev,
        tenant: tenant(),
        op_id: OperationId::new(format!("op-{name}")).unwrap(),
        uid: "inst_1".parse().unwrap(),
        name: InstanceName::new(name).unwrap(),
        fingerprint: String::new(),
        labels: [("app".to_owned(), name.split('-').next().unwrap_or_default().to_owned())].into(),
        annotations: Default::default(),
        spec: Arc::new(InstanceSpec::default()),
        state: OperationState::Succeeded,
        epoch: 1,
        fence: Fence::default(),
        seq: 0,
        condemned: Vec::new(),
        due: None,
        created_at: at(0),
        updated_at: at(0),
        decision: None,
        attempts: vec![Attempt {
            n: 1,
            backend: backend(at_backend),
            adapter: "x".parse().unwrap(),
            region: "r".parse().unwrap(),
            zone: "z".parse().unwrap(),
            token: "t".parse().unwrap(),
            name: "n".parse().unwrap(),
            shape: Default::default(),
            price: None,
            takes: None,
            state: AttemptState::Running,
            started_at: at(0),
            armed_at: at(0),
            sends: 1,
            cloud_id: Some(CloudId::new(format!("i-{name}")).unwrap()),
            place_until: None,
            fault: None,
            changed_at: at(0),
        }],
        charge: Charge::default(),
        removal: None,
        problem: None,
        ran_at: Some(at(1)),
        adopted: None,
        last_seen: None,
        restored_at: None,
    }
}

fn observed(name: &str, phase: ObservedPhase) -> Observed {
    Observed { id: Some(CloudId::new(format!("i-{name}")).unwrap()), phase, ..Observed::default() }
}

fn get(fleet: &Fleet, name: &str) -> Option<Arc<Rendered>> {
    fleet.get(&tenant(), &InstanceName::new(name).unwrap())
}

#[test]
fn a_sight_shows_and_an_older_one_does_not_undo_it() {
    let fleet = Fleet::default();
    fleet.put(Arc::new(record("web", "b", 1)));
    assert!(fleet.sighted(&backend("b"), at(10), &observed("web", ObservedPhase::Running)).is_none());
    assert_eq!(get(&fleet, "web").unwrap().instance.status.phase, Phase::Running);
    fleet.sighted(&backend("b"), at(9), &observed("web", ObservedPhase::Starting));
    let status = get(&fleet, "web").unwrap().instance.status.clone();
    assert_eq!((status.phase, status.observed_at), (Phase::Running, Some(at(10))));
    assert!(fleet.sighted(&backend("other"), at(11), &observed("web", ObservedPhase::Failed)).is_none());
    assert_eq!(
        get(&fleet, "web").unwrap().instance.status.phase,
        Phase::Running,
        "another backend's id is another instance"
    );
}

#[test]
fn a_status_nobody_knows_keeps_what_was_known() {
    let fleet = Fleet::default();
    fleet.put(Arc::new(record("web", "b", 1)));
    fleet.sighted(&backend("b"), at(10), &observed("web", ObservedPhase::Running));
    fleet.sighted(&backend("b"), at(11), &observed("web", ObservedPhase::Unknown));
    let status = get(&fleet, "web").unwrap().instance.status.clone();
    assert_eq!((status.phase, status.observed_at), (Phase::Running, Some(at(11))));
}

#[test]
fn an_end_is_told_once_for_the_ledger() {
    let fleet = Fleet::default();
    fleet.put(Arc::new(record("job", "b", 1)));
    let told = fleet.sighted(&backend("b"), at(10), &observed("job", ObservedPhase::Succeeded)).unwrap();
    let mut settled = (*told).clone();
    settled.rev = 2;
    settled.last_seen = Some((at(10), observed("job", ObservedPhase::Succeeded)));
    fleet.put(Arc::new(settled));
    assert!(fleet.sighted(&backend("b"), at(11), &observed("job", ObservedPhase::Succeeded)).is_none());
    assert_eq!(get(&fleet, "job").unwrap().instance.status.phase, Phase::Succeeded);
}

#[test]
fn an_old_record_does_not_replace_a_new_one_and_gone_is_gone() {
    let fleet = Fleet::default();
    let mut removed = record("web", "b", 3);
    fleet.put(Arc::new(record("web", "b", 2)));
    removed.removal = Some(Removal { requested_at: at(5), completed_at: None, reason: None });
    fleet.put(Arc::new(removed.clone()));
    assert_eq!(get(&fleet, "web").unwrap().instance.status.phase, Phase::Terminating);
    fleet.put(Arc::new(record("web", "b", 2)));
    assert_eq!(get(&fleet, "web").unwrap().instance.status.phase, Phase::Terminating);
    removed.rev = 4;
    removed.attempts[0].state = AttemptState::Absent;
    removed.removal = Some(Removal { requested_at: at(5), completed_at: Some(at(6)), reason: None });
    fleet.put(Arc::new(removed));
    assert!(get(&fleet, "web").is_none());
    assert!(fleet.sighted(&backend("b"), at(9), &observed("web", ObservedPhase::Running)).is_none());
    assert!(get(&fleet, "web").is_none(), "a late sight brings nothing back");
}

/// A state of `web` under a server, at a place among the tenant's writes.
fn state(store: &str, rev: u64, seq: u64) -> OperationRecord {
    let mut record = record("web", "b", rev);
    record.fence.store = store.to_owned();
    record.seq = seq;
    record
}

fn gone(mut record: OperationRecord) -> OperationRecord {
    record.attempts[0].state = AttemptState::Absent;
    record.removal = Some(Removal { requested_at: at(5), completed_at: Some(at(6)), reason: None });
    record
}

#[test]
fn what_a_rebuilt_store_says_is_not_undone_by_what_arrives_late_from_before() {
    let fleet = Fleet::default();
    let held = || fleet.record(&tenant(), &"web".parse().unwrap()).map(|r| (r.fence.store.clone(), r.rev));
    assert!(fleet.put(Arc::new(state("old", 9, 9))));
    assert!(fleet.put(Arc::new(state("new", 3, 1_000))), "also with fewer revisions");
    assert!(!fleet.put(Arc::new(state("old", 10, 10))));
    assert_eq!(held(), Some(("new".to_owned(), 3)));
    assert!(fleet.put(Arc::new(gone(state("new", 4, 1_001)))));
    assert!(!fleet.put(Arc::new(state("old", 10, 10))), "gone is gone");
    assert_eq!(held(), None);
}

#[test]
fn what_is_gone_stays_gone_also_after_the_feed_has_passed_it() {
    let fleet = Fleet::default();
    fleet.put(Arc::new(gone(state("s", 4, 7))));
    fleet.reached(&FeedPosition::from([(tenant(), 7)]));
    // The answer to a call that was made before the feed told of the end.
    assert!(!fleet.put(Arc::new(state("s", 3, 6))));
    assert!(get(&fleet, "web").is_none());
    assert_eq!(fleet.remembered(&tenant()).len(), 1, "and a rebuild is told so");
    assert!(fleet.put(Arc::new(state("s", 5, 8))), "a later life of the name is another thing");
}

#[test]
fn who_is_behind_the_ledger_marks_every_answer_and_only_while_it_is() {
    let fleet = Fleet::default();
    fleet.put(Arc::new(record("web", "b", 1)));
    let stale = |behind: bool| {
        let (page, _) = fleet.page(
            &tenant(),
            &ListInstances { page: PageRequest { size: 9, after: None }, ..Default::default() },
            behind,
        );
        let one = fleet.answer(&tenant(), &InstanceName::new("web").unwrap(), behind).unwrap();
        let marks = [one.instance.status.stale, page[0].instance.status.stale];
        assert_eq!(one.json(), page[0].json());
        assert_eq!(one.instance.etag, get(&fleet, "web").unwrap().instance.etag);
        marks
    };
    assert_eq!((stale(false), stale(true), stale(false)), ([false; 2], [true; 2], [false; 2]));
    // What a region still shows meanwhile is taken in, and the mark stays.
    assert_eq!(stale(true), [true; 2]);
    fleet.sighted(&backend("b"), at(10), &observed("web", ObservedPhase::Running));
    let seen = fleet.answer(&tenant(), &InstanceName::new("web").unwrap(), true).unwrap();
    assert_eq!((seen.instance.status.phase, seen.instance.status.stale), (Phase::Running, true));
    assert_eq!(stale(false), [false; 2]);
    fleet.mark_stale(&backend("b"), true);
    assert_eq!((stale(false), stale(true)), ([true; 2], [true; 2]));
}

#[test]
fn staleness_marks_and_never_removes() {
    let fleet = Fleet::default();
    fleet.put(Arc::new(record("here", "b", 1)));
    fleet.put(Arc::new(record("there", "c", 1)));
    fleet.mark_stale(&backend("b"), true);
    assert!(get(&fleet, "here").unwrap().instance.status.stale);
    assert!(!get(&fleet, "there").unwrap().instance.status.stale);
    let marked = fleet.revision();
    fleet.mark_stale(&backend("b"), true);
    assert_eq!(fleet.revision(), marked, "nothing changed");
    fleet.put(Arc::new(record("new", "b", 1)));
    fleet.sighted(&backend("b"), at(9), &observed("here", ObservedPhase::Running));
    fleet.mark_stale(&backend("b"), true);
    for name in ["here", "new"] {
        assert!(get(&fleet, name).unwrap().instance.status.stale, "{name} appeared while its region was stale");
    }
    fleet.mark_stale(&backend("b"), false);
    assert!(!get(&fleet, "here").unwrap().instance.status.stale);
}

#[test]
fn json_is_made_once() {
    let fleet = Fleet::default();
    fleet.put(Arc::new(record("web", "b", 1)));
    let rendered = get(&fleet, "web").unwrap();
    assert_eq!(rendered.json().as_ptr(), rendered.json().as_ptr());
    let value: serde_json::Value = serde_json::from_slice(&rendered.json()).unwrap();
    assert_eq!(value["name"], "tenants/acme/instances/web");
}

proptest! {
    #[test]
    fn pages_join_to_the_whole_list(names in prop::collection::btree_set("[ab]-[a-z]{1,3}", 0..40), size in 1_usize..10, app in prop::option::of("[ab]")) {
        let fleet = Fleet::default();
        for name in &names {
            fleet.put(Arc::new(record(name, "b", 1)));
        }
        let labels: Vec<Requirement> = app.iter().map(|a| Requirement::In("app".to_owned(), vec![a.clone()])).collect();
        let mut walked = Vec::new();
        let mut after = None;
        for _ in 0..100 {
            let query = ListInstances { page: PageRequest { size, after: after.clone() }, labels: labels.clone(), ..Default::default() };
            let (items, more) = fleet.page(&tenant(), &query, false);
            walked.extend(items.iter().map(|i| i.short_name.to_string()));
            after = items.last().map(|i| i.short_name.to_string());
            if !more {
                break;
            }
            prop_assert_eq!(items.len(), size);
        }
        let wanted: Vec<String> = names.iter().filter(|n| app.as_ref().is_none_or(|a| n.starts_with(a.as_str()))).cloned().collect();
        prop_assert_eq!(walked, wanted);
    }
}
