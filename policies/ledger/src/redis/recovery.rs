//! The verbs that work while the incarnation guard refuses: who lives, how each tenant stands, and the rebuild.
//!
//! Beside the layout of the parent module there are, while a tenant is rebuilt:
//!
//! | key | type | what |
//! |---|---|---|
//! | `T:rebuild` | hash | the token: `owner`, `nonce`, `server` (its `run_id`), `till` (end of the lease) |
//! | `T:handed`, `T:handed:OP` | zset, hash | records that gateways handed in, in the fields of `T:op:OP` |
//! | `T:noted`, `T:notes` | zset, hash | name -> text that gateways handed in beside records |
//! | `P{all}:members` | hash | gateway -> time of its last sign of life, and what it says |

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
    time::Duration,
};

use futures_util::{StreamExt, TryStreamExt, stream};
use meridian_model::{ids::TenantId, operation::OperationRecord, time::Time};
use redis::Value;

use super::{
    LAYOUT, RedisLedger, Script, pots,
    record::{self, damaged},
    scripts::{LACKS, POTS},
    status,
    tenants::{SEAL_PLACE, SEAL_TEXT},
    values,
};
use crate::{
    LedgerError, LedgerFuture,
    recovery::{Begun, Finish, Mark, Member, NotePage, Recovery, RemainingPage, Roll, TenantStanding, Token},
};

static RECOVERY: LazyLock<Script> =
    LazyLock::new(|| Script::new(&[LACKS, include_str!("lua/recovery.lua"), POTS, include_str!("lua/rebuild.lua")]));
static ROLL: LazyLock<Script> = LazyLock::new(|| Script::new(&[include_str!("lua/roll.lua")]));

/// Tenants that are asked at the same time.
const AT_ONCE: usize = 16;

impl RedisLedger {
    async fn recover(&self, tenant: &TenantId, args: &[&[u8]]) -> Result<(String, Vec<Value>), LedgerError> {
        let meta = self.keys.meta(tenant);
        let seen = self.seen_text(tenant);
        let args: Vec<&[u8]> = args.iter().copied().chain([seen.as_bytes()]).collect();
        let answer = self.redis.eval_unguarded(&RECOVERY, &[&meta], &args).await?;
        let status = status(&answer).ok_or_else(|| damaged("redis", "a script gave no answer"))?;
        let Value::Array(mut parts) = answer else { return Err(damaged("redis", "a script gave no list")) };
        parts.drain(..1);
        Ok((status, parts))
    }

    async fn on_roll(&self, args: &[&[u8]]) -> Result<Value, LedgerError> {
        let keys = ["meta", "tenants", "members"].map(|name| self.keys.common(name));
        let [meta, tenants, members] = &keys;
        self.redis.eval_unguarded(&ROLL, &[meta, tenants, members], args).await
    }

    async fn read_roll(&self) -> Result<Roll, LedgerError> {
        let (roll, _) = self.read_states().await?;
        Ok(roll)
    }

    /// The list, and which of its tenants are ready.
    async fn read_states(&self) -> Result<(Roll, BTreeSet<TenantId>), LedgerError> {
        let answer = self.on_roll(&[b"roll"]).await?;
        let parts = values::list(&answer).unwrap_or_default();
        let whole = parts.first().and_then(values::number) == Some(1);
        let texts = parts.get(1).and_then(values::texts).unwrap_or_default();
        let (mut tenants, mut ready) = (BTreeSet::new(), BTreeSet::new());
        for pair in texts.chunks_exact(2) {
            let [name, state] = pair else { continue };
            let tenant = TenantId::new(name).map_err(|e| damaged("tenants", e.to_string()))?;
            if state == "ready" {
                ready.insert(tenant.clone());
            }
            tenants.insert(tenant);
        }
        Ok((Roll { whole, tenants }, ready))
    }

    async fn stand(&self, tenants: Vec<TenantId>) -> Result<BTreeMap<TenantId, TenantStanding>, LedgerError> {
        let (roll, ready) = self.read_states().await?;
        let standings: Vec<(TenantId, TenantStanding)> = stream::iter(tenants)
            .map(async |tenant| {
                let (_, parts) = self.recover(&tenant, &[b"standing"]).await?;
                let part = |n: usize| parts.get(n).and_then(values::text);
                let server = part(0).ok_or_else(|| damaged("redis", "the server has no run_id"))?;
                let number = |n: usize| parts.get(n).and_then(values::number).unwrap_or_default();
                let data = part(1).map(|incarnation| Mark { incarnation, seq: number(2), generation: number(3) });
                // A list can come back older than it was, too: what was seen once is not new.
                let was_seen = !self.seen_text(&tenant).is_empty();
                let is_new = data.is_none() && roll.whole && !ready.contains(&tenant) && !was_seen;
                Ok::<_, LedgerError>((tenant, TenantStanding { server, data, is_new }))
            })
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        for (tenant, standing) in &standings {
            if let Some(mark) = standing.data.as_ref().filter(|_| standing.is_whole()) {
                self.saw(tenant, mark, mark.seq);
            }
        }
        Ok(standings.into_iter().collect())
    }

    async fn say(&self, member: Member, forget_after: Option<Duration>) -> Result<Vec<Member>, LedgerError> {
        let says = serde_json::to_vec(&member).map_err(|e| damaged("members", e.to_string()))?;
        let forget = forget_after.map(|after| after.as_millis().to_string()).unwrap_or_default();
        let answer = self.on_roll(&[b"beat", member.owner.as_bytes(), &says, forget.as_bytes()]).await?;
        let mut members = Vec::new();
        for pair in values::list(&answer).unwrap_or_default() {
            let parts = values::list(pair).unwrap_or_default();
            let owner = parts.first().and_then(values::text).unwrap_or_default();
            let silent_ms = parts.get(1).and_then(values::number).unwrap_or(u64::MAX);
            let said = parts.get(2).and_then(values::bytes).unwrap_or_default();
            // One of another version may say it in other words: it is there, and confirms nothing that we understand.
            let confirms = serde_json::from_slice::<Member>(said).map(|m| m.confirms).unwrap_or_default();
            members.push(Member { owner, confirms, silent_ms });
        }
        Ok(members)
    }

    async fn ask_token(
        &self,
        tenant: TenantId,
        (owner, nonce): (String, String),
        lease: Duration,
    ) -> Result<Begun, LedgerError> {
        let lease = lease.as_millis().to_string();
        let args: [&[u8]; 4] = [b"begin", owner.as_bytes(), nonce.as_bytes(), lease.as_bytes()];
        let (status, parts) = self.recover(&tenant, &args).await?;
        match status.as_str() {
            "yours" => {
                let server = parts.first().and_then(values::text).unwrap_or_default();
                Ok(Begun::Yours(Token { tenant, server, nonce }))
            }
            "another" => {
                let left = parts.first().and_then(values::number).unwrap_or_default();
                Ok(Begun::Another(Duration::from_millis(left)))
            }
            _ => Ok(Begun::Whole),
        }
    }

    async fn renew_token(&self, token: &Token, lease: Duration) -> Result<bool, LedgerError> {
        let lease = lease.as_millis().to_string();
        let (status, _) = self.recover(&token.tenant, &[b"renew", token.nonce.as_bytes(), lease.as_bytes()]).await?;
        Ok(status == "done" || status == "whole")
    }

    async fn hand_in(&self, mut record: OperationRecord) -> Result<bool, LedgerError> {
        let encoded = record::encode(&mut record, &self.sealer)?;
        let sealed = encoded.seal(&record, &self.sealer)?;
        let (rev, seq) = (record.rev.to_string(), record.seq.to_string());
        let (fence, updated) = (record::fence_text(&record.fence), record.updated_at.unix_ms().to_string());
        let args: [&[u8]; 10] = [
            b"hand",
            record.op_id.as_str().as_bytes(),
            rev.as_bytes(),
            seq.as_bytes(),
            fence.as_bytes(),
            encoded.due.as_bytes(),
            updated.as_bytes(),
            encoded.removal.as_bytes(),
            &encoded.body,
            &sealed,
        ];
        let (status, _) = self.recover(&record.tenant, &args).await?;
        Ok(status == "done")
    }

    /// One page of an index; what cannot be read is named.
    async fn page(
        &self,
        token: &Token,
        (index, offset): (&str, usize),
        limit: usize,
    ) -> Result<(RemainingPage, bool), LedgerError> {
        let (offset, count) = (offset.to_string(), limit.to_string());
        let args: [&[u8]; 5] = [b"page", token.nonce.as_bytes(), index.as_bytes(), offset.as_bytes(), count.as_bytes()];
        let (status, parts) = self.recover(&token.tenant, &args).await?;
        if status != "page" {
            return Err(overtaken());
        }
        let found = parts.first().and_then(values::list).unwrap_or_default();
        let mut page = RemainingPage::default();
        for pair in found {
            let pair = values::list(pair).unwrap_or_default();
            let name = pair.first().and_then(values::text).unwrap_or_default();
            match record::decode(pair.get(1).unwrap_or(&Value::Nil), &self.sealer) {
                Ok(record) => page.records.push(record),
                Err(_) => page.unreadable.push(format!("{}/{index}/{name}", token.tenant)),
            }
        }
        Ok((page, found.len() < limit))
    }

    /// Walks several indexes one after the other; a position is `index:offset`.
    async fn walk(
        &self,
        token: &Token,
        indexes: &[&str],
        from: Option<String>,
        limit: usize,
    ) -> Result<RemainingPage, LedgerError> {
        let limit = limit.max(1);
        let start = from.as_deref().and_then(|f| f.split_once(':'));
        let (name, offset) = start.unwrap_or((indexes.first().copied().unwrap_or_default(), "0"));
        let offset: usize = offset.parse().unwrap_or_default();
        let (mut page, ended) = self.page(token, (name, offset), limit).await?;
        page.next = if ended {
            let following = indexes.iter().skip_while(|i| **i != name).nth(1);
            following.map(|index| format!("{index}:0"))
        } else {
            Some(format!("{name}:{}", offset + limit))
        };
        Ok(page)
    }

    async fn jot(&self, tenant: TenantId, name: String, text: String) -> Result<bool, LedgerError> {
        let (status, _) = self.recover(&tenant, &[b"note", name.as_bytes(), text.as_bytes()]).await?;
        Ok(status == "done")
    }

    async fn read_notes(&self, token: Token, from: Option<String>, limit: usize) -> Result<NotePage, LedgerError> {
        let limit = limit.max(1);
        let offset: usize = from.and_then(|f| f.parse().ok()).unwrap_or_default();
        let (at, count) = (offset.to_string(), limit.to_string());
        let args: [&[u8]; 4] = [b"notes", token.nonce.as_bytes(), at.as_bytes(), count.as_bytes()];
        let (status, parts) = self.recover(&token.tenant, &args).await?;
        if status != "notes" {
            return Err(overtaken());
        }
        let notes = parts.first().and_then(values::texts).unwrap_or_default();
        let next = (notes.len() == limit).then(|| (offset + limit).to_string());
        Ok(NotePage { notes, next })
    }

    async fn put_back(&self, token: &Token, mut record: OperationRecord) -> Result<bool, LedgerError> {
        let encoded = record::encode(&mut record, &self.sealer)?;
        let sealed = encoded.seal(&record, &self.sealer)?;
        let [counter, rev, seq] = [record.fence.counter, record.rev, record.seq].map(|n| n.to_string());
        let updated = record.updated_at.unix_ms().to_string();
        let args: [&[u8]; 17] = [
            b"restore",
            token.nonce.as_bytes(),
            record.op_id.as_str().as_bytes(),
            record.uid.as_str().as_bytes(),
            counter.as_bytes(),
            rev.as_bytes(),
            seq.as_bytes(),
            encoded.identity.as_bytes(),
            encoded.removal.as_bytes(),
            encoded.standing.as_bytes(),
            encoded.due.as_bytes(),
            updated.as_bytes(),
            record.name.as_str().as_bytes(),
            &encoded.body,
            &encoded.digest,
            &sealed,
            encoded.parts.as_bytes(),
        ];
        let (status, _) = self.recover(&token.tenant, &args).await?;
        Ok(status == "done")
    }

    async fn end_rebuild(&self, token: &Token, how: Finish, now: Time) -> Result<bool, LedgerError> {
        let (seq, quota) = match how {
            Finish::Untouched { quota } => (None, quota),
            Finish::Rebuilt { quota, seq } => (Some(seq.to_string()), Some(quota)),
        };
        let verb: &[u8] = if seq.is_some() { b"rebuilt" } else { b"untouched" };
        let (seq, moment) = (seq.unwrap_or_default(), self.moment(now, None));
        let mut args: Vec<&[u8]> = vec![verb, token.nonce.as_bytes(), seq.as_bytes(), moment.as_bytes()];
        let limits = quota.as_ref().map(|quota| record::limit_texts(&quota.limits));
        let tree = quota.as_ref().map(|quota| pots::tree_texts(&token.tenant, &quota.tree)).transpose()?;
        args.extend(limits.iter().flatten().map(|l| l.as_bytes()));
        args.extend(tree.iter().flatten().map(|l| l.as_bytes()));
        let (status, _) = self.recover(&token.tenant, &args).await?;
        Ok(status == "done")
    }

    async fn write_roll(&self, tenants: &[TenantId]) -> Result<(), LedgerError> {
        let seal = self.sealer.seal(SEAL_PLACE, SEAL_TEXT).map_err(|_| damaged("meta", "the key seals nothing"))?;
        let layout = LAYOUT.to_string();
        let mut args: Vec<&[u8]> = vec![b"enlist", layout.as_bytes(), &seal];
        args.extend(tenants.iter().map(|t| t.as_str().as_bytes()));
        self.on_roll(&args).await.map(drop)
    }
}

fn overtaken() -> LedgerError {
    LedgerError::Recovering("another gateway rebuilds it now".to_owned())
}

impl Recovery for RedisLedger {
    fn standings(&self, tenants: Vec<TenantId>) -> LedgerFuture<'_, BTreeMap<TenantId, TenantStanding>> {
        Box::pin(self.stand(tenants))
    }

    fn seen(&self) -> BTreeMap<TenantId, Mark> {
        Self::seen(self)
    }

    fn beat(&self, member: Member, forget_after: Option<Duration>) -> LedgerFuture<'_, Vec<Member>> {
        Box::pin(self.say(member, forget_after))
    }

    fn leave(&self, owner: &str) -> LedgerFuture<'_, ()> {
        let owner = owner.to_owned();
        Box::pin(async move { self.on_roll(&[b"leave", owner.as_bytes()]).await.map(drop) })
    }

    fn begin(&self, tenant: &TenantId, owner: &str, nonce: &str, lease: Duration) -> LedgerFuture<'_, Begun> {
        Box::pin(self.ask_token(tenant.clone(), (owner.to_owned(), nonce.to_owned()), lease))
    }

    fn renew(&self, token: &Token, lease: Duration) -> LedgerFuture<'_, bool> {
        let token = token.clone();
        Box::pin(async move { self.renew_token(&token, lease).await })
    }

    fn remaining(&self, token: &Token, from: Option<String>, limit: usize) -> LedgerFuture<'_, RemainingPage> {
        let token = token.clone();
        Box::pin(async move { self.walk(&token, &["ops", "tombs"], from, limit).await })
    }

    fn contribute(&self, record: OperationRecord) -> LedgerFuture<'_, bool> {
        Box::pin(self.hand_in(record))
    }

    fn note(&self, tenant: &TenantId, name: &str, text: String) -> LedgerFuture<'_, bool> {
        Box::pin(self.jot(tenant.clone(), name.to_owned(), text))
    }

    fn notes(&self, token: &Token, from: Option<String>, limit: usize) -> LedgerFuture<'_, NotePage> {
        Box::pin(self.read_notes(token.clone(), from, limit))
    }

    fn contributions(&self, token: &Token, from: Option<String>, limit: usize) -> LedgerFuture<'_, RemainingPage> {
        let token = token.clone();
        Box::pin(async move { self.walk(&token, &["handed"], from, limit).await })
    }

    fn restore(&self, token: &Token, record: OperationRecord) -> LedgerFuture<'_, bool> {
        let token = token.clone();
        Box::pin(async move { self.put_back(&token, record).await })
    }

    fn finish(&self, token: &Token, how: Finish, now: Time) -> LedgerFuture<'_, bool> {
        let token = token.clone();
        Box::pin(async move { self.end_rebuild(&token, how, now).await })
    }

    fn roll(&self) -> LedgerFuture<'_, Roll> {
        Box::pin(self.read_roll())
    }

    fn enlist(&self, tenants: Vec<TenantId>) -> LedgerFuture<'_, ()> {
        Box::pin(async move { self.write_roll(&tenants).await })
    }
}
