//! `dataset.pack`: encodes a corpus and packs it end to end.

use serde::Deserialize;

use crate::base::Value;
use crate::data::tokenizer::Part;
use crate::data::{DataError, DatasetWriter, Tokenizer};
use crate::stage::documents::each_part;
use crate::stage::reading::corpus;
use crate::stage::{Context, StageError};

#[derive(Deserialize)]
struct Params {
    seq: u64,
}

/// Runs the stage.
///
/// # Errors
/// When an input can't be read, or the text is too short for one sequence.
pub fn run(context: &mut Context) -> Result<(), StageError> {
    let params: Params = context.params()?;
    let corpus = corpus(context)?;
    let tokenizer = Tokenizer::open(context.input("tokenizer"))?;
    let end_of_text = tokenizer.end_of_text()?;
    let out = context.out_dir("out")?;
    let mut writer = DatasetWriter::create(&out, params.seq, tokenizer.size())?;
    let encode = |encoded: &mut Encoded, part: Part<'_>, is_last| {
        tokenizer.append(part, &mut encoded.ids)?;
        if is_last {
            encoded.ids.push(end_of_text);
            encoded.ends.push(encoded.ids.len());
        }
        Ok(())
    };
    each_part(context, &corpus, &tokenizer, encode, |encoded| encoded.write(&mut writer))?;
    let meta = writer.finish()?;
    if meta.sequences == 0 {
        let message = format!(
            "{} tokens are too few for one sequence of {} and the token after it",
            meta.tokens, params.seq
        );
        return Err(StageError::input(message).help("use more text or a smaller `seq`"));
    }
    context.output("out.tokens", Value::Int((meta.sequences * meta.seq) as i64))?;
    context.output("out.sequences", Value::Int(meta.sequences as i64))?;
    Ok(())
}

/// Ids of documents, or of a part of one.
#[derive(Default)]
struct Encoded {
    ids: Vec<u32>,
    /// Where documents end.
    ends: Vec<usize>,
}

impl Encoded {
    fn write(self, writer: &mut DatasetWriter) -> Result<(), DataError> {
        let mut start = 0;
        for end in self.ends {
            writer.append(&self.ids[start..end])?;
            writer.end()?;
            start = end;
        }
        writer.append(&self.ids[start..])
    }
}
