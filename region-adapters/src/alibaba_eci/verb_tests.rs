//! The verbs over a real socket against a vendor that answers from a script: what a simulated cloud would not
//! do (unknown ids as errors, endless pages, cut replies).

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use meridian_model::{
    instance::{CapacityType, InstanceSpec, Shape},
    time::Time,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::*;
use crate::conformance::mapping;

/// What the vendor does with the next request.
enum Answer {
    Reply(u16, Value),
    /// Closes the connection after the request was read.
    Cut,
}

/// A vendor that answers each connection with the next line of its script, then goes away.
struct Vendor {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
    _task: JoinSet<()>,
}

impl Vendor {
    async fn with(script: Vec<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut task = JoinSet::new();
        let record = Arc::clone(&seen);
        task.spawn(async move {
            for answer in script {
                let (mut stream, _) = listener.accept().await.unwrap();
                let request = read_request(&mut stream).await;
                record.lock().unwrap().push(request);
                if let Answer::Reply(status, body) = answer {
                    let body = body.to_string();
                    let head =
                        format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
                    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
                }
            }
        });
        Self { address, seen, _task: task }
    }

    fn adapter(&self) -> AlibabaEci {
        adapter(self.address)
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

async fn read_request(stream: &mut TcpStream) -> String {
    let (mut bytes, mut chunk) = (Vec::new(), vec![0; 65_536]);
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|l| l.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return text.into_owned();
            }
        }
        let n = stream.read(&mut chunk).await.unwrap();
        assert!(n > 0, "the client went away early");
        bytes.extend_from_slice(&chunk[..n]);
    }
}

fn adapter(address: SocketAddr) -> AlibabaEci {
    let settings = json!({"endpoint": format!("http://{address}"), "region": "cn-hangzhou",
        "accessKeyId": "AK", "accessKeySecret": "s"});
    AlibabaEci::configure(serde_json::from_value(settings).unwrap(), HttpClient::new().unwrap()).unwrap()
}

fn at() -> CallContext {
    CallContext { signed_at: Time::from_unix_ms(1_767_225_600_000), nonce: 7, timeout: Duration::from_secs(10) }
}

fn id(n: usize) -> CloudId {
    CloudId::new(format!("eci-{n}")).unwrap()
}

fn name() -> CloudName {
    CloudName::new("m1-web").unwrap()
}

fn fault(status: u16, code: &str) -> Answer {
    Answer::Reply(status, json!({"Code": code, "Message": "m", "RequestId": "R", "HostId": "h"}))
}

fn groups(ids: &[usize], next: &str) -> Answer {
    let group = |n: &usize| json!({"ContainerGroupId": id(*n), "ContainerGroupName": "m1-web", "Status": "Running"});
    let groups: Vec<Value> = ids.iter().map(group).collect();
    Answer::Reply(200, json!({"RequestId": "R", "NextToken": next, "TotalCount": 1, "ContainerGroups": groups}))
}

fn call(spec: Value) -> CreateCall {
    let spec: InstanceSpec = serde_json::from_value(spec).unwrap();
    let mut call = mapping::call_for(&spec).unwrap();
    let mut resolved = (*call.spec).clone();
    resolved.network.security_group_ids.truncate(1);
    call.spec = Arc::new(resolved);
    call
}

fn small() -> CreateCall {
    call(json!({"containers": [{"name": "app", "image": "nginx"}]}))
}

fn nonces(seen: &[String]) -> BTreeSet<String> {
    let nonce = |r: &String| r.lines().find_map(|l| l.strip_prefix("x-acs-signature-nonce: ").map(str::to_owned));
    seen.iter().filter_map(nonce).collect()
}

#[tokio::test]
async fn one_unknown_id_does_not_hide_the_others() {
    let vendor = Vendor::with(vec![
        fault(404, "InvalidParameter.NotFound"),
        groups(&[1], ""),
        fault(404, "InvalidParameter.NotFound"),
        groups(&[3], ""),
    ])
    .await;
    let found = vendor.adapter().describe(at(), vec![id(1), id(2), id(3)]).await.unwrap();
    assert_eq!(found.iter().map(|o| o.id.clone().unwrap()).collect::<Vec<_>>(), [id(1), id(3)]);
    assert_eq!(nonces(&vendor.seen()).len(), 4, "every request has its own nonce");
}

#[tokio::test]
async fn describing_nothing_or_too_much_sends_nothing() {
    let vendor = Vendor::with(vec![]).await;
    assert_eq!(vendor.adapter().describe(at(), vec![]).await.unwrap(), []);
    let error = vendor.adapter().describe(at(), (0..21).map(id).collect()).await.unwrap_err();
    assert_eq!((error.kind, error.effect), (FaultKind::BadRequest, Effect::NotApplied));
    assert!(vendor.seen().is_empty());
}

#[tokio::test]
async fn a_lookup_by_name_is_complete_or_fails() {
    let vendor = Vendor::with(vec![groups(&[1], "a"), groups(&[], "b"), groups(&[2], "")]).await;
    assert_eq!(vendor.adapter().find(at(), name()).await.unwrap().len(), 2);
    let seen = vendor.seen();
    assert!(seen[0].contains("ContainerGroupName=m1-web") && !seen[0].contains("NextToken"), "{}", seen[0]);
    assert!(seen[2].contains("NextToken=b"), "{}", seen[2]);
    assert_eq!(nonces(&seen).len(), 3);

    let endless = Vendor::with((0..FIND_PAGES_MAX).map(|_| groups(&[1], "again")).collect()).await;
    let error = endless.adapter().find(at(), name()).await.unwrap_err();
    assert_eq!((error.kind, error.effect), (FaultKind::Unexpected, Effect::NotApplied));
}

#[tokio::test]
async fn instances_of_other_names_are_not_found_by_name() {
    let other = json!({"ContainerGroups": [
        {"ContainerGroupId": "eci-9", "ContainerGroupName": "m1-web-2", "Status": "Running"}]});
    let vendor = Vendor::with(vec![Answer::Reply(200, other)]).await;
    assert_eq!(vendor.adapter().find(at(), name()).await.unwrap(), []);
}

#[tokio::test]
async fn deletes() {
    let script = vec![
        Answer::Reply(200, json!({"RequestId": "R"})),
        fault(404, "InvalidParameter.NotFound"),
        fault(400, "IncorrectStatus"),
        fault(500, "InternalError"),
        Answer::Cut,
    ];
    let vendor = Vendor::with(script).await;
    let eci = vendor.adapter();
    assert_eq!(eci.delete(at(), id(1)).await, Ok(()));
    assert_eq!(eci.delete(at(), id(1)).await, Ok(()), "what does not exist is deleted");
    for (kind, effect) in [
        (FaultKind::State, Effect::NotApplied),
        (FaultKind::Temporary, Effect::Unknown),
        (FaultKind::Lost, Effect::Unknown),
    ] {
        let error = eci.delete(at(), id(1)).await.unwrap_err();
        assert_eq!((error.kind, error.effect), (kind, effect));
    }
}

#[tokio::test]
async fn creates_end_as_applied_refused_or_unknown() {
    let script = vec![
        Answer::Reply(200, json!({"RequestId": "R", "ContainerGroupId": "eci-1"})),
        Answer::Reply(200, json!({"RequestId": "R"})),
        fault(403, "OperationDenied.NoStock"),
        fault(503, "ServiceUnavailable"),
        Answer::Reply(502, json!("bad gateway")),
        Answer::Cut,
    ];
    let vendor = Vendor::with(script).await;
    let eci = vendor.adapter();
    assert_eq!(eci.create(at(), small()).await, Ok(id(1)));
    for (kind, effect) in [
        (FaultKind::Unexpected, Effect::Unknown),
        (FaultKind::NoCapacity, Effect::NotApplied),
        (FaultKind::Temporary, Effect::Unknown),
        (FaultKind::Temporary, Effect::Unknown),
        (FaultKind::Lost, Effect::Unknown),
    ] {
        let error = eci.create(at(), small()).await.unwrap_err();
        assert_eq!((error.kind, error.effect), (kind, effect), "{error}");
    }
    // The script is over and the socket closed: not a byte leaves.
    drop(vendor);
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = adapter(gone).create(at(), small()).await.unwrap_err();
    assert_eq!((error.kind, error.effect), (FaultKind::Unreachable, Effect::NotApplied));
}

/// In real time: a virtual clock would run out before the kernel has connected.
#[tokio::test]
async fn a_silent_vendor_leaves_a_create_in_doubt() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let eci = adapter(listener.local_addr().unwrap());
    let at = CallContext { timeout: Duration::from_millis(300), ..at() };
    let error = eci.create(at, small()).await.unwrap_err();
    assert_eq!((error.kind, error.effect), (FaultKind::Lost, Effect::Unknown));
    let error = eci.find(at, name()).await.unwrap_err();
    assert_eq!((error.kind, error.effect), (FaultKind::Lost, Effect::NotApplied));
}

#[tokio::test]
async fn a_refused_spec_sends_nothing() {
    let vendor = Vendor::with(vec![]).await;
    let spec = json!({"containers": [{"name": "a", "image": "i", "startupProbe": {"tcpSocket": {"port": 1}}}]});
    let error = vendor.adapter().create(at(), call(spec)).await.unwrap_err();
    assert_eq!((error.kind, error.effect), (FaultKind::BadRequest, Effect::NotApplied));
    assert!(vendor.seen().is_empty());
}

#[tokio::test]
async fn a_large_spec_travels_in_the_body() {
    let vendor = Vendor::with(vec![Answer::Reply(200, json!({"ContainerGroupId": "eci-1"}))]).await;
    let items: Vec<Value> = (0..3).map(|i| json!({"path": format!("f{i}"), "content": "x".repeat(20_000)})).collect();
    let spec = json!({"containers": [{"name": "a", "image": "i"}],
        "volumes": [{"name": "v", "configFile": {"items": items}}]});
    assert_eq!(vendor.adapter().create(at(), call(spec)).await, Ok(id(1)));
    let seen = vendor.seen().remove(0);
    assert!(seen.starts_with("POST / HTTP/1.1\r\n"), "{}", &seen[..200]);
    assert!(seen.contains("content-type: application/x-www-form-urlencoded\r\n"));
    assert!(seen.contains("ClientToken=token-1"));
}

#[tokio::test]
async fn events_of_the_instance_only_and_none_of_an_unknown_one() {
    let event = json!({"Type": "Warning", "Reason": "NoStock", "Message": "m", "Count": 1});
    let reply = json!({"ContainerGroups": [
        {"ContainerGroupId": "eci-2", "Status": "Running", "Events": [event, event]},
        {"ContainerGroupId": "eci-1", "Status": "ScheduleFailed", "Events": [event]}]});
    let vendor = Vendor::with(vec![Answer::Reply(200, reply), fault(404, "InvalidParameter.NotFound")]).await;
    assert_eq!(vendor.adapter().events(at(), id(1)).await.unwrap().len(), 1);
    assert_eq!(vendor.adapter().events(at(), id(1)).await.unwrap(), []);
    assert!(vendor.seen()[0].contains("WithEvent=true"));
}

#[tokio::test]
async fn zones_ask_for_every_family_once() {
    let regions = json!({"Regions": [{"RegionId": "cn-hangzhou", "Zones": ["cn-hangzhou-h"]}]});
    let stock = |family: &str| {
        Answer::Reply(
            200,
            json!({"AvailableZones": {"AvailableZone": [{"ZoneId": "cn-hangzhou-h",
            "AvailableResources": {"AvailableResource": [{"SupportedResources": {"SupportedResource": [
                {"Value": family, "StatusCategory": "WithStock"}]}}]}}]}}),
        )
    };
    let vendor =
        Vendor::with(vec![Answer::Reply(200, regions), stock("ecs.gn6i"), stock("ecs.gn6v"), stock("ecs.gn7i")]).await;
    let zones = vendor.adapter().zones(at()).await.unwrap().unwrap();
    assert_eq!(zones[0].sizes, ["ecs.gn6i", "ecs.gn6v", "ecs.gn7i"]);
    assert!(zones[0].on_sale);
    assert_eq!(nonces(&vendor.seen()).len(), 4);
}

#[tokio::test]
async fn prices_of_a_size_that_is_not_sold_are_not_asked_for() {
    let vendor = Vendor::with(vec![]).await;
    let shape = Shape { gpu_type: Some("H800".to_owned()), gpu_count: 1, ..Shape::default() };
    let query = PriceQuery { zone: "cn-hangzhou-h".parse().unwrap(), shape, capacity: CapacityType::OnDemand };
    assert_eq!(vendor.adapter().price(at(), query).await.unwrap_err().kind, FaultKind::BadRequest);
}
