//! What a tenant's records are after its store lost writes: a pure function of every source there is.
//!
//! Sources, in the order in which they are believed about what they know:
//! 1. what the *clouds* show, after the effect bound, in a complete sweep: it exists;
//! 2. *records*, left in the store, remembered by gateways or vouched for by one that answered: the newest revision of
//!    each;
//! 3. *intents*: something may exist or appear.
//!
//! What holds for the result (`tests`):
//! - nothing that was shown is unknown: it is an operation's attempt, or condemned by one, or its operation is gone
//!   and the reconciler removes it as an orphan, or an import has it, and the operation in its name does not get it;
//! - a record is charged at least for all of it that exists;
//! - a removal that any source knows stays, and what any source knows to be gone stays gone;
//! - at most one attempt is open, and it is the latest of which anything is known.
//!
//! Silence settles nothing here but this: an attempt that was followed by another had been proven gone before, and when
//! a complete sweep does not show it either, it is not looked for again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use meridian_model::{
    bugs,
    error::{ErrorCode, Problem},
    ids::{
        AdapterName, BackendId, CloudId, CloudName, InstanceName, InstanceUid, OperationId, ProjectName, RegionId,
        TenantId, ZoneId,
    },
    instance::{Container, InstanceSpec, Labels},
    operation::{
        Attempt, AttemptState, Charge, Decision, Fence, IMPORTED, OperationRecord, OperationState, PROJECT,
        QuotaLimits, REBUILT, RECORD_VERSION, Removal,
    },
    status::Observed,
    time::Time,
};
use meridian_policies::quota::{self, Beside};

use crate::journal::{
    identity::{self, Deployment, Identity},
    intent::Intent,
    machine::{self, Next},
};

/// Added to the greatest revision known of a record: whoever was told a higher one that is lost is not told it again
/// with another content.
const REV_LEAP: u64 = 1_000;
/// Stands for an image that nobody knows any more.
const IMAGE_UNKNOWN: &str = "unknown";
/// Generation of an instance whose name does not say.
const FIRST_EPOCH: u32 = 1;

/// One backend as the rebuild saw it.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its adapter.
    pub adapter: AdapterName,
    /// Its region.
    pub region: RegionId,
    /// Every instance of ours from a complete sweep that began after the effect bound; none when there was no such
    /// sweep.
    pub shown: Option<Vec<Observed>>,
}

/// Everything that is known of one tenant.
#[derive(Debug)]
pub struct Evidence<'a> {
    /// The tenant.
    pub tenant: &'a TenantId,
    /// Records from wherever, several of one operation among them.
    pub records: Vec<OperationRecord>,
    /// The backends.
    pub places: &'a BTreeMap<BackendId, Place>,
    /// What gateways were about to send.
    pub intents: &'a [Intent],
    /// Instances that imports have, of all tenants.
    pub imports: &'a Holders,
    /// Reads cloud names.
    pub deployment: &'a Deployment,
    /// How long an instance of which nothing but its name is known may take to run.
    pub place_timeout: Duration,
    /// A place above every write of the tenant that anybody knows of.
    pub seq: u64,
    /// Now.
    pub now: Time,
}

/// Whose instances are: each with the operations that have it.
pub type Holders = BTreeMap<(BackendId, CloudId), BTreeSet<(TenantId, OperationId)>>;

/// The instances that imports have. Their names are those of other operations, or of none.
#[must_use]
pub fn imports<'a>(records: impl IntoIterator<Item = &'a OperationRecord>) -> Holders {
    let mut holders = Holders::new();
    for record in records.into_iter().filter(|r| r.annotations.contains_key(IMPORTED)) {
        note_holder(&mut holders, record);
    }
    holders
}

fn note_holder(holders: &mut Holders, record: &OperationRecord) {
    if let Some(instance) = has(record) {
        holders.entry(instance).or_default().insert((record.tenant.clone(), record.op_id.clone()));
    }
}

/// The instance that a live record has: what it was imported from, also while it is not taken in yet, or its open
/// attempt's. What another gateway vouched for does not say that it was imported.
fn has(record: &OperationRecord) -> Option<(BackendId, CloudId)> {
    if record.is_gone() {
        return None;
    }
    if let Some((backend, id)) = record.annotations.get(IMPORTED).and_then(|source| source.split_once('/')) {
        return Some((BackendId::new(backend).ok()?, CloudId::new(id).ok()?));
    }
    let open = record.open_attempt()?;
    Some((open.backend.clone(), open.cloud_id.clone()?))
}

/// The records to be restored, the oldest first. Their fences are the store's to give.
#[must_use]
pub fn merge(evidence: Evidence<'_>) -> Vec<OperationRecord> {
    let Evidence { tenant, records, places, intents, imports, deployment, place_timeout, seq, now } = evidence;
    let mut known: BTreeMap<OperationId, OperationRecord> = BTreeMap::new();
    for record in records.into_iter().filter(|r| r.tenant == *tenant) {
        let newest = match known.remove(&record.op_id) {
            Some(other) => newer(other, record),
            None => record,
        };
        known.insert(newest.op_id.clone(), newest);
    }
    let hash = identity::tenant_hash(tenant);
    let seen = Seen { places, now, place_timeout };
    let mut own = Holders::new();
    known.values().for_each(|record| note_holder(&mut own, record));
    let mut taken: BTreeSet<(&BackendId, &str)> = BTreeSet::new();
    for (backend, place) in places {
        for observed in place.shown.iter().flatten() {
            let Some(identity) = deployment.identify(&observed.name).filter(|i| i.tenant_hash == hash) else {
                continue;
            };
            if is_anothers(&own, imports, tenant, (backend, observed), &identity.op_id) {
                taken.insert((backend, &observed.name));
                continue;
            }
            let Some(attempt) = shown_attempt(&identity, backend, place, observed, &seen) else { continue };
            let Some(record) = known.remove(&identity.op_id).or_else(|| from_shown(tenant, &identity, observed, now))
            else {
                continue;
            };
            let record = known.entry(identity.op_id.clone()).or_insert(record);
            match machine::is_lost(record).then(|| machine::returned(record.clone(), observed, now)).flatten() {
                Some(returned) => *record = returned,
                None => seen.learn(record, attempt, identity.epoch),
            }
        }
    }
    // In the order of the attempts: a later one says that the one before had been proven gone.
    let mut intents: Vec<&Intent> = intents.iter().filter(|i| i.tenant == *tenant).collect();
    intents.sort_by(|a, b| (&a.op_id, a.n).cmp(&(&b.op_id, b.n)));
    for intent in intents {
        // What came of it is an import's now.
        let is_taken = taken.contains(&(&intent.backend, intent.cloud_name.as_str()));
        if is_taken && !known.contains_key(&intent.op_id) {
            continue;
        }
        let record = known.entry(intent.op_id.clone()).or_insert_with(|| from_intent(intent, now));
        let is_new = record.attempts.iter().chain(&record.condemned).all(|a| a.name != intent.cloud_name);
        if is_new {
            seen.learn(record, intended_attempt(intent, now), intent.epoch);
            if !record.is_gone() {
                record.charge = quota::max(record.charge, intent.charge);
            }
        }
    }
    for record in known.values_mut() {
        // Of some only an answer is left, which holds no wish.
        if record.spec.containers.is_empty() {
            record.annotations.entry(REBUILT.to_owned()).or_insert_with(|| "from an answer".to_owned());
        }
        seen.finish(record);
        record.seq = seq;
    }
    free_names(&mut known, &seen);
    let mut merged: Vec<_> = known.into_values().collect();
    merged.sort_by(|a, b| (a.created_at, &a.op_id).cmp(&(b.created_at, &b.op_id)));
    merged
}

/// Whether an instance that is shown is another operation's than the one in its name: what was imported is its
/// importer's. The tenant's own records are known best; of other tenants it is what `imports` says.
fn is_anothers(
    own: &Holders,
    imports: &Holders,
    tenant: &TenantId,
    (backend, observed): (&BackendId, &Observed),
    op: &OperationId,
) -> bool {
    let Some(id) = &observed.id else { return false };
    let key = (backend.clone(), id.clone());
    own.get(&key).is_some_and(|holders| holders.iter().any(|(_, other)| other != op))
        || imports.get(&key).is_some_and(|holders| holders.iter().any(|(other, _)| other != tenant))
}

/// Of two versions of a record the one that counts, with what the other knows of removals.
fn newer(a: OperationRecord, b: OperationRecord) -> OperationRecord {
    let (mut older, mut newer) = if (a.rev, a.updated_at) > (b.rev, b.updated_at) { (b, a) } else { (a, b) };
    let (rev, seq) = (newer.rev.max(older.rev), newer.seq.max(older.seq));
    if older.is_gone() && !newer.is_gone() {
        std::mem::swap(&mut older, &mut newer);
    } else if newer.removal.is_none() && !newer.is_gone() {
        // Also of a version that another history left behind: a delete that was accepted once is carried out.
        newer.removal = older.removal.take().map(|r| Removal { completed_at: None, ..r });
    }
    // What a gateway vouched for has no wish.
    if *newer.spec == InstanceSpec::default() {
        newer.spec = older.spec;
        newer.labels = older.labels;
        newer.annotations = older.annotations;
        newer.decision = newer.decision.or(older.decision);
    }
    (newer.rev, newer.seq) = (rev, seq);
    newer
}

/// What is known of the clouds.
struct Seen<'a> {
    places: &'a BTreeMap<BackendId, Place>,
    now: Time,
    place_timeout: Duration,
}

impl Seen<'_> {
    /// The instance with this name, if a complete sweep showed it; `None` when nobody can say.
    fn shows(&self, backend: &BackendId, name: &CloudName) -> Option<Option<&Observed>> {
        let shown = self.places.get(backend)?.shown.as_ref()?;
        Some(shown.iter().find(|o| o.name == name.as_str()))
    }

    /// A complete sweep of its backend does not show the attempt.
    fn misses(&self, attempt: &Attempt) -> bool {
        self.shows(&attempt.backend, &attempt.name) == Some(None)
    }

    /// Takes an attempt into a record: one that was shown, or one that may still show up.
    fn learn(&self, record: &mut OperationRecord, learned: Attempt, epoch: u32) {
        if record.is_gone() {
            return;
        }
        record.epoch = record.epoch.max(epoch);
        let same = |a: &Attempt| a.name == learned.name && a.cloud_id == learned.cloud_id;
        let open = record.open_attempt().filter(|a| same(a));
        if open.is_some() || record.condemned.iter().any(same) {
            return;
        }
        let last = record.attempts.len().checked_sub(1);
        if let Some(i) = record.attempts.iter().position(|a| a.name == learned.name) {
            let open = record.attempts.get_mut(i).filter(|a| Some(i) == last && !a.state.is_closed());
            // Either it was believed closed and exists, or there are two of one name.
            if !open.is_some_and(|open| merge_sight(open, &learned, self.now)) && learned.cloud_id.is_some() {
                condemn(record, learned, self.now);
            }
            return;
        }
        if let Some(known) = record.condemned.iter_mut().find(|a| a.name == learned.name && a.cloud_id.is_none()) {
            merge_sight(known, &learned, self.now);
            known.state = AttemptState::Removing;
            return;
        }
        if record.condemned.iter().any(|a| a.name == learned.name) {
            condemn(record, learned, self.now);
            return;
        }
        let last = record.attempts.last().map(|a| a.n);
        if record.state.is_final() && record.state != OperationState::Succeeded || last.is_some_and(|n| n >= learned.n)
        {
            condemn(record, learned, self.now);
            return;
        }
        // The learned one followed what was the last: that had been proven gone by then.
        if let Some(before) = record.attempts.pop_if(|a| !a.state.is_closed()) {
            if self.misses(&before) {
                record.attempts.push(Attempt { state: AttemptState::Absent, changed_at: self.now, ..before });
            } else {
                condemn(record, before, self.now);
            }
        }
        if record.state == OperationState::Claimed {
            record.state = OperationState::Placing;
        }
        record.attempts.push(learned);
    }

    /// Brings revision, charge and turn of a record in order.
    fn finish(&self, record: &mut OperationRecord) {
        record.rev = record.rev.saturating_add(REV_LEAP);
        if bugs::planted(bugs::REMOVAL_FORGOTTEN) {
            record.removal.take_if(|r| r.completed_at.is_none());
        }
        if record.is_gone() {
            record.charge = Charge::default();
            record.due = None;
            return;
        }
        self.believe_running(record);
        let public_ip = record.spec.network.public_ip.is_some();
        let live = record.open_attempt().into_iter().chain(&record.condemned);
        let exists = live.fold(Charge::default(), |sum, attempt| {
            let one = self.charge(attempt, public_ip, record);
            quota::charge(sum, one, &QuotaLimits::default()).unwrap_or(sum)
        });
        record.charge = quota::max(record.charge, exists);
        if machine::next(record) != Next::Done || !record.condemned.is_empty() {
            record.due = Some(self.now);
        }
        let is_doubtful = record.charge != Charge::default() && !self.proves(record);
        record.restored_at = is_doubtful.then_some(self.now);
        record.updated_at = self.now;
    }

    /// All that the record is charged for exists and is to stay.
    fn proves(&self, record: &OperationRecord) -> bool {
        let is_shown = |a: &Attempt| matches!(self.shows(&a.backend, &a.name), Some(Some(_)));
        record.removal.is_none() && record.condemned.is_empty() && record.open_attempt().is_some_and(is_shown)
    }

    /// An instance that runs may have been answered as made, by a write that is lost: the answer stays the same, also
    /// when a delete comes before the record is driven on.
    fn believe_running(&self, record: &mut OperationRecord) {
        let Some(attempt) = record.open_attempt().filter(|a| a.cloud_id.is_some()) else { return };
        let shown = self.places.get(&attempt.backend).and_then(|place| place.shown.as_ref());
        let seen = shown.into_iter().flatten().find(|o| o.id == attempt.cloud_id && o.phase.proves_capacity());
        if let Some(sighted) = seen.and_then(|seen| machine::sighted(record.clone(), seen, self.now)) {
            *record = sighted;
        }
    }

    /// What one attempt takes, as far as it is seen, else as far as it was asked for.
    fn charge(&self, attempt: &Attempt, public_ip: bool, record: &OperationRecord) -> Charge {
        let seen = self.shows(&attempt.backend, &attempt.name).flatten();
        let public_ip = public_ip || seen.is_some_and(|o| o.public_ip.is_some());
        let ended = match seen {
            Some(seen) => seen.phase.is_ended(),
            None => record.last_seen.as_ref().is_some_and(|(_, o)| o.id == attempt.cloud_id && o.phase.is_ended()),
        };
        if ended {
            return Charge { public_ips: u64::from(public_ip), ..Charge::default() };
        }
        let mut shape = attempt.shape.clone();
        if let Some(seen) = seen.filter(|o| o.shape.cpu.0 > 0) {
            shape = seen.shape.clone();
        }
        quota::charge_of(&shape, Beside { public_ip, ..Beside::of(&record.spec) }.at(attempt.price))
    }
}

/// Takes what was learned of an attempt into what is known of it; false when it is another instance of that name.
fn merge_sight(known: &mut Attempt, learned: &Attempt, now: Time) -> bool {
    if learned.cloud_id.is_none() || known.cloud_id == learned.cloud_id {
        return true;
    }
    if known.cloud_id.is_some() {
        return false;
    }
    known.cloud_id.clone_from(&learned.cloud_id);
    if matches!(known.state, AttemptState::Open | AttemptState::InDoubt) {
        known.state = AttemptState::Applied;
        known.fault = None;
    }
    known.changed_at = now;
    true
}

/// Gives an attempt up: whatever of it exists is to be removed.
fn condemn(record: &mut OperationRecord, mut attempt: Attempt, now: Time) {
    let known = |a: &Attempt| a.name == attempt.name && a.cloud_id == attempt.cloud_id;
    if record.condemned.iter().any(known) {
        return;
    }
    attempt.state = if attempt.cloud_id.is_some() { AttemptState::Removing } else { AttemptState::InDoubt };
    attempt.changed_at = now;
    record.condemned.push(attempt);
}

/// An earlier holder of a name that another holds now had been proven gone: nobody gets a name that is held. If that
/// proof is lost, and complete sweeps do not show the earlier one, it is gone again.
fn free_names(known: &mut BTreeMap<OperationId, OperationRecord>, seen: &Seen<'_>) {
    let mut holders: BTreeMap<InstanceName, Vec<(Time, OperationId)>> = BTreeMap::new();
    for record in known.values().filter(|r| !r.is_gone()) {
        holders.entry(record.name.clone()).or_default().push((record.created_at, record.op_id.clone()));
    }
    for (_, mut same) in holders {
        same.sort();
        same.pop();
        for (_, op_id) in same {
            let Some(record) = known.get_mut(&op_id) else { continue };
            let is_absent = |a: &Attempt| seen.misses(a);
            if record.open_attempt().into_iter().chain(&record.condemned).all(is_absent) {
                end(record, seen.now);
            }
        }
    }
}

/// The record of an operation of which nothing exists any more.
fn end(record: &mut OperationRecord, now: Time) {
    if let Some(attempt) = record.open_attempt_mut() {
        attempt.state = AttemptState::Absent;
        attempt.changed_at = now;
    }
    record.condemned.clear();
    let asked = record.removal.take();
    let requested_at = asked.as_ref().map_or(now, |r| r.requested_at);
    record.removal = Some(Removal { requested_at, completed_at: Some(now), reason: asked.and_then(|r| r.reason) });
    if !record.state.is_final() {
        record.state = OperationState::Cancelled;
        let detail = "its name was given to another operation while the ledger lost writes; nothing of it exists";
        record.problem = Some(Problem::new(ErrorCode::Cancelled, detail));
    }
    record.charge = Charge::default();
    record.due = None;
    record.updated_at = now;
}

/// The attempt that an instance at a cloud is.
fn shown_attempt(
    identity: &Identity,
    backend: &BackendId,
    place: &Place,
    observed: &Observed,
    seen: &Seen<'_>,
) -> Option<Attempt> {
    let at = observed.created_at.unwrap_or(seen.now);
    Some(Attempt {
        n: identity.n,
        backend: backend.clone(),
        adapter: place.adapter.clone(),
        region: place.region.clone(),
        zone: observed.zone.clone().or_else(|| ZoneId::new(place.region.as_str()).ok())?,
        token: Deployment::client_token(&identity.op_id, identity.n, backend, identity.epoch).ok()?,
        name: CloudName::new(observed.name.clone()).ok()?,
        shape: observed.shape.clone(),
        price: None,
        takes: None,
        state: if observed.id.is_some() { AttemptState::Applied } else { AttemptState::InDoubt },
        started_at: at,
        armed_at: at,
        sends: 1,
        cloud_id: observed.id.clone(),
        place_until: Some(seen.now + seen.place_timeout),
        fault: None,
        changed_at: seen.now,
    })
}

fn intended_attempt(intent: &Intent, now: Time) -> Attempt {
    Attempt {
        n: intent.n,
        backend: intent.backend.clone(),
        adapter: intent.adapter.clone(),
        region: intent.region.clone(),
        zone: intent.zone.clone(),
        token: intent.token.clone(),
        name: intent.cloud_name.clone(),
        shape: intent.shape.clone(),
        price: None,
        takes: None,
        state: AttemptState::InDoubt,
        started_at: intent.armed_at,
        armed_at: intent.armed_at,
        sends: 1,
        cloud_id: None,
        place_until: None,
        fault: None,
        changed_at: now,
    }
}

/// A record of an operation that no source has, before its attempts are learned. It has a plan without candidates, so
/// that nothing is ever created from its incomplete spec.
fn blank(
    tenant: &TenantId,
    op_id: &OperationId,
    name: (InstanceUid, InstanceName),
    at: (Time, Time),
) -> OperationRecord {
    let (created_at, now) = at;
    OperationRecord {
        v: RECORD_VERSION,
        rev: 0,
        seq: 0,
        tenant: tenant.clone(),
        op_id: op_id.clone(),
        uid: name.0,
        name: name.1,
        fingerprint: String::new(),
        labels: Labels::new(),
        annotations: Labels::new(),
        spec: Arc::default(),
        state: OperationState::Claimed,
        epoch: FIRST_EPOCH,
        fence: Fence::default(),
        due: Some(now),
        created_at,
        updated_at: now,
        decision: Some(Arc::new(Decision { at: now, ..Decision::default() })),
        attempts: Vec::new(),
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

fn from_shown(tenant: &TenantId, identity: &Identity, observed: &Observed, now: Time) -> Option<OperationRecord> {
    let mark = |key: &str| observed.marks.get(key).or_else(|| observed.tags.get(key)).map(String::as_str);
    let op = &identity.op_id;
    let uid = mark("MERIDIAN_UID")
        .and_then(|u| InstanceUid::new(u).ok())
        .or_else(|| InstanceUid::new(format!("inst_{op}")).ok());
    let short: String = op.as_str().chars().take(8).collect();
    let name = mark("MERIDIAN_INSTANCE")
        .and_then(|n| InstanceName::new(n).ok())
        .or_else(|| InstanceName::new(format!("rebuilt-{short}")).ok());
    // Operation ids in cloud names are lower case letters and digits, so that both names fit.
    let mut record = blank(tenant, op, uid.zip(name)?, (observed.created_at.unwrap_or(now), now));
    record.fingerprint = mark("MERIDIAN_FINGERPRINT").unwrap_or_default().to_owned();
    let project = mark("MERIDIAN_PROJECT").and_then(|name| ProjectName::new(name).ok());
    record.annotations = rebuilt("from the instance at its cloud", project);
    let (init, containers) = observed.containers.iter().partition::<Vec<_>, _>(|c| c.init);
    let container =
        |name: &String| Container { name: name.clone(), image: IMAGE_UNKNOWN.to_owned(), ..Container::default() };
    let mut spec = InstanceSpec {
        containers: containers.iter().map(|c| container(&c.name)).collect(),
        init_containers: init.iter().map(|c| container(&c.name)).collect(),
        gpu_type: observed.shape.gpu_type.clone(),
        ..InstanceSpec::default()
    };
    spec.resources.requests.cpu = Some(observed.shape.cpu);
    spec.resources.requests.memory = Some(observed.shape.memory);
    record.spec = Arc::new(spec);
    Some(record)
}

fn from_intent(intent: &Intent, now: Time) -> OperationRecord {
    let named = (intent.uid.clone(), intent.name.clone());
    let mut record = blank(&intent.tenant, &intent.op_id, named, (intent.created_at, now));
    record.fingerprint.clone_from(&intent.fingerprint);
    record.annotations = rebuilt("from an intent journal", intent.project.clone());
    record
}

/// Where a record is from, and what its charge is to lie on as it did before.
fn rebuilt(from: &str, project: Option<ProjectName>) -> Labels {
    let project = project.map(|name| (PROJECT.to_owned(), String::from(name)));
    std::iter::once((REBUILT.to_owned(), from.to_owned())).chain(project).collect()
}

#[cfg(test)]
mod tests;
