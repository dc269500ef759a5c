//! Where charges lie, and quota trees.
//!
//! The sums by project and place follow from the records, like the usage, and are checked at every start. A tree is
//! decoded once and kept as long as its bytes stay the same.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use meridian_model::{
    error::QuotaShortage,
    ids::{IdError, ProjectName, TenantId},
    operation::{Charge, OperationRecord},
    quota::QuotaTree,
    time::Time,
};
use meridian_policies::quota::{
    parts::{Pot, Pots, move_parts, parts},
    spend::{self, Moment, RATE_MAX, Spend, Spends},
    tree::{Tree, class_of},
};
use redb::ReadableTable;

use super::{
    amounts,
    tables::{Fault, Tables, damaged, decode, encode, pair_key},
};

/// Keys with their values.
type Rows = Vec<(Vec<u8>, Vec<u8>)>;

/// What a step changes of where charges lie (key, and what is there then; none is nothing), and of what is spent.
#[derive(Debug, Default)]
pub(super) struct Moves {
    pots: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    spends: Rows,
}

/// Trees by tenant, with the bytes each was made from.
pub(super) type Trees = Mutex<BTreeMap<TenantId, (Vec<u8>, Arc<Tree>)>>;

fn key(tenant: &TenantId, pot: &Pot) -> Vec<u8> {
    pair_key(tenant, &pot.to_string())
}

/// The tenant and the pot of a key.
pub(super) fn parse_key(key: &[u8]) -> Result<(TenantId, Pot), Fault> {
    let text = std::str::from_utf8(key).map_err(|e| damaged("pots", key, e.to_string()))?;
    let (tenant, pot) = text.split_once('\0').ok_or_else(|| damaged("pots", key, "the key has one part"))?;
    let tenant = TenantId::new(tenant).map_err(|e| damaged("pots", key, e.to_string()))?;
    Ok((tenant, pot.parse().map_err(|_| damaged("pots", key, "the key names no pot"))?))
}

/// All that lies anywhere for a tenant.
pub(super) fn read(table: &impl ReadableTable<&'static [u8], &'static [u8]>, tenant: &TenantId) -> Result<Pots, Fault> {
    let from = pair_key(tenant, "");
    let mut pots = Pots::new();
    for entry in table.range(from.as_slice()..)? {
        let (key, value) = entry?;
        if !key.value().starts_with(&from) {
            break;
        }
        pots.insert(parse_key(key.value())?.1, decode("pots", key.value(), value.value())?);
    }
    Ok(pots)
}

/// The stored tree; none is an empty one.
pub(super) fn read_tree(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    tenant: &TenantId,
) -> Result<QuotaTree, Fault> {
    match table.get(tenant.as_str())? {
        Some(bytes) => decode("trees", tenant.as_str().as_bytes(), bytes.value()),
        None => Ok(QuotaTree::default()),
    }
}

/// The tenant's tree, ready for checks.
fn tree(t: &Tables<'_>, tenant: &TenantId) -> Result<Option<Arc<Tree>>, Fault> {
    let Some(bytes) = t.trees.get(tenant.as_str())? else { return Ok(None) };
    let bytes = bytes.value();
    let mut made = t.made.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((from, tree)) = made.get(tenant)
        && from == bytes
    {
        return Ok(Some(Arc::clone(tree)));
    }
    let name = tenant.as_str().as_bytes();
    let config: QuotaTree = decode("trees", name, bytes)?;
    let tree = Tree::new(&config).map_err(|_| damaged("trees", name, "the tree is not valid"))?;
    let tree = Arc::new(tree);
    made.insert(tenant.clone(), (bytes.to_vec(), Arc::clone(&tree)));
    Ok(Some(tree))
}

/// What a step moves from where to where, if the tree holds it. With `over_quota` it need not.
pub(super) fn moves(
    t: &Tables<'_>,
    (old, next): (&OperationRecord, &OperationRecord),
    over_quota: bool,
) -> Result<Result<Moves, Box<QuotaShortage>>, Fault> {
    let tenant = &next.tenant;
    let (before, after) = (parts(old), parts(next));
    if before == after {
        return Ok(Ok(Moves::default()));
    }
    let mut moves = Moves::default();
    if let Some(tree) = tree(t, tenant)? {
        let mut held = read(&t.pots, tenant)?;
        if !over_quota && let Err(shortage) = tree.admit(&held, &before, &after, class_of(next)) {
            return Ok(Err(shortage));
        }
        if tree.has_budgets() {
            let (moment, lifetime) = (Moment::of(next.updated_at), next.spec.active_deadline_seconds);
            let spends = read_spends(&t.spends, tenant)?;
            let changes = (&before, &after);
            if !over_quota && let Err(shortage) = spend::affords(&tree, (&spends, &held), changes, (&moment, lifetime))
            {
                return Ok(Err(shortage));
            }
            move_parts(&mut held, &before, &after);
            if spend::rate_of(&held) > RATE_MAX {
                return Err(super::tables::invalid(next, "the tenant's usage would be larger than can be counted"));
            }
            let changed = spend::advanced(&spends, spend::repriced(&before, &after), &held, &moment);
            moves.spends = encode_spends(tenant, changed)?;
        }
    }
    let new = after.keys().filter(|pot| !before.contains_key(*pot));
    for pot in before.keys().chain(new) {
        let key = key(tenant, pot);
        let held = match t.pots.get(key.as_slice())? {
            Some(bytes) => decode("pots", &key, bytes.value())?,
            None => Charge::default(),
        };
        let part = |parts: &Pots| parts.get(pot).copied().unwrap_or_default();
        let kept = amounts::difference(&held, &part(&before))
            .ok_or_else(|| damaged("pots", &key, "less lies there than is to be released"))?;
        let sum = amounts::sum(&kept, &part(&after))
            .ok_or_else(|| super::tables::invalid(next, "the tenant's usage would be larger than can be counted"))?;
        let bytes = if sum == Charge::default() { None } else { Some(encode(&sum)?) };
        moves.pots.push((key, bytes));
    }
    Ok(Ok(moves))
}

/// Carries moves out.
pub(super) fn carry_out(t: &mut Tables<'_>, moves: Moves) -> Result<(), Fault> {
    for (key, bytes) in moves.spends {
        t.spends.insert(key.as_slice(), bytes.as_slice())?;
    }
    for (key, bytes) in moves.pots {
        match bytes {
            Some(bytes) => drop(t.pots.insert(key.as_slice(), bytes.as_slice())?),
            None => drop(t.pots.remove(key.as_slice())?),
        }
    }
    Ok(())
}

fn encode_spends(tenant: &TenantId, spends: Spends) -> Result<Rows, Fault> {
    let one = |(project, spend): (Option<ProjectName>, Spend)| {
        Ok((pair_key(tenant, project.as_ref().map_or("", ProjectName::as_str)), encode(&spend)?))
    };
    spends.into_iter().map(one).collect()
}

/// What each project of a tenant spends.
pub(super) fn read_spends(
    table: &impl ReadableTable<&'static [u8], &'static [u8]>,
    tenant: &TenantId,
) -> Result<Spends, Fault> {
    let from = pair_key(tenant, "");
    let mut spends = Spends::new();
    for entry in table.range(from.as_slice()..)? {
        let (key, value) = entry?;
        let Some(name) = key.value().strip_prefix(from.as_slice()) else { break };
        let name = std::str::from_utf8(name).map_err(|e| damaged("spends", key.value(), e.to_string()))?;
        let project = if name.is_empty() { None } else { Some(name.parse()) };
        let project = project.transpose().map_err(|e: IdError| damaged("spends", key.value(), e.to_string()))?;
        spends.insert(project, decode("spends", key.value(), value.value())?);
    }
    Ok(spends)
}

pub(super) fn set_tree(t: &mut Tables<'_>, tenant: &TenantId, tree: &QuotaTree, now: Time) -> Result<(), Fault> {
    let valid = crate::rules::valid_tree(tenant, tree).map_err(Fault::Command)?;
    let (pots, spends) = (read(&t.pots, tenant)?, read_spends(&t.spends, tenant)?);
    if valid.has_budgets() {
        let all = spend::all_projects(&spends, &pots);
        for (key, bytes) in encode_spends(tenant, spend::advanced(&spends, all, &pots, &Moment::of(now)))? {
            t.spends.insert(key.as_slice(), bytes.as_slice())?;
            t.dirty = true;
        }
    } else {
        for (key, _) in encode_spends(tenant, spends)? {
            t.spends.remove(key.as_slice())?;
            t.dirty = true;
        }
    }
    if read_tree(&t.trees, tenant)? == *tree {
        return Ok(());
    }
    let bytes = encode(tree)?;
    if tree.nodes.is_empty() {
        t.trees.remove(tenant.as_str())?;
    } else {
        t.trees.insert(tenant.as_str(), bytes.as_slice())?;
    }
    t.dirty = true;
    Ok(())
}

/// Compares what lies where with what the records say (`sums`), and writes that where they differ; tells the pots that
/// were wrong. A file of an older version has none, which is no fault.
pub(super) fn check(t: &mut Tables<'_>, sums: &BTreeMap<TenantId, Pots>) -> Result<Vec<String>, Fault> {
    let mut stored = BTreeMap::<TenantId, Pots>::new();
    for entry in t.pots.iter()? {
        let (key, value) = entry?;
        let (tenant, pot) = parse_key(key.value())?;
        stored.entry(tenant).or_default().insert(pot, decode("pots", key.value(), value.value())?);
    }
    let is_new = stored.is_empty();
    let mut wrong = Vec::new();
    let all: std::collections::BTreeSet<&TenantId> = stored.keys().chain(sums.keys()).collect();
    let none = Pots::new();
    for tenant in all {
        let have = stored.get(tenant).unwrap_or(&none);
        let want = sums.get(tenant).unwrap_or(&none);
        if have == want {
            continue;
        }
        t.dirty = true;
        for pot in have.keys() {
            t.pots.remove(key(tenant, pot).as_slice())?;
        }
        for (pot, charge) in want {
            t.pots.insert(key(tenant, pot).as_slice(), encode(charge)?.as_slice())?;
        }
        if !is_new {
            wrong.push(format!("what {tenant} uses by project and place was not the sum of its charges"));
        }
    }
    Ok(wrong)
}
