//! What a benchmark does: read from TOML, defaults as in `scenarios/first.toml`.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use meridian_model::quantity::Span;
use serde::Deserialize;

use crate::{arrivals::Process, generator::CONNECTIONS_MAX};

/// Most instances: above it the clouds' address ranges end.
const INSTANCES_MAX: u32 = 100_000;

/// A benchmark.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Scenario {
    /// Fixes arrivals and keys.
    pub seed: u64,
    /// Scenario of the simulated clouds, relative to this file.
    pub clouds: PathBuf,
    /// Instances made before anything is measured.
    pub instances: u32,
    /// Turns of the servers.
    pub slices: Slices,
    /// Reads of one instance.
    pub get_one: Reads,
    /// Reads of one page.
    pub page: Page,
    /// Reads of all pages.
    pub walk: Walk,
    /// Creates.
    pub create: Creates,
}

/// Turns.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Slices {
    /// Measured time of one turn.
    pub length: Span,
    /// Load before each turn that is not measured.
    pub warm_up: Span,
}

/// Reads of one instance.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Reads {
    /// Requests a second.
    pub rate: f64,
    /// How their gaps are drawn.
    pub arrivals: Process,
    /// Connections of the open loop.
    pub connections: usize,
    /// Connections of the closed loop.
    pub saturate_connections: usize,
}

/// Reads of one page.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Page {
    /// Instances of a page.
    pub size: u32,
    /// Pages a second.
    pub rate: f64,
    /// How their gaps are drawn.
    pub arrivals: Process,
    /// Connections of the open loop.
    pub connections: usize,
    /// Connections of the closed loop.
    pub saturate_connections: usize,
}

/// Reads of all pages.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Walk {
    /// How many times.
    pub walks: u32,
}

/// Creates.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Creates {
    /// Pairs of one create through the gateway and one straight to the cloud, per cloud.
    pub pairs: u32,
    /// Creates a second of the open loop.
    pub rate: f64,
    /// How their gaps are drawn.
    pub arrivals: Process,
    /// Connections of the open loop.
    pub connections: usize,
    /// Creates under way while the instances are made.
    pub populate_connections: usize,
}

impl Scenario {
    /// Reads and checks a file; the path of the clouds becomes usable as it is.
    ///
    /// # Errors
    /// The file cannot be read, has an unknown or ill-typed key (with its line), or a value out of bounds.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut scenario = Self::parse(&text).with_context(|| path.display().to_string())?;
        scenario.clouds = path.parent().unwrap_or(Path::new("")).join(&scenario.clouds);
        Ok(scenario)
    }

    /// Parses and checks a text.
    ///
    /// # Errors
    /// As [`Scenario::load`].
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let scenario: Self = toml::from_str(text)?;
        let s = &scenario;
        ensure!((1..=INSTANCES_MAX).contains(&s.instances), "instances: 1 to {INSTANCES_MAX}");
        for (name, n) in [
            ("getOne.connections", s.get_one.connections),
            ("getOne.saturateConnections", s.get_one.saturate_connections),
            ("page.connections", s.page.connections),
            ("page.saturateConnections", s.page.saturate_connections),
            ("create.connections", s.create.connections),
            ("create.populateConnections", s.create.populate_connections),
        ] {
            ensure!((1..=CONNECTIONS_MAX).contains(&n), "{name}: 1 to {CONNECTIONS_MAX}");
        }
        for (name, rate) in
            [("getOne.rate", s.get_one.rate), ("page.rate", s.page.rate), ("create.rate", s.create.rate)]
        {
            ensure!(rate.is_finite() && rate > 0.0, "{name}: greater than 0");
        }
        ensure!((1..=1000).contains(&s.page.size), "page.size: 1 to 1000, what the API gives at most");
        ensure!(s.slices.length.0 >= Duration::from_millis(100), "slices.length: at least 100ms");
        Ok(scenario)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = include_str!("../scenarios/first.toml");

    #[test]
    fn the_committed_scenarios_are_valid() {
        let scenario = Scenario::parse(FIRST).unwrap();
        assert_eq!(scenario.instances, 10_000);
        meridian_cloudsim::Scenario::from_toml(include_str!("../scenarios/clouds.toml")).unwrap();
    }

    #[test]
    fn mistakes_are_named() {
        let check = |from: &str, to: &str, want: &str| {
            assert!(FIRST.contains(from), "{from}");
            let error = format!("{:#}", Scenario::parse(&FIRST.replace(from, to)).unwrap_err());
            assert!(error.contains(want), "{error}");
        };
        check("instances = 10000", "instances = 0", "instances");
        check("rate = 2000", "rate = 0", "getOne.rate");
        check("size = 500", "size = 5000", "page.size");
        check("seed = 1", "sed = 1", "sed");
        check("populateConnections = 32", "populateConnections = 3200", "create.populateConnections");
    }
}
