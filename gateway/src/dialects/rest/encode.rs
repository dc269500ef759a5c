//! From an outcome to an HTTP response.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;
use serde_json::Value;

use super::{
    Rest,
    key::{self, IDEMPOTENCY_KEY},
    problem,
};
use crate::{
    dialects::{AnswerPlan, View},
    http::Reply,
    operation::{Outcome, Refusal},
    refusal::Rejection,
    views,
};

/// Says that the answer is a repetition of an earlier one.
pub(super) const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
/// What a read of any gateway has to know to show what was written: its `minRevision`.
const REVISION: HeaderName = HeaderName::from_static("meridian-revision");
const MERIDIAN_PARTIAL: HeaderName = HeaderName::from_static("meridian-partial");
/// Seconds for which the writes of other gateways were not heard of; only where there are others.
const LEDGER_AGE: HeaderName = HeaderName::from_static("meridian-ledger-age");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// An answer belongs to its caller and may be kept only to be asked about again.
const PRIVATE: HeaderValue = HeaderValue::from_static("private, no-cache");
/// Room for what surrounds the items of a page.
const PAGE_FRAME_LEN: usize = 512;

/// A JSON response of bytes that are already written.
pub(super) fn json_bytes(status: StatusCode, bytes: Bytes) -> Reply {
    let mut reply = Reply::new(Full::new(bytes));
    *reply.status_mut() = status;
    reply.headers_mut().insert(header::CONTENT_TYPE, JSON);
    reply.headers_mut().insert(header::CACHE_CONTROL, PRIVATE);
    reply
}

fn json(status: StatusCode, value: &impl Serialize) -> Result<Reply, Rejection> {
    match serde_json::to_vec(value) {
        Ok(bytes) => Ok(json_bytes(status, Bytes::from(bytes))),
        Err(error) => Err(unwritable(&error)),
    }
}

fn set(reply: &mut Reply, name: HeaderName, value: &str) {
    // Ids, paths and keys are printable ASCII by their types; a value that is not is left out, never mangled.
    if let Ok(value) = HeaderValue::from_str(value) {
        reply.headers_mut().insert(name, value);
    }
}

/// A `Warning` header; what a header cannot hold is shown as `?`.
fn warn(reply: &mut Reply, text: &str) {
    let plain: String = text.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect();
    if let Ok(value) = HeaderValue::try_from(format!("299 - {}", Value::from(plain))) {
        reply.headers_mut().append(header::WARNING, value);
    }
}

/// `"etag"` as a strong entity tag.
fn etag(text: &str) -> Option<HeaderValue> {
    HeaderValue::try_from(format!("\"{text}\"")).ok()
}

/// Whether `If-None-Match` holds the tag, or any.
fn matches(condition: &HeaderValue, tag: &str) -> bool {
    let Ok(condition) = condition.to_str() else { return false };
    condition.split(',').map(|t| t.trim().trim_start_matches("W/").trim_matches('"')).any(|t| t == tag || t == "*")
}

impl Rest {
    /// Writes an answer.
    pub(super) fn write(&self, outcome: Outcome, plan: &AnswerPlan) -> Result<Reply, Rejection> {
        let mut reply = match outcome {
            Outcome::Instance(rendered, ledger) => return Ok(instance(&rendered, ledger.as_ref(), plan)),
            Outcome::Created { instance, key, replayed, revision, .. } => {
                created(&instance, (&*key, replayed), revision)?
            }
            Outcome::Accepted { operation, key } => accepted(&operation, key.as_deref())?,
            Outcome::Deleted => {
                let mut reply = Reply::new(Full::default());
                *reply.status_mut() = StatusCode::NO_CONTENT;
                reply
            }
            Outcome::Validated(validation) => json(StatusCode::OK, &validation)?,
            Outcome::Instances(page) => self.instances(&page, plan)?,
            Outcome::Explanation(explanation, ledger) => {
                let mut reply = json(StatusCode::OK, &with_problem(&*explanation, explanation.error.as_ref())?)?;
                add_ledger_age(&mut reply, ledger.as_ref());
                reply
            }
            Outcome::Operation(operation) => json(StatusCode::OK, &operation_json(&operation)?)?,
            Outcome::Operations(page) => {
                let items = page.items.iter().map(operation_json).collect::<Result<Vec<_>, _>>()?;
                self.collection(views::Page { items, next_after: page.next_after }, plan)?
            }
            Outcome::Policies(page) => self.collection(page, plan)?,
            Outcome::Policy(policy) => tagged(StatusCode::OK, &*policy, policy.etag.as_deref())?,
            Outcome::PolicyWritten { policy, created } => {
                made(&*policy, &policy.name, policy.etag.as_deref(), created)?
            }
            Outcome::PolicyTest(report) => json(StatusCode::OK, &report)?,
            Outcome::Quota(quota) => json(StatusCode::OK, &quota)?,
            Outcome::Quotas(page) => self.collection(page, plan)?,
            Outcome::Consumers(consumers) => json(StatusCode::OK, &consumers)?,
            Outcome::Audit(page, next_after) => {
                let next_page_token = self.next_token(next_after.as_deref(), plan)?;
                json(StatusCode::OK, &views::AuditPage { next_page_token, ..*page })?
            }
            Outcome::Tenants(page) => self.collection(page, plan)?,
            Outcome::Tenant(tenant) => tagged(StatusCode::OK, &*tenant, tenant.etag.as_deref())?,
            Outcome::TenantWritten { tenant, created } => {
                made(&*tenant, &tenant.name, tenant.etag.as_deref(), created)?
            }
            Outcome::Keys(page) => self.collection(page, plan)?,
            Outcome::Key(key) => tagged(StatusCode::OK, &*key, key.etag.as_deref())?,
            Outcome::KeyMade { key, created, replayed } => key_made(&key, created, replayed)?,
            Outcome::Accounts(page) => self.collection(page, plan)?,
            Outcome::Account(account) => tagged(StatusCode::OK, &*account, Some(&account.etag))?,
            Outcome::AccountMade { account, created: true } => {
                made(&*account, &account.name, Some(&account.etag), true)?
            }
            Outcome::AccountMade { account, created: false } => json(StatusCode::OK, &account)?,
            Outcome::WhoAmI(who) => json(StatusCode::OK, &who)?,
            Outcome::Regions(page) => self.collection(page, plan)?,
            Outcome::Region(region) if plan.view == View::Zones => {
                let items: Vec<_> = region.backends.into_iter().flat_map(|b| b.zones).collect();
                self.collection(views::Page { items, next_after: None }, plan)?
            }
            Outcome::Region(region) => json(StatusCode::OK, &region)?,
            Outcome::Adapters(page) => self.collection(page, plan)?,
            Outcome::InstanceTypes(page) => self.collection(page, plan)?,
            Outcome::Warned(outcome, warnings) => {
                let mut reply = self.write(*outcome, plan)?;
                warnings.iter().for_each(|w| warn(&mut reply, &format!("{}: {}", w.pointer, w.detail)));
                return Ok(reply);
            }
        };
        if let Some(applied) = &plan.preference_applied {
            reply.headers_mut().insert(PREFERENCE_APPLIED, applied.clone());
        }
        plan.warnings.iter().for_each(|w| warn(&mut reply, w));
        Ok(reply)
    }

    fn next_token(&self, after: Option<&str>, plan: &AnswerPlan) -> Result<Option<String>, Rejection> {
        match (after, &plan.page_binding) {
            (Some(after), Some(binding)) => Ok(Some(self.tokens.seal(binding, after, self.clock.now())?)),
            (None, _) | (_, None) => Ok(None),
        }
    }

    fn collection<T: Serialize>(&self, page: views::Page<T>, plan: &AnswerPlan) -> Result<Reply, Rejection> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Body<T> {
            items: Vec<T>,
            #[serde(skip_serializing_if = "Option::is_none")]
            next_page_token: Option<String>,
        }
        let next_page_token = self.next_token(page.next_after.as_deref(), plan)?;
        json(StatusCode::OK, &Body { items: page.items, next_page_token })
    }

    /// A page of instances, put together from the bytes that each was rendered to once.
    fn instances(&self, page: &views::InstancePage, plan: &AnswerPlan) -> Result<Reply, Rejection> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Tail<'p> {
            #[serde(skip_serializing_if = "Option::is_none")]
            next_page_token: Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            revision: Option<String>,
            unreachable: &'p [String],
            freshness: &'p [views::Freshness],
            #[serde(skip_serializing_if = "Option::is_none")]
            ledger: Option<&'p views::LedgerFreshness>,
        }
        let next_page_token = self.next_token(page.next_after.as_deref(), plan)?;
        let tail = Tail {
            next_page_token,
            revision: page.revision.map(|revision| revision.to_string()),
            unreachable: &page.unreachable,
            freshness: &page.freshness,
            ledger: page.ledger.as_ref(),
        };
        let tail = serde_json::to_vec(&tail).map_err(|error| unwritable(&error))?;
        let items: Vec<Bytes> = page.items.iter().map(|item| item.json()).collect();
        let len = items.iter().map(|i| i.len() + 1).sum::<usize>() + tail.len() + PAGE_FRAME_LEN;
        let mut body = Vec::with_capacity(len);
        body.extend_from_slice(b"{\"items\":[");
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                body.push(b',');
            }
            body.extend_from_slice(item);
        }
        body.extend_from_slice(b"],");
        // The tail is an object with at least two members; its opening brace is ours.
        body.extend_from_slice(tail.get(1..).unwrap_or(b"}"));
        let mut reply = json_bytes(StatusCode::OK, Bytes::from(body));
        if !page.unreachable.is_empty() {
            set(&mut reply, MERIDIAN_PARTIAL, &page.unreachable.join(", "));
        }
        if let Some(oldest) = page.freshness.iter().filter_map(|f| f.age_ms).max() {
            reply.headers_mut().insert(header::AGE, HeaderValue::from(oldest / 1000));
        }
        add_ledger_age(&mut reply, page.ledger.as_ref());
        Ok(reply)
    }
}

/// A resource with its entity tag.
fn tagged(status: StatusCode, value: &impl Serialize, tag: Option<&str>) -> Result<Reply, Rejection> {
    let mut reply = json(status, value)?;
    if let Some(tag) = tag.and_then(etag) {
        reply.headers_mut().insert(header::ETAG, tag);
    }
    Ok(reply)
}

/// A resource that was written.
fn made(value: &impl Serialize, name: &str, tag: Option<&str>, created: bool) -> Result<Reply, Rejection> {
    let mut reply = tagged(if created { StatusCode::CREATED } else { StatusCode::OK }, value, tag)?;
    if created {
        set(&mut reply, header::LOCATION, &format!("/v1/{name}"));
    }
    Ok(reply)
}

fn add_ledger_age(reply: &mut Reply, ledger: Option<&views::LedgerFreshness>) {
    if let Some(ledger) = ledger {
        reply.headers_mut().insert(LEDGER_AGE, HeaderValue::from(ledger.age_ms / 1000));
    }
}

/// The hot path: the bytes are sent as they are.
fn instance(rendered: &views::Rendered, ledger: Option<&views::LedgerFreshness>, plan: &AnswerPlan) -> Reply {
    let tag = &rendered.instance.etag;
    let mut reply = if plan.if_none_match.as_ref().is_some_and(|c| matches(c, tag)) {
        let mut reply = Reply::new(Full::default());
        *reply.status_mut() = StatusCode::NOT_MODIFIED;
        reply
    } else {
        json_bytes(StatusCode::OK, rendered.json())
    };
    if let Some(tag) = etag(tag) {
        reply.headers_mut().insert(header::ETAG, tag);
    }
    add_ledger_age(&mut reply, ledger);
    reply
}

/// A key that was made or given another secret.
fn key_made(key: &views::ApiKey, created: bool, replayed: bool) -> Result<Reply, Rejection> {
    let mut reply = made(key, &key.name, key.etag.as_deref(), created)?;
    // It holds a secret: not even the caller's own cache keeps it.
    reply.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if replayed {
        reply.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(reply)
}

fn created(instance: &views::Instance, (key, replayed): (&str, bool), revision: u64) -> Result<Reply, Rejection> {
    let mut reply = json(StatusCode::CREATED, instance)?;
    set(&mut reply, REVISION, &revision.to_string());
    set(&mut reply, header::LOCATION, &format!("/v1/{}", instance.name));
    set(&mut reply, IDEMPOTENCY_KEY, &key::shown(key));
    if let Some(tag) = etag(&instance.etag) {
        reply.headers_mut().insert(header::ETAG, tag);
    }
    if replayed {
        reply.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(reply)
}

fn accepted(operation: &views::Operation, key: Option<&str>) -> Result<Reply, Rejection> {
    let mut reply = json(StatusCode::ACCEPTED, &operation_json(operation)?)?;
    set(&mut reply, header::LOCATION, &format!("/v1/{}", operation.name));
    set(&mut reply, REVISION, &operation.revision);
    if let Some(key) = key {
        set(&mut reply, IDEMPOTENCY_KEY, &key::shown(key));
    }
    Ok(reply)
}

type Raw = Box<serde_json::value::RawValue>;

fn unwritable(error: &serde_json::Error) -> Rejection {
    Refusal::internal(format_args!("an answer could not be written: {error}")).into()
}

/// An operation whose error, if it has one, is a whole problem object.
fn operation_json(operation: &views::Operation) -> Result<Raw, Rejection> {
    with_problem(operation, operation.error.as_ref())
}

/// The value as JSON in its own order of members, with `error` in place of what the type says of it.
fn with_problem(value: &impl Serialize, error: Option<&meridian_model::error::Problem>) -> Result<Raw, Rejection> {
    let write = || {
        let Some(error) = error else { return serde_json::value::to_raw_value(value) };
        let mut whole = serde_json::to_value(value)?;
        if let Some(object) = whole.as_object_mut() {
            object.insert("error".to_owned(), serde_json::to_value(problem::Body::new(error))?);
        }
        serde_json::value::to_raw_value(&whole)
    };
    write().map_err(|error| unwritable(&error))
}
