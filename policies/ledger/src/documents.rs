//! Documents that are made by the API and that every gateway must know: tenants, keys, policies. Few, small, rarely written
//! and always read whole.
//!
//! Each write gets the next revision of the store. A document that is deleted leaves a tombstone with a revision, so that
//! the later of two states can be told whoever brings them. That is what a store that came back older than it was is
//! healed with: gateways hand in what they know ([`Documents::restore`]), name by name the higher revision stays, and only
//! after a grace the store takes writes again, with revisions above all that were ever given out. A key that was revoked
//! stays revoked as long as one gateway that saw it lives.

mod memory;

use std::fmt::Debug;

pub use self::memory::MemoryDocuments;
use crate::LedgerFuture;

/// Most documents, tombstones included: each gateway holds all of them in memory.
pub const DOCUMENTS_MAX: usize = 50_000;

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
    /// There are as many documents as there may be.
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
}

/// A store of documents.
///
/// # Errors
/// All verbs end as [`LedgerError::Unavailable`](crate::LedgerError) when the store does not answer, as `Unanswered` when a
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

    /// Writes, or with no body deletes, a document.
    fn put<'a>(&'a self, name: &'a str, body: Option<String>, expect: Expect) -> LedgerFuture<'a, Put>;

    /// Hands in what the caller knows; of each name the higher revision stays.
    fn restore(&self, documents: Vec<Document>) -> LedgerFuture<'_, ()>;
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
pub(crate) fn too_large(name: &str, body: Option<&String>) -> Option<crate::LedgerError> {
    let len = body.map_or(0, String::len);
    let fits = !name.is_empty() && name.len() <= NAME_LEN_MAX && len <= DOCUMENT_LEN_MAX;
    let detail = || format!("a document of {len} bytes under a name of {} is larger than is kept", name.len());
    (!fits).then(|| crate::LedgerError::Invalid { place: name.chars().take(80).collect(), detail: detail() })
}
