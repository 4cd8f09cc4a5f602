//! Bringing the tables up to date.

use std::str::FromStr;

use sqlx::Connection;
use sqlx::migrate::MigrateError;
use sqlx::postgres::PgConnectOptions;

use crate::connect::open;
use crate::patience::{Patience, is_lock_timeout};
use crate::{Error, schema};

/// Applies the migrations that are missing. Two processes may do so at once: an advisory lock lets one wait. A
/// migration that gives up waiting for a lock is tried again.
///
/// # Errors
/// [`Error::Schema`] when the tables are not an earlier version of this program's; [`Error::Migrate`], and
/// [`Error::Locked`] when somebody held a lock for half a minute.
pub async fn migrate(database_url: &str) -> Result<(), Error> {
    let options = PgConnectOptions::from_str(database_url)
        .map_err(Error::Url)?
        .application_name("usage-ledger migrate")
        // The list of applied migrations lies in `public`, whatever the database's own search_path is.
        .options([("search_path", "public")]);
    let mut conn = open(&options).await?;
    schema::check_migratable(&mut conn).await?;
    let mut patience = Patience::new();
    let result = loop {
        match schema::MIGRATIONS.run(&mut conn).await {
            Err(MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _))
                if is_lock_timeout(&error) =>
            {
                if let Err(error) = patience.again(error).await {
                    break Err(error);
                }
            }
            other => break other.map_err(Error::Migrate),
        }
    };
    conn.close().await?;
    result
}
