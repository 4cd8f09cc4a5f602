//! Counts of an import.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Write};

use ledger::{Month, UserRef};

use super::read::Numbered;

/// Counts of a whole file.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Calls that are new in the log.
    pub(crate) accepted: u64,
    /// Calls that were there before.
    pub(crate) duplicates: u64,
    /// Lines that gave no call.
    pub(crate) skipped: u64,
    users: HashSet<UserRef>,
    /// All calls of the file that the ledger has.
    calls: BTreeMap<(Month, Option<u64>), u64>,
}

impl Tally {
    /// Counts a call that the ledger has now.
    pub(crate) fn add(&mut self, numbered: &Numbered, is_new: bool) {
        *if is_new { &mut self.accepted } else { &mut self.duplicates } += 1;
        let call = &numbered.call;
        *self.calls.entry((Month::of(call.time), call.status_code)).or_default() += 1;
        if !self.users.contains(&call.user) {
            self.users.insert(call.user.clone());
        }
    }

    /// Tells whether nothing of the file was of use, though there was something: the wrong file, or the wrong format.
    pub(crate) fn is_failure(&self) -> bool {
        self.skipped > 0 && self.accepted + self.duplicates == 0
    }

    /// The counts, in one line.
    pub(crate) fn summary(&self) -> String {
        let Self { accepted, duplicates, skipped, users, .. } = self;
        format!("{accepted} accepted, {duplicates} duplicates, {skipped} skipped, {} users", users.len())
    }

    /// Writes the counts by month and status, one a line.
    pub(crate) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{:<10}{:<8}{:>10}", "month", "status", "calls")?;
        for ((month, status), calls) in &self.calls {
            let status = status.map_or_else(|| "-".to_owned(), |status| status.to_string());
            writeln!(out, "{:<10}{status:<8}{calls:>10}", month.to_string())?;
        }
        writeln!(out, "\n{:<18}{:>10}", "accepted", self.accepted)?;
        writeln!(out, "{:<18}{:>10}", "duplicates", self.duplicates)?;
        writeln!(out, "{:<18}{:>10}", "skipped", self.skipped)?;
        writeln!(out, "{:<18}{:>10}", "users", self.users.len())
    }
}
