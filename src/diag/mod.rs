//! Level 1: diagnostics. What is wrong with the user's text, where, and what to do about it.

mod render;

use crate::base::Span;

pub use render::{render, to_json};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The program may not run.
    Error,
    /// The program may run.
    Warning,
}

/// A text at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// The place.
    pub span: Span,
    /// What is the matter at that place.
    pub text: String,
}

/// One finding about the user's text.
///
/// The message is a lowercase fragment without a final period, user text in backticks; the help is
/// an imperative next move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// `tlm::<phase>::<name>`.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// Primary label first, if the finding has a place.
    pub labels: Vec<Label>,
    /// What to do.
    pub help: Option<String>,
}

impl Diagnostic {
    /// Returns an error.
    pub fn error(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            code,
            message: message.into(),
            labels: Vec::new(),
            help: None,
        }
    }

    /// Returns a warning.
    pub fn warning(code: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, message) }
    }

    /// Adds a label; the first one added is the primary.
    #[must_use]
    pub fn label(mut self, span: Span, text: impl Into<String>) -> Self {
        self.labels.push(Label { span, text: text.into() });
        self
    }

    /// Sets the help.
    #[must_use]
    pub fn help(mut self, text: impl Into<String>) -> Self {
        self.help = Some(text.into());
        self
    }
}

/// A phase's result with all it found. The only gate to "may run" is [`Checked::finish`].
#[derive(Clone, Debug)]
#[must_use]
pub struct Checked<T> {
    /// What the phase made, as good as it could.
    pub value: T,
    /// What it found.
    pub diagnostics: Vec<Diagnostic>,
}

impl<T> Checked<T> {
    /// Returns the value and the warnings, or everything found when there are errors; sorted by
    /// position, without duplicates.
    ///
    /// # Errors
    /// When any finding is an error.
    pub fn finish(self) -> Result<(T, Vec<Diagnostic>), Vec<Diagnostic>> {
        let mut found = self.diagnostics;
        found.sort_by_key(|d| (d.labels.first().map(|l| l.span), d.severity, d.code));
        found.dedup();
        match found.iter().any(|d| d.severity == Severity::Error) {
            true => Err(found),
            false => Ok((self.value, found)),
        }
    }
}
