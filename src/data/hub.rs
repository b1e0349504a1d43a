//! `hf:OWNER/NAME@REVISION/PATH` addresses: files of repositories in the layout of the Hugging Face Hub, or whole repositories.

use std::fmt;

use glob::Pattern;
use serde::Deserialize;

/// A parsed `hf:` address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubAddress {
    /// `models`, `datasets` or `spaces`
    kind: &'static str,
    repository: String,
    revision: String,
    /// Empty for all files; with wildcards for some of them.
    path: String,
}

/// What a server says of a repository at a revision (`/api/models/OWNER/NAME/revision/REVISION?blobs=true`).
#[derive(Debug, Deserialize)]
pub struct Listing {
    /// The commit that the revision names.
    pub sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Debug, Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    lfs: Option<Lfs>,
}

#[derive(Debug, Deserialize)]
struct Lfs {
    sha256: Option<String>,
}

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// Its path in the repository.
    pub path: String,
    /// Its size in bytes, if the server says it.
    pub size: Option<u64>,
    /// Its SHA-256, if the server says it: of large files.
    pub sha256: Option<String>,
}

impl Listing {
    /// Returns the files that an address names, by their paths.
    ///
    /// # Errors
    /// What is wrong: a name that is no path inside a folder, a commit that is none, a pattern that is none.
    pub fn files(self, address: &HubAddress) -> Result<Vec<Listed>, String> {
        if self.sha.is_empty() || !self.sha.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(format!("`{}` is no commit", self.sha));
        }
        let pattern = match &*address.path {
            "" => Pattern::new("*"),
            path => Pattern::new(path),
        };
        let pattern = pattern.map_err(|error| format!("`{}`: {}", address.path, error.msg))?;
        let mut files = Vec::new();
        for file in self.siblings {
            if !is_path(&file.rfilename) {
                return Err(format!("`{}` is no path inside a folder", file.rfilename));
            }
            if pattern.matches(&file.rfilename) {
                let sha256 = file.lfs.and_then(|lfs| lfs.sha256);
                files.push(Listed { path: file.rfilename, size: file.size, sha256 });
            }
        }
        files.sort();
        files.dedup_by(|a, b| a.path == b.path);
        Ok(files)
    }
}

/// Returns whether a text is a path that stays inside a folder.
fn is_path(path: &str) -> bool {
    path.split('/').all(|part| !matches!(part, "" | "." | ".."))
        && !path.contains(['\\', '\0', '\n'])
}

impl HubAddress {
    /// Parses what follows `hf:`. Without a revision that is `main`; one with a `/` in it is written with `%2F`.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = ["datasets", "spaces", "models"]
            .into_iter()
            .find_map(|kind| Some((kind, text.strip_prefix(kind)?.strip_prefix('/')?)))
            .unwrap_or(("models", text));
        let (owner, rest) = rest.split_once('/')?;
        let (name, path) = match rest.split_once('/') {
            Some((name, path)) => (name, Some(path)),
            None => (rest, None),
        };
        let (name, revision) = name.split_once('@').unwrap_or((name, "main"));
        let is_word = |text: &str, more: &[u8]| {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || more.contains(&byte);
            !text.is_empty() && !text.starts_with('.') && text.bytes().all(fits)
        };
        (is_word(owner, b"._-")
            && is_word(name, b"._-")
            && is_word(revision, b"._-%")
            && path.is_none_or(is_path))
        .then(|| Self {
            kind,
            repository: format!("{owner}/{name}"),
            revision: revision.to_owned(),
            path: path.unwrap_or_default().to_owned(),
        })
    }

    /// Returns whether this is one file, not several of a repository.
    pub fn is_file(&self) -> bool {
        !self.path.is_empty() && !self.path.contains(['*', '?', '['])
    }

    /// Returns a file of the same repository at a commit.
    pub fn at(&self, commit: &str, path: &str) -> Self {
        Self { revision: commit.to_owned(), path: path.to_owned(), ..self.clone() }
    }

    /// Returns where a server in the Hub's layout says what is in the repository.
    pub fn listing_url(&self, endpoint: &str) -> String {
        let endpoint = endpoint.trim_end_matches('/');
        let (kind, repository, revision) = (self.kind, &self.repository, &self.revision);
        format!("{endpoint}/api/{kind}/{repository}/revision/{revision}?blobs=true")
    }

    /// Returns where a server in the Hub's layout has the file.
    pub fn url(&self, endpoint: &str) -> String {
        let kind = match self.kind {
            "models" => String::new(),
            kind => format!("{kind}/"),
        };
        let (endpoint, path) = (endpoint.trim_end_matches('/'), escaped(&self.path));
        format!("{endpoint}/{kind}{}/resolve/{}/{path}", self.repository, self.revision)
    }

    /// Returns the path in the repository.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns the commit, branch or tag.
    pub fn revision(&self) -> &str {
        &self.revision
    }
}

impl fmt::Display for HubAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.kind == "models" { "" } else { self.kind };
        let slash = if kind.is_empty() { "" } else { "/" };
        write!(f, "hf:{kind}{slash}{}@{}", self.repository, self.revision)?;
        if self.path.is_empty() { Ok(()) } else { write!(f, "/{}", self.path) }
    }
}

/// Returns a path with everything escaped that has a meaning in a URL, but for `/`.
fn escaped(path: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
    let one = |byte: u8| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    path.bytes().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let url = |text: &str| HubAddress::parse(text).map(|address| address.url("https://e/"));
        for (text, expected) in [
            ("a/b/config.json", "https://e/a/b/resolve/main/config.json"),
            ("a/b@v1.0/x/y z.bin", "https://e/a/b/resolve/v1.0/x/y%20z.bin"),
            ("datasets/a/b-c@refs%2Fpr%2F1/d", "https://e/datasets/a/b-c/resolve/refs%2Fpr%2F1/d"),
        ] {
            assert_eq!(url(text).as_deref(), Some(expected));
        }
        for bad in ["", "a", "a/b/", "a/b@/c", "a/b/../c", "a b/c/d", "a/b@x?y/c", "/a/b/c"] {
            assert_eq!(url(bad), None, "{bad}");
        }
        for (text, shown, is_file) in [
            ("a/b/c", "hf:a/b@main/c", true),
            ("a/b", "hf:a/b@main", false),
            ("datasets/a/b@v1", "hf:datasets/a/b@v1", false),
            ("a/b/x/*.bin", "hf:a/b@main/x/*.bin", false),
        ] {
            let address = HubAddress::parse(text).unwrap();
            assert_eq!((&*address.to_string(), address.is_file()), (shown, is_file));
        }
    }

    #[test]
    fn listings_name_the_files_that_match_and_no_others() {
        let files = |address: &str, names: &[&str]| {
            let siblings: Vec<_> =
                names.iter().map(|name| serde_json::json!({"rfilename": name})).collect();
            let listing = serde_json::json!({"sha": "abc1", "siblings": siblings});
            let listing: Listing = serde_json::from_value(listing).unwrap();
            let files = listing.files(&HubAddress::parse(address).unwrap())?;
            Ok::<_, String>(files.into_iter().map(|file| file.path).collect::<Vec<_>>())
        };
        let names = ["b.json", "a/c.json", "a/d.bin"];
        assert_eq!(files("o/n", &names).unwrap(), ["a/c.json", "a/d.bin", "b.json"]);
        assert_eq!(files("o/n/*.json", &names).unwrap(), ["a/c.json", "b.json"]);
        assert_eq!(files("o/n/a/*", &names).unwrap(), ["a/c.json", "a/d.bin"]);
        for bad in ["../x", "/x", "a//x", "a\\x", "", "a/./x"] {
            assert!(files("o/n", &[bad]).unwrap_err().contains("no path inside"), "{bad}");
        }
    }
}
