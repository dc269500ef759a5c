//! Who may do what: every operation of the API against every kind of credential, and what nobody can tell apart.
//!
//! The table is committed. To write it anew after a change: `MERIDIAN_WRITE_MATRIX=1 cargo nextest run -p meridian-gateway authz`.

use std::{collections::BTreeMap, fmt::Write as _, path::Path, time::Duration};

use meridian_gateway::{
    clock::Entropy,
    config::Config,
    http::authenticate::{MintedKey, mint},
    process::Process,
};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::{Reply, raw};

/// A running gateway with the tenants acme and lab, and a key for each role.
pub(crate) struct World {
    pub(crate) process: Process,
    keys: BTreeMap<&'static str, String>,
    pub(crate) folder: tempfile::TempDir,
}

fn minted(id: &str) -> MintedKey {
    mint("test", id, &Entropy::system())
}

fn shown(key: &MintedKey) -> String {
    key.key.expose_secret().to_owned()
}

impl World {
    pub(crate) async fn start() -> Self {
        let mut world = Self::in_folder(tempfile::tempdir().unwrap()).await;
        world.mint_the_rest().await;
        world
    }

    /// A gateway with its ledger and its audit log there, and the keys of its configuration.
    pub(crate) async fn in_folder(folder: tempfile::TempDir) -> Self {
        let mut keys = BTreeMap::new();
        let mut line = |name: &'static str, rest: &str| {
            let key = minted(name);
            keys.insert(name, shown(&key));
            format!("{{ id = \"{name}\", sha256 = \"{}\", {rest} }},\n", key.sha256_hex())
        };
        let of_acme: String = [
            line("viewer", "role = \"viewer\""),
            line("operator", "role = \"operator\""),
            line("admin", "role = \"admin\""),
            line("expired", "role = \"admin\", expires = \"2020-01-01T00:00:00Z\""),
        ]
        .concat();
        let of_lab = line("lab-admin", "role = \"admin\"");
        let platform = [
            line("platform-viewer", "role = \"platform-viewer\""),
            line("platform-admin", "role = \"platform-admin\""),
        ]
        .concat();
        let rate =
            "{ requestsPerMinute = 10000000, burst = 1000000, createsPerMinute = 1000000, createBurst = 1000000 }";
        let text = format!(
            "[deployment]\nid = \"test\"\nsecret = \"0123456789abcdef0123456789abcdef\"\n\
             [server]\nlisten = \"127.0.0.1:0\"\nadminListen = \"127.0.0.1:0\"\n[ledger]\npath = \"{}\"\n\
             [platform]\nkeys = [\n{platform}]\nrate = {rate}\n\
             [[tenants]]\nname = \"acme\"\nprojects = [{{ name = \"web\" }}]\ndefaultNetworkProfile = \"default\"\nrate = {rate}\nkeys = [\n{of_acme}]\n\
             [[tenants]]\nname = \"lab\"\nrate = {rate}\nkeys = [\n{of_lab}]\n\
             [[networkProfiles]]\nname = \"default\"\n[[networkProfiles.backends]]\nbackend = \"gz\"\nvpcId = \"vpc-1\"\n\
             securityGroupIds = [\"sg-1\"]\nsubnets = {{ \"ap-guangzhou-3\" = \"subnet-1\" }}\n\
             [[backends]]\nid = \"gz\"\nadapter = \"tencent-eksci\"\nregion = \"ap-guangzhou\"\n\
             settings = {{ endpoint = \"http://127.0.0.1:1\", secretId = \"id\", secretKey = \"key\" }}\n",
            folder.path().join("ledger.redb").display()
        );
        let config = Config::parse(&text, "test.toml", &|_| Vec::new()).unwrap_or_else(|m| panic!("{m}\n{text}"));
        let process = Process::start(config).await.unwrap();
        Self { process, keys, folder }
    }

    /// Keys that only a running gateway makes.
    async fn mint_the_rest(&mut self) {
        let admin = self.keys["platform-admin"].clone();
        let lab = self.send(&admin, "POST", "/v1/tenants/lab/keys", &json!({ "role": "admin" })).await;
        assert_eq!(lab.status, 201, "{}", String::from_utf8_lossy(&lab.body));
        self.keys.insert("wrong tenant", lab.json()["key"].as_str().unwrap().to_owned());
        let made = self.send(&admin, "POST", "/v1/tenants/acme/keys", &json!({ "role": "admin" })).await.json();
        let revoked = made["key"].as_str().unwrap().to_owned();
        assert_eq!(self.send(&revoked, "GET", "/v1/whoami", &Value::Null).await.status, 200);
        let name = made["name"].as_str().unwrap();
        assert_eq!(self.send(&admin, "DELETE", &format!("/v1/{name}"), &Value::Null).await.status, 204);
        self.keys.insert("revoked", revoked);
        // The id of a key that there is, and another secret.
        self.keys.insert("forged", shown(&minted("admin")));
    }

    async fn send(&self, key: &str, method: &str, path: &str, body: &Value) -> Reply {
        let bearer = format!("Bearer {key}");
        let mut headers = vec![("prefer", "respond-async"), ("x-request-id", "r1")];
        if !key.is_empty() {
            headers.push(("authorization", &bearer));
        }
        let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        if !bytes.is_empty() {
            headers.push(("content-type", "application/json"));
        }
        raw(self.process.api(), &format!("{method} {path}"), &headers, &bytes).await
    }

    /// A request with an idempotency key.
    pub(crate) async fn keyed(&self, who: &str, path: &str, body: &Value, key: &str) -> Reply {
        let bearer = format!("Bearer {}", self.keys[who]);
        let headers =
            [("authorization", bearer.as_str()), ("content-type", "application/json"), ("idempotency-key", key)];
        raw(self.process.api(), &format!("POST {path}"), &headers, body.to_string().as_bytes()).await
    }

    pub(crate) async fn as_(&self, who: &str, method: &str, path: &str, body: &Value) -> Reply {
        let key = if who == "no credential" { "" } else { self.keys[who].as_str() };
        self.send(key, method, path, body).await
    }
}

/// A body that the operation takes: what is wrong with a body is told before what the caller may.
fn body_of(operation: &str) -> Value {
    let spec = json!({ "containers": [{ "name": "app", "image": "nginx:1.27" }] });
    let tenant =
        |name: &str| json!({ "apiVersion": "meridian.dev/v1", "kind": "Tenant", "metadata": { "name": name } });
    let policy = |scope: &Value| {
        json!({ "apiVersion": "meridian.dev/v1", "kind": "Policy", "metadata": { "name": "policy" },
            "spec": { "scope": scope, "mutations": { "capacityType": "spot" } } })
    };
    match operation {
        "createInstance" => json!({ "name": "web", "spec": spec }),
        "createTenant" => tenant("newcomer"),
        "putTenant" => tenant("acme"),
        "patchTenant" => json!({ "labels": { "team": "ops" } }),
        "createKey" => json!({ "role": "viewer" }),
        "testPolicies" => json!({ "policies": [policy(&json!({ "tenant": "acme" }))] }),
        "putPolicy" => policy(&json!({ "tenant": "acme" })),
        "putPlatformPolicy" => policy(&json!("platform")),
        "createServiceAccount" => json!({ "name": "ci", "role": "viewer" }),
        _ => Value::Null,
    }
}

const STRANGERS: [&str; 4] = ["no credential", "forged", "expired", "revoked"];
const ROLES: [&str; 5] = ["viewer", "operator", "admin", "platform-viewer", "platform-admin"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_operation_meets_every_kind_of_credential() {
    let world = World::start().await;
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let description: Value = serde_json::from_slice(&std::fs::read(home.join("openapi.json")).unwrap()).unwrap();
    let mut table = String::from(
        "# Authorization matrix\n\nMade by `authz::every_operation_meets_every_kind_of_credential` from `gateway/openapi.json` \
         against a running gateway: each operation on\ntenant `acme` with each kind of credential. `may`: the request was let \
         in. `wrong tenant` is an administrator of another tenant;\na forged key has the id of one that there is.\n\n",
    );
    let columns: Vec<&str> = STRANGERS.iter().copied().chain(["wrong tenant"]).chain(ROLES).collect();
    let _ = writeln!(table, "| operation | request | permission | {} |", columns.join(" | "));
    let _ = writeln!(table, "|---|---|---|{}", "---|".repeat(columns.len()));
    for (path, item) in description["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            let public = operation["security"] == json!([]);
            let target = path.replace("{tenant}", "acme");
            let target =
                target.split('/').map(|s| if s.starts_with('{') { s.replace(['{', '}'], "") } else { s.to_owned() });
            let target = target.collect::<Vec<_>>().join("/");
            let (method, body) = (method.to_uppercase(), body_of(id));
            let mut cells = Vec::new();
            let mut permission = if public { "public".to_owned() } else { "any role's".to_owned() };
            for who in &columns {
                let reply = world.as_(who, &method, &target, &body).await;
                let what = format!("{id} as {who}: {} {}", reply.status, String::from_utf8_lossy(&reply.body));
                let of_tenant = path.contains("{tenant}");
                let cell = match reply.status {
                    401 | 403 => reply.status.to_string(),
                    404 if *who == "wrong tenant" && of_tenant => "404".to_owned(),
                    400 if !ROLES.contains(who) || *who == "viewer" => panic!("give the operation a body: {what}"),
                    // Whatever becomes of it then, nothing broke.
                    status => {
                        assert!(status < 500, "{what}");
                        "may".to_owned()
                    }
                };
                if reply.status == 403 {
                    assert_eq!(reply.code(), "permission-denied", "{what}");
                    let detail = reply.json()["detail"].as_str().unwrap().to_owned();
                    permission = detail.split("permission ").nth(1).unwrap().split(';').next().unwrap().to_owned();
                }
                if public {
                    assert_eq!(cell, "may", "{what}");
                } else if STRANGERS.contains(who) {
                    assert_eq!(reply.status, 401, "{what}");
                } else if *who == "wrong tenant" && of_tenant {
                    // Who may not make tenants is told so whatever the name: 403 is no word about the tenant.
                    let expected = if id == "putTenant" { 403 } else { 404 };
                    assert_eq!(reply.status, expected, "{what}");
                }
                cells.push(cell);
            }
            let _ = writeln!(table, "| {id} | {method} {path} | {permission} | {} |", cells.join(" | "));
        }
    }
    let file = home.join("docs/authorization-matrix.md");
    if std::env::var_os("MERIDIAN_WRITE_MATRIX").is_some() {
        std::fs::write(&file, &table).unwrap();
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    let differs = table.lines().zip(committed.lines()).find(|(a, b)| a != b);
    assert!(table == committed, "{} is not what the gateway does; first difference: {differs:?}", file.display());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_anothers_is_to_the_byte_what_is_not_there() {
    let world = World::start().await;
    let admin = world.keys["platform-admin"].clone();
    let key = world.send(&admin, "POST", "/v1/tenants/acme/keys", &json!({})).await.json();
    let key = key["id"].as_str().unwrap();
    let account = json!({ "name": "ci", "role": "viewer" });
    assert_eq!(world.send(&admin, "POST", "/v1/tenants/acme/serviceAccounts", &account).await.status, 201);
    let create = json!({ "name": "web", "spec": { "containers": [{ "name": "a", "image": "b" }] } });
    for (method, there, missing, body) in [
        ("GET", "/v1/tenants/acme".to_owned(), "/v1/tenants/none", Value::Null),
        ("GET", "/v1/tenants/acme/keys".to_owned(), "/v1/tenants/none/keys", Value::Null),
        ("DELETE", format!("/v1/tenants/acme/keys/{key}"), "/v1/tenants/none/keys/none", Value::Null),
        ("POST", format!("/v1/tenants/acme/keys/{key}:rotate"), "/v1/tenants/none/keys/none:rotate", Value::Null),
        (
            "DELETE",
            "/v1/tenants/acme/serviceAccounts/ci".to_owned(),
            "/v1/tenants/none/serviceAccounts/ci",
            Value::Null,
        ),
        ("GET", "/v1/tenants/acme/quotas/default".to_owned(), "/v1/tenants/none/quotas/default", Value::Null),
        ("GET", "/v1/tenants/acme/instances".to_owned(), "/v1/tenants/none/instances", Value::Null),
        ("POST", "/v1/tenants/acme/instances".to_owned(), "/v1/tenants/none/instances", create),
    ] {
        let one = world.as_("wrong tenant", method, &there, &body).await;
        let other = world.as_("wrong tenant", method, missing, &body).await;
        let bytes = |reply: &Reply| {
            let mut headers = reply.headers.clone();
            // The request's own path, the time, and what is left of the caller's own limit.
            let _ = ["date", "meridian-problem-instance", "ratelimit"].map(|name| headers.remove(name));
            (reply.status, headers, reply.body.clone())
        };
        assert_eq!(one.status, 404, "{method} {there}");
        assert_eq!(bytes(&one), bytes(&other), "{method} {there}");
    }
    // Within the own tenant a missing child is the same bytes too.
    let own = world.as_("admin", "DELETE", "/v1/tenants/acme/keys/none", &Value::Null).await;
    let foreign = world.as_("wrong tenant", "DELETE", &format!("/v1/tenants/acme/keys/{key}"), &Value::Null).await;
    assert_eq!((own.status, own.body), (foreign.status, foreign.body));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_lives_rotates_and_ends() {
    let world = World::start().await;
    let admin = world.keys["admin"].clone();
    let who = async |key: &str| world.send(key, "GET", "/v1/whoami", &Value::Null).await;
    let wish = json!({ "role": "viewer", "displayName": "dashboards", "ttl": "1h", "permissions": ["instances.read"] });
    let made = world.send(&admin, "POST", "/v1/tenants/acme/keys", &wish).await;
    assert_eq!((made.status, made.header("cache-control")), (201, Some("no-store")));
    let made = made.json();
    let (id, first) = (made["id"].as_str().unwrap(), made["key"].as_str().unwrap());
    let me = who(first).await.json();
    assert_eq!(me["permissions"], json!(["instances.read"]));
    assert_eq!((&me["principal"], &me["tenant"]), (&json!(format!("key:{id}")), &json!("acme")));
    let listed = world.send(&admin, "GET", "/v1/tenants/acme/keys", &Value::Null).await;
    let text = String::from_utf8_lossy(&listed.body).into_owned();
    assert!(text.contains(id) && !text.contains(first) && !text.contains("sha256"), "{text}");

    let path = format!("/v1/tenants/acme/keys/{id}");
    let second = world.send(&admin, "POST", &format!("{path}:rotate"), &json!({ "grace": "1h" })).await.json();
    let second = second["key"].as_str().unwrap().to_owned();
    assert_eq!((who(first).await.status, who(&second).await.status), (200, 200), "both, for the grace");
    let third = world.send(&admin, "POST", &format!("{path}:rotate"), &json!({ "grace": "0s" })).await.json();
    let third = third["key"].as_str().unwrap().to_owned();
    assert_eq!((who(first).await.status, who(&second).await.status, who(&third).await.status), (401, 401, 200));
    assert_eq!(world.send(&admin, "DELETE", &path, &Value::Null).await.status, 204);
    assert_eq!(who(&third).await.status, 401);
    assert_eq!(world.send(&admin, "DELETE", &path, &Value::Null).await.status, 404);

    // A key of the configuration is changed there.
    let declared = world.send(&admin, "DELETE", "/v1/tenants/acme/keys/viewer", &Value::Null).await;
    assert_eq!(declared.code(), "conflict");
    assert!(declared.json()["detail"].as_str().unwrap().contains("the configuration"), "{declared:?}");
    // Nobody hands out a role of the platform, or more than a role has.
    for wish in [json!({ "role": "platform-admin" }), json!({ "role": "viewer", "permissions": ["keys.write"] })] {
        assert_eq!(world.send(&admin, "POST", "/v1/tenants/acme/keys", &wish).await.status, 400);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_create_of_a_key_gets_the_same_key() {
    let world = World::start().await;
    let bearer = format!("Bearer {}", world.keys["admin"]);
    let send = async |key: &str, body: &Value| {
        let headers =
            [("authorization", bearer.as_str()), ("content-type", "application/json"), ("idempotency-key", key)];
        raw(world.process.api(), "POST /v1/tenants/acme/keys", &headers, body.to_string().as_bytes()).await
    };
    let first = send("k1", &json!({ "role": "viewer" })).await;
    let again = send("k1", &json!({ "role": "viewer" })).await;
    assert_eq!((first.status, again.status, again.header("idempotency-replayed")), (201, 201, Some("true")));
    assert_eq!(first.json()["key"], again.json()["key"]);
    assert_eq!(send("k1", &json!({ "role": "operator" })).await.code(), "idempotency-key-reused");
    assert_ne!(send("k2", &json!({ "role": "viewer" })).await.json()["key"], first.json()["key"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_account_owns_keys_and_takes_them_with_it() {
    let world = World::start().await;
    let admin = world.keys["admin"].clone();
    let account = json!({ "name": "ci", "role": "operator", "project": "web" });
    assert_eq!(world.send(&admin, "POST", "/v1/tenants/acme/serviceAccounts", &account).await.status, 201);
    assert_eq!(world.send(&admin, "POST", "/v1/tenants/acme/serviceAccounts", &account).await.code(), "already-exists");
    let key = world.send(&admin, "POST", "/v1/tenants/acme/keys", &json!({ "serviceAccount": "ci" })).await.json();
    let key = key["key"].as_str().unwrap();
    let me = world.send(key, "GET", "/v1/whoami", &Value::Null).await.json();
    assert_eq!(
        (&me["principal"], &me["role"], &me["project"]),
        (&json!("serviceAccount:ci"), &json!("operator"), &json!("web"))
    );
    let unknown = world.send(&admin, "POST", "/v1/tenants/acme/keys", &json!({ "serviceAccount": "cd" })).await;
    assert_eq!((unknown.status, &unknown.json()["errors"][0]["pointer"]), (400, &json!("/serviceAccount")));
    let path = "/v1/tenants/acme/serviceAccounts/ci";
    assert_eq!(world.send(&admin, "DELETE", path, &Value::Null).await.status, 204);
    assert_eq!(world.send(key, "GET", "/v1/whoami", &Value::Null).await.status, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_is_made_changed_and_removed() {
    let world = World::start().await;
    let admin = world.keys["platform-admin"].clone();
    let document = |instances: u64| {
        json!({ "apiVersion": "meridian.dev/v1", "kind": "Tenant", "metadata": { "name": "ops", "labels": { "team": "ops" } },
            "spec": { "quota": { "instances": instances } } })
    };
    let put = async |condition: (&str, &str), body: &Value| {
        let bearer = format!("Bearer {admin}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json"), condition];
        raw(world.process.api(), "PUT /v1/tenants/ops", &headers, body.to_string().as_bytes()).await
    };
    let made = put(("if-none-match", "*"), &document(3)).await;
    assert_eq!(made.status, 201, "{}", String::from_utf8_lossy(&made.body));
    let tag = made.header("etag").unwrap().to_owned();
    let shown = world.send(&admin, "GET", "/v1/tenants/ops", &Value::Null).await.json();
    assert_eq!((&shown["source"], &shown["labels"]["team"]), (&json!("the API"), &json!("ops")));
    assert_eq!(shown["spec"]["quota"], json!({ "instances": 3 }));
    // The limits reach the ledger, which is what creates meet.
    let until = Instant::now() + Duration::from_secs(20);
    let limits = async || {
        let quota = world.send(&admin, "GET", "/v1/tenants/ops/quotas/default", &Value::Null).await;
        quota.json()["limits"]["instances"].as_u64()
    };
    while limits().await != Some(3) {
        assert!(Instant::now() < until, "the limits are not set");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(put(("x-none", "x"), &document(4)).await.code(), "precondition-required");
    assert_eq!(put(("if-match", "\"r999\""), &document(4)).await.code(), "etag-mismatch");
    assert_eq!(put(("if-none-match", "*"), &document(4)).await.code(), "already-exists");
    let changed = put(("if-match", &tag), &document(4)).await;
    assert_eq!((changed.status, &changed.json()["generation"]), (200, &json!(2)));
    assert_eq!(put(("if-match", &tag), &document(5)).await.code(), "etag-mismatch", "the old tag is of no use");
    let faulty = json!({ "apiVersion": "meridian.dev/v1", "kind": "Tenant", "metadata": { "name": "ops" },
        "spec": { "regions": ["ap-guangzou"], "keys": [] } });
    let refused = put(("if-match", changed.header("etag").unwrap()), &faulty).await.json();
    assert_eq!(refused["errors"][0]["pointer"], "/spec/regions/0");
    assert_eq!(refused["errors"][0]["hint"], "did you mean `ap-guangzhou`?");

    let key = world.send(&admin, "POST", "/v1/tenants/ops/keys", &json!({ "role": "admin" })).await.json();
    let key = key["key"].as_str().unwrap().to_owned();
    let own = world.send(&key, "GET", "/v1/tenants/ops", &Value::Null).await;
    assert_eq!(own.status, 200, "a tenant reads its own settings");
    assert_eq!(world.send(&key, "DELETE", "/v1/tenants/ops", &Value::Null).await.status, 403, "and changes none");
    assert_eq!(world.send(&admin, "DELETE", "/v1/tenants/ops", &Value::Null).await.status, 204);
    assert_eq!(world.send(&key, "GET", "/v1/tenants/ops", &Value::Null).await.status, 401, "its keys went with it");
    assert_eq!(world.send(&admin, "GET", "/v1/tenants/ops", &Value::Null).await.status, 404);
    // What the configuration declares is changed there.
    let acme = world.send(&admin, "DELETE", "/v1/tenants/acme", &Value::Null).await;
    assert_eq!(acme.code(), "conflict");
    assert!(acme.json()["detail"].as_str().unwrap().contains("the configuration"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::too_many_lines, reason = "one world and one life in it: to start a world takes longer")]
async fn a_policy_is_made_judges_and_goes() {
    let world = World::start().await;
    let send = async |who: &str, line: &str, condition: Option<(&str, &str)>, body: &Value| {
        let bearer = format!("Bearer {}", world.keys[who]);
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let headers: Vec<_> = headers.into_iter().chain(condition).collect();
        let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        raw(world.process.api(), line, &headers, &bytes).await
    };
    let document = |expression: &str| {
        json!({ "apiVersion": "meridian.dev/v1", "kind": "Policy", "metadata": { "name": "names", "labels": { "team": "ops" } },
            "spec": { "rules": [{ "id": "named", "expression": expression, "pointer": "/name" }] } })
    };
    let own = "/v1/tenants/acme/policies/names";
    let put = format!("PUT {own}");
    let absent = Some(("if-none-match", "*"));
    // What is wrong is told by field, line and column; nothing is stored, and nothing by a dry run.
    let mistaken = send("admin", &put, absent, &document("object.name.startsWith('a') &&\n  object.nme == 'b'")).await;
    let fault = &mistaken.json()["errors"][0];
    assert_eq!(
        (&fault["pointer"], &fault["line"], &fault["column"]),
        (&json!("/spec/rules/0/expression"), &json!(2), &json!(10))
    );
    assert_eq!(fault["hint"], "did you mean `name`?");
    let dry = send("admin", &format!("{put}?validateOnly=true"), absent, &document("object.name != 'web'")).await;
    assert_eq!((dry.status, &dry.json()["etag"]), (200, &Value::Null));
    assert_eq!(send("admin", &format!("GET {own}"), None, &Value::Null).await.status, 404);
    assert_eq!(send("operator", &put, absent, &document("object.name != 'web'")).await.status, 403);

    let made = send("admin", &put, absent, &document("object.name != 'web'")).await;
    assert_eq!((made.status, made.header("location")), (201, Some(own)));
    let tag = made.header("etag").unwrap().to_owned();
    let shown = send("viewer", &format!("GET {own}"), None, &Value::Null).await.json();
    assert_eq!(shown["spec"]["scope"], json!({ "tenant": "acme" }), "it says whose it is, wherever it was said");
    assert_eq!(
        (&shown["source"], &shown["generation"], &shown["labels"]["team"]),
        (&json!("the API"), &json!(1), &json!("ops"))
    );
    let body = |name: &str| json!({ "name": name, "spec": { "containers": [{ "name": "a", "image": "b" }] } });
    // The policies that deny; a tenant's own settings may deny as well.
    let denied_by = async |tenant: &str, who: &str, name: &str| -> Vec<String> {
        let line = format!("POST /v1/tenants/{tenant}/instances?validateOnly=true");
        let reply = send(who, &line, None, &body(name)).await.json();
        let errors = reply["errors"].as_array().cloned().unwrap_or_default();
        errors.iter().filter_map(|e| e["policy"].as_str()).map(str::to_owned).collect()
    };
    let (of_acme, of_all, none) = (["tenants/acme/policies/names"], ["policies/names"], [""; 0]);
    assert_eq!(denied_by("acme", "operator", "web").await, of_acme);
    assert_eq!(denied_by("acme", "operator", "job").await, none);
    assert_eq!(denied_by("lab", "lab-admin", "web").await, none, "another tenant's is not lab's");

    // Nobody's change is lost.
    assert_eq!(send("admin", &put, absent, &document("object.name != 'x'")).await.code(), "already-exists");
    assert_eq!(send("admin", &put, None, &document("object.name != 'x'")).await.code(), "precondition-required");
    let old = Some(("if-match", "\"r0\""));
    for line in [put.clone(), format!("{put}?validateOnly=true")] {
        assert_eq!(send("admin", &line, old, &document("object.name != 'x'")).await.code(), "etag-mismatch");
    }
    let changed = send("admin", &put, Some(("if-match", &tag)), &document("object.name != 'job'")).await;
    assert_eq!((changed.status, &changed.json()["generation"]), (200, &json!(2)));
    assert_eq!(denied_by("acme", "operator", "job").await, of_acme);

    // The platform's stand elsewhere and judge everybody.
    let all = "/v1/policies/names";
    assert_eq!(send("admin", &format!("GET {all}"), None, &Value::Null).await.status, 403);
    let wrong = json!({ "tenant": "acme" });
    let mut misplaced = document("object.name != 'web'");
    misplaced["spec"]["scope"] = wrong;
    let refused = send("platform-admin", &format!("PUT {all}"), absent, &misplaced).await.json();
    assert_eq!(refused["errors"][0]["pointer"], "/spec/scope");
    let made = send("platform-admin", &format!("PUT {all}"), absent, &document("object.name != 'web'")).await;
    assert_eq!(made.status, 201);
    assert_eq!(denied_by("lab", "lab-admin", "web").await, of_all);
    let names = async |who: &str, path: &str| -> Vec<String> {
        let list = send(who, &format!("GET {path}"), None, &Value::Null).await.json();
        list["items"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("viewer", "/v1/tenants/acme/policies").await, ["tenants/acme/policies/names"]);
    assert_eq!(names("platform-viewer", "/v1/tenants/-/policies").await, ["tenants/acme/policies/names"]);
    assert_eq!(names("platform-viewer", "/v1/policies").await, ["policies/names"]);

    let tag = made.header("etag").unwrap();
    assert_eq!(
        send("platform-admin", &format!("DELETE {all}"), None, &Value::Null).await.code(),
        "precondition-required"
    );
    let dry =
        send("platform-admin", &format!("DELETE {all}?validateOnly=true"), Some(("if-match", tag)), &Value::Null).await;
    assert_eq!(dry.status, 204);
    assert_eq!(denied_by("lab", "lab-admin", "web").await, of_all, "nothing was removed");
    assert_eq!(
        send("platform-admin", &format!("DELETE {all}"), Some(("if-match", tag)), &Value::Null).await.status,
        204
    );
    assert_eq!(denied_by("lab", "lab-admin", "web").await, none);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::too_many_lines, reason = "one world and one life in it: to start a world takes longer")]
async fn what_is_only_asked_for_changes_nothing_and_a_patch_changes_what_it_says() {
    let world = World::start().await;
    let admin = world.keys["platform-admin"].clone();
    let ask = async |line: &str, body: &Value| {
        let (method, path) = line.split_once(' ').unwrap();
        world.send(&admin, method, path, body).await
    };
    let document = json!({ "apiVersion": "meridian.dev/v1", "kind": "Tenant",
        "metadata": { "name": "ops", "labels": { "team": "a", "old": "x" } },
        "spec": { "quota": { "instances": 3, "gpu": 1 }, "projects": { "nodes": [{ "name": "shop" }] } } });
    let dry = ask("POST /v1/tenants?validateOnly=true", &document).await;
    assert_eq!((dry.status, &dry.json()["spec"]["quota"]["gpu"], &dry.json()["etag"]), (200, &json!(1), &Value::Null));
    assert_eq!(ask("GET /v1/tenants/ops", &Value::Null).await.status, 404);
    assert_eq!(ask("POST /v1/tenants", &document).await.status, 201);
    assert_eq!(ask("POST /v1/tenants?validateOnly=true", &document).await.code(), "already-exists");

    let patch = async |query: &str, condition: (&str, &str), body: &Value| {
        let bearer = format!("Bearer {admin}");
        let kind = ("content-type", "application/merge-patch+json");
        let line = format!("PATCH /v1/tenants/ops{query}");
        raw(world.process.api(), &line, &[("authorization", &bearer), kind, condition], body.to_string().as_bytes())
            .await
    };
    let none = ("x-none", "x");
    let change = json!({ "labels": { "team": "b", "old": null }, "spec": { "quota": { "gpu": null, "instances": 5 }, "weight": 2 } });
    for query in ["?validateOnly=true", ""] {
        let patched = patch(query, none, &change).await;
        assert_eq!(patched.status, 200, "{}", String::from_utf8_lossy(&patched.body));
        let patched = patched.json();
        assert_eq!((&patched["labels"], &patched["spec"]["weight"]), (&json!({ "team": "b" }), &json!(2)));
        assert_eq!(patched["spec"]["quota"], json!({ "instances": 5 }));
        assert_eq!(patched["spec"]["projects"]["nodes"][0]["name"], "shop", "what is not named stays");
        let shown = ask("GET /v1/tenants/ops", &Value::Null).await.json();
        assert_eq!(shown["generation"], if query.is_empty() { 2 } else { 1 }, "{query}");
    }
    assert_eq!(patch("", ("if-match", "\"r0\""), &change).await.code(), "etag-mismatch");
    let unknown = patch("", none, &json!({ "metadata": {}, "sepc": {} })).await.json();
    assert_eq!(
        (&unknown["errors"][0]["pointer"], &unknown["errors"][1]["hint"]),
        (&json!("/metadata"), &json!("did you mean spec?"))
    );
    let faulty = patch("", none, &json!({ "spec": { "regions": ["nowhere"] } })).await.json();
    assert_eq!(faulty["errors"][0]["pointer"], "/spec/regions/0");

    // A credential is bound to a project that is there, and the project stays as long.
    for (path, wish) in [
        ("keys", json!({ "project": "shpo" })),
        ("serviceAccounts", json!({ "name": "ci", "role": "viewer", "project": "shpo" })),
    ] {
        let refused = ask(&format!("POST /v1/tenants/ops/{path}"), &wish).await.json();
        let fault = &refused["errors"][0];
        assert_eq!((&fault["pointer"], &fault["hint"]), (&json!("/project"), &json!("did you mean shop?")), "{path}");
    }
    let wish = json!({ "role": "viewer", "project": "shop" });
    let dry = ask("POST /v1/tenants/ops/keys?validateOnly=true", &wish).await;
    assert_eq!((dry.status, &dry.json()["key"], &dry.json()["project"]), (200, &Value::Null, &json!("shop")));
    assert_eq!(ask("GET /v1/tenants/ops/keys", &Value::Null).await.json()["items"], json!([]));
    let made = ask("POST /v1/tenants/ops/keys", &wish).await.json();
    let (path, key) = (format!("/v1/{}", made["name"].as_str().unwrap()), made["key"].as_str().unwrap());
    let refused = patch("", none, &json!({ "spec": { "projects": null } })).await.json();
    assert_eq!(refused["errors"][0]["code"], "in-use", "{refused}");

    // One key, one service account; what may be done with them is asked before.
    let one = ask(&format!("GET {path}"), &Value::Null).await;
    assert_eq!(
        (one.header("etag").is_some(), &one.json()["key"], &one.json()["project"]),
        (true, &Value::Null, &json!("shop"))
    );
    let account = json!({ "name": "ci", "role": "viewer" });
    let accounts = "/v1/tenants/ops/serviceAccounts";
    assert_eq!(ask(&format!("POST {accounts}?validateOnly=true"), &account).await.status, 200);
    assert_eq!(ask(&format!("GET {accounts}/ci"), &Value::Null).await.status, 404);
    assert_eq!(ask(&format!("POST {accounts}"), &account).await.status, 201);
    assert_eq!(ask(&format!("GET {accounts}/ci"), &Value::Null).await.json()["role"], "viewer");
    for line in [
        format!("POST {path}:rotate?validateOnly=true"),
        format!("DELETE {path}?validateOnly=true"),
        format!("DELETE {accounts}/ci?validateOnly=true"),
    ] {
        let reply = ask(&line, &Value::Null).await;
        assert!(reply.status < 300 && !String::from_utf8_lossy(&reply.body).contains("mrd_"), "{line}: {reply:?}");
    }
    assert_eq!(world.send(key, "GET", "/v1/whoami", &Value::Null).await.status, 200, "nothing has changed");
    assert_eq!(ask(&format!("GET {accounts}/ci"), &Value::Null).await.status, 200);
    assert_eq!(ask(&format!("DELETE {path}"), &Value::Null).await.status, 204);
    assert_eq!(
        patch("", none, &json!({ "spec": { "projects": null } })).await.status,
        200,
        "nobody is bound to it any more"
    );

    // Whoever audits the platform sees credentials and who did what, and changes nothing.
    for (path, viewer) in [("keys", 403), ("audit", 403), ("serviceAccounts", 403)] {
        let path = format!("/v1/tenants/acme/{path}");
        assert_eq!(world.as_("platform-viewer", "GET", &path, &Value::Null).await.status, 200, "{path}");
        assert_eq!(world.as_("viewer", "GET", &path, &Value::Null).await.status, viewer, "{path}");
    }
    assert_eq!(world.as_("platform-viewer", "POST", "/v1/tenants/acme/keys", &json!({})).await.status, 403);
}
