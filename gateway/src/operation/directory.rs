//! Tenants, keys and service accounts: what the API makes of them and says about them.
//!
//! What the configuration or a file declares is changed there, and the answer to who tries it here names the place. A key's
//! secret is in one answer and nowhere else: the store has its hash. A repetition of a create with the same
//! `Idempotency-Key` gets the same secret for a few minutes, because it follows from the deployment's secret and the
//! request's own key; a lost answer costs no second key.

use std::{sync::Arc, time::Duration};

use meridian_ledger::{
    LedgerError,
    documents::{DOCUMENT_LEN_MAX, Document, Expect, Put},
};
use meridian_model::{
    error::{ErrorCode, FieldError, Problem},
    ids::{OperationId, ProfileName, ProjectName, TenantId},
    instance::Labels,
    quantity::Span,
    time::Time,
};
use meridian_policies::access::{Permission, Role};
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    Caller, Outcome, PageRequest, Place, Reach, Refusal,
    bounds::{self, check_grant, reaches, unknown_project},
    read, store_refusal,
};
use crate::{
    clock::Entropy,
    config::{ApiKey, SettingsMistake, role_mistakes},
    core::Core,
    directory::{
        Snapshot, Source,
        made::{self, AccountRecord, Bounds, Kept, KeyRecord, Secret, TenantRecord},
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

/// What a writer has seen of what it writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Nothing is said.
    None,
    /// `If-Match`: the revision of what is there; none of the tags is one of ours.
    Match(Option<u64>),
    /// `If-None-Match: *`: there is none.
    Absent,
}

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
    /// Remove it.
    DeleteTenant(Option<TenantId>, Condition),
    /// The keys of a tenant.
    ListKeys(Option<TenantId>, PageRequest),
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
    RotateKey(Option<TenantId>, String, Option<Span>, Condition),
    /// End a key.
    RevokeKey(Option<TenantId>, String, Condition),
    /// The service accounts of a tenant.
    ListAccounts(Option<TenantId>, PageRequest),
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
            Self::DeleteTenant(..) => "delete-tenant",
            Self::ListKeys(..) => "list-keys",
            Self::CreateKey { .. } => "create-key",
            Self::RotateKey(..) => "rotate-key",
            Self::RevokeKey(..) => "revoke-key",
            Self::ListAccounts(..) => "list-service-accounts",
            Self::CreateAccount(..) => "create-service-account",
            Self::DeleteAccount(..) => "delete-service-account",
            Self::WhoAmI => "whoami",
        }
    }

    pub(super) const fn permission(&self) -> Permission {
        match self {
            Self::CreateTenant(..) | Self::PutTenant(..) | Self::DeleteTenant(..) => Permission::TenantsWrite,
            Self::ListKeys(..) | Self::ListAccounts(..) => Permission::KeysRead,
            Self::CreateKey { .. }
            | Self::RotateKey(..)
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
            | Self::ListKeys(t, _)
            | Self::CreateKey { tenant: t, .. }
            | Self::RotateKey(t, ..)
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
    action: DirectoryAction,
) -> Result<Outcome, Refusal> {
    match action {
        DirectoryAction::ListKeys(_, page) => Ok(Outcome::Keys(keys(core, reach.one()?, &page)?)),
        DirectoryAction::ListAccounts(_, page) => Ok(Outcome::Accounts(accounts(core, reach.one()?, &page)?)),
        DirectoryAction::WhoAmI => Ok(Outcome::WhoAmI(Box::new(who(&caller)))),
        action => {
            let own = Arc::clone(core);
            let work = async move { change(&own, &caller, &reach, action).await };
            core.driver.to_the_end(work).await.unwrap_or_else(|| {
                Err(Refusal { outcome_unknown: true, ..Refusal::internal("a change of the directory panicked") })
            })
        }
    }
}

async fn change(core: &Core, caller: &Caller, reach: &Reach, action: DirectoryAction) -> Result<Outcome, Refusal> {
    match action {
        DirectoryAction::CreateTenant(name, manifest) => put_tenant(core, name, manifest, Condition::Absent).await,
        DirectoryAction::PutTenant(name, manifest, condition) => put_tenant(core, name, manifest, condition).await,
        DirectoryAction::DeleteTenant(_, condition) => delete_tenant(core, reach.one()?, condition).await,
        DirectoryAction::CreateKey { wish, key, fingerprint, .. } => {
            create_key(core, caller, reach.one()?, wish, (key, fingerprint)).await
        }
        DirectoryAction::RotateKey(_, id, grace, condition) => {
            rotate_key(core, caller, (reach.one()?, &id), grace, condition).await
        }
        DirectoryAction::RevokeKey(_, id, condition) => revoke_key(core, (reach.one()?, &id), condition).await,
        DirectoryAction::CreateAccount(_, wish) => create_account(core, caller, reach.one()?, wish).await,
        DirectoryAction::DeleteAccount(_, name, condition) => {
            delete_account(core, (reach.one()?, &name), condition).await
        }
        DirectoryAction::ListKeys(..) | DirectoryAction::ListAccounts(..) | DirectoryAction::WhoAmI => {
            Err(Refusal::internal("what changes nothing came here"))
        }
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

// ---- writing

/// The revision as it stands in entity tags.
#[must_use]
pub fn etag(revision: u64) -> String {
    format!("r{revision}")
}

/// What of a condition the store is to hold to; `held` is what is known of the document.
fn expect(condition: Condition, held: Option<u64>, required: bool) -> Result<Expect, Refusal> {
    match (condition, held) {
        (Condition::None, Some(_)) if required => Err(Refusal::new(
            ErrorCode::PreconditionRequired,
            "what is there would be replaced: send its ETag as If-Match, so that nobody's change is lost",
        )),
        (Condition::None, Some(revision)) => Ok(Expect::Revision(revision)),
        (Condition::None | Condition::Absent, _) => Ok(Expect::Absent),
        (Condition::Match(Some(revision)), _) => Ok(Expect::Revision(revision)),
        (Condition::Match(None), held) => Err(mismatch(held)),
    }
}

fn mismatch(held: Option<u64>) -> Refusal {
    let now =
        held.map_or_else(|| "it is not there".to_owned(), |revision| format!("its ETag is \"{}\"", etag(revision)));
    Refusal::new(ErrorCode::EtagMismatch, format!("it is not as the request says: {now}"))
}

/// Has this gateway know the revision that a condition names, should another have written it a moment ago: what is written
/// is made from what is known here.
async fn catch_up(core: &Core, condition: Condition, held: impl Fn(&Snapshot) -> Option<u64>) -> Result<(), Refusal> {
    let held = || held(&core.directory.load());
    let Condition::Match(Some(seen)) = condition else { return Ok(()) };
    if held() == Some(seen) {
        return Ok(());
    }
    core.sources.documents.catch_up().await.map_err(|e| store_refusal(&e))?;
    match held() {
        Some(now) if now != seen => Err(mismatch(Some(now))),
        _ => Ok(()),
    }
}

/// What the caller of a write learns of a store that failed; one that did not answer may have written (R4).
fn failed(error: &LedgerError) -> Refusal {
    if !matches!(error, LedgerError::Unanswered(_)) {
        return store_refusal(error);
    }
    let detail = "the store did not answer: the change may be made or not; read what it was to change, or repeat the \
                  request";
    let internal = Some(error.to_string());
    Refusal { internal, outcome_unknown: true, ..Refusal::new(ErrorCode::DeadlineExceeded, detail) }
}

async fn write(core: &Core, name: &str, body: Option<String>, expect: Expect) -> Result<u64, Refusal> {
    if let Some(len) = body.as_ref().map(String::len).filter(|len| *len > DOCUMENT_LEN_MAX) {
        let detail = format!("{name} would be {len} bytes as it is kept, and at most {DOCUMENT_LEN_MAX} are");
        return Err(Refusal::new(ErrorCode::PayloadTooLarge, detail));
    }
    match core.sources.documents.put(name, body, expect).await.map_err(|e| failed(&e))? {
        Put::Written(revision) => Ok(revision),
        Put::Conflict(Some(Document { revision, body: Some(_), .. }))
            if matches!(expect, Expect::Absent | Expect::Never) =>
        {
            let mut refusal = Refusal::new(ErrorCode::AlreadyExists, format!("{name} exists already"));
            refusal.internal = Some(format!("revision {revision}"));
            Err(refusal)
        }
        Put::Conflict(Some(_)) if expect == Expect::Never => {
            let detail = format!("{name} has ended, and its name is not given again");
            Err(Refusal::new(ErrorCode::AlreadyExists, detail))
        }
        Put::Conflict(held) => Err(mismatch(held.filter(|d| d.body.is_some()).map(|d| d.revision))),
        Put::Full => Err(Refusal::new(ErrorCode::Conflict, "there are as many documents as the gateways keep")),
    }
}

fn text(value: &impl serde::Serialize) -> Result<String, Refusal> {
    serde_json::to_string(value).map_err(Refusal::internal)
}

fn declared_elsewhere(what: &str, source: &Source) -> Refusal {
    Refusal::new(ErrorCode::Conflict, format!("{what} is declared in {source}: change it there"))
}

fn invalid(faults: Vec<FieldError>) -> Refusal {
    let detail = faults.iter().map(|f| f.detail.as_str()).collect::<Vec<_>>().join("; ");
    Problem::new(ErrorCode::InvalidArgument, detail).with_errors(faults).into()
}

fn fault(pointer: &str, code: &str, detail: impl Into<String>, hint: Option<String>) -> FieldError {
    FieldError {
        pointer: pointer.to_owned(),
        code: code.to_owned(),
        detail: detail.into(),
        hint,
        ..FieldError::default()
    }
}

// ---- tenants

async fn put_tenant(core: &Core, name: TenantId, manifest: Value, condition: Condition) -> Result<Outcome, Refusal> {
    let settings = core.directory.read_tenant(&manifest).map_err(invalid)?;
    let mut faults = Vec::new();
    if settings.name != name {
        faults.push(fault(
            "/metadata/name",
            "mismatch",
            "the name is not that of the path",
            Some(format!("write {name}")),
        ));
    }
    if !settings.keys.is_empty() {
        let hint = format!("make them with POST /v1/tenants/{name}/keys");
        faults.push(fault("/spec/keys", "not-here", "keys are resources of their own here", Some(hint)));
    }
    if !faults.is_empty() {
        return Err(invalid(faults));
    }
    catch_up(core, condition, |snapshot| tenant_revision(snapshot, &name)).await?;
    let snapshot = core.directory.load_full();
    if let Some(entry) = snapshot.tenant(&name).filter(|entry| entry.source != Source::Api) {
        return Err(declared_elsewhere(&format!("tenants/{name}"), &entry.source));
    }
    let held = snapshot.made().tenants.get(&name).map(|(_, kept)| kept);
    let expect = expect(condition, held.map(|kept| kept.revision), true)?;
    let now = core.clock.now();
    let record = TenantRecord {
        manifest,
        generation: held.map_or(1, |kept| kept.record.generation + 1),
        create_time: held.map_or(now, |kept| kept.record.create_time),
        update_time: now,
    };
    write(core, &made::tenant_name(&name), Some(text(&record)?), expect).await?;
    let tenant = Box::new(read::tenant(core, &name).await?);
    Ok(Outcome::TenantWritten { tenant, created: held.is_none() })
}

fn tenant_revision(snapshot: &Snapshot, tenant: &TenantId) -> Option<u64> {
    snapshot.made().tenants.get(tenant).map(|(_, kept)| kept.revision)
}

async fn delete_tenant(core: &Core, tenant: &TenantId, condition: Condition) -> Result<Outcome, Refusal> {
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
    let made = snapshot.made();
    let keys = made.keys.get(tenant).into_iter().flatten().map(|(id, _)| made::key_name(tenant, id));
    let accounts = made.accounts.get(tenant).into_iter().flatten().map(|(name, _)| made::account_name(tenant, name));
    remove(core, keys.chain(accounts).collect(), (made::tenant_name(tenant), expect)).await
}

/// Removes what belongs to something, and then that.
async fn remove(core: &Core, parts: Vec<String>, (whole, expect): (String, Expect)) -> Result<Outcome, Refusal> {
    let is_partly_done = !parts.is_empty();
    for part in parts {
        match write(core, &part, None, Expect::Present).await {
            // What somebody else removed meanwhile is gone as well.
            Err(refusal) if refusal.problem.code != ErrorCode::EtagMismatch => {
                return Err(Refusal { outcome_unknown: true, ..refusal });
            }
            _ => {}
        }
    }
    let removed = write(core, &whole, None, expect).await;
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

fn keys(core: &Core, tenant: &TenantId, page: &PageRequest) -> Result<views::Page<views::ApiKey>, Refusal> {
    let snapshot = core.directory.load_full();
    let entry = snapshot.tenant(tenant).ok_or_else(Refusal::not_found)?;
    let declared = entry.settings.keys.iter().map(|key| declared_view(core, tenant, key, &entry.source));
    let made = snapshot.made().keys.get(tenant).into_iter().flatten();
    let made = made.map(|(id, kept)| key_view(core, tenant, id, kept));
    let mut all: Vec<views::ApiKey> = declared.chain(made).collect();
    all.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(paged(all, page, |key| &key.id))
}

/// One page of items that are in the order of their places.
fn paged<T>(all: Vec<T>, page: &PageRequest, place: impl Fn(&T) -> &String) -> views::Page<T> {
    let after = |item: &T| page.after.as_ref().is_none_or(|after| place(item) > after);
    let mut items: Vec<T> = all.into_iter().filter(after).take(page.size + 1).collect();
    let more = items.len() > page.size;
    items.truncate(page.size);
    let next_after = items.last().filter(|_| more).map(|item| place(item).clone());
    views::Page { items, next_after }
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
    fn of(core: &Core, caller: &Caller, tenant: &TenantId, key: Option<&str>) -> Result<Self, Refusal> {
        // No other route has this name.
        let route = format!("POST keys by {}", caller.principal);
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

    /// The key with its secret, which is that of one life: should the name ever be given again, it has another.
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
    core: &Core,
    caller: &Caller,
    tenant: &TenantId,
    wish: NewKey,
    (key, fingerprint): (Option<String>, String),
) -> Result<Outcome, Refusal> {
    let seed = Seed::of(core, caller, tenant, key.as_deref())?;
    let id = seed.id(core);
    let snapshot = core.directory.load_full();
    if snapshot.tenant(tenant).is_none() {
        return Err(Refusal::not_found());
    }
    if let Some(kept) = snapshot.made().key(tenant, &id) {
        return replayed(core, (tenant, &id), kept, &seed, &fingerprint);
    }
    if snapshot.made().keys.get(tenant).is_some_and(|keys| keys.len() >= PER_TENANT_MAX) {
        return Err(Refusal::new(ErrorCode::Conflict, format!("a tenant has at most {PER_TENANT_MAX} keys")));
    }
    let mut record = record_of(core, caller, tenant, wish)?;
    let new = seed.minted(core, &id, record.create_time);
    record.secrets.push(Secret { sha256: hex(&new.sha256), until: None });
    record.fingerprint = key.is_some().then(|| fingerprint.clone());
    match write(core, &made::key_name(tenant, &id), Some(text(&record)?), Expect::Never).await {
        Ok(revision) => {
            let view = key_view(core, tenant, &id, &Kept { record, revision });
            Ok(made_key(view, &new, true, false))
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

fn made_key(view: views::ApiKey, new: &MintedKey, created: bool, replayed: bool) -> Outcome {
    let key = Some(views::ShownOnce(new.key.expose_secret().to_owned()));
    Outcome::KeyMade { key: Box::new(views::ApiKey { key, ..view }), created, replayed }
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
        let detail = "this Idempotency-Key was used with a request that differs from this one";
        return Err(Refusal::new(ErrorCode::IdempotencyKeyReused, detail));
    }
    let is_current = record.secrets.first().is_some_and(|secret| secret.sha256 == hex(&new.sha256));
    if !is_current || core.clock.now().since(record.create_time) > SECRET_REPLAYED {
        let detail =
            format!("{} was made with this Idempotency-Key; its secret is not shown again", made::key_name(tenant, id));
        return Err(Refusal::new(ErrorCode::AlreadyExists, detail));
    }
    Ok(made_key(key_view(core, tenant, id, kept), &new, true, true))
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
    core: &Core,
    caller: &Caller,
    (tenant, id): (&TenantId, &str),
    grace: Option<Span>,
    condition: Condition,
) -> Result<Outcome, Refusal> {
    let grace = grace.map_or(GRACE_DEFAULT, |grace| grace.0);
    if grace > GRACE_MAX {
        return Err(invalid(vec![fault("/grace", "out-of-range", format!("longer than {}", Span(GRACE_MAX)), None)]));
    }
    catch_up(core, condition, |snapshot| snapshot.made().key(tenant, id).map(|kept| kept.revision)).await?;
    let Kept { mut record, revision } = held_key(core, tenant, id)?;
    let snapshot = core.directory.load_full();
    let settings = &snapshot.tenant(tenant).ok_or_else(Refusal::not_found)?.settings;
    let Some(opens) = snapshot.made().bounds(tenant, &record) else {
        let detail = format!("{} opens nothing: whose it was is gone; make another", made::key_name(tenant, id));
        return Err(Refusal::new(ErrorCode::Conflict, detail));
    };
    // Who rotates a key gets it.
    check_grant(settings, caller, &opens)?;
    let expect = expect(condition, Some(revision), false)?;
    let new = minted(core, id, &core.entropy);
    record.secrets = after_rotation(record.secrets, hex(&new.sha256), (core.clock.now(), grace))?;
    record.fingerprint = None;
    let revision = write(core, &made::key_name(tenant, id), Some(text(&record)?), expect).await?;
    let view = key_view(core, tenant, id, &Kept { record, revision });
    Ok(made_key(view, &new, false, false))
}

/// The secrets of a key that gets another. Each former one is good until its end, or for the grace if that is sooner: the one
/// in use is not lost when a rotation is repeated whose answer was lost.
fn after_rotation(former: Vec<Secret>, new: String, (now, grace): (Time, Duration)) -> Result<Vec<Secret>, Refusal> {
    let until = |secret: &Secret| secret.until.map_or(now + grace, |until| until.min(now + grace));
    let kept = former.into_iter().map(|secret| Secret { until: Some(until(&secret)), ..secret });
    let kept: Vec<Secret> = kept.filter(|secret| secret.until.is_some_and(|until| until > now)).collect();
    if kept.len() > FORMER_MAX {
        let detail = format!("{} former secrets of the key are still good, and at most {FORMER_MAX} are", kept.len());
        let hint = "wait until one has ended, or ask for a shorter grace, which ends them sooner";
        return Err(Refusal::new(ErrorCode::Conflict, format!("{detail}: {hint}")));
    }
    Ok(std::iter::once(Secret { sha256: new, until: None }).chain(kept).collect())
}

async fn revoke_key(core: &Core, (tenant, id): (&TenantId, &str), condition: Condition) -> Result<Outcome, Refusal> {
    catch_up(core, condition, |snapshot| snapshot.made().key(tenant, id).map(|kept| kept.revision)).await?;
    held_key(core, tenant, id)?;
    let expect = match condition {
        // Whatever it is, it shall end: a rotation between the look and the write does not save it.
        Condition::None => Expect::Present,
        condition => expect(condition, None, false)?,
    };
    write(core, &made::key_name(tenant, id), None, expect).await?;
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

fn accounts(core: &Core, tenant: &TenantId, page: &PageRequest) -> Result<views::Page<views::ServiceAccount>, Refusal> {
    let snapshot = core.directory.load_full();
    snapshot.tenant(tenant).ok_or_else(Refusal::not_found)?;
    let made = snapshot.made().accounts.get(tenant).into_iter().flatten();
    Ok(paged(made.map(|(name, kept)| account_view(core, tenant, name, kept)).collect(), page, |account| &account.name))
}

async fn create_account(core: &Core, caller: &Caller, tenant: &TenantId, wish: NewAccount) -> Result<Outcome, Refusal> {
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
    if snapshot.made().accounts.get(tenant).is_some_and(|all| all.len() >= PER_TENANT_MAX) {
        let detail = format!("a tenant has at most {PER_TENANT_MAX} service accounts");
        return Err(Refusal::new(ErrorCode::Conflict, detail));
    }
    let record = AccountRecord {
        role: wish.role,
        project,
        expires,
        display_name: wish.display_name,
        create_time: now,
        created_by: caller.principal.clone(),
    };
    let revision = write(core, &made::account_name(tenant, &wish.name), Some(text(&record)?), Expect::Absent).await?;
    Ok(Outcome::AccountMade(Box::new(account_view(core, tenant, &wish.name, &Kept { record, revision }))))
}

async fn delete_account(
    core: &Core,
    (tenant, name): (&TenantId, &ProfileName),
    condition: Condition,
) -> Result<Outcome, Refusal> {
    catch_up(core, condition, |snapshot| snapshot.made().account(tenant, name).map(|kept| kept.revision)).await?;
    let snapshot = core.directory.load_full();
    let made = snapshot.made();
    let kept = made.account(tenant, name).ok_or_else(Refusal::not_found)?;
    let expect = expect(condition, Some(kept.revision), false)?;
    let keys = made.keys.get(tenant).into_iter().flatten();
    let keys = keys.filter(|(_, key)| key.record.service_account.as_ref() == Some(name));
    let keys = keys.map(|(id, _)| made::key_name(tenant, id)).collect();
    remove(core, keys, (made::account_name(tenant, name), expect)).await
}

/// The document of a tenant in the short form of a create's body.
#[must_use]
pub fn document_of(name: &TenantId, labels: &Labels, spec: &Value) -> Value {
    json!({
        "apiVersion": "meridian.dev/v1", "kind": "Tenant",
        "metadata": { "name": name, "labels": labels }, "spec": spec,
    })
}
