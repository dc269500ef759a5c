//! ECI's actions over real sockets, without faults.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::eci_client::{Eci, V3, start};

#[tokio::test]
async fn an_instance_from_create_to_delete() {
    let (_simulator, eci) = start(|_| {}).await;
    let more = [
        ("Cpu", "7"),
        ("Memory", "13"),
        ("Tag.1.Key", "team"),
        ("Tag.1.Value", "red"),
        ("Container.1.EnvironmentVar.1.Key", "A"),
        ("Container.1.EnvironmentVar.1.Value", "1 2"),
        ("Container.1.VolumeMount.1.Name", "conf"),
        ("Container.1.VolumeMount.1.MountPath", "/etc/app"),
        ("Volume.1.Name", "conf"),
        ("Volume.1.Type", "ConfigFileVolume"),
        ("Volume.1.ConfigFileVolume.ConfigFileToPath.1.Path", "a.conf"),
        ("Volume.1.ConfigFileVolume.ConfigFileToPath.1.Content", "aGVsbG8="),
        ("AutoCreateEip", "true"),
        ("EipBandwidth", "5"),
    ];
    let id = eci.created("web-1", &more).await;
    let group = eci.wait(&id, "Running").await;
    // 7 vCPU, 13 GiB is not sold: rounded up and billed so.
    assert_eq!((&group["Cpu"], &group["Memory"]), (&json!(8.0), &json!(16.0)));
    assert_eq!(group["ZoneId"], eci.zone(0));
    assert_eq!(group["VSwitchId"], eci.vswitch(0));
    assert_eq!(group["Tags"], json!([{"Key": "team", "Value": "red"}]));
    assert_eq!(group["Containers"][0]["EnvironmentVars"], json!([{"Key": "A", "Value": "1 2"}]));
    assert_eq!(group["Containers"][0]["CurrentState"]["State"], "Running");
    assert_eq!(group["Volumes"][0]["ConfigFileVolumeConfigFileToPaths"][0]["Path"], "a.conf");
    assert!(group["IntranetIp"].is_string() && group["InternetIp"].is_string());
    let created = group["CreationTime"].as_str().unwrap();
    assert!(created.len() == 20 && created.ends_with('Z'), "{created}");
    assert!(!group["Events"].as_array().unwrap().is_empty());

    eci.call("DeleteContainerGroup", &[("ContainerGroupId", &id)]).await.ok();
    assert!(eci.group(&id).await.is_null());
    eci.call("DeleteContainerGroup", &[("ContainerGroupId", &id)]).await.assert_code("InvalidParameter.NotFound", 404);
    let truth = eci.truth("web-1").await;
    assert_eq!((truth.len(), &truth[0]["exists"]), (1, &json!(false)));
}

#[tokio::test]
async fn one_token_is_one_instance() {
    let (_simulator, eci) = start(|_| {}).await;
    let request = |eci: &Eci| {
        let eci = eci.clone();
        async move { eci.created("once", &[("ClientToken", "tok-1")]).await }
    };
    let calls: Vec<_> = (0..50).map(|_| tokio::spawn(request(&eci))).collect();
    let mut ids = BTreeSet::new();
    for call in calls {
        ids.insert(call.await.unwrap());
    }
    assert_eq!(ids.len(), 1);
    assert_eq!(eci.truth("once").await.len(), 1);
    let other = eci.create("once", &[("ClientToken", "tok-1"), ("Cpu", "4"), ("Memory", "8")]).await;
    other.assert_code("IdempotentParameterMismatch", 400);
    // Case counts, and the token of another action is another token.
    assert!(!ids.contains(&eci.created("once", &[("ClientToken", "TOK-1")]).await));
    let long = "x".repeat(65);
    eci.create("once", &[("ClientToken", &long)]).await.assert_code("InvalidParameter", 400);
}

#[tokio::test]
async fn a_refused_create_does_not_spend_its_token() {
    let (_simulator, eci) = start(|_| {}).await;
    eci.fault(json!({"kind": "soldOut", "when": "atCreate", "region": "cn-hangzhou", "times": 1})).await;
    let token = [("ClientToken", "tok-2")];
    eci.create("again", &token).await.assert_code("OperationDenied.NoStock", 403);
    let id = eci.created("again", &token).await;
    assert_eq!(eci.created("again", &token).await, id);
}

#[tokio::test]
async fn pages_hold_every_instance_once() {
    let (_simulator, eci) = start(|_| {}).await;
    let mut made = BTreeSet::new();
    for n in 0..45 {
        made.insert(eci.created(&format!("page-{n}"), &[]).await);
    }
    let mut seen = Vec::new();
    let mut token = String::new();
    for expected in [20, 20, 5] {
        let reply = eci.call("DescribeContainerGroups", &[("NextToken", &token)]).await.ok();
        assert_eq!(reply["TotalCount"], 45);
        let groups = reply["ContainerGroups"].as_array().unwrap();
        assert_eq!(groups.len(), expected);
        seen.extend(groups.iter().map(|group| group["ContainerGroupId"].as_str().unwrap().to_owned()));
        token = reply["NextToken"].as_str().unwrap().to_owned();
    }
    assert_eq!(token, "");
    assert_eq!(seen.len(), 45);
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), made);
    eci.call("DescribeContainerGroups", &[("NextToken", "nonsense")]).await.assert_code("InvalidParameter", 400);
}

#[tokio::test]
async fn filters_are_all_applied() {
    let (_simulator, eci) = start(|_| {}).await;
    let red = eci.running("red-1", &[("Tag.1.Key", "team"), ("Tag.1.Value", "red")]).await;
    let blue =
        eci.running("blue-1", &[("Tag.1.Key", "team"), ("Tag.1.Value", "blue"), ("VSwitchId", eci.vswitch(1))]).await;
    let both = json!([red, blue]).to_string();
    let (red, blue) = (red.as_str(), blue.as_str());
    let (zone, vswitch) = (eci.zone(1), eci.vswitch(1));
    for (filter, expected) in [
        (vec![("ContainerGroupIds", both.as_str())], vec![red, blue]),
        (vec![("ContainerGroupName", "red-1")], vec![red]),
        (vec![("Status", "Running")], vec![red, blue]),
        (vec![("Status", "Pending")], vec![]),
        (vec![("ZoneId", zone)], vec![blue]),
        (vec![("VSwitchId", vswitch)], vec![blue]),
        (vec![("SecurityGroupId", eci.backend.security_group_id.as_str())], vec![red, blue]),
        (vec![("SecurityGroupId", "sg-other")], vec![]),
        (vec![("Tag.1.Key", "team")], vec![red, blue]),
        (vec![("Tag.1.Key", "team"), ("Tag.1.Value", "red")], vec![red]),
        (vec![("Tag.1.Key", "team"), ("Tag.1.Value", "red"), ("ZoneId", zone)], vec![]),
        (vec![("ContainerGroupIds", "[\"eci-none\"]")], vec![]),
    ] {
        let reply = eci.call("DescribeContainerGroups", &filter).await.ok();
        let groups = reply["ContainerGroups"].as_array().unwrap();
        let ids: Vec<&str> = groups.iter().map(|group| group["ContainerGroupId"].as_str().unwrap()).collect();
        assert_eq!(ids, expected, "{filter:?}");
    }
    eci.call("DescribeContainerGroups", &[("ContainerGroupIds", "eci-1")]).await.assert_code("InvalidParameter", 400);
    let many = json!(vec!["eci-x"; 21]).to_string();
    eci.call("DescribeContainerGroups", &[("ContainerGroupIds", &many)]).await.assert_code("InvalidParameter", 400);
}

#[tokio::test]
async fn status_and_events_by_time_and_source() {
    let (_simulator, eci) = start(|_| {}).await;
    let id = eci.running("stat-1", &[]).await;
    let ids = json!([id]).to_string();
    let status = eci.call("DescribeContainerGroupStatus", &[("SinceSecond", "60")]).await.ok();
    assert_eq!(status["TotalCount"], 1);
    assert_eq!(status["Data"][0]["Status"], "Running");
    assert_eq!(status["Data"][0]["PodStatus"]["Phase"], "Running");
    assert!(status["Data"][0]["PodStatus"]["ContainerStatuses"][0]["State"]["Running"].is_object());
    let all = [("ContainerGroupIds", ids.as_str())];
    let events = eci.call("DescribeContainerGroupEvents", &all).await.ok();
    let count = |reply: &Value| reply["Data"][0]["Events"].as_array().unwrap().len();
    let mut by_source = 0;
    for source in ["EciService", "K8sAgent"] {
        let reply = eci.call("DescribeContainerGroupEvents", &[all[0], ("EventSource", source)]).await.ok();
        let list = reply["Data"][0]["Events"].as_array().unwrap();
        assert!(list.iter().all(|event| event["Source"]["Component"] == source));
        by_source += count(&reply);
    }
    assert!(count(&events) > 0);
    assert_eq!(count(&events), by_source);
    eci.call("DescribeContainerGroupEvents", &[("SinceSecond", "59")]).await.assert_code("InvalidParameter", 400);
}

#[tokio::test]
async fn create_is_checked_before_anything_is_made() {
    let (_simulator, eci) = start(|_| {}).await;
    let check = async |more: &[(&str, &str)], code: &str, status: u16| {
        eci.create("bad-1", more).await.assert_code(code, status);
    };
    check(&[("ContainerGroupName", "Bad_Name")], "InvalidParameter", 400).await;
    check(&[("VSwitchId", "vsw-none")], "InvalidParameter.NotFound", 404).await;
    check(&[("SecurityGroupId", "sg-none")], "OperationDenied.SecurityGroupMisMatch", 403).await;
    check(&[("ZoneId", eci.zone(1))], "OperationDenied.VswZoneMisMatch", 403).await;
    check(&[("Cpu", "65"), ("Memory", "1")], "InvalidParameter.CPU.Memory", 400).await;
    check(&[("Cpu", "0"), ("Memory", "1")], "InvalidParameter.CPU.Memory", 400).await;
    check(&[("RestartPolicy", "Sometimes")], "InvalidParameter", 400).await;
    check(&[("SpotStrategy", "SpotWithPriceLimit")], "MissingParameter", 400).await;
    check(&[("SpotStrategy", "SpotWithPriceLimit"), ("SpotPriceLimit", "0.000001")], "Spot.NotMatched", 403).await;
    check(&[("InstanceType", "ecs.none.large")], "InvalidParameter", 400).await;
    check(&[("ImageSnapshotId", "imc-none")], "ImageSnapshot.NotFound", 404).await;
    check(&[("Container.2.Name", "app"), ("Container.2.Image", "i")], "InvalidParameter.DuplicatedName", 400).await;
    check(&[("Container.1.VolumeMount.1.Name", "none")], "InvalidParameter", 400).await;
    check(&[("Volume.1.Name", "v"), ("Volume.1.Type", "Floppy")], "InvalidParameter", 400).await;
    check(&[("DryRun", "true")], "DryRun.Success", 400).await;
    check(&[("DryRun", "true"), ("VSwitchId", "vsw-none")], "InvalidParameter.NotFound", 404).await;
    assert!(eci.truth("bad-1").await.is_empty());
}

#[tokio::test]
async fn quota_and_addresses_run_out() {
    let (_simulator, eci) = start(|scenario| {
        for account in &mut scenario.accounts {
            account.max_vcpu = 4.0;
        }
        for region in &mut scenario.regions {
            region.zones[1].free_ips = 0;
        }
    })
    .await;
    eci.create("q-0", &[("VSwitchId", eci.vswitch(1))]).await.assert_code("InvalidVSwitchId.IpNotEnough", 403);
    eci.created("q-1", &[]).await;
    let two = format!("{},{}", eci.vswitch(1), eci.vswitch(0));
    let id = eci.created("q-2", &[("VSwitchId", &two), ("ScheduleStrategy", "VSwitchOrdered")]).await;
    assert_eq!(eci.group(&id).await["ZoneId"], eci.zone(0), "no free address: the next vSwitch is tried");
    eci.create("q-3", &[]).await.assert_code("QuotaExceeded", 403);
    let usage = eci.call("ListUsage", &[]).await.ok();
    assert_eq!((&usage["Attributes"]["UsedCpu"], &usage["Attributes"]["MaxCpu"]), (&json!(4.0), &json!(4.0)));
}

#[tokio::test]
async fn instance_types_are_tried_in_turn() {
    let (_simulator, eci) = start(|scenario| {
        for zone in scenario.regions.iter_mut().flat_map(|region| &mut region.zones) {
            zone.stock.insert("4-15-T4x1".to_owned(), 0);
        }
    })
    .await;
    let types = ("InstanceType", "ecs.gn6i-c4g1.xlarge,ecs.gn6v-c8g1.2xlarge");
    let id = eci.created("gpu-1", &[types, ("Container.1.Gpu", "1")]).await;
    let group = eci.wait(&id, "Running").await;
    assert_eq!(group["InstanceType"], "ecs.gn6v-c8g1.2xlarge");
    assert_eq!((&group["Cpu"], &group["Containers"][0]["Gpu"]), (&json!(8.0), &json!(1)));
    let none = eci.create("gpu-2", &[("InstanceType", "ecs.gn6i-c4g1.xlarge")]).await;
    none.assert_code("OperationDenied.NoStock", 403);
}

#[tokio::test]
async fn update_changes_what_it_names() {
    let (_simulator, eci) = start(|_| {}).await;
    let two = [
        ("Container.1.Command.1", "sleep"),
        ("Container.2.Name", "side"),
        ("Container.2.Image", "busybox:1"),
        ("Tag.1.Key", "a"),
        ("Tag.1.Value", "1"),
    ];
    let id = eci.running("upd-1", &two).await;
    let update = async |more: &[(&str, &str)]| {
        let mut params = vec![("ContainerGroupId", id.as_str())];
        params.extend(more);
        eci.call("UpdateContainerGroup", &params).await
    };
    update(&[("RestartPolicy", "Always")]).await.assert_code("NoNeedUpdate", 400);
    update(&[("UpdateType", "Half")]).await.assert_code("InvalidParameter", 400);
    let incremental = [
        ("UpdateType", "IncrementalUpdate"),
        ("Container.1.Name", "app"),
        ("Container.1.Image", "nginx:1.26"),
        ("Tag.1.Key", "b"),
        ("Tag.1.Value", "2"),
    ];
    update(&incremental).await.ok();
    assert_eq!(eci.group(&id).await["Status"], "Updating");
    update(&[("RestartPolicy", "Never")]).await.assert_code("IncorrectStatus", 400);
    let group = eci.wait(&id, "Running").await;
    assert_eq!(group["Containers"][0]["Image"], "nginx:1.26");
    assert_eq!(group["Containers"][0]["Commands"], json!(["sleep"]));
    assert_eq!(group["Containers"][1]["Name"], "side");
    assert_eq!(group["Tags"].as_array().unwrap().len(), 2);

    update(&[("Container.1.Name", "only"), ("Container.1.Image", "redis:7"), ("Cpu", "4"), ("Memory", "8")]).await.ok();
    let group = eci.wait(&id, "Running").await;
    assert_eq!(group["Containers"].as_array().unwrap().len(), 1);
    assert_eq!((&group["Containers"][0]["Name"], &group["Cpu"]), (&json!("only"), &json!(4.0)));
    let none = eci.call("UpdateContainerGroup", &[("ContainerGroupId", "eci-none"), ("Cpu", "4")]).await;
    none.assert_code("InvalidParameter.NotFound", 404);
}

#[tokio::test]
async fn restart_log_and_the_life_before() {
    let (_simulator, eci) = start(|_| {}).await;
    let id = eci
        .running(
            "log-1",
            &[
                ("Container.1.Command.1", "sh"),
                ("Container.1.Command.2", "-c"),
                ("Container.1.Command.3", "echo 你好; sleep 1000"),
            ],
        )
        .await;
    let log = async |more: &[(&str, &str)]| {
        let mut params = vec![("ContainerGroupId", id.as_str()), ("ContainerName", "app")];
        params.extend(more);
        eci.call("DescribeContainerLog", &params).await
    };
    let text = |reply: &crate::eci_client::Reply| reply.ok()["Content"].as_str().unwrap().to_owned();
    assert!(text(&log(&[]).await).starts_with("app: started nginx:1.25\n你好\n"));
    assert!(text(&log(&[("Timestamps", "true"), ("Tail", "1")]).await).contains("Z "));
    assert_eq!(text(&log(&[("LimitBytes", "3")]).await), "app");
    assert_eq!(text(&log(&[("LastTime", "true")]).await), "");
    log(&[("Tail", "2001")]).await.assert_code("InvalidParameter", 400);
    let other = [("ContainerGroupId", id.as_str()), ("ContainerName", "none")];
    eci.call("DescribeContainerLog", &other).await.assert_code("InvalidParameter.NotFound", 404);

    eci.call("RestartContainerGroup", &[("ContainerGroupId", &id)]).await.ok();
    assert_eq!(eci.group(&id).await["Status"], "Restarting");
    let group = eci.wait(&id, "Running").await;
    assert_eq!(group["Containers"][0]["PreviousState"]["State"], "Terminated");
    assert!(text(&log(&[("LastTime", "true")]).await).contains("你好"));
}

#[tokio::test]
async fn a_task_ends_and_takes_no_more_changes() {
    let (_simulator, eci) = start(|_| {}).await;
    let command = [("Container.1.Command.1", "sh"), ("Container.1.Command.2", "-c"), ("RestartPolicy", "Never")];
    let good = [command.as_slice(), &[("Container.1.Command.3", "exit 0")]].concat();
    let bad = [command.as_slice(), &[("Container.1.Command.3", "exit 3")]].concat();
    let good = eci.created("task-good", &good).await;
    let bad = eci.created("task-bad", &bad).await;
    assert!(eci.wait(&good, "Succeeded").await["SucceededTime"].is_string());
    let group = eci.wait(&bad, "Failed").await;
    assert_eq!(group["Containers"][0]["CurrentState"]["ExitCode"], 3);
    for action in ["RestartContainerGroup", "UpdateContainerGroup"] {
        let params = [("ContainerGroupId", good.as_str()), ("RestartPolicy", "Always")];
        let params = if action == "UpdateContainerGroup" { &params[..] } else { &params[..1] };
        eci.call(action, params).await.assert_code("IncorrectStatus", 400);
    }
}

#[tokio::test]
async fn the_legacy_batch_deletes_all_or_none() {
    let (_simulator, eci) = start(|_| {}).await;
    let (one, two) = (eci.created("b-1", &[]).await, eci.created("b-2", &[]).await);
    let with_unknown = json!([one, "eci-none"]).to_string();
    let batch =
        async |ids: &str| eci.call_v1("DeleteContainerGroups", &[("ContainerGroupIds", ids), ("Format", "JSON")]).await;
    batch(&with_unknown).await.assert_code("InvalidParameter.NotFound", 404);
    assert!(eci.group(&one).await.is_object());
    batch(&json!([one, two]).to_string()).await.ok();
    assert!(eci.group(&one).await.is_null() && eci.group(&two).await.is_null());
}

#[tokio::test]
async fn what_is_sold_where_and_for_how_much() {
    let (_simulator, eci) = start(|scenario| {
        for region in &mut scenario.regions {
            region.zones[1].stock.insert("2-4".to_owned(), 0);
        }
    })
    .await;
    let mut request = eci.v3("DescribeRegions", &[]);
    assert_eq!(eci.send(&request).await.unwrap().ok()["Regions"].as_array().unwrap().len(), 1, "RegionId is a filter");
    request = V3 { query: std::collections::BTreeMap::new(), nonce: crate::eci_client::nonce(), ..request };
    let regions = eci.send(&request).await.unwrap().ok();
    assert_eq!(regions["Regions"].as_array().unwrap().len(), 2);
    let mine = regions["Regions"].as_array().unwrap().iter().find(|r| r["RegionId"] == "cn-hangzhou").unwrap();
    assert_eq!(mine["Zones"].as_array().unwrap().len(), 3);
    assert_eq!(mine["RecommendZones"], json!([eci.zone(0), eci.zone(2)]));

    let wanted = [("DestinationResource.Category", "InstanceType"), ("DestinationResource.Value", "ecs.c6.large")];
    let available = eci.call("DescribeAvailableResource", &wanted).await.ok();
    let zones = available["AvailableZones"]["AvailableZone"].as_array().unwrap();
    let state = |at: usize| {
        zones[at]["AvailableResources"]["AvailableResource"][0]["SupportedResources"]["SupportedResource"][0]["StatusCategory"].clone()
    };
    assert_eq!((state(0), state(1)), (json!("WithStock"), json!("WithoutStock")));

    let price = async |more: &[(&str, &str)]| eci.call("DescribeContainerGroupPrice", more).await;
    let one = price(&[("Cpu", "2"), ("Memory", "4"), ("ZoneId", eci.zone(0))]).await.ok();
    let twice = price(&[("Cpu", "4"), ("Memory", "8"), ("ZoneId", eci.zone(0))]).await.ok();
    let trade = |reply: &Value| reply["PriceInfo"]["Price"]["TradePrice"].as_f64().unwrap();
    assert!((trade(&twice) - 2.0 * trade(&one)).abs() < 1e-8);
    // The demo's first zone: 0.11 a vCPU hour and 0.05 a GiB hour; the reply is per second.
    assert!((trade(&one) * 3_600.0 - 0.42).abs() < 1e-5, "{one}");
    let spot = price(&[("InstanceType", "ecs.c6.large"), ("SpotStrategy", "SpotAsPriceGo")]).await.ok();
    let spots = spot["PriceInfo"]["SpotPrices"]["SpotPrice"].as_array().unwrap();
    assert_eq!(spots.len(), 3);
    assert!(spots.iter().all(|one| one["SpotPrice"].as_f64() < one["OriginPrice"].as_f64()));
    price(&[("Cpu", "2")]).await.assert_code("MissingParameter", 400);
    price(&[("Cpu", "2"), ("Memory", "4"), ("ZoneId", "z")]).await.assert_code("InvalidParameter.NotFound", 404);
}

#[tokio::test]
async fn image_caches_become_ready_and_can_be_used() {
    let (_simulator, eci) = start(|scenario| scenario.limits.enabled = false).await;
    let params =
        [("ImageCacheName", "imc-1"), ("Image.1", "nginx:1.25"), ("Image.2", "busybox:1"), ("ClientToken", "c1")];
    let made = eci.call("CreateImageCache", &params).await.ok();
    let id = made["ImageCacheId"].as_str().unwrap();
    assert_eq!(eci.call("CreateImageCache", &params).await.ok()["ImageCacheId"], id);
    let show = async || eci.call("DescribeImageCaches", &[("ImageCacheId", id)]).await.ok()["ImageCaches"][0].clone();
    assert_ne!(show().await["Status"], "Ready");
    eci.create("cached", &[("ImageSnapshotId", id)]).await.assert_code("ImageSnapshot.IncorrectStatus", 400);
    let ready = async { while show().await["Status"] != "Ready" {} };
    tokio::time::timeout(crate::eci_client::PATIENCE, ready).await.unwrap();
    eci.created("cached", &[("ImageSnapshotId", id)]).await;
    eci.call("UpdateImageCache", &[("ImageCacheId", id), ("Image.1", "redis:7")]).await.ok();
    assert_eq!(show().await["Images"], json!(["redis:7"]));
    eci.call("DeleteImageCache", &[("ImageCacheId", id)]).await.ok();
    eci.call("DeleteImageCache", &[("ImageCacheId", id)]).await.assert_code("InvalidParameter.NotFound", 404);
}

#[tokio::test]
async fn tags_are_put_on_taken_off_and_listed() {
    let (_simulator, eci) = start(|_| {}).await;
    let id = eci.created("tag-1", &[("Tag.1.Key", "a"), ("Tag.1.Value", "1")]).await;
    let on = [("ResourceType", "containergroup"), ("ResourceId.1", id.as_str())];
    let with = |more: &[(&'static str, &'static str)]| [on.as_slice(), more].concat();
    eci.call(
        "TagResources",
        &with(&[("Tag.1.Key", "a"), ("Tag.1.Value", "2"), ("Tag.2.Key", "b"), ("Tag.2.Value", "3")]),
    )
    .await
    .ok();
    let list = eci.call("ListTagResources", &on).await.ok();
    let pairs: Vec<(&str, &str)> = list["TagResources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tag| (tag["TagKey"].as_str().unwrap(), tag["TagValue"].as_str().unwrap()))
        .collect();
    assert_eq!(pairs, [("a", "2"), ("b", "3")]);
    eci.call("UntagResources", &with(&[("TagKey.1", "a")])).await.ok();
    assert_eq!(eci.group(&id).await["Tags"], json!([{"Key": "b", "Value": "3"}]));
    eci.call("UntagResources", &with(&[("All", "true")])).await.ok();
    assert_eq!(eci.group(&id).await["Tags"], json!([]));
    let none = [("ResourceType", "containergroup"), ("ResourceId.1", "eci-none"), ("Tag.1.Key", "a")];
    eci.call("TagResources", &none).await.assert_code("InvalidParameter.NotFound", 404);
    eci.call("ListTagResources", &[("ResourceType", "moon")]).await.assert_code("InvalidParameter", 400);
}

#[tokio::test]
async fn metrics_are_repeatable() {
    let (_simulator, eci) = start(|_| {}).await;
    let id = eci.running("met-1", &[]).await;
    let ids = json!([id]).to_string();
    let params = [("ContainerGroupId", id.as_str()), ("Period", "15")];
    let one = eci.call("DescribeContainerGroupMetric", &params).await.ok();
    assert_eq!(one["ContainerGroupId"], id.as_str());
    assert!(one["Records"].is_array());
    let many = eci.call("DescribeMultiContainerGroupMetric", &[("ContainerGroupIds", &ids)]).await.ok();
    assert_eq!(many["MonitorDatas"][0]["ContainerGroupId"], id.as_str());
    let odd = [("ContainerGroupId", id.as_str()), ("Period", "7")];
    eci.call("DescribeContainerGroupMetric", &odd).await.assert_code("InvalidParameter", 400);
}

#[tokio::test]
async fn parameters_may_come_in_a_form() {
    let (_simulator, eci) = start(|_| {}).await;
    let mut request: V3 = eci.v3(
        "CreateContainerGroup",
        &[("ContainerGroupName", "form-1"), ("Container.1.Name", "app"), ("Container.1.Image", "nginx")],
    );
    request.form = std::mem::take(&mut request.query);
    let id = eci.send(&request).await.unwrap().ok()["ContainerGroupId"].as_str().unwrap().to_owned();
    // Neither size nor containers' sums: 2 vCPU and 4 GiB.
    let group = eci.wait(&id, "Running").await;
    assert_eq!((&group["Cpu"], &group["Memory"]), (&json!(2.0), &json!(4.0)));
}
