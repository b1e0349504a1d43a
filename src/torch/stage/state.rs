//! What all resume states share: whose they are, a seal against damage, and atomic replacement.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tlm::base::Digest;
use tlm::stage::{Context, StageError};

/// What a state came from. It fits no other inputs, and its bits depend on threads and sequences at once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Origin {
    /// The action's seed: a function of its content key.
    seed: u64,
    threads: u32,
    /// Sequences at once; a resumed run keeps them.
    pub(crate) micro_batch: u64,
}

impl Origin {
    /// Returns the origin of a state that starts now.
    pub(crate) fn new(context: &Context, micro_batch: u64) -> Self {
        Self { seed: context.seed(), threads: context.action().threads, micro_batch }
    }

    /// Fails with the reason if a state of this origin doesn't fit the action.
    pub(crate) fn check(&self, context: &Context) -> Result<(), String> {
        match self.seed == context.seed() {
            true => Ok(()),
            false => Err("it is of other inputs".to_owned()),
        }
    }

    /// Notes that the state goes on under this action, and tells what may change its bits.
    pub(crate) fn go_on(&mut self, context: &mut Context) {
        let threads = context.action().threads;
        if threads != self.threads {
            context.log(format!(
                "began with {} threads and goes on with {threads}: the last bits may differ",
                self.threads
            ));
            self.threads = threads;
        }
    }
}

/// Tells that a state was there but can't be used, and why.
pub(crate) fn tell_unusable(context: &mut Context, why: &str) {
    context.log(format!("starts from the beginning: can't use the saved state, {why}"));
}

/// Returns a value as text that shows when it was damaged.
pub(crate) fn seal<T: Serialize>(value: &T) -> String {
    let text = serde_json::to_string(value).expect("plain data");
    format!("{} {text}", Digest::of(text.as_bytes()))
}

/// Returns a sealed value; fails with the reason.
pub(crate) fn unseal<T: DeserializeOwned>(sealed: &str) -> Result<T, String> {
    let whole = sealed.split_once(' ').filter(|(digest, text)| {
        digest.parse::<Digest>().is_ok_and(|digest| digest == Digest::of(text.as_bytes()))
    });
    let (_, text) = whole.ok_or("it is damaged")?;
    serde_json::from_str(text).map_err(|error| format!("it has another form: {error}"))
}

/// Writes `name` into a state folder, so that a crash leaves the old file or the new one.
pub(crate) fn write(folder: &Path, name: &str, parts: &[&[u8]]) -> Result<(), StageError> {
    let fresh = folder.join(format!("{name}.new"));
    File::create(&fresh)
        .and_then(|mut file| {
            parts.iter().try_for_each(|part| file.write_all(part))?;
            file.sync_all()
        })
        .map_err(|e| StageError::io("write", &fresh, &e))?;
    replace(folder, &fresh, &folder.join(name))
}

/// Puts a file that is on disk in the place of another one of its folder, so that a crash leaves one of them.
pub(crate) fn replace(folder: &Path, fresh: &Path, path: &Path) -> Result<(), StageError> {
    fs::rename(fresh, path).map_err(|e| StageError::io("rename", path, &e))?;
    // The rename itself has to reach the disk.
    let sync = File::open(folder).and_then(|folder| folder.sync_all());
    sync.map_err(|e| StageError::io("sync", folder, &e))
}
