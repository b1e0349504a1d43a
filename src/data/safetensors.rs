//! The header of a safetensors file, by the `safetensors` crate: where each tensor lies.

use std::collections::BTreeMap;

use safetensors::{Dtype, SafeTensors};

use crate::data::error::DataError;
use crate::data::mapped::Mapped;
use crate::data::tensor_file::{Numbers, StoredTensor};

type Header = (BTreeMap<String, StoredTensor>, BTreeMap<String, String>);

/// Returns the tensors and the metadata.
///
/// # Errors
/// When the header is larger than 100 MB, damaged, or means other bytes than there are.
pub(crate) fn parse(map: &Mapped) -> Result<Header, DataError> {
    let (size, header) = SafeTensors::read_metadata(map.bytes()).map_err(|error| {
        DataError::invalid(map.path(), format!("not a whole safetensors file: {error}"))
            .help("fetch or write the file again")
    })?;
    // The header comes after its own size, of eight bytes.
    let start = size + 8;
    let tensors = header.tensors().into_iter().map(|(name, info)| {
        let numbers = match info.dtype {
            Dtype::F64 => Numbers::F64,
            Dtype::F32 => Numbers::F32,
            Dtype::F16 => Numbers::F16,
            Dtype::BF16 => Numbers::Bf16,
            other => Numbers::Other(format!("{other:?}")),
        };
        let shape = info.shape.iter().map(|&size| size as u64).collect();
        let place = start + info.data_offsets.0..start + info.data_offsets.1;
        (name, StoredTensor { numbers, shape, place, view: None })
    });
    let metadata = header.metadata().clone().into_iter().flatten();
    Ok((tensors.collect(), metadata.collect()))
}
