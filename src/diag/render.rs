//! Draws diagnostics for people (miette) and programs (JSON).
use crate::base::SourceMap;
use crate::diag::Diagnostic;

/// Returns the diagnostics as text of at most `width` columns.
pub fn render(
    _sources: &SourceMap,
    diagnostics: &[Diagnostic],
    _width: usize,
    _color: bool,
) -> String {
    diagnostics.iter().map(|d| format!("{}: {}\n", d.code, d.message)).collect()
}

/// Returns the diagnostics as a JSON array.
pub fn to_json(_sources: &SourceMap, _diagnostics: &[Diagnostic]) -> serde_json::Value {
    serde_json::Value::Null
}
