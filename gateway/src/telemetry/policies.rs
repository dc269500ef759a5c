//! The metrics of policies: rules that did not hold, by policy, rule and mode, never by tenant's name alone: a policy's
//! path names its tenant, and policies are few.

use std::fmt;

use meridian_policies::rules::Decision;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};

use super::Metrics;

/// Rules that did not hold.
pub const BROKEN_RULES: &str = "meridian_policy_broken_rules";

/// Rules that had no answer.
pub const FAULTS: &str = "meridian_policy_faults";

/// Paths of policies and ids of rules are the documents'; modes are a closed set.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RuleLabels {
    policy: String,
    rule: String,
    mode: &'static str,
}

/// See the module.
#[derive(Clone)]
pub struct PolicyMetrics {
    broken_rules: Family<RuleLabels, Counter>,
    faults: Family<RuleLabels, Counter>,
}

impl fmt::Debug for PolicyMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PolicyMetrics")
    }
}

impl PolicyMetrics {
    /// Metrics in the given registry.
    #[must_use]
    pub fn register(metrics: &Metrics) -> Self {
        let all = Self { broken_rules: Family::default(), faults: Family::default() };
        metrics.register(|registry| {
            let help = "Rules of policies that did not hold";
            registry.register(BROKEN_RULES, help, all.broken_rules.clone());
            registry.register(FAULTS, "Rules of policies that had no answer", all.faults.clone());
        });
        all
    }

    /// Counts a decision.
    pub fn decided(&self, decision: &Decision) {
        for broken in &decision.broken {
            let labels = RuleLabels {
                policy: broken.policy.to_string(),
                rule: broken.rule.to_string(),
                mode: broken.mode.as_str(),
            };
            if broken.fault.is_some() {
                self.faults.get_or_create(&labels).inc();
            }
            self.broken_rules.get_or_create(&labels).inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use meridian_policies::{
        expr::Fault,
        rules::{Broken, Mode},
    };

    use super::*;

    #[test]
    fn broken_rules_are_counted_by_policy_rule_and_mode() {
        let metrics = Metrics::new();
        let policies = PolicyMetrics::register(&metrics);
        let broken = |mode, fault| Broken {
            policy: Arc::from("policies/p"),
            rule: Arc::from("r"),
            mode,
            pointer: String::new(),
            message: String::new(),
            hint: None,
            fault,
        };
        let broken = vec![broken(Mode::Audit, None), broken(Mode::Enforce, Some(Fault::Overflow))];
        policies.decided(&Decision { broken, ..Decision::default() });
        let text = metrics.render();
        for line in [
            "meridian_policy_broken_rules_total{policy=\"policies/p\",rule=\"r\",mode=\"audit\"} 1",
            "meridian_policy_broken_rules_total{policy=\"policies/p\",rule=\"r\",mode=\"enforce\"} 1",
            "meridian_policy_faults_total{policy=\"policies/p\",rule=\"r\",mode=\"enforce\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }
}
