//! What a record says. Written typed, read as JSON: a record of a later version has members and kinds that this one does
//! not know, and it must be shown and verified all the same.

use std::{fmt, path::Path};

use meridian_model::{
    ids::{OperationId, TenantId},
    time::Time,
};
use serde::Serialize;

use super::{chain::hex, effect::Effect};

/// Version of the records. A later one only adds kinds and members; the rule of the chain stays.
pub const VERSION: u32 = 1;
/// Longest text of one member, in bytes; what a caller chose freely is cut there. The longest of ours is an object's
/// path: two names and a few words.
const TEXT_LEN_MAX: usize = 512;

/// Who did it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Actor {
    /// Public name of the credential; never the secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
    /// The caller acting for the tenant.
    pub principal: String,
    /// What it may do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
}

/// How a request to change something ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// It is done, or under way.
    Accepted,
    /// It was done before, under the same idempotency key.
    Replayed,
    /// It was refused and has changed nothing.
    Denied,
    /// A fault of ours ended it.
    Failed,
    /// The caller was told that nobody knows yet, or was gone before it could be told anything.
    Unknown,
}

/// One request to change something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// What was asked for, by the name that spans and metrics have too.
    pub action: String,
    /// By whom.
    pub actor: Actor,
    /// Error code of a refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
    /// How it ended.
    pub decision: Decision,
    /// The role of the credential that it gave out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub granted_role: Option<&'static str>,
    /// The caller's key, or the one made for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// What it was asked for, as the path of the API has it.
    pub object: String,
    /// The operation that carries it out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// The request, as in the caller's answer and in the log.
    pub request_id: String,
    /// Address that it came from.
    pub source: String,
    /// Says of two requests whether they asked for the same, and nothing of what: keyed by the deployment's secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spec_digest: Option<String>,
    /// HTTP status of the answer; none when nobody was there to be answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Whose object it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
}

/// An instance that the gateway removes because its project borrowed quota that another of its tenant wants back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reclaimed {
    /// Always `reclaim-instance`.
    pub action: &'static str,
    /// The project of the instance; none: the tenant itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub borrower: Option<String>,
    /// The create that it makes room for.
    pub for_operation: OperationId,
    /// The instance, as the path of the API has it.
    pub object: String,
    /// The operation that made it, whose effects tell of its end.
    pub operation: OperationId,
    /// The project whose quota it is; none: the tenant itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Whose they are.
    pub tenant: TenantId,
}

/// Requests of one minute that are only counted, because whoever sends them could fill the disk with records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tally {
    /// `authenticate` or the rate-limited action's class.
    pub action: &'static str,
    /// Who, as far as that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor: Option<Actor>,
    /// Error code of all of them.
    pub code: &'static str,
    /// How many.
    pub count: u64,
    /// Always [`Decision::Denied`].
    pub decision: Decision,
    /// Since when.
    pub since: Time,
    /// Address that they came from; `others` when there were more than are kept apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Whose limit it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
}

/// What a folder declares was taken in. Who changed it is known where the folder comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reload {
    /// `reload-directory`.
    pub action: &'static str,
    /// Whose word it is: `folder`.
    pub actor: Actor,
    /// The first changes, one a line.
    pub changes: Vec<String>,
    /// Always [`Decision::Accepted`]: what is broken changes nothing.
    pub decision: Decision,
    /// SHA-256 of names and texts of the files.
    pub digest: String,
    /// The folder.
    pub object: String,
    /// How many changes there are.
    pub total: usize,
}

impl Reload {
    /// Changes that are named; how many more there are is counted.
    const CHANGES_MAX: usize = 20;

    /// What taking a folder in has changed.
    #[must_use]
    pub fn of(folder: &Path, digest: &[u8; 32], changes: &[impl fmt::Display]) -> Self {
        Self {
            action: "reload-directory",
            actor: Actor { principal: "folder".to_owned(), ..Actor::default() },
            changes: changes.iter().take(Self::CHANGES_MAX).map(|change| cut(&change.to_string())).collect(),
            decision: Decision::Accepted,
            digest: hex(digest),
            object: cut(&folder.display().to_string()),
            total: changes.len(),
        }
    }
}

/// The first record of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Start {
    /// Name of the chain: the first process that wrote it drew it.
    pub chain: String,
    /// What was found damaged in the file before and is left there; none when all was well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damaged: Option<String>,
    /// The public key of the heads that follow.
    pub public_key: String,
    /// Bytes of a record that was cut short by a crash; nobody had been told that it was written.
    pub torn_bytes: u64,
    /// Version of the gateway.
    pub version: &'static str,
}

/// The chain up to the record before, signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Head {
    /// The chain.
    pub chain: String,
    /// Why now: `minute`, `rotation`, `close`.
    pub cause: &'static str,
    /// Ed25519 over [`super::chain::signed_text`], base64.
    pub signature: String,
}

/// The newest head of another gateway's chain: whoever cuts that one short, or takes it away, is found out here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Witness {
    /// The other chain.
    pub chain: String,
    /// Hash of its record `headSeq - 1`.
    pub head_hash: String,
    /// Its record that is the head.
    pub head_seq: u64,
    /// Time of that record.
    pub head_time: String,
    /// Its public key.
    pub public_key: String,
    /// Its signature.
    pub signature: String,
}

/// Records that were lost because the disk did not take them in time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// How many, none of them of a request that was answered as done.
    pub lost: u64,
}

/// Old files were removed as the retention says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pruned {
    /// The last record that is gone.
    pub up_to_seq: u64,
    /// Its hash.
    pub up_to_hash: String,
}

/// What a record says, without its place in the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
#[expect(missing_docs, reason = "each is the type of its name")]
pub enum Entry {
    Request(Box<Request>),
    Effect(Box<Effect>),
    Reclaimed(Box<Reclaimed>),
    Tally(Tally),
    Reload(Reload),
    Start(Start),
    Head(Head),
    Witness(Witness),
    Gap(Gap),
    Pruned(Pruned),
}

impl Entry {
    /// Its kind, a label of metrics.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Request(_) => "request",
            Self::Effect(_) => "effect",
            Self::Reclaimed(_) => "reclaimed",
            Self::Tally(_) => "tally",
            Self::Reload(_) => "reload",
            Self::Start(_) => "start",
            Self::Head(_) => "head",
            Self::Witness(_) => "witness",
            Self::Gap(_) => "gap",
            Self::Pruned(_) => "pruned",
        }
    }
}

/// A record as it is shown.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub struct AuditRecord(pub serde_json::Value);

/// A text that somebody else chose, cut at `TEXT_LEN_MAX`.
#[must_use]
pub fn cut(text: &str) -> String {
    let mut end = text.len().min(TEXT_LEN_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}
