//! Accounts: our id, the host's id, and what must stay erasable.

use chrono::{DateTime, Utc};
use ledger::{ExternalId, UserId};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::Error;
use crate::identity::credential_changes::{self, Changed};
use crate::identity::sessions;

/// The channel on which a changed account is announced; the payload is the user's UUID.
pub const CHANNEL: &str = "ledger_users";

/// The part of an account that authentication needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// Our id.
    pub user_id: UserId,
    /// Whether it may be used.
    pub status: AccountStatus,
    /// Whether an admin uses it, or may.
    pub used_by_admin: bool,
    /// Whether its sessions are an admin's.
    pub is_admin: bool,
}

/// Whether an account may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountStatus {
    /// Usable.
    Active,
    /// Barred, until it is made active again.
    Suspended,
    /// Ended for ever: what was known of the person is gone.
    Erased,
}

impl AccountStatus {
    /// The name in the table.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Erased => "erased",
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
    /// Whether an admin uses it, or may.
    pub used_by_admin: bool,
    /// Time at which it was made.
    pub created_at: DateTime<Utc>,
    /// Time of its last change.
    pub updated_at: DateTime<Utc>,
}

/// Change of a field that may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Change<T> {
    /// Leaves it as it is.
    #[default]
    Keep,
    /// Makes it empty.
    Clear,
    /// Sets it to this.
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
    pub external_id: Change<HashedExternalId>,
    /// Address, at most 255 bytes.
    pub email: Change<String>,
    /// Name, at most 255 bytes.
    pub name: Change<String>,
    /// Whether it may be used: active or suspended.
    pub status: Option<AccountStatus>,
}

/// An external id, and the keyed hash of it that outlives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashedExternalId {
    /// The host's id.
    pub id: ExternalId,
    /// The hash that stays when its user is erased.
    pub hash: [u8; 32],
    /// [`ExternalId::earlier_texts`], each with its hash: they name the same user.
    pub earlier: Vec<(String, [u8; 32])>,
}

impl HashedExternalId {
    /// Its texts and their hashes, today's first.
    fn texts(&self) -> impl Iterator<Item = (&str, &[u8; 32])> {
        let earlier = self.earlier.iter().map(|(text, hash)| (text.as_str(), hash));
        std::iter::once((self.id.as_str(), &self.hash)).chain(earlier)
    }
}

/// An account to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewUser {
    /// Our id.
    pub user_id: Uuid,
    /// The host's id, if it has told one.
    pub external_id: Option<ExternalId>,
    /// The hash of the host's id. Without it nothing keeps an erased user's id from coming back.
    pub external_id_hash: Option<[u8; 32]>,
}

impl NewUser {
    /// An account with our id only.
    pub fn unnamed(user_id: Uuid) -> Self {
        Self { user_id, external_id: None, external_id_hash: None }
    }

    /// An account with the host's id.
    pub fn named(user_id: Uuid, external_id: HashedExternalId) -> Self {
        let HashedExternalId { id, hash, earlier: _ } = external_id;
        Self { user_id, external_id: Some(id), external_id_hash: Some(hash) }
    }
}

/// The account of this id.
pub async fn by_id(conn: &mut PgConnection, user: UserId) -> Result<Option<Account>, Error> {
    let row = sqlx::query_as!(
        AccountRow,
        "SELECT user_id, status, used_by_admin, is_admin FROM public.users WHERE user_id = $1",
        user.get()
    )
    .fetch_optional(conn)
    .await?;
    row.map(Account::try_from).transpose()
}

/// The account of this external id, also of one who is erased. Who bears it now goes before who bore it, and today's
/// text before an earlier one.
pub async fn by_external_id(
    conn: &mut PgConnection,
    external: &HashedExternalId,
) -> Result<Option<Account>, Error> {
    let (texts, hashes): (Vec<String>, Vec<Vec<u8>>) =
        external.texts().map(|(text, hash)| (text.to_owned(), hash.to_vec())).unzip();
    let row = sqlx::query_as!(
        AccountRow,
        "SELECT user_id, status, used_by_admin, is_admin FROM public.users
         WHERE external_id = ANY($1) OR external_id_hash = ANY($2)
         ORDER BY array_position($1, external_id), array_position($2, external_id_hash) LIMIT 1",
        &texts,
        &hashes
    )
    .fetch_optional(conn)
    .await?;
    row.map(Account::try_from).transpose()
}

/// User that bears this external id now. Nobody when its user was erased: only its hash ([`by_external_id`]) tells
/// that.
pub async fn named(conn: &mut PgConnection, external: &ExternalId) -> Result<Option<UserId>, Error> {
    let texts: Vec<String> =
        std::iter::once(external.as_str().to_owned()).chain(external.earlier_texts()).collect();
    let found = sqlx::query_scalar!(
        "SELECT user_id FROM public.users WHERE external_id = ANY($1)
         ORDER BY array_position($1, external_id) LIMIT 1",
        &texts
    )
    .fetch_optional(conn)
    .await?;
    Ok(found.map(UserId::new))
}

/// The accounts of these ids, those that there are.
pub async fn find_many(conn: &mut PgConnection, ids: &[Uuid]) -> Result<Vec<Account>, Error> {
    let rows = sqlx::query_as!(
        AccountRow,
        "SELECT user_id, status, used_by_admin, is_admin FROM public.users WHERE user_id = ANY($1)",
        ids
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(Account::try_from).collect()
}

/// The accounts of these external ids, those that there are, each once with the index of its id: as [`by_external_id`]
/// finds them, those of the erased too.
pub async fn find_many_external(
    conn: &mut PgConnection,
    externals: &[HashedExternalId],
) -> Result<Vec<(usize, Account)>, Error> {
    let (mut positions, mut texts, mut hashes) = (Vec::new(), Vec::new(), Vec::new());
    for (position, external) in (0_i64..).zip(externals) {
        for (text, hash) in external.texts() {
            positions.push(position);
            texts.push(text.to_owned());
            hashes.push(hash.to_vec());
        }
    }
    let rows = sqlx::query!(
        r#"SELECT DISTINCT ON (given.position) given.position AS "position!", u.user_id AS "user_id!",
                  u.status AS "status!", u.used_by_admin AS "used_by_admin!", u.is_admin AS "is_admin!"
           FROM UNNEST($1::bigint[], $2::text[], $3::bytea[]) WITH ORDINALITY
               AS given (position, external_id, hash, rank)
           CROSS JOIN LATERAL (
               SELECT user_id, status, used_by_admin, is_admin, false AS is_past FROM public.users
               WHERE external_id = given.external_id
               UNION ALL
               SELECT user_id, status, used_by_admin, is_admin, true AS is_past FROM public.users
               WHERE external_id_hash = given.hash
               LIMIT 1) u
           ORDER BY given.position, u.is_past, given.rank"#,
        &positions,
        &texts,
        &hashes
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            let index = usize::try_from(row.position).unwrap_or(usize::MAX);
            let account = AccountRow {
                user_id: row.user_id,
                status: row.status,
                used_by_admin: row.used_by_admin,
                is_admin: row.is_admin,
            };
            Ok((index, account.try_into()?))
        })
        .collect()
}

/// Makes accounts on the free plan for those of these users that have none; an external id that is taken meanwhile
/// keeps the account that it has, and that of one who was erased gets none. Answers those that were made. Rows are
/// written in the order of the external ids, so that two requests with the same users cannot deadlock.
pub async fn provision(
    conn: &mut PgConnection,
    mut users: Vec<NewUser>,
    now: DateTime<Utc>,
) -> Result<Vec<UserId>, Error> {
    let name = |user: &NewUser| user.external_id.as_ref().map(|external| external.as_str().to_owned());
    users.sort_by_cached_key(|user| (name(user), user.user_id));
    let ids: Vec<Uuid> = users.iter().map(|user| user.user_id).collect();
    let names: Vec<Option<String>> = users.iter().map(name).collect();
    let hashes: Vec<Option<Vec<u8>>> =
        users.iter().map(|user| user.external_id_hash.map(|hash| hash.to_vec())).collect();
    let made = sqlx::query_scalar!(
        "INSERT INTO public.users (user_id, external_id, external_id_hash, created_at, updated_at)
         SELECT user_id, external_id, hash, $4, $4
         FROM UNNEST($1::uuid[], $2::text[], $3::bytea[]) AS given (user_id, external_id, hash)
         ON CONFLICT DO NOTHING RETURNING user_id",
        &ids,
        &names as &[Option<String>],
        &hashes as &[Option<Vec<u8>>],
        now
    )
    .fetch_all(conn)
    .await?;
    Ok(made.into_iter().map(UserId::new).collect())
}

/// The whole account of this id.
pub async fn read(conn: &mut PgConnection, user: UserId) -> Result<Option<User>, Error> {
    let row = sqlx::query_as!(
        UserRow,
        "SELECT user_id, external_id, email, name, status, used_by_admin, created_at, updated_at
         FROM public.users WHERE user_id = $1",
        user.get()
    )
    .fetch_optional(conn)
    .await?;
    row.map(User::try_from).transpose()
}

/// Accounts after this one, in the order of their ids, `limit` at most, each with the address by which it signs in;
/// those of the erased too.
pub async fn page(
    conn: &mut PgConnection,
    after: Option<UserId>,
    limit: u32,
) -> Result<Vec<(User, Option<String>)>, Error> {
    let rows = sqlx::query!(
        r#"SELECT u.user_id, u.external_id, u.email, u.name, u.status, u.used_by_admin, u.created_at, u.updated_at,
                  i.label AS "label?"
           FROM public.users u LEFT JOIN public.identities i ON i.user_id = u.user_id AND i.kind = 'email'
           WHERE u.user_id > $1 ORDER BY u.user_id LIMIT $2"#,
        after.map_or_else(Uuid::nil, UserId::get),
        i64::from(limit)
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            let user = UserRow {
                user_id: row.user_id,
                external_id: row.external_id,
                email: row.email,
                name: row.name,
                status: row.status,
                used_by_admin: row.used_by_admin,
                created_at: row.created_at,
                updated_at: row.updated_at,
            };
            Ok((user.try_into()?, row.label))
        })
        .collect()
}

/// [`read`], for whoever changes it in the same transaction.
pub async fn read_for_update(conn: &mut PgConnection, user: UserId) -> Result<Option<User>, Error> {
    let row = sqlx::query_as!(
        UserRow,
        "SELECT user_id, external_id, email, name, status, used_by_admin, created_at, updated_at
         FROM public.users WHERE user_id = $1 FOR UPDATE",
        user.get()
    )
    .fetch_optional(conn)
    .await?;
    row.map(User::try_from).transpose()
}

/// Changes an account and announces it when the transaction commits. Another status is counted among the changes of
/// credentials. `None` when there is no such account, or it is erased.
///
/// # Errors
/// [`Error::Conflict`] when the external id is another account's, or was that of one who is erased.
pub async fn update(
    conn: &mut PgConnection,
    user: UserId,
    change: &UserChange,
    now: DateTime<Utc>,
) -> Result<Option<User>, Error> {
    let earlier = change.external_id.value().into_iter().flat_map(|external| &external.earlier);
    let earlier: Vec<Vec<u8>> = earlier.map(|(_, hash)| hash.to_vec()).collect();
    let row = sqlx::query_as!(
        UserRow,
        "WITH changed AS (
             UPDATE public.users SET
                 external_id = CASE WHEN $2 THEN $3 ELSE external_id END,
                 -- The hash of an earlier text is taken, too: the constraint says so.
                 external_id_hash = CASE WHEN $2 THEN COALESCE(
                     (SELECT o.external_id_hash FROM public.users o
                      WHERE o.external_id_hash = ANY($11) AND o.user_id <> $1 LIMIT 1), $10)
                     ELSE external_id_hash END,
                 email = CASE WHEN $4 THEN $5 ELSE email END,
                 name = CASE WHEN $6 THEN $7 ELSE name END,
                 status = COALESCE($8, status),
                 updated_at = $9
             WHERE user_id = $1 AND status <> 'erased'
             RETURNING user_id, external_id, email, name, status, used_by_admin, created_at, updated_at),
         announced AS (SELECT pg_notify('ledger_users', user_id::text) FROM changed)
         SELECT changed.* FROM changed, announced",
        user.get(),
        change.external_id.is_made(),
        change.external_id.value().map(|external| external.id.as_str()),
        change.email.is_made(),
        change.email.value().map(String::as_str),
        change.name.is_made(),
        change.name.value().map(String::as_str),
        change.status.map(AccountStatus::as_str),
        now,
        change.external_id.value().map(|external| external.hash.as_slice()),
        &earlier,
    )
    .fetch_optional(&mut *conn)
    .await?;
    match change.status.filter(|_| row.is_some()) {
        // Nobody who was signed in is so again when the account is made active.
        Some(AccountStatus::Suspended) => {
            sessions::end_all(conn, user, None).await?;
        }
        Some(_) => credential_changes::count(conn, Changed::User(user)).await?,
        None => {}
    }
    row.map(User::try_from).transpose()
}

struct AccountRow {
    user_id: Uuid,
    status: String,
    used_by_admin: bool,
    is_admin: bool,
}

impl TryFrom<AccountRow> for Account {
    type Error = Error;

    fn try_from(row: AccountRow) -> Result<Self, Error> {
        Ok(Self {
            user_id: UserId::new(row.user_id),
            status: status(row.status)?,
            used_by_admin: row.used_by_admin,
            is_admin: row.is_admin,
        })
    }
}

struct UserRow {
    user_id: Uuid,
    external_id: Option<String>,
    email: Option<String>,
    name: Option<String>,
    status: String,
    used_by_admin: bool,
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
            used_by_admin: row.used_by_admin,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}

fn status(text: String) -> Result<AccountStatus, Error> {
    match text.as_str() {
        "active" => Ok(AccountStatus::Active),
        "suspended" => Ok(AccountStatus::Suspended),
        "erased" => Ok(AccountStatus::Erased),
        _ => Err(Error::Inconsistent { table: "users", column: "status", value: text }),
    }
}
