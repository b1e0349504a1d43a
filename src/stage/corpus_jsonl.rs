//! `corpus.jsonl`: a text of each line of JSON, plain or compressed, as one corpus.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use rayon::prelude::{IntoParallelIterator, ParallelIterator};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::base::text::did_you_mean;
use crate::data::CorpusWriter;
use crate::stage::reading::{
    Block, Content, Input, LINE_MAX, Lines, Policy, Record, Rejects, expand, finish, too_long,
};
use crate::stage::{Context, StageError};

#[derive(Deserialize)]
struct Params {
    field: String,
    malformed: Policy,
}

/// Runs the stage.
///
/// # Errors
/// When a file can't be read or decompressed, or a line has no such text and the policy is to fail.
pub fn run(context: &mut Context) -> Result<(), StageError> {
    let params: Params = context.params()?;
    let field: Vec<&str> = params.field.split('.').collect();
    let files = expand(context.inputs("files"))?;
    let mut writer = CorpusWriter::create(&context.out_dir("out")?)?;
    let mut rejects = Rejects::new(params.malformed);
    let (mut done, total) = (0, files.iter().map(|file| file.size).sum());
    for file in &files {
        let read = read_file(context, file, &field, (done, total), &mut writer, &mut rejects);
        file.checked(read)?;
        done += file.size;
    }
    finish(context, writer, rejects)
}

fn read_file(
    context: &mut Context,
    file: &Input,
    field: &[&str],
    (done, total): (u64, u64),
    writer: &mut CorpusWriter,
    rejects: &mut Rejects,
) -> Result<(), StageError> {
    let pool = context.pool()?;
    let mut lines = Lines::new(Content::open(&file.path)?, LINE_MAX);
    while let Some(block) = lines.next()? {
        if context.interrupted() {
            return Err(StageError::Interrupted);
        }
        context.progress(done + lines.content().position(), Some(total), "bytes");
        let record = |number| Record { input: file, number, is_row: false };
        let (bytes, first) = match block {
            Block::Lines { bytes, first, .. } => (bytes, first),
            Block::TooLong { line } => {
                rejects.reject(context, &record(line), &too_long())?;
                continue;
            }
        };
        let texts: Vec<_> = pool.install(|| {
            let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
            lines.into_par_iter().map(|line| text_of(line, field)).collect()
        });
        for (at, text) in texts.into_iter().enumerate() {
            match text {
                Ok(None) => {}
                Ok(Some(text)) => writer.push(&text)?,
                Err(why) => rejects.reject(context, &record(first + at as u64), &why)?,
            }
        }
    }
    Ok(())
}

/// Returns the text in a line, nothing of a blank one; or what is wrong.
fn text_of<'l>(line: &'l [u8], field: &[&str]) -> Result<Option<Cow<'l, str>>, String> {
    let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
    if line.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    let mut json = serde_json::Deserializer::from_slice(line);
    let found = At(field).deserialize(&mut json).and_then(|found| json.end().map(|()| found));
    let name = || field.join(".");
    match found {
        Ok(Found::Text(text)) => Ok(Some(text)),
        Ok(Found::Other(what)) => Err(format!("`{}` is {what}, not a text", name())),
        Ok(Found::Nothing) => {
            let fields: BTreeMap<String, IgnoredAny> =
                serde_json::from_slice(line).unwrap_or_default();
            let names = fields.keys().map(String::as_str);
            Err(match did_you_mean(&name(), names.clone()) {
                Some(near) => format!("there is no field `{}`; did you mean `{near}`?", name()),
                None => format!("there is no field `{}`; {}", name(), listed(names)),
            })
        }
        Err(error) => Err(format!("no line of JSON: {}", plain(&error))),
    }
}

fn listed<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let names: Vec<_> = names.take(8).map(|name| format!("`{name}`")).collect();
    match names.is_empty() {
        true => "the line is no record with fields".to_owned(),
        false => format!("there is {}", names.join(", ")),
    }
}

/// Returns what is wrong with JSON, and where in the line.
fn plain(error: &serde_json::Error) -> String {
    let (whole, column) = (error.to_string(), error.column());
    let what = whole.split(" at line ").next().unwrap_or_default();
    format!("{what} at byte {column}")
}

/// What is at a place in JSON.
enum Found<'de> {
    Text(Cow<'de, str>),
    /// Something else.
    Other(&'static str),
    Nothing,
}

/// Finds what is at a path. Of a name that is there twice the last one counts, as in Python.
struct At<'p>(&'p [&'p str]);

impl<'de> DeserializeSeed<'de> for At<'_> {
    type Value = Found<'de>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Found<'de>, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for At<'_> {
    type Value = Found<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Found<'de>, E> {
        match self.0 {
            [] => Ok(Found::Text(Cow::Borrowed(text))),
            _ => Ok(Found::Nothing),
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Found<'de>, E> {
        match self.0 {
            [] => Ok(Found::Text(Cow::Owned(text.to_owned()))),
            _ => Ok(Found::Nothing),
        }
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Found<'de>, E> {
        Ok(self.other("a truth value"))
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Found<'de>, E> {
        Ok(self.other("a number"))
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Found<'de>, E> {
        Ok(self.other("a number"))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Found<'de>, E> {
        Ok(self.other("a number"))
    }

    fn visit_unit<E: Error>(self) -> Result<Found<'de>, E> {
        Ok(self.other("null"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Found<'de>, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(self.other("a list"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Found<'de>, A::Error> {
        let Some((first, rest)) = self.0.split_first() else {
            while fields.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(self.other("a record"));
        };
        let mut found = Found::Nothing;
        while let Some(is_first) = fields.next_key_seed(Key(first))? {
            match is_first {
                true => found = fields.next_value_seed(At(rest))?,
                false => drop(fields.next_value::<IgnoredAny>()?),
            }
        }
        Ok(found)
    }
}

impl At<'_> {
    fn other(&self, what: &'static str) -> Found<'static> {
        match self.0 {
            [] => Found::Other(what),
            _ => Found::Nothing,
        }
    }
}

/// Whether a field has this name.
struct Key<'p>(&'p str);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<bool, D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<bool, E> {
        Ok(name == self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, field: &str, expected: Result<&str, &str>) {
        let field: Vec<_> = field.split('.').collect();
        let found = text_of(line.as_bytes(), &field);
        let found = found.as_ref().map(|text| text.as_deref().unwrap_or("none"));
        assert_eq!(found.map_err(String::as_str), expected, "{line}");
    }

    #[test]
    fn texts_are_found_by_dotted_names() {
        check(r#"{"text": "a", "n": [1, {"text": "b"}]}"#, "text", Ok("a"));
        check(r#"{"meta": {"text": "a\u00fc\n"}, "text": 1}"#, "meta.text", Ok("aü\n"));
        check(r#"{"text": "a", "text": "b"}"#, "text", Ok("b"));
        check("\u{feff}{\"text\": \"\"}\r", "text", Ok(""));
        check(" \t\r", "text", Ok("none"));
    }

    #[test]
    fn what_is_no_text_is_told() {
        for (value, what) in [
            ("1", "a number"),
            ("-1", "a number"),
            ("0.5", "a number"),
            ("null", "null"),
            ("true", "a truth value"),
            ("[\"a\"]", "a list"),
            ("{}", "a record"),
        ] {
            let told = format!("`text` is {what}, not a text");
            check(&format!("{{\"text\": {value}}}"), "text", Err(&told));
        }
        let text = "text";
        check(r#"{"texts": ""}"#, text, Err("there is no field `text`; did you mean `texts`?"));
        check(
            r#"{"id": 1, "body": ""}"#,
            text,
            Err("there is no field `text`; there is `body`, `id`"),
        );
        check(r#"{"a": 1}"#, "a.text", Err("there is no field `a.text`; there is `a`"));
        check("[1]", text, Err("there is no field `text`; the line is no record with fields"));
        check(
            r#"{"text": "a""#,
            text,
            Err("no line of JSON: EOF while parsing an object at byte 12"),
        );
        check(r#"{"text": "a"} x"#, text, Err("no line of JSON: trailing characters at byte 15"));
        check(
            r#"{"text": "\ud800"}"#,
            text,
            Err("no line of JSON: unexpected end of hex escape at byte 17"),
        );
    }
}
