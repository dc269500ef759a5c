use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn zones() -> BTreeMap<SubnetId, ZoneId> {
    BTreeMap::from([(SubnetId::new("subnet-1cghduvc").unwrap(), ZoneId::new("ap-guangzhou-4").unwrap())])
}

fn convert(ci: Value) -> Result<Observed, AdapterError> {
    let zones = zones();
    let gpu_names = BTreeMap::from([("1/4*T4".to_owned(), "T4-quarter".to_owned())]);
    instance(serde_json::from_value(ci).unwrap(), Known { subnet_zones: &zones, gpu_names: &gpu_names })
}

fn fixture() -> Value {
    serde_json::from_str(include_str!("../fixtures/describe.json")).unwrap()
}

#[test]
fn a_running_instance() {
    let seen = convert(fixture()["Response"]["EksCis"][0].clone()).unwrap();
    assert_eq!(seen.id.unwrap().as_str(), "eksci-6mr3o7eu");
    assert_eq!((seen.name.as_str(), seen.phase), ("web-1", ObservedPhase::Running));
    assert_eq!(seen.zone.unwrap().as_str(), "ap-guangzhou-4");
    assert_eq!(seen.shape.cpu, MilliCpu(2000));
    assert_eq!(seen.shape.memory, MemoryMib(4096));
    assert_eq!((seen.shape.gpu_type.as_deref(), seen.shape.gpu_count), (Some("T4-quarter"), 1));
    assert_eq!((seen.private_ip.as_deref(), seen.public_ip.as_deref()), (Some("10.0.0.17"), Some("119.0.0.1")));
    assert_eq!(seen.created_at.unwrap().to_string(), "2021-06-24T03:32:02.000Z");
    assert_eq!(seen.finished_at, None);
    assert_eq!(
        seen.marks,
        Labels::from([("MERIDIAN_EPOCH".into(), "2".into()), ("MERIDIAN_OP".into(), "op-1".into())])
    );
    let [init, app, side] = &seen.containers[..] else { panic!("three containers") };
    assert!(init.init && init.state == ContainerPhase::Terminated && init.exit_code == Some(0));
    assert_eq!(init.finished_at.unwrap().to_string(), "2021-06-24T03:32:43.420Z");
    assert!(!app.init && app.ready && app.state == ContainerPhase::Running && app.restart_count == 3);
    assert_eq!((app.exit_code, app.finished_at), (None, None));
    assert_eq!(app.started_at.unwrap().to_string(), "2021-06-24T03:33:00.000Z");
    assert!(!side.ready && side.state == ContainerPhase::Waiting);
}

#[test]
fn a_failed_instance_says_why_and_when() {
    let seen = convert(fixture()["Response"]["EksCis"][1].clone()).unwrap();
    assert_eq!(
        (seen.phase, seen.reason.as_str(), seen.message.as_str()),
        (ObservedPhase::Failed, "OOMKilled", "out of memory")
    );
    assert_eq!(seen.zone, None, "the subnet is not one of ours");
    assert_eq!(seen.shape.cpu, MilliCpu(250));
    assert_eq!(seen.finished_at.unwrap().to_string(), "2021-06-24T03:34:00.000Z");
    assert_eq!((seen.containers[0].exit_code, seen.containers[0].restart_count), (Some(137), 1));
}

#[test]
fn statuses() {
    let with = |status: &str, state: Value| {
        let ci = json!({"EksCiId": "eksci-1", "Status": status, "Containers": [{"Name": "a", "CurrentState": state}]});
        convert(ci).map(|o| o.phase)
    };
    let none = || Value::Null;
    assert_eq!(with("Pending", none()).unwrap(), ObservedPhase::Placing);
    assert_eq!(with("Pending", json!({"State": "unknown"})).unwrap(), ObservedPhase::Placing);
    assert_eq!(with("Pending", json!({"State": "created"})).unwrap(), ObservedPhase::Placing);
    assert_eq!(with("Pending", json!({"State": "exited"})).unwrap(), ObservedPhase::Starting);
    assert_eq!(with("Creating", none()).unwrap(), ObservedPhase::Placing);
    assert_eq!(with("Running", none()).unwrap(), ObservedPhase::Running);
    assert_eq!(with("Updating", none()).unwrap(), ObservedPhase::Updating);
    assert_eq!(with("Succeeded", none()).unwrap(), ObservedPhase::Succeeded);
    assert_eq!(with("Failed", none()).unwrap(), ObservedPhase::Failed);
    for unknown in ["", "running", "Exploded"] {
        assert_eq!(with(unknown, none()).unwrap(), ObservedPhase::Unknown, "{unknown}");
    }
}

#[test]
fn times() {
    let table = [
        ("2021-06-24 03:32:02 +0000 UTC", Some("2021-06-24T03:32:02.000Z")),
        ("2021-06-24 03:32:43.420750215 +0000 UTC", Some("2021-06-24T03:32:43.420Z")),
        ("2021-12-06 22:52:24 +0800 CST m=+893.26", Some("2021-12-06T14:52:24.000Z")),
        ("2021-06-24T03:32:02Z", Some("2021-06-24T03:32:02.000Z")),
        ("2021-06-24T11:32:02+08:00", Some("2021-06-24T03:32:02.000Z")),
        ("0001-01-01 00:00:00 +0000 UTC", None),
        ("0001-01-01T00:00:00Z", None),
        ("2021-12-06 22:52:24", None),
        ("", None),
        ("soon", None),
        ("2021-06-24 03:32:02 +€00 UTC", None),
    ];
    for (text, expected) in table {
        assert_eq!(time(text).map(|t| t.to_string()).as_deref(), expected, "{text}");
    }
}

#[test]
fn events_are_classified() {
    let class = |reason: &str, kind: &str, message: &str| {
        let e = json!({"Reason": reason, "Type": kind, "Message": message, "Count": 2, "PodName": "p",
            "FirstTimestamp": "2021-06-24 03:32:02 +0000 UTC", "LastTimestamp": null});
        event(serde_json::from_value(e).unwrap()).class
    };
    let sandbox = "Failed to create pod sandbox: Insufficient Resource in zone";
    assert_eq!(class("FailedCreatePodSandBox", "Warning", sandbox), EventClass::NoCapacity);
    assert_eq!(class("FailedCreatePodSandBox", "Warning", "disk is elsewhere"), EventClass::Warning);
    assert_eq!(class("BackOff", "Warning", "insufficient resource"), EventClass::Warning);
    assert_eq!(class("Pulled", "Normal", "image pulled"), EventClass::Normal);
}

#[test]
fn odd_numbers_are_clamped() {
    let ci = |cpu: f64, exit: i64| {
        json!({"EksCiId": "eksci-1", "Status": "Running", "Cpu": cpu, "Memory": cpu, "Containers": [
            {"RestartCount": u64::MAX, "CurrentState": {"State": "exited", "ExitCode": exit, "RestartCount": -1}}]})
    };
    let seen = convert(ci(-1.0, i64::MIN)).unwrap();
    assert_eq!((seen.shape.cpu, seen.containers[0].exit_code), (MilliCpu(0), Some(i32::MIN)));
    let seen = convert(ci(1e300, i64::MAX)).unwrap();
    assert_eq!((seen.shape.cpu, seen.containers[0].exit_code), (MilliCpu(u64::MAX), Some(i32::MAX)));
    assert_eq!(seen.containers[0].restart_count, u32::MAX);
}

proptest! {
    #[test]
    fn no_time_text_panics(text in "\\PC{0,40}") {
        let _ = time(&text);
    }

    #[test]
    fn no_time_like_text_panics(text in "[0-9]{0,5}-[0-9]{0,2}-[0-9]{0,2} [0-9:.]{0,12} [-+]?[0-9:é]{0,6}( [A-Z]{0,3})?") {
        let _ = time(&text);
    }
}
