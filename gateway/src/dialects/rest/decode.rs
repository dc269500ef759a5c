//! From an HTTP request to an action.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use meridian_model::{
    error::ErrorCode,
    ids::{InstanceName, OperationId, ProjectName, RegionId, TenantId},
    quota::Line,
};
use percent_encoding::percent_decode_str;
use serde_json::Value;
use tokio::time::Instant;

use super::{Endpoint, Rest, body, encode, key::idempotency_key, manifest, query::Query};
use crate::{
    audit::query::Filter,
    config::quota::ROOT_NAME,
    dialects::{AnswerPlan, BodyLimits, Decoded, View},
    http::Meta,
    operation::{
        Action, CreateInstance, DeleteInstance, InstanceRef, ListAudit, ListConsumers, ListInstances, PageRequest,
        Refusal,
    },
    refusal::Rejection,
};

/// Items per page when the request does not say (API-CONVENTIONS 4).
const PAGE_SIZE_DEFAULT: usize = 50;
/// Larger wishes are coerced to this (API-CONVENTIONS 4).
const PAGE_SIZE_MAX: usize = 1000;
/// Consumers that are told when the request does not say, and at most: whoever uses most is of interest, not everybody.
const CONSUMERS: (usize, usize) = (10, 100);
/// Longest `Prefer: wait` (API-CONVENTIONS 2).
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Time kept back from the deadline to write the answer of a create that is still being placed.
const WAIT_MARGIN: Duration = Duration::from_millis(200);
const PREFER: HeaderName = HeaderName::from_static("prefer");
const MERIDIAN_VERSION: &str = env!("CARGO_PKG_VERSION");
/// The committed description; a test holds it equal to what the types give.
pub(super) const OPENAPI: &[u8] = include_bytes!("../../../openapi.json");

/// A request while it is decoded.
pub(super) struct Reading<'a> {
    pub(super) meta: &'a Meta,
    path: &'a str,
    pub(super) query: Option<&'a str>,
    pub(super) headers: &'a HeaderMap,
    pub(super) method: &'a Method,
}

impl Reading<'_> {
    /// A parameter of the path; what cannot be one does not exist.
    pub(super) fn param(&self, n: usize) -> Result<std::borrow::Cow<'_, str>, Rejection> {
        let range = self.meta.route.params.get(n).copied().unwrap_or_default();
        let raw = self.path.get(range.0..range.1).unwrap_or_default();
        percent_decode_str(raw).decode_utf8().map_err(|_| Refusal::not_found().into())
    }
}

impl Rest {
    /// Reads a request into an action, or answers it at once.
    pub(super) async fn read(
        &self,
        request: Request<Incoming>,
        meta: &Meta,
        limits: BodyLimits,
    ) -> Result<Decoded, Rejection> {
        let (parts, body) = request.into_parts();
        let reading = Reading {
            meta,
            path: parts.uri.path(),
            query: parts.uri.query(),
            headers: &parts.headers,
            method: &parts.method,
        };
        #[expect(clippy::wildcard_enum_match_arm, reason = "the rest is matched without a wildcard in `bodiless`")]
        match meta.route.endpoint {
            Endpoint::CreateInstance => self.create(&reading, body, limits).await,
            Endpoint::CreateTenant
            | Endpoint::PutTenant
            | Endpoint::PatchTenant
            | Endpoint::DeleteTenant
            | Endpoint::ListKeys
            | Endpoint::GetKey
            | Endpoint::CreateKey
            | Endpoint::RotateKey
            | Endpoint::RevokeKey
            | Endpoint::ListServiceAccounts
            | Endpoint::GetServiceAccount
            | Endpoint::CreateServiceAccount
            | Endpoint::DeleteServiceAccount
            | Endpoint::WhoAmI => self.directory(&reading, body, limits).await,
            Endpoint::ListPolicies
            | Endpoint::GetPolicy
            | Endpoint::PutPolicy
            | Endpoint::DeletePolicy
            | Endpoint::ListPlatformPolicies
            | Endpoint::GetPlatformPolicy
            | Endpoint::PutPlatformPolicy
            | Endpoint::DeletePlatformPolicy
            | Endpoint::TestPolicies => self.policies(&reading, body, limits).await,
            Endpoint::NotFound => Err(Refusal::not_found().into()),
            Endpoint::MethodNotAllowed(allow) => {
                let detail = format!("{} is not offered here; use {allow}", parts.method);
                let mut rejection = Rejection::new(ErrorCode::MethodNotAllowed, detail);
                rejection.allow = Some(allow);
                Err(rejection)
            }
            Endpoint::OpenApi => Ok(Decoded::Answered(encode::json_bytes(StatusCode::OK, Bytes::from_static(OPENAPI)))),
            Endpoint::Health => Ok(Decoded::Answered(status_answer(StatusCode::OK, "ok"))),
            Endpoint::Ready if self.health.is_ready() => Ok(Decoded::Answered(status_answer(StatusCode::OK, "ready"))),
            Endpoint::Ready => Ok(Decoded::Answered(status_answer(StatusCode::SERVICE_UNAVAILABLE, "not ready"))),
            Endpoint::Version => {
                let text = format!("{{\"version\":\"{MERIDIAN_VERSION}\",\"api\":\"v1\"}}");
                Ok(Decoded::Answered(encode::json_bytes(StatusCode::OK, Bytes::from(text))))
            }
            endpoint => self.bodiless(endpoint, &reading),
        }
    }

    /// The routes without a body.
    fn bodiless(&self, endpoint: Endpoint, r: &Reading<'_>) -> Result<Decoded, Rejection> {
        let mut plan = AnswerPlan::default();
        let action = match endpoint {
            Endpoint::GetInstance => {
                let query = Query::parse(r.query, &["minRevision"])?;
                plan.if_none_match = r.headers.get(header::IF_NONE_MATCH).cloned();
                Action::GetInstance(InstanceRef { min_revision: min_revision(&query)?, ..r.instance()? })
            }
            Endpoint::ExplainInstance => {
                Query::parse(r.query, &[])?;
                Action::ExplainInstance(r.instance()?)
            }
            Endpoint::ListInstances => self.list(r, &mut plan)?,
            Endpoint::DeleteInstance => delete(r, &mut plan)?,
            Endpoint::ListOperations => {
                let query = Query::parse(r.query, &["pageSize", "pageToken"])?;
                let tenant = r.tenant_or_all()?;
                let page = self.page(r, &query, &mut plan, &["operations"])?;
                Action::ListOperations(tenant, page)
            }
            Endpoint::GetOperation => {
                Query::parse(r.query, &[])?;
                let id = OperationId::new(r.param(1)?).map_err(|_| Refusal::not_found())?;
                Action::GetOperation(r.tenant_or_all()?, id)
            }
            Endpoint::ListQuotas => {
                Query::parse(r.query, &[])?;
                Action::ListQuotas(r.tenant_or_all()?)
            }
            Endpoint::GetQuota => {
                Query::parse(r.query, &[])?;
                Action::GetQuota(r.tenant_or_all()?)
            }
            Endpoint::GetProjectQuota => {
                Query::parse(r.query, &[])?;
                let project = ProjectName::new(r.param(1)?).map_err(|_| Refusal::not_found())?;
                Action::GetProjectQuota(r.tenant_or_all()?, project)
            }
            Endpoint::ListConsumers => consumers(r)?,
            Endpoint::GetTenant => {
                Query::parse(r.query, &[])?;
                Action::GetTenant(r.tenant_or_all()?)
            }
            Endpoint::ListAudit | Endpoint::ListTenantAudit => self.audit(r, &mut plan, endpoint)?,
            Endpoint::GetRegion | Endpoint::ListZones => {
                Query::parse(r.query, &[])?;
                plan.view = if endpoint == Endpoint::ListZones { View::Zones } else { View::Whole };
                Action::GetRegion(RegionId::new(r.param(0)?).map_err(|_| Refusal::not_found())?)
            }
            Endpoint::ListInstanceTypes => {
                let query = Query::parse(r.query, &["region"])?;
                let region = query.get("region").map(RegionId::new).transpose();
                let bad = |e| Rejection::new(ErrorCode::InvalidArgument, format!("region: {e}"));
                Action::ListInstanceTypes(region.map_err(bad)?)
            }
            Endpoint::ListTenants => {
                let query = Query::parse(r.query, &["pageSize", "pageToken"])?;
                Action::ListTenants(self.page(r, &query, &mut plan, &["tenants"])?)
            }
            Endpoint::ListRegions => no_query(r, Action::ListRegions)?,
            Endpoint::ListAdapters => no_query(r, Action::ListAdapters)?,
            _ => return Err(Refusal::internal("a route without a decoder").into()),
        };
        Ok(Decoded::Action(action, plan))
    }

    fn list(&self, r: &Reading<'_>, plan: &mut AnswerPlan) -> Result<Action, Rejection> {
        let known = ["pageSize", "pageToken", "labelSelector", "fieldSelector", "allowPartial", "minRevision"];
        let query = Query::parse(r.query, &known)?;
        let labels = query.labels("labelSelector")?;
        let fields = query.fields("fieldSelector")?;
        let complete_only = !query.flag("allowPartial", true)?;
        let tenant = r.tenant_or_all()?;
        let binding = ["instances", query.get("labelSelector").unwrap_or(""), query.get("fieldSelector").unwrap_or("")];
        let page = self.page(r, &query, plan, &binding)?;
        let min_revision = min_revision(&query)?;
        let list = ListInstances { tenant, page, labels, fields, complete_only, min_revision };
        Ok(Action::ListInstances(Box::new(list)))
    }

    fn audit(&self, r: &Reading<'_>, plan: &mut AnswerPlan, endpoint: Endpoint) -> Result<Action, Rejection> {
        /// What chooses records; a page token holds only for the same.
        const CHOICE: [&str; 8] = ["since", "until", "actor", "action", "decision", "object", "requestId", "operation"];
        let query = Query::parse(r.query, &[&CHOICE[..], &["pageSize", "pageToken"]].concat())?;
        let text = |name: &str| query.get(name).map(str::to_owned);
        let time = |name: &str| {
            let parsed = query.get(name).map(meridian_model::time::Time::parse).transpose();
            let bad = |_| format!("{name} is not a time of RFC 3339, for example 2027-01-01T00:00:00Z");
            parsed.map_err(|e| Rejection::new(ErrorCode::InvalidArgument, bad(e)))
        };
        let filter = Filter {
            tenant: None,
            since: time("since")?,
            until: time("until")?,
            actor: text("actor"),
            action: text("action"),
            decision: text("decision"),
            object: text("object"),
            request_id: text("requestId"),
            operation: text("operation"),
        };
        let tenant = if endpoint == Endpoint::ListTenantAudit { r.tenant_or_all()? } else { None };
        let words = CHOICE.map(|name| query.get(name).unwrap_or(""));
        let page = self.page(r, &query, plan, &[&["audit"][..], &words].concat())?;
        Ok(Action::ListAudit(Box::new(ListAudit { tenant, page, filter })))
    }

    /// Size and position of a page; a token holds only for the caller's tenant (or the platform), the path and these words.
    pub(super) fn page(
        &self,
        r: &Reading<'_>,
        query: &Query<'_>,
        plan: &mut AnswerPlan,
        words: &[&str],
    ) -> Result<PageRequest, Rejection> {
        let size = query.number("pageSize")?.unwrap_or(0);
        let size = if size == 0 { PAGE_SIZE_DEFAULT } else { size.min(PAGE_SIZE_MAX) };
        let caller = r.meta.caller()?;
        let mut binding = Vec::with_capacity(r.path.len() + 64);
        for word in [caller.scope_name(), r.path].iter().chain(words) {
            binding.extend_from_slice(&(word.len() as u64).to_be_bytes());
            binding.extend_from_slice(word.as_bytes());
        }
        let token = query.get("pageToken").filter(|t| !t.is_empty());
        let after = token.map(|t| self.tokens.open(&binding, t, self.clock.now())).transpose()?;
        plan.page_binding = Some(binding);
        Ok(PageRequest { size, after })
    }

    async fn create(&self, r: &Reading<'_>, incoming: Incoming, limits: BodyLimits) -> Result<Decoded, Rejection> {
        let tenant = r.tenant_or_all()?.ok_or_else(|| {
            Rejection::new(ErrorCode::InvalidArgument, "a create needs the tenant's name in the path, not '-'")
        })?;
        let query = Query::parse(r.query, &["validateOnly", "fieldValidation"])?;
        let validate_only = query.flag("validateOnly", false)?;
        let warn = field_validation(&query)?;
        let idempotency_key = idempotency_key(r.headers)?;
        body::check_media_type(r.headers)?;
        let bytes = body::read(incoming, limits).await?;
        let tree: Value = body::parse_tree(&bytes)?;
        let manifest = manifest::parse(&bytes, &tree, &tenant)?;
        let mut plan = AnswerPlan { validate_only, ..AnswerPlan::default() };
        if !manifest.unknown.is_empty() {
            if !warn {
                return Err(body::refuse(manifest.unknown));
            }
            plan.warnings = manifest.unknown.into_iter().map(|f| format!("{}: {}", f.pointer, f.detail)).collect();
        }
        let fingerprint = body::fingerprint(r.method.as_str(), r.meta.route.template, tenant.as_str(), &tree);
        let wait = wait(r, &mut plan, true)?;
        let create = CreateInstance {
            tenant,
            name: manifest.name,
            labels: manifest.labels,
            annotations: manifest.annotations,
            project: manifest.project,
            metadata_pointer: manifest.metadata_pointer,
            spec: manifest.spec,
            idempotency_key,
            fingerprint,
            validate_only,
            wait,
        };
        Ok(Decoded::Action(Action::CreateInstance(Box::new(create)), plan))
    }
}

impl Reading<'_> {
    /// The path's tenant; none for `-`.
    pub(super) fn tenant_or_all(&self) -> Result<Option<TenantId>, Rejection> {
        let name = self.param(0)?;
        if name == "-" {
            return Ok(None);
        }
        // The common case is the caller's own name: no second copy of it.
        if let Some(own) = self.meta.caller()?.tenant().filter(|own| own.as_str() == name) {
            return Ok(Some(own.clone()));
        }
        TenantId::new(name).map(Some).map_err(|_| Refusal::not_found().into())
    }

    fn instance(&self) -> Result<InstanceRef, Rejection> {
        let tenant = self.tenant_or_all()?;
        let name = InstanceName::new(self.param(1)?).map_err(|_| Refusal::not_found())?;
        Ok(InstanceRef { tenant, name, min_revision: None })
    }
}

/// The consumers of a line of a tenant's quota (`default`) or a project's.
fn consumers(r: &Reading<'_>) -> Result<Action, Rejection> {
    let query = Query::parse(r.query, &["line", "most"])?;
    let line = query.get("line").unwrap_or("instances").parse::<Line>();
    let line = line.map_err(|e| Rejection::new(ErrorCode::InvalidArgument, format!("line: {e}")))?;
    let most = query.number("most")?.filter(|most| *most > 0).unwrap_or(CONSUMERS.0).min(CONSUMERS.1);
    let project = match &*r.param(1)? {
        ROOT_NAME => None,
        name => Some(ProjectName::new(name).map_err(|_| Refusal::not_found())?),
    };
    Ok(Action::ListConsumers(Box::new(ListConsumers { tenant: r.tenant_or_all()?, project, line, most })))
}

/// `minRevision`: what a read shall show at least.
fn min_revision(query: &Query<'_>) -> Result<Option<u64>, Rejection> {
    let number = query.number("minRevision")?;
    Ok(number.map(|n| u64::try_from(n).unwrap_or(u64::MAX)))
}

fn no_query(r: &Reading<'_>, action: Action) -> Result<Action, Rejection> {
    Query::parse(r.query, &[])?;
    Ok(action)
}

fn delete(r: &Reading<'_>, plan: &mut AnswerPlan) -> Result<Action, Rejection> {
    let query = Query::parse(r.query, &["allowMissing", "validateOnly"])?;
    let allow_missing = query.flag("allowMissing", false)?;
    let validate_only = query.flag("validateOnly", false)?;
    plan.validate_only = validate_only;
    let wait = wait(r, plan, false)?;
    Ok(Action::DeleteInstance(DeleteInstance { instance: r.instance()?, allow_missing, validate_only, wait }))
}

/// `?fieldValidation=warn|strict`; true lets unknown fields pass with a warning.
fn field_validation(query: &Query<'_>) -> Result<bool, Rejection> {
    match query.get("fieldValidation") {
        None | Some("strict") => Ok(false),
        Some("warn") => Ok(true),
        Some(other) => {
            let detail = format!("fieldValidation is {other:?}; use strict or warn");
            Err(Rejection::new(ErrorCode::InvalidArgument, detail))
        }
    }
}

/// How long to wait for the final state: `Prefer: wait=N` or `respond-async`, else as long as the deadline allows
/// for a create and not at all for a delete.
fn wait(r: &Reading<'_>, plan: &mut AnswerPlan, by_default: bool) -> Result<Duration, Rejection> {
    let left = r.meta.deadline.saturating_duration_since(Instant::now()).saturating_sub(WAIT_MARGIN);
    let preferences = r.headers.get_all(PREFER).iter().filter_map(|v| v.to_str().ok());
    for preference in preferences.flat_map(|v| v.split(',')).map(str::trim) {
        if preference.eq_ignore_ascii_case("respond-async") {
            plan.preference_applied = Some(HeaderValue::from_static("respond-async"));
            return Ok(Duration::ZERO);
        }
        let Some(seconds) = preference.strip_prefix("wait=") else { continue };
        // RFC 7240: a preference that cannot be read is ignored.
        let Ok(seconds) = seconds.trim_matches('"').parse::<u32>() else { continue };
        let wished = Duration::from_secs(u64::from(seconds)).min(WAIT_MAX);
        plan.preference_applied = HeaderValue::from_str(&format!("wait={}", wished.as_secs())).ok();
        return Ok(wished.min(left));
    }
    Ok(if by_default { left } else { Duration::ZERO })
}

fn status_answer(status: StatusCode, word: &str) -> Response<Full<Bytes>> {
    encode::json_bytes(status, Bytes::from(format!("{{\"status\":\"{word}\"}}")))
}
