//! Reads and opens rows on a thread of its own.

use std::io;
use std::sync::atomic::Ordering;

use ledger::derived_id;
use tokio::sync::mpsc;
use uuid::Uuid;
use vault::RootKey;

use super::row::{MAX_LINE_BYTES, Row, RowError};
use crate::import::{LineIds, Lines, Pass};

/// Rows that are taken in together. So many tokens are in memory at once, twice.
const BATCH_ROWS: usize = 100;

/// A row with its place in the file.
pub(super) struct Numbered {
    /// Its line, from 1.
    pub(super) line: u64,
    /// Id of its event, which follows from the line and its place among equal lines.
    pub(super) id: Uuid,
    /// The row.
    pub(super) row: Row,
}

/// Yield of some lines that follow each other.
#[derive(Default)]
pub(super) struct Batch {
    /// Opened rows.
    pub(super) rows: Vec<Numbered>,
    /// Lines that give no token, and why.
    pub(super) refused: Vec<(u64, RowError)>,
    /// Bytes of the file, packed if it is, up to the batch's end.
    pub(super) bytes: u64,
}

/// Reads batches until the file's end, which closes the channel, or its first error.
pub(super) fn start(pass: Pass, root: RootKey, accept_unknown: bool) -> mpsc::Receiver<io::Result<Batch>> {
    let (batches, receiver) = mpsc::channel(1);
    // Not one of the runtime's threads: those must end before the program does, and a pipe may stay silent for ever.
    std::thread::spawn(move || {
        if let Err(error) = read(pass, &root, accept_unknown, &batches) {
            // A receiver that is gone has no use for the error.
            let _ = batches.blocking_send(Err(error));
        }
    });
    receiver
}

fn read(
    pass: Pass,
    root: &RootKey,
    accept_unknown: bool,
    batches: &mpsc::Sender<io::Result<Batch>>,
) -> io::Result<()> {
    let bytes_read = pass.bytes_read();
    let mut lines = Lines::bounded(pass.lines()?, MAX_LINE_BYTES);
    let mut ids = LineIds::default();
    let mut batch = Batch::default();
    while let Some(line) = lines.next()? {
        let number = line.number;
        match line.text {
            Some(text) if text.iter().all(u8::is_ascii_whitespace) => {}
            Some(text) => {
                let id = derived_id(&[ids.next(text).as_bytes()]);
                match Row::open(text, root, accept_unknown) {
                    Ok(row) => batch.rows.push(Numbered { line: number, id, row }),
                    Err(error) => batch.refused.push((number, error)),
                }
            }
            None => batch.refused.push((number, RowError::TooLong)),
        }
        if batch.rows.len() + batch.refused.len() >= BATCH_ROWS {
            batch.bytes = bytes_read.load(Ordering::Relaxed);
            if batches.blocking_send(Ok(std::mem::take(&mut batch))).is_err() {
                return Ok(());
            }
        }
    }
    batch.bytes = bytes_read.load(Ordering::Relaxed);
    // Nobody waits any more when this fails.
    let _ = batches.blocking_send(Ok(batch));
    Ok(())
}
