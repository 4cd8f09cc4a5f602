//! From the names by which the outside knows users to ours, with a bounded cache that a change empties.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use keys::Keys;
use ledger::{Clock, ExternalId, IdSource, UserId, UserRef};
use quick_cache::sync::Cache;
use sqlx::{PgConnection, PgPool};
use std::collections::HashMap;
use store::users::{Account, AccountStatus, NewUser};

use crate::auth::{Principal, Role};
use crate::http::problem::Problem;

/// Accounts remembered by each kind of name.
const CACHED: usize = 100_000;

/// Finds accounts. Cheap to clone.
#[derive(Clone)]
pub struct Users(Arc<Inner>);

struct Inner {
    pool: PgPool,
    keys: Keys,
    clock: Clock,
    ids: IdSource,
    auto_provision: bool,
    by_id: Cache<UserId, Account>,
    by_external: Cache<ExternalId, Account>,
    /// Counts invalidations: what was read before one must not be remembered after it.
    generation: AtomicU64,
}

impl Users {
    /// With `auto_provision` a user nobody has heard of gets an account on the free plan.
    pub fn new(pool: PgPool, keys: Keys, clock: Clock, auto_provision: bool) -> Self {
        Self(Arc::new(Inner {
            pool,
            keys,
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
    pub async fn find(&self, user: &UserRef) -> Result<Option<Account>, Problem> {
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
    pub async fn find_or_provision(&self, user: &UserRef) -> Result<Option<Account>, Problem> {
        match self.find(user).await? {
            None if self.0.auto_provision => self.provision(std::slice::from_ref(user)).await?,
            found => return Ok(found),
        }
        self.find(user).await
    }

    /// [`Users::find_or_provision`] for many at once, in two statements at most. Answers in the order of `users`.
    pub async fn find_or_provision_many(&self, users: &[UserRef]) -> Result<Vec<Option<Account>>, Problem> {
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

    /// Whose things a request is about: the caller's own, or those of the user it names (`?user_id=`, path, body).
    /// A name that is not one, that nobody has, or (for role user) that is another's, gives 404.
    pub async fn resolve(&self, principal: &Principal, named: Option<&str>) -> Result<UserId, Problem> {
        let Some(named) = named else { return Ok(principal.user_id) };
        if named == "me" {
            return Ok(principal.user_id);
        }
        let user: UserRef = named.parse().map_err(|_| Problem::not_found())?;
        let user_id = match user {
            // A user needs no look-up to learn that another's id is not its own.
            UserRef::Id(id) if principal.role == Role::User => id,
            _ => self.find(&user).await?.ok_or_else(Problem::not_found)?.user_id,
        };
        if principal.role == Role::User && user_id != principal.user_id {
            return Err(Problem::not_found());
        }
        Ok(user_id)
    }

    /// [`Users::resolve`] for a request that changes something: not of a user who was erased.
    pub async fn resolve_living(
        &self,
        principal: &Principal,
        named: Option<&str>,
    ) -> Result<UserId, Problem> {
        let user = self.resolve(principal, named).await?;
        if user != principal.user_id {
            let account = self.find(&UserRef::Id(user)).await?;
            if account.is_some_and(|account| account.status == AccountStatus::Erased) {
                return Err(Problem::subject_erased());
            }
        }
        Ok(user)
    }

    /// Forgets changed accounts. Called for every notification.
    pub(crate) fn forget(&self, changed: &[UserId]) {
        self.0.generation.fetch_add(1, Ordering::AcqRel);
        for user in changed {
            self.0.by_id.remove(user);
        }
        self.0.by_external.retain(|_, account| !changed.contains(&account.user_id));
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

    async fn find_many(&self, users: &[UserRef]) -> Result<HashMap<UserRef, Account>, Problem> {
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
        for account in store::users::find_many(&mut conn, &ids).await? {
            let user = UserRef::Id(account.user_id);
            self.remember(&user, account, generation);
            found.insert(user, account);
        }
        let externals = self.0.keys.hash_external_ids(externals).await?;
        for (index, account) in store::users::find_many_external(&mut conn, &externals).await? {
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
    ) -> Result<(UserId, bool), Problem> {
        if let Some(account) = self.look_up(conn, user).await? {
            return Ok((account.user_id, false));
        }
        let new = self.new_users(std::slice::from_ref(user)).await?;
        store::users::provision(conn, new, self.0.clock.now()).await?;
        let made = self
            .look_up(conn, user)
            .await?
            .ok_or_else(|| Problem::fault("a user made just now is not there"))?;
        Ok((made.user_id, true))
    }

    async fn provision(&self, users: &[UserRef]) -> Result<(), Problem> {
        let mut conn = self.0.pool.acquire().await.map_err(store::Error::from)?;
        let new = self.new_users(users).await?;
        store::users::provision(&mut conn, new, self.0.clock.now()).await?;
        Ok(())
    }

    /// New accounts for users of these names.
    async fn new_users(&self, users: &[UserRef]) -> Result<Vec<NewUser>, Problem> {
        let external = users.iter().filter_map(|user| match user {
            UserRef::External(external) => Some(external.clone()),
            UserRef::Id(_) => None,
        });
        let named = self.0.keys.hash_external_ids(external.collect()).await?;
        let named = named.into_iter().map(|external| NewUser::named(self.0.ids.random_id(), external));
        let by_id = users.iter().filter_map(|user| match user {
            UserRef::Id(id) => Some(NewUser::unnamed(id.get())),
            UserRef::External(_) => None,
        });
        Ok(named.chain(by_id).collect())
    }

    async fn look_up(&self, conn: &mut PgConnection, user: &UserRef) -> Result<Option<Account>, Problem> {
        Ok(match user {
            UserRef::Id(id) => store::users::by_id(conn, *id).await?,
            UserRef::External(external) => {
                let external = self.0.keys.hash_external_id(external.clone()).await?;
                store::users::by_external_id(conn, &external).await?
            }
        })
    }
}
