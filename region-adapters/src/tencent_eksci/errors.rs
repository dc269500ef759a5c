//! The vendor's error codes: what each means, and what it says of a create's effect.
//!
//! Not by prefix: `InternalError.Param` is the caller's fault and `InternalError.Quota*` the account's, while
//! the bare `InternalError` may have happened after the effect. A code that is in no list is an unknown
//! outcome, never a refusal: a wrong "not applied" makes two instances, a wrong "unknown" costs a look-up.
//! The lists are those of the vendor's Go SDK v1.3.166 and of the API 3.0 documentation (common codes).

use meridian_model::error::{Effect, FaultKind};

/// A class of codes: kind, and the effect of a write that was answered so.
type Class = (FaultKind, Effect);

const UNLISTED: Class = (FaultKind::Unexpected, Effect::Unknown);

/// Codes as a whole.
#[rustfmt::skip]
const EXACT: &[(FaultKind, Effect, &[&str])] = &[
    (FaultKind::Throttled, Effect::NotApplied, &["RequestLimitExceeded"]),
    (FaultKind::Quota, Effect::NotApplied, &["LimitExceeded", "InvalidParameterValue.LimitExceeded"]),
    (FaultKind::NoCapacity, Effect::NotApplied, &["ResourceInsufficient", "ResourceInsufficient.SpecifiedInstanceType", "ResourcesSoldOut"]),
    (FaultKind::Temporary, Effect::Unknown, &["ServiceUnavailable", "ResourceUnavailable", "InternalError", "InternalError.CmdTimeout", "InternalError.UnexceptedInternal", "InternalError.UnexpectedInternal", "InternalError.Db"]),
    (FaultKind::State, Effect::NotApplied, &["ResourceUnavailable.EksContainerStatus", "ResourceInUse", "FailedOperation.TaskAlreadyRunning"]),
    (FaultKind::BadRequest, Effect::NotApplied, &["InvalidParameter", "InvalidParameterValue", "InternalError.Param", "FailedOperation.Param", "MissingParameter", "UnknownParameter", "UnsupportedOperation", "InvalidAction", "NoSuchVersion", "InvalidRequest", "RequestSizeLimitExceeded"]),
    (FaultKind::WrongPlace, Effect::NotApplied, &["UnsupportedRegion", "InvalidParameter.SubnetNotExist", "InvalidParameter.SubnetInvalidError"]),
    (FaultKind::NotFound, Effect::NotApplied, &["ResourceNotFound", "InternalError.ContainerNotFound", "InternalError.PodNotFound", "InvalidParameter.ResourceNotFound"]),
    (FaultKind::Credentials, Effect::NotApplied, &["AuthFailure", "UnauthorizedOperation", "UnauthorizedOperation.CamNoAuth", "InternalError.CamNoAuth", "IpNotInWhitelist", "IpInBlacklist"]),
    (FaultKind::Account, Effect::NotApplied, &["FailedOperation.TradeInsufficientBalance", "InternalError.InsufficientBalance", "InternalError.NotVerified", "InternalError.AccountUserNotAuthenticated"]),
    (FaultKind::Gone, Effect::NotApplied, &["ActionOffline", "NoSuchProduct", "FailedOperation.DeprecatedAPI"]),
    // Vague: the vendor uses them for anything, before and after the effect.
    (FaultKind::Unexpected, Effect::Unknown, &["FailedOperation", "OperationDenied"]),
];

/// Families, asked after the whole codes; only those that the vendor documents as families.
const FAMILIES: &[(FaultKind, Effect, &[&str])] = &[
    (FaultKind::Throttled, Effect::NotApplied, &["RequestLimitExceeded."]),
    (FaultKind::Quota, Effect::NotApplied, &["LimitExceeded.", "InternalError.Quota", "FailedOperation.Quota"]),
    (FaultKind::NoCapacity, Effect::NotApplied, &["ResourceInsufficient.", "ResourcesSoldOut."]),
    (FaultKind::BadRequest, Effect::NotApplied, &["InvalidParameter.", "InvalidParameterValue."]),
    (FaultKind::Credentials, Effect::NotApplied, &["AuthFailure.", "UnauthorizedOperation."]),
];

/// What a vendor code means for a call that changes something.
pub(super) fn of_write(code: &str) -> Class {
    let exact = EXACT.iter().find(|(_, _, codes)| codes.contains(&code));
    let family = || FAMILIES.iter().find(|(_, _, starts)| starts.iter().any(|s| code.starts_with(s)));
    exact.or_else(family).map_or(UNLISTED, |(kind, effect, _)| (*kind, *effect))
}

/// What an HTTP status other than 200 means. The vendor answers errors with 200; any other status comes from
/// something between, and says nothing of the effect.
pub(super) const fn of_status(status: u16) -> FaultKind {
    match status {
        429 => FaultKind::Throttled,
        500..=599 => FaultKind::Temporary,
        _ => FaultKind::Unexpected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_by_the_vendors_documents() {
        use Effect::{NotApplied, Unknown};
        use FaultKind as K;
        let table = [
            ("RequestLimitExceeded", K::Throttled, NotApplied),
            ("RequestLimitExceeded.UinLimitExceeded", K::Throttled, NotApplied),
            ("LimitExceeded", K::Quota, NotApplied),
            ("LimitExceeded.Pods", K::Quota, NotApplied),
            ("InvalidParameterValue.LimitExceeded", K::Quota, NotApplied),
            ("InternalError.QuotaMaxClsLimit", K::Quota, NotApplied),
            ("ResourceInsufficient", K::NoCapacity, NotApplied),
            ("ResourceInsufficient.SpecifiedInstanceType", K::NoCapacity, NotApplied),
            ("ResourcesSoldOut", K::NoCapacity, NotApplied),
            ("InternalError", K::Temporary, Unknown),
            ("InternalError.CmdTimeout", K::Temporary, Unknown),
            ("InternalError.UnexceptedInternal", K::Temporary, Unknown),
            ("ServiceUnavailable", K::Temporary, Unknown),
            ("ResourceUnavailable", K::Temporary, Unknown),
            ("ResourceUnavailable.EksContainerStatus", K::State, NotApplied),
            ("InternalError.Param", K::BadRequest, NotApplied),
            ("InvalidParameter.Anything", K::BadRequest, NotApplied),
            ("InvalidParameter.SubnetNotExist", K::WrongPlace, NotApplied),
            ("InvalidParameter.ResourceNotFound", K::NotFound, NotApplied),
            ("InternalError.ContainerNotFound", K::NotFound, NotApplied),
            ("InternalError.CamNoAuth", K::Credentials, NotApplied),
            ("AuthFailure.SignatureExpire", K::Credentials, NotApplied),
            ("FailedOperation.TradeInsufficientBalance", K::Account, NotApplied),
            ("ActionOffline", K::Gone, NotApplied),
            ("FailedOperation", K::Unexpected, Unknown),
            ("OperationDenied", K::Unexpected, Unknown),
            ("FailedOperation.VpcCommon", K::Unexpected, Unknown),
            ("InternalError.KubeCommon", K::Unexpected, Unknown),
            ("", K::Unexpected, Unknown),
            ("Brand.New", K::Unexpected, Unknown),
        ];
        for (code, kind, effect) in table {
            assert_eq!(of_write(code), (kind, effect), "{code}");
        }
    }

    #[test]
    fn no_code_is_listed_twice() {
        let mut codes: Vec<&str> = EXACT.iter().flat_map(|(_, _, codes)| codes.iter().copied()).collect();
        let count = codes.len();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), count);
    }
}
