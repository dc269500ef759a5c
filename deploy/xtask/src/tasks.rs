//! The steps of `cargo xtask test` and the environments they need.

#![expect(clippy::disallowed_methods, reason = "a task tells how long its steps took")]

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, ensure};

use crate::{metadata::Metadata, proofs, tidy};

/// Where the SDKs' pinned versions stand.
const SDK_REQUIREMENTS: &str = "region-adapters/cloudsim/tests/sdk/requirements.txt";

/// Everything CI runs. The tests come last, so that their own summary closes the output.
pub fn test() -> anyhow::Result<()> {
    step("format", cargo(&["fmt", "--all", "--check"]))?;
    step("lints", cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]))?;
    println!("== tidy");
    tidy::run()?;
    println!("== vendor SDKs");
    sdk_venv()?;
    redis_server()?;
    let mut docs = cargo(&["doc", "--workspace", "--no-deps", "--locked", "--quiet"]);
    docs.env("RUSTDOCFLAGS", "-D warnings");
    step("docs", docs)?;
    step("doc tests", cargo(&["test", "--workspace", "--doc", "--locked", "--quiet"]))?;
    proofs::run()?;
    let mut nextest = cargo(&["nextest", "--version"]);
    nextest.stdout(Stdio::null()).stderr(Stdio::null());
    if nextest.status().is_ok_and(|s| s.success()) {
        last_step("tests", cargo(&["nextest", "run", "--workspace", "--locked"]))
    } else {
        println!("cargo-nextest is not installed; cargo's own runner is used");
        last_step("tests", cargo(&["test", "--workspace", "--lib", "--bins", "--tests", "--locked"]))
    }
}

/// A call of cargo.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.args(arguments);
    command
}

/// Runs one step; its output is the reader's.
///
/// # Errors
/// It does not start, or fails.
pub fn step(name: &str, command: Command) -> anyhow::Result<()> {
    let began = Instant::now();
    last_step(name, command)?;
    println!("({} s)", began.elapsed().as_secs());
    Ok(())
}

/// The same without a word after it: a test runner's summary closes the output.
fn last_step(name: &str, mut command: Command) -> anyhow::Result<()> {
    println!("== {name}");
    let status = command.status().with_context(|| format!("{name} could not be started"))?;
    ensure!(status.success(), "{name} failed ({status})");
    Ok(())
}

/// The proofs alone.
pub fn proofs() -> anyhow::Result<()> {
    redis_server()?;
    proofs::run()
}

/// Makes the Python environment with the vendors' SDKs, unless it is there and of the same pinned versions.
pub fn sdk_venv() -> anyhow::Result<()> {
    let metadata = Metadata::read()?;
    let requirements = metadata.workspace_root.join(SDK_REQUIREMENTS);
    let wanted =
        fs::read_to_string(&requirements).with_context(|| format!("{} cannot be read", requirements.display()))?;
    let venv = metadata.target_directory.join("sdk-venv");
    let stamp = venv.join("requirements.txt");
    if fs::read_to_string(&stamp).is_ok_and(|have| have == wanted) {
        return Ok(());
    }
    if venv.exists() {
        fs::remove_dir_all(&venv).with_context(|| format!("{} cannot be replaced", venv.display()))?;
    }
    let mut make = Command::new("python3");
    make.args(["-m", "venv"]).arg(&venv);
    step("python3 -m venv (Debian: apt-get install python3-venv)", make)?;
    step("pip install", pip(&venv, &requirements))?;
    fs::write(&stamp, wanted).with_context(|| format!("{} cannot be written", stamp.display()))
}

/// Whether a command starts and says that it is well.
fn answers(program: &str, argument: &str) -> bool {
    let asked = Command::new(program).arg(argument).stdout(Stdio::null()).stderr(Stdio::null()).status();
    asked.is_ok_and(|s| s.success())
}

/// Installs `redis-server` if it is missing: the shared ledger is tested against the real one.
fn redis_server() -> anyhow::Result<()> {
    if answers("redis-server", "--version") {
        return Ok(());
    }
    let mut update = Command::new("apt-get");
    update.args(["update", "--quiet"]);
    step("apt-get update (elsewhere than on Debian: install redis-server 6.2 or newer by hand)", update)?;
    let mut install = Command::new("apt-get");
    install.args(["install", "--quiet", "--yes", "--no-install-recommends", "redis-server"]);
    install.env("DEBIAN_FRONTEND", "noninteractive");
    step("apt-get install redis-server", install)
}

fn pip(venv: &Path, requirements: &Path) -> Command {
    let mut command = Command::new(venv.join("bin/python"));
    command.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]).arg(requirements);
    command
}
