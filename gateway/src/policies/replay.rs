//! Policies tried on requests that were made before: which would end otherwise. Pure; requests come from the ledger or
//! from a file.
//!
//! What is kept of a request is what was made of it: defaults of then are in it, so a default of now that says otherwise
//! changes nothing. Requests that were denied are not kept, nor is who made one: rules see [`PRINCIPAL`] in the role
//! [`ROLE`].

use std::{collections::BTreeMap, sync::Arc};

use meridian_model::{
    ids::{InstanceName, ProjectName, TenantId},
    instance::{InstanceSpec, Labels},
    time::Time,
};
use meridian_policies::{
    access::Role,
    rules::{Broken, Difference, Fate, Mode, Operation, Request, RuleSet},
};

use crate::views::{PolicyTest, RuleTest, TestedRequest, TestedRule, TestedWrite};

/// Whose the requests are, as rules see it.
pub const PRINCIPAL: &str = "recorded";

/// The role of whoever made them.
pub const ROLE: Role = Role::Operator;

/// Most requests that are shown with what changes; all are counted.
const SHOWN_MAX: usize = 200;

/// Most units that all decisions of one trial may cost: under a second of one core.
const COST_MAX: u64 = 200_000_000;

/// A request that was made before.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// Whose instance it is.
    pub tenant: TenantId,
    /// Its project and those above it.
    pub projects: Vec<ProjectName>,
    /// Its name.
    pub name: InstanceName,
    /// Labels.
    pub labels: Labels,
    /// Annotations.
    pub annotations: Labels,
    /// The wish.
    pub spec: Arc<InstanceSpec>,
    /// When it was made.
    pub at: Time,
}

/// Policy, rule and mode.
type RuleKey = (Arc<str>, Arc<str>, Mode);

/// A trial under way.
#[derive(Debug)]
pub struct Replay {
    before: RuleSet,
    after: RuleSet,
    report: PolicyTest,
    /// Of how many requests a rule does not hold any more, and of how many it holds again.
    rules: BTreeMap<RuleKey, (u64, u64)>,
    roles: Vec<String>,
    cost: u64,
}

impl Replay {
    /// A trial of the second policies against the first.
    #[must_use]
    pub fn new(before: RuleSet, after: RuleSet) -> Self {
        let report = PolicyTest::default();
        Self { before, after, report, rules: BTreeMap::new(), roles: vec![ROLE.as_str().to_owned()], cost: 0 }
    }

    /// Judges a request by both. False when no more are to be judged: the rest is left out, and the report says so.
    pub fn judge(&mut self, recorded: &Recorded) -> bool {
        if self.cost >= COST_MAX {
            self.cut();
            return false;
        }
        let request = Request {
            operation: Operation::Create,
            tenant: &recorded.tenant,
            projects: &recorded.projects,
            principal: PRINCIPAL,
            roles: &self.roles,
            time: recorded.at,
            name: &recorded.name,
            labels: &recorded.labels,
            annotations: &recorded.annotations,
            spec: &recorded.spec,
        };
        let (before, after) = (self.before.decide(&request), self.after.decide(&request));
        self.cost = self.cost.saturating_add(before.cost).saturating_add(after.cost);
        let difference = Difference::of(&request, &before, &after);
        self.count(recorded, difference);
        true
    }

    /// There are more requests than are judged.
    pub fn cut(&mut self) {
        self.report.truncated = true;
    }

    fn count(&mut self, recorded: &Recorded, difference: Difference) {
        let report = &mut self.report;
        report.requests += 1;
        report.oldest = report.oldest.into_iter().chain([recorded.at]).min();
        report.newest = report.newest.into_iter().chain([recorded.at]).max();
        if difference.is_none() {
            return;
        }
        report.denied += u64::from(difference.fate == Fate::Denied);
        report.passed += u64::from(difference.fate == Fate::Passed);
        report.warned += u64::from(difference.breaks(Mode::Warn));
        report.written += u64::from(!difference.written.is_empty());
        for (rules, is_broken) in [(&difference.broken, true), (&difference.mended, false)] {
            for rule in rules {
                let key = (Arc::clone(&rule.policy), Arc::clone(&rule.rule), rule.mode);
                let (broken, mended) = self.rules.entry(key).or_default();
                *(if is_broken { broken } else { mended }) += 1;
            }
        }
        if report.changes.len() < SHOWN_MAX {
            report.changes.push(shown(recorded, difference));
        }
    }

    /// What came of it.
    #[must_use]
    pub fn finish(self) -> PolicyTest {
        let rule = |((policy, rule, mode), (broken, mended)): (RuleKey, (u64, u64))| RuleTest {
            policy: policy.to_string(),
            rule: rule.to_string(),
            mode: mode.as_str().to_owned(),
            broken,
            mended,
        };
        PolicyTest { rules: self.rules.into_iter().map(rule).collect(), ..self.report }
    }
}

fn shown(recorded: &Recorded, difference: Difference) -> TestedRequest {
    let Difference { fate, broken, mended, written } = difference;
    let rule = |broken: Broken| TestedRule {
        policy: broken.policy.to_string(),
        rule: broken.rule.to_string(),
        mode: broken.mode.as_str().to_owned(),
        pointer: broken.pointer,
        message: broken.message,
    };
    TestedRequest {
        name: format!("tenants/{}/instances/{}", recorded.tenant, recorded.name),
        create_time: recorded.at,
        verdict: match fate {
            Fate::Same => "same",
            Fate::Denied => "denied",
            Fate::Passed => "passed",
        },
        broken: broken.into_iter().map(rule).collect(),
        mended: mended.into_iter().map(rule).collect(),
        written: written
            .into_iter()
            .map(|write| TestedWrite {
                pointer: write.pointer,
                before: write.before.map(|value| value.to_string()),
                after: write.after.map(|value| value.to_string()),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use meridian_model::ids::ProfileName;
    use meridian_policies::rules::{Policy, PolicySpec, Scope};
    use serde_json::{Value, json};

    use super::*;

    fn set(spec: Value) -> RuleSet {
        let spec: PolicySpec = serde_json::from_value(spec).unwrap();
        let policy = Policy::load(Scope::Platform, &ProfileName::new("p").unwrap(), spec).unwrap();
        RuleSet::of([Arc::new(policy)])
    }

    fn recorded(n: usize) -> Recorded {
        let spec = json!({ "containers": [{ "name": "a", "image": "b" }] });
        Recorded {
            tenant: TenantId::new("acme").unwrap(),
            projects: Vec::new(),
            name: InstanceName::new(format!("i{n}")).unwrap(),
            labels: Labels::new(),
            annotations: Labels::new(),
            spec: Arc::new(serde_json::from_value(spec).unwrap()),
            at: Time::from_unix_ms(1_767_225_600_000 + i64::try_from(n).unwrap() * 1000),
        }
    }

    #[test]
    fn all_are_counted_and_a_bounded_number_is_shown() {
        let rules = json!({ "rules": [
            { "id": "even", "expression": "object.name.matches('[02468]$')" },
            { "id": "team", "expression": "'team' in object.labels", "mode": "warn" },
        ], "mutations": { "capacityType": "spot" } });
        let mut replay = Replay::new(RuleSet::default(), set(rules));
        assert!((0..1000).all(|n| replay.judge(&recorded(n))));
        let report = replay.finish();
        assert_eq!(
            (report.requests, report.denied, report.passed, report.warned, report.written),
            (1000, 500, 0, 1000, 1000)
        );
        assert_eq!((report.changes.len(), report.truncated), (SHOWN_MAX, false));
        let rules: Vec<_> = report.rules.iter().map(|r| (r.rule.as_str(), r.broken, r.mended)).collect();
        assert_eq!(rules, [("even", 500, 0), ("team", 1000, 0)]);
        assert_eq!(report.newest.unwrap().since(report.oldest.unwrap()).as_secs(), 999);
        insta::assert_json_snapshot!(report.changes[1]);
    }

    #[test]
    fn a_trial_ends_when_it_has_cost_enough() {
        let dear = "object.spec.containers.all(c, c.image.matches('^[a-z]+$')) || object.name.startsWith('i')";
        let mut replay = Replay::new(RuleSet::default(), set(json!({ "rules": [{ "id": "r", "expression": dear }] })));
        replay.cost = COST_MAX - 1;
        assert!(replay.judge(&recorded(0)));
        assert!(!replay.judge(&recorded(1)));
        let report = replay.finish();
        assert_eq!((report.requests, report.truncated), (1, true));
    }
}
