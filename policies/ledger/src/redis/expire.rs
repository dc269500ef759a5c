//! Expiry: what is gone for long shrinks to a tombstone, and that is forgotten after a time.

use meridian_model::{
    ids::{OperationId, TenantId},
    time::Time,
};

use futures_util::{StreamExt, stream};

use super::{
    RedisLedger,
    leases::{PAGE_MAX, TENANTS_AT_ONCE, answered},
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
        let (mut touched, mut failed) = (0, None);
        let mut note = |(tenant, op): (&TenantId, &OperationId), done: Result<(), LedgerError>| match done {
            Ok(()) => touched += 1,
            Err(error) => {
                tracing::warn!(%tenant, %op, %error, "an old operation was not shrunk; others are");
                failed = Some(error);
            }
        };
        for (_, tenant, op) in &forgotten {
            let done = self.ask(&self.scripts.forget, tenant, &[op.as_str().as_bytes()]).await;
            note((tenant, op), done.map(drop));
        }
        for (_, tenant, op) in &gone {
            let done = self.bury(tenant, op).await;
            note((tenant, op), done);
        }
        match failed {
            Some(error) if touched == 0 => Err(error),
            // With those that failed: they must not make a full batch look like the last.
            _ => Ok(forgotten.len() + gone.len()),
        }
    }

    /// The oldest of one kind over all tenants.
    async fn aged(&self, kind: &str, before: Time, limit: usize) -> Result<Vec<Aged>, LedgerError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let tenants = self.list_tenants().await?;
        let each: Vec<(TenantId, Result<Vec<Aged>, LedgerError>)> = stream::iter(tenants)
            .map(async |tenant| {
                let aged = self.aged_of(&tenant, kind, before, limit).await;
                (tenant, aged)
            })
            .buffered(TENANTS_AT_ONCE)
            .collect()
            .await;
        let mut all: Vec<Aged> = answered(each)?.into_iter().flat_map(|(_, aged)| aged).collect();
        all.sort();
        all.truncate(limit);
        Ok(all)
    }

    async fn aged_of(
        &self,
        tenant: &TenantId,
        kind: &str,
        before: Time,
        limit: usize,
    ) -> Result<Vec<Aged>, LedgerError> {
        let (before, count) = (before.unix_ms().to_string(), limit.to_string());
        let args: [&[u8]; 3] = [kind.as_bytes(), before.as_bytes(), count.as_bytes()];
        let Some(reply) = self.ask(&self.scripts.aged, tenant, &args).await? else { return Ok(Vec::new()) };
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
