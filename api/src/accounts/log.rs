//! What happens to accounts, as the log has it.

use chrono::{DateTime, Utc};
use events::{AccountAction, AccountFact, Body, Event};
use ledger::UserId;
use nats::PublishError;
use uuid::Uuid;

use super::by::By;
use crate::facts::Writer;
use crate::metering::sealer::{SealError, Sealer};

/// Writes what happens to accounts into the log. Cheap to clone.
#[derive(Clone)]
pub struct AccountLog {
    writer: Writer,
    /// Seals what is known of the caller, if anything is.
    sealer: Option<Sealer>,
}

/// What happened to an account is not in the log.
#[derive(Debug, thiserror::Error)]
pub enum AccountLogError {
    /// What is known of the caller cannot be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The event is not in the log, as far as anybody knows.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

impl AccountLog {
    /// Writes through `writer`. Without a `sealer` nothing is said of where the caller was.
    pub fn new(writer: Writer, sealer: Option<Sealer>) -> Self {
        Self { writer, sealer }
    }

    /// The ledger's time.
    pub(crate) fn now(&self) -> DateTime<Utc> {
        self.writer.now()
    }

    /// A new id.
    pub(crate) fn new_id(&self) -> Uuid {
        self.writer.new_id()
    }

    /// Writes that this happened to the user now; answers the event's sequence.
    pub async fn record(
        &self,
        user: UserId,
        action: AccountAction,
        method: Option<&'static str>,
        object_id: Option<Uuid>,
        by: &By,
    ) -> Result<u64, AccountLogError> {
        self.record_at((self.new_id(), self.now()), user, action, method, object_id, by).await
    }

    /// The same as the event of this id, at this time. Written twice, it is projected once.
    pub async fn record_at(
        &self,
        (event_id, at): (Uuid, DateTime<Utc>),
        user: UserId,
        action: AccountAction,
        method: Option<&'static str>,
        object_id: Option<Uuid>,
        by: &By,
    ) -> Result<u64, AccountLogError> {
        let personal = by.sealed(self.sealer.as_ref(), user, event_id).await?;
        // A word of our own: one that is too long would stop the projector.
        let method = method.map(Into::into);
        let fact = AccountFact { method, object_id, actor: by.actor.clone(), personal };
        Ok(self.writer.record(&Event::by_api(event_id, user, at, Body::Account(action, fact))).await?)
    }
}
