//! The rule of the chain, pure: how a record follows the one before, and how that is checked.
//!
//! A record is one line of JSON in the form of RFC 8785. Its hash is SHA-256 over the 32 bytes of the hash before it and
//! the record without its member `hash`; the first follows [`Link::GENESIS`]. So the line of a record is a function of
//! what it says and of all records before it, to the byte: whatever is changed, dropped, added or moved shows at the
//! first line that does not follow. Who can write the file can make another chain that follows; of it the heads fail,
//! because they are signed with a key that is not in the file.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use meridian_model::time::Time;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::record::{Entry, VERSION};
use crate::dialects::rest::body::canonical;

/// Bytes of a hash.
pub const HASH_LEN: usize = 32;
/// A SHA-256.
pub type Hash = [u8; HASH_LEN];

/// The end of a chain: what the next record follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Number of the last record; 0 when there is none.
    pub seq: u64,
    /// Its hash.
    pub hash: Hash,
}

impl Link {
    /// Before the first record.
    pub const GENESIS: Self = Self { seq: 0, hash: [0; HASH_LEN] };
}

/// A record as it stands in the file.
#[derive(Debug, Clone, PartialEq)]
pub struct Sealed {
    /// Its number and hash.
    pub link: Link,
    /// All of it.
    pub value: Value,
    /// Its line, without the line end.
    pub line: String,
}

/// A hash in hexadecimal.
#[must_use]
pub fn hex(hash: &Hash) -> String {
    hash.iter().map(|b| format!("{b:02x}")).collect()
}

/// A hash from hexadecimal; lower case only, so that there is one way to write it.
#[must_use]
pub fn unhex(text: &str) -> Option<Hash> {
    if text.len() != 2 * HASH_LEN || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let mut hash = [0; HASH_LEN];
    for (i, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    Some(hash)
}

fn hash_of(prev: &Hash, text: &str) -> Hash {
    Sha256::new().chain_update(prev).chain_update(text.as_bytes()).finalize().into()
}

/// Makes the record that follows `prev`.
#[must_use]
pub fn seal(prev: &Link, time: Time, entry: &Entry) -> Sealed {
    // Texts, numbers and maps of them: nothing that JSON cannot hold.
    let mut members = match serde_json::to_value(entry) {
        Ok(Value::Object(members)) => members,
        Ok(_) | Err(_) => Map::new(),
    };
    let seq = prev.seq.saturating_add(1);
    members.insert("v".to_owned(), VERSION.into());
    members.insert("seq".to_owned(), seq.into());
    members.insert("prevHash".to_owned(), hex(&prev.hash).into());
    members.insert("time".to_owned(), time.to_string().into());
    let mut value = Value::Object(members);
    let mut line = String::with_capacity(768);
    canonical(&value, &mut line);
    let hash = hash_of(&prev.hash, &line);
    if let Some(members) = value.as_object_mut() {
        members.insert("hash".to_owned(), hex(&hash).into());
    }
    line.clear();
    canonical(&value, &mut line);
    Sealed { link: Link { seq, hash }, value, line }
}

/// Why a line does not follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// It is not the JSON of a record in the canonical form.
    #[error("is not a record in its canonical form")]
    Malformed,
    /// Its hash is not that of its content.
    #[error("was edited: its hash is not that of its content")]
    Edited,
    /// It does not follow the record before it.
    #[error("does not follow the record before it: one is missing, was added or was moved")]
    Unlinked,
}

/// Checks the line that should follow `prev`; the first of what is left of a chain follows whatever it says (`None`).
///
/// # Errors
/// [`Broken`].
pub fn follow(prev: Option<&Link>, line: &str) -> Result<Sealed, Broken> {
    let mut value: Value = serde_json::from_str(line).map_err(|_| Broken::Malformed)?;
    let mut again = String::with_capacity(line.len());
    canonical(&value, &mut again);
    if again != line {
        return Err(Broken::Malformed);
    }
    let members = value.as_object_mut().ok_or(Broken::Malformed)?;
    let hash = members.remove("hash");
    let hash = hash.as_ref().and_then(Value::as_str).and_then(unhex).ok_or(Broken::Malformed)?;
    let said = members.get("prevHash").and_then(Value::as_str).and_then(unhex).ok_or(Broken::Malformed)?;
    let seq = members.get("seq").and_then(Value::as_u64).ok_or(Broken::Malformed)?;
    let before = seq.checked_sub(1).ok_or(Broken::Malformed)?;
    again.clear();
    canonical(&value, &mut again);
    if hash_of(&said, &again) != hash {
        return Err(Broken::Edited);
    }
    if prev.is_some_and(|prev| prev.hash != said || prev.seq != before) {
        return Err(Broken::Unlinked);
    }
    if let Some(members) = value.as_object_mut() {
        members.insert("hash".to_owned(), hex(&hash).into());
    }
    Ok(Sealed { link: Link { seq, hash }, value, line: line.to_owned() })
}

/// What the signature of a head is over: the chain, the number of the head's record, the hash before it, its time.
#[must_use]
pub fn signed_text(chain: &str, seq: u64, prev: &Hash, time: &str) -> Vec<u8> {
    format!("meridian audit head v1\n{chain}\n{seq}\n{}\n{time}\n", hex(prev)).into_bytes()
}

/// A signed head, as a file, a board and another gateway's chain carry it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SignedHead {
    /// The chain.
    pub chain: String,
    /// Number of the head's record.
    pub seq: u64,
    /// Hash of the record before it.
    pub prev_hash: String,
    /// Time of the head's record.
    pub time: String,
    /// Public key, base64.
    pub public_key: String,
    /// Signature, base64.
    pub signature: String,
}

impl SignedHead {
    /// Whether the signature is that of the key the head names.
    #[must_use]
    pub fn is_genuine(&self) -> bool {
        let Some(prev) = unhex(&self.prev_hash) else { return false };
        let text = signed_text(&self.chain, self.seq, &prev, &self.time);
        let key = BASE64_STANDARD.decode(&self.public_key);
        let signature = BASE64_STANDARD.decode(&self.signature);
        let (Ok(key), Ok(signature)) = (key, signature) else { return false };
        super::key::is_signed(&key, &text, &signature)
    }

    /// The head that a record is, under the key its process named; none if it is another kind.
    #[must_use]
    pub fn of_record(record: &Value, public_key: &str) -> Option<Self> {
        let text = |member: &str| record.get(member).and_then(Value::as_str).map(str::to_owned);
        if text("kind")? != "head" {
            return None;
        }
        Some(Self {
            chain: text("chain")?,
            seq: record.get("seq")?.as_u64()?,
            prev_hash: text("prevHash")?,
            time: text("time")?,
            public_key: public_key.to_owned(),
            signature: text("signature")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::audit::record::Gap;

    fn chain(len: u64) -> Vec<Sealed> {
        let mut link = Link::GENESIS;
        let entry = |n| Entry::Gap(Gap { lost: n });
        (0..len)
            .map(|n| {
                let sealed = seal(&link, Time::from_unix_ms(1_767_225_600_000), &entry(n));
                link = sealed.link;
                sealed
            })
            .collect()
    }

    fn check(lines: &[String]) -> Result<Link, Broken> {
        let mut link = Link::GENESIS;
        for line in lines {
            link = follow(Some(&link), line)?.link;
        }
        Ok(link)
    }

    #[test]
    fn a_line_has_one_form() {
        let sealed = chain(1).remove(0);
        insta::assert_snapshot!(sealed.line);
        assert_eq!(follow(Some(&Link::GENESIS), &sealed.line), Ok(sealed));
    }

    #[test]
    fn hexadecimal_has_one_spelling() {
        let hash = [0xab; HASH_LEN];
        assert_eq!(unhex(&hex(&hash)), Some(hash));
        assert_eq!(unhex(&hex(&hash).to_uppercase()), None);
        assert_eq!(unhex("ab"), None);
        assert_eq!(unhex(&"é".repeat(HASH_LEN)), None);
    }

    proptest! {
        #[test]
        fn no_edited_byte_follows(len in 1_u64..6, at in any::<prop::sample::Index>(), to in any::<u8>()) {
            let sealed = chain(len);
            let good: Vec<String> = sealed.iter().map(|s| s.line.clone()).collect();
            prop_assert_eq!(check(&good), Ok(sealed.last().unwrap().link));
            let text = good.join("\n");
            let mut bytes = text.clone().into_bytes();
            let at = at.index(bytes.len());
            bytes[at] = to;
            let Ok(edited) = String::from_utf8(bytes) else { return Ok(()) };
            prop_assume!(edited != text);
            let lines: Vec<String> = edited.split('\n').map(str::to_owned).collect();
            prop_assert!(check(&lines).is_err(), "{}", edited);
        }

        #[test]
        fn no_dropped_added_or_moved_line_follows(len in 3_usize..8, a in any::<prop::sample::Index>(), b in any::<prop::sample::Index>()) {
            let good: Vec<String> = chain(u64::try_from(len).unwrap()).iter().map(|s| s.line.clone()).collect();
            let (a, b) = (a.index(len), b.index(len));
            let mut dropped = good.clone();
            dropped.remove(a.min(len - 2));
            prop_assert!(check(&dropped).is_err());
            let mut doubled = good.clone();
            doubled.insert(b, good[a].clone());
            prop_assert!(check(&doubled).is_err());
            let mut moved = good.clone();
            moved.swap(a, b);
            prop_assert_eq!(check(&moved).is_ok(), a == b);
        }
    }
}
