//! From what a policy says to what it does, or everything that is wrong with it.

use std::{collections::BTreeSet, sync::Arc};

use meridian_model::{
    ids::{ProfileName, TenantId},
    validate,
};

use super::{
    Policy, RuleSet, Ruled,
    document::{PolicySpec, Rule, Scope},
    finding::{Finding, Findings},
    pointer,
};
use crate::expr::{Condition, Diagnostic, Message, Params, Place};

/// Most rules of one policy.
const RULES_MAX: usize = 100;
/// Most units all rules that may judge one request may cost together: some 3 ms on one core, and real requests cost a
/// hundredth of it.
pub const SET_COST_MAX: u64 = 1_000_000;

impl Policy {
    /// Checks and compiles what a policy says; its own scope is passed over.
    ///
    /// # Errors
    /// Every fault.
    pub fn load(scope: Scope, name: &ProfileName, spec: PolicySpec) -> Result<Self, Findings> {
        let params = spec.params.iter().map(|(name, param)| (name.clone(), param.0.clone())).collect();
        Loading { findings: Vec::new(), params, policy: name }.run(scope, spec)
    }
}

impl RuleSet {
    /// A set of these policies; of two of one path the later.
    #[must_use]
    pub fn of(policies: impl IntoIterator<Item = Arc<Policy>>) -> Self {
        let mut set = Self::default();
        for policy in policies {
            set.insert(policy);
        }
        set
    }

    /// The same set with a policy, which takes the place of one of its path.
    #[must_use]
    pub fn with(&self, policy: Arc<Policy>) -> Self {
        let mut set = self.clone();
        set.insert(policy);
        set
    }

    fn insert(&mut self, policy: Arc<Policy>) {
        let list = match policy.scope.tenant() {
            None => &mut self.platform,
            Some(tenant) => self.tenants.entry(tenant.clone()).or_default(),
        };
        list.retain(|held| held.path != policy.path);
        let at = list.partition_point(|p| (&p.scope, &p.path) <= (&policy.scope, &policy.path));
        list.insert(at, policy);
    }

    /// Most units that judging one request may cost: one of the tenant, or of whichever tenant costs most. More than
    /// [`SET_COST_MAX`] is for whoever declares the policies to refuse.
    #[must_use]
    pub fn cost_max(&self, tenant: Option<&TenantId>) -> u64 {
        let sum = |policies: &[Arc<Policy>]| policies.iter().map(|p| p.cost_max()).fold(0_u64, u64::saturating_add);
        let of_tenant = match tenant {
            Some(tenant) => self.tenants.get(tenant).map(|policies| sum(policies)),
            None => self.tenants.values().map(|policies| sum(policies)).max(),
        };
        sum(&self.platform).saturating_add(of_tenant.unwrap_or(0))
    }
}

fn whole(code: &'static str, text: &str, message: String, hint: impl Into<String>) -> Diagnostic {
    Diagnostic::new(code, text, Place { start: 0, end: text.len() }, message, hint)
}

struct Loading<'n> {
    findings: Vec<Finding>,
    params: Params,
    policy: &'n ProfileName,
}

impl Loading<'_> {
    fn run(mut self, scope: Scope, spec: PolicySpec) -> Result<Policy, Findings> {
        if spec.rules.is_empty() && spec.defaults == Default::default() && spec.mutations == Default::default() {
            let message = "the policy does nothing".to_owned();
            self.find("", whole("empty", "", message, "add `rules`, `defaults` or `mutations`"));
        }
        if spec.rules.len() > RULES_MAX {
            self.find("/rules", whole("too-long", "", format!("more than {RULES_MAX} rules"), "split the policy"));
        }
        self.written(&spec);
        let condition = spec.matching.condition.as_ref().and_then(|c| self.condition("/match/condition", c));
        let mut ids = BTreeSet::new();
        let mut rules = Vec::with_capacity(spec.rules.len());
        for (i, rule) in spec.rules.iter().enumerate() {
            if !ids.insert(rule.id.as_str()) {
                let message = format!("two rules have the id `{}`", rule.id);
                self.find(&format!("/rules/{i}/id"), whole("duplicate", &rule.id, message, "rename one of them"));
            }
            rules.extend(self.rule(rule, &format!("/rules/{i}")));
        }
        if !self.findings.is_empty() {
            return Err(Findings(self.findings));
        }
        let PolicySpec { matching, defaults, mutations, .. } = spec;
        let path = scope.path(self.policy).into();
        Ok(Policy { path, scope, operations: matching.operations, condition, rules, defaults, mutations })
    }

    fn find(&mut self, pointer: &str, diagnostic: Diagnostic) {
        self.findings.push(Finding { pointer: pointer.to_owned(), diagnostic });
    }

    fn rule(&mut self, rule: &Rule, at: &str) -> Option<Ruled> {
        // Ids stand in paths, metrics and codes.
        if ProfileName::new(&rule.id).is_err() {
            let message = format!("`{}` is no name", rule.id);
            let hint = "use 1 to 63 lower-case letters, digits or '-', with a letter or digit at both ends";
            self.find(&format!("{at}/id"), whole("invalid-name", &rule.id, message, hint));
        }
        let condition = self.condition(&format!("{at}/expression"), &rule.expression);
        let message = rule.message_expression.as_ref().map(|expression| {
            Message::load(expression, &self.params)
                .map_err(|faults| self.all(&format!("{at}/messageExpression"), faults))
        });
        if let Some(pointer) = &rule.pointer
            && let Err(fault) = pointer::check(pointer)
        {
            self.find(&format!("{at}/pointer"), fault);
        }
        let id: Arc<str> = rule.id.as_str().into();
        let policy = self.policy;
        let text = rule.message.clone().unwrap_or_else(|| format!("rule {id} of policy {policy} does not hold"));
        Some(Ruled {
            condition: condition?,
            message: message.and_then(Result::ok),
            text,
            pointer: rule.pointer.clone().unwrap_or_default(),
            hint: rule.hint.clone(),
            mode: rule.mode,
            id,
        })
    }

    fn condition(&mut self, at: &str, expression: &str) -> Option<Condition> {
        Condition::load(expression, &self.params).map_err(|faults| self.all(at, faults)).ok()
    }

    fn all(&mut self, at: &str, faults: Vec<Diagnostic>) {
        for fault in faults {
            self.find(at, fault);
        }
    }

    /// What a policy writes must itself be valid.
    fn written(&mut self, spec: &PolicySpec) {
        let mut faults = Vec::new();
        for (what, labels) in [("defaults", &spec.defaults.labels), ("mutations", &spec.mutations.labels)] {
            faults.extend(validate::labels(labels, &format!("/{what}/labels")));
        }
        for (what, set) in [("defaults", &spec.defaults.annotations), ("mutations", &spec.mutations.annotations)] {
            faults.extend(validate::annotations(set, &format!("/{what}/annotations")));
        }
        for fault in faults {
            let hint = fault.hint.unwrap_or_else(|| "give a value of the form stated".to_owned());
            self.find(&fault.pointer, whole("wrong-value", "", fault.detail, hint));
        }
    }
}
