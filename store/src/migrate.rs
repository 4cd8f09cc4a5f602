//! Bringing the tables up to date.

use sqlx::migrate::Migrator;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use std::str::FromStr;

use crate::Error;

static MIGRATIONS: Migrator = sqlx::migrate!("../migrations");

/// Applies the migrations that are missing. Two processes may do so at once: an advisory lock lets one wait.
///
/// # Errors
/// [`Error::Migrate`], also when an applied migration differs from the one in this program.
pub async fn migrate(database_url: &str) -> Result<(), Error> {
    let options = PgConnectOptions::from_str(database_url)
        .map_err(Error::Url)?
        .application_name("usage-ledger migrate")
        // The list of applied migrations lies in `public`, whatever the database's own search_path is.
        .options([("search_path", "public")]);
    let mut conn = PgConnection::connect_with(&options).await?;
    let result = MIGRATIONS.run(&mut conn).await.map_err(Error::Migrate);
    conn.close().await?;
    result
}
