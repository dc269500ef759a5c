//! `root` and `[[tenants.projects]]` of a tenant: how its quota is divided (ADR 0019).
//!
//! ```toml
//! [tenants.root]
//! limit = { cost = "40", "cpu@region:ap-guangzhou" = "200" }
//!
//! [[tenants.projects]]
//! name = "shop"
//! parent = "retail"
//! nominal = { cpu = "64", "gpu:T4" = 2 }
//! lendingLimit = { cpu = "32" }
//! budget = { hard = "5000", soft = "4000" }
//! reclaim = "lowerPriority"
//! priority = 10
//! ```

use std::collections::BTreeMap;

use meridian_model::{
    ids::ProjectName,
    quantity::PricePerHour,
    quota::{Budget, Line, LineQuota, QuotaNode, QuotaTree},
};
use meridian_policies::quota::tree::Tree;
use serde::Deserialize;

use super::reader::{Section, nearest};

/// The name of the tenant's own quota in paths: no project can be called so.
pub const ROOT_NAME: &str = "default";

/// Sets one amount of a line.
type Set = fn(&mut LineQuota, u64);

const AMOUNTS: [(&str, Set); 5] = [
    ("nominal", |quota, amount| quota.nominal = Some(amount)),
    ("borrowingLimit", |quota, amount| quota.borrowing_limit = Some(amount)),
    ("lendingLimit", |quota, amount| quota.lending_limit = Some(amount)),
    ("limit", |quota, amount| quota.limit = Some(amount)),
    ("failoverReserve", |quota, amount| quota.failover_reserve = Some(amount)),
];

/// An amount as people write it.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "an amount such as 8 or \"64\" or \"2Gi\"")]
enum Amount {
    Number(u64),
    Text(String),
}

/// Reads a tenant's tree; none is an empty one.
pub(super) fn read(s: &mut Section<'_, '_>) -> QuotaTree {
    let mut nodes = Vec::new();
    if let Some(mut root) = s.section("root") {
        nodes.push(QuotaNode { name: None, parent: None, ..node(&mut root) });
        root.finish();
    }
    for mut project in s.sections("projects") {
        let name: Option<ProjectName> = project.required("name", "\"shop\"");
        if name.as_ref().is_some_and(|name| name.as_str() == ROOT_NAME) {
            let what = format!("`{ROOT_NAME}` names the tenant's own quota");
            project.report.mistake(&project.at("name"), what, "choose another name");
        }
        let (parent, rest) = (project.value("parent"), node(&mut project));
        project.finish();
        if name.is_some() {
            nodes.push(QuotaNode { name, parent, ..rest });
        }
    }
    let tree = QuotaTree { nodes };
    for fault in Tree::new(&tree).err().unwrap_or_default() {
        s.report.mistake(&s.at("projects"), format!("{}: {}", fault.place, fault.fault), fault.mend);
    }
    tree
}

/// What the root and a project have in common.
fn node(s: &mut Section<'_, '_>) -> QuotaNode {
    QuotaNode {
        lines: lines(s),
        budget: budget(s),
        reclaim: s.value("reclaim"),
        priority: s.value("priority"),
        ..QuotaNode::default()
    }
}

/// What may be spent in a month.
fn budget(s: &mut Section<'_, '_>) -> Option<Budget> {
    let mut budget = s.section("budget")?;
    let mut amount = |key: &'static str| {
        let text = match budget.value::<Amount>(key)? {
            Amount::Number(number) => number.to_string(),
            Amount::Text(text) => text,
        };
        let parsed = text.parse::<PricePerHour>();
        if parsed.is_err() {
            budget.report.mistake(&budget.at(key), format!("{text:?} is no amount of money"), "write it like \"1500\"");
        }
        parsed.ok().map(|amount| amount.0)
    };
    let (hard, soft) = (amount("hard"), amount("soft"));
    let mode = budget.value("mode").unwrap_or_default();
    let unknown_price = budget.value("unknownPrice").unwrap_or_default();
    if hard.zip(soft).is_some_and(|(hard, soft)| soft > hard) {
        budget.report.mistake(&budget.at("soft"), "above the hard budget, so that it never warns", "lower it");
    }
    budget.finish();
    Some(Budget { hard, soft, mode, unknown_price })
}

fn lines(s: &mut Section<'_, '_>) -> BTreeMap<Line, LineQuota> {
    let mut lines = BTreeMap::<Line, LineQuota>::new();
    for (key, set) in AMOUNTS {
        let Some(amounts) = s.value::<BTreeMap<String, Amount>>(key) else { continue };
        for (text, amount) in amounts {
            let at = format!("{}.{text}", s.at(key));
            let amount = match amount {
                Amount::Number(number) => number.to_string(),
                Amount::Text(text) => text,
            };
            match text.parse::<Line>().map(|line| (line.resource.parse(&amount), line)) {
                Ok((Ok(amount), line)) => set(lines.entry(line).or_default(), amount),
                Ok((Err(error), _)) => s.report.mistake(&at, error.to_string(), "give an amount of the resource"),
                Err(error) => s.report.mistake(&at, error.to_string(), "name a resource, and a place where it counts"),
            }
        }
    }
    lines
}
/// How to mend the name of a project that a tree does not have; `None` when it has it.
pub(crate) fn missing_project(tree: &QuotaTree, project: &ProjectName) -> Option<String> {
    let known: Vec<&str> = tree.nodes.iter().filter_map(|node| node.name.as_ref()).map(ProjectName::as_str).collect();
    if known.contains(&project.as_str()) {
        return None;
    }
    Some(match nearest(project.as_str(), known.iter().copied()) {
        Some(near) => format!("did you mean {near}?"),
        None if known.is_empty() => "leave it out: the tenant is not divided into projects".to_owned(),
        None => format!("known projects: {}", known.join(", ")),
    })
}
