//! Documents that are made by the API and that every gateway must know: tenants, keys, policies. Few, small, rarely written
//! and always read whole.
//!
//! Each write gets the next revision of the store. A document that is deleted leaves a tombstone with a revision, so that
//! the later of two states can be told whoever brings them. That is what a store that came back older than it was is
//! healed with: gateways hand in what they know ([`Documents::restore`]), name by name the higher revision stays, and only
//! after a grace the store takes writes again, with revisions above all that were ever given out. A key that was revoked
//! stays revoked as long as one gateway that saw it lives.
//!
//! A tombstone is forgotten after a day ([`FORGOTTEN_AFTER`]), or sooner where a living document needs its place. The last
//! revision that this was done with is the store's *floor*: of what it does not hold, nothing at or below the floor lives.
//! A reader that had not read so far may know living what has ended, and one that had may know better than a store that
//! came back from before; [`Replica`] is how both find out.

mod memory;
mod replica;

use std::{fmt::Debug, time::Duration};

use meridian_model::time::Time;

pub use self::{
    memory::MemoryDocuments,
    replica::{Handed, Heard, Replica},
};
use crate::{LedgerError, LedgerFuture};

/// Most documents, tombstones included: each gateway holds all of them in memory.
pub const DOCUMENTS_MAX: usize = 50_000;

/// How long a tombstone is kept while there is room. It serves who brings an older state: a gateway that was away, or a
/// copy that a store fails over to; both are seldom behind by more than this.
pub const FORGOTTEN_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Tombstones that one call of [`Documents::forget`] forgets: called each minute, more than are made, and a write of few
/// milliseconds.
pub const FORGOTTEN_AT_ONCE: usize = 1000;

/// Longest document, in bytes.
pub const DOCUMENT_LEN_MAX: usize = 64 * 1024;

/// Longest name, in bytes.
pub const NAME_LEN_MAX: usize = 256;

/// A document as it was last written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its name, a path such as `tenants/acme/keys/k1`.
    pub name: String,
    /// The revision that wrote it.
    pub revision: u64,
    /// Its text; none when it was deleted.
    pub body: Option<String>,
}

/// What a writer must have seen for its write to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// There is none of the name.
    Absent,
    /// There is none of the name, and no tombstone says that there was one.
    Never,
    /// The one of the name has this revision.
    Revision(u64),
    /// There is one of the name.
    Present,
}

/// The answer to a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Put {
    /// Written, with this revision.
    Written(u64),
    /// Something else is there than was expected: it is not written.
    Conflict(Option<Document>),
    /// There are as many living documents as there may be.
    Full,
}

/// How far a reader has read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Position {
    /// Of the process that served it.
    pub incarnation: String,
    /// How often something was restored.
    pub restored: u64,
    /// The last revision.
    pub revision: u64,
}

/// What is new since a position.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct News {
    /// Where to go on.
    pub position: Position,
    /// It does not go on from that position but holds everything.
    pub anew: bool,
    /// Documents and tombstones.
    pub documents: Vec<Document>,
    /// The store may have lost writes: whoever knows documents should hand them in.
    pub wants: bool,
    /// The last revision whose tombstone is forgotten.
    pub floor: u64,
}

/// A store of documents.
///
/// # Errors
/// All verbs end as [`LedgerError::Unavailable`] when the store does not answer, as `Unanswered` when a
/// write may have been made, as `Invalid` beyond a bound, and writes as `Recovering` while it may have lost some.
///
/// # Cancel safety
/// A call whose future is dropped may or may not have been carried out.
pub trait Documents: Debug + Send + Sync + 'static {
    /// Whether anybody else writes to it.
    fn is_shared(&self) -> bool {
        true
    }

    /// What is new since a position.
    fn read<'a>(&'a self, after: &'a Position) -> LedgerFuture<'a, News>;

    /// Writes, or with no body deletes, a document. `now` is for stores that have no time of their own.
    fn put<'a>(&'a self, name: &'a str, body: Option<String>, expect: Expect, now: Time) -> LedgerFuture<'a, Put>;

    /// Forgets tombstones that are old enough, at most [`FORGOTTEN_AT_ONCE`]. `now` as with `put`.
    fn forget(&self, now: Time) -> LedgerFuture<'_, ()>;

    /// Hands in what the caller knows; of each name the higher revision stays, and what ended at or below the floor does
    /// not come back.
    fn restore(&self, handed: Handed) -> LedgerFuture<'_, ()>;
}

/// What a reader that has read to `after` should hear: what is new, or everything where the store may have lost writes, so
/// that what it brings back is seen.
///
/// # Errors
/// The store's.
pub async fn look(store: &dyn Documents, after: &Position) -> Result<News, LedgerError> {
    let mut news = store.read(after).await?;
    if *after == Position::default() {
        return Ok(news);
    }
    if news.wants && !news.anew {
        news = News { wants: true, ..store.read(&Position::default()).await? };
    }
    // A count that a loss put back is not believed.
    news.position.revision = news.position.revision.max(after.revision);
    Ok(news)
}

/// Whether what is there is what was expected.
pub(crate) fn meets(expect: Expect, held: Option<&Document>) -> bool {
    let present = held.filter(|d| d.body.is_some());
    match expect {
        Expect::Absent => present.is_none(),
        Expect::Never => held.is_none(),
        Expect::Present => present.is_some(),
        Expect::Revision(revision) => present.is_some_and(|d| d.revision == revision),
    }
}

/// What is wrong with the size of a write.
pub(crate) fn too_large(name: &str, body: Option<&String>) -> Option<LedgerError> {
    let len = body.map_or(0, String::len);
    let fits = !name.is_empty() && name.len() <= NAME_LEN_MAX && len <= DOCUMENT_LEN_MAX;
    let detail = || format!("a document of {len} bytes under a name of {} is larger than is kept", name.len());
    (!fits).then(|| LedgerError::Invalid { place: name.chars().take(80).collect(), detail: detail() })
}
