//! The step graph as SVG.

use std::fmt::Write;

use crate::base::text::duration;
use crate::report::html::layout::{Layout, layout};
use crate::report::html::page::{Status, StepCard};
use crate::report::html::{anchor, escape};
use crate::report::names::{columns, fit};

const NODE_HEIGHT: f64 = 50.0;
const ROW_GAP: f64 = 16.0;
const BEND: f64 = 16.0;
const LAYER_GAP: f64 = 46.0;
const MARGIN: f64 = 8.0;
/// Mean width of a character of the 12-pixel font.
const CHAR: f64 = 7.0;
const NODE_COLUMNS: usize = 26;

/// A node's three lines.
struct Node<'a> {
    step: &'a StepCard,
    lines: [String; 3],
}

/// Returns the graph of the steps; an empty text when there are none.
pub(super) fn svg(steps: &[StepCard]) -> String {
    if steps.is_empty() {
        return String::new();
    }
    let nodes: Vec<_> = steps.iter().map(node).collect();
    let edges = edges(steps);
    let sizes = vec![NODE_HEIGHT + ROW_GAP; nodes.len()];
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
    let point: Vec<_> = step.point.iter().map(|(axis, value)| format!("{axis}={value}")).collect();
    let time = step.seconds.map(|s| format!(" · {}", duration(s))).unwrap_or_default();
    let head = if point.is_empty() {
        step.label.clone()
    } else {
        format!("{} [{}]", step.label, point.join(", "))
    };
    let lines = [head, step.stage.clone(), format!("{}{time}", step.status.word())];
    Node { step, lines: lines.map(|line| fit(&line, NODE_COLUMNS).trim_end().to_owned()) }
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
            let text = node.lines.iter().map(|line| columns(line)).max().unwrap_or(0);
            widths[*layer] = widths[*layer].max(text as f64 * CHAR + 22.0);
        }
        let mut left = Vec::new();
        let mut x = MARGIN;
        for width in &widths {
            left.push(x);
            x += width + LAYER_GAP;
        }
        let width = x - LAYER_GAP + MARGIN;
        Self { left, widths, width, height: drawn.height + (NODE_HEIGHT + ROW_GAP) / 2.0 + MARGIN }
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
        let (x, y) = (self.left[drawn.layer[index]], drawn.y[index] - NODE_HEIGHT / 2.0);
        let class = match node.step.status {
            Status::Ran => "ran",
            Status::Reused => "reused",
            Status::Failed => "failed",
            Status::NotRun => "notrun",
        };
        let _ = write!(
            out,
            "<a href=\"#{}\"><g class=\"node {class}\"><title>{}</title>\
             <rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{NODE_HEIGHT}\" rx=\"6\"/>",
            anchor(node.step.id),
            escape(&format!("{} ({})", node.step.name, node.step.stage)),
            self.widths[drawn.layer[index]],
        );
        for (line, (text, class)) in node.lines.iter().zip(["name", "stage", "state"]).enumerate() {
            let baseline = y + 16.0 + line as f64 * 14.0;
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
