//! Evaluation: a checked expression at one point of the axes. Stage calls become steps, each different one once.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use smallvec::SmallVec;

use crate::base::units::Dim;
use crate::base::{Atom, FastMap, Span, Value};
use crate::diag::Diagnostic;
use crate::sema::late::{Kind as OpKind, Late, Op};
use crate::sema::make::{Called, Makes};
use crate::sema::memo::{AlongAll, AlongId, Label, Memo, Point};
use crate::sema::node::{
    Apply, AxisId, Binding, BindingId, Bounds, Builtin, Fold, Kind, Node, Program,
};
use crate::sema::steps::{Step, StepId};
use crate::sema::ty::Ty;
use crate::sema::value::{Fields, Misfit, NoResult, Val, arithmetic, function, real};
use crate::syntax::ast::BinaryOp;

/// How often functions may be called for one command: seconds' worth. Functions that call each other twice could ask for any
/// number.
const CALLS_MAX: u64 = 1_000_000;

/// The most turns of a fold, and items of a `range` or `logspace`.
const TURNS_MAX: i64 = 10_000;

/// How many parts a value may have.
const PARTS_MAX: usize = 100_000;

pub(super) struct Eval<'p> {
    pub(super) program: &'p Program,
    pub(super) steps: Vec<Step>,
    /// Steps by the hash of what they do, or the next number that is free.
    pub(super) known: FastMap<u64, StepId>,
    /// What was learned of stage calls when they were first evaluated, by their address.
    pub(super) called: FastMap<usize, Rc<Called>>,
    /// What calls of a stage make, by its address.
    pub(super) makes: FastMap<usize, Rc<Makes>>,
    pub(super) along: AlongAll,
    /// Values of each binding, by the part of the point that it depends on; none where an error was told.
    bound: Vec<Bound>,
    /// How many bindings are being evaluated within each other.
    depth: usize,
    /// The binding, at a point, that has to be evaluated before what was tried: evaluating it there would go too deep.
    first: Option<(BindingId, Point)>,
    /// What names mean outside of functions.
    outside: Rc<Env<'p>>,
    /// How often functions were called.
    calls: u64,
    pub(super) found: Vec<Diagnostic>,
}

/// What is known of a binding.
struct Bound {
    along: AlongId,
    values: Memo<u64, Option<Val>>,
}

/// How deep bindings are evaluated within each other. Longer chains are begun at their far end, so that the stack does not
/// grow with them.
const DEPTH_MAX: usize = 50;

/// Where evaluation stands: the point, what the steps made here are called, and what names within functions mean.
#[derive(Clone, Copy)]
pub(super) struct At<'a, 'p> {
    pub(super) point: &'a [usize],
    pub(super) label: Label<'a>,
    pub(super) env: &'a Rc<Env<'p>>,
}

/// What the names within a function or fold mean.
#[derive(Default)]
pub(super) struct Env<'p> {
    locals: Vec<Meaning<'p>>,
    /// The axes that the calls around depend on.
    pub(super) axes: Cow<'p, BTreeSet<AxisId>>,
    /// The turns of the folds around.
    pub(super) turns: SmallVec<[(&'p str, i64); 2]>,
}

impl<'p> Env<'p> {
    /// Returns these axes with those of the calls around.
    fn axes_with(&self, own: &'p BTreeSet<AxisId>) -> Cow<'p, BTreeSet<AxisId>> {
        match self.axes.is_subset(own) {
            true => Cow::Borrowed(own),
            false => Cow::Owned(&*self.axes | own),
        }
    }
}

#[derive(Clone)]
enum Meaning<'p> {
    /// A value.
    Value(Val),
    /// An expression where the function was called: its value is another one at another point.
    Argument(Rc<Argument<'p>>),
    /// What a fold has come to: another value at another point too.
    Turn(Rc<Turn<'p>>),
}

/// The value of a fold after a turn.
struct Turn<'p> {
    fold: &'p Fold,
    /// What names mean around the fold.
    env: Rc<Env<'p>>,
    number: i64,
    /// None before the first one.
    before: Option<Rc<Turn<'p>>>,
    values: RefCell<Memo<Point, Option<Val>>>,
}

impl Drop for Turn<'_> {
    /// Lets go of the turns before it one by one: there may be more than the stack holds.
    fn drop(&mut self) {
        let mut before = self.before.take();
        while let Some(Ok(mut turn)) = before.map(Rc::try_unwrap) {
            before = turn.before.take();
        }
    }
}

struct Argument<'p> {
    node: &'p Node,
    env: Rc<Env<'p>>,
    values: RefCell<Memo<Point, Option<Val>>>,
}

impl<'p> Eval<'p> {
    pub(super) fn new(program: &'p Program) -> Self {
        let mut along = AlongAll::default();
        let bound = |binding: &Binding| Bound {
            along: along.of(&binding.typed.axes, &program.axes),
            values: Memo::default(),
        };
        let bound = program.bindings.iter().map(bound).collect();
        Self {
            program,
            steps: Vec::new(),
            known: FastMap::default(),
            called: FastMap::default(),
            makes: FastMap::default(),
            along,
            bound,
            depth: 0,
            first: None,
            outside: Rc::new(Env::default()),
            calls: 0,
            found: Vec::new(),
        }
    }

    /// Returns the value of an expression at a point; none when an error was told. `label` names the steps made for it.
    pub(super) fn at(&mut self, node: &'p Node, point: &[usize], label: &str) -> Option<Val> {
        let env = Rc::clone(&self.outside);
        let label = Label::Name(label);
        self.until_settled(|eval| eval.node(node, At { point, label, env: &env }))
    }

    /// Returns the value of a binding at a point.
    pub(super) fn binding(&mut self, id: BindingId, point: &[usize]) -> Option<Val> {
        self.until_settled(|eval| eval.bound(id, point))
    }

    /// Tries again until all that has to be evaluated first is.
    fn until_settled(&mut self, mut evaluate: impl FnMut(&mut Self) -> Option<Val>) -> Option<Val> {
        loop {
            let value = evaluate(self);
            let Some(first) = self.first.take() else { return value };
            let mut waiting = vec![first];
            while let Some((id, point)) = waiting.pop() {
                self.bound(id, &point);
                if let Some(first) = self.first.take() {
                    waiting.extend([(id, point), first]);
                }
            }
        }
    }

    fn bound(&mut self, id: BindingId, point: &[usize]) -> Option<Val> {
        let number = self.along.number(self.bound[id].along, point);
        if let Some(value) = self.bound[id].values.get(&number) {
            return value.clone();
        }
        if self.depth == DEPTH_MAX {
            self.first = Some((id, point.into()));
            return None;
        }
        self.depth += 1;
        let env = Rc::clone(&self.outside);
        let binding = &self.program.bindings[id];
        let at = At { point, label: Label::Name(&binding.name), env: &env };
        let value = self.node(&binding.typed.node, at);
        self.depth -= 1;
        if self.first.is_none() {
            self.bound[id].values.insert(number, value.clone());
        }
        value
    }

    pub(super) fn node(&mut self, node: &'p Node, at: At<'_, 'p>) -> Option<Val> {
        // What else would be found now is found again when this is tried again.
        if self.first.is_some() {
            return None;
        }
        match &node.kind {
            Kind::Error => None,
            Kind::Const(value) => Some(value.clone()),
            Kind::Axis(id) => {
                let program = self.program;
                self.node(program.axes[*id].values.get(at.point[*id])?, at)
            }
            Kind::Binding(id) => self.bound(*id, at.point),
            Kind::List(items) => {
                let items: Vec<_> = items.iter().map(|item| self.node(item, at)).collect();
                let list = items.into_iter().collect::<Option<_>>().map(Val::List)?;
                self.bounded(list, node.span)
            }
            Kind::Record(fields) => {
                let field = |(name, value): &'p (String, Node)| {
                    let label = Label::Within(&at.label, name);
                    let value = self.node(value, At { label, ..at })?;
                    Some((Atom::from(name), value))
                };
                let fields: Vec<_> = fields.iter().map(field).collect();
                let fields: Option<Fields> = fields.into_iter().collect();
                self.bounded(Val::Record(fields?), node.span)
            }
            Kind::Field(base, name) => match self.node(base, at)? {
                Val::Record(fields) => fields.get(name).cloned(),
                _ => None,
            },
            Kind::ArtifactField(base, name, ty) => match self.node(base, at)? {
                Val::Artifact(output, tokenizer) => Some(self.field(&output, tokenizer, name, ty)),
                _ => None,
            },
            Kind::Not(inner) => {
                let value = self.truth(inner, at)?;
                Some(Val::Plain(Value::Bool(!value)))
            }
            Kind::And(left, right) => {
                let value = self.truth(left, at)? && self.truth(right, at)?;
                Some(Val::Plain(Value::Bool(value)))
            }
            Kind::Or(left, right) => {
                let value = self.truth(left, at)? || self.truth(right, at)?;
                Some(Val::Plain(Value::Bool(value)))
            }
            Kind::Arithmetic(op, left, right, dim) => {
                let (a, b) = (self.number(left, at), self.number(right, at));
                match (a?, b?) {
                    (Val::Plain(a), Val::Plain(b)) => match arithmetic(*op, &a, &b, *dim) {
                        Ok(value) => Some(Val::Plain(value)),
                        Err(why) => self.no_result(why, node.span, right.span),
                    },
                    parts => {
                        let op = Op(OpKind::Arithmetic(*op, *dim));
                        Some(Val::Late(Late::Computed(
                            op,
                            [parts.0.late()?, parts.1.late()?].into(),
                        )))
                    }
                }
            }
            Kind::Compare(op, left, right) => {
                let (a, b) = (self.plain(left, at), self.plain(right, at));
                Some(Val::Plain(Value::Bool(compare(*op, &a?, &b?))))
            }
            Kind::IsNone(value, wanted) => {
                let is_none = self.node(value, at)? == Val::Plain(Value::Null);
                Some(Val::Plain(Value::Bool(is_none == *wanted)))
            }
            Kind::If(parts) => {
                let [test, then, other] = &**parts;
                let chosen = if self.truth(test, at)? { then } else { other };
                self.node(chosen, at)
            }
            Kind::Else(parts) => match self.node(&parts[0], at)? {
                Val::Plain(Value::Null) => self.node(&parts[1], at),
                value => Some(value),
            },
            Kind::Update(base, changed) => {
                let Val::Record(mut fields) = self.node(base, at)? else { return None };
                for (name, value) in changed {
                    let value = self.node(value, at)?;
                    fields.set(name, value);
                }
                self.bounded(Val::Record(fields), node.span)
            }
            Kind::Item(list, place) => match self.node(list, at)? {
                Val::List(items) => items.get(*place).cloned(),
                _ => None,
            },
            Kind::Text(parts) => self.text(parts, at),
            Kind::Bounded(inner, bounds) => {
                let value = self.node(inner, at)?;
                self.in_range(value, bounds, node.span)
            }
            Kind::Local(place) => self.local(*place, at),
            Kind::Apply(apply) => self.apply(apply, node.span, at),
            Kind::Fold(fold) => self.fold(fold, node.span, at),
            Kind::Builtin(builtin, args) => self.builtin(*builtin, args, node.span, at),
            Kind::At(inner, fixed) => self.fixed(inner, fixed, at),
            Kind::AtBaseline(inner, axes) => {
                let mut point = Point::from(at.point);
                axes.iter().for_each(|axis| point[*axis] = 0);
                self.node(inner, At { point: &point, ..at })
            }
            Kind::Convert(inner, ty) => {
                let value = self.node(inner, at)?;
                match value.conform(ty) {
                    Ok(value) => Some(value),
                    Err(misfit) => self.misfit(&misfit, node.span),
                }
            }
            Kind::Rooted(inner) => match self.node(inner, at)? {
                Val::Plain(Value::Str(text)) => {
                    Some(Val::Plain(Value::Str(self.rooted(&text, node.span))))
                }
                other => Some(other),
            },
            Kind::Best(best) => self.best(best, node.span, at),
            Kind::Spread(inner, axis) => self.spread(inner, *axis, at),
            Kind::Call(call) => self.call(call, node.span, at),
        }
    }

    /// Returns a value that is not too large: a few lines could double it over and over.
    fn bounded(&mut self, value: Val, span: Span) -> Option<Val> {
        if value.parts() <= PARTS_MAX {
            return Some(value);
        }
        self.found.push(
            Diagnostic::error("tlm::eval::too_large", "the value has too many parts")
                .label(span, format!("more than {PARTS_MAX}"))
                .help("use smaller lists"),
        );
        None
    }

    /// Returns a value that must be known now.
    pub(super) fn plain(&mut self, node: &'p Node, at: At<'_, 'p>) -> Option<Value> {
        match self.node(node, at)? {
            Val::Plain(value) => Some(value),
            _ => {
                self.late(node.span);
                None
            }
        }
    }

    /// Returns a number, known now or later.
    fn number(&mut self, node: &'p Node, at: At<'_, 'p>) -> Option<Val> {
        match self.node(node, at)? {
            value @ (Val::Plain(_) | Val::Late(_)) => Some(value),
            _ => {
                self.late(node.span);
                None
            }
        }
    }

    fn truth(&mut self, node: &'p Node, at: At<'_, 'p>) -> Option<bool> {
        match self.plain(node, at)? {
            Value::Bool(value) => Some(value),
            _ => None,
        }
    }

    pub(super) fn late(&mut self, span: Span) {
        self.found.push(
            Diagnostic::error("tlm::eval::late", "this is known only once a stage ran")
                .label(span, "can't be computed with")
                .help("pass it to a stage's parameter as it is"),
        );
    }

    pub(super) fn misfit(&mut self, misfit: &Misfit, span: Span) -> Option<Val> {
        self.found.push(
            Diagnostic::error("tlm::eval::out_of_range", format!("expected {}", misfit.wanted))
                .label(span, format!("this is {}", misfit.found))
                .help(match misfit.found.fract() {
                    0.0 => format!("give it {}", misfit.wanted),
                    _ => "round it: `round(...)`, `floor(...)` or `ceil(...)`".to_owned(),
                }),
        );
        None
    }

    fn no_result(&mut self, why: NoResult, span: Span, right: Span) -> Option<Val> {
        self.found.push(match why {
            NoResult::DivisionByZero => {
                Diagnostic::error("tlm::eval::division_by_zero", "division by zero")
                    .label(right, "this is zero")
                    .help("guard it: `if x == 0 then ... else ...`")
            }
            NoResult::NotReal => {
                Diagnostic::error("tlm::eval::out_of_range", "a negative number has no such power")
                    .label(span, "no real number")
                    .help("give it a base from zero up, or a whole exponent")
            }
            NoResult::TooLarge => {
                Diagnostic::error("tlm::eval::too_large", "the result is too large")
                    .label(span, "beyond 2^63")
                    .help("use smaller numbers")
            }
        });
        None
    }

    // ---- functions, folds, points

    fn local(&mut self, place: usize, at: At<'_, 'p>) -> Option<Val> {
        let argument = match at.env.locals.get(place)? {
            Meaning::Value(value) => return Some(value.clone()),
            Meaning::Argument(argument) => Rc::clone(argument),
            Meaning::Turn(turn) => return self.turn(&Rc::clone(turn), at),
        };
        if let Some(value) = argument.values.borrow().get(at.point) {
            return value.clone();
        }
        let value = self.node(argument.node, At { env: &argument.env, ..at });
        if self.first.is_none() {
            argument.values.borrow_mut().insert(at.point.into(), value.clone());
        }
        value
    }

    fn apply(&mut self, apply: &'p Apply, span: Span, at: At<'_, 'p>) -> Option<Val> {
        self.calls += 1;
        if self.calls == CALLS_MAX {
            self.found.push(
                Diagnostic::error("tlm::eval::too_much", "the recipe calls functions too often")
                    .label(span, format!("given up here, after {CALLS_MAX} calls"))
                    .help("look for functions and folds that use another one more than once, level by level"),
            );
        }
        if self.calls >= CALLS_MAX {
            return None;
        }
        let function = self.program.functions.get(apply.function)?;
        let argument = |node| {
            let (env, values) = (Rc::clone(at.env), RefCell::default());
            Meaning::Argument(Rc::new(Argument { node, env, values }))
        };
        let env = Rc::new(Env {
            locals: apply.args.iter().map(argument).collect(),
            axes: at.env.axes_with(&apply.axes),
            turns: at.env.turns.clone(),
        });
        self.node(&function.body, At { env: &env, ..at })
    }

    fn fold(&mut self, fold: &'p Fold, span: Span, at: At<'_, 'p>) -> Option<Val> {
        let (low, high) = (self.plain(&fold.low, at), self.plain(&fold.high, at));
        let (Some(Value::Int(low)), Some(Value::Int(high))) = (low, high) else { return None };
        if high.saturating_sub(low) >= TURNS_MAX {
            return self.too_many(span);
        }
        let turn = |number, before| {
            let (env, values) = (Rc::clone(at.env), RefCell::default());
            Rc::new(Turn { fold, env, number, before, values })
        };
        let mut last = turn(low, None);
        let mut value = self.turn(&last, at)?;
        for number in low..=high {
            last = turn(number, Some(last));
            value = self.turn(&last, at)?;
        }
        Some(value)
    }

    /// Returns the value of a fold after a turn, at any point.
    fn turn(&mut self, turn: &Rc<Turn<'p>>, at: At<'_, 'p>) -> Option<Val> {
        let mut open = Vec::new();
        let mut next = Some(turn);
        while let Some(turn) = next.filter(|turn| turn.values.borrow().get(at.point).is_none()) {
            open.push(Rc::clone(turn));
            next = turn.before.as_ref();
        }
        // The oldest first, so that the stack does not grow with their number.
        for turn in open.into_iter().rev() {
            let value = match &turn.before {
                None => self.node(&turn.fold.init, At { env: &turn.env, ..at }),
                Some(before) => {
                    let mut env = Env {
                        locals: turn.env.locals.clone(),
                        axes: turn.env.axes_with(&turn.fold.axes),
                        turns: turn.env.turns.clone(),
                    };
                    let number = Val::Plain(Value::Int(turn.number));
                    env.locals.extend([Meaning::Turn(Rc::clone(before)), Meaning::Value(number)]);
                    env.turns.push((&turn.fold.index, turn.number));
                    self.node(&turn.fold.body, At { env: &Rc::new(env), ..at })
                }
            };
            if self.first.is_some() {
                return None;
            }
            turn.values.borrow_mut().insert(at.point.into(), value);
        }
        turn.values.borrow().get(at.point).cloned().flatten()
    }

    fn too_many(&mut self, span: Span) -> Option<Val> {
        self.found.push(
            Diagnostic::error("tlm::eval::too_large", "too many turns or items")
                .label(span, format!("more than {TURNS_MAX}"))
                .help("use fewer"),
        );
        None
    }

    fn builtin(
        &mut self,
        builtin: Builtin,
        args: &'p [Node],
        span: Span,
        at: At<'_, 'p>,
    ) -> Option<Val> {
        let values: Vec<_> = args.iter().map(|arg| self.number(arg, at)).collect();
        let values = values.into_iter().collect::<Option<Vec<_>>>()?;
        let is_late = values.iter().any(|value| matches!(value, Val::Late(_)));
        if is_late && !matches!(builtin, Builtin::Range | Builtin::Logspace) {
            let args: Option<Vec<Late>> = values.iter().map(Val::late).collect();
            return Some(Val::Late(Late::Computed(Op(OpKind::Function(builtin)), args?.into())));
        }
        let Some(values) = values.iter().map(Val::known).collect::<Option<Vec<_>>>() else {
            self.late(span);
            return None;
        };
        match function(builtin, &values) {
            Some(Ok(value)) => return Some(Val::Plain(value)),
            Some(Err(why)) => return self.no_result(why, span, args.last()?.span),
            None => {}
        }
        match (builtin, &values[..]) {
            (Builtin::Range, [Value::Int(low), Value::Int(high)]) => {
                if high.saturating_sub(*low) >= TURNS_MAX {
                    return self.too_many(span);
                }
                Some(Val::List((*low..=*high).map(|n| Val::Plain(Value::Int(n))).collect()))
            }
            (Builtin::Logspace, [low, high, Value::Int(count)]) => {
                let (low, high) = (real(low), real(high));
                if *count > TURNS_MAX {
                    return self.too_many(span);
                }
                let positive = "a number above zero";
                for (end, arg) in [low, high].into_iter().zip(args) {
                    if end <= 0.0 {
                        return self.misfit(&Misfit { wanted: positive, found: end }, arg.span);
                    }
                }
                Some(Val::List(
                    logspace(low, high, *count).map(|x| Val::Plain(Value::Float(x))).collect(),
                ))
            }
            (_, [first, ..]) => {
                let wanted = "a whole number";
                self.misfit(&Misfit { wanted, found: real(first) }, args[0].span)
            }
            (_, []) => None,
        }
    }

    /// Evaluates at other values of some axes.
    fn fixed(
        &mut self,
        inner: &'p Node,
        fixed: &'p [(AxisId, Node)],
        at: At<'_, 'p>,
    ) -> Option<Val> {
        let mut point = Point::from(at.point);
        for (axis, node) in fixed {
            let wanted = self.node(node, at)?;
            point[*axis] = self.place(*axis, &wanted, node.span, at)?;
        }
        self.node(inner, At { point: &point, ..at })
    }

    /// Returns which values of an axis a list holds.
    pub(super) fn places(&mut self, axis: AxisId, list: &'p Node, point: &[usize]) -> Vec<usize> {
        let items = match self.at(list, point, "only") {
            Some(Val::List(items)) => items,
            _ => [].into(),
        };
        let env = Rc::clone(&self.outside);
        let at = At { point, label: Label::Name("only"), env: &env };
        let place = |item| self.place(axis, item, list.span, at);
        items.iter().filter_map(place).collect()
    }

    /// Returns which value of an axis this is.
    fn place(&mut self, id: AxisId, wanted: &Val, span: Span, at: At<'_, 'p>) -> Option<usize> {
        let axis = &self.program.axes[id];
        for (place, value) in axis.values.iter().enumerate() {
            if self.node(value, at).as_ref() == Some(wanted) {
                return Some(place);
            }
        }
        if self.first.is_none() {
            self.found.push(
                Diagnostic::error(
                    "tlm::eval::no_such_value",
                    format!("`{}` does not take this value", axis.name),
                )
                .label(span, "not one of its values")
                .label(axis.span, "its values")
                .help(format!("its values are {}", axis.shown.join(", "))),
            );
        }
        None
    }

    fn text(&mut self, parts: &'p [(Node, Ty)], at: At<'_, 'p>) -> Option<Val> {
        let mut text = String::new();
        for (node, ty) in parts {
            let value = self.plain(node, at)?;
            text += &match ty {
                Ty::Number(Dim::Ratio) => percent(real(&value)),
                _ => Val::Plain(value).shown()?,
            };
        }
        Some(Val::Plain(Value::Str(text)))
    }

    /// Returns a number that lies in its range; what is known only later is not checked.
    fn in_range(&mut self, value: Val, bounds: &Bounds, span: Span) -> Option<Val> {
        let Val::Plain(number @ (Value::Int(_) | Value::Float(_))) = &value else {
            return Some(value);
        };
        let real = real(number);
        if (bounds.range.low..=bounds.range.high).contains(&real) {
            return Some(value);
        }
        let shown = match bounds.dim {
            Some(Dim::Ratio) => percent(real),
            _ => real.to_string(),
        };
        self.found.push(
            Diagnostic::error(
                "tlm::eval::out_of_range",
                format!("{} is out of range", bounds.what),
            )
            .label(span, format!("this is {shown}"))
            .label(bounds.span, "declared here")
            .help(format!("give it {}", bounds.range.shown)),
        );
        None
    }
}

/// Returns numbers whose ratios are equal, both ends included.
fn logspace(low: f64, high: f64, count: i64) -> impl Iterator<Item = f64> {
    let step = (high / low).ln() / (count - 1).max(1) as f64;
    (0..count).map(move |at| match at {
        0 => low,
        _ if at == count - 1 => high,
        _ => low * (step * at as f64).exp(),
    })
}

/// Returns a ratio in percent, without the noise of binary fractions.
fn percent(ratio: f64) -> String {
    let text = format!("{:.6}", ratio * 100.0);
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

fn compare(op: BinaryOp, left: &Value, right: &Value) -> bool {
    use std::cmp::Ordering;
    let order = match (left, right) {
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        (Value::Int(_) | Value::Float(_), Value::Int(_) | Value::Float(_)) => {
            real(left).partial_cmp(&real(right))
        }
        _ => (left == right).then_some(Ordering::Equal),
    };
    match op {
        BinaryOp::Eq => order == Some(Ordering::Equal),
        BinaryOp::Ne => order != Some(Ordering::Equal),
        BinaryOp::Lt => order == Some(Ordering::Less),
        BinaryOp::Le => matches!(order, Some(Ordering::Less | Ordering::Equal)),
        BinaryOp::Gt => order == Some(Ordering::Greater),
        _ => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
    }
}
