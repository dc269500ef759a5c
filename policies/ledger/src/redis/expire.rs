//! Expiry: what is gone for long shrinks to a tombstone, and that is forgotten after a time.

use meridian_model::{
    ids::{OperationId, TenantId},
    time::Time,
};

use futures_util::{StreamExt, TryStreamExt, stream};

use super::{
    RedisLedger,
    leases::{PAGE_MAX, TENANTS_AT_ONCE},
    record, values,
};
use crate::{LedgerError, tombstone};

/// Last write, tenant, operation: in the order in which they expire.
type Aged = (i64, TenantId, OperationId);

impl RedisLedger {
    pub(super) async fn run_expire(
        &self,
        keep_until: Time,
        forget_until: Time,
        limit: usize,
    ) -> Result<usize, LedgerError> {
        let limit = limit.min(PAGE_MAX);
        let forgotten = self.aged("tombs", forget_until, limit).await?;
        let gone = self.aged("gone", keep_until, limit.saturating_sub(forgotten.len())).await?;
        for (_, tenant, op) in &forgotten {
            self.ask(&self.scripts.forget, tenant, &[op.as_str().as_bytes()]).await?;
        }
        for (_, tenant, op) in &gone {
            self.bury(tenant, op).await?;
        }
        Ok(forgotten.len() + gone.len())
    }

    /// The oldest of one kind over all tenants.
    async fn aged(&self, kind: &str, before: Time, limit: usize) -> Result<Vec<Aged>, LedgerError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let tenants = self.list_tenants().await?;
        let each: Vec<Vec<Aged>> = stream::iter(tenants)
            .map(|tenant| self.aged_of(tenant, kind, before, limit))
            .buffered(TENANTS_AT_ONCE)
            .try_collect()
            .await?;
        let mut all: Vec<Aged> = each.into_iter().flatten().collect();
        all.sort();
        all.truncate(limit);
        Ok(all)
    }

    async fn aged_of(
        &self,
        tenant: TenantId,
        kind: &str,
        before: Time,
        limit: usize,
    ) -> Result<Vec<Aged>, LedgerError> {
        let (before, count) = (before.unix_ms().to_string(), limit.to_string());
        let args: [&[u8]; 3] = [kind.as_bytes(), before.as_bytes(), count.as_bytes()];
        let Some(reply) = self.ask(&self.scripts.aged, &tenant, &args).await? else { return Ok(Vec::new()) };
        let texts = values::texts(reply.part(0)).unwrap_or_default();
        let pairs = texts.chunks_exact(2).filter_map(|pair| match pair {
            [op, at] => Some((at.parse().ok()?, tenant.clone(), OperationId::new(op).ok()?)),
            _ => None,
        });
        Ok(pairs.collect())
    }

    async fn bury(&self, tenant: &TenantId, op: &OperationId) -> Result<(), LedgerError> {
        let Some(record) = self.find(&self.scripts.read, tenant, op.as_str()).await? else { return Ok(()) };
        let rev = record.rev.to_string();
        let mut rest = tombstone(*record);
        let body = record::encode(&mut rest, &self.sealer)?.body;
        // Whoever changed it meanwhile keeps it for another round.
        self.ask(&self.scripts.bury, tenant, &[op.as_str().as_bytes(), rev.as_bytes(), &body]).await.map(drop)
    }
}
