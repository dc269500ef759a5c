//! The API keys of a snapshot: whose they are, what they may do, until when.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
};

use meridian_model::{ids::TenantId, time::Time};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::Entry;
use crate::{
    config::ApiKey,
    http::{authenticate::parse, rate_limit::TenantLimits},
    operation::{Caller, Scope},
};

/// Who is calling, with what is counted for its tenant.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Scope, principal and role.
    pub caller: Arc<Caller>,
    /// The rate limits it shares with its tenant's other credentials.
    pub limits: Arc<TenantLimits>,
}

/// Why a key opens nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// It is none of ours. Which part of it is wrong is nobody's business.
    Unknown,
    /// It is one of ours and has ended. Said only to who has its secret.
    Expired(Time),
}

#[derive(Debug)]
struct Known {
    sha256: [u8; 32],
    expires: Option<Time>,
    identity: Identity,
}

/// All API keys, immutable.
pub struct KeyRing {
    keys: HashMap<String, Known>,
    nobody: [u8; 32],
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyRing({} keys)", self.keys.len())
    }
}

impl KeyRing {
    /// The keys of these tenants and of the platform, whose keys share one limit.
    pub(super) fn new(tenants: &BTreeMap<TenantId, Entry>, platform: &[ApiKey], limits: &Arc<TenantLimits>) -> Self {
        let of_tenants = tenants.iter().flat_map(|(name, entry)| {
            entry.settings.keys.iter().map(move |key| (Scope::Tenant(name.clone()), key, &entry.limits))
        });
        let of_platform = platform.iter().map(|key| (Scope::Platform, key, limits));
        let keys = of_tenants.chain(of_platform).map(|(scope, key, limits)| {
            let caller = Caller {
                scope,
                principal: format!("key:{}", key.id),
                role: key.role,
                project: key.project.clone(),
                permissions: key.effective(),
            };
            let identity = Identity { caller: Arc::new(caller), limits: Arc::clone(limits) };
            (key.id.clone(), Known { sha256: key.sha256, expires: key.expires, identity })
        });
        Self { keys: keys.collect(), nobody: [0; 32] }
    }

    /// The owner of a key, if it is one of ours and has not ended. An unknown id costs the same hash and compare as a
    /// known one.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn identify(&self, key: &str, now: Time) -> Result<&Identity, Denied> {
        let presented = parse(key).ok_or(Denied::Unknown)?;
        let known = self.keys.get(presented.id);
        let hash: [u8; 32] = Sha256::digest(presented.secret.as_bytes()).into();
        let expected = known.map_or(&self.nobody, |known| &known.sha256);
        let same = bool::from(hash.ct_eq(expected));
        let known = known.filter(|_| same).ok_or(Denied::Unknown)?;
        match known.expires {
            Some(expires) if expires <= now => Err(Denied::Expired(expires)),
            Some(_) | None => Ok(&known.identity),
        }
    }
}
