//! Figures as files of their own, dark on light, without variables, which programs other than browsers don't know.

use std::fmt::Write as _;

use crate::report::html::chart::{COLORS, WIDTH};
use crate::report::html::figure::{CHAR_PX, Figure, figures};
use crate::report::html::{HtmlError, escape};
use crate::report::names::columns;
use crate::report::table::Table;

/// The colours of the page.
pub(super) const PALETTE: &str = include_str!("palette.css");
/// The height of a line of text, in pixels.
const LINE_PX: u32 = 24;
/// Pixels of what stands before and behind a name.
const AROUND_PX: usize = 38;

/// Returns the pictures of a report as SVG files: none of a table, of a figure one or more.
///
/// # Errors
/// When a chart can't be drawn, which is a bug.
pub fn pictures(table: &Table) -> Result<Vec<String>, HtmlError> {
    Ok(figures(table)?.iter().map(picture).collect())
}

fn picture(figure: &Figure) -> String {
    let (above, top) = above(figure);
    let (inner, height) = (&figure.svg, figure.height);
    let placed = format!("<svg y=\"{top}\" width=\"{WIDTH}\" height=\"{height}\" ");
    let inner = unlinked(inner).replacen("<svg ", &placed, 1);
    let all = top + height;
    painted(&format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {all}\" width=\"{WIDTH}\" height=\"{all}\" \
         font-family=\"DejaVu Sans, Arial, sans-serif\" font-size=\"15\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"var(--ground)\"/>\n{above}{inner}\n</svg>\n"
    ))
}

/// Returns a picture without the links into the page.
fn unlinked(svg: &str) -> String {
    let parts = svg.split("<a href=\"").enumerate().map(|(at, part)| match at {
        0 => part,
        _ => part.split_once('>').map_or(part, |(_, rest)| rest),
    });
    parts.collect::<String>().replace("</a>", "")
}

/// Returns a picture with the page's light colours instead of their names.
fn painted(svg: &str) -> String {
    let light = PALETTE.split("@media").next().unwrap_or_default();
    let pairs = light.split(';').filter_map(|pair| pair.split_once(": #"));
    let named = pairs.filter_map(|(name, color)| Some((name.rsplit_once("--")?.1, color)));
    named.fold(svg.to_owned(), |svg, (name, color)| {
        svg.replace(&format!("var(--{name})"), &format!("#{color}"))
    })
}

/// Returns what stands above a chart, and how high that is: what all of it has in common, and the names of the colours.
fn above(figure: &Figure) -> (String, u32) {
    let (mut out, mut top, mut left) = (String::new(), 0, 0);
    let baseline = |top: u32| top + LINE_PX - 7;
    if let Some(heading) = &figure.heading {
        let (text, y) = (escape(heading), baseline(top));
        let _ = writeln!(out, "<text x=\"12\" y=\"{y}\" fill=\"var(--muted)\">{text}</text>");
        top += LINE_PX;
    }
    for (at, name) in figure.legend.iter().enumerate() {
        let width = columns(name) * CHAR_PX + AROUND_PX;
        if left > 0 && left + width > WIDTH as usize {
            (left, top) = (0, top + LINE_PX);
        }
        let (text, color, y) = (escape(name), at % COLORS, baseline(top));
        let _ = writeln!(
            out,
            "<rect x=\"{}\" y=\"{}\" width=\"12\" height=\"12\" rx=\"3\" fill=\"var(--c{color})\"/>\
             <text x=\"{}\" y=\"{y}\" fill=\"var(--ink)\">{text}</text>",
            left + 12,
            y - 11,
            left + 30,
        );
        left += width;
    }
    (out, if figure.legend.is_empty() { top } else { top + LINE_PX })
}
