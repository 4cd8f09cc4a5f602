//! Counting a part and holding it against the rows that were read from the tables.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use ledger::{Month, UserId};
use serde_json::Value;
use store::Position;
use store::operations::mend::Mend;
use store::operations::recount::{
    CallSums, KeptToken, LINK_COLUMNS, StoredCalls, StoredKeyUsage, StoredLink, StoredSummary, Sums,
};
use store::projection::periods::LateUnits;
use store::projection::summaries::key_usage::KeyMonth;

use super::differences::{Columns, Differences, Table};
use super::found::{Found, pack_link, place_of_link, unpack_link};
use super::packed::Packer;
use super::parts::Part;
use super::record::Record;
use super::scratch::{Cursor, Run, ScratchError};
use super::tally::{Taken, Tally, Wide};
use super::totals::{Cut, Totals};

/// What is to be mended.
#[derive(Debug, Default)]
pub(crate) struct Mends {
    pub(crate) summaries: Vec<Mend>,
    /// Units that are missing, sorted by key.
    pub(crate) late: Vec<LateUnits>,
    /// Units by API key that are missing or too many, sorted by key.
    pub(crate) keys: Vec<(KeyMonth, i64)>,
    /// The last frame of the log up to which these were counted.
    pub(crate) seq: u64,
}

/// Units of a month by the statement that lists them, as they should be and as they are; and one of the numbers of
/// closings under which they stand.
type Listed = HashMap<(UserId, Month, Option<Month>), ([[i64; 3]; 2], i32)>;

/// Counts parts, and says what of them differs.
#[derive(Debug)]
pub(super) struct Judge {
    pub(super) cuts: Vec<Cut>,
    pub(super) wide: Arc<Wide>,
    pub(super) memory_bytes: u64,
    pub(super) differences: Differences,
    /// Summaries of the last part that are to be mended, if that is wanted.
    pub(super) mends: Option<Mends>,
}

impl Judge {
    /// Counts a part and compares it; answers the completions whose calls are not known.
    pub(super) fn part(&mut self, mut part: Part) -> Result<Run, ScratchError> {
        let mut unmatched = Run::new(part.found.scratch());
        let mut totals = Totals::default();
        let shares = part.shares(self.memory_bytes)?;
        let mut links = Links::new(&part.links);
        let vault_seq = self.cuts.iter().find(|cut| matches!(cut, Cut::Vault { .. })).map(Cut::seq);
        for share in shares {
            let mut tally = Tally::new(Arc::clone(&self.wide), share.requests()?);
            let (mut cursor, mut cuts) = (Cursor::default(), self.cuts.iter().peekable());
            while let Some(packed) = cursor.next(&share.records)? {
                let record = Record::unpack(packed).ok_or_else(|| share.records.damaged())?;
                while let Some(cut) = cuts.next_if(|cut| cut.seq() < record.position.seq) {
                    tally.add_to(&mut totals, cut);
                }
                match tally.take(&record) {
                    Taken::Link(link) if Some(record.position.seq) <= vault_seq => {
                        links.expect(&link, &mut self.differences)?;
                    }
                    Taken::Link(_) | Taken::Whole => {}
                    Taken::Unmatched => unmatched.push(packed)?,
                }
            }
            for cut in cuts {
                tally.add_to(&mut totals, cut);
            }
        }
        links.finish(&mut self.differences)?;
        self.compare(&part.found, totals)?;
        Ok(unmatched)
    }

    fn compare(&mut self, rows: &Run, mut totals: Totals) -> Result<(), ScratchError> {
        let (mut cursor, mut listed) = (Cursor::default(), Listed::new());
        let wide = Arc::clone(&self.wide);
        let list = |listed: &mut Listed, side: usize, late: LateUnits| {
            let listed_in = wide.listed_in(late.of_month, late.closings);
            let (sides, closings) = listed.entry((late.user, late.of_month, listed_in)).or_default();
            for (units, more) in sides[side].iter_mut().zip(late.units) {
                *units += more;
            }
            *closings = late.closings;
        };
        for ((user, of_month, closings), units) in std::mem::take(&mut totals.late) {
            list(&mut listed, 0, LateUnits { user, of_month, closings, units, retried: [0; 3] });
        }
        while let Some(packed) = cursor.next(rows)? {
            match Found::unpack(packed).ok_or_else(|| rows.damaged())? {
                Found::Summary(stored) => {
                    let expected = totals.summaries.remove(&(stored.user, stored.month));
                    self.summary(stored.user, stored.month, expected, Some(&stored));
                }
                Found::Late(late) => list(&mut listed, 1, late),
                Found::Calls(month, StoredCalls { user, sums }) => {
                    let expected = totals.calls.remove(&(user, month));
                    self.calls(user, month, expected, Some(sums));
                }
                Found::KeyUsage(StoredKeyUsage { of, units }) => {
                    let expected = totals.keys.remove(&of).unwrap_or_default();
                    self.key_usage(of, expected, units);
                }
                Found::Token(KeptToken { user, token_type, id }) => {
                    let expected = totals.tokens.remove(&(user, token_type.clone()));
                    if expected != Some(id) {
                        self.token(user, &token_type, expected.map(id_column), Some(id_column(id)));
                    }
                }
            }
        }
        self.adjustments(listed);
        for ((user, month), sums) in totals.summaries {
            self.summary(user, month, Some(sums), None);
        }
        for (of, units) in totals.keys {
            self.key_usage(of, units, 0);
        }
        if let Some(mends) = &mut self.mends {
            mends.keys.sort_unstable_by_key(|(key, _)| *key);
        }
        for ((user, month), sums) in totals.calls {
            self.calls(user, month, Some(sums), None);
        }
        for ((user, token_type), id) in totals.tokens {
            self.token(user, &token_type, Some(id_column(id)), None);
        }
        Ok(())
    }

    fn summary(
        &mut self,
        user: UserId,
        month: Month,
        expected: Option<Sums>,
        stored: Option<&StoredSummary>,
    ) {
        let plan_limits = stored.map_or([None; 2], |stored| stored.plan_limits);
        let found = stored.map(|stored| stored.sums);
        if expected.is_some() && expected == found && stored.is_some_and(|s| s.limits == s.plan_limits) {
            return;
        }
        if let Some(mends) = &mut self.mends {
            mends.summaries.push(Mend { user, month, expected, found });
        }
        self.differences.add(
            Table::Summaries,
            format!("{user} {month}"),
            vec![("user_id", user.to_string().into()), ("month_year", month.to_string().into())],
            expected.map(|sums| summary_columns(&sums, plan_limits)),
            stored.map(|stored| summary_columns(&stored.sums, stored.limits)),
        );
    }

    fn key_usage(&mut self, of: KeyMonth, expected: i64, found: i64) {
        if expected == found {
            return;
        }
        if let Some(mends) = &mut self.mends {
            let summaries = self.cuts.iter().find(|cut| matches!(cut, Cut::Summaries { .. }));
            mends.seq = summaries.map(Cut::seq).unwrap_or_default();
            mends.keys.push((of, expected - found));
        }
        let (user, month, key) = of;
        let columns = |units: i64| (units != 0).then(|| vec![("units", units.into())]);
        self.differences.add(
            Table::KeyUsage,
            format!("{user} {month} {key}"),
            vec![
                ("user_id", user.to_string().into()),
                ("month_year", month.to_string().into()),
                ("key_id", key.to_string().into()),
            ],
            columns(expected),
            columns(found),
        );
    }

    /// How late units are divided between one listing and the next is nobody's concern.
    fn adjustments(&mut self, listed: Listed) {
        for ((user, of_month, listed_in), ([expected, found], closings)) in listed {
            if expected == found {
                continue;
            }
            let mut units = expected;
            for (units, is) in units.iter_mut().zip(found) {
                *units -= is;
            }
            if let Some(mends) = &mut self.mends {
                mends.late.push(LateUnits { user, of_month, closings, units, retried: [0; 3] });
            }
            let listed_in = listed_in.map(|month| month.to_string()).unwrap_or_default();
            let columns = |units: [i64; 3]| -> Option<Columns<'static>> {
                let names = ["analyze_units", "auth_units", "other_units"];
                (units != [0; 3]).then(|| names.into_iter().zip(units.map(Value::from)).collect())
            };
            self.differences.add(
                Table::Adjustments,
                format!("{user} {listed_in:7} {of_month}"),
                vec![
                    ("user_id", user.to_string().into()),
                    ("listed_in", listed_in.into()),
                    ("of_month", of_month.to_string().into()),
                ],
                columns(expected),
                columns(found),
            );
        }
        if let Some(mends) = &mut self.mends {
            mends.late.sort_unstable_by_key(|late| (late.user, late.of_month, late.closings));
        }
    }

    fn calls(&mut self, user: UserId, month: Month, expected: Option<CallSums>, found: Option<CallSums>) {
        if expected == found {
            return;
        }
        self.differences.add(
            Table::Calls,
            format!("{user} {month}"),
            vec![("user_id", user.to_string().into()), ("month_year", month.to_string().into())],
            expected.map(|sums| call_columns(&sums)),
            found.map(|sums| call_columns(&sums)),
        );
    }

    fn token(
        &mut self,
        user: UserId,
        token_type: &str,
        expected: Option<Columns<'_>>,
        found: Option<Columns<'_>>,
    ) {
        let key = vec![("user_id", user.to_string().into()), ("token_type", token_type.into())];
        self.differences.add(Table::Tokens, format!("{user} {token_type}"), key, expected, found);
    }
}

fn id_column(id: uuid::Uuid) -> Columns<'static> {
    vec![("id", id.to_string().into())]
}

fn summary_columns(sums: &Sums, limits: [Option<i64>; 2]) -> Columns<'static> {
    let (reset_seq, reset_idx) = sums.reset.columns();
    vec![
        ("total_calls", sums.units.iter().sum::<i64>().into()),
        ("analyze_calls", sums.units[0].into()),
        ("auth_calls", sums.units[1].into()),
        ("other_calls", sums.units[2].into()),
        ("total_response_time_ms", sums.total_response_time_ms.into()),
        ("timed_calls", sums.timed_calls.into()),
        ("monthly_api_limit", limits[0].into()),
        ("analyze_limit", limits[1].into()),
        ("last_updated", sums.last_updated.to_rfc3339().into()),
        ("reset_seq", reset_seq.into()),
        ("reset_idx", reset_idx.into()),
    ]
}

fn call_columns(sums: &CallSums) -> Columns<'static> {
    vec![
        ("calls", sums.calls.into()),
        ("counted_calls", sums.counted_calls.into()),
        ("analyze_units", sums.units[0].into()),
        ("auth_units", sums.units[1].into()),
        ("other_units", sums.units[2].into()),
        ("counted_units", sums.counted_units.into()),
        ("total_response_time_ms", sums.total_response_time_ms.into()),
        ("timed_calls", sums.timed_calls.into()),
        ("checksum", sums.checksum.into()),
    ]
}

/// The stored links of a part, which come in the same order as those of the log.
struct Links<'a> {
    stored: &'a Run,
    cursor: Cursor,
    /// The next stored one, packed.
    next: Option<Vec<u8>>,
    begun: bool,
    packer: Packer,
}

impl<'a> Links<'a> {
    fn new(stored: &'a Run) -> Self {
        Self { stored, cursor: Cursor::default(), next: None, begun: false, packer: Packer::default() }
    }

    fn advance(&mut self) -> Result<(), ScratchError> {
        self.begun = true;
        self.next = self.cursor.next(self.stored)?.map(<[u8]>::to_vec);
        Ok(())
    }

    /// The log's next link.
    fn expect(&mut self, link: &StoredLink, differences: &mut Differences) -> Result<(), ScratchError> {
        if !self.begun {
            self.advance()?;
        }
        while let Some(next) = &self.next {
            let place = place_of_link(next).ok_or_else(|| self.stored.damaged())?;
            match place.cmp(&(link.position, link.user)) {
                Ordering::Less => {
                    let extra = unpack_link(next).ok_or_else(|| self.stored.damaged())?;
                    note_link(differences, extra.position, extra.user, None, Some(&extra));
                    self.advance()?;
                }
                Ordering::Equal => {
                    if next.as_slice() != pack_link(link, &mut self.packer) {
                        let found = unpack_link(next).ok_or_else(|| self.stored.damaged())?;
                        note_link(differences, link.position, link.user, Some(link), Some(&found));
                    }
                    return self.advance();
                }
                Ordering::Greater => break,
            }
        }
        note_link(differences, link.position, link.user, Some(link), None);
        Ok(())
    }

    /// What is left is not in the log.
    fn finish(mut self, differences: &mut Differences) -> Result<(), ScratchError> {
        if !self.begun {
            self.advance()?;
        }
        while let Some(next) = &self.next {
            let extra = unpack_link(next).ok_or_else(|| self.stored.damaged())?;
            note_link(differences, extra.position, extra.user, None, Some(&extra));
            self.advance()?;
        }
        Ok(())
    }
}

fn note_link(
    differences: &mut Differences,
    position: Position,
    user: UserId,
    expected: Option<&StoredLink>,
    found: Option<&StoredLink>,
) {
    let (log_seq, log_idx) = position.columns();
    let key =
        vec![("user_id", user.to_string().into()), ("log_seq", log_seq.into()), ("log_idx", log_idx.into())];
    let columns = |link: &StoredLink| -> Columns<'static> {
        LINK_COLUMNS.into_iter().zip(link.columns.iter().cloned().map(Value::from)).collect()
    };
    let order = format!("{user} {log_seq:020} {log_idx:06}");
    differences.add(Table::Links, order, key, expected.map(columns), found.map(columns));
}
