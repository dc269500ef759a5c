//! A key that is revoked at one gateway is refused at every other, also when the Redis that they share loses the
//! revocation.

use std::{fs, path::Path, time::Duration};

use meridian_gateway::{
    clock::Entropy,
    config::Config,
    http::authenticate::{MintedKey, mint},
    process::Process,
};
use meridian_ledger::conformance::redis_server::RedisServer;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::{Reply, raw};

/// What is promised is a second: gateways look twice in one. The machine of a test has more to do.
const PROMISED: Duration = Duration::from_secs(2);

/// Longest wait for anything else.
const PATIENCE: Duration = Duration::from_secs(60);

struct World {
    server: RedisServer,
    root: MintedKey,
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let root = mint("test", "root", &Entropy::system());
        Self { server: RedisServer::start(&[]), root, folder: tempfile::tempdir().unwrap() }
    }

    async fn gateway(&self, name: &str) -> Process {
        let journal = self.folder.path().join(name);
        let text = format!(
            "[deployment]\nid = \"test\"\nsecret = \"0123456789abcdef0123456789abcdef\"\n\
             [server]\nlisten = \"127.0.0.1:0\"\nadminListen = \"127.0.0.1:0\"\n\
             [ledger]\nstore = \"redis\"\nurl = \"redis://127.0.0.1:{}\"\njournalDir = \"{}\"\n\
             [platform]\nkeys = [{{ id = \"root\", sha256 = \"{}\", role = \"platform-admin\" }}]\n\
             [[tenants]]\nname = \"acme\"\n\
             [[backends]]\nid = \"gz\"\nadapter = \"tencent-eksci\"\nregion = \"ap-guangzhou\"\n\
             settings = {{ endpoint = \"http://127.0.0.1:1\", secretId = \"id\", secretKey = \"key\" }}\n",
            self.server.port(),
            journal.display(),
            self.root.sha256_hex(),
        );
        let config = Config::parse(&text, "test.toml", &|_| Vec::new()).unwrap_or_else(|m| panic!("{m}\n{text}"));
        Process::start(config).await.unwrap()
    }

    async fn send(&self, gateway: &Process, line: &str, body: &Value) -> Reply {
        send(gateway, self.root.key.expose_secret(), line, body).await
    }

    /// Makes a key as soon as keys can be made: a store that may have lost writes takes none for some seconds.
    async fn make_key(&self, gateway: &Process, meanwhile: impl AsyncFn()) -> Value {
        let until = Instant::now() + PATIENCE;
        loop {
            meanwhile().await;
            let made = self.send(gateway, "POST /v1/tenants/acme/keys", &json!({ "role": "viewer" })).await;
            if made.status == 201 {
                return made.json();
            }
            assert!(made.status == 503 && Instant::now() < until, "{}", String::from_utf8_lossy(&made.body));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

async fn send(gateway: &Process, key: &str, line: &str, body: &Value) -> Reply {
    let bearer = format!("Bearer {key}");
    let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    raw(gateway.api(), line, &[("authorization", &bearer), ("content-type", "application/json")], &bytes).await
}

async fn status(gateway: &Process, key: &str) -> u16 {
    send(gateway, key, "GET /v1/whoami", &Value::Null).await.status
}

/// How long it takes until a key is answered so.
async fn until(gateway: &Process, key: &str, wanted: u16) -> Duration {
    let began = Instant::now();
    while status(gateway, key).await != wanted {
        assert!(began.elapsed() < PATIENCE, "it is never answered with {wanted}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    began.elapsed()
}

/// The files of a folder, with their lengths.
fn copy(from: &Path, to: &Path) -> u64 {
    fs::create_dir_all(to).unwrap();
    let entries = fs::read_dir(from).unwrap().map(Result::unwrap);
    entries.map(|entry| fs::copy(entry.path(), to.join(entry.file_name())).unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_revoked_at_one_gateway_stays_revoked_at_all_over_a_lossy_restart() {
    let mut world = World::new();
    let (a, b) = (world.gateway("a").await, world.gateway("b").await);
    let made = world.make_key(&a, async || {}).await;
    let (name, key) = (made["name"].as_str().unwrap(), made["key"].as_str().unwrap());
    assert_eq!(status(&a, key).await, 200);
    until(&b, key, 200).await;

    let (data, before) = (world.server.data_folder(), world.folder.path().join("before"));
    let len = copy(&data, &before);
    assert_eq!(world.send(&a, &format!("DELETE /v1/{name}"), &Value::Null).await.status, 204);
    assert_eq!(status(&a, key).await, 401, "at once where it was revoked");
    let took = until(&b, key, 401).await;
    assert!(took < PROMISED, "{took:?}");

    // The server comes back without the revocation, as after a failover to a replica that did not have it yet.
    world.server.kill();
    assert!(copy(&data, &world.folder.path().join("after")) > len, "the copy is of before the revocation");
    fs::remove_dir_all(&data).unwrap();
    copy(&before, &data);
    world.server.restart();
    // Gateways that saw the revocation hand it in before anything is written.
    world
        .make_key(&b, async || {
            assert_eq!(status(&a, key).await, 401);
            assert_eq!(status(&b, key).await, 401);
        })
        .await;
    // Who knows nothing but what the server holds has it from there.
    let c = world.gateway("c").await;
    assert_eq!(status(&c, key).await, 401);
    assert_eq!(world.send(&c, &format!("GET /v1/{name}"), &Value::Null).await.status, 404);
}
