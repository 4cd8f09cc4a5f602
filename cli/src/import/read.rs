//! Reads a file into batches of calls on a thread of its own: parsing never waits for the log, nor the log for parsing.

use std::io;
use std::sync::atomic::Ordering;

use api::ingest::MAX_ITEMS;
use regex::bytes::Regex;
use tokio::sync::mpsc;

use super::access_log::{self, Layout};
use super::call::{Call, Excerpt, LineError, Note, Reading, Skipped, UserFrom};
use super::input::Pass;
use super::json;
use super::lines::{LineIds, Lines, MAX_LINE_BYTES};
use super::mapping::Mapping;

/// Batches that may wait to be taken in.
const WAITING: usize = 4;

/// Form of a file's lines.
#[derive(Clone, Debug)]
pub(crate) enum Format {
    /// An access log.
    AccessLog(Layout),
    /// A JSON object a line.
    Json(Mapping),
}

/// The way in which a file is read.
#[derive(Clone, Debug)]
pub(crate) struct Manner {
    /// Form of its lines.
    pub(crate) format: Format,
    /// Part of its lines that names their users.
    pub(crate) user_from: UserFrom,
    /// Beginning of a line that is passed over, where a line has it. It is a part of the line's identity all the same.
    pub(crate) skip_prefix: Option<Regex>,
    /// Whether a last line without a line end is taken.
    pub(crate) take_last_line: bool,
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
    /// What had to be done to read it.
    pub(crate) notes: Vec<Note>,
    /// The line's beginning.
    pub(crate) excerpt: Excerpt,
}

/// Yield of some lines that follow each other.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// At most [`MAX_ITEMS`].
    pub(crate) calls: Vec<Numbered>,
    /// Lines that give no call, and why. At most [`MAX_ITEMS`].
    pub(crate) skipped: Vec<Skipped>,
    /// The last line, when it has no line end and is not taken.
    pub(crate) unended: Option<u64>,
    /// Bytes of the file, packed if it is, up to the batch's end.
    pub(crate) bytes: u64,
}

/// Reads batches until the file's end, which closes the channel, or its first error.
pub(crate) fn start(pass: Pass, manner: Manner) -> mpsc::Receiver<io::Result<Batch>> {
    let (batches, receiver) = mpsc::channel(WAITING);
    // Not one of the runtime's threads: those must end before the program does, and a pipe may stay silent for ever.
    std::thread::spawn(move || {
        if let Err(error) = read(pass, &manner, &batches) {
            // A receiver that is gone has no use for the error.
            let _ = batches.blocking_send(Err(error));
        }
    });
    receiver
}

fn read(pass: Pass, manner: &Manner, batches: &mpsc::Sender<io::Result<Batch>>) -> io::Result<()> {
    let bytes_read = pass.bytes_read();
    let mut lines = Lines::new(pass.lines()?);
    let mut ids = LineIds::default();
    let mut batch = Batch::default();
    while let Some(line) = lines.next()? {
        let number = line.number;
        let skipped = |error, text| Skipped { line: number, error, excerpt: Excerpt::of(text) };
        match line.text {
            // A blank line is no attempt at a call.
            Some(text) if text.iter().all(u8::is_ascii_whitespace) => {}
            // Its server may not have written all of it yet.
            _ if !line.is_ended && !manner.take_last_line => batch.unended = Some(number),
            Some(text) => match manner.parse(text) {
                Ok(Reading { call, notes }) => {
                    let (id, excerpt) = (ids.next(text), Excerpt::of(text));
                    batch.calls.push(Numbered { line: number, id, call, notes, excerpt });
                }
                Err(error) => batch.skipped.push(skipped(error, text)),
            },
            None => batch.skipped.push(skipped(LineError::TooLong(MAX_LINE_BYTES), &[])),
        }
        if batch.calls.len() == MAX_ITEMS || batch.skipped.len() == MAX_ITEMS {
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

impl Manner {
    /// The call of a line.
    pub(super) fn parse(&self, line: &[u8]) -> Result<Reading, LineError> {
        let prefix = self.skip_prefix.as_ref().and_then(|prefix| prefix.find(line));
        // A match further on is no prefix.
        let skipped = prefix.filter(|found| found.start() == 0).map_or(0, |found| found.end());
        let text = &line[skipped..];
        match &self.format {
            Format::AccessLog(layout) => access_log::parse(text, *layout, self.user_from),
            Format::Json(mapping) => json::parse(text, self.user_from, mapping),
        }
    }
}

#[cfg(test)]
mod tests;
