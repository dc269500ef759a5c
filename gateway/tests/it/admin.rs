//! The admin listener.

use crate::support::{Gateway, PATIENCE, raw};

#[tokio::test]
async fn it_tells_of_life_readiness_metrics_and_configuration() {
    let gateway = Gateway::usual().await;
    gateway.get("/v1/tenants/acme/instances/web-1").await;
    let get = |path: &'static str| raw(gateway.admin, path, &[], b"");
    assert_eq!(get("GET /livez").await.status, 200);
    gateway.health.tell("store", || Ok("recovering".to_owned()));
    let ready = get("GET /readyz?verbose").await;
    assert_eq!((ready.status, ready.json()["checks"][1]["state"].as_str()), (200, Some("recovering")));
    gateway.health.depend_on("ledger", || Err("closed".to_owned()));
    let ready = get("GET /readyz?verbose").await;
    assert_eq!(ready.status, 503);
    insta::assert_snapshot!(serde_json::to_string_pretty(&ready.json()).unwrap());
    let metrics = get("GET /metrics").await;
    let text = String::from_utf8_lossy(&metrics.body).into_owned();
    assert!(metrics.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    let line = "http_server_request_duration_seconds_count{method=\"GET\",route=\"/v1/tenants/{tenant}/instances/{instance}\",code=\"200\"} 1";
    assert!(text.contains(line) && text.ends_with("# EOF\n"), "{text}");
    let config = get("GET /config").await;
    assert_eq!(config.json()["deployment"]["secret"], "[redacted]");
    assert_eq!(get("POST /config").await.status, 405);
    assert_eq!(get("GET /v1/tenants").await.status, 404);
}

#[tokio::test]
async fn the_api_port_has_nothing_of_it() {
    let gateway = Gateway::usual().await;
    for path in ["/metrics", "/config", "/drain", "/livez"] {
        assert_eq!(gateway.get(path).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn a_drain_can_be_asked_for() {
    let gateway = Gateway::usual().await;
    assert_eq!(raw(gateway.admin, "POST /drain", &[], b"").await.status, 202);
    let drained = tokio::time::timeout(PATIENCE, gateway.ended).await.unwrap().unwrap();
    assert_eq!(drained.cut, 0);
    assert_eq!(raw(gateway.admin, "GET /readyz", &[], b"").await.status, 503);
}
