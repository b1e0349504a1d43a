//! What a model is asked: how likely an answer is after a text, by the rules of lm-evaluation-harness
//! (`TemplateLM._encode_pair`, `HFLM._loglikelihood_tokens`).

use std::path::Path;

use crate::data::error::DataError;
use crate::data::tokenizer::Tokenizer;

/// Tokens whose likelihood is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What the model reads, and the last token that it predicts.
    pub tokens: Vec<u32>,
    /// How many of the last tokens are the answer.
    pub answer: usize,
}

/// Returns what is asked of a model that reads up to `limit` tokens. Of a longer text the end is asked.
///
/// # Errors
/// When a text can't be encoded, an answer has no tokens of its own or more than the model reads, or the text is empty and the
/// tokenizer has no token to begin with. `path` is the file to name.
pub(crate) fn request(
    path: &Path,
    context: &str,
    answer: &str,
    tokenizer: &Tokenizer,
    limit: usize,
) -> Result<Request, DataError> {
    let mut request = encode(path, context, answer, tokenizer)?;
    let wrong = |what: &str, help: &str| {
        let message = format!("the answer `{}` {what}", answer.trim());
        Err(DataError::invalid(path, message).help(help))
    };
    if request.answer == 0 {
        return wrong("has no tokens after its question", "put a space between them");
    }
    if request.answer > limit {
        let help = "use a model with a longer context, or shorter answers";
        return wrong(&format!("has more tokens than the {limit} the model reads"), help);
    }
    let surplus = request.tokens.len().saturating_sub(limit + 1);
    request.tokens.drain(..surplus);
    Ok(request)
}

/// Encodes a context and what follows it. Blanks at the end of the context count to what follows, and where the two
/// meet the tokens of the whole are taken.
fn encode(
    path: &Path,
    context: &str,
    answer: &str,
    tokenizer: &Tokenizer,
) -> Result<Request, DataError> {
    // Python's blanks: those of Unicode, and four old separators.
    let is_blank = |c: char| c.is_whitespace() || ('\x1c'..='\x1f').contains(&c);
    let (head, blanks) = context.split_at(context.trim_end_matches(is_blank).len());
    if !head.is_empty() {
        let before = tokenizer.encode_marked(head)?.len();
        let tokens = tokenizer.encode_marked(&[head, blanks, answer].concat())?;
        let answer = tokens.len().saturating_sub(before);
        return Ok(Request { tokens, answer });
    }
    let start = tokenizer.start_of_text().ok_or_else(|| {
        DataError::invalid(
            path,
            "a question is empty, and the tokenizer has no token to begin with",
        )
        .help("give the tokenizer a `bos_token` or `eos_token`, or the question a text")
    })?;
    let mut tokens = tokenizer.encode(&[blanks, answer].concat())?;
    // What begins with this token needs no other one.
    if tokens.first() != Some(&start) {
        tokens.insert(0, start);
    }
    let answer = tokens.len() - 1;
    Ok(Request { tokens, answer })
}
