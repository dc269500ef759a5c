//! What stops a request inside the HTTP stack, before a dialect gives it words.
//!
//! The operation stack speaks of [`Refusal`]s; the HTTP stack adds what only it knows: which rate limit was hit,
//! which methods are allowed, that the outcome of a mutation is open. [`crate::http::rescue`] is the only place
//! where either becomes a response.

use std::sync::Arc;

use http::HeaderValue;
use meridian_model::error::{ErrorCode, Problem};

use crate::operation::Refusal;

/// A refusal on its way up the HTTP stack.
#[derive(Debug, Clone)]
pub struct Rejection {
    /// The refusal; its problem is public.
    pub refusal: Refusal,
    /// `RateLimit` headers of the tenant, once it is known.
    pub limits: Option<Box<LimitHeaders>>,
    /// Name of the rate limit that was hit.
    pub violated_policy: Option<Arc<str>>,
    /// Methods the path offers, for a 405.
    pub allow: Option<&'static str>,
    /// A mutation was handed on and its end is not known.
    pub outcome_unknown: bool,
}

impl Rejection {
    /// A rejection with nothing but a code and a text.
    #[must_use]
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Refusal::new(code, detail).into()
    }

    /// The stable code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        self.refusal.problem.code
    }
}

impl From<Refusal> for Rejection {
    fn from(refusal: Refusal) -> Self {
        let outcome_unknown = refusal.outcome_unknown;
        Self { refusal, limits: None, violated_policy: None, allow: None, outcome_unknown }
    }
}

impl From<Problem> for Rejection {
    fn from(problem: Problem) -> Self {
        Refusal::from(problem).into()
    }
}

/// The two headers of draft-ietf-httpapi-ratelimit-headers.
#[derive(Debug, Clone)]
pub struct LimitHeaders {
    /// `RateLimit-Policy`.
    pub policy: HeaderValue,
    /// `RateLimit`.
    pub state: HeaderValue,
}
