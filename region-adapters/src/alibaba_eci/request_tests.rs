//! Tests of the request builder: exact parameters, refusals, names against the vendor's own table, and that
//! nothing of a spec is dropped.

use std::{collections::BTreeSet, sync::Arc};

use meridian_model::{
    ids::{ClientToken, SubnetId, ZoneId},
    instance::InstanceSpec,
};
use serde_json::{Value, json};

use super::{super::capability, *};
use crate::conformance::mapping;

fn region() -> RegionId {
    RegionId::new("cn-hangzhou").unwrap()
}

fn defaults() -> Vec<GpuSize> {
    GPU_SIZES_DEFAULT.iter().map(|size| (*size).into()).collect()
}

/// A capability as configured by default.
fn default_capability() -> Capability {
    capability(std::time::Duration::from_secs(1), defaults())
}

fn call(spec: Value) -> CreateCall {
    let spec: InstanceSpec = serde_json::from_value(spec).unwrap();
    let mut call = mapping::call_for(&spec).unwrap();
    edit(&mut call, |spec| spec.network.security_group_ids.truncate(1));
    call.shape = default_capability().round_up(&call.shape).unwrap_or(call.shape);
    call
}

fn edit(call: &mut CreateCall, change: impl FnOnce(&mut crate::ResolvedSpec)) {
    let mut spec = (*call.spec).clone();
    change(&mut spec);
    call.spec = Arc::new(spec);
}

fn built(spec: Value) -> Vec<(String, String)> {
    create(&region(), &default_capability(), &call(spec)).unwrap().0
}

fn value<'a>(params: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let mut hits = params.iter().filter(|(n, _)| n == name);
    let hit = hits.next().map(|(_, v)| v.as_str());
    assert!(hits.next().is_none(), "{name} is sent twice");
    hit
}

/// Each expected parameter is there; `None` expects its absence.
fn check(spec: Value, expected: &[(&str, Option<&str>)]) {
    let params = built(spec);
    for (name, want) in expected {
        assert_eq!(value(&params, name), *want, "{name} in {params:#?}");
    }
}

/// The builder refuses with this pointer, and nothing was sent.
fn check_refused(spec: Value, pointer: &str) {
    let error = create(&region(), &default_capability(), &call(spec)).unwrap_err();
    assert_eq!((error.kind, error.effect), (FaultKind::BadRequest, Effect::NotApplied));
    assert!(error.message.starts_with(&format!("{pointer}:")), "{error}");
}

#[test]
fn a_small_instance_in_full() {
    let mut params = built(json!({"containers": [{"name": "app", "image": "nginx:1"}]}));
    params.sort();
    let want = [
        ("ClientToken", "token-1"),
        ("Container.1.EnvironmentVar.1.Key", "MERIDIAN_OP"),
        ("Container.1.EnvironmentVar.1.Value", "op-1"),
        ("Container.1.Image", "nginx:1"),
        ("Container.1.Name", "app"),
        ("ContainerGroupName", "m1-dep-ten-op-1-00"),
        ("Cpu", "1.0"),
        ("Memory", "2.0"),
        ("RegionId", "cn-hangzhou"),
        ("RestartPolicy", "Always"),
        ("SecurityGroupId", "sg-1"),
        ("Tag.1.Key", "MERIDIAN_OP"),
        ("Tag.1.Value", "op-1"),
        ("VSwitchId", "subnet-1"),
        ("ZoneId", "zone-1"),
    ];
    let want: Vec<(String, String)> = want.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    assert_eq!(params, want);
}

#[test]
fn probes_hooks_and_rights() {
    let spec = json!({"containers": [{
        "name": "app", "image": "i", "command": ["sh", "-c"], "args": ["a b"], "workingDir": "/srv",
        "env": [{"name": "A", "value": ""}, {"name": "MERIDIAN_OP", "value": "forged"}],
        "imagePullPolicy": "Always", "stdin": true, "tty": true,
        "ports": [{"name": "http", "containerPort": 8080}, {"containerPort": 53, "protocol": "UDP"}],
        "resources": {"requests": {"cpu": "250m"}, "limits": {"cpu": "500m", "memory": "256Mi"}},
        "livenessProbe": {"httpGet": {"path": "/h", "port": "http", "scheme": "HTTPS"}, "periodSeconds": 5,
            "initialDelaySeconds": 1, "timeoutSeconds": 2, "successThreshold": 1, "failureThreshold": 4},
        "readinessProbe": {"exec": {"command": ["cat", "/ok"]}},
        "lifecycle": {
            "postStart": {"exec": {"command": ["touch", "x"]}},
            "preStop": {"httpGet": {"path": "/bye", "port": "http", "host": "h",
                "httpHeaders": [{"name": "N", "value": "V"}]}}},
        "securityContext": {"runAsUser": 1000, "runAsGroup": 1001, "runAsNonRoot": true, "privileged": false,
            "readOnlyRootFilesystem": true, "capabilities": {"add": ["NET_ADMIN", "SYS_TIME"]}},
    }]});
    let c = |field: &str| format!("Container.1.{field}");
    for (field, want) in [
        ("Command.2", Some("-c")),
        ("Arg.1", Some("a b")),
        ("WorkingDir", Some("/srv")),
        ("EnvironmentVar.1.Value", Some("")),
        ("EnvironmentVar.2.Key", Some("MERIDIAN_OP")),
        ("EnvironmentVar.2.Value", Some("op-1")),
        ("EnvironmentVar.3.Key", None),
        ("ImagePullPolicy", Some("Always")),
        ("Stdin", Some("true")),
        ("Tty", Some("true")),
        ("Port.1.Port", Some("8080")),
        ("Port.2.Protocol", Some("UDP")),
        ("Cpu", Some("0.5")),
        ("Memory", Some("0.25")),
        ("LivenessProbe.HttpGet.Port", Some("8080")),
        ("LivenessProbe.HttpGet.Scheme", Some("HTTPS")),
        ("LivenessProbe.FailureThreshold", Some("4")),
        ("ReadinessProbe.Exec.Command.2", Some("/ok")),
        ("LifecyclePostStartHandlerExec.1", Some("touch")),
        ("LifecyclePreStopHandlerHttpGetPort", Some("8080")),
        ("LifecyclePreStopHandlerHttpGetHost", Some("h")),
        ("LifecyclePreStopHandlerHttpGetHttpHeader.1.Value", Some("V")),
        ("SecurityContext.RunAsUser", Some("1000")),
        ("SecurityContextRunAsGroup", Some("1001")),
        ("SecurityContextRunAsNonRoot", Some("true")),
        ("SecurityContextPrivileged", Some("false")),
        ("SecurityContext.ReadOnlyRootFilesystem", Some("true")),
        ("SecurityContext.Capability.Add.2", Some("SYS_TIME")),
    ] {
        check(spec.clone(), &[(&c(field), want)]);
    }
}

#[test]
fn volumes_network_and_lifetime() {
    let spec = json!({
        "containers": [{"name": "app", "image": "i", "volumeMounts": [
            {"name": "cache", "mountPath": "/c", "readOnly": true, "subPath": "s",
             "mountPropagation": "HostToContainer"}]}],
        "volumes": [
            {"name": "cache", "emptyDir": {"medium": "Memory", "sizeLimit": "512Mi"}},
            {"name": "nas", "nfs": {"server": "s", "path": "/"}},
            {"name": "disk", "disk": {"diskId": "d-1", "fsType": "ext4"}},
            {"name": "conf", "configFile": {"defaultMode": 420,
                "items": [{"path": "a.conf", "content": "hello", "mode": 256}]}}],
        "terminationGracePeriodSeconds": 7, "activeDeadlineSeconds": 60, "hostname": "web",
        "dnsPolicy": "None",
        "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["x.y"], "options": [{"name": "ndots", "value": "2"}]},
        "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["a", "b"]}],
        "os": {"name": "windows"}, "architecture": "arm64", "restartPolicy": "Never",
        "network": {"publicIp": {"bandwidthMbps": 5}},
        "capacity": {"type": "spot", "maxPricePerHour": "0.0257"},
        "resources": {"limits": {"cpu": "2", "memory": "4Gi", "ephemeral-storage": "41Gi"}},
    });
    check(
        spec,
        &[
            ("Container.1.VolumeMount.1.ReadOnly", Some("true")),
            ("Container.1.VolumeMount.1.SubPath", Some("s")),
            ("Container.1.VolumeMount.1.MountPropagation", Some("HostToContainer")),
            ("Volume.1.Type", Some("EmptyDirVolume")),
            ("Volume.1.EmptyDirVolume.Medium", Some("Memory")),
            ("Volume.1.EmptyDirVolume.SizeLimit", Some("512Mi")),
            ("Volume.2.Type", Some("NFSVolume")),
            ("Volume.2.NFSVolume.ReadOnly", Some("false")),
            ("Volume.3.DiskVolume.DiskId", Some("d-1")),
            ("Volume.3.DiskVolume.FsType", Some("ext4")),
            ("Volume.4.ConfigFileVolume.ConfigFileToPath.1.Content", Some("aGVsbG8=")),
            ("Volume.4.ConfigFileVolume.ConfigFileToPath.1.Mode", Some("0400")),
            ("Volume.4.ConfigFileVolume.DefaultMode", Some("0644")),
            ("TerminationGracePeriodSeconds", Some("7")),
            ("ActiveDeadlineSeconds", Some("60")),
            ("HostName", Some("web")),
            ("DnsPolicy", Some("None")),
            ("DnsConfig.NameServer.1", Some("1.1.1.1")),
            ("DnsConfig.Option.1.Value", Some("2")),
            ("HostAliase.1.Hostname.2", Some("b")),
            ("OsType", Some("Windows")),
            ("CpuArchitecture", Some("ARM64")),
            ("RestartPolicy", Some("Never")),
            ("AutoCreateEip", Some("true")),
            ("EipBandwidth", Some("5")),
            ("SpotStrategy", Some("SpotWithPriceLimit")),
            ("SpotPriceLimit", Some("0.025")),
            ("EphemeralStorage", Some("11")),
            ("Cpu", Some("2.0")),
            ("Memory", Some("4.0")),
        ],
    );
}

#[test]
fn gpus_are_bought_by_instance_type() {
    let of = |count: u32| {
        json!({"gpuType": "t4", "containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i",
            "resources": {"limits": {"nvidia.com/gpu": count}}}]})
    };
    check(
        of(1),
        &[
            ("InstanceType", Some("ecs.gn6i-c4g1.xlarge")),
            ("Cpu", None),
            ("Memory", None),
            ("Container.1.Gpu", None),
            ("Container.2.Gpu", Some("1")),
        ],
    );
    check(of(4), &[("InstanceType", Some("ecs.gn6i-c24g1.24xlarge")), ("Container.2.Gpu", Some("4"))]);
    // Asked for on the instance alone, the GPUs go to the first container: without one nobody could use them.
    let own = json!({"gpuType": "V100", "containers": [{"name": "a", "image": "i"}],
        "resources": {"limits": {"nvidia.com/gpu": 1, "cpu": "8"}}});
    check(own, &[("InstanceType", Some("ecs.gn6v-c8g1.2xlarge")), ("Container.1.Gpu", Some("1"))]);
    check_refused(
        json!({"gpuType": "H800", "containers": [{"name": "a", "image": "i",
            "resources": {"limits": {"nvidia.com/gpu": 1}}}]}),
        "/spec/resources",
    );
}

#[test]
fn spot_and_storage_borders() {
    let with = |capacity: Value| json!({"containers": [{"name": "a", "image": "i"}], "capacity": capacity});
    check(with(json!({"type": "spot"})), &[("SpotStrategy", Some("SpotAsPriceGo")), ("SpotPriceLimit", None)]);
    check(with(json!({"type": "onDemand"})), &[("SpotStrategy", None)]);
    check(with(json!({"type": "spot", "maxPricePerHour": "0.001"})), &[("SpotPriceLimit", Some("0.001"))]);
    check_refused(with(json!({"type": "spot", "maxPricePerHour": "0.0009"})), "/spec/capacity/maxPricePerHour");
    check_refused(with(json!({"maxPricePerHour": "1"})), "/spec/capacity/maxPricePerHour");

    let storage = |gib: u64| {
        json!({"containers": [{"name": "a", "image": "i", "resources":
            {"requests": {"ephemeral-storage": format!("{gib}Gi")}}}]})
    };
    check(storage(30), &[("EphemeralStorage", Some("0"))]);
    check(storage(31), &[("EphemeralStorage", Some("1"))]);
    check(storage(5030), &[("EphemeralStorage", Some("5000"))]);
    check_refused(storage(5031), "/spec/resources/limits/ephemeral-storage");
}

#[test]
fn what_depends_on_values_is_refused_by_pointer() {
    let container = |extra: Value| {
        let mut c = json!({"name": "a", "image": "i"});
        c.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        c
    };
    check_refused(
        json!({"containers": [container(json!({"livenessProbe": {"tcpSocket": {"port": "nope"}}}))]}),
        "/spec/containers/0/livenessProbe/tcpSocket/port",
    );
    check_refused(
        json!({"containers": [container(json!({"ports": [{"containerPort": 1, "protocol": "SCTP"}]}))]}),
        "/spec/containers/0/ports/0/protocol",
    );
    for field in ["livenessProbe", "readinessProbe"] {
        let init = container(json!({field: {"tcpSocket": {"port": 1}}}));
        let pointer = format!("/spec/initContainers/0/{field}");
        check_refused(json!({"containers": [container(json!({}))], "initContainers": [init]}), &pointer);
    }
    check_refused(
        json!({"containers": [container(json!({}))], "initContainers": [container(json!({"tty": true}))]}),
        "/spec/initContainers/0/tty",
    );
    // Without a feature the adapter refuses too, should placement ever let such a spec through.
    check_refused(
        json!({"containers": [container(json!({"securityContext": {"capabilities": {"drop": ["ALL"]}}}))]}),
        "/spec/containers/0/securityContext/capabilities/drop",
    );
    check_refused(
        json!({"containers": [container(json!({"startupProbe": {"tcpSocket": {"port": 1}}}))]}),
        "/spec/containers/0/startupProbe",
    );
}

#[test]
fn config_files_have_a_limit_each_and_in_all() {
    let spec = |sizes: &[usize]| {
        let items: Vec<Value> = sizes
            .iter()
            .enumerate()
            .map(|(i, n)| json!({"path": format!("f{i}"), "content": "x".repeat(*n)}))
            .collect();
        let volumes: Vec<Value> = items
            .into_iter()
            .enumerate()
            .map(|(i, item)| json!({"name": format!("v{i}"), "configFile": {"items": [item]}}))
            .collect();
        json!({"containers": [{"name": "a", "image": "i"}], "volumes": volumes})
    };
    assert!(!built(spec(&[32_768, 28_672])).is_empty());
    check_refused(spec(&[32_769]), "/spec/volumes/0/configFile/items/0/content");
    check_refused(spec(&[32_768, 28_673]), "/spec/volumes/1/configFile/items/0/content");
}

#[test]
fn a_zone_without_network_is_the_wrong_place() {
    let mut other = call(json!({"containers": [{"name": "a", "image": "i"}]}));
    other.zone = ZoneId::new("zone-9").unwrap();
    let error = create(&region(), &default_capability(), &other).unwrap_err();
    assert_eq!((error.kind, error.effect), (FaultKind::WrongPlace, Effect::NotApplied));

    let mut many = call(json!({"containers": [{"name": "a", "image": "i"}]}));
    edit(&mut many, |spec| spec.network.security_group_ids = vec!["sg-1".to_owned(), "sg-2".to_owned()]);
    assert_eq!(create(&region(), &default_capability(), &many).unwrap_err().kind, FaultKind::WrongPlace);
    edit(&mut many, |spec| spec.network.security_group_ids.clear());
    assert_eq!(value(&create(&region(), &default_capability(), &many).unwrap().0, "SecurityGroupId"), None);
}

#[test]
fn token_and_marks_have_the_vendors_limits() {
    let mut long = call(json!({"containers": [{"name": "a", "image": "i"}]}));
    long.token = ClientToken::new("t".repeat(64)).unwrap();
    assert!(create(&region(), &default_capability(), &long).is_ok());
    long.token = ClientToken::new("t".repeat(65)).unwrap();
    assert_eq!(create(&region(), &default_capability(), &long).unwrap_err().effect, Effect::NotApplied);

    let mut marked = call(json!({"containers": [{"name": "a", "image": "i"}]}));
    marked.marks = (0..21).map(|i| (format!("MERIDIAN_{i}"), String::new())).collect();
    assert_eq!(create(&region(), &default_capability(), &marked).unwrap_err().kind, FaultKind::BadRequest);
}

/// The build of a call with whatever size it asks for on sale, as text.
fn render(call: &CreateCall) -> String {
    let mut call = call.clone();
    // The API takes one group; the others are refused, which would hide everything else here.
    edit(&mut call, |spec| spec.network.security_group_ids.truncate(1));
    let s = &call.shape;
    let size = GpuSize {
        gpu_type: s.gpu_type.clone().unwrap_or_default(),
        gpu_count: s.gpu_count,
        cpu: s.cpu,
        memory: s.memory,
        vendor_name: format!("ecs.{:?}-{}-{}-{}", s.gpu_type, s.gpu_count, s.cpu, s.memory),
    };
    let capability = capability(std::time::Duration::from_secs(1), vec![size]);
    match flatten(&region(), &capability, &call) {
        Ok(params) => params.0.iter().map(|(k, v)| format!("{k}={v}\n")).collect(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn nothing_of_a_spec_is_dropped() {
    let tried = mapping::check(&default_capability(), render).unwrap_or_else(|gaps| panic!("{gaps}"));
    assert!(tried > 400, "{tried}");
}

/// Names with their indices as `#`, by action, from the vendor's table.
fn documented(action: &str) -> BTreeSet<&'static str> {
    let table = include_str!("fixtures/parameters.txt");
    let of_action = table.split('@').find(|part| part.lines().next() == Some(action)).unwrap();
    of_action.lines().skip(1).filter_map(|line| line.split(' ').next()).collect()
}

fn check_documented(action: &str, params: &Params) {
    let known = documented(action);
    for (name, _) in &params.0 {
        let parts = name.split('.').map(|part| if part.parse::<u32>().is_ok() { "#" } else { part });
        let pattern = parts.collect::<Vec<_>>().join(".");
        assert!(known.contains(pattern.as_str()), "{action} has no parameter {pattern}");
        assert!(!name.split('.').any(|part| part == "0"), "indices start at 1: {name}");
    }
}

#[test]
fn every_parameter_is_in_the_vendors_table() {
    let maximal: InstanceSpec = serde_json::from_str(include_str!("../conformance/maximal.json")).unwrap();
    let mut call = mapping::call_for(&maximal).unwrap();
    edit(&mut call, |spec| spec.network.security_group_ids.truncate(1));
    call.shape = default_capability().round_up(&call.shape).unwrap();
    let params = flatten(&region(), &default_capability(), &call).unwrap();
    assert!(params.0.len() > 120, "{}", params.0.len());
    check_documented("CreateContainerGroup", &params);
    let mut spot = call.clone();
    edit(&mut spot, |spec| {
        spec.spec.capacity.kind = CapacityType::Spot;
        spec.spec.os.name = OsName::Windows;
        spec.spec.architecture = Architecture::Arm64;
    });
    check_documented("CreateContainerGroup", &flatten(&region(), &default_capability(), &spot).unwrap());

    let ids = [CloudId::new("eci-1").unwrap(), CloudId::new("eci-2").unwrap()];
    let described = describe(&region(), &ids, true);
    assert_eq!(value(&described.0, "ContainerGroupIds"), Some(r#"["eci-1","eci-2"]"#));
    check_documented("DescribeContainerGroups", &described);
    let cursor = Cursor("next".to_owned());
    check_documented("DescribeContainerGroups", &page(&region(), Some(&call.name), Some(&cursor)));
    check_documented("DeleteContainerGroup", &delete(&region(), &ids[0]));
    check_documented("DescribeRegions", &regional(&region()));
    check_documented("ListUsage", &regional(&region()));
    check_documented("DescribeAvailableResource", &available(&region(), "ecs.c6"));
    let query = PriceQuery { zone: call.zone.clone(), shape: call.shape.clone(), capacity: CapacityType::Spot };
    check_documented("DescribeContainerGroupPrice", &price(&region(), &defaults(), &query).unwrap());
}

#[test]
fn families() {
    for (name, want) in
        [("ecs.gn6i-c4g1.xlarge", "ecs.gn6i"), ("ecs.c6.large", "ecs.c6"), ("ecs.x", "ecs.x"), ("x", "x"), ("", "")]
    {
        assert_eq!(family(name), want);
    }
}

#[test]
fn subnets_are_taken_by_zone() {
    let mut second = call(json!({"containers": [{"name": "a", "image": "i"}]}));
    second.zone = ZoneId::new("zone-2").unwrap();
    let params = create(&region(), &default_capability(), &second).unwrap().0;
    assert_eq!(value(&params, "VSwitchId"), Some(SubnetId::new("subnet-2").unwrap().as_str()));
    assert_eq!(value(&params, "ZoneId"), Some("zone-2"));
}
