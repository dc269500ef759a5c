//! Wire-true simulated clouds: Tencent EKSCI and Alibaba ECI on real sockets.
//!
//! Written from the vendors' documents and depending on none of Meridian's other crates, so that a mistake made in an
//! adapter cannot be made here again and hide it. [`core`] is the deterministic world; the faces speak the vendors'
//! protocols; a control API sets faults and serves the truth ledger. See `README.md` for scenarios and control calls.

mod clock;
mod control;
pub mod core;
mod eci;
mod http;
mod persist;
mod rate;
mod rim;
mod scenario;
mod sim;
mod tencent;

pub use clock::Clock;
pub use http::Net;
pub use persist::StateError;
pub use scenario::{
    AccountConfig, DURATION_MS_MAX, Limits, NoStock, REGIONS_MAX, RegionConfig, Rules, Scenario, ScenarioError, Timing,
    ZONES_MAX, ZoneConfig,
};
pub use sim::{BackendInfo, CloudsimInfo, SimError, Simulator, ZoneInfo};
