//! May the caller do this, and is what it asks for well formed? First in the operation stack, so that nothing is
//! counted, stored or looked up for a request that is refused here.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use meridian_model::{
    error::{ErrorCode, Problem},
    ids::TenantId,
    validate,
};
use tower::{Layer, Service};

use super::{Action, CreateInstance, Operation, Outcome, Refusal};
use crate::{core::Core, telemetry::core::ADMISSION_AUTHORIZE};

/// An answer under way.
pub type OutcomeFuture = Pin<Box<dyn Future<Output = Result<Outcome, Refusal>> + Send>>;

/// An operation that passed [`Authorize`]: its tenant is the caller's own, its spec is valid and complete.
#[derive(Debug, Clone)]
pub struct Admitted(Operation);

impl Admitted {
    /// The operation.
    #[must_use]
    pub fn into_inner(self) -> Operation {
        self.0
    }
}

/// Refuses what the caller may not do, validates specs, fills in the tenant's defaults.
#[derive(Debug, Clone)]
pub struct Authorize<S> {
    inner: S,
    core: Arc<Core>,
}

/// Layer of [`Authorize`].
#[derive(Debug, Clone)]
pub struct AuthorizeLayer(pub Arc<Core>);

impl<S> Layer<S> for AuthorizeLayer {
    type Service = Authorize<S>;

    fn layer(&self, inner: S) -> Authorize<S> {
        Authorize { inner, core: Arc::clone(&self.0) }
    }
}

impl<S> Service<Operation> for Authorize<S>
where
    S: Service<Admitted, Response = Outcome, Error = Refusal, Future = OutcomeFuture>,
{
    type Response = Outcome;
    type Error = Refusal;
    type Future = OutcomeFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, operation: Operation) -> OutcomeFuture {
        let span = tracing::debug_span!(ADMISSION_AUTHORIZE, meridian.admission.verdict = tracing::field::Empty);
        let admitted = span.in_scope(|| authorize(&self.core, operation));
        span.record(
            "meridian.admission.verdict",
            admitted.as_ref().map_or_else(|r| r.problem.code.as_str(), |_| "admitted"),
        );
        match admitted {
            Ok(admitted) => self.inner.call(admitted),
            Err(refusal) => Box::pin(std::future::ready(Err(refusal))),
        }
    }
}

fn authorize(core: &Core, mut operation: Operation) -> Result<Admitted, Refusal> {
    let own = &operation.caller.tenant;
    if named_tenant(&operation.action).is_some_and(|t| t != own) {
        return Err(Refusal::not_found());
    }
    if let Action::CreateInstance(create) = &mut operation.action {
        admit(core, own, create)?;
    }
    Ok(Admitted(operation))
}

/// The tenant in the path, if it names one.
fn named_tenant(action: &Action) -> Option<&TenantId> {
    match action {
        Action::CreateInstance(create) => Some(&create.tenant),
        Action::GetInstance(i) | Action::ExplainInstance(i) => i.tenant.as_ref(),
        Action::DeleteInstance(delete) => delete.instance.tenant.as_ref(),
        Action::ListInstances(list) => list.tenant.as_ref(),
        Action::GetOperation(t, _) | Action::ListOperations(t, _) | Action::GetQuota(t) | Action::GetTenant(t) => {
            Some(t)
        }
        Action::ListTenants
        | Action::ListRegions
        | Action::GetRegion(_)
        | Action::ListAdapters
        | Action::ListInstanceTypes(_) => None,
    }
}

fn admit(core: &Core, tenant: &TenantId, create: &mut CreateInstance) -> Result<(), Refusal> {
    let mut faults = validate::spec(&create.spec);
    faults.extend(validate::labels(&create.labels, &format!("{}/labels", create.metadata_pointer)));
    faults.extend(validate::annotations(&create.annotations, &format!("{}/annotations", create.metadata_pointer)));
    if !faults.is_empty() {
        let detail = format!("{} of the request's fields are not valid", faults.len());
        return Err(Problem::new(ErrorCode::InvalidArgument, detail).with_errors(faults).into());
    }
    let Some(rules) = core.tenant_rules(tenant) else { return Err(Refusal::not_found()) };
    match meridian_policies::admit::admit(rules, &create.spec) {
        Ok(admitted) => {
            create.spec = admitted;
            Ok(())
        }
        Err(denials) => {
            let detail = format!("{} rules of tenant {tenant} deny the instance", denials.len());
            Err(Problem::new(ErrorCode::PolicyDenied, detail).with_errors(denials).into())
        }
    }
}
