//! `sslmode` in `DATABASE_URL`, against a PostgreSQL that takes nothing unencrypted.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use ledger::{Clock, IdSource};
use sqlx::{Connection as _, Executor as _, PgConnection};
use testkit::{Database, PrivateServers, Role, wait_until};

use crate::{
    cluster::{BOUND, Settings},
    program::{DataDir, Program, output},
};

const OPENSSL_CONF: &str = "[req]
distinguished_name = name
prompt = no
[name]
CN = usage-ledger test
[ca]
basicConstraints = critical, CA:TRUE
[server]
basicConstraints = CA:FALSE
subjectAltName = IP:127.0.0.1
";

#[tokio::test]
async fn with_sslmode_every_connection_is_encrypted_and_verify_full_verifies() -> Result<()> {
    let (dir, servers) = (DataDir::new()?, PrivateServers::start().await?);
    let authority = encrypt(&dir, &servers.postgres.url("postgres")).await?;
    let admin_url = format!("{}?sslmode=require", servers.postgres.url("postgres"));
    let database = Database::create_empty(&admin_url, &IdSource::new(Clock::system())).await?;
    let required = database.url();
    anyhow::ensure!(required.ends_with("sslmode=require"), "{required}");
    let settings = Settings::new(required, &servers.nats.url(), &servers.nats.monitor_url())?;
    output(&dir, &["migrate"], &settings.as_pairs()).await?.expect_success()?;

    let _worker = Program::start(&dir, &["worker"], &settings.as_pairs())?;
    let _api = Program::start(&dir, &["api"], &settings.as_pairs())?;
    let client = settings.client("alice", Role::User)?;
    let call = || async {
        let request = client.get("/api/forward-auth").header("X-Forwarded-Uri", "/api/analyze");
        let answer = request.header("X-Forwarded-Method", "GET").send().await;
        answer.is_ok_and(|answer| answer.status == 204)
    };
    wait_until(BOUND, call).await;
    let used = || async {
        let answer = client.get("/api/usage/stats").send().await.and_then(|answer| answer.json());
        answer.is_ok_and(|stats| stats["analyze"]["used"] == 1)
    };
    wait_until(BOUND, used).await;
    let mut admin = PgConnection::connect(&admin_url).await?;
    let connections: Vec<bool> = sqlx::query_scalar(
        "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'usage-ledger'",
    )
    .fetch_all(&mut admin)
    .await?;
    admin.close().await?;
    assert!(connections.len() >= 4 && connections.iter().all(|ssl| *ssl), "{connections:?}");

    let with = |parameters: String| required.replace("sslmode=require", &parameters);
    let verified = with(format!("sslmode=verify-full&sslrootcert={}", authority.display()));
    output(&dir, &["migrate"], &settings.with("DATABASE_URL", &verified)).await?.expect_success()?;
    // Nobody vouches for the server; and it takes nothing unencrypted.
    for parameters in ["sslmode=verify-full", "sslmode=disable"] {
        let url = with(parameters.to_owned());
        for command in ["api", "worker"] {
            let ended = output(&dir, &[command], &settings.with("DATABASE_URL", &url)).await?;
            let last = ended.errors.lines().last().unwrap_or_default();
            assert_eq!(ended.code, Some(1), "{command} with {parameters}: {}", ended.errors);
            assert!(last.contains("DATABASE_URL") && last.contains("sslmode"), "{parameters}: {last}");
        }
    }
    Ok(())
}

/// Gives the server a certificate and makes it refuse all else. Answers the certificate of who vouches for it.
async fn encrypt(dir: &DataDir, admin_url: &str) -> Result<PathBuf> {
    let mut admin = PgConnection::connect(admin_url).await?;
    let data: String = sqlx::query_scalar("SHOW data_directory").fetch_one(&mut admin).await?;
    let conf = dir.path().join("openssl.cnf");
    fs::write(&conf, OPENSSL_CONF)?;
    let authority = certificate(dir.path(), "ca", None)?;
    let certificate = certificate(dir.path(), "server", Some(&authority))?;
    let key = certificate.with_extension("key");
    // The server insists that the key is its own and nobody else's.
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
    let owner = fs::metadata(&data)?;
    chown(&key, Some(owner.uid()), Some(owner.gid()))?;
    fs::write(Path::new(&data).join("pg_hba.conf"), "hostssl all all 127.0.0.1/32 scram-sha-256\n")?;
    let on = ("ssl", "on".to_owned());
    let files = [("ssl_cert_file", &certificate), ("ssl_key_file", &key)];
    let files = files.map(|(name, path)| (name, path.display().to_string()));
    for (name, value) in files.into_iter().chain([on]) {
        admin.execute(format!("ALTER SYSTEM SET {name} = '{value}'").as_str()).await?;
    }
    admin.execute("SELECT pg_reload_conf()").await?;
    admin.close().await?;
    let encrypted = format!("{admin_url}?sslmode=require");
    wait_until(BOUND, || async { PgConnection::connect(&encrypted).await.is_ok() }).await;
    let plain = PgConnection::connect(&format!("{admin_url}?sslmode=disable")).await;
    anyhow::ensure!(plain.is_err(), "the server takes unencrypted connections");
    Ok(authority)
}

/// `<name>.crt` and `<name>.key`, signed by this authority or by itself.
fn certificate(dir: &Path, name: &str, authority: Option<&Path>) -> Result<PathBuf> {
    let certificate = dir.join(format!("{name}.crt"));
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-nodes", "-days", "2", "-newkey", "ec"]);
    command.args(["-pkeyopt", "ec_paramgen_curve:prime256v1", "-extensions", name]);
    command.arg("-config").arg(dir.join("openssl.cnf")).arg("-out").arg(&certificate);
    command.arg("-keyout").arg(certificate.with_extension("key"));
    if let Some(authority) = authority {
        command.arg("-CA").arg(authority).arg("-CAkey").arg(authority.with_extension("key"));
    }
    let made = command.output().context("openssl cannot be started")?;
    anyhow::ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Ok(certificate)
}
