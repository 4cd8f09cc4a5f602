//! Rate at which `rebuild --only summaries` counts: two million calls in frames of a thousand, on servers of its own.
//! `cargo run --release -p ledger-worker --example recount_rate`

use std::time::Instant;

use anyhow::Result;
use events::{ApiCalled, Body, Event};
use ledger::{Category, UserId};
use ledger_worker::rebuild::{Rebuild, Room};
use nats::{EncodedEvent, Publisher, PublisherConfig};
use testkit::Env;
use uuid::Uuid;

const EVENTS: u32 = 2_000_000;
const FRAME: u32 = 1_000;

#[tokio::main]
async fn main() -> Result<()> {
    let env = Env::start().await?;
    let log = env.log().await?;
    let ids = env.ids.clone();
    let publisher = Publisher::start(&log, PublisherConfig::default(), move || ids.random_id()).await?;
    for first in (0..EVENTS).step_by(FRAME as usize) {
        let events = (first..first + FRAME).map(|n| call(&env, n)).collect();
        publisher.publish_all(events).await?;
    }
    let last = publisher.last_acked();
    let frame_id = log.frame_id_at(last).await?;
    // The rows are not needed to count: the checkpoint says how far to read.
    sqlx::query("UPDATE projection_checkpoint SET seq = $1, frame_id = $2, events = $3")
        .bind(i64::try_from(last)?)
        .bind(frame_id)
        .bind(i64::from(EVENTS))
        .execute(env.pool())
        .await?;
    for _ in 0..3 {
        let start = Instant::now();
        let rebuild =
            Rebuild { database_url: env.database_url(), log: &log, progress: &|_| {}, room: Room::default() };
        let outcome = rebuild.summaries(true).await?;
        let seconds = start.elapsed().as_secs_f64();
        println!("{} events in {seconds:.2} s: {:.0} a second", outcome.events, f64::from(EVENTS) / seconds);
    }
    Ok(())
}

fn call(env: &Env, n: u32) -> EncodedEvent {
    let mut called = ApiCalled::new(format!("/api/items/{}", n % 500), Category::Other);
    (called.status_code, called.response_time_ms) = (Some(200), Some(n % 90));
    let user = UserId::new(Uuid::from_u128(0xbe9c << 64 | u128::from(n % 1_000)));
    let event = Event::by_api(env.ids.event_id(), user, env.clock.now(), Body::ApiCalled(called));
    EncodedEvent::of(&event)
}
