//! How a `tokenizer.json` splits text, as far as it is done here.

use serde_json::Value;

use crate::data::tokenizer::merges::Alphabet;
use crate::data::tokenizer::spelling::MARK;
use crate::data::tokenizer::split::{Keep, Level, literal};

/// The pattern of `ByteLevel`.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// The pattern of `Whitespace`.
const WORDS: &str = r"\w+|[^\w\s]+";

/// What is done to a text before it is split.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Normal {
    Never,
    Nfc,
    ByCrate,
}

/// Where a mark is set before a piece.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Prepend {
    Never,
    Always,
    /// Unless it begins with a blank or a mark.
    IfMissing,
    /// So, and only at the start of the text.
    IfMissingAtStart,
}

/// Blanks that become marks in a model's pieces.
#[derive(Clone, Copy)]
pub(super) struct Marks {
    pub(super) prepend: Prepend,
    /// Whether pieces are parted before each.
    pub(super) split: bool,
}

/// How text becomes the pieces that the model sees, each step on what the step before made.
pub(super) struct Plan {
    pub(super) normal: Normal,
    pub(super) levels: Vec<Level>,
    pub(super) marks: Option<Marks>,
    /// Whether each byte of a piece becomes a character.
    pub(super) bytes: bool,
}

impl Plan {
    /// Returns the plan of a normalizer and a pre-tokenizer; `None` when only the crate knows how to split.
    pub(super) fn new(normalizer: &Value, pre_tokenizer: &Value) -> Option<Self> {
        let mut steps = Vec::new();
        flatten(pre_tokenizer, "pretokenizers", &mut steps);
        let mut plan =
            Self { normal: Normal::Never, levels: Vec::new(), marks: None, bytes: false };
        plan.normalize(normalizer, &mut steps);
        steps.iter().try_for_each(|step| plan.add(step))?;
        // What starts a text may have been normalized away.
        let asks_start = |marks: &Marks| marks.prepend == Prepend::IfMissingAtStart;
        let is_lost = plan.normal != Normal::Never && plan.marks.as_ref().is_some_and(asks_start);
        (!is_lost).then_some(plan)
    }

    /// Returns what the characters of the model's pieces stand for.
    pub(super) fn alphabet(&self) -> Alphabet {
        match (self.bytes, self.marks) {
            (true, _) => Alphabet::Bytes,
            (false, Some(_)) => Alphabet::Marked,
            (false, None) => Alphabet::Chars,
        }
    }

    /// Reads the normalizer. Marks that it sets are set as those of a pre-tokenizer when nothing else sees them.
    fn normalize(&mut self, normalizer: &Value, steps: &mut Vec<&Value>) {
        let mut parts = Vec::new();
        flatten(normalizer, "normalizers", &mut parts);
        let is_mark = |part: &Value| {
            part["type"] == "Replace"
                && part["pattern"]["String"] == " "
                && part["content"] == MARK.to_string()
        };
        let is_prepend =
            |part: &Value| part["type"] == "Prepend" && part["prepend"] == MARK.to_string();
        let prepend = match parts[..] {
            [] => return,
            [nfc] if nfc["type"] == "NFC" => {
                self.normal = Normal::Nfc;
                return;
            }
            [replace] if is_mark(replace) => Prepend::Never,
            [prepend, replace] if is_prepend(prepend) && is_mark(replace) => Prepend::Always,
            _ => {
                self.normal = Normal::ByCrate;
                return;
            }
        };
        // Gemma's files split at blanks, of which none is left.
        let is_idle = |step: &Value| step["pattern"]["String"] == " " && step["invert"] == false;
        if steps.iter().all(|step| is_idle(step)) {
            steps.clear();
            self.marks = Some(Marks { prepend, split: false });
        } else {
            self.normal = Normal::ByCrate;
        }
    }

    fn add(&mut self, step: &Value) -> Option<()> {
        if self.bytes || self.marks.is_some() {
            return None;
        }
        let level = match step["type"].as_str()? {
            "ByteLevel" => {
                self.bytes = true;
                if step["add_prefix_space"] != false {
                    return None;
                }
                if step["use_regex"] == false {
                    return Some(());
                }
                Level::new(GPT2, Keep::All)
            }
            "Metaspace" => {
                self.marks = Some(marks(step)?);
                return Some(());
            }
            "Split" => Level::new(&pattern(&step["pattern"])?, kept(step)?),
            "Digits" => {
                let is_single = step["individual_digits"].as_bool()?;
                Level::of_class(char::is_numeric, !is_single, Keep::All)
            }
            "Whitespace" => Level::new(WORDS, Keep::Matches),
            "WhitespaceSplit" => Level::of_class(char::is_whitespace, false, Keep::Rest),
            _ => None,
        };
        self.levels.push(level?);
        Some(())
    }
}

/// Collects the steps of nested sequences.
fn flatten<'j>(step: &'j Value, name: &str, steps: &mut Vec<&'j Value>) {
    match step[name].as_array() {
        Some(parts) => parts.iter().for_each(|part| flatten(part, name, steps)),
        None if step.is_null() => {}
        None => steps.push(step),
    }
}

fn pattern(pattern: &Value) -> Option<String> {
    match pattern["String"].as_str() {
        Some(text) => Some(literal(text)),
        None => pattern["Regex"].as_str().map(str::to_owned),
    }
}

fn kept(split: &Value) -> Option<Keep> {
    match (split["behavior"].as_str()?, split["invert"].as_bool()?) {
        ("Isolated", _) => Some(Keep::All),
        ("Removed", true) => Some(Keep::Matches),
        ("Removed", false) => Some(Keep::Rest),
        _ => None,
    }
}

fn marks(metaspace: &Value) -> Option<Marks> {
    if metaspace["replacement"] != MARK.to_string() {
        return None;
    }
    let prepend = match metaspace["prepend_scheme"].as_str()? {
        "always" => Prepend::IfMissing,
        "first" => Prepend::IfMissingAtStart,
        "never" => Prepend::Never,
        _ => return None,
    };
    Some(Marks { prepend, split: metaspace["split"].as_bool()? })
}
