//! The promises, checked against what the clouds know: R1, R3, R5 and R10 on every step, the rest at rest.

use std::collections::{BTreeMap, BTreeSet};

use meridian_gateway::journal::identity::{Deployment, tenant_hash};
use meridian_model::{ids::TenantId, operation::OperationRecord};
use meridian_policies::quota::parts::Pots;

use super::{
    clouds::Live,
    gateways::{DEPLOYMENT_ID, DEPLOYMENT_SECRET},
    workload::{CPU, Final, TENANTS, Told},
};

/// Most findings kept: the first ones tell.
const FINDINGS_MAX: usize = 12;

/// A promise that did not hold.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Finding {
    /// The promise, for example `R1`.
    pub promise: String,
    /// When, milliseconds since the beginning.
    pub at_ms: u64,
    /// What was seen.
    pub what: String,
}

/// What the ledger holds at rest.
#[derive(Debug, Default)]
pub struct Held {
    /// Every record.
    pub records: Vec<OperationRecord>,
    /// Instances in use by tenant, as the ledger counts them.
    pub used: BTreeMap<String, u64>,
    /// The same by project and place.
    pub pots: BTreeMap<String, Pots>,
}

/// Watches a history.
#[derive(Debug)]
pub struct Checkers {
    deployment: Deployment,
    /// Limit and tenant by the hash in cloud names.
    limits: BTreeMap<String, (&'static str, u64)>,
    known: BTreeSet<String>,
    /// What did not hold.
    pub findings: Vec<Finding>,
}

impl Default for Checkers {
    fn default() -> Self {
        let hash = |name: &str| TenantId::new(name).map(|t| tenant_hash(&t)).unwrap_or_default();
        Self {
            deployment: Deployment::new(DEPLOYMENT_ID, DEPLOYMENT_SECRET.as_bytes()),
            limits: TENANTS.iter().map(|(name, limit)| (hash(name), (*name, *limit))).collect(),
            known: BTreeSet::new(),
            findings: Vec::new(),
        }
    }
}

impl Checkers {
    /// Clients wait for answers long after the end of all faults.
    pub fn endless(&mut self, at_ms: u64) {
        self.find("R8", at_ms, "", "clients still wait for answers".to_owned());
    }

    /// Notes a finding, once per promise and subject.
    pub fn find(&mut self, promise: &str, at_ms: u64, subject: &str, what: String) {
        if self.findings.len() < FINDINGS_MAX && self.known.insert(format!("{promise} {subject}")) {
            self.findings.push(Finding { promise: promise.to_owned(), at_ms, what });
        }
    }

    fn op_of(&self, live: &Live) -> Option<(String, String)> {
        self.deployment.identify(&live.name).map(|i| (i.op_id.to_string(), i.tenant_hash))
    }

    /// What must hold at every moment.
    pub fn step(&mut self, at_ms: u64, existing: &[Live], book: &[Told]) {
        let mut by_op: BTreeMap<String, Vec<&Live>> = BTreeMap::new();
        let mut by_tenant: BTreeMap<String, (u64, f64)> = BTreeMap::new();
        for live in existing.iter().filter(|l| l.alive) {
            let Some((op, tenant)) = self.op_of(live) else {
                self.find("R7", at_ms, &live.id, format!("{} has a name of nobody: {}", live.id, live.name));
                continue;
            };
            by_op.entry(op).or_default().push(live);
            let sum = by_tenant.entry(tenant).or_default();
            *sum = (sum.0 + 1, sum.1 + live.cpu);
        }
        for (op, lives) in &by_op {
            if lives.len() > 1 {
                let which: Vec<String> = lives.iter().map(|l| format!("{} in {}", l.id, l.region)).collect();
                self.find("R1", at_ms, op, format!("operation {op} has {}", which.join(" and ")));
            }
            let Some(told) = book.iter().find(|t| t.op_id == *op) else { continue };
            let failed = told.finals.iter().find(|(_, last)| matches!(last, Final::Failed(_)));
            if let Some((at, Final::Failed(code))) = failed {
                self.find("R3", at_ms, op, format!("{} was answered {code} at {at} ms and has an instance", told.key));
            }
            if let Some(at) = told.deleted_ms {
                self.find("R10", at_ms, op, format!("{} was deleted at {at} ms and has an instance", told.key));
            }
        }
        for (hash, (instances, cpu)) in by_tenant {
            let Some((tenant, limit)) = self.limits.get(&hash).copied() else { continue };
            #[expect(clippy::cast_precision_loss, reason = "a limit of a few")]
            let cpu_limit = (limit * CPU) as f64;
            if instances > limit || cpu > cpu_limit {
                let what = format!("{tenant} has {instances} live instances with {cpu} vCPU, the limit is {limit}");
                self.find("R5", at_ms, tenant, what);
            }
        }
    }

    /// What must hold when everything was well for long enough.
    pub fn rest(&mut self, at_ms: u64, existing: &[Live], book: &[Told], Held { records, used, .. }: &Held) {
        for told in book.iter().filter(|t| t.tried > 0) {
            self.key_at_rest(at_ms, told, existing, records);
        }
        self.clouds_at_rest(at_ms, existing, records);
        for (tenant, used) in used {
            let charged: u64 = records.iter().filter(|r| r.tenant.as_str() == tenant).map(|r| r.charge.instances).sum();
            if charged != *used {
                let what = format!("{tenant} is said to use {used} instances, its records hold {charged}");
                self.find("R5", at_ms, &format!("usage {tenant}"), what);
            }
        }
        for record in records {
            let gone = record.removal.is_none() || record.is_gone();
            if !record.state.is_final() || !gone || !record.condemned.is_empty() {
                let attempt = record.attempts.last().map(|a| (a.state.as_str(), a.backend.to_string()));
                let what = format!(
                    "{} is {} (removal {}, condemned {}, attempt {attempt:?})",
                    record.op_id,
                    record.state.as_str(),
                    record.removal.is_some(),
                    record.condemned.len()
                );
                self.find("R8", at_ms, record.op_id.as_str(), what);
            }
        }
    }

    fn key_at_rest(&mut self, at_ms: u64, told: &Told, existing: &[Live], records: &[OperationRecord]) {
        if told.finals.len() > 1 {
            let all: Vec<String> = told.finals.iter().map(|(at, last)| format!("{last:?} at {at}")).collect();
            self.find("R2", at_ms, &told.key, format!("{} was answered {}", told.key, all.join(", then ")));
        }
        let record = records.iter().find(|r| r.op_id.as_str() == told.op_id);
        let lives = existing.iter().filter(|l| self.op_of(l).is_some_and(|(op, _)| op == told.op_id)).count();
        if told.acknowledged_ms.is_some() && record.is_none() {
            self.find("R9", at_ms, &told.key, format!("{} was acknowledged and is not in the ledger", told.key));
        }
        if told.finals.is_empty() && told.acknowledged_ms.is_some() {
            self.find("R8", at_ms, &told.key, format!("{} has no final answer", told.key));
        }
        let made = told.finals.iter().any(|(_, last)| matches!(last, Final::Made(_)));
        let removed = told.delete_accepted_ms.is_some() || record.is_some_and(|r| r.removal.is_some());
        if made && !removed && lives == 0 {
            self.find("R9", at_ms, &format!("{} live", told.key), format!("{} was made and is not there", told.key));
        }
        if told.delete_accepted_ms.is_some() && lives > 0 {
            self.find("R10", at_ms, &told.key, format!("{}: its delete was accepted and it is there", told.key));
        }
    }

    /// R6: the clouds hold nothing that the ledger does not hold and charge.
    fn clouds_at_rest(&mut self, at_ms: u64, existing: &[Live], records: &[OperationRecord]) {
        for live in existing {
            let Some((op, _)) = self.op_of(live) else { continue };
            let record = records.iter().find(|r| r.op_id.as_str() == op);
            let known = record.is_some_and(|r| {
                let id = r.open_attempt().and_then(|a| a.cloud_id.as_ref());
                id.is_some_and(|id| id.as_str() == live.id) && (!live.alive || r.charge.instances > 0)
            });
            if !known {
                let state = record.map_or("unknown", |r| r.state.as_str());
                let what = format!("{} in {} is of {op}, which is {state} and does not hold it", live.id, live.region);
                self.find("R6", at_ms, &live.id, what);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live(op: &str, n: u32, id: &str) -> Live {
        let deployment = Deployment::new(DEPLOYMENT_ID, DEPLOYMENT_SECRET.as_bytes());
        let name = deployment.cloud_name(&TenantId::new("lab").unwrap(), &op.parse().unwrap(), n, 1).unwrap();
        Live {
            id: id.to_owned(),
            name: name.to_string(),
            region: "ap-shanghai".to_owned(),
            alive: true,
            cpu: 1.0,
            memory_gib: 2.0,
        }
    }

    fn promises(existing: &[Live]) -> Vec<String> {
        let mut checkers = Checkers::default();
        checkers.step(1, existing, &[]);
        checkers.findings.into_iter().map(|f| f.promise).collect()
    }

    #[test]
    fn doubles_and_oversold_tenants_are_found() {
        let a = "a".repeat(26);
        assert_eq!(promises(&[live(&a, 1, "i-1"), live(&a, 2, "i-2")]), ["R1"]);
        let many = |n: u64| -> Vec<Live> {
            "abcdefgh".chars().zip(0..n).map(|(c, n)| live(&c.to_string().repeat(26), 1, &format!("i-{n}"))).collect()
        };
        let (_, limit) = TENANTS[1];
        assert!(promises(&many(limit)).is_empty());
        assert_eq!(promises(&many(limit + 1)), ["R5"]);
    }

    #[test]
    fn what_the_ledger_does_not_know_is_a_leak() {
        let mut checkers = Checkers::default();
        checkers.rest(1, &[live(&"a".repeat(26), 1, "i-1")], &[], &Held::default());
        assert_eq!(checkers.findings.iter().map(|f| f.promise.as_str()).collect::<Vec<_>>(), ["R6"]);
    }
}
