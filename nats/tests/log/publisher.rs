//! Promises of the publisher, kept through lost acknowledgements, frozen, killed and restored servers.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use events::MAX_EVENT_BYTES;
use futures_util::future::join_all;
use nats::{
    Checkpoint, EncodedEvent, Lease, Log, MAX_FRAME_BYTES, MAX_FRAME_EVENTS, Position, PublishError,
    PublisherConfig, PublisherState, Reader, ReaderConfig, Stop, Verdict, check_start,
};
use tokio::time::{Instant, timeout};

use crate::proxy::Proxy;
use crate::server::{Server, wait_until};
use crate::{applied, continuity, event, events, large_event, names, publisher, read_all};

#[tokio::test]
async fn concurrent_events_share_frames_and_each_gets_its_own_place() {
    let server = Server::start().await;
    let log = server.log("SHARE").await;
    let publisher = publisher(&log, PublisherConfig::default()).await;
    let positions = join_all(events(0..2_000).into_iter().map(|event| publisher.publish(event))).await;

    let frames = read_all(&log).await;
    for (name, position) in positions.into_iter().enumerate() {
        let Position { seq, idx } = position.expect("recorded");
        assert_eq!(names(&frames[usize::try_from(seq).unwrap() - 1])[usize::from(idx)], name.to_string());
    }
    assert_eq!(applied(&log, &frames).len(), 2_000);
    assert!(frames.len() < 100, "{} frames for 2,000 concurrent events", frames.len());
    assert_eq!(publisher.last_acked(), frames.len() as u64);
}

#[tokio::test]
async fn a_list_keeps_its_order_over_as_many_frames_as_it_needs() {
    let server = Server::start().await;
    let log = server.log("LIST").await;
    let publisher = publisher(&log, PublisherConfig::default()).await;
    let positions = publisher.publish_all(events(0..2_500)).await.expect("recorded");
    assert!(positions.is_sorted());
    assert_eq!(positions.len(), 2_500);

    let large: Vec<EncodedEvent> = (0..100).map(|_| large_event(MAX_EVENT_BYTES)).collect();
    publisher.publish_all(large).await.expect("recorded");
    assert_eq!(publisher.publish_all(vec![]).await, Ok(vec![]));

    let frames = read_all(&log).await;
    for frame in &frames {
        assert!(frame.count() <= MAX_FRAME_EVENTS && frame.body.len() <= MAX_FRAME_BYTES);
    }
    let found = applied(&log, &frames);
    let expected: Vec<String> = (0..2_500).map(|name| name.to_string()).collect();
    assert_eq!(found[..2_500], expected);
    assert_eq!(found.len(), 2_600);
}

#[tokio::test]
async fn an_event_too_large_or_beyond_the_queue_is_refused_and_not_recorded() {
    let server = Server::start().await;
    let log = server.log("FULL").await;
    let config = PublisherConfig { queue_events: 10, ..PublisherConfig::default() };
    let publisher = publisher(&log, config).await;
    let bytes = MAX_EVENT_BYTES + 1;
    assert_eq!(publisher.publish(large_event(bytes)).await, Err(PublishError::TooLarge { bytes }));
    // Many at once leave half the room to single ones.
    assert_eq!(publisher.publish_all(events(0..6)).await, Err(PublishError::QueueFull));

    server.freeze();
    // One is in flight, ten are queued behind it; nothing else fits.
    let first = tokio::spawn(clone_and_publish(&publisher, "first"));
    wait_until("the first is in flight", async || publisher.offer(&event("second"))).await;
    wait_until("the queue is full", async || !publisher.offer(&event("more"))).await;
    assert_eq!(publisher.publish(event("late")).await, Err(PublishError::QueueFull));
    assert!(!PublishError::QueueFull.may_be_recorded());
    server.thaw();
    assert!(first.await.unwrap().is_ok());
    publisher.close().await;

    let found = applied(&log, &read_all(&log).await);
    assert!(!found.contains(&"late".to_owned()), "{found:?}");
    assert!((11..=12).contains(&found.len()), "{found:?}");
}

#[tokio::test]
async fn a_lost_acknowledgement_is_asked_for_again_and_counts_once() {
    let server = Server::start().await;
    let direct = server.log("LOST").await;
    let proxy = Proxy::start(server.address()).await;
    let mut connection = server.connection("LOST");
    connection.nats_url = format!("nats://{}", proxy.address);
    let log = nats::connect(&connection).await.expect("connecting");
    let config =
        PublisherConfig { attempt_timeout: Duration::from_millis(300), ..PublisherConfig::default() };
    let publisher = publisher(&log, config).await;
    publisher.publish(event("before")).await.expect("recorded");

    for (seq, cut) in [(2, false), (3, true)] {
        proxy.swallow_answers(true);
        let waiting = tokio::spawn(clone_and_publish(&publisher, &seq.to_string()));
        wait_until("it is stored", async || direct.state().await.is_ok_and(|state| state.last_seq == seq))
            .await;
        assert!(!waiting.is_finished(), "it was answered without an acknowledgement");
        proxy.swallow_answers(false);
        if cut {
            proxy.cut();
        }
        assert_eq!(waiting.await.unwrap(), Ok(Position { seq, idx: 0 }));
    }
    publisher.publish(event("after")).await.expect("recorded");
    assert_eq!(applied(&direct, &read_all(&direct).await), ["before", "2", "3", "after"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_under_load_loses_nothing_acknowledged_and_doubles_nothing() {
    let mut server = Server::start().await;
    let log = server.log("KILLED").await;
    let publisher = publisher(&log, PublisherConfig::default()).await;
    let callers: Vec<_> = (0..32)
        .map(|caller| {
            let publisher = publisher.clone();
            tokio::spawn(async move {
                let mut acked = Vec::new();
                for number in 0..150 {
                    let name = format!("{caller}/{number}");
                    publisher.publish(event(&name)).await.expect("retried until it is recorded");
                    acked.push(name);
                }
                acked
            })
        })
        .collect();
    let follower = tokio::spawn(follow(log.clone(), 32 * 150));
    for frames in [5, 40, 90] {
        wait_until("some frames", async || publisher.last_acked() >= frames).await;
        server.kill();
        server.launch().await;
    }
    let mut acked = HashSet::new();
    for caller in callers {
        acked.extend(caller.await.unwrap());
    }
    let found = applied(&log, &read_all(&log).await);
    assert_eq!(found.len(), 32 * 150);
    assert_eq!(found.into_iter().collect::<HashSet<_>>(), acked);
    // One reader saw all of it live, over every restart, without a false alarm.
    let seen = timeout(Duration::from_secs(30), follower).await.expect("the reader hangs").unwrap();
    assert_eq!(seen.into_iter().collect::<HashSet<_>>(), acked);
}

/// Reads along until `count` events were applied.
async fn follow(log: Log, count: usize) -> Vec<String> {
    let mut reader = Reader::open(&log, 1, ReaderConfig::default());
    let mut continuity = continuity(&log);
    let mut found = Vec::new();
    while found.len() < count {
        let Ok(frames) = reader.next_batch(500).await else { continue };
        for frame in frames {
            match continuity.check(&frame) {
                Verdict::Apply(_) => found.extend(names(&frame)),
                other => panic!("a false alarm: {other:?}"),
            }
        }
    }
    found
}

#[tokio::test]
async fn a_frame_of_unknown_fate_retires_its_producer_and_raises_no_alarm() {
    let server = Server::start().await;
    let log = server.log("RETIRE").await;
    let config = PublisherConfig {
        retry_for: Duration::from_millis(900),
        attempt_timeout: Duration::from_millis(200),
        stall_after: Duration::from_millis(300),
        ..PublisherConfig::default()
    };
    let publisher = publisher(&log, config).await;
    publisher.publish(event("before")).await.expect("recorded");
    let old = read_all(&log).await[0].header.clone().expect("whole").producer;

    server.freeze();
    let started = Instant::now();
    let lost = tokio::spawn(clone_and_publish(&publisher, "lost"));
    // What is queued behind it hears soon, and for certain, that it was not recorded.
    wait_until("the log counts as away", async || publisher.state() == PublisherState::Stalled).await;
    assert_eq!(publisher.publish(event("refused")).await, Err(PublishError::Unavailable));
    assert!(!publisher.offer(&event("refused")));
    assert_eq!(lost.await.unwrap(), Err(PublishError::Unknown));
    assert!(PublishError::Unknown.may_be_recorded());
    assert!(started.elapsed() >= Duration::from_millis(900), "given up after {:?}", started.elapsed());
    server.thaw();

    wait_until("it writes again", async || publisher.publish(event("after")).await.is_ok()).await;
    let frames = read_all(&log).await;
    let found = applied(&log, &frames);
    // The frozen server may have had the frame in its socket: that is what "unknown" means.
    let found: Vec<&str> = found.iter().map(String::as_str).filter(|name| *name != "lost").collect();
    assert_eq!(found, ["before", "after"]);
    let newest = frames.last().unwrap().header.clone().expect("whole");
    assert_ne!(newest.producer, old, "the producer went on after a lost frame");
    assert_eq!(newest.n, 1);
}

#[tokio::test]
async fn a_short_stall_refuses_only_what_was_never_sent() {
    let server = Server::start().await;
    let log = server.log("STALL").await;
    let config = PublisherConfig { stall_after: Duration::from_millis(200), ..PublisherConfig::default() };
    let publisher = publisher(&log, config).await;
    publisher.publish(event("before")).await.expect("recorded");
    server.freeze();
    let sent = tokio::spawn(clone_and_publish(&publisher, "sent"));
    wait_until("the log counts as away", async || publisher.state() == PublisherState::Stalled).await;
    assert!(!sent.is_finished());
    server.thaw();
    assert_eq!(sent.await.unwrap(), Ok(Position { seq: 2, idx: 0 }));
    publisher.publish(event("after")).await.expect("recorded");
    assert_eq!(applied(&log, &read_all(&log).await), ["before", "sent", "after"]);
}

/// What waits behind a frame while the term ends is never sent, as if its process had been frozen.
#[tokio::test]
async fn in_a_term_that_is_over_nothing_is_sent_for_the_first_time() {
    let server = Server::start().await;
    let log = server.log("LEASE").await;
    let publisher = publisher(&log, PublisherConfig::default()).await;
    let (lease, later) = (Lease::default(), std::time::Instant::now() + Duration::from_mins(1));
    lease.begin(later);
    let term = lease.term().expect("it holds");
    publisher.submit(&event("before"), Some(&term)).expect("room").await.expect("recorded");
    server.freeze();
    let sent = publisher.submit(&event("sent"), Some(&term)).expect("room");
    // Its frame is taken by the task of this same thread before that waits for anything.
    tokio::task::yield_now().await;
    tokio::task::yield_now().await;
    let behind = publisher.submit(&event("behind"), Some(&term)).expect("room");
    // Lost and won again: somebody else may have written in between.
    lease.begin(later);
    server.thaw();
    assert_eq!(sent.await.map(|position| position.seq), Ok(2));
    assert_eq!(behind.await, Err(PublishError::Unavailable));
    // Nothing of it shows: neither in the producer's counter nor in what the publisher takes.
    let late = publisher.submit(&event("late"), Some(&term)).expect("room").await;
    assert_eq!(late, Err(PublishError::Unavailable));
    let anew = lease.term().expect("it holds");
    publisher.submit(&event("anew"), Some(&anew)).expect("room").await.expect("recorded");
    publisher.publish(event("after")).await.expect("recorded");
    assert_eq!(publisher.state(), PublisherState::Ready);
    assert_eq!(applied(&log, &read_all(&log).await), ["before", "sent", "anew", "after"]);
}

/// A frame of which nobody knows whether it came in is tried again while its term lasts, and not a moment longer:
/// whoever decides next reads the log's end and counts on it.
#[tokio::test]
async fn a_frame_is_not_sent_again_when_its_term_is_over() {
    let mut server = Server::start().await;
    let log = server.log("TERM").await;
    // One attempt, which has long left this process when the server ends.
    let config = PublisherConfig {
        stall_after: Duration::from_millis(500),
        attempt_timeout: Duration::from_secs(5),
        ..PublisherConfig::default()
    };
    let publisher = publisher(&log, config).await;
    let lease = Lease::default();
    lease.begin(std::time::Instant::now() + Duration::from_mins(1));
    let term = lease.term().expect("it holds");
    publisher.submit(&event("before"), Some(&term)).expect("room").await.expect("recorded");
    server.freeze();
    let sent = publisher.submit(&event("sent"), Some(&term)).expect("room");
    wait_until("the log counts as away", async || publisher.state() == PublisherState::Stalled).await;
    // It stands in the server's socket, and goes with the server.
    server.kill();
    lease.renew(std::time::Instant::now());
    server.launch().await;
    assert_eq!(sent.await, Err(PublishError::Unknown));
    wait_until("a new producer writes", async || publisher.state() == PublisherState::Ready).await;
    publisher.publish(event("after")).await.expect("recorded");
    assert_eq!(applied(&log, &read_all(&log).await), ["before", "after"]);
}

#[tokio::test]
async fn a_log_that_went_backwards_is_written_to_no_more() {
    let mut server = Server::start().await;
    let log = server.log("BACK").await;
    let publisher = publisher(&log, PublisherConfig::default()).await;
    for name in ["a", "b"] {
        publisher.publish(event(name)).await.expect("recorded");
    }
    server.kill();
    let (store, backup) = (server.store_dir(), tempfile::tempdir().expect("a temporary directory"));
    copy_dir(&store, backup.path());
    server.launch().await;
    for name in ["c", "d"] {
        publisher.publish(event(name)).await.expect("recorded");
    }
    let at_c = log.frame_id_at(3).await.expect("readable").expect("there");
    let at_d = log.frame_id_at(4).await.expect("readable").expect("there");
    let state = log.state().await.expect("the stream's state");
    let checkpoint =
        |seq, id: &str| Checkpoint { seq, frame_id: id.to_owned(), stream_created: Some(state.created) };
    assert_eq!(check_start(&checkpoint(4, &at_d), &state, Some(&at_d), &[]), Ok(()));

    server.kill();
    fs::remove_dir_all(&store).expect("removing the store");
    copy_dir(backup.path(), &store);
    server.launch().await;
    assert_eq!(publisher.publish(event("e")).await, Err(PublishError::LogWentBackwards));
    assert_eq!(publisher.publish(event("f")).await, Err(PublishError::LogWentBackwards));
    assert_eq!(publisher.state(), PublisherState::LogWentBackwards);

    // The projector finds out as well: the tail is gone, and sequence 3 is another frame now.
    let state = log.state().await.expect("the stream's state");
    let truncated = check_start(&checkpoint(4, &at_d), &state, None, &[]);
    assert!(
        matches!(truncated, Err(Stop::StreamTruncated { checkpoint: 4, last_seq: 3, .. })),
        "{truncated:?}"
    );
    let id = log.frame_id_at(3).await.expect("readable");
    let other = check_start(&checkpoint(3, &at_c), &state, id.as_deref(), &[]);
    assert!(matches!(other, Err(Stop::OtherFrame { seq: 3, .. })), "{other:?}");
}

#[tokio::test]
async fn closing_sends_what_is_queued_and_takes_nothing_more() {
    let server = Server::start().await;
    let log = server.log("CLOSE").await;
    let publisher = publisher(&log, PublisherConfig::default()).await;
    assert!(events(0..3_000).iter().all(|event| publisher.offer(event)));
    publisher.close().await;
    assert_eq!(publisher.publish(event("late")).await, Err(PublishError::Closed));
    assert!(!publisher.offer(&event("late")));
    assert_eq!(applied(&log, &read_all(&log).await).len(), 3_000);
}

#[tokio::test]
async fn the_last_clone_dropped_still_sends_what_is_queued() {
    let server = Server::start().await;
    let log = server.log("DROP").await;
    let publisher = publisher(&log, PublisherConfig::default()).await;
    assert!(publisher.offer(&event("only")));
    drop(publisher);
    wait_until("it is stored", async || log.state().await.is_ok_and(|state| state.last_seq == 1)).await;
}

#[tokio::test]
async fn a_frame_waits_for_a_stream_that_comes_late() {
    let server = Server::start().await;
    let log = nats::connect(&server.connection("LATE")).await.expect("connecting");
    let publisher = publisher(&log, PublisherConfig::default()).await;
    let waiting = tokio::spawn(clone_and_publish(&publisher, "early"));
    let too_soon = timeout(Duration::from_millis(300), async {
        while !waiting.is_finished() {
            tokio::task::yield_now().await;
        }
    });
    assert!(too_soon.await.is_err(), "recorded without a stream");
    log.ensure_stream(1).await.expect("making the stream");
    assert_eq!(waiting.await.unwrap(), Ok(Position { seq: 1, idx: 0 }));
}

fn clone_and_publish(
    publisher: &nats::Publisher,
    name: &str,
) -> impl Future<Output = Result<Position, PublishError>> + use<> {
    let (publisher, event) = (publisher.clone(), event(name));
    async move { publisher.publish(event).await }
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("making a directory");
    for entry in fs::read_dir(from).expect("reading a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("its type").is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copying a file");
        }
    }
}
