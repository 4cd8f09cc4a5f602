//! Programs of others that tests run unchanged, as `scripts/test-programs` installs them.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::process::Command;

/// Longest time for fetching them.
const INSTALLATION: Duration = Duration::from_mins(8);

/// Folder of what is pinned, and of the scripts that use it.
pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs")
}

/// Folder of what is installed; installs what is missing.
pub(crate) async fn installed() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("a workspace")?;
    run(&mut Command::new(root.join("scripts/test-programs")), INSTALLATION).await?;
    Ok(root.join("target/test-programs"))
}

/// Python with what is installed for it.
pub(crate) async fn python(arguments: &[&OsStr]) -> Result<Command> {
    let mut command = Command::new(installed().await?.join("python/bin/python"));
    command.args(arguments);
    Ok(command)
}

/// Runs a program to its end, which must be a good one; answers what it said.
pub(crate) async fn run(command: &mut Command, bound: Duration) -> Result<String> {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(bound, output).await.context("it does not end")?;
    let output = output.with_context(|| format!("{command:?} cannot be run"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{}: {said}\n{errors}", output.status);
    Ok(said)
}
