//! The frame: one JetStream message that carries 1..=1000 events as a CloudEvents JSON batch.
//!
//! Everything that proves a frame whole is in its headers: the producer and its counter (nothing is missing
//! before it), the number of events and a CRC-32C of the body (nothing in it has changed).

use std::fmt;
use std::str::FromStr;

use async_nats::HeaderMap;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use events::Event;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The most events that one frame may carry.
pub const MAX_FRAME_EVENTS: usize = 1_000;
/// The longest body of a frame, in bytes.
pub const MAX_FRAME_BYTES: usize = 512 * 1024;

/// The media type of a frame's body.
pub const CONTENT_TYPE: &str = "application/cloudevents-batch+json";

/// Name of the header that holds a [`FrameHeader`].
pub const FRAME_HEADER: &str = "Ledger-Frame";
pub(crate) const MSG_ID_HEADER: &str = "Nats-Msg-Id";
const CONTENT_TYPE_HEADER: &str = "Content-Type";

/// Room for one event's JSON, in bytes: a call with a sealed address and user agent fits, and what is longer grows.
const EVENT_CAPACITY_BYTES: usize = 768;

/// One event, encoded as a JSON object: what the publisher puts between the commas of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedEvent(pub Bytes);

impl EncodedEvent {
    /// The event's JSON.
    pub fn of(event: &Event<'_>) -> Self {
        let mut json = Vec::with_capacity(EVENT_CAPACITY_BYTES);
        events::encode(event, &mut json);
        Self(json.into())
    }
}

impl From<Vec<u8>> for EncodedEvent {
    fn from(json: Vec<u8>) -> Self {
        Self(Bytes::from(json))
    }
}

impl From<Bytes> for EncodedEvent {
    fn from(json: Bytes) -> Self {
        Self(json)
    }
}

/// Position of an event in the log: the frame's stream sequence, and the event's index in it (from 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Stream sequence of the frame, from 1.
    pub seq: u64,
    /// Index of the event in its frame, from 0.
    pub idx: u16,
}

/// Content of the `Ledger-Frame` header.
///
/// Its text form is `v=1;producer=<uuid>;n=<counter>;count=<events>;crc32c=<8 hex digits>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FrameHeader {
    /// The frame's writer: a new id at every process start, and after every frame of unknown fate.
    pub producer: Uuid,
    /// The producer's own counter, from 1, without holes.
    pub n: u64,
    /// The number of events in the body.
    pub count: u32,
    /// CRC-32C (Castagnoli) of the body.
    pub crc32c: u32,
}

impl FrameHeader {
    /// The header of a body that holds `count` events.
    pub fn of(producer: Uuid, n: u64, count: u32, body: &[u8]) -> Self {
        Self { producer, n, count, crc32c: crc32c::crc32c(body) }
    }

    /// `<producer>-<n>`, the `Nats-Msg-Id` by which the server recognises a retry.
    pub fn msg_id(&self) -> String {
        format!("{}-{}", self.producer, self.n)
    }

    /// All headers of the frame's message.
    pub fn to_headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(MSG_ID_HEADER, self.msg_id());
        headers.insert(CONTENT_TYPE_HEADER, CONTENT_TYPE);
        headers.insert(FRAME_HEADER, self.to_string());
        headers
    }

    /// Reads a frame's header and proves that `body` and the message id belong to it.
    pub fn from_message(headers: Option<&HeaderMap>, body: &[u8]) -> Result<Self, Damage> {
        let text = headers.and_then(|h| h.get(FRAME_HEADER)).ok_or(Damage::NoHeader)?;
        let header: Self = text.as_str().parse()?;
        let msg_id = headers.and_then(|h| h.get(MSG_ID_HEADER)).map_or("", |id| id.as_str());
        if msg_id != header.msg_id() {
            return Err(Damage::IdMismatch { header: header.msg_id(), msg_id: printable(msg_id) });
        }
        let found = crc32c::crc32c(body);
        if found != header.crc32c {
            return Err(Damage::Checksum {
                producer: header.producer,
                n: header.n,
                expected: header.crc32c,
                found,
            });
        }
        Ok(header)
    }
}

impl fmt::Display for FrameHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { producer, n, count, crc32c } = self;
        write!(f, "v=1;producer={producer};n={n};count={count};crc32c={crc32c:08x}")
    }
}

impl FromStr for FrameHeader {
    type Err = Damage;

    /// Strict: the fields in their order and canonical form, nothing after them. Only our own publisher writes
    /// this header, so any deviation is damage.
    fn from_str(text: &str) -> Result<Self, Damage> {
        let malformed = || Damage::Malformed(printable(text));
        let rest = text.strip_prefix("v=").ok_or_else(malformed)?;
        let (version, rest) = rest.split_once(';').ok_or_else(malformed)?;
        if version != "1" {
            return Err(Damage::Version(printable(version)));
        }
        let mut fields = rest.split(';');
        let mut field = |name: &str| -> Option<&str> { fields.next()?.strip_prefix(name)?.strip_prefix('=') };
        let header = (|| {
            let producer = Uuid::try_parse(field("producer")?).ok()?;
            let n = field("n")?.parse().ok()?;
            let count = field("count")?.parse().ok()?;
            let crc32c = u32::from_str_radix(field("crc32c")?, 16).ok()?;
            Some(Self { producer, n, count, crc32c })
        })()
        .ok_or_else(malformed)?;
        let limits_hold = header.n >= 1 && (1..=MAX_FRAME_EVENTS).contains(&(header.count as usize));
        // The canonical form is the only one that round-trips, which rules out `+1`, `01` and trailing fields.
        if !limits_hold || header.to_string() != text {
            return Err(malformed());
        }
        Ok(header)
    }
}

/// Why a message of the stream is not a whole frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The message has no `Ledger-Frame` header: something else wrote it.
    #[error("it has no {FRAME_HEADER} header")]
    NoHeader,
    /// The header can't be read.
    #[error("its {FRAME_HEADER} header is malformed: {0}")]
    Malformed(String),
    /// A newer version of this program wrote the frame.
    #[error("its {FRAME_HEADER} header has version {0}, this program reads version 1")]
    Version(String),
    /// The message id and the frame header name different frames.
    #[error("its message id is {msg_id}, its {FRAME_HEADER} header says {header}")]
    IdMismatch {
        /// The id by the frame header.
        header: String,
        /// The id by `Nats-Msg-Id`.
        msg_id: String,
    },
    /// The body is not the one that was sent.
    #[error(
        "the checksum of its body is {found:08x}, but producer {producer} sent frame {n} with {expected:08x}"
    )]
    Checksum {
        /// The frame's producer.
        producer: Uuid,
        /// The producer's counter.
        n: u64,
        /// The checksum in the header.
        expected: u32,
        /// The checksum of the body as read.
        found: u32,
    },
}

/// One message of the stream as it was read, proven or not.
#[derive(Clone, Debug)]
pub struct RawFrame {
    /// Stream sequence, from 1.
    pub seq: u64,
    /// The instant at which the server stored it.
    pub time: DateTime<Utc>,
    /// `Nats-Msg-Id`, empty where there is none. The frame's id in checkpoints.
    pub msg_id: String,
    /// The header, when header, message id and checksum agree with the body.
    pub header: Result<FrameHeader, Damage>,
    /// The body: a JSON array of events.
    pub body: Bytes,
}

impl RawFrame {
    pub(crate) fn new(seq: u64, time: DateTime<Utc>, headers: Option<&HeaderMap>, body: Bytes) -> Self {
        let header = FrameHeader::from_message(headers, &body);
        let msg_id = headers.and_then(|h| h.get(MSG_ID_HEADER)).map_or("", |id| id.as_str());
        Self { seq, time, msg_id: printable(msg_id), header, body }
    }

    /// The number of events that the header claims; 0 for a damaged frame.
    pub fn count(&self) -> usize {
        self.header.as_ref().map_or(0, |header| header.count as usize)
    }
}

/// Foreign text on its way into messages and the database: bounded, without control characters.
fn printable(text: &str) -> String {
    const MAX_CHARS: usize = 200;
    text.chars().filter(|c| !c.is_control()).take(MAX_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> FrameHeader {
        FrameHeader::of(Uuid::from_u128(7), 3, 2, b"[{},{}]")
    }

    #[test]
    fn text_form_is_the_documented_one() {
        let text = "v=1;producer=00000000-0000-0000-0000-000000000007;n=3;count=2;crc32c=";
        assert!(header().to_string().starts_with(text), "{}", header());
        assert_eq!(header().to_string().parse(), Ok(header()));
        assert_eq!(header().msg_id(), "00000000-0000-0000-0000-000000000007-3");
    }

    #[test]
    fn crc_is_castagnoli() {
        // The check value of CRC-32C in RFC 3720, appendix B.4 and in every catalogue.
        assert_eq!(FrameHeader::of(Uuid::nil(), 1, 1, b"123456789").crc32c, 0xe306_9283);
    }

    #[test]
    fn headers_prove_the_body() {
        let headers = header().to_headers();
        assert_eq!(FrameHeader::from_message(Some(&headers), b"[{},{}]"), Ok(header()));
        let changed = FrameHeader::from_message(Some(&headers), b"[{},{ ]");
        assert!(matches!(changed, Err(Damage::Checksum { n: 3, .. })), "{changed:?}");
        assert_eq!(FrameHeader::from_message(None, b"[]"), Err(Damage::NoHeader));
    }

    #[test]
    fn another_message_id_is_damage() {
        let mut headers = header().to_headers();
        headers.insert(MSG_ID_HEADER, "something-else");
        let read = FrameHeader::from_message(Some(&headers), b"[{},{}]");
        assert!(matches!(read, Err(Damage::IdMismatch { .. })), "{read:?}");
    }

    #[test]
    fn only_the_canonical_form_is_read() {
        let good = header().to_string();
        for bad in [
            "",
            "v=1",
            &good.replace("n=3", "n=0"),
            &good.replace("n=3", "n=+3"),
            &good.replace("n=3", "n=03"),
            &good.replace("count=2", "count=0"),
            &good.replace("count=2", "count=1001"),
            &good.replace("count", "counts"),
            &good.replace("n=3", "n=99999999999999999999"),
            &format!("{good};x=1"),
            &format!("{good} "),
        ] {
            assert!(matches!(bad.parse::<FrameHeader>(), Err(Damage::Malformed(_))), "{bad:?} was read");
        }
        let newer = good.replace("v=1", "v=2").parse::<FrameHeader>();
        assert_eq!(newer, Err(Damage::Version("2".to_owned())));
    }
}
