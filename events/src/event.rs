//! The envelope: a `CloudEvent` of a user.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use ledger::{UserId, derived_id};
use uuid::Uuid;

use crate::body::Body;
use crate::error::{EventError, EventErrorKind};
use crate::sealed::SealedJson;

/// Largest event, in bytes of its JSON.
pub const MAX_EVENT_BYTES: usize = 16 * 1024;

/// Prefix of our own sources; clients may not use it.
pub const RESERVED_SOURCE_PREFIX: &str = "urn:usage-ledger:";
/// Events that the api made: calls that it admitted, plan changes, resets.
pub const SOURCE_API: &str = "urn:usage-ledger:api";
/// Events that the worker made: closed periods, thresholds, generations of claims.
pub const SOURCE_WORKER: &str = "urn:usage-ledger:worker";
/// Events that an operator made on the command line.
pub const SOURCE_CLI: &str = "urn:usage-ledger:cli";
/// Calls that `import` read from a file. Their ids come from the file, so they are claimed like a client's.
pub const SOURCE_IMPORT: &str = "urn:usage-ledger:import";
/// Sources whose ids we made ourselves, fresh and unique.
pub const OWN_SOURCES: [&str; 3] = [SOURCE_API, SOURCE_WORKER, SOURCE_CLI];

/// A fact of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event<'a> {
    /// Unique within user and source, at most 255 bytes.
    pub id: Cow<'a, str>,
    /// Name of its maker, at most 255 bytes.
    pub source: Cow<'a, str>,
    /// The user whose event it is; `None` for events of the whole ledger only (`period_closed`, `claims_turned`,
    /// `gap_accepted`).
    pub subject: Option<UserId>,
    /// The instant at which it happened, in whole microseconds, from 2000-01-01 to 9999-12-31.
    pub time: DateTime<Utc>,
    /// The body, by its type and version.
    pub body: Body<'a>,
}

impl<'a> Event<'a> {
    /// An event of the api with a fresh `UUIDv7`.
    pub fn by_api(id: Uuid, subject: UserId, time: DateTime<Utc>, body: Body<'a>) -> Self {
        Self::own(SOURCE_API, id, Some(subject), time, body)
    }

    /// An event of one of [`OWN_SOURCES`] with a fresh `UUIDv7`.
    pub fn own(
        source: &'static str,
        id: Uuid,
        subject: Option<UserId>,
        time: DateTime<Utc>,
        body: Body<'a>,
    ) -> Self {
        Self { id: Cow::Owned(id.to_string()), source: Cow::Borrowed(source), subject, time, body }
    }

    /// The id of the event's row: its own id when we made it, else the id derived from user, source and id, so that
    /// the same report gives the same row for ever.
    ///
    /// # Errors
    /// [`EventErrorKind::Invalid`] when an event of our own source has no UUID for an id.
    pub fn row_id(&self) -> Result<Uuid, EventError> {
        if !needs_claim(&self.source) {
            return parse_hyphenated(self.id.as_bytes()).ok_or_else(|| {
                let detail = "the id of an event of our own must be a UUID".to_owned();
                EventError::new(
                    &self.body,
                    EventErrorKind::Invalid { field: "id", code: "invalid_uuid", detail },
                )
            });
        }
        Ok(match self.subject {
            Some(user) => claim_id(user, &self.source, &self.id),
            None => derived_id(&[&[], self.source.as_bytes(), self.id.as_bytes()]),
        })
    }

    /// What is sealed in it of the person behind it ([`crate::Personal`]), if anything is.
    pub const fn personal(&self) -> Option<&SealedJson<'a>> {
        match &self.body {
            Body::ApiCalled(body) => body.personal.as_ref(),
            Body::TokenStored(body) => body.personal.as_ref(),
            Body::TokenDeleted(body) => body.personal.as_ref(),
            Body::TokenUsed(body) => body.personal.as_ref(),
            Body::ApiKeyCreated(body) | Body::ApiKeyChanged(body) => body.personal.as_ref(),
            Body::ApiKeyRotated(body) => body.personal.as_ref(),
            Body::ApiKeyRevoked(body) => body.personal.as_ref(),
            Body::Account(_, body) => body.personal.as_ref(),
            Body::CallCompleted(_)
            | Body::LimitRejected(_)
            | Body::OwnCalls(_)
            | Body::LimitThresholdCrossed(_)
            | Body::UsageReset(_)
            | Body::PlanChanged(_)
            | Body::PeriodClosed(_)
            | Body::ClaimsTurned(_)
            | Body::GapAccepted(_)
            | Body::UserErased(_)
            | Body::AuthFailed(_)
            | Body::Unknown { .. } => None,
        }
    }

    /// An event that borrows nothing.
    pub fn into_owned(self) -> Event<'static> {
        Event {
            id: Cow::Owned(self.id.into_owned()),
            source: Cow::Owned(self.source.into_owned()),
            subject: self.subject,
            time: self.time,
            body: self.body.into_owned(),
        }
    }
}

/// The id of the row and of the claim of what `source` reports of this user under this id: the same for ever.
pub fn claim_id(user: UserId, source: &str, id: &str) -> Uuid {
    let mut buffer = Uuid::encode_buffer();
    let user = user.get().hyphenated().encode_lower(&mut buffer);
    derived_id(&[user.as_bytes(), source.as_bytes(), id.as_bytes()])
}

/// Whether ids of this source were chosen by a client (or came from a file), so that the projector must claim them.
pub fn needs_claim(source: &str) -> bool {
    !OWN_SOURCES.contains(&source)
}

/// Whether clients may not use this source.
pub fn is_reserved_source(source: &str) -> bool {
    source.starts_with(RESERVED_SOURCE_PREFIX)
}

/// A UUID in its 36-character form.
pub(crate) fn parse_hyphenated(text: &[u8]) -> Option<Uuid> {
    (text.len() == 36).then(|| Uuid::try_parse_ascii(text).ok()).flatten()
}
