//! One count: the log is read onto the disk, then the tables, then the log's last frames, and then both are compared
//! part by part.
//!
//! A table is read in a snapshot of its own, which ends with it, and counted as far as the log was projected in it.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::DateTime;
use ledger::UserId;
use nats::Continuity;
use sqlx::{Connection, PgConnection};
use store::Schema;
use store::operations::{compare, recount};
use store::projection::checkpoint::{self, PARTITION};
use store::projection::completions::{self, Completion};
use store::projection::partitions;
use uuid::Uuid;

use crate::batch::BatchError;
use crate::job::{Compared, MAX_NAMED_ROWS, Progress, Rebuild};
use crate::log::{accepted_gaps, each_frame, sound_checkpoint};

use super::differences::{Differences, Table};
use super::error::CountError;
use super::found::Found;
use super::judge::{Judge, Mends};
use super::parts::{Divided, Part, Parts};
use super::reading::Reading;
use super::record::{Record, What};
use super::scratch::{Cursor, Run, Scratch, ScratchError};
use super::totals::Cut;

/// Completions that are looked up at a time.
const LOOKED_UP: usize = 1_000;

/// A count that is under way.
pub(crate) struct Count<'a> {
    rebuild: &'a Rebuild<'a>,
    only: Option<UserId>,
    conn: PgConnection,
    reading: Reading,
    continuity: Continuity,
    cuts: Vec<Cut>,
    tables: Vec<Table>,
    /// Tables that are held against each other: compacted hours against calls, the security log against the chains.
    among_tables: Compared,
}

/// Tables that a count is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The summaries alone.
    Summaries,
    /// All that is counted.
    Everything,
}

impl<'a> Count<'a> {
    /// Reads the log as far as it is projected; of one user if `only` is given.
    pub(crate) async fn start(
        rebuild: &'a Rebuild<'a>,
        only: Option<UserId>,
        scope: Scope,
    ) -> Result<Self, CountError> {
        (rebuild.progress)(Progress::Step("counting"));
        let mut conn = store::connect(rebuild.database_url, Schema::Live).await?;
        let mut snapshot = conn.begin_with(SNAPSHOT).await?;
        let seq = sound_checkpoint::<CountError>(&mut snapshot, rebuild.log).await?;
        let events = checkpoint::read(&mut snapshot, PARTITION).await?.events;
        let accepted = accepted_gaps(&mut snapshot, rebuild.log).await?;
        let dir = rebuild.room.dir.map_or_else(std::env::temp_dir, std::path::Path::to_owned);
        let scratch = Scratch::new(&dir)?;
        let parts = match only {
            Some(_) => Parts::of_one(&scratch),
            None => Parts::of_all(&scratch, events, rebuild.room.memory_bytes),
        };
        let mut reading = Reading::new(&scratch, parts, only, scope == Scope::Everything);
        reading.dead.read(&mut snapshot, seq).await?;
        snapshot.rollback().await?;
        let continuity = Continuity::new(rebuild.log.stream().clone(), 0, HashMap::new(), accepted);
        let count = Self {
            rebuild,
            only,
            conn,
            reading,
            continuity,
            cuts: Vec::new(),
            tables: Vec::new(),
            among_tables: Compared::default(),
        };
        let mut count = count.read_log(seq).await?;
        count.read_summaries().await?;
        if scope == Scope::Everything {
            count.read_calls().await?;
            count.read_vault().await?;
        }
        Ok(count)
    }

    async fn read_log(self, to_seq: u64) -> Result<Self, CountError> {
        let Self { rebuild, only, conn, reading, continuity, cuts, tables, among_tables } = self;
        let tell = rebuild.progress_to(to_seq);
        let (mut reading, continuity) =
            each_frame(rebuild.log, continuity, to_seq, reading, Reading::frame, &tell).await?;
        if let Some(error) = reading.failure.take() {
            return Err(error.into());
        }
        if let Some(seq) = reading.earlier_build {
            return Err(BatchError::EarlierBuild { seq }.into());
        }
        Ok(Self { rebuild, only, conn, reading, continuity, cuts, tables, among_tables })
    }

    async fn read_summaries(&mut self) -> Result<(), CountError> {
        let Self { rebuild, only, conn, reading, .. } = self;
        let mut snapshot = conn.begin_with(SNAPSHOT).await?;
        let seq = level(&mut snapshot, rebuild, reading).await?;
        let take = |row| -> Result<(), CountError> { Ok(reading.parts.push_found(&Found::Summary(row))?) };
        recount::summaries(&mut snapshot, *only, take).await?;
        let take = |row| -> Result<(), CountError> { Ok(reading.parts.push_found(&Found::Late(row))?) };
        recount::late_units(&mut snapshot, *only, take).await?;
        let take = |row| -> Result<(), CountError> { Ok(reading.parts.push_found(&Found::KeyUsage(row))?) };
        recount::key_usage(&mut snapshot, *only, take).await?;
        snapshot.rollback().await?;
        self.cuts.push(Cut::Summaries { seq });
        self.tables.extend([Table::Summaries, Table::KeyUsage, Table::Adjustments]);
        Ok(())
    }

    /// Month by month, so that no snapshot is older than it takes to read the calls of one.
    async fn read_calls(&mut self) -> Result<(), CountError> {
        let Self { rebuild, only, conn, reading, cuts, among_tables, .. } = self;
        for month in partitions::attached(conn).await? {
            let mut snapshot = conn.begin_with(SNAPSHOT).await?;
            let seq = level(&mut snapshot, rebuild, reading).await?;
            if partitions::attached(&mut snapshot).await?.contains(&month) {
                let take = |row| -> Result<(), CountError> {
                    Ok(reading.parts.push_found(&Found::Calls(month, row))?)
                };
                recount::calls(&mut snapshot, month, *only, take).await?;
                cuts.push(Cut::Calls { month, seq });
                among_tables.add(&mut snapshot, compare::hours(month, *only)).await?;
            }
            snapshot.rollback().await?;
        }
        self.tables.push(Table::Calls);
        Ok(())
    }

    async fn read_vault(&mut self) -> Result<(), CountError> {
        let Self { rebuild, only, conn, reading, among_tables, .. } = self;
        let mut snapshot = conn.begin_with(SNAPSHOT).await?;
        let seq = level(&mut snapshot, rebuild, reading).await?;
        let take = |row| -> Result<(), CountError> { Ok(reading.parts.push_link(&row)?) };
        recount::links(&mut snapshot, *only, take).await?;
        let take = |row| -> Result<(), CountError> { Ok(reading.parts.push_found(&Found::Token(row))?) };
        recount::tokens(&mut snapshot, *only, take).await?;
        among_tables.add(&mut snapshot, compare::security_log(*only)).await?;
        snapshot.rollback().await?;
        self.cuts.push(Cut::Vault { seq });
        self.tables.extend([Table::Links, Table::Tokens]);
        Ok(())
    }

    /// Reads what the log has got since, counts part after part and compares each; `mend` is given the summaries that
    /// differ, if there is one.
    pub(crate) async fn compare<M>(self, mut mend: Option<M>) -> Result<Compared, CountError>
    where
        M: AsyncFnMut(&Mends) -> Result<(), store::Error>,
    {
        let seq = self.cuts.iter().map(Cut::seq).max().unwrap_or_default();
        let Self { rebuild, mut conn, reading, cuts, tables, mut among_tables, .. } =
            self.read_log(seq).await?;
        (rebuild.progress)(Progress::Step("comparing"));
        let memory_bytes = rebuild.room.memory_bytes;
        let mut judge = Judge {
            cuts,
            wide: Arc::new(reading.wide),
            memory_bytes,
            differences: Differences::new(MAX_NAMED_ROWS),
            mends: mend.is_some().then(Mends::default),
        };
        let mut parts = reading.parts.into_parts();
        // The file keeps growing by what is divided, and shrinks by what is done.
        while let Some(part) = parts.pop() {
            let outcome;
            (judge, outcome) = blocking(move || {
                let outcome = one_part(&mut judge, part, memory_bytes);
                (judge, outcome)
            })
            .await;
            match outcome? {
                Step::Divided(smaller) => parts.extend(smaller),
                Step::Judged(unmatched) => {
                    refuse_late_completions(&mut conn, &unmatched).await?;
                    let (Some(mend), Some(mends)) = (&mut mend, &mut judge.mends) else { continue };
                    mend(mends).await?;
                    *mends = Mends::default();
                }
            }
        }
        let mut compared = Compared {
            seq,
            events: reading.events,
            tables: tables.iter().map(|table| table.name().to_owned()).collect(),
            differences: judge.differences.into_list(),
        };
        compared.tables.append(&mut among_tables.tables);
        compared.differences.append(&mut among_tables.differences);
        Ok(compared)
    }
}

const SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

enum Step {
    Divided(Vec<Part>),
    /// With the completions whose calls are not known.
    Judged(Run),
}

fn one_part(judge: &mut Judge, part: Part, memory_bytes: u64) -> Result<Step, ScratchError> {
    Ok(match part.divide(memory_bytes)? {
        Divided::Whole(part) => Step::Judged(judge.part(part)?),
        Divided::Smaller(parts) => Step::Divided(parts),
    })
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // Only at shutdown, or if it panicked: then it is to be seen, not passed over.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// The checkpoint of a snapshot; the dead letters up to it are those that were passed over, and will be.
async fn level(
    snapshot: &mut PgConnection,
    rebuild: &Rebuild<'_>,
    reading: &mut Reading,
) -> Result<u64, CountError> {
    let seq = sound_checkpoint::<CountError>(snapshot, rebuild.log).await?;
    reading.dead.read(snapshot, seq).await?;
    Ok(seq)
}

/// A completion may name a call that is not in the log before it; if it took effect, the log and the count are wrong.
async fn refuse_late_completions(conn: &mut PgConnection, unmatched: &Run) -> Result<(), CountError> {
    let (mut calls, mut cursor, mut page) = (0, Cursor::default(), Vec::new());
    loop {
        let packed = cursor.next(unmatched)?;
        let is_last = packed.is_none();
        if let Some(packed) = packed {
            page.push(completion(packed).ok_or_else(|| unmatched.damaged())?);
        }
        if page.len() == LOOKED_UP || is_last {
            calls += completions::find(conn, &page).await?.into_iter().flatten().count();
            page.clear();
        }
        if is_last {
            return if calls > 0 { Err(CountError::LateCompletions { calls }) } else { Ok(()) };
        }
    }
}

fn completion(packed: &[u8]) -> Option<Completion> {
    let Record { position, user, what: What::Completed(completed) } = Record::unpack(packed)? else {
        return None;
    };
    let call_time = DateTime::from_timestamp_micros(completed.call_time_us)?;
    Some(Completion {
        user,
        call_id: Uuid::from_u128(completed.call_id),
        call_time,
        position,
        at: completed.at,
        status_code: 0,
        response_time_ms: completed.response_time_ms,
        response_size: None,
        counted: completed.counted,
    })
}
