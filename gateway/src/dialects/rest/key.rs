//! The `Idempotency-Key` header (RELIABILITY 2.6; draft-ietf-httpapi-idempotency-key-header): a string of structured
//! fields (RFC 9651, section 3.3.3), which is quoted. Bare text is taken too, since many clients send that, but nothing
//! between the two: half a quote is a mistake that would make another key.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName};
use meridian_model::error::{ErrorCode, Problem};

use super::body;
use crate::refusal::Rejection;

/// The caller's idempotency key, in and out.
pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Longest key in characters, without its quotes (RELIABILITY 2.6).
const LEN_MAX: usize = 255;

/// The key of a request: one header of 1 to 255 printable characters, quoted or not.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Rejection> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let key = match values.next() {
        Some(_) => Err("is given more than once"),
        None => value.to_str().map_err(|_| "has characters that are not printable").and_then(parse),
    };
    key.map(Some).map_err(|what| {
        let fault = body::fault("", "invalid-header", format!("Idempotency-Key {what}"));
        Problem::new(ErrorCode::InvalidArgument, fault.detail.clone()).with_errors(vec![fault]).into()
    })
}

fn parse(text: &str) -> Result<String, &'static str> {
    let text = text.trim();
    let key = match text.strip_prefix('"') {
        Some(quoted) => unquoted(quoted)?,
        None if text.contains('"') => {
            return Err("has a quote inside: quote all of it, with \\\" for the quote, or none");
        }
        None => text.to_owned(),
    };
    if key.is_empty() {
        return Err("is empty");
    }
    if key.len() > LEN_MAX {
        return Err("is longer than 255 characters");
    }
    if !key.bytes().all(|c| (0x20..0x7f).contains(&c)) {
        return Err("has characters that are not printable");
    }
    Ok(key)
}

/// What stands between the quotes; `text` begins after the first.
fn unquoted(text: &str) -> Result<String, &'static str> {
    let mut key = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' if chars.as_str().is_empty() => return Ok(key),
            '"' => return Err("has something after its closing quote"),
            '\\' => match chars.next() {
                Some(escaped @ ('"' | '\\')) => key.push(escaped),
                _ => return Err("has a backslash before something else than a quote or a backslash"),
            },
            other => key.push(other),
        }
    }
    Err("begins with a quote and does not end with one")
}

/// A key as an answer shows it: bare where that reads back as the same key.
pub(super) fn shown(key: &str) -> Cow<'_, str> {
    if parse(key).is_ok_and(|read| read == key) {
        return Cow::Borrowed(key);
    }
    Cow::Owned(format!("\"{}\"", key.replace('\\', "\\\\").replace('"', "\\\"")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quoted_and_bare_keys_are_taken_and_half_quotes_are_not() {
        let long = "k".repeat(LEN_MAX);
        for (text, key) in [
            ("abc", "abc"),
            ("\"abc\"", "abc"),
            (" \"k 1\" ", "k 1"),
            ("k 1", "k 1"),
            ("it's", "it's"),
            (r#""a\"b\\c""#, r#"a"b\c"#),
            (r"a\b", r"a\b"),
            (&format!("\"{long}\""), &long),
        ] {
            assert_eq!(parse(text).as_deref(), Ok(key), "{text}");
        }
        for (text, what) in [
            ("", "is empty"),
            ("\"\"", "is empty"),
            ("\"", "does not end with one"),
            ("\"abc", "does not end with one"),
            ("abc\"", "has a quote inside"),
            ("a\"b", "has a quote inside"),
            (r#""abc\""#, "does not end with one"),
            (r#""a\bc""#, "backslash"),
            (r#""abc\"#, "backslash"),
            ("\"abc\";x=1", "after its closing quote"),
            ("\"a\", \"b\"", "after its closing quote"),
            ("\"a\"b\"", "after its closing quote"),
            (&format!("\"{long}k\""), "longer than 255"),
        ] {
            assert!(parse(text).is_err_and(|why| why.contains(what)), "{text}: {:?}", parse(text));
        }
    }

    proptest! {
        #[test]
        fn what_an_answer_shows_is_the_same_key_when_it_is_sent_back(key in "[ -~]{1,255}") {
            prop_assert_eq!(parse(&shown(&key)), Ok(key));
        }
    }
}
