use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn read(status: u16, body: &str, verb: Verb) -> Result<wire::Created, AdapterError> {
    read_reply(status, body.as_bytes(), verb)
}

fn error_body(code: &str) -> String {
    json!({"Response": {"Error": {"Code": code, "Message": "m"}, "RequestId": "r-1"}}).to_string()
}

#[test]
fn an_error_is_found_under_status_200() {
    let error = read(200, &error_body("ResourcesSoldOut"), Verb::Write).unwrap_err();
    assert_eq!((error.kind, error.effect), (FaultKind::NoCapacity, Effect::NotApplied));
    assert_eq!((error.code.as_str(), error.message.as_str()), ("ResourcesSoldOut", "m"));
    assert_eq!(error.vendor_request_id.as_deref(), Some("r-1"));
}

#[test]
fn what_a_write_leaves_unknown_and_a_read_does_not() {
    let html = "<html>502 Bad Gateway</html>";
    let ok_without_error = json!({"Response": {"RequestId": "r"}}).to_string();
    let table = [
        (200, error_body("InternalError"), FaultKind::Temporary, "InternalError"),
        (200, error_body("FailedOperation"), FaultKind::Unexpected, "FailedOperation"),
        (200, error_body("Brand.New"), FaultKind::Unexpected, "Brand.New"),
        (502, html.to_owned(), FaultKind::Temporary, "http.502"),
        (429, String::new(), FaultKind::Throttled, "http.429"),
        (404, "not here".to_owned(), FaultKind::Unexpected, "http.404"),
        // The code is the vendor's, the status is not: the meaning counts, the proof does not.
        (503, error_body("ResourcesSoldOut"), FaultKind::NoCapacity, "ResourcesSoldOut"),
        (500, ok_without_error, FaultKind::Temporary, "http.500"),
        (200, String::new(), FaultKind::Unexpected, "adapter.unreadable-reply"),
        (200, html.to_owned(), FaultKind::Unexpected, "adapter.unreadable-reply"),
        (200, "{}".to_owned(), FaultKind::Unexpected, "adapter.unreadable-reply"),
        (200, "{\"Response\":null}".to_owned(), FaultKind::Unexpected, "adapter.unreadable-reply"),
        (200, "{\"Response\":{\"EksCiIds\":7}}".to_owned(), FaultKind::Unexpected, "adapter.unreadable-reply"),
    ];
    for (status, body, kind, code) in table {
        let write = read(status, &body, Verb::Write).unwrap_err();
        assert_eq!((write.kind, write.effect, write.code.as_str()), (kind, Effect::Unknown, code), "{status} {body}");
        let read = read(status, &body, Verb::Read).unwrap_err();
        assert_eq!((read.kind, read.effect, read.code.as_str()), (kind, Effect::NotApplied, code), "{status} {body}");
    }
}

#[test]
fn a_good_reply_is_read() {
    let body = json!({"Response": {"EksCiIds": ["eksci-1"], "RequestId": "r", "New": 1}}).to_string();
    assert_eq!(read(200, &body, Verb::Write).unwrap().eks_ci_ids, ["eksci-1"]);
    let null = json!({"Response": {"EksCiIds": null, "Error": null}}).to_string();
    assert!(read(200, &null, Verb::Write).unwrap().eks_ci_ids.is_empty());
}

fn adapter() -> TencentEksci {
    let config = json!({"region": "ap-guangzhou", "secretId": "canary-id", "secretKey": "canary-key"});
    TencentEksci::configure(serde_json::from_value(config).unwrap(), HttpClient::new().unwrap()).unwrap()
}

#[test]
fn the_signed_request_has_the_vendors_headers() {
    let adapter = adapter();
    let signed = adapter.sign(request::list(0).unwrap(), 1_767_225_600).unwrap();
    let header = |name: &str| signed.headers()[name].to_str().unwrap();
    assert_eq!(signed.uri(), "https://tke.tencentcloudapi.com/");
    assert_eq!(header("host"), "tke.tencentcloudapi.com");
    assert_eq!(header("content-type"), "application/json");
    assert_eq!(header("x-tc-action"), "DescribeEKSContainerInstances");
    assert_eq!(header("x-tc-version"), "2018-05-25");
    assert_eq!(header("x-tc-region"), "ap-guangzhou");
    assert_eq!(header("x-tc-timestamp"), "1767225600");
    let authorization = header("authorization");
    let start = "TC3-HMAC-SHA256 Credential=canary-id/2026-01-01/tke/tc3_request, SignedHeaders=content-type;host, ";
    assert!(authorization.starts_with(start), "{authorization}");
}

#[test]
fn debug_shows_no_secret() {
    let text = format!("{:?}", adapter());
    assert!(!text.contains("canary"), "{text}");
}

#[test]
fn sizes_round_up_as_documented() {
    let adapter = adapter();
    let shape = |cpu: u64, gib: u64, gpu: Option<&str>| meridian_model::instance::Shape {
        cpu: meridian_model::quantity::MilliCpu(cpu),
        memory: meridian_model::quantity::MemoryMib(gib << 10),
        gpu_type: gpu.map(str::to_owned),
        gpu_count: u32::from(gpu.is_some()),
    };
    let rounded = |s| adapter.capability.round_up(&s).map(|s| (s.cpu.0, s.memory.0 >> 10));
    assert_eq!(rounded(shape(1000, 2, None)), Some((1000, 2)));
    assert_eq!(rounded(shape(1500, 2, None)), Some((2000, 4)));
    assert_eq!(rounded(shape(1000, 9, None)), Some((2000, 9)));
    assert_eq!(rounded(shape(64_000, 512, None)), Some((64_000, 512)));
    assert_eq!(rounded(shape(65_000, 1, None)), None);
    assert_eq!(rounded(shape(1000, 1, Some("t4"))), Some((8000, 32)));
    assert_eq!(rounded(shape(1000, 1, Some("H100"))), None);
}

fn arbitrary_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop_oneof![Just("Running".to_owned()), Just("exited".to_owned()), "\\PC{0,12}"].prop_map(Value::from),
    ];
    let names = prop::sample::select(vec![
        "Response",
        "Error",
        "Code",
        "Message",
        "RequestId",
        "EksCis",
        "EksCiIds",
        "EksCiId",
        "Status",
        "Containers",
        "InitContainers",
        "CurrentState",
        "State",
        "ExitCode",
        "Cpu",
        "Memory",
        "TotalCount",
        "Events",
        "Count",
        "CreationTime",
        "FirstTimestamp",
        "EnvironmentVars",
        "Name",
        "Value",
    ]);
    leaf.prop_recursive(5, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(names.clone().prop_map(str::to_owned), inner, 0..6)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

/// Reads the bytes as every kind of reply there is.
fn read_all(status: u16, body: &[u8]) {
    let known = (BTreeMap::new(), BTreeMap::new());
    let known = convert::Known { subnet_zones: &known.0, gpu_names: &known.1 };
    for verb in [Verb::Read, Verb::Write] {
        let _ = read_reply::<wire::Created>(status, body, verb);
        let _ = read_reply::<wire::Nothing>(status, body, verb);
        if let Ok(reply) = read_reply::<wire::Described>(status, body, verb) {
            for ci in reply.eks_cis {
                let _ = convert::instance(ci, known);
            }
        }
        if let Ok(reply) = read_reply::<wire::Events>(status, body, verb) {
            reply.events.into_iter().map(convert::event).for_each(drop);
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(status in 100_u16..1000, body in prop::collection::vec(any::<u8>(), 0..200)) {
        read_all(status, &body);
    }

    #[test]
    fn no_json_panics(status in prop_oneof![Just(200_u16), 100_u16..1000], body in arbitrary_json()) {
        read_all(status, body.to_string().as_bytes());
        let wrapped = json!({"Response": body});
        read_all(status, wrapped.to_string().as_bytes());
    }

    /// One leaf of a good reply replaced by anything: the reply is read or refused, never a panic.
    #[test]
    fn no_damaged_reply_panics(which in any::<prop::sample::Index>(), new in arbitrary_json()) {
        let mut reply: Value = serde_json::from_str(include_str!("fixtures/describe.json")).unwrap();
        let mut pointers = vec![];
        fn walk(v: &Value, at: String, into: &mut Vec<String>) {
            into.push(at.clone());
            match v {
                Value::Object(m) => m.iter().for_each(|(k, v)| walk(v, format!("{at}/{k}"), into)),
                Value::Array(a) => a.iter().enumerate().for_each(|(i, v)| walk(v, format!("{at}/{i}"), into)),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
            }
        }
        walk(&reply, String::new(), &mut pointers);
        *reply.pointer_mut(which.get::<String>(&pointers)).unwrap() = new;
        read_all(200, reply.to_string().as_bytes());
    }
}
