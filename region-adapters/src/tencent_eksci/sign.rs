//! Signature TC3-HMAC-SHA256: pure, from request, key and time to the `Authorization` header.
//!
//! Signed are method, path, query, `content-type`, `host` and the body. Action, region and version are *not*
//! (vendor document "signature method v3"): whoever can read a request may replay it under another action for
//! five minutes, which is why a real endpoint is `https`.

use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

/// What of a request goes into the signature.
#[derive(Debug, Clone, Copy)]
pub(super) struct ToSign<'a> {
    /// `tke`.
    pub(super) service: &'a str,
    /// `POST`, or `GET` with a query.
    pub(super) method: &'a str,
    /// Query string as sent, without `?`; empty for POST.
    pub(super) query: &'a str,
    /// `Content-Type` header as sent.
    pub(super) content_type: &'a str,
    /// `Host` header as sent.
    pub(super) host: &'a str,
    /// Body as sent; `UNSIGNED-PAYLOAD` where the header `X-TC-Content-SHA256` says so.
    pub(super) payload: &'a [u8],
}

const ALGORITHM: &str = "TC3-HMAC-SHA256";
const SIGNED_HEADERS: &str = "content-type;host";

/// The `Authorization` header. `timestamp` is the value of `X-TC-Timestamp`, in Unix seconds.
pub(super) fn authorization(request: &ToSign<'_>, id: &str, key: &SecretString, timestamp: i64) -> String {
    let scope = scope(request.service, timestamp);
    let text = string_to_sign(&canonical_request(request), &scope, timestamp);
    let signature = signature(request.service, key, timestamp, &text);
    format!("{ALGORITHM} Credential={id}/{scope}, SignedHeaders={SIGNED_HEADERS}, Signature={signature}")
}

fn canonical_request(r: &ToSign<'_>) -> String {
    let payload = hex(&Sha256::digest(r.payload));
    let ToSign { method, query, content_type, host, .. } = r;
    format!("{method}\n/\n{query}\ncontent-type:{content_type}\nhost:{host}\n\n{SIGNED_HEADERS}\n{payload}")
}

fn scope(service: &str, timestamp: i64) -> String {
    format!("{}/{service}/tc3_request", utc_date(timestamp))
}

fn string_to_sign(canonical_request: &str, scope: &str, timestamp: i64) -> String {
    format!("{ALGORITHM}\n{timestamp}\n{scope}\n{}", hex(&Sha256::digest(canonical_request)))
}

fn signature(service: &str, key: &SecretString, timestamp: i64, text: &str) -> String {
    let seed = wiped_seed(key);
    let chain = [utc_date(timestamp).as_bytes(), service.as_bytes(), b"tc3_request", text.as_bytes()]
        .iter()
        .fold(seed.expose_secret().as_bytes().to_vec(), |key, part| hmac(&key, part));
    hex(&chain)
}

/// `TC3` followed by the key, in a string that is wiped when dropped.
fn wiped_seed(key: &SecretString) -> SecretString {
    SecretString::from(format!("TC3{}", key.expose_secret()))
}

/// Date in UTC, as `YYYY-MM-DD`. A time outside the calendar gives the calendar's end, which no vendor takes.
fn utc_date(timestamp: i64) -> String {
    let time = jiff::Timestamp::from_second(timestamp).unwrap_or(jiff::Timestamp::MAX);
    time.strftime("%Y-%m-%d").to_string()
}

fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("invariant: HMAC takes a key of any length");
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("invariant: writing to a String does not fail");
        text
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Vectors {
        vectors: Vec<Vector>,
    }

    #[derive(Deserialize)]
    struct Vector {
        name: String,
        secret_id: String,
        secret_key: String,
        timestamp: i64,
        request: Recorded,
        canonical_request: String,
        credential_scope: String,
        string_to_sign: String,
        signature: String,
    }

    #[derive(Deserialize)]
    struct Recorded {
        method: String,
        query: String,
        headers: BTreeMap<String, String>,
        body: String,
    }

    fn vectors() -> Vec<Vector> {
        serde_json::from_str::<Vectors>(include_str!("fixtures/tc3-vectors.json")).unwrap().vectors
    }

    fn to_sign(v: &Vector) -> ToSign<'_> {
        let header = |name: &str| v.request.headers.get(name).map(String::as_str);
        let unsigned = header("X-TC-Content-SHA256") == Some("UNSIGNED-PAYLOAD");
        ToSign {
            service: v.credential_scope.split('/').nth(1).unwrap(),
            method: &v.request.method,
            query: &v.request.query,
            content_type: header("Content-Type").unwrap(),
            host: header("Host").unwrap(),
            payload: if unsigned { b"UNSIGNED-PAYLOAD" } else { v.request.body.as_bytes() },
        }
    }

    #[test]
    fn every_golden_vector_step_by_step() {
        let vectors = vectors();
        assert_eq!(vectors.len(), 13, "the vendor's TC3 vectors are all there");
        for v in vectors {
            let request = to_sign(&v);
            let key = SecretString::from(v.secret_key.clone());
            assert_eq!(canonical_request(&request), v.canonical_request, "{}", v.name);
            assert_eq!(scope(request.service, v.timestamp), v.credential_scope, "{}", v.name);
            let text = string_to_sign(&v.canonical_request, &v.credential_scope, v.timestamp);
            assert_eq!(text, v.string_to_sign, "{}", v.name);
            assert_eq!(signature(request.service, &key, v.timestamp, &text), v.signature, "{}", v.name);
            let header = &v.request.headers["Authorization"];
            assert_eq!(&authorization(&request, &v.secret_id, &key, v.timestamp), header, "{}", v.name);
        }
    }

    #[test]
    fn any_changed_part_changes_the_signature() {
        for v in vectors() {
            let key = SecretString::from(v.secret_key.clone());
            let request = to_sign(&v);
            let good = authorization(&request, &v.secret_id, &key, v.timestamp);
            let other_key = SecretString::from(format!("{}x", v.secret_key));
            let changed = [
                authorization(&ToSign { method: "PUT", ..request }, &v.secret_id, &key, v.timestamp),
                authorization(&ToSign { query: "a=b", ..request }, &v.secret_id, &key, v.timestamp),
                authorization(&ToSign { content_type: "text/plain", ..request }, &v.secret_id, &key, v.timestamp),
                authorization(&ToSign { host: "other", ..request }, &v.secret_id, &key, v.timestamp),
                authorization(&ToSign { payload: b"other", ..request }, &v.secret_id, &key, v.timestamp),
                authorization(&request, &v.secret_id, &key, v.timestamp + 1),
                authorization(&request, &v.secret_id, &other_key, v.timestamp),
            ];
            assert!(changed.iter().all(|c| *c != good), "{}", v.name);
        }
    }

    #[test]
    fn no_time_panics() {
        for t in [i64::MIN, -1, 0, i64::MAX] {
            assert_eq!(utc_date(t).matches('-').count() + usize::from(t == i64::MIN), 2 + usize::from(t == i64::MIN));
        }
    }
}
