//! API keys as they are read: by whoever verifies one, and by its owner.

use chrono::{DateTime, Utc};
use credentials::{Hash, KeyRole, Networks, Scope, Scopes};
use ledger::{KeyId, UserId};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{ApiKey, Terms};
use crate::Error;

/// A key as authentication needs it. It was not revoked when it was read; its times are the caller's to check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its id.
    pub id: KeyId,
    /// Its user.
    pub user: UserId,
    /// The role that it acts in.
    pub role: KeyRole,
    /// What it may do.
    pub terms: Terms,
    /// The end of the secret by which it was found, if another one has taken its place.
    pub secret_ends_at: Option<DateTime<Utc>>,
}

/// A revocation that may not be in the log yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unlogged {
    /// The key.
    pub id: KeyId,
    /// Its user.
    pub user: UserId,
    /// Id of the event.
    pub event_id: Uuid,
    /// Time of the revocation.
    pub at: DateTime<Utc>,
    /// Role in which somebody acted.
    pub actor_kind: String,
    /// The one who acted.
    pub actor_id: String,
}

/// The key that has a secret of this hash, unless it was revoked.
pub async fn find(conn: &mut PgConnection, hash: &Hash) -> Result<Option<Found>, Error> {
    let row = sqlx::query!(
        "SELECT k.key_id, k.user_id, k.role, k.scopes, k.networks, k.budget, k.expires_at, s.ends_at
         FROM public.api_key_secrets s JOIN public.api_keys k USING (key_id)
         WHERE s.hash = $1 AND k.revoked_at IS NULL",
        hash.as_slice()
    )
    .fetch_optional(conn)
    .await?;
    row.map(|row| {
        Ok(Found {
            id: KeyId::new(row.key_id),
            user: UserId::new(row.user_id),
            role: role(row.role)?,
            terms: terms(&row.scopes, &row.networks, row.budget, row.expires_at)?,
            secret_ends_at: row.ends_at,
        })
    })
    .transpose()
}

/// The keys of `owner`, the newest first, at most `limit`; those made before the one of this id, if it is given.
pub async fn list(
    conn: &mut PgConnection,
    owner: UserId,
    before: Option<KeyId>,
    now: DateTime<Utc>,
    limit: u32,
) -> Result<Vec<ApiKey>, Error> {
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT k.key_id, k.user_id, k.name, k.role, k.scopes, k.networks, k.budget, k.created_at, k.created_by,
                  k.expires_at, k.revoked_at, k.last_used_at, s.prefix, s.last_four,
                  (SELECT max(e.ends_at) FROM public.api_key_secrets e
                   WHERE e.key_id = k.key_id AND e.ends_at > $3) AS earlier_end_at
           FROM public.api_keys k
           CROSS JOIN LATERAL (SELECT prefix, last_four FROM public.api_key_secrets n WHERE n.key_id = k.key_id
                               ORDER BY n.created_at DESC, n.ends_at DESC NULLS FIRST LIMIT 1) s
           WHERE k.user_id = $1 AND ($2::uuid IS NULL OR k.key_id < $2)
           ORDER BY k.key_id DESC LIMIT $4"#,
        owner.get(),
        before.map(KeyId::get),
        now,
        i64::from(limit)
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(ApiKey::try_from).collect()
}

/// The key of `owner` of this id.
pub async fn get(
    conn: &mut PgConnection,
    owner: UserId,
    id: KeyId,
    now: DateTime<Utc>,
) -> Result<Option<ApiKey>, Error> {
    let row = sqlx::query_as!(
        Row,
        r#"SELECT k.key_id, k.user_id, k.name, k.role, k.scopes, k.networks, k.budget, k.created_at, k.created_by,
                  k.expires_at, k.revoked_at, k.last_used_at, s.prefix, s.last_four,
                  (SELECT max(e.ends_at) FROM public.api_key_secrets e
                   WHERE e.key_id = k.key_id AND e.ends_at > $3) AS earlier_end_at
           FROM public.api_keys k
           CROSS JOIN LATERAL (SELECT prefix, last_four FROM public.api_key_secrets n WHERE n.key_id = k.key_id
                               ORDER BY n.created_at DESC, n.ends_at DESC NULLS FIRST LIMIT 1) s
           WHERE k.user_id = $1 AND k.key_id = $2"#,
        owner.get(),
        id.get(),
        now
    )
    .fetch_optional(conn)
    .await?;
    row.map(ApiKey::try_from).transpose()
}

/// The user of the key of this id, whoever it is: for operators alone.
pub async fn owner(conn: &mut PgConnection, id: KeyId) -> Result<Option<UserId>, Error> {
    let owner = sqlx::query_scalar!("SELECT user_id FROM public.api_keys WHERE key_id = $1", id.get())
        .fetch_optional(conn)
        .await?;
    Ok(owner.map(UserId::new))
}

/// Number of keys of `owner` that can be used.
pub async fn live(conn: &mut PgConnection, owner: UserId, now: DateTime<Utc>) -> Result<i64, Error> {
    let live = sqlx::query_scalar!(
        r#"SELECT count(*) AS "live!" FROM public.api_keys
           WHERE user_id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2)"#,
        owner.get(),
        now
    )
    .fetch_one(conn)
    .await?;
    Ok(live)
}

/// Revocations before `before` whose events may not be in the log, of whoever's keys: some of them.
pub async fn unlogged(conn: &mut PgConnection, before: DateTime<Utc>) -> Result<Vec<Unlogged>, Error> {
    let rows = sqlx::query!(
        r#"SELECT key_id, user_id, unlogged_id AS "event_id!", revoked_at AS "revoked_at!",
                  unlogged_kind AS "actor_kind!", unlogged_by AS "actor_id!"
           FROM public.api_keys WHERE unlogged_id IS NOT NULL AND revoked_at < $1 LIMIT 100"#,
        before
    )
    .fetch_all(conn)
    .await?;
    let unlogged = rows.into_iter().map(|row| Unlogged {
        id: KeyId::new(row.key_id),
        user: UserId::new(row.user_id),
        event_id: row.event_id,
        at: row.revoked_at,
        actor_kind: row.actor_kind,
        actor_id: row.actor_id,
    });
    Ok(unlogged.collect())
}

struct Row {
    key_id: Uuid,
    user_id: Uuid,
    name: String,
    role: String,
    scopes: Vec<String>,
    networks: Vec<String>,
    budget: Option<i64>,
    created_at: DateTime<Utc>,
    created_by: String,
    expires_at: Option<DateTime<Utc>>,
    revoked_at: Option<DateTime<Utc>>,
    last_used_at: Option<DateTime<Utc>>,
    prefix: String,
    last_four: String,
    earlier_end_at: Option<DateTime<Utc>>,
}

impl TryFrom<Row> for ApiKey {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        Ok(Self {
            id: KeyId::new(row.key_id),
            user: UserId::new(row.user_id),
            name: row.name,
            role: role(row.role)?,
            terms: terms(&row.scopes, &row.networks, row.budget, row.expires_at)?,
            created_at: row.created_at,
            created_by: row.created_by,
            revoked_at: row.revoked_at,
            last_used_at: row.last_used_at,
            prefix: row.prefix,
            last_four: row.last_four,
            earlier_end_at: row.earlier_end_at,
        })
    }
}

fn role(text: String) -> Result<KeyRole, Error> {
    text.parse().map_err(|_| Error::Inconsistent { table: "api_keys", column: "role", value: text })
}

/// Whatever is no scope or network of this program refuses the key, rather than give it more than was meant.
fn terms(
    scopes: &[String],
    networks: &[String],
    budget: Option<i64>,
    expires_at: Option<DateTime<Utc>>,
) -> Result<Terms, Error> {
    let wrong = |column, value: String| Error::Inconsistent { table: "api_keys", column, value };
    let scopes: Result<Scopes, Error> = scopes
        .iter()
        .map(|scope| scope.parse::<Scope>().map_err(|_| wrong("scopes", scope.clone())))
        .collect();
    let networks = Networks::parse(networks).map_err(|error| wrong("networks", error.to_string()))?;
    Ok(Terms { scopes: scopes?, networks, budget: budget.map(i64::unsigned_abs), expires_at })
}
