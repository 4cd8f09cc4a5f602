//! The reader never hangs, never skips, and gives every frame once, in order.

use std::time::Duration;

use events::MAX_EVENT_BYTES;
use futures_util::TryStreamExt as _;
use futures_util::future::join_all;
use nats::{EncodedEvent, MAX_FRAME_BYTES, PublisherConfig, ReadError, Reader, ReaderConfig};
use tokio::time::{Instant, timeout};

use crate::server::Server;
use crate::{applied, continuity, event, events, large_event, names, publisher, read_all, read_to};

fn quick() -> ReaderConfig {
    ReaderConfig {
        idle: Duration::from_millis(200),
        heartbeat: Duration::from_millis(100),
        ..ReaderConfig::default()
    }
}

#[tokio::test]
async fn batches_hold_what_is_there_up_to_the_bound() {
    let server = Server::start().await;
    let log = server.log("BATCH").await;
    let publisher = publisher(&log, PublisherConfig::default()).await;
    publisher.publish_all(events(0..3_500)).await.expect("recorded");

    let mut reader = Reader::open(&log, 1, quick());
    let mut seen = Vec::new();
    while seen.len() < 3_500 {
        let batch = reader.next_batch(1_500).await.expect("frames");
        let count: usize = batch.iter().map(nats::RawFrame::count).sum();
        assert!(count <= 1_500 && !batch.is_empty(), "{count} events");
        seen.extend(batch.iter().flat_map(names));
    }
    assert_eq!(seen, (0..3_500).map(|name| name.to_string()).collect::<Vec<_>>());
    // A bound below one frame still gives that frame.
    let frames = Reader::open(&log, 2, quick()).next_batch(1).await.expect("a frame");
    assert_eq!(frames.iter().map(|frame| frame.seq).collect::<Vec<_>>(), [2]);
}

#[tokio::test]
async fn an_end_is_an_empty_batch_in_time_and_live_frames_come_at_once() {
    let server = Server::start().await;
    let log = server.log("LIVE").await;
    let publisher = publisher(&log, PublisherConfig::default()).await;
    let mut reader = Reader::open(&log, 1, quick());
    // Longer than any pull lives, to see it renewed.
    let end = Instant::now() + Duration::from_secs(8);
    let mut seq = 0;
    while Instant::now() < end {
        let started = Instant::now();
        assert!(reader.next_batch(100).await.expect("no failure").is_empty());
        let waited = started.elapsed();
        assert!(waited >= Duration::from_millis(190) && waited < Duration::from_secs(2), "{waited:?}");

        let (written, read) = tokio::join!(publisher.publish(event("x")), reader.next_batch(100));
        written.expect("recorded");
        seq += 1;
        assert_eq!(read.expect("no failure").iter().map(|frame| frame.seq).collect::<Vec<_>>(), [seq]);
    }
}

#[tokio::test]
async fn two_producers_interleaved_raise_no_alarm() {
    let server = Server::start().await;
    let log = server.log("TWO").await;
    let publishers = [
        publisher(&log, PublisherConfig::default()).await,
        publisher(&log, PublisherConfig::default()).await,
    ];
    join_all(publishers.iter().map(async |publisher| {
        for name in 0..50 {
            publisher.publish(event(&name.to_string())).await.expect("recorded");
        }
    }))
    .await;
    let frames = read_all(&log).await;
    assert_eq!(applied(&log, &frames).len(), 100);
    let producers: Vec<_> =
        frames.iter().map(|frame| frame.header.clone().expect("whole").producer).collect();
    let turns = producers.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert!(turns > 10, "they were not interleaved: {turns}");
}

#[tokio::test]
async fn reading_goes_on_after_a_server_restart_once_the_caller_was_told() {
    let mut server = Server::start().await;
    let log = server.log("RESTART").await;
    let publisher = publisher(&log, PublisherConfig::default()).await;
    publisher.publish(event("a")).await.expect("recorded");
    let mut reader = Reader::open(&log, 1, quick());
    assert_eq!(reader.next_batch(10).await.expect("a frame").len(), 1);

    server.kill();
    // Without a server it says so, in bounded time, again and again.
    let away = timeout(Duration::from_secs(15), async {
        loop {
            match reader.next_batch(10).await {
                Ok(frames) => assert!(frames.is_empty()),
                Err(error) => break error,
            }
        }
    });
    let away = away.await.expect("it hangs without a server");
    assert!(matches!(away, ReadError::Unavailable { .. }), "{away:?}");

    server.launch().await;
    publisher.publish(event("b")).await.expect("recorded");
    let told = timeout(Duration::from_secs(15), async {
        loop {
            match reader.next_batch(10).await {
                Err(ReadError::Reconnected) => break,
                Err(ReadError::Unavailable { .. }) => {}
                Ok(frames) => {
                    assert!(frames.is_empty(), "frames before the caller could compare its checkpoint");
                }
            }
        }
    });
    told.await.expect("it hangs after the restart");
    let frames = read_to(&mut reader, 2).await;
    assert_eq!(frames.iter().flat_map(names).collect::<Vec<_>>(), ["b"]);
}

#[tokio::test]
async fn a_consumer_that_vanishes_is_made_anew_without_a_word() {
    let server = Server::start().await;
    let log = server.log("VANISH").await;
    let publisher = publisher(&log, PublisherConfig::default()).await;
    publisher.publish(event("a")).await.expect("recorded");
    let mut reader = Reader::open(&log, 1, quick());
    assert_eq!(reader.next_batch(10).await.expect("a frame").len(), 1);

    let jetstream = async_nats::jetstream::new(server.raw_client().await);
    let stream = jetstream.get_stream("VANISH").await.expect("the stream");
    let consumers: Vec<String> = stream.consumer_names().try_collect().await.expect("the consumers");
    assert_eq!(consumers.len(), 1, "one reader, one consumer");
    stream.delete_consumer(&consumers[0]).await.expect("deleting it");
    publisher.publish(event("b")).await.expect("recorded");
    assert_eq!(read_to(&mut reader, 2).await.iter().flat_map(names).collect::<Vec<_>>(), ["b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_frames_do_not_stall_it() {
    let server = Server::start().await;
    let log = server.log("LARGE").await;
    let publisher =
        publisher(&log, PublisherConfig { queue_events: 10_000, queue_bytes: 1 << 30, ..Default::default() })
            .await;
    // More than the 64 MiB at which the server drops a slow client.
    let large: Vec<EncodedEvent> = (0..4_800).map(|_| large_event(MAX_EVENT_BYTES)).collect();
    publisher.publish_all(large).await.expect("recorded");
    let state = log.state().await.expect("the stream's state");
    assert!(state.bytes > 72 << 20, "{} bytes", state.bytes);
    assert!(state.frames < 200);

    let mut reader = Reader::open(&log, 1, ReaderConfig::default());
    let mut continuity = continuity(&log);
    let mut events = 0;
    while continuity.last_seq() < state.last_seq {
        let batch = timeout(Duration::from_secs(10), reader.next_batch(20_000)).await;
        for frame in batch.expect("it stalls").expect("no failure") {
            assert!(frame.body.len() > MAX_FRAME_BYTES / 2 || frame.seq == state.last_seq);
            assert!(matches!(continuity.check(&frame), nats::Verdict::Apply(_)));
            events += frame.count();
        }
    }
    assert_eq!(events, 4_800);
}

#[tokio::test]
async fn single_frames_are_found_by_their_sequence() {
    let server = Server::start().await;
    let log = server.log("ONE").await;
    let publisher = publisher(&log, PublisherConfig::default()).await;
    publisher.publish(event("a")).await.expect("recorded");
    let frame = log.frame_at(1).await.expect("readable").expect("there");
    let read = read_all(&log).await;
    assert_eq!(
        (&frame.msg_id, &frame.header, &frame.body),
        (&read[0].msg_id, &read[0].header, &read[0].body)
    );
    assert_eq!((frame.seq, frame.time), (read[0].seq, read[0].time));
    assert!(log.frame_at(0).await.expect("readable").is_none());
    assert_eq!(log.frame_id_at(2).await.expect("readable"), None);
}
