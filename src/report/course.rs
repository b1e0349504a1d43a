//! The course of a live number, drawn in a few columns of a terminal.

/// Columns.
const WIDTH: usize = 16;
/// From the least to the greatest.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A number as it went so far. However often it was told, this takes the same room.
#[derive(Clone, Debug)]
pub(super) struct Course {
    /// For each column the sum of its values, and how many they are.
    columns: Vec<(f64, u32)>,
    /// How many a full column has.
    full: u32,
}

impl Default for Course {
    fn default() -> Self {
        Self { columns: Vec::new(), full: 1 }
    }
}

impl Course {
    /// Adds a value; what is not finite has no place.
    pub(super) fn push(&mut self, value: f64) {
        if !value.is_finite() {
            return;
        }
        match self.columns.last_mut() {
            Some((sum, count)) if *count < self.full => {
                *sum += value;
                *count += 1;
            }
            _ => self.columns.push((value, 1)),
        }
        if self.columns.len() > WIDTH {
            self.full *= 2;
            let pair =
                |pair: &[(f64, u32)]| pair.iter().fold((0.0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
            self.columns = self.columns.chunks(2).map(pair).collect();
        }
    }

    /// Returns a bar for each column; nothing as long as there is only one.
    pub(super) fn draw(&self) -> String {
        let means: Vec<_> =
            self.columns.iter().map(|(sum, count)| sum / f64::from(*count)).collect();
        let (least, most) = means
            .iter()
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), mean| (a.min(*mean), b.max(*mean)));
        if means.len() < 2 || most <= least {
            return String::new();
        }
        let bar = |mean: &f64| {
            let height = (mean - least) / (most - least) * (BARS.len() - 1) as f64;
            BARS[(height.round() as usize).min(BARS.len() - 1)]
        };
        means.iter().map(bar).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_falling_number_falls_however_often_it_is_told() {
        for count in [2, 8, 16, 17, 100, 100_000] {
            let mut course = Course::default();
            (0..count).for_each(|at| course.push(f64::from(count - at)));
            let drawn: Vec<_> = course.draw().chars().collect();
            assert!(drawn.is_sorted_by(|a, b| a >= b), "{count}: {drawn:?}");
            assert_eq!((drawn.first(), drawn.last()), (Some(&'█'), Some(&'▁')), "{count}");
            assert!(drawn.len() <= WIDTH, "{count}: {drawn:?}");
        }
    }

    #[test]
    fn what_does_not_move_is_not_drawn() {
        let mut course = Course::default();
        for value in [2.0, f64::NAN, 2.0, f64::INFINITY] {
            course.push(value);
            assert_eq!(course.draw(), "");
        }
        course.push(4.0);
        assert_eq!(course.draw(), "▁▁█");
    }
}
