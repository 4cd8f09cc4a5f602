//! Commands that an operator runs beside a worker: exit codes, and what is printed.

#[expect(dead_code, reason = "shared with the tests of dev, which need more of it")]
mod program;

use std::time::Duration;

use anyhow::Result;
use data_keys::Keys;
use events::{Actor, ActorKind, ApiCalled, Body, Event, Personal, SealedJson, TokenStored, UserErased};
use ledger::{Category, UserId};
use nats::{EncodedEvent, FrameHeader, Log, Publisher, PublisherConfig};
use nix::sys::signal::Signal;
use program::{DataDir, Output, Program, output};
use store::identity::users::NewUser;
use store::identity::wrapped_keys;
use testkit::{Client, Env, wait_until};
use vault::{OsEntropy, SecretText, TokenKind};

const BOUND: Duration = Duration::from_mins(1);
/// Enough that a rebuild of them in a debug build takes some batches.
const FRAMES: i64 = 120;

/// A ledger with a worker, and this program run against it.
struct Operated {
    env: Env,
    dir: DataDir,
    log: Log,
    publisher: Publisher,
    worker: Option<Program>,
}

impl Operated {
    async fn start() -> Result<Self> {
        let (env, dir) = (Env::start().await?, DataDir::new()?);
        let log = env.log().await?;
        let ids = env.ids.clone();
        let publisher = Publisher::start(&log, PublisherConfig::default(), move || ids.random_id()).await?;
        let mut operated = Self { env, dir, log, publisher, worker: None };
        operated.worker = Some(Program::start(&operated.dir, &["worker"], &operated.env.variables())?);
        Ok(operated)
    }

    async fn run(&self, arguments: &[&str]) -> Result<Output> {
        output(&self.dir, arguments, &self.env.variables()).await
    }

    /// Runs it and holds it to its exit code; answers what it printed and what it said.
    async fn exits(&self, code: i32, arguments: &[&str]) -> Result<String> {
        let ended = self.run(arguments).await?;
        anyhow::ensure!(
            ended.code == Some(code),
            "{arguments:?} ended with {:?}: {}",
            ended.code,
            ended.errors
        );
        Ok(ended.text + &ended.errors)
    }

    fn call(&self, user: UserId) -> EncodedEvent {
        let body = Body::ApiCalled(ApiCalled::new("/api/x", Category::Other));
        self.event(self.env.ids.event_id(), user, body)
    }

    fn event(&self, id: uuid::Uuid, user: UserId, body: Body<'_>) -> EncodedEvent {
        EncodedEvent::of(&Event::by_api(id, user, self.env.clock.now(), body))
    }

    /// A user of this name with a stored token that has a name.
    async fn user_with_token(&self, name: &str) -> Result<UserId> {
        let keys = Keys::start(self.env.database_url(), &testkit::keys(), &self.env.clock).await?;
        let user = UserId::new(self.env.ids.random_id());
        let mut conn = self.env.pool().acquire().await?;
        let external = keys.hash_external_id(name.parse()?).await?;
        let new = vec![NewUser::named(user.get(), external)];
        store::identity::users::provision(&mut conn, new, self.env.clock.now()).await?;
        let key = keys.get_or_make(&mut conn, user).await?;
        let (id, token) = (self.env.ids.event_id(), SecretText::new("ghp_0123456789abcdef".to_owned()));
        let personal = Personal { token_name: Some("mine".into()), ..Personal::default() };
        let personal = key.seal_personal(&id.to_string(), &personal.to_json(), &OsEntropy)?;
        let body = Body::TokenStored(TokenStored {
            token_id: id,
            token_type: TokenKind::Github.as_str().into(),
            sealed: SealedJson::new(key.seal_token(TokenKind::Github, id, &token, &OsEntropy)?.to_json())?,
            masked: vault::mask(&token).into(),
            fingerprint: key.fingerprint(TokenKind::Github, &token).to_string().into(),
            actor: Actor::new(ActorKind::User, user.to_string()),
            personal: Some(SealedJson::new(personal.to_json())?),
        });
        self.publish(vec![self.event(id, user, body)]).await?;
        Ok(user)
    }

    async fn erase(&self, user: UserId) -> Result<()> {
        let body = Body::UserErased(UserErased { actor: Actor::new(ActorKind::Admin, "tester") });
        self.publish(vec![self.event(self.env.ids.event_id(), user, body)]).await?;
        let finished = async || {
            let blanked = sqlx::query_scalar::<_, i64>("SELECT count(blanked_at) FROM public.users");
            blanked.fetch_one(self.env.pool()).await.is_ok_and(|users| users == 1)
        };
        wait_until(BOUND, finished).await;
        Ok(())
    }

    /// [`Operated::exits`] of somebody who does not have the root key.
    async fn exits_without_key(&self, code: i32, arguments: &[&str]) -> Result<String> {
        let variables: Vec<_> =
            self.env.variables().into_iter().filter(|(name, _)| *name != "ENCRYPTION_KEY").collect();
        let ended = output(&self.dir, arguments, &variables).await?;
        anyhow::ensure!(
            ended.code == Some(code),
            "{arguments:?} ended with {:?}: {}",
            ended.code,
            ended.errors
        );
        Ok(ended.text + &ended.errors)
    }

    async fn publish(&self, events: Vec<EncodedEvent>) -> Result<()> {
        self.publisher.publish_all(events).await?;
        let last = i64::try_from(self.log.state().await?.last_seq)?;
        self.projected_to(last).await;
        Ok(())
    }

    async fn projected_to(&self, last: i64) {
        let reached = async || {
            let seq = sqlx::query_scalar::<_, i64>("SELECT seq FROM projection_checkpoint");
            seq.fetch_one(self.env.pool()).await.is_ok_and(|seq| seq >= last)
        };
        wait_until(BOUND, reached).await;
    }

    async fn execute(&self, statement: &'static str) -> Result<()> {
        sqlx::raw_sql(statement).execute(self.env.pool()).await?;
        Ok(())
    }
}

#[tokio::test]
async fn verify_and_a_dry_run_name_what_differs_and_rebuild_mends_it() -> Result<()> {
    let ledger = Operated::start().await?;
    let user = UserId::new(ledger.env.ids.random_id());
    ledger.publish(vec![ledger.call(user), ledger.call(user)]).await?;
    assert!(ledger.exits(0, &["verify"]).await?.contains("agree"));
    ledger.execute("UPDATE monthly_usage_summary SET other_calls = 9, total_calls = 9").await?;
    for command in
        [&["verify"][..], &["rebuild", "--dry-run"], &["rebuild", "--only", "summaries", "--dry-run"]]
    {
        let said = ledger.exits(1, command).await?;
        for part in ["monthly_usage_summary", &user.to_string(), "total_calls: 2 by log, 9 in the table"] {
            assert!(said.contains(part), "{command:?} does not name {part}: {said}");
        }
    }
    ledger.exits(0, &["rebuild", "--only", "summaries"]).await?;
    ledger.exits(0, &["verify"]).await?;

    ledger.execute("DELETE FROM api_usage").await?;
    ledger.exits(1, &["rebuild", "--swap"]).await?;
    ledger.exits(0, &["rebuild", "--hold"]).await?;
    ledger.exits(1, &["verify"]).await?;
    ledger.publish(vec![ledger.call(user)]).await?;
    assert!(ledger.exits(0, &["rebuild", "--swap"]).await?.contains("are live"));
    ledger.exits(0, &["verify"]).await?;
    ledger.exits(0, &["rebuild", "--hold"]).await?;
    assert!(ledger.exits(0, &["rebuild", "--drop"]).await?.contains("dropped"));
    assert!(ledger.exits(0, &["rebuild", "--drop"]).await?.contains("nothing"));
    assert!(ledger.exits(0, &["rebuild"]).await?.contains("no differences"));
    assert!(ledger.exits(0, &["rollover"]).await?.contains("no month"));
    Ok(())
}

#[tokio::test]
async fn verify_of_a_user_proves_that_tokens_open_and_after_an_erasure_that_they_do_not() -> Result<()> {
    let mut ledger = Operated::start().await?;
    let user = ledger.user_with_token("customer-1").await?;
    let by_id = ["verify", "--user", &user.to_string()];
    let by_name = ["verify", "--user", "customer-1"];
    for command in [by_id, by_name] {
        let said = ledger.exits(0, &command).await?;
        let opens = "2 sealed values in the log, 2 open, 1 data keys; 1 stored tokens, 1 open\n";
        assert!(said.contains(opens), "{said}");
        assert!(ledger.exits_without_key(1, &command).await?.contains("ENCRYPTION_KEY"));
    }
    assert!(ledger.exits(1, &["verify", "--user", "customer-2"]).await?.contains("there is no such user"));
    let mut conn = ledger.env.pool().acquire().await?;
    let wrapped = wrapped_keys::of_users(&mut conn, &[user]).await?.pop().expect("the key was made");

    ledger.erase(user).await?;
    let gone = "Z: 2 sealed values in the log, 0 open, 0 data keys, 0 rows with personal fields\n";
    for said in [
        ledger.exits(0, &by_id).await?,
        ledger.exits(0, &by_name).await?,
        ledger.exits_without_key(0, &by_id).await?,
    ] {
        assert!(said.contains("\nerased 20") && said.contains(gone), "{said}");
    }
    assert!(ledger.exits_without_key(1, &by_name).await?.contains("set ENCRYPTION_KEY"));

    // No worker may take the key away again meanwhile.
    let mut worker = ledger.worker.take().expect("it runs");
    worker.signal(Signal::SIGKILL)?;
    worker.wait().await?;
    sqlx::query(
        "INSERT INTO public.user_data_keys (user_id, dek_id, kid, sealed, created_at)
         VALUES ($1, $2, $3, $4::json, now())",
    )
    .bind(user.get())
    .bind(&wrapped.dek_id)
    .bind(&wrapped.kid)
    .bind(&wrapped.sealed)
    .execute(&mut *conn)
    .await?;
    let said = ledger.exits(1, &by_id).await?;
    let left = "1 data keys are still in public.user_data_keys";
    assert!(said.contains("2 sealed values of the log still open") && said.contains(left), "{said}");
    assert!(ledger.exits_without_key(1, &by_id).await?.contains(left));
    Ok(())
}

#[tokio::test]
async fn dead_letters_and_lost_frames_have_a_way_on() -> Result<()> {
    let ledger = Operated::start().await?;
    let user = UserId::new(ledger.env.ids.random_id());
    let unknown = String::from_utf8(ledger.call(user).0.to_vec())?.replacen(".v1\"", ".v9\"", 1);
    ledger.publish(vec![ledger.call(user), EncodedEvent::from(unknown.into_bytes())]).await?;
    let listed = ledger.exits(0, &["dead-letters", "list"]).await?;
    assert!(listed.starts_with("1\t1\t") && listed.contains("\tunknown\t"), "{listed}");
    assert!(ledger.exits(1, &["dead-letters", "retry", "--all"]).await?.contains("applied 0, still dead 1"));
    ledger.exits(1, &["dead-letters", "retry", "--seq", "1", "--idx", "0"]).await?;
    ledger.exits(2, &["dead-letters", "retry"]).await?;
    assert!(ledger.exits(0, &["log", "status"]).await?.contains("whole\tfrom frame 2 on"));

    // A frame that is not what was sent.
    let mut body = [b"[".as_slice(), &ledger.call(user).0, b"]"].concat();
    let header = FrameHeader::of(ledger.env.ids.random_id(), 1, 1, &body);
    body[1] ^= 1;
    let jetstream = async_nats::jetstream::new(nats::client(ledger.env.nats_url()).await?);
    jetstream.publish_with_headers(ledger.log.subject(), header.to_headers(), body.into()).await?.await?;
    let stopped = async || {
        let state = sqlx::query_scalar::<_, String>("SELECT state FROM projector_status");
        state.fetch_one(ledger.env.pool()).await.is_ok_and(|state| state == "stopped")
    };
    wait_until(BOUND, stopped).await;
    let said = ledger.exits(1, &["log", "status"]).await?;
    assert!(said.contains("not whole") && said.contains("log accept --seq 2..2"), "{said}");
    ledger.exits(1, &["log", "accept", "--seq", "1..2", "--reason", "too much"]).await?;
    let said = ledger.exits(0, &["log", "accept", "--seq", "2..2", "--reason", "it burnt"]).await?;
    assert!(said.contains("accepted 2..2 as damaged"), "{said}");
    ledger.projected_to(3).await;
    assert!(ledger.exits(0, &["log", "status"]).await?.contains("it burnt"));
    ledger.exits(0, &["verify"]).await?;
    Ok(())
}

/// Killed like that it can say nothing; what it had filled is gone on with.
#[tokio::test]
async fn a_rebuild_that_was_killed_goes_on_where_it_was() -> Result<()> {
    let ledger = Operated::start().await?;
    let user = UserId::new(ledger.env.ids.random_id());
    let (frames, of) = (FRAMES, 1_000);
    for _ in 0..frames {
        ledger.publisher.publish_all((0..of).map(|_| ledger.call(user)).collect()).await?;
    }
    ledger.projected_to(frames).await;
    let mut rebuild = Program::start(&ledger.dir, &["rebuild"], &ledger.env.variables())?;
    let half_way = async || {
        let seq = sqlx::query_scalar::<_, i64>("SELECT seq FROM ledger_next.projection_checkpoint");
        seq.fetch_one(ledger.env.pool()).await.is_ok_and(|seq| seq > 0)
    };
    wait_until(BOUND, half_way).await;
    rebuild.signal(Signal::SIGKILL)?;
    assert_eq!(rebuild.wait().await?.code(), None, "it ended before it was killed");
    let said = ledger.exits(0, &["rebuild"]).await?;
    let read: i64 = said
        .lines()
        .find_map(|line| line.split_once(" events read")?.0.rsplit(char::is_whitespace).next()?.parse().ok())
        .unwrap_or_default();
    assert!(0 < read && read < frames * of, "{said}");
    assert!(said.contains("no differences"), "{said}");
    ledger.exits(0, &["verify"]).await?;
    Ok(())
}

#[tokio::test]
async fn a_worker_alone_serves_its_metrics() -> Result<()> {
    let (env, dir) = (Env::start().await?, DataDir::new()?);
    let address = format!("127.0.0.1:{}", infra::free_port()?);
    let variables = [
        ("DATABASE_URL", env.database_url()),
        ("NATS_URL", env.nats_url()),
        ("NATS_MONITOR_URL", env.monitor_url()),
        ("NATS_STREAM", env.stream_name()),
        ("ENCRYPTION_KEY", testkit::ENCRYPTION_KEY),
        ("METRICS_ADDR", &address),
    ];
    let _worker = Program::start(&dir, &["worker"], &variables)?;
    let client = Client::new(format!("http://{address}"))?;
    let told = async || {
        let Ok(answer) = client.get("/metrics").send().await else { return false };
        let text = answer.text();
        text.contains("ledger_projector_stopped 0") && text.contains("ledger_dead_letters 0")
    };
    wait_until(BOUND, told).await;
    // A port that is taken is an error of one line at the start.
    let second = output(&dir, &["worker"], &variables).await?;
    let line = second.errors.lines().last().unwrap_or_default();
    assert!(second.code == Some(1) && line.contains("METRICS_ADDR"), "{:?} {line}", second.code);
    Ok(())
}
