//! The step graph as SVG.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::base::text::{duration, plural, thousands};
use crate::report::html::layout::{Layout, layout};
use crate::report::html::page::{Status, StepCard};
use crate::report::html::{anchor, escape};
use crate::report::names::{columns, fit};

const LINE: f64 = 14.0;
/// Above and below a node's lines, together.
const PADDING: f64 = 12.0;
const ROW_GAP: f64 = 16.0;
const BEND: f64 = 16.0;
const LAYER_GAP: f64 = 38.0;
const MARGIN: f64 = 8.0;
/// Mean width of a character of the 12-pixel font, and of its bold.
const CHAR: f64 = 6.9;
const BOLD: f64 = 7.7;
const NODE_COLUMNS: usize = 24;
const CORNER: f64 = 6.0;

/// How many nodes a drawing may have. More steps are folded: one node for all axis points of a label.
const NODES_MAX: usize = 400;

/// A step, or all steps of a label, with its lines and the class of each.
struct Node<'a> {
    steps: Vec<&'a StepCard>,
    lines: Vec<(&'static str, String)>,
}

impl<'a> Node<'a> {
    fn new(steps: Vec<&'a StepCard>) -> Self {
        let first = steps[0];
        let points = match steps.len() {
            1 => first.point.iter().map(|(axis, value)| format!("{axis} = {value}")).collect(),
            many => vec![plural(many, "step")],
        };
        let lines = [("name", first.label.clone())]
            .into_iter()
            .chain(points.into_iter().map(|line| ("point", line)))
            .chain([("stage", first.stage.clone()), ("state", state(&steps))])
            .map(|(class, line)| (class, fit(&line, NODE_COLUMNS).trim_end().to_owned()))
            .collect();
        Self { steps, lines }
    }

    fn height(&self) -> f64 {
        self.lines.len() as f64 * LINE + PADDING
    }

    fn width(&self) -> f64 {
        let width = |(class, line): &(&str, String)| {
            columns(line) as f64 * if *class == "name" { BOLD } else { CHAR }
        };
        self.lines.iter().map(width).fold(0.0, f64::max) + 22.0
    }

    /// The state that matters most among the steps gives the colour.
    fn class(&self) -> &'static str {
        let any = |status: &Status| self.steps.iter().any(|step| step.status == *status);
        Status::ALL.into_iter().find(any).unwrap_or_default().class()
    }

    fn title(&self) -> String {
        let first = self.steps[0];
        match self.steps.len() {
            1 => format!("{} ({})", first.name, first.stage),
            _ => format!("{} ({}): {}", first.label, first.stage, state(&self.steps)),
        }
    }
}

/// Returns `ran · 12s`, or `60 ran, 40 reused · 12s`.
fn state(steps: &[&StepCard]) -> String {
    let counted = |status: Status| {
        let count = steps.iter().filter(|step| step.status == status).count();
        (count > 0).then(|| format!("{} {}", thousands(count as u64), status.word()))
    };
    let states = match steps {
        [one] => match fraction(steps) {
            Some(part) => format!("{} · {:.0}%", one.status.word(), (100.0 * part).floor()),
            None => one.status.word().to_owned(),
        },
        _ => Status::ALL.into_iter().filter_map(counted).collect::<Vec<_>>().join(", "),
    };
    match steps.iter().filter_map(|step| step.seconds).reduce(|a, b| a + b) {
        Some(seconds) => format!("{states} · {}", duration(seconds)),
        None => states,
    }
}

/// Returns the part that is done of the only step, if it is known.
fn fraction(steps: &[&StepCard]) -> Option<f64> {
    let [one] = steps else { return None };
    one.progress.as_ref()?.fraction
}

/// Returns the graph of the steps; an empty text when there are none.
pub(super) fn svg(steps: &[StepCard]) -> String {
    let nodes = nodes(steps);
    let note = |text: String| format!("<p class=\"note\">{text}</p>\n");
    match nodes.len() {
        0 => String::new(),
        count if count > NODES_MAX => note(format!(
            "{} of {} labels are too many to draw here; <code>tlm graph</code> gives them to Graphviz.",
            plural(steps.len(), "step"),
            thousands(count as u64)
        )),
        count if count < steps.len() => {
            let folded = format!(
                "{} in {}: all axis points of a label are one node.",
                plural(steps.len(), "step"),
                plural(count, "node")
            );
            note(folded) + &draw(&nodes)
        }
        _ => draw(&nodes),
    }
}

fn draw(nodes: &[Node<'_>]) -> String {
    let edges = edges(nodes);
    let sizes: Vec<_> = nodes.iter().map(|node| node.height() + ROW_GAP).collect();
    let drawn = layout(&sizes, &edges, BEND);
    let frame = Frame::new(nodes, &drawn);
    let mut out = format!(
        "<svg class=\"graph\" role=\"img\" aria-label=\"step graph\" viewBox=\"0 0 {w:.0} {h:.0}\" \
         width=\"{w:.0}\" height=\"{h:.0}\" xmlns=\"http://www.w3.org/2000/svg\">\n",
        w = frame.width,
        h = frame.height,
    );
    for (edge, bends) in edges.iter().zip(&drawn.bends) {
        frame.edge(&mut out, &drawn, *edge, bends);
    }
    for (index, node) in nodes.iter().enumerate() {
        frame.node(&mut out, &drawn, index, node);
    }
    out + "</svg>"
}

/// Returns the nodes in the order of their first steps.
fn nodes(steps: &[StepCard]) -> Vec<Node<'_>> {
    let fold = steps.len() > NODES_MAX;
    let mut known = BTreeMap::new();
    let mut groups: Vec<Vec<&StepCard>> = Vec::new();
    for step in steps {
        let own = (!fold).then_some(step.id);
        let group = *known.entry((own, &step.label, &step.stage)).or_insert_with(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        groups[group].push(step);
    }
    groups.into_iter().map(Node::new).collect()
}

/// Returns each pair of connected nodes once, as indices. What leads back, as between folded rounds, is left out.
fn edges(nodes: &[Node<'_>]) -> Vec<(usize, usize)> {
    let mut node_of = BTreeMap::new();
    for (index, node) in nodes.iter().enumerate() {
        node_of.extend(node.steps.iter().map(|step| (step.id, index)));
    }
    let mut edges = BTreeSet::new();
    for (to, node) in nodes.iter().enumerate() {
        let inputs = node.steps.iter().flat_map(|step| &step.inputs);
        let from = inputs.filter_map(|(_, id, _)| node_of.get(id));
        edges.extend(from.filter(|from| **from < to).map(|from| (*from, to)));
    }
    edges.into_iter().collect()
}

/// Where layers lie.
struct Frame {
    left: Vec<f64>,
    widths: Vec<f64>,
    width: f64,
    height: f64,
}

impl Frame {
    fn new(nodes: &[Node<'_>], drawn: &Layout) -> Self {
        let mut widths = vec![0.0_f64; drawn.layers];
        for (node, layer) in nodes.iter().zip(&drawn.layer) {
            widths[*layer] = widths[*layer].max(node.width());
        }
        let mut left = Vec::new();
        let mut x = MARGIN;
        for width in &widths {
            left.push(x);
            x += width + LAYER_GAP;
        }
        let width = x - LAYER_GAP + MARGIN;
        // Heights begin half a gap above the first node, which serves as the upper margin.
        Self { left, widths, width, height: drawn.height }
    }

    /// A curve from node to node, flat across each layer it passes.
    fn edge(
        &self,
        out: &mut String,
        drawn: &Layout,
        (from, to): (usize, usize),
        bends: &[(usize, f64)],
    ) {
        let (mut x, mut y) = (self.right(drawn.layer[from]), drawn.y[from]);
        let mut path = format!("M{x:.1},{y:.1}");
        let end = (drawn.layer[to], drawn.y[to]);
        for &(layer, next_y) in bends.iter().chain([&end]) {
            let next_x = self.left[layer];
            let middle = f64::midpoint(x, next_x);
            let _ = write!(
                path,
                " C{middle:.1},{y:.1} {middle:.1},{next_y:.1} {next_x:.1},{next_y:.1}"
            );
            (x, y) = (self.right(layer), next_y);
            if layer != end.0 {
                let _ = write!(path, " H{x:.1}");
            }
        }
        let _ = writeln!(out, "<path class=\"edge\" d=\"{path}\"/>");
    }

    fn node(&self, out: &mut String, drawn: &Layout, index: usize, node: &Node<'_>) {
        let (x, y) = (self.left[drawn.layer[index]], drawn.y[index] - node.height() / 2.0);
        let _ = write!(
            out,
            "<a href=\"#{}\"><g class=\"node {}\"><title>{}</title>\
             <rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"{CORNER}\"/>",
            anchor(node.steps[0].id),
            node.class(),
            escape(&node.title()),
            self.widths[drawn.layer[index]],
            node.height(),
        );
        if let Some(part) = fraction(&node.steps) {
            let width = self.widths[drawn.layer[index]] - 2.0 * CORNER;
            let _ = write!(
                out,
                "<path class=\"done\" d=\"M{:.1},{:.1} h{:.1}\"/>",
                x + CORNER,
                y + node.height(),
                width * part.clamp(0.0, 1.0)
            );
        }
        for (line, (class, text)) in node.lines.iter().enumerate() {
            let baseline = y + 17.0 + line as f64 * LINE;
            let _ = write!(
                out,
                "<text class=\"{class}\" x=\"{:.1}\" y=\"{baseline:.1}\">{}</text>",
                x + 10.0,
                escape(text)
            );
        }
        out.push_str("</g></a>\n");
    }

    fn right(&self, layer: usize) -> f64 {
        self.left[layer] + self.widths[layer]
    }
}
