//! Import: an operation for an instance that was there before it, an orphan of ours or a foreign one.
//!
//! The claim makes a record that never creates anything; one step then takes the instance in as adopted and charges it.
//! A crash between the two leaves a claim that fails by itself. From then on the instance is its tenant's: read,
//! charged and deleted like any other, and found by its id, because its name may be anybody's.

use std::{fmt::Write as _, sync::Arc};

use meridian_ledger::{Claim, Claimed, Step, Stepped};
use meridian_model::{
    error::ErrorCode,
    ids::{BackendId, CloudId, CloudName, InstanceName, OperationId, TenantId, ZoneId},
    instance::{Container, GpuCount, InstanceSpec, ResourceList, Resources},
    operation::{Attempt, AttemptState, IMPORTED, OperationRecord, OperationState},
    status::{Observed, ObservedPhase},
    time::Time,
};
use meridian_policies::quota::{self, Beside};
use sha2::{Digest as _, Sha256};

use super::{
    driver::Driver,
    identity::{self, Deployment},
    machine,
    reconcile::{self, Class, Held, Shown},
    reconciler::{Reconciler, unread},
    running::Key,
};
use crate::{
    operation::{Refusal, store_refusal, write_refusal},
    planner::quota_problem,
    regions::Backend,
};

/// Imports of one instance into one tenant: those before the last were interrupted or refused.
const IMPORTS_MAX: u32 = 16;

/// What stands for the image, which no backend tells.
const UNKNOWN_IMAGE: &str = "unknown";

/// A wish to import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// Where the instance is.
    pub backend: BackendId,
    /// The vendor's id.
    pub cloud_id: CloudId,
    /// Whose it becomes.
    pub tenant: TenantId,
    /// What it is called from now on.
    pub name: InstanceName,
    /// Also when the tenant's limits do not hold it.
    pub force: bool,
    /// Also when it is of this other deployment ([`Deployment::mark`]), of which somebody knows that it is gone for good.
    pub from_deployment: Option<String>,
}

impl Import {
    fn source(&self) -> String {
        format!("{}/{}", self.backend, self.cloud_id)
    }

    /// The same import repeated has the same.
    fn fingerprint(&self) -> String {
        let text = ["import", self.backend.as_str(), self.cloud_id.as_str(), self.name.as_str()].join("\0");
        Sha256::digest(text).iter().fold(String::new(), |mut hex, byte| {
            // Writing to a String cannot fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }
}

/// The operation of the `k`-th import of an instance.
fn operation(deployment: &Deployment, tenant: &TenantId, source: &str, k: u32) -> Result<OperationId, Refusal> {
    deployment.operation_id(tenant, "IMPORT", &format!("{source}#{k}")).map_err(Refusal::internal)
}

/// Keeps the claim of an import from being driven while the import is written. However it ends, also by a caller who
/// goes away, the claim is looked at after it: one that is left over is given up then.
struct Writing {
    driver: Driver,
    key: Key,
}

impl Writing {
    /// None when another request of this process is at it.
    fn begin(driver: &Driver, key: Key) -> Option<Self> {
        let new = driver.0.registry().importing.insert(key.clone());
        new.then(|| Self { driver: driver.clone(), key })
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        let mut registry = self.driver.0.registry();
        registry.importing.remove(&self.key);
        registry.fallen.insert(self.key.clone());
    }
}

fn conflict(why: impl Into<String>) -> Refusal {
    Refusal::new(ErrorCode::Conflict, why)
}

impl Reconciler {
    /// Whether an operation that an import made has the instance; `None` when the ledger cannot tell.
    pub(super) async fn is_imported(&self, backend: &Backend, id: &CloudId) -> Option<bool> {
        self.is_imported_beside(backend, id, None).await
    }

    /// The same, whatever one tenant has.
    async fn is_imported_beside(&self, backend: &Backend, id: &CloudId, but: Option<&TenantId>) -> Option<bool> {
        let source = format!("{}/{id}", backend.id);
        for tenant in self.tenants_by_hash().into_values().filter(|tenant| Some(tenant) != but) {
            for k in 0..IMPORTS_MAX {
                let op = operation(&self.parts().deployment, &tenant, &source, k).ok()?;
                match self.parts().ledger.operation(&tenant, &op).await.ok()? {
                    Some(record) if !record.is_gone() => return Some(true),
                    Some(_) => {}
                    None => break,
                }
            }
        }
        Some(false)
    }

    /// Makes an operation for an instance that exists. Repeating it gives the same record.
    ///
    /// # Errors
    /// The instance does not exist or does not run, something has it, the name is taken, or the quota does not hold it.
    pub async fn import(&self, wish: &Import) -> Result<Box<OperationRecord>, Refusal> {
        let parts = self.parts();
        if self.limits(&wish.tenant).is_none() {
            return Err(Refusal::new(ErrorCode::NotFound, format!("there is no tenant {}", wish.tenant)));
        }
        let poller = parts.pollers.of(&wish.backend);
        let poller =
            poller.map_err(|_| Refusal::new(ErrorCode::NotFound, format!("there is no backend {}", wish.backend)))?;
        let backend = poller.backend();
        if let Some(done) = self.imported_before(wish).await? {
            return Ok(done);
        }
        let Some(seen) = self.describe(backend, &wish.cloud_id).await? else {
            let why = format!("backend {} shows no instance {}", wish.backend, wish.cloud_id);
            return Err(Refusal::new(ErrorCode::NotFound, why));
        };
        if !seen.phase.proves_capacity() || seen.phase.is_ended() || seen.phase == ObservedPhase::Terminating {
            return Err(conflict(format!("it is {}; only what runs can be imported", seen.phase.as_str())));
        }
        no_deployment_has(&parts.deployment, &seen, wish.from_deployment.as_deref())?;
        self.nobody_has(backend, wish, &seen).await?;
        let (claimed, _writing) = self.claim_import(wish, &seen).await?;
        // Each claims before it looks again, so of two at once the later one sees the other. Who does gives way, even
        // if both do: the other may have looked before.
        if let Err(had) = self.nobody_has(backend, wish, &seen).await {
            let problem = had.problem.clone();
            self.step(Step::within(Box::new(machine::failed(*claimed, *problem, parts.clock.now())))).await?;
            return Err(had);
        }
        let taken_in = |now: Time| taken_in((*claimed).clone(), (&parts.deployment, backend), &seen, now);
        let next = taken_in(parts.clock.now()).map_err(Refusal::internal)?;
        // By force it is charged in the same one step, whatever the limits are: nothing else slips in.
        match self.step(Step { next: Box::new(next), over_quota: wish.force }).await? {
            Stepped::Written(record) => {
                tracing::warn!(
                    audit = true,
                    backend = %wish.backend,
                    cloud.id = %wish.cloud_id,
                    meridian.tenant.id = %wish.tenant,
                    instance = %wish.name,
                    forced = wish.force,
                    from_deployment = wish.from_deployment.as_deref().unwrap_or_default(),
                    "an instance was imported"
                );
                parts.fleet.put(Arc::new((*record).clone()));
                Ok(record)
            }
            Stepped::QuotaExceeded(shortage) => {
                let problem = quota_problem(shortage);
                let failed = machine::failed(*claimed, problem.clone(), parts.clock.now());
                self.step(Step::within(Box::new(failed))).await?;
                Err(problem.into())
            }
            Stepped::Fenced | Stepped::Changed(_) => {
                Err(conflict("somebody changed the operation meanwhile; repeat it"))
            }
        }
    }

    async fn step(&self, step: Step) -> Result<Stepped, Refusal> {
        let op = step.next.op_id.clone();
        self.parts().ledger.step(step).await.map_err(|e| write_refusal(&e, op))
    }

    /// The record of an import that was made before, if it still has the instance.
    async fn imported_before(&self, wish: &Import) -> Result<Option<Box<OperationRecord>>, Refusal> {
        let Some((_, record)) = self.last_import(wish).await? else { return Ok(None) };
        match record {
            Some(record) if record.state == OperationState::Succeeded && record.name == wish.name => Ok(Some(record)),
            Some(record) if record.state.is_final() => Err(conflict(format!("it was imported as {}", record.name))),
            Some(_) => Err(conflict("an import of it is under way; repeat it in a moment")),
            None => Ok(None),
        }
    }

    /// The first import whose record is not over: its number, and the record if there is one. `None` after too many.
    async fn last_import(&self, wish: &Import) -> Result<Option<(u32, Option<Box<OperationRecord>>)>, Refusal> {
        for k in 0..IMPORTS_MAX {
            let op = operation(&self.parts().deployment, &wish.tenant, &wish.source(), k)?;
            let found = self.parts().ledger.operation(&wish.tenant, &op).await.map_err(|e| store_refusal(&e))?;
            if found.as_ref().is_none_or(|record| !record.is_gone()) {
                return Ok(Some((k, found)));
            }
        }
        Ok(None)
    }

    /// That nothing has the instance, whatever imports the tenant itself has begun.
    async fn nobody_has(&self, backend: &Backend, wish: &Import, seen: &Observed) -> Result<(), Refusal> {
        let parts = self.parts();
        let had = || conflict("an operation has this instance already");
        if parts.fleet.record_at(&backend.id, &wish.cloud_id).is_some() {
            return Err(had());
        }
        match self.is_imported_beside(backend, &wish.cloud_id, Some(&wish.tenant)).await {
            Some(false) => {}
            Some(true) => return Err(had()),
            None => return Err(unread()),
        }
        let Some(identity) = parts.deployment.identify(&seen.name) else { return Ok(()) };
        let held = self.held(self.tenants_by_hash().get(&identity.tenant_hash), &identity.op_id).await;
        let shown = Shown { id: wish.cloud_id.clone(), identity, observed: seen.clone(), held };
        match (reconcile::classify(&shown, parts.clock.now()).0, &shown.held) {
            (Class::Orphan | Class::Returned, _) => Ok(()),
            (_, Held::Unread) => Err(unread()),
            (class, _) => Err(conflict(format!("it is {}: its operation decides about it", class.as_str()))),
        }
    }

    async fn claim_import(&self, wish: &Import, seen: &Observed) -> Result<(Box<OperationRecord>, Writing), Refusal> {
        let parts = self.parts();
        let now = parts.clock.now();
        let Some((k, _)) = self.last_import(wish).await? else {
            return Err(conflict("it was imported and refused too often"));
        };
        let under_way = || conflict("another import of it is under way; repeat it");
        let op_id = operation(&parts.deployment, &wish.tenant, &wish.source(), k)?;
        let key = (wish.tenant.clone(), op_id.clone());
        let writing = Writing::begin(self.driver(), key).ok_or_else(under_way)?;
        let claim = Claim {
            tenant: wish.tenant.clone(),
            op_id,
            uid: identity::instance_uid(now, parts.entropy.next()).map_err(Refusal::internal)?,
            name: wish.name.clone(),
            fingerprint: wish.fingerprint(),
            labels: Default::default(),
            annotations: [(IMPORTED.to_owned(), wish.source())].into(),
            spec: Arc::new(spec_of(seen)),
            owner: self.driver().owner().to_owned(),
            now,
            lease: self.driver().lease(),
        };
        let op = claim.op_id.clone();
        match parts.ledger.claim(claim).await.map_err(|e| write_refusal(&e, op))? {
            Claimed::New(record) => Ok((record, writing)),
            Claimed::NameTaken(_) => {
                let why = format!("tenants/{}/instances/{} exists already", wish.tenant, wish.name);
                Err(Refusal::new(ErrorCode::AlreadyExists, why))
            }
            Claimed::Joined(_) | Claimed::KeyReused(_) => Err(under_way()),
        }
    }
}

/// The variable that every Meridian puts into its instances.
const UID_MARK: &str = "MERIDIAN_UID";

/// What stands for a deployment that only the variables of an instance tell of.
const UNNAMED: &str = "unknown";

/// The other Meridian deployment that an instance is of.
fn anothers<'a>(own: &Deployment, seen: &'a Observed) -> Option<&'a str> {
    let is_marked = seen.marks.contains_key(UID_MARK) || seen.tags.contains_key(UID_MARK);
    Deployment::maker(&seen.name).or_else(|| is_marked.then_some(UNNAMED)).filter(|maker| *maker != own.mark())
}

/// That an instance is of no other deployment, or of the one that the operator names. Two that have one instance both
/// charge it, and either deletes it under the other; `force` does not allow it, since that is said of limits, and before
/// anybody knows whose the instance is.
fn no_deployment_has(own: &Deployment, seen: &Observed, named: Option<&str>) -> Result<(), Refusal> {
    let Some(other) = anothers(own, seen).filter(|other| Some(*other) != named) else { return Ok(()) };
    Err(conflict(format!(
        "it is of another Meridian deployment, {other}, which may delete it at any time: delete it there; or, if that \
         deployment is gone for good, repeat the import with fromDeployment \"{other}\" (--from-deployment {other})"
    )))
}

/// A wish that describes what was found, as far as a backend shows it.
fn spec_of(seen: &Observed) -> InstanceSpec {
    let of = |name: &str| Container { name: name.to_owned(), image: UNKNOWN_IMAGE.to_owned(), ..Container::default() };
    let mut containers: Vec<_> = seen.containers.iter().filter(|c| !c.init).map(|c| of(&c.name)).collect();
    if containers.is_empty() {
        containers.push(of("main"));
    }
    let gpu = (seen.shape.gpu_count > 0).then_some(GpuCount(seen.shape.gpu_count));
    let requests =
        ResourceList { cpu: Some(seen.shape.cpu), memory: Some(seen.shape.memory), gpu, ..Default::default() };
    InstanceSpec {
        containers,
        resources: Resources { requests, ..Resources::default() },
        gpu_type: seen.shape.gpu_type.clone(),
        ..InstanceSpec::default()
    }
}

/// The claimed record with the instance as its adopted one, charged with what it really takes.
fn taken_in(
    mut record: OperationRecord,
    (deployment, backend): (&Deployment, &Backend),
    seen: &Observed,
    now: Time,
) -> Result<OperationRecord, meridian_model::ids::IdError> {
    let n = machine::next_number(&record);
    let (tenant, op) = (record.tenant.clone(), record.op_id.clone());
    // A name that the type does not hold is never looked for: the instance has an id.
    let name = CloudName::new(&seen.name).or_else(|_| deployment.cloud_name(&tenant, &op, n, record.epoch))?;
    let zone = seen.zone.clone().or_else(|| backend.zones.first().cloned());
    let beside = Beside { public_ip: seen.public_ip.is_some(), ..Beside::default() };
    let charge = quota::charge_of(&seen.shape, beside);
    record.attempts.push(Attempt {
        n,
        backend: backend.id.clone(),
        adapter: backend.adapter.clone(),
        region: backend.region.clone(),
        zone: zone.map_or_else(|| ZoneId::new("unknown"), Ok)?,
        token: Deployment::client_token(&op, n, &backend.id, record.epoch)?,
        name,
        shape: seen.shape.clone(),
        price: None,
        takes: Some(charge),
        state: AttemptState::Running,
        started_at: now,
        armed_at: now,
        sends: 0,
        cloud_id: seen.id.clone(),
        place_until: None,
        fault: None,
        changed_at: now,
    });
    record.state = OperationState::Succeeded;
    record.charge = charge;
    record.ran_at = Some(now);
    record.adopted = Some(seen.clone());
    record.last_seen = Some((now, seen.clone()));
    record.due = None;
    record.updated_at = now;
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_an_instance_is_stands_in_its_name_or_in_its_variables() {
        let own = Deployment::new("own", b"secret");
        let other = Deployment::new("other", b"secret");
        let (tenant, op) = ("acme".parse().unwrap(), "a".repeat(26).parse().unwrap());
        let named = |d: &Deployment| d.cloud_name(&tenant, &op, 1, 1).unwrap().to_string();
        let marked = |key: &str| [(key.to_owned(), "x".to_owned())].into();
        let seen = |name: &str| Observed { name: name.to_owned(), ..Observed::default() };
        for (what, seen, expected) in [
            ("ours", Observed { marks: marked(UID_MARK), ..seen(&named(&own)) }, None),
            ("foreign", Observed { marks: marked("PATH"), ..seen("legacy-db") }, None),
            ("another's", seen(&named(&other)), Some(other.mark())),
            (
                "a name that was cut, with variables",
                Observed { marks: marked(UID_MARK), ..seen("m1-x") },
                Some(UNNAMED),
            ),
            ("tags", Observed { tags: marked(UID_MARK), ..seen("web") }, Some(UNNAMED)),
        ] {
            assert_eq!(anothers(&own, &seen), expected, "{what}");
            assert_eq!(no_deployment_has(&own, &seen, None).is_err(), expected.is_some(), "{what}");
            assert!(no_deployment_has(&own, &seen, expected).is_ok(), "{what}, named");
        }
    }
}
