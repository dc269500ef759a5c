//! The scripts. Each is one atomic step on one slot: it checks everything before it writes anything.

use super::Script;

/// Compares the data with what the caller saw of it; the first part of whatever works on a tenant.
pub(super) const LACKS: &str = include_str!("lua/lacks.lua");
const PRELUDE: &str = include_str!("lua/prelude.lua");

macro_rules! scripts {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Scripts on one tenant, behind the incarnation guard.
        #[derive(Debug)]
        pub(super) struct Scripts {
            $($(#[$doc])* pub(super) $name: Script,)*
            /// On the leases of owners; loses nothing, needs no guard.
            pub(super) leases: Script,
            /// On the list of tenants.
            pub(super) tenants: Script,
            /// Makes a tenant's `meta`.
            pub(super) join: Script,
        }

        impl Scripts {
            pub(super) fn new() -> Self {
                Self {
                    $($name: Script::new(&[LACKS, PRELUDE, include_str!(concat!("lua/", stringify!($name), ".lua"))]),)*
                    leases: Script::new(&[include_str!("lua/leases.lua")]),
                    tenants: Script::new(&[include_str!("lua/tenants.lua")]),
                    join: Script::new(&[include_str!("lua/join.lua")]),
                }
            }
        }
    };
}

scripts! {
    claim, step, remove, fence, take,
    read, name, usage, limits, page, feed, owners, open,
    aged, bury, forget,
}
