//! Draws diagnostics for people (miette) and programs (JSON).

use std::fmt;

use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode};
use serde_json::json;

use crate::base::text::{is_bidirectional, is_control};
use crate::base::{FileId, SourceMap, Span};
use crate::diag::{Diagnostic, Label, Severity};

/// Returns the diagnostics as text of at most `width` columns.
pub fn render(
    sources: &SourceMap,
    diagnostics: &[Diagnostic],
    width: usize,
    color: bool,
) -> String {
    let theme = if color { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
    let handler = GraphicalReportHandler::new_themed(theme)
        .with_width(width)
        .with_links(false)
        .with_context_lines(1);
    let mut out = String::new();
    for diagnostic in diagnostics {
        let drawing = Drawing::new(sources, diagnostic);
        if handler.render_report(&mut out, &drawing).is_err() {
            // A place outside its text, which only a bug makes: say at least what is wrong.
            out.push_str(&format!("{}: {}\n", diagnostic.code, diagnostic.message));
        }
        out.push('\n');
    }
    out
}

/// One snippet of one file with its labels. miette draws a finding with labels in several files as
/// a report with related reports.
#[derive(Debug)]
struct Drawing<'d> {
    message: String,
    code: Option<&'d str>,
    severity: miette::Severity,
    help: Option<&'d str>,
    labels: Vec<LabeledSpan>,
    source: Option<NamedSource<String>>,
    others: Vec<Drawing<'d>>,
}

impl<'d> Drawing<'d> {
    fn new(sources: &SourceMap, diagnostic: &'d Diagnostic) -> Self {
        let file = diagnostic.labels.first().map(|label| label.span.file);
        let (here, elsewhere): (Vec<&Label>, Vec<&Label>) =
            diagnostic.labels.iter().partition(|label| Some(label.span.file) == file);
        Self {
            message: diagnostic.message.clone(),
            code: Some(diagnostic.code),
            severity: match diagnostic.severity {
                Severity::Error => miette::Severity::Error,
                Severity::Warning => miette::Severity::Warning,
            },
            help: diagnostic.help.as_deref(),
            labels: labeled(&here),
            source: file.map(|file| named_source(sources, file)),
            others: elsewhere.into_iter().map(|label| Self::elsewhere(sources, label)).collect(),
        }
    }

    fn elsewhere(sources: &SourceMap, label: &Label) -> Self {
        Self {
            message: format!("see {}", sources.path(label.span.file).display()),
            code: None,
            severity: miette::Severity::Advice,
            help: None,
            labels: labeled(&[label]),
            source: Some(named_source(sources, label.span.file)),
            others: Vec::new(),
        }
    }
}

fn named_source(sources: &SourceMap, file: FileId) -> NamedSource<String> {
    NamedSource::new(sources.path(file).display().to_string(), harmless(sources.text(file)))
}

/// Returns a text of the same length without the characters that would do something to the terminal.
fn harmless(text: &str) -> String {
    let stand_in = |c: char| match (is_control(c) || is_bidirectional(c), c.len_utf8()) {
        (false, _) => c,
        (true, 1) => '?',
        (true, 2) => '¿',
        (true, _) => char::REPLACEMENT_CHARACTER,
    };
    text.chars().map(stand_in).collect()
}

fn labeled(labels: &[&Label]) -> Vec<LabeledSpan> {
    let place = |span: Span| (span.start as usize, (span.end - span.start) as usize);
    labels
        .iter()
        .enumerate()
        .map(|(index, label)| match index {
            0 => LabeledSpan::new_primary_with_span(Some(label.text.clone()), place(label.span)),
            _ => LabeledSpan::new_with_span(Some(label.text.clone()), place(label.span)),
        })
        .collect()
}

impl fmt::Display for Drawing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Drawing<'_> {}

impl miette::Diagnostic for Drawing<'_> {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.code.map(|code| Box::new(code) as Box<dyn fmt::Display>)
    }

    fn severity(&self) -> Option<miette::Severity> {
        Some(self.severity)
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.source.as_ref().map(|source| source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        (!self.labels.is_empty()).then(|| Box::new(self.labels.iter().cloned()) as Box<_>)
    }

    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn miette::Diagnostic> + 'a>> {
        let others = self.others.iter().map(|other| other as &dyn miette::Diagnostic);
        (!self.others.is_empty()).then(|| Box::new(others) as Box<_>)
    }
}

/// Returns the diagnostics as a JSON array. Lines and columns count from 1, columns in characters;
/// `start` and `end` are bytes.
pub fn to_json(sources: &SourceMap, diagnostics: &[Diagnostic]) -> serde_json::Value {
    diagnostics
        .iter()
        .map(|diagnostic| {
            json!({
                "severity": match diagnostic.severity {
                    Severity::Error => "error",
                    Severity::Warning => "warning",
                },
                "code": diagnostic.code,
                "message": diagnostic.message,
                "help": diagnostic.help,
                "labels": diagnostic.labels.iter().map(|l| label_json(sources, l)).collect::<Vec<_>>(),
            })
        })
        .collect()
}

fn label_json(sources: &SourceMap, label: &Label) -> serde_json::Value {
    let Span { file, start, end } = label.span;
    let (line, column) = sources.line_column(label.span);
    let (end_line, end_column) = sources.line_column(Span { file, start: end, end });
    json!({
        "file": sources.path(file).display().to_string(),
        "start": start,
        "end": end,
        "line": line,
        "column": column,
        "end_line": end_line,
        "end_column": end_column,
        "text": label.text,
    })
}
