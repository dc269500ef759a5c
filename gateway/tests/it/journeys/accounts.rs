//! A tenant with a vendor account of its own.

use std::fmt::Write as _;

use meridian_cloudsim::CloudsimInfo;
use meridian_gateway::operation::{Action, Caller, Outcome, Scope};
use meridian_model::{error::ErrorCode, ids::TenantId};
use meridian_policies::access::Role;
use serde_json::json;

use super::{
    created, in_region,
    world::{World, ask_as, spec},
};

/// The backend of that region is acme's own, and acme is placed in it alone.
const OWN: &str = "ap-guangzhou";

fn own_account(info: &CloudsimInfo, text: String) -> String {
    let backend = info.backends.iter().find(|b| b.region == OWN).unwrap();
    let subnets: Vec<String> = backend.zones.iter().map(|z| format!("{:?} = {:?}", z.zone, z.subnet_id)).collect();
    let mut text = text
        .replace(&format!("id = \"{OWN}\"\n"), &format!("id = \"{OWN}\"\ntenants = [\"acme\"]\n"))
        .replacen("defaultNetworkProfile = \"default\"", "defaultNetworkProfile = \"acme\"", 1);
    write!(
        text,
        "[[networkProfiles]]\nname = \"acme\"\n[[networkProfiles.backends]]\nbackend = \"{OWN}\"\nvpcId = \"{}\"\n\
         securityGroupIds = [\"{}\"]\nsubnets = {{ {} }}\n",
        backend.vpc_id,
        backend.security_group_id,
        subnets.join(", ")
    )
    .unwrap();
    text
}

/// All that a caller is shown of places.
async fn shown(world: &World, scope: Scope, role: Role) -> String {
    let mut text = String::new();
    for action in [Action::ListRegions, Action::ListAdapters, Action::ListInstanceTypes(None)] {
        let caller = Caller::new(scope.clone(), "test", role);
        match ask_as(&world.core, caller, action).await.unwrap() {
            Outcome::Regions(page) => text += &json!(page.items).to_string(),
            Outcome::Adapters(page) => text += &json!(page.items).to_string(),
            Outcome::InstanceTypes(page) => text += &json!(page.items).to_string(),
            other => panic!("{other:?}"),
        }
    }
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenants_own_account_is_its_own_and_nobody_else_sees_it() {
    let world = World::configured(own_account).await;
    for n in 0..3 {
        let instance = created(world.create("acme", &format!("web-{n}"), &format!("a{n}"), &spec()).await);
        assert_eq!(instance.status.region.unwrap().as_str(), OWN);
        let instance = created(world.create("lab", &format!("web-{n}"), &format!("l{n}"), &spec()).await);
        assert_ne!(instance.status.region.unwrap().as_str(), OWN);
    }
    let refusal = world.create("lab", "own", "own", &in_region(OWN)).await.unwrap_err();
    assert_eq!(refusal.problem.code, ErrorCode::Unplaceable);
    let explained = json!(world.explain("lab", "web-0").await).to_string();
    for told in [json!(refusal.problem).to_string(), explained, json!(world.list("lab").await.freshness).to_string()] {
        assert!(told.contains("cn-hangzhou") && !told.contains(OWN), "{told}");
    }

    let tenant = |name: &str| Scope::Tenant(TenantId::new(name).unwrap());
    let lab = shown(&world, tenant("lab"), Role::Viewer).await;
    assert!(lab.contains("ap-shanghai") && !lab.contains(OWN), "{lab}");
    for (scope, role) in [(tenant("acme"), Role::Viewer), (Scope::Platform, Role::PlatformViewer)] {
        assert!(shown(&world, scope, role).await.contains(OWN));
    }
    let region = Action::GetRegion(OWN.parse().unwrap());
    let refusal = world.ask("lab", region.clone()).await.unwrap_err();
    assert_eq!(refusal.problem.code, ErrorCode::NotFound);
    assert!(matches!(world.ask("acme", region).await, Ok(Outcome::Region(_))));
}
