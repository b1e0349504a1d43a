//! Loss curves as SVG, drawn by plotters, each line labelled at its end.
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

use crate::report::html::HtmlError;
use crate::report::html::curves::{Curve, Point, smooth, thin};
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

/// Returns one SVG for all curves when few, else one per label (the name before its axis values), and never more
/// lines in one than there are colours.
pub(super) fn charts(curves: &[Curve]) -> Result<Vec<String>, HtmlError> {
    let curves: Vec<_> = curves.iter().filter(|curve| !curve.points.is_empty()).collect();
    if curves.len() <= COLORS {
        return curves.chunks(COLORS).map(chart).collect();
    }
    let mut known = BTreeMap::new();
    let mut groups: Vec<Vec<&Curve>> = Vec::new();
    for curve in curves {
        let label = curve.name.split('[').next();
        let group = *known.entry(label).or_insert_with(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        groups[group].push(curve);
    }
    groups.iter().flat_map(|members| members.chunks(COLORS)).map(chart).collect()
}

fn chart(curves: &[&Curve]) -> Result<String, HtmlError> {
    let mut svg = String::new();
    let root = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area();
    draw(&root, curves).map_err(|error| HtmlError::Chart(error.to_string()))?;
    drop(root);
    Ok(themed(&svg))
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type DrawError = plotters::drawing::DrawingAreaErrorKind<std::io::Error>;

fn draw(root: &Area<'_>, curves: &[&Curve]) -> Result<(), DrawError> {
    let (x_max, y_min, y_max) = ranges(curves);
    let longest = curves.iter().map(|curve| curve.name.chars().count()).max().unwrap_or(0);
    let label_width = (longest as i32 * 7 + 24).clamp(60, WIDTH as i32 / 3);
    let mut chart = ChartBuilder::on(root)
        .margin_top(10)
        .margin_left(4)
        .margin_right(label_width)
        .x_label_area_size(46)
        .y_label_area_size(62)
        .build_cartesian_2d(0.0..x_max, y_min..y_max)?;
    let y_decimals = decimals([y_max - y_min]).saturating_sub(2).max(1);
    chart
        .configure_mesh()
        .disable_x_mesh()
        .bold_line_style(GRID)
        .light_line_style(GRID.mix(0.0))
        .axis_style(MUTED)
        .x_labels(8)
        .y_labels(7)
        .x_label_formatter(&|x| compact(*x))
        .y_label_formatter(&|y| format!("{y:.y_decimals$}"))
        .x_desc("training tokens")
        .y_desc("loss (nats per token)")
        .label_style(("sans-serif", 15).into_font().color(&MUTED))
        .axis_desc_style(("sans-serif", 15).into_font().color(&INK))
        .draw()?;
    let mut ends = Vec::new();
    for (index, curve) in curves.iter().enumerate() {
        let color = RGBColor(250, 0, index as u8);
        let inside = |point: &Point| (point.tokens, point.loss.clamp(y_min, y_max));
        let smoothed = smooth(&curve.points);
        let raw = thin(&curve.points, POINTS);
        chart.draw_series(LineSeries::new(raw.iter().map(inside), color.mix(0.25)))?;
        let line = ShapeStyle { color: color.to_rgba(), filled: false, stroke_width: 2 };
        chart.draw_series(LineSeries::new(thin(&smoothed, POINTS).iter().map(inside), line))?;
        if let Some(last) = smoothed.last() {
            ends.push((chart.backend_coord(&inside(last)), color, &*curve.name));
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
    let bottom = f64::from(HEIGHT) - 56.0;
    // Spreading may push the lowest name into the axis; the whole stack then moves up.
    let lift = placed.last().map_or(0.0, |last| (last - bottom).max(0.0));
    for (((end_x, end_y), color, name), y) in ends.into_iter().zip(placed) {
        let y = (y - lift).round() as i32;
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
fn themed(svg: &str) -> String {
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
    out.replacen(&size, "class=\"chart\" role=\"img\" aria-label=\"training loss over tokens\" ", 1)
}
