//! An issuer's public keys (RFC 7517): which of them may verify a token, by key identifier and algorithm.
//!
//! Symmetric keys and keys for encryption are left out: a public set has no business with the one, and the other does
//! not sign. A key that we do not know how to use is no fault of the set; issuers publish such beside their others.

use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse},
};

/// Most keys of a set that are looked at: issuers keep two to four, and one for each algorithm.
const KEYS_MAX: usize = 64;

/// The algorithms that can be allowed. HMAC is not among them: its secret would be the gateway's and the issuer's.
pub const ALGORITHMS: [(&str, Algorithm); 9] = [
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
];

/// The keys of an issuer, immutable.
#[derive(Debug, Default)]
pub struct KeySet {
    keys: Vec<Key>,
}

#[derive(Debug)]
struct Key {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

/// Which key verifies a token.
#[derive(Debug)]
pub enum Found<'k> {
    /// This one.
    Key(&'k DecodingKey),
    /// The set has no key of that identifier, or several and the token names none: a newer set may.
    Unknown,
    /// There is a key of that identifier, but it is not for the token's algorithm.
    OtherAlgorithm,
}

impl KeySet {
    /// Reads a JWK set.
    ///
    /// # Errors
    /// It is no JWK set, or has no key that can verify a token; the text says which.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        #[derive(serde::Deserialize)]
        struct Raw {
            keys: Vec<serde_json::Value>,
        }
        let raw: Raw = serde_json::from_slice(json).map_err(|e| format!("not a JWK set: {e}"))?;
        if raw.keys.len() > KEYS_MAX {
            return Err(format!("{} keys, more than {KEYS_MAX}", raw.keys.len()));
        }
        let keys: Vec<Key> =
            raw.keys.into_iter().filter_map(|key| Key::of(serde_json::from_value(key).ok()?)).collect();
        if keys.is_empty() {
            return Err("no key in it can verify a token".to_owned());
        }
        Ok(Self { keys })
    }

    /// The key for a token of this header. A token that names no key is verified only by the one key of its algorithm.
    #[must_use]
    pub fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Found<'_> {
        let fits = |key: &&Key| key.algorithms.contains(&algorithm);
        match id {
            Some(_) => {
                let mut named = self.keys.iter().filter(|key| key.id.as_deref() == id).peekable();
                if named.peek().is_none() {
                    return Found::Unknown;
                }
                named.find(fits).map_or(Found::OtherAlgorithm, |key| Found::Key(&key.key))
            }
            None => {
                let mut able = self.keys.iter().filter(fits);
                match (able.next(), able.next()) {
                    (Some(only), None) => Found::Key(&only.key),
                    _ => Found::Unknown,
                }
            }
        }
    }

    /// How many keys it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

impl Key {
    fn of(jwk: Jwk) -> Option<Self> {
        let signs = jwk.common.public_key_use.as_ref().is_none_or(|u| *u == PublicKeyUse::Signature);
        let verifies = jwk.common.key_operations.as_ref().is_none_or(|ops| ops.contains(&KeyOperations::Verify));
        if !(signs && verifies) {
            return None;
        }
        let mut algorithms = able(&jwk.algorithm);
        if let Some(only) = &jwk.common.key_algorithm {
            let only = only.to_string();
            algorithms.retain(|a| ALGORITHMS.iter().any(|(name, known)| known == a && *name == only));
        }
        let key = DecodingKey::from_jwk(&jwk).ok()?;
        (!algorithms.is_empty()).then_some(Self { id: jwk.common.key_id, algorithms, key })
    }
}

/// Algorithms that a key of this kind is for.
fn able(parameters: &AlgorithmParameters) -> Vec<Algorithm> {
    match parameters {
        AlgorithmParameters::RSA(_) => vec![
            Algorithm::RS256,
            Algorithm::RS384,
            Algorithm::RS512,
            Algorithm::PS256,
            Algorithm::PS384,
            Algorithm::PS512,
        ],
        AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => vec![Algorithm::ES256],
        AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P384 => vec![Algorithm::ES384],
        AlgorithmParameters::OctetKeyPair(ed) if ed.curve == EllipticCurve::Ed25519 => vec![Algorithm::EdDSA],
        _ => Vec::new(),
    }
}
