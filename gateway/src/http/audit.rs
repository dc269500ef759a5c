//! One record in the audit log for each request to change something, on the disk before the answer (R14).
//!
//! Two layers. [`AuditLayer`] stands right below the one that turns refusals into responses, so that whatever ends a
//! request passes it on the way back: the bound on its time, a rate limit, a refusal by the operation stack, a panic. It
//! does not know the caller, who is found out below it; [`AccountableLayer`], right below that, puts it into the
//! [`Note`] that both share, and refuses the change when it could not be recorded. A request without a known caller has
//! no record of its own: strangers are counted (`http::rescue`, `http::authenticate`, `audit::flood`).
//!
//! What was handed on goes on when its caller goes away. The layer's future is dropped then, and the record is added
//! without waiting, because nobody is there to wait.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, resume_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use aws_lc_rs::hmac;
use futures_util::FutureExt as _;
use meridian_model::{error::ErrorCode, ids::TenantId};
use secrecy::{ExposeSecret as _, SecretString};
use tower::{Layer, Service};

use super::{Exchange, LayerFuture, Reply};
use crate::{
    audit::{
        Audit,
        record::{Actor, Decision, Entry, Request, cut},
    },
    dialects::{
        Class,
        rest::{Endpoint, body::fingerprint},
    },
    operation::{Action, Caller, Outcome, Refusal, Scope, directory::DirectoryAction, policies::PolicyAction},
    refusal::Rejection,
};

/// Parameter of a request that changes nothing.
const VALIDATE_ONLY: &str = "validateOnly=true";

/// What a known caller may be answered before its rate is looked at, or by that: as often as it asks.
const UNBOUNDED: [&str; 2] = [ErrorCode::RateLimited.as_str(), ErrorCode::Overloaded.as_str()];

/// How the paths begin that name a tenant.
const OF_TENANT: &str = "/v1/tenants/{tenant}";

/// What stands in a path for the caller's own tenant.
const ANY: &str = "-";

/// What the layers find out about a request to change something.
#[derive(Debug, Default)]
pub struct Note(Mutex<Facts>);

#[derive(Debug, Default)]
struct Facts {
    caller: Option<Arc<Caller>>,
    /// The tenant, where the path does not name it.
    tenant: Option<String>,
    object: Option<String>,
    granted_role: Option<&'static str>,
    fingerprint: Option<String>,
    key: Option<Arc<str>>,
    operation: Option<String>,
    /// The dialect found that nothing is to be changed.
    validate_only: bool,
    /// The operation stack has it.
    handed_on: bool,
    /// It was refused because it could not be recorded.
    unrecordable: bool,
    /// It was answered as one that was made before.
    replayed: bool,
}

impl Note {
    fn facts(&self) -> MutexGuard<'_, Facts> {
        // A poisoned lock means a panic between two complete states.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is asked for, as the dialect read it; it is about to be handed on.
    pub fn asked(&self, action: &Action, validate_only: bool) {
        let mut facts = self.facts();
        facts.validate_only = validate_only;
        facts.handed_on = !validate_only;
        if let Action::CreateInstance(create) = action {
            facts.object = Some(format!("tenants/{}/instances/{}", create.tenant, create.name));
            facts.fingerprint = Some(create.fingerprint.clone());
            facts.key = create.idempotency_key.as_deref().map(Arc::from);
        } else if let Action::Directory(action, _) = action {
            facts.asked_of_directory(action);
        } else if let Action::Policies(action) = action
            && let PolicyAction::Put { name, manifest, .. } = &**action
        {
            facts.fingerprint = Some(fingerprint("", "policies", name.as_ref(), manifest));
        }
    }

    /// How the operation stack answered.
    pub fn answered(&self, outcome: &Result<Outcome, Refusal>) {
        let mut facts = self.facts();
        let outcome = match outcome {
            Ok(Outcome::Warned(outcome, _)) => Ok(&**outcome),
            other => other.as_ref(),
        };
        match outcome {
            Ok(Outcome::Created { key, replayed, operation, .. }) => {
                facts.replayed = *replayed;
                facts.key = Some(Arc::clone(key));
                facts.operation = Some(operation.to_string());
            }
            Ok(Outcome::Accepted { operation, key }) => {
                facts.key = key.clone().or_else(|| facts.key.take());
                facts.operation = operation.name.rsplit('/').next().map(str::to_owned);
            }
            Ok(Outcome::KeyMade { key, replayed, .. }) => {
                facts.replayed = *replayed;
                facts.object = Some(key.name.clone());
                facts.granted_role = Some(key.role);
            }
            Ok(Outcome::AccountMade { account, .. }) => facts.granted_role = Some(account.role),
            Ok(_) => {}
            Err(refusal) => {
                facts.replayed = refusal.replayed;
                facts.key = refusal.key.clone().or_else(|| facts.key.take());
                facts.operation = refusal.problem.operation.as_ref().map(ToString::to_string);
            }
        }
    }
}

impl Facts {
    /// What the path of a change of who may what does not say.
    fn asked_of_directory(&mut self, action: &DirectoryAction) {
        let digest_of = |name: &TenantId, manifest| Some(fingerprint("", "tenants", name.as_ref(), manifest));
        match action {
            DirectoryAction::CreateTenant(name, manifest, ..) | DirectoryAction::PutTenant(name, manifest, ..) => {
                self.tenant = Some(name.to_string());
                self.object = Some(format!("tenants/{name}"));
                self.fingerprint = digest_of(name, manifest);
            }
            DirectoryAction::CreateKey { key, fingerprint, .. } => {
                self.key = key.as_deref().map(Arc::from);
                self.fingerprint = Some(fingerprint.clone());
            }
            DirectoryAction::RotateKey { tenant, id, key, fingerprint, .. } => {
                self.object = Some(below(tenant.as_ref(), "keys", id));
                self.key = key.as_deref().map(Arc::from);
                self.fingerprint = Some(fingerprint.clone());
            }
            DirectoryAction::CreateAccount(tenant, wish, ..) => {
                self.object = Some(below(tenant.as_ref(), "serviceAccounts", wish.name.as_ref()));
            }
            // Its path is its object; what is recorded is the patch, and not what came of it.
            DirectoryAction::PatchTenant(name, patch, _) => {
                let name = name.as_ref().map_or(ANY, AsRef::as_ref);
                self.fingerprint = Some(fingerprint("PATCH", "tenants", name, patch));
            }
            // Their paths are their objects, or they change nothing.
            DirectoryAction::DeleteTenant(..)
            | DirectoryAction::GetKey(..)
            | DirectoryAction::GetAccount(..)
            | DirectoryAction::RevokeKey(..)
            | DirectoryAction::DeleteAccount(..)
            | DirectoryAction::ListKeys(..)
            | DirectoryAction::ListAccounts(..)
            | DirectoryAction::WhoAmI => {}
        }
    }
}

/// The path of what a tenant has.
fn below(tenant: Option<&TenantId>, collection: &str, name: &str) -> String {
    format!("tenants/{}/{collection}/{name}", tenant.map_or(ANY, AsRef::as_ref))
}

/// Whether requests of a class change something.
const fn changes(class: Class) -> bool {
    match class {
        Class::Public | Class::Read | Class::List => false,
        Class::Create | Class::Delete | Class::Change => true,
    }
}

/// Makes [`Audited`].
#[derive(Debug, Clone)]
pub struct AuditLayer {
    audit: Audit,
    digest: Arc<hmac::Key>,
}

impl AuditLayer {
    /// A layer that records into a log; digests of specs are keyed by the deployment's secret, because a plain one of a
    /// spec with one short password in it could be guessed.
    #[must_use]
    pub fn new(audit: Audit, secret: &SecretString) -> Self {
        let of_secret = hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret().as_bytes());
        let key = hmac::sign(&of_secret, b"meridian audit digest v1");
        Self { audit, digest: Arc::new(hmac::Key::new(hmac::HMAC_SHA256, key.as_ref())) }
    }
}

impl<S> Layer<S> for AuditLayer {
    type Service = Audited<S>;

    fn layer(&self, inner: S) -> Audited<S> {
        Audited { inner, layer: self.clone() }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Audited<S> {
    inner: S,
    layer: AuditLayer,
}

impl<S> Service<Exchange> for Audited<S>
where
    S: Service<Exchange, Response = Reply, Error = Rejection, Future = LayerFuture>,
{
    type Response = Reply;
    type Error = Rejection;
    type Future = LayerFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Rejection>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut exchange: Exchange) -> LayerFuture {
        if !self.layer.audit.is_on() || !changes(exchange.meta.route.class) {
            return self.inner.call(exchange);
        }
        let note = Arc::<Note>::default();
        exchange.meta.note = Some(Arc::clone(&note));
        let pending = Pending::of(&self.layer, note, &exchange);
        let inner = self.inner.call(exchange);
        Box::pin(async move {
            let mut pending = pending;
            match AssertUnwindSafe(inner).catch_unwind().await {
                Ok(outcome) => pending.ended(outcome).await,
                Err(panic) => pending.panicked(panic).await,
            }
        })
    }
}

/// A request under way, with what its record needs; dropped when its caller goes away.
struct Pending {
    layer: AuditLayer,
    note: Arc<Note>,
    endpoint: Endpoint,
    path: String,
    /// The tenant that the path names.
    tenant: Option<String>,
    asks_to_validate: bool,
    request_id: Arc<str>,
    source: String,
    is_over: bool,
}

impl Pending {
    fn of(layer: &AuditLayer, note: Arc<Note>, exchange: &Exchange) -> Self {
        let (uri, route) = (exchange.request.uri(), &exchange.meta.route);
        let [(begin, end), ..] = route.params;
        let named = uri.path().get(begin..end).filter(|name| *name != ANY);
        Self {
            tenant: named.filter(|_| route.template.starts_with(OF_TENANT)).map(cut),
            layer: layer.clone(),
            note,
            endpoint: route.endpoint,
            path: uri.path().to_owned(),
            asks_to_validate: uri.query().is_some_and(|query| query.split('&').any(|part| part == VALIDATE_ONLY)),
            request_id: Arc::clone(&exchange.meta.request_id),
            source: exchange.meta.peer.address.ip().to_string(),
            is_over: false,
        }
    }

    /// Records how it ended, and gives that back; something else when it could not be recorded.
    async fn ended(&mut self, outcome: Result<Reply, Rejection>) -> Result<Reply, Rejection> {
        self.is_over = true;
        let end = match &outcome {
            Ok(reply) => End { decision: Decision::Accepted, code: None, status: Some(reply.status().as_u16()) },
            Err(rejection) => End::of(rejection),
        };
        let Some(request) = self.request(end) else { return outcome };
        let may_stand = request.decision == Decision::Denied;
        match self.layer.audit.record(request).await {
            Ok(()) => outcome,
            // Nothing was changed, and the refusal says so.
            Err(_) if may_stand => outcome,
            Err(why) => Err(unrecorded(why)),
        }
    }

    async fn panicked(&mut self, panic: Box<dyn Any + Send>) -> Result<Reply, Rejection> {
        self.is_over = true;
        let code = ErrorCode::Internal;
        let end = End { decision: Decision::Failed, code: Some(code.as_str()), status: Some(code.status()) };
        if let Some(request) = self.request(end) {
            // The caller hears of a fault of ours in any case.
            let _ = self.layer.audit.record(request).await;
        }
        resume_unwind(panic)
    }

    /// The record of an end; none for what changes nothing, has no known caller or is only counted.
    fn request(&self, end: End) -> Option<Request> {
        let mut facts = self.note.facts();
        let caller = facts.caller.take()?;
        let actor = actor(&caller);
        let tenant = match &caller.scope {
            Scope::Tenant(own) => Some(own.to_string()),
            Scope::Platform => facts.tenant.take().or_else(|| self.tenant.clone()),
        };
        let is_refused = matches!(end.decision, Decision::Denied | Decision::Failed);
        if facts.validate_only || !facts.handed_on && (!is_refused || self.asks_to_validate) {
            return None;
        }
        let audit = &self.layer.audit;
        if facts.unrecordable {
            audit.unrecordable(&actor, tenant.as_deref());
            return None;
        }
        if let Some(code) = end.code.filter(|code| !facts.handed_on && UNBOUNDED.contains(code))
            && !audit.records_refusal(&actor, tenant.as_deref(), code)
        {
            return None;
        }
        let digest = |fingerprint: String| {
            let tag = hmac::sign(&self.layer.digest, fingerprint.as_bytes());
            tag.as_ref().iter().map(|b| format!("{b:02x}")).collect()
        };
        let object = facts.object.take().unwrap_or_else(|| self.path.trim_start_matches("/v1/").to_owned());
        let object = match (&tenant, object.strip_prefix("tenants/-/")) {
            (Some(own), Some(rest)) => format!("tenants/{own}/{rest}"),
            _ => object,
        };
        let decision =
            if facts.replayed && end.decision == Decision::Accepted { Decision::Replayed } else { end.decision };
        Some(Request {
            action: name(self.endpoint),
            actor,
            code: end.code,
            decision,
            idempotency_key: facts.key.take().map(|key| cut(&key)),
            granted_role: facts.granted_role.take(),
            object: cut(&object),
            operation: facts.operation.take(),
            request_id: self.request_id.to_string(),
            source: self.source.clone(),
            spec_digest: facts.fingerprint.take().map(digest),
            status: end.status,
            tenant,
        })
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.is_over || !self.note.facts().handed_on {
            return;
        }
        let end = End { decision: Decision::Unknown, code: None, status: None };
        if let Some(request) = self.request(end) {
            self.layer.audit.note(Entry::Request(Box::new(request)));
        }
    }
}

/// How a request ended.
pub(crate) struct End {
    pub(crate) decision: Decision,
    pub(crate) code: Option<&'static str>,
    pub(crate) status: Option<u16>,
}

impl End {
    pub(crate) fn of(rejection: &Rejection) -> Self {
        let code = rejection.code();
        let status = code.status();
        let is_unknown = rejection.outcome_unknown
            || code == ErrorCode::DeadlineExceeded && rejection.refusal.problem.operation.is_some();
        let decision = match status {
            _ if is_unknown => Decision::Unknown,
            // What the gateway has no room, no store or no place for, it has refused.
            ..500 | 503 => Decision::Denied,
            _ => Decision::Failed,
        };
        Self { decision, code: Some(code.as_str()), status: Some(status) }
    }
}

/// What is answered when a change was, or may have been, taken on and the disk did not take its record.
fn unrecorded(why: String) -> Rejection {
    let detail = "the change may be carried out, but the gateway could not record it; repeat the request with the same \
                  key, here or at another gateway, to see";
    let mut rejection = Rejection::new(ErrorCode::DeadlineExceeded, detail);
    rejection.outcome_unknown = true;
    rejection.refusal.internal = Some(format!("the audit log cannot be written: {why}"));
    rejection
}

fn actor(caller: &Caller) -> Actor {
    Actor {
        credential: caller.credential.as_deref().map(cut),
        principal: cut(&caller.principal),
        role: Some(caller.role.as_str()),
    }
}

/// The name of what an endpoint does, as `Action::name` has it: `create-instance`.
fn name(endpoint: Endpoint) -> String {
    let mut name = String::new();
    for c in format!("{endpoint:?}").chars() {
        if c.is_ascii_uppercase() && !name.is_empty() {
            name.push('-');
        }
        name.push(c.to_ascii_lowercase());
    }
    name
}

/// Makes [`Accountable`].
#[derive(Debug, Clone)]
pub struct AccountableLayer {
    audit: Audit,
}

impl AccountableLayer {
    /// A layer that lets pass what can be recorded.
    #[must_use]
    pub fn new(audit: Audit) -> Self {
        Self { audit }
    }
}

impl<S> Layer<S> for AccountableLayer {
    type Service = Accountable<S>;

    fn layer(&self, inner: S) -> Accountable<S> {
        Accountable { inner, audit: self.audit.clone() }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Accountable<S> {
    inner: S,
    audit: Audit,
}

impl<S> Service<Exchange> for Accountable<S>
where
    S: Service<Exchange, Response = Reply, Error = Rejection, Future = LayerFuture>,
{
    type Response = Reply;
    type Error = Rejection;
    type Future = LayerFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Rejection>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, exchange: Exchange) -> LayerFuture {
        if let (Some(note), Some(identity)) = (&exchange.meta.note, &exchange.meta.identity) {
            let mut facts = note.facts();
            facts.caller = Some(Arc::clone(&identity.caller));
            if let Some(trouble) = self.audit.trouble() {
                facts.unrecordable = true;
                let mut refused = Rejection::new(
                    ErrorCode::StoreUnavailable,
                    "this gateway cannot write its audit log and changes nothing until it can; reads go on, and \
                     repeating the request with the same key, here or at another gateway, is safe",
                );
                refused.refusal.internal = Some(format!("the audit log cannot be written: {}", trouble.why));
                return Box::pin(std::future::ready(Err(refused)));
            }
        }
        self.inner.call(exchange)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_named_as_actions_are() {
        assert_eq!(name(Endpoint::CreateInstance), "create-instance");
        assert_eq!(name(Endpoint::DeleteInstance), "delete-instance");
    }
}
