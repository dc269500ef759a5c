//! RFC 9457 problems, exactly as API-CONVENTIONS 3 has them.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use http_body_util::Full;
use meridian_model::{
    error::{ErrorCode, FieldError, Problem, QuotaShortage},
    operation::AttemptView,
};
use serde::Serialize;

use super::{
    encode::REPLAYED,
    key::{self, IDEMPOTENCY_KEY},
};
use crate::{http::Reply, refusal::Rejection};

/// Media type of a problem.
pub(super) const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
/// Problem type that IANA registers for exhausted rate limits (draft-ietf-httpapi-ratelimit-headers-11).
const QUOTA_EXCEEDED_TYPE: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";
/// Where our own problem types begin.
const TYPE_PREFIX: &str = "urn:meridian:problem:";
const WWW_AUTHENTICATE: HeaderValue = HeaderValue::from_static("Bearer realm=\"meridian\"");
const PROBLEM_INSTANCE: HeaderName = HeaderName::from_static("meridian-problem-instance");

/// A problem's members in the order in which they are written.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Body<'p> {
    #[serde(rename = "type")]
    kind: String,
    title: &'static str,
    status: u16,
    code: ErrorCode,
    detail: &'p str,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<&'p str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'p str>,
    retryable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    operation: Option<&'p str>,
    #[serde(skip_serializing_if = "Option::is_none", rename = "violated-policies")]
    violated_policies: Option<[&'p str; 1]>,
    #[serde(skip_serializing_if = "<[FieldError]>::is_empty")]
    errors: &'p [FieldError],
    #[serde(skip_serializing_if = "<[AttemptView]>::is_empty")]
    attempts: &'p [AttemptView],
    #[serde(skip_serializing_if = "Option::is_none")]
    quota: Option<&'p QuotaShortage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_seconds: Option<u32>,
}

impl<'p> Body<'p> {
    pub(super) fn new(problem: &'p Problem) -> Self {
        Self {
            kind: format!("{TYPE_PREFIX}{}", problem.code.as_str()),
            title: problem.code.title(),
            status: problem.code.status(),
            code: problem.code,
            detail: &problem.detail,
            instance: None,
            request_id: None,
            retryable: problem.code.retryable(),
            // A deadline that ends the wait for a known operation ends nothing else (R4).
            outcome: problem
                .operation
                .as_ref()
                .filter(|_| problem.code == ErrorCode::DeadlineExceeded)
                .map(|_| "unknown"),
            operation: problem.operation.as_ref().map(AsRef::as_ref),
            violated_policies: None,
            errors: &problem.errors,
            attempts: &problem.attempts,
            quota: problem.quota.as_deref(),
            retry_after_seconds: problem.retry_after_seconds,
        }
    }
}

/// Writes a rejection. What cannot be seen and what does not exist must be the same to the byte, so a 404 carries
/// the request's path and identifier in headers only.
pub(super) fn write(rejection: &Rejection, request_id: &str, path: &str) -> Reply {
    let problem = &*rejection.refusal.problem;
    let mut body = Body::new(problem);
    if problem.code != ErrorCode::NotFound {
        body.instance = Some(path);
        body.request_id = Some(request_id);
    }
    if rejection.outcome_unknown {
        body.outcome = Some("unknown");
    }
    if let Some(policy) = rejection.violated_policy.as_deref() {
        body.violated_policies = Some([policy]);
        body.kind = QUOTA_EXCEEDED_TYPE.to_owned();
    }
    // Strings, numbers and lists of them: nothing in a problem that JSON cannot hold.
    let bytes = serde_json::to_vec(&body).unwrap_or_default();
    let mut reply = Reply::new(Full::new(Bytes::from(bytes)));
    *reply.status_mut() = StatusCode::from_u16(problem.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    headers(rejection, path, &mut reply);
    reply
}

/// Writes a problem of the admin listener, which has nothing to hide and no request identifiers.
pub(crate) fn problem_reply(refusal: impl Into<Rejection>) -> Reply {
    write(&refusal.into(), "", "")
}

fn headers(rejection: &Rejection, path: &str, reply: &mut Reply) {
    let problem = &*rejection.refusal.problem;
    let headers = reply.headers_mut();
    headers.insert(header::CONTENT_TYPE, PROBLEM_JSON);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(seconds) = problem.retry_after_seconds {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if let Some(allow) = rejection.allow {
        headers.insert(header::ALLOW, HeaderValue::from_static(allow));
    }
    if problem.code == ErrorCode::Unauthenticated {
        headers.insert(header::WWW_AUTHENTICATE, WWW_AUTHENTICATE);
    }
    if let Some(key) = rejection.refusal.key.as_deref().and_then(|k| HeaderValue::from_str(&key::shown(k)).ok()) {
        headers.insert(IDEMPOTENCY_KEY, key);
    }
    if rejection.refusal.replayed {
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
    }
    if problem.code == ErrorCode::NotFound
        && let Ok(path) = HeaderValue::from_str(path)
    {
        headers.insert(PROBLEM_INSTANCE, path);
    }
}
