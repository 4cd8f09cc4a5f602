//! The processes under load: the real binary and the baselines, each stopped by its own id.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// Longest time that a process may take to come up, or to stop.
const PATIENCE: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(20);

/// Environment of a process.
pub(crate) type Environment = BTreeMap<String, String>;

/// One running process.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    name: String,
}

impl Process {
    /// Starts `program`, with its output in `log`.
    pub(crate) fn start(
        program: &Path,
        arguments: &[&str],
        environment: &Environment,
        log: &Path,
    ) -> anyhow::Result<Self> {
        let file = std::fs::File::create(log).with_context(|| format!("creating {}", log.display()))?;
        let child = Command::new(program)
            .args(arguments)
            .envs(environment)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        Ok(Self { child, name: arguments.join(" ") })
    }

    /// Waits until `ready` says yes; an exit before that is an error.
    pub(crate) async fn wait_until<F: Future<Output = bool>>(
        &mut self,
        mut ready: impl FnMut() -> F,
    ) -> anyhow::Result<()> {
        let start = Instant::now();
        while !ready().await {
            if let Some(status) = self.child.try_wait()? {
                bail!("`{}` ended with {status} before it was ready", self.name);
            }
            if start.elapsed() > PATIENCE {
                bail!("`{}` was not ready after {} s", self.name, PATIENCE.as_secs());
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Waits until something listens on `address`.
    pub(crate) async fn wait_for_port(&mut self, address: &str) -> anyhow::Result<()> {
        self.wait_until(async || TcpStream::connect(address).await.is_ok()).await
    }

    /// Resident memory, in MiB (`VmRSS` of proc(5)).
    pub(crate) fn rss_mb(&self) -> anyhow::Result<f64> {
        self.memory_mb("VmRSS:")
    }

    /// The most resident memory so far, in MiB (`VmHWM` of proc(5)).
    pub(crate) fn peak_rss_mb(&self) -> anyhow::Result<f64> {
        self.memory_mb("VmHWM:")
    }

    fn memory_mb(&self, field: &str) -> anyhow::Result<f64> {
        let id = self.child.id().context("the process has ended")?;
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix(field)).context("no such memory")?;
        let kib: f64 = line.trim().trim_end_matches(" kB").trim().parse()?;
        Ok(kib / 1024.0)
    }

    /// Time that the process has spent in user mode so far (`utime` of proc(5)), to 10 ms.
    pub(crate) fn user_time(&self) -> anyhow::Result<Duration> {
        let id = self.child.id().context("the process has ended")?;
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
        // Behind the name, which is in brackets and may hold anything, `utime` is the twelfth field.
        let (_, fields) = stat.rsplit_once(')').context("a line of /proc without a name")?;
        let ticks: u64 = fields.split_whitespace().nth(11).context("no utime")?.parse()?;
        Ok(Duration::from_millis(ticks * 10))
    }

    /// Waits for the end of a process that ends by itself, and answers the most memory that it was seen with, in MiB; a
    /// failure is an error.
    pub(crate) async fn finish(mut self, bound: Duration) -> anyhow::Result<f64> {
        let (start, mut peak_mb) = (Instant::now(), 0.0_f64);
        loop {
            peak_mb = peak_mb.max(self.peak_rss_mb().unwrap_or_default());
            if let Some(status) = self.child.try_wait()? {
                anyhow::ensure!(status.success(), "`{}` ended with {status}", self.name);
                return Ok(peak_mb);
            }
            anyhow::ensure!(start.elapsed() < bound, "`{}` did not end in {bound:?}", self.name);
            tokio::time::sleep(POLL).await;
        }
    }

    /// Asks the process to stop and waits for its end.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        if let Some(id) = self.child.id() {
            kill(Pid::from_raw(i32::try_from(id)?), Signal::SIGTERM).context("stopping a process")?;
        }
        match tokio::time::timeout(PATIENCE, self.child.wait()).await {
            Ok(status) => status.map(drop).context("waiting for a process"),
            Err(_) => bail!("`{}` did not stop within {} s", self.name, PATIENCE.as_secs()),
        }
    }
}

/// The real servers and the real binary, in a directory of this run's own.
#[derive(Debug)]
pub(crate) struct Machine {
    /// A directory below `target/bench`.
    pub(crate) directory: PathBuf,
    /// `target/release/usage-ledger`.
    pub(crate) binary: PathBuf,
    /// Variables that `dev --infra` wrote for `api` and `worker`, and those that the benchmark adds.
    pub(crate) environment: Environment,
    servers: Process,
}

impl Machine {
    /// Starts PostgreSQL and nats-server on fresh data of this name.
    pub(crate) async fn start(target: &Path, name: &str) -> anyhow::Result<Self> {
        let (directory, binary) = (target.join("bench").join(name), target.join("release/usage-ledger"));
        if directory.exists() {
            std::fs::remove_dir_all(&directory).context("removing the last run's data")?;
        }
        std::fs::create_dir_all(&directory)?;
        let data = directory.join("data");
        let data_text = data.to_str().context("a path that is not UTF-8")?;
        let arguments = ["dev", "--infra", "--data-dir", data_text];
        let mut servers =
            Process::start(&binary, &arguments, &Environment::new(), &directory.join("servers.log"))?;
        let dev_env = data.join("dev.env");
        servers.wait_until(async || dev_env.exists()).await?;
        let mut environment: Environment =
            dotenvy::from_path_iter(&dev_env).context("reading dev.env")?.collect::<Result<_, _>>()?;
        environment.insert("MAX_UNPROJECTED".to_owned(), "100000000".to_owned());
        environment.insert("USER_INGEST".to_owned(), "true".to_owned());
        environment.insert("LOG_FORMAT".to_owned(), "json".to_owned());
        environment.insert("RUST_LOG".to_owned(), "warn".to_owned());
        Ok(Self { directory, binary, environment, servers })
    }

    /// A variable of the environment.
    pub(crate) fn variable(&self, name: &str) -> anyhow::Result<&str> {
        self.environment.get(name).map(String::as_str).with_context(|| format!("dev.env has no {name}"))
    }

    /// Starts `usage-ledger` with `arguments` on this machine's servers.
    pub(crate) fn run(&self, arguments: &[&str]) -> anyhow::Result<Process> {
        self.run_with(arguments, &[])
    }

    /// The same with other variables.
    pub(crate) fn run_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> anyhow::Result<Process> {
        let log = self.directory.join(format!("{}.log", arguments.first().unwrap_or(&"usage-ledger")));
        let mut environment = self.environment.clone();
        environment.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        Process::start(&self.binary, arguments, &environment, &log)
    }

    /// Stops the servers.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.servers.stop().await
    }
}

/// A free loopback address.
pub(crate) fn free_address() -> anyhow::Result<String> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}
