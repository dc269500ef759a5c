//! What this gateway had a cloud do: a record when a call that changes something is begun, and one when it has ended.
//!
//! Added without waiting, because the driver must not be slowed by the disk; the intent journal and the record of the
//! operation are what its promises rest on. One that finds no place is counted.

use meridian_adapters::{AdapterError, receipt};
use meridian_model::{
    error::Effect as Known,
    ids::{BackendId, OperationId, TenantId},
};
use serde::Serialize;

use super::{Audit, record::Entry};

/// A call that changes something at a cloud.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Effect {
    /// `create` or `delete`.
    pub action: &'static str,
    /// Where.
    pub backend: String,
    /// The vendor's id, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cloud_id: Option<String>,
    /// The name at the vendor.
    pub cloud_name: String,
    /// The vendor's code, of a call that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The operation that it is for; none for what the reconciler removes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<OperationId>,
    /// `begun`, `applied`, `not-applied` or `unknown`.
    pub state: &'static str,
    /// Whose instance it is, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// The vendor's own name of the request, for a question to the vendor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vendor_request_id: Option<String>,
}

/// What a call to a cloud is for.
#[derive(Debug, Clone, Copy)]
pub struct Cause<'a> {
    /// Where.
    pub backend: &'a BackendId,
    /// The name at the vendor.
    pub cloud_name: &'a str,
    /// Whose instance it is.
    pub tenant: Option<&'a TenantId>,
    /// The operation.
    pub operation: Option<&'a OperationId>,
}

impl Audit {
    /// Makes a call that changes something, with its two records. `id` is the vendor's id: known before, or told by the
    /// answer.
    ///
    /// # Errors
    /// The call's.
    pub async fn effect<T>(
        &self,
        (action, cause): (&'static str, Cause<'_>),
        id: impl Fn(Option<&T>) -> Option<String>,
        call: impl Future<Output = Result<T, AdapterError>>,
    ) -> Result<T, AdapterError> {
        if !self.is_on() {
            return call.await;
        }
        let begun = Effect {
            action,
            backend: cause.backend.to_string(),
            cloud_id: id(None),
            cloud_name: cause.cloud_name.to_owned(),
            code: None,
            operation: cause.operation.cloned(),
            state: "begun",
            tenant: cause.tenant.cloned(),
            vendor_request_id: None,
        };
        self.note(Entry::Effect(Box::new(begun.clone())));
        let (result, told) = receipt::kept(call).await;
        let ended = match &result {
            Ok(answer) => Effect { cloud_id: id(Some(answer)), state: "applied", vendor_request_id: told, ..begun },
            Err(error) => Effect {
                state: match error.effect {
                    Known::NotApplied => "not-applied",
                    Known::Unknown => "unknown",
                },
                code: Some(super::record::cut(&error.code)),
                vendor_request_id: error.vendor_request_id.clone().or(told),
                ..begun
            },
        };
        self.note(Entry::Effect(Box::new(ended)));
        result
    }
}
