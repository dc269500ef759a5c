//! Leases of owners, in one place for all tenants. They say who may be waited for; who may write is said by fences,
//! so a lease that is lost, or seen too late, costs a take-over and breaks nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use meridian_model::{ids::TenantId, operation::OperationRecord, time::Time};
use tokio::time::Instant;

use super::{LeaseTime, RedisLedger, record, values};
use crate::{LedgerError, TakeOver};

/// Most records of one answer of `abandoned`, as for every ledger.
pub(super) const PAGE_MAX: usize = 1_000;
/// Tenants that are asked at the same time.
pub(super) const TENANTS_AT_ONCE: usize = 16;
/// Owners that this process remembers the leases of; in a gateway it is one.
const HELD_MAX: usize = 64;

impl RedisLedger {
    fn held(&self) -> MutexGuard<'_, BTreeMap<String, Instant>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn lease(&self, verb: &str, now: Time, args: &[&[u8]]) -> Result<redis::Value, LedgerError> {
        let key = self.keys.common("leases");
        let now = match self.time {
            LeaseTime::Server => String::new(),
            LeaseTime::Callers => now.unix_ms().to_string(),
        };
        let mut all: Vec<&[u8]> = vec![verb.as_bytes(), now.as_bytes()];
        all.extend_from_slice(args);
        self.redis.eval_unguarded(&self.scripts.leases, &[&key], &all).await
    }

    fn note_lease(&self, owner: &str, since: Instant, lease: Duration) {
        let mut held = self.held();
        if held.len() >= HELD_MAX && !held.contains_key(owner) {
            held.pop_first();
        }
        let until = held.entry(owner.to_owned()).or_insert(since);
        *until = (*until).max(since + lease);
    }

    pub(super) async fn extend(&self, owner: &str, now: Time, lease: Duration) -> Result<(), LedgerError> {
        let since = Instant::now();
        let span = lease.as_millis().to_string();
        self.lease("extend", now, &[owner.as_bytes(), span.as_bytes()]).await?;
        self.note_lease(owner, since, lease);
        Ok(())
    }

    /// Makes sure that an owner has a lease for the time being: asks for one unless half of it is left for certain.
    pub(super) async fn lean_on_lease(&self, owner: &str, now: Time, lease: Duration) -> Result<(), LedgerError> {
        let enough = Instant::now() + lease / 2;
        let held = self.held().get(owner).is_some_and(|until| *until >= enough);
        if held && self.time == LeaseTime::Server { Ok(()) } else { self.extend(owner, now, lease).await }
    }

    pub(super) async fn end_lease(&self, owner: &str) -> Result<(), LedgerError> {
        self.held().remove(owner);
        self.lease("end", Time::from_unix_ms(0), &[owner.as_bytes()]).await.map(drop)
    }

    /// Gives the wisher a lease if an owner has none; else what is left of that one's.
    pub(super) async fn succeed(&self, owner: &str, wish: &TakeOver) -> Result<Option<Duration>, LedgerError> {
        let since = Instant::now();
        let span = wish.lease.as_millis().to_string();
        let args: [&[u8]; 3] = [owner.as_bytes(), wish.owner.as_bytes(), span.as_bytes()];
        let answer = self.lease("succeed", wish.now, &args).await?;
        match values::number(&answer) {
            Some(0) => {
                self.note_lease(&wish.owner, since, wish.lease);
                Ok(None)
            }
            Some(left) => Ok(Some(Duration::from_millis(left))),
            None => Err(record::damaged("leases", "no number")),
        }
    }

    pub(super) async fn find_abandoned(
        &self,
        except: &str,
        now: Time,
        limit: usize,
    ) -> Result<Vec<OperationRecord>, LedgerError> {
        let tenants = self.list_tenants().await?;
        let owners: Vec<(TenantId, Result<BTreeSet<String>, LedgerError>)> = stream::iter(tenants)
            .map(async |tenant| {
                let reply = self.ask(&self.scripts.owners, &tenant, &[]).await;
                let owners = reply.map(|r| r.and_then(|r| values::texts(r.part(0))).unwrap_or_default());
                (tenant, owners.map(|all| all.into_iter().filter(|o| o != except).collect()))
            })
            .buffered(TENANTS_AT_ONCE)
            .collect()
            .await;
        let owners = answered(owners)?;
        let all: BTreeSet<&String> = owners.iter().flat_map(|(_, owners)| owners).collect();
        if all.is_empty() {
            return Ok(Vec::new());
        }
        let args: Vec<&[u8]> = all.iter().map(|o| o.as_bytes()).collect();
        let answer = self.lease("left", now, &args).await?;
        let lefts = values::list(&answer).unwrap_or_default().iter().map(values::number);
        let free: BTreeSet<&String> =
            all.into_iter().zip(lefts).filter(|(_, l)| *l == Some(0)).map(|(o, _)| o).collect();
        let (mut found, mut failed) = (Vec::new(), None);
        for (tenant, owners) in &owners {
            for owner in owners.iter().filter(|o| free.contains(o)) {
                let room = limit.min(PAGE_MAX).saturating_sub(found.len());
                if room == 0 {
                    return Ok(found);
                }
                match self.read_open(tenant, owner, room).await {
                    Ok(records) => found.extend(records),
                    Err(error) => {
                        tracing::warn!(%tenant, %error, "what a tenant's former owners left cannot be read");
                        failed = Some(error);
                    }
                }
            }
        }
        match failed {
            Some(error) if found.is_empty() => Err(error),
            _ => Ok(found),
        }
    }

    /// What an owner has to do for a tenant, as far as it can be read: a damaged record hides none behind it.
    async fn read_open(
        &self,
        tenant: &TenantId,
        owner: &str,
        room: usize,
    ) -> Result<Vec<OperationRecord>, LedgerError> {
        let (mut found, mut passed) = (Vec::new(), 0);
        while found.len() < room && passed < PAGE_MAX {
            let count = room - found.len();
            let (from, text) = (passed.to_string(), count.to_string());
            let args: [&[u8]; 3] = [owner.as_bytes(), from.as_bytes(), text.as_bytes()];
            let Some(reply) = self.ask(&self.scripts.open, tenant, &args).await? else { break };
            let page = values::list(reply.part(0)).unwrap_or_default();
            for fields in page {
                match self.decode(fields) {
                    Ok(record) => found.push(*record),
                    Err(error) => tracing::warn!(%tenant, %error, "an open record cannot be read and is not driven"),
                }
            }
            if page.len() < count {
                break;
            }
            passed += page.len();
        }
        Ok(found)
    }
}

/// What the tenants say that answer. One that does not is logged and holds up no other; when none does, that is why.
pub(super) fn answered<T>(answers: Vec<(TenantId, Result<T, LedgerError>)>) -> Result<Vec<(TenantId, T)>, LedgerError> {
    let (mut good, mut failed) = (Vec::new(), None);
    for (tenant, answer) in answers {
        match answer {
            Ok(answer) => good.push((tenant, answer)),
            Err(error) => {
                tracing::warn!(%tenant, %error, "a tenant's ledger cannot be read; others go on");
                failed = Some(error);
            }
        }
    }
    match failed {
        Some(error) if good.is_empty() => Err(error),
        _ => Ok(good),
    }
}
