//! Bringing the tables up to date.

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use std::str::FromStr;

use crate::Error;
use crate::patience::{Patience, is_lock_timeout};

static MIGRATIONS: Migrator = sqlx::migrate!("../migrations");

/// Applies the migrations that are missing. Two processes may do so at once: an advisory lock lets one wait. A
/// migration that gives up waiting for a lock is tried again.
///
/// # Errors
/// [`Error::Migrate`], also when an applied migration differs from the one in this program, and [`Error::Locked`] when
/// somebody held a lock for half a minute.
pub async fn migrate(database_url: &str) -> Result<(), Error> {
    let options = PgConnectOptions::from_str(database_url)
        .map_err(Error::Url)?
        .application_name("usage-ledger migrate")
        // The list of applied migrations lies in `public`, whatever the database's own search_path is.
        .options([("search_path", "public")]);
    let mut conn = PgConnection::connect_with(&options).await?;
    let mut patience = Patience::new();
    let result = loop {
        match MIGRATIONS.run(&mut conn).await {
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
