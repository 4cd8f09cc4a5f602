//! Ids are remembered for two generations, and calls for ever.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use chrono::{DateTime, TimeDelta, Utc};
use events::{Body, ClaimsTurned, Event, SOURCE_WORKER};
use ledger::Category::{Analyze, Other};
use ledger::{Clock, IdSource, Month};
use ledger_worker::claim_turns::Turner;
use ledger_worker::rebuild::Finish;
use sqlx::{Connection, Executor, PgConnection};
use store::projection::claims;
use store::{Schema, connect};
use testkit::{Database, Servers};

use crate::support::{TestLedger, call, minutes, of_a_later_version, plan, reported, reset};

const UNITS: &str = "SELECT sum(total_calls)::bigint FROM monthly_usage_summary";
const GENERATION: &str = "SELECT claims_generation FROM projection_checkpoint";
const CLAIMS: &str = "SELECT string_agg(log_seq || CASE WHEN is_current THEN ' now' ELSE ' before' END, ', '
                                        ORDER BY log_seq, is_current) FROM event_claims";
/// Rows of claims, wherever they are.
const ALL_CLAIMS: &str =
    "SELECT ((SELECT count(*) FROM event_claims_0) + (SELECT count(*) FROM event_claims_1)
                                 + (SELECT count(*) FROM event_claims_2))::text";

impl TestLedger {
    fn turn(&self, generation: u64) -> Event<'static> {
        let body = Body::ClaimsTurned(ClaimsTurned { generation });
        Event::own(SOURCE_WORKER, self.env.ids.event_id(), None, self.env.clock.now(), body)
    }

    /// Each event in a frame of its own, and all of them projected.
    async fn one_by_one(&self, events: &[Event<'static>]) {
        for event in events {
            self.publish(std::slice::from_ref(event)).await;
        }
        self.projected().await;
    }

    /// Log, rows and sums agree, and a rebuild gives the same tables.
    async fn all_agree(&self) -> Result<()> {
        assert_eq!(self.verified().await?.differences, []);
        assert_eq!(self.rebuild().summaries(true).await?.differences, []);
        assert_eq!(self.rebuild().run(&self.keys, Finish::DryRun).await?.differences, []);
        Ok(())
    }

    /// Time at which the log stored this frame.
    async fn stored_at(&self, seq: u64) -> Result<DateTime<Utc>> {
        Ok(self.log.frame_at(seq).await?.expect("a frame").time)
    }
}

#[tokio::test]
async fn an_id_counts_once_for_two_generations_and_with_its_time_for_ever() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let (user, now) = (ledger.user(), ledger.env.clock.now());
    let event = |id: &str, time| reported(user, id, time, call(Analyze));
    let later = now + minutes(1);
    ledger.one_by_one(&[event("a", now), event("b", now), event("c", now)]).await;
    assert_eq!(ledger.text(CLAIMS).await, "1 now, 2 now, 3 now");
    ledger.one_by_one(&[ledger.turn(0), event("a", later), event("d", now), event("a", now)]).await;
    assert_eq!(ledger.text(CLAIMS).await, "1 before, 2 before, 3 before, 6 now");
    assert_eq!(ledger.number(UNITS).await, 4, "claimed in the generation before");
    // The same turn by another worker, and one that is long past, end nothing.
    ledger.one_by_one(&[ledger.turn(0), ledger.turn(0)]).await;
    assert_eq!(ledger.text(CLAIMS).await, "1 before, 2 before, 3 before, 6 now");
    ledger.all_agree().await?;
    ledger.one_by_one(&[ledger.turn(1)]).await;
    assert_eq!((ledger.text(CLAIMS).await, ledger.number(GENERATION).await), ("6 before".to_owned(), 2));
    // Forgotten: the same id with the same time is still the same call, alone and beside others; it has its id again.
    ledger.one_by_one(&[event("a", now)]).await;
    assert_eq!(ledger.number(UNITS).await, 4);
    ledger
        .publish(&[event("b", now), event("b", later), event("e", now), event("c", later), event("c", now)])
        .await;
    ledger.publish(&[event("a", later), event("d", later), event("c", now)]).await;
    ledger.projected().await;
    // With another time it is another call: "c", and "e" is new.
    assert_eq!(ledger.number(UNITS).await, 6);
    assert_eq!(ledger.number("SELECT count(*) FROM api_usage").await, 6);
    ledger.all_agree().await?;
    worker.stop().await;
    Ok(())
}

#[tokio::test]
async fn decisions_claim_their_ids_as_calls_do() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let (user, now) = (ledger.user(), ledger.env.clock.now());
    let ids = [ledger.env.ids.event_id(), ledger.env.ids.event_id()];
    let decisions = || [plan(ids[0], user, (Some(500), None), now), reset(ids[1], user, Month::of(now), now)];
    ledger.publish(&decisions()).await;
    ledger.publish(&[ledger.own_call(user, call(Other))]).await;
    ledger.publish(&[ledger.turn(0)]).await;
    // A request that is tried again a day later publishes them again, at the worst.
    ledger.publish(&decisions()).await;
    ledger.projected().await;
    assert_eq!(ledger.number("SELECT count(*) FROM subscriptions").await, 1);
    assert_eq!(ledger.number(UNITS).await, 1, "not reset again");
    ledger.all_agree().await?;
    worker.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_generation_ends_a_horizon_after_its_first_claim() -> Result<()> {
    let horizon = Duration::from_millis(700);
    let ledger = TestLedger::start().await?;
    let patient = ledger.spawn_worker_with(|config| config.dedupe_horizon = Duration::from_hours(1));
    let (user, now) = (ledger.user(), ledger.env.clock.now());
    ledger.one_by_one(&[ledger.own_call(user, call(Other)), reported(user, "a", now, call(Other))]).await;
    let first = ledger.stored_at(2).await?;
    let since: DateTime<Utc> = sqlx::query_scalar("SELECT claims_since FROM projection_checkpoint")
        .fetch_one(ledger.env.pool())
        .await?;
    assert!((since - first).abs() < TimeDelta::milliseconds(1), "by the log's clock: {since} {first}");
    assert_eq!(ledger.number(GENERATION).await, 0);
    patient.stop().await;
    // Two workers, of whom one projects. The ledger's clock says nothing.
    ledger.env.clock.set(now + TimeDelta::days(400));
    let hurry = |config: &mut ledger_worker::WorkerConfig| config.dedupe_horizon = horizon;
    let (one, two) = (ledger.spawn_worker_with(hurry), ledger.spawn_worker_with(hurry));
    testkit::wait_until(crate::support::BOUND, || async {
        // The log's time goes on with its frames.
        ledger.one_by_one(&[ledger.own_call(user, call(Other))]).await;
        ledger.number(GENERATION).await == 1
    })
    .await;
    let turn: i64 = ledger.number("SELECT claims_turned_seq FROM projection_checkpoint").await;
    let turned = ledger.stored_at(turn.unsigned_abs()).await?;
    assert!(turned - first >= TimeDelta::from_std(horizon)?, "{first} {turned}");
    // Without a claim there is nothing to end. With one, its turn comes, and then nothing is left of the first.
    ledger.one_by_one(&[ledger.own_call(user, call(Other)), reported(user, "b", now, call(Other))]).await;
    testkit::wait_until(crate::support::BOUND, || async {
        ledger.one_by_one(&[ledger.own_call(user, call(Other))]).await;
        ledger.number(GENERATION).await == 2
    })
    .await;
    ledger.until(ALL_CLAIMS, "1").await;
    ledger.all_agree().await?;
    one.stop().await;
    two.stop().await;
    Ok(())
}

#[tokio::test]
async fn two_workers_end_a_generation_once() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let (user, now) = (ledger.user(), ledger.env.clock.now());
    let turner = Turner {
        publisher: ledger.publisher.clone(),
        ids: ledger.env.ids.clone(),
        clock: ledger.env.clock.clone(),
        horizon: TimeDelta::zero(),
    };
    let mut conns = (ledger.env.pool().acquire().await?, ledger.env.pool().acquire().await?);
    ledger.one_by_one(&[ledger.own_call(user, call(Other))]).await;
    assert_eq!(turner.turn_due(&mut conns.0).await?, None, "nothing is claimed");
    ledger.one_by_one(&[reported(user, "a", now, call(Other))]).await;
    let early = Turner { horizon: TimeDelta::hours(1), ..turner.clone() };
    assert_eq!(early.turn_due(&mut conns.0).await?, None);
    let both = tokio::join!(turner.turn_due(&mut conns.0), turner.turn_due(&mut conns.1));
    // One of them may look when the other's turn is projected already.
    assert!(matches!(both, (Ok(Some(_)), Ok(_)) | (Ok(_), Ok(Some(_)))), "{both:?}");
    ledger.projected().await;
    assert_eq!(ledger.text(CLAIMS).await, "2 before");
    assert_eq!(ledger.number(GENERATION).await, 1);
    assert_eq!(turner.turn_due(&mut conns.0).await?, None, "nothing is claimed since");
    ledger.one_by_one(&[reported(user, "a", now, call(Other))]).await;
    assert_eq!(ledger.number(UNITS).await, 2);
    ledger.all_agree().await?;
    worker.stop().await;
    Ok(())
}

/// Turns, and calls between them that are reported again and again, in small batches, by workers that are killed.
#[tokio::test]
async fn a_crash_between_turns_loses_and_doubles_nothing() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let (user, now) = (ledger.user(), ledger.env.clock.now());
    let slow = |config: &mut ledger_worker::WorkerConfig| config.max_batch_events = 2;
    let mut worker = ledger.spawn_worker_with(slow);
    for round in 0..6_u64 {
        // Every id comes again when it is claimed, when it was claimed before, and when it is forgotten.
        let event = |n: u64| reported(user, &format!("{n}"), now, call(Other));
        for n in 0..4 {
            let events = [event(round * 4 + n), event((round * 4 + n).saturating_sub(3)), event(n)];
            ledger.publish(&events).await;
        }
        ledger.publish(&[ledger.turn(round)]).await;
        let last = ledger.log.state().await?.last_seq;
        ledger.projected_to(last - 2).await;
        worker.kill().await;
        worker = ledger.spawn_worker_with(slow);
    }
    ledger.projected().await;
    assert_eq!((ledger.number(UNITS).await, ledger.number(GENERATION).await), (24, 6));
    ledger.all_agree().await?;
    worker.stop().await;
    Ok(())
}

/// A dead letter that is applied late claims its id in the generation in which it would have been claimed.
#[tokio::test]
async fn a_late_claim_stands_in_its_generation() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let (user, now) = (ledger.user(), ledger.env.clock.now());
    ledger.execute("ALTER TABLE api_usage ADD CHECK (endpoint <> '/api/refused')").await;
    let refused = |id: &str| {
        let mut refused = call(Other);
        refused.endpoint = "/api/refused".into();
        reported(user, id, now, refused)
    };
    ledger.one_by_one(&[refused("a"), ledger.turn(0), refused("b"), ledger.turn(1), refused("c")]).await;
    assert_eq!(ledger.number("SELECT count(*) FROM dead_letters").await, 3);
    ledger.execute("ALTER TABLE api_usage DROP CONSTRAINT api_usage_endpoint_check").await;
    let mut conn = connect(ledger.env.database_url(), Schema::Live).await?;
    ledger_worker::dead_letters::retry_all(&mut conn, &ledger.log, &ledger.keys, None).await?;
    assert_eq!(ledger.text(CLAIMS).await, "3 before, 5 now");
    assert_eq!(ledger.number(UNITS).await, 3);
    ledger.all_agree().await?;
    worker.stop().await;
    Ok(())
}

/// Whoever reads claims for long keeps nobody waiting, and nothing is taken from under it.
#[tokio::test]
async fn what_is_forgotten_is_emptied_beside_the_projector() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let (user, now) = (ledger.user(), ledger.env.clock.now());
    let quick = |config: &mut ledger_worker::WorkerConfig| config.dedupe_horizon = Duration::from_hours(1);
    let worker = ledger.spawn_worker_with(quick);
    let event = |id: &str| reported(user, id, now, call(Other));
    ledger.one_by_one(&[event("a"), event("b")]).await;
    let mut reader = connect(ledger.env.database_url(), Schema::Live).await?;
    let mut reading = reader.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let seen: i64 = sqlx::query_scalar("SELECT count(*) FROM event_claims").fetch_one(&mut *reading).await?;
    ledger.one_by_one(&[ledger.turn(0), event("c"), ledger.turn(1), event("d")]).await;
    assert_eq!(ledger.text(CLAIMS).await, "4 before, 6 now", "the projector has gone on");
    let mut conn = connect(ledger.env.database_url(), Schema::Live).await?;
    assert!(!claims::empty_forgotten(&mut conn).await?, "it is being read");
    ledger.one_by_one(&[event("a")]).await;
    let still: i64 = sqlx::query_scalar("SELECT count(*) FROM event_claims").fetch_one(&mut *reading).await?;
    assert_eq!((seen, still), (2, 2));
    assert_eq!(ledger.text(ALL_CLAIMS).await, "5");
    reading.rollback().await?;
    assert!(claims::empty_forgotten(&mut conn).await?);
    assert!(claims::empty_forgotten(&mut conn).await?, "there is nothing left");
    assert_eq!(ledger.text(ALL_CLAIMS).await, "3");
    // A turn that comes before it was emptied empties it itself.
    ledger.one_by_one(&[ledger.turn(2), ledger.turn(3), ledger.turn(4), event("d")]).await;
    assert_eq!(ledger.text(CLAIMS).await, "11 now");
    ledger.all_agree().await?;
    worker.stop().await;
    Ok(())
}

/// In the middle of a frame, too; and a worker goes on with what a rebuild made.
#[tokio::test]
async fn a_rebuild_turns_where_the_projector_did() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let (user, now) = (ledger.user(), ledger.env.clock.now());
    let event = |id: &str, time| reported(user, id, time, call(Other));
    let events = [
        event("a", now),
        ledger.turn(0),
        event("b", now),
        event("a", now),
        ledger.turn(1),
        event("a", now - minutes(1)),
        event("b", now),
    ];
    ledger.publish(&events).await;
    ledger.publisher.publish(of_a_later_version()).await?;
    ledger.projected().await;
    let before = ledger.text(CLAIMS).await;
    assert_eq!(before, "1 before, 1 now");
    for _ in 0..2 {
        assert_eq!(ledger.rebuild().run(&ledger.keys, Finish::Swap).await?.differences, []);
        assert_eq!(ledger.text(CLAIMS).await, before);
    }
    // The worker goes on with the rebuilt tables, and turns them.
    ledger
        .one_by_one(&[ledger.turn(2), event("c", now), event("b", now - minutes(2)), event("a", now)])
        .await;
    assert_eq!(ledger.number(UNITS).await, 5);
    ledger.all_agree().await?;
    worker.stop().await;
    Ok(())
}

/// What a build without generations has claimed is claimed in the first one.
#[tokio::test]
async fn claims_of_the_build_before_are_kept() -> Result<()> {
    let servers = Servers::shared().await?;
    let database = Database::create_empty(&servers.admin_url, &IdSource::new(Clock::system())).await?;
    let mut conn = PgConnection::connect(database.url()).await?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations");
    let mut files: Vec<_> = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort();
    for file in files {
        if file.ends_with("0013_claim_generations.sql") {
            conn.execute(
                "INSERT INTO event_claims SELECT md5(n::text)::uuid, n FROM generate_series(1, 1000) n;
                 UPDATE projection_checkpoint SET seq = 1000",
            )
            .await?;
        }
        conn.execute(sqlx::raw_sql(&fs::read_to_string(file)?)).await?;
    }
    let claims: String = sqlx::query_scalar(
        "SELECT concat_ws(' ', count(*), bool_and(is_current), sum(log_seq), bool_and(id = md5(log_seq::text)::uuid))
         FROM event_claims",
    )
    .fetch_one(&mut conn)
    .await?;
    assert_eq!(claims, "1000 t 500500 t");
    let taken = sqlx::query("INSERT INTO event_claims_0 VALUES (md5('1')::uuid, 1)").execute(&mut conn).await;
    let taken = store::Error::from(taken.expect_err("it is claimed"));
    assert_eq!(taken.conflict(), Some(&store::Constraint::ClaimId));
    Ok(())
}
