//! Takes the idempotency key of a create, or joins who has it. After authorisation, so that a replay shows nothing
//! to somebody who may not see it; before planning and quota, so that a replay costs nothing.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use meridian_ledger::Claim;
use meridian_model::{
    error::{ErrorCode, Problem},
    ids::{OperationId, TenantId},
    operation::{OperationRecord, PROJECT},
};
use tokio::{sync::watch, time::Instant};
use tower::{Layer, Service};
use tracing::Instrument as _;

use super::{
    Action, CreateInstance, Operation, Outcome, Refusal,
    authorize::{Admitted, OutcomeFuture},
    store_refusal, write_refusal,
};
use crate::{
    core::Core,
    journal::{begin::Taken, identity},
    telemetry::core::ADMISSION_CLAIM,
};

/// The route part of an operation id.
pub const ROUTE: &str = "POST instances";

/// Seconds a client should wait when the gateway drives as many operations as it can.
const OVERLOADED_RETRY_SECONDS: u32 = 2;

/// The same when its journal is full: notes leave it one by one as they get five minutes old.
const FULL_RETRY_SECONDS: u32 = 15;

/// How long a create waits for its tenant's limits, which are written as soon as the tenant is known: some hundred others may
/// be before it.
const BOUNDED_WITHIN: Duration = Duration::from_secs(2);

/// When to come back if they are not written by then.
const BOUNDED_RETRY_SECONDS: u32 = 1;

/// Work for the innermost service.
#[derive(Debug)]
pub enum Work {
    /// A create whose key is taken: follow its operation.
    Follow(Follow),
    /// Everything else.
    Perform(Admitted),
}

/// A claimed create.
#[derive(Debug)]
pub struct Follow {
    /// How long to wait for the final state.
    pub wait: Duration,
    /// When the request must be answered.
    pub deadline: Instant,
    /// The key in force.
    pub key: Arc<str>,
    /// The record when it was claimed or joined.
    pub record: Arc<OperationRecord>,
    /// Where its changes show, unless it is final or nobody could say.
    pub updates: Option<watch::Receiver<Arc<OperationRecord>>>,
    /// It was final before this request came.
    pub replayed: bool,
}

/// Claims keys.
#[derive(Debug, Clone)]
pub struct ClaimKey<S> {
    inner: S,
    core: Arc<Core>,
}

/// Layer of [`ClaimKey`].
#[derive(Debug, Clone)]
pub struct ClaimKeyLayer(pub Arc<Core>);

impl<S> Layer<S> for ClaimKeyLayer {
    type Service = ClaimKey<S>;

    fn layer(&self, inner: S) -> ClaimKey<S> {
        ClaimKey { inner, core: Arc::clone(&self.0) }
    }
}

impl<S> Service<Admitted> for ClaimKey<S>
where
    S: Service<Work, Response = Outcome, Error = Refusal, Future = OutcomeFuture> + Clone + Send + 'static,
{
    type Response = Outcome;
    type Error = Refusal;
    type Future = OutcomeFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, admitted: Admitted) -> OutcomeFuture {
        match admitted {
            Admitted { operation: Operation { action: Action::CreateInstance(create), deadline, .. }, .. }
                if !create.validate_only =>
            {
                let next = self.inner.clone();
                let mut ready = std::mem::replace(&mut self.inner, next);
                let core = Arc::clone(&self.core);
                Box::pin(async move {
                    let span = tracing::info_span!(ADMISSION_CLAIM);
                    let work = claim(&core, *create, deadline).instrument(span).await?;
                    ready.call(Work::Follow(work)).await
                })
            }
            admitted => self.inner.call(Work::Perform(admitted)),
        }
    }
}

async fn claim(core: &Core, create: CreateInstance, deadline: Instant) -> Result<Follow, Refusal> {
    let wait = create.wait;
    let key: Arc<str> = match &create.idempotency_key {
        Some(key) => Arc::from(key.as_str()),
        None => Arc::from(format!("{:032x}", core.entropy.next())),
    };
    let with_key = |mut refusal: Refusal| {
        refusal.key = Some(Arc::clone(&key));
        refusal
    };
    let op_id = core.deployment.operation_id(&create.tenant, ROUTE, &key).map_err(Refusal::internal)?;
    if !core.driver.has_room() {
        let full =
            Problem::new(ErrorCode::Overloaded, "as many operations are under way as the gateway drives at once");
        return Err(full.with_retry_after(OVERLOADED_RETRY_SECONDS).into());
    }
    until_bounded(core, &create.tenant).await.map_err(with_key)?;
    unless_unsendable(core, &create.tenant, &op_id).await.map_err(with_key)?;
    let now = core.clock.now();
    let mut annotations = create.annotations;
    annotations.extend(create.project.map(|name| (PROJECT.to_owned(), String::from(name))));
    let wish = Claim {
        tenant: create.tenant.clone(),
        op_id,
        uid: identity::instance_uid(now, core.entropy.next()).map_err(Refusal::internal)?,
        name: create.name,
        fingerprint: create.fingerprint,
        labels: create.labels,
        annotations,
        spec: Arc::new(create.spec),
        owner: core.driver.owner().to_owned(),
        now,
        lease: core.driver.lease(),
    };
    let (tenant, name, op_id) = (wish.tenant.clone(), wish.name.clone(), wish.op_id.clone());
    let taken = core.driver.claim(wish).await.map_err(|e| with_key(write_refusal(&e, op_id)))?;
    let follow = |(record, updates): (Box<OperationRecord>, _), replayed| Follow {
        wait,
        deadline,
        key: Arc::clone(&key),
        record: Arc::new(*record),
        updates,
        replayed,
    };
    match taken {
        Taken::New(begun) => Ok(follow(begun, false)),
        Taken::Joined(begun) => {
            let replayed = begun.0.state.is_final();
            Ok(follow(begun, replayed))
        }
        Taken::KeyReused => Err(with_key(Refusal::new(
            ErrorCode::IdempotencyKeyReused,
            "this Idempotency-Key was used with a request that differs from this one",
        ))),
        Taken::NameTaken => Err(with_key(Refusal::new(
            ErrorCode::AlreadyExists,
            format!("tenants/{tenant}/instances/{name} exists already"),
        ))),
    }
}

/// Waits until the ledger keeps the quota of a tenant that was declared a moment ago: until then nothing would bound it.
async fn until_bounded(core: &Core, tenant: &TenantId) -> Result<(), Refusal> {
    if core.bounded.borrow().contains(tenant) {
        return Ok(());
    }
    // A ledger that is being rebuilt says so; there is nothing to wait for then.
    core.ledger.books(tenant).await.map_err(|e| store_refusal(&e))?;
    let mut bounded = core.bounded.subscribe();
    let waits = bounded.wait_for(|bounded| bounded.contains(tenant));
    if let Ok(Ok(_)) = tokio::time::timeout(BOUNDED_WITHIN, waits).await {
        return Ok(());
    }
    let detail = "the tenant's limits are not in force yet; repeating the request with the same key is safe";
    Err(Problem::new(ErrorCode::StoreUnavailable, detail).with_retry_after(BOUNDED_RETRY_SECONDS).into())
}

/// Refuses what this gateway could not send: its caller is better off at another one. Who comes back for what was
/// claimed before is answered here as ever.
async fn unless_unsendable(core: &Core, tenant: &TenantId, op: &OperationId) -> Result<(), Refusal> {
    let refusal = if let Some(trouble) = core.driver.journal_trouble() {
        let mut refusal = Refusal::new(
            ErrorCode::StoreUnavailable,
            "this gateway takes no creates now; repeating the request with the same key, here or at another one, is \
             safe",
        );
        refusal.internal = Some(format!("the intent journal cannot be written: {}", trouble.why));
        refusal
    } else if core.driver.journal_is_full() {
        let full = Problem::new(
            ErrorCode::Overloaded,
            "this gateway has sent as many creates in the last five minutes as it keeps notes of; those that are older \
             are forgotten: repeat the request with the same key later, or at another gateway",
        );
        full.with_retry_after(FULL_RETRY_SECONDS).into()
    } else {
        return Ok(());
    };
    match core.ledger.operation(tenant, op).await.map_err(|e| store_refusal(&e))? {
        Some(_) => Ok(()),
        None => Err(refusal),
    }
}
