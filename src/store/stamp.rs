//! What tells whether a file or folder changed: its times, device and inode.
//!
//! What changed within two seconds before it was looked at may have changed again without another time stamp, so it does
//! not count (git's "racy" entries). All clocks are the file system's: the time stamp of the memo that a stamp is kept in,
//! less the time between looking and writing, says when that was.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use serde::{Deserialize, Serialize};

/// How old a change must be, in nanoseconds.
const SETTLED_NS: i128 = 2_000_000_000;

/// Times, device and inode; all zero of what is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
        self.modified_ns.max(self.changed_ns) + SETTLED_NS <= seen_ns
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let times = [self.modified_ns, self.changed_ns].map(i128::to_le_bytes);
        let place = [self.device, self.inode].map(u64::to_le_bytes);
        [times.as_flattened(), place.as_flattened()].concat()
    }
}

/// Returns when a file was last written, in nanoseconds since 1970.
pub(super) fn modified_ns(metadata: &Metadata) -> i128 {
    ns(metadata.mtime(), metadata.mtime_nsec())
}

fn ns(seconds: i64, nanoseconds: i64) -> i128 {
    i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds)
}
