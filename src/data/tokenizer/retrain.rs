//! A new vocabulary for a tokenizer, learned from text: the same kind of model with all that stands around it, as
//! transformers' `train_new_from_iterator` keeps it.
//!
//! Where blanks are written `▁`, words are what SentencePiece's trainer makes of a text: cut at blanks and where the script
//! changes, without the rarest characters, and with pieces of 16 characters at most. Else words are what the pre-tokenizer
//! makes of it.
//!
//! The trainers of the tokenizers crate go through hash tables in an order that changes from run to run. What comes of it
//! is removed here: characters are listed in order before they can be met, Unigram adds its numbers in one thread and in the
//! order of the words, and its pieces are sorted.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use ahash::AHashMap;
use compact_str::CompactString;
use serde_json::{Map, Value, json};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::models::unigram::{Unigram, UnigramTrainer};
use tokenizers::{
    AddedToken, NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString,
    PreTokenizer, ProgressFormat,
};
use unicode_script::{Script, UnicodeScript};

use crate::data::error::DataError;
use crate::data::tokenizer::files::{Files, read_as_it_is, token_text};
use crate::data::tokenizer::spelling::{MARK, byte_chars, byte_piece};

/// How often each distinct word occurs.
pub type Words = HashMap<String, u64>;

/// The longest piece that SentencePiece learns, in characters.
const LONGEST_PIECE: usize = 16;
/// Longer words are cut, in characters: no piece goes beyond one, and their number has a bound.
const LONGEST_WORD: usize = 256;
/// This part of all characters has to be covered; SentencePiece's default.
const COVERAGE: f64 = 0.9995;
/// By so much scores of Unigram's characters that no word needs lie apart.
const STEP: f64 = 0.0001;

/// What is learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Bpe,
    WordPiece,
    Unigram,
}

/// A tokenizer whose vocabulary is learned anew.
pub struct Retrain {
    path: PathBuf,
    json: Value,
    config: Map<String, Value>,
    inner: tokenizers::Tokenizer,
    kind: Kind,
    /// Whether blanks are written `▁`.
    has_blanks: bool,
    /// Whether the symbols are bytes.
    has_bytes: bool,
    /// What comes first: special tokens, and bytes that characters fall back to.
    forced: Vec<String>,
}

impl Retrain {
    /// Reads the tokenizer of a folder.
    ///
    /// # Errors
    /// When its files can't be read, or its model is of a type that can't be trained.
    pub fn open(folder: &Path) -> Result<Self, DataError> {
        let files = Files::read(folder)?;
        let inner = files.load()?;
        let Files { path, json, config } = files;
        let kind = match json["model"]["type"].as_str() {
            Some("BPE") => Kind::Bpe,
            Some("WordPiece") => Kind::WordPiece,
            Some("Unigram") => Kind::Unigram,
            other => {
                let message = format!("its model is of type `{}`", other.unwrap_or("unknown"));
                return Err(DataError::invalid(&path, message)
                    .help("use one of type BPE, WordPiece or Unigram"));
            }
        };
        let around = format!("{}{}", json["normalizer"], json["pre_tokenizer"]);
        let forced = forced(&json, &config);
        let (has_blanks, has_bytes) = (around.contains(MARK), around.contains("\"ByteLevel\""));
        Ok(Self { path, json, config, inner, kind, has_blanks, has_bytes, forced })
    }

    /// Returns the words of a text.
    ///
    /// # Errors
    /// When it can't be normalised or cut.
    pub fn words(&self, text: &str) -> Result<Words, DataError> {
        let mut words = Words::new();
        let mut split = PreTokenizedString::from(self.normalized(text)?);
        if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut split).map_err(|error| self.broken(&error))?;
        }
        let mut take = |word: &str| match words.get_mut(word) {
            Some(count) => *count += 1,
            None => drop(words.insert(word.to_owned(), 1)),
        };
        for (word, _, _) in split.get_splits(OffsetReferential::Normalized, OffsetType::None) {
            if self.has_blanks { cut(word, &mut take) } else { take(word) }
        }
        Ok(words)
    }

    fn normalized(&self, text: &str) -> Result<NormalizedString, DataError> {
        let mut text = NormalizedString::from(text);
        if let Some(normalizer) = self.inner.get_normalizer() {
            normalizer.normalize(&mut text).map_err(|error| self.broken(&error))?;
        }
        Ok(text)
    }

    fn broken(&self, error: &tokenizers::Error) -> DataError {
        DataError::invalid(&self.path, format!("can't cut a text into words: {error}"))
    }

    /// Learns a vocabulary of `size` tokens, and returns `tokenizer.json` and `tokenizer_config.json`. It takes minutes for
    /// large ones and can't be stopped; BPE uses the threads of the pool that it runs in.
    ///
    /// # Errors
    /// When `size` has no room for what has to be there, or the words are too few for it.
    pub fn train(
        mut self,
        words: Words,
        size: usize,
    ) -> Result<(Value, Map<String, Value>), DataError> {
        let mut words: Vec<(String, u64)> = words.into_iter().collect();
        words.sort_unstable();
        let alphabet = self.alphabet(&words);
        if self.has_blanks {
            words = without_rare(words, &alphabet);
        }
        let needed = self.needed(&words, &alphabet);
        if size < needed.len() {
            let message = format!(
                "{size} tokens have no room for {}: {} special and byte tokens, and the characters of the text",
                needed.len(),
                self.forced.len()
            );
            return Err(DataError::invalid(&self.path, message)
                .help(format!("set `size:` to {} or more", needed.len())));
        }
        let vocab = match self.kind {
            Kind::Unigram => self.unigram(words, size)?,
            Kind::Bpe | Kind::WordPiece => self.bpe(words, needed, size)?,
        };
        if vocab != size {
            let message = format!("the corpus has only enough for {vocab} tokens");
            return Err(
                DataError::invalid(&self.path, message).help("use more text, or a smaller `size:`")
            );
        }
        self.renumber();
        Ok((self.json, self.config))
    }

    /// Returns the characters that get a token.
    fn alphabet(&self, words: &[(String, u64)]) -> BTreeSet<char> {
        let mut counts: BTreeMap<char, u64> = BTreeMap::new();
        for (word, count) in words {
            word.chars().for_each(|c| *counts.entry(c).or_default() += count);
        }
        if !self.has_blanks {
            let bytes = byte_chars().into_iter().filter(|_| self.has_bytes);
            return counts.into_keys().chain(bytes).collect();
        }
        let total: u64 = counts.values().sum();
        let mut order: Vec<(char, u64)> = counts.into_iter().collect();
        order.sort_by_key(|&(c, count)| (std::cmp::Reverse(count), c));
        let mut covered = 0;
        let common = order.into_iter().take_while(|(_, count)| {
            let is_needed = covered as f64 <= COVERAGE * total as f64;
            covered += count;
            is_needed
        });
        common.map(|(c, _)| c).collect()
    }

    /// Returns the tokens that are there whatever is learned, in their order.
    fn needed(&self, words: &[(String, u64)], alphabet: &BTreeSet<char>) -> Vec<String> {
        let mut needed = self.forced.clone();
        needed.extend(alphabet.iter().map(char::to_string));
        let affix = |name: &str| self.json["model"][name].as_str().unwrap_or_default();
        let (prefix, suffix) = (affix("continuing_subword_prefix"), affix("end_of_word_suffix"));
        if !prefix.is_empty() || !suffix.is_empty() {
            let mut marked = BTreeSet::new();
            for (word, _) in words {
                let last = word.chars().count().saturating_sub(1);
                for (at, c) in word.chars().enumerate() {
                    let (before, after) =
                        (if at > 0 { prefix } else { "" }, if at == last { suffix } else { "" });
                    marked.insert(format!("{before}{c}{after}"));
                }
            }
            needed.extend(marked);
        }
        let mut seen = BTreeSet::new();
        needed.retain(|text| seen.insert(text.clone()));
        needed
    }

    /// Returns the size of the vocabulary that was learned.
    fn bpe(
        &mut self,
        words: Vec<(String, u64)>,
        needed: Vec<String>,
        size: usize,
    ) -> Result<usize, DataError> {
        let affix = |name: &str| {
            self.json["model"][name].as_str().filter(|text| !text.is_empty()).map(str::to_owned)
        };
        let mut trainer = BpeTrainer::builder()
            .show_progress(false)
            .progress_format(ProgressFormat::Silent)
            .vocab_size(size)
            // In this order they get their ids.
            .special_tokens(needed.into_iter().map(|text| AddedToken::from(text, false)).collect())
            .max_token_length(self.has_blanks.then_some(LONGEST_PIECE))
            .build();
        trainer.continuing_subword_prefix = affix("continuing_subword_prefix");
        trainer.end_of_word_suffix = affix("end_of_word_suffix");
        let shift = shift(pairs(&words).values().copied().max().unwrap_or(0), i32::MAX as u64);
        let words: AHashMap<CompactString, u64> =
            words.into_iter().map(|(word, count)| (word.into(), scaled(count, shift))).collect();
        let mut model = BPE::default();
        trainer.do_train(&words, &mut model).map_err(|error| self.failed(&error))?;
        let mut learned = serde_json::to_value(&model).expect("a model turns into JSON");
        self.json["model"]["vocab"] = learned["vocab"].take();
        if self.kind == Kind::Bpe {
            self.json["model"]["merges"] = learned["merges"].take();
        }
        Ok(self.json["model"]["vocab"].as_object().map_or(0, Map::len))
    }

    fn unigram(&mut self, words: Vec<(String, u64)>, size: usize) -> Result<usize, DataError> {
        let total = words.iter().map(|(_, count)| count).sum();
        let shift = shift(total, u64::from(u32::MAX / 2));
        let words: Vec<(String, u32)> =
            words.into_iter().map(|(word, count)| (word, scaled(count, shift) as u32)).collect();
        let special: Vec<AddedToken> =
            self.forced.iter().map(|text| AddedToken::from(text.clone(), false)).collect();
        let unknown = self.json["model"]["unk_id"]
            .as_u64()
            .map(|id| self.json["model"]["vocab"][id as usize][0].clone());
        let unknown = unknown.and_then(|text| text.as_str().map(str::to_owned));
        let trainer = UnigramTrainer::builder()
            .show_progress(false)
            .vocab_size(u32::try_from(size).unwrap_or(u32::MAX))
            .special_tokens(special)
            .unk_token(unknown.clone())
            .max_piece_length(LONGEST_PIECE)
            .build()
            .map_err(|error| self.failed(&error.into()))?;
        let mut model = Unigram::default();
        let alone = rayon::ThreadPoolBuilder::new()
            .num_threads(1)
            .build()
            .map_err(|error| self.failed(&error.into()))?;
        alone
            .install(|| trainer.do_train(words, &mut model))
            .map_err(|error| self.failed(&error))?;
        let forced = self.forced.len();
        let mut pieces: Vec<(String, f64)> = model.iter().skip(forced).cloned().collect();
        if pieces.len() > size - forced {
            // With no room but for the characters, the trainer doesn't see that it has enough.
            pieces.retain(|(text, _)| text.chars().count() == 1);
        }
        order_pieces(&mut pieces);
        let first = self.forced.iter().map(|text| (text.clone(), 0.0));
        let vocab: Vec<Value> =
            first.chain(pieces).map(|(text, score)| json!([text, score])).collect();
        let unknown = unknown.and_then(|text| self.forced.iter().position(|own| *own == text));
        let size = vocab.len();
        self.json["model"]["unk_id"] = json!(unknown);
        self.json["model"]["vocab"] = Value::Array(vocab);
        Ok(size)
    }

    fn failed(&self, error: &tokenizers::Error) -> DataError {
        DataError::invalid(&self.path, format!("can't learn a vocabulary: {error}"))
            .help("use more text, or another `size:`")
    }

    /// Puts in the new ids of the tokens that stay.
    fn renumber(&mut self) {
        let ids: HashMap<&str, usize> =
            self.forced.iter().enumerate().map(|(id, text)| (text.as_str(), id)).collect();
        let mut added = self.json["added_tokens"].take();
        for token in added.as_array_mut().into_iter().flatten() {
            if let Some(id) = token["content"].as_str().and_then(|text| ids.get(text)) {
                token["id"] = json!(id);
            }
        }
        if let Some(list) = added.as_array_mut() {
            list.sort_by_key(|token| token["id"].as_u64());
        }
        self.json["added_tokens"] = added;
        renumber_post_processor(&mut self.json["post_processor"], &ids);
        // It names tokens by their old ids, and says no more than `added_tokens`.
        self.config.remove("added_tokens_decoder");
        read_as_it_is(&mut self.config);
    }
}

/// Returns the tokens that stay, in the order of their old ids: added ones, those that the model, the post-processor or the
/// configuration name, and bytes.
fn forced(json: &Value, config: &Map<String, Value>) -> Vec<String> {
    let model = &json["model"];
    let mut ids: HashMap<&str, u64> = HashMap::new();
    for (text, id) in model["vocab"].as_object().into_iter().flatten() {
        ids.extend(id.as_u64().map(|id| (text.as_str(), id)));
    }
    for (id, piece) in model["vocab"].as_array().into_iter().flatten().enumerate() {
        ids.extend(piece[0].as_str().map(|text| (text, id as u64)));
    }
    let mut wanted: Vec<String> = Vec::new();
    for token in json["added_tokens"].as_array().into_iter().flatten() {
        if let (Some(text), Some(id)) = (token["content"].as_str(), token["id"].as_u64()) {
            ids.insert(text, id);
            wanted.push(text.to_owned());
        }
    }
    let unknown =
        model["unk_id"].as_u64().map_or(&Value::Null, |id| &model["vocab"][id as usize][0]);
    wanted.extend(
        [&model["unk_token"], unknown].into_iter().filter_map(Value::as_str).map(str::to_owned),
    );
    let named = config.iter().filter(|(key, _)| key.ends_with("_token"));
    wanted.extend(named.filter_map(|(_, token)| token_text(token)).map(str::to_owned));
    post_processor_tokens(&json["post_processor"], &mut wanted);
    if model["byte_fallback"] == true {
        wanted.extend((0..=255).map(byte_piece));
    }
    let placed: BTreeSet<(u64, String)> =
        wanted.into_iter().filter_map(|text| Some((*ids.get(text.as_str())?, text))).collect();
    placed.into_iter().map(|(_, text)| text).collect()
}

fn post_processor_tokens(value: &Value, found: &mut Vec<String>) {
    for token in value["special_tokens"].as_object().into_iter().flat_map(Map::values) {
        found.extend(
            token["tokens"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .map(str::to_owned),
        );
    }
    found.extend(
        ["sep", "cls"].iter().filter_map(|name| value[*name][0].as_str()).map(str::to_owned),
    );
    for part in value["processors"].as_array().into_iter().flatten() {
        post_processor_tokens(part, found);
    }
}

fn renumber_post_processor(value: &mut Value, ids: &HashMap<&str, usize>) {
    let Some(fields) = value.as_object_mut() else { return };
    let id_of = |text: &Value| ids.get(text.as_str()?).copied();
    let tokens = fields.get_mut("special_tokens").and_then(Value::as_object_mut);
    for token in tokens.into_iter().flat_map(Map::values_mut) {
        let texts = token["tokens"].as_array().into_iter().flatten();
        let new: Vec<Value> = texts.map(|text| json!(id_of(text))).collect();
        token["ids"] = Value::Array(new);
    }
    for name in ["sep", "cls"] {
        if let Some(pair) = fields.get_mut(name)
            && let Some(id) = id_of(&pair[0])
        {
            pair[1] = json!(id);
        }
    }
    let parts = fields.get_mut("processors").and_then(Value::as_array_mut);
    for part in parts.into_iter().flatten() {
        renumber_post_processor(part, ids);
    }
}

/// Cuts a text at blanks, which stay before what follows, and where the script changes.
fn cut(text: &str, take: &mut impl FnMut(&str)) {
    let (mut start, mut len, mut last, mut before) = (0, 0, None, '\0');
    for (at, c) in text.char_indices() {
        let script = script(c).or(last);
        let after_blank = before == MARK;
        // All but the last of several blanks are a word.
        let ends = match (c == MARK, after_blank) {
            (true, true) => {
                text[at + c.len_utf8()..].chars().next().is_some_and(|next| next != MARK)
            }
            (true, false) => true,
            (false, true) => false,
            (false, false) => script != last,
        };
        if at > start && (ends || len == LONGEST_WORD) {
            take(&text[start..at]);
            (start, len) = (at, 0);
        }
        (last, before) = (if c == MARK { None } else { script }, c);
        len += 1;
    }
    if start < text.len() {
        take(&text[start..]);
    }
}

/// Returns a character's script, Japanese ones as one with Chinese; none for what takes that of its neighbour.
fn script(c: char) -> Option<Script> {
    match c.script() {
        Script::Inherited => None,
        Script::Hiragana | Script::Katakana => Some(Script::Han),
        _ if c == 'ー' => Some(Script::Han),
        script => Some(script),
    }
}

/// Cuts words where they have characters that get no token.
fn without_rare(words: Vec<(String, u64)>, alphabet: &BTreeSet<char>) -> Vec<(String, u64)> {
    let mut kept: BTreeMap<String, u64> = BTreeMap::new();
    for (word, count) in words {
        for part in word.split(|c| !alphabet.contains(&c)).filter(|part| !part.is_empty()) {
            *kept.entry(part.to_owned()).or_default() += count;
        }
    }
    kept.into_iter().collect()
}

fn pairs(words: &[(String, u64)]) -> HashMap<(char, char), u64> {
    let mut pairs = HashMap::new();
    for (word, count) in words {
        for pair in word.chars().zip(word.chars().skip(1)) {
            *pairs.entry(pair).or_default() += count;
        }
    }
    pairs
}

/// By how many bits all counts have to be made smaller for the largest sum to have room in the trainer's numbers.
fn shift(largest: u64, room: u64) -> u32 {
    (0..64).find(|shift| largest >> shift <= room / 2).unwrap_or(63)
}

fn scaled(count: u64, shift: u32) -> u64 {
    (count >> shift).max(1)
}

/// Sorts pieces by falling score, and then by text. Characters that no word needs got scores in steps above the smallest one,
/// in an order by chance: here they get them in their own order.
fn order_pieces(pieces: &mut [(String, f64)]) {
    let smallest = pieces.iter().map(|(_, score)| *score).fold(f64::INFINITY, f64::min);
    let is_step = |score: f64| {
        let steps = (score - smallest) / STEP;
        steps < pieces.len() as f64 && (steps - steps.round()).abs() < 1e-6
    };
    let places: Vec<usize> = (0..pieces.len())
        .filter(|&at| pieces[at].0.chars().count() == 1 && is_step(pieces[at].1))
        .collect();
    let mut texts: Vec<String> = places.iter().map(|&at| pieces[at].0.clone()).collect();
    let mut scores: Vec<f64> = places.iter().map(|&at| pieces[at].1).collect();
    texts.sort_unstable();
    scores.sort_unstable_by(f64::total_cmp);
    for (at, (text, score)) in places.into_iter().zip(texts.into_iter().zip(scores)) {
        pieces[at] = (text, score);
    }
    pieces.sort_by(|(one, a), (two, b)| b.total_cmp(a).then_with(|| one.cmp(two)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_cut_as_sentencepiece_does() {
        let words = |text: &str| {
            let mut words = Vec::new();
            cut(text, &mut |word| words.push(word.to_owned()));
            words
        };
        assert_eq!(words("▁don't▁go"), ["▁don", "'", "t", "▁go"]);
        assert_eq!(words("▁▁▁a▁▁"), ["▁▁", "▁a", "▁▁"]);
        assert_eq!(words("▁これは漢字、x2"), ["▁これは漢字", "、", "x", "2"]);
        assert_eq!(words("e\u{301}a\u{301}"), ["e\u{301}a\u{301}"]);
        assert_eq!(
            words(&"a".repeat(600)).iter().map(String::len).collect::<Vec<_>>(),
            [256, 256, 88]
        );
    }

    fn tokenizer(model: &Value, around: &Value) -> (tempfile::TempDir, Retrain) {
        let special = |id: u32, text: &str| {
            json!({
                "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true,
            })
        };
        let json = json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": [special(1, "<s>"), special(4, "</s>")], "normalizer": around["normalizer"],
            "pre_tokenizer": around["pre_tokenizer"], "decoder": null, "model": model,
            "post_processor": {
                "type": "TemplateProcessing", "pair": [],
                "single": [{"SpecialToken": {"id": "</s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "special_tokens": {"</s>": {"id": "</s>", "ids": [4], "tokens": ["</s>"]}},
            },
        });
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
        let config = json!({"eos_token": "</s>", "added_tokens_decoder": {}, "chat_template": "x"});
        std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
        let read = Retrain::open(folder.path()).unwrap();
        (folder, read)
    }

    const TEXT: &str =
        "the cat sat on the mat, the cats sat there\n«naïve» 12 cats that that hats hat";

    fn check(model: &Value, around: &Value, size: usize, first: &[&str]) -> Value {
        let run = |threads: usize, size: usize| {
            let (_folder, retrain) = tokenizer(model, around);
            let words = retrain.words(TEXT).unwrap();
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| retrain.train(words, size))
        };
        let (json, config) = run(1, size).unwrap();
        for threads in [1, 2, 2] {
            assert_eq!(
                run(threads, size).unwrap().0.to_string(),
                json.to_string(),
                "{threads} threads"
            );
        }
        let vocabulary =
            crate::data::tokenizer::files::model_tokens(Path::new("t"), &json).unwrap();
        let ids: HashMap<&str, u32> = vocabulary.into_iter().collect();
        assert_eq!(ids.len(), size);
        for (id, text) in first.iter().enumerate() {
            assert_eq!(ids.get(text), Some(&(id as u32)), "{text}");
        }
        let end = first.iter().position(|text| *text == "</s>").unwrap();
        assert_eq!(json["post_processor"]["special_tokens"]["</s>"]["ids"], json!([end]));
        assert_eq!(json["added_tokens"][1]["id"], json!(end));
        assert_eq!(Value::Object(config), json!({"eos_token": "</s>", "chat_template": "x"}));
        let small = run(1, first.len()).unwrap_err().to_string();
        assert!(small.contains("have no room for"), "{small}");
        let large = run(1, 5000).unwrap_err().to_string();
        assert!(large.contains("the corpus has only enough for"), "{large}");
        json
    }

    #[test]
    fn byte_level_bpe_is_learned() {
        let model = json!({"type": "BPE", "vocab": {"<s>": 1, "</s>": 4}, "merges": [], "ignore_merges": true});
        let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
        let json =
            check(&model, &json!({"pre_tokenizer": byte_level}), 265, &["<s>", "</s>", "!", "\""]);
        assert_eq!(json["model"]["ignore_merges"], true);
        assert_eq!(json["model"]["merges"][0], json!(["a", "t"]));
    }

    #[test]
    fn bpe_with_blanks_and_bytes_is_learned() {
        let mut vocab = Map::new();
        let first: Vec<String> =
            ["<unk>", "<s>"].map(str::to_owned).into_iter().chain((0..2).map(byte_piece)).collect();
        for (id, text) in first
            .iter()
            .cloned()
            .chain(["</s>".to_owned()])
            .chain((2..=255).map(byte_piece))
            .enumerate()
        {
            vocab.insert(text, json!(id));
        }
        let model = json!({
            "type": "BPE", "vocab": vocab, "merges": [], "unk_token": "<unk>", "byte_fallback": true, "fuse_unk": true,
        });
        let normalizer = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
        let first = ["<unk>", "<s>", "<0x00>", "<0x01>", "</s>", "<0x02>"];
        let json = check(&model, &json!({"normalizer": normalizer}), 290, &first);
        assert_eq!(json["model"]["merges"][0], json!(["a", "t"]));
    }

    #[test]
    fn word_piece_is_learned() {
        let model = json!({
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
            "vocab": {"[UNK]": 0, "<s>": 1, "</s>": 4},
        });
        let around = json!({"pre_tokenizer": {"type": "BertPreTokenizer"}});
        check(&model, &around, 46, &["[UNK]", "<s>", "</s>", ",", "1"]);
    }

    #[test]
    fn unigram_is_learned() {
        let vocab =
            json!([["<pad>", 0.0], ["<s>", 0.0], ["<unk>", 0.0], ["a", -1.0], ["</s>", 0.0]]);
        let model = json!({"type": "Unigram", "unk_id": 2, "vocab": vocab, "byte_fallback": false});
        let metaspace = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
        let json =
            check(&model, &json!({"pre_tokenizer": metaspace}), 26, &["<s>", "<unk>", "</s>"]);
        assert_eq!(json["model"]["unk_id"], 1);
    }

    #[test]
    fn large_counts_are_made_smaller() {
        assert_eq!((shift(5, 100), shift(51, 100), shift(u64::MAX, 1 << 31)), (0, 1, 34));
        assert_eq!((scaled(7, 1), scaled(1, 9)), (3, 1));
    }
}
