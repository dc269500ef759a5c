//! The reconciler: takes in what the sweeps of each backend show, has [`reconcile`] decide, and does it.
//!
//! One task per backend, so that a dead one holds up no other. Only the gateway that leads the backend's sweeps judges
//! them and acts; it tells the others what it made of them (`judgement`), so that each can say the same (`listing`), and
//! forgets it when it leads no more. What a live operation has to do with goes through
//! its record and its driver, which the fence protects; only an orphan, which has no record, is deleted from here, with
//! an audit line, again with each sweep until a complete one does not show it. How many removals may begin is drawn from
//! what all gateways share (`budget`), and so is what a person said to leave alone (`ignored`).

use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use meridian_ledger::{LedgerError, Standing, shared::Shared};
use meridian_model::{
    error::ErrorCode,
    ids::{BackendId, CloudId, OperationId, TenantId},
    operation::QuotaLimits,
    status::Observed,
};
use meridian_policies::budget::{self, Purpose};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    budget::Budget,
    driver::{Driver, Parts},
    identity::tenant_hash,
    ignored::Ignored,
    judgement::{self, Judgement, Sweep},
    reconcile::{self, Action, Class, Grant, Held, Key, Memory, Now, Rules, Shown, Verdict, View, allowance},
    sending::delete,
};
use crate::{
    config::{Orphans, Reconcile},
    directory::Directory,
    operation::{Refusal, store_refusal},
    regions::Backend,
    status::{board::ms, poll::Poller, sweep::SweepReport},
};

/// Names of one sweep that the ledger is read for; the fleet knows nearly all. The rest has its turn with the next ones.
const READS_MAX: usize = 1000;

/// How long a deployment id must have been in use at a backend before its orphans are removed unasked
/// (RELIABILITY 2.8).
const REPORT_ONLY: Duration = Duration::from_secs(7 * 24 * 3600);

/// An orphan is removed for nobody, as other instances are.
const REMOVAL: Purpose = Purpose::gateway(budget::Class::Delete);

/// Looks before something is removed, lost or imported.
const LOOK: Purpose = Purpose::gateway(budget::Class::Read);

/// Finds out what runs without an operation, and what does not run although an operation has it.
#[derive(Debug, Clone)]
pub struct Reconciler(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    driver: Driver,
    /// The tenants there are, with their limits.
    directory: Arc<Directory>,
    settings: Reconcile,
    gateway: String,
    budget: Budget,
    ignored: Ignored,
    began: Instant,
    state: Mutex<State>,
}

type State = BTreeMap<BackendId, Known>;

/// What is known of a backend.
#[derive(Debug, Default)]
struct Known {
    memory: Memory,
    /// The term in which it came to be known.
    term: u64,
    /// The last name whose turn it was to be looked up in the ledger.
    looked_at: Option<CloudId>,
}

impl Reconciler {
    /// A reconciler that knows nothing yet; it works with what the driver works with, and tells the gateways that share
    /// something with this one of what it finds. The name is this gateway's among them.
    #[must_use]
    pub fn new(
        driver: Driver,
        directory: Arc<Directory>,
        settings: Reconcile,
        (shared, gateway): (Arc<dyn Shared>, String),
    ) -> Self {
        let budget = Budget::new(Arc::clone(&shared));
        let ignored = Ignored::new(shared, gateway.clone());
        let (began, state) = (Instant::now(), Mutex::default());
        Self(Arc::new(Inner { driver, directory, settings, gateway, budget, ignored, began, state }))
    }

    /// This gateway's name among those that judge.
    #[must_use]
    pub fn gateway(&self) -> &str {
        &self.0.gateway
    }

    pub(super) fn ignored(&self) -> &Ignored {
        &self.0.ignored
    }

    /// Removals that a small region may always have.
    pub(super) fn removals_min(&self) -> usize {
        self.0.settings.removals_min
    }

    pub(super) fn driver(&self) -> &Driver {
        &self.0.driver
    }

    pub(super) fn parts(&self) -> &Parts {
        &self.0.driver.0.parts
    }

    /// The declared limits of a tenant; `None` when there is no such tenant.
    pub(super) fn limits(&self, tenant: &TenantId) -> Option<QuotaLimits> {
        self.0.directory.load().quota(tenant)
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
            let mut judged: Option<(BackendId, u64)> = None;
            loop {
                let over = async {
                    match judged.as_ref().and_then(|(at, term)| Some((self.parts().pollers.of(at).ok()?, *term))) {
                        Some((poller, term)) => poller.term_over(term).await,
                        None => pending().await,
                    }
                };
                tokio::select! {
                    biased;
                    report = reports.recv() => {
                        let Some(report) = report else { return };
                        judged = Some((report.backend.clone(), report.term));
                        self.take_in(report).await;
                    }
                    () = over => {
                        if let Some((backend, _)) = judged.take() {
                            self.forget(&backend);
                        }
                    }
                }
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = work => {}
        }
    }

    /// Forgets what it knew of a backend whose sweeps another gateway judges now.
    fn forget(&self, backend: &BackendId) {
        if let Some(known) = self.state().get_mut(backend) {
            known.memory.forget();
        }
        for class in Class::STRAYS {
            self.parts().metrics.reconcile.strays(backend.as_str(), class.as_str(), 0);
        }
    }

    async fn take_in(&self, report: SweepReport) {
        let Ok(poller) = self.parts().pollers.of(&report.backend) else { return };
        let backend = poller.backend();
        self.begin_term(poller, report.term);
        let (view, removes) = self.look(backend, &report).await;
        let verdict = self.decide(backend, &view, &report, removes).await;
        if verdict.violations > 0 {
            self.parts().metrics.reconcile.violations(backend.id.as_str(), verdict.violations);
            tracing::error!(backend = %backend.id, count = verdict.violations, "one operation has a second instance; it is removed");
        }
        self.tell(poller, &view, &report, removes).await;
        for action in verdict.actions {
            // Looking took its time. What somebody else judges now, somebody else does.
            if !poller.leads_in(report.term) {
                return;
            }
            self.act(poller, action).await;
        }
    }

    /// Begins anew in a new term, but for the second instances that whoever judged before has counted.
    fn begin_term(&self, poller: &Poller, term: u64) {
        let mut state = self.state();
        let known = state.entry(poller.backend().id.clone()).or_default();
        if known.term == term {
            return;
        }
        known.term = term;
        known.memory.forget();
        let said = poller.judged().and_then(|(_, said)| serde_json::from_slice::<Judgement>(&said).ok());
        for told in said.into_iter().flat_map(|said| said.strays).filter(|told| told.class == Class::Duplicate) {
            known.memory.count(told.op, told.id);
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
        let (by_hash, mut unknown) = (self.tenants_by_hash(), BTreeSet::new());
        for observed in &report.shown {
            let Some((id, identity)) = observed.id.clone().zip(parts.deployment.identify(&observed.name)) else {
                continue;
            };
            let known = parts.fleet.record_at(&backend.id, &id).is_some();
            if !known {
                unknown.insert(id.clone());
            }
            let held = if known { Held::Current } else { Held::Unread };
            view.shown.push(Shown { id, identity, observed: observed.clone(), held });
        }
        let turn = self.turn(&backend.id, &unknown);
        for shown in view.shown.iter_mut().filter(|shown| turn.contains(&shown.id)) {
            shown.held = self.held(by_hash.get(&shown.identity.tenant_hash), &shown.identity.op_id).await;
        }
        view.holds_any = match turn.len() {
            0 => true,
            _ => parts.ledger.records(None, 1).await.is_ok_and(|page| !page.records.is_empty()),
        };
        // Asked last: what was read before is only worth something if the ledger still serves.
        view.serving = parts.ledger.standing() == Standing::Serving;
        (view, removes)
    }

    /// Those of the names that the fleet does not know whose turn it is to be looked up.
    fn turn(&self, backend: &BackendId, unknown: &BTreeSet<CloudId>) -> BTreeSet<CloudId> {
        let mut state = self.state();
        let known = state.entry(backend.clone()).or_default();
        let (turn, last) = reconcile::turn(unknown, known.looked_at.as_ref(), READS_MAX);
        known.looked_at = last;
        turn
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

    /// The tenants there are and those that have instances, by the hash in cloud names.
    pub(super) fn tenants_by_hash(&self) -> BTreeMap<String, TenantId> {
        let mut known = self.parts().fleet.tenants();
        known.extend(self.0.directory.load().tenants().map(|(name, _)| name.clone()));
        known.into_iter().map(|tenant| (tenant_hash(&tenant), tenant)).collect()
    }

    fn rules(&self, backend: &Backend, removes: bool) -> Rules {
        let settings = &self.0.settings;
        Rules {
            removes,
            quarantine: settings.quarantine.0,
            effect_bound: backend.effect_bound(),
            lost_sweeps: settings.lost_sweeps,
            removals_min: settings.removals_min,
            brake_window: settings.brake_window.0,
            ignored: settings.keep.iter().cloned().chain(self.0.ignored.of(&backend.id)).collect(),
        }
    }

    /// Decides twice: first, and without effect, to know how many removals to draw, then with what was granted.
    async fn decide(&self, backend: &Backend, view: &View, report: &SweepReport, removes: bool) -> Verdict {
        let heard = self.0.ignored.refresh().await;
        let (rules, now) = (self.rules(backend, removes), self.now());
        let allowed = allowance(view.fleet, rules.removals_min);
        let judge = |memory: &mut Memory, grant| reconcile::reconcile(view, report, (memory, grant), &rules, now);
        let mut tried = self.state().entry(backend.id.clone()).or_default().memory.clone();
        let grant = match judge(&mut tried, Grant::Of(allowed)).begun {
            // Who does not hear what a person said to leave alone removes nothing.
            _ if !heard => Grant::Away,
            0 => Grant::Of(0),
            wanted => self.0.budget.draw(&backend.region, wanted, allowed, rules.brake_window).await,
        };
        judge(&mut self.state().entry(backend.id.clone()).or_default().memory, grant)
    }

    /// Tells all gateways, this one included, how the sweep was judged.
    async fn tell(&self, poller: &Poller, view: &View, report: &SweepReport, removes: bool) {
        let (backend, parts, now) = (poller.backend(), self.parts(), self.parts().clock.now());
        let by_hash = self.tenants_by_hash();
        let tenant_of = |name: &str| by_hash.get(&parts.deployment.identify(name)?.tenant_hash).cloned();
        let allowed = allowance(view.fleet, self.0.settings.removals_min);
        let judgement = {
            let mut state = self.state();
            let memory = &state.entry(backend.id.clone()).or_default().memory;
            Judgement {
                by: self.0.gateway.clone(),
                sweep: Sweep {
                    started_ago_ms: ms(now.since(report.started_at)),
                    trusted: report.trusted,
                    ledger_serving: view.serving,
                    listed: report.listed.len(),
                    shown: view.shown.len(),
                    expected: view.expected.len(),
                    removes_orphans: removes,
                },
                removals_left: self.0.budget.left(&backend.region, allowed),
                counts: judgement::counts(memory),
                strays: judgement::strays(memory, now, tenant_of),
            }
        };
        for class in Class::STRAYS {
            let count = judgement.counts.get(&class).copied().unwrap_or(0);
            parts.metrics.reconcile.strays(backend.id.as_str(), class.as_str(), count);
        }
        match serde_json::to_vec(&judgement) {
            Ok(said) => poller.judge_so(report.term, said).await,
            Err(error) => tracing::warn!(%error, "a judgement cannot be told"),
        }
    }

    async fn act(&self, poller: &Poller, action: Action) {
        let backend = poller.backend();
        match action {
            Action::Wake(key) => self.wake(&key).await,
            Action::Condemn { key, observed, class } => self.condemn(backend, &key, &observed, class).await,
            Action::TakeBack { key, observed } => {
                let Some(id) = observed.id.as_ref() else { return };
                if self.is_free(backend, id).await {
                    self.take_back(backend, &key, &observed).await;
                }
            }
            Action::Delete { id, name } => {
                if self.is_free(backend, &id).await {
                    self.delete(backend, &id, &name, "quarantine").await;
                }
            }
            Action::ProveLost { key, id } => self.prove_lost(poller, key, id).await,
        }
    }

    /// Whether it is certain that no import has the instance.
    async fn is_free(&self, backend: &Backend, id: &CloudId) -> bool {
        let free = self.is_imported(backend, id).await == Some(false);
        if !free {
            tracing::warn!(backend = %backend.id, cloud.id = %id, "a stray may have been imported; it is left alone");
        }
        free
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
        if let Err(error) = delete(self.parts(), backend, &REMOVAL, (name, id)).await {
            tracing::warn!(backend = %backend.id, cloud.id = %id, %error, "the removal failed; the next sweep repeats it");
        }
    }

    /// Asks for an adopted instance that sweeps do not show; without it the operation has lost it.
    async fn prove_lost(&self, poller: &Poller, key: Key, id: CloudId) {
        let backend = poller.backend();
        let Ok(sight) = poller.look_at(&id, &LOOK).await else { return };
        if let Some(seen) = sight.found.first() {
            tracing::warn!(backend = %backend.id, cloud.id = %id, phase = seen.phase.as_str(), "sweeps do not show an instance that is there");
            if let Some(known) = self.state().get_mut(&backend.id) {
                known.memory.missing.remove(&key);
            }
            return;
        }
        if sight.proves_absence() {
            self.lose(backend, &key, &id).await;
        }
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
        let found = backend.describe(vec![id.clone()], &LOOK).await.map_err(|error| {
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

pub(super) fn no_stray(backend: &BackendId, id: &CloudId) -> Refusal {
    Refusal::new(ErrorCode::NotFound, format!("backend {backend} shows no stray {id}"))
}
