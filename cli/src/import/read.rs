//! Reads a file into batches of calls on a thread of its own: parsing never waits for the log, nor the log for parsing.

use std::io::{self, BufRead};

use api::ingest::MAX_ITEMS;
use tokio::sync::mpsc;

use super::call::{Call, LineError, UserFrom};
use super::lines::{LineIds, Lines, MAX_LINE_BYTES};
use super::mapping::Mapping;
use super::{combined, json};

/// Batches that may wait to be taken in.
const WAITING: usize = 4;

/// Form of a file's lines.
#[derive(Clone, Debug)]
pub(crate) enum Format {
    /// The combined format of access logs.
    Combined,
    /// A JSON object a line.
    Json(Mapping),
}

/// A call with its place in the file.
#[derive(Debug)]
pub(crate) struct Numbered {
    /// Its line, from 1.
    pub(crate) line: u64,
    /// Its id.
    pub(crate) id: String,
    /// The call.
    pub(crate) call: Call,
}

/// Yield of some lines that follow each other.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// At most [`MAX_ITEMS`].
    pub(crate) calls: Vec<Numbered>,
    /// Lines that give no call, and why. At most [`MAX_ITEMS`].
    pub(crate) skipped: Vec<(u64, LineError)>,
    /// Bytes of the file up to the batch's end.
    pub(crate) bytes: u64,
}

/// Reads batches until the file's end, which closes the channel, or its first error.
pub(crate) fn start(
    reader: Box<dyn BufRead + Send>,
    format: Format,
    user_from: UserFrom,
) -> mpsc::Receiver<io::Result<Batch>> {
    let (batches, receiver) = mpsc::channel(WAITING);
    // Not one of the runtime's threads: those must end before the program does, and a pipe may stay silent for ever.
    std::thread::spawn(move || {
        if let Err(error) = read(reader, &format, user_from, &batches) {
            // A receiver that is gone has no use for the error.
            let _ = batches.blocking_send(Err(error));
        }
    });
    receiver
}

fn read(
    reader: impl BufRead,
    format: &Format,
    user_from: UserFrom,
    batches: &mpsc::Sender<io::Result<Batch>>,
) -> io::Result<()> {
    let mut lines = Lines::new(reader);
    let mut ids = LineIds::default();
    let mut batch = Batch::default();
    while let Some(line) = lines.next()? {
        let number = line.number;
        match line.text {
            // A blank line is no attempt at a call.
            Some(text) if text.iter().all(u8::is_ascii_whitespace) => {}
            Some(text) => match parse(text, format, user_from) {
                Ok(call) => batch.calls.push(Numbered { line: number, id: ids.next(text), call }),
                Err(error) => batch.skipped.push((number, error)),
            },
            None => batch.skipped.push((number, LineError::TooLong(MAX_LINE_BYTES))),
        }
        if batch.calls.len() == MAX_ITEMS || batch.skipped.len() == MAX_ITEMS {
            batch.bytes = lines.bytes();
            if batches.blocking_send(Ok(std::mem::take(&mut batch))).is_err() {
                return Ok(());
            }
        }
    }
    batch.bytes = lines.bytes();
    // Nobody waits any more when this fails.
    let _ = batches.blocking_send(Ok(batch));
    Ok(())
}

fn parse(text: &[u8], format: &Format, user_from: UserFrom) -> Result<Call, LineError> {
    match format {
        Format::Combined => combined::parse(text, user_from),
        Format::Json(mapping) => json::parse(text, user_from, mapping),
    }
}
