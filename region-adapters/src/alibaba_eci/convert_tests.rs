//! Tests of the conversions: the vendor's states and events as tables, replies as fixtures, and anything at
//! all through the readers.

use meridian_model::error::{Effect, FaultKind};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn page_of(reply: &Value) -> Result<Page, AdapterError> {
    page(read(Verb::Read, &Bytes::from(reply.to_string()))?, &[])
}

fn group(extra: &Value) -> wire::ContainerGroup {
    serde_json::from_value(extra.clone()).unwrap()
}

fn one(extra: Value) -> Observed {
    let mut base = json!({"ContainerGroupId": "eci-1", "Status": "Running"});
    base.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    page_of(&json!({"ContainerGroups": [base]})).unwrap().items.remove(0)
}

fn at(text: &str) -> Option<Time> {
    Some(Time::parse(text).unwrap())
}

#[test]
fn a_described_instance_in_full() {
    let reply = Bytes::from_static(include_bytes!("fixtures/describe.json"));
    let page = page(read(Verb::Read, &reply).unwrap(), &[]).unwrap();
    assert_eq!(page.total, Some(21));
    assert_eq!(page.next, Some(Cursor("d78f2dd8-5979-42fe-0000-b16db43be5bc".to_owned())));
    let o = &page.items[0];
    assert_eq!(o.id, Some(CloudId::new("eci-2zebxkiifulhl0000001").unwrap()));
    assert_eq!((o.name.as_str(), o.phase), ("web-1", ObservedPhase::Running));
    assert_eq!(o.zone, Some(ZoneId::new("cn-hangzhou-h").unwrap()));
    assert_eq!((o.shape.cpu, o.shape.memory), (MilliCpu(500), MemoryMib(1024)));
    assert_eq!((o.private_ip.as_deref(), o.public_ip.as_deref()), (Some("172.16.0.9"), Some("101.37.0.1")));
    assert_eq!(o.tags["部门"], "平台");
    assert_eq!(o.marks, Labels::from([("MERIDIAN_OP".to_owned(), "op-1".to_owned())]));
    assert_eq!((o.created_at, o.finished_at), (at("2026-01-01T00:00:00Z"), None));
    let [init, app] = o.containers.as_slice() else { panic!("{:?}", o.containers) };
    assert!(init.init && init.state == ContainerPhase::Terminated && !init.ready);
    assert_eq!((init.exit_code, init.reason.as_str()), (Some(0), "Completed"));
    assert!(!app.init && app.ready && app.state == ContainerPhase::Running);
    assert_eq!((app.restart_count, app.exit_code), (2, None));
    assert_eq!(app.started_at, at("2026-01-01T00:01:00Z"));
    assert_eq!(app.finished_at, at("2026-01-01T00:00:50Z"), "the end of the run before");
}

#[test]
fn every_documented_status() {
    use ObservedPhase as P;
    for (status, phase) in [
        ("Scheduling", P::Placing),
        ("ScheduleFailed", P::Unplaceable),
        ("Pending", P::Starting),
        ("Running", P::Running),
        ("Restarting", P::Updating),
        ("Updating", P::Updating),
        ("Terminating", P::Terminating),
        ("Succeeded", P::Succeeded),
        ("Failed", P::Failed),
        ("Expired", P::Reclaimed),
    ] {
        assert_eq!(one(json!({"Status": status})).phase, phase, "{status}");
    }
}

#[test]
fn an_unknown_status_proves_nothing() {
    assert_eq!(one(json!({"Status": "Hibernating"})).phase, ObservedPhase::Unknown);
    assert_eq!(one(json!({"Status": ""})).phase, ObservedPhase::Unknown);
}

#[test]
fn an_unusable_id_is_an_error() {
    for bad in [json!({"ContainerGroupId": "", "Status": "Running"}), json!({"Status": "Running"})] {
        let good = json!({"ContainerGroupId": "eci-2", "Status": "Running"});
        let error = page_of(&json!({"ContainerGroups": [good, bad]})).unwrap_err();
        assert_eq!((error.kind, error.effect), (FaultKind::Unexpected, Effect::NotApplied), "{bad}");
    }
}

#[test]
fn null_and_missing_fields_are_the_same() {
    let reply = json!({"ContainerGroups": null, "NextToken": null, "TotalCount": null});
    assert_eq!(page_of(&reply).unwrap(), Page::default());
    assert_eq!(page_of(&json!({})).unwrap(), Page::default());
    let o = one(json!({"Containers": [{"Name": null, "CurrentState": null}], "Tags": null, "Cpu": null}));
    assert_eq!(o.containers[0].state, ContainerPhase::Waiting);
    assert_eq!(o.shape.cpu, MilliCpu(0));
}

#[test]
fn ends_reasons_and_waits() {
    let failed = one(json!({"Status": "Failed", "FailedTime": "2026-01-01T00:09:00Z", "Containers": [
        {"Name": "a", "CurrentState": {"State": "Terminated", "ExitCode": 3, "Reason": "Error", "Message": "m"}}]}));
    assert_eq!(failed.finished_at, at("2026-01-01T00:09:00Z"));
    assert_eq!((failed.reason.as_str(), failed.message.as_str()), ("Error", "m"));
    assert_eq!(failed.containers[0].exit_code, Some(3));

    let stuck = one(json!({"Status": "ScheduleFailed", "Events": [
        {"Type": "Warning", "Reason": "NoStock", "Message": "out"}, {"Type": "Normal", "Reason": "x"}]}));
    assert_eq!((stuck.reason.as_str(), stuck.message.as_str()), ("NoStock", "out"));
    assert_eq!(one(json!({"Status": "ScheduleFailed"})).reason, "ScheduleFailed");

    let odd = one(json!({"Containers": [{"Name": "a", "Ready": true, "CurrentState": {"State": "Frozen"}}]}));
    assert_eq!((odd.containers[0].state, odd.containers[0].reason.as_str()), (ContainerPhase::Waiting, "Frozen"));
    assert!(!odd.containers[0].ready, "what does not run is not ready");
    // A time in another form is none, not an error.
    assert_eq!(one(json!({"CreationTime": "yesterday"})).created_at, None);
}

#[test]
fn the_gpu_model_follows_from_the_instance_type() {
    let sizes = [GpuSize {
        gpu_type: "T4".to_owned(),
        gpu_count: 1,
        cpu: MilliCpu(4000),
        memory: MemoryMib(15 * 1024),
        vendor_name: "ecs.t".to_owned(),
    }];
    let with = |kind: &str| {
        let group = group(&json!({"InstanceType": kind, "Cpu": 4.0, "Memory": 15.0, "Containers": [{"Gpu": 2}]}));
        shape(&group, &sizes)
    };
    assert_eq!((with("ecs.t").gpu_type.as_deref(), with("ecs.t").gpu_count), (Some("T4"), 1));
    assert_eq!((with("ecs.other").gpu_type, with("ecs.other").gpu_count), (None, 2));
}

#[test]
fn events_are_classified() {
    use EventClass::{NoCapacity, Normal, Warning};
    for (kind, reason, message, class) in [
        ("Warning", "NoStock", "Create ECI failed because the specified instance is out of stock.", NoCapacity),
        ("Warning", "StockClose", "current zone closed", NoCapacity),
        ("Warning", "FailedScheduling", "Schedule eci failed: out of stock", NoCapacity),
        ("Warning", "FailedScheduling", "Schedule eci failed:OperationDenied.NoStock", NoCapacity),
        ("Warning", "FailedScheduling", "Unknown error occurred.", Warning),
        ("Warning", "StockExhaust", "The stock of the specified zones will be used up.", Warning),
        ("Normal", "StockExhaust", "", Warning),
        ("Warning", "DiskCapacityQuotaFull", "", Warning),
        ("Warning", "InsufficientBalance", "", Warning),
        ("Warning", "UnknownError", "heavy load", Warning),
        ("Normal", "Pulled", "", Normal),
        ("", "", "", Normal),
    ] {
        let group = group(&json!({"Events": [{"Type": kind, "Reason": reason, "Message": message, "Count": 3,
            "FirstTimestamp": "2026-01-01T00:00:00Z", "LastTimestamp": "2026-01-01T00:00:09Z"}]}));
        let event = events(&group).remove(0);
        assert_eq!((event.class, event.count), (class, 3), "{reason}: {message}");
        assert_eq!(event.last_seen, at("2026-01-01T00:00:09Z"));
    }
}

#[test]
fn zones_say_what_is_sold() {
    let regions: wire::Regions = serde_json::from_value(json!({"Regions": [
        {"RegionId": "cn-beijing", "Zones": ["cn-beijing-c"]},
        {"RegionId": "cn-hangzhou", "Zones": ["cn-hangzhou-h", "cn-hangzhou-i"],
         "RecommendZones": ["cn-hangzhou-h"], "UnavailableZones": ["cn-hangzhou-i"]}]}))
    .unwrap();
    let available: wire::AvailableResources = serde_json::from_value(json!({"AvailableZones": {"AvailableZone": [
        {"ZoneId": "cn-hangzhou-h", "AvailableResources": {"AvailableResource": [
            {"Type": "InstanceTypeFamily", "SupportedResources": {"SupportedResource": [
                {"Value": "ecs.gn6i", "StatusCategory": "WithStock"},
                {"Value": "ecs.gn6v", "StatusCategory": "WithoutStock"}]}}]}}]}}))
    .unwrap();
    let region = RegionId::new("cn-hangzhou").unwrap();
    let report = zones(&region, &regions, &[available]).unwrap();
    let sizes = |i: usize| report[i].sizes.clone();
    assert_eq!(
        (report[0].zone.as_str(), report[0].on_sale, sizes(0)),
        ("cn-hangzhou-h", true, vec!["ecs.gn6i".to_owned()])
    );
    assert_eq!((report[1].zone.as_str(), report[1].on_sale, sizes(1)), ("cn-hangzhou-i", false, vec![]));
    assert!(zones(&RegionId::new("cn-nowhere").unwrap(), &regions, &[]).is_err());
}

#[test]
fn usage_needs_both_numbers() {
    let of = |attributes: Value| usage(&serde_json::from_value(json!({"Attributes": attributes})).unwrap());
    let want = AccountUsage { cpu_used: MilliCpu(12_500), cpu_max: MilliCpu(1_000_000) };
    assert_eq!(of(json!({"UsedCpu": 12.5, "MaxCpu": 1000, "UsedImageCacheCount": 1})), Ok(want));
    assert_eq!(of(json!({"UsedCpu": "12.5", "MaxCpu": "1000"})), Ok(want));
    assert_eq!(of(json!({"UsedCpu": 0, "MaxCpu": 5})).unwrap().cpu_used, MilliCpu(0));
    for bad in
        [json!({}), json!({"UsedCpu": 1}), json!({"UsedCpu": -1, "MaxCpu": 5}), json!({"UsedCpu": "x", "MaxCpu": 5})]
    {
        assert_eq!(of(bad).unwrap_err().kind, FaultKind::Unexpected);
    }
}

#[test]
fn prices_per_second_and_per_hour() {
    // The numbers of the vendor's own example (DescribeContainerGroupPrice, help.aliyun.com 479622): 2 vCPU and
    // 4 GiB at 0.000049 and 0.00000613 a second; ecs.c5.large at 0.622 an hour, 0.056 as spot.
    let reply: wire::PriceReply = serde_json::from_value(json!({"PriceInfo": {
        "Price": {"DiscountPrice": 0, "TradePrice": 0.00012252, "OriginalPrice": 0.00012252, "Currency": "CNY"},
        "SpotPrices": {"SpotPrice": [
            {"ZoneId": "cn-hangzhou-g", "SpotPrice": 0.9, "InstanceType": "ecs.c5.large"},
            {"ZoneId": "cn-hangzhou-i", "SpotPrice": 0.056, "InstanceType": "ecs.c5.large", "OriginPrice": 0.622}]}}}))
    .unwrap();
    let ask = |capacity, zone: &str| {
        price(&reply, &PriceQuery { zone: ZoneId::new(zone).unwrap(), shape: Shape::default(), capacity })
    };
    assert_eq!(ask(CapacityType::OnDemand, "cn-hangzhou-i"), Some(PricePerHour(441_072)));
    assert_eq!(ask(CapacityType::Spot, "cn-hangzhou-i"), Some(PricePerHour(56_000)));
    assert_eq!(ask(CapacityType::Spot, "cn-hangzhou-x"), None);
    let empty = wire::PriceReply::default();
    let query =
        PriceQuery { zone: ZoneId::new("z").unwrap(), shape: Shape::default(), capacity: CapacityType::OnDemand };
    assert_eq!(price(&empty, &query), None);
}

#[test]
fn a_create_without_an_id_is_in_doubt() {
    for body in ["{}", r#"{"ContainerGroupId":""}"#, r#"{"ContainerGroupId":null}"#, r#"{"ContainerGroupId":"a b"}"#] {
        let reply = read::<wire::Created>(Verb::Create, &Bytes::from(body)).unwrap();
        let error = created(&reply).unwrap_err();
        assert_eq!((error.kind, error.effect), (FaultKind::Unexpected, Effect::Unknown), "{body}");
    }
    let error = read::<wire::Created>(Verb::Create, &Bytes::from("<html>")).unwrap_err();
    assert_eq!(error.effect, Effect::Unknown);
}

#[test]
fn an_unreadable_body_is_not_quoted() {
    let body = Bytes::from(r#"{"ContainerGroups": [{"Cpu": "hunter2"}]}"#);
    let error = read::<wire::ContainerGroups>(Verb::Read, &body).unwrap_err();
    assert!(!error.to_string().contains("hunter2"), "{error}");
}

/// Any JSON, with the vendor's names often enough to get deep.
fn any_json() -> impl Strategy<Value = Value> {
    let names = [
        "ContainerGroups",
        "ContainerGroupId",
        "Status",
        "Containers",
        "InitContainers",
        "CurrentState",
        "State",
        "ExitCode",
        "Cpu",
        "Memory",
        "Gpu",
        "Events",
        "Reason",
        "Count",
        "Tags",
        "EnvironmentVars",
        "Key",
        "Value",
        "CreationTime",
        "NextToken",
        "TotalCount",
        "Regions",
        "RegionId",
        "Zones",
        "PriceInfo",
        "Price",
        "TradePrice",
        "SpotPrices",
        "SpotPrice",
        "Attributes",
        "MaxCpu",
        "UsedCpu",
        "AvailableZones",
        "AvailableZone",
    ];
    let words = ["Running", "Waiting", "eci-1", "cn-hangzhou", "2026-01-01T00:00:00Z", "MERIDIAN_OP", ""];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        proptest::sample::select(words.to_vec()).prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((proptest::sample::select(names.to_vec()), inner), 0..6)
                .prop_map(|members| members
                    .into_iter()
                    .map(|(k, v)| (k.to_owned(), v))
                    .collect::<serde_json::Map<_, _>>())
                .prop_map(Value::from),
        ]
    })
}

fn read_everything(body: &Bytes) {
    let query = PriceQuery { zone: ZoneId::new("z").unwrap(), shape: Shape::default(), capacity: CapacityType::Spot };
    if let Ok(reply) = read::<wire::ContainerGroups>(Verb::Read, body) {
        reply.container_groups.iter().for_each(|group| drop(events(group)));
        let _ = page(reply, &[]);
    }
    if let Ok(reply) = read::<wire::Created>(Verb::Create, body) {
        let _ = created(&reply);
    }
    if let Ok(reply) = read::<wire::Regions>(Verb::Read, body) {
        let available = read::<wire::AvailableResources>(Verb::Read, body).into_iter().collect::<Vec<_>>();
        let _ = zones(&RegionId::new("cn-hangzhou").unwrap(), &reply, &available);
    }
    if let Ok(reply) = read::<wire::Usage>(Verb::Read, body) {
        let _ = usage(&reply);
    }
    if let Ok(reply) = read::<wire::PriceReply>(Verb::Read, body) {
        let _ = price(&reply, &query);
        let _ = price(&reply, &PriceQuery { capacity: CapacityType::OnDemand, ..query });
    }
}

proptest! {
    #[test]
    fn no_reply_panics(reply in any_json()) {
        read_everything(&Bytes::from(reply.to_string()));
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        read_everything(&Bytes::from(bytes));
    }

    #[test]
    fn amounts_are_rounded_not_truncated(milli in 0_u64..10_000_000) {
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let vcpu = milli as f64 / 1000.0;
        prop_assert_eq!(scaled(vcpu, 1000.0), Some(milli));
    }
}
