//! Each request to change something has one record, on the disk before its answer; what cannot be recorded is refused.

use std::{fs, path::Path, sync::Arc, time::Duration};

use meridian_gateway::{
    audit::{Audit, Settings, verify},
    clock::{Clock, Entropy},
    operation::{Action, Operation, Outcome, Refusal},
    telemetry::{Metrics, audit::AuditMetrics},
};
use meridian_model::{
    error::{ErrorCode, Problem},
    time::Time,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    identity::IssuerServer,
    support::{Gateway, NOW_MS, Options, long_operation, raw, until},
};

const SPEC: &str = r#"{"name":"web","spec":{"containers":[{"name":"app","image":"nginx"}]}}"#;

/// A log in a folder of its own.
pub(crate) struct Log {
    folder: TempDir,
    pub(crate) audit: Audit,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
}

impl Log {
    fn settings(folder: &Path) -> Settings {
        Settings {
            folder: folder.to_owned(),
            key_file: None,
            rotate_bytes: 1024 * 1024,
            rotate_age: Duration::from_secs(3600),
            retention: Duration::from_secs(3600),
        }
    }

    fn open(folder: TempDir, settings: Settings) -> Self {
        let metrics = Metrics::new();
        let clock = Clock::from_fn(|| Time::from_unix_ms(NOW_MS));
        let audit = Audit::open(settings, clock, &Entropy::system(), AuditMetrics::register(&metrics)).unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(audit.clone().keep(stop.clone()));
        Self { folder, audit, metrics, stop }
    }

    pub(crate) fn usual() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = Self::settings(folder.path());
        Self::open(folder, settings)
    }

    async fn gateway(&self, options: Options) -> Gateway {
        Gateway::start(Options { audit: self.audit.clone(), ..options }).await
    }

    /// The records on the disk of one kind.
    pub(crate) fn records(&self, kind: &str) -> Vec<Value> {
        let mut records = Vec::new();
        for entry in fs::read_dir(self.folder.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "jsonl") && path.is_file() {
                records.extend(
                    fs::read_to_string(path).unwrap().lines().map(|l| serde_json::from_str::<Value>(l).unwrap()),
                );
            }
        }
        records.sort_by_key(|r| r["seq"].as_u64());
        records.retain(|r| r["kind"] == kind);
        records
    }

    fn requests(&self) -> Vec<Value> {
        self.records("request")
    }

    /// Ends it; it must be whole.
    async fn end(&self) {
        self.stop.cancel();
        self.audit.close().await;
        let key = self.audit.public_key().unwrap().to_owned();
        let report = verify::folder(self.folder.path(), &[key], &[]).unwrap();
        assert!(report.is_whole(), "{:?}", report.findings);
        assert_eq!(report.unsigned, 0);
    }
}

/// Answers creates by the instance's name.
fn by_name() -> Options {
    let refuses = |code: ErrorCode| -> Result<Outcome, Refusal> { Err(Problem::new(code, "no").into()) };
    let answer = move |operation: &Operation| {
        let Action::CreateInstance(create) = &operation.action else { return None };
        match create.name.as_str() {
            "quota" => Some(refuses(ErrorCode::QuotaExceeded)),
            "reused" => Some(refuses(ErrorCode::IdempotencyKeyReused)),
            "taken" => Some(refuses(ErrorCode::AlreadyExists)),
            "full" => Some(refuses(ErrorCode::NoCapacity)),
            "bug" => panic!("a bug"),
            "slow" => Some(Ok(Outcome::Accepted { operation: Box::new(long_operation()), key: None })),
            _ => None,
        }
    };
    Options { answer: Some(Arc::new(answer)), ..Options::default() }
}

fn named(name: &str) -> String {
    SPEC.replace("\"web\"", &format!("\"{name}\""))
}

#[tokio::test]
async fn every_change_and_every_refused_one_has_one_record_before_its_answer() {
    let log = Log::usual();
    let gateway = log.gateway(by_name()).await;
    let steps: [(&str, u16, &str, Option<&str>); 7] = [
        ("web", 201, "accepted", None),
        ("slow", 202, "accepted", None),
        ("quota", 403, "denied", Some("quota-exceeded")),
        ("reused", 422, "denied", Some("idempotency-key-reused")),
        ("taken", 409, "denied", Some("already-exists")),
        ("full", 503, "denied", Some("no-capacity")),
        ("bug", 500, "failed", Some("internal")),
    ];
    for (n, (name, status, decision, code)) in steps.into_iter().enumerate() {
        let reply = gateway.create("", &[("idempotency-key", "k")], &named(name)).await;
        assert_eq!(reply.status, status, "{name}");
        let requests = log.requests();
        assert_eq!(requests.len(), n + 1, "{name}: one record, and it is there when the answer is");
        let last = &requests[n];
        assert_eq!((last["decision"].as_str(), last["code"].as_str()), (Some(decision), code), "{last}");
        assert_eq!((&last["status"], last["idempotencyKey"].as_str()), (&Value::from(status), Some("k")));
        assert_eq!(last["object"], format!("tenants/acme/instances/{name}"));
        assert_eq!(last["requestId"].as_str(), reply.header("x-request-id"));
    }
    let requests = log.requests();
    assert_ne!(requests[0]["specDigest"], requests[1]["specDigest"]);
    let mut one = requests[0].clone();
    assert_eq!(one["specDigest"].as_str().map(str::len), Some(64));
    for member in ["hash", "prevHash", "specDigest"] {
        one[member] = "...".into();
    }
    insta::assert_snapshot!(serde_json::to_string_pretty(&one).unwrap());
    log.end().await;
}

#[tokio::test]
async fn what_never_came_to_an_operation_is_recorded_by_its_path() {
    let log = Log::usual();
    let gateway = log.gateway(Options::default()).await;
    let foreign = gateway.send("DELETE /v1/tenants/lab/instances/web-1", &[], b"").await;
    let bad = gateway.create("", &[], "{").await;
    let deleted = gateway.send("DELETE /v1/tenants/acme/instances/web-1", &[], b"").await;
    assert_eq!((foreign.status, bad.status, deleted.status), (404, 400, 202));
    let requests = log.requests();
    let told = |r: &Value| ["tenant", "object", "code", "action"].map(|m| r[m].as_str().map(str::to_owned));
    let expected = |object: &str, code: Option<&str>, action: &str| {
        [Some("acme"), Some(object), code, Some(action)].map(|word| word.map(str::to_owned))
    };
    assert_eq!(
        requests.iter().map(told).collect::<Vec<_>>(),
        [
            expected("tenants/lab/instances/web-1", Some("not-found"), "delete-instance"),
            expected("tenants/acme/instances", Some("invalid-argument"), "create-instance"),
            expected("tenants/acme/instances/web-1", None, "delete-instance"),
        ],
        "what was tried at another tenant is the caller's own affair"
    );
    log.end().await;
}

#[tokio::test]
async fn what_changes_nothing_and_what_a_stranger_asks_has_no_record_of_its_own() {
    let log = Log::usual();
    let gateway = log.gateway(by_name()).await;
    gateway.get("/v1/tenants/acme/instances/web-1").await;
    gateway.create("?validateOnly=true", &[], SPEC).await;
    gateway.create("?validateOnly=true", &[], &named("quota")).await;
    let delete = "DELETE /v1/tenants/acme/instances/web-1";
    let stranger = raw(gateway.api, delete, &[("authorization", "Bearer x")], b"").await;
    assert_eq!(stranger.status, 401);
    assert_eq!(log.requests(), Vec::<Value>::new());
    log.end().await;
    let tallies = log.records("tally");
    assert_eq!(tallies.len(), 1);
    assert_eq!((tallies[0]["count"].as_u64(), tallies[0]["source"].as_str()), (Some(1), Some("127.0.0.1")));
}

#[tokio::test]
async fn what_nobody_waits_for_any_more_has_its_record() {
    let log = Log::usual();
    let gateway = log.gateway(Options { stuck: true, ..Options::default() }).await;
    let reply = gateway.create("", &[("x-request-timeout-ms", "100")], SPEC).await;
    assert_eq!(reply.status, 504);
    let requests = log.requests();
    assert_eq!((requests.len(), requests[0]["decision"].as_str()), (1, Some("unknown")));
    let mut stream = TcpStream::connect(gateway.api).await.unwrap();
    let head = format!(
        "POST /v1/tenants/acme/instances HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {}\r\ncontent-type: \
         application/json\r\ncontent-length: {}\r\n\r\n{SPEC}",
        gateway.acme,
        SPEC.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    until("it is in work", || gateway.actions().len() == 2).await;
    drop(stream);
    until("its record is there", || log.requests().len() == 2).await;
    let gone = &log.requests()[1];
    assert_eq!((gone["decision"].as_str(), &gone["status"]), (Some("unknown"), &Value::Null));
    log.end().await;
}

#[tokio::test]
async fn a_caller_far_over_its_rate_cannot_fill_the_disk() {
    let log = Log::usual();
    let rate = "{ requestsPerMinute = 1, burst = 1 }".to_owned();
    let gateway = log.gateway(Options { rate, ..Options::default() }).await;
    for _ in 0..100 {
        gateway.create("", &[], SPEC).await;
    }
    assert_eq!(log.requests().len(), 61, "one that was made, sixty that were refused");
    log.end().await;
    let tallies = log.records("tally");
    assert_eq!((tallies.len(), tallies[0]["count"].as_u64()), (1, Some(39)));
    assert_eq!((tallies[0]["code"].as_str(), tallies[0]["tenant"].as_str()), (Some("rate-limited"), Some("acme")));
}

#[tokio::test]
async fn a_caller_over_its_part_of_a_busy_gateway_cannot_fill_the_disk() {
    let log = Log::usual();
    let server = "[server]\nlimits = { inFlightMax = 10 }".to_owned();
    let gateway = Arc::new(log.gateway(Options { server, stuck: true, ..Options::default() }).await);
    let mut busy = JoinSet::new();
    for n in 0..6 {
        let gateway = Arc::clone(&gateway);
        busy.spawn(async move {
            let (tenant, key) = if n == 0 { ("lab", &gateway.lab) } else { ("acme", &gateway.acme) };
            let line = format!("POST /v1/tenants/{tenant}/instances");
            gateway.send_as(key, &line, &[("content-type", "application/json")], SPEC.as_bytes()).await
        });
    }
    until("they are in work", || gateway.actions().len() == 6).await;
    for _ in 0..100 {
        let refused = gateway.create("", &[], SPEC).await;
        assert_eq!((refused.status, refused.code().as_str()), (503, "overloaded"));
    }
    assert_eq!(log.requests().len(), 60);
    busy.shutdown().await;
    until("those that were cut are recorded", || log.requests().len() == 66).await;
    log.end().await;
    let tallies = log.records("tally");
    assert_eq!((tallies.len(), tallies[0]["count"].as_u64()), (1, Some(40)));
    assert_eq!((tallies[0]["code"].as_str(), tallies[0]["tenant"].as_str()), (Some("overloaded"), Some("acme")));
}

#[tokio::test]
async fn who_is_proven_and_means_nothing_here_is_counted_by_name() {
    let (log, issuer) = (Log::usual(), IssuerServer::start().await);
    let gateway = log.gateway(Options { extra: issuer.section(), ..Options::default() }).await;
    for groups in ["none", "gone"] {
        let token = issuer.token(&serde_json::json!({ "groups": [groups] }));
        let refused = gateway.send_as(&token, "DELETE /v1/tenants/acme/instances/web-1", &[], b"").await;
        assert_eq!(refused.status, 403, "{}", refused.shown());
    }
    log.end().await;
    let tallies = log.records("tally");
    let told = ["action", "code"].map(|member| tallies[0][member].as_str());
    assert_eq!((tallies.len(), told), (1, [Some("authenticate"), Some("permission-denied")]));
    assert_eq!((tallies[0]["count"].as_u64(), &tallies[0]["actor"]["principal"]), (Some(2), &"oidc:corp:u1".into()));
}

/// Where the disk takes nothing: a name that leads nowhere.
#[cfg(unix)]
fn block(folder: &Path, seq: u64) -> std::path::PathBuf {
    let path = folder.join(format!("audit-{seq:020}.jsonl"));
    std::os::unix::fs::symlink("/nonexistent/log", &path).unwrap();
    path
}

#[cfg(unix)]
#[tokio::test]
async fn nothing_is_changed_that_cannot_be_recorded_and_reads_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let blocked = block(folder.path(), 1);
    let settings = Log::settings(folder.path());
    let log = Log::open(folder, settings);
    let gateway = log.gateway(Options::default()).await;
    until("it is noticed", || log.audit.trouble().is_some()).await;
    let refused = gateway.create("", &[], SPEC).await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "store-unavailable"));
    assert!(refused.json()["detail"].as_str().unwrap().contains("audit log"), "{}", refused.shown());
    assert!(refused.header("retry-after").is_some());
    assert_eq!(gateway.actions().len(), 0, "nothing was begun");
    assert_eq!(gateway.get("/v1/tenants/acme/instances/web-1").await.status, 200);
    assert!(log.metrics.render().contains("meridian_audit_unwritable 1\n"));
    fs::remove_file(blocked).unwrap();
    until("it is well again", || log.audit.trouble().is_none()).await;
    assert!(log.metrics.render().contains("meridian_audit_unwritable 0\n"));
    assert_eq!(gateway.create("", &[], SPEC).await.status, 201);
    assert_eq!(log.requests().len(), 1);
    log.end().await;
    let tallies = log.records("tally");
    assert_eq!((tallies.len(), tallies[0]["code"].as_str()), (1, Some("store-unavailable")));
}

#[cfg(unix)]
#[tokio::test]
async fn a_change_whose_record_the_disk_did_not_take_is_answered_as_unknown_and_recorded_later() {
    let folder = tempfile::tempdir().unwrap();
    let blocked: Vec<_> = (3..100).map(|seq| block(folder.path(), seq)).collect();
    let settings = Settings { rotate_bytes: 1, ..Log::settings(folder.path()) };
    let log = Log::open(folder, settings);
    until("it has begun", || log.records("start").len() == 1).await;
    let gateway = log.gateway(Options::default()).await;
    let reply = gateway.create("", &[], SPEC).await;
    assert_eq!((reply.status, reply.code().as_str()), (504, "deadline-exceeded"), "{}", reply.shown());
    assert_eq!(reply.json()["outcome"], "unknown");
    assert_eq!(gateway.actions().len(), 1, "it was carried out");
    for path in blocked {
        fs::remove_file(path).unwrap();
    }
    until("it is well again", || log.audit.trouble().is_none()).await;
    assert_eq!(log.requests().len(), 1, "it was kept until the disk took it");
    log.end().await;
}
