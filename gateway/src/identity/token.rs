//! Is this token one of a trusted issuer, meant for us, and good now? Pure: the keys and the time are arguments.
//!
//! The signature is checked by `jsonwebtoken`; every claim is checked here, against the caller's clock. Nothing of a
//! token is believed before its signature is, but the issuer's name and the key's identifier, which choose what it is
//! checked with.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, Validation, decode, decode_header, errors::ErrorKind};
use meridian_model::time::Time;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::jwks::{Found, KeySet};

/// Longest token that is looked at. Tokens with a hundred groups stay below 8 KiB, and headers end at 16 KiB.
pub const TOKEN_LEN_MAX: usize = 12 * 1024;

/// What a token of an issuer has to say.
#[derive(Debug, Clone)]
pub struct Expected<'e> {
    /// Its `iss`, to the byte.
    pub issuer: &'e str,
    /// One of these is in its `aud`.
    pub audiences: &'e [String],
    /// Its signature is of one of these.
    pub algorithms: &'e [Algorithm],
    /// How far the issuer's clock may be from ours.
    pub leeway: Duration,
    /// The most there may be from its `iat` to its `exp`.
    pub lifetime_max: Duration,
}

/// A token whose signature, issuer, audience and times are right.
#[derive(Debug, Clone)]
pub struct Verified {
    /// All claims.
    pub claims: Map<String, Value>,
    /// When it ends, leeway included.
    pub until: Time,
}

/// Why a token is not believed. The texts are for logs: a caller learns of all but [`Fault::Expired`] and
/// [`Fault::UnknownKey`] only that the token is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It is not a signed token in the compact form.
    #[error("not a token: {0}")]
    Malformed(&'static str),
    /// Signed with an algorithm that the issuer may not use.
    #[error("the algorithm is not allowed")]
    Algorithm,
    /// No key of the set is the one it names; a newer set may have it.
    #[error("the key is not known")]
    UnknownKey,
    /// The signature is another's.
    #[error("the signature does not match")]
    Signature,
    /// A claim is missing or not of its type.
    #[error("the claim {0} is missing or not of its type")]
    Claim(&'static str),
    /// Another issuer's.
    #[error("the issuer is another")]
    Issuer,
    /// Meant for somebody else.
    #[error("the audience is another")]
    Audience,
    /// Its time is over.
    #[error("expired")]
    Expired,
    /// Its time has not come.
    #[error("not valid yet")]
    NotYet,
    /// Valid for longer than is allowed.
    #[error("valid for longer than allowed")]
    TooLong,
}

/// The issuer that a token says it is of, before anything of it is believed.
///
/// # Errors
/// [`Fault::Malformed`], [`Fault::Claim`].
pub fn claimed_issuer(token: &str) -> Result<String, Fault> {
    #[derive(Deserialize)]
    struct Only {
        iss: Option<String>,
    }
    if token.len() > TOKEN_LEN_MAX {
        return Err(Fault::Malformed("too long"));
    }
    let mut parts = token.split('.');
    let (Some(_), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err(Fault::Malformed("not three parts"));
    };
    let payload = URL_SAFE_NO_PAD.decode(payload).map_err(|_| Fault::Malformed("the claims are not base 64"))?;
    let only: Only = serde_json::from_slice(&payload).map_err(|_| Fault::Malformed("the claims are not an object"))?;
    only.iss.ok_or(Fault::Claim("iss"))
}

/// Checks a token.
///
/// # Errors
/// The first [`Fault`], in the order of the enumeration.
pub fn verify(token: &str, expected: &Expected<'_>, keys: &KeySet, now: Time) -> Result<Verified, Fault> {
    if token.len() > TOKEN_LEN_MAX {
        return Err(Fault::Malformed("too long"));
    }
    // `alg: none` and whatever else is no algorithm ends here.
    let header = decode_header(token).map_err(|_| Fault::Malformed("the header cannot be read"))?;
    if header.crit.is_some() || header.enc.is_some() || header.zip.is_some() {
        return Err(Fault::Malformed("the header asks for what is not supported"));
    }
    if !header.typ.as_deref().is_none_or(|t| t.eq_ignore_ascii_case("jwt") || t.eq_ignore_ascii_case("at+jwt")) {
        return Err(Fault::Malformed("another kind of token"));
    }
    if !expected.algorithms.contains(&header.alg) {
        return Err(Fault::Algorithm);
    }
    let key = match keys.find(header.kid.as_deref(), header.alg) {
        Found::Key(key) => key,
        Found::Unknown => return Err(Fault::UnknownKey),
        Found::OtherAlgorithm => return Err(Fault::Algorithm),
    };
    let decoded = decode::<Map<String, Value>>(token, key, &signature_only(header.alg));
    let claims = decoded.map_err(|e| from_library(e.kind()))?.claims;
    let until = times(&claims, expected, now)?;
    Ok(Verified { claims, until })
}

/// Lets the library check the signature and leave the claims to us: it reads the system's clock.
fn signature_only(algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation
}

fn from_library(kind: &ErrorKind) -> Fault {
    match kind {
        ErrorKind::InvalidSignature => Fault::Signature,
        ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm => Fault::Algorithm,
        ErrorKind::Json(_) | ErrorKind::Utf8(_) => Fault::Malformed("the claims are not an object"),
        ErrorKind::Base64(_) => Fault::Malformed("not base 64"),
        // Keys that do not go with the signature's form, for instance of another length.
        _ => Fault::Signature,
    }
}

/// Checks issuer, audience and times; answers when the token ends.
fn times(claims: &Map<String, Value>, expected: &Expected<'_>, now: Time) -> Result<Time, Fault> {
    if claims.get("iss").and_then(Value::as_str).ok_or(Fault::Claim("iss"))? != expected.issuer {
        return Err(Fault::Issuer);
    }
    let ours = |audience: &str| expected.audiences.iter().any(|a| a == audience);
    let meant = match claims.get("aud") {
        Some(Value::String(one)) => ours(one),
        Some(Value::Array(some)) => some.iter().filter_map(Value::as_str).any(ours),
        _ => return Err(Fault::Claim("aud")),
    };
    if !meant {
        return Err(Fault::Audience);
    }
    let (exp, iat) = (second(claims, "exp")?.ok_or(Fault::Claim("exp"))?, second(claims, "iat")?);
    let until = exp + expected.leeway;
    if until <= now {
        return Err(Fault::Expired);
    }
    let begins = second(claims, "nbf")?.into_iter().chain(iat).max();
    if begins.is_some_and(|begins| begins > now + expected.leeway) {
        return Err(Fault::NotYet);
    }
    // Without a time of issue the longest life it can still have counts.
    let from = iat.unwrap_or(now).min(now);
    if exp > from + expected.lifetime_max + expected.leeway {
        return Err(Fault::TooLong);
    }
    Ok(until)
}

/// A claim in seconds since 1970, whole or with a fraction.
fn second(claims: &Map<String, Value>, name: &'static str) -> Result<Option<Time>, Fault> {
    /// Seconds that fit the milliseconds of [`Time`] with room for what is added to them: the year 200,000.
    const SECONDS_MAX: f64 = 6.0e12;
    let Some(value) = claims.get(name) else { return Ok(None) };
    let seconds = value.as_f64().filter(|s| (0.0..=SECONDS_MAX).contains(s)).ok_or(Fault::Claim(name))?;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the range was checked; fractions of a millisecond are dropped"
    )]
    let ms = (seconds * 1000.0) as i64;
    Ok(Some(Time::from_unix_ms(ms)))
}

#[cfg(test)]
mod tests;
