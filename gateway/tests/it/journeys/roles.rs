//! Who may do what with whose instances.

use meridian_gateway::{
    operation::{Action, Caller, DeleteInstance, ListInstances, Outcome, PageRequest, Refusal, Scope},
    views,
};
use meridian_model::{error::ErrorCode, ids::OperationId};
use meridian_policies::access::{Permission, Role};

use super::{
    created,
    world::{PATIENCE, World, ask_as, at, create, spec},
};

fn of(tenant: &str, role: Role) -> Caller {
    Caller::new(Scope::Tenant(tenant.parse().unwrap()), "key:test", role)
}

fn platform(role: Role) -> Caller {
    Caller::new(Scope::Platform, "key:platform", role)
}

fn code(answer: Result<Outcome, Refusal>) -> Option<ErrorCode> {
    answer.err().map(|refusal| refusal.problem.code)
}

fn delete(tenant: &str, name: &str) -> Action {
    let instance = at(tenant, name);
    Action::DeleteInstance(DeleteInstance { instance, allow_missing: false, validate_only: false, wait: PATIENCE })
}

fn list(size: usize, after: Option<String>) -> Action {
    Action::ListInstances(Box::new(ListInstances { page: PageRequest { size, after }, ..ListInstances::default() }))
}

fn page(answer: Result<Outcome, Refusal>) -> views::InstancePage {
    match answer {
        Ok(Outcome::Instances(page)) => *page,
        other => panic!("{other:?}"),
    }
}

fn names(page: &views::InstancePage) -> Vec<&str> {
    page.items.iter().map(|item| item.instance.name.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_may_what_it_may_in_its_own_tenant_and_knows_of_no_other() {
    let world = World::start().await;
    let ask = |caller, action| ask_as(&world.core, caller, action);
    let refusal = ask(of("acme", Role::Viewer), create("acme", "web", "k", &spec())).await.unwrap_err();
    assert_eq!(refusal.problem.code, ErrorCode::PermissionDenied);
    insta::assert_snapshot!(refusal.problem.detail);
    assert!(world.ever().await.is_empty(), "nothing is sent for who may not");
    created(ask(of("acme", Role::Operator), create("acme", "web", "k", &spec())).await);
    for role in [Role::Viewer, Role::Operator, Role::Admin] {
        assert_eq!(code(ask(of("acme", role), Action::GetInstance(at("acme", "web"))).await), None, "{role}");
        // What is another's is not there, whatever the role may.
        for action in [Action::GetInstance(at("acme", "web")), delete("acme", "web")] {
            assert_eq!(code(ask(of("lab", role), action).await), Some(ErrorCode::NotFound), "{role}");
        }
    }
    assert_eq!(code(ask(of("acme", Role::Viewer), delete("acme", "web")).await), Some(ErrorCode::PermissionDenied));
    let mut narrow = of("acme", Role::Admin);
    narrow.permissions = narrow.permissions.and([Permission::InstancesRead].into_iter().collect());
    let refusal = ask(narrow, delete("acme", "web")).await.unwrap_err();
    assert_eq!(refusal.problem.code, ErrorCode::PermissionDenied);
    assert!(refusal.problem.detail.contains("given only some permissions"), "{}", refusal.problem.detail);
    assert_eq!(code(ask(of("acme", Role::Admin), delete("acme", "web")).await), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_platform_reaches_every_tenant_as_far_as_its_role_goes() {
    let world = World::start().await;
    let ask = |caller, action| ask_as(&world.core, caller, action);
    let admin = || platform(Role::PlatformAdmin);
    for (tenant, name) in [("lab", "job"), ("acme", "web"), ("acme", "api")] {
        created(ask(admin(), create(tenant, name, name, &spec())).await);
    }
    let viewer = || platform(Role::PlatformViewer);
    let all = page(ask(viewer(), list(10, None)).await);
    let expected = ["tenants/acme/instances/api", "tenants/acme/instances/web", "tenants/lab/instances/job"];
    assert_eq!((names(&all), &all.next_after, all.revision), (expected.to_vec(), &None, None));
    let first = page(ask(viewer(), list(2, None)).await);
    assert_eq!((names(&first), first.next_after.as_deref()), (expected[..2].to_vec(), Some("acme/web")));
    let second = page(ask(viewer(), list(2, first.next_after)).await);
    assert_eq!((names(&second), &second.next_after), (expected[2..].to_vec(), &None));
    // A tenant's own caller that names none sees its own.
    let own = page(ask(of("lab", Role::Viewer), list(10, None)).await);
    assert_eq!((names(&own), own.revision.is_some()), (expected[2..].to_vec(), true));

    match ask(viewer(), Action::ListTenants(PageRequest { size: 1, after: None })).await {
        Ok(Outcome::Tenants(page)) => {
            assert_eq!((page.items[0].name.as_str(), page.next_after.as_deref()), ("tenants/acme", Some("acme")));
        }
        other => panic!("{other:?}"),
    }
    match ask(viewer(), Action::ListOperations(None, PageRequest { size: 10, after: None })).await {
        Ok(Outcome::Operations(page)) => assert_eq!(page.items.len(), 3),
        other => panic!("{other:?}"),
    }
    match ask(viewer(), Action::GetQuota(None)).await {
        Ok(Outcome::Quotas(page)) => {
            let used: Vec<_> = page.items.iter().map(|quota| quota.used.unwrap().instances).collect();
            assert_eq!(used, [2, 1]);
        }
        other => panic!("{other:?}"),
    }
    let one = OperationId::new("op").unwrap();
    for (caller, action, expected) in [
        (viewer(), Action::GetInstance(at("lab", "job")), None),
        (viewer(), delete("lab", "job"), Some(ErrorCode::PermissionDenied)),
        (viewer(), Action::GetTenant(Some("nobody".parse().unwrap())), Some(ErrorCode::NotFound)),
        (admin(), create("nobody", "web", "n", &spec()), Some(ErrorCode::NotFound)),
        (admin(), Action::GetOperation(None, one), Some(ErrorCode::InvalidArgument)),
        (admin(), delete("lab", "job"), None),
    ] {
        let what = action.name();
        assert_eq!(code(ask(caller, action).await), expected, "{what}");
    }
}
