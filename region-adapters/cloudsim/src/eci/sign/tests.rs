//! The vendor's own signing code made these vectors; every byte it covers must matter.

use http::header::{HeaderName, HeaderValue};
use serde_json::Value;

use super::*;

const VECTORS: &str = include_str!("../../../tests/vendor/signature-vectors.json");
const CLOCK: &str = "2026-01-01T00:00:00Z";
const KEY: &str = "AKIDEXAMPLE";
const SECRET: &str = "SECRETKEYEXAMPLE0123456789";
const POLICY: Policy = Policy { clock_window_ms: 900_000 };

/// An owned request that can be damaged.
#[derive(Clone, Debug)]
struct Sample {
    name: String,
    method: String,
    query: String,
    headers: HeaderMap,
    body: Vec<u8>,
}

fn samples() -> Vec<Sample> {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    let vectors = vectors["vectors"].as_array().unwrap().iter().filter(|one| one["vendor"] == "alibaba");
    vectors
        .map(|vector| {
            let request = &vector["request"];
            let mut headers = HeaderMap::new();
            for (name, value) in request["headers"].as_object().unwrap() {
                let name: HeaderName = name.to_ascii_lowercase().parse().unwrap();
                headers.insert(name, HeaderValue::from_str(value.as_str().unwrap()).unwrap());
            }
            Sample {
                name: vector["name"].as_str().unwrap().to_owned(),
                method: request["method"].as_str().unwrap().to_owned(),
                query: request["query_on_wire"].as_str().unwrap().to_owned(),
                headers,
                body: request["body"].as_str().unwrap_or_default().as_bytes().to_vec(),
            }
        })
        .collect()
}

impl Sample {
    fn verify_at(&self, secret: &str, now_ms: i64) -> Result<Verified, EciError> {
        let inbound = Inbound { method: &self.method, query: &self.query, headers: &self.headers, body: &self.body };
        let key_of = |key_id: &str| (key_id == KEY).then(|| Key { secret: secret.to_owned(), security_token: None });
        verify(&parse(inbound)?, &POLICY, key_of, now_ms)
    }

    fn verify(&self) -> Result<Verified, EciError> {
        self.verify_at(SECRET, time::parse(CLOCK).unwrap())
    }

    fn is_v3(&self) -> bool {
        self.headers.contains_key("authorization")
    }

    fn with_header(&self, name: &str, value: &str) -> Self {
        let mut changed = self.clone();
        let name: HeaderName = name.parse().unwrap();
        changed.headers.insert(name, HeaderValue::from_str(value).unwrap());
        changed
    }

    fn without_header(&self, name: &str) -> Self {
        let mut changed = self.clone();
        changed.headers.remove(name);
        changed
    }
}

fn code(sample: &Sample) -> String {
    sample.verify().unwrap_err().code.into_owned()
}

fn v3() -> Sample {
    samples().into_iter().find(|sample| sample.name == "v3-create-nested-nonascii").unwrap()
}

fn v1() -> Sample {
    samples().into_iter().find(|sample| sample.name == "rpcv1-legacy-sdk-create").unwrap()
}

#[test]
fn every_vector_verifies() {
    let all = samples();
    assert_eq!(all.len(), 14);
    for sample in &all {
        let verified = sample.verify().unwrap_or_else(|error| panic!("{}: {error:?}", sample.name));
        assert_eq!(verified.key_id, KEY, "{}", sample.name);
    }
}

/// Each byte swapped for another of its kind, so that the text still decodes.
fn changed_bytes(text: &str) -> impl Iterator<Item = String> {
    text.char_indices().filter(|(_, c)| c.is_ascii_alphanumeric()).map(move |(at, c)| {
        let other = match c {
            '0' => '1',
            '1'..='9' => '0',
            'a' => 'b',
            'A' => 'B',
            c if c.is_ascii_lowercase() => 'a',
            _ => 'A',
        };
        let mut changed = text.to_owned();
        changed.replace_range(at..=at, &other.to_string());
        changed
    })
}

#[test]
fn each_changed_byte_of_the_query_is_refused() {
    let mut tried = 0;
    for sample in samples() {
        for query in changed_bytes(&sample.query) {
            // %2F and %2f decode to the same byte, and so may two changed escapes: then nothing was changed.
            if query::decode_pairs(&query).ok() == query::decode_pairs(&sample.query).ok() {
                continue;
            }
            let changed = Sample { query, ..sample.clone() };
            assert!(changed.verify().is_err(), "{}: {}", sample.name, changed.query);
            tried += 1;
        }
    }
    assert!(tried > 5_000, "{tried}");
}

#[test]
fn each_changed_byte_of_a_signed_header_is_refused() {
    for sample in samples().iter().filter(|sample| sample.is_v3()) {
        let all = sample.headers.clone();
        for (name, value) in &all {
            for value in changed_bytes(value.to_str().unwrap()) {
                assert!(
                    sample.with_header(name.as_str(), &value).verify().is_err(),
                    "{}: {name}: {value}",
                    sample.name
                );
            }
        }
    }
}

#[test]
fn method_body_and_secret_are_covered() {
    for sample in samples() {
        let method = if sample.method == "GET" { "POST" } else { "GET" };
        let changed = Sample { method: method.to_owned(), ..sample.clone() };
        assert_eq!(code(&changed), "SignatureDoesNotMatch", "{}", sample.name);
        let error = sample.verify_at("WRONG", time::parse(CLOCK).unwrap()).unwrap_err();
        assert_eq!((error.code.as_ref(), error.status), ("SignatureDoesNotMatch", 400));
        let form = sample.with_header("content-type", "application/x-www-form-urlencoded");
        let changed = Sample { body: b"X=1".to_vec(), ..form };
        assert!(changed.verify().is_err(), "{}", sample.name);
    }
}

#[test]
fn the_mismatch_names_the_string_to_sign_after_the_first_colon() {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    for sample in samples() {
        let vector = vectors["vectors"].as_array().unwrap().iter().find(|v| v["name"] == sample.name).unwrap();
        let error = sample.verify_at("WRONG", time::parse(CLOCK).unwrap()).unwrap_err();
        let (before, string_to_sign) = error.message.split_once(':').unwrap();
        assert!(before.ends_with("server string to sign is"));
        assert_eq!(string_to_sign, vector["string_to_sign"].as_str().unwrap(), "{}", sample.name);
    }
}

#[test]
fn the_clock_may_be_fifteen_minutes_off_either_way() {
    let at = time::parse(CLOCK).unwrap();
    for sample in [v3(), v1()] {
        for off in [-900_000, 900_000] {
            assert!(sample.verify_at(SECRET, at + off).is_ok());
        }
        for off in [-901_000, 901_000] {
            let error = sample.verify_at(SECRET, at + off).unwrap_err();
            assert_eq!((error.code.as_ref(), error.status), ("InvalidTimeStamp.Expired", 400));
        }
    }
    assert_eq!(code(&v3().with_header("x-acs-date", "today")), "InvalidTimeStamp.Format");
}

#[test]
fn what_must_be_there_and_signed() {
    let check = |sample: Sample, expected: &str| assert_eq!(code(&sample), expected, "{:?}", sample.headers);
    let authorization = v3().headers["authorization"].to_str().unwrap().to_owned();
    let edited = |from: &str, to: &str| v3().with_header("authorization", &authorization.replace(from, to));
    check(edited("host;", ""), "IncompleteSignature");
    check(edited("x-acs-action;", ""), "IncompleteSignature");
    check(edited("accept;host", "accept;cookie;host"), "IncompleteSignature");
    check(edited("Signature=", "Sign="), "IncompleteSignature");
    check(edited(",Signature=", ",Credential=x,Signature="), "IncompleteSignature");
    check(edited("ACS3-HMAC-SHA256 ", "ACS3-HMAC-SM3 "), "InvalidSignatureMethod");
    check(edited("Credential=AKIDEXAMPLE", "Credential=NOBODY"), "InvalidAccessKeyId.NotFound");
    check(v3().with_header("x-acs-extra", "unsigned"), "IncompleteSignature");
    check(v3().with_header("x-acs-version", "2018-08-09"), "NoSuchVersion");
    check(v3().with_header("x-acs-accesskey-id", "other"), "IncompleteSignature");
    for name in ["x-acs-action", "x-acs-version", "x-acs-date", "x-acs-signature-nonce", "x-acs-content-sha256"] {
        check(v3().without_header(name), "MissingParameter");
    }
    let mut twice = v3();
    twice.headers.append("x-acs-action", HeaderValue::from_static("DeleteContainerGroup"));
    check(twice, "IncompleteSignature");
    for name in ["AccessKeyId", "Action", "Version", "Timestamp", "SignatureNonce", "Signature", "SignatureMethod"] {
        let query = v1().query.replace(&format!("&{name}="), "&Other=");
        check(Sample { query, ..v1() }, "MissingParameter");
    }
}

#[test]
fn v1_takes_the_action_from_the_signed_parameter() {
    let sample = v1().with_header("x-acs-action", "DeleteContainerGroup");
    assert_eq!(sample.verify().unwrap().action, "CreateContainerGroup");
}

#[test]
fn a_body_must_have_its_type_signed() {
    let with_body = Sample { body: b"X=1".to_vec(), ..v3() };
    assert_eq!(code(&with_body), "InvalidParameter");
    assert_eq!(
        code(&with_body.with_header("content-type", "application/x-www-form-urlencoded")),
        "IncompleteSignature"
    );
}

#[test]
fn a_fixed_security_token_must_be_sent() {
    let sts = samples().into_iter().find(|sample| sample.name == "v3-sts-token").unwrap();
    let check = |sample: &Sample, token: &str| {
        let inbound =
            Inbound { method: &sample.method, query: &sample.query, headers: &sample.headers, body: &sample.body };
        let key_of = |_: &str| Some(Key { secret: SECRET.to_owned(), security_token: Some(token.to_owned()) });
        verify(&parse(inbound).unwrap(), &POLICY, key_of, time::parse(CLOCK).unwrap())
    };
    assert!(check(&sts, "STSTOKENEXAMPLE").is_ok());
    assert!(check(&sts, "other").is_err());
    assert!(check(&v1(), "STSTOKENEXAMPLE").is_err());
}
