//! Parts that tokens work with.

use std::sync::Arc;

use events::{Personal, SealedJson};
use ledger::UserId;
use outbound::providers::Providers;
use store::read::stored_tokens::StoredToken;
use uuid::Uuid;

use super::error::TokensError;
use super::request::Client;
use crate::facts::{Projections, Writer};
use crate::http::throttle::Throttle;
use crate::metering::sealer::{self, SealError, Sealer};

/// Users' tokens of third parties. Cheap to clone.
#[derive(Clone)]
pub struct Tokens(pub(super) Arc<Parts>);

/// Parts of [`Tokens`].
pub(crate) struct Parts {
    /// Stored tokens, and what was done with them.
    pub(crate) projections: Projections,
    /// Stores, uses and deletions.
    pub(crate) writer: Writer,
    /// Users' data keys.
    pub(crate) sealer: Sealer,
    /// Providers that are asked whether a token works.
    pub(crate) providers: Providers,
    /// Paces what costs much to read.
    pub(crate) reads: Throttle,
    /// Ten questions a minute per user whether a token works.
    pub(crate) tests: Throttle,
    /// Ten tokens stored or deleted a minute per principal.
    pub(crate) changes: Throttle,
}

impl Tokens {
    /// Works with these.
    pub(crate) fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// Finds what may be told of a stored token.
    pub(super) async fn find(&self, owner: UserId, id: Uuid) -> Result<StoredToken, TokensError> {
        let mut conn = self.0.projections.connection().await?;
        store::read::stored_tokens::get(&mut conn, owner, id).await?.ok_or(TokensError::NoSuchToken)
    }

    /// Seals what is known of the caller and what the user calls the token, for the event of this id in the owner's
    /// chain. An admin is named there as the actor and no more: the address of one person is not kept with another's
    /// data, where that one reads it and only that one's erasure ends it.
    pub(super) async fn seal_personal(
        &self,
        owner: UserId,
        event_id: Uuid,
        client: &Client,
        token_name: Option<&str>,
    ) -> Result<Option<SealedJson<'static>>, SealError> {
        if client.principal.user_id != owner {
            return Ok(None);
        }
        let key = self.0.sealer.data_key(owner).await?;
        let personal = Personal {
            token_name: token_name.map(Into::into),
            ..Personal::of_client(
                Some(client.principal.address),
                client.user_agent.as_deref().map(Into::into),
            )
        };
        sealer::seal(&key, &event_id.to_string(), &personal)
    }
}
