//! The processes of this machine, as `/proc` tells of them.

use std::collections::BTreeMap;
use std::fs;

/// Ticks of processor time in a second: what Linux tells them in, whatever its own clock.
const TICKS_PER_SECOND: f64 = 100.0;

/// Returns the processes that descend from one: its children, theirs, and so on.
pub fn descendants(of: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for id in all() {
        if let Some(parent) = field(id, PARENT) {
            children.entry(parent as u32).or_default().push(id);
        }
    }
    let mut found = children.remove(&of).unwrap_or_default();
    let mut next = 0;
    while let Some(id) = found.get(next) {
        found.extend(children.remove(id).unwrap_or_default());
        next += 1;
    }
    found
}

/// Returns the seconds of processor time that a process took so far, and those of its children that have ended.
pub fn cpu_seconds(id: u32) -> Option<f64> {
    let fields = fields(id)?;
    let ticks: u64 = fields.get(TIMES)?.iter().sum();
    Some(ticks as f64 / TICKS_PER_SECOND)
}

/// Makes the memory that this process has in use now the most that [`peak_bytes`] knows of; returns whether it could.
pub fn forget_peak() -> bool {
    fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// Returns the most memory that this process had in use.
pub fn peak_bytes() -> Option<u64> {
    bytes_in("/proc/self/status", "VmHWM:")
}

/// Returns the bytes in the line of a file of the kernel's that begins so and counts in `kB`.
pub(super) fn bytes_in(file: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Fields of `/proc/ID/stat`, counted from the state, which follows the program's name.
const PARENT: usize = 1;
const TIMES: std::ops::RangeInclusive<usize> = 11..=14;

fn all() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn field(id: u32, at: usize) -> Option<u64> {
    fields(id)?.get(at).copied()
}

/// Returns the numbers of a process; what is no number, or below zero, counts as zero. None when the process is gone.
fn fields(id: u32) -> Option<Vec<u64>> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name may hold anything, spaces and parentheses too.
    let (_, rest) = stat.rsplit_once(')')?;
    Some(rest.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect())
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn shell(script: &str) -> Child {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.spawn().unwrap()
    }

    #[test]
    fn children_of_children_are_found_and_ended_ones_are_not() {
        let mut child = shell("sleep 1000 & echo ready; wait; echo");
        let mut ready = [0];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
        let found = descendants(std::process::id());
        assert!(found.contains(&child.id()), "{found:?}");
        let [grandchild] = descendants(child.id())[..] else { panic!("not one") };
        assert!(found.contains(&grandchild), "{found:?}");
        Command::new("kill").arg(grandchild.to_string()).status().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(descendants(child.id()).is_empty());
        assert_eq!(cpu_seconds(child.id()), None);
    }

    #[test]
    fn processor_time_counts_a_process_and_its_ended_children() {
        let mut child =
            shell("sh -c 'i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done'; echo; read -r _");
        let mut done = [0];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut done).unwrap();
        assert!(cpu_seconds(child.id()).unwrap() > 0.0);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
