//! What tenants do in a history: two clients per idempotency key, who send, lose patience, ask the other gateway,
//! repeat until they have a final answer, and sometimes delete.

use std::{cell::RefCell, rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode};
use meridian_adapters::http::HttpClient;
use meridian_cloudsim::core::Rng;
use meridian_gateway::{journal::identity::Deployment, operation::claim::ROUTE};
use meridian_model::ids::TenantId;
use serde_json::{Value, json};

use super::{
    clouds::REGIONS,
    faults::{GATEWAYS, between, gateway_name, pick},
    gateways::{DEPLOYMENT_ID, DEPLOYMENT_SECRET, Keys},
    net::{Host, PORT},
    projects,
    trace::Trace,
};

/// Keys per history and clients per key.
pub const KEYS: usize = 12;
/// Clients per key.
pub const CLIENTS: usize = 2;
/// The last client begins before this, milliseconds.
const BEGIN_MS_MAX: u64 = 45_000;
/// A client gives up after this, milliseconds: whatever it knows then, the audit asks again.
const PATIENCE_MS: u64 = 110_000;
/// A request is given up after this.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// Tenants with their limit of instances; keys go to them in turns.
pub const TENANTS: [(&str, u64); 2] = [("acme", 5), ("lab", 3)];
/// vCPU of every instance.
pub const CPU: u64 = 1;

/// How long who is told that quota is given back waits before it asks again, milliseconds.
const AGAIN_MS: (u64, u64) = (3_000, 12_000);
/// The code of a create that the quota keeps out.
const SHORT: &str = "quota-exceeded";

/// A final answer to a create.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Final {
    /// Made; its uid.
    Made(String),
    /// Failed; its code.
    Failed(String),
}

/// What a key's clients were told.
#[derive(Debug, Clone)]
pub struct Told {
    /// Owner.
    pub tenant: &'static str,
    /// The project it is for; none: the tenant itself.
    pub project: Option<&'static str>,
    /// The key under which it is asked for again, once, when what others borrow is being taken back for it.
    again: Option<usize>,
    /// The idempotency key.
    pub key: String,
    /// Name of the instance.
    pub name: String,
    /// The operation, as any gateway computes it.
    pub op_id: String,
    /// Body of the create.
    body: String,
    /// Final answers, each once, with when it was first given.
    pub finals: Vec<(u64, Final)>,
    /// First 201 or 202.
    pub acknowledged_ms: Option<u64>,
    /// First 202 or 204 to a delete.
    pub delete_accepted_ms: Option<u64>,
    /// First 204 to a delete.
    pub deleted_ms: Option<u64>,
    /// Requests sent.
    pub tried: usize,
    /// It is what another key is asked for again under.
    is_again: bool,
}

impl Told {
    /// How many clients send it.
    #[must_use]
    pub fn clients(&self) -> usize {
        if self.is_again { 1 } else { CLIENTS }
    }
}

/// Everything that was told, by key.
pub type Book = Rc<RefCell<Vec<Told>>>;

/// The keys of a seed: first those that all histories ask for, then those under which some are asked for again.
#[must_use]
pub fn book(seed: u64) -> Book {
    let mut rng = Rng::new(seed ^ 0x626f_6f6b);
    let mut all: Vec<Told> = (0..KEYS).map(|n| told(seed, n, &mut rng)).collect();
    for n in 0..KEYS {
        let spare = all.len();
        let Some(first) = all.get_mut(n).filter(|t| t.project == Some(projects::OWNER)) else { continue };
        first.again = Some(spare);
        let (tenant, project) = (first.tenant, first.project);
        all.push(of_key(tenant, project, (seed, &format!("{n}-again")), &[]));
    }
    for told in all.iter_mut().skip(KEYS) {
        told.is_again = true;
    }
    Rc::new(RefCell::new(all))
}

/// One of the keys that are always asked for.
fn told(seed: u64, n: usize, rng: &mut Rng) -> Told {
    let regions = if rng.chance(0.3) {
        REGIONS.map(|r| r.name).into_iter().skip(usize::try_from(rng.below(3)).unwrap_or(0)).take(1).collect()
    } else {
        Vec::new()
    };
    let tenant = TENANTS.get(usize::from(n % 3 == 2)).map_or("acme", |(name, _)| name);
    let project = if tenant == "acme" {
        let projects = if is_late(n) { projects::LATE } else { projects::BORROWERS };
        pick(rng, &projects).flatten()
    } else {
        pick(rng, &projects::LIMITED).flatten()
    };
    of_key(tenant, project, (seed, &n.to_string()), &regions)
}

/// Whether a key is asked for in the second half of a history, when others may have borrowed.
const fn is_late(n: usize) -> bool {
    n % 3 != 2 && n >= KEYS / 2
}

fn of_key(tenant: &'static str, project: Option<&'static str>, (seed, n): (u64, &str), regions: &[&str]) -> Told {
    let deployment = Deployment::new(DEPLOYMENT_ID, DEPLOYMENT_SECRET.as_bytes());
    let key = format!("key-{seed}-{n}");
    let op = TenantId::new(tenant).and_then(|tenant| deployment.operation_id(&tenant, ROUTE, &key));
    let spec = json!({
        "containers": [{
            "name": "app",
            "image": "nginx:1.27",
            "resources": {"requests": {"cpu": CPU.to_string(), "memory": "2Gi"}},
        }],
        "placement": {"regions": regions},
    });
    let name = format!("web-{n}");
    let mut body = json!({"name": name, "spec": spec});
    if let (Some(project), Some(fields)) = (project, body.as_object_mut()) {
        fields.insert("project".to_owned(), project.into());
    }
    Told {
        tenant,
        project,
        again: None,
        key,
        name,
        op_id: op.map(|op| op.to_string()).unwrap_or_default(),
        body: body.to_string(),
        finals: Vec::new(),
        acknowledged_ms: None,
        delete_accepted_ms: None,
        deleted_ms: None,
        tried: 0,
        is_again: false,
    }
}

/// A client's view of the gateways.
#[derive(Clone)]
pub struct Client {
    http: HttpClient,
    keys: Rc<Keys>,
    trace: Arc<Trace>,
    book: Book,
}

/// What a reply means.
enum Answer {
    Final(Final),
    /// Failed for want of quota; others give back what they borrow of it.
    TakenBack,
    Accepted,
    Later,
}

impl Client {
    /// A client on a host.
    #[must_use]
    pub fn new(host: Host, keys: Rc<Keys>, trace: &Arc<Trace>, book: &Book) -> Self {
        Self { http: HttpClient::over(Arc::new(host)), keys, trace: Arc::clone(trace), book: Rc::clone(book) }
    }

    /// Runs every client of a seed to its end; `haste` is how probable a delete is before the end is known, each time.
    pub async fn run(self, seed: u64, haste: f64) {
        let tasks: Vec<_> = (0..KEYS * CLIENTS)
            .map(|n| {
                let salt = u64::try_from(n).unwrap_or(0).wrapping_mul(0x9e37_79b9);
                tokio::task::spawn_local(self.clone().live(
                    (n % KEYS, n / KEYS),
                    haste,
                    Rng::new(seed ^ salt ^ 0x0063_6c69),
                ))
            })
            .collect();
        for task in tasks {
            if let Err(error) = task.await {
                self.trace.note(&format!("a client ended badly: {error}"));
            }
        }
    }

    async fn live(self, (at, which): (usize, usize), haste: f64, mut rng: Rng) {
        // A third of the keys are sent by both clients at once.
        let begin = if at.is_multiple_of(3) {
            BEGIN_MS_MAX / 12 * u64::try_from(at).unwrap_or(0)
        } else if is_late(at) {
            between(&mut rng, (BEGIN_MS_MAX / 3, BEGIN_MS_MAX))
        } else {
            between(&mut rng, (0, BEGIN_MS_MAX))
        };
        tokio::time::sleep(Duration::from_millis(begin)).await;
        let mut answer = Answer::Later;
        let mut gateway = which % GATEWAYS.len();
        while self.trace.elapsed_ms() < PATIENCE_MS {
            answer = self.create(at, gateway).await;
            if matches!(answer, Answer::Final(_) | Answer::TakenBack) {
                break;
            }
            if rng.chance(0.4) {
                gateway = 1 - gateway;
            }
            // Some delete before they know.
            if which == 1 && rng.chance(haste) {
                self.delete(at, gateway).await;
            }
            tokio::time::sleep(Duration::from_millis(between(&mut rng, (200, 2_500)))).await;
        }
        if let Answer::TakenBack = answer
            && which == 0
            && let Some(Some(again)) = self.told(at, |t| t.again)
        {
            self.ask_again(again, gateway, &mut rng).await;
            return;
        }
        if which == 0 && matches!(answer, Answer::Final(Final::Made(_))) && rng.chance(0.5) {
            tokio::time::sleep(Duration::from_millis(between(&mut rng, (100, 15_000)))).await;
            for _ in 0..20 {
                if self.delete(at, gateway).await {
                    break;
                }
                gateway = 1 - gateway;
                tokio::time::sleep(Duration::from_millis(between(&mut rng, (500, 2_500)))).await;
            }
        }
    }

    /// Asks under another key, when what was borrowed should be back.
    async fn ask_again(&self, at: usize, mut gateway: usize, rng: &mut Rng) {
        while self.trace.elapsed_ms() < PATIENCE_MS {
            tokio::time::sleep(Duration::from_millis(between(rng, AGAIN_MS))).await;
            if matches!(self.create(at, gateway).await, Answer::Final(_) | Answer::TakenBack) {
                return;
            }
            gateway = 1 - gateway;
        }
    }

    fn told<T>(&self, at: usize, look: impl FnOnce(&mut Told) -> T) -> Option<T> {
        self.book.borrow_mut().get_mut(at).map(look)
    }

    /// Sends the create of a key to a gateway and notes the answer.
    async fn create(&self, at: usize, gateway: usize) -> Answer {
        let wish = self.told(at, |t| {
            t.tried += 1;
            (format!("/v1/tenants/{}/instances", t.tenant), t.tenant, t.key.clone(), t.body.clone())
        });
        let Some((path, tenant, key, body)) = wish else { return Answer::Later };
        let request = self.request("POST", gateway, &path, tenant).header("idempotency-key", &key);
        let request = request.header("content-type", "application/json").body(Bytes::from(body));
        let Ok(request) = request else { return Answer::Later };
        let reply = self.http.send(request, REQUEST_TIMEOUT).await;
        let now = self.trace.elapsed_ms();
        let (status, body) = match reply {
            Ok(reply) => (reply.status(), serde_json::from_slice(reply.body()).unwrap_or(Value::Null)),
            Err(error) => {
                self.trace.note(&format!("{key} {} {}", gateway_name(gateway), error.code));
                return Answer::Later;
            }
        };
        let answer = judge(status, &body);
        let said = match &answer {
            Answer::Final(Final::Made(uid)) => format!("made {uid}"),
            Answer::Final(Final::Failed(code)) => format!("failed {code}"),
            Answer::TakenBack => "failed quota-exceeded, others give back".to_owned(),
            Answer::Accepted => "accepted".to_owned(),
            Answer::Later => format!("later: {}", text(&body, "code")),
        };
        self.trace.note(&format!("{key} {} {status} {said}", gateway_name(gateway)));
        self.told(at, |t| {
            if matches!(answer, Answer::Accepted | Answer::Final(Final::Made(_))) {
                t.acknowledged_ms.get_or_insert(now);
            }
            let last = match &answer {
                Answer::Final(last) => Some(last.clone()),
                Answer::TakenBack => Some(Final::Failed(SHORT.to_owned())),
                Answer::Accepted | Answer::Later => None,
            };
            if let Some(last) = last.filter(|last| t.finals.iter().all(|(_, known)| known != last)) {
                t.finals.push((now, last));
            }
        });
        answer
    }

    /// Asks a gateway for the removal of a key's instance; whether it was accepted.
    async fn delete(&self, at: usize, gateway: usize) -> bool {
        let wish =
            self.told(at, |t| (format!("/v1/tenants/{}/instances/{}", t.tenant, t.name), t.tenant, t.key.clone()));
        let Some((path, tenant, key)) = wish else { return false };
        let Ok(request) = self.request("DELETE", gateway, &path, tenant).body(Bytes::new()) else { return false };
        let reply = self.http.send(request, REQUEST_TIMEOUT).await;
        let now = self.trace.elapsed_ms();
        let Ok(reply) = reply else { return false };
        self.trace.note(&format!("{key} {} delete {}", gateway_name(gateway), reply.status()));
        let accepted = matches!(reply.status(), StatusCode::ACCEPTED | StatusCode::NO_CONTENT);
        self.told(at, |t| {
            if accepted {
                t.delete_accepted_ms.get_or_insert(now);
            }
            if reply.status() == StatusCode::NO_CONTENT {
                t.deleted_ms.get_or_insert(now);
            }
        });
        accepted
    }

    fn request(&self, method: &str, gateway: usize, path: &str, tenant: &str) -> http::request::Builder {
        let host = gateway_name(gateway);
        let bearer = format!("Bearer {}", self.keys.of(tenant));
        Request::builder().method(method).uri(format!("http://{host}:{PORT}{path}")).header("authorization", bearer)
    }

    /// Asks both gateways for the final answer to every key, once things are calm.
    pub async fn audit(&self) {
        let keys = self.book.borrow().len();
        for at in 0..keys {
            if self.told(at, |t| t.tried) == Some(0) {
                continue;
            }
            for gateway in 0..GATEWAYS.len() {
                self.create(at, gateway).await;
            }
        }
    }
}

fn text<'a>(body: &'a Value, field: &str) -> &'a str {
    body.get(field).and_then(Value::as_str).unwrap_or("")
}

/// What a reply to a create says; what is not final is sent again.
fn judge(status: StatusCode, body: &Value) -> Answer {
    const AGAIN: [&str; 8] = [
        "overloaded",
        "store-unavailable",
        "store-recovering",
        "rate-limited",
        "deadline-exceeded",
        "internal",
        "unauthenticated",
        "not-ready",
    ];
    let code = text(body, "code");
    match status {
        StatusCode::CREATED => Answer::Final(Final::Made(text(body, "uid").to_owned())),
        StatusCode::ACCEPTED => Answer::Accepted,
        _ if code.is_empty() || AGAIN.contains(&code) => Answer::Later,
        _ if code == SHORT && body.pointer("/quota/reclaiming").is_some() => Answer::TakenBack,
        _ => Answer::Final(Final::Failed(code.to_owned())),
    }
}
