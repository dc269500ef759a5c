//! What is wrong with the cloud, the way to it, or the account; and what may then be believed.
//!
//! The one rule behind all of them: an error that says `NotApplied` is true in the truth ledger, and an error
//! after which something may exist says `Unknown`.

use std::time::Duration;

use meridian_adapters::{AdapterError, Request};
use meridian_model::{
    error::{Effect, FaultKind},
    ids::CloudName,
    status::{EventClass, ObservedPhase},
    time::Time,
};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::{Cloud, wait_for};

fn expect(error: &AdapterError, kind: FaultKind, effect: Effect) {
    assert_eq!((error.kind, error.effect), (kind, effect), "{error}");
}

impl Cloud {
    fn on_create(&self, mut fault: Value) -> Value {
        fault["action"] = Value::from(self.harness.create_action);
        fault
    }

    /// A create that fails for certain: as told, and nothing exists; without the fault it works.
    async fn refused(&self, kind: FaultKind) -> AdapterError {
        let error = self.create("refused").await.unwrap_err();
        expect(&error, kind, Effect::NotApplied);
        assert!(!error.code.is_empty());
        assert!(self.truth().await.is_empty(), "not applied is a promise");
        error
    }

    /// Exactly one instance has the name, and it is found.
    async fn found_once(&self, name: &str) {
        let found =
            wait_for("the instance to be found", || async { Some(self.find(name).await).filter(|f| !f.is_empty()) })
                .await;
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].name, name);
        assert_eq!(self.truth().await.len(), 1);
    }
}

pub(crate) async fn throttled(cloud: Cloud) {
    cloud.fault(cloud.on_create(json!({"kind": "throttle", "times": 1}))).await;
    cloud.refused(FaultKind::Throttled).await;
    cloud.create("again").await.expect("the fault is used up");
}

pub(crate) async fn no_stock_at_create(cloud: Cloud) {
    cloud.fault(json!({"kind": "soldOut", "when": "atCreate", "zone": cloud.info.zones[0].zone})).await;
    cloud.refused(FaultKind::NoCapacity).await;
    let mut elsewhere = cloud.create_call("elsewhere", &json!({}));
    elsewhere.zone = meridian_model::ids::ZoneId::new(&cloud.info.zones[1].zone).unwrap();
    let id = cloud.create_with(elsewhere).await.expect("the other zone has stock");
    assert_eq!(cloud.running(&id).await.zone.unwrap().as_str(), cloud.info.zones[1].zone);
}

pub(crate) async fn no_stock_after_create(cloud: Cloud) {
    cloud.fault(json!({"kind": "soldOut", "when": "afterCreate"})).await;
    let id = cloud.create("stuck").await.unwrap();
    wait_for("the shortage to show", || async {
        let seen = cloud.describe(&[&id]).await.remove(0);
        assert!(!seen.phase.proves_capacity() && seen.phase != ObservedPhase::Starting, "{seen:?}");
        let events = cloud.events(&id).await;
        let told = seen.phase == ObservedPhase::Unplaceable || events.iter().any(|e| e.class == EventClass::NoCapacity);
        told.then_some(())
    })
    .await;
    let events = cloud.events(&id).await;
    assert!(events.iter().any(|e| e.class == EventClass::NoCapacity && !e.reason.is_empty()), "{events:?}");
    cloud.delete(&id).await.unwrap();
    cloud.gone(&id).await;
    assert!(cloud.truth().await.is_empty());
}

pub(crate) async fn no_address(cloud: Cloud) {
    for zone in &cloud.info.zones {
        cloud.control("PUT", &format!("/v1/subnets/{}", zone.subnet_id), &json!({"freeIps": 0})).await;
    }
    cloud.refused(FaultKind::NoCapacity).await;
}

pub(crate) async fn quota(cloud: Cloud) {
    let limit = json!({"region": cloud.info.region, "account": cloud.info.account, "maxVcpu": 0.5});
    cloud.control("PUT", "/v1/quota", &limit).await;
    cloud.refused(FaultKind::Quota).await;
}

pub(crate) async fn bad_credentials(cloud: Cloud) {
    let other = cloud.with_secret("not-the-secret");
    let call = Request::Create(Box::new(cloud.create_call("forged", &json!({}))));
    for request in [call, Request::List(None)] {
        let call = meridian_adapters::Call { at: cloud.at(), request };
        let error = other.service.clone().oneshot(call).await.unwrap_err();
        expect(&error, FaultKind::Credentials, Effect::NotApplied);
        assert!(!error.to_string().contains("not-the-secret"), "{error}");
    }
    cloud.fault(json!({"kind": "unauthenticated", "times": 1})).await;
    cloud.refused(FaultKind::Credentials).await;
}

pub(crate) async fn temporary_credentials(cloud: Cloud) {
    let key = json!({ "keyId": "temporary", "keySecret": "for-an-hour", "securityToken": "its-token" });
    cloud.control("POST", &format!("/v1/accounts/{}/keys", cloud.info.account), &key).await;
    for (token, is_right) in [("its-token", true), ("another-token", false)] {
        let backend = cloud.with_temporary(("temporary", "for-an-hour", token));
        let call = Request::Create(Box::new(cloud.create_call(token, &json!({}))));
        for request in [Request::List(None), call] {
            let answer = backend.service.clone().oneshot(meridian_adapters::Call { at: cloud.at(), request }).await;
            match answer {
                Ok(_) => assert!(is_right, "{token}"),
                Err(error) => {
                    assert!(!is_right && !error.to_string().contains(token), "{error}");
                    expect(&error, FaultKind::Credentials, Effect::NotApplied);
                }
            }
        }
    }
}

/// A request that leaves late is refused by the vendor: that is what closes doubt.
pub(crate) async fn late_signature(cloud: Cloud) {
    let mut at = cloud.at();
    at.signed_at = Time::from_unix_ms(at.signed_at.unix_ms() - 3_600_000);
    let call = cloud.create_call("late", &json!({}));
    let error = cloud.call_at(at, Request::Create(Box::new(call))).await.unwrap_err();
    expect(&error, FaultKind::Credentials, Effect::NotApplied);
    assert!(cloud.truth().await.is_empty());
}

pub(crate) async fn wrong_place(cloud: Cloud) {
    let mut call = cloud.create_call("astray", &json!({}));
    let mut spec = (*call.spec).clone();
    spec.network.subnets.values_mut().for_each(|s| *s = meridian_model::ids::SubnetId::new("subnet-unknown").unwrap());
    call.spec = std::sync::Arc::new(spec);
    let error = cloud.create_with(call).await.unwrap_err();
    assert!(matches!(error.kind, FaultKind::WrongPlace | FaultKind::BadRequest | FaultKind::NotFound), "{error}");
    assert_eq!(error.effect, Effect::NotApplied);
    assert!(cloud.truth().await.is_empty());
}

pub(crate) async fn error_before_effect(cloud: Cloud) {
    cloud.fault(cloud.on_create(json!({"kind": "serverError", "when": "before", "times": 1}))).await;
    let error = cloud.create("before").await.unwrap_err();
    expect(&error, FaultKind::Temporary, Effect::Unknown);
    assert!(cloud.truth().await.is_empty());
    assert!(cloud.find("before").await.is_empty());
}

pub(crate) async fn error_after_effect(cloud: Cloud) {
    cloud.fault(cloud.on_create(json!({"kind": "serverError", "when": "after", "times": 1}))).await;
    let error = cloud.create("after").await.unwrap_err();
    expect(&error, FaultKind::Temporary, Effect::Unknown);
    cloud.found_once("after").await;
}

pub(crate) async fn error_page(cloud: Cloud) {
    let page = json!({"kind": "serverError", "when": "after", "status": 502, "html": true, "times": 1});
    cloud.fault(cloud.on_create(page)).await;
    let error = cloud.create("page").await.unwrap_err();
    expect(&error, FaultKind::Temporary, Effect::Unknown);
    cloud.found_once("page").await;
}

pub(crate) async fn reply_lost(cloud: Cloud) {
    cloud.fault(cloud.on_create(json!({"kind": "replyLost", "times": 1}))).await;
    let error = cloud.create("lost").await.unwrap_err();
    expect(&error, FaultKind::Lost, Effect::Unknown);
    cloud.found_once("lost").await;
}

pub(crate) async fn late_effect(cloud: Cloud) {
    cloud.fault(cloud.on_create(json!({"kind": "lateEffect", "afterMs": 300, "reply": "cut", "times": 1}))).await;
    let error = cloud.create("tardy").await.unwrap_err();
    expect(&error, FaultKind::Lost, Effect::Unknown);
    cloud.found_once("tardy").await;
}

pub(crate) async fn refused_connection(cloud: Cloud) {
    cloud.fault(json!({"kind": "regionOutage", "mode": "refused"})).await;
    let error = cloud.create("unsent").await.unwrap_err();
    expect(&error, FaultKind::Unreachable, Effect::NotApplied);
    let error = cloud.call(Request::List(None)).await.unwrap_err();
    expect(&error, FaultKind::Unreachable, Effect::NotApplied);
    cloud.no_faults().await;
    assert!(cloud.truth().await.is_empty());
    wait_for("the region to come back", || async { cloud.create("back").await.ok() }).await;
}

pub(crate) async fn black_hole(cloud: Cloud) {
    cloud.fault(json!({"kind": "regionOutage", "mode": "blackhole"})).await;
    let mut at = cloud.at();
    at.timeout = Duration::from_millis(300);
    let started = tokio::time::Instant::now();
    let call = cloud.create_call("swallowed", &json!({}));
    let error = cloud.call_at(at, Request::Create(Box::new(call))).await.unwrap_err();
    expect(&error, FaultKind::Lost, Effect::Unknown);
    let error = cloud.call_at(at, Request::Find(CloudName::new("swallowed").unwrap())).await.unwrap_err();
    expect(&error, FaultKind::Lost, Effect::NotApplied);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

/// A read that fails says so; it is never an empty answer, and never an effect.
pub(crate) async fn failed_reads(cloud: Cloud) {
    let id = cloud.create("kept").await.unwrap();
    let reads = || {
        [
            Request::Describe(vec![id.clone()]),
            Request::Find(CloudName::new("kept").unwrap()),
            Request::List(None),
            Request::Events(id.clone()),
        ]
    };
    for (fault, kind) in [
        (json!({"kind": "serverError", "when": "before", "status": 503, "html": true}), FaultKind::Temporary),
        (json!({"kind": "serverError", "when": "before"}), FaultKind::Temporary),
        (json!({"kind": "throttle"}), FaultKind::Throttled),
        (json!({"kind": "replyLost"}), FaultKind::Lost),
    ] {
        cloud.fault(fault).await;
        for request in reads() {
            let verb = request.verb();
            let error = cloud.call(request).await.expect_err(verb);
            expect(&error, kind, Effect::NotApplied);
        }
        cloud.no_faults().await;
    }
    assert_eq!(cloud.describe(&[&id]).await.len(), 1);
}

pub(crate) async fn failed_delete(cloud: Cloud) {
    let id = cloud.create("doomed").await.unwrap();
    cloud.running(&id).await;
    cloud.fault(json!({"kind": "serverError", "when": "before", "times": 1})).await;
    expect(&cloud.delete(&id).await.unwrap_err(), FaultKind::Temporary, Effect::Unknown);
    assert_eq!(cloud.describe(&[&id]).await.len(), 1);
    cloud.fault(json!({"kind": "replyLost", "times": 1})).await;
    expect(&cloud.delete(&id).await.unwrap_err(), FaultKind::Lost, Effect::Unknown);
    cloud.gone(&id).await;
    cloud.delete(&id).await.expect("a repeated delete is success");
    assert!(cloud.list(None).await.items.is_empty(), "{}", cloud.harness.list_action);
}
