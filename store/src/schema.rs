//! Whether the tables are those of this program: the migrations that the database has had, against those that are built
//! in, both ways.

use sqlx::PgConnection;
use sqlx::migrate::Migrator;

use crate::error::Error;
use crate::versions::{Applied, Difference, difference};

/// The migrations of this program.
pub(crate) static MIGRATIONS: Migrator = sqlx::migrate!("../migrations");

/// Compares the database's migrations with this program's.
///
/// # Errors
/// [`Error::NoTables`] in a database without ours, [`Error::Schema`] in one with others.
pub async fn check(conn: &mut PgConnection) -> Result<(), Error> {
    let applied = applied(conn).await?;
    if applied.is_empty() {
        return Err(Error::NoTables);
    }
    let known: Vec<_> = known().collect();
    difference(&applied, &known).map_or(Ok(()), |difference| Err(Error::Schema(difference)))
}

/// What keeps this program from migrating the database, if anything does.
pub(crate) async fn check_migratable(conn: &mut PgConnection) -> Result<(), Error> {
    match check(conn).await {
        Err(Error::NoTables | Error::Schema(Difference::Older(_))) => Ok(()),
        checked => checked,
    }
}

/// Version and checksum of each migration of this program.
fn known() -> impl Iterator<Item = (i64, &'static [u8])> {
    MIGRATIONS.iter().map(|migration| (migration.version, &*migration.checksum))
}

async fn applied(conn: &mut PgConnection) -> Result<Vec<Applied>, Error> {
    // Not checked at compile time: there may be no table yet.
    let exists = "SELECT to_regclass('public._sqlx_migrations') IS NOT NULL";
    if !sqlx::query_scalar::<_, bool>(exists).fetch_one(&mut *conn).await? {
        return Ok(Vec::new());
    }
    let rows: Vec<(i64, Vec<u8>, bool)> =
        sqlx::query_as("SELECT version, checksum, success FROM public._sqlx_migrations ORDER BY version")
            .fetch_all(conn)
            .await?;
    Ok(rows
        .into_iter()
        .map(|(version, checksum, is_whole)| Applied { version, checksum, is_whole })
        .collect())
}
