//! Turns files into calls, through the same ingest path as calls that come over HTTP.
//!
//! Every line gets an id that follows from its text and its place among equal lines. So a file can be imported again,
//! whole or after an interruption, and nothing counts twice.

mod call;
mod combined;
mod file;
mod json;
mod lines;
mod mapping;
mod progress;
mod read;
mod sink;
mod tally;

use std::io::BufRead;

use api::ingest::ItemStatus;
use ledger::{Clock, Rules};
use tokio_util::sync::CancellationToken;

pub(crate) use call::UserFrom;
pub(crate) use file::open;
pub(crate) use lines::{LineIds, Lines};
pub(crate) use mapping::Mapping;
pub(crate) use progress::Progress;
pub(crate) use read::Format;
pub(crate) use sink::{Connected, Projected, Sink, SinkConfig};
pub(crate) use tally::Tally;

use call::LineError;
use read::Batch;

/// A file to import.
pub(crate) struct Source {
    /// Its content.
    pub(crate) reader: Box<dyn BufRead + Send>,
    /// Its length, where it is known.
    pub(crate) bytes: Option<u64>,
    /// Form of its lines.
    pub(crate) format: Format,
    /// Part of its lines that names their users.
    pub(crate) user_from: UserFrom,
}

/// Destination of valid calls.
pub(crate) enum Target<'a> {
    /// They go into the log.
    Log(&'a Sink),
    /// They are counted only (`--dry-run`), at this time and under these rules.
    Nowhere(Clock, Rules),
}

/// Result of an import.
pub(crate) struct Imported {
    /// The counts.
    pub(crate) tally: Tally,
    /// The last sequence of the log that holds calls of the file; none when none does.
    pub(crate) seq: Option<u64>,
    /// Whether it was stopped before the file's end.
    pub(crate) is_interrupted: bool,
}

/// Imports a file to its end, or until `stop`. Lines that give no call are told on stderr and passed over.
pub(crate) async fn run(
    source: Source,
    target: Target<'_>,
    stop: &CancellationToken,
) -> anyhow::Result<Imported> {
    let mut progress = Progress::new(source.bytes);
    let mut batches = read::start(source.reader, source.format, source.user_from);
    let mut imported = Imported { tally: Tally::default(), seq: None, is_interrupted: false };
    let result = loop {
        let batch = tokio::select! {
            // A batch that was begun is brought to its end, so that the counts tell the truth.
            () = stop.cancelled() => {
                imported.is_interrupted = true;
                break Ok(());
            }
            batch = batches.recv() => batch,
        };
        let batch = match batch {
            None => break Ok(()),
            Some(Err(error)) => break Err(error.into()),
            Some(Ok(batch)) => batch,
        };
        if let Err(error) = take(&batch, &target, &mut imported, &progress).await {
            break Err(error);
        }
        progress.done(batch.bytes, &imported.tally.summary());
    };
    progress.finish();
    result.map(|()| imported)
}

async fn take(
    batch: &Batch,
    target: &Target<'_>,
    imported: &mut Imported,
    progress: &Progress,
) -> anyhow::Result<()> {
    let mut skipped = batch.skipped.clone();
    match target {
        Target::Nowhere(clock, rules) => {
            for numbered in &batch.calls {
                match sink::check(numbered, rules, clock) {
                    Ok(()) => imported.tally.add(numbered, true),
                    Err(error) => skipped.push((numbered.line, LineError::from(error))),
                }
            }
        }
        Target::Log(sink) if !batch.calls.is_empty() => {
            let receipt = sink.take(&batch.calls).await?;
            imported.seq = imported.seq.max(receipt.seq());
            for (numbered, item) in batch.calls.iter().zip(receipt.into_items()) {
                match (item.status, item.error) {
                    (ItemStatus::Rejected, Some(error)) => skipped.push((numbered.line, error.into())),
                    (ItemStatus::Rejected, None) => skipped.push((numbered.line, LineError::Unexplained)),
                    (ItemStatus::Accepted | ItemStatus::Duplicate, _) => {
                        imported.tally.add(numbered, item.status == ItemStatus::Accepted);
                    }
                }
            }
        }
        Target::Log(_) => {}
    }
    skipped.sort_by_key(|(line, _)| *line);
    for (line, error) in &skipped {
        imported.tally.skipped += 1;
        progress.say(&format!("line {line}: {error}"));
    }
    Ok(())
}
