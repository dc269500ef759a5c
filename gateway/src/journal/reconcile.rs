//! What follows from a sweep, as pure functions: which of the instances under our names belong to an operation, which
//! are strays, and what may be done about each (RELIABILITY 2.8).
//!
//! [`reconcile`] looks at a complete sweep, at what the ledger holds for each name it showed, and at what former sweeps
//! showed. It knows no socket, no store and no clock. Rules that its shape holds (R6, R7, R11):
//! - what the ledger could not be read for is never touched;
//! - a delete needs an orphan seen in several complete sweeps over a quarantine, in trusted company, within the brakes;
//! - silence makes nothing an orphan and deletes nothing: an adopted instance that is not shown is at most asked for;
//! - what has a live operation is never deleted from here but condemned in its record, so that its driver does it,
//!   charged and fenced;
//! - names that are not ours never get in.
//!
//! Quarantine lives in the memory of the gateway that leads the backend's sweeps: after a restart or a change of the
//! leader it begins anew, which delays a removal and never hastens one. Time spans are monotonic; a step of the wall
//! clock moves none.

mod brakes;
mod rotation;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use meridian_model::{
    ids::{CloudId, OperationId, TenantId},
    operation::{AttemptState, OperationRecord, OperationState},
    status::{Observed, ObservedPhase},
    time::Time,
};
use serde::{Deserialize, Serialize};

pub use self::{
    brakes::{Brake, Grant, Slots, allowance},
    rotation::turn,
};
use super::identity::Identity;
use crate::status::sweep::SweepReport;

/// Complete sweeps that must show an orphan before it is removed, and a stray of a closed attempt before it is
/// condemned: one list may show what another just ended.
const SIGHTS_MIN: u32 = 2;

/// Quarantine is at least this many effect bounds: whatever was in flight when it was first seen has landed by then.
const EFFECT_BOUNDS: u32 = 2;

/// Share of the shown names, as a divisor, that may lack a record before the ledger is the suspect, not the cloud. What
/// was never looked up counts as lacking one: of a large fleet each sweep looks up only some.
const UNRECORDED_SHARE: usize = 5;

/// Second instances that are remembered as counted. They must not happen; beyond so many nobody counts any more.
const COUNTED_MAX: usize = 10_000;

/// An operation.
pub type Key = (TenantId, OperationId);

/// What an instance under a name of ours is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// An operation's own: its open attempt has this id, or may get it.
    Belongs,
    /// The operation is in doubt about this very name: its driver adopts it.
    InDoubt,
    /// Given up in its operation's record: its driver removes it.
    Condemned,
    /// A second instance of a live operation, of the same epoch.
    Duplicate,
    /// An instance of an epoch that a failover ended.
    Zombie,
    /// No operation has it: never recorded, or its operation is over.
    Orphan,
    /// Of a later epoch than its record: the ledger lags behind the cloud.
    Ahead,
    /// The ledger could not be read for it.
    Unread,
    /// Its operation lost it and ended its charge; now it is shown again.
    Returned,
    /// Adopted, but no longer shown.
    Missing,
}

impl Class {
    /// Those that are listed, in the order of the metrics.
    pub const STRAYS: [Self; 8] = [
        Self::Condemned,
        Self::Duplicate,
        Self::Zombie,
        Self::Orphan,
        Self::Ahead,
        Self::Unread,
        Self::Returned,
        Self::Missing,
    ];

    /// The word in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Belongs => "belongs",
            Self::InDoubt => "in-doubt",
            Self::Condemned => "condemned",
            Self::Duplicate => "duplicate",
            Self::Zombie => "zombie",
            Self::Orphan => "orphan",
            Self::Ahead => "ahead",
            Self::Unread => "unread",
            Self::Returned => "returned",
            Self::Missing => "missing",
        }
    }

    /// Somebody should know of it.
    #[must_use]
    pub const fn is_stray(self) -> bool {
        !matches!(self, Self::Belongs | Self::InDoubt)
    }
}

/// Why nothing is done about a stray yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeldBack {
    /// It is being acted on.
    Nothing,
    /// Orphans are only reported.
    ReportOnly,
    /// Not seen often or long enough.
    Quarantine,
    /// The sweep misses too much, or cannot be believed.
    Distrusted,
    /// The ledger is unavailable or recovering, or holds nothing at all.
    Ledger,
    /// So many names lack a record that the ledger is the suspect.
    Mass,
    /// The brake: enough was removed in this region for now.
    Brake,
    /// A person said to leave it.
    Ignored,
    /// Its tenant is not known, so its record cannot be looked for.
    NoTenant,
    /// It is already on its way out.
    Leaving,
    /// It is not certain that this gateway still leads the backend's sweeps.
    Follower,
    /// The driver of its operation has it.
    Driver,
    /// Only a person can tell what it is.
    Person,
}

/// What the ledger holds for an instance that a sweep showed.
#[derive(Debug, Clone, PartialEq)]
pub enum Held {
    /// The fleet knows it as an operation's current instance. Enough, because nothing follows from it.
    Current,
    /// The ledger was not, or could not be, read for it.
    Unread,
    /// No known tenant has the hash in its name.
    NoTenant,
    /// The ledger has no such operation.
    Missing,
    /// The operation, as the ledger holds it now.
    Record(Arc<OperationRecord>),
}

/// An instance under a name of ours, with what the ledger holds for it.
#[derive(Debug, Clone)]
pub struct Shown {
    /// The vendor's id.
    pub id: CloudId,
    /// What its name says.
    pub identity: Identity,
    /// The sight.
    pub observed: Observed,
    /// What the ledger holds.
    pub held: Held,
}

/// What is known besides the sweep.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Each instance under a name of ours.
    pub shown: Vec<Shown>,
    /// Adopted instances that the sweep must show.
    pub expected: Vec<(Key, CloudId)>,
    /// The ledger's primary serves: it is neither unavailable nor recovering.
    pub serving: bool,
    /// The ledger holds at least one operation. An empty ledger is never a reason to delete.
    pub holds_any: bool,
    /// Instances of this deployment in the region, for the brakes.
    pub fleet: usize,
}

/// Settings of the decisions about one backend.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Orphans are removed; otherwise they are only listed.
    pub removes: bool,
    /// Least time between the first and the last sight of an orphan before it is removed.
    pub quarantine: Duration,
    /// Longest time in which a create that was sent may still take effect and become visible.
    pub effect_bound: Duration,
    /// Trusted sweeps that must miss an adopted instance before it is asked for by its id.
    pub lost_sweeps: u32,
    /// Removals per window that a small fleet may always have.
    pub removals_min: usize,
    /// The window of the brakes.
    pub brake_window: Duration,
    /// Strays that a person said to leave alone.
    pub ignored: BTreeSet<CloudId>,
}

/// Now, by both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Wall clock, for people.
    pub wall: Time,
    /// Monotonic, from any fixed start.
    pub mono: Duration,
}

/// What is remembered of a stray.
#[derive(Debug, Clone)]
pub struct Stray {
    /// What it is.
    pub class: Class,
    /// The last sight.
    pub observed: Observed,
    /// The operation in its name.
    pub op_id: OperationId,
    /// First sight in this class.
    pub first_seen: Time,
    /// Last sight.
    pub last_seen: Time,
    /// Complete sweeps that showed it.
    pub sights: u32,
    /// Deletes that were sent.
    pub deletes: u32,
    /// Why nothing is done yet.
    pub held_back: HeldBack,
    /// When it was looked up last the ledger had no record of it, or it was never looked up.
    unrecorded: bool,
    since: Duration,
}

/// What is remembered of an adopted instance that sweeps do not show.
#[derive(Debug, Clone)]
pub struct Absence {
    /// Its id.
    pub id: CloudId,
    /// First trusted sweep that missed it.
    pub first_missed: Time,
    /// Trusted sweeps that missed it.
    pub sweeps: u32,
}

/// What former sweeps of a backend showed.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// Strays by id.
    pub strays: BTreeMap<CloudId, Stray>,
    /// Adopted instances that are not shown.
    pub missing: BTreeMap<Key, Absence>,
    counted: BTreeSet<(OperationId, CloudId)>,
    lost: Brake,
}

impl Memory {
    /// Forgets everything but which second instances were counted: another gateway judges from now on, or did since.
    pub fn forget(&mut self) {
        *self = Self { counted: std::mem::take(&mut self.counted), ..Self::default() };
    }

    /// Notes a second instance of an operation; true when it is new. Pairs that whoever judged before has counted are
    /// noted like this too.
    pub fn count(&mut self, op: OperationId, id: CloudId) -> bool {
        let new = self.counted.insert((op, id));
        if self.counted.len() > COUNTED_MAX {
            self.counted.pop_first();
        }
        new
    }
}

/// What to do about one instance.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Have the driver of the operation look at it now: what it looks for is shown.
    Wake(Key),
    /// Give the instance up in its operation's record; the driver removes it.
    Condemn {
        /// The operation.
        key: Key,
        /// The instance.
        observed: Box<Observed>,
        /// `duplicate` or `zombie`.
        class: Class,
    },
    /// Take a lost instance that is there again back into its operation, or give it up if the quota does not hold it.
    TakeBack {
        /// The operation.
        key: Key,
        /// The instance.
        observed: Box<Observed>,
    },
    /// Delete an orphan.
    Delete {
        /// The instance.
        id: CloudId,
        /// Its name.
        name: String,
    },
    /// Ask for an adopted instance by its id; it is lost when it is not there.
    ProveLost {
        /// The operation.
        key: Key,
        /// The instance.
        id: CloudId,
    },
}

/// What follows from a sweep.
#[derive(Debug, Default)]
pub struct Verdict {
    /// What to do, in order.
    pub actions: Vec<Action>,
    /// Second instances of an operation that were not known before this sweep: must not happen (R1).
    pub violations: u32,
    /// Removals that begin with this sweep.
    pub begun: usize,
}

/// What an instance is, by its name and what the ledger holds. The flag says that one sight is enough to know.
#[must_use]
pub fn classify(shown: &Shown, sweep_started: Time) -> (Class, bool) {
    let record = match &shown.held {
        Held::Current => return (Class::Belongs, true),
        Held::Unread => return (Class::Unread, true),
        Held::NoTenant | Held::Missing => return (Class::Orphan, true),
        Held::Record(record) => record,
    };
    let is_this = |id: Option<&CloudId>| id == Some(&shown.id);
    let open = record.open_attempt();
    if open.is_some_and(|a| is_this(a.cloud_id.as_ref())) {
        return (Class::Belongs, true);
    }
    // Two may bear one name: a second one is condemned on its own account.
    let is_condemned = record.condemned.iter().any(|a| match &a.cloud_id {
        Some(id) => *id == shown.id,
        None => a.name.as_str() == shown.observed.name,
    });
    if is_condemned {
        return (Class::Condemned, true);
    }
    if record.is_gone() {
        return (Class::Orphan, true);
    }
    if shown.identity.epoch > record.epoch {
        return (Class::Ahead, true);
    }
    if shown.identity.epoch < record.epoch {
        return (Class::Zombie, true);
    }
    if let Some(open) = open.filter(|a| a.name.as_str() == shown.observed.name) {
        return match (open.state, &open.cloud_id) {
            (AttemptState::InDoubt, _) => (Class::InDoubt, true),
            // Its owner is about to hear of it.
            (_, None) => (Class::Belongs, true),
            (_, Some(_)) => (Class::Duplicate, true),
        };
    }
    let closed = record.attempts.iter().find(|a| a.name.as_str() == shown.observed.name);
    match closed {
        Some(closed)
            if open.is_none() && record.state == OperationState::Succeeded && is_this(closed.cloud_id.as_ref()) =>
        {
            (Class::Returned, true)
        }
        // The list may be older than the proof that closed the attempt.
        Some(closed) if sweep_started <= closed.changed_at => (Class::Belongs, true),
        _ if sweep_started <= record.created_at => (Class::Belongs, true),
        _ => (Class::Duplicate, false),
    }
}

/// Decides what follows from a sweep, and remembers it.
pub fn reconcile(
    view: &View,
    report: &SweepReport,
    (memory, grant): (&mut Memory, Grant),
    rules: &Rules,
    now: Now,
) -> Verdict {
    let mut verdict = Verdict::default();
    remember(view, report, memory, now);
    let lacks_record = |shown: &&Shown| memory.strays.get(&shown.id).is_some_and(|stray| stray.unrecorded);
    let unrecorded = view.shown.iter().filter(lacks_record).count();
    let company = Company {
        trusted: report.trusted,
        serving: view.serving,
        holds_any: view.holds_any,
        suspect: unrecorded > rules.removals_min && unrecorded * UNRECORDED_SHARE > view.shown.len(),
        leads: report.leads,
    };
    for shown in &view.shown {
        let key = |record: &OperationRecord| (record.tenant.clone(), record.op_id.clone());
        let (class, sure) = classify(shown, report.started_at);
        if let (Class::InDoubt, Held::Record(record)) = (class, &shown.held)
            && report.leads
        {
            verdict.actions.push(Action::Wake(key(record)));
        }
        let Some(sights) = memory.strays.get(&shown.id).map(|stray| stray.sights) else { continue };
        // Whatever is done about it, and when: that it is there is the violation.
        if class == Class::Duplicate && report.leads && (sure || sights >= SIGHTS_MIN) {
            verdict.violations += u32::from(memory.count(shown.identity.op_id.clone(), shown.id.clone()));
        }
        let Some(stray) = memory.strays.get_mut(&shown.id) else { continue };
        stray.held_back = held_back(stray, shown, &company, (rules, sure), now);
        if stray.held_back != HeldBack::Nothing {
            continue;
        }
        // A repetition undoes nothing more than the first did.
        if stray.deletes == 0 {
            match grant {
                Grant::Away => stray.held_back = HeldBack::Ledger,
                Grant::Of(granted) if verdict.begun >= granted => stray.held_back = HeldBack::Brake,
                Grant::Of(_) => verdict.begun += 1,
            }
        }
        if stray.held_back != HeldBack::Nothing {
            continue;
        }
        match (&shown.held, class) {
            (Held::Record(record), Class::Duplicate | Class::Zombie) => {
                stray.deletes = stray.deletes.saturating_add(1);
                let observed = Box::new(shown.observed.clone());
                verdict.actions.push(Action::Condemn { key: key(record), observed, class });
            }
            (Held::Record(record), Class::Returned) => {
                stray.deletes = stray.deletes.saturating_add(1);
                let observed = Box::new(shown.observed.clone());
                verdict.actions.push(Action::TakeBack { key: key(record), observed });
            }
            (Held::Record(_) | Held::Missing, Class::Orphan) => {
                stray.deletes = stray.deletes.saturating_add(1);
                verdict.actions.push(Action::Delete { id: shown.id.clone(), name: shown.observed.name.clone() });
            }
            _ => stray.held_back = HeldBack::Person,
        }
    }
    verdict.actions.extend(missed(view, report, memory, rules, now));
    verdict
}

/// What all instances of a sweep have in common.
struct Company {
    trusted: bool,
    serving: bool,
    holds_any: bool,
    suspect: bool,
    leads: bool,
}

/// Takes in who is there; who is not shown by a sweep that can be believed is forgotten.
fn remember(view: &View, report: &SweepReport, memory: &mut Memory, now: Now) {
    let mut strays = std::mem::take(&mut memory.strays);
    for shown in &view.shown {
        let (class, _) = classify(shown, report.started_at);
        let known = strays.remove(&shown.id);
        if !class.is_stray() {
            continue;
        }
        let unrecorded = match shown.held {
            Held::Missing => true,
            Held::Unread => known.as_ref().is_none_or(|known| known.unrecorded),
            Held::Current | Held::NoTenant | Held::Record(_) => false,
        };
        let stray = match known {
            // A ledger that cannot be read for a moment changes nothing of what was known.
            Some(known) if known.class == class || class == Class::Unread => Stray {
                observed: shown.observed.clone(),
                last_seen: report.started_at,
                sights: known.sights.saturating_add(1),
                unrecorded,
                ..known
            },
            _ => Stray {
                class,
                observed: shown.observed.clone(),
                op_id: shown.identity.op_id.clone(),
                first_seen: report.started_at,
                last_seen: report.started_at,
                sights: 1,
                deletes: 0,
                held_back: HeldBack::Quarantine,
                unrecorded,
                since: now.mono,
            },
        };
        memory.strays.insert(shown.id.clone(), stray);
    }
    if !report.trusted {
        let shown: BTreeSet<&CloudId> = view.shown.iter().map(|s| &s.id).collect();
        // What was deleted and is not shown is gone, or comes back with a quarantine of its own.
        strays.retain(|id, stray| !shown.contains(id) && stray.deletes == 0);
        memory.strays.extend(strays);
    }
}

/// Why nothing is done about a stray that a sweep just showed.
fn held_back(stray: &Stray, shown: &Shown, company: &Company, (rules, sure): (&Rules, bool), now: Now) -> HeldBack {
    if !company.serving || shown.held == Held::Unread {
        return HeldBack::Ledger;
    }
    if !company.leads {
        return HeldBack::Follower;
    }
    if rules.ignored.contains(&shown.id) {
        return HeldBack::Ignored;
    }
    match stray.class {
        Class::Condemned => HeldBack::Driver,
        Class::Ahead | Class::Belongs | Class::InDoubt | Class::Unread | Class::Missing => HeldBack::Person,
        // The first sight may be of before it was proven lost.
        Class::Returned if stray.sights < SIGHTS_MIN => HeldBack::Quarantine,
        Class::Returned => HeldBack::Nothing,
        Class::Duplicate if !sure && stray.sights < SIGHTS_MIN => HeldBack::Quarantine,
        Class::Duplicate | Class::Zombie => HeldBack::Nothing,
        Class::Orphan => orphan_held_back(stray, shown, company, rules, now),
    }
}

fn orphan_held_back(stray: &Stray, shown: &Shown, company: &Company, rules: &Rules, now: Now) -> HeldBack {
    let waited = now.mono.saturating_sub(stray.since);
    let quarantine = rules.quarantine.max(rules.effect_bound.saturating_mul(EFFECT_BOUNDS));
    match () {
        () if shown.held == Held::NoTenant => HeldBack::NoTenant,
        () if !rules.removes => HeldBack::ReportOnly,
        () if !company.trusted => HeldBack::Distrusted,
        () if !company.holds_any => HeldBack::Ledger,
        () if company.suspect => HeldBack::Mass,
        () if stray.sights < SIGHTS_MIN || waited < quarantine => HeldBack::Quarantine,
        () if shown.observed.phase == ObservedPhase::Terminating => HeldBack::Leaving,
        () => HeldBack::Nothing,
    }
}

/// Counts the adopted instances that a trusted sweep did not show, and asks for those that were missed often enough.
fn missed(view: &View, report: &SweepReport, memory: &mut Memory, rules: &Rules, now: Now) -> Vec<Action> {
    let mut actions = Vec::new();
    let mut before = std::mem::take(&mut memory.missing);
    for (key, id) in &view.expected {
        let known = before.remove(key).filter(|absence| absence.id == *id);
        if report.listed.contains(id) {
            continue;
        }
        let fresh = || Absence { id: id.clone(), first_missed: report.started_at, sweeps: 0 };
        let mut absence = match known {
            Some(known) => known,
            None if report.trusted => fresh(),
            None => continue,
        };
        absence.sweeps = absence.sweeps.saturating_add(u32::from(report.trusted));
        let enough = report.trusted && absence.sweeps >= rules.lost_sweeps && view.serving && report.leads;
        let allowed = allowance(view.fleet, rules.removals_min);
        if enough && memory.lost.take(now.mono, rules.brake_window, allowed) {
            actions.push(Action::ProveLost { key: key.clone(), id: id.clone() });
        }
        memory.missing.insert(key.clone(), absence);
    }
    actions
}

#[cfg(test)]
mod tests;
