//! Charts as SVG, drawn by plotters: lines here, each labelled at its end, and what `figure` draws the others with.
//!
//! plotters writes fixed colours. Marker colours stand for the page's CSS variables and are replaced afterwards, so
//! that charts follow the reader's light or dark.

use std::collections::BTreeMap;

use plotters::chart::ChartContext;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::{
    Cartesian2d, ChartBuilder, Circle, Color, DrawingArea, ErrorBar, IntoDrawingArea, IntoFont,
    LineSeries, PathElement, RGBAColor, RGBColor, SVGBackend, Text,
};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{ShapeStyle, TextStyle};

use crate::data::train_log::Point;
use crate::report::html::curves::{Curve, smooth, thin};
use crate::report::html::frequencies::Frequencies;
use crate::report::html::{HtmlError, anchor, escape};
use crate::report::names::fit;
use crate::report::number::{compact, decimals};

/// Colours in the page's style sheet, `--c0` and up.
pub(super) const COLORS: usize = 7;
pub(super) const WIDTH: u32 = 720;
pub(super) const HEIGHT: u32 = 340;
const LABEL_PX: i32 = 16;
/// Points drawn of each line.
const POINTS: usize = 400;

/// Markers for the page's variables: `--ink`, `--muted`, `--line`, `--ground`.
pub(super) const INK: RGBColor = RGBColor(250, 1, 0);
pub(super) const MUTED: RGBColor = RGBColor(250, 1, 1);
const GRID: RGBColor = RGBColor(250, 1, 2);
pub(super) const GROUND: RGBColor = RGBColor(250, 1, 3);

/// A chart of lines.
pub(super) struct Chart {
    pub(super) title: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) lines: Vec<Line>,
}

pub(super) struct Axis {
    pub(super) title: String,
    pub(super) from: f64,
    pub(super) to: f64,
    /// Where values are written; by default at round ones.
    pub(super) ticks: Option<Vec<f64>>,
    /// Writes a value beside the axis.
    pub(super) label: Box<dyn Fn(f64) -> String>,
}

#[derive(Default)]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
    /// Drawn faintly behind it.
    pub(super) behind: Vec<(f64, f64)>,
    /// Points to be seen as such.
    pub(super) marks: Vec<Mark>,
}

/// A point that was measured.
pub(super) struct Mark {
    pub(super) at: (f64, f64),
    /// How far its whiskers reach.
    pub(super) reach: Option<f64>,
    pub(super) note: Note,
}

/// What is told of a place in a chart to who points at it, and where a click leads.
pub(super) struct Note {
    pub(super) text: String,
    pub(super) step: Option<u32>,
}

/// A note in its place: a rectangle, from its upper left to its lower right corner, in pixels.
pub(super) type Spot = ((i32, i32), (i32, i32), Note);

/// Returns one SVG for all curves when few, else one per label (the name before its axis values), and never more
/// lines in one than there are colours.
pub(super) fn losses(curves: &[Curve]) -> Result<Vec<String>, HtmlError> {
    let curves: Vec<_> = curves.iter().filter(|curve| !curve.points.is_empty()).collect();
    groups(curves, |curve| &curve.name).iter().map(|curves| draw(loss_chart(curves))).collect()
}

/// Returns the charts of token frequencies by rank, and of coverage by vocabulary size, by the same rule.
pub(super) fn frequencies(all: &[Frequencies]) -> Result<Vec<String>, HtmlError> {
    let mut charts = Vec::new();
    let ranked = all.iter().filter(|one| !one.ranks.is_empty()).collect();
    for group in groups(ranked, |one| &one.name) {
        charts.push(draw(rank_chart(&group))?);
        let covered: Vec<_> = group.into_iter().filter(|one| !one.coverage.is_empty()).collect();
        if !covered.is_empty() {
            charts.push(draw(coverage_chart(&covered))?);
        }
    }
    Ok(charts)
}

/// Parts what has names into what goes into one chart.
fn groups<T>(all: Vec<&T>, name: impl Fn(&T) -> &str) -> Vec<Vec<&T>> {
    if all.len() <= COLORS {
        return if all.is_empty() { Vec::new() } else { vec![all] };
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
    groups.into_iter().flat_map(evenly).collect()
}

/// Parts what is too much for one chart into parts of about the same size.
pub(super) fn evenly<T>(mut all: Vec<T>) -> Vec<Vec<T>> {
    let parts = all.len().div_ceil(COLORS).max(1);
    let cut = |part: usize| all.len().div_ceil(parts) * part;
    let cuts: Vec<_> = (1..parts).rev().map(cut).collect();
    let mut tail: Vec<_> = cuts.into_iter().map(|cut| all.split_off(cut.min(all.len()))).collect();
    tail.push(all);
    tail.reverse();
    tail
}

pub(super) fn loss_chart(curves: &[&Curve]) -> Chart {
    let (x_max, y_min, y_max) = ranges(curves);
    let y_decimals = decimals([y_max - y_min]).saturating_sub(2).max(1);
    let line = |curve: &&Curve| {
        let inside = |points: &[Point]| {
            let points = thin(points, POINTS).into_iter();
            points.map(|point| (point.tokens, point.loss.clamp(y_min, y_max))).collect()
        };
        let (points, behind) = (inside(&smooth(&curve.points)), inside(&curve.points));
        Line { name: curve.name.clone(), points, behind, ..Line::default() }
    };
    Chart {
        title: "training loss over tokens".to_owned(),
        x: Axis {
            title: "training tokens".to_owned(),
            from: 0.0,
            to: x_max,
            ticks: None,
            label: Box::new(compact),
        },
        y: Axis {
            title: "loss (nats per token)".to_owned(),
            from: y_min,
            to: y_max,
            ticks: None,
            label: Box::new(move |y| format!("{y:.y_decimals$}")),
        },
        lines: curves.iter().map(line).collect(),
    }
}

/// Both axes are logarithmic: what is drawn are the powers of ten.
fn rank_chart(all: &[&Frequencies]) -> Chart {
    let line = |one: &&Frequencies| Line {
        name: one.name.clone(),
        points: one.ranks.iter().map(|(rank, count)| (rank.log10(), count.log10())).collect(),
        ..Line::default()
    };
    let lines: Vec<_> = all.iter().map(line).collect();
    let axis = |title: &str, largest: f64| Axis {
        title: title.to_owned(),
        from: 0.0,
        to: largest.max(1.0),
        ticks: None,
        label: Box::new(power),
    };
    let points = || lines.iter().flat_map(|line| &line.points);
    Chart {
        title: "token frequency by rank".to_owned(),
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

fn coverage_chart(all: &[&Frequencies]) -> Chart {
    let line = |one: &&Frequencies| Line {
        name: one.name.clone(),
        points: thin(&one.coverage, POINTS),
        ..Line::default()
    };
    let lines: Vec<_> = all.iter().map(line).collect();
    let points = || lines.iter().flat_map(|line| &line.points);
    let x_max = points().map(|(x, _)| *x).fold(1.0, f64::max);
    Chart {
        title: "coverage by vocabulary size".to_owned(),
        x: Axis {
            title: "tokens kept".to_owned(),
            from: 0.0,
            to: x_max,
            ticks: None,
            label: Box::new(compact),
        },
        y: Axis {
            title: "coverage of the counted tokens".to_owned(),
            from: 0.0,
            to: 1.0,
            ticks: None,
            label: Box::new(|part| format!("{:.0}%", 100.0 * part)),
        },
        lines,
    }
}

/// Returns lines as SVG.
pub(super) fn draw(chart: Chart) -> Result<String, HtmlError> {
    let title = chart.title.clone();
    svg(HEIGHT, &title, |root| draw_on(root, chart))
}

/// Returns what is drawn as SVG of this height, in the page's colours, with the notes in their places.
pub(super) fn svg(
    height: u32,
    title: &str,
    draw: impl FnOnce(&Area<'_>) -> Result<Vec<Spot>, DrawError>,
) -> Result<String, HtmlError> {
    let mut svg = String::new();
    let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
    let spots = draw(&root).map_err(|error| HtmlError::Chart(error.to_string()))?;
    drop(root);
    let spots: String = spots.iter().map(spot).collect();
    // What is drawn of links is no mere picture to who hears it.
    let role = if spots.is_empty() { "img" } else { "group" };
    Ok(themed(&svg, height, role, title).replacen("</svg>", &(spots + "</svg>"), 1))
}

fn spot(((left, top), (right, bottom), note): &Spot) -> String {
    let (width, height) = ((right - left).max(1), (bottom - top).max(1));
    let rect = format!(
        "<rect x=\"{left}\" y=\"{top}\" width=\"{width}\" height=\"{height}\" fill=\"transparent\"><title>{}</title></rect>\n",
        escape(&note.text)
    );
    match note.step {
        Some(step) => format!("<a href=\"#{}\">{rect}</a>", anchor(step)),
        None => rect,
    }
}

pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub(super) type DrawError = plotters::drawing::DrawingAreaErrorKind<std::io::Error>;
type Frame<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<Ticked, RangedCoordf64>>;

/// A range of numbers and where they are written.
pub(super) struct Ticked {
    from: f64,
    to: f64,
    ticks: Vec<f64>,
}

impl Ranged for Ticked {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        RangedCoordf64::from(self.from..self.to).map(value, limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() { Vec::new() } else { self.ticks.clone() }
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.from..self.to
    }
}

/// Draws axes, with room for their labels on the left and for something on the right.
pub(super) fn frame<'a>(
    root: &Area<'a>,
    x: &Axis,
    y: &Axis,
    left: u32,
    right: u32,
) -> Result<Frame<'a>, DrawError> {
    let round = || RangedCoordf64::from(x.from..x.to).key_points(8);
    let ticks = x.ticks.clone().unwrap_or_else(round);
    let mut chart = ChartBuilder::on(root)
        .margin_top(10)
        .margin_left(4)
        .margin_right(right)
        .x_label_area_size(46)
        .y_label_area_size(left)
        .build_cartesian_2d(Ticked { from: x.from, to: x.to, ticks }, y.from..y.to)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .bold_line_style(GRID)
        .light_line_style(GRID.mix(0.0))
        .axis_style(MUTED)
        .y_labels(7)
        .x_label_formatter(&|value| (x.label)(*value))
        .y_label_formatter(&|value| (y.label)(*value))
        .x_desc(&x.title)
        .y_desc(&y.title)
        .label_style(("sans-serif", 15).into_font().color(&MUTED))
        .axis_desc_style(("sans-serif", 15).into_font().color(&INK))
        .draw()?;
    Ok(chart)
}

/// Room for the numbers beside an axis.
pub(super) const LEFT_PX: u32 = 62;
/// How far from a mark pointing at it counts.
const REACH_PX: i32 = 8;

/// Stands for the page's colour of this number.
pub(super) fn color(index: usize) -> RGBColor {
    RGBColor(250, 0, index as u8)
}

fn draw_on(root: &Area<'_>, Chart { x, y, lines, .. }: Chart) -> Result<Vec<Spot>, DrawError> {
    let longest = lines.iter().map(|line| line.name.chars().count()).max().unwrap_or(0);
    let label_width = match longest {
        0 => 24,
        longest => (longest as i32 * 7 + 24).clamp(60, WIDTH as i32 / 3),
    };
    let mut chart = frame(root, &x, &y, LEFT_PX, label_width as u32)?;
    let (mut ends, mut spots) = (Vec::new(), Vec::new());
    for (index, Line { name, points, behind, marks }) in lines.into_iter().enumerate() {
        let color = color(index);
        let strong = ShapeStyle { color: color.to_rgba(), filled: false, stroke_width: 2 };
        if !behind.is_empty() {
            chart.draw_series(LineSeries::new(behind, color.mix(0.25)))?;
        }
        chart.draw_series(LineSeries::new(points.iter().copied(), strong))?;
        if let Some(last) = points.last().filter(|_| longest > 0) {
            ends.push((chart.backend_coord(last), color, name));
        }
        spots.extend(draw_marks(&mut chart, color.to_rgba(), marks)?);
    }
    labels(root, ends, WIDTH as i32 - label_width)?;
    Ok(spots)
}

/// Draws points with their whiskers.
pub(super) fn draw_marks(
    chart: &mut Frame<'_>,
    color: RGBAColor,
    marks: Vec<Mark>,
) -> Result<Vec<Spot>, DrawError> {
    let whisker = |mark: &Mark| {
        let ((x, y), reach) = (mark.at, mark.reach?);
        Some(ErrorBar::new_vertical(x, y - reach, y, y + reach, color.filled(), 8))
    };
    chart.draw_series(marks.iter().filter_map(whisker))?;
    chart.draw_series(marks.iter().map(|mark| Circle::new(mark.at, 4, color.filled())))?;
    let spot = |mark: Mark| {
        let (x, y) = chart.backend_coord(&mark.at);
        ((x - REACH_PX, y - REACH_PX), (x + REACH_PX, y + REACH_PX), mark.note)
    };
    Ok(marks.into_iter().map(spot).collect())
}

/// Writes each line's name beside its end, moved apart where they would overlap.
fn labels(
    root: &Area<'_>,
    mut ends: Vec<((i32, i32), RGBColor, String)>,
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
        let name = fit(&name, (WIDTH as usize / 3 - 24) / 7).trim_end().to_owned();
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
fn themed(svg: &str, height: u32, role: &str, title: &str) -> String {
    let mut out = svg.to_owned();
    let series = (0..COLORS).map(|i| (color(i), format!("--c{i}")));
    let fixed = [(INK, "--ink"), (MUTED, "--muted"), (GRID, "--line"), (GROUND, "--ground")]
        .map(|(c, v)| (c, v.to_owned()));
    for (RGBColor(r, g, b), variable) in series.chain(fixed) {
        for property in ["fill", "stroke"] {
            out = out.replace(
                &format!("{property}=\"#{r:02X}{g:02X}{b:02X}\""),
                &format!("{property}=\"var({variable})\""),
            );
        }
    }
    let size = format!("width=\"{WIDTH}\" height=\"{height}\" ");
    let class = format!("class=\"chart\" role=\"{role}\" aria-label=\"{}\" ", escape(title));
    out.replacen(&size, &class, 1)
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
