//! Curves as SVG, drawn by plotters, each line labelled at its end.
//!
//! plotters writes fixed colours. Marker colours stand for the page's CSS variables and are replaced afterwards, so
//! that charts follow the reader's light or dark.

use std::collections::BTreeMap;

use plotters::coord::Shift;
use plotters::prelude::{
    ChartBuilder, Color, DrawingArea, IntoDrawingArea, IntoFont, LineSeries, PathElement, RGBColor,
    SVGBackend, Text,
};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{ShapeStyle, TextStyle};

use crate::data::train_log::Point;
use crate::report::html::HtmlError;
use crate::report::html::curves::{Curve, smooth, thin};
use crate::report::html::frequencies::Frequencies;
use crate::report::number::{compact, decimals};

/// Colours in the page's style sheet, `--c0` and up.
const COLORS: usize = 6;
const WIDTH: u32 = 900;
const HEIGHT: u32 = 380;
const LABEL_PX: i32 = 16;
/// Points drawn of each line.
const POINTS: usize = 400;

/// Markers for the page's variables: `--ink`, `--muted`, `--line`.
const INK: RGBColor = RGBColor(250, 1, 0);
const MUTED: RGBColor = RGBColor(250, 1, 1);
const GRID: RGBColor = RGBColor(250, 1, 2);

/// What a chart shows.
struct Chart<'c> {
    title: &'static str,
    x: Axis,
    y: Axis,
    lines: Vec<Line<'c>>,
}

struct Axis {
    title: &'static str,
    from: f64,
    to: f64,
    /// Writes a value beside the axis.
    label: Box<dyn Fn(f64) -> String>,
}

struct Line<'c> {
    name: &'c str,
    points: Vec<(f64, f64)>,
    /// Drawn faintly behind it.
    behind: Vec<(f64, f64)>,
}

/// Returns one SVG for all curves when few, else one per label (the name before its axis values), and never more
/// lines in one than there are colours.
pub(super) fn losses(curves: &[Curve]) -> Result<Vec<String>, HtmlError> {
    let curves: Vec<_> = curves.iter().filter(|curve| !curve.points.is_empty()).collect();
    groups(curves, |curve| &curve.name).iter().map(|curves| draw(&loss_chart(curves))).collect()
}

/// Returns the charts of token frequencies by rank, and of coverage by vocabulary size, by the same rule.
pub(super) fn frequencies(all: &[Frequencies]) -> Result<Vec<String>, HtmlError> {
    let mut charts = Vec::new();
    let ranked = all.iter().filter(|one| !one.ranks.is_empty()).collect();
    for group in groups(ranked, |one| &one.name) {
        charts.push(draw(&rank_chart(&group))?);
        let covered: Vec<_> = group.into_iter().filter(|one| !one.coverage.is_empty()).collect();
        if !covered.is_empty() {
            charts.push(draw(&coverage_chart(&covered))?);
        }
    }
    Ok(charts)
}

/// Parts what has names into what goes into one chart.
fn groups<T>(all: Vec<&T>, name: impl Fn(&T) -> &str) -> Vec<Vec<&T>> {
    if all.len() <= COLORS {
        return all.chunks(COLORS).map(<[&T]>::to_vec).collect();
    }
    let mut known = BTreeMap::new();
    let mut groups: Vec<Vec<&T>> = Vec::new();
    for one in all {
        let label = name(one).split('[').next().map(str::to_owned);
        let group = *known.entry(label).or_insert_with(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        groups[group].push(one);
    }
    groups.iter().flat_map(|members| members.chunks(COLORS)).map(<[&T]>::to_vec).collect()
}

fn loss_chart<'c>(curves: &[&'c Curve]) -> Chart<'c> {
    let (x_max, y_min, y_max) = ranges(curves);
    let y_decimals = decimals([y_max - y_min]).saturating_sub(2).max(1);
    let line = |curve: &&'c Curve| {
        let inside = |points: &[Point]| {
            let points = thin(points, POINTS).into_iter();
            points.map(|point| (point.tokens, point.loss.clamp(y_min, y_max))).collect()
        };
        let (points, behind) = (inside(&smooth(&curve.points)), inside(&curve.points));
        Line { name: &curve.name, points, behind }
    };
    Chart {
        title: "training loss over tokens",
        x: Axis { title: "training tokens", from: 0.0, to: x_max, label: Box::new(compact) },
        y: Axis {
            title: "loss (nats per token)",
            from: y_min,
            to: y_max,
            label: Box::new(move |y| format!("{y:.y_decimals$}")),
        },
        lines: curves.iter().map(line).collect(),
    }
}

/// Both axes are logarithmic: what is drawn are the powers of ten.
fn rank_chart<'c>(all: &[&'c Frequencies]) -> Chart<'c> {
    let line = |one: &&'c Frequencies| Line {
        name: &one.name,
        points: one.ranks.iter().map(|(rank, count)| (rank.log10(), count.log10())).collect(),
        behind: Vec::new(),
    };
    let lines: Vec<_> = all.iter().map(line).collect();
    let axis = |title, largest: f64| Axis {
        title,
        from: 0.0,
        to: largest.max(1.0),
        label: Box::new(power),
    };
    let points = || lines.iter().flat_map(|line| &line.points);
    Chart {
        title: "token frequency by rank",
        x: axis("rank of the token", points().map(|(x, _)| *x).fold(0.0, f64::max)),
        y: axis("occurrences", points().map(|(_, y)| *y).fold(0.0, f64::max) * 1.03),
        lines,
    }
}

/// Writes a power of ten; nothing between two of them.
fn power(exponent: f64) -> String {
    let is_whole = (exponent - exponent.round()).abs() < 1e-9;
    if is_whole { compact(10f64.powf(exponent.round())) } else { String::new() }
}

fn coverage_chart<'c>(all: &[&'c Frequencies]) -> Chart<'c> {
    let line = |one: &&'c Frequencies| Line {
        name: &one.name,
        points: thin(&one.coverage, POINTS),
        behind: Vec::new(),
    };
    let lines: Vec<_> = all.iter().map(line).collect();
    let points = || lines.iter().flat_map(|line| &line.points);
    let x_max = points().map(|(x, _)| *x).fold(1.0, f64::max);
    Chart {
        title: "coverage by vocabulary size",
        x: Axis { title: "tokens kept", from: 0.0, to: x_max, label: Box::new(compact) },
        y: Axis {
            title: "coverage of the counted tokens",
            from: 0.0,
            to: 1.0,
            label: Box::new(|part| format!("{:.0}%", 100.0 * part)),
        },
        lines,
    }
}

fn draw(chart: &Chart<'_>) -> Result<String, HtmlError> {
    let mut svg = String::new();
    let root = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area();
    draw_on(&root, chart).map_err(|error| HtmlError::Chart(error.to_string()))?;
    drop(root);
    Ok(themed(&svg, chart.title))
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type DrawError = plotters::drawing::DrawingAreaErrorKind<std::io::Error>;

fn draw_on(root: &Area<'_>, Chart { x, y, lines, .. }: &Chart<'_>) -> Result<(), DrawError> {
    let longest = lines.iter().map(|line| line.name.chars().count()).max().unwrap_or(0);
    let label_width = (longest as i32 * 7 + 24).clamp(60, WIDTH as i32 / 3);
    let mut chart = ChartBuilder::on(root)
        .margin_top(10)
        .margin_left(4)
        .margin_right(label_width)
        .x_label_area_size(46)
        .y_label_area_size(62)
        .build_cartesian_2d(x.from..x.to, y.from..y.to)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .bold_line_style(GRID)
        .light_line_style(GRID.mix(0.0))
        .axis_style(MUTED)
        .x_labels(8)
        .y_labels(7)
        .x_label_formatter(&|value| (x.label)(*value))
        .y_label_formatter(&|value| (y.label)(*value))
        .x_desc(x.title)
        .y_desc(y.title)
        .label_style(("sans-serif", 15).into_font().color(&MUTED))
        .axis_desc_style(("sans-serif", 15).into_font().color(&INK))
        .draw()?;
    let mut ends = Vec::new();
    for (index, Line { name, points, behind }) in lines.iter().enumerate() {
        let color = RGBColor(250, 0, index as u8);
        let faint = color.mix(0.25);
        let strong = ShapeStyle { color: color.to_rgba(), filled: false, stroke_width: 2 };
        if !behind.is_empty() {
            chart.draw_series(LineSeries::new(behind.iter().copied(), faint))?;
        }
        chart.draw_series(LineSeries::new(points.iter().copied(), strong))?;
        if let Some(last) = points.last() {
            ends.push((chart.backend_coord(last), color, *name));
        }
    }
    labels(root, ends, WIDTH as i32 - label_width)
}

/// Writes each line's name beside its end, moved apart where they would overlap.
fn labels(
    root: &Area<'_>,
    mut ends: Vec<((i32, i32), RGBColor, &str)>,
    x: i32,
) -> Result<(), DrawError> {
    ends.sort_by_key(|((_, y), ..)| *y);
    let wanted: Vec<_> = ends.iter().map(|((_, y), ..)| f64::from(*y)).collect();
    let placed = super::layout::spread(&wanted, &vec![f64::from(LABEL_PX); wanted.len()]);
    let (top, bottom) = (f64::from(LABEL_PX) / 2.0, f64::from(HEIGHT) - 56.0);
    // Spreading may push the lowest name into the axis, or the highest one out of the picture; the whole stack then moves.
    let up = placed.last().map_or(0.0, |last| (last - bottom).max(0.0));
    let down = placed.first().map_or(0.0, |first| (top - first).max(0.0));
    for (((end_x, end_y), color, name), y) in ends.into_iter().zip(placed) {
        let y = (y - up + down).round() as i32;
        root.draw(&PathElement::new(
            vec![(end_x + 2, end_y), (x + 4, y), (x + 10, y)],
            color.mix(0.6),
        ))?;
        let style = TextStyle::from(("sans-serif", 15).into_font())
            .color(&color)
            .pos(Pos::new(HPos::Left, VPos::Center));
        root.draw(&Text::new(name, (x + 13, y), style))?;
    }
    Ok(())
}

/// Returns the largest x and the range of y, without the outermost points, so that one spike does not flatten all.
fn ranges(curves: &[&Curve]) -> (f64, f64, f64) {
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let x_max = points().map(|point| point.tokens).fold(1.0, f64::max);
    let mut losses: Vec<_> = points().map(|point| point.loss).collect();
    losses.sort_by(f64::total_cmp);
    let cut = losses.len() / 200;
    let (low, high) = (losses[cut], losses[losses.len() - 1 - cut]);
    let pad = ((high - low) * 0.06).max(low.abs() * 0.01).max(0.01);
    (x_max, (low - pad).max(0.0), high + pad)
}

/// Replaces marker colours by the page's variables, and lets the chart shrink with the page.
fn themed(svg: &str, title: &str) -> String {
    let mut out = svg.to_owned();
    let series = (0..COLORS).map(|i| (RGBColor(250, 0, i as u8), format!("--c{i}")));
    let fixed =
        [(INK, "--ink"), (MUTED, "--muted"), (GRID, "--line")].map(|(c, v)| (c, v.to_owned()));
    for (RGBColor(r, g, b), variable) in series.chain(fixed) {
        for property in ["fill", "stroke"] {
            out = out.replace(
                &format!("{property}=\"#{r:02X}{g:02X}{b:02X}\""),
                &format!("style=\"{property}:var({variable})\""),
            );
        }
    }
    let size = format!("width=\"{WIDTH}\" height=\"{HEIGHT}\" ");
    out.replacen(&size, &format!("class=\"chart\" role=\"img\" aria-label=\"{title}\" "), 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the places of the names in a chart, from the top.
    fn places(svg: &str, name: &str) -> Vec<f64> {
        let texts = svg.split("<text ").skip(1);
        let named = texts.filter(|text| text.contains(&format!("\n{name}")));
        let place = |text: &str| text.split("y=\"").nth(1)?.split('"').next()?.parse().ok();
        named.filter_map(place).collect()
    }

    #[test]
    fn names_of_lines_that_end_at_the_edge_stay_in_the_picture() {
        let one = |number: usize| Frequencies {
            name: format!("line{number}"),
            ranks: vec![(1.0, 100.0), (9.0, 1.0)],
            coverage: vec![(1.0, 0.5), (9.0, 1.0)],
        };
        let charts = frequencies(&(0..COLORS).map(one).collect::<Vec<_>>()).unwrap();
        assert_eq!(charts.len(), 2);
        for svg in charts {
            let found: Vec<f64> =
                (0..COLORS).flat_map(|number| places(&svg, &format!("line{number}"))).collect();
            assert_eq!(found.len(), COLORS, "{svg}");
            assert!(found.iter().all(|y| (8.0..f64::from(HEIGHT) - 8.0).contains(y)), "{found:?}");
        }
    }
}
