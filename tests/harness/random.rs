//! Numbers that look random, and are the same ones for the same seed (splitmix64).

/// A source of them, with its seed.
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    /// Takes one of several out.
    ///
    /// # Panics
    /// When there is none.
    pub fn choose<T>(&mut self, from: &mut Vec<T>) -> T {
        let count = u64::try_from(from.len()).expect("a small number");
        let index = usize::try_from(self.below(count)).expect("a small number");
        from.swap_remove(index)
    }
}
