//! What the ledger has already of a file, asked of its database without writing anything.

use std::collections::HashMap;
use std::io::{self, Write};

use ledger::{UserId, UserRef};
use sqlx::PgConnection;

use super::read::Numbered;

/// Calls and users of a file that are new, and those that are there.
pub(crate) struct Known {
    conn: PgConnection,
    /// `urn:usage-ledger:import…`.
    source: String,
    users: HashMap<UserRef, Option<UserId>>,
    new_calls: u64,
    old_calls: u64,
}

impl Known {
    /// Connects to the database, for reading alone.
    pub(crate) async fn open(database_url: &str, source: String) -> Result<Self, store::Error> {
        let conn = store::connect_read_only(database_url, store::Schema::Live).await?;
        Ok(Self { conn, source, users: HashMap::new(), new_calls: 0, old_calls: 0 })
    }

    /// Looks up a batch's calls. Calls that are in the log and not projected yet count as new.
    pub(crate) async fn look_up(&mut self, calls: &[&Numbered]) -> Result<(), store::Error> {
        self.look_up_users(calls).await?;
        let claims: Vec<_> = calls
            .iter()
            .filter_map(|read| {
                let user = self.users.get(&read.call.user).copied().flatten()?;
                Some(events::claim_id(user, &self.source, &read.id))
            })
            .collect();
        let known = store::projection::claims::find(&mut self.conn, &claims).await?.len() as u64;
        self.old_calls += known;
        self.new_calls += calls.len() as u64 - known;
        Ok(())
    }

    async fn look_up_users(&mut self, calls: &[&Numbered]) -> Result<(), store::Error> {
        let (mut ids, mut names) = (Vec::new(), Vec::new());
        for read in calls {
            let user = &read.call.user;
            if self.users.contains_key(user) {
                continue;
            }
            self.users.insert(user.clone(), None);
            match user {
                UserRef::Id(id) => ids.push(id.get()),
                UserRef::External(external) => names.push(external.as_str().to_owned()),
            }
        }
        for account in store::identity::users::find_many(&mut self.conn, &ids).await? {
            self.users.insert(UserRef::Id(account.user_id), Some(account.user_id));
        }
        for (name, user) in store::identity::users::named_many(&mut self.conn, &names).await? {
            // What was asked for is a name, and comes back as one.
            if let Ok(name) = name.parse() {
                self.users.insert(name, Some(user));
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
