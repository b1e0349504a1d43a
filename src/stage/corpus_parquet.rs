//! `corpus.parquet`: a text column of Parquet files as one corpus, read page by page.

use std::fs::File;

use parquet::basic::Type;
use parquet::column::reader::ColumnReader;
use parquet::data_type::ByteArray;
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::SchemaDescriptor;
use serde::Deserialize;

use crate::base::text::did_you_mean;
use crate::data::CorpusWriter;
use crate::stage::reading::{Input, Policy, Record, Rejects, expand, finish};
use crate::stage::{Context, StageError};

/// Rows that are read at once.
const ROWS: usize = 256;

#[derive(Deserialize)]
struct Params {
    field: String,
    malformed: Policy,
}

/// Runs the stage.
///
/// # Errors
/// When a file is no Parquet file with such a column of texts, or a row has none and the policy is to fail.
pub fn run(context: &mut Context) -> Result<(), StageError> {
    let params: Params = context.params()?;
    let files = expand(context.inputs("files"))?;
    let mut writer = CorpusWriter::create(&context.out_dir("out")?)?;
    let mut rejects = Rejects::new(params.malformed);
    let (mut done, total) = (0, files.iter().map(|file| file.size).sum());
    for file in &files {
        context.progress(done, Some(total), "bytes");
        file.checked(read_file(context, file, &params.field, &mut writer, &mut rejects))?;
        done += file.size;
    }
    context.progress(done, Some(total), "bytes");
    finish(context, writer, rejects)
}

fn read_file(
    context: &mut Context,
    input: &Input,
    field: &str,
    writer: &mut CorpusWriter,
    rejects: &mut Rejects,
) -> Result<(), StageError> {
    let path = &input.path;
    let file = File::open(path).map_err(|error| StageError::io("open", path, &error))?;
    let damaged = |error: ParquetError| {
        StageError::input(format!("`{}` is no whole Parquet file: {error}", path.display()))
            .help("get the file again")
    };
    let reader = SerializedFileReader::new(file).map_err(damaged)?;
    let schema = reader.metadata().file_metadata().schema_descr();
    let column = column(schema, field).map_err(|(why, help)| {
        StageError::input(format!("`{}`: {why}", path.display())).help(help)
    })?;
    let whole = schema.column(column).max_def_level();
    let mut row = 0;
    for group in 0..reader.num_row_groups() {
        let group = reader.get_row_group(group).map_err(damaged)?;
        let ColumnReader::ByteArrayColumnReader(mut texts) =
            group.get_column_reader(column).map_err(damaged)?
        else {
            unreachable!("the column is of byte arrays")
        };
        loop {
            if context.interrupted() {
                return Err(StageError::Interrupted);
            }
            let (mut levels, mut values) = (Vec::new(), Vec::new());
            let read = texts.read_records(ROWS, Some(&mut levels), None, &mut values);
            let (rows, ..) = read.map_err(damaged)?;
            if rows == 0 {
                break;
            }
            // A level below the column's own means that there is no text, or no record around it.
            levels.resize(rows, whole);
            let mut values = values.iter();
            for level in levels {
                row += 1;
                let value = if level == whole { values.next() } else { None };
                let text = value.map(ByteArray::data).map(std::str::from_utf8);
                match text {
                    Some(Ok(text)) => writer.push(text)?,
                    wrong => {
                        let why = if wrong.is_some() { "not UTF-8" } else { "null, not a text" };
                        let record = Record { input, number: row, is_row: true };
                        rejects.reject(context, &record, &format!("`{field}` is {why}"))?;
                    }
                }
            }
        }
    }
    Ok(())
}

/// Returns the place of a column, or what is wrong with it and what to do.
fn column(schema: &SchemaDescriptor, field: &str) -> Result<usize, (String, String)> {
    let names: Vec<String> = schema.columns().iter().map(|column| column.path().string()).collect();
    let Some(place) = names.iter().position(|name| name == field) else {
        let help = match did_you_mean(field, names.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("columns are {}", names.join(", ")),
        };
        return Err((format!("there is no column `{field}`"), help));
    };
    let column = schema.column(place);
    let help = "name a column of texts with `field:`".to_owned();
    if column.max_rep_level() > 0 {
        return Err((format!("`{field}` is a list, not a text"), help));
    }
    match column.physical_type() {
        Type::BYTE_ARRAY => Ok(place),
        other => Err((format!("`{field}` is of type {other}, not a text"), help)),
    }
}
