//! Arrays of whole numbers as `numpy.save` writes them (NEP 1): the `.meta` files beside the token caches of InternEvo
//! (`tools/tokenizer.py`), rows of a byte offset and a number of tokens.

use std::path::Path;

use crate::data::error::DataError;
use crate::data::mapped::Mapped;

/// The longest header; numpy's own take 118 bytes.
const HEADER_MAX: usize = 10_000;

/// A mapped array of rows of two numbers.
#[derive(Debug)]
pub struct Pairs {
    map: Mapped,
    start: usize,
    /// Bytes of a number: 4 or 8.
    width: usize,
    rows: usize,
}

impl Pairs {
    /// Maps a file.
    ///
    /// # Errors
    /// When it is no such array.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let map = Mapped::open(path)?;
        let (header, start) = header(map.bytes()).ok_or_else(|| {
            DataError::invalid(path, "no array as numpy writes it")
                .help("leave the `.meta` files out: the `.bin` files say all that is needed")
        })?;
        let invalid = |what: &str| {
            DataError::invalid(path, format!("{what}: {header}"))
                .help("leave the `.meta` files out: the `.bin` files say all that is needed")
        };
        let width = match field(header, "descr") {
            Some("'<i4'") => 4,
            Some("'<i8'") => 8,
            _ => return Err(invalid("its numbers are neither int32 nor int64")),
        };
        if field(header, "fortran_order") != Some("False") {
            return Err(invalid("its rows are no rows"));
        }
        let rows = rows(header).ok_or_else(|| invalid("its rows are not pairs"))?;
        let size = rows.checked_mul(2 * width).and_then(|size| size.checked_add(start));
        if size != Some(map.bytes().len()) {
            let size = map.bytes().len();
            return Err(invalid(&format!("its {size} bytes are not those of the array")));
        }
        Ok(Self { start, width, rows, map })
    }

    /// Returns the number of rows.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Returns whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Returns a row.
    ///
    /// # Panics
    /// When there is none at `index`.
    pub fn get(&self, index: usize) -> [i64; 2] {
        let row = &self.map.bytes()[self.start + index * 2 * self.width..][..2 * self.width];
        [0, 1].map(|at| {
            let number = &row[at * self.width..][..self.width];
            match self.width {
                4 => i64::from(i32::from_le_bytes(number.try_into().expect("4 bytes"))),
                _ => i64::from_le_bytes(number.try_into().expect("8 bytes")),
            }
        })
    }

    /// Returns whether a number that was written as `wanted` would come out so: numpy cuts off what has no room in an int32.
    pub fn is(&self, found: i64, wanted: u64) -> bool {
        match self.width {
            4 => found == i64::from(wanted as i32),
            _ => found == wanted as i64,
        }
    }

    /// Returns the path.
    pub fn path(&self) -> &Path {
        self.map.path()
    }
}

/// Returns the header's text, and where the numbers start.
fn header(bytes: &[u8]) -> Option<(&str, usize)> {
    let rest = bytes.strip_prefix(b"\x93NUMPY")?;
    let (version, rest) = rest.split_first_chunk::<2>()?;
    let (len, from) = match version {
        [1, _] => (usize::from(u16::from_le_bytes(*rest.first_chunk()?)), 10),
        [2 | 3, _] => (u32::from_le_bytes(*rest.first_chunk()?) as usize, 12),
        _ => return None,
    };
    if len > HEADER_MAX {
        return None;
    }
    let text = std::str::from_utf8(bytes.get(from..from + len)?).ok()?;
    Some((text.trim(), from + len))
}

/// Returns what stands for a name in `{'descr': '<i4', 'fortran_order': False, 'shape': (3, 2), }`, up to the comma.
fn field<'h>(header: &'h str, name: &str) -> Option<&'h str> {
    let (_, rest) = header.split_once(&format!("'{name}':"))?;
    Some(rest.split([',', '}']).next()?.trim())
}

fn rows(header: &str) -> Option<usize> {
    let (_, rest) = header.split_once("'shape':")?;
    let (shape, _) = rest.trim_start().strip_prefix('(')?.split_once(')')?;
    let (rows, columns) = shape.split_once(',')?;
    (columns.trim().trim_end_matches(',') == "2").then(|| rows.trim().parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, numbers: &[u8]) -> Vec<u8> {
        let len = (header.len() as u16).to_le_bytes();
        [b"\x93NUMPY\x01\x00", &len[..], header.as_bytes(), numbers].concat()
    }

    fn open(bytes: &[u8]) -> Result<Pairs, DataError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        Pairs::open(file.path())
    }

    const GOOD: &str = "{'descr': '<i4', 'fortran_order': False, 'shape': (2, 2), }   \n";

    #[test]
    fn rows_are_read_and_other_arrays_refused() {
        let numbers: Vec<u8> = [0_i32, 5, -7, 9].iter().flat_map(|n| n.to_le_bytes()).collect();
        let pairs = open(&file(GOOD, &numbers)).unwrap();
        assert_eq!((pairs.len(), pairs.get(0), pairs.get(1)), (2, [0, 5], [-7, 9]));
        assert!(pairs.is(-7, (1 << 32) - 7) && !pairs.is(-7, 7));
        let long: Vec<u8> = [1_i64 << 40, 5].iter().flat_map(|n| n.to_le_bytes()).collect();
        let header = "{'descr': '<i8', 'fortran_order': False, 'shape': (1, 2), }";
        assert_eq!(open(&file(header, &long)).unwrap().get(0), [1 << 40, 5]);
        for (from, to) in [
            ("<i4", ">i4"),
            ("<i4", "<f4"),
            ("False", "True"),
            ("(2, 2)", "(4,)"),
            ("(2, 2)", "(2, 2, 1)"),
            ("(2, 2)", "(3, 2)"),
            ("(2, 2)", "(99999999999999999999, 2)"),
            ("(2, 2)", "(9223372036854775807, 2)"),
        ] {
            assert!(open(&file(&GOOD.replace(from, to), &numbers)).is_err(), "{to}");
        }
    }

    proptest::proptest! {
        #[test]
        fn damaged_files_never_stop_it(at in 0..120usize, byte: u8, len in 0..120usize) {
            let mut bytes = file(GOOD, &[7; 16]);
            bytes.truncate(len);
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            if let Ok(pairs) = open(&bytes) {
                assert!((0..pairs.len()).all(|row| pairs.get(row).len() == 2));
            }
        }
    }
}
