//! What operators do about people, at the command line: links that are good once, and bars.

use chrono::{DateTime, TimeDelta, Utc};
use credentials::Secret;
use events::AccountAction;
use ledger::{IdSource, UserId};
use sqlx::{PgConnection, PgPool};
use store::identity::admins;
use store::identity::one_time_links::{self, LinkKind, Purpose};
use store::identity::people::{self, Identity, IdentityKind};
use store::identity::users::{self, AccountStatus, NewUser, UserChange};
use vault::{Entropy as _, EntropyError, OsEntropy};

use super::by::By;
use super::log::{AccountLog, AccountLogError};
use super::transaction::in_transaction;
use crate::http::site::Site;

/// Time for which a link to sign in is good.
const SIGN_IN_FOR: TimeDelta = TimeDelta::minutes(15);
/// Time for which a link to set a password is good.
const RESET_FOR: TimeDelta = TimeDelta::hours(1);
/// Time for which an invitation is good.
const INVITATION_FOR: TimeDelta = TimeDelta::days(7);
/// Makes links and bars people.
#[derive(Clone)]
pub struct People {
    pool: PgPool,
    log: AccountLog,
    site: Site,
    ids: IdSource,
}

/// A link that is good once. Whoever has it is taken for whom it is for.
#[derive(Debug)]
pub struct Link {
    /// Its address: `PUBLIC_URL`, or only the path where that is not set. The secret stands behind the `#`, so that no
    /// server on the way sees it.
    pub url: String,
    /// Its end.
    pub ends_at: DateTime<Utc>,
    /// The user whom it is for, if that has an account.
    pub user: Option<UserId>,
}

/// Reason why there is no link, or nobody is barred.
#[derive(Debug, thiserror::Error)]
pub enum PeopleError {
    /// There is no such user, or it may not sign in.
    #[error("there is no such user, or it is suspended")]
    NoSuchUser,
    /// The address is somebody's.
    #[error("the address is the user {0}'s already; `usage-ledger user reset-link` makes a link for them")]
    AddressTaken(UserId),
    /// Somebody registered the address, who need not be whose it is.
    #[error(
        "somebody has registered this address, who need not be its owner: let the owner take \
         `usage-ledger user reset-link` first, which ends all that was set up before"
    )]
    Unverified,
    /// There are no random bytes.
    #[error("a secret cannot be made")]
    Entropy(#[from] EntropyError),
    /// It is not in the log.
    #[error(transparent)]
    Log(#[from] AccountLogError),
    /// The database is away, or refuses.
    #[error("accounts cannot be read or changed")]
    Store(#[from] store::Error),
}

impl People {
    /// People in `pool`, with what happens to them in the log. Links lead to `site`.
    pub fn new(pool: PgPool, log: AccountLog, site: Site, ids: IdSource) -> Self {
        Self { pool, log, site, ids }
    }

    /// A link by which the administrator signs in: the user of this address if one is given, else the first one that
    /// there is. Where there is none, it is made.
    pub async fn admin_link(&self, email: Option<&Identity>, by: &By) -> Result<Link, PeopleError> {
        let admin = self.administrator(email, by).await?;
        self.link(Purpose::SignIn(admin), SIGN_IN_FOR, by).await
    }

    /// A link by which the user sets a password, and ends all that was signed in.
    pub async fn reset_link(&self, user: UserId, by: &By) -> Result<Link, PeopleError> {
        self.link(Purpose::PasswordReset(user), RESET_FOR, by).await
    }

    /// A link by which somebody makes an account of this address.
    pub async fn invite(&self, email: &Identity, by: &By) -> Result<Link, PeopleError> {
        let mut conn = self.pool.acquire().await.map_err(store::Error::from)?;
        if let Some(user) = people::user_of(&mut conn, IdentityKind::Email, &email.subject).await? {
            return Err(PeopleError::AddressTaken(user));
        }
        drop(conn);
        let purpose = Purpose::Invitation { email: email.subject.clone(), label: email.label.clone() };
        self.link(purpose, INVITATION_FOR, by).await
    }

    /// Bars the user, who is signed out everywhere within a second, or lets it in again.
    pub async fn set_status(&self, user: UserId, status: AccountStatus, by: &By) -> Result<(), PeopleError> {
        self.log.record(user, AccountAction::StatusChanged, Some(status.as_str()), None, by).await?;
        let change = UserChange { status: Some(status), ..UserChange::default() };
        let now = self.log.now();
        let changed =
            self.in_transaction(async |tx| Ok(users::update(tx, user, &change, now).await?)).await?;
        changed.map(|_| ()).ok_or(PeopleError::NoSuchUser)
    }

    async fn administrator(&self, email: Option<&Identity>, by: &By) -> Result<UserId, PeopleError> {
        let mut conn = self.pool.acquire().await.map_err(store::Error::from)?;
        let named = match email {
            Some(email) => {
                let user = people::user_of(&mut conn, IdentityKind::Email, &email.subject).await?;
                if let Some(user) = user {
                    let own = people::identity(&mut conn, user, IdentityKind::Email).await?;
                    own.and_then(|own| own.verified_at).ok_or(PeopleError::Unverified)?;
                }
                user
            }
            None => admins::first_admin(&mut conn).await?,
        };
        if let Some(user) = named {
            let account = users::by_id(&mut conn, user).await?.ok_or(PeopleError::NoSuchUser)?;
            if !account.is_admin {
                self.in_transaction(async |tx| Ok(admins::make_admin(tx, user).await?)).await?;
            }
            return Ok(user);
        }
        drop(conn);
        let (user, now) = (UserId::new(self.ids.random_id()), self.log.now());
        self.log.record(user, AccountAction::Registered, Some("admin"), None, by).await?;
        self.in_transaction(async |tx| {
            match email {
                Some(email) => {
                    people::register(tx, user, email, None, now).await?;
                }
                None => {
                    users::provision(tx, vec![NewUser::unnamed(user.get())], now).await?;
                }
            }
            if admins::make_admin(tx, user).await? { Ok(user) } else { Err(PeopleError::NoSuchUser) }
        })
        .await
    }

    async fn link(&self, purpose: Purpose, lasts: TimeDelta, by: &By) -> Result<Link, PeopleError> {
        let secret = Secret::make(|bytes| OsEntropy.fill(bytes))?;
        let (now, kind) = (self.log.now(), purpose.kind());
        let ends_at = now + lasts;
        let user = purpose.user();
        if let Some(user) = user {
            self.log.record(user, AccountAction::LinkMade, Some(kind.as_str()), None, by).await?;
        }
        self.in_transaction(async |tx| {
            if let Some(user) = user
                && !store::identity::sessions::lock_active(tx, user).await?
            {
                return Err(PeopleError::NoSuchUser);
            }
            Ok(one_time_links::insert(tx, &secret.hash(), &purpose, now, ends_at).await?)
        })
        .await?;
        let place = match kind {
            LinkKind::SignIn => "link",
            LinkKind::PasswordReset => "reset",
            LinkKind::Invitation => "invitation",
        };
        let url = self.site.link(&format!("/sign-in#{place}={}", secret.expose()));
        Ok(Link { url, ends_at, user })
    }

    async fn in_transaction<T>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, PeopleError>,
    ) -> Result<T, PeopleError> {
        in_transaction(&self.pool, "changing an account", work).await
    }
}
