//! `hf:OWNER/NAME@REVISION/PATH` addresses: files of repositories in the layout of the Hugging Face Hub.

use std::fmt;

/// A parsed `hf:` address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubAddress {
    /// `models`, `datasets` or `spaces`
    kind: &'static str,
    repository: String,
    revision: String,
    path: String,
}

impl HubAddress {
    /// Parses what follows `hf:`. Without a revision that is `main`; one with a `/` in it is written with `%2F`.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = ["datasets", "spaces", "models"]
            .into_iter()
            .find_map(|kind| Some((kind, text.strip_prefix(kind)?.strip_prefix('/')?)))
            .unwrap_or(("models", text));
        let (owner, rest) = rest.split_once('/')?;
        let (name, path) = rest.split_once('/')?;
        let (name, revision) = name.split_once('@').unwrap_or((name, "main"));
        let is_word = |text: &str, more: &[u8]| {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || more.contains(&byte);
            !text.is_empty() && !text.starts_with('.') && text.bytes().all(fits)
        };
        let is_path =
            path.split('/').all(|part| !matches!(part, "" | "." | "..")) && !path.contains('\0');
        (is_word(owner, b"._-") && is_word(name, b"._-") && is_word(revision, b"._-%") && is_path)
            .then(|| Self {
                kind,
                repository: format!("{owner}/{name}"),
                revision: revision.to_owned(),
                path: path.to_owned(),
            })
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
        write!(f, "hf:{kind}{slash}{}@{}/{}", self.repository, self.revision, self.path)
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
        for bad in ["", "a", "a/b", "a/b/", "a/b@/c", "a/b/../c", "a b/c/d", "a/b@x?y/c", "/a/b/c"]
        {
            assert_eq!(url(bad), None, "{bad}");
        }
        assert_eq!(HubAddress::parse("a/b/c").unwrap().to_string(), "hf:a/b@main/c");
    }
}
