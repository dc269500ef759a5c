//! What several gateways hold in common that is not money: who leads a task, what the leader found out, tokens of
//! rate limits, and how many gateways live.
//!
//! Nothing here is needed to be right: a lost leader costs a double reading, a lost board an older answer, a lost
//! bucket at most one burst. So none of it is guarded by the incarnation (RELIABILITY 2.9), and whoever gets no answer
//! goes on with what it knows. All times are durations, measured by the store's clock or by one process' own:
//! no two machines' clocks are compared.

mod memory;

use std::{fmt::Debug, time::Duration};

use meridian_policies::rate::{Limit, reserve::Grant};

pub use self::memory::MemoryShared;
pub(crate) use self::memory::too_large;
use crate::LedgerFuture;

/// Entries of one [`Post`] and of one [`BoardPage`].
pub const BOARD_PAGE_MAX: usize = 500;

/// Removed entries that a board remembers, so that who follows it hears of them. Who is further behind starts anew.
pub const BOARD_REMOVED_MAX: usize = 1000;

/// For how long drawn tokens may be spent. Long enough that a slow caller's batch is not drawn for each request.
pub const TOKENS_GOOD_FOR: Duration = Duration::from_secs(10);

/// Living members that are told; a deployment has a handful.
pub const MEMBERS_MAX: usize = 1000;

/// The answer to a wish to lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lead {
    /// The caller leads from before it asked until the lease it asked for is over. A new leader has a higher term than
    /// all before it; the same leader keeps its term while its lease does not lapse.
    Leader {
        /// The term.
        term: u64,
    },
    /// Somebody else leads, at least for this long unless it resigns.
    Follower {
        /// What is left of its lease.
        left: Duration,
    },
}

/// What a leader publishes.
#[derive(Debug, Clone, Default)]
pub struct Post {
    /// The term in which it leads.
    pub term: u64,
    /// Entries that are new or have changed, or are gone. At most [`BOARD_PAGE_MAX`].
    pub changed: Vec<(String, Option<Vec<u8>>)>,
    /// The summary that belongs to all entries; none leaves it as it was.
    pub head: Option<Vec<u8>>,
}

/// The answer to a [`Post`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Posted {
    /// Published; the board's new version.
    Written {
        /// The version.
        version: u64,
    },
    /// A higher term was given out, or the store has forgotten this one: the caller does not lead.
    Deposed,
}

/// An entry of a board.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoardEntry {
    /// Its key.
    pub key: String,
    /// Its value; none when it is gone.
    pub value: Option<Vec<u8>>,
    /// Time since it was posted, never less than the truth.
    pub age: Duration,
}

/// The summary of a board.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoardHead {
    /// What the leader posted.
    pub value: Vec<u8>,
    /// Time since it was posted, never less than the truth.
    pub age: Duration,
}

/// What changed on a board since a version.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BoardPage {
    /// Where to go on; the board's version when the page is complete.
    pub version: u64,
    /// The page does not go on from what was read before but starts anew: forget that.
    pub anew: bool,
    /// Entries in the order of their posts.
    pub entries: Vec<BoardEntry>,
    /// Nothing is left beyond this page.
    pub complete: bool,
    /// The summary as it is now, whether or not it changed; none was posted yet.
    pub head: Option<BoardHead>,
}

/// Coordination among gateways.
///
/// # Errors
/// All verbs end as [`LedgerError::Unavailable`](crate::LedgerError) when the store does not answer, and as `Invalid`
/// when the caller goes beyond a bound.
///
/// # Cancel safety
/// A call whose future is dropped may or may not have been carried out.
pub trait Shared: Debug + Send + Sync + 'static {
    /// Whether anybody else can take part. If not, nothing need be asked: the caller leads, and limits are its own.
    fn is_shared(&self) -> bool {
        true
    }

    /// Leads a task for `lease` from now on, or goes on leading it, unless somebody else does. The lease is
    /// measured by the store.
    fn lead<'a>(&'a self, task: &'a str, owner: &'a str, lease: Duration) -> LedgerFuture<'a, Lead>;

    /// Ends the caller's lead, so that nobody need wait for its lease.
    fn resign<'a>(&'a self, task: &'a str, owner: &'a str) -> LedgerFuture<'a, ()>;

    /// Publishes on a task's board, if no higher term was given out.
    fn post<'a>(&'a self, task: &'a str, post: Post) -> LedgerFuture<'a, Posted>;

    /// What was posted on a task's board after a version (0: from the beginning); waits for up to `wait` while there is
    /// nothing.
    fn read<'a>(&'a self, task: &'a str, after: u64, wait: Duration) -> LedgerFuture<'a, BoardPage>;

    /// Draws at most `want` tokens from a bucket, which is full when it is first drawn from. The limit is that of
    /// the call; a bucket that had another keeps its whole tokens as far as the new one holds them.
    fn draw<'a>(&'a self, bucket: &'a str, limit: Limit, want: u32) -> LedgerFuture<'a, Grant>;

    /// Says that the caller lives, for `lease` from now on (zero: no longer), and tells who lives, in order.
    fn attend<'a>(&'a self, owner: &'a str, lease: Duration) -> LedgerFuture<'a, Vec<String>>;
}
