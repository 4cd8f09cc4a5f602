//! The stream's definition: one place for its name, its subjects and every setting that durability rests on.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use async_nats::jetstream::stream::{
    Compression, Config, DiscardPolicy, PersistenceMode, RetentionPolicy, StorageType,
};
use chrono::{DateTime, Utc};

/// Time for which the server recognises a repeated message id; a frame is retried for a tenth of it.
pub const DUPLICATE_WINDOW: Duration = Duration::from_mins(10);

/// The name of the stream: 1..=64 letters, digits, `_` or `-`. Its subjects derive from it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StreamName(String);

/// A text that is no [`StreamName`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a stream's name has 1 to 64 letters, digits, `_` or `-`; set NATS_STREAM to such a name, e.g. LEDGER"
)]
pub struct BadStreamName;

impl StreamName {
    /// The name as JetStream knows it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The one subject that frames are published to.
    pub fn subject(&self) -> String {
        format!("{}.frames", self.0)
    }
}

impl FromStr for StreamName {
    type Err = BadStreamName;

    fn from_str(name: &str) -> Result<Self, BadStreamName> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if name.is_empty() || name.len() > 64 || !name.bytes().all(allowed) {
            return Err(BadStreamName);
        }
        Ok(Self(name.to_owned()))
    }
}

impl Default for StreamName {
    fn default() -> Self {
        Self("LEDGER".to_owned())
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// State of the stream: how far it reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamState {
    /// The stream's name.
    pub stream: StreamName,
    /// Creation of the stream: another time means another stream.
    pub created: DateTime<Utc>,
    /// The lowest sequence still there; 1 unless the head was lost. 0 or `last_seq` + 1 for an empty stream.
    pub first_seq: u64,
    /// The highest sequence ever stored, 0 for a new stream.
    pub last_seq: u64,
    /// Frames in the stream. Less than `last_seq` means that frames are missing.
    pub frames: u64,
    /// Bytes on disk, on each replica.
    pub bytes: u64,
}

/// The settings of the log's stream with `replicas` copies (1, 3 or 5).
pub(crate) fn definition(name: &StreamName, replicas: usize) -> Config {
    Config {
        name: name.as_str().to_owned(),
        description: Some(
            "usage-ledger: frames of events, the source of truth; never delete or edit".to_owned(),
        ),
        subjects: vec![name.subject()],
        storage: StorageType::File,
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::New,
        max_bytes: -1,
        max_messages: -1,
        max_messages_per_subject: -1,
        max_message_size: -1,
        max_consumers: -1,
        max_age: Duration::ZERO,
        duplicate_window: DUPLICATE_WINDOW,
        num_replicas: replicas,
        deny_delete: true,
        deny_purge: true,
        compression: Some(Compression::None),
        ..Config::default()
    }
}

/// Every setting that weakens the log, as `setting is X, must be Y`. Empty means that the stream is as it must be.
pub(crate) fn unsafe_settings(name: &StreamName, config: &Config) -> Vec<String> {
    let mut found = Vec::new();
    let mut must = |holds: bool, what: &str| {
        if !holds {
            found.push(what.to_owned());
        }
    };
    must(config.subjects == [name.subject()], &format!("subjects must be {} alone", name.subject()));
    must(config.storage == StorageType::File, "storage must be file");
    must(config.retention == RetentionPolicy::Limits, "retention must be limits");
    must(config.discard == DiscardPolicy::New, "discard must be new");
    must(config.max_bytes <= 0, "max_bytes must be unlimited");
    must(config.max_messages <= 0, "max_msgs must be unlimited");
    must(config.max_messages_per_subject <= 0, "max_msgs_per_subject must be unlimited");
    must(config.max_message_size <= 0, "max_msg_size must be unlimited");
    must(config.max_age.is_zero(), "max_age must be 0");
    must(config.duplicate_window >= DUPLICATE_WINDOW, "duplicate_window must be at least 10m");
    must(config.deny_delete, "deny_delete must be on");
    must(config.deny_purge, "deny_purge must be on");
    must(!config.no_ack, "no_ack must be off");
    must(!config.sealed, "the stream must not be sealed");
    must(!config.allow_rollup, "allow_rollup_hdrs must be off");
    must(!config.allow_message_ttl, "allow_msg_ttl must be off");
    must(!config.allow_message_counter, "allow_msg_counter must be off");
    must(!config.allow_message_schedules, "allow_msg_schedules must be off");
    must(config.persist_mode != Some(PersistenceMode::Async), "persist_mode must not be async");
    must(config.mirror.is_none() && config.sources.is_none(), "it must not mirror or source another stream");
    must(config.subject_transform.is_none(), "subject_transform must be unset");
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_safe_token() {
        assert_eq!("LEDGER_7".parse::<StreamName>().map(|n| n.subject()), Ok("LEDGER_7.frames".to_owned()));
        for bad in ["", "a.b", "a b", "*", ">", "ü", &"x".repeat(65)] {
            assert_eq!(bad.parse::<StreamName>(), Err(BadStreamName), "{bad:?}");
        }
    }

    #[test]
    fn our_own_definition_is_safe_and_weaker_ones_are_named() {
        let name = StreamName::default();
        assert_eq!(unsafe_settings(&name, &definition(&name, 3)), Vec::<String>::new());
        let weak = Config {
            deny_purge: false,
            max_age: Duration::from_hours(1),
            persist_mode: Some(PersistenceMode::Async),
            ..definition(&name, 1)
        };
        let found = unsafe_settings(&name, &weak).join(", ");
        assert_eq!(found, "max_age must be 0, deny_purge must be on, persist_mode must not be async");
    }
}
