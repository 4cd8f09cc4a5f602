//! Those who act on accounts.

use std::net::IpAddr;

use axum::http::HeaderMap;
use events::{Actor, ActorKind, Personal, SealedJson};
use ledger::UserId;
use uuid::Uuid;

use crate::http::client::user_agent;
use crate::metering::sealer::{self, SealError, Sealer};

/// The one who acts, and from where.
#[derive(Clone, Debug)]
pub struct By {
    /// The actor, as the event has it.
    pub actor: Actor<'static>,
    /// What is known of the client, if it is the account's own user.
    pub personal: Option<Personal<'static>>,
}

impl By {
    /// The user itself, at this address.
    pub(crate) fn user(user: UserId, address: IpAddr, headers: &HeaderMap) -> Self {
        let agent = user_agent(headers).map(|agent| agent.into_owned().into());
        Self {
            actor: Actor::new(ActorKind::User, user.to_string()),
            personal: Some(Personal::of_client(Some(address), agent)),
        }
    }

    /// A user who is about to be made: what is known of the client is sealed for users who are there.
    pub(crate) fn nobody_yet(user: UserId) -> Self {
        Self { actor: Actor::new(ActorKind::User, user.to_string()), personal: None }
    }

    /// What is known of the client, sealed for `owner` and the event of this id. None where nothing is known, or
    /// nothing can be sealed, as at the command line.
    pub(super) async fn sealed(
        &self,
        sealer: Option<&Sealer>,
        owner: UserId,
        event_id: Uuid,
    ) -> Result<Option<SealedJson<'static>>, SealError> {
        let (Some(sealer), Some(personal)) = (sealer, &self.personal) else { return Ok(None) };
        let key = sealer.data_key(owner).await?;
        sealer::seal(&key, &event_id.to_string(), personal)
    }
}
