//! Wire-true simulated clouds: Tencent EKSCI and Alibaba ECI.

pub mod core;
mod scenario;

pub use scenario::{
    AccountConfig, DURATION_MS_MAX, Limits, NoStock, REGIONS_MAX, RegionConfig, Rules, Scenario, ScenarioError, Timing,
    ZONES_MAX, ZoneConfig,
};
