//! Form decoding and the RFC 3986 encoding that both signature versions are computed over.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::error::EciError;

/// Parameters in one request, over query and body together. The vendor's limits (20 containers,
/// 20 volumes) stay far below it; it bounds what one request can make us hold.
pub(crate) const MAX_PARAMETERS: usize = 5_000;

/// Everything but `A-Za-z0-9-_.~` is escaped (README 3.2: RFC 3986 unreserved set).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Percent-encodes one side of a pair for a canonical query.
pub(crate) fn encode(text: &str) -> String {
    utf8_percent_encode(text, ESCAPED).to_string()
}

/// Decodes `a=b&c=d`, where a space is `+` or `%20`. Pairs keep the order they were sent in.
///
/// # Errors
/// `InvalidParameter` for a broken escape, text that is not UTF-8, or too many pairs.
pub(crate) fn decode_pairs(text: &str) -> Result<Vec<(String, String)>, EciError> {
    let mut pairs = Vec::new();
    for part in text.split('&').filter(|part| !part.is_empty()) {
        if pairs.len() >= MAX_PARAMETERS {
            return Err(EciError::invalid("query", &format!("more than {MAX_PARAMETERS} parameters")));
        }
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        pairs.push((decode(key)?, decode(value)?));
    }
    Ok(pairs)
}

fn decode(text: &str) -> Result<String, EciError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let pair = hex(rest.next()).zip(hex(rest.next()));
                let Some((high, low)) = pair else {
                    return Err(EciError::invalid("query", "a percent escape is not followed by two hex digits"));
                };
                bytes.push(high << 4 | low);
            }
            other => bytes.push(other),
        }
    }
    String::from_utf8(bytes).map_err(|_| EciError::invalid("query", "the text is not UTF-8"))
}

fn hex(digit: Option<u8>) -> Option<u8> {
    let digit = char::from(digit?).to_digit(16)?;
    u8::try_from(digit).ok()
}

/// The pairs sorted by key, both sides encoded, joined by `&`.
pub(crate) fn canonical(pairs: &[(String, String)]) -> String {
    let mut sorted: Vec<&(String, String)> = pairs.iter().collect();
    sorted.sort();
    let joined: Vec<String> = sorted.iter().map(|(key, value)| format!("{}={}", encode(key), encode(value))).collect();
    joined.join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_is_plus_or_percent_20_and_both_encode_to_percent_20() {
        for sent in ["k=a+b", "k=a%20b"] {
            let pairs = decode_pairs(sent).unwrap();
            assert_eq!(pairs, [("k".to_owned(), "a b".to_owned())]);
            assert_eq!(canonical(&pairs), "k=a%20b");
        }
    }

    #[test]
    fn empty_values_and_non_ascii_survive() {
        let pairs = decode_pairs("b=%E4%BD%A0&a=").unwrap();
        assert_eq!(canonical(&pairs), "a=&b=%E4%BD%A0");
        assert_eq!(encode("~-_.*"), "~-_.%2A");
    }

    #[test]
    fn broken_escapes_are_refused() {
        for sent in ["k=%", "k=%4", "k=%zz", "k=%ff"] {
            assert_eq!(decode_pairs(sent).unwrap_err().code, "InvalidParameter", "{sent}");
        }
    }
}
