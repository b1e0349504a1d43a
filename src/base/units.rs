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

/// A unit that a number may be written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// As it is written.
    pub name: &'static str,
    /// The dimension that it fixes; none for the bare scales.
    pub dim: Option<Dim>,
    /// It is `factor * 10^power` base units, exactly.
    pub factor: i64,
    /// See `factor`.
    pub power: i32,
}

impl Unit {
    /// Returns the unit that is written so.
    pub fn named(name: &str) -> Option<&'static Self> {
        UNITS.iter().find(|unit| unit.name == name)
    }
}

/// All units. Scales `k M B T` may stand before a dimension word: `400k tokens`.
pub static UNITS: [Unit; 21] = [
    unit("k", None, 1, 3),
    unit("M", None, 1, 6),
    unit("B", None, 1, 9),
    unit("T", None, 1, 12),
    unit("%", Some(Dim::Ratio), 1, -2),
    unit("tokens", Some(Dim::Tokens), 1, 0),
    unit("params", Some(Dim::Params), 1, 0),
    unit("bytes", Some(Dim::Bytes), 1, 0),
    unit("KB", Some(Dim::Bytes), 1, 3),
    unit("MB", Some(Dim::Bytes), 1, 6),
    unit("GB", Some(Dim::Bytes), 1, 9),
    unit("TB", Some(Dim::Bytes), 1, 12),
    unit("KiB", Some(Dim::Bytes), 1 << 10, 0),
    unit("MiB", Some(Dim::Bytes), 1 << 20, 0),
    unit("GiB", Some(Dim::Bytes), 1 << 30, 0),
    unit("TiB", Some(Dim::Bytes), 1 << 40, 0),
    unit("ms", Some(Dim::Duration), 1, -3),
    unit("s", Some(Dim::Duration), 1, 0),
    unit("m", Some(Dim::Duration), 60, 0),
    unit("h", Some(Dim::Duration), 3600, 0),
    unit("d", Some(Dim::Duration), 86_400, 0),
];

const fn unit(name: &'static str, dim: Option<Dim>, factor: i64, power: i32) -> Unit {
    Unit { name, dim, factor, power }
}

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
    let is_it = |unit: &&Unit| unit.dim == dim && text.ends_with(unit.name);
    // Of `GiB` and `B` the longer one is meant.
    let unit = UNITS.iter().filter(is_it).max_by_key(|unit| unit.name.len());
    let (name, factor) =
        unit.map_or(("", 1.0), |unit| (unit.name, unit.factor as f64 * 10f64.powi(unit.power)));
    Some(text.strip_suffix(name)?.trim().parse::<f64>().ok()? * factor)
}
