//! Tenants, keys and policies made with the command line, against a gateway of its own.

use std::fs;

use serde_json::Value;

use super::harness::{Background, Ran, finish, meridian};

const CONFIG: &str = r#"
[deployment]
id = "test"
secret = "0123456789abcdef0123456789abcdef"
[server]
listen = "127.0.0.1:0"
adminListen = "127.0.0.1:0"
[ledger]
path = "LEDGER"
[platform]
keys = [{ id = "root", sha256 = "HASH", role = "platform-admin" }]
[[tenants]]
name = "lab"
[[backends]]
id = "gz"
adapter = "tencent-eksci"
region = "ap-guangzhou"
settings = { endpoint = "http://127.0.0.1:1", secretId = "id", secretKey = "key" }
"#;

/// A gateway and the key of whoever looks after it.
struct World {
    gateway: Background,
    root: String,
    folder: tempfile::TempDir,
}

impl World {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let minted = finish(meridian(&["auth", "new-key", "--id", "root", "-o", "json"])).json();
        let text = |name: &str| minted[name].as_str().unwrap().to_owned();
        let ledger = folder.path().join("ledger.redb").display().to_string();
        let config = folder.path().join("meridian.toml");
        fs::write(&config, CONFIG.replace("LEDGER", &ledger).replace("HASH", &text("sha256"))).unwrap();
        let gateway = Background::start(&["serve", "--config", config.to_str().unwrap()]);
        Self { gateway, root: text("apiKey"), folder }
    }

    fn run(&self, key: &str, args: &[&str]) -> Ran {
        let mut command = meridian(args);
        command.env("MERIDIAN_SERVER", self.gateway.ready["gateway"].as_str().unwrap()).env("MERIDIAN_TOKEN", key);
        finish(command)
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// Makes a key; its id and its secret.
    fn key(&self, by: &str, args: &[&str]) -> (String, String) {
        let made = self.run(by, &[&["auth", "create-key", "-o", "json"], args].concat()).json();
        let text = |name: &str| made[name].as_str().unwrap().to_owned();
        (text("id"), text("key"))
    }
}

fn tenant(name: &str, spec: &str) -> String {
    format!("apiVersion: meridian.dev/v1\nkind: Tenant\nmetadata:\n  name: {name}\nspec:\n  {spec}\n")
}

fn policy(expression: &str) -> String {
    format!(
        "apiVersion: meridian.dev/v1\nkind: Policy\nmetadata:\n  name: names\nspec:\n  scope: {{tenant: acme}}\n  rules:\n  - id: named\n    \
         expression: {expression}\n"
    )
}

#[test]
fn tenants_keys_and_policies_are_made_changed_and_refused() {
    let world = World::start();
    let root = world.root.clone();
    let who = world.run(&root, &["auth", "whoami"]).ok();
    assert!(who.starts_with("TENANT     -\nPRINCIPAL  key:root\nROLE       platform-admin\n"), "{who}");

    // A tenant: made, changed, refused with the place of the mistake, refused where a file has it.
    let apply = |key: &str, name: &str, text: &str| world.run(key, &["apply", "-f", &world.file(name, text)]);
    assert_eq!(apply(&root, "acme.yaml", &tenant("acme", "quota: {instances: 3}")).ok(), "tenant/acme created\n");
    assert_eq!(apply(&root, "acme.yaml", &tenant("acme", "quota: {instances: 5}")).ok(), "tenant/acme configured\n");
    let shown = world.run(&root, &["get", "tenants", "acme", "-o", "json"]).json();
    assert_eq!(shown["spec"]["quota"]["instances"], 5);
    let wrong = apply(&root, "wrong.yaml", &tenant("acme", "regions: [ap-guangzou]"));
    assert_eq!(wrong.code, 1, "{wrong:?}");
    assert!(
        wrong.stderr.contains("wrong.yaml:6:13 ") && wrong.stderr.contains("did you mean `ap-guangzhou`?"),
        "{wrong:?}"
    );
    let declared = apply(&root, "lab.yaml", &tenant("lab", "quota: {instances: 1}"));
    assert_eq!(declared.code, 6, "{declared:?}");
    assert!(declared.stderr.contains("declared in the configuration: change it there"), "{declared:?}");

    // A key: made, used, not handed out by who has it not, given another secret, ended.
    let (id, admin) = world.key(&root, &["--tenant", "acme", "--role", "admin", "--display-name", "of acme"]);
    let me = world.run(&admin, &["auth", "whoami", "-o", "json"]).json();
    assert_eq!(
        (&me["tenant"], &me["role"], &me["principal"]),
        (&"acme".into(), &"admin".into(), &Value::from(format!("key:{id}")))
    );
    let (_, viewer) = world.key(&admin, &["--role", "viewer", "--ttl", "1h"]);
    let denied = world.run(&viewer, &["auth", "create-key"]);
    assert!(denied.code == 4 && denied.stderr.contains("keys.write"), "{denied:?}");
    let listed = world.run(&admin, &["get", "keys"]).ok();
    assert!(listed.contains(&id) && !listed.contains(&admin), "{listed}");
    let rotated = world.run(&root, &["auth", "rotate-key", &id, "--tenant", "acme", "--grace", "0s", "-o", "name"]);
    let second = rotated.ok().trim().to_owned();
    assert_eq!(world.run(&admin, &["auth", "whoami"]).code, 4, "the former secret opens nothing");
    assert!(world.run(&second, &["auth", "whoami"]).ok().contains("acme"));
    let refused = apply(&second, "own.yaml", &tenant("acme", "quota: {instances: 100}"));
    assert!(refused.code == 4 && refused.stderr.contains("tenants.write"), "{refused:?}");

    // A policy of the tenant's own administrator.
    assert_eq!(apply(&second, "p.yaml", &policy("object.name != 'web'")).ok(), "policy/names created\n");
    let dry = finish({
        let file = world.file("p.yaml", &policy("object.name != 'job'"));
        let mut command = meridian(&["apply", "--dry-run", "-f", &file]);
        command.env("MERIDIAN_SERVER", world.gateway.ready["gateway"].as_str().unwrap()).env("MERIDIAN_TOKEN", &second);
        command
    });
    assert_eq!(dry.ok(), "policy/names would be configured (dry run)\n");
    assert_eq!(apply(&second, "p.yaml", &policy("object.name != 'job'")).ok(), "policy/names configured\n");
    let wrong = apply(&second, "p.yaml", &policy("object.nme != 'job'"));
    assert_eq!(wrong.code, 1, "{wrong:?}");
    assert!(wrong.stderr.contains("p.yaml:9:24 ") && wrong.stderr.contains("did you mean `name`?"), "{wrong:?}");
    let listed = world.run(&second, &["get", "policies"]).ok();
    assert!(listed.starts_with("NAME ") && listed.contains("names  -        1      the API"), "{listed}");
    let shown = world.run(&second, &["get", "pol/names", "-o", "json"]).json();
    assert_eq!(
        (&shown["generation"], &shown["spec"]["rules"][0]["expression"]),
        (&2.into(), &"object.name != 'job'".into())
    );
    assert_eq!(world.run(&root, &["get", "policies", "-o", "name"]).ok(), "", "the platform has none");
    assert!(apply(&viewer, "p.yaml", &policy("object.name != 'x'")).code == 4);

    a_policy_goes(&world, &second, &viewer);

    let ended = world.run(&second, &["auth", "revoke-key", &id]).ok();
    assert_eq!(ended, format!("key/{id} opens nothing any more\n"));
    assert_eq!(world.run(&second, &["auth", "whoami"]).code, 4);
    assert_eq!(world.run(&root, &["auth", "revoke-key", &id, "--tenant", "acme"]).code, 3);
}

/// It goes only when somebody said so who may, and once.
fn a_policy_goes(world: &World, admin: &str, viewer: &str) {
    let delete = |key: &str, more: &[&str]| world.run(key, &[&["policy", "delete", "names"], more].concat());
    let unasked = delete(admin, &[]);
    assert!(unasked.code == 2 && unasked.stderr.contains("tenants/acme/policies/names"), "{unasked:?}");
    let denied = delete(viewer, &["--yes"]);
    assert!(denied.code == 4 && denied.stderr.contains("policies.write"), "{denied:?}");
    assert_eq!(delete(admin, &["--dry-run"]).ok(), "policy/names would be deleted (dry run)\n");
    assert_eq!(delete(&world.root, &["--yes"]).code, 3, "the platform has none of the name");
    assert_eq!(delete(admin, &["--yes"]).ok(), "policy/names deleted\n");
    assert_eq!(world.run(admin, &["get", "policies", "-o", "name"]).ok(), "");
    assert_eq!(delete(admin, &["--yes"]).code, 3);
    assert_eq!(delete(admin, &["--yes", "--ignore-not-found"]).ok(), "policy/names not found\n");
}
