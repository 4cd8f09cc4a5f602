//! Continuity of the log: a pure check of one frame after the other against what came before.
//!
//! Two things are proven: stream sequences follow each other without a hole, and so does every producer's own
//! counter. The first finds frames that the server lost, the second finds them even where sequences were
//! reused. A retry concerns only a producer's *last* frame: the same counter with the same checksum is a
//! duplicate, with another checksum it is a conflict. A producer that merely ends is no gap.

use std::collections::HashMap;
use std::fmt;
use std::ops::RangeInclusive;

use chrono::{DateTime, Utc};
use events::GapKind;
use uuid::Uuid;

use crate::frame::{Damage, FrameHeader, RawFrame};
use crate::stream::{StreamName, StreamState};

/// The last frame seen of one producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerState {
    /// Its counter.
    pub n: u64,
    /// The checksum of its body.
    pub crc32c: u32,
    /// Its stream sequence.
    pub seq: u64,
}

/// A range of sequences that an operator accepted as lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedGap {
    /// The range, both ends included.
    pub seqs: RangeInclusive<u64>,
    /// Its fault.
    pub kind: GapKind,
}

/// Position that a projection has reached, as its database says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The last sequence applied, 0 before the first.
    pub seq: u64,
    /// The message id of that frame, empty where it has none or the frame was an accepted gap.
    pub frame_id: String,
    /// Creation of the stream that it was read from, if it is known yet.
    pub stream_created: Option<DateTime<Utc>>,
}

/// Verdict on a frame: what to do with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The next frame: apply its events.
    Apply(FrameHeader),
    /// A retry of its producer's last frame, which was applied: pass it.
    SkipDuplicate,
    /// Broken, but an operator accepted that: pass it.
    SkipAccepted,
    /// The log is not whole here. Nothing of this frame may be applied.
    Stop(Stop),
}

/// A producer whose counter does not go on where it stood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jump {
    /// The producer.
    pub producer: Uuid,
    /// The counter that would have been next.
    pub expected: u64,
    /// The counter that came.
    pub found: u64,
}

impl fmt::Display for Jump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { producer, expected, found } = self;
        write!(f, "producer {producer} goes on with frame {found} instead of {expected}")
    }
}

/// Why reading must stop. Its text names the stream, the sequences and the producers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// Sequences are not there.
    #[error("stream {stream}: {} missing{}", frames_are(*seq_from, *seq_to), and_jumps(jumps))]
    MissingFrames {
        /// The stream.
        stream: StreamName,
        /// The first missing sequence that nobody accepted.
        seq_from: u64,
        /// The last one.
        seq_to: u64,
        /// Producers that are known to miss frames in this range.
        jumps: Vec<Jump>,
    },
    /// A frame is not what was sent.
    #[error("stream {stream}: frame {seq} (id {msg_id:?}) is damaged: {damage}")]
    Damaged {
        /// The stream.
        stream: StreamName,
        /// The frame's sequence.
        seq: u64,
        /// Its message id, which names producer and counter.
        msg_id: String,
        /// The damage.
        damage: Damage,
    },
    /// Sequences are unbroken, yet frames of a producer are missing before this one.
    #[error("stream {stream}: frames are missing before frame {seq}: {jump}")]
    ProducerGap {
        /// The stream.
        stream: StreamName,
        /// The sequence of the frame that jumps.
        seq: u64,
        /// The jump.
        jump: Jump,
    },
    /// A producer wrote two different frames under one counter, or an older one again.
    #[error(
        "stream {stream}: frame {seq} is frame {n} of producer {producer}, whose frame {last_n} at {last_seq} was \
         another or a later one"
    )]
    ConflictingFrame {
        /// The stream.
        stream: StreamName,
        /// The frame's sequence.
        seq: u64,
        /// Its producer.
        producer: Uuid,
        /// Its counter.
        n: u64,
        /// The producer's last counter so far.
        last_n: u64,
        /// The sequence of that frame.
        last_seq: u64,
    },
    /// A frame came that is not beyond the last one.
    #[error("stream {stream}: frame {seq} came after frame {last_seq}")]
    Reordered {
        /// The stream.
        stream: StreamName,
        /// The frame's sequence.
        seq: u64,
        /// The last sequence before it.
        last_seq: u64,
    },
    /// The stream ends before the checkpoint: its tail was lost or an older copy was restored.
    #[error(
        "stream {stream}: it ends at {last_seq}, but frames up to {checkpoint} were applied: its tail \
         {}..{checkpoint} was lost, or an older copy was restored", last_seq + 1
    )]
    StreamTruncated {
        /// The stream.
        stream: StreamName,
        /// The checkpoint's sequence.
        checkpoint: u64,
        /// The stream's last sequence.
        last_seq: u64,
    },
    /// Another frame stands at the checkpoint: sequences were lost and used again.
    #[error("stream {stream}: frame {seq} was {expected:?} when it was applied and is {found:?} now")]
    OtherFrame {
        /// The stream.
        stream: StreamName,
        /// The checkpoint's sequence.
        seq: u64,
        /// The id of the frame that was applied.
        expected: String,
        /// The id of the frame that is there.
        found: String,
    },
    /// The stream was deleted and made anew.
    #[error(
        "stream {stream}: it was created at {found}, but the projection was made from the one created at {expected}; \
         restore that stream, or run `usage-ledger rebuild`, which makes everything anew from this one"
    )]
    StreamReplaced {
        /// The stream.
        stream: StreamName,
        /// Creation of the checkpoint's stream.
        expected: DateTime<Utc>,
        /// Creation of this one.
        found: DateTime<Utc>,
    },
}

impl Stop {
    /// A short stable name, for metrics and the readiness answer.
    pub fn code(&self) -> &'static str {
        match self {
            Self::MissingFrames { .. } => "missing_frames",
            Self::Damaged { .. } => "damaged_frame",
            Self::ProducerGap { .. } => "producer_gap",
            Self::ConflictingFrame { .. } => "conflicting_frame",
            Self::Reordered { .. } => "reordered",
            Self::StreamTruncated { .. } => "stream_truncated",
            Self::OtherFrame { .. } => "other_frame",
            Self::StreamReplaced { .. } => "stream_replaced",
        }
    }

    /// The range that an operator may accept to go on. None: no acceptance makes this whole.
    pub fn acceptable(&self) -> Option<AcceptedGap> {
        let (seqs, kind) = match *self {
            Self::MissingFrames { seq_from, seq_to, .. } => (seq_from..=seq_to, GapKind::Missing),
            Self::Damaged { seq, .. } => (seq..=seq, GapKind::Damaged),
            Self::ProducerGap { seq, .. } | Self::ConflictingFrame { seq, .. } => {
                (seq..=seq, GapKind::Missing)
            }
            Self::StreamTruncated { checkpoint, last_seq, .. } => {
                (last_seq + 1..=checkpoint, GapKind::Truncated)
            }
            Self::OtherFrame { seq, .. } => (seq..=seq, GapKind::Truncated),
            Self::Reordered { .. } | Self::StreamReplaced { .. } => return None,
        };
        Some(AcceptedGap { seqs, kind })
    }
}

/// Compares a checkpoint with the stream, at start and after every reconnect.
///
/// `frame_id` is the message id of the frame that is at the checkpoint's sequence now, None where no frame is.
/// The caller rewinds the checkpoint of an accepted truncation first.
pub fn check_start(
    checkpoint: &Checkpoint,
    state: &StreamState,
    frame_id: Option<&str>,
    accepted: &[AcceptedGap],
) -> Result<(), Stop> {
    let stream = state.stream.clone();
    if checkpoint.seq == 0 {
        return Ok(());
    }
    if let Some(expected) = checkpoint.stream_created
        && expected != state.created
    {
        return Err(Stop::StreamReplaced { stream, expected, found: state.created });
    }
    if state.last_seq < checkpoint.seq {
        return Err(Stop::StreamTruncated { stream, checkpoint: checkpoint.seq, last_seq: state.last_seq });
    }
    match frame_id {
        Some(found) if found == checkpoint.frame_id => Ok(()),
        Some(found) => Err(Stop::OtherFrame {
            stream,
            seq: checkpoint.seq,
            expected: checkpoint.frame_id.clone(),
            found: found.to_owned(),
        }),
        None if is_passed(accepted, checkpoint.seq) => Ok(()),
        None => {
            let (seq_from, seq_to) = (checkpoint.seq, checkpoint.seq);
            Err(Stop::MissingFrames { stream, seq_from, seq_to, jumps: Vec::new() })
        }
    }
}

/// Knowledge of the log up to one sequence.
#[derive(Clone, Debug)]
pub struct Continuity {
    stream: StreamName,
    last_seq: u64,
    producers: HashMap<Uuid, ProducerState>,
    accepted: Vec<AcceptedGap>,
}

impl Continuity {
    /// Goes on after `last_seq` (0 at the log's start) with the producers as they stood there.
    pub fn new(
        stream: StreamName,
        last_seq: u64,
        producers: HashMap<Uuid, ProducerState>,
        accepted: Vec<AcceptedGap>,
    ) -> Self {
        Self { stream, last_seq, producers, accepted }
    }

    /// The last sequence that was passed.
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// The last frame of `producer`, if any was applied.
    pub fn producer(&self, producer: &Uuid) -> Option<&ProducerState> {
        self.producers.get(producer)
    }

    /// All producers.
    pub fn producers(&self) -> &HashMap<Uuid, ProducerState> {
        &self.producers
    }

    /// Takes over what operators accepted since.
    pub fn set_accepted(&mut self, accepted: Vec<AcceptedGap>) {
        self.accepted = accepted;
    }

    /// Judges the next frame. Anything but a stop moves on; after a stop nothing has changed.
    pub fn check(&mut self, frame: &RawFrame) -> Verdict {
        let verdict = self.judge(frame);
        match &verdict {
            Verdict::Stop(_) => return verdict,
            Verdict::SkipDuplicate | Verdict::SkipAccepted => {}
            Verdict::Apply(header) => {
                let state = ProducerState { n: header.n, crc32c: header.crc32c, seq: frame.seq };
                self.producers.insert(header.producer, state);
            }
        }
        self.last_seq = frame.seq;
        verdict
    }

    /// Judges an end: `last_seq` was the stream's last sequence *before* the reader waited in vain for a frame.
    ///
    /// What is not there by then is missing. Answers whether an accepted gap was passed, which moves
    /// [`Self::last_seq`] to `last_seq`.
    pub fn check_tail(&mut self, last_seq: u64) -> Result<bool, Stop> {
        if last_seq <= self.last_seq {
            return Ok(false);
        }
        if let Some((seq_from, seq_to)) = self.unaccepted(self.last_seq + 1, last_seq) {
            let stream = self.stream.clone();
            return Err(Stop::MissingFrames { stream, seq_from, seq_to, jumps: Vec::new() });
        }
        self.last_seq = last_seq;
        Ok(true)
    }

    /// Names in a [`Stop::MissingFrames`] every producer that jumps in `following`, the frames after the hole.
    #[must_use]
    pub fn name_jumps(&self, stop: Stop, following: &[RawFrame]) -> Stop {
        let Stop::MissingFrames { stream, seq_from, seq_to, .. } = stop else { return stop };
        let mut seen = HashMap::new();
        for header in following.iter().filter_map(|frame| frame.header.as_ref().ok()) {
            seen.entry(header.producer).or_insert(header);
        }
        let mut jumps: Vec<Jump> = seen.into_values().filter_map(|header| self.jump(header)).collect();
        jumps.sort_by_key(|jump| jump.producer);
        Stop::MissingFrames { stream, seq_from, seq_to, jumps }
    }

    fn judge(&self, frame: &RawFrame) -> Verdict {
        let stream = || self.stream.clone();
        let seq = frame.seq;
        if seq <= self.last_seq {
            return Verdict::Stop(Stop::Reordered { stream: stream(), seq, last_seq: self.last_seq });
        }
        if let Some((seq_from, seq_to)) = self.unaccepted(self.last_seq + 1, seq - 1) {
            let stop = Stop::MissingFrames { stream: stream(), seq_from, seq_to, jumps: Vec::new() };
            return Verdict::Stop(self.name_jumps(stop, std::slice::from_ref(frame)));
        }
        let header = match &frame.header {
            Ok(header) => header,
            Err(_) if is_passed(&self.accepted, seq) => return Verdict::SkipAccepted,
            Err(damage) => {
                let (msg_id, damage) = (frame.msg_id.clone(), damage.clone());
                return Verdict::Stop(Stop::Damaged { stream: stream(), seq, msg_id, damage });
            }
        };
        self.judge_producer(seq, header)
    }

    fn judge_producer(&self, seq: u64, header: &FrameHeader) -> Verdict {
        let FrameHeader { producer, n, crc32c, .. } = *header;
        if let Some(last) = self.producers.get(&producer)
            && n <= last.n
        {
            if n == last.n && crc32c == last.crc32c {
                return Verdict::SkipDuplicate;
            }
            if is_passed(&self.accepted, seq) {
                return Verdict::SkipAccepted;
            }
            let (last_n, last_seq, stream) = (last.n, last.seq, self.stream.clone());
            return Verdict::Stop(Stop::ConflictingFrame { stream, seq, producer, n, last_n, last_seq });
        }
        match self.jump(header) {
            Some(jump) if !self.may_jump(seq, &jump) => {
                Verdict::Stop(Stop::ProducerGap { stream: self.stream.clone(), seq, jump })
            }
            _ => Verdict::Apply(*header),
        }
    }

    fn jump(&self, header: &FrameHeader) -> Option<Jump> {
        let expected = self.producers.get(&header.producer).map_or(0, |last| last.n) + 1;
        let jump = Jump { producer: header.producer, expected, found: header.n };
        (header.n > expected).then_some(jump)
    }

    /// A producer may have lost as many frames as accepted gaps have sequences between its last frame and this
    /// one; and a frame that was itself accepted may jump as it likes.
    fn may_jump(&self, seq: u64, jump: &Jump) -> bool {
        if self.accepted.iter().any(|gap| gap.seqs.contains(&seq)) {
            return true;
        }
        let after = self.producers.get(&jump.producer).map_or(0, |last| last.seq);
        jump.found - jump.expected <= self.accepted_between(after, seq)
    }

    /// Counts the sequences strictly between `after` and `before` that were accepted as lost.
    fn accepted_between(&self, after: u64, before: u64) -> u64 {
        let lost = self.accepted.iter().filter(|gap| gap.kind != GapKind::Truncated);
        let mut ranges: Vec<(u64, u64)> = lost.map(|gap| (*gap.seqs.start(), *gap.seqs.end())).collect();
        ranges.sort_unstable();
        // Ranges may overlap; `from` is the first sequence that is not counted yet.
        let (mut from, mut count) = (after + 1, 0);
        for (start, end) in ranges {
            let (start, end) = (start.max(from), end.min(before - 1));
            if start <= end {
                count += end - start + 1;
                from = end + 1;
            }
        }
        count
    }

    /// The first and last sequence of `from..=to` that nobody accepted.
    fn unaccepted(&self, from: u64, to: u64) -> Option<(u64, u64)> {
        let first = first_outside(&self.accepted, from, to)?;
        let mut last = to;
        // Symmetric to `first_outside`, from the other end.
        while let Some(gap) = passing(&self.accepted, last) {
            last = gap.seqs.start() - 1;
        }
        Some((first, last))
    }
}

fn passing(accepted: &[AcceptedGap], seq: u64) -> Option<&AcceptedGap> {
    accepted.iter().find(|gap| gap.kind != GapKind::Truncated && gap.seqs.contains(&seq))
}

fn is_passed(accepted: &[AcceptedGap], seq: u64) -> bool {
    passing(accepted, seq).is_some()
}

fn first_outside(accepted: &[AcceptedGap], from: u64, to: u64) -> Option<u64> {
    let mut seq = from;
    while seq <= to {
        match passing(accepted, seq) {
            Some(gap) => seq = gap.seqs.end() + 1,
            None => return Some(seq),
        }
    }
    None
}

fn frames_are(from: u64, to: u64) -> String {
    if from == to { format!("frame {from} is") } else { format!("frames {from}..{to} are") }
}

fn and_jumps(jumps: &[Jump]) -> String {
    jumps.iter().fold(String::new(), |text, jump| text + "; " + &jump.to_string())
}

#[cfg(test)]
mod tests;
