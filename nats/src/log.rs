//! A handle on the log: its stream, its state, single frames.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::stream::Info;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use chrono::{DateTime, SubsecRound as _, Utc};
use serde::Deserialize;

use crate::connection::{Connection, Link};
use crate::error::{ConnectError, LogError};
use crate::frame::RawFrame;
use crate::stream::{StreamName, StreamState, definition};

/// Longest time that a question to the server may take.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// The log: one stream of one JetStream. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Log(Arc<Connected>);

#[derive(Debug)]
struct Connected {
    connection: Connection,
    link: Link,
}

/// Connects to the log's server. Later losses of the connection are mended without end.
pub async fn connect(connection: &Connection) -> Result<Log, ConnectError> {
    let link = Link::open(connection, false).await?;
    Ok(Log(Arc::new(Connected { connection: connection.clone(), link })))
}

impl Log {
    /// The stream's name.
    pub fn stream(&self) -> &StreamName {
        &self.0.connection.stream
    }

    /// The subject that frames are published to.
    pub fn subject(&self) -> String {
        self.stream().subject()
    }

    /// Address of the log, and the login.
    pub fn connection(&self) -> &Connection {
        &self.0.connection
    }

    /// Whether there is a connection at this moment.
    pub fn is_connected(&self) -> bool {
        self.link().is_connected()
    }

    /// Makes the stream where there is none, with `replicas` copies (1, 3 or 5). An existing one is left as it is:
    /// [`Log::verify`] judges it.
    pub async fn ensure_stream(&self, replicas: usize) -> Result<(), LogError> {
        match self.info().await {
            Err(LogError::NoStream { .. }) => {}
            other => return other.map(|_| ()),
        }
        let config = definition(self.stream(), replicas);
        let payload = serde_json::to_vec(&config).map_err(|source| LogError::Reply { source })?;
        let endpoint = format!("STREAM.CREATE.{}", self.stream());
        let created: Result<Info, _> = self.link().request(&endpoint, payload.into(), REQUEST_TIMEOUT).await;
        match created {
            Ok(_) => {
                tracing::info!(stream = %self.stream(), replicas, "created the log's stream");
                Ok(())
            }
            // Another process was quicker, with settings that differ: they are judged like any others.
            Err(LogError::Server { source }) if source.error_code() == ErrorCode::STREAM_NAME_EXIST => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// State of the stream now.
    pub async fn state(&self) -> Result<StreamState, LogError> {
        let info = self.info().await?;
        Ok(StreamState {
            stream: self.stream().clone(),
            // Whole microseconds: a checkpoint in PostgreSQL keeps no more, and the two are compared.
            created: time_of(info.created.unix_timestamp_nanos()).trunc_subsecs(6),
            first_seq: info.state.first_sequence,
            last_seq: info.state.last_sequence,
            frames: info.state.messages,
            bytes: info.state.bytes,
        })
    }

    /// The frame at `seq`, None where there is none.
    pub async fn frame_at(&self, seq: u64) -> Result<Option<RawFrame>, LogError> {
        if seq == 0 {
            return Ok(None);
        }
        let payload = Bytes::from(format!(r#"{{"seq":{seq}}}"#));
        let endpoint = format!("STREAM.MSG.GET.{}", self.stream());
        let reply: Result<StoredReply, _> = self.link().request(&endpoint, payload, REQUEST_TIMEOUT).await;
        match reply {
            Ok(reply) => reply.message.into_frame().map(Some),
            Err(LogError::Server { source }) if source.error_code() == ErrorCode::NO_MESSAGE_FOUND => {
                Ok(None)
            }
            Err(LogError::Server { source }) if source.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                Err(LogError::NoStream { stream: self.stream().clone() })
            }
            Err(error) => Err(error),
        }
    }

    /// The message id of the frame at `seq`, empty where it has none; None where there is no frame.
    pub async fn frame_id_at(&self, seq: u64) -> Result<Option<String>, LogError> {
        Ok(self.frame_at(seq).await?.map(|frame| frame.msg_id))
    }

    pub(crate) async fn info(&self) -> Result<Info, LogError> {
        let endpoint = format!("STREAM.INFO.{}", self.stream());
        match self.link().request(&endpoint, Bytes::new(), REQUEST_TIMEOUT).await {
            Err(LogError::Server { source }) if source.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                Err(LogError::NoStream { stream: self.stream().clone() })
            }
            other => other,
        }
    }

    pub(crate) fn link(&self) -> &Link {
        &self.0.link
    }

    /// A connection of one's own, which comes about when a server answers.
    pub(crate) async fn open_link(&self) -> Result<Link, ConnectError> {
        Link::open(self.connection(), true).await
    }
}

#[derive(Deserialize)]
struct StoredReply {
    message: Stored,
}

/// A message as `STREAM.MSG.GET` answers it: headers as on the wire, both parts in base64.
#[derive(Deserialize)]
struct Stored {
    seq: u64,
    time: DateTime<Utc>,
    #[serde(default)]
    hdrs: String,
    #[serde(default)]
    data: String,
}

impl Stored {
    fn into_frame(self) -> Result<RawFrame, LogError> {
        let seq = self.seq;
        let unreadable = |reason: String| LogError::Message { seq, reason };
        let decode = |text: &str| BASE64.decode(text).map_err(|error| unreadable(error.to_string()));
        let headers =
            parse_headers(&decode(&self.hdrs)?).ok_or_else(|| unreadable("bad headers".to_owned()))?;
        Ok(RawFrame::new(seq, self.time, Some(&headers), decode(&self.data)?.into()))
    }
}

/// Reads `NATS/1.0\r\nName: value\r\n…\r\n\r\n`. None for anything else; no headers at all is an empty map.
fn parse_headers(wire: &[u8]) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    let text = std::str::from_utf8(wire).ok()?;
    let mut lines = text.split("\r\n");
    if !text.is_empty() && !lines.next()?.starts_with("NATS/1.0") {
        return None;
    }
    for line in lines.filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':')?;
        let name = name.parse::<async_nats::HeaderName>().ok()?;
        headers.append(name, value.trim().parse::<async_nats::HeaderValue>().ok()?);
    }
    Some(headers)
}

/// Nanoseconds since 1970 as a time; those of years that no log reaches become the epoch.
pub(crate) fn time_of(unix_nanos: i128) -> DateTime<Utc> {
    i64::try_from(unix_nanos).map(DateTime::from_timestamp_nanos).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_headers_are_read_as_they_were_sent() {
        let headers =
            parse_headers(b"NATS/1.0\r\nNats-Msg-Id: a-1\r\nLedger-Frame:v=1;x\r\n\r\n").expect("headers");
        assert_eq!(headers.get("Nats-Msg-Id").map(async_nats::HeaderValue::as_str), Some("a-1"));
        assert_eq!(headers.get("Ledger-Frame").map(async_nats::HeaderValue::as_str), Some("v=1;x"));
        assert!(parse_headers(b"").is_some_and(|headers| headers.is_empty()));
        assert!(parse_headers(b"HTTP/1.1\r\n\r\n").is_none());
    }
}
