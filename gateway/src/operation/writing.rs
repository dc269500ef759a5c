//! What resources that are kept as documents have in common: how they are written, with what their writer has seen or only to
//! ask whether it could be, and how they are listed.

use meridian_ledger::{
    LedgerError,
    documents::{DOCUMENT_LEN_MAX, Document, Expect, FORGOTTEN_AFTER, Put},
};
use meridian_model::error::{ErrorCode, FieldError, Problem};

use super::{PageRequest, Refusal, store_refusal};
use crate::{
    core::Core,
    directory::{Snapshot, Source},
    views,
};

/// Most documents of one tenant's keys, service accounts and policies, and of the platform's policies, those that ended and
/// are remembered included: twice what there may be of living ones, and ten tenants that end what they make as fast as they
/// can leave the others room.
const DOCUMENTS_EACH_MAX: usize = 4000;

/// What a writer has seen of what it writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Nothing is said.
    None,
    /// `If-Match`: the revision of what is there; none of the tags is one of ours.
    Match(Option<u64>),
    /// `If-None-Match: *`: there is none.
    Absent,
}

/// The revision as it stands in entity tags.
#[must_use]
pub fn etag(revision: u64) -> String {
    format!("r{revision}")
}

/// What of a condition the store is to hold to; `held` is what is known of the document.
pub(super) fn expect(condition: Condition, held: Option<u64>, required: bool) -> Result<Expect, Refusal> {
    match (condition, held) {
        (Condition::None, Some(_)) if required => Err(Refusal::new(
            ErrorCode::PreconditionRequired,
            "what is there would be replaced: send its ETag as If-Match, so that nobody's change is lost",
        )),
        (Condition::None, Some(revision)) => Ok(Expect::Revision(revision)),
        (Condition::None | Condition::Absent, _) => Ok(Expect::Absent),
        (Condition::Match(Some(revision)), _) => Ok(Expect::Revision(revision)),
        (Condition::Match(None), held) => Err(mismatch(held)),
    }
}

fn mismatch(held: Option<u64>) -> Refusal {
    let now =
        held.map_or_else(|| "it is not there".to_owned(), |revision| format!("its ETag is \"{}\"", etag(revision)));
    Refusal::new(ErrorCode::EtagMismatch, format!("it is not as the request says: {now}"))
}

/// Has this gateway know the revision that a condition names, should another have written it a moment ago: what is written
/// is made from what is known here.
pub(super) async fn catch_up(
    core: &Core,
    condition: Condition,
    held: impl Fn(&Snapshot) -> Option<u64>,
) -> Result<(), Refusal> {
    let held = || held(&core.directory.load());
    let Condition::Match(Some(seen)) = condition else { return Ok(()) };
    if held() == Some(seen) {
        return Ok(());
    }
    core.sources.documents.catch_up().await.map_err(|e| store_refusal(&e))?;
    match held() {
        Some(now) if now != seen => Err(mismatch(Some(now))),
        _ => Ok(()),
    }
}

/// What the caller of a write learns of a store that failed; one that did not answer may have written (R4).
fn failed(error: &LedgerError) -> Refusal {
    if !matches!(error, LedgerError::Unanswered(_)) {
        return store_refusal(error);
    }
    let detail = "the store did not answer: the change may be made or not; read what it was to change, or repeat the \
                  request";
    let internal = Some(error.to_string());
    Refusal { internal, outcome_unknown: true, ..Refusal::new(ErrorCode::DeadlineExceeded, detail) }
}

/// Writes documents, or only says whether it could.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pen<'c> {
    /// Of what.
    pub(super) core: &'c Core,
    /// Nothing is written.
    pub(super) dry: bool,
}

impl Pen<'_> {
    /// Refuses one document more of a tenant, or of the platform, that has made and ended too many.
    pub(super) fn check_room(self, prefix: &str) -> Result<(), Refusal> {
        if self.core.directory.count(prefix) < DOCUMENTS_EACH_MAX {
            return Ok(());
        }
        let hours = FORGOTTEN_AFTER.as_secs() / 3600;
        let detail = format!(
            "{DOCUMENTS_EACH_MAX} keys, service accounts and policies are there or ended within {hours} hours, and more are \
             not remembered: try again later, or change what is there instead of making others"
        );
        Err(Refusal::new(ErrorCode::Conflict, detail))
    }

    /// Refuses a text that is longer than a document may be.
    pub(super) fn check_len(self, name: &str, body: &str) -> Result<(), Refusal> {
        let len = body.len();
        if len <= DOCUMENT_LEN_MAX {
            return Ok(());
        }
        let detail = format!("{name} would be {len} bytes as it is kept, and at most {DOCUMENT_LEN_MAX} are");
        Err(Refusal::new(ErrorCode::PayloadTooLarge, detail))
    }

    /// Writes a document, or removes it; `held` is the revision of what is known to be there. Its new revision; none when
    /// nothing was to be written.
    ///
    /// # Errors
    /// What stands against it, or the store's.
    pub(super) async fn write(
        self,
        (name, held): (&str, Option<u64>),
        body: Option<String>,
        expect: Expect,
    ) -> Result<Option<u64>, Refusal> {
        if let Some(body) = &body {
            self.check_len(name, body)?;
        }
        if self.dry {
            return match (expect, held) {
                (Expect::Absent | Expect::Never, Some(_)) => Err(exists(name)),
                (Expect::Revision(wanted), held) if held != Some(wanted) => Err(mismatch(held)),
                (Expect::Present, None) => Err(mismatch(None)),
                (Expect::Absent | Expect::Never | Expect::Revision(_) | Expect::Present, _) => Ok(None),
            };
        }
        match self.core.sources.documents.put(name, body, expect).await.map_err(|e| failed(&e))? {
            Put::Written(revision) => Ok(Some(revision)),
            Put::Conflict(Some(Document { revision, body: Some(_), .. }))
                if matches!(expect, Expect::Absent | Expect::Never) =>
            {
                let mut refusal = exists(name);
                refusal.internal = Some(format!("revision {revision}"));
                Err(refusal)
            }
            Put::Conflict(Some(_)) if expect == Expect::Never => {
                let detail = format!("{name} has ended, and its name is not given again");
                Err(Refusal::new(ErrorCode::AlreadyExists, detail))
            }
            Put::Conflict(held) => Err(mismatch(held.filter(|d| d.body.is_some()).map(|d| d.revision))),
            Put::Full => Err(Refusal::new(ErrorCode::Conflict, "there are as many documents as the gateways keep")),
        }
    }
}

fn exists(name: &str) -> Refusal {
    Refusal::new(ErrorCode::AlreadyExists, format!("{name} exists already"))
}

/// A record as it is stored.
pub(super) fn text(value: &impl serde::Serialize) -> Result<String, Refusal> {
    serde_json::to_string(value).map_err(Refusal::internal)
}

/// What a file declares is changed there.
pub(super) fn declared_elsewhere(what: &str, source: &Source) -> Refusal {
    Refusal::new(ErrorCode::Conflict, format!("{what} is declared in {source}: change it there"))
}

/// Refuses a body with all its faults.
pub(super) fn invalid(faults: Vec<FieldError>) -> Refusal {
    let detail = faults.iter().map(|f| f.detail.as_str()).collect::<Vec<_>>().join("; ");
    Problem::new(ErrorCode::InvalidArgument, detail).with_errors(faults).into()
}

/// A fault of a field.
pub(super) fn fault(pointer: &str, code: &str, detail: impl Into<String>, hint: Option<String>) -> FieldError {
    FieldError {
        pointer: pointer.to_owned(),
        code: code.to_owned(),
        detail: detail.into(),
        hint,
        ..FieldError::default()
    }
}

/// One page of items that are in the order of their places.
pub(super) fn paged<T>(all: Vec<T>, page: &PageRequest, place: impl Fn(&T) -> &String) -> views::Page<T> {
    let after = |item: &T| page.after.as_ref().is_none_or(|after| place(item) > after);
    let mut items: Vec<T> = all.into_iter().filter(after).take(page.size + 1).collect();
    let more = items.len() > page.size;
    items.truncate(page.size);
    let next_after = items.last().filter(|_| more).map(|item| place(item).clone());
    views::Page { items, next_after }
}
