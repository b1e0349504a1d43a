//! What evaluation keeps so as not to make it twice: numbers of points, names, axis values as texts.

use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::hash::Hash;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::base::{Atom, FastMap};
use crate::sema::node::{Axis, AxisId};
use crate::sema::steps::Names;

/// For each axis, which of its values.
pub(super) type Point = SmallVec<[usize; 2]>;

/// Values by the places where they were computed. Most have one, which takes no table.
#[derive(Debug)]
pub(super) struct Memo<K, V> {
    first: Option<(K, V)>,
    others: FastMap<K, V>,
}

impl<K, V> Default for Memo<K, V> {
    fn default() -> Self {
        Self { first: None, others: FastMap::default() }
    }
}

impl<K: Eq + Hash, V> Memo<K, V> {
    pub(super) fn get<Q>(&self, place: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        match &self.first {
            Some((first, value)) if first.borrow() == place => Some(value),
            _ => self.others.get(place),
        }
    }

    pub(super) fn insert(&mut self, place: K, value: V) {
        match self.first {
            None => self.first = Some((place, value)),
            Some(_) => drop(self.others.insert(place, value)),
        }
    }
}

/// Some axes, by their place in [`AlongAll`].
pub(super) type AlongId = usize;

/// The sets of axes that values depend on.
#[derive(Debug, Default)]
pub(super) struct AlongAll {
    all: Vec<Along>,
    known: FastMap<Vec<AxisId>, AlongId>,
}

/// Some axes, with numbers for the combinations of their values.
#[derive(Debug)]
struct Along {
    /// Each axis with how many values it has, by name.
    axes: Vec<(AxisId, u64)>,
    /// Numbers of combinations, where these are too many to compute with.
    others: Option<FastMap<Point, u64>>,
    /// The latest point as texts: steps of the same point are made after each other.
    latest: Option<(u64, Names)>,
}

impl AlongAll {
    /// Returns the place of a set of axes.
    pub(super) fn of(&mut self, axes: &BTreeSet<AxisId>, all: &[Axis]) -> AlongId {
        let mut axes: Vec<AxisId> = axes.iter().copied().collect();
        if let Some(id) = self.known.get(&axes) {
            return *id;
        }
        let id = self.all.len();
        self.known.insert(axes.clone(), id);
        axes.sort_by_key(|axis| all[*axis].name);
        let sized = axes.iter().map(|axis| (*axis, all[*axis].values.len() as u64));
        self.all.push(Along::new(sized.collect()));
        id
    }

    /// Returns the number of a point: two points with the same have the same values of these axes.
    pub(super) fn number(&mut self, id: AlongId, point: &[usize]) -> u64 {
        self.all[id].number(point)
    }

    /// Returns the values of these axes at a point as texts, by axis name.
    pub(super) fn shown(&mut self, id: AlongId, point: &[usize], all: &[Axis]) -> Names {
        let along = &mut self.all[id];
        let number = along.number(point);
        if let Some((latest, names)) = &along.latest
            && *latest == number
        {
            return Arc::clone(names);
        }
        let value = |axis: AxisId| (all[axis].name, all[axis].shown[point[axis]]);
        let names: Names = along.axes.iter().map(|(axis, _)| value(*axis)).collect();
        along.latest = Some((number, Arc::clone(&names)));
        names
    }
}

impl Along {
    fn new(axes: Vec<(AxisId, u64)>) -> Self {
        let count = axes.iter().try_fold(1u64, |count, (_, size)| count.checked_mul(*size));
        Self { axes, others: count.is_none().then(FastMap::default), latest: None }
    }

    fn number(&mut self, point: &[usize]) -> u64 {
        match &mut self.others {
            None => {
                let digits = self.axes.iter().map(|(axis, size)| (point[*axis] as u64, *size));
                digits.fold(0, |number, (digit, size)| number * size + digit)
            }
            Some(known) => {
                let values: Point = self.axes.iter().map(|(axis, _)| point[*axis]).collect();
                let next = known.len() as u64;
                *known.entry(values).or_insert(next)
            }
        }
    }
}

/// What steps made at a place are called: a name, or that with a slot behind it. Put together only when a step is made.
#[derive(Clone, Copy, Debug)]
pub(super) enum Label<'a> {
    Name(&'a str),
    Within(&'a Label<'a>, &'a str),
}

impl Label<'_> {
    pub(super) fn is(&self, text: &str) -> bool {
        match self {
            Self::Name(name) => *name == text,
            Self::Within(outer, slot) => {
                let rest = text.strip_suffix(slot).and_then(|rest| rest.strip_suffix('.'));
                rest.is_some_and(|rest| outer.is(rest))
            }
        }
    }

    pub(super) fn atom(&self) -> Atom {
        let mut text = String::new();
        self.write(&mut text);
        text.into()
    }

    fn write(&self, out: &mut String) {
        match self {
            Self::Name(name) => out.push_str(name),
            Self::Within(outer, slot) => {
                outer.write(out);
                out.push('.');
                out.push_str(slot);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_have_numbers_of_their_own_however_many_there_are() {
        for axes in [3, 30, 70] {
            let mut along = Along::new((0..axes).map(|axis| (axis, 4)).collect());
            let at = |axis: usize, value| {
                let mut point = Point::from_elem(0, axes);
                point[axis] = value;
                point
            };
            let points: Vec<Point> =
                (0..axes).flat_map(|axis| (1..4).map(move |value| at(axis, value))).collect();
            let numbers: BTreeSet<u64> = points.iter().map(|point| along.number(point)).collect();
            assert_eq!(numbers.len(), points.len(), "{axes}");
            assert!(points.iter().all(|point| numbers.contains(&along.number(point))), "{axes}");
        }
    }

    #[test]
    fn a_label_is_the_text_that_it_writes() {
        let (name, slot) = (Label::Name("r2"), "init.model");
        let inner = Label::Within(&name, slot);
        let text = inner.atom();
        assert_eq!(&*text, "r2.init.model");
        assert!(inner.is(&text) && name.is("r2"));
        for other in ["r2", "r2init.model", "r.init.model", "init.model", ".init.model", ""] {
            assert!(!inner.is(other), "{other}");
        }
    }
}
