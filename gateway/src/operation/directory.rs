//! Tenants, keys and service accounts: what the API makes of them and says about them.
//!
//! What the configuration or a file declares is changed there, and the answer to who tries it here names the place. A key's
//! secret is in one answer and nowhere else: the store has its hash. A repetition of a create with the same
//! `Idempotency-Key` gets the same secret for a few minutes, because it follows from the deployment's secret and the
//! request's own key; a lost answer costs no second key.

use std::{sync::Arc, time::Duration};

use meridian_ledger::documents::Expect;
use meridian_model::{
    error::{ErrorCode, FieldError},
    ids::{OperationId, ProfileName, ProjectName, TenantId},
    quantity::Span,
    time::Time,
};
use meridian_policies::access::{Permission, Role};
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{
    Caller, Outcome, PageRequest, Place, Reach, Refusal,
    bounds::{self, check_grant, reaches, unknown_project},
    quota_view, read, store_refusal,
    writing::{Condition, Pen, catch_up, declared_elsewhere, etag, expect, fault, invalid, paged, text},
};
use crate::{
    clock::Entropy,
    config::{self, ApiKey, SettingsMistake, quota::missing_project, role_mistakes},
    core::Core,
    directory::{
        Snapshot, Source, document,
        made::{self, AccountRecord, Bounds, Kept, KeyRecord, ManifestRecord, Secret},
    },
    http::authenticate::{MintedKey, mint},
    views,
};

/// For how long a repetition of the create of a key gets its secret again: longer than a client goes on repeating.
const SECRET_REPLAYED: Duration = Duration::from_secs(10 * 60);

/// How long a key's former secret is good after a rotation when the request does not say: a day's deployments.
const GRACE_DEFAULT: Duration = Duration::from_secs(24 * 3600);

/// The longest it may say.
const GRACE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// Former secrets of a key that are good at once: a rotation, and repetitions of it whose answers were lost.
const FORMER_MAX: usize = 4;

/// Most keys, and most service accounts, of one tenant.
const PER_TENANT_MAX: usize = 1000;

/// Longest display name, in characters.
const DISPLAY_NAME_MAX: usize = 100;

/// A key that is wished for.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NewKey {
    /// What people call it.
    pub display_name: Option<String>,
    /// Its role; the service account's, or operator.
    pub role: Option<Role>,
    /// The project of what it makes.
    pub project: Option<ProjectName>,
    /// The only permissions of the role that it has.
    pub permissions: Option<Vec<Permission>>,
    /// When it ends.
    pub expires: Option<Time>,
    /// How long it lives, instead of `expires`.
    pub ttl: Option<Span>,
    /// Whose key it is.
    pub service_account: Option<ProfileName>,
}

/// A service account that is wished for.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NewAccount {
    /// Its name.
    pub name: ProfileName,
    /// Its role.
    pub role: Role,
    /// The project of what it makes.
    #[serde(default)]
    pub project: Option<ProjectName>,
    /// When it ends.
    #[serde(default)]
    pub expires: Option<Time>,
    /// What people call it.
    #[serde(default)]
    pub display_name: Option<String>,
}

/// What is asked of the directory.
#[derive(Debug, Clone)]
pub enum DirectoryAction {
    /// Make a tenant of the document.
    CreateTenant(TenantId, Value),
    /// Make it, or replace what is declared of it.
    PutTenant(TenantId, Value, Condition),
    /// Change what is declared of it by a merge patch (RFC 7396) of its labels and its spec.
    PatchTenant(Option<TenantId>, Value, Condition),
    /// Remove it.
    DeleteTenant(Option<TenantId>, Condition),
    /// The keys of a tenant.
    ListKeys(Option<TenantId>, PageRequest),
    /// One key.
    GetKey(Option<TenantId>, String),
    /// Make a key.
    CreateKey {
        /// Whose.
        tenant: Option<TenantId>,
        /// What.
        wish: NewKey,
        /// The request's `Idempotency-Key`.
        key: Option<String>,
        /// Of the request.
        fingerprint: String,
    },
    /// Give a key another secret.
    RotateKey {
        /// Whose.
        tenant: Option<TenantId>,
        /// Its id.
        id: String,
        /// How long its former secret is good.
        grace: Option<Span>,
        /// What the writer has seen.
        condition: Condition,
        /// The request's `Idempotency-Key`.
        key: Option<String>,
        /// Of the request.
        fingerprint: String,
    },
    /// End a key.
    RevokeKey(Option<TenantId>, String, Condition),
    /// The service accounts of a tenant.
    ListAccounts(Option<TenantId>, PageRequest),
    /// One of them.
    GetAccount(Option<TenantId>, ProfileName),
    /// Make one.
    CreateAccount(Option<TenantId>, NewAccount),
    /// Remove one, and with it what its keys may.
    DeleteAccount(Option<TenantId>, ProfileName, Condition),
    /// Who the caller is.
    WhoAmI,
}

impl DirectoryAction {
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::CreateTenant(..) => "create-tenant",
            Self::PutTenant(..) => "put-tenant",
            Self::PatchTenant(..) => "patch-tenant",
            Self::DeleteTenant(..) => "delete-tenant",
            Self::ListKeys(..) => "list-keys",
            Self::GetKey(..) => "get-key",
            Self::CreateKey { .. } => "create-key",
            Self::RotateKey { .. } => "rotate-key",
            Self::RevokeKey(..) => "revoke-key",
            Self::ListAccounts(..) => "list-service-accounts",
            Self::GetAccount(..) => "get-service-account",
            Self::CreateAccount(..) => "create-service-account",
            Self::DeleteAccount(..) => "delete-service-account",
            Self::WhoAmI => "whoami",
        }
    }

    pub(super) const fn permission(&self) -> Permission {
        match self {
            Self::CreateTenant(..) | Self::PutTenant(..) | Self::PatchTenant(..) | Self::DeleteTenant(..) => {
                Permission::TenantsWrite
            }
            Self::ListKeys(..) | Self::GetKey(..) | Self::ListAccounts(..) | Self::GetAccount(..) => {
                Permission::KeysRead
            }
            Self::CreateKey { .. }
            | Self::RotateKey { .. }
            | Self::RevokeKey(..)
            | Self::CreateAccount(..)
            | Self::DeleteAccount(..) => Permission::KeysWrite,
            Self::WhoAmI => Permission::SelfRead,
        }
    }

    pub(super) fn place(&self) -> Place<'_> {
        let named = match self {
            // It need not be there yet; who may make tenants may see all.
            Self::CreateTenant(..) | Self::PutTenant(..) | Self::WhoAmI => return Place::Nowhere,
            Self::DeleteTenant(t, _)
            | Self::PatchTenant(t, ..)
            | Self::GetKey(t, _)
            | Self::GetAccount(t, _)
            | Self::ListKeys(t, _)
            | Self::CreateKey { tenant: t, .. }
            | Self::RotateKey { tenant: t, .. }
            | Self::RevokeKey(t, ..)
            | Self::ListAccounts(t, _)
            | Self::CreateAccount(t, _)
            | Self::DeleteAccount(t, ..) => t.as_ref(),
        };
        named.map_or(Place::Any, Place::Tenant)
    }
}

/// Does it. What changes something goes on when nobody waits for it any more: a write that was cut off could be made all
/// the same, without this gateway knowing of it.
///
/// # Errors
/// What stands against it, or the store's.
pub(super) async fn perform(
    core: &Arc<Core>,
    caller: Arc<Caller>,
    reach: Reach,
    (action, validate_only): (DirectoryAction, bool),
) -> Result<Outcome, Refusal> {
    match action {
        DirectoryAction::ListKeys(_, page) => Ok(Outcome::Keys(paged(keys(core, reach.one()?)?, &page, |key| &key.id))),
        DirectoryAction::GetKey(_, id) => {
            let found = keys(core, reach.one()?)?.into_iter().find(|key| key.id == id);
            found.map(|key| Outcome::Key(Box::new(key))).ok_or_else(Refusal::not_found)
        }
        DirectoryAction::ListAccounts(_, page) => {
            Ok(Outcome::Accounts(paged(accounts(core, reach.one()?)?, &page, |account| &account.name)))
        }
        DirectoryAction::GetAccount(_, name) => {
            let tenant = reach.one()?;
            let name = made::account_name(tenant, &name);
            let found = accounts(core, tenant)?.into_iter().find(|account| account.name == name);
            found.map(|account| Outcome::Account(Box::new(account))).ok_or_else(Refusal::not_found)
        }
        DirectoryAction::WhoAmI => Ok(Outcome::WhoAmI(Box::new(who(&caller)))),
        action => {
            let own = Arc::clone(core);
            let work = async move {
                let pen = Pen { core: &own, dry: validate_only };
                change(pen, &caller, &reach, action).await
            };
            core.driver.to_the_end(work).await.unwrap_or_else(|| {
                Err(Refusal { outcome_unknown: true, ..Refusal::internal("a change of the directory panicked") })
            })
        }
    }
}

async fn change(pen: Pen<'_>, caller: &Caller, reach: &Reach, action: DirectoryAction) -> Result<Outcome, Refusal> {
    match action {
        DirectoryAction::CreateTenant(name, manifest) => put_tenant(pen, name, manifest, Condition::Absent).await,
        DirectoryAction::PutTenant(name, manifest, condition) => put_tenant(pen, name, manifest, condition).await,
        DirectoryAction::PatchTenant(_, patch, condition) => patch_tenant(pen, reach.one()?, &patch, condition).await,
        DirectoryAction::DeleteTenant(_, condition) => delete_tenant(pen, reach.one()?, condition).await,
        DirectoryAction::CreateKey { wish, key, fingerprint, .. } => {
            create_key(pen, caller, reach.one()?, wish, (key, fingerprint)).await
        }
        DirectoryAction::RotateKey { id, grace, condition, key, fingerprint, .. } => {
            rotate_key(pen, caller, (reach.one()?, &id), (grace, condition), (key, fingerprint)).await
        }
        DirectoryAction::RevokeKey(_, id, condition) => revoke_key(pen, (reach.one()?, &id), condition).await,
        DirectoryAction::CreateAccount(_, wish) => create_account(pen, caller, reach.one()?, wish).await,
        DirectoryAction::DeleteAccount(_, name, condition) => {
            delete_account(pen, (reach.one()?, &name), condition).await
        }
        DirectoryAction::ListKeys(..)
        | DirectoryAction::GetKey(..)
        | DirectoryAction::ListAccounts(..)
        | DirectoryAction::GetAccount(..)
        | DirectoryAction::WhoAmI => Err(Refusal::internal("what changes nothing came here")),
    }
}

fn who(caller: &Caller) -> views::WhoAmI {
    views::WhoAmI {
        tenant: caller.tenant().cloned(),
        principal: caller.principal.clone(),
        role: caller.role.as_str(),
        project: caller.project.as_ref().map(ToString::to_string),
        permissions: caller.permissions.iter().map(Permission::as_str).collect(),
    }
}

// ---- tenants

/// What is wrong with a tenant's document here.
fn check_document(core: &Core, name: &TenantId, manifest: &Value) -> Result<config::Tenant, Refusal> {
    let settings = core.directory.read_tenant(manifest).map_err(invalid)?;
    let mut faults = Vec::new();
    if settings.name != *name {
        let hint = Some(format!("write {name}"));
        faults.push(fault("/metadata/name", "mismatch", "the name is not that of the path", hint));
    }
    if !settings.keys.is_empty() {
        let hint = format!("make them with POST /v1/tenants/{name}/keys");
        faults.push(fault("/spec/keys", "not-here", "keys are resources of their own here", Some(hint)));
    }
    // Who is bound to a project would make nothing without it. What is left of a former tenant is not this one's.
    let snapshot = core.directory.load();
    let is_there = snapshot.made().tenants.contains_key(name);
    let keys = snapshot.made().keys_of(name).filter(|_| is_there);
    let keys = keys.map(|(id, kept)| (format!("the key {id}"), kept.record.project.as_ref()));
    let accounts = snapshot.made().accounts_of(name).filter(|_| is_there);
    let accounts = accounts.map(|(id, kept)| (format!("the service account {id}"), kept.record.project.as_ref()));
    for (whose, project) in keys.chain(accounts) {
        if let Some(project) = project.filter(|project| missing_project(&settings.projects, project).is_some()) {
            let detail = format!("{whose} is bound to the project {project}");
            let hint = Some("keep the project, or end what is bound to it first".to_owned());
            faults.push(fault("/spec/projects", "in-use", detail, hint));
        }
    }
    if faults.is_empty() { Ok(settings) } else { Err(invalid(faults)) }
}

async fn put_tenant(pen: Pen<'_>, name: TenantId, manifest: Value, condition: Condition) -> Result<Outcome, Refusal> {
    let core = pen.core;
    let settings = check_document(core, &name, &manifest)?;
    catch_up(core, condition, |snapshot| tenant_revision(snapshot, &name)).await?;
    let snapshot = core.directory.load_full();
    if let Some(entry) = snapshot.tenant(&name).filter(|entry| entry.source != Source::Api) {
        return Err(declared_elsewhere(&format!("tenants/{name}"), &entry.source));
    }
    let held = snapshot.made().tenants.get(&name).map(|(_, kept)| kept);
    let expect = expect(condition, held.map(|kept| kept.revision), true)?;
    let now = core.clock.now();
    let record = ManifestRecord {
        manifest,
        generation: held.map_or(1, |kept| kept.record.generation + 1),
        create_time: held.map_or(now, |kept| kept.record.create_time),
        update_time: now,
    };
    let document = made::tenant_name(&name);
    if held.is_none() {
        // What was made for one that a file declared under this name is not for this one.
        remove_parts(pen, parts_of(&snapshot, &name)).await?;
    }
    let written = pen.write((&document, held.map(|k| k.revision)), Some(text(&record)?), expect).await?;
    let tenant = match written {
        Some(_) => read::tenant(core, &name).await?,
        None => read::declared_tenant(&settings, quota_view(&name, None, settings.quota)),
    };
    Ok(Outcome::TenantWritten { tenant: Box::new(tenant), created: held.is_none() && written.is_some() })
}

/// Applies a patch to what is declared. Without a condition it applies to whatever that is: a patch says what it changes,
/// and a change that comes between the look and the write is not lost but in the way.
async fn patch_tenant(
    pen: Pen<'_>,
    tenant: &TenantId,
    patch: &Value,
    condition: Condition,
) -> Result<Outcome, Refusal> {
    catch_up(pen.core, condition, |snapshot| tenant_revision(snapshot, tenant)).await?;
    let snapshot = pen.core.directory.load_full();
    if let Some(entry) = snapshot.tenant(tenant).filter(|entry| entry.source != Source::Api) {
        return Err(declared_elsewhere(&format!("tenants/{tenant}"), &entry.source));
    }
    let (_, kept) = snapshot.made().tenants.get(tenant).ok_or_else(Refusal::not_found)?;
    let manifest = document::patched(&kept.record.manifest, patch).map_err(invalid)?;
    let condition = match condition {
        Condition::None => Condition::Match(Some(kept.revision)),
        condition => condition,
    };
    put_tenant(pen, tenant.clone(), manifest, condition).await
}

fn tenant_revision(snapshot: &Snapshot, tenant: &TenantId) -> Option<u64> {
    snapshot.made().tenants.get(tenant).map(|(_, kept)| kept.revision)
}

async fn delete_tenant(pen: Pen<'_>, tenant: &TenantId, condition: Condition) -> Result<Outcome, Refusal> {
    let core = pen.core;
    catch_up(core, condition, |snapshot| tenant_revision(snapshot, tenant)).await?;
    let snapshot = core.directory.load_full();
    if let Some(entry) = snapshot.tenant(tenant).filter(|entry| entry.source != Source::Api) {
        return Err(declared_elsewhere(&format!("tenants/{tenant}"), &entry.source));
    }
    let Some((_, kept)) = snapshot.made().tenants.get(tenant) else { return Err(Refusal::not_found()) };
    // Asked of the ledger: another gateway may have made one a moment ago.
    let used = core.ledger.usage(tenant).await.map_err(|e| store_refusal(&e))?.used;
    if used != meridian_model::operation::Charge::default() || !core.fleet.is_empty(tenant) {
        let detail = format!("tenants/{tenant} has instances: delete them first");
        return Err(Refusal::new(ErrorCode::Conflict, detail));
    }
    let expect = expect(condition, Some(kept.revision), false)?;
    // The tenant last, so that a repetition of a delete that was broken off finds it and ends the rest. A key that is made
    // meanwhile is that of this tenant and opens none that comes later.
    remove(pen, parts_of(&snapshot, tenant), (made::tenant_name(tenant), kept.revision), expect).await
}

/// The documents that the API made for a tenant, but its own.
fn parts_of(snapshot: &Snapshot, tenant: &TenantId) -> Vec<String> {
    let made = snapshot.made();
    let keys = made.keys_of(tenant).map(|(id, _)| made::key_name(tenant, id));
    let accounts = made.accounts_of(tenant).map(|(name, _)| made::account_name(tenant, name));
    let policies = made.policies.iter().filter(|(_, (policy, _))| policy.compiled.scope().tenant() == Some(tenant));
    keys.chain(accounts).chain(policies.map(|(path, _)| path.clone())).collect()
}

/// Removes what belongs to something.
async fn remove_parts(pen: Pen<'_>, parts: Vec<String>) -> Result<(), Refusal> {
    for part in parts {
        match pen.write((&part, None), None, Expect::Present).await {
            // What somebody else removed meanwhile is gone as well.
            Err(refusal) if refusal.problem.code != ErrorCode::EtagMismatch => {
                return Err(Refusal { outcome_unknown: true, ..refusal });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Removes what belongs to something, and then that.
async fn remove(
    pen: Pen<'_>,
    parts: Vec<String>,
    (whole, held): (String, u64),
    expect: Expect,
) -> Result<Outcome, Refusal> {
    let is_partly_done = !parts.is_empty();
    remove_parts(pen, parts).await?;
    let removed = pen.write((&whole, Some(held)), None, expect).await;
    removed.map_err(|refusal| Refusal { outcome_unknown: refusal.outcome_unknown || is_partly_done, ..refusal })?;
    Ok(Outcome::Deleted)
}

// ---- keys

fn key_view(core: &Core, tenant: &TenantId, id: &str, kept: &Kept<KeyRecord>) -> views::ApiKey {
    let Kept { record, revision } = kept;
    let now = core.clock.now();
    let former = record.secrets.iter().filter_map(|s| s.until).filter(|until| *until > now).max();
    views::ApiKey {
        name: made::key_name(tenant, id),
        id: id.to_owned(),
        display_name: record.display_name.clone(),
        role: record.role.as_str(),
        project: record.project.as_ref().map(ToString::to_string),
        permissions: record.permissions.as_ref().map(|p| p.iter().map(|p| p.as_str()).collect()),
        service_account: record.service_account.as_ref().map(ToString::to_string),
        expires: record.expires,
        expired: record.expires.is_some_and(|expires| expires <= now),
        former_secret_until: former,
        create_time: Some(record.create_time),
        created_by: Some(record.created_by.clone()),
        source: Source::Api.to_string(),
        etag: Some(etag(*revision)),
        key: None,
    }
}

fn declared_view(core: &Core, tenant: &TenantId, key: &ApiKey, source: &Source) -> views::ApiKey {
    views::ApiKey {
        name: made::key_name(tenant, &key.id),
        id: key.id.clone(),
        display_name: None,
        role: key.role.as_str(),
        project: key.project.as_ref().map(ToString::to_string),
        permissions: key.permissions.as_ref().map(|p| p.iter().map(|p| p.as_str()).collect()),
        service_account: None,
        expires: key.expires,
        expired: key.expires.is_some_and(|expires| expires <= core.clock.now()),
        former_secret_until: None,
        create_time: None,
        created_by: None,
        source: source.to_string(),
        etag: None,
        key: None,
    }
}

/// All keys in the order of their ids.
fn keys(core: &Core, tenant: &TenantId) -> Result<Vec<views::ApiKey>, Refusal> {
    let snapshot = core.directory.load_full();
    let entry = snapshot.tenant(tenant).ok_or_else(Refusal::not_found)?;
    let declared = entry.settings.keys.iter().map(|key| declared_view(core, tenant, key, &entry.source));
    let made = snapshot.made().keys_of(tenant).map(|(id, kept)| key_view(core, tenant, id, kept));
    let mut all: Vec<views::ApiKey> = declared.chain(made).collect();
    all.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(all)
}

fn check_name(name: Option<&String>, faults: &mut Vec<FieldError>) {
    if name.is_some_and(|name| name.chars().count() > DISPLAY_NAME_MAX || name.chars().any(char::is_control)) {
        let detail = format!("not at most {DISPLAY_NAME_MAX} printable characters");
        faults.push(fault("/displayName", "invalid", detail, None));
    }
}

/// The record of a wish, its secret left open.
fn record_of(core: &Core, caller: &Caller, tenant: &TenantId, wish: NewKey) -> Result<KeyRecord, Refusal> {
    let now = core.clock.now();
    let snapshot = core.directory.load_full();
    let settings = &snapshot.tenant(tenant).ok_or_else(Refusal::not_found)?.settings;
    let mut faults = Vec::new();
    check_name(wish.display_name.as_ref(), &mut faults);
    let found = wish.service_account.as_ref().map(|name| (name, snapshot.made().account(tenant, name)));
    if let Some((name, None)) = found {
        faults.push(fault("/serviceAccount", "not-found", format!("there is no service account {name}"), None));
    }
    let account = found.and_then(|(_, account)| account).map(|account| &account.record);
    let role = wish.role.or_else(|| account.map(|account| account.role)).unwrap_or(Role::Operator);
    let of_account = account.and_then(|account| account.project.clone());
    let project = wish.project.or_else(|| of_account.clone()).or_else(|| caller.project.clone());
    faults.extend(project.as_ref().and_then(|project| unknown_project(settings, project, "/project".to_owned())));
    if !reaches(settings, of_account.as_ref(), project.as_ref()) {
        let detail = "it is neither the service account's project nor below it";
        faults.push(fault("/project", "invalid", detail, None));
    }
    for SettingsMistake { path, what, mend } in
        role_mistakes(role, false, wish.permissions.as_deref().unwrap_or_default())
    {
        let pointer = format!("/{}", path.replace('[', "/").replace(']', ""));
        faults.push(fault(&pointer, "invalid", what, Some(mend)));
    }
    let given = wish.permissions.as_deref().unwrap_or_default();
    if let Some(twice) = given.iter().enumerate().find(|(i, p)| given.iter().take(*i).any(|other| other == *p)) {
        let pointer = format!("/permissions/{}", twice.0);
        faults.push(fault(&pointer, "duplicate", format!("{} is named before", twice.1), None));
    }
    if wish.expires.is_some() && wish.ttl.is_some() {
        faults.push(fault("/ttl", "invalid", "expires and ttl say the same", Some("give one of them".to_owned())));
    }
    let expires = bounds::end(caller, wish.expires.or_else(|| wish.ttl.map(|ttl| now + ttl.0)));
    if expires.is_some_and(|expires| expires <= now) {
        faults.push(fault("/expires", "invalid", "it would have ended before it began", None));
    }
    if !faults.is_empty() {
        return Err(invalid(faults));
    }
    let record = KeyRecord {
        secrets: Vec::new(),
        role,
        project,
        permissions: wish.permissions,
        expires,
        display_name: wish.display_name,
        tenant_create_time: snapshot.made().tenant_create_time(tenant),
        account_create_time: account.map(|account| account.create_time),
        service_account: wish.service_account,
        create_time: now,
        created_by: caller.principal.clone(),
        fingerprint: None,
    };
    let own = Bounds { permissions: record.effective(), project: record.project.clone(), expires: record.expires };
    check_grant(settings, caller, &own)?;
    Ok(record)
}

/// What a key is drawn from: a pseudo-random function of the deployment's secret and a request's own key, or nothing.
#[derive(Debug)]
struct Seed(Option<OperationId>);

impl Seed {
    /// `what` is asked of a tenant under a key; no other route has a name like it.
    fn of(core: &Core, caller: &Caller, tenant: &TenantId, (what, key): (&str, Option<&str>)) -> Result<Self, Refusal> {
        let route = format!("POST {what} by {}", caller.principal);
        let seed = key.map(|key| core.deployment.operation_id(tenant, &route, key)).transpose();
        seed.map(Self).map_err(Refusal::internal)
    }

    /// Randomness that follows from the seed and a word, or is fresh without a seed.
    fn entropy(&self, core: &Core, word: Option<Time>) -> Entropy {
        let Some(seed) = self.0.clone() else { return core.entropy.clone() };
        let count = std::sync::atomic::AtomicU64::new(0);
        Entropy::from_fn(move || {
            let n = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let hash = Sha256::new().chain_update(seed.as_str()).chain_update(n.to_be_bytes());
            let hash = word.map_or(hash.clone(), |word| hash.chain_update(word.unix_ms().to_be_bytes()));
            hash.finalize().iter().take(16).fold(0_u128, |number, byte| number << 8 | u128::from(*byte))
        })
    }

    /// The name of the key: the same for every repetition, so that it makes no second key.
    fn id(&self, core: &Core) -> String {
        format!("k{:025x}", self.entropy(core, None).next() >> 28)
    }

    /// The key with its secret, which is that of one moment: should the name ever be given again, or the request's key be
    /// used again when its secret has ended, there is another.
    fn minted(&self, core: &Core, id: &str, made: Time) -> MintedKey {
        minted(core, id, &self.entropy(core, Some(made)))
    }
}

fn hex(hash: &[u8]) -> String {
    hash.iter().map(|b| format!("{b:02x}")).collect()
}

fn minted(core: &Core, id: &str, entropy: &Entropy) -> MintedKey {
    mint(core.deployment.env(), id, entropy)
}

async fn create_key(
    pen: Pen<'_>,
    caller: &Caller,
    tenant: &TenantId,
    wish: NewKey,
    (key, fingerprint): (Option<String>, String),
) -> Result<Outcome, Refusal> {
    let core = pen.core;
    let seed = Seed::of(core, caller, tenant, ("keys", key.as_deref()))?;
    let id = seed.id(core);
    let snapshot = core.directory.load_full();
    if snapshot.tenant(tenant).is_none() {
        return Err(Refusal::not_found());
    }
    if let Some(kept) = snapshot.made().key(tenant, &id) {
        return replayed(core, (tenant, &id), kept, &seed, &fingerprint);
    }
    if snapshot.made().keys_of(tenant).len() >= PER_TENANT_MAX {
        return Err(Refusal::new(ErrorCode::Conflict, format!("a tenant has at most {PER_TENANT_MAX} keys")));
    }
    pen.check_room(&made::below(tenant))?;
    let mut record = record_of(core, caller, tenant, wish)?;
    let new = seed.minted(core, &id, record.create_time);
    record.secrets.push(Secret { sha256: hex(&new.sha256), ..Secret::default() });
    record.fingerprint = key.is_some().then(|| fingerprint.clone());
    match pen.write((&made::key_name(tenant, &id), None), Some(text(&record)?), Expect::Never).await {
        Ok(written) => {
            let view = key_view(core, tenant, &id, &Kept { record, revision: written.unwrap_or_default() });
            Ok(made_key(view, written.map(|_| &new), true, false))
        }
        // The same request may have made it at another gateway, a moment ago.
        Err(refusal) => match core.directory.load_full().made().key(tenant, &id) {
            Some(kept) if refusal.problem.code == ErrorCode::AlreadyExists => {
                replayed(core, (tenant, &id), kept, &seed, &fingerprint)
            }
            _ => Err(refusal),
        },
    }
}

/// A key that was made, with its secret; one that could be made has neither that nor what comes of it.
fn made_key(view: views::ApiKey, new: Option<&MintedKey>, created: bool, replayed: bool) -> Outcome {
    let key = match new {
        Some(new) => views::ApiKey { key: Some(views::ShownOnce(new.key.expose_secret().to_owned())), ..view },
        None => views::ApiKey { etag: None, create_time: None, ..view },
    };
    Outcome::KeyMade { key: Box::new(key), created: created && new.is_some(), replayed }
}

fn reused() -> Refusal {
    let detail = "this Idempotency-Key was used with a request that differs from this one";
    Refusal::new(ErrorCode::IdempotencyKeyReused, detail)
}

/// The answer to a request whose key made a key before.
fn replayed(
    core: &Core,
    (tenant, id): (&TenantId, &str),
    kept: &Kept<KeyRecord>,
    seed: &Seed,
    fingerprint: &str,
) -> Result<Outcome, Refusal> {
    let record = &kept.record;
    let new = seed.minted(core, id, record.create_time);
    if record.fingerprint.as_deref() != Some(fingerprint) {
        return Err(reused());
    }
    let is_current = record.secrets.first().is_some_and(|secret| secret.sha256 == hex(&new.sha256));
    if !is_current || core.clock.now().since(record.create_time) > SECRET_REPLAYED {
        let detail =
            format!("{} was made with this Idempotency-Key; its secret is not shown again", made::key_name(tenant, id));
        return Err(Refusal::new(ErrorCode::AlreadyExists, detail));
    }
    Ok(made_key(key_view(core, tenant, id, kept), Some(&new), true, true))
}

/// A key that the API made.
fn held_key(core: &Core, tenant: &TenantId, id: &str) -> Result<Kept<KeyRecord>, Refusal> {
    let snapshot = core.directory.load_full();
    if let Some(kept) = snapshot.made().key(tenant, id) {
        return Ok(kept.clone());
    }
    let declared = snapshot.tenant(tenant).filter(|entry| entry.settings.keys.iter().any(|key| key.id == id));
    Err(declared
        .map_or_else(Refusal::not_found, |entry| declared_elsewhere(&made::key_name(tenant, id), &entry.source)))
}

async fn rotate_key(
    pen: Pen<'_>,
    caller: &Caller,
    (tenant, id): (&TenantId, &str),
    (grace, condition): (Option<Span>, Condition),
    (key, fingerprint): (Option<String>, String),
) -> Result<Outcome, Refusal> {
    let grace = grace.map_or(GRACE_DEFAULT, |grace| grace.0);
    if grace > GRACE_MAX {
        return Err(invalid(vec![fault("/grace", "out-of-range", format!("longer than {}", Span(GRACE_MAX)), None)]));
    }
    let core = pen.core;
    let caught_up =
        catch_up(core, condition, |snapshot| snapshot.made().key(tenant, id).map(|kept| kept.revision)).await;
    let kept = held_key(core, tenant, id)?;
    let snapshot = core.directory.load_full();
    let settings = &snapshot.tenant(tenant).ok_or_else(Refusal::not_found)?.settings;
    let Some(opens) = snapshot.made().bounds(tenant, &kept.record) else {
        let detail = format!("{} opens nothing: whose it was is gone; make another", made::key_name(tenant, id));
        return Err(Refusal::new(ErrorCode::Conflict, detail));
    };
    // Who rotates a key gets it.
    check_grant(settings, caller, &opens)?;
    let seed = Seed::of(core, caller, tenant, (&format!("keys/{id}:rotate"), key.as_deref()))?;
    if let Some(answer) = rotated(core, (tenant, id), &kept, &seed, &fingerprint) {
        return answer;
    }
    caught_up?;
    let Kept { mut record, revision } = kept;
    let expect = expect(condition, Some(revision), false)?;
    let now = core.clock.now();
    let new = seed.minted(core, id, now);
    let (made, fingerprint) = key.map(|_| (now, fingerprint)).unzip();
    let secret = Secret { sha256: hex(&new.sha256), until: None, made, fingerprint: fingerprint.clone() };
    record.secrets = after_rotation(record.secrets, secret, (now, grace))?;
    record.fingerprint = None;
    match pen.write((&made::key_name(tenant, id), Some(revision)), Some(text(&record)?), expect).await {
        Ok(written) => {
            let view = key_view(core, tenant, id, &Kept { record, revision: written.unwrap_or_default() });
            Ok(made_key(view, written.map(|_| &new), false, false))
        }
        // The same request may have done it at another gateway, a moment ago.
        Err(refusal) => {
            let kept = held_key(core, tenant, id).ok().filter(|_| refusal.problem.code == ErrorCode::EtagMismatch);
            let answer = kept
                .zip(fingerprint)
                .and_then(|(kept, fingerprint)| rotated(core, (tenant, id), &kept, &seed, &fingerprint));
            answer.unwrap_or(Err(refusal))
        }
    }
}

/// The answer to a request whose key gave a key one of its secrets before.
fn rotated(
    core: &Core,
    (tenant, id): (&TenantId, &str),
    kept: &Kept<KeyRecord>,
    seed: &Seed,
    fingerprint: &str,
) -> Option<Result<Outcome, Refusal>> {
    seed.0.as_ref()?;
    let secrets = kept.record.secrets.iter().enumerate();
    let (at, secret, made, new) = secrets
        .filter_map(|(at, secret)| secret.made.map(|made| (at, secret, made, seed.minted(core, id, made))))
        .find(|(_, secret, _, new)| secret.sha256 == hex(&new.sha256))?;
    if secret.fingerprint.as_deref() != Some(fingerprint) {
        return Some(Err(reused()));
    }
    if at > 0 || core.clock.now().since(made) > SECRET_REPLAYED {
        let name = made::key_name(tenant, id);
        let detail = format!("{name} was given a secret with this Idempotency-Key; it is not shown again");
        return Some(Err(Refusal::new(ErrorCode::AlreadyExists, detail)));
    }
    Some(Ok(made_key(key_view(core, tenant, id, kept), Some(&new), false, true)))
}

/// The secrets of a key that gets another. Each former one is good until its end, or for the grace if that is sooner: the one
/// in use is not lost when a rotation is repeated whose answer was lost.
fn after_rotation(former: Vec<Secret>, new: Secret, (now, grace): (Time, Duration)) -> Result<Vec<Secret>, Refusal> {
    let until = |secret: &Secret| secret.until.map_or(now + grace, |until| until.min(now + grace));
    let kept = former.into_iter().map(|secret| Secret { until: Some(until(&secret)), ..secret });
    let kept: Vec<Secret> = kept.filter(|secret| secret.until.is_some_and(|until| until > now)).collect();
    if kept.len() > FORMER_MAX {
        let detail = format!("{} former secrets of the key are still good, and at most {FORMER_MAX} are", kept.len());
        let hint = "wait until one has ended, or ask for a shorter grace, which ends them sooner";
        return Err(Refusal::new(ErrorCode::Conflict, format!("{detail}: {hint}")));
    }
    Ok(std::iter::once(new).chain(kept).collect())
}

async fn revoke_key(pen: Pen<'_>, (tenant, id): (&TenantId, &str), condition: Condition) -> Result<Outcome, Refusal> {
    let core = pen.core;
    catch_up(core, condition, |snapshot| snapshot.made().key(tenant, id).map(|kept| kept.revision)).await?;
    let held = held_key(core, tenant, id)?.revision;
    let expect = match condition {
        // Whatever it is, it shall end: a rotation between the look and the write does not save it.
        Condition::None => Expect::Present,
        condition => expect(condition, None, false)?,
    };
    pen.write((&made::key_name(tenant, id), Some(held)), None, expect).await?;
    Ok(Outcome::Deleted)
}

// ---- service accounts

fn account_view(
    core: &Core,
    tenant: &TenantId,
    name: &ProfileName,
    kept: &Kept<AccountRecord>,
) -> views::ServiceAccount {
    let record = &kept.record;
    views::ServiceAccount {
        name: made::account_name(tenant, name),
        display_name: record.display_name.clone(),
        role: record.role.as_str(),
        project: record.project.as_ref().map(ToString::to_string),
        expires: record.expires,
        expired: record.expires.is_some_and(|expires| expires <= core.clock.now()),
        create_time: record.create_time,
        created_by: record.created_by.clone(),
        etag: etag(kept.revision),
    }
}

/// All service accounts in the order of their names.
fn accounts(core: &Core, tenant: &TenantId) -> Result<Vec<views::ServiceAccount>, Refusal> {
    let snapshot = core.directory.load_full();
    snapshot.tenant(tenant).ok_or_else(Refusal::not_found)?;
    Ok(snapshot.made().accounts_of(tenant).map(|(name, kept)| account_view(core, tenant, name, kept)).collect())
}

async fn create_account(
    pen: Pen<'_>,
    caller: &Caller,
    tenant: &TenantId,
    wish: NewAccount,
) -> Result<Outcome, Refusal> {
    let core = pen.core;
    let snapshot = core.directory.load_full();
    let settings = &snapshot.tenant(tenant).ok_or_else(Refusal::not_found)?.settings;
    let now = core.clock.now();
    let mut faults = Vec::new();
    check_name(wish.display_name.as_ref(), &mut faults);
    let (project, expires) = (wish.project.or_else(|| caller.project.clone()), bounds::end(caller, wish.expires));
    faults.extend(project.as_ref().and_then(|project| unknown_project(settings, project, "/project".to_owned())));
    if wish.role.is_platform() {
        let hint = Some("use viewer, operator or admin".to_owned());
        faults.push(fault("/role", "invalid", format!("{} is a role of the platform", wish.role), hint));
    }
    if expires.is_some_and(|expires| expires <= now) {
        faults.push(fault("/expires", "invalid", "it would have ended before it began", None));
    }
    if !faults.is_empty() {
        return Err(invalid(faults));
    }
    let own = Bounds { permissions: wish.role.permissions(), project: project.clone(), expires };
    check_grant(settings, caller, &own)?;
    if snapshot.made().accounts_of(tenant).len() >= PER_TENANT_MAX {
        let detail = format!("a tenant has at most {PER_TENANT_MAX} service accounts");
        return Err(Refusal::new(ErrorCode::Conflict, detail));
    }
    pen.check_room(&made::below(tenant))?;
    let record = AccountRecord {
        role: wish.role,
        project,
        expires,
        display_name: wish.display_name,
        create_time: now,
        created_by: caller.principal.clone(),
    };
    let (name, held) = (made::account_name(tenant, &wish.name), snapshot.made().account(tenant, &wish.name));
    let held = held.map(|kept| kept.revision);
    let written = pen.write((&name, held), Some(text(&record)?), Expect::Absent).await?;
    let view = account_view(core, tenant, &wish.name, &Kept { record, revision: written.unwrap_or_default() });
    Ok(Outcome::AccountMade { account: Box::new(view), created: written.is_some() })
}

async fn delete_account(
    pen: Pen<'_>,
    (tenant, name): (&TenantId, &ProfileName),
    condition: Condition,
) -> Result<Outcome, Refusal> {
    let core = pen.core;
    catch_up(core, condition, |snapshot| snapshot.made().account(tenant, name).map(|kept| kept.revision)).await?;
    let snapshot = core.directory.load_full();
    let made = snapshot.made();
    let kept = made.account(tenant, name).ok_or_else(Refusal::not_found)?;
    let expect = expect(condition, Some(kept.revision), false)?;
    let keys = made.keys_of(tenant).filter(|(_, key)| key.record.service_account.as_ref() == Some(name));
    let keys = keys.map(|(id, _)| made::key_name(tenant, id)).collect();
    remove(pen, keys, (made::account_name(tenant, name), kept.revision), expect).await
}
