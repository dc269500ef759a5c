use jsonwebtoken::{EncodingKey, Header, encode};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::identity::signer::Signer;

const NOW: i64 = 1_767_225_600;
const ISSUER: &str = "https://issuer.example";

fn set(keys: &[Value]) -> KeySet {
    KeySet::parse(&serde_json::to_vec(&json!({ "keys": keys })).unwrap()).unwrap()
}

fn good() -> Value {
    json!({"iss": ISSUER, "aud": "meridian", "sub": "u1", "iat": NOW - 10, "nbf": NOW - 10, "exp": NOW + 600})
}

fn with(changes: &Value) -> Value {
    let mut claims = good();
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    claims
}

fn check(token: &str, keys: &KeySet) -> Result<Verified, Fault> {
    let expected = Expected {
        issuer: ISSUER,
        audiences: &["meridian".to_owned(), "meridian-eu".to_owned()],
        algorithms: &[Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA],
        leeway: Duration::from_secs(30),
        lifetime_max: Duration::from_secs(3600),
    };
    verify(token, &expected, keys, Time::from_unix_ms(NOW * 1000))
}

#[test]
fn a_good_token_of_every_kind_of_key_is_believed() {
    for signer in [Signer::ec("e"), Signer::ed("d"), Signer::rsa("r")] {
        let keys = set(&[signer.jwk()]);
        let verified = check(&signer.sign(&good()), &keys).unwrap();
        assert_eq!(verified.claims["sub"], "u1", "{:?}", signer.algorithm);
        assert_eq!(verified.until, Time::from_unix_ms((NOW + 630) * 1000));
    }
}

#[test]
fn every_claim_is_checked_against_the_callers_clock() {
    let signer = Signer::ec("e");
    let keys = set(&[signer.jwk()]);
    for (changes, expected) in [
        (json!({}), None),
        (json!({"aud": ["other", "meridian-eu"]}), None),
        (json!({"exp": NOW - 29}), None),
        (json!({"exp": NOW as f64 + 0.5}), None),
        (json!({"nbf": NOW + 30, "iat": NOW + 30}), None),
        (json!({"nbf": null, "iat": null}), None),
        (json!({"iss": "https://issuer.example/"}), Some(Fault::Issuer)),
        (json!({"iss": null}), Some(Fault::Claim("iss"))),
        (json!({"aud": null}), Some(Fault::Claim("aud"))),
        (json!({"aud": "other"}), Some(Fault::Audience)),
        (json!({"aud": []}), Some(Fault::Audience)),
        (json!({"aud": {"meridian": true}}), Some(Fault::Claim("aud"))),
        (json!({"exp": null}), Some(Fault::Claim("exp"))),
        (json!({"exp": "soon"}), Some(Fault::Claim("exp"))),
        (json!({"exp": -5}), Some(Fault::Claim("exp"))),
        (json!({"exp": 1e300}), Some(Fault::Claim("exp"))),
        (json!({"exp": NOW - 30}), Some(Fault::Expired)),
        (json!({"exp": 0}), Some(Fault::Expired)),
        (json!({"nbf": NOW + 31}), Some(Fault::NotYet)),
        (json!({"iat": NOW + 31}), Some(Fault::NotYet)),
        (json!({"nbf": "later"}), Some(Fault::Claim("nbf"))),
        (json!({"exp": NOW + 3621}), Some(Fault::TooLong)),
        (json!({"iat": null, "exp": NOW + 3631}), Some(Fault::TooLong)),
        // A time of issue in the future makes nothing last longer.
        (json!({"iat": NOW + 20, "nbf": null, "exp": NOW + 3640}), Some(Fault::TooLong)),
    ] {
        let found = check(&signer.sign(&with(&changes)), &keys).map(|_| ()).err();
        assert_eq!(found, expected, "{changes}");
    }
}

#[test]
fn only_the_keys_and_algorithms_of_the_issuer_count() {
    let (mine, other, rsa) = (Signer::ec("a"), Signer::ec("a"), Signer::rsa("r"));
    let keys = set(&[mine.jwk(), rsa.jwk()]);
    assert_eq!(check(&other.sign(&good()), &keys).unwrap_err(), Fault::Signature, "another key of the same name");
    let stranger = Header { kid: Some("z".to_owned()), ..Header::new(Algorithm::ES256) };
    assert_eq!(check(&mine.sign_as(&stranger, &good()), &keys).unwrap_err(), Fault::UnknownKey);
    let nameless = Header::new(Algorithm::ES256);
    assert!(check(&mine.sign_as(&nameless, &good()), &keys).is_ok(), "one key of the algorithm");
    let two = set(&[mine.jwk(), Signer::ec("b").jwk()]);
    assert_eq!(check(&mine.sign_as(&nameless, &good()), &two).unwrap_err(), Fault::UnknownKey, "two of them");
    let as_rsa = Header { kid: Some("r".to_owned()), ..Header::new(Algorithm::PS256) };
    assert_eq!(check(&rsa.sign_as(&as_rsa, &good()), &keys).unwrap_err(), Fault::Algorithm, "not on the list");
    let mixed = Header { kid: Some("r".to_owned()), ..Header::new(Algorithm::ES256) };
    assert_eq!(check(&mine.sign_as(&mixed, &good()), &keys).unwrap_err(), Fault::Algorithm, "a key of another kind");
}

#[test]
fn a_public_key_is_no_secret_to_sign_with() {
    let signer = Signer::rsa("r");
    let public = signer.jwk()["n"].as_str().unwrap().to_owned();
    let header = Header { kid: Some("r".to_owned()), ..Header::new(Algorithm::HS256) };
    let forged = encode(&header, &good(), &EncodingKey::from_secret(public.as_bytes())).unwrap();
    assert_eq!(check(&forged, &set(&[signer.jwk()])).unwrap_err(), Fault::Algorithm);
    let symmetric = json!({"kty": "oct", "kid": "s", "alg": "HS256", "k": "c2VjcmV0"});
    assert!(KeySet::parse(&serde_json::to_vec(&json!({"keys": [symmetric]})).unwrap()).is_err());
}

#[test]
fn what_is_not_signed_is_not_believed() {
    let signer = Signer::ec("e");
    let keys = set(&[signer.jwk()]);
    let part = |value: Value| URL_SAFE_NO_PAD.encode(serde_json::to_vec(&value).unwrap());
    let none = format!("{}.{}.", part(json!({"alg": "none", "typ": "JWT"})), part(good()));
    let odd = format!("{}.{}.x", part(json!({"alg": "XX9"})), part(good()));
    for token in ["", ".", "..", "a.b.c", "a.b", "a.b.c.d", &none, &odd] {
        assert!(matches!(check(token, &keys), Err(Fault::Malformed(_))), "{token}");
    }
    for (name, value) in [("crit", json!(["exp"])), ("typ", json!("logout+jwt")), ("zip", json!("DEF"))] {
        let mut header = json!({"alg": "ES256", "kid": "e"});
        header[name] = value;
        let header: Header = serde_json::from_value(header).unwrap();
        let token = signer.sign_as(&header, &good());
        assert!(matches!(check(&token, &keys), Err(Fault::Malformed(_))), "{name}");
    }
    let long = signer.sign(&with(&json!({"groups": "x".repeat(TOKEN_LEN_MAX)})));
    assert_eq!(check(&long, &keys).unwrap_err(), Fault::Malformed("too long"));
}

#[test]
fn a_set_leaves_out_what_cannot_verify() {
    let signer = Signer::ec("e");
    let mut encrypts = Signer::ec("x").jwk();
    encrypts["use"] = json!("enc");
    let mut wraps = Signer::ec("w").jwk();
    wraps["key_ops"] = json!(["wrapKey"]);
    let unknown = json!({"kty": "AKP", "kid": "pq", "alg": "ML-DSA-65", "pub": "AA"});
    let broken = json!({"kty": "RSA", "kid": "b", "n": "!", "e": "AQAB"});
    let keys = set(&[encrypts.clone(), wraps, unknown, broken, signer.jwk()]);
    assert_eq!(keys.len(), 1);
    assert!(check(&signer.sign(&good()), &keys).is_ok());
    for bad in [json!({}), json!([]), json!({"keys": []}), json!({"keys": [encrypts]}), json!({"keys": "x"})] {
        assert!(KeySet::parse(&serde_json::to_vec(&bad).unwrap()).is_err(), "{bad}");
    }
    assert!(KeySet::parse(b"<html>").is_err());
    let many = vec![signer.jwk(); 65];
    assert!(KeySet::parse(&serde_json::to_vec(&json!({"keys": many})).unwrap()).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever is changed in a token, it is refused, unless the change leaves its bytes the same.
    #[test]
    fn no_changed_token_is_believed(at in any::<prop::sample::Index>(), to in any::<u8>()) {
        static SIGNED: std::sync::OnceLock<(KeySet, String)> = std::sync::OnceLock::new();
        let (keys, token) = SIGNED.get_or_init(|| {
            let signer = Signer::ed("d");
            (set(&[signer.jwk()]), signer.sign(&good()))
        });
        let mut bytes = token.clone().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = to & 0x7f;
        let changed = String::from_utf8(bytes).unwrap();
        prop_assert_eq!(check(&changed, keys).is_ok(), changed == *token);
    }

    #[test]
    fn no_text_makes_it_panic(token in "\\PC{0,200}") {
        prop_assert!(check(&token, &KeySet::default()).is_err());
        let _ = claimed_issuer(&token);
    }
}
