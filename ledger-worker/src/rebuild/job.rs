//! A job over the whole log: what it reads and compares, who is told how far it is, and what it found.

use nats::Log;
use sqlx::PgConnection;
use store::operations::compare::{Comparison, Difference};

/// Rows that are named of each table that differs.
const MAX_NAMED_ROWS: usize = 20;

/// A job over the whole log: the projections, the log, and the listener to its progress.
#[derive(Clone, Copy)]
pub struct Rebuild<'a> {
    /// Address of the projections; may hold a password.
    pub database_url: &'a str,
    /// The log that they are made from.
    pub log: &'a Log,
    /// Hears of every step, often; not to be slow.
    pub progress: &'a (dyn Fn(Progress) + Send + Sync),
}

/// Progress of a rebuild or a count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// A step begins.
    Step(&'static str),
    /// An earlier rebuild is gone on with, after this sequence.
    Resumed(u64),
    /// So many events are behind it, up to this sequence of the log.
    At {
        /// Last sequence that is done.
        seq: u64,
        /// Last sequence for now.
        target: u64,
        /// Events of this run.
        events: u64,
    },
}

/// Fate of the rebuilt projections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// They take the place of the live ones.
    Swap,
    /// They are kept beside them.
    Hold,
    /// They are dropped; nothing changes.
    DryRun,
}

/// Log and tables, compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compared {
    /// The last sequence that was compared.
    pub seq: u64,
    /// Events that were read in this run.
    pub events: u64,
    /// Names of the tables and sums that were compared.
    pub tables: Vec<String>,
    /// Rows that differ; `expected` is as the log has them.
    pub differences: Vec<Difference>,
}

impl<'a> Rebuild<'a> {
    /// Tells of the progress up to `target`: the last sequence that is done, and the events up to it.
    pub(crate) fn progress_to(&self, target: u64) -> impl Fn(u64, u64) + Send + Sync + use<'a> {
        let progress = self.progress;
        move |seq, events| progress(Progress::At { seq, target, events })
    }
}

impl Compared {
    /// Runs the comparisons at `seq`, for which `events` were read.
    pub(crate) async fn by(
        conn: &mut PgConnection,
        seq: u64,
        events: u64,
        comparisons: Vec<Comparison>,
    ) -> Result<Self, store::Error> {
        let mut compared = Self { seq, events, tables: Vec::new(), differences: Vec::new() };
        for comparison in comparisons {
            compared.differences.extend(comparison.run(conn, MAX_NAMED_ROWS).await?);
            compared.tables.push(comparison.name);
        }
        Ok(compared)
    }
}
