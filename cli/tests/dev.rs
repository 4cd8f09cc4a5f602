//! `usage-ledger dev`, `api`, `worker`, `token` and `config` as their users meet them.

mod program;

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use program::{DataDir, Program, command, output};
use testkit::{Client, Env, Role, wait_until};
use tokio::process::Command;

const BOUND: Duration = Duration::from_mins(1);

/// One call through forward-auth, answered 204 when it is on disk.
async fn call(client: &Client) -> Result<()> {
    let request = client.get("/api/forward-auth").header("X-Forwarded-Uri", "/api/analyze");
    request.header("X-Forwarded-Method", "GET").send().await?.expect(204)?;
    Ok(())
}

async fn used(client: &Client) -> Option<u64> {
    let answer = client.get("/api/usage/stats").send().await.ok()?.expect(200).ok()?;
    answer.json().ok()?.pointer("/total/used")?.as_u64()
}

#[tokio::test]
async fn dev_counts_calls_and_comes_back_after_sigkill_with_all_of_them() -> Result<()> {
    let data = DataDir::new()?;
    let mut dev = Program::start(&data, &["dev", "--data-dir", data.text()], &[])?;
    let environment = data.dev_env(&mut dev).await?;
    let client = Client::new(&environment["API_URL"])?.with_token(&environment["ADMIN_TOKEN"]);
    for _ in 0..3 {
        call(&client).await?;
    }
    // What a shell has read, the programs that it starts find too: README's commands are programs.
    let script = r#". "$0/dev.env"; exec sh -c 'echo "$API_URL $ADMIN_TOKEN"'"#;
    let sourced = std::process::Command::new("sh").args(["-c", script, data.text()]).env_clear().output()?;
    let expected = format!("{} {}\n", environment["API_URL"], environment["ADMIN_TOKEN"]);
    assert_eq!(String::from_utf8(sourced.stdout)?, expected);
    dev.signal(Signal::SIGKILL)?;
    dev.wait().await?;
    // Killed like that it could not take it away.
    std::fs::remove_file(data.path().join("dev.env"))?;

    let mut dev = Program::start(&data, &["dev", "--data-dir", data.text()], &[])?;
    let environment = data.dev_env(&mut dev).await?;
    let client = Client::new(&environment["API_URL"])?.with_token(&environment["ADMIN_TOKEN"]);
    wait_until(BOUND, || async { used(&client).await == Some(3) }).await;
    call(&client).await?;
    wait_until(BOUND, || async { used(&client).await == Some(4) }).await;
    dev.signal(Signal::SIGTERM)?;
    assert_eq!(dev.wait().await?.code(), Some(0));
    assert!(!data.path().join("dev.env").exists(), "its addresses lead nowhere now");
    assert!(!data.path().join("postgres/postmaster.pid").exists(), "PostgreSQL was stopped in order");
    Ok(())
}

/// The command with no more than so many file descriptors.
fn within(descriptors: u32, command: &Command) -> Command {
    let command = command.as_std();
    let mut limited = Command::new("prlimit");
    limited.arg(format!("--nofile={descriptors}:{descriptors}"));
    limited.arg(command.get_program()).args(command.get_args()).env_clear();
    limited.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    limited.current_dir(command.get_current_dir().unwrap_or(std::path::Path::new("."))).kill_on_drop(true);
    limited
}

async fn ready(client: &Client) -> Result<u16> {
    Ok(client.get("/readyz").send().await?.status.as_u16())
}

#[tokio::test]
async fn clients_cannot_take_the_descriptors_that_postgres_and_nats_need() -> Result<()> {
    let data = DataDir::new()?;
    let arguments = ["dev", "--data-dir", data.text()];
    let mut dev = Program::spawn(&data, &arguments, within(400, &command(&data, &arguments, &[])))?;
    let environment = data.dev_env(&mut dev).await?;
    let client = Client::new(&environment["API_URL"])?.with_token(&environment["ADMIN_TOKEN"]);
    let address: std::net::SocketAddr = environment["API_URL"].trim_start_matches("http://").parse()?;
    let mut silent = Vec::new();
    for n in 0..600 {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind(format!("127.0.1.{}:0", n % 8 + 1).parse()?)?;
        silent.push(tokio::time::timeout(BOUND, socket.connect(address)).await??);
        if n % 100 == 99 {
            // The connection that was left idle before may have had to make room for these; what is asked first has
            // another one then, which nobody takes from the call.
            wait_until(BOUND, || async { ready(&client).await.is_ok_and(|status| status == 200) }).await;
            call(&client).await?;
        }
    }
    wait_until(BOUND, || async { used(&client).await == Some(6) }).await;
    dev.signal(Signal::SIGTERM)?;
    assert_eq!(dev.wait().await?.code(), Some(0));
    Ok(())
}

#[tokio::test]
async fn the_demo_brings_a_month_of_calls_once() -> Result<()> {
    let data = DataDir::new()?;
    let mut figures = Vec::new();
    for _ in 0..2 {
        let start = ["dev", "--demo", "--now", "2026-11-24T12:00:00Z", "--data-dir", data.text()];
        let mut dev = Program::start(&data, &start, &[])?;
        let environment = data.dev_env(&mut dev).await?;
        let client = Client::new(&environment["API_URL"])?.with_token(&environment["ADMIN_TOKEN"]);
        let path = "/api/usage/stats?user_id=demo-ada&month=2026-11";
        wait_until(BOUND, || async {
            let answer = client.get(path).send().await.and_then(|answer| answer.expect(200));
            let stats = answer.and_then(|answer| answer.json()).unwrap_or_default();
            let used = stats["total"]["used"].as_u64().unwrap_or_default();
            stats["plan"]["plan_name"] == "enterprise" && used > 2_000 && stats["as_of"]["lag_ms"] == 0
        })
        .await;
        figures.push(client.get(path).send().await?.json()?["total"]["used"].clone());
        dev.signal(Signal::SIGTERM)?;
        assert_eq!(dev.wait().await?.code(), Some(0));
    }
    assert_eq!(figures[0], figures[1]);
    Ok(())
}

#[tokio::test]
async fn with_infra_api_and_worker_run_apart() -> Result<()> {
    let data = DataDir::new()?;
    let secret = "a secret that was given, of forty bytes..";
    let mut dev =
        Program::start(&data, &["dev", "--infra", "--data-dir", data.text()], &[("JWT_SECRET", secret)])?;
    let environment = data.dev_env(&mut dev).await?;
    assert_eq!(environment["JWT_SECRET"], secret, "a given secret goes before a made one");
    let variables: Vec<_> = environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let mut worker = Program::start(&data, &["worker"], &variables)?;
    let mut api = Program::start(&data, &["api"], &variables)?;
    let token = output(&data, &["token", "--user", "alice"], &variables).await?.expect_success()?;
    let client = Client::new(&environment["API_URL"])?.with_token(token.trim());
    wait_until(BOUND, || async { call(&client).await.is_ok() }).await;
    wait_until(BOUND, || async { used(&client).await == Some(1) }).await;
    for program in [&mut api, &mut worker, &mut dev] {
        program.signal(Signal::SIGINT)?;
        assert_eq!(program.wait().await?.code(), Some(0));
    }
    Ok(())
}

#[tokio::test]
async fn serve_starts_its_nats_server_again_when_it_dies() -> Result<()> {
    let (data, env) = (DataDir::new()?, Env::start().await?);
    let port = infra::free_port()?;
    let address = format!("127.0.0.1:{port}");
    let variables = [
        ("DATABASE_URL", env.database_url()),
        ("JWT_SECRET", testkit::JWT_SECRET),
        ("ENCRYPTION_KEY", testkit::ENCRYPTION_KEY),
        ("LISTEN_ADDR", &address),
        ("AUTO_PROVISION", "true"),
    ];
    let mut serve = Program::start(&data, &["serve", "--data-dir", data.text()], &variables)?;
    let client = Client::new(format!("http://{address}"))?.with_token(env.token("alice", Role::User));
    wait_until(BOUND, || async { call(&client).await.is_ok() }).await;
    let written = std::fs::read_to_string(data.path().join("serve.env"))?;
    assert!(
        written.contains("NATS_URL") && !written.contains(testkit::ENCRYPTION_KEY),
        "it lies beside the log"
    );

    let pid_file = data.path().join("nats.pid");
    let pid = std::fs::read_to_string(&pid_file)?;
    kill(Pid::from_raw(pid.trim().parse()?), Signal::SIGKILL)?;
    wait_until(BOUND, || async { std::fs::read_to_string(&pid_file).is_ok_and(|now| now != pid) }).await;
    wait_until(BOUND, || async { call(&client).await.is_ok() }).await;
    wait_until(BOUND, || async { used(&client).await >= Some(2) }).await;
    serve.signal(Signal::SIGTERM)?;
    assert_eq!(serve.wait().await?.code(), Some(0));
    Ok(())
}

#[tokio::test]
async fn a_data_directory_in_use_is_refused_in_one_line() -> Result<()> {
    let data = DataDir::new()?;
    let mut dev = Program::start(&data, &["dev", "--infra", "--data-dir", data.text()], &[])?;
    data.dev_env(&mut dev).await?;
    let second = output(&data, &["dev", "--infra", "--data-dir", data.text()], &[]).await?;
    assert_eq!(second.code, Some(1));
    let line = second.errors.lines().last().context("it said nothing")?;
    assert!(line.contains("is in use by another running usage-ledger"), "{line}");
    assert_eq!(dev.ended()?, None);
    assert!(data.path().join("dev.env").exists(), "the first one goes on undisturbed");
    Ok(())
}

#[tokio::test]
async fn the_configuration_is_listed_with_sources_and_without_secrets() -> Result<()> {
    let data = DataDir::new()?;
    std::fs::write(
        data.path().join(".env"),
        "NATS_STREAM=OTHER\nJWT_SECRET=overridden-by-the-environment-here\n",
    )?;
    let secret = "0123456789abcdef0123456789abcdef";
    let given = [
        ("JWT_SECRET", secret),
        ("ENCRYPTION_KEY", testkit::ENCRYPTION_KEY),
        ("DATABASE_URL", "postgres://u:hunter2@h/d"),
        ("NATS_URL", "nats://h"),
    ];
    let listed = output(&data, &["config"], &given).await?;
    let text = listed.clone().expect_success()?;
    let line = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
    assert!(line("JWT_SECRET ").contains("********") && line("JWT_SECRET ").contains("environment"));
    assert!(line("NATS_STREAM ").contains("OTHER") && line("NATS_STREAM ").contains(".env"));
    assert!(line("LISTEN_ADDR ").contains("127.0.0.1:8080") && line("LISTEN_ADDR ").contains("default"));
    assert!(!text.contains(secret) && !text.contains("hunter2") && !text.contains("overridden"));
    assert!(line("ENCRYPTION_KEY ").contains("********") && !text.contains(testkit::ENCRYPTION_KEY));

    for (name, value, says) in [
        ("JWT_SECRET", "short", "JWT_SECRET"),
        ("ENCRYPTION_KEY", "short", "the encryption key k1 is malformed"),
        ("ENCRYPTION_KEY_PREVIOUS", "k0", "ENCRYPTION_KEY_PREVIOUS"),
        ("DATABASE_URL", "nonsense", "DATABASE_URL"),
        ("LISTEN_ADDR", "nonsense", "LISTEN_ADDR"),
        ("SELF_UPGRADE", "perhaps", "SELF_UPGRADE"),
        ("RULES_FILE", "/nonexistent", "RULES_FILE"),
    ] {
        let mut wrong = given.to_vec();
        wrong.retain(|(other, _)| *other != name);
        wrong.push((name, value));
        let refused = output(&data, &["config"], &wrong).await?;
        assert_eq!(refused.code, Some(1), "{name}");
        assert_eq!(refused.errors.lines().count(), 1, "{}", refused.errors);
        assert!(refused.errors.contains(says), "{}", refused.errors);
    }
    Ok(())
}

#[tokio::test]
async fn a_reader_who_leaves_early_makes_no_failure() -> Result<()> {
    let data = DataDir::new()?;
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let listed = command(&data, &["config"], &[]).stdout(writer).stderr(Stdio::piped()).spawn()?;
    let listed =
        tokio::time::timeout(BOUND, listed.wait_with_output()).await.context("it does not end")??;
    assert_eq!((listed.status.code(), String::from_utf8(listed.stderr)?), (Some(0), String::new()));
    Ok(())
}

#[tokio::test]
async fn wrong_usage_is_exit_code_2() -> Result<()> {
    let data = DataDir::new()?;
    for arguments in [&["nonsense"][..], &["token"], &["token", "--user", "me"], &["dev", "--now", "soon"]] {
        assert_eq!(output(&data, arguments, &[]).await?.code, Some(2), "{arguments:?}");
    }
    Ok(())
}
