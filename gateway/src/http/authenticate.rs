//! Who is calling, taken from the credential and from nothing else: an API key, a token of a trusted issuer, or the
//! certificate that the connection was opened with.
//!
//! An `Authorization` header is the credential if there is one; the certificate counts only without. So a wrong key is
//! refused whatever came with it, and nobody is silently somebody else. Tokens and certificates are `identity`'s.
//!
//! A key is `mrd_<env>_<id>_<secret><crc>`: the secret is 256 random bits in base 32, the crc (CRC-32 of all that
//! stands before it) catches typing errors without a look-up. Only the SHA-256 of the secret's text is stored
//! (`directory::keys`).

use std::{
    fmt,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use http::{HeaderMap, header::AUTHORIZATION};
use meridian_model::error::ErrorCode;
use secrecy::SecretString;
use sha2::{Digest as _, Sha256};
use tower::{Layer, Service};

use super::{Exchange, LayerFuture, Reply};
use crate::{
    audit::Audit,
    clock::Entropy,
    dialects::Class,
    directory::{
        Directory,
        keys::{Denied, Identity},
    },
    identity::{
        Identities,
        grant::Grant,
        issuer::{Checked, Issuer},
        token::Fault,
    },
    refusal::Rejection,
    server::Peer,
};

/// Length of the secret's text: 256 bits in base 32.
const SECRET_LEN: usize = 52;
/// Length of the crc's text: 32 bits in base 32.
const CRC_LEN: usize = 7;
/// Longest key we look at.
const KEY_LEN_MAX: usize = 200;
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// A new API key.
pub struct MintedKey {
    /// The whole key, shown once.
    pub key: SecretString,
    /// SHA-256 of its secret, for the configuration.
    pub sha256: [u8; 32],
}

impl fmt::Debug for MintedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MintedKey")
    }
}

impl MintedKey {
    /// The hash in hexadecimal, as the configuration wants it.
    #[must_use]
    pub fn sha256_hex(&self) -> String {
        self.sha256.iter().map(|b| format!("{b:02x}")).collect()
    }
}

/// Makes an API key from 256 bits of `entropy`. `env` and `id` are lower-case letters, digits or `-`.
#[must_use]
pub fn mint(env: &str, id: &str, entropy: &Entropy) -> MintedKey {
    // A version-4 UUID has 122 random bits, so three of them are hashed into the 256 of the secret.
    let mut seed = Sha256::new();
    for _ in 0..3 {
        seed.update(entropy.next().to_be_bytes());
    }
    let secret = base32(&seed.finalize());
    let body = format!("mrd_{env}_{id}_{secret}");
    let crc = base32(&crc32fast::hash(body.as_bytes()).to_be_bytes());
    MintedKey { key: SecretString::from(format!("{body}{crc}")), sha256: Sha256::digest(secret.as_bytes()).into() }
}

/// Base 32 of RFC 4648 in lower case, without padding.
fn base32(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(5) * 8);
    let (mut buffer, mut bits) = (0_u32, 0_u32);
    let mut push = |index: u32| {
        let letter = usize::try_from(index & 31).ok().and_then(|i| ALPHABET.get(i)).copied().unwrap_or(b'a');
        text.push(char::from(letter));
    };
    for byte in bytes {
        buffer = (buffer << 8) | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            push(buffer >> bits);
        }
    }
    if bits > 0 {
        push(buffer << (5 - bits));
    }
    text
}

/// The parts of a well-formed key.
pub(crate) struct Presented<'k> {
    pub(crate) id: &'k str,
    pub(crate) secret: &'k str,
}

/// Takes a key apart; none when it is not of the form, or mistyped.
pub(crate) fn parse(key: &str) -> Option<Presented<'_>> {
    if key.len() > KEY_LEN_MAX || !key.is_ascii() {
        return None;
    }
    let (body, crc) = key.split_at_checked(key.len().checked_sub(CRC_LEN)?)?;
    if base32(&crc32fast::hash(body.as_bytes()).to_be_bytes()) != crc {
        return None;
    }
    let mut parts = body.strip_prefix("mrd_")?.splitn(3, '_');
    let (_env, id, secret) = (parts.next()?, parts.next()?, parts.next()?);
    (secret.len() == SECRET_LEN).then_some(Presented { id, secret })
}

/// Makes [`Authenticate`].
#[derive(Debug, Clone)]
pub struct AuthenticateLayer {
    directory: Arc<Directory>,
    identities: Arc<Identities>,
    audit: Audit,
}

impl AuthenticateLayer {
    /// A layer that knows the keys of a directory as it stands at each request, and these identities; who is proven and
    /// means nothing here is counted in the audit log.
    #[must_use]
    pub fn new(directory: Arc<Directory>, identities: Arc<Identities>, audit: Audit) -> Self {
        Self { directory, identities, audit }
    }

    /// Who is calling, or the token that says so where that takes waiting.
    fn prove<'r>(&self, headers: &'r HeaderMap, peer: &Peer) -> Result<Proof<'r>, Rejection> {
        let bearer = match (bearer(headers)?, &peer.identity) {
            (Some(bearer), _) => bearer,
            (None, Some(id)) => {
                let grant = self.identities.of_spiffe(id);
                return self.granted(grant, id.as_str(), "client certificate").map(Proof::Identity);
            }
            (None, None) => return Err(refused("no Authorization header")),
        };
        // An API key has no dot, and a token always.
        if bearer.contains('.') && !self.identities.issuers().is_empty() {
            return match self.identities.issuer_of(bearer) {
                Ok(issuer) => match issuer.check_now(bearer) {
                    Checked::Refused(Fault::UnknownKey) | Checked::KeysMissing => {
                        Ok(Proof::Waits(Arc::clone(issuer), bearer))
                    }
                    checked => self.checked(checked).map(Proof::Identity),
                },
                Err(fault) => Err(not_valid(&fault)),
            };
        }
        match self.directory.identify(bearer) {
            Ok(identity) => Ok(Proof::Identity(identity)),
            // One text for every wrong key: which part is wrong is nobody's business.
            Err(Denied::Unknown) => Err(refused("the API key is not valid")),
            Err(Denied::Expired(at)) => Err(refused(&format!("the API key expired at {at}"))),
            Err(Denied::Unsure) => Err(Rejection::new(
                ErrorCode::StoreUnavailable,
                "the store was not heard of for a minute, so it is not known whether the key was revoked; another \
                 gateway may know",
            )),
        }
    }

    /// Who a checked token speaks for.
    fn checked(&self, checked: Checked) -> Result<Identity, Rejection> {
        match checked {
            Checked::Subject(subject) => self.granted(Some(&subject.grant), &subject.principal, "token"),
            Checked::NoGrant(principal) => self.granted(None, &principal, "token"),
            Checked::Refused(fault) => Err(not_valid(&fault)),
            Checked::KeysMissing => {
                let detail = "the keys of the token's issuer cannot be fetched, so the token cannot be checked";
                Err(Rejection::new(ErrorCode::IssuerUnavailable, detail))
            }
        }
    }

    /// What a credential that is good means here. What grants there are, or that one's tenant is gone, is not told.
    fn granted(&self, grant: Option<&Grant>, principal: &str, what: &str) -> Result<Identity, Rejection> {
        grant.and_then(|grant| self.directory.load().identify(grant, principal)).ok_or_else(|| {
            self.audit.ungranted(principal);
            let detail = format!("the {what} is valid, but nothing here is granted to it");
            Rejection::new(ErrorCode::PermissionDenied, detail)
        })
    }
}

/// What a request's credential proves so far.
enum Proof<'r> {
    Identity(Identity),
    /// The token's key is not known yet.
    Waits(Arc<Issuer>, &'r str),
}

fn refused(detail: &str) -> Rejection {
    Rejection::new(ErrorCode::Unauthenticated, detail)
}

/// One text for every wrong token but one that has expired, which its sender could read from it.
fn not_valid(fault: &Fault) -> Rejection {
    tracing::debug!(%fault, "a token was refused");
    match fault {
        Fault::Expired => refused("the token has expired"),
        _ => refused("the token is not valid"),
    }
}

/// The bearer credential of a request, if it has an `Authorization` header.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Rejection> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(refused("more than one Authorization header"));
    }
    let (scheme, credential) = value
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .ok_or_else(|| refused("the Authorization header is not of the form 'Bearer KEY'"))?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(refused("the Authorization scheme is not Bearer"));
    }
    Ok(Some(credential.trim()))
}

impl<S> Layer<S> for AuthenticateLayer {
    type Service = Authenticate<S>;

    fn layer(&self, inner: S) -> Authenticate<S> {
        Authenticate { inner, layer: self.clone() }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Authenticate<S> {
    inner: S,
    layer: AuthenticateLayer,
}

impl<S> Service<Exchange> for Authenticate<S>
where
    S: Service<Exchange, Response = Reply, Error = Rejection, Future = LayerFuture> + Clone + Send + 'static,
{
    type Response = Reply;
    type Error = Rejection;
    type Future = LayerFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Rejection>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut exchange: Exchange) -> LayerFuture {
        if exchange.meta.route.class == Class::Public {
            return self.inner.call(exchange);
        }
        match self.layer.prove(exchange.request.headers(), &exchange.meta.peer) {
            Ok(Proof::Identity(identity)) => {
                identified(&mut exchange, identity);
                self.inner.call(exchange)
            }
            Ok(Proof::Waits(issuer, token)) => {
                let (layer, token) = (self.layer.clone(), token.to_owned());
                let next = self.inner.clone();
                let mut ready = std::mem::replace(&mut self.inner, next);
                Box::pin(async move {
                    let identity = layer.checked(issuer.check(&token).await)?;
                    identified(&mut exchange, identity);
                    ready.call(exchange).await
                })
            }
            Err(refused) => Box::pin(std::future::ready(Err(refused))),
        }
    }
}

fn identified(exchange: &mut Exchange, identity: Identity) {
    if let Some(tenant) = identity.caller.tenant() {
        tracing::Span::current().record("meridian.tenant.id", tenant.as_str());
    }
    exchange.meta.identity = Some(identity);
}

/// Locks without the poison: the guarded values are plain numbers that are never half-written.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use secrecy::ExposeSecret as _;

    use super::*;

    proptest! {
        #[test]
        fn no_key_panics(key in "\\PC{0,80}") {
            prop_assert!(parse(&key).is_none());
            let prefixed = format!("mrd_a_b_{key}");
            prop_assert!(parse(&prefixed).is_none());
        }
    }

    #[test]
    fn base32_follows_rfc_4648() {
        for (bytes, text) in [("", ""), ("f", "my"), ("fo", "mzxq"), ("foo", "mzxw6"), ("foobar", "mzxw6ytboi")] {
            assert_eq!(base32(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn a_minted_key_is_read_back_and_a_typing_error_is_not() {
        let minted = mint("test", "k-1", &Entropy::from_fn(|| 7));
        let key = minted.key.expose_secret();
        let parts = parse(key).unwrap();
        assert_eq!(parts.id, "k-1");
        assert_eq!(<[u8; 32]>::from(Sha256::digest(parts.secret)), minted.sha256);
        for at in 0..key.len() {
            let mut wrong = key.as_bytes().to_vec();
            wrong[at] = if wrong[at] == b'x' { b'y' } else { b'x' };
            assert!(parse(std::str::from_utf8(&wrong).unwrap()).is_none(), "position {at}");
        }
        for bad in ["", "mrd_", "mrd_a_b_c", &"x".repeat(500), "ü"] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }
}
