//! Signature V3, `ACS3-HMAC-SHA256`: pure functions of request, key and time.
//!
//! Source: vendor-api README 3.2 and the golden vectors beside it. The query is sent in its canonical form, so
//! what is signed is byte for byte what is on the wire. Signed are `host`, every `x-acs-*` header and, with a
//! body, `content-type`; `accept` and `user-agent` are left out, because a proxy may change them.

use std::{collections::BTreeMap, fmt::Write as _};

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderValue, Request, Uri, header};
use meridian_model::time::Time;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use super::config::Endpoint;

/// The signature algorithm's name in the `Authorization` header.
const ALGORITHM: &str = "ACS3-HMAC-SHA256";

/// The API version all our actions belong to (alibaba-eci.json, `version`).
pub(super) const API_VERSION: &str = "2018-08-08";

/// Longest query string sent, in bytes: the request line that common front ends take by default (8 KiB), less
/// the rest of the line. A longer set of parameters travels as a form body, which V3 covers through its hash
/// (README 3.1; that the live service takes it is not verified). A URL of 64 KiB could not even be built.
const QUERY_LEN_MAX: usize = 8000;

/// The token of temporary credentials (README 3.2).
const TOKEN_HEADER: &str = "x-acs-security-token";

/// RFC 3986: everything but the unreserved characters is escaped.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Key id and secret of an account.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key<'a> {
    /// `AccessKeyId`.
    pub(super) id: &'a str,
    /// `AccessKeySecret`.
    pub(super) secret: &'a SecretString,
    /// `SecurityToken`, with temporary credentials.
    pub(super) token: Option<&'a SecretString>,
}

/// The parts of a request that the signature covers.
#[derive(Debug)]
pub(super) struct Signable<'a> {
    /// `GET` or `POST`.
    pub(super) method: &'a str,
    /// Always `/` with this product.
    pub(super) path: &'a str,
    /// The query in canonical form.
    pub(super) canonical_query: &'a str,
    /// Every header to sign, by lower-case name.
    pub(super) headers: &'a BTreeMap<String, String>,
    /// Hex SHA-256 of the body.
    pub(super) payload_hash: &'a str,
}

impl Signable<'_> {
    /// The names that are signed, joined by `;`.
    pub(super) fn signed_headers(&self) -> String {
        self.headers.keys().map(String::as_str).collect::<Vec<_>>().join(";")
    }

    /// The canonical request of README 3.2, step 3.
    pub(super) fn canonical_request(&self) -> String {
        let headers = self.headers.iter().fold(String::new(), |mut text, (name, value)| {
            text.extend([name.as_str(), ":", value.trim(), "\n"]);
            text
        });
        [self.method, self.path, self.canonical_query, &headers, &self.signed_headers(), self.payload_hash].join("\n")
    }

    /// The text whose HMAC is the signature.
    pub(super) fn string_to_sign(&self) -> String {
        format!("{ALGORITHM}\n{}", sha256_hex(self.canonical_request().as_bytes()))
    }

    /// Lower-case hex of the signature.
    pub(super) fn signature(&self, secret: &SecretString) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose_secret().as_bytes())
            .expect("invariant: HMAC takes a key of any length");
        mac.update(self.string_to_sign().as_bytes());
        hex(&mac.finalize().into_bytes())
    }

    /// The value of the `Authorization` header.
    pub(super) fn authorization(&self, key: Key<'_>) -> String {
        let signed = self.signed_headers();
        format!("{ALGORITHM} Credential={},SignedHeaders={signed},Signature={}", key.id, self.signature(key.secret))
    }
}

/// Pairs sorted by key, each side percent-encoded, joined by `&`.
pub(super) fn canonical_query(pairs: &[(String, String)]) -> String {
    let mut sorted: Vec<&(String, String)> = pairs.iter().collect();
    sorted.sort();
    let mut text = String::new();
    for (name, value) in sorted {
        if !text.is_empty() {
            text.push('&');
        }
        text.extend(utf8_percent_encode(name, RESERVED));
        text.push('=');
        text.extend(utf8_percent_encode(value, RESERVED));
    }
    text
}

/// Lower-case hex of the SHA-256 of some bytes.
pub(super) fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // writing to a String cannot fail
        text
    })
}

/// `YYYY-MM-DDThh:mm:ssZ`.
pub(super) fn acs_date(at: Time) -> String {
    let whole = Time::from_unix_ms(at.unix_seconds().saturating_mul(1000)).to_string();
    whole.replace(".000Z", "Z")
}

/// What a request is sent with, besides its parameters.
#[derive(Debug)]
pub(super) struct Envelope<'a> {
    /// Where to.
    pub(super) endpoint: &'a Endpoint,
    /// Action.
    pub(super) action: &'a str,
    /// Time of the signature.
    pub(super) signed_at: Time,
    /// Unique per request.
    pub(super) nonce: &'a str,
}

/// A signed `POST` with the parameters in the query, or in a form body where they are too long for it.
///
/// # Errors
/// [`http::Error`] when a part cannot stand in a request, for example a key id with a line break.
pub(super) fn request(
    to: &Envelope<'_>,
    params: &[(String, String)],
    key: Key<'_>,
) -> Result<Request<Bytes>, http::Error> {
    let encoded = canonical_query(params);
    let (query, body) =
        if encoded.len() <= QUERY_LEN_MAX { (encoded, String::new()) } else { (String::new(), encoded) };
    let payload_hash = sha256_hex(body.as_bytes());
    let mut headers = BTreeMap::from([
        ("host".to_owned(), to.endpoint.host.clone()),
        ("x-acs-action".to_owned(), to.action.to_owned()),
        ("x-acs-version".to_owned(), API_VERSION.to_owned()),
        ("x-acs-date".to_owned(), acs_date(to.signed_at)),
        ("x-acs-signature-nonce".to_owned(), to.nonce.to_owned()),
        ("x-acs-content-sha256".to_owned(), payload_hash.clone()),
    ]);
    if !body.is_empty() {
        headers.insert("content-type".to_owned(), "application/x-www-form-urlencoded".to_owned());
    }
    if let Some(token) = key.token {
        headers.insert("x-acs-accesskey-id".to_owned(), key.id.to_owned());
        headers.insert(TOKEN_HEADER.to_owned(), token.expose_secret().to_owned());
    }
    let signable =
        Signable { method: "POST", path: "/", canonical_query: &query, headers: &headers, payload_hash: &payload_hash };
    let mut authorization = HeaderValue::try_from(signable.authorization(key))?;
    authorization.set_sensitive(true);
    let uri = Uri::builder()
        .scheme(to.endpoint.url.scheme_str().unwrap_or("https"))
        .authority(to.endpoint.url.authority().map_or("", |a| a.as_str()))
        .path_and_query(if query.is_empty() { "/".to_owned() } else { format!("/?{query}") })
        .build()?;
    let mut request = Request::post(uri)
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, concat!("meridian/", env!("CARGO_PKG_VERSION")))
        .header(header::AUTHORIZATION, authorization);
    for (name, value) in headers {
        let mut value = HeaderValue::try_from(value)?;
        value.set_sensitive(name == TOKEN_HEADER);
        request = request.header(name, value);
    }
    request.body(Bytes::from(body))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Vectors {
        vectors: Vec<Vector>,
    }

    #[derive(Deserialize)]
    struct Vector {
        name: String,
        access_key_id: String,
        access_key_secret: SecretString,
        request: Raw,
        canonical_query: String,
        signed_headers: String,
        canonical_request: String,
        string_to_sign: String,
        signature: String,
    }

    #[derive(Deserialize)]
    struct Raw {
        method: String,
        path: String,
        query_decoded: BTreeMap<String, String>,
        headers: BTreeMap<String, String>,
        body: String,
    }

    /// Every ACS3 vector of the reference, made by the vendor's own SDK.
    fn vectors() -> Vec<Vector> {
        serde_json::from_str::<Vectors>(include_str!("fixtures/signature-vectors.json")).unwrap().vectors
    }

    #[test]
    fn passes_every_golden_vector() {
        let all = vectors();
        assert_eq!(all.len(), 7, "the file was cut");
        for v in all {
            let pairs: Vec<_> = v.request.query_decoded.into_iter().collect();
            let query = canonical_query(&pairs);
            assert_eq!(query, v.canonical_query, "{}", v.name);
            let lower: BTreeMap<String, String> =
                v.request.headers.into_iter().map(|(k, v)| (k.to_lowercase(), v)).collect();
            let signed = v
                .signed_headers
                .split(';')
                .map(|name| (name.to_owned(), lower[name].clone()))
                .collect::<BTreeMap<_, _>>();
            let payload_hash = sha256_hex(v.request.body.as_bytes());
            let signable = Signable {
                method: &v.request.method,
                path: &v.request.path,
                canonical_query: &query,
                headers: &signed,
                payload_hash: &payload_hash,
            };
            assert_eq!(signable.signed_headers(), v.signed_headers, "{}", v.name);
            assert_eq!(signable.canonical_request(), v.canonical_request, "{}", v.name);
            assert_eq!(signable.string_to_sign(), v.string_to_sign, "{}", v.name);
            assert_eq!(signable.signature(&v.access_key_secret), v.signature, "{}", v.name);
            let key = Key { id: &v.access_key_id, secret: &v.access_key_secret, token: None };
            assert_eq!(signable.authorization(key), lower["authorization"], "{}", v.name);
        }
    }

    fn at(host: &str) -> Endpoint {
        Endpoint { url: format!("http://{host}/").parse().unwrap(), host: host.to_owned() }
    }

    fn built(params: &[(String, String)]) -> Request<Bytes> {
        let endpoint = at("127.0.0.1:18090");
        let envelope = Envelope {
            endpoint: &endpoint,
            action: "DescribeRegions",
            signed_at: Time::from_unix_ms(1_767_225_600_042),
            nonce: "n",
        };
        let secret = SecretString::from("s");
        request(&envelope, params, Key { id: "k", secret: &secret, token: None }).unwrap()
    }

    #[test]
    fn short_parameters_travel_in_the_query_and_long_ones_in_a_form() {
        let pair = |n: usize| vec![("A".to_owned(), "x".repeat(n)), ("B".to_owned(), "a b*~é".to_owned())];
        let short = built(&pair(3));
        assert_eq!(short.uri().to_string(), "http://127.0.0.1:18090/?A=xxx&B=a%20b%2A~%C3%A9");
        assert!(short.body().is_empty());
        assert_eq!(short.headers()["x-acs-content-sha256"], sha256_hex(b""));
        assert!(!short.headers().contains_key("content-type"));

        let long = built(&pair(QUERY_LEN_MAX));
        assert_eq!(long.uri().to_string(), "http://127.0.0.1:18090/");
        assert!(long.body().starts_with(b"A=xxx"));
        assert_eq!(long.headers()["x-acs-content-sha256"], sha256_hex(long.body()));
        let authorization = long.headers()["authorization"].to_str().unwrap();
        assert!(authorization.contains("SignedHeaders=content-type;host;x-acs-action;"), "{authorization}");
    }

    #[test]
    fn the_signature_depends_on_every_part() {
        let base = |pairs: &[(String, String)]| built(pairs).headers()["authorization"].clone();
        let one = base(&[("A".to_owned(), "1".to_owned())]);
        assert_ne!(one, base(&[("A".to_owned(), "2".to_owned())]));
        assert_ne!(one, base(&[("B".to_owned(), "1".to_owned())]));
        assert_eq!(one, base(&[("A".to_owned(), "1".to_owned())]));
    }

    #[test]
    fn the_secret_is_not_in_the_request() {
        let endpoint = at("h");
        let secret = SecretString::from("very-secret-text");
        let token = SecretString::from("very-secret-text-too");
        let to = Envelope { endpoint: &endpoint, action: "A", signed_at: Time::from_unix_ms(0), nonce: "n" };
        let request = request(&to, &[], Key { id: "k", secret: &secret, token: Some(&token) }).unwrap();
        assert!(!format!("{request:?}").contains("very-secret-text"));
        assert!(!format!("{request:?}").contains("Signature="), "the signature is marked sensitive");
    }

    #[test]
    fn dates_are_whole_seconds() {
        assert_eq!(acs_date(Time::from_unix_ms(1_767_225_600_999)), "2026-01-01T00:00:00Z");
        let _ = acs_date(Time::from_unix_ms(i64::MIN));
        let _ = acs_date(Time::from_unix_ms(i64::MAX));
    }
}
