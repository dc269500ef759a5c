//! The Redis ledger: one store for several gateways (RELIABILITY 2.9).
//!
//! One script is one step on one tenant, whose keys share a hash tag and so a slot. Times of leases and of what is spent
//! are the server's; all other times come with the commands. Every script on a tenant begins with the incarnation guard
//! (`lua/prelude.lua`). `P` is the deployment's prefix, `T` is `P{t:TENANT}`:
//!
//! | key | type | what |
//! |---|---|---|
//! | `T:meta` | hash | `incarnation`: `run_id` of the server under which all this is whole, or `behind` when somebody saw more of it; `generation`: how often it was confirmed or rebuilt; `seq`: place of the last write; `joining` while the tenant is being made |
//! | `T:op:OP` | hash | a record: `b` JSON without spec, `s` sealed spec, `h` digest of the spec, `r` revision, `q` place, `f` fence (store, counter, owner in lines), `d` due or empty, `m` last write, `x` removal asked for or empty, `u` uid, `i` creation, name, fingerprint in lines, `w` gone, epoch, five charges in words, `p` where its charge lies in rows, `pb` the SHA-1 of the `b` that it was written with (an older gateway writes `b` alone); `z` in what an expired record left, which has no `s h w d p pb` |
//! | `T:names` | hash | name -> operation that is not gone |
//! | `T:usage`, `T:limits` | hash | dimension 1 to 5 (instances, cpu, memory, gpu, public addresses) -> amount |
//! | `T:pots` | hash | where the charges lie: project, provider, region and GPU model -> seven amounts (and disk, price) in words; `#`: the generation under which they were added up (`lua/pots.lua`) |
//! | `T:tree` | hash | the quota tree: `json` as it was given, `plan` as scripts read it; not there without one |
//! | `T:spends` | hash | project (`-`: the tenant itself) -> month, spent, rest, since, rate, spent in the month before, in words; only where there is a budget |
//! | `T:changed` | zset | operation by place: the feed |
//! | `T:ops` | zset | operations, all of score 0: the order of pages |
//! | `T:open:OWNER` | zset | operations that are due and have this owner, all of score 0 |
//! | `T:owners` | set | owners with such a list |
//! | `T:gone`, `T:tombs` | zset | gone records, and what expired ones left, by last write |
//! | `P{all}:meta` | hash | `incarnation` of the list of tenants; `layout`; `seal`: a known text under the seal key |
//! | `P{all}:tenants` | hash | tenant -> `joining` or `ready` |
//! | `P{all}:leases` | hash | owner -> end of its lease |
//! | `P:changed` | channel | the tenant that was written for: a hint |
//!
//! *A tenant is made* in four steps, so that none can be lost without a trace: listed as joining, its `meta` made with
//! a mark, listed as ready, the mark taken off. Only then is anything written for it. One that is listed as ready and
//! has no `meta` has lost it.
//!
//! *Round trips*: claim 1, step 1 (2 when the spec changed), settle and removal 1, take-over 3, a read 1. A lease is
//! extended beside a claim only when this process did not extend it lately.
//!
//! *What remains*: a primary that is cut off from its replicas and still reached by a gateway goes on to serve it. With
//! `min-replicas-to-write` or [`LedgerOptions::acks`] its writes are refused, or end with an unknown outcome.

mod check;
mod cluster;
mod connect;
mod dial;
mod documents;
mod expire;
mod follow;
mod keys;
mod leases;
mod link;
mod options;
mod pots;
mod record;
mod recovery;
mod scripts;
mod shared;
mod steps;
mod tenants;
#[cfg(test)]
mod tests;
mod values;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use meridian_model::{
    ids::{InstanceName, OperationId, TenantId},
    operation::{Charge, OperationRecord, QuotaLimits},
    quota::QuotaTree,
    time::Time,
};
use meridian_policies::quota::parts;
use redis::Value;
use tokio::{sync::watch, task::AbortHandle, time::Instant};

pub use self::{
    check::{CheckError, Warning},
    connect::{Connect, Connecting, Stream, TcpConnect},
    documents::RedisDocuments,
    link::{Acks, Redis, Script},
    options::{Address, Options, Servers, Tls, User},
    shared::RedisShared,
    tenants::InitialiseError,
};
use self::{keys::Keys, scripts::Scripts};
use crate::{
    Books, Claim, Claimed, Feed, FeedPosition, Known, Ledger, LedgerError, LedgerFuture, RecordPage, Standing, Step,
    Stepped, TakeOver, TakenOver, Usage,
    recovery::Mark,
    seal::{SealKey, Sealer},
};

/// Version of the layout above.
pub(super) const LAYOUT: u16 = 1;

/// How the ledger uses its Redis.
#[derive(Debug, Clone)]
pub struct LedgerOptions {
    /// First part of every key; deployments that share a Redis differ in it.
    pub prefix: String,
    /// Seals specs.
    pub key: SealKey,
    /// Whose time leases and months are measured in.
    pub time: LeaseTime,
    /// Whether replicas must confirm each write of a record.
    pub acks: Option<Acks>,
}

/// Whose time leases and months are measured in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LeaseTime {
    /// The server's: clocks of gateways are never compared.
    #[default]
    Server,
    /// The callers', as they give it; to compare this ledger with one that has no clock.
    Callers,
}

/// The ledger in a Redis.
pub struct RedisLedger {
    redis: Redis,
    keys: Keys,
    scripts: Scripts,
    sealer: Sealer,
    time: LeaseTime,
    acks: Option<Acks>,
    /// Until when each owner's lease lasts at least, as far as this process knows.
    held: Mutex<BTreeMap<String, Instant>>,
    seen: Mutex<BTreeMap<TenantId, Mark>>,
    /// Counts the hints that something was written.
    hints: watch::Receiver<u64>,
    listener: AbortHandle,
}

impl fmt::Debug for RedisLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisLedger").field("redis", &self.redis).field("keys", &self.keys).finish_non_exhaustive()
    }
}

impl Drop for RedisLedger {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

/// The answer of a script on a tenant.
#[derive(Debug)]
struct Reply {
    status: String,
    /// Under what the answer was given; its place is 0.
    mark: Mark,
    rest: Vec<Value>,
}

impl Reply {
    fn part(&self, n: usize) -> &Value {
        self.rest.get(n).unwrap_or(&Value::Nil)
    }

    /// An answer that no script gives.
    fn unexpected(&self) -> LedgerError {
        record::damaged("redis", format!("a script answered `{}`", self.status))
    }
}

impl RedisLedger {
    /// A ledger in a Redis. Must be called within a runtime; asks nothing yet.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`] if the key is refused.
    pub fn new(redis: Redis, options: LedgerOptions) -> Result<Self, LedgerError> {
        let LedgerOptions { prefix, key, time, acks } = options;
        let sealer = Sealer::new(&key).ok_or_else(|| LedgerError::Unavailable("the key is refused".to_owned()))?;
        let keys = Keys::new(prefix);
        let (sender, hints) = watch::channel(0);
        let mut subscription = redis.subscribe(&keys.channel());
        let listener = tokio::spawn(async move {
            loop {
                let _ = subscription.next().await;
                sender.send_modify(|hints: &mut u64| *hints = hints.wrapping_add(1));
            }
        });
        Ok(Self {
            redis,
            keys,
            scripts: Scripts::new(),
            sealer,
            time,
            acks,
            held: Mutex::default(),
            seen: Mutex::default(),
            hints,
            listener: listener.abort_handle(),
        })
    }

    /// What was seen last of each tenant: the greatest place of any write that was acknowledged to this process or read
    /// by it, under which incarnation.
    #[must_use]
    pub fn seen(&self) -> BTreeMap<TenantId, Mark> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Runs a script on a tenant. `None`: the tenant is not known to the store.
    async fn run(
        &self,
        script: &Script,
        tenant: &TenantId,
        args: &[&[u8]],
        must_last: bool,
    ) -> Result<Option<Reply>, LedgerError> {
        let meta = self.keys.meta(tenant);
        let keys = [meta.as_slice()];
        let seen = self.seen_text(tenant);
        let args: Vec<&[u8]> = args.iter().copied().chain([seen.as_bytes()]).collect();
        let call = link::Call { script, keys: &keys, args: &args };
        let acks = self.acks.filter(|_| must_last);
        // What was written before counts like what was written now: the answer to the writer may have been lost. The
        // server waits for everything up to the script, whoever wrote it.
        let wrote =
            |value: &Value| matches!(status(value).as_deref(), Some("new" | "written" | "joined" | "changed" | "same"));
        let value = self.redis.eval_acked(call, acks, wrote).await?;
        let status = status(&value).ok_or_else(|| record::damaged("redis", "a script gave no answer"))?;
        if status == "unknown" {
            return Ok(None);
        }
        self.redis.proved();
        let Value::Array(mut rest) = value else { return Err(record::damaged("redis", "a script gave no list")) };
        let mut head = rest.drain(..rest.len().min(2));
        let mark = head.nth(1).as_ref().and_then(mark_of).unwrap_or_default();
        drop(head);
        Ok(Some(Reply { status, mark, rest }))
    }

    /// As [`RedisLedger::run`], for what needs no acknowledgement; a tenant that is not known is made sure to be new.
    async fn ask(&self, script: &Script, tenant: &TenantId, args: &[&[u8]]) -> Result<Option<Reply>, LedgerError> {
        match self.run(script, tenant, args, false).await? {
            Some(reply) => Ok(Some(reply)),
            None => self.confirm_new(tenant).await.map(|()| None),
        }
    }

    fn decode(&self, value: &Value) -> Result<Box<OperationRecord>, LedgerError> {
        record::decode(value, &self.sealer).map(Box::new)
    }

    fn decode_all(&self, value: &Value) -> Result<Vec<OperationRecord>, LedgerError> {
        values::list(value).unwrap_or_default().iter().map(|v| record::decode(v, &self.sealer)).collect()
    }

    async fn find(
        &self,
        script: &Script,
        tenant: &TenantId,
        arg: &str,
    ) -> Result<Option<Box<OperationRecord>>, LedgerError> {
        match self.ask(script, tenant, &[arg.as_bytes()]).await? {
            Some(reply) if reply.status == "record" => self.noted(tenant, &reply).map(Some),
            Some(reply) if reply.status != "missing" => Err(reply.unexpected()),
            _ => Ok(None),
        }
    }

    async fn read_usage(&self, tenant: &TenantId) -> Result<Usage, LedgerError> {
        self.read_books(tenant).await.map(|books| books.usage)
    }

    async fn read_books(&self, tenant: &TenantId) -> Result<Books, LedgerError> {
        let Some(reply) = self.ask(&self.scripts.books, tenant, &[]).await? else { return Ok(Books::default()) };
        let usage = record::charge_of(reply.part(0)).zip(record::limits_of(reply.part(1)));
        let (used, limits) = usage.ok_or_else(|| record::damaged(format!("{tenant}/usage"), "not five numbers"))?;
        let lie =
            pots::pots_of(reply.part(2)).ok_or_else(|| record::damaged(format!("{tenant}/pots"), "not in rows"))?;
        // Older gateways count five dimensions; the other two are only in the pots.
        let Charge { disk, cost, .. } = parts::total(lie.values());
        let tree = pots::tree_of(reply.part(3))?;
        let spends = pots::spends_of(reply.part(4));
        let spends = spends.ok_or_else(|| record::damaged(format!("{tenant}/spends"), "not six numbers"))?;
        Ok(Books { usage: Usage { used: Charge { disk, cost, ..used }, limits }, pots: lie, tree, spends })
    }

    /// A moment for scripts, in the clock that leases are measured in.
    fn moment(&self, now: Time, lifetime: Option<u32>) -> String {
        pots::moment_text(now, lifetime, self.time)
    }

    async fn write_tree(&self, tenant: &TenantId, tree: &QuotaTree, now: Time) -> Result<(), LedgerError> {
        let ([json, plan], moment) = (pots::tree_texts(tenant, tree)?, self.moment(now, None));
        let args = [json.as_bytes(), plan.as_bytes(), moment.as_bytes()];
        if self.run(&self.scripts.tree, tenant, &args, false).await?.is_none() {
            self.enrol(tenant).await?;
            self.run(&self.scripts.tree, tenant, &args, false).await?.ok_or_else(tenants::lost)?;
        }
        Ok(())
    }

    async fn write_limits(&self, tenant: &TenantId, limits: &QuotaLimits) -> Result<(), LedgerError> {
        let texts = record::limit_texts(limits);
        let args: Vec<&[u8]> = texts.iter().map(|t| t.as_bytes()).collect();
        if self.run(&self.scripts.limits, tenant, &args, false).await?.is_none() {
            self.enrol(tenant).await?;
            self.run(&self.scripts.limits, tenant, &args, false).await?.ok_or_else(tenants::lost)?;
        }
        Ok(())
    }

    /// Notes what was seen of a tenant.
    fn saw(&self, tenant: &TenantId, mark: &Mark, seq: u64) {
        if mark.incarnation.is_empty() {
            return;
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.entry(tenant.clone()).or_default().advance(Mark { seq, ..mark.clone() });
    }

    /// What was seen of a tenant, for a script.
    fn seen_text(&self, tenant: &TenantId) -> String {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mark = seen.get(tenant);
        mark.map(|m| format!("{} {} {}", m.generation, m.seq, m.incarnation)).unwrap_or_default()
    }
}

/// Incarnation and generation from the second part of a script's answer.
fn mark_of(value: &Value) -> Option<Mark> {
    let [incarnation, generation] = values::list(value)? else { return None };
    Some(Mark { incarnation: values::text(incarnation)?, seq: 0, generation: values::number(generation)? })
}

/// The first element of a script's answer.
fn status(value: &Value) -> Option<String> {
    values::list(value)?.first().and_then(values::text)
}

impl Ledger for RedisLedger {
    fn claim(&self, claim: Claim) -> LedgerFuture<'_, Claimed> {
        Box::pin(self.run_claim(claim))
    }

    fn step(&self, step: Step) -> LedgerFuture<'_, Stepped> {
        Box::pin(self.run_step(step))
    }

    fn request_removal(
        &self,
        tenant: &TenantId,
        op: &OperationId,
        now: Time,
        reason: Option<&str>,
    ) -> LedgerFuture<'_, Option<Box<OperationRecord>>> {
        let (tenant, op, reason) = (tenant.clone(), op.clone(), reason.unwrap_or_default().to_owned());
        Box::pin(async move { self.run_removal(&tenant, &op, (now, &reason)).await })
    }

    fn take_over(&self, wish: TakeOver) -> LedgerFuture<'_, TakenOver> {
        Box::pin(self.run_take_over(wish))
    }

    fn renew(&self, owner: &str, now: Time, lease: Duration) -> LedgerFuture<'_, ()> {
        let owner = owner.to_owned();
        Box::pin(async move { self.extend(&owner, now, lease).await })
    }

    fn release(&self, owner: &str) -> LedgerFuture<'_, ()> {
        let owner = owner.to_owned();
        Box::pin(async move { self.end_lease(&owner).await })
    }

    fn abandoned(&self, except: &str, now: Time, limit: usize) -> LedgerFuture<'_, Vec<OperationRecord>> {
        let except = except.to_owned();
        Box::pin(async move { self.find_abandoned(&except, now, limit).await })
    }

    fn feed(&self, after: &FeedPosition, known: &Known, wait: Duration) -> LedgerFuture<'_, Option<Feed>> {
        let (after, known) = (after.clone(), known.clone());
        Box::pin(async move { self.follow(after, &known, wait).await.map(Some) })
    }

    fn standing(&self) -> Standing {
        self.redis.standing()
    }

    fn trouble(&self) -> Option<String> {
        self.redis.trouble()
    }

    fn operation(&self, tenant: &TenantId, op: &OperationId) -> LedgerFuture<'_, Option<Box<OperationRecord>>> {
        let (tenant, op) = (tenant.clone(), op.clone());
        Box::pin(async move { self.find(&self.scripts.read, &tenant, op.as_str()).await })
    }

    fn instance(&self, tenant: &TenantId, name: &InstanceName) -> LedgerFuture<'_, Option<Box<OperationRecord>>> {
        let (tenant, name) = (tenant.clone(), name.clone());
        Box::pin(async move { self.find(&self.scripts.name, &tenant, name.as_str()).await })
    }

    fn records(&self, from: Option<(TenantId, OperationId)>, limit: usize) -> LedgerFuture<'_, RecordPage> {
        Box::pin(self.read_page(from, limit))
    }

    fn usage(&self, tenant: &TenantId) -> LedgerFuture<'_, Usage> {
        let tenant = tenant.clone();
        Box::pin(async move { self.read_usage(&tenant).await })
    }

    fn set_limits(&self, tenant: &TenantId, limits: QuotaLimits) -> LedgerFuture<'_, ()> {
        let tenant = tenant.clone();
        Box::pin(async move { self.write_limits(&tenant, &limits).await })
    }

    fn books(&self, tenant: &TenantId) -> LedgerFuture<'_, Books> {
        let tenant = tenant.clone();
        Box::pin(async move { self.read_books(&tenant).await })
    }

    fn set_tree(&self, tenant: &TenantId, tree: &QuotaTree, now: Time) -> LedgerFuture<'_, ()> {
        let (tenant, tree) = (tenant.clone(), tree.clone());
        Box::pin(async move { self.write_tree(&tenant, &tree, now).await })
    }

    fn expire(&self, keep_until: Time, forget_until: Time, limit: usize) -> LedgerFuture<'_, usize> {
        Box::pin(self.run_expire(keep_until, forget_until, limit))
    }
}
