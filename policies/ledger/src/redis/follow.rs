//! Walks over records: pages, and what was written since a position.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use meridian_model::{
    ids::{OperationId, TenantId},
    operation::OperationRecord,
};
use tokio::time::{Instant, timeout};

use super::{
    RedisLedger,
    leases::{PAGE_MAX, TENANTS_AT_ONCE},
    values,
};
use crate::{Feed, FeedPosition, LedgerError, RecordPage};

/// Records that one script answers with: some hundred kilobytes, a millisecond of the server.
const SCRIPT_PAGE: usize = 100;
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

    pub(super) async fn follow(&self, after: FeedPosition, wait: Duration) -> Result<Feed, LedgerError> {
        let until = Instant::now() + wait;
        let mut hints = self.hints.clone();
        loop {
            hints.mark_unchanged();
            let feed = self.collect(&after).await?;
            let left = until.saturating_duration_since(Instant::now());
            if feed.position != after || left.is_zero() {
                return Ok(feed);
            }
            // Either a hint or the time to look again.
            let _ = timeout(left.min(POLL), hints.changed()).await;
        }
    }

    /// What was written since a position, without waiting. A tenant that cannot be read does not hold up the others, and
    /// is not hidden by them.
    async fn collect(&self, after: &FeedPosition) -> Result<Feed, LedgerError> {
        let tenants = self.list_tenants().await?;
        let asked = tenants.len();
        let mut answers = stream::iter(tenants)
            .map(async |tenant| {
                let seen = after.get(&tenant).copied().unwrap_or_default();
                let written = self.written_since(&tenant, seen).await;
                (tenant, seen, written)
            })
            .buffered(TENANTS_AT_ONCE);
        let mut feed = Feed { position: after.clone(), ..Feed::default() };
        let mut failed = None;
        while let Some((tenant, seen, written)) = answers.next().await {
            match written {
                Ok((records, seq)) if seq > seen => {
                    if records.len() == SCRIPT_PAGE {
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

    /// A tenant's records since a place, and the place up to which they are all.
    async fn written_since(&self, tenant: &TenantId, seen: u64) -> Result<(Vec<OperationRecord>, u64), LedgerError> {
        let (after, count) = (seen.to_string(), SCRIPT_PAGE.to_string());
        let reply = self.ask(&self.scripts.feed, tenant, &[after.as_bytes(), count.as_bytes()]).await?;
        let Some(reply) = reply else { return Ok((Vec::new(), seen)) };
        let seq = values::number(reply.part(0)).ok_or_else(|| reply.unexpected())?;
        let records = self.decode_all(reply.part(1))?;
        let seq = match records.last() {
            Some(last) if records.len() == SCRIPT_PAGE => last.seq,
            _ => seq,
        };
        self.saw(tenant, &reply.mark, seq);
        Ok((records, seq))
    }
}
