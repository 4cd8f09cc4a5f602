//! Bodies of the events of API keys: links of their user's audit chain. They hold neither names nor secrets.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::actor::{Actor, owned};
use crate::sealed::SealedJson;

/// An API key was made, or what it may do was changed: this holds from here on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKeyTerms<'a> {
    /// Id of the key.
    pub key_id: Uuid,
    /// The role that it acts in: `user` or `service`.
    #[serde(borrow)]
    pub role: Cow<'a, str>,
    /// The parts of the role that it may use, [`ApiKeyTerms::MAX_SCOPES`] at most.
    #[serde(borrow)]
    pub scopes: Vec<Cow<'a, str>>,
    /// Number of networks from which alone it is taken; 0 is from anywhere.
    pub networks: u32,
    /// Units a month that it may use; null is as many as its user's plan has.
    pub budget: Option<u64>,
    /// Its end; null is never.
    #[serde(with = "optional_time")]
    pub expires_at: Option<DateTime<Utc>>,
    /// The actor.
    #[serde(borrow)]
    pub actor: Actor<'a>,
    /// From where ([`crate::Personal`]), sealed for this user and this event's id.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub personal: Option<SealedJson<'a>>,
}

/// An API key got another secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKeyRotated<'a> {
    /// Id of the key.
    pub key_id: Uuid,
    /// The end of its earlier secrets.
    #[serde(with = "ledger::time::rfc3339")]
    pub earlier_end_at: DateTime<Utc>,
    /// The actor.
    #[serde(borrow)]
    pub actor: Actor<'a>,
    /// From where, sealed as in [`ApiKeyTerms`].
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub personal: Option<SealedJson<'a>>,
}

/// An API key was revoked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKeyRevoked<'a> {
    /// Id of the key.
    pub key_id: Uuid,
    /// The actor.
    #[serde(borrow)]
    pub actor: Actor<'a>,
    /// From where, sealed as in [`ApiKeyTerms`].
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub personal: Option<SealedJson<'a>>,
}

impl ApiKeyTerms<'_> {
    /// Most scopes of a key.
    pub const MAX_SCOPES: usize = 32;

    pub(crate) fn into_owned(self) -> ApiKeyTerms<'static> {
        ApiKeyTerms {
            key_id: self.key_id,
            role: owned(self.role),
            scopes: self.scopes.into_iter().map(owned).collect(),
            networks: self.networks,
            budget: self.budget,
            expires_at: self.expires_at,
            actor: self.actor.into_owned(),
            personal: self.personal.map(SealedJson::into_owned),
        }
    }
}

impl ApiKeyRotated<'_> {
    pub(crate) fn into_owned(self) -> ApiKeyRotated<'static> {
        ApiKeyRotated {
            key_id: self.key_id,
            earlier_end_at: self.earlier_end_at,
            actor: self.actor.into_owned(),
            personal: self.personal.map(SealedJson::into_owned),
        }
    }
}

impl ApiKeyRevoked<'_> {
    pub(crate) fn into_owned(self) -> ApiKeyRevoked<'static> {
        ApiKeyRevoked {
            key_id: self.key_id,
            actor: self.actor.into_owned(),
            personal: self.personal.map(SealedJson::into_owned),
        }
    }
}

/// A time, or null.
mod optional_time {
    use chrono::{DateTime, Utc};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Time(#[serde(with = "ledger::time::rfc3339")] DateTime<Utc>);

    #[expect(clippy::ref_option, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(time: &Option<DateTime<Utc>>, to: S) -> Result<S::Ok, S::Error> {
        time.map(Time).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<DateTime<Utc>>, D::Error> {
        Ok(Option::<Time>::deserialize(from)?.map(|Time(time)| time))
    }
}
