//! BLAKE3-256 digests. The only file, with `canon.rs` and `pieces.rs`, that names `blake3`.

use std::fmt;
use std::io::{self, Read};
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How much is read before it is hashed; all cores share in that.
const CHUNK_BYTES: u64 = 4 << 20;

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// How many digits a screen shows.
const SHORT: usize = 12;

/// A 256-bit BLAKE3 digest, shown as 64 lowercase hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Returns the digest of bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Returns the digest of a file's content, equal to what `b3sum` prints. Nobody may change the file meanwhile.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn of_file(path: &Path) -> io::Result<Self> {
        let mut hasher = blake3::Hasher::new();
        hasher.update_mmap_rayon(path)?;
        Ok(Self(*hasher.finalize().as_bytes()))
    }

    /// Returns the digest of all that a reader gives: for files that others may cut while they are read, which ends a
    /// process that has them mapped.
    ///
    /// # Errors
    /// When the reader fails.
    pub fn of_reader(mut reader: impl Read) -> io::Result<Self> {
        let mut hasher = blake3::Hasher::new();
        let mut chunk = Vec::new();
        while reader.by_ref().take(CHUNK_BYTES).read_to_end(&mut chunk)? > 0 {
            hasher.update_rayon(&chunk);
            chunk.clear();
        }
        Ok(Self(*hasher.finalize().as_bytes()))
    }

    /// Returns the raw bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns the first 12 digits, for screens only.
    pub fn short(&self) -> String {
        self.digits(SHORT)
    }

    /// Returns so many of the first digits.
    pub fn digits(&self, count: usize) -> String {
        let halves = self.0.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        halves.take(count).map(|half| char::from(DIGITS[usize::from(half)])).collect()
    }

    /// Returns the first eight bytes as a little-endian integer, to derive seeds.
    pub fn seed(&self) -> u64 {
        let mut first = [0; 8];
        first.copy_from_slice(&self.0[..8]);
        u64::from_le_bytes(first)
    }
}

/// Returns how many first digits tell these digests apart on a screen: 12, or more where two have those in common.
pub fn telling_digits(digests: impl IntoIterator<Item = Digest>) -> usize {
    let mut sorted: Vec<_> = digests.into_iter().collect();
    sorted.sort_unstable();
    sorted.dedup();
    let common = sorted.windows(2).map(|pair| common_digits(&pair[0], &pair[1]));
    common.max().map_or(SHORT, |common| SHORT.max(common + 1))
}

fn common_digits(a: &Digest, b: &Digest) -> usize {
    let differs = a.0.iter().zip(&b.0).position(|(a, b)| a != b);
    let Some(at) = differs else { return 2 * a.0.len() };
    2 * at + usize::from(a.0[at] >> 4 == b.0[at] >> 4)
}

/// Takes the raw bytes of a digest.
impl From<[u8; 32]> for Digest {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.digits(2 * self.0.len()))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({})", self.short())
    }
}

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return Err(ParseDigestError);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let nibble = |c: u8| match c {
                b'0'..=b'9' => Ok(c - b'0'),
                b'a'..=b'f' => Ok(c - b'a' + 10),
                _ => Err(ParseDigestError),
            };
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Ok(Self(bytes))
    }
}

/// A text that is not 64 lowercase hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected 64 lowercase hexadecimal digits")]
pub struct ParseDigestError;

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
