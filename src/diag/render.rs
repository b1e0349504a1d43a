//! Draws diagnostics for people (miette) and programs (JSON).

use std::fmt;

use miette::{
    GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteError, MietteSpanContents,
    SourceCode, SourceSpan, SpanContents,
};

use crate::base::SourceMap;
use crate::base::text::plural;
use crate::diag::{Diagnostic, Severity};

/// Returns the diagnostics as text of at most `width` columns, with a line that counts them.
pub fn render(
    sources: &SourceMap,
    diagnostics: &[Diagnostic],
    width: usize,
    color: bool,
) -> String {
    let theme = if color { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
    let handler = GraphicalReportHandler::new_themed(theme).with_width(width).with_links(false);
    let mut out = String::new();
    for diagnostic in diagnostics {
        let report = Report::new(sources, diagnostic);
        handler.render_report(&mut out, &report).expect("writing to a string does not fail");
        out.push('\n');
    }
    let count = |severity| diagnostics.iter().filter(|d| d.severity == severity).count();
    let counts = [(count(Severity::Error), "error"), (count(Severity::Warning), "warning")];
    let counts = counts.iter().filter(|(n, _)| *n > 0).map(|(n, noun)| plural(*n, noun));
    out.push_str(&counts.collect::<Vec<_>>().join(", "));
    if !diagnostics.is_empty() {
        out.push('\n');
    }
    out
}

/// Returns the diagnostics as a JSON array: severity, code, message, help, and labels with path, line, column (from 1),
/// byte range and text.
pub fn to_json(sources: &SourceMap, diagnostics: &[Diagnostic]) -> serde_json::Value {
    let label = |label: &crate::diag::Label| {
        let (line, column) = sources.line_column(label.span);
        serde_json::json!({
            "path": sources.path(label.span.file).display().to_string(),
            "line": line, "column": column,
            "start": label.span.start, "end": label.span.end, "text": label.text,
        })
    };
    let one = |d: &Diagnostic| {
        serde_json::json!({
            "severity": match d.severity { Severity::Error => "error", Severity::Warning => "warning" },
            "code": d.code, "message": d.message, "help": d.help,
            "labels": d.labels.iter().map(label).collect::<Vec<_>>(),
        })
    };
    diagnostics.iter().map(one).collect()
}

/// A diagnostic with the texts its labels lie in, as miette wants it.
///
/// Miette draws one file per report, so labels in other files go to the help line as `path:line:column`.
#[derive(Debug)]
struct Report<'a> {
    diagnostic: &'a Diagnostic,
    source: Option<Source<'a>>,
    help: Option<String>,
}

#[derive(Debug)]
struct Source<'a> {
    path: String,
    text: &'a str,
}

impl<'a> Report<'a> {
    fn new(sources: &'a SourceMap, diagnostic: &'a Diagnostic) -> Self {
        let file = diagnostic.labels.first().map(|label| label.span.file);
        let source = file.map(|file| Source {
            path: sources.path(file).display().to_string(),
            text: sources.text(file),
        });
        let elsewhere = diagnostic.labels.iter().filter(|label| Some(label.span.file) != file);
        let mut help: Vec<String> = diagnostic.help.iter().cloned().collect();
        help.extend(elsewhere.map(|label| {
            let (line, column) = sources.line_column(label.span);
            format!("{} at {}:{line}:{column}", label.text, sources.path(label.span.file).display())
        }));
        Self { diagnostic, source, help: (!help.is_empty()).then(|| help.join("\n")) }
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.diagnostic.message)
    }
}

impl std::error::Error for Report<'_> {}

impl miette::Diagnostic for Report<'_> {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(self.diagnostic.code))
    }

    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.diagnostic.severity {
            Severity::Error => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
        })
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.source.as_ref().map(|source| source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let file = self.diagnostic.labels.first()?.span.file;
        let here = self.diagnostic.labels.iter().filter(move |label| label.span.file == file);
        Some(Box::new(here.map(|label| {
            let (start, end) = (label.span.start as usize, label.span.end as usize);
            LabeledSpan::new(Some(label.text.clone()), start, end - start)
        })))
    }
}

impl SourceCode for Source<'_> {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        before: usize,
        after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let inner = self.text.read_span(span, before, after)?;
        Ok(Box::new(MietteSpanContents::new_named(
            self.path.clone(),
            inner.data(),
            *inner.span(),
            inner.line(),
            inner.column(),
            inner.line_count(),
        )))
    }
}
