//! Coordination among gateways on a Redis: one script per verb, all keys of a task or bucket in one slot.
//!
//! Terms and versions are microseconds of the server's clock, raised where that did not move on, so that they rise
//! also over the loss of the store's data, and an entry's version tells its age. Everything expires when nobody has
//! written it for a day. Nothing here is guarded by the incarnation: see [`crate::shared`].

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use meridian_policies::rate::{Limit, reserve::Grant};
use redis::Value;
use tokio::time::{Instant, sleep};

use super::{
    link::{Redis, Script},
    values,
};
use crate::{
    LedgerError, LedgerFuture,
    shared::{
        BOARD_PAGE_MAX, BOARD_REMOVED_MAX, BoardEntry, BoardHead, BoardPage, Lead, MEMBERS_MAX, Post, Posted, Shared,
        TOKENS_GOOD_FOR, too_large,
    },
};

/// What nobody writes any more is gone after this.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// Pauses between two looks at a board for something new: the first, doubled up to the longest. A sweep is not older
/// than the longest pause when a follower has it.
const LOOK: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// Largest whole number that Lua's arithmetic holds exactly.
const EXACT_MAX: u64 = 1 << 53;

static LEAD: LazyLock<Script> = LazyLock::new(|| Script::new(&[include_str!("shared_lead.lua")]));
static RESIGN: LazyLock<Script> = LazyLock::new(|| Script::new(&[include_str!("shared_resign.lua")]));
static POST: LazyLock<Script> = LazyLock::new(|| Script::new(&[include_str!("shared_post.lua")]));
static READ: LazyLock<Script> = LazyLock::new(|| Script::new(&[include_str!("shared_read.lua")]));
static DRAW: LazyLock<Script> = LazyLock::new(|| Script::new(&[include_str!("shared_draw.lua")]));
static ATTEND: LazyLock<Script> = LazyLock::new(|| Script::new(&[include_str!("shared_attend.lua")]));

/// See the module.
#[derive(Debug, Clone)]
pub struct RedisShared {
    redis: Redis,
    prefix: String,
}

impl RedisShared {
    /// Coordination over a connection of its own: `Redis::connect(options.clone())` beside the ledger's, with the same
    /// options. A handle that the ledger uses too would hide its standing (an answer to a script of ours says nothing
    /// of the incarnation), and would put its writes behind our readings.
    ///
    /// The prefix keeps deployments in one Redis apart. A process gives it to the core as `Deps::shared`.
    #[must_use]
    pub fn new(redis: Redis, prefix: &str) -> Arc<Self> {
        Arc::new(Self { redis, prefix: prefix.to_owned() })
    }

    async fn page(&self, task: &str, after: u64) -> Result<BoardPage, LedgerError> {
        let keys = Keys::of(&self.prefix, task);
        let sent = Instant::now();
        let args = [after.to_string(), BOARD_PAGE_MAX.to_string(), BOARD_REMOVED_MAX.to_string()];
        let answer = self.redis.eval(&READ, &keys.all(), &bytes_of(&args)).await?;
        board_page(&answer, sent.elapsed()).ok_or_else(|| odd("read"))
    }
}

/// The keys of a task.
struct Keys {
    lead: String,
    values: String,
    versions: String,
    removed: String,
}

impl Keys {
    fn of(prefix: &str, task: &str) -> Self {
        let key = |part: &str| format!("{{{prefix}:s:{task}}}:{part}");
        Self { lead: key("lead"), values: key("values"), versions: key("versions"), removed: key("removed") }
    }

    fn all(&self) -> [&[u8]; 4] {
        [self.lead.as_bytes(), self.values.as_bytes(), self.versions.as_bytes(), self.removed.as_bytes()]
    }
}

fn bytes_of(texts: &[String]) -> Vec<&[u8]> {
    texts.iter().map(String::as_bytes).collect()
}

fn millis(d: Duration) -> String {
    d.as_millis().to_string()
}

/// An answer that none of our scripts gives.
fn odd(verb: &str) -> LedgerError {
    LedgerError::Damaged { place: format!("shared {verb}"), detail: "the script's answer has another form".to_owned() }
}

/// `version, anew, complete, head or nothing, its age, (key, present, value, age)*`, ages in microseconds.
fn board_page(answer: &Value, asked_for: Duration) -> Option<BoardPage> {
    let [version, anew, complete, head, head_age, entries @ ..] = values::list(answer)? else { return None };
    let age = |micros: &Value| Some(Duration::from_micros(values::number(micros)?) + asked_for);
    let head = match values::bytes(head) {
        Some(value) => Some(BoardHead { value: value.to_vec(), age: age(head_age)? }),
        None => None,
    };
    let entry = |parts: &[Value]| {
        let [key, present, value, micros] = parts else { return None };
        let value = if values::number(present)? == 1 { Some(values::bytes(value)?.to_vec()) } else { None };
        Some(BoardEntry { key: values::text(key)?, value, age: age(micros)? })
    };
    Some(BoardPage {
        version: values::number(version)?,
        anew: values::number(anew)? == 1,
        entries: entries.chunks(4).map(entry).collect::<Option<_>>()?,
        complete: values::number(complete)? == 1,
        head,
    })
}

impl Shared for RedisShared {
    fn lead<'a>(&'a self, task: &'a str, owner: &'a str, lease: Duration) -> LedgerFuture<'a, Lead> {
        Box::pin(async move {
            let args = [millis(lease), millis(KEPT)];
            let [lease, kept] = &args;
            let args = [owner.as_bytes(), lease.as_bytes(), kept.as_bytes()];
            let answer = self.redis.eval(&LEAD, &[Keys::of(&self.prefix, task).lead.as_bytes()], &args).await?;
            match values::list(&answer) {
                Some([leads, number]) => match (values::number(leads), values::number(number)) {
                    (Some(1), Some(term)) => Ok(Lead::Leader { term }),
                    (Some(0), Some(left)) => Ok(Lead::Follower { left: Duration::from_micros(left) }),
                    _ => Err(odd("lead")),
                },
                _ => Err(odd("lead")),
            }
        })
    }

    fn resign<'a>(&'a self, task: &'a str, owner: &'a str) -> LedgerFuture<'a, ()> {
        Box::pin(async move {
            self.redis
                .eval(&RESIGN, &[Keys::of(&self.prefix, task).lead.as_bytes()], &[owner.as_bytes()])
                .await
                .map(|_| ())
        })
    }

    fn post<'a>(&'a self, task: &'a str, post: Post) -> LedgerFuture<'a, Posted> {
        Box::pin(async move {
            if let Some(error) = too_large(task, &post) {
                return Err(error);
            }
            let numbers = [post.term.to_string(), BOARD_REMOVED_MAX.to_string(), millis(KEPT)];
            let mut args = bytes_of(&numbers);
            args.push(if post.head.is_some() { b"1" } else { b"0" });
            args.push(post.head.as_deref().unwrap_or_default());
            for (key, value) in &post.changed {
                args.push(if value.is_some() { b"1" } else { b"0" });
                args.push(key.as_bytes());
                args.push(value.as_deref().unwrap_or_default());
            }
            let answer = self.redis.eval(&POST, &Keys::of(&self.prefix, task).all(), &args).await?;
            match values::number(&answer) {
                Some(0) => Ok(Posted::Deposed),
                Some(version) => Ok(Posted::Written { version }),
                None => Err(odd("post")),
            }
        })
    }

    fn read<'a>(&'a self, task: &'a str, after: u64, wait: Duration) -> LedgerFuture<'a, BoardPage> {
        Box::pin(async move {
            let until = Instant::now() + wait;
            let mut pause = LOOK.0;
            loop {
                let page = self.page(task, after).await?;
                let left = until.saturating_duration_since(Instant::now());
                if page.version != after || left.is_zero() {
                    return Ok(page);
                }
                sleep(pause.min(left)).await;
                pause = (pause * 2).min(LOOK.1);
            }
        })
    }

    fn draw<'a>(&'a self, bucket: &'a str, limit: Limit, want: u32) -> LedgerFuture<'a, Grant> {
        Box::pin(async move {
            let window_ms = u64::try_from(limit.window().as_millis()).unwrap_or(u64::MAX);
            if u64::from(limit.burst()).saturating_mul(window_ms) > EXACT_MAX {
                let detail = format!("a burst of {} in {window_ms} ms cannot be counted exactly", limit.burst());
                return Err(LedgerError::Invalid { place: bucket.to_owned(), detail });
            }
            let key = format!("{{{}:b:{bucket}}}", self.prefix);
            let numbers = [u64::from(limit.quota()), window_ms, u64::from(limit.burst()), u64::from(want)];
            let args = numbers.map(|n| n.to_string());
            let answer = self.redis.eval(&DRAW, &[key.as_bytes()], &bytes_of(&args)).await?;
            let numbers: Option<Vec<u64>> = values::list(&answer).and_then(|l| l.iter().map(values::number).collect());
            match numbers.as_deref() {
                Some([granted, left, next]) => Ok(Grant {
                    granted: u32::try_from(*granted).unwrap_or(want).min(want),
                    good_for: TOKENS_GOOD_FOR,
                    left: u32::try_from(*left).unwrap_or(u32::MAX),
                    next: Duration::from_millis(*next),
                }),
                _ => Err(odd("draw")),
            }
        })
    }

    fn attend<'a>(&'a self, owner: &'a str, lease: Duration) -> LedgerFuture<'a, Vec<String>> {
        Box::pin(async move {
            let args = [millis(lease), MEMBERS_MAX.to_string(), millis(KEPT)];
            let mut args = bytes_of(&args);
            args.insert(0, owner.as_bytes());
            let answer = self.redis.eval(&ATTEND, &[format!("{{{}:members}}", self.prefix).as_bytes()], &args).await?;
            let mut members = values::texts(&answer).ok_or_else(|| odd("attend"))?;
            members.sort();
            Ok(members)
        })
    }
}
