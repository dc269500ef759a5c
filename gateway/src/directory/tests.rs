use meridian_ledger::documents::{Documents, Expect, FORGOTTEN_AFTER, MemoryDocuments, Put};
use meridian_model::time::Time;
use meridian_policies::{
    access::{Permission, Role},
    rate::named::RouteClass,
    rules,
};
use secrecy::ExposeSecret as _;
use tokio_util::sync::CancellationToken;

use super::{follower::Follower, keys::Denied, *};
use crate::{
    clock::Entropy,
    config::Config,
    http::authenticate::{MintedKey, mint},
    operation::Scope,
};

const NOW: Time = Time::from_unix_ms(1_767_225_600_000);

fn minted(id: &str) -> MintedKey {
    let seed = u128::from(crc32fast::hash(id.as_bytes()));
    mint("test", id, &Entropy::from_fn(move || seed))
}

/// A configuration with these tenants, and keys whose settings follow their id.
fn declared(tenants: &str) -> Declared {
    let mut text =
        "[deployment]\nid = \"test\"\nsecret = \"0123456789abcdef0123456789abcdef\"\n[ledger]\npath = \"x\"\n\
                    [[backends]]\nid = \"gz\"\nadapter = \"tencent-eksci\"\nregion = \"ap-guangzhou\"\n"
            .to_owned();
    for line in tenants.lines().map(str::trim) {
        text += &match line.strip_prefix("key ").and_then(|key| key.split_once(' ')) {
            Some((id, rest)) => format!("id = \"{id}\"\nsha256 = \"{}\"\n{rest}\n", minted(id).sha256_hex()),
            None => format!("{line}\n"),
        };
    }
    Declared::of(&Config::parse(&text, "test.toml", &|_| Vec::new()).unwrap_or_else(|m| panic!("{m}\n{text}")))
}

/// Has a folder declare them.
fn set(directory: &Directory, tenants: &str) -> Vec<Change> {
    let source = || Source::File { file: "tenants.d/x.yaml".to_owned(), line: 1, column: 1 };
    let tenants = declared(tenants).tenants.into_values().map(|(tenant, _)| ((*tenant).clone(), source())).collect();
    directory.set_files(Files { tenants, ..Files::default() }).unwrap()
}

fn directory(tenants: &str) -> Arc<Directory> {
    Directory::new(declared(tenants), Clock::from_fn(|| NOW), None)
}

fn identify(directory: &Directory, id: &str) -> Result<Arc<Caller>, Denied> {
    let key = minted(id);
    let snapshot = directory.load();
    snapshot.keys().identify(key.key.expose_secret(), NOW, false).map(|identity| Arc::clone(&identity.caller))
}

#[test]
fn a_key_says_whose_it_is_what_it_may_and_until_when() {
    let directory = directory(
        r#"[[tenants]]
        name = "acme"
        projects = [{ name = "web" }]
        [[tenants.keys]]
        key plain role = "operator"
        [[tenants.keys]]
        key reader role = "viewer"
        project = "web"
        expires = 2026-01-02T00:00:00Z
        [[tenants.keys]]
        key narrow permissions = ["instances.read"]
        [[tenants.keys]]
        key over expires = "2026-01-01T00:00:00Z"
        [platform]
        [[platform.keys]]
        key all role = "platform-admin"
        "#,
    );
    let plain = identify(&directory, "plain").unwrap();
    assert_eq!((plain.scope_name(), plain.principal.as_str(), plain.role), ("acme", "key:plain", Role::Operator));
    assert_eq!(plain.permissions, Role::Operator.permissions());
    let reader = identify(&directory, "reader").unwrap();
    assert_eq!((reader.role, reader.project.as_ref().map(AsRef::as_ref)), (Role::Viewer, Some("web")));
    let narrow = identify(&directory, "narrow").unwrap();
    assert_eq!(narrow.permissions.iter().collect::<Vec<_>>(), [Permission::InstancesRead]);
    assert_eq!(identify(&directory, "over"), Err(Denied::Expired(NOW)), "its last moment is not in it");
    let all = identify(&directory, "all").unwrap();
    assert_eq!((&all.scope, all.scope_name()), (&Scope::Platform, PLATFORM));
    assert_eq!(identify(&directory, "nobody"), Err(Denied::Unknown));
}

#[test]
fn what_is_not_declared_any_more_opens_nothing() {
    let both = "[[tenants]]\nname = \"acme\"\n[[tenants.keys]]\nkey a role = \"admin\"\n\
                [[tenants]]\nname = \"lab\"\n[[tenants.keys]]\nkey b role = \"admin\"\n";
    let (first, second) = both.split_at(both.rfind("[[tenants]]").unwrap());
    let directory = directory("[platform]\n[[platform.keys]]\nkey all role = \"platform-admin\"\n");
    set(&directory, both);
    let old = directory.load().tenants().count();
    set(&directory, first);
    assert_eq!((old, directory.load().tenants().count(), directory.load().generation), (2, 1, 2));
    assert!(identify(&directory, "a").is_ok());
    assert_eq!(identify(&directory, "b"), Err(Denied::Unknown));
    set(&directory, second);
    assert!(identify(&directory, "b").is_ok());
}

/// Reads once as somebody of a tenant; the limit closest to exhaustion and what is left of it.
fn spend(directory: &Directory, tenant: &str, principal: &str) -> String {
    let limits = Arc::clone(&directory.load().tenant(&tenant.parse().unwrap()).unwrap().limits);
    let decided = limits.take_now(RouteClass::Read, principal, NOW).unwrap();
    let state = decided.headers.state.to_str().unwrap();
    state.split_once(";t").unwrap().0.to_owned()
}

#[test]
fn buckets_of_a_limit_that_stays_survive_a_change() {
    let with = |acme: u32, reads: u32| {
        format!(
            "[[tenants]]\nname = \"acme\"\nrate = {{ requestsPerMinute = 100, burst = {acme} }}\n\
             [[tenants.limits]]\nname = \"reads\"\nper = \"principal\"\nclass = [\"read\"]\nquota = {reads}\n"
        )
    };
    let directory = directory("[platform]\n[[platform.keys]]\nkey all role = \"platform-admin\"\n");
    set(&directory, &with(100, 10));
    assert_eq!(spend(&directory, "acme", "a"), "\"reads\";r=9");
    assert_eq!(spend(&directory, "acme", "a"), "\"reads\";r=8");
    assert_eq!(spend(&directory, "acme", "b"), "\"reads\";r=9", "each principal has a bucket of its own");
    set(&directory, &with(5, 10));
    assert_eq!(spend(&directory, "acme", "a"), "\"tenant\";r=4", "a limit that changed begins anew");
    assert_eq!(spend(&directory, "acme", "a"), "\"tenant\";r=3");
    set(&directory, &with(100, 10));
    assert_eq!(spend(&directory, "acme", "a"), "\"reads\";r=5", "one that did not goes on where it was");
    set(&directory, &with(100, 20));
    assert_eq!(spend(&directory, "acme", "a"), "\"reads\";r=19");
}

#[tokio::test]
async fn whoever_follows_is_told_of_the_last_change() {
    let directory = directory("[[tenants]]\nname = \"acme\"\n");
    let mut changes = directory.changes();
    for _ in 0..3 {
        set(&directory, "[[tenants]]\nname = \"lab\"\n");
    }
    changes.changed().await.unwrap();
    assert_eq!((*changes.borrow_and_update(), directory.load().generation), (3, 3));
    assert!(!changes.has_changed().unwrap());
}

/// Two gateways on one store; the second follows it.
fn pair() -> [(Arc<Directory>, Arc<Follower>); 2] {
    let store: Arc<dyn Documents> = Arc::new(MemoryDocuments::new());
    [(); 2].map(|()| {
        let directory = directory("[[tenants]]\nname = \"acme\"\n[[tenants.keys]]\nkey declared role = \"viewer\"\n");
        directory.share();
        (Arc::clone(&directory), Follower::new(Arc::clone(&store), directory))
    })
}

/// The document of a key with the secret of its id.
fn record(id: &str, role: Role) -> Option<String> {
    let sha256 = minted(id).sha256_hex();
    let record = serde_json::json!({
        "secrets": [{ "sha256": sha256 }], "role": role, "createTime": NOW, "createdBy": "test",
        "ofANewerVersion": true,
    });
    Some(record.to_string())
}

fn asked(directory: &Directory, id: &str) -> Result<Role, Denied> {
    directory.identify(minted(id).key.expose_secret()).map(|identity| identity.caller.role)
}

#[tokio::test(start_paused = true)]
async fn a_key_made_or_revoked_at_one_gateway_is_so_at_the_other_within_a_second() {
    let [(one, writer), (other, follower)] = pair();
    writer.look().await.unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(Arc::clone(&follower).run(stop.clone()));
    let name = made::key_name(&"acme".parse().unwrap(), "k1");
    let within_a_second = || tokio::time::sleep(Duration::from_secs(1));
    let Put::Written(made) = writer.put(&name, record("k1", Role::Admin), Expect::Absent).await.unwrap() else {
        panic!()
    };
    assert_eq!(asked(&one, "k1"), Ok(Role::Admin), "at once where it was made");
    within_a_second().await;
    assert_eq!(asked(&other, "k1"), Ok(Role::Admin));
    writer.put(&name, None, Expect::Revision(made)).await.unwrap();
    assert!(asked(&one, "k1").is_err());
    within_a_second().await;
    assert_eq!(asked(&other, "k1"), Err(Denied::Unknown));
    // Whoever brings the older state again changes nothing.
    other.learn(Document { name, revision: made, body: record("k1", Role::Admin) });
    assert_eq!(asked(&other, "k1"), Err(Denied::Unknown));
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn keys_that_may_have_been_revoked_are_not_believed_for_longer_than_a_minute() {
    let [(one, writer), _] = pair();
    assert_eq!(asked(&one, "declared"), Ok(Role::Viewer), "what the configuration declares, nobody revokes elsewhere");
    assert_eq!(asked(&one, "k1"), Err(Denied::Unsure), "nothing was ever heard");
    let name = made::key_name(&"acme".parse().unwrap(), "k1");
    writer.put(&name, record("k1", Role::Operator), Expect::Absent).await.unwrap();
    writer.look().await.unwrap();
    assert_eq!((asked(&one, "k1"), asked(&one, "k2")), (Ok(Role::Operator), Err(Denied::Unknown)));
    tokio::time::advance(Duration::from_secs(59)).await;
    assert_eq!(asked(&one, "k1"), Ok(Role::Operator));
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!((asked(&one, "k1"), asked(&one, "k2")), (Err(Denied::Unsure), Err(Denied::Unsure)));
    assert_eq!(asked(&one, "declared"), Ok(Role::Viewer));
    writer.look().await.unwrap();
    assert_eq!(asked(&one, "k1"), Ok(Role::Operator));
}

#[test]
fn a_document_that_cannot_be_read_opens_nothing_and_hides_no_other() {
    let directory = directory("[[tenants]]\nname = \"acme\"\n");
    let name = |id: &str| made::key_name(&"acme".parse().unwrap(), id);
    let bad = |revision, id: &str, body: &str| Document { name: name(id), revision, body: Some(body.to_owned()) };
    let platform = record("k3", Role::PlatformAdmin).unwrap();
    directory.learn(bad(1, "k1", "{"));
    directory.learn(Document { name: name("k2"), revision: 2, body: record("k2", Role::Viewer) });
    directory.learn(bad(3, "k3", &platform));
    assert_eq!(asked(&directory, "k1"), Err(Denied::Unknown));
    assert_eq!(asked(&directory, "k2"), Ok(Role::Viewer));
    assert_eq!(asked(&directory, "k3"), Err(Denied::Unknown), "no tenant's key has a role of the platform");
}

/// Longer than it takes a gateway to have the store forget, and to hear of it.
const LOOK_MINUTES: Duration = Duration::from_secs(125);

/// The document of a tenant that the API made.
fn tenant(name: &str) -> Option<String> {
    let manifest = serde_json::json!({
        "apiVersion": "meridian.dev/v1", "kind": "Tenant", "metadata": { "name": name }, "spec": {},
    });
    let record = serde_json::json!({ "manifest": manifest, "generation": 1, "createTime": NOW, "updateTime": NOW });
    Some(record.to_string())
}

/// The document of a policy that the API made, with this rule; nothing that a gateway understands when there is none.
fn policy(expression: Option<&str>) -> Option<String> {
    let rule = expression.map_or(
        serde_json::json!({ "id": "r", "ofANewerVersion": true }),
        |expression| serde_json::json!({ "id": "r", "expression": expression }),
    );
    let manifest = serde_json::json!({
        "apiVersion": "meridian.dev/v1", "kind": "Policy", "metadata": { "name": "p" }, "spec": { "rules": [rule] },
    });
    let record = serde_json::json!({ "manifest": manifest, "generation": 1, "createTime": NOW, "updateTime": NOW, "later": true });
    Some(record.to_string())
}

/// Which policies deny an instance of this name.
fn denied_by(directory: &Directory, name: &str) -> Vec<String> {
    let spec = serde_json::from_value(serde_json::json!({ "containers": [{ "name": "a", "image": "b" }] })).unwrap();
    let (labels, roles) = (meridian_model::instance::Labels::new(), Vec::new());
    let request = rules::Request {
        operation: rules::Operation::Create,
        tenant: &"acme".parse().unwrap(),
        projects: &[],
        principal: "test",
        roles: &roles,
        time: NOW,
        name: &name.parse().unwrap(),
        labels: &labels,
        annotations: &labels,
        spec: &spec,
    };
    let decision = directory.load().rules().decide(&request);
    decision.of(rules::Mode::Enforce).map(|broken| format!("{} {}", broken.policy, broken.rule)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_policy_made_at_one_gateway_judges_at_the_other_within_a_second() {
    let [(one, writer), (other, follower)] = pair();
    let stop = CancellationToken::new();
    let running = tokio::spawn(Arc::clone(&follower).run(stop.clone()));
    let (own, all) = ("tenants/acme/policies/p", "policies/p");
    writer.put(own, policy(Some("object.name != 'web'")), Expect::Absent).await.unwrap();
    writer.put(all, policy(Some("object.name != 'job'")), Expect::Absent).await.unwrap();
    assert_eq!(denied_by(&one, "web"), ["tenants/acme/policies/p r"], "at once where it was made");
    let compiled = Arc::clone(&one.load().policies()[own].0);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(denied_by(&other, "web"), ["tenants/acme/policies/p r"]);
    assert_eq!(denied_by(&other, "job"), ["policies/p r"]);
    // What stays the same is not compiled again; what a file declares takes its place; what nobody can read denies.
    writer.put(all, policy(None), Expect::Present).await.unwrap();
    assert!(Arc::ptr_eq(&compiled, &one.load().policies()[own].0));
    assert_eq!(denied_by(&one, "any"), ["policies/p unreadable"], "a newer version may have written it");
    let manifest = serde_json::json!({
        "apiVersion": "meridian.dev/v1", "kind": "Policy", "metadata": { "name": "p" },
        "spec": { "scope": "platform", "rules": [{ "id": "file", "expression": "object.name != 'any'" }] },
    });
    let declared = crate::policies::document::read(&manifest, None).unwrap();
    let source = Source::File { file: "p.yaml".to_owned(), line: 1, column: 1 };
    let files = Files { policies: vec![(Arc::new(declared), source)], ..Files::default() };
    one.set_files(files).unwrap();
    assert_eq!(denied_by(&one, "any"), ["policies/p file"]);
    writer.put(own, None, Expect::Present).await.unwrap();
    assert_eq!(denied_by(&one, "web"), [""; 0]);
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_was_away_for_longer_than_ends_are_remembered_believes_nothing_old() {
    let store = Arc::new(MemoryDocuments::new());
    let directory = directory("[[tenants]]\nname = \"acme\"\n");
    directory.share();
    let follower = Follower::new(Arc::clone(&store) as Arc<dyn Documents>, Arc::clone(&directory));
    let acme = "acme".parse().unwrap();
    let (key, rules) = (|id: &str| made::key_name(&acme, id), "tenants/acme/policies/p");
    let put = async |name: &str, body, expect| {
        assert!(matches!(store.put(name, body, expect, NOW).await, Ok(Put::Written(_))), "{name}");
    };
    for id in ["k1", "k2"] {
        put(&key(id), record(id, Role::Viewer), Expect::Absent).await;
    }
    put(rules, policy(Some("object.name != 'web'")), Expect::Absent).await;
    put("tenants/ops", tenant("ops"), Expect::Absent).await;
    follower.look().await.unwrap();
    let there = |name: &str| directory.load().tenant(&name.parse().unwrap()).map(|entry| entry.source.clone());
    assert!(asked(&directory, "k1").is_ok() && asked(&directory, "k2").is_ok());
    assert_eq!((denied_by(&directory, "web").len(), there("ops")), (1, Some(Source::Api)));

    // Meanwhile a folder declares a tenant of the name, and a policy.
    for name in [&key("k1"), rules, "tenants/ops"] {
        put(name, None, Expect::Present).await;
    }
    store.forget(NOW + FORGOTTEN_AFTER).await.unwrap();
    set(&directory, "[[tenants]]\nname = \"ops\"\n[[tenants.keys]]\nkey o1 role = \"viewer\"\n");
    follower.look().await.unwrap();
    assert_eq!(asked(&directory, "k1"), Err(Denied::Unknown), "its end is forgotten, and it is not there");
    assert_eq!((asked(&directory, "k2"), denied_by(&directory, "web").len()), (Ok(Role::Viewer), 0));
    assert!(matches!(there("ops"), Some(Source::File { .. })) && asked(&directory, "o1").is_ok());
    directory.set_files(Files::default()).unwrap();
    assert_eq!(there("ops"), None, "what the folder does not declare any more does not uncover what had ended");

    // Who saw an end remembers it no longer than the store; a word of what was before comes too late then.
    let late = Document { name: key("k2"), revision: 2, body: record("k2", Role::Viewer) };
    put(&key("k2"), None, Expect::Present).await;
    follower.look().await.unwrap();
    assert_eq!(directory.count(&made::below(&acme)), 1);
    store.forget(NOW + FORGOTTEN_AFTER).await.unwrap();
    follower.look().await.unwrap();
    assert_eq!(directory.count(&made::below(&acme)), 0);
    directory.learn(late);
    assert_eq!(asked(&directory, "k2"), Err(Denied::Unknown));
}

#[test]
fn a_key_of_a_tenant_that_a_file_declared_does_not_open_a_later_one_of_its_name() {
    let directory = directory("[[tenants]]\nname = \"lab\"\n");
    set(&directory, "[[tenants]]\nname = \"acme\"\n");
    directory.learn(Document {
        name: made::key_name(&"acme".parse().unwrap(), "k1"),
        revision: 1,
        body: record("k1", Role::Admin),
    });
    assert_eq!(asked(&directory, "k1"), Ok(Role::Admin));
    directory.set_files(Files::default()).unwrap();
    assert_eq!(asked(&directory, "k1"), Err(Denied::Unknown), "its tenant is gone");
    let made_at = |revision, at: Time| {
        let mut made: Value = serde_json::from_str(&tenant("acme").unwrap()).unwrap();
        made["createTime"] = serde_json::to_value(at).unwrap();
        directory.learn(Document { name: "tenants/acme".to_owned(), revision, body: Some(made.to_string()) });
    };
    made_at(2, NOW + Duration::from_secs(1));
    assert!(directory.load().tenant(&"acme".parse().unwrap()).is_some());
    assert_eq!(asked(&directory, "k1"), Err(Denied::Unknown), "this is another");
    // One whose key an older version made, without the time of its tenant.
    made_at(3, NOW);
    assert_eq!(asked(&directory, "k1"), Ok(Role::Admin));
}

#[tokio::test(start_paused = true)]
async fn what_ended_a_day_ago_is_forgotten_though_nobody_writes() {
    for store in [MemoryDocuments::new(), MemoryDocuments::alone()] {
        let now = Arc::new(AtomicU64::new(0));
        let hands = Arc::clone(&now);
        let clock = Clock::from_fn(move || NOW + Duration::from_secs(hands.load(Ordering::SeqCst)));
        let directory = Directory::new(declared("[[tenants]]\nname = \"acme\"\n"), clock, None);
        let follower = Follower::new(Arc::new(store), Arc::clone(&directory));
        follower.put("tenants/acme/keys/k", record("k", Role::Viewer), Expect::Absent).await.unwrap();
        follower.put("tenants/acme/keys/k", None, Expect::Present).await.unwrap();
        let stop = CancellationToken::new();
        let running = tokio::spawn(Arc::clone(&follower).run(stop.clone()));
        let minutes = || tokio::time::sleep(LOOK_MINUTES);
        minutes().await;
        assert_eq!(directory.count("tenants/acme/"), 1);
        now.store(FORGOTTEN_AFTER.as_secs(), Ordering::SeqCst);
        minutes().await;
        assert_eq!(directory.count("tenants/acme/"), 0);
        stop.cancel();
        running.await.unwrap();
    }
}

#[test]
fn one_key_of_many_is_changed_without_a_look_at_the_others() {
    const KEYS: u64 = 2_000;
    let directory = directory("[[tenants]]\nname = \"acme\"\n[[tenants]]\nname = \"lab\"\n");
    let document = |revision: u64, id: &str, body| {
        let tenant = if revision.is_multiple_of(2) { "acme" } else { "lab" };
        Document { name: made::key_name(&tenant.parse().unwrap(), id), revision, body }
    };
    let keys = (1..KEYS).map(|n| document(n, &format!("k{n}"), record(&format!("k{n}"), Role::Viewer)));
    directory.hear(News { documents: keys.collect(), anew: true, ..News::default() });
    let (before, own) = (directory.load_full(), "acme".parse().unwrap());
    directory.learn(document(KEYS, "k4", None));
    let after = directory.load_full();
    assert_eq!((asked(&directory, "k4"), asked(&directory, "k6")), (Err(Denied::Unknown), Ok(Role::Viewer)));
    assert_eq!(after.keys().copied(before.keys()), 1, "the part that the key is in");
    assert!(Arc::ptr_eq(&before.tenants, &after.tenants) && Arc::ptr_eq(&before.rules, &after.rules));
    assert_eq!((before.made.keys_of(&own).len(), after.made.keys_of(&own).len()), (999, 998));

    // An account that comes, goes or changes takes the keys with it that are its own.
    let name = made::account_name(&own, &"ci".parse().unwrap());
    let account = |revision, role: Option<Role>| {
        let body =
            role.map(|role| serde_json::json!({ "role": role, "createTime": NOW, "createdBy": "test" }).to_string());
        Document { name: name.clone(), revision, body }
    };
    let mut key: Value = serde_json::from_str(&record("ci", Role::Admin).unwrap()).unwrap();
    key["serviceAccount"] = "ci".into();
    directory.learn(document(KEYS + 2, "ci", Some(key.to_string())));
    assert_eq!(asked(&directory, "ci"), Err(Denied::Unknown));
    for (revision, role) in [(KEYS + 3, Some(Role::Admin)), (KEYS + 4, Some(Role::Viewer)), (KEYS + 5, None)] {
        directory.learn(account(revision, role));
        let may = directory.identify(minted("ci").key.expose_secret()).map(|identity| identity.caller.permissions);
        assert_eq!(may, role.map(Role::permissions).ok_or(Denied::Unknown), "{role:?}");
    }
}
