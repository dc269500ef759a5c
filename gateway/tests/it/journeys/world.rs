//! A gateway core over simulated clouds on real sockets: what every journey starts from.

use std::{fmt::Write as _, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use meridian_adapters::http::HttpClient;
use meridian_cloudsim::{CloudsimInfo, Scenario, Simulator};
use meridian_gateway::{
    audit::Audit,
    clock::{Clock, Entropy},
    config::{Config, Store},
    core::{Core, Deps},
    journal::intent::{IntentLog, NoIntents},
    operation::{
        self, Action, Caller, CreateInstance, DeleteInstance, InstanceRef, ListInstances, Operation, Outcome,
        PageRequest, Refusal, Scope,
    },
    telemetry::core::CoreMetrics,
    views,
};
use meridian_ledger::{
    Ledger,
    conformance::MemoryLedger,
    embedded::{EmbeddedLedger, Options, SealKey},
};
use meridian_ledger::{
    documents::MemoryDocuments,
    shared::{MemoryShared, Shared},
};
use meridian_model::{ids::TenantId, instance::InstanceSpec};
use meridian_policies::{
    access::Role,
    budget::{Class, Purpose},
};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// Longest wait for anything in a test.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// For what a test looks at a backend itself.
pub const LOOK: Purpose = Purpose::gateway(Class::Read);

/// How long a create is waited for, and the regions' effect bound in milliseconds.
struct Pace(&'static str, u64);

/// A doubt begins and ends soon.
const QUICK: Pace = Pace("2s", 3_000);
/// What a busy machine does late is neither in doubt for it nor beyond the bound.
const UNHURRIED: Pace = Pace("15s", 30_000);

pub struct World {
    pub core: Arc<Core>,
    pub sim: Arc<Simulator>,
    http: HttpClient,
    folder: Arc<tempfile::TempDir>,
}

/// The configuration of a gateway in front of every simulated region.
pub fn config(info: &CloudsimInfo, folder: &Path, extra: &str) -> Config {
    config_on(info, &format!("path = \"{}\"", folder.join("ledger.redb").display()), extra)
}

/// The same with another ledger.
pub fn config_on(info: &CloudsimInfo, ledger: &str, extra: &str) -> Config {
    let text = config_text(info, ledger, extra);
    Config::parse(&text, "test.toml", &|_| Vec::new()).unwrap_or_else(|m| panic!("{m:?}\n{text}"))
}

/// The same as a file would hold it.
pub fn config_text(info: &CloudsimInfo, ledger: &str, extra: &str) -> String {
    config_at(info, ledger, extra, &QUICK)
}

fn config_at(info: &CloudsimInfo, ledger: &str, extra: &str, Pace(call_timeout, bound_ms): &Pace) -> String {
    let mut text = format!(
        "[deployment]\nid = \"test\"\nsecret = \"0123456789abcdef0123456789abcdef\"\n[ledger]\n{ledger}\n\
         [status]\nsweepInterval = \"300ms\"\nfastInterval = \"200ms\"\nstaleAfter = \"1500ms\"\nunreachableAfter = \"2s\"\n\
         [driver]\nplaceTimeout = \"8s\"\ncallTimeout = \"{call_timeout}\"\n{extra}\n\
         [[tenants]]\nname = \"acme\"\ndefaultNetworkProfile = \"default\"\n\
         [[tenants]]\nname = \"lab\"\ndefaultNetworkProfile = \"default\"\nquota = {{ instances = 37 }}\n"
    );
    let mut networks = String::from("[[networkProfiles]]\nname = \"default\"\n");
    for backend in &info.backends {
        let vendor = serde_json::to_value(backend.vendor).unwrap();
        let vendor = vendor.as_str().unwrap();
        let region = &backend.region;
        let (id, secret) =
            if vendor == "tencent-eksci" { ("secretId", "secretKey") } else { ("accessKeyId", "accessKeySecret") };
        write!(
            text,
            "[[backends]]\nid = \"{region}\"\nadapter = \"{vendor}\"\nregion = \"{region}\"\ncallsPerSecond = 100\n\
             priceBook = {{ currency = \"CNY\", cpuPerHour = \"0.12\", memoryGibPerHour = \"0.05\" }}\n\
             settings = {{ endpoint = \"{}\", {id} = \"{}\", {secret} = \"{}\", effectBoundMs = {bound_ms} }}\n",
            backend.url, backend.key_id, backend.key_secret
        )
        .unwrap();
        let subnets: Vec<String> =
            backend.zones.iter().map(|z| format!("\"{}\" = \"{}\"", z.zone, z.subnet_id)).collect();
        write!(
            networks,
            "[[networkProfiles.backends]]\nbackend = \"{region}\"\nvpcId = \"{}\"\nsecurityGroupIds = [\"{}\"]\nsubnets = {{ {} }}\n",
            backend.vpc_id,
            backend.security_group_id,
            subnets.join(", ")
        )
        .unwrap();
    }
    text.push_str(&networks);
    text
}

async fn core(info: &CloudsimInfo, folder: &Path, extra: &str) -> Arc<Core> {
    let Store::Embedded { path } = config(info, folder, extra).ledger.store else {
        panic!("these journeys have a ledger of their own")
    };
    let options = Options::new(path, SealKey::new([7; 32]), |why| panic!("ledger: {why}"));
    core_on(info, folder, extra, Arc::new(EmbeddedLedger::open(options).unwrap())).await
}

/// A gateway on a ledger that others may use too.
pub async fn core_on(info: &CloudsimInfo, folder: &Path, extra: &str, ledger: Arc<dyn Ledger>) -> Arc<Core> {
    core_beside(info, folder, extra, (ledger, Arc::new(MemoryShared::alone()))).await
}

/// A gateway that shares its sweeps and limits with others.
pub async fn core_beside(
    info: &CloudsimInfo,
    folder: &Path,
    extra: &str,
    others: (Arc<dyn Ledger>, Arc<dyn Shared>),
) -> Arc<Core> {
    core_noting(info, folder, extra, others, Arc::new(NoIntents)).await
}

/// A gateway with an intent journal.
pub async fn core_noting(
    info: &CloudsimInfo,
    folder: &Path,
    extra: &str,
    (ledger, shared): (Arc<dyn Ledger>, Arc<dyn Shared>),
    intents: Arc<dyn IntentLog>,
) -> Arc<Core> {
    started(&config(info, folder, extra), (ledger, shared), intents).await
}

/// A gateway that waits long, before regions with a long effect bound.
async fn core_unhurried(info: &CloudsimInfo, ledger: Arc<dyn Ledger>) -> Arc<Core> {
    let extra = "lease = \"20s\"\narmValid = \"10s\"";
    let text = config_at(info, "path = \"unused\"", extra, &UNHURRIED);
    let config = Config::parse(&text, "test.toml", &|_| Vec::new()).unwrap_or_else(|m| panic!("{m:?}\n{text}"));
    started(&config, (ledger, Arc::new(MemoryShared::alone())), Arc::new(NoIntents)).await
}

async fn started(
    config: &Config,
    others: (Arc<dyn Ledger>, Arc<dyn Shared>),
    intents: Arc<dyn IntentLog>,
) -> Arc<Core> {
    started_recording(config, others, intents, Audit::off()).await
}

async fn started_recording(
    config: &Config,
    (ledger, shared): (Arc<dyn Ledger>, Arc<dyn Shared>),
    intents: Arc<dyn IntentLog>,
    audit: Audit,
) -> Arc<Core> {
    let deps = Deps {
        audit,
        clock: Clock::system(),
        entropy: Entropy::system(),
        ledger,
        shared,
        recovery: None,
        documents: Arc::new(MemoryDocuments::alone()),
        intents,
        metrics: CoreMetrics::detached(),
        draining: CancellationToken::new(),
    };
    Core::start(config, deps).await.unwrap()
}

impl World {
    pub async fn start() -> Self {
        Self::with(Scenario::demo(7), "").await
    }

    pub async fn with(mut scenario: Scenario, extra: &str) -> Self {
        scenario.limits.enabled = false;
        let folder = tempfile::tempdir().unwrap();
        let sim = Simulator::start(scenario, None).await.unwrap();
        let core = core(&sim.info(), folder.path(), extra).await;
        Self { core, sim: Arc::new(sim), http: HttpClient::new().unwrap(), folder: Arc::new(folder) }
    }

    /// A gateway whose configuration is changed before it starts.
    pub async fn configured(change: impl FnOnce(&CloudsimInfo, String) -> String) -> Self {
        let mut scenario = Scenario::demo(7);
        scenario.limits.enabled = false;
        let folder = tempfile::tempdir().unwrap();
        let sim = Simulator::start(scenario, None).await.unwrap();
        let text = change(&sim.info(), config_text(&sim.info(), "path = \"unused\"", ""));
        let config = Config::parse(&text, "test.toml", &|_| Vec::new()).unwrap_or_else(|m| panic!("{m:?}\n{text}"));
        let options =
            Options::new(folder.path().join("ledger.redb"), SealKey::new([7; 32]), |why| panic!("ledger: {why}"));
        let ledger: Arc<dyn Ledger> = Arc::new(EmbeddedLedger::open(options).unwrap());
        let core = started(&config, (ledger, Arc::new(MemoryShared::alone())), Arc::new(NoIntents)).await;
        Self { core, sim: Arc::new(sim), http: HttpClient::new().unwrap(), folder: Arc::new(folder) }
    }

    /// A gateway that records what is changed.
    pub async fn recorded(mut scenario: Scenario, extra: &str, audit: Audit) -> Self {
        scenario.limits.enabled = false;
        let folder = tempfile::tempdir().unwrap();
        let sim = Simulator::start(scenario, None).await.unwrap();
        let ledger: Arc<dyn Ledger> = Arc::new(MemoryLedger::new("store"));
        let others: (_, Arc<dyn Shared>) = (ledger, Arc::new(MemoryShared::alone()));
        let core =
            started_recording(&config(&sim.info(), folder.path(), extra), others, Arc::new(NoIntents), audit).await;
        Self { core, sim: Arc::new(sim), http: HttpClient::new().unwrap(), folder: Arc::new(folder) }
    }

    /// A gateway on the given ledger.
    pub async fn on(ledger: Arc<dyn Ledger>, mut scenario: Scenario, extra: &str) -> Self {
        scenario.limits.enabled = false;
        let folder = tempfile::tempdir().unwrap();
        let sim = Simulator::start(scenario, None).await.unwrap();
        let core = core_on(&sim.info(), folder.path(), extra, ledger).await;
        Self { core, sim: Arc::new(sim), http: HttpClient::new().unwrap(), folder: Arc::new(folder) }
    }

    /// A gateway on the given ledger that waits long: for what a busy machine must not turn into something else.
    pub async fn unhurried(ledger: Arc<dyn Ledger>) -> Self {
        let mut scenario = Scenario::demo(7);
        scenario.limits.enabled = false;
        let folder = tempfile::tempdir().unwrap();
        let sim = Simulator::start(scenario, None).await.unwrap();
        let core = core_unhurried(&sim.info(), ledger).await;
        Self { core, sim: Arc::new(sim), http: HttpClient::new().unwrap(), folder: Arc::new(folder) }
    }

    /// One more such gateway before the same clouds.
    pub async fn another_unhurried(&self, ledger: Arc<dyn Ledger>) -> Arc<Core> {
        core_unhurried(&self.sim.info(), ledger).await
    }

    /// A gateway that has others beside it.
    pub async fn beside(others: (Arc<dyn Ledger>, Arc<dyn Shared>), mut scenario: Scenario, extra: &str) -> Self {
        scenario.limits.enabled = false;
        let folder = tempfile::tempdir().unwrap();
        let sim = Simulator::start(scenario, None).await.unwrap();
        let core = core_beside(&sim.info(), folder.path(), extra, others).await;
        Self { core, sim: Arc::new(sim), http: HttpClient::new().unwrap(), folder: Arc::new(folder) }
    }

    /// One more gateway before the same clouds.
    pub async fn another(&self, ledger: Arc<dyn Ledger>, extra: &str) -> Arc<Core> {
        core_on(&self.sim.info(), self.folder.path(), extra, ledger).await
    }

    /// One more that sweeps once, and then not for as long as a test lasts.
    pub async fn another_that_sweeps_once(&self, ledger: Arc<dyn Ledger>) -> Arc<Core> {
        let text = config_text(&self.sim.info(), "path = \"unused\"", "");
        let slow =
            [("sweepInterval = \"300ms\"", "sweepInterval = \"300s\""), ("1500ms", "600s"), ("\"2s\"", "\"600s\"")];
        let text = slow.iter().fold(text, |text, (quick, slow)| text.replacen(quick, slow, 1));
        let config = Config::parse(&text, "test.toml", &|_| Vec::new()).unwrap_or_else(|m| panic!("{m:?}\n{text}"));
        started(&config, (ledger, Arc::new(MemoryShared::alone())), Arc::new(NoIntents)).await
    }

    /// Where gateways keep what is theirs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A gateway that ends and one that begins anew on the same ledger and clouds.
    pub async fn restart(self) -> Self {
        let Self { core: old, sim, http, folder } = self;
        old.stop().await;
        let old = Arc::into_inner(old).expect("nobody else holds the core");
        drop(old);
        let core = core(&sim.info(), folder.path(), "").await;
        Self { core, sim, http, folder }
    }

    pub async fn control(&self, method: &str, path: &str, body: Value) -> Value {
        let uri = format!("{}{path}", self.sim.info().control);
        let request = http::Request::builder().method(method).uri(uri).body(Bytes::from(body.to_string())).unwrap();
        let reply = self.http.send(request, PATIENCE).await.unwrap();
        assert!(reply.status().is_success(), "{method} {path}: {:?}", reply.body());
        serde_json::from_slice(reply.body()).unwrap_or(Value::Null)
    }

    pub async fn fault(&self, fault: Value) -> Value {
        self.control("POST", "/v1/faults", fault).await
    }

    /// Every instance that exists at any cloud now.
    pub async fn existing(&self) -> Vec<Value> {
        let ledger = self.control("GET", "/v1/ledger?exists=true", Value::Null).await;
        ledger["instances"].as_array().unwrap().clone()
    }

    /// Every instance that ever existed.
    pub async fn ever(&self) -> Vec<Value> {
        let ledger = self.control("GET", "/v1/ledger", Value::Null).await;
        ledger["instances"].as_array().unwrap().clone()
    }

    pub async fn ask(&self, tenant: &str, action: Action) -> Result<Outcome, Refusal> {
        ask(&self.core, tenant, action).await
    }

    pub async fn create(&self, tenant: &str, name: &str, key: &str, spec: &InstanceSpec) -> Result<Outcome, Refusal> {
        self.ask(tenant, create(tenant, name, key, spec)).await
    }

    pub async fn delete(&self, tenant: &str, name: &str) -> Result<Outcome, Refusal> {
        let instance = at(tenant, name);
        let wish = DeleteInstance { instance, allow_missing: false, validate_only: false, wait: PATIENCE };
        self.ask(tenant, Action::DeleteInstance(wish)).await
    }

    pub async fn get(&self, tenant: &str, name: &str) -> Option<views::Instance> {
        match self.ask(tenant, Action::GetInstance(at(tenant, name))).await {
            Ok(Outcome::Instance(rendered, _)) => Some(rendered.instance.clone()),
            _ => None,
        }
    }

    pub async fn list(&self, tenant: &str) -> views::InstancePage {
        let page = PageRequest { size: 1000, after: None };
        let wish = ListInstances { tenant: None, page, ..ListInstances::default() };
        match self.ask(tenant, Action::ListInstances(Box::new(wish))).await {
            Ok(Outcome::Instances(page)) => *page,
            other => panic!("{other:?}"),
        }
    }

    pub async fn explain(&self, tenant: &str, name: &str) -> views::Explanation {
        match self.ask(tenant, Action::ExplainInstance(at(tenant, name))).await {
            Ok(Outcome::Explanation(e, _)) => *e,
            other => panic!("{other:?}"),
        }
    }

    pub async fn used_instances(&self, tenant: &str) -> u64 {
        match self.ask(tenant, Action::GetQuota(Some(tenant.parse().unwrap()))).await {
            Ok(Outcome::Quota(q)) => q.used.unwrap().instances,
            other => panic!("{other:?}"),
        }
    }
}

pub fn at(tenant: &str, name: &str) -> InstanceRef {
    InstanceRef { tenant: Some(tenant.parse().unwrap()), name: name.parse().unwrap(), min_revision: None }
}

pub fn create(tenant: &str, name: &str, key: &str, spec: &InstanceSpec) -> Action {
    Action::CreateInstance(Box::new(CreateInstance {
        tenant: tenant.parse().unwrap(),
        name: name.parse().unwrap(),
        labels: Default::default(),
        project: None,
        annotations: Default::default(),
        metadata_pointer: "",
        spec: spec.clone(),
        idempotency_key: Some(key.to_owned()),
        fingerprint: format!("{name}{}", serde_json::to_string(spec).unwrap().len()),
        validate_only: false,
        wait: PATIENCE,
    }))
}

pub async fn ask(core: &Arc<Core>, tenant: &str, action: Action) -> Result<Outcome, Refusal> {
    ask_as(core, Caller::new(Scope::Tenant(TenantId::new(tenant).unwrap()), "test", Role::Operator), action).await
}

pub async fn ask_as(core: &Arc<Core>, caller: Caller, action: Action) -> Result<Outcome, Refusal> {
    let operation = Operation {
        caller: Arc::new(caller),
        request_id: Arc::from("req_test"),
        deadline: tokio::time::Instant::now() + PATIENCE,
        action,
    };
    operation::stack(core).oneshot(operation).await
}

/// A small web server.
pub fn spec() -> InstanceSpec {
    spec_from(serde_json::json!({"containers": [{"name": "app", "image": "nginx:1.27"}]}))
}

pub fn spec_from(value: Value) -> InstanceSpec {
    serde_json::from_value(value).unwrap()
}

/// Waits until a condition holds.
pub async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("never came: {what}"));
}
