//! Tasks of evaluations: files with a JSON object a line, the first of which may be shown before the others.

use std::fs;
use std::path::Path;

use crate::data::error::DataError;

/// What is wrong with a line, and what to do.
pub(crate) type Wrong = (String, &'static str);

/// Reads all lines that are not empty.
///
/// # Errors
/// When the file can't be read or a line not be parsed: with its number.
pub(crate) fn read<T>(
    path: &Path,
    parse: impl Fn(&[u8]) -> Result<T, Wrong>,
) -> Result<Vec<T>, DataError> {
    let text = fs::read(path).map_err(DataError::io("read", path))?;
    let lines = text.split(|&byte| byte == b'\n').enumerate();
    let lines = lines.filter(|(_, line)| !line.trim_ascii().is_empty());
    let parsed = lines.map(|(at, line)| {
        parse(line).map_err(|(what, help)| {
            DataError::invalid(path, format!("line {}: {what}", at + 1)).help(help)
        })
    });
    parsed.collect()
}

/// Returns the first ones, which are shown, and the others.
///
/// # Errors
/// When there are no others.
pub(crate) fn shown<T>(
    path: &Path,
    mut all: Vec<T>,
    shots: usize,
) -> Result<(Vec<T>, Vec<T>), DataError> {
    if all.len() <= shots {
        let count = all.len();
        let message = format!("has {count} questions, of which {shots} are shown: none is left");
        return Err(DataError::invalid(path, message).help("add questions, or use fewer `shots`"));
    }
    let rest = all.split_off(shots);
    Ok((all, rest))
}
