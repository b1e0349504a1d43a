//! The points that a plan asks for. A product is searched axis by axis, and what a condition rules out is not entered, so
//! that the cost follows what is asked.

use std::collections::{BTreeMap, BTreeSet};

use smallvec::smallvec;

use crate::base::Value;
use crate::diag::Diagnostic;
use crate::sema::eval::Eval;
use crate::sema::memo::Point;
use crate::sema::node::{AxisId, Term, Typed};
use crate::sema::value::Val;

/// How many points may be looked at for one command.
const POINTS_MAX: usize = 1_000_000;

/// Returns the points of a term, each once, in the order of the axes' values.
pub(super) fn points_of<'p>(term: &'p Term, only: &Only, eval: &mut Eval<'p>) -> Vec<Point> {
    let program = eval.program;
    let on = |axis: &&AxisId| term.targets.iter().any(|(_, target)| target.axes.contains(axis));
    let only = only.iter().filter(|(axis, _)| on(axis)).map(|(axis, at)| (*axis, at)).collect();
    let crossed: Vec<AxisId> = term.over.iter().chain(&term.each).copied().collect();
    let varied: BTreeSet<AxisId> = term.vary.iter().copied().collect();
    let mut search = Search {
        term,
        eval,
        crossed: &crossed,
        varied: &varied,
        only,
        looked_at: 0,
        points: Vec::new(),
    };
    search.cross(0, &mut smallvec![0; program.axes.len()]);
    if search.looked_at > POINTS_MAX {
        let span = term.filter.first().map(|condition| condition.node.span);
        let mut diagnostic = Diagnostic::error(
            "tlm::eval::too_many_points",
            format!("the plan looks at more than {POINTS_MAX} points"),
        )
        .help("cross fewer axes, or say in `where` what each axis must be");
        if let Some(span) = span.or_else(|| crossed.first().map(|axis| program.axes[*axis].span)) {
            diagnostic = diagnostic.label(span, "leaves too many");
        }
        search.eval.found.push(diagnostic);
        return Vec::new();
    }
    search.points
}

/// For an axis, which of its values count.
pub(super) type Only = BTreeMap<AxisId, BTreeSet<usize>>;

/// Returns what the command line says about which points count.
pub(super) fn only(eval: &mut Eval<'_>) -> Only {
    let program = eval.program;
    let baseline = vec![0; program.axes.len()];
    let mut only = Only::new();
    for (axis, list) in &program.only {
        let places = eval.places(*axis, list, &baseline);
        only.entry(*axis).or_default().extend(places);
    }
    only
}

struct Search<'s, 'p> {
    term: &'p Term,
    eval: &'s mut Eval<'p>,
    /// The axes that are crossed, in the order in which they are set.
    crossed: &'s [AxisId],
    varied: &'s BTreeSet<AxisId>,
    only: BTreeMap<AxisId, &'s BTreeSet<usize>>,
    looked_at: usize,
    points: Vec<Point>,
}

impl Search<'_, '_> {
    /// Sets the crossed axes from the one at `depth` on to each of their values.
    fn cross(&mut self, depth: usize, point: &mut Point) {
        let Some(axis) = self.crossed.get(depth).copied() else { return self.vary(point) };
        for value in 0..self.eval.program.axes[axis].values.len() {
            point[axis] = value;
            if !self.look() {
                return;
            }
            if self.counts(axis, value) && self.may_hold(depth, point) {
                self.cross(depth + 1, point);
            }
        }
        point[axis] = 0;
    }

    /// Adds a point, and those that differ from it in one varied axis.
    fn vary(&mut self, point: &mut Point) {
        self.add(point);
        for axis in &self.term.vary {
            for value in 1..self.eval.program.axes[*axis].values.len() {
                point[*axis] = value;
                if !self.look() {
                    return;
                }
                self.add(point);
            }
            point[*axis] = 0;
        }
    }

    fn counts(&self, axis: AxisId, value: usize) -> bool {
        self.only.get(&axis).is_none_or(|values| values.contains(&value))
    }

    fn add(&mut self, point: &Point) {
        let counts = self.only.iter().all(|(axis, values)| values.contains(&point[*axis]));
        if counts && self.term.filter.iter().all(|condition| holds(condition, point, self.eval)) {
            self.points.push(point.clone());
        }
    }

    fn look(&mut self) -> bool {
        self.looked_at += 1;
        self.looked_at <= POINTS_MAX
    }

    /// Returns whether what is set up to `depth` leaves the condition a chance: its parts about nothing else must hold.
    fn may_hold(&mut self, depth: usize, point: &Point) -> bool {
        let (axis, open) = (self.crossed[depth], &self.crossed[depth + 1..]);
        let is_settled = |condition: &&Typed| {
            condition.axes.contains(&axis)
                && !condition
                    .axes
                    .iter()
                    .any(|axis| open.contains(axis) || self.varied.contains(axis))
        };
        let settled: Vec<_> = self.term.filter.iter().filter(is_settled).collect();
        settled.into_iter().all(|condition| holds(condition, point, self.eval))
    }
}

fn holds<'p>(condition: &'p Typed, point: &[usize], eval: &mut Eval<'p>) -> bool {
    eval.at(&condition.node, point, "where") == Some(Val::Plain(Value::Bool(true)))
}
