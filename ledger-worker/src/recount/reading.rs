//! Frames of the log, read once and put into parts.

use std::ops::ControlFlow;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use events::{Body, Event, EventErrorKind, Personal};
use ledger::UserId;
use nats::RawFrame;
use sqlx::PgConnection;
use store::Position;
use store::operations::recount;

use crate::batch::Audited;

use super::error::CountError;
use super::parts::Parts;
use super::record::{Call, Record, What};
use super::scratch::{Cursor, Run, Scratch, ScratchError};
use super::tally::Wide;

/// Dead letters that are asked for at a time.
const PAGE: i64 = 10_000;

/// The log as far as it was read.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) parts: Parts,
    pub(super) wide: Wide,
    pub(super) dead: DeadLetters,
    only: Option<UserId>,
    with_links: bool,
    /// Events that were read.
    pub(super) events: u64,
    /// The first frame of a build before the first release, whose log is not read.
    pub(super) earlier_build: Option<u64>,
    /// Why no further frame is taken.
    pub(super) failure: Option<ScratchError>,
}

impl Reading {
    /// Nothing read yet; of one user if `only` is given.
    pub(super) fn new(scratch: &Arc<Scratch>, parts: Parts, only: Option<UserId>, with_links: bool) -> Self {
        Self {
            parts,
            wide: Wide::default(),
            dead: DeadLetters::new(scratch),
            only,
            with_links,
            events: 0,
            earlier_build: None,
            failure: None,
        }
    }

    /// Takes a frame. What can't be decoded is a dead letter and counts nothing.
    pub(super) fn frame(&mut self, frame: &RawFrame) -> ControlFlow<()> {
        match self.events_of(frame) {
            Ok(()) if self.earlier_build.is_none() => ControlFlow::Continue(()),
            Ok(()) => ControlFlow::Break(()),
            Err(error) => {
                self.failure = Some(error);
                ControlFlow::Break(())
            }
        }
    }

    fn events_of(&mut self, frame: &RawFrame) -> Result<(), ScratchError> {
        let Ok(events) = events::decode_batch(&frame.body) else { return Ok(()) };
        let mut raw = Vec::new();
        for (idx, event) in (0_u16..).zip(events) {
            self.events += 1;
            let position = Position { seq: frame.seq, idx };
            if self.dead.has(position)? {
                continue;
            }
            match event {
                Ok(event) if event.body.is_audited() => {
                    if raw.is_empty() && self.with_links {
                        raw = events::raw_events(&frame.body).unwrap_or_default();
                    }
                    if let Some(raw) = raw.get(usize::from(idx)) {
                        self.link(position, &event, raw)?;
                    }
                }
                Ok(event) => self.event(position, &event, frame.time)?,
                Err(error) if error.kind == EventErrorKind::EarlierBuild => {
                    self.earlier_build.get_or_insert(frame.seq);
                }
                // Other errors are dead letters.
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn owner(&self, event: &Event<'_>) -> Option<UserId> {
        event.subject.filter(|user| self.only.is_none_or(|only| only == *user))
    }

    fn event(
        &mut self,
        position: Position,
        event: &Event<'_>,
        stored_at: DateTime<Utc>,
    ) -> Result<(), ScratchError> {
        match &event.body {
            Body::PeriodClosed(closed) => self.wide.close(position, closed.month),
            Body::ClaimsTurned(turned) => self.wide.turn(position, turned.generation),
            _ => {}
        }
        let Some(user) = self.owner(event) else { return Ok(()) };
        let what = match &event.body {
            Body::ApiCalled(called) => Call::of(event, called, stored_at).map(What::Call),
            Body::CallCompleted(completed) => Some(What::completed(completed, event.time)),
            Body::UsageReset(reset) => What::reset(event, reset),
            _ => None,
        };
        match what {
            Some(what) => self.parts.push(&Record { position, user, what }),
            None => Ok(()),
        }
    }

    /// What cannot be read stops a projector, so it is behind no checkpoint.
    fn link(&mut self, position: Position, event: &Event<'_>, raw: &str) -> Result<(), ScratchError> {
        let Some(user) = self.owner(event) else { return Ok(()) };
        match Audited::of(position, user, event, raw, &Personal::default()) {
            Ok(Audited { link, .. }) => self.parts.push(&Record { position, user, what: What::link(&link) }),
            Err(_) => Ok(()),
        }
    }
}

/// The dead letters of the frames that are read, in the log's order.
#[derive(Debug)]
pub(super) struct DeadLetters {
    run: Run,
    last: Position,
    /// Their number and their words, exclusive-or.
    digest: (i64, i64),
    cursor: Cursor,
    next: Option<Position>,
}

impl DeadLetters {
    fn new(scratch: &Arc<Scratch>) -> Self {
        Self {
            run: Run::new(scratch),
            last: Position::default(),
            digest: (0, 0),
            cursor: Cursor::default(),
            next: None,
        }
    }

    /// Notes those of frames up to `to_seq`.
    ///
    /// # Errors
    /// [`CountError::DeadLettersMoved`] when those that were noted before are not the same any more.
    pub(super) async fn read(&mut self, conn: &mut PgConnection, to_seq: u64) -> Result<(), CountError> {
        loop {
            let page = recount::dead_letters(conn, self.last, to_seq, PAGE).await?;
            for position in &page {
                self.note(*position)?;
            }
            if page.is_empty() {
                break;
            }
        }
        let digest = recount::dead_letters_digest(conn, to_seq).await?;
        if digest == self.digest { Ok(()) } else { Err(CountError::DeadLettersMoved) }
    }

    fn note(&mut self, position: Position) -> Result<(), ScratchError> {
        let mut record = [0; 10];
        record[..8].copy_from_slice(&position.seq.to_le_bytes());
        record[8..].copy_from_slice(&position.idx.to_le_bytes());
        self.run.push(&record)?;
        self.last = position;
        self.digest = (self.digest.0 + 1, self.digest.1 ^ recount::dead_letter_word(position));
        Ok(())
    }

    /// Whether the event at this position is one; positions are asked for in the log's order.
    fn has(&mut self, position: Position) -> Result<bool, ScratchError> {
        while self.next.is_none_or(|next| next < position) {
            let Some(record) = self.cursor.next(&self.run)? else { return Ok(false) };
            let (seq, idx) = record.split_at_checked(8).ok_or_else(|| self.run.damaged())?;
            let seq = seq.try_into().map(u64::from_le_bytes).map_err(|_| self.run.damaged())?;
            let idx = idx.try_into().map(u16::from_le_bytes).map_err(|_| self.run.damaged())?;
            self.next = Some(Position { seq, idx });
        }
        Ok(self.next == Some(position))
    }
}
