//! The conformance suite: what every adapter must do against its own simulated cloud.
//!
//! A case is an async function of a fresh [`Cloud`]: a simulator of one region in this process, and the adapter
//! built from its settings by the registry, called through the tower bridge as the gateway calls it. Faults are
//! set, and truth is read, through the simulator's control API. [`conformance!`] makes one test of each case
//! for one adapter.
//!
//! What an adapter cannot do stands in `conformance/<name>.skips`, one name a line, either a feature or a case;
//! the file holds exactly that and can only shrink: a line too many fails, and a case that is skipped although
//! the adapter declares the feature fails as well.

pub(crate) mod basics;
pub(crate) mod faults;
pub(crate) mod features;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use meridian_adapters::{
    AdapterError, Call, CallContext, CreateCall, Cursor, Page, RegistryCredential, Reply, Request, ResolvedNetwork,
    ResolvedSpec,
    http::HttpClient,
    registry::{self, BoxedBackend},
};
use meridian_cloudsim::{BackendInfo, Scenario, Simulator, core::Vendor};
use meridian_model::{
    ids::{ClientToken, CloudId, CloudName, SubnetId, ZoneId},
    instance::{InstanceSpec, Labels},
    status::{Observed, ObservedEvent},
    time::Time,
};
use serde_json::{Value, json};
use tower::ServiceExt;

/// What the suite must know of an adapter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Harness {
    /// Name in the registry.
    pub(crate) name: &'static str,
    /// Its cloud.
    pub(crate) vendor: Vendor,
    /// Settings for a backend with a secret.
    pub(crate) settings: fn(&BackendInfo, &str) -> Value,
    /// The setting of a temporary key's token.
    pub(crate) token: &'static str,
    /// The vendor's create action.
    pub(crate) create_action: &'static str,
    /// The vendor's list action.
    pub(crate) list_action: &'static str,
    /// Instances in one page.
    pub(crate) page_size: usize,
    /// Text of the skips file.
    pub(crate) skips: &'static str,
}

impl Harness {
    /// The lines of the skips file without comments.
    pub(crate) fn skipped(&self) -> BTreeSet<&'static str> {
        self.skips.lines().map(|l| l.split('#').next().unwrap_or_default().trim()).filter(|l| !l.is_empty()).collect()
    }
}

/// Longest wait for a condition. The simulated clouds need well under a second.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(20);
/// Between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(15);
/// Limit of a call that is expected to be answered.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// One simulated region and the adapter for it.
pub(crate) struct Cloud {
    pub(crate) harness: Harness,
    pub(crate) backend: BoxedBackend,
    pub(crate) info: BackendInfo,
    control: String,
    http: HttpClient,
    nonce: AtomicU64,
    _simulator: Simulator,
}

impl Cloud {
    /// Starts a simulator with one region of the vendor, fast and without rate limits.
    pub(crate) async fn start(harness: Harness) -> Self {
        let mut scenario = Scenario::demo(7);
        scenario.regions.retain(|r| r.vendor == harness.vendor);
        scenario.regions.truncate(1);
        scenario.timing.placed_ms = 40;
        scenario.timing.running_ms = 40;
        scenario.timing.jitter_ms = 0;
        scenario.timing.place_retry_ms = 100;
        scenario.limits.enabled = false;
        let simulator = Simulator::start(scenario, None).await.unwrap();
        let mut info = simulator.info();
        let backend = info.backends.remove(0);
        let http = HttpClient::new().unwrap();
        let settings = (harness.settings)(&backend, &backend.key_secret);
        Self {
            harness,
            backend: registry::build(harness.name, settings, http.clone()).unwrap(),
            info: backend,
            control: info.control,
            http,
            nonce: AtomicU64::new(1),
            _simulator: simulator,
        }
    }

    /// The same cloud through an adapter with another secret and connections of its own.
    pub(crate) fn with_secret(&self, secret: &str) -> BoxedBackend {
        let settings = (self.harness.settings)(&self.info, secret);
        registry::build(self.harness.name, settings, HttpClient::new().unwrap()).unwrap()
    }

    /// The same cloud through an adapter with a temporary key.
    pub(crate) fn with_temporary(&self, (id, secret, token): (&str, &str, &str)) -> BoxedBackend {
        let info = BackendInfo { key_id: id.to_owned(), ..self.info.clone() };
        let mut settings = (self.harness.settings)(&info, secret);
        settings[self.harness.token] = Value::from(token);
        registry::build(self.harness.name, settings, HttpClient::new().unwrap()).unwrap()
    }

    /// A context of now.
    pub(crate) fn at(&self) -> CallContext {
        CallContext {
            signed_at: now(),
            nonce: u128::from(self.nonce.fetch_add(1, Ordering::Relaxed)) << 64 | u128::from(std::process::id()),
            timeout: CALL_TIMEOUT,
        }
    }

    pub(crate) async fn call_at(&self, at: CallContext, request: Request) -> Result<Reply, AdapterError> {
        self.backend.service.clone().oneshot(Call { at, request }).await
    }

    pub(crate) async fn call(&self, request: Request) -> Result<Reply, AdapterError> {
        self.call_at(self.at(), request).await
    }

    /// A create call in the first zone; `spec` is merged over one plain container.
    pub(crate) fn create_call(&self, name: &str, spec: &Value) -> CreateCall {
        let spec = spec_of(spec);
        let shape = self.backend.capability.round_up(&spec.shape()).expect("a size that is sold");
        let zones = &self.info.zones;
        let subnets: BTreeMap<ZoneId, SubnetId> =
            zones.iter().map(|z| (ZoneId::new(&z.zone).unwrap(), SubnetId::new(&z.subnet_id).unwrap())).collect();
        let credential = |s: &meridian_model::instance::SecretRef| RegistryCredential {
            server: format!("{}.example", s.name),
            username: "user".to_owned(),
            password: "password".into(),
        };
        CreateCall {
            name: CloudName::new(name).unwrap(),
            token: ClientToken::new(format!("token-{name}")).unwrap(),
            zone: ZoneId::new(&zones[0].zone).unwrap(),
            shape,
            marks: Labels::from([("MERIDIAN_OP".to_owned(), format!("op-{name}"))]),
            spec: Arc::new(ResolvedSpec {
                credentials: spec.image_pull_secrets.iter().map(credential).collect(),
                spec,
                network: ResolvedNetwork {
                    vpc_id: self.info.vpc_id.clone(),
                    security_group_ids: vec![self.info.security_group_id.clone()],
                    subnets,
                },
            }),
        }
    }

    pub(crate) async fn create_with(&self, call: CreateCall) -> Result<CloudId, AdapterError> {
        let Reply::Created(id) = self.call(Request::Create(Box::new(call))).await? else {
            panic!("the answer to another verb")
        };
        Ok(id)
    }

    pub(crate) async fn create(&self, name: &str) -> Result<CloudId, AdapterError> {
        self.create_with(self.create_call(name, &json!({}))).await
    }

    pub(crate) async fn describe(&self, ids: &[&CloudId]) -> Vec<Observed> {
        let Reply::Instances(all) =
            self.call(Request::Describe(ids.iter().map(|id| (*id).clone()).collect())).await.unwrap()
        else {
            panic!("the answer to another verb")
        };
        all
    }

    pub(crate) async fn find(&self, name: &str) -> Vec<Observed> {
        let Reply::Instances(all) = self.call(Request::Find(CloudName::new(name).unwrap())).await.unwrap() else {
            panic!("the answer to another verb")
        };
        all
    }

    pub(crate) async fn list(&self, from: Option<Cursor>) -> Page {
        let Reply::Page(page) = self.call(Request::List(from)).await.unwrap() else {
            panic!("the answer to another verb")
        };
        page
    }

    pub(crate) async fn events(&self, id: &CloudId) -> Vec<ObservedEvent> {
        let Reply::Events(events) = self.call(Request::Events(id.clone())).await.unwrap() else {
            panic!("the answer to another verb")
        };
        events
    }

    pub(crate) async fn delete(&self, id: &CloudId) -> Result<(), AdapterError> {
        let Reply::Deleted = self.call(Request::Delete(id.clone())).await? else {
            panic!("the answer to another verb")
        };
        Ok(())
    }

    /// Waits until the instance proves capacity, and gives what is then seen.
    pub(crate) async fn running(&self, id: &CloudId) -> Observed {
        self.seen(id, |o| o.phase.proves_capacity()).await
    }

    /// Waits until the instance looks as wanted.
    pub(crate) async fn seen(&self, id: &CloudId, wanted: impl Fn(&Observed) -> bool) -> Observed {
        wait_for("the instance to look as wanted", || async {
            self.describe(&[id]).await.into_iter().find(|o| wanted(o))
        })
        .await
    }

    /// Waits until the vendor shows the instance no more.
    pub(crate) async fn gone(&self, id: &CloudId) {
        wait_for("the instance to be gone", || async { self.describe(&[id]).await.is_empty().then_some(()) }).await;
    }

    /// Sets a fault in this region.
    pub(crate) async fn fault(&self, mut fault: Value) {
        fault["region"] = Value::from(self.info.region.clone());
        self.control("POST", "/v1/faults", &fault).await;
    }

    /// Removes all faults.
    pub(crate) async fn no_faults(&self) {
        self.control("DELETE", "/v1/faults", &Value::Null).await;
    }

    /// What exists in truth.
    pub(crate) async fn truth(&self) -> Vec<Value> {
        let reply = self.control("GET", "/v1/ledger?exists=true", &Value::Null).await;
        reply["instances"].as_array().unwrap().clone()
    }

    /// A call of the control API.
    pub(crate) async fn control(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request =
            ::http::Request::builder().method(method).uri(format!("{}{path}", self.control)).body(body.into()).unwrap();
        let reply = self.http.send(request, CALL_TIMEOUT).await.unwrap();
        let text = String::from_utf8_lossy(reply.body()).into_owned();
        assert!(reply.status().is_success(), "{method} {path}: {} {text}", reply.status());
        serde_json::from_str(&text).unwrap()
    }
}

/// The wall clock: signatures are checked against it.
#[expect(clippy::disallowed_methods, reason = "signatures are checked against the simulators' wall clock")]
pub(crate) fn now() -> Time {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Time::from_unix_ms(i64::try_from(since.as_millis()).unwrap())
}

/// Looks until there is an answer, in [`WAIT_MAX`] at most.
pub(crate) async fn wait_for<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::time::timeout(WAIT_MAX, looking).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

/// One plain container, with `patch` merged over it; `patch.container` goes into the container.
pub(crate) fn spec_of(patch: &Value) -> InstanceSpec {
    let mut spec = json!({"containers": [{"name": "app", "image": "registry.example/app:1"}]});
    let mut patch = patch.clone();
    if let Some(container) = patch.as_object_mut().and_then(|p| p.remove("container")) {
        merge(&mut spec["containers"][0], container);
    }
    merge(&mut spec, patch);
    serde_json::from_value(spec).unwrap()
}

fn merge(into: &mut Value, patch: Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, patch) => *into = patch,
    }
}

/// Runs one case unless the skips file names it.
pub(crate) async fn run<F: Future<Output = ()>>(harness: Harness, case: &str, body: impl FnOnce(Cloud) -> F) {
    if harness.skipped().contains(case) {
        return;
    }
    body(Cloud::start(harness).await).await;
}

/// Makes one test of each case for a harness.
macro_rules! conformance {
    ($harness:expr) => {
        $crate::suite::conformance! { @ $harness;
            basics: a_whole_life, every_page, find_is_exact, describe_many, a_job_ends, a_job_fails, zones, usage, price,
                spot_reclaim, client_token_replay, what_is_skipped_is_missing;
            faults: throttled, no_stock_at_create, no_stock_after_create, no_address, quota, bad_credentials,
                temporary_credentials, late_signature, wrong_place, error_before_effect, error_after_effect, error_page, reply_lost, late_effect, refused_connection,
                black_hole, failed_reads, failed_delete;
            features: every_declared_feature;
        }
    };
    (@ $harness:expr; $($group:ident: $($case:ident),+;)+) => {
        $($(
            #[tokio::test]
            async fn $case() {
                $crate::suite::run($harness, stringify!($case), $crate::suite::$group::$case).await;
            }
        )+)+

        #[test]
        fn the_skips_are_exactly_what_is_missing() {
            $crate::suite::features::check_skips($harness, &[$($(stringify!($case)),+),+]);
        }
    };
}
pub(crate) use conformance;
