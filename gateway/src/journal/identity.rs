//! Names that carry identity: operation ids, client tokens and cloud names (RELIABILITY 2.1).
//!
//! All of them are pure functions of the request and the attempt, so that after a total loss of the ledger a
//! repeated request still finds its operation, and an instance found at a cloud still names its operation.

use hmac::{Hmac, KeyInit, Mac};
use meridian_model::{
    ids::{BackendId, ClientToken, CloudName, IdError, InstanceUid, OperationId, TenantId},
    time::Time,
};
use sha2::{Digest, Sha256};

/// RFC 4648 base32 in lower case: fits DNS labels and every vendor's alphabet.
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// First characters of every cloud name: version 1 of the layout.
const LAYOUT: &str = "m1";
const DEPLOYMENT_LEN: usize = 6;
const TENANT_LEN: usize = 8;
/// 130 bits: a collision between two keys is not a thing that happens.
const OPERATION_LEN: usize = 26;
/// ECI takes 64 ASCII characters (Alibaba ECI API, create, parameter `ClientToken`, read 2026-11).
const TOKEN_LEN: usize = 40;

/// The first `len` characters of the base32 form of `bytes`.
fn base32(bytes: &[u8], len: usize) -> String {
    let mut text = String::with_capacity(len);
    let (mut buffer, mut bits) = (0_u32, 0_u32);
    for byte in bytes {
        buffer = ((buffer << 8) | u32::from(*byte)) & 0xfff;
        bits += 8;
        while bits >= 5 && text.len() < len {
            bits -= 5;
            text.push(digit(buffer >> bits));
        }
    }
    text
}

/// The base32 digit of the lowest five bits.
fn digit(value: u32) -> char {
    let index = usize::try_from(value & 31).unwrap_or_default();
    char::from(BASE32.get(index).copied().unwrap_or(b'a'))
}

fn digit_value(c: char) -> Option<u32> {
    BASE32.iter().position(|b| char::from(*b) == c).and_then(|i| u32::try_from(i).ok())
}

/// The deployment: who names instances, with the secret that makes operation ids unguessable.
#[derive(Clone)]
pub struct Deployment {
    id: String,
    /// As the configuration has it.
    env: String,
    secret: Vec<u8>,
}

impl std::fmt::Debug for Deployment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deployment").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What a cloud name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Operation.
    pub op_id: OperationId,
    /// Hash of the tenant.
    pub tenant_hash: String,
    /// Epoch of the attempt.
    pub epoch: u32,
    /// Number of the attempt.
    pub n: u32,
}

impl Deployment {
    /// A deployment by its id and secret.
    #[must_use]
    pub fn new(id: &str, secret: &[u8]) -> Self {
        let env = id.to_owned();
        Self { id: base32(&Sha256::digest(id.as_bytes()), DEPLOYMENT_LEN), env, secret: secret.to_vec() }
    }

    /// The deployment's name, which API keys that it makes carry.
    #[must_use]
    pub fn env(&self) -> &str {
        &self.env
    }

    /// The operation of a tenant's key on a route, for example `POST instances`.
    ///
    /// # Errors
    /// Never in practice: the alphabet fits; the type makes it checkable.
    pub fn operation_id(&self, tenant: &TenantId, route: &str, key: &str) -> Result<OperationId, IdError> {
        // HMAC takes keys of any length, so the error arm cannot be reached; an empty digest would be caught by the id's rule.
        let digest = Hmac::<Sha256>::new_from_slice(&self.secret).map(|mac| {
            let parts: [&[u8]; 5] = [tenant.as_str().as_bytes(), &[0], route.as_bytes(), &[0], key.as_bytes()];
            parts.iter().fold(mac, |mac, part| mac.chain_update(part)).finalize().into_bytes().to_vec()
        });
        OperationId::new(base32(&digest.unwrap_or_default(), OPERATION_LEN))
    }

    /// What the vendor gets to recognise a repeated create of one attempt.
    ///
    /// # Errors
    /// Never in practice; see [`Self::operation_id`].
    pub fn client_token(op: &OperationId, n: u32, backend: &BackendId, epoch: u32) -> Result<ClientToken, IdError> {
        let text = format!("{op}\0{n}\0{backend}\0{epoch}");
        ClientToken::new(base32(&Sha256::digest(text.as_bytes()), TOKEN_LEN))
    }

    /// What the instance of one attempt is called at the vendor: `m1-<dep>-<tenant>-<op>-<en>-<crc>`.
    ///
    /// # Errors
    /// Never for epochs and attempts below 32, which configuration guarantees for attempts.
    pub fn cloud_name(&self, tenant: &TenantId, op: &OperationId, n: u32, epoch: u32) -> Result<CloudName, IdError> {
        let tenant = tenant_hash(tenant);
        let body = format!("{LAYOUT}-{}-{tenant}-{op}-{}{}", self.id, digit(epoch), digit(n));
        let check = checksum(&body);
        CloudName::new(format!("{body}-{check}"))
    }

    /// Which Meridian deployment made a cloud name, by what stands for it there; `None` for any other name.
    #[must_use]
    pub fn maker(name: &str) -> Option<&str> {
        let (body, check) = name.rsplit_once('-')?;
        let mut parts = body.split('-');
        let (layout, deployment) = (parts.next()?, parts.next()?);
        (layout == LAYOUT && checksum(body) == check && deployment.len() == DEPLOYMENT_LEN).then_some(deployment)
    }

    /// What stands for this deployment in cloud names.
    #[must_use]
    pub fn mark(&self) -> &str {
        &self.id
    }

    /// Reads a cloud name of this deployment; `None` for any other name.
    #[must_use]
    pub fn identify(&self, name: &str) -> Option<Identity> {
        let (body, check) = name.rsplit_once('-')?;
        if checksum(body) != check {
            return None;
        }
        let mut parts = body.split('-');
        let (layout, deployment) = (parts.next()?, parts.next()?);
        let (tenant, op, numbers) = (parts.next()?, parts.next()?, parts.next()?);
        let mut numbers = numbers.chars();
        let (epoch, n) = (digit_value(numbers.next()?)?, digit_value(numbers.next()?)?);
        let ours = layout == LAYOUT && deployment == self.id && parts.next().is_none() && numbers.next().is_none();
        let identity = Identity { op_id: OperationId::new(op).ok()?, tenant_hash: tenant.to_owned(), epoch, n };
        ours.then_some(identity)
    }
}

/// The hash of a tenant in cloud names.
#[must_use]
pub fn tenant_hash(tenant: &TenantId) -> String {
    base32(&Sha256::digest(tenant.as_str().as_bytes()), TENANT_LEN)
}

/// Two characters that catch a name that was cut or edited.
fn checksum(body: &str) -> String {
    base32(&crc32fast::hash(body.as_bytes()).to_be_bytes(), 2)
}

/// A new instance uid: `inst_` and a version-7 UUID, so that uids sort by creation.
///
/// # Errors
/// Never in practice: the alphabet fits.
pub fn instance_uid(now: Time, random: u128) -> Result<InstanceUid, IdError> {
    let bytes = random.to_be_bytes();
    let tail: [u8; 10] = bytes.first_chunk().copied().unwrap_or_default();
    let ms = u64::try_from(now.unix_ms()).unwrap_or(0);
    let uuid = uuid::Builder::from_unix_timestamp_millis(ms, &tail).into_uuid();
    InstanceUid::new(format!("inst_{}", uuid.simple()))
}

/// The seed of an operation's plan: fixed by the operation, so that explaining it again gives the same.
#[must_use]
pub fn seed(op: &OperationId) -> u64 {
    op.as_str()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn deployment() -> Deployment {
        Deployment::new("demo", b"secret")
    }

    #[test]
    fn base32_agrees_with_rfc_4648() {
        assert_eq!(base32(b"foobar", 10), "mzxw6ytbo", "whole digits only");
        assert_eq!(base32(&[0xff; 5], 8), "77777777");
    }

    #[test]
    fn the_operation_depends_on_every_part_of_the_request() {
        let [a, b] = ["a", "b"].map(|t| TenantId::new(t).unwrap());
        let id = deployment().operation_id(&a, "POST instances", "k").unwrap();
        assert_eq!(id, deployment().operation_id(&a, "POST instances", "k").unwrap());
        assert_eq!(id.as_str().len(), OPERATION_LEN);
        for other in [
            deployment().operation_id(&b, "POST instances", "k"),
            deployment().operation_id(&a, "POST deployments", "k"),
            deployment().operation_id(&a, "POST instances", "k2"),
            Deployment::new("demo", b"other").operation_id(&a, "POST instances", "k"),
        ] {
            assert_ne!(other.unwrap(), id);
        }
    }

    proptest! {
        #[test]
        fn cloud_names_read_back_and_fit_every_vendor(key in "[ -~]{1,40}", tenant in "[a-z0-9]{1,20}", n in 1_u32..21, epoch in 1_u32..32) {
            let tenant = TenantId::new(tenant).unwrap();
            let op = deployment().operation_id(&tenant, "POST instances", &key).unwrap();
            let name = deployment().cloud_name(&tenant, &op, n, epoch).unwrap();
            prop_assert!(name.as_str().len() <= 63);
            let read = deployment().identify(name.as_str()).unwrap();
            prop_assert_eq!(read, Identity { op_id: op.clone(), tenant_hash: tenant_hash(&tenant), epoch, n });
            prop_assert!(Deployment::new("other", b"secret").identify(name.as_str()).is_none());
            prop_assert!(Deployment::maker(name.as_str()).is_some_and(|maker| maker == deployment().mark()));
            prop_assert_eq!(Deployment::maker(&name.as_str()[1..]), None);
            prop_assert!(Deployment::client_token(&op, n, &BackendId::new("b").unwrap(), epoch).unwrap().as_str().len() <= 64);
        }
    }

    #[test]
    fn uids_sort_by_time() {
        let early = instance_uid(Time::from_unix_ms(1_000_000), u128::MAX).unwrap();
        let late = instance_uid(Time::from_unix_ms(2_000_000), 0).unwrap();
        assert!(early < late && early.as_str().starts_with("inst_"));
    }
}
