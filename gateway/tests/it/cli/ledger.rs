//! `meridian ledger` against a real Redis and simulated clouds.

use meridian_cloudsim::Scenario;
use meridian_ledger::conformance::redis_server::RedisServer;
use serde_json::{Value, json};

use super::harness::{Ran, finish, meridian};
use crate::journeys::world::{World, config_text, spec};

struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn config(&self, world: &World, name: &str, ledger: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, config_text(&world.sim.info(), ledger, "")).unwrap();
        path.display().to_string()
    }

    fn on(&self, world: &World, redis: &RedisServer) -> String {
        let journal = self.folder.path().join("intents").display().to_string();
        let ledger = format!("store = \"redis\"\nurl = \"{}\"\njournalDir = {journal:?}", redis.url());
        self.config(world, "meridian.toml", &ledger)
    }
}

/// Off the test's runtime, where the simulated clouds go on meanwhile.
async fn run(args: &[&str]) -> Ran {
    let command = meridian(args);
    tokio::task::spawn_blocking(|| finish(command)).await.unwrap()
}

/// Standing and number of operations by tenant.
async fn standings(config: &str) -> Value {
    let status = run(&["ledger", "status", "--config", config, "-o", "json"]).await.json();
    let tenants = status["tenants"].as_array().unwrap();
    let of = |t: &Value| (t["tenant"].as_str().unwrap().to_owned(), json!([t["standing"], t["operations"]]));
    tenants.iter().map(of).collect::<serde_json::Map<_, _>>().into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_ledger_is_begun_once_and_says_how_it_stands() {
    let files = Files { folder: tempfile::tempdir().unwrap() };
    let (world, mut redis) = (World::with(Scenario::demo(7), "").await, RedisServer::start(&[]));
    let config = files.on(&world, &redis);
    let standing = |word: &str| json!({"acme": [word, null], "lab": [word, null]});
    let before = standings(&config).await;
    assert!([standing("empty"), standing("new")].contains(&before), "{before}");

    let unproven = run(&["ledger", "init", "--config", &config]).await;
    assert_eq!(unproven.code, 6, "{unproven:?}");
    assert!(unproven.stderr.contains("cn-hangzhou, cn-beijing show nothing, which"), "{unproven:?}");
    assert!(unproven.stderr.contains("then add --nothing-at cn-hangzhou --nothing-at cn-beijing"), "{unproven:?}");
    assert_eq!(redis.ask(&["DBSIZE"]), "0", "nothing was written");
    let wrong = run(&["ledger", "init", "--config", &config, "--nothing-at", "mars"]).await;
    assert!(wrong.code == 2 && wrong.stderr.contains("no such backend"), "{wrong:?}");
    let begun =
        run(&["ledger", "init", "--config", &config, "--nothing-at=cn-beijing", "--nothing-at=cn-hangzhou"]).await;
    assert_eq!(begun.ok(), "the ledger is that of a new deployment with 2 tenants\n");
    assert_eq!(standings(&config).await, standing("serving"));
    let table = run(&["ledger", "status", "--config", &config]).await.ok();
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["TENANT", "STANDING", "INCARNATION", "SERVER", "SEQ", "OPERATIONS"]);
    assert_eq!(rows[1..].iter().map(|r| r[..2].join(" ")).collect::<Vec<_>>(), ["acme serving", "lab serving"]);

    let again = run(&["ledger", "init", "--config", &config]).await;
    assert_eq!(again.code, 6, "{again:?}");
    assert!(again.stderr.contains("holds data of this deployment already, of tenant acme"), "{again:?}");

    redis.restart();
    assert_eq!(standings(&config).await, standing("recovering"), "nobody has confirmed it yet");
    redis.kill();
    for verb in ["init", "status"] {
        let away = run(&["ledger", verb, "--config", &config]).await;
        assert!(away.code == 1 && away.stderr.contains("the ledger does not answer"), "{verb}: {away:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_is_not_begun_over_instances_that_exist() {
    let files = Files { folder: tempfile::tempdir().unwrap() };
    let (world, redis) = (World::with(Scenario::demo(7), "").await, RedisServer::start(&[]));
    world.create("acme", "web", "k", &spec()).await.unwrap();
    let config = files.on(&world, &redis);
    let refused = run(&["ledger", "init", "--config", &config]).await;
    assert_eq!(refused.code, 6, "{refused:?}");
    assert!(refused.stderr.contains("shows 1 instances of this deployment"), "{refused:?}");
    world.fault(json!({"kind": "regionOutage", "region": "ap-guangzhou"})).await;
    let unasked = run(&["ledger", "init", "--config", &config]).await;
    assert_eq!(unasked.code, 6, "{unasked:?}");
    assert_eq!(redis.ask(&["DBSIZE"]), "0", "nothing was written");

    let alone = files.config(&world, "alone.toml", "path = \"ledger.redb\"");
    for verb in ["init", "status"] {
        let usage = run(&["ledger", verb, "--config", &alone]).await;
        assert!(usage.code == 2 && usage.stderr.contains("names no shared ledger"), "{verb}: {usage:?}");
    }
}
