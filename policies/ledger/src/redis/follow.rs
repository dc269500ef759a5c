//! Walks over records: pages, and what was written since a position.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use meridian_model::{
    ids::{OperationId, TenantId},
    operation::OperationRecord,
};
use tokio::{
    task::yield_now,
    time::{Instant, sleep, timeout},
};

use super::{
    RedisLedger,
    leases::{PAGE_MAX, TENANTS_AT_ONCE},
    record, values,
};
use crate::{Feed, FeedPosition, Known, LedgerError, RecordPage};

/// Records that one script answers with: some hundred kilobytes, a millisecond of the server.
const SCRIPT_PAGE: usize = 100;
/// Known places that a script is told: more than are written between two calls of it.
const KNOWN_MAX: usize = 500;
/// From a hint to the look that it causes: writes come in bursts, and who follows its own is told of them here later than
/// by their answers.
const GATHER: Duration = Duration::from_millis(5);
/// While nothing is heard the store is asked this often: hints may be lost.
const POLL: Duration = Duration::from_secs(1);

impl RedisLedger {
    pub(super) async fn read_page(
        &self,
        from: Option<(TenantId, OperationId)>,
        limit: usize,
    ) -> Result<RecordPage, LedgerError> {
        let limit = limit.clamp(1, PAGE_MAX);
        let mut records: Vec<OperationRecord> = Vec::new();
        let (first, mut op) = match from {
            Some((tenant, op)) => (Some(tenant), op.as_str().to_owned()),
            None => (None, String::new()),
        };
        for tenant in self.list_tenants().await? {
            if first.as_ref().is_some_and(|first| tenant < *first) {
                continue;
            }
            if first.as_ref().is_some_and(|first| tenant > *first) {
                op.clear();
            }
            // One more than is wanted says where the next page begins.
            while records.len() <= limit {
                let count = (limit + 1 - records.len()).min(SCRIPT_PAGE);
                let text = count.to_string();
                let reply = self.ask(&self.scripts.page, &tenant, &[op.as_bytes(), text.as_bytes()]).await?;
                let Some(reply) = reply else { break };
                let some = self.decode_all(reply.part(0))?;
                let whole = some.len() == count;
                // The least text behind an operation's.
                op = some.last().map(|r| format!("{}\0", r.op_id)).unwrap_or_default();
                records.extend(some);
                if !whole {
                    break;
                }
            }
            op.clear();
        }
        let next = if records.len() > limit { records.pop().map(|r| (r.tenant, r.op_id)) } else { None };
        Ok(RecordPage { records, next })
    }

    pub(super) async fn follow(&self, after: FeedPosition, known: &Known, wait: Duration) -> Result<Feed, LedgerError> {
        let until = Instant::now() + wait;
        let mut hints = self.hints.clone();
        loop {
            hints.mark_unchanged();
            let feed = self.collect(&after, known).await?;
            let left = until.saturating_duration_since(Instant::now());
            if feed.position != after || left.is_zero() {
                return Ok(feed);
            }
            // Either a hint or the time to look again.
            if timeout(left.min(POLL), hints.changed()).await.is_ok() {
                sleep(GATHER.min(left)).await;
            }
        }
    }

    /// What was written since a position, without waiting. A tenant that cannot be read does not hold up the others, and
    /// is not hidden by them.
    async fn collect(&self, after: &FeedPosition, known: &Known) -> Result<Feed, LedgerError> {
        let tenants = self.list_tenants().await?;
        let asked = tenants.len();
        let mut answers = stream::iter(tenants)
            .map(async |tenant| {
                let seen = after.get(&tenant).copied().unwrap_or_default();
                let written = self.written_since(&tenant, seen, known).await;
                (tenant, seen, written)
            })
            .buffered(TENANTS_AT_ONCE);
        let mut feed = Feed { position: after.clone(), ..Feed::default() };
        let mut failed = None;
        while let Some((tenant, seen, written)) = answers.next().await {
            match written {
                Ok(Some(Written { records, seq, more })) if seq > seen => {
                    if more {
                        feed.unfinished.insert(tenant.clone());
                    }
                    feed.records.extend(records);
                    feed.position.insert(tenant, seq);
                }
                Ok(_) => {}
                Err(error) => {
                    feed.behind.insert(tenant, error.to_string());
                    failed = Some(error);
                }
            }
        }
        match failed {
            Some(error) if feed.behind.len() == asked => Err(error),
            _ => Ok(feed),
        }
    }

    /// What was written of a tenant since a place; `None` when the store does not know it.
    async fn written_since(&self, tenant: &TenantId, seen: u64, known: &Known) -> Result<Option<Written>, LedgerError> {
        let (after, count) = (seen.to_string(), SCRIPT_PAGE.to_string());
        let told: Vec<_> = known.after(tenant, seen, KNOWN_MAX).iter().map(u64::to_string).collect();
        let args = [after.as_bytes(), count.as_bytes(), &told.join(" ").into_bytes()];
        let Some(reply) = self.ask(&self.scripts.feed, tenant, &args).await? else { return Ok(None) };
        let seq = values::number(reply.part(0)).ok_or_else(|| reply.unexpected())?;
        // The answers to this process' own writes came before this one: whoever waits for them goes first.
        yield_now().await;
        let news = values::list(reply.part(1)).unwrap_or_default().iter();
        let news = news.filter(|fields| !record::seq_of(fields).is_some_and(|seq| known.has(tenant, seq)));
        let records = news.map(|fields| record::decode(fields, &self.sealer)).collect::<Result<_, _>>()?;
        self.saw(tenant, &reply.mark, seq);
        Ok(Some(Written { records, seq, more: values::number(reply.part(2)) == Some(1) }))
    }
}

/// A part of a tenant's writes.
struct Written {
    records: Vec<OperationRecord>,
    /// The place up to which they are all.
    seq: u64,
    /// There is more.
    more: bool,
}
