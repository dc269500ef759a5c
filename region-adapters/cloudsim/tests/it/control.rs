//! The control API itself.

use serde_json::{Value, json};

use crate::client::*;

#[tokio::test]
async fn backends_have_the_documented_shape() {
    let (_simulator, info) = start(quick()).await;
    let reply = control(&info.control, "GET", "/v1/backends", Value::Null).await;
    let value = reply.json();
    assert_eq!(value["control"], json!(info.control));
    let backends = value["backends"].as_array().unwrap();
    assert_eq!(backends.len(), 4);
    for backend in backends {
        for field in ["vendor", "url", "keyId", "keySecret", "region", "vpcId", "securityGroupId"] {
            assert!(backend[field].is_string(), "{field}: {backend}");
        }
        let zones = backend["zones"].as_array().unwrap();
        assert!((2..=3).contains(&zones.len()));
        assert!(zones.iter().all(|z| z["zone"].is_string() && z["subnetId"].is_string()));
    }
    assert_eq!(value, serde_json::to_value(&info).unwrap());
    assert_eq!(control(&info.control, "GET", "/healthz", Value::Null).await.status, 200);
}

#[tokio::test]
async fn mistakes_name_the_field_and_what_is_allowed() {
    let (_simulator, info) = start(quick()).await;
    let check = |method: &'static str, path: &'static str, body: Value, field: &'static str| {
        let url = info.control.clone();
        async move {
            let reply = control(&url, method, path, body.clone()).await;
            assert_eq!(reply.status, 400, "{path} {body}");
            assert_eq!(reply.json()["field"], field, "{path} {body} {}", reply.json());
            assert!(!reply.json()["allowed"].as_str().unwrap().is_empty());
        }
    };
    check("POST", "/v1/faults", json!({"kind": "nonsense"}), "kind").await;
    check("POST", "/v1/faults", json!({"kind": "soldOut", "when": "later"}), "when").await;
    check("POST", "/v1/faults", json!({"kind": "throttle", "ms": 5}), "ms").await;
    check("POST", "/v1/faults", json!({"kind": "latency", "ms": -5}), "ms").await;
    check("POST", "/v1/faults", json!({"kind": "throttle", "times": 0}), "times").await;
    check("POST", "/v1/faults", json!({"kind": "throttle", "probability": 2}), "probability").await;
    check("POST", "/v1/faults", json!({"kind": "throttle", "region": "mars"}), "region").await;
    check("POST", "/v1/faults", json!({"kind": "soldOut", "zone": "mars-1"}), "zone").await;
    check("POST", "/v1/faults", json!({"kind": "throttle", "id": "x"}), "id").await;
    check("POST", "/v1/faults", json!({"kind": "throttle", "colour": "red"}), "colour").await;
    check("POST", "/v1/faults", json!({"kind": "serverError", "status": 404}), "status").await;
    check("POST", "/v1/faults", json!({"kind": "exit", "exitCode": 256}), "exitCode").await;
    check("POST", "/v1/faults", json!({"kind": "soldOut", "spec": "2.0-4.0"}), "spec").await;
    check("PUT", "/v1/stock", json!({"region": "ap-shanghai", "zone": "*", "spec": "2x4", "count": 1}), "spec").await;
    check("PUT", "/v1/stock", json!({"region": "mars", "zone": "*", "count": 1}), "region").await;
    check("PUT", "/v1/stock", json!({"region": "ap-shanghai", "zone": "x", "count": 1}), "zone").await;
    check("PUT", "/v1/stock", json!({"region": "ap-shanghai", "zone": "*"}), "count").await;
    check("PUT", "/v1/quota", json!({"region": "ap-shanghai", "account": "x", "maxVcpu": 1}), "account").await;
    check("PUT", "/v1/subnets/subnet-guangzhou3", json!({"freeIps": 10_000_000}), "freeIps").await;
    check("GET", "/v1/ledger?colour=red", Value::Null, "colour").await;
    check("GET", "/v1/ledger?exists=maybe", Value::Null, "exists").await;
    assert_eq!(control(&info.control, "PUT", "/v1/subnets/none", json!({"freeIps": 1})).await.status, 404);
    assert_eq!(control(&info.control, "DELETE", "/v1/faults/fault-9", Value::Null).await.status, 404);
    assert_eq!(control(&info.control, "PATCH", "/v1/faults", Value::Null).await.status, 405);
    assert_eq!(control(&info.control, "GET", "/v2/faults", Value::Null).await.status, 404);
}

#[tokio::test]
async fn faults_can_be_listed_counted_down_and_cleared() {
    let (_simulator, info) = start(quick()).await;
    let tencent = Tencent::new(&info, "ap-guangzhou");
    let id = fault(&info.control, json!({"kind": "throttle", "times": 2, "region": "ap-guangzhou"})).await;
    let list = || control(&info.control, "GET", "/v1/faults", Value::Null);
    assert_eq!(list().await.json()["faults"][0]["id"], json!(id));
    tencent.call("DescribeEKSContainerInstances", json!({})).await.unwrap_err();
    assert_eq!(list().await.json()["faults"][0]["times"], 1);
    fault(&info.control, json!({"kind": "latency", "ms": 1})).await;
    let cleared = control(&info.control, "DELETE", "/v1/faults", Value::Null).await;
    assert_eq!(cleared.json()["removed"], 2);
    tencent.call("DescribeEKSContainerInstances", json!({})).await.unwrap();
}

#[tokio::test]
async fn a_revoked_key_is_refused_and_an_added_one_is_not() {
    let (_simulator, info) = start(quick()).await;
    let mut tencent = Tencent::new(&info, "ap-guangzhou");
    let keys = format!("/v1/accounts/{}/keys", tencent.backend.account);
    let second = json!({"keyId": "second", "keySecret": "s"});
    assert_eq!(control(&info.control, "POST", &keys, second.clone()).await.status, 201);
    assert_eq!(control(&info.control, "POST", &keys, second).await.json()["field"], "keyId");
    let first = format!("{keys}/{}", tencent.backend.key_id);
    tencent.call("DescribeEKSContainerInstances", json!({})).await.unwrap();
    assert_eq!(control(&info.control, "DELETE", &first, Value::Null).await.status, 200);
    assert_eq!(control(&info.control, "DELETE", &first, Value::Null).await.status, 404);
    let refused = tencent.call("DescribeEKSContainerInstances", json!({})).await.unwrap_err();
    assert!(refused.starts_with("AuthFailure"), "{refused}");
    tencent.backend.key_id = "second".to_owned();
    tencent.backend.key_secret = "s".to_owned();
    tencent.call("DescribeEKSContainerInstances", json!({})).await.unwrap();
}

#[tokio::test]
async fn quota_and_addresses_limit_creates() {
    let (_simulator, info) = start(quick()).await;
    let tencent = Tencent::new(&info, "ap-guangzhou");
    let create = |name: &str| tencent.call("CreateEKSContainerInstances", tencent.spec(name));
    let quota = json!({"region": "ap-guangzhou", "account": tencent.backend.account, "maxVcpu": 2});
    assert_eq!(control(&info.control, "PUT", "/v1/quota", quota).await.status, 200);
    create("a").await.unwrap();
    create("b").await.unwrap();
    assert_eq!(create("c").await.unwrap_err(), "LimitExceeded");
    let quota = json!({"region": "ap-guangzhou", "account": tencent.backend.account, "maxVcpu": 100});
    control(&info.control, "PUT", "/v1/quota", quota).await;
    let path = format!("/v1/subnets/{}", tencent.backend.zones[0].subnet_id);
    assert_eq!(control(&info.control, "PUT", &path, json!({"freeIps": 1})).await.status, 200);
    create("d").await.unwrap();
    assert_eq!(create("e").await.unwrap_err(), "ResourceInsufficient");
}
