use std::fs;

use super::*;
use crate::{config::Config, directory::Declared};

const CONFIG: &str = r#"
[deployment]
id = "test"
secret = "0123456789abcdef0123456789abcdef"
[ledger]
path = "x"
[[backends]]
id = "gz"
adapter = "tencent-eksci"
region = "ap-guangzhou"
[[tenants]]
name = "acme"
keys = [{ id = "k1", sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" }]
[[networkProfiles]]
name = "default"
[[networkProfiles.backends]]
backend = "gz"
vpcId = "vpc-1"
securityGroupIds = ["sg-1"]
subnets = { "ap-guangzhou-3" = "subnet-1" }
"#;

fn config() -> Config {
    Config::parse(CONFIG, "test.toml", &|_| Vec::new()).unwrap_or_else(|m| panic!("{m}"))
}

fn parsed(files: &[(&str, &str)]) -> Result<Declared, Broken> {
    let files = files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    let texts = Texts { files, look: Look::default() };
    Declared::of(&config()).with_files(&parse(&texts, &Known::of(&config()))?)
}

const LAB: &str = "apiVersion: meridian.dev/v1
kind: Tenant
metadata:
  name: lab
  labels: {team: research}
spec:
  quota: {cpu: '8', instances: 4}
  rate: {requestsPerMinute: 1200}
  defaultNetworkProfile: default
  keys:
  - {id: lab-1, sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855, role: admin, expires: 2027-01-01T00:00:00Z}
";

#[test]
fn a_tenant_is_declared_in_yaml_toml_and_json() {
    let toml = "apiVersion = \"meridian.dev/v1\"\nkind = \"Tenant\"\n[metadata]\nname = \"ops\"\n[spec]\nquota = { instances = 2 }\n\
                [[spec.keys]]\nid = \"ops-1\"\nexpires = 2027-01-01T00:00:00Z\n\
                sha256 = \"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"\n";
    let json = r#"{"apiVersion": "meridian.dev/v1", "kind": "Tenant", "metadata": {"name": "bare"}}"#;
    let declared = parsed(&[("a.yaml", LAB), ("b.toml", toml), ("c.json", json)]).unwrap();
    let names: Vec<&str> = declared.tenants.keys().map(AsRef::as_ref).collect();
    assert_eq!(names, ["acme", "bare", "lab", "ops"]);
    let (lab, source) = &declared.tenants["lab"];
    assert_eq!((lab.quota.instances, lab.rate.requests_per_minute, lab.rate.burst), (Some(4), 1200, 100));
    assert_eq!((source.to_string().as_str(), lab.labels["team"].as_str()), ("a.yaml", "research"));
    assert_eq!(lab.keys[0].expires.unwrap().to_string(), "2027-01-01T00:00:00.000Z");
    assert_eq!(declared.tenants["ops"].0.keys[0].expires, lab.keys[0].expires);
    assert_eq!(declared.tenants["acme"].1, Source::Config);
}

#[test]
fn every_fault_of_every_file_has_its_place_and_cure() {
    let broken = parsed(&[
        ("a.yaml", &LAB.replace("quota:", "qouta:").replace("labels:", "lables:")),
        ("b.yaml", &LAB.replace("lab-1", "LAB 1")),
        (
            "c.yaml",
            &LAB.replace("role: admin", "role: platform-admin").replace("1200", "0").replace(": default", ": defalt"),
        ),
        ("d.yaml", "kind: Tenant\nspec: [\n"),
        ("e.toml", "apiVersion = \"meridian.dev/v1\"\nkind = \"Tennant\"\n"),
        ("f.yaml", "apiVersion: meridian.dev/v1\nkind: Tenant\nmetadata: {}\n"),
        ("g.yaml", &LAB.replace("cpu: '8'", "cpu: lots")),
    ]);
    insta::assert_snapshot!(broken.unwrap_err());
}

#[test]
fn nothing_is_declared_twice() {
    let other = LAB.replace("name: lab", "name: other");
    let broken = parsed(&[
        ("a.yaml", LAB),
        ("b.yaml", LAB),
        ("c.yaml", &other),
        ("d.yaml", &LAB.replace("name: lab", "name: acme").replace("lab-1", "k1")),
    ]);
    insta::assert_snapshot!(broken.unwrap_err());
}

#[test]
fn a_folder_is_read_in_the_order_of_names_and_without_what_is_none_of_ours() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("b.yaml", LAB);
    write("a.toml", "x = 1");
    for ignored in ["README.md", ".c.yaml", "b.yaml~"] {
        write(ignored, "{{{");
    }
    let texts = read(folder.path()).unwrap().unwrap();
    let names: Vec<&str> = texts.files.iter().map(|(name, _)| name.rsplit('/').next().unwrap()).collect();
    assert_eq!(names, ["a.toml", "b.yaml"]);
    assert_eq!(look(folder.path()).unwrap(), texts.look);
    write("b.yaml", &LAB.replace("lab", "bal"));
    assert_ne!(read(folder.path()).unwrap().unwrap().digest(), texts.digest());
    let missing = read(&folder.path().join("none")).unwrap_err();
    assert!(missing.to_string().contains("cannot be read"), "{missing}");
}

#[test]
fn what_changes_while_it_is_read_is_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lab.yaml");
    fs::write(&file, LAB).unwrap();
    let seen = || look(folder.path()).unwrap();
    let (before, at_rest) = (seen(), read(folder.path()).unwrap().unwrap());
    assert_eq!(at_rest.look, before);
    for change in [(|file: &Path| fs::write(file, "").unwrap()) as fn(&Path), |file| {
        fs::rename(file, file.with_extension("yml")).unwrap()
    }] {
        let before = seen();
        change(&file);
        assert_eq!(read_as(folder.path(), before).unwrap(), None);
    }
}

/// The document of a policy with these lines in its spec.
fn policy(spec: &str) -> String {
    format!("apiVersion: meridian.dev/v1\nkind: Policy\nmetadata: {{name: p}}\nspec:\n{spec}")
}

#[test]
fn tenants_and_policies_stand_in_one_folder() {
    let both = format!("{LAB}---\n{}", policy("  scope: {tenant: lab}\n  mutations: {labels: {by: p}}\n"));
    let toml = "apiVersion = \"meridian.dev/v1\"\nkind = \"Policy\"\n[metadata]\nname = \"t\"\n[spec]\nscope = \"platform\"\n\
                [[spec.rules]]\nid = \"r\"\nexpression = '''\nobject.name != 'x' ||\nobject.nam != 'y' '''\n";
    let whole = toml.replace("nam ", "name ");
    let declared = parsed(&[("a.yaml", &both), ("b.toml", &whole)]).unwrap();
    assert_eq!(declared.policies.keys().map(|p| &**p).collect::<Vec<_>>(), ["policies/t", "tenants/lab/policies/p"]);
    assert_eq!(declared.policies["tenants/lab/policies/p"].1.to_string(), "a.yaml");
    assert_eq!(declared.rules().policies().count(), 2);
    let broken = parsed(&[("a.yaml", LAB), ("b.toml", toml)]).unwrap_err().to_string();
    assert!(broken.starts_with("b.toml:11:8: spec/rules/0/expression: object has no field `nam`"), "{broken}");
}

#[test]
fn a_mistake_in_a_policy_is_told_where_the_file_has_it() {
    let held = "expression: object.name != ''";
    let rule = |lines: &str| policy(&format!("  scope: platform\n  rules:\n  - id: r\n{lines}"));
    let dear = "object.spec.containers.all(c, c.env.all(e, e.name != 'A' && e.name != 'B'))";
    let many: String = (0..20).map(|n| format!("  - id: r{n}\n    expression: {dear}\n")).collect();
    let projects = format!("{LAB}  projects: {{nodes: [{{name: shop}}]}}\n");
    let cases = [
        ("misspelt key", rule(&format!("    {held}\n    mesage: why\n"))),
        ("rule without expression", rule("    message: why\n")),
        ("unknown mode", rule(&format!("    {held}\n    mode: enforced\n"))),
        ("two mistakes in one expression", rule("    expression: object.nam == '' || object.naem == ''\n")),
        ("in quotes", rule("    expression: \"object.labels.exists(k, k == \\\"a\\\") || object.nam == 'x'\"\n")),
        ("folded over lines", rule("    expression: >-\n      object.name != 'x' &&\n      object.nam != 'y'\n")),
        ("as a block", rule("    expression: |\n      object.name != 'x' &&\n      object.nam != 'y'\n")),
        ("pointer that leads nowhere", rule(&format!("    {held}\n    pointer: /spec/container/0\n"))),
        ("id that is no name", rule(&format!("    {held}\n")).replace("id: r\n", "id: No Tags\n")),
        ("unknown scope", policy("  scope: everybody\n  defaults: {strategy: spread}\n")),
        ("no scope", policy("  defaults: {strategy: spread}\n")),
        ("misspelt section", policy("  scope: platform\n  mutation: {labels: {a: b}}\n")),
        ("params of several types", policy("  scope: platform\n  params:\n    list: [1, two]\n")),
        ("label that is not valid", policy("  scope: platform\n  defaults:\n    labels: {\"team name\": core}\n")),
        ("name that is none", policy("  scope: platform\n").replace("{name: p}", "{name: A B}")),
        ("two of one name", format!("{0}---\n{0}", policy("  scope: platform\n  defaults: {strategy: spread}\n"))),
        ("all together too costly", policy(&format!("  scope: platform\n  rules:\n{many}"))),
        (
            "unknown project",
            format!(
                "{projects}---\n{}",
                policy("  scope: {tenant: lab, project: shpo}\n  defaults: {strategy: spread}\n")
            ),
        ),
    ];
    let mut shown = String::new();
    for (name, text) in cases {
        let broken = parsed(&[("p.yaml", &text)]).expect_err(name);
        shown += &format!("## {name}\n{broken}\n\n");
    }
    insta::assert_snapshot!(shown);
}
