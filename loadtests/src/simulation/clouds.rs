//! The clouds of a history: cloudsim's own core and vendor faces, two regions without client tokens and one with.

use std::{rc::Rc, sync::Arc};

use meridian_cloudsim::{
    Clock, Scenario, SimError, Simulator,
    core::{FaultInput, RegionKey, Vendor},
};

use super::{
    net::{CloudNet, Host},
    trace::Trace,
};

/// A region of the world and the host it is on.
#[derive(Debug, Clone, Copy)]
pub struct Region {
    /// Cloud.
    pub vendor: Vendor,
    /// Name, also of its host and backend.
    pub name: &'static str,
}

/// The regions of every history.
pub const REGIONS: [Region; 3] = [
    Region { vendor: Vendor::TencentEksci, name: "ap-guangzhou" },
    Region { vendor: Vendor::TencentEksci, name: "ap-shanghai" },
    Region { vendor: Vendor::AlibabaEci, name: "cn-hangzhou" },
];

/// How old a signature may be, seconds. The vendors' own windows are minutes; a history has only two of them.
pub const SIGNATURE_WINDOW_SECS: i64 = 5;
/// Longest time an effect comes after its request.
pub const LATE_EFFECT_MS_MAX: u64 = 3_000;
/// Longest time a new instance stays out of lists.
pub const LIST_LAG_MS_MAX: u64 = 2_000;

/// An instance that exists now.
#[derive(Debug, Clone, PartialEq)]
pub struct Live {
    /// Vendor id.
    pub id: String,
    /// Its name, which says whose it is.
    pub name: String,
    /// Region.
    pub region: String,
    /// May run or be billed: not one that will never be placed.
    pub alive: bool,
    /// Size as placed.
    pub cpu: f64,
    /// Size as placed.
    pub memory_gib: f64,
}

/// The clouds, running.
#[derive(Clone)]
pub struct Clouds {
    simulator: Rc<Simulator>,
    scenario: Rc<Scenario>,
}

impl Clouds {
    /// The clouds of a seed. Without `signatures`, any signature is young enough.
    ///
    /// # Errors
    /// The scenario does not fit together.
    pub fn new(seed: u64, signatures: bool, trace: &Arc<Trace>) -> Result<Self, SimError> {
        let mut scenario = Scenario::demo(seed);
        scenario.regions.retain(|r| REGIONS.iter().any(|known| known.name == r.region));
        scenario.limits.enabled = false;
        let window = if signatures { SIGNATURE_WINDOW_SECS } else { 24 * 3600 };
        scenario.rules.tencent_clock_window_secs = window;
        scenario.rules.alibaba_clock_window_secs = window;
        let clock = Arc::clone(trace);
        let simulator = Simulator::detached(&scenario, Clock::from_fn(move || clock.now_ms()))?;
        Ok(Self { simulator: Rc::new(simulator), scenario: Rc::new(scenario) })
    }

    /// What the clouds consist of.
    #[must_use]
    pub fn scenario(&self) -> &Scenario {
        &self.scenario
    }

    /// Serves a region on the host this is called on.
    ///
    /// # Errors
    /// The host has no free port.
    pub async fn serve(&self, region: Region, host: Host) -> std::io::Result<()> {
        let key = RegionKey::new(region.vendor, region.name);
        // Every region keeps the time of all: one of them may be crashed.
        tokio::select! {
            biased;
            served = self.simulator.serve(key, CloudNet(host)) => served,
            () = self.simulator.keep_time() => Ok(()),
        }
    }

    /// Sets a fault; one that does not fit the scenario is a mistake of the plan.
    ///
    /// # Errors
    /// The field at fault.
    pub fn fault(&self, input: FaultInput) -> Result<(), String> {
        self.simulator.with(|world, now_ms| world.add_fault(input, now_ms)).map(|_| ()).map_err(|e| e.to_string())
    }

    /// Ends every fault.
    pub fn calm(&self) {
        self.simulator.with(|world, _| world.clear_faults());
    }

    /// How many instances were ever made.
    #[must_use]
    pub fn made(&self) -> usize {
        self.simulator.with(|world, now_ms| world.ledger(now_ms).len())
    }

    /// Every instance that exists now, in order of creation.
    #[must_use]
    pub fn existing(&self) -> Vec<Live> {
        self.simulator.with(|world, now_ms| {
            let exist = world.ledger(now_ms).into_iter().filter(|i| i.exists());
            exist
                .map(|i| Live {
                    id: i.id.clone(),
                    name: i.spec.name.clone(),
                    region: i.scope.region.clone(),
                    alive: i.alive(),
                    cpu: i.cpu,
                    memory_gib: i.memory_gib,
                })
                .collect()
        })
    }
}
