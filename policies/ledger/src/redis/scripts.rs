//! The scripts. Each is one atomic step on one slot: it checks everything before it writes anything.

use super::Script;

/// Compares the data with what the caller saw of it; the first part of whatever works on a tenant.
pub(super) const LACKS: &str = include_str!("lua/lacks.lua");
const PRELUDE: &str = include_str!("lua/prelude.lua");
/// What lies where, for scripts that change or tell it.
pub(super) const POTS: &str = include_str!("lua/pots.lua");

macro_rules! scripts {
    ($($name:ident),* $(,)?; with pots: $($counting:ident),* $(,)?) => {
        /// Scripts on one tenant, behind the incarnation guard.
        #[derive(Debug)]
        pub(super) struct Scripts {
            $(pub(super) $name: Script,)*
            $(pub(super) $counting: Script,)*
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
                    $($counting: Script::new(&[
                        LACKS,
                        PRELUDE,
                        POTS,
                        include_str!(concat!("lua/", stringify!($counting), ".lua")),
                    ]),)*
                    leases: Script::new(&[include_str!("lua/leases.lua")]),
                    tenants: Script::new(&[include_str!("lua/tenants.lua")]),
                    join: Script::new(&[include_str!("lua/join.lua")]),
                }
            }
        }
    };
}

scripts! {
    claim, remove, fence, take,
    read, name, limits, page, feed, owners, open,
    aged, forget;
    with pots: step, bury, tree, books,
}
