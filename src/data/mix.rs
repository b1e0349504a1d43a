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
}

/// Returns 64 random bits: three rounds of the SplitMix64 finaliser.
pub fn mix(seed: u64, stream: Stream, id: u64) -> u64 {
    let keyed = finalise(seed.wrapping_add(0x9E37_79B9_7F4A_7C15).wrapping_mul(stream as u64 | 1));
    finalise(finalise(keyed ^ ((stream as u64) << 56)) ^ splitmix(id))
}

/// Returns a standard Gumbel number, from a uniform one strictly inside (0, 1).
pub fn gumbel(bits: u64) -> f64 {
    let uniform = ((bits >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -(-uniform.ln()).ln()
}

/// Returns a well-mixed function of a number: one step of SplitMix64.
pub fn splitmix(value: u64) -> u64 {
    finalise(value.wrapping_add(0x9E37_79B9_7F4A_7C15))
}

fn finalise(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
