//! What holds for any tokenizer and any counts, checked with the models of the crate `tokenizers` themselves.

use std::str::FromStr;

use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, Strategy, any};
use proptest::{prop_assert, prop_assert_eq, proptest};
use serde_json::{Map, Value, json};
use tokenizers::{Model as _, Tokenizer};

use super::*;
use crate::data::tokenizer::remap::IdMap;

const LETTERS: [char; 4] = ['a', 'b', 'é', '▁'];
const SPECIAL: &str = "special token";

#[derive(Clone, Copy, Debug, Default)]
struct Traits {
    kind: u8,
    has_bytes: bool,
    ignores_merges: bool,
    /// Every way to part a token is a merge, as in what is converted from SentencePiece.
    has_all_merges: bool,
    has_marks: bool,
    /// Merges in an order in which some tokens are never built.
    is_reversed: bool,
}

fn bytes(has_bytes: bool) -> impl Iterator<Item = String> {
    (0..=255u8).filter(move |_| has_bytes).map(|byte| format!("<0x{byte:02X}>"))
}

/// Puts a model into a tokenizer like Llama's: no words, a blank is a `▁`.
fn like_llama(model: &Value, special: usize) -> Value {
    json!({
        "version": "1.0", "truncation": null,
        "padding": {
            "strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": special, "pad_type_id": 0, "pad_token": SPECIAL,
        },
        "added_tokens": [{
            "id": special, "content": SPECIAL, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true,
        }],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": null,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": SPECIAL, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {SPECIAL: {"id": SPECIAL, "ids": [special], "tokens": [SPECIAL]}},
        },
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
        ]},
        "model": model,
    })
}

/// Cuts the text into words.
fn with_words(mut json: Value) -> Value {
    json["normalizer"] = Value::Null;
    json["pre_tokenizer"] = json!({"type": "WhitespaceSplit"});
    json
}

fn bpe(traits: Traits, steps: &[(u8, u8)]) -> Value {
    let (prefix, suffix) = if traits.has_marks { ("##", "</w>") } else { ("", "") };
    let mut texts: Vec<String> =
        ["<unk>".to_owned()].into_iter().chain(bytes(traits.has_bytes)).collect();
    let first = texts.len();
    for letter in LETTERS {
        for prefix in ["", prefix] {
            texts.push(format!("{prefix}{letter}"));
            texts.push(format!("{prefix}{letter}{suffix}"));
        }
    }
    let mut known = std::collections::BTreeSet::new();
    texts.retain(|text| known.insert(text.clone()));
    let mut merges = Vec::new();
    for &(a, b) in steps {
        let pick = |at: u8| texts[first + at as usize % (texts.len() - first)].clone();
        let (left, right) = (pick(a), pick(b));
        let is_inner = !traits.has_marks || !left.ends_with(suffix) && right.starts_with(prefix);
        let text = format!("{left}{}", right.strip_prefix(prefix).unwrap_or(&right));
        if is_inner && text.chars().count() < 12 {
            if !texts.contains(&text) {
                texts.push(text);
            }
            merges.push((left, right));
        }
    }
    if traits.has_all_merges && !traits.has_marks {
        merges.clear();
        for text in &texts[first..] {
            for (at, _) in text.char_indices().skip(1) {
                let (left, right) = text.split_at(at);
                if [left, right].iter().all(|part| texts[first..].iter().any(|text| text == part)) {
                    merges.push((left.to_owned(), right.to_owned()));
                }
            }
        }
    }
    if traits.is_reversed {
        merges.reverse();
    }
    let special = texts.len();
    let vocab: Map<String, Value> =
        texts.into_iter().zip(0..).map(|(t, id)| (t, json!(id))).collect();
    let mark = |mark: &str| if traits.has_marks { json!(mark) } else { Value::Null };
    let model = json!({
        "type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "vocab": vocab, "merges": merges,
        "byte_fallback": traits.has_bytes, "ignore_merges": traits.ignores_merges, "dropout": null,
        "continuing_subword_prefix": mark(prefix), "end_of_word_suffix": mark(suffix),
    });
    let json = like_llama(&model, special);
    if traits.has_marks { with_words(json) } else { json }
}

/// Returns distinct strings of letters.
fn strings(steps: &[(u8, u8)]) -> Vec<String> {
    let mut found: Vec<String> = LETTERS.map(String::from).to_vec();
    for &(a, b) in steps {
        let text =
            format!("{}{}", found[a as usize % found.len()], found[b as usize % found.len()]);
        if !found.contains(&text) && text.chars().count() < 7 {
            found.push(text);
        }
    }
    found
}

fn unigram(traits: Traits, steps: &[(u8, u8)]) -> Value {
    let letters = strings(steps).into_iter().skip(usize::from(traits.has_bytes));
    let score = |at: usize| -f64::from(steps[at % steps.len()].0) / 16.0;
    let pieces = letters.enumerate().map(|(at, text)| json!([text, score(at)]));
    let unknown = ["<unk>".to_owned()].into_iter().chain(bytes(traits.has_bytes));
    let vocab: Vec<Value> = unknown.map(|text| json!([text, 0.0])).chain(pieces).collect();
    let special = vocab.len();
    let model = json!({
        "type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": traits.has_bytes,
    });
    like_llama(&model, special)
}

fn wordpiece(steps: &[(u8, u8)]) -> Value {
    let all = strings(steps);
    let inside =
        all.iter().enumerate().filter(|(at, text)| at % 3 > 0 || text.chars().count() == 1);
    let inside = inside.map(|(_, text)| format!("##{text}"));
    let texts: Vec<String> =
        ["[UNK]".to_owned()].into_iter().chain(all.iter().cloned()).chain(inside).collect();
    let special = texts.len();
    let vocab: Map<String, Value> =
        texts.into_iter().zip(0..).map(|(t, id)| (t, json!(id))).collect();
    let model = json!({
        "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 12, "vocab": vocab,
    });
    let mut json = with_words(like_llama(&model, special));
    json["decoder"] = json!({"type": "WordPiece", "prefix": "##", "cleanup": false});
    json
}

fn load(json: &Value) -> Tokenizer {
    Tokenizer::from_str(&json.to_string()).expect("a tokenizer")
}

fn encode(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode_fast(text, false).expect("encodes").get_ids().to_vec()
}

/// Returns whether the model makes a token of some text: of its own, or in WordPiece of what follows a letter.
fn is_made(tokenizer: &Tokenizer, text: &str) -> bool {
    let id = tokenizer.token_to_id(text).expect("a token");
    let ends_in = |word: String| {
        let tokens = tokenizer.get_model().tokenize(&word).expect("encodes");
        tokens.last().is_some_and(|token| token.id == id)
    };
    match text.strip_prefix("##") {
        Some(rest) => LETTERS.iter().any(|letter| ends_in(format!("{letter}{rest}"))),
        None => {
            let tokens = tokenizer.get_model().tokenize(text).expect("encodes");
            matches!(&tokens[..], [token] if token.id == id)
        }
    }
}

fn traits() -> impl Strategy<Value = Traits> {
    (0..4u8, any::<[bool; 5]>()).prop_map(|(kind, [a, b, c, d, e])| Traits {
        kind,
        has_bytes: a && kind != 3,
        ignores_merges: b,
        has_all_merges: c,
        has_marks: d && !a && !b && kind < 2,
        is_reversed: e,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_pruned_tokenizer_is_the_old_one_on_what_is_left(
        traits in traits(),
        steps in vec(any::<(u8, u8)>(), 1..40),
        texts in vec("[abé ]{0,4}[abézä ]{0,12}", 20),
        share in 0.0..=1.0f64,
    ) {
        let json = match traits.kind {
            0 | 1 => bpe(traits, &steps),
            2 => unigram(traits, &steps),
            _ => wordpiece(&steps),
        };
        let old = load(&json);
        let mut counts = vec![0; old.get_vocab_size(true)];
        counts[0] = 1;
        for text in &texts[..10] {
            encode(&old, text).into_iter().for_each(|id| counts[id as usize] += 1);
        }
        let files = files(json);
        let (forced, all, dead) = {
            let mut model = Model::read(&files).unwrap();
            let choice = Choice::new(&files.path, &mut model, &counts).unwrap();
            let (kept, all) = (choice.kept, choice.order.len());
            let dead = ids(&kept).filter(|&id| model.is_orphan(id)).count();
            (kept, all, dead)
        };
        let least = ids(&forced).count();
        let keep = least + ((all - least) as f64 * share).round() as usize;
        let pruned = prune(files.clone(), &counts, Target::Keep(keep), |_| true);
        let pruned = pruned.unwrap().unwrap();
        let new = load(&pruned.files.json);
        prop_assert_eq!(pruned.old_ids.len(), keep);
        prop_assert_eq!(new.get_vocab_size(true), keep);
        prop_assert!(ids(&forced).all(|id| pruned.old_ids.contains(&id)));
        let special = pruned.old_ids.iter().position(|&id| id as usize == counts.len() - 1);
        prop_assert_eq!(pruned.files.json["padding"]["pad_id"].as_u64(), special.map(|id| id as u64));
        prop_assert_eq!(new.token_to_id(SPECIAL).map(|id| id as usize), special);

        // The same text has the same tokens, as far as they are left, and comes back as before. So ids may be mapped.
        let map = IdMap::of(&files.json, &pruned.files.json);
        prop_assert!(map.is_some() || traits.has_marks);
        for text in texts.iter().chain([&SPECIAL.to_owned()]) {
            let (before, after) = (encode(&old, text), encode(&new, text));
            let left: Option<Vec<u32>> = before
                .iter()
                .map(|id| Some(pruned.old_ids.binary_search(id).ok()? as u32))
                .collect();
            if let Some(left) = left {
                prop_assert_eq!(&left, &after, "{:?}", text);
            }
            if let Some(mapped) = map.as_ref().and_then(|map| map.map(&before)) {
                prop_assert_eq!(&mapped, &after, "{:?}", text);
            }
            let restored = old.decode(&before, false).unwrap();
            if restored == *text {
                prop_assert_eq!(&new.decode(&after, false).unwrap(), text);
            }
        }

        // What the old model makes, the new one makes.
        let is_plain = |text: &str| !text.starts_with('<') && text != "[UNK]" && text != SPECIAL;
        let mut unmade = 0;
        for text in new.get_vocab(true).keys().filter(|text| is_plain(text)) {
            if !traits.has_marks {
                let is_made_now = is_made(&new, text);
                prop_assert!(is_made_now || !is_made(&old, text), "{}", text);
                unmade += usize::from(!is_made_now);
            }
        }
        if !traits.has_marks && traits.kind != 2 {
            prop_assert_eq!(pruned.report.orphans, unmade);
            prop_assert_eq!(orphans(&pruned.files).unwrap(), unmade);
        }
        // Orphans of the old one come last.
        if pruned.report.orphans > dead {
            let alive = all - orphans(&files).unwrap();
            prop_assert!(keep - pruned.report.orphans >= alive);
        }

        // By coverage, one token fewer would cover less.
        let covered = coverage(&files, &counts, keep, |_| true).unwrap().unwrap();
        prop_assert_eq!(covered, pruned.report.coverage);
        let target = Target::Coverage(covered);
        let least_kept = prune(files.clone(), &counts, target, |_| true);
        let report = least_kept.unwrap().unwrap().report;
        prop_assert!(report.coverage >= covered - 1e-12 && report.tokens <= keep);
        if report.tokens > least {
            let fewer = coverage(&files, &counts, report.tokens - 1, |_| true);
            prop_assert!(fewer.unwrap().unwrap() < covered);
        }
    }
}

fn files(json: Value) -> Files {
    Files { path: "tokenizer.json".into(), json, config: Map::new() }
}

fn small() -> Value {
    let traits = Traits::default();
    // Tokens: 0 <unk>, 1 a, 2 b, 3 é, 4 ▁, 5 ab, 6 éa, 7 abéa, 8 bb, and 9 the special one.
    bpe(traits, &[(0, 1), (2, 0), (4, 5), (1, 1)])
}

#[test]
fn ancestors_come_along_or_the_token_waits() {
    let files = files(small());
    let counts = [1, 0, 0, 0, 0, 0, 0, 9, 5, 0];
    let prune = |target| {
        let pruned = prune(files.clone(), &counts, target, |_| true);
        pruned.unwrap().unwrap()
    };
    let one = prune(Target::Keep(7));
    assert_eq!(one.old_ids, [0, 1, 2, 3, 4, 8, 9], "abéa needs three places");
    let three = prune(Target::Keep(9));
    assert_eq!(three.old_ids, [0, 1, 2, 3, 4, 5, 6, 7, 9]);
    let merges = json!([["a", "b"], ["é", "a"], ["ab", "éa"]]);
    assert_eq!(three.files.json["model"]["merges"], merges);
    assert_eq!((one.report.orphans, three.report.orphans), (0, 0));
    let sizes = [0.4, 0.5, 0.7, 1.0].map(|part| prune(Target::Coverage(part)).report.tokens);
    assert_eq!(sizes, [7, 9, 10, 10]);
    let curve = coverages(&files, &counts).unwrap();
    assert_eq!(curve, [(6, 1.0 / 15.0), (9, 10.0 / 15.0), (10, 1.0)]);
}

#[test]
fn bytes_stay_and_characters_that_have_not_all_of_them() {
    let traits = Traits { has_bytes: true, ..Traits::default() };
    for mut json in [bpe(traits, &[(0, 0)]), unigram(traits, &[(0, 0)])] {
        let text = json.to_string().replace("<0xA9>", "xy").replace("<0x00>", "z");
        json = text.parse().unwrap();
        let tokenizer = load(&json);
        let mut counts = vec![0; tokenizer.get_vocab_size(true)];
        counts[0] = 1;
        let least = prune(files(json), &counts, Target::Coverage(0.0), |_| true);
        let least = load(&least.unwrap().unwrap().files.json);
        let kept = |text: &str| least.token_to_id(text).is_some();
        assert!(kept("<0xC3>") && kept("<0xFF>") && kept("é"), "é has lost a byte");
        assert!(!kept("a") && !kept("aa") && !kept("xy") && !kept("z"));
        assert_eq!(least.decode(&encode(&least, "aéab"), false).unwrap(), "aéab");
    }
}

#[test]
fn what_names_ids_gets_the_new_ones() {
    let Value::Object(config) = json!({
        "added_tokens_decoder": {"9": {"content": SPECIAL}, "8": {"content": "<other>"}},
        "bos_token": SPECIAL, "eos_token_id": 8, "chat_template": "as it is", "auto_map": {},
        "tokenizer_class": "GemmaTokenizer",
    }) else {
        panic!("an object")
    };
    let counts = [1; 10];
    let files = Files { config, ..files(small()) };
    let pruned = prune(files, &counts, Target::Keep(7), |_| true).unwrap().unwrap();
    assert_eq!(pruned.old_ids, [0, 1, 2, 3, 4, 8, 9], "a token named in the configuration stays");
    let decoder = json!({"6": {"content": SPECIAL}, "5": {"content": "<other>"}});
    assert_eq!(pruned.files.config["added_tokens_decoder"], decoder);
    assert_eq!(pruned.files.config["eos_token_id"], json!(5));
    assert_eq!(pruned.files.config["chat_template"], json!("as it is"));
    assert_eq!(pruned.files.config["tokenizer_class"], json!("PreTrainedTokenizerFast"));
    assert!(!pruned.files.config.contains_key("auto_map"));
    assert_eq!(pruned.files.json["added_tokens"][0]["id"], json!(6));
    let template = &pruned.files.json["post_processor"]["special_tokens"][SPECIAL]["ids"];
    assert_eq!(*template, json!([6]));
}

#[test]
fn what_can_not_be_is_told() {
    #[track_caller]
    fn check(json: Value, counts: &[u64], target: Target, parts: [&str; 2]) {
        let error = prune(files(json), counts, target, |_| true);
        let DataError::Invalid { message, help, .. } = error.unwrap_err() else {
            panic!("invalid")
        };
        let help = help.unwrap_or_default();
        assert!(message.contains(parts[0]) && help.contains(parts[1]), "{message} / {help}");
    }
    let keep = Target::Keep;
    check(
        small(),
        &[1; 10],
        keep(5),
        ["can't keep 5 tokens: 6 always stay", "`keep:` to 6 or more"],
    );
    check(
        small(),
        &[1; 10],
        keep(11),
        ["can't keep 11 tokens: it has 10", "`keep:` to 10 or less"],
    );
    check(
        small(),
        &[0; 10],
        keep(8),
        ["none of its tokens was counted", "in a text that has some"],
    );
    check(
        small(),
        &[1; 9],
        keep(8),
        ["has 10 token ids, but 9 were counted", "the same tokenizer"],
    );
    let words = json!({"model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1}}});
    check(words, &[1; 2], keep(1), ["`WordLevel`, without pieces", "BPE, Unigram or WordPiece"]);
    let mut same = small();
    same["model"]["vocab"]["bb"] = json!(7);
    check(same, &[1; 10], keep(8), ["tokens `abéa` and `bb` have the same id 7", ""]);
    let mut broken = small();
    broken["model"]["merges"][1] = json!(["é", "x"]);
    check(broken, &[1; 10], keep(8), ["merge 1 has a part or a result that is no token", ""]);
}
