//! A zone's stock and addresses. What is held is counted from the instances that hold it, so nothing can leak:
//! free = configured - held.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use crate::scenario::{RESERVED_HOSTS, ZoneConfig, parse_cidr};

/// One zone of one region, with its subnet.
#[derive(Clone, Debug)]
pub struct Zone {
    config: ZoneConfig,
    /// Changed by the control API, else as configured. `None` = unlimited.
    stock: BTreeMap<String, Option<u32>>,
    stock_default: Option<u32>,
    held: BTreeMap<String, u32>,
    base: u32,
    hosts: u32,
    ips: u32,
    used: BTreeSet<u32>,
    next_host: u32,
}

impl Zone {
    pub(super) fn new(config: ZoneConfig) -> Self {
        let (base, hosts) = parse_cidr(&config.cidr).unwrap_or((0, 0));
        Self {
            stock: config.stock.iter().map(|(key, n)| (key.clone(), Some(*n))).collect(),
            stock_default: config.stock_default,
            held: BTreeMap::new(),
            base,
            hosts,
            ips: config.free_ips.min(hosts),
            used: BTreeSet::new(),
            next_host: 0,
            config,
        }
    }

    /// Name, subnet id and prices as configured.
    #[must_use]
    pub fn config(&self) -> &ZoneConfig {
        &self.config
    }

    fn stock_of(&self, key: &str) -> Option<u32> {
        self.stock.get(key).copied().unwrap_or(self.stock_default)
    }

    fn held_of(&self, key: &str) -> u32 {
        self.held.get(key).copied().unwrap_or(0)
    }

    /// Instances of this size that still fit; `None` = unlimited.
    #[must_use]
    pub fn free_stock(&self, key: &str) -> Option<u32> {
        self.stock_of(key).map(|n| n.saturating_sub(self.held_of(key)))
    }

    /// Whether one more instance of this size fits.
    #[must_use]
    pub fn has_stock(&self, key: &str) -> bool {
        self.free_stock(key) != Some(0)
    }

    /// Sizes with an own stock entry or something held.
    pub fn stock_keys(&self) -> impl Iterator<Item = &str> {
        self.stock.keys().chain(self.held.keys().filter(|k| !self.stock.contains_key(*k))).map(String::as_str)
    }

    pub(super) fn take_stock(&mut self, key: &str) -> bool {
        let fits = self.has_stock(key);
        if fits {
            self.hold_stock(key);
        }
        fits
    }

    /// Counts one held without asking: for instances read back from disk.
    pub(super) fn hold_stock(&mut self, key: &str) {
        *self.held.entry(key.to_owned()).or_insert(0) += 1;
    }

    pub(super) fn return_stock(&mut self, key: &str) {
        if let Some(held) = self.held.get_mut(key) {
            *held = held.saturating_sub(1);
            if *held == 0 {
                self.held.remove(key);
            }
        }
    }

    /// Makes `count` more instances fit from now on; `*` sets every size, and forgets single ones.
    pub(super) fn set_free_stock(&mut self, key: &str, count: Option<u32>) {
        if key == "*" {
            self.stock.clear();
            self.stock_default = count;
            // What is held must not count against the new number.
            let held: Vec<_> = self.held.iter().map(|(k, n)| (k.clone(), *n)).collect();
            for (key, n) in held {
                self.stock.insert(key, count.map(|c| c.saturating_add(n)));
            }
        } else {
            let total = count.map(|c| c.saturating_add(self.held_of(key)));
            self.stock.insert(key.to_owned(), total);
        }
    }

    pub(super) fn held_stock(&self) -> BTreeMap<String, u32> {
        self.held.clone()
    }

    /// Repeats a [`Zone::set_free_stock`] made when `held` was held.
    pub(super) fn replay_stock(&mut self, key: &str, count: Option<u32>, held: &BTreeMap<String, u32>) {
        let now = std::mem::replace(&mut self.held, held.clone());
        self.set_free_stock(key, count);
        self.held = now;
    }

    pub(super) fn used_ips(&self) -> u32 {
        u32::try_from(self.used.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn replay_ips(&mut self, total: u32) {
        self.ips = total.min(self.hosts);
    }

    /// Addresses still free in the subnet.
    #[must_use]
    pub fn free_ips(&self) -> u32 {
        self.ips.saturating_sub(u32::try_from(self.used.len()).unwrap_or(u32::MAX))
    }

    /// Most addresses the subnet's range can give.
    #[must_use]
    pub fn max_ips(&self) -> u32 {
        self.hosts
    }

    pub(super) fn take_ip(&mut self) -> Option<String> {
        if self.free_ips() == 0 {
            return None;
        }
        // Ends: at most `hosts` offsets are used and at least one is free.
        for _ in 0..=self.used.len() {
            let offset = self.next_host % self.hosts.max(1);
            self.next_host = (offset + 1) % self.hosts.max(1);
            if self.used.insert(offset) {
                return Some(Ipv4Addr::from(self.base + RESERVED_HOSTS + offset).to_string());
            }
        }
        None
    }

    fn offset_of(&self, ip: &str) -> Option<u32> {
        let ip: Ipv4Addr = ip.parse().ok()?;
        u32::from(ip).checked_sub(self.base + RESERVED_HOSTS)
    }

    /// Marks an address used without asking: for instances read back from disk.
    pub(super) fn hold_ip(&mut self, ip: &str) {
        if let Some(offset) = self.offset_of(ip) {
            self.used.insert(offset);
            self.next_host = self.next_host.max(offset + 1);
        }
    }

    pub(super) fn return_ip(&mut self, ip: &str) {
        if let Some(offset) = self.offset_of(ip) {
            self.used.remove(&offset);
        }
    }

    pub(super) fn set_free_ips(&mut self, free: u32) {
        let used = u32::try_from(self.used.len()).unwrap_or(u32::MAX);
        self.ips = free.saturating_add(used).min(self.hosts);
    }

    /// Price per hour of a size in this zone, without spot discount.
    #[must_use]
    pub fn price_hour(&self, cpu: f64, memory_gib: f64, gpu_count: u32) -> f64 {
        micro(
            cpu * self.config.price_vcpu_hour
                + memory_gib * self.config.price_gib_hour
                + f64::from(gpu_count) * self.config.price_gpu_hour,
        )
    }

    /// Spot price per hour.
    #[must_use]
    pub fn spot_price_hour(&self, cpu: f64, memory_gib: f64, gpu_count: u32) -> f64 {
        micro(self.price_hour(cpu, memory_gib, gpu_count) * self.config.spot_factor)
    }
}

/// Prices have six decimals, as bills do.
fn micro(price: f64) -> f64 {
    (price * 1e6).round() / 1e6
}
