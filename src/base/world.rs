//! The world outside: environment, clock, current directory, machine. Read here and nowhere else.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::base::processes::bytes_in;

/// What a run may know of its surroundings; a parameter, so that tests can make their own.
#[derive(Clone, Debug)]
pub struct World {
    cwd: PathBuf,
    vars: Vec<(OsString, OsString)>,
    program: PathBuf,
    args: Vec<OsString>,
    cpus: u32,
    stdout_is_terminal: bool,
    stderr_is_terminal: bool,
}

impl World {
    /// Returns the world of this process.
    ///
    /// # Errors
    /// When the current directory is gone.
    #[expect(clippy::disallowed_methods, reason = "the one home of the current directory")]
    pub fn of_process() -> std::io::Result<Self> {
        Ok(Self {
            cwd: std::env::current_dir()?,
            vars: std::env::vars_os().collect(),
            program: std::env::current_exe()?,
            args: std::env::args_os().skip(1).collect(),
            cpus: std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32),
            stdout_is_terminal: std::io::stdout().is_terminal(),
            stderr_is_terminal: std::io::stderr().is_terminal(),
        })
    }

    /// Returns the path of this program.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Returns what tells this process from others: `process 4711 on box: tlm run a.tlm`.
    pub fn process(&self) -> String {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let args: Vec<_> = self.args.iter().map(|arg| arg.to_string_lossy()).collect();
        format!("process {} on {}: tlm {}", std::process::id(), host.trim(), args.join(" "))
    }

    /// Returns the cores that this process may use.
    pub fn cpus(&self) -> u32 {
        self.cpus
    }

    /// Returns the machine's memory in bytes, where the system tells.
    pub fn memory(&self) -> Option<u64> {
        bytes_in("/proc/meminfo", "MemTotal:")
    }

    /// Returns the machine's name, where the system tells.
    pub fn host(&self) -> Option<String> {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
        Some(name.trim().to_owned()).filter(|name| !name.is_empty())
    }

    /// Returns the number of NVIDIA GPUs that this process may use.
    pub fn gpus(&self) -> u32 {
        let is_gpu = |name: &str| {
            name.strip_prefix("nvidia").is_some_and(|rest| rest.parse::<u32>().is_ok())
        };
        let devices = std::fs::read_dir("/dev").into_iter().flatten().flatten();
        let devices =
            devices.filter(|device| device.file_name().to_str().is_some_and(is_gpu)).count();
        match self.raw_var("CUDA_VISIBLE_DEVICES") {
            Some(ids) => visible(&ids.to_string_lossy(), devices as u32),
            None => devices as u32,
        }
    }

    /// Returns whether standard output is read by a person.
    pub fn stdout_is_terminal(&self) -> bool {
        self.stdout_is_terminal
    }

    /// Returns whether standard error is read by a person.
    pub fn stderr_is_terminal(&self) -> bool {
        self.stderr_is_terminal
    }

    /// Returns the same world for what nobody reads on a terminal.
    pub fn unseen(&self) -> Self {
        Self { stdout_is_terminal: false, stderr_is_terminal: false, ..self.clone() }
    }

    /// Returns the current directory.
    pub fn cwd(&self) -> &Path {
        &self.cwd
    }

    /// Returns an environment variable; one that is set to nothing, or to no text, counts as unset.
    pub fn var(&self, name: &str) -> Option<&str> {
        self.raw_var(name)?.to_str().filter(|value| !value.is_empty())
    }

    /// Returns the path in an environment variable, from the current directory on; none when it is unset or empty.
    pub fn path_var(&self, name: &str) -> Option<PathBuf> {
        self.raw_var(name).filter(|value| !value.is_empty()).map(|path| self.cwd.join(path))
    }

    fn raw_var(&self, name: &str) -> Option<&OsString> {
        self.vars.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// Returns the time.
    #[expect(clippy::disallowed_methods, reason = "the one home of the clock")]
    pub fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// Returns what to do about an error of the system, where that is the same whatever was tried.
pub fn remedy(error: &io::Error) -> Option<&'static str> {
    match error.raw_os_error()? {
        libc::ENOSPC | libc::EDQUOT => {
            Some("free some space, then run the same command again; finished work is kept")
        }
        libc::EMFILE | libc::ENFILE => {
            Some("allow more open files (`ulimit -n 4096`), then run the same command again")
        }
        _ => None,
    }
}

/// Returns how many GPUs a list of ids leaves of those there are. CUDA looks no further than the first id that names none.
fn visible(ids: &str, devices: u32) -> u32 {
    let is_one = |id: &&str| match id.trim() {
        id if id.starts_with("GPU-") || id.starts_with("MIG-") => true,
        id => id.parse::<u32>().is_ok_and(|id| id < devices),
    };
    ids.split(',').take_while(is_one).count() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuda_sees_the_ids_before_the_first_that_names_no_gpu() {
        for (ids, expected) in [
            ("", 0),
            ("-1", 0),
            ("0", 1),
            ("3, 1", 2),
            ("0,-1,1", 1),
            ("0,4,1", 1),
            ("none", 0),
            ("GPU-8932f937-d72c,MIG-GPU-1/2/0", 2),
        ] {
            assert_eq!(visible(ids, 4), expected, "{ids}");
        }
    }
}
