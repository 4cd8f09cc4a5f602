//! A dependency goes away and comes back; clients go away.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use store::operations::projector_status;
use store::projection::checkpoint;
use testkit::{Answer, Client, Env, Frozen, PATIENCE, PrivateServers, World, wait_until};

const NAMED: [(&str, &str); 2] =
    [("TRUSTED_PROXIES", "127.0.0.0/8"), ("FORWARD_AUTH_ID_HEADER", "X-Ledger-Request-Id")];

/// An api and a worker on servers of their own.
struct Outage {
    servers: PrivateServers,
    world: World,
}

impl Outage {
    async fn start(settings: &[(&str, &str)]) -> Result<Self> {
        let servers = PrivateServers::start().await?;
        let mut world = World::in_env(Env::on(&servers).await?, settings).await?;
        world.start_worker();
        // A worker that finds a server dead at its start refuses to; it is to be up before the first outage.
        wait_until(PATIENCE, || async {
            let mut connection = world.env.pool().acquire().await.expect("a connection");
            let worker = projector_status::read(&mut connection, checkpoint::PARTITION).await;
            worker.expect("a status").is_some()
        })
        .await;
        Ok(Self { servers, world })
    }

    async fn analyses(&self, subject: &str) -> Result<i64> {
        Ok(self.world.summary(subject).await?.1)
    }

    /// Freezes the nats-server: its connections stay, it does nothing.
    async fn freeze_nats(&self) -> Result<Frozen> {
        Frozen::one(self.servers.nats.pid().context("nats-server runs")?).await
    }

    async fn stop(mut self) -> Result<()> {
        self.world.stop_worker().await?;
        self.world.api.stop().await
    }
}

async fn call(client: &Client, path: &str) -> Result<Answer> {
    let request = client.get("/api/forward-auth").header("X-Forwarded-Uri", path);
    request.header("X-Forwarded-Method", "GET").send().await
}

/// Asks about a request that the proxy names.
async fn named_call(client: &Client, path: &str, id: &str) -> Result<Answer> {
    let request = client.get("/api/forward-auth").header("X-Forwarded-Uri", path);
    request.header("X-Forwarded-Method", "GET").header("X-Ledger-Request-Id", id).send().await
}

async fn status(client: &Client, path: &str) -> u16 {
    call(client, path).await.map_or(0, |answer| answer.status.as_u16())
}

/// What `/readyz` answers.
async fn readiness(client: &Client) -> (u16, Value) {
    let answer = client.get("/readyz").send().await.expect("an answer");
    (answer.status.as_u16(), answer.json().expect("a report"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_database_nothing_is_admitted_and_then_it_is_again() -> Result<()> {
    let outage = Outage::start(&[]).await?;
    let user = outage.world.user("patient")?;
    for _ in 0..4 {
        call(&user, "/api/analyze").await?.expect(204)?;
    }
    outage.servers.postgres.kill().await;
    wait_until(PATIENCE, || async { status(&user, "/api/analyze").await == 503 }).await;
    let answer = call(&user, "/api/analyze").await?.expect(503)?;
    assert!(answer.header("retry-after").is_some());
    wait_until(PATIENCE, || async { readiness(&user).await.0 == 503 }).await;
    let (_, report) = readiness(&user).await;
    let away = json!({"status": "away", "reason": "PostgreSQL does not answer"});
    assert_eq!((&report["status"], &report["database"]), (&json!("unavailable"), &away));
    assert_eq!((&report["log"]["status"], &report["projector"]["state"]), (&json!("ok"), &json!("unknown")));
    assert_eq!(report["limits"], json!({"status": "unready", "reason": "the database is away"}));
    let event = json!({"id": "1", "data": {"endpoint": "/api/x"}});
    user.post("/api/usage/events").json(&event).send().await?.expect(503)?;
    user.post("/api/usage/check").json(&json!({"endpoint": "/api/x"})).send().await?.expect(503)?;

    outage.servers.postgres.resume().await?;
    wait_until(PATIENCE, || async { status(&user, "/api/other").await == 204 }).await;
    let mut admitted = 0;
    while status(&user, "/api/analyze").await == 204 {
        admitted += 1;
    }
    assert!(admitted <= 6, "{admitted} more of the six that were left");
    assert_eq!(outage.analyses("patient").await?, 10);
    wait_until(PATIENCE, || async { readiness(&user).await.0 == 200 }).await;
    outage.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_failure_mode_open_calls_pass_without_the_database() -> Result<()> {
    let outage = Outage::start(&[("LIMIT_FAILURE_MODE", "open"), NAMED[0], NAMED[1]]).await?;
    let user = outage.world.user("trusted")?;
    call(&user, "/api/analyze").await?.expect(204)?;
    let unread = outage.world.user("unread")?;
    unread.get("/api/usage/stats").send().await?.expect(200)?;
    outage.servers.postgres.kill().await;
    wait_until(PATIENCE, || async { outage.world.api.handle.limits.readiness().is_err() }).await;
    for _ in 0..12 {
        call(&user, "/api/analyze").await?.expect(204)?;
    }
    // Whether or not the proxy names the request; repetitions of one are still one call.
    for number in 0..12 {
        let ids = [format!("id-{number}"), format!("id-{number}"), "id-0".to_owned()];
        let ids = &ids[..if number < 8 { 3 } else { 2 }];
        for id in ids {
            named_call(&user, "/api/analyze", id).await?.expect(204)?;
        }
    }
    // A check answers although nobody can count: a call on disk that were answered 503 would be made again.
    let check = json!({"endpoint": "/api/analyze", "record": true});
    let answer = unread.post("/api/usage/check").json(&check).send().await?.expect(200)?.json()?;
    assert!(
        answer["allowed"] == true && answer["call_id"].is_string() && answer["used"].is_null(),
        "{answer}"
    );
    let check = json!({"endpoint": "/api/analyze"});
    let answer = unread.post("/api/usage/check").json(&check).send().await?.expect(200)?.json()?;
    assert!(answer["allowed"] == true && answer["call_id"].is_null(), "{answer}");
    // Nor does it need the key that seals what is known of the person: nothing is recorded of them then.
    outage.world.api.handle.keys.forget_all();
    let request = user.get("/api/forward-auth").header("x-forwarded-uri", "/api/analyze");
    let request = request.header("x-forwarded-method", "GET").header("user-agent", "unknown/1.0");
    request.send().await?.expect(204)?;
    outage.servers.postgres.resume().await?;
    wait_until(PATIENCE, || async { outage.world.api.handle.limits.readiness().is_ok() }).await;
    wait_until(PATIENCE, || async { status(&user, "/api/analyze").await == 429 }).await;
    let counted = outage.analyses("trusted").await?;
    assert!((26..=27).contains(&counted), "{counted}");
    assert_eq!(outage.analyses("unread").await?, 1);
    outage.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_whose_client_went_away_count_once_and_hold_their_units() -> Result<()> {
    let outage = Outage::start(&[]).await?;
    let user = outage.world.user("impatient")?;
    call(&user, "/api/analyze").await?.expect(204)?;
    outage.servers.nats.kill().await;
    // Four clients hang up while their calls wait for the log.
    let waiting =
        (0..4).map(|_| tokio::time::timeout(Duration::from_millis(500), call(&user, "/api/analyze")));
    let hung_up = futures_util::future::join_all(waiting).await;
    assert!(hung_up.iter().all(Result::is_err), "they were answered without a log");
    outage.servers.nats.resume().await?;
    wait_until(PATIENCE, || async { status(&user, "/api/other").await == 204 }).await;
    let mut answered = 1;
    while status(&user, "/api/analyze").await == 204 {
        answered += 1;
    }
    let counted = outage.analyses("impatient").await?;
    assert!(counted <= 10 && counted >= answered, "{counted} counted, {answered} answered");
    assert!(answered >= 6, "{answered} answered");
    outage.stop().await
}

/// The proxy hangs up while the call is on its way to disk, and asks again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_whose_answer_was_lost_is_the_same_call_when_it_is_asked_about_again() -> Result<()> {
    let outage = Outage::start(&NAMED).await?;
    let user = outage.world.user("asking-again")?;
    for number in 0..9 {
        named_call(&user, "/api/analyze", &format!("id-{number}")).await?.expect(204)?;
    }
    let frozen = outage.freeze_nats().await?;
    for _ in 0..3 {
        let hung_up =
            tokio::time::timeout(Duration::from_millis(300), named_call(&user, "/api/analyze", "id-9"));
        assert!(hung_up.await.is_err(), "it was answered without a log");
    }
    drop(frozen);
    let first = named_call(&user, "/api/analyze", "id-9").await?.expect(204)?;
    assert_eq!(first.header("x-usage-used"), Some("10"));
    for _ in 1..10 {
        let again = named_call(&user, "/api/analyze", "id-9").await?.expect(204)?;
        assert_eq!(again.header("x-usage-call-id"), first.header("x-usage-call-id"));
    }
    // What nobody heard used up no repetition; the next one is another call.
    named_call(&user, "/api/analyze", "id-9").await?.expect(429)?;
    assert_eq!(outage.analyses("asking-again").await?, 10);
    outage.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_log_calls_are_answered_503_and_recover() -> Result<()> {
    let outage = Outage::start(&[]).await?;
    let user = outage.world.user("steady")?;
    call(&user, "/api/analyze").await?.expect(204)?;
    outage.servers.nats.kill().await;
    wait_until(PATIENCE, || async { status(&user, "/api/analyze").await == 503 }).await;
    wait_until(PATIENCE, || async { readiness(&user).await.0 == 503 }).await;
    let (_, report) = readiness(&user).await;
    assert_eq!((&report["log"]["status"], &report["database"]["status"]), (&json!("away"), &json!("ok")));
    let event = json!({"id": "1", "data": {"endpoint": "/api/x"}});
    let answer = user.post("/api/usage/events").json(&event).send().await?.expect(503)?;
    assert!(answer.header("retry-after").is_some());
    outage.servers.nats.resume().await?;
    wait_until(PATIENCE, || async { status(&user, "/api/other").await == 204 }).await;
    let answered = {
        let mut answered = 1;
        while status(&user, "/api/analyze").await == 204 {
            answered += 1;
        }
        answered
    };
    let counted = outage.analyses("steady").await?;
    assert!(counted <= 10 && counted >= answered, "{counted} counted, {answered} answered");
    outage.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_answers_the_calls_that_wait_for_the_log_and_all_of_them_are_in_it() -> Result<()> {
    const WAITING: u64 = 30;
    let outage = Outage::start(&[]).await?;
    let user = outage.world.user("leaving")?;
    call(&user, "/api/other").await?.expect(204)?;

    let frozen = outage.freeze_nats().await?;
    let waiting: Vec<_> = (0..WAITING)
        .map(|_| {
            let user = user.clone();
            tokio::spawn(async move { call(&user, "/api/other").await })
        })
        .collect();
    // All of them are admitted, and none is on disk.
    wait_until(PATIENCE, || async {
        let check = user.post("/api/usage/check").json(&json!({"endpoint": "/api/other"})).send().await;
        let body = check.and_then(|answer| answer.expect(200)?.json()).expect("a check");
        body["used"] == WAITING + 1
    })
    .await;
    outage.world.api.ask_to_stop();
    // A client of its own, since a connection that is open may still be served.
    wait_until(PATIENCE, || async {
        Client::new(&outage.world.api.url).expect("a client").get("/healthz").send().await.is_err()
    })
    .await;
    assert!(waiting.iter().all(|call| !call.is_finished()), "a call was answered that is not on disk");

    drop(frozen);
    for answer in futures_util::future::try_join_all(waiting).await? {
        answer?.expect(204)?;
    }
    let Outage { servers: _servers, world } = outage;
    let pool = world.env.pool().clone();
    world.api.stop().await?;
    wait_until(PATIENCE, || async {
        let rows = sqlx::query_scalar("SELECT count(*) FROM api_usage WHERE endpoint = '/api/other'");
        let rows: i64 = rows.fetch_one(&pool).await.expect("a count");
        rows.unsigned_abs() == WAITING + 1
    })
    .await;
    Ok(())
}
