//! Databases of tests, copied from a migrated template.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use ledger::IdSource;
use sha2::{Digest, Sha256};
use sqlx::{
    Connection, Executor, PgConnection,
    migrate::Migrator,
    postgres::{PgPool, PgPoolOptions},
};

/// Any number that nothing else locks: one test program at a time makes the template.
const TEMPLATE_LOCK: i64 = 0x7465_7374_6b69_7401;
const SEARCH_PATH: &str = "ledger, public";

/// A database with all migrations, copied from a template; dropped with this value unless the test failed.
pub struct Database {
    name: String,
    admin_url: String,
    url: String,
}

impl Database {
    /// Makes one on the server of this URL.
    pub async fn create(admin_url: &str, ids: &IdSource) -> Result<Self> {
        let template = ensure_template(admin_url).await?;
        let name = format!("test_{}", ids.random_id().simple());
        let mut admin = PgConnection::connect(admin_url).await?;
        execute(&mut admin, format!("CREATE DATABASE {name} TEMPLATE {template}")).await?;
        // Settings of a database are not copied from its template.
        execute(&mut admin, format!("ALTER DATABASE {name} SET search_path = {SEARCH_PATH}")).await?;
        admin.close().await?;
        let url = url_of(admin_url, &name)?;
        Ok(Self { name, admin_url: admin_url.to_owned(), url })
    }

    /// Makes an empty one, without any table.
    pub async fn create_empty(admin_url: &str, ids: &IdSource) -> Result<Self> {
        let name = format!("test_{}", ids.random_id().simple());
        let mut admin = PgConnection::connect(admin_url).await?;
        execute(&mut admin, format!("CREATE DATABASE {name}")).await?;
        admin.close().await?;
        let url = url_of(admin_url, &name)?;
        Ok(Self { name, admin_url: admin_url.to_owned(), url })
    }

    /// Makes one that has the migrations up to this version alone, as a build of then left it.
    pub async fn create_at(admin_url: &str, ids: &IdSource, version: i64) -> Result<Self> {
        let database = Self::create_empty(admin_url, ids).await?;
        let all = Migrator::new(migrations_dir()).await?;
        let earlier = all.migrations.iter().filter(|migration| migration.version <= version);
        let earlier = Migrator { migrations: earlier.cloned().collect(), ..Migrator::DEFAULT };
        let mut conn = PgConnection::connect(&database.url).await?;
        // The list of applied migrations lies in `public`, whatever the migrations set.
        conn.execute("SET search_path = public").await?;
        earlier.run(&mut conn).await?;
        conn.close().await?;
        Ok(database)
    }

    /// Its URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A pool of a few connections.
    pub async fn pool(&self) -> Result<PgPool> {
        Ok(PgPoolOptions::new().max_connections(5).connect(&self.url).await?)
    }
}

/// Longest time that a test waits for its database to be gone.
const DROP_PATIENCE: Duration = Duration::from_secs(1);

impl Drop for Database {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("kept for a look: {}", self.url);
            return;
        }
        let (admin_url, name) = (self.admin_url.clone(), self.name.clone());
        // A runtime of its own: the test's one cannot be waited for from here. A server that the test left dead has no
        // database to drop either.
        let (done, dropped) = mpsc::channel();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let outcome = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
                runtime.block_on(async {
                    let mut admin = PgConnection::connect(&admin_url).await?;
                    execute(&mut admin, format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await?;
                    Ok(admin.close().await?)
                })
            });
            // Nobody listens any more once the test went on without it.
            let _ = done.send(outcome);
        });
        // A connection that the test left half open holds the drop up until the test's runtime is gone: the thread ends
        // by itself then, and the servers end with the run.
        if let Ok(Err(error)) = dropped.recv_timeout(DROP_PATIENCE) {
            eprintln!("the database {} could not be dropped: {error:#}", self.name);
        }
    }
}

/// Makes the template where there is none with these migrations, and gives its name.
async fn ensure_template(admin_url: &str) -> Result<String> {
    let name = template_name()?;
    let mut admin = PgConnection::connect(admin_url).await?;
    sqlx::query("SELECT pg_advisory_lock($1)").bind(TEMPLATE_LOCK).execute(&mut admin).await?;
    let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
        .bind(&name)
        .fetch_one(&mut admin)
        .await?;
    if !exists {
        let new = format!("{name}_new");
        execute(&mut admin, format!("DROP DATABASE IF EXISTS {new} WITH (FORCE)")).await?;
        execute(&mut admin, format!("CREATE DATABASE {new}")).await?;
        store::migrate(&url_of(admin_url, &new)?).await.context("the migrations fail")?;
        execute(&mut admin, format!("ALTER DATABASE {new} RENAME TO {name}")).await?;
    }
    // The lock ends with its session.
    admin.close().await?;
    Ok(name)
}

/// Other migrations, another template: a server that outlives an edit serves both.
fn template_name() -> Result<String> {
    let mut files: Vec<_> =
        fs::read_dir(migrations_dir())?.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        hash.update(fs::read(&file)?);
    }
    let digest = hash.finalize();
    let short = digest[..6].iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    Ok(format!("template_{short:012x}"))
}

fn migrations_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations")
}

fn url_of(admin_url: &str, database: &str) -> Result<String> {
    let (server, last) = admin_url.rsplit_once('/').context("TEST_DATABASE_URL has no database in it")?;
    let parameters = last.split_once('?').map(|(_, parameters)| format!("?{parameters}")).unwrap_or_default();
    Ok(format!("{server}/{database}{parameters}"))
}

async fn execute(connection: &mut PgConnection, statement: String) -> Result<()> {
    connection.execute(statement.as_str()).await?;
    Ok(())
}
