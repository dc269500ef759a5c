//! The lives of keys made by the API: what ends one, what is handed on with it, and what a store that is slow, or does not
//! answer, may not change about either.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use meridian_gateway::{
    audit::Audit,
    clock::{Clock, Entropy},
    config::Config,
    core::{Core, Deps},
    directory::keys::Denied,
    journal::intent::NoIntents,
    operation::{
        self, Action, Caller, Operation, Outcome, PageRequest, Refusal, Scope,
        directory::DirectoryAction,
        policies::{Home, PolicyAction},
        writing::Condition,
    },
    telemetry::core::CoreMetrics,
    views,
};
use meridian_ledger::{
    LedgerError, LedgerFuture,
    conformance::MemoryLedger,
    documents::{Document, Documents, Expect, FORGOTTEN_AFTER, Handed, MemoryDocuments, News, Position, Put},
    shared::MemoryShared,
};
use meridian_model::{error::ErrorCode, ids::TenantId, time::Time};
use meridian_policies::access::Role;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::support::{NOW_MS, PATIENCE, until};

/// Documents behind a store that can be slow, or leave a write without an answer.
#[derive(Debug)]
struct Store {
    documents: MemoryDocuments,
    /// A write needs a permit; there are plenty until a test takes them.
    gate: Semaphore,
    /// Writes that wait at the gate.
    waiting: AtomicI64,
    /// Writes are made and not answered.
    mute: AtomicBool,
}

/// Permits of an open gate: more than a test writes.
const OPEN: usize = 1 << 20;

impl Store {
    fn new(documents: MemoryDocuments) -> Arc<Self> {
        let (gate, waiting, mute) = (Semaphore::new(OPEN), AtomicI64::new(0), AtomicBool::new(false));
        Arc::new(Self { documents, gate, waiting, mute })
    }

    fn shut(&self) {
        self.gate.forget_permits(OPEN);
    }

    fn open(&self) {
        self.gate.add_permits(OPEN);
    }
}

/// A gateway's view of the store: its writes go on when their futures are dropped, as those of a writer's thread or of a
/// connection do.
#[derive(Debug)]
struct View(Arc<Store>);

impl Documents for View {
    fn is_shared(&self) -> bool {
        self.0.documents.is_shared()
    }

    fn read<'a>(&'a self, after: &'a Position) -> LedgerFuture<'a, News> {
        self.0.documents.read(after)
    }

    fn put<'a>(&'a self, name: &'a str, body: Option<String>, expect: Expect, now: Time) -> LedgerFuture<'a, Put> {
        let (store, name) = (Arc::clone(&self.0), name.to_owned());
        let write = tokio::spawn(async move {
            store.waiting.fetch_add(1, Ordering::SeqCst);
            store.gate.acquire().await.unwrap().forget();
            let put = store.documents.put(&name, body, expect, now).await;
            if store.mute.load(Ordering::SeqCst) { Err(LedgerError::Unanswered("cut".to_owned())) } else { put }
        });
        Box::pin(async move { write.await.unwrap() })
    }

    fn forget(&self, now: Time) -> LedgerFuture<'_, ()> {
        self.0.documents.forget(now)
    }

    fn restore(&self, handed: Handed) -> LedgerFuture<'_, ()> {
        self.0.documents.restore(handed)
    }
}

const PROJECTS: &str = r#"[{ name = "team" }, { name = "web", parent = "team" }, { name = "blog", parent = "team" }]"#;

/// A gateway whose operation stack is called, and the hands of its clock.
struct Gateway {
    core: Arc<Core>,
    now: Arc<AtomicI64>,
}

impl Gateway {
    async fn start(store: &Arc<Store>) -> Self {
        Self::with(store, PROJECTS).await
    }

    async fn with(store: &Arc<Store>, projects: &str) -> Self {
        let text = format!(
            "[deployment]\nid = \"test\"\nsecret = \"0123456789abcdef0123456789abcdef\"\n[ledger]\npath = \"unused\"\n\
             [[tenants]]\nname = \"acme\"\nprojects = {projects}\n\
             [[backends]]\nid = \"gz\"\nadapter = \"tencent-eksci\"\nregion = \"ap-guangzhou\"\n\
             settings = {{ endpoint = \"http://127.0.0.1:1\", secretId = \"id\", secretKey = \"key\" }}\n"
        );
        let config = Config::parse(&text, "test.toml", &|_| Vec::new()).unwrap_or_else(|m| panic!("{m}\n{text}"));
        let now = Arc::new(AtomicI64::new(NOW_MS));
        let hands = Arc::clone(&now);
        let deps = Deps {
            audit: Audit::off(),
            clock: Clock::from_fn(move || Time::from_unix_ms(hands.load(Ordering::SeqCst))),
            entropy: Entropy::system(),
            ledger: Arc::new(MemoryLedger::new("store")),
            shared: Arc::new(MemoryShared::alone()),
            recovery: None,
            documents: Arc::new(View(Arc::clone(store))),
            intents: Arc::new(NoIntents),
            metrics: CoreMetrics::detached(),
            draining: CancellationToken::new(),
        };
        Self { core: Core::start(&config, deps).await.unwrap(), now }
    }

    fn pass(&self, time: Duration) {
        self.now.fetch_add(time.as_millis().try_into().unwrap(), Ordering::SeqCst);
    }

    async fn ask_as(&self, caller: Caller, action: Action) -> Result<Outcome, Refusal> {
        let operation = Operation {
            caller: Arc::new(caller),
            request_id: Arc::from("req_test"),
            deadline: tokio::time::Instant::now() + PATIENCE,
            action,
        };
        operation::stack(&self.core).oneshot(operation).await
    }

    async fn ask(&self, action: DirectoryAction) -> Result<Outcome, Refusal> {
        self.ask_as(platform(), Action::Directory(Box::new(action), false)).await
    }

    async fn make_as(&self, caller: Caller, tenant: &str, key: Option<&str>, wish: Value) -> Result<Made, Refusal> {
        let wish = DirectoryAction::CreateKey {
            tenant: Some(name(tenant)),
            fingerprint: wish.to_string(),
            wish: serde_json::from_value(wish).unwrap(),
            key: key.map(str::to_owned),
        };
        self.ask_as(caller, Action::Directory(Box::new(wish), false)).await.map(made)
    }

    async fn make(&self, tenant: &str, key: Option<&str>, wish: Value) -> Result<Made, Refusal> {
        self.make_as(platform(), tenant, key, wish).await
    }

    async fn rotate(&self, id: &str, grace: &str, condition: Condition) -> Result<Made, Refusal> {
        self.rotate_once(id, grace, condition, None).await
    }

    async fn rotate_once(
        &self,
        id: &str,
        wish: &str,
        condition: Condition,
        key: Option<&str>,
    ) -> Result<Made, Refusal> {
        self.ask(rotation(Some(name("acme")), id, wish, (condition, key))).await.map(made)
    }

    async fn revoke(&self, tenant: &str, id: &str) -> Result<Outcome, Refusal> {
        self.ask(DirectoryAction::RevokeKey(Some(name(tenant)), id.to_owned(), Condition::None)).await
    }

    async fn account(&self, tenant: &str, wish: Value) -> Result<Outcome, Refusal> {
        let wish = serde_json::from_value(wish).unwrap();
        self.ask(DirectoryAction::CreateAccount(Some(name(tenant)), wish)).await
    }

    async fn delete_account(&self, tenant: &str, account: &str) -> Result<Outcome, Refusal> {
        let account = account.parse().unwrap();
        self.ask(DirectoryAction::DeleteAccount(Some(name(tenant)), account, Condition::None)).await
    }

    async fn put_policy(&self, tenant: &str, policy: &str) -> Result<Outcome, Refusal> {
        let manifest = json!({
            "apiVersion": "meridian.dev/v1", "kind": "Policy", "metadata": { "name": policy },
            "spec": { "rules": [{ "id": "r", "expression": "object.name != 'web'" }] },
        });
        let (home, condition) = (Home::Tenant(Some(name(tenant))), Condition::Absent);
        let put = PolicyAction::Put { home, name: policy.parse().unwrap(), manifest, condition, validate_only: false };
        self.ask_as(platform(), Action::Policies(Box::new(put))).await
    }

    async fn put_tenant(&self, tenant: &str, instances: u64, condition: Condition) -> Result<Outcome, Refusal> {
        let document = json!({
            "apiVersion": "meridian.dev/v1", "kind": "Tenant", "metadata": { "name": tenant },
            "spec": { "quota": { "instances": instances } },
        });
        self.ask(DirectoryAction::PutTenant(name(tenant), document, condition)).await
    }

    async fn delete_tenant(&self, tenant: &str) -> Result<Outcome, Refusal> {
        self.ask(DirectoryAction::DeleteTenant(Some(name(tenant)), Condition::None)).await
    }

    async fn keys(&self, tenant: &str) -> Vec<String> {
        let page = PageRequest { size: 1000, after: None };
        match self.ask(DirectoryAction::ListKeys(Some(name(tenant)), page)).await {
            Ok(Outcome::Keys(page)) => page.items.into_iter().map(|key| key.id).collect(),
            other => panic!("{other:?}"),
        }
    }

    /// Who a key speaks for.
    fn who(&self, key: &Made) -> Result<Caller, Denied> {
        self.core.directory.identify(&key.secret).map(|identity| (*identity.caller).clone())
    }

    fn opens(&self, key: &Made) -> bool {
        self.who(key).is_ok()
    }
}

#[derive(Debug)]
struct Made {
    id: String,
    secret: String,
    replayed: bool,
    view: views::ApiKey,
}

impl Made {
    fn tag(&self) -> Condition {
        let tag = self.view.etag.as_deref().and_then(|tag| tag.strip_prefix('r')).and_then(|n| n.parse().ok());
        Condition::Match(tag)
    }
}

fn made(outcome: Outcome) -> Made {
    match outcome {
        Outcome::KeyMade { key, replayed, .. } => {
            let secret = key.key.as_ref().unwrap().0.clone();
            Made { id: key.id.clone(), secret, replayed, view: *key }
        }
        other => panic!("{other:?}"),
    }
}

fn rotation(
    tenant: Option<TenantId>,
    id: &str,
    grace: &str,
    (condition, key): (Condition, Option<&str>),
) -> DirectoryAction {
    DirectoryAction::RotateKey {
        tenant,
        id: id.to_owned(),
        grace: Some(serde_json::from_value(json!(grace)).unwrap()),
        condition,
        key: key.map(str::to_owned),
        fingerprint: grace.to_owned(),
    }
}

fn name(tenant: &str) -> TenantId {
    tenant.parse().unwrap()
}

fn platform() -> Caller {
    Caller::new(Scope::Platform, "key:root", Role::PlatformAdmin)
}

fn code<T: std::fmt::Debug>(answer: Result<T, Refusal>) -> ErrorCode {
    answer.unwrap_err().problem.code
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_holds_though_nobody_waited_for_it() {
    let store = Store::new(MemoryDocuments::alone());
    let gateway = Gateway::start(&store).await;
    let key = gateway.make("acme", None, json!({ "role": "admin" })).await.unwrap();
    store.shut();
    let before = store.waiting.load(Ordering::SeqCst);
    tokio::select! {
        answer = gateway.revoke("acme", &key.id) => panic!("{answer:?}"),
        () = until("the write is at the store", || store.waiting.load(Ordering::SeqCst) > before) => {}
    }
    assert!(gateway.opens(&key), "nothing is written yet");
    store.open();
    until("the key opens nothing", || !gateway.opens(&key)).await;
    assert_eq!(code(gateway.revoke("acme", &key.id).await), ErrorCode::NotFound, "a repetition is told so");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_without_an_answer_has_an_unknown_outcome() {
    let store = Store::new(MemoryDocuments::new());
    let gateway = Gateway::start(&store).await;
    let key = gateway.make("acme", None, json!({})).await.unwrap();
    store.mute.store(true, Ordering::SeqCst);
    let refusal = gateway.make("acme", Some("again"), json!({})).await.unwrap_err();
    assert_eq!((refusal.problem.code, refusal.outcome_unknown), (ErrorCode::DeadlineExceeded, true), "{refusal:?}");
    let refusal = gateway.revoke("acme", &key.id).await.unwrap_err();
    assert_eq!((refusal.problem.code, refusal.outcome_unknown), (ErrorCode::DeadlineExceeded, true), "{refusal:?}");
    store.mute.store(false, Ordering::SeqCst);
    // The repetition finds what was made, with the secret that nobody was told.
    let found = gateway.make("acme", Some("again"), json!({})).await.unwrap();
    assert!(found.replayed && gateway.opens(&found), "{found:?}");
    until("the key opens nothing", || !gateway.opens(&key)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_key_does_not_come_back_with_its_idempotency_key() {
    let store = Store::new(MemoryDocuments::alone());
    let gateway = Gateway::start(&store).await;
    let leaked = gateway.make("acme", Some("ci-key"), json!({})).await.unwrap();
    gateway.revoke("acme", &leaked.id).await.unwrap();
    assert_eq!(code(gateway.make("acme", Some("ci-key"), json!({})).await), ErrorCode::AlreadyExists);
    assert!(!gateway.opens(&leaked));
    // Where the tombstone is known no more, the name has another life, with another secret.
    let other = Gateway::start(&Store::new(MemoryDocuments::alone())).await;
    other.pass(Duration::from_secs(1));
    let again = other.make("acme", Some("ci-key"), json!({})).await.unwrap();
    assert_eq!(again.id, leaked.id);
    assert!(other.opens(&again) && !other.opens(&leaked));
}

/// What a tenant makes and ends is remembered for a while, and does not fill what all tenants share.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_ends_what_it_makes_takes_no_room_from_others() {
    let store = Store::new(MemoryDocuments::new());
    let now = Time::from_unix_ms(NOW_MS);
    for n in 0..3999 {
        let name = format!("tenants/acme/{}/x{n}", ["keys", "serviceAccounts", "policies"][n % 3]);
        for body in [Some(String::new()), None] {
            let expect = if body.is_some() { Expect::Absent } else { Expect::Present };
            assert!(matches!(store.documents.put(&name, body, expect, now).await, Ok(Put::Written(_))));
        }
    }
    let gateway = Gateway::start(&store).await;
    let last = gateway.make("acme", None, json!({})).await.unwrap();
    let account = || json!({ "name": "ci", "role": "operator" });
    let refused = [
        gateway.make("acme", None, json!({})).await.map(drop),
        gateway.account("acme", account()).await.map(drop),
        gateway.put_policy("acme", "p").await.map(drop),
    ];
    for refused in refused {
        let problem = refused.unwrap_err().problem;
        assert_eq!(problem.code, ErrorCode::Conflict);
        assert!(problem.detail.contains("within 24 hours"), "{problem:?}");
    }
    // What is there can be changed and ended, and others make what they like.
    gateway.rotate(&last.id, "1h", Condition::None).await.unwrap();
    gateway.revoke("acme", &last.id).await.unwrap();
    assert_eq!(code(gateway.make("acme", None, json!({})).await), ErrorCode::Conflict, "an end makes no room at once");
    gateway.put_tenant("ops", 3, Condition::Absent).await.unwrap();
    gateway.make("ops", None, json!({})).await.unwrap();
    gateway.put_policy("ops", "p").await.unwrap();

    for _ in 0..4 {
        store.documents.forget(now + FORGOTTEN_AFTER).await.unwrap();
    }
    while gateway.make("acme", None, json!({})).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    gateway.account("acme", account()).await.unwrap();
    gateway.put_policy("acme", "p").await.unwrap();
    assert!(!gateway.opens(&last));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_an_account_or_a_tenant_that_is_made_again_stay_dead() {
    let store = Store::new(MemoryDocuments::new());
    let gateway = Gateway::start(&store).await;
    let ci = || json!({ "name": "ci", "role": "operator" });
    let held = async |key: &Made| {
        let all = store.documents.read(&Position::default()).await.unwrap().documents;
        all.into_iter().find(|document| document.name == key.view.name).unwrap()
    };
    // As a gateway writes it that began before it knew of the end.
    let late = async |Document { name, body, .. }: Document| {
        let put = store.documents.put(&name, body, Expect::Absent, Time::from_unix_ms(NOW_MS)).await;
        assert!(matches!(put, Ok(Put::Written(_))), "{put:?}");
        let tenant = name.split('/').nth(1).unwrap();
        while gateway.keys(tenant).await.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    gateway.account("acme", ci()).await.unwrap();
    let of_account = gateway.make("acme", None, json!({ "serviceAccount": "ci" })).await.unwrap();
    assert!(gateway.opens(&of_account));
    let document = held(&of_account).await;
    gateway.delete_account("acme", "ci").await.unwrap();
    assert!(gateway.keys("acme").await.is_empty(), "an account takes its keys with it");
    gateway.pass(Duration::from_secs(1));
    gateway.account("acme", ci()).await.unwrap();
    late(document).await;
    assert_eq!(gateway.who(&of_account), Err(Denied::Unknown));
    assert_eq!(code(gateway.rotate(&of_account.id, "0s", Condition::None).await), ErrorCode::Conflict);

    gateway.put_tenant("ops", 3, Condition::Absent).await.unwrap();
    gateway.account("ops", ci()).await.unwrap();
    let of_tenant = gateway.make("ops", None, json!({ "role": "admin" })).await.unwrap();
    assert!(gateway.opens(&of_tenant));
    let document = held(&of_tenant).await;
    gateway.delete_tenant("ops").await.unwrap();
    gateway.pass(Duration::from_secs(1));
    gateway.put_tenant("ops", 3, Condition::Absent).await.unwrap();
    late(document).await;
    assert_eq!(gateway.who(&of_tenant), Err(Denied::Unknown));
    gateway.account("ops", ci()).await.expect("the former tenant's is gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_that_was_broken_off_is_finished_by_its_repetition() {
    let store = Store::new(MemoryDocuments::new());
    let gateway = Gateway::start(&store).await;
    gateway.put_tenant("ops", 3, Condition::Absent).await.unwrap();
    let key = gateway.make("ops", None, json!({ "role": "admin" })).await.unwrap();
    store.mute.store(true, Ordering::SeqCst);
    assert!(gateway.delete_tenant("ops").await.unwrap_err().outcome_unknown);
    store.mute.store(false, Ordering::SeqCst);
    gateway.delete_tenant("ops").await.unwrap();
    assert!(!gateway.opens(&key));
    assert_eq!(code(gateway.delete_tenant("ops").await), ErrorCode::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_rotation_keeps_the_secret_that_is_in_use() {
    let store = Store::new(MemoryDocuments::alone());
    let gateway = Gateway::start(&store).await;
    let first = gateway.make("acme", None, json!({})).await.unwrap();
    let second = gateway.rotate(&first.id, "1h", Condition::None).await.unwrap();
    let third = gateway.rotate(&first.id, "2h", Condition::None).await.unwrap();
    assert!([&first, &second, &third].into_iter().all(|key| gateway.opens(key)));
    gateway.pass(Duration::from_secs(3600));
    let open = |keys: &[&Made]| keys.iter().map(|key| gateway.opens(key)).collect::<Vec<_>>();
    assert_eq!(open(&[&first, &second, &third]), [false, true, true], "a later rotation puts no end off");
    // There is a bound, and a way out of it that loses nothing unasked.
    let mut last = third;
    let refused = loop {
        match gateway.rotate(&first.id, "1h", Condition::None).await {
            Ok(next) => last = next,
            Err(refusal) => break refusal.problem,
        }
    };
    assert_eq!(refused.code, ErrorCode::Conflict, "{refused:?}");
    assert_eq!(open(&[&second, &last]), [true, true]);
    let only = gateway.rotate(&first.id, "0s", Condition::None).await.unwrap();
    assert_eq!(open(&[&second, &last, &only]), [false, false, true]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_under_an_idempotency_key_is_one_rotation() {
    let store = Store::new(MemoryDocuments::new());
    let (here, there) = (Gateway::start(&store).await, Gateway::start(&store).await);
    let first = here.make("acme", None, json!({})).await.unwrap();
    until("the other has heard of it", || there.opens(&first)).await;
    let under = async |gateway: &Gateway, key: &str, grace: &str, condition| {
        gateway.rotate_once(&first.id, grace, condition, Some(key)).await
    };
    // Its answer was lost; the repetition, here or elsewhere and with what was seen before, gets the same secret.
    store.mute.store(true, Ordering::SeqCst);
    assert!(under(&here, "k", "1h", first.tag()).await.unwrap_err().outcome_unknown);
    store.mute.store(false, Ordering::SeqCst);
    let second = under(&here, "k", "1h", first.tag()).await.unwrap();
    let again = under(&there, "k", "1h", Condition::None).await.unwrap();
    assert!(second.replayed && again.replayed && here.opens(&first) && here.opens(&second), "{second:?} {again:?}");
    assert_eq!((&second.secret, &second.view.etag), (&again.secret, &again.view.etag));
    assert_eq!(code(under(&here, "k", "2h", Condition::None).await), ErrorCode::IdempotencyKeyReused);
    // Another key is another rotation, and what was replaced since or is long ago is not shown again.
    let third = under(&here, "l", "1h", Condition::None).await.unwrap();
    assert!(!third.replayed && third.secret != second.secret);
    assert_eq!(code(under(&here, "k", "1h", Condition::None).await), ErrorCode::AlreadyExists);
    here.pass(Duration::from_secs(11 * 60));
    assert_eq!(code(under(&here, "l", "1h", Condition::None).await), ErrorCode::AlreadyExists);
    // A secret that has ended does not come back with the key that gave it.
    here.pass(Duration::from_secs(3600));
    here.rotate(&first.id, "0s", Condition::None).await.unwrap();
    let last = under(&here, "k", "1h", Condition::None).await.unwrap();
    assert!(!last.replayed && here.opens(&last) && !here.opens(&second), "{last:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_gateway_wrote_a_moment_ago_is_not_written_over() {
    let store = Store::new(MemoryDocuments::new());
    let (here, there) = (Gateway::start(&store).await, Gateway::start(&store).await);
    let first = here.make("acme", None, json!({})).await.unwrap();
    // The tag comes from the other gateway; this one need not have heard of it.
    let second = there.rotate(&first.id, "1h", first.tag()).await.unwrap();
    let third = here.rotate(&first.id, "1h", second.tag()).await.unwrap();
    assert!([&first, &second, &third].into_iter().all(|key| here.opens(key)));
    assert_eq!(code(there.rotate(&first.id, "1h", second.tag()).await), ErrorCode::EtagMismatch);
    for (turn, gateway) in [&here, &there, &here].into_iter().enumerate() {
        let condition = match turn {
            0 => Condition::Absent,
            _ => Condition::Match(Some(store.documents.read(&Position::default()).await.unwrap().position.revision)),
        };
        match gateway.put_tenant("ops", 3, condition).await {
            Ok(Outcome::TenantWritten { created, .. }) => assert_eq!(created, turn == 0),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credential_hands_on_its_project_and_its_end_and_creates_nowhere_else() {
    let store = Store::new(MemoryDocuments::alone());
    let gateway = Gateway::start(&store).await;
    let wish = json!({ "role": "admin", "project": "web", "ttl": "1h" });
    let maker = gateway.make("acme", None, wish).await.unwrap();
    let maker = || gateway.who(&maker).unwrap();
    let hour = maker().expires;
    assert_eq!(hour, Some(Time::from_unix_ms(NOW_MS) + Duration::from_secs(3600)));
    let inherits = gateway.make_as(maker(), "acme", None, json!({ "role": "admin" })).await.unwrap();
    let inherits = gateway.who(&inherits).unwrap();
    assert_eq!((inherits.project.as_ref().map(AsRef::as_ref), inherits.expires), (Some("web"), hour));
    for more in [json!({ "project": "blog" }), json!({ "project": "team" }), json!({ "ttl": "2h" })] {
        let refused = gateway.make_as(maker(), "acme", None, more.clone()).await;
        assert_eq!(code(refused), ErrorCode::PermissionDenied, "{more}");
    }
    // Whoever rotates a key gets it, and an account's keys are whatever it is.
    let unbound = gateway.make("acme", None, json!({})).await.unwrap();
    let rotation = rotation(None, &unbound.id, "24h", (Condition::None, None));
    let refused = gateway.ask_as(maker(), Action::Directory(Box::new(rotation), false)).await;
    assert_eq!(code(refused), ErrorCode::PermissionDenied);
    let account = serde_json::from_value(json!({ "name": "ci", "role": "viewer" })).unwrap();
    let made = gateway
        .ask_as(maker(), Action::Directory(Box::new(DirectoryAction::CreateAccount(None, account)), false))
        .await;
    match made {
        Ok(Outcome::AccountMade { account, .. }) => {
            assert_eq!((account.project.as_deref(), account.expires), (Some("web"), hour));
        }
        other => panic!("{other:?}"),
    }
    // What cannot be is refused when it is made.
    let unknown = gateway.make("acme", None, json!({ "project": "wbe" })).await.unwrap_err().problem;
    assert_eq!(
        (unknown.code, unknown.errors[0].hint.as_deref()),
        (ErrorCode::InvalidArgument, Some("did you mean web?"))
    );
    assert_eq!(
        code(gateway.account("acme", json!({ "name": "cd", "role": "viewer", "project": "x" })).await),
        ErrorCode::InvalidArgument
    );
    let twice = json!({ "permissions": ["instances.read", "instances.read"] });
    assert_eq!(code(gateway.make("acme", None, twice).await), ErrorCode::InvalidArgument);

    // What a credential creates is in its project or below.
    let create = |project: Option<&str>| {
        let mut create = match crate::journeys::world::create("acme", "web-1", "k", &crate::journeys::world::spec()) {
            Action::CreateInstance(create) => create,
            other => panic!("{other:?}"),
        };
        create.project = project.map(|project| project.parse().unwrap());
        create.validate_only = true;
        Action::CreateInstance(create)
    };
    let bound = |project: &str| Caller {
        project: Some(project.parse().unwrap()),
        ..Caller::new(Scope::Tenant(name("acme")), "key:k", Role::Operator)
    };
    let no_place = |answer: Result<Outcome, Refusal>| answer.err().map(|refusal| refusal.problem.code);
    let passes = no_place(gateway.ask_as(platform(), create(None)).await);
    for (own, asked, expected) in [
        ("web", None, passes),
        ("web", Some("web"), passes),
        ("team", Some("web"), passes),
        ("web", Some("blog"), Some(ErrorCode::PermissionDenied)),
        ("web", Some("team"), Some(ErrorCode::PermissionDenied)),
        ("poor", None, Some(ErrorCode::InvalidArgument)),
    ] {
        assert_eq!(no_place(gateway.ask_as(bound(own), create(asked)).await), expected, "{own} {asked:?}");
    }
}
