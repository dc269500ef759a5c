//! EKSCI through its wire.

use serde_json::{Value, json};

use crate::client::*;

#[tokio::test]
async fn create_runs_logs_updates_restarts_and_goes() {
    let mut scenario = quick();
    // Long enough to be seen on a busy machine.
    scenario.timing.restart_ms = 1_500;
    let (simulator, info) = start(scenario).await;
    let tencent = Tencent::new(&info, "ap-guangzhou");
    let mut spec = tencent.spec("web-1");
    spec["AutoCreateEip"] = json!(true);
    spec["Containers"][0]["EnvironmentVars"] = json!([{"Name": "A", "Value": "é"}]);
    let id = tencent.create(spec).await;
    assert!(id.starts_with("eksci-") && id.len() == 14, "{id}");
    let running = tencent.wait(&id, "Running").await;
    assert_eq!(running["Containers"][0]["CurrentState"]["State"], "running");
    assert_eq!(running["Containers"][0]["EnvironmentVars"][0]["Value"], "é");
    assert!(running["CreationTime"].as_str().unwrap().ends_with(" +0000 UTC"), "{running}");
    assert!(running["EipAddress"].as_str().unwrap().starts_with("203.0.113."));
    assert!(running["PrivateIp"].as_str().unwrap().starts_with("10."));

    let log = tencent.call("DescribeEksContainerInstanceLog", json!({"EksCiId": id})).await.unwrap();
    assert!(log["LogContent"].as_str().unwrap().starts_with("app: started nginx:1.25\n"), "{log}");
    let events = tencent.call("DescribeEKSContainerInstanceEvent", json!({"EksCiId": id})).await.unwrap();
    let reasons: Vec<_> = events["Events"].as_array().unwrap().iter().map(|e| e["Reason"].clone()).collect();
    assert_eq!(reasons, ["Scheduled", "Pulling", "Pulled", "Created", "Started"]);

    let update = json!({"EksCiId": id, "Name": "web-2", "Containers": [{"Name": "app", "Image": "nginx:1.26"}]});
    assert_eq!(tencent.call("UpdateEKSContainerInstance", update).await.unwrap()["EksCiId"], json!(id));
    let updated = tencent.wait(&id, "Running").await;
    assert_eq!((&updated["EksCiName"], &updated["Containers"][0]["Image"]), (&json!("web-2"), &json!("nginx:1.26")));

    tencent.call("RestartEKSContainerInstances", json!({"EksCiIds": [id]})).await.unwrap();
    assert_eq!(tencent.get(&id).await.unwrap()["Status"], "Pending");
    let restarted = tencent.wait(&id, "Running").await;
    assert_eq!(restarted["Containers"][0]["RestartCount"], 2, "one by the update, one by the restart");
    let previous = json!({"EksCiId": id, "Previous": true});
    let log = tencent.call("DescribeEksContainerInstanceLog", previous).await.unwrap();
    assert!(log["LogContent"].as_str().unwrap().contains("exited with code 143"), "{log}");

    let delete = json!({"EksCiIds": [id], "ReleaseAutoCreatedEip": true});
    tencent.call("DeleteEKSContainerInstances", delete.clone()).await.unwrap();
    assert_eq!(tencent.get(&id).await, None);
    assert_eq!(tencent.call("DeleteEKSContainerInstances", delete).await.unwrap_err(), "ResourceNotFound");
    let truth = &ledger(&info.control, &format!("id={id}")).await[0];
    assert_eq!((&truth["exists"], &truth["alive"], &truth["state"]), (&json!(false), &json!(false), &json!("Deleted")));
    simulator.shutdown().await;
}

#[tokio::test]
async fn finished_work_ends_as_the_policy_says() {
    let (_simulator, info) = start(quick()).await;
    let tencent = Tencent::new(&info, "ap-shanghai");
    let job = |name: &str, policy: &str, script: &str| {
        let mut spec = tencent.spec(name);
        spec["RestartPolicy"] = json!(policy);
        spec["Containers"][0]["Commands"] = json!(["sh", "-c", script]);
        spec
    };
    let good = tencent.create(job("good", "Never", "echo hello; sleep 0.05")).await;
    let bad = tencent.create(job("bad", "Never", "sleep 0.05; exit 3")).await;
    let again = tencent.create(job("again", "OnFailure", "sleep 0.05; exit 3")).await;
    let succeeded = tencent.wait(&good, "Succeeded").await;
    assert_ne!(succeeded["SucceededTime"], "0001-01-01 00:00:00 +0000 UTC");
    let failed = tencent.wait(&bad, "Failed").await;
    assert_eq!(failed["Containers"][0]["CurrentState"]["ExitCode"], 3);
    assert_eq!(failed["Containers"][0]["CurrentState"]["State"], "exited");
    let deadline = deadline();
    while tencent.get(&again).await.unwrap()["Containers"][0]["RestartCount"].as_i64().unwrap() < 2 {
        assert!(!is_over(deadline));
        tokio::task::yield_now().await;
    }
    for truth in ledger(&info.control, "region=ap-shanghai").await {
        let ended = truth["name"] != "again";
        assert_eq!(truth["billed"], json!(!ended), "{truth}");
        assert_eq!(truth["exists"], true);
    }
    let log = tencent.call("DescribeEksContainerInstanceLog", json!({"EksCiId": good})).await.unwrap();
    assert_eq!(log["LogContent"], "app: started nginx:1.25\nhello\napp: exited with code 0\n");
}

#[tokio::test]
async fn list_filters_and_pages() {
    let (_simulator, info) = start(quick()).await;
    let tencent = Tencent::new(&info, "ap-guangzhou");
    let mut spec = tencent.spec("many");
    spec["Replicas"] = json!(25);
    let made = tencent.call("CreateEKSContainerInstances", spec).await.unwrap();
    let ids: std::collections::BTreeSet<_> =
        made["EksCiIds"].as_array().unwrap().iter().map(|i| i.as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 25);
    tencent.create(tencent.spec("other")).await;
    let list = |body: Value| tencent.call("DescribeEKSContainerInstances", body);
    let count = |reply: &Value| (reply["TotalCount"].clone(), reply["EksCis"].as_array().unwrap().len());
    assert_eq!(count(&list(json!({})).await.unwrap()), (json!(26), 20));
    assert_eq!(count(&list(json!({"Limit": 100, "Offset": 20})).await.unwrap()), (json!(26), 6));
    let named = json!({"Filters": [{"Name": "eks-ci-name", "Values": ["many", "nobody"]}]});
    assert_eq!(count(&list(named).await.unwrap()), (json!(25), 20));
    let both =
        json!({"Filters": [{"Name": "eks-ci-name", "Values": ["other"]}, {"Name": "status", "Values": ["Failed"]}]});
    assert_eq!(count(&list(both).await.unwrap()), (json!(0), 0));
    assert_eq!(list(json!({"Limit": 101})).await.unwrap_err(), "InvalidParameter");
    let unknown = json!({"Filters": [{"Name": "zone", "Values": []}]});
    assert_eq!(list(unknown).await.unwrap_err(), "InvalidParameter");
    let regions = tencent.call("DescribeEKSContainerInstanceRegions", json!({})).await.unwrap();
    assert_eq!(regions["TotalCount"], 2);
    assert_eq!(regions["Regions"][0], json!({"Alias": "gz", "RegionName": "ap-guangzhou", "RegionId": 1}));
}

#[tokio::test]
async fn bad_requests_get_the_vendors_codes() {
    let (_simulator, info) = start(quick()).await;
    let tencent = Tencent::new(&info, "ap-guangzhou");
    type Edit = fn(&mut Value);
    let cases: [(&str, Edit); 18] = [
        ("InvalidParameter.SubnetNotExist", |s| s["SubnetId"] = json!("subnet-none")),
        ("InvalidParameter.SubnetInvalidError", |s| s["VpcId"] = json!("vpc-none")),
        ("InvalidParameter", |s| s["SecurityGroupIds"] = json!(["sg-none"])),
        ("InvalidParameter", |s| s["SecurityGroupIds"] = json!([])),
        ("InvalidParameter", |s| s["RestartPolicy"] = json!("Sometimes")),
        ("InvalidParameter", |s| s["Replicas"] = json!(0)),
        ("InvalidParameter", |s| s["Cpu"] = json!(500)),
        ("InvalidParameter", |s| s["Cpu"] = json!(-1)),
        ("InvalidParameter", |s| s["Cpu"] = json!("1")),
        ("InvalidParameter", |s| s["GpuType"] = json!("H100")),
        ("InvalidParameter", |s| s["CpuType"] = json!("arm")),
        ("InvalidParameter", |s| s["Containers"] = json!([])),
        ("InvalidParameter", |s| s["Containers"][0]["Cpu"] = json!(2)),
        ("InvalidParameter", |s| s["Containers"][0]["VolumeMounts"] = json!([{"Name": "no", "MountPath": "/x"}])),
        ("InvalidParameter", |s| s["ExistedEipIds"] = json!(["eip-1", "eip-2"])),
        ("MissingParameter", |s| s["Memory"] = Value::Null),
        ("UnknownParameter", |s| s["ClientToken"] = json!("x")),
        ("UnknownParameter", |s| s["Containers"][0]["Ports"] = json!([])),
    ];
    for (code, edit) in cases {
        let mut spec = tencent.spec("bad");
        edit(&mut spec);
        let error = tencent.call("CreateEKSContainerInstances", spec.clone()).await.unwrap_err();
        assert_eq!(error, code, "{spec}");
    }
    for action in ["DescribeEksContainerInstanceLog", "DescribeEKSContainerInstanceEvent"] {
        let body = json!({"EksCiId": "eksci-00000000"});
        assert_eq!(tencent.call(action, body).await.unwrap_err(), "ResourceNotFound");
    }
    let unknown = json!({"EksCiIds": ["eksci-00000000"]});
    assert_eq!(tencent.call("RestartEKSContainerInstances", unknown).await.unwrap_err(), "ResourceNotFound");
    assert_eq!(tencent.call("ListClusters", json!({})).await.unwrap_err(), "InvalidAction");
    assert!(ledger(&info.control, "").await.is_empty(), "nothing was made");
}

#[tokio::test]
async fn wrong_credentials_clock_region_and_form_are_refused() {
    let (_simulator, info) = start(quick()).await;
    let tencent = Tencent::new(&info, "ap-guangzhou");
    let code = |raw: Vec<u8>| {
        let url = tencent.backend.url.clone();
        async move { send(&url, &raw).await.unwrap().json()["Response"]["Error"]["Code"].as_str().unwrap().to_owned() }
    };
    let action = "DescribeEKSContainerInstances";
    assert_eq!(code(tencent.signed(action, "{}", now_secs() - 400)).await, "AuthFailure.SignatureExpire");
    assert_eq!(code(tencent.signed(action, "{}", now_secs() + 400)).await, "AuthFailure.SignatureExpire");
    assert_eq!(code(tencent.signed(action, "{", now_secs())).await, "InvalidRequest");
    let edited = |edit: fn(&mut Tencent)| {
        let mut other = tencent.clone();
        edit(&mut other);
        other.signed(action, "{}", now_secs())
    };
    assert_eq!(code(edited(|t| t.backend.key_secret.push('x'))).await, "AuthFailure.SignatureFailure");
    assert_eq!(code(edited(|t| t.backend.key_id.push('x'))).await, "AuthFailure.SecretIdNotFound");
    assert_eq!(code(edited(|t| t.backend.region = "ap-shanghai".into())).await, "UnsupportedRegion");
    let host = host_of(&tencent.backend.url).to_owned();
    let plain = |headers: &[(&str, &str)]| request("POST", "/", headers, "{}");
    let form = [("Host", host.as_str()), ("Content-Type", "application/x-www-form-urlencoded")];
    assert_eq!(code(plain(&form)).await, "AuthFailure.InvalidAuthorization");
    let charset =
        [("Host", host.as_str()), ("Content-Type", "application/json; charset=utf-8"), ("Authorization", "x")];
    assert_eq!(code(plain(&charset)).await, "InvalidRequest");
    assert_eq!(code(request("GET", "/other", &[("Host", &host)], "")).await, "InvalidRequest");
}

/// Good signatures under another day, service or terminator prove nothing: they were made for something else.
#[tokio::test]
async fn other_credential_scopes_are_refused_though_well_signed() {
    let (_simulator, info) = start(quick()).await;
    let tencent = Tencent::new(&info, "ap-guangzhou");
    let now = now_secs();
    let date = jiff::Timestamp::from_second(now).unwrap().strftime("%Y-%m-%d").to_string();
    let outcome = |scope: (&'static str, &'static str, &'static str)| {
        let day = if scope.0.is_empty() { date.as_str() } else { scope.0 };
        let raw = tencent.signed_in((day, scope.1, scope.2), "DescribeEKSContainerInstances", "{}", now);
        let url = &tencent.backend.url;
        async move { send(url, &raw).await.unwrap().json()["Response"]["Error"]["Code"].clone() }
    };
    assert_eq!(outcome(("", "tke", "tc3_request")).await, Value::Null);
    assert_eq!(outcome(("", "127", "tc3_request")).await, Value::Null, "what some SDKs sign for 127.0.0.1");
    for scope in [
        ("2020-01-01", "tke", "tc3_request"),
        ("", "cvm", "tc3_request"),
        ("", "0", "tc3_request"),
        ("", "tke", "tc2_request"),
    ] {
        assert_eq!(outcome(scope).await, "AuthFailure.SignatureFailure", "{scope:?}");
    }
}

#[tokio::test]
async fn accounts_do_not_see_each_other() {
    let mut scenario = quick();
    let mut second = scenario.accounts[0].clone();
    (second.name, second.key_id) = ("tencent-second".into(), "AKIDsecond".into());
    second.max_instances = 1;
    scenario.accounts.push(second);
    scenario.regions[0].accounts.push("tencent-second".into());
    let (_simulator, info) = start(scenario).await;
    let first = Tencent::new(&info, "ap-guangzhou");
    let mut here = info.backends.iter().filter(|b| b.region == "ap-guangzhou");
    let second = Tencent { backend: here.nth(1).unwrap().clone() };
    assert_eq!((second.backend.account.as_str(), &second.backend.url), ("tencent-second", &first.backend.url));
    let id = first.create(first.spec("mine")).await;
    assert_eq!(second.get(&id).await, None);
    let delete = json!({"EksCiIds": [id]});
    assert_eq!(second.call("DeleteEKSContainerInstances", delete).await.unwrap_err(), "ResourceNotFound");
    second.create(second.spec("theirs")).await;
    let over = second.call("CreateEKSContainerInstances", second.spec("more")).await;
    assert_eq!(over.unwrap_err(), "LimitExceeded", "quotas are apart, too");
    first.create(first.spec("more")).await;
    // A key of one region's account opens no other region.
    let mut elsewhere = Tencent::new(&info, "ap-shanghai");
    elsewhere.backend.key_id.clone_from(&second.backend.key_id);
    let refused = elsewhere.call("DescribeEKSContainerInstances", json!({})).await;
    assert_eq!(refused.unwrap_err(), "AuthFailure.SecretIdNotFound");
}

#[tokio::test]
async fn image_caches_are_made_matched_changed_and_deleted() {
    let (_simulator, info) = start(quick()).await;
    let tencent = Tencent::new(&info, "ap-guangzhou");
    let make = json!({"Images": ["nginx:1.25"], "VpcId": tencent.backend.vpc_id, "ImageCacheName": "one",
                      "SubnetId": tencent.backend.zones[0].subnet_id, "Tags": [{"Key": "team", "Value": "red"}]});
    let made = tencent.call("CreateImageCache", make).await.unwrap();
    let id = made["ImageCacheId"].as_str().unwrap().to_owned();
    let deadline = deadline();
    let ready = loop {
        let all = tencent.call("DescribeImageCaches", json!({"ImageCacheIds": [id]})).await.unwrap();
        let cache = all["ImageCaches"][0].clone();
        if cache["Status"] == "Ready" {
            break cache;
        }
        assert_eq!(cache["Status"], "Pending");
        assert!(!is_over(deadline));
    };
    assert_eq!(ready["ImageCacheSize"], 20);
    assert_eq!(ready["Tags"], json!([{"Key": "team", "Value": "red"}]));
    let ask = |image: &str| tencent.call("GetMostSuitableImageCache", json!({"Images": [image]}));
    assert_eq!(ask("nginx:1.25").await.unwrap()["ImageCache"]["ImageCacheId"], json!(id));
    assert_eq!(ask("redis:7").await.unwrap()["Found"], false);
    let update = json!({"ImageCacheId": id, "ImageCacheName": "two", "RetentionDays": 7});
    tencent.call("UpdateImageCache", update).await.unwrap();
    let named = json!({"Filters": [{"Name": "image-cache-name", "Values": ["two"]}]});
    assert_eq!(tencent.call("DescribeImageCaches", named).await.unwrap()["TotalCount"], 1);
    let delete = json!({"ImageCacheIds": [id]});
    tencent.call("DeleteImageCaches", delete.clone()).await.unwrap();
    assert_eq!(tencent.call("DeleteImageCaches", delete).await.unwrap_err(), "ResourceNotFound");
}
