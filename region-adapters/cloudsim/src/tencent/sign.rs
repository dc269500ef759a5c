//! Verifies Tencent's signatures: TC3-HMAC-SHA256 and the legacy v1 (HmacSHA256, HmacSHA1), by the rules of vendor-api
//! README 2.2 and 2.3.
//!
//! What TC3 usually does not sign (action, region, version, token) can be changed on the way: that is the vendor's
//! design, not a gap here, and a test states it.

use std::collections::BTreeMap;

use base64::Engine;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::error::TcError;

const ALGORITHM: &str = "TC3-HMAC-SHA256";
/// The product's name in a credential scope.
const SERVICE: &str = "tke";
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

/// A request as it came in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inbound<'a> {
    pub(crate) method: &'a str,
    /// Raw query, without the question mark.
    pub(crate) query: &'a str,
    pub(crate) headers: &'a http::HeaderMap,
    pub(crate) body: &'a [u8],
}

/// What a key id stands for.
#[derive(Clone, Debug)]
pub(crate) struct Secret {
    pub(crate) key: String,
    pub(crate) token: Option<String>,
}

/// The common parameters, from headers (TC3) or from the parameters (v1).
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Common {
    pub(crate) key_id: String,
    pub(crate) action: String,
    pub(crate) version: String,
    pub(crate) region: String,
    /// Unix seconds.
    pub(crate) timestamp: i64,
    pub(crate) token: Option<String>,
}

/// A request whose signature is known to be well formed; not yet verified.
#[derive(Debug)]
pub(crate) enum Signed<'a> {
    Tc3 { common: Common, inbound: Inbound<'a>, authorization: Authorization<'a> },
    V1 { common: Common, inbound: Inbound<'a>, pairs: Vec<(String, String)> },
}

/// The parts of an `Authorization` header.
#[derive(Debug)]
pub(crate) struct Authorization<'a> {
    scope: Vec<&'a str>,
    signed_headers: &'a str,
    signature: &'a str,
}

/// Names of the common v1 parameters; the rest is the action's.
pub(crate) const V1_COMMON: [&str; 11] = [
    "Action",
    "Version",
    "Region",
    "Timestamp",
    "Nonce",
    "SecretId",
    "SignatureMethod",
    "Signature",
    "Language",
    "RequestClient",
    "Token",
];

impl<'a> Inbound<'a> {
    pub(crate) fn header(&self, name: &str) -> Option<&'a str> {
        self.headers.get(name).and_then(|v| std::str::from_utf8(v.as_bytes()).ok())
    }

    /// Tells TC3 from v1 and reads the common parameters.
    pub(crate) fn parse(self) -> Result<Signed<'a>, TcError> {
        match self.header("authorization") {
            Some(text) => self.parse_tc3(text),
            None => self.parse_v1(),
        }
    }

    fn parse_tc3(self, text: &'a str) -> Result<Signed<'a>, TcError> {
        let malformed = || TcError::new("AuthFailure.InvalidAuthorization", "The Authorization header is malformed.");
        let rest = text.strip_prefix(ALGORITHM).ok_or_else(malformed)?;
        let mut parts = BTreeMap::new();
        for part in rest.split(',') {
            let (name, value) = part.trim().split_once('=').ok_or_else(malformed)?;
            if parts.insert(name, value).is_some() {
                return Err(malformed());
            }
        }
        let mut take = |name| parts.remove(name).ok_or_else(malformed);
        let credential = take("Credential")?;
        let authorization = Authorization {
            scope: credential.split('/').skip(1).collect(),
            signed_headers: take("SignedHeaders")?,
            signature: take("Signature")?,
        };
        if !parts.is_empty() || authorization.scope.len() != 3 {
            return Err(malformed());
        }
        let need = |name: &str| {
            let value = self.header(name).filter(|v| !v.is_empty());
            value.ok_or_else(|| TcError::missing(name))
        };
        let timestamp = need("X-TC-Timestamp")?;
        let common = Common {
            key_id: credential.split('/').next().unwrap_or_default().to_owned(),
            action: need("X-TC-Action")?.to_owned(),
            version: need("X-TC-Version")?.to_owned(),
            region: self.header("X-TC-Region").unwrap_or_default().to_owned(),
            timestamp: timestamp.parse().map_err(|_| TcError::invalid("X-TC-Timestamp", "is not Unix seconds"))?,
            token: self.header("X-TC-Token").map(str::to_owned),
        };
        Ok(Signed::Tc3 { common, inbound: self, authorization })
    }

    fn parse_v1(self) -> Result<Signed<'a>, TcError> {
        let text = match self.method {
            "GET" => self.query,
            _ => std::str::from_utf8(self.body)
                .map_err(|_| TcError::new("InvalidRequest", "The form body is not UTF-8."))?,
        };
        let pairs = super::decode::form_pairs(text)?;
        let find = |name: &str| pairs.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str());
        if find("Signature").is_none() {
            let text = "The request has neither an Authorization header nor a Signature parameter.";
            return Err(TcError::new("AuthFailure.InvalidAuthorization", text));
        }
        let need = |name: &str| find(name).filter(|v| !v.is_empty()).ok_or_else(|| TcError::missing(name));
        need("Nonce")?;
        let common = Common {
            key_id: need("SecretId")?.to_owned(),
            action: need("Action")?.to_owned(),
            version: need("Version")?.to_owned(),
            region: find("Region").unwrap_or_default().to_owned(),
            timestamp: need("Timestamp")?.parse().map_err(|_| TcError::invalid("Timestamp", "is not Unix seconds"))?,
            token: find("Token").map(str::to_owned),
        };
        Ok(Signed::V1 { common, inbound: self, pairs })
    }
}

impl Signed<'_> {
    pub(crate) fn common(&self) -> &Common {
        match self {
            Self::Tc3 { common, .. } | Self::V1 { common, .. } => common,
        }
    }

    /// Checks clock, key, token and signature, in this order.
    pub(crate) fn verify(
        &self,
        now_secs: i64,
        window_secs: i64,
        secret: impl FnOnce(&str) -> Option<Secret>,
    ) -> Result<(), TcError> {
        let common = self.common();
        if now_secs.saturating_sub(common.timestamp).saturating_abs() > window_secs {
            let text = format!("The request timestamp {} is out of the allowed range.", common.timestamp);
            return Err(TcError::new("AuthFailure.SignatureExpire", text));
        }
        let Some(secret) = secret(&common.key_id) else {
            let text = "The SecretId is not found, please ensure that your SecretId is correct.";
            return Err(TcError::new("AuthFailure.SecretIdNotFound", text));
        };
        if let Some(token) = &secret.token
            && !same(token, common.token.as_deref().unwrap_or_default())
        {
            return Err(TcError::new("AuthFailure.TokenFailure", "The token is wrong or expired."));
        }
        let good = match self {
            Self::Tc3 { common, inbound, authorization } => verify_tc3(common, inbound, authorization, &secret.key)?,
            Self::V1 { inbound, pairs, .. } => verify_v1(inbound, pairs, &secret.key)?,
        };
        if good {
            Ok(())
        } else {
            let text = "The provided credentials could not be validated. Please check your signature is correct.";
            Err(TcError::new("AuthFailure.SignatureFailure", text))
        }
    }
}

fn same(a: &str, b: &str) -> bool {
    a.as_bytes().ct_eq(b.as_bytes()).into()
}

/// The Host header as sent, and without its port: SDKs sign either.
fn hosts<'a>(inbound: &Inbound<'a>) -> Vec<&'a str> {
    let host = inbound.header("host").unwrap_or_default();
    let mut all = vec![host];
    if let Some((name, port)) = host.rsplit_once(':')
        && port.bytes().all(|b| b.is_ascii_digit())
    {
        all.push(name);
    }
    all
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hmac_sha256(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("invariant: HMAC takes keys of any length");
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}

fn hmac_sha1(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha1>::new_from_slice(key).expect("invariant: HMAC takes keys of any length");
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}

fn verify_tc3(
    common: &Common,
    inbound: &Inbound<'_>,
    authorization: &Authorization<'_>,
    secret: &str,
) -> Result<bool, TcError> {
    let [date, service, terminator] = authorization.scope.as_slice() else {
        return Ok(false);
    };
    let names: Vec<&str> = authorization.signed_headers.split(';').collect();
    if !names.contains(&"content-type") || !names.contains(&"host") {
        let text = "SignedHeaders must contain content-type and host.";
        return Err(TcError::new("AuthFailure.InvalidAuthorization", text));
    }
    let label = inbound.header("host").unwrap_or_default().split(['.', ':']).next().unwrap_or_default();
    let known_service = *service == SERVICE || (!label.is_empty() && *service == label);
    if *date != super::time::utc_date(common.timestamp) || !known_service || *terminator != "tc3_request" {
        return Ok(false);
    }
    let payload = match (inbound.method, inbound.header("X-TC-Content-SHA256")) {
        (_, Some(UNSIGNED)) => sha256_hex(UNSIGNED.as_bytes()),
        ("GET", _) => sha256_hex(b""),
        _ => sha256_hex(inbound.body),
    };
    let query = if inbound.method == "GET" { inbound.query } else { "" };
    let key = hmac_sha256(format!("TC3{secret}").as_bytes(), date.as_bytes());
    let key = hmac_sha256(&hmac_sha256(&key, service.as_bytes()), terminator.as_bytes());
    for host in hosts(inbound) {
        let mut headers = String::new();
        for name in &names {
            let value = if *name == "host" { Some(host) } else { inbound.header(name) };
            let Some(value) = value else { return Ok(false) };
            headers.push_str(&format!("{name}:{}\n", value.trim()));
        }
        let canonical =
            format!("{}\n/\n{query}\n{headers}\n{}\n{payload}", inbound.method, authorization.signed_headers);
        let to_sign = format!(
            "{ALGORITHM}\n{}\n{date}/{service}/{terminator}\n{}",
            common.timestamp,
            sha256_hex(canonical.as_bytes())
        );
        if same(&hex(&hmac_sha256(&key, to_sign.as_bytes())), authorization.signature) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn verify_v1(inbound: &Inbound<'_>, pairs: &[(String, String)], secret: &str) -> Result<bool, TcError> {
    let find = |name: &str| pairs.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str());
    // Without SignatureMethod it is HmacSHA1 (vendor document of signature v1).
    let method = find("SignatureMethod").unwrap_or("HmacSHA1");
    let mac: fn(&[u8], &[u8]) -> Vec<u8> = match method {
        "HmacSHA256" => hmac_sha256,
        "HmacSHA1" => hmac_sha1,
        _ => return Err(TcError::invalid("SignatureMethod", "must be HmacSHA1 or HmacSHA256")),
    };
    let given = find("Signature").unwrap_or_default();
    let mut sorted: Vec<_> = pairs.iter().filter(|(k, _)| k != "Signature").collect();
    sorted.sort();
    let text: Vec<String> = sorted.iter().map(|(k, v)| format!("{}={v}", k.replace('_', "."))).collect();
    let text = text.join("&");
    Ok(hosts(inbound).into_iter().any(|host| {
        let to_sign = format!("{}{host}/?{text}", inbound.method);
        let signature = mac(secret.as_bytes(), to_sign.as_bytes());
        same(&base64::engine::general_purpose::STANDARD.encode(signature), given)
    }))
}
