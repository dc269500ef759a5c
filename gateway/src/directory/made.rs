//! Documents that the API made: their names, their forms, and what they declare. Pure.
//!
//! Forms only grow: a field that this version does not know is kept out of what it reads and was written by a newer one. A
//! document that cannot be read at all declares nothing: a key opens nothing then. Only of a policy every field counts: one
//! that this version does not understand denies whatever it would judge.

use std::{collections::BTreeMap, sync::Arc};

use meridian_ledger::documents::Document;
use meridian_model::{
    ids::{ProfileName, ProjectName, TenantId},
    time::Time,
};
use meridian_policies::{
    access::{Permission, Permissions, Role},
    rules::Scope,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::document;
use crate::{
    config,
    policies::document::{self as policy, Policy},
};

/// What the names of the platform's policies begin with.
pub(crate) const POLICIES: &str = "policies/";

/// What the names of a tenant's keys, service accounts and policies begin with.
pub(crate) fn below(tenant: &TenantId) -> String {
    format!("tenants/{tenant}/")
}

/// Name of a tenant's document.
pub(crate) fn tenant_name(tenant: &TenantId) -> String {
    format!("tenants/{tenant}")
}

/// Name of a key's document, which is also its resource's.
pub(crate) fn key_name(tenant: &TenantId, id: &str) -> String {
    format!("tenants/{tenant}/keys/{id}")
}

/// Name of a service account's document, which is also its resource's.
pub(crate) fn account_name(tenant: &TenantId, name: &ProfileName) -> String {
    format!("tenants/{tenant}/serviceAccounts/{name}")
}

/// A tenant or a policy as it is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ManifestRecord {
    /// The document that declares it, as it was sent.
    pub(crate) manifest: Value,
    /// How often it was changed.
    pub(crate) generation: u64,
    pub(crate) create_time: Time,
    pub(crate) update_time: Time,
}

/// A secret of a key.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Secret {
    /// SHA-256 of its text, in hexadecimal.
    pub(crate) sha256: String,
    /// When it ends, for one that was replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<Time>,
    /// When it was made, by a rotation that had an `Idempotency-Key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) made: Option<Time>,
    /// Of that request, for its repetitions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fingerprint: Option<String>,
}

/// A key as it is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct KeyRecord {
    /// The newest first.
    pub(crate) secrets: Vec<Secret>,
    pub(crate) role: Role,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) project: Option<ProjectName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) permissions: Option<Vec<Permission>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) expires: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) display_name: Option<String>,
    /// Whose key it is; its own principal when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) service_account: Option<ProfileName>,
    pub(crate) create_time: Time,
    pub(crate) created_by: String,
    /// When its tenant was made, where the API made it: one of the same name that comes later is another. Absent in older
    /// records, which hold for whatever tenant has the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tenant_create_time: Option<Time>,
    /// The same of its service account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) account_create_time: Option<Time>,
    /// Of the request that made it, for its repetitions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fingerprint: Option<String>,
}

impl KeyRecord {
    /// What it may do, by itself.
    pub(crate) fn effective(&self) -> Permissions {
        let all = self.role.permissions();
        self.permissions.as_ref().map_or(all, |only| all.and(only.iter().copied().collect()))
    }
}

/// A service account as it is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AccountRecord {
    pub(crate) role: Role,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) project: Option<ProjectName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) expires: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) display_name: Option<String>,
    pub(crate) create_time: Time,
    pub(crate) created_by: String,
}

/// What a key opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) permissions: Permissions,
    pub(crate) project: Option<ProjectName>,
    pub(crate) expires: Option<Time>,
}

/// A record with the revision that wrote it.
#[derive(Debug, Clone)]
pub(crate) struct Kept<T> {
    pub(crate) record: T,
    pub(crate) revision: u64,
}

/// What each tenant has of one kind.
type OfTenants<K, T> = BTreeMap<TenantId, Arc<BTreeMap<K, Kept<T>>>>;

/// Policies by path; no record where it cannot be read.
type Policies = BTreeMap<String, (Arc<Policy>, Kept<Option<ManifestRecord>>)>;

/// What the API declares. A copy costs what there are tenants, and a change of it what one tenant has.
#[derive(Debug, Clone, Default)]
pub(crate) struct Made {
    pub(crate) tenants: BTreeMap<TenantId, (Arc<config::Tenant>, Arc<Kept<ManifestRecord>>)>,
    keys: OfTenants<String, KeyRecord>,
    accounts: OfTenants<ProfileName, AccountRecord>,
    pub(crate) policies: Arc<Policies>,
}

fn remove<K: Ord + Clone, T: Clone>(all: &mut OfTenants<K, T>, tenant: &TenantId, key: &K) {
    let Some(of) = all.get_mut(tenant) else { return };
    Arc::make_mut(of).remove(key);
    if of.is_empty() {
        all.remove(tenant);
    }
}

impl Made {
    /// Takes a document in as it is, or as it is there no more.
    pub(crate) fn set(&mut self, name: &str, document: Option<&Document>) {
        match Credential::of(name) {
            Some(Credential::Key(tenant, id)) => remove(&mut self.keys, &tenant, &id),
            Some(Credential::Account(tenant, name)) => remove(&mut self.accounts, &tenant, &name),
            None if is_policy(name) => drop(Arc::make_mut(&mut self.policies).remove(name)),
            None => {
                if let Some(Ok(tenant)) = name.strip_prefix("tenants/").map(str::parse::<TenantId>) {
                    self.tenants.remove(&tenant);
                }
            }
        }
        let Some((document, body)) = document.and_then(|document| Some((document, document.body.as_ref()?))) else {
            return;
        };
        if self.take(document, body).is_none() {
            tracing::error!(document = document.name, "a document cannot be read: it declares nothing");
        }
    }

    fn take(&mut self, document: &Document, body: &str) -> Option<()> {
        let segments: Vec<&str> = document.name.split('/').collect();
        let revision = document.revision;
        match segments.as_slice() {
            ["tenants", tenant] => {
                let record: ManifestRecord = read(body)?;
                let name: TenantId = tenant.parse().ok()?;
                let settings = document::stored(&record.manifest).filter(|settings| settings.name == name)?;
                self.tenants.insert(name, (Arc::new(settings), Arc::new(Kept { record, revision })));
            }
            ["tenants", tenant, "keys", id] => {
                let (tenant, record) = (tenant.parse().ok()?, read(body)?);
                let of = Arc::make_mut(self.keys.entry(tenant).or_default());
                of.insert((*id).to_owned(), Kept { record, revision });
            }
            ["tenants", tenant, "serviceAccounts", name] => {
                let (tenant, name, record) = (tenant.parse().ok()?, name.parse().ok()?, read(body)?);
                let of = Arc::make_mut(self.accounts.entry(tenant).or_default());
                of.insert(name, Kept { record, revision });
            }
            ["policies", name] => self.take_policy((document, body), (Scope::Platform, name.parse().ok()?))?,
            ["tenants", tenant, "policies", name] => {
                let scope = Scope::Tenant(tenant.parse().ok()?);
                self.take_policy((document, body), (scope, name.parse().ok()?))?;
            }
            // Of another part of the gateway, or of a newer one.
            _ => {}
        }
        Some(())
    }

    fn take_policy(&mut self, (document, body): (&Document, &str), (scope, name): (Scope, ProfileName)) -> Option<()> {
        let (path, revision) = (document.name.clone(), document.revision);
        let record: Option<ManifestRecord> = read(body);
        let compiled = record.as_ref().and_then(|record| policy::read(&record.manifest, Some(&scope)).ok());
        let compiled = compiled.filter(|compiled| **compiled.compiled.path() == *path).or_else(|| {
            tracing::error!(policy = path, "a policy cannot be read: it denies every create that it would judge");
            policy::unreadable(scope, &name)
        })?;
        let policies = Arc::make_mut(&mut self.policies);
        policies.insert(path, (Arc::new(compiled), Kept { record, revision }));
        Some(())
    }

    /// All keys, by tenant.
    pub(crate) fn keys(&self) -> impl Iterator<Item = (&TenantId, impl Iterator<Item = (&String, &Kept<KeyRecord>)>)> {
        self.keys.iter().map(|(tenant, keys)| (tenant, keys.iter()))
    }

    pub(crate) fn keys_of(&self, tenant: &TenantId) -> impl ExactSizeIterator<Item = (&String, &Kept<KeyRecord>)> {
        static NONE: BTreeMap<String, Kept<KeyRecord>> = BTreeMap::new();
        self.keys.get(tenant).map_or(&NONE, |keys| &**keys).iter()
    }

    pub(crate) fn accounts_of(
        &self,
        tenant: &TenantId,
    ) -> impl ExactSizeIterator<Item = (&ProfileName, &Kept<AccountRecord>)> {
        static NONE: BTreeMap<ProfileName, Kept<AccountRecord>> = BTreeMap::new();
        self.accounts.get(tenant).map_or(&NONE, |accounts| &**accounts).iter()
    }

    pub(crate) fn key(&self, tenant: &TenantId, id: &str) -> Option<&Kept<KeyRecord>> {
        self.keys.get(tenant)?.get(id)
    }

    pub(crate) fn account(&self, tenant: &TenantId, name: &ProfileName) -> Option<&Kept<AccountRecord>> {
        self.accounts.get(tenant)?.get(name)
    }

    /// When a tenant was made, if the API made it.
    pub(crate) fn tenant_create_time(&self, tenant: &TenantId) -> Option<Time> {
        self.tenants.get(tenant).map(|(_, kept)| kept.record.create_time)
    }

    /// What a key opens: its own bounds within those of its service account. `None` when the tenant or the account that it
    /// was made for is gone, even if there is another of the name.
    pub(crate) fn bounds(&self, tenant: &TenantId, record: &KeyRecord) -> Option<Bounds> {
        let made = self.tenant_create_time(tenant);
        let is_anothers = match record.tenant_create_time {
            Some(own) => made != Some(own),
            // Made for a tenant that a file declared; the API made one of its name since.
            None => made.is_some_and(|made| made > record.create_time),
        };
        if is_anothers {
            return None;
        }
        let own = Bounds { permissions: record.effective(), project: record.project.clone(), expires: record.expires };
        let Some(name) = &record.service_account else { return Some(own) };
        let account = &self.account(tenant, name)?.record;
        if record.account_create_time.is_some_and(|made| account.create_time != made) {
            return None;
        }
        Some(Bounds {
            permissions: own.permissions.and(account.role.permissions()),
            project: own.project.or_else(|| account.project.clone()),
            expires: own.expires.into_iter().chain(account.expires).min(),
        })
    }
}

/// Whether a document is a policy, which takes more than a moment to read.
pub(crate) fn is_policy(name: &str) -> bool {
    name.starts_with(POLICIES) || name.contains("/policies/")
}

fn read<T: DeserializeOwned>(body: &str) -> Option<T> {
    serde_json::from_str(body).ok()
}

/// A document that is about who may call, and about nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Credential {
    Key(TenantId, String),
    Account(TenantId, ProfileName),
}

impl Credential {
    /// Of a name; none of a document of another kind.
    pub(crate) fn of(name: &str) -> Option<Self> {
        match name.split('/').collect::<Vec<_>>().as_slice() {
            ["tenants", tenant, "keys", id] => Some(Self::Key(tenant.parse().ok()?, (*id).to_owned())),
            ["tenants", tenant, "serviceAccounts", name] => {
                Some(Self::Account(tenant.parse().ok()?, name.parse().ok()?))
            }
            _ => None,
        }
    }

    /// The keys that are others when it is another.
    pub(crate) fn keys<'m>(&'m self, made: &'m Made) -> Vec<(&'m TenantId, &'m str)> {
        match self {
            Self::Key(tenant, id) => vec![(tenant, id)],
            Self::Account(tenant, name) => {
                let of = |record: &KeyRecord| record.service_account.as_ref() == Some(name);
                let keys = made.keys_of(tenant).filter(|(_, kept)| of(&kept.record));
                keys.map(|(id, _)| (tenant, id.as_str())).collect()
            }
        }
    }
}
