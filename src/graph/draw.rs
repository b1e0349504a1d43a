//! The plan as a drawing: Graphviz and Mermaid.

use std::fmt::Write;

use petgraph::dot::{Config, Dot, RankDir};
use petgraph::graph::DiGraph;

use crate::graph::plan::{Plan, Planned, Status};

/// Returns the plan in Graphviz's language. Fill: green is done, amber has to run, grey waits.
pub fn dot(plan: &Plan) -> String {
    let steps = plan.graph().filter_map(|_, id| plan.get(*id), |_, ()| Some(()));
    let node = |_: &DiGraph<Planned<'_>, ()>, (_, planned): (_, &Planned<'_>)| {
        let label = planned.step.name().replace('\\', "\\\\").replace('"', "\\\"");
        let (stage, fill) = (&planned.step.stage().name, fill(*planned));
        format!("label=\"{label}\\n{stage}\", fillcolor=\"{fill}\", shape=box, style=filled")
    };
    let config = [Config::NodeNoLabel, Config::EdgeNoLabel, Config::RankDir(RankDir::LR)];
    let drawn = Dot::with_attr_getters(&steps, &config, &|_, _| String::new(), &node);
    format!("{drawn:?}")
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
        Status::Fresh | Status::Same(_) | Status::Elsewhere(_) => "#c7e9c0",
        Status::Stale => "#fdd49e",
        Status::Waiting => "#e0e0e0",
    }
}
