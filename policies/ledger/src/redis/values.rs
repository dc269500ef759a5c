//! Reading the answers of Redis; pure. `None` is an answer of another form than was asked for.

use redis::Value;

/// The elements of a list.
pub(super) fn list(value: &Value) -> Option<&[Value]> {
    if let Value::Array(items) = value { Some(items) } else { None }
}

/// Bytes of a string of any kind.
pub(super) fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.as_bytes()),
        Value::Okay => Some(b"OK"),
        _ => None,
    }
}

/// A string or a number as text.
pub(super) fn text(value: &Value) -> Option<String> {
    match value {
        Value::Int(n) => Some(n.to_string()),
        other => bytes(other).and_then(|b| std::str::from_utf8(b).ok()).map(str::to_owned),
    }
}

/// A whole number that is not negative, in either form.
pub(super) fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(n) => u64::try_from(*n).ok(),
        other => bytes(other).and_then(|b| std::str::from_utf8(b).ok()).and_then(|t| t.parse().ok()),
    }
}

/// All elements of a list as text.
pub(super) fn texts(value: &Value) -> Option<Vec<String>> {
    list(value)?.iter().map(text).collect()
}
