//! What may go wrong, for callers ([`ErrorCode`], [`Problem`]) and at a backend ([`FaultKind`], [`Effect`]).

use serde::{Deserialize, Serialize};

use crate::{
    ids::{OperationId, ProjectName},
    instance::word_enum,
    operation::AttemptView,
};

word_enum!(
    /// The public error codes. Each says what the caller should do; see [`ErrorCode::advice`].
    ErrorCode {
        /// Something in the request is not valid.
        #[default] InvalidArgument = "invalid-argument",
        /// The request has a field that does not exist.
        UnknownField = "unknown-field",
        /// The page token is not one of ours, or belongs to another query.
        PageTokenInvalid = "page-token-invalid",
        /// No credential, or one that is not valid.
        Unauthenticated = "unauthenticated",
        /// The credential may not do this.
        PermissionDenied = "permission-denied",
        /// A policy of the tenant or platform forbids it.
        PolicyDenied = "policy-denied",
        /// The tenant's quota does not hold it.
        QuotaExceeded = "quota-exceeded",
        /// It does not exist, or the caller may not know that it does.
        NotFound = "not-found",
        /// The method is not offered on this path.
        MethodNotAllowed = "method-not-allowed",
        /// The page token has expired.
        PageExpired = "page-expired",
        /// The name is taken.
        AlreadyExists = "already-exists",
        /// The state does not allow it now.
        Conflict = "conflict",
        /// What is there is not what the request saw.
        EtagMismatch = "etag-mismatch",
        /// The request must say what it saw.
        PreconditionRequired = "precondition-required",
        /// The body is larger than allowed.
        PayloadTooLarge = "payload-too-large",
        /// The body's media type is not one we read.
        UnsupportedMediaType = "unsupported-media-type",
        /// The idempotency key was used with another body.
        IdempotencyKeyReused = "idempotency-key-reused",
        /// No backend can run this spec as it is.
        Unplaceable = "unplaceable",
        /// Too many requests.
        RateLimited = "rate-limited",
        /// Every candidate was tried or ruled out; none has capacity now.
        NoCapacity = "no-capacity",
        /// The gateway has more work than it can take.
        Overloaded = "overloaded",
        /// No usable data or path to the region.
        RegionUnavailable = "region-unavailable",
        /// The ledger cannot be reached.
        StoreUnavailable = "store-unavailable",
        /// The ledger may have lost writes and is being rebuilt.
        StoreRecovering = "store-recovering",
        /// The issuer of the token cannot be asked for its keys, so whether the token is good is not known.
        IssuerUnavailable = "issuer-unavailable",
        /// What was asked to be shown is not known here yet.
        RevisionNotReached = "revision-not-reached",
        /// A backend answered in a way that ends the operation.
        BackendError = "backend-error",
        /// The time allowed has passed.
        DeadlineExceeded = "deadline-exceeded",
        /// The operation was cancelled by a delete.
        Cancelled = "cancelled",
        /// A fault of ours.
        Internal = "internal",
    }
);

impl ErrorCode {
    /// Every code, in the order of the catalogue.
    pub const ALL: [Self; 30] = [
        Self::InvalidArgument,
        Self::UnknownField,
        Self::PageTokenInvalid,
        Self::Unauthenticated,
        Self::PermissionDenied,
        Self::PolicyDenied,
        Self::QuotaExceeded,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::PageExpired,
        Self::AlreadyExists,
        Self::Conflict,
        Self::EtagMismatch,
        Self::PreconditionRequired,
        Self::PayloadTooLarge,
        Self::UnsupportedMediaType,
        Self::IdempotencyKeyReused,
        Self::Unplaceable,
        Self::RateLimited,
        Self::NoCapacity,
        Self::Overloaded,
        Self::RegionUnavailable,
        Self::StoreUnavailable,
        Self::StoreRecovering,
        Self::IssuerUnavailable,
        Self::RevisionNotReached,
        Self::BackendError,
        Self::DeadlineExceeded,
        Self::Cancelled,
        Self::Internal,
    ];

    /// The HTTP status of the REST dialect.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::InvalidArgument | Self::UnknownField | Self::PageTokenInvalid => 400,
            Self::Unauthenticated => 401,
            Self::PermissionDenied | Self::PolicyDenied | Self::QuotaExceeded => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::PageExpired => 410,
            Self::AlreadyExists | Self::Conflict | Self::Cancelled => 409,
            Self::EtagMismatch => 412,
            Self::PreconditionRequired => 428,
            Self::PayloadTooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::IdempotencyKeyReused | Self::Unplaceable => 422,
            Self::RateLimited => 429,
            Self::NoCapacity
            | Self::Overloaded
            | Self::RegionUnavailable
            | Self::StoreUnavailable
            | Self::StoreRecovering
            | Self::IssuerUnavailable
            | Self::RevisionNotReached => 503,
            Self::BackendError => 502,
            Self::DeadlineExceeded => 504,
            Self::Internal => 500,
        }
    }

    /// Whether the same request may succeed later without a change.
    #[must_use]
    pub const fn retryable(self) -> bool {
        matches!(self.status(), 429 | 502 | 503 | 504)
    }

    /// Short title for people.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::InvalidArgument => "The request is not valid",
            Self::UnknownField => "The request has unknown fields",
            Self::PageTokenInvalid => "The page token is not valid",
            Self::Unauthenticated => "A valid credential is required",
            Self::PermissionDenied => "Not permitted",
            Self::PolicyDenied => "Denied by policy",
            Self::QuotaExceeded => "The quota is exhausted",
            Self::NotFound => "Not found",
            Self::MethodNotAllowed => "Method not allowed",
            Self::PageExpired => "The page token has expired",
            Self::AlreadyExists => "The name is already taken",
            Self::Conflict => "The current state does not allow this",
            Self::EtagMismatch => "The resource has changed",
            Self::PreconditionRequired => "The request must be conditional",
            Self::PayloadTooLarge => "The body is too large",
            Self::UnsupportedMediaType => "Unsupported media type",
            Self::IdempotencyKeyReused => "The idempotency key was used with another request",
            Self::Unplaceable => "No backend can run this instance",
            Self::RateLimited => "Too many requests",
            Self::NoCapacity => "No capacity",
            Self::Overloaded => "The gateway is overloaded",
            Self::RegionUnavailable => "The region is unavailable",
            Self::StoreUnavailable => "The ledger is unavailable",
            Self::StoreRecovering => "The ledger is being rebuilt",
            Self::IssuerUnavailable => "The token's issuer is unavailable",
            Self::RevisionNotReached => "The revision is not known here yet",
            Self::BackendError => "A backend refused the request",
            Self::DeadlineExceeded => "The deadline has passed",
            Self::Cancelled => "The operation was cancelled",
            Self::Internal => "Internal error",
        }
    }

    /// What the caller should do.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::InvalidArgument => "Mend the fields listed under errors and send the request again.",
            Self::UnknownField => "Remove or rename the fields listed under errors.",
            Self::PageTokenInvalid => {
                "Send the token with the same filter and order it was given for, or start without one."
            }
            Self::Unauthenticated => "Send a valid API key as 'Authorization: Bearer KEY'.",
            Self::PermissionDenied => "Use a credential with the needed role, or ask the tenant's administrator.",
            Self::PolicyDenied => "Change the fields listed under errors so that the policy holds.",
            Self::QuotaExceeded => {
                "Delete instances, ask for less, or have the quota raised; waiting alone does not help."
            }
            Self::NotFound => "Check the name and the tenant; list the collection to see what exists.",
            Self::MethodNotAllowed => "Use one of the methods in the Allow header.",
            Self::PageExpired => "List again from the first page.",
            Self::AlreadyExists => "Choose another name, or delete the existing instance first.",
            Self::Conflict => "Read the resource again and decide anew.",
            Self::EtagMismatch => "Read the resource again and repeat the change with its new ETag.",
            Self::PreconditionRequired => "Read the resource and send its ETag as If-Match.",
            Self::PayloadTooLarge => "Send a smaller body; the limit is in the detail.",
            Self::UnsupportedMediaType => "Send 'Content-Type: application/json'.",
            Self::IdempotencyKeyReused => "Use a new key for a new request, or repeat the first body unchanged.",
            Self::Unplaceable => "Change what every backend refuses; each refusal is listed with its field.",
            Self::RateLimited => "Wait for the time in Retry-After, then repeat the request.",
            Self::NoCapacity => {
                "Try later with a new idempotency key, or allow more regions, zones or sizes; the attempts say what each answered."
            }
            Self::Overloaded => "Wait for the time in Retry-After, then repeat the request.",
            Self::RegionUnavailable => "Try later (a create with a new idempotency key), or allow other regions.",
            Self::StoreUnavailable | Self::StoreRecovering => {
                "Repeat the request after Retry-After; a create with the same idempotency key."
            }
            Self::IssuerUnavailable => "Repeat the request after Retry-After, or use an API key.",
            Self::RevisionNotReached => "Repeat the read after Retry-After, or without minRevision.",
            Self::BackendError => "Look at the attempts; if the reason is not in your spec, tell the operator.",
            Self::DeadlineExceeded => {
                "Repeat the request; a create with the same idempotency key, or follow its operation."
            }
            Self::Cancelled => "Nothing; the instance was deleted while it was being placed.",
            Self::Internal => "Report the request id to the operator.",
        }
    }
}

/// One fault in a request body.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FieldError {
    /// JSON pointer into the request body.
    pub pointer: String,
    /// Stable code of the fault, for example `unknown-field`, `required`, `out-of-range`.
    pub code: String,
    /// What is wrong, for people.
    pub detail: String,
    /// How to mend it, if that can be said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The policy that says so, if it is one's word: `policies/NAME` or `tenants/TENANT/policies/NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// The rule of the policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Line in the value that the pointer leads to, from 1, where that is an expression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// Column in characters, from 1, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<u32>,
}

/// An RFC 9457 problem, without what only the HTTP layer knows (`instance`, `requestId`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// Stable code.
    pub code: ErrorCode,
    /// What happened, for people; never contains credentials, account ids or raw vendor text of another tenant.
    pub detail: String,
    /// Faults by field, all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// What was tried, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<AttemptView>,
    /// The exhausted quota.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<Box<QuotaShortage>>,
    /// The operation whose outcome is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<OperationId>,
    /// Seconds to wait before a retry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u32>,
}

impl Problem {
    /// A problem with nothing but its code and a detail.
    #[must_use]
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            errors: Vec::new(),
            attempts: Vec::new(),
            quota: None,
            operation: None,
            retry_after_seconds: None,
        }
    }

    /// The same with faults by field.
    #[must_use]
    pub fn with_errors(mut self, errors: Vec<FieldError>) -> Self {
        self.errors = errors;
        self
    }

    /// The same with a time to wait.
    #[must_use]
    pub fn with_retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_seconds = Some(seconds);
        self
    }
}

/// Which dimension of a quota is exhausted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct QuotaShortage {
    /// `instances`, `cpu`, `memory`, `gpu` or `publicIps`; of a quota tree a line such as `gpu:T4@region:ap-guangzhou`.
    pub dimension: String,
    /// The node of the tenant's quota tree whose quota it is; none: the tenant's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<ProjectName>,
    /// The limit, in the dimension's canonical text.
    pub limit: String,
    /// What is used and reserved now.
    pub used: String,
    /// What was asked for on top.
    pub requested: String,
    /// What could still be borrowed beyond the node's own quota; none where nothing is lent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub borrowable: Option<String>,
    /// Instances that are being removed because they borrow what is short; none when nothing is taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reclaiming: Option<u32>,
}

word_enum!(
    /// What a backend's failure means, over all vendors.
    FaultKind {
        /// Our rate is too high; pacing, not a fault of the region.
        Throttled = "throttled",
        /// The account's quota there is exhausted.
        Quota = "quota",
        /// The zone has no stock, or the subnet no address.
        NoCapacity = "no-capacity",
        /// A passing fault of the vendor.
        Temporary = "temporary",
        /// The instance's state does not allow it now.
        State = "state",
        /// The request is wrong and will be wrong everywhere.
        BadRequest = "bad-request",
        /// The request is wrong for this place, for example a subnet that is not there.
        WrongPlace = "wrong-place",
        /// The id does not exist.
        NotFound = "not-found",
        /// Our credentials are refused.
        Credentials = "credentials",
        /// The account may not buy: money, verification, risk control.
        Account = "account",
        /// The API is gone.
        Gone = "gone",
        /// The call was not made: the circuit breaker is open.
        BreakerOpen = "breaker-open",
        /// No connection could be made.
        Unreachable = "unreachable",
        /// No answer in time, or the connection was cut.
        Lost = "lost",
        /// An answer we do not understand.
        #[default] Unexpected = "unexpected",
    }
);

impl FaultKind {
    /// Counts against the region's health: a fault of the region or the way to it, not of the request.
    #[must_use]
    pub const fn is_region_fault(self) -> bool {
        matches!(self, Self::Temporary | Self::Unreachable | Self::Lost | Self::Unexpected | Self::Gone)
    }

    /// The next candidate may succeed where this one did not.
    #[must_use]
    pub const fn try_elsewhere(self) -> bool {
        !matches!(self, Self::BadRequest | Self::State | Self::NotFound)
    }
}

/// What is known of a failed call's effect. There is no default on purpose: who reports a failure must say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// Nothing happened at the vendor and nothing will.
    NotApplied,
    /// It may have happened, or may still.
    Unknown,
}
