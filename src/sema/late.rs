//! Values that are known only once steps ran: an output, or what is computed of outputs.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::base::Value;
use crate::base::units::Dim;
use crate::sema::node::Builtin;
use crate::sema::steps::OutputRef;
use crate::sema::value::{NoResult, arithmetic, function, in_dim};
use crate::syntax::ast::BinaryOp;

/// A value that is known once the steps in it ran.
#[derive(Clone, Debug, PartialEq, Hash)]
pub enum Late {
    /// A part that is known now.
    Known(Value),
    /// A number, text or truth value that a step tells.
    Output(OutputRef),
    /// What an operation makes of others.
    Computed(Op, Arc<[Late]>),
    /// A list.
    List(Arc<[Late]>),
    /// A record.
    Record(Arc<BTreeMap<String, Late>>),
}

/// What computes a late number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Op(pub(super) Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `+ - * /`, with the dimension of the result.
    Arithmetic(BinaryOp, Option<Dim>),
    /// `round` and so on.
    Function(Builtin),
    /// As a slot wants it: whole numbers as integers.
    InDim(Dim),
}

impl Hash for Op {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name().hash(state);
    }
}

impl Op {
    /// Returns what stands for it in a key.
    pub fn name(self) -> String {
        match self.0 {
            Kind::Arithmetic(op, None) => op.symbol().to_owned(),
            Kind::Arithmetic(op, Some(dim)) => format!("{} {}", op.symbol(), dim.name()),
            Kind::Function(builtin) => builtin.name().to_owned(),
            Kind::InDim(dim) => dim.name().to_owned(),
        }
    }

    fn apply(self, args: &[Value]) -> Result<Value, String> {
        let told = |why: NoResult| match why {
            NoResult::DivisionByZero => "a division by zero".to_owned(),
            NoResult::TooLarge => "a number beyond 2^63, or not finite".to_owned(),
            NoResult::NotReal => "a power that is no real number".to_owned(),
        };
        match (self.0, args) {
            (Kind::Arithmetic(op, dim), [left, right]) => {
                arithmetic(op, left, right, dim).map_err(told)
            }
            (Kind::Function(builtin), args) => {
                function(builtin, args).unwrap_or(Err(NoResult::NotReal)).map_err(told)
            }
            (Kind::InDim(dim), [value]) => in_dim(value.clone(), dim)
                .map_err(|misfit| format!("{} where {} is wanted", misfit.found, misfit.wanted)),
            _ => Err("an operation with too few operands".to_owned()),
        }
    }
}

/// Why a late value has no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// A step has not run.
    Missing,
    /// The operation has no result; this is what it came to.
    NoResult(String),
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("a value that no step told"),
            Self::NoResult(what) => f.write_str(what),
        }
    }
}

impl Late {
    /// Adds the outputs in it, each as often as it stands there.
    pub fn outputs<'l>(&'l self, visit: &mut dyn FnMut(&'l OutputRef)) {
        match self {
            Self::Known(_) => {}
            Self::Output(output) => visit(output),
            Self::Computed(_, parts) | Self::List(parts) => {
                parts.iter().for_each(|part| part.outputs(visit));
            }
            Self::Record(fields) => fields.values().for_each(|field| field.outputs(visit)),
        }
    }

    /// Computes the value; `find` has those of outputs.
    ///
    /// # Errors
    /// When an output is missing, or an operation has no result.
    pub fn value(&self, find: &dyn Fn(&OutputRef) -> Option<Value>) -> Result<Value, Unknown> {
        match self {
            Self::Known(value) => Ok(value.clone()),
            Self::Output(output) => find(output).ok_or(Unknown::Missing),
            Self::Computed(op, parts) => {
                let args: Vec<_> =
                    parts.iter().map(|part| part.value(find)).collect::<Result<_, _>>()?;
                op.apply(&args).map_err(Unknown::NoResult)
            }
            Self::List(parts) => {
                parts.iter().map(|part| part.value(find)).collect::<Result<_, _>>().map(Value::List)
            }
            Self::Record(fields) => {
                let field = |(name, part): (&String, &Late)| Ok((name.clone(), part.value(find)?));
                fields.iter().map(field).collect::<Result<_, _>>().map(Value::Map)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sema::steps::StepId;

    fn output(step: u32) -> Late {
        Late::Output(OutputRef { step: StepId(step), output: "out.size".into() })
    }

    fn known(output: &OutputRef) -> Option<Value> {
        [Value::Int(7), Value::Float(0.5), Value::Int(0)].get(output.step.0 as usize).cloned()
    }

    #[test]
    fn numbers_are_computed_once_their_steps_ran() {
        let op = |kind, args: Vec<Late>| Late::Computed(Op(kind), args.into());
        let check = |late: Late, expected: Result<Value, &str>| {
            assert_eq!(
                late.value(&known).map_err(|error| error.to_string()),
                expected.map_err(str::to_owned)
            );
        };
        let half =
            op(Kind::Arithmetic(BinaryOp::Mul, Some(Dim::Count)), vec![output(0), output(1)]);
        check(half.clone(), Ok(Value::Int(4)));
        check(
            op(Kind::Function(Builtin::Max), vec![half, Late::Known(Value::Int(9))]),
            Ok(Value::Int(9)),
        );
        let zero = op(Kind::Arithmetic(BinaryOp::Div, None), vec![output(0), output(2)]);
        check(zero, Err("a division by zero"));
        check(
            op(Kind::InDim(Dim::Count), vec![output(1)]),
            Err("0.5 where a whole number is wanted"),
        );
        check(output(3), Err("a value that no step told"));
        let record = Late::Record(Arc::new(BTreeMap::from([("depth".to_owned(), output(0))])));
        check(record.clone(), Ok(Value::map([("depth", Value::Int(7))])));
        let mut outputs = Vec::new();
        record.outputs(&mut |output| outputs.push(output.step.0));
        assert_eq!(outputs, [0]);
    }
}
