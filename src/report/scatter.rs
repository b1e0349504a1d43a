//! What a scatter plot shows: points, and how far the order of one coordinate follows that of the other.

use serde::Serialize;

use crate::report::table::{Row, Table};
use crate::sema::steps::View;

/// The points of one colour.
pub(super) struct Cloud {
    /// The column axis' value: `arm = hard`.
    pub(super) name: Option<String>,
    /// The points that have both coordinates.
    pub(super) points: Vec<Dot>,
}

/// A point.
pub(super) struct Dot {
    pub(super) x: f64,
    pub(super) y: f64,
    /// The values of the row axes: `lr = 1e-3, rate = 50%`.
    pub(super) label: String,
    /// The step behind its y, else behind its x.
    pub(super) step: Option<u32>,
}

/// Spearman's rank correlation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Correlation {
    /// Of which points, where they differ by colour.
    pub of: Option<String>,
    /// From -1 to 1.
    pub rho: f64,
    /// Of how many points.
    pub n: usize,
}

impl Table {
    /// Returns the points of a scatter plot by colour.
    pub(super) fn clouds(&self) -> Vec<Cloud> {
        // First are the columns of x, then those of y.
        let half = self.columns.len() / 2;
        let cloud = |at: usize| {
            let point = |row: &Row| {
                let number = |at: usize| row.cells.get(at)?.number().filter(|n| n.is_finite());
                let step = |at: usize| Some(row.cells.get(at)?.sources.first()?.step.0);
                Some(Dot {
                    x: number(at)?,
                    y: number(half + at)?,
                    label: self.label(row),
                    step: step(half + at).or_else(|| step(at)),
                })
            };
            let name =
                self.columns[at].at.as_ref().map(|(axis, value)| format!("{axis} = {value}"));
            Cloud { name, points: self.rows.iter().filter_map(point).collect() }
        };
        (0..half).map(cloud).collect()
    }

    /// Returns the rank correlations that a scatter plot tells: one for each colour.
    pub fn correlations(&self) -> Vec<Correlation> {
        if self.view != View::Scatter {
            return Vec::new();
        }
        let correlation = |cloud: Cloud| {
            let rho = spearman(cloud.points.iter().map(|point| (point.x, point.y)))?;
            Some(Correlation { of: cloud.name, rho, n: cloud.points.len() })
        };
        self.clouds().into_iter().filter_map(correlation).collect()
    }

    /// Returns what stands above it: the caption, and what a scatter plot tells besides.
    pub fn told(&self) -> Option<String> {
        let correlations = self.correlations();
        let told = correlations.iter().map(|Correlation { of, rho, n }| {
            let of = of.as_ref().map(|of| format!(" for {of}")).unwrap_or_default();
            format!("{rho:.3}{of} (n = {n})")
        });
        let told: Vec<_> = told.collect();
        let told = (!told.is_empty()).then(|| format!("Spearman's ρ: {}.", told.join(", ")));
        let caption = self.caption.as_ref().map(|caption| caption.trim().replace('\n', " "));
        let parts: Vec<_> = caption.into_iter().chain(told).collect();
        (!parts.is_empty()).then(|| parts.join(" "))
    }
}

/// Returns Spearman's rank correlation: Pearson's of the ranks, of equal values the mean rank. None of fewer than two different
/// values of either.
fn spearman(points: impl Iterator<Item = (f64, f64)>) -> Option<f64> {
    let (x, y): (Vec<_>, Vec<_>) = points.unzip();
    let (x, y) = (ranks(&x), ranks(&y));
    // The mean of all ranks, however many are equal.
    let mean = (x.len() as f64 + 1.0) / 2.0;
    let sum = |a: &[f64], b: &[f64]| -> f64 {
        a.iter().zip(b).map(|(a, b)| (a - mean) * (b - mean)).sum()
    };
    let spread = (sum(&x, &x) * sum(&y, &y)).sqrt();
    (spread > 0.0).then(|| sum(&x, &y) / spread)
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = |value: &f64| {
        let below = sorted.partition_point(|other| other < value);
        let equal = sorted.partition_point(|other| other <= value) - below;
        below as f64 + (equal as f64 + 1.0) / 2.0
    };
    values.iter().map(rank).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `scipy.stats.spearmanr` has it.
    #[test]
    fn rank_correlations() {
        let of = |x: &[f64], y: &[f64]| spearman(x.iter().copied().zip(y.iter().copied()));
        let x = [1.0, 2.0, 2.0, 4.0, 5.0, 9.0];
        let rho = of(&x, &[2.0, 1.0, 7.0, 7.0, 3.0, 10.0]).unwrap();
        assert!((rho - 0.661_764_705_882_352_9).abs() < 1e-12, "{rho}");
        assert_eq!(of(&x, &x.map(|x| -x * x * x)), Some(-1.0));
        assert_eq!(of(&x, &[1.0; 6]), None);
        assert_eq!(of(&[1.0], &[1.0]), None);
        assert_eq!(of(&[], &[]), None);
    }
}
