//! Names by which people sign in: addresses, and accounts elsewhere. Mutable, and erased with their user.

use chrono::{DateTime, Utc};
use ledger::UserId;
use sqlx::PgConnection;

use crate::{Constraint, Error};

/// Kind of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdentityKind {
    /// An e-mail address, in its canonical form.
    Email,
    /// The number that GitHub gives a user for ever.
    GitHub,
}

impl IdentityKind {
    /// The name in the table, and in events.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Email => "email",
            Self::GitHub => "github",
        }
    }
}

/// A name by which somebody signs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The kind.
    pub kind: IdentityKind,
    /// The name in the form in which it is compared.
    pub subject: String,
    /// The name as people write it.
    pub label: String,
    /// When it was shown to be its user's; none is an address that somebody typed.
    pub verified_at: Option<DateTime<Utc>>,
}

/// The user who signs in by this name.
pub async fn user_of(
    conn: &mut PgConnection,
    kind: IdentityKind,
    subject: &str,
) -> Result<Option<UserId>, Error> {
    let user = sqlx::query_scalar!(
        "SELECT user_id FROM public.identities WHERE kind = $1 AND subject = $2",
        kind.as_str(),
        subject
    )
    .fetch_optional(conn)
    .await?;
    Ok(user.map(UserId::new))
}

/// The name of this kind by which the user signs in.
pub async fn identity(
    conn: &mut PgConnection,
    user: UserId,
    kind: IdentityKind,
) -> Result<Option<Identity>, Error> {
    let row = sqlx::query!(
        "SELECT subject, label, verified_at FROM public.identities WHERE user_id = $1 AND kind = $2",
        user.get(),
        kind.as_str()
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| Identity { kind, subject: row.subject, label: row.label, verified_at: row.verified_at }))
}

/// Gives the user a name, within the caller's transaction, which holds the account; `false` when the name is
/// somebody's, or the user has one of the kind.
pub async fn add(
    conn: &mut PgConnection,
    user: UserId,
    identity: &Identity,
    at: DateTime<Utc>,
) -> Result<bool, Error> {
    let added = sqlx::query!(
        "INSERT INTO public.identities (kind, subject, user_id, label, verified_at, created_at)
         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
        identity.kind.as_str(),
        identity.subject,
        user.get(),
        identity.label,
        identity.verified_at,
        at
    )
    .execute(conn)
    .await?;
    Ok(added.rows_affected() == 1)
}

/// Takes the name of this kind from the user; `false` when it has none.
pub async fn remove(conn: &mut PgConnection, user: UserId, kind: IdentityKind) -> Result<bool, Error> {
    let removed = sqlx::query!(
        "DELETE FROM public.identities WHERE user_id = $1 AND kind = $2",
        user.get(),
        kind.as_str()
    )
    .execute(conn)
    .await?;
    Ok(removed.rows_affected() == 1)
}

/// Notes that the user's address was shown to be the user's; `false` if that was known.
pub async fn verify_email(conn: &mut PgConnection, user: UserId, at: DateTime<Utc>) -> Result<bool, Error> {
    let verified = sqlx::query!(
        "UPDATE public.identities SET verified_at = $2
         WHERE user_id = $1 AND kind = 'email' AND verified_at IS NULL",
        user.get(),
        at
    )
    .execute(conn)
    .await?;
    Ok(verified.rows_affected() == 1)
}

/// Deletes all that a user signs in with, its API keys apart, within the caller's transaction, which counts the change.
pub(super) async fn delete_all(conn: &mut PgConnection, user: UserId) -> Result<(), Error> {
    sqlx::query!(
        "WITH passwords AS (DELETE FROM public.passwords WHERE user_id = $1),
              sessions AS (DELETE FROM public.sessions WHERE user_id = $1),
              links AS (DELETE FROM public.one_time_links WHERE user_id = $1),
              factors AS (DELETE FROM public.second_factors WHERE user_id = $1),
              codes AS (DELETE FROM public.recovery_codes WHERE user_id = $1),
              addresses AS (DELETE FROM public.known_addresses WHERE user_id = $1),
              attempts AS (DELETE FROM public.oauth_attempts WHERE user_id = $1)
         DELETE FROM public.identities WHERE user_id = $1",
        user.get()
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Makes a user with this name, within the caller's transaction; `false` when the name is somebody's.
pub async fn register(
    conn: &mut PgConnection,
    user: UserId,
    identity: &Identity,
    name: Option<&str>,
    at: DateTime<Utc>,
) -> Result<bool, Error> {
    let made = sqlx::query!(
        "WITH account AS (
             INSERT INTO public.users (user_id, name, created_at, updated_at)
             SELECT $1, $2, $3, $3
             WHERE NOT EXISTS (SELECT FROM public.identities WHERE kind = $4 AND subject = $5)
             RETURNING user_id)
         INSERT INTO public.identities (kind, subject, user_id, label, verified_at, created_at)
         SELECT $4, $5, user_id, $6, $7, $3 FROM account",
        user.get(),
        name,
        at,
        identity.kind.as_str(),
        identity.subject,
        identity.label,
        identity.verified_at
    )
    .execute(conn)
    .await;
    match made.map_err(Error::from) {
        Ok(made) => Ok(made.rows_affected() == 1),
        // Somebody was quicker; the transaction is over.
        Err(error) if error.conflict() == Some(&Constraint::Identity) => Ok(false),
        Err(error) => Err(error),
    }
}
