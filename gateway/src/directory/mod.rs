//! Who there is: tenants with their rules and limits, the credentials that speak for them, and the policies that judge
//! what they create.
//!
//! A [`Snapshot`] is immutable and whole; a request reads the current one with one atomic load and no lock. It is built
//! from what was declared ([`declared`], pure), and replaced at once by the next: there is no moment with half of a change.
//! What outlives a change is taken over from the snapshot before: the buckets of a rate that stayed the same are the same
//! buckets, so that a reload neither empties nor fills them.
//!
//! Deliberately absent: the limits' enforcement (the ledger's) and who may do what (`meridian_policies::access`).

pub mod declared;
pub mod diff;
pub(crate) mod document;
pub mod files;
pub(crate) mod follower;
pub mod keys;
pub(crate) mod made;
pub mod watcher;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, Guard};
use meridian_ledger::Quota;
use meridian_ledger::documents::{Document, Handed, News, Position, Replica};
use meridian_model::{
    error::FieldError,
    ids::{AdapterName, RegionId, TenantId},
    operation::QuotaLimits,
    time::Time,
};
use meridian_policies::{
    budget::Weight,
    rules::RuleSet,
    tenant::{Allow, TenantRules},
};
use serde_json::Value;
use tokio::{sync::watch, time::Instant};

pub use self::declared::{Declared, Files, Policies, Source};
use self::{
    diff::Change,
    files::Broken,
    keys::{Denied, Identity, KeyRing},
    made::{Credential, Made},
};
use crate::{
    clock::Clock,
    config::{self, Config, Known, NamedLimit, Rate},
    http::{drawn::Drawer, rate_limit::TenantLimits},
    identity::grant::Grant,
    operation::{Caller, Scope},
    policies::document::Policy,
    regions::budget::Weights,
};

/// Stands for the platform where a tenant's name would: no tenant can be called so.
pub const PLATFORM: &str = "-";

/// For how long keys that can be revoked elsewhere are believed without a word of the store (RELIABILITY 2.9).
const BELIEVED_FOR: Duration = Duration::from_secs(60);

/// Lines of a change that are logged; the rest is seen in what is in force.
const LOGGED_MAX: usize = 50;

/// How the API is called where a source is told.
pub const API: &str = "the API";

/// One tenant of a snapshot.
#[derive(Debug)]
pub struct Entry {
    /// What was declared of it.
    pub settings: Arc<config::Tenant>,
    /// Where.
    pub source: Source,
    /// What it may use, as admission and placement read it.
    pub rules: TenantRules,
    /// Its rate limits.
    pub limits: Arc<TenantLimits>,
}

impl Entry {
    /// Its limits, and how they are divided.
    #[must_use]
    pub fn quota(&self) -> Quota {
        Quota { limits: self.settings.quota, tree: self.settings.projects.clone() }
    }

    /// Regions and adapters it may use; all when empty.
    #[must_use]
    pub fn places(&self) -> (Vec<RegionId>, Vec<AdapterName>) {
        (self.rules.regions.listed().cloned().collect(), self.rules.providers.listed().cloned().collect())
    }
}

/// Everybody there is at one moment.
#[derive(Debug)]
pub struct Snapshot {
    /// Counts the changes since the start.
    pub generation: u64,
    tenants: Arc<BTreeMap<TenantId, Entry>>,
    keys: KeyRing,
    platform: Arc<TenantLimits>,
    made: Arc<Made>,
    policies: Arc<Policies>,
    rules: Arc<RuleSet>,
}

impl Snapshot {
    /// The next one, in which nothing but keys is other.
    fn with_keys(&self, keys: KeyRing, made: Arc<Made>) -> Self {
        Self {
            generation: self.generation + 1,
            tenants: Arc::clone(&self.tenants),
            keys,
            platform: Arc::clone(&self.platform),
            made,
            policies: Arc::clone(&self.policies),
            rules: Arc::clone(&self.rules),
        }
    }

    /// The policies by path.
    #[must_use]
    pub fn policies(&self) -> &Policies {
        &self.policies
    }

    /// The same as they judge together.
    #[must_use]
    pub fn rules(&self) -> &RuleSet {
        &self.rules
    }

    /// Policies of tenants that nobody declares: they judge nothing, and a name may be misspelt.
    pub fn idle_policies(&self) -> impl Iterator<Item = &Arc<str>> {
        let is_idle = |policy: &Policy| policy.compiled.scope().tenant().is_some_and(|t| !self.tenants.contains_key(t));
        self.policies.iter().filter(move |(_, (policy, _))| is_idle(policy)).map(|(path, _)| path)
    }

    /// What the API declares.
    pub(crate) fn made(&self) -> &Made {
        &self.made
    }

    /// A tenant, if there is one of the name.
    #[must_use]
    pub fn tenant(&self, name: &TenantId) -> Option<&Entry> {
        self.tenants.get(name)
    }

    /// All tenants in the order of their names.
    pub fn tenants(&self) -> impl Iterator<Item = (&TenantId, &Entry)> {
        self.tenants.iter()
    }

    /// The credentials.
    #[must_use]
    pub fn keys(&self) -> &KeyRing {
        &self.keys
    }

    /// What somebody acts as whom a grant speaks for; `None` when the grant's tenant is not there.
    #[must_use]
    pub fn identify(&self, grant: &Grant, principal: &str) -> Option<Identity> {
        let (scope, limits) = match &grant.tenant {
            Some(name) => (Scope::Tenant(name.clone()), &self.tenants.get(name)?.limits),
            None => (Scope::Platform, &self.platform),
        };
        let caller = Caller { project: grant.project.clone(), ..Caller::new(scope, principal, grant.role) };
        Some(Identity { caller: Arc::new(caller), limits: Arc::clone(limits) })
    }

    /// The declared limits of a tenant; `None` when there is no such tenant.
    #[must_use]
    pub fn quota(&self, name: &TenantId) -> Option<QuotaLimits> {
        self.tenants.get(name).map(|entry| entry.settings.quota)
    }

    /// The declared quota of a tenant with the way it is divided; `None` when there is no such tenant.
    #[must_use]
    pub fn whole_quota(&self, name: &TenantId) -> Option<Quota> {
        self.tenants.get(name).map(Entry::quota)
    }

    /// The same of all.
    #[must_use]
    pub fn whole_quotas(&self) -> BTreeMap<TenantId, Quota> {
        self.tenants.iter().map(|(name, entry)| (name.clone(), entry.quota())).collect()
    }

    /// What tenants weigh where they wait for the vendors' calls.
    #[must_use]
    pub fn weights(&self) -> Weights {
        self.tenants.iter().map(|(name, entry)| (name.clone(), Weight::new(entry.settings.weight))).collect()
    }

    /// The declared limits of all.
    #[must_use]
    pub fn quotas(&self) -> BTreeMap<TenantId, QuotaLimits> {
        self.tenants.iter().map(|(name, entry)| (name.clone(), entry.settings.quota)).collect()
    }
}

/// Everything that is declared, by source; each is replaced on its own.
#[derive(Debug)]
struct Given {
    config: Declared,
    files: Files,
    documents: Replica,
    made: Arc<Made>,
}

impl Given {
    fn together(config: &Declared, files: &Files, made: &Made) -> Result<Declared, Broken> {
        Ok(config.clone().with_files(files)?.with_made(made))
    }
}

/// Holds the current snapshot and makes the next.
#[derive(Debug)]
pub struct Directory {
    current: ArcSwap<Snapshot>,
    generation: watch::Sender<u64>,
    /// Held while a snapshot is made, so that each is made from the one before it.
    given: Mutex<Given>,
    clock: Clock,
    drawer: Option<Arc<Drawer>>,
    known: Option<Known>,
    /// When the documents were last heard of, in milliseconds since `began` and one more; 0 for never.
    heard: AtomicU64,
    began: Instant,
    /// Nobody else writes documents: what is known of them is all there is.
    alone: AtomicBool,
}

impl Directory {
    /// A directory of what the configuration declares; its rate limits are shared with other gateways if there is a
    /// drawer.
    #[must_use]
    pub fn new(config: Declared, clock: Clock, drawer: Option<Arc<Drawer>>) -> Arc<Self> {
        Self::over(config, None, clock, drawer)
    }

    /// The same, that also reads documents of tenants, whose references are checked.
    pub(crate) fn over(config: Declared, known: Option<Known>, clock: Clock, drawer: Option<Arc<Drawer>>) -> Arc<Self> {
        let made = Arc::<Made>::default();
        let first = snapshot((config.clone(), Arc::clone(&made)), None, &clock, drawer.as_ref());
        let (current, generation) = (ArcSwap::from_pointee(first), watch::Sender::new(0));
        let given = Mutex::new(Given { config, files: Files::default(), documents: Replica::default(), made });
        let (heard, began, alone) = (AtomicU64::new(0), Instant::now(), AtomicBool::new(true));
        Arc::new(Self { current, generation, given, clock, drawer, known, heard, began, alone })
    }

    /// Others write documents too: from now on it matters when they were last heard of.
    pub(crate) fn share(&self) {
        self.alone.store(false, Ordering::Release);
    }

    /// The documents were heard of just now.
    pub(crate) fn heard(&self) {
        let ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard.store(ms.saturating_add(1), Ordering::Release);
    }

    /// For how long the documents were not heard of; `None` when nobody else writes any. Since the start, if never.
    #[must_use]
    pub fn unheard_for(&self) -> Option<Duration> {
        if self.alone.load(Ordering::Acquire) {
            return None;
        }
        let heard = match self.heard.load(Ordering::Acquire) {
            0 => return Some(Duration::MAX),
            ms => Duration::from_millis(ms - 1),
        };
        Some(self.began.elapsed().saturating_sub(heard))
    }

    /// Who a key speaks for now.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn identify(&self, key: &str) -> Result<Identity, Denied> {
        let unsure = self.unheard_for().is_some_and(|silence| silence > BELIEVED_FOR);
        self.load().keys().identify(key, self.clock.now(), unsure).cloned()
    }

    /// Reads the document of a tenant.
    pub(crate) fn read_tenant(&self, body: &Value) -> Result<config::Tenant, Vec<FieldError>> {
        match &self.known {
            Some(known) => document::tenant(body, known),
            None => document::stored(body).ok_or_else(Vec::new),
        }
    }

    /// The current snapshot, to be kept.
    #[must_use]
    pub fn load_full(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// The time by the clock that keys end by.
    pub(crate) fn now(&self) -> Time {
        self.clock.now()
    }

    fn given(&self) -> MutexGuard<'_, Given> {
        // A poisoned lock means a panic before the swap: the current snapshot is whole.
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every document that is known, for a store that may have lost some.
    pub(crate) fn handed(&self, position: &Position) -> Handed {
        self.given().documents.handed(position)
    }

    /// How many documents there are whose names begin so, those that ended and are remembered included.
    pub(crate) fn count(&self, prefix: &str) -> usize {
        self.given().documents.count(prefix)
    }

    /// Takes in what a write told of a document.
    pub(crate) fn learn(&self, document: Document) {
        let (mut given, name) = (self.given(), document.name.clone());
        if given.documents.learn(document) {
            self.follow(&mut given, &[name]);
        }
    }

    /// Takes in what the store told. Returns whether it holds what has ended.
    pub(crate) fn hear(&self, news: News) -> bool {
        let mut given = self.given();
        let heard = given.documents.hear(news);
        if !heard.changed.is_empty() {
            self.follow(&mut given, &heard.changed);
        }
        heard.revived
    }

    /// Has the snapshot follow the documents of these names. Where only credentials changed, all else stays what it is.
    fn follow(&self, given: &mut Given, changed: &[String]) {
        let mut made = Made::clone(&given.made);
        for name in changed {
            made.set(name, given.documents.get(name));
        }
        let made = Arc::new(made);
        given.made = Arc::clone(&made);
        if let Some(credentials) = changed.iter().map(|name| Credential::of(name)).collect::<Option<Vec<_>>>() {
            let before = self.current.load_full();
            let keys = credentials.iter().flat_map(|credential| credential.keys(&made));
            let keys = before.keys.with(keys, &before.tenants, &made);
            self.current.store(Arc::new(before.with_keys(keys, made)));
            return;
        }
        // The files were put together with the configuration before.
        if let Ok(declared) = Given::together(&given.config, &given.files, &made) {
            for change in self.swap((declared, made)).iter().take(LOGGED_MAX) {
                tracing::info!(%change, "the directory changes");
            }
        }
    }

    /// The current snapshot, for one look.
    pub fn load(&self) -> Guard<Arc<Snapshot>> {
        self.current.load()
    }

    /// Replaces what files declare. Returns what changes by it.
    ///
    /// # Errors
    /// What does not go together with the rest; nothing has changed then.
    pub fn set_files(&self, files: Files) -> Result<Vec<Change>, Broken> {
        let mut given = self.given();
        let declared = Given::together(&given.config, &files, &given.made)?;
        given.files = files;
        Ok(self.swap((declared, Arc::clone(&given.made))))
    }

    /// Makes the next snapshot the current one; the caller holds what it was made from.
    fn swap(&self, next: (Declared, Arc<Made>)) -> Vec<Change> {
        let before = self.current.load_full();
        let after = snapshot(next, Some(&before), &self.clock, self.drawer.as_ref());
        let (generation, changes) = (after.generation, diff::diff(&before.shown(), &after.shown()));
        self.current.store(Arc::new(after));
        self.generation.send_replace(generation);
        changes
    }

    /// Tells of each change of more than credentials after this call; a reader that was slow is told of the last one only.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }
}

/// Reads everything that a configuration declares, its folder included, without a gateway.
///
/// # Errors
/// Everything that is wrong with the folder.
pub fn check(config: &Config) -> Result<Snapshot, Broken> {
    let mut declared = Declared::of(config);
    if let Some(folder) = &config.directory.path {
        let texts = files::read(folder)?.ok_or_else(|| files::restless(folder))?;
        declared = declared.with_files(&files::parse(&texts, &Known::of(config))?)?;
    }
    Ok(snapshot((declared, Arc::default()), None, &Clock::system(), None))
}

fn snapshot(
    (declared, made): (Declared, Arc<Made>),
    before: Option<&Snapshot>,
    clock: &Clock,
    drawer: Option<&Arc<Drawer>>,
) -> Snapshot {
    let now = clock.now();
    let limits_of = |name: &str, of: (&Rate, &[NamedLimit]), before: Option<&TenantLimits>| {
        Arc::new(TenantLimits::new(name, of, now, drawer, before))
    };
    let rules = Arc::new(declared.rules());
    let Declared { tenants, platform, policies } = declared;
    let entry = |(name, (settings, source)): (TenantId, (Arc<config::Tenant>, Source))| {
        let kept = before.and_then(|b| b.tenants.get(&name)).map(|e| &*e.limits);
        let limits = limits_of(name.as_str(), (&settings.rate, &settings.limits), kept);
        let rules = rules_of(&settings);
        (name, Entry { settings, source, rules, limits })
    };
    let tenants: BTreeMap<TenantId, Entry> = tenants.into_iter().map(entry).collect();
    let limits = limits_of(PLATFORM, (&platform.rate, &[]), before.map(|b| &*b.platform));
    let keys = KeyRing::new(&tenants, &platform.keys, &limits, &made);
    let generation = before.map_or(0, |b| b.generation + 1);
    let (tenants, policies) = (Arc::new(tenants), Arc::new(policies));
    Snapshot { generation, tenants, keys, platform: limits, made, policies, rules }
}

/// A tenant's rules as admission and placement read them.
fn rules_of(tenant: &config::Tenant) -> TenantRules {
    TenantRules {
        regions: Allow::all_when_empty(tenant.regions.iter().cloned()),
        providers: Allow::all_when_empty(tenant.providers.iter().cloned()),
        network_profiles: Allow::all_when_empty(tenant.network_profiles.iter().cloned()),
        image_profiles: Allow::all_when_empty(tenant.image_profiles.iter().cloned()),
        secret_profiles: Allow::none_when_empty(tenant.secret_profiles.iter().cloned()),
        default_network_profile: tenant.default_network_profile.clone(),
        default_strategy: tenant.strategy,
        ..TenantRules::new(tenant.name.clone())
    }
}

#[cfg(test)]
mod tests;
