//! What a credential is bound to, and what it may hand to others: no more than it has, for no longer than it has it.

use meridian_model::{
    error::{ErrorCode, FieldError},
    ids::ProjectName,
    time::Time,
};
use meridian_policies::access::Permissions;

use super::{Caller, Refusal};
use crate::{
    config::{self, quota::missing_project},
    directory::made::Bounds,
};

/// A project and those above it, the nearest first.
pub(super) fn lineage(tenant: &config::Tenant, project: Option<&ProjectName>) -> Vec<ProjectName> {
    let nodes = &tenant.projects.nodes;
    let parent =
        |name: &ProjectName| nodes.iter().find(|n| n.name.as_ref() == Some(name)).and_then(|n| n.parent.clone());
    // No deeper than there are nodes, should they ever run in a circle.
    std::iter::successors(project.cloned(), parent).take(nodes.len().max(1)).collect()
}

/// What is wrong with a project that the tenant does not have.
pub(super) fn unknown_project(tenant: &config::Tenant, project: &ProjectName, pointer: String) -> Option<FieldError> {
    let hint = missing_project(&tenant.projects, project)?;
    Some(FieldError {
        pointer,
        code: "unknown-project".to_owned(),
        detail: format!("tenant {} has no project {project}", tenant.name),
        hint: Some(hint),
        ..FieldError::default()
    })
}

/// Whether what is bound to one project may use another, or the whole tenant.
pub(super) fn reaches(tenant: &config::Tenant, bound: Option<&ProjectName>, project: Option<&ProjectName>) -> bool {
    bound.is_none_or(|bound| lineage(tenant, project).contains(bound))
}

/// Refuses a project that the caller's credential is not for.
pub(super) fn check_project(
    tenant: &config::Tenant,
    caller: &Caller,
    project: Option<&ProjectName>,
) -> Result<(), Refusal> {
    let bound = caller.project.as_ref();
    if reaches(tenant, bound, project) {
        return Ok(());
    }
    let bound = bound.map_or("", ProjectName::as_str);
    let what = project.map_or_else(|| "the whole tenant".to_owned(), |project| format!("project {project}"));
    let detail = format!("the credential is bound to project {bound}, and {what} is neither it nor below it");
    Err(Refusal::new(ErrorCode::PermissionDenied, detail))
}

/// Refuses to hand out more than the caller has.
pub(super) fn check_grant(tenant: &config::Tenant, caller: &Caller, handed: &Bounds) -> Result<(), Refusal> {
    check_permissions(caller, handed.permissions)?;
    check_project(tenant, caller, handed.project.as_ref())?;
    match caller.expires {
        Some(own) if handed.expires.is_none_or(|end| end > own) => Err(Refusal::new(
            ErrorCode::PermissionDenied,
            format!("the credential ends at {own} itself, so it cannot hand out what ends later"),
        )),
        _ => Ok(()),
    }
}

fn check_permissions(caller: &Caller, given: Permissions) -> Result<(), Refusal> {
    match given.iter().find(|permission| !caller.may(*permission)) {
        None => Ok(()),
        Some(more) => Err(Refusal::new(
            ErrorCode::PermissionDenied,
            format!("the credential has no {more} itself, so it cannot hand it out"),
        )),
    }
}

/// The end of what a caller makes: as it asks, or the caller's own.
pub(super) fn end(caller: &Caller, asked: Option<Time>) -> Option<Time> {
    asked.or(caller.expires)
}

#[cfg(test)]
mod tests {
    use meridian_policies::access::Role;

    use super::*;
    use crate::operation::Scope;

    fn tenant() -> config::Tenant {
        let body = serde_json::json!({
            "apiVersion": "meridian.dev/v1", "kind": "Tenant", "metadata": { "name": "acme" },
            "spec": { "projects": { "nodes": [
                { "name": "team" }, { "name": "web", "parent": "team" }, { "name": "blog", "parent": "team" },
            ] } },
        });
        crate::directory::document::stored(&body).unwrap()
    }

    fn project(name: &str) -> Option<ProjectName> {
        (!name.is_empty()).then(|| name.parse().unwrap())
    }

    #[test]
    fn who_is_bound_to_a_project_reaches_it_and_what_is_below() {
        let tenant = tenant();
        for (bound, asked, expected) in [
            ("", "", true),
            ("", "web", true),
            ("team", "team", true),
            ("team", "web", true),
            ("web", "web", true),
            ("web", "team", false),
            ("web", "blog", false),
            ("web", "", false),
            ("gone", "web", false),
        ] {
            let (bound, asked) = (project(bound), project(asked));
            assert_eq!(reaches(&tenant, bound.as_ref(), asked.as_ref()), expected, "{bound:?} {asked:?}");
        }
    }

    #[test]
    fn nobody_hands_out_more_than_it_has() {
        let tenant = tenant();
        let at = Time::from_unix_ms;
        let caller = Caller {
            project: project("web"),
            expires: Some(at(10)),
            ..Caller::new(Scope::Tenant("acme".parse().unwrap()), "key:k", Role::Operator)
        };
        let same =
            || Bounds { permissions: Role::Operator.permissions(), project: project("web"), expires: Some(at(10)) };
        let may = |handed: Bounds| check_grant(&tenant, &caller, &handed).is_ok();
        assert!(may(same()));
        assert!(may(Bounds { permissions: Role::Viewer.permissions(), expires: Some(at(9)), ..same() }));
        assert!(!may(Bounds { permissions: Role::Admin.permissions(), ..same() }));
        assert!(!may(Bounds { project: project("team"), ..same() }));
        assert!(!may(Bounds { project: None, ..same() }));
        assert!(!may(Bounds { expires: Some(at(11)), ..same() }));
        assert!(!may(Bounds { expires: None, ..same() }));
        assert_eq!((end(&caller, None), end(&caller, Some(at(3)))), (Some(at(10)), Some(at(3))));
    }
}
