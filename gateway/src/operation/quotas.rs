//! A tenant's quota tree as it is told: what each node has, uses, borrows and lends.

use meridian_ledger::Books;
use meridian_model::{
    ids::{ProjectName, TenantId},
    operation::QuotaLimits,
    quota::LineQuota,
};
use meridian_policies::quota::{
    parts,
    tree::{Pool, Stand, Tree},
};

use crate::{config::quota::ROOT_NAME, views};

/// All nodes of a tenant, the tenant itself first.
#[must_use]
pub fn nodes(tenant: &TenantId, books: &Books) -> Vec<views::Quota> {
    // A tree that this version cannot read limits nothing that it could tell of.
    let tree = Tree::new(&books.tree).unwrap_or_default();
    let stands: Vec<(&Pool, Vec<Stand>)> =
        tree.pools().iter().map(|pool| (pool, tree.stands(pool, &books.pots))).collect();
    let names: Vec<Option<ProjectName>> = tree.nodes().map(|(name, _)| name.cloned()).collect();
    let mut nodes: Vec<views::Quota> = tree
        .nodes()
        .enumerate()
        .map(|(n, (name, parent))| {
            let used = books.pots.iter().filter(|(pot, _)| below(&tree, &names, n, pot.project.as_ref()));
            views::Quota {
                name: format!("tenants/{tenant}/quotas/{}", name.map_or(ROOT_NAME, ProjectName::as_str)),
                parent: names.get(parent).filter(|_| n > 0).map(|parent| {
                    let parent = parent.as_ref().map_or(ROOT_NAME, ProjectName::as_str);
                    format!("tenants/{tenant}/quotas/{parent}")
                }),
                limits: if n == 0 { books.usage.limits } else { QuotaLimits::default() },
                used: Some(parts::total(used.map(|(_, charge)| charge))),
                lines: stands.iter().filter_map(|(pool, stands)| line(books, name, pool, stands.get(n)?)).collect(),
            }
        })
        .collect();
    if nodes.is_empty() {
        nodes.push(views::Quota {
            name: format!("tenants/{tenant}/quotas/{ROOT_NAME}"),
            parent: None,
            limits: books.usage.limits,
            used: None,
            lines: Vec::new(),
        });
    }
    if let Some(root) = nodes.first_mut() {
        root.used = Some(books.usage.used);
    }
    nodes
}

/// Whether a project is the node `n` or below it. One that is no node counts on the root.
fn below(tree: &Tree, names: &[Option<ProjectName>], n: usize, project: Option<&ProjectName>) -> bool {
    let parents: Vec<usize> = tree.nodes().map(|(_, parent)| parent).collect();
    let mut at = names.iter().position(|name| name.as_ref() == project).unwrap_or_default();
    for _ in 0..names.len() {
        if at == n {
            return true;
        }
        at = parents.get(at).copied().unwrap_or_default();
    }
    false
}

/// One line of a node; none where the node neither has nor uses any of it.
fn line(books: &Books, name: Option<&ProjectName>, pool: &Pool, stand: &Stand) -> Option<views::QuotaLine> {
    let node = books.tree.nodes.iter().find(|node| node.name.as_ref() == name);
    let quota = node.and_then(|node| node.lines.get(&pool.line)).copied().unwrap_or_default();
    if quota == LineQuota::default() && stand.used == 0 && !pool.pooled {
        return None;
    }
    let text = |amount: u64| pool.line.resource.text(amount);
    Some(views::QuotaLine {
        line: pool.line.to_string(),
        nominal: quota.nominal.map(text),
        borrowing_limit: quota.borrowing_limit.map(text),
        lending_limit: quota.lending_limit.map(text),
        limit: quota.limit.map(text),
        failover_reserve: quota.failover_reserve.map(text),
        own: text(stand.own),
        used: text(stand.used),
        borrowed: text(stand.borrowed),
        lent: text(stand.lent),
        available: stand.available.map(text),
    })
}
