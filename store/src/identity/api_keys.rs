//! API keys: what they may do, and their secrets' hashes. Mutable, and erased with their user.
//!
//! Every change but that of `last_used_at` is counted ([`credential_changes`]).

use chrono::{DateTime, Utc};
use credentials::{Hash, KeyRole, Networks, Scopes};
use ledger::{KeyId, UserId};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::Error;
use crate::identity::credential_changes::{self, Changed};
use crate::identity::users::Change;

mod read;

pub use read::{Found, Unlogged, find, get, list, live, owner, unlogged};

/// Keys of a user that can be used at a time.
pub const MAX_LIVE: i64 = 50;
/// Keys of a user that are kept after their end, to be shown; the oldest go first.
const MAX_ENDED: i64 = 200;

/// A key, as its owner sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Its id.
    pub id: KeyId,
    /// Its user.
    pub user: UserId,
    /// Its name.
    pub name: String,
    /// The role that it acts in.
    pub role: KeyRole,
    /// What it may do.
    pub terms: Terms,
    /// Time at which it was made.
    pub created_at: DateTime<Utc>,
    /// The one who made it: a user's UUID, or an operator's name.
    pub created_by: String,
    /// Time at which it was revoked, if it was.
    pub revoked_at: Option<DateTime<Utc>>,
    /// Time of its last use, give or take a minute.
    pub last_used_at: Option<DateTime<Utc>>,
    /// Beginning of its newest secret.
    pub prefix: String,
    /// End of its newest secret.
    pub last_four: String,
    /// The end of an earlier secret that is still taken, if there is one.
    pub earlier_end_at: Option<DateTime<Utc>>,
}

/// What a key may do, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Terms {
    /// The parts of its role that it may use.
    pub scopes: Scopes,
    /// Where it may be used from.
    pub networks: Networks,
    /// Units a month; none is as many as the plan has.
    pub budget: Option<u64>,
    /// Its end, if it has one.
    pub expires_at: Option<DateTime<Utc>>,
}

/// A change of a key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyChange {
    /// Its name.
    pub name: Option<String>,
    /// The parts of its role that it may use.
    pub scopes: Option<Scopes>,
    /// Where it may be used from.
    pub networks: Option<Networks>,
    /// Units a month.
    pub budget: Change<u64>,
    /// Its end.
    pub expires_at: Change<DateTime<Utc>>,
}

impl KeyChange {
    /// The terms after the change.
    pub fn applied_to(&self, terms: &Terms) -> Terms {
        fn changed<T: Clone>(before: Option<&T>, change: &Change<T>) -> Option<T> {
            match change {
                Change::Keep => before.cloned(),
                Change::Clear => None,
                Change::Set(value) => Some(value.clone()),
            }
        }
        Terms {
            scopes: self.scopes.unwrap_or(terms.scopes),
            networks: self.networks.clone().unwrap_or_else(|| terms.networks.clone()),
            budget: changed(terms.budget.as_ref(), &self.budget),
            expires_at: changed(terms.expires_at.as_ref(), &self.expires_at),
        }
    }
}

/// A key to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKey {
    /// Its id.
    pub id: KeyId,
    /// Its user.
    pub user: UserId,
    /// Its name, 1 to 255 bytes.
    pub name: String,
    /// The role that it acts in.
    pub role: KeyRole,
    /// What it may do.
    pub terms: Terms,
    /// Time at which it is made.
    pub at: DateTime<Utc>,
    /// The one who makes it.
    pub created_by: String,
    /// Its secret.
    pub secret: NewSecret,
}

/// What is stored of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSecret {
    /// The hash by which it is found.
    pub hash: Hash,
    /// Its beginning, to be shown.
    pub prefix: String,
    /// Its end, to be shown.
    pub last_four: String,
}

/// Whether a key was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    /// It was.
    New,
    /// A key of this id is there: an earlier try made it.
    Before,
    /// The user has [`MAX_LIVE`] already.
    TooMany,
    /// There is no such user, or it was erased.
    NoUser,
}

/// Makes a key, and forgets the user's oldest ones that have ended, within the caller's transaction.
pub async fn insert(conn: &mut PgConnection, new: &NewKey) -> Result<Inserted, Error> {
    // From here on no other key of the user is made until the transaction ends; and whoever erases it waits, and then
    // finds the key.
    let is_there = sqlx::query_scalar!(
        "SELECT true FROM public.users WHERE user_id = $1 AND status <> 'erased' FOR NO KEY UPDATE",
        new.user.get()
    )
    .fetch_optional(&mut *conn)
    .await?;
    if is_there.is_none() {
        return Ok(Inserted::NoUser);
    }
    if get(conn, new.user, new.id, new.at).await?.is_some() {
        return Ok(Inserted::Before);
    }
    if live(conn, new.user, new.at).await? >= MAX_LIVE {
        return Ok(Inserted::TooMany);
    }
    let scopes: Vec<String> = new.terms.scopes.iter().map(|scope| scope.as_str().to_owned()).collect();
    sqlx::query!(
        "INSERT INTO public.api_keys (key_id, user_id, name, role, scopes, networks, budget, created_at, created_by,
                                      expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        new.id.get(),
        new.user.get(),
        new.name,
        new.role.as_str(),
        &scopes,
        &new.terms.networks.texts(),
        budget_column(new.terms.budget),
        new.at,
        new.created_by,
        new.terms.expires_at,
    )
    .execute(&mut *conn)
    .await?;
    insert_secret(conn, new.id, &new.secret, new.at).await?;
    sqlx::query!(
        "DELETE FROM public.api_keys WHERE key_id IN (
             SELECT key_id FROM public.api_keys
             WHERE user_id = $1 AND (revoked_at IS NOT NULL OR expires_at <= $2) AND unlogged_id IS NULL
             ORDER BY key_id DESC OFFSET $3)",
        new.user.get(),
        new.at,
        MAX_ENDED
    )
    .execute(&mut *conn)
    .await?;
    credential_changes::count(conn, Changed::Key(new.id)).await?;
    Ok(Inserted::New)
}

/// Changes the key of `owner`, within the caller's transaction; `false` when there is none, or it was revoked.
pub async fn change(
    conn: &mut PgConnection,
    owner: UserId,
    id: KeyId,
    name: Option<&str>,
    terms: &Terms,
) -> Result<bool, Error> {
    let scopes: Vec<String> = terms.scopes.iter().map(|scope| scope.as_str().to_owned()).collect();
    let changed = sqlx::query!(
        "UPDATE public.api_keys
         SET name = COALESCE($3, name), scopes = $4, networks = $5, budget = $6, expires_at = $7
         WHERE user_id = $1 AND key_id = $2 AND revoked_at IS NULL",
        owner.get(),
        id.get(),
        name,
        &scopes,
        &terms.networks.texts(),
        budget_column(terms.budget),
        terms.expires_at,
    )
    .execute(&mut *conn)
    .await?;
    count_if(conn, id, changed.rows_affected()).await
}

/// Gives the key of `owner` another secret, within the caller's transaction: the one before ends at `earlier_end_at` at
/// the latest, those before that at once. `false` when there is no such key, or it was revoked.
pub async fn rotate(
    conn: &mut PgConnection,
    owner: UserId,
    id: KeyId,
    secret: &NewSecret,
    at: DateTime<Utc>,
    earlier_end_at: DateTime<Utc>,
) -> Result<bool, Error> {
    let is_live = sqlx::query_scalar!(
        "SELECT true FROM public.api_keys WHERE user_id = $1 AND key_id = $2 AND revoked_at IS NULL
         FOR NO KEY UPDATE",
        owner.get(),
        id.get()
    )
    .fetch_optional(&mut *conn)
    .await?;
    if is_live.is_none() {
        return Ok(false);
    }
    // Earlier ones than the present one: they were given an end when it came.
    sqlx::query!("DELETE FROM public.api_key_secrets WHERE key_id = $1 AND ends_at IS NOT NULL", id.get())
        .execute(&mut *conn)
        .await?;
    sqlx::query!(
        "UPDATE public.api_key_secrets SET ends_at = $2 WHERE key_id = $1",
        id.get(),
        earlier_end_at
    )
    .execute(&mut *conn)
    .await?;
    insert_secret(conn, id, secret, at).await?;
    count_if(conn, id, 1).await
}

/// Revokes the key of `owner`, within the caller's transaction, and notes the event that is to tell of it. `false` when
/// there is none, or it was revoked before.
pub async fn revoke(
    conn: &mut PgConnection,
    owner: UserId,
    id: KeyId,
    event_id: Uuid,
    actor: (&str, &str),
    at: DateTime<Utc>,
) -> Result<bool, Error> {
    let revoked = sqlx::query!(
        "UPDATE public.api_keys
         SET revoked_at = $3, unlogged_id = $4, unlogged_kind = $5, unlogged_by = $6
         WHERE user_id = $1 AND key_id = $2 AND revoked_at IS NULL",
        owner.get(),
        id.get(),
        at,
        event_id,
        actor.0,
        actor.1,
    )
    .execute(&mut *conn)
    .await?;
    count_if(conn, id, revoked.rows_affected()).await
}

/// Notes that the event of a revocation is in the log.
pub async fn note_logged(conn: &mut PgConnection, owner: UserId, event_id: Uuid) -> Result<(), Error> {
    sqlx::query!(
        "UPDATE public.api_keys SET unlogged_id = NULL, unlogged_kind = NULL, unlogged_by = NULL
         WHERE user_id = $1 AND unlogged_id = $2",
        owner.get(),
        event_id
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Notes uses of keys. Nobody is told.
pub async fn used(conn: &mut PgConnection, uses: &[(KeyId, DateTime<Utc>)]) -> Result<(), Error> {
    let (keys, times): (Vec<Uuid>, Vec<DateTime<Utc>>) =
        uses.iter().map(|(key, at)| (key.get(), *at)).unzip();
    sqlx::query!(
        "UPDATE public.api_keys k SET last_used_at = GREATEST(k.last_used_at, u.at)
         FROM UNNEST($1::uuid[], $2::timestamptz[]) AS u (key_id, at) WHERE k.key_id = u.key_id",
        &keys,
        &times
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Deletes all keys of a user who is being erased, within the caller's transaction, which counts the change.
pub(super) async fn delete_all(conn: &mut PgConnection, user: UserId) -> Result<(), Error> {
    sqlx::query!("DELETE FROM public.api_keys WHERE user_id = $1", user.get()).execute(conn).await?;
    Ok(())
}

async fn insert_secret(
    conn: &mut PgConnection,
    id: KeyId,
    secret: &NewSecret,
    at: DateTime<Utc>,
) -> Result<(), Error> {
    sqlx::query!(
        "INSERT INTO public.api_key_secrets (hash, key_id, prefix, last_four, created_at) VALUES ($1, $2, $3, $4, $5)",
        secret.hash.as_slice(),
        id.get(),
        secret.prefix,
        secret.last_four,
        at
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Counts a change of this key if there was one.
async fn count_if(conn: &mut PgConnection, id: KeyId, changed: u64) -> Result<bool, Error> {
    if changed > 0 {
        credential_changes::count(conn, Changed::Key(id)).await?;
    }
    Ok(changed > 0)
}

fn budget_column(budget: Option<u64>) -> Option<i64> {
    budget.map(|units| i64::try_from(units).unwrap_or(i64::MAX))
}
