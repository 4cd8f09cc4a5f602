//! Who has an account: our id, the host's id, and what must stay erasable.

use chrono::{DateTime, Utc};
use ledger::{ExternalId, UserId};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::Error;

/// The channel on which a changed account is announced; the payload is the user's UUID.
pub const CHANNEL: &str = "ledger_users";

/// What authentication needs of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// Our id.
    pub user_id: UserId,
    /// A suspended account may do nothing.
    pub suspended: bool,
}

/// Whether an account may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountStatus {
    /// It may.
    Active,
    /// It may not, until it is made active again.
    Suspended,
}

impl AccountStatus {
    /// As stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
        }
    }
}

/// A whole account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Our id.
    pub user_id: UserId,
    /// The host's id, if it has told one.
    pub external_id: Option<String>,
    /// Address, if known.
    pub email: Option<String>,
    /// Name, if known.
    pub name: Option<String>,
    /// Whether it may be used.
    pub status: AccountStatus,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    pub updated_at: DateTime<Utc>,
}

/// What becomes of a field that may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Change<T> {
    /// It stays as it is.
    #[default]
    Keep,
    /// It becomes empty.
    Clear,
    /// It becomes this.
    Set(T),
}

impl<T> Change<T> {
    /// The same of what `with` makes of the value.
    pub fn map<U>(self, with: impl FnOnce(T) -> U) -> Change<U> {
        match self {
            Self::Keep => Change::Keep,
            Self::Clear => Change::Clear,
            Self::Set(value) => Change::Set(with(value)),
        }
    }

    /// Whether the field changes.
    fn is_made(&self) -> bool {
        !matches!(self, Self::Keep)
    }

    fn value(&self) -> Option<&T> {
        match self {
            Self::Set(value) => Some(value),
            Self::Keep | Self::Clear => None,
        }
    }
}

/// A change of an account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserChange {
    /// The host's id.
    pub external_id: Change<ExternalId>,
    /// Address, at most 255 bytes.
    pub email: Change<String>,
    /// Name, at most 255 bytes.
    pub name: Change<String>,
    /// Whether it may be used.
    pub status: Option<AccountStatus>,
}

/// The account of this id.
pub async fn by_id(conn: &mut PgConnection, user: UserId) -> Result<Option<Account>, Error> {
    let row = sqlx::query_as!(
        AccountRow,
        "SELECT user_id, status FROM public.users WHERE user_id = $1",
        user.get()
    )
    .fetch_optional(conn)
    .await?;
    row.map(Account::try_from).transpose()
}

/// The account of this external id.
pub async fn by_external_id(
    conn: &mut PgConnection,
    external: &ExternalId,
) -> Result<Option<Account>, Error> {
    let row = sqlx::query_as!(
        AccountRow,
        "SELECT user_id, status FROM public.users WHERE external_id = $1",
        external.as_str()
    )
    .fetch_optional(conn)
    .await?;
    row.map(Account::try_from).transpose()
}

/// The accounts of these ids and external ids, those that there are, with the external id of each.
pub async fn find_many(
    conn: &mut PgConnection,
    ids: &[Uuid],
    external_ids: &[String],
) -> Result<Vec<(Account, Option<String>)>, Error> {
    let rows = sqlx::query!(
        "SELECT user_id, status, external_id FROM public.users
         WHERE user_id = ANY($1) OR external_id = ANY($2)",
        ids,
        external_ids
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            let account = AccountRow { user_id: row.user_id, status: row.status };
            Ok((Account::try_from(account)?, row.external_id))
        })
        .collect()
}

/// Makes accounts on the free plan for those of these users that have none. Pairs of our id and external id; an
/// external id that is taken meanwhile keeps the account that it has. Rows are written in the order of the external
/// ids, so that two requests with the same users cannot deadlock.
pub async fn provision(
    conn: &mut PgConnection,
    users: &[(Uuid, Option<String>)],
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let mut users = users.to_vec();
    users.sort_by(|(a_id, a), (b_id, b)| a.cmp(b).then(a_id.cmp(b_id)));
    let (ids, external_ids): (Vec<Uuid>, Vec<Option<String>>) = users.into_iter().unzip();
    sqlx::query!(
        "INSERT INTO public.users (user_id, external_id, created_at, updated_at)
         SELECT user_id, external_id, $3, $3
         FROM UNNEST($1::uuid[], $2::text[]) AS given (user_id, external_id)
         ON CONFLICT DO NOTHING",
        &ids,
        &external_ids as &[Option<String>],
        now
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The whole account of this id.
pub async fn read(conn: &mut PgConnection, user: UserId) -> Result<Option<User>, Error> {
    let row = sqlx::query_as!(
        UserRow,
        "SELECT user_id, external_id, email, name, status, created_at, updated_at
         FROM public.users WHERE user_id = $1",
        user.get()
    )
    .fetch_optional(conn)
    .await?;
    row.map(User::try_from).transpose()
}

/// Changes an account and announces it when the transaction commits. `None` when there is no such account.
///
/// # Errors
/// [`Error::Conflict`] when the external id is another account's.
pub async fn update(
    conn: &mut PgConnection,
    user: UserId,
    change: &UserChange,
    now: DateTime<Utc>,
) -> Result<Option<User>, Error> {
    let row = sqlx::query_as!(
        UserRow,
        "WITH changed AS (
             UPDATE public.users SET
                 external_id = CASE WHEN $2 THEN $3 ELSE external_id END,
                 email = CASE WHEN $4 THEN $5 ELSE email END,
                 name = CASE WHEN $6 THEN $7 ELSE name END,
                 status = COALESCE($8, status),
                 updated_at = $9
             WHERE user_id = $1
             RETURNING user_id, external_id, email, name, status, created_at, updated_at),
         announced AS (SELECT pg_notify('ledger_users', user_id::text) FROM changed)
         SELECT changed.* FROM changed, announced",
        user.get(),
        change.external_id.is_made(),
        change.external_id.value().map(ExternalId::as_str),
        change.email.is_made(),
        change.email.value().map(String::as_str),
        change.name.is_made(),
        change.name.value().map(String::as_str),
        change.status.map(AccountStatus::as_str),
        now
    )
    .fetch_optional(conn)
    .await?;
    row.map(User::try_from).transpose()
}

struct AccountRow {
    user_id: Uuid,
    status: String,
}

impl TryFrom<AccountRow> for Account {
    type Error = Error;

    fn try_from(row: AccountRow) -> Result<Self, Error> {
        let suspended = status(row.status)? == AccountStatus::Suspended;
        Ok(Self { user_id: UserId::new(row.user_id), suspended })
    }
}

struct UserRow {
    user_id: Uuid,
    external_id: Option<String>,
    email: Option<String>,
    name: Option<String>,
    status: String,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl TryFrom<UserRow> for User {
    type Error = Error;

    fn try_from(row: UserRow) -> Result<Self, Error> {
        Ok(Self {
            user_id: UserId::new(row.user_id),
            external_id: row.external_id,
            email: row.email,
            name: row.name,
            status: status(row.status)?,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}

fn status(text: String) -> Result<AccountStatus, Error> {
    match text.as_str() {
        "active" => Ok(AccountStatus::Active),
        "suspended" => Ok(AccountStatus::Suspended),
        _ => Err(Error::Inconsistent { table: "users", column: "status", value: text }),
    }
}
