//! The world outside: environment, clock, current directory, machine. Read here and nowhere else.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What a run may know of its surroundings; a parameter, so that tests can make their own.
#[derive(Clone, Debug)]
pub struct World {
    cwd: PathBuf,
    vars: Vec<(String, String)>,
    fixed_now: Option<SystemTime>,
    program: PathBuf,
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
            vars: std::env::vars_os()
                .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
                .collect(),
            fixed_now: None,
            program: std::env::current_exe()?,
            cpus: std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32),
            stdout_is_terminal: std::io::stdout().is_terminal(),
            stderr_is_terminal: std::io::stderr().is_terminal(),
        })
    }

    /// Returns a world with this directory, these variables and a fixed clock; one core, and no terminal.
    pub fn fixed(cwd: PathBuf, vars: Vec<(String, String)>, now: SystemTime) -> Self {
        Self {
            cwd,
            vars,
            fixed_now: Some(now),
            program: PathBuf::from("tlm"),
            cpus: 1,
            stdout_is_terminal: false,
            stderr_is_terminal: false,
        }
    }

    /// Returns the path of this program.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Returns the cores that this process may use.
    pub fn cpus(&self) -> u32 {
        self.cpus
    }

    /// Returns the machine's memory in bytes, where the system tells.
    pub fn memory(&self) -> Option<u64> {
        let text = std::fs::read_to_string("/proc/meminfo").ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib * 1024)
    }

    /// Returns the number of NVIDIA GPUs that this process may use.
    pub fn gpus(&self) -> u32 {
        let visible = self.vars.iter().find(|(name, _)| name == "CUDA_VISIBLE_DEVICES");
        if let Some((_, devices)) = visible {
            return devices.split(',').filter(|device| !device.trim().is_empty()).count() as u32;
        }
        let is_gpu = |name: &str| {
            name.strip_prefix("nvidia").is_some_and(|rest| rest.parse::<u32>().is_ok())
        };
        let devices = std::fs::read_dir("/dev").into_iter().flatten().flatten();
        devices.filter(|device| device.file_name().to_str().is_some_and(is_gpu)).count() as u32
    }

    /// Returns whether standard output is read by a person.
    pub fn stdout_is_terminal(&self) -> bool {
        self.stdout_is_terminal
    }

    /// Returns whether standard error is read by a person.
    pub fn stderr_is_terminal(&self) -> bool {
        self.stderr_is_terminal
    }

    /// Returns the current directory.
    pub fn cwd(&self) -> &Path {
        &self.cwd
    }

    /// Returns an environment variable; one that is set to nothing counts as unset.
    pub fn var(&self, name: &str) -> Option<&str> {
        self.vars.iter().find(|(key, value)| key == name && !value.is_empty()).map(|(_, v)| &**v)
    }

    /// Returns the time.
    #[expect(clippy::disallowed_methods, reason = "the one home of the clock")]
    pub fn now(&self) -> SystemTime {
        self.fixed_now.unwrap_or_else(SystemTime::now)
    }
}
