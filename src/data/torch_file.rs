//! Files of `torch.save`: a zip archive with a pickle of the state dict, `NAME/data.pkl`, and the bytes of each storage,
//! `NAME/data/0`, uncompressed, so that they are read where they lie.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::ops::Range;

use zip::{CompressionMethod, ZipArchive};

use crate::data::error::DataError;
use crate::data::mapped::Mapped;
use crate::data::pickle::{PickledTensor, state_dict};
use crate::data::tensor_file::{Numbers, StoredTensor};

/// Largest pickle: some 100,000 tensors.
const MAX_PICKLE: usize = 1 << 24;

/// What PyTorch before 1.6 wrote first: a number of its own, pickled.
const LEGACY: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\x2e";

/// Returns the tensors.
///
/// # Errors
/// When it is of the format before PyTorch 1.6, of another kind, truncated or damaged, or a tensor lies outside of its storage.
pub(crate) fn parse(map: &Mapped) -> Result<BTreeMap<String, StoredTensor>, DataError> {
    if map.bytes().starts_with(LEGACY) {
        let message =
            "written in the format of PyTorch before 1.6, which can't be read without running it";
        return Err(DataError::invalid(map.path(), message).help(
            "if you trust the file, load it with a current PyTorch, `torch.load(FILE, weights_only=True)`, and save it again \
             with `torch.save`",
        ));
    }
    let members = members(map)?;
    let missing = |name: &str| broken(map, format!("has no member `{name}`"));
    let (root, pickle) = members
        .iter()
        .find_map(|(name, place)| Some((name.strip_suffix("data.pkl")?, place.clone())))
        .ok_or_else(|| missing("data.pkl"))?;
    let member = |name: &str| members.get(&format!("{root}{name}")).cloned();
    if let Some(order) = member("byteorder")
        && &map.bytes()[order] != b"little"
    {
        return Err(DataError::invalid(map.path(), "its numbers are not little-endian")
            .help("save it on another machine, or as safetensors"));
    }
    if pickle.len() > MAX_PICKLE {
        let message = format!(
            "its pickle has {} bytes, more than {MAX_PICKLE}: no state dict is so large",
            pickle.len()
        );
        return Err(
            DataError::invalid(map.path(), message).help("save the model's state dict alone")
        );
    }
    let pickled = state_dict(&map.bytes()[pickle])
        .map_err(|(what, help)| DataError::invalid(map.path(), what).help(help))?;
    let placed = pickled.into_iter().map(|(name, tensor)| {
        let place = member(&format!("data/{}", tensor.storage))
            .ok_or_else(|| missing(&format!("data/{}", tensor.storage)))?;
        let stored = stored(&tensor, place)
            .map_err(|what| broken(map, format!("tensor `{name}` {what}")))?;
        Ok((name, stored))
    });
    placed.collect()
}

fn broken(map: &Mapped, message: String) -> DataError {
    DataError::invalid(map.path(), message).help("the file is damaged: fetch or write it again")
}

/// Returns where the members of the archive lie.
fn members(map: &Mapped) -> Result<BTreeMap<String, Range<usize>>, DataError> {
    let whole = |error: &dyn std::fmt::Display| {
        broken(map, format!("not a whole file of PyTorch: {error}"))
    };
    let mut archive = ZipArchive::new(Cursor::new(map.bytes())).map_err(|error| whole(&error))?;
    let mut members = BTreeMap::new();
    for index in 0..archive.len() {
        let member = archive.by_index_raw(index).map_err(|error| whole(&error))?;
        let name = member.name().map_err(|error| whole(&error))?.into_owned();
        if member.compression() != CompressionMethod::Stored || member.encrypted() {
            return Err(DataError::invalid(
                map.path(),
                format!("its member `{name}` is compressed or encrypted"),
            )
            .help("save it with `torch.save`, which does neither"));
        }
        let (start, size) = (member.data_start(), member.size());
        let place = start
            .and_then(|start| {
                Some(usize::try_from(start).ok()?..usize::try_from(start.checked_add(size)?).ok()?)
            })
            .filter(|place| place.end <= map.bytes().len())
            .ok_or_else(|| {
                broken(map, format!("its member `{name}` goes beyond the end of the file"))
            })?;
        members.insert(name, place);
    }
    Ok(members)
}

/// Returns a tensor of a storage that lies at `place`; fails with what is wrong.
fn stored(tensor: &PickledTensor, place: Range<usize>) -> Result<StoredTensor, String> {
    let numbers = match tensor.kind {
        "DoubleStorage" => Numbers::F64,
        "FloatStorage" => Numbers::F32,
        "HalfStorage" => Numbers::F16,
        "BFloat16Storage" => Numbers::Bf16,
        other => Numbers::Other(other.trim_end_matches("Storage").to_owned()),
    };
    let shape = tensor.shape.clone();
    let Some(size) = numbers.size() else {
        return Ok(StoredTensor { numbers, shape, place, view: None });
    };
    if tensor.count.checked_mul(size as u64) != Some(place.len() as u64) {
        return Err(format!(
            "has a storage of {} numbers, but {} bytes lie there",
            tensor.count,
            place.len()
        ));
    }
    let count = tensor.shape.iter().try_fold(1_u64, |count, &extent| count.checked_mul(extent));
    let count = count.filter(|&count| count <= tensor.count).ok_or_else(|| {
        format!("has the shape {:?}, more numbers than its storage, {}", tensor.shape, tensor.count)
    })?;
    if count == 0 {
        return Ok(StoredTensor { numbers, shape, place: place.start..place.start, view: None });
    }
    let last = tensor
        .shape
        .iter()
        .zip(&tensor.strides)
        .try_fold(tensor.offset, |last, (&extent, &stride)| {
            last.checked_add(stride.checked_mul(extent - 1)?)
        });
    if last.is_none_or(|last| last >= tensor.count) {
        return Err(format!("lies outside of its storage of {} numbers", tensor.count));
    }
    let first = tensor.offset as usize;
    if is_flat(&tensor.shape, &tensor.strides) {
        let start = place.start + first * size;
        return Ok(StoredTensor {
            numbers,
            shape,
            place: start..start + count as usize * size,
            view: None,
        });
    }
    // Of a dimension with one place the stride says nothing, and may be any number.
    let step = |(&extent, &stride): (&u64, &u64)| if extent == 1 { 0 } else { stride as usize };
    let strides = tensor.shape.iter().zip(&tensor.strides).map(step).collect();
    Ok(StoredTensor { numbers, shape, place, view: Some((first, strides)) })
}

/// Returns whether numbers lie row after row.
fn is_flat(shape: &[u64], strides: &[u64]) -> bool {
    let mut expected = 1;
    shape.iter().zip(strides).rev().all(|(&extent, &stride)| {
        let fits = extent == 1 || stride == expected;
        expected *= extent;
        fits
    })
}
