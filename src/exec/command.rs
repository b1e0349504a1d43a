//! The command of a stage that a recipe declares, with all values in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::base::{Value, text};
use crate::sema::steps::{OutputKind, ShellPart, StageDecl};
use crate::stage::action::{Shell, ShellOutput};

/// Returns what a worker is to run, if the stage is a command. Every value is one word to the shell, a list one an item.
pub(super) fn command(
    stage: &StageDecl,
    inputs: &BTreeMap<String, Vec<PathBuf>>,
    params: &BTreeMap<String, Value>,
    out: &Path,
) -> Option<Shell> {
    let shell = stage.shell()?;
    let part = |part: &ShellPart| match part {
        ShellPart::Text(text) => text.clone(),
        ShellPart::Input(name) => words(inputs.get(name).into_iter().flatten().map(|p| path(p))),
        ShellPart::Param(names) => words(param(params, names)),
        ShellPart::Output(name) => path(&out.join(name)),
    };
    let output = |(name, kind): (&String, &OutputKind)| {
        let output = match (kind, shell.kinds.get(name)) {
            (OutputKind::Artifact, Some(kind)) => ShellOutput::Artifact(kind.clone()),
            // Of the fields of another output only a model's tokenizer is an artifact.
            (OutputKind::Artifact, None) => {
                ShellOutput::TokenizerOf(name.strip_suffix(".tokenizer")?.to_owned())
            }
            (OutputKind::Scalar, _) if shell.parts.contains(&ShellPart::Output(name.clone())) => {
                ShellOutput::Scalar
            }
            (OutputKind::Scalar, _) => return None,
        };
        Some((name.clone(), output))
    };
    Some(Shell {
        command: shell.parts.iter().map(part).collect(),
        folder: shell.folder.clone(),
        outputs: stage.outputs.iter().filter_map(output).collect(),
    })
}

fn words(words: impl IntoIterator<Item = String>) -> String {
    words.into_iter().collect::<Vec<_>>().join(" ")
}

fn path(path: &Path) -> String {
    text::shell_word(&path.to_string_lossy())
}

/// Returns the words for a parameter or a field of it.
fn param(params: &BTreeMap<String, Value>, names: &[String]) -> Vec<String> {
    let Some((first, rest)) = names.split_first() else { return Vec::new() };
    let mut value = params.get(first);
    for name in rest {
        value = match value {
            Some(Value::Map(fields)) => fields.get(name),
            _ => None,
        };
    }
    match value {
        Some(Value::List(items)) => items.iter().map(word).collect(),
        Some(value) => vec![word(value)],
        None => Vec::new(),
    }
}

fn word(value: &Value) -> String {
    match value {
        Value::Null => text::shell_word(""),
        Value::Str(text) => text::shell_word(text),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Float(value) => value.to_string(),
        Value::Digest(digest) => digest.to_string(),
        Value::List(_) | Value::Map(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_words_of_their_own() {
        let check = |value: Value, expected: &str| {
            let params = BTreeMap::from([("p".to_owned(), value)]);
            assert_eq!(words(param(&params, &["p".to_owned()])), expected);
        };
        check(Value::Str("$(rm -rf ~); `x` 'y'\n".into()), "'$(rm -rf ~); `x` '\\''y'\\''\n'");
        check(Value::Str("-n".into()), "-n");
        check(Value::Str(String::new()), "''");
        check(Value::Null, "''");
        check(Value::Float(0.5), "0.5");
        check(Value::List(vec![Value::Str("a b".into()), Value::Int(2)]), "'a b' 2");
    }
}
