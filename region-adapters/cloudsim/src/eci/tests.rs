//! The requests the vendor's SDKs really sent: they verify at their clock and mean what the program said.

use std::path::Path;

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use serde_json::Value;

use super::flatten::Schema;
use super::sign::{Inbound, Key, Policy, parse, verify};
use super::time;
use super::wire::{Group, read};

struct Raw {
    method: String,
    query: String,
    headers: HeaderMap,
    body: Vec<u8>,
}

fn raw(path: &Path) -> Raw {
    let bytes = std::fs::read(path).unwrap();
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let head = std::str::from_utf8(&bytes[..end]).unwrap();
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap().split(' ');
    let (method, target) = (first.next().unwrap(), first.next().unwrap());
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(':').unwrap();
        let name: HeaderName = name.to_ascii_lowercase().parse().unwrap();
        headers.append(name, HeaderValue::from_str(value.trim()).unwrap());
    }
    Raw {
        method: method.to_owned(),
        query: target.split_once('?').map(|(_, query)| query.to_owned()).unwrap_or_default(),
        headers,
        body: bytes[end + 4..].to_vec(),
    }
}

/// File, action, what the program gave the SDK, and what we read.
fn all() -> Vec<(String, String, Option<Value>, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vendor/wire");
    let manifest: Value = serde_json::from_slice(&std::fs::read(folder.join("manifest.json")).unwrap()).unwrap();
    let requests = manifest["requests"].as_array().unwrap().iter().filter(|one| one["vendor"] == "alibaba");
    let schema = Schema::load();
    requests
        .map(|one| {
            let text = |name: &str| one[name].as_str().unwrap().to_owned();
            let raw = raw(&folder.join(text("file")));
            let inbound = Inbound { method: &raw.method, query: &raw.query, headers: &raw.headers, body: &raw.body };
            let key_of =
                |id: &str| (id == text("secret_id")).then(|| Key { secret: text("secret_key"), security_token: None });
            let policy = Policy { clock_window_ms: 900_000 };
            let verified = verify(&parse(inbound).unwrap(), &policy, key_of, time::parse(&text("clock")).unwrap())
                .unwrap_or_else(|error| panic!("{}: {error:?}", text("file")));
            assert_eq!(verified.action, text("action"), "{}", text("file"));
            let methods = schema.methods(&verified.action).unwrap();
            assert!(methods.contains(&raw.method), "{}", text("file"));
            let params = schema
                .unflatten(&verified.action, &verified.params)
                .unwrap_or_else(|error| panic!("{}: {error:?}", text("file")));
            (text("file"), text("action"), one.get("params").cloned(), params)
        })
        .collect()
}

#[test]
fn every_captured_request_verifies_and_means_what_was_given() {
    let all = all();
    assert_eq!(all.len(), 30);
    assert_eq!(all.iter().filter(|(_, _, given, _)| given.is_some()).count(), 23);
    for (file, _, given, read) in all {
        if let Some(given) = given {
            assert_eq!(read, given, "{file}");
        }
    }
}

#[test]
fn every_captured_create_becomes_an_instance_spec() {
    let mut creates = 0;
    for (file, action, _, params) in all() {
        if action == "CreateContainerGroup" {
            let group: Group = read(&params).unwrap();
            let spec = group.into_spec().unwrap_or_else(|error| panic!("{file}: {error:?}"));
            assert!(!spec.containers.is_empty(), "{file}");
            creates += 1;
        }
    }
    assert_eq!(creates, 4);
}

#[test]
fn nothing_of_the_full_create_is_lost() {
    let all = all();
    let (_, _, _, params) = all.iter().find(|(file, ..)| file == "alibaba-eci-create.http").unwrap();
    let spec = read::<Group>(params).unwrap().into_spec().unwrap();
    assert_eq!(spec.subnet_ids, ["vsw-a0001", "vsw-b0001"]);
    assert!(!spec.subnets_random);
    assert_eq!((spec.cpu, spec.memory_gib, spec.ephemeral_gib), (Some(2.0), Some(4.0), Some(20)));
    assert_eq!(spec.tags[1], ("部门".to_owned(), "平台".to_owned()));
    assert_eq!(spec.spot.as_ref().unwrap().price_limit, Some(0.025));
    assert_eq!(spec.volumes.len(), 3);
    assert_eq!(spec.dns.as_ref().unwrap().nameservers, ["223.5.5.5"]);
    assert_eq!(spec.init_containers[0].name, "init");
    let app = &spec.containers[0];
    assert_eq!(app.env[0].value, "你好, café");
    assert_eq!(app.env[2].field_path.as_deref(), Some("status.podIP"));
    assert_eq!(app.security.as_ref().unwrap().add, ["NET_ADMIN"]);
    assert_eq!(app.mounts.len(), 2);
    assert!(app.liveness.is_some() && app.readiness.is_some());
    // Not the core's business, but kept.
    assert_eq!(spec.extra["AutoMatchImageCache"], Value::Bool(true));
}
