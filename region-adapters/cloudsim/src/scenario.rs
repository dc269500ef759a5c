//! The scenario: what the simulated clouds consist of and how fast they move. Read from TOML, checked once.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::core::{Vendor, is_spec_key};

/// Most regions of one scenario; each has a listener.
pub const REGIONS_MAX: usize = 64;
/// Most zones of one region.
pub const ZONES_MAX: usize = 32;

/// Everything needed to build a world and its listeners.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Seed of every random draw.
    #[serde(default)]
    pub seed: u64,
    /// Address of the control API; port 0 takes a free one.
    #[serde(default = "any_port")]
    pub control_listen: SocketAddr,
    /// How long things take.
    #[serde(default)]
    pub timing: Timing,
    /// Behaviour the vendors do not document.
    #[serde(default)]
    pub rules: Rules,
    /// Rate limits.
    #[serde(default)]
    pub limits: Limits,
    /// Who may call.
    pub accounts: Vec<AccountConfig>,
    /// Where instances run.
    pub regions: Vec<RegionConfig>,
}

/// Durations in milliseconds. The defaults are for tests and demos: real clouds take seconds to minutes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timing {
    /// Create to placed (or found without capacity).
    pub placed_ms: i64,
    /// Placed to containers started, without image pull.
    pub running_ms: i64,
    /// Added to the above, drawn evenly from 0..=jitter.
    pub jitter_ms: i64,
    /// Extra pull time unless an image cache holds all images.
    pub image_pull_ms: i64,
    /// Between tries to place an instance that found no stock (EKSCI).
    pub place_retry_ms: i64,
    /// An ended container waits this long before its policy restarts it.
    pub restart_backoff_ms: i64,
    /// A restart of the instance's containers on request.
    pub restart_ms: i64,
    /// An update.
    pub update_ms: i64,
    /// Most time a delete may spend in `Terminating` (ECI with `preStop`).
    pub terminate_ms: i64,
    /// Warning before a spot instance is taken back (ECI documents 3 minutes).
    pub spot_notice_ms: i64,
    /// An image cache being made or updated.
    pub image_cache_ms: i64,
    /// Time between two lines a running container logs.
    pub log_interval_ms: i64,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            placed_ms: 150,
            running_ms: 300,
            jitter_ms: 200,
            image_pull_ms: 0,
            place_retry_ms: 1_000,
            restart_backoff_ms: 500,
            restart_ms: 300,
            update_ms: 300,
            terminate_ms: 1_000,
            spot_notice_ms: 500,
            image_cache_ms: 500,
            log_interval_ms: 1_000,
        }
    }
}

/// When a shortage of stock shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoStock {
    /// The create call fails.
    AtCreate,
    /// The create call succeeds and the instance is never placed.
    AfterCreate,
}

/// Behaviour marked unverified in the vendor facts, so a scenario may choose it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rules {
    /// EKSCI: its create action lists no sold-out code, so the default is after create.
    pub eksci_no_stock: NoStock,
    /// ECI: both are documented.
    pub eci_no_stock: NoStock,
    /// New instances stay out of list and describe this long.
    pub list_lag_ms: i64,
    /// Clock window of Tencent signatures (document: 5 minutes).
    pub tencent_clock_window_secs: i64,
    /// Clock window of Alibaba signatures (document: 15 minutes).
    pub alibaba_clock_window_secs: i64,
    /// How long a client token is remembered.
    pub client_token_ttl_ms: i64,
    /// ECI answers a describe of an unknown id with `InvalidParameter.NotFound` instead of an empty list.
    pub eci_unknown_id_is_error: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            eksci_no_stock: NoStock::AfterCreate,
            eci_no_stock: NoStock::AtCreate,
            list_lag_ms: 0,
            tencent_clock_window_secs: 300,
            alibaba_clock_window_secs: 900,
            client_token_ttl_ms: 3_600_000,
            eci_unknown_id_is_error: false,
        }
    }
}

/// Rate limits per key, region and action.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Off: nothing is throttled but by faults.
    pub enabled: bool,
    /// Every EKSCI action (document: 20).
    pub tencent_per_second: u32,
    /// EKSCI actions with another limit.
    pub tencent_actions_per_second: BTreeMap<String, u32>,
    /// ECI actions (vendor-api README 4.7).
    pub alibaba_per_minute: BTreeMap<String, u32>,
    /// ECI actions whose limit is not documented.
    pub alibaba_other_per_minute: u32,
}

impl Default for Limits {
    fn default() -> Self {
        let per_minute = [
            ("DescribeContainerGroups", 2000),
            ("DescribeContainerGroupMetric", 2000),
            ("CreateContainerGroup", 1000),
            ("DeleteContainerGroup", 1000),
            ("DescribeContainerGroupPrice", 1000),
            ("ExecContainerCommand", 500),
            ("DescribeContainerLog", 500),
            ("RestartContainerGroup", 500),
            ("UpdateContainerGroup", 500),
            ("DescribeMultiContainerGroupMetric", 500),
            ("CreateImageCache", 200),
        ];
        Self {
            enabled: true,
            tencent_per_second: 20,
            tencent_actions_per_second: BTreeMap::new(),
            alibaba_per_minute: per_minute.into_iter().map(|(name, n)| (name.to_owned(), n)).collect(),
            // Not documented: as the least restrictive documented one.
            alibaba_other_per_minute: 2000,
        }
    }
}

/// One customer of one vendor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountConfig {
    /// Name regions refer to; also the ledger's `account`.
    pub name: String,
    /// The cloud it belongs to.
    pub vendor: Vendor,
    /// Secret id (Tencent) or access key id (Alibaba).
    pub key_id: String,
    /// The secret. Simulated clouds only: never put a real one here.
    pub key_secret: String,
    /// If set, every request must carry it (temporary credentials).
    #[serde(default)]
    pub security_token: Option<String>,
    /// Instances at once per region.
    #[serde(default = "default_max_instances")]
    pub max_instances: u32,
    /// vCPU at once per region.
    #[serde(default = "default_max_vcpu")]
    pub max_vcpu: f64,
}

/// One region of one vendor, with its own listener.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegionConfig {
    /// The cloud.
    pub vendor: Vendor,
    /// Region name, for example `ap-guangzhou`.
    pub region: String,
    /// Accounts that may call here, by name; the first is the one reported first.
    pub accounts: Vec<String>,
    /// Address of the vendor API; port 0 takes a free one.
    #[serde(default = "any_port")]
    pub listen: SocketAddr,
    /// The one VPC of the region.
    pub vpc_id: String,
    /// The one security group of the region.
    pub security_group_id: String,
    /// Zones, at least one.
    pub zones: Vec<ZoneConfig>,
}

/// One zone with one subnet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZoneConfig {
    /// Zone name, for example `ap-guangzhou-3`.
    pub zone: String,
    /// Subnet id (ECI: vSwitch id).
    pub subnet_id: String,
    /// Range the private addresses come from, `a.b.c.d/n` with n of 8 to 27.
    pub cidr: String,
    /// Free addresses at the start.
    #[serde(default = "default_free_ips")]
    pub free_ips: u32,
    /// Stock of every size without an own entry; absent: unlimited.
    #[serde(default)]
    pub stock_default: Option<u32>,
    /// Stock by size, keys like `2-4` or `8-32-T4x1`.
    #[serde(default)]
    pub stock: BTreeMap<String, u32>,
    /// Price of a vCPU hour.
    #[serde(default = "default_price_cpu")]
    pub price_vcpu_hour: f64,
    /// Price of a GiB hour.
    #[serde(default = "default_price_gib")]
    pub price_gib_hour: f64,
    /// Price of a GPU hour.
    #[serde(default = "default_price_gpu")]
    pub price_gpu_hour: f64,
    /// Spot price as a part of the full price, 0 to 1.
    #[serde(default = "default_spot_factor")]
    pub spot_factor: f64,
}

fn any_port() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}
fn default_max_instances() -> u32 {
    500
}
fn default_max_vcpu() -> f64 {
    2_000.0
}
fn default_free_ips() -> u32 {
    1_000
}
// The order of magnitude of both vendors' list prices in CNY.
fn default_price_cpu() -> f64 {
    0.12
}
fn default_price_gib() -> f64 {
    0.05
}
fn default_price_gpu() -> f64 {
    8.0
}
fn default_spot_factor() -> f64 {
    0.3
}

/// Why a scenario cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// Not TOML, an unknown key, or a value of the wrong type; the text names line and column.
    #[error(transparent)]
    Syntax(#[from] toml::de::Error),
    /// The parts do not fit together.
    #[error("scenario: {at}: {problem}")]
    Invalid {
        /// Where, for example `regions[1].zones[0].cidr`.
        at: String,
        /// What is wrong and what is allowed.
        problem: String,
    },
}

fn invalid(at: impl Into<String>, problem: impl Into<String>) -> ScenarioError {
    ScenarioError::Invalid { at: at.into(), problem: problem.into() }
}

impl Scenario {
    /// Reads and checks a scenario.
    ///
    /// # Errors
    /// [`ScenarioError`] naming the place and what is allowed there.
    pub fn from_toml(text: &str) -> Result<Self, ScenarioError> {
        let scenario: Self = toml::from_str(text)?;
        scenario.check()?;
        Ok(scenario)
    }

    /// Checks what types alone cannot.
    ///
    /// # Errors
    /// [`ScenarioError::Invalid`] with the first problem.
    pub fn check(&self) -> Result<(), ScenarioError> {
        if self.regions.is_empty() || self.regions.len() > REGIONS_MAX {
            return Err(invalid("regions", format!("1 to {REGIONS_MAX} are allowed")));
        }
        let mut keys = std::collections::BTreeSet::new();
        let mut names = std::collections::BTreeSet::new();
        for (i, account) in self.accounts.iter().enumerate() {
            if !names.insert(&account.name) {
                return Err(invalid(format!("accounts[{i}].name"), "is used twice"));
            }
            if account.key_id.is_empty() || account.key_secret.is_empty() {
                return Err(invalid(format!("accounts[{i}].key_id"), "key_id and key_secret may not be empty"));
            }
            if !keys.insert((account.vendor, &account.key_id)) {
                return Err(invalid(format!("accounts[{i}].key_id"), "is used twice for one vendor"));
            }
            if !account.max_vcpu.is_finite() || account.max_vcpu < 0.0 {
                return Err(invalid(format!("accounts[{i}].max_vcpu"), "must be 0 or more"));
            }
        }
        let mut seen = std::collections::BTreeSet::new();
        let mut subnets = std::collections::BTreeSet::new();
        for (i, region) in self.regions.iter().enumerate() {
            if !seen.insert((region.vendor, &region.region)) {
                return Err(invalid(format!("regions[{i}].region"), "appears twice for one vendor"));
            }
            self.check_region(i, region)?;
            for (z, zone) in region.zones.iter().enumerate() {
                if !subnets.insert(&zone.subnet_id) {
                    return Err(invalid(format!("regions[{i}].zones[{z}].subnet_id"), "is used twice"));
                }
            }
        }
        self.check_timing()
    }

    fn check_region(&self, i: usize, region: &RegionConfig) -> Result<(), ScenarioError> {
        let at = |field: &str| format!("regions[{i}].{field}");
        if region.accounts.is_empty() {
            return Err(invalid(at("accounts"), "at least one account is needed"));
        }
        for name in &region.accounts {
            let Some(account) = self.accounts.iter().find(|a| a.name == *name) else {
                return Err(invalid(at("accounts"), format!("no account is named {name:?}")));
            };
            if account.vendor != region.vendor {
                return Err(invalid(at("accounts"), format!("account {name:?} belongs to {}", account.vendor)));
            }
        }
        if region.zones.is_empty() || region.zones.len() > ZONES_MAX {
            return Err(invalid(at("zones"), format!("1 to {ZONES_MAX} are allowed")));
        }
        for (z, zone) in region.zones.iter().enumerate() {
            let at = |field: &str| format!("regions[{i}].zones[{z}].{field}");
            let Some((_, hosts)) = parse_cidr(&zone.cidr) else {
                return Err(invalid(at("cidr"), "must be IPv4 a.b.c.d/n with n of 8 to 27"));
            };
            if zone.free_ips > hosts {
                return Err(invalid(at("free_ips"), format!("{} holds at most {hosts}", zone.cidr)));
            }
            if let Some(key) = zone.stock.keys().find(|key| *key == "*" || !is_spec_key(key)) {
                return Err(invalid(at("stock"), format!("{key:?} is no size: vCPU-GiB[-GPUxCOUNT], for example 2-4")));
            }
            if !(0.0..=1.0).contains(&zone.spot_factor) {
                return Err(invalid(at("spot_factor"), "must be 0 to 1"));
            }
            for (field, price) in [
                ("price_vcpu_hour", zone.price_vcpu_hour),
                ("price_gib_hour", zone.price_gib_hour),
                ("price_gpu_hour", zone.price_gpu_hour),
            ] {
                if !price.is_finite() || price < 0.0 {
                    return Err(invalid(at(field), "must be 0 or more"));
                }
            }
        }
        Ok(())
    }

    fn check_timing(&self) -> Result<(), ScenarioError> {
        let t = &self.timing;
        for (field, value) in [
            ("placed_ms", t.placed_ms),
            ("running_ms", t.running_ms),
            ("jitter_ms", t.jitter_ms),
            ("image_pull_ms", t.image_pull_ms),
            ("place_retry_ms", t.place_retry_ms),
            ("restart_backoff_ms", t.restart_backoff_ms),
            ("restart_ms", t.restart_ms),
            ("update_ms", t.update_ms),
            ("terminate_ms", t.terminate_ms),
            ("spot_notice_ms", t.spot_notice_ms),
            ("image_cache_ms", t.image_cache_ms),
            ("log_interval_ms", t.log_interval_ms),
        ] {
            if !(0..=DURATION_MS_MAX).contains(&value) {
                return Err(invalid(format!("timing.{field}"), format!("must be 0 to {DURATION_MS_MAX}")));
            }
        }
        for (field, value) in
            [("list_lag_ms", self.rules.list_lag_ms), ("client_token_ttl_ms", self.rules.client_token_ttl_ms)]
        {
            if !(0..=DURATION_MS_MAX).contains(&value) {
                return Err(invalid(format!("rules.{field}"), format!("must be 0 to {DURATION_MS_MAX}")));
            }
        }
        Ok(())
    }

    /// The demo: two regions of each vendor, two or three zones each, fast, well stocked, prices that differ.
    #[must_use]
    pub fn demo(seed: u64) -> Self {
        let mut rng = crate::core::Rng::new(seed ^ 0x006D_6572_6964_6961);
        let account = |rng: &mut crate::core::Rng, name: &str, vendor, prefix: &str| AccountConfig {
            name: name.to_owned(),
            vendor,
            key_id: format!("{prefix}{}", rng.id_text(16)),
            key_secret: rng.id_text(32),
            security_token: None,
            max_instances: 20_000,
            max_vcpu: 50_000.0,
        };
        let accounts = vec![
            account(&mut rng, "tencent-demo", Vendor::TencentEksci, "AKIDsim"),
            account(&mut rng, "alibaba-demo", Vendor::AlibabaEci, "LTAIsim"),
        ];
        let regions = vec![
            demo_region(Vendor::TencentEksci, "ap-guangzhou", &["3", "4", "6"], 10, 0.120),
            demo_region(Vendor::TencentEksci, "ap-shanghai", &["2", "4"], 20, 0.130),
            demo_region(Vendor::AlibabaEci, "cn-hangzhou", &["h", "i", "j"], 30, 0.110),
            demo_region(Vendor::AlibabaEci, "cn-beijing", &["h", "l"], 40, 0.125),
        ];
        Self {
            seed,
            control_listen: any_port(),
            timing: Timing::default(),
            rules: Rules::default(),
            limits: Limits::default(),
            accounts,
            regions,
        }
    }
}

/// Longest duration a scenario may ask for: 30 days.
pub const DURATION_MS_MAX: i64 = 30 * 24 * 3_600_000;

fn demo_region(vendor: Vendor, region: &str, zones: &[&str], net: u8, price: f64) -> RegionConfig {
    let tag = region.rsplit('-').next().unwrap_or(region);
    let (account, subnet) = match vendor {
        Vendor::TencentEksci => ("tencent-demo", "subnet"),
        Vendor::AlibabaEci => ("alibaba-demo", "vsw"),
    };
    let zones = (0u8..)
        .zip(zones)
        .map(|(i, letter)| ZoneConfig {
            zone: format!("{region}-{letter}"),
            subnet_id: format!("{subnet}-{tag}{letter}"),
            cidr: format!("10.{}.0.0/16", net + i),
            free_ips: 20_000,
            stock_default: Some(5_000),
            stock: BTreeMap::new(),
            price_vcpu_hour: price + f64::from(i) * 0.004,
            price_gib_hour: default_price_gib(),
            price_gpu_hour: default_price_gpu(),
            spot_factor: default_spot_factor(),
        })
        .collect();
    RegionConfig {
        vendor,
        region: region.to_owned(),
        accounts: vec![account.to_owned()],
        listen: any_port(),
        vpc_id: format!("vpc-{tag}"),
        security_group_id: format!("sg-{tag}"),
        zones,
    }
}

/// Base address and number of usable hosts of `a.b.c.d/n`, n of 8 to 27. The first 16 addresses stay with the vendor.
pub(crate) fn parse_cidr(text: &str) -> Option<(u32, u32)> {
    let (base, bits) = text.split_once('/')?;
    let base: Ipv4Addr = base.parse().ok()?;
    let bits: u32 = bits.parse().ok()?;
    if !(8..=27).contains(&bits) {
        return None;
    }
    let size = 1u32 << (32 - bits);
    Some((u32::from(base) & !(size - 1), size - RESERVED_HOSTS - 1))
}

/// Addresses at the start of a subnet that no instance gets.
pub(crate) const RESERVED_HOSTS: u32 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn demo_is_valid_and_round_trips() {
        let demo = Scenario::demo(7);
        demo.check().unwrap();
        let text = toml::to_string(&demo).unwrap();
        assert_eq!(Scenario::from_toml(&text).unwrap(), demo);
        assert_ne!(Scenario::demo(8).accounts[0].key_secret, demo.accounts[0].key_secret);
    }

    #[test]
    fn the_readme_shows_a_scenario_that_works() {
        let readme = include_str!("../README.md");
        let example = readme.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        let scenario = Scenario::from_toml(example).unwrap();
        assert_eq!(scenario.timing, Timing::default(), "the README states the defaults");
        assert_eq!(scenario.rules, Rules::default(), "the README states the defaults");
    }

    #[test]
    fn mistakes_name_their_place() {
        let check = |edit: fn(&mut Scenario), want: &str| {
            let mut scenario = Scenario::demo(1);
            edit(&mut scenario);
            let got = scenario.check().unwrap_err().to_string();
            assert!(got.contains(want), "{got}");
        };
        check(|s| s.regions[1].zones[0].cidr = "10.0.0.0/31".into(), "regions[1].zones[0].cidr");
        check(|s| s.regions[0].accounts = vec!["nobody".into()], "no account is named \"nobody\"");
        check(|s| s.regions[0].accounts = vec!["alibaba-demo".into()], "belongs to alibaba-eci");
        check(|s| s.timing.placed_ms = -1, "timing.placed_ms");
        check(|s| s.regions[0].zones[0].free_ips = 1_000_000, "holds at most");
        let unknown = "sed = 1\naccounts = []\nregions = []\n";
        assert!(Scenario::from_toml(unknown).unwrap_err().to_string().contains("sed"));
    }
}
