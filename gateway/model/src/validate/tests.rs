use serde_json::{Value, json};

use super::*;

/// A spec with one of everything, valid.
fn good() -> Value {
    json!({
        "containers": [{
            "name": "web", "image": "registry.example/web:1",
            "env": [{"name": "MODE", "value": "a"}],
            "ports": [{"name": "http", "containerPort": 80}, {"containerPort": 53, "protocol": "UDP"},
                      {"containerPort": 53}],
            "resources": {"requests": {"cpu": "500m", "memory": "1Gi"},
                          "limits": {"cpu": "1", "memory": "1Gi", "nvidia.com/gpu": 1}},
            "volumeMounts": [{"name": "conf", "mountPath": "/etc/web"},
                             {"name": "tmp", "mountPath": "/tmp", "subPath": "a/b"}],
            "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 5, "successThreshold": 2},
            "livenessProbe": {"tcpSocket": {"port": 80}},
            "lifecycle": {"preStop": {"exec": {"command": ["sync"]}}},
            "securityContext": {"runAsUser": 1000, "capabilities": {"add": ["NET_ADMIN"]}},
        }],
        "initContainers": [{"name": "init", "image": "busybox"}],
        "volumes": [
            {"name": "conf", "configFile": {"items": [{"path": "a/web.conf", "content": "x"}]}},
            {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}},
            {"name": "share", "nfs": {"server": "10.0.0.9", "path": "/x"}},
            {"name": "disk", "disk": {"diskId": "disk-1"}},
        ],
        "gpuType": "T4",
        "hostname": "web",
        "dnsPolicy": "None",
        "dnsConfig": {"nameservers": ["10.0.0.2"], "searches": ["example.org."], "options": [{"name": "ndots"}]},
        "hostAliases": [{"ip": "10.0.0.3", "hostnames": ["db.example.org"]}],
        "imagePullSecrets": [{"name": "creds"}],
        "network": {"profile": "default", "publicIp": {"bandwidthMbps": 5}},
        "capacity": {"type": "spot", "maxPricePerHour": "0.5"},
        "placement": {"regions": ["r1", "r2"], "maxAttempts": 20, "placeTimeout": "1h"},
    })
}

fn faults_of(body: Value) -> Vec<(String, String)> {
    let parsed: InstanceSpec = serde_json::from_value(body).unwrap();
    spec(&parsed).into_iter().map(|f| (f.pointer, f.code)).collect()
}

/// Sets the value at a pointer; a last segment that does not exist is added.
fn set(mut body: Value, pointer: &str, value: Value) -> Value {
    let (parent, last) = pointer.rsplit_once('/').unwrap();
    let last = last.replace("~1", "/");
    match body.pointer_mut(parent).unwrap_or_else(|| panic!("{parent}")) {
        Value::Object(map) => drop(map.insert(last, value)),
        Value::Array(list) => list[last.parse::<usize>().unwrap()] = value,
        other => panic!("{pointer} points into {other}"),
    }
    body
}

#[test]
fn a_spec_with_one_of_everything_is_valid() {
    assert_eq!(faults_of(good()), []);
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table, a line per fault")]
fn each_fault_once() {
    let c = "/containers/0";
    let file = |path: &str| json!([{"path": path, "content": ""}]);
    // (where the good spec is changed, to what, where the fault is, its code)
    let table: Vec<(String, Value, &str, &str)> = vec![
        ("/containers".into(), json!([]), "/containers", "required"),
        (format!("{c}/name"), json!(""), "/containers/0/name", "required"),
        (format!("{c}/name"), json!("Web_1"), "/containers/0/name", "invalid-name"),
        (format!("{c}/name"), json!("init"), "/initContainers/0/name", "duplicate"),
        (format!("{c}/image"), json!(""), "/containers/0/image", "required"),
        (format!("{c}/image"), json!("a b"), "/containers/0/image", "invalid-format"),
        (format!("{c}/image"), json!("x".repeat(513)), "/containers/0/image", "too-large"),
        (format!("{c}/command"), json!(vec!["x"; 257]), "/containers/0/command", "too-many"),
        (format!("{c}/env/0/name"), json!("1A"), "/containers/0/env/0/name", "invalid-name"),
        (format!("{c}/env/0/name"), json!(""), "/containers/0/env/0/name", "required"),
        (format!("{c}/env/0/name"), json!("MERIDIAN_EPOCH"), "/containers/0/env/0/name", "reserved"),
        (format!("{c}/env/0/value"), json!("a\u{0}b"), "/containers/0/env/0/value", "invalid-format"),
        (format!("{c}/env"), json!([{"name": "A"}, {"name": "A"}]), "/containers/0/env/1/name", "duplicate"),
        (format!("{c}/ports/0/containerPort"), json!(0), "/containers/0/ports/0/containerPort", "out-of-range"),
        (format!("{c}/ports/1/protocol"), json!("TCP"), "/containers/0/ports/2/containerPort", "duplicate"),
        (format!("{c}/ports/1/name"), json!("http"), "/containers/0/ports/1/name", "duplicate"),
        (format!("{c}/ports/1/name"), json!("a--b"), "/containers/0/ports/1/name", "invalid-name"),
        (format!("{c}/volumeMounts/0/name"), json!("nope"), "/containers/0/volumeMounts/0/name", "unknown-reference"),
        (
            format!("{c}/volumeMounts/0/mountPath"),
            json!("etc"),
            "/containers/0/volumeMounts/0/mountPath",
            "invalid-path",
        ),
        (format!("{c}/volumeMounts/0/mountPath"), json!("/tmp"), "/containers/0/volumeMounts/1/mountPath", "duplicate"),
        (
            format!("{c}/volumeMounts/1/subPath"),
            json!("a/../.."),
            "/containers/0/volumeMounts/1/subPath",
            "invalid-path",
        ),
        (format!("{c}/livenessProbe"), json!({}), "/containers/0/livenessProbe", "exactly-one-of"),
        (
            format!("{c}/livenessProbe/exec"),
            json!({"command": ["true"]}),
            "/containers/0/livenessProbe",
            "exactly-one-of",
        ),
        (
            format!("{c}/livenessProbe/successThreshold"),
            json!(2),
            "/containers/0/livenessProbe/successThreshold",
            "out-of-range",
        ),
        (
            format!("{c}/livenessProbe/tcpSocket/port"),
            json!(0),
            "/containers/0/livenessProbe/tcpSocket/port",
            "out-of-range",
        ),
        (
            format!("{c}/readinessProbe/httpGet/port"),
            json!("grpc"),
            "/containers/0/readinessProbe/httpGet/port",
            "unknown-reference",
        ),
        (
            format!("{c}/readinessProbe/httpGet/path"),
            json!("x"),
            "/containers/0/readinessProbe/httpGet/path",
            "invalid-path",
        ),
        (
            format!("{c}/readinessProbe/httpGet/httpHeaders"),
            json!([{"name": "a b", "value": ""}]),
            "/containers/0/readinessProbe/httpGet/httpHeaders/0/name",
            "invalid-name",
        ),
        (
            format!("{c}/readinessProbe/periodSeconds"),
            json!(0),
            "/containers/0/readinessProbe/periodSeconds",
            "out-of-range",
        ),
        (format!("{c}/lifecycle/preStop"), json!({}), "/containers/0/lifecycle/preStop", "exactly-one-of"),
        (
            format!("{c}/lifecycle/preStop/exec/command"),
            json!([]),
            "/containers/0/lifecycle/preStop/exec/command",
            "required",
        ),
        (
            format!("{c}/securityContext/runAsUser"),
            json!(-1),
            "/containers/0/securityContext/runAsUser",
            "out-of-range",
        ),
        (
            format!("{c}/securityContext/capabilities/add"),
            json!(["net admin"]),
            "/containers/0/securityContext/capabilities/add/0",
            "invalid-name",
        ),
        (format!("{c}/resources/limits/cpu"), json!("250m"), "/containers/0/resources/limits/cpu", "out-of-range"),
        (format!("{c}/resources/requests/memory"), json!(0), "/containers/0/resources/requests/memory", "out-of-range"),
        (format!("{c}/resources/limits/nvidia.com~1gpu"), json!(0), "/resources/limits/nvidia.com~1gpu", "required"),
        (
            "/initContainers/0/readinessProbe".into(),
            json!({"tcpSocket": {"port": 1}}),
            "/initContainers/0/readinessProbe",
            "not-allowed",
        ),
        ("/initContainers/0/lifecycle".into(), json!({}), "/initContainers/0/lifecycle", "not-allowed"),
        ("/volumes/2/name".into(), json!("disk"), "/volumes/3/name", "duplicate"),
        ("/volumes/2/name".into(), json!("A"), "/volumes/2/name", "invalid-name"),
        ("/volumes/3".into(), json!({"name": "disk"}), "/volumes/3", "exactly-one-of"),
        ("/volumes/3/emptyDir".into(), json!({}), "/volumes/3", "exactly-one-of"),
        ("/volumes/3/disk/diskId".into(), json!(""), "/volumes/3/disk/diskId", "required"),
        ("/volumes/1/emptyDir/sizeLimit".into(), json!(0), "/volumes/1/emptyDir/sizeLimit", "out-of-range"),
        ("/volumes/2/nfs/server".into(), json!("a b"), "/volumes/2/nfs/server", "not-an-address"),
        ("/volumes/2/nfs/path".into(), json!("x"), "/volumes/2/nfs/path", "invalid-path"),
        ("/volumes/0/configFile/items".into(), json!([]), "/volumes/0/configFile/items", "required"),
        ("/volumes/0/configFile/items".into(), file("../x"), "/volumes/0/configFile/items/0/path", "invalid-path"),
        ("/volumes/0/configFile/items".into(), file("/x"), "/volumes/0/configFile/items/0/path", "invalid-path"),
        (
            "/volumes/0/configFile/items/0/mode".into(),
            json!(0o1000),
            "/volumes/0/configFile/items/0/mode",
            "out-of-range",
        ),
        (
            "/volumes/0/configFile/items/0/content".into(),
            json!("x".repeat(CONFIG_FILES_LEN_MAX + 1)),
            "/volumes/0/configFile/items",
            "too-large",
        ),
        ("/gpuType".into(), Value::Null, "/gpuType", "required"),
        ("/gpuType".into(), json!("T 4"), "/gpuType", "invalid-name"),
        ("/resources".into(), json!({"limits": {"cpu": 0}}), "/resources/limits/cpu", "out-of-range"),
        ("/terminationGracePeriodSeconds".into(), json!(86_401), "/terminationGracePeriodSeconds", "out-of-range"),
        ("/activeDeadlineSeconds".into(), json!(0), "/activeDeadlineSeconds", "out-of-range"),
        ("/hostname".into(), json!("Web"), "/hostname", "invalid-name"),
        ("/dnsConfig/nameservers".into(), json!([]), "/dnsConfig/nameservers", "required"),
        ("/dnsConfig/nameservers".into(), json!(["dns"]), "/dnsConfig/nameservers/0", "not-an-address"),
        ("/dnsConfig/nameservers".into(), json!(vec!["::1"; 4]), "/dnsConfig/nameservers", "too-many"),
        ("/dnsConfig/searches/0".into(), json!("a_b"), "/dnsConfig/searches/0", "invalid-name"),
        ("/dnsConfig/options/0/name".into(), json!(""), "/dnsConfig/options/0/name", "required"),
        ("/hostAliases/0/ip".into(), json!("10.0.0"), "/hostAliases/0/ip", "not-an-address"),
        ("/hostAliases/0/hostnames".into(), json!([]), "/hostAliases/0/hostnames", "required"),
        ("/hostAliases/0/hostnames".into(), json!(["a b"]), "/hostAliases/0/hostnames/0", "invalid-name"),
        ("/imagePullSecrets".into(), json!([{"name": "a"}, {"name": "a"}]), "/imagePullSecrets/1", "duplicate"),
        ("/network/publicIp/bandwidthMbps".into(), json!(0), "/network/publicIp/bandwidthMbps", "out-of-range"),
        ("/capacity/type".into(), json!("onDemand"), "/capacity/maxPricePerHour", "not-allowed"),
        ("/capacity/maxPricePerHour".into(), json!("0"), "/capacity/maxPricePerHour", "out-of-range"),
        ("/placement/regions".into(), json!(["r1", "r1"]), "/placement/regions/1", "duplicate"),
        ("/placement/maxAttempts".into(), json!(0), "/placement/maxAttempts", "out-of-range"),
        ("/placement/maxAttempts".into(), json!(21), "/placement/maxAttempts", "out-of-range"),
        ("/placement/placeTimeout".into(), json!("999ms"), "/placement/placeTimeout", "out-of-range"),
        ("/placement/placeTimeout".into(), json!("61m"), "/placement/placeTimeout", "out-of-range"),
    ];
    for (pointer, value, at, code) in table {
        let body = set(good(), &pointer, value.clone());
        let expected = if pointer == "/containers" {
            // Without its container the GPU that gpuType names is gone too.
            vec![at, "/resources/limits/nvidia.com~1gpu"]
        } else {
            vec![at]
        };
        let found = faults_of(body);
        let pointers: Vec<&str> = found.iter().map(|(p, _)| p.strip_prefix("/spec").unwrap()).collect();
        assert_eq!(pointers, expected, "{pointer} = {value}");
        assert_eq!(found[0].1, code, "{pointer} = {value}");
    }
}

#[test]
fn all_faults_come_at_once_and_are_bounded() {
    let bad = json!({"containers": [{"name": "A", "image": ""}], "hostname": "B", "placement": {"maxAttempts": 99}});
    assert_eq!(faults_of(bad).len(), 4);
    let env: Vec<Value> = (0..10_000).map(|_| json!({"name": ""})).collect();
    let flood = json!({"containers": [{"name": "a", "image": "i", "env": env}]});
    assert_eq!(faults_of(flood).len(), FAULTS_MAX);
}

#[test]
fn counts_are_bounded() {
    let containers: Vec<Value> = (0..=CONTAINERS_MAX).map(|n| json!({"name": format!("c{n}"), "image": "i"})).collect();
    assert_eq!(faults_of(json!({"containers": containers})), [("/spec/containers".into(), "too-many".into())]);
    let env: Vec<Value> = (0..=ENV_MAX).map(|n| json!({"name": format!("V{n}")})).collect();
    let body = json!({"containers": [{"name": "a", "image": "i", "env": env}]});
    assert_eq!(faults_of(body), [("/spec/containers/0/env".into(), "too-many".into())]);
}

#[test]
fn windows_paths_are_absolute_too() {
    let mount = |os: &str| {
        json!({
            "os": {"name": os},
            "containers": [{"name": "a", "image": "i", "volumeMounts": [{"name": "d", "mountPath": "C:\\data"}]}],
            "volumes": [{"name": "d", "emptyDir": {}}],
        })
    };
    assert_eq!(faults_of(mount("windows")), []);
    assert_eq!(faults_of(mount("linux")).len(), 1);
}

#[test]
fn labels_follow_kubernetes() {
    let check = |key: &str, value: &str| {
        let map = Labels::from([(key.to_owned(), value.to_owned())]);
        labels(&map, "/labels").into_iter().map(|f| (f.pointer, f.code)).collect::<Vec<_>>()
    };
    for (key, value) in [("app", "web"), ("example.org/Tier_1", ""), ("a.b", "v1.2-x_Y")] {
        assert_eq!(check(key, value), [], "{key}={value}");
    }
    let long = "x".repeat(64);
    for key in ["", "-a", "a b", "Example.org/a", "/a", "a/", "a/b/c", &long] {
        assert_eq!(check(key, "v")[0].1, "invalid-name", "{key}");
    }
    for value in ["-", "a b", "ü", &long] {
        assert_eq!(check("k", value), [("/labels/k".to_owned(), "invalid-format".to_owned())], "{value}");
    }
    assert_eq!(check("x.y/a b", "v")[0].0, "/labels/x.y~1a b", "the pointer is escaped");
    let many: Labels = (0..=LABELS_MAX).map(|n| (format!("k{n}"), String::new())).collect();
    assert_eq!(labels(&many, "/labels")[0].code, "too-many");
}

#[test]
fn annotations_are_bounded_by_size() {
    let check = |key: &str, len: usize| {
        let map = Labels::from([(key.to_owned(), "x".repeat(len))]);
        annotations(&map, "/annotations").into_iter().map(|f| f.code).collect::<Vec<_>>()
    };
    assert!(check("note", ANNOTATIONS_LEN_MAX - 4).is_empty());
    assert_eq!(check("note", ANNOTATIONS_LEN_MAX), ["too-large"]);
    assert_eq!(check("a b", 1), ["invalid-name"]);
    assert_eq!(check("meridian.dev/imported-from", 1), ["reserved"]);
    assert!(check("example.com/meridian.dev", 1).is_empty());
}
