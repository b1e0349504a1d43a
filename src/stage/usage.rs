//! What an action takes of the machine, as `/proc` tells of this process.

use std::fs;

use crate::stage::action::{Action, Usage};

/// Ticks of processor time in a second: what Linux tells them in, whatever its own clock.
const TICKS_PER_SECOND: f64 = 100.0;
/// Where `/proc/self/stat` has the ticks of this process, and of its children that ended, counted behind the program's name.
const TIMES: std::ops::RangeInclusive<usize> = 11..=14;

/// Measures one action.
pub(super) struct Meter {
    ticks: Option<u64>,
    /// Whether the peak is that of this action.
    sees_peak: bool,
}

impl Meter {
    /// Begins. The memory of a command is not this process's own, so it is not told.
    pub(super) fn begin(action: &Action) -> Self {
        // Makes the memory in use now the peak so far.
        let reset = fs::write("/proc/self/clear_refs", "5");
        Self { ticks: ticks(), sees_peak: action.shell.is_none() && reset.is_ok() }
    }

    /// Returns what was taken since.
    pub(super) fn usage(&self) -> Usage {
        let seconds = |(now, then): (u64, u64)| now.saturating_sub(then) as f64 / TICKS_PER_SECOND;
        Usage {
            cpu_seconds: ticks().zip(self.ticks).map(seconds),
            peak_bytes: peak_bytes().filter(|_| self.sees_peak),
        }
    }
}

fn ticks() -> Option<u64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The program's name may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<_> = fields.split_whitespace().collect();
    fields.get(TIMES)?.iter().map(|field| field.parse::<u64>().ok()).sum()
}

fn peak_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
