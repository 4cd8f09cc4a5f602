//! Rate at which one core writes and reads `api_called` events:
//! `cargo run --release -p events --example rate`.

use std::hint::black_box;
use std::time::Instant;

use chrono::DateTime;
use events::{ApiCalled, Body, Event, SealedJson, decode_batch, encode_batch};
use ledger::{Category, Clock, IdSource, UserId};

const EVENTS_PER_FRAME: usize = 1_000;
const FRAMES: usize = 1_000;
/// As long as a sealed address and user agent are.
const SEALED: &str = concat!(
    r#""AgJrMQJkMVB7VTsQaxuZY7ev-zTl7RSZ-X1FXV1isk86lCoavD-ohj_AziA39S8JvXhbIrgA1IfFaOA3pfpQsbyRHo7hmnfE3Twi"#,
    r#"vOmTL4b92KIWr-FoHIlzf62mhZ6RBH7s5xHsFtpi1sy5_Q3ixR8TI0c1DYw""#
);

fn main() {
    let ids = IdSource::new(Clock::system());
    let events: Vec<Event<'static>> = (0..EVENTS_PER_FRAME).map(|index| call(index, &ids)).collect();
    let mut body = Vec::new();
    encode_batch(&events, &mut body);
    println!("bytes/event   {:>10}", body.len() / EVENTS_PER_FRAME);

    rate("id/s", || {
        for _ in 0..EVENTS_PER_FRAME {
            black_box(ids.event_id());
        }
    });
    rate("encode/s", || {
        body.clear();
        encode_batch(black_box(&events), &mut body);
    });
    let plain = body.clone();
    rate("decode/s", || {
        black_box(decode_batch(black_box(&plain)).expect("own batch"));
    });
    let mut international = plain.clone();
    international.truncate(international.len() - 1);
    let mut other = events[0].clone();
    other.id = "größe".into();
    international.push(b',');
    events::encode(&other, &mut international);
    international.push(b']');
    rate("not ASCII/s", || {
        black_box(decode_batch(black_box(&international)).expect("own batch"));
    });
    let spaced = String::from_utf8(plain).expect("JSON").replace("\"type\":", "\"type\": ");
    rate("by serde/s", || {
        black_box(decode_batch(black_box(spaced.as_bytes())).expect("own batch"));
    });
}

fn call(index: usize, ids: &IdSource) -> Event<'static> {
    let mut call = ApiCalled::new("/api/analyze/pull-requests", Category::Analyze);
    call.method = Some("POST".into());
    call.personal = Some(SealedJson::new(SEALED).expect("a string"));
    if index.is_multiple_of(2) {
        call.status_code = Some(200);
        call.response_time_ms = Some(41);
        call.response_size = Some(18_220);
    }
    let time = DateTime::from_timestamp(1_794_000_000, 123_456_000).expect("in range");
    Event::by_api(ids.event_id(), UserId::new(ids.random_id()), time, Body::ApiCalled(call))
}

fn rate(what: &str, mut frame: impl FnMut()) {
    let start = Instant::now();
    for _ in 0..FRAMES {
        frame();
    }
    let per_second = (EVENTS_PER_FRAME * FRAMES) as u128 * 1_000_000 / start.elapsed().as_micros().max(1);
    println!("{what:<13} {per_second:>10}");
}
