//! What tells whether a file or folder changed: its times, device and inode.
//!
//! What changed within two seconds before it was looked at may have changed again without another time stamp, so it does
//! not count (git's "racy" entries). All clocks are the file system's: the time stamp of the memo that a stamp is kept in,
//! less the time between looking and writing, says when that was.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

/// How old a change must be, in nanoseconds.
pub(super) const SETTLED_NS: i128 = 2_000_000_000;

/// Times, device and inode; all zero of what is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp {
    modified_ns: i128,
    changed_ns: i128,
    device: u64,
    inode: u64,
}

impl Stamp {
    /// The bytes of a stamp.
    pub(super) const LEN: usize = 48;

    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            modified_ns: modified_ns(metadata),
            changed_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }

    /// Returns whether nothing had changed for long enough at a time.
    pub(super) fn was_settled(&self, seen_ns: i128) -> bool {
        self.changed_ns() + SETTLED_NS <= seen_ns
    }

    /// Returns when something was changed last, in nanoseconds since 1970.
    pub(super) fn changed_ns(&self) -> i128 {
        self.modified_ns.max(self.changed_ns)
    }

    pub(super) fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let (times, place) = bytes.split_at_mut(32);
        times[..16].copy_from_slice(&self.modified_ns.to_le_bytes());
        times[16..].copy_from_slice(&self.changed_ns.to_le_bytes());
        place[..8].copy_from_slice(&self.device.to_le_bytes());
        place[8..].copy_from_slice(&self.inode.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; Self::LEN]) -> Self {
        let (times, place) = bytes.split_at(32);
        let (times, place) = (times.as_chunks().0, place.as_chunks().0);
        Self {
            modified_ns: i128::from_le_bytes(times[0]),
            changed_ns: i128::from_le_bytes(times[1]),
            device: u64::from_le_bytes(place[0]),
            inode: u64::from_le_bytes(place[1]),
        }
    }
}

/// Returns when a file was last written, in nanoseconds since 1970.
pub(super) fn modified_ns(metadata: &Metadata) -> i128 {
    ns(metadata.mtime(), metadata.mtime_nsec())
}

fn ns(seconds: i64, nanoseconds: i64) -> i128 {
    i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds)
}
