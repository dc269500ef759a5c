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
