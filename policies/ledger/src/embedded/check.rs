//! What is checked at every start: that everything can be read, and that what is derived agrees with what it is
//! derived from. Damage refuses the start; a derived table that differs is rebuilt and the difference reported.

use std::collections::BTreeMap;

use meridian_model::{
    ids::TenantId,
    operation::{Charge, OperationRecord},
};
use meridian_policies::quota::parts::{Pots, move_parts, parts};
use redb::{ReadableTable, ReadableTableMetadata};

use super::{
    amounts, pots,
    tables::{
        Expiring, Fault, Tables, attach_spec, damaged, decode_record, encode, expiry_key, name_key, pair_key, read_json,
    },
};

/// Charges by tenant.
type Sums = BTreeMap<TenantId, Charge>;
/// Where they lie.
type Lie = BTreeMap<TenantId, Pots>;

/// Most differences that are told one by one; the rest is counted.
const DIFFERENCES_MAX: usize = 100;

/// What the start found. Differences have been repaired; each is a fault of ours or damage that the checksums
/// did not show, so the caller logs them as errors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// Records that are not expired.
    pub records: usize,
    /// What expired records left.
    pub tombstones: usize,
    /// The former process did not close the ledger, so the store looked for an unfinished commit and dropped it.
    pub recovered: bool,
    /// Tenants whose stored usage was not the sum of their charges; the sum counts now.
    pub usage_differences: Vec<UsageDifference>,
    /// What else was wrong, for people.
    pub index_differences: Vec<String>,
    /// How many more there were than are listed.
    pub differences_unlisted: usize,
}

/// A tenant whose stored usage was wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageDifference {
    /// The tenant.
    pub tenant: TenantId,
    /// What was stored.
    pub stored: Charge,
    /// The sum of the charges of the tenant's records.
    pub recomputed: Charge,
}

impl OpenReport {
    /// Nothing had to be repaired.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.usage_differences.is_empty() && self.index_differences.is_empty() && self.differences_unlisted == 0
    }

    fn note_index(&mut self, what: String) {
        if self.index_differences.len() < DIFFERENCES_MAX {
            self.index_differences.push(what);
        } else {
            self.differences_unlisted += 1;
        }
    }
}

/// Walks over everything and repairs what is derived.
pub(super) fn check(t: &mut Tables<'_>) -> Result<OpenReport, Fault> {
    let mut report = OpenReport::default();
    let (sums, lie) = check_records(t, &mut report)?;
    if !report.is_clean() {
        rebuild_indexes(t)?;
    }
    check_usage(t, &sums, &mut report)?;
    for wrong in pots::check(t, &lie)? {
        report.note_index(wrong);
    }
    for entry in t.limits.iter()? {
        let tenant = tenant_of("limits", entry?.0.value())?;
        t.limits(&tenant)?;
    }
    for entry in t.trees.iter()? {
        let tenant = tenant_of("trees", entry?.0.value())?;
        pots::read_tree(&t.trees, &tenant)?;
    }
    Ok(report)
}

/// Reads every record, adds up the charges and compares the indexes, without writing.
fn check_records(t: &Tables<'_>, report: &mut OpenReport) -> Result<(Sums, Lie), Fault> {
    let (mut sums, mut lie) = (Sums::new(), Lie::new());
    let (mut names, mut due, mut expiry) = (0, 0, 0);
    for entry in t.operations.iter()? {
        let (key, bytes) = entry?;
        let key = key.value();
        let mut record = decode_record("operations", key, bytes.value())?;
        attach_spec(&t.specs, t.sealer, key, &mut record)?;
        report.records += 1;
        let sum = sums.entry(record.tenant.clone()).or_default();
        *sum = amounts::sum(sum, &record.charge)
            .ok_or_else(|| damaged("operations", key, "the tenant's charges exceed what can be counted"))?;
        let parts = parts(&record);
        if !parts.is_empty() {
            move_parts(lie.entry(record.tenant.clone()).or_default(), &Pots::new(), &parts);
        }
        let gone = record.is_gone();
        names += u64::from(!gone);
        due += u64::from(record.due.is_some());
        expiry += u64::from(gone);
        check_entries(t, key, &record, report)?;
    }
    for entry in t.tombstones.iter()? {
        let (key, bytes) = entry?;
        let record = decode_record("tombstones", key.value(), bytes.value())?;
        report.tombstones += 1;
        expiry += 1;
        let index = expiry_key(Expiring::Tombstone, record.updated_at, key.value());
        if t.expiry.get(index.as_slice())?.is_none() {
            report.note_index(format!("expiry has no entry for the tombstone of {}/{}", record.tenant, record.op_id));
        }
    }
    let counts = [
        ("names", t.names.len()?, names),
        ("due", t.due.len()?, due),
        ("expiry", t.expiry.len()?, expiry),
        // A spec without a record would keep a secret for ever.
        ("specs", t.specs.len()?, t.operations.len()?),
    ];
    for (table, have, want) in counts {
        if have != want {
            report.note_index(format!("{table} has {have} entries and should have {want}"));
        }
    }
    Ok((sums, lie))
}

/// Compares the index entries of one record.
fn check_entries(t: &Tables<'_>, key: &[u8], record: &OperationRecord, report: &mut OpenReport) -> Result<(), Fault> {
    let place = format!("{}/{}", record.tenant, record.op_id);
    if record.is_gone() {
        let index = expiry_key(Expiring::Gone, record.updated_at, key);
        if t.expiry.get(index.as_slice())?.is_none() {
            report.note_index(format!("expiry has no entry for {place}"));
        }
    } else {
        let name = name_key(&record.tenant, &record.name);
        if t.names.get(name.as_slice())?.is_none_or(|op| op.value() != record.op_id.as_str().as_bytes()) {
            report.note_index(format!("the name {} does not point to {place}", record.name));
        }
    }
    let holder = t.due.get(key)?;
    let want = record.due.map(|_| record.fence.owner.as_bytes());
    if holder.as_ref().map(|h| h.value()) != want {
        report.note_index(format!("due is wrong for {place}"));
    }
    Ok(())
}

/// Makes the indexes anew from the records.
fn rebuild_indexes(t: &mut Tables<'_>) -> Result<(), Fault> {
    t.dirty = true;
    t.names.retain(|_, _| false)?;
    t.due.retain(|_, _| false)?;
    t.expiry.retain(|_, _| false)?;
    for entry in t.operations.iter()? {
        let (key, bytes) = entry?;
        let key = key.value();
        let record = decode_record("operations", key, bytes.value())?;
        if record.due.is_some() {
            t.due.insert(key, record.fence.owner.as_bytes())?;
        }
        if record.is_gone() {
            let index = expiry_key(Expiring::Gone, record.updated_at, key);
            t.expiry.insert(index.as_slice(), [].as_slice())?;
            continue;
        }
        let name = pair_key(&record.tenant, record.name.as_str());
        if t.names.insert(name.as_slice(), record.op_id.as_str().as_bytes())?.is_some() {
            return Err(damaged("operations", key, format!("two living instances are named {}", record.name)));
        }
    }
    for entry in t.tombstones.iter()? {
        let (key, bytes) = entry?;
        let record = decode_record("tombstones", key.value(), bytes.value())?;
        let index = expiry_key(Expiring::Tombstone, record.updated_at, key.value());
        t.expiry.insert(index.as_slice(), [].as_slice())?;
    }
    let mut masterless = Vec::new();
    for entry in t.specs.iter()? {
        let key = entry?.0.value().to_vec();
        if t.operations.get(key.as_slice())?.is_none() {
            masterless.push(key);
        }
    }
    for key in masterless {
        t.specs.remove(key.as_slice())?;
    }
    Ok(())
}

/// Compares each tenant's usage with the sum of its charges and writes the sum where they differ.
fn check_usage(t: &mut Tables<'_>, sums: &Sums, report: &mut OpenReport) -> Result<(), Fault> {
    let mut tenants = sums.clone();
    for entry in t.usage.iter()? {
        tenants.entry(tenant_of("usage", entry?.0.value())?).or_default();
    }
    for (tenant, recomputed) in tenants {
        let stored: Charge = read_json(&t.usage, "usage", &tenant)?;
        if stored == recomputed {
            continue;
        }
        let bytes = encode(&recomputed)?;
        t.usage.insert(tenant.as_str(), bytes.as_slice())?;
        t.dirty = true;
        if report.usage_differences.len() < DIFFERENCES_MAX {
            report.usage_differences.push(UsageDifference { tenant, stored, recomputed });
        } else {
            report.differences_unlisted += 1;
        }
    }
    Ok(())
}

fn tenant_of(table: &str, key: &str) -> Result<TenantId, Fault> {
    TenantId::new(key).map_err(|e| damaged(table, key.as_bytes(), e.to_string()))
}
