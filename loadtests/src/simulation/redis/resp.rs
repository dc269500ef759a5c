//! RESP2: requests read, replies written.

/// A reply.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// `+text`.
    Status(String),
    /// `-CODE text`.
    Error(String),
    /// `:n`.
    Int(i64),
    /// `$n` and bytes; none is null.
    Bulk(Option<Vec<u8>>),
    /// `*n` and replies.
    Array(Vec<Reply>),
    /// `*-1`.
    NullArray,
}

impl Reply {
    /// `+OK`.
    #[must_use]
    pub fn ok() -> Self {
        Self::Status("OK".to_owned())
    }

    /// Bytes.
    pub fn bulk(bytes: impl Into<Vec<u8>>) -> Self {
        Self::Bulk(Some(bytes.into()))
    }

    /// A list of bytes.
    pub fn bulks<B: Into<Vec<u8>>>(all: impl IntoIterator<Item = B>) -> Self {
        Self::Array(all.into_iter().map(Self::bulk).collect())
    }

    /// `-ERR text`.
    pub fn err(text: impl AsRef<str>) -> Self {
        Self::Error(format!("ERR {}", text.as_ref()))
    }

    /// As it is sent.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Status(text) => line(out, '+', text),
            Self::Error(text) => line(out, '-', text),
            Self::Int(n) => line(out, ':', &n.to_string()),
            Self::Bulk(None) => out.extend_from_slice(b"$-1\r\n"),
            Self::Bulk(Some(bytes)) => {
                line(out, '$', &bytes.len().to_string());
                out.extend_from_slice(bytes);
                out.extend_from_slice(b"\r\n");
            }
            Self::Array(all) => {
                line(out, '*', &all.len().to_string());
                for one in all {
                    one.write(out);
                }
            }
            Self::NullArray => out.extend_from_slice(b"*-1\r\n"),
        }
    }
}

fn line(out: &mut Vec<u8>, kind: char, text: &str) {
    out.extend_from_slice(format!("{kind}{}\r\n", text.replace(['\r', '\n'], " ")).as_bytes());
}

/// Most parts of a request: ten times what the largest step sends.
const PARTS_MAX: usize = 10_000;

/// A request, as its parts.
pub type Request = Vec<Vec<u8>>;

/// The first request in the bytes and how long it is; none while it is not complete.
///
/// # Errors
/// It is not RESP.
pub fn read(bytes: &[u8]) -> Result<Option<(Request, usize)>, String> {
    let Some((count, mut at)) = header(bytes, 0, b'*')? else { return Ok(None) };
    if count > PARTS_MAX {
        return Err(format!("{count} parts"));
    }
    let mut parts = Vec::with_capacity(count);
    for _ in 0..count {
        let Some((len, start)) = header(bytes, at, b'$')? else { return Ok(None) };
        let Some(part) = bytes.get(start..start + len) else { return Ok(None) };
        if bytes.len() < start + len + 2 {
            return Ok(None);
        }
        parts.push(part.to_vec());
        at = start + len + 2;
    }
    Ok(Some((parts, at)))
}

fn header(bytes: &[u8], at: usize, kind: u8) -> Result<Option<(usize, usize)>, String> {
    let Some(rest) = bytes.get(at..).filter(|r| !r.is_empty()) else { return Ok(None) };
    if rest.first() != Some(&kind) {
        return Err("not a request".to_owned());
    }
    let Some(end) = rest.windows(2).position(|w| w == b"\r\n") else { return Ok(None) };
    let number = rest.get(1..end).and_then(|n| std::str::from_utf8(n).ok()).and_then(|n| n.parse().ok());
    number.map(|n| Some((n, at + end + 2))).ok_or_else(|| "not a length".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_when_it_is_complete() {
        let whole = b"*2\r\n$4\r\nPING\r\n$1\r\nx\r\n";
        for cut in 0..whole.len() {
            assert_eq!(read(&whole[..cut]).unwrap(), None, "{cut}");
        }
        let (parts, len) = read(whole).unwrap().unwrap();
        assert_eq!((parts, len), (vec![b"PING".to_vec(), b"x".to_vec()], whole.len()));
        assert!(read(b"PING\r\n").is_err());
    }
}
