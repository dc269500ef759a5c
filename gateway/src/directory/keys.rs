//! The API keys of a snapshot: whose they are, what they may do, until when.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
};

use meridian_model::{ids::TenantId, time::Time};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::{
    Entry,
    made::{Bounds, KeyRecord, Made},
};
use crate::{
    config::{ApiKey, parse_sha256},
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
    /// It may have been revoked, or made, at another gateway, and the store was not heard of for too long to tell.
    Unsure,
}

#[derive(Debug, Clone)]
struct Known {
    /// The newest first; a former one until its end.
    secrets: Vec<([u8; 32], Option<Time>)>,
    expires: Option<Time>,
    /// It can be revoked at another gateway.
    revocable: bool,
    identity: Identity,
}

/// Parts that the keys made by the API are in: of the most that there may be, one has two hundred.
const PARTS: usize = 256;

/// All API keys, immutable. A change of one made by the API copies the part that it is in.
pub struct KeyRing {
    declared: Arc<HashMap<String, Known>>,
    made: Vec<Arc<HashMap<String, Known>>>,
    nobody: [u8; 32],
}

fn part_of(id: &str) -> usize {
    usize::try_from(crc32fast::hash(id.as_bytes())).unwrap_or_default() % PARTS
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyRing({} keys)", self.declared.len() + self.made.iter().map(|part| part.len()).sum::<usize>())
    }
}

impl KeyRing {
    /// The keys of these tenants and of the platform, whose keys share one limit, and those that the API made.
    pub(super) fn new(
        tenants: &BTreeMap<TenantId, Entry>,
        platform: &[ApiKey],
        limits: &Arc<TenantLimits>,
        made: &Made,
    ) -> Self {
        let of_tenants = tenants.iter().flat_map(|(name, entry)| {
            entry.settings.keys.iter().map(move |key| (Scope::Tenant(name.clone()), key, &entry.limits))
        });
        let of_platform = platform.iter().map(|key| (Scope::Platform, key, limits));
        let declared = of_tenants.chain(of_platform).map(|(scope, key, limits)| {
            let caller = Caller {
                project: key.project.clone(),
                permissions: key.effective(),
                credential: Some(key.id.clone()),
                expires: key.expires,
                ..Caller::new(scope, format!("key:{}", key.id), key.role)
            };
            let identity = Identity { caller: Arc::new(caller), limits: Arc::clone(limits) };
            let (secrets, expires) = (vec![(key.sha256, None)], key.expires);
            (key.id.clone(), Known { secrets, expires, revocable: false, identity })
        });
        let mut parts: Vec<HashMap<String, Known>> = (0..PARTS).map(|_| HashMap::new()).collect();
        for (name, keys) in made.keys() {
            for (id, kept) in keys {
                let known = tenants.get(name).and_then(|entry| of_record((name, entry), id, &kept.record, made));
                if let Some((known, part)) = known.zip(parts.get_mut(part_of(id))) {
                    part.insert(id.clone(), known);
                }
            }
        }
        let made = parts.into_iter().map(Arc::new).collect();
        Self { declared: Arc::new(declared.collect()), made, nobody: [0; 32] }
    }

    /// The same keys where some made by the API are other ones, or are there no more.
    pub(super) fn with<'k>(
        &self,
        changed: impl Iterator<Item = (&'k TenantId, &'k str)>,
        tenants: &BTreeMap<TenantId, Entry>,
        made: &Made,
    ) -> Self {
        let mut parts = self.made.clone();
        for (name, id) in changed {
            let Some(part) = parts.get_mut(part_of(id)).map(Arc::make_mut) else { continue };
            let kept = made.key(name, id).zip(tenants.get(name));
            match kept.and_then(|(kept, entry)| of_record((name, entry), id, &kept.record, made)) {
                Some(known) => drop(part.insert(id.to_owned(), known)),
                None => drop(part.remove(id)),
            }
        }
        Self { declared: Arc::clone(&self.declared), made: parts, nobody: self.nobody }
    }

    /// How many parts are not the very ones of another.
    #[cfg(test)]
    pub(super) fn copied(&self, other: &Self) -> usize {
        self.made.iter().zip(&other.made).filter(|(own, other)| !Arc::ptr_eq(own, other)).count()
    }

    /// What is declared holds against a key of the same id that the API made.
    fn find(&self, id: &str) -> Option<&Known> {
        self.declared.get(id).or_else(|| self.made.get(part_of(id))?.get(id))
    }

    /// The owner of a key, if it is one of ours and has not ended. An unknown id costs the same hash and compare as a
    /// known one. With `unsure`, what other gateways did with keys is not known.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn identify(&self, key: &str, now: Time, unsure: bool) -> Result<&Identity, Denied> {
        let unknown = if unsure { Denied::Unsure } else { Denied::Unknown };
        let presented = parse(key).ok_or(Denied::Unknown)?;
        let known = self.find(presented.id);
        let hash: [u8; 32] = Sha256::digest(presented.secret.as_bytes()).into();
        let expected = known.and_then(|known| known.secrets.first()).map_or(&self.nobody, |(sha256, _)| sha256);
        let mut same = bool::from(hash.ct_eq(expected));
        for (sha256, until) in known.iter().flat_map(|known| known.secrets.iter().skip(1)) {
            same |= bool::from(hash.ct_eq(sha256)) && until.is_none_or(|until| now < until);
        }
        let known = known.ok_or(unknown)?;
        if !same {
            return Err(if known.revocable { unknown } else { Denied::Unknown });
        }
        if unsure && known.revocable {
            return Err(Denied::Unsure);
        }
        match known.expires {
            Some(expires) if expires <= now => Err(Denied::Expired(expires)),
            Some(_) | None => Ok(&known.identity),
        }
    }
}

/// What a key that the API made opens; nothing when whose it is is gone, or its record is none.
fn of_record((tenant, entry): (&TenantId, &Entry), id: &str, record: &KeyRecord, made: &Made) -> Option<Known> {
    // A role of the platform in a tenant's key is none of ours.
    if record.role.is_platform() {
        return None;
    }
    let Bounds { permissions, project, expires } = made.bounds(tenant, record)?;
    let principal = match &record.service_account {
        Some(name) => format!("serviceAccount:{name}"),
        None => format!("key:{id}"),
    };
    let caller = Caller {
        project,
        permissions,
        credential: Some(id.to_owned()),
        expires,
        ..Caller::new(Scope::Tenant(tenant.clone()), principal, record.role)
    };
    let secrets = record.secrets.iter().map(|secret| Some((parse_sha256(&secret.sha256)?, secret.until)));
    let identity = Identity { caller: Arc::new(caller), limits: Arc::clone(&entry.limits) };
    Some(Known { secrets: secrets.collect::<Option<_>>()?, expires, revocable: true, identity })
}
