//! Types, and which fits which.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::base::Atom;
use crate::base::units::Dim;
use crate::sema::scope::ScopeId;
use crate::sema::value::Val;

/// The type of an expression or a slot.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Ty {
    /// Of what is wrong already; fits everything, so that one mistake is told once.
    Unknown,
    /// A number without unit: its slot decides what it counts.
    Bare,
    /// A number that counts or measures something.
    Number(Dim),
    Bool,
    Str,
    /// A text that names a file, relative to the recipe's own folder or absolute.
    Path,
    /// The names of its variants.
    Enum(Arc<[String]>),
    /// Of `none`.
    None,
    Optional(Box<Ty>),
    List(Box<Ty>),
    Record(Arc<BTreeMap<String, Field>>),
    /// Something in the store, by its artifact type's name.
    Artifact(Atom),
    /// Another recipe.
    Recipe(ScopeId),
    /// Numbers along an axis, for a table.
    Spread,
}

/// A field of a record type.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Field {
    pub(super) ty: Ty,
    pub(super) default: Option<Val>,
}

impl Ty {
    /// Returns the artifact type of single files, which texts stand for.
    pub(super) fn file() -> Self {
        Self::Artifact("File".into())
    }

    /// Returns whether it is `none` or something in the store.
    pub(super) fn is_optional_artifact(&self) -> bool {
        matches!(self, Self::Optional(inner) if matches!(**inner, Self::Artifact(_)))
    }

    /// Returns whether it has no more than so many parts, in all and in depth.
    pub(super) fn is_within(&self, parts: &mut usize) -> bool {
        let Some(rest) = parts.checked_sub(1) else { return false };
        *parts = rest;
        match self {
            Self::Optional(inner) | Self::List(inner) => inner.is_within(parts),
            Self::Record(fields) => fields.values().all(|field| field.ty.is_within(parts)),
            _ => true,
        }
    }

    /// Returns whether a table can show it.
    pub(super) fn is_cell(&self) -> bool {
        self.is_scalar() || *self == Self::Spread
    }

    /// Returns the names of the fields of a record that are numbers.
    pub(super) fn numbers(&self) -> impl Iterator<Item = &str> {
        let fields = match self {
            Self::Record(fields) => Some(fields.iter()),
            _ => None,
        };
        let is_number = |field: &Field| matches!(field.ty, Self::Bare | Self::Number(_));
        let fields = fields.into_iter().flatten();
        fields.filter(move |(_, field)| is_number(field)).map(|(name, _)| &**name)
    }

    /// Returns whether values may have to be changed to be of this type.
    pub(super) fn converts(&self) -> bool {
        match self {
            Self::Number(_) | Self::Record(_) => true,
            Self::Optional(inner) | Self::List(inner) => inner.converts(),
            _ => false,
        }
    }

    /// Returns whether it is one number, text or truth value.
    pub(super) fn is_scalar(&self) -> bool {
        match self {
            Self::Optional(inner) => inner.is_scalar(),
            Self::None
            | Self::List(_)
            | Self::Record(_)
            | Self::Artifact(_)
            | Self::Recipe(_)
            | Self::Spread => false,
            _ => true,
        }
    }

    /// Returns whether a value of this type can go where `slot` is wanted; numbers may still turn out to be out of range.
    pub(super) fn fits(&self, slot: &Ty) -> bool {
        match (self, slot) {
            (Self::Unknown, _) | (_, Self::Unknown) | (Self::Bare, Self::Number(_)) => true,
            (Self::None, Self::Optional(_)) => true,
            (Self::Str, Self::Path) | (Self::Path, Self::Str) => true,
            (Self::Optional(own), Self::Optional(wanted)) => own.fits(wanted),
            (_, Self::Optional(wanted)) => self.fits(wanted),
            (Self::Number(own), Self::Number(wanted)) => own == wanted || widens(*own, *wanted),
            (Self::Enum(own), Self::Enum(wanted)) => own.iter().all(|name| wanted.contains(name)),
            (Self::List(own), Self::List(wanted)) => own.fits(wanted),
            (Self::Record(own), Self::Record(wanted)) => record_fits(own, wanted),
            _ => self == slot,
        }
    }

    /// Returns the type that holds values of both, if there is one.
    pub(super) fn join(&self, other: &Ty) -> Option<Ty> {
        match (self, other) {
            (Self::None, Self::None) => Some(Self::None),
            (Self::None, some) | (some, Self::None) => match some {
                Self::Optional(_) => Some(some.clone()),
                _ => Some(Self::Optional(Box::new(some.clone()))),
            },
            (Self::Str, Self::Path) | (Self::Path, Self::Str) => Some(Self::Path),
            (Self::Unknown, known) => Some(known.clone()),
            (Self::Number(own), Self::Number(wanted)) => join_dims(*own, *wanted).map(Self::Number),
            (Self::Optional(own), Self::Optional(wanted)) => {
                own.join(wanted).map(|inner| Self::Optional(Box::new(inner)))
            }
            (Self::List(own), Self::List(wanted)) => {
                own.join(wanted).map(|item| Self::List(Box::new(item)))
            }
            (own, wanted) if own.fits(wanted) => Some(wanted.clone()),
            (wanted, own) if own.fits(wanted) => Some(wanted.clone()),
            _ => None,
        }
    }
}

fn widens(own: Dim, wanted: Dim) -> bool {
    use Dim::{Count, Float, Int, Ratio};
    matches!((own, wanted), (Int, Count) | (Count, Int) | (Ratio, Float) | (Float, Ratio))
        || (matches!(own, Int | Count) && wanted == Float)
}

/// Returns the dimension that holds numbers of both.
fn join_dims(own: Dim, other: Dim) -> Option<Dim> {
    use Dim::{Float, Int};
    match widens(own, other) {
        _ if own == other => Some(own),
        false if !widens(other, own) => None,
        _ if own.is_whole() && other.is_whole() => Some(Int),
        _ => Some(Float),
    }
}

fn record_fits(own: &BTreeMap<String, Field>, wanted: &BTreeMap<String, Field>) -> bool {
    own.keys().all(|name| wanted.contains_key(name))
        && wanted.iter().all(|(name, field)| match own.get(name) {
            Some(given) => given.ty.fits(&field.ty),
            None => field.default.is_some(),
        })
}

impl fmt::Display for Ty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("?"),
            Self::Bare => f.write_str("a number"),
            Self::Number(dim) => dim.fmt(f),
            Self::Bool => f.write_str("Bool"),
            Self::Str => f.write_str("Str"),
            Self::Path => f.write_str("Path"),
            Self::Enum(names) => f.write_str(&names.join(" | ")),
            Self::None => f.write_str("none"),
            Self::Optional(inner) => write!(f, "{inner}?"),
            Self::List(item) => write!(f, "[{item}]"),
            Self::Artifact(name) => f.write_str(name),
            Self::Recipe(_) => f.write_str("a recipe"),
            Self::Spread => f.write_str("a mean"),
            Self::Record(fields) => {
                let fields: Vec<_> =
                    fields.iter().map(|(name, field)| format!("{name}: {}", field.ty)).collect();
                write!(f, "{{{}}}", fields.join(", "))
            }
        }
    }
}
