//! Which programs are run, and what of our environment they see.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tokio::process::Command;

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

const BOUND: Duration = Duration::from_mins(2);
/// Variables that no child may see: some would change what it does, the others are secrets.
const FOREIGN: [(&str, &str); 8] = [
    ("LD_PRELOAD", "/nowhere/planted.so"),
    ("LD_LIBRARY_PATH", "/nowhere/planted"),
    ("PGOPTIONS", "-c planted.option=1"),
    ("PGDATA", "/nowhere/planted"),
    ("NATS_CONFIG", "/nowhere/planted"),
    ("JWT_SECRET", "planted-secret"),
    ("ENCRYPTION_KEY", "planted-secret"),
    ("DATABASE_URL", "postgres://planted@nowhere/"),
];

/// A script that tells `marker` that it was run, with its environment, and goes on as `then`.
fn plant(path: &Path, marker: &Path, then: &str) -> Result {
    fs::create_dir_all(path.parent().ok_or("no folder")?)?;
    let script = format!(
        "#!/bin/sh\necho \"ran $0\" >> {marker}\nenv >> {marker}\n{then}\n",
        marker = marker.display()
    );
    fs::write(path, script)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

/// `with-servers COMMAND…`, with no environment but this.
async fn with_servers(dir: &Path, environment: &[(&str, &str)], command: &[&str]) -> Result<Output> {
    let mut program = Command::new(env!("CARGO_BIN_EXE_with-servers"));
    program.args(command).current_dir(dir).stdin(Stdio::null()).kill_on_drop(true).env_clear();
    program.env("PATH", "/usr/bin:/bin").envs(environment.iter().copied());
    Ok(tokio::time::timeout(BOUND, program.output()).await.map_err(|_| "it hangs")??)
}

fn open_dir() -> Result<TempDir> {
    let dir = TempDir::new()?;
    // PostgreSQL's own user must be able to enter it, and to write the marker, when the tests run as root.
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777))?;
    Ok(dir)
}

/// A program on this machine, by its variable or on PATH.
fn real(variable: &str, program: &str) -> Result<PathBuf> {
    if let Some(named) = env::var_os(variable) {
        return Ok(named.into());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|dir| dir.join(program)).find(|path| path.is_file());
    found.ok_or_else(|| format!("{program} is not here: set {variable}").into())
}

#[tokio::test]
async fn a_program_planted_near_the_working_directory_is_not_run() -> Result {
    let dir = open_dir()?;
    let marker = dir.path().join("marker");
    let work = dir.path().join("a/b");
    let version = "echo 'nats-server: v9.9.9'";
    for place in
        ["a/b/nats-server", "a/b/.dev/bin/nats-server", "a/.dev/bin/nats-server", ".dev/bin/nats-server"]
    {
        plant(&dir.path().join(place), &marker, version)?;
    }
    plant(&work.join("postgres"), &marker, "echo 'postgres (PostgreSQL) 99.0'")?;
    plant(&work.join("initdb"), &marker, "exit 1")?;
    for path in ["/usr/bin:/bin", ":/usr/bin:/bin", ".:/usr/bin:/bin", "../b:.dev/bin:/usr/bin:/bin:"] {
        let ended = with_servers(&work, &[("PATH", path)], &["true"]).await?;
        assert!(!marker.exists(), "{path}: {}", fs::read_to_string(&marker)?);
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(ended.status.success() || said.contains("set NATS_SERVER_BIN to where it is"), "{said}");
    }
    Ok(())
}

#[tokio::test]
async fn what_the_variable_names_is_meant_and_nothing_else_is_tried() -> Result {
    let dir = open_dir()?;
    let marker = dir.path().join("marker");
    plant(&dir.path().join("on-path/nats-server"), &marker, "echo 'nats-server: v9.9.9'")?;
    let old = dir.path().join("old");
    plant(&old, &dir.path().join("old-marker"), "echo 'nats-server: v2.10.1'")?;
    let path = format!("{}:/usr/bin:/bin", dir.path().join("on-path").display());
    for named in [old.to_str().ok_or("not UTF-8")?, "/nowhere/nats-server", "no-such-program"] {
        let ended =
            with_servers(dir.path(), &[("PATH", &path), ("NATS_SERVER_BIN", named)], &["true"]).await?;
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(said.contains("NATS_SERVER_BIN names") && said.contains(named), "{said}");
        assert!(!ended.status.success() && !marker.exists(), "{said}");
    }
    assert!(dir.path().join("old-marker").exists(), "it was asked for its version");
    Ok(())
}

#[tokio::test]
async fn no_child_sees_our_environment() -> Result {
    let dir = open_dir()?;
    let marker = dir.path().join("marker");
    fs::write(&marker, "")?;
    fs::set_permissions(&marker, fs::Permissions::from_mode(0o666))?;
    let nats = dir.path().join("bin/nats-server");
    plant(&nats, &marker, &format!("exec {} \"$@\"", real("NATS_SERVER_BIN", "nats-server")?.display()))?;
    let postgres = newest_postgres()?;
    for program in ["postgres", "initdb"] {
        let then = format!("exec {} \"$@\"", postgres.join(program).display());
        plant(&dir.path().join("pg").join(program), &marker, &then)?;
    }
    let bin = dir.path().join("pg");
    let (nats, bin) = (nats.to_str().ok_or("not UTF-8")?, bin.to_str().ok_or("not UTF-8")?);
    let named = [("NATS_SERVER_BIN", nats), ("PG_BINDIR", bin)];
    // The environments of all processes that it started, but for the shell that asks.
    let script = "for p in $(cat /proc/$PPID/task/*/children); do
        [ $p = $$ ] || { echo child; tr '\\0' '\\n' < /proc/$p/environ; }
    done";
    let ended =
        with_servers(dir.path(), &[&named[..], &FOREIGN].concat(), &["/bin/sh", "-c", script]).await?;
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.success(), "{said}");
    let running = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert!(
        running.lines().filter(|line| *line == "child").count() >= 4,
        "two servers, two watchdogs: {running}"
    );
    let noted = fs::read_to_string(&marker)?;
    for program in ["bin/nats-server", "pg/postgres", "pg/initdb"] {
        assert!(noted.lines().any(|line| line.starts_with("ran ") && line.ends_with(program)), "{noted}");
    }
    for seen in [&running, &noted] {
        assert!(!seen.contains("planted"), "{seen}");
        let foreign = FOREIGN.iter().map(|(name, _)| *name);
        for name in foreign.chain(["PG_BINDIR", "NATS_SERVER_BIN", "HOME"]) {
            assert!(!seen.lines().any(|line| line.starts_with(&format!("{name}="))), "{name}: {seen}");
        }
    }
    Ok(())
}

/// A server that fails to start must not have the other one waited for in vain.
#[tokio::test]
async fn a_server_that_does_not_stop_is_killed_when_the_other_one_fails() -> Result {
    let dir = open_dir()?;
    let marker = dir.path().join("marker");
    let nats = dir.path().join("bin/nats-server");
    plant(&nats, &marker, "[ \"$1\" = --version ] && echo 'nats-server: v9.9.9' && exit 0; exit 1")?;
    let postgres = newest_postgres()?;
    let real = |program: &str| format!("exec {} \"$@\"", postgres.join(program).display());
    let deaf =
        format!("[ \"$1\" = -D ] || {}; trap '' INT; while :; do /bin/sleep 0.1; done", real("postgres"));
    fs::write(&marker, "")?;
    fs::set_permissions(&marker, fs::Permissions::from_mode(0o666))?;
    plant(&dir.path().join("pg/postgres"), &marker, &deaf)?;
    plant(&dir.path().join("pg/initdb"), &marker, &real("initdb"))?;
    let bin = dir.path().join("pg");
    let environment = [
        ("NATS_SERVER_BIN", nats.to_str().ok_or("not UTF-8")?),
        ("PG_BINDIR", bin.to_str().ok_or("not UTF-8")?),
    ];
    let ended = with_servers(dir.path(), &environment, &["true"]).await?;
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.code() == Some(1) && said.contains("did not start"), "{said}");
    assert!(fs::read_to_string(&marker)?.contains("pg/postgres"), "both were started");
    Ok(())
}

/// The directory of the newest PostgreSQL of Debian's, else that on PATH.
fn newest_postgres() -> Result<PathBuf> {
    if let Some(named) = env::var_os("PG_BINDIR") {
        return Ok(named.into());
    }
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest =
        versions.map(|entry| entry.path().join("bin")).filter(|dir| dir.join("initdb").is_file()).max();
    match newest {
        Some(dir) => Ok(dir),
        None => Ok(real("PG_BINDIR", "postgres")?.canonicalize()?.parent().ok_or("no folder")?.to_path_buf()),
    }
}

#[tokio::test]
async fn without_a_nats_server_it_ends_at_once_and_leaves_nothing() -> Result {
    let dir = open_dir()?;
    let temporary = dir.path().to_str().ok_or("not UTF-8")?;
    let environment = [("TMPDIR", temporary), ("NATS_SERVER_BIN", "/nowhere/nats-server")];
    let ended = with_servers(dir.path(), &environment, &["true"]).await?;
    assert_eq!(ended.status.code(), Some(1));
    assert_eq!(fs::read_dir(dir.path())?.count(), 0, "a folder was left behind");
    Ok(())
}
