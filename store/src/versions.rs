//! Versions of the tables: by which migrations a database and this program differ, and what to run then.

use std::collections::BTreeMap;
use std::fmt;

/// The migrations by which the tables and this program differ.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Difference {
    /// The database is older.
    #[error("the database lacks {0} of this version; run `usage-ledger migrate`")]
    Older(Versions),
    /// The database is newer.
    #[error(
        "the database has {0}, which this program does not know; run the newer `usage-ledger` that made it"
    )]
    Newer(Versions),
    /// A migration was begun and did not end.
    #[error(
        "{0} was begun in this database and did not end; restore a backup from before it, or put its tables right by \
         hand and delete its row of public._sqlx_migrations, and run `usage-ledger migrate`"
    )]
    Unfinished(Versions),
    /// A migration of the same number is another one.
    #[error(
        "{0} of this database is not the one of this program: another build made it; run that build of `usage-ledger`"
    )]
    Other(Versions),
}

/// Numbers of migrations, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versions(Vec<i64>);

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.len() == 1 { "migration " } else { "migrations " })?;
        for (n, version) in self.0.iter().enumerate() {
            let separator = if n == 0 { "" } else { ", " };
            write!(f, "{separator}{version:04}")?;
        }
        Ok(())
    }
}

/// A migration that a database has had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Applied {
    pub(crate) version: i64,
    pub(crate) checksum: Vec<u8>,
    pub(crate) is_whole: bool,
}

/// The difference that has to be seen to first.
pub(crate) fn difference(applied: &[Applied], known: &[(i64, &[u8])]) -> Option<Difference> {
    let known: BTreeMap<i64, &[u8]> = known.iter().copied().collect();
    let versions = |differs: &dyn Fn(&Applied) -> bool| {
        let found: Vec<i64> =
            applied.iter().filter(|applied| differs(applied)).map(|applied| applied.version).collect();
        (!found.is_empty()).then_some(Versions(found))
    };
    let unfinished = versions(&|applied| !applied.is_whole);
    let newer = versions(&|applied| !known.contains_key(&applied.version));
    let other = versions(&|applied| known.get(&applied.version).is_some_and(|sum| *sum != applied.checksum));
    let missing: Vec<i64> = known
        .keys()
        .filter(|version| applied.iter().all(|applied| applied.version != **version))
        .copied()
        .collect();
    unfinished
        .map(Difference::Unfinished)
        .or(other.map(Difference::Other))
        .or(newer.map(Difference::Newer))
        .or((!missing.is_empty()).then_some(Difference::Older(Versions(missing))))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A database's migrations, and what is said of them.
    type Case<'a> = (&'a [(i64, &'a [u8], bool)], Option<&'a str>);

    /// This program's, in all cases.
    const KNOWN: [(i64, &[u8]); 3] = [(1, b"a"), (2, b"b"), (4, b"d")];

    #[test]
    fn every_difference_is_told_with_what_to_run() {
        let cases: [Case<'_>; 9] = [
            (&[(1, b"a", true), (2, b"b", true), (4, b"d", true)], None),
            (
                &[(1, b"a", true), (2, b"b", true)],
                Some("the database lacks migration 0004 of this version; run `usage-ledger migrate`"),
            ),
            (
                &[(1, b"a", true)],
                Some("the database lacks migrations 0002, 0004 of this version; run `usage-ledger migrate`"),
            ),
            (
                &[(1, b"a", true), (2, b"b", true), (4, b"d", true), (5, b"e", true), (6, b"f", true)],
                Some(
                    "the database has migrations 0005, 0006, which this program does not know; run the newer",
                ),
            ),
            // One that was made on another branch, numbered in between.
            (
                &[(1, b"a", true), (2, b"b", true), (3, b"c", true), (4, b"d", true)],
                Some("the database has migration 0003, which this program does not know; run the newer"),
            ),
            // Both newer and without one of ours: to migrate it would not help.
            (&[(1, b"a", true), (2, b"b", true), (5, b"e", true)], Some("the database has migration 0005")),
            (
                &[(1, b"a", true), (2, b"b", false)],
                Some(
                    "migration 0002 was begun in this database and did not end; restore a backup from before it",
                ),
            ),
            (
                &[(1, b"a", true), (2, b"x", true), (4, b"d", true)],
                Some("migration 0002 of this database is not the one of this program"),
            ),
            // What was begun matters more than what is another.
            (&[(1, b"x", true), (2, b"b", false)], Some("migration 0002 was begun")),
        ];
        for (applied, says) in cases {
            let applied: Vec<Applied> = applied
                .iter()
                .map(|&(version, checksum, is_whole)| Applied {
                    version,
                    checksum: checksum.to_vec(),
                    is_whole,
                })
                .collect();
            let found = difference(&applied, &KNOWN).map(|difference| difference.to_string());
            match (&found, says) {
                (None, None) => {}
                (Some(found), Some(says)) => assert!(found.starts_with(says), "{applied:?}: {found}"),
                _ => panic!("{applied:?}: {found:?} and not {says:?}"),
            }
        }
    }
}
