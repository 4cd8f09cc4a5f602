//! A job over the whole log: what it reads and compares, who is told how far it is, and what it found.

use std::path::Path;

use nats::Log;
use sqlx::PgConnection;
use store::operations::compare::{Comparison, Difference};

/// Rows that are named of each table that differs.
pub(crate) const MAX_NAMED_ROWS: usize = 20;

/// A job over the whole log: the projections, the log, and the listener to its progress.
#[derive(Clone, Copy)]
pub struct Rebuild<'a> {
    /// Address of the projections; may hold a password.
    pub database_url: &'a str,
    /// The log that they are made from.
    pub log: &'a Log,
    /// Hears of every step, often; not to be slow.
    pub progress: &'a (dyn Fn(Progress) + Send + Sync),
    /// Bounds of counting.
    pub room: Room<'a>,
}

/// Room for what is counted.
#[derive(Debug, Clone, Copy)]
pub struct Room<'a> {
    /// The directory that takes what does not fit into memory, some 100 bytes an event; the system's own for temporary
    /// files if there is none. What is there has no name and goes with the process.
    pub dir: Option<&'a Path>,
    /// What is counted in memory at a time, at most; the whole process needs some 100 MB more.
    pub memory_bytes: u64,
}

impl Default for Room<'_> {
    fn default() -> Self {
        Self { dir: None, memory_bytes: 64 * 1024 * 1024 }
    }
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
#[derive(Debug, Default, Clone, PartialEq, Eq)]
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
    /// Runs a comparison; further ones of the same name are of other rows of the same table.
    pub(crate) async fn add(
        &mut self,
        conn: &mut PgConnection,
        comparison: Comparison,
    ) -> Result<(), store::Error> {
        let found = comparison.run(conn, MAX_NAMED_ROWS).await?;
        match (found, self.differences.last_mut().filter(|last| last.name == comparison.name)) {
            (Some(found), Some(last)) => {
                let room = MAX_NAMED_ROWS.saturating_sub(last.rows.len());
                last.more |= found.more || found.rows.len() > room;
                last.rows.extend(found.rows.into_iter().take(room));
            }
            (Some(found), None) => self.differences.push(found),
            (None, _) => {}
        }
        if self.tables.last() != Some(&comparison.name) {
            self.tables.push(comparison.name);
        }
        Ok(())
    }
}
