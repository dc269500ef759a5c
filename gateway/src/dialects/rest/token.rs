//! Page tokens: sealed, bound to tenant, collection and query, valid for 15 minutes (API-CONVENTIONS 4).

use std::time::Duration;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    hmac,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use meridian_model::{error::ErrorCode, time::Time};
use secrecy::{ExposeSecret as _, SecretString};

use crate::operation::Refusal;

/// How long a token is good for.
pub const TOKEN_LIFETIME: Duration = Duration::from_secs(15 * 60);
/// Longest token we look at: a position is a name or an operation id, so real ones stay below 400 characters.
const TOKEN_LEN_MAX: usize = 1024;
/// Length of the expiry in front of the position.
const EXPIRY_LEN: usize = 8;

/// Seals and opens page tokens.
pub struct TokenKey(RandomizedNonceKey);

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenKey")
    }
}

impl TokenKey {
    /// A key of its own, derived from the deployment's secret.
    #[must_use]
    pub fn new(secret: &SecretString) -> Self {
        let root = hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret().as_bytes());
        let derived = hmac::sign(&root, b"meridian page token v1");
        let key = RandomizedNonceKey::new(&AES_256_GCM, derived.as_ref());
        Self(key.expect("invariant: HMAC-SHA256 gives the 32 bytes AES-256 takes"))
    }

    /// A token for the page after `after`.
    ///
    /// # Errors
    /// A fault of ours: the cipher or its random numbers failed.
    pub fn seal(&self, binding: &[u8], after: &str, now: Time) -> Result<String, Refusal> {
        let mut text = (now + TOKEN_LIFETIME).unix_ms().to_be_bytes().to_vec();
        text.extend_from_slice(after.as_bytes());
        let nonce = self
            .0
            .seal_in_place_append_tag(Aad::from(binding), &mut text)
            .map_err(|_| Refusal::internal("a page token could not be sealed"))?;
        let mut token = nonce.as_ref().to_vec();
        token.extend_from_slice(&text);
        Ok(URL_SAFE_NO_PAD.encode(token))
    }

    /// The position in a token.
    ///
    /// # Errors
    /// `page-token-invalid` when it is not one of ours or was given for another query, `page-expired` when it is
    /// too old.
    pub fn open(&self, binding: &[u8], token: &str, now: Time) -> Result<String, Refusal> {
        let invalid = || Refusal::new(ErrorCode::PageTokenInvalid, "the page token is not one given for this query");
        if token.len() > TOKEN_LEN_MAX {
            return Err(invalid());
        }
        let mut bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| invalid())?;
        let (nonce, sealed) = bytes.split_at_mut_checked(NONCE_LEN).ok_or_else(invalid)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| invalid())?;
        let text = self.0.open_in_place(nonce, Aad::from(binding), sealed).map_err(|_| invalid())?;
        let (expiry, after) = text.split_first_chunk::<EXPIRY_LEN>().ok_or_else(invalid)?;
        if Time::from_unix_ms(i64::from_be_bytes(*expiry)) < now {
            return Err(Refusal::new(ErrorCode::PageExpired, "the page token is older than 15 minutes"));
        }
        std::str::from_utf8(after).map(str::to_owned).map_err(|_| invalid())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_opens_only_for_its_query_and_time() {
        let key = TokenKey::new(&SecretString::from("0123456789abcdef0123456789abcdef"));
        let now = Time::from_unix_ms(1_000_000);
        let token = key.seal(b"acme/instances?a", "web-7", now).unwrap();
        assert_eq!(key.open(b"acme/instances?a", &token, now).unwrap(), "web-7");
        let code = |binding: &[u8], token: &str, now| key.open(binding, token, now).unwrap_err().problem.code;
        assert_eq!(code(b"lab/instances?a", &token, now), ErrorCode::PageTokenInvalid);
        assert_eq!(code(b"acme/instances?a", &token, now + TOKEN_LIFETIME * 2), ErrorCode::PageExpired);
        for at in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(bytes).unwrap();
            if forged != token {
                assert!(key.open(b"acme/instances?a", &forged, now).is_err(), "position {at}");
            }
        }
        for bad in ["", "A", "!!", &"A".repeat(5000)] {
            assert_eq!(code(b"acme/instances?a", bad, now), ErrorCode::PageTokenInvalid);
        }
    }
}
