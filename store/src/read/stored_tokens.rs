//! Users' stored tokens. What is in them is read by [`sealed`] alone.

use chrono::{DateTime, Utc};
use ledger::UserId;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::Error;

/// What may be told of a stored token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredToken {
    /// Its id.
    pub id: Uuid,
    /// Whose API it opens.
    pub token_type: String,
    /// What the user calls it.
    pub token_name: Option<String>,
    /// What may be shown of it.
    pub masked: String,
    /// Tells equal tokens of one user.
    pub fingerprint: String,
    /// When it was last used.
    pub last_used: Option<DateTime<Utc>>,
    /// When it was stored.
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    pub updated_at: DateTime<Utc>,
}

/// A stored token as it is sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedToken {
    /// Whose API it opens.
    pub token_type: String,
    /// The sealed token, as JSON.
    pub sealed: String,
}

/// All tokens of `owner`, the newest first: at most one of each type.
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

/// The token of this id, if it is `owner`'s.
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

/// The token of this id as it is sealed, if it is `owner`'s.
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
