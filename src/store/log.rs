//! The log: an append-only file of checksummed frames, the only truth about what was made.
//!
//! A frame is [`MARK`], the payload's length (u32 LE), the first 8 bytes of the payload's BLAKE3, and the payload: the
//! checksum of the frame before (zeros in the first), then a record. So the checksum of one frame stands for all the log
//! up to it. After damage, reading goes on at the next mark with a whole frame behind it.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::base::Digest;

/// Starts a frame; no UTF-8 text has its first byte before an ASCII one.
const MARK: [u8; 4] = *b"\x89tlm";

/// The bytes of mark, length and checksum.
pub(super) const HEADER: usize = 16;

/// The bytes of a checksum.
const SUM: usize = 8;

/// How much is read at once.
const CHUNK: u64 = 1 << 20;

/// What most frames fit into.
const FRAME: u64 = 2 << 10;

/// How far a log was read, and how to tell whether another file goes on from there: by the last frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Point {
    /// Where the last whole frame begins.
    pub(super) last: u64,
    /// Where it ends.
    pub(super) end: u64,
    /// Its header.
    pub(super) header: [u8; HEADER],
}

impl Point {
    /// The bytes of a point.
    pub(super) const LEN: usize = 16 + HEADER;

    pub(super) fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let places = [self.last, self.end].map(u64::to_le_bytes);
        bytes[..16].copy_from_slice(places.as_flattened());
        bytes[16..].copy_from_slice(&self.header);
        bytes
    }

    pub(super) fn decode(bytes: &[u8; Self::LEN]) -> Self {
        let (places, header) = bytes.split_at(16);
        let (places, header) = (places.as_chunks().0, header.as_chunks().0);
        let place = |at: usize| u64::from_le_bytes(places[at]);
        Self { last: place(0), end: place(1), header: header[0] }
    }

    /// Returns whether nothing was added to a store's log behind this point.
    pub(super) fn is_end_of(&self, log: &Path) -> bool {
        match File::open(log) {
            Ok(log) => {
                self.is_on(&log) && log.metadata().is_ok_and(|found| found.len() == self.end)
            }
            Err(error) => error.kind() == io::ErrorKind::NotFound && self.end == 0,
        }
    }

    /// Returns whether the log is the one that was read, or goes on from it.
    pub(super) fn is_on(&self, log: &File) -> bool {
        let mut header = [0; HEADER];
        self.end == 0
            || (log.metadata().is_ok_and(|found| found.len() >= self.end)
                && log.read_exact_at(&mut header, self.last).is_ok()
                && header == self.header)
    }

    /// Returns the frame that goes on from here with a record, and the point behind it.
    pub(super) fn frame(&self, record: &[u8]) -> io::Result<(Vec<u8>, Self)> {
        let payload = [&self.header[HEADER - SUM..], record].concat();
        let too_long = |_| io::Error::new(io::ErrorKind::FileTooLarge, "the record is too long");
        let len = u32::try_from(payload.len()).map_err(too_long)?;
        let mut frame = MARK.to_vec();
        frame.extend(len.to_le_bytes());
        frame.extend(checksum(&payload));
        frame.extend(payload);
        let next = Self::behind(self.end, &frame);
        Ok((frame, next))
    }

    fn behind(last: u64, frame: &[u8]) -> Self {
        let header = *frame.first_chunk().expect("a frame has a header");
        Self { last, end: last + frame.len() as u64, header }
    }
}

/// Hands all whole frames behind a point to `each`, with their places; it returns whether a record is in it. Returns the
/// point behind the last frame, and the bytes before it that are no record.
pub(super) fn scan(
    log: &File,
    from: Point,
    mut each: impl FnMut(u64, &[u8]) -> bool,
) -> io::Result<(Point, Vec<Range<u64>>)> {
    let mut window = Window { log, len: log.metadata()?.len(), start: from.end, bytes: Vec::new() };
    let (mut point, mut gaps, mut at) = (from, Vec::new(), from.end);
    while let Some(start) = window.next_mark(at)? {
        at = start + 1;
        if let Some(frame) = window.frame(start)? {
            if start > point.end {
                gaps.push(point.end..start);
            }
            // A whole frame of another form was written by another tlm; both are told as damage.
            let is_record = each(start, &frame[HEADER + SUM..]);
            point = Point::behind(start, frame);
            at = point.end;
            if !is_record {
                gaps.push(start..at);
            }
        }
    }
    Ok((point, gaps))
}

/// Reads the record of one frame; none when it is damaged.
pub(super) fn read(log: &File, at: u64) -> io::Result<Option<Vec<u8>>> {
    let mut window = Window { log, len: u64::MAX, start: at, bytes: Vec::new() };
    window.load(at, FRAME)?;
    if window.bytes.first_chunk().is_some_and(|header| frame_len(header) > FRAME) {
        window.len = log.metadata()?.len();
    }
    Ok(window.frame(at)?.map(|frame| frame[HEADER + SUM..].to_vec()))
}

/// A part of the log, moved from its front to its back.
struct Window<'f> {
    log: &'f File,
    len: u64,
    /// Where the part begins.
    start: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    fn next_mark(&mut self, mut from: u64) -> io::Result<Option<u64>> {
        loop {
            let bytes = self.rest(from, HEADER as u64)?;
            if bytes.len() < HEADER {
                return Ok(None);
            }
            match bytes.iter().position(|byte| *byte == MARK[0]) {
                Some(place) => return Ok(Some(from + place as u64)),
                None => from += bytes.len() as u64,
            }
        }
    }

    /// Returns the frame that begins here, if it is whole.
    fn frame(&mut self, start: u64) -> io::Result<Option<&[u8]>> {
        let rest = self.rest(start, HEADER as u64)?;
        let Some(header) = rest.first_chunk::<HEADER>().filter(|header| header[..4] == MARK) else {
            return Ok(None);
        };
        let len = frame_len(header);
        if self.len < start + len {
            return Ok(None);
        }
        let frame = self.rest(start, len)?.get(..len as usize);
        let is_whole = |frame: &&[u8]| {
            frame.len() >= HEADER + SUM && frame[HEADER - SUM..HEADER] == checksum(&frame[HEADER..])
        };
        Ok(frame.filter(is_whole))
    }

    /// Returns what is loaded from here on: as much as is wanted, if the log has it.
    fn rest(&mut self, from: u64, wanted: u64) -> io::Result<&[u8]> {
        let loaded = self.start + self.bytes.len() as u64;
        if from + wanted > loaded && loaded < self.len {
            self.load(from, wanted.max(CHUNK))?;
        }
        Ok(self.bytes.get((from - self.start) as usize..).unwrap_or_default())
    }

    /// Moves the window to begin here and be so long, or as long as the log has it.
    fn load(&mut self, from: u64, wanted: u64) -> io::Result<()> {
        let passed = ((from - self.start) as usize).min(self.bytes.len());
        self.bytes.drain(..passed);
        self.start = from;
        let mut loaded = self.bytes.len();
        self.bytes.resize(wanted.min(self.len - from) as usize, 0);
        while loaded < self.bytes.len() {
            match self.log.read_at(&mut self.bytes[loaded..], from + loaded as u64) {
                // A writer may cut off what a crash left.
                Ok(0) => {
                    self.bytes.truncate(loaded);
                    self.len = from + loaded as u64;
                }
                Ok(read) => loaded += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn frame_len(header: &[u8; HEADER]) -> u64 {
    HEADER as u64 + u64::from(u32::from_le_bytes([header[4], header[5], header[6], header[7]]))
}

fn checksum(payload: &[u8]) -> [u8; SUM] {
    Digest::of(payload).seed().to_le_bytes()
}
