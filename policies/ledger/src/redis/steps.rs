//! The steps that write records.

use meridian_model::{
    ids::{OperationId, TenantId},
    operation::{OperationRecord, QuotaLimits, RECORD_VERSION},
    time::Time,
};
use meridian_policies::quota::{
    self, parts,
    spend::{self, Moment},
    tree::{self, Tree},
};
use redis::Value;

use super::{RedisLedger, Reply, pots, record, tenants, values};
use crate::{Claim, Claimed, LedgerError, Step, Stepped, TakeOver, TakenOver, rules};

/// How often a take-over looks again because the record changed between its look and its write.
const LOOKS_MAX: usize = 4;

impl RedisLedger {
    pub(super) async fn run_claim(&self, claim: Claim) -> Result<Claimed, LedgerError> {
        let (owner, now, lease) = (claim.owner.clone(), claim.now, claim.lease);
        let mut record = rules::first_record(claim, "");
        let encoded = record::encode(&mut record, &self.sealer)?;
        let sealed = encoded.seal(&record, &self.sealer)?;
        let created = now.unix_ms().to_string();
        let args: [&[u8]; 11] = [
            record.op_id.as_str().as_bytes(),
            record.name.as_str().as_bytes(),
            record.fingerprint.as_bytes(),
            record.uid.as_str().as_bytes(),
            owner.as_bytes(),
            created.as_bytes(),
            encoded.identity.as_bytes(),
            encoded.standing.as_bytes(),
            &encoded.body,
            &encoded.digest,
            &sealed,
        ];
        let reply = match self.run(&self.scripts.claim, &record.tenant, &args, true).await? {
            Some(reply) => reply,
            None => {
                self.enrol(&record.tenant).await?;
                let again = self.run(&self.scripts.claim, &record.tenant, &args, true).await?;
                again.ok_or_else(tenants::lost)?
            }
        };
        match reply.status.as_str() {
            "new" => {
                record.fence.store = reply.mark.incarnation.clone();
                record.seq = self.written(&record.tenant, &reply)?;
                // The claim stands also without a lease: somebody else may drive it then, and the fence says who.
                let _ = self.lean_on_lease(&owner, now, lease).await;
                Ok(Claimed::New(Box::new(record)))
            }
            "joined" => self.noted(&record.tenant, &reply).map(Claimed::Joined),
            "reused" => Ok(Claimed::KeyReused(record.op_id)),
            "taken" => {
                let holder = values::text(reply.part(0)).and_then(|t| OperationId::new(&t).ok());
                let holder =
                    holder.ok_or_else(|| record::damaged(format!("{}/names", record.tenant), "no operation"))?;
                Ok(Claimed::NameTaken(holder))
            }
            _ => Err(reply.unexpected()),
        }
    }

    /// The record of an answer. What this process has learned must not be lost unseen, whoever wrote it.
    pub(super) fn noted(&self, tenant: &TenantId, reply: &Reply) -> Result<Box<OperationRecord>, LedgerError> {
        let record = self.decode(reply.part(0))?;
        self.saw(tenant, &reply.mark, record.seq);
        Ok(record)
    }

    /// The place of a write from its answer.
    fn written(&self, tenant: &TenantId, reply: &Reply) -> Result<u64, LedgerError> {
        let seq = values::number(reply.part(0)).ok_or_else(|| reply.unexpected())?;
        self.saw(tenant, &reply.mark, seq);
        Ok(seq)
    }

    pub(super) async fn run_step(&self, step: Step) -> Result<Stepped, LedgerError> {
        let Step { mut next, over_quota } = step;
        let (v, rev) = (next.v, next.rev);
        next.v = RECORD_VERSION;
        let encoded = record::encode(&mut next, &self.sealer);
        next.v = v;
        let encoded = encoded?;
        let mut reply = self.send_step(&next, &encoded, (&[], over_quota)).await?;
        if reply.as_ref().is_some_and(|r| r.status == "spec") {
            let sealed = encoded.seal(&next, &self.sealer)?;
            reply = self.send_step(&next, &encoded, (&sealed, over_quota)).await?;
        }
        let Some(reply) = reply else {
            self.confirm_new(&next.tenant).await?;
            return Ok(Stepped::Fenced);
        };
        match reply.status.as_str() {
            "written" => {
                (next.v, next.rev) = (RECORD_VERSION, rev.saturating_add(1));
                next.seq = self.written(&next.tenant, &reply)?;
                Ok(Stepped::Written(next))
            }
            "fenced" => Ok(Stepped::Fenced),
            "changed" => self.noted(&next.tenant, &reply).map(Stepped::Changed),
            "broken" => {
                let rule = values::number(reply.part(0)).and_then(|n| rules::RULES.get(usize::try_from(n).ok()?));
                Err(record::invalid(&next, rule.copied().unwrap_or("a rule that this version does not know")))
            }
            "quota" => shortage(&next, over_quota, &reply),
            "full" => full(&next, &reply),
            "uncountable" => Err(uncountable(&next)),
            _ => Err(reply.unexpected()),
        }
    }

    async fn send_step(
        &self,
        next: &OperationRecord,
        encoded: &record::Encoded,
        (sealed, over_quota): (&[u8], bool),
    ) -> Result<Option<Reply>, LedgerError> {
        let (fence, rev) = (record::fence_text(&next.fence), next.rev.to_string());
        let updated = next.updated_at.unix_ms().to_string();
        let moment = self.moment(next.updated_at, next.spec.active_deadline_seconds);
        let args: [&[u8]; 16] = [
            next.op_id.as_str().as_bytes(),
            next.uid.as_str().as_bytes(),
            fence.as_bytes(),
            rev.as_bytes(),
            encoded.identity.as_bytes(),
            encoded.removal.as_bytes(),
            encoded.due.as_bytes(),
            updated.as_bytes(),
            &encoded.body,
            &encoded.digest,
            sealed,
            next.name.as_str().as_bytes(),
            encoded.standing.as_bytes(),
            if over_quota { b"1" } else { b"" },
            encoded.parts.as_bytes(),
            moment.as_bytes(),
        ];
        self.run(&self.scripts.step, &next.tenant, &args, true).await
    }

    pub(super) async fn run_removal(
        &self,
        tenant: &TenantId,
        op: &OperationId,
        (now, reason): (Time, &str),
    ) -> Result<Option<Box<OperationRecord>>, LedgerError> {
        let now = now.unix_ms().to_string();
        let args: [&[u8]; 3] = [op.as_str().as_bytes(), now.as_bytes(), reason.as_bytes()];
        let Some(reply) = self.run(&self.scripts.remove, tenant, &args, true).await? else {
            return self.confirm_new(tenant).await.map(|()| None);
        };
        match reply.status.as_str() {
            "missing" => Ok(None),
            "same" | "written" => {
                let record = self.decode(reply.part(0))?;
                self.saw(tenant, &reply.mark, record.seq);
                Ok(Some(record))
            }
            _ => Err(reply.unexpected()),
        }
    }

    /// Looks who owns the record, takes the turn if that owner has no lease, and writes if the fence is still that one.
    pub(super) async fn run_take_over(&self, wish: TakeOver) -> Result<TakenOver, LedgerError> {
        let now = wish.now.unix_ms().to_string();
        for _ in 0..LOOKS_MAX {
            let op = wish.op_id.as_str().as_bytes();
            let Some(found) = self.ask(&self.scripts.fence, &wish.tenant, &[op]).await? else {
                return Ok(TakenOver::Missing);
            };
            if found.status == "missing" {
                return Ok(TakenOver::Missing);
            }
            let fence = values::text(found.part(0)).ok_or_else(|| found.unexpected())?;
            let owner = record::fence_of(&fence).ok_or_else(|| found.unexpected())?.owner;
            if let Some(left) = self.succeed(&owner, &wish).await? {
                return Ok(TakenOver::Leased(left));
            }
            let args: [&[u8]; 4] = [op, fence.as_bytes(), wish.owner.as_bytes(), now.as_bytes()];
            let Some(reply) = self.run(&self.scripts.take, &wish.tenant, &args, true).await? else {
                return Err(tenants::lost());
            };
            match reply.status.as_str() {
                "written" => {
                    let record = self.decode(reply.part(0))?;
                    self.saw(&wish.tenant, &reply.mark, record.seq);
                    return Ok(TakenOver::Taken(record));
                }
                "missing" => return Ok(TakenOver::Missing),
                "again" => {}
                _ => return Err(reply.unexpected()),
            }
        }
        // Others take it over again and again: whoever has it now can be waited for.
        Ok(TakenOver::Leased(wish.lease))
    }
}

/// Says in the quota's own words what the script found too little of.
fn shortage(next: &OperationRecord, over_quota: bool, reply: &Reply) -> Result<Stepped, LedgerError> {
    let read = |n: usize| -> Option<&Value> { Some(reply.part(n)) };
    let parts = read(0).and_then(record::charge_of).zip(read(1).and_then(record::limits_of));
    let old = read(2).and_then(record::charge_of);
    let (Some((used, limits)), Some(old)) = (parts, old) else { return Err(reply.unexpected()) };
    let limits = if over_quota { QuotaLimits::default() } else { limits };
    let change = quota::difference(old, next.charge);
    match quota::charge(quota::release(used, change.decrease), change.increase, &limits) {
        Err(shortage) => Ok(Stepped::QuotaExceeded(shortage)),
        // Without a limit the script stops where its numbers are not exact any more.
        Ok(_) => Err(uncountable(next)),
    }
}

fn uncountable(next: &OperationRecord) -> LedgerError {
    record::invalid(next, "the tenant's usage would be larger than can be counted")
}

/// Says in the tree's own words what the script found no room for.
fn full(next: &OperationRecord, reply: &Reply) -> Result<Stepped, LedgerError> {
    let parts = pots::pots_of(reply.part(0)).zip(values::text(reply.part(1)).as_deref().and_then(pots::parsed));
    let tree = pots::tree_of(reply.part(2))?;
    let (Some((held, old)), Some(spends)) = (parts, pots::spends_of(reply.part(3))) else {
        return Err(reply.unexpected());
    };
    let tree = Tree::new(&tree).map_err(|_| record::damaged(format!("{}/tree", next.tenant), "it is not valid"))?;
    let (new, moment) = (parts::parts(next), values::text(reply.part(4)).as_deref().and_then(pots::moment_of));
    let moment = moment.unwrap_or_else(|| Moment::of(next.updated_at));
    let affords =
        || spend::affords(&tree, (&spends, &held), (&old, &new), (&moment, next.spec.active_deadline_seconds));
    match tree.admit(&held, &old, &new, tree::class_of(next)).and_then(|()| affords()) {
        Err(shortage) => Ok(Stepped::QuotaExceeded(shortage)),
        Ok(()) => Err(record::damaged(format!("{}/tree", next.tenant), "its two forms differ")),
    }
}
