//! Accounts: from the names by which the outside knows users to ours, with a bounded cache that a change empties.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use data_keys::{Keys, KeysError};
use ledger::{Clock, ExternalId, IdSource, UserId, UserRef};
use quick_cache::sync::Cache;
use sqlx::{PgConnection, PgPool};
use std::collections::HashMap;
use store::identity::users::{Account, NewUser};

/// Accounts remembered by each kind of name.
const CACHED: usize = 100_000;

/// Reason why an account is not found or made, although the question was a good one.
#[derive(Debug, thiserror::Error)]
pub enum AccountsError {
    /// The database is away, or refuses.
    #[error("accounts cannot be read or made")]
    Store(#[from] store::Error),
    /// The host's ids cannot be hashed.
    #[error("external ids cannot be hashed")]
    Keys(#[from] KeysError),
    /// An account that was made just now is not there.
    #[error("a user made just now is not there")]
    Vanished,
}

/// Finds accounts. Cheap to clone.
#[derive(Clone)]
pub struct Accounts(Arc<Parts>);

struct Parts {
    pool: PgPool,
    data_keys: Keys,
    clock: Clock,
    ids: IdSource,
    auto_provision: bool,
    by_id: Cache<UserId, Account>,
    by_external: Cache<ExternalId, Account>,
    /// Counts invalidations: what was read before one must not be remembered after it.
    generation: AtomicU64,
}

impl Accounts {
    /// Looks accounts up through `pool`. With `auto_provision` a user nobody has heard of gets an account on the free
    /// plan.
    pub fn new(pool: PgPool, data_keys: Keys, clock: Clock, auto_provision: bool) -> Self {
        Self(Arc::new(Parts {
            pool,
            data_keys,
            ids: IdSource::new(clock.clone()),
            clock,
            auto_provision,
            by_id: Cache::new(CACHED),
            by_external: Cache::new(CACHED),
            generation: AtomicU64::new(0),
        }))
    }

    /// The account, if it is remembered. Never waits.
    pub fn cached(&self, user: &UserRef) -> Option<Account> {
        match user {
            UserRef::Id(id) => self.0.by_id.get(id),
            UserRef::External(external) => self.0.by_external.get(external),
        }
    }

    /// The account, if there is one; also that of a user who was erased.
    pub async fn find(&self, user: &UserRef) -> Result<Option<Account>, AccountsError> {
        if let Some(account) = self.cached(user) {
            return Ok(Some(account));
        }
        let generation = self.0.generation.load(Ordering::Acquire);
        let mut conn = self.0.pool.acquire().await.map_err(store::Error::from)?;
        let account = self.look_up(&mut conn, user).await?;
        if let Some(account) = account {
            self.remember(user, account, generation);
        }
        Ok(account)
    }

    /// The account; with `AUTO_PROVISION` one is made for a user who has none.
    pub async fn find_or_provision(&self, user: &UserRef) -> Result<Option<Account>, AccountsError> {
        match self.find(user).await? {
            None if self.0.auto_provision => self.provision(std::slice::from_ref(user)).await?,
            found => return Ok(found),
        }
        self.find(user).await
    }

    /// [`Accounts::find_or_provision`] for many at once, in two statements at most. Answers in the order of `users`.
    pub async fn find_or_provision_many(
        &self,
        users: &[UserRef],
    ) -> Result<Vec<Option<Account>>, AccountsError> {
        let mut found = self.find_many(users).await?;
        if self.0.auto_provision {
            let unknown = users.iter().filter(|user| !found.contains_key(*user)).cloned();
            let unknown: Vec<UserRef> = unknown.collect();
            if !unknown.is_empty() {
                self.provision(&unknown).await?;
                found.extend(self.find_many(&unknown).await?);
            }
        }
        Ok(users.iter().map(|user| found.get(user).copied()).collect())
    }

    /// Tells of each whether it names `own`, by what the row of `own` says: nothing is looked up of others. The row is
    /// read once, anew each time, if a name of the host's is among them.
    pub(crate) async fn are_own(
        &self,
        own: UserId,
        users: &[Option<UserRef>],
    ) -> Result<Vec<bool>, AccountsError> {
        let by_name = users.iter().any(|user| matches!(user, Some(UserRef::External(_))));
        let name = if by_name { self.name_of(own).await? } else { None };
        let is_own = |user: &UserRef| match user {
            UserRef::Id(id) => *id == own,
            UserRef::External(external) => name.as_ref().is_some_and(|name| external.is_stored_as(name)),
        };
        Ok(users.iter().map(|user| user.as_ref().is_some_and(is_own)).collect())
    }

    async fn name_of(&self, user: UserId) -> Result<Option<String>, AccountsError> {
        let mut conn = self.0.pool.acquire().await.map_err(store::Error::from)?;
        Ok(store::identity::users::read(&mut conn, user).await?.and_then(|account| account.external_id))
    }

    /// Notes that an admin uses this account: its status is an admin's alone from now on.
    pub(super) async fn mark_admin(&self, user: UserId) -> Result<(), AccountsError> {
        let mut conn = self.0.pool.acquire().await.map_err(store::Error::from)?;
        store::identity::admins::mark_admin(&mut conn, user).await?;
        self.forget(&[user]);
        Ok(())
    }

    /// Holds the root keys against the database, where that was not done at the start.
    pub(super) async fn prove_root_keys(&self) -> Result<(), AccountsError> {
        let mut conn = self.0.pool.acquire().await.map_err(store::Error::from)?;
        Ok(self.0.data_keys.prove(&mut conn).await?)
    }

    /// Forgets changed accounts. Called for every notification.
    pub(crate) fn forget(&self, changed: &[UserId]) {
        self.0.generation.fetch_add(1, Ordering::AcqRel);
        for user in changed {
            self.0.by_id.remove(user);
        }
        self.0.by_external.retain(|_, account| !changed.contains(&account.user_id));
    }

    /// Forgets the account that a notification's payload names; all of them, where it names none.
    pub(crate) fn heard(&self, payload: &str) {
        match payload.parse::<UserId>() {
            Ok(user) => self.forget(&[user]),
            Err(_) => self.forget_all(),
        }
    }

    /// Forgets all accounts, when notifications may have been missed.
    pub(crate) fn forget_all(&self) {
        self.0.generation.fetch_add(1, Ordering::AcqRel);
        self.0.by_id.clear();
        self.0.by_external.clear();
    }

    fn remember(&self, user: &UserRef, account: Account, generation: u64) {
        match user {
            UserRef::Id(id) => self.0.by_id.insert(*id, account),
            UserRef::External(external) => self.0.by_external.insert(external.clone(), account),
        }
        // Checked after the insertion: an invalidation in between may have come too early to remove it.
        if self.0.generation.load(Ordering::Acquire) != generation {
            match user {
                UserRef::Id(id) => drop(self.0.by_id.remove(id)),
                UserRef::External(external) => drop(self.0.by_external.remove(external)),
            }
        }
    }

    async fn find_many(&self, users: &[UserRef]) -> Result<HashMap<UserRef, Account>, AccountsError> {
        let mut found: HashMap<UserRef, Account> = HashMap::with_capacity(users.len());
        let (mut ids, mut externals) = (Vec::new(), Vec::new());
        for user in users {
            match (self.cached(user), user) {
                (Some(account), _) => drop(found.insert(user.clone(), account)),
                (None, UserRef::Id(id)) => ids.push(id.get()),
                (None, UserRef::External(external)) => externals.push(external.clone()),
            }
        }
        if ids.is_empty() && externals.is_empty() {
            return Ok(found);
        }
        let generation = self.0.generation.load(Ordering::Acquire);
        let mut conn = self.0.pool.acquire().await.map_err(store::Error::from)?;
        for account in store::identity::users::find_many(&mut conn, &ids).await? {
            let user = UserRef::Id(account.user_id);
            self.remember(&user, account, generation);
            found.insert(user, account);
        }
        let externals = self.0.data_keys.hash_external_ids(externals).await?;
        for (index, account) in store::identity::users::find_many_external(&mut conn, &externals).await? {
            let Some(external) = externals.get(index) else { continue };
            let user = UserRef::External(external.id.clone());
            self.remember(&user, account, generation);
            found.insert(user, account);
        }
        Ok(found)
    }

    /// The user's id, and whether it was made just now, in the caller's transaction: for whoever may make users.
    pub(crate) async fn find_or_make(
        &self,
        conn: &mut PgConnection,
        user: &UserRef,
    ) -> Result<(UserId, bool), AccountsError> {
        if let Some(account) = self.look_up(conn, user).await? {
            return Ok((account.user_id, false));
        }
        let new = self.new_users(std::slice::from_ref(user)).await?;
        let made = store::identity::users::provision(conn, new, self.0.clock.now()).await?;
        let found = self.look_up(conn, user).await?.ok_or(AccountsError::Vanished)?;
        // Another request may have been quicker.
        Ok((found.user_id, made.contains(&found.user_id)))
    }

    async fn provision(&self, users: &[UserRef]) -> Result<(), AccountsError> {
        let mut conn = self.0.pool.acquire().await.map_err(store::Error::from)?;
        let new = self.new_users(users).await?;
        store::identity::users::provision(&mut conn, new, self.0.clock.now()).await?;
        Ok(())
    }

    /// New accounts for users of these names.
    async fn new_users(&self, users: &[UserRef]) -> Result<Vec<NewUser>, AccountsError> {
        let external = users.iter().filter_map(|user| match user {
            UserRef::External(external) => Some(external.clone()),
            UserRef::Id(_) => None,
        });
        let named = self.0.data_keys.hash_external_ids(external.collect()).await?;
        let named = named.into_iter().map(|external| NewUser::named(self.0.ids.random_id(), external));
        let by_id = users.iter().filter_map(|user| match user {
            UserRef::Id(id) => Some(NewUser::unnamed(id.get())),
            UserRef::External(_) => None,
        });
        Ok(named.chain(by_id).collect())
    }

    async fn look_up(
        &self,
        conn: &mut PgConnection,
        user: &UserRef,
    ) -> Result<Option<Account>, AccountsError> {
        Ok(match user {
            UserRef::Id(id) => store::identity::users::by_id(conn, *id).await?,
            UserRef::External(external) => {
                let external = self.0.data_keys.hash_external_id(external.clone()).await?;
                store::identity::users::by_external_id(conn, &external).await?
            }
        })
    }
}
