//! What steps are called on screens.

use crate::sema::steps::Step;

pub use crate::base::text::name_at;

/// What a reporter knows of a step that has to run, before it starts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepFacts {
    /// `r2[rate=50%]`
    pub name: String,
    /// `train.run`
    pub stage: String,
    /// Seconds it took when it last ran with other parameters, if it ever did.
    pub expected_seconds: Option<f64>,
}

impl StepFacts {
    /// Returns what is known of a step.
    pub fn new(step: &Step, expected_seconds: Option<f64>) -> Self {
        Self { name: step.name(), stage: step.stage().name.clone(), expected_seconds }
    }
}

/// Returns the columns a text takes on a terminal.
pub fn columns(text: &str) -> usize {
    // East Asian wide characters take two columns; everything else that recipes contain takes one.
    text.chars().map(|c| if is_wide(c) { 2 } else { 1 }).sum()
}

fn is_wide(c: char) -> bool {
    matches!(u32::from(c), 0x1100..=0x115f | 0x2e80..=0xa4cf | 0xac00..=0xd7a3 | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f | 0xff00..=0xff60 | 0xffe0..=0xffe6 | 0x1f300..=0x1faff | 0x20000..=0x3fffd)
}

/// Returns a text cut to a width, with an ellipsis, and filled up to it with blanks.
pub fn fit(text: &str, width: usize) -> String {
    if columns(text) <= width {
        return format!("{text}{}", " ".repeat(width - columns(text)));
    }
    let mut out = String::new();
    let mut used = 0;
    for c in text.chars() {
        let next = if is_wide(c) { 2 } else { 1 };
        if used + next + 1 > width {
            break;
        }
        out.push(c);
        used += next;
    }
    out.push('…');
    format!("{out}{}", " ".repeat(width.saturating_sub(used + 1)))
}
