//! What is kept of one user that an erasure must not leave.

use chrono::{DateTime, Utc};
use ledger::UserId;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::Error;
use crate::identity::erasure::personal_tables;

/// What log and account say of a user's erasure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// When the user was erased, if so.
    pub erased_at: Option<DateTime<Utc>>,
    /// Whether there is an account that is no tombstone.
    pub has_account: bool,
}

/// A stored token as it stands in its row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRow {
    /// Its id.
    pub id: Uuid,
    /// Whose API it opens.
    pub token_type: String,
    /// The sealed token, as JSON.
    pub sealed: String,
}

/// Rows of a table that hold something personal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PersonalRows {
    /// The table, with its schema.
    pub table: String,
    /// How many rows of it.
    pub rows: u64,
}

/// Whether the user is erased.
pub async fn standing(conn: &mut PgConnection, user: UserId) -> Result<Standing, Error> {
    let row = sqlx::query!(
        r#"SELECT COALESCE(e.erased_at, u.erased_at) AS erased_at,
                  COALESCE(u.status <> 'erased', false) AS "has_account!"
           FROM (SELECT $1::uuid AS user_id) given
           LEFT JOIN erased_users e USING (user_id) LEFT JOIN public.users u USING (user_id)"#,
        user.get()
    )
    .fetch_one(conn)
    .await?;
    Ok(Standing { erased_at: row.erased_at, has_account: row.has_account })
}

/// The user's stored tokens.
pub async fn tokens(conn: &mut PgConnection, user: UserId) -> Result<Vec<TokenRow>, Error> {
    let rows = sqlx::query_as!(
        TokenRow,
        r#"SELECT id, token_type, encrypted_token::text AS "sealed!" FROM user_tokens
           WHERE user_id = $1 ORDER BY token_type"#,
        user.get()
    )
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// The tables that hold something personal of the user.
pub async fn personal_rows(conn: &mut PgConnection, user: UserId) -> Result<Vec<PersonalRows>, Error> {
    let mut found = Vec::new();
    for table in personal_tables(conn).await? {
        let (name, is_personal) = (&table.name, table.is_personal());
        // The name is the catalog's, quoted by PostgreSQL.
        let query = format!("SELECT count(*) FROM {name} WHERE user_id = $1 AND {is_personal}");
        let rows: i64 = sqlx::query_scalar(&query).bind(user.get()).fetch_one(&mut *conn).await?;
        if rows > 0 {
            found.push(PersonalRows { table: table.name, rows: rows.unsigned_abs() });
        }
    }
    Ok(found)
}
