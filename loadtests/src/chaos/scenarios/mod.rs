//! Scenarios that ask one question each: numbers, and what was wrong.

pub mod failover;
pub mod keys;
pub mod outage;
pub mod quota;

use std::{fmt::Write as _, path::PathBuf};

use anyhow::ensure;

use super::{
    config::Settings,
    verdict::Verdict,
    world::{Shape, World},
};

/// What a scenario found.
#[derive(Debug, Default)]
pub struct Findings {
    rows: Vec<(String, String)>,
    faults: Vec<String>,
}

impl Findings {
    /// A number for the table.
    pub fn row(&mut self, name: &str, value: impl ToString) {
        self.rows.push((name.to_owned(), value.to_string()));
    }

    /// Something must hold.
    pub fn must(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.faults.push(otherwise());
        }
    }

    /// The numbers and the broken promises of a verdict.
    pub fn verdict(&mut self, verdict: &Verdict) {
        self.row("creates tried", verdict.tried);
        self.row("acknowledged", verdict.acknowledged);
        self.row("instances made", verdict.instances);
        self.row("most at one time", verdict.peak);
        self.row("broken promises", verdict.violations.len());
        self.faults.extend(verdict.violations.iter().map(|v| format!("{}: {}", v.kind, v.text)));
    }

    /// The table, and what was wrong.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::from("| | |\n| --- | ---: |\n");
        for (name, value) in &self.rows {
            let _ = writeln!(out, "| {name} | {value} |");
        }
        for fault in &self.faults {
            let _ = writeln!(out, "\nWRONG: {fault}");
        }
        out
    }

    /// Whether all was as it must be.
    ///
    /// # Errors
    /// Something was not.
    pub fn check(&self) -> anyhow::Result<()> {
        ensure!(self.faults.is_empty(), "{} things are not as they must be", self.faults.len());
        Ok(())
    }
}

/// What every scenario is told.
#[derive(Debug, Clone)]
pub struct Common {
    /// The `meridian` binary.
    pub meridian: PathBuf,
    /// Seed.
    pub seed: u64,
    /// Two gateways on a Redis; else one with a ledger of its own.
    pub redis: bool,
}

impl Common {
    fn shape(&self, settings: Settings) -> Shape {
        let (meridian, seed, redis) = (self.meridian.clone(), self.seed, self.redis);
        Shape { meridian, gateways: super::plan::GATEWAYS, redis, replica: false, direct: false, seed, settings }
    }
}

/// Ends a world; of one in which something was wrong the folder is kept and named.
async fn close(world: World, findings: &mut Findings) {
    if findings.faults.is_empty() {
        world.stop().await;
    } else {
        let folder = world.keep().await;
        findings.faults.push(format!("logs and data are in {}", folder.display()));
    }
}
