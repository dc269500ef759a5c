//! ECI's error replies: a code, the HTTP status the vendor lists for it, and a message.
//!
//! Codes and statuses are from the vendor's API metadata (`alibaba-eci.json`, per-action lists and
//! `common_error_codes_by_http_status`, snapshot 2026-04). Two statuses are not in it for ECI and
//! are marked below: the platform documents the code, not where ECI puts it.

use std::borrow::Cow;

/// One refusal in the vendor's own terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EciError {
    /// HTTP status of the reply, 4xx or 5xx.
    pub(crate) status: u16,
    /// The vendor's code, for example `OperationDenied.NoStock`.
    pub(crate) code: Cow<'static, str>,
    /// Text for people; clients must not parse it.
    pub(crate) message: String,
    /// Sent as `x-acs-retry-after`, in milliseconds, when the refusal is a throttle.
    pub(crate) retry_after_ms: Option<u64>,
}

/// Codes whose HTTP status is not 400.
const STATUS: &[(&str, u16)] = &[
    ("CreateServiceLinkedRole.Denied", 403),
    ("FeatureAccessRestricted", 403),
    ("Forbidden", 403),
    ("ImageSnapshot.NotFound", 404),
    ("IncorrectStatusDetail", 403),
    ("InternalError", 500),
    ("InvalidAccessKeyId.NotFound", 404),
    ("InvalidAction", 403),
    ("InvalidApi.NotFound", 404),
    ("InvalidDiskId.NotFound", 404),
    ("InvalidParameter.NotFound", 404),
    ("InvalidUser.PassRoleForbidden", 403),
    ("InvalidVSwitchId.IpNotEnough", 403),
    ("InvalidVolumeType", 403),
    ("NoPermission", 403),
    ("OperationDenied.NoStock", 403),
    ("OperationDenied.SecurityGroupMisMatch", 403),
    ("OperationDenied.VswZoneMisMatch", 403),
    ("QuotaExceeded", 403),
    ("ServiceUnavailable", 503),
    ("Spot.NotMatched", 403),
    ("Throttling.Vcpu.PerDay", 403),
    ("Zone.NotOnSale", 403),
];

/// The HTTP status of a code: as the vendor lists it, and 400 for every other one.
pub(crate) fn status_of(code: &str) -> u16 {
    if code.starts_with("Forbidden") {
        return 403;
    }
    STATUS.iter().find(|(known, _)| *known == code).map_or(400, |(_, status)| *status)
}

impl EciError {
    /// A refusal with the status the vendor lists for `code`.
    pub(crate) fn new(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        let code = code.into();
        Self { status: status_of(&code), code, message: message.into(), retry_after_ms: None }
    }

    /// The value of a known parameter is not acceptable.
    pub(crate) fn invalid(parameter: &str, why: &str) -> Self {
        Self::new("InvalidParameter", format!("The specified parameter {parameter} is not valid: {why}"))
    }

    /// A required parameter is absent.
    pub(crate) fn missing(parameter: &str) -> Self {
        Self::new(
            "MissingParameter",
            format!("The input parameter {parameter} that is mandatory for processing this request is not supplied."),
        )
    }

    /// The named thing does not exist in this region.
    pub(crate) fn not_found(parameter: &str, value: &str) -> Self {
        Self::new("InvalidParameter.NotFound", format!("The specified {parameter} {value} does not exist."))
    }

    /// The instance's state does not allow the action.
    pub(crate) fn incorrect_status(id: &str, status: &str) -> Self {
        Self::new("IncorrectStatus", format!("The current status {status} of {id} does not support this operation."))
    }

    /// Too many calls; the caller may come back after `retry_after_ms`.
    pub(crate) fn throttled(code: impl Into<Cow<'static, str>>, retry_after_ms: u64) -> Self {
        let mut error = Self::new(code, "Request was denied due to user flow control.");
        error.retry_after_ms = Some(retry_after_ms);
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_the_vendors() {
        for (code, status) in [
            ("OperationDenied.NoStock", 403),
            ("QuotaExceeded", 403),
            ("InvalidParameter.NotFound", 404),
            ("InvalidAccessKeyId.NotFound", 404),
            ("Throttling.User", 400),
            ("Throttling.Vcpu.PerDay", 403),
            ("SignatureDoesNotMatch", 400),
            ("Forbidden.RAM", 403),
            ("InternalError", 500),
            ("ServiceUnavailable", 503),
            ("IncorrectStatus", 400),
        ] {
            assert_eq!(status_of(code), status, "{code}");
        }
    }
}
