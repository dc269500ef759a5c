//! A record as fields of a hash, and back; pure but for the seal.
//!
//! What scripts change by themselves (revision, place, fence, due, last write, a removal that was asked for) stands in
//! fields of its own and counts; the rest is JSON that no script looks into. The spec is apart, sealed.

use std::sync::Arc;

use meridian_model::{
    ids::{OperationId, TenantId},
    operation::{Charge, Fence, OperationRecord, QuotaLimits, RECORD_VERSION, Removal},
    quantity::{MemoryMib, MilliCpu},
    time::Time,
};
use meridian_policies::quota::parts;
use redis::Value;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{pots, values};
use crate::{LedgerError, seal::Sealer};

/// Bytes of a record, and of its spec, far above what a request body (1 MiB) and its journal can fill.
const RECORD_BYTES_MAX: usize = 8 * 1024 * 1024;
/// The greatest amount that a script counts exactly.
pub(super) const EXACT_MAX: u64 = (1 << 53) - 1;

/// What a script needs of a record that is to be written.
#[derive(Debug)]
pub(super) struct Encoded {
    /// JSON without spec.
    pub(super) body: Vec<u8>,
    /// Of the spec.
    pub(super) digest: Vec<u8>,
    /// The spec as JSON.
    pub(super) spec: Zeroizing<Vec<u8>>,
    /// What never changes: creation, name, fingerprint.
    pub(super) identity: String,
    /// Gone, epoch, charge.
    pub(super) standing: String,
    /// Where its charge lies, in rows.
    pub(super) parts: String,
    /// When a removal was asked for, or nothing.
    pub(super) removal: String,
    /// When it is due, or nothing.
    pub(super) due: String,
}

/// Where a spec is sealed to, and what errors name.
pub(super) fn place(tenant: &TenantId, op: &OperationId) -> Vec<u8> {
    format!("{tenant}\0{op}").into_bytes()
}

pub(super) fn invalid(record: &OperationRecord, detail: &str) -> LedgerError {
    LedgerError::Invalid { place: format!("{}/{}", record.tenant, record.op_id), detail: detail.to_owned() }
}

pub(super) fn damaged(place: impl Into<String>, detail: impl Into<String>) -> LedgerError {
    LedgerError::Damaged { place: place.into(), detail: detail.into() }
}

/// The fields of a record. The record is the same afterwards.
pub(super) fn encode(record: &mut OperationRecord, sealer: &Sealer) -> Result<Encoded, LedgerError> {
    let spec = std::mem::take(&mut record.spec);
    let body = serde_json::to_vec(record);
    record.spec = spec;
    let body = body.map_err(|e| invalid(record, &e.to_string()))?;
    let spec = serde_json::to_vec(&record.spec).map_err(|e| invalid(record, &e.to_string()))?;
    let spec = Zeroizing::new(spec);
    if body.len() > RECORD_BYTES_MAX || spec.len() > RECORD_BYTES_MAX {
        return Err(invalid(record, "the record is larger than a record may be"));
    }
    let charge = amounts(&record.charge);
    let beside = [record.charge.disk.0, record.charge.cost.0];
    if charge.iter().chain(&beside).any(|amount| *amount > EXACT_MAX) {
        return Err(invalid(record, "the charge is larger than can be counted"));
    }
    let [instances, cpu, memory, gpu, ips] = charge;
    let gone = u8::from(record.is_gone());
    Ok(Encoded {
        body,
        digest: sealer.digest(&place(&record.tenant, &record.op_id), &spec),
        spec,
        identity: format!("{}\n{}\n{}", record.created_at.unix_ms(), record.name, record.fingerprint),
        standing: format!("{gone} {} {instances} {cpu} {memory} {gpu} {ips}", record.epoch),
        parts: pots::rows(&parts::parts(record)),
        removal: record.removal.as_ref().map(|r| r.requested_at.unix_ms().to_string()).unwrap_or_default(),
        due: record.due.map(|t| t.unix_ms().to_string()).unwrap_or_default(),
    })
}

impl Encoded {
    /// The spec under the seal.
    pub(super) fn seal(&self, record: &OperationRecord, sealer: &Sealer) -> Result<Vec<u8>, LedgerError> {
        let place = place(&record.tenant, &record.op_id);
        sealer.seal(&place, &self.spec).map_err(|_| invalid(record, "its spec cannot be sealed"))
    }
}

/// A fence as it is stored.
pub(super) fn fence_text(fence: &Fence) -> String {
    format!("{}\n{}\n{}", fence.store, fence.counter, fence.owner)
}

/// A fence from its text.
pub(super) fn fence_of(text: &str) -> Option<Fence> {
    let mut parts = text.splitn(3, '\n');
    let (store, counter, owner) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?);
    Some(Fence { store: store.to_owned(), counter, owner: owner.to_owned() })
}

/// A record from the fields that the scripts answer with: `b s r q f d m x z y`.
pub(super) fn decode(fields: &Value, sealer: &Sealer) -> Result<OperationRecord, LedgerError> {
    let parts = values::list(fields).unwrap_or_default();
    let field = |n: usize| parts.get(n).and_then(values::bytes);
    let text = |n: usize| field(n).and_then(|b| std::str::from_utf8(b).ok());
    let mut record = parse(field(0).unwrap_or_default())?;
    let name = format!("{}/{}", record.tenant, record.op_id);
    let number = |n: usize| text(n).and_then(|t| t.parse::<u64>().ok());
    let time = |n: usize| text(n).and_then(|t| t.parse::<i64>().ok()).map(Time::from_unix_ms);
    let (Some(rev), Some(seq), Some(fence), Some(updated)) =
        (number(2), number(3), text(4).and_then(fence_of), time(6))
    else {
        return Err(damaged(name, "a field is missing or no number"));
    };
    (record.rev, record.seq, record.fence, record.updated_at) = (rev, seq, fence, updated);
    if let (None, Some(requested_at)) = (&record.removal, time(7)) {
        record.removal = Some(Removal { requested_at, completed_at: None, reason: None });
    }
    if let Some(removal) = record.removal.as_mut().filter(|removal| removal.reason.is_none()) {
        removal.reason = text(9).map(ToOwned::to_owned);
    }
    if field(8).is_some() {
        record.due = None;
        return Ok(record);
    }
    record.due = time(5);
    let sealed = field(1).ok_or_else(|| damaged(name.as_str(), "the spec is missing"))?;
    let place = place(&record.tenant, &record.op_id);
    let spec = sealer.open(&place, sealed).map_err(|_| damaged(name.as_str(), "the seal is broken"))?;
    record.spec = Arc::new(serde_json::from_slice(&spec).map_err(|e| damaged(name.as_str(), e.to_string()))?);
    Ok(record)
}

/// The place of the record that such fields hold.
pub(super) fn seq_of(fields: &Value) -> Option<u64> {
    values::number(values::list(fields)?.get(3)?)
}

/// A newer version is said to be newer even where the rest cannot be read.
fn parse(body: &[u8]) -> Result<OperationRecord, LedgerError> {
    #[derive(Deserialize)]
    struct Version {
        v: u16,
    }
    let parsed = serde_json::from_slice::<OperationRecord>(body);
    let version = match &parsed {
        Ok(record) => record.v,
        Err(_) => serde_json::from_slice::<Version>(body).map_or(RECORD_VERSION, |v| v.v),
    };
    if version > RECORD_VERSION {
        let detail = format!("written by a newer version: layout {version}, this version reads {RECORD_VERSION}");
        return Err(damaged("a record", detail));
    }
    parsed.map_err(|e| damaged("a record", e.to_string()))
}

/// The dimensions of a charge in the order of the scripts.
pub(super) fn amounts(charge: &Charge) -> [u64; 5] {
    [charge.instances, charge.cpu.0, charge.memory.0, charge.gpu, charge.public_ips]
}

/// A charge from its dimensions; what is not there is zero.
pub(super) fn charge_of(value: &Value) -> Option<Charge> {
    let all = optional_amounts(value)?.map(Option::unwrap_or_default);
    let [instances, cpu, memory, gpu, public_ips] = all;
    Some(Charge { instances, cpu: MilliCpu(cpu), memory: MemoryMib(memory), gpu, public_ips, ..Charge::default() })
}

/// The limits in the order of the scripts.
pub(super) fn limit_texts(limits: &QuotaLimits) -> [String; 5] {
    let all = [limits.instances, limits.cpu.map(|n| n.0), limits.memory.map(|n| n.0), limits.gpu, limits.public_ips];
    all.map(|n| n.map(|n| n.to_string()).unwrap_or_default())
}

/// Limits from their dimensions.
pub(super) fn limits_of(value: &Value) -> Option<QuotaLimits> {
    let [instances, cpu, memory, gpu, public_ips] = optional_amounts(value)?;
    Some(QuotaLimits { instances, cpu: cpu.map(MilliCpu), memory: memory.map(MemoryMib), gpu, public_ips })
}

fn optional_amounts(value: &Value) -> Option<[Option<u64>; 5]> {
    let all: Option<Vec<_>> = values::list(value)?
        .iter()
        .map(|v| if matches!(v, Value::Nil) { Some(None) } else { values::number(v).map(Some) })
        .collect();
    all?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{conformance::sample_claim, rules::first_record, seal::SealKey};

    fn value(text: impl Into<Vec<u8>>) -> Value {
        Value::BulkString(text.into())
    }

    #[test]
    fn what_scripts_change_counts_more_than_the_body() {
        let sealer = Sealer::new(&SealKey::new([1; 32])).unwrap();
        let mut record = first_record(sample_claim("acme", "op1", "web"), "store");
        let encoded = encode(&mut record, &sealer).unwrap();
        assert!(!String::from_utf8_lossy(&encoded.body).contains("canary"), "no secret is in the open part");
        let sealed = encoded.seal(&record, &sealer).unwrap();
        let mut fields = vec![
            value(encoded.body.clone()),
            value(sealed),
            value("7"),
            value("9"),
            value("other\n3\nb\nc"),
            value("55"),
            value("-66"),
            value("77"),
            Value::Nil,
        ];
        let read = decode(&Value::Array(fields.clone()), &sealer).unwrap();
        assert_eq!(
            (read.rev, read.seq, read.due, read.spec.clone()),
            (7, 9, Some(Time::from_unix_ms(55)), record.spec.clone())
        );
        assert_eq!(read.fence, Fence { store: "other".to_owned(), counter: 3, owner: "b\nc".to_owned() });
        assert_eq!(
            (read.updated_at, read.removal.unwrap().requested_at),
            (Time::from_unix_ms(-66), Time::from_unix_ms(77))
        );
        fields[1] = value("nothing");
        assert!(matches!(decode(&Value::Array(fields.clone()), &sealer), Err(LedgerError::Damaged { .. })));
        fields[0] = value(String::from_utf8(encoded.body).unwrap().replacen("\"v\":1", "\"v\":9", 1));
        let newer = decode(&Value::Array(fields), &sealer).unwrap_err().to_string();
        assert!(newer.contains("newer"), "{newer}");
    }

    #[test]
    fn a_digest_follows_text_and_place() {
        let sealer = Sealer::new(&SealKey::new([1; 32])).unwrap();
        let digest = |place: &[u8], text: &[u8]| sealer.digest(place, text);
        assert_eq!(digest(b"a", b"b"), digest(b"a", b"b"));
        assert_ne!(digest(b"a", b"b"), digest(b"a", b"c"));
        assert_ne!(digest(b"a", b"bc"), digest(b"ab", b"c"));
    }
}
