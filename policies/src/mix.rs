//! A seeded hash for tie-breaks and jitter.
//!
//! Written out rather than taken from `std`, whose hasher may change with the compiler: a decision that was
//! recorded with its seed must be the same when it is replayed by another build. Not for secrets.

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// A number that depends on the seed and on every part, and on where one part ends and the next begins.
pub(crate) fn mix(seed: u64, parts: &[&str]) -> u64 {
    let mut hash = FNV_OFFSET ^ finish(seed);
    for part in parts {
        // 0xff is in no UTF-8 text, so ("ab", "c") and ("a", "bc") differ.
        for byte in part.bytes().chain([0xff]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME);
        }
    }
    finish(hash)
}

/// The finaliser of SplitMix64: spreads near-equal inputs over all bits.
pub(crate) fn finish(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_seed_matter_and_the_value_is_fixed() {
        assert_ne!(mix(1, &["ab", "c"]), mix(1, &["a", "bc"]));
        assert_ne!(mix(1, &["a"]), mix(2, &["a"]));
        // Fixed: a change here would change the tie-breaks of recorded decisions.
        assert_eq!(mix(0, &[]), mix(0, &[]));
        assert_eq!(finish(0), 0xe220_a839_7b1d_cdaf);
    }
}
