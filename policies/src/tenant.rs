//! What a tenant may use and what it gets when it says nothing.
//!
//! Deliberately absent: quota limits (the ledger's), request rates ([`crate::rate`]) and rules over single
//! fields of a spec, which come as policies later.

use std::collections::{BTreeMap, BTreeSet};

use meridian_model::{
    ids::{AdapterName, BackendId, ProfileName, RegionId, TenantId},
    instance::Strategy,
};

/// Which values of a kind may be used.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Allow<T: Ord> {
    /// All of them.
    #[default]
    Any,
    /// Only these; none when empty.
    Only(BTreeSet<T>),
}

impl<T: Ord> Allow<T> {
    /// The listed values, or all when none is listed.
    pub fn all_when_empty(values: impl IntoIterator<Item = T>) -> Self {
        let set: BTreeSet<T> = values.into_iter().collect();
        if set.is_empty() { Self::Any } else { Self::Only(set) }
    }

    /// The listed values, or none when none is listed: for credentials.
    pub fn none_when_empty(values: impl IntoIterator<Item = T>) -> Self {
        Self::Only(values.into_iter().collect())
    }

    /// Whether this value may be used.
    #[must_use]
    pub fn allows(&self, value: &T) -> bool {
        match self {
            Self::Any => true,
            Self::Only(set) => set.contains(value),
        }
    }

    /// The listed values in order; empty when all are allowed.
    pub fn listed(&self) -> impl Iterator<Item = &T> {
        match self {
            Self::Any => None,
            Self::Only(set) => Some(set.iter()),
        }
        .into_iter()
        .flatten()
    }
}

/// The rules of one tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantRules {
    /// The tenant.
    pub tenant: TenantId,
    /// Regions it may use.
    pub regions: Allow<RegionId>,
    /// Adapters it may use.
    pub providers: Allow<AdapterName>,
    /// Network profiles it may name.
    pub network_profiles: Allow<ProfileName>,
    /// Image profiles it may name.
    pub image_profiles: Allow<ProfileName>,
    /// Secret profiles it may name. They stand for credentials: none, unless listed.
    pub secret_profiles: Allow<ProfileName>,
    /// Network profile of a spec that names none; an operator's word, not checked against the list.
    pub default_network_profile: Option<ProfileName>,
    /// Image profile of a spec that names none; as above.
    pub default_image_profile: Option<ProfileName>,
    /// Placement strategy of a spec that names none.
    pub default_strategy: Option<Strategy>,
    /// Priorities of backends for this tenant, before the backends' own; smaller is preferred.
    pub priorities: BTreeMap<BackendId, u32>,
    /// Most attempts of one create, whatever the spec says; 1 to 20.
    pub attempts_max: Option<u32>,
}

impl TenantRules {
    /// A tenant that may use every place and profile, but no secret.
    #[must_use]
    pub fn new(tenant: TenantId) -> Self {
        Self {
            tenant,
            regions: Allow::Any,
            providers: Allow::Any,
            network_profiles: Allow::Any,
            image_profiles: Allow::Any,
            secret_profiles: Allow::Only(BTreeSet::new()),
            default_network_profile: None,
            default_image_profile: None,
            default_strategy: None,
            priorities: BTreeMap::new(),
            attempts_max: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_list_means_all_for_places_and_none_for_credentials() {
        assert!(Allow::all_when_empty([]).allows(&1));
        assert!(!Allow::none_when_empty([]).allows(&1));
        let some = Allow::all_when_empty([2, 1]);
        assert!(some.allows(&1) && !some.allows(&3));
        assert_eq!(some.listed().copied().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(Allow::<u8>::Any.listed().count(), 0);
    }
}
