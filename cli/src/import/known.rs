//! What the ledger has already of a file, asked of its database without writing anything.

use std::collections::HashMap;
use std::io::{self, Write};

use data_keys::{Hasher, KeyConfig, KeysError};
use ledger::UserRef;
use sqlx::PgConnection;
use store::identity::users::{self, Account, AccountStatus};
use store::projection::claims;
use store::projection::usage_rows::{self, RowKey};
use uuid::Uuid;

use super::read::Numbered;

/// Reason why the ledger cannot be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnknownError {
    /// The database does not answer.
    #[error("the database cannot be asked")]
    Store(#[from] store::Error),
    /// External ids cannot be hashed, so that an erased user would be taken for a new one.
    #[error("users cannot be looked up")]
    Keys(#[from] KeysError),
}

/// Calls and users of a file that are new, and those that are there.
pub(crate) struct Known {
    conn: PgConnection,
    hasher: Hasher,
    /// `urn:usage-ledger:import…`.
    source: String,
    users: HashMap<UserRef, Option<Account>>,
    new_calls: u64,
    old_calls: u64,
}

impl Known {
    /// Connects to the database, for reading alone.
    pub(crate) async fn open(
        database_url: &str,
        keys: &KeyConfig,
        source: String,
    ) -> Result<Self, UnknownError> {
        let mut conn = store::connect_read_only(database_url, store::Schema::Live).await?;
        let hasher = Hasher::open(&mut conn, keys).await?;
        Ok(Self { conn, hasher, source, users: HashMap::new(), new_calls: 0, old_calls: 0 })
    }

    /// Tells whether the user was erased, of those who were looked up.
    pub(crate) fn is_erased(&self, user: &UserRef) -> bool {
        let account = self.users.get(user).copied().flatten();
        account.is_some_and(|account| account.status == AccountStatus::Erased)
    }

    /// Counts a batch's calls. Calls that are in the log and not projected yet count as new.
    pub(crate) async fn count(&mut self, calls: &[&Numbered]) -> Result<(), store::Error> {
        let mut unknown: HashMap<Uuid, RowKey> = calls
            .iter()
            .filter_map(|read| {
                let user = self.users.get(&read.call.user).copied().flatten()?.user_id;
                let id = events::claim_id(user, &self.source, &read.id);
                Some((id, RowKey { user, created_at: read.call.time, id }))
            })
            .collect();
        let ids: Vec<Uuid> = unknown.keys().copied().collect();
        let claimed = claims::find(&mut self.conn, &ids).await?;
        for id in &claimed {
            unknown.remove(id);
        }
        // A claim is forgotten one day, the call itself is not.
        let unknown: Vec<RowKey> = unknown.into_values().collect();
        let stored = usage_rows::find(&mut self.conn, &unknown).await?;
        let known = (claimed.len() + stored.len()) as u64;
        self.old_calls += known;
        self.new_calls += calls.len() as u64 - known;
        Ok(())
    }

    /// Looks up the users of a batch, as an import would.
    pub(crate) async fn look_up_users(&mut self, calls: &[Numbered]) -> Result<(), store::Error> {
        let (mut ids, mut names) = (Vec::new(), Vec::new());
        for read in calls {
            let user = &read.call.user;
            if self.users.contains_key(user) {
                continue;
            }
            self.users.insert(user.clone(), None);
            match user {
                UserRef::Id(id) => ids.push(id.get()),
                UserRef::External(external) => names.push(self.hasher.hash(external.clone())),
            }
        }
        for account in users::find_many(&mut self.conn, &ids).await? {
            self.users.insert(UserRef::Id(account.user_id), Some(account));
        }
        for (index, account) in users::find_many_external(&mut self.conn, &names).await? {
            if let Some(name) = names.get(index) {
                self.users.insert(UserRef::External(name.id.clone()), Some(account));
            }
        }
        Ok(())
    }

    /// Writes the counts.
    pub(crate) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let new_users = self.users.values().filter(|user| user.is_none()).count();
        writeln!(out, "{:<18}{:>10}", "new", self.new_calls)?;
        writeln!(out, "{:<18}{:>10}", "in the ledger", self.old_calls)?;
        writeln!(out, "{:<18}{new_users:>10}", "new users")
    }
}
