//! The routes of tenants, keys and service accounts: from a request to an action.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, header};
use hyper::body::Incoming;
use meridian_model::{
    error::ErrorCode,
    ids::{ProfileName, TenantId},
    quantity::Span,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{Endpoint, Rest, body, decode::Reading, key::idempotency_key, query::Query};
use crate::{
    dialects::{AnswerPlan, BodyLimits, Class, Decoded},
    operation::{
        Action, Refusal,
        directory::{DirectoryAction, NewAccount, NewKey},
        writing::Condition,
    },
    refusal::Rejection,
};

#[derive(Debug, Default, Deserialize)]
struct Rotate {
    #[serde(default)]
    grace: Option<Span>,
}

impl Rest {
    /// Reads a request of these routes.
    pub(super) async fn directory(
        &self,
        r: &Reading<'_>,
        incoming: Incoming,
        limits: BodyLimits,
    ) -> Result<Decoded, Rejection> {
        let mut plan = AnswerPlan::default();
        let known: &[&str] = match (r.meta.route.endpoint, r.meta.route.class) {
            (Endpoint::ListKeys | Endpoint::ListServiceAccounts, _) => &["pageSize", "pageToken"],
            (_, Class::Change) => &["validateOnly"],
            _ => &[],
        };
        let query = Query::parse(r.query, known)?;
        plan.validate_only = query.flag("validateOnly", false)?;
        let condition = condition(r.headers)?;
        let account = || {
            let name = ProfileName::new(r.param(1)?).map_err(|_| Refusal::not_found())?;
            Ok::<_, Rejection>(name)
        };
        let action = match r.meta.route.endpoint {
            Endpoint::CreateTenant => {
                let (_, tree) = document(r.headers, incoming, limits).await?;
                let name = tree.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
                let name = name.parse().map_err(|e: meridian_model::ids::IdError| {
                    body::refuse(vec![body::fault("/metadata/name", "invalid", e.to_string())])
                })?;
                DirectoryAction::CreateTenant(name, tree)
            }
            Endpoint::PutTenant => {
                let name = r.tenant_or_all()?.ok_or_else(Refusal::not_found)?;
                let (_, tree) = document(r.headers, incoming, limits).await?;
                DirectoryAction::PutTenant(name, tree, condition)
            }
            Endpoint::PatchTenant => {
                let patch = body::patch(r.headers, incoming, limits).await?;
                DirectoryAction::PatchTenant(r.tenant_or_all()?, patch, condition)
            }
            Endpoint::DeleteTenant => DirectoryAction::DeleteTenant(r.tenant_or_all()?, condition),
            Endpoint::ListKeys => {
                DirectoryAction::ListKeys(r.tenant_or_all()?, self.page(r, &query, &mut plan, &["keys"])?)
            }
            Endpoint::GetKey => DirectoryAction::GetKey(r.tenant_or_all()?, r.param(1)?.into_owned()),
            Endpoint::CreateKey => {
                let key = idempotency_key(r.headers)?;
                let (bytes, tree) = document(r.headers, incoming, limits).await?;
                let wish: NewKey = typed(&bytes)?;
                let tenant = r.tenant_or_all()?;
                let fingerprint = fingerprint(r, tenant.as_ref(), &tree)?;
                DirectoryAction::CreateKey { tenant, wish, key, fingerprint }
            }
            Endpoint::RotateKey => {
                let key = idempotency_key(r.headers)?;
                let bytes = body::read(incoming, limits).await?;
                let bytes = if bytes.is_empty() { Bytes::from_static(b"{}") } else { bytes };
                let (wish, tree) = (typed::<Rotate>(&bytes)?, body::parse_tree(&bytes)?);
                let (tenant, id) = (r.tenant_or_all()?, r.param(1)?.into_owned());
                let fingerprint = fingerprint(r, tenant.as_ref(), &tree)?;
                DirectoryAction::RotateKey { tenant, id, grace: wish.grace, condition, key, fingerprint }
            }
            Endpoint::RevokeKey => DirectoryAction::RevokeKey(r.tenant_or_all()?, r.param(1)?.into_owned(), condition),
            Endpoint::ListServiceAccounts => {
                DirectoryAction::ListAccounts(r.tenant_or_all()?, self.page(r, &query, &mut plan, &["accounts"])?)
            }
            Endpoint::GetServiceAccount => DirectoryAction::GetAccount(r.tenant_or_all()?, account()?),
            Endpoint::CreateServiceAccount => {
                let (bytes, _) = document(r.headers, incoming, limits).await?;
                DirectoryAction::CreateAccount(r.tenant_or_all()?, typed::<NewAccount>(&bytes)?)
            }
            Endpoint::DeleteServiceAccount => DirectoryAction::DeleteAccount(r.tenant_or_all()?, account()?, condition),
            Endpoint::WhoAmI => DirectoryAction::WhoAmI,
            _ => return Err(Refusal::internal("a route without a decoder").into()),
        };
        let validate_only = plan.validate_only;
        Ok(Decoded::Action(Action::Directory(Box::new(action), validate_only), plan))
    }
}

/// `validateOnly`, the only parameter of a change.
pub(super) fn validate_only(r: &Reading<'_>, plan: &mut AnswerPlan) -> Result<bool, Rejection> {
    plan.validate_only = Query::parse(r.query, &["validateOnly"])?.flag("validateOnly", false)?;
    Ok(plan.validate_only)
}

pub(super) async fn document(
    headers: &HeaderMap,
    incoming: Incoming,
    limits: BodyLimits,
) -> Result<(Bytes, Value), Rejection> {
    body::check_media_type(headers)?;
    let bytes = body::read(incoming, limits).await?;
    let tree = body::parse_tree(&bytes)?;
    if tree.is_object() {
        Ok((bytes, tree))
    } else {
        Err(body::refuse(vec![body::fault("", "invalid", "the body must be a JSON object")]))
    }
}

/// What tells a request from another one under the same `Idempotency-Key`.
fn fingerprint(r: &Reading<'_>, tenant: Option<&TenantId>, tree: &Value) -> Result<String, Rejection> {
    let scope = r.meta.caller()?.scope_name();
    let name = tenant.map_or(scope, AsRef::as_ref);
    Ok(body::fingerprint(r.method.as_str(), r.meta.route.template, name, tree))
}

pub(super) fn typed<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, Rejection> {
    let typed = body::parse_typed::<T>(bytes)?;
    if typed.unknown.is_empty() { Ok(typed.value) } else { Err(body::refuse(typed.unknown)) }
}

/// `If-Match` or `If-None-Match: *`.
pub(super) fn condition(headers: &HeaderMap) -> Result<Condition, Rejection> {
    let text = |name: HeaderName| headers.get(name).map(|v| v.to_str().unwrap_or_default().trim().to_owned());
    match (text(header::IF_MATCH), text(header::IF_NONE_MATCH)) {
        (None, None) => Ok(Condition::None),
        (Some(tag), None) => {
            let revision = tag.trim_matches('"').strip_prefix('r').and_then(|n| n.parse().ok());
            Ok(Condition::Match(revision))
        }
        (None, Some(any)) if any == "*" => Ok(Condition::Absent),
        (None, Some(_)) => Err(Rejection::new(ErrorCode::InvalidArgument, "If-None-Match of a write takes only *")),
        (Some(_), Some(_)) => {
            Err(Rejection::new(ErrorCode::InvalidArgument, "If-Match and If-None-Match contradict each other"))
        }
    }
}
