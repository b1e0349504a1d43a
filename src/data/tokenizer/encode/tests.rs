//! Ids of small tokenizers of every kind, against the crate.

use std::path::PathBuf;

use proptest::prelude::{ProptestConfig, prop, proptest};
use sha2::{Digest, Sha256};

use super::*;
use crate::data::tokenizer::state::{Count, States};

/// A small tokenizer of `tests/reference/tokenizers/`.
struct Kind {
    name: String,
    inner: Tokenizer,
    encoder: Encoder,
}

fn reference() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/reference")
}

fn read(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(reference().join(name)).unwrap()).unwrap()
}

fn digests() -> Value {
    read("tokenizers/python.json")
}

fn kind(name: &str) -> Kind {
    let json = read(&format!("tokenizers/{name}.json"));
    let inner: Tokenizer = json.to_string().parse().unwrap();
    let encoder = Encoder::new(&inner, &json).unwrap();
    Kind { name: name.to_owned(), inner, encoder }
}

fn kinds() -> Vec<Kind> {
    digests().as_object().unwrap().keys().map(|name| kind(name)).collect()
}

fn texts() -> Vec<String> {
    let cases = read("tokenizer_ids.json");
    let text = |case: &Value| case["text"].as_str().unwrap().to_owned();
    cases.as_array().unwrap().iter().map(text).collect()
}

impl Kind {
    /// Encodes a text cut wherever it may be after at most `most` bytes.
    fn encode(&self, text: &str, most: usize, states: &States) -> Vec<u32> {
        let mut ids = Vec::new();
        self.for_parts(text, most, |part| {
            states.with(|state| self.encoder.encode(&self.inner, part, state, &mut ids)).unwrap();
        });
        ids
    }

    fn for_parts(&self, text: &str, most: usize, mut work: impl FnMut(Part<'_>)) {
        let mut at = 0;
        while at < text.len() {
            let rest = &text.as_bytes()[at..];
            let mut len = most;
            let end = loop {
                match self.encoder.cut(&rest[..len.min(rest.len())]) {
                    _ if len >= rest.len() => break rest.len(),
                    Some(end) => break end,
                    None => len += most,
                }
            };
            work(Part { text: &text[at..at + end], is_first: at == 0 });
            at += end;
        }
    }

    #[track_caller]
    fn check(&self, text: &str, states: &States) -> Vec<u32> {
        let expected = self.inner.encode_fast(text, false).unwrap().get_ids().to_vec();
        for most in [usize::MAX, 2, 40] {
            let ids = self.encode(text, most, states);
            assert_eq!(ids, expected, "{}, at most {most} bytes: {text:?}", self.name);
        }
        expected
    }
}

/// The crate splits with fancy-regex, Python's package with Oniguruma: both must agree.
#[test]
fn ids_are_those_of_the_crate_and_of_python() {
    let (texts, digests) = (texts(), digests());
    for kind in kinds() {
        let (states, mut hasher) = (States::new(0), Sha256::new());
        for text in &texts {
            for id in kind.check(text, &states).into_iter().chain([u32::MAX]) {
                hasher.update(id.to_le_bytes());
            }
        }
        let digest: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digests[&kind.name], digest, "{}", kind.name);
    }
}

/// How a tokenizer encodes, and whether it cuts text: a test that fell back to the crate would compare the crate with itself.
#[test]
fn common_kinds_are_split_here_and_cut() {
    let by_crate =
        ["falcon", "gpt2_prefixed", "odd_normalized", "tiktoken", "unigram_first", "wordpiece"];
    let uncut = ["llama2_normalized", "t5", "wordlevel"];
    for kind in kinds() {
        let own = matches!(kind.encoder.way, Way::Own(_));
        assert_eq!(own, !by_crate.contains(&&*kind.name), "{}", kind.name);
        let text =
            "It was the best of times, it was the worst of times,\nit was the age 1 of wisdom";
        let cuts = kind.encoder.cut(text.as_bytes()).is_some();
        assert_eq!(cuts, own && !uncut.contains(&&*kind.name), "{}", kind.name);
    }
}

#[test]
fn counts_are_those_of_the_ids_however_words_are_parted_among_threads() {
    for kind in kinds() {
        let text = texts().concat();
        let size = kind.inner.get_vocab_size(true) + 1;
        let mut expected = vec![0; size];
        for id in kind.encode(&text, usize::MAX, &States::new(0)) {
            expected[id as usize] += 1;
        }
        let states = States::new(size);
        std::thread::scope(|scope| {
            kind.for_parts(&text, 500, |part| {
                let part = (part.text.to_owned(), part.is_first);
                let (kind, states) = (&kind, &states);
                scope.spawn(move || {
                    let part = Part { text: &part.0, is_first: part.1 };
                    let count = |state: &mut State| {
                        kind.encoder.encode(&kind.inner, part, state, &mut Count)
                    };
                    states.with(count).unwrap();
                });
            });
        });
        assert_eq!(states.into_counts(), expected, "{}", kind.name);
    }
}

/// What texts are made of that are hard to split, or to cut.
const PARTS: [&str; 48] = [
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t",
    "\u{a0}",
    "\u{3000}",
    "\u{2028}",
    "\u{85}",
    "▁",
    "a",
    "the",
    "on",
    "It",
    "été",
    "e\u{301}",
    "é",
    "\u{301}",
    "'s",
    "'LL",
    "'\u{17f}",
    "’t",
    "1",
    "23",
    "4567",
    "²",
    "٣",
    "½",
    "Ⅻ",
    ".",
    ",",
    "!?",
    "--",
    "/",
    "道可道",
    "的",
    "，",
    "語か",
    "カ゛",
    "😀",
    "👩🏽\u{200d}💻",
    "\0",
    "\u{4}",
    "ǅ",
    "ß",
    "<|im_end|>",
    "<|im_start|>",
    "<|endoftext|>",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn made_up_texts_have_the_ids_of_the_crate(parts in prop::collection::vec(prop::sample::select(&PARTS[..]), 0..24)) {
        static KINDS: std::sync::LazyLock<Vec<(Kind, States)>> =
            std::sync::LazyLock::new(|| kinds().into_iter().map(|kind| (kind, States::new(0))).collect());
        let text = parts.concat();
        for (kind, states) in KINDS.iter() {
            kind.check(&text, states);
        }
    }
}

#[test]
fn a_full_table_starts_over_without_losing_counts() {
    let kind = kind("gpt2");
    let states = States::new(kind.inner.get_vocab_size(true));
    let text: String = (0..400_000u64).map(|n| format!(" {:x}g", n * 7919)).collect();
    let part = Part { text: &text, is_first: true };
    states.with(|state| kind.encoder.encode(&kind.inner, part, state, &mut Count)).unwrap();
    let ids = kind.encode(&text, usize::MAX, &States::new(0));
    let mut expected = vec![0; kind.inner.get_vocab_size(true)];
    ids.iter().for_each(|&id| expected[id as usize] += 1);
    assert_eq!(states.into_counts(), expected);
}
