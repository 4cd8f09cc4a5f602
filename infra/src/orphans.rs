//! Servers of an earlier run that still hold a data directory.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tracing::warn;

const ORDERLY: Duration = Duration::from_secs(20);
const KILLED: Duration = Duration::from_secs(10);

/// Stops the process whose id stands in `pid_file`, if `is_ours` recognises it: the id may belong to another by now.
pub(crate) async fn stop(pid_file: &Path, signal: Signal, is_ours: impl Fn(i32) -> bool) -> io::Result<()> {
    let text = match fs::read_to_string(pid_file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let Some(pid) = text.lines().next().and_then(|line| line.trim().parse::<i32>().ok()) else {
        return Ok(());
    };
    if pid <= 1 || !is_ours(pid) {
        return Ok(());
    }
    warn!(pid, file = %pid_file.display(), "a server of an earlier run is still there and is stopped");
    for (signal, bound) in [(signal, ORDERLY), (Signal::SIGKILL, KILLED)] {
        if kill(Pid::from_raw(pid), signal).is_err() || gone(pid, bound, &is_ours).await {
            return Ok(());
        }
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, format!("process {pid} does not end")))
}

/// The working directory of a process, which PostgreSQL sets to its data directory.
pub(crate) fn working_dir(pid: i32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/cwd")).ok()
}

/// The arguments of a process.
pub(crate) fn arguments(pid: i32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes.split(|byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned()).collect()
}

async fn gone(pid: i32, bound: Duration, is_ours: &impl Fn(i32) -> bool) -> bool {
    let started = Instant::now();
    while is_ours(pid) {
        if started.elapsed() > bound {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    true
}
