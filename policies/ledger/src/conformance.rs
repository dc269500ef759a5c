//! The suite that every ledger must pass, and a ledger in memory that is the model of all of them.
//!
//! Each case gets a fresh ledger and fails by a panic. The suite says what the trait promises; what a store adds
//! (a restart, a crash, a seal) is tested beside that store.
#![expect(clippy::panic, reason = "a case fails by panicking")]

mod cases;
mod documents;
mod memory;
pub mod redis_server;
mod shared;

use std::{sync::Arc, time::Duration};

use meridian_model::{
    ids::{InstanceName, InstanceUid, OperationId, TenantId},
    instance::{Container, EnvVar, InstanceSpec, Shape},
    operation::{Attempt, AttemptState, Charge, OperationRecord, OperationState, PROJECT},
    quantity::{MemoryMib, MilliCpu},
    time::Time,
};
use meridian_policies::quota::{Beside, charge_of};

pub use self::{
    documents::{documents_suite, put as put_document},
    memory::MemoryLedger,
    shared::shared_suite,
};
use crate::{Claim, Claimed, Ledger, Step, Stepped};

/// Runs every case against a ledger of its own and returns how many there were.
///
/// # Panics
/// When a case fails; the case is named in the output of the test before.
pub async fn suite<F: AsyncFn() -> Arc<dyn Ledger>>(make: F) -> usize {
    let mut run = 0;
    for (name, case) in cases::all() {
        // Shown by the test runner only when the suite fails: the last line names the case.
        #[expect(clippy::print_stderr, reason = "names the failing case")]
        {
            eprintln!("conformance: {name}");
        }
        case(make().await).await;
        run += 1;
    }
    run
}

/// When the suite's histories begin.
pub const START: Time = Time::from_unix_ms(1_767_225_600_000);

/// `START` and some seconds.
#[must_use]
pub fn at(seconds: u64) -> Time {
    START + Duration::from_secs(seconds)
}

/// Parses an identifier of a test.
///
/// # Panics
/// The text is not one.
pub fn id<T: std::str::FromStr<Err = meridian_model::ids::IdError>>(text: &str) -> T {
    text.parse().unwrap_or_else(|e| panic!("{e}"))
}

/// A claim at `START` by owner `owner-a` with a lease of ten seconds; the fingerprint follows from the name.
#[must_use]
pub fn sample_claim(tenant: &str, op: &str, name: &str) -> Claim {
    let env = vec![EnvVar { name: "TOKEN".to_owned(), value: format!("canary-{op}") }];
    let container = Container { name: "main".to_owned(), image: "nginx:1".to_owned(), env, ..Container::default() };
    Claim {
        tenant: id::<TenantId>(tenant),
        op_id: id::<OperationId>(op),
        uid: id::<InstanceUid>(&format!("inst_{op}")),
        name: id::<InstanceName>(name),
        fingerprint: format!("fp-{name}"),
        labels: [("app".to_owned(), name.to_owned())].into(),
        annotations: std::collections::BTreeMap::new(),
        spec: Arc::new(InstanceSpec { containers: vec![container], ..InstanceSpec::default() }),
        owner: "owner-a".to_owned(),
        now: START,
        lease: Duration::from_secs(10),
    }
}

/// An attempt that runs in a region of an adapter; of the size and price of [`one_instance`] of a core.
#[must_use]
pub fn attempt_at(n: u32, provider: &str, region: &str, gpu_model: Option<&str>) -> Attempt {
    let shape = Shape {
        cpu: MilliCpu(1000),
        memory: MemoryMib(2000),
        gpu_type: gpu_model.map(str::to_owned),
        gpu_count: u32::from(gpu_model.is_some()),
    };
    Attempt {
        n,
        backend: id(provider),
        adapter: id(provider),
        region: id(region),
        zone: id(region),
        token: id("token"),
        name: id(&format!("cloud-{n}")),
        takes: Some(charge_of(&shape, Beside::default())),
        shape,
        price: None,
        state: AttemptState::Running,
        started_at: START,
        armed_at: START,
        sends: 1,
        cloud_id: None,
        place_until: None,
        fault: None,
        changed_at: START,
    }
}

/// The record with an attempt in a region, charged to a project.
#[must_use]
pub fn placed(
    mut record: Box<OperationRecord>,
    (project, provider, region): (Option<&str>, &str, &str),
    charge: Charge,
) -> Box<OperationRecord> {
    record.annotations.extend(project.map(|name| (PROJECT.to_owned(), name.to_owned())));
    let n = u32::try_from(record.attempts.len()).unwrap_or_default() + 1;
    for attempt in &mut record.attempts {
        attempt.state = AttemptState::Absent;
    }
    record.attempts.push(attempt_at(n, provider, region, (charge.gpu > 0).then_some("T4")));
    record.state = OperationState::Placing;
    record.charge = charge;
    record
}

/// A charge of one instance of so many thousandths of a core.
#[must_use]
pub fn one_instance(cpu: u64) -> Charge {
    Charge { instances: 1, cpu: MilliCpu(cpu), memory: MemoryMib(cpu * 2), ..Charge::default() }
}

/// Claims and expects the operation to be new.
///
/// # Panics
/// It is not.
pub async fn claim_new(ledger: &dyn Ledger, claim: Claim) -> Box<OperationRecord> {
    match ledger.claim(claim).await {
        Ok(Claimed::New(record)) => record,
        other => panic!("expected a new claim: {other:?}"),
    }
}

/// Steps and expects the step to be written.
///
/// # Panics
/// It is not.
pub async fn write(ledger: &dyn Ledger, next: Box<OperationRecord>) -> Box<OperationRecord> {
    match ledger.step(Step::within(next)).await {
        Ok(Stepped::Written(record)) => record,
        other => panic!("expected a written step: {other:?}"),
    }
}

/// The record of an operation that failed and left nothing.
#[must_use]
pub fn failed(mut record: Box<OperationRecord>, now: Time) -> Box<OperationRecord> {
    record.state = OperationState::Failed;
    record.charge = Charge::default();
    record.due = None;
    record.updated_at = now;
    record
}
