//! Signature nonces seen lately, so that a captured request cannot be sent twice.

use std::collections::{HashSet, VecDeque};

use sha2::{Digest, Sha256};

/// Nonces are kept for twice the clock window: a request may carry a time 15 minutes ahead and be
/// replayed until that time is 15 minutes past (README 3.2).
pub(crate) const KEEP_MS: i64 = 30 * 60 * 1_000;

/// Most nonces held. Beyond it the oldest are forgotten early, which weakens replay protection
/// instead of refusing service: 500,000 in 30 minutes is 277 calls a second.
const MAX_NONCES: usize = 500_000;

/// Digests of the nonces accepted in the last [`KEEP_MS`].
#[derive(Debug)]
pub(crate) struct NonceStore {
    most: usize,
    seen: HashSet<u128>,
    order: VecDeque<(i64, u128)>,
}

impl Default for NonceStore {
    fn default() -> Self {
        Self { most: MAX_NONCES, seen: HashSet::new(), order: VecDeque::new() }
    }
}

impl NonceStore {
    /// Records a nonce. False when this key used it before and it is still remembered.
    ///
    /// Call it only after the signature was found good: otherwise anybody could burn the nonces of
    /// somebody else's requests.
    pub(crate) fn record(&mut self, key_id: &str, nonce: &str, now_ms: i64) -> bool {
        while let Some((at, digest)) = self.order.front().copied() {
            if at + KEEP_MS > now_ms && self.order.len() < self.most {
                break;
            }
            self.order.pop_front();
            self.seen.remove(&digest);
        }
        let digest = digest(key_id, nonce);
        if !self.seen.insert(digest) {
            return false;
        }
        self.order.push_back((now_ms, digest));
        true
    }
}

/// 128 bits of SHA-256: entries of one size whatever the caller sent.
fn digest(key_id: &str, nonce: &str) -> u128 {
    let hash = Sha256::digest(format!("{}:{key_id}:{nonce}", key_id.len()));
    hash.iter().take(16).fold(0, |number, byte| number << 8 | u128::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_good_once_per_key_until_forgotten() {
        let mut store = NonceStore::default();
        assert!(store.record("a", "n", 0));
        assert!(!store.record("a", "n", KEEP_MS - 1));
        assert!(store.record("b", "n", KEEP_MS - 1));
        assert!(store.record("a", "n", KEEP_MS));
    }

    #[test]
    fn the_store_is_bounded() {
        let mut store = NonceStore { most: 100, ..NonceStore::default() };
        for n in 0..150 {
            assert!(store.record("a", &n.to_string(), 0));
        }
        assert_eq!((store.seen.len(), store.order.len()), (100, 100));
        assert!(!store.record("a", "149", 0));
        assert!(store.record("a", "0", 0), "the oldest are forgotten first");
    }
}
