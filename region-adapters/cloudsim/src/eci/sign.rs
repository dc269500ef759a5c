//! Who sent this request, and is it what they signed: ACS3-HMAC-SHA256 (V3) and RPC v1 (HMAC-SHA1).
//!
//! Rules: vendor-api README 3.2 and 3.3, checked against golden vectors and captured requests. A request with an
//! `Authorization` header is V3, one without is v1: v1 requests of the vendor's SDKs carry `x-acs-action` headers
//! too, unsigned, so nothing else tells them apart. In v1 the action comes from the signed parameter.
//!
//! The clock is passed in and nonces are recorded by the caller *after* [`verify`] succeeded. A key may need a fixed
//! security token; how real ones expire is not simulated.

use hmac::{Hmac, KeyInit, Mac};
use http::HeaderMap;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::error::EciError;
use super::{query, time};

/// The only API version served.
pub(crate) const VERSION: &str = "2018-08-08";
/// Longest nonce taken; SDKs send 32 to 36 characters.
const MAX_NONCE_LEN: usize = 128;
const V3_ALGORITHM: &str = "ACS3-HMAC-SHA256";

/// Parameters of the v1 protocol itself; everything else is the action's.
const V1_COMMON: &[&str] = &[
    "AccessKeyId",
    "Action",
    "Format",
    "SecurityToken",
    "Signature",
    "SignatureMethod",
    "SignatureNonce",
    "SignatureType",
    "SignatureVersion",
    "Timestamp",
    "Version",
];

/// A request as it came in, before anything is believed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inbound<'a> {
    pub(crate) method: &'a str,
    /// Text after `?`, undecoded.
    pub(crate) query: &'a str,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: &'a [u8],
}

/// The encoding a caller wants replies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Xml,
}

/// A decoded request whose signature is not yet checked.
#[derive(Debug)]
pub(crate) struct Parsed<'a> {
    inbound: Inbound<'a>,
    query: Vec<(String, String)>,
    form: Vec<(String, String)>,
    authorization: Option<&'a str>,
}

/// What an access key id stands for.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) secret: String,
    /// If set, requests must carry this token: temporary credentials.
    pub(crate) security_token: Option<String>,
}

/// What a scenario may change about the check.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    /// How far a request's time may be from ours, either way; 15 minutes at the vendor (README 3.2, document).
    pub(crate) clock_window_ms: i64,
}

/// What the signature proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verified {
    pub(crate) key_id: String,
    pub(crate) action: String,
    pub(crate) nonce: String,
    /// The action's own parameters, decoded, in the order sent.
    pub(crate) params: Vec<(String, String)>,
}

/// Decodes query and form body.
///
/// # Errors
/// `InvalidParameter` if either cannot be decoded.
pub(crate) fn parse(inbound: Inbound<'_>) -> Result<Parsed<'_>, EciError> {
    let query = query::decode_pairs(inbound.query)?;
    let is_form = header(inbound.headers, "content-type")
        .is_some_and(|kind| kind.trim().to_ascii_lowercase().starts_with("application/x-www-form-urlencoded"));
    let form = if is_form && !inbound.body.is_empty() {
        let text = std::str::from_utf8(inbound.body).map_err(|_| EciError::invalid("body", "the text is not UTF-8"))?;
        query::decode_pairs(text)?
    } else {
        Vec::new()
    };
    if !is_form && !inbound.body.is_empty() {
        return Err(EciError::invalid("body", "parameters are taken from the query or from a form body only"));
    }
    let authorization = header(inbound.headers, "authorization");
    Ok(Parsed { inbound, query, form, authorization })
}

impl Parsed<'_> {
    /// The reply's encoding: V3 is JSON, v1 says it in `Format`, whose default is XML (README 3.3, document).
    pub(crate) fn format(&self) -> Format {
        match self.v1("Format") {
            _ if self.authorization.is_some() => Format::Json,
            Some(format) if format.eq_ignore_ascii_case("json") => Format::Json,
            Some(_) | None => Format::Xml,
        }
    }

    /// The action the request claims, before it is proved; empty if none.
    pub(crate) fn claimed_action(&self) -> &str {
        let action = match self.authorization {
            Some(_) => header(self.inbound.headers, "x-acs-action"),
            None => self.v1("Action"),
        };
        action.unwrap_or_default()
    }

    /// A parameter of the v1 protocol.
    fn v1(&self, name: &str) -> Option<&str> {
        self.query.iter().chain(&self.form).find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn v1_required(&self, name: &str) -> Result<&str, EciError> {
        self.v1(name).filter(|value| !value.is_empty()).ok_or_else(|| EciError::missing(name))
    }
}

/// Checks version, key, clock and signature, in this order. `key_of` knows the keys.
///
/// # Errors
/// The codes of README 4.8, class "credentials", and `NoSuchVersion`.
pub(crate) fn verify(
    parsed: &Parsed<'_>,
    policy: &Policy,
    key_of: impl Fn(&str) -> Option<Key>,
    now_ms: i64,
) -> Result<Verified, EciError> {
    let check = Check { parsed, policy, now_ms };
    match parsed.authorization {
        Some(authorization) => check.v3(authorization, key_of),
        None => check.v1(key_of),
    }
}

/// One verification under way.
struct Check<'a> {
    parsed: &'a Parsed<'a>,
    policy: &'a Policy,
    now_ms: i64,
}

/// The three parts of a V3 `Authorization` header.
struct Authorization<'a> {
    key_id: &'a str,
    signed_headers: &'a str,
    signature: &'a str,
}

fn read_authorization(text: &str) -> Result<Authorization<'_>, EciError> {
    let incomplete = |what: &str| EciError::new("IncompleteSignature", format!("The Authorization header {what}."));
    let Some(parts) = text.strip_prefix(V3_ALGORITHM).filter(|rest| rest.starts_with(' ')) else {
        return Err(EciError::new(
            "InvalidSignatureMethod",
            format!("Specified signature method is not supported; use {V3_ALGORITHM}."),
        ));
    };
    let (mut key_id, mut signed_headers, mut signature) = (None, None, None);
    for part in parts.split(',') {
        let slot = match part.trim().split_once('=') {
            Some(("Credential", value)) => (&mut key_id, value),
            Some(("SignedHeaders", value)) => (&mut signed_headers, value),
            Some(("Signature", value)) => (&mut signature, value),
            Some(_) | None => {
                return Err(incomplete("has a part that is none of Credential, SignedHeaders, Signature"));
            }
        };
        if slot.0.replace(slot.1).is_some() {
            return Err(incomplete("has a part twice"));
        }
    }
    match (key_id, signed_headers, signature) {
        (Some(key_id), Some(signed_headers), Some(signature)) => {
            Ok(Authorization { key_id, signed_headers, signature })
        }
        _ => Err(incomplete("lacks Credential, SignedHeaders or Signature")),
    }
}

impl Check<'_> {
    fn v3(&self, authorization: &str, key_of: impl Fn(&str) -> Option<Key>) -> Result<Verified, EciError> {
        let inbound = &self.parsed.inbound;
        let headers = inbound.headers;
        let authorization = read_authorization(authorization)?;
        let required = |name: &str| header(headers, name).ok_or_else(|| EciError::missing(name));
        let action = required("x-acs-action")?;
        check_version(required("x-acs-version")?)?;
        let date = required("x-acs-date")?;
        let nonce = check_nonce(required("x-acs-signature-nonce")?)?;
        let claimed_hash = required("x-acs-content-sha256")?;
        let canonical_headers = canonical_headers(inbound, authorization.signed_headers)?;
        if header(headers, "x-acs-accesskey-id").is_some_and(|id| id != authorization.key_id) {
            return Err(EciError::new("IncompleteSignature", "x-acs-accesskey-id and Credential name different keys."));
        }
        let key = key_of(authorization.key_id).ok_or_else(unknown_key)?;
        self.clock(date)?;

        let canonical_request = format!(
            "{}\n/\n{}\n{canonical_headers}\n{}\n{claimed_hash}",
            inbound.method,
            query::canonical(&self.parsed.query),
            authorization.signed_headers,
        );
        let string_to_sign = format!("{V3_ALGORITHM}\n{}", hex(&Sha256::digest(canonical_request)));
        let body_hash = hex(&Sha256::digest(inbound.body));
        let mut mac =
            Hmac::<Sha256>::new_from_slice(key.secret.as_bytes()).expect("invariant: HMAC takes a key of any length");
        mac.update(string_to_sign.as_bytes());
        let expected = hex(&mac.finalize().into_bytes());
        let is_same = expected.as_bytes().ct_eq(authorization.signature.as_bytes())
            & body_hash.as_bytes().ct_eq(claimed_hash.as_bytes());
        if !bool::from(is_same) {
            return Err(mismatch(&string_to_sign));
        }
        check_token(&key, header(headers, "x-acs-security-token"))?;
        let params = self.parsed.query.iter().chain(&self.parsed.form).cloned().collect();
        let (key_id, action, nonce) = (authorization.key_id.to_owned(), action.to_owned(), nonce.to_owned());
        Ok(Verified { key_id, action, nonce, params })
    }

    fn v1(&self, key_of: impl Fn(&str) -> Option<Key>) -> Result<Verified, EciError> {
        let parsed = self.parsed;
        let key_id = parsed.v1_required("AccessKeyId")?;
        let action = parsed.v1_required("Action")?;
        check_version(parsed.v1_required("Version")?)?;
        let timestamp = parsed.v1_required("Timestamp")?;
        let nonce = check_nonce(parsed.v1_required("SignatureNonce")?)?;
        let signature = parsed.v1_required("Signature")?;
        if parsed.v1_required("SignatureMethod")? != "HMAC-SHA1" || parsed.v1_required("SignatureVersion")? != "1.0" {
            let message = "Specified signature method is not supported; use HMAC-SHA1 1.0.";
            return Err(EciError::new("InvalidSignatureMethod", message));
        }
        let key = key_of(key_id).ok_or_else(unknown_key)?;
        self.clock(timestamp)?;

        let all: Vec<(String, String)> = parsed.query.iter().chain(&parsed.form).cloned().collect();
        // Protocol parameters decide before the schema sees them, so a second one must not hide behind the first.
        for name in V1_COMMON {
            if all.iter().filter(|(key, _)| key == name).count() > 1 {
                return Err(EciError::invalid(name, "it is given more than once"));
            }
        }
        let signed: Vec<(String, String)> = all.iter().filter(|(key, _)| key != "Signature").cloned().collect();
        let string_to_sign = format!("{}&%2F&{}", parsed.inbound.method, query::encode(&query::canonical(&signed)));
        let mut mac = Hmac::<Sha1>::new_from_slice(format!("{}&", key.secret).as_bytes())
            .expect("invariant: HMAC takes a key of any length");
        mac.update(string_to_sign.as_bytes());
        let expected = base64_text(&mac.finalize().into_bytes());
        if !bool::from(expected.as_bytes().ct_eq(signature.as_bytes())) {
            return Err(mismatch(&string_to_sign));
        }
        check_token(&key, parsed.v1("SecurityToken"))?;
        let (key_id, action, nonce) = (key_id.to_owned(), action.to_owned(), nonce.to_owned());
        let params = all.into_iter().filter(|(key, _)| !V1_COMMON.contains(&key.as_str())).collect();
        Ok(Verified { key_id, action, nonce, params })
    }

    fn clock(&self, text: &str) -> Result<(), EciError> {
        let Some(sent_ms) = time::parse(text) else {
            let message = "Specified time stamp or date value is not well formatted.";
            return Err(EciError::new("InvalidTimeStamp.Format", message));
        };
        if self.now_ms.saturating_sub(sent_ms).saturating_abs() > self.policy.clock_window_ms {
            return Err(EciError::new("InvalidTimeStamp.Expired", "Specified time stamp or date value is expired."));
        }
        Ok(())
    }
}

/// The code is the platform's; it is not in ECI's lists.
fn check_token(key: &Key, sent: Option<&str>) -> Result<(), EciError> {
    if key.security_token.as_deref().is_none_or(|token| sent == Some(token)) {
        return Ok(());
    }
    Err(EciError::new(
        "InvalidSecurityToken.MismatchWithAccessKey",
        "Specified security token does not belong to the access key.",
    ))
}

/// `name:trimmed value\n` for each signed header, sorted by name.
fn canonical_headers(inbound: &Inbound<'_>, signed: &str) -> Result<String, EciError> {
    let incomplete = |why: String| EciError::new("IncompleteSignature", why);
    let mut names: Vec<&str> = signed.split(';').collect();
    names.sort_unstable();
    let needs_type = !inbound.body.is_empty();
    let required = |name: &str| name == "host" || name.starts_with("x-acs-") || (needs_type && name == "content-type");
    if let Some(absent) = inbound.headers.keys().find(|name| required(name.as_str()) && !names.contains(&name.as_str()))
    {
        return Err(incomplete(format!("The header {absent} must be signed.")));
    }
    if !names.contains(&"host") {
        return Err(incomplete("The header host must be signed.".to_owned()));
    }
    let mut canonical = String::new();
    for name in names {
        let mut values = inbound.headers.get_all(name).iter();
        // A header sent twice would let the signed value and the value acted on differ.
        let (Some(value), None) = (values.next(), values.next()) else {
            return Err(incomplete(format!("The signed header {name} must be present once.")));
        };
        let value = value.to_str().map_err(|_| incomplete(format!("The header {name} is not ASCII.")))?;
        canonical.push_str(name);
        canonical.push(':');
        canonical.push_str(value.trim());
        canonical.push('\n');
    }
    Ok(canonical)
}

fn check_version(version: &str) -> Result<(), EciError> {
    if version == VERSION {
        return Ok(());
    }
    Err(EciError::new("NoSuchVersion", format!("Specified version {version} does not exist; use {VERSION}.")))
}

fn check_nonce(nonce: &str) -> Result<&str, EciError> {
    if nonce.len() > MAX_NONCE_LEN {
        return Err(EciError::invalid("SignatureNonce", &format!("longer than {MAX_NONCE_LEN} bytes")));
    }
    Ok(nonce)
}

fn unknown_key() -> EciError {
    EciError::new("InvalidAccessKeyId.NotFound", "Specified access key is not found.")
}

/// The legacy SDK splits this text at the first colon and compares what follows (README 3.4, measured), so nothing
/// before it may hold one and nothing may follow the string.
fn mismatch(string_to_sign: &str) -> EciError {
    EciError::new(
        "SignatureDoesNotMatch",
        format!("Specified signature is not matched with our calculation. server string to sign is:{string_to_sign}"),
    )
}

/// The refusal of a nonce that was used before.
pub(crate) fn nonce_used() -> EciError {
    EciError::new("SignatureNonceUsed", "Specified signature nonce was used already.")
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn base64_text(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests;
