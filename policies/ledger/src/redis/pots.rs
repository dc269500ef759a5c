//! Where charges lie, and quota trees, as scripts read them; pure.

use meridian_model::{
    ids::{AdapterName, ProjectName, RegionId, TenantId},
    operation::Charge,
    quantity::{MemoryMib, MilliCpu, PricePerHour},
    quota::{Budget, BudgetMode, QuotaTree, Resource, Scope},
    time::Time,
};
use meridian_policies::quota::{
    parts::{Pots, model_word},
    spend::{self, Moment, Spend, Spends},
    tree::{Cell, Tree},
};
use redis::Value;

use super::{LeaseTime, record::damaged, values};
use crate::{LedgerError, rules};

/// In a row of a tree: any place, any GPU model. No name holds it.
const ANY: &str = "|";
/// In a row of a tree: none. Of a name: the root.
const NONE: &str = "-";

fn amounts(charge: &Charge) -> [u64; 7] {
    let Charge { instances, cpu, memory, gpu, public_ips, disk, cost } = *charge;
    [instances, cpu.0, memory.0, gpu, public_ips, disk.0, cost.0]
}

fn charge_of(row: &str) -> Option<Charge> {
    let all: Vec<u64> = row.split(' ').map(|word| word.parse().ok()).collect::<Option<_>>()?;
    let [instances, cpu, memory, gpu, public_ips, disk, cost] = <[u64; 7]>::try_from(all).ok()?;
    let (cpu, memory, disk, cost) = (MilliCpu(cpu), MemoryMib(memory), MemoryMib(disk), PricePerHour(cost));
    Some(Charge { instances, cpu, memory, gpu, public_ips, disk, cost })
}

/// One row for each pot, in order.
pub(super) fn rows(pots: &Pots) -> String {
    let row = |(pot, charge)| format!("{pot} {}", amounts(charge).map(|n| n.to_string()).join(" "));
    pots.iter().map(row).collect::<Vec<_>>().join("\n")
}

/// Pots from their rows.
pub(super) fn parsed(rows: &str) -> Option<Pots> {
    let row = |row: &str| {
        let (pot, charge) = row.split_once(' ')?;
        Some((pot.parse().ok()?, charge_of(charge)?))
    };
    rows.lines().map(row).collect()
}

/// Pots from the fields of their hash.
pub(super) fn pots_of(value: &Value) -> Option<Pots> {
    let texts = values::texts(value)?;
    let pairs = texts.chunks_exact(2).filter_map(|pair| if let [pot, row] = pair { Some((pot, row)) } else { None });
    pairs.filter(|(pot, _)| *pot != "#").map(|(pot, row)| Some((pot.parse().ok()?, charge_of(row)?))).collect()
}

/// The tree that is stored; none is an empty one.
pub(super) fn tree_of(value: &Value) -> Result<QuotaTree, LedgerError> {
    match values::bytes(value) {
        Some(json) => serde_json::from_slice(json).map_err(|e| damaged("tree", e.to_string())),
        None => Ok(QuotaTree::default()),
    }
}

/// A tree as it is stored, and as scripts read it; both empty for an empty one.
pub(super) fn tree_texts(tenant: &TenantId, config: &QuotaTree) -> Result<[String; 2], LedgerError> {
    let tree = rules::valid_tree(tenant, config)?;
    if config.nodes.is_empty() {
        return Ok([String::new(), String::new()]);
    }
    let json = serde_json::to_string(config).map_err(|e| damaged("tree", e.to_string()))?;
    Ok([json, plan(&tree)])
}

/// A moment as scripts read it, with the seconds that an instance may run; see `lua/pots.lua`, `moment_of`.
pub(super) fn moment_text(now: Time, lifetime: Option<u32>, clock: LeaseTime) -> String {
    let Moment { now, month, .. } = Moment::of(now);
    let starts: Vec<String> =
        (month.saturating_sub(2)..=month + 2).map(|month| spend::month_start(month).to_string()).collect();
    let lifetime = lifetime.map_or_else(|| NONE.to_owned(), |seconds| seconds.to_string());
    let is_believed = u8::from(clock == LeaseTime::Callers);
    format!("{now} {month} {} {lifetime} {is_believed}", starts.join(" "))
}

/// The moment that a script went by.
pub(super) fn moment_of(text: &str) -> Option<Moment> {
    let all: Vec<u64> = text.split(' ').map(|word| word.parse().ok()).collect::<Option<_>>()?;
    let [now, month, start, end, before] = <[u64; 5]>::try_from(all).ok()?;
    Some(Moment { now, month, start, end, before })
}

/// What is spent, from the fields of its hash.
pub(super) fn spends_of(value: &Value) -> Option<Spends> {
    let texts = values::texts(value)?;
    let pairs = texts.chunks_exact(2).filter_map(|pair| if let [name, row] = pair { Some((name, row)) } else { None });
    let one = |(name, row): (&String, &String)| {
        let all: Vec<u64> = row.split(' ').map(|word| word.parse().ok()).collect::<Option<_>>()?;
        let [month, spent, rest, since, rate, last] = <[u64; 6]>::try_from(all).ok()?;
        let project = if name == NONE { None } else { Some(name.parse().ok()?) };
        Some((project, Spend { month, spent, rest, since, rate, last }))
    };
    pairs.map(one).collect()
}

/// See `lua/pots.lua`, `parsed`.
fn plan(tree: &Tree) -> String {
    let names: Vec<&str> = tree.nodes().map(|(name, _)| name.map_or(NONE, ProjectName::as_str)).collect();
    let parents: Vec<String> = tree.nodes().map(|(_, parent)| (parent + 1).to_string()).collect();
    let mut rows = vec![names.join(" "), parents.join(" ")];
    for pool in tree.pools() {
        let resource = &pool.line.resource;
        let model = if let Resource::GpuModel(model) = resource { model_word(model) } else { ANY.to_owned() };
        let (provider, region) = match &pool.line.scope {
            Scope::Total => (ANY, ANY),
            Scope::Provider(name) => (AdapterName::as_str(name), ANY),
            Scope::Region(name) => (ANY, RegionId::as_str(name)),
        };
        let pooled = if pool.pooled { "1" } else { "0" };
        let mut words =
            vec![(resource.column() + 1).to_string(), model, provider.to_owned(), region.to_owned(), pooled.to_owned()];
        let optional = |amount: Option<i64>| amount.map_or_else(|| NONE.to_owned(), |n| n.to_string());
        for Cell { subtree, guaranteed, borrowing, limit, reserve, .. } in &pool.cells {
            words.extend([subtree.to_string(), guaranteed.to_string(), optional(*borrowing), optional(*limit)]);
            words.push(reserve.to_string());
        }
        rows.push(words.join(" "));
    }
    if tree.has_budgets() {
        let budget = |n| match tree.budget(n) {
            Some(Budget { hard: Some(hard), mode: BudgetMode::Committed, .. }) => format!("{hard} c"),
            Some(Budget { hard: Some(hard), mode: BudgetMode::Accrued, .. }) => format!("{hard} a"),
            Some(Budget { hard: None, .. }) | None => format!("{NONE} {NONE}"),
        };
        let budgets: Vec<String> = (0..names.len()).map(budget).collect();
        rows.push(format!("b {}", budgets.join(" ")));
    }
    rows.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_read_back() {
        let pot = "web|cloud-a|r1|T4".parse().unwrap();
        let charge = Charge { instances: 1, gpu: 2, cost: PricePerHour(5), ..Charge::default() };
        let pots: Pots = [(pot, charge), ("|||".parse().unwrap(), Charge { gpu: 9, ..charge })].into();
        let text = rows(&pots);
        assert_eq!(text, "||| 1 0 0 9 0 0 5\nweb|cloud-a|r1|T4 1 0 0 2 0 0 5");
        assert_eq!(parsed(&text), Some(pots));
        assert_eq!(parsed(""), Some(Pots::new()));
        assert_eq!(parsed("||| 1 2"), None);
    }

    #[test]
    fn a_tree_becomes_rows_of_numbers() {
        let tree: QuotaTree = serde_json::from_str(
            r#"{"nodes": [{"lines": {"instances": {"nominal": 3}}},
                {"name": "web", "lines": {"instances": {"nominal": 4, "lendingLimit": 1, "limit": 6}}},
                {"name": "api", "parent": "web", "lines": {"gpu:A 1@region:r1": {"limit": 2}}}]}"#,
        )
        .unwrap();
        let [_, plan] = tree_texts(&TenantId::new("acme").unwrap(), &tree).unwrap();
        let rows: Vec<&str> = plan.lines().collect();
        assert_eq!(
            rows,
            [
                "- web api",
                "1 1 2",
                "1 | | | 1 4 0 - - 0 4 3 - 6 0 0 0 - - 0",
                "4 A%201 | r1 0 0 0 - - 0 0 0 - - 0 0 0 - 2 0",
            ]
        );
    }
}
