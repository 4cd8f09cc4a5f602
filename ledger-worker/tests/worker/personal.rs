//! Personal fields of calls: opened for the row, lost with the data key, never guessed at without it.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::Result;
use data_keys::{KeyConfig, Keys};
use events::{Event, Personal, SealedJson};
use ledger::Category::Other;
use ledger::UserId;
use ledger_worker::batch::{KnownDataKeys, Parsed};
use ledger_worker::rebuild::{Finish, RebuildError};
use metrics_exporter_prometheus::PrometheusBuilder;
use nats::EncodedEvent;
use store::identity::users::NewUser;
use testkit::wait_until;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::fmt::MakeWriter;
use vault::OsEntropy;

use crate::support::{BOUND, TestLedger, call, encoded, reported};

const ROWS: &str =
    "SELECT COALESCE(string_agg(concat_ws(' ', COALESCE(ip_address, '-'), COALESCE(user_agent, '-')), ', '
                    ORDER BY log_seq, log_idx), '') FROM api_usage";
const STOPPED: &str = "SELECT COALESCE(reason, '') FROM projector_status WHERE state = 'stopped'";

impl TestLedger {
    pub(crate) async fn user_with_key(&self) -> Result<UserId> {
        let user = self.user();
        let mut conn = self.env.pool().acquire().await?;
        store::identity::users::provision(
            &mut conn,
            vec![NewUser::unnamed(user.get())],
            self.env.clock.now(),
        )
        .await?;
        self.keys.get_or_make(&mut conn, user).await?;
        Ok(user)
    }

    /// A call whose fields are sealed for the event of the id `sealed_for`.
    pub(crate) fn sealed_call(
        &self,
        user: UserId,
        id: &str,
        sealed_for: &str,
        address: &str,
    ) -> Event<'static> {
        let personal = Personal::of_client(Some(address.parse().expect("an address")), Some("curl/8".into()));
        let key = self.keys.cached(user).expect("it was just made");
        let sealed = key.seal_personal(sealed_for, &personal.to_json(), &OsEntropy).expect("random bytes");
        let mut called = call(Other);
        called.personal = Some(SealedJson::new(sealed.to_compact_json()).expect("a string"));
        reported(user, id, self.env.clock.now(), called)
    }
}

/// Builds before this one wrote an object, with longer names in what is sealed.
#[tokio::test]
async fn what_earlier_builds_have_sealed_gives_the_same_rows() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let alice = ledger.user_with_key().await?;
    let key = ledger.keys.cached(alice).expect("it was just made");
    let earlier = |id: &str| {
        let personal = br#"{"ip_address":"192.0.2.1","user_agent":"curl/8"}"#;
        let sealed = key.seal_personal(id, personal, &OsEntropy).expect("random bytes");
        let mut called = call(Other);
        called.personal = Some(SealedJson::new(sealed.to_json()).expect("an object"));
        reported(alice, id, ledger.env.clock.now(), called)
    };
    // A string of the right alphabet that is nothing sealed: the call counts, and its fields are left out.
    let mut broken = call(Other);
    broken.personal = Some(SealedJson::new("\"AgJrMQJkMQ\"").expect("a string"));
    let broken = reported(alice, "e3", ledger.env.clock.now(), broken);
    ledger.publish(&[earlier("e1"), ledger.sealed_call(alice, "e2", "e2", "192.0.2.1"), broken]).await;
    ledger.projected().await;
    let rows = "192.0.2.1 curl/8, 192.0.2.1 curl/8, - -";
    assert_eq!(ledger.text(ROWS).await, rows);
    assert_eq!(ledger.rebuild().run(&ledger.keys, Finish::Swap).await?.differences, []);
    assert_eq!(ledger.text(ROWS).await, rows);
    assert_eq!(ledger.number("SELECT count(*) FROM dead_letters").await, 0);
    worker.stop().await;
    Ok(())
}

/// Gathers what is logged.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("nobody panicked").clone()).expect("UTF-8")
    }
}

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("nobody panicked").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn sealed_fields_are_opened_for_their_event_alone_and_gone_with_the_key() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let (alice, bob) = (ledger.user_with_key().await?, ledger.user_with_key().await?);
    let stranger = ledger.sealed_call(alice, "e4", "e4", "192.0.2.4");
    ledger
        .publish(&[
            ledger.sealed_call(alice, "e1", "e1", "192.0.2.1"),
            ledger.sealed_call(bob, "e2", "e2", "2001:db8::2"),
            // Moved to another event, and to another user: neither opens, and neither call is lost.
            ledger.sealed_call(alice, "e3", "e1", "192.0.2.3"),
            Event { subject: Some(bob), ..stranger },
        ])
        .await;
    ledger.projected().await;
    assert_eq!(ledger.text(ROWS).await, "192.0.2.1 curl/8, 2001:db8::2 curl/8, - -, - -");
    assert_eq!(ledger.number("SELECT sum(total_calls)::bigint FROM monthly_usage_summary").await, 4);

    // Without the key the same log gives the same sums, and no address.
    assert_eq!(ledger.rebuild().run(&ledger.keys, Finish::DryRun).await?.differences, []);
    sqlx::query("DELETE FROM public.user_data_keys WHERE user_id = $1")
        .bind(alice.get())
        .execute(ledger.env.pool())
        .await?;
    ledger.keys.forget(&[alice]);
    ledger.rebuild().run(&ledger.keys, Finish::Swap).await?;
    assert_eq!(ledger.text(ROWS).await, "- -, 2001:db8::2 curl/8, - -, - -");
    assert_eq!(ledger.number("SELECT sum(total_calls)::bigint FROM monthly_usage_summary").await, 4);
    assert_eq!(ledger.verified().await?.differences, []);
    worker.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_running_worker_opens_nothing_more_with_a_destroyed_key() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let worker = ledger.spawn_worker();
    let alice = ledger.user_with_key().await?;
    ledger.publish(&[ledger.sealed_call(alice, "e1", "e1", "192.0.2.1")]).await;
    ledger.projected().await;
    assert_eq!(ledger.text(ROWS).await, "192.0.2.1 curl/8");
    let destroy = "WITH gone AS (DELETE FROM public.user_data_keys WHERE user_id = $1 RETURNING user_id)
                   SELECT pg_notify('ledger_users', user_id::text) FROM gone";
    sqlx::query(destroy).bind(alice.get()).execute(ledger.env.pool()).await?;
    // The worker hears of it beside its work.
    let sealed = AtomicU32::new(1);
    wait_until(BOUND, || async {
        let id = format!("e{}", sealed.fetch_add(1, Ordering::Relaxed) + 1);
        ledger.publish(&[ledger.sealed_call(alice, &id, &id, "192.0.2.1")]).await;
        ledger.projected().await;
        ledger.text(ROWS).await.ends_with("- -")
    })
    .await;
    worker.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_damaged_data_key_costs_its_users_fields_alone() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let (alice, bob) = (ledger.user_with_key().await?, ledger.user_with_key().await?);
    let damage = "UPDATE public.user_data_keys SET
                      sealed = jsonb_set(sealed::jsonb, '{tag}', to_jsonb(repeat('0', 64)))::json
                  WHERE user_id = $1";
    sqlx::query(damage).bind(alice.get()).execute(ledger.env.pool()).await?;
    ledger
        .publish(&[
            ledger.sealed_call(alice, "e1", "e1", "192.0.2.1"),
            ledger.sealed_call(bob, "e2", "e2", "192.0.2.2"),
            ledger.sealed_call(alice, "e3", "e3", "192.0.2.3"),
            // Moved to another event.
            ledger.sealed_call(bob, "e4", "e2", "192.0.2.4"),
        ])
        .await;
    // A worker with nothing in memory; what it cannot open costs no call and stops nobody.
    let worker = ledger.spawn_worker();
    ledger.projected().await;
    assert_eq!(ledger.text(ROWS).await, "- -, 192.0.2.2 curl/8, - -, - -");
    assert_eq!(ledger.number("SELECT sum(total_calls)::bigint FROM monthly_usage_summary").await, 4);
    worker.stop().await;

    // Every such call is counted, and one line tells of all.
    let keys = Keys::start(ledger.env.database_url(), &testkit::keys(), &ledger.env.clock).await?;
    let mut known = KnownDataKeys::of(&keys);
    known.look_up(&mut *ledger.env.pool().acquire().await?, &[alice, bob]).await?;
    let frame = ledger.log.frame_at(1).await?.expect("it was published");
    let parsed = Parsed::of(&[frame], &known);
    let metrics = PrometheusBuilder::new().build_recorder();
    let lines = Lines::default();
    let logging = tracing_subscriber::fmt().with_ansi(false).with_writer(lines.clone()).finish();
    tracing::subscriber::with_default(logging, || {
        metrics::with_local_recorder(&metrics, || parsed.report_unreadable());
    });
    let metrics = metrics.handle().render();
    assert!(metrics.contains("ledger_personal_unreadable_total 3\n"), "{metrics}");
    let told = lines.text();
    assert_eq!(told.lines().count(), 1, "{told}");
    for part in ["calls=3 users=2", "seq=1 idx=0", &alice.to_string()] {
        assert!(told.contains(part), "{part} is not in {told}");
    }
    Ok(())
}

#[tokio::test]
async fn a_root_key_that_is_not_configured_stops_the_projector_and_is_named() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let (alice, bob) = (ledger.user_with_key().await?, ledger.user_with_key().await?);
    ledger.publish(&[ledger.sealed_call(alice, "e1", "e1", "192.0.2.1")]).await;
    ledger.publish(&[ledger.sealed_call(bob, "e2", "e2", "192.0.2.2")]).await;
    // Another key wraps bob's data key now, and alice's is still under the old one, which the worker does not have.
    let new = "7".repeat(64);
    let config =
        |previous: String| KeyConfig { key: new.clone().into(), kid: "k2".into(), previous: previous.into() };
    let both = config(format!("k1:{}", testkit::ENCRYPTION_KEY));
    let mut conn = ledger.env.pool().acquire().await?;
    let ring = data_keys::ring(&mut conn, &both, ledger.env.clock.now()).await?;
    let mut alices = store::identity::wrapped_keys::of_users(&mut conn, &[alice]).await?;
    data_keys::rewrap_page(&mut conn, &ring, None).await?;
    let old = alices.pop().expect("she has one");
    store::identity::wrapped_keys::replace(&mut conn, &[(old, "k2".to_owned())]).await?;

    let shutdown = CancellationToken::new();
    let mut without = ledger.env.worker_config();
    without.keys = config(String::new());
    let worker = tokio::spawn(ledger_worker::run(without.clone(), shutdown.clone()));
    wait_until(BOUND, || async {
        ledger.text(STOPPED).await.contains("the encryption key k1 is not configured")
    })
    .await;
    assert_eq!(ledger.text(ROWS).await, "", "nothing is projected with a field left out for want of a key");
    shutdown.cancel();
    worker.await??;

    without.keys = both;
    let shutdown = CancellationToken::new();
    let worker = tokio::spawn(ledger_worker::run(without, shutdown.clone()));
    ledger.projected().await;
    assert_eq!(ledger.text(ROWS).await, "192.0.2.1 curl/8, 192.0.2.2 curl/8");
    shutdown.cancel();
    worker.await??;
    Ok(())
}

#[tokio::test]
async fn a_log_of_a_build_before_the_first_release_is_refused() -> Result<()> {
    let ledger = TestLedger::start().await?;
    let json = String::from_utf8(encoded(&ledger.own_call(ledger.user(), call(Other))).0.to_vec())?;
    let old = json.replacen("\"units\"", "\"ip_address\":\"192.0.2.1\",\"units\"", 1);
    ledger.publisher.publish_all(vec![EncodedEvent::from(old.into_bytes())]).await?;
    let worker = ledger.spawn_worker();
    wait_until(BOUND, || async { ledger.text(STOPPED).await.contains("start with a new log") }).await;
    assert_eq!(ledger.number("SELECT count(*) FROM dead_letters").await, 0);
    // The count and the rebuild say the same, where somebody moved the checkpoint past it.
    worker.stop().await;
    let frame = ledger.log.frame_at(1).await?.expect("it was published");
    sqlx::query("UPDATE projection_checkpoint SET seq = 1, frame_id = $1, stream_created = $2")
        .bind(frame.msg_id)
        .bind(ledger.log.state().await?.created)
        .execute(ledger.env.pool())
        .await?;
    let keys: &Keys = &ledger.keys;
    for refused in [ledger.rebuild().run(keys, Finish::DryRun).await, ledger.rebuild().summaries(true).await]
    {
        assert!(matches!(refused, Err(RebuildError::Batch(_))), "{refused:?}");
    }
    Ok(())
}
