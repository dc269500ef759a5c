//! How a call to a vendor fails.

use std::time::Duration;

use meridian_model::{
    error::{Effect, FaultKind},
    operation::AttemptFault,
};

/// A failed call: what it means and what is known of its effect. There is no default for either.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} ({effect}): {code}: {message}", kind = kind.as_str(), effect = match effect { Effect::NotApplied => "not applied", Effect::Unknown => "effect unknown" })]
pub struct AdapterError {
    /// What it means, by the vendor's code first, then HTTP status, then transport.
    pub kind: FaultKind,
    /// What is known of its effect at the vendor.
    pub effect: Effect,
    /// The vendor's code verbatim, or `transport.*` for a failure below HTTP.
    pub code: String,
    /// Text for people, bounded to [`MESSAGE_LEN_MAX`] characters, without secrets.
    pub message: String,
    /// The vendor's request id.
    pub vendor_request_id: Option<String>,
    /// How long the vendor asks to wait.
    pub retry_after: Option<Duration>,
}

/// Longest message kept, in characters: enough for every documented vendor text, little enough for a journal.
pub const MESSAGE_LEN_MAX: usize = 400;

impl AdapterError {
    /// An error with its meaning, effect, code and text.
    #[must_use]
    pub fn new(kind: FaultKind, effect: Effect, code: impl Into<String>, message: impl AsRef<str>) -> Self {
        let message = message.as_ref().chars().filter(|c| !c.is_control()).take(MESSAGE_LEN_MAX).collect();
        Self { kind, effect, code: code.into(), message, vendor_request_id: None, retry_after: None }
    }

    /// The same with the vendor's request id.
    #[must_use]
    pub fn with_request_id(mut self, id: Option<String>) -> Self {
        self.vendor_request_id = id;
        self
    }
}

impl From<&AdapterError> for AttemptFault {
    fn from(e: &AdapterError) -> Self {
        Self {
            kind: e.kind,
            effect: e.effect,
            code: e.code.clone(),
            message: e.message.clone(),
            vendor_request_id: e.vendor_request_id.clone(),
        }
    }
}
