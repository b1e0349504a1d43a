//! Files that PyTorch wrote, against safetensors of the same numbers; and files that lie.

use std::fs;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::{Numbers, TensorFile};
use crate::data::error::DataError;
use crate::data::mix::splitmix;
use crate::data::pickle::state_dict;

/// Files were written by `scripts/reference/torch_file.py`.
fn reference(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/torch").join(name)
}

#[track_caller]
fn check_same(torch: &[&str], safetensors: &str) {
    let expected = TensorFile::open_safetensors(&reference(safetensors)).unwrap();
    let files: Vec<_> =
        torch.iter().map(|name| TensorFile::open_torch(&reference(name)).unwrap()).collect();
    for (name, expected_tensor) in expected.tensors() {
        let found = files.iter().find_map(|file| Some((file, file.tensors().get(name)?)));
        let (file, tensor) = found.unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!(
            (&tensor.numbers, &tensor.shape),
            (&expected_tensor.numbers, &expected_tensor.shape),
            "{name}"
        );
        assert_eq!(file.bytes(tensor), expected.bytes(expected_tensor), "{name}");
    }
}

#[test]
fn numbers_are_those_of_safetensors_bit_for_bit() {
    check_same(&["kinds.bin"], "kinds.safetensors");
    check_same(&["model.bin"], "model.safetensors");
    check_same(&["model-00001-of-00002.bin", "model-00002-of-00002.bin"], "model.safetensors");
    let kinds = TensorFile::open_torch(&reference("kinds.bin")).unwrap();
    assert_eq!(kinds.tensors()["integers"].numbers, Numbers::Other("Long".to_owned()));
    let count = TensorFile::open_safetensors(&reference("kinds.safetensors")).unwrap();
    assert_eq!(kinds.tensors().len(), count.tensors().len() + 1);
}

/// Returns message and help of a file that is refused.
#[track_caller]
fn refused(path: &Path, open: fn(&Path) -> Result<TensorFile, DataError>) -> (String, String) {
    match open(path) {
        Err(DataError::Invalid { message, help: Some(help), .. }) => (message, help),
        other => panic!("{other:?}"),
    }
}

fn refused_bytes(bytes: &[u8], open: fn(&Path) -> Result<TensorFile, DataError>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    fs::write(&path, bytes).unwrap();
    refused(&path, open).0
}

#[test]
fn pickles_of_more_than_a_state_dict_are_refused_by_name() {
    let (message, help) = refused(&reference("foreign.bin"), TensorFile::open_torch);
    assert!(
        message.contains("`__builtin__.print`, which no state dict needs and is not run"),
        "{message}"
    );
    assert!(help.contains("safetensors.torch.save_file"), "{help}");
    let (message, help) = refused(&reference("legacy.bin"), TensorFile::open_torch);
    assert!(message.contains("PyTorch before 1.6") && help.contains("torch.save"), "{message}");
    let (message, _) = refused(&reference("training.bin"), TensorFile::open_torch);
    assert!(message.contains("its entry `model` is no tensor"), "{message}");
}

#[test]
fn truncated_files_are_refused() {
    for (name, open) in [
        ("kinds.bin", TensorFile::open_torch as fn(&Path) -> _),
        ("kinds.safetensors", TensorFile::open_safetensors),
    ] {
        let whole = fs::read(reference(name)).unwrap();
        for length in (0..whole.len()).step_by(7) {
            let message = refused_bytes(&whole[..length], open);
            assert!(message.contains("not a whole"), "{length}: {message}");
        }
    }
}

/// A file with holes, which takes no room on the disk.
#[test]
fn a_header_of_a_gigabyte_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), (1_u64 << 30).to_le_bytes()).unwrap();
    file.as_file().set_len((1 << 30) + 8).unwrap();
    let (message, _) = refused(file.path(), TensorFile::open_safetensors);
    assert!(message.contains("header too large"), "{message}");
}

/// Returns an archive as `torch.save` writes it.
fn archive(members: &[(&str, &[u8])], compression: CompressionMethod) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(compression);
    for (name, bytes) in members {
        writer.start_file(*name, options).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// Returns a pickle of one tensor `t` of `FloatStorage` 0.
fn pickle(count: i32, offset: i32, shape: &[i32], strides: &[i32]) -> Vec<u8> {
    let text =
        |text: &str| [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat();
    let number = |number: i32| [b"J", &number.to_le_bytes()[..]].concat();
    let tuple = |numbers: &[i32]| {
        let items: Vec<u8> = numbers.iter().flat_map(|&value| number(value)).collect();
        [b"(", &items[..], b"t"].concat()
    };
    [
        b"\x80\x02}".to_vec(),
        text("t"),
        b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
        text("storage"),
        b"ctorch\nFloatStorage\n".to_vec(),
        text("0"),
        text("cpu"),
        number(count),
        b"tQ".to_vec(),
        number(offset),
        tuple(shape),
        tuple(strides),
        b"\x89}tRs.".to_vec(),
    ]
    .concat()
}

#[test]
fn tensors_that_lie_about_their_place_are_refused() {
    let of = |pickle: &[u8]| {
        archive(&[("x/data.pkl", pickle), ("x/data/0", &[0; 24])], CompressionMethod::Stored)
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("whole.bin");
    fs::write(&path, of(&pickle(6, 0, &[2, 3], &[1, 2]))).unwrap();
    assert_eq!(TensorFile::open_torch(&path).unwrap().tensors()["t"].shape, [2, 3]);
    let check = |pickle: &[u8], expected: &str| {
        let message = refused_bytes(&of(pickle), TensorFile::open_torch);
        assert!(message.contains(expected), "{message}");
    };
    check(
        &pickle(7, 0, &[2, 3], &[3, 1]),
        "tensor `t` has a storage of 7 numbers, but 24 bytes lie there",
    );
    check(&pickle(6, 1, &[2, 3], &[3, 1]), "tensor `t` lies outside of its storage");
    check(&pickle(6, 0, &[2, 3], &[4, 1]), "tensor `t` lies outside of its storage");
    check(&pickle(6, 0, &[2, 3], &[i32::MAX, i32::MAX]), "tensor `t` lies outside of its storage");
    check(
        &pickle(6, 0, &[7], &[0]),
        "tensor `t` has the shape [7], more numbers than its storage, 6",
    );
    check(&pickle(6, 0, &[i32::MAX; 4], &[0; 4]), "more numbers than its storage");
    check(&pickle(6, -1, &[2], &[1]), "a tensor is not described as PyTorch does");
    check(&pickle(6, 0, &[2, -3], &[1, 1]), "a tensor is not described as PyTorch does");
    check(&pickle(6, 0, &[2, 3], &[1]), "a tensor is not described as PyTorch does");
    check(&pickle(6, 0, &[1; 9], &[1; 9]), "a tensor is not described as PyTorch does");
    check(&pickle(-6, 0, &[1], &[1]), "a storage is not described as PyTorch does");
}

#[test]
fn archives_of_another_kind_are_refused() {
    let check = |members: &[(&str, &[u8])], expected: &str| {
        let bytes = archive(members, CompressionMethod::Stored);
        let message = refused_bytes(&bytes, TensorFile::open_torch);
        assert!(message.contains(expected), "{message}");
    };
    let one = pickle(6, 0, &[6], &[1]);
    check(&[("x/other", b"")], "has no member `data.pkl`");
    check(&[("x/data.pkl", &one)], "has no member `data/0`");
    check(&[("x/data.pkl", &one), ("x/byteorder", b"big")], "not little-endian");
    check(&[("x/data.pkl", &vec![0; (1 << 24) + 1])], "no state dict is so large");
    let packed = archive(&[("x/data.pkl", &one)], CompressionMethod::Deflated);
    assert!(refused_bytes(&packed, TensorFile::open_torch).contains("is compressed"));
    assert!(refused_bytes(b"", TensorFile::open_torch).contains("not a whole file of PyTorch"));
}

#[test]
fn pickles_that_are_no_state_dict_say_where_they_end_it() {
    let check = |pickle: &[u8], expected: &str| {
        let message = state_dict(pickle).unwrap_err().0;
        assert!(message.contains(expected), "{message}");
    };
    check(b"", "damaged at byte 0: it ends too early");
    check(b"\x80\x04.", "protocol 4");
    check(b"\x80\x02.", "its stack is empty");
    check(b"\x80\x02N.", "holds no state dict");
    check(b"\x80\x02}K\x01K\x02s.", "keys are no texts");
    check(b"\x80\x02(0.", "opcode 0x30 at byte 3");
    check(b"\x80\x02h\x07.", "refers to what it has not kept");
    check(b"\x80\x02}(K\x01u.", "a key has no value");
    check(b"\x80\x02NK\x01K\x02s.", "something other than a dict");
    check(b"\x80\x02}t.", "no mark");
    check(b"\x80\x02cos\nsystem\n.", "names `os.system`");
    check(b"\x80\x02ccollections\nOrderedDict\nNR.", "a call has no arguments");
    check(b"\x80\x02\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\xff.", "more than 64 bits");
    check(b"\x80\x02X\x01\x00\x00\x00\xff.", "not UTF-8");
    check(&[&b"\x80\x02"[..], &vec![b')'; (1 << 22) + 1]].concat(), "more than 4194304 objects");
    // A dict that holds itself is one object more, not an endless one.
    check(b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.", "its entry `a` is no tensor");
}

/// Changes some bytes of a whole file: it opens or says why not.
#[test]
fn damage_anywhere_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    for (name, open) in [
        ("kinds.bin", TensorFile::open_torch as fn(&Path) -> _),
        ("foreign.bin", TensorFile::open_torch),
        ("kinds.safetensors", TensorFile::open_safetensors),
    ] {
        let whole = fs::read(reference(name)).unwrap();
        for seed in 0..600 {
            let mut bytes = whole.clone();
            for at in 0..=seed % 3 {
                let chance = splitmix(seed * 3 + at);
                let place = (chance >> 16) as usize % bytes.len();
                bytes[place] =
                    [0, 0xff, 0x7f, b'(', b't', b'R', chance as u8][(chance >> 8) as usize % 7];
            }
            fs::write(&path, &bytes).unwrap();
            let file: Result<TensorFile, DataError> = open(&path);
            match file {
                Ok(file) => file.tensors().values().for_each(|tensor| drop(file.bytes(tensor))),
                Err(DataError::Invalid { help, message, .. }) => {
                    assert!(help.is_some(), "{message}");
                }
                Err(error @ DataError::Io { .. }) => panic!("{error}"),
            }
        }
    }
}
