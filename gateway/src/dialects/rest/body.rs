//! Request bodies: read within bounds, parsed strictly, canonicalised for the fingerprint.
//!
//! A body is parsed twice from its bytes: once into a tree, which finds repeated keys and gives the canonical form,
//! and once into its type, which finds unknown and ill-typed fields with their pointers and line numbers.

use std::{cell::RefCell, fmt, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use meridian_model::error::{ErrorCode, FieldError, Problem};
use serde::de::{DeserializeOwned, DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use crate::{dialects::BodyLimits, refusal::Rejection};

/// Deepest nesting; a Pod manifest needs about ten levels.
const DEPTH_MAX: usize = 64;
/// Most faults listed in one answer; the rest would not be read.
const FAULTS_MAX: usize = 50;
/// Time before the least rate of a body counts.
const RATE_GRACE: Duration = Duration::from_secs(1);
/// Version of the fingerprint's rule, part of what is hashed.
const FINGERPRINT_VERSION: &str = "1";

/// A refusal with faults by field; unknown fields alone have a code of their own.
pub(super) fn refuse(mut faults: Vec<FieldError>) -> Rejection {
    let unknown_only = faults.iter().all(|f| f.code == "unknown-field");
    let code = if unknown_only { ErrorCode::UnknownField } else { ErrorCode::InvalidArgument };
    let more = faults.len().saturating_sub(FAULTS_MAX);
    faults.truncate(FAULTS_MAX);
    let mut detail = faults.iter().map(|f| f.detail.as_str()).collect::<Vec<_>>().join("; ");
    if more > 0 {
        detail.push_str(&format!("; and {more} more"));
    }
    Problem::new(code, detail).with_errors(faults).into()
}

pub(crate) fn fault(pointer: impl Into<String>, code: &str, detail: impl Into<String>) -> FieldError {
    FieldError { pointer: pointer.into(), code: code.to_owned(), detail: detail.into(), ..FieldError::default() }
}

/// Media types of JSON bodies, and of those that change a resource (RFC 7396).
const JSON: &[&str] = &["application/json"];
const PATCH: &[&str] = &["application/merge-patch+json", "application/json"];

/// Reads a merge patch.
///
/// # Errors
/// As of [`read`] and [`parse_tree`], and for another media type.
pub(super) async fn patch(headers: &HeaderMap, body: Incoming, limits: BodyLimits) -> Result<Value, Rejection> {
    check_type(headers, PATCH)?;
    parse_tree(&read(body, limits).await?)
}

/// Checks that the body is JSON by its media type.
pub(super) fn check_media_type(headers: &HeaderMap) -> Result<(), Rejection> {
    check_type(headers, JSON)
}

fn check_type(headers: &HeaderMap, known: &[&str]) -> Result<(), Rejection> {
    if let Some(encoding) = headers.get(CONTENT_ENCODING) {
        let detail = format!("the body must not be encoded; the Content-Encoding is {encoding:?}");
        return Err(Rejection::new(ErrorCode::UnsupportedMediaType, detail));
    }
    let value = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    let (kind, parameters) = value.split_once(';').unwrap_or((value, ""));
    let charset = parameters.split(';').find_map(|p| p.trim().strip_prefix("charset="));
    let utf8 = charset.is_none_or(|c| c.trim_matches('"').eq_ignore_ascii_case("utf-8"));
    if known.iter().any(|known| kind.trim().eq_ignore_ascii_case(known)) && utf8 {
        return Ok(());
    }
    let found = if value.is_empty() { "none".to_owned() } else { format!("{value:?}") };
    let known = known.join(" or ");
    let detail = format!("the body must be {known} in UTF-8; the Content-Type is {found}");
    Err(Rejection::new(ErrorCode::UnsupportedMediaType, detail))
}

fn too_large(limit: usize) -> Rejection {
    Rejection::new(ErrorCode::PayloadTooLarge, format!("the body is larger than {limit} bytes"))
}

/// A body this large is still read to its end and thrown away, so that its sender gets to read the refusal: who
/// writes into a closed connection sees a reset instead. Larger ones are cut off.
const DISCARDED_MAX: u64 = 8 << 20;

/// Longest time spent on throwing a body away.
const DISCARDED_FOR: Duration = Duration::from_secs(2);

async fn discard(body: &mut Incoming) {
    let all = async { while let Some(Ok(_)) = body.frame().await {} };
    // Whether it ended or not, the refusal goes out.
    let _ = tokio::time::timeout(DISCARDED_FOR, all).await;
}

/// Reads a body to its end.
///
/// # Errors
/// `payload-too-large` before anything is read when the length says so, else as soon as the bound is passed;
/// `invalid-argument` when it comes too slowly or breaks off.
pub(super) async fn read(mut body: Incoming, limits: BodyLimits) -> Result<Bytes, Rejection> {
    let announced = body.size_hint().lower();
    if announced > limits.len_max as u64 {
        if announced <= DISCARDED_MAX {
            discard(&mut body).await;
        }
        return Err(too_large(limits.len_max));
    }
    let started = Instant::now();
    let mut first: Option<Bytes> = None;
    let mut rest: Vec<u8> = Vec::new();
    let mut len = 0_usize;
    loop {
        let due = started + RATE_GRACE + allowance(len, limits.rate_min);
        let frame = match tokio::time::timeout_at(due, body.frame()).await {
            Ok(None) => break,
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => {
                return Err(Rejection::new(ErrorCode::InvalidArgument, format!("the body broke off: {error}")));
            }
            Err(_) => {
                let detail = format!("the body comes more slowly than {} bytes per second", limits.rate_min);
                return Err(Rejection::new(ErrorCode::InvalidArgument, detail));
            }
        };
        let Ok(data) = frame.into_data() else { continue };
        len = len.saturating_add(data.len());
        if len > limits.len_max {
            return Err(too_large(limits.len_max));
        }
        match &first {
            None => first = Some(data),
            Some(head) => {
                if rest.is_empty() {
                    rest.extend_from_slice(head);
                }
                rest.extend_from_slice(&data);
            }
        }
    }
    Ok(if rest.is_empty() { first.unwrap_or_default() } else { Bytes::from(rest) })
}

/// How long so many bytes may take; with no least rate the request's own deadline is the bound.
fn allowance(len: usize, rate_min: usize) -> Duration {
    /// Longer than any request's deadline.
    const UNBOUNDED: Duration = Duration::from_secs(3600);
    if rate_min == 0 { UNBOUNDED } else { Duration::from_millis((len as u64).saturating_mul(1000) / rate_min as u64) }
}

/// Parses JSON of bounded depth without repeated keys.
///
/// # Errors
/// `invalid-argument` with every repeated key, or the fault of syntax with line and column.
pub fn parse_tree(bytes: &[u8]) -> Result<Value, Rejection> {
    let state = State::default();
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let tree = Node { state: &state, depth: 0 }.deserialize(&mut json).and_then(|tree| json.end().map(|()| tree));
    let mut faults = state.faults.into_inner();
    match tree {
        Ok(tree) if faults.is_empty() => Ok(tree),
        Ok(_) => Err(refuse(faults)),
        Err(error) => {
            faults.push(fault(state.path.into_inner(), "invalid-json", format!("the body is not valid JSON: {error}")));
            Err(refuse(faults))
        }
    }
}

#[derive(Default)]
struct State {
    path: RefCell<String>,
    faults: RefCell<Vec<FieldError>>,
}

#[derive(Clone, Copy)]
struct Node<'s> {
    state: &'s State,
    depth: usize,
}

/// Adds a segment to a JSON pointer (RFC 6901).
pub(super) fn push_segment(pointer: &mut String, segment: &str) {
    pointer.push('/');
    for c in segment.chars() {
        match c {
            '~' => pointer.push_str("~0"),
            '/' => pointer.push_str("~1"),
            c => pointer.push(c),
        }
    }
}

impl Node<'_> {
    /// A node below, at the segment; the path is left standing when it fails, which is where the fault is.
    fn below<T, E>(self, segment: &str, read: impl FnOnce(Self) -> Result<T, E>) -> Result<T, E> {
        let len = self.state.path.borrow().len();
        push_segment(&mut self.state.path.borrow_mut(), segment);
        let value = read(Self { state: self.state, depth: self.depth + 1 })?;
        self.state.path.borrow_mut().truncate(len);
        Ok(value)
    }

    fn check_depth<E: serde::de::Error>(self) -> Result<(), E> {
        if self.depth >= DEPTH_MAX {
            Err(E::custom(format_args!("nested deeper than {DEPTH_MAX} levels")))
        } else {
            Ok(())
        }
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(Value::from(v))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(Value::from(v))
    }

    fn visit_f64<E: serde::de::Error>(self, v: f64) -> Result<Value, E> {
        Number::from_f64(v).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        self.check_depth()?;
        let mut items = Vec::new();
        while let Some(item) = self.below(&items.len().to_string(), |node| seq.next_element_seed(node))? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        self.check_depth()?;
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let value = self.below(&key, |node| map.next_value_seed(node))?;
            if object.contains_key(&key) {
                let mut pointer = self.state.path.borrow().clone();
                push_segment(&mut pointer, &key);
                let mut faults = self.state.faults.borrow_mut();
                if faults.len() >= FAULTS_MAX {
                    return Err(A::Error::custom("too many repeated keys"));
                }
                faults.push(fault(pointer, "duplicate-key", format!("the key {key:?} is given more than once")));
            }
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

/// What came of a typed parse.
#[derive(Debug)]
pub(crate) struct Typed<T> {
    /// The value.
    pub(crate) value: T,
    /// Fields its type does not have.
    pub(crate) unknown: Vec<FieldError>,
}

/// Parses a body into its type.
///
/// # Errors
/// The first ill-typed field, with the unknown fields that stand before it.
pub(crate) fn parse_typed<T: DeserializeOwned>(bytes: &[u8]) -> Result<Typed<T>, Rejection> {
    let mut unknown = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
    let value = serde_ignored::deserialize(tracked, |path| {
        let mut pointer = String::new();
        ignored_pointer(&path, &mut pointer);
        let name = pointer.rsplit('/').next().unwrap_or("");
        let detail = format!("there is no field {name:?} here");
        // Past the bound the answer lists no more, so no more is looked for.
        let hint = if unknown.len() < FAULTS_MAX { super::hints::nearest_field(&pointer) } else { None };
        let mut unknown_field = fault(pointer, "unknown-field", detail);
        unknown_field.hint = hint.map(|field| format!("did you mean {field}?"));
        unknown.push(unknown_field);
    });
    match value {
        Ok(value) => Ok(Typed { value, unknown }),
        Err(error) => {
            let pointer = track_pointer(&track.path());
            let code = if error.to_string().starts_with("missing field") { "required" } else { "invalid" };
            unknown.push(fault(pointer, code, error.to_string()));
            Err(refuse(unknown))
        }
    }
}

fn ignored_pointer(path: &serde_ignored::Path<'_>, pointer: &mut String) {
    use serde_ignored::Path;
    match path {
        Path::Root => {}
        Path::Seq { parent, index } => {
            ignored_pointer(parent, pointer);
            push_segment(pointer, &index.to_string());
        }
        Path::Map { parent, key } => {
            ignored_pointer(parent, pointer);
            push_segment(pointer, key);
        }
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
            ignored_pointer(parent, pointer);
        }
    }
}

fn track_pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let mut pointer = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => push_segment(&mut pointer, &index.to_string()),
            Segment::Map { key } => push_segment(&mut pointer, key),
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    pointer
}

/// The fingerprint of a create: SHA-256 in hexadecimal of rule version, method, route, tenant and canonical body
/// (RELIABILITY 2.6).
#[must_use]
pub fn fingerprint(method: &str, route: &str, tenant: &str, body: &Value) -> String {
    let mut text = format!("{FINGERPRINT_VERSION}\0{method}\0{route}\0{tenant}\0");
    canonical(body, &mut text);
    Sha256::digest(text.as_bytes()).iter().map(|b| format!("{b:02x}")).collect()
}

/// Writes JSON in the manner of RFC 8785: keys by UTF-16 code units, shortest strings and numbers. Integers beyond
/// 2^53 keep all their digits, so that two different bodies never look alike.
pub fn canonical(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Value::Number(n) => canonical_number(n, out),
        Value::String(s) => canonical_string(s, out),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                canonical(item, out);
            }
            out.push(']');
        }
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
            out.push('{');
            for (i, (key, item)) in entries.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                canonical_string(key, out);
                out.push(':');
                canonical(item, out);
            }
            out.push('}');
        }
    }
}

fn canonical_string(s: &str, out: &mut String) {
    // serde_json writes strings exactly as RFC 8785 asks: the two-letter escapes, \u00xx below space, the rest as is.
    out.push_str(&serde_json::to_string(s).unwrap_or_default());
}

fn canonical_number(n: &Number, out: &mut String) {
    /// Integers up to here are exact in a double.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    match n.as_f64().filter(|_| n.is_f64()) {
        Some(f) if f.fract() == 0.0 && f.abs() <= EXACT_MAX => {
            #[expect(clippy::cast_possible_truncation, reason = "integral and within the exact range of a double")]
            let whole = f as i64;
            out.push_str(&whole.to_string());
        }
        Some(_) | None => out.push_str(&n.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn canon(text: &str) -> String {
        let mut out = String::new();
        canonical(&parse_tree(text.as_bytes()).unwrap(), &mut out);
        out
    }

    #[test]
    fn the_canonical_form_ignores_order_space_and_spelling() {
        let expected = r#"{"a":[1,2.5,null],"b":"é\n","c":{"x":true}}"#;
        for text in [
            r#"{"a":[1,2.5,null],"b":"é\n","c":{"x":true}}"#,
            r#" { "c" : {"x":true} , "b":"\u00e9\u000a", "a":[1.0,25e-1,null] } "#,
        ] {
            assert_eq!(canon(text), expected);
        }
        assert_ne!(canon("9007199254740993"), canon("9007199254740992"));
        assert_eq!(canon("-0.0"), "0");
    }

    /// Any JSON without floats, whose spelling is somebody else's property.
    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::String),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
                prop::collection::btree_map(".{0,6}", inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_fingerprint_is_stable_under_spelling(value in any_json()) {
            let (compact, pretty) = (value.to_string(), serde_json::to_string_pretty(&value).unwrap());
            prop_assert_eq!(canon(&compact), canon(&pretty));
            // The canonical form is JSON again, and its own canonical form.
            prop_assert_eq!(canon(&canon(&compact)), canon(&compact));
            prop_assert_eq!(parse_tree(compact.as_bytes()).unwrap(), value);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_tree(&bytes);
            let _ = parse_typed::<meridian_model::instance::InstanceSpec>(&bytes);
        }

        #[test]
        fn no_spec_panics(value in any_json()) {
            let text = serde_json::json!({ "containers": [value.clone()], "volumes": value }).to_string();
            let _ = parse_typed::<meridian_model::instance::InstanceSpec>(text.as_bytes());
        }
    }

    #[test]
    fn faults_of_syntax_have_their_place() {
        let refused = |text: &str| {
            let problem = parse_tree(text.as_bytes()).unwrap_err().refusal.problem;
            (problem.code, problem.errors.iter().map(|e| (e.pointer.clone(), e.code.clone())).collect::<Vec<_>>())
        };
        let invalid = ErrorCode::InvalidArgument;
        let at = |p: &str, c: &str| vec![(p.to_owned(), c.to_owned())];
        assert_eq!(refused(r#"{"a":{"b":1,"b":2}}"#), (invalid, at("/a/b", "duplicate-key")));
        assert_eq!(refused(r#"{"a/b":1,"a/b":2,"c":[{"~":1,"~":1}]}"#).1.len(), 2);
        assert_eq!(refused(r#"{"a":}"#), (invalid, at("/a", "invalid-json")));
        assert_eq!(refused("").0, invalid);
        assert_eq!(refused("{} x").0, invalid);
        assert_eq!(refused("[1e999]").0, invalid);
        assert_eq!(refused(&"[".repeat(100_000)).0, invalid);
        assert_eq!(refused(&format!("{}{}", "[".repeat(65), "]".repeat(65))).0, invalid);
        assert!(parse_tree(format!("{}{}", "[".repeat(64), "]".repeat(64)).as_bytes()).is_ok());
    }
}
