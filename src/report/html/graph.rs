//! The step graph as SVG.

use std::fmt::Write;

use crate::base::text::duration;
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

/// A node's lines, each with its class.
struct Node<'a> {
    step: &'a StepCard,
    lines: Vec<(&'static str, String)>,
}

impl Node<'_> {
    fn height(&self) -> f64 {
        self.lines.len() as f64 * LINE + PADDING
    }

    fn width(&self) -> f64 {
        let width = |(class, line): &(&str, String)| {
            columns(line) as f64 * if *class == "name" { BOLD } else { CHAR }
        };
        self.lines.iter().map(width).fold(0.0, f64::max) + 22.0
    }
}

/// Returns the graph of the steps; an empty text when there are none.
pub(super) fn svg(steps: &[StepCard]) -> String {
    if steps.is_empty() {
        return String::new();
    }
    let nodes: Vec<_> = steps.iter().map(node).collect();
    let edges = edges(steps);
    let sizes: Vec<_> = nodes.iter().map(|node| node.height() + ROW_GAP).collect();
    let drawn = layout(&sizes, &edges, BEND);
    let frame = Frame::new(&nodes, &drawn);
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

fn node(step: &StepCard) -> Node<'_> {
    let time = step.seconds.map(|s| format!(" · {}", duration(s))).unwrap_or_default();
    let values = step.point.iter().map(|(axis, value)| ("point", format!("{axis} = {value}")));
    let lines = [("name", step.label.clone())]
        .into_iter()
        .chain(values)
        .chain([("stage", step.stage.clone())])
        .chain([("state", format!("{}{time}", step.status.word()))])
        .map(|(class, line)| (class, fit(&line, NODE_COLUMNS).trim_end().to_owned()))
        .collect();
    Node { step, lines }
}

/// Returns each pair of connected steps once, as indices.
fn edges(steps: &[StepCard]) -> Vec<(usize, usize)> {
    let index_of = |id: u32| steps.iter().position(|step| step.id == id);
    let mut edges: Vec<_> = steps
        .iter()
        .enumerate()
        .flat_map(|(to, step)| {
            step.inputs.iter().filter_map(move |(_, id, _)| Some((index_of(*id)?, to)))
        })
        .filter(|(from, to)| from < to)
        .collect();
    edges.sort_unstable();
    edges.dedup();
    edges
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
        let class = match node.step.status {
            Status::Ran => "ran",
            Status::Reused => "reused",
            Status::Failed => "failed",
            Status::NotRun => "notrun",
        };
        let _ = write!(
            out,
            "<a href=\"#{}\"><g class=\"node {class}\"><title>{}</title>\
             <rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"6\"/>",
            anchor(node.step.id),
            escape(&format!("{} ({})", node.step.name, node.step.stage)),
            self.widths[drawn.layer[index]],
            node.height(),
        );
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
