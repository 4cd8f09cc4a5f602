//! A private nats-server with JetStream.

use std::{
    borrow::Cow,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::signal::Signal;

use crate::{
    StartError, binaries, child, data_dir, free_port, orphans,
    process::{Process, Spec, last_words},
};

const NAME: &str = "nats-server";
const USER: &str = "ledger";
/// The configuration that production uses too.
const CONF: &str = include_str!("../../nats/server.conf");
const STOP_BOUND: Duration = Duration::from_secs(15);
const PORT_TRIES: u32 = 4;

/// Settings of a private nats-server.
#[derive(Clone, Debug)]
pub struct NatsConfig {
    /// The directory that holds the log (in `nats/`), the password, the configuration and the server's own log.
    pub dir: PathBuf,
    /// The loopback port of clients; a free one when absent.
    pub port: Option<u16>,
    /// The configuration file's text: that of production, unless a test needs a worse one.
    pub conf: Cow<'static, str>,
    /// Removes `dir` when this is dropped or this process ends.
    pub scratch: bool,
}

impl NatsConfig {
    /// A server with its store in `dir` on a free port.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), port: None, conf: CONF.into(), scratch: false }
    }

    /// For tests: removed with this process.
    #[must_use]
    pub fn for_tests(mut self) -> Self {
        self.scratch = true;
        self
    }
}

/// A running private nats-server; it is stopped when this is dropped, without waiting unless it is for tests.
pub struct NatsServer {
    process: Process,
    port: u16,
    monitor_port: u16,
    password: String,
    store: PathBuf,
}

impl NatsServer {
    /// Stops what an earlier run left behind, starts the server and waits until it answers.
    pub async fn start(config: NatsConfig) -> Result<Self, StartError> {
        let cannot = |source| StartError::io(format!("cannot make {}", config.dir.display()), source);
        fs::create_dir_all(&config.dir).map_err(cannot)?;
        let dir = config.dir.canonicalize().map_err(cannot)?;
        let config = NatsConfig { dir, ..config };
        let program = binaries::nats_server()?;
        let password = data_dir::made_secret(&config.dir, "nats-password")?;
        data_dir::write_private(&config.dir, "nats.conf", &config.conf)?;
        let conf = conf_path(&config.dir);
        let ours = conf.to_string_lossy().into_owned();
        orphans::stop(&config.dir.join("nats.pid"), Signal::SIGTERM, |pid| {
            orphans::arguments(pid).contains(&ours)
        })
        .await
        .map_err(|source| StartError::io("cannot stop the nats-server of an earlier run", source))?;
        let mut tries = 0;
        loop {
            let port = config.port.map_or_else(free_port, Ok)?;
            let monitor_port = free_port()?;
            let environment = environment(&config.dir, port, monitor_port, &password);
            let process = Process::start(spec(&config, &program, environment))?;
            let store = store_path(&config.dir);
            let server = Self { process, port, monitor_port, password: password.clone(), store };
            match server.ready().await {
                Ok(()) => return Ok(server),
                Err(error) => {
                    server.process.stop(STOP_BOUND).await;
                    tries += 1;
                    let taken = last_words(&log_path(&config.dir)).contains("address already in use");
                    if config.port.is_some() || tries == PORT_TRIES || !taken {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// The URL for clients, with the password in it.
    pub fn url(&self) -> String {
        format!("nats://{USER}:{}@127.0.0.1:{}", self.password, self.port)
    }

    /// The URL of the monitoring endpoints (`/jsz`, `/varz`).
    pub fn monitor_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.monitor_port)
    }

    /// The directory of the stored streams, for tests that damage it.
    pub fn store(&self) -> &Path {
        &self.store
    }

    /// The server's process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.pid()
    }

    /// Kills the server with SIGKILL and leaves it down until [`NatsServer::resume`].
    pub async fn kill(&self) {
        self.process.kill().await;
    }

    /// Kills the server with SIGKILL; the supervisor starts it again.
    pub fn crash(&self) {
        self.process.crash();
    }

    /// Starts the server again on the same ports and waits until it answers.
    pub async fn resume(&self) -> Result<(), StartError> {
        self.process.resume();
        self.ready().await
    }

    /// Stops the server in order.
    pub async fn stop(&self) {
        self.process.stop(STOP_BOUND).await;
    }

    /// Waits until clients are served, which the server does after it has read its streams.
    pub async fn ready(&self) -> Result<(), StartError> {
        let address = format!("127.0.0.1:{}", self.port);
        self.process
            .wait_ready(|| async {
                let (user, password) = (USER.to_owned(), self.password.clone());
                // The client ignores a login that stands in its URL.
                let options = async_nats::ConnectOptions::with_user_and_password(user, password);
                match options.connect(&address).await {
                    Ok(client) => async_nats::jetstream::new(client).query_account().await.is_ok(),
                    Err(_) => false,
                }
            })
            .await
    }
}

fn spec(config: &NatsConfig, program: &Path, environment: Vec<(&'static str, String)>) -> Spec {
    let program = program.to_owned();
    let (conf, pid_file) = (conf_path(&config.dir), config.dir.join("nats.pid"));
    Spec {
        name: NAME,
        command: Box::new(move || {
            let mut command = child::command(&program);
            command.envs(environment.iter().cloned()).arg("-c").arg(&conf).arg("-P").arg(&pid_file);
            command
        }),
        log: log_path(&config.dir),
        stop_signal: Signal::SIGTERM,
        scratch: config.scratch.then(|| config.dir.clone()),
    }
}

/// Values that the configuration leaves open. Quoted, since nats-server reads each as a value of the file.
fn environment(dir: &Path, port: u16, monitor_port: u16, password: &str) -> Vec<(&'static str, String)> {
    let quoted = |text: &str| format!("\"{text}\"");
    vec![
        ("NATS_LISTEN", quoted(&format!("127.0.0.1:{port}"))),
        ("NATS_MONITOR_LISTEN", quoted(&format!("127.0.0.1:{monitor_port}"))),
        ("NATS_STORE_DIR", quoted(&store_path(dir).to_string_lossy())),
        ("NATS_USER", quoted(USER)),
        ("NATS_PASSWORD", quoted(password)),
    ]
}

fn conf_path(dir: &Path) -> PathBuf {
    dir.join("nats.conf")
}

fn store_path(dir: &Path) -> PathBuf {
    dir.join("nats")
}

fn log_path(dir: &Path) -> PathBuf {
    dir.join("nats.log")
}
