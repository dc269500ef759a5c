//! Lists over all tenants, for callers of the platform: the tenants' own lists one after the other, as one.

use std::collections::BTreeSet;

use meridian_model::ids::TenantId;

use super::PageRequest;
use crate::core::Core;

/// One page over several tenants.
#[derive(Debug)]
pub(super) struct Across<T> {
    pub(super) items: Vec<T>,
    /// `tenant/item` of the last item when there is more.
    pub(super) next_after: Option<String>,
}

/// Every tenant there is, and those that left instances behind.
pub(super) fn everyone(core: &Core) -> BTreeSet<TenantId> {
    let mut all = core.fleet.tenants();
    all.extend(core.directory.load().tenants().map(|(name, _)| name.clone()));
    all
}

/// Takes one page out of the tenants' lists. `of` answers at most as many items as it is asked for, each with its place
/// in its tenant's order.
pub(super) fn page<T>(
    tenants: &BTreeSet<TenantId>,
    wish: &PageRequest,
    mut of: impl FnMut(&TenantId, PageRequest) -> Vec<(String, T)>,
) -> Across<T> {
    let (from, after) = match wish.after.as_deref().and_then(|after| after.split_once('/')) {
        Some((tenant, item)) => (Some(tenant), Some(item)),
        None => (None, None),
    };
    let mut found: Vec<(String, T)> = Vec::new();
    for tenant in tenants.iter().filter(|tenant| from.is_none_or(|from| tenant.as_str() >= from)) {
        // One more than fits says whether there is more.
        let size = wish.size + 1 - found.len();
        let after = after.filter(|_| from == Some(tenant.as_str())).map(str::to_owned);
        let items = of(tenant, PageRequest { size, after });
        found.extend(items.into_iter().map(|(place, item)| (format!("{tenant}/{place}"), item)));
        if found.len() > wish.size {
            break;
        }
    }
    let more = found.len() > wish.size;
    found.truncate(wish.size);
    let next_after = found.last().filter(|_| more).map(|(place, _)| place.clone());
    Across { items: found.into_iter().map(|(_, item)| item).collect(), next_after }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pages_put_together_are_all_the_lists_in_order(
            lists in proptest::collection::btree_map("[a-c]{1,3}", proptest::collection::btree_set("[a-z]{1,2}", 0..6), 0..6),
            size in 1_usize..5,
        ) {
            let tenants: BTreeSet<TenantId> = lists.keys().map(|name| name.parse().unwrap()).collect();
            let of = |tenant: &TenantId, wish: PageRequest| -> Vec<(String, String)> {
                let after = |item: &&String| wish.after.as_ref().is_none_or(|after| *item > after);
                let items = lists[tenant.as_str()].iter().filter(after).take(wish.size);
                items.map(|item| (item.clone(), format!("{tenant}:{item}"))).collect()
            };
            let (mut all, mut after) = (Vec::new(), None);
            loop {
                let one = page(&tenants, &PageRequest { size, after }, of);
                prop_assert!(one.items.len() <= size);
                prop_assert!(one.next_after.is_none() || one.items.len() == size);
                all.extend(one.items);
                after = one.next_after;
                if after.is_none() { break }
            }
            let expected: Vec<String> =
                lists.iter().flat_map(|(tenant, items)| items.iter().map(move |i| format!("{tenant}:{i}"))).collect();
            prop_assert_eq!(all, expected);
        }
    }
}
