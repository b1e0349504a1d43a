//! Texts that are kept once, however many values name them.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::ptr;
use std::sync::{LazyLock, Mutex};

use crate::base::FastSet;

/// A text that is kept for the life of the process: small, copied and compared without looking at it. Ordered as its text.
#[derive(Clone, Copy)]
pub struct Atom(&'static String);

static KNOWN: LazyLock<Mutex<FastSet<Atom>>> = LazyLock::new(Mutex::default);

impl From<&str> for Atom {
    fn from(text: &str) -> Self {
        let mut known = KNOWN.lock().expect("no holder of the atoms panics");
        if let Some(atom) = known.get(text) {
            return *atom;
        }
        let new = Self(Box::leak(Box::new(text.to_owned())));
        known.insert(new);
        new
    }
}

impl From<&String> for Atom {
    fn from(text: &String) -> Self {
        text.as_str().into()
    }
}

impl From<String> for Atom {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl Borrow<str> for Atom {
    fn borrow(&self) -> &str {
        self.0
    }
}

impl Deref for Atom {
    type Target = str;

    fn deref(&self) -> &str {
        self.0
    }
}

impl PartialEq for Atom {
    fn eq(&self, other: &Self) -> bool {
        ptr::eq(self.0, other.0)
    }
}

impl Eq for Atom {}

impl PartialEq<str> for Atom {
    fn eq(&self, other: &str) -> bool {
        self.0 == other
    }
}

impl PartialOrd for Atom {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Atom {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(other.0)
    }
}

impl Hash for Atom {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl fmt::Display for Atom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl fmt::Debug for Atom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.0, f)
    }
}
