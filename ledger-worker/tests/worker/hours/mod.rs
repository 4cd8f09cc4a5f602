//! Hours that are compacted behind the checkpoint: complete or absent, whatever comes late.

mod races;
mod sameness;

use anyhow::Result;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use events::{Body, CallCompleted, Event};
use ledger::Category::{Analyze, Other};
use ledger::{Month, UserId};
use ledger_worker::batch::{KnownDataKeys, Parsed, apply_late};
use ledger_worker::compaction::{claim, compact};
use ledger_worker::rebuild::Finish;
use ledger_worker::{Applier, Batch};
use nats::{FrameHeader, RawFrame};
use sqlx::{Connection, Executor, PgConnection};
use store::operations::compare::{self, Difference};
use store::projection::checkpoint::{self, Checkpoint};
use store::read::filter::{Counted, TimeRange};
use store::read::history::{Bucket, Granularity, Grouping, HistoryFilter, buckets};
use store::{Schema, connect};
use testkit::Env;
use uuid::Uuid;

use crate::counting::rows::{migrate_from, migrated_before};
use crate::support::{TestLedger, call, minutes, reported};

/// The day before "now", by the log: all of its hours are past.
const DAY: &str = "2026-11-10T00:00:00Z";

/// A projection that a test fills by frames of its own, and a connection of who compacts.
struct Book {
    env: Env,
    conn: PgConnection,
    compactor: PgConnection,
    applier: Applier,
    seq: u64,
}

fn day() -> DateTime<Utc> {
    DAY.parse().expect("a time")
}

fn at(hour: i64, minute: i64) -> DateTime<Utc> {
    day() + TimeDelta::minutes(60 * hour + minute)
}

fn user(n: u128) -> UserId {
    UserId::new(Uuid::from_u128(0xa000 + n))
}

/// A frame with these events, that the log has stored at this time.
fn frame(seq: u64, stored_at: DateTime<Utc>, events: &[Event<'_>]) -> RawFrame {
    let encode = |event: &Event<'_>| {
        let mut json = Vec::new();
        events::encode(event, &mut json);
        String::from_utf8(json).expect("JSON")
    };
    let body = format!("[{}]", events.iter().map(encode).collect::<Vec<_>>().join(",")).into_bytes();
    let header =
        FrameHeader::of(Uuid::from_u128(0xbeef), seq, u32::try_from(events.len()).expect("a few"), &body);
    RawFrame { seq, time: stored_at, msg_id: header.msg_id(), header: Ok(header), body: Bytes::from(body) }
}

/// A call that our own api recorded before its end.
fn open_call(id: u128, user: UserId, at: DateTime<Utc>) -> Event<'static> {
    let mut called = call(Analyze);
    (called.status_code, called.response_time_ms) = (None, None);
    Event::by_api(Uuid::from_u128(id), user, at, Body::ApiCalled(called))
}

fn completed(id: u128, of: &Event<'_>, status_code: u16) -> Event<'static> {
    let body = CallCompleted {
        call_id: of.row_id().expect("an own id"),
        call_time: of.time,
        status_code,
        response_time_ms: Some(70),
        response_size: None,
        counted: status_code < 500,
    };
    Event::by_api(Uuid::from_u128(id), of.subject.expect("a user"), of.time, Body::CallCompleted(body))
}

impl Book {
    async fn start() -> Result<Self> {
        let env = Env::start().await?;
        let conn = connect::connect_projector(env.database_url(), Schema::Live).await?;
        let compactor = connect(env.database_url(), Schema::Live).await?;
        Ok(Self {
            env,
            conn,
            compactor,
            applier: Applier::new(Schema::Live, 0, Checkpoint::default()),
            seq: 0,
        })
    }

    /// Applies a batch of a frame with these events, stored at noon of the next day.
    async fn apply(&mut self, events: &[Event<'_>]) -> Result<()> {
        self.apply_at(at(36, 0), events).await
    }

    async fn apply_at(&mut self, stored_at: DateTime<Utc>, events: &[Event<'_>]) -> Result<()> {
        self.seq += 1;
        let frame = frame(self.seq, stored_at, events);
        let mut batch = Batch::of(std::slice::from_ref(&frame), &frame, &KnownDataKeys::default());
        self.applier.apply(&mut self.conn, &mut batch).await?;
        Ok(())
    }

    async fn execute(&mut self, statement: &str) -> Result<()> {
        self.compactor.execute(sqlx::raw_sql(statement)).await?;
        Ok(())
    }

    /// Has this user's day as one of many calls.
    async fn note(&mut self, user: UserId, day: DateTime<Utc>) -> Result<()> {
        store::projection::hours::note(&mut self.compactor, &[(user, day)]).await?;
        self.make_due().await
    }

    /// Ten minutes later.
    async fn make_due(&mut self) -> Result<()> {
        self.execute("UPDATE compacted_days SET due_at = now() WHERE due_at IS NOT NULL").await
    }

    /// Compacts all that is due; answers how many days that was.
    async fn compact(&mut self) -> Result<usize> {
        self.make_due().await?;
        let days = claim(&mut self.compactor).await?.days;
        for day in &days {
            assert!(compact(&mut self.compactor, day).await?);
        }
        Ok(days.len())
    }

    async fn text(&mut self, query: &str) -> Result<String> {
        let text: Option<String> = sqlx::query_scalar(query).fetch_one(&mut self.compactor).await?;
        Ok(text.unwrap_or_default())
    }

    /// The compacted hours, with calls and units.
    async fn hours(&mut self) -> Result<String> {
        self.text(
            "SELECT string_agg(concat_ws(' ', extract(hour FROM bucket), category, counted, calls, units), ', '
                               ORDER BY bucket, category, counted, user_id) FROM usage_hourly",
        )
        .await
    }

    /// What history says of the user's day by the hour, which must be what a plain sum over the rows says; and each
    /// compacted hour must be that of its rows.
    async fn checked(&mut self, user: UserId) -> Result<Vec<Bucket>> {
        assert_eq!(wrong_hours(&mut self.compactor, None).await?, None);
        let filter = HistoryFilter {
            range: TimeRange { from: day(), to: day() + TimeDelta::days(1) },
            granularity: Granularity::Hour,
            grouping: Grouping::Category,
            counted: Counted::All,
            key: None,
        };
        let found = sorted(buckets(&mut self.compactor, user, &filter, &[]).await?);
        assert_eq!(found, by_rows(&mut self.compactor, user, &filter).await?);
        Ok(found)
    }
}

/// Compacted hours that are not those of their rows, of the first month that has some.
async fn wrong_hours(conn: &mut PgConnection, user: Option<UserId>) -> Result<Option<Difference>> {
    for month in store::projection::partitions::attached(conn).await? {
        if let Some(wrong) = compare::hours(month, user).run(conn, 20).await? {
            return Ok(Some(wrong));
        }
    }
    Ok(None)
}

fn sorted(mut buckets: Vec<Bucket>) -> Vec<Bucket> {
    buckets.sort_by(|a, b| (a.period, &a.group).cmp(&(b.period, &b.group)));
    buckets
}

/// The same as history, by nothing but rows.
async fn by_rows(conn: &mut PgConnection, user: UserId, filter: &HistoryFilter) -> Result<Vec<Bucket>> {
    let counted = match filter.counted {
        Counted::Counted => "counted",
        Counted::Uncounted => "NOT counted",
        Counted::All => "true",
    };
    let group = if filter.grouping == Grouping::Category { "category" } else { "''" };
    let query = format!(
        "SELECT date_trunc($4, created_at, 'UTC'), {group}, sum(units), count(*),
                coalesce(sum(response_time_ms), 0), count(response_time_ms)
         FROM api_usage WHERE user_id = $1 AND created_at >= $2 AND created_at < $3 AND {counted}
         GROUP BY 1, 2 ORDER BY 1, 2"
    );
    let rows: Vec<(DateTime<Utc>, String, i64, i64, i64, i64)> = sqlx::query_as(&query)
        .bind(user.get())
        .bind(filter.range.from)
        .bind(filter.range.to)
        .bind(filter.granularity.as_str())
        .fetch_all(conn)
        .await?;
    let bucket =
        |(period, group, units, calls, ms, timed): (DateTime<Utc>, String, i64, i64, i64, i64)| Bucket {
            period,
            group,
            units: units.unsigned_abs(),
            calls: calls.unsigned_abs(),
            total_response_time_ms: ms.unsigned_abs(),
            timed_calls: timed.unsigned_abs(),
        };
    Ok(sorted(rows.into_iter().map(bucket).collect()))
}

#[tokio::test]
async fn past_hours_of_a_noted_day_are_compacted_and_read_instead_of_its_rows() -> Result<()> {
    let mut book = Book::start().await?;
    let of = |id, at, category| reported(user(1), id, at, call(category));
    book.apply_at(
        at(12, 30),
        &[
            of("a", at(3, 0), Analyze),
            of("b", at(3, 59), Analyze),
            of("c", at(10, 59), Other),
            of("d", at(12, 1), Other),
        ],
    )
    .await?;
    assert_eq!(book.compact().await?, 0, "no day of many calls");
    book.note(user(1), day()).await?;
    assert_eq!(book.compact().await?, 1);
    // An hour is left alone for 75 minutes after its end.
    assert_eq!(book.hours().await?, "3 analyze t 2 2, 10 other t 1 1");
    book.checked(user(1)).await?;
    assert_eq!(book.compact().await?, 0, "nothing more is past");
    book.apply_at(at(14, 15), &[of("e", at(14, 1), Other)]).await?;
    assert_eq!(book.compact().await?, 1);
    assert_eq!(book.hours().await?, "3 analyze t 2 2, 10 other t 1 1, 12 other t 1 1");
    book.apply(&[of("f", at(36, 0), Other)]).await?;
    assert_eq!(book.compact().await?, 1);
    assert_eq!(
        book.text("SELECT concat_ws(' ', hours, due_at IS NULL) FROM compacted_days").await?,
        "16777215 t"
    );
    let before = book.checked(user(1)).await?;
    // The rows of compacted hours are not looked at.
    book.execute("UPDATE api_usage SET units = 99 WHERE created_at < '2026-11-11'").await?;
    let filter = HistoryFilter {
        range: TimeRange { from: day(), to: day() + TimeDelta::days(1) },
        granularity: Granularity::Hour,
        grouping: Grouping::Category,
        counted: Counted::All,
        key: None,
    };
    assert_eq!(sorted(buckets(&mut book.compactor, user(1), &filter, &[]).await?), before);
    let wrong = wrong_hours(&mut book.compactor, Some(user(1))).await?;
    assert_eq!(wrong.map(|wrong| wrong.rows.len()), Some(4), "verify tells of them");
    Ok(())
}

/// A late call, a completion and a retried dead letter each take the hour out of the cache that they change.
#[tokio::test]
async fn what_changes_a_call_of_a_compacted_hour_takes_the_hour_out() -> Result<()> {
    let mut book = Book::start().await?;
    let open = open_call(1, user(1), at(5, 0));
    let calls = [
        reported(user(1), "a", at(3, 0), call(Other)),
        open.clone(),
        reported(user(1), "b", at(7, 0), call(Other)),
        reported(user(2), "b", at(7, 0), call(Other)),
    ];
    book.apply(&calls).await?;
    book.note(user(1), day()).await?;
    book.note(user(2), day()).await?;
    assert_eq!(book.compact().await?, 2);
    let all = "3 other t 1 1, 5 analyze t 1 1, 7 other t 1 1, 7 other t 1 1";
    assert_eq!(book.hours().await?, all);
    // Twice the same event changes nothing.
    book.apply(&[reported(user(1), "a", at(3, 0), call(Other))]).await?;
    assert_eq!(book.hours().await?, all);

    let mut failed = call(Other);
    (failed.counted, failed.status_code) = (false, Some(503));
    book.apply(&[reported(user(1), "late", at(3, 59), failed)]).await?;
    assert_eq!(book.hours().await?, "5 analyze t 1 1, 7 other t 1 1, 7 other t 1 1");
    book.checked(user(1)).await?;
    book.apply(&[completed(2, &open, 503)]).await?;
    assert_eq!(book.hours().await?, "7 other t 1 1, 7 other t 1 1");
    book.checked(user(1)).await?;
    let retried = frame(book.seq, at(36, 0), &[reported(user(1), "retried", at(7, 1), call(Other))]);
    let mut tx = book.conn.begin().await?;
    checkpoint::lock(&mut tx, 0).await?;
    apply_late(&mut tx, &Parsed::one(&retried, 0, &KnownDataKeys::default())).await?;
    tx.commit().await?;
    assert_eq!(book.hours().await?, "7 other t 1 1", "the other user's");
    book.checked(user(1)).await?;

    assert_eq!(book.compact().await?, 1);
    let again = "3 other f 1 1, 3 other t 1 1, 5 analyze f 1 1, 7 other t 2 2, 7 other t 1 1";
    assert_eq!(book.hours().await?, again);
    book.checked(user(1)).await?;
    // In an hour that had no calls, which was complete as well.
    book.apply(&[reported(user(1), "first", at(9, 0), call(Other))]).await?;
    assert_eq!(book.checked(user(1)).await?.len(), 4);
    Ok(())
}

/// The day is noted by the batch with which its calls become many, counted over batches and not over days.
#[tokio::test]
async fn a_day_of_many_calls_is_noted() -> Result<()> {
    let mut book = Book::start().await?;
    let calls = |from: usize, count: usize, who: u128, hour: i64| -> Vec<Event<'static>> {
        (from..from + count)
            .map(|n| reported(user(who), &format!("c{n}"), at(hour, 1), call(Other)))
            .collect()
    };
    book.apply(&calls(0, 999, 1, 3)).await?;
    book.apply(&calls(0, 999, 2, 3)).await?;
    book.apply(&calls(1_000, 999, 1, 27)).await?;
    assert_eq!(book.text("SELECT count(*)::text FROM compacted_days").await?, "0");
    book.apply(&calls(999, 1, 1, 23)).await?;
    let noted = "SELECT string_agg(concat_ws(' ', user_id, day::date), ', ') FROM compacted_days";
    assert_eq!(book.text(noted).await?, format!("{} 2026-11-10", user(1)));
    assert_eq!(book.compact().await?, 1);
    assert_eq!(book.hours().await?, "3 other t 999 999, 23 other t 1 1");
    book.checked(user(1)).await?;
    book.checked(user(2)).await?;
    Ok(())
}

#[tokio::test]
async fn a_batch_of_many_users_writes_no_hours() -> Result<()> {
    let mut book = Book::start().await?;
    book.apply(&[reported(user(1), "a", at(3, 0), call(Other))]).await?;
    book.note(user(1), day()).await?;
    assert_eq!(book.compact().await?, 1);
    let frames: Vec<RawFrame> = (0..20)
        .map(|n| {
            let calls = (0..1_000).map(|of| reported(user(10 + 1_000 * n + of), "a", at(3, 0), call(Other)));
            frame(2 + u64::try_from(n).expect("few"), at(36, 0), &calls.collect::<Vec<_>>())
        })
        .collect();
    let mut batch = Batch::of(&frames, &frames[19], &KnownDataKeys::default());
    book.applier.apply(&mut book.conn, &mut batch).await?;
    assert_eq!(book.text("SELECT count(*)::text FROM monthly_usage_summary").await?, "20001");
    assert_eq!(book.hours().await?, "3 other t 1 1", "none is written, and nobody else's goes");
    assert_eq!(book.text("SELECT count(*)::text FROM compacted_days").await?, "1");
    Ok(())
}

/// Of a detached month there are no calls to be summed: nothing is complete that was not read.
#[tokio::test]
async fn days_of_a_detached_month_are_left_to_their_rows() -> Result<()> {
    let mut book = Book::start().await?;
    book.apply(&[reported(user(1), "a", at(3, 0), call(Other))]).await?;
    book.note(user(1), day()).await?;
    let claimed = claim(&mut book.compactor).await?.days.remove(0);
    let table = format!("api_usage_{}", Month::of(day()).to_string().replace('-', "_"));
    let detach = format!("ALTER TABLE api_usage DETACH PARTITION {table}");
    book.compactor.execute(detach.as_str()).await?;
    assert!(!compact(&mut book.compactor, &claimed).await?, "its calls are elsewhere");
    book.make_due().await?;
    let looked = claim(&mut book.compactor).await?;
    assert_eq!((looked.days.len(), looked.looked_at), (0, 1));
    assert!(!store::projection::hours::is_due(&mut book.compactor).await?, "not for ever");
    assert_eq!(book.hours().await?, "");
    Ok(())
}

/// A compactor that died after its claim, or after it has read: the day is claimed anew, and the old claim is void.
#[tokio::test]
async fn a_claim_that_came_to_nothing_is_made_anew() -> Result<()> {
    let mut book = Book::start().await?;
    book.apply(&[reported(user(1), "a", at(3, 0), call(Other))]).await?;
    book.note(user(1), day()).await?;
    let dead = claim(&mut book.compactor).await?.days.remove(0);
    assert_eq!(claim(&mut book.compactor).await?.days, [], "it is left alone for a while");
    let read = store::projection::hours::read(&mut book.compactor, &dead).await?;
    let mut tx = book.compactor.begin().await?;
    assert!(store::projection::hours::put(&mut tx, &dead, &read).await?);
    tx.rollback().await?;
    assert_eq!(book.hours().await?, "");
    assert_eq!(book.compact().await?, 1);
    assert_eq!(book.hours().await?, "3 other t 1 1");
    assert!(!compact(&mut book.compactor, &dead).await?, "it was not dead, only slow");
    assert_eq!(book.hours().await?, "3 other t 1 1");
    Ok(())
}

/// A worker compacts by itself, verify agrees, and a rebuild begins without hours and finds the days again.
#[tokio::test]
async fn a_worker_compacts_and_a_rebuild_begins_anew() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let user = ledger.user();
    let past = ledger.env.clock.now() - TimeDelta::days(3);
    let calls: Vec<_> = (0..1_100).map(|n| reported(user, &format!("c{n}"), past, call(Other))).collect();
    ledger.publish(&calls).await;
    let worker = ledger.spawn_worker();
    ledger.projected().await;
    let noted = "SELECT count(*)::text FROM compacted_days WHERE hours = 0";
    for _ in 0..2 {
        ledger.until(noted, "1").await;
        ledger.execute("UPDATE compacted_days SET due_at = now()").await;
        ledger.until("SELECT sum(calls)::text FROM usage_hourly", "1100").await;
        assert_eq!(ledger.verified().await?.differences, []);
        assert_eq!(ledger.rebuild().run(&ledger.keys, Finish::Swap).await?.differences, []);
        assert_eq!(ledger.number("SELECT count(*) FROM usage_hourly").await, 0);
    }
    ledger.publish(&[reported(user, "late", past + minutes(1), call(Other))]).await;
    ledger.projected().await;
    assert_eq!(ledger.verified().await?.differences, []);
    ledger.execute("INSERT INTO usage_hourly SELECT user_id, created_at, category, true, 1, 1, 0, 0 FROM api_usage LIMIT 1").await;
    let found = ledger.verified().await?.differences;
    assert_eq!(found.iter().map(|found| found.name.as_str()).collect::<Vec<_>>(), ["usage_hourly"]);
    worker.stop().await;
    Ok(())
}

/// Of the build before: its hours go, and days of many calls are compacted anew.
#[tokio::test]
async fn the_hours_of_the_build_before_are_made_anew() -> Result<()> {
    let (database, mut conn) = migrated_before("0011").await?;
    store::projection::partitions::ensure(&mut conn, Month::of(day())).await?;
    let rows = |who: u128, calls: u32| {
        let user = user(who);
        format!(
            "INSERT INTO api_usage (id, user_id, created_at, log_seq, log_idx, units, counted, category, month_year,
                                    endpoint)
             SELECT gen_random_uuid(), '{user}', '2026-11-10T03:00:00Z'::timestamptz + n * interval '1 minute', 1, 0, 1,
                    true, 'other', '2026-11', '/api/x' FROM generate_series(1, {calls}) n;"
        )
    };
    // A little is missing in the old hours, to tell them from the new ones.
    let hours =
        "INSERT INTO usage_hourly SELECT user_id, date_trunc('hour', created_at, 'UTC'), category, counted,
                     sum(units), count(*), 0, 0 FROM api_usage GROUP BY 1, 2, 3, 4;
                 INSERT INTO usage_daily SELECT user_id, date_trunc('day', bucket, 'UTC'), category, counted,
                     sum(units), sum(calls), 0, 0 FROM usage_hourly GROUP BY 1, 2, 3, 4;
                 UPDATE projection_checkpoint SET seq = 7, frame_time = '2026-11-12Z'";
    conn.execute(sqlx::raw_sql(&format!("{} {} {hours}", rows(1, 1_000), rows(2, 900)))).await?;
    migrate_from(&mut conn, "0011").await?;
    let mut conn = connect(database.url(), Schema::Live).await?;
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM usage_hourly").fetch_one(&mut conn).await?;
    assert_eq!(count, 0);
    let days = claim(&mut conn).await?.days;
    assert_eq!(days.len(), 1, "the other's day is not worth it");
    assert!(compact(&mut conn, &days[0]).await?);
    let calls: i64 =
        sqlx::query_scalar("SELECT sum(calls)::bigint FROM usage_hourly").fetch_one(&mut conn).await?;
    assert_eq!(calls, 1_000);
    assert_eq!(wrong_hours(&mut conn, None).await?, None);
    Ok(())
}
