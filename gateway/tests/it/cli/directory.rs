//! A gateway that follows a folder of tenants: what a change does, what a broken file does not, and what it would do.

use std::{fs, path::Path};

use serde_json::Value;

use super::harness::{Background, finish, meridian, request, wait_until};

const CONFIG: &str = r#"
[deployment]
id = "test"
secret = "0123456789abcdef0123456789abcdef"
[server]
listen = "127.0.0.1:0"
adminListen = "127.0.0.1:0"
[ledger]
path = "ledger.redb"
[directory]
path = "tenants.d"
[[backends]]
id = "gz"
adapter = "tencent-eksci"
region = "ap-guangzhou"
settings = { endpoint = "http://127.0.0.1:1", secretId = "id", secretKey = "key" }
"#;

/// A file that declares a tenant with one key, and the key.
fn declare(folder: &Path, name: &str, instances: u32) -> String {
    let id = format!("{name}-1");
    let key = finish(meridian(&["auth", "new-key", "--id", &id, "-o", "json"])).json();
    let (secret, sha256) = (key["apiKey"].as_str().unwrap(), key["sha256"].as_str().unwrap());
    write(folder, name, instances, sha256);
    secret.to_owned()
}

fn write(folder: &Path, name: &str, instances: u32, sha256: &str) {
    let text = format!(
        "apiVersion: meridian.dev/v1\nkind: Tenant\nmetadata: {{name: {name}}}\nspec:\n  quota: {{instances: {instances}}}\n  \
         keys: [{{id: {name}-1, sha256: {sha256}}}]\n"
    );
    fs::write(folder.join(format!("{name}.yaml")), text).unwrap();
}

#[test]
fn a_folder_of_tenants_is_followed_and_a_broken_file_changes_nothing() {
    let home = tempfile::tempdir().unwrap();
    let (config, folder) = (home.path().join("meridian.toml"), home.path().join("tenants.d"));
    fs::create_dir(&folder).unwrap();
    let text = CONFIG.replace("ledger.redb", home.path().join("ledger.redb").to_str().unwrap());
    fs::write(&config, text).unwrap();
    let config = config.to_str().unwrap().to_owned();
    let acme = declare(&folder, "acme", 3);

    let gateway = Background::start(&["serve", "--config", &config]);
    let at = |name: &str| gateway.ready[name].as_str().unwrap().to_owned();
    let (api, admin) = (at("gateway"), at("admin"));
    let quota = |key: &str| finish(meridian(&["get", "quota", "-o", "json", "--server", &api, "--token", key]));
    let instances = |key: &str| quota(key).json()["limits"]["instances"].as_u64();
    let diff = || finish(meridian(&["check", "--config", &config, "--diff", "--admin", &admin]));
    let reload = || finish(meridian(&["admin", "--admin", &admin, "reload"]));
    assert_eq!(instances(&acme), Some(3));
    let same = diff();
    assert_eq!((same.code, same.stdout.as_str()), (0, ""), "{same:?}");

    // By itself, within seconds.
    let lab = declare(&folder, "lab", 1);
    wait_until("the new tenant's key is known", || quota(&lab).code == 0);
    assert_eq!(quota(&acme).code, 0);

    // A broken file: everything stays, whoever looks is told, and other changes wait too.
    fs::write(folder.join("ops.yaml"), "kind: Tenant\n  metadata: [\n").unwrap();
    fs::remove_file(folder.join("lab.yaml")).unwrap();
    let broken = reload();
    assert_eq!(broken.code, 1, "{broken:?}");
    assert!(broken.stderr.contains("ops.yaml:2:"), "{broken:?}");
    assert_eq!((quota(&acme).code, quota(&lab).code), (0, 0), "nothing has changed");
    assert!(finish(meridian(&["check", "--config", &config])).stderr.contains("ops.yaml:2:"));
    let ready = || -> Value {
        let (status, body) = request(&admin, "GET", "/readyz?verbose", "", "").unwrap();
        assert_eq!(status, 200, "a broken file takes no gateway out of service: {body}");
        let checks = body["checks"].as_array().unwrap().clone();
        checks.into_iter().find(|c| c["name"] == "directory").unwrap()
    };
    assert!(ready()["ok"] == false && ready()["state"].as_str().unwrap().contains("ops.yaml"), "{}", ready());

    // Mended: what would change is shown first, then a signal has it read at once.
    fs::remove_file(folder.join("ops.yaml")).unwrap();
    let acme_hash = fs::read_to_string(folder.join("acme.yaml")).unwrap();
    fs::write(folder.join("acme.yaml"), acme_hash.replace("instances: 3", "instances: 5")).unwrap();
    gateway.signal("HUP");
    wait_until("the limits in the ledger are the new ones", || instances(&acme) == Some(5));
    assert_eq!(quota(&lab).code, 4, "its key is gone with its file");
    assert_eq!(ready()["ok"], true);
    fs::write(folder.join("acme.yaml"), &acme_hash).unwrap();
    wait_until("the file is followed", || diff().code == 0);

    // Who asked for it and what it changed is in the audit log; that it was broken changed nothing.
    let records = |kind: &str| -> Vec<Value> {
        let mut records = Vec::new();
        for entry in fs::read_dir(home.path().join("ledger.audit")).unwrap() {
            let text = fs::read_to_string(entry.unwrap().path()).unwrap();
            records.extend(text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()));
        }
        records.retain(|record| record["kind"] == kind);
        records
    };
    wait_until("the last change is recorded", || records("reload").len() == 4);
    let reloads = records("reload");
    let changes: Vec<String> = reloads.iter().map(|record| record["changes"][0].as_str().unwrap().to_owned()).collect();
    let quota = "~ tenants/acme.quota.instances";
    assert_eq!(
        changes,
        ["+ tenants/acme", "+ tenants/lab", &format!("{quota}: 3 -> 5"), &format!("{quota}: 5 -> 3")],
        "{reloads:?}"
    );
    assert_eq!((&reloads[2]["total"], &reloads[2]["actor"]["principal"]), (&2.into(), &"folder".into()));
    let asked = records("request");
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!((&asked[0]["action"], &asked[0]["decision"]), (&"reload-directory".into(), &"denied".into()));

    another_folder_is_compared(home.path(), &acme_hash, &admin);
    assert_eq!(diff().code, 0);
}

/// What a gateway would do with another folder is said without a change of its own.
fn another_folder_is_compared(home: &Path, acme: &str, admin: &str) {
    let other = tempfile::tempdir().unwrap();
    let (config, folder) = (other.path().join("meridian.toml"), other.path().join("tenants.d"));
    fs::create_dir(&folder).unwrap();
    fs::copy(home.join("meridian.toml"), &config).unwrap();
    fs::write(folder.join("acme.yaml"), acme.replace("instances: 3", "instances: 5")).unwrap();
    let changes = finish(meridian(&["check", "--config", config.to_str().unwrap(), "--diff", "--admin", admin]));
    let [before, after] = [&home.join("tenants.d"), &folder].map(|folder| folder.join("acme.yaml"));
    let place = format!("~ tenants/acme.source: {before:?} -> {after:?}");
    let told: Vec<&str> = changes.stdout.lines().collect();
    assert_eq!((changes.code, told), (10, vec!["~ tenants/acme.quota.instances: 3 -> 5", &place]), "{changes:?}");
}
