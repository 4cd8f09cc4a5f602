//! Gaps of the log: whether it is whole from the checkpoint on, and what can be accepted if it is not.

use std::ops::RangeInclusive;

use events::{Actor, ActorKind, Body, Event, GapAccepted, GapKind, SOURCE_CLI};
use ledger::{Clock, IdSource};
use nats::{EncodedEvent, Log, LogError, Publisher, ReadError, Reader, ReaderConfig, Stop, StreamState};
use sqlx::PgConnection;
use store::operations::gaps::{self, Gap};
use store::operations::projector_status::{self, Status};
use store::projection::checkpoint::{self, Checkpoint, PARTITION};

use super::ahead::{Ahead, AheadError, READ_EVENTS};
use super::continuity::continuity;
use super::log_check::LogCheck;

/// State of the log and of its projection.
#[derive(Debug, Clone)]
pub struct LogStatus {
    /// The stream.
    pub stream: StreamState,
    /// The position up to which it is projected.
    pub checkpoint: Checkpoint,
    /// The worker's word on itself.
    pub projector: Option<Status>,
    /// The reason why it can't be projected to its end.
    pub stop: Option<Stop>,
    /// Gaps that operators accepted before.
    pub accepted: Vec<Gap>,
}

/// Failure to compare the log with its projection.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The database is away or refuses.
    #[error("the projections cannot be read or written")]
    Store(#[from] store::Error),
    /// The log is away.
    #[error("the log cannot be read")]
    Log(#[from] LogError),
}

/// Reason for which a range is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// Frames of the range are as they were written.
    #[error(
        "frame {seq} is there and whole; only missing, damaged or truncated frames can be accepted as lost"
    )]
    Whole {
        /// The first of them.
        seq: u64,
    },
    /// The range is not a part of the log.
    #[error(
        "the log ends at {last_seq} and nothing beyond it was projected; the range {from}..{to} is not lost"
    )]
    Beyond {
        /// The log's last sequence.
        last_seq: u64,
        /// First sequence asked for.
        from: u64,
        /// Last sequence asked for.
        to: u64,
    },
    /// The log's tail is lost; another range makes nothing whole.
    #[error(
        "the log's tail was lost: accept {from}..{to}, or from an earlier frame on if others took the lost ones' places"
    )]
    Truncated {
        /// Last sequence that may be the first.
        from: u64,
        /// Last sequence to accept.
        to: u64,
    },
    /// The log can't be read.
    #[error("the log cannot be examined")]
    Examine(#[from] StatusError),
    /// The event is not in the log; the range is accepted all the same, and accepting it again writes the event.
    #[error("the range is accepted, but the log does not say so yet: run the same command again")]
    Publish(#[from] nats::PublishError),
}

impl From<store::Error> for AcceptError {
    fn from(error: store::Error) -> Self {
        Self::Examine(error.into())
    }
}

impl From<LogError> for AcceptError {
    fn from(error: LogError) -> Self {
        Self::Examine(error.into())
    }
}

/// Compares checkpoint and stream, and reads what is not projected yet, as the projector does.
pub async fn status(conn: &mut PgConnection, log: &Log) -> Result<LogStatus, StatusError> {
    // In this order: the projector may go on in between, and what it projected is in the stream.
    let checkpoint = checkpoint::read(conn, PARTITION).await?;
    let stream = log.state().await?;
    let projector = projector_status::read(conn, PARTITION).await?;
    let accepted = gaps::all(conn, log.stream().as_str()).await?;
    let stop = find_stop(conn, log, &stream, &checkpoint).await?;
    Ok(LogStatus { stream, checkpoint, projector, stop, accepted })
}

async fn find_stop(
    conn: &mut PgConnection,
    log: &Log,
    stream: &StreamState,
    checkpoint: &Checkpoint,
) -> Result<Option<Stop>, StatusError> {
    let from = match LogCheck::of::<StatusError>(conn, log, checkpoint, stream).await? {
        LogCheck::Same => checkpoint.seq,
        // The projector is about to go back there.
        LogCheck::Lost { whole_to, .. } => whole_to,
        LogCheck::Other(stop) => return Ok(Some(stop)),
    };
    let continuity = continuity(conn, log, from).await?;
    let mut ahead = Ahead::new(log, continuity, stream.last_seq);
    loop {
        match ahead.next().await {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(None),
            Err(AheadError::Stopped(stop)) => return Ok(Some(stop)),
            Err(AheadError::Log(error)) => return Err(error.into()),
        }
    }
}

/// Declares the range lost: projector, rebuild and verify pass exactly it from then on. Accepting the same range again
/// only makes sure that the log says so.
pub async fn accept(
    conn: &mut PgConnection,
    log: &Log,
    publisher: &Publisher,
    (clock, ids): (&Clock, &IdSource),
    seqs: RangeInclusive<u64>,
    reason: &str,
) -> Result<Gap, AcceptError> {
    let known = gaps::all(conn, log.stream().as_str()).await?;
    let known = known.into_iter().find(|gap| gap.seq_from == *seqs.start() && gap.seq_to == *seqs.end());
    let gap = if let Some(gap) = known
        && !is_truncated(conn, log).await?
    {
        gap
    } else {
        let gap = Gap {
            seq_from: *seqs.start(),
            seq_to: *seqs.end(),
            kind: judge(conn, log, &seqs).await?,
            reason: reason.to_owned(),
            accepted_at: clock.now(),
            event_id: ids.event_id(),
        };
        gaps::accept(conn, log.stream().as_str(), &gap).await?;
        gap
    };
    publisher.publish(event(&gap)).await?;
    Ok(gap)
}

/// Tells whether the log's tail is lost and nobody accepted that. An earlier acceptance was of another tail, though it
/// may have had the same sequences.
async fn is_truncated(conn: &mut PgConnection, log: &Log) -> Result<bool, AcceptError> {
    let stop = status(conn, log).await?.stop;
    Ok(matches!(stop, Some(Stop::StreamTruncated { .. } | Stop::OtherFrame { .. })))
}

/// Finds the damage of the range.
async fn judge(
    conn: &mut PgConnection,
    log: &Log,
    seqs: &RangeInclusive<u64>,
) -> Result<GapKind, AcceptError> {
    let status = status(conn, log).await?;
    let (from, to, last_seq) = (*seqs.start(), *seqs.end(), status.stream.last_seq);
    match status.stop.as_ref().and_then(|stop| Some((stop, stop.acceptable()?))) {
        Some((Stop::StreamTruncated { .. }, exact)) => {
            // Frames that were written since the loss may have taken its first places: they were never projected.
            return if to == *exact.seqs.end() && (1..=*exact.seqs.start()).contains(&from) {
                Ok(GapKind::Truncated)
            } else {
                Err(AcceptError::Truncated { from: *exact.seqs.start(), to: *exact.seqs.end() })
            };
        }
        // Where the old log ended is for the operator to say; the range ends at the checkpoint.
        Some((Stop::OtherFrame { seq, .. }, _)) if to == *seq => return Ok(GapKind::Truncated),
        // The frame is whole, but others before it are lost, or it contradicts them.
        Some((_, exact)) if *seqs == exact.seqs => return Ok(exact.kind),
        _ => {}
    }
    if to > last_seq || from == 0 {
        return Err(AcceptError::Beyond { last_seq, from, to });
    }
    let mut reader = Reader::open(log, from, ReaderConfig::default());
    let mut kind = GapKind::Missing;
    loop {
        let frames = match reader.next_batch(READ_EVENTS).await {
            Ok(frames) => frames,
            Err(ReadError::Reconnected) => continue,
            Err(ReadError::Unavailable { source }) => return Err(source.into()),
        };
        for frame in frames.iter().take_while(|frame| frame.seq <= to) {
            match frame.header {
                Ok(_) => return Err(AcceptError::Whole { seq: frame.seq }),
                Err(_) => kind = GapKind::Damaged,
            }
        }
        // Nothing came within the idle time, or what came lies beyond the range.
        if frames.last().is_none_or(|frame| frame.seq >= to) {
            return Ok(kind);
        }
    }
}

fn event(gap: &Gap) -> EncodedEvent {
    let body = Body::GapAccepted(GapAccepted {
        seq_from: gap.seq_from,
        seq_to: gap.seq_to,
        kind: gap.kind,
        reason: gap.reason.as_str().into(),
        actor: Actor::new(ActorKind::Operator, "usage-ledger log accept"),
    });
    let event = Event::own(SOURCE_CLI, gap.event_id, None, gap.accepted_at, body);
    EncodedEvent::of(&event)
}
