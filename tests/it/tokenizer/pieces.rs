//! SentencePiece models against `tests/reference/sentencepiece/ids.json`, what sentencepiece itself makes of the texts.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tlm::data::tokenizer::open::open_tokenizer;
use tlm::data::{DataError, Tokenizer};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/sentencepiece")
}

/// Where the ids are others, as `docs/tokenizers.md` tells.
fn is_known(model: &str, text: &str) -> bool {
    let combined = ["A\u{30a}", "e\u{301}"].iter().any(|pair| text.contains(pair));
    match model {
        // `▁▁` is a symbol of its own there.
        "bpe_symbols" => {
            text.starts_with(' ') || text.starts_with("<sep>") || text.starts_with('▁')
        }
        "unigram" => combined,
        _ => false,
    }
}

#[test]
fn the_ids_are_those_of_sentencepiece() {
    let json = fs::read(folder().join("ids.json")).expect("readable");
    let rows: Vec<Vec<Value>> = serde_json::from_slice(&json).expect("names, then texts and ids");
    let (names, rows) = rows.split_first().expect("names");
    for (column, name) in names.iter().map(|name| name.as_str().expect("a name")).enumerate() {
        let out = tempfile::tempdir().expect("a folder");
        open_tokenizer(&folder().join(format!("{name}.model")), None, out.path()).unwrap();
        let tokenizer = Tokenizer::open(out.path()).unwrap();
        for row in rows {
            let text = row[0].as_str().expect("a text");
            let ids: Vec<u32> = serde_json::from_value(row[column + 1].clone()).expect("ids");
            let same = tokenizer.encode(text).unwrap() == ids;
            assert!(same || is_known(name, text), "{name}: {text:?}");
        }
    }
}

fn open(name: &str, bytes: &[u8]) -> Result<Value, DataError> {
    let source = tempfile::tempdir().expect("a folder");
    let out = tempfile::tempdir().expect("a folder");
    let path = source.path().join(name);
    fs::write(&path, bytes).expect("writable");
    open_tokenizer(&path, None, out.path())?;
    Ok(serde_json::from_slice(&fs::read(out.path().join("tokenizer.json")).expect("written"))
        .expect("JSON"))
}

#[track_caller]
fn refused(name: &str, bytes: &[u8], part: &str) {
    match open(name, bytes).expect_err("it is refused") {
        DataError::Invalid { path, message, help } => {
            assert!(message.contains(part) && help.is_some() && path.ends_with(name), "{message}");
        }
        other @ DataError::Io { .. } => panic!("{other}"),
    }
}

fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, bytes.len() as u8], bytes].concat()
}

/// A piece as protobuf writes it: text, score, type.
fn piece(text: &[u8], score: f32, kind: u8) -> Vec<u8> {
    field(1, &[&field(1, text)[..], &[0x15], &score.to_le_bytes(), &[0x18, kind]].concat())
}

#[test]
fn a_model_that_is_none_is_refused() {
    let unknown = piece(b"<unk>", 0.0, 2);
    let with = |more: &[Vec<u8>]| [&unknown[..], &more.concat()].concat();
    assert!(open("t.model", &with(&[piece(b"a", -1.0, 1)])).is_ok());
    for (bytes, part) in [
        (Vec::new(), "no pieces"),
        (b"\xff\xff\xff".to_vec(), "truncated at byte 3"),
        (vec![0xff; 30], "a number without end"),
        (with(&[vec![0x0f]]), "a field of unknown kind 7 at byte 16"),
        (with(&[vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f]]), "truncated at byte 22"),
        (with(&[piece(b"\xff", 0.0, 1)]), "piece 1 at byte 20 is not UTF-8"),
        (with(&[piece(b"a", 0.0, 9)]), "piece 1 has unknown type 9"),
        (with(&[piece(b"a", f32::NAN, 1)]), "piece 1, `a`, has score NaN"),
        (with(&[piece(b"", 0.0, 1)]), "piece 1 is empty"),
        (with(&[piece(b"a", 0.0, 1), piece(b"a", 0.0, 1)]), "pieces 1 and 2 are both `a`"),
        (piece(b"a", 0.0, 1), "no piece is of type UNKNOWN"),
        (with(&[piece(b"b", 0.0, 2)]), "pieces 0 and 1 are both of type UNKNOWN"),
        (with(&[field(2, &[0x18, 3])]), "its model type is WORD"),
        (with(&[field(2, &[0x18, 4])]), "its model type is CHAR"),
        (with(&[field(2, &[0x18, 9])]), "its model type is unknown"),
        (with(&[field(2, &[0xc0, 1, 1])]), "treat_whitespace_as_suffix"),
        (with(&[field(2, &[0x98, 2, 1])]), "`<0x00>` is missing"),
    ] {
        refused("t.model", &bytes, part);
    }
    let whole = fs::read(folder().join("unigram.model")).expect("readable");
    for len in (1..whole.len()).step_by(97) {
        let _ = open("t.model", &whole[..len]);
    }
}

#[test]
fn a_json_that_does_not_hold_together_is_refused() {
    let bpe = |vocab: &str, merges: &str| {
        format!(
            r#"{{"added_tokens": [], "model": {{"type": "BPE", "vocab": {vocab}, "merges": {merges}}}}}"#
        )
    };
    assert!(open("t.json", bpe(r#"{"a": 0, "b": 1}"#, "[]").as_bytes()).is_ok());
    for (json, part) in [
        (r#"{"model_type": "llama"}"#.to_owned(), "is no tokenizer"),
        ("{".to_owned(), "line 1 column 1"),
        (
            bpe(r#"{"a": 0, "ab": 1}"#, "[]"),
            "BPE without merges, so no text can become its token `ab`",
        ),
        (bpe(r#"{"a": 0, "ab": 1}"#, r#"["a b"]"#), "merge 0, `\"a b\"`, is not two tokens"),
        (bpe(r#"{"a": 0, "ab": 1}"#, "[1]"), "merge 0, `1`, is not two tokens"),
        (
            r#"{"added_tokens": [{"content": "b", "id": 2}], "model": {"vocab": {"a": 0}}}"#
                .to_owned(),
            "added token `b` has id 2, but the next free one is 1",
        ),
        (bpe(r#"{"a": 0, "b": 0}"#, "[]"), "tokens `a` and `b` both have id 0"),
        (bpe(r#"{"a": 0, "b": 1, "a": 0}"#, "[]"), "token `a` is there twice"),
        (bpe(r#"{"a": 0, "b": 4294967296}"#, "[]"), "token `b` has id `4294967296`"),
    ] {
        refused("t.json", json.as_bytes(), part);
    }
    refused("t.json", b"{\"model\": \"\xff\"}", "invalid unicode code point at line 1 column");
}

#[test]
fn folders_of_slow_tokenizers_are_read_where_they_are_plain() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = tempfile::tempdir().expect("a folder");
    let write =
        |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("writable");
    let refused = |part: &str| {
        let error = open_tokenizer(folder.path(), None, out.path()).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    refused("has no `tokenizer.json`, SentencePiece model, or `vocab.json`");
    let shown = (33..=126u32).chain(161..=172).chain(174..=255).chain(256..=323);
    let mut texts: Vec<String> = shown.filter_map(char::from_u32).map(String::from).collect();
    texts.extend(["he", "ll", "hell", "hello", "Ġhello", "<|endoftext|>"].map(str::to_owned));
    let vocab: serde_json::Map<String, Value> =
        texts.iter().enumerate().map(|(id, text)| (text.clone(), id.into())).collect();
    write("vocab.json", &Value::from(vocab).to_string());
    write("merges.txt", "#version: 0.2\nh e\nl l\nhe ll\nhell\n");
    refused("line 5 is not two tokens: `hell`");
    write("merges.txt", "#version: 0.2\nh e\nl l\nhe ll\nhell o\nĠ hello\n");
    write("special_tokens_map.json", r#"{"eos_token": "<|endoftext|>"}"#);
    write("added_tokens.json", r#"{"<new>": 262}"#);
    open_tokenizer(folder.path(), None, out.path()).unwrap();
    let tokenizer = Tokenizer::open(out.path()).unwrap();
    assert_eq!((tokenizer.size(), tokenizer.end_of_text().unwrap()), (263, 261));
    assert_eq!(tokenizer.encode("hello hello<|endoftext|><new>").unwrap(), [259, 260, 261, 262]);
    write("tokenizer_config.json", r#"{"tokenizer_class": "CLIPTokenizer"}"#);
    refused("how `CLIPTokenizer` splits words is not known here");
    write("tokenizer_config.json", "{}");
    write("vocab.json", r#"{"a": 0}"#);
    refused("no byte-level vocabulary");
}
