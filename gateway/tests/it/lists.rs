//! Lists: pages, selectors, partial data; deletes and the other reads.

use std::{sync::atomic::Ordering, time::Duration};

use meridian_gateway::operation::{Action, FieldPath, Requirement};

use crate::support::Gateway;

#[tokio::test]
async fn a_list_says_how_complete_and_fresh_it_is() {
    let gateway = Gateway::usual().await;
    let reply = gateway.send("GET /v1/tenants/-/instances?pageSize=2", &[("x-request-id", "r1")], b"").await;
    assert_eq!(reply.header("meridian-partial"), Some("regions/cn-hangzhou"));
    assert_eq!(reply.header("age"), Some("4"));
    let mut body = reply.json();
    assert!(body["nextPageToken"].as_str().unwrap().len() > 20);
    body["nextPageToken"] = "TOKEN".into();
    insta::assert_snapshot!(serde_json::to_string_pretty(&body).unwrap());
}

#[tokio::test]
async fn a_single_read_says_since_when_the_ledger_was_not_heard_of() {
    let gateway = Gateway::usual().await;
    let age = async |path: &str| gateway.get(path).await.header("meridian-ledger-age").map(str::to_owned);
    assert_eq!(age("/v1/tenants/acme/instances/web-4").await.as_deref(), Some("7"));
    assert_eq!(age("/v1/tenants/acme/instances/web-0").await, None);
}

#[tokio::test]
async fn pages_lead_through_everything_once() {
    let gateway = Gateway::usual().await;
    let (mut names, mut query, mut pages) = (Vec::new(), "?pageSize=2".to_owned(), 0);
    loop {
        let body = gateway.get(&format!("/v1/tenants/acme/instances{query}")).await.json();
        names.extend(body["items"].as_array().unwrap().iter().map(|i| i["name"].as_str().unwrap().to_owned()));
        pages += 1;
        let Some(token) = body.get("nextPageToken") else { break };
        query = format!("?pageSize=2&pageToken={}", token.as_str().unwrap());
    }
    assert_eq!((pages, names.len()), (3, 5));
    assert_eq!(names[4], "tenants/acme/instances/web-4");
}

#[tokio::test]
async fn a_page_token_holds_for_its_query_tenant_and_time() {
    let gateway = Gateway::usual().await;
    let first = gateway.get("/v1/tenants/-/instances?pageSize=2&labelSelector=a%3Db").await.json();
    let token = first["nextPageToken"].as_str().unwrap().to_owned();
    let path = |selector: &str| format!("/v1/tenants/-/instances?labelSelector={selector}&pageToken={token}");
    assert_eq!(gateway.get(&path("a%3Db")).await.status, 200);
    let changed = gateway.get(&path("a%3Dc")).await;
    assert_eq!((changed.status, changed.code().as_str()), (400, "page-token-invalid"));
    let foreign = gateway.send_as(&gateway.lab, &format!("GET {}", path("a%3Db")), &[], b"").await;
    assert_eq!((foreign.status, foreign.code().as_str()), (400, "page-token-invalid"));
    for forged in [format!("{token}A"), token[1..].to_owned(), "x".to_owned(), token.replace(&token[30..31], "_")] {
        let reply = gateway.get(&format!("/v1/tenants/-/instances?labelSelector=a%3Db&pageToken={forged}")).await;
        assert!(forged == token || reply.status == 400, "{forged}");
    }
    gateway.now.fetch_add(Duration::from_secs(901).as_millis().try_into().unwrap(), Ordering::Relaxed);
    let expired = gateway.get(&path("a%3Db")).await;
    assert_eq!((expired.status, expired.code().as_str()), (410, "page-expired"));
}

#[tokio::test]
async fn page_sizes_and_selectors_are_read() {
    let gateway = Gateway::usual().await;
    let query =
        "?pageSize=5000&labelSelector=app%20in%20(a,b),!old&fieldSelector=status.phase%3DRunning&allowPartial=false";
    gateway.get(&format!("/v1/tenants/acme/instances{query}")).await;
    let Some(Action::ListInstances(list)) = gateway.actions().pop() else { panic!() };
    assert_eq!(list.page.size, 1000);
    assert!(list.complete_only);
    assert_eq!(list.fields, [(FieldPath::Phase, true, "Running".to_owned())]);
    let expected = [
        Requirement::In("app".to_owned(), vec!["a".to_owned(), "b".to_owned()]),
        Requirement::Missing("old".to_owned()),
    ];
    assert_eq!(list.labels, expected);
    for bad in [
        "pageSize=-1",
        "pageSize=x",
        "labelSelector=a%20b",
        "fieldSelector=spec.x%3D1",
        "watch=true",
        "pagesize=1",
        "labelSelector=%ff",
    ] {
        let reply = gateway.get(&format!("/v1/tenants/acme/instances?{bad}")).await;
        assert_eq!((reply.status, reply.code().as_str()), (400, "invalid-argument"), "{bad}");
    }
}

#[tokio::test]
async fn deletes_are_accepted_with_their_operation() {
    let gateway = Gateway::usual().await;
    let reply =
        gateway.send("DELETE /v1/tenants/acme/instances/web-0?allowMissing=true", &[("x-request-id", "r1")], b"").await;
    insta::assert_snapshot!(reply.shown());
    let Some(Action::DeleteInstance(delete)) = gateway.actions().pop() else { panic!() };
    assert!(delete.allow_missing && !delete.validate_only && delete.wait.is_zero());
}

#[tokio::test]
async fn quotas_are_a_resource_and_a_list() {
    let gateway = Gateway::usual().await;
    let one = gateway.get("/v1/tenants/-/quotas/default").await.json();
    let all = gateway.get("/v1/tenants/acme/quotas").await.json();
    assert_eq!(all["items"][0], one);
    assert_eq!(one["limits"]["instances"], 10);
    assert_eq!(gateway.get("/v1/tenants/lab/quotas/default").await.status, 404);
}

#[tokio::test]
async fn every_route_reaches_its_action() {
    let gateway = Gateway::usual().await;
    let mut shown = String::new();
    for line in [
        "GET /v1/tenants",
        "GET /v1/tenants/acme",
        "GET /v1/tenants/acme/instances",
        "GET /v1/tenants/acme/instances/web-1",
        "HEAD /v1/tenants/acme/instances/web-1",
        "GET /v1/tenants/acme/instances/web-1:explain",
        "POST /v1/tenants/-/instances/web-1:explain",
        "DELETE /v1/tenants/acme/instances/web-1",
        "GET /v1/tenants/acme/operations",
        "GET /v1/tenants/acme/operations/op1",
        "GET /v1/tenants/acme/quotas",
        "GET /v1/tenants/acme/quotas/default",
        "GET /v1/tenants/acme/quotas/shop",
        "GET /v1/tenants/acme/quotas/default/consumers",
        "GET /v1/tenants/acme/quotas/shop/consumers?line=cpu@region:r1&most=500",
        "GET /v1/regions",
        "GET /v1/regions/cn-hangzhou",
        "GET /v1/regions/cn-hangzhou/zones",
        "GET /v1/adapters",
        "GET /v1/instanceTypes?region=cn-hangzhou",
    ] {
        let before = gateway.actions().len();
        gateway.send(line, &[], b"").await;
        let actions = gateway.actions();
        let action = actions.get(before).map_or_else(|| panic!("{line}"), |a| format!("{a:?}"));
        let action = action.split("wait: ").next().unwrap_or_default().to_owned();
        shown += &format!("{line}\n    {action}\n");
    }
    insta::assert_snapshot!(shown);
}
