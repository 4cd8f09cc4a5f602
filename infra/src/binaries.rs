//! Finds the servers' programs.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use crate::{StartError, child};

const LOWEST_POSTGRES: u32 = 15;
const LOWEST_NATS: (u32, u32) = (2, 14);

/// The directory of `postgres` and `initdb`: `PG_BINDIR`, else the newest of Debian's versioned directories, else PATH.
///
/// `cluster_version` is the major version that made the data directory: no other can open it.
pub(crate) fn postgres_dir(cluster_version: Option<u32>) -> Result<PathBuf, StartError> {
    let mut found: Vec<(u32, PathBuf)> = postgres_candidates()
        .into_iter()
        .filter_map(|dir| Some((postgres_version(&dir)?, dir)))
        .filter(|(version, _)| cluster_version.map_or(*version >= LOWEST_POSTGRES, |exact| *version == exact))
        .collect();
    // A stable sort: among equal versions the earlier candidate stays in front.
    found.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    found.into_iter().next().map(|(_, dir)| dir).ok_or(StartError::ProgramNotFound {
        program: "PostgreSQL",
        needed: "15",
        variable: "PG_BINDIR",
    })
}

/// `NATS_SERVER_BIN`, else beside this program, else on PATH. What the variable names is meant: when it does not do,
/// nothing else is tried.
pub(crate) fn nats_server() -> Result<PathBuf, StartError> {
    let is_good =
        |path: &PathBuf| path.is_file() && nats_version(path).is_some_and(|version| version >= LOWEST_NATS);
    if let Some(named) = env::var_os("NATS_SERVER_BIN").filter(|named| !named.is_empty()) {
        let named = absolute(Path::new(&named))?;
        return if is_good(&named) { Ok(named) } else { Err(StartError::NotNatsServer(named)) };
    }
    let beside = env::current_exe().ok().and_then(|program| Some(program.parent()?.join("nats-server")));
    let found = beside.into_iter().chain(on_path("nats-server")).find(is_good);
    found.ok_or(StartError::ProgramNotFound {
        program: "nats-server",
        needed: "2.14",
        variable: "NATS_SERVER_BIN",
    })
}

/// The path as seen from anywhere: children run in other directories.
fn absolute(path: &Path) -> Result<PathBuf, StartError> {
    std::path::absolute(path)
        .map_err(|source| StartError::io(format!("cannot find {}", path.display()), source))
}

fn postgres_candidates() -> Vec<PathBuf> {
    let named = env::var_os("PG_BINDIR").and_then(|named| absolute(Path::new(&named)).ok());
    let mut dirs: Vec<PathBuf> = named.into_iter().collect();
    if let Ok(entries) = fs::read_dir("/usr/lib/postgresql") {
        dirs.extend(entries.flatten().map(|entry| entry.path().join("bin")));
    }
    // A link on PATH leads to the directory that holds the other programs too.
    let real = on_path("postgres").filter_map(|path| path.canonicalize().ok());
    dirs.extend(real.filter_map(|path| path.parent().map(Path::to_path_buf)));
    dirs.retain(|dir| dir.join("initdb").is_file());
    dirs
}

/// Files of this name in PATH's directories. An empty or relative entry means the working directory, in which anybody
/// may have put a program.
fn on_path(program: &str) -> impl Iterator<Item = PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = env::split_paths(&path).filter(|dir| dir.is_absolute());
    let dirs: Vec<PathBuf> = dirs.map(|dir| dir.join(program)).collect();
    dirs.into_iter().filter(|path| path.is_file())
}

fn postgres_version(dir: &Path) -> Option<u32> {
    let text = first_line(&dir.join("postgres"))?;
    let version = text.split_whitespace().nth(2)?;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn nats_version(path: &Path) -> Option<(u32, u32)> {
    let text = first_line(path)?;
    let mut parts = text.rsplit_once('v')?.1.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn first_line(program: &Path) -> Option<String> {
    let output = child::command(program).arg("--version").stdin(Stdio::null()).output().ok()?;
    output.status.success().then_some(())?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned)
}
