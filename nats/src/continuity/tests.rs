//! Tests of continuity, with a log in memory.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

fn producer(id: u8) -> Uuid {
    Uuid::from_u128(u128::from(id))
}

fn frame(seq: u64, id: u8, n: u64, body: &str) -> RawFrame {
    let header = FrameHeader::of(producer(id), n, 1, body.as_bytes());
    let body = Bytes::copy_from_slice(body.as_bytes());
    RawFrame { seq, time: DateTime::UNIX_EPOCH, msg_id: header.msg_id(), header: Ok(header), body }
}

fn damaged(seq: u64, id: u8, n: u64) -> RawFrame {
    let mut frame = frame(seq, id, n, "[{}]");
    let producer = producer(id);
    frame.header = Err(Damage::Checksum { producer, n, expected: 1, found: 2 });
    frame
}

fn gap(seqs: RangeInclusive<u64>, kind: GapKind) -> AcceptedGap {
    AcceptedGap { seqs, kind }
}

fn fresh(accepted: Vec<AcceptedGap>) -> Continuity {
    Continuity::new(StreamName::default(), 0, HashMap::new(), accepted)
}

/// Checks all frames and gives the last verdict.
fn run(continuity: &mut Continuity, frames: &[RawFrame]) -> Verdict {
    let verdicts = frames.iter().map(|frame| continuity.check(frame));
    verdicts.last().unwrap_or(Verdict::SkipAccepted)
}

fn stop(verdict: Verdict) -> Stop {
    match verdict {
        Verdict::Stop(stop) => stop,
        other => panic!("did not stop: {other:?}"),
    }
}

#[test]
fn a_missing_range_is_named_with_the_producers_that_jump() {
    let mut log = fresh(vec![]);
    let before = [frame(1, 1, 1, "a"), frame(2, 2, 1, "b")];
    assert!(matches!(run(&mut log, &before), Verdict::Apply(_)));
    let after = [frame(5, 1, 3, "c"), frame(6, 2, 2, "d"), frame(7, 3, 1, "e")];
    let stopped = stop(log.check(&after[0]));
    let (one, text) = (producer(1), stopped.to_string());
    assert_eq!(
        text,
        format!("stream LEDGER: frames 3..4 are missing; producer {one} goes on with frame 3 instead of 2")
    );
    assert_eq!(log.last_seq(), 2, "a stop moves nothing");
    // The producer that goes on unbroken and the new one are not blamed, the second that jumps is.
    let more = [frame(5, 1, 2, "c"), frame(6, 2, 4, "d"), frame(7, 3, 1, "e")];
    let text = log.name_jumps(stopped, &more).to_string();
    let two = producer(2);
    assert!(text.ends_with(&format!("missing; producer {two} goes on with frame 4 instead of 2")), "{text}");
}

#[test]
fn an_accepted_range_is_passed_and_not_one_frame_more() {
    let frames = [frame(1, 1, 1, "a"), frame(5, 1, 4, "b")];
    let of = |accepted| {
        let mut log = fresh(accepted);
        run(&mut log, &frames)
    };
    assert!(matches!(of(vec![gap(2..=4, GapKind::Missing)]), Verdict::Apply(_)));
    assert!(matches!(
        of(vec![gap(2..=2, GapKind::Missing), gap(3..=4, GapKind::Damaged)]),
        Verdict::Apply(_)
    ));
    for (accepted, missing) in [(2..=3, (4, 4)), (3..=4, (2, 2)), (3..=3, (2, 4))] {
        match stop(of(vec![gap(accepted, GapKind::Missing)])) {
            Stop::MissingFrames { seq_from, seq_to, .. } => assert_eq!((seq_from, seq_to), missing),
            other => panic!("{other}"),
        }
    }
    // Frames that a truncation cost are not simply passed: their sequences are used again.
    assert!(matches!(stop(of(vec![gap(2..=4, GapKind::Truncated)])), Stop::MissingFrames { .. }));
}

#[test]
fn a_producer_may_jump_by_what_was_accepted_and_no_further() {
    let accepted = vec![gap(2..=3, GapKind::Missing), gap(3..=3, GapKind::Damaged)];
    for (n, applied) in [(2, true), (4, true), (5, false)] {
        let mut log = fresh(accepted.clone());
        let verdict = run(&mut log, &[frame(1, 1, 1, "a"), frame(4, 1, n, "b")]);
        assert_eq!(matches!(verdict, Verdict::Apply(_)), applied, "n = {n}: {verdict:?}");
    }
    // A gap before the producer's last frame excuses nothing.
    let mut log = fresh(accepted);
    let verdict = run(&mut log, &[frame(1, 2, 1, "a"), frame(4, 1, 1, "b"), frame(5, 1, 3, "c")]);
    assert!(matches!(stop(verdict), Stop::ProducerGap { seq: 5, .. }));
}

#[test]
fn a_first_frame_that_is_not_the_first_is_a_gap() {
    let stopped = stop(fresh(vec![]).check(&frame(1, 1, 2, "a")));
    let text = format!(
        "stream LEDGER: frames are missing before frame 1: producer {} goes on with frame 2 instead of 1",
        producer(1)
    );
    assert_eq!(stopped.to_string(), text);
    // The operator may accept that very frame.
    let accepted = stopped.acceptable().expect("acceptable");
    assert!(matches!(fresh(vec![accepted]).check(&frame(1, 1, 2, "a")), Verdict::Apply(_)));
}

#[test]
fn only_the_last_frame_of_a_producer_may_come_again() {
    let base = [frame(1, 1, 1, "a"), frame(2, 1, 2, "b")];
    let of = |again: RawFrame| {
        let mut log = fresh(vec![]);
        run(&mut log, &base);
        log.check(&again)
    };
    assert_eq!(of(frame(3, 1, 2, "b")), Verdict::SkipDuplicate);
    for again in [frame(3, 1, 2, "other"), frame(3, 1, 1, "a")] {
        let text = stop(of(again)).to_string();
        assert!(text.contains("frame 3 is frame") && text.contains(&producer(1).to_string()), "{text}");
    }
}

#[test]
fn a_damaged_frame_stops_until_it_is_accepted() {
    let mut log = fresh(vec![]);
    log.check(&frame(1, 1, 1, "a"));
    let stopped = stop(log.check(&damaged(2, 1, 2)));
    let text = stopped.to_string();
    assert!(text.starts_with("stream LEDGER: frame 2 (id "), "{text}");
    assert!(text.contains(&format!("producer {} sent frame 2", producer(1))), "{text}");
    log.set_accepted(vec![stopped.acceptable().expect("acceptable")]);
    assert_eq!(log.check(&damaged(2, 1, 2)), Verdict::SkipAccepted);
    assert!(matches!(log.check(&frame(3, 1, 3, "c")), Verdict::Apply(_)), "the counter jumps across it");
}

#[test]
fn a_whole_frame_inside_an_accepted_range_is_applied() {
    let mut log = fresh(vec![gap(1..=3, GapKind::Missing)]);
    assert!(matches!(log.check(&frame(2, 1, 5, "a")), Verdict::Apply(_)));
    assert!(matches!(log.check(&frame(4, 1, 6, "b")), Verdict::Apply(_)));
}

#[test]
fn a_lost_end_shows_although_nothing_comes_after_it() {
    let mut log = fresh(vec![]);
    log.check(&frame(1, 1, 1, "a"));
    assert_eq!(log.check_tail(1), Ok(false));
    let stopped = log.check_tail(3).expect_err("two frames are missing");
    assert_eq!(stopped.to_string(), "stream LEDGER: frames 2..3 are missing");
    log.set_accepted(vec![stopped.acceptable().expect("acceptable")]);
    assert_eq!(log.check_tail(3), Ok(true));
    assert_eq!(log.last_seq(), 3);
}

#[test]
fn a_checkpoint_is_compared_with_the_stream() {
    let created = DateTime::UNIX_EPOCH;
    let state = |last_seq| StreamState {
        stream: StreamName::default(),
        created,
        first_seq: 1,
        last_seq,
        frames: last_seq,
        bytes: 0,
    };
    let checkpoint =
        Checkpoint { seq: 5, frame_id: "p-5".to_owned(), stream_created: Some(DateTime::UNIX_EPOCH) };
    let check = |state, id, accepted: &[AcceptedGap]| check_start(&checkpoint, &state, id, accepted);
    assert_eq!(check(state(5), Some("p-5"), &[]), Ok(()));
    assert_eq!(check(state(9), Some("p-5"), &[]), Ok(()));

    let truncated = check(state(3), None, &[]).expect_err("truncated");
    assert_eq!(truncated.acceptable(), Some(gap(4..=5, GapKind::Truncated)));
    let text = truncated.to_string();
    assert!(text.contains("ends at 3, but frames up to 5") && text.contains("4..5 was lost"), "{text}");

    let other = check(state(9), Some("q-1"), &[]).expect_err("another frame");
    assert!(matches!(other, Stop::OtherFrame { seq: 5, .. }), "{other}");
    assert!(matches!(check(state(9), None, &[]), Err(Stop::MissingFrames { seq_from: 5, seq_to: 5, .. })));
    assert_eq!(check(state(9), None, &[gap(5..=5, GapKind::Missing)]), Ok(()));

    let newer = StreamState { created: DateTime::from_timestamp_nanos(1), ..state(9) };
    let replaced = check(newer.clone(), Some("p-5"), &[]).expect_err("replaced");
    assert_eq!((replaced.code(), replaced.acceptable()), ("stream_replaced", None));

    let at_start = Checkpoint { seq: 0, frame_id: String::new(), stream_created: None };
    assert_eq!(check_start(&at_start, &newer, None, &[]), Ok(()));
}

/// Interleaved producers that start, retry their last frame and end, as a healthy log has them.
fn healthy_log() -> impl Strategy<Value = Vec<RawFrame>> {
    proptest::collection::vec((0_u8..4, 0_u8..8), 0..60).prop_map(|steps| {
        let mut producers: HashMap<u8, (u8, u64)> = HashMap::new();
        let mut next_id = 4;
        let mut frames = Vec::new();
        for (slot, action) in steps {
            let seq = frames.len() as u64 + 1;
            let (id, n) = producers.entry(slot).or_insert((slot, 0));
            match action {
                0 if *n > 0 => {}                                    // A retry: the same frame again.
                1 => (*id, *n, next_id) = (next_id, 1, next_id + 1), // The producer ends, another begins.
                _ => *n += 1,
            }
            frames.push(frame(seq, *id, *n, &format!("{id}/{n}")));
        }
        frames
    })
}

/// Sequences of the frames that a reader of `frames` applies; where it stops, what it says is accepted.
fn read_accepting(frames: &[RawFrame]) -> (Vec<u64>, Vec<AcceptedGap>) {
    let (mut log, mut accepted, mut applied) = (fresh(vec![]), Vec::new(), Vec::new());
    for frame in frames {
        let verdict = loop {
            match log.check(frame) {
                Verdict::Stop(stop) => {
                    let gap = stop.acceptable().unwrap_or_else(|| panic!("no way on from {stop}"));
                    assert!(!accepted.contains(&gap), "accepting {gap:?} did not help: {stop}");
                    accepted.push(gap);
                    log.set_accepted(accepted.clone());
                }
                verdict => break verdict,
            }
        };
        if matches!(verdict, Verdict::Apply(_)) {
            applied.push(frame.seq);
        }
    }
    (applied, accepted)
}

proptest! {
    #[test]
    fn a_healthy_log_never_stops_and_applies_every_frame_once(frames in healthy_log()) {
        let (applied, accepted) = read_accepting(&frames);
        prop_assert_eq!(accepted, vec![]);
        let ids: std::collections::HashSet<&str> = frames.iter().map(|frame| frame.msg_id.as_str()).collect();
        prop_assert_eq!(applied.len(), ids.len());
    }

    #[test]
    fn a_lost_frame_always_stops_and_accepting_goes_on_exactly_there(
        frames in healthy_log(),
        lost in proptest::collection::hash_set(1_u64..60, 1..6),
    ) {
        let is_lost = |frame: &RawFrame| lost.contains(&frame.seq);
        let kept: Vec<RawFrame> = frames.iter().filter(|frame| !is_lost(frame)).cloned().collect();
        let (applied, accepted) = read_accepting(&kept);
        let last = kept.last().map_or(0, |frame| frame.seq);
        let missing: Vec<u64> = frames.iter().filter(|f| is_lost(f) && f.seq < last).map(|f| f.seq).collect();
        let mut named: Vec<u64> = accepted.iter().flat_map(|gap| gap.seqs.clone()).collect();
        named.sort_unstable();
        prop_assert_eq!(named, missing, "exactly the missing frames are named");
        let ids: std::collections::HashSet<&str> = kept.iter().map(|frame| frame.msg_id.as_str()).collect();
        prop_assert_eq!(applied.len(), ids.len(), "what is there is applied once");
    }

    /// Sequences that were lost and used again look unbroken; the counters tell.
    #[test]
    fn a_lost_frame_whose_sequence_was_used_again_stops_at_the_producers_next(
        frames in healthy_log(),
        lost in 1_u64..60,
    ) {
        let mut kept: Vec<RawFrame> = frames.iter().filter(|frame| frame.seq != lost).cloned().collect();
        for (frame, seq) in kept.iter_mut().zip(1..) {
            frame.seq = seq;
        }
        let gone = frames.iter().find(|frame| frame.seq == lost);
        let id = |frame: &RawFrame| frame.header.clone().map(|header| (header.producer, header.n)).ok();
        let has_later = gone.and_then(id).is_some_and(|(producer, n)| {
            let retried = kept.iter().any(|frame| id(frame) == Some((producer, n)));
            !retried && kept.iter().any(|frame| id(frame).is_some_and(|(p, later)| p == producer && later > n))
        });
        let mut log = fresh(vec![]);
        let stopped = kept.iter().any(|frame| matches!(log.check(frame), Verdict::Stop(Stop::ProducerGap { .. })));
        prop_assert_eq!(stopped, has_later);
    }

    #[test]
    fn any_bit_of_a_body_or_header_that_flips_is_damage(body in "\\[[ -~]{1,80}\\]", bit in 0_usize..4096) {
        let header = FrameHeader::of(producer(1), 7, 3, body.as_bytes());
        let mut bytes = body.clone().into_bytes();
        let at = bit % (bytes.len() * 8);
        bytes[at / 8] ^= 1 << (at % 8);
        let read = FrameHeader::from_message(Some(&header.to_headers()), &bytes);
        let is_damage = matches!(read, Err(Damage::Checksum { .. }));
        prop_assert!(is_damage);
        let mut text = header.to_string().into_bytes();
        let at = bit % (text.len() * 8);
        text[at / 8] ^= 1 << (at % 8);
        if let Ok(text) = String::from_utf8(text) {
            prop_assert!(text.parse::<FrameHeader>().ok() != Some(header));
        }
    }
}
