//! Check whether the stored checkpoint belongs to the stream that is there now.

use nats::{Log, LogError, Stop, StreamState, check_start};
use sqlx::PgConnection;
use store::operations::gaps;
use store::projection::checkpoint::{self, Checkpoint, PARTITION};

use super::continuity::accepted_gaps;

/// Relation of a checkpoint to the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LogCheck {
    /// The stream has all that was projected.
    Same,
    /// The stream lost its tail, which was accepted: what follows this sequence is to be projected.
    Lost {
        /// The last sequence before the accepted range.
        whole_to: u64,
        /// The loss that was accepted.
        stop: Stop,
    },
    /// The stream is not the one that was projected, or not all of it.
    Other(Stop),
}

impl LogCheck {
    /// Compares them. `state` is read after `checkpoint`, or by whoever alone moves the checkpoint.
    pub(crate) async fn of<E>(
        conn: &mut PgConnection,
        log: &Log,
        checkpoint: &Checkpoint,
        state: &StreamState,
    ) -> Result<Self, E>
    where
        E: From<store::Error> + From<LogError>,
    {
        let accepted = accepted_gaps(conn, log).await?;
        let frame_id = log.frame_id_at(checkpoint.seq).await?;
        let known = nats::Checkpoint {
            seq: checkpoint.seq,
            frame_id: checkpoint.frame_id.clone(),
            stream_created: checkpoint.stream_created,
        };
        let Err(stop) = check_start(&known, state, frame_id.as_deref(), &accepted) else {
            return Ok(Self::Same);
        };
        let truncated = matches!(stop, Stop::StreamTruncated { .. } | Stop::OtherFrame { .. });
        let lost_from =
            if truncated { gaps::lost_from(conn, log.stream().as_str(), checkpoint).await? } else { None };
        Ok(match lost_from {
            Some(from) => Self::Lost { whole_to: from - 1, stop },
            None => Self::Other(stop),
        })
    }

    /// The reason why the checkpoint does not hold as it is, if it does not.
    pub(crate) fn into_stop(self) -> Option<Stop> {
        match self {
            Self::Same => None,
            Self::Lost { stop, .. } | Self::Other(stop) => Some(stop),
        }
    }
}

/// The sequence of the live checkpoint, if what it stands for is still in the stream.
pub(crate) async fn sound_checkpoint<E>(conn: &mut PgConnection, log: &Log) -> Result<u64, E>
where
    E: From<store::Error> + From<LogError> + From<Stop>,
{
    let checkpoint = checkpoint::read(conn, PARTITION).await?;
    let state = log.state().await?;
    match LogCheck::of::<E>(conn, log, &checkpoint, &state).await?.into_stop() {
        None => Ok(checkpoint.seq),
        Some(stop) => Err(stop.into()),
    }
}
