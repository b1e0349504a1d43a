//! The plan as a drawing: Graphviz and Mermaid.

use std::fmt::Write;

use crate::graph::plan::{Plan, Planned, Status};

/// Returns the plan in Graphviz's language. Fill: green is done, amber has to run, grey waits.
pub fn dot(plan: &Plan) -> String {
    let mut out = String::from("digraph tlm {\n  rankdir=LR;\n  node [shape=box, style=filled];\n");
    for planned in plan.steps() {
        let label = planned.step.name().replace('\\', "\\\\").replace('"', "\\\"");
        let (id, stage, fill) = (planned.id.0, &planned.step.stage().name, fill(planned));
        writeln!(out, "  s{id} [label=\"{label}\\n{stage}\", fillcolor=\"{fill}\"];")
            .expect("writing to a string does not fail");
    }
    edges(plan, |from, to| writeln!(out, "  s{from} -> s{to};"));
    out.push_str("}\n");
    out
}

/// Returns the plan in Mermaid's language, with the same colours.
pub fn mermaid(plan: &Plan) -> String {
    let mut out = String::from("flowchart LR\n");
    for planned in plan.steps() {
        let label = planned.step.name().replace('"', "#quot;");
        let (id, stage, fill) = (planned.id.0, &planned.step.stage().name, fill(planned));
        writeln!(out, "  s{id}[\"{label}<br/>{stage}\"]\n  style s{id} fill:{fill}")
            .expect("writing to a string does not fail");
    }
    edges(plan, |from, to| writeln!(out, "  s{from} --> s{to}"));
    out
}

fn edges(plan: &Plan, mut draw: impl FnMut(u32, u32) -> std::fmt::Result) {
    for planned in plan.steps() {
        for input in plan.inputs(planned.id) {
            draw(input.0, planned.id.0).expect("writing to a string does not fail");
        }
    }
}

fn fill(planned: Planned<'_>) -> &'static str {
    match planned.status {
        Status::Fresh | Status::Same(_) => "#c7e9c0",
        Status::Stale => "#fdd49e",
        Status::Waiting => "#e0e0e0",
    }
}
