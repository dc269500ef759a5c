//! The reconciler: takes in what the sweeps of each backend show, has [`reconcile`] decide, and does it.
//!
//! One task per backend, so that a dead one holds up no other. Every gateway takes in every sweep, so that each can say
//! what there is; only the one that leads the backend's sweeps acts. What a live operation has to do with goes through
//! its record and its driver, which the fence protects; only an orphan, which has no record, is deleted from here, with
//! an audit line, again with each sweep until a complete one does not show it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use meridian_ledger::{LedgerError, Standing};
use meridian_model::{
    error::ErrorCode,
    ids::{BackendId, CloudId, OperationId, RegionId, TenantId},
    operation::QuotaLimits,
    status::Observed,
    time::Time,
};
use serde::Serialize;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    driver::{Driver, Parts},
    identity::tenant_hash,
    reconcile::{self, Action, Brake, Class, Held, HeldBack, Key, Memory, Now, Rules, Shown, Verdict, View, allowance},
};
use crate::{
    config::{Orphans, Reconcile},
    operation::{Refusal, store_refusal},
    regions::Backend,
    status::{poll::Poller, sweep::SweepReport},
};

/// Names of one sweep that the ledger is read for; the fleet knows nearly all. The rest waits for the next sweep.
const READS_MAX: usize = 1000;

/// How long a deployment id must have been in use at a backend before its orphans are removed unasked
/// (RELIABILITY 2.8).
const REPORT_ONLY: Duration = Duration::from_secs(7 * 24 * 3600);

/// Finds out what runs without an operation, and what does not run although an operation has it.
#[derive(Debug, Clone)]
pub struct Reconciler(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    driver: Driver,
    /// Configured tenants with their limits.
    tenants: BTreeMap<TenantId, QuotaLimits>,
    settings: Reconcile,
    began: Instant,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    backends: BTreeMap<BackendId, Known>,
    brakes: BTreeMap<RegionId, Brake>,
    ignored: BTreeSet<(BackendId, CloudId)>,
}

/// What is known of a backend.
#[derive(Debug, Default)]
struct Known {
    memory: Memory,
    last: Option<LastSweep>,
}

/// The last complete sweep of a backend.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LastSweep {
    /// When it began.
    pub started_at: Time,
    /// Its silence can be believed.
    pub trusted: bool,
    /// This process acts on it.
    pub leads: bool,
    /// The ledger was there to be asked.
    pub ledger_serving: bool,
    /// Instances listed, foreign ones too.
    pub listed: usize,
    /// Instances under our names.
    pub shown: usize,
    /// Adopted instances it had to show.
    pub expected: usize,
    /// Orphans are removed; otherwise only reported.
    pub removes_orphans: bool,
}

/// How the reconciler stands with one backend.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendView {
    /// The backend.
    pub backend: BackendId,
    /// Its region.
    pub region: RegionId,
    /// Its last complete sweep, if there was one.
    pub last_sweep: Option<LastSweep>,
    /// Strays by class.
    pub strays: BTreeMap<Class, usize>,
    /// Removals that the brake of the region allows now.
    pub removals_left: usize,
}

/// An instance that somebody should know of.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StrayView {
    /// The backend.
    pub backend: BackendId,
    /// Its region.
    pub region: RegionId,
    /// The vendor's id.
    pub cloud_id: CloudId,
    /// Its name at the vendor, empty when it is not shown.
    pub name: String,
    /// What it is.
    pub class: Class,
    /// The operation in its name, or that has it.
    pub operation: OperationId,
    /// The tenant, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// First sight, or first sweep that missed it.
    pub first_seen: Time,
    /// Last sight, if it is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Time>,
    /// When the vendor made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub create_time: Option<Time>,
    /// Complete sweeps that showed it, or that missed it.
    pub sweeps: u32,
    /// Times its removal was begun.
    pub removals: u32,
    /// Why nothing is done about it yet.
    pub held_back: HeldBack,
    /// What happens next.
    pub next: &'static str,
}

impl Reconciler {
    /// A reconciler that knows nothing yet; it works with what the driver works with.
    #[must_use]
    pub fn new(driver: Driver, tenants: BTreeMap<TenantId, QuotaLimits>, settings: Reconcile) -> Self {
        Self(Arc::new(Inner { driver, tenants, settings, began: Instant::now(), state: Mutex::default() }))
    }

    pub(super) fn driver(&self) -> &Driver {
        &self.0.driver
    }

    pub(super) fn parts(&self) -> &Parts {
        &self.0.driver.0.parts
    }

    /// The configured limits of a tenant; `None` when it is not configured.
    pub(super) fn limits(&self, tenant: &TenantId) -> Option<QuotaLimits> {
        self.0.tenants.get(tenant).copied()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A poisoned lock means a panic between two complete states; the data is whole.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Now {
        Now { wall: self.parts().clock.now(), mono: self.0.began.elapsed() }
    }

    /// Works on the reports of one backend until `stop`.
    pub async fn run(self, mut reports: mpsc::Receiver<SweepReport>, stop: CancellationToken) {
        let work = async {
            while let Some(report) = reports.recv().await {
                self.take_in(report).await;
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = work => {}
        }
    }

    async fn take_in(&self, report: SweepReport) {
        let Ok(poller) = self.parts().pollers.of(&report.backend) else { return };
        let backend = Arc::clone(poller.backend());
        let (view, removes) = self.look(&backend, &report).await;
        let verdict = self.decide(&backend, &view, &report, removes);
        if verdict.violations > 0 {
            self.parts().metrics.reconcile.violations(backend.id.as_str(), verdict.violations);
            tracing::error!(backend = %backend.id, count = verdict.violations, "one operation has a second instance; it is removed");
        }
        for action in verdict.actions {
            self.act(poller, action).await;
        }
    }

    /// Reads what the ledger holds for what the sweep showed, and whether orphans may be removed here.
    async fn look(&self, backend: &Backend, report: &SweepReport) -> (View, bool) {
        let parts = self.parts();
        let mut expected = parts.fleet.expected(&backend.id);
        let oldest = expected
            .iter()
            .filter_map(|r| r.open_attempt())
            .filter(|a| parts.deployment.identify(a.name.as_str()).is_some())
            .map(|a| a.started_at)
            .min();
        let removes = match self.0.settings.orphans {
            Some(Orphans::Remove) => true,
            Some(Orphans::Report) => false,
            None => oldest.is_some_and(|at| parts.clock.now().since(at) >= REPORT_ONLY),
        };
        // What ran only after the sweep began may stand on a page it had passed.
        expected.retain(|record| record.ran_at.is_some_and(|ran| ran < report.started_at));
        let in_region = parts.pollers.all().into_iter().filter(|p| p.backend().region == backend.region);
        let fleet = in_region.map(|p| parts.fleet.expected(&p.backend().id).len()).sum();
        let mut view = View { fleet, ..View::default() };
        view.expected = expected
            .iter()
            .filter_map(|r| Some(((r.tenant.clone(), r.op_id.clone()), r.open_attempt()?.cloud_id.clone()?)))
            .collect();
        let by_hash = self.tenants_by_hash();
        let mut reads = 0;
        for observed in &report.shown {
            let Some((id, identity)) = observed.id.clone().zip(parts.deployment.identify(&observed.name)) else {
                continue;
            };
            let held = if parts.fleet.record_at(&backend.id, &id).is_some() {
                Held::Current
            } else if reads >= READS_MAX {
                Held::Unread
            } else {
                reads += 1;
                self.held(by_hash.get(&identity.tenant_hash), &identity.op_id).await
            };
            view.shown.push(Shown { id, identity, observed: observed.clone(), held });
        }
        view.holds_any = match reads {
            0 => true,
            _ => parts.ledger.records(None, 1).await.is_ok_and(|page| !page.records.is_empty()),
        };
        // Asked last: what was read before is only worth something if the ledger still serves.
        view.serving = parts.ledger.standing() == Standing::Serving;
        (view, removes)
    }

    pub(super) async fn held(&self, tenant: Option<&TenantId>, op: &OperationId) -> Held {
        let Some(tenant) = tenant else { return Held::NoTenant };
        match self.parts().ledger.operation(tenant, op).await {
            Ok(Some(record)) => Held::Record(Arc::new(*record)),
            Ok(None) => Held::Missing,
            Err(error) => {
                tracing::debug!(%error, "the ledger could not be read for a name");
                Held::Unread
            }
        }
    }

    /// Configured tenants and those that have instances, by the hash in cloud names.
    pub(super) fn tenants_by_hash(&self) -> BTreeMap<String, TenantId> {
        let known = self.parts().fleet.tenants().into_iter().chain(self.0.tenants.keys().cloned());
        known.map(|tenant| (tenant_hash(&tenant), tenant)).collect()
    }

    fn rules(&self, backend: &Backend, removes: bool, state: &State) -> Rules {
        let settings = &self.0.settings;
        let by_hand = state.ignored.iter().filter(|(at, _)| *at == backend.id).map(|(_, id)| id.clone());
        Rules {
            removes,
            quarantine: settings.quarantine.0,
            effect_bound: backend.effect_bound(),
            lost_sweeps: settings.lost_sweeps,
            removals_min: settings.removals_min,
            brake_window: settings.brake_window.0,
            ignored: settings.keep.iter().cloned().chain(by_hand).collect(),
        }
    }

    fn decide(&self, backend: &Backend, view: &View, report: &SweepReport, removes: bool) -> Verdict {
        let mut state = self.state();
        let rules = self.rules(backend, removes, &state);
        let State { backends, brakes, .. } = &mut *state;
        let known = backends.entry(backend.id.clone()).or_default();
        let brake = brakes.entry(backend.region.clone()).or_default();
        let verdict = reconcile::reconcile(view, report, (&mut known.memory, brake), &rules, self.now());
        known.last = Some(LastSweep {
            started_at: report.started_at,
            trusted: report.trusted,
            leads: report.leads,
            ledger_serving: view.serving,
            listed: report.listed.len(),
            shown: view.shown.len(),
            expected: view.expected.len(),
            removes_orphans: removes,
        });
        let counts = counts(&known.memory);
        for class in Class::STRAYS {
            let count = counts.get(&class).copied().unwrap_or(0);
            self.parts().metrics.reconcile.strays(backend.id.as_str(), class.as_str(), count);
        }
        verdict
    }

    async fn act(&self, poller: &Poller, action: Action) {
        let backend = poller.backend();
        match action {
            Action::Wake(key) => self.wake(&key).await,
            Action::Condemn { key, observed, class } => self.condemn(backend, &key, &observed, class).await,
            Action::Delete { id, name } => {
                if self.is_imported(backend, &id).await != Some(false) {
                    tracing::warn!(backend = %backend.id, cloud.id = %id, "an orphan may have been imported; it is left alone");
                    return;
                }
                self.delete(backend, &id, &name, "quarantine").await;
            }
            Action::ProveLost { key, id } => self.prove_lost(poller, key, id).await,
        }
    }

    /// Deletes an orphan. Whether it worked, the next sweep shows.
    pub(super) async fn delete(&self, backend: &Backend, id: &CloudId, name: &str, why: &'static str) {
        tracing::warn!(
            audit = true,
            backend = %backend.id,
            cloud.region = %backend.region,
            cloud.id = %id,
            name,
            why,
            "an instance without an operation is removed"
        );
        self.parts().metrics.reconcile.removal(backend.id.as_str(), Class::Orphan.as_str());
        if let Err(error) = backend.delete(id.clone()).await {
            tracing::warn!(backend = %backend.id, cloud.id = %id, %error, "the removal failed; the next sweep repeats it");
        }
    }

    /// Asks for an adopted instance that sweeps do not show; without it the operation has lost it.
    async fn prove_lost(&self, poller: &Poller, key: Key, id: CloudId) {
        let backend = poller.backend();
        let Ok(found) = backend.describe(vec![id.clone()]).await else { return };
        if let Some(seen) = found.iter().find(|o| o.id.as_ref() == Some(&id)) {
            tracing::warn!(backend = %backend.id, cloud.id = %id, phase = seen.phase.as_str(), "sweeps do not show an instance that is there");
            if let Some(known) = self.state().backends.get_mut(&backend.id) {
                known.memory.missing.remove(&key);
            }
            return;
        }
        if poller.silence_is_proof() {
            self.lose(backend, &key, &id).await;
        }
    }

    /// How the reconciler stands with each backend.
    #[must_use]
    pub fn status(&self) -> Vec<BackendView> {
        let (now, settings) = (self.now(), &self.0.settings);
        let state = self.state();
        let none = (Known::default(), Brake::default());
        let of = |backend: &Arc<Backend>| {
            let known = state.backends.get(&backend.id).unwrap_or(&none.0);
            let brake = state.brakes.get(&backend.region).unwrap_or(&none.1);
            let fleet = known.last.as_ref().map_or(0, |l| l.expected);
            let allowed = allowance(fleet, settings.removals_min);
            BackendView {
                backend: backend.id.clone(),
                region: backend.region.clone(),
                last_sweep: known.last.clone(),
                strays: counts(&known.memory),
                removals_left: brake.left(now.mono, settings.brake_window.0, allowed),
            }
        };
        self.parts().pollers.all().into_iter().map(|p| of(p.backend())).collect()
    }

    /// Every stray of every backend.
    #[must_use]
    pub fn strays(&self) -> Vec<StrayView> {
        let by_hash = self.tenants_by_hash();
        let state = self.state();
        let mut all = Vec::new();
        for poller in self.parts().pollers.all() {
            let backend = poller.backend();
            let Some(known) = state.backends.get(&backend.id) else { continue };
            let tenant_of = |observed: &Observed| {
                let identity = self.parts().deployment.identify(&observed.name)?;
                by_hash.get(&identity.tenant_hash).cloned()
            };
            all.extend(known.memory.strays.iter().map(|(id, stray)| StrayView {
                backend: backend.id.clone(),
                region: backend.region.clone(),
                cloud_id: id.clone(),
                name: stray.observed.name.clone(),
                class: stray.class,
                operation: stray.op_id.clone(),
                tenant: tenant_of(&stray.observed),
                first_seen: stray.first_seen,
                last_seen: Some(stray.last_seen),
                create_time: stray.observed.created_at,
                sweeps: stray.sights,
                removals: stray.deletes,
                held_back: stray.held_back,
                next: next_of(stray.class, stray.held_back),
            }));
            all.extend(known.memory.missing.iter().map(|((tenant, op), absence)| StrayView {
                backend: backend.id.clone(),
                region: backend.region.clone(),
                cloud_id: absence.id.clone(),
                name: String::new(),
                class: Class::Missing,
                operation: op.clone(),
                tenant: Some(tenant.clone()),
                first_seen: absence.first_missed,
                last_seen: None,
                create_time: None,
                sweeps: absence.sweeps,
                removals: 0,
                held_back: HeldBack::Quarantine,
                next: "it is asked for by its id after enough trusted sweeps, and lost when it is not there",
            }));
        }
        all
    }

    /// Has an instance left alone until this process ends; the setting `reconcile.keep` is for longer.
    ///
    /// # Errors
    /// No sweep of the backend shows such a stray.
    pub fn ignore(&self, backend: &BackendId, id: &CloudId) -> Result<(), Refusal> {
        let mut state = self.state();
        let stray = state.backends.get_mut(backend).and_then(|known| known.memory.strays.get_mut(id));
        let Some(stray) = stray else { return Err(no_stray(backend, id)) };
        stray.held_back = HeldBack::Ignored;
        state.ignored.insert((backend.clone(), id.clone()));
        Ok(())
    }

    /// Removes an orphan at once, on a person's word; refused for what any operation has or may have.
    ///
    /// # Errors
    /// It is no orphan, or ledger or backend cannot be asked.
    pub async fn remove(&self, backend: &BackendId, id: &CloudId) -> Result<(), Refusal> {
        let parts = self.parts();
        let poller = parts.pollers.of(backend).map_err(|_| no_stray(backend, id))?;
        let backend = poller.backend();
        let Some(observed) = self.describe(backend, id).await? else { return Err(no_stray(&backend.id, id)) };
        let Some(identity) = parts.deployment.identify(&observed.name) else {
            return Err(Refusal::new(
                ErrorCode::Conflict,
                "its name is not one of this deployment; it is never removed",
            ));
        };
        if self.is_imported(backend, id).await != Some(false) || parts.fleet.record_at(&backend.id, id).is_some() {
            return Err(Refusal::new(ErrorCode::Conflict, "an operation has it; delete the instance instead"));
        }
        let held = self.held(self.tenants_by_hash().get(&identity.tenant_hash), &identity.op_id).await;
        let shown = Shown { id: id.clone(), identity, observed, held };
        match reconcile::classify(&shown, parts.clock.now()).0 {
            Class::Orphan | Class::Returned => {}
            Class::Unread => return Err(unread()),
            other => {
                let why = format!("it is {}, not orphan: its operation decides about it", other.as_str());
                return Err(Refusal::new(ErrorCode::Conflict, why));
            }
        }
        if parts.ledger.standing() != Standing::Serving {
            return Err(unread());
        }
        self.delete(backend, id, &shown.observed.name, "by hand").await;
        Ok(())
    }

    /// What a backend shows of an instance now.
    pub(super) async fn describe(&self, backend: &Backend, id: &CloudId) -> Result<Option<Observed>, Refusal> {
        let found = backend.describe(vec![id.clone()]).await.map_err(|error| {
            let code =
                if error.kind.is_region_fault() { ErrorCode::RegionUnavailable } else { ErrorCode::BackendError };
            Refusal::new(code, format!("backend {} cannot be asked: {error}", backend.id))
        })?;
        Ok(found.into_iter().find(|o| o.id.as_ref() == Some(id)))
    }
}

/// A look-up that failed, for a person who asked.
pub(super) fn unread() -> Refusal {
    store_refusal(&LedgerError::Unavailable("it could not be read".to_owned()))
}

fn no_stray(backend: &BackendId, id: &CloudId) -> Refusal {
    Refusal::new(ErrorCode::NotFound, format!("backend {backend} shows no stray {id}"))
}

fn counts(memory: &Memory) -> BTreeMap<Class, usize> {
    let mut counts: BTreeMap<Class, usize> = BTreeMap::new();
    for stray in memory.strays.values() {
        *counts.entry(stray.class).or_default() += 1;
    }
    if !memory.missing.is_empty() {
        counts.insert(Class::Missing, memory.missing.len());
    }
    counts
}

/// What happens next with a stray, for people.
fn next_of(class: Class, held_back: HeldBack) -> &'static str {
    match held_back {
        HeldBack::Nothing if class == Class::Orphan => "its delete is repeated until a complete sweep does not show it",
        HeldBack::Nothing | HeldBack::Driver => "its operation's driver removes it and proves it gone",
        HeldBack::ReportOnly => "nothing: orphans are only reported; adopt it, remove it, or set reconcile.orphans",
        HeldBack::Quarantine => "it is removed when it was seen long and often enough",
        HeldBack::Distrusted => "it waits for a sweep that can be believed",
        HeldBack::Ledger => "it waits for a ledger that answers and holds something",
        HeldBack::Mass => "nothing before a person has looked: so many names without a record speak against the ledger",
        HeldBack::Brake => "it is removed when the brake of its region allows it",
        HeldBack::Ignored => "nothing: a person said to leave it",
        HeldBack::NoTenant => "nothing: no tenant has the hash in its name; configure the tenant, or remove it by hand",
        HeldBack::Leaving => "the vendor is removing it",
        HeldBack::Follower => "the gateway that leads the backend's sweeps decides",
        HeldBack::Person => "nothing before a person has looked",
    }
}
