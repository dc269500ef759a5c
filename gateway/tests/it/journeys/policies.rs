//! Policies in front of creates: denied, warned, written to, explained, reloaded, tried.

use std::time::Duration;

use meridian_cloudsim::Scenario;
use meridian_gateway::{
    operation::{Action, Caller, Outcome, Refusal, Scope, policies::PolicyAction},
    views,
};
use meridian_model::{error::ErrorCode, instance::CapacityType, quantity::Span};
use meridian_policies::access::Role;
use serde_json::{Value, json};

use super::{
    created,
    world::{World, ask_as, create, spec, spec_from},
};

const BASELINE: &str = "\
apiVersion: meridian.dev/v1
kind: Policy
metadata: {name: baseline}
spec:
  scope: platform
  params:
    registries: [docker.io]
  mutations:
    labels: {managed: meridian}
  rules:
  - id: registry-not-allowed
    expression: object.spec.containers.all(c, registry(c.image) in params.registries)
    message: the image is not from an allowed registry
    pointer: /spec/containers/*/image
    hint: 'allowed: docker.io'
  - id: no-team
    expression: '\"team\" in object.labels'
    message: the instance has no label team
    pointer: /labels
    mode: warn
  - id: small
    expression: shape.cpu <= quantity(\"500m\")
    mode: audit
---
apiVersion: meridian.dev/v1
kind: Policy
metadata: {name: spot}
spec:
  scope: {tenant: lab}
  mutations: {capacityType: spot}
  rules:
  - id: named
    expression: object.name.startsWith(tenant.name)
    pointer: /name
";

struct Ruled {
    world: World,
    folder: tempfile::TempDir,
}

impl Ruled {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("all.yaml"), BASELINE).unwrap();
        let extra = format!("[directory]\npath = {:?}", folder.path().display().to_string());
        Self { world: World::with(Scenario::demo(7), &extra).await, folder }
    }

    async fn validate(&self, tenant: &str, name: &str) -> Result<Box<views::Validation>, Refusal> {
        let mut action = create(tenant, name, "v", &spec());
        if let Action::CreateInstance(create) = &mut action {
            create.validate_only = true;
        }
        match self.world.ask(tenant, action).await? {
            Outcome::Validated(validation) => Ok(validation),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denial_names_policy_rule_field_and_cure() {
    let ruled = Ruled::start().await;
    let foreign = spec_from(json!({"containers": [
        {"name": "a", "image": "nginx"}, {"name": "b", "image": "evil.example/miner"}]}));
    let mut action = create("lab", "other", "k", &foreign);
    if let Action::CreateInstance(create) = &mut action {
        create.metadata_pointer = "/metadata";
    }
    let refusal = ruled.world.ask("lab", action).await.unwrap_err();
    assert_eq!(refusal.problem.code, ErrorCode::PolicyDenied);
    insta::assert_json_snapshot!(refusal.problem);
    assert!(ruled.world.ever().await.is_empty(), "nothing is sent for what is denied");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_passes_is_written_to_and_warned_of() {
    let ruled = Ruled::start().await;
    let outcome = ruled.world.create("lab", "lab-1", "k", &spec()).await.unwrap();
    let Outcome::Warned(outcome, warnings) = outcome else { panic!("{outcome:?}") };
    assert_eq!(
        warnings.iter().map(|w| (w.pointer.as_str(), w.code.as_str())).collect::<Vec<_>>(),
        [("/labels", "no-team")]
    );
    let instance = created(Ok(*outcome));
    assert_eq!(instance.labels.get("managed").map(String::as_str), Some("meridian"));
    assert_eq!(instance.spec.capacity.kind, CapacityType::Spot);
    let acme = created(match ruled.world.create("acme", "web", "k", &spec()).await {
        Ok(Outcome::Warned(outcome, _)) => Ok(*outcome),
        other => other,
    });
    assert_eq!(acme.spec.capacity.kind, CapacityType::OnDemand, "another tenant's policy is not acme's");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_validation_shows_how_each_rule_judged() {
    let ruled = Ruled::start().await;
    let validation = ruled.validate("lab", "lab-1").await.unwrap();
    let shown: Vec<String> =
        validation.policies.iter().map(|p| format!("{} {} {} {}", p.policy, p.rule, p.mode, p.held)).collect();
    assert_eq!(
        shown,
        [
            "policies/baseline registry-not-allowed enforce true",
            "policies/baseline no-team warn false",
            "policies/baseline small audit false",
            "tenants/lab/policies/spot named enforce true",
        ]
    );
    assert!(validation.policies.iter().all(|p| 0 < p.cost && p.cost <= p.cost_max));
    assert_eq!(validation.warnings.len(), 1);
    assert_eq!(validation.spec.unwrap().capacity.kind, CapacityType::Spot);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_change_without_a_restart() {
    let ruled = Ruled::start().await;
    let watcher = ruled.world.core.sources.watcher.clone().unwrap();
    assert!(ruled.validate("lab", "other").await.is_err());
    let file = ruled.folder.path().join("all.yaml");
    std::fs::write(&file, BASELINE.replace("tenant.name)", "'other')")).unwrap();
    // The gateway's own look may have been first.
    let changes = watcher.reload().await.unwrap();
    assert!(
        changes.iter().all(|c| c.to_string().starts_with("~ tenants/lab/policies/spot.spec.rules: ")),
        "{changes:?}"
    );
    assert!(ruled.validate("lab", "other").await.is_ok());
    std::fs::write(&file, BASELINE.replace("object.labels", "object.label")).unwrap();
    let broken = watcher.reload().await.unwrap_err().to_string();
    assert!(broken.contains("all.yaml:17:35") && broken.contains("did you mean `labels`?"), "{broken}");
    assert!(ruled.validate("lab", "other").await.is_ok(), "what is broken changes nothing");
}

/// The document of a policy.
fn document(scope: &Value, rules: &Value) -> Value {
    json!({ "apiVersion": "meridian.dev/v1", "kind": "Policy", "metadata": { "name": "baseline" },
        "spec": { "scope": scope, "rules": rules } })
}

fn trial(tenant: Option<&str>, policies: Vec<Value>, window: Option<Span>) -> Action {
    let tenant = tenant.map(|name| name.parse().unwrap());
    Action::Policies(Box::new(PolicyAction::Test { tenant, policies, window }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_are_tried_on_what_was_created() {
    let ruled = Ruled::start().await;
    let world = &ruled.world;
    for (tenant, name) in [("acme", "web-1"), ("acme", "job-1"), ("lab", "lab-1")] {
        world.create(tenant, name, name, &spec()).await.unwrap();
    }
    let report = async |caller: Caller, action: Action| match ask_as(&world.core, caller, action).await {
        Ok(Outcome::PolicyTest(report)) => *report,
        other => panic!("{other:?}"),
    };
    let acme = || Caller::new(Scope::Tenant("acme".parse().unwrap()), "test", Role::Viewer);
    let platform = || Caller::new(Scope::Platform, "test", Role::PlatformAdmin);
    let web_only = json!([{ "id": "web-only", "expression": "object.name.startsWith('web')", "pointer": "/name" }]);

    // A tenant's own policy, which there was none of, on its own requests.
    let own = report(acme(), trial(None, vec![document(&json!({ "tenant": "acme" }), &web_only)], None)).await;
    assert_eq!((own.requests, own.denied, own.changes.len(), own.truncated), (2, 1, 1, false));
    let change = &own.changes[0];
    assert_eq!((change.name.as_str(), change.verdict), ("tenants/acme/instances/job-1", "denied"));
    assert_eq!(
        (change.broken[0].policy.as_str(), change.broken[0].pointer.as_str()),
        ("tenants/acme/policies/baseline", "/name")
    );
    assert!(own.oldest.unwrap() <= own.newest.unwrap());

    // The platform's takes the place of the one of its name: what only that said is said no more.
    let all = report(platform(), trial(None, vec![document(&json!("platform"), &web_only)], None)).await;
    assert_eq!((all.requests, all.denied, all.warned), (3, 2, 0));
    let mended: Vec<_> = all.rules.iter().filter(|r| r.mended > 0).map(|r| (r.rule.as_str(), r.mended)).collect();
    assert_eq!(mended, [("no-team", 3), ("small", 3)]);
    // As it stands in the folder it changes nothing, nor what it would write: that is written.
    let same: Value = serde_saphyr::from_multiple(BASELINE).unwrap().remove(0);
    let none = report(platform(), trial(Some("acme"), vec![same], None)).await;
    assert_eq!((none.requests, none.changes.len(), none.rules.len()), (2, 0, 0));
    let late =
        report(platform(), trial(None, vec![document(&json!("platform"), &web_only)], Some(Span(Duration::ZERO))))
            .await;
    assert_eq!((late.requests, late.oldest), (0, None), "nothing is so young");

    // Every fault of every document, with its place.
    let bad = json!([{ "id": "r", "expression": "object.nme == 'x'" }]);
    let refused = |scope: Value, rules: &Value| {
        let policies = vec![document(&json!({ "tenant": "acme" }), &web_only), document(&scope, rules)];
        async { ask_as(&world.core, acme(), trial(None, policies, None)).await.unwrap_err().problem }
    };
    let problem = refused(json!({ "tenant": "acme" }), &bad).await;
    let fault = &problem.errors[0];
    assert_eq!(
        (fault.pointer.as_str(), fault.line, fault.column),
        ("/policies/1/spec/rules/0/expression", Some(1), Some(8))
    );
    assert_eq!(fault.hint.as_deref(), Some("did you mean `name`?"));
    for scope in [json!("platform"), json!({ "tenant": "lab" })] {
        let problem = refused(scope, &web_only).await;
        assert_eq!(problem.errors[0].pointer, "/policies/1/spec/scope", "a tenant tries only its own");
    }
    let problem = refused(json!({ "tenant": "acme", "project": "none" }), &web_only).await;
    assert_eq!(problem.errors[0].code, "unknown-project");
}
