//! What works when nothing is wrong.

use std::collections::BTreeSet;

use meridian_adapters::{PriceQuery, Reply, Request};
use meridian_model::{
    capability::Feature,
    ids::CloudId,
    instance::{CapacityType, Labels},
    status::{ContainerPhase, ObservedPhase},
};
use serde_json::json;

use super::{Cloud, wait_for};

pub(crate) async fn a_whole_life(cloud: Cloud) {
    let id = cloud.create("life").await.unwrap();
    let seen = cloud.running(&id).await;
    assert_eq!(seen.phase, ObservedPhase::Running);
    assert_eq!(seen.id.as_ref(), Some(&id));
    assert_eq!(seen.name, "life");
    assert_eq!(seen.zone.unwrap().as_str(), cloud.info.zones[0].zone);
    let call = cloud.create_call("life", &json!({}));
    assert_eq!(seen.shape, call.shape);
    assert_eq!(seen.marks, call.marks, "the marks are the only way back from an instance to its operation");
    assert!(seen.private_ip.is_some() && seen.created_at.is_some() && seen.finished_at.is_none());
    let [app] = &seen.containers[..] else { panic!("{:?}", seen.containers) };
    assert!(app.name == "app" && app.state == ContainerPhase::Running && app.ready && app.started_at.is_some());

    assert_eq!(cloud.find("life").await.len(), 1);
    let page = cloud.list(None).await;
    assert!(page.items.iter().any(|o| o.id.as_ref() == Some(&id)) && page.next.is_none());
    assert!(!cloud.events(&id).await.is_empty());
    let [truth] = &cloud.truth().await[..] else { panic!("one instance") };
    assert_eq!(truth["env"]["MERIDIAN_OP"], "op-life");

    cloud.delete(&id).await.unwrap();
    cloud.gone(&id).await;
    assert!(cloud.find("life").await.is_empty());
    assert!(cloud.truth().await.is_empty());
    cloud.delete(&id).await.expect("deleting what is not there is success");
    let never = CloudId::new(id.as_str().chars().rev().collect::<String>()).unwrap();
    cloud.delete(&never).await.expect("deleting what never was is success");
}

pub(crate) async fn every_page(cloud: Cloud) {
    let wanted = cloud.harness.page_size + 3;
    let mut made = BTreeSet::new();
    for i in 0..wanted {
        made.insert(cloud.create(&format!("page-{i}")).await.unwrap());
    }
    let (mut listed, mut pages, mut from) = (Vec::new(), 0, None);
    loop {
        let page = cloud.list(from.take()).await;
        assert!(page.items.len() <= cloud.harness.page_size);
        assert!(page.total.is_none_or(|t| t == wanted as u64), "{:?}", page.total);
        listed.extend(page.items.into_iter().map(|o| o.id.unwrap()));
        pages += 1;
        assert!(pages <= 3, "more pages than instances");
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    assert_eq!(pages, 2);
    assert_eq!(listed.len(), wanted, "none twice");
    assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), made, "none missing");
}

pub(crate) async fn find_is_exact(cloud: Cloud) {
    let id = cloud.create("name").await.unwrap();
    for other in ["name-1", "a-name", "nam"] {
        cloud.create(other).await.unwrap();
    }
    let found = cloud.find("name").await;
    assert_eq!(found.iter().map(|o| o.id.clone().unwrap()).collect::<Vec<_>>(), [id]);
    assert!(cloud.find("nobody").await.is_empty());
}

pub(crate) async fn describe_many(cloud: Cloud) {
    let mut ids = Vec::new();
    for i in 0..meridian_adapters::DESCRIBE_IDS_MAX - 1 {
        ids.push(cloud.create(&format!("many-{i}")).await.unwrap());
    }
    let gone = ids[0].clone();
    cloud.delete(&gone).await.unwrap();
    cloud.gone(&gone).await;
    let never = CloudId::new(gone.as_str().chars().rev().collect::<String>()).unwrap();
    let asked: Vec<&CloudId> = ids.iter().chain([&never]).collect();
    assert_eq!(asked.len(), meridian_adapters::DESCRIBE_IDS_MAX);
    let seen: BTreeSet<CloudId> = cloud.describe(&asked).await.into_iter().map(|o| o.id.unwrap()).collect();
    assert_eq!(seen, ids[1..].iter().cloned().collect(), "what is unknown is left out, the rest is there");
    assert!(cloud.describe(&[]).await.is_empty(), "no ids, no instances");
}

pub(crate) async fn a_job_ends(cloud: Cloud) {
    let spec = json!({"restartPolicy": "Never", "container": {"command": ["true"]}});
    let id = cloud.create_with(cloud.create_call("job", &spec)).await.unwrap();
    let seen = cloud.seen(&id, |o| o.phase.is_ended()).await;
    assert_eq!(seen.phase, ObservedPhase::Succeeded);
    assert_eq!((seen.containers[0].state, seen.containers[0].exit_code), (ContainerPhase::Terminated, Some(0)));
    assert!(seen.finished_at.is_some());
    cloud.delete(&id).await.unwrap();
    cloud.gone(&id).await;
}

pub(crate) async fn a_job_fails(cloud: Cloud) {
    let spec = json!({"restartPolicy": "Never", "container": {"command": ["sh", "-c", "exit 3"]}});
    let id = cloud.create_with(cloud.create_call("job", &spec)).await.unwrap();
    let seen = cloud.seen(&id, |o| o.phase.is_ended()).await;
    assert_eq!((seen.phase, seen.containers[0].exit_code), (ObservedPhase::Failed, Some(3)));
}

pub(crate) async fn zones(cloud: Cloud) {
    let Reply::Zones(Some(zones)) = cloud.call(Request::Zones).await.unwrap() else { panic!("no zones") };
    let on_sale: BTreeSet<String> = zones.iter().filter(|z| z.on_sale).map(|z| z.zone.to_string()).collect();
    assert_eq!(on_sale, cloud.info.zones.iter().map(|z| z.zone.clone()).collect());
}

pub(crate) async fn usage(cloud: Cloud) {
    let usage = || async {
        let Reply::Usage(Some(usage)) = cloud.call(Request::Usage).await.unwrap() else { panic!("no usage") };
        usage
    };
    let before = usage().await;
    assert!(before.cpu_max > before.cpu_used);
    let call = cloud.create_call("usage", &json!({}));
    let id = cloud.create_with(call.clone()).await.unwrap();
    cloud.running(&id).await;
    wait_for("the usage to grow", || async {
        let now = usage().await;
        (now.cpu_used.0 == before.cpu_used.0 + call.shape.cpu.0).then_some(())
    })
    .await;
}

pub(crate) async fn price(cloud: Cloud) {
    let call = cloud.create_call("price", &json!({}));
    let query = PriceQuery { zone: call.zone, shape: call.shape, capacity: CapacityType::OnDemand };
    let price = |query: PriceQuery| {
        let cloud = &cloud;
        async move {
            let Reply::Price(Some(price)) = cloud.call(Request::Price(query)).await.unwrap() else {
                panic!("no price")
            };
            price
        }
    };
    let full = price(query.clone()).await;
    assert!(full.0 > 0);
    if cloud.backend.capability.has(Feature::Spot) {
        let spot = price(PriceQuery { capacity: CapacityType::Spot, ..query }).await;
        assert!(spot.0 > 0 && spot < full, "spot {spot} under {full}");
    }
}

/// What the skips file calls missing is not there.
pub(crate) async fn what_is_skipped_is_missing(cloud: Cloud) {
    let skipped = cloud.harness.skipped();
    let call = cloud.create_call("skipped", &json!({}));
    let query = PriceQuery { zone: call.zone, shape: call.shape, capacity: CapacityType::OnDemand };
    for (case, request) in [("zones", Request::Zones), ("usage", Request::Usage), ("price", Request::Price(query))] {
        let reply = cloud.call(request).await.unwrap();
        let missing = matches!(reply, Reply::Zones(None) | Reply::Usage(None) | Reply::Price(None));
        assert_eq!(missing, skipped.contains(case), "{case}: {reply:?}");
    }
}

pub(crate) async fn spot_reclaim(cloud: Cloud) {
    let spec = json!({"capacity": {"type": "spot"}});
    let id = cloud.create_with(cloud.create_call("spot", &spec)).await.unwrap();
    cloud.running(&id).await;
    cloud.control("POST", &format!("/v1/instances/{id}/reclaim"), &json!({})).await;
    let seen = cloud.seen(&id, |o| o.phase.is_ended()).await;
    assert_eq!(seen.phase, ObservedPhase::Reclaimed);
}

pub(crate) async fn client_token_replay(cloud: Cloud) {
    assert!(cloud.backend.capability.has(Feature::ClientToken));
    let call = cloud.create_call("once", &json!({}));
    let first = cloud.create_with(call.clone()).await.unwrap();
    let second = cloud.create_with(call.clone()).await.unwrap();
    assert_eq!(first, second);
    assert_eq!(cloud.truth().await.len(), 1);
    // After a lost reply, the same token gives the instance that was made.
    let mut lost = call;
    lost.token = meridian_model::ids::ClientToken::new("token-lost").unwrap();
    lost.name = meridian_model::ids::CloudName::new("lost").unwrap();
    lost.marks = Labels::new();
    cloud.fault(json!({"kind": "replyLost", "action": cloud.harness.create_action, "times": 1})).await;
    cloud.create_with(lost.clone()).await.unwrap_err();
    let id = cloud.create_with(lost).await.unwrap();
    assert_eq!(cloud.find("lost").await.iter().map(|o| o.id.clone().unwrap()).collect::<Vec<_>>(), [id]);
    assert_eq!(cloud.truth().await.len(), 2);
}
