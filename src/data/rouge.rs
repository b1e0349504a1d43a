//! ROUGE-1 and ROUGE-L: how many words two texts have in common, as Google's `rouge_score` counts without stemming.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::data::error::DataError;
use crate::data::task;

/// What stands between the texts that are shown; what is written ends before it.
pub const SEPARATOR: &str = "\n\n";

/// A text to write on, and what should come.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Item {
    /// The text.
    pub query: String,
    /// What should come.
    pub reference: String,
}

/// Reads the items of a file that are to be written, each after the shown ones.
///
/// # Errors
/// When the file can't be read, a line is no item, or none is left: with the line's number.
pub fn read_items(path: &Path, shots: usize) -> Result<Vec<Item>, DataError> {
    let all = task::read(path, |line| {
        let form = "write a line as {\"query\": \"...\", \"reference\": \"...\"}";
        serde_json::from_slice::<Item>(line)
            .map_err(|error| (format!("not an item: {error}"), form))
    })?;
    let (shown, rest) = task::shown(path, all, shots)?;
    let show = |item: &Item| format!("{} {}{SEPARATOR}", item.query, item.reference);
    let shown: String = shown.iter().map(show).collect();
    let after = |item: Item| Item { query: format!("{shown}{}", item.query), ..item };
    Ok(rest.into_iter().map(after).collect())
}

/// Returns ROUGE-1 and ROUGE-L, each the harmonic mean of precision and recall.
pub fn rouge(written: &str, reference: &str) -> [f64; 2] {
    let (a, b) = (words(written), words(reference));
    let f = |common: usize| match common {
        0 => 0.0,
        _ => 2.0 * common as f64 / (a.len() + b.len()) as f64,
    };
    [f(in_common(&a, &b)), f(longest_common(&a, &b))]
}

/// Words are of letters and digits of ASCII; all else parts them.
fn words(text: &str) -> Vec<String> {
    let text = text.to_lowercase();
    let words = text.split(|c: char| !c.is_ascii_alphanumeric());
    words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn in_common(a: &[String], b: &[String]) -> usize {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for word in b {
        *counts.entry(word).or_default() += 1;
    }
    let mut common = 0;
    for word in a {
        if let Some(count) = counts.get_mut(word.as_str()).filter(|count| **count > 0) {
            *count -= 1;
            common += 1;
        }
    }
    common
}

/// Returns the length of the longest sequence of words that both have in this order.
fn longest_common(a: &[String], b: &[String]) -> usize {
    let mut row = vec![0; b.len() + 1];
    for word in a {
        let mut diagonal = 0;
        for (at, other) in b.iter().enumerate() {
            let above = row[at + 1];
            row[at + 1] = if word == other { diagonal + 1 } else { above.max(row[at]) };
            diagonal = above;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values are those of `rouge_score` 0.1.2: `RougeScorer(["rouge1", "rougeL"]).score(reference, written)`.
    #[test]
    fn scores_are_those_of_rouge_score() {
        let check = |written: &str, reference: &str, expected: [f64; 2]| {
            let got = rouge(written, reference);
            assert!(
                got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9),
                "{written}: {got:?}"
            );
        };
        check("The quick brown fox jumps", "A quick fox jumped over: the fox!", EXPECTED[0]);
        check("the the the", "the cat, the mat", EXPECTED[1]);
        check("b a c d", "a b c d", EXPECTED[2]);
        check("", "a b", EXPECTED[3]);
        check("Été 12-3", "t 12 3 été", EXPECTED[4]);
    }

    const EXPECTED: [[f64; 2]; 5] = [
        [0.5, 0.3333333333333333],
        [0.5714285714285715, 0.5714285714285715],
        [1.0, 0.75],
        [0.0, 0.0],
        [0.8571428571428571, 0.8571428571428571],
    ];

    #[test]
    fn lines_that_are_no_items_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("task.jsonl");
        std::fs::write(&path, "{\"query\": \"a\", \"reference\": \"b\"}\n{\"query\": 1}\n")
            .unwrap();
        let error = read_items(&path, 0).unwrap_err().to_string();
        assert!(error.contains("line 2: not an item"), "{error}");
        std::fs::write(&path, "{\"query\": \"a\", \"reference\": \"b\"}\n".repeat(2)).unwrap();
        assert_eq!(read_items(&path, 1).unwrap()[0].query, "a b\n\na");
    }
}
