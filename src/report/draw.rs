//! Tables as text: ruled for terminals, Markdown for files and pipes, and what other programs read.

use crate::report::export::{csv, json, latex};
use crate::report::names::columns;
use crate::report::table::{Row, Table, Text};

/// How to draw a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Ruled with box-drawing characters.
    Ruled,
    /// Markdown.
    Markdown,
    /// Comma-separated values, exact.
    Csv,
    /// JSON: cells with the keys of the steps behind them.
    Json,
    /// LaTeX with `booktabs`.
    Latex,
}

/// Returns tables as one text: an empty line stands between two, but in JSON, where they are a list.
pub fn draw_all(tables: &[Table], format: Format) -> String {
    match format {
        Format::Json => json(tables),
        _ => tables.iter().map(|table| draw(table, format)).collect::<Vec<_>>().join("\n"),
    }
}

/// Returns a table as text, ending in a newline.
pub fn draw(table: &Table, format: Format) -> String {
    match format {
        Format::Ruled => ruled(table),
        Format::Markdown => markdown(table),
        Format::Csv => csv(table),
        Format::Json => json(std::slice::from_ref(table)),
        Format::Latex => latex(table),
    }
}

/// A table's head and rows as texts, label columns first.
struct Grid {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
    widths: Vec<usize>,
    labels: usize,
}

impl Grid {
    /// `mark` says of a text whether it is the best of its column, in tables that tell that.
    fn of(table: &Table, escape: fn(&str) -> String, mark: fn(String, bool) -> String) -> Self {
        let heads = table.columns.iter().map(ToString::to_string);
        let head: Vec<_> = table.axes.iter().cloned().chain(heads).map(|h| escape(&h)).collect();
        let texts = table.texts();
        let is_marked = texts.iter().flatten().any(|text| text.is_best);
        let text = |Text { text, is_best }: &Text| match is_marked {
            true => mark(escape(text), *is_best),
            false => escape(text),
        };
        let row = |(row, cells): (&Row, &Vec<Text>)| {
            let labels = row.labels.iter().map(|label| escape(label));
            labels.chain(cells.iter().map(text)).collect::<Vec<_>>()
        };
        let rows: Vec<_> = table.rows.iter().zip(&texts).map(row).collect();
        let width = |column: usize| {
            let cells = rows.iter().filter_map(|row: &Vec<String>| row.get(column));
            cells.chain([&head[column]]).map(|text| columns(text)).max().unwrap_or(0)
        };
        let widths = (0..head.len()).map(width).collect();
        Self { head, rows, widths, labels: table.axes.len() }
    }

    /// Labels stand left, values right.
    fn line(&self, row: &[String], open: &str, between: &str, close: &str) -> String {
        let cells: Vec<_> = row
            .iter()
            .zip(&self.widths)
            .enumerate()
            .map(|(column, (text, width))| {
                let blank = " ".repeat(width - columns(text));
                if column < self.labels {
                    format!("{text}{blank}")
                } else {
                    format!("{blank}{text}")
                }
            })
            .collect();
        format!("{open}{}{close}\n", cells.join(between))
    }

    fn rule(&self, open: &str, between: &str, close: &str) -> String {
        let bars: Vec<_> = self.widths.iter().map(|width| "─".repeat(width + 2)).collect();
        format!("{open}{}{close}\n", bars.join(between))
    }
}

fn ruled(table: &Table) -> String {
    let grid = Grid::of(
        table,
        |text| text.replace('\n', " "),
        |text, is_best| text + if is_best { " *" } else { "  " },
    );
    let mut out = title(table);
    out += &grid.rule("┌", "┬", "┐");
    out += &grid.line(&grid.head, "│ ", " │ ", " │");
    out += &grid.rule("├", "┼", "┤");
    grid.rows.iter().for_each(|row| out += &grid.line(row, "│ ", " │ ", " │"));
    out += &grid.rule("└", "┴", "┘");
    out
}

fn markdown(table: &Table) -> String {
    let escape = |text: &str| text.replace('|', "\\|").replace('\n', " ");
    let grid =
        Grid::of(table, escape, |text, is_best| if is_best { format!("**{text}**") } else { text });
    let mut out = title(table);
    out.push('\n');
    out += &grid.line(&grid.head, "| ", " | ", " |");
    let rules: Vec<_> = grid
        .widths
        .iter()
        .enumerate()
        .map(|(column, width)| match column < grid.labels {
            true => "-".repeat(width + 2),
            false => format!("{}:", "-".repeat(width + 1)),
        })
        .collect();
    out += &format!("|{}|\n", rules.join("|"));
    grid.rows.iter().for_each(|row| out += &grid.line(row, "| ", " | ", " |"));
    out
}

fn title(table: &Table) -> String {
    match table.told() {
        Some(caption) => format!("{}: {caption}\n", table.name),
        None => format!("{}\n", table.name),
    }
}
