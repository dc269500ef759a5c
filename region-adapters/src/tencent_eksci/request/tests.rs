use meridian_model::{capability::Capability, ids::ZoneId};
use serde_json::{Value, json};

use super::*;
use crate::conformance::mapping;

fn capability() -> Capability {
    let gpu = super::super::sizes::gpu_default().into_iter().map(Into::into).collect();
    super::super::capability(gpu, 1)
}

fn built(call: &CreateCall) -> Result<Value, AdapterError> {
    create(call, |gpu| gpu).map(|r| serde_json::from_slice(&r.body).unwrap())
}

fn call(spec: Value) -> CreateCall {
    mapping::call_for(&serde_json::from_value(spec).unwrap()).unwrap()
}

fn maximal() -> Value {
    serde_json::from_str(include_str!("../../conformance/maximal.json")).unwrap()
}

#[test]
fn every_field_reaches_the_request_or_is_refused() {
    let build = |call: &CreateCall| match create(call, |gpu| gpu) {
        Ok(request) => String::from_utf8(request.body).unwrap(),
        Err(error) => error.to_string(),
    };
    let tried = mapping::check(&capability(), build).unwrap_or_else(|gaps| panic!("{gaps}"));
    assert!(tried > 400, "{tried}");
}

/// The vendor's object tables, from its SDK's model classes.
fn objects() -> Value {
    serde_json::from_str(include_str!("../fixtures/objects.json")).unwrap()
}

/// Holds a value against an object table: no unknown name, the right type, nothing required missing.
fn conform(objects: &Value, object: &str, value: &Value, at: &str) {
    let fields = objects[object].as_array().unwrap_or_else(|| panic!("no table {object} at {at}"));
    let map = value.as_object().unwrap_or_else(|| panic!("{at} is not an object"));
    for name in map.keys() {
        assert!(fields.iter().any(|f| f["name"] == name.as_str()), "{at}/{name} is not a field of {object}");
    }
    for field in fields {
        let name = field["name"].as_str().unwrap();
        let Some(value) = map.get(name) else {
            assert!(field["required"] != json!(true), "{at}/{name} is required");
            continue;
        };
        let list = field["list"] == json!(true);
        let items = if list { value.as_array().unwrap().iter().collect() } else { vec![value] };
        for item in items {
            let at = format!("{at}/{name}");
            match field["type"].as_str().unwrap() {
                "string" => assert!(item.is_string(), "{at}"),
                "integer" => assert!(item.is_i64() || item.is_u64(), "{at}"),
                "float" => assert!(item.is_number(), "{at}"),
                "boolean" => assert!(item.is_boolean(), "{at}"),
                object => conform(objects, object, item, &at),
            }
        }
    }
}

#[test]
fn every_request_is_what_the_vendors_tables_say() {
    let objects = objects();
    let check = |object: &str, request: Result<Request, AdapterError>| {
        let body: Value = serde_json::from_slice(&request.unwrap().body).unwrap();
        conform(&objects, object, &body, "");
        body
    };
    let body = check("CreateEKSContainerInstancesRequest", create(&call(maximal()), |gpu| gpu));
    assert_eq!(body["Replicas"], 1);
    assert_eq!(body["AutoCreateEip"], true);
    assert_ne!(body["AutoCreateEipAttribute"]["DeletePolicy"], "Never", "the address goes with the instance");
    check(
        "CreateEKSContainerInstancesRequest",
        create(&call(json!({"containers": [{"name": "a", "image": "b"}]})), |g| g),
    );
    let id = CloudId::new("eksci-1").unwrap();
    check("DescribeEKSContainerInstancesRequest", describe(std::slice::from_ref(&id)));
    let found = check("DescribeEKSContainerInstancesRequest", find("web", 100));
    assert_eq!(found["Filters"], json!([{"Name": "eks-ci-name", "Values": ["web"]}]));
    assert_eq!(found["Offset"], 100);
    check("DescribeEKSContainerInstancesRequest", list(0));
    let deleted = check("DeleteEKSContainerInstancesRequest", delete(&id));
    assert_eq!(deleted["ReleaseAutoCreatedEip"], true);
    check("DescribeEKSContainerInstanceEventRequest", events(&id));
}

#[test]
fn marks_reach_every_container_and_win() {
    let mut call = call(json!({
        "containers": [
            {"name": "a", "image": "i", "env": [{"name": "MERIDIAN_OP", "value": "forged"}]},
            {"name": "b", "image": "i"},
        ],
        "initContainers": [{"name": "c", "image": "i"}],
    }));
    call.marks = Labels::from([("MERIDIAN_OP".to_owned(), "op-7".to_owned())]);
    let body = built(&call).unwrap();
    for container in ["/Containers/0", "/Containers/1", "/InitContainers/0"] {
        let env = body.pointer(container).unwrap()["EnvironmentVars"].as_array().unwrap();
        assert_eq!(env.last().unwrap(), &json!({"Name": "MERIDIAN_OP", "Value": "op-7"}), "{container}");
    }
}

#[test]
fn debug_shows_no_content() {
    let request = create(&call(maximal()), |gpu| gpu).unwrap();
    assert!(String::from_utf8_lossy(&request.body).contains("\"Password\":\"password\""));
    assert!(!format!("{request:?}").contains("password"));
}

#[test]
fn probe_ports_are_numbers() {
    let spec = |port: Value| {
        json!({"containers": [{
            "name": "a", "image": "i", "ports": [{"name": "http", "containerPort": 8080}],
            "livenessProbe": {"httpGet": {"port": port}},
        }]})
    };
    let port = |p: Value| built(&call(spec(p))).map(|b| b["Containers"][0]["LivenessProbe"]["HttpGet"]["Port"].clone());
    assert_eq!(port(json!(9)).unwrap(), 9);
    assert_eq!(port(json!("http")).unwrap(), 8080);
    let error = port(json!("htpp")).unwrap_err();
    assert_eq!((error.kind, error.effect), (FaultKind::BadRequest, Effect::NotApplied));
    assert!(error.message.contains("/spec/containers/0/livenessProbe/httpGet/port"), "{error}");
}

#[test]
fn a_zone_without_a_subnet_is_the_wrong_place() {
    let mut call = call(json!({"containers": [{"name": "a", "image": "i"}]}));
    call.zone = ZoneId::new("zone-9").unwrap();
    let error = built(&call).unwrap_err();
    assert_eq!((error.kind, error.effect), (FaultKind::WrongPlace, Effect::NotApplied));
}

#[test]
fn a_describe_without_ids_is_never_built() {
    assert!(describe(&[]).is_err(), "the vendor would return every instance");
    let ids: Vec<CloudId> = (0..21).map(|i| CloudId::new(format!("eksci-{i}")).unwrap()).collect();
    assert!(describe(&ids).is_err());
    assert!(describe(&ids[..20]).is_ok());
}

#[test]
fn a_body_over_the_vendors_limit_is_refused_unsent() {
    let value = "x".repeat(BODY_BYTES_MAX);
    let spec = json!({"containers": [{"name": "a", "image": "i", "env": [{"name": "BIG", "value": value}]}]});
    assert_eq!(built(&call(spec)).unwrap_err().code, "adapter.body-too-large");
}
