//! The built program, run in a directory of its own with no environment but what a test gives.

use std::{
    collections::BTreeMap,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;
use tokio::process::{Child, Command};

const BOUND: Duration = Duration::from_mins(2);

/// A data directory and working directory that PostgreSQL's own user may enter.
pub(crate) struct DataDir(TempDir);

impl DataDir {
    pub(crate) fn new() -> Result<Self> {
        let dir = TempDir::new()?;
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))?;
        Ok(Self(dir))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn text(&self) -> &str {
        self.0.path().to_str().unwrap_or_default()
    }

    /// Variables that `dev` wrote when everything was ready.
    pub(crate) async fn dev_env(&self, dev: &mut Program) -> Result<BTreeMap<String, String>> {
        let path = self.0.path().join("dev.env");
        let started = Instant::now();
        while !path.exists() {
            if let Some(status) = dev.child.try_wait()? {
                bail!("dev ended with {status} before it was ready: {}", std::fs::read_to_string(&dev.log)?);
            }
            let log = || std::fs::read_to_string(&dev.log).unwrap_or_default();
            anyhow::ensure!(started.elapsed() < BOUND, "dev was not ready within {BOUND:?}: {}", log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mode = path.metadata()?.permissions().mode() & 0o777;
        anyhow::ensure!(mode == 0o600, "dev.env holds secrets and has mode {mode:o}");
        let text = std::fs::read_to_string(&path)?;
        let lines =
            text.lines().map(|line| line.strip_prefix("export ").context("a line that exports nothing"));
        let pairs = lines.map(|line| line?.split_once('=').context("a line without ="));
        pairs
            .map(|pair| pair.map(|(name, value)| (name.to_owned(), value.trim_matches('\'').to_owned())))
            .collect()
    }
}

/// A running program; killed when dropped.
pub(crate) struct Program {
    child: Child,
    log: PathBuf,
    /// Place in the log at which its own words begin.
    log_start: u64,
}

impl Program {
    pub(crate) fn start(dir: &DataDir, arguments: &[&str], environment: &[(&str, &str)]) -> Result<Self> {
        Self::spawn(dir, arguments, command(dir, arguments, environment))
    }

    pub(crate) fn spawn(dir: &DataDir, arguments: &[&str], mut command: Command) -> Result<Self> {
        let log = dir.path().join(format!("{}.log", arguments[0]));
        // One that is started again goes on where the one before ended.
        let file = std::fs::File::options().create(true).append(true).open(&log)?;
        let log_start = file.metadata()?.len();
        let child = command.stdout(file.try_clone()?).stderr(file).spawn()?;
        Ok(Self { child, log, log_start })
    }

    /// Its process id, while it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let id = self.pid().context("it has ended")?;
        Ok(kill(Pid::from_raw(id.cast_signed()), signal)?)
    }

    /// Its end, if it has come, and what it said.
    pub(crate) fn ended(&mut self) -> Result<Option<(ExitStatus, String)>> {
        let Some(status) = self.child.try_wait()? else { return Ok(None) };
        let said = std::fs::read(&self.log)?.split_off(usize::try_from(self.log_start)?);
        Ok(Some((status, String::from_utf8_lossy(&said).into_owned())))
    }

    pub(crate) async fn wait(&mut self) -> Result<ExitStatus> {
        Ok(tokio::time::timeout(BOUND, self.child.wait()).await.context("it does not end")??)
    }
}

/// Words of a program that ended.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    pub(crate) code: Option<i32>,
    pub(crate) text: String,
    pub(crate) errors: String,
}

impl Output {
    /// Its output, if its exit code was 0.
    pub(crate) fn expect_success(self) -> Result<String> {
        anyhow::ensure!(self.code == Some(0), "exit code {:?}: {}", self.code, self.errors);
        Ok(self.text)
    }
}

/// Runs a program to its end.
pub(crate) async fn output(
    dir: &DataDir,
    arguments: &[&str],
    environment: &[(&str, &str)],
) -> Result<Output> {
    let ended = tokio::time::timeout(BOUND, command(dir, arguments, environment).output());
    let ended = ended.await.context("it does not end")??;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Output { code: ended.status.code(), text: text(&ended.stdout), errors: text(&ended.stderr) })
}

pub(crate) fn command(dir: &DataDir, arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_usage-ledger"));
    command.args(arguments).current_dir(dir.path()).stdin(Stdio::null()).kill_on_drop(true);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    for name in ["PG_BINDIR", "NATS_SERVER_BIN"] {
        command.envs(std::env::var_os(name).map(|value| (name, value)));
    }
    command.envs(environment.iter().copied());
    command
}
