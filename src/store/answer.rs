//! What runs told that found nothing to do, remembered: while all that they looked at is as it was, the next one tells the
//! same without planning.
//!
//! An answer is a [`sealed`] file in `answers`, named by its question. It holds how far the log went ([`Point`]), the
//! [`Folders`] of objects, and as JSON the files that were read with their digests, the run, and what was told.

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::base::Digest;
use crate::store::log::Point;
use crate::store::presence::Folders;
use crate::store::sources::Sources;
use crate::store::{FORMAT, RunMark, Store, atomic, format_of, index, sealed};

const NAME: [u8; 8] = *b"tlm told";

/// What a run told, and what beside the store it depends on.
#[derive(Debug, Serialize, Deserialize)]
pub struct Answer<T> {
    /// The user's files and folders that were read.
    pub files: Vec<(PathBuf, Digest)>,
    /// All else.
    pub told: T,
}

#[derive(Serialize, Deserialize)]
struct Remembered<'n, A> {
    run: Cow<'n, str>,
    answer: A,
}

impl Store {
    /// Returns the answer to a question, of any kind that is named by a digest, if neither the store nor the files changed
    /// since; `is_same` tells whether all else is as it was. The run that gave it counts as having begun again.
    pub fn recall<T: for<'de> Deserialize<'de>>(
        root: &Path,
        question: Digest,
        now: SystemTime,
        is_same: impl FnOnce(&Answer<T>) -> bool,
    ) -> Option<T> {
        let path = path(root, question);
        let file = fs::read(&path).ok()?;
        let (point, rest) = sealed::open(NAME, &file)?.split_first_chunk()?;
        let (folders, rest) = rest.split_first_chunk()?;
        let Remembered::<'_, Answer<T>> { run, answer } = serde_json::from_slice(rest).ok()?;
        // Nothing is collected from here on.
        let _mark = Self::begin_run_again(root, &run, now)?;
        let folders = Folders::look(root).are_as_in(&fs::metadata(&path).ok()?, folders);
        let is_as_it_was = format_of(root).is_ok_and(|found| found == FORMAT.to_string())
            && Point::decode(point).is_end_of(&index::path(root))
            && folders.iter().all(|same| *same);
        if !is_as_it_was {
            return None;
        }
        let sources = Sources::open(root.join("sources"));
        let is_read = |(path, digest): &(PathBuf, Digest)| {
            sources.digest(path).is_ok_and(|found| found == *digest)
        };
        let is_same = answer.files.iter().all(is_read) && is_same(&answer);
        // Forgetting them costs time, nothing else.
        let _ = sources.keep();
        is_same.then_some(answer.told)
    }

    /// Remembers the answer to a question that the store gave as it was opened. It may be lost.
    pub fn remember<T: Serialize>(&self, question: Digest, answer: &Answer<T>, run: &RunMark) {
        // A store that keeps no note of runs keeps no answers either.
        let Some(run) = run.name.as_deref() else { return };
        let remembered = Remembered { run: run.into(), answer };
        // A path that is not UTF-8 has no JSON: then there is no answer.
        let Ok(json) = serde_json::to_vec(&remembered) else { return };
        let Some((point, folders)) = self.index().seen() else { return };
        let content = [&point.encode()[..], &folders, &json].concat();
        let path = path(&self.root, question);
        let _ = atomic::write_derived(&path, &sealed::seal(NAME, &content));
    }
}

fn path(root: &Path, question: Digest) -> PathBuf {
    root.join("answers").join(question.to_string())
}
