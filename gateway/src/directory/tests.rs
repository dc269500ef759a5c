use meridian_model::time::Time;
use meridian_policies::access::{Permission, Role};
use secrecy::ExposeSecret as _;

use super::{keys::Denied, *};
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
    directory.set_files(tenants).unwrap()
}

fn directory(tenants: &str) -> Arc<Directory> {
    Directory::new(declared(tenants), Clock::from_fn(|| NOW), None)
}

fn identify(directory: &Directory, id: &str) -> Result<Arc<Caller>, Denied> {
    let key = minted(id);
    let snapshot = directory.load();
    snapshot.keys().identify(key.key.expose_secret(), NOW).map(|identity| Arc::clone(&identity.caller))
}

#[test]
fn a_key_says_whose_it_is_what_it_may_and_until_when() {
    let directory = directory(
        r#"[[tenants]]
        name = "acme"
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

#[test]
fn buckets_of_a_rate_that_stays_survive_a_change() {
    let with = |acme: u32, lab: u32| {
        format!(
            "[[tenants]]\nname = \"acme\"\nrate = {{ requestsPerMinute = {acme} }}\n\
             [[tenants]]\nname = \"lab\"\nrate = {{ requestsPerMinute = {lab} }}\n"
        )
    };
    let directory = directory("[platform]\n[[platform.keys]]\nkey all role = \"platform-admin\"\n");
    set(&directory, &with(10, 10));
    let limits = |name: &str| Arc::clone(&directory.load().tenant(&name.parse().unwrap()).unwrap().limits);
    let before = ["acme", "lab"].map(limits);
    set(&directory, &with(10, 20));
    let after = ["acme", "lab"].map(limits);
    assert!(Arc::ptr_eq(&before[0], &after[0]), "a tenant that did not change has the tokens it had");
    assert!(!Arc::ptr_eq(&before[1], &after[1]));
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
