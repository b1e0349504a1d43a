//! The figures of reports: tables, drawn.

use plotters::prelude::{Color, IntoFont, PathElement, RGBColor, Rectangle, Text, ViridisRGB};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{ShapeStyle, TextStyle};

use crate::report::html::HtmlError;
use crate::report::html::chart::{
    Area, Axis, COLORS, Chart, DrawError, GROUND, HEIGHT, INK, LEFT_PX, Line, MUTED, Mark, Note,
    Spot, WIDTH, color, draw, draw_marks, evenly, frame, loss_chart, svg,
};
use crate::report::html::curves::Curve;
use crate::report::names::{columns, fit};
use crate::report::number::{compact, decimals, tick};
use crate::report::scatter::Dot;
use crate::report::table::{Row, Shown, Table, TableCell};
use crate::sema::steps::View;

/// An axis whose numbers differ by more than this factor is logarithmic.
const LOG_FROM: f64 = 24.0;
/// Numbers that stand closer, as a part of the axis, are not all written.
const GAP: f64 = 0.05;
/// Pixels of a character.
pub(super) const CHAR_PX: usize = 8;
/// The height of a row of a heat map, in pixels.
const FIELD_PX: u32 = 36;

/// A picture of a report.
pub(super) struct Figure {
    /// What all of it has in common, of several.
    pub(super) heading: Option<String>,
    /// The names of the colours, where they don't stand in the picture.
    pub(super) legend: Vec<String>,
    pub(super) svg: String,
    /// Its height, in pixels.
    pub(super) height: u32,
}

/// Returns the pictures of a report: none of a table, and of a figure as many as keep colours apart.
pub(super) fn figures(table: &Table) -> Result<Vec<Figure>, HtmlError> {
    match table.view {
        View::Table { .. } => Ok(Vec::new()),
        View::Curve => lines(table),
        View::Bars => bars(table),
        View::Scatter => scatter(table).map(|figure| vec![figure]),
        View::Heat => heat(table).map(|figure| vec![figure]),
    }
}

/// What one line shows: cells, and what tells it from other lines: row axes, value, column axis.
#[derive(Clone)]
struct Series<'t> {
    slots: Vec<String>,
    cells: Vec<(&'t Row, &'t TableCell)>,
}

/// The place of the value's name among the slots, from their end.
const VALUE: usize = 2;

fn lines(table: &Table) -> Result<Vec<Figure>, HtmlError> {
    let is_log = table.rows.iter().any(|row| row.cells.iter().any(TableCell::is_log));
    let axes = if is_log { table.axes.len() } else { table.axes.len().saturating_sub(1) };
    let mut series = Vec::new();
    for rows in table.rows.chunk_by(|a, b| !is_log && a.labels[..axes] == b.labels[..axes]) {
        let labels = table.axes.iter().zip(&rows[0].labels).take(axes);
        let labels: Vec<_> = labels.map(|(axis, value)| format!("{axis} = {value}")).collect();
        for (at, column) in table.columns.iter().enumerate() {
            let mut slots = labels.clone();
            let col = column.at.as_ref().map(|(axis, value)| format!("{axis} = {value}"));
            slots.extend([column.value.clone(), col.unwrap_or_default()]);
            let cells = rows.iter().map(|row| (row, &row.cells[at]));
            let cells: Vec<_> = cells.filter(|(_, cell)| number(cell).is_some()).collect();
            if !cells.is_empty() {
                series.push(Series { slots, cells });
            }
        }
    }
    let draw = |series: Vec<Series<'_>>| {
        let (heading, names) = names(&series);
        let chart = match is_log {
            true => log_chart(&series, names),
            false => number_chart(table, &series, names),
        };
        Ok(Figure { heading, legend: Vec::new(), svg: draw(chart)?, height: HEIGHT })
    };
    apart(series).into_iter().filter(|series| !series.is_empty()).map(draw).collect()
}

/// Parts lines into charts by one of the slots, so that no chart has more lines than colours.
fn apart(series: Vec<Series<'_>>) -> Vec<Vec<Series<'_>>> {
    if series.len() <= COLORS {
        return vec![series];
    }
    let groups = |slot: usize| {
        let mut groups: Vec<Vec<Series<'_>>> = Vec::new();
        for one in &series {
            match groups.iter_mut().find(|group| group[0].slots[slot] == one.slots[slot]) {
                Some(group) => group.push(one.clone()),
                None => groups.push(vec![one.clone()]),
            }
        }
        groups
    };
    let most = 2 * series.len().div_ceil(COLORS);
    let ways = (0..series[0].slots.len()).map(groups);
    let ways = ways.filter(|groups| groups.len() > 1 && groups.len() <= most);
    let is_enough = |groups: &Vec<Vec<_>>| groups.iter().all(|group| group.len() <= COLORS);
    // The fewest charts that are enough; else the fewest, each parted once more.
    match ways.min_by_key(|groups| (!is_enough(groups), groups.len())) {
        Some(groups) => groups.into_iter().flat_map(apart).collect(),
        None => evenly(series),
    }
}

/// Returns what all lines have in common but for the value, and what tells each from the others.
fn names(series: &[Series<'_>]) -> (Option<String>, Vec<String>) {
    let slots = series[0].slots.len();
    let is_same =
        |slot: &usize| series.iter().all(|one| one.slots[*slot] == series[0].slots[*slot]);
    let join = |one: &Series<'_>, slots: &mut dyn Iterator<Item = usize>| {
        let texts: Vec<_> =
            slots.map(|slot| one.slots[slot].as_str()).filter(|text| !text.is_empty()).collect();
        texts.join(", ")
    };
    let common =
        join(&series[0], &mut (0..slots).filter(|slot| is_same(slot) && *slot != slots - VALUE));
    let name = |one| join(one, &mut (0..slots).filter(|slot| !is_same(slot)));
    ((!common.is_empty()).then_some(common), series.iter().map(name).collect())
}

fn log_chart(series: &[Series<'_>], names: Vec<String>) -> Chart {
    let curve = |(one, name): (&Series<'_>, String)| {
        let points = one.cells.iter().find_map(|(_, cell)| match &cell.shown {
            Shown::Curve(points) => Some(points.clone()),
            _ => None,
        });
        Curve { name, points: points.unwrap_or_default() }
    };
    let curves: Vec<_> = series.iter().zip(names).map(curve).collect();
    loss_chart(&curves.iter().collect::<Vec<_>>())
}

fn number_chart(table: &Table, series: &[Series<'_>], names: Vec<String>) -> Chart {
    let axis = table.axes.last().cloned().unwrap_or_default();
    let cells = || series.iter().flat_map(|one| &one.cells);
    let written = |row: &Row| Some((row.x?, row.labels.last()?.clone()));
    let scale = Scale::of(cells().filter_map(|(row, _)| written(row)));
    let line = |(one, name): (&Series<'_>, String)| {
        let mark = |(row, cell): &(&Row, &TableCell)| {
            let at = (scale.at(row.x?), number(cell)?);
            let label = table.label(row);
            Some(Mark { at, reach: reach(cell), note: note(&[&name, &label], cell) })
        };
        let mut marks: Vec<_> = one.cells.iter().filter_map(mark).collect();
        marks.sort_by(|a, b| a.at.0.total_cmp(&b.at.0));
        let points = marks.iter().map(|mark| mark.at).collect();
        Line { points, marks, name: name.clone(), ..Line::default() }
    };
    let slots = series[0].slots.len();
    let values: Vec<_> = series.iter().map(|one| one.slots[slots - VALUE].as_str()).collect();
    let is_one = values.iter().all(|value| *value == values[0]);
    let title = if is_one { values[0] } else { "" };
    Chart {
        title: format!("{} along {axis}", table.name),
        x: scale.axis(&axis),
        y: linear(title, cells().flat_map(|(_, cell)| ends(cell))),
        lines: series.iter().zip(names).map(line).collect(),
    }
}

fn bars(table: &Table) -> Result<Vec<Figure>, HtmlError> {
    let value = table.columns.first().map_or("", |column| column.value.as_str());
    let is_one = table.columns.iter().all(|column| column.value == value);
    let name = |at: &usize| match &table.columns[*at].at {
        Some((axis, value)) if is_one => format!("{axis} = {value}"),
        _ => table.columns[*at].to_string(),
    };
    let draw = |part: Vec<usize>| {
        let title = format!("{} as bars", table.name);
        let svg = svg(HEIGHT, &title, |root| {
            draw_bars(root, table, &part, if is_one { value } else { "" })
        })?;
        let legend =
            if table.columns.len() > 1 { part.iter().map(name).collect() } else { Vec::new() };
        Ok(Figure { heading: None, legend, svg, height: HEIGHT })
    };
    evenly((0..table.columns.len()).collect()).into_iter().map(draw).collect()
}

/// How much of the room of a row its bars take.
const GROUP: f64 = 0.8;

/// Draws the bars of some columns. They stand on zero, so that their lengths compare.
fn draw_bars(
    root: &Area<'_>,
    table: &Table,
    columns: &[usize],
    value: &str,
) -> Result<Vec<Spot>, DrawError> {
    let ends: Vec<f64> = table
        .rows
        .iter()
        .flat_map(|row| columns.iter().flat_map(|at| ends(&row.cells[*at])))
        .chain([0.0])
        .collect();
    let y = linear(value, ends.iter().copied());
    // Nothing is drawn beyond zero if no bar goes there.
    let (is_below, is_above) =
        (ends.iter().any(|end| *end < 0.0), ends.iter().any(|end| *end > 0.0));
    let y = Axis {
        from: if is_below { y.from } else { 0.0 },
        to: if is_above || !is_below { y.to } else { 0.0 },
        ..y
    };
    let mut chart = frame(root, &groups(table, LEFT_PX), &y, LEFT_PX, 24)?;
    let (width, mut spots) = (GROUP / columns.len() as f64, Vec::new());
    for (place, row) in table.rows.iter().enumerate() {
        for (index, at) in columns.iter().enumerate() {
            let cell = &row.cells[*at];
            let Some(number) = number(cell) else { continue };
            let left = place as f64 + (1.0 - GROUP) / 2.0 + width * index as f64;
            let part = |of: f64| left + of * width;
            let bar =
                Rectangle::new([(part(0.04), 0.0), (part(0.96), number)], color(index).filled());
            chart.draw_series([bar])?;
            if let Some(reach) = reach(cell) {
                let (low, high) = (number - reach, number + reach);
                let whisker = [
                    [(part(0.5), low), (part(0.5), high)],
                    [(part(0.44), low), (part(0.56), low)],
                    [(part(0.44), high), (part(0.56), high)],
                ];
                // On a bar the ink needs some ground around it.
                let halo = ShapeStyle { color: GROUND.to_rgba(), filled: false, stroke_width: 4 };
                chart.draw_series(whisker.map(|line| PathElement::new(line, halo)))?;
                chart.draw_series(whisker.map(|line| PathElement::new(line, INK)))?;
            }
            let corners = [(part(0.0), number.max(0.0)), (part(1.0), number.min(0.0))];
            let [from, to] = corners.map(|corner| chart.backend_coord(&corner));
            let column = table.columns[*at].to_string();
            spots.push((from, to, note(&[&table.label(row), &column], cell)));
        }
    }
    Ok(spots)
}

/// Returns an axis with a place for each row.
fn groups(table: &Table, left: u32) -> Axis {
    let room = (WIDTH - left - 24) as usize / table.rows.len().max(1) / CHAR_PX;
    let labels: Vec<_> = table
        .rows
        .iter()
        .map(|row| fit(&row.labels.join(", "), room.max(3)).trim_end().to_owned())
        .collect();
    Axis {
        title: table.axes.join(", "),
        from: 0.0,
        to: labels.len().max(1) as f64,
        ticks: Some((0..labels.len()).map(|at| at as f64 + 0.5).collect()),
        label: Box::new(move |at| labels.get(at as usize).cloned().unwrap_or_default()),
    }
}

fn scatter(table: &Table) -> Result<Figure, HtmlError> {
    let clouds = table.clouds();
    let points = || clouds.iter().flat_map(|cloud| &cloud.points);
    let [x, y] = [0, clouds.len()].map(|at| table.columns[at].value.clone());
    let scale = Scale::of(points().map(|point| (point.x, tick(point.x))));
    let y = linear(&y, points().map(|point| point.y));
    let svg = svg(HEIGHT, &format!("{}: {} against {x}", table.name, y.title), |root| {
        let mut chart = frame(root, &scale.axis(&x), &y, LEFT_PX, 24)?;
        let mut spots = Vec::new();
        for (index, cloud) in clouds.iter().enumerate() {
            let mark = |point: &Dot| Mark {
                at: (scale.at(point.x), point.y),
                reach: None,
                note: Note {
                    text: format!(
                        "{}\n{x}: {}, {}: {}",
                        point.label,
                        tick(point.x),
                        y.title,
                        point.y
                    ),
                    step: point.step,
                },
            };
            let marks = cloud.points.iter().map(mark).collect();
            // So that points behind others are seen.
            spots.extend(draw_marks(&mut chart, color(index % COLORS).mix(0.75), marks)?);
        }
        Ok(spots)
    })?;
    Ok(Figure {
        heading: None,
        legend: clouds.into_iter().filter_map(|cloud| cloud.name).collect(),
        svg,
        height: HEIGHT,
    })
}

fn heat(table: &Table) -> Result<Figure, HtmlError> {
    let numbers = || table.rows.iter().flat_map(|row| &row.cells).filter_map(number);
    let low = numbers().fold(f64::INFINITY, f64::min);
    let high = numbers().fold(f64::NEG_INFINITY, f64::max);
    let (rows, cols) = (table.rows.len(), table.columns.len());
    let labels: Vec<_> = table.rows.iter().map(|row| row.labels.join(", ")).collect();
    let longest = labels.iter().map(|label| columns(label)).max().unwrap_or(0);
    let left = (longest * CHAR_PX + 34).clamp(LEFT_PX as usize, 260) as u32;
    let heads: Vec<_> = table
        .columns
        .iter()
        .map(|column| column.at.as_ref().map_or_else(|| column.value.clone(), |(_, v)| v.clone()))
        .collect();
    let title = table.columns.first().and_then(|column| column.at.clone()).map(|(axis, _)| axis);
    let room = (WIDTH - left - 24) as usize / cols.max(1) / CHAR_PX;
    let x = Axis {
        title: title.unwrap_or_default(),
        from: 0.0,
        to: cols.max(1) as f64,
        ticks: Some((0..cols).map(|at| at as f64 + 0.5).collect()),
        label: Box::new(move |at| {
            let head = heads.get(at as usize).map(|head| fit(head, room.max(3)));
            head.unwrap_or_default().trim_end().to_owned()
        }),
    };
    // The first row stands on top. Labels are written into the fields' middles, which plotters' axis would not do.
    let y = Axis {
        title: table.axes.join(", "),
        from: rows.max(1) as f64,
        to: 0.0,
        ticks: None,
        label: Box::new(|_| String::new()),
    };
    let height = rows as u32 * FIELD_PX + 60;
    let svg = svg(height, &format!("{} as colours", table.name), |root| {
        let mut chart = frame(root, &x, &y, left, 24)?;
        let mut spots = Vec::new();
        for (line, (row, texts)) in table.rows.iter().zip(table.texts()).enumerate() {
            let (edge, middle) = chart.backend_coord(&(0.0, line as f64 + 0.5));
            let label = fit(&labels[line], 27).trim_end().to_owned();
            root.draw(&Text::new(label, (edge - 8, middle), text_style(&MUTED, HPos::Right)))?;
            for (at, (cell, text)) in row.cells.iter().zip(texts).enumerate() {
                let corners = [(at as f64, line as f64), (at as f64 + 1.0, line as f64 + 1.0)];
                let part = |number| if high > low { (number - low) / (high - low) } else { 0.5 };
                let fill = number(cell).map(|number| ViridisRGB::get_color(part(number)));
                let field = fill.map(|fill| Rectangle::new(corners, fill.filled()));
                chart.draw_series(field)?;
                let [from, to] = corners.map(|corner| chart.backend_coord(&corner));
                if columns(&text.text) <= room {
                    let ink = fill.map_or(MUTED, readable);
                    let place = ((from.0 + to.0) / 2, (from.1 + to.1) / 2);
                    root.draw(&Text::new(text.text, place, text_style(&ink, HPos::Center)))?;
                }
                let column = table.columns[at].to_string();
                spots.push((from, to, note(&[&table.label(row), &column], cell)));
            }
        }
        Ok(spots)
    })?;
    Ok(Figure { heading: None, legend: Vec::new(), svg, height })
}

fn text_style<'s>(ink: &'s RGBColor, side: HPos) -> TextStyle<'s> {
    TextStyle::from(("sans-serif", 15).into_font()).color(ink).pos(Pos::new(side, VPos::Center))
}

/// Returns black or white, whichever is easier to read on a colour (WCAG 2.2, relative luminance).
fn readable(RGBColor(r, g, b): RGBColor) -> RGBColor {
    let linear = |channel: u8| {
        let c = f64::from(channel) / 255.0;
        if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
    };
    let luminance = 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    // There both have the same contrast.
    if luminance > 0.179 { RGBColor(0, 0, 0) } else { RGBColor(255, 255, 255) }
}

/// An axis of numbers, linear or logarithmic, with what each is written as.
struct Scale {
    is_log: bool,
    numbers: Vec<(f64, String)>,
}

impl Scale {
    fn of(numbers: impl Iterator<Item = (f64, String)>) -> Self {
        let mut numbers: Vec<_> = numbers.collect();
        numbers.sort_by(|a, b| a.0.total_cmp(&b.0));
        numbers.dedup_by(|a, b| a.0 == b.0);
        let ends = numbers.first().zip(numbers.last());
        let is_log = ends.is_some_and(|((low, _), (high, _))| *low > 0.0 && high / low > LOG_FROM);
        Self { is_log, numbers }
    }

    fn at(&self, number: f64) -> f64 {
        if self.is_log { number.log10() } else { number }
    }

    /// Few numbers are all written; else round ones are.
    fn axis(&self, title: &str) -> Axis {
        let places: Vec<_> = self.numbers.iter().map(|(number, _)| self.at(*number)).collect();
        let axis = linear(title, places.iter().copied());
        let gap = places.windows(2).map(|pair| pair[1] - pair[0]).fold(f64::INFINITY, f64::min);
        if gap >= GAP * (axis.to - axis.from) {
            let texts: Vec<_> = self.numbers.iter().map(|(_, text)| text.clone()).collect();
            let known = places.clone();
            let label = move |place: f64| {
                let at = known.iter().position(|known| *known == place);
                at.map(|at| fit(&texts[at], 10).trim_end().to_owned()).unwrap_or_default()
            };
            return Axis { ticks: Some(places), label: Box::new(label), ..axis };
        }
        match self.is_log {
            true => Axis {
                ticks: Some(log_ticks(axis.from, axis.to)),
                label: Box::new(|place| tick(10f64.powf(place))),
                ..axis
            },
            false => axis,
        }
    }
}

/// Returns the logarithms of the powers of ten between two, and of few powers also those of 2 and 5 times them.
fn log_ticks(from: f64, to: f64) -> Vec<f64> {
    let steps: &[f64] = if to - from < 3.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let powers = from.floor() as i32..=to.ceil() as i32;
    let ticks =
        powers.flat_map(|power| steps.iter().map(move |step| step.log10() + f64::from(power)));
    ticks.filter(|tick| (from..=to).contains(tick)).collect()
}

/// Returns an axis on which all numbers stand, with some room around them.
fn linear(title: &str, numbers: impl Iterator<Item = f64>) -> Axis {
    let ends = |(low, high): (f64, f64), number: f64| (low.min(number), high.max(number));
    let (low, high) = numbers.fold((f64::INFINITY, f64::NEG_INFINITY), ends);
    // No numbers, or none that an axis can reach.
    let (low, high) = if (high - low).is_finite() { (low, high) } else { (0.0, 1.0) };
    let pad = ((high - low) * 0.06).max(low.abs() * 1e-3).max(1e-9);
    let digits = decimals([high - low + 2.0 * pad]).saturating_sub(2);
    let is_long = low.abs().max(high.abs()) >= 1e4;
    Axis {
        title: title.to_owned(),
        from: low - pad,
        to: high + pad,
        ticks: None,
        label: match is_long {
            true => Box::new(compact),
            false => Box::new(move |number| format!("{number:.digits$}")),
        },
    }
}

/// Returns the number of a cell, if it can be drawn.
fn number(cell: &TableCell) -> Option<f64> {
    cell.number().filter(|number| number.is_finite())
}

/// Returns how far the whiskers of a cell reach: the standard deviation.
fn reach(cell: &TableCell) -> Option<f64> {
    match &cell.shown {
        Shown::Spread(spread) => spread.std.filter(|std| std.is_finite()),
        _ => None,
    }
}

/// Returns the ends of what is drawn of a cell.
fn ends(cell: &TableCell) -> impl Iterator<Item = f64> {
    let reach = reach(cell).unwrap_or(0.0);
    number(cell).into_iter().flat_map(move |number| [number - reach, number + reach])
}

fn note(about: &[&str], cell: &TableCell) -> Note {
    let about: Vec<_> = about.iter().filter(|text| !text.is_empty()).copied().collect();
    let number = number(cell).map(|number| match reach(cell) {
        Some(reach) => format!("{number} ± {reach}"),
        None => number.to_string(),
    });
    let source = cell.sources.first();
    let step = source.map(|source| source.name.clone());
    let parts = [Some(about.join(", ")), number, step];
    Note {
        text: parts.into_iter().flatten().collect::<Vec<_>>().join("\n"),
        step: source.map(|source| source.step.0),
    }
}
