//! What each command checks and writes. Every function here reads and checks first and writes last, so that a
//! refused command leaves the transaction as it found it; later commands of the same transaction see earlier ones.

use std::collections::BTreeMap;

use meridian_model::{
    error::QuotaShortage,
    ids::{OperationId, TenantId},
    operation::{Charge, Fence, OperationRecord, QuotaLimits, RECORD_VERSION, Removal},
    time::Time,
};
use meridian_policies::quota::{self, parts};
use redb::ReadableTable;

use super::{
    amounts,
    leases::Leases,
    pots,
    tables::{
        Expiring, Fault, Tables, damaged, decode_op, decode_record, encode, encode_record, expiry_bound, expiry_key,
        invalid, name_key, record_key, record_of_expiry,
    },
};
use crate::{Claim, Claimed, Step, Stepped, TakeOver, TakenOver};

/// Most records one call of `expire` touches, so that one transaction stays short.
const EXPIRE_MAX: usize = 1_000;

pub(super) fn claim(t: &mut Tables<'_>, leases: &Leases, claim: Claim) -> Result<Claimed, Fault> {
    let key = record_key(&claim.tenant, &claim.op_id);
    if let Some(known) = super::tables::read_record(&t.operations, &t.specs, &t.tombstones, t.sealer, &key)? {
        return Ok(if known.fingerprint == claim.fingerprint {
            Claimed::Joined(known)
        } else {
            Claimed::KeyReused(claim.op_id)
        });
    }
    let name = name_key(&claim.tenant, &claim.name);
    if let Some(holder) = t.names.get(name.as_slice())? {
        return Ok(Claimed::NameTaken(decode_op("names", &name, holder.value())?));
    }
    leases.extend(&claim.owner, claim.now + claim.lease);
    let mut record = crate::rules::first_record(claim, t.store);
    record.seq = t.next_seq(&record.tenant)?;
    let spec = t.changed_spec(&key, &record.spec)?;
    let bytes = encode_record(&mut record)?;
    if let Some(spec) = spec {
        t.specs.insert(key.as_slice(), spec.as_slice())?;
    }
    t.put(&key, None, &record, &bytes)?;
    Ok(Claimed::New(Box::new(record)))
}

pub(super) fn step(t: &mut Tables<'_>, step: Step) -> Result<Stepped, Fault> {
    let Step { mut next, over_quota } = step;
    let key = record_key(&next.tenant, &next.op_id);
    let Some(old) = t.bare_record(&key)? else {
        return Ok(Stepped::Fenced);
    };
    if old.fence != next.fence || old.uid != next.uid {
        return Ok(Stepped::Fenced);
    }
    if old.rev != next.rev {
        return t.whole(&key, old).map(Stepped::Changed);
    }
    if let Some(broken) = crate::broken_rule(&old, &next) {
        return Err(invalid(&next, broken));
    }
    let old = if parts::needs_spec(&old) { *t.whole(&key, old)? } else { old };
    let limits = if over_quota { QuotaLimits::default() } else { t.limits(&next.tenant)? };
    let usage = match recharged(t, &next.tenant, (&old.charge, &next.charge), &limits)? {
        Ok(usage) => usage,
        Err(shortage) => return Ok(Stepped::QuotaExceeded(shortage)),
    };
    let moves = match pots::moves(t, (&old, &next), over_quota)? {
        Ok(moves) => moves,
        Err(shortage) => return Ok(Stepped::QuotaExceeded(shortage)),
    };
    next.v = RECORD_VERSION;
    next.rev = old.rev.saturating_add(1);
    next.seq = t.next_seq(&next.tenant)?;
    let bytes = encode_record(&mut next)?;
    let spec = t.changed_spec(&key, &next.spec)?;
    let usage = usage.map(|u| encode(&u)).transpose()?;
    pots::carry_out(t, moves)?;
    if let Some(usage) = usage {
        t.usage.insert(next.tenant.as_str(), usage.as_slice())?;
    }
    if let Some(spec) = spec {
        t.specs.insert(key.as_slice(), spec.as_slice())?;
    }
    t.put(&key, Some(&old), &next, &bytes)?;
    Ok(Stepped::Written(next))
}

/// The tenant's usage after a change of one charge; none if nothing changes. What shrinks is released before what
/// grows is checked, dimension by dimension.
fn recharged(
    t: &Tables<'_>,
    tenant: &TenantId,
    (old, new): (&Charge, &Charge),
    limits: &QuotaLimits,
) -> Result<Result<Option<Charge>, Box<QuotaShortage>>, Fault> {
    if old == new {
        return Ok(Ok(None));
    }
    let used = t.usage(tenant)?;
    let kept = amounts::difference(&used, &amounts::excess(old, new))
        .ok_or_else(|| damaged("usage", tenant.as_str().as_bytes(), "less is in use than is to be released"))?;
    let added = amounts::excess(new, old);
    if added == Charge::default() {
        return Ok(Ok(Some(kept)));
    }
    Ok(quota::charge(kept, added, limits).map(Some))
}

pub(super) fn request_removal(
    t: &mut Tables<'_>,
    (tenant, op): (&TenantId, &OperationId),
    now: Time,
    reason: Option<String>,
) -> Result<Option<Box<OperationRecord>>, Fault> {
    let key = record_key(tenant, op);
    let Some(old) = t.bare_record(&key)? else {
        let buried = t.tombstones.get(key.as_slice())?;
        return buried.map(|b| decode_record("tombstones", &key, b.value()).map(Box::new)).transpose();
    };
    if old.removal.is_some() || old.is_gone() {
        return t.whole(&key, old).map(Some);
    }
    let mut next = t.whole(&key, old.clone())?;
    next.removal = Some(Removal { requested_at: now, completed_at: None, reason });
    next.due = Some(now);
    next.updated_at = now;
    next.rev = old.rev.saturating_add(1);
    next.seq = t.next_seq(&next.tenant)?;
    let bytes = encode_record(&mut next)?;
    t.put(&key, Some(&old), &next, &bytes)?;
    Ok(Some(next))
}

pub(super) fn take_over(t: &mut Tables<'_>, leases: &Leases, wish: TakeOver) -> Result<TakenOver, Fault> {
    let key = record_key(&wish.tenant, &wish.op_id);
    let Some(old) = t.bare_record(&key)? else {
        return Ok(TakenOver::Missing);
    };
    if let Some(left) = leases.left(&old.fence.owner, wish.now) {
        return Ok(TakenOver::Leased(left));
    }
    leases.extend(&wish.owner, wish.now + wish.lease);
    let mut next = t.whole(&key, old.clone())?;
    let counter = old.fence.counter.saturating_add(1);
    next.fence = Fence { store: t.store.to_owned(), counter, owner: wish.owner };
    next.updated_at = wish.now;
    next.rev = old.rev.saturating_add(1);
    next.seq = t.next_seq(&next.tenant)?;
    let bytes = encode_record(&mut next)?;
    t.put(&key, Some(&old), &next, &bytes)?;
    Ok(TakenOver::Taken(next))
}

/// Records with something to do, of owners without a lease.
pub(super) fn abandoned(
    due: &impl ReadableTable<&'static [u8], &'static [u8]>,
    except: &str,
    leases: &Leases,
    now: Time,
    limit: usize,
) -> Result<Vec<Vec<u8>>, Fault> {
    let mut keys = Vec::new();
    for entry in due.iter()? {
        if keys.len() >= limit {
            break;
        }
        let (key, owner) = entry?;
        let left = std::str::from_utf8(owner.value()).is_ok_and(|o| o != except && leases.left(o, now).is_none());
        if left {
            keys.push(key.value().to_vec());
        }
    }
    Ok(keys)
}

pub(super) fn set_limits(t: &mut Tables<'_>, tenant: &TenantId, limits: &QuotaLimits) -> Result<(), Fault> {
    if t.limits.get(tenant.as_str())?.is_some() && t.limits(tenant)? == *limits {
        return Ok(());
    }
    let bytes = encode(limits)?;
    t.limits.insert(tenant.as_str(), bytes.as_slice())?;
    t.dirty = true;
    Ok(())
}

pub(super) fn expire(t: &mut Tables<'_>, keep_until: Time, forget_until: Time, limit: usize) -> Result<usize, Fault> {
    let limit = limit.min(EXPIRE_MAX);
    let forgotten = expired(t, Expiring::Tombstone, forget_until, limit)?;
    let gone = expired(t, Expiring::Gone, keep_until, limit.saturating_sub(forgotten.len()))?;
    let mut buried = BTreeMap::new();
    for index in &gone {
        let key = record_of_expiry(index)?;
        let record =
            t.bare_record(&key)?.ok_or_else(|| damaged("expiry", index, "points to a record that is not there"))?;
        let mut rest = crate::tombstone(record);
        buried.insert(key, (rest.updated_at, encode_record(&mut rest)?));
    }
    for index in forgotten.iter().chain(&gone) {
        t.dirty = true;
        t.expiry.remove(index.as_slice())?;
    }
    for index in &forgotten {
        t.tombstones.remove(record_of_expiry(index)?.as_slice())?;
    }
    for (key, (at, bytes)) in buried {
        t.operations.remove(key.as_slice())?;
        t.specs.remove(key.as_slice())?;
        t.due.remove(key.as_slice())?;
        t.tombstones.insert(key.as_slice(), bytes.as_slice())?;
        t.expiry.insert(expiry_key(Expiring::Tombstone, at, &key).as_slice(), [].as_slice())?;
    }
    Ok(forgotten.len() + gone.len())
}

/// Keys of `expiry` of one kind from before a time, oldest first.
fn expired(t: &Tables<'_>, kind: Expiring, before: Time, limit: usize) -> Result<Vec<Vec<u8>>, Fault> {
    let from = vec![kind as u8];
    let to = expiry_bound(kind, before);
    let mut keys = Vec::new();
    for entry in t.expiry.range(from.as_slice()..to.as_slice())?.take(limit) {
        keys.push(entry?.0.value().to_vec());
    }
    Ok(keys)
}
