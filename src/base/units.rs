//! Dimensions and the units they are written in (DESIGN section 2).

use std::fmt;

/// What a number counts or measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dim {
    /// A whole number without unit.
    Int,
    /// A whole number from zero up, without unit.
    Count,
    /// A real number without unit.
    Float,
    /// A part of a whole; `50%` is 0.5.
    Ratio,
    /// Training tokens.
    Tokens,
    /// Model parameters.
    Params,
    /// Bytes.
    Bytes,
    /// A time span, in seconds.
    Duration,
}

impl Dim {
    /// Every dimension.
    pub const ALL: [Dim; 8] = [
        Self::Int,
        Self::Count,
        Self::Float,
        Self::Ratio,
        Self::Tokens,
        Self::Params,
        Self::Bytes,
        Self::Duration,
    ];

    /// Returns the name as written in recipes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Int => "Int",
            Self::Count => "Count",
            Self::Float => "Float",
            Self::Ratio => "Ratio",
            Self::Tokens => "Tokens",
            Self::Params => "Params",
            Self::Bytes => "Bytes",
            Self::Duration => "Duration",
        }
    }

    /// Returns whether values are whole numbers.
    pub fn is_whole(self) -> bool {
        !matches!(self, Self::Float | Self::Ratio | Self::Duration)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The units a number may be written in: suffix, dimension it fixes (none for the bare scales),
/// and factor to the base unit. Scales `k M B T` may stand before a dimension word: `400k tokens`.
pub const UNITS: &[(&str, Option<Dim>, f64)] = &[
    ("k", None, 1e3),
    ("M", None, 1e6),
    ("B", None, 1e9),
    ("T", None, 1e12),
    ("%", Some(Dim::Ratio), 0.01),
    ("tokens", Some(Dim::Tokens), 1.0),
    ("params", Some(Dim::Params), 1.0),
    ("bytes", Some(Dim::Bytes), 1.0),
    ("KB", Some(Dim::Bytes), 1e3),
    ("MB", Some(Dim::Bytes), 1e6),
    ("GB", Some(Dim::Bytes), 1e9),
    ("TB", Some(Dim::Bytes), 1e12),
    ("KiB", Some(Dim::Bytes), 1024.0),
    ("MiB", Some(Dim::Bytes), 1048576.0),
    ("GiB", Some(Dim::Bytes), 1073741824.0),
    ("TiB", Some(Dim::Bytes), 1099511627776.0),
    ("ms", Some(Dim::Duration), 1e-3),
    ("s", Some(Dim::Duration), 1.0),
    ("m", Some(Dim::Duration), 60.0),
    ("h", Some(Dim::Duration), 3600.0),
    ("d", Some(Dim::Duration), 86400.0),
];

/// Returns the bytes that a text like `200GiB`, `1.5 TB` or `4096` says.
pub fn bytes(text: &str) -> Option<u64> {
    let bytes = scaled(text, Some(Dim::Bytes))?;
    (bytes >= 0.0 && bytes.is_finite()).then_some(bytes as u64)
}

/// Returns the number that a text like `400T` or `4e14` says.
pub fn number(text: &str) -> Option<f64> {
    scaled(text, None).filter(|number| number.is_finite())
}

/// Reads a number and a unit of a dimension; it may have none.
fn scaled(text: &str, dim: Option<Dim>) -> Option<f64> {
    let text = text.trim();
    let is_it = |unit: &&(&str, Option<Dim>, f64)| unit.1 == dim && text.ends_with(unit.0);
    // Of `GiB` and `B` the longer one is meant.
    let unit = UNITS.iter().filter(is_it).max_by_key(|unit| unit.0.len());
    let (name, factor) = unit.map_or(("", 1.0), |(name, _, factor)| (*name, *factor));
    Some(text.strip_suffix(name)?.trim().parse::<f64>().ok()? * factor)
}
