//! The audit log of a real gateway: listed, checked, and whole after a kill.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use meridian_ledger::conformance::redis_server::RedisServer;
use serde_json::Value;

use super::harness::{Background, Demo, Ran, finish, meridian, request, wait_until};

fn folder(dir: &Path) -> PathBuf {
    dir.join("ledger.audit")
}

fn audit(verb: &str, more: &[&str], dir: &Path) -> Ran {
    let path = folder(dir).display().to_string();
    finish(meridian(&[&["audit", verb], more, &[path.as_str()]].concat()))
}

fn verify(dir: &Path) -> Ran {
    let key = audit("key", &[], dir).ok();
    audit("verify", &["-o", "json", "--key", key.trim()], dir)
}

fn logs(dir: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(folder(dir)).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = paths.filter(|p| p.extension().is_some_and(|e| e == "jsonl")).collect();
    paths.sort();
    paths
}

#[test]
fn what_was_changed_is_listed_with_what_clouds_did_and_every_edit_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let mut demo = Demo::with(&["--data-dir", dir.path().to_str().unwrap()]);
    demo.run(&["create", "web", "--image", "nginx:1.27", "--wait"]).ok();
    demo.run(&["delete", "web", "--yes"]).ok();
    assert_eq!(demo.run(&["--tenant", "lab", "delete", "web", "--yes"]).code, 3);

    let list = |args: &[&str]| demo.run(&[&["audit", "list", "-o", "json"], args].concat()).json();
    let all = list(&[]);
    assert_eq!(all["complete"], true);
    assert!(all["chain"].is_string() && all.get("heads").is_none(), "heads are the platform's");
    let created = list(&["--action", "create-instance", "--decision", "accepted"]);
    assert_eq!(created["items"].as_array().unwrap().len(), 1, "{created}");
    let created = &created["items"][0];
    assert_eq!(
        (&created["object"], &created["actor"]["role"]),
        (&"tenants/acme/instances/web".into(), &"admin".into())
    );
    assert!(created.get("seq").is_none(), "a tenant does not learn how many records others have");
    let operation = created["operation"].as_str().unwrap();
    let story = list(&["--operation", operation]);
    let states: Vec<_> = story["items"].as_array().unwrap().iter().filter(|r| r["kind"] == "effect").collect();
    for (action, state) in [("create", "begun"), ("create", "applied"), ("delete", "begun"), ("delete", "applied")] {
        let effect = states.iter().find(|r| r["action"] == action && r["state"] == state);
        let effect = effect.unwrap_or_else(|| panic!("no {action} {state} in {story}"));
        let told = effect["vendorRequestId"].as_str().is_some_and(|id| !id.is_empty());
        assert_eq!(told, state == "applied", "{effect}");
    }
    let foreign = list(&["--decision", "denied"]);
    assert_eq!(foreign["items"][0]["object"], "tenants/lab/instances/web", "{foreign}");
    assert_eq!(list(&["--since", "1h", "--object", "tenants/acme/instances"])["items"].as_array().unwrap().len(), 2);
    assert_eq!(list(&["--until", "1h"])["items"].as_array().unwrap().len(), 0);
    let mut lab = meridian(&["audit", "list", "-A", "-o", "json"]);
    lab.env("MERIDIAN_SERVER", demo.server()).env("MERIDIAN_TOKEN", demo.tenant("lab"));
    assert_eq!(finish(lab).json()["items"].as_array().unwrap().len(), 0, "another tenant sees nothing of it");
    let table = demo.run(&["get", "audit"]).ok();
    assert!(table.starts_with("TIME") && table.contains("key:acme"), "{table}");

    demo.process.signal("TERM");
    assert_eq!(demo.process.wait(), Some(0));
    let report = verify(dir.path()).json();
    assert_eq!((&report[0]["whole"], &report[0]["unsignedRecords"]), (&true.into(), &0.into()), "{report}");
    let log = logs(dir.path()).remove(0);
    let text = fs::read_to_string(&log).unwrap();
    fs::write(&log, text.replacen("\"denied\"", "\"accepted\"", 1)).unwrap();
    let found = verify(dir.path());
    assert!(found.code == 6 && found.stderr.contains("was edited"), "{found:?}");
    fs::write(&log, text).unwrap();
    let another = audit("verify", &["--key", "AAAA"], dir.path());
    assert!(another.code == 6 && another.stderr.contains("a key that was not given"), "{another:?}");
    assert_eq!(finish(meridian(&["audit", "verify", dir.path().to_str().unwrap()])).code, 3, "no log there");
}

/// Creates instances from several sides until `enough` were acknowledged, and then kills the gateway while more are under
/// way; the requests that were acknowledged.
fn killed_under_load(demo: &Demo, enough: usize, round: usize) -> BTreeSet<String> {
    let (acknowledged, count) = (Mutex::new(BTreeSet::new()), AtomicUsize::new(0));
    let (server, key) = (demo.server(), demo.tenant("acme"));
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let (server, key, acknowledged, count) = (&server, &key, &acknowledged, &count);
            scope.spawn(move || {
                for n in 0..1000 {
                    let id = format!("r{round}-{worker}-{n}");
                    let headers = format!(
                        "authorization: Bearer {key}\r\ncontent-type: application/json\r\nprefer: respond-async\r\n\
                         x-request-id: {id}\r\n"
                    );
                    let body =
                        format!(r#"{{"name":"{id}","spec":{{"containers":[{{"name":"app","image":"nginx"}}]}}}}"#);
                    let path = "/v1/tenants/acme/instances";
                    // An answer that was cut is none.
                    let Some((_, answer)) = request(server, "POST", path, &headers, &body) else { return };
                    if answer.is_object() {
                        acknowledged.lock().unwrap().insert(id);
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        wait_until("enough is acknowledged", || count.load(Ordering::Relaxed) >= enough);
        demo.process.signal("KILL");
    });
    acknowledged.into_inner().unwrap()
}

#[test]
fn whatever_was_acknowledged_before_a_kill_has_its_record() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeSet::new();
    for round in 0..2 {
        let mut demo = Demo::with(&["--data-dir", dir.path().to_str().unwrap()]);
        acknowledged.extend(killed_under_load(&demo, 60, round));
        demo.process.wait();
        let report = verify(dir.path());
        assert_eq!(report.code, 0, "a crash is no tampering: {report:?}");
        let mut recorded: Vec<String> = Vec::new();
        for log in logs(dir.path()) {
            let text = fs::read_to_string(log).unwrap();
            let records = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            recorded.extend(
                records.filter(|r| r["kind"] == "request").map(|r| r["requestId"].as_str().unwrap().to_owned()),
            );
        }
        let distinct: BTreeSet<String> = recorded.iter().cloned().collect();
        assert_eq!(distinct.len(), recorded.len(), "each has one");
        let missing: Vec<_> = acknowledged.difference(&distinct).collect();
        assert!(missing.is_empty() && acknowledged.len() >= 60, "{missing:?} of {}", acknowledged.len());
    }
}

/// Writes the configuration of a gateway beside a Redis, with a log of its own, and returns its path.
fn beside(redis: &RedisServer, home: &Path) -> String {
    let text = format!(
        "[deployment]\nid = \"test\"\nsecret = \"0123456789abcdef0123456789abcdef\"\n[server]\nlisten = \"127.0.0.1:0\"\n\
         adminListen = \"127.0.0.1:0\"\n[ledger]\nstore = \"redis\"\nurl = \"{}\"\njournalDir = \"{}\"\n[[tenants]]\n\
         name = \"acme\"\n[[backends]]\nid = \"gz\"\nadapter = \"tencent-eksci\"\nregion = \"ap-guangzhou\"\n\
         settings = {{ endpoint = \"http://127.0.0.1:1\", secretId = \"id\", secretKey = \"key\" }}\n",
        redis.url(),
        home.display()
    );
    let path = home.join("meridian.toml");
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn a_log_that_was_cut_is_found_by_that_of_another_gateway() {
    let (redis, homes) = (RedisServer::start(&[]), [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()]);
    let [a, b] = homes.each_ref().map(|home| beside(&redis, home.path()));
    let [of_a, of_b] = homes.each_ref().map(|home| home.path().join("audit"));
    let start = |config: &str| Background::start(&["serve", "--config", config]);
    let end = |mut gateway: Background| {
        gateway.signal("TERM");
        assert_eq!(gateway.wait(), Some(0));
    };
    // A gateway signs a head when it ends, and posts it when it has begun again.
    end(start(&a));
    let first = start(&a);
    let board = "{meridian:test:s:audit/heads}:values";
    wait_until("its head is posted", || redis.ask(&["HLEN", board]) == "1");
    let second = start(&b);
    let jsonl = |folder: &Path| {
        let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let mut paths: Vec<_> = paths.filter(|path| path.extension().is_some_and(|e| e == "jsonl")).collect();
        paths.sort();
        paths
    };
    let witnesses = || jsonl(&of_b).iter().any(|log| fs::read_to_string(log).unwrap().contains("\"kind\":\"witness\""));
    wait_until("the other has written it down", witnesses);
    end(first);
    end(second);

    let verify = |logs: &[&Path]| {
        let logs = logs.iter().map(|log| log.to_str().unwrap());
        finish(meridian(&["audit", "verify"].into_iter().chain(logs).collect::<Vec<_>>()))
    };
    verify(&[&of_a, &of_b]).ok();
    let logs = jsonl(&of_a);
    logs[1..].iter().for_each(|log| fs::remove_file(log).unwrap());
    let text = fs::read_to_string(&logs[0]).unwrap();
    fs::write(&logs[0], format!("{}\n", text.lines().next().unwrap())).unwrap();
    fs::remove_file(of_a.join("head.json")).unwrap();
    verify(&[&of_a]).ok();
    let found = verify(&[&of_a, &of_b]);
    assert!(found.code == 6 && found.stderr.contains("it was cut short, or made anew"), "{found:?}");
}
