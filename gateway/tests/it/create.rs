//! Creates: bodies, their faults, idempotency keys, preferences.

use std::time::Duration;

use meridian_gateway::operation::{Action, CreateInstance};

use crate::support::{Gateway, exchange, parse};

const SHORT: &str = r#"{"name":"web","labels":{"app":"web"},"spec":{"containers":[{"name":"c","image":"nginx"}]}}"#;

async fn created(gateway: &Gateway) -> CreateInstance {
    match gateway.actions().pop() {
        Some(Action::CreateInstance(create)) => *create,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_create_answers_with_place_and_key() {
    let gateway = Gateway::usual().await;
    let reply = gateway.create("", &[("idempotency-key", "\"k 1\""), ("x-request-id", "r1")], SHORT).await;
    insta::assert_snapshot!(reply.shown());
    let create = created(&gateway).await;
    assert_eq!(create.idempotency_key.as_deref(), Some("k 1"));
    assert!(create.wait > Duration::from_secs(14) && create.wait < Duration::from_secs(15), "{:?}", create.wait);
}

#[tokio::test]
async fn the_three_shapes_are_the_same_instance() {
    let gateway = Gateway::usual().await;
    let spec = r#"{"containers":[{"name":"c","image":"nginx"}]}"#;
    let ours = format!(
        r#"{{"apiVersion":"meridian.dev/v1","kind":"Instance","metadata":{{"name":"web","labels":{{"app":"web"}}}},"spec":{spec}}}"#
    );
    let pod = format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"creationTimestamp":null,"name":"web","namespace":"acme","labels":{{"app":"web"}}}},"spec":{spec},"status":{{}}}}"#
    );
    let mut made = Vec::new();
    for body in [SHORT, &ours, &pod] {
        let reply = gateway.create("", &[], body).await;
        assert_eq!(reply.status, 201, "{body}: {}", String::from_utf8_lossy(&reply.body));
        let create = created(&gateway).await;
        made.push((create.name, create.labels, create.spec));
    }
    assert!(made.windows(2).all(|w| w[0] == w[1]));
}

#[tokio::test]
async fn an_unchanged_pod_manifest_is_accepted() {
    let gateway = Gateway::usual().await;
    let pod = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"creationTimestamp":null,"labels":{"run":"nginx"},"name":"nginx"},
        "spec":{"containers":[{"image":"nginx","name":"nginx","ports":[{"containerPort":80}],
            "resources":{"requests":{"cpu":"250m","memory":"64Mi"},"limits":{"cpu":"500m","memory":"128Mi"}},
            "livenessProbe":{"httpGet":{"path":"/","port":80},"periodSeconds":10},
            "volumeMounts":[{"name":"cache","mountPath":"/cache"}]}],
          "volumes":[{"name":"cache","emptyDir":{}}],"dnsPolicy":"ClusterFirst","restartPolicy":"Always"},"status":{}}"#;
    let reply = gateway.create("", &[], pod).await;
    assert_eq!(reply.status, 201, "{}", String::from_utf8_lossy(&reply.body));
    assert_eq!(created(&gateway).await.spec.containers[0].ports[0].container_port, 80);
}

/// Every kind of bad body with the snapshot of its problem; none may reach the operation stack.
#[tokio::test]
async fn bad_bodies_are_refused_with_every_fault() {
    let gateway = Gateway::usual().await;
    let cases = [
        (
            "unknown fields, all of them",
            r#"{"name":"a","sepc":1,"spec":{"containers":[{"name":"c","image":"i","imagee":"x"}],"nodeName":"n"},"metadata":{}}"#,
        ),
        (
            "bad quantity",
            r#"{"name":"a","spec":{"containers":[{"name":"c","image":"i","resources":{"limits":{"cpu":"lots"}}}]}}"#,
        ),
        ("type error and unknown field", r#"{"name":"a","x/y":1,"spec":{"containers":[{"name":"c","image":7}]}}"#),
        ("bad JSON", "{\"name\":\"a\",\n \"spec\":}"),
        ("repeated keys", r#"{"name":"a","name":"b","spec":{"containers":[],"containers":[]}}"#),
        ("huge number", r#"{"name":"a","spec":{"containers":[],"activeDeadlineSeconds":99999999999999999999}}"#),
        ("number out of range", r#"{"name":"a","spec":{"containers":[],"activeDeadlineSeconds":1e999}}"#),
        ("no name", r#"{"spec":{"containers":[]}}"#),
        (
            "generated name",
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{"generateName":"web-"},"spec":{"containers":[]}}"#,
        ),
        ("bad name", r#"{"name":"Web_1","spec":{"containers":[]}}"#),
        ("no spec", r#"{"name":"a"}"#),
        ("other kind", r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"a"},"spec":{}}"#),
        (
            "other namespace",
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","namespace":"lab"},"spec":{"containers":[]}}"#,
        ),
        ("not an object", "[\"a\",{},{},{\"containers\":[]}]"),
        ("an array in place of an object", r#"{"name":"a","spec":{"containers":[["c","image"]],"network":[null,{}]}}"#),
        ("empty", " "),
    ];
    let mut shown = String::new();
    for (what, body) in cases {
        let reply = gateway.create("", &[("x-request-id", "r1")], body).await;
        shown += &format!("# {what}\n{}\n{}\n\n", reply.status, serde_json::to_string_pretty(&reply.json()).unwrap());
        assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{what}");
    }
    assert!(gateway.actions().is_empty());
    insta::assert_snapshot!(shown);
}

#[tokio::test]
async fn large_bodies_are_refused_before_they_are_read() {
    let gateway = Gateway::usual().await;
    let head = format!(
        "POST /v1/tenants/acme/instances HTTP/1.1\r\nhost: g\r\nx-request-id: r1\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n",
        gateway.acme
    );
    // Only the length is sent: an answer can only come from it.
    let answer = parse(&exchange(gateway.api, format!("{head}content-length: 1048577\r\n\r\n").as_bytes()).await);
    insta::assert_snapshot!(answer.shown());
    let mut chunked = format!("{head}transfer-encoding: chunked\r\n\r\n").into_bytes();
    for _ in 0..17 {
        chunked.extend_from_slice(b"10000\r\n");
        chunked.extend(std::iter::repeat_n(b' ', 0x10000));
        chunked.extend_from_slice(b"\r\n");
    }
    assert_eq!(parse(&exchange(gateway.api, &chunked).await).status, 413);
    let exact = format!("{}{}", SHORT, " ".repeat(1048576 - SHORT.len()));
    assert_eq!(gateway.create("", &[], &exact).await.status, 201);
}

#[tokio::test]
async fn only_json_is_read() {
    let gateway = Gateway::usual().await;
    for good in ["application/json", "application/json; charset=UTF-8", "Application/JSON;charset=\"utf-8\""] {
        assert_eq!(gateway.create("", &[("content-type", good)], SHORT).await.status, 201, "{good}");
    }
    for bad in
        ["text/plain", "application/yaml", "", "application/json; charset=latin1", "application/x-www-form-urlencoded"]
    {
        let reply = gateway.create("", &[("content-type", bad)], SHORT).await;
        assert_eq!((reply.status, reply.code().as_str()), (415, "unsupported-media-type"), "{bad}");
    }
}

#[tokio::test]
async fn idempotency_keys_follow_their_rules() {
    let gateway = Gateway::usual().await;
    let long = "k".repeat(256);
    for bad in [
        vec![("idempotency-key", "")],
        vec![("idempotency-key", "\"\"")],
        vec![("idempotency-key", &long)],
        vec![("idempotency-key", "é")],
        vec![("idempotency-key", "a"), ("idempotency-key", "a")],
        vec![("idempotency-key", "\"abc")],
        vec![("idempotency-key", "abc\"")],
    ] {
        let reply = gateway.create("", &bad, SHORT).await;
        assert_eq!((reply.status, reply.code().as_str()), (400, "invalid-argument"), "{bad:?}");
        let errors = &reply.json()["errors"];
        assert!(errors[0]["detail"].as_str().unwrap().starts_with("Idempotency-Key "), "{bad:?}: {errors}");
    }
    assert!(gateway.actions().is_empty());
    let mut prints = Vec::new();
    let respelt = r#"{ "labels":{"app":"web"}, "spec":{"containers":[{"image":"nginx","name":"c"}]}, "name":"web" }"#;
    for body in [SHORT, respelt, &SHORT.replace("nginx", "nginx:1")] {
        gateway.create("", &[("idempotency-key", "k")], body).await;
        prints.push(created(&gateway).await.fingerprint);
    }
    assert_eq!(prints[0], prints[1], "spelling does not matter");
    assert_ne!(prints[0], prints[2]);
    assert_eq!(prints[0].len(), 64);
}

#[tokio::test]
async fn preferences_decide_how_long_to_wait() {
    let gateway = Gateway::usual().await;
    for (prefer, applied, at_most) in [
        ("wait=0", Some("wait=0"), Duration::ZERO),
        ("respond-async", Some("respond-async"), Duration::ZERO),
        ("wait=5", Some("wait=5"), Duration::from_secs(5)),
        ("wait=600", Some("wait=60"), Duration::from_secs(15)),
        ("wait=soon", None, Duration::from_secs(15)),
    ] {
        let reply = gateway.create("", &[("prefer", prefer)], SHORT).await;
        assert_eq!(reply.header("preference-applied"), applied, "{prefer}");
        assert!(created(&gateway).await.wait <= at_most, "{prefer}");
    }
}

#[tokio::test]
async fn unknown_fields_pass_with_a_warning_when_asked() {
    let gateway = Gateway::usual().await;
    let body = SHORT.replace("\"image\"", "\"nodeName\":\"n\",\"image\"");
    let reply = gateway.create("?fieldValidation=warn&validateOnly=true", &[], &body).await;
    assert_eq!(reply.status, 201);
    assert!(reply.header("warning").unwrap().contains("/spec/containers/0/nodeName"));
    assert!(created(&gateway).await.validate_only);
    for query in
        ["?fieldValidation=maybe", "?validateOnly=yes", "?validateonly=true", "?validateOnly=true&validateOnly=true"]
    {
        let reply = gateway.create(query, &[], SHORT).await;
        assert_eq!((reply.status, reply.code().as_str()), (400, "invalid-argument"), "{query}");
    }
    let reply = gateway.create("?validatOnly=true", &[], SHORT).await;
    assert_eq!(reply.json()["errors"][0]["hint"], "did you mean validateOnly?");
}
