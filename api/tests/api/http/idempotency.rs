//! `Idempotency-Key`: a handler that publishes one event per request, behind the real layers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use api::auth::{User, needs};
use api::facts::Writer;
use api::http::envelope::Envelope;
use api::http::extract::Json;
use api::http::idempotency::{Attempt, Idempotency, Keyed};
use api::http::problem::Problem;
use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use chrono::TimeDelta;
use events::{ApiCalled, Body, Event};
use ledger::{Category, UserId};
use serde::{Deserialize, Serialize};
use serde_json::json;
use testkit::{Answer, Client, Role, World, wait_until};
use tokio::sync::Notify;

use crate::answers::assert_problem;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Call {
    endpoint: String,
    /// What the handler does: `refuse`, `busy`, `wait`, `crash`.
    fault: Option<String>,
}

#[derive(Serialize)]
struct Called {
    event_id: uuid::Uuid,
    runs: usize,
}

/// What the handler and its test share.
#[derive(Clone, Default)]
struct Bench {
    runs: Arc<AtomicUsize>,
    /// Faults happen while this holds.
    faulty: Arc<AtomicBool>,
    go_on: Arc<Notify>,
}

async fn call(
    caller: User<needs::NoKey>,
    State(idempotency): State<Idempotency>,
    axum::Extension(writer): axum::Extension<Writer>,
    axum::Extension(bench): axum::Extension<Bench>,
    Keyed { body, request }: Keyed<Call>,
) -> Result<Response, Problem> {
    let user = caller.user_id;
    let work = move |attempt| async move { work(&writer, &bench, user, body, attempt).await };
    idempotency.run(caller.key_owner(), request, work).await
}

async fn work(
    writer: &Writer,
    bench: &Bench,
    user: UserId,
    body: Call,
    attempt: Attempt,
) -> Result<Response, Problem> {
    let runs = bench.runs.fetch_add(1, Ordering::SeqCst) + 1;
    let fault = body.fault.as_deref().filter(|_| bench.faulty.load(Ordering::SeqCst));
    match fault {
        Some("refuse") => return Err(Problem::conflict("It is refused.").with_member("meter", "total")),
        Some("busy") => return Err(Problem::busy("It is busy.")),
        Some("wait") => bench.go_on.notified().await,
        _ => {}
    }
    let event = Event::by_api(
        attempt.event_id,
        user,
        attempt.at,
        Body::ApiCalled(ApiCalled::new(body.endpoint, Category::Other)),
    );
    let seq = writer.record(&event).await?;
    assert!(fault != Some("crash"), "the process ends here, after the event is on disk");
    let called = Json(Called { event_id: attempt.event_id, runs });
    Ok((writer.at(seq), called).into_response())
}

/// An api whose only route is the handler above.
async fn start() -> Result<(World, Bench, Client)> {
    let world = World::without_worker(&[]).await?;
    let bench = Bench { faulty: Arc::new(AtomicBool::new(true)), ..Bench::default() };
    let app = Router::new()
        .route("/calls", post(call))
        .layer(axum::Extension(bench.clone()))
        .layer(axum::Extension(world.api.handle.writer.clone()))
        .layer(Envelope::new(world.env.ids.clone(), false))
        .with_state(world.api.handle.state.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let shutdown = tokio_util::sync::CancellationToken::new();
    tokio::spawn(api::serve(listener, app, api::Bounds::default(), shutdown, Duration::ZERO));
    let client = Client::new(url)?.with_token(world.env.token("caller", Role::User));
    Ok((world, bench, client))
}

async fn send(client: &Client, key: &str, fault: Option<&str>) -> Result<Answer> {
    let body = json!({"endpoint": "/x", "fault": fault});
    client.post("/calls").header("idempotency-key", key).json(&body).send().await
}

/// Ids and times of all events in the log.
async fn recorded(world: &World) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for seq in 1..=world.api.handle.log.state().await?.last_seq {
        let frame = world.api.handle.log.frame_at(seq).await?.context("a frame")?;
        for event in events::decode_batch(&frame.body)? {
            let event = event.map_err(|error| anyhow::anyhow!("{error:?}"))?;
            found.push((event.id.clone().into_owned(), event.time.to_rfc3339()));
        }
    }
    Ok(found)
}

#[tokio::test]
async fn the_same_request_gives_the_same_answer_once() -> Result<()> {
    let (world, bench, client) = start().await?;
    let first = send(&client, "key-1", None).await?.expect(200)?;
    let again = send(&client, "key-1", None).await?.expect(200)?;
    assert_eq!(first.body, again.body);
    assert_eq!(first.header("ledger-seq"), again.header("ledger-seq"));
    assert_eq!(first.header("content-type"), again.header("content-type"));
    assert_eq!(
        (first.header("idempotency-replayed"), again.header("idempotency-replayed")),
        (None, Some("true"))
    );
    assert_eq!((bench.runs.load(Ordering::SeqCst), recorded(&world).await?.len()), (1, 1));

    // The key is the caller's own, and another key is another request.
    let other = client.with_token(world.env.token("another", Role::User));
    assert_eq!(send(&other, "key-1", None).await?.expect(200)?.header("idempotency-replayed"), None);
    assert_eq!(send(&client, "key-2", None).await?.expect(200)?.header("idempotency-replayed"), None);
    // Without a key every request is one.
    for _ in 0..2 {
        client.post("/calls").json(&json!({"endpoint": "/x"})).send().await?.expect(200)?;
    }
    assert_eq!(recorded(&world).await?.len(), 5);
    Ok(())
}

#[tokio::test]
async fn the_id_is_of_the_events_own_instant() -> Result<()> {
    let (world, _, client) = start().await?;
    for n in 0..50 {
        send(&client, &format!("key-{n}"), None).await?.expect(200)?;
        client.post("/calls").json(&json!({"endpoint": "/x"})).send().await?.expect(200)?;
    }
    let events = recorded(&world).await?;
    assert_eq!(events.len(), 100);
    for (id, time) in events {
        // Of a UUIDv7 of ours the first 64 bits are the instant, to the microsecond.
        let same_instant = ledger::ids::event_id_at(time.parse()?).to_string();
        assert_eq!(id[..18], same_instant[..18], "{id} is not of {time}");
    }
    Ok(())
}

#[tokio::test]
async fn another_request_under_the_key_is_refused() -> Result<()> {
    let (_world, _, client) = start().await?;
    send(&client, "key", None).await?.expect(200)?;
    let other = client
        .post("/calls")
        .header("idempotency-key", "key")
        .json(&json!({"endpoint": "/y"}))
        .send()
        .await?;
    assert_problem(&other, 422, "idempotency_key_reused");
    let body = json!({"endpoint": "/x", "fault": null});
    let query = client.post("/calls?user_id=x").header("idempotency-key", "key").json(&body).send().await?;
    assert_problem(&query, 422, "idempotency_key_reused");
    for bad in ["", "a b", "ä", &"x".repeat(256)] {
        let answer = client.post("/calls").header("idempotency-key", bad).json(&body).send().await?;
        assert_problem(&answer, 400, "malformed_header");
    }
    let twice =
        client.post("/calls").header("idempotency-key", "a").header("idempotency-key", "a").json(&body);
    assert_problem(&twice.send().await?, 400, "malformed_header");
    Ok(())
}

#[tokio::test]
async fn a_final_refusal_is_kept_with_a_request_id_of_its_own() -> Result<()> {
    let (_world, bench, client) = start().await?;
    let first = assert_problem(&send(&client, "key", Some("refuse")).await?, 409, "conflict");
    bench.faulty.store(false, Ordering::SeqCst);
    let again = send(&client, "key", Some("refuse")).await?;
    let replayed = assert_problem(&again, 409, "conflict");
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!((&replayed["detail"], &replayed["meter"]), (&first["detail"], &json!("total")));
    assert_ne!(replayed["request_id"], first["request_id"]);
    Ok(())
}

#[tokio::test]
async fn a_503_is_not_kept_and_its_retry_is_the_same_event() -> Result<()> {
    let (world, bench, client) = start().await?;
    assert_problem(&send(&client, "key", Some("busy")).await?, 503, "unavailable");
    bench.faulty.store(false, Ordering::SeqCst);
    let retried = send(&client, "key", Some("busy")).await?.expect(200)?;
    assert_eq!(retried.header("idempotency-replayed"), None);
    let kept = sqlx::query_as::<_, (uuid::Uuid, chrono::DateTime<chrono::Utc>)>(
        "SELECT event_id, created_at FROM public.idempotency_keys",
    );
    let (event_id, at) = kept.fetch_one(world.env.pool()).await?;
    assert_eq!(recorded(&world).await?, [(event_id.to_string(), at.to_rfc3339())]);
    Ok(())
}

#[tokio::test]
async fn while_the_first_runs_the_second_is_told_to_wait_even_if_the_first_hung_up() -> Result<()> {
    let (world, bench, client) = start().await?;
    let first = tokio::spawn({
        let client = client.clone();
        async move { send(&client, "key", Some("wait")).await }
    });
    wait_until(Duration::from_secs(5), || async { bench.runs.load(Ordering::SeqCst) == 1 }).await;
    let second = send(&client, "key", Some("wait")).await?;
    assert_problem(&second, 409, "idempotency_key_in_use");
    let wait: u64 = second.header("retry-after").context("no Retry-After")?.parse()?;
    assert!((1..=30).contains(&wait), "{wait}");
    first.abort();
    // The client is gone; its request goes on and keeps its answer.
    bench.go_on.notify_one();
    wait_until(Duration::from_secs(5), || async {
        let answer = send(&client, "key", Some("wait")).await.expect("an answer");
        answer.status == 200 && answer.header("idempotency-replayed") == Some("true")
    })
    .await;
    assert_eq!((bench.runs.load(Ordering::SeqCst), recorded(&world).await?.len()), (1, 1));
    Ok(())
}

#[tokio::test]
async fn the_answer_of_a_try_that_lost_its_key_is_not_kept() -> Result<()> {
    let (world, bench, client) = start().await?;
    let mut tries = Vec::new();
    for runs in 1..=2 {
        let client = client.clone();
        tries.push(tokio::spawn(async move { send(&client, "key", Some("wait")).await }));
        wait_until(Duration::from_secs(5), || async { bench.runs.load(Ordering::SeqCst) == runs }).await;
        if runs == 1 {
            world.env.clock.set(world.env.clock.now() + TimeDelta::seconds(31));
        }
    }
    let second = tries.pop().context("a second try")?;
    bench.go_on.notify_one();
    let first = tries.pop().context("a first try")?.await??;
    assert_problem(&first, 409, "idempotency_key_in_use");
    assert_problem(&send(&client, "key", Some("wait")).await?, 409, "idempotency_key_in_use");
    bench.go_on.notify_one();
    let second = second.await??.expect(200)?;
    let replayed = send(&client, "key", Some("wait")).await?.expect(200)?;
    assert_eq!(replayed.json()?, second.json()?);
    assert_eq!(bench.runs.load(Ordering::SeqCst), 2);
    Ok(())
}

#[tokio::test]
async fn without_a_key_too_the_work_goes_on_when_the_client_hangs_up() -> Result<()> {
    let (world, bench, client) = start().await?;
    let hung_up = tokio::spawn({
        let client = client.clone();
        async move { client.post("/calls").json(&json!({"endpoint": "/x", "fault": "wait"})).send().await }
    });
    wait_until(Duration::from_secs(5), || async { bench.runs.load(Ordering::SeqCst) == 1 }).await;
    hung_up.abort();
    assert!(hung_up.await.is_err_and(|error| error.is_cancelled()));
    // Another answer gives the server the time to notice.
    send(&client, "another", None).await?.expect(200)?;
    bench.go_on.notify_one();
    wait_until(Duration::from_secs(5), || async {
        recorded(&world).await.is_ok_and(|events| events.len() == 2)
    })
    .await;
    Ok(())
}

#[tokio::test]
async fn a_crash_after_the_publish_and_a_retry_are_one_event() -> Result<()> {
    let (world, bench, client) = start().await?;
    assert_problem(&send(&client, "key", Some("crash")).await?, 500, "internal");
    bench.faulty.store(false, Ordering::SeqCst);
    assert_problem(&send(&client, "key", Some("crash")).await?, 409, "idempotency_key_in_use");
    world.env.clock.set(world.env.clock.now() + TimeDelta::seconds(31));
    send(&client, "key", Some("crash")).await?.expect(200)?;
    let events = recorded(&world).await?;
    assert_eq!(events.len(), 2, "published twice");
    assert_eq!(events[0], events[1], "with the same id and the same time, so that it is projected once");
    // A day later the key is free.
    world.env.clock.set(world.env.clock.now() + TimeDelta::hours(25));
    let client = client.with_token(world.env.token("caller", Role::User));
    let anew = send(&client, "key", None).await?.expect(200)?;
    assert_eq!(anew.header("idempotency-replayed"), None);
    assert_ne!(recorded(&world).await?[2], events[0]);
    Ok(())
}

#[tokio::test]
async fn twenty_at_once_run_once() -> Result<()> {
    let (world, bench, client) = start().await?;
    let requests = (0..20).map(|_| send(&client, "key", None));
    let answers = futures_util::future::try_join_all(requests).await?;
    let done = answers.iter().filter(|answer| answer.status == 200).count();
    assert!(done >= 1 && answers.iter().all(|answer| [200, 409].contains(&answer.status.as_u16())));
    assert_eq!((bench.runs.load(Ordering::SeqCst), recorded(&world).await?.len()), (1, 1));
    Ok(())
}
