//! Turns files into calls, through the same ingest path as calls that come over HTTP.
//!
//! Every line gets an id that follows from its text and its place among equal lines. So a file can be imported again,
//! whole or after an interruption, and nothing counts twice. A file is read once to see whether it is what it is said
//! to be ([`survey`]), and then once more to take it in ([`run`]).

mod access_log;
mod call;
mod decimal;
mod input;
mod json;
mod kind;
mod known;
mod lines;
mod lookalike;
mod mapping;
mod pace;
mod progress;
mod read;
mod sink;
mod tally;

use anyhow::Context as _;
use api::ingest::ItemStatus;
use tokio_util::sync::CancellationToken;

pub(crate) use access_log::Layout;
pub(crate) use call::UserFrom;
pub(crate) use input::{Input, Pass};
pub(crate) use known::Known;
pub(crate) use lines::{LineIds, Lines};
pub(crate) use mapping::Mapping;
pub(crate) use progress::Progress;
pub(crate) use read::{Format, Manner};
pub(crate) use sink::{Checks, Connected, Projected, Sink, SinkConfig};
pub(crate) use tally::Tally;

use call::{LineError, Skipped};
use pace::Pace;
use read::{Batch, Numbered};
use tally::TOLD_LINES;

/// Result of an import.
pub(crate) struct Imported {
    /// The counts.
    pub(crate) tally: Tally,
    /// The last sequence of the log that holds calls of the file; none when none does.
    pub(crate) seq: Option<u64>,
    /// Whether it was stopped before the file's end.
    pub(crate) is_interrupted: bool,
}

/// Result of reading a file without importing it.
pub(crate) struct Surveyed {
    /// The counts.
    pub(crate) tally: Tally,
    /// Whether it was stopped before the file's end.
    pub(crate) is_interrupted: bool,
}

/// Reads a file to its end, or until `stop`, and writes nothing. With `known` the ledger is asked what of it is new;
/// why it cannot say so is told once, and ends nothing.
pub(crate) async fn survey(
    pass: Pass,
    manner: &Manner,
    checks: Checks<'_>,
    known: &mut Option<Known>,
    stop: &CancellationToken,
) -> anyhow::Result<Surveyed> {
    let mut progress = Progress::new(pass.total());
    let mut batches = read::start(pass, manner.clone());
    let mut surveyed = Surveyed { tally: Tally::default(), is_interrupted: false };
    let result = loop {
        let batch = match next(&mut batches, stop).await {
            Next::Batch(batch) => batch,
            Next::Stopped => {
                surveyed.is_interrupted = true;
                break Ok(());
            }
            Next::End => break Ok(()),
            Next::Error(error) => break Err(error.into()),
        };
        if let Err(error) = ask(known, &batch, checks, &mut surveyed.tally).await {
            progress.say(&format!("what is new is not known: {}", crate::output::chain(&error.into())));
            *known = None;
        }
        progress.done(batch.bytes, &surveyed.tally.summary());
    };
    progress.finish();
    result.map(|()| surveyed)
}

/// Counts what would become of a batch, by what the ledger knows if it can be asked. What was read is counted whatever
/// it answers.
async fn ask(
    known: &mut Option<Known>,
    batch: &Batch,
    checks: Checks<'_>,
    tally: &mut Tally,
) -> Result<(), store::Error> {
    let Some(known) = known else {
        look_at(batch, checks, None, tally);
        return Ok(());
    };
    let looked_up = known.look_up_users(&batch.calls).await;
    let good = look_at(batch, checks, Some(known), tally);
    looked_up?;
    known.count(&good).await
}

/// Counts what would become of a batch; answers its good calls.
fn look_at<'a>(
    batch: &'a Batch,
    checks: Checks<'_>,
    known: Option<&Known>,
    tally: &mut Tally,
) -> Vec<&'a Numbered> {
    tally.look_at(batch);
    tally.unended = batch.unended;
    let mut skipped = batch.skipped.clone();
    let mut good = Vec::with_capacity(batch.calls.len());
    for numbered in &batch.calls {
        match sink::check(numbered, checks) {
            Ok(()) if known.is_some_and(|known| known.is_erased(&numbered.call.user)) => {
                skipped.push(refused(numbered, api::ingest::erased_user().into()));
            }
            Ok(()) => {
                tally.add(numbered, true);
                good.push(numbered);
            }
            Err(error) => skipped.push(refused(numbered, error.into())),
        }
    }
    skipped.sort_by_key(|skipped| skipped.line);
    for skipped in &skipped {
        tally.skip(skipped);
    }
    good
}

/// Imports a file to its end, or until `stop`, no faster than its calls are projected. Lines that give no call are told
/// on stderr and passed over.
pub(crate) async fn run(
    pass: Pass,
    manner: &Manner,
    sink: &Sink,
    stop: &CancellationToken,
) -> anyhow::Result<Imported> {
    let mut progress = Progress::new(pass.total());
    let mut batches = read::start(pass, manner.clone());
    let mut imported = Imported { tally: Tally::default(), seq: None, is_interrupted: false };
    let mut pace = Pace::new(sink.max_lag());
    let result = loop {
        let batch = match next(&mut batches, stop).await {
            Next::Batch(batch) => batch,
            Next::Stopped => {
                imported.is_interrupted = true;
                break Ok(());
            }
            Next::End => break Ok(()),
            Next::Error(error) => break Err(error.into()),
        };
        tokio::select! {
            () = pace.keep(sink.connected()) => {}
            () = stop.cancelled() => {
                imported.is_interrupted = true;
                break Ok(());
            }
        }
        if let Err(error) = take(&batch, sink, &mut imported, &progress).await {
            break Err(error);
        }
        if let Some(seq) = imported.seq {
            pace.wrote(seq);
        }
        progress.done(batch.bytes, &imported.tally.summary());
    };
    progress.finish();
    match result {
        Ok(()) => Ok(imported),
        Err(error) if imported.seq.is_none() => Err(error),
        Err(error) => {
            Err(error).context("the import ended early; run it again to go on: nothing counts twice")
        }
    }
}

enum Next {
    Batch(Batch),
    End,
    Stopped,
    Error(std::io::Error),
}

/// The next batch. One that was begun is brought to its end before the next is asked for, so that counts tell the
/// truth.
async fn next(
    batches: &mut tokio::sync::mpsc::Receiver<std::io::Result<Batch>>,
    stop: &CancellationToken,
) -> Next {
    let batch = tokio::select! {
        () = stop.cancelled() => return Next::Stopped,
        batch = batches.recv() => batch,
    };
    match batch {
        None => Next::End,
        Some(Err(error)) => Next::Error(error),
        Some(Ok(batch)) => Next::Batch(batch),
    }
}

async fn take(
    batch: &Batch,
    sink: &Sink,
    imported: &mut Imported,
    progress: &Progress,
) -> anyhow::Result<()> {
    let mut skipped = batch.skipped.clone();
    imported.tally.unended = batch.unended;
    if !batch.calls.is_empty() {
        let receipt = sink.take(&batch.calls).await?;
        imported.seq = imported.seq.max(receipt.seq());
        for (numbered, item) in batch.calls.iter().zip(receipt.into_items()) {
            match (item.status, item.error) {
                (ItemStatus::Rejected, Some(error)) => skipped.push(refused(numbered, error.into())),
                (ItemStatus::Rejected, None) => skipped.push(refused(numbered, LineError::Unexplained)),
                (ItemStatus::Accepted | ItemStatus::Duplicate, _) => {
                    imported.tally.add(numbered, item.status == ItemStatus::Accepted);
                }
            }
        }
    }
    skipped.sort_by_key(|skipped| skipped.line);
    for skipped in &skipped {
        // All of a kind would hide the others.
        if imported.tally.skip(skipped) <= TOLD_LINES {
            progress.say(&format!("line {}: {}", skipped.line, skipped.error));
        }
    }
    Ok(())
}

fn refused(numbered: &Numbered, error: LineError) -> Skipped {
    Skipped { line: numbered.line, error, excerpt: numbered.excerpt.clone() }
}
