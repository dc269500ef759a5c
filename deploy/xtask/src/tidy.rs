//! Invariants of the workspace that no compiler checks.
//!
//! - Dependencies point one way, and the pure crates are free of runtimes, networks, clocks and randomness.
//! - The simulators know none of our crates.
//! - Vendor words stay with the adapters, the simulators and the matching dialect; the environment is read only
//!   where a process starts.
//! - One version of the crates that must not come twice; only allowed licences.
//! - No file is longer than a reader's patience, no `FIXME`, no `TODO` without an issue.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};

use crate::metadata::Metadata;

/// Crates that read clocks, sockets or random numbers.
const IMPURE: [&str; 12] = [
    "tokio",
    "hyper",
    "mio",
    "socket2",
    "rand",
    "getrandom",
    "redb",
    "redis",
    "uuid",
    "rustls",
    "reqwest",
    "async-std",
];

/// Crates that name an impure one and use none of its impurity: the runtime of CEL's grammar compares a version as a
/// `Uuid` that it parses from a constant (`atn_deserializer.rs`), and makes none.
const KNOWN_PURE: [&str; 1] = ["antlr4rust"];

/// Our crates and which of ours each may be built with.
const MAY_USE: [(&str, &[&str]); 8] = [
    ("meridian-model", &[]),
    ("meridian-policies", &["meridian-model"]),
    ("meridian-ledger", &["meridian-model", "meridian-policies"]),
    ("meridian-adapters", &["meridian-model"]),
    ("meridian-cloudsim", &[]),
    (
        "meridian-gateway",
        &["meridian-model", "meridian-policies", "meridian-ledger", "meridian-adapters", "meridian-cloudsim"],
    ),
    (
        "meridian-loadtests",
        &[
            "meridian-model",
            "meridian-policies",
            "meridian-ledger",
            "meridian-adapters",
            "meridian-cloudsim",
            "meridian-gateway",
        ],
    ),
    ("xtask", &[]),
];

/// Crates of which a second version would be a second runtime, protocol stack or generator.
const SINGLE: [&str; 6] = ["tokio", "hyper", "http", "tower", "rustls", "redb"];

/// Licences that may be linked.
const LICENCES: [&str; 12] = [
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "0BSD",
    "BSL-1.0",
    "Unicode-3.0",
    "CC0-1.0",
    "Unlicense",
];

/// Words of one vendor, and the folders that may use them.
const VENDOR_WORDS: [&str; 6] = ["EksCi", "ContainerGroup", "EipInstanceId", "VSwitch", "X-TC-", "x-acs-"];
const VENDOR_PLACES: [&str; 4] =
    ["region-adapters/", "gateway/src/dialects/tencent", "gateway/src/dialects/alibaba", "deploy/xtask/"];

/// Files that may read the environment.
const ENVIRONMENT_PLACES: [&str; 6] = [
    "gateway/src/main.rs",
    "gateway/src/config",
    "gateway/src/cli/",
    "gateway/src/demo",
    "deploy/xtask/",
    "loadtests/",
];

/// Lines of one file, tests apart.
const LINES_MAX: usize = 1000;

/// Runs every check and reports all that fail.
pub fn run() -> anyhow::Result<()> {
    let metadata = Metadata::read()?;
    let mut faults = Vec::new();
    dependencies(&metadata, &mut faults);
    versions(&metadata, &mut faults);
    licences(&metadata, &mut faults);
    sources(&metadata.workspace_root, &mut faults)?;
    child_lint_files(&metadata.workspace_root, &mut faults)?;
    if faults.is_empty() {
        println!("tidy: {} packages, no fault", metadata.packages.len());
        return Ok(());
    }
    bail!("{} faults:\n  {}", faults.len(), faults.join("\n  "))
}

fn dependencies(metadata: &Metadata, faults: &mut Vec<String>) {
    let members: BTreeSet<&str> = metadata.members().map(|p| p.name.as_str()).collect();
    let listed: BTreeSet<&str> = MAY_USE.iter().map(|(name, _)| *name).collect();
    if members != listed {
        faults.push(format!("the workspace has {members:?}, tidy knows {listed:?}"));
    }
    for (name, allowed) in MAY_USE {
        let closure = metadata.closure(name);
        for other in closure.intersection(&members).filter(|o| !allowed.contains(o)) {
            faults.push(format!("{name} must not depend on {other}"));
        }
        if matches!(name, "meridian-model" | "meridian-policies") {
            let closure = metadata.closure_up_to(name, &KNOWN_PURE);
            for other in IMPURE.iter().filter(|i| closure.contains(**i)) {
                faults.push(format!("{name} must not depend on {other}: decisions are pure"));
            }
        }
        let ledger_inside = name == "meridian-ledger" || closure.contains("meridian-ledger");
        if closure.contains("redis") && !ledger_inside {
            faults.push(format!("{name} must not depend on redis: only the ledger knows it"));
        }
    }
}

fn versions(metadata: &Metadata, faults: &mut Vec<String>) {
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in &metadata.packages {
        versions.entry(&package.name).or_default().insert(&package.version);
    }
    for name in SINGLE {
        if let Some(several) = versions.get(name).filter(|v| v.len() > 1) {
            faults.push(format!("{name} comes in several versions: {several:?}"));
        }
    }
}

fn licences(metadata: &Metadata, faults: &mut Vec<String>) {
    for package in &metadata.packages {
        let expression = package.license.as_deref().unwrap_or("none");
        if !allowed(expression) {
            faults.push(format!("{} {} has the licence {expression}", package.name, package.version));
        }
    }
}

/// Whether an SPDX expression can be fulfilled with allowed licences; `/` is an old spelling of `OR`.
fn allowed(expression: &str) -> bool {
    let normal = expression.replace('/', " OR ").replace(['(', ')'], " ");
    normal.split(" OR ").any(|choice| choice.split(" AND ").all(|licence| LICENCES.contains(&licence.trim())))
        || normal.split(" AND ").all(|part| part.split(" OR ").any(|licence| LICENCES.contains(&licence.trim())))
}

fn sources(root: &Path, faults: &mut Vec<String>) -> anyhow::Result<()> {
    let mut files = Vec::new();
    for folder in ["gateway", "policies", "region-adapters", "loadtests", "deploy"] {
        walk(&root.join(folder), &mut files)?;
    }
    for path in files.iter().filter(|p| p.extension().is_some_and(|e| e == "rs")) {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let name = path.strip_prefix(root).unwrap_or(path).to_string_lossy().replace('\\', "/");
        source(&name, &text, faults);
    }
    Ok(())
}

fn source(name: &str, text: &str, faults: &mut Vec<String>) {
    let is_test = name.contains("/tests/") || name.ends_with("tests.rs");
    let own_rules = name.starts_with("deploy/xtask/");
    if !is_test && text.lines().count() > LINES_MAX {
        faults.push(format!("{name} has more than {LINES_MAX} lines"));
    }
    if own_rules {
        return;
    }
    let starts = |places: &[&str]| places.iter().any(|p| name.starts_with(p));
    for (number, line) in text.lines().enumerate().map(|(i, l)| (i + 1, l)) {
        if line.contains("FIXME") || (line.contains("TODO") && !line.contains("TODO(#")) {
            faults.push(format!("{name}:{number}: open work belongs into an issue"));
        }
        if let Some(word) =
            VENDOR_WORDS.iter().find(|w| line.contains(**w)).filter(|_| !starts(&VENDOR_PLACES) && !is_test)
        {
            faults.push(format!("{name}:{number}: {word} is a vendor's word"));
        }
        let reads_environment = line.contains("env::var") && !line.trim_start().starts_with("//");
        if reads_environment && !is_test && !starts(&ENVIRONMENT_PLACES) {
            faults.push(format!("{name}:{number}: the environment is read where a process starts"));
        }
    }
}

/// A crate's own `clippy.toml` replaces the root's: it must say everything the root says.
fn child_lint_files(root: &Path, faults: &mut Vec<String>) -> anyhow::Result<()> {
    let parent = fs::read_to_string(root.join("clippy.toml")).context("clippy.toml")?;
    let bans = |text: &str| -> BTreeSet<String> {
        text.lines()
            .map(|l| l.trim().trim_end_matches(',').to_owned())
            .filter(|l| l.contains("path = ") || l.contains(" = "))
            .collect()
    };
    for child in ["policies/clippy.toml", "gateway/model/clippy.toml"] {
        let Ok(text) = fs::read_to_string(root.join(child)) else {
            faults.push(format!("{child} is missing: the pure crates ban clocks and randomness themselves"));
            continue;
        };
        let child_bans = bans(&text);
        let paths = |set: &BTreeSet<String>| -> BTreeSet<String> {
            set.iter()
                .filter_map(|l| l.split('"').nth(1).filter(|_| l.contains("path = ")).map(str::to_owned))
                .collect()
        };
        let settings = |set: &BTreeSet<String>| -> BTreeSet<String> {
            set.iter().filter(|l| !l.contains("path = ")).cloned().collect()
        };
        let parent_bans = bans(&parent);
        for missing in paths(&parent_bans).difference(&paths(&child_bans)) {
            faults.push(format!("{child} lacks the ban of {missing}"));
        }
        for missing in
            settings(&parent_bans).difference(&settings(&child_bans)).filter(|l| !l.starts_with("disallowed"))
        {
            faults.push(format!("{child} lacks the setting {missing}"));
        }
    }
    Ok(())
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() && path.file_name().is_none_or(|n| n != "target") {
            walk(&path, files)?;
        } else if path.is_file() {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licence_expressions() {
        for good in [
            "MIT",
            "MIT OR Apache-2.0",
            "MIT/Apache-2.0",
            "Apache-2.0 AND MIT",
            "(MIT OR GPL-3.0) AND ISC",
            "GPL-2.0 OR MIT",
        ] {
            assert!(allowed(good), "{good}");
        }
        for bad in ["GPL-3.0", "MIT AND GPL-3.0", "none", "MPL-2.0"] {
            assert!(!allowed(bad), "{bad}");
        }
    }

    #[test]
    fn words_and_sizes_are_found() {
        let check = |name: &str, text: &str| {
            let mut faults = Vec::new();
            source(name, text, &mut faults);
            faults.len()
        };
        assert_eq!(check("gateway/src/x.rs", "let ContainerGroup = 1;\n// TODO later\nstd::env::var(\"X\")"), 3);
        assert_eq!(check("region-adapters/src/x.rs", "ContainerGroup"), 0);
        assert_eq!(check("policies/src/x.rs", &"\n".repeat(1001)), 1);
    }
}
