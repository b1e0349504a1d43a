//! What a command prints, on its way to the log: line by line at first, and of a flood only the end.

use std::io::{BufRead, BufReader, Read};

use crate::base::text;

/// Bytes that are passed on as they come.
const WHOLE: usize = 8 << 20;
/// Bytes of what came last that are passed on in the end.
const END: usize = 16 << 10;
/// A line of so many bytes is broken soon after.
const LINE: usize = 16 << 10;
/// Bytes that are read at once.
const CHUNK: usize = 64 << 10;

/// Passes lines on to `tell` until the source ends or nobody hears them.
pub(super) fn forward(from: impl Read, tell: &mut dyn FnMut(String) -> bool) {
    let mut from = BufReader::with_capacity(CHUNK, from);
    let (mut line, mut flood) = (Vec::new(), Flood::default());
    let mut room = WHOLE;
    while let Ok(chunk @ [_, ..]) = from.fill_buf() {
        let count = chunk.len();
        match room {
            0 => flood.take(chunk),
            _ if !lines(chunk, &mut line, tell) => return,
            _ => room = room.saturating_sub(count),
        }
        from.consume(count);
    }
    if !line.is_empty() && !tell(shown(&line)) {
        return;
    }
    flood.tell(tell);
}

/// Passes on the lines that end in a chunk; the rest waits in `line`. Returns whether somebody hears them.
fn lines(chunk: &[u8], line: &mut Vec<u8>, tell: &mut dyn FnMut(String) -> bool) -> bool {
    let parts = chunk.split_inclusive(|byte| *byte == b'\n');
    for part in parts.flat_map(|part| part.chunks(LINE)) {
        line.extend(part);
        if line.ends_with(b"\n") || line.len() >= LINE {
            if !tell(shown(line)) {
                return false;
            }
            line.clear();
        }
    }
    true
}

/// Returns a line as a terminal would show it in the end: a progress bar draws over itself.
fn shown(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end();
    text.rsplit('\r').next().unwrap_or_default().to_owned()
}

/// What came after there was room.
#[derive(Default)]
struct Flood {
    bytes: u64,
    end: Vec<u8>,
}

impl Flood {
    fn take(&mut self, chunk: &[u8]) {
        self.bytes += chunk.len() as u64;
        self.end.extend(chunk);
        let surplus = self.end.len().saturating_sub(END);
        self.end.drain(..surplus);
    }

    fn tell(&self, tell: &mut dyn FnMut(String) -> bool) {
        if self.bytes == 0 {
            return;
        }
        // The first line of the end may be cut.
        let end = match self.end.iter().position(|byte| *byte == b'\n') {
            Some(at) if self.bytes > END as u64 => &self.end[at + 1..],
            _ => &self.end[..],
        };
        let left_out = self.bytes - end.len() as u64;
        let mut lines = end.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        if left_out > 0 && !tell(format!("... {} left out ...", text::bytes(left_out))) {
            return;
        }
        lines.all(|line| tell(shown(line)));
    }
}

#[cfg(test)]
mod tests {
    use std::iter;

    use super::*;

    fn told(printed: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        forward(printed, &mut |line| {
            lines.push(line);
            true
        });
        lines
    }

    #[test]
    fn lines_are_as_a_terminal_shows_them() {
        assert_eq!(
            told(b"one\n\ntwo \r\n10%\r100%\nlast\xff"),
            ["one", "", "two", "100%", "last\u{fffd}"]
        );
        assert!(told(b"").is_empty());
    }

    #[test]
    fn a_line_without_end_is_broken() {
        let lines = told(&vec![b'x'; 3 * CHUNK]);
        assert_eq!(lines.concat().len(), 3 * CHUNK);
        assert!(lines.iter().all(|line| line.len() < 2 * LINE));
    }

    #[test]
    fn of_a_flood_the_end_is_told_and_how_much_is_missing() {
        let line = |at: usize| format!("line number {at:>11}\n");
        let count = 2 * WHOLE / line(0).len();
        let printed: String = (0..count).map(line).collect();
        let lines = told(printed.as_bytes());
        let gap = lines.iter().position(|line| line.starts_with("... ")).unwrap();
        assert!(lines[gap].ends_with(" MiB left out ..."), "{}", lines[gap]);
        let kept: usize = lines
            .iter()
            .enumerate()
            .filter(|(at, _)| *at != gap)
            .map(|(_, line)| line.len() + 1)
            .sum();
        assert!((WHOLE..WHOLE + CHUNK + END).contains(&kept), "{kept}");
        let last: Vec<_> = (0..count).rev().map(line).zip(lines.iter().rev()).take(500).collect();
        assert!(last.iter().all(|(wanted, told)| wanted.trim_end() == *told));
        assert!(
            iter::zip(lines, (0..count).map(line))
                .take(gap - 1)
                .all(|(told, wanted)| told == wanted.trim_end())
        );
    }

    #[test]
    fn nothing_is_read_for_nobody() {
        let mut told = 0;
        forward(&b"a\nb\nc\n"[..], &mut |_| {
            told += 1;
            told < 2
        });
        assert_eq!(told, 2);
    }
}
