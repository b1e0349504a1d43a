//! A recipe from outside: what it takes, what it gives, and which axes each value differs along.

use std::collections::BTreeSet;

use crate::sema::node::{AxisId, Program};

/// A name that a recipe defines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline {
    /// The name.
    pub name: String,
    /// Its type, as recipes write it.
    pub ty: String,
    /// The axes that its value may differ along.
    pub over: Vec<String>,
    /// The values of an axis, as written.
    pub values: Vec<String>,
}

/// Returns the params, values, axes and functions of a recipe.
pub fn outline(program: &Program) -> Vec<Outline> {
    let names = |axes: &BTreeSet<AxisId>| {
        axes.iter().map(|axis| program.axes[*axis].name.to_string()).collect::<Vec<_>>()
    };
    let entry = |name: &str, ty: String, over| Outline {
        name: name.to_owned(),
        ty,
        over,
        values: Vec::new(),
    };
    let bindings = program.bindings.iter();
    let bindings = bindings.map(|binding| {
        entry(&binding.name, binding.typed.ty.to_string(), names(&binding.typed.axes))
    });
    let functions = program
        .functions
        .iter()
        .map(|function| entry(&function.name, function.result.to_string(), names(&function.axes)));
    let axes = program.axes.iter().map(|axis| Outline {
        values: axis.shown.iter().map(ToString::to_string).collect(),
        ..entry(&axis.name, axis.ty.to_string(), Vec::new())
    });
    bindings.chain(functions).chain(axes).collect()
}
