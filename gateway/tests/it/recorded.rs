//! What changes who may what, and what an operator does, has its record in the log of a whole gateway.

use std::fs;

use serde_json::{Value, json};

use crate::{
    authz::World,
    support::{PATIENCE, Reply, raw, until},
};

impl World {
    /// The records of requests that are on the disk.
    fn recorded(&self) -> Vec<Value> {
        let mut texts = String::new();
        for entry in fs::read_dir(self.folder.path().join("ledger.audit")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "jsonl") && !path.is_symlink() {
                texts += &fs::read_to_string(path).unwrap();
            }
        }
        let records = texts.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        records.filter(|record| record["kind"] == "request").collect()
    }

    /// Has an answer, and returns it with the one record that was added before it.
    async fn one(&self, answer: impl Future<Output = Reply>) -> (Reply, Value) {
        let before = self.recorded().len();
        let reply = answer.await;
        let mut after = self.recorded();
        assert_eq!(after.len(), before + 1, "{}", reply.shown());
        let record = after.remove(before);
        assert_eq!(record["status"], reply.status, "{record}");
        (reply, record)
    }

    /// Waits until `/readyz?verbose` says so of the audit log.
    async fn until_audit_is(&self, well: bool) {
        let said = async || {
            let ready = raw(self.process.admin(), "GET /readyz?verbose", &[], b"").await.json();
            let checks = ready["checks"].as_array().unwrap();
            checks.iter().any(|check| check["name"] == "audit" && check["ok"] == well)
        };
        let waiting = async { while !said().await {} };
        tokio::time::timeout(PATIENCE, waiting).await.unwrap();
    }

    async fn operate(&self, target: &str, body: &Value) -> Reply {
        raw(self.process.admin(), &format!("POST {target}"), &[], body.to_string().as_bytes()).await
    }
}

fn told<'r, const N: usize>(record: &'r Value, members: [&str; N]) -> [&'r str; N] {
    members.map(|member| record[member].as_str().unwrap_or("-"))
}

const MEMBERS: [&str; 4] = ["action", "decision", "object", "tenant"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_who_may_what_is_recorded_with_what_was_changed() {
    let world = World::start().await;
    let manifest = json!({ "apiVersion": "meridian.dev/v1", "kind": "Tenant", "metadata": { "name": "newcomer" } });
    let made = world.one(world.as_("platform-admin", "POST", "/v1/tenants", &manifest)).await.1;
    assert_eq!(told(&made, MEMBERS), ["create-tenant", "accepted", "tenants/newcomer", "newcomer"]);
    assert_eq!(made["specDigest"].as_str().map(str::len), Some(64));
    let patch = async |display: &str| {
        let patch = json!({ "labels": { "shown-as": display } });
        world.one(world.as_("platform-admin", "PATCH", "/v1/tenants/newcomer", &patch)).await.1
    };
    let (one, other) = (patch("one").await, patch("two").await);
    assert_eq!(told(&one, MEMBERS), ["patch-tenant", "accepted", "tenants/newcomer", "newcomer"]);
    assert_eq!(one["specDigest"].as_str().map(str::len), Some(64));
    assert_ne!(one["specDigest"], other["specDigest"], "the patch is what is recorded");
    let seen = world.as_("platform-admin", "GET", "/v1/tenants/newcomer/audit", &Value::Null).await.json();
    assert_eq!(seen["items"][0]["action"], "patch-tenant", "{seen}");

    let wish = json!({ "role": "viewer" });
    let (key, record) = world.one(world.as_("admin", "POST", "/v1/tenants/-/keys", &wish)).await;
    let name = key.json()["name"].as_str().unwrap().to_owned();
    assert_eq!(told(&record, MEMBERS), ["create-key", "accepted", &name, "acme"]);
    assert_eq!(record["grantedRole"], "viewer");
    let repeat = || world.keyed("admin", "/v1/tenants/acme/keys", &wish, "key-1");
    assert_eq!(world.one(repeat()).await.1["decision"], "accepted");
    let again = world.one(repeat()).await.1;
    assert_eq!(told(&again, ["decision", "idempotencyKey"]), ["replayed", "key-1"]);
    let denied = world.one(world.as_("operator", "POST", "/v1/tenants/acme/keys", &wish)).await.1;
    assert_eq!(told(&denied, MEMBERS), ["create-key", "denied", "tenants/acme/keys", "acme"]);
    let id = name.rsplit('/').next().unwrap();
    let rotated = world.one(world.as_("admin", "POST", &format!("/v1/tenants/-/keys/{id}:rotate"), &json!({}))).await.1;
    assert_eq!(told(&rotated, MEMBERS), ["rotate-key", "accepted", &name, "acme"]);
    let revoked = world.one(world.as_("admin", "DELETE", &format!("/v1/tenants/-/keys/{id}"), &Value::Null)).await.1;
    assert_eq!(told(&revoked, MEMBERS), ["revoke-key", "accepted", &name, "acme"]);
    let wish = json!({ "name": "ci", "role": "operator" });
    let account = world.one(world.as_("admin", "POST", "/v1/tenants/acme/serviceAccounts", &wish)).await.1;
    let object = "tenants/acme/serviceAccounts/ci";
    assert_eq!(told(&account, MEMBERS), ["create-service-account", "accepted", object, "acme"]);
    assert_eq!(account["grantedRole"], "operator");

    let absent = json!({ "outcome": "absent" });
    let settled = world.one(world.operate("/operations/acme/none:settle", &absent)).await.1;
    assert_eq!(told(&settled, MEMBERS), ["settle-operation", "denied", "tenants/acme/operations/none", "acme"]);
    assert_eq!(told(&settled["actor"], ["principal", "role"]), ["admin-listener", "-"]);
    let ignored = world.one(world.operate("/orphans/gz/eksci-1:ignore", &Value::Null)).await.1;
    assert_eq!(told(&ignored, ["action", "object", "code"]), ["ignore-orphan", "orphans/gz/eksci-1", "not-found"]);
    for _ in 0..100 {
        world.operate("/operations/acme/none:settle", &absent).await;
    }
    let settled = world.recorded().iter().filter(|record| record["action"] == "settle-operation").count();
    assert!(settled < 61, "whoever reaches the admin listener cannot fill the disk: {settled}");
    world.process.stop().await.unwrap();
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_changes_nothing_that_cannot_be_recorded_and_may_drain() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("ledger.audit");
    fs::create_dir(&log).unwrap();
    let blocked = log.join("audit-00000000000000000001.jsonl");
    std::os::unix::fs::symlink("/nonexistent/log", &blocked).unwrap();
    let world = World::in_folder(folder).await;
    world.until_audit_is(false).await;
    let absent = json!({ "outcome": "absent" });
    let refused = world.operate("/operations/acme/none:settle", &absent).await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "store-unavailable"), "{}", refused.shown());
    fs::remove_file(blocked).unwrap();
    world.until_audit_is(true).await;
    world.one(world.operate("/operations/acme/none:settle", &absent)).await;
    assert_eq!(world.operate("/drain", &Value::Null).await.status, 202);
    until("the drain is recorded", || world.recorded().len() == 2).await;
    assert_eq!(told(&world.recorded()[1], ["action", "object"]), ["drain", "gateway"]);
    world.process.stop().await.unwrap();
}
