//! What `cargo metadata` says of the workspace and its dependencies.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    process::Command,
};

use anyhow::{Context, ensure};
use serde::Deserialize;

/// The workspace and everything it depends on.
#[derive(Debug, Deserialize)]
pub struct Metadata {
    /// All packages.
    pub packages: Vec<Package>,
    /// Edges between them.
    pub resolve: Resolve,
    /// Identifiers of our own packages.
    pub workspace_members: Vec<String>,
    /// Where the workspace is.
    pub workspace_root: PathBuf,
    /// Where builds go.
    pub target_directory: PathBuf,
}

/// One package.
#[derive(Debug, Deserialize)]
pub struct Package {
    /// Identifier.
    pub id: String,
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// SPDX expression.
    pub license: Option<String>,
}

/// The dependency graph.
#[derive(Debug, Deserialize)]
pub struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dep>,
}

#[derive(Debug, Deserialize)]
struct Dep {
    pkg: String,
    dep_kinds: Vec<DepKind>,
}

#[derive(Debug, Deserialize)]
struct DepKind {
    kind: Option<String>,
}

impl Metadata {
    /// Asks cargo.
    pub fn read() -> anyhow::Result<Self> {
        let output = Command::new(env!("CARGO"))
            .args(["metadata", "--format-version", "1"])
            .output()
            .context("cargo metadata")?;
        ensure!(output.status.success(), "cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).context("cargo metadata printed something unexpected")
    }

    /// Our own packages.
    pub fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|p| self.workspace_members.contains(&p.id))
    }

    /// Names of everything a package is built with, directly or not, tests and build scripts apart.
    pub fn closure(&self, name: &str) -> BTreeSet<&str> {
        self.closure_up_to(name, &[])
    }

    /// The same without what only the crates of these names bring in.
    pub fn closure_up_to(&self, name: &str, ends: &[&str]) -> BTreeSet<&str> {
        let nodes: BTreeMap<&str, &Node> = self.resolve.nodes.iter().map(|n| (n.id.as_str(), n)).collect();
        let names: BTreeMap<&str, &str> = self.packages.iter().map(|p| (p.id.as_str(), p.name.as_str())).collect();
        let mut open: Vec<&str> = self.packages.iter().filter(|p| p.name == name).map(|p| p.id.as_str()).collect();
        let mut seen = BTreeSet::new();
        while let Some(id) = open.pop() {
            let Some(node) = nodes.get(id).filter(|_| names.get(id).is_none_or(|n| !ends.contains(n))) else {
                continue;
            };
            for dep in node.deps.iter().filter(|d| d.dep_kinds.iter().any(|k| k.kind.is_none())) {
                if seen.insert(dep.pkg.as_str()) {
                    open.push(&dep.pkg);
                }
            }
        }
        seen.into_iter().filter_map(|id| names.get(id).copied()).collect()
    }
}
