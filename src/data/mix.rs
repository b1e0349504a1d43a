//! Random numbers as a pure function of (seed, stream, id): independent of order, threads and machine.

/// Keeps uses of one seed apart.
#[derive(Clone, Copy, Debug)]
pub enum Stream {
    /// Which documents go into `valid`.
    Split = 1,
    /// Gumbel noise of a unit.
    Gumbel = 2,
    /// Order of drawn units.
    Order = 3,
    /// Which part a document goes into.
    Part = 4,
    /// Hash functions of a MinHash.
    Hash = 5,
    /// Which documents are looked at again.
    Check = 6,
}

/// Returns 64 random bits: three rounds of the SplitMix64 finaliser.
#[inline]
pub fn mix(seed: u64, stream: Stream, id: u64) -> u64 {
    let keyed = finalise(seed.wrapping_add(0x9E37_79B9_7F4A_7C15).wrapping_mul(stream as u64 | 1));
    finalise(finalise(keyed ^ ((stream as u64) << 56)) ^ splitmix(id))
}

/// Returns a standard Gumbel number, from a uniform one strictly inside (0, 1).
#[inline]
pub fn gumbel(bits: u64) -> f64 {
    // The largest one would be rounded to 1.
    let uniform = ((bits >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    let uniform = uniform.min(1.0 - f64::EPSILON / 2.0);
    -(-uniform.ln()).ln()
}

/// Returns a well-mixed function of a number: one step of SplitMix64.
#[inline]
pub fn splitmix(value: u64) -> u64 {
    finalise(value.wrapping_add(0x9E37_79B9_7F4A_7C15))
}

/// Returns which of `count` things comes at a position of endless shuffled passes over them. Each pass has every one once;
/// no list of them is kept.
///
/// # Panics
/// When `count` is 0.
pub fn shuffled(position: u64, count: u64, seed: u64) -> u64 {
    let key = splitmix(seed ^ splitmix(position / count));
    let half = (64 - (count - 1).leading_zeros()).div_ceil(2).max(1);
    let mask = (1_u64 << half) - 1;
    let mut value = position % count;
    // A Feistel network permutes the power of four above `count`; walking on until inside permutes `count`.
    loop {
        let (mut left, mut right) = (value >> half, value & mask);
        for round in 0..6 {
            let next = left ^ (splitmix(key ^ (round << 56) ^ right) & mask);
            (left, right) = (right, next);
        }
        value = left << half | right;
        if value < count {
            return value;
        }
    }
}

#[inline]
fn finalise(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::shuffled;

    #[test]
    fn each_pass_has_every_thing_once_in_its_own_order() {
        for count in [1, 2, 3, 7, 64, 1000] {
            let pass = |epoch: u64| -> Vec<u64> {
                (0..count).map(|i| shuffled(epoch * count + i, count, 7)).collect()
            };
            let mut first = pass(0);
            assert!(count < 7 || first != pass(1), "{count}");
            first.sort_unstable();
            assert_eq!(first, (0..count).collect::<Vec<_>>());
        }
    }
}
