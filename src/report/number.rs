//! Numbers with as many digits as mean something.

use crate::base::Value;
use crate::base::text::thousands;

/// Significant digits of the smallest number of a column.
const DIGITS: i32 = 4;
/// Magnitudes outside this range are written with an exponent.
const PLAIN: std::ops::Range<f64> = 1e-4..1e7;

/// Returns a value as a screen shows it on its own.
pub fn value(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Int(number) => int(*number),
        Value::Float(number) => float(*number, decimals([*number])),
        Value::Digest(digest) => digest.short(),
        Value::Str(text) => text.clone(),
        Value::List(items) => {
            let items: Vec<_> = items.iter().map(self::value).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Map(fields) => {
            let fields: Vec<_> = fields
                .iter()
                .map(|(name, field)| format!("{name}: {}", self::value(field)))
                .collect();
            format!("{{{}}}", fields.join(", "))
        }
    }
}

/// Returns a value with all its digits, for CSV and other programs.
pub fn exact(value: &Value) -> String {
    match value {
        Value::Int(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        other => self::value(other),
    }
}

/// Returns how many decimals the numbers of one column share: enough that the smallest of them
/// shows four significant digits, but no more than six.
pub fn decimals(numbers: impl IntoIterator<Item = f64>) -> usize {
    let smallest = numbers
        .into_iter()
        .map(f64::abs)
        .filter(|number| number.is_finite() && PLAIN.contains(number))
        .fold(f64::INFINITY, f64::min);
    if smallest.is_infinite() {
        return 1;
    }
    (DIGITS - 1 - smallest.log10().floor() as i32).clamp(0, 6) as usize
}

/// Returns a real number with this many decimals, or with an exponent when it is very large or very small.
pub fn float(number: f64, decimals: usize) -> String {
    let magnitude = number.abs();
    if !number.is_finite() {
        return if number.is_nan() { "nan".into() } else { format!("{number}") };
    }
    if magnitude != 0.0 && !PLAIN.contains(&magnitude) {
        return format!("{number:.3e}");
    }
    let text = format!("{magnitude:.decimals$}");
    let (whole, rest) = text.split_once('.').map_or((&*text, None), |(w, r)| (w, Some(r)));
    let sign = if number < 0.0 { "-" } else { "" };
    let whole = thousands(whole.parse().unwrap_or_default());
    rest.map_or_else(|| format!("{sign}{whole}"), |rest| format!("{sign}{whole}.{rest}"))
}

/// Returns a count for a narrow place: `950`, `48k`, `1.35M`.
pub fn compact(number: f64) -> String {
    let (scaled, suffix) = match number.abs() {
        n if n >= 1e12 => (number / 1e12, "T"),
        n if n >= 1e9 => (number / 1e9, "B"),
        n if n >= 1e6 => (number / 1e6, "M"),
        n if n >= 1e3 => (number / 1e3, "k"),
        n if n >= 10.0 || n == n.trunc() => return format!("{number:.0}"),
        _ => return trim_zeros(&format!("{number:.2}")),
    };
    let decimals = if scaled.abs() >= 100.0 {
        0
    } else if scaled.abs() >= 10.0 {
        1
    } else {
        2
    };
    format!("{}{suffix}", trim_zeros(&format!("{scaled:.decimals$}")))
}

/// Returns a number for a narrow place, with three digits of it: `0.125`, `1.5e-4`, `48k`.
pub fn tick(number: f64) -> String {
    match number.abs() {
        n if n > 0.0 && n < 0.01 => {
            let text = format!("{number:.2e}");
            let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            format!("{}e{exponent}", trim_zeros(digits))
        }
        n if n < 1.0 => trim_zeros(&format!("{number:.3}")),
        _ => compact(number),
    }
}

fn trim_zeros(text: &str) -> String {
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text.to_owned()
    }
}

fn int(number: i64) -> String {
    let sign = if number < 0 { "-" } else { "" };
    format!("{sign}{}", thousands(number.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_shares_its_decimals() {
        assert_eq!(decimals([45.318_77, 112.4]), 2);
        assert_eq!(decimals([0.031_25, 3.0]), 5);
        assert_eq!(decimals([45_318.0]), 0);
        assert_eq!(decimals([]), 1);
    }

    #[test]
    fn extremes_get_an_exponent() {
        assert_eq!(float(3.2e-7, 2), "3.200e-7");
        assert_eq!(float(1.5e9, 2), "1.500e9");
        assert_eq!(float(0.0, 2), "0.00");
        assert_eq!(float(-1234.5, 1), "-1,234.5");
        assert_eq!(float(f64::NAN, 1), "nan");
    }

    #[test]
    fn ticks_keep_three_digits() {
        for (number, text) in
            [(0.0, "0"), (0.125, "0.125"), (1.5e-4, "1.5e-4"), (-0.001, "-1e-3"), (48e3, "48k")]
        {
            assert_eq!(tick(number), text);
        }
    }

    #[test]
    fn compact_counts() {
        for (number, text) in [
            (0.0, "0"),
            (950.0, "950"),
            (48e3, "48k"),
            (1.35e6, "1.35M"),
            (409_600.0, "410k"),
            (2.5, "2.5"),
        ] {
            assert_eq!(compact(number), text);
        }
    }
}
