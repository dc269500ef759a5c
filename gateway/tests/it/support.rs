//! A gateway's edge over a fake operation stack, and a client that sends exactly the bytes it is given.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use meridian_adapters::http::HttpClient;
use meridian_gateway::{
    admin::{Admin, Health},
    audit::Audit,
    clock::{Clock, Entropy},
    config::{Config, Sources},
    directory::{Declared, Directory},
    http::{Http, Parts, authenticate},
    identity::Identities,
    operation::{Action, Operation, OperationService, Outcome, Refusal},
    server::{Drained, Server, Setup},
    telemetry::{Metrics, core::CoreMetrics},
    views,
};
use meridian_model::{
    ids::{InstanceName, InstanceUid, RegionId, TenantId},
    instance::InstanceSpec,
    operation::{Charge, OperationState, QuotaLimits},
    time::Time,
};
use secrecy::ExposeSecret as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Longest wait for anything in a test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// 2026-01-01.
pub(crate) const NOW_MS: i64 = 1_767_225_600_000;

pub(crate) struct Gateway {
    pub(crate) api: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) drain: CancellationToken,
    pub(crate) acme: String,
    pub(crate) lab: String,
    pub(crate) seen: Arc<Mutex<Vec<Action>>>,
    pub(crate) now: Arc<AtomicU64>,
    pub(crate) order: &'static [&'static str],
    pub(crate) health: Arc<Health>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) ended: JoinHandle<Drained>,
    _admin: JoinHandle<Drained>,
}

type Answer = Arc<dyn Fn(&Operation) -> Option<Result<Outcome, Refusal>> + Send + Sync>;

/// What a test changes of the usual gateway.
#[derive(Default, Clone)]
pub(crate) struct Options {
    /// TOML of `[server]` and below.
    pub(crate) server: String,
    /// TOML of the tenants' `rate`.
    pub(crate) rate: String,
    /// More sections of TOML.
    pub(crate) extra: String,
    /// Answers instead of the fake, where it gives one.
    pub(crate) answer: Option<Answer>,
    /// The operation stack never answers.
    pub(crate) stuck: bool,
    /// Records who changed what; off by default.
    pub(crate) audit: Audit,
}

/// Whose word is taken, with keys that are kept fresh as long as the test lasts.
fn identities(config: &Config, clock: &Clock) -> Arc<Identities> {
    let metrics = &CoreMetrics::detached().identity;
    let identities = Identities::new(config.identity_rules(), &HttpClient::new().unwrap(), clock, metrics);
    identities.start(&TaskTracker::new(), &CancellationToken::new());
    identities
}

fn config(options: &Options, keys: [&authenticate::MintedKey; 2]) -> Config {
    let server = if options.server.is_empty() { "[server]\n" } else { &options.server };
    let rate = if options.rate.is_empty() { "{}" } else { &options.rate };
    let mut text = format!(
        "[deployment]\nid = \"test\"\nsecret = \"0123456789abcdef0123456789abcdef\"\n{server}\n[ledger]\npath = \"x\"\n\
         [[backends]]\nid = \"gz\"\nadapter = \"tencent-eksci\"\nregion = \"ap-guangzhou\"\n"
    );
    for (name, key) in ["acme", "lab"].into_iter().zip(keys) {
        let hash = key.sha256_hex();
        text += &format!(
            "[[tenants]]\nname = \"{name}\"\nkeys = [{{ id = \"{name}-1\", sha256 = \"{hash}\" }}]\n\
             projects = [{{ name = \"web\" }}]\nrate = {rate}\n"
        );
    }
    text += &options.extra;
    let env = |_: &str| None;
    Config::parse_with(&text, "test.toml", &Sources { base: Path::new("/"), env: &env }, &|_| Vec::new()).unwrap()
}

impl Gateway {
    pub(crate) async fn usual() -> Self {
        Self::start(Options::default()).await
    }

    pub(crate) async fn start(options: Options) -> Self {
        let counter = Arc::new(AtomicU64::new(0));
        let entropy = Entropy::from_fn(move || u128::from(counter.fetch_add(1, Ordering::Relaxed)));
        let now = Arc::new(AtomicU64::new(NOW_MS.unsigned_abs()));
        let hands = Arc::clone(&now);
        let clock = Clock::from_fn(move || Time::from_unix_ms(hands.load(Ordering::Relaxed).try_into().unwrap()));
        let (acme, lab) =
            (authenticate::mint("test", "acme-1", &entropy), authenticate::mint("test", "lab-1", &entropy));
        let config = config(&options, [&acme, &lab]);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let metrics = Metrics::new();
        let drain = CancellationToken::new();
        let health = Health::new(drain.clone());
        let parts = Parts {
            operations: fake(&options, Arc::clone(&seen)),
            metrics: Arc::clone(&metrics),
            directory: Directory::new(Declared::of(&config), clock.clone(), None),
            identities: identities(&config, &clock),
            clock,
            entropy: entropy.clone(),
            health: Arc::clone(&health),
            audit: options.audit.clone(),
        };
        let http = Http::build(&config, parts);
        let order = http.order();
        let limits = config.server.limits.clone();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let setup = Setup {
            handler: http,
            tls: config.server.tls.as_ref(),
            limits: limits.clone(),
            metrics: Arc::clone(&metrics),
            entropy: entropy.clone(),
            drain: drain.clone(),
        };
        let server = Server::bind(any, setup).unwrap();
        let handler = Admin::new(Arc::clone(&health), Arc::clone(&metrics), config.redacted());
        let setup = Setup {
            handler,
            tls: None,
            limits,
            metrics: Arc::clone(&metrics),
            entropy,
            drain: CancellationToken::new(),
        };
        let admin = Server::bind(any, setup).unwrap();
        Self {
            api: server.local_addr(),
            admin: admin.local_addr(),
            drain,
            acme: acme.key.expose_secret().to_owned(),
            lab: lab.key.expose_secret().to_owned(),
            seen,
            now,
            order,
            health,
            metrics,
            ended: tokio::spawn(server.run()),
            _admin: tokio::spawn(admin.run()),
        }
    }

    /// A request of tenant acme.
    pub(crate) async fn send(&self, line: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        self.send_as(&self.acme, line, headers, body).await
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send(&format!("GET {path}"), &[], b"").await
    }

    /// A create of tenant acme.
    pub(crate) async fn create(&self, query: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        let mut headers = headers.to_vec();
        if !headers.iter().any(|(n, _)| n.eq_ignore_ascii_case("content-type")) {
            headers.push(("content-type", "application/json"));
        }
        self.send(&format!("POST /v1/tenants/acme/instances{query}"), &headers, body.as_bytes()).await
    }

    pub(crate) async fn send_as(&self, key: &str, line: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let bearer = format!("Bearer {key}");
        let mut all = vec![("authorization", bearer.as_str())];
        all.extend_from_slice(headers);
        raw(self.api, line, &all, body).await
    }

    pub(crate) fn actions(&self) -> Vec<Action> {
        self.seen.lock().unwrap().clone()
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub(crate) fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or("").to_owned()
    }

    /// Status, headers but the date, and body, for snapshots.
    pub(crate) fn shown(&self) -> String {
        let mut text = format!("{}\n", self.status);
        for (name, value) in self.headers.iter().filter(|(n, _)| *n != "date") {
            text += &format!("{name}: {value}\n");
        }
        if !self.body.is_empty() {
            text += &serde_json::to_string_pretty(&self.json()).unwrap();
        }
        text
    }
}

/// Sends a request on a connection of its own. `line` is method and path.
pub(crate) async fn raw(address: SocketAddr, line: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    let mut text = format!("{line} HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n");
    if !body.is_empty() && !headers.iter().any(|(n, _)| *n == "content-length" || *n == "transfer-encoding") {
        text += &format!("content-length: {}\r\n", body.len());
    }
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    text += "\r\n";
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(body);
    parse(&exchange(address, &bytes).await)
}

/// Sends bytes and reads until the server closes.
pub(crate) async fn exchange(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The server may refuse and close before it has read everything: that is what some tests are about.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("no answer in time");
    answer
}

pub(crate) fn parse(answer: &[u8]) -> Reply {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no response in {text:?}"));
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines.map(|l| l.split_once(": ").unwrap()).map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
    Reply { status, headers, body: body.as_bytes().to_vec() }
}

fn fake(options: &Options, seen: Arc<Mutex<Vec<Action>>>) -> OperationService {
    let Options { answer, stuck, .. } = options.clone();
    OperationService::new(tower::service_fn(move |operation: Operation| {
        seen.lock().unwrap().push(operation.action.clone());
        let given = answer.as_ref().and_then(|answer| answer(&operation));
        async move {
            if stuck {
                std::future::pending::<()>().await;
            }
            given.unwrap_or_else(|| usual(&operation))
        }
    }))
}

fn own(operation: &Operation, tenant: Option<&TenantId>) -> Result<(), Refusal> {
    if tenant.is_none_or(|t| Some(t) == operation.caller.tenant()) { Ok(()) } else { Err(Refusal::not_found()) }
}

/// The fake's world: tenant acme has the instances web-0 to web-4.
fn usual(operation: &Operation) -> Result<Outcome, Refusal> {
    match &operation.action {
        Action::CreateInstance(create) => {
            own(operation, Some(&create.tenant))?;
            let key = Arc::from(create.idempotency_key.as_deref().unwrap_or("made"));
            let mut instance = instance(create.name.as_str());
            instance.spec = Arc::new(create.spec.clone());
            instance.labels = create.labels.clone();
            let operation = meridian_model::ids::OperationId::new("op1").unwrap();
            Ok(Outcome::Created { instance: Box::new(instance), key, replayed: false, revision: 7, operation })
        }
        Action::GetInstance(wish) => {
            own(operation, wish.tenant.as_ref())?;
            if !wish.name.as_str().starts_with("web-") {
                return Err(Refusal::not_found());
            }
            // Of web-4 only what was known a while ago.
            let ledger = (wish.name.as_str() == "web-4").then_some(views::LedgerFreshness {
                source: "ledger",
                age_ms: 7_200,
                state: views::FreshnessState::Stale,
            });
            Ok(Outcome::Instance(rendered(wish.name.as_str()), ledger))
        }
        Action::ListInstances(list) => {
            own(operation, list.tenant.as_ref())?;
            let names: Vec<String> = (0..5).map(|n| format!("web-{n}")).collect();
            let rest: Vec<_> = names.iter().filter(|n| list.page.after.as_ref().is_none_or(|a| *n > a)).collect();
            let items: Vec<_> = rest.iter().take(list.page.size).map(|n| rendered(n)).collect();
            let next_after = (rest.len() > items.len()).then(|| items.last().unwrap().short_name.to_string());
            Ok(Outcome::Instances(Box::new(views::InstancePage {
                items,
                next_after,
                revision: Some(7),
                unreachable: vec!["regions/cn-hangzhou".to_owned()],
                ledger: None,
                freshness: Arc::new(vec![views::Freshness {
                    region: RegionId::new("ap-guangzhou").unwrap(),
                    backend: meridian_model::ids::BackendId::new("gz").unwrap(),
                    observed_at: Some(Time::from_unix_ms(NOW_MS - 4200)),
                    age_ms: Some(4200),
                    source: "poll",
                    state: views::FreshnessState::Fresh,
                }]),
            })))
        }
        Action::DeleteInstance(delete) => {
            own(operation, delete.instance.tenant.as_ref())?;
            Ok(Outcome::Accepted { operation: Box::new(long_operation()), key: None })
        }
        Action::GetQuota(tenant) => {
            own(operation, tenant.as_ref())?;
            Ok(Outcome::Quota(Box::new(quota())))
        }
        Action::ListQuotas(tenant) => {
            own(operation, tenant.as_ref())?;
            Ok(Outcome::Quotas(views::Page { items: vec![quota()], next_after: None }))
        }
        _ => Err(Refusal::not_found()),
    }
}

pub(crate) fn quota() -> views::Quota {
    views::Quota {
        name: "tenants/acme/quotas/default".to_owned(),
        limits: QuotaLimits { instances: Some(10), ..QuotaLimits::default() },
        used: Some(Charge { instances: 3, ..Charge::default() }),
        parent: None,
        lines: Vec::new(),
        budget: None,
        reclaim: None,
        priority: None,
        forecast: vec![views::QuotaForecast {
            line: "instances".to_owned(),
            left: "7".to_owned(),
            per_hour: "2".to_owned(),
            exhaust_time: Some(Time::from_unix_ms(NOW_MS + 12_600_000)),
            reason: None,
        }],
    }
}

pub(crate) fn long_operation() -> views::Operation {
    views::Operation {
        name: "tenants/acme/operations/op1".to_owned(),
        verb: "delete",
        target: "tenants/acme/instances/web-0".to_owned(),
        done: false,
        undetermined: false,
        revision: "7".to_owned(),
        state: OperationState::Placing.as_str(),
        progress: views::Progress { done: 0, total: 1, message: "removing".to_owned() },
        attempts: Vec::new(),
        error: None,
        response: None,
        create_time: Time::from_unix_ms(NOW_MS),
        update_time: Time::from_unix_ms(NOW_MS),
    }
}

pub(crate) fn instance(name: &str) -> views::Instance {
    views::Instance {
        name: format!("tenants/acme/instances/{name}"),
        uid: InstanceUid::new("inst_1").unwrap(),
        tenant: TenantId::new("acme").unwrap(),
        labels: BTreeMap::new(),
        project: None,
        annotations: BTreeMap::new(),
        generation: 1,
        etag: "e1".to_owned(),
        create_time: Time::from_unix_ms(NOW_MS),
        update_time: Time::from_unix_ms(NOW_MS),
        spec: Arc::new(InstanceSpec::default()),
        status: views::InstanceStatus::default(),
    }
}

fn rendered(name: &str) -> Arc<views::Rendered> {
    Arc::new(views::Rendered::new(InstanceName::new(name).unwrap(), instance(name)))
}

/// Waits until a condition holds, with a bound.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = tokio::time::Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "{what} did not come to hold");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
