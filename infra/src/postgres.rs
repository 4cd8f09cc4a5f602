//! A private PostgreSQL cluster.

use std::{
    ffi::OsString,
    fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::Command,
    str::FromStr,
    time::Duration,
};

use nix::{
    sys::signal::Signal,
    unistd::{User, geteuid},
};
use sqlx::{Connection, Executor, PgConnection, postgres::PgConnectOptions};

use crate::{
    StartError, binaries, child, data_dir, free_port, orphans,
    process::{Process, Spec, last_words},
};

const NAME: &str = "PostgreSQL";
/// The role that owns everything in a private cluster.
const ROLE: &str = "ledger";
const STOP_BOUND: Duration = Duration::from_secs(30);
const PORT_TRIES: u32 = 4;

/// Settings of a private PostgreSQL.
#[derive(Clone, Debug)]
pub struct PostgresConfig {
    /// The directory that holds the cluster (in `postgres/`), its password and its log.
    pub dir: PathBuf,
    /// The loopback port; a free one when absent.
    pub port: Option<u16>,
    /// Further settings, such as `("fsync", "off")` for tests.
    pub settings: Vec<(String, String)>,
    /// Removes `dir` when this is dropped or this process ends.
    pub scratch: bool,
}

impl PostgresConfig {
    /// A durable cluster in `dir` on a free port.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), port: None, settings: Vec::new(), scratch: false }
    }

    /// For tests: never synced to disk (SIGKILL loses nothing, a power cut may), removed with this process.
    #[must_use]
    pub fn for_tests(mut self) -> Self {
        let settings = [("fsync", "off"), ("full_page_writes", "off"), ("autovacuum_naptime", "10min")];
        self.settings.extend(settings.map(|(name, value)| (name.to_owned(), value.to_owned())));
        self.scratch = true;
        self
    }
}

/// A running private PostgreSQL; it is stopped when this is dropped, without waiting unless it is for tests.
pub struct Postgres {
    process: Process,
    port: u16,
    password: String,
}

impl Postgres {
    /// Makes the cluster at first use, stops what an earlier run left behind, starts the server and waits until it
    /// answers.
    pub async fn start(config: PostgresConfig) -> Result<Self, StartError> {
        fs::create_dir_all(&config.dir)
            .map_err(|source| StartError::io(format!("cannot make {}", config.dir.display()), source))?;
        let user = unprivileged_user()?;
        let data = cluster_dir(&config.dir, user.as_ref())?;
        let bin = binaries::postgres_dir(cluster_version(&data))?;
        let password = data_dir::made_secret(&config.dir, "postgres-password")?;
        let pid_file = data.join("postmaster.pid");
        orphans::stop(&pid_file, Signal::SIGINT, |pid| orphans::working_dir(pid).as_deref() == Some(&data))
            .await
            .map_err(|source| StartError::io("cannot stop the PostgreSQL of an earlier run", source))?;
        if !data.join("PG_VERSION").exists() {
            init(&bin, &data, &config.dir, &password, user.as_ref())?;
        }
        let mut tries = 0;
        loop {
            let port = config.port.map_or_else(free_port, Ok)?;
            let process = Process::start(spec(&config, &bin, &data, port, user.clone()))?;
            let server = Self { process, port, password: password.clone() };
            match server.ready().await {
                Ok(()) => return Ok(server),
                Err(error) => {
                    server.process.stop(STOP_BOUND).await;
                    tries += 1;
                    if config.port.is_some() || tries == PORT_TRIES || !port_was_taken(&config.dir) {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// The URL of a database of this cluster, with the password in it.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{ROLE}:{}@127.0.0.1:{}/{database}", self.password, self.port)
    }

    /// The loopback port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.pid()
    }

    /// Creates the database where there is none.
    pub async fn ensure_database(&self, database: &str) -> Result<(), StartError> {
        let mut connection = self.connect().await.map_err(StartError::Sql)?;
        let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
            .bind(database)
            .fetch_one(&mut connection)
            .await
            .map_err(StartError::Sql)?;
        if !exists {
            let quoted = database.replace('"', "\"\"");
            let statement = format!("CREATE DATABASE \"{quoted}\"");
            connection.execute(statement.as_str()).await.map_err(StartError::Sql)?;
        }
        connection.close().await.map_err(StartError::Sql)
    }

    /// Kills the server with SIGKILL and leaves it down until [`Postgres::resume`].
    pub async fn kill(&self) {
        self.process.kill().await;
    }

    /// Kills the server with SIGKILL; the supervisor starts it again.
    pub fn crash(&self) {
        self.process.crash();
    }

    /// Starts the server again on the same port and waits until it answers.
    pub async fn resume(&self) -> Result<(), StartError> {
        self.process.resume();
        self.ready().await
    }

    /// Stops the server: open transactions are rolled back, the cluster is closed cleanly.
    pub async fn stop(&self) {
        self.process.stop(STOP_BOUND).await;
    }

    /// Waits until the server answers.
    pub async fn ready(&self) -> Result<(), StartError> {
        self.process
            .wait_ready(|| async {
                match self.connect().await {
                    Ok(connection) => connection.close().await.is_ok(),
                    Err(_) => false,
                }
            })
            .await
    }

    async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let options = PgConnectOptions::from_str(&self.url("postgres"))?;
        PgConnection::connect_with(&options).await
    }
}

fn spec(config: &PostgresConfig, bin: &Path, data: &Path, port: u16, user: Option<User>) -> Spec {
    let mut arguments: Vec<OsString> = vec!["-D".into(), data.into()];
    let fixed = [
        ("listen_addresses", "127.0.0.1".to_owned()),
        ("port", port.to_string()),
        ("unix_socket_directories", String::new()),
        ("max_connections", "300".to_owned()),
        ("shared_buffers", "256MB".to_owned()),
        ("max_wal_size", "2GB".to_owned()),
        ("log_timezone", "UTC".to_owned()),
        // A message's detail quotes the row that it is about.
        ("log_error_verbosity", "terse".to_owned()),
        ("timezone", "UTC".to_owned()),
    ];
    let further = config.settings.iter().map(|(name, value)| (name.as_str(), value.clone()));
    for (name, value) in fixed.into_iter().chain(further) {
        arguments.extend(["-c".into(), format!("{name}={value}").into()]);
    }
    let program = bin.join("postgres");
    let command_data = data.to_owned();
    Spec {
        name: NAME,
        command: Box::new(move || {
            let mut command = bare_command(&program, user.as_ref());
            command.args(&arguments).current_dir(&command_data);
            command
        }),
        log: log_path(&config.dir),
        stop_signal: Signal::SIGINT,
        scratch: config.scratch.then(|| config.dir.clone()),
    }
}

/// A command run as the unprivileged user.
fn bare_command(program: &Path, user: Option<&User>) -> Command {
    let mut command = child::command(program);
    if let Some(user) = user {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command
}

/// PostgreSQL refuses to run as root: its own user then, else `nobody`. None when we are not root.
fn unprivileged_user() -> Result<Option<User>, StartError> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    for name in ["postgres", "nobody"] {
        if let Ok(Some(user)) = User::from_name(name) {
            return Ok(Some(user));
        }
    }
    let source = std::io::Error::from(std::io::ErrorKind::NotFound);
    Err(StartError::io("PostgreSQL cannot run as root and there is no user postgres or nobody", source))
}

/// `<dir>/postgres`, or, where the unprivileged user cannot get there (root's home is closed to others), a directory
/// of its own under /var/lib whose name stands in `<dir>/postgres-dir`.
fn cluster_dir(dir: &Path, user: Option<&User>) -> Result<PathBuf, StartError> {
    let dir = dir
        .canonicalize()
        .map_err(|source| StartError::io(format!("cannot read {}", dir.display()), source))?;
    let Some(user) = user else { return Ok(dir.join("postgres")) };
    if dir.ancestors().all(|ancestor| may_pass(ancestor, user)) {
        return Ok(dir.join("postgres"));
    }
    let name = data_dir::made_secret(&dir, "postgres-dir")?;
    let parent = PathBuf::from("/var/lib/usage-ledger");
    fs::create_dir_all(&parent)
        .and_then(|()| fs::set_permissions(&parent, fs::Permissions::from_mode(0o755)))
        .map_err(|source| StartError::io(format!("cannot make {}", parent.display()), source))?;
    Ok(parent.join(&name[..16]))
}

fn may_pass(dir: &Path, user: &User) -> bool {
    dir.metadata().is_ok_and(|metadata| {
        let mode = metadata.mode();
        if metadata.uid() == user.uid.as_raw() {
            mode & 0o100 != 0
        } else if metadata.gid() == user.gid.as_raw() {
            mode & 0o010 != 0
        } else {
            mode & 0o001 != 0
        }
    })
}

fn cluster_version(data: &Path) -> Option<u32> {
    fs::read_to_string(data.join("PG_VERSION")).ok()?.trim().parse().ok()
}

/// Makes the cluster beside its place and renames it, so that an interrupted run leaves nothing half made.
fn init(bin: &Path, data: &Path, dir: &Path, password: &str, user: Option<&User>) -> Result<(), StartError> {
    let new = data.with_extension("new");
    let cannot = |source| StartError::io(format!("cannot make {}", new.display()), source);
    if new.exists() {
        fs::remove_dir_all(&new).map_err(cannot)?;
    }
    fs::create_dir(&new).map_err(cannot)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o700)).map_err(cannot)?;
    // initdb wants an empty directory, so the cluster goes one level down and the password beside it.
    let cluster = new.join("cluster");
    let password_file = data_dir::write_private(&new, "password", password)?;
    if let Some(user) = user {
        for path in [&new, &password_file] {
            chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).map_err(cannot)?;
        }
    }
    let output = bare_command(&bin.join("initdb"), user)
        .arg("--pgdata")
        .arg(&cluster)
        .arg("--pwfile")
        .arg(&password_file)
        .args(["--username", ROLE, "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C.UTF-8"])
        .args(["--no-instructions", "--no-sync"])
        .current_dir(&new)
        .output()
        .map_err(|source| StartError::io("cannot start initdb", source))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let line = text.lines().find(|line| line.contains("error")).or(text.lines().last());
        return Err(StartError::InitDb(line.unwrap_or("it said nothing").to_owned()));
    }
    fs::rename(&cluster, data).map_err(cannot)?;
    fs::remove_dir_all(&new).map_err(cannot)?;
    // A new cluster has nothing to say about an earlier one's end.
    let _ = fs::remove_file(log_path(dir));
    Ok(())
}

fn log_path(dir: &Path) -> PathBuf {
    dir.join("postgres.log")
}

fn port_was_taken(dir: &Path) -> bool {
    let text = fs::read_to_string(log_path(dir)).unwrap_or_default();
    text.contains("Address already in use") || last_words(&log_path(dir)).contains("could not create any TCP")
}
