//! Files that may be lost: a name of eight bytes, the digest of all that follows, and that. One that is not as it was
//! written is not there.

use crate::base::Digest;
use crate::store::record::DIGEST;

/// What is before the content.
pub(super) const FRONT: usize = 8 + DIGEST;

/// Returns the file with a content.
pub(super) fn seal(name: [u8; 8], content: &[u8]) -> Vec<u8> {
    [&name[..], Digest::of(content).as_bytes(), content].concat()
}

/// Returns the content of a file, if it is whole.
pub(super) fn open(name: [u8; 8], file: &[u8]) -> Option<&[u8]> {
    let (digest, content) = file.strip_prefix(&name)?.split_first_chunk::<DIGEST>()?;
    (Digest::from(*digest) == Digest::of(content)).then_some(content)
}
