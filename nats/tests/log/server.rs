//! A private nats-server with the configuration that production uses.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nats::{Auth, Connection, Log};
use secrecy::SecretString;
use tokio::time::{Instant, sleep};

const USER: &str = "ledger";
const PASSWORD: &str = "secret";

pub(crate) struct Server {
    dir: tempfile::TempDir,
    config: PathBuf,
    child: Option<Child>,
    /// The ports of the first start, kept over restarts.
    addresses: Option<(String, String)>,
}

impl Server {
    /// A server with `nats/server.conf`.
    pub(crate) async fn start() -> Self {
        Self::with_config(|config| config).await
    }

    /// A server with `nats/server.conf` after `edit`.
    pub(crate) async fn with_config(edit: impl Fn(String) -> String) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let ours =
            fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/server.conf")).expect("server.conf");
        let config = dir.path().join("server.conf");
        fs::write(&config, edit(ours)).expect("writing the configuration");
        let mut server = Self { dir, config, child: None, addresses: None };
        server.launch().await;
        server
    }

    /// Starts it again on the same ports and data.
    pub(crate) async fn launch(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let (listen, monitor) =
            self.addresses.clone().unwrap_or_else(|| ("127.0.0.1:-1".to_owned(), "127.0.0.1:-1".to_owned()));
        let log = fs::File::options().create(true).append(true).open(self.dir.path().join("server.log"));
        let child = Command::new(binary())
            .arg("--config")
            .arg(&self.config)
            .arg("--ports_file_dir")
            .arg(self.dir.path())
            .env("NATS_LISTEN", listen)
            .env("NATS_MONITOR_LISTEN", monitor)
            .env("NATS_STORE_DIR", self.store_dir())
            .env("NATS_USER", USER)
            .env("NATS_PASSWORD", PASSWORD)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect("the server's log"))
            .spawn()
            .expect("starting nats-server");
        let ports = self.dir.path().join(format!("nats-server_{}.ports", child.id()));
        self.child = Some(child);
        wait_until("nats-server is ready", async || read_ports(&ports).is_some()).await;
        self.addresses = read_ports(&ports);
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("killing nats-server");
            child.wait().expect("waiting for nats-server");
        }
    }

    /// Freezes it: connections stay, nothing answers.
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
    }

    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.as_ref().expect("it runs").id().to_string();
        let status = Command::new("kill").args([signal, &pid]).status().expect("kill");
        assert!(status.success(), "kill {signal} {pid}");
    }

    pub(crate) fn connection(&self, stream: &str) -> Connection {
        let (nats, monitor) = self.addresses.as_ref().expect("it was started");
        Connection {
            monitor_url: Some(format!("http://{monitor}")),
            auth: Auth::UserPassword { user: USER.to_owned(), password: SecretString::from(PASSWORD) },
            ..Connection::new(format!("nats://{nats}"), stream.parse().expect("a stream's name"))
        }
    }

    /// The address of clients, `host:port`.
    pub(crate) fn address(&self) -> String {
        self.addresses.as_ref().expect("it was started").0.clone()
    }

    /// A log whose stream exists.
    pub(crate) async fn log(&self, stream: &str) -> Log {
        let log = nats::connect(&self.connection(stream)).await.expect("connecting");
        log.ensure_stream(1).await.expect("making the stream");
        log
    }

    /// A client of one's own, to do what our own code never does.
    pub(crate) async fn raw_client(&self) -> async_nats::Client {
        async_nats::ConnectOptions::with_user_and_password(USER.to_owned(), PASSWORD.to_owned())
            .connect(self.address())
            .await
            .expect("connecting")
    }

    pub(crate) fn store_dir(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// The folder of a stream's block files.
    pub(crate) fn blocks(&self, stream: &str) -> PathBuf {
        self.store_dir().join("jetstream/$G/streams").join(stream).join("msgs")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Polls `condition` for at most 20 s.
pub(crate) async fn wait_until(what: &str, condition: impl AsyncFn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !condition().await {
        assert!(Instant::now() < end, "waited in vain: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

fn read_ports(path: &Path) -> Option<(String, String)> {
    #[derive(serde::Deserialize)]
    struct Ports {
        nats: Vec<String>,
        monitoring: Vec<String>,
    }
    let ports: Ports = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    let host = |urls: &[String]| urls.first().and_then(|url| Some(url.split_once("://")?.1.to_owned()));
    Some((host(&ports.nats)?, host(&ports.monitoring)?))
}

/// `NATS_SERVER_BIN`, else the one that set-up puts into `.dev/bin`, else PATH.
fn binary() -> OsString {
    let installed = concat!(env!("CARGO_MANIFEST_DIR"), "/../.dev/bin/nats-server");
    match env::var_os("NATS_SERVER_BIN") {
        Some(path) => path,
        None if Path::new(installed).exists() => installed.into(),
        None => "nats-server".into(),
    }
}
