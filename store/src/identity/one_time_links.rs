//! Links that are good once: to sign in, to take an invitation, to set a password. Mutable, and erased with their user.

use chrono::{DateTime, Utc};
use credentials::Hash;
use ledger::UserId;
use sqlx::PgConnection;

use crate::Error;

/// What a link is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// Its user is signed in.
    SignIn(UserId),
    /// Its user sets a password.
    PasswordReset(UserId),
    /// Whoever has it makes an account of this address.
    Invitation {
        /// The address in its canonical form.
        email: String,
        /// The address as it was written.
        label: String,
    },
}

/// Kind of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkKind {
    /// [`Purpose::SignIn`].
    SignIn,
    /// [`Purpose::PasswordReset`].
    PasswordReset,
    /// [`Purpose::Invitation`].
    Invitation,
}

impl LinkKind {
    /// The name in the table, and in events.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SignIn => "sign_in",
            Self::PasswordReset => "password_reset",
            Self::Invitation => "invitation",
        }
    }
}

impl Purpose {
    /// The kind.
    pub const fn kind(&self) -> LinkKind {
        match self {
            Self::SignIn(_) => LinkKind::SignIn,
            Self::PasswordReset(_) => LinkKind::PasswordReset,
            Self::Invitation { .. } => LinkKind::Invitation,
        }
    }

    /// The user whom it is for, if that has an account.
    pub const fn user(&self) -> Option<UserId> {
        match self {
            Self::SignIn(user) | Self::PasswordReset(user) => Some(*user),
            Self::Invitation { .. } => None,
        }
    }
}

/// Makes a link in place of earlier ones for the same, within the caller's transaction.
pub async fn insert(
    conn: &mut PgConnection,
    hash: &Hash,
    purpose: &Purpose,
    at: DateTime<Utc>,
    ends_at: DateTime<Utc>,
) -> Result<(), Error> {
    let (kind, user) = (purpose.kind().as_str(), purpose.user().map(UserId::get));
    let (email, label) = match purpose {
        Purpose::Invitation { email, label } => (Some(email.as_str()), Some(label.as_str())),
        Purpose::SignIn(_) | Purpose::PasswordReset(_) => (None, None),
    };
    sqlx::query!(
        "DELETE FROM public.one_time_links
         WHERE kind = $1 AND user_id IS NOT DISTINCT FROM $2 AND email IS NOT DISTINCT FROM $3 OR ends_at <= $4",
        kind,
        user,
        email,
        at
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!(
        "INSERT INTO public.one_time_links (hash, kind, user_id, email, label, created_at, ends_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        hash.as_slice(),
        kind,
        user,
        email,
        label,
        at,
        ends_at
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Uses up the link of this hash and kind, within the caller's transaction; none when there is none that is good at
/// `now`.
pub async fn take(
    conn: &mut PgConnection,
    hash: &Hash,
    kind: LinkKind,
    now: DateTime<Utc>,
) -> Result<Option<Purpose>, Error> {
    let row = sqlx::query!(
        "DELETE FROM public.one_time_links WHERE hash = $1 AND kind = $2 AND ends_at > $3
         RETURNING user_id, email, label",
        hash.as_slice(),
        kind.as_str(),
        now
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.and_then(|row| match (kind, row.user_id, row.email, row.label) {
        (LinkKind::SignIn, Some(user), ..) => Some(Purpose::SignIn(UserId::new(user))),
        (LinkKind::PasswordReset, Some(user), ..) => Some(Purpose::PasswordReset(UserId::new(user))),
        (LinkKind::Invitation, None, Some(email), Some(label)) => Some(Purpose::Invitation { email, label }),
        _ => None,
    }))
}

/// Tells whether there is a link of this hash and kind that is good at `now`. It is not used up.
pub async fn is_good(
    conn: &mut PgConnection,
    hash: &Hash,
    kind: LinkKind,
    now: DateTime<Utc>,
) -> Result<bool, Error> {
    let good = sqlx::query_scalar!(
        "SELECT true FROM public.one_time_links WHERE hash = $1 AND kind = $2 AND ends_at > $3",
        hash.as_slice(),
        kind.as_str(),
        now
    )
    .fetch_optional(conn)
    .await?;
    Ok(good.is_some())
}

/// Ends all links of this user, within the caller's transaction.
pub async fn end_all(conn: &mut PgConnection, user: UserId) -> Result<(), Error> {
    sqlx::query!("DELETE FROM public.one_time_links WHERE user_id = $1", user.get()).execute(conn).await?;
    Ok(())
}
