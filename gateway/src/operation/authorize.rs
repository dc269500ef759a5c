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
use meridian_policies::access::Permission;
use tower::{Layer, Service};

use super::{
    Action, Caller, CreateInstance, Operation, Outcome, Place, Reach, Refusal, Scope,
    bounds::{check_project, lineage, unknown_project},
};
use crate::{
    core::Core,
    directory::Snapshot,
    policies::judge::{self, Judgement},
    telemetry::core::ADMISSION_AUTHORIZE,
};

/// An answer under way.
pub type OutcomeFuture = Pin<Box<dyn Future<Output = Result<Outcome, Refusal>> + Send>>;

/// An operation that passed [`Authorize`]: what it reaches is the caller's, its spec is valid and complete.
#[derive(Debug, Clone)]
pub struct Admitted {
    pub(super) operation: Operation,
    pub(super) reach: Reach,
    judgement: Judgement,
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
            Ok(mut admitted) => {
                let judgement = std::mem::take(&mut admitted.judgement);
                told(self.inner.call(admitted), judgement)
            }
            Err(refusal) => Box::pin(std::future::ready(Err(refusal))),
        }
    }
}

fn authorize(core: &Core, mut operation: Operation) -> Result<Admitted, Refusal> {
    let snapshot = core.directory.load();
    let (caller, action) = (&operation.caller, &operation.action);
    // Whose it is comes first: what a caller may do elsewhere says nothing of what is there.
    let known = |tenant: &TenantId| snapshot.tenant(tenant).is_some() || core.fleet.has_tenant(tenant);
    let reach = reach(known, caller, action.place())?;
    permit(caller, action.permission())?;
    let caller = Arc::clone(&operation.caller);
    let judgement = match &mut operation.action {
        Action::CreateInstance(create) => admit(core, &snapshot, &caller, create)?,
        _ => Judgement::default(),
    };
    Ok(Admitted { operation, reach, judgement })
}

/// What a caller reaches by an action; what is not the caller's is not there. The platform reaches also tenants that are
/// declared no more, and what they left behind.
fn reach(known: impl Fn(&TenantId) -> bool, caller: &Caller, place: Place<'_>) -> Result<Reach, Refusal> {
    match (&caller.scope, place) {
        (Scope::Tenant(own), Place::Tenant(named)) if named != own => Err(Refusal::not_found()),
        (Scope::Tenant(own), _) => Ok(Reach::Tenant(own.clone())),
        (Scope::Platform, Place::Tenant(named)) if known(named) => Ok(Reach::Tenant(named.clone())),
        (Scope::Platform, Place::Tenant(_)) => Err(Refusal::not_found()),
        (Scope::Platform, Place::Any | Place::Nowhere) => Ok(Reach::All),
    }
}

fn permit(caller: &Caller, permission: Permission) -> Result<(), Refusal> {
    if caller.may(permission) {
        return Ok(());
    }
    let role = caller.role;
    let lacks = if role.permissions().contains(permission) {
        format!("the credential was given only some permissions of its role {role}")
    } else {
        format!("{} it, the credential has {role}", permission.roles_text())
    };
    Err(Refusal::new(ErrorCode::PermissionDenied, format!("this needs the permission {permission}; {lacks}")))
}

/// Checks a create, has the policies write into it and judge it, and fills in the tenant's defaults. Denials of both
/// are told together.
fn admit(core: &Core, snapshot: &Snapshot, caller: &Caller, create: &mut CreateInstance) -> Result<Judgement, Refusal> {
    let mut faults = validate::spec(&create.spec);
    faults.extend(validate::labels(&create.labels, &format!("{}/labels", create.metadata_pointer)));
    faults.extend(validate::annotations(&create.annotations, &format!("{}/annotations", create.metadata_pointer)));
    if !faults.is_empty() {
        let detail = format!("{} of the request's fields are not valid", faults.len());
        return Err(Problem::new(ErrorCode::InvalidArgument, detail).with_errors(faults).into());
    }
    let Some(entry) = snapshot.tenant(&create.tenant) else { return Err(Refusal::not_found()) };
    let tenant = &entry.settings;
    // The credential's own is checked like one that is asked for: it may have been renamed or removed since.
    create.project = create.project.take().or_else(|| caller.project.clone());
    let pointer = || format!("{}/project", create.metadata_pointer);
    if let Some(fault) = create.project.as_ref().and_then(|project| unknown_project(tenant, project, pointer())) {
        let detail = fault.detail.clone();
        return Err(Problem::new(ErrorCode::InvalidArgument, detail).with_errors(vec![fault]).into());
    }
    check_project(tenant, caller, create.project.as_ref())?;
    let projects = lineage(tenant, create.project.as_ref());
    let judged = judge::judge(snapshot.rules(), (caller, &projects), create, (core.clock.now(), &core.judged));
    match (meridian_policies::admit::admit(&entry.rules, &create.spec), judged) {
        (Ok(spec), Ok(judgement)) => {
            create.spec = spec;
            Ok(judgement)
        }
        (admitted, judged) => {
            let denials: Vec<_> =
                admitted.err().into_iter().flatten().chain(judged.err().into_iter().flatten()).collect();
            let plural = if denials.len() == 1 { "rule denies" } else { "rules deny" };
            let detail = format!("{} {plural} the instance {} of tenant {}", denials.len(), create.name, create.tenant);
            Err(Problem::new(ErrorCode::PolicyDenied, detail).with_errors(denials).into())
        }
    }
}

/// Adds to an answer what the policies say.
fn told(answer: OutcomeFuture, judgement: Judgement) -> OutcomeFuture {
    let Judgement { warnings, results } = judgement;
    if warnings.is_empty() && results.is_empty() {
        return answer;
    }
    Box::pin(async move {
        Ok(match answer.await? {
            Outcome::Validated(mut validation) => {
                validation.warnings.extend(warnings);
                validation.policies = results;
                Outcome::Validated(validation)
            }
            outcome if warnings.is_empty() => outcome,
            Outcome::Warned(outcome, more) => Outcome::Warned(outcome, [warnings, more].concat()),
            outcome => Outcome::Warned(Box::new(outcome), warnings),
        })
    })
}
