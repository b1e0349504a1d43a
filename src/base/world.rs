//! The world outside: environment, clock, current directory. Read here and nowhere else.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What a run may know of its surroundings; a parameter, so that tests can make their own.
#[derive(Clone, Debug)]
pub struct World {
    cwd: PathBuf,
    vars: Vec<(String, String)>,
    fixed_now: Option<SystemTime>,
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
        })
    }

    /// Returns a world with this directory, these variables and a fixed clock.
    pub fn fixed(cwd: PathBuf, vars: Vec<(String, String)>, now: SystemTime) -> Self {
        Self { cwd, vars, fixed_now: Some(now) }
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
