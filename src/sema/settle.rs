//! Axes whose values are the items of a list that has to be computed: `axis lr = logspace(1e-4, 1e-3, 5)`.

use crate::base::Atom;
use crate::diag::Diagnostic;
use crate::sema::eval::Eval;
use crate::sema::lower::no_axis_values;
use crate::sema::node::{AxisId, Kind, Node, Program};
use crate::sema::value::Val;

/// Computes the lists that axes take their values from.
pub(super) fn settle(program: &mut Program, found: &mut Vec<Diagnostic>) {
    // Every axis has a baseline, even one whose values are a mistake.
    for axis in program.axes.iter_mut().filter(|axis| axis.values.is_empty()) {
        axis.values.push(Node { span: axis.span, kind: Kind::Error });
        axis.shown.push("?".into());
    }
    for id in 0..program.axes.len() {
        if let Some((values, shown)) =
            items_of(program, id, found).filter(|(values, _)| !values.is_empty())
        {
            let axis = &mut program.axes[id];
            (axis.values, axis.shown) = (values, shown);
        }
    }
}

/// Returns the values of an axis that is taken from a list, and how they are shown.
fn items_of(
    program: &Program,
    id: AxisId,
    found: &mut Vec<Diagnostic>,
) -> Option<(Vec<Node>, Vec<Atom>)> {
    let axis = &program.axes[id];
    let list = axis.list.as_ref()?;
    let mut eval = Eval::new(program);
    let items = match eval.at(list, &vec![0; program.axes.len()], &axis.name) {
        Some(Val::List(items)) => items,
        _ => [].into(),
    };
    if items.is_empty() && eval.found.is_empty() && found.is_empty() {
        found.push(no_axis_values(&axis.name, axis.span));
    }
    found.extend(eval.found);
    let value = |(at, item): (usize, &Val)| {
        let kind = match item {
            // What a stage makes is made anew for each command.
            Val::Artifact(..) | Val::Late(_) | Val::Spread(_) | Val::List(_) | Val::Record(_) => {
                Kind::Item(Box::new(list.clone()), at)
            }
            Val::Plain(_) => Kind::Const(item.clone()),
        };
        Node { span: axis.span, kind }
    };
    let values = items.iter().enumerate().map(value).collect();
    let shown = items.iter().zip(1..).map(|(item, place)| match item.shown() {
        Some(text) => Atom::from(text),
        None => format!("#{place}").into(),
    });
    Some((values, shown.collect()))
}
