//! Whole files: what comes of them, under which ids, plain and packed.

use std::io::Write as _;

use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

use super::*;
use crate::import::Input;

const ZSTD_LEVEL: i32 = 3;

fn manner(format: Format, user_from: UserFrom) -> Manner {
    Manner { format, user_from, skip_prefix: None, take_last_line: false }
}

fn combined() -> Manner {
    manner(Format::AccessLog(Layout::Combined), UserFrom::Ip)
}

/// All that a file gives, in one batch.
fn batch_of(content: &[u8], manner: &Manner) -> io::Result<Batch> {
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(content)?;
    let mut input = Input::open(file.path()).map_err(io::Error::other)?;
    let mut all = Batch::default();
    let mut batches = start(input.pass(), manner.clone());
    while let Some(batch) = batches.blocking_recv() {
        let batch = batch?;
        all.calls.extend(batch.calls);
        all.skipped.extend(batch.skipped);
        (all.unended, all.bytes) = (batch.unended, batch.bytes);
    }
    Ok(all)
}

/// Line, id and call of every call, the skipped lines, and the last one without an end.
type Yield = (Vec<(u64, String, Call)>, Vec<Skipped>, Option<u64>);

fn yielded(batch: &Batch) -> Yield {
    let calls = batch.calls.iter().map(|read| (read.line, read.id.clone(), read.call.clone())).collect();
    (calls, batch.skipped.clone(), batch.unended)
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(content).unwrap();
    packed.finish().unwrap()
}

fn zstd(content: &[u8]) -> Vec<u8> {
    zstd::encode_all(content, ZSTD_LEVEL).unwrap()
}

/// The sum of the ids that the example's lines had when this was the only form of a line: whoever imported a file then
/// must not count it twice.
#[test]
fn ids_of_lines_stay_what_they_were() {
    let example = include_bytes!("../../../../examples/access.log");
    let batch = batch_of(example, &combined()).unwrap();
    let ids: Vec<&str> = batch.calls.iter().map(|read| read.id.as_str()).collect();
    assert_eq!(ids.len(), 115);
    assert_eq!(ids[0], FIRST_ID);
    assert_eq!(hex::encode(Sha256::digest(ids.join("\n"))), ALL_IDS);
}

const FIRST_ID: &str = "7f6ec5ae47101300c5497977cd9485622e08dfb675e4a7bdca564720ff484459-1";
const ALL_IDS: &str = "40b6042eec13486f52c639c5b3f41773c709705a955cc235bd7edf355c576739";

const CUT: &[u8] = br#"192.0.2.61 - - [30/Nov/2026:06:00:01 +0000] "GET /api/analyze HTTP/1.1" 200 8 "-" "node" "198.51.100.9"
192.0.2.61 - - [30/Nov/2026:06:00:02 +0000] "GET /api/analyze HTTP/1.1" 200 8 "-" "node" "198.51"#;

#[test]
fn a_last_line_without_an_end_is_left_and_taken_whole_later() {
    let live = batch_of(CUT, &combined()).unwrap();
    assert_eq!((live.calls.len(), live.skipped.len(), live.unended), (1, 0, Some(2)));
    let full = batch_of(&[CUT, b".100.9\"\n"].concat(), &combined()).unwrap();
    assert_eq!((full.calls.len(), full.unended), (2, None));
    assert_eq!(full.calls[0].id, live.calls[0].id);
    let taken = Manner { take_last_line: true, ..combined() };
    let taken = batch_of(CUT, &taken).unwrap();
    assert_eq!((taken.calls.len(), taken.unended), (2, None));
    assert_ne!(taken.calls[1].id, full.calls[1].id);
}

#[test]
fn the_cases_charge_whom_they_should() {
    let json = |map: &str, user_from| manner(Format::Json(map.parse().unwrap()), user_from);
    let users = |content: &[u8], manner: &Manner| -> Vec<String> {
        let batch = batch_of(content, manner).unwrap();
        let mut users: Vec<(u64, String)> = batch
            .calls
            .iter()
            .map(|read| match &read.call.user {
                ledger::UserRef::External(external) => (read.line, external.as_str().to_owned()),
                ledger::UserRef::Id(id) => (read.line, id.to_string()),
            })
            .chain(batch.skipped.iter().map(|skipped| (skipped.line, "-".to_owned())))
            .collect();
        users.sort();
        users.into_iter().map(|(_, user)| user).collect()
    };
    let line = |prefix: &str| {
        format!("{prefix} [30/Nov/2026:06:00:01 +0000] \"GET /api/analyze HTTP/1.1\" 200 8 \"-\" \"node\"\n")
    };
    let mapped = [line("::ffff:192.0.2.10 - -"), line("192.0.2.10 - -")].concat();
    assert_eq!(users(mapped.as_bytes(), &combined()), ["192.0.2.10"; 2]);
    let listed = [line("192.0.2.44, 198.51.100.54, 127.0.0.1 - -"), line("- - -")].concat();
    assert_eq!(users(listed.as_bytes(), &combined()), ["-"; 2]);
    let morgan = br#"{"time":"2026-11-30T06:00:40.477Z","url":"/api/analyze","status":"200","rt":"16.260","ip":"::ffff:192.0.2.10","user":"cust-1"}
{"time":"2026-11-30T06:00:40.498Z","url":"/api/analyze","status":"200","rt":"0.859","ip":"192.0.2.10","user":"cust-1"}
{"time":"2026-11-30T06:00:40.598Z","url":"/api/analyze","status":200,"len":null,"rt":11.920731000000046,"ip":"192.0.2.10","user":"cust-1"}
"#;
    let map = "endpoint=url,status_code=status,response_time_ms=rt,ip_address=ip,response_size=len";
    assert_eq!(users(morgan, &json(map, UserFrom::Field)), ["cust-1"; 3]);
    assert_eq!(users(morgan, &json(map, UserFrom::Ip)), ["192.0.2.10"; 3]);
    let bad_utf8 = b"{\"time\":\"2026-11-30T08:29:38+00:00\",\"uri\":\"/api/analyze?n=1\",\"ua\":\"agent/\xff1\",\"key\":\"cust-9\"}\n";
    let map = "endpoint=uri,user=key,user_agent=ua";
    assert_eq!(users(bad_utf8, &json(map, UserFrom::Field)), ["cust-9"]);
}

#[test]
fn packed_files_are_read_by_their_content_and_every_member_of_them() {
    let plain = include_bytes!("../../../../examples/access.log");
    let expected = yielded(&batch_of(plain, &combined()).unwrap());
    let (head, tail) = plain.split_at(plain.len() / 2);
    for packed in [
        gzip(plain),
        zstd(plain),
        [gzip(head), gzip(tail)].concat(),
        [zstd(head), zstd(tail)].concat(),
        [b"\x50\x2a\x4d\x18\x04\0\0\0abcd".to_vec(), zstd(plain)].concat(),
    ] {
        let batch = batch_of(&packed, &combined()).unwrap();
        assert_eq!(yielded(&batch), expected);
        assert_eq!(batch.bytes, packed.len() as u64);
    }
}

#[test]
fn what_is_packed_badly_is_told() {
    let packed = gzip(&include_bytes!("../../../../examples/access.log").repeat(40));
    let says = |content: &[u8]| batch_of(content, &combined()).unwrap_err();
    let cut = says(&packed[..packed.len() / 2]).to_string();
    assert!(cut.contains("damaged or cut short"), "{cut}");
    for (content, expected) in [
        (gzip(&gzip(b"x")), "packed twice"),
        (gzip(b"PK\x03\x04"), "unpacked, it is a zip archive"),
        (b"PK\x03\x04".to_vec(), "it is a zip archive, not a log of lines: unpack it first"),
    ] {
        let said = format!("{:#}", anyhow::Error::from(says(&content)));
        assert!(said.contains(expected), "{said}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_lines_reading_is_the_same_however_it_is_packed(
        lines in proptest::collection::vec(prop_oneof![
            Just(CUT.split(|byte| *byte == b'\n').next().unwrap().to_vec()),
            Just(b"{\"user\":\"a\",\"time\":1,\"endpoint\":\"/\"}".to_vec()),
            proptest::collection::vec(1_u8.., 0..40),
        ], 0..20),
        at in 0_usize..400,
    ) {
        // Two letters in front, so that nothing looks like a file of another kind.
        let content = [b"# \n".to_vec(), lines.join(&b"\n"[..])].concat();
        let (head, tail) = content.split_at(at.min(content.len()));
        for manner in [combined(), manner(Format::Json(Mapping::default()), UserFrom::Field)] {
            let expected = yielded(&batch_of(&content, &manner).unwrap());
            for packed in [[gzip(head), gzip(tail)].concat(), [zstd(head), zstd(tail)].concat()] {
                prop_assert_eq!(&yielded(&batch_of(&packed, &manner).unwrap()), &expected);
            }
        }
    }
}
