//! The world: regions, accounts, instances, and what may be done to them. Pure and synchronous: time comes in as
//! `now_ms` (Unix milliseconds), randomness from the seed, and nothing here does I/O.
//!
//! Every method first lets the time since the last call happen ([`World::advance`]), so timestamps and billing are
//! those of the due moment, not of the moment somebody looked.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::calls::Calls;
use super::fault::{Fault, FaultInput, FaultKind, Faults, FieldError, Outage, Subject, Verdict};
use super::keys::AccountKey;
use super::rng::Rng;
use super::types::{ImageCache, Instance, RegionKey, Scope, Vendor};
use super::zone::Zone;
use crate::scenario::{RegionConfig, Rules, Scenario, Timing};

/// A region and its zones.
#[derive(Clone, Debug)]
pub struct Region {
    /// As configured.
    pub config: RegionConfig,
    /// In the order of the scenario.
    pub zones: Vec<Zone>,
}

impl Region {
    /// The zone a subnet lies in.
    #[must_use]
    pub fn zone_of_subnet(&self, subnet_id: &str) -> Option<&Zone> {
        self.zones.iter().find(|z| z.config().subnet_id == subnet_id)
    }

    /// A zone by name.
    #[must_use]
    pub fn zone(&self, name: &str) -> Option<&Zone> {
        self.zones.iter().find(|z| z.config().zone == name)
    }

    pub(super) fn zone_mut(&mut self, name: &str) -> Option<&mut Zone> {
        self.zones.iter_mut().find(|z| z.config().zone == name)
    }
}

/// Limits of one account in one region and what is used of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quota {
    /// Instances at once.
    pub max_instances: u32,
    /// vCPU at once.
    pub max_vcpu: f64,
    /// Instances now.
    pub used_instances: u32,
    /// vCPU now.
    pub used_vcpu: f64,
}

/// A remembered client token.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct TokenRecord {
    /// Digest of the parameters that must stay equal.
    pub params: String,
    /// The first reply.
    pub reply: serde_json::Value,
    /// When it was first used.
    pub at_ms: i64,
}

/// Names a client token: tokens of different calls do not meet.
#[derive(Clone, Copy, Debug)]
pub struct TokenKey<'a> {
    /// Who and where.
    pub scope: &'a Scope,
    /// Vendor action.
    pub action: &'a str,
    /// As sent.
    pub token: &'a str,
}

impl TokenKey<'_> {
    fn joined(&self) -> String {
        let Self { scope, action, token } = self;
        format!("{}\n{}\n{}\n{action}\n{token}", scope.vendor, scope.region, scope.account)
    }
}

/// A new count of free stock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StockChange {
    /// Region.
    pub region: RegionKey,
    /// Zone.
    pub zone: String,
    /// Size key or `*`.
    pub spec: String,
    /// `None` = unlimited.
    pub free: Option<u32>,
}

/// What a client token means now.
#[derive(Clone, Debug, PartialEq)]
pub enum TokenCheck {
    /// Never seen, or forgotten.
    New,
    /// Seen with the same parameters: the first reply again.
    Replay(serde_json::Value),
    /// Seen with other parameters.
    Mismatch,
}

/// Something durable changed; written before the reply leaves. One JSON line each.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
#[serde(tag = "record", rename_all = "camelCase", deny_unknown_fields)]
pub enum Record {
    /// An instance, whole.
    Instance {
        /// The instance.
        instance: Box<Instance>,
    },
    /// An image cache, whole.
    Image {
        /// The cache.
        image: Box<ImageCache>,
    },
    /// A fault rule, with its remaining hits.
    Fault {
        /// As shown by the control API.
        fault: Box<FaultInput>,
    },
    /// A fault rule that is gone.
    FaultGone {
        /// Its id.
        id: String,
    },
    /// A client token.
    Token {
        /// Account, region, action and token, joined.
        key: String,
        /// What it stands for.
        token: TokenRecord,
    },
    /// Stock, quota or address limits changed by the control API; `free` counts are as given at that moment, and
    /// kept as limits including what was held.
    Limits {
        /// Sum of the changes so far.
        limits: LimitChange,
    },
}

/// A change made through the control API.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "change", rename_all = "camelCase", deny_unknown_fields)]
pub enum LimitChange {
    /// Free stock of a size in a zone.
    Stock {
        /// Region.
        region: RegionKey,
        /// Zone.
        zone: String,
        /// Size key or `*`.
        spec: String,
        /// `None` = unlimited.
        free: Option<u32>,
        /// Held of that size at that moment, so that it can be replayed.
        held: BTreeMap<String, u32>,
    },
    /// Account limits in a region.
    Quota {
        /// Where.
        scope: Scope,
        /// Instances.
        max_instances: u32,
        /// vCPU.
        max_vcpu: f64,
    },
    /// Free addresses of a subnet.
    Ips {
        /// Subnet id.
        subnet_id: String,
        /// Free ones.
        free: u32,
        /// Used ones at that moment.
        used: u32,
    },
}

impl LimitChange {
    /// Whether `old` says nothing any more after this change.
    fn replaces(&self, old: &Self) -> bool {
        match (self, old) {
            (Self::Stock { region, zone, spec, .. }, Self::Stock { region: r, zone: z, spec: s, .. }) => {
                region == r && zone == z && (spec == s || spec == "*")
            }
            (Self::Quota { scope, .. }, Self::Quota { scope: old, .. }) => scope == old,
            (Self::Ips { subnet_id, .. }, Self::Ips { subnet_id: old, .. }) => subnet_id == old,
            (Self::Stock { .. } | Self::Quota { .. } | Self::Ips { .. }, _) => false,
        }
    }
}

/// The simulated clouds. See the module.
#[derive(Clone, Debug)]
pub struct World {
    pub(super) timing: Timing,
    pub(super) rules: Rules,
    pub(super) rng: Rng,
    pub(super) keys: Vec<AccountKey>,
    pub(super) regions: BTreeMap<RegionKey, Region>,
    pub(super) quotas: BTreeMap<Scope, Quota>,
    /// By id. In no order: whatever goes over them in one sorts, or goes over `live`.
    pub(super) instances: HashMap<String, Instance>,
    /// Existing instances of a scope in order of creation.
    pub(super) live: BTreeMap<Scope, BTreeMap<u64, String>>,
    pub(super) images: BTreeMap<String, ImageCache>,
    pub(super) due: BTreeSet<(i64, String)>,
    pub(super) faults: Faults,
    pub(super) tokens: BTreeMap<String, TokenRecord>,
    pub(super) calls: Calls,
    pub(super) next_seq: u64,
    /// Changes of limits still in force, in order.
    limits: Vec<LimitChange>,
    /// When each scope last forgot ended instances, see `keep`.
    pub(super) forgot_ms: BTreeMap<Scope, i64>,
    pub(super) dirty: Dirty,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Dirty {
    pub(super) instances: BTreeSet<String>,
    pub(super) images: BTreeSet<String>,
    pub(super) tokens: BTreeSet<String>,
    pub(super) limits: Vec<LimitChange>,
}

impl World {
    /// Builds the world of a scenario that passed [`Scenario::check`].
    #[must_use]
    pub fn new(scenario: &Scenario) -> Self {
        let accounts: BTreeMap<_, _> = scenario.accounts.iter().map(|a| (&a.name, a)).collect();
        let mut quotas = BTreeMap::new();
        let mut regions = BTreeMap::new();
        for config in &scenario.regions {
            for account in config.accounts.iter().filter_map(|name| accounts.get(name)) {
                let scope =
                    Scope { vendor: config.vendor, region: config.region.clone(), account: account.name.clone() };
                let quota = Quota {
                    max_instances: account.max_instances,
                    max_vcpu: account.max_vcpu,
                    used_instances: 0,
                    used_vcpu: 0.0,
                };
                quotas.insert(scope, quota);
            }
            let zones = config.zones.iter().cloned().map(Zone::new).collect();
            let region = Region { config: config.clone(), zones };
            regions.insert(RegionKey::new(config.vendor, &config.region), region);
        }
        Self {
            timing: scenario.timing.clone(),
            rules: scenario.rules.clone(),
            rng: Rng::new(scenario.seed),
            keys: scenario.accounts.iter().map(AccountKey::of).collect(),
            regions,
            quotas,
            instances: HashMap::new(),
            live: BTreeMap::new(),
            images: BTreeMap::new(),
            due: BTreeSet::new(),
            faults: Faults::default(),
            tokens: BTreeMap::new(),
            calls: Calls::default(),
            next_seq: 0,
            limits: Vec::new(),
            forgot_ms: BTreeMap::new(),
            dirty: Dirty::default(),
        }
    }

    /// Durations of the scenario.
    #[must_use]
    pub fn timing(&self) -> &Timing {
        &self.timing
    }

    /// Chosen behaviour of the scenario.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// A region.
    #[must_use]
    pub fn region(&self, vendor: Vendor, region: &str) -> Option<&Region> {
        self.regions.get(&RegionKey::new(vendor, region))
    }

    /// All regions of a vendor, by name.
    pub fn regions(&self, vendor: Vendor) -> impl Iterator<Item = &Region> {
        self.regions.iter().filter(move |(key, _)| key.vendor == vendor).map(|(_, region)| region)
    }

    /// Limits and use of an account in a region.
    #[must_use]
    pub fn quota(&self, scope: &Scope) -> Option<Quota> {
        self.quotas.get(scope).copied()
    }

    /// An upper-case UUID, as ECI has it; Tencent's is lower case.
    pub fn request_id(&mut self) -> String {
        self.rng.uuid_text()
    }

    /// An instance of this scope that exists and may be seen now.
    #[must_use]
    pub fn instance(&self, scope: &Scope, id: &str, now_ms: i64) -> Option<&Instance> {
        self.instances.get(id).filter(|i| i.scope == *scope && i.is_visible(now_ms))
    }

    /// An instance of this scope that exists, lag or not: for calls that name an id. The id itself proves it.
    #[must_use]
    pub fn existing(&self, scope: &Scope, id: &str) -> Option<&Instance> {
        self.instances.get(id).filter(|i| i.scope == *scope && i.exists())
    }

    /// Any instance that ever was, by id.
    #[must_use]
    pub fn any_instance(&self, id: &str) -> Option<&Instance> {
        self.instances.get(id)
    }

    /// What list and describe show: existing and visible instances of a scope in order of creation. Empty under an
    /// `emptyList` fault.
    pub fn list(&mut self, scope: &Scope, now_ms: i64) -> Vec<&Instance> {
        self.advance(now_ms);
        let subject = Subject::of_scope(scope);
        let empty = self.faults.hit(&subject, now_ms, &mut self.rng, |k| (*k == FaultKind::EmptyList).then_some(()));
        if empty.is_some() {
            return Vec::new();
        }
        let Some(ids) = self.live.get(scope) else {
            return Vec::new();
        };
        ids.values().filter_map(|id| self.instances.get(id)).filter(|i| i.is_visible(now_ms)).collect()
    }

    /// Everything that ever existed, in order of creation: the truth.
    pub fn ledger(&mut self, now_ms: i64) -> Vec<&Instance> {
        self.advance(now_ms);
        let mut all: Vec<_> = self.instances.values().collect();
        all.sort_by_key(|i| i.seq);
        all
    }

    /// Decides what faults do to a call.
    pub fn verdict(&mut self, subject: &Subject<'_>, now_ms: i64) -> Verdict {
        self.advance(now_ms);
        self.faults.verdict(subject, now_ms, &mut self.rng)
    }

    /// Whether a region is out of reach.
    #[must_use]
    pub fn outage(&self, key: &RegionKey, now_ms: i64) -> Option<Outage> {
        self.faults.outage(key, now_ms)
    }

    /// The rules in force.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Adds a rule and returns its id.
    ///
    /// # Errors
    /// The field at fault, see [`Fault::parse`].
    pub fn add_fault(&mut self, input: FaultInput, now_ms: i64) -> Result<String, FieldError> {
        self.advance(now_ms);
        if input.id.is_some() {
            return Err(FieldError::new("id", "is given by the simulator"));
        }
        let fault = Fault::parse(input, now_ms)?;
        self.check_place(&fault.input)?;
        self.faults.add(fault)
    }

    fn check_place(&self, input: &FaultInput) -> Result<(), FieldError> {
        let regions = || self.regions.iter().filter(|(k, _)| input.vendor.is_none_or(|v| v == k.vendor));
        if let Some(name) = input.region.as_deref().filter(|n| !n.ends_with('*'))
            && !regions().any(|(k, _)| k.region == name)
        {
            let known: Vec<_> = regions().map(|(k, _)| k.region.as_str()).collect();
            return Err(FieldError::new("region", format!("one of {}", known.join(", "))));
        }
        if let Some(name) = input.zone.as_deref().filter(|n| !n.ends_with('*'))
            && !regions().any(|(_, r)| r.zone(name).is_some())
        {
            let known: Vec<_> = regions().flat_map(|(_, r)| &r.zones).map(|z| z.config().zone.as_str()).collect();
            return Err(FieldError::new("zone", format!("one of {}", known.join(", "))));
        }
        Ok(())
    }

    /// Removes a rule; false if there is none.
    pub fn remove_fault(&mut self, id: &str) -> bool {
        self.faults.remove(id)
    }

    /// Removes all rules and says how many there were.
    pub fn clear_faults(&mut self) -> usize {
        self.faults.clear()
    }

    /// Calls so far.
    #[must_use]
    pub fn calls(&self) -> &Calls {
        &self.calls
    }

    /// Counts a call when its outcome is known: `ok` or the vendor's error code.
    pub fn count_call(&mut self, key: &RegionKey, action: &str, outcome: &str, now_ms: i64) {
        self.calls.count(key, action, outcome, now_ms);
    }

    /// What a client token means for these parameters.
    #[must_use]
    pub fn check_token(&self, key: &TokenKey<'_>, params: &str, now_ms: i64) -> TokenCheck {
        match self.tokens.get(&key.joined()) {
            Some(seen) if now_ms - seen.at_ms >= self.rules.client_token_ttl_ms => TokenCheck::New,
            Some(seen) if seen.params == params => TokenCheck::Replay(seen.reply.clone()),
            Some(_) => TokenCheck::Mismatch,
            None => TokenCheck::New,
        }
    }

    /// Remembers the first reply to a client token.
    pub fn store_token(&mut self, key: &TokenKey<'_>, record: TokenRecord) {
        let key = key.joined();
        self.dirty.tokens.insert(key.clone());
        self.tokens.insert(key, record);
    }

    /// Sets free stock; returns false if there is no such zone.
    pub fn set_stock(&mut self, change: StockChange, now_ms: i64) -> bool {
        self.advance(now_ms);
        let StockChange { region, zone, spec, free } = change;
        let Some(target) = self.regions.get_mut(&region).and_then(|r| r.zone_mut(&zone)) else {
            return false;
        };
        let held = target.held_stock();
        target.set_free_stock(&spec, free);
        self.remember(LimitChange::Stock { region, zone, spec, free, held });
        true
    }

    /// Sets an account's limits in a region; false if there is no such account there.
    pub fn set_quota(&mut self, scope: &Scope, max_instances: Option<u32>, max_vcpu: Option<f64>) -> bool {
        let Some(quota) = self.quotas.get_mut(scope) else {
            return false;
        };
        quota.max_instances = max_instances.unwrap_or(quota.max_instances);
        quota.max_vcpu = max_vcpu.unwrap_or(quota.max_vcpu);
        let (scope, max_instances, max_vcpu) = (scope.clone(), quota.max_instances, quota.max_vcpu);
        self.remember(LimitChange::Quota { scope, max_instances, max_vcpu });
        true
    }

    /// Sets the free addresses of a subnet.
    ///
    /// # Errors
    /// `id` if there is no such subnet, `freeIps` if its range is too small.
    pub fn set_free_ips(&mut self, subnet_id: &str, free: u32, now_ms: i64) -> Result<(), FieldError> {
        self.advance(now_ms);
        let zones = self.regions.values_mut().flat_map(|r| &mut r.zones);
        let Some(zone) = zones.into_iter().find(|z| z.config().subnet_id == subnet_id) else {
            return Err(FieldError::new("id", "no such subnet"));
        };
        if free > zone.max_ips() {
            return Err(FieldError::new("freeIps", format!("0 to {}", zone.max_ips())));
        }
        let used = zone.used_ips();
        zone.set_free_ips(free);
        self.remember(LimitChange::Ips { subnet_id: subnet_id.to_owned(), free, used });
        Ok(())
    }

    /// Takes what changed since the last call, to be written before a reply leaves.
    pub fn take_records(&mut self) -> Vec<Record> {
        let dirty = std::mem::take(&mut self.dirty);
        let mut all: Vec<Record> = Vec::new();
        all.extend(dirty.limits.into_iter().map(|limits| Record::Limits { limits }));
        for id in self.faults.take_changed() {
            all.push(match self.faults.rules().iter().find(|f| f.id() == id) {
                Some(fault) => Record::Fault { fault: Box::new(fault.input.clone()) },
                None => Record::FaultGone { id },
            });
        }
        let instances = dirty.instances.iter().filter_map(|id| self.instances.get(id));
        all.extend(instances.map(|i| Record::Instance { instance: Box::new(i.clone()) }));
        let images = dirty.images.iter().filter_map(|id| self.images.get(id));
        all.extend(images.map(|i| Record::Image { image: Box::new(i.clone()) }));
        let tokens = dirty.tokens.into_iter().filter_map(|key| {
            let token = self.tokens.get(&key)?.clone();
            Some(Record::Token { key, token })
        });
        all.extend(tokens);
        all
    }

    /// Forgets what changed: for worlds without a data directory.
    pub fn discard_records(&mut self) {
        self.dirty = Dirty::default();
        self.faults.take_changed();
    }
}

pub(super) fn subject_of(instance: &Instance) -> Subject<'_> {
    Subject {
        vendor: instance.scope.vendor,
        region: &instance.scope.region,
        zone: Some(&instance.zone),
        action: None,
        spec: Some(&instance.stock_key),
        name: Some(&instance.spec.name),
    }
}

impl World {
    /// Puts a record back that [`World::take_records`] gave. Call [`World::rebuild`] after the last.
    ///
    /// # Errors
    /// A text saying what does not fit this scenario.
    pub fn restore(&mut self, record: Record, now_ms: i64) -> Result<(), String> {
        match record {
            Record::Instance { instance } => {
                let region = self.regions.get(&instance.scope.region_key());
                if region.is_none_or(|r| r.zone(&instance.zone).is_none()) || !self.quotas.contains_key(&instance.scope)
                {
                    return Err(format!(
                        "instance {} is in {} {} of account {}, which the scenario does not have",
                        instance.id, instance.scope.vendor, instance.zone, instance.scope.account
                    ));
                }
                self.instances.insert(instance.id.clone(), *instance);
            }
            Record::Image { image } => {
                self.images.insert(image.id.clone(), *image);
            }
            Record::Fault { fault } => {
                if fault.times != Some(0) {
                    self.faults.restore(Fault::parse(*fault, now_ms).map_err(|e| e.to_string())?);
                }
            }
            Record::FaultGone { id } => {
                self.faults.remove(&id);
            }
            Record::Token { key, token } => {
                self.tokens.insert(key, token);
            }
            Record::Limits { limits } => self.restore_limits(limits)?,
        }
        Ok(())
    }

    /// A change replaces those it makes void, so that the list stays as short as the limits are many.
    fn remember(&mut self, change: LimitChange) {
        self.limits.retain(|old| !change.replaces(old));
        self.dirty.limits.push(change.clone());
        self.limits.push(change);
    }

    fn restore_limits(&mut self, change: LimitChange) -> Result<(), String> {
        match &change {
            LimitChange::Stock { region, zone, spec, free, held } => {
                let Some(target) = self.regions.get_mut(region).and_then(|r| r.zone_mut(zone)) else {
                    return Err(format!("the scenario has no zone {zone} in {}", region.region));
                };
                target.replay_stock(spec, *free, held);
            }
            LimitChange::Quota { scope, max_instances, max_vcpu } => {
                let Some(quota) = self.quotas.get_mut(scope) else {
                    return Err(format!("the scenario has no account {} in {}", scope.account, scope.region));
                };
                quota.max_instances = *max_instances;
                quota.max_vcpu = *max_vcpu;
            }
            LimitChange::Ips { subnet_id, free, used } => {
                let mut zones = self.regions.values_mut().flat_map(|r| &mut r.zones);
                let Some(zone) = zones.find(|z| z.config().subnet_id == *subnet_id) else {
                    return Err(format!("the scenario has no subnet {subnet_id}"));
                };
                zone.replay_ips(free.saturating_add(*used));
            }
        }
        self.remember(change);
        Ok(())
    }

    /// Counts everything held and sets every timer again, after the last [`World::restore`].
    pub fn rebuild(&mut self) {
        self.faults.take_changed();
        for instance in self.instances.values() {
            self.next_seq = self.next_seq.max(instance.seq + 1);
            if instance.exists() {
                let live = self.live.entry(instance.scope.clone()).or_default();
                live.insert(instance.seq, instance.id.clone());
            }
            self.due.extend(instance.timers.iter().map(|t| (t.at_ms, instance.id.clone())));
            let region = self.regions.get_mut(&instance.scope.region_key());
            if let Some(zone) = region.and_then(|r| r.zone_mut(&instance.zone)) {
                if instance.holds_stock {
                    zone.hold_stock(&instance.stock_key);
                }
                if instance.holds_ip {
                    zone.hold_ip(&instance.private_ip);
                }
            }
            if let Some(quota) = self.quotas.get_mut(&instance.scope)
                && instance.holds_quota
            {
                quota.used_instances += 1;
                quota.used_vcpu += instance.cpu;
            }
        }
        self.next_seq = self.next_seq.max(self.images.values().map(|i| i.seq + 1).max().unwrap_or(0));
    }

    /// Everything durable, for a compact file: the limits changed, then all records.
    pub fn snapshot(&mut self, now_ms: i64) -> Vec<Record> {
        self.dirty.instances.extend(self.instances.keys().cloned());
        self.dirty.images.extend(self.images.keys().cloned());
        let ttl = self.rules.client_token_ttl_ms;
        self.tokens.retain(|_, t| now_ms - t.at_ms < ttl);
        self.dirty.tokens.extend(self.tokens.keys().cloned());
        let mut all: Vec<_> =
            self.faults.rules().iter().map(|f| Record::Fault { fault: Box::new(f.input.clone()) }).collect();
        self.faults.take_changed();
        all.extend(self.take_records());
        all
    }
}
