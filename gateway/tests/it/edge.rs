//! The layers of the HTTP stack: order, identity, limits, refusals.

use std::{sync::Arc, time::Duration};

use meridian_gateway::operation::{Action, Operation, Outcome, Refusal};
use meridian_model::error::{ErrorCode, FieldError, Problem, QuotaShortage};

use crate::support::{Gateway, Options, Reply, raw, until};

fn answering(answer: impl Fn(&Operation) -> Option<Result<Outcome, Refusal>> + Send + Sync + 'static) -> Options {
    Options { answer: Some(Arc::new(answer)), ..Options::default() }
}

/// The layers of a stack as its builder names them, top first.
fn layers(source: &str) -> Vec<String> {
    let (_, builder) = source.split_once("ServiceBuilder::new()").expect("the stack is built with ServiceBuilder");
    let builder = builder.split(';').next().unwrap();
    let called = builder.lines().filter_map(|l| {
        let line = l.trim();
        line.strip_prefix(".layer(").or_else(|| line.strip_prefix(".service("))
    });
    called.map(|l| l.chars().take_while(|c| c.is_alphanumeric() || "._".contains(*c)).collect()).collect()
}

#[tokio::test]
async fn the_three_stacks_have_their_order() {
    let http = Gateway::usual().await.order.join("\n");
    let operation = layers(include_str!("../../src/operation/mod.rs"));
    let region = layers(include_str!("../../src/regions/mod.rs"));
    assert_eq!(operation.len(), meridian_gateway::operation::STAGES.len());
    assert_eq!(region.len(), meridian_gateway::regions::STAGES.len() + 1, "the adapter is at the bottom");
    insta::assert_snapshot!(format!(
        "HTTP\n{http}\n\noperation\n{}\n\nregion\n{}",
        operation.join("\n"),
        region.join("\n")
    ));
}

#[tokio::test]
async fn wrong_credentials_are_all_refused_alike() {
    let gateway = Gateway::usual().await;
    let mut bodies = Vec::new();
    let mut typo = gateway.acme.clone();
    typo.replace_range(20..21, if &typo[20..21] == "a" { "b" } else { "a" });
    let entropy = meridian_gateway::clock::Entropy::from_fn(|| 99);
    let stranger = meridian_gateway::http::authenticate::mint("test", "nobody", &entropy);
    let forged = meridian_gateway::http::authenticate::mint("test", "acme-1", &entropy);
    let text =
        |k: &meridian_gateway::http::authenticate::MintedKey| secrecy::ExposeSecret::expose_secret(&k.key).to_owned();
    for key in [typo.as_str(), &text(&stranger), &text(&forged), "", "x"] {
        let reply = gateway.send_as(key, "GET /v1/tenants", &[("x-request-id", "r1")], b"").await;
        assert_eq!((reply.status, reply.code().as_str()), (401, "unauthenticated"), "{key}");
        assert!(reply.header("ratelimit").is_none());
        if key.len() > 1 {
            bodies.push(reply.body);
        }
    }
    assert!(bodies.windows(2).all(|w| w[0] == w[1]), "every wrong key looks the same");
    for headers in [
        vec![],
        vec![("authorization", "Basic abc")],
        vec![("authorization", "Bearer a"), ("authorization", "Bearer b")],
    ] {
        let reply = raw(gateway.api, "GET /v1/tenants", &headers, b"").await;
        assert_eq!(reply.status, 401);
        assert_eq!(reply.header("www-authenticate"), Some("Bearer realm=\"meridian\""));
    }
    assert!(gateway.actions().is_empty(), "nothing reached the operation stack");
    let reply = raw(gateway.api, "GET /v1/tenants", &[("x-request-id", "r1")], b"").await;
    insta::assert_snapshot!(reply.shown());
}

#[tokio::test]
async fn a_foreign_instance_is_the_same_bytes_as_a_missing_one() {
    let gateway = Gateway::usual().await;
    let mut bodies: Vec<(u16, Vec<u8>)> = Vec::new();
    for path in [
        "/v1/tenants/acme/instances/missing",
        "/v1/tenants/lab/instances/web-1",
        "/v1/tenants/nobody/instances/web-1",
        "/v1/tenants/acme/instances/Not_A_Name",
        "/v1/tenants/acme/instances/%ff",
        "/v1/tenants/UPPER/instances/web-1",
        "/v1/nothing",
        "/",
    ] {
        let reply = gateway.get(path).await;
        bodies.push((reply.status, reply.body.clone()));
        assert_eq!(reply.header("meridian-problem-instance"), Some(path));
        assert!(reply.header("x-request-id").is_some());
    }
    assert!(bodies.windows(2).all(|w| w[0] == w[1]), "{bodies:?}");
    insta::assert_snapshot!(gateway.get("/v1/tenants/lab/instances/web-1").await.json().to_string());
}

#[tokio::test]
async fn a_wrong_method_names_the_right_ones() {
    let gateway = Gateway::usual().await;
    let reply = gateway.send("PUT /v1/tenants/acme/instances/web-1", &[("x-request-id", "r1")], b"").await;
    insta::assert_snapshot!(reply.shown());
    assert_eq!(gateway.send("POST /v1/regions", &[], b"").await.header("allow"), Some("GET, HEAD"));
}

#[tokio::test]
async fn request_ids_come_in_and_go_out() {
    let gateway = Gateway::usual().await;
    let reply = gateway.send("GET /v1/x", &[("x-request-id", "mine-1")], b"").await;
    assert_eq!(reply.header("x-request-id"), Some("mine-1"));
    for bad in ["", " ", &"x".repeat(65), "a b"] {
        let reply = gateway.send("GET /v1/x", &[("x-request-id", bad)], b"").await;
        let made = reply.header("x-request-id").unwrap();
        assert!(made.starts_with("req_") && made.len() == 36, "{bad:?} gave {made}");
    }
    let reply = gateway.create("", &[("x-request-id", "mine-2")], "{").await;
    assert_eq!(reply.json()["requestId"], "mine-2");
}

#[tokio::test]
async fn get_one_sends_the_rendered_bytes_with_their_etag() {
    let gateway = Gateway::usual().await;
    let reply = gateway.get("/v1/tenants/acme/instances/web-1").await;
    insta::assert_snapshot!("get_one", Reply { headers: without_ids(&reply), ..reply.clone() }.shown());
    let head = gateway.send("HEAD /v1/tenants/acme/instances/web-1", &[], b"").await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), reply.header("content-length"));
    for tag in ["\"e1\"", "W/\"e1\"", "\"x\", \"e1\"", "*"] {
        let same = gateway.send("GET /v1/tenants/-/instances/web-1", &[("if-none-match", tag)], b"").await;
        assert_eq!((same.status, same.body.len(), same.header("etag")), (304, 0, Some("\"e1\"")), "{tag}");
    }
    let other = gateway.send("GET /v1/tenants/acme/instances/web-1", &[("if-none-match", "\"e2\"")], b"").await;
    assert_eq!(other.status, 200);
}

fn without_ids(reply: &Reply) -> std::collections::BTreeMap<String, String> {
    let mut headers = reply.headers.clone();
    headers.remove("x-request-id");
    headers
}

#[tokio::test]
async fn a_tenant_over_its_rate_is_told_when_to_come_back() {
    let rate = "{ requestsPerMinute = 60, burst = 3, createsPerMinute = 6, createBurst = 1 }".to_owned();
    let gateway = Gateway::start(Options { rate, ..Options::default() }).await;
    let headers = [("x-request-id", "r1")];
    for left in ["\"tenant\";r=2;t=1", "\"tenant\";r=1;t=2", "\"tenant\";r=0;t=3"] {
        let reply = gateway.get("/v1/tenants/acme/instances/web-1").await;
        assert_eq!(reply.header("ratelimit"), Some(left));
    }
    let refused = gateway.send("GET /v1/tenants/acme/instances/web-1", &headers, b"").await;
    insta::assert_snapshot!(refused.shown());
    let lab = gateway.send_as(&gateway.lab, "GET /v1/x", &[], b"").await;
    assert_eq!(lab.status, 404, "another tenant is not held back");
    gateway.now.fetch_add(3000, std::sync::atomic::Ordering::Relaxed);
    let body = r#"{"name":"a","spec":{"containers":[]}}"#;
    let first = gateway.create("", &[], body).await;
    assert_eq!((first.status, first.header("ratelimit")), (201, Some("\"create\";r=0;t=10")));
    let second = gateway.create("", &[], body).await;
    assert_eq!(second.status, 429);
    assert_eq!(second.json()["violated-policies"][0], "create");
    assert_eq!(
        gateway.get("/v1/tenants/acme/instances/web-1").await.status,
        200,
        "a refused create costs nothing else"
    );
    assert!(gateway.metrics.render().contains("meridian_rate_limited_total{limit=\"create\"} 1"));
}

#[tokio::test]
async fn named_limits_have_costs_and_a_shadow_only_counts() {
    let rate = "{}\n[[tenants.limits]]\nname = \"lists\"\nper = \"principal\"\nclass = [\"list\", \"read\"]\nquota = 7\n\
                window = \"10s\"\ncost = { list = 3 }\n\
                [[tenants.limits]]\nname = \"tried\"\nquota = 1\nshadow = true\n";
    let gateway = Gateway::start(Options { rate: rate.to_owned(), ..Options::default() }).await;
    let list = || gateway.get("/v1/tenants/acme/instances");
    let first = list().await;
    let policy = "\"tenant\";q=600;w=60, \"create\";q=60;w=60, \"lists\";q=7;w=10";
    assert_eq!((first.status, first.header("ratelimit-policy")), (200, Some(policy)));
    assert_eq!(first.header("ratelimit"), Some("\"lists\";r=4;t=5"));
    assert_eq!(list().await.header("ratelimit"), Some("\"lists\";r=1;t=9"));
    let refused = list().await;
    assert_eq!((refused.status, refused.json()["violated-policies"][0].as_str()), (429, Some("lists")));
    let read = gateway.get("/v1/tenants/acme/instances/web-1").await;
    assert_eq!((read.status, read.header("ratelimit")), (200, Some("\"lists\";r=0;t=10")), "a read costs less");
    // The first request was within the limit in shadow; of those after it the one that was refused is not counted.
    let metrics = gateway.metrics.render();
    assert!(metrics.contains("meridian_rate_shadowed_total{limit=\"tried\"} 2"), "{metrics}");
    assert!(metrics.contains("meridian_rate_limited_total{limit=\"lists\"} 1"));
}

#[tokio::test]
async fn a_full_gateway_sheds_but_not_deletes_and_health() {
    let server = "[server]\nlimits = { inFlightMax = 1 }".to_owned();
    let gateway = Gateway::start(Options { server, stuck: true, ..Options::default() }).await;
    let stuck = gateway.send("GET /v1/tenants/acme/instances/web-1", &[], b"");
    tokio::pin!(stuck);
    tokio::select! {
        _ = &mut stuck => panic!("answered"),
        () = until("the first request is in work", || gateway.metrics.in_flight.get() == 1) => {}
    }
    let refused = gateway.send("GET /v1/tenants/acme/instances/web-2", &[("x-request-id", "r1")], b"").await;
    insta::assert_snapshot!(refused.shown());
    assert_eq!(raw(gateway.api, "GET /healthz", &[], b"").await.status, 200);
    let delete = gateway.send("DELETE /v1/tenants/acme/instances/web-1", &[("x-request-timeout-ms", "50")], b"").await;
    assert_eq!(delete.status, 504, "it was let in and met the stuck stack");
}

#[tokio::test]
async fn deadlines_end_the_waiting_and_say_what_is_known() {
    let gateway = Gateway::start(Options { stuck: true, ..Options::default() }).await;
    let headers = [("x-request-timeout-ms", "30"), ("x-request-id", "r1")];
    let read = gateway.send("GET /v1/tenants/acme/instances/web-1", &headers, b"").await;
    assert_eq!((read.status, read.json().get("outcome")), (504, None));
    let create = gateway.create("", &headers, r#"{"name":"a","spec":{"containers":[]}}"#).await;
    insta::assert_snapshot!(create.shown());
    for bad in ["0", "-1", "x", "120001", "1.5"] {
        let reply = gateway.send("GET /v1/tenants", &[("x-request-timeout-ms", bad)], b"").await;
        assert_eq!((reply.status, reply.code().as_str()), (400, "invalid-argument"), "{bad}");
    }
}

#[tokio::test]
async fn the_operation_stack_sees_the_deadline_and_the_caller() {
    let gateway = Gateway::start(answering(|operation| {
        let left = operation.deadline.saturating_duration_since(tokio::time::Instant::now());
        assert!(left <= Duration::from_millis(700) && left > Duration::from_millis(100), "{left:?}");
        assert_eq!(operation.caller.scope_name(), "acme");
        assert_eq!(operation.caller.principal, "key:acme-1");
        assert_eq!(&*operation.request_id, "r1");
        None
    }))
    .await;
    let headers = [("x-request-timeout-ms", "700"), ("x-request-id", "r1")];
    assert_eq!(gateway.send("GET /v1/tenants/acme/instances/web-1", &headers, b"").await.status, 200);
}

#[tokio::test]
async fn a_panic_is_a_problem_and_the_gateway_lives() {
    let gateway = Gateway::start(answering(|o| match o.action {
        Action::ListRegions => panic!("canary"),
        _ => None,
    }))
    .await;
    let reply = gateway.send("GET /v1/regions", &[("x-request-id", "r1")], b"").await;
    insta::assert_snapshot!(reply.shown());
    assert!(!String::from_utf8_lossy(&reply.body).contains("canary"));
    assert_eq!(gateway.get("/v1/tenants/acme/instances/web-1").await.status, 200);
    assert!(gateway.metrics.render().contains("meridian_panics_total 1"));
}

#[tokio::test]
async fn refusals_of_the_operation_stack_keep_all_they_say() {
    let gateway = Gateway::start(answering(|o| {
        let refused = |p: Problem| Some(Err(Refusal::from(p)));
        match &o.action {
            Action::GetQuota(_) => {
                let mut problem = Problem::new(ErrorCode::QuotaExceeded, "the quota of instances does not hold it");
                problem.quota = Some(Box::new(QuotaShortage {
                    dimension: "instances".to_owned(),
                    limit: "10".to_owned(),
                    used: "10".to_owned(),
                    requested: "1".to_owned(),
                    ..QuotaShortage::default()
                }));
                refused(problem)
            }
            Action::ListTenants(_) => {
                let mut problem = Problem::new(ErrorCode::DeadlineExceeded, "still being placed");
                problem.operation = Some(meridian_model::ids::OperationId::new("op1").unwrap());
                let mut refusal = Refusal::from(problem);
                refusal.key = Some(Arc::from("k1"));
                refusal.replayed = true;
                refusal.internal = Some("canary".to_owned());
                Some(Err(refusal))
            }
            Action::ListRegions => refused(Problem::new(ErrorCode::NoCapacity, "sold out")),
            _ => None,
        }
    }))
    .await;
    let mut shown = String::new();
    for path in ["/v1/tenants/acme/quotas/default", "/v1/tenants", "/v1/regions"] {
        let reply = gateway.send(&format!("GET {path}"), &[("x-request-id", "r1")], b"").await;
        shown += &format!("{path}\n{}\n\n", reply.shown());
    }
    assert!(!shown.contains("canary"));
    insta::assert_snapshot!(shown);
}

#[tokio::test]
async fn public_routes_need_no_key() {
    let gateway = Gateway::usual().await;
    for path in ["/healthz", "/readyz", "/version", "/openapi.json"] {
        assert_eq!(raw(gateway.api, &format!("GET {path}"), &[], b"").await.status, 200, "{path}");
    }
    gateway.health.depend_on("ledger", || Err("gone".to_owned()));
    assert_eq!(raw(gateway.api, "GET /readyz", &[], b"").await.status, 503);
}

#[tokio::test]
async fn every_route_but_the_public_ones_needs_a_key() {
    let gateway = Gateway::usual().await;
    for entry in meridian_gateway::dialects::rest::ROUTES {
        for (method, _, class) in entry.methods {
            let path = entry.path.replace("{tenant}", "acme").replace("{instance}", "web-1").replace(['{', '}'], "");
            let status = raw(gateway.api, &format!("{method} {path}"), &[], b"").await.status;
            let public = *class == meridian_gateway::dialects::Class::Public;
            assert_eq!(status, if public { 200 } else { 401 }, "{method} {path}");
        }
    }
    assert!(gateway.actions().is_empty());
}

#[tokio::test]
async fn the_metrics_have_their_catalogue() {
    let gateway = Gateway::usual().await;
    gateway.get("/v1/tenants/acme/instances/web-1").await;
    let text = gateway.metrics.render();
    let catalogue: Vec<&str> = text.lines().filter(|l| l.starts_with("# ")).collect();
    insta::assert_snapshot!(catalogue.join("\n"));
}

#[tokio::test]
async fn what_policies_warn_of_is_in_the_headers() {
    let warned =
        |text: &str| FieldError { pointer: "/labels".to_owned(), detail: text.to_owned(), ..FieldError::default() };
    let gateway = Gateway::start(answering(move |_| {
        let warnings = vec![warned("no \"team\", caf\u{e9}\r\nX-Evil: 1")];
        Some(Ok(Outcome::Warned(Box::new(Outcome::Deleted), warnings)))
    }))
    .await;
    let reply = gateway.send("DELETE /v1/tenants/acme/instances/web", &[], b"").await;
    assert_eq!(reply.status, 204);
    assert_eq!(reply.header("warning"), Some("299 - \"/labels: no \\\"team\\\", caf???X-Evil: 1\""));
    assert_eq!(reply.header("x-evil"), None);
}
