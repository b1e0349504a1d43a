//! Digests of files by pieces. BLAKE3 is a tree, so the digests of equal pieces merge to that of the whole file: one pass
//! gives both, on all cores, and a piece can be checked alone.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use blake3::Hasher;
use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use rayon::prelude::{IntoParallelIterator, ParallelIterator};

use crate::base::Digest;

/// The bytes of a piece; the last one of a file may be shorter. A power of two, as subtrees are.
pub const PIECE_BYTES: u64 = 1 << 20;

/// The digest of a file, and those of its pieces if it has more than one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pieces {
    /// The digest of the whole file, what `b3sum` prints.
    pub whole: Digest,
    /// The digests of the pieces, in order; none if the file is no longer than one.
    pub parts: Vec<Digest>,
}

impl Pieces {
    /// Hashes a file of so many bytes. Between reading, `tell` hears how many bytes more were read, on any thread.
    ///
    /// # Errors
    /// When the file can't be read, or is shorter.
    pub fn of_file(file: &File, bytes: u64, tell: &(dyn Fn(u64) + Sync)) -> io::Result<Self> {
        let read = |buffer: &mut Vec<u8>, range: Range<u64>| {
            buffer.resize((range.end - range.start) as usize, 0);
            file.read_exact_at(buffer, range.start)?;
            tell(buffer.len() as u64);
            io::Result::Ok(())
        };
        if bytes <= PIECE_BYTES {
            let mut buffer = Vec::new();
            read(&mut buffer, 0..bytes)?;
            return Ok(Self { whole: Digest::of(&buffer), parts: Vec::new() });
        }
        let part = |buffer: &mut Vec<u8>, range: Range<u64>| {
            let start = range.start;
            read(buffer, range)?;
            let mut hasher = Hasher::new();
            Ok(hasher.set_input_offset(start).update(buffer).finalize_non_root().into())
        };
        let parts: Vec<Digest> = (0..count(bytes))
            .into_par_iter()
            .map_init(Vec::new, |buffer, number| part(buffer, range(number, bytes)))
            .collect::<io::Result<_>>()?;
        Ok(Self { whole: root(&parts), parts })
    }

    /// Returns whether these can be the digests of a file of so many bytes: as many as it has pieces, and they merge to that
    /// of the whole. So they need no checksum.
    pub fn is_of(&self, bytes: u64) -> bool {
        match self.parts.is_empty() {
            true => bytes <= PIECE_BYTES,
            false => {
                bytes > PIECE_BYTES
                    && self.parts.len() as u64 == count(bytes)
                    && root(&self.parts) == self.whole
            }
        }
    }

    /// Returns the byte ranges of a file of so many bytes in which another one differs; neighbours are joined.
    pub fn differences(&self, bytes: u64, other: &Self) -> Vec<Range<u64>> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        if self.parts.is_empty() && self.whole != other.whole {
            ranges.push(0..bytes);
        }
        for (number, part) in self.parts.iter().enumerate() {
            let range = range(number as u64, bytes);
            match ranges.last_mut() {
                _ if other.parts.get(number) == Some(part) => {}
                Some(last) if last.end == range.start => last.end = range.end,
                _ => ranges.push(range),
            }
        }
        ranges
    }
}

/// Returns how many pieces a file of so many bytes has.
fn count(bytes: u64) -> u64 {
    bytes.div_ceil(PIECE_BYTES)
}

fn range(number: u64, bytes: u64) -> Range<u64> {
    let start = number * PIECE_BYTES;
    start..bytes.min(start + PIECE_BYTES)
}

/// Merges the digests of at least two pieces to that of the whole.
fn root(parts: &[Digest]) -> Digest {
    let (left, right) = halves(parts);
    Digest::from(*merge_subtrees_root(&node(left), &node(right), Mode::Hash).as_bytes())
}

fn node(parts: &[Digest]) -> [u8; 32] {
    match parts {
        [one] => *one.as_bytes(),
        several => {
            let (left, right) = halves(several);
            merge_subtrees_non_root(&node(left), &node(right), Mode::Hash)
        }
    }
}

/// The left half is the largest power of two that leaves something to the right.
fn halves(parts: &[Digest]) -> (&[Digest], &[Digest]) {
    parts.split_at(parts.len().div_ceil(2).next_power_of_two())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn pieces(bytes: &[u8]) -> Pieces {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let told = AtomicU64::new(0);
        let tell = |read| {
            told.fetch_add(read, Ordering::Relaxed);
        };
        let pieces = Pieces::of_file(file.as_file(), bytes.len() as u64, &tell).unwrap();
        assert_eq!(told.into_inner(), bytes.len() as u64);
        pieces
    }

    fn content(len: u64) -> Vec<u8> {
        (0..len).map(|at| ((at * at) >> 7) as u8).collect()
    }

    #[test]
    fn pieces_merge_to_the_digest_of_the_whole_at_every_number_of_them() {
        let edges = (0..9).flat_map(|count| {
            [-1, 0, 1, 1025].map(|more| (count * PIECE_BYTES).saturating_add_signed(more))
        });
        let all = content(9 * PIECE_BYTES);
        for len in edges {
            let bytes = &all[..len as usize];
            let pieces = pieces(bytes);
            assert_eq!(pieces.whole, Digest::of(bytes), "{len} bytes");
            assert!(pieces.is_of(len), "{len} bytes");
            let others = [len + PIECE_BYTES, len.saturating_sub(PIECE_BYTES)];
            let is_of_another = |other: &&u64| **other > PIECE_BYTES && pieces.is_of(**other);
            assert_eq!(others.iter().find(is_of_another), None, "{len} bytes");
        }
    }

    #[test]
    fn a_changed_piece_is_named_by_its_bytes() {
        let whole = content(3 * PIECE_BYTES + 10);
        for (at, expected) in [
            (&[0][..], 0..PIECE_BYTES),
            (&[PIECE_BYTES, 3 * PIECE_BYTES - 1], PIECE_BYTES..3 * PIECE_BYTES),
            (&[3 * PIECE_BYTES + 9], 3 * PIECE_BYTES..3 * PIECE_BYTES + 10),
        ] {
            let mut bytes = whole.clone();
            at.iter().for_each(|at| bytes[*at as usize] ^= 1);
            let found = pieces(&whole).differences(bytes.len() as u64, &pieces(&bytes));
            assert_eq!(found, [expected], "{at:?}");
        }
        let found = pieces(&whole);
        let forged = Pieces { parts: found.parts.iter().rev().copied().collect(), ..found };
        assert!(!forged.is_of(whole.len() as u64));
    }

    #[test]
    fn a_file_that_became_shorter_can_t_be_read() {
        for len in [10, 2 * PIECE_BYTES] {
            let file = tempfile::NamedTempFile::new().unwrap();
            assert!(Pieces::of_file(file.as_file(), len, &|_| {}).is_err(), "{len} bytes");
        }
    }
}
