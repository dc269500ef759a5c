//! Faults as a client meets them.

use std::time::Duration;

use meridian_cloudsim::NoStock;
use serde_json::{Value, json};

use crate::client::*;

const CREATE: &str = "CreateEKSContainerInstances";

async fn alive(info: &meridian_cloudsim::CloudsimInfo) -> usize {
    ledger(&info.control, "alive=true").await.len()
}

#[tokio::test]
async fn sold_out_after_create_stays_pending_with_a_warning() {
    let (_simulator, info) = start(quick()).await;
    let tencent = Tencent::new(&info, "ap-guangzhou");
    let zone = &tencent.backend.zones[0].zone;
    let fault_id = fault(&info.control, json!({"kind": "soldOut", "when": "afterCreate", "zone": zone})).await;
    let stuck = tencent.create(tencent.spec_in("stuck", 0)).await;
    let fine = tencent.create(tencent.spec_in("fine", 1)).await;
    tencent.wait(&fine, "Running").await;
    let deadline = deadline();
    loop {
        let reply = tencent.call("DescribeEKSContainerInstanceEvent", json!({"EksCiId": stuck})).await.unwrap();
        let events = reply["Events"].as_array().unwrap().clone();
        if let Some(event) = events.iter().find(|e| e["Reason"] == "FailedCreatePodSandBox") {
            assert!(event["Message"].as_str().unwrap().contains("insufficient resource"));
            assert_eq!(event["Type"], "Warning");
            break;
        }
        assert!(!is_over(deadline));
    }
    assert_eq!(tencent.get(&stuck).await.unwrap()["Status"], "Pending");
    let truth = &ledger(&info.control, "namePrefix=stuck").await[0];
    assert_eq!(
        (&truth["exists"], &truth["billed"], &truth["alive"]),
        (&json!(true), &json!(false), &json!(false)),
        "{truth}"
    );
    let gone = control(&info.control, "DELETE", &format!("/v1/faults/{fault_id}"), Value::Null).await;
    assert_eq!(gone.status, 200);
    let again = tencent.create(tencent.spec_in("again", 0)).await;
    tencent.wait(&again, "Running").await;
}

#[tokio::test]
async fn sold_out_at_create_and_real_shortage() {
    let (_simulator, info) = start(quick()).await;
    let tencent = Tencent::new(&info, "ap-guangzhou");
    fault(&info.control, json!({"kind": "soldOut", "when": "atCreate", "spec": "1-2", "times": 1})).await;
    assert_eq!(tencent.call(CREATE, tencent.spec("a")).await.unwrap_err(), "ResourcesSoldOut");
    tencent.create(tencent.spec("b")).await;
    assert_eq!(ledger(&info.control, "").await.len(), 1, "a refused create makes nothing");

    let stock = json!({"region": "ap-guangzhou", "zone": tencent.backend.zones[1].zone, "spec": "1-2", "count": 1});
    assert_eq!(control(&info.control, "PUT", "/v1/stock", stock.clone()).await.status, 200);
    let first = tencent.create(tencent.spec_in("c", 1)).await;
    tencent.wait(&first, "Running").await;
    let second = tencent.create(tencent.spec_in("d", 1)).await;
    let third = tencent.create(tencent.spec_in("e", 0)).await;
    tencent.wait(&third, "Running").await;
    assert_eq!(tencent.get(&second).await.unwrap()["Status"], "Pending");
    // The platform keeps trying: what the first gives back, the second gets.
    tencent.call("DeleteEKSContainerInstances", json!({"EksCiIds": [first]})).await.unwrap();
    tencent.wait(&second, "Running").await;
}

#[tokio::test]
async fn eksci_may_also_refuse_a_shortage_at_create() {
    let mut scenario = quick();
    scenario.rules.eksci_no_stock = NoStock::AtCreate;
    scenario.regions[0].zones[0].stock_default = Some(0);
    let (_simulator, info) = start(scenario).await;
    let tencent = Tencent::new(&info, "ap-guangzhou");
    assert_eq!(tencent.call(CREATE, tencent.spec("a")).await.unwrap_err(), "ResourcesSoldOut");
}

#[tokio::test]
async fn reply_lost_after_the_effect() {
    let (_simulator, info) = start(quick()).await;
    let tencent = Tencent::new(&info, "ap-guangzhou");
    fault(&info.control, json!({"kind": "replyLost", "action": CREATE, "times": 1})).await;
    let error = tencent.raw(CREATE, &tencent.spec("lost")).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    assert_eq!(ledger(&info.control, "namePrefix=lost").await.len(), 1, "the effect stays");
    tencent.create(tencent.spec("next")).await;
}

#[tokio::test]
async fn server_errors_before_and_after_with_and_without_html() {
    let (_simulator, info) = start(quick()).await;
    let tencent = Tencent::new(&info, "ap-guangzhou");
    fault(&info.control, json!({"kind": "serverError", "when": "before", "times": 1})).await;
    assert_eq!(tencent.call(CREATE, tencent.spec("x")).await.unwrap_err(), "InternalError");
    assert_eq!(alive(&info).await, 0);
    fault(&info.control, json!({"kind": "serverError", "when": "after", "times": 1})).await;
    assert_eq!(tencent.call(CREATE, tencent.spec("x")).await.unwrap_err(), "InternalError");
    assert_eq!(alive(&info).await, 1);
    fault(&info.control, json!({"kind": "serverError", "status": 502, "html": true, "times": 1})).await;
    let reply = tencent.raw(CREATE, &tencent.spec("x")).await.unwrap();
    assert_eq!((reply.status, reply.header("content-type").as_deref()), (502, Some("text/html")));
    fault(&info.control, json!({"kind": "serverError", "status": 503, "times": 1})).await;
    let reply = tencent.raw(CREATE, &tencent.spec("x")).await.unwrap();
    assert_eq!((reply.status, &reply.json()["Response"]["Error"]["Code"]), (503, &json!("InternalError")));
    assert_eq!(alive(&info).await, 1);
}

#[tokio::test]
async fn late_effect_comes_after_the_error() {
    let (_simulator, info) = start(quick()).await;
    let tencent = Tencent::new(&info, "ap-guangzhou");
    fault(&info.control, json!({"kind": "lateEffect", "afterMs": 1_500, "times": 1})).await;
    assert!(tencent.raw(CREATE, &tencent.spec("late")).await.is_err());
    assert_eq!(ledger(&info.control, "namePrefix=late").await.len(), 0);
    let deadline = deadline();
    while ledger(&info.control, "namePrefix=late").await.is_empty() {
        assert!(!is_over(deadline));
    }
    fault(&info.control, json!({"kind": "lateEffect", "afterMs": 60_000, "reply": "serverError", "times": 1})).await;
    assert_eq!(tencent.call(CREATE, tencent.spec("x")).await.unwrap_err(), "InternalError");
}

#[tokio::test]
async fn a_client_that_goes_away_does_not_stop_the_effect() {
    let (_simulator, info) = start(quick()).await;
    let tencent = Tencent::new(&info, "ap-guangzhou");
    fault(&info.control, json!({"kind": "latency", "ms": 2_000, "times": 1})).await;
    let raw = tencent.signed(CREATE, &tencent.spec("left").to_string(), now_secs());
    let gone = tokio::time::timeout(Duration::from_millis(1_000), send(&tencent.backend.url, &raw)).await;
    assert!(gone.is_err(), "the client gives up first");
    let deadline = deadline();
    while ledger(&info.control, "namePrefix=left").await.is_empty() {
        assert!(!is_over(deadline));
    }
}

#[tokio::test]
async fn latency_adds_to_other_faults() {
    let (_simulator, info) = start(quick()).await;
    let tencent = Tencent::new(&info, "ap-guangzhou");
    fault(&info.control, json!({"kind": "latency", "ms": 1_500, "jitterMs": 10})).await;
    fault(&info.control, json!({"kind": "throttle", "times": 1})).await;
    let list = || tencent.call("DescribeEKSContainerInstances", json!({}));
    assert!(tokio::time::timeout(Duration::from_millis(1_000), list()).await.is_err());
    assert!(list().await.is_ok(), "the call that was given up took the throttle with it");
}

#[tokio::test]
async fn throttle_by_fault_and_by_limit() {
    let mut scenario = quick();
    scenario.limits.enabled = true;
    scenario.limits.tencent_actions_per_second.insert("DescribeEKSContainerInstanceRegions".into(), 1);
    let (_simulator, info) = start(scenario).await;
    let tencent = Tencent::new(&info, "ap-guangzhou");
    fault(&info.control, json!({"kind": "throttle", "action": CREATE, "times": 1})).await;
    assert_eq!(tencent.call(CREATE, tencent.spec("a")).await.unwrap_err(), "RequestLimitExceeded");
    // One a second: two in a row are fast enough sooner or later, also on a busy machine.
    let (mut allowed, mut throttled) = (0, 0);
    let deadline = deadline();
    while throttled == 0 {
        match tencent.call("DescribeEKSContainerInstanceRegions", json!({})).await {
            Ok(_) => allowed += 1,
            Err(code) => {
                assert_eq!(code, "RequestLimitExceeded");
                throttled += 1;
            }
        }
        assert!(!is_over(deadline));
    }
    assert!(allowed >= 1);
    let calls = control(&info.control, "GET", "/v1/calls", Value::Null).await.json();
    let count = |outcome: &str| {
        let all = calls["calls"].as_array().unwrap().iter();
        let of = all.filter(|c| c["action"] == "DescribeEKSContainerInstanceRegions" && c["outcome"] == outcome);
        of.map(|c| c["count"].as_i64().unwrap()).sum::<i64>()
    };
    assert_eq!((count("ok"), count("Throttled")), (allowed, throttled), "{calls}");
}

#[tokio::test]
async fn unauthenticated_and_empty_list_and_list_lag() {
    let (_simulator, info) = start(quick()).await;
    let tencent = Tencent::new(&info, "ap-guangzhou");
    fault(&info.control, json!({"kind": "unauthenticated", "times": 1})).await;
    let error = tencent.call("DescribeEKSContainerInstances", json!({})).await.unwrap_err();
    assert!(error.starts_with("AuthFailure."), "{error}");
    let id = tencent.create(tencent.spec("shown")).await;
    fault(&info.control, json!({"kind": "emptyList", "times": 1})).await;
    assert_eq!(tencent.get(&id).await, None);
    assert!(tencent.get(&id).await.is_some());
    fault(&info.control, json!({"kind": "listLag", "ms": 2_000, "name": "young*", "times": 1})).await;
    let young = tencent.create(tencent.spec("young")).await;
    assert_eq!(tencent.get(&young).await, None);
    // A call that names the id finds it all the same.
    tencent.call("DescribeEKSContainerInstanceEvent", json!({"EksCiId": young})).await.unwrap();
    tencent.wait(&young, "Running").await;
}

#[tokio::test]
async fn region_refused_and_back() {
    let (_simulator, info) = start(quick()).await;
    let tencent = Tencent::new(&info, "ap-guangzhou");
    let other = Tencent::new(&info, "ap-shanghai");
    let mut open = tokio::net::TcpStream::connect(host_of(&tencent.backend.url)).await.unwrap();
    fault(&info.control, json!({"kind": "regionOutage", "mode": "refused", "region": "ap-guangzhou"})).await;
    let ended = tokio::time::timeout(WAIT_MAX, tokio::io::AsyncReadExt::read(&mut open, &mut [0; 1])).await;
    assert!(matches!(ended.unwrap(), Ok(0) | Err(_)), "open connections end");
    let deadline = deadline();
    // The listener closes a moment after the fault is set.
    loop {
        match tokio::net::TcpStream::connect(host_of(&tencent.backend.url)).await {
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
                break;
            }
            Ok(_) => assert!(!is_over(deadline)),
        }
    }
    other.create(other.spec("elsewhere")).await;
    control(&info.control, "DELETE", "/v1/faults", Value::Null).await;
    let raw = tencent.signed("DescribeEKSContainerInstances", "{}", now_secs());
    while send(&tencent.backend.url, &raw).await.is_err() {
        assert!(!is_over(deadline));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn black_hole_never_answers_and_keeps_effects_from_happening() {
    let (_simulator, info) = start(quick()).await;
    let tencent = Tencent::new(&info, "ap-guangzhou");
    fault(&info.control, json!({"kind": "regionOutage", "mode": "blackhole", "region": "ap-guangzhou"})).await;
    let raw = tencent.signed(CREATE, &tencent.spec("hole").to_string(), now_secs());
    let reply = tokio::time::timeout(Duration::from_millis(1_000), send(&tencent.backend.url, &raw)).await;
    assert!(reply.is_err(), "no answer: {reply:?}");
    assert!(ledger(&info.control, "").await.is_empty());
    let calls = control(&info.control, "GET", "/v1/calls", Value::Null).await.json();
    let swallowed = json!({"vendor": "tencent-eksci", "region": "ap-guangzhou", "action": CREATE,
                           "outcome": "Blackhole", "count": 1});
    assert_eq!(calls["calls"], json!([swallowed]));
    control(&info.control, "DELETE", "/v1/faults", Value::Null).await;
    tencent.create(tencent.spec("after")).await;
}

#[tokio::test]
async fn outage_ends_by_itself() {
    let (_simulator, info) = start(quick()).await;
    let tencent = Tencent::new(&info, "ap-guangzhou");
    let outage = json!({"kind": "regionOutage", "mode": "blackhole", "region": "ap-guangzhou", "forMs": 1_500});
    fault(&info.control, outage).await;
    let raw = tencent.signed("DescribeEKSContainerInstances", "{}", now_secs());
    // What waited in the hole is cut when it ends; what comes later is answered.
    assert!(send(&tencent.backend.url, &raw).await.is_err());
    assert_eq!(send(&tencent.backend.url, &raw).await.unwrap().status, 200);
}

#[tokio::test]
async fn containers_crash_exit_and_are_made_to() {
    let (_simulator, info) = start(quick()).await;
    let tencent = Tencent::new(&info, "ap-guangzhou");
    fault(&info.control, json!({"kind": "exit", "afterMs": 30, "exitCode": 7, "name": "job*", "times": 1})).await;
    let mut spec = tencent.spec("job-1");
    spec["RestartPolicy"] = json!("Never");
    let job = tencent.create(spec.clone()).await;
    let failed = tencent.wait(&job, "Failed").await;
    assert_eq!(failed["Containers"][0]["CurrentState"]["ExitCode"], 7);

    spec["EksCiName"] = json!("manual");
    let manual = tencent.create(spec).await;
    tencent.wait(&manual, "Running").await;
    let path = format!("/v1/instances/{manual}/crash");
    assert_eq!(control(&info.control, "POST", &path, Value::Null).await.status, 200);
    let failed = tencent.wait(&manual, "Failed").await;
    assert_eq!(failed["Containers"][0]["CurrentState"]["ExitCode"], 137);
    assert_eq!(control(&info.control, "POST", &path, Value::Null).await.status, 409);
    assert_eq!(control(&info.control, "POST", "/v1/instances/nope/exit", Value::Null).await.status, 404);
}
