//! Frames that are missing, broken or replaced never pass unseen.

use std::fs;
use std::time::Duration;

use bytes::Bytes;
use events::MAX_EVENT_BYTES;
use nats::{
    Checkpoint, Continuity, FrameHeader, Log, PublishError, PublisherConfig, RawFrame, Reader, ReaderConfig,
    Stop, Verdict, check_start,
};

use crate::server::Server;
use crate::{continuity, event, large_event, names, producer_id, publisher, read_all};

#[tokio::test]
async fn a_frame_with_a_wrong_checksum_names_stream_sequence_and_producer() {
    let server = Server::start().await;
    let log = server.log("CRC").await;
    publisher(&log, PublisherConfig::default()).await.publish(event("a")).await.expect("recorded");
    let header = FrameHeader::of(producer_id(), 1, 1, br#"[{"id":"b"}]"#);
    send(&server, &log, &header, r#"[{"id":"c"}]"#).await;

    let stopped = first_stop(&mut continuity(&log), &read_all(&log).await);
    let text = stopped.to_string();
    let producer = header.producer.to_string();
    assert!(text.starts_with("stream CRC: frame 2 ") && text.contains(&producer), "{text}");
    assert_eq!(stopped.code(), "damaged_frame");
}

#[tokio::test]
async fn a_message_that_is_no_frame_stops_too() {
    let server = Server::start().await;
    let log = server.log("FOREIGN").await;
    let client = server.raw_client().await;
    client.publish(log.subject(), Bytes::from_static(b"hello")).await.expect("sent");
    client.flush().await.expect("flushed");
    crate::server::wait_until("it is stored", async || log.state().await.is_ok_and(|s| s.last_seq == 1))
        .await;
    let stopped = first_stop(&mut continuity(&log), &read_all(&log).await);
    assert_eq!(
        stopped.to_string(),
        "stream FOREIGN: frame 1 (id \"\") is damaged: it has no Ledger-Frame header"
    );
}

#[tokio::test]
async fn a_flipped_bit_in_the_last_block_shows_at_the_next_frame() {
    let mut server = Server::start().await;
    let log = server.log("FLIP").await;
    let one = publisher(&log, PublisherConfig::default()).await;
    let two = publisher(&log, PublisherConfig::default()).await;
    for name in ["a", "b", "target", "d"] {
        one.publish(event(name)).await.expect("recorded");
        two.publish(event(&format!("{name}2"))).await.expect("recorded");
    }
    let producer = read_all(&log).await[7].header.clone().expect("whole").producer;
    server.kill();
    flip(&server, "FLIP", b"target");
    server.launch().await;

    // The server drops the rest of the block without a word and uses its sequences again.
    assert_eq!(two.publish(event("next")).await, Err(PublishError::LogWentBackwards));
    let frames = read_all(&log).await;
    let mut continuity = continuity(&log);
    let stopped = first_stop(&mut continuity, &frames);
    let text = format!(
        "stream FLIP: frames are missing before frame 5: producer {producer} goes on with frame 5 instead of 3"
    );
    assert_eq!(stopped.to_string(), text);
    assert_eq!(applied_before(&continuity, &frames), ["a", "a2", "b", "b2"], "nothing wrong is applied");
    go_on(&mut continuity, &stopped, &frames);
}

#[tokio::test]
async fn a_flipped_bit_in_an_older_block_shows_as_a_missing_range() {
    let mut server = Server::start().await;
    let log = server.log("OLDER").await;
    let one = publisher(&log, PublisherConfig::default()).await;
    let two = publisher(&log, PublisherConfig::default()).await;
    one.publish(event("a")).await.expect("recorded");
    two.publish(event("target")).await.expect("recorded");
    // Far more than one block file holds.
    for _ in 0..40 {
        one.publish_all((0..30).map(|_| large_event(MAX_EVENT_BYTES)).collect()).await.expect("recorded");
    }
    two.publish(event("z")).await.expect("recorded");
    let producers: Vec<_> =
        read_all(&log).await[..2].iter().map(|frame| frame.header.clone().expect("whole").producer).collect();
    server.kill();
    flip(&server, "OLDER", b"target");
    server.launch().await;

    let frames = read_all(&log).await;
    let mut continuity = continuity(&log);
    let stopped = first_stop(&mut continuity, &frames);
    let Stop::MissingFrames { seq_from: 2, seq_to, ref jumps, .. } = stopped else { panic!("{stopped}") };
    assert!(seq_to >= 2, "{stopped}");
    let jumping: Vec<_> = jumps.iter().map(|jump| jump.producer).collect();
    assert!(jumping.contains(&producers[1]), "{stopped} does not name the producer of the lost frame");
    assert_eq!(applied_before(&continuity, &frames), ["a"], "nothing wrong is applied");
    go_on(&mut continuity, &stopped, &frames);
}

#[tokio::test]
async fn a_truncated_block_file_shows_at_start() {
    let mut server = Server::start().await;
    let log = server.log("CUT").await;
    let publisher = publisher(&log, PublisherConfig::default()).await;
    for name in ["a", "b", "c"] {
        publisher.publish(event(name)).await.expect("recorded");
    }
    let checkpoint = checkpoint_at(&log, 3).await;
    server.kill();
    let block = server.blocks("CUT").join("1.blk");
    let file = fs::File::options().write(true).open(&block).expect("the block file");
    file.set_len(file.metadata().expect("its size").len() - 20).expect("cutting it");
    forget_index(&server, "CUT");
    server.launch().await;

    let state = log.state().await.expect("the stream's state");
    let id = log.frame_id_at(3).await.expect("readable");
    let stopped = check_start(&checkpoint, &state, id.as_deref(), &[]).expect_err("the tail is gone");
    assert!(matches!(stopped, Stop::StreamTruncated { checkpoint: 3, last_seq: 2, .. }), "{stopped}");
}

#[tokio::test]
async fn a_stream_deleted_and_made_anew_shows_at_start() {
    let server = Server::start().await;
    let log = server.log("ANEW").await;
    publisher(&log, PublisherConfig::default()).await.publish(event("a")).await.expect("recorded");
    let checkpoint = checkpoint_at(&log, 1).await;
    let jetstream = async_nats::jetstream::new(server.raw_client().await);
    jetstream.delete_stream("ANEW").await.expect("deleting the stream");
    assert!(matches!(log.state().await, Err(nats::LogError::NoStream { .. })));
    log.ensure_stream(1).await.expect("making the stream");
    let state = log.state().await.expect("the stream's state");
    let stopped = check_start(&checkpoint, &state, None, &[]).expect_err("another stream");
    assert!(matches!(stopped, Stop::StreamReplaced { .. }), "{stopped}");
}

#[tokio::test]
async fn a_lost_end_shows_while_nothing_new_comes() {
    let server = Server::start().await;
    // A stream that lets messages be deleted stands for a server that lost them.
    let log = nats::connect(&server.connection("END")).await.expect("connecting");
    let jetstream = async_nats::jetstream::new(server.raw_client().await);
    let config = async_nats::jetstream::stream::Config {
        name: "END".to_owned(),
        subjects: vec![log.subject()],
        ..Default::default()
    };
    let stream = jetstream.create_stream(config).await.expect("making the stream");
    let publisher = publisher(&log, PublisherConfig::default()).await;
    for name in ["a", "b", "c"] {
        publisher.publish(event(name)).await.expect("recorded");
    }
    stream.delete_message(3).await.expect("deleting the last");

    let mut continuity = continuity(&log);
    let config = ReaderConfig { idle: Duration::from_millis(200), ..ReaderConfig::default() };
    let mut reader = Reader::open(&log, 1, config);
    let stopped = loop {
        let before = log.state().await.expect("the stream's state");
        let batch = reader.next_batch(100).await.expect("no failure");
        if batch.is_empty() {
            break continuity.check_tail(before.last_seq).expect_err("frame 3 is gone");
        }
        assert!(batch.iter().all(|frame| matches!(continuity.check(frame), Verdict::Apply(_))));
    };
    assert_eq!(stopped.to_string(), "stream END: frame 3 is missing");
}

/// Flips one bit of `text` in the stream's first block file.
fn flip(server: &Server, stream: &str, text: &[u8]) {
    let block = server.blocks(stream).join("1.blk");
    let mut bytes = fs::read(&block).expect("the block file");
    let at = bytes.windows(text.len()).position(|window| window == text).expect("the text in the block");
    bytes[at] ^= 1;
    fs::write(&block, bytes).expect("writing the block file");
    forget_index(server, stream);
}

fn applied_before(continuity: &Continuity, frames: &[RawFrame]) -> Vec<String> {
    frames.iter().filter(|frame| frame.seq <= continuity.last_seq()).flat_map(names).collect()
}

/// Accepts what stopped, and expects all the rest to pass.
fn go_on(continuity: &mut Continuity, stopped: &Stop, frames: &[RawFrame]) {
    continuity.set_accepted(vec![stopped.acceptable().expect("acceptable")]);
    let from = continuity.last_seq();
    for frame in frames.iter().filter(|frame| frame.seq > from) {
        let verdict = continuity.check(frame);
        assert!(matches!(verdict, Verdict::Apply(_)), "{verdict:?}");
    }
}

/// A server that was killed may have had no time to write its index of the block files.
fn forget_index(server: &Server, stream: &str) {
    if let Err(error) = fs::remove_file(server.blocks(stream).join("index.db")) {
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
    }
}

async fn checkpoint_at(log: &Log, seq: u64) -> Checkpoint {
    let state = log.state().await.expect("the stream's state");
    let frame_id = log.frame_id_at(seq).await.expect("readable").expect("there");
    let checkpoint = Checkpoint { seq, frame_id, stream_created: Some(state.created) };
    assert_eq!(check_start(&checkpoint, &state, Some(&checkpoint.frame_id), &[]), Ok(()));
    checkpoint
}

fn first_stop(continuity: &mut Continuity, frames: &[RawFrame]) -> Stop {
    for (at, frame) in frames.iter().enumerate() {
        if let Verdict::Stop(stop) = continuity.check(frame) {
            return continuity.name_jumps(stop, &frames[at..]);
        }
    }
    panic!("the log passes as whole: {frames:?}");
}

/// Publishes a body under a header that need not belong to it.
async fn send(server: &Server, log: &Log, header: &FrameHeader, body: &'static str) {
    let jetstream = async_nats::jetstream::new(server.raw_client().await);
    let sent = jetstream.publish_with_headers(log.subject(), header.to_headers(), body.into()).await;
    sent.expect("sent").await.expect("recorded");
}
