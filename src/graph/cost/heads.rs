//! Attention heads in groups that share a key and value head, and how many of each can be cut out of a larger model.

/// The heads of a model to cut from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub queries: i64,
    /// Key and value heads, from one up.
    pub keys: i64,
}

impl Heads {
    /// Returns whether so many query heads can be cut out with so many key and value heads.
    pub fn fit(self, queries: i64, keys: i64) -> bool {
        queries % keys == 0 && queries / keys <= self.queries / self.keys
    }

    /// Returns the number of query heads next to `wanted` that has key and value heads to go with it: those given, or any. Of two
    /// that are as near it is the larger one.
    pub fn default_queries(self, wanted: i64, keys: Option<i64>) -> i64 {
        let given = keys.filter(|keys| (1..=self.keys).contains(keys));
        let usable = |queries: &i64| match given {
            Some(keys) => self.fit(*queries, keys),
            None => (1..=self.keys).any(|keys| self.fit(*queries, keys)),
        };
        (1..=self.queries)
            .rev()
            .filter(usable)
            .min_by_key(|queries| (queries - wanted).abs())
            .unwrap_or(wanted)
    }

    /// Returns the largest number of key and value heads that so many query heads can share.
    pub fn default_keys(self, queries: i64) -> i64 {
        (1..=self.keys).rev().find(|keys| self.fit(queries, *keys)).unwrap_or(self.keys)
    }
}
