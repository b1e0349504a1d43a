//! Repositories of the Hugging Face Hub as folders: all files of one commit, or those that match, pinned together.
//!
//! The pin is the SHA-256 of what `sha256sum` prints for the files, sorted by path. A branch is followed once, to its commit, so
//! that all files are of one. Files that were fetched lie in the step's folder, and a run goes on with those that are missing.

use std::fs;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::base::text;
use crate::data::hub::{HubAddress, Listed};
use crate::stage::download::{Remote, Wanted, sha256};
use crate::stage::{Context, StageError};

/// Fetches the files of a repository into the output, a folder.
///
/// # Errors
/// When the Hub does not give them, names a file that would lie elsewhere, or they are others than the digest says.
pub(super) fn fetch(
    address: &HubAddress,
    digest: &str,
    context: &mut Context,
) -> Result<(), StageError> {
    let listing = Remote::listing(address, context)?;
    let commit = listing.sha.clone();
    let files = listing.files(address).map_err(|why| {
        StageError::input(format!("`{address}`: {why}")).help("name the files one by one")
    })?;
    if files.is_empty() {
        return Err(StageError::input(format!("`{address}` names no files"))
            .help("look at the repository's files; `*` stands for any part of a path"));
    }
    let size = files.iter().map(|file| file.size).sum::<Option<u64>>();
    let told = size.map_or_else(String::new, |size| format!(", {}", text::bytes(size)));
    context.log(format!("commit {commit}: {}{told}", text::plural(files.len(), "file")));
    let folder = context.state_dir().join("files").join(&commit);
    let mut done = 0;
    for file in &files {
        let path = folder.join(&file.path);
        if !path.exists() {
            make_room(&path)?;
            let remote = Remote::on_hub(&address.at(&commit, &file.path))?.among(done, size);
            remote.fetch(Wanted::ByHub(file.sha256.as_deref()), &path, context)?;
        }
        done += fs::metadata(&path).map_or(0, |meta| meta.len());
    }
    let found = pin(&folder, &files, context)?;
    if found != digest {
        return Err(StageError::input(format!(
            "`{address}`, commit {commit}: expected SHA-256 {digest} of the list of files, found {found}"
        ))
        .help("if you trust these files, put the digest found into the recipe, and the commit"));
    }
    let out = context.out("out");
    fs::rename(&folder, &out).map_err(|error| StageError::io("move", &folder, &error))
}

fn make_room(path: &Path) -> Result<(), StageError> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(|error| StageError::io("create", folder, &error))
}

/// Returns the SHA-256 of the list of the files with theirs.
fn pin(folder: &Path, files: &[Listed], context: &mut Context) -> Result<String, StageError> {
    let mut all = Sha256::new();
    for file in files {
        let digest = sha256(&folder.join(&file.path), context)?;
        all.update(format!("{digest}  {}\n", file.path));
    }
    Ok(all.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
