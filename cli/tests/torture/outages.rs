//! A server is away for a while: writes say so, `/readyz` says which, and everything goes on by itself.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use testkit::{Answer, Client, Role, wait_until};

use crate::cluster::{BOUND, Cluster, Victim};

const PATIENCE: Duration = Duration::from_secs(8);

/// `/readyz` on database and log, when it answers with this status.
async fn ready(client: &Client, status: u16) -> Result<(Value, Value)> {
    let report = client.get("/readyz").send().await?.expect(status)?.json()?;
    Ok((report["database"]["status"].clone(), report["log"]["status"].clone()))
}

async fn forward_auth(user: &Client) -> Result<Answer> {
    let request = user.get("/api/forward-auth").header("X-Forwarded-Uri", "/api/x");
    request.header("X-Forwarded-Method", "GET").send().await
}

async fn report(service: &Client, id: &str) -> Result<Answer> {
    let event = json!({"id": id, "subject": "reported", "data": {"endpoint": "/api/x"}});
    service.post("/api/usage/events").json(&event).send().await
}

async fn check(user: &Client) -> Result<Answer> {
    user.post("/api/usage/check").json(&json!({"endpoint": "/api/x", "record": true})).send().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_server_that_is_away_is_named_and_comes_back() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let user = cluster.settings.client("alice", Role::User)?;
    let service = cluster.settings.client("reporter", Role::Service)?;
    for (victim, seen) in [(Victim::Postgres, ("away", "ok")), (Victim::Nats, ("ok", "away"))] {
        wait_until(BOUND, || async { forward_auth(&user).await.is_ok_and(|answer| answer.status == 204) })
            .await;
        cluster.kill(victim).await?;
        let seen = (json!(seen.0), json!(seen.1));
        wait_until(BOUND, || async { ready(&user, 503).await.is_ok_and(|now| now == seen) }).await;
        user.get("/healthz").send().await?.expect(200)?;
        // While the lock's lease lasts, calls are decided from memory. The write that is on its way waits for its 30 s:
        // the log may be back by then. Those behind it do not.
        wait_until(BOUND, || async {
            let answer = tokio::time::timeout(PATIENCE, forward_auth(&user)).await;
            answer.is_ok_and(|answer| answer.is_ok_and(|answer| answer.status == 503))
        })
        .await;
        let id = format!("while-{victim}-was-away");
        let written = [forward_auth(&user).await?, report(&service, &id).await?, check(&user).await?];
        for answer in written {
            let answer = answer.expect(503)?;
            assert!(answer.header("retry-after").is_some(), "{victim}: 503 without Retry-After");
            assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{victim}");
        }
        cluster.revive(victim).await?;
        let back = (json!("ok"), json!("ok"));
        wait_until(BOUND, || async { ready(&user, 200).await.is_ok_and(|now| now == back) }).await;
        wait_until(BOUND, || async { report(&service, &id).await.is_ok_and(|answer| answer.status == 202) })
            .await;
        cluster.supervise()?;
    }
    cluster.stop_api().await?;
    cluster.projected().await?;
    let rows: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM api_usage JOIN public.users USING (user_id) WHERE external_id = 'reported'",
    )
    .fetch_one(&cluster.pool().await?)
    .await?;
    assert_eq!(rows, 2, "each id once, however often it was tried");
    cluster.command(&["verify"]).await?.expect_success()?;
    Ok(())
}
