//! Policies: rules in CEL, defaults and mutations, of the platform, of tenants and of projects.
//!
//! A request is first written to, then judged. Defaults and mutations are applied from the narrowest scope to the
//! widest (project, tenant, platform): a project's default stands before the platform's, and what the platform sets
//! nobody sets anew. Rules judge the result, all of them, in the order platform, tenant, project; one that does not
//! hold denies, and no other allows it again. A rule without an answer counts as one that does not hold. All of them together
//! may spend [`SET_COST_MAX`], whatever each of them may: sets that are declared side by side can be dearer than either.
//!
//! Policies have paths, and those of a scope are in the order of their paths, so that the same policies and the same
//! request give the same decision, to the byte.

mod compare;
mod document;
mod finding;
mod load;
mod mutate;
mod pointer;

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use meridian_model::{
    ids::{InstanceName, ProjectName, TenantId},
    instance::{InstanceSpec, Labels},
    time::Time,
};

pub use self::{
    compare::{Difference, Fate, Write},
    document::{Defaults, Mode, Operation, PolicySpec, Rule, Scope},
    finding::{Finding, Findings},
    load::SET_COST_MAX,
};
use self::{document::Mutations, mutate::Draft};
use crate::expr::{
    Condition, Fault, LOCALS_MAX, Message, Meter,
    schema::{ObjectView, RequestView, RootValues, TenantView},
    value::Value,
};

/// Policies that hold together; they are shared with other sets that have them too.
#[derive(Debug, Clone, Default)]
pub struct RuleSet {
    platform: Vec<Arc<Policy>>,
    tenants: BTreeMap<TenantId, Vec<Arc<Policy>>>,
}

/// A compiled policy.
#[derive(Debug)]
pub struct Policy {
    path: Arc<str>,
    scope: Scope,
    operations: Vec<Operation>,
    condition: Option<Condition>,
    rules: Vec<Ruled>,
    defaults: Defaults,
    mutations: Mutations,
}

/// A compiled rule.
#[derive(Debug)]
struct Ruled {
    id: Arc<str>,
    condition: Condition,
    message: Option<Message>,
    text: String,
    pointer: String,
    hint: Option<String>,
    mode: Mode,
}

/// What is judged.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// What is done.
    pub operation: Operation,
    /// Whose request it is.
    pub tenant: &'a TenantId,
    /// The instance's project and those above it; empty for none.
    pub projects: &'a [ProjectName],
    /// Identifier of the credential.
    pub principal: &'a str,
    /// Roles of the caller.
    pub roles: &'a Vec<String>,
    /// When the gateway took it.
    pub time: Time,
    /// Name of the instance.
    pub name: &'a InstanceName,
    /// Labels.
    pub labels: &'a Labels,
    /// Annotations.
    pub annotations: &'a Labels,
    /// The wish, valid by itself.
    pub spec: &'a InstanceSpec,
}

/// What comes of a request.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Decision {
    /// What the policies wrote, if anything.
    pub written: Option<Box<Written>>,
    /// Rules that did not hold, of every mode, in the order in which they judged.
    pub broken: Vec<Broken>,
    /// Rules that judged.
    pub judged: u32,
    /// Units of cost.
    pub cost: u64,
}

impl Decision {
    /// The broken rules of a mode.
    pub fn of(&self, mode: Mode) -> impl Iterator<Item = &Broken> {
        self.broken.iter().filter(move |b| b.mode == mode)
    }

    /// Whether a rule denies.
    #[must_use]
    pub fn denied(&self) -> bool {
        self.of(Mode::Enforce).next().is_some()
    }
}

/// What the policies wrote.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// Labels.
    pub labels: Labels,
    /// Annotations.
    pub annotations: Labels,
    /// The wish.
    pub spec: InstanceSpec,
}

/// A rule that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Path of the policy: `policies/NAME` or `tenants/TENANT/policies/NAME`.
    pub policy: Arc<str>,
    /// Id of the rule.
    pub rule: Arc<str>,
    /// What happens now.
    pub mode: Mode,
    /// JSON pointer into the request; empty for the whole of it.
    pub pointer: String,
    /// What the caller is told.
    pub message: String,
    /// How to mend it.
    pub hint: Option<String>,
    /// Why there was no answer, if there was none.
    pub fault: Option<Fault>,
}

/// How a rule judged, for those who ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// Path of the policy.
    pub policy: Arc<str>,
    /// Id of the rule.
    pub rule: Arc<str>,
    /// Its mode.
    pub mode: Mode,
    /// Whether it held.
    pub held: bool,
    /// Units it cost.
    pub cost: u64,
    /// The most it can cost.
    pub cost_max: u64,
}

impl Policy {
    /// `policies/NAME` or `tenants/TENANT/policies/NAME`.
    #[must_use]
    pub fn path(&self) -> &Arc<str> {
        &self.path
    }

    /// Whose requests it judges.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// How many rules it has.
    #[must_use]
    pub fn rules(&self) -> usize {
        self.rules.len()
    }

    /// Most units that judging one request by it costs: all conditions, and all messages, if no rule holds.
    #[must_use]
    pub fn cost_max(&self) -> u64 {
        let conditions = self.rules.iter().map(|r| &r.condition).chain(&self.condition).map(Condition::cost_max);
        let messages = self.rules.iter().filter_map(|r| r.message.as_ref()).map(Message::cost_max);
        conditions.chain(messages).fold(0, u64::saturating_add)
    }

    /// How narrow the scope is for this request, from 0; `None` where the policy does not judge it.
    fn narrowness(&self, request: &Request<'_>) -> Option<usize> {
        if !self.operations.contains(&request.operation) {
            return None;
        }
        match &self.scope {
            Scope::Platform => Some(0),
            Scope::Tenant(_) => Some(1),
            Scope::Project(_, project) => {
                // The instance's own project stands first.
                let above = request.projects.iter().rev();
                above.enumerate().find(|(_, p)| *p == project).map(|(depth, _)| depth + 2)
            }
        }
    }
}

impl RuleSet {
    /// Whether nothing is written and nothing is judged.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.platform.is_empty() && self.tenants.is_empty()
    }

    /// The policies, the platform's first.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.platform.iter().chain(self.tenants.values().flatten())
    }

    /// Judges a request.
    #[must_use]
    pub fn decide(&self, request: &Request<'_>) -> Decision {
        self.judge(request, None)
    }

    /// The same, and how each rule judged.
    #[must_use]
    pub fn explain(&self, request: &Request<'_>) -> (Decision, Vec<Judged>) {
        let mut judged = Vec::new();
        let decision = self.judge(request, Some(&mut judged));
        (decision, judged)
    }

    fn judge(&self, request: &Request<'_>, mut told: Option<&mut Vec<Judged>>) -> Decision {
        let tenant = self.tenants.get(request.tenant).map(Vec::as_slice).unwrap_or_default();
        let mut decision = Decision::default();
        let mut matching = Vec::new();
        for policy in self.platform.iter().chain(tenant) {
            if let Some(narrowness) = policy.narrowness(request)
                && met(policy, request, &mut decision)
            {
                matching.push((narrowness, policy));
            }
        }
        matching.sort_by_key(|(narrowness, _)| *narrowness);
        let mut draft = Draft {
            labels: Cow::Borrowed(request.labels),
            annotations: Cow::Borrowed(request.annotations),
            spec: Cow::Borrowed(request.spec),
        };
        for (_, policy) in matching.iter().rev() {
            draft.fill(&policy.defaults);
        }
        for (_, policy) in matching.iter().rev() {
            draft.set(&policy.mutations);
        }
        let changed = Request { labels: &draft.labels, annotations: &draft.annotations, spec: &draft.spec, ..*request };
        with_roots(&changed, |roots| {
            for (_, policy) in &matching {
                for rule in &policy.rules {
                    decision.judge(policy, rule, roots, told.as_deref_mut());
                }
            }
        });
        if draft.changed() {
            let Draft { labels, annotations, spec } = draft;
            let (labels, annotations, spec) = (labels.into_owned(), annotations.into_owned(), spec.into_owned());
            decision.written = Some(Box::new(Written { labels, annotations, spec }));
        }
        decision
    }
}

/// Whether a policy's own condition holds of the request as it came; without an answer the policy judges.
fn met(policy: &Policy, request: &Request<'_>, decision: &mut Decision) -> bool {
    let Some(condition) = &policy.condition else { return true };
    let (holds, _) = decision
        .pay(condition.cost_max(), |meter| with_roots(request, |roots| condition.holds(*roots, meter).unwrap_or(true)));
    holds
}

/// Lends the values of the root variables.
fn with_roots<T>(request: &Request<'_>, with: impl FnOnce(&RootValues<'_>) -> T) -> T {
    let object = ObjectView {
        name: request.name,
        project: request.projects.first().map(ProjectName::as_str),
        labels: request.labels,
        annotations: request.annotations,
        spec: request.spec,
    };
    let shape = request.spec.shape();
    let view = RequestView {
        operation: request.operation.as_str(),
        principal: request.principal,
        roles: request.roles,
        time: request.time,
    };
    let tenant = TenantView(request.tenant);
    with(&[Value::Record(&object), Value::Record(&shape), Value::Record(&view), Value::Record(&tenant)])
}

impl Decision {
    /// Evaluates with what may be spent on it: its own bound, and what is left of that of the whole decision. The result is
    /// the answer and what it cost.
    fn pay<T>(&mut self, cost_max: u64, evaluate: impl FnOnce(&mut Meter) -> T) -> (T, u64) {
        let fuel = cost_max.min(SET_COST_MAX.saturating_sub(self.cost));
        let mut meter = Meter::new(fuel);
        let answer = evaluate(&mut meter);
        let cost = fuel - meter.fuel;
        self.cost += cost;
        (answer, cost)
    }

    fn judge(&mut self, policy: &Policy, rule: &Ruled, roots: &RootValues<'_>, told: Option<&mut Vec<Judged>>) {
        let cost_max = rule.condition.cost_max();
        let mut failed_at = [None; LOCALS_MAX];
        let (answer, cost) = self.pay(cost_max, |meter| {
            let answer = rule.condition.holds(*roots, meter);
            failed_at = meter.failed_at;
            answer
        });
        self.judged += 1;
        let held = answer == Ok(true);
        if let Some(told) = told {
            let (policy, rule_id) = (Arc::clone(&policy.path), Arc::clone(&rule.id));
            told.push(Judged { policy, rule: rule_id, mode: rule.mode, held, cost, cost_max });
        }
        if held {
            return;
        }
        let fault = answer.err();
        let made = rule
            .message
            .as_ref()
            .and_then(|message| self.pay(message.cost_max(), |meter| message.text(*roots, meter)).0.ok());
        let text = made.unwrap_or_else(|| rule.text.clone());
        let message = match fault {
            None => text,
            Some(why) => format!("{text} (the rule has no answer: {why})"),
        };
        self.broken.push(Broken {
            policy: Arc::clone(&policy.path),
            rule: Arc::clone(&rule.id),
            mode: rule.mode,
            pointer: pointer::settled(&rule.pointer, &failed_at),
            message,
            hint: rule.hint.clone(),
            fault,
        });
    }
}

#[cfg(test)]
mod tests;
