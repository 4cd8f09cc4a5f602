//! Users' data keys, wrapped. What opens them is not in the database.

use chrono::{DateTime, Utc};
use ledger::UserId;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::Error;

/// A data key of a user's as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrappedKey {
    /// Its owner.
    pub user: UserId,
    /// Its name among the user's data keys.
    pub dek_id: String,
    /// The root key that wraps it.
    pub kid: String,
    /// The sealed data key, as JSON.
    pub sealed: String,
}

/// The data keys of these users, those that there are.
pub async fn of_users(conn: &mut PgConnection, users: &[UserId]) -> Result<Vec<WrappedKey>, Error> {
    let users: Vec<Uuid> = users.iter().map(|user| user.get()).collect();
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT user_id, dek_id, kid, sealed::text AS "sealed!" FROM public.user_data_keys
           WHERE user_id = ANY($1) ORDER BY user_id, dek_id"#,
        &users
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(WrappedKey::from).collect())
}

/// Stores new data keys of users who have an account, are not erased, and have no key of this name. Of two processes
/// that do so at once one stores it, and both must read it back. Rows are written in the order of the users, so that
/// they cannot deadlock.
pub async fn insert(
    conn: &mut PgConnection,
    mut keys: Vec<WrappedKey>,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    keys.sort_unstable_by_key(|key| key.user);
    let users: Vec<Uuid> = keys.iter().map(|key| key.user.get()).collect();
    let column = |of: fn(&WrappedKey) -> &String| keys.iter().map(of).cloned().collect::<Vec<String>>();
    sqlx::query!(
        "INSERT INTO public.user_data_keys (user_id, dek_id, kid, sealed, created_at)
         SELECT given.user_id, given.dek_id, given.kid, given.sealed::json, $5
         FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::text[]) WITH ORDINALITY
             AS given (user_id, dek_id, kid, sealed, position)
         JOIN public.users ON users.user_id = given.user_id AND users.status <> 'erased'
         ORDER BY given.position FOR SHARE OF users
         ON CONFLICT DO NOTHING",
        &users,
        &column(|key| &key.dek_id),
        &column(|key| &key.kid),
        &column(|key| &key.sealed),
        now
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The most data keys of a root key that [`counts_at_start`] counts.
const MAX_COUNTED: i64 = 10_000;

/// Number of data keys that each root key wraps, by the root keys' names, as far as a start needs to know: 10,000 if
/// there are more.
pub async fn counts_at_start(conn: &mut PgConnection) -> Result<Vec<(String, u64)>, Error> {
    // A look into the index for each root key, not one at every user.
    let rows = sqlx::query!(
        r#"WITH RECURSIVE kids AS (
               (SELECT min(kid) AS kid FROM public.user_data_keys)
               UNION ALL
               SELECT (SELECT min(k.kid) FROM public.user_data_keys k WHERE k.kid > kids.kid)
               FROM kids WHERE kids.kid IS NOT NULL),
           counted AS (
               SELECT kids.kid, c.count FROM kids
               CROSS JOIN LATERAL (SELECT count(*) FROM (SELECT FROM public.user_data_keys k
                                                         WHERE k.kid = kids.kid LIMIT $1) few) c
               WHERE kids.kid IS NOT NULL
               UNION ALL
               SELECT kid, count(*) FROM public.ledger_data_keys GROUP BY kid)
           SELECT kid AS "kid!", sum(count)::bigint AS "count!" FROM counted GROUP BY kid ORDER BY kid"#,
        MAX_COUNTED
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (row.kid, row.count.unsigned_abs())).collect())
}

/// Number of data keys that each root key wraps, by the root keys' names. Looks at all of them.
pub async fn counts(conn: &mut PgConnection) -> Result<Vec<(String, u64)>, Error> {
    let rows = sqlx::query!(
        r#"SELECT kid AS "kid!", count(*) AS "count!"
           FROM (SELECT kid FROM public.user_data_keys UNION ALL SELECT kid FROM public.ledger_data_keys) keys
           GROUP BY kid ORDER BY kid"#
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (row.kid, row.count.unsigned_abs())).collect())
}

/// Users' next data keys that another root key than `kid` wraps, in the order of users and names, `limit` at most.
pub async fn not_under(
    conn: &mut PgConnection,
    kid: &str,
    after: Option<&WrappedKey>,
    limit: u32,
) -> Result<Vec<WrappedKey>, Error> {
    let (user, dek_id) = after.map_or((Uuid::nil(), ""), |key| (key.user.get(), key.dek_id.as_str()));
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT user_id, dek_id, kid, sealed::text AS "sealed!" FROM public.user_data_keys
           WHERE kid <> $1 AND (user_id, dek_id) > ($2, $3) ORDER BY user_id, dek_id LIMIT $4"#,
        kid,
        user,
        dek_id,
        i64::from(limit)
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(WrappedKey::from).collect())
}

/// Puts users' re-wrapped data keys, each with the root key that wrapped it before, in the place of what is stored.
/// Answers how many were replaced: what is gone or was re-wrapped meanwhile stays as it is.
pub async fn replace(conn: &mut PgConnection, keys: &[(WrappedKey, String)]) -> Result<u64, Error> {
    let users: Vec<Uuid> = keys.iter().map(|(key, _)| key.user.get()).collect();
    let column =
        |of: fn(&(WrappedKey, String)) -> &String| keys.iter().map(of).cloned().collect::<Vec<String>>();
    let replaced = sqlx::query!(
        "UPDATE public.user_data_keys k SET kid = given.kid, sealed = given.sealed::json
         FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[])
             AS given (user_id, dek_id, kid, sealed, old_kid)
         WHERE k.user_id = given.user_id AND k.dek_id = given.dek_id AND k.kid = given.old_kid",
        &users,
        &column(|(key, _)| &key.dek_id),
        &column(|(key, _)| &key.kid),
        &column(|(key, _)| &key.sealed),
        &column(|(_, old_kid)| old_kid)
    )
    .execute(conn)
    .await?;
    Ok(replaced.rows_affected())
}

struct Row {
    user_id: Uuid,
    dek_id: String,
    kid: String,
    sealed: String,
}

impl From<Row> for WrappedKey {
    fn from(row: Row) -> Self {
        Self { user: UserId::new(row.user_id), dek_id: row.dek_id, kid: row.kid, sealed: row.sealed }
    }
}
