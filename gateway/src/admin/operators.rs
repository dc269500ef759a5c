//! The part of the admin listener that shows and settles what needs a person: strays, operations in doubt, imports.
//!
//! ```text
//! GET  /orphans?after={backend}/{cloudId}      every stray, with why nothing is done about it yet, and who says so
//! POST /orphans/{backend}/{cloudId}:adopt      {"tenant", "name", "force"?, "fromDeployment"?}   makes it the tenant's
//! POST /orphans/{backend}/{cloudId}:remove     deletes it now, if no operation has it
//! POST /orphans/{backend}/{cloudId}:ignore     leaves it alone, at every gateway
//! POST /import                                 {"backend", "cloudId", "tenant", "name", "force"?, "fromDeployment"?}
//! GET  /operations?state=in-doubt|undetermined operations whose outcome is not known
//! POST /operations/{tenant}/{operation}:settle {"outcome": "absent", "attempt"?} or
//!                                              {"outcome": "applied", "cloudId", "attempt"?}
//! GET  /reconcile                              how the reconciler stands with each backend
//! POST /directory:reload                       reads the folder that declares tenants now, and says what changed
//! ```

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use meridian_model::{
    error::{ErrorCode, FieldError, Problem},
    ids::{BackendId, CloudId, InstanceName, OperationId, TenantId},
};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;

use super::{audited::Deed, json_answer};
use crate::{
    core::Core,
    dialects::rest::problem_reply,
    http::Reply,
    journal::{
        doubts::{Outcome, State},
        import::Import,
        listing::StrayPlace,
    },
    operation::Refusal,
    server::Peer,
};

/// Largest body; the largest that makes sense is a few names.
const BODY_LEN_MAX: usize = 16 * 1024;

/// Longest time in which a body must come.
const BODY_WITHIN: Duration = Duration::from_secs(5);

/// Most items of a list; what is beyond is counted, and of strays asked for with `after`.
const LIST_MAX: usize = 1000;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Adopt {
    tenant: TenantId,
    name: InstanceName,
    #[serde(default)]
    force: bool,
    from_deployment: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ImportBody {
    backend: BackendId,
    cloud_id: CloudId,
    tenant: TenantId,
    name: InstanceName,
    #[serde(default)]
    force: bool,
    from_deployment: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "outcome", rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
enum Settle {
    Absent { attempt: Option<u32> },
    Applied { cloud_id: CloudId, attempt: Option<u32> },
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route {
    Orphans(Option<StrayPlace>),
    Adopt(BackendId, CloudId),
    Remove(BackendId, CloudId),
    Ignore(BackendId, CloudId),
    Import,
    Operations(Option<State>),
    Settle(TenantId, OperationId),
    Reconcile,
    Reload,
}

/// What was done.
pub(super) struct Done {
    pub(super) reply: Reply,
    /// The instance that it made a tenant's, and the operation that did.
    pub(super) made: Option<(TenantId, String, OperationId)>,
}

impl From<Reply> for Done {
    fn from(reply: Reply) -> Self {
        Self { reply, made: None }
    }
}

/// Answers a request of this part; `None` for any other path.
pub(super) async fn answer(core: &Arc<Core>, request: Request<Incoming>, peer: &Peer) -> Option<Reply> {
    let route = match route(request.method(), request.uri().path(), request.uri().query())? {
        Ok(route) => route,
        Err(refusal) => return Some(problem_reply(refusal)),
    };
    let body = request.into_body();
    let Some(deed) = Deed::of(&route, peer) else {
        return Some(perform(core, route, body).await.map_or_else(problem_reply, |done| done.reply));
    };
    if let Some(refused) = deed.refused(core) {
        return Some(refused);
    }
    let (doing, recorded) = (Arc::clone(core), deed.clone());
    let work = async move {
        let done = perform(&doing, route, body).await;
        recorded.recorded(&doing, done).await
    };
    // An operator who goes away leaves nothing half done, and nothing without its record.
    Some(match core.driver.to_the_end(work).await {
        Some(reply) => reply,
        None => deed.recorded(core, Err(Refusal::internal("the task of an operator's wish panicked"))).await,
    })
}

/// Reads the folder that declares tenants. Broken, it changes nothing, and the answer says what is wrong with it.
async fn reload(core: &Core) -> Result<Reply, Refusal> {
    let Some(watcher) = &core.sources.watcher else {
        return Err(Refusal::new(ErrorCode::Conflict, "there is no folder to reload: [directory] is not configured"));
    };
    let changes = watcher.reload().await.map_err(|broken| {
        let faults = broken.0.iter().flat_map(|of| of.list.iter().map(move |m| (&of.file, m)));
        let faults = faults.take(LIST_MAX).map(|(file, m)| FieldError {
            pointer: m.path.clone(),
            code: "broken".to_owned(),
            detail: format!("{file}:{}:{}: {}", m.line, m.column, m.what),
            hint: Some(m.mend.clone()),
            ..FieldError::default()
        });
        let detail = "the folder is broken; everything stays as it was";
        Refusal::from(Problem::new(ErrorCode::InvalidArgument, detail).with_errors(faults.collect()))
    })?;
    let changes: Vec<String> = changes.iter().map(ToString::to_string).collect();
    let generation = core.directory.load().generation;
    Ok(json_answer(StatusCode::OK, &json!({ "generation": generation, "changes": changes })))
}

/// The route of a path; `None` when the path is none of ours.
fn route(method: &Method, path: &str, query: Option<&str>) -> Option<Result<Route, Refusal>> {
    let segments: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
    let wanted = match segments.as_slice() {
        ["orphans" | "reconcile" | "operations"] => Method::GET,
        ["import" | "directory:reload"] | ["orphans" | "operations", _, _] => Method::POST,
        _ => return None,
    };
    if *method != wanted {
        return Some(Err(Refusal::new(ErrorCode::MethodNotAllowed, format!("this path takes {wanted}"))));
    }
    Some(match segments.as_slice() {
        ["orphans"] => after(query).map(Route::Orphans),
        ["reconcile"] => Ok(Route::Reconcile),
        ["import"] => Ok(Route::Import),
        ["directory:reload"] => Ok(Route::Reload),
        ["operations"] => state(query).map(Route::Operations),
        ["orphans", backend, last] => stray(backend, last),
        ["operations", tenant, last] => settled(tenant, last),
        _ => return None,
    })
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, Refusal> {
    let decoded = percent_decode_str(text).decode_utf8_lossy();
    decoded.parse().map_err(|e: T::Err| Refusal::new(ErrorCode::InvalidArgument, e.to_string()))
}

fn no_verb() -> Refusal {
    Refusal::new(ErrorCode::NotFound, "no such verb; the path ends with :adopt, :remove, :ignore or :settle")
}

fn stray(backend: &str, last: &str) -> Result<Route, Refusal> {
    let (id, verb) = last.rsplit_once(':').ok_or_else(no_verb)?;
    let (backend, id) = (parse(backend)?, parse(id)?);
    match verb {
        "adopt" => Ok(Route::Adopt(backend, id)),
        "remove" => Ok(Route::Remove(backend, id)),
        "ignore" => Ok(Route::Ignore(backend, id)),
        _ => Err(no_verb()),
    }
}

fn settled(tenant: &str, last: &str) -> Result<Route, Refusal> {
    let op = last.strip_suffix(":settle").ok_or_else(no_verb)?;
    Ok(Route::Settle(parse(tenant)?, parse(op)?))
}

fn after(query: Option<&str>) -> Result<Option<StrayPlace>, Refusal> {
    let Some(query) = query.filter(|q| !q.is_empty()) else { return Ok(None) };
    let place = query.strip_prefix("after=").and_then(|place| place.split_once('/'));
    let (backend, id) = place.ok_or_else(|| {
        Refusal::new(ErrorCode::InvalidArgument, "the query is after=BACKEND/CLOUD-ID, the next of the page before")
    })?;
    Ok(Some((parse(backend)?, parse(id)?)))
}

fn state(query: Option<&str>) -> Result<Option<State>, Refusal> {
    let Some(query) = query.filter(|q| !q.is_empty()) else { return Ok(None) };
    match query {
        "state=in-doubt" => Ok(Some(State::InDoubt)),
        "state=undetermined" => Ok(Some(State::Undetermined)),
        _ => Err(Refusal::new(ErrorCode::InvalidArgument, "the query is state=in-doubt or state=undetermined")),
    }
}

async fn perform(core: &Core, route: Route, body: Incoming) -> Result<Done, Refusal> {
    let accepted = || Done::from(json_answer(StatusCode::ACCEPTED, &json!({ "status": "accepted" })));
    let reconciler = &core.reconciler;
    match route {
        Route::Orphans(after) => {
            Ok(json_answer(StatusCode::OK, &json!(reconciler.strays(after.as_ref(), LIST_MAX))).into())
        }
        Route::Reconcile => Ok(list(reconciler.status()).into()),
        Route::Reload => reload(core).await.map(Done::from),
        Route::Operations(state) => Ok(list(reconciler.doubts(state)).into()),
        Route::Ignore(backend, id) => reconciler.ignore(&backend, &id).await.map(|()| accepted()),
        Route::Remove(backend, id) => reconciler.remove(&backend, &id).await.map(|()| accepted()),
        Route::Adopt(backend, cloud_id) => {
            let Adopt { tenant, name, force, from_deployment } = read(body).await?;
            import(core, Import { backend, cloud_id, tenant, name, force, from_deployment }).await
        }
        Route::Import => {
            let ImportBody { backend, cloud_id, tenant, name, force, from_deployment } = read(body).await?;
            import(core, Import { backend, cloud_id, tenant, name, force, from_deployment }).await
        }
        Route::Settle(tenant, op) => {
            let (attempt, outcome) = match read(body).await? {
                Settle::Absent { attempt } => (attempt, Outcome::Absent),
                Settle::Applied { cloud_id, attempt } => (attempt, Outcome::Applied(cloud_id)),
            };
            reconciler.settle(&tenant, &op, attempt, outcome).await.map(|()| accepted())
        }
    }
}

async fn import(core: &Core, wish: Import) -> Result<Done, Refusal> {
    let record = core.reconciler.import(&wish).await?;
    let cloud_id = wish.cloud_id;
    let name = format!("tenants/{}/instances/{}", record.tenant, record.name);
    let body = json!({ "instance": name, "uid": record.uid, "operation": record.op_id, "cloudId": cloud_id });
    let reply = json_answer(StatusCode::CREATED, &body);
    Ok(Done { reply, made: Some((record.tenant, name, record.op_id)) })
}

async fn read<T: DeserializeOwned>(body: Incoming) -> Result<T, Refusal> {
    let invalid = |why: String| Refusal::new(ErrorCode::InvalidArgument, why);
    let bytes = match tokio::time::timeout(BODY_WITHIN, Limited::new(body, BODY_LEN_MAX).collect()).await {
        Ok(Ok(collected)) => collected.to_bytes(),
        Ok(Err(error)) => return Err(invalid(format!("the body cannot be read: {error}"))),
        Err(_) => return Err(invalid("the body did not come in time".to_owned())),
    };
    let bytes = if bytes.is_empty() { Bytes::from_static(b"{}") } else { bytes };
    serde_json::from_slice(&bytes).map_err(|e| invalid(format!("the body is not what this verb takes: {e}")))
}

/// A list, cut to what a person can read.
fn list<T: Serialize>(mut items: Vec<T>) -> Reply {
    let total = items.len();
    items.truncate(LIST_MAX);
    json_answer(StatusCode::OK, &json!({ "items": items, "total": total }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_their_routes() {
        let of = |line: &str| {
            let (method, target) = line.split_once(' ').unwrap();
            let (path, query) = target.split_once('?').map_or((target, None), |(p, q)| (p, Some(q)));
            route(&method.parse().unwrap(), path, query)
        };
        let ok = |line: &str| of(line).unwrap().unwrap();
        let refused = |line: &str| of(line).unwrap().unwrap_err().problem.code;
        let (gz, id): (BackendId, CloudId) = ("gz".parse().unwrap(), "eksci-1".parse().unwrap());
        assert_eq!(ok("GET /orphans"), Route::Orphans(None));
        assert_eq!(ok("GET /orphans?after=gz/eksci-1"), Route::Orphans(Some((gz.clone(), id.clone()))));
        assert_eq!(refused("GET /orphans?after=gz"), ErrorCode::InvalidArgument);
        assert_eq!(ok("POST /orphans/gz/eksci-1:adopt"), Route::Adopt(gz.clone(), id.clone()));
        assert_eq!(ok("POST /orphans/gz/eksci%2D1:remove"), Route::Remove(gz.clone(), id.clone()));
        assert_eq!(ok("POST /orphans/gz/eksci-1:ignore"), Route::Ignore(gz, id));
        assert_eq!(ok("GET /operations"), Route::Operations(None));
        assert_eq!(ok("GET /operations?state=in-doubt"), Route::Operations(Some(State::InDoubt)));
        assert_eq!(
            ok("POST /operations/acme/op1:settle"),
            Route::Settle("acme".parse().unwrap(), "op1".parse().unwrap())
        );
        assert_eq!(ok("POST /import"), Route::Import);
        assert_eq!(refused("POST /orphans"), ErrorCode::MethodNotAllowed);
        assert_eq!(refused("POST /orphans/gz/eksci-1:eat"), ErrorCode::NotFound);
        assert_eq!(refused("POST /orphans/GZ/eksci-1:adopt"), ErrorCode::InvalidArgument);
        assert_eq!(refused("GET /operations?state=done"), ErrorCode::InvalidArgument);
        assert!(of("GET /livez").is_none() && of("POST /operations/a/b/c").is_none());
    }

    #[test]
    fn a_settlement_says_what_it_must() {
        let of = |text: &str| serde_json::from_str::<Settle>(text);
        assert!(matches!(of(r#"{"outcome":"absent"}"#), Ok(Settle::Absent { attempt: None })));
        assert!(matches!(of(r#"{"outcome":"absent","attempt":2}"#), Ok(Settle::Absent { attempt: Some(2) })));
        assert!(matches!(of(r#"{"outcome":"applied","cloudId":"eci-1"}"#), Ok(Settle::Applied { .. })));
        assert!(of(r#"{"outcome":"applied"}"#).is_err() && of(r#"{"outcome":"maybe"}"#).is_err());
    }
}
