//! No secret leaves the process (R13): a canary in every place that holds one, and a search through all that comes out, of a
//! gateway that logs as much as it can.

use std::fs;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use super::{
    super::harness::{control, wait_until},
    place::{DEPLOYMENT, ENV, Place, REDIS, REGISTRY, SEAL, files},
};

/// A key of the right form that nobody has.
const WRONG_KEY: &str = "mrd_test_acme_canarywrongapikeycanarywrongapikeycanary";
/// A token that nobody signed.
const WRONG_TOKEN: &str = "eyJhbGciOiJFUzI1NiJ9.canarywrongtoken0a1b2c.canarywrongsignature";
/// Of the key that the vendor does not know (`place::Key::unknown`).
const UNKNOWN: &str = "canary-unknown-vendor-secret-55ab";

/// Every form in which a secret could come out.
fn forms(secret: &str) -> [Vec<u8>; 4] {
    let hex: String = secret.bytes().map(|b| format!("{b:02x}")).collect();
    // Without its last characters, which depend on what follows.
    let base64 = BASE64_STANDARD.encode(secret);
    let base64 = &base64.trim_end_matches('=')[..secret.len() / 3 * 4];
    let bytes = format!("{:?}", secret.as_bytes());
    [secret, &hex, base64, bytes.trim_matches(['[', ']'])].map(|form| form.as_bytes().to_vec())
}

/// Something that came out, and where.
type Said = (String, Vec<u8>);

/// The secrets that are found in what was said.
fn leaks(secrets: &[(String, String)], said: &[Said]) -> Vec<String> {
    let mut leaks = Vec::new();
    for (name, secret) in secrets {
        for form in forms(secret) {
            for (place, bytes) in said {
                if let Some(at) = bytes.windows(form.len()).position(|window| window == form) {
                    let around = &bytes[at.saturating_sub(160)..(at + form.len() + 40).min(bytes.len())];
                    leaks.push(format!("{name} in {place}: ...{}...", String::from_utf8_lossy(around)));
                }
            }
        }
    }
    leaks
}

/// Has instances made, refused and lost in every way that the clouds know, and keeps what is answered.
fn go_wrong(place: &Place) -> Vec<Said> {
    let mut said = Vec::new();
    let mut tell = |what: String, answer: &Value| said.push((what, answer.to_string().into_bytes()));
    let caller = place.caller();
    for (kind, more) in [
        ("unauthenticated", json!({})),
        ("serverError", json!({ "when": "before", "status": 500, "html": true })),
        ("serverError", json!({ "when": "after", "status": 502 })),
        ("replyLost", json!({})),
        ("throttle", json!({})),
    ] {
        let mut fault = json!({ "kind": kind, "times": 3 });
        fault.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        control(&place.control(), "POST", "/v1/faults", &fault.to_string());
        let name = format!("{}-{}", kind.to_lowercase(), more["when"].as_str().unwrap_or("always"));
        let (status, answer) = caller.create(&name, "x-request-timeout-ms: 3000\r\n", None);
        // An instance is its owner's to read, with all that it was asked for.
        if status != 201 {
            tell(format!("create under {kind}"), &answer);
        }
        control(&place.control(), "DELETE", "/v1/faults", "");
    }
    for bad in [
        json!({ "name": "bad", "spec": { "containers": [
            { "name": "app", "image": "nginx", "env": [{ "name": 5, "value": ENV }, { "nmae": "A", "value": ENV }] },
        ] } }),
        json!({ "name": "bad", "spec": { "containers": [
            { "name": "app", "image": "nginx", "env": [{ "name": "A", "value": [ENV] }, { "name": "", "value": ENV }] },
        ] } }),
    ] {
        let (status, answer) = caller.ask("POST", "/v1/tenants/acme/instances", "", &bad);
        assert_eq!(status, 400, "{answer}");
        tell("bad create".to_owned(), &answer);
    }
    for path in ["/v1/tenants/acme/audit", "/v1/regions", "/v1/adapters", "/v1/tenants/acme/instances/well:explain"] {
        let (status, answer) = caller.ask("GET", path, "", &Value::Null);
        assert_eq!(status, 200, "{path} {answer}");
        tell(path.to_owned(), &answer);
    }
    for wrong in [WRONG_KEY, WRONG_TOKEN] {
        let text = place.api_text("/v1/tenants/acme/instances", &format!("authorization: Bearer {wrong}\r\n"));
        assert!(text.starts_with("HTTP/1.1 401 "), "{text}");
        said.push(("stranger".to_owned(), text.into_bytes()));
    }
    said
}

/// Has vendor keys refused, missing and replaced.
fn rotate(place: &Place) {
    let (regions, new) = (place.regions(), place.new_keys("new"));
    let refused = |n: usize| place.metric("meridian_credentials_total", &regions[n], "refused");
    place.write(&regions[0], &new[0].unknown());
    place.write(&regions[2], &format!("no JSON: {}", new[2].secret));
    place.remove(&regions[3]);
    place.signal("HUP");
    wait_until("new keys are refused", || [0, 2, 3].into_iter().all(|n| refused(n) > 0));
    place.write_keys(&new);
    place.signal("HUP");
    let replaced = |region: &String| place.metric("meridian_credentials_total", region, "replaced") == 1;
    wait_until("new keys are in use", || regions.iter().all(replaced));
}

fn secrets(place: &Place) -> Vec<(String, String)> {
    let named = |(name, secret): (&str, &str)| (name.to_owned(), secret.to_owned());
    let caller = place.caller();
    // The key without its check sum.
    let own = caller.key.rsplit('_').next().unwrap();
    let of_vendor = place
        .keys()
        .into_iter()
        .enumerate()
        .flat_map(|(n, key)| [(format!("vendor key {n}"), key.secret), (format!("id of vendor key {n}"), key.id)]);
    [
        ("registry password", REGISTRY),
        ("env value", ENV),
        ("deployment secret", DEPLOYMENT),
        ("ledger key", SEAL),
        ("Redis' password", REDIS),
        ("API key", &own[..own.len() - 7]),
        ("wrong API key", WRONG_KEY),
        ("wrong token", "canarywrongtoken0a1b2c"),
        ("unknown vendor key", UNKNOWN),
        ("new key at Tencent", "canary-new-tencent-demo"),
        ("new key at Alibaba", "canary-new-alibaba-demo"),
    ]
    .map(named)
    .into_iter()
    .chain(of_vendor)
    .collect()
}

/// Lets a gateway meet all that it can meet, ends it, and gives all that came out of it.
fn said_by(mut place: Place) -> Vec<Said> {
    let (status, answer) = place.caller().create("well", "", None);
    assert_eq!(status, 201, "{answer}");
    let mut said = go_wrong(&place);
    rotate(&place);
    let (status, answer) = place.caller().create("after", "", Some(&place.regions()[0]));
    assert_eq!(status, 201, "{answer}");
    for path in ["/metrics", "/config", "/readyz?verbose", "/operations", "/orphans", "/directory", "/vendorBudgets"] {
        let text = place.admin_text(path);
        assert!(text.starts_with("HTTP/1.1 200 "), "{path}: {text}");
        said.push((path.to_owned(), text.into_bytes()));
    }
    #[cfg(target_os = "linux")]
    {
        let limits = fs::read_to_string(format!("/proc/{}/limits", place.pid())).unwrap();
        let core = limits.lines().find(|l| l.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().nth(5), Some("0"), "a core would hold them all: {core}");
    }
    let redis = place.redis.take();
    let dir = place.end();
    let mut written = Vec::new();
    files(dir.path(), &mut written);
    if let Some(redis) = &redis {
        files(&redis.data_folder(), &mut written);
    }
    // What the test itself wrote secrets into.
    written.retain(|path| path.extension().is_none_or(|e| e != "secret"));
    said.extend(written.iter().map(|path| (path.display().to_string(), fs::read(path).unwrap())));
    said
}

/// How much was said at places that end so.
fn len(said: &[Said], end: &str) -> usize {
    said.iter().filter(|(place, _)| place.ends_with(end)).map(|(_, bytes)| bytes.len()).max().unwrap_or_default()
}

#[test]
fn no_secret_comes_out_of_a_gateway_that_says_all_it_can() {
    let place = Place::start("trace");
    let secrets = secrets(&place);
    let said = said_by(place);
    let (log, ledger, audit) = (len(&said, "stderr"), len(&said, "ledger.redb"), len(&said, ".jsonl"));
    assert!(log > 100_000 && ledger > 4096 && audit > 1000, "all is looked through: {log} {ledger} {audit}");
    let leaks = leaks(&secrets, &said);
    assert!(leaks.is_empty(), "{} leaks\n{}", leaks.len(), leaks.join("\n"));
}

#[test]
fn nor_out_of_one_whose_ledger_is_in_redis() {
    let place = Place::shared("trace");
    let secrets = secrets(&place);
    let said = said_by(place);
    let (log, ledger, intents) = (len(&said, "stderr"), len(&said, ".incr.aof"), len(&said, "intents.log"));
    assert!(log > 100_000 && ledger > 4096 && intents > 0, "all is looked through: {log} {ledger} {intents}");
    let leaks = leaks(&secrets, &said);
    assert!(leaks.is_empty(), "{} leaks\n{}", leaks.len(), leaks.join("\n"));
}

#[test]
fn a_secret_that_comes_out_is_found_in_each_of_its_forms() {
    let secret = |text: &str| vec![("it".to_owned(), text.to_owned())];
    for text in ["canary-1", "canary-12", "canary-123"] {
        for form in forms(text) {
            let said = [b"before ", form.as_slice(), b" after"].concat();
            assert_eq!(leaks(&secret(text), &[("here".to_owned(), said)]).len(), 1, "{text} {form:?}");
        }
        let within = BASE64_STANDARD.encode(format!("{text} and more"));
        assert_eq!(leaks(&secret(text), &[("here".to_owned(), within.into_bytes())]).len(), 1, "{text}");
        assert!(leaks(&secret(text), &[("here".to_owned(), b"nothing of it".to_vec())]).is_empty());
    }
}
