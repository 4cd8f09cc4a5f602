//! Destruction of a user's data keys, and what makes the user recognised as erased.

use chrono::{DateTime, Utc};
use ledger::{ExternalId, UserId};
use sqlx::{Connection, PgConnection};
use store::identity::erasure;

use crate::error::KeysError;
use crate::keys::Keys;

impl Keys {
    /// Makes the user's account a tombstone and destroys the data keys, in the database and here; answers how many
    /// there were. To be done when the log says that the user is erased; done again, it changes nothing.
    ///
    /// # Errors
    /// Nothing is changed then. An account that was made without the hash of its external id, by another program, needs
    /// the ledger's own data key.
    pub async fn bury(
        &self,
        conn: &mut PgConnection,
        user: UserId,
        erased_at: DateTime<Utc>,
    ) -> Result<u64, KeysError> {
        let hash = match erasure::unhashed_external_id(conn, user).await?.map(ExternalId::new) {
            Some(Ok(id)) => Some(self.hash_external_id(id).await?.hash),
            // None, or not one that anybody could come with.
            Some(Err(_)) | None => None,
        };
        let mut tx = conn.begin().await.map_err(store::Error::from)?;
        let data_keys = erasure::bury(&mut tx, user, hash.as_ref(), erased_at).await?;
        tx.commit().await.map_err(store::Error::from)?;
        self.forget(&[user]);
        Ok(data_keys)
    }
}
