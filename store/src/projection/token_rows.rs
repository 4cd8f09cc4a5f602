//! Rows of `user_tokens`: the tokens that users have stored. What is in them only the vault can read.

use chrono::{DateTime, Utc};
use ledger::UserId;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{Error, Position};

/// A stored token, as its row is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRow {
    /// Its id.
    pub id: Uuid,
    /// Its owner.
    pub user: UserId,
    /// Provider whose API it opens.
    pub token_type: String,
    /// The sealed token, as JSON.
    pub sealed: String,
    /// The user's name for it.
    pub name: Option<String>,
    /// The part of it that may be shown.
    pub masked: String,
    /// Tells equal tokens of one user.
    pub fingerprint: String,
    /// Time at which it was stored.
    pub at: DateTime<Utc>,
    /// Position of that in the log.
    pub position: Position,
}

/// A use of a stored token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenUse {
    /// The token.
    pub id: Uuid,
    /// Its owner.
    pub user: UserId,
    /// Time of the use.
    pub at: DateTime<Utc>,
    /// Position of that in the log.
    pub position: Position,
}

/// The one stored token that a user has of a type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedToken {
    /// The token.
    pub id: Uuid,
    /// Its owner.
    pub user: UserId,
    /// Provider whose API it opens.
    pub token_type: String,
}

/// The sealed part of a stored token's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedRow {
    /// Its id.
    pub id: Uuid,
    /// Provider whose API it opens.
    pub token_type: String,
    /// The sealed token, as JSON.
    pub sealed: String,
}

/// The stored tokens of these users.
pub async fn of_users(conn: &mut PgConnection, users: &[UserId]) -> Result<Vec<OwnedToken>, Error> {
    let users: Vec<Uuid> = users.iter().map(|user| user.get()).collect();
    let rows =
        sqlx::query!("SELECT id, user_id, token_type FROM user_tokens WHERE user_id = ANY($1)", &users)
            .fetch_all(conn)
            .await?;
    let owned = rows.into_iter().map(|row| OwnedToken {
        id: row.id,
        user: UserId::new(row.user_id),
        token_type: row.token_type,
    });
    Ok(owned.collect())
}

/// The user's stored tokens.
pub async fn sealed_of(conn: &mut PgConnection, user: UserId) -> Result<Vec<SealedRow>, Error> {
    let rows = sqlx::query_as!(
        SealedRow,
        r#"SELECT id, token_type, encrypted_token::text AS "sealed!" FROM user_tokens
           WHERE user_id = $1 ORDER BY token_type"#,
        user.get()
    )
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// Writes stored tokens, one of each user and type, in the place of those that are there.
pub async fn store(conn: &mut PgConnection, tokens: &[TokenRow]) -> Result<(), Error> {
    fn column<T>(tokens: &[TokenRow], of: impl Fn(&TokenRow) -> T) -> Vec<T> {
        tokens.iter().map(of).collect()
    }
    sqlx::query!(
        "INSERT INTO user_tokens (id, user_id, token_type, encrypted_token, token_name, masked, fingerprint, created_at,
             updated_at, log_seq, log_idx)
         SELECT id, user_id, token_type, sealed::json, token_name, masked, fingerprint, at, at, log_seq, log_idx
         FROM UNNEST($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
                     $8::timestamptz[], $9::bigint[], $10::integer[])
             AS given (id, user_id, token_type, sealed, token_name, masked, fingerprint, at, log_seq, log_idx)
         ON CONFLICT (user_id, token_type) DO UPDATE SET
             id = excluded.id, encrypted_token = excluded.encrypted_token, token_name = excluded.token_name,
             masked = excluded.masked, fingerprint = excluded.fingerprint, last_used = NULL,
             created_at = excluded.created_at, updated_at = excluded.updated_at,
             log_seq = excluded.log_seq, log_idx = excluded.log_idx",
        &column(tokens, |token| token.id),
        &column(tokens, |token| token.user.get()),
        &column(tokens, |token| token.token_type.clone()),
        &column(tokens, |token| token.sealed.clone()),
        &column(tokens, |token| token.name.clone()) as &[Option<String>],
        &column(tokens, |token| token.masked.clone()),
        &column(tokens, |token| token.fingerprint.clone()),
        &column(tokens, |token| token.at),
        &column(tokens, |token| token.position.columns().0),
        &column(tokens, |token| token.position.columns().1),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Deletes stored tokens, by user and id, those that are the user's and still there.
pub async fn delete(conn: &mut PgConnection, tokens: &[(UserId, Uuid)]) -> Result<(), Error> {
    let (users, ids): (Vec<Uuid>, Vec<Uuid>) = tokens.iter().map(|(user, id)| (user.get(), *id)).unzip();
    sqlx::query!(
        "DELETE FROM user_tokens t USING UNNEST($1::uuid[], $2::uuid[]) AS given (user_id, id)
         WHERE t.user_id = given.user_id AND t.id = given.id",
        &users,
        &ids
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Deletes all stored tokens of the user.
pub async fn delete_all(conn: &mut PgConnection, user: UserId) -> Result<(), Error> {
    sqlx::query!("DELETE FROM user_tokens WHERE user_id = $1", user.get()).execute(conn).await?;
    Ok(())
}

/// Notes when tokens were last used; of tokens that are gone, nothing. A use that the log has before the token itself
/// is none of it.
pub async fn used(conn: &mut PgConnection, list: &[TokenUse]) -> Result<(), Error> {
    let ids: Vec<Uuid> = list.iter().map(|one| one.id).collect();
    let users: Vec<Uuid> = list.iter().map(|one| one.user.get()).collect();
    let times: Vec<DateTime<Utc>> = list.iter().map(|one| one.at).collect();
    let (log_seqs, log_idxs): (Vec<i64>, Vec<i32>) = list.iter().map(|one| one.position.columns()).unzip();
    sqlx::query!(
        "UPDATE user_tokens t SET last_used = GREATEST(t.last_used, latest.at)
         FROM (SELECT given.id, max(given.at) AS at
               FROM UNNEST($1::uuid[], $2::uuid[], $3::timestamptz[], $4::bigint[], $5::integer[])
                   AS given (id, user_id, at, log_seq, log_idx)
               JOIN user_tokens s ON s.id = given.id AND s.user_id = given.user_id
                   AND (s.log_seq, s.log_idx) < (given.log_seq, given.log_idx)
               GROUP BY given.id) latest
         WHERE t.id = latest.id",
        &ids,
        &users,
        &times,
        &log_seqs,
        &log_idxs,
    )
    .execute(conn)
    .await?;
    Ok(())
}
