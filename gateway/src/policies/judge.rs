//! A create before the policies, and what the caller is told.

use meridian_model::{error::FieldError, ids::ProjectName, time::Time, validate};
use meridian_policies::rules::{self, Broken, Decision, Mode, RuleSet};

use crate::{
    operation::{Caller, CreateInstance},
    telemetry::policies::PolicyMetrics,
    views,
};

/// What the policies said of a create that they let pass.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Judgement {
    /// Rules that warn.
    pub warnings: Vec<FieldError>,
    /// How every rule judged; only for who asks what would happen.
    pub results: Vec<views::PolicyResult>,
}

/// Has a valid create judged, and writes into it what the policies write.
///
/// # Errors
/// Every denial.
pub fn judge(
    set: &RuleSet,
    (caller, projects): (&Caller, &[ProjectName]),
    create: &mut CreateInstance,
    (now, metrics): (Time, &PolicyMetrics),
) -> Result<Judgement, Vec<FieldError>> {
    if set.is_empty() {
        return Ok(Judgement::default());
    }
    let roles = vec![caller.role.as_str().to_owned()];
    let request = rules::Request {
        operation: rules::Operation::Create,
        tenant: &create.tenant,
        projects,
        principal: &caller.principal,
        roles: &roles,
        time: now,
        name: &create.name,
        labels: &create.labels,
        annotations: &create.annotations,
        spec: &create.spec,
    };
    let (decision, judged) =
        if create.validate_only { set.explain(&request) } else { (set.decide(&request), Vec::new()) };
    if !create.validate_only {
        metrics.decided(&decision);
    }
    let at = create.metadata_pointer;
    let denials: Vec<FieldError> = decision.of(Mode::Enforce).map(|b| told(b, at)).collect();
    if !denials.is_empty() {
        return Err(denials);
    }
    let warnings = decision.of(Mode::Warn).map(|b| told(b, at)).collect();
    write(decision, create)?;
    Ok(Judgement { warnings, results: judged.iter().map(views::PolicyResult::of).collect() })
}

/// Takes what the policies wrote, if it is valid: a label too many or an image name too long is theirs, not the caller's.
fn write(decision: Decision, create: &mut CreateInstance) -> Result<(), Vec<FieldError>> {
    let Some(written) = decision.written else { return Ok(()) };
    let mut faults = validate::spec(&written.spec);
    faults.extend(validate::labels(&written.labels, &format!("{}/labels", create.metadata_pointer)));
    if !faults.is_empty() {
        for fault in &mut faults {
            fault.detail = format!("what the policies made of the request is not valid: {}", fault.detail);
            fault.hint = Some("tell who looks after the policies".to_owned());
        }
        return Err(faults);
    }
    create.spec = written.spec;
    create.labels = written.labels;
    create.annotations = written.annotations;
    Ok(())
}

/// A broken rule in the caller's terms: rules point at the plain body, and a manifest has names and labels elsewhere.
fn told(broken: &Broken, metadata_pointer: &str) -> FieldError {
    let pointer = match broken.pointer.as_str() {
        spec if spec.is_empty() || spec == "/spec" || spec.starts_with("/spec/") => spec.to_owned(),
        metadata => format!("{metadata_pointer}{metadata}"),
    };
    FieldError {
        pointer,
        code: broken.rule.to_string(),
        detail: broken.message.clone(),
        hint: broken.hint.clone(),
        policy: Some(broken.policy.to_string()),
        rule: Some(broken.rule.to_string()),
        ..FieldError::default()
    }
}
