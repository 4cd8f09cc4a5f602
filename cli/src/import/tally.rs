//! Counts of an import, and what it has to tell at its end.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};

use ledger::{Month, UserRef};

use super::call::{Call, Excerpt, Note, Skipped};
use super::read::{Batch, Numbered};
use crate::output::printable;

/// Kinds of skipped lines that are told apart; all further ones are one.
const MAX_KINDS: usize = 50;
/// Lines whose reading is shown.
const SHOWN_LINES: usize = 5;
/// Users who are shown.
const SHOWN_USERS: usize = 10;
/// Skipped lines of one kind that are told one by one.
pub(crate) const TOLD_LINES: u64 = 10;

/// Counts of a whole file.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Calls that are new in the log.
    pub(crate) accepted: u64,
    /// Calls that were there before.
    pub(crate) duplicates: u64,
    /// Lines that gave no call.
    pub(crate) skipped: u64,
    /// The last line, when it has no line end and was not taken.
    pub(crate) unended: Option<u64>,
    users: HashMap<UserRef, u64>,
    /// All calls of the file that the ledger has.
    calls: BTreeMap<(Month, Option<u64>), u64>,
    /// Skipped lines by what is wrong with them.
    kinds: BTreeMap<String, Kind>,
    /// Fields that are not recorded as they stood: how often, and the first line.
    notes: BTreeMap<Note, (u64, u64)>,
    /// The reading of the first lines.
    first: Vec<(u64, String)>,
}

/// Skipped lines of one kind.
#[derive(Debug)]
struct Kind {
    lines: u64,
    first_line: u64,
    first: Excerpt,
}

impl Tally {
    /// Counts a call that the ledger has now.
    pub(crate) fn add(&mut self, numbered: &Numbered, is_new: bool) {
        *if is_new { &mut self.accepted } else { &mut self.duplicates } += 1;
        let call = &numbered.call;
        *self.calls.entry((Month::of(call.time), call.status_code)).or_default() += 1;
        match self.users.get_mut(&call.user) {
            Some(calls) => *calls += 1,
            None => drop(self.users.insert(call.user.clone(), 1)),
        }
        for note in &numbered.notes {
            self.notes.entry(*note).or_insert((0, numbered.line)).0 += 1;
        }
    }

    /// Counts a line that gives no call; answers how many of its kind there were.
    pub(crate) fn skip(&mut self, skipped: &Skipped) -> u64 {
        self.skipped += 1;
        let mut kind = skipped.error.kind();
        if self.kinds.len() >= MAX_KINDS && !self.kinds.contains_key(&kind) {
            "other faults".clone_into(&mut kind);
        }
        let kind = self.kinds.entry(kind).or_insert_with(|| Kind {
            lines: 0,
            first_line: skipped.line,
            first: skipped.excerpt.clone(),
        });
        kind.lines += 1;
        kind.lines
    }

    /// Keeps the reading of the file's first lines, which batches bring in order.
    pub(crate) fn look_at(&mut self, batch: &Batch) {
        let missing = SHOWN_LINES - self.first.len();
        let calls = batch.calls.iter().map(|read| (read.line, reading(&read.call))).take(missing);
        let skipped =
            batch.skipped.iter().map(|skipped| (skipped.line, skipped.error.to_string())).take(missing);
        let mut lines: Vec<(u64, String)> = calls.chain(skipped).collect();
        lines.sort_by_key(|(line, _)| *line);
        lines.truncate(missing);
        self.first.extend(lines);
    }

    /// Tells whether nothing of the file was of use, though there was something: the wrong file, or the wrong format.
    pub(crate) fn is_failure(&self) -> bool {
        self.skipped > 0 && self.calls() == 0
    }

    /// Tells whether so many lines give no call that something is probably wrong: more than 5 %.
    pub(crate) fn has_too_many_skipped(&self) -> bool {
        const MOST_PERCENT: u128 = 5;
        let lines = u128::from(self.skipped) + u128::from(self.calls());
        u128::from(self.skipped) * 100 > lines * MOST_PERCENT
    }

    /// Calls of the file that the ledger has, or would have.
    pub(crate) fn calls(&self) -> u64 {
        self.accepted + self.duplicates
    }

    /// The counts, in one line.
    pub(crate) fn summary(&self) -> String {
        let Self { accepted, duplicates, skipped, users, .. } = self;
        format!("{accepted} accepted, {duplicates} duplicates, {skipped} skipped, {} users", users.len())
    }

    /// Writes the counts by month and status, one a line, and what was skipped and noted.
    pub(crate) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{:<10}{:<8}{:>10}", "month", "status", "calls")?;
        for ((month, status), calls) in &self.calls {
            let status = status.map_or_else(|| "-".to_owned(), |status| status.to_string());
            writeln!(out, "{:<10}{status:<8}{calls:>10}", month.to_string())?;
        }
        writeln!(out, "\n{:<18}{:>10}", "accepted", self.accepted)?;
        writeln!(out, "{:<18}{:>10}", "duplicates", self.duplicates)?;
        writeln!(out, "{:<18}{:>10}", "skipped", self.skipped)?;
        writeln!(out, "{:<18}{:>10}", "users", self.users.len())?;
        self.write_skipped(out)?;
        if !self.notes.is_empty() {
            writeln!(out, "\nfields that are not recorded as they stand")?;
        }
        for (note, (lines, first_line)) in &self.notes {
            writeln!(out, "{lines:>10}  {note}; first in line {first_line}")?;
        }
        Ok(())
    }

    /// Writes what was skipped, by kind, with the first line of each.
    pub(crate) fn write_skipped(&self, out: &mut impl Write) -> io::Result<()> {
        if self.skipped > 0 {
            writeln!(out, "\nlines that give no call")?;
        }
        for (kind, Kind { lines, first_line, first }) in &self.kinds {
            writeln!(out, "{lines:>10}  {}; first line {first_line}: {}", printable(kind), first.quoted())?;
        }
        Ok(())
    }

    /// Writes how the first lines were read, and the users with the most calls.
    pub(crate) fn write_reading(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "first lines")?;
        for (line, reading) in &self.first {
            writeln!(out, "  line {line}: {}", printable(reading))?;
        }
        writeln!(out, "\nbiggest users")?;
        let name = |user: &UserRef| match user {
            UserRef::Id(id) => id.to_string(),
            UserRef::External(external) => external.as_str().to_owned(),
        };
        let mut users: Vec<(u64, String)> =
            self.users.iter().map(|(user, calls)| (*calls, name(user))).collect();
        users.sort_by(|(calls, name), (others, other)| others.cmp(calls).then_with(|| name.cmp(other)));
        for (calls, name) in users.iter().take(SHOWN_USERS) {
            writeln!(out, "{calls:>10}  {}", printable(name))?;
        }
        writeln!(out)
    }
}

/// A call as it was understood, for people.
fn reading(call: &Call) -> String {
    let name = match &call.user {
        UserRef::Id(id) => id.to_string(),
        UserRef::External(external) => external.as_str().to_owned(),
    };
    let mut text = format!("user {name}, {}", call.time.to_rfc3339());
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            text.push_str(", ");
            text.push_str(name);
            text.push_str(&value);
        }
    };
    let method = call.method.as_deref().unwrap_or("-");
    add("", Some(format!("{method} {}", shortened(&call.endpoint))));
    add("status ", call.status_code.map(|code| code.to_string()));
    add("", call.response_time_ms.map(|millis| format!("{millis} ms")));
    add("address ", call.ip_address.map(|address| address.to_string()));
    add("agent ", call.user_agent.as_deref().map(shortened));
    add("bytes in ", call.request_size.map(|bytes| bytes.to_string()));
    add("bytes out ", call.response_size.map(|bytes| bytes.to_string()));
    add("units ", call.units.map(|units| units.to_string()));
    text
}

fn shortened(text: &str) -> String {
    const MAX_BYTES: usize = 80;
    let cut = ledger::text::cut(text, MAX_BYTES);
    if cut.len() == text.len() { text.to_owned() } else { format!("{cut}…") }
}

#[cfg(test)]
mod tests;
