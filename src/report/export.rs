//! Tables for other programs: CSV, JSON, LaTeX.

use serde_json::{Value as Json, json};

use crate::report::jsonl::shown;
use crate::report::number;
use crate::report::table::{Row, Shown, Table, TableCell, Text};

/// Returns a table as CSV, all numbers exact: of several numbers `mean`, `std` and `n`; what is not there is empty. Of logs it has
/// a line per point.
pub(super) fn csv(table: &Table) -> String {
    let has_log = table.rows.iter().any(|row| row.cells.iter().any(TableCell::is_log));
    let lines = if has_log { points(table) } else { lines(table) };
    let mut writer = csv::Writer::from_writer(Vec::new());
    // Writing to memory does not fail, and all lines are equally long.
    let written: Result<(), _> = lines.iter().try_for_each(|line| writer.write_record(line));
    let bytes = written.ok().and_then(|()| writer.into_inner().ok());
    bytes.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
}

fn lines(table: &Table) -> Vec<Vec<String>> {
    let is_spread: Vec<bool> = (0..table.columns.len())
        .map(|at| table.rows.iter().any(|row| matches!(row.cells[at].shown, Shown::Spread(_))))
        .collect();
    let heads =
        table.columns.iter().zip(&is_spread).flat_map(|(column, is_spread)| match is_spread {
            true => ["mean", "std", "n"].map(|part| format!("{column} {part}")).to_vec(),
            false => vec![column.to_string()],
        });
    let fields = |(cell, is_spread): (&TableCell, &bool)| match (&cell.shown, is_spread) {
        (Shown::Spread(spread), _) => vec![
            spread.mean.to_string(),
            spread.std.map(|std| std.to_string()).unwrap_or_default(),
            spread.count.to_string(),
        ],
        (Shown::Value(value), _) => vec![number::exact(value)],
        (_, true) => vec![String::new(); 3],
        (_, false) => vec![String::new()],
    };
    let line = |row: &Row| {
        let cells = row.cells.iter().zip(&is_spread).flat_map(fields);
        row.labels.iter().cloned().chain(cells).collect()
    };
    let head = table.axes.iter().cloned().chain(heads).collect();
    std::iter::once(head).chain(table.rows.iter().map(line)).collect()
}

fn points(table: &Table) -> Vec<Vec<String>> {
    let rest = ["log", "tokens", "loss"].map(str::to_owned);
    let mut lines: Vec<Vec<String>> = vec![table.axes.iter().cloned().chain(rest).collect()];
    for row in &table.rows {
        for (cell, column) in row.cells.iter().zip(&table.columns) {
            let Shown::Curve(points) = &cell.shown else { continue };
            lines.extend(points.iter().map(|point| {
                let rest = [column.to_string(), point.tokens.to_string(), point.loss.to_string()];
                row.labels.iter().cloned().chain(rest).collect()
            }));
        }
    }
    lines
}

/// Returns tables as JSON.
pub(super) fn json(tables: &[Table]) -> String {
    format!("{:#}\n", Json::Array(tables.iter().map(object).collect()))
}

/// Returns of each cell what it shows, and the steps behind it.
fn object(table: &Table) -> Json {
    let cell = |((cell, column), text): ((&TableCell, _), &Text)| {
        let (state, value) = shown(cell);
        let sources = cell.sources.iter();
        let mut told = json!({
            "column": format!("{column}"),
            "state": state,
            "value": value,
            "text": text.text,
            "best": text.is_best,
            "sources": sources
                .map(|source| json!({ "step": source.name, "key": source.key.to_string() }))
                .collect::<Vec<_>>(),
        });
        if let Shown::Curve(points) = &cell.shown {
            let points = points.iter().map(|point| [point.tokens, point.loss]);
            told["points"] = points.collect::<Vec<_>>().into();
        }
        told
    };
    let row = |(row, texts): (&Row, Vec<Text>)| {
        let labels: serde_json::Map<_, _> =
            table.axes.iter().cloned().zip(row.labels.iter().map(|label| json!(label))).collect();
        let cells = row.cells.iter().zip(&table.columns).zip(&texts);
        json!({ "row": labels, "cells": cells.map(cell).collect::<Vec<_>>() })
    };
    json!({
        "report": table.name,
        "view": table.view.word(),
        "caption": table.caption,
        "spearman": table.correlations(),
        "rows": table.rows.iter().zip(table.texts()).map(row).collect::<Vec<_>>(),
    })
}

/// Returns a table as LaTeX; needs the package `booktabs`.
pub(super) fn latex(table: &Table) -> String {
    let align = "l".repeat(table.axes.len()) + &"r".repeat(table.columns.len());
    let heads = table.axes.iter().cloned().chain(table.columns.iter().map(ToString::to_string));
    let line = |cells: Vec<String>| format!("{} \\\\\n", cells.join(" & "));
    let text = |Text { text, is_best }: &Text| match is_best {
        true => format!("\\textbf{{{}}}", minus(&escape(text))),
        false => minus(&escape(text)),
    };
    let row = |(row, texts): (&Row, Vec<Text>)| {
        let labels = row.labels.iter().map(|label| escape(label));
        line(labels.chain(texts.iter().map(text)).collect())
    };
    let caption = table.told();
    format!(
        "\\begin{{table}}\n\\centering\n\\caption{{{}}}\n\\label{{tab:{}}}\n\\begin{{tabular}}{{{align}}}\n\\toprule\n{}\\midrule\n{}\\bottomrule\n\\end{{tabular}}\n\\end{{table}}\n",
        escape(caption.as_deref().unwrap_or(&table.name)),
        table.name,
        line(heads.map(|head| escape(&head)).collect()),
        table.rows.iter().zip(table.texts()).map(row).collect::<String>(),
    )
}

/// Returns text that LaTeX prints as it is.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => out.extend(['\\', c]),
            '\\' => out += "\\textbackslash{}",
            '~' => out += "\\textasciitilde{}",
            '^' => out += "\\textasciicircum{}",
            '<' | '>' | '|' => out.extend(['$', c, '$']),
            '±' => out += "$\\pm$",
            'ρ' => out += "$\\rho$",
            '–' => out += "--",
            '…' => out += "\\dots{}",
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// Writes the minus before a number as one.
fn minus(text: &str) -> String {
    let text = match text.strip_prefix('-') {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_digit()) => format!("$-${rest}"),
        _ => text.to_owned(),
    };
    text.replace("(-", "($-$")
}
