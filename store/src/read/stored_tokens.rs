//! Users' stored tokens. What is in them is read by [`sealed`] alone.

use chrono::{DateTime, Utc};
use ledger::UserId;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::Error;

/// The part of a stored token that may be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredToken {
    /// Its id.
    pub id: Uuid,
    /// Provider whose API it opens.
    pub token_type: String,
    /// The user's name for it.
    pub token_name: Option<String>,
    /// The part of it that may be shown.
    pub masked: String,
    /// Tells equal tokens of one user.
    pub fingerprint: String,
    /// Time of its last use.
    pub last_used: Option<DateTime<Utc>>,
    /// Time at which it was stored.
    pub created_at: DateTime<Utc>,
    /// Time of its last change.
    pub updated_at: DateTime<Utc>,
}

/// A stored token as it is sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedToken {
    /// Provider whose API it opens.
    pub token_type: String,
    /// The sealed token, as JSON.
    pub sealed: String,
}

/// All stored tokens of `owner`, the newest first: at most one of each type.
pub async fn list(conn: &mut PgConnection, owner: UserId) -> Result<Vec<StoredToken>, Error> {
    let tokens = sqlx::query_as!(
        StoredToken,
        "SELECT id, token_type, token_name, masked, fingerprint, last_used, created_at, updated_at
         FROM user_tokens WHERE user_id = $1 ORDER BY created_at DESC, id DESC",
        owner.get()
    )
    .fetch_all(conn)
    .await?;
    Ok(tokens)
}

/// The stored token of this id, if it is `owner`'s.
pub async fn get(conn: &mut PgConnection, owner: UserId, id: Uuid) -> Result<Option<StoredToken>, Error> {
    let token = sqlx::query_as!(
        StoredToken,
        "SELECT id, token_type, token_name, masked, fingerprint, last_used, created_at, updated_at
         FROM user_tokens WHERE user_id = $1 AND id = $2",
        owner.get(),
        id
    )
    .fetch_optional(conn)
    .await?;
    Ok(token)
}

/// The stored token of this id as it is sealed, if it is `owner`'s.
pub async fn sealed(conn: &mut PgConnection, owner: UserId, id: Uuid) -> Result<Option<SealedToken>, Error> {
    let token = sqlx::query_as!(
        SealedToken,
        r#"SELECT token_type, encrypted_token::text AS "sealed!" FROM user_tokens WHERE user_id = $1 AND id = $2"#,
        owner.get(),
        id
    )
    .fetch_optional(conn)
    .await?;
    Ok(token)
}
