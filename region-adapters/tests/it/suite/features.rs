//! Every declared feature is used against the cloud, and every other one is listed as missing.

use std::collections::BTreeSet;

use meridian_adapters::{http::HttpClient, registry};
use meridian_model::{
    capability::{Feature, used_by},
    status::Observed,
};
use serde_json::{Value, json};

use super::{Cloud, Harness, spec_of};

macro_rules! features {
    ($($feature:ident => $patch:tt),+ $(,)?) => {
        /// Every feature of the model with a spec that uses it.
        fn uses() -> Vec<(Feature, Value)> {
            vec![$((Feature::$feature, json!($patch))),+]
        }

        /// A feature that is new in the model breaks this match until it is added above.
        const fn _is_listed(feature: Feature) {
            match feature { $(Feature::$feature => ()),+ }
        }
    };
}

features! {
    InitContainers => {"initContainers": [{"name": "prepare", "image": "registry.example/p:1", "command": ["true"]}]},
    EmptyDir => {"volumes": [{"name": "v", "emptyDir": {}}], "container": {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}},
    EmptyDirMemory => {"volumes": [{"name": "v", "emptyDir": {"medium": "Memory"}}], "container": {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}},
    EmptyDirSizeLimit => {"volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}], "container": {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}},
    Nfs => {"volumes": [{"name": "v", "nfs": {"server": "10.0.0.9", "path": "/export"}}], "container": {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}},
    Disk => {"volumes": [{"name": "v", "disk": {"diskId": "disk-1"}}], "container": {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}},
    DiskFsType => {"volumes": [{"name": "v", "disk": {"diskId": "disk-1", "fsType": "ext4"}}], "container": {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}},
    ConfigFile => {"volumes": [{"name": "v", "configFile": {"items": [{"path": "a.conf", "content": "level = 1", "mode": 256}]}}], "container": {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}},
    SubPath => {"volumes": [{"name": "v", "nfs": {"server": "10.0.0.9", "path": "/"}}], "container": {"volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": "a"}]}},
    MountPropagation => {"volumes": [{"name": "v", "nfs": {"server": "10.0.0.9", "path": "/"}}], "container": {"volumeMounts": [{"name": "v", "mountPath": "/v", "mountPropagation": "HostToContainer"}]}},
    Ports => {"container": {"ports": [{"name": "http", "containerPort": 8080}]}},
    PullAlways => {"container": {"imagePullPolicy": "Always"}},
    PullNever => {"container": {"imagePullPolicy": "Never"}},
    PullSecrets => {"imagePullSecrets": [{"name": "team"}]},
    Probes => {"container": {"ports": [{"name": "http", "containerPort": 8080}],
        "livenessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 9}, "readinessProbe": {"exec": {"command": ["true"]}}}},
    StartupProbe => {"container": {"startupProbe": {"tcpSocket": {"port": 8080}}}},
    ProbeHost => {"container": {"livenessProbe": {"tcpSocket": {"port": 8080, "host": "10.0.0.1"}}}},
    ProbeHeaders => {"container": {"livenessProbe": {"httpGet": {"port": 8080, "httpHeaders": [{"name": "X-A", "value": "b"}]}}}},
    Lifecycle => {"container": {"lifecycle": {"postStart": {"exec": {"command": ["true"]}}, "preStop": {"exec": {"command": ["true"]}}}}},
    RunAsUser => {"container": {"securityContext": {"runAsUser": 1000}}},
    RunAsGroup => {"container": {"securityContext": {"runAsGroup": 1000}}},
    RunAsNonRoot => {"container": {"securityContext": {"runAsNonRoot": true}}},
    ReadOnlyRootFilesystem => {"container": {"securityContext": {"readOnlyRootFilesystem": true}}},
    Privileged => {"container": {"securityContext": {"privileged": false}}},
    CapabilitiesAdd => {"container": {"securityContext": {"capabilities": {"add": ["NET_ADMIN"]}}}},
    CapabilitiesDrop => {"container": {"securityContext": {"capabilities": {"drop": ["NET_RAW"]}}}},
    InitSecurityExtras => {"initContainers": [{"name": "prepare", "image": "registry.example/p:1", "command": ["true"], "securityContext": {"runAsNonRoot": true}}]},
    Terminal => {"container": {"stdin": true, "tty": true}},
    TerminationGrace => {"terminationGracePeriodSeconds": 20},
    ActiveDeadline => {"activeDeadlineSeconds": 3600},
    DnsPolicy => {"dnsPolicy": "Default"},
    DnsConfig => {"dnsConfig": {"nameservers": ["10.0.0.53"], "searches": ["svc.local"], "options": [{"name": "ndots", "value": "2"}]}},
    HostAliases => {"hostAliases": [{"ip": "10.0.0.8", "hostnames": ["db.local"]}]},
    Hostname => {"hostname": "web"},
    Windows => {"os": {"name": "windows"}},
    Arm64 => {"architecture": "arm64"},
    Gpu => {"gpuType": "T4", "container": {"resources": {"limits": {"nvidia.com/gpu": 1}}}},
    EphemeralStorage => {"resources": {"limits": {"ephemeral-storage": "40Gi"}}},
    PublicIp => {"network": {"publicIp": {}}},
    PublicIpBandwidth => {"network": {"publicIp": {"bandwidthMbps": 5}}},
    Spot => {"capacity": {"type": "spot"}},
    ClientToken => {},
    Tags => {},
}

/// Every feature of the model.
pub(crate) fn all() -> impl Iterator<Item = Feature> {
    uses().into_iter().map(|(feature, _)| feature)
}

/// Where the vendor shows a feature, it is seen.
#[expect(clippy::wildcard_enum_match_arm, reason = "the others are not visible in the model's status")]
fn is_visible(feature: Feature, seen: &Observed, call: &meridian_adapters::CreateCall) -> bool {
    match feature {
        Feature::InitContainers | Feature::InitSecurityExtras => seen.containers.iter().any(|c| c.init),
        Feature::PublicIp | Feature::PublicIpBandwidth => seen.public_ip.is_some(),
        Feature::Gpu => seen.shape.gpu_count == 1 && seen.shape.gpu_type.as_deref() == Some("T4"),
        Feature::Tags => call.marks.iter().all(|(k, v)| seen.tags.get(k) == Some(v)),
        _ => true,
    }
}

pub(crate) async fn every_declared_feature(cloud: Cloud) {
    let capability = std::sync::Arc::clone(&cloud.backend.capability);
    let mut tried = 0;
    for (i, (feature, patch)) in uses().into_iter().enumerate() {
        let spec = spec_of(&patch);
        let in_spec = !matches!(feature, Feature::ClientToken | Feature::Tags);
        assert_eq!(used_by(&spec).iter().any(|(f, _)| *f == feature), in_spec, "{feature:?} is what the spec uses");
        // A spec may use several features, such as a sub-path of a share.
        if !capability.has(feature) || !capability.refusals(&spec).is_empty() {
            assert!(!capability.has(feature), "{feature:?} is declared, yet {:?}", capability.refusals(&spec));
            continue;
        }
        tried += 1;
        let call = cloud.create_call(&format!("feature-{i}"), &patch);
        let id = cloud.create_with(call.clone()).await.unwrap_or_else(|e| panic!("{feature:?}: {e}"));
        let seen = cloud.running(&id).await;
        assert!(is_visible(feature, &seen, &call), "{feature:?} is not seen in {seen:?}");
        cloud.delete(&id).await.unwrap();
        cloud.gone(&id).await;
    }
    assert_eq!(tried, capability.features.len());
    assert!(tried > 0);
}

/// The skips file names every missing feature and every case that cannot run, and nothing else.
pub(crate) fn check_skips(harness: Harness, cases: &[&str]) {
    let listed = harness.skipped();
    let backend = meridian_cloudsim::BackendInfo {
        vendor: harness.vendor,
        url: "http://127.0.0.1:1".to_owned(),
        key_id: "id".to_owned(),
        key_secret: "secret".to_owned(),
        region: "region-1".to_owned(),
        account: "account".to_owned(),
        zones: Vec::new(),
        vpc_id: "vpc-1".to_owned(),
        security_group_id: "sg-1".to_owned(),
    };
    let settings = (harness.settings)(&backend, "secret");
    let capability = registry::build(harness.name, settings, HttpClient::new().unwrap()).unwrap().capability;
    let missing: BTreeSet<&str> =
        uses().into_iter().filter(|(f, _)| !capability.has(*f)).map(|(f, _)| f.as_str()).collect();
    let may_skip = |case: &&str| match *case {
        "client_token_replay" => !capability.has(Feature::ClientToken),
        "spot_reclaim" => !capability.has(Feature::Spot),
        // Whether a vendor shows its zones, usage and prices is not part of the capability.
        // `what_is_skipped_is_missing` holds them against the adapter.
        "zones" | "usage" | "price" => true,
        _ => false,
    };
    let skipped_cases: BTreeSet<&str> = cases.iter().copied().filter(|c| listed.contains(c)).collect();
    assert!(skipped_cases.iter().all(may_skip), "a case may not be skipped: {skipped_cases:?}");
    assert!(cases.len() > skipped_cases.len(), "a suite that runs nothing proves nothing");
    let allowed: BTreeSet<&str> = missing.union(&skipped_cases).copied().collect();
    let file = harness.name;
    assert_eq!(listed, allowed, "conformance/{file}.skips holds exactly the missing features and skipped cases");
}
