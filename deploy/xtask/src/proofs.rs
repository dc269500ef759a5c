//! The short version of what proves "exactly once": the simulation, its planted bugs, and the chaos, from one optimised
//! build. One after the other, because each counts on the machine; about eight minutes on two quiet cores.

use std::{path::Path, process::Command};

use crate::{
    metadata::Metadata,
    tasks::{cargo, step},
};

/// What is run, in order: the name of the step and the arguments of `meridian-loadtests`. The long versions are in
/// `loadtests/README.md`.
const PROOFS: [(&str, &[&str]); 11] = [
    ("100 simulated histories", &["simulate", "--seeds", "1..100"]),
    ("planted bugs", &["simulate", "--mutants"]),
    ("chaos", &["chaos", "--rounds", "12", "--jobs", "2", "--max-time", "5m"]),
    (
        "chaos that must double",
        &["chaos", "--embedded", "--rounds", "3", "--jobs", "2", "--dishonest", "--max-time", "3m"],
    ),
    ("one key at two gateways", &["chaos", "keys", "--keys", "100", "--per-second", "10", "--max-time", "2m"]),
    ("one quota at two gateways", &["chaos", "quota", "--limit", "20", "--max-time", "3m"]),
    ("a failover that loses writes", &["chaos", "failover", "--creates", "12", "--max-time", "3m"]),
    ("an outage of Redis", &["chaos", "outage", "--seconds", "8", "--max-time", "3m"]),
    ("a vendor's budget among 100 tenants", &["budget", "--span", "30s", "--tenants", "100", "--creates", "100"]),
    // What it takes for a difference is a false alarm in a million runs, not in a thousand.
    ("foreign and missing answers take as long", &["timing", "--pairs", "500", "--p-min", "0.000001"]),
    ("creates beside the bare script calls", &["redis", "--turns", "2", "--creates", "200", "--ratio-min", "0.1"]),
];

/// Builds the load tests with bugs to plant, and the gateway, and runs every proof.
///
/// # Errors
/// A build or a proof failed.
pub fn run() -> anyhow::Result<()> {
    // One build of both: the gateway's program has no way to plant a bug.
    let features = ["--features", "meridian-loadtests/mutants"];
    let build = ["build", "--profile", "proofs", "--locked", "-p", "meridian-loadtests", "-p", "meridian-gateway"];
    step("build for the proofs", cargo(&[&build[..], &features[..]].concat()))?;
    let program = Metadata::read()?.target_directory.join("proofs/meridian-loadtests");
    for (name, arguments) in PROOFS {
        prove(name, &program, arguments)?;
    }
    Ok(())
}

fn prove(name: &str, program: &Path, arguments: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new(program);
    command.args(arguments);
    step(&format!("{name}: meridian-loadtests {}", arguments.join(" ")), command)
}
