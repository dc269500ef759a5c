//! Faults as an ECI client meets them.

use serde_json::json;

use crate::eci_client::start;

#[tokio::test]
async fn sold_out_at_create_goes_to_the_next_vswitch_and_then_says_so() {
    let (_simulator, eci) = start(|_| {}).await;
    let both = format!("{},{}", eci.vswitch(0), eci.vswitch(1));
    let ordered = [("VSwitchId", both.as_str()), ("ScheduleStrategy", "VSwitchOrdered")];
    eci.fault(json!({"kind": "soldOut", "when": "atCreate", "zone": eci.zone(0)})).await;
    let id = eci.created("so-1", &ordered).await;
    assert_eq!(eci.wait(&id, "Running").await["ZoneId"], eci.zone(1));
    eci.fault(json!({"kind": "soldOut", "when": "atCreate", "zone": eci.zone(1)})).await;
    eci.create("so-2", &ordered).await.assert_code("OperationDenied.NoStock", 403);
    assert!(eci.truth("so-2").await.is_empty());
}

#[tokio::test]
async fn sold_out_after_create_is_a_status_and_an_event() {
    let (_simulator, eci) = start(|_| {}).await;
    eci.fault(json!({"kind": "soldOut", "when": "afterCreate", "zone": eci.zone(0)})).await;
    let id = eci.created("later-1", &[]).await;
    let group = eci.wait(&id, "ScheduleFailed").await;
    let events = group["Events"].as_array().unwrap();
    assert!(events.iter().any(|event| event["Reason"] == "NoStock" && event["Type"] == "Warning"), "{events:?}");
    let truth = eci.truth("later-1").await;
    assert_eq!((&truth[0]["exists"], &truth[0]["billed"]), (&json!(true), &json!(false)));
    eci.call("DeleteContainerGroup", &[("ContainerGroupId", &id)]).await.ok();
    assert_eq!(eci.truth("later-1").await[0]["exists"], false);
}

#[tokio::test]
async fn a_throttle_says_when_to_come_back() {
    let (_simulator, eci) = start(|_| {}).await;
    eci.fault(json!({"kind": "throttle", "vendor": "alibaba-eci", "action": "CreateContainerGroup", "times": 1})).await;
    let reply = eci.create("thr-1", &[]).await;
    reply.assert_code("Throttling.User", 400);
    assert!(reply.headers["x-acs-retry-after"].parse::<u64>().unwrap() > 0);
    eci.created("thr-1", &[]).await;
}

#[tokio::test]
async fn the_documented_rate_is_a_throttle_too() {
    let (_simulator, eci) = start(|scenario| {
        scenario.limits.alibaba_per_minute.insert("ListUsage".to_owned(), 2);
    })
    .await;
    eci.call("ListUsage", &[]).await.ok();
    eci.call("ListUsage", &[]).await.ok();
    let reply = eci.call("ListUsage", &[]).await;
    reply.assert_code("Throttling.User", 400);
    assert!(reply.headers["x-acs-retry-after"].parse::<u64>().unwrap() > 1_000);
    eci.call("DescribeRegions", &[]).await.ok();
}

#[tokio::test]
async fn without_permission_the_list_is_empty_not_refused() {
    let (_simulator, eci) = start(|_| {}).await;
    let id = eci.created("perm-1", &[]).await;
    eci.fault(json!({"kind": "emptyList", "vendor": "alibaba-eci"})).await;
    assert_eq!(eci.call("DescribeContainerGroups", &[]).await.ok()["TotalCount"], 0);
    eci.control("DELETE", "/v1/faults", &serde_json::Value::Null).await;
    assert!(eci.group(&id).await.is_object());
}

#[tokio::test]
async fn a_lost_reply_is_found_again_by_its_token() {
    let (_simulator, eci) = start(|_| {}).await;
    eci.fault(json!({"kind": "replyLost", "action": "CreateContainerGroup", "times": 1})).await;
    let params = [
        ("ContainerGroupName", "lost-1"),
        ("VSwitchId", eci.vswitch(0)),
        ("Container.1.Name", "app"),
        ("Container.1.Image", "nginx"),
        ("ClientToken", "lost-token"),
    ];
    let request = eci.v3("CreateContainerGroup", &params);
    assert!(eci.send(&request).await.is_none(), "the connection is cut");
    let truth = eci.truth("lost-1").await;
    assert_eq!(truth.len(), 1);
    let again = eci.call("CreateContainerGroup", &params).await.ok();
    assert_eq!(again["ContainerGroupId"], truth[0]["id"]);
    assert_eq!(eci.truth("lost-1").await.len(), 1);
}

#[tokio::test]
async fn server_errors_before_and_after_the_effect() {
    let (_simulator, eci) = start(|_| {}).await;
    let action = "CreateContainerGroup";
    eci.fault(json!({"kind": "serverError", "when": "before", "status": 503, "action": action, "times": 1})).await;
    eci.create("se-before", &[]).await.assert_code("ServiceUnavailable", 503);
    assert!(eci.truth("se-before").await.is_empty());
    eci.fault(json!({"kind": "serverError", "when": "after", "action": action, "times": 1})).await;
    eci.create("se-after", &[]).await.assert_code("InternalError", 500);
    assert_eq!(eci.truth("se-after").await.len(), 1);
    eci.fault(json!({"kind": "serverError", "status": 502, "html": true, "action": action, "times": 1})).await;
    let page = eci.create("se-html", &[]).await;
    assert_eq!(page.status, 502);
    assert!(page.text.starts_with("<html>"));
}

#[tokio::test]
async fn credentials_can_fail_by_fault() {
    let (_simulator, eci) = start(|_| {}).await;
    eci.fault(json!({"kind": "unauthenticated", "vendor": "alibaba-eci", "times": 1})).await;
    eci.call("ListUsage", &[]).await.assert_code("InvalidAccessKeyId.Inactive", 400);
}

#[tokio::test]
async fn a_spot_instance_is_warned_and_taken_back() {
    let (_simulator, eci) = start(|_| {}).await;
    let id = eci.running("spot-1", &[("SpotStrategy", "SpotAsPriceGo")]).await;
    eci.control("POST", &format!("/v1/instances/{id}/reclaim"), &json!({})).await;
    let group = eci.wait(&id, "Expired").await;
    assert!(group["ExpiredTime"].is_string());
    assert_eq!(group["SpotStrategy"], "SpotAsPriceGo");
    assert_eq!(eci.truth("spot-1").await[0]["alive"], false);
}

#[tokio::test]
async fn refused_requests_are_counted_too() {
    let (_simulator, eci) = start(|_| {}).await;
    let wrong = crate::eci_client::V3 { secret: "wrong".to_owned(), ..eci.v3("ListUsage", &[]) };
    eci.send(&wrong).await.unwrap().assert_code("SignatureDoesNotMatch", 400);
    eci.call("MadeUp", &[]).await.assert_code("InvalidAction", 403);
    let calls = eci.control("GET", "/v1/calls", &serde_json::Value::Null).await;
    let count = |action: &str, outcome: &str| {
        let all = calls["calls"].as_array().unwrap().iter();
        all.filter(|one| one["action"] == action && one["outcome"] == outcome).count()
    };
    assert_eq!((count("ListUsage", "SignatureDoesNotMatch"), count("unknown", "InvalidAction")), (1, 1));
    assert_eq!(count("MadeUp", "InvalidAction"), 0);
}
