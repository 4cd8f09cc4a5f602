//! One token that is stored, tested, replaced, deleted and put wherever it does not belong, while everything is logged
//! that can be. At the end its bytes are nowhere but with the providers.

mod stage;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::Mutex;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use testkit::{Client, Role, wait_until};
use tokio::task::JoinSet;

use crate::program::{DataDir, Program, output};
use crate::providers::{Mood, Providers};
use crate::traces::Needles;
use stage::{Caller, Secrets, Stage};

const BOUND: Duration = Duration::from_mins(1);
const KINDS: [(&str, &str); 4] =
    [("github", "ghp_"), ("openai", "sk-proj-"), ("anthropic", "sk-ant-api03-"), ("gemini", "AIza")];
/// The moods of a provider that one user meets: at most 10 tests a minute.
const MOODS_A_USER: usize = 4;
const K2: &str = "2222222222222222222222222222222222222222222222222222222222222222";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_nowhere_but_with_its_provider() -> Result<()> {
    let secrets = Secrets::new();
    let (data, providers) = (DataDir::new()?, Providers::start(&secrets.secret).await?);
    let metrics = format!("127.0.0.1:{}", infra::free_port()?);
    let variables = [
        ("RUST_LOG", "trace"),
        ("METRICS_ADDR", &metrics),
        ("GITHUB_API_URL", &providers.url),
        ("OPENAI_BASE_URL", &providers.url),
        ("ANTHROPIC_BASE_URL", &providers.url),
        ("GEMINI_BASE_URL", &providers.url),
    ];
    let mut dev = Program::start(&data, &["dev", "--data-dir", data.text()], &variables)?;
    let environment = data.dev_env(&mut dev).await?;
    let stage = Arc::new(Stage {
        secrets,
        client: Client::new(&environment["API_URL"])?,
        jwt_secret: environment["JWT_SECRET"].clone(),
        encryption_key: environment["ENCRYPTION_KEY"].clone(),
        pool: PgPool::connect(&environment["DATABASE_URL"]).await?,
        answers: Mutex::default(),
    });
    stage.keep("dev.env", std::fs::read(data.path().join("dev.env"))?);

    let mut tests = JoinSet::new();
    for (kind, prefix) in KINDS {
        for (n, moods) in Mood::ALL.chunks(MOODS_A_USER).enumerate() {
            let stage = Arc::clone(&stage);
            tests.spawn(async move { tested(&stage, kind, prefix, &format!("{kind}-{n}"), moods).await });
        }
    }
    reported(&stage).await?;
    kept_and_replaced(&stage).await?;
    malformed(&stage).await?;
    misplaced(&stage).await?;
    altered(&stage).await?;
    while let Some(tested) = tests.join_next().await {
        tested??;
    }
    without_tables(&stage).await?;
    without_a_log(&stage, &data).await?;
    exported_and_erased(&stage).await?;
    commands(&stage, &data, &environment).await?;
    let metered = Client::new(format!("http://{metrics}"))?.get("/metrics").send().await?.expect(200)?;
    assert!(metered.text().contains("vault_open_seconds"), "{}", metered.text());
    stage.keep("/metrics", metered.body);

    let found = found_in_tables(&stage).await?;
    assert!(found.is_empty(), "{found:#?}");
    stage.pool.close().await;
    dev.signal(Signal::SIGTERM)?;
    assert_eq!(dev.wait().await?.code(), Some(0));
    search(&stage, &data, &providers)
}

/// Searches the files and the answers for secrets.
fn search(stage: &Stage, data: &DataDir, providers: &Providers) -> Result<()> {
    let log = std::fs::read_to_string(data.path().join("dev.log"))?;
    // Nothing of ours has a line below debug; the code of others that has is capped, whatever is asked for.
    for said in ["DEBUG", "a request was refused", "a provider does not say"] {
        assert!(log.contains(said), "{said:?} is nowhere in {} lines of the log", log.lines().count());
    }
    let mut found = Vec::new();
    for needles in stage.secrets.needles() {
        found.extend(needles.found_under(data.path())?);
        for (asked, answer) in stage.answers.lock().iter() {
            found.extend(needles.found_in(answer).into_iter().map(|text| format!("{asked}: {text}")));
        }
    }
    assert!(found.is_empty(), "{found:#?}");

    // The search finds what is there.
    let control = Needles::of(&stage.secrets.control);
    for dir in ["nats", "postgres/base", "postgres/pg_wal"] {
        assert!(!control.found_under(&data.path().join(dir))?.is_empty(), "the control is not in {dir}");
    }
    let heard = providers.heard();
    assert!(!Needles::of(&stage.secrets.secret).found_in(&heard).is_empty());
    let heard = String::from_utf8(heard)?;
    for (kind, prefix) in KINDS {
        for mood in Mood::ALL {
            let token = stage.secrets.token(prefix, mood);
            let asked = heard.matches(&token).count();
            assert_eq!(asked, 2, "the provider of {kind} was asked with a token that makes it {mood:?}");
        }
    }
    Ok(())
}

async fn found_in_tables(stage: &Stage) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for needles in stage.secrets.needles() {
        found.extend(needles.found_in_tables(&stage.pool).await?);
    }
    Ok(found)
}

/// A call whose endpoint is the control.
async fn reported(stage: &Stage) -> Result<()> {
    let endpoint = format!("/api/x/{}", stage.secrets.control);
    let event = json!({"id": "control", "subject": "alice", "data": {"endpoint": endpoint}});
    stage.caller("backend", Role::Service).post("/api/usage/events", &event).await?.expect(202)?;
    Ok(())
}

/// A token of each mood is stored, in the place of the one before, and tested both ways.
async fn tested(stage: &Stage, kind: &str, prefix: &str, user: &str, moods: &[Mood]) -> Result<()> {
    let caller = stage.caller(user, Role::User);
    for &mood in moods {
        let token = stage.secrets.token(prefix, mood);
        let id = caller.store(kind, &token).await?;
        let (stored, given) = (format!("/api/tokens/{id}/test"), json!({"token_type": kind, "token": token}));
        let tests = tokio::try_join!(
            caller.send(caller.client.post(&stored)),
            caller.post("/api/tokens/test", &given)
        )?;
        for answer in [tests.0, tests.1] {
            let said = answer.expect(200).with_context(|| format!("{kind} {mood:?}"))?.json()?;
            let (result, reason) = mood.result();
            anyhow::ensure!(
                said["result"] == result && said["reason"].as_str() == reason,
                "{kind} {mood:?}: {said}"
            );
        }
    }
    Ok(())
}

/// Stored under an Idempotency-Key, again under it, replaced, listed, deleted.
async fn kept_and_replaced(stage: &Stage) -> Result<()> {
    let caller = stage.caller("alice", Role::User);
    let body = |name: &str| {
        let token = stage.secrets.token("ghp_", Mood::Valid);
        json!({"token_type": "github", "token": token, "token_name": name})
    };
    let keyed = |body: Value| caller.client.post("/api/tokens").header("Idempotency-Key", "once").json(&body);
    let first = caller.send(keyed(body("first"))).await?.expect(201)?;
    let again = caller.send(keyed(body("first"))).await?.expect(201)?;
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(first.json()?["id"], again.json()?["id"]);
    caller.send(keyed(body("second"))).await?.expect(422)?;
    let other = json!({"token_type": "github", "token": stage.secrets.token("gho_", Mood::Valid)});
    caller.send(keyed(other)).await?.expect(422)?;
    let second = caller.post("/api/tokens", &body("second")).await?.expect(200)?.json()?;
    let id = second["id"].as_str().context("no id")?;
    for path in ["/api/tokens", &format!("/api/tokens/{id}"), "/api/tokens/audit"] {
        caller.get(path).await?.expect(200)?;
    }
    caller.send(caller.client.request(Method::DELETE, &format!("/api/tokens/{id}"))).await?.expect(204)?;
    caller.send(caller.client.post(&format!("/api/tokens/{id}/test"))).await?.expect(404)?;
    // One that stays until the user ends.
    caller.store("openai", &stage.secrets.token("sk-", Mood::Valid)).await?;
    Ok(())
}

/// Bodies that are refused, all with the token in them.
async fn malformed(stage: &Stage) -> Result<()> {
    let caller = stage.caller("mallory", Role::User);
    let token = stage.secrets.token("ghp_", Mood::Valid);
    let number = stage.secrets.number;
    let good = |token: &str| json!({"token_type": "github", "token": token});
    let with = |name: &str, value: Value| {
        let mut body = good(&token);
        body[name] = value;
        body
    };
    let mut bodies: Vec<(&str, Vec<u8>)> = vec![
        ("cut off", format!(r#"{{"token_type":"github","token":"{token}"#).into()),
        ("a trailing word", format!(r#"{{"token_type":"github","token":"{token}"}} {token}"#).into()),
        ("no quotes", format!(r#"{{"token_type":"github","token":{token}}}"#).into()),
        ("a raw newline", format!("{{\"token_type\":\"github\",\"token\":\"{token}\n\"}}").into()),
        ("a bad escape", format!(r#"{{"token_type":"github","token":"{token}\x"}}"#).into()),
        ("twice", format!(r#"{{"token_type":"github","token":"{token}","token":"{token}"}}"#).into()),
        ("no JSON", token.clone().into()),
        ("no UTF-8", [token.as_bytes(), b"\xff"].concat()),
    ];
    let values = [
        ("text", json!(token)),
        ("a list", json!([token])),
        ("a number", json!(number)),
        ("a list of a list", json!([[good(&token)]])),
        ("a name of a field", json!({&token: "github"})),
        ("a value of a further field", with("extra", json!(token))),
        ("a name of a further field", with(&token, json!(1))),
        ("the type", json!({"token_type": token, "token": "x"})),
        ("the type, a list", json!({"token_type": [token], "token": "x"})),
        ("the type, a variant", json!({"token_type": {&token: 1}, "token": "x"})),
        ("the type, a number", json!({"token_type": number, "token": "x"})),
        ("the token, a number", with("token", json!(number))),
        ("the token, a negative number", with("token", json!(-i64::try_from(number)?))),
        ("the token, a list", with("token", json!([token]))),
        ("the token, an object", with("token", json!({&token: token}))),
        ("the name, an object", with("token_name", json!({&token: token}))),
        ("the name, a number", with("token_name", json!(number))),
        ("another kind", json!({"token_type": "anthropic", "token": token})),
        ("no kind", json!({"token_type": "githbu", "token": token})),
        ("a newline", good(&format!("{token}\n"))),
        ("NUL", good(&format!("{token}\0"))),
        ("bidi", with("token_name", json!(format!("\u{202e}{token}")))),
        ("a control in the name", with("token_name", json!(format!("{token}\u{7}")))),
        ("too long a name", with("token_name", json!(token.repeat(9)))),
        ("too long", good(&token.repeat(110))),
    ];
    for (what, value) in values {
        bodies.push((what, serde_json::to_vec(&value)?));
    }
    for (what, body) in bodies {
        for path in ["/api/tokens", "/api/tokens/test"] {
            let request = caller.client.post(path).header("Idempotency-Key", what);
            caller.refused(what, request.body("application/json", body.clone())).await?;
        }
        // Elsewhere a refusal may quote it to whoever sent it; nobody else hears of it.
        for path in ["/api/usage/events", "/api/usage/check", "/api/usage/upgrade"] {
            let answer = caller.client.post(path).body("application/json", body.clone()).send().await?;
            anyhow::ensure!(answer.status.is_client_error(), "{what} at {path}: {}", answer.text());
        }
    }
    let large = serde_json::to_vec(&good(&token.repeat(5_000_000 / token.len())))?;
    // It may hang up before it has heard all of it.
    if let Ok(answer) = caller.send(caller.client.post("/api/tokens").body("application/json", large)).await {
        answer.expect(413)?;
    }
    Ok(())
}

/// Paths, queries and headers with the token in them.
async fn misplaced(stage: &Stage) -> Result<()> {
    let token = stage.secrets.token("ghp_", Mood::Valid);
    for role in [Role::User, Role::Admin] {
        let caller = stage.caller("mallory", role);
        for path in [
            format!("/api/tokens/{token}"),
            format!("/api/tokens/{token}/test"),
            format!("/api/tokens/{token}/audit"),
            format!("/api/tokens/{token}/{token}"),
            format!("/api/tokens/test/{token}"),
            format!("/api/tokens//{token}"),
            format!("/api/tokens/%67{token}"),
            format!("/api/tokens/{token}%ff"),
            format!("/api/tokens;{token}"),
            format!("/api/tokens%2f{token}"),
            format!("/api/token/{token}"),
            format!("/api/tokens?{token}"),
            format!("/api/tokens?{token}={token}"),
            format!("/api/tokens?token={token}"),
            format!("/api/tokens?cursor={token}"),
            format!("/api/tokens?limit={token}"),
            format!("/api/tokens?limit=1&limit={token}"),
            format!("/api/tokens/audit?{token}=1"),
            format!("/api/tokens/{token}?user_id={token}"),
            format!("/api/tokens/test?token={token}"),
        ] {
            for method in [Method::GET, Method::POST, Method::DELETE, Method::PUT, Method::HEAD] {
                let request = caller.client.request(method.clone(), &path);
                caller.refused(&format!("{method} {path}"), request).await?;
            }
        }
    }
    let caller = stage.caller("mallory", Role::User);
    let headers = [
        ("Ledger-Min-Seq", token.clone()),
        ("Idempotency-Key", format!("{token}\u{e9}")),
        ("Content-Type", format!("application/{token}")),
        ("Content-Type", format!("text/plain; charset={token}")),
    ];
    for (name, value) in headers {
        let path = if name == "Ledger-Min-Seq" { "/api/tokens" } else { "/api/tokens/test" };
        let method = if name == "Ledger-Min-Seq" { Method::GET } else { Method::POST };
        let request = caller.client.request(method, path).header(name, &value);
        caller.refused(name, request).await?;
    }
    let stranger = Caller { stage, client: stage.client.with_token(&token) };
    stranger.refused("a credential", stranger.client.get("/api/tokens")).await?;
    let stranger = Caller { stage, client: stage.client.clone() };
    for value in [format!("token {token}"), format!("Basic {token}"), token.clone()] {
        let request = stranger.client.get("/api/tokens").header("Authorization", &value);
        stranger.refused(&value, request).await?;
    }
    Ok(())
}

/// A row that somebody changed does not open, and says nothing of what is in it.
async fn altered(stage: &Stage) -> Result<()> {
    let caller = stage.caller("eve", Role::User);
    let id = caller.store("anthropic", &stage.secrets.token("sk-ant-", Mood::Valid)).await?;
    for change in [
        "jsonb_set(encrypted_token::jsonb, '{tag}', to_jsonb(repeat('0', 64)))",
        "jsonb_set(encrypted_token::jsonb, '{dek}', '\"d9\"')",
        "encrypted_token::jsonb - 'tag'",
    ] {
        let update =
            format!("UPDATE ledger.user_tokens SET encrypted_token = ({change})::json WHERE id::text = $1");
        let changed = sqlx::query(&update).bind(&id).execute(&stage.pool).await?;
        assert_eq!(changed.rows_affected(), 1);
        let answer = caller.send(caller.client.post(&format!("/api/tokens/{id}/test"))).await?.expect(409)?;
        assert_eq!(answer.code(), "token_unreadable");
    }
    Ok(())
}

/// The database refuses what a request needs.
async fn without_tables(stage: &Stage) -> Result<()> {
    let caller = stage.caller("frank", Role::User);
    let token = json!({"token_type": "github", "token": stage.secrets.token("ghp_", Mood::Valid)});
    let id = caller.store("github", &stage.secrets.token("ghp_", Mood::Valid)).await?;
    // Each user is new, so that no key is at hand.
    for (table, user) in [("public.user_data_keys", "grace"), ("public.idempotency_keys", "heidi")] {
        let caller = stage.caller(user, Role::User);
        let table = Away::take(stage, table).await?;
        let request = caller.client.post("/api/tokens").header("Idempotency-Key", user).json(&token);
        let answer = caller.send(request).await?;
        assert!(answer.status.is_server_error(), "{}", answer.text());
        table.give_back(stage).await?;
    }
    let table = Away::take(stage, "ledger.user_tokens").await?;
    let answer = caller.send(caller.client.post(&format!("/api/tokens/{id}/test"))).await?;
    assert!(answer.status.is_server_error(), "{}", answer.text());
    caller.post("/api/tokens", &token).await?.expect(202)?;
    table.give_back(stage).await?;
    wait_until(BOUND, async || {
        caller.get(&format!("/api/tokens/{id}")).await.is_ok_and(|it| it.status == 404)
    })
    .await;
    Ok(())
}

/// A table that is not where it belongs.
struct Away(&'static str);

impl Away {
    async fn take(stage: &Stage, table: &'static str) -> Result<Self> {
        let away = format!("ALTER TABLE {table} RENAME TO taken_away");
        sqlx::query(&away).execute(&stage.pool).await?;
        Ok(Self(table))
    }

    async fn give_back(self, stage: &Stage) -> Result<()> {
        let (schema, name) = self.0.split_once('.').context("a table without a schema")?;
        let back = format!("ALTER TABLE {schema}.taken_away RENAME TO {name}");
        sqlx::query(&back).execute(&stage.pool).await?;
        Ok(())
    }
}

/// The log's server dies while tokens are stored, and comes back.
async fn without_a_log(stage: &Stage, data: &DataDir) -> Result<()> {
    let caller = stage.caller("frank", Role::User);
    let token = json!({"token_type": "openai", "token": stage.secrets.token("sk-proj-", Mood::Valid)});
    let pid = std::fs::read_to_string(data.path().join("nats.pid"))?;
    kill(Pid::from_raw(pid.trim().parse()?), Signal::SIGKILL)?;
    let stored =
        async || caller.post("/api/tokens", &token).await.is_ok_and(|answer| answer.status.is_success());
    wait_until(BOUND, stored).await;
    Ok(())
}

/// One erases itself, an admin another one; the rest keep their tokens.
async fn exported_and_erased(stage: &Stage) -> Result<()> {
    let (alice, admin) = (stage.caller("alice", Role::User), stage.caller("root", Role::Admin));
    let exported = alice.get("/api/users/me/export").await?.expect(200)?.json()?;
    assert_eq!(exported["tokens"].as_array().map(Vec::len), Some(1), "{exported}");
    for user in ["eve", "github-0"] {
        admin.get(&format!("/api/users/{user}/export")).await?.expect(200)?;
    }
    alice.send(alice.client.post("/api/users/me/erase")).await?.expect(200)?;
    admin.send(admin.client.post("/api/users/eve/erase")).await?.expect(200)?;
    alice.get("/api/tokens").await?.expect(401)?;
    Ok(())
}

/// Runs the commands of an operator, at the level trace too.
async fn commands(stage: &Stage, data: &DataDir, environment: &BTreeMap<String, String>) -> Result<()> {
    let wait = async || {
        let stats = stage.caller("root", Role::Admin).get("/api/usage/stats").await;
        stats.and_then(|answer| answer.json()).is_ok_and(|stats| stats["as_of"]["lag_ms"] == 0)
    };
    wait_until(BOUND, wait).await;
    let old = format!("k1:{}", environment["ENCRYPTION_KEY"]);
    let given = [("RUST_LOG", "trace")];
    let rotated = [("ENCRYPTION_KEY", K2), ("ENCRYPTION_KEY_ID", "k2"), ("ENCRYPTION_KEY_PREVIOUS", &old)];
    let own = environment.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let variables: Vec<_> = own.chain(given).collect();
    let with_both: Vec<_> = variables.iter().copied().chain(rotated).collect();
    imported(stage, data, &variables).await?;
    for (arguments, variables) in [
        (&["verify"][..], &variables),
        (&["verify", "--user", "github-0"], &variables),
        (&["rebuild", "--dry-run"], &variables),
        (&["dead-letters", "list"], &variables),
        (&["config"], &variables),
        (&["keys", "status"], &variables),
        (&["keys", "rotate"], &with_both),
        (&["keys", "status"], &with_both),
    ] {
        let ended = output(data, arguments, variables).await?;
        stage.keep(format!("{arguments:?}"), format!("{}{}", ended.text, ended.errors));
        ended.expect_success().with_context(|| format!("{arguments:?}"))?;
    }
    Ok(())
}

/// A file of another program: one line that is taken over, and lines that hold the token where it should not be.
async fn imported(stage: &Stage, data: &DataDir, variables: &[(&str, &str)]) -> Result<()> {
    let token = stage.secrets.token("ghp_", Mood::Valid);
    let key = variables.iter().find(|(name, _)| *name == "ENCRYPTION_KEY").context("no key")?.1;
    let iv = "000102030405060708090a0b0c0d0e0f";
    let mut openssl = Command::new("openssl");
    openssl.args(["enc", "-aes-256-cbc", "-K", key, "-iv", iv]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut openssl = openssl.spawn().context("openssl does not run")?;
    openssl.stdin.take().context("no pipe")?.write_all(token.as_bytes())?;
    let encrypted = hex::encode(openssl.wait_with_output()?.stdout);
    let row = |token_type: &str, encrypted: &str, iv: &str| {
        json!({"user": "heir", "token_type": token_type, "encrypted": encrypted, "iv": iv}).to_string()
    };
    let lines = [
        row("github", &encrypted, iv),
        row("github", &token, iv),
        row("github", &encrypted, &token),
        row(&token, &encrypted, iv),
        row("gemini", &encrypted, iv),
        json!({"user": "heir", "token_type": "github", &token: token}).to_string(),
        format!("{{\"user\": \"heir\", \"token\": \"{token}\""),
        token,
    ];
    // Not in the directory that is searched.
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), lines.join("\n"))?;
    let path = file.path().to_str().context("a path")?;
    let ended = output(data, &["keys", "import-legacy", "--provision", path], variables).await?;
    stage.keep("keys import-legacy", format!("{}{}", ended.text, ended.errors));
    anyhow::ensure!(ended.code == Some(1), "{ended:?}");
    let heir = stage.caller("heir", Role::User);
    let stored = async || {
        let tokens = heir.get("/api/tokens").await.and_then(|answer| answer.expect(200));
        let tokens = tokens.and_then(|tokens| tokens.json()).unwrap_or_default();
        tokens["items"][0]["token_type"] == "github"
    };
    wait_until(BOUND, stored).await;
    Ok(())
}
