//! Words and numbers for people: plurals, suggestions, sizes, durations.

use std::fmt::Display;
use std::path::Path;

use unicode_width::UnicodeWidthChar;

/// Returns `1 step`, `2 steps`.
pub fn plural(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{} {noun}s", thousands(count as u64)) }
}

/// Returns a step's label with its axis values: `r2[arm=hard, rate=50%]`.
pub fn name_at<S: Display>(label: &str, point: &[(S, S)]) -> String {
    if point.is_empty() {
        return label.to_owned();
    }
    let values: Vec<_> = point.iter().map(|(axis, value)| format!("{axis}={value}")).collect();
    format!("{label}[{}]", values.join(", "))
}

/// Returns the first lines, indented, and how many more there are.
pub fn first_lines(lines: &[String], most: usize) -> String {
    let mut out: String = lines.iter().take(most).map(|line| format!("  {line}\n")).collect();
    if let Some(more) = lines.len().checked_sub(most).filter(|more| *more > 0) {
        out += &format!("  and {more} more\n");
    }
    out
}

/// Returns a word as a shell reads it back.
pub fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:%+@".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// Returns a number with commas: `1,234,567`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Returns a size in binary units: `512 B`, `1.5 KiB`, `93.2 MiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut size = count as f64;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{size:.1} {}", UNITS[unit]) }
}

/// Returns a time span: `0.4s`, `12s`, `3m05s`, `2h07m`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        _ if seconds < 9.95 => format!("{seconds:.1}s"),
        0..60 => format!("{whole}s"),
        60..3600 => format!("{}m{:02}s", whole / 60, whole % 60),
        _ => format!("{}h{:02}m", whole / 3600, whole % 3600 / 60),
    }
}

/// Returns the name beside `path` that is nearest to its own, if any: for files that are not there.
pub fn near_file(path: &Path) -> Option<String> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let entries = std::fs::read_dir(folder.unwrap_or(Path::new("."))).into_iter().flatten();
    let names: Vec<String> =
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    let wanted = path.file_name()?.to_string_lossy();
    did_you_mean(&wanted, names.iter().map(String::as_str)).map(str::to_owned)
}

/// Returns whether a character changes the order in which those around it are shown (CVE-2021-42574).
pub fn is_bidirectional(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{61c}')
}

/// Returns whether a character does something to a terminal, or ends a text for a program in C.
pub fn is_control(c: char) -> bool {
    c.is_control() && !matches!(c, '\t' | '\n' | '\r')
}

/// Returns the beginning of a text between quotation marks, as a terminal shows it in so many columns: what moves the cursor or
/// changes the direction is escaped.
pub fn excerpt(text: &str, columns: usize) -> String {
    let mut out = String::from("\"");
    let mut room = columns;
    for c in text.chars() {
        let shown = match c {
            '"' | '\\' | '\n' | '\r' | '\t' => c.escape_default().to_string(),
            c if is_control(c) || is_bidirectional(c) || matches!(c, '\u{2028}' | '\u{2029}') => {
                c.escape_unicode().to_string()
            }
            c => c.to_string(),
        };
        let width: usize = shown.chars().filter_map(UnicodeWidthChar::width).sum();
        if width > room {
            return out + "\"…";
        }
        room -= width;
        out += &shown;
    }
    out + "\""
}

/// Longer names are not compared: that would take time in proportion to both lengths.
const COMPARED_MAX: usize = 200;

/// Returns the candidate nearest to `name` within edit distance 2, if any; upper and lower case are near.
pub fn did_you_mean<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let is_short = |text: &str| text.len() <= COMPARED_MAX;
    candidates
        .into_iter()
        .filter(|candidate| is_short(name) && is_short(candidate))
        .map(|candidate| match name.eq_ignore_ascii_case(candidate) {
            true => (0, candidate),
            false => (strsim::damerau_levenshtein(name, candidate), candidate),
        })
        .filter(|(distance, candidate)| *distance <= 2 && *distance < candidate.chars().count())
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::excerpt;

    #[test]
    fn an_excerpt_fits_and_leaves_the_terminal_alone() {
        for (text, columns, shown) in [
            ("", 5, "\"\""),
            ("a \"b\"\\\n", 20, r#""a \"b\"\\\n""#),
            ("\u{1b}[2J\u{202e}x", 40, r#""\u{1b}[2J\u{202e}x""#),
            ("语言模型", 8, "\"语言模型\""),
            ("语言模型", 7, "\"语言模\"…"),
            ("e\u{301}e\u{301}!", 2, "\"e\u{301}e\u{301}\"…"),
        ] {
            assert_eq!(excerpt(text, columns), shown, "{text:?}");
        }
    }
}
