//! The tables, their keys, and how records become bytes.
//!
//! | table | key | value |
//! |---|---|---|
//! | `operations` | tenant 0 operation | record as JSON, its spec left empty |
//! | `specs` | the same | the spec as JSON, sealed |
//! | `tombstones` | the same | what is left of a record long gone, as JSON |
//! | `names` | tenant 0 name | operation; only of records that are not gone |
//! | `due` | tenant 0 operation | owner part of the fence; only of records with something to do |
//! | `expiry` | kind, last write, tenant 0 operation | nothing; only of gone records (0) and tombstones (1) |
//! | `usage`, `limits` | tenant | charge and limits as JSON |
//! | `pots` | tenant 0 project, provider, region, GPU model | the charges that lie there, as JSON |
//! | `trees` | tenant | quota tree as JSON; only of tenants that have one |
//! | `spends` | tenant 0 project | what it spends, as JSON; only of tenants with a budget |
//! | `seqs` | tenant | place of its last write |
//! | `meta` | name | see the constants |
//!
//! `names`, `due`, `expiry`, `usage` and `pots` follow from the rest; they are checked at every start. Identifiers hold no
//! byte 0, so keys of one tenant lie together and in order of the second part.

use std::sync::Arc;

use meridian_model::{
    ids::{InstanceName, OperationId, TenantId},
    instance::InstanceSpec,
    operation::{Charge, OperationRecord, QuotaLimits, RECORD_VERSION},
    time::Time,
};
use redb::{ReadableTable, Table, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::pots::Trees;
use crate::{LedgerError, seal::Sealer};

/// Bytes of a record with its spec, far above what a request body (1 MiB) and its journal can fill.
const RECORD_BYTES_MAX: usize = 8 * 1024 * 1024;

type Bytes = &'static [u8];

pub(super) const OPERATIONS: TableDefinition<'static, Bytes, Bytes> = TableDefinition::new("operations");
pub(super) const SPECS: TableDefinition<'static, Bytes, Bytes> = TableDefinition::new("specs");
pub(super) const TOMBSTONES: TableDefinition<'static, Bytes, Bytes> = TableDefinition::new("tombstones");
pub(super) const NAMES: TableDefinition<'static, Bytes, Bytes> = TableDefinition::new("names");
pub(super) const DUE: TableDefinition<'static, Bytes, Bytes> = TableDefinition::new("due");
pub(super) const EXPIRY: TableDefinition<'static, Bytes, Bytes> = TableDefinition::new("expiry");
pub(super) const USAGE: TableDefinition<'static, &str, Bytes> = TableDefinition::new("usage");
pub(super) const LIMITS: TableDefinition<'static, &str, Bytes> = TableDefinition::new("limits");
pub(super) const POTS: TableDefinition<'static, Bytes, Bytes> = TableDefinition::new("pots");
pub(super) const TREES: TableDefinition<'static, &str, Bytes> = TableDefinition::new("trees");
pub(super) const SPENDS: TableDefinition<'static, Bytes, Bytes> = TableDefinition::new("spends");
pub(super) const SEQS: TableDefinition<'static, &str, u64> = TableDefinition::new("seqs");
pub(super) const META: TableDefinition<'static, &str, Bytes> = TableDefinition::new("meta");

/// In `meta`: version of the tables, as decimal text.
pub(super) const META_SCHEMA: &str = "schema";
/// In `meta`: incarnation of the store, random, made once.
pub(super) const META_STORE: &str = "store";
/// In `meta`: a known text under the seal key, to tell a wrong key from damage.
pub(super) const META_SEAL: &str = "seal";
/// Version of the tables.
pub(super) const SCHEMA_VERSION: u16 = 1;

/// First byte of a key of `expiry`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expiring {
    Gone = 0,
    Tombstone = 1,
}

/// Why a command did not get its answer.
#[derive(Debug)]
pub(super) enum Fault {
    /// This command is refused; nothing of it was written, and others may go on.
    Command(LedgerError),
    /// The store failed under it: nothing of the transaction may be committed.
    Store(String),
}

impl<E: Into<redb::Error>> From<E> for Fault {
    fn from(e: E) -> Self {
        Self::Store(e.into().to_string())
    }
}

/// A [`LedgerError::Damaged`] at a key of a table.
pub(super) fn damaged(table: &str, key: &[u8], detail: impl Into<String>) -> Fault {
    let place = format!("{table}/{}", String::from_utf8_lossy(key).replace('\0', "/"));
    Fault::Command(LedgerError::Damaged { place, detail: detail.into() })
}

/// A [`LedgerError::Invalid`] for a record.
pub(super) fn invalid(record: &OperationRecord, detail: &str) -> Fault {
    let place = format!("{}/{}", record.tenant, record.op_id);
    Fault::Command(LedgerError::Invalid { place, detail: detail.to_owned() })
}

/// `tenant 0 second`: the key of a record or a name.
pub(super) fn pair_key(tenant: &TenantId, second: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(tenant.as_str().len() + 1 + second.len());
    key.extend_from_slice(tenant.as_str().as_bytes());
    key.push(0);
    key.extend_from_slice(second.as_bytes());
    key
}

pub(super) fn record_key(tenant: &TenantId, op: &OperationId) -> Vec<u8> {
    pair_key(tenant, op.as_str())
}

pub(super) fn name_key(tenant: &TenantId, name: &InstanceName) -> Vec<u8> {
    pair_key(tenant, name.as_str())
}

/// Orders like the time: the sign bit turned, big end first.
pub(super) fn expiry_key(kind: Expiring, at: Time, record: &[u8]) -> Vec<u8> {
    let mut key = expiry_bound(kind, at);
    key.extend_from_slice(record);
    key
}

/// Before all keys of this kind and time, behind all earlier ones.
pub(super) fn expiry_bound(kind: Expiring, at: Time) -> Vec<u8> {
    let mut key = vec![kind as u8];
    key.extend_from_slice(&(at.unix_ms() ^ i64::MIN).to_be_bytes());
    key
}

/// The record's key in a key of `expiry`.
pub(super) fn record_of_expiry(key: &[u8]) -> Result<Vec<u8>, Fault> {
    key.get(9..).map(<[u8]>::to_vec).ok_or_else(|| damaged("expiry", key, "the key is too short"))
}

/// The operation that a value of `names` points to.
pub(super) fn decode_op(table: &str, key: &[u8], value: &[u8]) -> Result<OperationId, Fault> {
    let text = std::str::from_utf8(value).map_err(|e| damaged(table, key, e.to_string()))?;
    OperationId::new(text).map_err(|e| damaged(table, key, e.to_string()))
}

/// Any value as JSON.
pub(super) fn encode(value: &impl Serialize) -> Result<Vec<u8>, Fault> {
    // Our own types of text keys serialise; a failure would be a fault of the command's content.
    serde_json::to_vec(value).map_err(|e| damaged("encode", b"", e.to_string()))
}

/// Any value from JSON.
pub(super) fn decode<T: DeserializeOwned>(table: &str, key: &[u8], bytes: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(bytes).map_err(|e| damaged(table, key, e.to_string()))
}

/// A record without its spec. A newer version is said to be newer even where the rest cannot be read.
pub(super) fn decode_record(table: &str, key: &[u8], bytes: &[u8]) -> Result<OperationRecord, Fault> {
    #[derive(Deserialize)]
    struct Version {
        v: u16,
    }
    let parsed = serde_json::from_slice::<OperationRecord>(bytes);
    let version = match &parsed {
        Ok(record) => record.v,
        Err(_) => serde_json::from_slice::<Version>(bytes).map_or(RECORD_VERSION, |v| v.v),
    };
    if version > RECORD_VERSION {
        let detail = format!("written by a newer version: layout {version}, this version reads {RECORD_VERSION}");
        return Err(damaged(table, key, detail));
    }
    let record = parsed.map_err(|e| damaged(table, key, e.to_string()))?;
    if record_key(&record.tenant, &record.op_id) != key {
        return Err(damaged(table, key, "the record belongs to another key"));
    }
    Ok(record)
}

/// A record as stored: JSON with an empty spec. The record is the same afterwards.
pub(super) fn encode_record(record: &mut OperationRecord) -> Result<Vec<u8>, Fault> {
    let spec = std::mem::take(&mut record.spec);
    let bytes = encode(record);
    record.spec = spec;
    let bytes = bytes?;
    if bytes.len() > RECORD_BYTES_MAX {
        return Err(invalid(record, "the record is larger than a record may be"));
    }
    Ok(bytes)
}

/// Puts the spec into a record read without it.
pub(super) fn attach_spec(
    specs: &impl ReadableTable<Bytes, Bytes>,
    sealer: &Sealer,
    key: &[u8],
    record: &mut OperationRecord,
) -> Result<(), Fault> {
    let sealed = specs.get(key)?.ok_or_else(|| damaged("specs", key, "the spec is missing"))?;
    let text = sealer.open(key, sealed.value()).map_err(|_| damaged("specs", key, "the seal is broken"))?;
    record.spec = Arc::new(decode("specs", key, &text)?);
    Ok(())
}

/// A whole record by its key, or what is left of it; for the tables of either kind of transaction.
pub(super) fn read_record(
    operations: &impl ReadableTable<Bytes, Bytes>,
    specs: &impl ReadableTable<Bytes, Bytes>,
    tombstones: &impl ReadableTable<Bytes, Bytes>,
    sealer: &Sealer,
    key: &[u8],
) -> Result<Option<Box<OperationRecord>>, Fault> {
    if let Some(bytes) = operations.get(key)? {
        let mut record = decode_record("operations", key, bytes.value())?;
        attach_spec(specs, sealer, key, &mut record)?;
        return Ok(Some(Box::new(record)));
    }
    match tombstones.get(key)? {
        Some(bytes) => decode_record("tombstones", key, bytes.value()).map(|r| Some(Box::new(r))),
        None => Ok(None),
    }
}

/// All tables of one write transaction.
pub(super) struct Tables<'t> {
    pub(super) operations: Table<'t, Bytes, Bytes>,
    pub(super) specs: Table<'t, Bytes, Bytes>,
    pub(super) tombstones: Table<'t, Bytes, Bytes>,
    pub(super) names: Table<'t, Bytes, Bytes>,
    pub(super) due: Table<'t, Bytes, Bytes>,
    pub(super) expiry: Table<'t, Bytes, Bytes>,
    pub(super) usage: Table<'t, &'static str, Bytes>,
    pub(super) limits: Table<'t, &'static str, Bytes>,
    pub(super) pots: Table<'t, Bytes, Bytes>,
    pub(super) trees: Table<'t, &'static str, Bytes>,
    pub(super) spends: Table<'t, Bytes, Bytes>,
    pub(super) seqs: Table<'t, &'static str, u64>,
    /// The transaction, for tables that few commands need.
    pub(super) tx: &'t WriteTransaction,
    pub(super) sealer: &'t Sealer,
    /// Trees that are ready for checks.
    pub(super) made: &'t Trees,
    /// Incarnation of the store.
    pub(super) store: &'t str,
    /// Something was written; without it there is nothing to commit.
    pub(super) dirty: bool,
}

impl<'t> Tables<'t> {
    pub(super) fn open(
        tx: &'t WriteTransaction,
        (sealer, made): (&'t Sealer, &'t Trees),
        store: &'t str,
    ) -> Result<Self, Fault> {
        Ok(Self {
            operations: tx.open_table(OPERATIONS)?,
            specs: tx.open_table(SPECS)?,
            tombstones: tx.open_table(TOMBSTONES)?,
            names: tx.open_table(NAMES)?,
            due: tx.open_table(DUE)?,
            expiry: tx.open_table(EXPIRY)?,
            usage: tx.open_table(USAGE)?,
            limits: tx.open_table(LIMITS)?,
            pots: tx.open_table(POTS)?,
            trees: tx.open_table(TREES)?,
            spends: tx.open_table(SPENDS)?,
            seqs: tx.open_table(SEQS)?,
            tx,
            sealer,
            made,
            store,
            dirty: false,
        })
    }

    /// A record without its spec; tombstones do not count.
    pub(super) fn bare_record(&self, key: &[u8]) -> Result<Option<OperationRecord>, Fault> {
        match self.operations.get(key)? {
            Some(bytes) => decode_record("operations", key, bytes.value()).map(Some),
            None => Ok(None),
        }
    }

    /// The record with its spec.
    pub(super) fn whole(&self, key: &[u8], mut record: OperationRecord) -> Result<Box<OperationRecord>, Fault> {
        attach_spec(&self.specs, self.sealer, key, &mut record)?;
        Ok(Box::new(record))
    }

    /// The sealed spec, if it differs from the stored one.
    pub(super) fn changed_spec(&self, key: &[u8], spec: &InstanceSpec) -> Result<Option<Vec<u8>>, Fault> {
        let text = zeroize::Zeroizing::new(encode(spec)?);
        if let Some(old) = self.specs.get(key)?
            && self.sealer.open(key, old.value()).is_ok_and(|old| *old == *text)
        {
            return Ok(None);
        }
        if text.len() > RECORD_BYTES_MAX {
            return Err(damaged("specs", key, "the spec is larger than a spec may be"));
        }
        self.sealer.seal(key, &text).map(Some).map_err(|_| damaged("specs", key, "cannot be sealed"))
    }

    pub(super) fn usage(&self, tenant: &TenantId) -> Result<Charge, Fault> {
        read_json(&self.usage, "usage", tenant)
    }

    /// The next place among the tenant's writes.
    pub(super) fn next_seq(&mut self, tenant: &TenantId) -> Result<u64, Fault> {
        let next = self.seqs.get(tenant.as_str())?.map_or(0, |seq| seq.value()).saturating_add(1);
        self.seqs.insert(tenant.as_str(), next)?;
        Ok(next)
    }

    pub(super) fn limits(&self, tenant: &TenantId) -> Result<QuotaLimits, Fault> {
        read_json(&self.limits, "limits", tenant)
    }

    /// Writes a record whose bytes are ready, and what follows from it. `old` is what is replaced.
    pub(super) fn put(
        &mut self,
        key: &[u8],
        old: Option<&OperationRecord>,
        next: &OperationRecord,
        bytes: &[u8],
    ) -> Result<(), Fault> {
        self.dirty = true;
        self.operations.insert(key, bytes)?;
        match &next.due {
            Some(_) => drop(self.due.insert(key, next.fence.owner.as_bytes())?),
            None => drop(self.due.remove(key)?),
        }
        if let Some(old) = old.filter(|o| o.is_gone()) {
            self.expiry.remove(expiry_key(Expiring::Gone, old.updated_at, key).as_slice())?;
        }
        let name = name_key(&next.tenant, &next.name);
        if next.is_gone() {
            self.expiry.insert(expiry_key(Expiring::Gone, next.updated_at, key).as_slice(), [].as_slice())?;
            if old.is_some_and(|o| !o.is_gone()) {
                self.names.remove(name.as_slice())?;
            }
        } else if old.is_none() {
            self.names.insert(name.as_slice(), next.op_id.as_str().as_bytes())?;
        }
        Ok(())
    }
}

/// A value by tenant, or its default.
pub(super) fn read_json<T: DeserializeOwned + Default>(
    table: &impl ReadableTable<&'static str, Bytes>,
    name: &str,
    tenant: &TenantId,
) -> Result<T, Fault> {
    match table.get(tenant.as_str())? {
        Some(bytes) => decode(name, tenant.as_str().as_bytes(), bytes.value()),
        None => Ok(T::default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiry_keys_order_like_their_times() {
        let times = [i64::MIN, -5, -1, 0, 1, 1_767_225_600_042, i64::MAX];
        let keys: Vec<_> =
            times.iter().map(|t| expiry_key(Expiring::Gone, Time::from_unix_ms(*t), b"acme\0op")).collect();
        assert!(keys.is_sorted());
        assert!(keys.iter().all(|k| *k < expiry_bound(Expiring::Tombstone, Time::from_unix_ms(i64::MIN))));
        assert_eq!(record_of_expiry(&keys[3]).unwrap(), b"acme\0op");
    }

    #[test]
    fn keys_of_one_tenant_lie_together() {
        let key = |t: &str, o: &str| record_key(&TenantId::new(t).unwrap(), &OperationId::new(o).unwrap());
        assert!(key("a", "zz") < key("a-b", "a") && key("a-b", "z") < key("ab", "a"));
    }
}
