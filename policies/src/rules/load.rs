//! From texts to a set of rules, or everything that is wrong with them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use meridian_model::validate;
use serde_saphyr::Spanned;

use super::{
    Policy, RuleSet, Ruled,
    document::{DOCUMENTS_MAX, PolicyDocument, Rule, Scope, TEXT_LEN_MAX},
    finding::{Finding, Findings, Source},
    pointer,
};
use crate::expr::{Condition, Diagnostic, Message, Params, Place, nearest};

/// Most rules of one policy.
const RULES_MAX: usize = 100;
/// Most units all rules that may judge one request may cost together: some 3 ms on one core, and real requests cost a
/// hundredth of it.
pub const SET_COST_MAX: u64 = 1_000_000;

impl RuleSet {
    /// Reads, checks and compiles documents.
    ///
    /// # Errors
    /// Every fault of every text.
    pub fn load(sources: &[Source]) -> Result<Self, Findings> {
        let mut findings = Vec::new();
        let mut set = Self::default();
        let mut names = BTreeSet::new();
        for source in sources {
            for document in documents(source, &mut findings) {
                if !names.insert((document.scope.clone(), document.name.value.clone())) {
                    let message = format!("{} has two policies `{}`", document.scope, document.name.value);
                    let fault = whole("duplicate", &document.name.value, message, "rename one of them");
                    findings.push(source.finding(String::new(), &document.name, fault));
                }
                let loading = Loading { source, findings: Vec::new(), params: params(&document) };
                match loading.policy(document) {
                    Ok((scope, policy)) => set.insert(scope, policy),
                    Err(mut faults) => findings.append(&mut faults),
                }
            }
        }
        set.affordable(sources, &mut findings);
        if findings.is_empty() { Ok(set) } else { Err(Findings(findings)) }
    }

    fn insert(&mut self, scope: Scope, policy: Policy) {
        let list = match scope.tenant() {
            None => &mut self.platform,
            Some(tenant) => self.tenants.entry(tenant.clone()).or_default(),
        };
        let at = list.partition_point(|p| (&p.scope, &p.name) <= (&policy.scope, &policy.name));
        list.insert(at, policy);
    }

    fn affordable(&self, sources: &[Source], findings: &mut Vec<Finding>) {
        let sum = |policies: &[Policy]| policies.iter().map(Policy::cost_max).fold(0_u64, u64::saturating_add);
        let platform = sum(&self.platform);
        let dearest = self.tenants.values().map(|p| sum(p)).max().unwrap_or(0);
        let cost = platform.saturating_add(dearest);
        if let Some(source) = sources.first().filter(|_| cost > SET_COST_MAX) {
            let message =
                format!("all rules of one request may cost {cost} units together, and {SET_COST_MAX} is the most");
            let fault = whole("too-costly", "", message, "delete rules, or loop over less in them");
            findings.push(source.at(String::new(), (1, 1), fault));
        }
    }
}

/// Reads documents without compiling them.
fn documents(source: &Source, findings: &mut Vec<Finding>) -> Vec<PolicyDocument> {
    if source.text.len() > TEXT_LEN_MAX {
        let message = format!("the text is longer than {TEXT_LEN_MAX} bytes");
        findings.push(source.at(String::new(), (1, 1), whole("too-long", "", message, "split it into several")));
        return Vec::new();
    }
    // The message alone: the snippet is drawn here, in one form for all faults.
    let options = serde_saphyr::options! { with_snippet: false };
    match serde_saphyr::from_multiple_with_options::<PolicyDocument>(&source.text, options) {
        Ok(documents) if documents.len() > DOCUMENTS_MAX => {
            let message = format!("the text holds more than {DOCUMENTS_MAX} documents");
            findings.push(source.at(String::new(), (1, 1), whole("too-long", "", message, "split it into several")));
            Vec::new()
        }
        Ok(documents) => documents,
        Err(error) => {
            let number = |n: u64| usize::try_from(n).unwrap_or(1).max(1);
            let at = error.location().map_or((1, 1), |l| (number(l.line()), number(l.column())));
            let raw = error.without_snippet().to_string();
            let message = raw.split(" at line ").next().unwrap_or(&raw).to_owned();
            let (len, hint) = document_hint(&message);
            let mut fault = whole("document", "", message, hint);
            fault.len = len;
            findings.push(source.at(String::new(), at, fault));
            Vec::new()
        }
    }
}

/// Length of what is wrong in a document, and a cure.
fn document_hint(message: &str) -> (usize, String) {
    let unknown = message.strip_prefix("unknown field `").or_else(|| message.strip_prefix("unknown variant `"));
    if let Some((word, known)) = unknown.and_then(|rest| rest.split_once('`')) {
        let known: Vec<&str> = known
            .trim_start_matches(", expected ")
            .trim_start_matches("one of ")
            .split([',', ' '])
            .map(|w| w.trim_matches('`'))
            .filter(|w| !w.is_empty() && *w != "or")
            .collect();
        let hint = match nearest(word, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("there are: {}", known.join(", ")),
        };
        return (word.chars().count(), hint);
    }
    if let Some(field) = message.strip_prefix("missing field `").and_then(|r| r.strip_suffix('`')) {
        return (1, format!("add `{field}:`"));
    }
    (1, "see `meridian policy library` for documents that are right".to_owned())
}

fn whole(code: &'static str, text: &str, message: String, hint: impl Into<String>) -> Diagnostic {
    Diagnostic::new(code, text, Place { start: 0, end: text.len() }, message, hint)
}

fn params(document: &PolicyDocument) -> Params {
    document.params.iter().map(|(name, param)| (name.clone(), param.0.clone())).collect()
}

struct Loading<'s> {
    source: &'s Source,
    findings: Vec<Finding>,
    params: Params,
}

impl Loading<'_> {
    fn policy(mut self, document: PolicyDocument) -> Result<(Scope, Policy), Vec<Finding>> {
        let name = document.name.value.clone();
        let at = |what: &str| format!("policy {name}, {what}");
        self.label(at("name"), &document.name);
        if document.rules.is_empty()
            && document.defaults == Default::default()
            && document.mutations == Default::default()
        {
            let fault =
                whole("empty", &name, "the policy does nothing".to_owned(), "add `rules`, `defaults` or `mutations`");
            self.findings.push(self.source.finding(at("rules"), &document.name, fault));
        }
        if document.rules.len() > RULES_MAX {
            let fault = whole("too-long", &name, format!("more than {RULES_MAX} rules"), "split the policy");
            self.findings.push(self.source.finding(at("rules"), &document.name, fault));
        }
        self.written(&document, &at("defaults and mutations"));
        let condition = document.matching.condition.as_ref().and_then(|c| self.condition(at("match.condition"), c));
        let full_name: Arc<str> = match document.scope.tenant() {
            None => format!("policies/{name}").into(),
            Some(tenant) => format!("tenants/{tenant}/policies/{name}").into(),
        };
        let mut ids = BTreeSet::new();
        let mut rules = Vec::with_capacity(document.rules.len());
        for (i, rule) in document.rules.iter().enumerate() {
            if !ids.insert(rule.id.value.as_str()) {
                let message = format!("two rules have the id `{}`", rule.id.value);
                let fault = whole("duplicate", &rule.id.value, message, "rename one of them");
                self.findings.push(self.source.finding(at(&format!("rules[{i}].id")), &rule.id, fault));
            }
            rules.extend(self.rule(rule, &at(&format!("rules[{i}]")), &name));
        }
        if !self.findings.is_empty() {
            return Err(self.findings);
        }
        let PolicyDocument { scope, matching, defaults, mutations, .. } = document;
        let policy = Policy {
            name: full_name,
            scope: scope.clone(),
            operations: matching.operations,
            condition,
            rules,
            defaults,
            mutations,
        };
        Ok((scope, policy))
    }

    fn rule(&mut self, rule: &Rule, at: &str, policy: &str) -> Option<Ruled> {
        self.label(format!("{at}.id"), &rule.id);
        let condition = self.condition(format!("{at}.expression"), &rule.expression);
        let message = rule.message_expression.as_ref().map(|expression| {
            Message::load(&expression.value, &self.params)
                .map_err(|faults| self.all(&format!("{at}.messageExpression"), expression, faults))
        });
        if let Some(pointer) = &rule.pointer
            && let Err(fault) = pointer::check(&pointer.value)
        {
            self.findings.push(self.source.finding(format!("{at}.pointer"), pointer, fault));
        }
        let id: Arc<str> = rule.id.value.as_str().into();
        let text = rule.message.clone().unwrap_or_else(|| format!("rule {id} of policy {policy} does not hold"));
        Some(Ruled {
            condition: condition?,
            message: message.and_then(Result::ok),
            text,
            pointer: rule.pointer.as_ref().map(|p| p.value.clone()).unwrap_or_default(),
            hint: rule.hint.clone(),
            mode: rule.mode,
            id,
        })
    }

    fn condition(&mut self, at: String, expression: &Spanned<String>) -> Option<Condition> {
        Condition::load(&expression.value, &self.params).map_err(|faults| self.all(&at, expression, faults)).ok()
    }

    fn all(&mut self, at: &str, expression: &Spanned<String>, faults: Vec<Diagnostic>) {
        for fault in faults {
            self.findings.push(self.source.finding(at.to_owned(), expression, fault));
        }
    }

    /// Names are DNS labels: they stand in paths, metrics and codes.
    fn label(&mut self, at: String, name: &Spanned<String>) {
        if meridian_model::ids::ProfileName::new(&name.value).is_err() {
            let message = format!("`{}` is no name", name.value);
            let hint = "use 1 to 63 lower-case letters, digits or '-', with a letter or digit at both ends";
            self.findings.push(self.source.finding(at, name, whole("invalid-name", &name.value, message, hint)));
        }
    }

    /// What a policy writes must itself be valid.
    fn written(&mut self, document: &PolicyDocument, at: &str) {
        let mut faults = Vec::new();
        for (what, labels) in [("defaults", &document.defaults.labels), ("mutations", &document.mutations.labels)] {
            faults.extend(validate::labels(labels, &format!("/{what}/labels")));
        }
        for (what, set) in
            [("defaults", &document.defaults.annotations), ("mutations", &document.mutations.annotations)]
        {
            faults.extend(validate::annotations(set, &format!("/{what}/annotations")));
        }
        for fault in faults {
            let hint = fault.hint.unwrap_or_default();
            let message = format!("{}: {}", fault.pointer, fault.detail);
            let fault = whole("wrong-value", &document.name.value, message, hint);
            self.findings.push(self.source.finding(at.to_owned(), &document.name, fault));
        }
    }
}

/// Policies by tenant.
pub(super) type ByTenant = BTreeMap<meridian_model::ids::TenantId, Vec<Policy>>;
