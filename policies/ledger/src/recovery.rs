//! What a shared store offers to those who rebuild it after it may have lost writes (RELIABILITY 2.9).
//!
//! The incarnation guard: each tenant's data carries the `run_id` of the server process under which it was last known
//! to be whole. Every script compares it with the server's own; a different or missing one is
//! [`crate::LedgerError::Recovering`], and nothing is written. Only what is in this trait works then. A server that was
//! replaced and comes back without a restart has its old `run_id`: so each finish also raises a generation, every script
//! is told what its caller saw last ([`Mark`]), and data that lacks it is marked as [`BEHIND`], for everybody.
//!
//! A tenant is rebuilt by one process at a time. [`Recovery::begin`] gives it a [`Token`] by compare-and-set on the
//! tenant's `rebuild` mark, with a lease in the server's time; every later call compares the token, and
//! [`Recovery::finish`] writes the incarnation only while it is valid. A rebuilder that was overtaken changes nothing
//! any more.
//!
//! Who takes part is a *member*: it announces itself about every second ([`Recovery::beat`]) with what it saw of each
//! tenant. After a loss each member compares what it saw last with what is there now. When every member that was known
//! confirms that nothing it saw is missing, nothing was lost, and the incarnation is set at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    time::Duration,
};

use meridian_model::{ids::TenantId, operation::OperationRecord, time::Time};
use serde::{Deserialize, Serialize};

use crate::{LedgerFuture, Quota};

/// In place of an incarnation: somebody saw more of the data than is there.
pub const BEHIND: &str = "behind";

/// The last that a process saw of a tenant's data.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Mark {
    /// The incarnation that the data carried.
    #[serde(rename = "i")]
    pub incarnation: String,
    /// The place of the last write seen.
    #[serde(rename = "s")]
    pub seq: u64,
    /// How often the tenant was confirmed or rebuilt. One of two states of a tenant that has the lower one was left
    /// behind, whatever server holds it.
    #[serde(rename = "g", default)]
    pub generation: u64,
}

impl Mark {
    /// Takes in what was seen now. A late answer of a state that was left behind is not believed.
    pub fn advance(&mut self, now: Self) {
        let first = self.incarnation.is_empty();
        if first || now.generation > self.generation {
            *self = now;
        } else if now.generation == self.generation && now.incarnation == self.incarnation {
            self.seq = self.seq.max(now.seq);
        }
    }
}

/// How a tenant's data stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TenantStanding {
    /// `run_id` of the server that holds it now.
    pub server: String,
    /// What the data carries; none when nothing of it is there.
    pub data: Option<Mark>,
    /// Nothing of it is there, and the whole list of tenants says that nothing ever was: there is nothing to rebuild.
    pub is_new: bool,
}

impl TenantStanding {
    /// The data is whole: it is worked with.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.data.as_ref().is_some_and(|mark| mark.incarnation == self.server)
    }

    /// Everything up to a mark that was seen earlier is there. `None` was never seen: nothing can be missed.
    #[must_use]
    pub fn holds(&self, seen: Option<&Mark>) -> bool {
        match (&self.data, seen) {
            (Some(data), _) if data.incarnation == BEHIND => false,
            (_, None) => true,
            (None, Some(_)) => false,
            // A rebuild sets a new incarnation and leaves out no place below: only equal ones can be compared.
            (Some(data), Some(seen)) => {
                data.generation == seen.generation && data.incarnation == seen.incarnation && data.seq >= seen.seq
            }
        }
    }
}

/// The list of tenants of which the store holds anything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Roll {
    /// It is known under the server's own incarnation.
    pub whole: bool,
    /// The tenants, as far as is known.
    pub tenants: BTreeSet<TenantId>,
}

/// One process that works on the store.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Member {
    /// Random part of its fences.
    pub owner: String,
    /// For each tenant that is not whole: the server it looked at, and whether everything it saw is there.
    pub confirms: BTreeMap<TenantId, Confirmation>,
    /// Milliseconds of the server's time since its last sign of life, as the answer was made.
    #[serde(default)]
    pub silent_ms: u64,
}

/// What a member says about a tenant that may have lost writes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Confirmation {
    /// `run_id` of the server that it compared.
    pub server: String,
    /// Nothing that it saw is missing.
    pub whole: bool,
    /// It has handed in what it knows ([`Recovery::contribute`]).
    pub contributed: bool,
}

/// The right to rebuild one tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The tenant.
    pub tenant: TenantId,
    /// `run_id` of the server that it was given by; it becomes the incarnation.
    pub server: String,
    /// Unique to this rebuild.
    pub nonce: String,
}

/// The answer to the wish to rebuild.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// The caller is the rebuilder.
    Yours(Token),
    /// Another is, at most this much longer unless it renews.
    Another(Duration),
    /// There is nothing to rebuild.
    Whole,
}

/// How a rebuild ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finish {
    /// No record was lost: all stays as it is, fences included. Limits have no place among the writes that gateways
    /// can miss, so they are set again.
    Untouched {
        /// The tenant's quota; none leaves what is there.
        quota: Option<Quota>,
    },
    /// The records were restored: the usage is recomputed from their charges, and what was handed in is forgotten.
    Rebuilt {
        /// The tenant's quota, which is lost with the rest.
        quota: Quota,
        /// The next write has a place above it.
        seq: u64,
    },
}

/// One page of what is left of a tenant, or of what members handed in.
#[derive(Debug, Clone, Default)]
pub struct RemainingPage {
    /// Records, tombstones among them.
    pub records: Vec<OperationRecord>,
    /// What could not be read, by key; it is evidence that is lost, not a reason to stop.
    pub unreadable: Vec<String>,
    /// Where to go on; none at the end.
    pub next: Option<String>,
}

/// One page of what members noted beside records.
#[derive(Debug, Clone, Default)]
pub struct NotePage {
    /// The texts, as they were handed in.
    pub notes: Vec<String>,
    /// Where to go on; none at the end.
    pub next: Option<String>,
}

/// The verbs that work while the ledger refuses. All answers of `bool` are whether the token was still valid; with
/// `false` nothing was done and the rebuild is another's.
pub trait Recovery: Debug + Send + Sync + 'static {
    /// How each tenant's data stands.
    fn standings(&self, tenants: Vec<TenantId>) -> LedgerFuture<'_, BTreeMap<TenantId, TenantStanding>>;

    /// What this process saw last of each tenant: the greatest place of any write that was acknowledged to it or read
    /// by it, also by [`Recovery::standings`], under which incarnation. Asks nothing.
    fn seen(&self) -> BTreeMap<TenantId, Mark>;

    /// Says that a member lives and what it confirms; returns all members. One that was silent for longer than
    /// `forget_after` is forgotten if that is given: nothing it wrote can be missing from what the caller has read
    /// since.
    fn beat(&self, member: Member, forget_after: Option<Duration>) -> LedgerFuture<'_, Vec<Member>>;

    /// Takes a member off the list: it ended in order.
    fn leave(&self, owner: &str) -> LedgerFuture<'_, ()>;

    /// Asks for the right to rebuild a tenant, under a `nonce` of this rebuild alone. An owner's own earlier token is no
    /// obstacle, and is not valid any more.
    fn begin(&self, tenant: &TenantId, owner: &str, nonce: &str, lease: Duration) -> LedgerFuture<'_, Begun>;

    /// Extends the lease of a token from now on; true also when the tenant is whole already. A token that is not there
    /// any more, is another's, or was given under another server is lost: who gathered under it begins anew.
    fn renew(&self, token: &Token, lease: Duration) -> LedgerFuture<'_, bool>;

    /// What is left of the tenant, as it is.
    fn remaining(&self, token: &Token, from: Option<String>, limit: usize) -> LedgerFuture<'_, RemainingPage>;

    /// Hands in a record that this process knows, for whoever rebuilds; the newer revision stays. `false`: there is
    /// nothing to rebuild.
    fn contribute(&self, record: OperationRecord) -> LedgerFuture<'_, bool>;

    /// Hands in what this process knows beside records, in its own words; another text of the same name takes its place.
    /// It is stored as it is: nothing secret. `false`: there is nothing to rebuild.
    fn note(&self, tenant: &TenantId, name: &str, text: String) -> LedgerFuture<'_, bool>;

    /// What was noted, by anybody.
    fn notes(&self, token: &Token, from: Option<String>, limit: usize) -> LedgerFuture<'_, NotePage>;

    /// Which records were handed in.
    fn contributions(&self, token: &Token, from: Option<String>, limit: usize) -> LedgerFuture<'_, RemainingPage>;

    /// Writes a record as it is merged, over whatever was there, with a new fence that nobody owns, a place above both
    /// the record's own and the last, and the given revision.
    fn restore(&self, token: &Token, record: OperationRecord) -> LedgerFuture<'_, bool>;

    /// Makes the server's `run_id` the tenant's incarnation: from here the ledger takes writes again. What lies where and
    /// what it costs from `now` on is added up anew.
    fn finish(&self, token: &Token, how: Finish, now: Time) -> LedgerFuture<'_, bool>;

    /// The list of tenants.
    fn roll(&self) -> LedgerFuture<'_, Roll>;

    /// Writes the list of tenants anew, when all that are on it, or should be, are whole. A tenant that is not on a list
    /// that is whole was never there, and is made without a look at any cloud.
    fn enlist(&self, tenants: Vec<TenantId>) -> LedgerFuture<'_, ()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_confirms_only_what_it_was_seen_with() {
        let mark = |incarnation: &str, seq| Mark { incarnation: incarnation.to_owned(), seq, generation: 1 };
        let older = |mark: Mark| Mark { generation: 0, ..mark };
        let held = |data: Option<Mark>, seen: Option<Mark>| {
            TenantStanding { server: "now".to_owned(), data, is_new: false }.holds(seen.as_ref())
        };
        for (data, seen, expected) in [
            (None, None, true),
            (None, Some(mark("a", 1)), false),
            (Some(mark("a", 5)), Some(mark("a", 5)), true),
            (Some(mark("a", 6)), Some(mark("a", 5)), true),
            (Some(mark("a", 4)), Some(mark("a", 5)), false),
            (Some(mark("a", 9)), Some(mark("b", 5)), false),
            (Some(mark("b", 5)), None, true),
            (Some(older(mark("a", 9))), Some(mark("a", 5)), false),
            (Some(mark(BEHIND, 5)), None, false),
            (Some(mark(BEHIND, 5)), Some(mark("a", 5)), false),
        ] {
            assert_eq!(held(data.clone(), seen.clone()), expected, "{data:?} {seen:?}");
        }
    }

    #[test]
    fn what_was_seen_only_advances() {
        let mark = |incarnation: &str, generation, seq| Mark { incarnation: incarnation.to_owned(), seq, generation };
        for (held, now, expected) in [
            (Mark::default(), mark("a", 0, 0), mark("a", 0, 0)),
            (mark("a", 1, 5), mark("a", 1, 7), mark("a", 1, 7)),
            (mark("a", 1, 5), mark("a", 1, 3), mark("a", 1, 5)),
            (mark("a", 1, 5), mark("b", 2, 3), mark("b", 2, 3)),
            (mark("b", 2, 3), mark("a", 1, 9), mark("b", 2, 3)),
            (mark("b", 2, 3), mark("a", 2, 9), mark("b", 2, 3)),
        ] {
            let mut seen = held.clone();
            seen.advance(now.clone());
            assert_eq!(seen, expected, "{held:?} {now:?}");
        }
    }
}
