//! What a failed reply means: the vendor's code first, then the HTTP status, then the transport.
//!
//! Source of the classes: vendor-api README 4.8. The effect of a write is `NotApplied` only where a code that
//! the vendor documents as a refusal comes with a 4xx status; a 5xx, a code we do not know, a reply we cannot
//! read and a success without its content leave it `Unknown`, although a client token would make a repeat
//! harmless: whether the first try took effect is not known until then.

use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use meridian_model::error::{Effect, FaultKind};

use super::wire::Fault;
use crate::AdapterError;

/// Which kind of call failed; decides what may be said of its effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    /// Changes nothing: any failure has no effect.
    Read,
    /// Makes an instance under a client token.
    Create,
    /// Deletes one.
    Delete,
}

/// Longest wait that is believed, against a header gone wild: an hour, the longest pause that still beats
/// asking again.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// Header with the wait in milliseconds (vendor-api README 3.4).
const RETRY_AFTER: &str = "x-acs-retry-after";

/// The classes of README 4.8, and the rest of the codes that alibaba-eci.json lists for our actions, by what
/// their names say. A `*` at one end of a code stands for any text there.
const CODES: &[(FaultKind, &[&str])] = &[
    (
        FaultKind::Quota,
        &["QuotaExceeded", "Throttling.Vcpu.PerDay", "DedicatedHostQuotaExceeded", "DiskNumber.LimitExceed"],
    ),
    (
        FaultKind::Throttled,
        &["Throttling", "Throttling.User", "Throttling.Api", "Degrade.Api", "EipPurchaseFlowControl"],
    ),
    (
        FaultKind::NoCapacity,
        &[
            "OperationDenied.NoStock",
            "Zone.NotOnSale",
            "Spot.NotMatched",
            "InvalidVSwitchId.IpNotEnough",
            "RecommendEmpty.InstanceTypeFamilyNotMatched",
        ],
    ),
    (FaultKind::Temporary, &["InternalError", "ServiceUnavailable", "SignatureNonceUsed"]),
    (FaultKind::NotFound, &["InvalidParameter.NotFound", "ImageSnapshot.NotFound", "InvalidDiskId.NotFound"]),
    (FaultKind::State, &["IncorrectStatus", "OperationConflict", "IncorrectOperation", "IncorrectStatusDetail"]),
    (
        FaultKind::WrongPlace,
        &[
            "OperationDenied.VswZoneMisMatch",
            "OperationDenied.SecurityGroupMisMatch",
            "CloudDisk.NotInSameZone",
            "DiskVolume.NotInSameZone",
            "RegionDissolved",
            "Ipv6AddressNotSupportVsw",
            "InvalidOperation.ResourceManagedByCloudProduct",
            "InvalidInstanceTypeForEciBuy",
            "JobInstanceRegionNotSupport",
        ],
    ),
    (
        FaultKind::Account,
        &[
            "Account.Arrearage",
            "*InsufficientBalance",
            "Forbidden.UserBussinessStatus",
            "Forbidden.UserNotRealNameAuthentication",
            "Forbidden.AccountClosed",
            "Forbidden.RiskControl",
            "OperationFailed.RiskControl",
            "RISK.RISK_CONTROL_REJECTION",
            "SecurityRisk.3DVerification",
            "ServiceNotEnabled",
            "FeatureAccessRestricted",
            "Forbidden.OnlyForInvitedTest",
        ],
    ),
    (
        FaultKind::Credentials,
        &[
            "SignatureDoesNotMatch",
            "InvalidAccessKeyId.NotFound",
            "InvalidAccessKeyId.Inactive",
            "InvalidSecurityToken*",
            "IncompleteSignature",
            "InvalidTimeStamp.Expired",
            "InvalidTimeStamp.Format",
            "IllegalTimestamp",
            "InvalidSignatureMethod",
            "NoPermission",
            "InvalidUser.PassRoleForbidden",
            "CreateServiceLinkedRole.Denied",
            "Forbidden*",
        ],
    ),
    (FaultKind::Gone, &["InvalidApi.NotFound", "InvalidAction", "NoSuchVersion"]),
    (
        FaultKind::BadRequest,
        &[
            "InvalidParameter*",
            "InvalidParam*",
            "MissingParameter*",
            "NoNeedUpdate",
            "UnsupportedOperation",
            "UnsupportedHTTPMethod",
            "IdempotentParameterMismatch",
            "HighCpuMemConfigRequired",
            "InvalidSpotCpuMemorySpec",
            "DiskVolume.NotSupport",
            "ImageSnapshot.NotSupport",
            "ImageSnapshot.IncorrectStatus",
            "InstanceTypeNotMatchCpuArch",
            "FeatureBasedConstraintConflict",
            "InvalidInstanceTypeForEciSpotDurationBuy",
            "InvalidInstanceTypeForRaid",
            "InvalidOperation.KMS.InstanceTypeNotSupport",
            "Ipv6AddressNotSupport",
            "Ipv6AddressNotSupportInstanceType",
            "JobInstanceBatchCreateNotSupport",
            "JobInstanceDiskNotSupport",
            "JobInstanceEcsInstanceTypeNotSupport",
            "JobInstanceEipNotSupport",
            "JobInstanceFeatureNotMatch",
            "JobInstanceIPv6NotSupport",
            "JobInstanceImageCacheNotSupport",
            "JobInstanceRamRoleNotSupport",
            "JobInstanceSpotNotSupport",
            "LocalDiskAmountNotMatch",
            "MultiAttachedCloudDiskNotSupport",
            "PrivateIpAddress.Already.InUse",
            "PrivatePoolInstanceSpotNotSupport",
            "RamRole.NotSupport",
        ],
    ),
];

/// What a code means; `None` when it is not in the vendor's documents.
pub(super) fn kind_of(code: &str) -> Option<FaultKind> {
    let matches = |pattern: &&str| match (pattern.strip_suffix('*'), pattern.strip_prefix('*')) {
        (Some(start), _) => code.starts_with(start),
        (None, Some(end)) => code.ends_with(end),
        (None, None) => code == *pattern,
    };
    // Exact codes win over patterns: `InvalidParameter.NotFound` is not a bad request.
    let exact = CODES.iter().find(|(_, codes)| codes.contains(&code));
    exact.or_else(|| CODES.iter().find(|(_, codes)| codes.iter().any(matches))).map(|(kind, _)| *kind)
}

/// Codes that refuse this request but tell of an earlier one under the same token or nonce, which may have
/// taken effect; or that may stand for one still under way.
const TELLS_OF_ANOTHER: &[&str] = &["IdempotentParameterMismatch", "SignatureNonceUsed", "OperationConflict"];

fn effect(verb: Verb, code: &str, kind: Option<FaultKind>, status: StatusCode) -> Effect {
    let refusal = status.is_client_error() && kind.is_some_and(|k| k != FaultKind::Temporary);
    let doubtful = verb == Verb::Create && TELLS_OF_ANOTHER.contains(&code);
    if verb == Verb::Read || (refusal && !doubtful) { Effect::NotApplied } else { Effect::Unknown }
}

/// The error in a reply, or `None` where it is a success.
pub(super) fn in_reply(verb: Verb, reply: &Response<Bytes>) -> Option<AdapterError> {
    let status = reply.status();
    let fault = fault(reply.body());
    if status.is_success() && fault.code.is_empty() {
        return None;
    }
    let retry_after = retry_after(reply);
    let error = if fault.code.is_empty() {
        let kind = by_status(status);
        let effect = if verb == Verb::Read { Effect::NotApplied } else { Effect::Unknown };
        AdapterError::new(kind, effect, format!("http.{}", status.as_u16()), "a reply without an error code")
    } else {
        let kind = kind_of(&fault.code);
        let effect = effect(verb, &fault.code, kind, status);
        let kind = kind.map(|kind| in_context(verb, kind));
        // A wait the vendor asks for marks throttling, whatever the code says (README 3.4).
        let otherwise = if retry_after.is_some() { FaultKind::Throttled } else { FaultKind::Unexpected };
        AdapterError::new(kind.unwrap_or(otherwise), effect, bounded(&fault.code), message(&fault))
    };
    let mut error = error.with_request_id(fault.request_id.map(|id| bounded(&id)));
    error.retry_after = retry_after;
    Some(error)
}

/// A create names no instance: what it did not find is a part of the network or a disk of this very place, and
/// another place has its own.
fn in_context(verb: Verb, kind: FaultKind) -> FaultKind {
    if verb == Verb::Create && kind == FaultKind::NotFound { FaultKind::WrongPlace } else { kind }
}

/// A success whose content is missing or not understood.
pub(super) fn not_understood(verb: Verb, what: &str) -> AdapterError {
    let effect = if verb == Verb::Read { Effect::NotApplied } else { Effect::Unknown };
    AdapterError::new(FaultKind::Unexpected, effect, "reply.not-understood", what)
}

/// The status speaks only where no code does.
fn by_status(status: StatusCode) -> FaultKind {
    match status.as_u16() {
        429 => FaultKind::Throttled,
        408 | 500..=599 => FaultKind::Temporary,
        _ => FaultKind::Unexpected,
    }
}

fn retry_after(reply: &Response<Bytes>) -> Option<Duration> {
    let ms = reply.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_millis(ms).min(RETRY_AFTER_MAX))
}

/// The refused signature's text repeats the string to sign, which holds every parameter, registry passwords
/// among them: never kept.
fn message(fault: &Fault) -> &str {
    if matches!(fault.code.as_str(), "SignatureDoesNotMatch" | "IncompleteSignature") {
        fault.message.split(':').next().unwrap_or_default()
    } else {
        &fault.message
    }
}

/// Longest code or request id kept, in characters; the longest documented code has 45.
const CODE_LEN_MAX: usize = 128;

fn bounded(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(CODE_LEN_MAX).collect()
}

/// The vendor's name of the request that a body answers.
pub(super) fn request_id(body: &[u8]) -> Option<String> {
    serde_json::from_slice::<Fault>(body).ok()?.request_id
}

/// The error fields of a body: JSON in either spelling, or the XML that the service writes when it does not
/// take note of `accept`. Empty when there are none.
fn fault(body: &[u8]) -> Fault {
    if let Ok(fault) = serde_json::from_slice::<Fault>(body) {
        return fault;
    }
    let text = String::from_utf8_lossy(body);
    if !text.trim_start().starts_with('<') || !text.contains("<Error>") {
        return Fault::default();
    }
    let field = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        rest.split_once(&format!("</{name}>")).map(|(value, _)| value.to_owned())
    };
    Fault {
        code: field("Code").unwrap_or_default(),
        message: field("Message").unwrap_or_default(),
        request_id: field("RequestId"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reply(status: u16, body: &str) -> Response<Bytes> {
        Response::builder().status(status).body(Bytes::from(body.to_owned())).unwrap()
    }

    fn coded(status: u16, code: &str) -> Response<Bytes> {
        let body = format!(r#"{{"RequestId":"R1","HostId":"h","Code":"{code}","Message":"m","Recommend":"r"}}"#);
        reply(status, &body)
    }

    fn check(status: u16, code: &str, kind: FaultKind, create: Effect) {
        let error = in_reply(Verb::Create, &coded(status, code)).unwrap();
        assert_eq!((error.kind, error.effect), (kind, create), "{status} {code}");
        assert_eq!((error.code.as_str(), error.message.as_str()), (code, "m"));
        assert_eq!(error.vendor_request_id.as_deref(), Some("R1"));
        let read = in_reply(Verb::Read, &coded(status, code)).unwrap();
        assert_eq!(in_context(Verb::Create, read.kind), kind, "{code}");
        assert_eq!(read.effect, Effect::NotApplied, "reads have no effect: {code}");
    }

    #[test]
    fn the_vendors_table() {
        use Effect::{NotApplied, Unknown};
        use FaultKind as K;
        for (status, code, kind, effect) in [
            (400, "Throttling", K::Throttled, NotApplied),
            (400, "Throttling.User", K::Throttled, NotApplied),
            (400, "Throttling.Api", K::Throttled, NotApplied),
            (400, "Degrade.Api", K::Throttled, NotApplied),
            (400, "EipPurchaseFlowControl", K::Throttled, NotApplied),
            (403, "QuotaExceeded", K::Quota, NotApplied),
            (403, "Throttling.Vcpu.PerDay", K::Quota, NotApplied),
            (400, "DedicatedHostQuotaExceeded", K::Quota, NotApplied),
            (400, "DiskNumber.LimitExceed", K::Quota, NotApplied),
            (403, "OperationDenied.NoStock", K::NoCapacity, NotApplied),
            (403, "Zone.NotOnSale", K::NoCapacity, NotApplied),
            (403, "Spot.NotMatched", K::NoCapacity, NotApplied),
            (403, "InvalidVSwitchId.IpNotEnough", K::NoCapacity, NotApplied),
            (400, "RecommendEmpty.InstanceTypeFamilyNotMatched", K::NoCapacity, NotApplied),
            (500, "InternalError", K::Temporary, Unknown),
            (400, "InternalError", K::Temporary, Unknown),
            (503, "ServiceUnavailable", K::Temporary, Unknown),
            (400, "IncorrectStatus", K::State, NotApplied),
            (400, "OperationConflict", K::State, Unknown),
            (400, "IncorrectOperation", K::State, NotApplied),
            (403, "IncorrectStatusDetail", K::State, NotApplied),
            (400, "InvalidParameter", K::BadRequest, NotApplied),
            (400, "InvalidParameter.CPU.Memory", K::BadRequest, NotApplied),
            (400, "InvalidParam.Whatever", K::BadRequest, NotApplied),
            (400, "MissingParameter", K::BadRequest, NotApplied),
            (400, "UnsupportedOperation", K::BadRequest, NotApplied),
            (400, "UnsupportedHTTPMethod", K::BadRequest, NotApplied),
            (400, "IdempotentParameterMismatch", K::BadRequest, Unknown),
            (403, "OperationDenied.VswZoneMisMatch", K::WrongPlace, NotApplied),
            (403, "OperationDenied.SecurityGroupMisMatch", K::WrongPlace, NotApplied),
            (400, "CloudDisk.NotInSameZone", K::WrongPlace, NotApplied),
            (400, "DiskVolume.NotInSameZone", K::WrongPlace, NotApplied),
            (400, "RegionDissolved", K::WrongPlace, NotApplied),
            (404, "InvalidParameter.NotFound", K::WrongPlace, NotApplied),
            (404, "ImageSnapshot.NotFound", K::WrongPlace, NotApplied),
            (404, "InvalidDiskId.NotFound", K::WrongPlace, NotApplied),
            (400, "SignatureDoesNotMatch", K::Credentials, NotApplied),
            (404, "InvalidAccessKeyId.NotFound", K::Credentials, NotApplied),
            (400, "InvalidAccessKeyId.Inactive", K::Credentials, NotApplied),
            (400, "IncompleteSignature", K::Credentials, NotApplied),
            (400, "InvalidSecurityToken.Expired", K::Credentials, NotApplied),
            (400, "InvalidTimeStamp.Expired", K::Credentials, NotApplied),
            (400, "SignatureNonceUsed", K::Temporary, Unknown),
            (403, "Forbidden.RAM", K::Credentials, NotApplied),
            (403, "Forbidden.SubUser", K::Credentials, NotApplied),
            (403, "NoPermission", K::Credentials, NotApplied),
            (403, "InvalidUser.PassRoleForbidden", K::Credentials, NotApplied),
            (403, "CreateServiceLinkedRole.Denied", K::Credentials, NotApplied),
            (400, "Account.Arrearage", K::Account, NotApplied),
            (400, "InvalidPaymentMethod.InsufficientBalance", K::Account, NotApplied),
            (400, "EipPayInsufficientBalance", K::Account, NotApplied),
            (403, "Forbidden.UserBussinessStatus", K::Account, NotApplied),
            (403, "Forbidden.AccountClosed", K::Account, NotApplied),
            (403, "Forbidden.RiskControl", K::Account, NotApplied),
            (400, "OperationFailed.RiskControl", K::Account, NotApplied),
            (400, "ServiceNotEnabled", K::Account, NotApplied),
            (404, "InvalidApi.NotFound", K::Gone, NotApplied),
            (400, "NeverHeardOf", K::Unexpected, Unknown),
            (500, "NeverHeardOf", K::Unexpected, Unknown),
            // A refusal under a 5xx contradicts itself.
            (500, "QuotaExceeded", K::Quota, Unknown),
            // So does an error under 200; the SDKs read it as a success.
            (200, "QuotaExceeded", K::Quota, Unknown),
        ] {
            check(status, code, kind, effect);
        }
    }

    #[test]
    fn what_is_not_found_depends_on_the_verb() {
        let of = |verb| in_reply(verb, &coded(404, "InvalidParameter.NotFound")).unwrap().kind;
        assert_eq!(of(Verb::Delete), FaultKind::NotFound);
        assert_eq!(of(Verb::Read), FaultKind::NotFound);
        assert_eq!(of(Verb::Create), FaultKind::WrongPlace);
    }

    #[test]
    fn every_code_in_the_vendors_lists_is_classified() {
        let lines = include_str!("fixtures/codes.txt").lines();
        let mut count = 0;
        for line in lines {
            let (status, code) = line.split_once(' ').unwrap();
            let error = in_reply(Verb::Create, &coded(status.parse().unwrap(), code)).unwrap();
            let doubtful = status.starts_with('5') || TELLS_OF_ANOTHER.contains(&code) || code.starts_with("DryRun");
            assert_eq!(error.effect == Effect::Unknown, doubtful, "{line}");
            assert_eq!(error.kind == FaultKind::Unexpected, code.starts_with("DryRun"), "{line}");
            count += 1;
        }
        assert_eq!(count, 101, "the list was cut");
    }

    #[test]
    fn a_dry_run_we_never_asked_for_is_no_answer() {
        for code in ["DryRun.Success", "DryRunOperation"] {
            check(400, code, FaultKind::Unexpected, Effect::Unknown);
        }
    }

    #[test]
    fn without_a_code_the_status_speaks_and_writes_are_in_doubt() {
        for (status, body, kind) in [
            (500, "<html>oops</html>", FaultKind::Temporary),
            (502, "", FaultKind::Temporary),
            (429, "slow down", FaultKind::Throttled),
            (403, "[]", FaultKind::Unexpected),
            (302, "", FaultKind::Unexpected),
        ] {
            let error = in_reply(Verb::Create, &reply(status, body)).unwrap();
            assert_eq!((error.kind, error.effect), (kind, Effect::Unknown), "{status}");
            assert_eq!(error.code, format!("http.{status}"));
            assert_eq!(in_reply(Verb::Delete, &reply(status, body)).unwrap().effect, Effect::Unknown);
            assert_eq!(in_reply(Verb::Read, &reply(status, body)).unwrap().effect, Effect::NotApplied);
        }
        assert_eq!(in_reply(Verb::Create, &reply(200, r#"{"ContainerGroupId":"eci-1"}"#)), None);
    }

    #[test]
    fn other_spellings_of_the_envelope_are_read() {
        let lower = reply(400, r#"{"code":"QuotaExceeded","message":"full","requestId":"r"}"#);
        assert_eq!(in_reply(Verb::Create, &lower).unwrap().kind, FaultKind::Quota);
        let xml = "<?xml version='1.0'?><Error><RequestId>R</RequestId><Code>QuotaExceeded</Code>\
                   <Message>full</Message></Error>";
        let error = in_reply(Verb::Create, &reply(403, xml)).unwrap();
        assert_eq!((error.kind, error.message.as_str()), (FaultKind::Quota, "full"));
        assert_eq!(error.vendor_request_id.as_deref(), Some("R"));
    }

    #[test]
    fn the_wait_is_honoured_and_bounded() {
        let with = |ms: &str| {
            let mut reply = coded(400, "NeverHeardOf");
            reply.headers_mut().insert(RETRY_AFTER, ms.parse().unwrap());
            in_reply(Verb::Read, &reply).unwrap()
        };
        assert_eq!(with("1500").retry_after, Some(Duration::from_millis(1500)));
        assert_eq!(with("1500").kind, FaultKind::Throttled);
        assert_eq!(with("99999999999").retry_after, Some(RETRY_AFTER_MAX));
        assert_eq!(with("soon").retry_after, None);
    }

    #[test]
    fn a_refused_signature_does_not_leak_the_string_to_sign() {
        let body = r#"{"Code":"SignatureDoesNotMatch","Message":"Signature is not matched. server string to sign is:POST&Password=p"}"#;
        let error = in_reply(Verb::Create, &reply(400, body)).unwrap();
        assert!(!error.message.contains("Password"), "{error}");
    }

    /// Any code of the vendor's lists.
    fn documented() -> impl Strategy<Value = String> {
        let codes: Vec<String> =
            include_str!("fixtures/codes.txt").lines().filter_map(|l| Some(l.split_once(' ')?.1.to_owned())).collect();
        proptest::sample::select(codes)
    }

    proptest! {
        #[test]
        fn no_reply_panics(status in 100_u16..1000, body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let reply = Response::builder().status(status).body(Bytes::from(body)).unwrap();
            let error = in_reply(Verb::Create, &reply);
            prop_assert_eq!(error.is_none(), reply.status().is_success() && fault(reply.body()).code.is_empty());
        }

        #[test]
        fn a_write_is_refused_only_by_a_known_code_with_4xx(
            status in prop_oneof![100_u16..1000, 400_u16..600],
            code in prop_oneof!["[A-Za-z.]{1,30}".boxed(), documented().boxed()],
        ) {
            let error = in_reply(Verb::Create, &coded(status, &code)).unwrap();
            if error.effect == Effect::NotApplied {
                prop_assert!((400..500).contains(&status) && kind_of(&code).is_some());
            }
        }
    }
}
