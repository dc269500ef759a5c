//! ECI against the simulated Alibaba Cloud.

use meridian_adapters::{PriceQuery, Reply, Request};
use meridian_cloudsim::{BackendInfo, Scenario, core::Vendor};
use meridian_model::{
    error::FaultKind,
    instance::{CapacityType, Shape},
    quantity::{MemoryMib, MilliCpu, PricePerHour},
    status::ObservedPhase,
};
use serde_json::{Value, json};

use crate::suite::{Cloud, Harness, conformance};

const HARNESS: Harness = Harness {
    name: "alibaba-eci",
    vendor: Vendor::AlibabaEci,
    settings,
    token: "securityToken",
    create_action: "CreateContainerGroup",
    list_action: "DescribeContainerGroups",
    page_size: 20,
    skips: include_str!("../../conformance/alibaba-eci.skips"),
};

fn settings(backend: &BackendInfo, secret: &str) -> Value {
    json!({
        "endpoint": backend.url,
        "region": backend.region,
        "accessKeyId": backend.key_id,
        "accessKeySecret": secret,
        "effectBoundMs": 2_000,
    })
}

conformance!(HARNESS);

/// More than a query string holds: the parameters travel as a form, and the body is covered by the signature.
#[tokio::test]
async fn a_large_create_travels_as_a_form() {
    let cloud = Cloud::start(HARNESS).await;
    let file = |i: usize| json!({"path": format!("f{i}"), "content": "x".repeat(20_000)});
    let spec = json!({
        "volumes": [{"name": "v", "configFile": {"items": [file(0), file(1), file(2)]}}],
        "container": {"volumeMounts": [{"name": "v", "mountPath": "/v"}]},
    });
    let id = cloud.create_with(cloud.create_call("large", &spec)).await.unwrap();
    assert_eq!(cloud.running(&id).await.phase, ObservedPhase::Running);
}

/// The marks are tags as well, and in every container.
#[tokio::test]
async fn marks_are_tags_and_variables() {
    let cloud = Cloud::start(HARNESS).await;
    let call =
        cloud.create_call("marked", &json!({"container": {"env": [{"name": "MERIDIAN_OP", "value": "forged"}]}}));
    let id = cloud.create_with(call.clone()).await.unwrap();
    let seen = cloud.running(&id).await;
    assert_eq!((&seen.tags, &seen.marks), (&call.marks, &call.marks));
    let [truth] = &cloud.truth().await[..] else { panic!("one instance") };
    assert_eq!(truth["env"]["MERIDIAN_OP"], "op-marked");
}

/// The same token for another wish is refused, and in doubt: the first may have been made under it.
#[tokio::test]
async fn a_token_used_for_something_else_is_in_doubt() {
    let cloud = Cloud::start(HARNESS).await;
    let first = cloud.create_call("first", &json!({}));
    cloud.create_with(first.clone()).await.unwrap();
    let mut second = cloud.create_call("second", &json!({}));
    second.token = first.token;
    let error = cloud.create_with(second).await.unwrap_err();
    assert_eq!((error.kind, error.code.as_str()), (FaultKind::BadRequest, "IdempotentParameterMismatch"));
    assert_eq!(error.effect, meridian_model::error::Effect::Unknown);
    assert_eq!(cloud.truth().await.len(), 1);
}

/// Zones name the GPU families that the cloud has in stock.
#[tokio::test]
async fn zones_name_gpu_families() {
    let cloud = Cloud::start(HARNESS).await;
    let Reply::Zones(Some(zones)) = cloud.call(Request::Zones).await.unwrap() else { panic!("no zones") };
    assert!(zones.iter().all(|z| z.sizes == ["ecs.gn6i", "ecs.gn6v", "ecs.gn7i"]), "{zones:?}");
}

/// The vendor quotes full prices per second and spot prices per hour; both come out per hour.
#[tokio::test]
async fn prices_are_per_hour_in_every_zone() {
    /// A second's price has eight decimals, so an hour's is off by this many millionths at most.
    const ROUNDING: u64 = 100;
    let cloud = Cloud::start(HARNESS).await;
    let scenario = Scenario::demo(7);
    let region = scenario.regions.iter().find(|r| r.region == cloud.info.region).unwrap();
    for zone in &region.zones {
        for (capacity, factor) in [(CapacityType::OnDemand, 1.0), (CapacityType::Spot, zone.spot_factor)] {
            let shape = Shape { cpu: MilliCpu(2000), memory: MemoryMib(4096), gpu_type: None, gpu_count: 0 };
            let query = PriceQuery { zone: zone.zone.parse().unwrap(), shape, capacity };
            let Reply::Price(Some(PricePerHour(micros))) = cloud.call(Request::Price(query)).await.unwrap() else {
                panic!("no price in {}", zone.zone)
            };
            let want = (2.0 * zone.price_vcpu_hour + 4.0 * zone.price_gib_hour) * factor;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a price below ten")]
            let want = (want * 1e6).round() as u64;
            assert!(micros.abs_diff(want) <= ROUNDING, "{capacity:?} in {}: {micros}, not {want}", zone.zone);
        }
    }
}
