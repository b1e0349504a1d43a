//! Values during evaluation, and arithmetic on them.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::base::units::{Dim, Unit};
use crate::base::{Atom, Value};
use crate::sema::late::{Kind as OpKind, Late, Op};
use crate::sema::node::Builtin;
use crate::sema::steps::OutputRef;
use crate::sema::ty::{Field, Ty};
use crate::syntax::ast::BinaryOp;

/// A value at one point of the axes; cheap to clone.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Val {
    /// Null, a truth value, a number or a text.
    Plain(Value),
    List(Arc<[Val]>),
    Record(Fields),
    /// What a step makes, and the tokenizer its token ids mean something under.
    Artifact(OutputRef, Option<OutputRef>),
    /// What is known once steps ran.
    Late(Late),
    /// Numbers along an axis, for a table.
    Spread(Arc<[Val]>),
}

/// The fields of a record, by name. Records of the same making share their names.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fields {
    names: Arc<[Atom]>,
    values: Arc<[Val]>,
}

impl Fields {
    /// Returns the fields of these names, which are in order.
    pub(super) fn new(names: Arc<[Atom]>, values: Arc<[Val]>) -> Self {
        Self { names, values }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Val> {
        self.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// Changes a field that is there.
    pub(super) fn set(&mut self, name: &str, value: Val) {
        if let Some(place) = self.names.iter().position(|known| **known == *name) {
            Arc::make_mut(&mut self.values)[place] = value;
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Val)> {
        self.names.iter().map(|name| &**name).zip(&*self.values)
    }
}

impl FromIterator<(Atom, Val)> for Fields {
    fn from_iter<I: IntoIterator<Item = (Atom, Val)>>(fields: I) -> Self {
        let mut fields: Vec<_> = fields.into_iter().collect();
        fields.sort_by_key(|(name, _)| *name);
        let (names, values): (Vec<_>, Vec<_>) = fields.into_iter().unzip();
        Self { names: names.into(), values: values.into() }
    }
}

/// A number that its slot can't hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Misfit {
    pub(super) wanted: &'static str,
    pub(super) found: f64,
}

impl Val {
    /// Returns the value as the type wants it: defaults filled in, whole numbers as integers. The type was checked before, so
    /// only numbers can still be wrong.
    pub(super) fn conform(self, ty: &Ty) -> Result<Val, Misfit> {
        match (self, ty) {
            (Val::Plain(Value::Null), _) => Ok(Val::Plain(Value::Null)),
            (value, Ty::Optional(inner)) => value.conform(inner),
            (Val::Plain(number), Ty::Number(dim)) => in_dim(number, *dim).map(Val::Plain),
            (Val::List(items), Ty::List(item)) => {
                let items = items.iter().map(|value| value.clone().conform(item));
                Ok(Val::List(items.collect::<Result<_, _>>()?))
            }
            (Val::Record(given), Ty::Record(fields)) => {
                let value = |(name, field): (&String, &Field)| {
                    let value = match given.get(name) {
                        Some(value) => value.clone().conform(&field.ty)?,
                        None => field.default.clone().unwrap_or(Val::Plain(Value::Null)),
                    };
                    Ok((name.as_str().into(), value))
                };
                let fields = fields.iter().map(value).collect::<Result<Fields, _>>()?;
                Ok(Val::Record(fields))
            }
            // An output is as its slot wants it; what is computed of some need not be.
            (Val::Late(late @ Late::Computed(..)), Ty::Number(dim)) => {
                Ok(Val::Late(Late::Computed(Op(OpKind::InDim(*dim)), [late].into())))
            }
            (value, _) => Ok(value),
        }
    }

    /// Returns the value of a parameter, if all of it is known now.
    pub(super) fn known(&self) -> Option<Value> {
        match self {
            Val::Plain(value) => Some(value.clone()),
            Val::List(items) => {
                items.iter().map(Val::known).collect::<Option<_>>().map(Value::List)
            }
            Val::Record(fields) => fields
                .iter()
                .map(|(name, value)| Some((name.to_owned(), value.known()?)))
                .collect::<Option<_>>()
                .map(Value::Map),
            Val::Artifact(..) | Val::Late(_) | Val::Spread(_) => None,
        }
    }

    /// Returns it as a value that may be known only later; none when it is no such value.
    pub(super) fn late(&self) -> Option<Late> {
        Some(match self {
            Val::Plain(value) => Late::Known(value.clone()),
            Val::Late(late) => late.clone(),
            Val::List(items) => Late::List(items.iter().map(Val::late).collect::<Option<_>>()?),
            Val::Record(fields) => {
                let field = |(name, value): (&str, &Val)| Some((name.to_owned(), value.late()?));
                Late::Record(Arc::new(fields.iter().map(field).collect::<Option<_>>()?))
            }
            Val::Artifact(..) | Val::Spread(_) => return None,
        })
    }

    /// Returns a number, text or truth value as recipes write it, without unit.
    pub(super) fn shown(&self) -> Option<String> {
        Some(match self {
            Val::Plain(Value::Null) => "none".to_owned(),
            Val::Plain(Value::Bool(value)) => value.to_string(),
            Val::Plain(Value::Int(value)) => value.to_string(),
            Val::Plain(Value::Float(value)) => value.to_string(),
            Val::Plain(Value::Str(text)) => text.clone(),
            _ => return None,
        })
    }

    /// Returns how many parts it has.
    pub(super) fn parts(&self) -> usize {
        match self {
            Val::Plain(_) | Val::Artifact(..) | Val::Late(_) => 1,
            Val::Spread(items) => items.len(),
            Val::List(items) => 1 + items.iter().map(Val::parts).sum::<usize>(),
            Val::Record(fields) => 1 + fields.values.iter().map(Val::parts).sum::<usize>(),
        }
    }

    /// Visits all outputs of steps within it.
    pub(super) fn outputs(&self, visit: &mut dyn FnMut(&OutputRef)) {
        match self {
            Val::Plain(_) => {}
            Val::List(items) => items.iter().for_each(|item| item.outputs(visit)),
            Val::Record(fields) => fields.values.iter().for_each(|field| field.outputs(visit)),
            Val::Artifact(output, _) => visit(output),
            Val::Late(late) => late.outputs(&mut |output| visit(output)),
            Val::Spread(items) => items.iter().for_each(|item| item.outputs(visit)),
        }
    }
}

/// Returns a number as a dimension keeps it: whole ones as integers from zero up (Int: any), real ones as floats.
pub(super) fn in_dim(number: Value, dim: Dim) -> Result<Value, Misfit> {
    let found = real(&number);
    let misfit = |wanted| Err(Misfit { wanted, found });
    match (number, dim.is_whole()) {
        (Value::Float(value), true) if value.fract() != 0.0 => misfit("a whole number"),
        (Value::Float(_), true) => misfit("a whole number below 2^63"),
        (Value::Int(value), true) if value < 0 && dim != Dim::Int => {
            misfit("a whole number from zero up")
        }
        (Value::Int(value), false) => Ok(Value::Float(value as f64)),
        (other, _) => Ok(other),
    }
}

/// Returns the number that a literal stands for, exactly: `1.1k` is 1100. Whole numbers that fit are integers.
pub(super) fn literal(digits: &str, units: &[&Unit]) -> Value {
    if units.is_empty()
        && let Ok(number) = digits.parse()
    {
        return Value::Int(number);
    }
    let (mantissa, exponent) = digits.split_once(['e', 'E']).unwrap_or((digits, "0"));
    let powers = units.iter().map(|unit| unit.power).sum::<i32>();
    let exponent = exponent.parse().unwrap_or(0) + powers;
    let factor = units.iter().map(|unit| unit.factor).product();
    match whole(mantissa, exponent, factor) {
        Some(number) => Value::Int(number),
        None => {
            let scaled: f64 = format!("{mantissa}e{exponent}").parse().unwrap_or(f64::NAN);
            Value::Float(scaled * factor as f64)
        }
    }
}

/// Returns `mantissa * 10^exponent * factor` if it is a whole number below 2^63.
fn whole(mantissa: &str, exponent: i32, factor: i64) -> Option<i64> {
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let fraction = fraction.trim_end_matches('0');
    let mut digits = whole.chars().chain(fraction.chars()).map(|digit| digit.to_digit(10));
    let append =
        |number: i128, digit: Option<u32>| number.checked_mul(10)?.checked_add(i128::from(digit?));
    let number = digits.try_fold(0, append)?.checked_mul(i128::from(factor))?;
    let exponent = exponent - fraction.len() as i32;
    let power = 10i128.checked_pow(exponent.unsigned_abs());
    let scaled = match exponent {
        _ if number == 0 => 0,
        0.. => number.checked_mul(power?)?,
        _ if number % power? == 0 => number / power?,
        _ => return None,
    };
    i64::try_from(scaled).ok()
}

/// Why arithmetic has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoResult {
    DivisionByZero,
    TooLarge,
    /// A root of a negative number.
    NotReal,
}

/// Computes `left op right` for `+ - * /`. With a dimension, the result is as [`Val::conform`] wants it: whole quantities are
/// rounded to the nearest, halves away from zero.
pub(super) fn arithmetic(
    op: BinaryOp,
    left: &Value,
    right: &Value,
    dim: Option<Dim>,
) -> Result<Value, NoResult> {
    let result = match (left, right) {
        (Value::Int(a), Value::Int(b)) => match op {
            BinaryOp::Add => a.checked_add(*b).map(Value::Int),
            BinaryOp::Sub => a.checked_sub(*b).map(Value::Int),
            BinaryOp::Mul => a.checked_mul(*b).map(Value::Int),
            _ if *b == 0 => return Err(NoResult::DivisionByZero),
            _ => match a.checked_rem(*b) {
                None => None,
                Some(0) => Some(Value::Int(a / b)),
                Some(_) => Some(Value::Float(*a as f64 / *b as f64)),
            },
        },
        _ => {
            let (a, b) = (real(left), real(right));
            Some(Value::Float(match op {
                BinaryOp::Add => a + b,
                BinaryOp::Sub => a - b,
                BinaryOp::Mul => a * b,
                _ if b == 0.0 => return Err(NoResult::DivisionByZero),
                _ => a / b,
            }))
        }
    };
    let result = result.ok_or(NoResult::TooLarge)?;
    match (result, dim) {
        (Value::Float(value), _) if !value.is_finite() => Err(NoResult::TooLarge),
        (Value::Float(value), Some(dim)) if dim.is_whole() => {
            match value.round().abs() < i64::MAX as f64 {
                true => Ok(Value::Int(value.round() as i64)),
                false => Err(NoResult::TooLarge),
            }
        }
        (Value::Int(value), Some(dim)) if !dim.is_whole() => Ok(Value::Float(value as f64)),
        (result, _) => Ok(result),
    }
}

/// Computes a function of numbers that gives a number; none for one that does not.
pub(super) fn function(builtin: Builtin, args: &[Value]) -> Option<Result<Value, NoResult>> {
    let first = args.first()?;
    let whole = |value: f64| match value.abs() < i64::MAX as f64 {
        true => Ok(Value::Int(value as i64)),
        false => Err(NoResult::TooLarge),
    };
    let of = |rounded: fn(f64) -> f64| match first {
        Value::Int(value) => Ok(Value::Int(*value)),
        other => whole(rounded(real(other))),
    };
    let extreme = |order: Ordering| {
        let better = |best: &Value, next: &Value| real(next).total_cmp(&real(best)) == order;
        args.iter().fold(first, |best, next| if better(best, next) { next } else { best }).clone()
    };
    Some(match builtin {
        Builtin::Range | Builtin::Logspace => return None,
        Builtin::Round => of(f64::round),
        Builtin::Floor => of(f64::floor),
        Builtin::Ceil => of(f64::ceil),
        Builtin::Pow => match real(first).powf(real(args.get(1)?)) {
            value if value.is_finite() => Ok(Value::Float(value)),
            _ if real(first) == 0.0 => Err(NoResult::DivisionByZero),
            value if value.is_nan() => Err(NoResult::NotReal),
            _ => Err(NoResult::TooLarge),
        },
        Builtin::Min => Ok(extreme(Ordering::Less)),
        Builtin::Max => Ok(extreme(Ordering::Greater)),
    })
}

/// Returns a number as a float; not a number for everything else.
pub(super) fn real(value: &Value) -> f64 {
    match value {
        Value::Int(value) => *value as f64,
        Value::Float(value) => *value,
        _ => f64::NAN,
    }
}

/// Returns the dimension of `left op right`: none is a bare number. An error when there is none.
///
/// Equal dimensions add; a ratio scales everything, a float all but plain whole numbers; a quantity by itself is a float.
pub(super) fn result_dim(op: BinaryOp, left: &Ty, right: &Ty) -> Option<Option<Dim>> {
    use Dim::{Count, Float, Int, Ratio};
    let dim = |ty: &Ty| match ty {
        Ty::Bare => Some(None),
        Ty::Number(dim) => Some(Some(*dim)),
        _ => None,
    };
    let (left, right) = (dim(left)?, dim(right)?);
    let number = |dim| matches!(dim, Int | Count | Float | Ratio);
    let plain = |a, b| match (a, b) {
        (Ratio, Ratio) => Ratio,
        (Float | Ratio, _) | (_, Float | Ratio) => Float,
        (Count, Count) => Count,
        _ => Int,
    };
    let result = match (op, left, right) {
        (_, None, None) => None,
        (BinaryOp::Add | BinaryOp::Sub, Some(a), None)
        | (BinaryOp::Add | BinaryOp::Sub, None, Some(a)) => Some(a),
        (BinaryOp::Sub, Some(Count), Some(Count)) => Some(Int),
        (BinaryOp::Add | BinaryOp::Sub, Some(a), Some(b)) if a == b => Some(a),
        (BinaryOp::Add | BinaryOp::Sub, Some(a), Some(b)) if number(a) && number(b) => {
            Some(plain(a, b))
        }
        (BinaryOp::Mul, Some(a), None) | (BinaryOp::Mul, None, Some(a)) => Some(a),
        (BinaryOp::Mul, Some(a), Some(Ratio)) => Some(a),
        (BinaryOp::Mul, Some(Ratio), Some(b)) => Some(b),
        (BinaryOp::Mul, Some(a), Some(b)) if number(a) && number(b) => Some(plain(a, b)),
        (BinaryOp::Mul, Some(a), Some(b)) if number(b) => Some(a),
        (BinaryOp::Mul, Some(a), Some(b)) if number(a) => Some(b),
        (BinaryOp::Div, Some(a), None) => Some(a),
        (BinaryOp::Div, Some(a), Some(b)) if a == b && !number(a) => Some(Float),
        (BinaryOp::Div, Some(a), Some(b)) if number(a) && number(b) => match (a, b) {
            (Int | Count, Ratio) => Some(a),
            _ => Some(plain(a, b)),
        },
        (BinaryOp::Div, Some(a), Some(b)) if number(b) => Some(a),
        (BinaryOp::Div, None, Some(a)) if number(a) => Some(if a == Ratio { Ratio } else { Float }),
        _ => return None,
    };
    Some(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_exact() {
        let check = |digits: &str, units: &[&str], expected: Value| {
            let named: Vec<_> = units.iter().filter_map(|name| Unit::named(name)).collect();
            assert_eq!(literal(digits, &named), expected, "{digits} {units:?}");
        };
        check("48", &["k"], Value::Int(48_000));
        check("1.1", &["k"], Value::Int(1100));
        check("4", &["k", "tokens"], Value::Int(4000));
        check("9223372036854775807", &[], Value::Int(i64::MAX));
        check("33", &["%"], Value::Float(0.33));
        check("100", &["%"], Value::Int(1));
        check("1e-3", &[], Value::Float(0.001));
        check("1.5", &["GiB"], Value::Int(1_610_612_736));
        check("90", &["m"], Value::Int(5400));
        check("0.0001", &["M"], Value::Int(100));
        check("9000000", &["T"], Value::Int(9_000_000_000_000_000_000));
        check("2.50", &["%"], Value::Float(0.025));
        check("1.5", &["h"], Value::Int(5400));
        check("1e300", &["T"], Value::Float(f64::INFINITY));
        check("9223372036854775808", &[], Value::Float(9_223_372_036_854_775_808.0));
    }

    #[test]
    fn dimensions_of_arithmetic() {
        use BinaryOp::{Add, Div, Mul, Sub};
        use Dim::{Count, Float, Int, Ratio, Tokens};
        let number = Ty::Number;
        let check = |op, left: Ty, right: Ty, expected: Option<Option<Dim>>| {
            assert_eq!(result_dim(op, &left, &right), expected, "{op:?} {left} {right}");
        };
        check(Mul, number(Tokens), number(Ratio), Some(Some(Tokens)));
        check(Mul, number(Count), number(Ratio), Some(Some(Count)));
        check(Mul, number(Count), number(Float), Some(Some(Float)));
        check(Mul, number(Tokens), number(Tokens), None);
        check(Add, Ty::Bare, number(Ratio), Some(Some(Ratio)));
        check(Add, number(Tokens), number(Count), None);
        check(Sub, number(Count), number(Count), Some(Some(Int)));
        check(Div, number(Tokens), number(Tokens), Some(Some(Float)));
        check(Div, number(Tokens), number(Count), Some(Some(Tokens)));
        check(Div, Ty::Bare, number(Tokens), None);
        check(Add, Ty::Str, Ty::Bare, None);
    }

    #[test]
    fn results_are_rounded_or_refused() {
        let int = Value::Int;
        let tokens = Some(Dim::Tokens);
        let check = |op, a, b, dim, expected| assert_eq!(arithmetic(op, &a, &b, dim), expected);
        check(BinaryOp::Mul, int(5), Value::Float(0.5), tokens, Ok(int(3)));
        check(BinaryOp::Div, int(7), int(2), None, Ok(Value::Float(3.5)));
        check(BinaryOp::Div, int(8), int(2), None, Ok(int(4)));
        check(BinaryOp::Div, int(8), int(0), None, Err(NoResult::DivisionByZero));
        check(BinaryOp::Mul, int(i64::MAX), int(2), tokens, Err(NoResult::TooLarge));
        check(BinaryOp::Mul, int(3), int(2), Some(Dim::Float), Ok(Value::Float(6.0)));
        check(BinaryOp::Div, int(i64::MIN), int(-1), None, Err(NoResult::TooLarge));
    }
}
