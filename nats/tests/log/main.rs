//! The log against a real nats-server: what is acknowledged is there, once, in order, and what is not there shows.

mod damage;
mod proxy;
mod publisher;
mod reader;
mod server;
mod verify;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nats::{
    Continuity, EncodedEvent, Log, Publisher, PublisherConfig, RawFrame, ReadError, Reader, ReaderConfig,
    Verdict,
};
use tokio::time::Instant;
use uuid::Uuid;

/// An event that can be told from all others.
fn event(name: &str) -> EncodedEvent {
    EncodedEvent::from(format!(r#"{{"id":"{name}"}}"#).into_bytes())
}

fn events(names: std::ops::Range<usize>) -> Vec<EncodedEvent> {
    names.map(|name| event(&name.to_string())).collect()
}

/// An event of exactly `bytes` bytes.
fn large_event(bytes: usize) -> EncodedEvent {
    let empty = event("").0.len();
    event(&"x".repeat(bytes - empty))
}

/// The names of a frame's events.
fn names(frame: &RawFrame) -> Vec<String> {
    let events: Vec<serde_json::Value> = serde_json::from_slice(&frame.body).expect("a JSON array");
    events.iter().map(|event| event["id"].as_str().expect("an id").to_owned()).collect()
}

/// New ids for producers, which show in a failure's message in the order they were made.
fn producer_id() -> Uuid {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    Uuid::from_u128(u128::from(NEXT.fetch_add(1, Ordering::Relaxed)) << 64 | u128::from(std::process::id()))
}

async fn publisher(log: &Log, config: PublisherConfig) -> Publisher {
    Publisher::start(log, config, producer_id).await.expect("starting a publisher")
}

fn continuity(log: &Log) -> Continuity {
    Continuity::new(log.stream().clone(), 0, HashMap::new(), Vec::new())
}

/// Reads everything up to the stream's last frame.
async fn read_all(log: &Log) -> Vec<RawFrame> {
    let last_seq = log.state().await.expect("the stream's state").last_seq;
    let mut reader = Reader::open(log, 1, ReaderConfig::default());
    read_to(&mut reader, last_seq).await
}

async fn read_to(reader: &mut Reader, last_seq: u64) -> Vec<RawFrame> {
    let end = Instant::now() + Duration::from_secs(30);
    let mut frames: Vec<RawFrame> = Vec::new();
    while frames.last().map_or(0, |frame| frame.seq) < last_seq {
        assert!(Instant::now() < end, "the reader hangs at {:?} of {last_seq}", frames.last().map(|f| f.seq));
        match reader.next_batch(20_000).await {
            Ok(batch) => frames.extend(batch),
            Err(ReadError::Reconnected | ReadError::Unavailable { .. }) => {}
        }
    }
    frames
}

/// The names of all events, after a proof that the log is whole.
fn applied(log: &Log, frames: &[RawFrame]) -> Vec<String> {
    let mut continuity = continuity(log);
    let mut applied = Vec::new();
    for frame in frames {
        match continuity.check(frame) {
            Verdict::Apply(header) => {
                assert_eq!(names(frame).len(), header.count as usize);
                applied.extend(names(frame));
            }
            Verdict::SkipDuplicate => {}
            other => panic!("a false alarm: {other:?}"),
        }
    }
    applied
}
