//! EKSCI against the simulated Tencent.

use meridian_cloudsim::{BackendInfo, core::Vendor};
use serde_json::{Value, json};

use crate::suite::{Harness, conformance};

const HARNESS: Harness = Harness {
    name: "tencent-eksci",
    vendor: Vendor::TencentEksci,
    settings,
    token: "token",
    create_action: "CreateEKSContainerInstances",
    list_action: "DescribeEKSContainerInstances",
    page_size: 100,
    skips: include_str!("../../conformance/tencent-eksci.skips"),
};

fn settings(backend: &BackendInfo, secret: &str) -> Value {
    let zones: serde_json::Map<_, _> =
        backend.zones.iter().map(|z| (z.subnet_id.clone(), Value::from(z.zone.clone()))).collect();
    json!({
        "endpoint": backend.url,
        "region": backend.region,
        "secretId": backend.key_id,
        "secretKey": secret,
        "subnetZones": zones,
        "effectBoundMs": 2_000,
    })
}

conformance!(HARNESS);

/// The table of `docs.md` says of every feature what the adapter says.
#[tokio::test]
async fn the_documented_capabilities_are_the_real_ones() {
    const DOCS: &str = include_str!("../../src/tencent_eksci/docs.md");
    let cloud = crate::suite::Cloud::start(HARNESS).await;
    for feature in crate::suite::features::all() {
        let support = match cloud.backend.capability.features.get(&feature) {
            Some(meridian_model::capability::Support::Native) => "native",
            Some(meridian_model::capability::Support::Implied(_)) => "implied",
            None => "missing",
        };
        let row = format!("| `{}` | {support} |", feature.as_str());
        assert!(DOCS.contains(&row), "docs.md lacks the row {row}");
    }
}
