//! GGML's block formats, dequantised to f32. Layouts follow `ggml-quants.c`; numbers equal those of the `gguf` package.

use half::{bf16, f16};

/// How a GGUF tensor's numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quant {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
}

impl Quant {
    /// Returns the type with GGML's number, if it is supported.
    pub(crate) fn of(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            10 => Self::Q2K,
            11 => Self::Q3K,
            12 => Self::Q4K,
            13 => Self::Q5K,
            14 => Self::Q6K,
            30 => Self::Bf16,
            _ => return None,
        })
    }

    /// Returns a block's numbers and bytes.
    pub(crate) fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q5_1 => (32, 24),
            Self::Q8_0 => (32, 34),
            Self::Q2K => (256, 84),
            Self::Q3K => (256, 110),
            Self::Q4K => (256, 144),
            Self::Q5K => (256, 176),
            Self::Q6K => (256, 210),
        }
    }

    /// Returns the numbers of whole blocks.
    pub(crate) fn dequantise(self, bytes: &[u8]) -> Vec<f32> {
        let (numbers, size) = self.block();
        let mut out = Vec::with_capacity(bytes.len() / size * numbers);
        for block in bytes.chunks_exact(size) {
            match self {
                Self::F32 => {
                    out.push(f32::from_le_bytes([block[0], block[1], block[2], block[3]]));
                }
                Self::F16 => out.push(half(block, 0)),
                Self::Bf16 => out.push(bf16::from_le_bytes([block[0], block[1]]).to_f32()),
                Self::Q4_0 => nibbles(half(block, 0), -8.0, 0.0, None, &block[2..], &mut out),
                Self::Q4_1 => {
                    nibbles(half(block, 0), 0.0, half(block, 2), None, &block[4..], &mut out);
                }
                Self::Q5_0 => {
                    let high = Some(&block[2..6]);
                    nibbles(half(block, 0), -16.0, 0.0, high, &block[6..], &mut out);
                }
                Self::Q5_1 => {
                    let high = Some(&block[4..8]);
                    nibbles(half(block, 0), 0.0, half(block, 2), high, &block[8..], &mut out);
                }
                Self::Q8_0 => {
                    let scale = half(block, 0);
                    out.extend(block[2..].iter().map(|&q| scale * f32::from(q.cast_signed())));
                }
                Self::Q2K => q2_k(block, &mut out),
                Self::Q3K => q3_k(block, &mut out),
                Self::Q4K => q4_k(block, &mut out),
                Self::Q5K => q5_k(block, &mut out),
                Self::Q6K => q6_k(block, &mut out),
            }
        }
        out
    }
}

fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Appends 32 numbers `scale * (q + shift) + base`: first the low halves of the bytes, then the high ones, with
/// a fifth bit each from `high`.
fn nibbles(scale: f32, shift: f32, base: f32, high: Option<&[u8]>, qs: &[u8], out: &mut Vec<f32>) {
    let bits = high.map_or(0, |four| u32::from_le_bytes([four[0], four[1], four[2], four[3]]));
    for index in 0..32 {
        let byte = qs[index % 16];
        let low = if index < 16 { byte & 15 } else { byte >> 4 };
        let q = u32::from(low) | (bits >> index & 1) << 4;
        out.push(scale * (q as f32 + shift) + base);
    }
}

/// 256 two-bit numbers in groups of 16, each with a four-bit scale and minimum.
fn q2_k(block: &[u8], out: &mut Vec<f32>) {
    let (scales, qs) = (&block[..16], &block[16..80]);
    let (scale, minimum) = (half(block, 80), half(block, 82));
    out.extend((0..256).map(|index| {
        let packed = scales[index / 16];
        let factor = scale * f32::from(packed & 15);
        factor * f32::from(two_bits(qs, index)) - minimum * f32::from(packed >> 4)
    }));
}

/// 256 three-bit numbers in groups of 16 with a six-bit scale; the high bits lie apart and mean four less where they are zero.
fn q3_k(block: &[u8], out: &mut Vec<f32>) {
    let (high, qs, packed, scale) =
        (&block[..32], &block[32..96], &block[96..108], half(block, 108));
    out.extend((0..256).map(|index| {
        let (group, at) = (index / 16 / 4, index / 16 % 4);
        let low = packed[group % 2 * 4 + at] >> (group / 2 * 4) & 15;
        let factor = i16::from(low | (packed[8 + at] >> (2 * group) & 3) << 4) - 32;
        let bit = high[index % 32] >> (index / 32) & 1;
        let q = i16::from(two_bits(qs, index)) - if bit == 0 { 4 } else { 0 };
        scale * f32::from(factor) * f32::from(q)
    }));
}

/// Returns a number of two halves of 128, in which a byte holds numbers that are 32 apart.
fn two_bits(qs: &[u8], index: usize) -> u8 {
    qs[index / 128 * 32 + index % 32] >> (index % 128 / 32 * 2) & 3
}

/// 256 four-bit numbers in eight groups of 32, each with a six-bit scale and minimum.
fn q4_k(block: &[u8], out: &mut Vec<f32>) {
    groups_of_32(block, &block[16..], |_, _| 0, out);
}

/// The same with a fifth bit of each number apart: a byte holds those of one place in all groups.
fn q5_k(block: &[u8], out: &mut Vec<f32>) {
    let high = &block[16..48];
    groups_of_32(block, &block[48..], |group, at| high[at] >> group & 1, out);
}

fn groups_of_32(block: &[u8], qs: &[u8], fifth: impl Fn(usize, usize) -> u8, out: &mut Vec<f32>) {
    let (scale, minimum, packed) = (half(block, 0), half(block, 2), &block[4..16]);
    for group in 0..8 {
        let (factor, base) = if group < 4 {
            (packed[group] & 63, packed[group + 4] & 63)
        } else {
            let top = packed[group + 4];
            (top & 15 | packed[group - 4] >> 2 & 48, top >> 4 | packed[group] >> 2 & 48)
        };
        let (factor, base) = (scale * f32::from(factor), minimum * f32::from(base));
        out.extend((0..32).map(|at| {
            let low = qs[group / 2 * 32 + at] >> (group % 2 * 4) & 15;
            factor * f32::from(low | fifth(group, at) << 4) - base
        }));
    }
}

/// 256 six-bit numbers in groups of 16 with an eight-bit scale; four low bits and two high bits lie apart.
fn q6_k(block: &[u8], out: &mut Vec<f32>) {
    let (low, high, scales, scale) =
        (&block[..128], &block[128..192], &block[192..208], half(block, 208));
    for index in 0..256 {
        let (part, at) = (index / 128, index % 128);
        let four = low[part * 64 + at % 64] >> (at / 64 * 4) & 15;
        let two = high[part * 32 + at % 32] >> (at / 32 * 2) & 3;
        let q = i16::from(four | two << 4) - 32;
        let factor = scale * f32::from(scales[index / 16].cast_signed());
        out.push(factor * f32::from(q));
    }
}

#[cfg(test)]
mod tests {
    use super::Quant;

    /// Blocks and numbers were written by `scripts/reference/model.py` with the `gguf` package.
    #[test]
    fn numbers_equal_the_gguf_package() {
        let text = include_str!("../../../tests/reference/model_quant.json");
        let json: serde_json::Value = serde_json::from_str(text).unwrap();
        for case in json.as_array().unwrap() {
            let number = case["type"].as_u64().unwrap() as u32;
            let bytes: Vec<u8> = serde_json::from_value(case["bytes"].clone()).unwrap();
            let expected: Vec<f32> = serde_json::from_value(case["numbers"].clone()).unwrap();
            let got = Quant::of(number).unwrap().dequantise(&bytes);
            assert_eq!(got.len(), expected.len(), "type {number}");
            for (got, expected) in got.iter().zip(&expected) {
                let close = (got - expected).abs() <= 1e-6 * expected.abs().max(1e-6);
                assert!(close, "type {number}: {got} instead of {expected}");
            }
        }
    }
}
