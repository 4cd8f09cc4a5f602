//! Writing a batch's claims and rows ahead of its turn, beside the batch before it that is still being applied.
//!
//! What is written ahead needs nothing that the batch before may change:
//!
//! * *Claims and rows that are there already* are asked for by id. The two batches have no id in common ([`Marks`]),
//!   and whoever adds some out of the log's order has the checkpoint for itself, which [`checkpoint::share`] keeps from
//!   it.
//! * *The generations of claims* change with a turn alone, and none stands in either batch. That of the first claim is
//!   taken from the checkpoint, once it is locked.
//! * *Requests that are forgotten meanwhile* decide nothing. A request that is not new is left to the batch's turn.
//! * *Partitions* are there, or made.
//! * *Resets* ask which months are closed, and a segment's end is needed by what comes after it: batches with either
//!   are not written ahead.
//!
//! All else of a batch (erased users, summaries, limits, closings, late units, completions, hours, dead letters) is
//! done behind the checkpoint's lock, as if nothing had been ahead of it.
//!
//! Neither transaction waits for the other, for an id or a row: what both had is compared before. Only locks of a third
//! party could make the first wait for one that waits for the second, which the pipeline bounds.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use ledger::Month;
use sqlx::PgConnection;
use store::Schema;
use store::projection::claims::Generations;
use store::projection::partitions::{self, Partition};
use store::projection::usage_rows::RowKey;
use store::projection::{checkpoint, requests, usage_rows};
use uuid::Uuid;

use super::apply::{Applied, Step};
use super::claim::claim;
use super::prepare::{Exclude, Prepared, Segment};
use super::ready::Batch;

/// What a batch may go by that is written ahead of its turn.
#[derive(Debug, Clone)]
pub(super) struct Outlook {
    /// The generations of claims.
    pub(super) generations: Generations,
    /// Months that have a partition.
    pub(super) attached: BTreeSet<Month>,
}

/// What was written of a batch.
#[derive(Debug)]
pub(super) struct Staged {
    /// What is left of it, if some of it was there already.
    fewer: Option<Prepared>,
    /// Time of the generation's first claim, if no batch before has one.
    pub(super) since: Option<DateTime<Utc>>,
}

/// Everything of a batch that may be there once only, each kind sorted.
#[derive(Debug, Default)]
pub(super) struct Marks {
    claims: Vec<Uuid>,
    requests: Vec<Uuid>,
    rows: Vec<RowKey>,
    turns: bool,
}

impl Marks {
    pub(super) fn of(batch: &Batch) -> Self {
        let mut marks = Self::default();
        for Segment { prepared, .. } in &batch.segments {
            marks.claims.extend(prepared.claims.iter().map(|(id, _)| *id));
            marks.requests.extend(prepared.requests.iter().map(|claim| claim.request));
            marks.rows.extend(&prepared.row_keys);
            marks.turns |= prepared.turn.is_some();
        }
        if batch.segments.len() > 1 {
            marks.claims.sort_unstable();
            marks.requests.sort_unstable();
            marks.rows.sort_unstable();
        }
        marks
    }

    /// Whether a batch with these marks may be written ahead while the one with `others` is applied.
    pub(super) fn fit_behind(&self, others: &Self) -> bool {
        !others.turns
            && are_disjoint(&self.claims, &others.claims)
            && are_disjoint(&self.requests, &others.requests)
            && are_disjoint(&self.rows, &others.rows)
    }
}

/// Whether a batch is one that may be written ahead, if it fits behind the one before.
pub(super) fn may_be_ahead(batch: &Batch) -> bool {
    matches!(&batch.segments[..], [segment] if segment.prepared.resets.is_empty()
        && segment.prepared.close.is_none()
        && segment.prepared.turn.is_none())
}

fn are_disjoint<T: Ord>(one: &[T], other: &[T]) -> bool {
    let (mut one, mut other) = (one.iter().peekable(), other.iter().peekable());
    while let (Some(a), Some(b)) = (one.peek(), other.peek()) {
        match a.cmp(b) {
            Ordering::Less => one.next(),
            Ordering::Greater => other.next(),
            Ordering::Equal => return false,
        };
    }
    true
}

/// Makes the months' partitions, each in a transaction of its own; `false` if one is detached and takes no rows.
pub(super) async fn have_partitions(
    conn: &mut PgConnection,
    batch: &Batch,
    outlook: &Outlook,
) -> Result<bool, store::Error> {
    for month in batch.months.difference(&outlook.attached) {
        if partitions::ensure(conn, *month).await? == Partition::Detached {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Writes the claims and rows of a batch within the caller's transaction. `None` if it turns out that it has to wait
/// for its turn: a request is not new, a row is there, or the database refuses a value. The transaction is lost then.
pub(super) async fn stage(
    conn: &mut PgConnection,
    batch: &Batch,
    outlook: &Outlook,
) -> Result<Option<Staged>, store::Error> {
    let [segment] = &batch.segments[..] else { return Ok(None) };
    checkpoint::share(conn).await?;
    match write(conn, batch, segment, outlook).await {
        Ok(staged) => Ok(Some(staged)),
        Err(error) if error.is_refused() => Ok(None),
        Err(error) => Err(error),
    }
}

async fn write(
    conn: &mut PgConnection,
    batch: &Batch,
    segment: &Segment,
    outlook: &Outlook,
) -> Result<Staged, store::Error> {
    let (all, mut generations) = (&segment.prepared, outlook.generations);
    let mut exclude = Exclude::default();
    if !all.claims.is_empty() {
        exclude.claims = claim(conn, &mut generations, &batch.parsed, &all.claims).await?;
    }
    if !all.requests.is_empty() {
        requests::copy(conn, &all.requests).await?;
    }
    let is_less = !exclude.claims.is_empty();
    let fewer = is_less.then(|| Prepared::of(&batch.parsed, segment.items.clone(), &exclude));
    for (month, rows) in &fewer.as_ref().unwrap_or(all).rows {
        usage_rows::copy(conn, *month, rows).await?;
    }
    Ok(Staged { fewer, since: generations.since })
}

impl Staged {
    /// Does the rest, in the batch's turn.
    pub(super) async fn settle(
        &self,
        conn: &mut PgConnection,
        schema: Schema,
        batch: &Batch,
        generations: &mut Generations,
    ) -> Result<Applied, store::Error> {
        let [segment] = &batch.segments[..] else { return Ok(Applied::default()) };
        let new = self.fewer.as_ref().unwrap_or(&segment.prepared);
        Step::of(schema, &batch.parsed, segment).settle(conn, new, generations).await
    }
}
