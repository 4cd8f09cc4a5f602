//! Bodies of the events of users' tokens and of users' ends: the links of a user's audit chain.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::actor::{Actor, owned};
use crate::sealed::SealedJson;

/// A user handed over a token of a third party. It takes the place of an earlier one of its type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenStored<'a> {
    /// Id of the stored token.
    pub token_id: Uuid,
    /// The token's provider: `github`, `openai`, `anthropic`, `gemini`.
    #[serde(borrow)]
    pub token_type: Cow<'a, str>,
    /// The token, sealed for this user, type and id.
    #[serde(borrow)]
    pub sealed: SealedJson<'a>,
    /// Its mask: what may be shown of it.
    #[serde(borrow)]
    pub masked: Cow<'a, str>,
    /// 16 hexadecimal digits that tell whether two tokens of the user are the same.
    #[serde(borrow)]
    pub fingerprint: Cow<'a, str>,
    /// The actor.
    #[serde(borrow)]
    pub actor: Actor<'a>,
    /// The token's name, and where it came from ([`crate::Personal`]), sealed for this user and this event's id.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub personal: Option<SealedJson<'a>>,
}

/// A stored token was taken away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenDeleted<'a> {
    /// Id of the stored token.
    pub token_id: Uuid,
    /// The token's provider.
    #[serde(borrow)]
    pub token_type: Cow<'a, str>,
    /// The actor.
    #[serde(borrow)]
    pub actor: Actor<'a>,
    /// From where, sealed as in [`TokenStored`].
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub personal: Option<SealedJson<'a>>,
}

/// A stored token is about to be opened and used on the user's behalf. Without this on disk there is no use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenUsed<'a> {
    /// Id of the stored token.
    pub token_id: Uuid,
    /// The token's provider.
    #[serde(borrow)]
    pub token_type: Cow<'a, str>,
    /// The purpose, such as `test`.
    #[serde(borrow)]
    pub purpose: Cow<'a, str>,
    /// The actor.
    #[serde(borrow)]
    pub actor: Actor<'a>,
    /// From where, sealed as in [`TokenStored`].
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub personal: Option<SealedJson<'a>>,
}

/// A user is erased: their data key is to be destroyed, and with it all that it sealed. Holds no personal data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserErased<'a> {
    /// The actor.
    #[serde(borrow)]
    pub actor: Actor<'a>,
}

impl TokenStored<'_> {
    pub(crate) fn into_owned(self) -> TokenStored<'static> {
        TokenStored {
            token_id: self.token_id,
            token_type: owned(self.token_type),
            sealed: self.sealed.into_owned(),
            masked: owned(self.masked),
            fingerprint: owned(self.fingerprint),
            actor: self.actor.into_owned(),
            personal: self.personal.map(SealedJson::into_owned),
        }
    }
}

impl TokenDeleted<'_> {
    pub(crate) fn into_owned(self) -> TokenDeleted<'static> {
        TokenDeleted {
            token_id: self.token_id,
            token_type: owned(self.token_type),
            actor: self.actor.into_owned(),
            personal: self.personal.map(SealedJson::into_owned),
        }
    }
}

impl TokenUsed<'_> {
    pub(crate) fn into_owned(self) -> TokenUsed<'static> {
        TokenUsed {
            token_id: self.token_id,
            token_type: owned(self.token_type),
            purpose: owned(self.purpose),
            actor: self.actor.into_owned(),
            personal: self.personal.map(SealedJson::into_owned),
        }
    }
}
