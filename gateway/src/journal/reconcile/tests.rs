//! Tables of classes, named sequences, and random sequences that must keep the rules of the module.

use meridian_model::{
    ids::BackendId,
    instance::Shape,
    operation::{Attempt, Charge, Fence, OperationState, RECORD_VERSION, Removal},
};
use proptest::prelude::*;

use super::*;

const QUARANTINE: Duration = Duration::from_secs(600);
const WINDOW: Duration = Duration::from_secs(600);

fn at(seconds: i64) -> Time {
    Time::from_unix_ms(seconds * 1000)
}

fn id(text: &str) -> CloudId {
    text.parse().unwrap()
}

fn attempt(name: &str, state: AttemptState, cloud_id: Option<&str>) -> Attempt {
    Attempt {
        n: 1,
        backend: "b".parse().unwrap(),
        adapter: "x".parse().unwrap(),
        region: "r".parse().unwrap(),
        zone: "z".parse().unwrap(),
        token: "t".parse().unwrap(),
        name: name.parse().unwrap(),
        shape: Shape::default(),
        price: None,
        takes: None,
        state,
        started_at: at(10),
        armed_at: at(10),
        sends: 1,
        cloud_id: cloud_id.map(id),
        place_until: None,
        fault: None,
        changed_at: at(20),
    }
}

fn record(state: OperationState, attempts: Vec<Attempt>) -> OperationRecord {
    OperationRecord {
        v: RECORD_VERSION,
        rev: 1,
        seq: 0,
        tenant: "acme".parse().unwrap(),
        op_id: "op".parse().unwrap(),
        uid: "inst_1".parse().unwrap(),
        name: "web".parse().unwrap(),
        fingerprint: String::new(),
        labels: BTreeMap::default(),
        annotations: BTreeMap::default(),
        spec: Arc::default(),
        state,
        epoch: 2,
        fence: Fence::default(),
        due: None,
        created_at: at(0),
        updated_at: at(20),
        decision: None,
        attempts,
        condemned: Vec::new(),
        charge: Charge::default(),
        removal: None,
        problem: None,
        ran_at: None,
        adopted: None,
        last_seen: None,
        restored_at: None,
    }
}

fn live() -> OperationRecord {
    record(OperationState::Succeeded, vec![attempt("n1", AttemptState::Running, Some("i-1"))])
}

fn gone() -> OperationRecord {
    let removal = Some(Removal { requested_at: at(1), completed_at: Some(at(20)), reason: None });
    let attempts = vec![attempt("n1", AttemptState::Absent, Some("i-1"))];
    OperationRecord { removal, ..record(OperationState::Succeeded, attempts) }
}

fn shown(cloud_id: &str, name: &str, epoch: u32, held: Held) -> Shown {
    Shown {
        id: id(cloud_id),
        identity: Identity { op_id: "op".parse().unwrap(), tenant_hash: "h".to_owned(), epoch, n: 1 },
        observed: Observed { id: Some(id(cloud_id)), name: name.to_owned(), ..Observed::default() },
        held,
    }
}

fn held(record: OperationRecord) -> Held {
    Held::Record(Arc::new(record))
}

#[test]
fn each_name_has_its_class() {
    let open = |state| record(OperationState::Placing, vec![attempt("n1", state, None)]);
    let mut given_up = live();
    given_up.condemned.push(attempt("n0", AttemptState::Removing, Some("i-0")));
    let two = || {
        record(
            OperationState::Placing,
            vec![attempt("n1", AttemptState::Absent, None), attempt("n2", AttemptState::Running, Some("i-2"))],
        )
    };
    let check = |shown: &Shown, expected: (Class, bool), why: &str| {
        assert_eq!(classify(shown, at(100)), expected, "{why}");
    };
    check(&shown("i-1", "n1", 2, Held::Current), (Class::Belongs, true), "the fleet has it");
    check(&shown("i-1", "n1", 2, Held::Unread), (Class::Unread, true), "the ledger was not read");
    check(&shown("i-1", "n1", 2, Held::Missing), (Class::Orphan, true), "no record");
    check(&shown("i-1", "n1", 2, Held::NoTenant), (Class::Orphan, true), "no tenant");
    check(&shown("i-1", "n1", 2, held(live())), (Class::Belongs, true), "adopted");
    check(&shown("i-1", "n1", 1, held(live())), (Class::Belongs, true), "adopted, whatever its name says");
    check(&shown("i-9", "n1", 2, held(live())), (Class::Duplicate, true), "the same name, another id");
    check(&shown("i-9", "n0", 1, held(live())), (Class::Zombie, true), "a lower epoch");
    check(&shown("i-9", "n0", 3, held(live())), (Class::Ahead, true), "a later epoch than the ledger knows");
    check(&shown("i-0", "n0", 1, held(given_up)), (Class::Condemned, true), "given up already");
    let mut lost = live();
    lost.attempts[0].state = AttemptState::Absent;
    check(&shown("i-1", "n1", 2, held(lost)), (Class::Returned, true), "lost, and there again");
    let mut twice = live();
    twice.condemned.push(attempt("n1", AttemptState::Removing, Some("i-8")));
    check(&shown("i-9", "n1", 2, held(twice)), (Class::Duplicate, true), "a third of one name");
    check(&shown("i-1", "n1", 2, held(gone())), (Class::Orphan, true), "its operation is over");
    check(&shown("i-9", "n1", 2, held(open(AttemptState::Open))), (Class::Belongs, true), "its answer is on the way");
    check(&shown("i-9", "n1", 2, held(open(AttemptState::InDoubt))), (Class::InDoubt, true), "looked for");
    check(&shown("i-9", "n1", 2, held(two())), (Class::Duplicate, false), "a closed attempt's");
    assert_eq!(
        classify(&shown("i-9", "n1", 2, held(two())), at(20)).0,
        Class::Belongs,
        "the list is older than the proof"
    );
}

fn rules(removes: bool) -> Rules {
    Rules {
        removes,
        quarantine: QUARANTINE,
        effect_bound: Duration::from_secs(100),
        lost_sweeps: 3,
        removals_min: 5,
        brake_window: WINDOW,
        ignored: BTreeSet::new(),
    }
}

/// A backend with its sweeps, one a minute unless said otherwise.
struct Sweeps {
    memory: Memory,
    slots: Slots,
    away: bool,
    rules: Rules,
    now: u64,
    view: View,
    trusted: bool,
    leads: bool,
    listed: BTreeSet<CloudId>,
}

impl Sweeps {
    fn new(removes: bool) -> Self {
        let view = View { serving: true, holds_any: true, fleet: 100, ..View::default() };
        Self {
            memory: Memory::default(),
            slots: Slots::default(),
            away: false,
            rules: rules(removes),
            now: 1000,
            view,
            trusted: true,
            leads: true,
            listed: BTreeSet::new(),
        }
    }

    fn sweep(&mut self) -> Verdict {
        self.after(60)
    }

    fn after(&mut self, seconds: u64) -> Verdict {
        self.now += seconds;
        let report = SweepReport {
            backend: BackendId::new("b").unwrap(),
            started_at: at(i64::try_from(self.now).unwrap()),
            shown: Vec::new(),
            listed: self.listed.clone(),
            trusted: self.trusted,
            leads: self.leads,
            term: 1,
        };
        let now = Now { wall: report.started_at, mono: Duration::from_secs(self.now) };
        let allowed = allowance(self.view.fleet, self.rules.removals_min);
        let grant = if self.away { Grant::Away } else { Grant::Of(self.slots.left(allowed, now.mono)) };
        let verdict = reconcile(&self.view, &report, (&mut self.memory, grant), &self.rules, now);
        self.use_slots(verdict.begun);
        verdict
    }

    fn use_slots(&mut self, count: usize) {
        let now = Duration::from_secs(self.now);
        for _ in 0..count {
            let slot = self.slots.free(0, usize::MAX, now).unwrap();
            self.slots.used(slot, now + WINDOW);
        }
    }

    fn held_back(&self, cloud_id: &str) -> HeldBack {
        self.memory.strays[&id(cloud_id)].held_back
    }
}

#[test]
fn an_orphan_is_listed_at_once_and_removed_after_its_quarantine() {
    let mut sweeps = Sweeps::new(true);
    sweeps.view.shown = vec![shown("i-1", "n1", 1, Held::Missing)];
    for _ in 0..10 {
        assert_eq!(sweeps.sweep().actions, []);
        assert_eq!(sweeps.held_back("i-1"), HeldBack::Quarantine);
    }
    let delete = Action::Delete { id: id("i-1"), name: "n1".to_owned() };
    assert_eq!(sweeps.sweep().actions, std::slice::from_ref(&delete));
    assert_eq!(sweeps.sweep().actions, [delete], "until it is not shown any more");
    sweeps.view.shown.clear();
    assert_eq!(sweeps.sweep().actions, []);
    assert!(sweeps.memory.strays.is_empty());
}

#[test]
fn every_doubt_holds_a_removal_back() {
    let ready = || {
        let mut sweeps = Sweeps::new(true);
        sweeps.view.shown = vec![shown("i-1", "n1", 1, Held::Missing)];
        for _ in 0..10 {
            sweeps.sweep();
        }
        sweeps
    };
    let check = |change: &dyn Fn(&mut Sweeps), expected: HeldBack| {
        let mut sweeps = ready();
        change(&mut sweeps);
        assert_eq!(sweeps.sweep().actions, [], "{expected:?}");
        assert_eq!(sweeps.held_back("i-1"), expected);
    };
    check(&|s| s.rules.removes = false, HeldBack::ReportOnly);
    check(&|s| s.trusted = false, HeldBack::Distrusted);
    check(&|s| s.view.serving = false, HeldBack::Ledger);
    check(&|s| s.view.holds_any = false, HeldBack::Ledger);
    check(&|s| s.view.shown[0].held = Held::Unread, HeldBack::Ledger);
    check(&|s| s.view.shown[0].held = Held::NoTenant, HeldBack::NoTenant);
    check(&|s| s.leads = false, HeldBack::Follower);
    check(&|s| s.rules.effect_bound = QUARANTINE, HeldBack::Quarantine);
    check(&|s| s.view.shown[0].observed.phase = ObservedPhase::Terminating, HeldBack::Leaving);
    check(&|s| _ = s.rules.ignored.insert(id("i-1")), HeldBack::Ignored);
    check(&|s| s.view.shown.extend((2..8).map(|n| shown(&format!("i-{n}"), "n", 1, Held::Missing))), HeldBack::Mass);
    check(&|s| s.use_slots(5), HeldBack::Brake);
    check(&|s| s.away = true, HeldBack::Ledger);
}

#[test]
fn duplicates_and_zombies_are_condemned_and_doubt_is_woken() {
    let mut sweeps = Sweeps::new(false);
    sweeps.view.shown = vec![
        shown("i-1", "n1", 2, held(live())),
        shown("i-2", "n1", 2, held(live())),
        shown("i-3", "n0", 1, held(live())),
        shown("i-4", "n1", 2, held(record(OperationState::Placing, vec![attempt("n1", AttemptState::InDoubt, None)]))),
    ];
    let verdict = sweeps.sweep();
    let kinds: Vec<_> = verdict
        .actions
        .iter()
        .map(|action| match action {
            Action::Wake(_) => "wake".to_owned(),
            Action::Condemn { observed, class, .. } => format!("{} {}", class.as_str(), observed.id.as_ref().unwrap()),
            other => format!("{other:?}"),
        })
        .collect();
    assert_eq!(kinds, ["duplicate i-2", "zombie i-3", "wake"]);
    assert_eq!(verdict.violations, 1, "a zombie is what a failover leaves; a duplicate must not be");
    assert_eq!(sweeps.sweep().violations, 0, "counted once");
    sweeps.leads = false;
    assert_eq!(sweeps.sweep().actions, [], "only one gateway acts");
}

#[test]
fn a_second_instance_is_counted_at_first_sight_and_once() {
    let two = record(
        OperationState::Placing,
        vec![attempt("n1", AttemptState::Absent, None), attempt("n2", AttemptState::Running, Some("i-2"))],
    );
    let mut sweeps = Sweeps::new(true);
    sweeps.view.shown = vec![shown("i-9", "n1", 2, held(live())), shown("i-8", "n1", 2, held(two))];
    sweeps.use_slots(5);
    let counts = |sweeps: &mut Sweeps| {
        let verdict = sweeps.sweep();
        assert_eq!(verdict.actions, [], "the brake lets nothing pass");
        verdict.violations
    };
    assert_eq!(counts(&mut sweeps), 1, "the brake does not hide it");
    assert_eq!(counts(&mut sweeps), 1, "one of a closed attempt needs two sights to be one");
    sweeps.away = true;
    assert_eq!((counts(&mut sweeps), sweeps.held_back("i-9")), (0, HeldBack::Ledger));
    sweeps.memory.forget();
    assert_eq!(counts(&mut sweeps) + counts(&mut sweeps), 0, "also after another gateway judged meanwhile");
    sweeps.view.shown.push(shown("i-7", "n1", 2, held(live())));
    assert_eq!(counts(&mut sweeps), 1, "another pair");
}

#[test]
fn the_ledger_is_the_suspect_also_when_it_was_not_read_for_every_name() {
    let mut sweeps = Sweeps::new(true);
    let of = |n: usize| shown(&format!("i-{n}"), "n", 1, if n < 10 { Held::Missing } else { Held::Unread });
    sweeps.view.shown = (0..100).map(of).collect();
    for _ in 0..12 {
        assert_eq!(sweeps.sweep().actions, []);
    }
    assert_eq!(sweeps.held_back("i-1"), HeldBack::Mass);
}

#[test]
fn the_ledger_is_the_suspect_also_when_its_large_fleet_is_looked_up_in_turns() {
    const KNOWN: usize = 4_000;
    const READS: usize = 1_000;
    // So many names without a record: a ledger that lost most of them, then one that holds all but a few.
    for (unrecorded, expected) in [(20_000, HeldBack::Mass), (900, HeldBack::Nothing)] {
        let mut sweeps = Sweeps::new(true);
        sweeps.rules.quarantine = Duration::from_secs(120);
        let of = |n: usize, held| shown(&format!("i-{n:05}"), &format!("n{n}"), 1, held);
        sweeps.view.fleet = KNOWN;
        sweeps.view.shown = (0..KNOWN).map(|n| of(n, Held::Current)).collect();
        sweeps.view.shown.extend((KNOWN..KNOWN + unrecorded).map(|n| of(n, Held::Unread)));
        let unknown: BTreeSet<CloudId> = sweeps.view.shown.iter().skip(KNOWN).map(|s| s.id.clone()).collect();
        let (mut last, mut deletes) = (None, 0);
        for _ in 0..=unrecorded / READS + 5 {
            let (turn, looked_at) = turn(&unknown, last.as_ref(), READS);
            last = looked_at;
            for shown in sweeps.view.shown.iter_mut().skip(KNOWN) {
                shown.held = if turn.contains(&shown.id) { Held::Missing } else { Held::Unread };
            }
            deletes += sweeps.sweep().actions.len();
        }
        let all: BTreeSet<HeldBack> = sweeps.memory.strays.values().map(|s| s.held_back).collect();
        assert!(all.contains(&expected), "{unrecorded}: {all:?}");
        assert_eq!(deletes > 0, expected == HeldBack::Nothing, "{unrecorded}: {deletes} deletes");
    }
}

#[test]
fn an_instance_that_is_missed_is_asked_for_after_three_trusted_sweeps() {
    let mut sweeps = Sweeps::new(false);
    let key: Key = ("acme".parse().unwrap(), "op".parse().unwrap());
    sweeps.view.expected = vec![(key.clone(), id("i-1"))];
    assert_eq!(sweeps.sweep().actions, []);
    sweeps.trusted = false;
    assert_eq!(sweeps.sweep().actions, []);
    sweeps.trusted = true;
    assert_eq!(sweeps.sweep().actions, []);
    assert_eq!(sweeps.sweep().actions, [Action::ProveLost { key, id: id("i-1") }]);
    sweeps.listed.insert(id("i-1"));
    sweeps.sweep();
    assert!(sweeps.memory.missing.is_empty());
    sweeps.listed.clear();
    sweeps.view.serving = false;
    for _ in 0..5 {
        assert_eq!(sweeps.sweep().actions, [], "nothing is lost while the ledger cannot be read");
    }
}

/// What one random sweep shows of one of six instances, and how the world is.
#[derive(Debug, Clone)]
struct Turn {
    seconds: u64,
    trusted: bool,
    serving: bool,
    holds_any: bool,
    leads: bool,
    kinds: Vec<u8>,
}

fn kind_of(n: usize, kind: u8) -> Option<Shown> {
    let name = format!("n{n}");
    let of = |held| Some(shown(&format!("i-{n}"), &name, 2, held));
    match kind {
        0 => None,
        1 => of(Held::Current),
        2 => of(Held::Unread),
        3 => of(Held::NoTenant),
        4 => of(held(live())),
        5 => of(held(gone())),
        _ => of(Held::Missing),
    }
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let often = || proptest::bool::weighted(0.9);
    let kind = prop_oneof![8 => Just(6_u8), 4 => Just(5_u8), 3 => 0_u8..5];
    let turn = (1_u64..400, often(), often(), often(), often(), prop::collection::vec(kind, 12));
    let turn = turn.prop_map(|(seconds, trusted, serving, holds_any, leads, kinds)| Turn {
        seconds,
        trusted,
        serving,
        holds_any,
        leads,
        kinds,
    });
    prop::collection::vec(turn, 1..40)
}

/// Every sweep's actions, with the time and the turn they followed from.
fn walk(turns: &[Turn], removes: bool) -> Vec<(u64, Vec<Action>)> {
    let mut sweeps = Sweeps::new(removes);
    // Many names without a record are usual here; the suspicion has its own test.
    sweeps.rules.removals_min = 3;
    sweeps.view.fleet = 10;
    let mut all = Vec::new();
    for turn in turns {
        sweeps.trusted = turn.trusted;
        sweeps.leads = turn.leads;
        sweeps.view.serving = turn.serving;
        sweeps.view.holds_any = turn.holds_any;
        sweeps.view.shown = turn.kinds.iter().enumerate().filter_map(|(n, kind)| kind_of(n, *kind)).collect();
        let verdict = sweeps.after(turn.seconds);
        all.push((sweeps.now, verdict.actions));
    }
    all
}

/// Since when, and in how many complete sweeps, an instance was shown without being anybody's, up to a turn.
fn strayed(turns: &[Turn], walked: &[(u64, Vec<Action>)], n: usize, last: usize) -> (u64, u32) {
    let (mut since, mut sights) = (u64::MAX, 0);
    for (turn, (now, _)) in turns.iter().zip(walked).take(last + 1) {
        match turn.kinds[n] {
            1 | 4 => (since, sights) = (u64::MAX, 0),
            0 if turn.trusted => (since, sights) = (u64::MAX, 0),
            0 => {}
            _ => (since, sights) = (since.min(*now), sights + 1),
        }
    }
    (since, sights)
}

proptest! {
    #[test]
    fn a_delete_has_every_reason_and_no_doubt(turns in turns()) {
        let walked = walk(&turns, true);
        prop_assert_eq!(&walked, &walk(&turns, true), "deterministic");
        let mut firsts: BTreeMap<CloudId, u64> = BTreeMap::new();
        for (i, (turn, (now, actions))) in turns.iter().zip(&walked).enumerate() {
            for action in actions {
                let Action::Delete { id, .. } = action else { continue };
                let n: usize = id.as_str()[2..].parse().unwrap();
                prop_assert!(turn.trusted && turn.serving && turn.holds_any && turn.leads);
                prop_assert!(turn.kinds[n] >= 5, "shown now, and nobody's by the ledger: {}", turn.kinds[n]);
                let (since, sights) = strayed(&turns, &walked, n, i);
                prop_assert!(sights >= 2 && now - since >= QUARANTINE.as_secs(), "{sights} sights since {since}");
                firsts.entry(id.clone()).or_insert(*now);
            }
        }
        let firsts: Vec<u64> = firsts.into_values().collect();
        for from in &firsts {
            let within = firsts.iter().filter(|at| *at >= from && **at - *from < WINDOW.as_secs()).count();
            prop_assert!(within <= 3, "{within} first removals in one window");
        }
    }

    #[test]
    fn report_never_deletes(turns in turns()) {
        let deletes = |actions: &Vec<Action>| actions.iter().any(|a| matches!(a, Action::Delete { .. }));
        prop_assert!(!walk(&turns, false).iter().any(|(_, actions)| deletes(actions)));
    }
}

#[test]
fn the_random_walks_do_delete() {
    // Else the property above would hold of nothing.
    let turn = Turn {
        seconds: 300,
        trusted: true,
        serving: true,
        holds_any: true,
        leads: true,
        kinds: vec![6, 5, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    };
    let deletes: usize = walk(&vec![turn; 4], true).iter().map(|(_, actions)| actions.len()).sum();
    assert!(deletes >= 2, "{deletes}");
}
