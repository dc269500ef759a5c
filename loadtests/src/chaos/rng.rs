//! Draws that follow from a seed alone, whatever crate versions do.

/// `SplitMix64`.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// A generator.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from `from` up to, not including, `to`; `from` if there is none.
    pub const fn within(&mut self, from: u64, to: u64) -> u64 {
        let span = to.saturating_sub(from);
        if span == 0 { from } else { from + self.next() % span }
    }

    /// Whether something of so many percent happens.
    pub const fn percent(&mut self, chance: u64) -> bool {
        self.within(0, 100) < chance
    }

    /// One of several; none of none.
    pub fn pick<'t, T>(&mut self, from: &'t [T]) -> Option<&'t T> {
        from.get(usize::try_from(self.within(0, from.len() as u64)).unwrap_or_default())
    }

    /// A generator of its own, for a part that shall not shift the draws of others.
    #[must_use]
    pub const fn fork(&mut self) -> Self {
        Self(self.next())
    }
}
