//! Processes that stand still: SIGSTOP, and SIGCONT when the test lets go of them.

use std::{fs, time::Duration};

use crate::wait_until;
use anyhow::{Context as _, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sqlx::PgPool;

const BOUND: Duration = Duration::from_secs(5);

/// Processes that stand still until this is dropped.
#[derive(Debug)]
pub struct Frozen(Vec<Pid>);

impl Frozen {
    /// Freezes one process.
    pub async fn one(pid: u32) -> Result<Self> {
        let frozen = Self(vec![Pid::from_raw(pid.try_into()?)]);
        frozen.signal(Signal::SIGSTOP)?;
        // A signal is on its way for a moment.
        wait_until(BOUND, || async { frozen.stands_still() }).await;
        Ok(frozen)
    }

    /// Freezes a process and all its children.
    pub async fn family(pid: u32) -> Result<Self> {
        // The parent first, which makes no more of them then.
        let mut frozen = Self::one(pid).await?;
        for child in children(pid)? {
            frozen.0.extend(Self::one(child).await?.leak());
        }
        Ok(frozen)
    }

    /// Freezes the session that holds a lock, in the server alone.
    pub async fn session(pool: &PgPool, lock: i32) -> Result<Self> {
        let pid: i32 = sqlx::query_scalar("SELECT backend_pid FROM lock_holders WHERE lock = $1")
            .bind(lock)
            .fetch_one(pool)
            .await?;
        Self::one(pid.try_into()?).await
    }

    fn leak(mut self) -> Vec<Pid> {
        std::mem::take(&mut self.0)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        for pid in &self.0 {
            kill(*pid, signal).with_context(|| format!("{signal} to {pid}"))?;
        }
        Ok(())
    }

    fn stands_still(&self) -> bool {
        let is_still = |stat: String| stat.starts_with('T');
        self.0.iter().all(|pid| threads(pid.as_raw()).all(is_still))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for pid in self.0.iter().rev() {
            // A session that was ended meanwhile ends now; the others go on.
            let _ = kill(*pid, Signal::SIGCONT);
        }
    }
}

/// State, parent and the rest of what the kernel says of a process; none when it is gone.
fn stat(pid: i32) -> Option<String> {
    after_name(&format!("/proc/{pid}/stat"))
}

/// The same of each of its threads, of which one may still be at work when another stands still.
fn threads(pid: i32) -> impl Iterator<Item = String> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
    threads.filter_map(|thread| after_name(&thread.ok()?.path().join("stat").to_string_lossy()))
}

fn after_name(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    // The name, in parentheses, may hold anything.
    Some(text.rsplit_once(") ")?.1.to_owned())
}

fn children(parent: u32) -> Result<Vec<u32>> {
    let parent = parent.to_string();
    let pids =
        fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let is_child = |pid: &u32| {
        let stat = i32::try_from(*pid).ok().and_then(stat);
        stat.is_some_and(|stat| stat.split(' ').nth(1) == Some(parent.as_str()))
    };
    Ok(pids.filter(is_child).collect())
}
