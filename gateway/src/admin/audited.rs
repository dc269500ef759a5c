//! What a person changes over the admin listener has its record too, on the disk before the answer. The listener knows no
//! credentials: whoever reaches it is its principal, and the address is what is known of them.

use meridian_model::{
    error::ErrorCode,
    ids::{OperationId, TenantId},
};

use super::operators::{Done, Route};
use crate::{
    audit::record::{Actor, Decision, Entry, Request},
    core::Core,
    dialects::rest::problem_reply,
    http::{Reply, audit::End},
    operation::Refusal,
    refusal::Rejection,
    server::Peer,
};

/// The principal of whoever reaches the admin listener.
const PRINCIPAL: &str = "admin-listener";

/// Something that is to be changed.
#[derive(Debug, Clone)]
pub(super) struct Deed {
    action: &'static str,
    object: String,
    tenant: Option<TenantId>,
    operation: Option<OperationId>,
    source: String,
}

impl Deed {
    /// What a request changes; none for one that only reads.
    pub(super) fn of(route: &Route, peer: &Peer) -> Option<Self> {
        let (mut tenant, mut operation) = (None, None);
        let (action, object) = match route {
            Route::Adopt(backend, id) => ("adopt-orphan", format!("orphans/{backend}/{id}")),
            Route::Remove(backend, id) => ("remove-orphan", format!("orphans/{backend}/{id}")),
            Route::Ignore(backend, id) => ("ignore-orphan", format!("orphans/{backend}/{id}")),
            Route::Import => ("import-instance", "import".to_owned()),
            Route::Settle(of, op) => {
                (tenant, operation) = (Some(of.clone()), Some(op.clone()));
                ("settle-operation", format!("tenants/{of}/operations/{op}"))
            }
            Route::Reload => ("reload-directory", "directory".to_owned()),
            Route::Orphans(_) | Route::Operations(_) | Route::Reconcile => return None,
        };
        Some(Self { action, object, tenant, operation, source: peer.address.ip().to_string() })
    }

    /// The refusal of what could not be recorded.
    pub(super) fn refused(&self, core: &Core) -> Option<Reply> {
        let audit = core.driver.audit();
        let trouble = audit.trouble()?;
        audit.unrecordable(&actor(), self.tenant.as_ref().map(AsRef::as_ref));
        let detail = format!("the audit log cannot be written, so nothing is changed: {}", trouble.why);
        Some(problem_reply(Refusal::new(ErrorCode::StoreUnavailable, detail)))
    }

    /// Records how it ended, and gives the answer when that is on the disk.
    pub(super) async fn recorded(self, core: &Core, done: Result<Done, Refusal>) -> Reply {
        let (end, reply, made) = match done {
            Ok(Done { reply, made }) => {
                let status = Some(reply.status().as_u16());
                (End { decision: Decision::Accepted, code: None, status }, reply, made)
            }
            Err(refusal) => {
                let rejection = Rejection::from(refusal);
                (End::of(&rejection), problem_reply(rejection), None)
            }
        };
        let audit = core.driver.audit();
        let is_denied = end.decision == Decision::Denied;
        let tenant = self.tenant.as_ref().map(AsRef::as_ref);
        if let Some(code) = end.code.filter(|_| is_denied)
            && !audit.records_refusal(&actor(), tenant, code)
        {
            return reply;
        }
        let mut request = self.request(core, end);
        if let Some((tenant, object, operation)) = made {
            request.tenant = Some(tenant.to_string());
            request.object = object;
            request.operation = Some(operation.to_string());
        }
        match audit.record(request).await {
            Ok(()) => reply,
            // Nothing was changed, and the refusal says so.
            Err(_) if is_denied => reply,
            Err(why) => {
                let detail = format!("it may be done, and could not be recorded in the audit log: {why}");
                let mut rejection = Rejection::new(ErrorCode::DeadlineExceeded, detail);
                rejection.outcome_unknown = true;
                problem_reply(rejection)
            }
        }
    }

    fn request(self, core: &Core, End { decision, code, status }: End) -> Request {
        Request {
            action: self.action.to_owned(),
            actor: actor(),
            code,
            decision,
            granted_role: None,
            idempotency_key: None,
            object: self.object,
            operation: self.operation.map(|operation| operation.to_string()),
            request_id: format!("req_{:032x}", core.entropy.next()),
            source: self.source,
            spec_digest: None,
            status,
            tenant: self.tenant.map(|tenant| tenant.to_string()),
        }
    }
}

fn actor() -> Actor {
    Actor { principal: PRINCIPAL.to_owned(), ..Actor::default() }
}

/// Records a drain. It waits for no disk and is refused for none: it is how a gateway with a broken one is replaced.
pub(super) fn note_drain(core: &Core, peer: &Peer, status: u16) {
    let source = peer.address.ip().to_string();
    let deed = Deed { action: "drain", object: "gateway".to_owned(), tenant: None, operation: None, source };
    let end = End { decision: Decision::Accepted, code: None, status: Some(status) };
    core.driver.audit().note(Entry::Request(Box::new(deed.request(core, end))));
}
